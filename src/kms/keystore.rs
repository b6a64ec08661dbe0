//! Keys and aliases as they are kept in the catalog, and how they are found.

use super::name::{KeyRef, Target};
use super::scope::{KeyName, Place, Scope, row_id, rows_of};
use crate::cipher::keys::{KeySpec, KeyUsage};
use crate::cipher::wrap::{KeyId, KeyMaterialId};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger, Listing, Record, Versioned};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Disabled by a caller; can be enabled.
    Disabled,
    /// Will be deleted on its deletion date unless that is cancelled.
    PendingDeletion,
    /// Has no key material: none was imported yet, or it has expired or was deleted.
    PendingImport,
    /// A multi-Region primary key that will be pending deletion once its last replica is deleted.
    PendingReplicaDeletion,
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

/// Where the key material comes from (KMS API Reference, KeyMetadata: Origin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Origin {
    /// Generated here.
    #[default]
    AwsKms,
    /// Imported by a caller.
    External,
}

impl Origin {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsKms => "AWS_KMS",
            Self::External => "EXTERNAL",
        }
    }
}

/// What gave a key a new backing key (KMS API Reference, RotationsListEntry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RotationType {
    /// Its rotation period passed.
    Automatic,
    /// RotateKeyOnDemand.
    OnDemand,
}

/// A backing key, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackingRecord {
    pub(super) material: KeyMaterialId,
    /// Hexadecimal; empty if imported material was deleted or has expired.
    pub(super) sealed: String,
    pub(super) created: Timestamp,
    pub(super) root_generation: u32,
    /// What it replaced the one before it by; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotation: Option<RotationType>,
    /// Imported for a rotation that was not requested yet: it neither encrypts nor decrypts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) pending: bool,
    /// When imported material expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Timestamp>,
    /// What the caller says of imported material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
}

impl BackingRecord {
    /// Whether its material is here.
    pub(super) fn is_here(&self, now: Timestamp) -> bool {
        !self.sealed.is_empty() && self.expires.is_none_or(|at| now < at)
    }
}

/// The automatic rotation of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// 90 to 2560.
    pub(super) period_days: u32,
    /// The date of the next one, by the wall clock.
    pub(super) next: Timestamp,
}

/// A key, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) id: KeyId,
    /// Its account and Region, if not the installation's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Place>,
    pub(super) manager: KeyManager,
    pub(super) state: KeyState,
    pub(super) description: String,
    pub(super) created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion: Option<Timestamp>,
    /// The policy document, as it was put; none: AWS's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    #[serde(default = "symmetric", skip_serializing_if = "is_symmetric")]
    pub(super) spec: KeySpec,
    #[serde(default = "encrypts", skip_serializing_if = "is_for_encryption")]
    pub(super) usage: KeyUsage,
    #[serde(default, skip_serializing_if = "is_from_here")]
    pub(super) origin: Origin,
    /// The public key of a pair: SubjectPublicKeyInfo (RFC 5280), DER, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotation: Option<Rotation>,
    /// The Region of the primary key, for a multi-Region key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) primary: Option<String>,
    /// Days to wait for deletion after the last replica is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wait_days: Option<u32>,
    /// Oldest first; the last one that is not pending encrypts.
    pub(super) backing: Vec<BackingRecord>,
}

const fn symmetric() -> KeySpec {
    KeySpec::SymmetricDefault
}

