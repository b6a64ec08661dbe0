//! Key policies and grants as verbs.

use super::api::{GrantInfo, PolicyInfo, Reply, Request};
use super::{Service, context_of};
use crate::cipher::wrap::EncryptionContext;
use crate::error::{Error, Kind, Result};
use crate::kms::policy::Policy;
use crate::kms::{Caller, Constraint, Grant, GrantFilter, GrantSpec, KeyRef};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Service {
    pub(super) fn handle_policy(self: &Arc<Self>, caller: &Caller, request: Request) -> Result<Reply> {
        use Request as R;
        let (kms, of) = (&self.kms, |key: &str| key.parse::<KeyRef>());
        match request {
            R::KeyPolicyShow { key } => {
                let document = kms.get_key_policy(&of(&key)?, caller)?;
                let pretty = Policy::parse(&document)?.pretty();
                let key = kms.describe_key(&of(&key)?)?.arn;
                Ok(Reply::Policy(PolicyInfo { key, document, pretty }))
            }
            R::KeyPolicySet { key, policy, bypass_lockout_check } => {
                kms.put_key_policy(&of(&key)?, &policy, bypass_lockout_check, caller)?;
                Ok(Reply::Done { message: format!("{key} has this policy from now on; leases that are there go on") })
            }
            R::KeyPolicyReset { key } => {
                kms.reset_key_policy(&of(&key)?, caller)?;
                Ok(Reply::Done { message: format!("{key} has the default policy again: its account may do all") })
            }
            R::GrantCreate { key, grantee, retiring, operations, equals, subset, name } => {
                let operations = operations.iter().map(|o| o.parse()).collect::<Result<_>>()?;
                let constraint = constraint(equals, subset)?;
                let spec = GrantSpec { grantee, retiring, operations, constraint, name };
                let (grant, token) = kms.create_grant(&of(&key)?, spec, caller)?;
                Ok(Reply::Grant(self.grant_info(&grant, Some(token))))
            }
            R::GrantList { key, grant, grantee } => {
                let filter = GrantFilter { id: grant, grantee };
                self.grant_list(kms.list_grants(&of(&key)?, &filter, caller)?)
            }
            R::GrantListRetirable { retiring } => self.grant_list(kms.list_retirable_grants(&retiring, caller)?),
            R::GrantRevoke { key, grant } => {
                let gone = kms.revoke_grant(&of(&key)?, &grant, caller)?;
                self.suspend_lease_of(&gone);
                Ok(Reply::Done { message: format!("grant {} is revoked", gone.id) })
            }
            R::GrantRetire { key, grant, token } => {
                let key = key.as_deref().map(of).transpose()?;
                let gone = kms.retire_grant(key.as_ref(), grant.as_deref(), token.as_deref(), caller)?;
                self.suspend_lease_of(&gone);
                Ok(Reply::Done { message: format!("grant {} is retired", gone.id) })
            }
            _ => Err(Error::new(Kind::Failed, "this verb is not about policies or grants")),
        }
    }

    fn grant_list(&self, grants: Vec<Grant>) -> Result<Reply> {
        Ok(Reply::Grants { grants: grants.iter().map(|g| self.grant_info(g, None)).collect() })
    }

    fn grant_info(&self, grant: &Grant, token: Option<String>) -> GrantInfo {
        let pairs = |c: &EncryptionContext| {
            Some(c.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>())
        };
        let (equals, subset) = match &grant.constraint {
            Some(Constraint::Equals(c)) => (pairs(c), None),
            Some(Constraint::Subset(c)) => (None, pairs(c)),
            None => (None, None),
        };
        GrantInfo {
            id: grant.id.clone(),
            key: self.kms.key_arn(grant.key),
            name: grant.name.clone(),
            grantee: grant.grantee.clone(),
            retiring: grant.retiring.clone(),
            issuer: grant.issuer.clone(),
            operations: grant.operations.iter().map(ToString::to_string).collect(),
            equals,
            subset,
            created: grant.created,
            token,
        }
    }

    /// A grant is gone, and with it the lease that lived by it.
    fn suspend_lease_of(&self, grant: &Grant) {
        self.suspensions.suspend_lease_of(grant);
    }
}

fn constraint(
    equals: Option<BTreeMap<String, String>>,
    subset: Option<BTreeMap<String, String>>,
) -> Result<Option<Constraint>> {
    match (equals, subset) {
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Usage, "CreateGrant: EncryptionContextEquals or EncryptionContextSubset")
                .hint("leave one of them out"))
        }
        (Some(pairs), None) => Ok(Some(Constraint::Equals(context_of(&pairs)?))),
        (None, Some(pairs)) => Ok(Some(Constraint::Subset(context_of(&pairs)?))),
        (None, None) => Ok(None),
    }
}
