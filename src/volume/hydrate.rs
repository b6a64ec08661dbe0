//! Hydration of a volume made from a snapshot (docs/format.md, section 3, "present").
//!
//! An absent chunk becomes present only when all its sealed bytes are durable. A read of one is answered from memory
//! and leaves storing it to the background; a write fetches the whole chunk, stores it, syncs, marks it, then continues
//! as any write. The background fills in batches, recently read chunks first: store several, one sync, mark those that
//! are still absent. It never overwrites a client's write, because it checks the map again under the stripe, and it
//! marks nothing as changed. A chunk that cannot be fetched is skipped and retried later (`missing`); meanwhile reads
//! of it fail and the rest is filled.
//!
//! If the snapshot is far away, the background fetches many chunks at once, and a client that reads in order has the next
//! chunks fetched ahead, into memory.

use super::ahead::{AHEAD, Ahead};
use super::chunk_cache::{Body, ChunkCache};
use super::clearing::Clearing;
use super::map::Entry;
use super::missing::{Missing, Present};
use super::parent::{Each, Fetch, Parent};
use super::{Blocking, Volume};
use crate::cipher::xts::data_runs;
use crate::cipher::{Sealed, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, DataKeyId, KeyEpoch, KeyTag, SUBSECTOR, chunks_in};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// Fetched chunks kept for later reads, and for the background to store: 8 MiB a volume. Four sequential readers need
/// two each, plus those that their overtaking requests touch.
const RECENT: usize = 16;
/// Maximum number of chunks that readers asked for and the background has not stored.
const WANTED: usize = 1024;
/// Chunks stored between two syncs while more are fetched: 32 MiB.
const SYNC_EACH: usize = 64;

/// Most chunks in a step whose state cannot be read: each may wait for a repository that does not answer.
const UNKNOWN: usize = 16;

/// The state of a volume's hydration.
pub(super) struct Hydration {
    pub(super) done: AtomicBool,
    recent: Arc<ChunkCache<KeyEpoch>>,
    ahead: Ahead,
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
            recent: Arc::new(ChunkCache::new(RECENT)),
            ahead: Ahead::default(),
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

/// A step of background hydration under way.
#[derive(Default)]
struct Filling {
    /// Chunks that are stored, but not synced and marked.
    stored: Vec<(ChunkNo, KeyEpoch)>,
    filled: usize,
    failed: usize,
    tried: usize,
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
        self.next_absent_or_unknown(from).map(|(chunk, _)| chunk)
    }

    /// The same; the boolean says whether its state could be read.
    fn next_absent_or_unknown(&self, from: ChunkNo) -> Option<(ChunkNo, bool)> {
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
                Ok(Some(_)) => break Some((ChunkNo(at), true)),
                Err(_) => break Some((ChunkNo(at), false)),
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

    /// Returns the sealed bytes of an absent chunk, from memory or from the parent.
    pub(super) fn fetch(&self, chunk: ChunkNo) -> Result<Body<KeyEpoch>> {
        self.hydration.recent.get(chunk, |sealed| self.fetch_by(chunk, sealed, &|out| self.source()?.fetch(chunk, out)))
    }

    fn source(&self) -> Result<&Arc<dyn Parent>> {
        self.parent.as_ref().ok_or_else(|| Error::new(Kind::Failed, format!("{} has no parent", self.id)))
    }

    /// Fetches a chunk, and returns the key that sealed it.
    fn fetch_by(&self, chunk: ChunkNo, sealed: SealedMut<'_>, fetch: &Fetch<'_>) -> Result<KeyEpoch> {
        let tag =
            fetch(sealed).map_err(|e| e.context(format!("fill chunk {chunk} of {} from its snapshot", self.id)))?;
        key_of_tag(&self.key_epochs, tag, self.current_key()).ok_or_else(|| {
            let what =
                format!("the parent snapshot of {} is encrypted under a key that the volume does not have", self.id);
            Error::new(Kind::Integrity, what)
        })
    }

    /// Whether its parent is reached over a network.
    pub fn is_filled_from_afar(&self) -> bool {
        !self.is_hydrated() && self.parent.as_ref().is_some_and(|parent| parent.is_far())
    }

    /// Has the chunks fetched that a client who reads an absent one will probably read next.
    fn read_ahead(&self, chunk: ChunkNo) {
        let Some(parent) = self.parent.as_ref().filter(|p| p.is_far()) else { return };
        let soon = self.hydration.ahead.read(chunk);
        let soon: Vec<_> = soon.filter(|c| c.offset() < self.size() && !self.is_present(*c)).collect();
        if soon.is_empty() {
            return;
        }
        // The client waits less, but it is there.
        self.hydration.touched.fetch_add(1, Ordering::Relaxed);
        let recent = self.hydration.recent.clone();
        recent.make_room(RECENT + AHEAD);
        let (keys, current) = (self.key_epochs.clone(), self.current_key());
        let each: Arc<Each<'static>> = Arc::new(move |chunk: ChunkNo, fetch: &Fetch<'_>| {
            recent.get_ahead(chunk, |sealed| {
                let key = key_of_tag(&keys, fetch(sealed)?, current);
                key.ok_or_else(|| Error::new(Kind::Integrity, "it is encrypted under an unknown key"))
            });
            true
        });
        parent.fetch_ahead(&soon, &each);
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
            let Some(body) = self.hydration.recent.peek(chunk) else { return Ok(None) };
            if self.is_filled_from_afar() {
                self.read_ahead(chunk);
                // Nobody waited for it: the background does not know it yet.
                self.hydration.want(chunk);
            }
            return Ok(Some(body));
        }
        self.read_ahead(chunk);
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
    /// be fetched before. One sync for all of them, or several for many.
    ///
    /// # Errors
    /// If none of them could be fetched ([`Volume::missing_chunks`]), or the store fails; chunks marked before stay
    /// marked.
    pub fn hydrate_some(&self, batch: usize) -> Result<Filled> {
        self.hydrate_while(batch, &|| true)
    }

