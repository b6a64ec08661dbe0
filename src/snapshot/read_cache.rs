//! A cache of a repository's bodies and pages in files, so that what was read once is not read over the network again.
//!
//! A file is named after the BLAKE3 hash of its bytes and has only those: the sealed sectors of a chunk, or a page. It is
//! checked against its name each time it is read, and removed if it does not match. So nothing here is ever synced, and
//! whatever a crash leaves is either right or is dropped. Nothing that fails here fails a read.
//! ```text
//! <folder>/3f/3fa8…       one file a hash, in 256 folders
//! <folder>/3f/3fa8….new1  being written
//! ```
//! The files that were used last are kept: the index is in memory, the time of the last use is the file's time of
//! modification, from which the next process builds its index.

use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::units::Hash32;
use parking_lot::Mutex;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a file takes on the disk is counted in these.
const BLOCK: u64 = 4096;
/// Bytes that each write gives back while the disk is nearly full.
const GIVE_BACK: u64 = 8 << 20;
/// What a file that is being written has behind its hash.
const NEW: &str = ".new";

/// Returns whether a disk has so little room that the cache must not take any.
type IsFull = dyn Fn(&Path) -> bool + Send + Sync;

/// A cache in a folder.
pub struct ReadCache {
    folder: PathBuf,
    /// In bytes; 0: nothing is kept.
    limit: AtomicU64,
    /// `None`: the folder was not read yet.
    index: Mutex<Option<Index>>,
    /// Names files that are being written.
    writes: AtomicU64,
    /// Whether it was logged that it cannot be written.
    told: AtomicBool,
    is_full: Box<IsFull>,
}

/// What is in the folder.
#[derive(Default)]
struct Index {
    /// Each file's length, and the tick of its last use.
    files: HashMap<Hash32, (u64, u64)>,
    by_use: BTreeMap<u64, Hash32>,
    tick: u64,
    /// Bytes on the disk, including those about to be written.
    taken: u64,
}

const fn on_disk(len: u64) -> u64 {
    len.next_multiple_of(BLOCK)
}

impl Index {
    fn insert(&mut self, hash: Hash32, len: u64) {
        self.tick += 1;
        self.files.insert(hash, (len, self.tick));
        self.by_use.insert(self.tick, hash);
    }

    /// Notes that a file is used now. `false`: there is none.
    fn touch(&mut self, hash: &Hash32) -> bool {
        let Some((_, used)) = self.files.get_mut(hash) else { return false };
        self.by_use.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.by_use.insert(self.tick, *hash);
        true
    }

    fn remove(&mut self, hash: &Hash32) -> bool {
        let Some((len, used)) = self.files.remove(hash) else { return false };
        self.by_use.remove(&used);
        self.taken -= on_disk(len);
        true
    }

