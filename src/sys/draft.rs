//! Writes a new file that appears complete or not at all: it has no name until it is complete and synced.
//!
//! Where the file system supports it, the draft is an unnamed file (O_TMPFILE): however the process ends, nothing is
//! left. Elsewhere it is called `NAME.partial`, and locked while its writer lives; the next draft replaces one that a
//! killed process left.

use super::{LockKind, ofd_lock};
use crate::error::{Error, IoContext, Kind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file being written. Dropped before [`Draft::publish`], it leaves nothing.
pub struct Draft {
    file: File,
    path: PathBuf,
    partial: Option<PathBuf>,
    replaces: bool,
}

impl Draft {
    /// Starts a file of mode 0600 at `path`, where there must be none.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something is there; [`Kind::Busy`] if another process is writing the same file.
    pub fn new(path: &Path) -> Result<Self> {
        let what = || format!("create {}", path.display());
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::io(what(), std::io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder_of(path), flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self { file: file.into(), path: path.to_owned(), partial: None, replaces: false }),
            // The kernel or the file system has no O_TMPFILE.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                Self::named(path)
            }
            Err(e) => Err(Error::io(what(), e.into())),
        }
    }

    /// Starts a file of mode 0600 that takes the place of the one at `path`, if there is one. It is called `NAME.partial` until
    /// then.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something else than a regular file is there; [`Kind::Busy`] if another process is writing the same
    /// file.
    pub fn replacing(path: &Path) -> Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            let what = format!("replace {}: it is not a regular file", path.display());
            return Err(Error::new(Kind::Exists, what).hint("choose another file"));
        }
        let mut draft = Self::named(path)?;
        draft.replaces = true;
        Ok(draft)
    }

    /// Starts it under the name `NAME.partial`.
    fn named(path: &Path) -> Result<Self> {
        let mut name = OsString::from(path);
        name.push(".partial");
        let partial = PathBuf::from(name);
        let what = || format!("create {}", partial.display());
        let busy = || {
            Error::new(Kind::Busy, format!("{} is being written by another process", partial.display()))
                .hint("wait until it is done, or choose another file")
        };
        if let Ok(left) = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&partial) {
            if !ofd_lock(&left, LockKind::Exclusive, 0, 1).on(what)? {
                return Err(busy());
            }
            tracing::warn!("{} was left behind by a killed run and is replaced", partial.display());
            std::fs::remove_file(&partial).on(what)?;
        }
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&partial).on(what)?;
        if !ofd_lock(&file, LockKind::Exclusive, 0, 1).on(what)? {
            return Err(busy());
        }
        Ok(Self { file, path: path.to_owned(), partial: Some(partial), replaces: false })
    }

    /// Returns the file to write to.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path that it will be published at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file, gives it its name and syncs the directory.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something has taken the name; else what the operating system reports. Nothing is left
    /// behind.
    pub fn publish(mut self) -> Result<()> {
        let what = || format!("write {}", self.path.display());
        self.file.sync_all().on(what)?;
        match &self.partial {
            None => self.link().on(|| format!("create {}", self.path.display()))?,
            Some(partial) if self.replaces => {
                std::fs::rename(partial, &self.path).on(what)?;
                self.partial = None;
            }
            Some(partial) => {
                move_without_replacing(partial, &self.path).on(|| format!("create {}", self.path.display()))?;
                self.partial = None;
            }
        }
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).on(what)
    }

    fn link(&self) -> rustix::io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(CWD, own, CWD, &self.path, AtFlags::SYMLINK_FOLLOW) {
            // Without /proc. Needs root, or Linux 6.10 or newer.
            Err(rustix::io::Errno::NOENT) => rustix::fs::linkat(&self.file, "", CWD, &self.path, AtFlags::EMPTY_PATH),
            done => done,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = std::fs::remove_file(partial);
        }
    }
}

fn move_without_replacing(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        done => done,
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    type Make = fn(&Path) -> Result<Draft>;
    const WAYS: [Make; 2] = [Draft::new, Draft::named];

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        for make in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let draft = make(&path).unwrap();
            draft.file().write_all(b"half").unwrap();
            assert!(!path.exists());
            drop(draft);
            assert_eq!(names(dir.path()), [""; 0], "given up");
            let draft = make(&path).unwrap();
            draft.file().write_all(b"whole").unwrap();
            draft.publish().unwrap();
            assert_eq!(names(dir.path()), ["out"]);
            assert_eq!(std::fs::read(&path).unwrap(), b"whole");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(Draft::new(&path).err().unwrap().kind(), Kind::Exists);
        }
    }

    #[test]
    fn a_file_is_replaced_once_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "old").unwrap();
        std::fs::write(dir.path().join("out.partial"), "of a killed one").unwrap();
        let draft = Draft::replacing(&path).unwrap();
        draft.file().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(draft);
        assert_eq!((names(dir.path()), std::fs::read(&path).unwrap()), (vec!["out".to_owned()], b"old".to_vec()));
        let draft = Draft::replacing(&path).unwrap();
        draft.file().write_all(b"new").unwrap();
        draft.publish().unwrap();
        assert_eq!((names(dir.path()), std::fs::read(&path).unwrap()), (vec!["out".to_owned()], b"new".to_vec()));
        std::os::unix::fs::symlink("out", dir.path().join("link")).unwrap();
        for other in ["link", "."] {
            assert_eq!(Draft::replacing(&dir.path().join(other)).err().unwrap().kind(), Kind::Exists);
        }
    }

    #[test]
    fn what_came_meanwhile_is_not_overwritten() {
        for make in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let draft = make(&path).unwrap();
            std::fs::write(&path, "mine").unwrap();
            assert_eq!(draft.publish().unwrap_err().kind(), Kind::Exists);
            assert_eq!(std::fs::read(&path).unwrap(), b"mine");
            assert_eq!(names(dir.path()), ["out"]);
        }
    }

    #[test]
    fn a_partial_file_of_a_killed_run_is_replaced_and_that_of_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(dir.path().join("out.partial"), "of a killed one").unwrap();
        let draft = Draft::named(&path).unwrap();
        assert_eq!(draft.file().metadata().unwrap().len(), 0);
        assert_eq!(Draft::named(&path).err().unwrap().kind(), Kind::Busy);
        assert_eq!(names(dir.path()), ["out.partial"], "the living one's is still there");
        draft.publish().unwrap();
        assert_eq!(names(dir.path()), ["out"]);
    }
}
