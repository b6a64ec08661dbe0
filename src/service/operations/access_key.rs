//! Operations on access keys.

use super::principal::principal;
use super::{Authorization, Call, Done, Operation, ShownOnce, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::AccessKeyInfo;
use serde::{Deserialize, Serialize};

/// Makes an access key for a user or for root. The answer has its secret, which is not shown again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAccessKey {
    /// The user, or `root`.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for CreateAccessKey {
    type Answer = AccessKeyInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:CreateAccessKey", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<AccessKeyInfo> {
        let owner = principal(call.service, &self.principal, self.account.as_ref())?;
        Ok(call.service.kms.iam().create_access_key(&owner, call.caller)?.into())
    }
    fn shows_once(&self) -> ShownOnce {
        ShownOnce::AccessKey
    }
}

/// Lists the access keys of a user or of root, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAccessKeys {
    /// The user, or `root`.
    pub principal: String,
    /// Its account. `None`: the installation's first.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for ListAccessKeys {
    type Answer = Vec<AccessKeyInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:ListAccessKeys", &self.principal))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<AccessKeyInfo>> {
        let owner = principal(call.service, &self.principal, self.account.as_ref())?;
        Ok(call.service.kms.iam().access_keys(&owner)?.into_iter().map(Into::into).collect())
    }
}

/// Makes an access key active or inactive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateAccessKey {
    /// Its id.
    pub access_key: String,
    /// Whether it can be used.
    pub active: bool,
}

impl Operation for UpdateAccessKey {
    type Answer = AccessKeyInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:UpdateAccessKey", &self.access_key))
    }
    fn perform(self, call: Call<'_>) -> Result<AccessKeyInfo> {
        Ok(call.service.kms.iam().set_access_key_active(&self.access_key, self.active, call.caller)?.into())
    }
}

/// Deletes an access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteAccessKey {
    /// Its id.
    pub access_key: String,
}

impl Operation for DeleteAccessKey {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("iam:DeleteAccessKey", &self.access_key).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.kms.iam().delete_access_key(&self.access_key, call.caller)?;
        Ok(Done(format!("access key {} is deleted", self.access_key)))
    }
}
