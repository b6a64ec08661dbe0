//! Preallocated disk space for the catalog: on a full disk it can still be opened, read, and written for a while.
//!
//! SQLite removes the WAL when it closes the database and creates a new one at the next write, which fails on a full
//! disk. So the WAL is kept under another name, `catalog.spare`, overwritten with zeros (removed data must not stay on
//! disk), and becomes the WAL again before the next open: to SQLite, a WAL that does not begin with the magic number is
//! empty. A kill is possible after each step: an existing WAL takes precedence over a spare one.

use crate::error::{IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, openat};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Pages in the WAL at which SQLite checkpoints it into the database and restarts it.
pub(super) const CHECKPOINT_PAGES: u32 = 128;
/// Bytes in a WAL's header, which begins with the magic number.
const HEAD: usize = 32;
/// Bytes allocated for the WAL: that many pages with their headers, and the largest transaction.
const WAL: u64 = 768 << 10;
/// Bytes allocated past the database's end.
const GROWTH: u64 = 128 << 10;

/// Returns the path of the WAL of the database at `path`.
fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn spare(path: &Path) -> PathBuf {
    path.with_extension("spare")
}

/// Checks that the files SQLite will open are plain files, puts the spare WAL in place, and allocates space.
pub(super) fn before_open(path: &Path) -> Result<()> {
    let (wal, spare) = (wal(path), spare(path));
    open_regular(path, &OpenHow::read())?;
    refuse_specials(path)?;
    if wal.symlink_metadata().is_ok() {
        open_regular(&wal, &OpenHow::read())?;
        if spare.symlink_metadata().is_ok() {
            std::fs::remove_file(&spare).on(|| format!("remove {}", spare.display()))?;
        }
    } else if let Ok(file) = open_regular(&spare, &OpenHow::write()) {
        clear(&file)
            .and_then(|()| std::fs::rename(&spare, &wal))
            .on(|| format!("take {} into use", spare.display()))?;
    }
    take_for_wal(path);
    // Not while SQLite has it open: closing it here would drop SQLite's locks, which are POSIX locks.
    if let Ok(file) = open_regular(path, &OpenHow::write())
        && let Ok(meta) = file.metadata()
    {
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, meta.len(), GROWTH);
    }
    Ok(())
}

/// Refuses what SQLite would open beside the database and is not a plain file: it waits on a FIFO, and follows a link.
pub(super) fn refuse_specials(path: &Path) -> Result<()> {
    for suffix in ["-journal", "-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        match open_regular(Path::new(&beside), &OpenHow::read()) {
            Err(err) if err.kind() == Kind::NotFound => {}
            found => drop(found?),
        }
    }
    Ok(())
}

/// Allocates space for the WAL, as far as there is room.
pub(super) fn take_for_wal(path: &Path) {
    if let Ok(file) = open_regular(&wal(path), &OpenHow::write().create()) {
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, WAL);
    }
}

/// Gives the WAL a second name, so that closing the database does not free its space.
pub(super) fn before_close(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let (wal, spare) = (wal(path), spare(path));
    std::fs::hard_link(&wal, &spare).ok().map(|()| (wal, spare))
}

/// Called after the database was closed: the WAL becomes the spare one, unless SQLite still needs it.
pub(super) fn after_close(names: Option<(PathBuf, PathBuf)>) {
    let Some((wal, spare)) = names else { return };
    let is_spare =
        || open_regular(&spare, &OpenHow::write()).and_then(|f| clear(&f).on(|| "clear the spare WAL".into()));
    if wal.symlink_metadata().is_ok() || is_spare().is_err() {
        let _ = std::fs::remove_file(&spare);
    }
}

/// Overwrites a spare WAL with zeros, in place. Its header is first, and synced: if power loss restored the name of a
/// WAL of which only the rest is gone, old pages would replace newer ones.
fn clear(file: &File) -> std::io::Result<()> {
    let end = file.metadata()?.len();
    let mut block = [0u8; 16 << 10];
    let mut at = 0;
    while at < end {
        let part = &mut block[..(end - at).min(16 << 10) as usize];
        file.read_exact_at(part, at)?;
        // Every block with frames has nonzero bytes; after the last frame there are zeros from the last time.
        if part.iter().all(|b| *b == 0) {
            break;
        }
        part.fill(0);
        if at == 0 {
            file.write_all_at(&part[..part.len().min(HEAD)], 0)?;
            file.sync_data()?;
        }
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Whether the file system, or the user's quota, has no space left for even a few blocks.
pub(super) fn is_out(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let probe = openat(rustix::fs::CWD, folder, flags, Mode::RUSR | Mode::WUSR)
        .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, 64 << 10));
    matches!(probe, Err(Errno::NOSPC | Errno::DQUOT))
}
