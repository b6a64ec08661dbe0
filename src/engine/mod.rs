//! The engine between front ends and volumes: schedules requests, on which thread and in which order.
//!
//! A front end (NBD; ublk and vhost-user later) parses requests and sends replies. It drives one [`Submitter`] for each
//! connection from that connection's thread, and implements [`Front`], through which the engine completes what the
//! workers did. Below is a [`Device`], a volume or a snapshot in plain bytes. All devices of one volume share a
//! [`VolumeScheduler`], whatever front ends opened them; [`Engine`] keeps these.
//!
//! # The path of a request
//! ```text
//! Submitter::delay     limit       above the volume's limits: later
//! Submitter::buffer    budget      payload memory, or: later
//! Submitter::submit    order       a write's place; one that overlaps an earlier write waits for it
//!                      apply       done by the connection's thread if it need not wait, or
//!   Front::complete    workers     by a worker: job, parts, keywait (no key), commit (flushes in groups)
//! ```
//! [`budget`] bounds payload memory, [`Queue`] is a connection as its thread and the workers share it.

mod apply;
pub mod budget;
mod clock;
mod commit;
mod device;
mod done;
mod job;
mod keywait;
mod limit;
mod order;
mod parts;
mod queue;
mod request;
mod scheduler;
mod submit;
mod workers;

#[cfg(test)]
mod testing;

pub use apply::guarded;
pub use budget::Buf;
pub use clock::{SystemTicks, Ticks};
pub use device::{Attempt, Blocking, Device, Extent, PIECE, VolumeControl, Zeroing};
pub use done::{Data, Done, Failure};
pub use keywait::Load;
pub use limit::Delay;
pub use parts::{LARGEST_PART, Part, divide};
pub use queue::{Front, Queue, Severed};
pub use request::{Op, Request, Tag};
pub use scheduler::VolumeScheduler;
pub use submit::{Payload, Ready, Submitter};

use crate::units::VolumeId;
use budget::Budget;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use workers::Workers;

/// How long a client may leave buffers idle while others wait that have none.
const REST: Duration = Duration::from_secs(30);

/// How threads are spawned, by name.
pub type Spawn = Box<dyn Fn(&str, Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> + Send + Sync>;

/// Spawns a thread as the standard library does.
///
/// # Errors
/// If no thread can be created.
pub fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Configuration of an engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// Payload buffers of all connections, in bytes.
    pub budget: usize,
    /// Threads for requests that have to wait.
    pub workers: usize,
    /// Age above which a request is no longer applied, unless the device says otherwise.
    pub stale_after: Duration,
    /// The clock.
    pub ticks: Arc<dyn Ticks>,
}

/// Counters since the engine started.
#[derive(Debug, Default)]
struct Counters {
    inline: AtomicU64,
    queued: AtomicU64,
    stalls: AtomicU64,
    delays: AtomicU64,
}

/// The result of [`Engine::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Requests done by their connection's own thread.
    pub inline: u64,
    /// Requests handed to the workers.
    pub queued: u64,
    /// Times a connection had to wait for payload memory.
    pub stalls: u64,
    /// Requests delayed by their volume's limits.
    pub delays: u64,
    /// Bytes of payload memory in use now.
    pub budget_used: u64,
}

/// The engine; see the module's documentation.
pub struct Engine {
    config: EngineConfig,
    budget: Arc<Budget>,
    workers: Arc<Workers>,
    counters: Counters,
    /// One for each open volume.
    schedulers: Mutex<HashMap<VolumeId, Weak<VolumeScheduler>>>,
    queues: Mutex<HashMap<u64, Arc<Queue>>>,
    /// Notified when a connection ends, and when the engine stops.
    changed: Condvar,
    next_id: AtomicU64,
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("queues", &self.queues.lock().len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the workers and the tick.
    ///
    /// # Errors
    /// If a thread cannot be created; those started before are stopped.
    pub fn start(config: EngineConfig, spawn: &Spawn) -> std::io::Result<Arc<Self>> {
        let engine = Arc::new(Self {
            budget: Budget::new(config.budget),
            workers: Arc::new(Workers::new(config.workers, Arc::clone(&config.ticks))),
            counters: Counters::default(),
            schedulers: Mutex::default(),
            queues: Mutex::default(),
            changed: Condvar::new(),
            next_id: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            threads: Mutex::default(),
            config,
        });
        engine.start_threads(spawn).inspect_err(|_| engine.stop(true))?;
        Ok(engine)
    }

    fn start_threads(self: &Arc<Self>, spawn: &Spawn) -> std::io::Result<()> {
        for _ in 0..self.config.workers.max(1) {
            let workers = Arc::clone(&self.workers);
            self.threads.lock().push(spawn("io-worker", Box::new(move || workers.work()))?);
        }
        let engine = Arc::clone(self);
        self.threads.lock().push(spawn("io-tick", Box::new(move || engine.tick_until_stopped()))?);
        Ok(())
    }

    /// Starts shutting down: wakes all connections, which see it through [`Engine::is_stopping`].
    pub fn drain(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let queues = self.queues.lock();
        queues.values().for_each(|queue| queue.wake());
        self.changed.notify_all();
    }

    /// Stops the threads, after their current work; `wait`: waits for that. A worker stuck below could not be waited
    /// for; it ends with the process.
    pub fn stop(&self, wait: bool) {
        self.drain();
        self.workers.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        if wait {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }

    /// Whether [`Engine::drain`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn now(&self) -> Duration {
        self.config.ticks.now()
    }

    /// Returns a connection id that was never used before.
    pub fn draw_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers a connection. `None`: there are `most` already.
    pub fn connect(self: &Arc<Self>, id: u64, front: Arc<dyn Front>, most: usize) -> Option<Submitter> {
        let queue = Arc::new(Queue::new(id, front, &self.budget));
        {
            let mut queues = self.queues.lock();
            if queues.len() >= most {
                return None;
            }
            queues.insert(id, Arc::clone(&queue));
        }
        Some(Submitter::new(Arc::clone(self), queue))
    }

    /// Unregisters a connection that has ended.
    fn disconnected(&self, id: u64) {
        self.queues.lock().remove(&id);
        self.changed.notify_all();
    }

    /// Returns the number of connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.queues.lock().len()
    }

