//! Staging: what a snapshot in progress has copied and its repository does not have yet, in a local directory. With it,
//! a snapshot continues after its process was killed or stopped. Version 1. Integers are little-endian.
//!
//! ```text
//! progress          header  0 magic 8 "COFPROG1"   8 version u16 = 1   10 flags u16 (1: synced and closed)
//!                           12 length of the JSON u32   16 offset of the records u32   20 records u32 (if closed; else 0)
//!                           24 BLAKE3 32 of the header and the JSON, with this field zero
//!                           56 JSON: { "boot_id", "spec" }
//!                   records of 128 bytes: 0 magic 4 "PROG"   4 kind u8   5 0 x 3   8 sequence u64   16 chunk u64
//!                           24 leaf entry 80 (see page)   104 data key id 16   120 0 u32   124 CRC32C u32
//!                     1 body   the chunk's sectors are in that pack     2 hole   the chunk is one now
//!                     3 same   the chunk is as in the base              4 put    the repository has the pack of this length
//! <pack id>.pack    a pack, complete or not; removed once it is put
//! ```
//! A body is written before its record, and a chunk counts as copied once its record is written. Without a sync, both
//! survive the death of the process, not that of the machine: another boot accepts only what was closed. A record counts
//! only if all before it are good.

use super::pack::{BodyHead, PACK_MAX, PackBuilder, parse_pack};
use super::page::{LEAF, LeafEntry};
use super::writer::SnapshotSpec;
use super::{arr, too_new, u16_at, u32_at, u64_at};
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use crate::units::{ChunkNo, DataKeyId, Hash32, LineageId, PackId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"COFPROG1";
const VERSION: u16 = 1;
const CLOSED: u16 = 1;
const HEADER: usize = 56;
/// Size limit of the header with its JSON, in bytes.
const HEADER_MAX: usize = 4 << 20;
const RECORD: usize = 128;
const NO_KEY: DataKeyId = DataKeyId([0; 16]);
const RECORD_MAGIC: &[u8; 4] = b"PROG";
/// Records read at a time.
const WINDOW: usize = 8192;

/// A record of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// The chunk's sectors are in a pack.
    Body(ChunkNo, LeafEntry, DataKeyId),
    /// The chunk is a hole, unlike in the base.
    Hole(ChunkNo),
    /// The chunk is as in the base.
    Same(ChunkNo),
    /// The repository has a pack of this length.
    Put(PackId, u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    boot_id: String,
    spec: SnapshotSpec,
}

/// The staging of one snapshot, open for writing.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    progress: File,
    spec: SnapshotSpec,
    boot_id: String,
    records_at: u64,
    count: u64,
    /// The header says that it is closed.
    closed: bool,
    /// The pack that bodies were last written to.
    open: Option<(PackId, File)>,
}

/// What a staging directory has.
#[derive(Debug)]
pub struct Staged {
    pub(super) staging: Staging,
    pub(super) notes: Vec<Note>,
}

impl Staged {
    /// Returns the parameters that the snapshot was begun with.
    #[must_use]
    pub const fn spec(&self) -> &SnapshotSpec {
        &self.staging.spec
    }

    /// Returns the chunks that are copied.
    pub fn copied(&self) -> impl Iterator<Item = ChunkNo> + '_ {
        self.notes.iter().filter_map(|note| match note {
            Note::Body(chunk, ..) | Note::Hole(chunk) | Note::Same(chunk) => Some(*chunk),
            Note::Put(..) => None,
        })
    }
}

/// Removes a staging directory, whatever is in it. A missing one is not an error.
///
/// # Errors
/// What the operating system reports.
pub fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on(|| format!("remove {}", folder.display())),
        _ => Ok(()),
    }
}

/// Returns the packs that a staging directory names, whatever the state of the rest. A sweep must keep them.
///
/// # Errors
/// [`Kind::Integrity`] for a damaged header; what the operating system reports.
pub fn packs_in(folder: &Path) -> Result<BTreeSet<PackId>> {
    let Some((_, notes)) = read(folder)? else { return Ok(BTreeSet::new()) };
    Ok(notes
        .into_iter()
        .filter_map(|note| match note {
            Note::Body(_, entry, _) => Some(entry.pack()),
            Note::Put(pack, _) => Some(pack),
            Note::Hole(_) | Note::Same(_) => None,
        })
        .collect())
}

