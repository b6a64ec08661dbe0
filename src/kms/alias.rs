//! Aliases: names for keys, which can be moved to another key (KMS Developer Guide, "Aliases").

use super::authority::Wanted;
use super::key::{KeyManager, KeyRecord};
use super::name::{EBS_ALIAS, KeyRef, Target, check_alias, check_not_reserved};
use super::{Caller, Kms};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Damaged, Record, Tx, Versioned};
use serde::{Deserialize, Serialize};

/// An alias, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AliasRecord {
    pub(super) name: String,
    pub(super) target: KeyId,
    created: Timestamp,
    updated: Timestamp,
}

impl Record for AliasRecord {
    const KIND: &'static str = "kms-alias";
    fn id(&self) -> String {
        self.name.clone()
    }
}

/// A new alias, not yet stored.
pub(super) struct NewAlias {
    name: String,
    now: Timestamp,
}

impl NewAlias {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Creates it for a key.
    ///
    /// # Errors
    /// [`Kind::Exists`]; what the catalog reports.
    pub(super) fn put(&self, tx: &mut Tx<'_>, target: KeyId) -> Result<Versioned<AliasRecord>> {
        let Self { name, now } = self;
        tx.insert(&AliasRecord { name: name.clone(), target, created: *now, updated: *now }).map_err(|e| {
            match e.kind() {
                Kind::Exists => Error::new(Kind::Exists, format!("alias {name} already exists"))
                    .hint("choose another name, or change its key with `coffer key alias update`"),
                _ => e,
            }
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

impl Kms {
    fn alias_metadata(&self, alias: &AliasRecord) -> AliasMetadata {
        let i = &self.installation.public;
        AliasMetadata {
            alias_name: alias.name.clone(),
            alias_arn: format!("arn:aws:kms:{}:{}:{}", i.region, i.account, alias.name),
            target_key_id: alias.target,
            creation_date: alias.created,
            last_updated_date: alias.updated,
        }
    }

    /// Whether the policy of an alias's key allows the caller to remove the alias from it. If the key is deleted or damaged,
    /// it has no policy: the account's administrators may.
    fn may_change_alias(&self, verb: &str, target: KeyId, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        match self.load(target) {
            Ok(key) => {
                self.authorize(&key.record, Wanted { action: verb, context: &context, grant: None }, caller).map(drop)
            }
            Err(_) if self.is_administrator(caller) => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// A key for which the caller may create an alias.
    fn alias_target(&self, verb: &str, key: &KeyRef, caller: &Caller) -> Result<KeyRecord> {
        let Target::Id(_) = key.target else {
            let what = format!("{verb}: {key} is an alias, and an alias can only refer to a key");
            return Err(Error::new(Kind::Usage, what).hint("use the key's id or ARN"));
        };
        let key = self.load(self.resolve(key)?)?.record;
        let arn = self.key_arn(key.id);
        if key.manager == KeyManager::Aws {
            return Err(Error::new(Kind::AccessDenied, format!("{verb}: key {arn} is managed by the service")));
        }
        let context = EncryptionContext::new();
        self.authorize(&key, Wanted { action: verb, context: &context, grant: None }, caller)?;
        key.check_takes_alias(verb, &arn)?;
        Ok(key)
    }

    /// Creates an alias for a key.
    ///
    /// # Errors
    /// [`Kind::Usage`] (InvalidAliasNameException) for a name against the rules or under `alias/aws/`, [`Kind::Exists`],
    /// [`Kind::InvalidState`] while the key is pending deletion.
    pub fn create_alias(&self, name: &str, key: &KeyRef, caller: &Caller) -> Result<AliasMetadata> {
        let alias = self.new_alias(name)?;
        let act = Act::new("kms:CreateAlias").detail("alias", name).detail("target", key);
        let made =
            self.ledger.audited(caller, act, |tx| alias.put(tx, self.alias_target("CreateAlias", key, caller)?.id))?;
        Ok(self.alias_metadata(&made.record))
    }

    /// Checks a name that a caller chose for a new alias.
    ///
    /// # Errors
    /// [`Kind::Usage`] (InvalidAliasNameException).
    pub(super) fn new_alias(&self, name: &str) -> Result<NewAlias> {
        check_alias(name)?;
        check_not_reserved(name)?;
        Ok(NewAlias { name: name.to_owned(), now: self.env.now() })
    }

    fn alias_record(&self, name: &str) -> Result<Versioned<AliasRecord>> {
        let found = self.ledger.catalog().get::<AliasRecord>(name)?;
        found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no alias {name}")).hint("see `coffer key alias list`")
        })
    }

    /// Moves an alias to another key. Existing ciphertexts still refer to the key that encrypted them.
    ///
    /// # Errors
    /// As [`Kms::create_alias`]; [`Kind::NotFound`].
    pub fn update_alias(&self, name: &str, key: &KeyRef, caller: &Caller) -> Result<AliasMetadata> {
        check_alias(name)?;
        check_not_reserved(name)?;
        let act = Act::new("kms:UpdateAlias").detail("alias", name).detail("target", key);
        let made = self.ledger.audited(caller, act, |tx| {
            let mut alias = self.alias_record(name)?;
            self.may_change_alias("UpdateAlias", alias.record.target, caller)?;
            alias.record.target = self.alias_target("UpdateAlias", key, caller)?.id;
            alias.record.updated = self.env.now();
            tx.update(&alias.record, alias.version)
        })?;
        Ok(self.alias_metadata(&made.record))
    }

    /// Deletes an alias; its key is kept.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Usage`] for one under `alias/aws/`.
    pub fn delete_alias(&self, name: &str, caller: &Caller) -> Result<()> {
        check_alias(name)?;
        check_not_reserved(name)?;
        let act = Act::new("kms:DeleteAlias").detail("alias", name);
        self.ledger.audited(caller, act, |tx| {
            let alias = self.alias_record(name)?;
            self.may_change_alias("DeleteAlias", alias.record.target, caller)?;
            tx.delete::<AliasRecord>(name, alias.version)
        })
    }

    /// The aliases of one key, or all.
    ///
    /// # Errors
    /// What the catalog reports; [`Kind::NotFound`] if the key does not exist.
    pub fn list_aliases(&self, key: Option<&KeyRef>) -> Result<AliasListing> {
        let of = key.map(|k| self.load(self.resolve(k)?)).transpose()?.map(|k| k.record.id);
        let listing = self.ledger.catalog().list::<AliasRecord>()?;
        let wanted = |a: &&Versioned<AliasRecord>| of.is_none_or(|id| a.record.target == id);
        let aliases = listing.records.iter().filter(wanted).map(|a| self.alias_metadata(&a.record)).collect();
        Ok(AliasListing { aliases, damaged: listing.damaged })
    }

    /// Creates the service-managed key behind `alias/aws/ebs`, unless it exists.
    pub(super) fn ensure_ebs_key(&self, caller: &Caller) -> Result<()> {
        if self.ledger.catalog().get::<AliasRecord>(EBS_ALIAS)?.is_some() {
            return Ok(());
        }
        let key = self.new_key(KeyManager::Aws, "Default key for volumes if no other key is given")?;
        let now = self.env.now();
        let alias = AliasRecord { name: EBS_ALIAS.into(), target: key.id, created: now, updated: now };
        let act = Act::new("kms:CreateKey").key(self.key_arn(key.id)).detail("alias", EBS_ALIAS);
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
}
