//! The data directory: its layout and its lock.
//!
//! In the file `lock`, byte 0 is locked by the process that has the directory open, and byte 1 by a server that waits for it.
//! From offset 64 on, the file names the holder as JSON {pid, start time, boot id, verb}, because an OFD lock does not reveal its
//! holder.

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::sys::{ActingAs, LockKind, ofd_is_locked, ofd_lock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TEXT_AT: u64 = 64;

/// The path of a data directory, and the paths in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// The holder of a data directory's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Process id.
    pub pid: u32,
    /// When it took the lock, in milliseconds since 1970.
    pub start: i64,
    /// Id of the boot in which it took the lock.
    pub boot: String,
    /// The verb that it runs.
    pub verb: String,
}

/// The lock on a data directory, held until this is dropped.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Returns whether a server waits for this directory. A long job of a single command then yields to it.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        ofd_is_locked(&self.file, 1, 1).unwrap_or(false)
    }
}

/// The purpose for which a data directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To run one verb.
    Command,
    /// To serve; starts background work.
    Daemon,
}

/// The kind of process that waits for the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanting {
    /// A command, which just waits.
    Command,
    /// A server, to which long jobs yield.
    Server,
}

/// Limit on the symbolic links that a path may lead through, as in path_resolution(7).
const LINKS: u32 = 40;

/// Refuses a path that leads through a symbolic link owned by neither root nor `owner`: the owner of the link decides where
/// root's commands end up.
fn refuse_foreign_links(path: &Path, owner: u32, left: u32) -> Result<()> {
    let prefixes: Vec<&Path> = path.ancestors().collect();
    for place in prefixes.into_iter().rev() {
        let Ok(meta) = place.symlink_metadata() else { continue };
        if !meta.is_symlink() {
            continue;
        }
        if left == 0 || ![0, owner].contains(&meta.uid()) {
            let what = format!("{} is a symbolic link owned by uid {}", place.display(), meta.uid());
            return Err(Error::new(Kind::AccessDenied, format!("data directory {}: {what}", path.display()))
                .hint("name the directory itself with --data"));
        }
        let target = std::fs::read_link(place).on(|| format!("read the link {}", place.display()))?;
        let target = place.parent().unwrap_or(place).join(target);
        refuse_foreign_links(&target, owner, left - 1)?;
    }
    Ok(())
}

/// Names that coffer uses in a data directory besides the catalog's files, and `lost+found`, which a new file system has.
const OWN: [&str; 12] = [
    "root.json",
    "root.b.json",
    "audit",
    "volumes",
    "repository",
    "lock",
    "control.sock",
    "nbd.sock",
    crate::kms::UNFINISHED,
    "root.json.new",
    "root.b.json.new",
    "lost+found",
];

