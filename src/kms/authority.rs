//! Authorization: what a caller may do by itself, and what the key's policy and grants allow.
//!
//! Evaluated in this order: a Deny
//! of the policy refuses. An Allow for the principal allows. An Allow for its account allows if the principal's own
//! permissions ([`Authority`]) do. A grant to the principal that covers the operation allows. Everything else is refused
//! (KMS Developer Guide, "Determining access to AWS KMS keys"). A principal of another account always also needs its own
//! permissions ("Allowing users in other accounts to use a KMS key").

use super::caller::{Authority, Caller, Wanted};
use super::grantstore::{GrantStore, Operation};
use super::keystore::{KeyManager, KeyRecord, KeyStore};
use super::name::KeyRef;
use super::policy::{
    Decision, EXPORT_VOLUME_KEY, Facts, GrantFacts, Key, Own, Policy, PrincipalFacts, Question, Ruling, decide,
};
use super::scope::Scope;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger};
use std::sync::Arc;

pub(super) use super::policy::By;

/// What policies can test of a request for a key: all keys are symmetric, of this installation and of one Region.
fn facts_of(wanted: &Wanted<'_>) -> Facts {
    let facts = Facts::new()
        .text(Key::KeySpec, "SYMMETRIC_DEFAULT")
        .text(Key::KeyUsage, "ENCRYPT_DECRYPT")
        .text(Key::KeyOrigin, "AWS_KMS")
        .flag(Key::MultiRegion, false)
        .context(wanted.context);
    let ciphers = ["Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey"].iter().any(|p| wanted.action.starts_with(p));
    let facts = facts.text_if(Key::EncryptionAlgorithm, ciphers.then_some("SYMMETRIC_DEFAULT"));
    if let Some(grant) = wanted.grant { facts.grant(grant) } else { facts }
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

    /// The properties of a volume lease's grant that policies can test.
    pub(super) fn lease_facts(&self) -> GrantFacts {
        let (service, operations) = (self.scope.volume_service(), vec![Operation::Decrypt.to_string()]);
        GrantFacts {
            for_aws_resource: true,
            operations,
            grantee: Some(service.clone()),
            retiring: Some(service),
            constraint: Some("EncryptionContextEquals"),
        }
    }

    /// Whether the caller administers this installation's account.
    pub(super) fn is_administrator(&self, caller: &Caller) -> bool {
        caller.authority == Authority::Administrator && self.scope.has(&caller.principal)
    }

    /// A key's policy, or AWS's default if it has none.
    pub(super) fn policy_of(&self, key: &KeyRecord) -> Result<Policy> {
        let account = self.scope.account();
        match (&key.policy, key.manager) {
            // It was valid when it was put, perhaps by a newer coffer: a policy that is only partly understood allows nothing.
            (Some(text), _) => Policy::parse(text).map_err(|e| {
                let what = format!(
                    "key {}: this version of coffer does not understand its policy: {}",
                    self.scope.key_arn(key.id),
                    e.what()
                );
                let hint = "use the version of coffer that put the policy, or restore the default as root with `coffer key policy reset`";
                Error::new(Kind::AccessDenied, what).hint(hint)
            }),
            (None, KeyManager::Customer) => Ok(Policy::of_account(account)),
            (None, KeyManager::Aws) => Ok(Policy::of_volume_service(account)),
        }
    }

    /// Whether the caller may do this with a key.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] naming the principal, the action and the key, and whether there is a Deny or no Allow.
    pub(super) fn authorize(&self, key: &KeyRecord, wanted: Wanted<'_>, caller: &Caller) -> Result<By> {
        if caller.authority == Authority::Settled {
            return Ok(By::Policy);
        }
        self.authorize_by(&self.policy_of(key)?, key, wanted, caller)
    }

    fn authorize_by(&self, policy: &Policy, key: &KeyRecord, wanted: Wanted<'_>, caller: &Caller) -> Result<By> {
        let (arn, service) = (self.scope.key_arn(key.id), self.scope.volume_service());
        // Under a lease's grant, the principal is the service, not the one who took the lease.
        let under = if let Authority::Grants(ids) = &caller.authority { Some(ids) } else { None };
        let principal = if under.is_some() { &service } else { &caller.principal };
        let (who, facts) =
            (PrincipalFacts::of_arn(principal).through(caller.via_service.as_deref()), facts_of(&wanted));
        let action = format!("kms:{}", wanted.action);
        let question =
            Question { action: &action, resource: &arn, principal: &who, facts: &facts, now: self.env.now() };
        let own = if caller.authority.permits(&question) { Own::Everything } else { Own::Policies(&[]) };
        let decision = Decision {
            resource_policy: Some(policy),
            own,
            session: None,
            grants_allow: false,
            question: &question,
            same_account: self.scope.has(principal),
        };
        let by_policy = decide(&decision);
        let refused = |why: &str| self.denied(principal, wanted.action, key, why);
        match by_policy {
            Ruling::Denied(why) if why.is_explicit() => return Err(refused(&why.words(&action))),
            Ruling::Allowed(by) if under.is_none() => return Ok(by),
            _ => {}
        }
        if let Some(ids) = under {
            for id in ids {
                if self.granted.get(id)?.is_some_and(|g| g.covers(key.id, principal, &wanted)) {
                    return Ok(By::Grant);
                }
            }
            let why = format!("because its grant {} was revoked or retired", ids.join(", "));
            return Err(refused(&why).hint("detach the volume, then attach it again"));
        }
        // The grants are read only if the policies do not settle it.
        let grants_allow = self.granted.covers(key.id, principal, &wanted)?;
        match decide(&Decision { grants_allow, ..decision }) {
            Ruling::Allowed(by) => Ok(by),
            Ruling::Denied(why) => Err(refused(&why.words(&action))),
        }
    }

    /// Authorizes an operation that this module does not perform itself; a refusal is audited.
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

    /// Authorizes the use of a volume under this key: CreateGrant for a lease of the service, and Decrypt; under a lease's
    /// grants only Decrypt. Writes nothing except an audit record of a refusal.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn ask_for_volume(&self, key: &KeyRef, context: &EncryptionContext, caller: &Caller) -> Result<()> {
        if caller.authority == Authority::Settled {
            return Ok(());
        }
        let facts = self.lease_facts();
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

    /// Authorizes the export of a volume's plaintext data key: Decrypt, as for opening the volume, and `kms:ExportVolumeKey`,
    /// which a policy can deny separately. A refusal is audited.
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

    /// Refuses a policy under which its author could no longer change the policy.
    pub(super) fn check_lockout(&self, policy: &Policy, key: &KeyRecord, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        let wanted = Wanted { action: "PutKeyPolicy", context: &context, grant: None };
        self.authorize_by(policy, key, wanted, caller).map(drop).map_err(|_| {
            let what =
                format!("key policy: with this policy, {} could no longer change the key's policy", caller.principal);
            Error::new(Kind::Usage, what)
                .reason(Reason::MalformedPolicy)
                .hint("allow that principal kms:PutKeyPolicy, or use --bypass-policy-lockout-safety-check")
        })
    }

    /// A refusal in AWS's words. The hint is one that the caller is allowed to follow.
    fn denied(&self, principal: &str, action: &str, key: &KeyRecord, why: &str) -> Error {
        let (arn, id) = (self.scope.key_arn(key.id), key.id);
        let what = format!("User: {principal} is not authorized to perform: kms:{action} on resource: {arn} {why}");
        let locked_out = action == "GetKeyPolicy" && key.manager == KeyManager::Customer;
        let hint = match (locked_out, *principal == self.scope.root_principal()) {
            (true, true) => format!("restore the default policy with `coffer key policy reset {id}`"),
            (true, false) => format!("run `coffer key policy reset {id}` as root to restore the default policy"),
            (false, true) if key.manager == KeyManager::Customer => format!(
                "see `coffer key policy show {id}`; if the policy locks you out, use `coffer key policy reset {id}`"
            ),
            (false, _) => format!("see what the key allows with `coffer key policy show {id}`"),
        };
        Error::new(Kind::AccessDenied, what).hint(hint)
    }
}
