//! What a daemon does by itself: closes volumes that nobody came back to, deletes CMKs whose time has come, settles what of
//! snapshots could not be settled before.

use super::Service;
use super::housekeeping::Chores;
use std::sync::Arc;
use std::time::Instant;

impl Chores for Service {
    fn close_idle(self: Arc<Self>) -> Option<Instant> {
        self.opens.close_idle()
    }

    fn each_minute(self: Arc<Self>) {
        self.settle_leftovers();
        if let Err(err) = self.kms.deletions().purge_due() {
            tracing::error!("delete CMKs whose time has come: {}", err.line());
        }
        self.unsettled.settle();
    }
}
