//! A volume in one sparse file: positional reads and writes, `fdatasync`, an OFD lock as the fence.

use super::ahead::Ahead;
use super::folio_hints::{FolioHints, Pages};
use super::{BlockStore, SpillFile, SpillSpace, StoreIdentity, Stored};
use crate::cipher::Sealed;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::sys::{LockKind, ofd_lock, ofd_unlock};
use crate::units::VolumeId;
use parking_lot::Mutex;
use rustix::fs::{Advice, AtFlags, FallocateFlags, OFlags, SeekFrom, StatxFlags};
use rustix::fs::{fadvise, fallocate, fdatasync, seek, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size limit of one `pwrite(2)`, in bytes, and its alignment.
///
/// The length of the first write to a range decides how large the page cache's folios are there (ext4 since Linux 6.16,
/// XFS for longer), and ext4 walks all blocks of a folio for each later write into it: after 256 KiB writes a random 4
/// KiB write costs three times as much as after 32 KiB writes (docs/performance.md has the figures).
const WRITE_STEP: u64 = 16 * 1024;
/// The same limit where the pages were made by such writes already.
const REWRITE_STEP: u64 = 64 * 1024;

/// Extension of the files that hold spills.
pub(super) const SPILL: &str = "spill";

/// The file of one volume, open and locked.
#[derive(Debug)]
pub struct FileStore {
    file: File,
    path: PathBuf,
    ahead: Ahead,
    folio_hints: Arc<FolioHints>,
    /// Held from checking the file's length to changing it.
    growing: Mutex<()>,
}

/// File systems on which an OFD lock does not fence other hosts: NFS, CIFS/SMB2, FUSE, 9p, Ceph (statfs(2) magics).
const SHARED: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
];

impl FileStore {
    fn of(file: File, path: PathBuf) -> Self {
        Self { file, path, ahead: Ahead::default(), folio_hints: Arc::default(), growing: Mutex::default() }
    }

    /// Opens and locks a volume file: exclusively if `writable`, else shared with other readers.
    ///
    /// The lock is taken before a byte is read, and the path is checked again after it: a file that was replaced or
    /// unlinked meanwhile is no longer the volume.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Busy`] if another process holds it; [`Kind::Unsupported`] on a shared file system,
    /// unless `single_host` says that no other host opens it.
    pub fn open(path: &Path, writable: bool, single_host: bool) -> Result<Self> {
        let what = || format!("open volume file {}", path.display());
        let how = if writable { OpenHow::write() } else { OpenHow::read() };
        let file = open_regular(path, &how).map_err(|e| e.context("open volume file"))?;
        if !single_host {
            refuse_shared(&file, path)?;
        }
        let kind = if writable { LockKind::Exclusive } else { LockKind::Shared };
        if !ofd_lock(&file, kind, 0, 0).on(what)? {
            return Err(Error::new(Kind::Busy, format!("{}: locked by another process", what()))
                .hint("stop the other coffer that serves this volume"));
        }
        let (held, named) = (file.metadata().on(what)?, std::fs::symlink_metadata(path).on(what)?);
        if (held.dev(), held.ino()) != (named.dev(), named.ino()) || held.nlink() == 0 {
            return Err(Error::new(Kind::Busy, format!("{}: replaced while it was being opened", what())));
        }
        // A file system that does not support this advice uses its own read-ahead.
        let _ = fadvise(&file, 0, None, Advice::Random);
        Ok(Self::of(file, path.to_owned()))
    }

    /// Adds what is known about the file's pages from the last time it was open.
    #[must_use]
    pub fn with_folio_hints(self, folio_hints: Arc<FolioHints>) -> Self {
        Self { folio_hints, ..self }
    }

    /// Creates a locked file of `size` bytes under the temporary name `.new` beside `path`, replacing a leftover;
    /// [`FileStore::publish`] gives it the name `path`.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] if the file system cannot hold a file of that size; otherwise as [`FileStore::open`].
    pub fn create_unnamed(path: &Path, size: u64, single_host: bool) -> Result<Self> {
        let what = || format!("create volume file {}", path.display());
        let temporary = path.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).on(what),
            _ => {}
        }
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&temporary).on(what)?;
        let made = Self::of(file, temporary);
        let ready = made.prepare(size, single_host, &what);
        if ready.is_err() {
            let _ = std::fs::remove_file(&made.path);
        }
        ready.map(|()| made)
    }

    fn prepare(&self, size: u64, single_host: bool, what: &dyn Fn() -> String) -> Result<()> {
        if !single_host {
            refuse_shared(&self.file, &self.path)?;
        }
        if !ofd_lock(&self.file, LockKind::Exclusive, 0, 0).on(what)? {
            return Err(Error::new(Kind::Busy, format!("{}: being created by another process", what())));
        }
        self.file.set_len(size).map_err(|e| {
            Error::io(format!("{}: cannot have {size} bytes", what()), e)
                .hint("choose a smaller --size, or keep the data on XFS: a file on ext4 is limited to 16 TiB, including the header")
        })
    }

    /// Gives the finished file its name: sync, link (which fails if the name is taken), sync the directory.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something has that name.
    pub fn publish(&mut self, path: &Path) -> Result<()> {
        let what = || format!("create volume file {}", path.display());
        self.file.sync_all().on(what)?;
        std::fs::hard_link(&self.path, path).on(what)?;
        std::fs::remove_file(&self.path).on(what)?;
        self.path = path.to_owned();
        sync_parent(path)
    }
}

