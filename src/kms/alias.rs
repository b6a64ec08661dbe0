//! Aliases: names for keys, which can be moved to another key (KMS Developer Guide, "Aliases").

use super::authority::Authorizer;
use super::caller::{Authority, Caller, Wanted};
use super::keystore::{AliasRecord, KeyManager, KeyRecord, KeyStore};
use super::name::{KeyRef, Target, check_alias, check_not_reserved};
use super::policy::Facts;
use super::scope::{KeyName, Place, Scope};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Damaged, Ledger, Record, Tx, Versioned};
use serde::Serialize;
use std::sync::Arc;

/// The most aliases of a key (KMS Developer Guide, "Resource quotas").
const MAX_ALIASES: usize = 50;

/// A new alias, not yet stored.
pub(super) struct NewAlias {
    place: Option<Place>,
    name: String,
    now: Timestamp,
}

impl NewAlias {
    /// Checks a name that a caller chose for a new alias.
    ///
    /// # Errors
    /// [`Kind::Usage`] (InvalidAliasNameException).
    pub(super) fn new(name: &str, place: Option<Place>, now: Timestamp) -> Result<Self> {
        check_alias(name)?;
        check_not_reserved(name)?;
        Ok(Self { place, name: name.to_owned(), now })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Creates it for a key.
    ///
    /// # Errors
    /// [`Kind::Exists`]; what the catalog reports.
    pub(super) fn put(&self, tx: &mut Tx<'_>, arn: &str, target: KeyId) -> Result<Versioned<AliasRecord>> {
        let Self { place, name, now } = self;
        tx.insert(&AliasRecord { name: name.clone(), place: place.clone(), target, created: *now, updated: *now })
            .map_err(|e| match e.kind() {
                Kind::Exists => Error::new(Kind::Exists, format!("An alias with the name {arn} already exists"))
                    .hint("choose another name, or change its key with `coffer key alias update`"),
                _ => e,
            })
    }
}

/// An alias's metadata (KMS API Reference, AliasListEntry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasMetadata {
    /// Its name, with `alias/`.
    pub alias_name: String,
    /// Its ARN.
    pub alias_arn: String,
    /// Its key.
    pub target_key_id: KeyId,
    /// When it was created.
    pub creation_date: Timestamp,
    /// When its key was last changed.
    pub last_updated_date: Timestamp,
}

/// All aliases.
#[derive(Debug)]
pub struct AliasListing {
    /// Those that can be read, sorted by name.
    pub aliases: Vec<AliasMetadata>,
    /// Those whose record is damaged.
    pub damaged: Vec<Damaged>,
}

/// The aliases of keys, as callers see and change them.
pub struct Aliases {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    authorizer: Arc<Authorizer>,
}

