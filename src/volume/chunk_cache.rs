//! A cache of chunks fetched from a snapshot: concurrent readers of a chunk share one fetch, and the last chunks are
//! kept.
//!
//! A reader that waits for another's fetch is handed that chunk, even if it has been evicted by then. If the fetch
//! fails, its error goes to its caller; the waiting readers then fetch for themselves. Buffers are reused: a new one
//! costs as much in page faults as the copy into it.
//!
//! Chunks may also be fetched before a reader asks. A reader waits for such a fetch only for a while: it must never wait
//! longer because of it.

use crate::cipher::{SealedBuf, SealedMut};
use crate::error::Result;
use crate::sys::Pages;
use crate::units::{CHUNK, ChunkNo};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Buffers kept for future fetches.
const SPARE: usize = 4;
/// How long a reader waits for a chunk that is fetched ahead, before it fetches it itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// A chunk's sealed bytes ([`CHUNK`] of them), and the key that sealed them.
#[derive(Clone)]
pub struct Body<K> {
    /// The sealed bytes, holes as zeros.
    pub sealed: Arc<SealedBuf<Pages>>,
    /// The key, as the caller identifies it.
    pub key: K,
}

/// The chunks fetched last, and the fetches under way.
pub struct ChunkCache<K> {
    state: Mutex<CacheState<K>>,
}

struct CacheState<K> {
    /// Newest first.
    kept: VecDeque<(ChunkNo, Body<K>)>,
    room: usize,
    under_way: Vec<Arc<Turn<K>>>,
    spare: Vec<SealedBuf<Pages>>,
}

/// A fetch under way.
struct Turn<K> {
    chunk: ChunkNo,
    /// Whether no reader asked for it.
    is_ahead: bool,
    /// Set when the fetch has ended; an inner `None`: it failed.
    end: Mutex<Option<Option<Body<K>>>>,
    ended: Condvar,
}

impl<K: Copy> Turn<K> {
    fn new(chunk: ChunkNo, is_ahead: bool) -> Arc<Self> {
        Arc::new(Self { chunk, is_ahead, end: Mutex::new(None), ended: Condvar::new() })
    }

    /// Waits for the end of the fetch. `None`: it failed, or takes too long.
    fn wait(&self) -> Option<Body<K>> {
        let mut end = self.end.lock();
        loop {
            if let Some(end) = &*end {
                return end.clone();
            }
            if !self.is_ahead {
                self.ended.wait(&mut end);
            } else if self.ended.wait_for(&mut end, PATIENCE).timed_out() && end.is_none() {
                return None;
            }
        }
    }
}

/// Ends a turn, even if the fetch panics.
struct Ending<'a, K: Copy> {
    fetched: &'a ChunkCache<K>,
    turn: Arc<Turn<K>>,
    body: Option<Body<K>>,
    /// Whether the chunk is kept.
    keep: bool,
}

impl<K: Copy> Ending<'_, K> {
    fn fetch(
        mut self,
        spare: Option<SealedBuf<Pages>>,
        fetch: impl FnOnce(SealedMut<'_>) -> Result<K>,
    ) -> Result<Body<K>> {
        let mut sealed = spare.unwrap_or_else(|| SealedBuf::pages(CHUNK));
        let key = fetch(sealed.room())?;
        let body = Body { sealed: Arc::new(sealed), key };
        self.body = Some(body.clone());
        Ok(body)
    }
}

impl<K: Copy> Drop for Ending<'_, K> {
    fn drop(&mut self) {
        let body = self.body.take();
        let mut state = self.fetched.state.lock();
        state.under_way.retain(|t| !Arc::ptr_eq(t, &self.turn));
        if let (Some(body), true) = (&body, self.keep) {
            state.keep(self.turn.chunk, body.clone());
        }
        drop(state);
        *self.turn.end.lock() = Some(body);
        self.turn.ended.notify_all();
    }
}

