//! Answers about the upkeep of repositories: garbage, statistics, checks.

use super::WireError;
use crate::env::Timestamp;
use crate::units::{SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

/// A ref that keeps a deleted snapshot's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderInfo {
    /// Its id: the volume or job that needs the snapshot.
    pub id: String,
    /// The deleted snapshot.
    pub snapshot: SnapshotId,
}

/// What collecting garbage in a repository did; in a dry run, what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedInfo {
    /// The repository's name.
    pub repository: String,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Bytes that this gave back, less those that were written.
    pub freed: u64,
    /// Packs that were compacted: what is needed of them was copied, then they were deleted.
    pub compacted: u64,
    /// Bytes that were copied for that.
    pub written: u64,
    /// Bytes in packs that are needed.
    pub live: u64,
    /// Bytes in packs that are garbage and still there. In a dry run, those that are there now.
    pub garbage: u64,
    /// Those of them in packs that are left alone because held or locked snapshots reach them.
    pub held: u64,
    /// Refs that keep the objects of deleted snapshots.
    pub refs: Vec<HolderInfo>,
    /// What could not be read, and might need anything: in these lineages nothing was deleted.
    pub blind: Vec<String>,
    /// Damaged packs, which were left alone.
    pub damaged: Vec<String>,
    /// What failed, by lineage; the rest was collected.
    pub errors: Vec<WireError>,
}

/// Number and size of the objects of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyInfo {
    /// `packs`, `pages`, `manifests`, `redirects` or `records`.
    pub sort: String,
    /// How many there are.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What deleting a snapshot would give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueInfo {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The source volume, if the catalog knows it.
    pub volume: Option<VolumeId>,
    /// Bytes of its objects that no other snapshot needs. If it is needed by a volume or a job, they stay for that.
    pub unique: u64,
}

/// A ref in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefInfo {
    /// Its name, for `repository unref`.
    pub name: String,
    /// The snapshot that it keeps.
    pub snapshot: Option<SnapshotId>,
    /// `volume` or `job`.
    pub kind: Option<String>,
    /// When its owner last confirmed it.
    pub heartbeat: Option<Timestamp>,
    /// Whether this installation put it.
    pub own: bool,
    /// Why it is unreadable.
    pub error: Option<String>,
}

/// Statistics of a repository: of this installation's folders in it, except for refs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsInfo {
    /// The repository's name.
    pub repository: String,
    /// Bytes of all objects.
    pub total: u64,
    /// Objects by type.
    pub objects: Vec<TallyInfo>,
    /// Bytes in packs that are needed.
    pub live: u64,
    /// Those of them that several snapshots need.
    pub shared: u64,
    /// Bytes in packs that are garbage.
    pub garbage: u64,
    /// Bytes in packs of snapshots that are not completed.
    pub pending: u64,
    /// All snapshots, those that would give back most first.
    pub snapshots: Vec<UniqueInfo>,
    /// All refs.
    pub refs: Vec<RefInfo>,
    /// What could not be read: the numbers are too low.
    pub faults: Vec<String>,
    /// What failed, by lineage; the rest was counted.
    pub errors: Vec<WireError>,
}

/// What a check of a repository found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedInfo {
    /// The repository's name.
    pub repository: String,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// Whether the bodies in packs were read, too.
    pub read_data: bool,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Paths of objects that nothing needs; at most 1000.
    pub orphans: Vec<String>,
    /// The size of all such objects in bytes.
    pub orphaned: u64,
    /// What failed, by lineage; the rest was checked.
    pub errors: Vec<WireError>,
}
