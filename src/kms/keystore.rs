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
    /// It can be used.
    Enabled,
    /// Somebody disabled it; enabling it is enough.
    Disabled,
    /// It will be deleted on its deletion date unless that is cancelled.
    PendingDeletion,
    /// Its record or material cannot be believed, or the audit waits to be accepted.
    Unavailable,
}

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyManager {
    /// The customer: made by CreateKey.
    Customer,
    /// The service: made on first use, behind an alias under `alias/aws/`; of no use to public callers.
    Aws,
}

/// One backing key, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackingRecord {
    pub(super) material: KeyMaterialId,
    pub(super) sealed: String,
    pub(super) created: Timestamp,
    pub(super) root_generation: u32,
}

/// A key, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) id: KeyId,
    pub(super) manager: KeyManager,
    pub(super) state: KeyState,
    pub(super) description: String,
    pub(super) created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion: Option<Timestamp>,
    /// The policy's document, as it was put; none: AWS's default.
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

/// The verb cannot be done in the key's state.
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
                Err(err.hint(format!("enable it: coffer key enable {}", self.id)))
            }
            KeyState::PendingDeletion => {
                let err = err("is pending deletion");
                Err(err.hint(format!("if that is a mistake: coffer key cancel-deletion {}", self.id)))
            }
            KeyState::Unavailable => Err(err("is unavailable")),
        }
    }

    pub(super) fn check_not_pending(&self, verb: &str, arn: &str) -> Result<()> {
        match self.state {
            KeyState::PendingDeletion => {
                Err(invalid_state(verb, arn, "is pending deletion", "cancel its deletion first"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what a key pending deletion cannot be given.
    pub(super) fn check_takes_alias(&self, verb: &str, arn: &str) -> Result<()> {
        self.check_not_pending(verb, arn)
    }
}

/// An alias, as it is kept.
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

    /// The id behind a name. Does not look whether the key is there, unless it is named by an alias.
    pub(super) fn resolve(&self, key: &KeyRef) -> Result<KeyId> {
        let here = (self.scope.region(), self.scope.account());
        if key.place.as_ref().is_some_and(|(region, account)| (&**region, &**account) != here) {
            let what = format!("key {key} is of another region or account than this installation");
            return Err(Error::new(Kind::NotFound, what).hint(format!("this one is {} {}", here.0, here.1)));
        }
        match &key.target {
            Target::Id(id) => Ok(*id),
            Target::Alias(name) => {
                let found = self.alias(name).map_err(|e| unavailable(format!("alias {name}"), e))?;
                let missing =
                    || Error::new(Kind::NotFound, format!("alias {name} is not there")).hint("see: coffer key list");
                Ok(found.ok_or_else(missing)?.record.target)
            }
        }
    }

    /// The record behind an id. One that cannot be believed makes that key unavailable, no other.
    pub(super) fn load(&self, id: KeyId) -> Result<Versioned<KeyRecord>> {
        let arn = self.scope.key_arn(id);
        let found = self
            .ledger
            .catalog()
            .get::<KeyRecord>(&id.to_string())
            .map_err(|e| unavailable(format!("key {arn}"), e))?;
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("key {arn} is not there")).hint("see: coffer key list"))
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

    /// An act on a key, by its ARN if it is known which that is, else as it was named.
    pub(super) fn act_on(&self, name: impl Into<String>, key: &KeyRef) -> Act {
        match self.resolve(key) {
            Ok(id) => Act::new(name).key(self.scope.key_arn(id)),
            Err(_) => Act::new(name).detail("named", key),
        }
    }
}

/// A key, or something on the way to it, that cannot be believed: unavailable, whatever was wrong with its record.
pub(super) fn unavailable(what: String, err: Error) -> Error {
    if err.kind() != Kind::Integrity {
        return err;
    }
    let hint = "restore the data directory from a backup, or run `coffer doctor`";
    Error::new(Kind::KeyUnavailable, format!("{what} is unavailable: {}", err.what())).hint(hint)
}
