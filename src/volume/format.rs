//! The header of a volume file: two slots of 64 KiB, each of which suffices to open the volume.
//!
//! Version 1. Integers are little-endian. A slot, offsets from its start:
//! ```text
//! 0       preamble, 4 KiB   0 magic "COFFERV1"   8 format u16   10 slot u8   11 0   12 flags 3 x u64 (incompatible,
//!                           read-only-compatible, compatible)   36 volume id 24 (ASCII, zero padded)
//!                           60 BLAKE3 32 of the 4 KiB with this field zero
//! 4 KiB   identity, 24 KiB  block "CIDN"; after its body 32 bytes of HMAC-SHA-256 over preamble bytes 0..10 and 11..60,
//!                           then the body
//! 28 KiB  keys, 32 KiB      block "CKEY"
//! 60 KiB  state, 4 KiB      block "CSTA"; one write, so that it is old or new
//! ```
//! A block: 88 bytes of head, then its body (JSON).
//! ```text
//! 0 magic 4   4 version u16   6 0 u16   8 body length u32   12 0 u32   16 generation u64   24 identity hash 32
//! 56 BLAKE3 32 of head (this field zero), body and, for the identity, MAC
//! ```
//! The identity hash is BLAKE3 of the identity's body: it ties keys and state to the identity they were written for.

use crate::error::{Error, Kind, Result};
use crate::units::{
    DataKeyId, Epoch, GIB, Hash32, InstallationId, KeyEpoch, LineageId, MAX_VOLUME, RepositoryId, SUBSECTOR,
    SnapshotId, SpillId, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of a header slot.
pub const SLOT: usize = 64 * 1024;
/// Offset of the write-intent blocks in the file, in bytes.
pub const INTENT_OFFSET: u64 = 128 * 1024;
/// Offset of map segment 0 in the file, in bytes.
pub const MAP_OFFSET: u64 = 192 * 1024;
/// Bytes in a map or intent block.
pub const META_BLOCK: usize = 512;
/// Map entries in a block.
pub const ENTRIES: usize = 60;
/// Map blocks reserved: enough for 64 TiB.
pub const MAP_BLOCKS: u64 = (MAX_VOLUME / crate::units::CHUNK as u64).div_ceil(ENTRIES as u64);
/// Offset of the sealed sectors in the file, in the layout this version makes.
pub const DATA_OFFSET: u64 = (MAP_OFFSET + MAP_BLOCKS * META_BLOCK as u64).div_ceil(1 << 20) << 20;

const MAGIC: &[u8; 8] = b"COFFERV1";
const FORMAT: u16 = 1;
const HEAD: usize = 88;
const IDENTITY: (usize, usize, &[u8; 4]) = (4 * 1024, 24 * 1024, b"CIDN");
const KEYS: (usize, usize, &[u8; 4]) = (28 * 1024, 32 * 1024, b"CKEY");
pub(super) const STATE: (usize, usize, &[u8; 4]) = (60 * 1024, 4 * 1024, b"CSTA");
const MAC: usize = 32;
/// Maximum number of pending snapshots of a volume: their records must fit the state's 4 KiB.
pub const MAX_PENDING: usize = 8;

/// Feature flags: an unknown one in the first set rejects the volume, in the second makes it read-only, in the third
/// has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// A reader that does not know all of these cannot read the volume.
    pub incompatible: u64,
    /// A reader that does not know all of these may read but not write.
    pub read_only_compatible: u64,
    /// Informational.
    pub compatible: u64,
}

/// A region of the volume file. Later formats add kinds, not layouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// `intent`, `map` or `data`.
    pub kind: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Version of the region's format.
    pub version: u16,
}

/// Version of a map whose blocks for the chunks of the parent were written when the volume was created: zeros there are
/// damage.
pub(super) const MAP_WRITTEN: u16 = 2;

/// The snapshot that a volume was made from, and its location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The repository that contains it.
    pub repository: RepositoryId,
    /// The installation that owns the repository directory.
    pub installation: InstallationId,
    /// Size of the snapshot's volume in bytes; chunks past it are holes.
    pub size: u64,
}

/// A data key of the volume, and its number in this header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    /// The key epoch in map entries.
    pub epoch: KeyEpoch,
    /// The key's id.
    pub data_key_id: DataKeyId,
}