/// Syncs the directory that contains `path`, so that its name survives power loss.
///
/// # Errors
/// What the operating system reports.
pub fn sync_parent(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).on(|| format!("sync folder {}", folder.display()))
}

/// Spills in a directory, `<volume id>.spill`.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Keeps spills in the directory `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn path(&self, volume: VolumeId) -> PathBuf {
        self.0.join(format!("{volume}.{SPILL}"))
    }
}

impl SpillSpace for Folder {
    fn create_spill(&self, volume: VolumeId) -> io::Result<SpillFile> {
        // A new file, so that no handle to an older spill writes into it.
        self.remove_spill(volume)?;
        let how = File::options().read(true).write(true).create_new(true).mode(0o600).open(self.path(volume))?;
        Ok(SpillFile::over(how))
    }

    fn open_spill(&self, volume: VolumeId) -> io::Result<Option<SpillFile>> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        match File::options().read(true).write(true).custom_flags(flags).open(self.path(volume)) {
            Ok(file) => Ok(Some(SpillFile::over(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn remove_spill(&self, volume: VolumeId) -> io::Result<()> {
        match std::fs::remove_file(self.path(volume)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

fn refuse_shared(file: &File, path: &Path) -> Result<()> {
    let magic = rustix::fs::fstatfs(file).on(|| format!("statfs {}", path.display()))?.f_type as u64 & 0xffff_ffff;
    match SHARED.iter().find(|(m, _)| *m == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} is on {name}, where other hosts can also write: file locks do not exclude them",
                path.display()
            ),
        )
        .hint("keep volumes on a local file system, or use --single-host-i-know")),
    }
}

impl BlockStore for FileStore {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at_nowait(out, offset)? {
            return Ok(());
        }
        self.folio_hints.forget(offset, out.len() as u64);
        if let Some((at, len)) = self.ahead.after_miss(offset, out.len() as u64) {
            self.folio_hints.forget(at, len);
            let _ = fadvise(&self.file, at, NonZeroU64::new(len), Advice::WillNeed);
        }
        self.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "past the end of the file, which was truncated"),
            _ => e,
        })
    }

    fn read_at_nowait(&self, out: &mut [u8], offset: u64) -> io::Result<bool> {
        let want = out.len();
        match preadv2(&self.file, &mut [io::IoSliceMut::new(out)], offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n == want),
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()> {
        let (mut at, mut rest) = (offset, data.bytes());
        let len = rest.len() as u64;
        // Hints do not matter to small writes.
        let pages = if len > WRITE_STEP { self.folio_hints.write(offset, len) } else { Pages::Unknown };
        if pages == Pages::ToBeMade {
            let _ = fadvise(&self.file, offset, NonZeroU64::new(len), Advice::DontNeed);
        }
        let most = if pages == Pages::Made { REWRITE_STEP } else { WRITE_STEP };
        while !rest.is_empty() {
            let step = (most - at % most).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at(step);
            self.file.write_all_at(now, at)?;
            (at, rest) = (at + step as u64, later);
        }
        Ok(())
    }

    fn write_meta(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, keep: bool) -> io::Result<()> {
        self.folio_hints.gone(offset, len);
        let flags = if keep {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        };
        match fallocate(&self.file, flags, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => write_zeros(&self.file, offset, len),
            Err(e) => Err(e.into()),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL) => Ok(Some(offset)), // no SEEK_DATA here: all of it may be data
            Err(e) => Err(e.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(at) => Ok(at),
            Err(Errno::NXIO | Errno::INVAL) => self.size(),
            Err(e) => Err(e.into()),
        }
    }

    fn stored(&self, offset: u64, len: u64) -> io::Result<(u64, Stored)> {
        let end = offset + len;
        let Some(extent) = crate::sys::first_extent(&self.file, offset, len)?.filter(|e| e.start < end) else {
            return Ok((len, Stored::Hole));
        };
        if extent.start > offset {
            return Ok((extent.start - offset, Stored::Hole));
        }
        let kind = if extent.unwritten { Stored::Zeros } else { Stored::Data };
        Ok(((extent.end.min(end) - offset).max(1), kind))
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let _one_at_a_time = self.growing.lock();
        if self.file.metadata()?.len() >= size {
            return Ok(()); // ftruncate(2) would shrink it
        }
        self.file.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        // Best effort: where the file system cannot do it, the sync does all the work; a disk error is reported by the
        // sync.
        let _ = crate::sys::start_writeback(&self.file, offset, len);
    }

    fn unlock(&self) -> io::Result<()> {
        ofd_unlock(&self.file, 0, 0)
    }

    fn identity(&self) -> io::Result<StoreIdentity> {
        let stat = statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        let birth = (stat.stx_mask & StatxFlags::BTIME.bits() != 0)
            .then(|| stat.stx_btime.tv_sec * 1_000_000_000 + i64::from(stat.stx_btime.tv_nsec));
        let meta = self.file.metadata()?;
        Ok(StoreIdentity { holder: meta.dev(), number: meta.ino(), born: birth })
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = [0u8; 64 * 1024];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], offset + done)?;
        done += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode};

    #[test]
    fn a_second_opener_is_refused_as_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut a = FileStore::create_unnamed(&path, 8192, false).unwrap();
        a.publish(&path).unwrap();
        assert_eq!(FileStore::open(&path, true, false).unwrap_err().kind(), Kind::Busy);
        drop(a);
        let reader = FileStore::open(&path, false, false).unwrap();
        FileStore::open(&path, false, false).unwrap();
        assert_eq!(FileStore::open(&path, true, false).unwrap_err().kind(), Kind::Busy);
        drop(reader);
    }

    #[test]
    fn a_spill_is_private_and_survives_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, volume) = (Folder::new(dir.path()), VolumeId::draw(&crate::env::SystemRng));
        assert!(folder.open_spill(volume).unwrap().is_none());
        let old = folder.create_spill(volume).unwrap();
        let spill = folder.create_spill(volume).unwrap();
        old.write_head(b"of a handle to an older one").unwrap();
        spill.write_records(&[(b"head", Sealed::made_up(b"body"))], 4096).unwrap();
        assert_eq!(spill.file().metadata().unwrap().mode() & 0o777, 0o600);
        let again = folder.open_spill(volume).unwrap().unwrap();
        let mut seen = [1; 16];
        assert_eq!(again.read_at(&mut seen, 4092).unwrap(), 12);
        assert_eq!(seen[..12], *b"\0\0\0\0headbody");
        folder.remove_spill(volume).unwrap();
        folder.remove_spill(volume).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_name_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), [0; 8192]).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let all = [("link", "a symbolic link"), ("folder", "a directory"), ("fifo", "a FIFO"), ("socket", "a socket")];
        for (name, told) in all {
            for writable in [true, false] {
                let err = FileStore::open(&at(name), writable, true).unwrap_err();
                assert_eq!(err.kind(), Kind::Integrity, "{name}");
                assert!(err.line().contains(told) && err.advice().is_some(), "{}", err.line());
            }
        }
        FileStore::open(Path::new("/dev/null"), true, true).unwrap_err();
        FileStore::open(&at("file"), true, true).unwrap();
    }

    #[test]
    fn room_that_is_kept_is_told_from_a_hole() {
        // On the disk of the build: /tmp may be another kind of file system.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let store = FileStore::create_unnamed(&dir.path().join("v"), 1 << 20, true).unwrap();
        let told = |at| store.stored(at, 65_536).unwrap();
        assert_eq!(told(0), (65_536, Stored::Hole));
        store.zero(32_768, 65_536, true).unwrap();
        if store.next_data(32_768).unwrap() == Some(32_768) {
            return; // zeros were written: they are data to this file system
        }
        assert_eq!(told(0), (32_768, Stored::Hole));
        assert_eq!(told(32_768), (65_536, Stored::Zeros));
        assert_eq!(told(65_536), (32_768, Stored::Zeros));
        assert_eq!(told(98_304), (65_536, Stored::Hole));
    }

    #[test]
    fn growing_never_makes_a_file_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::create_unnamed(&dir.path().join("v"), 8192, false).unwrap();
        store.grow(1 << 20).unwrap();
        store.write_at(Sealed::made_up(&[7; 4096]), (1 << 20) - 4096).unwrap();
        store.grow(16_384).unwrap();
        assert_eq!(store.size().unwrap(), 1 << 20);
        let mut buf = [0; 4096];
        store.read_at(&mut buf, (1 << 20) - 4096).unwrap();
        assert_eq!(buf, [7; 4096]);
    }

    #[test]
    fn publish_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        std::fs::write(&path, b"somebody's").unwrap();
        let mut made = FileStore::create_unnamed(&path, 8192, false).unwrap();
        assert_eq!(made.publish(&path).unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
    }

    #[test]
    fn holes_data_and_zeroing_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let store = FileStore::create_unnamed(&path, 1 << 30, false).unwrap();
        assert_eq!(store.next_data(0).unwrap(), None);
        store.write_at(Sealed::made_up(&[7; 8192]), 1 << 20).unwrap();
        assert_eq!(store.next_data(0).unwrap(), Some(1 << 20));
        assert_eq!(store.next_hole(1 << 20).unwrap(), (1 << 20) + 8192);
        store.zero(1 << 20, 4096, false).unwrap();
        store.zero((1 << 20) + 4096, 4096, true).unwrap();
        let mut buf = [1u8; 8192];
        store.read_at(&mut buf, 1 << 20).unwrap();
        assert_eq!(buf, [0; 8192]);
        assert!(store.read_at(&mut buf, (1 << 30) - 100).is_err());
    }
}
