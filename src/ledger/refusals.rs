//! Rate limit of refusals in the audit, by principal.
//!
//! Anyone who reaches coffer can be refused any number of times, and each record is a write that is kept for ever. So
//! each principal has a token bucket: refusals above it are left out, and the next record says how many were.

use super::Asker;
use super::audit::Body;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::time::Instant;

/// Bucket size of a principal, in refusals; it refills at one a second.
const BURST: f64 = 20.0;
/// Bucket size of the account's administrators, who can write records at will anyway.
const BURST_OF_ADMINISTRATORS: f64 = 1000.0;
/// Principals with a bucket of their own; the rest share one.
const MAX_PRINCIPALS: usize = 1024;

thread_local! {
    /// Refusals submitted to the audit on this thread, recorded or not.
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// Returns how many refusals were submitted to the audit on this thread so far.
pub(super) fn seen() -> u64 {
    SEEN.get()
}

/// The buckets by principal, and how many refusals each left out.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<String, Bucket>>);

struct Bucket {
    left: f64,
    burst: f64,
    at: Instant,
    left_out: u64,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        self.left = self.burst.min(self.left + now.saturating_duration_since(self.at).as_secs_f64());
        self.at = now;
    }

    fn next(&mut self, now: Instant) -> Option<u64> {
        self.fill(now);
        if self.left < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Refusals {
    /// Takes a token: returns how many refusals of the principal were left out before, or `None` if this one is.
    fn next(&self, principal: &str, burst: f64, now: Instant) -> Option<u64> {
        let mut buckets = self.0.lock();
        if buckets.len() >= MAX_PRINCIPALS && !buckets.contains_key(principal) {
            // Full buckets can be dropped: a new one starts full.
            buckets.retain(|_, b| {
                b.fill(now);
                b.left < b.burst || b.left_out > 0
            });
        }
        let who =
            if buckets.len() >= MAX_PRINCIPALS && !buckets.contains_key(principal) { "others" } else { principal };
        let new = || Bucket { left: burst, burst, at: now, left_out: 0 };
        buckets.entry(who.to_owned()).or_insert_with(new).next(now)
    }

    /// Whether a refusal is recorded; if so, adds to it how many were left out before it.
    pub(super) fn admit(&self, by: &Asker, body: &mut Body) -> bool {
        SEEN.set(SEEN.get() + 1);
        let burst = if by.administrator { BURST_OF_ADMINISTRATORS } else { BURST };
        let Some(left_out) = self.next(&by.identity.principal, burst, Instant::now()) else { return false };
        if left_out > 0 {
            body.detail.insert("refusals-not-recorded-before".into(), left_out.to_string());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refusals_are_audited_at_a_bounded_rate_and_the_rest_is_counted() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let next = |at| refusals.next("anonymous", BURST, at);
        let audited = (0..100).filter(|_| next(start).is_some()).count();
        assert_eq!(audited, 20);
        assert_eq!(next(start + Duration::from_secs(1)), Some(80));
        assert_eq!(next(start + Duration::from_secs(1)), None);
        assert_eq!(next(start + Duration::from_secs(3)), Some(1));
        assert_eq!(refusals.next("alice", BURST, start), Some(0), "one does not drown another's refusals");
    }

    #[test]
    fn many_principals_take_no_room_without_end() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let audited = (0..3 * MAX_PRINCIPALS).filter(|n| refusals.next(&n.to_string(), BURST, start).is_some()).count();
        assert_eq!((audited, refusals.0.lock().len()), (MAX_PRINCIPALS + 20, MAX_PRINCIPALS + 1));
        assert!(refusals.next("late", BURST, start + Duration::from_secs(60)).is_some());
        assert!(refusals.0.lock().len() <= MAX_PRINCIPALS);
    }
}
