//! What can be asked of coffer, and what it answers: every verb once, typed.
//!
//! The command line calls [`super::Service::handle`] with these, in its own process or through the daemon's socket, where
//! they travel as JSON. The answers are the same either way.

mod grant;
mod key;
mod once;

pub use grant::{GrantInfo, PolicyInfo};
pub use key::{Dependents, KeyInfo};
pub use once::ShownOnce;

use super::settings::OnKeyLoss;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason};
use crate::units::{SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// A verb and what it is to act on. Volumes and snapshots are named by id or name, keys by id, ARN or alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What this installation is.
    Status {},
    /// A new customer-managed CMK.
    KeyCreate {
        /// `alias/…` to point at it.
        alias: Option<String>,
        /// For people.
        description: String,
        /// Its key policy; none: AWS's default.
        #[serde(default)]
        policy: Option<String>,
        /// Take a policy under which the caller could not put another one.
        #[serde(default)]
        bypass_lockout_check: bool,
    },
    /// A CMK's policy.
    KeyPolicyShow {
        /// Which.
        key: String,
    },
    /// Gives a CMK another policy.
    KeyPolicySet {
        /// Which.
        key: String,
        /// The document.
        policy: String,
        /// Take one under which the caller could not put another.
        bypass_lockout_check: bool,
    },
    /// Gives a CMK the default policy again, whatever its policy says. The account's root alone.
    KeyPolicyReset {
        /// Which.
        key: String,
    },
    /// A grant on a CMK; asked again with the same name and particulars, it is the same.
    GrantCreate {
        /// Which.
        key: String,
        /// ARN of the principal that it is for.
        grantee: String,
        /// ARN of one that may retire it.
        retiring: Option<String>,
        /// As Decrypt.
        operations: Vec<String>,
        /// For this encryption context alone.
        equals: Option<BTreeMap<String, String>>,
        /// For encryption contexts that have these pairs.
        subset: Option<BTreeMap<String, String>>,
        /// Its name.
        name: Option<String>,
    },
    /// The grants of a CMK.
    GrantList {
        /// Which.
        key: String,
        /// This one alone.
        grant: Option<String>,
        /// Those for this principal alone.
        grantee: Option<String>,
    },
    /// The grants that a principal may retire.
    GrantListRetirable {
        /// Its ARN.
        retiring: String,
    },
    /// Takes a grant back; a volume whose lease lives by it is suspended.
    GrantRevoke {
        /// Its CMK.
        key: String,
        /// Its id.
        grant: String,
    },
    /// Gives a grant back, named by its token, or by its CMK and id.
    GrantRetire {
        /// Its CMK.
        key: Option<String>,
        /// Its id.
        grant: Option<String>,
        /// Its token.
        token: Option<String>,
    },
    /// All CMKs.
    KeyList {},
    /// One CMK.
    KeyShow {
        /// Which.
        key: String,
    },
    /// Makes a CMK usable.
    KeyEnable {
        /// Which.
        key: String,
    },
    /// Makes a CMK unusable; volumes under it are suspended.
    KeyDisable {
        /// Which.
        key: String,
    },
    /// A new backing key; old ones stay for decryption.
    KeyRotate {
        /// Which.
        key: String,
    },
    /// Encrypts 1 to 4096 bytes under a CMK.
    KeyEncrypt {
        /// Which.
        key: String,
        /// What.
        plaintext: Plain,
        /// Encryption context: Decrypt must be given the same.
        context: BTreeMap<String, String>,
    },
    /// Opens what KeyEncrypt, KeyGenerateDataKey or KeyReEncrypt made.
    KeyDecrypt {
        /// The key that must have made it, if that is to be checked.
        key: Option<String>,
        /// Ciphertext blob, hexadecimal.
        blob: String,
        /// Encryption context.
        context: BTreeMap<String, String>,
    },
    /// Moves a blob to another CMK, or to the newest version of its own; the plaintext stays in the KMS.
    KeyReEncrypt {
        /// To which.
        key: String,
        /// Ciphertext blob, hexadecimal.
        blob: String,
        /// Encryption context of the blob.
        context: BTreeMap<String, String>,
        /// Encryption context of the new blob.
        new_context: BTreeMap<String, String>,
    },
    /// A data key for the caller's own use, wrapped, and in clear if asked for.
    KeyGenerateDataKey {
        /// Under which.
        key: String,
        /// Its length in bytes, 1 to 1024.
        bytes: u16,
        /// The clear form, too.
        plaintext: bool,
        /// Encryption context.
        context: BTreeMap<String, String>,
    },
    /// Disables a CMK and deletes it after a waiting time. Volumes under it are suspended.
    KeyScheduleDeletion {
        /// Which.
        key: String,
        /// 7 to 30.
        days: u32,
    },
    /// Takes a scheduled deletion back; the CMK is disabled then.
    KeyCancelDeletion {
        /// Which.
        key: String,
    },
    /// Points a new alias at a CMK.
    AliasCreate {
        /// `alias/…`.
        alias: String,
        /// Which.
        key: String,
    },
    /// Points an alias at another CMK.
    AliasUpdate {
        /// `alias/…`.
        alias: String,
        /// Which.
        key: String,
    },
    /// Removes an alias.
    AliasDelete {
        /// `alias/…`.
        alias: String,
    },
    /// All aliases.
    AliasList {},
    /// A new volume, empty or filled from a snapshot.
    VolumeCreate {
        /// A name of its own.
        name: Option<String>,
        /// Bytes; with a snapshot at least the snapshot's, which is also the default.
        size: Option<u64>,
        /// The CMK; default alias/aws/ebs. With a snapshot: must be the snapshot's, or none.
        key: Option<String>,
        /// What to fill it from.
        snapshot: Option<String>,
        /// What it does when its CMK cannot be used any more.
        #[serde(default)]
        on_key_loss: Option<OnKeyLoss>,
        /// Requests a second, at least 100; 0 or none: no limit.
        #[serde(default)]
        iops: Option<u64>,
        /// Bytes a second, at least 1 MiB; 0 or none: no limit.
        #[serde(default)]
        throughput: Option<u64>,
    },
    /// Changes what a volume does, while it is attached, too. What is left out stays.
    VolumeModify {
        /// Which.
        volume: String,
        /// What it does when its CMK cannot be used any more.
        #[serde(default)]
        on_key_loss: Option<OnKeyLoss>,
        /// Requests a second; 0: no limit.
        #[serde(default)]
        iops: Option<u64>,
        /// Bytes a second; 0: no limit.
        #[serde(default)]
        throughput: Option<u64>,
    },
    /// Wipes a volume's data key until it is resumed: reads and writes wait.
    VolumeSuspend {
        /// Which.
        volume: String,
    },
    /// Ends that.
    VolumeResume {
        /// Which.
        volume: String,
    },
    /// All volumes.
    VolumeList {},
    /// One volume.
    VolumeShow {
        /// Which.
        volume: String,
    },
    /// Deletes a volume that nobody uses.
    VolumeDelete {
        /// Which.
        volume: String,
    },
    /// Makes a volume larger.
    VolumeGrow {
        /// Which.
        volume: String,
        /// New size in bytes.
        size: u64,
    },
    /// Writes the sealed sectors to a file that other tools open with the data key.
    VolumeExport {
        /// Which.
        volume: String,
        /// The file, which must not exist; an absolute path.
        out: PathBuf,
        /// Seal zeros into holes, as dm-crypt expects; else holes stay holes.
        fill_holes: bool,
    },
    /// Writes the clear data key, 64 bytes, to a file. Audited.
    VolumeExportKey {
        /// Which.
        volume: String,
        /// The file, which must not exist; an absolute path.
        out: PathBuf,
    },
    /// Takes a volume's header as it is, though the catalog knows a newer one.
    VolumeAcceptRollback {
        /// Which.
        volume: String,
    },
    /// Makes a volume writable again whose sync failed.
    VolumeAcceptLostWrites {
        /// Which.
        volume: String,
    },
    /// A snapshot of a volume.
    SnapshotCreate {
        /// Of which.
        volume: String,
        /// For people.
        description: String,
        /// Answer when it is completed, not when its point in time is fixed.
        wait: bool,
    },
    /// All snapshots.
    SnapshotList {},
    /// One snapshot.
    SnapshotShow {
        /// Which.
        snapshot: String,
    },
    /// Deletes a snapshot; what others need of it stays.
    SnapshotDelete {
        /// Which.
        snapshot: String,
    },
    /// Reads a snapshot's signature, tree and every chunk's hash; no key is needed.
    SnapshotVerify {
        /// Which.
        snapshot: String,
        /// The installation's public key, hexadecimal, that it must be signed with.
        trust: Option<String>,
    },
    /// Registers an attachment and answers how to connect.
    AttachBegin {
        /// Which volume.
        volume: String,
        /// The device it will appear as.
        device: String,
    },
    /// A new token for an attachment that lives on; the old one opens nothing any more. For a helper that takes the place of
    /// one that was killed: the token is told only once.
    AttachRenew {
        /// A volume, a device or an attachment's id.
        what: String,
    },
    /// Takes a volume from whoever holds it, and closes their connections. Audited.
    LeaseBreak {
        /// A volume, a device or an attachment's id.
        what: String,
    },
    /// Ends an attachment.
    AttachEnd {
        /// A volume or a device.
        what: String,
    },
    /// All attachments.
    AttachmentList {},
    /// Lets the bearer of a certificate use volumes over TLS; says it anew if it was said before.
    AccessAllow {
        /// A name that stands in the certificate, or its fingerprint as `sha256:…`.
        name: String,
        /// The user it acts as; the same name, if none is given.
        user: Option<String>,
        /// Which volumes.
        volumes: Vec<String>,
        /// All volumes, now and later, instead.
        all: bool,
    },
    /// Makes a token that stands in for a certificate.
    AccessToken {
        /// What it is called.
        name: String,
        /// The user it acts as; the same name, if none is given.
        user: Option<String>,
        /// Which volumes.
        volumes: Vec<String>,
        /// All volumes, now and later, instead.
        all: bool,
    },
    /// Takes back what was allowed.
    AccessDeny {
        /// To whom.
        name: String,
    },
    /// All that may use volumes over TLS.
    AccessList {},
    /// Checks this installation and the machine it runs on.
    Doctor {},
    /// Checks the audit's chain against the catalog.
    AuditVerify {},
    /// Goes on with an audit that was found cut or forked; what is damaged is set aside.
    AuditAccept {},
    /// The newest audit events.
    AuditList {
        /// At most so many.
        limit: usize,
    },
}

