//! Authorization: what a caller may do by itself, and what the key's policy and grants allow.
//!
//! Evaluated in this order: a Deny
//! of the policy refuses. An Allow for the principal allows. An Allow for its account allows if the principal's own
//! permissions ([`Authority`]) do. A grant to the principal that covers the operation allows. Everything else is refused
//! (KMS Developer Guide, "Determining access to AWS KMS keys"). A principal of another account always also needs its own
//! permissions ("Allowing users in other accounts to use a KMS key").

use super::Kms;
use super::grant::Operation;
use super::key::{KeyManager, KeyRecord};
use super::name::KeyRef;
use super::policy::{EXPORT_VOLUME_KEY, GrantFacts, Policy, Question, VOLUME_SERVICE, Verdict, account_of};
use crate::cipher::wrap::EncryptionContext;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Asker, Identity};

/// A principal's own permissions, which count where the key's policy delegates to its account. Set by the edge that
/// authenticated the caller, never from a request; not part of an audit record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Authority {
    /// None: only policies and grants that name it count.
    #[default]
    Nothing,
    /// Everything: the account's root, and the owner of the data directory.
    Administrator,
    /// Using volumes: Decrypt, CreateGrant and DescribeKey through the volume service, on these keys (ARNs).
    Volumes(Vec<String>),
    /// The grants of an existing lease: only these count, whatever the policy now says about the caller.
    Grants(Vec<String>),
    /// coffer itself, or an existing lease of this process: not checked.
    Settled,
}

/// The caller, as authenticated by the edge, and its own permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As [`Identity::principal`].
    pub principal: String,
    /// As [`Identity::via_service`].
    pub via_service: Option<String>,
    /// As [`Identity::client`].
    pub client: String,
    /// Its own permissions. Not recorded in the audit, as the policy at that time is not, either.
    pub authority: Authority,
}

impl From<&Caller> for Asker {
    fn from(caller: &Caller) -> Self {
        let Caller { principal, via_service, client, authority } = caller.clone();
        let administrator = matches!(authority, Authority::Administrator | Authority::Settled);
        Self { identity: Identity { principal, via_service, client }, administrator }
    }
}

impl Authority {
    /// Whether the principal's own permissions allow it.
    fn permits(&self, q: &Question<'_>) -> bool {
        match self {
            Self::Administrator | Self::Settled => true,
            Self::Volumes(keys) => {
                q.via_service == Some(VOLUME_SERVICE)
                    && ["Decrypt", "CreateGrant", "DescribeKey"].contains(&q.action)
                    && keys.iter().any(|k| k == q.resource)
            }
            Self::Nothing | Self::Grants(_) => false,
        }
    }
}

/// A requested operation on a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As `Decrypt`.
    pub(super) action: &'a str,
    pub(super) context: &'a EncryptionContext,
    pub(super) grant: Option<&'a GrantFacts>,
}

/// What allowed an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Policy,
    Grant,
}

/// The properties of a volume lease's grant that policies can test.
pub(super) fn lease_facts() -> GrantFacts {
    GrantFacts { for_aws_resource: true, operations: vec![Operation::Decrypt.to_string()] }
}

impl Kms {
    /// The grantee of durable leases of volumes.
    #[must_use]
    pub fn volume_service(&self) -> String {
        format!("arn:aws:iam::{}:service/{VOLUME_SERVICE}", self.installation.public.account)
    }

    fn root_principal(&self) -> String {
        format!("arn:aws:iam::{}:root", self.installation.public.account)
    }

    /// Whether a principal belongs to this installation's account, as its volume service does.
    fn is_of_account(&self, principal: &str) -> bool {
        account_of(principal) == Some(self.installation.public.account.as_str())
    }

    /// Whether the caller administers this installation's account.
    pub(super) fn is_administrator(&self, caller: &Caller) -> bool {
        caller.authority == Authority::Administrator && self.is_of_account(&caller.principal)
    }

