//! Filling a volume made from a snapshot: order 1 of docs/format.md.
//!
//! An absent chunk becomes present only when all its sealed bytes are durable. A read of one is answered from memory and
//! leaves the storing to the background; a write fetches it whole, stores it, syncs, marks it, then goes on as any write.
//! The background fills in batches: store several, one sync, mark those that are still absent. It never writes over a
//! client's write, because it looks at the map again under the stripe, and it marks nothing as changed.

use super::Volume;
use super::map::Entry;
use crate::cipher::Sealed;
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, Epoch, KeyEpoch, KeyTag, PART, SECTOR};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Fetched chunks kept for the reads that follow: 4 MiB a volume.
const RECENT: usize = 8;
/// Chunks asked for by readers that wait to be stored.
const WANTED: usize = 1024;

struct Fetched {
    chunk: ChunkNo,
    key: KeyEpoch,
    sealed: Arc<Vec<u8>>,
}

/// Chunks fetched last, and those that somebody fetches now: others who need one wait for it instead of fetching it too.
#[derive(Default)]
struct Recent {
    chunks: VecDeque<Fetched>,
    fetching: Vec<ChunkNo>,
}

/// What is known of a volume's filling.
#[derive(Default)]
pub(super) struct Hydration {
    pub(super) done: AtomicBool,
    recent: Mutex<Recent>,
    /// Told when a fetch has ended.
    fetched: Condvar,
    wanted: Mutex<VecDeque<ChunkNo>>,
    cursor: Mutex<ChunkNo>,
    /// Chunks that clients had to wait for.
    touched: AtomicU64,
}

impl Hydration {
    pub(super) fn new(done: bool) -> Self {
        Self { done: done.into(), ..Self::default() }
    }
}

/// A fetch under way. However it ends, who waits for it is told.
struct Fetching<'a> {
    hydration: &'a Hydration,
    chunk: ChunkNo,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.hydration.recent.lock().fetching.retain(|c| *c != self.chunk);
        self.hydration.fetched.notify_all();
    }
}

/// What a step of the background filling did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Chunks that became present.
    pub chunks: usize,
    /// Nothing is left to do.
    pub done: bool,
}

impl Volume {
    /// Whether every chunk of the parent is here (or there is no parent).
    pub fn is_hydrated(&self) -> bool {
        self.parent.is_none() || self.hydration.done.load(Ordering::Acquire)
    }

    fn parent_has(&self, chunk: ChunkNo) -> Result<bool> {
        match &self.parent {
            Some(parent) if chunk.offset() < parent.size() => parent.has_sectors(chunk),
            _ => Ok(false),
        }
    }

    /// Whether the chunk's bytes are in this file. Where the parent has no sectors, `present` is implied.
    pub(super) fn is_here(&self, chunk: ChunkNo, entry: Entry) -> Result<bool> {
        Ok(entry.present || self.is_hydrated() || !self.parent_has(chunk)?)
    }

    /// Whether this file may hold bytes at the chunk that are not the volume's any more: after a rollback, until its
    /// first write. Such a chunk reads as zeros without looking.
    pub(super) fn is_virgin(&self, chunk: ChunkNo, entry: Entry) -> Result<bool> {
        Ok(self.map_generation > 1 && !entry.present && (self.is_hydrated() || !self.parent_has(chunk)?))
    }

    /// First chunk at or after `from` that still has to be fetched.
    pub(super) fn next_absent(&self, mut from: ChunkNo) -> Result<Option<ChunkNo>> {
        let Some(parent) = self.parent.as_ref().filter(|_| !self.is_hydrated()) else { return Ok(None) };
        while let Some(chunk) = parent.next_with_sectors(from)?.filter(|c| c.offset() < self.size()) {
            if !self.map.entry(&*self.store, chunk)?.present {
                return Ok(Some(chunk));
            }
            from = ChunkNo(chunk.0 + 1);
        }
        Ok(None)
    }

    fn key_of_tag(&self, tag: KeyTag) -> Result<KeyEpoch> {
        self.key_epochs.iter().find(|(_, id)| id.tag() == tag).map(|(e, _)| *e).ok_or_else(|| {
            Error::new(
                Kind::Integrity,
                format!("the snapshot that {} is filled from was sealed under a key it does not have", self.id),
            )
        })
    }

