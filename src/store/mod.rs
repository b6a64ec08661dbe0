//! Sealed bytes at rest: one small trait, a file behind it, and a simulated disk that tests crash.
//!
//! A store is the whole volume file: header, map and sealed sectors. Sector data goes in as [`Sealed`] only; what a
//! volume keeps about itself (header, map, intent: nothing secret in the clear) goes in by `write_meta`.

mod ahead;
pub mod file;
pub mod grain;
mod scratch;
#[cfg(test)]
pub(crate) mod sim;

pub use scratch::Scratch;

use crate::cipher::{AtRest, Sealed, SealedMut};
use std::io;

/// Sector data comes into a store by [`BlockStore::write_at`] alone, so what is read of it was sealed.
struct OfStore;
impl AtRest for OfStore {}
const AT_REST: OfStore = OfStore;

/// Which file this is, to notice a copy or a replacement: order 6 of docs/format.md trusts nothing across a change.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileIdentity {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Birth time in nanoseconds since 1970, where the file system keeps one (`statx(2)`, STATX_BTIME).
    pub birth: Option<i64>,
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
    /// `UnexpectedEof` past the end.
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

    /// Writes sealed bytes at `offset`. On return they survive the death of this process, not a power loss.
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

    /// Makes the file longer. Never called with less than it has.
    ///
    /// # Errors
    /// EFBIG or ENOSPC where the file system cannot hold it.
    fn grow(&self, size: u64) -> io::Result<()>;

    /// `fdatasync(2)`: all writes that ended before this began survive power loss.
    ///
    /// # Errors
    /// After one, nothing is known of those writes: never try again as if it had worked.
    fn sync(&self) -> io::Result<()>;

    /// Lets others open it, also while this store is still referred to. Nothing may be written afterwards.
    ///
    /// # Errors
    /// As above.
    fn unlock(&self) -> io::Result<()>;

    /// Has a range begin its way to the disk, so that the next [`BlockStore::sync`] has less to do. A hint: it may fail, and
    /// nothing is durable by it.
    fn start_writeback(&self, _offset: u64, _len: u64) {}

    /// Room beside it, for what is sealed and need not outlive this process.
    ///
    /// # Errors
    /// As above.
    fn scratch(&self) -> io::Result<Scratch>;

    /// Which file this is.
    ///
    /// # Errors
    /// As above.
    fn identity(&self) -> io::Result<FileIdentity>;
}
