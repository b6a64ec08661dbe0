//! TRIM and WRITE_ZEROES.
//!
//! A whole absent chunk is not fetched: its place in the file is cleared, and the chunk marked as present once that is
//! durable. All such chunks of a request share one sync. Between the two, the background does not store or mark them
//! ([`Cleared`]); whatever else happens to one meanwhile makes it an ordinary chunk, which is zeroed like any other.

use super::clearing::Cleared;
use super::io::Change;
use super::map::Entry;
use super::piece::pieces;
use super::{Blocking, Volume};
use crate::error::{IoContext, Result};
use crate::units::{CHUNK, ChunkNo, Epoch, SUBSECTOR};

/// Maximum number of chunks that are cleared before they are marked: 4 GiB, the longest request of NBD.
const BATCH: usize = 8192;

/// How a range is zeroed.
#[derive(Clone, Copy)]
struct How {
    /// Its space stays allocated.
    keep: bool,
    /// What costs more than it frees may be left as it is (TRIM).
    advisory: bool,
}

impl Volume {
    /// Makes a range read as zeros (WRITE_ZEROES). `keep`: its space stays allocated (NO_HOLE).
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn write_zeroes(&self, offset: u64, len: u64, keep: bool) -> Result<()> {
        self.may_write("write zeroes", offset, len)?;
        self.must_be_unlocked()?;
        self.zero_range(offset, len, How { keep, advisory: false })
    }

    /// Frees the space of a range (TRIM); what could not be freed reads as before.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.may_write("trim", offset, len)?;
        if !self.is_unlocked() {
            return Ok(()); // suspended: a TRIM may be ignored
        }
        let part = SUBSECTOR as u64;
        let (start, end) = (offset.div_ceil(part) * part, (offset + len) / part * part);
        let how = How { keep: false, advisory: true };
        if start < end { self.zero_range(start, end - start, how) } else { Ok(()) }
    }

    /// Walks a range, skipping holes without touching them: trimming an empty 8 TiB costs one SEEK_DATA.
    fn zero_range(&self, offset: u64, len: u64, how: How) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        let mut cleared = self.hydration.clearing.begin();
        while at < end {
            if !how.keep {
                at = self.next_interesting(at)?.unwrap_or(end).max(at);
                if at >= end {
                    break;
                }
            }
            let chunk = ChunkNo::of(at);
            let stop = (chunk.offset() + CHUNK as u64).min(end);
            self.zero_in_chunk(chunk, at, stop, how, &mut cleared)?;
            at = stop;
            if cleared.chunks().len() >= BATCH {
                self.mark_cleared(std::mem::replace(&mut cleared, self.hydration.clearing.begin()), how)?;
            }
        }
        self.mark_cleared(cleared, how)
    }

    /// Returns the first offset at or after `at` that may hold something: data in this file, or an absent chunk of the
    /// parent.
    pub(super) fn next_interesting(&self, at: u64) -> Result<Option<u64>> {
        let what = || format!("find data at {at} of {}", self.id);
        let data = self.store.next_data(self.data_offset + at).on(what)?.map(|d| d - self.data_offset);
        let absent = self.next_absent(ChunkNo::of(at)).map(|c| c.offset().max(at));
        Ok(match (data, absent) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    fn zero_in_chunk(&self, chunk: ChunkNo, start: u64, stop: u64, how: How, cleared: &mut Cleared<'_>) -> Result<()> {
        let entry = self.map.entry(&*self.store, chunk)?;
        if self.is_virgin(chunk, entry)? {
            if !how.keep {
                return Ok(()); // it reads as zeros, and stays as it is
            }
        } else if !self.is_here(chunk, entry)? {
            let whole = start == chunk.offset() && stop - start == self.chunk_len(chunk);
            if whole && self.clear_absent(chunk, how.keep, cleared)? {
                return Ok(());
            }
            if how.advisory {
                return Ok(());
            }
        }
        self.zero_pieces(chunk, start, stop, how)
    }

    fn zero_pieces(&self, chunk: ChunkNo, start: u64, stop: u64, How { keep, advisory }: How) -> Result<()> {
        if advisory {
            let (live, entry) = (self.live.read().clone(), self.map.entry(&*self.store, chunk)?);
            if live.pending.iter().any(|p| p.needs(chunk, entry, live.epoch)) {
                return Ok(()); // a snapshot still needs it: a TRIM may be ignored
            }
        }
        for piece in pieces(start, stop - start) {
            let _done = self.change(piece, &mut Change::Zero { keep }, Blocking::Allowed)?;
        }
        Ok(())
    }

    /// Clears the place of an absent chunk. `false`: it is no longer absent, or a full snapshot needs it; all other
    /// snapshots have it by their base.
    fn clear_absent(&self, chunk: ChunkNo, keep: bool, cleared: &mut Cleared<'_>) -> Result<bool> {
        let _held = self.stripe(chunk).lock.lock();
        if self.may_clear(chunk)?.is_none() {
            return Ok(false);
        }
        self.mark_opened()?;
        self.announce(chunk.offset())?;
        cleared.add(chunk);
        let (at, len) = (self.data_offset + chunk.offset(), self.chunk_len(chunk).next_multiple_of(SUBSECTOR as u64));
        self.changing(chunk, || self.store.zero(at, len, keep)).on(|| format!("zero chunk {chunk} of {}", self.id))?;
        Ok(true)
    }

    /// Returns the epoch of a change to a chunk that is absent, and that every pending snapshot has by its base. Its
    /// stripe is held.
    fn may_clear(&self, chunk: ChunkNo) -> Result<Option<Epoch>> {
        let (live, entry) = (self.live.read().clone(), self.map.entry(&*self.store, chunk)?);
        let is_needed = || live.pending.iter().any(|p| p.is_full() && p.needs(chunk, entry, live.epoch));
        Ok((!entry.present && !self.is_hydrated() && !is_needed()).then_some(live.epoch))
    }

    /// Makes the clearing durable, and marks the chunks as present and changed.
    fn mark_cleared(&self, cleared: Cleared<'_>, how: How) -> Result<()> {
        if cleared.chunks().is_empty() {
            return Ok(());
        }
        self.sync()?;
        for chunk in cleared.chunks() {
            let held = self.stripe(*chunk).lock.lock();
            if let Some(changed) = self.may_clear(*chunk)? {
                let key = self.current_key();
                self.map.mark(&*self.store, &[*chunk], |_, _| Entry { present: true, key, changed })?;
                continue;
            }
            drop(held);
            let is_absent = !self.map.entry(&*self.store, *chunk)?.present;
            if !(how.advisory && is_absent) {
                self.zero_pieces(*chunk, chunk.offset(), chunk.offset() + self.chunk_len(*chunk), how)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "zero_tests.rs"]
mod tests;
