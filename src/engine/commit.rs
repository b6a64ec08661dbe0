//! Group commit: FLUSH, and WRITE with FUA whose bytes are in the volume's file already.
//!
//! All connections of a volume share one [`Commit`]. All that one read of a socket brings joins at once; one thread at
//! a time flushes for everything waiting by then, and completes it together for each connection. Requests that join
//! meanwhile are covered by the next flush, which begins later.

use super::apply;
use super::device::Device;
use super::done::Done;
use super::queue::Queue;
use super::request::Request;
use parking_lot::Mutex;
use std::sync::Arc;

/// Commits that are left to the workers after one that kept other requests waiting.
const BACK_OFF: u32 = 1000;

/// A request that needs only a flush. Counted in its queue's `in_flight`.
pub(super) struct Waiting {
    pub(super) queue: Arc<Queue>,
    pub(super) device: Arc<dyn Device>,
    pub(super) request: Request,
}

#[derive(Default)]
struct CommitState {
    waiting: Vec<Waiting>,
    /// A thread is flushing, or about to.
    running: bool,
    /// Empty vectors, kept for their capacity.
    spare: Vec<Waiting>,
    ended: Vec<(Arc<Queue>, Done)>,
}

/// The flushes of a volume; see the module's documentation.
#[derive(Default)]
pub(super) struct Commit(Mutex<CommitState>);

impl Commit {
    /// Adds all of `batch`. Returns true if no thread is flushing: the caller must then see that [`Commit::run_once`]
    /// runs.
    pub(super) fn join(&self, batch: &mut Vec<Waiting>) -> bool {
        let mut state = self.0.lock();
        state.waiting.append(batch);
        !std::mem::replace(&mut state.running, true)
    }

    /// Flushes for all that wait, calls `between`, and completes them. Returns true if others have joined meanwhile: it
    /// must then be called again.
    pub(super) fn run_once(&self, between: impl FnOnce()) -> bool {
        let (mut batch, mut ended) = {
            let mut state = self.0.lock();
            let spare = std::mem::take(&mut state.spare);
            (std::mem::replace(&mut state.waiting, spare), std::mem::take(&mut state.ended))
        };
        if let Some(first) = batch.first() {
            let outcome = apply::flush(&*first.device, &first.request);
            between();
            // Drop the devices first: when a connection's thread sees nothing in flight, it must hold the last
            // reference.
            ended.extend(batch.drain(..).map(|w| (w.queue, Done::new(&w.request, outcome.clone(), None))));
            complete(&mut ended);
        }
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            state.running = false;
        }
        (state.spare, state.ended) = (batch, ended);
        state.running
    }
}

/// Completes requests; consecutive ones of the same connection together.
fn complete(ended: &mut Vec<(Arc<Queue>, Done)>) {
    let mut rest = ended.drain(..).peekable();
    while let Some((queue, first)) = rest.next() {
        let mut count = 1;
        let others = std::iter::from_fn(|| {
            let (_, next) = rest.next_if(|(other, _)| Arc::ptr_eq(other, &queue))?;
            count += 1;
            Some(next)
        });
        queue.front.complete(&mut std::iter::once(first).chain(others));
        queue.finished(count);
    }
}

/// Whether a connection's thread flushes itself, when nothing else is in flight: that saves a client with one request
/// at a time the trip to a worker and back, but delays a client that sends another request meanwhile.
#[derive(Debug, Default)]
pub(super) struct Alone {
    back_off: u32,
}

impl Alone {
    /// Whether to do this one here.
    pub(super) fn pays(&mut self) -> bool {
        self.back_off = self.back_off.saturating_sub(1);
        self.back_off == 0
    }

    /// Records the result; `held_up`: something else arrived meanwhile.
    pub(super) fn was(&mut self, held_up: bool) {
        if held_up {
            self.back_off = BACK_OFF;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_kept_others_waiting_leaves_flushes_to_the_workers_for_a_while() {
        let mut alone = Alone::default();
        for _ in 0..3 {
            assert!(alone.pays());
            alone.was(false);
        }
        alone.was(true);
        let left_alone = (0..2 * BACK_OFF).take_while(|_| !alone.pays()).count();
        assert_eq!(left_alone as u32, BACK_OFF - 1);
        assert!(alone.pays());
    }
}
