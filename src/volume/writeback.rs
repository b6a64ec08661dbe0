//! Starts writing long runs of writes to the disk before anyone flushes.
//!
//! By default the kernel starts to write at a sync, or some seconds later: a copy into a volume with a flush at its end
//! takes the time of copying plus the time of the disk. So when a large write completes a window of 4 MiB, that
//! window's pages are handed to the disk (`sync_file_range(2)`, which does not wait). Once between two syncs: rewriting
//! the same place repeatedly without a flush costs this only once. It makes nothing durable.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in a window.
const WINDOW: u64 = 4 << 20;
/// Smallest write that counts as part of a long run, in bytes.
const MIN_WRITE: usize = 64 << 10;

/// The windows handed to the disk since the last sync.
#[derive(Default)]
pub(super) struct WritebackWindows {
    any: AtomicBool,
    /// One bit per window, grown as needed.
    windows: Mutex<Vec<u64>>,
}

impl WritebackWindows {
    /// Returns the range to hand to the disk now, if any, after a write has ended.
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

    /// Forgets the windows, when a sync begins: later writes may hand them over again.
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