/// The identity of a volume: protected by a MAC under its data key, and changed only with that key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Incremented by each change.
    pub generation: u64,
    /// The volume's id.
    pub volume_id: VolumeId,
    /// Size of the volume's data in bytes.
    pub size: u64,
    /// Bytes in an XTS data unit: 4096.
    pub sector_size: u32,
    /// Bytes in a chunk: 524288.
    pub chunk_size: u32,
    /// Offset of the sealed sectors in the file, in bytes; a multiple of 1 MiB.
    pub data_offset: u64,
    /// The regions of the file.
    pub regions: Vec<Region>,
    /// The lineage: salt of the MAC key, and names the repository directory of its snapshots.
    pub lineage: LineageId,
    /// The snapshot that it is hydrated from.
    pub parent: Option<ParentRef>,
    /// Incremented by a rollback; map blocks of an older generation read as absent.
    pub map_generation: u32,
    /// The data keys, oldest first; new chunks are sealed under the last.
    pub key_epochs: Vec<KeySlot>,
    /// Encryption context of the wrapped keys.
    pub context: BTreeMap<String, String>,
    /// The data key that the MAC is made with.
    pub mac_epoch: KeyEpoch,
}

/// A wrapped data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Its epoch.
    pub epoch: KeyEpoch,
    /// The ciphertext blob, hexadecimal.
    #[serde(with = "hex::serde")]
    pub blob: Vec<u8>,
    /// The CMK's ARN, for display only: authorisation uses the key id in the blob.
    pub arn: String,
}

/// The wrapped data keys. Rewrapping changes them without the data key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keys {
    /// One for each key epoch of the identity.
    pub keys: Vec<WrappedKey>,
}

/// A snapshot that was begun and is not yet completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecord {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its point in time: it contains all pieces of this epoch and older.
    pub p: Epoch,
    /// Time of the begin, milliseconds since 1970.
    pub time: i64,
    /// The repository that it is written to.
    pub repository: RepositoryId,
    /// The base of the increment; `None`: a full copy.
    pub base: Option<SnapshotId>,
    /// The map generation in which it was begun.
    pub map_generation: u32,
    /// The chunks changed after this epoch are copied.
    #[serde(default)]
    pub base_p: Epoch,
    /// Where the map cannot be trusted, and all chunks are compared.
    #[serde(default)]
    pub comparing: Untrusted,
    /// Number of chunks in the snapshot: the volume may grow meanwhile.
    #[serde(default)]
    pub chunks: u64,
    /// Its bit in the records of the spill, unlike that of any other pending one.
    #[serde(default)]
    pub slot: u8,
}

/// The newest completed snapshot, base of the next increment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its epoch in this volume; 0 for the parent of a volume made from a snapshot.
    pub p: Epoch,
    /// The repository that contains it.
    pub repository: RepositoryId,
    /// The map generation of its epoch.
    pub map_generation: u32,
}

/// Where the map's `changed` cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Untrusted {
    /// It is trusted everywhere.
    #[default]
    No,
    /// In the regions whose write-intent bit is set: the machine went down.
    Intent,
    /// Everywhere.
    All,
}

/// What changes without the key. Never relied on for secrecy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBlock {
    /// Closed cleanly; no write since.
    pub clean: bool,
    /// The boot that last opened it for writing.
    pub boot_id: String,
    /// The identity of the store at that time.
    pub file: crate::store::StoreIdentity,
    /// The epoch of the next write.
    pub epoch: Epoch,
    /// Snapshots under way.
    pub pending: Vec<PendingRecord>,
    /// The spill with the sectors that writers saved for them; `None`: they end with their process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillId>,
    /// The base of the next snapshot.
    pub base: Option<BaseRecord>,
    /// The map knows all changes since snapshots of this epoch and newer.
    pub trust_p: Epoch,
    /// Where the map cannot be trusted until a comparing snapshot has completed.
    pub changed_untrusted: Untrusted,
    /// A sync failed: acknowledged writes may be lost.
    pub write_failed: bool,
    /// XTS units sealed, by key epoch (IEEE 1619 scopes a key to 2^44 blocks).
    pub sealed_units: BTreeMap<u8, u64>,
    /// Incremented by each durable lease.
    pub lease_generation: u64,
    /// Every chunk of the parent is in this file.
    pub hydrated: bool,
}

/// A whole slot, decoded and checked except for the MAC.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) flags: Flags,
    pub(super) identity: Identity,
    pub(super) identity_raw: Vec<u8>,
    pub(super) mac: [u8; MAC],
    pub(super) keys: Keys,
    pub(super) keys_generation: u64,
    pub(super) state: StateBlock,
    pub(super) state_generation: u64,
}

impl Slot {
    /// Returns the hash that ties the slot's blocks together.
    pub(super) fn identity_hash(&self) -> Hash32 {
        Hash32::of(&self.identity_raw)
    }

