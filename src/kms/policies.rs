//! The policies of keys: shown, put, and given back when they lock everybody out.

use super::authority::Authorizer;
use super::caller::{Authority, Caller};
use super::key::Keys;
use super::keystore::{KeyManager, KeyStore};
use super::name::KeyRef;
use super::policy::{Facts, Key, Policy};
use super::scope::Scope;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Ledger};
use std::cell::Cell;
use std::sync::Arc;

/// The policies of keys, as callers see and change them.
pub struct KeyPolicies {
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    authorizer: Arc<Authorizer>,
    keys: Arc<Keys>,
}

impl KeyPolicies {
    /// Those of these keys.
    pub(super) const fn new(
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        authorizer: Arc<Authorizer>,
        keys: Arc<Keys>,
    ) -> Self {
        Self { scope, ledger, store, authorizer, keys }
    }

    /// A key's policy, as it was put, or AWS's default if it has none.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn get(&self, key: &KeyRef, caller: &Caller) -> Result<String> {
        self.authorizer.ask(key, "GetKeyPolicy", caller)?;
        self.shown(key)
    }

    /// The same, not authorized.
    ///
    /// # Errors
    /// As for any verb on the key.
    pub fn shown(&self, key: &KeyRef) -> Result<String> {
        let record = self.store.find(key)?.record;
        match &record.policy {
            Some(text) => Ok(text.clone()),
            None => Ok(self.authorizer.policy_of(&record)?.pretty()),
        }
    }

    /// Replaces a key's policy, and returns whether the new one locks the caller out. It takes effect with the next request;
    /// existing leases are not affected.
    ///
    /// # Errors
    /// [`Kind::Usage`] (MalformedPolicyDocumentException), also for a policy with a statement that can never match, and,
    /// without `bypass`, for one that locks the caller out; [`Kind::AccessDenied`], also for a service-managed key.
    pub fn put(&self, key: &KeyRef, document: &str, bypass: bool, caller: &Caller) -> Result<bool> {
        let policy = Policy::parse(document)?;
        let locked_out = Cell::new(false);
        let hash = crate::ledger::sha256_hex(document.as_bytes());
        let act = Act::new("kms:PutKeyPolicy").detail("sha256", hash).detail("bypass-lockout-check", bypass);
        let facts = Facts::new().flag(Key::BypassPolicyLockoutSafetyCheck, bypass);
        let put = self.keys.change_if(key, act, &facts, caller, |key, _, arn| {
            let replaced = key.policy.as_deref().and_then(|text| Policy::parse(text).ok());
            policy.check_edited(arn, replaced.as_ref())?;
            match self.authorizer.check_lockout(&policy, key, caller) {
                Err(err) if !bypass => return Err(err),
                checked => locked_out.set(checked.is_err()),
            }
            key.policy = Some(document.to_owned());
            Ok(())
        });
        put.map(|_| locked_out.get())
    }

    /// Restores a key's default policy, whatever its policy says, for when it locks everybody out; with AWS, its support does
    /// this. Only the account's root may do it, which is uid 0 and can read the key's bytes anyway.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for everybody else and for a service-managed key; as for any verb on the key.
    pub fn reset(&self, key: &KeyRef, caller: &Caller) -> Result<()> {
        if caller.principal != self.scope.root_principal() || caller.authority != Authority::Administrator {
            let what = format!("reset the policy of key {key}: only the account's root may do that");
            let err = Error::new(Kind::AccessDenied, what).hint("run the command as root (uid 0)");
            self.ledger.record_refusal(self.store.act_on("coffer:ResetKeyPolicy", key), caller, &err);
            return Err(err);
        }
        let settled = Caller { authority: Authority::Settled, ..caller.clone() };
        self.keys
            .change(key, Act::new("coffer:ResetKeyPolicy"), &settled, |key, _, arn| {
                if key.manager == KeyManager::Aws {
                    let what = format!("reset the policy of key {arn}: it is managed by the service");
                    return Err(Error::new(Kind::AccessDenied, what));
                }
                key.policy = None;
                Ok(())
            })
            .map(drop)
    }
}
