//! KMS keys: record, state machine, backing keys (versions), and the operations that manage them.
//! States and errors follow the KMS Developer Guide, "Key states of AWS KMS keys":
//!
//! | verb | Enabled | Disabled | PendingDeletion |
//! |---|---|---|---|
//! | Encrypt, Decrypt, GenerateDataKey, ReEncrypt, RotateKeyOnDemand, CreateGrant | ok | DisabledException | KMSInvalidStateException |
//! | EnableKey, DisableKey, ScheduleKeyDeletion, CreateAlias, UpdateAlias, UpdateKeyDescription | ok | ok | KMSInvalidStateException |
//! | CancelKeyDeletion | KMSInvalidStateException | KMSInvalidStateException | ok, to Disabled |
//! | DescribeKey, DeleteAlias, GetKeyPolicy, PutKeyPolicy, ListGrants, RetireGrant, RevokeGrant | ok | ok | ok |
//! A key whose record is damaged, or whose material cannot be unsealed, is *Unavailable*: it is listed but cannot be used;
//! other keys are not affected.

use super::alias::NewAlias;
use super::authority::Authorizer;
use super::backing::BackingKeys;
use super::caller::{Caller, Wanted};
use super::keystore::{
    AliasRecord, BackingRecord, KeyManager, KeyRecord, KeyState, KeyStore, Origin, RotationType, invalid_state,
};
use super::name::{EBS_ALIAS, KeyRef};
use super::policy::{Facts, Key, Policy};
use super::scope::{KeyName, Place, Scope};
use super::waiting::Deletions;
use crate::cipher::keys::{KeySpec, KeyUsage};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Damaged, Ledger, Tx, Versioned};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Milliseconds in a day.
const DAY: i64 = 24 * 60 * 60 * 1000;
/// The longest description, characters (KMS API Reference, CreateKey).
pub const MAX_DESCRIPTION: usize = 8192;

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyVersion {
    /// Its material id, hexadecimal, which blobs contain.
    pub key_material_id: String,
    /// When it was created.
    pub created: Timestamp,
    /// Whether it encrypts; older ones only decrypt.
    pub current: bool,
    /// Imported for a rotation that was not requested yet.
    pub pending: bool,
    /// Whether its material is here: imported material can expire, and be deleted.
    pub is_here: bool,
    /// What it replaced the one before it by.
    pub rotation: Option<RotationType>,
    /// When imported material expires.
    pub valid_to: Option<Timestamp>,
    /// What the caller says of imported material.
    pub description: Option<String>,
}

/// The Regions of a multi-Region key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Regions {
    /// The ARN and the Region of the primary key.
    pub primary: (String, String),
    /// Those of its replicas.
    pub replicas: Vec<(String, String)>,
    /// Whether this key is the primary.
    pub is_primary: bool,
}

/// A key's metadata (KMS API Reference, KeyMetadata; times are [`Timestamp`]s, the edges translate).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    /// Its place and id.
    #[serde(skip)]
    pub key: KeyName,
    /// Its id.
    pub key_id: KeyId,
    /// Its ARN.
    pub arn: String,
    /// The account, 12 digits.
    #[serde(rename = "AWSAccountId")]
    pub account: String,
    /// Its description.
    pub description: String,
    /// When it was created.
    pub creation_date: Timestamp,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Its state.
    pub key_state: KeyState,
    /// Who manages it.
    pub key_manager: KeyManager,
    /// As `SYMMETRIC_DEFAULT`.
    pub key_spec: KeySpec,
    /// As `ENCRYPT_DECRYPT`.
    pub key_usage: KeyUsage,
    /// As `AWS_KMS`.
    pub origin: Origin,
    /// When it will be deleted, if it is pending; later if its waiting period has not really passed by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// The waiting period, in days, that starts when the last replica of the key is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_window_in_days: Option<u32>,
    /// When its imported material expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    /// Its versions, oldest first.
    pub versions: Vec<KeyVersion>,
    /// Its Regions, for a multi-Region key.
    #[serde(skip)]
    pub regions: Option<Regions>,
}

