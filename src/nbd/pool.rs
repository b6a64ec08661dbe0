//! The workers of a server: they do what would make a connection's thread wait, and answer as they finish.
//!
//! Each connection has a lane; workers take from the lanes in turn, and one lane occupies at most three quarters of the
//! workers, so that a connection with many slow requests does not stall the others.

use super::apply::{self, Failure};
use super::budget::Buf;
use super::commit::Waiting;
use super::export::Export;
use super::hold::Load;
use super::link::{Link, Outgoing};
use super::parts::Part;
use super::serve::Ticks;
use super::session::Request;
use super::traffic::{Traffic, Turn};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Payload for which the price of another thread is small, bytes.
const LARGE: u64 = 512 * 1024;

/// A request for the workers. Counted in its link's `in_flight` from [`Pool::push`] to its end.
pub(super) struct Job {
    pub(super) link: Arc<Link>,
    pub(super) export: Arc<dyn Export>,
    pub(super) request: Request,
    pub(super) buf: Option<Buf>,
    /// When the request was read, on the server's clock.
    pub(super) read_at: Duration,
    pub(super) stale_after: Duration,
    /// Payload bytes of a WRITE that are applied.
    pub(super) done: usize,
    pub(super) traffic: Arc<Traffic>,
    /// Of a write: its place in the order, which it leaves when it is applied or dropped.
    pub(super) turn: Option<Turn>,
    /// What it counts against the volume's limit while requests are held.
    pub(super) load: Option<Load>,
    /// It is this part of a larger request.
    pub(super) part: Option<Part>,
    /// Who does it.
    pub(super) pool: Arc<Pool>,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    running: usize,
    /// Whether the lane stands in `turn`.
    queued: bool,
}

#[derive(Default)]
struct State {
    lanes: HashMap<u64, Lane>,
    turn: VecDeque<Next>,
    stopping: bool,
}

/// Whose turn it is.
enum Next {
    /// A connection's lane, for one request.
    Lane(u64),
    /// A volume with something to be made durable, for one flush.
    Commit(Arc<Traffic>),
}

/// What a worker does.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and a box would be an allocation for each request")]
enum Task {
    Serve(Job),
    Commit(Arc<Traffic>),
}

/// The queue of a server's workers.
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    lane_limit: usize,
    /// Requests that are queued or being done.
    busy: AtomicUsize,
    processors: usize,
    ticks: Arc<dyn Ticks>,
}