    /// Removes the files that were used longest ago, until what is left takes at most `limit`. Their files are to be deleted.
    fn shrink(&mut self, limit: u64) -> Vec<Hash32> {
        let mut gone = Vec::new();
        while self.taken > limit {
            let Some(oldest) = self.by_use.values().next().copied() else { break };
            self.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }
}

impl ReadCache {
    /// Makes a cache of at most `limit` bytes in a folder, which is made when something is put into it. Reads nothing.
    #[must_use]
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        let is_full = Box::new(|folder: &Path| {
            // As for staged snapshots and spills: the last 5 % are for what cannot wait.
            rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail < disk.f_blocks / 20)
        });
        Self {
            folder,
            limit: limit.into(),
            index: Mutex::default(),
            writes: AtomicU64::new(0),
            told: AtomicBool::new(false),
            is_full,
        }
    }

    /// Replaces the look at the disk.
    #[cfg(test)]
    fn with_disk(self, is_full: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        Self { is_full: Box::new(is_full), ..self }
    }

    /// Returns its limit in bytes; 0: it is off.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Changes the limit, and deletes what is too much. 0 deletes all.
    ///
    /// # Errors
    /// If the folder cannot be removed.
    pub fn set_limit(&self, limit: u64) -> Result<()> {
        self.limit.store(limit, Ordering::Release);
        let gone = self.index(|index| index.shrink(limit));
        gone.iter().for_each(|hash| self.delete(hash));
        if limit == 0 { remove(&self.folder) } else { Ok(()) }
    }

    /// Returns how many bytes it takes on the disk.
    pub fn taken(&self) -> u64 {
        if self.limit() == 0 { 0 } else { self.index(|index| index.taken) }
    }

    /// Whether there is a file for this hash: what it has is only known once it is read.
    pub fn has(&self, hash: &Hash32) -> bool {
        self.limit() > 0 && self.index(|index| index.files.contains_key(hash))
    }

    /// Reads the bytes with this hash into `out`, which has their length. `false`: they are not here, and the contents of `out`
    /// must not be used.
    pub fn get(&self, hash: &Hash32, out: &mut [u8]) -> bool {
        let read = |file: File, len: u64| len == out.len() as u64 && file.read_exact_at(out, 0).is_ok();
        self.read(hash, read).is_some() && self.is_right(hash, out)
    }

    /// Returns the bytes with this hash, if they are here and at most `most`.
    pub fn get_all(&self, hash: &Hash32, most: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let read = |file: File, len: u64| {
            out.resize(usize::try_from(len).unwrap_or(usize::MAX).min(most), 0);
            len <= most as u64 && file.read_exact_at(&mut out, 0).is_ok()
        };
        self.read(hash, read)?;
        self.is_right(hash, &out).then_some(out)
    }

    /// Calls `read` with a file and its length. `None`: there is none, or it is not as expected and was dropped.
    fn read(&self, hash: &Hash32, read: impl FnOnce(File, u64) -> bool) -> Option<()> {
        if self.limit() == 0 || !self.index(|index| index.touch(hash)) {
            return None;
        }
        let opened = open_regular(&self.path(hash), &OpenHow::read()).ok();
        let opened = opened.and_then(|file| file.metadata().ok().map(|about| (file, about.len())));
        let is_read = opened.is_some_and(|(file, len)| {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: now };
            let _ = rustix::fs::futimens(&file, &times);
            read(file, len)
        });
        if !is_read {
            self.forget(hash);
        }
        is_read.then_some(())
    }

    fn is_right(&self, hash: &Hash32, bytes: &[u8]) -> bool {
        let right = Hash32::of(bytes) == *hash;
        if !right {
            tracing::warn!("{} is damaged; it is removed and fetched again", self.path(hash).display());
            self.forget(hash);
        }
        right
    }

    /// Drops a file that is not what its name says, or cannot be read.
    fn forget(&self, hash: &Hash32) {
        self.index(|index| index.remove(hash));
        self.delete(hash);
    }

    /// Keeps bytes whose hash was checked, if there is room for them.
    pub fn put(&self, hash: &Hash32, bytes: &[u8]) {
        let (limit, size) = (self.limit(), on_disk(bytes.len() as u64));
        if size == 0 || size > limit || self.has(hash) {
            return;
        }
        // The folder is missing until the first write.
        let disk = self.folder.ancestors().find(|up| up.exists()).unwrap_or(&self.folder);
        if (self.is_full)(disk) {
            let gone = self.index(|index| index.shrink(index.taken.saturating_sub(GIVE_BACK)));
            return gone.iter().for_each(|hash| self.delete(hash));
        }
        let gone = self.index(|index| {
            index.taken += size;
            index.shrink(limit)
        });
        gone.iter().for_each(|hash| self.delete(hash));
        let written = self.write(hash, bytes);
        self.index(|index| {
            // Another thread may have written it at the same time.
            if written.is_ok() && self.limit() > 0 && !index.files.contains_key(hash) {
                index.insert(*hash, bytes.len() as u64);
            } else {
                index.taken -= size;
            }
        });
        if self.limit() == 0 {
            self.delete(hash);
        }
        match written {
            Ok(()) => self.told.store(false, Ordering::Relaxed),
            Err(err) if !self.told.swap(true, Ordering::Relaxed) => {
                tracing::warn!("{}; what is read from the repository is not kept", err.line());
            }
            Err(_) => {}
        }
    }

    fn write(&self, hash: &Hash32, bytes: &[u8]) -> Result<()> {
        let path = self.path(hash);
        let new = self.folder_of(hash).join(format!("{hash}{NEW}{}", self.writes.fetch_add(1, Ordering::Relaxed)));
        let what = || format!("write the read cache's file {}", new.display());
        let write = || -> Result<()> {
            let file = match open_regular(&new, &OpenHow::write().create_new()) {
                Err(e) if e.kind() == Kind::NotFound => {
                    make(&self.folder_of(hash))?;
                    open_regular(&new, &OpenHow::write().create_new())
                }
                other => other,
            }?;
            file.write_all_at(bytes, 0).on(what)?;
            std::fs::rename(&new, &path).on(what)
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&new);
        })
    }

    fn delete(&self, hash: &Hash32) {
        let path = self.path(hash);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => tracing::warn!("remove {}: {e}", path.display()),
            _ => {}
        }
    }

    fn folder_of(&self, hash: &Hash32) -> PathBuf {
        self.folder.join(format!("{:02x}", hash.0[0]))
    }

    fn path(&self, hash: &Hash32) -> PathBuf {
        self.folder_of(hash).join(hash.to_string())
    }

    /// Calls `act` with the index, which is read from the folder at its first use.
    fn index<R>(&self, act: impl FnOnce(&mut Index) -> R) -> R {
        let mut index = self.index.lock();
        let read = || {
            let mut index = self.found();
            let gone = index.shrink(self.limit());
            gone.iter().for_each(|hash| self.delete(hash));
            index
        };
        act(index.get_or_insert_with(read))
    }

    /// Reads the folder, and removes what a killed process was writing. What cannot be read is not in the cache.
    fn found(&self) -> Index {
        let mut all = Vec::new();
        let names = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().collect::<Vec<_>>();
        for folder in names(&self.folder) {
            for entry in names(&folder.path()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains(NEW) {
                    let _ = std::fs::remove_file(entry.path());
                    continue;
                }
                let (Ok(hash), Ok(about)) = (name.parse::<Hash32>(), entry.metadata()) else { continue };
                if about.is_file() && entry.path() == self.path(&hash) {
                    all.push(((about.mtime(), about.mtime_nsec()), hash, about.len()));
                }
            }
        }
        all.sort_unstable_by_key(|(used, hash, _)| (*used, hash.0));
        let mut index = Index::default();
        for (_, hash, len) in all {
            index.taken += on_disk(len);
            index.insert(hash, len);
        }
        index
    }
}

fn make(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).on(|| format!("make {}", folder.display()))
}

/// Removes a cache that nobody uses.
///
/// # Errors
/// What the file system reports.
pub fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove the read cache {}", folder.display()), e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "read_cache_tests.rs"]
mod tests;
