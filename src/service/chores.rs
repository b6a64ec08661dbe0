//! The daemon's own chores: closes idle volumes, deletes CMKs whose waiting period is over, rotates those whose period is over,
//! suspends volumes whose CMK's imported material has expired, settles snapshots that could not be settled before, and removes
//! what the audit need not keep.

use super::Service;
use super::housekeeping::Chores;
use std::time::Instant;

impl Chores for Service {
    fn close_idle(&self) -> Option<Instant> {
        self.opens.close_idle()
    }

    fn each_minute(&self) {
        self.do_chores();
    }
}

impl Service {
    /// Does what is due of the chores that a daemon does once a minute by itself. What fails is logged, and due again.
    pub fn do_chores(&self) {
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
        self.settle_in_background();
        if let Err(err) = self.kms.ledger().check_rest() {
            tracing::error!("check the older part of the audit log: {}", err.line());
        }
        if let Err(err) = self.retention.expire_if_due() {
            tracing::error!("remove the oldest part of the audit log: {}", err.line());
        }
    }

    /// Settles snapshots in a thread of its own: a repository that is slow must not keep idle volumes open, or a server from
    /// starting.
    pub(super) fn settle_in_background(&self) {
        let unsettled = self.unsettled.clone();
        let settling = std::thread::Builder::new().name("settle".to_owned()).spawn(move || unsettled.settle());
        if let Err(err) = settling {
            tracing::error!("start a thread to settle snapshots: {err}; will retry in a minute");
        }
    }
}