/// The parameters of a new key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewKey<'a> {
    /// Description, at most [`MAX_DESCRIPTION`] characters.
    pub description: &'a str,
    /// Its policy document; none: AWS's default.
    pub policy: Option<&'a str>,
    /// Accept a policy under which the caller could no longer change the policy (BypassPolicyLockoutSafetyCheck).
    pub bypass_lockout_check: bool,
    /// An alias for it, `alias/…`.
    pub alias: Option<&'a str>,
    /// What kind of key; none: SYMMETRIC_DEFAULT.
    pub spec: Option<KeySpec>,
    /// What it is for; none: the only usage that AWS assumes for the spec.
    pub usage: Option<KeyUsage>,
    /// Where its material comes from.
    pub origin: Origin,
    /// Whether it can have replicas in other Regions.
    pub multi_region: bool,
    /// Its tags.
    pub tags: Option<&'a Tags>,
}

/// Tags by their names.
pub type Tags = BTreeMap<String, String>;

/// All keys.
#[derive(Debug)]
pub struct KeyListing {
    /// Those that can be read, sorted by id.
    pub keys: Vec<KeyMetadata>,
    /// Those whose record is damaged: Unavailable.
    pub damaged: Vec<Damaged>,
}

/// The keys, as callers see and change them.
pub struct Keys {
    env: Env,
    pub(super) scope: Arc<Scope>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) store: Arc<KeyStore>,
    backing: Arc<BackingKeys>,
    pub(super) authorizer: Arc<Authorizer>,
    deletions: Arc<Deletions>,
}

