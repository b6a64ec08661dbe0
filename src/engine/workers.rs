//! The workers: they do what would make a connection's thread wait, and complete requests as they finish.
//!
//! Each connection has a lane; workers serve the lanes in turn, and a lane occupies at most three quarters of the
//! workers, so that a connection with many slow requests does not stall the others. All lanes of a volume occupy at most
//! seven eighths (with eight workers or more), so that a volume whose chunks come from a repository that hangs does not stall the other volumes.

use super::clock::Ticks;
use super::commit::Waiting;
use super::done::Done;
use super::job::{Ended, Job};
use super::queue::Queue;
use super::scheduler::{Runner, VolumeScheduler};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Payload size from which the cost of another thread is small, in bytes.
const WORTH_A_PROCESSOR: u64 = 512 * 1024;

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    running: usize,
    /// Whether the lane is in `turn`, or among those that its volume's share keeps waiting.
    queued: bool,
    volume: VolumeKey,
}

/// Tells volumes apart: the address of a volume's scheduler, which the lane's requests keep alive.
type VolumeKey = usize;

/// The workers that a volume occupies.
#[derive(Default)]
struct Share {
    running: usize,
    /// Lanes that wait until it occupies fewer.
    waiting: Vec<u64>,
}

#[derive(Default)]
struct WorkersState {
    lanes: HashMap<u64, Lane>,
    /// The volumes that have requests in progress.
    shares: HashMap<VolumeKey, Share>,
    turn: VecDeque<Next>,
    stopping: bool,
}

/// An entry of the queue of turns.
enum Next {
    /// A connection's lane, for one request.
    Lane(u64),
    /// A volume with waiting flushes, for one of them.
    Commit(Arc<VolumeScheduler>),
}

/// What a worker does next.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and a box would be an allocation for each request")]
enum Task {
    Serve(Job),
    Commit(Arc<VolumeScheduler>),
}

/// The queues of the workers.
pub(super) struct Workers {
    state: Mutex<WorkersState>,
    work: Condvar,
    lane_limit: usize,
    volume_limit: usize,
    /// Requests that are queued or in progress.
    busy: AtomicUsize,
    processors: usize,
    ticks: Arc<dyn Ticks>,
}

