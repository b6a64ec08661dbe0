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

use super::alias::AliasRecord;
use super::authority::Wanted;
use super::grant::Grant;
use super::name::{KeyRef, Target};
use super::policy::Policy;
use super::{Caller, Kms};
use crate::cipher::wrap::{BackingKey, EncryptionContext, KeyId, KeyMaterialId, open_local};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Damaged, Record, Tx, Versioned};
use serde::{Deserialize, Serialize};

/// Milliseconds in a day.
const DAY: i64 = 24 * 60 * 60 * 1000;
/// The most on-demand rotations of a key (KMS Developer Guide, "Quotas").
pub const MAX_ROTATIONS: usize = 25;
/// The longest description, characters (KMS API Reference, CreateKey).
pub const MAX_DESCRIPTION: usize = 8192;
const SPEC: &str = "SYMMETRIC_DEFAULT";
const ORIGIN: &str = "AWS_KMS";

/// A key's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Disabled by a caller; can be enabled.
    Disabled,
    /// Will be deleted on its deletion date unless that is cancelled.
    PendingDeletion,
    /// Its record or material is damaged, or the audit log must be accepted first.
    Unavailable,
}

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyManager {
    /// The customer: created by CreateKey.
    Customer,
    /// The service: created on first use, with an alias under `alias/aws/`; not usable by public callers.
    Aws,
}

/// A backing key, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackingRecord {
    pub(super) material: KeyMaterialId,
    sealed: String,
    created: Timestamp,
    root_generation: u32,
}

/// A key, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) id: KeyId,
    pub(super) manager: KeyManager,
    pub(super) state: KeyState,
    description: String,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion: Option<Timestamp>,
    /// The policy document, as it was put; none: AWS's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    /// Oldest first; the last one encrypts.
    pub(super) backing: Vec<BackingRecord>,
}

impl Record for KeyRecord {
    const KIND: &'static str = "kms-key";
    fn id(&self) -> String {
        self.id.to_string()
    }
}

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
}

/// A key's metadata (KMS API Reference, KeyMetadata; times are [`Timestamp`]s, the edges translate).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
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
    /// `SYMMETRIC_DEFAULT`.
    pub key_spec: &'static str,
    /// `ENCRYPT_DECRYPT`.
    pub key_usage: &'static str,
    /// `AWS_KMS`.
    pub origin: &'static str,
    /// When it will be deleted, if it is pending; later if its waiting period has not really passed by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// Its versions, oldest first.
    pub versions: Vec<KeyVersion>,
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
}

/// All keys.
#[derive(Debug)]
pub struct KeyListing {
    /// Those that can be read, sorted by id.
    pub keys: Vec<KeyMetadata>,
    /// Those whose record is damaged: Unavailable.
    pub damaged: Vec<Damaged>,
}

fn backing_aad(kms: &Kms, key: KeyId, material: KeyMaterialId, generation: u32) -> Vec<u8> {
    let key = key.to_string();
    let generation = generation.to_le_bytes();
    let fields: [&[u8]; 6] =
        [&kms.installation.public.id.0, key.as_bytes(), &material.0, SPEC.as_bytes(), ORIGIN.as_bytes(), &generation];
    let mut aad = b"coffer/backing-key/v1".to_vec();
    for field in fields {
        aad.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
        aad.extend_from_slice(field);
    }
    aad
}

/// The operation is not possible in the key's state.
fn invalid_state(verb: &str, arn: &str, why: &str, hint: &str) -> Error {
    let err = Error::new(Kind::InvalidState, format!("{verb}: key {arn} {why}"));
    err.hint(hint)
}

impl KeyRecord {
    /// Refuses the use of a key that is not enabled.
    pub(super) fn check_usable(&self, verb: &str, arn: &str) -> Result<()> {
        let err = |why: &str| Error::new(Kind::KeyUnavailable, format!("{verb}: key {arn} {why}"));
        match self.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => {
                let err = err("is disabled").reason(Reason::KeyDisabled);
                Err(err.hint(format!("enable it with `coffer key enable {}`", self.id)))
            }
            KeyState::PendingDeletion => {
                let err = err("is pending deletion");
                Err(err.hint(format!("to keep it, run `coffer key cancel-deletion {}`", self.id)))
            }
            KeyState::Unavailable => Err(err("is unavailable")),
        }
    }

    fn check_not_pending(&self, verb: &str, arn: &str) -> Result<()> {
        match self.state {
            KeyState::PendingDeletion => Err(invalid_state(
                verb,
                arn,
                "is pending deletion",
                &format!("cancel its deletion first with `coffer key cancel-deletion {}`", self.id),
            )),
            _ => Ok(()),
        }
    }
}