    /// Returns the bytes that the MAC covers.
    pub(super) fn mac_input(&self) -> Vec<u8> {
        let preamble = encode_preamble(0, self.flags, self.identity.volume_id);
        [&preamble[..10], &preamble[11..60], &self.identity_raw].concat()
    }

    /// Encodes the slot for place `slot` (0 or 1), 64 KiB.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] if a block has outgrown its space.
    pub(super) fn encode(&self, slot: u8) -> Result<Vec<u8>> {
        let hash = self.identity_hash();
        let mut out = vec![0u8; SLOT];
        out[..4096].copy_from_slice(&encode_preamble(slot, self.flags, self.identity.volume_id));
        let mut put = |(at, room, magic): (usize, usize, &[u8; 4]), generation, body: &[u8], tail: &[u8]| {
            let block = encode_block((room, magic), generation, hash, body, tail)?;
            out[at..at + block.len()].copy_from_slice(&block);
            Ok::<_, Error>(())
        };
        put(IDENTITY, self.identity.generation, &self.identity_raw, &self.mac)?;
        put(KEYS, self.keys_generation, &json(&self.keys)?, &[])?;
        put(STATE, self.state_generation, &json(&self.state)?, &[])?;
        Ok(out)
    }

    /// Encodes only the state block, 4 KiB.
    pub(super) fn encode_state(&self) -> Result<Vec<u8>> {
        let mut block =
            encode_block((STATE.1, STATE.2), self.state_generation, self.identity_hash(), &json(&self.state)?, &[])?;
        block.resize(STATE.1, 0);
        Ok(block)
    }

    /// Decodes and checks a slot. An error names the field and its offset within the slot.
    pub(super) fn decode(raw: &[u8]) -> Result<Self> {
        let (flags, volume) = decode_preamble(raw)?;
        let id = decode_block(raw, IDENTITY, MAC, "identity")?;
        let identity: Identity = parse(id.body, "identity", IDENTITY.0)?;
        check_identity(&identity, volume)?;
        if identity.generation != id.generation {
            return Err(damaged("identity generation", IDENTITY.0 + 16, "differs between head and body"));
        }
        let hash = Hash32::of(id.body);
        let tied = |block: &Decoded<'_>, name: &str, at: usize| {
            if block.identity_hash == hash {
                Ok(())
            } else {
                Err(damaged(name, at + 24, "belongs to another identity"))
            }
        };
        tied(&id, "identity hash", IDENTITY.0)?;
        let keys = decode_block(raw, KEYS, 0, "keys")?;
        tied(&keys, "keys' identity hash", KEYS.0)?;
        let state = decode_block(raw, STATE, 0, "state")?;
        tied(&state, "state's identity hash", STATE.0)?;
        let mut mac = [0; MAC];
        mac.copy_from_slice(id.tail);
        Ok(Self {
            flags,
            identity_raw: id.body.to_vec(),
            mac,
            keys: parse(keys.body, "keys", KEYS.0)?,
            keys_generation: keys.generation,
            state: parse(state.body, "state", STATE.0)?,
            state_generation: state.generation,
            identity,
        })
    }
}

/// Serialises one of our structures as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::new(Kind::Failed, "encode a volume header").because(e))
}

fn damaged(field: &str, offset: usize, why: &str) -> Error {
    Error::new(Kind::Integrity, format!("{field} at offset {offset}: {why}"))
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8], name: &str, at: usize) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| damaged(name, at + HEAD, "not valid JSON of this version").because(e))
}

fn encode_preamble(slot: u8, flags: Flags, volume: VolumeId) -> [u8; 4096] {
    let mut out = [0u8; 4096];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    out[10] = slot;
    for (i, set) in [flags.incompatible, flags.read_only_compatible, flags.compatible].iter().enumerate() {
        out[12 + i * 8..20 + i * 8].copy_from_slice(&set.to_le_bytes());
    }
    let name = volume.to_string();
    out[36..36 + name.len()].copy_from_slice(name.as_bytes());
    let hash = Hash32::of(&out);
    out[60..92].copy_from_slice(&hash.0);
    out
}

