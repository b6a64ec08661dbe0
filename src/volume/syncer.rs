//! The one syncer of a volume: groups flushes into one `fdatasync` each, and never forgets a failure.
//!
//! A flush is answered by a sync that *started* after the flush was requested. A sync error is latched: all waiting and
//! later flushes fail with it. A failed sync is never retried: the kernel may have dropped the pages it could not
//! write.

use crate::error::{IoContext, Result};
use crate::store::BlockStore;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
struct Turn {
    /// Syncs begun so far.
    begun: u64,
    /// The newest of those that succeeded.
    done: u64,
    running: bool,
    failed: Option<crate::error::Error>,
}

/// The syncer of a volume; see the module's documentation.
#[derive(Default)]
pub struct Syncer {
    turn: Mutex<Turn>,
    changed: Condvar,
    has_failed: AtomicBool,
}

impl Syncer {
    /// Makes everything durable that was written before this call.
    ///
    /// # Errors
    /// The first sync error of this volume, now and for ever.
    pub fn sync(&self, store: &dyn BlockStore, name: impl Fn() -> String) -> Result<()> {
        let mut turn = self.turn.lock();
        // The sync that answers this call must begin after now: the next one, if one is running.
        let mine = turn.begun + 1;
        loop {
            if let Some(failed) = &turn.failed {
                return Err(failed.replay());
            }
            if turn.done >= mine {
                return Ok(());
            }
            if turn.running {
                self.changed.wait(&mut turn);
                continue;
            }
            turn.running = true;
            turn.begun += 1;
            let this = turn.begun;
            let outcome =
                parking_lot::MutexGuard::unlocked(&mut turn, || store.sync().on(|| format!("sync {}", name())));
            turn.running = false;
            match outcome {
                Ok(()) => turn.done = this,
                Err(err) => {
                    turn.failed = Some(err);
                    self.has_failed.store(true, Ordering::Release);
                }
            }
            self.changed.notify_all();
        }
    }

    /// Whether there is a latched error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Returns the latched error, if there is one.
    #[must_use]
    pub fn failure(&self) -> Option<crate::error::Error> {
        self.turn.lock().failed.as_ref().map(crate::error::Error::replay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::SimStore;

    #[test]
    fn a_failed_sync_is_latched_and_not_tried_again() {
        let disk = SimStore::new(1 << 20);
        let syncer = Syncer::default();
        syncer.sync(&disk, || "v".into()).unwrap();
        disk.fail_in(0, false);
        assert!(syncer.sync(&disk, || "v".into()).is_err());
        let before = disk.syncs();
        assert!(syncer.sync(&disk, || "v".into()).is_err(), "the disk works again, but what it lost stays lost");
        assert_eq!(disk.syncs(), before);
        assert!(syncer.failure().is_some());
    }
}