impl Kms {
    /// The ARN of a key of this installation.
    #[must_use]
    pub fn key_arn(&self, id: KeyId) -> String {
        let i = &self.installation.public;
        format!("arn:aws:kms:{}:{}:key/{id}", i.region, i.account)
    }

    fn metadata(&self, key: &KeyRecord) -> KeyMetadata {
        let state = if self.ledger.audit_trouble().is_some() { KeyState::Unavailable } else { key.state };
        let last = key.backing.len().saturating_sub(1);
        let version = |(i, b): (usize, &BackingRecord)| KeyVersion {
            key_material_id: b.material.to_string(),
            created: b.created,
            current: i == last,
        };
        KeyMetadata {
            key_id: key.id,
            arn: self.key_arn(key.id),
            account: self.installation.public.account.clone(),
            description: key.description.clone(),
            creation_date: key.created,
            enabled: state == KeyState::Enabled,
            key_state: state,
            key_manager: key.manager,
            key_spec: SPEC,
            key_usage: "ENCRYPT_DECRYPT",
            origin: ORIGIN,
            deletion_date: key.deletion,
            versions: key.backing.iter().enumerate().map(version).collect(),
        }
    }

    /// The key id of a name. Does not check whether the key exists, unless it is named by an alias.
    pub(super) fn resolve(&self, key: &KeyRef) -> Result<KeyId> {
        let here = (&self.installation.public.region, &self.installation.public.account);
        if key.place.as_ref().is_some_and(|(region, account)| (region, account) != here) {
            let what = format!("key {key} belongs to another region or account");
            return Err(Error::new(Kind::NotFound, what)
                .hint(format!("this installation is region {}, account {}", here.0, here.1)));
        }
        match &key.target {
            Target::Id(id) => Ok(*id),
            Target::Alias(name) => {
                let found = self
                    .ledger
                    .catalog()
                    .get::<AliasRecord>(name)
                    .map_err(|e| unavailable(format!("alias {name}"), e))?;
                let missing = || {
                    Error::new(Kind::NotFound, format!("there is no alias {name}")).hint("see `coffer key alias list`")
                };
                Ok(found.ok_or_else(missing)?.record.target)
            }
        }
    }

    /// The record of a key. A damaged one makes this key unavailable, but no other.
    pub(super) fn load(&self, id: KeyId) -> Result<Versioned<KeyRecord>> {
        let arn = self.key_arn(id);
        let found = self
            .ledger
            .catalog()
            .get::<KeyRecord>(&id.to_string())
            .map_err(|e| unavailable(format!("key {arn}"), e))?;
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no key {arn}")).hint("see `coffer key list`"))
    }

    fn new_backing(&self, key: KeyId) -> Result<BackingRecord> {
        let backing = BackingKey::generate(key);
        let generation = self.root.generation();
        let aad = backing_aad(self, key, backing.material(), generation);
        let sealed = hex::encode(backing.seal_under(self.root.secret(), &aad, &*self.env.rng)?);
        Ok(BackingRecord { material: backing.material(), sealed, created: self.env.now(), root_generation: generation })
    }

    /// Unseals one backing key of a key.
    pub(super) fn unseal(&self, key: &KeyRecord, version: &BackingRecord) -> Result<BackingKey> {
        let arn = self.key_arn(key.id);
        let aad = backing_aad(self, key.id, version.material, version.root_generation);
        let opened = hex::decode(&version.sealed)
            .map_err(|e| Error::new(Kind::Integrity, "the sealed material is not hexadecimal").because(e))
            .and_then(|sealed| open_local::<32>(self.root.secret(), &aad, &sealed))
            .map(|secret| BackingKey::new(key.id, secret));
        let backing = opened.map_err(|e| unavailable(format!("key {arn}, version {}", version.material), e))?;
        if backing.material() != version.material {
            let err = Error::new(Kind::Integrity, "the material does not match its id");
            return Err(unavailable(format!("key {arn}"), err));
        }
        Ok(backing)
    }

    /// The current backing key.
    pub(super) fn current(&self, key: &KeyRecord) -> Result<BackingKey> {
        let last = key.backing.last().ok_or_else(|| {
            let err = Error::new(Kind::Integrity, "it has no backing key");
            unavailable(format!("key {}", self.key_arn(key.id)), err)
        })?;
        self.unseal(key, last)
    }

    /// Creates a key, enabled, with its first backing key.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a description above 8192 characters.
    pub fn create_key(&self, description: &str, caller: &Caller) -> Result<KeyMetadata> {
        self.create_key_with(&NewKey { description, ..NewKey::default() }, caller)
    }

