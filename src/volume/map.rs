//! The chunk map: for each chunk whether it is present, which key sealed it, and when it last changed.
//!
//! Map segment 0 starts at 192 KiB; a block has 512 bytes and 60 entries; chunk c is entry c % 60 of block c / 60.
//! ```text
//! block  0 magic "CMAP"   4 version u16   6 0 u16   8 block u32   12 map generation u32   16 volume tag 8   24 0 u32
//!        28 CRC-32C u32 of the 512 bytes with this field zero   32 60 entries of 8
//! entry  0 flags u8 (bit 0: present)   1 key epoch u8   2 reserved u16   4 changed epoch u32
//! ```
//! The volume tag is the first 8 bytes of BLAKE3(volume id as ASCII). An all-zero block was never written: all absent.
//! If a volume was created with its first blocks written ([`Map::written`]), zeros there are damage. A block of an
//! older map generation reads as all absent; one of a newer generation means that the header was rolled back. Blocks
//! are read on demand, written by pwrite under their lock, and never synced here: the callers' write orders decide
//! when.

use super::format::{ENTRIES, MAP_OFFSET, META_BLOCK, le16, le32};
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::BlockStore;
use crate::units::{ChunkNo, Epoch, Hash32, KeyEpoch, VolumeId};
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const HEAD: usize = 32;
/// Blocks in a group, the unit of memory allocation.
const GROUP: usize = 512;

/// The map entry of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// All its sealed bytes are in this file.
    pub present: bool,
    /// The data key that sealed it.
    pub key: KeyEpoch,
    /// The epoch of its last change; 0: never.
    pub changed: Epoch,
}

impl Entry {
    const fn pack(self) -> u64 {
        self.present as u64 | (self.key.0 as u64) << 8 | (self.changed.0 as u64) << 32
    }
    const fn unpack(raw: u64) -> Self {
        Self { present: raw & 1 == 1, key: KeyEpoch((raw >> 8) as u8), changed: Epoch((raw >> 32) as u32) }
    }
}

struct Block {
    lock: Mutex<()>,
    entries: [AtomicU64; ENTRIES],
}

type Group = Box<[OnceLock<Box<Block>>; GROUP]>;

/// The map of one volume.
pub struct Map {
    groups: Vec<OnceLock<Group>>,
    volume: VolumeId,
    generation: u32,
    /// What a damaged block is rebuilt as, where that is allowed: in a hydrated volume with one data key.
    rebuild: Option<Entry>,
    rebuilt: AtomicBool,
    chunks: AtomicU64,
    /// How many of the first blocks were written when the volume was created.
    written: u64,
}

/// Maximum number of map bytes read at once.
const WINDOW: u64 = 1 << 20;

impl Map {
    /// Makes a map of `chunks` chunks; reads nothing yet.
    #[must_use]
    pub fn new(volume: VolumeId, generation: u32, chunks: u64, rebuild: Option<Entry>) -> Self {
        let blocks = crate::volume::format::MAP_BLOCKS as usize;
        let groups = (0..blocks.div_ceil(GROUP)).map(|_| OnceLock::new()).collect();
        let rebuilt = AtomicBool::new(false);
        Self { groups, volume, generation, rebuild, rebuilt, chunks: chunks.into(), written: 0 }
    }

    /// Declares that the blocks of the first `chunks` chunks were written when the volume was created.
    #[must_use]
    pub fn written(self, chunks: u64) -> Self {
        Self { written: chunks.div_ceil(ENTRIES as u64), ..self }
    }

    /// Writes the blocks of the first `chunks` chunks, all absent, so that a lost block can be told from an unwritten
    /// one.
    ///
    /// # Errors
    /// What the store reports.
    pub fn write_absent(&self, store: &dyn BlockStore, chunks: u64) -> Result<()> {
        let (blocks, step) = (chunks.div_ceil(ENTRIES as u64), WINDOW / META_BLOCK as u64);
        let mut raw = Vec::with_capacity(WINDOW as usize);
        for first in (0..blocks).step_by(step as usize) {
            raw.clear();
            for no in first..(first + step).min(blocks) {
                raw.extend_from_slice(&self.encode(no as u32, &[0; ENTRIES]));
            }
            store.write_meta(&raw, MAP_OFFSET + first * META_BLOCK as u64).on(|| self.what(first))?;
        }
        Ok(())
    }

