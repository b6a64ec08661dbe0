//! The interface to the object store: durable puts, put-if-absent, ranges, lists. Blocking, usable from any thread.
//!
//! Based on the `object_store` crate. Its local store, with `with_fsync(true)`, does what docs/format.md requires of
//! local files: write a staged file, sync it, link it (put-if-absent) or rename it (overwrite), sync the directory and
//! each directory it created. One gap is closed here: a put that finds the object already there syncs the directory
//! before it reports that, for a killed process may have linked it without a sync
//! (docs/decisions/0003-object-store.md).

use super::store_error::{late, of_store, was_cut};
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::units::Hash32;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path from the repository's root.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, according to the store: for people, never for decisions.
    pub modified: Timestamp,
}

impl Listed {
    /// Returns the last component of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// A store of objects. When a put returns, the object survives power loss.
pub trait Objects: Send + Sync {
    /// Puts a new object.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one at `path` (durably); else what the store reports.
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()>;
    /// Puts an object, replacing an existing one.
    ///
    /// # Errors
    /// What the store reports.
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()>;
    /// Reads the whole object, at most `limit` bytes.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Integrity`] if it is longer than `limit`.
    fn get(&self, path: &str, limit: usize) -> Result<Bytes>;
    /// Reads exactly this range of an object.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Integrity`] if the object ends before the range does.
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes>;
    /// Like [`Objects::get_range`], from `start` on, into consecutive buffers. After an error their contents must not
    /// be used.
    ///
    /// # Errors
    /// As [`Objects::get_range`].
    fn get_into(&self, path: &str, start: u64, parts: &mut [&mut [u8]]) -> Result<()> {
        by_range(self, path, start, parts)
    }
    /// Returns the object's length, or `None` if there is none.
    ///
    /// # Errors
    /// What the store reports.
    fn head(&self, path: &str) -> Result<Option<u64>>;
    /// Lists all objects under a folder (empty: all).
    ///
    /// # Errors
    /// What the store reports.
    fn list(&self, folder: &str) -> Result<Vec<Listed>>;
    /// Lists entries directly in `folder` that have an object's name but cannot be one: a FIFO, a socket, a device, a
    /// directory, a dangling link. [`Objects::list`] leaves them out; reading one is [`Kind::Integrity`]. Most stores
    /// have none.
    ///
    /// # Errors
    /// What the store reports.
    fn irregular(&self, folder: &str) -> Result<Vec<Listed>> {
        let _ = folder;
        Ok(Vec::new())
    }
    /// Lists the names of the folders directly in `folder` (empty: the root).
    ///
    /// # Errors
    /// What the store reports.
    fn folders(&self, folder: &str) -> Result<Vec<String>>;
    /// Deletes an object; a missing one is not an error. It may reappear after power loss: sweeps repeat.
    ///
    /// # Errors
    /// What the store reports.
    fn delete(&self, path: &str) -> Result<()>;
    /// Makes durable what a killed process may have left unsynced in `folder`, and deletes its staged files with names
    /// that begin with `prefix`. Only for the sole writer of those names, before it puts any.
    ///
    /// # Errors
    /// What the store reports.
    fn settle(&self, folder: &str, prefix: &str) -> Result<()>;

