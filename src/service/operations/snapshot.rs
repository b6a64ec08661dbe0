//! Operations on snapshots.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::SnapshotInfo;
use serde::{Deserialize, Serialize};

/// Takes a snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Name or id of the volume.
    pub volume: String,
    /// Free text for people.
    pub description: String,
    /// Whether to answer once it is completed, instead of once its point in time is fixed.
    pub wait: bool,
    /// Name or id of the repository it goes to; `None`: as the volume is set.
    #[serde(default)]
    pub repository: Option<String>,
}

impl Operation for CreateSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CreateSnapshot", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        let Self { volume, description, wait, repository } = self;
        call.service.create_snapshot(call.caller, &volume, repository.as_deref(), description, wait, call.report)
    }
}

/// Lists the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeSnapshots {}

impl Operation for DescribeSnapshots {
    type Answer = Vec<SnapshotInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<SnapshotInfo>> {
        call.service.list_snapshots()
    }
}

/// Describes one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeSnapshot {
    /// Id of the snapshot.
    pub snapshot: String,
}

impl Operation for DescribeSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.show_snapshot(&self.snapshot)
    }
}

/// Waits until a pending snapshot is completed. Without a server, continues it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitSnapshot {
    /// Id of the snapshot.
    pub snapshot: String,
}

impl Operation for WaitSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.wait_for_snapshot(call.caller, &self.snapshot, call.report)
    }
}

/// Deletes a snapshot, or cancels a pending one. What other snapshots need of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteSnapshot {
    /// Id of the snapshot.
    pub snapshot: String,
}

impl Operation for DeleteSnapshot {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:DeleteSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.delete_snapshot(call.caller, &self.snapshot).map(Done)
    }
}

/// Verifies a snapshot's signature, tree and chunk hashes. Needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySnapshot {
    /// Id of the snapshot.
    pub snapshot: String,
    /// The installation's public key that it must be signed with, in hexadecimal; `None`: any key.
    pub trust: Option<String>,
}

impl Operation for VerifySnapshot {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.verify_snapshot(&self.snapshot, self.trust.as_deref(), call.report).map(Done)
    }
}
