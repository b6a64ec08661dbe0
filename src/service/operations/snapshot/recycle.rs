//! Operations on the recycle bin.

use super::super::{Authorization, Call, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{RecycleBinInfo, SnapshotInfo};
use serde::{Deserialize, Serialize};

/// Takes a snapshot out of the recycle bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverSnapshot {
    /// Id of the snapshot.
    pub snapshot: String,
}

impl Operation for RecoverSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:RestoreSnapshotFromRecycleBin", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.recover_snapshot(call.caller, &self.snapshot)
    }
}

/// Sets for how long deleted snapshots stay in the recycle bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRecycleBin {
    /// Days, 1 to 365; `None`: snapshots are deleted at once.
    pub days: Option<u32>,
}

impl Operation for SetRecycleBin {
    type Answer = RecycleBinInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(Act::new("coffer:SetRecycleBin").detail("days", self.days.unwrap_or(0)))
    }
    fn perform(self, call: Call<'_>) -> Result<RecycleBinInfo> {
        call.service.set_recycle_bin(call.caller, self.days)
    }
}

/// Returns the setting of the recycle bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRecycleBin {}

impl Operation for GetRecycleBin {
    type Answer = RecycleBinInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<RecycleBinInfo> {
        call.service.recycle_bin()
    }
}
