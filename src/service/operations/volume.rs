//! Operations on volumes.

use super::{Authorization, Call, Done, Operation, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::api::{RolledBackInfo, VolumeInfo};
use crate::service::settings::{BackgroundRate, Changes, OnKeyLoss};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Creates a volume, empty or with the contents of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// A name that no other volume has.
    pub name: Option<String>,
    /// Size in bytes. From a snapshot: at least the snapshot's size, which is the default.
    pub size: Option<u64>,
    /// The CMK; the default is `alias/aws/ebs`. From a snapshot: `None` or the snapshot's CMK.
    pub key: Option<String>,
    /// Id of the snapshot to fill it from.
    pub snapshot: Option<String>,
    /// What it does when its CMK becomes unusable.
    #[serde(default)]
    pub on_key_loss: Option<OnKeyLoss>,
    /// Limit in requests per second, at least 100; 0 or `None`: no limit.
    #[serde(default)]
    pub iops: Option<u64>,
    /// Limit in bytes per second, at least 1 MiB; 0 or `None`: no limit.
    #[serde(default)]
    pub throughput: Option<u64>,
    /// How fast it is filled from its snapshot: `unlimited`, `paused`, or bytes per second.
    #[serde(default)]
    pub hydrate_rate: Option<BackgroundRate>,
    /// How fast its snapshots are copied: `unlimited`, `paused`, or bytes per second.
    #[serde(default)]
    pub snapshot_rate: Option<BackgroundRate>,
    /// Name or id of the repository for its snapshots, or `default`.
    #[serde(default)]
    pub repository: Option<String>,
}

impl Operation for CreateVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        let act = "ec2:CreateVolume";
        Some(self.name.as_ref().map_or_else(|| Act::new(act), |name| named(act, name)))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        let Self { name, size, key, snapshot, on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository } =
            self;
        let repository = repository.map(|name| call.service.repository_setting(&name)).transpose()?;
        let settings = Changes { on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository };
        call.service.create_volume(call.caller, name, size, key.as_deref(), snapshot.as_deref(), &settings)
    }
}

/// Changes the settings of a volume, also while it is attached. `None` leaves a setting unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModifyVolume {
    /// Name or id of the volume.
    pub volume: String,
    /// What it does when its CMK becomes unusable.
    #[serde(default)]
    pub on_key_loss: Option<OnKeyLoss>,
    /// Limit in requests per second, at least 100; 0: no limit.
    #[serde(default)]
    pub iops: Option<u64>,
    /// Limit in bytes per second, at least 1 MiB; 0: no limit.
    #[serde(default)]
    pub throughput: Option<u64>,
    /// How fast it is filled from its snapshot: `unlimited`, `paused`, or bytes per second.
    #[serde(default)]
    pub hydrate_rate: Option<BackgroundRate>,
    /// How fast its snapshots are copied: `unlimited`, `paused`, or bytes per second.
    #[serde(default)]
    pub snapshot_rate: Option<BackgroundRate>,
    /// Name or id of the repository for its snapshots, or `default`.
    #[serde(default)]
    pub repository: Option<String>,
}

impl Operation for ModifyVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:ModifyVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        let Self { volume, on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository } = self;
        let repository = repository.map(|name| call.service.repository_setting(&name)).transpose()?;
        call.service.modify_volume(
            call.caller,
            &volume,
            &Changes { on_key_loss, iops, throughput, hydrate_rate, snapshot_rate, repository },
        )
    }
}

/// Grows a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowVolume {
    /// Name or id of the volume.
    pub volume: String,
    /// Its new size in bytes.
    pub size: u64,
}

impl Operation for GrowVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:ModifyVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.grow_volume(call.caller, &self.volume, self.size)
    }
}

/// Rolls a volume that nobody uses back to a snapshot of it, in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBackVolume {
    /// Name or id of the volume.
    pub volume: String,
    /// Id or name of a snapshot of its lineage.
    pub snapshot: String,
    /// Whether to discard what the volume has now, instead of keeping it as a snapshot.
    #[serde(default)]
    pub discard: bool,
}

impl Operation for RollBackVolume {
    type Answer = RolledBackInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:RollBackVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<RolledBackInfo> {
        call.service.roll_back_volume(call.caller, &self.volume, (&self.snapshot, self.discard), call.report)
    }
}

/// Wipes the data key of a volume until it is resumed by hand. Reads and writes are held or fail, as it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendVolume {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for SuspendVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:SuspendVolume", &self.volume).restrictive())
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.suspend_volume(call.caller, &self.volume)
    }
}

/// Resumes a volume that was suspended by hand: unwraps its data key again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeVolume {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for ResumeVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ResumeVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.resume_volume(call.caller, &self.volume)
    }
}

/// Lists the volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeVolumes {}

impl Operation for DescribeVolumes {
    type Answer = Vec<VolumeInfo>;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<Vec<VolumeInfo>> {
        call.service.list_volumes()
    }
}

/// Describes one volume, with the contents of its header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeVolume {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for DescribeVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        None
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.show_volume(&self.volume)
    }
}

/// Deletes a volume that is not in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteVolume {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for DeleteVolume {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:DeleteVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.delete_volume(call.caller, &self.volume).map(Done)
    }
}

/// Exports the sealed sectors of a volume to a file, which other tools can open with the data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportVolume {
    /// Name or id of the volume.
    pub volume: String,
    /// Absolute path of the file, which must not exist.
    pub out: PathBuf,
    /// Whether to seal zeros into holes, as dm-crypt expects; otherwise holes stay holes.
    pub fill_holes: bool,
}

impl Operation for ExportVolume {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ExportVolume", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.export_volume(call.caller, &self.volume, &self.out, self.fill_holes, call.report).map(Done)
    }
}

/// Makes a volume from the plain image in the open file that is passed with the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportVolume {
    /// A name that no other volume has.
    pub name: String,
    /// The CMK; the default is `alias/aws/ebs`.
    #[serde(default)]
    pub key: Option<String>,
    /// Size in bytes, at least the image's. The number of bytes that come, if it is a stream.
    #[serde(default)]
    pub size: Option<u64>,
    /// The path of the file, for messages and the audit. `None`: it is a stream.
    pub from: Option<PathBuf>,
}

impl Operation for ImportVolume {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ImportVolume", &self.name))
    }
    fn perform(self, mut call: Call<'_>) -> Result<VolumeInfo> {
        let file = call.take_file()?;
        call.service.import_volume(call.caller, &self, file, call.report)
    }
}

/// Exports the clear data key of a volume, 64 bytes, to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportVolumeKey {
    /// Name or id of the volume.
    pub volume: String,
    /// Absolute path of the file, which must not exist.
    pub out: PathBuf,
}

impl Operation for ExportVolumeKey {
    type Answer = Done;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ExportKey", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<Done> {
        call.service.export_key(call.caller, &self.volume, &self.out).map(Done)
    }
}

/// Accepts the header of a volume as it is, although the catalog knows a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRollback {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for AcceptRollback {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:AcceptRollback", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.accept_rollback(call.caller, &self.volume)
    }
}

/// Makes a volume writable again after a failed sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptLostWrites {
    /// Name or id of the volume.
    pub volume: String,
}

impl Operation for AcceptLostWrites {
    type Answer = VolumeInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:AcceptLostWrites", &self.volume))
    }
    fn perform(self, call: Call<'_>) -> Result<VolumeInfo> {
        call.service.accept_lost_writes(call.caller, &self.volume)
    }
}
