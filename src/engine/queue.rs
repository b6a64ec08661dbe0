//! A connection as its own thread and the workers share it: its requests in flight, and what ends it.

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

/// A front end's side of a connection. Called from any thread.
pub trait Front: Send + Sync {
    /// Answers completed requests, together where they can be sent together.
    fn complete(&self, done: &mut dyn Iterator<Item = Done>);
    /// Whether it takes the parts of this READ as they come, through [`Front::part`], and then its end without data.
    fn streams(&self, request: &Request) -> bool;
    /// Sends a part of a READ that streams: the bytes from `offset` on.
    fn part(&self, request: &Request, offset: u64, data: Buf);
    /// Answers a [`super::Op::Query`].
    fn query(&self, request: &Request, device: &dyn Device);
    /// Whether its client is gone, even if requests of it are still unread.
    fn has_hung_up(&self) -> bool;
    /// Called when the connection is severed: nothing that has not begun is applied any more, it must end, and replies
    /// are dropped. May be called again.
    fn severed(&self, why: Severed);
    /// Returns the bytes received and sent so far.
    fn moved(&self) -> u64;
    /// Wakes the connection's own thread.
    fn wake(&self);
}

/// Why nothing more of a connection is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Severed {
    /// A request was read too long ago to be applied safely; the client must resend it.
    #[error("request too old to apply")]
    Stale,
    /// Its client is gone, or violated the front end's protocol.
    #[error("connection lost")]
    Lost,
    /// It left buffers idle that others were waiting for.
    #[error("replies left unread or a payload unsent while others waited for buffers")]
    Resting,
    /// Its lease was broken, or a newer connection replaced it.
    #[error("connection displaced")]
    Displaced,
    /// The engine is stopping.
    #[error("server shutdown")]
    Shutdown,
}

/// A connection's shared state; see the module's documentation.
pub struct Queue {
    pub(super) id: u64,
    pub(super) front: Arc<dyn Front>,
    /// Its account with the payload budget.
    pub(super) holder: Arc<BudgetShare>,
    in_flight: AtomicUsize,
    /// The connection's thread wants to be woken by each completion.
    eager: AtomicBool,
    severed: OnceLock<Severed>,
    /// Age limit of requests, once a device is open.
    pub(super) stale_after: OnceLock<Duration>,
    /// The value of [`Front::moved`] at the last progress, and when that was.
    resting: Mutex<(u64, Duration)>,
    /// It is disconnecting cleanly: nothing of it is held for a key any more.
    leaving: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("id", &self.id).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(id: u64, front: Arc<dyn Front>, budget: &Arc<Budget>) -> Self {
        // Not the front end itself: its unsent replies hold buffers, and these the account.
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

    /// Severs the connection: nothing that has not begun is applied any more.
    pub fn sever(&self, why: Severed) {
        let _ = self.severed.set(why);
        self.front.severed(why);
    }

    /// Returns why it is severed, if it is.
    #[must_use]
    pub fn severed(&self) -> Option<Severed> {
        self.severed.get().copied()
    }

    /// Severs it if its client is gone, even if requests of it are still unread.
    pub(super) fn look_for_hangup(&self) -> Result<(), Severed> {
        if self.front.has_hung_up() {
            self.sever(Severed::Lost);
            return Err(Severed::Lost);
        }
        Ok(())
    }

    /// Whether a request that was read at `read_at` may be applied now. For a change, call it only once it has its
    /// place in the order of writes: then anything newer that overlaps it waits until it is applied or dropped.
    pub(super) fn may_apply(&self, now: Duration, read_at: Duration, stale_after: Duration) -> Result<(), Severed> {
        if now.saturating_sub(read_at) > stale_after {
            self.sever(Severed::Stale);
        }
        self.severed().map_or(Ok(()), Err)
    }

    /// Returns how long its client has left buffers idle: unread replies or an unsent payload, while nothing of it is
    /// in progress. Called every second.
    pub(super) fn rests(&self, now: Duration) -> Duration {
        let moved = self.front.moved();
        let mut resting = self.resting.lock();
        if self.holder.held() == 0 || self.in_flight() > 0 || moved - resting.0 >= ENOUGH {
            *resting = (moved, now);
        }
        now.saturating_sub(resting.1)
    }

    /// Whether it is disconnecting cleanly.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Returns the number of requests handed to the workers and not finished.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// Called after `n` requests were answered or dropped.
    pub(super) fn finished(&self, n: usize) {
        self.in_flight.fetch_sub(n, Ordering::SeqCst);
        if self.eager.load(Ordering::SeqCst) {
            self.front.wake();
        }
    }

    /// Sets whether each completion wakes the connection's thread. Set it before checking [`Queue::in_flight`].
    pub fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::SeqCst);
    }

    /// Wakes the connection's thread.
    pub fn wake(&self) {
        self.front.wake();
    }
}
