//! What all connections of one volume share in the server: the order of its writes, what waits
//! for a flush or its key, its limits, its share
//! of the buffers.

use super::budget::Share;
use super::commit::Commit;
use super::hold::{Held, Hold};
use super::limit::Limit;
use super::link::Link;
use super::order::Order;
use super::pool::Job;
use super::session::{Command, Request};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the module. An [`super::Export`] hands out the one of its volume.
#[derive(Default)]
pub struct Traffic {
    pub(super) order: Order<Job>,
    pub(super) commit: Commit,
    pub(super) hold: Hold,
    pub(super) limit: Limit,
    /// Of the payload buffers.
    pub(super) share: Arc<Share>,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traffic").finish_non_exhaustive()
    }
}

/// A write's place in its volume's order; left when dropped.
pub(super) struct Turn {
    pub(super) traffic: Arc<Traffic>,
    pub(super) number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.traffic.leave(self.number);
    }
}

/// Whether a request changes what the volume holds.
pub(super) fn changes(request: &Request) -> bool {
    request.len > 0 && matches!(request.command, Command::Write | Command::WriteZeroes | Command::Trim)
}

impl Traffic {
    /// A write is applied or dropped: the workers get those that waited for it.
    pub(super) fn leave(&self, number: u64) {
        for job in self.order.leave(number) {
            Arc::clone(&job.pool).enqueue(job);
        }
    }

    /// Limits the volume to so many requests and bytes a second; 0: no limit. Holds from the next request on.
    pub fn set_limits(&self, requests: u64, bytes: u64) {
        self.limit.set(requests, bytes);
    }

    /// The key is back, or what is to be done without it is another thing now: what was held is tried again.
    pub fn release(&self) {
        for job in self.hold.release() {
            Arc::clone(&job.pool).enqueue(job);
        }
    }

    /// Holds a request whose key is away; given back: it is to be tried again.
    pub(super) fn hold(self: &Arc<Self>, job: Job) -> Option<Job> {
        match self.hold.put(self, job) {
            Held::Waits => None,
            Held::Again(job) => Some(job),
            Held::Dropped(job) => {
                let link = Arc::clone(&job.link);
                drop(job);
                link.finished(1);
                None
            }
        }
    }

    /// Drops what of a connection is held or waits for its turn: it has not begun.
    pub(super) fn cancel(&self, link: &Link) {
        let jobs = [self.hold.cancel(link.id), self.order.cancel(link.id)];
        let count = jobs.iter().map(Vec::len).sum();
        drop(jobs);
        link.finished(count);
    }

    /// Drops what of a connection that ends waits for a key.
    pub(super) fn let_go(&self, link: &Link) {
        link.leaving.store(true, Ordering::SeqCst);
        if self.hold.is_holding() {
            self.cancel(link);
        }
    }
}
