//! The workers of a server: they do what would make a connection's thread wait, and answer as they finish.
//!
//! Each connection has a lane; workers take from the lanes in turn, and one lane occupies at most three quarters of the
//! workers, so that a connection with many slow requests does not stall the others.

use super::errno::Hangup;
use super::export::Export;
use super::link::Link;
use super::serve::Ticks;
use super::session::Request;
use super::{apply, budget::Buf};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A request for the workers. Counted in its link's `in_flight` from [`Pool::push`] to its end.
pub(super) struct Job {
    pub(super) link: Arc<Link>,
    pub(super) export: Arc<dyn Export>,
    pub(super) request: Request,
    pub(super) buf: Option<Buf>,
    /// When the request was read, on the server's clock.
    pub(super) read_at: Duration,
    pub(super) stale_after: Duration,
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
    turn: VecDeque<u64>,
    stopping: bool,
}

/// The queue of a server's workers.
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    lane_limit: usize,
    ticks: Arc<dyn Ticks>,
}

impl Pool {
    pub(super) fn new(workers: usize, ticks: Arc<dyn Ticks>) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), lane_limit: (workers * 3 / 4).max(1), ticks }
    }

    pub(super) fn push(&self, job: Job) {
        job.link.began();
        let mut state = self.state.lock();
        let id = job.link.id;
        state.lanes.entry(id).or_default().jobs.push_back(job);
        self.line_up(&mut state, id);
    }

    /// Puts a lane in turn when it has work and may use another worker.
    fn line_up(&self, state: &mut State, id: u64) {
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        if !lane.queued && !lane.jobs.is_empty() && lane.running < self.lane_limit {
            lane.queued = true;
            state.turn.push_back(id);
            self.work.notify_one();
        }
    }

    /// Drops what a connection has queued and not begun.
    pub(super) fn cancel(&self, link: &Link) {
        let jobs = self.state.lock().lanes.get_mut(&link.id).map(|lane| std::mem::take(&mut lane.jobs));
        let count = jobs.as_ref().map_or(0, VecDeque::len);
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
        while let Some(job) = self.next() {
            let id = job.link.id;
            self.serve(job);
            let mut state = self.state.lock();
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.running -= 1;
            }
            self.line_up(&mut state, id);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            while let Some(id) = state.turn.pop_front() {
                let Some(lane) = state.lanes.get_mut(&id) else { continue };
                lane.queued = false;
                let Some(job) = lane.jobs.pop_front() else { continue };
                lane.running += 1;
                self.line_up(&mut state, id);
                return Some(job);
            }
            if state.stopping {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    fn serve(&self, job: Job) {
        let Job { link, export, request, buf, read_at, stale_after } = job;
        if self.ticks.now().saturating_sub(read_at) > stale_after {
            link.condemn(Hangup::Stale);
        }
        let contexts = link.contexts.get().map_or(&[][..], Vec::as_slice);
        let reply = (link.condemned().is_none()).then(|| apply::serve(&*export, &request, contexts, buf));
        // The export goes first: when the connection's thread sees nothing in flight, it holds the last one.
        drop(export);
        if let Some(reply) = reply
            && !link.send_one(reply)
        {
            link.waker.wake();
        }
        link.finished(1);
    }
}
