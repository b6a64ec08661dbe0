//! The requests of one connection, as its own thread and the workers share them: how many are in flight, and what ends them.

use super::budget::{Budget, BudgetShare, Buf};
use super::device::Device;
use super::done::Done;
use super::request::Request;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes that count as progress.
const ENOUGH: u64 = 64 * 1024;

/// What a front end does for one of its connections. Called from any thread.
pub trait Front: Send + Sync {
    /// These requests have ended: answer them, together where they can go out together.
    fn complete(&self, done: &mut dyn Iterator<Item = Done>);
    /// Whether it takes the parts of this READ as they come, by [`Front::part`], and its end without data after them.
    fn streams(&self, request: &Request) -> bool;
    /// Part of a READ that streams: the bytes from `offset` on.
    fn part(&self, request: &Request, offset: u64, data: Buf);
    /// Answers a [`super::Op::Query`].
    fn query(&self, request: &Request, device: &dyn Device);
    /// Whether its client is gone, though requests of it may be unread.
    fn has_hung_up(&self) -> bool;
    /// Nothing of it is applied any more that has not begun: it is to end, and answers go nowhere. May be called again.
    fn severed(&self, why: Severed);
    /// Bytes that came in and went out so far.
    fn moved(&self) -> u64;
    /// Wakes the connection's own thread.
    fn wake(&self);
}

/// Why nothing more of a connection is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Severed {
    /// A request was read too long ago to be applied safely; the client is to send it again.
    #[error("request too old to apply")]
    Stale,
    /// Its client is gone, or broke the front end's protocol.
    #[error("connection lost")]
    Lost,
    /// It let buffers lie that others waited for.
    #[error("replies left unread or a payload unsent while others waited for buffers")]
    Resting,
    /// Its lease was broken, or a newer connection took its place.
    #[error("connection displaced")]
    Displaced,
    /// The engine ends.
    #[error("server shutdown")]
    Shutdown,
}

/// See the module.
pub struct Queue {
    pub(super) id: u64,
    pub(super) front: Arc<dyn Front>,
    /// Its part in the budget.
    pub(super) holder: Arc<BudgetShare>,
    in_flight: AtomicUsize,
    /// The connection's thread wants to hear of each completion.
    eager: AtomicBool,
    severed: OnceLock<Severed>,
    /// How old a request may get, once a device is open.
    pub(super) stale_after: OnceLock<Duration>,
    /// What [`Front::moved`] said when enough had moved, and when that was.
    resting: Mutex<(u64, Duration)>,
    /// It ends in order: nothing of it is held for a key any more.
    leaving: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("id", &self.id).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(id: u64, front: Arc<dyn Front>, budget: &Arc<Budget>) -> Self {
        // Not the front itself: replies that it has not sent hold the holder.
        let woken = Arc::downgrade(&front);
        let holder = budget.join(move || {
            let _ = woken.upgrade().map(|front| front.wake());
        });
        Self {
            id,
            front,
            holder,
            in_flight: AtomicUsize::new(0),
            eager: AtomicBool::new(false),
            severed: OnceLock::new(),
            stale_after: OnceLock::new(),
            resting: Mutex::default(),
            leaving: AtomicBool::new(false),
        }
    }

    /// From now on nothing of this connection is applied that has not begun.
    pub fn sever(&self, why: Severed) {
        let _ = self.severed.set(why);
        self.front.severed(why);
    }

    /// Why it is severed, if it is.
    #[must_use]
    pub fn severed(&self) -> Option<Severed> {
        self.severed.get().copied()
    }

    /// Severs it if its client is gone, though requests of it may be unread.
    pub(super) fn look_for_hangup(&self) -> Result<(), Severed> {
        if self.front.has_hung_up() {
            self.sever(Severed::Lost);
            return Err(Severed::Lost);
        }
        Ok(())
    }

    /// Whether a request that was read at `read_at` may be applied now. Of a change this is asked when it has its place in the
    /// order of writes, never before: whatever is newer and overlaps it waits then until it is applied or dropped.
    pub(super) fn may_apply(&self, now: Duration, read_at: Duration, stale_after: Duration) -> Result<(), Severed> {
        if now.saturating_sub(read_at) > stale_after {
            self.sever(Severed::Stale);
        }
        self.severed().map_or(Ok(()), Err)
    }

    /// For how long its client has let buffers lie: replies that it does not read, or a payload that it does not send, while
    /// nothing of it is being done. Asked every second.
    pub(super) fn rests(&self, now: Duration) -> Duration {
        let moved = self.front.moved();
        let mut resting = self.resting.lock();
        if self.holder.held() == 0 || self.in_flight() > 0 || moved - resting.0 >= ENOUGH {
            *resting = (moved, now);
        }
        now.saturating_sub(resting.1)
    }

    /// Whether it ends in order.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Requests handed to the workers and not finished.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// `n` requests ended: answered, or dropped.
    pub(super) fn finished(&self, n: usize) {
        self.in_flight.fetch_sub(n, Ordering::SeqCst);
        if self.eager.load(Ordering::SeqCst) {
            self.front.wake();
        }
    }

    /// Whether each completion shall wake the connection's thread. Set it before looking at [`Queue::in_flight`].
    pub fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::SeqCst);
    }

    /// Makes its thread look again.
    pub fn wake(&self) {
        self.front.wake();
    }
}