/// What a verb answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// Nothing but that it is done, in words.
    Done {
        /// What was done.
        message: String,
    },
    /// What this installation is.
    Status(StatusInfo),
    /// One key.
    Key(KeyInfo),
    /// Keys.
    Keys {
        /// All of them.
        keys: Vec<KeyInfo>,
    },
    /// A key's policy.
    Policy(PolicyInfo),
    /// One grant.
    Grant(GrantInfo),
    /// Grants.
    Grants {
        /// All of them.
        grants: Vec<GrantInfo>,
    },
    /// What an encrypting or decrypting verb gives.
    Crypto(CryptoInfo),
    /// Aliases.
    Aliases {
        /// All of them.
        aliases: Vec<AliasInfo>,
    },
    /// One volume.
    Volume(VolumeInfo),
    /// Volumes.
    Volumes {
        /// All of them.
        volumes: Vec<VolumeInfo>,
    },
    /// One snapshot.
    Snapshot(SnapshotInfo),
    /// Snapshots.
    Snapshots {
        /// All of them.
        snapshots: Vec<SnapshotInfo>,
    },
    /// One attachment.
    Attachment(AttachmentInfo),
    /// Attachments.
    Attachments {
        /// All of them.
        attachments: Vec<AttachmentInfo>,
    },
    /// One client over TLS.
    Access(AccessInfo),
    /// Clients over TLS.
    AccessList {
        /// All of them.
        clients: Vec<AccessInfo>,
    },
    /// What a check found.
    Findings {
        /// In the order they were checked.
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
    /// Public half of the signing key, hexadecimal: pin it to verify snapshots elsewhere.
    pub signing_key: String,
    /// The data directory.
    pub data: PathBuf,
    /// Where NBD is served, when it is.
    pub nbd: Vec<String>,
    /// The daemon's process id, when one answers.
    pub daemon: Option<u32>,
}

