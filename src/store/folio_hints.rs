//! Tracks which ranges of a file may be in the page cache as single pages and should not be.
//!
//! Reads from the disk bring in single pages (see `ahead.rs`), and large reads and writes of them cost up to twice what
//! they cost in larger folios. The first write to a folio decides its size. So the first large write to a range since
//! the file was opened, or since the range was read from the disk, first evicts the range's pages, then creates its
//! own. Dirty pages stay: eviction only starts their writeback. Hints outlive closing the file (see
//! [`FolioHintCache`]), as the pages do.

use crate::units::VolumeId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes in a window: a write is large if it covers one.
const WINDOW: u64 = 128 << 10;
/// Windows in one word of bits: 8 MiB.
const GROUP: u64 = 64;
/// Maximum number of groups remembered per file; when it is reached, all are forgotten.
const MAX_WINDOWS: usize = 65_536;

/// Volumes whose hints are kept: each takes at most 2 MiB (for half a TiB of data).
const KEPT: usize = 16;

/// The state of the pages that a write goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// All were made by large writes.
    Made,
    /// This write is large: it replaces those that were not made by one.
    ToBeMade,
    /// Not known.
    Unknown,
}

/// The windows of one file that were written by large writes.
#[derive(Debug, Default)]
pub struct FolioHints(Mutex<HashMap<u64, u64>>);

/// Hints of the volumes that a server opened last, for when they are opened again.
#[derive(Debug, Default)]
pub struct FolioHintCache(Mutex<VecDeque<(VolumeId, Arc<FolioHints>)>>);

impl FolioHintCache {
    /// Returns the hints for a volume's file.
    pub fn of(&self, id: VolumeId) -> Arc<FolioHints> {
        let mut kept = self.0.lock();
        let known = kept.iter().position(|(i, _)| *i == id).and_then(|at| kept.remove(at));
        let (_, folio_hints) = known.unwrap_or_else(|| (id, Arc::default()));
        kept.push_front((id, folio_hints.clone()));
        kept.truncate(KEPT);
        folio_hints
    }
}

/// Returns the bits of a range of windows, as (group, bits).
fn words(first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    (first / GROUP..end.div_ceil(GROUP)).map(move |group| {
        let (from, to) = (first.max(group * GROUP) % GROUP, end.min((group + 1) * GROUP) - group * GROUP);
        (group, (u64::MAX >> (GROUP - to)) & (u64::MAX << from))
    })
}

impl FolioHints {
    /// Returns the state of the pages that a write goes to, and marks the windows that it covers as made by it.
    pub(super) fn write(&self, offset: u64, len: u64) -> Pages {
        let mut all = self.0.lock();
        let mut touched = words(offset / WINDOW, (offset + len).div_ceil(WINDOW));
        if touched.all(|(group, bits)| all.get(&group).is_some_and(|word| word & bits == bits)) {
            return Pages::Made;
        }
        let (first, end) = (offset.div_ceil(WINDOW), (offset + len) / WINDOW);
        if first >= end {
            return Pages::Unknown;
        }
        if all.len() >= MAX_WINDOWS {
            all.clear();
        }
        for (group, bits) in words(first, end) {
            *all.entry(group).or_default() |= bits;
        }
        Pages::ToBeMade
    }

    /// Forgets a range that was read from the disk.
    pub(super) fn forget(&self, offset: u64, len: u64) {
        self.clear(offset / WINDOW, (offset + len).div_ceil(WINDOW));
    }

    /// Forgets a range whose pages are gone. Windows only partly in it keep their state.
    pub(super) fn gone(&self, offset: u64, len: u64) {
        self.clear(offset.div_ceil(WINDOW), (offset + len) / WINDOW);
    }

    fn clear(&self, first: u64, end: u64) {
        let mut all = self.0.lock();
        if all.is_empty() || first >= end {
            return;
        }
        for (group, bits) in words(first, end) {
            if let Some(word) = all.get_mut(&group) {
                *word &= !bits;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;

    #[test]
    fn the_first_large_write_to_a_window_makes_it_and_so_does_one_after_a_read() {
        let folio_hints = FolioHints::default();
        let write = |at: u64, len: u64| folio_hints.write(at * WINDOW, len * WINDOW);
        assert_eq!(folio_hints.write(0, 4096), Pages::Unknown, "small");
        assert_eq!(folio_hints.write(4096, WINDOW), Pages::Unknown, "it covers no window");
        assert_eq!(write(0, 1), Pages::ToBeMade);
        assert_eq!(write(0, 1), Pages::Made);
        assert_eq!(folio_hints.write(4096, 65_536), Pages::Made, "a part of a window");
        assert_eq!(folio_hints.write(4096, WINDOW), Pages::Unknown, "a part of the second");
        assert_eq!(write(0, 2), Pages::ToBeMade, "the second window");
        assert_eq!(write(60, 200), Pages::ToBeMade, "over groups");
        assert_eq!(write(60, 200), Pages::Made);
        assert_eq!((write(63, 1), write(64, 1)), (Pages::Made, Pages::Made));
        folio_hints.forget(64 * WINDOW + 5, 1);
        assert_eq!((write(63, 1), write(65, 1)), (Pages::Made, Pages::Made));
        assert_eq!(folio_hints.write(64 * WINDOW, 4096), Pages::Unknown);
        assert_eq!(write(64, 1), Pages::ToBeMade);
    }

    #[test]
    fn what_was_given_back_is_made_again_and_the_rest_of_its_window_is_not() {
        let folio_hints = FolioHints::default();
        folio_hints.write(0, 4 * WINDOW);
        folio_hints.gone(WINDOW - 4096, WINDOW + 8192);
        assert_eq!(
            [0, 1, 2].map(|n| folio_hints.write(n * WINDOW, WINDOW)),
            [Pages::Made, Pages::ToBeMade, Pages::Made]
        );
        folio_hints.gone(4096, WINDOW - 4096);
        assert_eq!(folio_hints.write(0, WINDOW), Pages::Made);
    }

    #[test]
    fn the_volumes_that_were_opened_last_are_known_again() {
        let folio_hints = FolioHintCache::default();
        let ids: Vec<_> = (0..=KEPT).map(|_| VolumeId::draw(&SystemRng)).collect();
        for id in &ids[..KEPT] {
            assert_eq!(folio_hints.of(*id).write(0, WINDOW), Pages::ToBeMade, "each for itself");
        }
        assert_eq!(folio_hints.of(ids[0]).write(0, WINDOW), Pages::Made);
        folio_hints.of(ids[KEPT]);
        assert_eq!(folio_hints.of(ids[0]).write(0, WINDOW), Pages::Made, "opened since the second was");
        assert_eq!(folio_hints.of(ids[1]).write(0, WINDOW), Pages::ToBeMade, "forgotten");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let folio_hints = FolioHints::default();
        for n in 0..2 * MAX_WINDOWS as u64 {
            folio_hints.write(n * GROUP * WINDOW, WINDOW);
        }
        assert!(folio_hints.0.lock().len() <= MAX_WINDOWS);
    }
}
