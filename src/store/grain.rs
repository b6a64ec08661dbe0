//! Which ranges of a file lie in the page cache in single pages, perhaps, and had better not.
//!
//! What is read from the disk comes in single pages (see [`super::ahead`]), and large reads and writes of them cost up to
//! twice what they cost in larger folios. How large a folio is, its first write decides. So the first large write to a
//! range since the file was opened, or since the range was read from the disk, puts the range's pages out of the cache first, and
//! makes its own. Pages that are dirty stay: only their way to the disk begins.

use parking_lot::Mutex;
use std::collections::HashMap;

/// Bytes of a window: a write is large if it covers one.
const WINDOW: u64 = 128 << 10;
/// Windows with one word of bits: 8 MiB.
const GROUP: u64 = 64;
/// Groups remembered, at most; with more, all are forgotten.
const MOST: usize = 65_536;

/// The windows that were written by large writes.
#[derive(Debug, Default)]
pub(super) struct Grain(Mutex<HashMap<u64, u64>>);

/// The words of a range of windows, as (group, bits).
fn words(first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    (first / GROUP..end.div_ceil(GROUP)).map(move |group| {
        let (from, to) = (first.max(group * GROUP) % GROUP, end.min((group + 1) * GROUP) - group * GROUP);
        (group, (u64::MAX >> (GROUP - to)) & (u64::MAX << from))
    })
}

impl Grain {
    /// Whether this write is the first large one to some window. From now on it is not.
    pub(super) fn renews(&self, offset: u64, len: u64) -> bool {
        let (first, end) = (offset.div_ceil(WINDOW), (offset + len) / WINDOW);
        if first >= end {
            return false;
        }
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        let mut renews = false;
        for (group, bits) in words(first, end) {
            let word = all.entry(group).or_default();
            renews |= *word & bits != bits;
            *word |= bits;
        }
        renews
    }

    /// A range was read from the disk.
    pub(super) fn forget(&self, offset: u64, len: u64) {
        let mut all = self.0.lock();
        if all.is_empty() {
            return;
        }
        for (group, bits) in words(offset / WINDOW, (offset + len).div_ceil(WINDOW)) {
            if let Some(word) = all.get_mut(&group) {
                *word &= !bits;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_large_write_to_a_window_renews_it_and_so_does_one_after_a_read() {
        let grain = Grain::default();
        assert!(!grain.renews(0, 4096), "small");
        assert!(!grain.renews(4096, WINDOW), "it covers no window");
        assert!(grain.renews(0, WINDOW));
        assert!(!grain.renews(0, WINDOW));
        assert!(grain.renews(0, 2 * WINDOW), "the second window");
        assert!(grain.renews(60 * WINDOW, 200 * WINDOW), "over groups");
        assert!(!grain.renews(60 * WINDOW, 200 * WINDOW));
        assert!(!grain.renews(63 * WINDOW, WINDOW) && !grain.renews(64 * WINDOW, WINDOW));
        grain.forget(64 * WINDOW + 5, 1);
        assert!(!grain.renews(63 * WINDOW, WINDOW) && !grain.renews(65 * WINDOW, WINDOW));
        assert!(grain.renews(64 * WINDOW, WINDOW));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let grain = Grain::default();
        for n in 0..2 * MOST as u64 {
            grain.renews(n * GROUP * WINDOW, WINDOW);
        }
        assert!(grain.0.lock().len() <= MOST);
    }
}