    /// Whether it is reached over a network: a call that failed may succeed later.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Puts an object that never has any other bytes. An existing one must have the same bytes: then it counts as put.
///
/// # Errors
/// [`Kind::Integrity`] if it has other bytes; else what the store reports.
pub fn put_same(objects: &dyn Objects, path: &str, bytes: &Bytes) -> Result<()> {
    match objects.put_new(path, bytes.clone()) {
        Err(e) if e.kind() == Kind::Exists => {}
        other => return other,
    }
    match objects.get(path, bytes.len()) {
        Ok(there) if there == *bytes => Ok(()),
        Ok(there) => Err(differs(path, &there, bytes)),
        Err(e) if e.kind() == Kind::Integrity => Err(differs(path, &[], bytes).because(e)),
        Err(e) => Err(e),
    }
}

fn by_range<O: Objects + ?Sized>(objects: &O, path: &str, start: u64, parts: &mut [&mut [u8]]) -> Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = objects.get_range(path, start..start + len as u64)?;
    let mut rest = &bytes[..];
    for part in parts {
        let (now, later) = rest.split_at(part.len());
        part.copy_from_slice(now);
        rest = later;
    }
    Ok(())
}

fn differs(path: &str, there: &[u8], ours: &[u8]) -> Error {
    let what = format!("put {path}: a different object exists (hash {}, ours {})", Hash32::of(there), Hash32::of(ours));
    Error::new(Kind::Integrity, what)
        .hint("check whether two installations write to this repository (a cloned data directory), stop one, then run `coffer doctor`")
}

/// Implements [`Objects`] over a store of the `object_store` crate.
pub struct StoreObjects {
    store: Arc<dyn ObjectStore>,
    root: Option<PathBuf>,
    /// Device and inode of `root`.
    place: (u64, u64),
    /// The longest time that a call may take, retries included. `None`: the store is in this machine.
    limit: Option<Duration>,
}

impl StoreObjects {
    /// Keeps objects as files under `root`, which must exist.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn local(root: &Path) -> Result<Self> {
        let what = || format!("open repository folder {}", root.display());
        let root = std::fs::canonicalize(root).map_err(|e| Error::io(what(), e))?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| of_store(what(), e))?;
        let place = place_of(&root).map_err(|e| Error::io(what(), e))?;
        Ok(Self { store: Arc::new(store.with_fsync(true)), root: Some(root), place, limit: None })
    }

    /// Like [`StoreObjects::local`], but creates a missing directory.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn local_later(root: &Path) -> Result<Self> {
        if !root.exists() {
            std::fs::create_dir_all(root).on(|| format!("make repository folder {}", root.display()))?;
        }
        Self::local(root)
    }

    /// Uses any other store of that crate. A put must be durable when it returns.
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, root: None, place: (0, 0), limit: None }
    }

    /// Uses a store that is reached over a network. A call whose connection fails is repeated until `limit` has passed: a
    /// repeated [`Objects::put_new`] may then find the object that it put itself.
    #[must_use]
    pub fn remote(store: Arc<dyn ObjectStore>, limit: Duration) -> Self {
        Self { store, root: None, place: (0, 0), limit: Some(limit) }
    }

    /// Refuses to use another folder in the place of the one that was opened. A disk that is unmounted leaves an empty
    /// one, or none, which a put would create: what is then put or not found says nothing of the repository.
    fn must_be_here(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        if place_of(root).is_ok_and(|place| place == self.place) {
            return Ok(());
        }
        let what = format!("the repository folder {} is not the one that was opened", root.display());
        Err(Error::new(Kind::Unreachable, what)
            .hint("mount its disk again; if you have put a copy in its place, restart the server"))
    }

    fn put(&self, path: &str, bytes: Bytes, mode: PutMode) -> Result<()> {
        self.must_be_here()?;
        let (store, key, what) = (self.store.clone(), Key::from(path), || format!("put {path}"));
        let put = self.call(what, move || {
            let (store, key, payload) = (store.clone(), key.clone(), PutPayload::from_bytes(bytes.clone()));
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            async move { store.put_opts(&key, payload, options).await }
        })?;
        let Err(e) = put else { return Ok(()) };
        if matches!(e, object_store::Error::AlreadyExists { .. }) {
            self.sync_folder_of(path)?;
        }
        Err(of_store(what(), e))
    }

    /// Makes a call and waits for it. The local store runs in the waiting thread, so that it needs no other one.
    fn call<T, F>(&self, what: impl Fn() -> String, call: impl Fn() -> F + Send + 'static) -> Result<StoreResult<T>>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        match self.limit {
            None if self.root.is_some() && Handle::try_current().is_err() => Ok(futures::executor::block_on(call())),
            None => run(runtime()?, async move { call().await }),
            Some(limit) => {
                let work = async move { tokio::time::timeout(limit, repeated(limit, call)).await };
                let done = run(runtime()?, work)?;
                done.map_err(|_| late(what(), limit))
            }
        }
    }

    /// Opens an object's file. That it is not found counts only if its folder is there.
    fn open_file(&self, root: &Path, path: &str, what: &str) -> Result<(std::fs::File, u64)> {
        open_file(root, path, what).or_else(|err| match err.kind() {
            Kind::NotFound => self.must_be_here().and(Err(err)),
            _ => Err(err),
        })
    }

    /// Syncs the directory of `path`.
    fn sync_folder_of(&self, path: &str) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let file = root.join(path);
        sync_folder(file.parent().unwrap_or(root))
    }
}

/// Returns device and inode of a directory.
fn place_of(root: &Path) -> std::io::Result<(u64, u64)> {
    let found = std::fs::metadata(root)?;
    Ok((found.dev(), found.ino()))
}

fn sync_folder(folder: &Path) -> Result<()> {
    let directory = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    let opened = std::fs::File::options().read(true).custom_flags(directory).open(folder);
    opened.and_then(|f| f.sync_all()).map_err(|e| Error::io(format!("sync folder {}", folder.display()), e))
}

