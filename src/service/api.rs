//! The answers of operations (see [`super::operations`]). Answers travel as JSON over the daemon's socket; a command that opens
//! the data directory itself gets the same.

mod grant;
mod key;
mod principal;
mod repository;
mod state;
mod upkeep;

pub use grant::{GrantInfo, PolicyInfo};
pub use key::{Dependents, KeyInfo};
pub use principal::{AccessKeyInfo, AccountInfo, PrincipalInfo, PrincipalPolicyInfo};
pub use repository::RepositoryInfo;
pub use state::{AccessKind, KeySpec, LockMode, LockState, PrincipalSort, SnapshotState, VolumeState};
pub use upkeep::{CheckedInfo, CollectedInfo, HolderInfo, RefInfo, StatsInfo, TallyInfo, UniqueInfo};

use super::cadence::Cadence;
use super::retain::Keep;
use super::settings::{BackgroundRate, OnKeyLoss};
use crate::document::Document;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason};
use crate::units::{GroupId, ScheduleId, SnapshotId, VolumeId};
use crate::volume::format::Untrusted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// The answer to an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// Success without data.
    Done {
        /// A sentence for people that says what was done.
        message: String,
        /// What the caller should know about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    },
    /// The answer of one of AWS's operations.
    Aws {
        /// A JSON object.
        output: Document,
    },
    /// Identity and endpoints of this installation.
    Status(StatusInfo),
    /// One key.
    Key(KeyInfo),
    /// Keys.
    Keys {
        /// All matching keys.
        keys: Vec<KeyInfo>,
    },
    /// A key's policy.
    Policy(PolicyInfo),
    /// One grant.
    Grant(GrantInfo),
    /// Grants.
    Grants {
        /// All matching grants.
        grants: Vec<GrantInfo>,
    },
    /// The result of an encrypting or decrypting operation.
    Crypto(CryptoInfo),
    /// Aliases.
    Aliases {
        /// All aliases.
        aliases: Vec<AliasInfo>,
    },
    /// One volume.
    Volume(VolumeInfo),
    /// Volumes.
    Volumes {
        /// All volumes.
        volumes: Vec<VolumeInfo>,
    },
    /// What a rollback did.
    RolledBack(RolledBackInfo),
    /// One snapshot.
    Snapshot(SnapshotInfo),
    /// What rewrapping data keys did.
    #[serde(rename = "key-rewrap")]
    Rewrapped(RewrapInfo),
    /// Snapshots.
    Snapshots {
        /// All snapshots that are not being deleted.
        snapshots: Vec<SnapshotInfo>,
    },
    /// One repository.
    Repository(RepositoryInfo),
    /// Repositories.
    Repositories {
        /// All repositories, the data directory's own first.
        repositories: Vec<RepositoryInfo>,
    },
    /// What collecting garbage did.
    #[serde(rename = "repository-gc")]
    Collected {
        /// By repository.
        repositories: Vec<CollectedInfo>,
        /// Whether nothing was changed, because only the answer was asked for.
        dry_run: bool,
    },
    /// Statistics of repositories.
    #[serde(rename = "repository-stats")]
    Stats {
        /// By repository.
        repositories: Vec<StatsInfo>,
    },
    /// What a check of repositories found.
    #[serde(rename = "repository-check")]
    Checked {
        /// By repository.
        repositories: Vec<CheckedInfo>,
    },
    /// One schedule.
    Schedule(ScheduleInfo),
    /// Schedules.
    Schedules {
        /// All of them, oldest first.
        schedules: Vec<ScheduleInfo>,
    },
    /// What pruning did.
    Pruned {
        /// Each volume's snapshots, oldest first.
        snapshots: Vec<PrunedInfo>,
        /// Whether nothing was deleted, because only the answer was asked for.
        dry_run: bool,
    },
    /// The setting of the recycle bin.
    RecycleBin(RecycleBinInfo),
    /// What verification found.
    #[serde(rename = "snapshot-verify")]
    Verified {
        /// In the order in which they were named.
        snapshots: Vec<VerifiedInfo>,
    },
    /// What was written to an image.
    #[serde(rename = "snapshot-export")]
    Exported(ExportInfo),
    /// What changed between two snapshots.
    #[serde(rename = "snapshot-diff")]
    Changes(ChangesInfo),
    /// One attachment.
    Attachment(AttachmentInfo),
    /// Attachments.
    Attachments {
        /// All attachments.
        attachments: Vec<AttachmentInfo>,
    },
    /// The access record of one client.
    #[serde(rename = "tls-client")]
    Access(AccessInfo),
    /// The access records of clients.
    #[serde(rename = "tls-clients")]
    AccessList {
        /// All access records.
        clients: Vec<AccessInfo>,
    },
    /// One account.
    Account(AccountInfo),
    /// Accounts.
    Accounts {
        /// All accounts.
        accounts: Vec<AccountInfo>,
    },
    /// A user or a role.
    Principal(PrincipalInfo),
    /// Users and roles.
    Principals {
        /// Those of one account.
        principals: Vec<PrincipalInfo>,
    },
    /// An inline policy.
    PrincipalPolicy(PrincipalPolicyInfo),
    /// Inline policies.
    PrincipalPolicies {
        /// Those of one principal.
        policies: Vec<PrincipalPolicyInfo>,
    },
    /// One access key.
    AccessKey(AccessKeyInfo),
    /// Access keys.
    AccessKeys {
        /// Those of one principal.
        keys: Vec<AccessKeyInfo>,
    },
    /// The findings of a check.
    Findings {
        /// In the order of the checks.
        findings: Vec<Finding>,
    },
    /// Audit events.
    Events {
        /// Oldest first.
        events: Vec<EventInfo>,
    },
}