    /// The sealed bytes of an absent chunk, from memory or from the parent.
    fn fetch(&self, chunk: ChunkNo) -> Result<(Arc<Vec<u8>>, KeyEpoch)> {
        {
            let mut recent = self.hydration.recent.lock();
            loop {
                if let Some(hit) = recent.chunks.iter().find(|f| f.chunk == chunk) {
                    return Ok((hit.sealed.clone(), hit.key));
                }
                if !recent.fetching.contains(&chunk) {
                    recent.fetching.push(chunk);
                    break;
                }
                self.hydration.fetched.wait(&mut recent);
            }
        }
        let _turn = Fetching { hydration: &self.hydration, chunk };
        let (sealed, key) = self.fetch_from_parent(chunk)?;
        let mut recent = self.hydration.recent.lock();
        recent.chunks.truncate(RECENT - 1);
        recent.chunks.push_front(Fetched { chunk, key, sealed: sealed.clone() });
        Ok((sealed, key))
    }

    fn fetch_from_parent(&self, chunk: ChunkNo) -> Result<(Arc<Vec<u8>>, KeyEpoch)> {
        let parent =
            self.parent.as_ref().ok_or_else(|| Error::new(Kind::Failed, format!("{} has no parent", self.id)))?;
        let mut sealed = vec![0u8; CHUNK];
        let tag = parent
            .fetch(chunk, &mut sealed)
            .map_err(|e| e.context(format!("fill chunk {chunk} of {} from its snapshot", self.id)))?;
        let key = tag.map_or(Ok(self.current_key()), |t| self.key_of_tag(t))?;
        Ok((Arc::new(sealed), key))
    }

    /// How many chunks clients had to wait for so far: while that grows, the background leaves the processors to them.
    pub fn first_touches(&self) -> u64 {
        self.hydration.touched.load(Ordering::Relaxed)
    }

    /// A read of an absent chunk: sealed bytes from memory; storing them is left to the background.
    pub(super) fn read_from_parent(&self, chunk: ChunkNo, skip: usize, out: &mut [u8]) -> Result<KeyEpoch> {
        self.hydration.touched.fetch_add(1, Ordering::Relaxed);
        let (sealed, key) = self.fetch(chunk)?;
        out.copy_from_slice(&sealed[skip..skip + out.len()]);
        let mut wanted = self.hydration.wanted.lock();
        if wanted.len() < WANTED && wanted.back() != Some(&chunk) {
            wanted.push_back(chunk);
        }
        Ok(key)
    }

    /// Stores a fetched chunk where nothing of the volume lies yet: holes are made first, then what is none is written.
    fn store_fetched(&self, chunk: ChunkNo, sealed: &[u8]) -> Result<()> {
        let len = self.chunk_len(chunk);
        let at = self.data_offset + chunk.offset();
        let what = || format!("store chunk {chunk} of {}", self.id);
        self.changing(chunk, || {
            self.store.zero(at, round_up(len), false).on(what)?;
            for (start, end) in runs(&sealed[..len as usize]) {
                self.store.write_at(Sealed::stored(&sealed[start..end]), at + start as u64).on(what)?;
            }
            Ok(())
        })
    }

    /// Bytes of the volume in a chunk: less than 512 KiB in the last one.
    pub(super) fn chunk_len(&self, chunk: ChunkNo) -> u64 {
        (self.size() - chunk.offset().min(self.size())).min(CHUNK as u64)
    }

    /// Makes a chunk present for a write that follows. The stripe is held.
    pub(super) fn make_here(&self, chunk: ChunkNo, entry: Entry, epoch: Epoch) -> Result<Entry> {
        let here = |key| Entry { present: true, key, changed: entry.changed };
        if self.is_virgin(chunk, entry)? {
            let what = || format!("clear chunk {chunk} of {}", self.id);
            let (at, len) = (self.data_offset + chunk.offset(), round_up(self.chunk_len(chunk)));
            self.changing(chunk, || self.store.zero(at, len, false)).on(what)?;
            self.sync()?;
            let next = Entry { present: true, key: self.current_key(), changed: epoch };
            self.map.mark(&*self.store, &[chunk], |_, _| next)?;
            return Ok(next);
        }
        if self.is_here(chunk, entry)? {
            return Ok(entry);
        }
        let (sealed, key) = self.fetch(chunk)?;
        self.store_fetched(chunk, &sealed)?;
        self.sync()?;
        self.map.mark(&*self.store, &[chunk], |_, _| here(key))?;
        Ok(here(key))
    }

