//! The data directory: what lies where, and whose turn it is.
//!
//! `lock`: byte 0 is held by whoever has the directory open, byte 1 by a server that waits for it; from 64 on stands, as JSON,
//! who holds it {pid, start time, boot id, verb}, because an OFD lock does not tell its holder.

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::sys::{LockKind, ofd_is_locked, ofd_lock};
use crate::units::VolumeId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TEXT_AT: u64 = 64;

/// Paths inside a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// Who holds a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
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

/// Who wants the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanting {
    /// A command: it waits.
    Command,
    /// A server: long jobs give way to it.
    Server,
}

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
    /// Where volume files lie.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
    /// The file of one volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> PathBuf {
        self.volumes().join(format!("{id}.coffer"))
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

    /// Makes the directory, readable by its owner alone.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn create(&self) -> Result<()> {
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
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)
            .on(what)?;
        if !ofd_lock(&file, LockKind::Exclusive, 0, 1).on(what)? {
            return Ok(None);
        }
        let holder = Holder {
            pid: std::process::id(),
            start: env.now().0,
            boot: env.boot_id.to_string(),
            verb: verb.to_owned(),
        };
        let text = serde_json::to_vec(&holder).map_err(|e| Error::new(Kind::Failed, what()).because(e))?;
        file.set_len(TEXT_AT).on(what)?;
        file.write_all_at(&text, TEXT_AT).on(what)?;
        Ok(Some(DirLock { file }))
    }

    /// Who wrote themselves into the lock last.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        let file = File::open(self.0.join("lock")).ok()?;
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
        let path = self.0.join("lock");
        let asking = File::options().read(true).write(true).open(&path).on(|| format!("lock {}", path.display()))?;
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
}
