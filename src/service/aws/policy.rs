//! Key policies. A key has one, which is called `default`.

use super::operation::{At, AwsOperation};
use super::values::{Empty, page};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// The only name that a key policy has.
const DEFAULT: &str = "default";

fn check_name(name: Option<&str>) -> Result<()> {
    match name {
        None | Some(DEFAULT) => Ok(()),
        Some(_) => Err(Error::new(Kind::NotFound, "No such policy exists")),
    }
}

/// PutKeyPolicy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct PutKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
    policy: String,
    #[serde(default)]
    bypass_policy_lockout_safety_check: bool,
}

impl AwsOperation for PutKeyPolicy {
    type Output = Empty;
    fn perform(self, at: &At<'_>) -> Result<Empty> {
        check_name(self.policy_name.as_deref())?;
        let (key, bypass) = (at.key(&self.key_id)?, self.bypass_policy_lockout_safety_check);
        at.service.kms.policies().put(&key, &self.policy, bypass, at.caller).map(|_| Empty {})
    }
}

/// GetKeyPolicy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
}

/// A key's policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyOutput {
    policy: String,
    policy_name: &'static str,
}

impl AwsOperation for GetKeyPolicy {
    type Output = PolicyOutput;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<PolicyOutput> {
        let key = at.key(&self.key_id)?;
        let policy = at.service.kms.policies().get(&key, at.caller)?;
        check_name(self.policy_name.as_deref())?;
        Ok(PolicyOutput { policy, policy_name: DEFAULT })
    }
}

/// ListKeyPolicies.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ListKeyPolicies {
    key_id: String,
    limit: Option<u32>,
    marker: Option<String>,
}

/// The names of a key's policies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyNames {
    policy_names: Vec<&'static str>,
    truncated: bool,
}

impl AwsOperation for ListKeyPolicies {
    type Output = PolicyNames;
    const READS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<PolicyNames> {
        let key = at.key(&self.key_id)?;
        at.service.kms.authorizer().ask(&key, "ListKeyPolicies", at.caller)?;
        let (_, after) = page(self.limit, self.marker.as_deref(), 100, 1000)?;
        let policy_names = if after.is_none() { vec![DEFAULT] } else { Vec::new() };
        Ok(PolicyNames { policy_names, truncated: false })
    }
}
