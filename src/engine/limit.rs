//! Rate limits of a volume: requests and bytes a second, over all its connections.
//!
//! A request above the rate is delayed before its buffer is taken: its connection is not read until then, and no worker
//! waits. Each rate is a virtual clock that advances by the cost of every request; a request may begin when that clock
//! is at most [`BURST`] ahead of real time. So a request larger than a whole burst passes, and those after it wait.

use super::request::{Op, Request};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What may be used at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// Bytes that count as one request, as EBS counts on SSD volumes.
const UNIT: u64 = 256 * 1024;

/// The limits of a volume.
#[derive(Default)]
pub(super) struct Limit {
    any: AtomicBool,
    state: Mutex<LimitState>,
}

#[derive(Default)]
struct LimitState {
    requests: Rate,
    bytes: Rate,
    /// Incremented by each change, so that those who wait ask again.
    generation: u64,
}

/// A rate, and how far ahead of real time it is used.
#[derive(Default)]
struct Rate {
    /// Limit per second; 0: none.
    per_second: u64,
    ahead: Duration,
}

impl Rate {
    /// Charges `n`, and returns when that may begin.
    fn take(&mut self, now: Duration, n: u64) -> Duration {
        if self.per_second == 0 || n == 0 {
            return now;
        }
        let begin = self.ahead.saturating_sub(BURST).max(now);
        let cost = u128::from(n) * 1_000_000_000 / u128::from(self.per_second);
        self.ahead = self.ahead.max(now) + Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        begin
    }
}

/// A delay of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// When the request may begin, on the engine's clock.
    pub until: Duration,
    generation: u64,
}

impl Limit {
    /// Sets both limits; 0: none. Delayed requests ask again.
    pub(super) fn set(&self, requests: u64, bytes: u64) {
        let mut state = self.state.lock();
        if (state.requests.per_second, state.bytes.per_second) == (requests, bytes) {
            return;
        }
        let rate = |per_second| Rate { per_second, ahead: Duration::ZERO };
        let generation = state.generation + 1;
        *state = LimitState { requests: rate(requests), bytes: rate(bytes), generation };
        self.any.store(requests > 0 || bytes > 0, Ordering::Release);
    }

    /// Charges a request's cost. `None`: it may begin now.
    pub(super) fn delay(&self, now: Duration, request: &Request) -> Option<Delay> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let (requests, bytes) = cost(request);
        let mut state = self.state.lock();
        let until = state.requests.take(now, requests).max(state.bytes.take(now, bytes));
        (until > now).then_some(Delay { until, generation: state.generation })
    }

    /// Whether the limits have changed since the delay was computed.
    pub(super) fn has_changed(&self, since: &Delay) -> bool {
        self.state.lock().generation != since.generation
    }
}

/// Returns the requests and bytes that a request counts as. FLUSH costs nothing.
fn cost(request: &Request) -> (u64, u64) {
    let len = request.len;
    match request.op {
        _ if len == 0 => (0, 0),
        Op::Read | Op::Write | Op::Cache => (len.div_ceil(UNIT), len),
        Op::Trim | Op::WriteZeroes => (1, 0),
        Op::Query => (1, 0),
        Op::Flush => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(op: Op, len: u32) -> Request {
        Request::new(op, 0, len.into())
    }

    /// Counts the requests that begin within a second, on a clock that jumps to when the next may begin.
    fn in_a_second(limit: &Limit, one: &Request) -> u32 {
        let (mut now, mut count) = (Duration::ZERO, 0);
        while now < Duration::from_secs(1) {
            now = limit.delay(now, one).map_or(now, |d| d.until);
            count += 1;
        }
        count
    }

    #[test]
    fn requests_and_bytes_are_limited_and_a_burst_is_short() {
        let limit = Limit::default();
        assert_eq!(limit.delay(Duration::ZERO, &request(Op::Read, 1 << 20)), None);
        limit.set(1000, 0);
        assert_eq!(in_a_second(&limit, &request(Op::Read, 4096)), 1101, "a second's and a tenth's at first");
        limit.set(0, 100 << 20);
        assert_eq!(in_a_second(&limit, &request(Op::Write, 1 << 20)), 111);
        limit.set(1000, 0);
        assert_eq!(in_a_second(&limit, &request(Op::Write, 1 << 20)), 276, "1 MiB is four");
    }

    #[test]
    fn what_carries_no_data_counts_as_a_request_and_a_flush_as_nothing() {
        assert_eq!(cost(&request(Op::Trim, 1 << 30)), (1, 0));
        assert_eq!(cost(&request(Op::WriteZeroes, 1)), (1, 0));
        assert_eq!(cost(&request(Op::Cache, UNIT as u32 + 1)), (2, UNIT + 1));
        assert_eq!(cost(&request(Op::Flush, 0)), (0, 0));
        assert_eq!(cost(&request(Op::Read, 0)), (0, 0));
    }

    #[test]
    fn a_request_larger_than_a_burst_goes_and_the_next_pays() {
        let limit = Limit::default();
        limit.set(0, 1 << 20);
        assert_eq!(limit.delay(Duration::ZERO, &request(Op::Write, 32 << 20)), None);
        let delay = limit.delay(Duration::ZERO, &request(Op::Read, 4096)).unwrap();
        assert_eq!(delay.until, Duration::from_secs(32) - BURST);
        assert!(!limit.has_changed(&delay));
        limit.set(0, 2 << 20);
        assert!(limit.has_changed(&delay));
        assert_eq!(limit.delay(Duration::ZERO, &request(Op::Read, 4096)), None);
    }
}