impl DataDir {
    /// Returns the data directory at `path`, made absolute.
    ///
    /// # Errors
    /// If the current directory does not exist.
    pub fn at(path: &Path) -> Result<Self> {
        std::path::absolute(path).on(|| format!("resolve {}", path.display())).map(Self)
    }
    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Returns the path of the control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
    /// Returns the path of the default NBD socket.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.0.join("nbd.sock")
    }
    /// Returns the folder of the volumes that are stored in files.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
    /// Returns the folder of the local snapshot repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.0.join("repository")
    }

    /// Returns the folder with what pending snapshots have copied and their repositories do not have yet.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.0.join("staging")
    }

    /// Returns the folder with what was read from repositories that were added.
    #[must_use]
    pub fn caches(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Returns whether `coffer init` was run here.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.0.join("root.json").exists() || self.0.join("root.b.json").exists()
    }

    /// Returns the user id and the group id of the directory's owner.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn owner(&self) -> Result<(u32, u32)> {
        let meta = std::fs::metadata(&self.0).on(|| format!("stat {}", self.0.display()))?;
        Ok((meta.uid(), meta.gid()))
    }

    /// Makes root act as the owner of the directory until the result is dropped. Nothing in the directory (a symbolic link, a
    /// name that changes during use) can then make root touch what the owner may not, and new files belong to the owner. Does
    /// nothing for other users.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for a path through another user's symbolic link; errors of the operating system.
    pub fn act_as_owner(&self) -> Result<Option<ActingAs>> {
        let (me, owner) = (rustix::process::geteuid(), self.owner());
        if let (true, Ok((uid, _))) = (me.is_root(), &owner) {
            refuse_foreign_links(&self.0, *uid, LINKS)?;
        }
        match owner {
            Ok((uid, gid)) if me.is_root() && uid != 0 => {
                let acting = ActingAs::user(uid, gid);
                acting.on(|| format!("act as uid {uid}, the owner of {}", self.0.display())).map(Some)
            }
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(None),
        }
    }

    /// Refuses a directory that other users may write to, or that belongs to another user. Root may use any owner's (see
    /// [`DataDir::act_as_owner`]).
    ///
    /// # Errors
    /// [`Kind::AccessDenied`], with a hint.
    pub fn check_private(&self) -> Result<()> {
        let shown = self.0.display();
        let meta = match std::fs::metadata(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            meta => meta.on(|| format!("stat {shown}"))?,
        };
        let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
        if mode & 0o022 != 0 {
            let what = format!("data directory {shown} is writable by other users (mode {mode:04o})");
            return Err(Error::new(Kind::AccessDenied, what)
                .hint(format!("run `chmod 700 {shown}`, or name another directory with --data")));
        }
        let me = rustix::process::geteuid();
        if me.as_raw() != uid && !me.is_root() {
            let what = format!("data directory {shown} belongs to another user, uid {uid}");
            return Err(Error::new(Kind::AccessDenied, what).hint("name a directory of your own with --data"));
        }
        Ok(())
    }

    /// Refuses a directory with files that are not coffer's: an installation is not created among other files.
    ///
    /// # Errors
    /// [`Kind::Exists`] with the name of one such file.
    pub fn refuse_foreign(&self) -> Result<()> {
        let (shown, what) = (self.0.display(), || format!("list {}", self.0.display()));
        let entries = match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.on(what)?,
        };
        for entry in entries {
            let name = entry.on(what)?.file_name();
            if !OWN.iter().any(|own| name == *own) && !name.as_encoded_bytes().starts_with(b"catalog.") {
                let what =
                    format!("init {shown}: the directory contains other files, such as {}", Path::new(&name).display());
                return Err(Error::new(Kind::Exists, what).hint("name an empty or a new directory with --data"));
            }
        }
        Ok(())
    }

    /// Makes an existing directory accessible only to its owner: the files of the repository have the umask's mode.
    fn close_to_others(&self) -> Result<()> {
        let what = || format!("change the mode of {} to 0700", self.0.display());
        match std::fs::metadata(&self.0) {
            Ok(meta) if meta.mode() & 0o077 != 0 => {
                std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o700)).on(what)
            }
            _ => Ok(()),
        }
    }

    /// Creates the directory, accessible only to its owner.
    ///
    /// # Errors
    /// The errors of [`DataDir::check_private`] and of the operating system.
    pub fn create(&self) -> Result<()> {
        self.check_private()?;
        self.close_to_others()?;
        for dir in [self.0.clone(), self.volumes()] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .on(|| format!("create {}", dir.display()))?;
        }
        Ok(())
    }

    /// Takes the lock without waiting. `None`: another process holds it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the directory does not exist.
    pub fn try_lock(&self, env: &Env, verb: &str) -> Result<Option<DirLock>> {
        let path = self.0.join("lock");
        let what = || format!("lock {}", path.display());
        let file = self.open_lock(OpenHow::write().create())?;
        if !ofd_lock(&file, LockKind::Exclusive, 0, 1).on(what)? {
            return Ok(None);
        }
        let holder = LockHolder {
            pid: std::process::id(),
            start: env.now().0,
            boot: env.boot_id.to_string(),
            verb: verb.to_owned(),
        };
        let text = serde_json::to_vec(&holder).map_err(|e| Error::new(Kind::Failed, what()).because(e))?;
        // The holder's entry is only informative: a full disk must not prevent locking.
        let written = file.set_len(TEXT_AT).and_then(|()| file.write_all_at(&text, TEXT_AT));
        if let Err(e) = written {
            tracing::warn!("write the holder into {}: {e}", path.display());
        }
        Ok(Some(DirLock { file }))
    }

    fn open_lock(&self, how: OpenHow<'_>) -> Result<File> {
        open_regular(&self.0.join("lock"), &how.owned_by(self.owner()?.0))
    }

    /// Returns the last holder that wrote its entry into the lock file.
    #[must_use]
    pub fn holder(&self) -> Option<LockHolder> {
        let file = self.open_lock(OpenHow::read()).ok()?;
        let mut text = vec![0u8; 4096];
        let n = file.read_at(&mut text, TEXT_AT).ok()?;
        serde_json::from_slice(&text[..n]).ok()
    }

    /// Takes the lock, waiting up to `patience` for it. A server asks long jobs to yield. Calls `stop` in between, which ends the
    /// wait by returning `true` (because the socket of a daemon has appeared).
    ///
    /// # Errors
    /// [`Kind::Busy`] with the name of the holder.
    pub fn lock(
        &self,
        env: &Env,
        verb: &str,
        wanting: Wanting,
        patience: Duration,
        mut stop: impl FnMut() -> bool,
    ) -> Result<Option<DirLock>> {
        if let Some(lock) = self.try_lock(env, verb)? {
            return Ok(Some(lock));
        }
        let asking = self.open_lock(OpenHow::write())?;
        if wanting == Wanting::Server {
            let _ = ofd_lock(&asking, LockKind::Shared, 1, 1);
        }
        let until = Instant::now() + patience;
        loop {
            if stop() {
                return Ok(None);
            }
            if let Some(lock) = self.try_lock(env, verb)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= until {
                let who = self
                    .holder()
                    .map_or_else(|| "another process".to_owned(), |h| format!("pid {} ({})", h.pid, h.verb));
                return Err(Error::new(Kind::Busy, format!("data directory {} is in use by {who}", self.0.display()))
                    .hint("wait for it, or stop it"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns whether a path is inside a folder. Used to refuse key files beside the data that they open.
pub(crate) fn lies_inside(path: &Path, folder: &Path) -> bool {
    let real = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_owned());
    real(path.parent().unwrap_or(path)).starts_with(real(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        let env = Env::system();
        let first = data.try_lock(&env, "serve").unwrap().unwrap();
        let mut asked = 0;
        let err = data
            .lock(&env, "serve", Wanting::Server, Duration::ZERO, || {
                asked += 1;
                assert!(first.is_asked_for());
                false
            })
            .unwrap_err();
        assert_eq!(err.kind(), Kind::Busy);
        assert!(err.line().contains(&format!("pid {} (serve)", std::process::id())), "{}", err.line());
        assert_eq!(asked, 1);
        assert!(!first.is_asked_for(), "it has given up");
        let command = data.lock(&env, "volume list", Wanting::Command, Duration::ZERO, || {
            assert!(!first.is_asked_for(), "nobody gives way to a command");
            false
        });
        assert_eq!(command.unwrap_err().kind(), Kind::Busy);
        drop(first);
        assert!(data.try_lock(&env, "x").unwrap().is_some());
    }

    #[test]
    fn a_lock_that_is_no_plain_file_of_the_owner_is_refused_and_what_it_leads_to_is_untouched() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
        let data = DataDir::at(dir.path()).unwrap();
        let target = dir.path().join("passwd");
        std::fs::write(&target, "somebody's, and longer than the sixty-four bytes that a lock begins with, by some")
            .unwrap();
        let before = std::fs::read(&target).unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        assert!(data.try_lock(&env, "x").unwrap_err().line().contains("a symbolic link"));
        assert!(data.holder().is_none());
        std::fs::remove_file(dir.path().join("lock")).unwrap();
        std::fs::create_dir(dir.path().join("lock")).unwrap();
        assert!(data.try_lock(&env, "x").unwrap_err().line().contains("a directory"));
        assert_eq!(std::fs::read(&target).unwrap(), before);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        for (mode, refused) in [(0o777, true), (0o1777, true), (0o720, true), (0o755, false), (0o700, false)] {
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            let checked = data.create();
            assert_eq!(checked.is_err(), refused, "{mode:o}");
            if checked.is_ok() {
                let now = std::fs::metadata(dir.path()).unwrap().mode() & 0o7777;
                assert_eq!(now, 0o700, "{mode:o}: what others could look into is closed to them");
            }
            if let Err(err) = checked {
                assert!(err.kind() == Kind::AccessDenied && err.line().contains("chmod 700"), "{}", err.line());
            }
        }
    }
}