impl Staging {
    /// Makes an empty staging directory for a snapshot, replacing an existing one.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn create(folder: &Path, spec: &SnapshotSpec, boot_id: &str) -> Result<Self> {
        remove(folder)?;
        let what = || format!("make {}", folder.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).on(what)?;
        let path = folder.join("progress");
        let progress = open_regular(&path, &OpenHow::write().create_new())?;
        let (spec, boot_id, folder) = (spec.clone(), boot_id.to_owned(), folder.to_owned());
        let mut made = Self { folder, progress, spec, boot_id, records_at: 0, count: 0, closed: false, open: None };
        made.records_at = made.header(0)?.len().next_multiple_of(4096) as u64;
        made.write_header(0)?;
        Ok(made)
    }

    /// Opens the staging directory that an earlier process left; `None`: there is none.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is damaged, or of another boot and was not closed; what the operating system reports.
    pub fn open(folder: &Path, boot_id: &str) -> Result<Option<Staged>> {
        let Some((mut staging, notes)) = read(folder)? else { return Ok(None) };
        if !staging.closed && staging.boot_id != boot_id {
            let what = format!("{}: the machine went down before it was on the disk", folder.display());
            return Err(Error::new(Kind::Integrity, what));
        }
        boot_id.clone_into(&mut staging.boot_id);
        Ok(Some(Staged { staging, notes }))
    }

    fn header(&self, flags: u16) -> Result<Vec<u8>> {
        let about = About { boot_id: self.boot_id.clone(), spec: self.spec.clone() };
        let json = serde_json::to_vec(&about).map_err(|e| Error::new(Kind::Failed, "encode a header").because(e))?;
        let mut out = vec![0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&flags.to_le_bytes());
        out[12..16].copy_from_slice(&(json.len() as u32).to_le_bytes());
        out[16..20].copy_from_slice(&(self.records_at as u32).to_le_bytes());
        let count = if flags & CLOSED != 0 { self.count as u32 } else { 0 };
        out[20..24].copy_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&json);
        let hash = Hash32::of(&out);
        out[24..56].copy_from_slice(&hash.0);
        Ok(out)
    }

    fn write_header(&self, flags: u16) -> Result<()> {
        let header = self.header(flags)?;
        if header.len() as u64 > self.records_at {
            return Err(Error::new(
                Kind::Failed,
                format!("{}: the header has outgrown its space", self.path().display()),
            ));
        }
        self.progress.write_all_at(&header, 0).on(|| format!("write {}", self.path().display()))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("progress")
    }

    /// Appends a record.
    pub(super) fn note(&mut self, note: &Note) -> Result<()> {
        let what = || format!("write {}", self.folder.join("progress").display());
        if self.closed {
            self.write_header(0)?;
            self.progress.sync_data().on(what)?;
            self.closed = false;
        }
        let record = encode(note, self.count);
        self.progress.write_all_at(&record, self.records_at + self.count * RECORD as u64).on(what)?;
        self.count += 1;
        Ok(())
    }

    /// Writes part of a pack.
    pub(super) fn write_pack(&mut self, pack: PackId, bytes: &[u8], offset: u64) -> Result<()> {
        let path = pack_path(&self.folder, pack);
        let file = match &self.open {
            Some((open, file)) if *open == pack => file,
            _ => {
                let file = open_regular(&path, &OpenHow::write().create())?;
                refuse_on_full_disk(&file, &path)?;
                &self.open.insert((pack, file)).1
            }
        };
        file.write_all_at(bytes, offset).on(|| format!("write {}", path.display()))
    }

    /// Reads a complete pack, and checks it.
    pub(super) fn read_pack(folder: &Path, pack: PackId) -> Result<Bytes> {
        let path = pack_path(folder, pack);
        let mut bytes = Vec::new();
        let mut file = open_regular(&path, &OpenHow::read())?.take(PACK_MAX as u64);
        file.read_to_end(&mut bytes).on(|| format!("read {}", path.display()))?;
        if parse_pack(&path.display().to_string(), &bytes)?.id != pack {
            return Err(damaged(&path.display().to_string(), 12, "it is another pack"));
        }
        Ok(Bytes::from(bytes))
    }

    /// Returns the directory.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Records that the repository has a pack, and removes the local one.
    pub(super) fn note_put(&mut self, pack: PackId, length: u32) -> Result<()> {
        self.note(&Note::Put(pack, length))?;
        let path = pack_path(&self.folder, pack);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on(|| format!("remove {}", path.display())),
            _ => Ok(()),
        }
    }

    /// Makes everything durable, so that the snapshot continues even after the machine was restarted.
    pub(super) fn close(&mut self) -> Result<()> {
        for pack in packs_in(&self.folder)? {
            let path = pack_path(&self.folder, pack);
            match open_regular(&path, &OpenHow::read()) {
                Err(e) if e.kind() == Kind::NotFound => {} // it is put
                file => file?.sync_all().on(|| format!("sync {}", path.display()))?,
            }
        }
        sync_dir(&self.folder)?;
        if let Some(above) = self.folder.parent() {
            sync_dir(above)?;
        }
        self.write_header(CLOSED)?;
        self.closed = true;
        self.progress.sync_data().on(|| format!("sync {}", self.path().display()))
    }

    /// Rebuilds a pack that was not put from its file and its bodies' entries, which must be in the order of offsets.
    pub(super) fn rebuild(
        folder: &Path,
        (pack, lineage): (PackId, LineageId),
        bodies: &[(ChunkNo, LeafEntry)],
    ) -> Result<PackBuilder> {
        let path = pack_path(folder, pack);
        let object = path.display().to_string();
        let file = open_regular(&path, &OpenHow::read()).map_err(|e| match e.kind() {
            Kind::NotFound => damaged(&object, 0, "it is missing"),
            _ => e,
        })?;
        let end = bodies.last().map_or(0, |(_, e)| e.offset as usize + super::pack::HEAD + e.length as usize);
        let mut bytes = vec![0; end];
        file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(&object, end, "it ends before that"),
            _ => Error::io(format!("read {object}"), e),
        })?;
        let heads = bodies.iter().map(|(chunk, e)| {
            (BodyHead { chunk: *chunk, map: e.map, tag: e.tag, length: e.length, hash: e.hash }, e.offset)
        });
        PackBuilder::restore(&object, (pack, lineage), bytes, heads)
    }
}

