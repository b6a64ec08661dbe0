//! Hydration of a volume made from a snapshot (docs/format.md, section 3, "present").
//!
//! An absent chunk becomes present only when all its sealed bytes are durable. A read of one is answered from memory
//! and leaves storing it to the background; a write fetches the whole chunk, stores it, syncs, marks it, then continues
//! as any write. The background fills in batches, recently read chunks first: store several, one sync, mark those that
//! are still absent. It never overwrites a client's write, because it checks the map again under the stripe, and it
//! marks nothing as changed. A chunk that cannot be fetched is skipped and retried later (`missing`); meanwhile reads
//! of it fail and the rest is filled.

use super::chunk_cache::{Body, ChunkCache};
use super::clearing::Clearing;
use super::map::Entry;
use super::missing::{Missing, Present};
use super::{Blocking, Volume};
use crate::cipher::Sealed;
use crate::cipher::xts::data_runs;
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, KeyEpoch, KeyTag, SUBSECTOR, chunks_in};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Fetched chunks kept for later reads, and for the background to store: 8 MiB a volume. Four sequential readers need
/// two each, plus those that their overtaking requests touch.
const RECENT: usize = 16;
/// Maximum number of chunks that readers asked for and the background has not stored.
const WANTED: usize = 1024;

/// The state of a volume's hydration.
pub(super) struct Hydration {
    pub(super) done: AtomicBool,
    recent: ChunkCache<KeyEpoch>,
    /// Chunks that readers asked for, newest last.
    wanted: Mutex<VecDeque<ChunkNo>>,
    cursor: Mutex<ChunkNo>,
    /// Runs without absent chunks, as far as checked.
    present: Mutex<Present>,
    missing: Mutex<Missing>,
    pub(super) clearing: Clearing,
    /// How many chunks clients had to wait for.
    touched: AtomicU64,
}

impl Hydration {
    pub(super) fn new(done: bool) -> Self {
        Self {
            done: done.into(),
            recent: ChunkCache::new(RECENT),
            wanted: Mutex::default(),
            cursor: Mutex::default(),
            present: Mutex::default(),
            missing: Mutex::default(),
            clearing: Clearing::default(),
            touched: AtomicU64::new(0),
        }
    }

    /// Queues a chunk for storing, after a reader was answered from memory. When the queue is full, the oldest is
    /// dropped and filled in order later.
    fn want(&self, chunk: ChunkNo) {
        let mut wanted = self.wanted.lock();
        if wanted.back() == Some(&chunk) {
            return;
        }
        if wanted.len() >= WANTED {
            wanted.pop_front();
        }
        wanted.push_back(chunk);
    }
}

/// The result of a step of background hydration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Chunks that became present.
    pub chunks: usize,
    /// Nothing is left to do.
    pub done: bool,
}

impl Volume {
    /// Whether every chunk of the parent is in this file (or there is no parent).
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

    /// Whether this file may hold stale bytes at the chunk: after a rollback, until its first write. Such a chunk reads
    /// as zeros without reading the file.
    pub(super) fn is_virgin(&self, chunk: ChunkNo, entry: Entry) -> Result<bool> {
        Ok(self.map_generation > 1 && !entry.present && (self.is_hydrated() || !self.parent_has(chunk)?))
    }

    /// Returns the first chunk at or after `from` that is absent, or whose state cannot be read: using it reports the
    /// error. Remembers what it checked, so that a walk over the whole volume is linear.
    pub(super) fn next_absent(&self, from: ChunkNo) -> Option<ChunkNo> {
        let parent = self.parent.as_ref().filter(|_| !self.is_hydrated())?;
        let chunks = chunks_in(self.size());
        let mut at = from.0;
        let found = loop {
            at = self.hydration.present.lock().end_of(at).unwrap_or(at);
            if at >= chunks {
                break None;
            }
            match parent.next_with_sectors(ChunkNo(at)) {
                Ok(None) => {
                    at = u64::MAX;
                    break None;
                }
                // The parent has nothing in between.
                Ok(Some(chunk)) if chunk.0 > at => at = chunk.0,
                Ok(Some(chunk)) if self.is_present(chunk) => at += 1,
                Ok(Some(_)) | Err(_) => break Some(ChunkNo(at)),
            }
        };
        self.hydration.present.lock().add(from.0, at);
        found
    }

    /// Whether the map says that a chunk is present; in a damaged map block none is.
    fn is_present(&self, chunk: ChunkNo) -> bool {
        self.map.entry(&*self.store, chunk).is_ok_and(|e| e.present)
    }