/// Opens an object's file. A FIFO, device, socket or directory in its place is damage, and must not block.
fn open_file(root: &Path, path: &str, what: &str) -> Result<(std::fs::File, u64)> {
    let file = open_regular(&root.join(path), &OpenHow::read()).map_err(|e| e.context(what))?;
    let size = file.metadata().map_err(|e| Error::io(what, e))?.len();
    Ok((file, size))
}

impl Objects for StoreObjects {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put(path, bytes, PutMode::Create)
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put(path, bytes, PutMode::Overwrite)
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        if let Some(root) = &self.root {
            let what = format!("get {path}");
            let (file, size) = self.open_file(root, path, &what)?;
            if size > limit as u64 {
                return Err(super::damaged(path, 0, format_args!("{size} bytes, at most {limit} were expected")));
            }
            let mut bytes = Vec::with_capacity(size as usize);
            std::io::Read::read_to_end(&mut std::io::Read::take(file, limit as u64 + 1), &mut bytes)
                .map_err(|e| Error::io(what, e))?;
            if bytes.len() > limit {
                return Err(super::damaged(path, limit, format_args!("more than {limit} bytes")));
            }
            return Ok(Bytes::from(bytes));
        }
        let (store, key, what) = (self.store.clone(), Key::from(path), || format!("get {path}"));
        let got = self.call(what, move || {
            let (store, key) = (store.clone(), key.clone());
            async move {
                let got = store.get_opts(&key, GetOptions::default()).await?;
                if got.meta.size > limit as u64 { Ok(Err(got.meta.size)) } else { got.bytes().await.map(Ok) }
            }
        })?;
        match got {
            Ok(Ok(bytes)) if bytes.len() <= limit => Ok(bytes),
            Ok(Ok(bytes)) => Err(super::damaged(path, limit, format_args!("{} bytes", bytes.len()))),
            Ok(Err(size)) => Err(super::damaged(path, 0, format_args!("{size} bytes, at most {limit} were expected"))),
            Err(e) => Err(of_store(what(), e)),
        }
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if let Some(root) = &self.root {
            let (_, size) = self.open_file(root, path, &format!("get bytes from {} on of {path}", range.start))?;
            if range.end > size {
                let why = format_args!("the object ends here, bytes up to {} were wanted", range.end);
                return Err(super::damaged(path, size as usize, why));
            }
            let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
            self.get_into(path, range.start, &mut [&mut bytes])?;
            return Ok(Bytes::from(bytes));
        }
        let (store, key) = (self.store.clone(), Key::from(path));
        let (start, want) = (range.start, range.end.saturating_sub(range.start));
        let what = || format!("get bytes {start}..{} of {path}", start + want);
        let got = self.call(what, move || {
            let (store, key, range) = (store.clone(), key.clone(), range.clone());
            async move { store.get_range(&key, range).await }
        })?;
        match got {
            Ok(bytes) if bytes.len() as u64 == want => Ok(bytes),
            Ok(bytes) => {
                Err(super::damaged(path, start as usize, format_args!("{want} bytes wanted, {} there", bytes.len())))
            }
            Err(e @ object_store::Error::NotFound { .. }) => Err(of_store(what(), e)),
            Err(e) => match self.head(path)? {
                Some(size) if size < start + want => Err(super::damaged(
                    path,
                    size as usize,
                    format_args!("the object ends here, {want} bytes at {start} were wanted"),
                )),
                _ => Err(of_store(what(), e)),
            },
        }
    }
    /// Reads files in the calling thread: going through the store's threads costs two switches and a new buffer, which
    /// for a chunk takes as long as reading it.
    fn get_into(&self, path: &str, start: u64, parts: &mut [&mut [u8]]) -> Result<()> {
        let Some(root) = &self.root else { return by_range(self, path, start, parts) };
        let what = || format!("get bytes from {start} on of {path}");
        let (file, _) = self.open_file(root, path, &what())?;
        let mut at = start;
        for part in parts {
            match file.read_exact_at(part, at) {
                Ok(()) => at += part.len() as u64,
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                    let size = file.metadata().on(what)?.len();
                    let why = format_args!("the object ends here, {} bytes at {at} were wanted", part.len());
                    return Err(super::damaged(path, size as usize, why));
                }
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
        Ok(())
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        if let Some(root) = &self.root {
            return match std::fs::symlink_metadata(root.join(path)) {
                Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
                Ok(_) => Ok(None),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => self.must_be_here().map(|()| None),
                Err(e) => Err(Error::io(format!("find {path}"), e)),
            };
        }
        let (store, key, what) = (self.store.clone(), Key::from(path), || format!("find {path}"));
        let found = self.call(what, move || {
            let (store, key) = (store.clone(), key.clone());
            async move { store.head(&key).await }
        })?;
        match found {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(of_store(what(), e)),
        }
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.must_be_here()?;
        let (store, key) = (self.store.clone(), (!folder.is_empty()).then(|| Key::from(folder)));
        let what = || format!("list {folder:?}");
        let all = self.call(what, move || {
            let (store, key) = (store.clone(), key.clone());
            async move { store.list(key.as_ref()).try_collect::<Vec<_>>().await }
        })?;
        let all = all.map_err(|e| of_store(what(), e))?;
        Ok(all
            .into_iter()
            .map(|m| Listed {
                path: m.location.to_string(),
                size: m.size,
                modified: Timestamp(m.last_modified.timestamp_millis()),
            })
            .collect())
    }
    fn irregular(&self, folder: &str) -> Result<Vec<Listed>> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let place = root.join(folder);
        let what = || format!("list folder {}", place.display());
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            other => other.on(what)?,
        };
        for entry in entries {
            let entry = entry.on(what)?;
            let kind = entry.file_type().on(what)?;
            // A link to a file is listed; staged files have a '#'.
            let listed = kind.is_file() || kind.is_symlink() && entry.path().is_file();
            let name = entry.file_name().to_string_lossy().into_owned();
            if !listed && !name.contains('#') {
                found.push(Listed { path: format!("{folder}/{name}"), size: 0, modified: Timestamp(0) });
            }
        }
        Ok(found)
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.must_be_here()?;
        let (store, key) = (self.store.clone(), (!folder.is_empty()).then(|| Key::from(folder)));
        let what = || format!("list folders in {folder:?}");
        let all = self.call(what, move || {
            let (store, key) = (store.clone(), key.clone());
            async move { store.list_with_delimiter(key.as_ref()).await }
        })?;
        let all = all.map_err(|e| of_store(what(), e))?;
        Ok(all.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect())
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.must_be_here()?;
        let (store, key, what) = (self.store.clone(), Key::from(path), || format!("delete {path}"));
        let deleted = self.call(what, move || {
            let (store, key) = (store.clone(), key.clone());
            async move { store.delete(&key).await }
        })?;
        match deleted {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(of_store(what(), e)),
        }
    }
    fn is_remote(&self) -> bool {
        self.root.is_none()
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let folder = root.join(folder);
        let what = || format!("list folder {}", folder.display());
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.on(what)?,
        };
        for entry in entries {
            let entry = entry.on(what)?;
            // No object's name has a '#': the crate stages a put as `name#n`.
            let name = entry.file_name();
            if name.to_string_lossy().contains('#') && name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
                std::fs::remove_file(entry.path()).on(|| format!("delete {}", entry.path().display()))?;
            }
        }
        sync_folder(&folder)?;
        // The directory's own name may be as new as its contents.
        folder.ancestors().skip(1).take_while(|up| up.starts_with(root)).try_for_each(sync_folder)
    }
}

