//! A store that calls a hook before each operation, which may reject it: for scripted faults and read-only handles.

use super::{BlockStore, StoreIdentity, Stored};
use crate::cipher::Sealed;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// An operation of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Size,
    Read,
    Write,
    Meta,
    Zero,
    Seek,
    Grow,
    Sync,
    Unlock,
    Identity,
}

impl Op {
    pub(crate) const ALL: [Self; 10] = [
        Self::Size,
        Self::Read,
        Self::Write,
        Self::Meta,
        Self::Zero,
        Self::Seek,
        Self::Grow,
        Self::Sync,
        Self::Unlock,
        Self::Identity,
    ];

    /// Whether it changes the store.
    pub(crate) const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Meta | Self::Zero | Self::Grow)
    }
}

/// A store with a hook; see the module's documentation.
pub(crate) struct Watched<F> {
    below: Arc<dyn BlockStore>,
    before: F,
}

impl<F: Fn(Op) -> io::Result<()> + Send + Sync> Watched<F> {
    pub(crate) fn over(below: Arc<dyn BlockStore>, before: F) -> Self {
        Self { below, before }
    }
}

/// The scripted failure, which happens once: the operation, how many of its calls succeed first, and the error number.
pub(crate) type Script = Arc<Mutex<Option<(Op, u64, i32)>>>;

/// Wraps a store so that it fails as scripted.
pub(crate) fn faulty(below: Arc<dyn BlockStore>, script: Script) -> Arc<dyn BlockStore> {
    Arc::new(Watched::over(below, move |op| {
        let mut script = script.lock();
        match &mut *script {
            Some((bad, 0, errno)) if *bad == op => {
                let errno = *errno;
                *script = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some((bad, left, _)) if *bad == op => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }))
}

impl<F: Fn(Op) -> io::Result<()> + Send + Sync> BlockStore for Watched<F> {
    fn size(&self) -> io::Result<u64> {
        (self.before)(Op::Size)?;
        self.below.size()
    }
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        (self.before)(Op::Read)?;
        self.below.read_at(out, offset)
    }
    fn read_at_nowait(&self, out: &mut [u8], offset: u64) -> io::Result<bool> {
        (self.before)(Op::Read)?;
        self.below.read_at_nowait(out, offset)
    }
    fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()> {
        (self.before)(Op::Write)?;
        self.below.write_at(data, offset)
    }
    fn write_meta(&self, data: &[u8], offset: u64) -> io::Result<()> {
        (self.before)(Op::Meta)?;
        self.below.write_meta(data, offset)
    }
    fn zero(&self, offset: u64, len: u64, keep: bool) -> io::Result<()> {
        (self.before)(Op::Zero)?;
        self.below.zero(offset, len, keep)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        (self.before)(Op::Seek)?;
        self.below.next_data(offset)
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        (self.before)(Op::Seek)?;
        self.below.next_hole(offset)
    }
    fn stored(&self, offset: u64, len: u64) -> io::Result<(u64, Stored)> {
        (self.before)(Op::Seek)?;
        self.below.stored(offset, len)
    }
    fn grow(&self, size: u64) -> io::Result<()> {
        (self.before)(Op::Grow)?;
        self.below.grow(size)
    }
    fn sync(&self) -> io::Result<()> {
        (self.before)(Op::Sync)?;
        self.below.sync()
    }
    fn unlock(&self) -> io::Result<()> {
        (self.before)(Op::Unlock)?;
        self.below.unlock()
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.below.start_writeback(offset, len);
    }
    fn identity(&self) -> io::Result<StoreIdentity> {
        (self.before)(Op::Identity)?;
        self.below.identity()
    }
}