pub(super) fn decode_preamble(raw: &[u8]) -> Result<(Flags, VolumeId)> {
    if raw.len() < SLOT {
        return Err(damaged("slot", raw.len(), "truncated"));
    }
    if raw[..8] != *MAGIC {
        return Err(damaged("magic", 0, "not a coffer volume"));
    }
    let mut copy = [0u8; 4096];
    copy.copy_from_slice(&raw[..4096]);
    copy[60..92].fill(0);
    if Hash32::of(&copy).0 != raw[60..92] {
        return Err(damaged("preamble checksum", 60, "does not match"));
    }
    if le16(raw, 8) != FORMAT {
        return Err(damaged("format version", 8, "unknown version").hint("use a newer coffer"));
    }
    let text = std::str::from_utf8(&raw[36..60]).map(|s| s.trim_end_matches('\0'));
    let volume = text.ok().and_then(|s| s.parse().ok()).ok_or_else(|| damaged("volume id", 36, "not a volume id"))?;
    let flags = Flags { incompatible: le64(raw, 12), read_only_compatible: le64(raw, 20), compatible: le64(raw, 28) };
    Ok((flags, volume))
}

fn encode_block(
    (room, magic): (usize, &[u8; 4]),
    generation: u64,
    identity_hash: Hash32,
    body: &[u8],
    tail: &[u8],
) -> Result<Vec<u8>> {
    if HEAD + body.len() + tail.len() > room {
        let name = String::from_utf8_lossy(magic).into_owned();
        return Err(Error::new(Kind::NoSpace, format!("header block {name}: {} bytes do not fit {room}", body.len())));
    }
    let mut out = vec![0u8; HEAD];
    out[..4].copy_from_slice(magic);
    out[4..6].copy_from_slice(&1u16.to_le_bytes());
    out[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[16..24].copy_from_slice(&generation.to_le_bytes());
    out[24..56].copy_from_slice(&identity_hash.0);
    out.extend_from_slice(body);
    out.extend_from_slice(tail);
    let hash = Hash32::of(&out);
    out[56..88].copy_from_slice(&hash.0);
    Ok(out)
}

struct Decoded<'a> {
    generation: u64,
    identity_hash: Hash32,
    body: &'a [u8],
    tail: &'a [u8],
}

fn decode_block<'a>(
    raw: &'a [u8],
    (at, room, magic): (usize, usize, &[u8; 4]),
    tail: usize,
    name: &str,
) -> Result<Decoded<'a>> {
    let block = &raw[at..at + room];
    if block[..4] != *magic {
        return Err(damaged(&format!("{name} magic"), at, "wrong"));
    }
    let length = le32(block, 8) as usize;
    if length > room - HEAD - tail {
        return Err(damaged(&format!("{name} length"), at + 8, "too large"));
    }
    let used = &block[..HEAD + length + tail];
    let mut copy = used.to_vec();
    copy[56..88].fill(0);
    if Hash32::of(&copy).0 != used[56..88] {
        return Err(damaged(&format!("{name} checksum"), at + 56, "does not match"));
    }
    if le16(block, 4) != 1 {
        return Err(damaged(&format!("{name} version"), at + 4, "unknown version").hint("use a newer coffer"));
    }
    let mut identity_hash = Hash32::default();
    identity_hash.0.copy_from_slice(&block[24..56]);
    Ok(Decoded {
        generation: le64(block, 16),
        identity_hash,
        body: &used[HEAD..HEAD + length],
        tail: &used[HEAD + length..],
    })
}

fn check_identity(id: &Identity, volume: VolumeId) -> Result<()> {
    let bad = |field: &str, why: &str| Err(damaged(field, IDENTITY.0 + HEAD, why));
    if id.volume_id != volume {
        return bad("identity volume_id", "differs from the preamble's");
    }
    if id.size == 0 || id.size > MAX_VOLUME || !id.size.is_multiple_of(SUBSECTOR as u64) {
        return bad("identity size", "not a multiple of 512 from 512 bytes to 64 TiB");
    }
    if id.sector_size as usize != crate::units::SECTOR || id.chunk_size as usize != crate::units::CHUNK {
        return bad("identity geometry", "not 4096-byte sectors in 512 KiB chunks");
    }
    if !id.data_offset.is_multiple_of(1 << 20) || id.data_offset > 2 * GIB || id.data_offset < DATA_OFFSET {
        return bad("identity data_offset", "not where this version keeps data");
    }
    if id.key_epochs.is_empty() || id.key_epochs.len() > 60 || !id.key_epochs.iter().any(|k| k.epoch == id.mac_epoch) {
        return bad("identity key_epochs", "not 1 to 60 epochs with the MAC's among them");
    }
    Ok(())
}

pub(super) fn le16(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

pub(super) fn le32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

pub(super) fn le64(raw: &[u8], at: usize) -> u64 {
    u64::from(le32(raw, at)) | u64::from(le32(raw, at + 4)) << 32
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
