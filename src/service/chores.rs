//! The daemon's own chores: closes idle volumes, deletes CMKs whose waiting period is over, rotates those whose period is over,
//! suspends volumes whose CMK's imported material has expired, settles snapshots that could not be settled before, and removes
//! what the audit need not keep. Those that may wait for the repository have a thread of their own: it settles snapshots, empties the
//! recycle bin, and takes the snapshots that schedules are due to take. Collecting garbage, which can take hours, has another.

use super::Service;
use super::housekeeping::Chores;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

impl Chores for Service {
    fn close_idle(&self) -> Option<Instant> {
        self.opens.close_idle()
    }

    fn each_minute(self: Arc<Self>) {
        self.do_quick_chores();
        // In its own thread: a repository that is slow must not keep idle volumes open.
        if self.slow_chores.is_at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        let slow = std::thread::Builder::new().name("coffer-chores".to_owned()).spawn(move || {
            this.do_slow_chores();
            this.slow_chores.is_at_work.store(false, Ordering::Release);
        });
        if let Err(err) = slow {
            self.slow_chores.is_at_work.store(false, Ordering::Release);
            tracing::error!("start a thread for snapshots that are due: {err}; will retry in a minute");
        }
        self.collector.start_if_due();
    }
}

/// The chores that may wait for the repository.
#[derive(Default)]
pub(super) struct SlowChores {
    is_at_work: AtomicBool,
    is_stopped: AtomicBool,
}

impl SlowChores {
    /// Ends them after what they are doing now.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }
}

impl Service {
    /// Does what is due of the chores that a daemon does once a minute by itself. What fails is logged, and due again.
    pub fn do_chores(&self) {
        self.do_quick_chores();
        self.do_slow_chores();
        self.collector.collect_worn();
    }

    /// Those that need the repository.
    fn do_slow_chores(&self) {
        self.unsettled.settle();
        self.resume_snapshots();
        self.expire_recycled();
        self.run_schedules(&|| self.slow_chores.is_stopped.load(Ordering::Acquire));
    }

    fn do_quick_chores(&self) {
        self.leftovers.settle_if_any();
        if let Err(err) = self.kms.deletions().purge_due() {
            tracing::error!("delete CMKs at the end of their waiting period: {}", err.line());
        }
        if let Err(err) = self.kms.imports().delete_expired(&|arn| self.suspensions.suspend_under(arn)) {
            tracing::error!("delete expired key material: {}", err.line());
        }
        if let Err(err) = self.kms.rotations().rotate_due() {
            tracing::error!("rotate CMKs at the end of their period: {}", err.line());
        }
        if let Err(err) = self.count_for_locks() {
            tracing::error!("count how long snapshots have been locked: {}", err.line());
        }
        if let Err(err) = self.kms.ledger().check_rest() {
            tracing::error!("check the older part of the audit log: {}", err.line());
        }
        if let Err(err) = self.retention.expire_if_due() {
            tracing::error!("remove the oldest part of the audit log: {}", err.line());
        }
    }
}
