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
    Decision, EXPORT_VOLUME_KEY, Facts, GrantFacts, Key, Own, Policy, PrincipalFacts, Question, Ruling, account_of,
    decide,
};
use super::scope::{Place, Scope};
use crate::cipher::wrap::EncryptionContext;
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::iam::{AssumeRole, Role};
use crate::ledger::{Act, Ledger};
use std::sync::Arc;

pub(super) use super::policy::By;

/// The permissions on a key that principals of another account can have; in a policy, others have no effect for them (KMS
/// Developer Guide, "Allowing users in other accounts to use a KMS key").
const ACROSS_ACCOUNTS: [&str; 21] = [
    "CreateGrant",
    "Decrypt",
    "DeriveSharedSecret",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GetKeyRotationStatus",
    "GetPublicKey",
    "ListGrants",
    "ReEncryptFrom",
    "ReEncryptTo",
    "RetireGrant",
    "RevokeGrant",
    "Sign",
    "Verify",
    "VerifyMac",
    EXPORT_VOLUME_KEY,
];

/// What a caller has by itself.
struct Rights<'a> {
    who: PrincipalFacts,
    identity: Option<&'a [Policy]>,
    session: Option<&'a [Policy]>,
    /// What policies can test of its request.
    request: Option<&'a Facts>,
}

impl<'a> Rights<'a> {
    /// Those of a caller that acts as this principal.
    fn of(caller: &'a Caller, principal: &str) -> Self {
        let via = caller.via_service.as_deref();
        match &caller.authority {
            Authority::Principal(p) => Self {
                who: p.principal.clone().through(via),
                identity: Some(p.identity.as_deref().unwrap_or_default()),
                session: p.session.as_deref(),
                request: Some(&p.request),
            },
            _ => Self {
                who: PrincipalFacts::of_arn(principal).through(via),
                identity: None,
                session: None,
                request: None,
            },
        }
    }

