//! What operations answer (see [`super::operations`]). Answers travel as JSON over the daemon's socket; a command that opens the
//! data directory itself gets the same.

mod grant;
mod key;

pub use grant::{GrantInfo, PolicyInfo};
pub use key::{Dependents, KeyInfo};

use super::settings::OnKeyLoss;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Reason};
use crate::units::{SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use zeroize::Zeroizing;

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
