//! A request that has left its connection's thread: queued for the workers, in the order of writes, or waiting for its
//! key.

use super::apply;
use super::budget::Buf;
use super::device::Device;
use super::done::Failure;
use super::keywait::Load;
use super::parts::Part;
use super::queue::Queue;
use super::request::{Op, Request};
use super::scheduler::{Turn, VolumeScheduler};
use std::sync::Arc;
use std::time::Duration;

/// A request outside its connection's thread. Counted in its queue's `in_flight` until it ends.
pub(super) struct Job {
    pub(super) queue: Arc<Queue>,
    pub(super) device: Arc<dyn Device>,
    pub(super) request: Request,
    pub(super) buf: Option<Buf>,
    /// When the request was read, on the engine's clock.
    pub(super) read_at: Duration,
    pub(super) stale_after: Duration,
    /// Payload bytes of a WRITE that are applied already.
    pub(super) done: usize,
    pub(super) scheduler: Arc<VolumeScheduler>,
    /// A write's place in the order, left when it is applied or dropped.
    pub(super) turn: Option<Turn>,
    /// Its load on the volume's limit of held payload.
    pub(super) load: Option<Load>,
    /// It is this part of a larger request.
    pub(super) part: Option<Part>,
}

/// The result of a worker's attempt.
pub(super) enum Ended {
    Outcome(Result<(), Failure>),
    /// The front end must answer it.
    Question,
}

impl Job {
    /// Disables the age limit, for a job that waits for a key, or in the order of writes for one that does. Waiting
    /// does not endanger the order, for it keeps its place there. Only a client whose request timeout is known resends
    /// meanwhile: its jobs keep the limit.
    pub(super) fn wait_patiently(&mut self) {
        if self.device.stale_after().is_none() {
            self.stale_after = Duration::MAX;
        }
    }

    /// Does what is left of it. `None`: its key is unavailable.
    pub(super) fn attempt(&mut self) -> Option<Ended> {
        if self.request.op == Op::Query {
            return Some(Ended::Question);
        }
        apply::finish(&*self.device, &self.request, self.buf.as_deref_mut(), &mut self.done).map(Ended::Outcome)
    }
}