/// Refuses to take the last of a disk, which clients of the volumes may need.
fn refuse_on_full_disk(file: &File, path: &Path) -> Result<()> {
    let room = rustix::fs::fstatvfs(file)
        .map_err(|e| Error::io(format!("look at the disk of {}", path.display()), e.into()))?;
    if room.f_bavail < room.f_blocks / 20 {
        let what = format!("stage a snapshot in {}: less than 5 % of the disk is free", path.display());
        return Err(Error::new(Kind::NoSpace, what).hint("make room, then create another snapshot"));
    }
    Ok(())
}

/// Makes an error about a damaged file.
fn damaged(object: &str, offset: usize, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, format!("{object}: at byte {offset}: {why}"))
        .hint("the snapshot cannot be continued: create another one")
}

fn pack_path(folder: &Path, pack: PackId) -> PathBuf {
    folder.join(format!("{pack}.pack"))
}

/// Reads the header and all good records of a staging directory.
fn read(folder: &Path) -> Result<Option<(Staging, Vec<Note>)>> {
    let path = folder.join("progress");
    let object = path.display().to_string();
    let progress = match open_regular(&path, &OpenHow::write()) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    let read_at = |len: usize, at: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        progress.read_exact_at(&mut bytes, at).on(|| format!("read {object}"))?;
        Ok(bytes)
    };
    let size = progress.metadata().on(|| format!("stat {object}"))?.len();
    if size < HEADER as u64 {
        return Err(damaged(&object, 0, "it is shorter than a header"));
    }
    let head = read_at(HEADER, 0)?;
    if head[..8] != *MAGIC {
        return Err(damaged(&object, 0, "not a record of a snapshot's progress"));
    }
    if u16_at(&head, 8) != VERSION || u16_at(&head, 10) & !CLOSED != 0 {
        return Err(too_new(&object, format_args!("version {} flags {}", u16_at(&head, 8), u16_at(&head, 10))));
    }
    let length = HEADER + u32_at(&head, 12) as usize;
    if length > HEADER_MAX || length as u64 > size {
        return Err(damaged(&object, 12, "the header's length is wrong"));
    }
    let mut header = read_at(length, 0)?;
    header[24..56].fill(0);
    if Hash32::of(&header).0 != head[24..56] {
        return Err(damaged(&object, 24, "the header's checksum is wrong"));
    }
    let about: About =
        serde_json::from_slice(&header[HEADER..]).map_err(|e| damaged(&object, HEADER, "not a header").because(e))?;
    let (records_at, closed) = (u64::from(u32_at(&head, 16)), u16_at(&head, 10) & CLOSED != 0);
    let notes = read_notes(&progress, records_at, &object)?;
    if closed && notes.len() != u32_at(&head, 20) as usize {
        let why = format_args!("{} records are good, and there were {}", notes.len(), u32_at(&head, 20));
        return Err(damaged(&object, 20, why));
    }
    let (folder, count) = (folder.to_owned(), notes.len() as u64);
    let (spec, boot_id) = (about.spec, about.boot_id);
    Ok(Some((Staging { folder, progress, spec, boot_id, records_at, count, closed, open: None }, notes)))
}