    /// A key's policy, or AWS's default if it has none.
    pub(super) fn policy_of(&self, key: &KeyRecord) -> Result<Policy> {
        let account = &self.installation.public.account;
        match (&key.policy, key.manager) {
            // It was valid when it was put, perhaps by a newer coffer: a policy that is only partly understood allows nothing.
            (Some(text), _) => Policy::parse(text).map_err(|e| {
                let what =
                    format!("key {}: this version of coffer does not understand its policy: {}", self.key_arn(key.id), e.what());
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
        let (arn, service) = (self.key_arn(key.id), self.volume_service());
        // Under a lease's grant, the principal is the service, not the one who took the lease.
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
        let refuse = |why: &str| Err(self.denied(principal, wanted.action, key, why));
        let verdict = policy.verdict(&question);
        if verdict == Verdict::Denied {
            return refuse("with an explicit deny in a resource-based policy");
        }
        if let Authority::Grants(ids) = &caller.authority {
            for id in ids {
                if self.grant(id)?.is_some_and(|g| g.covers(key.id, principal, &wanted)) {
                    return Ok(By::Grant);
                }
            }
            let why = format!("because its grant {} was revoked or retired", ids.join(", "));
            return Err(self
                .denied(principal, wanted.action, key, &why)
                .hint("detach the volume, then attach it again"));
        }
        let own = caller.authority.permits(&question);
        let foreign = !self.is_of_account(principal);
        let lacks_own = || format!("because no identity-based policy allows the kms:{} action", wanted.action);
        if foreign && !own {
            return refuse(&lacks_own());
        }
        if verdict == Verdict::Allowed || (verdict == Verdict::Delegated && own) {
            return Ok(By::Policy);
        }
        if self.is_granted(key.id, principal, &wanted)? {
            return Ok(By::Grant);
        }
        if verdict == Verdict::Delegated {
            return refuse(&lacks_own());
        }
        refuse(&format!("because no resource-based policy allows the kms:{} action", wanted.action))
    }

    /// Authorizes an operation that this module does not perform itself; a refusal is audited.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`]; [`Kind::NotFound`], [`Kind::KeyUnavailable`] as for any verb on the key.
    pub fn ask(&self, key: &KeyRef, action: &str, caller: &Caller) -> Result<()> {
        let context = EncryptionContext::new();
        let asked = || {
            let record = self.load(self.resolve(key)?)?.record;
            self.authorize(&record, Wanted { action, context: &context, grant: None }, caller).map(drop)
        };
        asked().inspect_err(|e| self.ledger.record_refusal(self.act_on(format!("kms:{action}"), key), caller, e))
    }

    /// An act on a key, by its ARN if the key is found, otherwise by the given name.
    pub(crate) fn act_on(&self, name: impl Into<String>, key: &KeyRef) -> Act {
        match self.resolve(key) {
            Ok(id) => Act::new(name).key(self.key_arn(id)),
            Err(_) => Act::new(name).detail("named", key),
        }
    }

    /// Authorizes the use of a volume under this key: CreateGrant for a lease of the service, and Decrypt; under a lease's
    /// grants only Decrypt. Writes nothing except an audit record of a refusal.
    ///
    /// # Errors
    /// As [`Kms::ask`].
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
        let id = self.resolve(key)?;
        let mut act = "kms:Decrypt";
        let mut asked = || {
            let record = self.load(id)?.record;
            let wanted = wanted.iter().filter(|w| !under_grant || w.action == "Decrypt");
            wanted.copied().try_for_each(|w| {
                act = if w.action == "Decrypt" { "kms:Decrypt" } else { "kms:CreateGrant" };
                self.authorize(&record, w, caller).map(drop)
            })
        };
        let answer = asked();
        answer.inspect_err(|e| {
            self.ledger.record_refusal(Act::new(act).key(self.key_arn(id)).context(context), caller, e)
        })
    }

    /// Authorizes the export of a volume's plaintext data key: Decrypt, as for opening the volume, and `kms:ExportVolumeKey`,
    /// which a policy can deny separately. A refusal is audited.
    ///
    /// # Errors
    /// As [`Kms::ask`].
    pub fn ask_for_export(&self, key: &KeyRef, context: &EncryptionContext, caller: &Caller) -> Result<()> {
        let asked = || {
            let record = self.load(self.resolve(key)?)?.record;
            ["Decrypt", EXPORT_VOLUME_KEY].iter().try_for_each(|action| {
                self.authorize(&record, Wanted { action, context, grant: None }, caller).map(drop)
            })
        };
        let act = || self.act_on(format!("kms:{EXPORT_VOLUME_KEY}"), key).context(context);
        asked().inspect_err(|e| self.ledger.record_refusal(act(), caller, e))
    }

    /// A key's policy, as it was put, or AWS's default if it has none.
    ///
    /// # Errors
    /// As [`Kms::ask`].
    pub fn get_key_policy(&self, key: &KeyRef, caller: &Caller) -> Result<String> {
        self.ask(key, "GetKeyPolicy", caller)?;
        let record = self.load(self.resolve(key)?)?.record;
        match &record.policy {
            Some(text) => Ok(text.clone()),
            None => Ok(self.policy_of(&record)?.pretty()),
        }
    }

    /// Replaces a key's policy. It takes effect with the next request; existing leases are not affected.
    ///
    /// # Errors
    /// [`Kind::Usage`] (MalformedPolicyDocumentException), also for a policy with a statement that can never match, and,
    /// without `bypass`, for one that locks the caller out; [`Kind::AccessDenied`], also for a service-managed key.
    pub fn put_key_policy(&self, key: &KeyRef, document: &str, bypass: bool, caller: &Caller) -> Result<()> {
        let policy = Policy::parse(document)?;
        let hash = crate::ledger::sha256_hex(document.as_bytes());
        let act = Act::new("kms:PutKeyPolicy").detail("sha256", hash).detail("bypass-lockout-check", bypass);
        let put = self.change(key, act, caller, |key, _, arn| {
            policy.check(arn)?;
            if !bypass {
                self.check_lockout(&policy, key, caller)?;
            }
            key.policy = Some(document.to_owned());
            Ok(())
        });
        put.map(drop)
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

    /// Restores a key's default policy, whatever its policy says, for when it locks everybody out; with AWS, its support does
    /// this. Only the account's root may do it, which is uid 0 and can read the key's bytes anyway.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for everybody else and for a service-managed key; as for any verb on the key.
    pub fn reset_key_policy(&self, key: &KeyRef, caller: &Caller) -> Result<()> {
        if caller.principal != self.root_principal() || !self.is_administrator(caller) {
            let what = format!("reset the policy of key {key}: only the account's root may do that");
            let err = Error::new(Kind::AccessDenied, what).hint("run the command as root (uid 0)");
            self.ledger.record_refusal(self.act_on("coffer:ResetKeyPolicy", key), caller, &err);
            return Err(err);
        }
        let settled = Caller { authority: Authority::Settled, ..caller.clone() };
        self.change(key, Act::new("coffer:ResetKeyPolicy"), &settled, |key, _, _| {
            key.policy = None;
            Ok(())
        })
        .map(drop)
    }

    /// A refusal in AWS's words. The hint is one that the caller is allowed to follow.
    fn denied(&self, principal: &str, action: &str, key: &KeyRecord, why: &str) -> Error {
        let (arn, id) = (self.key_arn(key.id), key.id);
        let what = format!("User: {principal} is not authorized to perform: kms:{action} on resource: {arn} {why}");
        let locked_out = action == "GetKeyPolicy" && key.manager == KeyManager::Customer;
        let hint = match (locked_out, principal == self.root_principal()) {
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