impl Aliases {
    /// Those of these keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        authorizer: Arc<Authorizer>,
    ) -> Self {
        Self { env, scope, ledger, store, authorizer }
    }

    fn metadata(&self, alias: &AliasRecord) -> AliasMetadata {
        AliasMetadata {
            alias_name: alias.name.clone(),
            alias_arn: self.scope.place(alias.place.as_ref()).alias_arn(&alias.name),
            target_key_id: alias.target,
            creation_date: alias.created,
            last_updated_date: alias.updated,
        }
    }

    /// Whether the policy of an alias's key allows the caller to remove the alias from it. If the key is deleted or damaged,
    /// it has no policy: the account's administrators may.
    fn may_change(&self, verb: &str, target: &KeyName, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        match self.store.load(target) {
            Ok(key) => self
                .authorizer
                .authorize(&key.record, Wanted { action: verb, context: &context, grant: None, facts: None }, caller)
                .map(drop),
            Err(_) if self.authorizer.is_administrator(caller, target.place.as_ref()) => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// A key for which the caller may create an alias: of its own account and Region.
    fn target(&self, verb: &str, key: &KeyRef, place: Option<&Place>, caller: &Caller) -> Result<KeyRecord> {
        let Target::Id(_) = key.target else {
            let what = "Aliases must refer to keys. Not aliases";
            return Err(Error::new(Kind::Usage, what).hint("use the key's id or ARN"));
        };
        let key = self.store.find(key)?.record;
        let (arn, context) = (self.scope.arn_of(&key.key()), EncryptionContext::new());
        let wanted = Wanted { action: verb, context: &context, grant: None, facts: None };
        if key.manager == KeyManager::Aws {
            return Err(Error::new(Kind::AccessDenied, format!("{verb}: key {arn} is managed by the service")));
        }
        self.authorizer.authorize(&key, wanted, caller)?;
        if key.place.as_ref() != place {
            let what = format!("{verb}: key {arn} is not of {}", self.scope.place(place));
            return Err(Error::new(Kind::NotFound, what).hint("an alias and its key have one account and one Region"));
        }
        key.check_takes_alias(verb, &arn)?;
        Ok(key)
    }

    /// Whether the caller's own policies allow this of the alias itself, which it needs besides the permission on the key
    /// (KMS Developer Guide, "Controlling access to aliases").
    fn may_name(&self, verb: &str, place: Option<&Place>, name: &str, caller: &Caller) -> Result<()> {
        match caller.authority {
            Authority::Principal(_) => self.ask_by_name(verb, place, name, caller),
            _ => Ok(()),
        }
    }

    fn ask_by_name(&self, verb: &str, place: Option<&Place>, name: &str, caller: &Caller) -> Result<()> {
        self.authorizer.ask_own_about(verb, &self.scope.place(place).alias_arn(name), &Facts::new(), caller)
    }

    /// The account and Region of the caller, as records keep it.
    fn place_of(&self, caller: &Caller) -> Option<Place> {
        self.scope.kept(self.scope.place_of(caller))
    }

    /// Creates an alias for a key of the caller's account and Region.
    ///
    /// # Errors
    /// [`Kind::Usage`] (InvalidAliasNameException) for a name against the rules or under `alias/aws/`, [`Kind::Exists`],
    /// [`Kind::InvalidState`] while the key is pending deletion.
    pub fn create(&self, name: &str, key: &KeyRef, caller: &Caller) -> Result<AliasMetadata> {
        let place = self.place_of(caller);
        let alias = NewAlias::new(name, place.clone(), self.env.now())?;
        let act = Act::new("kms:CreateAlias").detail("alias", name).detail("target", key);
        let made = self.ledger.audited(caller, act, |tx| {
            self.may_name("CreateAlias", place.as_ref(), name, caller)?;
            let target = self.target("CreateAlias", key, place.as_ref(), caller)?.id;
            if self.store.aliases_of(&KeyName { place: place.clone(), id: target })?.records.len() >= MAX_ALIASES {
                let what = format!("CreateAlias: key {target} has reached the limit of {MAX_ALIASES} aliases");
                return Err(Error::new(Kind::InvalidState, what).reason(Reason::LimitExceeded));
            }
            alias.put(tx, &self.scope.place(place.as_ref()).alias_arn(name), target)
        })?;
        Ok(self.metadata(&made.record))
    }

    /// An alias that a caller wants to change. Whoever may not does not learn whether it exists.
    fn record(&self, verb: &str, place: Option<&Place>, name: &str, caller: &Caller) -> Result<Versioned<AliasRecord>> {
        self.may_name(verb, place, name, caller)?;
        if let Some(found) = self.store.alias(place, name)? {
            return Ok(found);
        }
        self.ask_by_name(verb, place, name, caller)?;
        Err({
            let arn = self.scope.place(place).alias_arn(name);
            Error::new(Kind::NotFound, format!("Alias {arn} is not found.")).hint("see `coffer key alias list`")
        })
    }

    /// Moves an alias to another key. Existing ciphertexts still refer to the key that encrypted them.
    ///
    /// # Errors
    /// As [`Aliases::create`]; [`Kind::NotFound`]; [`Kind::InvalidState`] for a key of another spec or usage.
    pub fn update(&self, name: &str, key: &KeyRef, caller: &Caller) -> Result<AliasMetadata> {
        check_alias(name)?;
        check_not_reserved(name)?;
        let place = self.place_of(caller);
        let act = Act::new("kms:UpdateAlias").detail("alias", name).detail("target", key);
        let made = self.ledger.audited(caller, act, |tx| {
            let mut alias = self.record("UpdateAlias", place.as_ref(), name, caller)?;
            let old = KeyName { place: place.clone(), id: alias.record.target };
            self.may_change("UpdateAlias", &old, caller)?;
            let new = self.target("UpdateAlias", key, place.as_ref(), caller)?;
            if let Ok(old) = self.store.load(&old)
                && (old.record.usage != new.usage || old.record.spec.is_symmetric() != new.spec.is_symmetric())
            {
                let what = format!(
                    "UpdateAlias: {name} is of a {} key for {}, not for {} with a {} key",
                    old.record.spec, old.record.usage, new.usage, new.spec
                );
                return Err(Error::new(Kind::InvalidState, what).hint("delete the alias, then create it for that key"));
            }
            alias.record.target = new.id;
            alias.record.updated = self.env.now();
            tx.update(&alias.record, alias.version)
        })?;
        Ok(self.metadata(&made.record))
    }

    /// Deletes an alias; its key is kept.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Usage`] for one under `alias/aws/`.
    pub fn delete(&self, name: &str, caller: &Caller) -> Result<()> {
        check_alias(name)?;
        check_not_reserved(name)?;
        let place = self.place_of(caller);
        let act = Act::new("kms:DeleteAlias").detail("alias", name);
        self.ledger.audited(caller, act, |tx| {
            let alias = self.record("DeleteAlias", place.as_ref(), name, caller)?;
            self.may_change("DeleteAlias", &KeyName { place: place.clone(), id: alias.record.target }, caller)?;
            tx.delete::<AliasRecord>(&alias.record.id(), alias.version)
        })
    }

    /// The aliases of one key, or all of all accounts and Regions.
    ///
    /// # Errors
    /// What the catalog reports; [`Kind::NotFound`] if the key does not exist.
    pub fn list(&self, key: Option<&KeyRef>) -> Result<AliasListing> {
        let listing = match key {
            Some(key) => self.store.aliases_of(&self.store.find(key)?.record.key())?,
            None => self.store.aliases()?,
        };
        let aliases = listing.records.iter().map(|a| self.metadata(&a.record)).collect();
        Ok(AliasListing { aliases, damaged: listing.damaged })
    }

    /// The aliases of an account in a Region after that name, at most `limit`.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn page(&self, place: &Place, after: Option<&str>, limit: usize) -> Result<AliasListing> {
        let place = self.scope.kept(place.clone());
        let listing = self.store.alias_page(place.as_ref(), after, limit)?;
        let aliases = listing.records.iter().map(|a| self.metadata(&a.record)).collect();
        Ok(AliasListing { aliases, damaged: listing.damaged })
    }
}
