//! Scratch directories: each is locked while its demo runs, so that the next demo recognizes and removes what a killed one
//! left behind (mounts, a server, files).

use super::mount;
use crate::error::{Error, IoContext, Kind, Result};
use crate::measure::session::Session;
use crate::service::datadir::DataDir;
use crate::sys::{LockKind, ofd_is_locked, ofd_lock};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where scratch directories are created.
const PLACE: &str = "/var/tmp";
/// The prefix of their names.
const PREFIX: &str = "coffer-demo-";
/// The file that identifies a scratch directory, and is locked while its demo runs.
const LOCK: &str = "demo.lock";
/// How long to wait for a server to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A scratch directory of this process. Removed when dropped, unless it is kept.
pub(super) struct Scratch {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl Scratch {
    /// At this path, or a new one in `/var/tmp`. Leftovers of killed demos are removed first.
    pub(super) fn new(named: Option<&Path>, keep: bool) -> Result<Self> {
        let path = match named {
            Some(path) => {
                remove_left(path)?;
                path.to_owned()
            }
            None => {
                remove_all_left()?;
                Path::new(PLACE).join(format!("{PREFIX}{}", std::process::id()))
            }
        };
        let what = || format!("create the scratch directory {}", path.display());
        std::fs::DirBuilder::new().mode(0o700).create(&path).on(what)?;
        let path = path.canonicalize().on(what)?;
        let lock =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(path.join(LOCK)).on(what)?;
        ofd_lock(&lock, LockKind::Exclusive, 0, 1).on(what)?;
        Ok(Self { path, keep, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn remove_all_left() -> Result<()> {
    let all = std::fs::read_dir(PLACE).into_iter().flatten().flatten();
    let ours = all.filter(|e| e.file_name().as_bytes().starts_with(PREFIX.as_bytes()));
    ours.map(|e| e.path()).try_for_each(|path| remove_left(&path))
}

/// Removes a scratch directory of this user whose demo no longer runs, and nothing else.
fn remove_left(path: &Path) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if !std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == own) {
        return Ok(());
    }
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(lock) = options.open(path.join(LOCK)) else { return Ok(()) };
    let what = || format!("remove {}, left behind by a killed demo", path.display());
    if !ofd_lock(&lock, LockKind::Exclusive, 0, 1).on(what)? {
        return Ok(());
    }
    let path = path.canonicalize().on(what)?;
    let session = Session::new(&path)?;
    for mount in mounts_below(&path) {
        mount::unmount(&mount);
    }
    for id in session.text(&["attachments", "-q"]).unwrap_or_default().lines() {
        let _ = session.run(&["detach", "-q", id]);
    }
    end_server(&path.join("data")).map_err(|e| e.context(what()))?;
    std::fs::remove_dir_all(&path).on(what)?;
    crate::cli::render::line(format!("removed {}, left behind by a killed demo", path.display()));
    Ok(())
}

/// Ends the server of a scratch directory.
fn end_server(data: &Path) -> Result<()> {
    let Ok(lock) = File::open(data.join("lock")) else { return Ok(()) };
    let held = || ofd_is_locked(&lock, 0, 1).unwrap_or(false);
    let (data, until) = (DataDir::at(data)?, Instant::now() + PATIENCE);
    let mut signal = Signal::TERM;
    while held() {
        let pid = data.holder().and_then(|h| i32::try_from(h.pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| held()) {
            let _ = kill_process(pid, signal);
        }
        if Instant::now() > until {
            if signal == Signal::KILL {
                return Err(Error::new(Kind::Busy, "its server did not end"));
            }
            signal = Signal::KILL;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Mount points below a folder, the newest first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
    let second = |line: &[u8]| line.split(|b| *b == b' ').nth(1).map(|field| PathBuf::from(unescaped(field)));
    let mut all: Vec<_> = mounts.split(|b| *b == b'\n').filter_map(second).filter(|p| p.starts_with(folder)).collect();
    all.reverse();
    all
}

/// `/proc/self/mounts` has blanks and backslashes as octal numbers.
fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_demo_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("scratch");
        let alive = Scratch::new(Some(&at), true).unwrap();
        std::fs::write(at.join("file"), "x").unwrap();
        remove_left(&at).unwrap();
        assert!(at.join("file").exists(), "its demo is running");
        let refused = Scratch::new(Some(&at), false).err().unwrap();
        assert_eq!(refused.kind(), Kind::Exists);
        drop(alive);
        assert!(at.exists(), "--keep was given");
        // As a kill leaves it: the files exist, the lock is free.
        let again = Scratch::new(Some(&at), false).unwrap();
        assert!(!at.join("file").exists(), "leftovers are removed");
        drop(again);
        assert!(!at.exists());
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("file"), "mine").unwrap();
        assert_eq!(Scratch::new(Some(&other), false).err().unwrap().kind(), Kind::Exists);
        assert!(other.join("file").exists(), "any other folder is kept");
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped(br"/a\040b\134c\x"), OsString::from(r"/a b\c\x"));
        assert_eq!(mounts_below(Path::new("/proc")).last().map(PathBuf::as_path), Some(Path::new("/proc")));
    }
}