/// See [`Reply::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Installation id.
    pub installation: String,
    /// AWS-like account number, 12 digits.
    pub account: String,
    /// AWS-like Region.
    pub region: String,
    /// Public half of the signing key, in hexadecimal. Pin it to verify snapshots elsewhere.
    pub signing_key: String,
    /// The data directory.
    pub data: PathBuf,
    /// The endpoints that serve NBD; empty without a server.
    pub nbd: Vec<String>,
    /// Process id of the daemon; `None` if no daemon answers.
    pub daemon: Option<u32>,
}

/// Secret bytes from or for a caller: hexadecimal in transit, never shown, wiped on drop.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain(Zeroizing<String>);

impl Plain {
    /// Encodes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Allocated once: a growing buffer would leave unwiped copies behind.
        let mut out = Zeroizing::new(String::with_capacity(2 * bytes.len()));
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
            }
        }
        Self(out)
    }

    /// Decodes the bytes.
    ///
    /// # Errors
    /// [`Kind::Usage`] if they are not hexadecimal.
    pub fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut out = Zeroizing::new(vec![0; self.0.len() / 2]);
        hex::decode_to_slice(self.0.as_bytes(), &mut out)
            .map_err(|_| Error::new(Kind::Usage, "the plaintext is not hexadecimal"))?;
        Ok(out)
    }
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plain({} bytes, redacted)", self.0.len() / 2)
    }
}

