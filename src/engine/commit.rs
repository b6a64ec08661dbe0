//! What is to be made durable is made so together: FLUSH, and WRITE with FUA whose bytes are in the volume's file already.
//!
//! All connections of a volume share one [`Commit`]. What one read of a socket brings joins at once; one thread at a time flushes
//! for all that wait by then, and completes them together for each connection. Who joins meanwhile is covered by the next
//! flush, which begins after.

use super::apply;
use super::device::Device;
use super::done::Done;
use super::queue::Queue;
use super::request::Request;
use parking_lot::Mutex;
use std::sync::Arc;

/// Commits after one that kept other requests waiting, before a connection's thread does one itself again.
const BACK_OFF: u32 = 1000;

/// A request that needs nothing but a flush. Counted in its queue's `in_flight`.
pub(super) struct Waiting {
    pub(super) queue: Arc<Queue>,
    pub(super) device: Arc<dyn Device>,
    pub(super) request: Request,
}

#[derive(Default)]
struct CommitState {
    waiting: Vec<Waiting>,
    /// Somebody flushes, or is about to.
    running: bool,
    /// Empty, for their room.
    spare: Vec<Waiting>,
    ended: Vec<(Arc<Queue>, Done)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Commit(Mutex<CommitState>);

impl Commit {
    /// Takes all of `batch`. True: nobody flushes, and the caller has to see to it by [`Commit::run_once`].
    pub(super) fn join(&self, batch: &mut Vec<Waiting>) -> bool {
        let mut state = self.0.lock();
        state.waiting.append(batch);
        !std::mem::replace(&mut state.running, true)
    }

    /// Flushes for all that wait and answers them; `between` is called between the two. True: others have joined meanwhile, and
    /// somebody has to call this again.
    pub(super) fn run_once(&self, between: impl FnOnce()) -> bool {
        let (mut batch, mut ended) = {
            let mut state = self.0.lock();
            let spare = std::mem::take(&mut state.spare);
            (std::mem::replace(&mut state.waiting, spare), std::mem::take(&mut state.ended))
        };
        if let Some(first) = batch.first() {
            let outcome = apply::flush(&*first.device, &first.request);
            between();
            // Devices go first: when a connection's thread sees nothing in flight, it holds the last one.
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

/// Completes requests, those of one connection that follow one another together.
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

/// Whether a connection's thread flushes itself, when nothing else is in flight: that saves a client with one request at a time
/// the way to a worker and back, and makes one that sends another meanwhile wait.
#[derive(Debug, Default)]
pub(super) struct Alone {
    back_off: u32,
}

impl Alone {
    /// Whether to try it with this one.
    pub(super) fn pays(&mut self) -> bool {
        self.back_off = self.back_off.saturating_sub(1);
        self.back_off == 0
    }

    /// It was done; `held_up`: something else came meanwhile.
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