    fn own(&self, caller: &Caller, question: &Question<'_>) -> Own<'a> {
        match caller.authority.permits(question) {
            true => Own::Everything,
            false => Own::Policies(self.identity.unwrap_or_default()),
        }
    }

    fn mention_aliases(&self) -> bool {
        let all = [self.identity, self.session].into_iter().flatten().flatten();
        all.into_iter().any(Policy::mentions_aliases)
    }
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

    /// Whether the caller administers an account: it is its root, or the installation's administrator.
    pub(super) fn is_administrator(&self, caller: &Caller, of: Option<&Place>) -> bool {
        let own = account_of(&caller.principal) == Some(&*self.scope.place(of).account);
        own && match &caller.authority {
            Authority::Administrator => true,
            Authority::Principal(permissions) => permissions.identity.is_none() && permissions.session.is_none(),
            _ => false,
        }
    }

    /// A key's policy, or AWS's default if it has none.
    pub(super) fn policy_of(&self, key: &KeyRecord) -> Result<Policy> {
        let place = self.scope.place(key.place.as_ref());
        match (&key.policy, key.manager) {
            // It was valid when it was put, perhaps by a newer coffer: a policy that is only partly understood allows nothing.
            (Some(text), _) => Policy::parse(text).map_err(|e| {
                let what = format!(
                    "key {}: this version of coffer does not understand its policy: {}",
                    self.scope.arn_of(&key.key()),
                    e.what()
                );
                let hint = "use the version of coffer that put the policy, or restore the default as root with `coffer key policy reset`";
                Error::new(Kind::AccessDenied, what).hint(hint)
            }),
            (None, KeyManager::Customer) => Ok(Policy::of_account(&place.account)),
            (None, KeyManager::Aws) => Ok(Policy::of_volume_service(&place.account)),
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

    /// What policies can test of a key.
    fn facts_of(&self, key: &KeyRecord, wanted: &Wanted<'_>, mentions_aliases: bool) -> Result<Facts> {
        let place = self.scope.place(key.place.as_ref());
        let kind = |primary: &String| if *primary == place.region { "PRIMARY" } else { "REPLICA" };
        let mut facts = Facts::new()
            .text(Key::KeySpec, key.spec.name())
            .text(Key::KeyUsage, key.usage.name())
            .text(Key::KeyOrigin, key.origin.name())
            .flag(Key::MultiRegion, key.primary.is_some())
            .text_if(Key::MultiRegionKeyType, key.primary.as_ref().map(kind))
            .text(Key::ResourceAccount, place.account.clone())
            .resource_tags(key.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .context(wanted.context);
        // A list that few policies ask for.
        if mentions_aliases {
            let aliases = self.store.aliases_of(&key.key())?.records;
            facts = facts.texts(Key::ResourceAliases, aliases.into_iter().map(|a| a.record.name));
        }
        if let Some(more) = wanted.facts {
            facts = facts.and(more);
        }
        Ok(if let Some(grant) = wanted.grant { facts.grant(grant) } else { facts })
    }

    fn authorize_by(&self, policy: &Policy, key: &KeyRecord, wanted: Wanted<'_>, caller: &Caller) -> Result<By> {
        let (arn, service) = (self.scope.arn_of(&key.key()), self.scope.volume_service());
        // Under a lease's grant, the principal is the service, not the one who took the lease.
        let under = if let Authority::Grants(ids) = &caller.authority { Some(ids) } else { None };
        let principal = if under.is_some() { &service } else { &caller.principal };
        let own = Rights::of(caller, principal);
        let facts = self.facts_of(key, &wanted, policy.mentions_aliases() || own.mention_aliases())?;
        let facts = if let Some(request) = own.request { facts.and(request) } else { facts };
        let action = format!("kms:{}", wanted.action);
        let question =
            Question { action: &action, resource: &arn, principal: &own.who, facts: &facts, now: self.env.now() };
        let same_account = account_of(principal) == Some(&*self.scope.place(key.place.as_ref()).account);
        let refused = |why: &str| self.denied(principal, wanted.action, key, why);
        if !same_account && !ACROSS_ACCOUNTS.contains(&wanted.action) {
            return Err(refused("because no other account can have this permission"));
        }
        let decision = Decision {
            resource_policy: Some(policy),
            own: own.own(caller, &question),
            session: own.session,
            grants_allow: false,
            question: &question,
            same_account,
        };
        let by_policy = decide(&decision);
        match by_policy {
            Ruling::Denied(why) if why.is_explicit() => return Err(refused(&why.words(&action))),
            Ruling::Allowed(by) if under.is_none() => return Ok(by),
            _ => {}
        }
        if let Some(ids) = under {
            for id in ids {
                if self.granted.get(id)?.is_some_and(|g| g.covers(&key.key(), principal, &wanted)) {
                    return Ok(By::Grant);
                }
            }
            let why = format!("because its grant {} was revoked or retired", ids.join(", "));
            return Err(refused(&why).hint("detach the volume, then attach it again"));
        }
        // The grants are read only if the policies do not settle it. A role's session has those of the role, too.
        let mut grants_allow = self.granted.covers(&key.key(), principal, &wanted)?;
        for name in own.who.other_names().into_iter().flatten() {
            grants_allow = grants_allow || self.granted.covers(&key.key(), name, &wanted)?;
        }
        match decide(&Decision { grants_allow, ..decision }) {
            Ruling::Allowed(by) => Ok(by),
            Ruling::Denied(why) => Err(refused(&why.words(&action))),
        }
    }

    /// Whether a caller that a grant lets retire it may do so: only a Deny, or its session's policies, can forbid it.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`].
    pub(super) fn may_retire(&self, key: &KeyRecord, caller: &Caller) -> Result<()> {
        let (policy, arn) = (self.policy_of(key)?, self.scope.arn_of(&key.key()));
        let (own, none) = (Rights::of(caller, &caller.principal), EncryptionContext::new());
        let wanted = Wanted { action: "RetireGrant", context: &none, grant: None, facts: None };
        let facts = self.facts_of(key, &wanted, policy.mentions_aliases() || own.mention_aliases())?;
        let facts = if let Some(request) = own.request { facts.and(request) } else { facts };
        let action = "kms:RetireGrant";
        let question = Question { action, resource: &arn, principal: &own.who, facts: &facts, now: self.env.now() };
        let decision = Decision {
            resource_policy: Some(&policy),
            own: own.own(caller, &question),
            session: own.session,
            grants_allow: true,
            question: &question,
            same_account: account_of(&caller.principal) == Some(&*self.scope.place(key.place.as_ref()).account),
        };
        match decide(&decision) {
            Ruling::Allowed(_) => Ok(()),
            Ruling::Denied(why) => Err(self.denied(&caller.principal, "RetireGrant", key, &why.words(action))),
        }
    }

    /// Authorizes an operation that this module does not perform itself; a refusal is audited.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]; [`Kind::NotFound`], [`Kind::KeyUnavailable`] as for any verb on the key.
    pub fn ask(&self, key: &KeyRef, action: &str, caller: &Caller) -> Result<()> {
        self.ask_about(key, action, &Facts::new(), caller)
    }

    /// The same, with what policies can test of the request.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn ask_about(&self, key: &KeyRef, action: &str, facts: &Facts, caller: &Caller) -> Result<()> {
        let (context, facts) = (EncryptionContext::new(), key.facts().and(facts));
        let asked = || {
            let record = self.store.find(key)?.record;
            let wanted = Wanted { action, context: &context, grant: None, facts: Some(&facts) };
            self.authorize(&record, wanted, caller).map(drop)
        };
        asked().inspect_err(|e| self.ledger.record_refusal(self.store.act_on(format!("kms:{action}"), key), caller, e))
    }

    /// Authorizes an operation of the caller's account that is on no key, such as ListKeys: the caller's own permissions decide.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`].
    pub fn ask_own(&self, action: &str, caller: &Caller) -> Result<()> {
        self.ask_own_about(action, "*", &Facts::new(), caller)
    }

    /// The same for a resource of another service, and what policies can test of the request. The action has its service's
    /// prefix, as `sts:AssumeRole`, or is one of the KMS.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`].
    pub fn ask_own_about(&self, action: &str, resource: &str, facts: &Facts, caller: &Caller) -> Result<()> {
        let action = if action.contains(':') { action.to_owned() } else { format!("kms:{action}") };
        let own = Rights::of(caller, &caller.principal);
        let facts = own.request.map_or_else(|| facts.clone(), |request| request.clone().and(facts));
        let question = Question { action: &action, resource, principal: &own.who, facts: &facts, now: self.env.now() };
        let decision = Decision {
            resource_policy: None,
            own: own.own(caller, &question),
            session: own.session,
            grants_allow: false,
            question: &question,
            same_account: true,
        };
        let Ruling::Denied(why) = decide(&decision) else { return Ok(()) };
        let on = if resource == "*" { String::new() } else { format!(" on resource: {resource}") };
        let what =
            format!("User: {} is not authorized to perform: {action}{on} {}", caller.principal, why.words(&action));
        Err(Error::new(Kind::AccessDenied, what).hint("ask an administrator of the account for the permission"))
    }

    /// Whether a caller may open a session of a role: its own policies and the role's trust policy decide, as AWS's do.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`].
    pub fn may_assume(&self, role: &Role, request: &AssumeRole, caller: &Caller) -> Result<()> {
        let trust = Policy::parse_trust(&role.trust)?;
        let own = Rights::of(caller, &caller.principal);
        let facts = Facts::new()
            .text_if(Key::ExternalId, request.external_id.clone())
            .text(Key::RoleSessionName, request.session_name.clone())
            .request_tags(request.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .resource_tags(role.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let facts = if let Some(asked) = own.request { facts.and(asked) } else { facts };
        let actions: &[&str] =
            if request.tags.is_empty() { &["sts:AssumeRole"] } else { &["sts:AssumeRole", "sts:TagSession"] };
        for action in actions {
            let question = Question {
                action,
                resource: &request.role_arn,
                principal: &own.who,
                facts: &facts,
                now: self.env.now(),
            };
            let decision = Decision {
                resource_policy: Some(&trust),
                own: own.own(caller, &question),
                session: own.session,
                grants_allow: false,
                question: &question,
                same_account: own.who.account == role.account,
            };
            if let Ruling::Denied(_) = decide(&decision) {
                // Without the reason, as in AWS: it would tell that the role exists.
                let what = format!(
                    "User: {} is not authorized to perform: sts:AssumeRole on resource: {}",
                    caller.principal, request.role_arn
                );
                let hint = "see the role's trust policy, and the caller's own policies";
                return Err(Error::new(Kind::AccessDenied, what).hint(hint));
            }
        }
        Ok(())
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
        let under_grant = matches!(caller.authority, Authority::Grants(_));
        self.ask_each(key, if under_grant { &["Decrypt"] } else { &["CreateGrant", "Decrypt"] }, context, caller)
    }

    /// Authorizes a copy of a snapshot to this key: what EBS needs of it (EC2 API Reference, CopySnapshot). Writes nothing except
    /// an audit record of a refusal.
    ///
    /// # Errors
    /// As [`Authorizer::ask`].
    pub fn ask_for_copy(&self, key: &KeyRef, context: &EncryptionContext, caller: &Caller) -> Result<()> {
        self.ask_each(key, &["GenerateDataKeyWithoutPlaintext", "CreateGrant", "Decrypt"], context, caller)
    }

    /// Authorizes the actions one after another.
    fn ask_each(&self, key: &KeyRef, actions: &[&str], context: &EncryptionContext, caller: &Caller) -> Result<()> {
        let (facts, key) = (self.lease_facts(), self.store.resolve(key)?);
        let mut act = String::new();
        let mut asked = || {
            let record = self.store.load(&key)?.record;
            actions.iter().try_for_each(|action| {
                act = format!("kms:{action}");
                let grant = (*action == "CreateGrant").then_some(&facts);
                self.authorize(&record, Wanted { action, context, grant, facts: None }, caller).map(drop)
            })
        };
        let answer = asked();
        answer.inspect_err(|e| {
            self.ledger.record_refusal(Act::new(&*act).key(self.scope.arn_of(&key)).context(context), caller, e)
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
                self.authorize(&record, Wanted { action, context, grant: None, facts: None }, caller).map(drop)
            })
        };
        let act = || self.store.act_on(format!("kms:{EXPORT_VOLUME_KEY}"), key).context(context);
        asked().inspect_err(|e| self.ledger.record_refusal(act(), caller, e))
    }

    /// Refuses a policy under which its author could no longer change the policy.
    pub(super) fn check_lockout(&self, policy: &Policy, key: &KeyRecord, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        let wanted = Wanted { action: "PutKeyPolicy", context: &context, grant: None, facts: None };
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
        let (arn, id) = (self.scope.arn_of(&key.key()), key.id);
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