    /// Like [`Volume::hydrate_some`], but fetches no further chunk once `go_on` returns `false`.
    ///
    /// # Errors
    /// As [`Volume::hydrate_some`].
    pub fn hydrate_while(&self, batch: usize, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Filled> {
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
        let (mut filling, all) = (Filling::default(), picked.len());
        self.fill_all(picked, go_on, &mut filling)?;
        if filling.tried == all {
            *cursor = next;
        }
        if filling.failed == filling.tried && filling.failed > 0 {
            return Err(self.hydration.missing.lock().error(self.id));
        }
        self.mark_all_filled(&mut filling)?;
        Ok(Filled { chunks: filling.filled, done: false })
    }

    /// Fetches and stores chunks: one after the other, or many at once from afar.
    fn fill_all(
        &self,
        mut picked: Vec<ChunkNo>,
        go_on: &(dyn Fn() -> bool + Sync),
        filling: &mut Filling,
    ) -> Result<()> {
        if self.is_filled_from_afar() {
            // What is in memory needs no request.
            let far: Vec<_> = picked.extract_if(.., |chunk| !self.hydration.recent.has(*chunk)).collect();
            self.fill_many(&far, go_on, filling)?;
        }
        for chunk in picked {
            if !go_on() {
                break;
            }
            self.note_filled(filling, chunk, self.fill(chunk)?);
        }
        Ok(())
    }

    fn note_filled(&self, filling: &mut Filling, chunk: ChunkNo, filled: Result<Option<KeyEpoch>>) {
        filling.tried += 1;
        match filled {
            Ok(key) => filling.stored.extend(key.map(|k| (chunk, k))),
            Err(why) => {
                filling.failed += 1;
                self.hydration.missing.lock().add(self.id, chunk, &why);
            }
        }
    }

    /// Fetches chunks many at once, and stores them as they come. This thread syncs and marks those that are stored, while
    /// others fetch on.
    fn fill_many(&self, chunks: &[ChunkNo], go_on: &(dyn Fn() -> bool + Sync), filling: &mut Filling) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let (parent, stopped) = (self.source()?, AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let fetch_all = |tell: mpsc::Sender<_>| {
            let each = |chunk: ChunkNo, fetch: &Fetch<'_>| {
                let body = self.hydration.recent.get_once(chunk, |sealed| self.fetch_by(chunk, sealed, fetch));
                let filled = self.store_body(chunk, body);
                let goes_on = filled.is_ok() && !stopped.load(Ordering::Relaxed) && go_on();
                tell.send((chunk, filled)).is_ok() && goes_on
            };
            parent.fetch_many(chunks, &each);
        };
        std::thread::scope(|scope| {
            let work = || fetch_all(tell);
            std::thread::Builder::new()
                .name("fetch".to_owned())
                .spawn_scoped(scope, work)
                .on(|| format!("start a thread to fill {}", self.id))?;
            let mut outcome = Ok(());
            for (chunk, filled) in told {
                let noted = filled.and_then(|filled| {
                    self.note_filled(filling, chunk, filled);
                    if filling.stored.len() >= SYNC_EACH { self.mark_all_filled(filling) } else { Ok(()) }
                });
                stopped.fetch_or(noted.is_err(), Ordering::Relaxed);
                outcome = outcome.and(noted);
            }
            outcome
        })
    }

    /// Makes the stored chunks durable, and marks them.
    fn mark_all_filled(&self, filling: &mut Filling) -> Result<()> {
        self.sync()?;
        for (chunk, key) in filling.stored.drain(..) {
            self.mark_filled(chunk, key)?;
            filling.filled += 1;
        }
        Ok(())
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
    pub(super) fn fill(&self, chunk: ChunkNo) -> Result<Result<Option<KeyEpoch>>> {
        self.store_body(chunk, self.fetch(chunk))
    }

    /// Stores a chunk that was fetched, as [`Volume::fill`] does.
    fn store_body(&self, chunk: ChunkNo, fetched: Result<Body<KeyEpoch>>) -> Result<Result<Option<KeyEpoch>>> {
        let Body { sealed, key } = match fetched {
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
        let (mut at, mut unknown) = (cursor, 0);
        while picked.len() < batch && unknown < UNKNOWN {
            let Some((chunk, is_known)) = self.next_absent_or_unknown(at) else { break };
            unknown += usize::from(!is_known);
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

/// Returns the key with this tag; `current` for a hole.
fn key_of_tag(keys: &[(KeyEpoch, DataKeyId)], tag: Option<KeyTag>, current: KeyEpoch) -> Option<KeyEpoch> {
    tag.map_or(Some(current), |tag| keys.iter().find(|(_, id)| id.tag() == tag).map(|(e, _)| *e))
}
