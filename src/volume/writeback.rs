//! Long runs of writes are sent on their way to the disk before anybody flushes.
//!
//! Left to itself the kernel begins to write when somebody syncs, or some seconds later: a copy into a volume with a
//! flush at its end takes the time of copying and then the time of the disk. So when a large write completes a window
//! of 4 MiB, that window's pages are handed to the disk (`sync_file_range(2)`, which does not wait). Once between two syncs:
//! who writes the same place over and over without a flush pays for it once. Nothing is durable by it.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are sent at a time.
const WINDOW: u64 = 4 << 20;
/// Smallest write that counts as part of a long run, bytes.
const MIN_WRITE: usize = 64 << 10;

/// The windows that were sent since the last sync.
#[derive(Default)]
pub(super) struct WritebackWindows {
    any: AtomicBool,
    /// A bit for each window, as far as needed.
    windows: Mutex<Vec<u64>>,
}

impl WritebackWindows {
    /// A write has ended: the range that should be sent now, if one should.
    pub(super) fn after_write(&self, offset: u64, len: usize) -> Option<(u64, u64)> {
        let end = offset + len as u64;
        if len < MIN_WRITE || !end.is_multiple_of(WINDOW) {
            return None;
        }
        let window = (end / WINDOW - 1) as usize;
        let (word, bit) = (window / 64, 1 << (window % 64));
        let mut windows = self.windows.lock();
        if windows.len() <= word {
            windows.resize(word + 1, 0);
        }
        if windows[word] & bit != 0 {
            return None;
        }
        windows[word] |= bit;
        self.any.store(true, Ordering::Release);
        Some((end - WINDOW, WINDOW))
    }

    /// A sync begins: what is written from now on may be sent again.
    pub(super) fn forget(&self) {
        if self.any.swap(false, Ordering::AcqRel) {
            self.windows.lock().fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_sent_when_it_is_complete_and_once_between_two_syncs() {
        let writeback = WritebackWindows::default();
        let copy = || {
            let sent: Vec<_> = (0..96u64).filter_map(|n| writeback.after_write(n * 131_072, 131_072)).collect();
            sent.iter().map(|(at, _)| at >> 20).collect::<Vec<_>>()
        };
        assert_eq!(copy(), [0, 4, 8]);
        assert_eq!(copy(), [0; 0]);
        writeback.forget();
        assert_eq!(writeback.after_write(3 << 20, 1 << 20), Some((0, 4 << 20)));
        assert_eq!(copy(), [4, 8]);
    }

    #[test]
    fn small_writes_send_nothing() {
        let writeback = WritebackWindows::default();
        assert!((0..2048u64).all(|n| writeback.after_write(n * 4096, 4096).is_none()));
    }
}
