//! Bounds on what is read from a remote repository at the same time: slots for bulk reads, and threads for reading ahead.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Requests of bulk reads at the same time, in one repository, and threads that read ahead.
pub(super) const IN_FLIGHT: usize = 16;
/// Most reads ahead that wait for a thread: more would come too late.
const WAITING: usize = 64;
/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// A counting semaphore.
pub(super) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One slot, held until this is dropped.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

impl Slots {
    pub(super) const fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Takes a slot, waiting for one.
    pub(super) fn take(&self) -> Slot<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Slot(self)
    }
}

/// What a thread is to do.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Threads that read ahead: at most [`IN_FLIGHT`], started when needed and ended when idle.
#[derive(Default)]
pub(super) struct Fetchers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    added: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// Uncounts a thread, however it ends.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.queue.lock().threads -= 1;
    }
}

impl Fetchers {
    /// Queues a job for a thread, without waiting. `false`: there is too much to do already, and it is dropped.
    pub(super) fn submit(&self, job: Job) -> bool {
        let mut queue = self.0.queue.lock();
        if queue.jobs.len() >= WAITING {
            return false;
        }
        if queue.idle <= queue.jobs.len() && queue.threads < IN_FLIGHT {
            queue.threads += 1;
            let counted = Counted(Arc::clone(&self.0));
            let run = move || counted.0.run();
            drop(queue);
            // If it cannot be started, dropping it uncounts it.
            let started = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(run).is_ok();
            queue = self.0.queue.lock();
            if !started && queue.threads == 0 {
                return false;
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.added.notify_one();
        true
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                queue.idle += 1;
                let waited = self.added.wait_for(&mut queue, IDLE);
                queue.idle -= 1;
                if waited.timed_out() && queue.jobs.is_empty() {
                    return;
                }
            };
            drop(queue);
            // Its panic was reported, and the jobs behind it still need a thread.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        }
    }
}

#[cfg(test)]
#[path = "fetchers_tests.rs"]
mod tests;
