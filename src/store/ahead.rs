//! Read-ahead for sequential reads of a volume's file whose pages are not in the page cache.
//!
//! The kernel's own read-ahead is off for these files ([`Advice::Random`](rustix::fs::Advice)): it fills the page cache
//! with folios of up to 2 MiB, and on ext4 each later small write into one walks all of its blocks. Pages fetched on
//! request are single pages (docs/performance.md has the figures). The price is that sequential access must be detected
//! here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Read-ahead window, in bytes.
const WINDOW: u64 = 2 << 20;
/// How far before or after the expected offset a read may be, in bytes: concurrent requests overtake each other.
const SLACK: u64 = 2 << 20;

/// The offset that sequential reads have been read ahead to.
#[derive(Debug, Default)]
pub(super) struct Ahead(AtomicU64);

impl Ahead {
    /// Called for a read that had to wait for the disk; returns the range to fetch meanwhile. Racing threads are
    /// harmless: at worst a range is fetched that was not needed, or not fetched.
    pub(super) fn after_miss(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let (end, until) = (offset + len, self.0.load(Ordering::Relaxed));
        let in_order = offset + WINDOW + SLACK >= until && offset <= until + SLACK && until > 0;
        if !in_order {
            self.0.store(end, Ordering::Relaxed);
            return None;
        }
        let (from, to) = (until.max(end), end + WINDOW);
        // Fetch at least half a window: a call per request would cost more than it saves.
        if from + WINDOW / 2 > to {
            return None;
        }
        self.0.store(to, Ordering::Relaxed);
        Some((from, to - from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K256: u64 = 256 << 10;

    /// Returns the ranges fetched for these misses, as (from, to) in units of 256 KiB.
    fn fetched(ahead: &Ahead, misses: &[u64]) -> Vec<(u64, u64)> {
        let of = |n: &u64| ahead.after_miss(n * K256, K256);
        misses.iter().filter_map(of).map(|(at, len)| (at / K256, (at + len) / K256)).collect()
    }

    #[test]
    fn order_is_noticed_at_the_second_read_and_nothing_is_fetched_twice() {
        let ahead = Ahead::default();
        assert_eq!(fetched(&ahead, &[1000]), []);
        assert_eq!(fetched(&ahead, &[1001]), [(1002, 1010)]);
        let all = fetched(&ahead, &(1002..1100).collect::<Vec<_>>());
        assert!(all.windows(2).all(|w| w[0].1 == w[1].0), "{all:?}");
        assert!(all.last().unwrap().1 >= 1100);
    }

    #[test]
    fn reads_that_overtake_each_other_are_in_order_still() {
        let ahead = Ahead::default();
        let jumbled: Vec<u64> = (100..180).map(|n| n ^ 3).collect();
        let all = fetched(&ahead, &jumbled);
        assert!(all.windows(2).all(|w| w[0].1 <= w[1].0), "{all:?}");
        assert!(all.last().unwrap().1 >= 180);
    }

    #[test]
    fn reads_here_and_there_fetch_nothing() {
        let ahead = Ahead::default();
        assert_eq!(fetched(&ahead, &[0, 100, 7, 300, 50, 900, 20]), []);
    }
}
