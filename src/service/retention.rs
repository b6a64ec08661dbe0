//! How long the audit is kept.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Kms};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Days for which the audit is kept at least, and unless it is set otherwise: those that LookupEvents of CloudTrail goes
/// back.
pub const AUDIT_DAYS: u32 = 90;
/// Milliseconds between two looks for what is older.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Removes what the audit need not keep, once a day.
pub(super) struct Retention {
    env: Env,
    kms: Arc<Kms>,
    days: AtomicU32,
    /// When the last look was, in milliseconds since boot.
    last: Mutex<Option<i64>>,
}

impl Retention {
    pub(super) fn new(env: &Env, kms: &Arc<Kms>) -> Self {
        Self { env: env.clone(), kms: kms.clone(), days: AtomicU32::new(AUDIT_DAYS), last: Mutex::default() }
    }

    /// Keeps the audit for so many days from now on.
    ///
    /// # Errors
    /// [`Kind::Usage`] for less than [`AUDIT_DAYS`].
    pub(super) fn keep_for(&self, days: u32) -> Result<()> {
        if days < AUDIT_DAYS {
            return Err(Error::new(
                Kind::Usage,
                format!("the audit is kept for at least {AUDIT_DAYS} days, not {days}"),
            ));
        }
        self.days.store(days, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what is older, if the last look was a day ago; the removal is recorded. Returns the number of segments
    /// removed.
    ///
    /// # Errors
    /// As [`crate::ledger::Ledger::expire_audit`].
    pub(super) fn expire_if_due(&self) -> Result<usize> {
        let (now, ledger) = (self.env.clock.since_boot(), self.kms.ledger());
        let mut last = self.last.lock();
        // What waits to be accepted is not touched.
        if last.is_some_and(|last| now - last < DAY) || ledger.audit_trouble().is_some() {
            return Ok(0);
        }
        // A failure is told once a day, too.
        *last = Some(now);
        let root = format!("arn:aws:iam::{}:root", self.kms.installation().account);
        let myself = Caller::service(root, "coffer", "coffer itself");
        ledger.expire_audit(&myself, self.days.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