    /// Returns the connection with this id.
    #[must_use]
    pub fn queue(&self, id: u64) -> Option<Arc<Queue>> {
        self.queues.lock().get(&id).cloned()
    }

    /// Returns all connections.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.queues.lock().values().cloned().collect()
    }

    /// Waits for at most `limit` until there are no connections. Returns whether there are none.
    pub fn wait_for_connections(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut queues = self.queues.lock();
        while !queues.is_empty() {
            if self.changed.wait_until(&mut queues, deadline).timed_out() {
                return queues.is_empty();
            }
        }
        true
    }

    /// Whether a connection's client is gone; if so severs it, so that what it has not begun is dropped.
    fn has_hung_up(&self, id: u64) -> bool {
        self.queue(id).is_none_or(|queue| queue.severed().is_some() || queue.look_for_hangup().is_err())
    }

    /// Returns the scheduler of a device's volume.
    fn scheduler_of(&self, device: &dyn Device) -> Arc<VolumeScheduler> {
        let new = || {
            let scheduler = VolumeScheduler::new(Arc::clone(&self.workers) as _);
            device.scheduled(&(Arc::clone(&scheduler) as _));
            scheduler
        };
        let Some(volume) = device.volume() else { return new() };
        let mut all = self.schedulers.lock();
        all.retain(|_, scheduler| scheduler.strong_count() > 0);
        let scheduler = all.get(&volume).and_then(Weak::upgrade).unwrap_or_else(new);
        all.insert(volume, Arc::downgrade(&scheduler));
        scheduler
    }

    /// Returns the scheduler of a volume, if it has one.
    #[cfg(test)]
    pub(crate) fn scheduler(&self, volume: VolumeId) -> Option<Arc<VolumeScheduler>> {
        self.schedulers.lock().get(&volume).and_then(Weak::upgrade)
    }

    /// Returns the counters since the start.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let c = &self.counters;
        EngineStats {
            inline: of(&c.inline),
            queued: of(&c.queued),
            stalls: of(&c.stalls),
            delays: of(&c.delays),
            budget_used: self.budget.used() as u64,
        }
    }

    /// Returns the payload budget.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Runs once a second: after a gap (a stopped process, a paused machine) every request read before may have been
    /// resent already. Also severs connections whose held requests are too old.
    pub(crate) fn tick(&self, now: Duration, gap: Duration) {
        let short = self.budget.is_short();
        for queue in self.queues.lock().values() {
            if queue.rests(now) >= REST && short {
                queue.sever(Severed::Resting);
            }
            if gap > queue.stale_after.get().copied().unwrap_or(self.config.stale_after) {
                queue.sever(Severed::Stale);
            }
        }
        let schedulers: Vec<_> = self.schedulers.lock().values().filter_map(Weak::upgrade).collect();
        schedulers.iter().for_each(|scheduler| scheduler.key_wait.sever_stale(now));
    }

    fn tick_until_stopped(&self) {
        let mut last = self.now();
        let mut queues = self.queues.lock();
        while !self.stopping.load(Ordering::SeqCst) {
            self.changed.wait_for(&mut queues, Duration::from_secs(1));
            drop(queues);
            let now = self.now();
            self.tick(now, now.saturating_sub(last));
            last = now;
            queues = self.queues.lock();
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
