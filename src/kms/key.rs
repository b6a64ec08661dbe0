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
use super::backing::{BackingKeys, ORIGIN, SPEC};
use super::caller::{Caller, Wanted};
use super::keystore::{AliasRecord, BackingRecord, KeyManager, KeyRecord, KeyState, KeyStore, invalid_state};
use super::name::{EBS_ALIAS, KeyRef};
use super::policy::Policy;
use super::scope::Scope;
use super::waiting::Deletions;
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Damaged, Ledger, Tx, Versioned};
use serde::Serialize;
use std::sync::Arc;

/// Milliseconds in a day.
const DAY: i64 = 24 * 60 * 60 * 1000;
/// The most on-demand rotations of a key (KMS Developer Guide, "Quotas").
pub const MAX_ROTATIONS: usize = 25;
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

/// The keys, as callers see and change them.
pub struct Keys {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    backing: Arc<BackingKeys>,
    authorizer: Arc<Authorizer>,
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
            arn: self.scope.key_arn(key.id),
            account: self.scope.account().to_owned(),
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

    /// Creates a key, enabled, with its first backing key.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a description above 8192 characters.
    pub fn create(&self, description: &str, caller: &Caller) -> Result<KeyMetadata> {
        self.create_with(&NewKey { description, ..NewKey::default() }, caller)
    }

    /// The same, with a policy or an alias: key and alias are created in one transaction.
    ///
    /// # Errors
    /// As [`Keys::create`], [`KeyPolicies::put`](super::KeyPolicies::put) and [`Aliases::create`](super::Aliases::create).
    pub fn create_with(&self, new: &NewKey<'_>, caller: &Caller) -> Result<KeyMetadata> {
        let NewKey { description, policy, bypass_lockout_check, alias } = *new;
        check_description(description)?;
        let alias = alias.map(|name| NewAlias::new(name, self.env.now())).transpose()?;
        let mut key = self.new_key(KeyManager::Customer, description)?;
        let mut act = Act::new("kms:CreateKey").key(self.scope.key_arn(key.id));
        if let Some(document) = policy {
            let parsed = Policy::parse(document)?;
            parsed.check(&self.scope.key_arn(key.id))?;
            if !bypass_lockout_check {
                self.authorizer.check_lockout(&parsed, &key, caller)?;
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
            self.authorizer.authorize(&key, ask_for_alias, caller)?;
            alias.put(tx, key.id).map(drop)
        })?;
        Ok(self.metadata(&key))
    }

    fn new_key(&self, manager: KeyManager, description: &str) -> Result<KeyRecord> {
        let id = KeyId::draw(&*self.env.rng);
        Ok(KeyRecord {
            id,
            manager,
            state: KeyState::Enabled,
            description: description.into(),
            created: self.env.now(),
            deletion: None,
            policy: None,
            backing: vec![self.backing.create(id)?],
        })
    }

    /// Creates the service-managed key behind `alias/aws/ebs`, unless it exists.
    pub(super) fn ensure_ebs_default(&self, caller: &Caller) -> Result<()> {
        if self.store.alias(EBS_ALIAS)?.is_some() {
            return Ok(());
        }
        let key = self.new_key(KeyManager::Aws, "Default key for volumes if no other key is given")?;
        let now = self.env.now();
        let alias = AliasRecord { name: EBS_ALIAS.into(), target: key.id, created: now, updated: now };
        let act = Act::new("kms:CreateKey").key(self.scope.key_arn(key.id)).detail("alias", EBS_ALIAS);
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
        Ok(self.metadata(&self.store.find(key)?.record))
    }

    /// All keys.
    ///
    /// # Errors
    /// What the catalog reports; damaged records are listed, not refused.
    pub fn list(&self) -> Result<KeyListing> {
        let listing = self.store.keys()?;
        let keys = listing.records.iter().map(|k| self.metadata(&k.record)).collect();
        Ok(KeyListing { keys, damaged: listing.damaged })
    }

    /// Refuses a key whose state forbids its use.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::KeyUnavailable`] naming the state.
    pub fn must_be_usable(&self, arn: &str, verb: &str) -> Result<()> {
        self.store.find(&arn.parse()?)?.record.check_usable(verb, arn)
    }

    /// Changes a customer managed key in an audited transaction, if its policy allows it.
    pub(super) fn change(
        &self,
        key: &KeyRef,
        act: Act,
        caller: &Caller,
        change: impl Fn(&mut KeyRecord, &str, &str) -> Result<()>,
    ) -> Result<KeyMetadata> {
        let id = self.store.resolve(key)?;
        let arn = self.scope.key_arn(id);
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let key = self.ledger.audited(caller, act.key(arn.clone()), |tx: &mut Tx<'_>| {
            let Versioned { mut record, version } = self.store.load(id)?;
            if record.manager == KeyManager::Aws {
                let what = format!("{verb}: key {arn} is managed by the service");
                return Err(
                    Error::new(Kind::AccessDenied, what).hint("create a key of your own with `coffer key create`")
                );
            }
            let context = EncryptionContext::new();
            self.authorizer.authorize(&record, Wanted { action: &verb, context: &context, grant: None }, caller)?;
            change(&mut record, &verb, &arn)?;
            Ok(tx.update(&record, version)?.record)
        })?;
        Ok(self.metadata(&key))
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
        let meta = self.change(key, act, caller, |key, verb, arn| {
            key.check_not_pending(verb, arn)?;
            (key.state, key.deletion) = (KeyState::PendingDeletion, Some(at));
            Ok(())
        })?;
        // Counts from now, not from the next check.
        if let Err(e) = self.store.keys().and_then(|keys| self.deletions.count(&keys.records)) {
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
            if key.state != KeyState::PendingDeletion {
                return Err(invalid_state(
                    verb,
                    arn,
                    "is not pending deletion",
                    "see its state with `coffer key show`",
                ));
            }
            let waits = |at| self.deletions.pending_of(key.id, at).map(|p| at > self.env.now() || p.left > 0);
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
    /// [`MAX_ROTATIONS`]; as [`Keys::enable`].
    pub fn rotate_on_demand(&self, key: &KeyRef, caller: &Caller) -> Result<KeyMetadata> {
        self.change(key, Act::new("kms:RotateKeyOnDemand"), caller, |key, verb, arn| {
            key.check_usable(verb, arn)?;
            if key.backing.len() > MAX_ROTATIONS {
                let what = format!("{verb}: key {arn} has reached the limit of {MAX_ROTATIONS} rotations");
                let err = Error::new(Kind::InvalidState, what).reason(Reason::LimitExceeded);
                return Err(err.hint("create a new key and re-encrypt under it"));
            }
            key.backing.push(self.backing.create(key.id)?);
            Ok(())
        })
    }
}

fn check_description(text: &str) -> Result<()> {
    if text.chars().count() > MAX_DESCRIPTION {
        return Err(Error::new(Kind::Usage, format!("the description is longer than {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
