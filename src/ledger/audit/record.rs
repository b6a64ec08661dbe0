//! A record of the log: its fields, and its bytes. See [`super`] for the layout.

use super::super::catalog::{Change, Record};
use super::super::request::RequestInfo;
use super::checkpoint::Checkpoint;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;

/// Bytes before a record's body.
pub(super) const HEAD: usize = 48;
const CRC: usize = 4;
/// Size limit of a record, in bytes.
pub(super) const MAX_RECORD: usize = 1 << 20;
/// The byte of the kind that a segment begins with.
pub(super) const CHECKPOINT: u8 = 5;

/// The caller as established by the edge; part of every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// An ARN, such as `arn:aws:iam::111122223333:root` or `…:user/alice`.
    pub principal: String,
    /// The service that acts for the principal (`kms:ViaService`); set by coffer's service layer, never from a request.
    pub via_service: Option<String>,
    /// Origin of the request: address, process, command.
    pub client: String,
    /// The request over the network, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RequestInfo>>,
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// The first record.
    Genesis,
    /// An act that is about to change the catalog.
    Intent,
    /// The result of an intent.
    Outcome,
    /// An act that changed nothing in the catalog: a use of a key, or a refusal.
    Event,
    /// Someone accepted the log as it was found.
    Accept,
    /// What the records before it add up to; the first record of a segment.
    Checkpoint,
}

impl RecordKind {
    const ALL: [Self; 6] = [Self::Genesis, Self::Intent, Self::Outcome, Self::Event, Self::Accept, Self::Checkpoint];

    const fn byte(self) -> u8 {
        match self {
            Self::Genesis => 0,
            Self::Intent => 1,
            Self::Outcome => 2,
            Self::Event => 3,
            Self::Accept => 4,
            Self::Checkpoint => CHECKPOINT,
        }
    }

    /// The version of a record of this kind: builds before checkpoints refuse those as unknown.
    const fn version(self) -> u8 {
        if matches!(self, Self::Checkpoint) { 2 } else { 1 }
    }
}

/// The body of a record. Absent fields are left out of the JSON; fields are in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Time of the record, milliseconds since 1970.
    pub at: Timestamp,
    /// Name of the act, such as `kms:Decrypt`, `ebs:AttachVolume`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub act: String,
    /// The caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Identity>,
    /// ARN of the KMS key concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The encryption context of a key's use.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    pub context: EncryptionContext,
    /// Further details: key material, volume, alias.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
    /// The catalog changes of an intent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// In an outcome: the sequence of its intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// `ok`, `refused`, `failed`, `interrupted`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// Why it was refused or failed; the caller may have been told less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a checkpoint says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<Checkpoint>>,
}

impl Body {
    pub(crate) fn at(at: Timestamp, act: &str) -> Self {
        Self {
            at,
            act: act.into(),
            caller: None,
            key: None,
            context: EncryptionContext::new(),
            detail: BTreeMap::new(),
            changes: Vec::new(),
            intent: None,
            result: String::new(),
            error: None,
            checkpoint: None,
        }
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// Its sequence, from 0.
    pub sequence: u64,
    /// Its kind.
    pub kind: RecordKind,
    /// Its body.
    #[serde(flatten)]
    pub body: Body,
}

/// Count and head of the log, as stored in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The number of records that the log has at least.
    pub count: u64,
    /// SHA-256 of the last of those, hexadecimal. Keep a copy elsewhere to detect tampering by root.
    pub hash: String,
    /// Sequence of the oldest record that was kept: that of a checkpoint, or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Record for AuditHead {
    const KIND: &'static str = "audit-head";
    fn id(&self) -> String {
        "head".into()
    }
}

/// SHA-256 of a record.
pub(crate) type Hash = [u8; 32];

/// Returns the SHA-256 of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> Hash {
    let mut out = [0u8; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// Returns the JSON of a body.
///
/// # Errors
/// [`Kind::Usage`] for one that does not fit into a record.
pub(crate) fn json(body: &Body) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(body).map_err(|e| Error::new(Kind::Failed, "audit record").because(e))?;
    if HEAD + json.len() + CRC > MAX_RECORD {
        return Err(Error::new(Kind::Usage, "audit record: the act is too large to record"));
    }
    Ok(json)
}

/// Returns the bytes of a record whose body is `json`, of at most [`MAX_RECORD`] bytes.
pub(super) fn encode(sequence: u64, previous: &Hash, kind: RecordKind, json: &[u8]) -> Vec<u8> {
    let length = HEAD + json.len() + CRC;
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[kind.version(), kind.byte(), 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(previous);
    out.extend_from_slice(json);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads one record; `None` at the end. The error says what is wrong with a bad one.
pub(super) fn decode(
    from: &mut impl Read,
    sequence: u64,
    previous: &Hash,
) -> Result<Option<(AuditRecord, Vec<u8>)>, String> {
    let mut bytes = Vec::new();
    let got = from.by_ref().take(HEAD as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if got == 0 {
        return Ok(None);
    }
    if got < HEAD {
        return Err("it is cut short".into());
    }
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if !(HEAD + CRC..=MAX_RECORD).contains(&length) {
        return Err(format!("its length {length} is out of bounds"));
    }
    let rest = from.by_ref().take((length - HEAD) as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if rest < length - HEAD {
        return Err("it is cut short".into());
    }
    let (covered, crc) = bytes.split_at(length - CRC);
    if crc32c::crc32c(covered).to_le_bytes() != *crc {
        return Err("its checksum does not match".into());
    }
    let kind = RecordKind::ALL.into_iter().find(|k| k.byte() == covered[5]);
    let Some(kind) = kind.filter(|k| k.version() == covered[4]) else {
        return Err(format!("unknown version {}, kind {}", covered[4], covered[5]));
    };
    if covered[8..16] != sequence.to_le_bytes() || covered[16..HEAD] != *previous {
        return Err("it does not continue the record before it: the chain is broken".into());
    }
    let body = serde_json::from_slice(&covered[HEAD..]).map_err(|e| format!("its body is invalid: {e}"))?;
    Ok(Some((AuditRecord { sequence, kind, body }, bytes)))
}
