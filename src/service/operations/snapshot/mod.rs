//! Operations on snapshots.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{ChangesInfo, SnapshotInfo, VerifiedInfo};
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
}

impl Operation for CreateSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CreateSnapshot", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.create_snapshot(call.caller, &self.volume, self.description, self.wait, call.report)
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

/// Deletes a snapshot. What other snapshots need of it is kept.
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

/// Verifies the signature, tree and chunk hashes of snapshots. Needs no key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySnapshots {
    /// Ids of the snapshots.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// All completed snapshots, instead of those named.
    #[serde(default)]
    pub all: bool,
    /// How many of a million chunks to read, chosen at random; `None`: all. Every page of the tree is read in any case.
    #[serde(default)]
    pub sample: Option<u32>,
    /// The installation's public key that they must be signed with, in hexadecimal; `None`: any key.
    #[serde(default)]
    pub trust: Option<String>,
}

impl Operation for VerifySnapshots {
    type Answer = Vec<VerifiedInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<VerifiedInfo>> {
        call.service.verify_snapshots(&self, call.report)
    }
}

/// Compares two snapshots of a lineage: which ranges of bytes differ. Needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffSnapshots {
    /// Id of the snapshot to compare with; `None`: an empty one.
    #[serde(default)]
    pub from: Option<String>,
    /// Id of the snapshot whose ranges are listed.
    pub to: String,
    /// The first byte that is of interest: 0, or `next` of the previous answer.
    #[serde(default)]
    pub start: u64,
}

impl Operation for DiffSnapshots {
    type Answer = ChangesInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<ChangesInfo> {
        call.service.diff_snapshots(self.from.as_deref(), &self.to, self.start, call.report)
    }
}
