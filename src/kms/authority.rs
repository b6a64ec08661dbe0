//! By what right a caller asks, and what the key's policy and grants say to it.
//!
//! In this order: a Deny of the policy refuses. An Allow that names the principal allows. An Allow that names its account
//! allows if the principal's own permissions ([`Authority`]) do. A grant to the principal that covers the operation allows.
//! All else is refused (KMS Developer Guide, "Determining access to AWS KMS keys"). A principal of another account needs its own
//! permissions in every case: what the key's side allows it is half of it ("Allowing users in other accounts to use a KMS key").

use super::caller::{Authority, Caller, Wanted};
use super::grantstore::{GrantStore, Operation};
use super::keystore::{KeyManager, KeyRecord, KeyStore};
use super::name::KeyRef;
use super::policy::{EXPORT_VOLUME_KEY, GrantFacts, Policy, Question, Verdict};
use super::scope::Scope;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger};
use std::sync::Arc;

/// What allowed an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Policy,
    Grant,
}

/// What a volume's lease asks of the policy for the grant that it lives by.
pub(super) fn lease_facts() -> GrantFacts {
    GrantFacts { for_aws_resource: true, operations: vec![Operation::Decrypt.to_string()] }
}

/// Says whether a caller may do something with a key.
pub struct Authorizer {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    granted: Arc<GrantStore>,
}

