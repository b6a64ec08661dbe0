//! Operations on accounts.

use super::{Authorization, Call, Operation, cut, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::AccountInfo;
use serde::{Deserialize, Serialize};

/// Creates an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// A descriptive name, 1 to 50 characters.
    pub name: String,
    /// Its id, 12 digits. `None`: a random one.
    #[serde(default)]
    pub account: Option<String>,
}

impl Operation for CreateAccount {
    type Answer = AccountInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("organizations:CreateAccount").detail("name", cut(&self.name)))
    }
    fn perform(self, call: Call<'_>) -> Result<AccountInfo> {
        let iam = call.service.kms.iam();
        Ok(iam.create_account(&self.name, self.account.as_deref(), call.caller)?.into())
    }
}

/// Lists the accounts, the installation's first one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAccounts {}

impl Operation for ListAccounts {
    type Answer = Vec<AccountInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("organizations:ListAccounts"))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<AccountInfo>> {
        Ok(call.service.kms.iam().accounts()?.into_iter().map(Into::into).collect())
    }
}

/// Describes one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeAccount {
    /// Its id.
    pub account: String,
}

impl Operation for DescribeAccount {
    type Answer = AccountInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("organizations:DescribeAccount", &self.account))
    }
    fn perform(self, call: Call<'_>) -> Result<AccountInfo> {
        Ok(call.service.kms.iam().account(&self.account)?.into())
    }
}
