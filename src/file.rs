//! Opens files in directories that others may have written to: never a symbolic link, a FIFO, a device or a directory.
//!
//! A plain `open(2)` follows symbolic links, blocks for ever on a FIFO, and succeeds on a directory. The checks here
//! are made on the open file, not on the path, so nothing can be swapped in between.

use crate::error::{Error, IoContext, Kind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// Syncs a directory, so that names in it survive power loss.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).on(|| format!("sync the folder {}", path.display()))
}

/// How [`open_regular`] opens a file, and what it requires of the file.
#[derive(Debug, Clone, Copy)]
pub struct OpenHow<'a> {
    write: bool,
    create: bool,
    new: bool,
    mode: u32,
    follow: bool,
    owner: Option<u32>,
    private: bool,
    beneath: Option<&'a Path>,
}

impl<'a> OpenHow<'a> {
    /// Opens an existing file for reading.
    #[must_use]
    pub const fn read() -> Self {
        let (write, create, new, follow, private) = (false, false, false, false, false);
        Self { write, create, new, mode: 0o600, follow, owner: None, private, beneath: None }
    }

    /// Opens an existing file for reading and writing. Does not truncate it: do that on the open file.
    #[must_use]
    pub const fn write() -> Self {
        Self { write: true, ..Self::read() }
    }

    /// Creates the file, mode 0600, if it is missing.
    #[must_use]
    pub const fn create(mut self) -> Self {
        self.create = true;
        self
    }

    /// Creates the file, mode 0600; fails with [`Kind::Exists`] if anything has that name.
    #[must_use]
    pub const fn create_new(mut self) -> Self {
        self.new = true;
        self
    }

    /// Sets the mode of a new file, less the umask; 0600 by default.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Follows symbolic links: for a path given on the command line.
    #[must_use]
    pub const fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Rejects a file that is not owned by `uid`.
    #[must_use]
    pub const fn owned_by(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// Rejects a file that group or others can read or write.
    #[must_use]
    pub const fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Rejects symbolic links in every component of the path below `folder`, not only the last. The path must be below
    /// `folder`.
    #[must_use]
    pub const fn beneath(mut self, folder: &'a Path) -> Self {
        self.beneath = Some(folder);
        self
    }
}

/// Opens a regular file, close-on-exec, without blocking and without following a symbolic link in the last component.
///
/// # Errors
/// [`Kind::Integrity`], naming the type, if it is not a regular file; [`Kind::AccessDenied`] for the wrong owner or
/// mode; else what the operating system reports.
pub fn open_regular(path: &Path, how: &OpenHow<'_>) -> Result<File> {
    let what = || format!("open {}", path.display());
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    flags |= if how.write { OFlags::RDWR } else { OFlags::RDONLY };
    for (wanted, flag) in
        [(!how.follow, OFlags::NOFOLLOW), (how.create, OFlags::CREATE), (how.new, OFlags::CREATE | OFlags::EXCL)]
    {
        if wanted {
            flags |= flag;
        }
    }
    let opened = match how.beneath {
        None => openat(CWD, path, flags, Mode::from_raw_mode(how.mode)),
        Some(folder) => open_beneath(folder, path, flags, how.mode),
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NODEV | Errno::NOTDIR) => return Err(irregular(path)),
        Err(e) => return Err(Error::io(what(), e.into())),
    };
    let meta = file.metadata().on(what)?;
    if !meta.is_file() {
        return Err(irregular(path));
    }
    if let Some(owner) = how.owner.filter(|owner| *owner != meta.uid()) {
        let shown = path.display();
        let what = format!("{shown}: owned by uid {}, not by uid {owner}", meta.uid());
        return Err(Error::new(Kind::AccessDenied, what)
            .hint(format!("find out where it came from; if it is yours, run `chown {owner} {shown}`")));
    }
    if how.private && meta.mode() & 0o077 != 0 {
        let shown = path.display();
        let what = format!("{shown}: other users can read or write it (mode {:04o})", meta.mode() & 0o7777);
        return Err(Error::new(Kind::AccessDenied, what).hint(format!("run `chmod 600 {shown}`")));
    }
    Ok(file)
}

