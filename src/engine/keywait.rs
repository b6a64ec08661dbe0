//! Requests held while their volume's key is unavailable, instead of failing.
//!
//! A held request keeps its buffer and its place in the order of writes, but no thread. When the key is back, all are
//! queued for the workers again. If its client's request timeout is known, a request that grows too old is dropped with
//! its connection: that client resends it, and the copy takes its place. Any other waits as long as the key is
//! unavailable. So that a suspended volume does not use up the buffers of the others, its connections are no longer
//! read once the held payload reaches the volume's limit.

use super::job::Job;
use super::queue::{Queue, Severed};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The held requests of a volume.
#[derive(Default)]
pub(super) struct KeyWait {
    state: Mutex<WaitState>,
    /// Number of requests held now.
    count: AtomicUsize,
    /// Payload bytes of held requests, and of those read since.
    bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct WaitState {
    held: Vec<Job>,
    /// Connections that are not read at present.
    stalled: Vec<Arc<Queue>>,
}

/// Payload bytes charged to a volume's limit until dropped.
#[derive(Debug)]
pub struct Load {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What happened to a request whose key was unavailable.
pub(super) enum Held {
    /// It is held.
    Waits,
    /// The key is back: retry.
    Again(Job),
    /// Its connection is ending: drop it.
    Dropped(Job),
}

impl KeyWait {
    /// Whether requests are held: then each request that is read needs [`KeyWait::load`].
    pub(super) fn is_holding(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Returns the number of requests held now.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Holds a request that cannot be done without the key.
    pub(super) fn put(&self, mut job: Job) -> Held {
        let mut state = self.state.lock();
        if job.queue.severed().is_some() || job.queue.is_leaving() {
            return Held::Dropped(job);
        }
        // Under the lock: the key is made available before held requests are released, so a release that misses this
        // one implies that the key is seen here.
        if job.device.has_key() || !job.device.waits_for_key() {
            return Held::Again(job);
        }
        let bytes = job.buf.as_ref().map_or(0, |b| b.len());
        if job.load.is_none() {
            job.load = Some(self.count_load(bytes));
        }
        job.wait_patiently();
        state.held.push(job);
        self.count.store(state.held.len(), Ordering::SeqCst);
        Held::Waits
    }

    fn count_load(&self, bytes: usize) -> Load {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        Load { all: Arc::clone(&self.bytes), bytes }
    }

    /// Charges a request of `bytes` that is about to be read while others are held, if the total stays within `limit`.
    /// `None`: `queue` must not be read until woken.
    pub(super) fn load(&self, queue: &Arc<Queue>, bytes: usize, limit: usize) -> Option<Load> {
        let mut state = self.state.lock();
        if !state.held.is_empty() && self.bytes.load(Ordering::SeqCst) + bytes > limit {
            if !state.stalled.iter().any(|q| q.id == queue.id) {
                state.stalled.push(Arc::clone(queue));
            }
            return None;
        }
        Some(self.count_load(bytes))
    }

    /// Takes out everything held: the key is back, or held requests are to be retried for another reason.
    pub(super) fn release(&self) -> Vec<Job> {
        self.take(|_| true)
    }

    /// Takes out what is held of one connection.
    pub(super) fn cancel(&self, queue: u64) -> Vec<Job> {
        self.take(|job| job.queue.id == queue)
    }

    fn take(&self, which: impl Fn(&Job) -> bool) -> Vec<Job> {
        let (taken, stalled) = {
            let mut state = self.state.lock();
            let (taken, left): (Vec<Job>, Vec<Job>) = std::mem::take(&mut state.held).into_iter().partition(which);
            state.held = left;
            self.count.store(state.held.len(), Ordering::SeqCst);
            (taken, std::mem::take(&mut state.stalled))
        };
        stalled.iter().for_each(|queue| queue.wake());
        taken
    }

    /// Severs the connections of requests that have become too old to be applied.
    pub(super) fn sever_stale(&self, now: Duration) {
        if self.is_holding() {
            let state = self.state.lock();
            let old = state.held.iter().filter(|job| now.saturating_sub(job.read_at) > job.stale_after);
            old.for_each(|job| job.queue.sever(Severed::Stale));
        }
    }
}
