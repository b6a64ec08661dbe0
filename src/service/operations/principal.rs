//! Operations on users and roles, and on their policies. A principal is named as `user/NAME`, `role/NAME` or by ARN;
//! without an ARN or an account, it is one of the installation's first account.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::iam::{NewRole, NewUser, PrincipalRef, User};
use crate::kms::policy::Policy;
use crate::ledger::{Act, Tx};
use crate::service::Service;
use crate::service::api::{PrincipalInfo, PrincipalPolicyInfo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Returns the principal that a request names.
pub(super) fn principal(service: &Service, name: &str, account: Option<&String>) -> Result<PrincipalRef> {
    let first = &service.kms.installation().account;
    let account = account.unwrap_or(first);
    service.kms.iam().account(account)?;
    PrincipalRef::parse(name, account)
}

/// Returns an act on a principal as the request names it; `{}` in its name becomes `User` or `Role`.
fn on_principal(act: &str, name: &str) -> Act {
    let is_role = name.starts_with("role/") || name.contains(":role/");
    named(&format!("iam:{}", act.replace("{}", if is_role { "Role" } else { "User" })), name)
}

/// Refuses an identity policy that is malformed, or has a statement that can never match.
fn check_identity(service: &Service, document: &str) -> Result<()> {
    Policy::parse_identity(document)?.check_identity(&service.kms.installation().region)
}

/// The same for the trust policy of a role.
fn check_trust(service: &Service, document: &str) -> Result<()> {
    Policy::parse_trust(document)?.check_trust(&service.kms.installation().region)
}

/// Creates a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Its name.
    pub name: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// Its path. `None`: `/`.
    #[serde(default)]
    pub path: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Operation for CreateUser {
    type Answer = PrincipalInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:CreateUser", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<PrincipalInfo> {
        let Self { name, account, path, tags } = self;
        let account = account.unwrap_or_else(|| call.service.kms.installation().account.clone());
        let new = NewUser { account, path, name, tags };
        let may = |tx: &Tx<'_>, user: &User| call.service.access.check_no_client(tx, user);
        Ok(call.service.kms.iam().create_user_if(new, &may, call.caller)?.into())
    }
}

/// Creates a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRole {
    /// Its name.
    pub name: String,
    /// Its trust policy: who may assume it.
    pub trust: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// Its path. `None`: `/`.
    #[serde(default)]
    pub path: Option<String>,
    /// Its longest session, in seconds. `None`: 3600.
    #[serde(default)]
    pub max_session_seconds: Option<u32>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Operation for CreateRole {
    type Answer = PrincipalInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:CreateRole", &self.name))
    }
    fn perform(self, call: Call<'_>) -> Result<PrincipalInfo> {
        let Self { name, trust, account, path, max_session_seconds, tags } = self;
        let account = account.unwrap_or_else(|| call.service.kms.installation().account.clone());
        let new = NewRole { account, path, name, trust, max_session_seconds, tags };
        Ok(call.service.kms.iam().create_role(new, &|text| check_trust(call.service, text), call.caller)?.into())
    }
}

/// Lists the users and roles of an account: users first, each by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListPrincipals {
    /// The account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for ListPrincipals {
    type Answer = Vec<PrincipalInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("iam:ListUsers"))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<PrincipalInfo>> {
        let account = self.account.as_ref().unwrap_or(&call.service.kms.installation().account);
        let (users, roles) = call.service.kms.iam().principals(account)?;
        Ok(users.into_iter().map(Into::into).chain(roles.into_iter().map(Into::into)).collect())
    }
}

/// Describes a user or a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribePrincipal {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for DescribePrincipal {
    type Answer = PrincipalInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("Get{}", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<PrincipalInfo> {
        let name = principal(call.service, &self.principal, self.account.as_ref())?;
        Ok(call.service.kms.iam().principal(&name)?.into())
    }
}

/// Deletes a user that has no access keys and no policies, or a role that has no policies. Their sessions end, and
/// their unique ids take the place of their ARNs in policies and grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletePrincipal {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for DeletePrincipal {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("Delete{}", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let name = principal(call.service, &self.principal, self.account.as_ref())?;
        call.service.kms.delete_principal(&name, call.caller)?;
        Ok(Done(format!("{name} is deleted")))
    }
}

/// Puts an inline policy of a user or a role; replaces the one of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutPrincipalPolicy {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// Name of the policy.
    pub policy: String,
    /// The policy document.
    pub document: String,
}

impl Operation for PutPrincipalPolicy {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("Put{}Policy", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let Self { principal: named, account, policy, document } = self;
        let name = principal(call.service, &named, account.as_ref())?;
        call.service.kms.iam().put_policy(
            &name,
            &policy,
            &document,
            &|text| check_identity(call.service, text),
            call.caller,
        )?;
        Ok(Done(format!("{name} has the policy {policy}")))
    }
}

/// Shows an inline policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetPrincipalPolicy {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// Name of the policy.
    pub policy: String,
}

impl Operation for GetPrincipalPolicy {
    type Answer = PrincipalPolicyInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("Get{}Policy", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<PrincipalPolicyInfo> {
        let of = principal(call.service, &self.principal, self.account.as_ref())?;
        let document = call.service.kms.iam().policy(&of, &self.policy)?;
        Ok(PrincipalPolicyInfo { principal: self.principal, name: self.policy, document })
    }
}

/// Lists the inline policies of a user or a role, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListPrincipalPolicies {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for ListPrincipalPolicies {
    type Answer = Vec<PrincipalPolicyInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("List{}Policies", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<PrincipalPolicyInfo>> {
        let of = principal(call.service, &self.principal, self.account.as_ref())?;
        let all = call.service.kms.iam().policies(&of)?.into_iter();
        Ok(all
            .map(|(name, document)| PrincipalPolicyInfo { principal: self.principal.clone(), name, document })
            .collect())
    }
}

/// Deletes an inline policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletePrincipalPolicy {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// Name of the policy.
    pub policy: String,
}

impl Operation for DeletePrincipalPolicy {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(on_principal("Delete{}Policy", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let name = principal(call.service, &self.principal, self.account.as_ref())?;
        call.service.kms.iam().delete_policy(&name, &self.policy, call.caller)?;
        Ok(Done(format!("the policy {} of {name} is deleted", self.policy)))
    }
}

/// Replaces the trust policy of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateAssumeRolePolicy {
    /// The role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
    /// The policy document.
    pub document: String,
}

impl Operation for UpdateAssumeRolePolicy {
    type Answer = PrincipalInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:UpdateAssumeRolePolicy", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<PrincipalInfo> {
        let name = principal(call.service, &self.principal, self.account.as_ref())?;
        let check = |text: &str, replaced: &str| {
            let replaced = Policy::parse_trust(replaced).ok();
            Policy::parse_trust(text)?.check_edited_trust(&call.service.kms.installation().region, replaced.as_ref())
        };
        Ok(call.service.kms.iam().update_trust_policy(&name, &self.document, &check, call.caller)?.into())
    }
}

/// Ends all sessions that a user or a role has so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeSessions {
    /// The user or role.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for RevokeSessions {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:RevokeSessions", &self.principal).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        let name = principal(call.service, &self.principal, self.account.as_ref())?;
        let at = call.service.kms.iam().revoke_sessions(&name, call.caller)?;
        Ok(Done(format!("all sessions of {name} up to {at} are revoked")))
    }
}