/// Opens `path` one component at a time, starting at `folder`.
fn open_beneath(folder: &Path, path: &Path, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let below = path.strip_prefix(folder).map_err(|_| Errno::XDEV)?;
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, folder, step, Mode::empty())?;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::XDEV) };
        if names.peek().is_none() {
            return openat(&at, name, flags | OFlags::NOFOLLOW, Mode::from_raw_mode(mode));
        }
        at = openat(&at, name, step | OFlags::NOFOLLOW, Mode::empty())?;
        // Where O_DIRECTORY does not already reject it, O_PATH opens the symbolic link itself.
        if rustix::fs::FileType::from_raw_mode(fstat(&at)?.st_mode) != rustix::fs::FileType::Directory {
            return Err(Errno::NOTDIR);
        }
    }
    Err(Errno::ISDIR)
}

/// Makes the error for something that is not a regular file, naming its type.
fn irregular(path: &Path) -> Error {
    use rustix::fs::FileType;
    let is = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map(|s| FileType::from_raw_mode(s.st_mode));
    let is = match is {
        Ok(FileType::Symlink) => "a symbolic link",
        Ok(FileType::Fifo) => "a FIFO",
        Ok(FileType::Directory) => "a directory",
        Ok(FileType::Socket) => "a socket",
        Ok(FileType::CharacterDevice | FileType::BlockDevice) => "a device",
        _ => "reached through a symbolic link or a non-directory",
    };
    Error::new(Kind::Integrity, format!("open {}: it is {is}, not a regular file", path.display()))
        .hint("find out where it came from, and restore the file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"x").unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("gone"), at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for how in [OpenHow::read(), OpenHow::write(), OpenHow::write().create(), OpenHow::read().beneath(dir.path())] {
            open_regular(&at("file"), &how).unwrap();
            for (name, says) in [
                ("fifo", "a FIFO"),
                ("folder", "a directory"),
                ("link", "a symbolic link"),
                ("dangling", "a symbolic link"),
                ("socket", "a socket"),
            ] {
                let err = open_regular(&at(name), &how).unwrap_err();
                assert_eq!(err.kind(), Kind::Integrity, "{name}: {}", err.line());
                assert!(err.what().contains(says), "{name}: {}", err.line());
            }
        }
        let err = open_regular(Path::new("/dev/null"), &OpenHow::read()).unwrap_err();
        assert!(err.what().contains("a device"), "{}", err.line());
        open_regular(&at("link"), &OpenHow::read().follow()).unwrap();
        assert_eq!(open_regular(&at("gone"), &OpenHow::read()).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(open_regular(&at("file"), &OpenHow::write().create_new()).unwrap_err().kind(), Kind::Exists);
        assert!(!at("gone").exists(), "nothing was made through the dangling link");
    }

    #[test]
    fn beneath_a_folder_no_part_of_the_path_is_a_link_or_leads_out() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("file"), b"x").unwrap();
        symlink(other.path(), dir.path().join("linked")).unwrap();
        let how = OpenHow::read().beneath(dir.path());
        assert_eq!(open_regular(&dir.path().join("linked/file"), &how).unwrap_err().kind(), Kind::Integrity);
        open_regular(&dir.path().join("linked/file"), &OpenHow::read()).unwrap();
        open_regular(&dir.path().join("../file"), &how).unwrap_err();
        open_regular(&other.path().join("file"), &how).unwrap_err();
    }

    #[test]
    fn mode_and_owner_are_those_of_the_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = open_regular(&path, &OpenHow::write().create_new()).unwrap();
        let uid = made.metadata().unwrap().uid();
        open_regular(&path, &OpenHow::read().private().owned_by(uid)).unwrap();
        let err = open_regular(&path, &OpenHow::read().owned_by(uid + 1)).unwrap_err();
        assert_eq!(err.kind(), Kind::AccessDenied, "{}", err.line());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let err = open_regular(&path, &OpenHow::read().private()).unwrap_err();
        assert!(err.line().contains("chmod 600"), "{}", err.line());
    }
}