/// The crate's own result.
type StoreResult<T> = std::result::Result<T, object_store::Error>;

/// Repeats a call whose connection fails, as long as there is time.
async fn repeated<T, F: Future<Output = StoreResult<T>>>(limit: Duration, call: impl Fn() -> F) -> StoreResult<T> {
    let (began, mut pause) = (tokio::time::Instant::now(), limit / 1000);
    loop {
        match call().await {
            Err(e) if was_cut(&e) && began.elapsed() + pause < limit => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            other => return other,
        }
    }
}

/// Runs `work` on this file's own runtime and waits. Unlike `Runtime::block_on` it may be called from any thread, even
/// one of another runtime.
fn run<T: Send + 'static>(runtime: &Handle, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (tell, told) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _ = tell.send(work.await);
    });
    told.recv().map_err(|e| Error::new(Kind::Failed, "an object store operation was aborted").because(e))
}

/// Returns this file's own runtime. If it could not be started, for lack of descriptors or threads, the next call tries
/// again.
fn runtime() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    static STARTING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one = STARTING.lock();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = start_runtime(|name, work| std::thread::Builder::new().name(name).spawn(work).map(drop))?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// The main function of a runtime's thread.
type Work = Box<dyn FnOnce() + Send>;

/// Starts a runtime in a thread of its own, made by `spawn`. Tokio would spawn one itself, and panic if that fails.
fn start_runtime(spawn: impl FnOnce(String, Work) -> std::io::Result<()>) -> Result<Handle> {
    let what = || "start the object store's thread".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().thread_name("coffer-objects").enable_all().build();
    let runtime = runtime.on(what)?;
    let handle = runtime.handle().clone();
    spawn("coffer-objects".to_owned(), Box::new(move || runtime.block_on(std::future::pending()))).on(what)?;
    Ok(handle)
}

#[cfg(test)]
#[path = "objects_tests.rs"]
pub(super) mod tests;
