//! The data directory: what lies where, and whose turn it is.
//!
//! `lock`: byte 0 is held by whoever has the directory open, byte 1 by a server that waits for it; from 64 on stands, as JSON,
//! who holds it {pid, start time, boot id, verb}, because an OFD lock does not tell its holder.

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

/// Paths inside a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// Who holds a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Process id.
    pub pid: u32,
    /// When it took the lock, milliseconds since 1970.
    pub start: i64,
    /// The boot it belongs to.
    pub boot: String,
    /// What it does.
    pub verb: String,
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Whether a server waits for this directory: a long job of a single command then gives way.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        ofd_is_locked(&self.file, 1, 1).unwrap_or(false)
    }
}

/// What a data directory is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// For one verb.
    Command,
    /// To serve: background work is started.
    Daemon,
}

/// Who wants the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanting {
    /// A command: it waits.
    Command,
    /// A server: long jobs give way to it.
    Server,
}

/// Most symbolic links that a path may lead through, as in path_resolution(7).
const LINKS: u32 = 40;

/// Refuses a path that leads through a symbolic link which is neither root's nor `owner`'s: whoever made it decides where root's
/// commands end up.
fn refuse_foreign_links(path: &Path, owner: u32, left: u32) -> Result<()> {
    let prefixes: Vec<&Path> = path.ancestors().collect();
    for place in prefixes.into_iter().rev() {
        let Ok(meta) = place.symlink_metadata() else { continue };
        if !meta.is_symlink() {
            continue;
        }
        if left == 0 || ![0, owner].contains(&meta.uid()) {
            let what = format!("{} is a symbolic link that uid {} made", place.display(), meta.uid());
            return Err(Error::new(Kind::AccessDenied, format!("data directory {}: {what}", path.display()))
                .hint("name the directory itself with --data"));
        }
        let target = std::fs::read_link(place).on(|| format!("read the link {}", place.display()))?;
        let target = place.parent().unwrap_or(place).join(target);
        refuse_foreign_links(&target, owner, left - 1)?;
    }
    Ok(())
}

/// What coffer has in a data directory, beside the catalog's files; and what a file system begins with.
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
    /// The directory at `path`, made absolute.
    ///
    /// # Errors
    /// If the current directory is gone.
    pub fn at(path: &Path) -> Result<Self> {
        std::path::absolute(path).on(|| format!("find {}", path.display())).map(Self)
    }
    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The daemon's socket for verbs.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
    /// The socket NBD is served on by default.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.0.join("nbd.sock")
    }
    /// Where volumes lie, if they are kept in files.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
    /// The local snapshot repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.0.join("repository")
    }

    /// Whether `coffer init` was run here.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.0.join("root.json").exists() || self.0.join("root.b.json").exists()
    }

    /// The user and the group that the directory belongs to.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn owner(&self) -> Result<(u32, u32)> {
        let meta = std::fs::metadata(&self.0).on(|| format!("look at {}", self.0.display()))?;
        Ok((meta.uid(), meta.gid()))
    }

    /// Has root act as the directory's owner until the answer is dropped, so that nothing in there (a symbolic link, a name that
    /// changes under its hands) makes root touch what the owner may not, and what is made there is the owner's. Others: no change.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn act_as_owner(&self) -> Result<Option<ActingAs>> {
        let (me, owner) = (rustix::process::geteuid(), self.owner());
        if let (true, Ok((uid, _))) = (me.is_root(), &owner) {
            refuse_foreign_links(&self.0, *uid, LINKS)?;
        }
        match owner {
            Ok((uid, gid)) if me.is_root() && uid != 0 => {
                let acting = ActingAs::user(uid, gid);
                acting.on(|| format!("act as uid {uid}, who {} belongs to", self.0.display())).map(Some)
            }
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(None),
        }
    }

    /// Refuses a directory that others may write to, or that is another user's (root may use it: see
    /// [`DataDir::act_as_owner`]).
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] naming what to do.
    pub fn check_private(&self) -> Result<()> {
        let shown = self.0.display();
        let meta = match std::fs::metadata(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            meta => meta.on(|| format!("look at {shown}"))?,
        };
        let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
        if mode & 0o022 != 0 {
            let what = format!("data directory {shown}: other users may write to it (mode {mode:04o})");
            return Err(Error::new(Kind::AccessDenied, what)
                .hint(format!("run: chmod 700 {shown}; or name another directory with --data")));
        }
        let me = rustix::process::geteuid();
        if me.as_raw() != uid && !me.is_root() {
            let what = format!("data directory {shown}: it belongs to another user, uid {uid}");
            return Err(Error::new(Kind::AccessDenied, what).hint("name a directory of your own with --data"));
        }
        Ok(())
    }

    /// Refuses a directory that holds what is not coffer's: an installation is not made around other files.
    ///
    /// # Errors
    /// [`Kind::Exists`] naming one of them.
    pub fn refuse_foreign(&self) -> Result<()> {
        let (shown, what) = (self.0.display(), || format!("look into {}", self.0.display()));
        let entries = match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.on(what)?,
        };
        for entry in entries {
            let name = entry.on(what)?.file_name();
            if !OWN.iter().any(|own| name == *own) && !name.as_encoded_bytes().starts_with(b"catalog.") {
                let what = format!("init {shown}: it holds other files, such as {}", Path::new(&name).display());
                return Err(Error::new(Kind::Exists, what).hint("name an empty or a new directory with --data"));
            }
        }
        Ok(())
    }

    /// Makes an existing directory accessible to its owner only: files of the repository have the umask's mode.
    fn close_to_others(&self) -> Result<()> {
        let what = || format!("change the mode of {} to 0700", self.0.display());
        match std::fs::metadata(&self.0) {
            Ok(meta) if meta.mode() & 0o077 != 0 => {
                std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o700)).on(what)
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory, readable by its owner alone.
    ///
    /// # Errors
    /// [`DataDir::check_private`]'s; what the operating system reports.
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

    /// Takes the directory's lock without waiting. `None`: somebody else holds it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such directory.
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
        // Who holds it is a courtesy: a full disk is no reason not to.
        let written = file.set_len(TEXT_AT).and_then(|()| file.write_all_at(&text, TEXT_AT));
        if let Err(e) = written {
            tracing::warn!("write into {}: {e}", path.display());
        }
        Ok(Some(DirLock { file }))
    }

    fn open_lock(&self, how: OpenHow<'_>) -> Result<File> {
        open_regular(&self.0.join("lock"), &how.owned_by(self.owner()?.0))
    }

    /// Who wrote themselves into the lock last.
    #[must_use]
    pub fn holder(&self) -> Option<LockHolder> {
        let file = self.open_lock(OpenHow::read()).ok()?;
        let mut text = vec![0u8; 4096];
        let n = file.read_at(&mut text, TEXT_AT).ok()?;
        serde_json::from_slice(&text[..n]).ok()
    }

    /// Takes the lock, or waits up to `patience` for it, a server asking long jobs to give way; `stop` is asked in between
    /// and ends the waiting (a daemon's socket has appeared).
    ///
    /// # Errors
    /// [`Kind::Busy`] naming the holder.
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
                return Err(Error::new(Kind::Busy, format!("{} is held by {who}", self.0.display()))
                    .hint("wait for it, or stop it"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a path lies inside a folder, for refusing key files beside what they open.
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
