//! The spill of a volume: the sectors that writers have saved because a pending snapshot still needs them. Version 1.
//! Integers are little-endian.
//!
//! ```text
//! 0     header 4 KiB   0 magic 8 "COFSPILL"   8 version u16 = 1   10 flags u16 (1: synced and closed)   12 0 u32
//!                      16 spill id 16   32 volume id 24 (ASCII, zero padded)   56 boot id 36 (ASCII, zero padded)   92 0 u32
//!                      96 device u64   104 inode u64   112 birth i64 (the volume's file; i64::MIN: unknown)
//!                      120 BLAKE3 32 of the 4 KiB with this field zero   152 end of the records u64 (if closed; else 0)
//! 4096  records        head 64: 0 magic 4 "SREC"   4 kind u8 (1 data, 2 hole)   5 0 x 3   8 sector u64   16 epoch u32
//!                      20 length u32 (4096; 0 for a hole)   24 sequence u64   32 spill id 8 (its first bytes)
//!                      40 slots u8 (a bit for each pending snapshot that needs it)   41 0 x 19
//!                      60 CRC32C u32 over the head with this field zero, and the body
//!                      then *length* bytes: the sealed sector as it was before a piece of that epoch changed it
//! ```
//! One writer appends at a time, and changes the volume only after its records are in the file, so a record counts only
//! if all before it are complete: a reader ends at the first bad one. A good record behind a bad one is damage, and so is
//! a closed spill that ends early. A snapshot with point in time p takes, for each sector of a chunk that it needs, the
//! record with the smallest epoch above p. It needs a chunk of which a record of such an epoch has its slot: that another
//! snapshot needs the chunk says nothing, for then not all that was changed since p is saved.
//!
//! Sectors are kept sealed. Space is not reused while any snapshot is pending: the file is removed with the last one.

use crate::cipher::{Sealed, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::{SpillFile, StoreIdentity};
use crate::units::{ChunkNo, Epoch, Hash32, SECTOR, SECTORS_PER_CHUNK, SpillId, VolumeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;

/// Bytes in the header.
const HEADER: usize = 4096;
/// Bytes in a record's head; records start at multiples of it.
const HEAD: usize = 64;
/// Maximum size of a spill in bytes; its index, 16 bytes a sector, is in memory.
const MAX_BYTES: u64 = 4 << 30;
/// Free space is checked each time the file has grown by this many bytes.
const LOOK_EVERY: u64 = 16 << 20;
/// Bytes read at a time when a spill is opened.
const WINDOW: usize = 4 << 20;

const MAGIC: &[u8; 8] = b"COFSPILL";
const RECORD: &[u8; 4] = b"SREC";
const VERSION: u16 = 1;
const CLOSED: u16 = 1;
const DATA: u8 = 1;
const HOLE: u8 = 2;

/// The volume and the boot that a spill belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) volume: VolumeId,
    pub(super) boot_id: String,
    pub(super) file: StoreIdentity,
}

/// A saved sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Saved {
    /// Its number in its chunk.
    sector: u8,
    /// The slots of the snapshots that it was saved for.
    slots: u8,
    /// The epoch of the piece that changed it.
    epoch: Epoch,
    /// Where its body is; `None`: it is a hole.
    place: Option<u64>,
}

/// The sectors of a chunk that a snapshot takes from the spill, ascending.
pub(super) type Places = Vec<(usize, Option<u64>)>;

/// A sector to save: its number in the chunk, and its sealed bytes.
pub(super) type ToSave<'a> = (usize, Sealed<'a>);

/// An open spill.
pub(super) struct Spill {
    file: SpillFile,
    id: SpillId,
    owner: Owner,
    limit: u64,
    tail: Mutex<Tail>,
    chunks: Mutex<HashMap<u64, Vec<Saved>>>,
}

/// Where the next record goes. Held while it is written.
struct Tail {
    end: u64,
    sequence: u64,
    /// The header says that the spill is closed.
    closed: bool,
}

impl Spill {
    /// Starts an empty spill in `file`.
    pub(super) fn create(file: SpillFile, id: SpillId, owner: Owner) -> Result<Self> {
        file.write_head(&header(id, &owner, 0, 0)).on(|| format!("start the spill of {}", owner.volume))?;
        Ok(Self::over(file, id, owner, Tail { end: HEADER as u64, sequence: 0, closed: false }))
    }