    /// Reads the whole map. Returns whether a damaged block was rebuilt as present and changed.
    ///
    /// # Errors
    /// [`Kind::Integrity`] naming a block that is damaged and cannot be rebuilt: its chunks are unusable.
    pub fn check_map(&self) -> Result<bool> {
        self.map.check(&*self.store).map(|()| self.map.was_rebuilt())
    }

    /// Returns the chunks that could not be fetched so far: reads of them fail.
    pub fn missing_chunks(&self) -> Vec<ChunkNo> {
        self.hydration.missing.lock().all()
    }

    fn key_of_tag(&self, tag: KeyTag) -> Result<KeyEpoch> {
        self.key_epochs.iter().find(|(_, id)| id.tag() == tag).map(|(e, _)| *e).ok_or_else(|| {
            Error::new(
                Kind::Integrity,
                format!("the parent snapshot of {} is encrypted under a key that the volume does not have", self.id),
            )
        })
    }

    /// Returns the sealed bytes of an absent chunk, from memory or from the parent.
    pub(super) fn fetch(&self, chunk: ChunkNo) -> Result<Body<KeyEpoch>> {
        self.hydration.recent.get(chunk, |sealed| {
            let parent =
                self.parent.as_ref().ok_or_else(|| Error::new(Kind::Failed, format!("{} has no parent", self.id)))?;
            let tag = parent
                .fetch(chunk, sealed)
                .map_err(|e| e.context(format!("fill chunk {chunk} of {} from its snapshot", self.id)))?;
            tag.map_or(Ok(self.current_key()), |t| self.key_of_tag(t))
        })
    }

    /// Returns how many chunks clients have waited for so far: while it grows, the background leaves the processors to
    /// them.
    pub fn first_touches(&self) -> u64 {
        self.hydration.touched.load(Ordering::Relaxed)
    }

    /// Returns the sealed bytes of an absent chunk, for a read; storing them is left to the background. `None`: they
    /// are not in memory, and would have to be waited for.
    pub(super) fn parents_bytes(&self, chunk: ChunkNo, blocking: Blocking) -> Result<Option<Body<KeyEpoch>>> {
        if blocking == Blocking::Never {
            return Ok(self.hydration.recent.peek(chunk));
        }
        self.hydration.touched.fetch_add(1, Ordering::Relaxed);
        let body = self.fetch(chunk)?;
        // Only after the fetch: a chunk that cannot be fetched would make the background pause for one that is not due
        // yet.
        self.hydration.want(chunk);
        Ok(Some(body))
    }

    /// Stores a fetched chunk where the volume has no data yet: punches the whole chunk, then writes what is not a
    /// hole.
    fn store_fetched(&self, chunk: ChunkNo, sealed: Sealed<'_>) -> Result<()> {
        let len = self.chunk_len(chunk);
        let at = self.data_offset + chunk.offset();
        let what = || format!("store chunk {chunk} of {}", self.id);
        self.changing(chunk, || {
            self.store.zero(at, round_up(len), false).on(what)?;
            for run in data_runs(&sealed.bytes()[..len as usize]) {
                let place = at + run.start as u64;
                self.store.write_at(sealed.range(run), place).on(what)?;
            }
            Ok(())
        })
    }

    /// Bytes of the volume in a chunk: less than 512 KiB in the last one.
    pub(super) fn chunk_len(&self, chunk: ChunkNo) -> u64 {
        (self.size() - chunk.offset().min(self.size())).min(CHUNK as u64)
    }

    /// Makes a chunk present for a write, unchanged. The stripe is held. `None`: it is absent, and was not `fetched`.
    pub(super) fn make_here(
        &self,
        chunk: ChunkNo,
        entry: Entry,
        fetched: Option<&Body<KeyEpoch>>,
    ) -> Result<Option<Entry>> {
        let key = if self.is_virgin(chunk, entry)? {
            let what = || format!("clear chunk {chunk} of {}", self.id);
            let (at, len) = (self.data_offset + chunk.offset(), round_up(self.chunk_len(chunk)));
            self.changing(chunk, || self.store.zero(at, len, false)).on(what)?;
            self.current_key()
        } else if self.is_here(chunk, entry)? {
            return Ok(Some(entry));
        } else {
            let Some(body) = fetched else { return Ok(None) };
            self.store_fetched(chunk, body.sealed.sealed())?;
            body.key
        };
        self.sync()?;
        let here = Entry { present: true, key, changed: entry.changed };
        self.map.mark(&*self.store, &[chunk], |_, _| here)?;
        Ok(Some(here))
    }

