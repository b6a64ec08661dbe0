//! What a daemon does by itself, on one thread: closes volumes that nobody came back to, deletes CMKs whose time has come,
//! settles what of snapshots could not be settled before.

use super::Service;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often it looks for CMKs to delete.
const PURGE: Duration = Duration::from_secs(60);

/// The thread, once it was started.
#[derive(Default)]
pub(super) struct Housekeeper {
    thread: OnceLock<Thread>,
    /// It will look at the volumes again within a second: no need to wake it.
    soon: AtomicBool,
}

impl Housekeeper {
    /// Starts it; it ends with the service.
    pub(super) fn start(&self, service: Weak<Service>) {
        let spawned = std::thread::Builder::new().name("coffer-keep".into()).spawn(move || keep(&service));
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
}

fn keep(service: &Weak<Service>) {
    let mut purge = Instant::now() + PURGE;
    loop {
        let Some(here) = service.upgrade() else { return };
        // Before it looks: a volume that becomes idle behind the look wakes it.
        here.housekeeper.soon.store(false, Ordering::SeqCst);
        let next = here.close_idle();
        here.housekeeper.soon.fetch_or(next.is_some(), Ordering::SeqCst);
        if purge <= Instant::now() {
            here.settle_leftovers();
            if let Err(err) = here.kms.purge_due() {
                tracing::error!("delete CMKs whose time has come: {}", err.line());
            }
            here.settle_left();
            purge = Instant::now() + PURGE;
        }
        drop(here);
        let until = next.map_or(purge, |t| t.min(purge));
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}
