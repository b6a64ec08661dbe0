//! Multi-Region keys: one key with the same id and material in several Regions of this server (KMS Developer Guide,
//! "Multi-Region keys"). Policy, aliases, grants, tags and state belong to each Region's key alone.

use super::authority::Authorizer;
use super::caller::Caller;
use super::key::{KeyMetadata, Keys, Tags};
use super::keystore::{KeyRecord, KeyState, KeyStore, Origin};
use super::name::{KeyRef, is_region};
use super::policy::{Facts, Key, Policy};
use super::scope::{Place, Scope};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Ledger, Tx};
use std::sync::Arc;

/// The parameters of a replica.
#[derive(Debug, Clone, Copy)]
pub struct NewReplica<'a> {
    /// Its Region.
    pub region: &'a str,
    /// Free text.
    pub description: &'a str,
    /// Its policy; none: AWS's default.
    pub policy: Option<&'a str>,
    /// As for a new key.
    pub bypass_lockout_check: bool,
    /// Its tags.
    pub tags: &'a Tags,
}

/// The Regions of keys.
pub struct Replicas {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    authorizer: Arc<Authorizer>,
    keys: Arc<Keys>,
}

impl Replicas {
    /// Of these keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        authorizer: Arc<Authorizer>,
        keys: Arc<Keys>,
    ) -> Self {
        Self { env, scope, ledger, store, authorizer, keys }
    }

    /// A primary key that can be replicated.
    fn primary(&self, key: &KeyRef, verb: &str, facts: &Facts, caller: &Caller) -> Result<KeyRecord> {
        let record = self.store.find(key)?.record;
        let arn = self.scope.arn_of(&record.key());
        self.keys.may_change(&record, verb, &key.facts().and(facts), caller)?;
        let region = &self.scope.place(record.place.as_ref()).region;
        if record.primary.as_ref() != Some(region) {
            let what = format!("{verb}: key {arn} is not a multi-Region primary key");
            return Err(Error::new(Kind::Unsupported, what).hint("create a key with MultiRegion"));
        }
        self.keys.check_usable(&record, verb)?;
        Ok(record)
    }

    fn elsewhere(&self, key: &KeyRecord, region: &str, verb: &str) -> Result<Option<Place>> {
        let here = self.scope.place(key.place.as_ref());
        if !is_region(region) || *region == here.region {
            let what = format!("{verb}: {region:?} is not the name of another Region than {}", here.region);
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(self.scope.kept(Place { account: here.account.clone(), region: region.to_owned() }))
    }

    /// Gives a multi-Region key a replica in another Region: the same id and material. Imported material is not copied.
    ///
    /// # Errors
    /// [`Kind::Exists`] for a Region that has one; [`Kind::Unsupported`] for a key that is no primary key; [`Kind::Usage`]
    /// for a bad Region; as [`Keys::create_with`].
    pub fn replicate(&self, key: &KeyRef, new: &NewReplica<'_>, caller: &Caller) -> Result<KeyMetadata> {
        let verb = "ReplicateKey";
        super::tags::check("a key", new.tags)?;
        super::key::check_description(new.description)?;
        let name = self.store.resolve(key)?;
        let act = Act::new("kms:ReplicateKey").key(self.scope.arn_of(&name)).detail("region", new.region);
        let made = self.ledger.audited(caller, act, |tx| {
            let facts = Facts::new()
                .text(Key::ReplicaRegion, new.region)
                .flag(Key::BypassPolicyLockoutSafetyCheck, new.bypass_lockout_check)
                .request_tags(new.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let primary = self.primary(key, verb, &facts, caller)?;
            // What a new key needs, too (KMS API Reference, ReplicateKey): in its own Region.
            let there = facts.text(Key::RequestedRegion, new.region);
            self.authorizer.ask_own_about("CreateKey", "*", &there, caller)?;
            if !new.tags.is_empty() {
                self.authorizer.ask_own_about("TagResource", "*", &there, caller)?;
            }
            let place = self.elsewhere(&primary, new.region, verb)?;
            let imported = primary.origin == Origin::External;
            let mut replica = KeyRecord {
                place,
                state: if imported { KeyState::PendingImport } else { KeyState::Enabled },
                description: new.description.to_owned(),
                created: self.env.now(),
                deletion: None,
                policy: None,
                tags: new.tags.clone(),
                rotation: None,
                wait_days: None,
                backing: if imported { Vec::new() } else { primary.backing.clone() },
                ..primary
            };
            if let Some(document) = new.policy {
                let (policy, arn) = (Policy::parse(document)?, self.scope.arn_of(&replica.key()));
                policy.check(&arn)?;
                if !new.bypass_lockout_check {
                    self.authorizer.check_lockout(&policy, &replica, caller)?;
                }
                replica.policy = Some(document.to_owned());
            }
            tx.insert(&replica).map_err(|e| match e.kind() {
                Kind::Exists => {
                    Error::new(Kind::Exists, format!("{verb}: Region {} has a replica of {}", new.region, replica.id))
                }
                _ => e,
            })?;
            Ok(replica)
        })?;
        self.keys.metadata(&made)
    }

    /// Makes the replica in another Region the primary key, and the primary key a replica.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if that Region has no replica; as [`Replicas::replicate`].
    pub fn update_primary(&self, key: &KeyRef, region: &str, caller: &Caller) -> Result<()> {
        let verb = "UpdatePrimaryRegion";
        let name = self.store.resolve(key)?;
        let act = Act::new("kms:UpdatePrimaryRegion").key(self.scope.arn_of(&name)).detail("region", region);
        self.ledger.audited(caller, act, |tx: &mut Tx<'_>| {
            let facts = Facts::new().text(Key::PrimaryRegion, region);
            let primary = self.primary(key, verb, &facts, caller)?;
            let place = self.elsewhere(&primary, region, verb)?;
            let all = self.store.keys_of(name.id)?;
            let Some(new) = all.iter().find(|k| k.record.place == place) else {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("{verb}: Region {region} has no replica of {}", name.id),
                ));
            };
            self.keys.may_change(&new.record, verb, &facts, caller)?;
            self.keys.check_usable(&new.record, verb)?;
            // Its rotation moves with it.
            let rotation = primary.rotation;
            for mut key in all {
                let is_new = key.record.place == place;
                key.record.rotation = rotation.clone().filter(|_| is_new);
                key.record.primary = Some(region.to_owned());
                tx.update(&key.record, key.version)?;
            }
            Ok(())
        })
    }
}
