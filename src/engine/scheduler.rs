//! The state that all connections of a volume share: the order of its writes, its flushes, what waits for its key, its
//! limits, its share of the buffers.

use super::budget::Share;
use super::commit::Commit;
use super::device::VolumeControl;
use super::job::Job;
use super::keywait::{Held, KeyWait};
use super::limit::Limit;
use super::order::Order;
use super::queue::Queue;
use std::sync::Arc;

/// Runs what a scheduler releases.
pub(super) trait Runner: Send + Sync {
    /// Queues a request whose turn it is.
    fn enqueue(&self, job: Job);
    /// Runs the volume's [`Commit`] until nothing waits.
    fn commit(&self, scheduler: Arc<VolumeScheduler>);
}

/// The shared state of a volume's connections; see the module's documentation.
pub struct VolumeScheduler {
    runner: Arc<dyn Runner>,
    pub(super) order: Order<Job>,
    pub(super) commit: Commit,
    pub(super) key_wait: KeyWait,
    pub(super) limit: Limit,
    /// Its account with the payload budget.
    pub(super) share: Arc<Share>,
}

impl std::fmt::Debug for VolumeScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeScheduler").finish_non_exhaustive()
    }
}

/// A write's place in its volume's order; left when dropped.
pub(super) struct Turn {
    pub(super) scheduler: Arc<VolumeScheduler>,
    pub(super) number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.scheduler.leave(self.number);
    }
}

impl VolumeControl for VolumeScheduler {
    fn set_limits(&self, requests: u64, bytes: u64) {
        self.limit.set(requests, bytes);
    }

    fn release(&self) {
        self.key_wait.release().into_iter().for_each(|job| self.runner.enqueue(job));
    }
}

impl VolumeScheduler {
    pub(super) fn new(runner: Arc<dyn Runner>) -> Arc<Self> {
        let (order, commit, key_wait, limit, share) = Default::default();
        Arc::new(Self { runner, order, commit, key_wait, limit, share })
    }

    /// Removes a write that was applied or dropped, and queues those that waited for it.
    pub(super) fn leave(&self, number: u64) {
        self.order.leave(number).into_iter().for_each(|job| self.runner.enqueue(job));
    }

    /// Holds a request whose key is unavailable. Returns it if it is to be retried.
    pub(super) fn hold(&self, job: Job) -> Option<Job> {
        match self.key_wait.put(job) {
            Held::Waits => None,
            Held::Again(job) => Some(job),
            Held::Dropped(job) => {
                let queue = Arc::clone(&job.queue);
                drop(job);
                queue.finished(1);
                None
            }
        }
    }

    /// Drops what of a connection is held or waits for its turn: it has not begun.
    pub(super) fn cancel(&self, queue: &Queue) {
        let jobs = [self.key_wait.cancel(queue.id), self.order.cancel(queue.id)];
        let count = jobs.iter().map(Vec::len).sum();
        drop(jobs);
        queue.finished(count);
    }

    /// Drops what of a disconnecting connection waits for a key.
    pub(super) fn let_go(&self, queue: &Queue) {
        queue.leave();
        if self.key_wait.is_holding() {
            self.cancel(queue);
        }
    }

    /// Returns the number of requests that wait for the key.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.key_wait.len()
    }

    /// Returns the number of writes that are not applied yet.
    #[cfg(test)]
    pub(crate) fn in_order(&self) -> usize {
        self.order.len()
    }
}
