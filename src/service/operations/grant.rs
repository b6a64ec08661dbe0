//! Operations on key policies and grants.

use super::{Authorization, Call, Done, Operation, ShownOnce, Warned, cut, on_key};
use crate::cipher::wrap::EncryptionContext;
use crate::error::{Error, Kind, Result};
use crate::kms::policy::Policy;
use crate::kms::{Constraint, Grant, GrantFilter, GrantSpec};
use crate::ledger::Act;
use crate::service::api::{GrantInfo, PolicyInfo};
use crate::service::{Service, context_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Shows the policy of a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetKeyPolicy {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for GetKeyPolicy {
    type Answer = PolicyInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "GetKeyPolicy", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<PolicyInfo> {
        let (kms, key) = (&call.service.kms, call.key(&self.key)?);
        let document = kms.policies().get(&key, call.caller)?;
        let pretty = Policy::parse(&document)?.pretty();
        Ok(PolicyInfo { key: kms.keys().describe(&key)?.arn, document, pretty })
    }
}

/// Replaces the policy of a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutKeyPolicy {
    /// Id, ARN or alias of the CMK.
    pub key: String,
    /// The document, at most 32 KiB.
    pub policy: String,
    /// Accepts a policy under which the caller could not replace it.
    pub bypass_lockout_check: bool,
}

impl Operation for PutKeyPolicy {
    type Answer = Warned;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "PutKeyPolicy", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<Warned> {
        let key = call.key(&self.key)?;
        let locked_out = call.service.kms.policies().put(&key, &self.policy, self.bypass_lockout_check, call.caller)?;
        let message =
            format!("the key policy of {} is changed; clients that already hold a volume are not affected", self.key);
        let warning = "this key policy locks you out: only root can change it, with `coffer key policy reset`";
        Ok(Warned(message, locked_out.then(|| warning.to_owned())))
    }
}

/// Resets the policy of a CMK to the default, whatever the policy says. Only the account's root may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetKeyPolicy {
    /// Id, ARN or alias of the CMK.
    pub key: String,
}

impl Operation for ResetKeyPolicy {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "PutKeyPolicy", &self.key).detail("reset", true))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.kms.policies().reset(&call.key(&self.key)?, call.caller)?;
        Ok(Done(format!("{} has the default key policy: the account has full access", self.key)))
    }
}

/// Creates a grant on a CMK. A repeated call with the same name and parameters returns the same grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGrant {
    /// Id, ARN or alias of the CMK.
    pub key: String,
    /// ARN of the grantee principal.
    pub grantee: String,
    /// ARN of the principal that may retire it.
    pub retiring: Option<String>,
    /// The operations that it allows, such as `Decrypt`.
    pub operations: Vec<String>,
    /// The exact encryption context that it is limited to.
    pub equals: Option<BTreeMap<String, String>>,
    /// Pairs that the encryption context must contain.
    pub subset: Option<BTreeMap<String, String>>,
    /// Its name.
    pub name: Option<String>,
}

impl Operation for CreateGrant {
    type Answer = GrantInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "CreateGrant", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<GrantInfo> {
        let Self { key, grantee, retiring, operations, equals, subset, name } = self;
        let operations = operations.iter().map(|o| o.parse()).collect::<Result<_>>()?;
        let constraint = constraint(equals, subset)?;
        let spec = GrantSpec { grantee, retiring, operations, constraint, name };
        let (grant, token) = call.service.kms.grants().create(&call.key(&key)?, spec, call.caller)?;
        Ok(info(call.service, &grant, Some(token)))
    }
    fn shows_once(&self) -> ShownOnce {
        // The token of a named grant is shown again to whoever requests the same grant.
        if self.name.is_none() { ShownOnce::Grant } else { ShownOnce::Nothing }
    }
}

/// Lists the grants of a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListGrants {
    /// Id, ARN or alias of the CMK.
    pub key: String,
    /// Only the grant with this id.
    pub grant: Option<String>,
    /// Only grants for this principal.
    pub grantee: Option<String>,
}

impl Operation for ListGrants {
    type Answer = Vec<GrantInfo>;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "ListGrants", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<GrantInfo>> {
        let filter = GrantFilter { id: self.grant, grantee: self.grantee };
        let grants = call.service.kms.grants().list(&call.key(&self.key)?, &filter, call.caller)?;
        Ok(grants.iter().map(|g| info(call.service, g, None)).collect())
    }
}

/// Lists the grants that a principal may retire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRetirableGrants {
    /// ARN of the principal.
    pub retiring: String,
}

impl Operation for ListRetirableGrants {
    type Answer = Vec<GrantInfo>;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("kms:ListRetirableGrants"))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<GrantInfo>> {
        let grants = call.service.kms.grants().list_retirable(&self.retiring, call.caller)?;
        Ok(grants.iter().map(|g| info(call.service, g, None)).collect())
    }
}

/// Revokes a grant. A volume whose lease depends on it is suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeGrant {
    /// Id, ARN or alias of its CMK.
    pub key: String,
    /// Its id.
    pub grant: String,
}

impl Operation for RevokeGrant {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "RevokeGrant", &self.key).detail("grant", cut(&self.grant)).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let gone = call.service.kms.grants().revoke(&call.key(&self.key)?, &self.grant, call.caller)?;
        call.service.suspensions.suspend_lease_of(&gone);
        Ok(Done(format!("grant {} is revoked", gone.id)))
    }
}

/// Retires a grant, named by its token, or by its CMK and id. A volume whose lease depends on it is suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireGrant {
    /// Id, ARN or alias of its CMK.
    pub key: Option<String>,
    /// Its id.
    pub grant: Option<String>,
    /// Its token.
    pub token: Option<String>,
}

impl Operation for RetireGrant {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        let on = |key: &String| on_key(call, "RetireGrant", key);
        Some(self.key.as_ref().map_or_else(|| Act::new("kms:RetireGrant"), on).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let key = self.key.as_deref().map(|key| call.key(key)).transpose()?;
        let (id, token) = (self.grant.as_deref(), self.token.as_deref());
        let gone = call.service.kms.grants().retire(key.as_ref(), id, token, call.caller)?;
        call.service.suspensions.suspend_lease_of(&gone);
        Ok(Done(format!("grant {} is retired", gone.id)))
    }
}

fn info(service: &Service, grant: &Grant, token: Option<String>) -> GrantInfo {
    let pairs =
        |c: &EncryptionContext| Some(c.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>());
    let (equals, subset) = match &grant.constraint {
        Some(Constraint::Equals(c)) => (pairs(c), None),
        Some(Constraint::Subset(c)) => (None, pairs(c)),
        None => (None, None),
    };
    GrantInfo {
        id: grant.id.clone(),
        key: service.kms.key_arn(&grant.on()),
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

fn constraint(
    equals: Option<BTreeMap<String, String>>,
    subset: Option<BTreeMap<String, String>>,
) -> Result<Option<Constraint>> {
    match (equals, subset) {
        (Some(_), Some(_)) => Err(Error::new(
            Kind::Usage,
            "CreateGrant: EncryptionContextEquals and EncryptionContextSubset cannot be combined",
        )
        .hint("use one of them")),
        (Some(pairs), None) => Ok(Some(Constraint::Equals(context_of(&pairs)?))),
        (None, Some(pairs)) => Ok(Some(Constraint::Subset(context_of(&pairs)?))),
        (None, None) => Ok(None),
    }
}
