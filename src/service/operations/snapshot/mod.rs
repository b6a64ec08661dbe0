//! Operations on snapshots.

mod export;
mod protect;
mod prune;
mod recycle;

pub use export::ExportSnapshot;
pub use protect::{HoldSnapshot, LockSnapshot, ReleaseSnapshot, UnlockSnapshot};
pub use prune::PruneSnapshots;
pub use recycle::{GetRecycleBin, RecoverSnapshot, SetRecycleBin};

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{ChangesInfo, SnapshotInfo, VerifiedInfo};
use crate::service::records::Labels;
use crate::units::GroupId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Takes a snapshot of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A name that may be used in place of its id.
    #[serde(default)]
    pub name: Option<String>,
    /// Tags, by AWS's rules for EC2.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Operation for CreateSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CreateSnapshot", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        let Self { volume, description, wait, repository, name, tags } = self;
        let labels = Labels { description, name, tags, ..Labels::default() };
        call.service.create_snapshot(call.caller, &volume, (repository.as_deref(), labels), wait, call.report)
    }
}

/// Takes snapshots of several volumes at one instant: all, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshots {
    /// Names or ids of the volumes, each once.
    pub volumes: Vec<String>,
    /// Free text for people.
    #[serde(default)]
    pub description: String,
    /// Whether to answer once all are completed, instead of once the point in time is fixed.
    #[serde(default)]
    pub wait: bool,
    /// Name or id of the repository they go to; `None`: as each volume is set.
    #[serde(default)]
    pub repository: Option<String>,
    /// Tags of each, by AWS's rules for EC2.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Operation for CreateSnapshots {
    type Answer = Vec<SnapshotInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CreateSnapshots", &self.volumes.join(" ")))
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<SnapshotInfo>> {
        let Self { volumes, description, wait, repository, tags } = self;
        let labels = Labels { description, tags, ..Labels::default() };
        call.service.create_snapshots(call.caller, &volumes, (repository.as_deref(), labels), wait, call.report)
    }
}

/// Copies a snapshot to another repository, or under another CMK.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopySnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
    /// Id, ARN or alias of the CMK of the copy, which then has a data key of its own; `None`: the sealed bytes are copied.
    #[serde(default)]
    pub key: Option<String>,
    /// Name or id of the repository of the copy; `None`: that of the snapshot.
    #[serde(default)]
    pub repository: Option<String>,
    /// Free text for people.
    #[serde(default)]
    pub description: String,
    /// A name that may be used in place of its id.
    #[serde(default)]
    pub name: Option<String>,
    /// Tags, by AWS's rules for EC2.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Whether to answer once it is completed, instead of once it has begun.
    #[serde(default)]
    pub wait: bool,
}

impl Operation for CopySnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CopySnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        let key = self.key.as_deref().map(|key| call.key(key)).transpose()?;
        let Self { snapshot, repository, description, name, tags, wait, .. } = self;
        let labels = Labels { description, name, tags, ..Labels::default() };
        call.service.copy_snapshot(call.caller, &snapshot, (key, repository), labels, (wait, call.report))
    }
}

/// Lists the snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeSnapshots {
    /// Only those with these tags, each with this value or with any.
    #[serde(default)]
    pub tags: BTreeMap<String, Option<String>>,
    /// Only those of this volume (name or id).
    #[serde(default)]
    pub volume: Option<String>,
    /// Those in the recycle bin, instead of the others.
    #[serde(default)]
    pub recycled: bool,
    /// Only those that were taken together in this group.
    #[serde(default)]
    pub group: Option<GroupId>,
}

impl Operation for DescribeSnapshots {
    type Answer = Vec<SnapshotInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<SnapshotInfo>> {
        call.service.list_snapshots(&self)
    }
}

/// Describes one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeSnapshot {
    /// Id or name of the snapshot.
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

/// Changes the tags of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
    /// Tags to add, or to give another value.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Names of tags to remove; those that it does not have are not an error.
    #[serde(default)]
    pub remove: Vec<String>,
}

impl Operation for TagSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:CreateTags", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.tag_snapshot(call.caller, &self.snapshot, &self.tags, &self.remove)
    }
}

/// Waits until a pending snapshot is completed. Without a server, continues it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitSnapshot {
    /// Id or name of the snapshot.
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
    /// Id or name of the snapshot.
    pub snapshot: String,
    /// Whether to delete it for good even if there is a recycle bin.
    #[serde(default)]
    pub now: bool,
}

impl Operation for DeleteSnapshot {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:DeleteSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.delete_snapshot(call.caller, &self.snapshot, self.now).map(Done)
    }
}

/// Verifies the signature, tree and chunk hashes of snapshots. Needs no key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySnapshots {
    /// Ids or names of the snapshots.
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

/// Proves that a snapshot can be restored: restores it to a volume that is removed again, and reads all of it. Needs the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
}

impl Operation for DrillSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:DrillSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.drill_snapshot(call.caller, &self.snapshot, call.report)
    }
}

/// Compares two snapshots of a lineage: which ranges of bytes differ. Needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffSnapshots {
    /// Id or name of the snapshot to compare with; `None`: an empty one.
    #[serde(default)]
    pub from: Option<String>,
    /// Id or name of the snapshot whose ranges are listed.
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