    /// Fills up to `batch` absent chunks: those that readers asked for first, then in order, then those that could not
    /// be fetched before. One sync for all of them.
    ///
    /// # Errors
    /// If none of them could be fetched ([`Volume::missing_chunks`]), or the store fails; chunks marked before stay
    /// marked.
    pub fn hydrate_some(&self, batch: usize) -> Result<Filled> {
        if self.is_hydrated() {
            return Ok(Filled { chunks: 0, done: true });
        }
        let mut cursor = self.hydration.cursor.lock();
        let (mut picked, mut next) = self.pick(*cursor, batch);
        if picked.is_empty() {
            // Again from the start: a failed step may have left some behind.
            (picked, next) = self.pick(ChunkNo(0), batch);
        }
        if picked.is_empty() {
            let mut missing = self.hydration.missing.lock();
            missing.forget(|chunk| self.is_present(chunk));
            if missing.is_empty() {
                drop(missing);
                return self.end_filling();
            }
            picked = missing.due(batch);
            if picked.is_empty() {
                return Err(missing.error(self.id));
            }
        }
        self.mark_opened()?;
        let mut stored: Vec<(ChunkNo, KeyEpoch)> = Vec::with_capacity(picked.len());
        let tried = picked.len();
        let mut failed = 0;
        for chunk in picked {
            match self.fill(chunk)? {
                Ok(key) => stored.extend(key.map(|k| (chunk, k))),
                Err(why) => {
                    failed += 1;
                    self.hydration.missing.lock().add(self.id, chunk, &why);
                }
            }
        }
        if failed == tried {
            *cursor = next;
            return Err(self.hydration.missing.lock().error(self.id));
        }
        self.sync()?;
        for (chunk, key) in &stored {
            self.mark_filled(*chunk, *key)?;
        }
        *cursor = next;
        Ok(Filled { chunks: stored.len(), done: false })
    }

    /// Marks a chunk that [`Volume::fill`] has stored and a sync has made durable, if it is still absent.
    pub(super) fn mark_filled(&self, chunk: ChunkNo, key: KeyEpoch) -> Result<()> {
        let _held = self.stripe(chunk).lock.lock();
        if self.hydration.clearing.holds(chunk) {
            return Ok(());
        }
        let still_absent = |_, e: Entry| if e.present { e } else { Entry { present: true, key, ..e } };
        self.map.mark(&*self.store, &[chunk], still_absent)
    }

    /// Fetches and stores a chunk without marking it. `Ok(None)`: it became present meanwhile, or is being cleared. The inner error: it
    /// cannot be fetched now.
    pub(super) fn fill(&self, chunk: ChunkNo) -> Result<std::result::Result<Option<KeyEpoch>, Error>> {
        let Body { sealed, key } = match self.fetch(chunk) {
            Ok(body) => body,
            Err(why) => return Ok(Err(why)),
        };
        let _held = self.stripe(chunk).lock.lock();
        match self.map.entry(&*self.store, chunk) {
            Ok(entry) if entry.present || self.hydration.clearing.holds(chunk) => return Ok(Ok(None)),
            Ok(_) => {}
            Err(why) => return Ok(Err(why)),
        }
        self.store_fetched(chunk, sealed.sealed())?;
        Ok(Ok(Some(key)))
    }

    /// Ends hydration, when no chunk is absent any more.
    fn end_filling(&self) -> Result<Filled> {
        self.mark_opened()?;
        self.sync()?;
        // In both slots before the ref on the snapshot is dropped: the loss of one must not make the snapshot necessary
        // again.
        self.with_header_mut(|h| h.write_state_twice(|s| s.hydrated = true))?;
        self.hydration.done.store(true, Ordering::Release);
        self.hydration.recent.close();
        Ok(Filled { chunks: 0, done: true })
    }

    fn pick(&self, cursor: ChunkNo, batch: usize) -> (Vec<ChunkNo>, ChunkNo) {
        let mut picked = Vec::with_capacity(batch);
        // The newest first: they are still in memory. At most a batch, for clients are waiting.
        while picked.len() < batch {
            let Some(chunk) = self.hydration.wanted.lock().pop_back() else { break };
            if !picked.contains(&chunk) && !self.is_present(chunk) {
                picked.push(chunk);
            }
        }
        let mut at = cursor;
        while picked.len() < batch {
            let Some(chunk) = self.next_absent(at) else { break };
            let known = self.hydration.missing.lock().contains(chunk);
            if !known && !picked.contains(&chunk) {
                picked.push(chunk);
            }
            at = ChunkNo(chunk.0 + 1);
        }
        (picked, at)
    }
}

fn round_up(len: u64) -> u64 {
    len.next_multiple_of(SUBSECTOR as u64)
}
