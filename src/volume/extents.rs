//! What is known of a range without reading it: where it is holes or zeros whose room is kept, and which chunks changed since
//! some point in time.
//!
//! Holes are what the file system says is none of its data, and the holes of the snapshot's tree where a chunk is not here
//! yet; nothing is fetched. That is true to the sector as long as the file keeps its holes: a copy that wrote zeros in
//! their place reads the same and is told as data.

use super::Volume;
use super::map::Entry;
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::Stored;
use crate::units::{CHUNK, ChunkNo, Epoch, SECTOR, SUBSECTOR, chunks_in};

/// Chunks that one look at the map goes through at most: 32 GiB of the volume.
const CHUNKS: u64 = 64 * 1024;

/// Bytes that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<T = bool> {
    /// How many; never 0.
    pub len: u64,
    /// What is asked about: whether it holds for them, or how they are.
    pub yes: T,
}

/// Runs in order, neighbours that are alike made one.
#[derive(Debug)]
pub struct Runs<T = bool> {
    out: Vec<Run<T>>,
    most: usize,
}

impl<T: PartialEq> Runs<T> {
    /// At most `most` of them.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { out: Vec::new(), most }
    }

    /// Adds one behind the others. `false`: there is no room for it.
    pub fn push(&mut self, len: u64, yes: T) -> bool {
        let full = self.out.len() == self.most;
        match self.out.last_mut() {
            Some(last) if last.yes == yes => last.len += len,
            _ if len == 0 => {}
            _ if full => return false,
            _ => self.out.push(Run { len, yes }),
        }
        true
    }

    /// All of them.
    #[must_use]
    pub fn done(self) -> Vec<Run<T>> {
        self.out
    }
}

impl Volume {
    /// How a range is stored, from its start on: at most `most` runs.
    ///
    /// # Errors
    /// [`Kind::Usage`] out of bounds; what map, snapshot or store report.
    pub fn allocation(&self, offset: u64, len: u64, most: usize) -> Result<Vec<Run<Stored>>> {
        self.bounds("find holes in", offset, len)?;
        let (mut runs, mut at, end) = (Runs::new(most), offset, offset + len);
        while at < end {
            let next = self.next_interesting(at)?.unwrap_or(end).clamp(at, end);
            let (stop, stored) = if next > at { self.hole_at(at, next)? } else { self.run_at(at, end)? };
            if !runs.push(stop - at, stored) {
                break;
            }
            at = stop;
        }
        Ok(runs.done())
    }

    /// The end of what lies at `at`, where the file has no data up to `end`; whether its room is kept.
    fn hole_at(&self, at: u64, end: u64) -> Result<(u64, Stored)> {
        let what = || format!("find holes at {at} of {}", self.id);
        let (len, stored) = self.store.stored(self.data_offset + at, end - at).on(what)?;
        // The file system's blocks end anywhere, what is told ends at a part.
        Ok(((at + len.max(1)).next_multiple_of(SUBSECTOR as u64).min(end), stored))
    }

    /// The end of what lies at `at`, not past `end` and not far past the chunk if chunks may differ; how it is stored.
    fn run_at(&self, at: u64, end: u64) -> Result<(u64, Stored)> {
        let chunk = ChunkNo::of(at);
        let border = (chunk.offset() + CHUNK as u64).min(end);
        let entry = self.map.entry(&*self.store, chunk)?;
        if self.is_virgin(chunk, entry)? {
            return Ok((border, Stored::Hole));
        }
        if !self.is_here(chunk, entry)? {
            return self.run_in_parent(chunk, at, border);
        }
        let what = || format!("find holes at {at} of {}", self.id);
        let simple = self.is_hydrated() && self.map_generation == 1;
        let limit = if simple { end } else { border };
        let data = self.store.next_data(self.data_offset + at).on(what)?.map(|d| d - self.data_offset);
        match data {
            Some(d) if d <= at => {
                let hole = self.store.next_hole(self.data_offset + at).on(what)? - self.data_offset;
                // A hole that was punched meanwhile must not make this run end where it begins.
                Ok((hole.max(at + 1).next_multiple_of(SUBSECTOR as u64).min(limit), Stored::Data))
            }
            Some(d) => self.hole_at(at, d.min(limit)),
            None => self.hole_at(at, limit),
        }
    }

