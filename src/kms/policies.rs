//! The policies of keys: shown, put, and given back when they lock everybody out.

use super::authority::Authorizer;
use super::caller::{Authority, Caller};
use super::key::Keys;
use super::keystore::KeyStore;
use super::name::KeyRef;
use super::policy::Policy;
use super::scope::Scope;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Act, Ledger};
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

    /// A key's policy, as it was put; of a key that was given none, AWS's default.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn get(&self, key: &KeyRef, caller: &Caller) -> Result<String> {
        self.authorizer.ask(key, "GetKeyPolicy", caller)?;
        let record = self.store.find(key)?.record;
        match &record.policy {
            Some(text) => Ok(text.clone()),
            None => Ok(self.authorizer.policy_of(&record)?.pretty()),
        }
    }

    /// Gives a key another policy. It holds from the next question on; leases that were let in before go on.
    ///
    /// # Errors
    /// [`Kind::Usage`] (MalformedPolicyDocumentException), also for a policy with a statement that can never match, and for one
    /// under which the caller could not put another one, unless `bypass` says that this is meant; [`Kind::AccessDenied`], also for a service-managed key.
    pub fn put(&self, key: &KeyRef, document: &str, bypass: bool, caller: &Caller) -> Result<()> {
        let policy = Policy::parse(document)?;
        let hash = crate::ledger::sha256_hex(document.as_bytes());
        let act = Act::new("kms:PutKeyPolicy").detail("sha256", hash).detail("bypass-lockout-check", bypass);
        let put = self.keys.change(key, act, caller, |key, _, arn| {
            policy.check(arn)?;
            if !bypass {
                self.authorizer.check_lockout(&policy, key, caller)?;
            }
            key.policy = Some(document.to_owned());
            Ok(())
        });
        put.map(drop)
    }

    /// Gives a key AWS's default policy again, whatever its policy says: the way back for who locked everybody out, where AWS
    /// has its support. The account's root alone may do it, which on this machine is uid 0 and owns the key's bytes anyway.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for everybody else and for a service-managed key; as for any verb on the key.
    pub fn reset(&self, key: &KeyRef, caller: &Caller) -> Result<()> {
        if caller.principal != self.scope.root_principal() || !self.authorizer.is_administrator(caller) {
            let what = format!("reset the policy of key {key}: the account's root alone may do that");
            let err = Error::new(Kind::AccessDenied, what).hint("run it as uid 0");
            self.ledger.record_refusal(self.store.act_on("coffer:ResetKeyPolicy", key), caller, &err);
            return Err(err);
        }
        let settled = Caller { authority: Authority::Settled, ..caller.clone() };
        self.keys
            .change(key, Act::new("coffer:ResetKeyPolicy"), &settled, |key, _, _| {
                key.policy = None;
                Ok(())
            })
            .map(drop)
    }
}