    /// The same, with a policy or an alias: key and alias are created in one transaction.
    ///
    /// # Errors
    /// As [`Kms::create_key`], [`Kms::put_key_policy`] and [`Kms::create_alias`].
    pub fn create_key_with(&self, new: &NewKey<'_>, caller: &Caller) -> Result<KeyMetadata> {
        let NewKey { description, policy, bypass_lockout_check, alias } = *new;
        check_description(description)?;
        let alias = alias.map(|name| self.new_alias(name)).transpose()?;
        let mut key = self.new_key(KeyManager::Customer, description)?;
        let mut act = Act::new("kms:CreateKey").key(self.key_arn(key.id));
        if let Some(document) = policy {
            let parsed = Policy::parse(document)?;
            parsed.check(&self.key_arn(key.id))?;
            if !bypass_lockout_check {
                self.check_lockout(&parsed, &key, caller)?;
            }
            act = act.detail("policy-sha256", crate::ledger::sha256_hex(document.as_bytes()));
            key.policy = Some(document.to_owned());
        }
        if let Some(alias) = &alias {
            act = act.detail("alias", alias.name());
        }
        let ask_for_alias = Wanted { action: "CreateAlias", context: &EncryptionContext::new(), grant: None };
        self.ledger.audited(caller, act, |tx| {
            tx.insert(&key)?;
            let Some(alias) = &alias else { return Ok(()) };
            self.authorize(&key, ask_for_alias, caller)?;
            alias.put(tx, key.id).map(drop)
        })?;
        Ok(self.metadata(&key))
    }

    pub(super) fn new_key(&self, manager: KeyManager, description: &str) -> Result<KeyRecord> {
        let id = KeyId::draw(&*self.env.rng);
        Ok(KeyRecord {
            id,
            manager,
            state: KeyState::Enabled,
            description: description.into(),
            created: self.env.now(),
            deletion: None,
            policy: None,
            backing: vec![self.new_backing(id)?],
        })
    }

    /// A key's metadata, in any state. Not authorized here: callers use [`Kms::ask`] first.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::KeyUnavailable`] if its record is damaged.
    pub fn describe_key(&self, key: &KeyRef) -> Result<KeyMetadata> {
        Ok(self.metadata(&self.load(self.resolve(key)?)?.record))
    }

    /// All keys.
    ///
    /// # Errors
    /// What the catalog reports; damaged records are listed, not refused.
    pub fn list_keys(&self) -> Result<KeyListing> {
        let listing = self.ledger.catalog().list::<KeyRecord>()?;
        let keys = listing.records.iter().map(|k| self.metadata(&k.record)).collect();
        Ok(KeyListing { keys, damaged: listing.damaged })
    }

    /// Refuses a key whose state forbids its use.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::KeyUnavailable`] naming the state.
    pub fn must_be_usable(&self, arn: &str, verb: &str) -> Result<()> {
        self.load(self.resolve(&arn.parse()?)?)?.record.check_usable(verb, arn)
    }