impl Pool {
    pub(super) fn new(workers: usize, ticks: Arc<dyn Ticks>) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            lane_limit: (workers * 3 / 4).max(1),
            busy: AtomicUsize::new(0),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ticks,
        }
    }

    /// Takes a request, which waits for its turn first if an earlier write overlaps it.
    pub(super) fn push(&self, mut job: Job) {
        job.link.began();
        let now = match &job.turn {
            Some(turn) => {
                let (traffic, number) = (Arc::clone(&job.traffic), turn.number);
                let stale_after = job.stale_after;
                job.wait_patiently();
                traffic.order.wait(number, job).map(|job| Job { stale_after, ..job })
            }
            None => Some(job),
        };
        if let Some(job) = now {
            self.enqueue(job);
        }
    }

    /// Whether a connection's thread gains by leaving a request with a payload of `len` bytes to a worker. What is handed over has
    /// its price: large ones may take all processors, smaller ones half of them.
    pub(super) fn has_room(&self, len: u64) -> bool {
        let most = if len >= LARGE { self.processors } else { (self.processors / 2).max(1) };
        self.busy.load(Ordering::Relaxed) < most
    }

    /// Takes a request whose turn it is.
    pub(super) fn enqueue(&self, job: Job) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        let id = job.link.id;
        state.lanes.entry(id).or_default().jobs.push_back(job);
        self.line_up(&mut state, id);
    }

    /// Has a volume's [`super::commit::Commit`] run until nothing waits; others have their turn between two flushes.
    pub(super) fn commit(&self, traffic: Arc<Traffic>) {
        self.state.lock().turn.push_back(Next::Commit(traffic));
        self.work.notify_one();
    }

    /// Puts a lane in turn when it has work and may use another worker.
    fn line_up(&self, state: &mut State, id: u64) {
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        if !lane.queued && !lane.jobs.is_empty() && lane.running < self.lane_limit {
            lane.queued = true;
            state.turn.push_back(Next::Lane(id));
            self.work.notify_one();
        }
    }

    /// Drops what a connection has queued and not begun.
    pub(super) fn cancel(&self, link: &Link) {
        let jobs = self.state.lock().lanes.get_mut(&link.id).map(|lane| std::mem::take(&mut lane.jobs));
        let count = jobs.as_ref().map_or(0, VecDeque::len);
        self.busy.fetch_sub(count, Ordering::Relaxed);
        drop(jobs);
        link.finished(count);
    }

    /// Forgets a connection that has nothing in flight.
    pub(super) fn forget(&self, link: &Link) {
        self.state.lock().lanes.remove(&link.id);
    }

    /// Ends the workers once they are idle.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
    }

    /// A worker's life.
    pub(super) fn work(&self) {
        while let Some(task) = self.next() {
            let job = match task {
                Task::Serve(job) => job,
                Task::Commit(traffic) => {
                    if traffic.commit.run_once(|| ()) {
                        self.commit(traffic);
                    }
                    continue;
                }
            };
            let id = job.link.id;
            self.serve(job);
            self.busy.fetch_sub(1, Ordering::Relaxed);
            let mut state = self.state.lock();
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.running -= 1;
            }
            self.line_up(&mut state, id);
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            while let Some(next) = state.turn.pop_front() {
                let id = match next {
                    Next::Lane(id) => id,
                    Next::Commit(traffic) => return Some(Task::Commit(traffic)),
                };
                let Some(lane) = state.lanes.get_mut(&id) else { continue };
                lane.queued = false;
                let Some(job) = lane.jobs.pop_front() else { continue };
                lane.running += 1;
                self.line_up(&mut state, id);
                return Some(Task::Serve(job));
            }
            if state.stopping {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    fn serve(&self, mut job: Job) {
        let mut ended = None;
        while job.link.may_apply(self.ticks.now(), job.read_at, job.stale_after).is_ok() {
            ended = job.attempt();
            if ended.is_some() {
                break;
            }
            let traffic = Arc::clone(&job.traffic);
            match traffic.hold(job) {
                Some(again) => job = again,
                None => return,
            }
        }
        let link = Arc::clone(&job.link);
        self.end(job, ended);
        link.finished(1);
    }

    /// Answers, or hands over to who will.
    fn end(&self, mut job: Job, ended: Option<Ended>) {
        let (link, request) = (Arc::clone(&job.link), job.request);
        let (part, buf) = (job.part.take(), job.buf.take());
        let durable =
            part.as_ref().filter(|p| p.is_durable()).map(|_| (Arc::clone(&job.export), Arc::clone(&job.traffic)));
        // Its place in the order and the export go first: who is answered may send what overlaps, and when the connection's
        // thread sees nothing in flight, it holds the last export.
        drop(job);
        match (ended, part) {
            (Some(Ended::Answered(reply)), _) => link.answer(reply),
            (Some(Ended::Part(outcome)), Some(part)) => {
                if let (Some(request), Some((export, traffic))) = (part.end(&link, &request, outcome, buf), durable) {
                    link.began();
                    if traffic.commit.join(&mut vec![Waiting { link, export, request }]) {
                        self.commit(traffic);
                    }
                }
            }
            _ => {}
        }
    }
}

/// How a worker's attempt ended.
enum Ended {
    Answered(Outgoing),
    /// A part of a request has no reply of its own.
    Part(Result<(), Failure>),
}

impl Job {
    /// It waits for a key, or in the order of writes for what does. How long makes no difference to the order, for it has its
    /// place there. Only a client whose request timeout is known sends it again meanwhile: of that one it gets too old.
    pub(super) fn wait_patiently(&mut self) {
        if self.export.stale_after().is_none() {
            self.stale_after = Duration::MAX;
        }
    }

    /// Does it, as far as it is not done. `None`: its key is away.
    fn attempt(&mut self) -> Option<Ended> {
        if self.part.is_some() {
            let outcome = apply::finish(&*self.export, &self.request, self.buf.as_deref_mut(), &mut self.done);
            return outcome.map(Ended::Part);
        }
        let contexts = self.link.contexts.get().map_or(&[][..], Vec::as_slice);
        apply::serve(&*self.export, &self.request, contexts, &mut self.buf, &mut self.done).map(Ended::Answered)
    }
}
