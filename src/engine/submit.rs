//! A connection's interface to the engine, driven by the connection's own thread.

use super::Engine;
use super::apply;
use super::budget::Buf;
use super::commit::{Alone, Waiting};
use super::device::{Attempt, Blocking, Device};
use super::done::{Done, Failure};
use super::job::Job;
use super::keywait::Load;
use super::limit::Delay;
use super::order::{OrderTicket, Watch};
use super::parts::{LARGEST_PART, Part};
use super::queue::{Queue, Severed};
use super::request::{Op, Request};
use super::scheduler::{Runner, Turn, VolumeScheduler};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Smallest READ or WRITE that is handed to a worker while this thread serves the next one, in bytes.
const SHARE_MIN: u64 = 64 * 1024;

/// What comes with a request.
#[derive(Debug, Default)]
pub struct Payload {
    /// The buffer of a READ or WRITE of more than 0 bytes.
    pub buf: Option<Buf>,
    /// The charge from [`Submitter::buffer`].
    pub load: Option<Load>,
    /// It is a part of a larger request.
    pub part: Option<Part>,
}

/// A request that is ready to be done.
#[derive(Debug)]
pub struct Ready {
    /// The request.
    pub request: Request,
    /// Its payload.
    pub payload: Payload,
    /// When it was read, on the engine's clock.
    pub read_at: Duration,
}

/// An open device, and the state shared by its volume's connections.
struct Open {
    device: Arc<dyn Device>,
    scheduler: Arc<VolumeScheduler>,
    stale_after: Duration,
}

/// A connection's interface to the engine. Drop it when the connection has ended.
pub struct Submitter {
    engine: Arc<Engine>,
    queue: Arc<Queue>,
    open: Option<Open>,
    watch: Watch,
    /// Requests to be made durable, once all that was read has been processed.
    commits: Vec<Waiting>,
    alone: Alone,
}