impl Workers {
    pub(super) fn new(workers: usize, ticks: Arc<dyn Ticks>) -> Self {
        let lane_limit = (workers * 3 / 4).max(1);
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            lane_limit,
            // Another connection of the volume must have a worker too.
            volume_limit: (workers * 7 / 8).max(lane_limit + 1),
            busy: AtomicUsize::new(0),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ticks,
        }
    }

    /// Queues a request; if it overlaps an earlier write, it waits for its turn first.
    pub(super) fn push(&self, mut job: Job) {
        job.queue.began();
        let now = match &job.turn {
            Some(turn) => {
                let (scheduler, number) = (Arc::clone(&job.scheduler), turn.number);
                let stale_after = job.stale_after;
                job.wait_patiently();
                scheduler.order.wait(number, job).map(|job| Job { stale_after, ..job })
            }
            None => Some(job),
        };
        if let Some(job) = now {
            self.enqueue(job);
        }
    }

    /// Whether a connection's thread gains by handing a request with a payload of `len` bytes to a worker. Handing over
    /// has a cost: large requests may use all processors, smaller ones half of them.
    pub(super) fn has_room(&self, len: u64) -> bool {
        let most = if len >= WORTH_A_PROCESSOR { self.processors } else { (self.processors / 2).max(1) };
        self.busy.load(Ordering::Relaxed) < most
    }

    /// Gives a lane a turn if it has work and may use another worker.
    fn line_up(&self, state: &mut WorkersState, id: u64) {
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        if !lane.queued && !lane.jobs.is_empty() && lane.running < self.lane_limit {
            lane.queued = true;
            state.turn.push_back(Next::Lane(id));
            self.work.notify_one();
        }
    }

    /// Drops what a connection has queued and not begun.
    pub(super) fn cancel(&self, queue: &Queue) {
        let jobs = self.state.lock().lanes.get_mut(&queue.id).map(|lane| std::mem::take(&mut lane.jobs));
        let count = jobs.as_ref().map_or(0, VecDeque::len);
        self.busy.fetch_sub(count, Ordering::Relaxed);
        drop(jobs);
        queue.finished(count);
    }

    /// Forgets a connection that has nothing in flight.
    pub(super) fn forget(&self, queue: &Queue) {
        self.state.lock().lanes.remove(&queue.id);
    }

    /// Stops the workers once they are idle.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
    }

    /// Runs a worker, until it is stopped.
    pub(super) fn work(&self) {
        while let Some(task) = self.next() {
            let job = match task {
                Task::Serve(job) => job,
                Task::Commit(scheduler) => {
                    if scheduler.commit.run_once(|| ()) {
                        self.commit(scheduler);
                    }
                    continue;
                }
            };
            let (id, volume) = (job.queue.id, volume_of(&job));
            self.serve(job);
            self.busy.fetch_sub(1, Ordering::Relaxed);
            let mut state = self.state.lock();
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.running -= 1;
            }
            self.leave_share(&mut state, volume);
            self.line_up(&mut state, id);
        }
    }

    /// Takes a worker from a volume, and lets the lanes that waited for that try again.
    fn leave_share(&self, state: &mut WorkersState, volume: VolumeKey) {
        let Some(share) = state.shares.get_mut(&volume) else { return };
        share.running -= 1;
        let waiting = std::mem::take(&mut share.waiting);
        if share.running == 0 {
            state.shares.remove(&volume);
        }
        for id in waiting {
            state.turn.push_back(Next::Lane(id));
            self.work.notify_one();
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            while let Some(next) = state.turn.pop_front() {
                let id = match next {
                    Next::Lane(id) => id,
                    Next::Commit(scheduler) => return Some(Task::Commit(scheduler)),
                };
                let WorkersState { lanes, shares, .. } = &mut *state;
                let Some(lane) = lanes.get_mut(&id) else { continue };
                let share = shares.entry(lane.volume).or_default();
                if share.running >= self.volume_limit {
                    share.waiting.push(id); // still queued
                    continue;
                }
                lane.queued = false;
                let Some(job) = lane.jobs.pop_front() else { continue };
                lane.running += 1;
                share.running += 1;
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
        while job.queue.may_apply(self.ticks.now(), job.read_at, job.stale_after).is_ok() {
            ended = job.attempt();
            if ended.is_some() {
                break;
            }
            let scheduler = Arc::clone(&job.scheduler);
            match scheduler.hold(job) {
                Some(again) => job = again,
                None => return,
            }
        }
        let queue = Arc::clone(&job.queue);
        self.end(job, ended);
        queue.finished(1);
    }

    /// Completes it, or hands it to the commit of its volume.
    fn end(&self, mut job: Job, ended: Option<Ended>) {
        let (queue, request) = (Arc::clone(&job.queue), job.request);
        let (part, buf) = (job.part.take(), job.buf.take());
        let durable =
            part.as_ref().filter(|p| p.is_durable()).map(|_| (Arc::clone(&job.device), Arc::clone(&job.scheduler)));
        if matches!(ended, Some(Ended::Question)) {
            queue.front.query(&request, &*job.device);
        }
        // Leave the order and drop the device first: a client that got its reply may send an overlapping write, and
        // when the connection's thread sees nothing in flight, it must hold the last reference.
        drop(job);
        let Some(Ended::Outcome(outcome)) = ended else { return };
        let Some(part) = part else {
            return queue.front.complete(&mut std::iter::once(Done::new(&request, outcome, buf)));
        };
        if let (Some(request), Some((device, scheduler))) = (part.end(&queue, &request, outcome, buf), durable) {
            queue.began();
            if scheduler.commit.join(&mut vec![Waiting { queue, device, request }]) {
                self.commit(scheduler);
            }
        }
    }
}

fn volume_of(job: &Job) -> VolumeKey {
    Arc::as_ptr(&job.scheduler) as VolumeKey
}

impl Runner for Workers {
    /// Queues a request whose turn it is.
    fn enqueue(&self, job: Job) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        let (id, volume) = (job.queue.id, volume_of(&job));
        let lane = state.lanes.entry(id).or_default();
        lane.volume = volume;
        lane.jobs.push_back(job);
        self.line_up(&mut state, id);
    }

    /// At the end of the queue: others get their turn between two flushes.
    fn commit(&self, scheduler: Arc<VolumeScheduler>) {
        self.state.lock().turn.push_back(Next::Commit(scheduler));
        self.work.notify_one();
    }
}