    /// Writes those of the blocks of the first `chunks` chunks that were never written, all absent.
    ///
    /// # Errors
    /// What the store reports.
    pub fn write_unwritten(&self, store: &dyn BlockStore, chunks: u64) -> Result<()> {
        let (blocks, step) = (chunks.div_ceil(ENTRIES as u64), WINDOW / META_BLOCK as u64);
        for first in (0..blocks).step_by(step as usize) {
            let mut raw = vec![0; ((first + step).min(blocks) - first) as usize * META_BLOCK];
            let at = MAP_OFFSET + first * META_BLOCK as u64;
            store.read_at(&mut raw, at).on(|| self.what(first))?;
            for (no, block) in (first..).zip(raw.as_chunks_mut::<META_BLOCK>().0) {
                if *block == [0; META_BLOCK] {
                    *block = self.encode(no as u32, &[0; ENTRIES]);
                    store.write_meta(block, MAP_OFFSET + no * META_BLOCK as u64).on(|| self.what(no))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the number of chunks of the volume.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Acquire)
    }

    /// Extends the map of a volume that has grown.
    pub fn grow(&self, chunks: u64) {
        self.chunks.fetch_max(chunks, Ordering::AcqRel);
    }

    /// Whether a damaged block was rebuilt: then `changed` cannot be trusted.
    pub fn was_rebuilt(&self) -> bool {
        self.rebuilt.load(Ordering::Acquire)
    }

    /// Returns the entry of `chunk`.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if its block is damaged or of a newer map generation.
    pub fn entry(&self, store: &dyn BlockStore, chunk: ChunkNo) -> Result<Entry> {
        let block = self.block(store, chunk.0 / ENTRIES as u64)?;
        Ok(Entry::unpack(block.entries[(chunk.0 % ENTRIES as u64) as usize].load(Ordering::Acquire)))
    }

    /// Changes the entries of some chunks, and writes their blocks (pwrite, no sync) before the change becomes visible.
    ///
    /// # Errors
    /// What the store reports; the block whose write failed is unchanged in memory.
    pub fn mark(
        &self,
        store: &dyn BlockStore,
        chunks: &[ChunkNo],
        change: impl Fn(ChunkNo, Entry) -> Entry,
    ) -> Result<()> {
        let mut rest = chunks;
        while let Some(first) = rest.first() {
            let no = first.0 / ENTRIES as u64;
            let end = rest.iter().position(|c| c.0 / ENTRIES as u64 != no).unwrap_or(rest.len());
            let block = self.block(store, no)?;
            let held = block.lock.lock();
            let mut next: [u64; ENTRIES] = std::array::from_fn(|i| block.entries[i].load(Ordering::Relaxed));
            for chunk in &rest[..end] {
                let slot = &mut next[(chunk.0 % ENTRIES as u64) as usize];
                *slot = change(*chunk, Entry::unpack(*slot)).pack();
            }
            let raw = self.encode(no as u32, &next);
            store.write_meta(&raw, MAP_OFFSET + no * META_BLOCK as u64).on(|| self.what(no))?;
            for (entry, value) in block.entries.iter().zip(next) {
                entry.store(value, Ordering::Release);
            }
            drop(held);
            rest = &rest[end..];
        }
        Ok(())
    }

    /// Returns the first chunk at or after `from` and before `end` whose map block may have been written. Blocks are
    /// judged by their contents, not by the holes that the file system reports: whether a snapshot is complete depends
    /// on this.
    pub fn next_mapped(&self, store: &dyn BlockStore, from: ChunkNo, end: ChunkNo) -> Option<ChunkNo> {
        let size = META_BLOCK as u64;
        let end = end.0.min(self.chunks()).div_ceil(ENTRIES as u64);
        let (mut no, mut window, mut raw) = (from.0 / ENTRIES as u64, 1, Vec::new());
        let chunk = |no: u64| Some(ChunkNo((no * ENTRIES as u64).max(from.0)));
        while no < end {
            if no < self.written || self.is_loaded(no) {
                return chunk(no);
            }
            let count = end.min(no + window) - no;
            raw.resize((count * size) as usize, 0);
            match store.read_at(&mut raw, MAP_OFFSET + no * size) {
                Ok(()) => {
                    if let Some(i) = raw.as_chunks::<META_BLOCK>().0.iter().position(|b| *b != [0; META_BLOCK]) {
                        return chunk(no + i as u64);
                    }
                    no += count;
                    window = (window * 8).min(WINDOW / size);
                }
                // Reading an entry of that block reports the error.
                Err(_) if count == 1 => return chunk(no),
                Err(_) => window = 1,
            }
        }
        None
    }

    /// Reads every block that was written.
    ///
    /// # Errors
    /// [`Kind::Integrity`] naming a block that is damaged and cannot be rebuilt.
    pub fn check(&self, store: &dyn BlockStore) -> Result<()> {
        let mut from = ChunkNo(0);
        while let Some(chunk) = self.next_mapped(store, from, ChunkNo(self.chunks())) {
            let no = chunk.0 / ENTRIES as u64;
            self.block(store, no)?;
            from = ChunkNo((no + 1) * ENTRIES as u64);
        }
        Ok(())
    }

    fn is_loaded(&self, no: u64) -> bool {
        let group = self.groups.get(no as usize / GROUP).and_then(OnceLock::get);
        group.is_some_and(|g| g[no as usize % GROUP].get().is_some())
    }

    fn what(&self, block: u64) -> String {
        format!("map block {block} (offset {}) of {}", MAP_OFFSET + block * META_BLOCK as u64, self.volume)
    }

    fn block(&self, store: &dyn BlockStore, no: u64) -> Result<&Block> {
        let group = self
            .groups
            .get(no as usize / GROUP)
            .ok_or_else(|| Error::new(Kind::Usage, format!("{}: larger than the largest volume", self.what(no))))?;
        let group = group.get_or_init(|| Box::new([const { OnceLock::new() }; GROUP]));
        let cell = &group[no as usize % GROUP];
        if let Some(block) = cell.get() {
            return Ok(block);
        }
        let mut raw = [0u8; META_BLOCK];
        let at = MAP_OFFSET + no * META_BLOCK as u64;
        store.read_at(&mut raw, at).on(|| self.what(no))?;
        let entries = match self.decode(no, &raw) {
            Ok(entries) => entries,
            Err(err) => match self.rebuild {
                Some(entry) => {
                    tracing::warn!("{}; all of its chunks count as present and changed", err.line());
                    self.rebuilt.store(true, Ordering::Release);
                    [entry.pack(); ENTRIES]
                }
                None => return Err(err),
            },
        };
        // Two threads may read the same block at once; both read the same bytes, for no one writes it before it is in
        // memory.
        Ok(cell.get_or_init(|| Box::new(Block { lock: Mutex::new(()), entries: entries.map(AtomicU64::new) })))
    }

    fn tag(&self) -> [u8; 8] {
        volume_tag(self.volume)
    }

    fn encode(&self, no: u32, entries: &[u64; ENTRIES]) -> [u8; META_BLOCK] {
        let mut out = meta_head(*b"CMAP", no, self.generation, self.tag());
        for (i, entry) in entries.iter().enumerate() {
            out[HEAD + i * 8..HEAD + i * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        seal_meta(&mut out);
        out
    }

    fn decode(&self, no: u64, raw: &[u8; META_BLOCK]) -> Result<[u64; ENTRIES]> {
        let bad = |field: &str| {
            let (first, last) = (no * ENTRIES as u64, (no + 1) * ENTRIES as u64 - 1);
            Error::new(Kind::Integrity, format!("{}: {field} is wrong (chunks {first} to {last})", self.what(no)))
                .hint("restore these chunks from a snapshot")
        };
        if raw.iter().all(|b| *b == 0) {
            return if no < self.written {
                Err(bad("it was written before and is now zeros: magic at byte 0"))
            } else {
                Ok([0; ENTRIES])
            };
        }
        check_meta(raw, *b"CMAP", no as u32, self.tag()).map_err(bad)?;
        let generation = le32(raw, 12);
        if generation > self.generation {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "{}: its map generation {generation} is ahead of the header's {}: the header was rolled back",
                    self.what(no),
                    self.generation
                ),
            )
            .hint("run `coffer volume accept-rollback` if you restored an older header on purpose"));
        }
        if generation < self.generation {
            return Ok([0; ENTRIES]);
        }
        Ok(std::array::from_fn(|i| super::format::le64(raw, HEAD + i * 8)))
    }
}

/// Returns the first 8 bytes of BLAKE3(volume id as ASCII), which mark map and intent blocks as this volume's.
pub(super) fn volume_tag(volume: VolumeId) -> [u8; 8] {
    let hash = Hash32::of(volume.to_string().as_bytes());
    std::array::from_fn(|i| hash.0[i])
}

/// Makes the header that map and intent blocks share; `word` is at 12.
pub(super) fn meta_head(magic: [u8; 4], no: u32, word: u32, tag: [u8; 8]) -> [u8; META_BLOCK] {
    let mut out = [0u8; META_BLOCK];
    out[..4].copy_from_slice(&magic);
    out[4..6].copy_from_slice(&1u16.to_le_bytes());
    out[8..12].copy_from_slice(&no.to_le_bytes());
    out[12..16].copy_from_slice(&word.to_le_bytes());
    out[16..24].copy_from_slice(&tag);
    out
}

/// Puts the checksum into a block, at 28.
fn seal_meta(out: &mut [u8; META_BLOCK]) {
    seal_meta_at(out, 28);
}

pub(super) fn seal_meta_at(out: &mut [u8; META_BLOCK], at: usize) {
    out[at..at + 4].fill(0);
    let crc = crc32c::crc32c(out);
    out[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn check_meta_at(raw: &[u8; META_BLOCK], at: usize) -> bool {
    let mut copy = *raw;
    copy[at..at + 4].fill(0);
    crc32c::crc32c(&copy) == le32(raw, at)
}

fn check_meta(raw: &[u8; META_BLOCK], magic: [u8; 4], no: u32, tag: [u8; 8]) -> std::result::Result<(), &'static str> {
    if !check_meta_at(raw, 28) {
        return Err("CRC at byte 28");
    }
    if raw[..4] != magic {
        return Err("magic at byte 0");
    }
    if le16(raw, 4) != 1 {
        return Err("version at byte 4");
    }
    if le32(raw, 8) != no {
        return Err("block number at byte 8");
    }
    if raw[16..24] != tag {
        return Err("volume tag at byte 16");
    }
    Ok(())
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