const fn encrypts() -> KeyUsage {
    KeyUsage::EncryptDecrypt
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_symmetric(spec: &KeySpec) -> bool {
    *spec == symmetric()
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_for_encryption(usage: &KeyUsage) -> bool {
    *usage == encrypts()
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_from_here(origin: &Origin) -> bool {
    *origin == Origin::AwsKms
}

impl Record for KeyRecord {
    const KIND: &'static str = "kms-key";
    const INDEXES: &'static [&'static [&'static str]] = &[&["id"], &["state"]];
    fn id(&self) -> String {
        self.key().row()
    }
}

impl KeyRecord {
    /// Its place and id.
    pub(super) fn key(&self) -> KeyName {
        KeyName { place: self.place.clone(), id: self.id }
    }

    /// Its state at a time: a key whose imported material has expired or was deleted is pending import.
    pub(super) fn state_at(&self, now: Timestamp) -> KeyState {
        let has_all = !self.backing.is_empty() && self.backing.iter().all(|b| b.pending || b.is_here(now));
        match self.state {
            KeyState::Enabled | KeyState::Disabled if self.origin == Origin::External && !has_all => {
                KeyState::PendingImport
            }
            state => state,
        }
    }

    /// The backing key that encrypts, signs or makes MACs.
    pub(super) fn current(&self) -> Option<&BackingRecord> {
        self.backing.iter().rev().find(|b| !b.pending)
    }
}

/// The operation is not possible in the key's state.
pub(super) fn invalid_state(verb: &str, arn: &str, why: &str, hint: &str) -> Error {
    let err = Error::new(Kind::InvalidState, format!("{verb}: key {arn} {why}"));
    err.hint(hint)
}

impl KeyRecord {
    /// Refuses the use of a key that is not enabled now.
    pub(super) fn check_usable(&self, verb: &str, arn: &str, now: Timestamp) -> Result<()> {
        let err = |why: &str| Error::new(Kind::KeyUnavailable, format!("{verb}: key {arn} {why}"));
        match self.state_at(now) {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => {
                let err = err("is disabled").reason(Reason::KeyDisabled);
                Err(err.hint(format!("enable it with `coffer key enable {}`", self.id)))
            }
            KeyState::PendingDeletion => {
                let err = err("is pending deletion");
                Err(err.hint(format!("to keep it, run `coffer key cancel-deletion {}`", self.id)))
            }
            KeyState::PendingImport => Err(err("is pending import").hint("import key material with ImportKeyMaterial")),
            KeyState::PendingReplicaDeletion => Err(err("is pending replica deletion")),
            KeyState::Unavailable => Err(err("is unavailable")),
        }
    }

    pub(super) fn check_not_pending(&self, verb: &str, arn: &str) -> Result<()> {
        match self.state {
            KeyState::PendingDeletion | KeyState::PendingReplicaDeletion => Err(invalid_state(
                verb,
                arn,
                "is pending deletion",
                &format!("cancel its deletion first with `coffer key cancel-deletion {}`", self.id),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a new alias or description for a key pending deletion.
    pub(super) fn check_takes_alias(&self, verb: &str, arn: &str) -> Result<()> {
        self.check_not_pending(verb, arn)
    }
}

/// An alias, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AliasRecord {
    pub(super) name: String,
    /// Its account and Region, if not the installation's own; its key has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Place>,
    pub(super) target: KeyId,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
}

impl Record for AliasRecord {
    const KIND: &'static str = "kms-alias";
    const INDEXES: &'static [&'static [&'static str]] = &[&["target"]];
    fn id(&self) -> String {
        row_id(self.place.as_ref(), &self.name)
    }
}

/// The keys and aliases of all accounts and Regions.
pub(super) struct KeyStore {
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    /// What [`KeyStore::timed`] found, and after which change.
    timed: Mutex<Option<(u64, TimedKeys)>>,
}

/// The keys that change by time.
type TimedKeys = Arc<Vec<Versioned<KeyRecord>>>;

/// Keys read at once by [`KeyStore::timed`].
const PAGE: usize = 500;
/// Sorts after the id of each row.
const LAST_ROW: &str = "\u{10ffff}";

impl KeyStore {
    /// Those in a ledger.
    pub(super) fn new(scope: Arc<Scope>, ledger: Arc<Ledger>) -> Self {
        ledger.catalog().make_indexes::<KeyRecord>();
        ledger.catalog().make_indexes::<AliasRecord>();
        Self { scope, ledger, timed: Mutex::default() }
    }

    /// The key that a name refers to. Does not check whether the key exists, unless it is named by an alias.
    pub(super) fn resolve(&self, key: &KeyRef) -> Result<KeyName> {
        let place = key.place.clone().and_then(|p| self.scope.kept(p));
        match &key.target {
            Target::Id(id) => Ok(KeyName { place, id: *id }),
            Target::Alias(name) => {
                let found = match key.pinned {
                    Some(pinned) => pinned,
                    None => {
                        let found = self.alias(place.as_ref(), name);
                        found.map_err(|e| unavailable(format!("alias {name}"), e))?.map(|found| found.record.target)
                    }
                };
                let missing = || {
                    let place = self.scope.place(place.as_ref());
                    Error::new(Kind::NotFound, format!("Alias {} is not found.", place.alias_arn(name)))
                        .hint("see `coffer key alias list`")
                };
                Ok(KeyName { id: found.ok_or_else(missing)?, place })
            }
        }
    }

    /// The record of a key. A damaged one makes this key unavailable, but no other.
    pub(super) fn load(&self, key: &KeyName) -> Result<Versioned<KeyRecord>> {
        let arn = self.scope.arn_of(key);
        let found = self.ledger.catalog().get::<KeyRecord>(&key.row());
        let found = found.map_err(|e| unavailable(format!("key {arn}"), e))?;
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no key {arn}")).hint("see `coffer key list`"))
    }

    /// Whether there is such a key, damaged or not.
    pub(super) fn exists(&self, key: &KeyName) -> bool {
        !matches!(self.ledger.catalog().get::<KeyRecord>(&key.row()), Ok(None))
    }

    /// The record of a key, however it is named.
    pub(super) fn find(&self, key: &KeyRef) -> Result<Versioned<KeyRecord>> {
        self.load(&self.resolve(key)?)
    }

    /// The key of a Region that a ciphertext blob names, of whichever account: preferably this one.
    pub(super) fn of_blob(&self, id: KeyId, at: &Place) -> Result<KeyName> {
        let own = KeyName { place: self.scope.kept(at.clone()), id };
        if self.ledger.catalog().get::<KeyRecord>(&own.row()).is_ok_and(|found| found.is_some()) {
            return Ok(own);
        }
        let here = |key: &KeyRecord| self.scope.place(key.place.as_ref()).region == at.region;
        let all = self.keys_of(id)?.into_iter().map(|k| k.record);
        Ok(all.filter(here).map(|key| key.key()).next().unwrap_or(own))
    }

    /// The keys with an id: several if it is that of a multi-Region key.
    pub(super) fn keys_of(&self, id: KeyId) -> Result<Vec<Versioned<KeyRecord>>> {
        let found = self.ledger.catalog().list_of::<KeyRecord>(&[("id", &id.to_string())])?;
        Ok(found.records.into_iter().filter(|k| k.record.id == id).collect())
    }

    /// All keys; damaged records are listed, not refused.
    pub(super) fn keys(&self) -> Result<Listing<KeyRecord>> {
        self.ledger.catalog().list::<KeyRecord>()
    }

    /// The keys that change by time: those that rotate by themselves, those of the service, and those whose material was
    /// imported. Read anew only after a change of a key, in pages, so that nobody waits for long.
    pub(super) fn timed(&self) -> Result<TimedKeys> {
        let changes = self.ledger.catalog().changes_of(KeyRecord::KIND);
        let mut kept = self.timed.lock();
        if let Some((at, keys)) = &*kept
            && *at == changes
        {
            return Ok(keys.clone());
        }
        let is_timed =
            |k: &KeyRecord| k.rotation.is_some() || k.manager == KeyManager::Aws || k.origin == Origin::External;
        let (mut after, mut timed) = (String::new(), Vec::new());
        loop {
            let page = self.ledger.catalog().page::<KeyRecord>(&after, LAST_ROW, PAGE)?;
            let read = page.records.len() + page.damaged.len();
            let last = page.records.last().map(|k| k.record.id()).max(page.damaged.last().map(|d| d.id.clone()));
            timed.extend(page.records.into_iter().filter(|k| is_timed(&k.record)));
            match last {
                Some(last) if read == PAGE => after = last,
                _ => break,
            }
        }
        let timed = Arc::new(timed);
        *kept = Some((changes, timed.clone()));
        Ok(timed)
    }

    /// The keys that are pending deletion.
    pub(super) fn pending_deletion(&self) -> Result<Vec<Versioned<KeyRecord>>> {
        let mut found = self.ledger.catalog().list_of::<KeyRecord>(&[("state", "PendingDeletion")])?.records;
        found.retain(|k| k.record.state == KeyState::PendingDeletion);
        Ok(found)
    }

    /// The keys of a place after that id, at most `limit`.
    pub(super) fn page(&self, place: Option<&Place>, after: Option<&str>, limit: usize) -> Result<Listing<KeyRecord>> {
        let (first, below) = rows_of(place);
        let after = after.map_or(first, |id| row_id(place, id));
        self.ledger.catalog().page::<KeyRecord>(&after, &below, limit)
    }

    /// The alias of that name.
    pub(super) fn alias(&self, place: Option<&Place>, name: &str) -> Result<Option<Versioned<AliasRecord>>> {
        self.ledger.catalog().get::<AliasRecord>(&row_id(place, name))
    }

    /// All aliases; damaged records are listed, not refused.
    pub(super) fn aliases(&self) -> Result<Listing<AliasRecord>> {
        self.ledger.catalog().list::<AliasRecord>()
    }

    /// The aliases of a place after that name, at most `limit`.
    pub(super) fn alias_page(
        &self,
        place: Option<&Place>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<AliasRecord>> {
        let (first, below) = rows_of(place);
        let after = after.map_or(first, |name| row_id(place, name));
        self.ledger.catalog().page::<AliasRecord>(&after, &below, limit)
    }

    /// The aliases of a key.
    pub(super) fn aliases_of(&self, key: &KeyName) -> Result<Listing<AliasRecord>> {
        let mut all = self.ledger.catalog().list_of::<AliasRecord>(&[("target", &key.id.to_string())])?;
        all.records.retain(|a| a.record.target == key.id && a.record.place == key.place);
        Ok(all)
    }

    /// An act on a key, by its ARN if the key is found, otherwise by the given name.
    pub(super) fn act_on(&self, name: impl Into<String>, key: &KeyRef) -> Act {
        match self.resolve(key) {
            Ok(key) => Act::new(name).key(self.scope.arn_of(&key)),
            Err(_) => Act::new(name).detail("named", key),
        }
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
