//! Sealed bytes at rest: a small trait and a factory for its implementations: files, and simulated disks that tests crash.
//! One suite checks all of them against what is said here (`contract_tests.rs`).
//!
//! A store is all of a volume: header, map and sealed sectors. Sector data goes in as [`Sealed`] only; what a
//! volume keeps about itself (header, map, intent: nothing secret in the clear) goes in by `write_meta`.

mod ahead;
pub mod factory;
pub mod file;
pub mod files;
pub mod folio_hints;
#[cfg(test)]
pub(crate) mod memory;
mod scratch;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod watched;

pub use factory::{Access, Stores};
pub use scratch::{Scratch, ScratchSpace};

use crate::cipher::{AtRest, Sealed, SealedMut};
use std::io;

/// Sector data enters a store through [`BlockStore::write_at`] only, so what is read back was sealed.
struct OfStore;
impl AtRest for OfStore {}
const AT_REST: OfStore = OfStore;

/// Which store this is, to notice a copy or a replacement: order 6 of docs/format.md trusts nothing across a change. Each kind
/// of store defines what its numbers are; headers keep them under the names of a file's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreIdentity {
    /// What holds it; of a file, `st_dev`.
    #[serde(rename = "device")]
    pub holder: u64,
    /// Its number there, which may be reused after it is gone; of a file, `st_ino`.
    #[serde(rename = "inode")]
    pub number: u64,
    /// When it was made, in nanoseconds since 1970, where that is known; of a file, `statx(2)`'s STATX_BTIME.
    #[serde(rename = "birth")]
    pub born: Option<i64>,
}

/// How a range is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing is: it reads as zeros.
    Hole,
    /// Its room is taken, and it reads as zeros.
    Zeros,
    /// It may hold anything.
    Data,
}

/// Bytes at rest. Implementations are used from many threads at once; overlapping calls are the caller's to order.
pub trait BlockStore: Send + Sync {
    /// Size in bytes.
    ///
    /// # Errors
    /// What the operating system reports; so for all below.
    fn size(&self) -> io::Result<u64>;

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the store ends before that.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// As [`BlockStore::read_at`], if no disk has to be waited for (`preadv2(2)`, RWF_NOWAIT). `false`: it would wait,
    /// and `out` holds nothing to be used.
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_at_nowait(&self, out: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Reads sealed bytes, or holes: [`BlockStore::read_at`] into room for them.
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_sealed(&self, out: SealedMut<'_>, offset: u64) -> io::Result<()> {
        self.read_at(out.room(&AT_REST), offset)
    }

    /// The same by [`BlockStore::read_at_nowait`].
    ///
    /// # Errors
    /// As [`BlockStore::read_at`].
    fn read_sealed_nowait(&self, out: SealedMut<'_>, offset: u64) -> io::Result<bool> {
        self.read_at_nowait(out.room(&AT_REST), offset)
    }

    /// Writes sealed bytes at `offset`, never past the end. On return they survive the death of this process, not a power loss.
    ///
    /// # Errors
    /// As above; a failed write may have been done in part.
    fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()>;

    /// Writes bytes of the volume's own structures.
    ///
    /// # Errors
    /// As [`BlockStore::write_at`].
    fn write_meta(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range read as zeros; `keep` keeps its space allocated (ZERO_RANGE), else it is given back (PUNCH_HOLE).
    /// Never past the end; whole parts (512 bytes) only.
    ///
    /// # Errors
    /// As [`BlockStore::write_at`].
    fn zero(&self, offset: u64, len: u64, keep: bool) -> io::Result<()>;

    /// Start of the first data at or after `offset` (SEEK_DATA); `None`: only holes up to the end. What it skips reads
    /// as zeros; what it finds may be zeros too.
    ///
    /// # Errors
    /// As above.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// End of the data that `offset` lies in (SEEK_HOLE).
    ///
    /// # Errors
    /// As above.
    fn next_hole(&self, offset: u64) -> io::Result<u64>;

    /// How a range is stored of which [`BlockStore::next_data`] says that it is no data: the first bytes of it, and how
    /// they are. Where the file system does not tell, all of it is a hole.
    ///
    /// # Errors
    /// As above.
    fn stored(&self, _offset: u64, len: u64) -> io::Result<(u64, Stored)> {
        Ok((len, Stored::Hole))
    }

    /// Makes the store longer; the new part reads as zeros. A size that is not larger than the present one changes nothing: a
    /// store never shrinks.
    ///
    /// # Errors
    /// EFBIG or ENOSPC where it cannot be held.
    fn grow(&self, size: u64) -> io::Result<()>;

    /// All writes that ended before this began survive power loss.
    ///
    /// # Errors
    /// After one, nothing is known of those writes: never try again as if it had worked. The store does not latch the error:
    /// the next sync may succeed, and covers only what is written after the failure. The volume's syncer latches it.
    fn sync(&self) -> io::Result<()>;

    /// Lets others open it, also while this store is still referred to. Nothing may be written afterwards.
    ///
    /// # Errors
    /// As above.
    fn unlock(&self) -> io::Result<()>;

    /// Has a range begin its way to the disk, so that the next [`BlockStore::sync`] has less to do. A hint: it may fail, and
    /// nothing is durable by it.
    fn start_writeback(&self, _offset: u64, _len: u64) {}

    /// Which store this is: the same for all handles of one, as long as it is there.
    ///
    /// # Errors
    /// As above.
    fn identity(&self) -> io::Result<StoreIdentity>;
}

#[cfg(test)]
mod contract_tests;