    /// Changes a customer managed key in an audited transaction, if its policy allows it.
    pub(super) fn change(
        &self,
        key: &KeyRef,
        act: Act,
        caller: &Caller,
        change: impl Fn(&mut KeyRecord, &str, &str) -> Result<()>,
    ) -> Result<KeyMetadata> {
        let id = self.resolve(key)?;
        let arn = self.key_arn(id);
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let key = self.ledger.audited(caller, act.key(arn.clone()), |tx: &mut Tx<'_>| {
            let Versioned { mut record, version } = self.load(id)?;
            if record.manager == KeyManager::Aws {
                let what = format!("{verb}: key {arn} is managed by the service");
                return Err(
                    Error::new(Kind::AccessDenied, what).hint("create a key of your own with `coffer key create`")
                );
            }
            let context = EncryptionContext::new();
            self.authorize(&record, Wanted { action: &verb, context: &context, grant: None }, caller)?;
            change(&mut record, &verb, &arn)?;
            Ok(tx.update(&record, version)?.record)
        })?;
        Ok(self.metadata(&key))
    }

    /// Sets a key's description.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] while it is pending deletion; as [`Kms::describe_key`].
    pub fn update_key_description(&self, key: &KeyRef, description: &str, caller: &Caller) -> Result<KeyMetadata> {
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
    /// [`Kms::describe_key`].
    pub fn enable_key(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:EnableKey"), caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            key.state = KeyState::Enabled;
            Ok(())
        })
    }

    /// Disables a key; also possible on a full disk, because it restricts. The caller suspends what uses the key.
    ///
    /// # Errors
    /// As [`Kms::enable_key`].
    pub fn disable_key(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:DisableKey").restrictive(), caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            key.state = KeyState::Disabled;
            Ok(())
        })
    }

    /// Schedules the deletion of a key in 7 to 30 days, during which it cannot be used.
    ///
    /// # Errors
    /// [`Kind::Usage`] for another number of days; as [`Kms::enable_key`].
    pub fn schedule_key_deletion(&self, key: &KeyRef, days: u32, caller: &Caller) -> Result<KeyMetadata> {
        if !(7..=30).contains(&days) {
            let what = format!("ScheduleKeyDeletion: the waiting period must be 7 to 30 days, not {days}");
            return Err(Error::new(Kind::Usage, what));
        }
        let at = Timestamp(self.env.now().0.saturating_add(i64::from(days) * DAY));
        let act = Act::new("kms:ScheduleKeyDeletion").detail("deletion", at).restrictive();
        let meta = self.change(key, act, caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            (key.state, key.deletion) = (KeyState::PendingDeletion, Some(at));
            Ok(())
        })?;
        // Counts from now, not from the next check.
        if let Err(e) = self.ledger.catalog().list::<KeyRecord>().and_then(|keys| self.count_waiting(&keys.records)) {
            tracing::warn!("the waiting period of key {} is not counted yet: {}", meta.arn, e.line());
        }
        Ok(meta)
    }

    /// Cancels a key's deletion; it is disabled afterwards.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if it is not pending deletion, or it is due; as [`Kms::describe_key`].
    pub fn cancel_key_deletion(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:CancelKeyDeletion"), caller, |key, verb, arn| {
            if key.state != KeyState::PendingDeletion {
                return Err(invalid_state(
                    verb,
                    arn,
                    "is not pending deletion",
                    "see its state with `coffer key show`",
                ));
            }
            let waits = |at| self.pending_deletion(key.id, at).map(|p| at > self.env.now() || p.left > 0);
            if !key.deletion.map_or(Ok(false), waits)? {
                return Err(invalid_state(verb, arn, "has passed its deletion date", "it can no longer be kept"));
            }
            (key.state, key.deletion) = (KeyState::Disabled, None);
            Ok(())
        })
    }

    /// Gives a key a new backing key; the old ones still decrypt.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if it is disabled or pending deletion, [`Kind::NoSpace`] (LimitExceededException) after
    /// [`MAX_ROTATIONS`]; as [`Kms::enable_key`].
    pub fn rotate_key_on_demand(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:RotateKeyOnDemand"), caller, |key, verb, arn| {
            key.check_usable(verb, arn)?;
            if key.backing.len() > MAX_ROTATIONS {
                let what = format!("{verb}: key {arn} has reached the limit of {MAX_ROTATIONS} rotations");
                let err = Error::new(Kind::InvalidState, what).reason(Reason::LimitExceeded);
                return Err(err.hint("create a new key and re-encrypt under it"));
            }
            key.backing.push(self.new_backing(key.id)?);
            Ok(())
        })
    }

    /// Deletes the keys whose date and waiting period have passed (`waiting.rs`), with their aliases and grants. Their sealed
    /// material is overwritten in the catalog's file; backups, and old blocks that the file system or the disk keeps, are
    /// not reached. Called at open and periodically by the service.
    ///
    /// # Errors
    /// What the catalog or the audit reports.
    pub fn purge_due(&self) -> Result<Vec<KeyId>> {
        let keys = self.ledger.catalog().list::<KeyRecord>()?.records;
        let due = self.count_waiting(&keys)?;
        let mut gone = Vec::new();
        for key in keys.into_iter().filter(|k| due.contains(&k.record.id)) {
            let id = key.record.id;
            let act = Act::new("kms:DeleteKey").key(self.key_arn(id)).restrictive();
            self.ledger.audited(&self.myself(), act, |tx| {
                for alias in tx.list::<AliasRecord>()?.records.into_iter().filter(|a| a.record.target == id) {
                    tx.delete::<AliasRecord>(&alias.record.name, alias.version)?;
                }
                let grants = tx.list_of::<Grant>(&[("key", &id.to_string())])?.records;
                for grant in grants.into_iter().filter(|g| g.record.key == id) {
                    tx.delete::<Grant>(&grant.record.id, grant.version)?;
                }
                tx.delete::<KeyRecord>(&id.to_string(), key.version)
            })?;
            gone.push(id);
        }
        if !gone.is_empty() {
            self.ledger.catalog().erase_removed()?;
        }
        Ok(gone)
    }
}

/// A damaged key, or a damaged record on the way to it: unavailable, whatever is wrong with the record.
pub(super) fn unavailable(what: String, err: Error) -> Error {
    if err.kind() != Kind::Integrity {
        return err;
    }
    let hint = "restore the data directory from a backup, or run `coffer doctor`";
    Error::new(Kind::KeyUnavailable, format!("{what} is unavailable: {}", err.what())).hint(hint)
}

fn check_description(text: &str) -> Result<()> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Error::new(Kind::Usage, format!("the description is longer than {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}

impl KeyRecord {
    /// Refuses a new alias or description for a key pending deletion.
    pub(super) fn check_takes_alias(&self, verb: &str, arn: &str) -> Result<()> {
        self.check_not_pending(verb, arn)
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