    fn run_in_parent(&self, chunk: ChunkNo, at: u64, border: u64) -> Result<(u64, Stored)> {
        let parent = self.parent.as_ref().ok_or_else(|| {
            Error::new(Kind::Failed, format!("chunk {chunk} of {} is missing, and there is no snapshot", self.id))
        })?;
        let map = parent.sectors(chunk)?;
        let first = ((at - chunk.offset()) / SECTOR as u64) as usize;
        let (data, same) = map.run(first);
        let stored = if data { Stored::Data } else { Stored::Hole };
        Ok((border.min(chunk.offset() + ((first + same) * SECTOR) as u64), stored))
    }

    /// The point in time after which the map says of every chunk whether it changed; `None`: of no point it can be believed.
    pub fn trusted_from(&self) -> Option<Epoch> {
        let trusted = *self.untrusted.lock() == super::format::Untrusted::No && !self.map.was_rebuilt();
        trusted.then(|| self.header.lock().state().trust_p)
    }

    /// The map's generation: points in time of another one do not compare.
    pub const fn map_generation(&self) -> u32 {
        self.map_generation
    }

    /// Which chunks of a range changed (yes) after epoch `p`, or differ for another reason that `else_differs` knows of.
    /// From the chunk that `offset` lies in, at most `most` runs and 65,536 chunks.
    ///
    /// # Errors
    /// As [`Volume::allocation`]; what `else_differs` says.
    pub fn changed_after(
        &self,
        p: Epoch,
        (offset, len): (u64, u64),
        most: usize,
        mut else_differs: Option<&mut dyn FnMut(ChunkNo) -> Result<bool>>,
    ) -> Result<Vec<Run>> {
        self.bounds("find changes in", offset, len)?;
        let (mut runs, mut at, end) = (Runs::new(most), offset, offset + len);
        let last = ChunkNo::of(offset).0 + CHUNKS;
        while at < end && ChunkNo::of(at).0 < last {
            let chunk = ChunkNo::of(at);
            let mut stop = chunk.offset() + CHUNK as u64;
            let mut changed = false;
            match self.map.next_mapped(&*self.store, chunk, ChunkNo(chunks_in(end))) {
                // Blocks of the map that were never written: nothing changed there.
                None if else_differs.is_none() => stop = end,
                Some(next) if else_differs.is_none() && next > chunk => stop = next.offset(),
                _ => {
                    let entry: Entry = self.map.entry(&*self.store, chunk)?;
                    changed = entry.changed > p;
                    if !changed && let Some(differs) = &mut else_differs {
                        changed = differs(chunk)?;
                    }
                }
            }
            let stop = stop.min(end);
            if !runs.push(stop - at, changed) {
                break;
            }
            at = stop;
        }
        Ok(runs.done())
    }

    /// Whether zeroing this range takes less time than writing it: nothing has to be copied, fetched or sealed for it.
    ///
    /// # Errors
    /// As [`Volume::allocation`].
    pub fn zeroes_fast(&self, offset: u64, len: u64) -> Result<bool> {
        self.bounds("zero", offset, len)?;
        let aligned = |at: u64| at.is_multiple_of(SUBSECTOR as u64);
        let end = offset + len;
        if !aligned(offset) || !(aligned(end) || end == self.size()) || !self.live.read().pending.is_empty() {
            return Ok(false);
        }
        // A chunk that is covered in part and not here would have to be fetched.
        for edge in [offset, end] {
            let chunk = ChunkNo::of(edge);
            if edge != chunk.offset() && edge < self.size() {
                let entry = self.map.entry(&*self.store, chunk)?;
                if !self.is_here(chunk, entry)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "extents_tests.rs"]
mod tests;
