//! Sealed bytes at rest: a small trait, and a factory for its implementations: files, and simulated disks that tests
//! crash. One suite checks all of them against the contract documented here (`contract_tests.rs`).
//!
//! A store is a whole volume: header, map and sealed sectors. Sector data goes in only as [`Sealed`]; the volume's own
//! structures (header, map, intent: nothing secret in the clear) are written by `write_meta`.

mod ahead;
pub mod factory;
pub mod file;
pub mod files;
pub mod folio_hints;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
pub(crate) mod sim;
mod spill;
#[cfg(test)]
mod watched;

pub use factory::{Access, Stores};
pub use spill::{SpillFile, SpillSpace};

use crate::cipher::{AtRest, Sealed, SealedMut};
use std::io;

/// Vouches for reads: sector data enters a store only through [`BlockStore::write_at`], so what is read back was
/// sealed.
struct OfStore;
impl AtRest for OfStore {}
const AT_REST: OfStore = OfStore;

/// The identity of a store, to detect a copy or a replacement: unless it was closed cleanly, nothing is trusted across
/// a change (docs/format.md, section 3, "open"). Each kind of store defines its numbers; headers name them after a
/// file's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreIdentity {
    /// The device or container; for a file, `st_dev`.
    #[serde(rename = "device")]
    pub holder: u64,
    /// Its number there, which may be reused after it is gone; for a file, `st_ino`.
    #[serde(rename = "inode")]
    pub number: u64,
    /// Creation time in nanoseconds since 1970, if known; for a file, `statx(2)`'s STATX_BTIME.
    #[serde(rename = "birth")]
    pub born: Option<i64>,
}

/// The allocation state of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Not allocated: it reads as zeros.
    Hole,
    /// Allocated, and reads as zeros.
    Zeros,
    /// Allocated, with any contents.
    Data,
}

/// Bytes at rest. Implementations are called from many threads at once; the caller orders overlapping calls.
pub trait BlockStore: Send + Sync {
    /// Returns the size in bytes.
    ///
    /// # Errors
    /// What the operating system reports; so for all methods below.
    fn size(&self) -> io::Result<u64>;

    /// Reads `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the store ends before that.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// Like [`BlockStore::read_at`], if no disk has to be waited for (`preadv2(2)`, RWF_NOWAIT). `false`: it would
    /// wait, and the contents of `out` must not be used.
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_at_nowait(&self, out: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Reads sealed bytes, or holes, by [`BlockStore::read_at`].
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_sealed(&self, out: SealedMut<'_>, offset: u64) -> io::Result<()> {
        self.read_at(out.room(&AT_REST), offset)
    }

    /// Reads sealed bytes, or holes, by [`BlockStore::read_at_nowait`].
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_sealed_nowait(&self, out: SealedMut<'_>, offset: u64) -> io::Result<bool> {
        self.read_at_nowait(out.room(&AT_REST), offset)
    }

    /// Writes sealed bytes at `offset`, never past the end. On return they survive the death of this process, not power
    /// loss.
    ///
    /// # Errors
    /// As above; a failed write may have been done in part.
    fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()>;

    /// Writes bytes of the volume's own structures.
    ///
    /// # Errors
    /// As [`BlockStore::write_at`].
    fn write_meta(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range read as zeros; `keep` keeps its space allocated (ZERO_RANGE), else it is freed (PUNCH_HOLE). Never
    /// past the end; whole subsectors (512 bytes) only.
    ///
    /// # Errors
    /// As [`BlockStore::write_at`].
    fn zero(&self, offset: u64, len: u64, keep: bool) -> io::Result<()>;

    /// Returns the start of the first data at or after `offset` (SEEK_DATA); `None`: only holes up to the end. What it
    /// skips reads as zeros; what it finds may be zeros too.
    ///
    /// # Errors
    /// As above.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// Returns the end of the data that contains `offset` (SEEK_HOLE).
    ///
    /// # Errors
    /// As above.
    fn next_hole(&self, offset: u64) -> io::Result<u64>;

    /// Returns the allocation state of a range that [`BlockStore::next_data`] skips: the length that has the same
    /// state, from `_offset` on, and that state. Where the file system does not tell, all of it is a hole.
    ///
    /// # Errors
    /// As above.
    fn stored(&self, _offset: u64, len: u64) -> io::Result<(u64, Stored)> {
        Ok((len, Stored::Hole))
    }

    /// Grows the store to `size` bytes; the new part reads as zeros. A size that is not larger than the present one
    /// changes nothing: a store never shrinks.
    ///
    /// # Errors
    /// EFBIG or ENOSPC if the store cannot hold that size.
    fn grow(&self, size: u64) -> io::Result<()>;

    /// Makes all writes that ended before this call survive power loss.
    ///
    /// # Errors
    /// After an error, nothing is known about those writes: never retry as if the retry covered them. The store does
    /// not latch the error: the next sync may succeed, and covers only what is written after the failure. The volume's
    /// syncer latches it.
    fn sync(&self) -> io::Result<()>;

    /// Releases the lock, so that others can open the store, even while handles to it exist. Nothing may be written
    /// afterwards.
    ///
    /// # Errors
    /// As above.
    fn unlock(&self) -> io::Result<()>;

    /// Starts writing a range to the disk, so that the next [`BlockStore::sync`] has less to do. A hint: it may fail,
    /// and makes nothing durable.
    fn start_writeback(&self, _offset: u64, _len: u64) {}

    /// Returns the store's identity: the same for all its handles, as long as it exists.
    ///
    /// # Errors
    /// As above.
    fn identity(&self) -> io::Result<StoreIdentity>;
}

#[cfg(test)]
mod contract_tests;