/// Bytes that a caller hands in or is handed: hexadecimal on the way, never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain(Zeroizing<String>);

impl Plain {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // In one piece: what grows leaves copies behind that nobody wipes.
        let mut out = Zeroizing::new(String::with_capacity(2 * bytes.len()));
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
            }
        }
        Self(out)
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no hexadecimal.
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
    /// The version that was used, hexadecimal.
    pub key_material_id: String,
    /// The ciphertext blob, hexadecimal, where one was made.
    pub blob: Option<String>,
    /// The plaintext, where it was asked for.
    pub plaintext: Option<Plain>,
}

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasInfo {
    /// `alias/…`.
    pub alias: String,
    /// Key id it points at.
    pub key: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its id.
    pub id: VolumeId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Bytes a user sees.
    pub size: u64,
    /// Bytes its file takes on disk, where that is known.
    pub stored: Option<u64>,
    /// available, in-use, suspended, error.
    pub state: String,
    /// ARN of the CMK that wraps its data key.
    pub key: String,
    /// The snapshot it was made from.
    pub snapshot: Option<SnapshotId>,
    /// Whether all of that snapshot is here.
    pub hydrated: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Who holds it.
    pub holder: Option<String>,
    /// What it does when its CMK cannot be used any more.
    pub on_key_loss: OnKeyLoss,
    /// Requests a second, if that is limited.
    pub iops: Option<u64>,
    /// Bytes a second, if that is limited.
    pub throughput: Option<u64>,
    /// From the header: only in `show`.
    pub header: Option<HeaderInfo>,
}

