//! Space for sealed bytes that need not outlive this process: the sectors that writers preserve for a pending snapshot.

use super::AT_REST;
use crate::cipher::{Sealed, SealedMut};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A source of scratch space.
pub trait ScratchSpace: Send + Sync {
    /// Makes empty scratch space, which lasts until it is dropped or the process ends.
    ///
    /// # Errors
    /// What the operating system reports.
    fn scratch(&self) -> io::Result<Scratch>;
}

/// A file without a name on a disk of this host, wherever the volume itself is.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// Uses a file that nobody else uses.
    pub(super) const fn over(file: File) -> Self {
        Self(file)
    }

    #[cfg(test)]
    pub(super) const fn file(&self) -> &File {
        &self.0
    }

    /// Writes sealed bytes.
    ///
    /// # Errors
    /// What the operating system reports; so for all methods below.
    pub fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()> {
        self.0.write_all_at(data.bytes(), offset)
    }

    /// Reads sealed bytes back.
    ///
    /// # Errors
    /// `UnexpectedEof` past what was written.
    pub fn read_at(&self, out: SealedMut<'_>, offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out.room(&AT_REST), offset)
    }

    /// Whether its disk has less than a twentieth of its capacity free.
    ///
    /// # Errors
    /// As above.
    pub fn is_nearly_full(&self) -> io::Result<bool> {
        let room = rustix::fs::fstatvfs(&self.0)?;
        Ok(room.f_bavail < room.f_blocks / 20)
    }
}
