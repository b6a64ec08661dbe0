//! Keys and aliases as they are kept in the catalog, and how they are found.

use super::name::{KeyRef, Target};
use super::scope::Scope;
use crate::cipher::wrap::{KeyId, KeyMaterialId};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger, Listing, Record, Versioned};
use serde::{Deserialize, Serialize};
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
    pub(super) sealed: String,
    pub(super) created: Timestamp,
    pub(super) root_generation: u32,
}

/// A key, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) id: KeyId,
    pub(super) manager: KeyManager,
    pub(super) state: KeyState,
    pub(super) description: String,
    pub(super) created: Timestamp,
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

/// The operation is not possible in the key's state.
pub(super) fn invalid_state(verb: &str, arn: &str, why: &str, hint: &str) -> Error {
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

    pub(super) fn check_not_pending(&self, verb: &str, arn: &str) -> Result<()> {
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

    /// Refuses a new alias or description for a key pending deletion.
    pub(super) fn check_takes_alias(&self, verb: &str, arn: &str) -> Result<()> {
        self.check_not_pending(verb, arn)
    }
}

/// An alias, as stored in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AliasRecord {
    pub(super) name: String,
    pub(super) target: KeyId,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
}

impl Record for AliasRecord {
    const KIND: &'static str = "kms-alias";
    fn id(&self) -> String {
        self.name.clone()
    }
}

/// The keys and aliases of an account in a Region.
pub(super) struct KeyStore {
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
}

impl KeyStore {
    /// Those in a ledger.
    pub(super) const fn new(scope: Arc<Scope>, ledger: Arc<Ledger>) -> Self {
        Self { scope, ledger }
    }

    /// The key id of a name. Does not check whether the key exists, unless it is named by an alias.
    pub(super) fn resolve(&self, key: &KeyRef) -> Result<KeyId> {
        let here = (self.scope.region(), self.scope.account());
        if key.place.as_ref().is_some_and(|(region, account)| (&**region, &**account) != here) {
            let what = format!("key {key} belongs to another region or account");
            return Err(Error::new(Kind::NotFound, what)
                .hint(format!("this installation is region {}, account {}", here.0, here.1)));
        }
        match &key.target {
            Target::Id(id) => Ok(*id),
            Target::Alias(name) => {
                let found = self.alias(name).map_err(|e| unavailable(format!("alias {name}"), e))?;
                let missing = || {
                    Error::new(Kind::NotFound, format!("there is no alias {name}")).hint("see `coffer key alias list`")
                };
                Ok(found.ok_or_else(missing)?.record.target)
            }
        }
    }

    /// The record of a key. A damaged one makes this key unavailable, but no other.
    pub(super) fn load(&self, id: KeyId) -> Result<Versioned<KeyRecord>> {
        let arn = self.scope.key_arn(id);
        let found = self
            .ledger
            .catalog()
            .get::<KeyRecord>(&id.to_string())
            .map_err(|e| unavailable(format!("key {arn}"), e))?;
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no key {arn}")).hint("see `coffer key list`"))
    }

    /// The record of a key, however it is named.
    pub(super) fn find(&self, key: &KeyRef) -> Result<Versioned<KeyRecord>> {
        self.load(self.resolve(key)?)
    }

    /// All keys; damaged records are listed, not refused.
    pub(super) fn keys(&self) -> Result<Listing<KeyRecord>> {
        self.ledger.catalog().list::<KeyRecord>()
    }

    /// The alias of that name.
    pub(super) fn alias(&self, name: &str) -> Result<Option<Versioned<AliasRecord>>> {
        self.ledger.catalog().get::<AliasRecord>(name)
    }

    /// All aliases; damaged records are listed, not refused.
    pub(super) fn aliases(&self) -> Result<Listing<AliasRecord>> {
        self.ledger.catalog().list::<AliasRecord>()
    }

    /// An act on a key, by its ARN if the key is found, otherwise by the given name.
    pub(super) fn act_on(&self, name: impl Into<String>, key: &KeyRef) -> Act {
        match self.resolve(key) {
            Ok(id) => Act::new(name).key(self.scope.key_arn(id)),
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
