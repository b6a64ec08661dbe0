//! The thread on which a daemon does by itself what nobody asks for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often it does what is not urgent.
const MINUTE: Duration = Duration::from_secs(60);

/// What it does.
pub(super) trait Chores: Send + Sync {
    /// Closes volumes that nobody came back to; when it has to look again, if there are others.
    fn close_idle(&self) -> Option<Instant>;
    /// What is done once a minute.
    fn each_minute(&self);
}

/// The thread, once it was started.
#[derive(Default)]
pub(super) struct Housekeeper {
    thread: OnceLock<Thread>,
    /// It will look at the volumes again within a second: no need to wake it.
    soon: AtomicBool,
}

impl Housekeeper {
    /// Starts it; it ends with whoever has the chores done.
    pub(super) fn start(self: &Arc<Self>, chores: Weak<dyn Chores>) {
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("coffer-keep".into()).spawn(move || this.keep(&chores));
        match spawned {
            Ok(handle) => drop(self.thread.set(handle.thread().clone())),
            Err(err) => tracing::error!("start the housekeeping thread: {err}; idle volumes stay open"),
        }
    }

    /// A volume has become idle.
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
            // Before it looks: a volume that becomes idle behind the look wakes it.
            self.soon.store(false, Ordering::SeqCst);
            let next = here.close_idle();
            self.soon.fetch_or(next.is_some(), Ordering::SeqCst);
            if due <= Instant::now() {
                here.each_minute();
                due = Instant::now() + MINUTE;
            }
            drop(here);
            let until = next.map_or(due, |t| t.min(due));
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}
