//! Spills: where writers keep, beside a volume, the sealed sectors that its pending snapshots still need.

use super::AT_REST;
use crate::cipher::{Sealed, SealedMut};
use crate::units::VolumeId;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Keeps at most one spill per volume. It survives the death of the process, and power loss once it is synced.
pub trait SpillSpace: Send + Sync {
    /// Creates an empty spill for a volume, in place of an older one.
    ///
    /// # Errors
    /// What the operating system reports; so for all methods below.
    fn create_spill(&self, volume: VolumeId) -> io::Result<SpillFile>;

    /// Opens a volume's spill. `None`: it has none.
    ///
    /// # Errors
    /// As above.
    fn open_spill(&self, volume: VolumeId) -> io::Result<Option<SpillFile>>;

    /// Removes a volume's spill, if it has one.
    ///
    /// # Errors
    /// As above.
    fn remove_spill(&self, volume: VolumeId) -> io::Result<()>;
}

/// A file on a disk of this host, wherever the volume itself is.
#[derive(Debug)]
pub struct SpillFile(File);

impl SpillFile {
    /// Uses a file that nobody else writes.
    pub(super) const fn over(file: File) -> Self {
        Self(file)
    }

    #[cfg(test)]
    pub(super) const fn file(&self) -> &File {
        &self.0
    }

    /// Writes records, each a head and its sealed body, one after the other.
    ///
    /// # Errors
    /// What the operating system reports; so for all methods below.
    pub fn write_records(&self, records: &[(&[u8], Sealed<'_>)], offset: u64) -> io::Result<()> {
        let len = records.iter().map(|(head, body)| head.len() + body.bytes().len()).sum();
        let mut all = Vec::with_capacity(len);
        for (head, body) in records {
            all.extend_from_slice(head);
            all.extend_from_slice(body.bytes());
        }
        self.0.write_all_at(&all, offset)
    }

    /// Ends the file at `len`.
    ///
    /// # Errors
    /// As above.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Writes the spill's header.
    ///
    /// # Errors
    /// As above.
    pub fn write_head(&self, head: &[u8]) -> io::Result<()> {
        self.0.write_all_at(head, 0)
    }

    /// Reads sealed bytes back.
    ///
    /// # Errors
    /// `UnexpectedEof` past what was written.
    pub fn read_sealed(&self, out: SealedMut<'_>, offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out.room(&AT_REST), offset)
    }

    /// Reads up to `out.len()` bytes; less only at the end.
    ///
    /// # Errors
    /// As above.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match self.0.read_at(&mut out[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Makes what was written survive power loss.
    ///
    /// # Errors
    /// As above.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
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