impl Authorizer {
    /// By the policies of these keys and these grants.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        granted: Arc<GrantStore>,
    ) -> Self {
        Self { env, scope, ledger, store, granted }
    }

    /// Whether the caller administers this installation's account.
    pub(super) fn is_administrator(&self, caller: &Caller) -> bool {
        caller.authority == Authority::Administrator && self.scope.has(&caller.principal)
    }

    /// The policy that a key has, or AWS's default for one that was given none.
    pub(super) fn policy_of(&self, key: &KeyRecord) -> Result<Policy> {
        let account = self.scope.account();
        match (&key.policy, key.manager) {
            // It was understood when it was put, perhaps by a newer coffer than this one: nobody is let in by half of it.
            (Some(text), _) => Policy::parse(text).map_err(|e| {
                let what = format!(
                    "key {}: this build does not understand its policy: {}",
                    self.scope.key_arn(key.id),
                    e.what()
                );
                let hint = "use the coffer version that put it; uid 0 may give it the default: coffer key policy reset";
                Error::new(Kind::AccessDenied, what).hint(hint)
            }),
            (None, KeyManager::Customer) => Ok(Policy::of_account(account)),
            (None, KeyManager::Aws) => Ok(Policy::of_volume_service(account)),
        }
    }

    /// Whether the caller may do this with a key.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] saying who may not do what on which key, and whether a Deny says so or no Allow does.
    pub(super) fn authorize(&self, key: &KeyRecord, wanted: Wanted<'_>, caller: &Caller) -> Result<By> {
        if caller.authority == Authority::Settled {
            return Ok(By::Policy);
        }
        self.authorize_by(&self.policy_of(key)?, key, wanted, caller)
    }

    fn authorize_by(&self, policy: &Policy, key: &KeyRecord, wanted: Wanted<'_>, caller: &Caller) -> Result<By> {
        let (arn, service) = (self.scope.key_arn(key.id), self.scope.volume_service());
        // Under a lease's grant the service asks, not who began the lease.
        let principal = match &caller.authority {
            Authority::Grants(_) => &service,
            _ => &caller.principal,
        };
        let question = Question {
            action: wanted.action,
            resource: &arn,
            principal,
            via_service: caller.via_service.as_deref(),
            context: wanted.context,
            grant: wanted.grant,
            now: self.env.now(),
        };
        let refuse = |why: &str| Err(denied(principal, wanted.action, &arn, why));
        let verdict = policy.verdict(&question);
        if verdict == Verdict::Denied {
            return refuse("with an explicit deny in a resource-based policy");
        }
        if let Authority::Grants(ids) = &caller.authority {
            for id in ids {
                if self.granted.get(id)?.is_some_and(|g| g.covers(key.id, principal, &wanted)) {
                    return Ok(By::Grant);
                }
            }
            let why = format!("because its grant {} was revoked or retired", ids.join(", "));
            return Err(denied(principal, wanted.action, &arn, &why).hint("detach the volume, then attach it again"));
        }
        let own = caller.authority.permits(&question);
        let foreign = !self.scope.has(principal);
        let lacks_own = || format!("because no identity-based policy allows the kms:{} action", wanted.action);
        if foreign && !own {
            return refuse(&lacks_own());
        }
        if verdict == Verdict::Allowed || (verdict == Verdict::Delegated && own) {
            return Ok(By::Policy);
        }
        if self.granted.covers(key.id, principal, &wanted)? {
            return Ok(By::Grant);
        }
        if verdict == Verdict::Delegated {
            return refuse(&lacks_own());
        }
        refuse(&format!("because no resource-based policy allows the kms:{} action", wanted.action))
    }

    /// Asks for an operation that this module does not do itself; a refusal is audited.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]; [`Kind::NotFound`], [`Kind::KeyUnavailable`] as for any verb on the key.
    pub fn ask(&self, key: &KeyRef, action: &str, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        let asked = || {
            let record = self.store.find(key)?.record;
            self.authorize(&record, Wanted { action, context: &context, grant: None }, caller).map(drop)
        };
        asked().inspect_err(|e| self.ledger.record_refusal(self.store.act_on(format!("kms:{action}"), key), caller, e))
    }

    /// Asks whether the caller may have a volume under this key: CreateGrant for a lease of the service, and Decrypt. Under a
    /// lease's grants that is Decrypt alone. Nothing is written, but for a refusal into the audit.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn ask_for_volume(&self, key: &KeyRef, context: &EncryptionContext, caller: &Caller) -> Result<()> {
        if caller.authority == Authority::Settled {
            return Ok(());
        }
        let facts = lease_facts();
        let under_grant = matches!(caller.authority, Authority::Grants(_));
        let wanted = [
            Wanted { action: "CreateGrant", context, grant: Some(&facts) },
            Wanted { action: "Decrypt", context, grant: None },
        ];
        let id = self.store.resolve(key)?;
        let mut act = "kms:Decrypt";
        let mut asked = || {
            let record = self.store.load(id)?.record;
            let wanted = wanted.iter().filter(|w| !under_grant || w.action == "Decrypt");
            wanted.copied().try_for_each(|w| {
                act = if w.action == "Decrypt" { "kms:Decrypt" } else { "kms:CreateGrant" };
                self.authorize(&record, w, caller).map(drop)
            })
        };
        let answer = asked();
        answer.inspect_err(|e| {
            self.ledger.record_refusal(Act::new(act).key(self.scope.key_arn(id)).context(context), caller, e)
        })
    }

    /// Asks whether the caller may have the clear data key of a volume under this key: Decrypt, as for opening the volume, and
    /// `kms:ExportVolumeKey`, which a policy can refuse by itself. A refusal is audited.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn ask_for_export(&self, key: &KeyRef, context: &EncryptionContext, caller: &Caller) -> Result<()> {
        let asked = || {
            let record = self.store.find(key)?.record;
            ["Decrypt", EXPORT_VOLUME_KEY].iter().try_for_each(|action| {
                self.authorize(&record, Wanted { action, context, grant: None }, caller).map(drop)
            })
        };
        let act = || self.store.act_on(format!("kms:{EXPORT_VOLUME_KEY}"), key).context(context);
        asked().inspect_err(|e| self.ledger.record_refusal(act(), caller, e))
    }

    /// Refuses a policy under which its author could not put the next one.
    pub(super) fn check_lockout(&self, policy: &Policy, key: &KeyRecord, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        let wanted = Wanted { action: "PutKeyPolicy", context: &context, grant: None };
        self.authorize_by(policy, key, wanted, caller).map(drop).map_err(|_| {
            let what = format!("key policy: under it, {} could not put another one", caller.principal);
            Error::new(Kind::Usage, what)
                .reason(Reason::MalformedPolicy)
                .hint("let it allow that principal kms:PutKeyPolicy, or say --bypass-policy-lockout-safety-check")
        })
    }
}

fn denied(principal: &str, action: &str, arn: &str, why: &str) -> Error {
    let what = format!("User: {principal} is not authorized to perform: kms:{action} on resource: {arn} {why}");
    let key = arn.rsplit('/').next().unwrap_or(arn);
    Error::new(Kind::AccessDenied, what).hint(format!("see what the key allows: coffer key policy show {key}"))
}
