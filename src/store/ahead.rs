//! Reading ahead of somebody who reads a volume's file in order, where its pages are not in the page cache.
//!
//! The kernel's own read-ahead is off for these files ([`Advice::Random`](rustix::fs::Advice)): it fills the page cache with
//! folios of up to 2 MiB, and on ext4 each later small write into one walks all of its blocks. What is read ahead by
//! request comes in single pages (docs/performance.md has the figures). The price is that somebody has to notice order.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead, bytes.
const WINDOW: u64 = 2 << 20;
/// How far behind or before the expected place a read may be: several requests in order overtake each other.
const SLACK: u64 = 2 << 20;

/// Up to where reads in order have been read ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead(AtomicU64);

impl Ahead {
    /// A read had to wait for the disk: the range that is to be fetched meanwhile. Threads may race here: a range more or less
    /// is fetched, and nothing else.
    pub(super) fn after_miss(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let (end, until) = (offset + len, self.0.load(Ordering::Relaxed));
        let in_order = offset + WINDOW + SLACK >= until && offset <= until + SLACK && until > 0;
        if !in_order {
            self.0.store(end, Ordering::Relaxed);
            return None;
        }
        let (from, to) = (until.max(end), end + WINDOW);
        // By halves of the window: a call for each request would cost more than it fetches.
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

    /// What is fetched for these misses, as (from, to) in units of 256 KiB.
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