    fn over(file: SpillFile, id: SpillId, owner: Owner, tail: Tail) -> Self {
        Self { file, id, owner, limit: MAX_BYTES, tail: Mutex::new(tail), chunks: Mutex::default() }
    }

    /// Opens the spill `id` of `owner`, and reads its index.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is another one, was left by another boot without being closed, or is damaged.
    pub(super) fn open(file: SpillFile, id: SpillId, owner: Owner) -> Result<Self> {
        let what = || format!("the spill of {}", owner.volume);
        let mut head = [0; HEADER];
        let got = file.read_at(&mut head, 0).on(|| format!("read {}", what()))?;
        let refuse = |why: &str| Err(Error::new(Kind::Integrity, format!("{}: {why}", what())));
        let flags = u16::from_le_bytes([head[10], head[11]]);
        let end = u64::from_le_bytes(head[152..160].try_into().unwrap_or_default());
        let known =
            |boot: &str| head[..] == header(id, &Owner { boot_id: boot.to_owned(), ..owner.clone() }, flags, end)[..];
        if got < HEADER || flags & !CLOSED != 0 {
            return refuse("its header is damaged");
        }
        let closed = flags & CLOSED != 0;
        let boot = String::from_utf8_lossy(&head[56..92]).trim_end_matches('\0').to_owned();
        if !known(&boot) {
            return refuse("its header is damaged, or it belongs to other snapshots");
        }
        if !closed && boot != owner.boot_id {
            return refuse("the machine went down before it was on the disk");
        }
        let mut spill = Self::over(file, id, owner, Tail { end: HEADER as u64, sequence: 0, closed });
        spill.read_index()?;
        let found = spill.tail.get_mut().end;
        if closed && found != end {
            let what = format!("the spill of {}: its records end at {found}, not at {end}", spill.owner.volume);
            return Err(Error::new(Kind::Integrity, what));
        }
        Ok(spill)
    }

    /// Reads all records, up to the first bad one.
    fn read_index(&mut self) -> Result<()> {
        let what = || format!("read the spill of {}", self.owner.volume);
        let (mut window, mut start, mut len) = (vec![0; WINDOW], HEADER as u64, 0usize);
        let tail = self.tail.get_mut();
        let chunks = self.chunks.get_mut();
        loop {
            let at = (tail.end - start) as usize;
            if len.saturating_sub(at) < HEAD + SECTOR {
                start = tail.end;
                len = self.file.read_at(&mut window, start).on(what)?;
            }
            let rest = &window[(tail.end - start) as usize..len];
            let Some(record) = parse(rest, self.id).filter(|r| r.sequence == tail.sequence) else { break };
            let place = (record.length > 0).then_some(tail.end + HEAD as u64);
            let sector = (record.sector % SECTORS_PER_CHUNK as u64) as u8;
            let chunk = record.sector / SECTORS_PER_CHUNK as u64;
            chunks.entry(chunk).or_default().push(Saved { sector, slots: record.slots, epoch: record.epoch, place });
            tail.end += (HEAD + record.length) as u64;
            tail.sequence += 1;
        }
        self.refuse_more()
    }

    /// Refuses a good record behind the first bad one.
    fn refuse_more(&mut self) -> Result<()> {
        let what = || format!("read the spill of {}", self.owner.volume);
        let end = self.tail.get_mut().end;
        let (mut window, mut start) = (vec![0; WINDOW], end);
        loop {
            let len = self.file.read_at(&mut window, start).on(what)?;
            let found = (0..len).step_by(HEAD).find(|at| parse(&window[*at..len], self.id).is_some());
            if let Some(at) = found {
                let why = format!("record at {end} is damaged, and one at {} is not", start + at as u64);
                return Err(Error::new(Kind::Integrity, format!("the spill of {}: {why}", self.owner.volume)));
            }
            if len < WINDOW {
                return Ok(());
            }
            start += (WINDOW - (HEAD + SECTOR)) as u64; // a record may begin at the end of this window
        }
    }

    /// Returns the id.
    pub(super) const fn id(&self) -> SpillId {
        self.id
    }

    /// Returns those of a chunk's sectors that no piece of an epoch above `after` has saved.
    pub(super) fn missing(&self, chunk: ChunkNo, sectors: Range<usize>, after: Epoch) -> Vec<usize> {
        let chunks = self.chunks.lock();
        let mask = chunks.get(&chunk.0).map_or(0, |all| {
            all.iter().filter(|s| s.epoch > after).fold(0u128, |mask, saved| mask | 1 << saved.sector)
        });
        sectors.filter(|s| mask & (1 << s) == 0).collect()
    }