/// See [`Reply::Crypto`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoInfo {
    /// ARN of the CMK.
    pub key: String,
    /// Id of the backing key that was used, in hexadecimal.
    pub key_material_id: String,
    /// The ciphertext blob, in hexadecimal, if one was made.
    pub blob: Option<String>,
    /// The plaintext, if it was requested.
    pub plaintext: Option<Plain>,
}

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasInfo {
    /// `alias/…`.
    pub alias: String,
    /// Id of its target key.
    pub key: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its id.
    pub id: VolumeId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Size in bytes, as a client sees it.
    pub size: u64,
    /// Bytes that its store occupies on disk, if known.
    pub stored: Option<u64>,
    /// `available`, `in-use`, `suspended` or `error`.
    pub state: VolumeState,
    /// ARN of the CMK that wraps its data key.
    pub key: String,
    /// The snapshot that it was created from.
    pub snapshot: Option<SnapshotId>,
    /// Whether all data of that snapshot has been copied; `true` for a volume without one.
    pub hydrated: bool,
    /// When it was created.
    pub created: Timestamp,
    /// The current holder, in words; `None` if nothing holds it.
    pub holder: Option<String>,
    /// What it does when its CMK becomes unusable.
    pub on_key_loss: OnKeyLoss,
    /// Limit in requests per second; `None`: no limit.
    pub iops: Option<u64>,
    /// Limit in bytes per second; `None`: no limit.
    pub throughput: Option<u64>,
    /// How fast it is filled from its snapshot.
    #[serde(default)]
    pub hydrate_rate: BackgroundRate,
    /// How fast its snapshots are copied.
    #[serde(default)]
    pub snapshot_rate: BackgroundRate,
    /// Name of the repository for its snapshots; `None`: the default one.
    #[serde(default)]
    pub repository: Option<String>,
    /// Contents of the header. Only `show` fills this in.
    pub header: Option<HeaderInfo>,
}

/// Contents of a volume's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderInfo {
    /// Where the volume is stored; for a volume in a file, its path.
    pub path: PathBuf,
    /// Generation of the identity, which each change to it increments.
    pub generation: u64,
    /// Lineage id.
    pub lineage: String,
    /// Data keys: id, and ciphertext blob in hexadecimal.
    pub data_keys: Vec<(String, String)>,
    /// Encryption context of the data keys.
    pub context: BTreeMap<String, String>,
    /// The epoch of the next write.
    pub epoch: u32,
    /// Whether it was closed cleanly.
    pub clean: bool,
    /// What the next snapshot has to compare in full: `no`, `intent` or `all`.
    pub changed_untrusted: Untrusted,
    /// Whether a sync failed, so that acknowledged writes may be lost.
    pub write_failed: bool,
    /// XTS units sealed so far (IEEE 1619 limits a key to 2^44 blocks of 16 bytes).
    pub sealed_units: u64,
    /// Damage that was found and worked around.
    pub damage: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// The source volume.
    pub volume: VolumeId,
    /// `pending`, `completed` or `error`.
    pub state: SnapshotState,
    /// Why it is in `error`.
    pub error: Option<String>,
    /// Size of the volume at the point in time, in bytes.
    pub size: u64,
    /// Bytes in chunks that changed since its base.
    pub changed: u64,
    /// Bytes that it added to the repository.
    pub stored: u64,
    /// When its point in time was fixed.
    pub created: Timestamp,
    /// The snapshot that it is an increment to; `None`: it is full.
    pub base: Option<SnapshotId>,
    /// ARN of the CMK that wraps its data keys.
    pub key: String,
    /// Name of the repository that has it.
    #[serde(default)]
    pub repository: String,
    /// Free text for people.
    pub description: String,
    /// A name that may be used in place of its id.
    #[serde(default)]
    pub name: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Whether it is held against deletion until it is released.
    #[serde(default)]
    pub held: bool,
    /// Its lock against deletion, if it has one.
    #[serde(default)]
    pub lock: Option<LockInfo>,
    /// The schedule that took it.
    #[serde(default)]
    pub schedule: Option<ScheduleId>,
    /// The group that it was taken with, at one instant.
    #[serde(default)]
    pub group: Option<GroupId>,
    /// When a drill last proved that it can be restored.
    #[serde(default)]
    pub proved: Option<Timestamp>,
    /// The snapshot that it is a copy of, if it is one. `volume` and `created` are then those of that snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SnapshotId>,
    /// Until when it stays in the recycle bin, if it is deleted.
    #[serde(default)]
    pub recycled_until: Option<Timestamp>,
    /// How far this process has copied it, while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyInfo>,
}

/// What a rollback did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBackInfo {
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot that it is now.
    pub snapshot: SnapshotId,
    /// The snapshot that has what the volume was before; `None`: that was discarded, or the volume was rolled back already.
    pub kept: Option<SnapshotId>,
}