/// What the header of a volume says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderInfo {
    /// The volume's file.
    pub path: PathBuf,
    /// Identity generation.
    pub generation: u64,
    /// Lineage id.
    pub lineage: String,
    /// Data keys: id and ciphertext blob in hexadecimal.
    pub data_keys: Vec<(String, String)>,
    /// Encryption context.
    pub context: BTreeMap<String, String>,
    /// The epoch of the next write.
    pub epoch: u32,
    /// Closed in order.
    pub clean: bool,
    /// Whether the next snapshot compares everything: no, intent, all.
    pub changed_untrusted: String,
    /// A sync failed.
    pub write_failed: bool,
    /// XTS units sealed so far (IEEE 1619 scopes a key to 2^44 blocks of 16 bytes).
    pub sealed_units: u64,
    /// Damage that was found and passed over.
    pub damage: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// The volume it was taken of.
    pub volume: VolumeId,
    /// pending, completed, error.
    pub state: String,
    /// Why it is in error.
    pub error: Option<String>,
    /// The volume's bytes at that time.
    pub size: u64,
    /// Bytes of chunks that changed since its base.
    pub changed: u64,
    /// Bytes it added to the repository.
    pub stored: u64,
    /// When its point in time was fixed.
    pub created: Timestamp,
    /// What it is an increment to.
    pub base: Option<SnapshotId>,
    /// ARN of the CMK.
    pub key: String,
    /// For people.
    pub description: String,
}

/// An attachment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentInfo {
    /// Its id: names the attachment, opens nothing.
    pub id: String,
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: Option<String>,
    /// The device.
    pub device: String,
    /// Export name to connect with: with its token in the answer to `AttachBegin` and `AttachRenew` alone, else the volume's.
    pub export: String,
    /// Socket to connect to.
    pub socket: PathBuf,
    /// When it was made.
    pub created: Timestamp,
}

impl std::fmt::Debug for AttachmentInfo {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, volume, device, .. } = self;
        write!(f, "AttachmentInfo({id}, {volume}, {device})")
    }
}

/// Who may use what over TLS.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessInfo {
    /// A name in its certificate, or what its token is called.
    pub name: String,
    /// `certificate` or `token`.
    pub by: String,
    /// Whom it acts as.
    pub principal: String,
    /// Which volumes it may use; none: all.
    pub volumes: Option<Vec<String>>,
    /// When it was allowed.
    pub created: Timestamp,
    /// The token, in the answer to its making alone.
    pub token: Option<String>,
}

impl std::fmt::Debug for AccessInfo {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, by, principal, volumes, .. } = self;
        write!(f, "AccessInfo({name}, {by}, {principal}, {volumes:?})")
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, but mind it.
    Warning,
    /// Has to be mended.
    Error,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub grade: Grade,
    /// What was checked.
    pub check: String,
    /// What was found, and what to do.
    pub message: String,
}

/// An audit event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// Its number in the chain.
    pub sequence: u64,
    /// The record, as it stands in the chain.
    pub record: serde_json::Value,
}

/// How far a long job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub what: String,
    /// So far.
    pub done: u64,
    /// Of how much, where that is known.
    pub total: Option<u64>,
    /// chunks, bytes.
    pub unit: String,
}

/// An error as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// Its kind.
    pub kind: Kind,
    /// AWS error code, for programs that know those.
    pub code: String,
    /// What failed and why, one line.
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
