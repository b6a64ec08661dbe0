//! A request that left its connection's thread: with the workers, in the order of writes, or waiting for its key.

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

/// See the module. Counted in its queue's `in_flight` until its end.
pub(super) struct Job {
    pub(super) queue: Arc<Queue>,
    pub(super) device: Arc<dyn Device>,
    pub(super) request: Request,
    pub(super) buf: Option<Buf>,
    /// When the request was read, on the engine's clock.
    pub(super) read_at: Duration,
    pub(super) stale_after: Duration,
    /// Payload bytes of a WRITE that are applied.
    pub(super) done: usize,
    pub(super) scheduler: Arc<VolumeScheduler>,
    /// Of a write: its place in the order, which it leaves when it is applied or dropped.
    pub(super) turn: Option<Turn>,
    /// What it counts against the volume's limit while requests are held.
    pub(super) load: Option<Load>,
    /// It is this part of a larger request.
    pub(super) part: Option<Part>,
}

/// How a worker's attempt ended.
pub(super) enum Ended {
    Outcome(Result<(), Failure>),
    /// It is for the front end to answer.
    Question,
}

impl Job {
    /// It waits for a key, or in the order of writes for what does. How long makes no difference to the order, for it has its
    /// place there. Only a client whose request timeout is known sends it again meanwhile: of that one it gets too old.
    pub(super) fn wait_patiently(&mut self) {
        if self.device.stale_after().is_none() {
            self.stale_after = Duration::MAX;
        }
    }

    /// Does it, as far as it is not done. `None`: its key is away.
    pub(super) fn attempt(&mut self) -> Option<Ended> {
        if self.request.op == Op::Query {
            return Some(Ended::Question);
        }
        apply::finish(&*self.device, &self.request, self.buf.as_deref_mut(), &mut self.done).map(Ended::Outcome)
    }
}