/// What rewrapping data keys did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrapInfo {
    /// Whether nothing was changed, because only the answer was asked for.
    pub dry_run: bool,
    /// Wrapped data keys that are under the newest material already.
    pub current: u64,
    /// Those that were not.
    pub keys: Vec<RewrappedInfo>,
    /// Places where it could not be done, and why.
    pub left: Vec<WireError>,
}

/// A wrapped data key at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrappedInfo {
    /// The place, for people.
    pub place: String,
    /// The data key's id.
    pub data_key: String,
    /// ARN of the CMK.
    pub key: String,
    /// The key material id that it was wrapped under.
    pub from: String,
    /// The key material id that it is now wrapped under, or would be.
    pub to: String,
}

/// How far a pending snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Bytes of chunks copied.
    pub copied: u64,
    /// Bytes of chunks to copy in all; 0: not known yet.
    pub total: u64,
    /// The same as a percentage.
    pub percent: u8,
    /// Bytes copied per second.
    pub rate: u64,
    /// Why it waits for its repository, if it does.
    pub waits: Option<String>,
}

/// What pruning did, or would do, with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedInfo {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The source volume.
    pub volume: VolumeId,
    /// When its point in time was fixed.
    pub created: Timestamp,
    /// Whether it is kept.
    pub kept: bool,
    /// The rules that keep it, and what else does: a hold, a lock, a reader.
    pub reasons: Vec<String>,
    /// Why it could not be deleted.
    pub error: Option<WireError>,
}

/// A schedule of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleInfo {
    /// Its id.
    pub id: ScheduleId,
    /// The volume that it takes snapshots of.
    pub volume: VolumeId,
    /// Name of the volume, if there is one.
    pub name: Option<String>,
    /// How often it takes one.
    pub cadence: Cadence,
    /// Which of its snapshots it keeps; `None`: all.
    pub keep: Option<Keep>,
    /// Whether it is paused.
    pub paused: bool,
    /// When it was added.
    pub created: Timestamp,
    /// When it is due, if it is not paused. A server does what is due within a minute.
    pub next: Timestamp,
    /// When it last took a snapshot, or tried to.
    pub ran: Option<Timestamp>,
    /// The snapshot of the last run that took one.
    pub snapshot: Option<SnapshotId>,
    /// Why the last run failed; it is tried again.
    pub error: Option<String>,
}

/// The setting of the recycle bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecycleBinInfo {
    /// For how many days deleted snapshots are kept; `None`: they are deleted at once.
    pub days: Option<u32>,
}

/// The lock on a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// Whether it can be taken back.
    pub mode: LockMode,
    /// What it forbids now.
    pub state: LockState,
    /// When the snapshot was locked.
    pub created: Timestamp,
    /// When the lock expires. It lasts longer if the clock was set, or the machine was off.
    pub until: Timestamp,
    /// Until when a compliance lock can be taken back, if it had a cooling-off period.
    pub cool_off_until: Option<Timestamp>,
}

/// What the verification of one snapshot found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedInfo {
    /// The snapshot, as it was named.
    pub snapshot: String,
    /// Chunks that it has.
    pub chunks: u64,
    /// Chunks that are verified: all, unless some are bad or only a sample was read.
    pub verified: u64,
    /// Bytes in those.
    pub bytes: u64,
    /// The public key that signed it, in hexadecimal; `None` if that is not known.
    pub signed_by: Option<String>,
    /// Whether that is the trusted key.
    pub attested: bool,
    /// Number of bad chunks; if a page is bad, all chunks that it covers are.
    pub bad_chunks: u64,
    /// The bad chunks, at most 1000 entries.
    pub bad: Vec<BadChunks>,
    /// Why it could not be verified at all.
    pub error: Option<WireError>,
}

