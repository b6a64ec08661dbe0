//! Operations on the installation itself.

use super::{Authorization, Call, Operation};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{Finding, StatusInfo};
use serde::{Deserialize, Serialize};

/// Describes this installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStatus {}

impl Operation for GetStatus {
    type Answer = StatusInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<StatusInfo> {
        Ok(call.service.status())
    }
}

/// Checks this installation and the machine that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {}

impl Operation for Doctor {
    type Answer = Vec<Finding>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<Finding>> {
        call.service.doctor()
    }
}