    /// TRIM or WRITE_ZEROES over a whole absent chunk: nothing is fetched; it is cleared, synced and marked.
    pub(super) fn zero_absent_chunk(&self, chunk: ChunkNo) -> Result<()> {
        let _held = self.stripe(chunk).lock.lock();
        self.mark_opened()?;
        self.intent.announce(&*self.store, chunk.offset(), || self.sync())?;
        let (at, len) = (self.data_offset + chunk.offset(), round_up(self.chunk_len(chunk)));
        let live = self.live.read().clone();
        let entry = self.map.entry(&*self.store, chunk)?;
        if entry.present {
            // An absent chunk is in every pending snapshot by its parent's entry: what lies here is not the volume's.
            self.copy_before_write(&live, chunk, entry)?;
        }
        let zero = || {
            self.changing(chunk, || self.store.zero(at, len, false)).on(|| format!("zero chunk {chunk} of {}", self.id))
        };
        if entry.present {
            // Somebody made it present meanwhile: an ordinary change of the whole chunk.
            self.map.mark(&*self.store, &[chunk], |_, e| Entry { changed: live.epoch, ..e })?;
            return zero();
        }
        zero()?;
        self.sync()?;
        let key = self.current_key();
        self.map.mark(&*self.store, &[chunk], |_, _| Entry { present: true, key, changed: live.epoch })
    }

    /// Fills up to `batch` absent chunks: those that readers asked for first, then in order. One sync for all of them.
    ///
    /// # Errors
    /// When a chunk cannot be had, or the store fails; what was marked before stays.
    pub fn hydrate_some(&self, batch: usize) -> Result<Filled> {
        if self.is_hydrated() {
            return Ok(Filled { chunks: 0, done: true });
        }
        let mut cursor = self.hydration.cursor.lock();
        let (picked, next) = self.pick(*cursor, batch)?;
        if picked.is_empty() {
            self.mark_opened()?;
            self.sync()?;
            self.header.lock().write_state(|s| s.hydrated = true)?;
            self.hydration.done.store(true, Ordering::Release);
            self.hydration.recent.lock().chunks.clear();
            return Ok(Filled { chunks: 0, done: true });
        }
        self.mark_opened()?;
        let mut stored: Vec<(ChunkNo, KeyEpoch)> = Vec::with_capacity(picked.len());
        for chunk in picked {
            let (sealed, key) = self.fetch(chunk)?;
            let _held = self.stripe(chunk).lock.lock();
            if !self.map.entry(&*self.store, chunk)?.present {
                self.store_fetched(chunk, &sealed)?;
                stored.push((chunk, key));
            }
        }
        self.sync()?;
        for (chunk, key) in &stored {
            let _held = self.stripe(*chunk).lock.lock();
            let still_absent = |_, e: Entry| if e.present { e } else { Entry { present: true, key: *key, ..e } };
            self.map.mark(&*self.store, &[*chunk], still_absent)?;
        }
        *cursor = next;
        Ok(Filled { chunks: stored.len(), done: false })
    }

    fn pick(&self, cursor: ChunkNo, batch: usize) -> Result<(Vec<ChunkNo>, ChunkNo)> {
        let mut picked = Vec::with_capacity(batch);
        let wanted: Vec<ChunkNo> = self.hydration.wanted.lock().drain(..).collect();
        for chunk in wanted {
            if !picked.contains(&chunk) && !self.map.entry(&*self.store, chunk)?.present {
                picked.push(chunk);
            }
        }
        let mut at = cursor;
        while picked.len() < batch {
            let Some(chunk) = self.next_absent(at)? else { break };
            if !picked.contains(&chunk) {
                picked.push(chunk);
            }
            at = ChunkNo(chunk.0 + 1);
        }
        Ok((picked, at))
    }
}

fn round_up(len: u64) -> u64 {
    len.next_multiple_of(PART as u64)
}

/// Runs of sectors that are not all zero, as byte ranges.
fn runs(sealed: &[u8]) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (i, sector) in sealed.chunks(SECTOR).enumerate() {
        if crate::cipher::xts::is_hole(sector) {
            continue;
        }
        let (start, end) = (i * SECTOR, i * SECTOR + sector.len());
        match out.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => out.push((start, end)),
        }
    }
    out
}