impl Keys {
    /// Those of a store, with these backing keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        backing: Arc<BackingKeys>,
        authorizer: Arc<Authorizer>,
        deletions: Arc<Deletions>,
    ) -> Self {
        Self { env, scope, ledger, store, backing, authorizer, deletions }
    }

    pub(super) fn metadata(&self, key: &KeyRecord) -> Result<KeyMetadata> {
        let state = if self.ledger.audit_trouble().is_some() { KeyState::Unavailable } else { self.state_of(key) };
        let place = self.scope.place(key.place.as_ref());
        let (now, current) = (self.env.now(), key.current().map(|b| b.material));
        let version = |b: &BackingRecord| KeyVersion {
            key_material_id: b.material.to_string(),
            created: b.created,
            current: Some(b.material) == current && !b.pending,
            pending: b.pending,
            is_here: b.is_here(now),
            rotation: b.rotation,
            valid_to: b.expires,
            description: b.description.clone(),
        };
        Ok(KeyMetadata {
            key: key.key(),
            key_id: key.id,
            arn: place.key_arn(key.id),
            account: place.account.clone(),
            description: key.description.clone(),
            creation_date: key.created,
            enabled: state == KeyState::Enabled,
            key_state: state,
            key_manager: key.manager,
            key_spec: key.spec,
            key_usage: key.usage,
            origin: key.origin,
            deletion_date: key.deletion,
            pending_window_in_days: key.wait_days.filter(|_| key.deletion.is_none()),
            valid_to: key.backing.iter().filter(|b| b.is_here(now)).filter_map(|b| b.expires).min(),
            versions: key.backing.iter().map(version).collect(),
            regions: self.regions_of(key)?,
        })
    }

    /// A key's state now: one whose imported material has expired is pending import.
    pub(super) fn state_of(&self, key: &KeyRecord) -> KeyState {
        key.state_at(self.env.now())
    }

    fn regions_of(&self, key: &KeyRecord) -> Result<Option<Regions>> {
        let Some(primary) = &key.primary else { return Ok(None) };
        let arn = |key: &KeyRecord| {
            let place = self.scope.place(key.place.as_ref());
            (place.key_arn(key.id), place.region.clone())
        };
        let mut all: Vec<_> = self.store.keys_of(key.id)?.iter().map(|k| arn(&k.record)).collect();
        all.sort();
        let (first, replicas): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, region)| region == primary);
        let place = Place { region: primary.clone(), ..self.scope.place(key.place.as_ref()).clone() };
        let primary = first.into_iter().next().unwrap_or_else(|| (place.key_arn(key.id), primary.clone()));
        let is_primary = primary.1 == self.scope.place(key.place.as_ref()).region;
        Ok(Some(Regions { primary, replicas, is_primary }))
    }

    /// Creates a key, enabled, with its first backing key.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a description above 8192 characters.
    pub fn create(&self, description: &str, caller: &Caller) -> Result<KeyMetadata> {
        self.create_with(&NewKey { description, ..NewKey::default() }, caller)
    }

    /// The same, with all that a new key can have: key and alias are created in one transaction, in the caller's account
    /// and Region. Not authorized here ([`Authorizer::ask_own`]).
    ///
    /// # Errors
    /// As [`Keys::create`], [`KeyPolicies::put`](super::KeyPolicies::put) and [`Aliases::create`](super::Aliases::create);
    /// [`Kind::Usage`] for a spec and a usage, or an origin, that do not go together.
    pub fn create_with(&self, new: &NewKey<'_>, caller: &Caller) -> Result<KeyMetadata> {
        check_description(new.description)?;
        new.tags.map_or(Ok(()), |tags| super::tags::check("a key", tags))?;
        let place = self.scope.kept(self.scope.place_of(caller));
        let alias = new.alias.map(|name| NewAlias::new(name, place.clone(), self.env.now())).transpose()?;
        let mut key = self.new_key(KeyManager::Customer, new, place)?;
        let arn = self.scope.arn_of(&key.key());
        let mut act = Act::new("kms:CreateKey").key(arn.clone());
        if let Some(document) = new.policy {
            let parsed = Policy::parse(document)?;
            parsed.check(&arn)?;
            if !new.bypass_lockout_check {
                self.authorizer.check_lockout(&parsed, &key, caller)?;
            }
            act = act.detail("policy-sha256", crate::ledger::sha256_hex(document.as_bytes()));
            key.policy = Some(document.to_owned());
        }
        if let Some(alias) = &alias {
            act = act.detail("alias", alias.name());
        }
        let ask_for_alias =
            Wanted { action: "CreateAlias", context: &EncryptionContext::new(), grant: None, facts: None };
        self.ledger.audited(caller, act, |tx| {
            tx.insert(&key)?;
            let Some(alias) = &alias else { return Ok(()) };
            self.authorizer.authorize(&key, ask_for_alias, caller)?;
            alias.put(tx, &self.scope.place(key.place.as_ref()).alias_arn(alias.name()), key.id).map(drop)
        })?;
        self.metadata(&key)
    }

    fn new_key(&self, manager: KeyManager, new: &NewKey<'_>, place: Option<Place>) -> Result<KeyRecord> {
        let spec = new.spec.unwrap_or(KeySpec::SymmetricDefault);
        let usage = spec.usage(new.usage)?;
        let draw = if new.multi_region { KeyId::draw_multi_region } else { KeyId::draw };
        let id = draw(&*self.env.rng);
        let made = match new.origin {
            Origin::AwsKms => Some(self.backing.create(id, spec)?),
            Origin::External => None,
        };
        let primary = new.multi_region.then(|| self.scope.place(place.as_ref()).region.clone());
        let public = made.as_ref().and_then(|m| m.public.as_deref()).map(hex::encode);
        Ok(KeyRecord {
            id,
            place,
            manager,
            state: if made.is_some() { KeyState::Enabled } else { KeyState::PendingImport },
            description: new.description.into(),
            created: self.env.now(),
            deletion: None,
            policy: None,
            spec,
            usage,
            origin: new.origin,
            public,
            tags: new.tags.cloned().unwrap_or_default(),
            rotation: None,
            primary,
            wait_days: None,
            backing: made.into_iter().map(|m| m.record).collect(),
        })
    }

    /// Creates the service-managed key behind `alias/aws/ebs` of the installation's own account and Region, unless it
    /// exists.
    pub(super) fn ensure_ebs_default(&self, caller: &Caller) -> Result<()> {
        if self.store.alias(None, EBS_ALIAS)?.is_some() {
            return Ok(());
        }
        let new = NewKey { description: "Default key for volumes if no other key is given", ..NewKey::default() };
        let key = self.new_key(KeyManager::Aws, &new, None)?;
        let now = self.env.now();
        let alias = AliasRecord { name: EBS_ALIAS.into(), place: None, target: key.id, created: now, updated: now };
        let act = Act::new("kms:CreateKey").key(self.scope.arn_of(&key.key())).detail("alias", EBS_ALIAS);
        let made = self.ledger.audited(caller, act, |tx| {
            tx.insert(&key)?;
            tx.insert(&alias)
        });
        match made {
            // Another thread was faster.
            Err(e) if e.kind() == Kind::Exists => Ok(()),
            made => made.map(|_| ()),
        }
    }

    /// A key's metadata, in any state. Not authorized here: callers use [`Authorizer::ask`] first.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::KeyUnavailable`] if its record is damaged.
    pub fn describe(&self, key: &KeyRef) -> Result<KeyMetadata> {
        self.metadata(&self.store.find(key)?.record)
    }

    /// All keys of all accounts and Regions.
    ///
    /// # Errors
    /// What the catalog reports; damaged records are listed, not refused.
    pub fn list(&self) -> Result<KeyListing> {
        let listing = self.store.keys()?;
        let keys = listing.records.iter().map(|k| self.metadata(&k.record)).collect::<Result<_>>()?;
        Ok(KeyListing { keys, damaged: listing.damaged })
    }

    /// The keys of an account in a Region after that id, at most `limit`; none that is damaged.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn page(&self, place: &Place, after: Option<&str>, limit: usize) -> Result<Vec<(KeyId, String)>> {
        let kept = self.scope.kept(place.clone());
        let listing = self.store.page(kept.as_ref(), after, limit)?;
        Ok(listing.records.iter().map(|k| (k.record.id, place.key_arn(k.record.id))).collect())
    }

    /// Refuses a key whose state forbids its use.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::KeyUnavailable`] naming the state.
    pub fn must_be_usable(&self, arn: &str, verb: &str) -> Result<()> {
        self.check_usable(&self.store.find(&arn.parse()?)?.record, verb)
    }

    /// Refuses the use of a key that is not enabled, or whose imported material is gone.
    pub(super) fn check_usable(&self, key: &KeyRecord, verb: &str) -> Result<()> {
        let arn = self.scope.arn_of(&key.key());
        key.check_usable(verb, &arn, self.env.now())
    }

    /// Changes a customer managed key in an audited transaction, if its policy allows it.
    pub(super) fn change(
        &self,
        key: &KeyRef,
        act: Act,
        caller: &Caller,
        change: impl Fn(&mut KeyRecord, &str, &str) -> Result<()>,
    ) -> Result<KeyMetadata> {
        self.change_if(key, act, &Facts::new(), caller, change)
    }

    /// The same; `facts` is what policies can test of the request.
    pub(super) fn change_if(
        &self,
        key: &KeyRef,
        act: Act,
        facts: &Facts,
        caller: &Caller,
        change: impl Fn(&mut KeyRecord, &str, &str) -> Result<()>,
    ) -> Result<KeyMetadata> {
        let facts = key.facts().and(facts);
        let name = self.store.resolve(key)?;
        let arn = self.scope.arn_of(&name);
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let key = self.ledger.audited(caller, act.key(arn.clone()), |tx: &mut Tx<'_>| {
            let Versioned { mut record, version } = self.store.load(&name)?;
            self.may_change(&record, &verb, &facts, caller)?;
            change(&mut record, &verb, &arn)?;
            Ok(tx.update(&record, version)?.record)
        })?;
        self.metadata(&key)
    }

    /// Sets a key's description.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] while it is pending deletion; as [`Keys::describe`].
    pub fn update_description(&self, key: &KeyRef, description: &str, caller: &Caller) -> Result<KeyMetadata> {
        check_description(description)?;
        self.change(key, Act::new("kms:UpdateKeyDescription"), caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            description.clone_into(&mut key.description);
            Ok(())
        })
    }

    /// Enables a key; does nothing if it is enabled.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] while it is pending deletion, [`Kind::AccessDenied`] for a service-managed key; as
    /// [`Keys::describe`].
    pub fn enable(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:EnableKey"), caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            self.check_has_material(key, verb)?;
            key.state = KeyState::Enabled;
            Ok(())
        })
    }

    /// Disables a key; also possible on a full disk, because it restricts. The caller suspends what uses the key.
    ///
    /// # Errors
    /// As [`Keys::enable`].
    pub fn disable(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:DisableKey").restrictive(), caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            self.check_has_material(key, verb)?;
            key.state = KeyState::Disabled;
            Ok(())
        })
    }

    /// Schedules the deletion of a key in 7 to 30 days, during which it cannot be used.
    ///
    /// # Errors
    /// [`Kind::Usage`] for another number of days; as [`Keys::enable`].
    pub fn schedule_deletion(&self, key: &KeyRef, days: u32, caller: &Caller) -> Result<KeyMetadata> {
        if !(7..=30).contains(&days) {
            let what = format!("ScheduleKeyDeletion: the waiting period must be 7 to 30 days, not {days}");
            return Err(Error::new(Kind::Usage, what));
        }
        let at = Timestamp(self.env.now().0.saturating_add(i64::from(days) * DAY));
        let act = Act::new("kms:ScheduleKeyDeletion").detail("deletion", at).restrictive();
        let facts = Facts::new().number(Key::ScheduleKeyDeletionPendingWindowInDays, days.into());
        let meta = self.change_if(key, act, &facts, caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            key.wait_days = key.primary.is_some().then_some(days);
            // A primary key waits until its last replica is deleted.
            let waits_first = self.regions_of(key)?.is_some_and(|r| r.is_primary && !r.replicas.is_empty());
            (key.state, key.deletion) = match waits_first {
                true => (KeyState::PendingReplicaDeletion, None),
                false => (KeyState::PendingDeletion, Some(at)),
            };
            Ok(())
        })?;
        // Counts from now, not from the next check.
        if let Err(e) = self.store.pending_deletion().and_then(|keys| self.deletions.count(&keys)) {
            tracing::warn!("the waiting period of key {} is not counted yet: {}", meta.arn, e.line());
        }
        Ok(meta)
    }

    /// Cancels a key's deletion; it is disabled afterwards.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if it is not pending deletion, or it is due; as [`Keys::describe`].
    pub fn cancel_deletion(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:CancelKeyDeletion"), caller, |key, verb, arn| {
            if key.state == KeyState::PendingReplicaDeletion {
                (key.state, key.wait_days) = (KeyState::Disabled, None);
                return Ok(());
            }
            if key.state != KeyState::PendingDeletion {
                return Err(invalid_state(
                    verb,
                    arn,
                    "is not pending deletion",
                    "see its state with `coffer key show`",
                ));
            }
            let waits = |at| self.deletions.pending_of(&key.key(), at).map(|p| at > self.env.now() || p.left > 0);
            if !key.deletion.map_or(Ok(false), waits)? {
                return Err(invalid_state(verb, arn, "has passed its deletion date", "it can no longer be kept"));
            }
            let never_had_material = key.origin == Origin::External && key.backing.is_empty();
            key.state = if never_had_material { KeyState::PendingImport } else { KeyState::Disabled };
            (key.deletion, key.wait_days) = (None, None);
            Ok(())
        })
    }

    /// Refuses a key without its material.
    fn check_has_material(&self, key: &KeyRecord, verb: &str) -> Result<()> {
        match self.state_of(key) {
            KeyState::PendingImport => Err(invalid_state(
                verb,
                &self.scope.arn_of(&key.key()),
                "is pending import",
                "import its key material first",
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn check_description(text: &str) -> Result<()> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Error::new(Kind::Usage, format!("the description is longer than {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