    /// Saves sectors of a chunk that a piece of `epoch` is about to change, for the snapshots with these slots. The chunk's
    /// stripe is held. `false`: another
    /// writer is appending, and `wait` is not set.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] if the spill or its disk is full; what the disk reports.
    pub(super) fn save(
        &self,
        chunk: ChunkNo,
        sectors: &[ToSave<'_>],
        (epoch, slots): (Epoch, u8),
        wait: bool,
    ) -> Result<bool> {
        let Some(mut tail) = (if wait { Some(self.tail.lock()) } else { self.tail.try_lock() }) else {
            return Ok(false);
        };
        let what = || format!("save sectors of chunk {chunk} of {} for a snapshot", self.owner.volume);
        self.reopen(&mut tail)?;
        let mut heads = Vec::with_capacity(sectors.len());
        let mut saved = Vec::with_capacity(sectors.len());
        let mut end = tail.end;
        for (i, (sector, body)) in sectors.iter().enumerate() {
            let hole = crate::cipher::xts::is_hole(body.bytes());
            let body = if hole { body.range(0..0) } else { *body };
            let number = chunk.0 * SECTORS_PER_CHUNK as u64 + *sector as u64;
            let (length, sequence) = (body.bytes().len(), tail.sequence + i as u64);
            let record = Parsed { sector: number, epoch, slots, length, sequence };
            heads.push((encode(self.id, &record, body.bytes()), body));
            let place = (!hole).then_some(end + HEAD as u64);
            saved.push(Saved { sector: *sector as u8, slots, epoch, place });
            end += (HEAD + body.bytes().len()) as u64;
        }
        self.check_room(tail.end, end)?;
        let records: Vec<_> = heads.iter().map(|(head, body)| (&head[..], *body)).collect();
        if let Err(err) = self.file.write_records(&records, tail.end) {
            // A shorter record would not cover what this one left.
            let _ = self.file.cut(tail.end);
            return Err(err).on(what);
        }
        (tail.end, tail.sequence) = (end, tail.sequence + sectors.len() as u64);
        drop(tail);
        self.chunks.lock().entry(chunk.0).or_default().extend(saved);
        Ok(true)
    }

    fn check_room(&self, now: u64, end: u64) -> Result<()> {
        let full = |why: String| Err(Error::new(Kind::NoSpace, format!("the spill of {}: {why}", self.owner.volume)));
        if end > self.limit {
            return full(format!("it would exceed {} bytes", self.limit));
        }
        let what = || format!("look at the disk of the spill of {}", self.owner.volume);
        if now / LOOK_EVERY != end / LOOK_EVERY && self.file.is_nearly_full().on(what)? {
            return full("less than 5 % of its disk is free".to_owned());
        }
        Ok(())
    }

    /// Withdraws, durably, that the spill is closed, before the first record of this boot.
    fn reopen(&self, tail: &mut Tail) -> Result<()> {
        if tail.closed {
            self.write_header(0, 0)?;
            tail.closed = false;
        }
        Ok(())
    }

    /// Makes the spill durable, and records that it is, so that it counts after a restart of the machine. Nothing may be
    /// saved afterwards, unless the volume is opened again.
    pub(super) fn close(&self) -> Result<()> {
        let mut tail = self.tail.lock();
        self.file.sync().on(|| format!("sync the spill of {}", self.owner.volume))?;
        self.write_header(CLOSED, tail.end)?;
        tail.closed = true;
        Ok(())
    }

    fn write_header(&self, flags: u16, end: u64) -> Result<()> {
        let what = || format!("write the header of the spill of {}", self.owner.volume);
        self.file.write_head(&header(self.id, &self.owner, flags, end)).on(what)?;
        self.file.sync().on(what)
    }

    /// Returns the chunks of which sectors were saved for the snapshot of `p` with this slot.
    pub(super) fn chunks_of(&self, p: Epoch, slot: u8) -> Vec<ChunkNo> {
        let chunks = self.chunks.lock();
        let is_for = |s: &Saved| s.epoch > p && s.slots & 1 << slot != 0;
        chunks.iter().filter(|(_, all)| all.iter().any(is_for)).map(|(c, _)| ChunkNo(*c)).collect()
    }

    /// Returns a chunk's sectors as a snapshot of `p` needs them, to overlay on what was read.
    pub(super) fn places(&self, chunk: ChunkNo, p: Epoch) -> Places {
        let mut found: Vec<Saved> = {
            let chunks = self.chunks.lock();
            chunks.get(&chunk.0).map_or_else(Vec::new, |all| all.iter().filter(|s| s.epoch > p).copied().collect())
        };
        found.sort_by_key(|s| (s.sector, s.epoch));
        found.dedup_by_key(|s| s.sector);
        found.into_iter().map(|s| (usize::from(s.sector), s.place)).collect()
    }

    /// Overlays saved sectors on `sealed`, a chunk's bytes.
    pub(super) fn overlay(&self, places: &Places, mut sealed: SealedMut<'_>) -> Result<()> {
        for (sector, place) in places {
            let mut out = sealed.range(sector * SECTOR..(sector + 1) * SECTOR);
            match place {
                Some(place) => {
                    self.file.read_sealed(out, *place).on(|| format!("read the spill of {}", self.owner.volume))?;
                }
                None => out.clear(),
            }
        }
        Ok(())
    }

    /// Forgets the sectors of a chunk that every snapshot has copied; `is_needed` says for which epochs one has not.
    pub(super) fn release(&self, chunk: ChunkNo, is_needed: impl Fn(Epoch) -> bool) {
        let mut chunks = self.chunks.lock();
        if chunks.get(&chunk.0).is_some_and(|all| !all.iter().any(|s| is_needed(s.epoch))) {
            chunks.remove(&chunk.0);
        }
    }

    /// Keeps others from saving until the guard is dropped.
    #[cfg(test)]
    fn stall(&self) -> parking_lot::MutexGuard<'_, Tail> {
        self.tail.lock()
    }
}

