//! One connection's way into the engine, driven by the connection's own thread.

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

/// Smallest READ or WRITE that is worth handing to a worker while this thread serves the next one, bytes.
const SHARE_MIN: u64 = 64 * 1024;

/// What a request has with it besides itself.
#[derive(Debug, Default)]
pub struct Payload {
    /// Of a READ or WRITE of more than 0 bytes.
    pub buf: Option<Buf>,
    /// See [`Submitter::buffer`].
    pub load: Option<Load>,
    /// It is a part of a larger request.
    pub part: Option<Part>,
}

/// A request, with what it needs to be done.
#[derive(Debug)]
pub struct Ready {
    /// What is asked for.
    pub request: Request,
    /// With what.
    pub payload: Payload,
    /// When it was read, by [`Submitter::now`].
    pub read_at: Duration,
}

/// An open device, and what its volume's connections share.
struct Open {
    device: Arc<dyn Device>,
    scheduler: Arc<VolumeScheduler>,
    stale_after: Duration,
}

/// See the module. Dropped when the connection has ended.
pub struct Submitter {
    engine: Arc<Engine>,
    queue: Arc<Queue>,
    open: Option<Open>,
    watch: Watch,
    /// What is to be made durable, once all that was read has been looked at.
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

    /// The connection as the workers see it.
    #[must_use]
    pub const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The time, on the engine's clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.engine.now()
    }

    /// From now on requests are for `device`. To be called once, before the first of them.
    pub fn open(&mut self, device: Arc<dyn Device>) {
        let scheduler = self.engine.scheduler_of(&*device);
        let stale_after = device.stale_after().unwrap_or(self.engine.config.stale_after);
        let _ = self.queue.stale_after.set(stale_after);
        self.queue.holder.join(&scheduler.share);
        self.open = Some(Open { device, scheduler, stale_after });
    }

    /// Age at which a request is not applied any more.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        self.open.as_ref().map_or(self.engine.config.stale_after, |open| open.stale_after)
    }

    /// Whether requests of the volume wait for its key.
    #[must_use]
    pub fn waits_for_key(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.scheduler.key_wait.is_holding())
    }

    /// When a request may begin, if the volume's limits put it off. To be asked once a request.
    #[must_use]
    pub fn delay(&self, request: &Request) -> Option<Delay> {
        let delay = self.open.as_ref()?.scheduler.limit.delay(self.now(), request)?;
        self.engine.counters.delays.fetch_add(1, Ordering::Relaxed);
        Some(delay)
    }

    /// Whether the limits have changed since: [`Submitter::delay`] is to be asked again.
    #[must_use]
    pub fn has_changed(&self, delay: &Delay) -> bool {
        self.open.as_ref().is_none_or(|open| open.scheduler.limit.has_changed(delay))
    }

    /// A buffer for a request that carries `len` bytes, and what it counts against the volume while requests of it wait for
    /// their key. `None`: nothing more is to be read until [`super::Front::wake`].
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

    /// Does a request, here if that needs no waiting, and then it is answered by its [`Done`]; else by the workers. `more`: this
    /// thread has other things to do than the request, if a worker would do it.
    ///
    /// # Errors
    /// The connection is severed.
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
        // Parts are the workers': they are many, and this thread is to hear what else its client asks for.
        let small = request.carries() && request.len <= LARGEST_PART && part.is_none();
        // With more behind it, a large one is left to a worker, and both go on at once.
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
        // What is to be durable is written here, and flushed together with others.
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

    /// Counts a request in, a change with its place in the order. Only then it is asked whether it may still be applied: what was
    /// found out before might not be so any more, and a newer write answered meanwhile.
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

    /// A place behind the writes of clients that have hung up: once a FLUSH is answered, none of them may land any more.
    fn behind_the_gone(&self) -> Option<OrderTicket> {
        let order = &self.open.as_ref()?.scheduler.order;
        let mut others = order.others(self.queue.id);
        others.retain(|id| self.engine.has_hung_up(*id));
        (!others.is_empty()).then(|| order.enter_behind(self.queue.id, others))
    }

    /// Leaves a request to the workers; of a WRITE, `done` bytes are applied.
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

    /// Has what was collected made durable: by a worker, or, where there is nothing else to do, here. To be called when all that was
    /// read has been submitted. `more`: there is something else to do; `came`: whether by now there is.
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

    /// The client ends the connection in order: what waits for a key is dropped, what is in flight else ends.
    pub fn leave(&self) {
        if let Some(open) = &self.open {
            open.scheduler.let_go(&self.queue);
        }
    }

    /// The connection is cut: what has not begun is dropped.
    pub fn cancel(&mut self) {
        self.queue.finished(self.commits.drain(..).count());
        // What waits for its turn goes first: else what is queued makes way for it, into the queue.
        if let Some(open) = &self.open {
            open.scheduler.cancel(&self.queue);
        }
        self.engine.workers.cancel(&self.queue);
    }

    /// Nothing is in flight any more: lets go of the device and of the place in the budget.
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

/// Whether a request is a WRITE that is to be durable.
const fn is_durable(request: &Request) -> bool {
    request.fua && request.carries() && matches!(request.op, Op::Write)
}
