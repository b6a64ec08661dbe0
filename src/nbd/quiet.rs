//! Rate limit of log lines that anyone can cause: a burst, then one a second, with a count of those left out.

use parking_lot::Mutex;
use std::time::Duration;

/// Lines that are logged at once.
const BURST: u32 = 10;

/// A rate limit; see the module's documentation.
#[derive(Default)]
pub(super) struct Quiet(Mutex<QuietState>);

#[derive(Default)]
struct QuietState {
    used: u32,
    /// When `used` was last reduced.
    since: Duration,
    left_out: u64,
}

impl Quiet {
    /// Takes one: returns how many were left out before it, or `None` if this one is.
    pub(super) fn next(&self, now: Duration) -> Option<u64> {
        let mut state = self.0.lock();
        let seconds = u32::try_from(now.saturating_sub(state.since).as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            state.used = state.used.saturating_sub(seconds);
            state.since = now;
        }
        if state.used >= BURST {
            state.left_out += 1;
            return None;
        }
        state.used += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_at_once_then_one_a_second_with_what_was_left_out() {
        let quiet = Quiet::default();
        let at = Duration::from_secs;
        assert_eq!((0..1500).filter(|_| quiet.next(at(0)).is_some()).count() as u32, BURST);
        assert_eq!(quiet.next(at(1)), Some(1490));
        assert_eq!(quiet.next(at(1)), None);
        assert_eq!(quiet.next(at(3)), Some(1));
        assert_eq!(quiet.next(at(3)), Some(0));
        assert_eq!((0..1500).filter(|_| quiet.next(at(9999)).is_some()).count() as u32, BURST);
    }
}
