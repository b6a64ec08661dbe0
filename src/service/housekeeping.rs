//! The thread for a daemon's periodic chores.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Interval of the chores that are not urgent.
const MINUTE: Duration = Duration::from_secs(60);

/// The chores of a daemon.
pub(super) trait Chores: Send + Sync {
    /// Closes volumes that have been idle for long enough. Returns when to look again, if others are idle.
    fn close_idle(&self) -> Option<Instant>;
    /// Runs the chores that are due once a minute.
    fn each_minute(self: Arc<Self>);
}

/// The thread, once it is started.
#[derive(Default)]
pub(super) struct Housekeeper {
    thread: OnceLock<Thread>,
    /// Set if the thread will look at the volumes within a second, so that it need not be woken.
    soon: AtomicBool,
}

impl Housekeeper {
    /// Starts the thread. It ends when `chores` is dropped.
    pub(super) fn start(self: &Arc<Self>, chores: Weak<dyn Chores>) {
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("coffer-keep".into()).spawn(move || this.keep(&chores));
        match spawned {
            Ok(handle) => drop(self.thread.set(handle.thread().clone())),
            Err(err) => tracing::error!("start the housekeeping thread: {err}; idle volumes stay open"),
        }
    }

    /// Wakes the thread because a volume has become idle.
    pub(super) fn wake(&self) {
        if !self.soon.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn keep(&self, chores: &Weak<dyn Chores>) {
        let mut due = Instant::now() + MINUTE;
        loop {
            let Some(here) = chores.upgrade() else { return };
            // Cleared before the look: a volume that becomes idle after it wakes the thread.
            self.soon.store(false, Ordering::SeqCst);
            let next = here.close_idle();
            self.soon.fetch_or(next.is_some(), Ordering::SeqCst);
            if due <= Instant::now() {
                here.clone().each_minute();
                due = Instant::now() + MINUTE;
            }
            drop(here);
            let until = next.map_or(due, |t| t.min(due));
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}