impl std::fmt::Debug for Submitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submitter").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Submitter {
    pub(super) fn new(engine: Arc<Engine>, queue: Arc<Queue>) -> Self {
        let (watch, alone) = (Watch::default(), Alone::default());
        Self { engine, queue, open: None, watch, commits: Vec::new(), alone }
    }

    /// Returns the connection as the workers see it.
    #[must_use]
    pub const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Returns the time on the engine's clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.engine.now()
    }

    /// Sets the device of all requests. Call it once, before the first of them.
    pub fn open(&mut self, device: Arc<dyn Device>) {
        let scheduler = self.engine.scheduler_of(&*device);
        let stale_after = device.stale_after().unwrap_or(self.engine.config.stale_after);
        let _ = self.queue.stale_after.set(stale_after);
        self.queue.holder.join(&scheduler.share);
        self.open = Some(Open { device, scheduler, stale_after });
    }

    /// Returns the age above which a request is no longer applied.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        self.open.as_ref().map_or(self.engine.config.stale_after, |open| open.stale_after)
    }

    /// Whether requests of the volume wait for its key.
    #[must_use]
    pub fn waits_for_key(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.scheduler.key_wait.is_holding())
    }

    /// Returns when a request may begin, if the volume's limits delay it. Call it once per request.
    #[must_use]
    pub fn delay(&self, request: &Request) -> Option<Delay> {
        let delay = self.open.as_ref()?.scheduler.limit.delay(self.now(), request)?;
        self.engine.counters.delays.fetch_add(1, Ordering::Relaxed);
        Some(delay)
    }

    /// Whether the limits have changed since: then [`Submitter::delay`] must be called again.
    #[must_use]
    pub fn has_changed(&self, delay: &Delay) -> bool {
        self.open.as_ref().is_none_or(|open| open.scheduler.limit.has_changed(delay))
    }

    /// Takes a buffer for a payload of `len` bytes, and the charge to the volume's limit while requests wait for its
    /// key. `None`: read nothing more until [`super::Front::wake`].
    #[must_use]
    pub fn buffer(&self, len: usize) -> Option<(Buf, Option<Load>)> {
        let found = self.try_buffer(len);
        if found.is_none() {
            self.engine.counters.stalls.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    fn try_buffer(&self, len: usize) -> Option<(Buf, Option<Load>)> {
        let key_wait = self.open.as_ref().map(|open| &open.scheduler.key_wait).filter(|wait| wait.is_holding());
        let limit = self.engine.config.budget / 8;
        let load = match key_wait {
            Some(wait) => Some(wait.load(&self.queue, len, limit)?),
            None => None,
        };
        Some((self.queue.holder.take(len)?, load))
    }

    /// Does a request: here if it need not wait, and then its [`Done`] is returned; else by the workers. `more`: this
    /// thread has other things to do if a worker takes the request.
    ///
    /// # Errors
    /// The reason why the connection is severed.
    pub fn submit(&mut self, ready: Ready, more: bool) -> Result<Option<Done>, Severed> {
        let Ready { request, payload, read_at } = ready;
        let place = self.take_place(&request, read_at)?;
        if request.op == Op::Flush {
            match self.behind_the_gone() {
                None => {
                    self.engine.counters.queued.fetch_add(1, Ordering::Relaxed);
                    self.join_commit(request);
                }
                place => self.hand_over(Ready { request, payload, read_at }, place, 0),
            }
            return Ok(None);
        }
        let Payload { mut buf, load, part } = payload;
        // Parts go to the workers: they are many, and this thread must see what else its client asks for.
        let small = request.carries() && request.len <= LARGEST_PART && part.is_none();
        // If more is pending, a large request goes to a worker, so that both proceed at once.
        let shared = request.len >= SHARE_MIN && more && self.engine.workers.has_room(request.len);
        let mut done = 0;
        if (request.len == 0 || (small && !shared)) && place.is_none_or(|p| p.free) {
            match self.try_here(&request, buf.as_deref_mut(), &mut done) {
                Ok(Attempt::WouldBlock | Attempt::KeyAway) => {}
                outcome => return Ok(self.done_here(&request, place, outcome.map(drop), buf)),
            }
        }
        self.hand_over(Ready { request, payload: Payload { buf, load, part }, read_at }, place, done);
        Ok(None)
    }

    fn try_here(&self, request: &Request, buf: Option<&mut [u8]>, done: &mut usize) -> Result<Attempt, Failure> {
        let Some(open) = &self.open else { return Err(Failure::unfinished()) };
        // A WRITE with FUA is written here, and flushed together with others.
        let plain = Request { fua: request.fua && !is_durable(request), ..*request };
        apply::apply(&*open.device, &plain, buf, done, Blocking::Never)
    }

    fn done_here(
        &mut self,
        request: &Request,
        place: Option<OrderTicket>,
        outcome: Result<(), Failure>,
        buf: Option<Buf>,
    ) -> Option<Done> {
        if let (Some(place), Some(open)) = (place, &self.open) {
            open.scheduler.leave(place.number);
        }
        self.engine.counters.inline.fetch_add(1, Ordering::Relaxed);
        if is_durable(request) && outcome.is_ok() {
            self.join_commit(*request);
            return None;
        }
        Some(Done::new(request, outcome, buf))
    }

    /// Registers a request, a change with its place in the order. Only then checks whether it may still be applied: an
    /// earlier check could be outdated by now, and a newer write already answered.
    fn take_place(&mut self, request: &Request, read_at: Duration) -> Result<Option<OrderTicket>, Severed> {
        let Some(Open { scheduler, stale_after, .. }) = &self.open else { return Err(Severed::Lost) };
        let place = request.changes().then(|| scheduler.order.enter(self.queue.id, request.offset, request.len));
        let looked = match place {
            Some(place) if self.watch.has_company(place.arrival) => self.queue.look_for_hangup(),
            Some(_) => Ok(()),
            None => {
                self.watch.passed(scheduler.order.arrive());
                Ok(())
            }
        };
        let may = looked.and_then(|()| self.queue.may_apply(self.engine.now(), read_at, *stale_after));
        if let (Err(_), Some(place)) = (&may, place) {
            scheduler.leave(place.number);
        }
        may.map(|()| place)
    }

    /// Takes a place after the writes of clients that have hung up: once a FLUSH is answered, none of them may be
    /// applied any more.
    fn behind_the_gone(&self) -> Option<OrderTicket> {
        let order = &self.open.as_ref()?.scheduler.order;
        let mut others = order.others(self.queue.id);
        others.retain(|id| self.engine.has_hung_up(*id));
        (!others.is_empty()).then(|| order.enter_behind(self.queue.id, others))
    }

    /// Hands a request to the workers; `done` bytes of a WRITE are applied already.
    fn hand_over(&self, ready: Ready, place: Option<OrderTicket>, done: usize) {
        let Some(Open { device, scheduler, stale_after }) = &self.open else { return };
        self.engine.counters.queued.fetch_add(1, Ordering::Relaxed);
        let Ready { request, payload: Payload { buf, load, part }, read_at } = ready;
        let (queue, device, scheduler) = (Arc::clone(&self.queue), Arc::clone(device), Arc::clone(scheduler));
        let turn = place.map(|p| Turn { scheduler: Arc::clone(&scheduler), number: p.number });
        let stale_after = *stale_after;
        let job = Job { queue, device, request, buf, read_at, stale_after, done, scheduler, turn, load, part };
        self.engine.workers.push(job);
    }

    fn join_commit(&mut self, request: Request) {
        let Some(open) = &self.open else { return };
        self.queue.began();
        let (queue, device) = (Arc::clone(&self.queue), Arc::clone(&open.device));
        self.commits.push(Waiting { queue, device, request });
    }

    /// Makes the collected requests durable: by a worker, or here if there is nothing else to do. Call it when
    /// everything that was read has been submitted. `more`: there is something else to do; `came`: whether there is by
    /// now.
    pub fn commit(&mut self, more: bool, came: impl FnOnce() -> bool) {
        let Some(open) = self.open.as_ref().filter(|_| !self.commits.is_empty()) else { return };
        let only = self.commits.len() == 1 && !more && self.queue.in_flight() == 1;
        let scheduler = Arc::clone(&open.scheduler);
        if !scheduler.commit.join(&mut self.commits) {
            return;
        }
        if !only || !self.alone.pays() {
            return self.engine.workers.commit(scheduler);
        }
        let mut held_up = false;
        if scheduler.commit.run_once(|| held_up = came()) {
            self.engine.workers.commit(scheduler);
        }
        self.alone.was(held_up);
    }

    /// Disconnects cleanly: drops what waits for a key; everything else in flight finishes.
    pub fn leave(&self) {
        if let Some(open) = &self.open {
            open.scheduler.let_go(&self.queue);
        }
    }

    /// Cancels what has not begun, when the connection is cut.
    pub fn cancel(&mut self) {
        self.queue.finished(self.commits.drain(..).count());
        // What waits for its turn first: if queued jobs were dropped before it, it would move into the queue.
        if let Some(open) = &self.open {
            open.scheduler.cancel(&self.queue);
        }
        self.engine.workers.cancel(&self.queue);
    }

    /// Releases the device and the account with the budget, when nothing is in flight any more.
    pub fn close(&mut self) {
        self.engine.workers.forget(&self.queue);
        self.queue.holder.leave();
        self.open = None;
    }
}

impl Drop for Submitter {
    fn drop(&mut self) {
        self.engine.disconnected(self.queue.id);
    }
}

/// Whether a request is a WRITE that must be durable.
const fn is_durable(request: &Request) -> bool {
    request.fua && request.carries() && matches!(request.op, Op::Write)
}