impl<K> CacheState<K> {
    fn keep(&mut self, chunk: ChunkNo, body: Body<K>) {
        // One that took too long may have been fetched twice.
        self.kept.retain(|(c, _)| *c != chunk);
        self.kept.push_front((chunk, body));
        while self.kept.len() > self.room {
            let oldest = self.kept.pop_back().and_then(|(_, body)| Arc::try_unwrap(body.sealed).ok());
            self.spare.extend(oldest.filter(|_| self.spare.len() < SPARE && self.room > 0));
        }
    }
}

impl<K> CacheState<K> {
    fn has(&self, chunk: ChunkNo) -> bool {
        self.kept.iter().any(|(c, _)| *c == chunk) || self.under_way.iter().any(|t| t.chunk == chunk)
    }
}

impl<K: Copy> ChunkCache<K> {
    /// Makes a cache of the last `room` chunks.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let state = CacheState { kept: VecDeque::new(), room, under_way: Vec::new(), spare: Vec::new() };
        Self { state: Mutex::new(state) }
    }

    /// Returns the chunk, if it is cached.
    #[must_use]
    pub fn peek(&self, chunk: ChunkNo) -> Option<Body<K>> {
        self.state.lock().kept.iter().find(|(c, _)| *c == chunk).map(|(_, body)| body.clone())
    }

    /// Returns the chunk: from the cache, from a fetch under way, or by `fetch`, which must fill the whole buffer.
    ///
    /// # Errors
    /// The error of `fetch`.
    pub fn get(&self, chunk: ChunkNo, fetch: impl FnOnce(SealedMut<'_>) -> Result<K>) -> Result<Body<K>> {
        self.get_and(true, chunk, fetch)
    }

    /// Like [`ChunkCache::get`], for a chunk that no reader asked for: if it is fetched, it is not kept.
    ///
    /// # Errors
    /// The error of `fetch`.
    pub fn get_once(&self, chunk: ChunkNo, fetch: impl FnOnce(SealedMut<'_>) -> Result<K>) -> Result<Body<K>> {
        self.get_and(false, chunk, fetch)
    }

    fn get_and(&self, keep: bool, chunk: ChunkNo, fetch: impl FnOnce(SealedMut<'_>) -> Result<K>) -> Result<Body<K>> {
        let (turn, spare) = loop {
            let mut state = self.state.lock();
            if let Some((_, body)) = state.kept.iter().find(|(c, _)| *c == chunk) {
                return Ok(body.clone());
            }
            let Some(other) = state.under_way.iter().find(|t| t.chunk == chunk).cloned() else {
                let turn = Turn::new(chunk, false);
                state.under_way.push(Arc::clone(&turn));
                break (turn, state.spare.pop());
            };
            drop(state);
            if let Some(body) = other.wait() {
                return Ok(body);
            }
            // If it is still under way, it is no longer waited for.
            self.state.lock().under_way.retain(|t| !Arc::ptr_eq(t, &other));
        };
        let ending = Ending { fetched: self, turn, body: None, keep };
        ending.fetch(spare, fetch)
    }

    /// Fetches a chunk that nobody has asked for, unless it is cached or under way.
    pub fn get_ahead(&self, chunk: ChunkNo, fetch: impl FnOnce(SealedMut<'_>) -> Result<K>) {
        let mut state = self.state.lock();
        if state.has(chunk) || state.room == 0 {
            return;
        }
        let (turn, spare) = (Turn::new(chunk, true), state.spare.pop());
        state.under_way.push(Arc::clone(&turn));
        drop(state);
        // If it fails, its reader fetches it again, and reports the error.
        let _ = Ending { fetched: self, turn, body: None, keep: true }.fetch(spare, fetch);
    }

    /// Whether the chunk is cached or under way.
    #[must_use]
    pub fn has(&self, chunk: ChunkNo) -> bool {
        self.state.lock().has(chunk)
    }

    /// Keeps at least `room` chunks from now on, unless it is closed.
    pub fn make_room(&self, room: usize) {
        let mut state = self.state.lock();
        if state.room > 0 {
            state.room = state.room.max(room);
        }
    }

    /// Frees its memory and caches nothing from now on.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.room = 0;
        state.kept.clear();
        state.spare.clear();
    }
}

#[cfg(test)]
#[path = "chunk_cache_tests.rs"]
mod tests;