fn header(id: SpillId, owner: &Owner, flags: u16, end: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10..12].copy_from_slice(&flags.to_le_bytes());
    out[16..32].copy_from_slice(&id.0);
    let mut text = |at: usize, room: usize, text: &str| {
        let len = text.len().min(room);
        out[at..at + len].copy_from_slice(&text.as_bytes()[..len]);
    };
    text(32, 24, &owner.volume.to_string());
    text(56, 36, &owner.boot_id);
    out[96..104].copy_from_slice(&owner.file.holder.to_le_bytes());
    out[104..112].copy_from_slice(&owner.file.number.to_le_bytes());
    out[112..120].copy_from_slice(&owner.file.born.unwrap_or(i64::MIN).to_le_bytes());
    out[152..160].copy_from_slice(&end.to_le_bytes());
    let hash = Hash32::of(&out);
    out[120..152].copy_from_slice(&hash.0);
    out
}

fn encode(id: SpillId, record: &Parsed, body: &[u8]) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[..4].copy_from_slice(RECORD);
    out[4] = if body.is_empty() { HOLE } else { DATA };
    out[8..16].copy_from_slice(&record.sector.to_le_bytes());
    out[16..20].copy_from_slice(&record.epoch.0.to_le_bytes());
    out[20..24].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[24..32].copy_from_slice(&record.sequence.to_le_bytes());
    out[40] = record.slots;
    out[32..40].copy_from_slice(&id.0[..8]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), body);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A record without its body.
struct Parsed {
    sector: u64,
    epoch: Epoch,
    slots: u8,
    length: usize,
    sequence: u64,
}

/// Parses the record at the start of `bytes`; `None`: there is no good one of this spill.
fn parse(bytes: &[u8], id: SpillId) -> Option<Parsed> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    if head[..4] != *RECORD || head[32..40] != id.0[..8] {
        return None;
    }
    let u64_at = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let u32_at = |at: usize| head[at..at + 4].iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
    let length = match head[4] {
        DATA => SECTOR,
        HOLE => 0,
        _ => return None,
    };
    let body = rest.get(..length).filter(|_| u32_at(20) as usize == length)?;
    let (sector, epoch, sequence) = (u64_at(8), Epoch(u32_at(16)), u64_at(24));
    let record = Parsed { sector, epoch, slots: head[40], length, sequence };
    (encode(id, &record, body) == *head).then_some(record)
}

#[cfg(test)]
#[path = "spill_tests.rs"]
mod tests;
