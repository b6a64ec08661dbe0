//! Allocation and changes of a range, found without reading its data: holes, allocated zeros, and which chunks changed
//! since a point in time.
//!
//! Holes are what the file system reports as no data, and the holes of the snapshot's tree for chunks not yet hydrated;
//! nothing is fetched. The result is exact to the sector as long as the file keeps its holes: a copy that wrote zeros
//! in their place reads the same and is reported as data.

use super::Volume;
use super::map::Entry;
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::Stored;
use crate::units::{CHUNK, ChunkNo, Epoch, SECTOR, SUBSECTOR, chunks_in};

/// Maximum number of map entries that one query reads: 32 GiB of the volume.
const CHUNKS: u64 = 64 * 1024;

/// A run of bytes in the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<T = bool> {
    /// Length in bytes; never 0.
    pub len: u64,
    /// The state: whether the queried property holds, or how the bytes are stored.
    pub yes: T,
}

/// Runs in order; adjacent runs in the same state are merged.
#[derive(Debug)]
pub struct Runs<T = bool> {
    out: Vec<Run<T>>,
    most: usize,
}

impl<T: PartialEq> Runs<T> {
    /// Makes an empty list of at most `most` runs.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { out: Vec::new(), most }
    }

    /// Appends a run. `false`: the list is full.
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

    /// Returns the runs.
    #[must_use]
    pub fn done(self) -> Vec<Run<T>> {
        self.out
    }
}

impl Volume {
    /// Returns how a range is stored, from its start: at most `most` runs.
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

    /// Returns the end of the run at `at`, where the file has no data up to `end`, and whether its space is allocated.
    fn hole_at(&self, at: u64, end: u64) -> Result<(u64, Stored)> {
        let what = || format!("find holes at {at} of {}", self.id);
        let (len, stored) = self.store.stored(self.data_offset + at, end - at).on(what)?;
        // The file system's blocks end anywhere; a reported run ends at a subsector.
        Ok(((at + len.max(1)).next_multiple_of(SUBSECTOR as u64).min(end), stored))
    }

    /// Returns the end of the run at `at` and how it is stored; at most up to `end`, and to the end of the chunk if
    /// chunks may differ.
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
                // A hole punched meanwhile must not make this run empty.
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

    /// Returns the point in time since when the map knows all changes; `None`: the map cannot be trusted.
    pub fn trusted_from(&self) -> Option<Epoch> {
        let trusted = *self.untrusted.lock() == super::format::Untrusted::No && !self.map.was_rebuilt();
        trusted.then(|| self.header.lock().state().trust_p)
    }

    /// Returns the map's generation: epochs of different generations are not comparable.
    pub const fn map_generation(&self) -> u32 {
        self.map_generation
    }

    /// Returns which chunks of a range changed (yes) after epoch `p`, or differ for another reason according to
    /// `else_differs`. Starts at the chunk that contains `offset`, and returns at most `most` runs over 65,536 chunks.
    ///
    /// # Errors
    /// As [`Volume::allocation`]; the error of `else_differs`.
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
                // Map blocks that were never written: nothing changed there.
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

    /// Whether zeroing this range is faster than writing it: nothing has to be copied, fetched or sealed.
    ///
    /// # Errors
    /// As [`Volume::allocation`].
    /// As [`Volume::allocation`].
    pub fn zeroes_fast(&self, offset: u64, len: u64) -> Result<bool> {
        self.bounds("zero", offset, len)?;
        let aligned = |at: u64| at.is_multiple_of(SUBSECTOR as u64);
        let end = offset + len;
        if !aligned(offset) || !(aligned(end) || end == self.size()) || !self.live.read().pending.is_empty() {
            return Ok(false);
        }
        // A partly covered chunk that is absent would have to be fetched.
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
