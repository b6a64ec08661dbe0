//! A snapshot's manifest: metadata and root of its tree. Immutable, signed (see [`super::record`]), kind 1, number 0.
//!
//! The envelope's *previous* is the BLAKE3 of the parent's manifest (zeros without a parent). The body is JSON:
//! ```text
//! format 1 | snapshot | installation | volume (or null) | size (bytes) | root (hex) | depth | time (ms) | point |
//! map_generation | parent (snapshot id or null) | keys { key tag hex: data-key id } | folders [installation id] |
//! chunks | changed_chunks | stored_bytes | source (or null)
//! ```
//! *chunks* counts those that are not holes; *changed_chunks* and *stored_bytes* are what this snapshot added.
//! *folders* are the folders of the same lineage that contain the tree's pages and packs, its own first. It contains no
//! wrapped key.

use super::page::{DEPTH_MAX, depth_of};
use super::record::{Envelope, Family, Record};
use super::{Folder, Signer, damaged, too_new};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::units::{DataKeyId, Hash32, InstallationId, KeyTag, MAX_VOLUME, SnapshotId, VolumeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const KIND: u16 = 1;
const FORMAT: u32 = 1;
/// Maximum number of folders that one tree may span.
pub const FOLDERS_MAX: usize = 64;
/// Maximum number of data keys that one tree may use.
pub const KEYS_MAX: usize = 4096;

/// The body of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the body.
    pub format: u32,
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// The installation that made it, and in whose folder it is.
    pub installation: InstallationId,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The volume's size at that time, in bytes.
    pub size: u64,
    /// Hash of the tree's root page; zeros if everything is a hole.
    pub root: Hash32,
    /// Levels of the tree.
    pub depth: u8,
    /// The time of the point in time.
    pub time: Timestamp,
    /// The volume's epoch at the point in time: the snapshot contains all pieces of this epoch and older.
    pub point: u32,
    /// The volume's map generation then: epochs of different generations are not comparable.
    pub map_generation: u32,
    /// The snapshot it is an increment to.
    pub parent: Option<SnapshotId>,
    /// Key tag (8 hexadecimal digits) to data-key id, for each key that the tree uses.
    pub keys: BTreeMap<String, DataKeyId>,
    /// The folders of the tree's pages and packs, this installation's first.
    pub folders: Vec<InstallationId>,
    /// Chunks that are not holes.
    pub chunks: u64,
    /// Chunks that differ from the parent.
    pub changed_chunks: u64,
    /// Bytes of sectors that this snapshot put into packs.
    pub stored_bytes: u64,
    /// The source of a copy: free text of the copying service.
    pub source: Option<String>,
}

impl Manifest {
    /// The version of the body that is written.
    pub const FORMAT: u32 = FORMAT;

    /// Signs it.
    ///
    /// # Errors
    /// If it cannot be serialised as JSON, or is too long.
    pub fn sign(&self, folder: Folder, previous: Hash32, signer: &dyn Signer) -> Result<Record> {
        let body = serde_json::to_vec(self)
            .map_err(|e| Error::new(Kind::Failed, format!("write the manifest of {}", self.snapshot)).because(e))?;
        let envelope = Envelope {
            family: Family::Manifest,
            kind: KIND,
            lineage: folder.lineage,
            number: 0,
            previous,
            signer: folder.installation,
        };
        Record::sign(envelope, &body, signer)
    }

    /// Parses the manifest of `snapshot` in `folder` and checks everything except its signature, which
    /// [`Record::verify`] on the returned record does.
    ///
    /// # Errors
    /// [`Kind::Integrity`] naming what is wrong; [`Kind::Unsupported`] for a newer version.
    pub fn parse(object: &str, folder: Folder, snapshot: SnapshotId, raw: Bytes) -> Result<(Self, Record)> {
        let record = Record::parse(object, Family::Manifest, raw)?;
        let e = &record.envelope;
        if e.kind != KIND {
            return Err(too_new(object, format_args!("manifest kind {}", e.kind)));
        }
        if e.lineage != folder.lineage || e.signer != folder.installation || e.number != 0 {
            return Err(damaged(object, 16, "the manifest is of another folder"));
        }
        let found: serde_json::Value = record.body(object)?;
        if found.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            return Err(too_new(object, format_args!("manifest format {:?}", found.get("format"))));
        }
        let manifest: Self = record.body(object)?;
        manifest.check(object, folder, snapshot)?;
        Ok((manifest, record))
    }

    fn check(&self, object: &str, folder: Folder, snapshot: SnapshotId) -> Result<()> {
        let bad = |why: &str| Err(damaged(object, super::record::ENVELOPE, why));
        if self.snapshot != snapshot || self.installation != folder.installation {
            return bad("the manifest is of another snapshot");
        }
        if self.size == 0 || self.size > MAX_VOLUME || !self.size.is_multiple_of(512) {
            return bad("the size is not valid for a volume");
        }
        if self.depth != depth_of(self.size) || self.depth > DEPTH_MAX {
            return bad("the tree's depth does not match the size");
        }
        if self.folders.len() > FOLDERS_MAX || self.folders.first() != Some(&folder.installation) {
            return bad("the list of folders is too long or does not start with its own");
        }
        if self.keys.len() > KEYS_MAX || self.keys.iter().any(|(tag, id)| *tag != hex::encode(id.tag().0)) {
            return bad("a key tag does not match its data key id");
        }
        Ok(())
    }

    /// Returns the data key with this `tag`.
    #[must_use]
    pub fn key_of(&self, tag: KeyTag) -> Option<DataKeyId> {
        self.keys.get(&hex::encode(tag.0)).copied()
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