/// Neighbouring chunks that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadChunks {
    /// The first one's number.
    pub first: u64,
    /// Their number.
    pub count: u64,
    /// The first byte of the volume in them.
    pub offset: u64,
    /// What is wrong, and where.
    pub reason: String,
}

/// A plain image of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportInfo {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Size of the image in bytes.
    pub size: u64,
    /// Bytes in its sectors of 4096 that are not all zeros.
    pub data: u64,
}

/// What changed from one snapshot to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesInfo {
    /// The snapshot compared with; `None`: an empty one.
    pub from: Option<SnapshotId>,
    /// The snapshot whose ranges these are.
    pub to: SnapshotId,
    /// Size of `from` in bytes. What `to` has past it counts as changed only if it is not all zeros.
    pub from_size: Option<u64>,
    /// Size of `to` in bytes. No range reaches past it.
    pub size: u64,
    /// The ranges that differ, ascending and disjoint, in whole chunks of 512 KiB except at the end.
    pub ranges: Vec<ChangedRange>,
    /// Where the next answer has to start, if the ranges did not fit into this one.
    pub next: Option<u64>,
}

/// A range of bytes that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRange {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Whether all of it is zeros now: the snapshot has no data there.
    pub zero: bool,
}

/// An attachment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentInfo {
    /// Its id. It names the attachment and grants nothing.
    pub id: String,
    /// The attached volume.
    pub volume: VolumeId,
    /// Name of the volume, if it has one.
    pub name: Option<String>,
    /// The device that it appears as.
    pub device: String,
    /// The export name to connect with. It contains the token only in the answers to `attach-begin` and `attach-renew`.
    pub export: String,
    /// The socket to connect to.
    pub socket: PathBuf,
    /// When it was created.
    pub created: Timestamp,
}

impl std::fmt::Debug for AttachmentInfo {
    /// Leaves out the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, volume, device, .. } = self;
        write!(f, "AttachmentInfo({id}, {volume}, {device})")
    }
}

/// An access record: what one client may use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessInfo {
    /// A name in its certificate, `uid:` and a number, or the name of its token.
    pub name: String,
    /// `certificate`, `local user` or `token`.
    pub by: AccessKind,
    /// ARN of the user that it acts as.
    pub principal: String,
    /// The volumes that it may use; `None`: all.
    pub volumes: Option<Vec<String>>,
    /// When access was granted.
    pub created: Timestamp,
    /// The token, only in the answer that created it.
    pub token: Option<String>,
    /// In the answer to allowing it: the volumes that it was allowed before, if it was listed. Empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<String>>,
}

impl std::fmt::Debug for AccessInfo {
    /// Leaves out the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, by, principal, volumes, .. } = self;
        write!(f, "AccessInfo({name}, {by}, {principal}, {volumes:?})")
    }
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, but needs attention.
    Warning,
    /// Needs repair.
    Error,
}

/// One finding of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its severity.
    pub grade: Grade,
    /// What was checked.
    pub check: String,
    /// What was found, and what to do.
    pub message: String,
}

/// An audit event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// Its position in the audit chain.
    pub sequence: u64,
    /// The record, as it is in the chain.
    pub record: serde_json::Value,
}

/// The progress of a long operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The current step.
    pub what: String,
    /// Units done so far.
    pub done: u64,
    /// Units in total, if known.
    pub total: Option<u64>,
    /// The unit: `bytes`.
    pub unit: String,
}

/// An error as it travels over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// Its kind.
    pub kind: Kind,
    /// AWS error code, for programs that know them.
    pub code: String,
    /// What failed and why, in one line.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl From<&Error> for WireError {
    fn from(err: &Error) -> Self {
        let words = err.replay();
        Self {
            kind: err.kind(),
            code: err.aws().to_owned(),
            message: words.what().to_owned(),
            hint: err.advice().map(str::to_owned),
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        let err = Self::new(wire.kind, wire.message);
        let err = Reason::of_aws(&wire.code).into_iter().fold(err, Self::reason);
        wire.hint.into_iter().fold(err, Self::hint)
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