fn read_notes(progress: &File, records_at: u64, object: &str) -> Result<Vec<Note>> {
    let size = progress.metadata().on(|| format!("stat {object}"))?.len();
    let total = (size.saturating_sub(records_at) / RECORD as u64) as usize;
    let mut notes = Vec::with_capacity(total);
    let mut ended = false;
    let mut window = vec![0; WINDOW * RECORD];
    for start in (0..total).step_by(WINDOW) {
        let bytes = &mut window[..(total - start).min(WINDOW) * RECORD];
        progress.read_exact_at(bytes, records_at + (start * RECORD) as u64).on(|| format!("read {object}"))?;
        for (i, raw) in bytes.chunks_exact(RECORD).enumerate() {
            match decode(raw, (start + i) as u64) {
                Some(note) if !ended => notes.push(note),
                None => ended = true,
                Some(_) => {
                    let at = records_at as usize + notes.len() * RECORD;
                    return Err(damaged(object, at, "a record is damaged, and later ones are not"));
                }
            }
        }
    }
    Ok(notes)
}

fn encode(note: &Note, sequence: u64) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..4].copy_from_slice(RECORD_MAGIC);
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    let (kind, number, leaf, key) = match note {
        Note::Body(chunk, entry, key) => (1, chunk.0, *entry, *key),
        Note::Hole(chunk) => (2, chunk.0, LeafEntry::default(), NO_KEY),
        Note::Same(chunk) => (3, chunk.0, LeafEntry::default(), NO_KEY),
        Note::Put(pack, length) => {
            let leaf = LeafEntry { pack: pack.0, length: *length, ..LeafEntry::default() };
            (4, 0, leaf, NO_KEY)
        }
    };
    out[4] = kind;
    out[16..24].copy_from_slice(&number.to_le_bytes());
    out[24..24 + LEAF].copy_from_slice(&leaf.encode());
    out[104..120].copy_from_slice(&key.0);
    let crc = crc32c::crc32c(&out);
    out[124..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes a record; `None`: it is not the good record of that number.
fn decode(raw: &[u8], sequence: u64) -> Option<Note> {
    let (number, leaf, key) = (u64_at(raw, 16), LeafEntry::decode(raw, 24), DataKeyId(arr(raw, 104)));
    let note = match raw[4] {
        1 => Note::Body(ChunkNo(number), leaf, key),
        2 => Note::Hole(ChunkNo(number)),
        3 => Note::Same(ChunkNo(number)),
        4 => Note::Put(leaf.pack(), leaf.length),
        _ => return None,
    };
    (encode(&note, sequence)[..] == *raw).then_some(note)
}

/// The bodies of the packs that the notes name, in the order in which the packs were begun.
pub(super) fn packs_of(notes: &[Note]) -> Vec<(PackId, Vec<(ChunkNo, LeafEntry)>)> {
    let mut order = Vec::new();
    let mut all: BTreeMap<PackId, Vec<(ChunkNo, LeafEntry)>> = BTreeMap::new();
    for note in notes {
        if let Note::Body(chunk, entry, _) = note {
            let bodies = all.entry(entry.pack()).or_insert_with(|| {
                order.push(entry.pack());
                Vec::new()
            });
            bodies.push((*chunk, *entry));
        }
    }
    order.into_iter().map(|id| (id, all.remove(&id).unwrap_or_default())).collect()
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
