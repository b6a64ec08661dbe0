//! A repository: its description, its folders, its logs, its wrapped keys, its snapshots.
//!
//! `coffer-repository.json` at the root is { "format": "coffer-repository", "version": 1, "repository": hex id,
//! "incompatible": [], "read_only_compatible": [], "compatible": [] }: with an unknown incompatible feature the
//! repository is rejected, with an unknown read-only-compatible one it opens read-only.
//!
//! An installation writes only in its own folder of a lineage. Its data directory's lock ensures that no second process
//! does; a cloned data directory is detected by put-if-absent on the log.

use super::creates::{Creates, Shapes};
use super::fetchers::{Fetchers, IN_FLIGHT, Slots};
use super::log::{CHECKPOINT_EVERY, Entry, Live, Log, LogState, Unreadable, WrappedKey, is_damage, signed_manifest};
use super::manifest::Manifest;
use super::objects::{Listed, Objects, StoreObjects, put_same};
use super::read_cache::ReadCache;
use super::record::RECORD_MAX;
use super::redirect::Moved;
use super::refs::{REF_MAX, Ref, RefKind};
use super::tree::{CACHE_PAGES, PageCache, Tree};
use super::{Folder, PublicKey, Signer, damaged, too_new};
use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{DataKeyId, Hash32, InstallationId, LineageId, RepositoryId, SnapshotId, VolumeId};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub(super) const DESCRIPTION: &str = "coffer-repository.json";
pub(super) const DESCRIPTION_MAX: usize = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    version: u32,
    repository: RepositoryId,
    #[serde(default)]
    incompatible: Vec<String>,
    #[serde(default)]
    read_only_compatible: Vec<String>,
    #[serde(default)]
    compatible: Vec<String>,
}

/// A writer: an installation and its signing key.
#[derive(Clone)]
pub struct Author {
    /// The installation.
    pub installation: InstallationId,
    /// Its signing key.
    pub signer: Arc<dyn Signer>,
}

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its id.
    pub id: SnapshotId,
    /// The installation whose folder contains it.
    pub installation: InstallationId,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The time of the point in time.
    pub time: Timestamp,
    /// The volume's size at that time, in bytes.
    pub size: u64,
    /// The snapshot it is an increment to.
    pub parent: Option<SnapshotId>,
    /// Chunks that are not holes.
    pub chunks: u64,
    /// Chunks that differ from the parent.
    pub changed_chunks: u64,
    /// Bytes of sectors that it put into packs.
    pub stored_bytes: u64,
    /// Whether it is held against deletion.
    pub held: bool,
}

/// A verified manifest.
#[derive(Debug, Clone)]
pub struct Located {
    /// The folder that contains it.
    pub folder: Folder,
    /// The manifest.
    pub manifest: Manifest,
    /// Hash of its bytes.
    pub hash: Hash32,
    /// The key that signed it: the one in its folder's genesis.
    pub public_key: PublicKey,
    /// Whether it is live in its folder's log (else it is deleted, but something still needs it).
    pub live: bool,
}

/// A repository. Cheap to clone; usable from many threads.
#[derive(Clone)]
pub struct Repository {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) env: Env,
    pub(super) cache: Arc<PageCache>,
    /// What was read before, in files.
    pub(super) kept: Option<Arc<ReadCache>>,
    /// For bulk reads of packs.
    pub(super) slots: Slots,
    /// Read chunks before they are needed.
    pub(super) fetchers: Fetchers,
    pub(super) creates: Mutex<Creates>,
    /// Notified when a sweep, or its delete of an object, has ended.
    pub(super) swept: Condvar,
    /// The sweeps' cache of pages and manifests.
    pub(super) shapes: Mutex<Shapes>,
    /// Where the bodies of compacted packs are.
    pub(super) moved: Mutex<Moved>,
    about: OnceLock<About>,
    author: Option<Author>,
    /// Never held while an object is read or written: a lineage whose store is slow delays no other.
    logs: Mutex<HashMap<LineageId, Arc<LogSlot>>>,
}

/// This installation's log of one lineage.
#[derive(Default)]
struct LogSlot {
    /// Whether this process has settled the lineage after a killed one: once, before its first put there.
    settled: Mutex<bool>,
    /// Held by the thread that reads the log from the store or appends to it. Taken before `log`.
    turn: Mutex<()>,
    /// The log as of the last append that succeeded; readers do not wait for the next one. `None`: not read yet, missing,
    /// or to be reread after a failed put.
    log: Mutex<Option<Arc<Log>>>,
    /// The number of the first record behind genesis, as far as this process has trimmed it.
    trimmed: AtomicU64,
}

/// The contents of the description.
#[derive(Debug, Clone)]
struct About {
    id: RepositoryId,
    /// The feature that makes the repository read-only.
    read_only: Option<String>,
}

impl About {
    fn read(objects: &dyn Objects) -> Result<Self> {
        let raw = objects.get(DESCRIPTION, DESCRIPTION_MAX).map_err(|e| {
            if e.kind() != Kind::NotFound {
                return e;
            }
            Error::new(Kind::NotFound, "open repository: coffer-repository.json is missing")
                .because(e)
                .hint("restore it from a copy, or see `coffer doctor`")
        })?;
        let found: Description =
            serde_json::from_slice(&raw).map_err(|e| damaged(DESCRIPTION, 0, "not a description").because(e))?;
        if found.format != "coffer-repository" {
            return Err(damaged(DESCRIPTION, 0, "not a coffer repository"));
        }
        if found.version != 1 || !found.incompatible.is_empty() {
            return Err(too_new(
                DESCRIPTION,
                format_args!("version {} features {:?}", found.version, found.incompatible),
            ));
        }
        Ok(Self { id: found.repository, read_only: found.read_only_compatible.first().cloned() })
    }
}

impl Repository {
    /// Makes a repository in the directory `root`, which is created if necessary.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one; what the file system reports.
    pub fn init(root: &Path, env: &Env) -> Result<RepositoryId> {
        std::fs::create_dir_all(root).on(|| format!("make repository folder {}", root.display()))?;
        Self::init_in(&StoreObjects::local(root)?, env)
    }

    /// Makes a repository in `objects`.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one; what the store reports.
    pub fn init_in(objects: &dyn Objects, env: &Env) -> Result<RepositoryId> {
        let repository = RepositoryId::draw(&*env.rng);
        let json = Self::description_of(repository)?;
        Self::settle_in(objects)?;
        objects.put_new(DESCRIPTION, Bytes::from(json)).map_err(|e| e.context("make a repository"))?;
        Ok(repository)
    }

    /// Removes what a killed [`Repository::init_in`] may have left staged.
    ///
    /// # Errors
    /// What the store reports.
    pub fn settle_in(objects: &dyn Objects) -> Result<()> {
        objects.settle("", DESCRIPTION)
    }

    /// Returns the contents of `coffer-repository.json` for the repository with this id.
    ///
    /// # Errors
    /// Never in practice; the JSON library can return one.
    pub fn description_of(repository: RepositoryId) -> Result<String> {
        let description = Description {
            format: "coffer-repository".into(),
            version: 1,
            repository,
            incompatible: Vec::new(),
            read_only_compatible: Vec::new(),
            compatible: Vec::new(),
        };
        serde_json::to_string(&description).map_err(|e| Error::new(Kind::Failed, "describe the repository").because(e))
    }

    /// Opens the repository in the directory `root`; without an author, read-only.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; [`Kind::Unsupported`] for a newer one; [`Kind::Integrity`] for a damaged
    /// one.
    pub fn open(root: &Path, env: Env, author: Option<Author>) -> Result<Self> {
        Self::open_in(Arc::new(StoreObjects::local(root)?), env, author)
    }

    /// Opens the repository in `objects`; without an author, read-only.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_in(objects: Arc<dyn Objects>, env: Env, author: Option<Author>) -> Result<Self> {
        let repository = Self::open_later(objects, env, author);
        repository.inner.about()?;
        Ok(repository)
    }

    /// Like [`Repository::open_in`], but reads the description at its first use: operations that need no snapshot work
    /// even if it is missing or damaged.
    #[must_use]
    pub fn open_later(objects: Arc<dyn Objects>, env: Env, author: Option<Author>) -> Self {
        Self::open_cached(objects, env, author, None)
    }

    /// Like [`Repository::open_later`], with a cache for the bodies and pages that are read.
    #[must_use]
    pub fn open_cached(
        objects: Arc<dyn Objects>,
        env: Env,
        author: Option<Author>,
        kept: Option<Arc<ReadCache>>,
    ) -> Self {
        let inner = Inner {
            objects,
            env,
            cache: Arc::new(PageCache::new(CACHE_PAGES)),
            kept,
            slots: Slots::new(IN_FLIGHT),
            fetchers: Fetchers::default(),
            creates: Mutex::default(),
            swept: Condvar::new(),
            shapes: Mutex::default(),
            moved: Mutex::default(),
            about: OnceLock::new(),
            author,
            logs: Mutex::new(HashMap::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the repository's id.
    ///
    /// # Errors
    /// If the description is missing or damaged.
    pub fn id(&self) -> Result<RepositoryId> {
        Ok(self.inner.about()?.id)
    }

    /// Lists the lineages that have a folder here.
    ///
    /// # Errors
    /// What the store reports.
    pub fn lineages(&self) -> Result<Vec<LineageId>> {
        self.inner.about()?;
        Ok(self.inner.objects.folders("")?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Lists the installations that have a folder here.
    ///
    /// # Errors
    /// What the store reports.
    pub fn installations(&self) -> Result<BTreeSet<InstallationId>> {
        let mut all = BTreeSet::new();
        for lineage in self.lineages()? {
            all.extend(self.inner.folders(lineage)?.into_iter().map(|f| f.installation));
        }
        Ok(all)
    }

    /// Returns the number of the last record of this installation's log of `lineage`; `None` without a log. If the
    /// catalog has a higher number, the folder was rolled back.
    ///
    /// # Errors
    /// If the log cannot be read or verified.
    pub fn last_log_number(&self, lineage: LineageId) -> Result<Option<u64>> {
        let own = self.inner.own(lineage)?;
        Ok(self.inner.own_log(own)?.map(|l| l.last))
    }

    /// Returns the unreadable records of this installation's log of `lineage`, and whether part of the state is unknown
    /// until [`Repository::vouch`] settles it.
    ///
    /// # Errors
    /// If the readable records contradict each other; what the store reports.
    pub fn unreadable(&self, lineage: LineageId) -> Result<(Vec<Unreadable>, bool)> {
        let log = self.inner.own_log(self.inner.own(lineage)?)?;
        Ok(log.map(|l| (l.unreadable.clone(), l.lacks_something())).unwrap_or_default())
    }

    /// Returns the unreadable records of `lineage`, in the logs of all installations, for a reader that changes
    /// nothing.
    ///
    /// # Errors
    /// If the readable records of a log contradict each other; what the store reports.
    pub fn unreadable_by_anyone(&self, lineage: LineageId) -> Result<Vec<Unreadable>> {
        let mut all = Vec::new();
        for folder in self.inner.folders(lineage)? {
            all.extend(self.inner.log(folder)?.map(|log| log.unreadable).unwrap_or_default());
        }
        Ok(all)
    }

    /// Settles, from the installation's catalog, what unreadable records of its log may have contained
    /// ([`Log::vouch`]). The next record that is written replaces them.
    ///
    /// # Errors
    /// If a manifest cannot be checked; what the store reports.
    pub fn vouch(
        &self,
        lineage: LineageId,
        completed: &BTreeSet<SnapshotId>,
        unclear: &BTreeSet<SnapshotId>,
    ) -> Result<()> {
        let (inner, now) = (&*self.inner, self.inner.env.now());
        inner.change_log(inner.own(lineage)?, |log| match log {
            Some(log) if log.lacks_something() => log.vouch(&*inner.objects, now, completed, unclear),
            _ => Ok(()),
        })
    }

    /// Returns the state of `snapshot` in this installation's log; `None`: it is not live.
    ///
    /// # Errors
    /// If the log cannot be read, or part of its state is unknown.
    pub fn live(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<Option<Live>> {
        let own = self.inner.own(lineage)?;
        Ok(self.inner.settled_state(own)?.live.remove(&snapshot))
    }

    /// Checks that a snapshot's manifest, pages and packs exist, without reading the packs.
    ///
    /// # Errors
    /// The first that is missing or damaged.
    pub fn check_reach(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<()> {
        self.inner.check_reach(&self.inner.locate(lineage, snapshot)?)
    }

    /// Returns the snapshot that this installation's ref `id` is on. `None`: there is no such ref, or it is unreadable.
    ///
    /// # Errors
    /// What the store reports.
    pub fn ref_on(&self, lineage: LineageId, id: &str) -> Result<Option<SnapshotId>> {
        let path = Ref::path(lineage, self.inner.author()?.installation, id)?;
        Ok(self.inner.read_ref(lineage, &path)?.map(|r| r.snapshot))
    }

    /// Lists every live snapshot of `lineage`, in all folders, oldest first.
    ///
    /// # Errors
    /// If a log or a manifest cannot be read or verified.
    pub fn list(&self, lineage: LineageId) -> Result<Vec<Listing>> {
        let mut all = Vec::new();
        for folder in self.inner.folders(lineage)? {
            let Some(log) = self.inner.log(folder)? else { continue };
            for (id, live) in &log.state.live {
                let m = self.inner.manifest(&log, *id)?.manifest;
                all.push(Listing {
                    id: *id,
                    installation: folder.installation,
                    volume: m.volume,
                    time: m.time,
                    size: m.size,
                    parent: m.parent,
                    chunks: m.chunks,
                    changed_chunks: m.changed_chunks,
                    stored_bytes: m.stored_bytes,
                    held: live.held,
                });
            }
        }
        all.sort_by_key(|l| (l.time, l.id));
        Ok(all)
    }

    /// Returns the ids of all live snapshots of `lineage`, in all folders, by the time of their completion.
    ///
    /// # Errors
    /// If a log cannot be read or verified.
    pub fn live_ids(&self, lineage: LineageId) -> Result<Vec<SnapshotId>> {
        let mut all = Vec::new();
        for folder in self.inner.folders(lineage)? {
            let live = self.inner.log(folder)?.map(|log| log.state.live).unwrap_or_default();
            all.extend(live.into_iter().map(|(id, live)| (live.time, id)));
        }
        all.sort_unstable();
        Ok(all.into_iter().map(|(_, id)| id).collect())
    }

    /// Returns the wrapped data keys of `lineage`; for each data key, the newest in any folder.
    ///
    /// # Errors
    /// If a log cannot be read or verified.
    pub fn keys(&self, lineage: LineageId) -> Result<BTreeMap<DataKeyId, WrappedKey>> {
        let mut all: BTreeMap<DataKeyId, WrappedKey> = BTreeMap::new();
        for folder in self.inner.folders(lineage)? {
            for (id, key) in self.inner.log(folder)?.map(|l| l.state.keys).unwrap_or_default() {
                if all.get(&id).is_none_or(|have| have.time < key.time) {
                    all.insert(id, key);
                }
            }
        }
        Ok(all)
    }

    /// Puts a wrapped data key, new or rewrapped: it serves every snapshot that uses the key.
    ///
    /// # Errors
    /// As [`Log::append`]; [`Kind::ReadOnly`] without an author.
    pub fn put_key(&self, lineage: LineageId, data_key: DataKeyId, blob: &[u8]) -> Result<()> {
        let entry = Entry::Key { data_key, blob: blob.to_vec(), time: self.inner.env.now() };
        self.inner.append(self.inner.own(lineage)?, &entry)
    }

    /// Holds a snapshot against deletion, or releases it.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if it is not live in this installation's folder.
    pub fn hold(&self, lineage: LineageId, snapshot: SnapshotId, held: bool) -> Result<()> {
        self.inner.append(self.inner.own(lineage)?, &Entry::Hold { snapshot, held, time: self.inner.env.now() })
    }

    /// Deletes a snapshot: it is hidden at once. A later [`Repository::sweep`] deletes its objects.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if it is not live in this installation's folder, or held.
    pub fn delete(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<()> {
        self.inner.append(self.inner.own(lineage)?, &Entry::Delete { snapshot, time: self.inner.env.now() })
    }

    /// Returns the verified manifest of `snapshot`, in whichever folder of the lineage it is.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Integrity`] if signature, hash or content is wrong.
    pub fn locate(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<Located> {
        self.inner.locate(lineage, snapshot)
    }

    /// Puts this installation's ref `id` on `snapshot`, or renews its heartbeat.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the snapshot is not live, or no longer: then the ref was removed again.
    pub fn put_ref(&self, lineage: LineageId, id: &str, kind: RefKind, snapshot: SnapshotId) -> Result<()> {
        let author = self.inner.author()?;
        let at = self.inner.locate(lineage, snapshot)?;
        let path = Ref::path(lineage, author.installation, id)?;
        self.inner.settle(Folder { lineage, installation: author.installation })?;
        // An unreadable one is replaced.
        let old = self.inner.read_ref(lineage, &path)?;
        let renewed = old.as_ref().is_some_and(|o| o.snapshot == snapshot && o.folder == at.folder.installation);
        let now = self.inner.env.now();
        let new = Ref {
            format: 1,
            kind,
            installation: author.installation,
            id: id.to_owned(),
            snapshot,
            folder: at.folder.installation,
            time: old.as_ref().filter(|_| renewed).map_or(now, |o| o.time),
            heartbeat: now,
        };
        self.inner.objects.put_over(&path, Bytes::from(new.encode()?))?;
        let live = self.inner.log(at.folder)?.is_some_and(|log| log.state.live.contains_key(&snapshot));
        if live || renewed {
            return Ok(());
        }
        match old {
            Some(old) => self.inner.objects.put_over(&path, Bytes::from(old.encode()?))?,
            None => self.inner.objects.delete(&path)?,
        }
        Err(Error::new(Kind::NotFound, format!("put ref {id} on {snapshot}: the snapshot was deleted")))
    }

    /// Removes this installation's ref `id`. A missing one is not an error.
    ///
    /// # Errors
    /// What the store reports.
    pub fn delete_ref(&self, lineage: LineageId, id: &str) -> Result<()> {
        self.inner.objects.delete(&Ref::path(lineage, self.inner.author()?.installation, id)?)
    }

    /// Removes any installation's ref, for an audited `repository unref --force`.
    ///
    /// # Errors
    /// What the store reports.
    pub fn delete_ref_of(&self, lineage: LineageId, installation: InstallationId, id: &str) -> Result<()> {
        self.inner.objects.delete(&Ref::path(lineage, installation, id)?)
    }

    /// Lists all refs of `lineage`, including those that no longer count ([`Ref::counts`]).
    ///
    /// # Errors
    /// If one is unreadable or damaged: nothing may be swept then.
    pub fn refs(&self, lineage: LineageId) -> Result<Vec<Ref>> {
        self.inner.refs(lineage)
    }
}

impl Inner {
    pub(super) fn author(&self) -> Result<&Author> {
        let about = self.about()?;
        if let Some(feature) = &about.read_only {
            let what = format!("write to repository {}: it uses the unknown feature {feature}", about.id);
            return Err(Error::new(Kind::ReadOnly, what).hint("use a newer coffer"));
        }
        self.author.as_ref().ok_or_else(|| {
            Error::new(Kind::ReadOnly, format!("write to repository {}: it is open read-only", about.id))
        })
    }

    /// Returns the description, read at its first use.
    fn about(&self) -> Result<&About> {
        if let Some(about) = self.about.get() {
            return Ok(about);
        }
        let found = About::read(&*self.objects)?;
        Ok(self.about.get_or_init(|| found))
    }

    /// Returns this installation's folder of `lineage`.
    pub(super) fn own(&self, lineage: LineageId) -> Result<Folder> {
        Ok(Folder { lineage, installation: self.author()?.installation })
    }

    /// Lists all folders of `lineage`, this installation's first.
    pub(super) fn folders(&self, lineage: LineageId) -> Result<Vec<Folder>> {
        self.about()?;
        let own = self.author.as_ref().map(|a| a.installation);
        let names = self.objects.folders(&lineage.to_string())?;
        let mut all: Vec<_> = names.iter().filter_map(|n| n.parse().ok()).collect();
        all.sort_by_key(|i: &InstallationId| (Some(*i) != own, *i));
        Ok(all.into_iter().map(|installation| Folder { lineage, installation }).collect())
    }

    fn slot(&self, lineage: LineageId) -> Arc<LogSlot> {
        self.logs.lock().entry(lineage).or_default().clone()
    }

    /// Settles this installation's part of a lineage, once per process, before its first put there.
    fn settle(&self, own: Folder) -> Result<()> {
        let slot = self.slot(own.lineage);
        let mut settled = slot.settled.lock();
        if *settled {
            return Ok(());
        }
        // A killed process may have linked a record without syncing the directory: visible now, lost at power loss.
        let sorts = ["log", "manifests", "pages", "packs", "redirects"];
        sorts.iter().try_for_each(|sort| self.objects.settle(&own.sort(sort), ""))?;
        // The refs of all installations share a folder: this one may delete only what it staged itself.
        self.objects.settle(&format!("{}/refs", own.lineage), &own.installation.to_string())?;
        *settled = true;
        Ok(())
    }

    /// Returns this installation's log of a lineage, read and verified at its first use. An append under way is not waited
    /// for, and not in it.
    fn own_log(&self, own: Folder) -> Result<Option<Arc<Log>>> {
        self.settle(own)?;
        let slot = self.slot(own.lineage);
        let known = slot.log.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let _turn = slot.turn.lock();
        self.loaded(own, &slot)
    }

    /// Returns the log in a slot whose turn is held, after reading it if necessary.
    fn loaded(&self, own: Folder, slot: &LogSlot) -> Result<Option<Arc<Log>>> {
        let known = slot.log.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let ours = self.author()?.signer.public_key();
        let log = Log::load_readable(&*self.objects, own, Some(ours))?;
        if let Some(key) = log.as_ref().map(|l| l.public_key).filter(|key| *key != ours) {
            let why =
                format_args!("genesis shows key {}, this installation's is {}", hex::encode(key), hex::encode(ours));
            return Err(damaged(&own.path("log", "0000000000000000"), super::record::ENVELOPE, why));
        }
        let log = log.map(Arc::new);
        slot.log.lock().clone_from(&log);
        Ok(log)
    }

    /// Changes this installation's log of a lineage, one thread at a time. After an error it is reread at its next use, which
    /// shows whether a put took effect.
    pub(super) fn change_log<T>(&self, own: Folder, change: impl FnOnce(&mut Option<Log>) -> Result<T>) -> Result<T> {
        self.settle(own)?;
        let slot = self.slot(own.lineage);
        let _turn = slot.turn.lock();
        let mut log = self.loaded(own, &slot)?.map(Arc::unwrap_or_clone);
        let changed = change(&mut log);
        *slot.log.lock() = log.filter(|_| changed.is_ok()).map(Arc::new);
        changed
    }

    /// Appends to this installation's log, starting one if necessary.
    pub(super) fn append(&self, own: Folder, entry: &Entry) -> Result<()> {
        let signer = self.author()?.signer.clone();
        self.change_log(own, |log| {
            let log = match log {
                Some(log) => log,
                None => log.insert(Log::start(&*self.objects, own, &*signer, self.env.now())?),
            };
            log.append(&*self.objects, &*signer, entry)
        })
    }

    /// Deletes records of this installation's log that no reader needs.
    pub(super) fn trim_log(&self, own: Folder) -> Result<()> {
        let slot = self.slot(own.lineage);
        let Some(log) = self.own_log(own)? else { return Ok(()) };
        // There is something to trim at every checkpoint.
        if log.last / CHECKPOINT_EVERY > 1 + slot.trimmed.load(Ordering::Acquire) / CHECKPOINT_EVERY {
            slot.trimmed.store(log.trim(&*self.objects)?, Ordering::Release);
        }
        Ok(())
    }

    /// Returns the state of this installation's log, if no part of it is unknown.
    pub(super) fn settled_state(&self, own: Folder) -> Result<LogState> {
        match self.own_log(own)? {
            Some(log) if log.lacks_something() => Err(log
                .unreadable
                .first()
                .map_or_else(|| damaged(&own.sort("log"), 0, "damaged"), |u| u.error.replay())),
            log => Ok(log.map(|l| l.state.clone()).unwrap_or_default()),
        }
    }

    /// Returns the state of this installation's log.
    pub(super) fn own_state(&self, own: Folder) -> Result<LogState> {
        Ok(self.own_log(own)?.map(|l| l.state.clone()).unwrap_or_default())
    }

    /// Returns a folder's log: this installation's from memory, another's freshly read.
    pub(super) fn log(&self, folder: Folder) -> Result<Option<Log>> {
        match &self.author {
            Some(a) if a.installation == folder.installation && self.about()?.read_only.is_none() => {
                Ok(self.own_log(folder)?.map(|log| Log::clone(&log)))
            }
            Some(_) => Log::load(&*self.objects, folder),
            // A mere reader can be shown what is readable.
            None => Log::load_readable(&*self.objects, folder, None),
        }
    }

    pub(super) fn locate(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<Located> {
        for folder in self.folders(lineage)? {
            if let Some(found) = self.locate_in(folder, snapshot)? {
                return Ok(found);
            }
        }
        let what = format!("snapshot {snapshot} is not in repository {} (lineage {lineage})", self.about()?.id);
        Err(Error::new(Kind::NotFound, what))
    }

    /// Returns a snapshot that the folder's log has added and whose manifest still exists.
    pub(super) fn locate_in(&self, folder: Folder, snapshot: SnapshotId) -> Result<Option<Located>> {
        let Some(log) = self.log(folder)? else { return Ok(None) };
        let known = log.state.live.contains_key(&snapshot) || log.state.deleted.contains_key(&snapshot);
        if !known && log.lacks_something() {
            return self.attested(&log, snapshot);
        }
        if !known {
            return Ok(None);
        }
        match self.manifest(&log, snapshot) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == Kind::NotFound && !log.state.live.contains_key(&snapshot) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns a snapshot whose `add` may be among the unreadable records: its manifest is signed.
    fn attested(&self, log: &Log, snapshot: SnapshotId) -> Result<Option<Located>> {
        match signed_manifest(&*self.objects, log.folder, snapshot, &log.public_key) {
            Ok((manifest, hash)) => {
                Ok(Some(Located { folder: log.folder, manifest, hash, public_key: log.public_key, live: false }))
            }
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the manifest of a snapshot in `log`, verified against hash and signature.
    pub(super) fn manifest(&self, log: &Log, snapshot: SnapshotId) -> Result<Located> {
        let (live, gone) = (log.state.live.get(&snapshot), log.state.deleted.get(&snapshot));
        let object = log.folder.path("manifests", snapshot);
        let raw = self.objects.get(&object, RECORD_MAX).map_err(|e| {
            if e.kind() == Kind::NotFound && live.is_some() {
                damaged(&object, 0, "the snapshot is in the log, but its manifest is missing").because(e)
            } else {
                e
            }
        })?;
        let (manifest, record) = Manifest::parse(&object, log.folder, snapshot, raw)?;
        let hash = record.hash();
        // Zeros: the record with the hash is lost, and only the signature counts.
        let said = live.map(|l| l.manifest).or(gone.map(|d| d.manifest));
        if said.is_none_or(|said| said != hash && !said.is_zero()) {
            return Err(damaged(&object, 0, format_args!("the manifest's hash {hash} does not match the log")));
        }
        record.verify(&object, &log.public_key)?;
        Ok(Located { folder: log.folder, manifest, hash, public_key: log.public_key, live: live.is_some() })
    }

    pub(super) fn tree(&self, at: &Located) -> Tree {
        let m = &at.manifest;
        let tree =
            Tree::new(self.objects.clone(), self.cache.clone(), at.folder.lineage, m.folders.clone(), m.root, m.depth);
        tree.kept_in(self.kept.clone())
    }

    /// Lists the refs of a lineage. Anything else in a ref's place counts as an unreadable ref: it may need anything.
    pub(super) fn ref_objects(&self, lineage: LineageId) -> Result<Vec<Listed>> {
        let folder = format!("{lineage}/refs");
        let mut all = self.objects.list(&folder)?;
        all.extend(self.objects.irregular(&folder)?);
        Ok(all)
    }

    pub(super) fn refs(&self, lineage: LineageId) -> Result<Vec<Ref>> {
        let mut all = Vec::new();
        for object in self.ref_objects(lineage)? {
            match self.objects.get(&object.path, REF_MAX) {
                Ok(raw) => all.push(Ref::parse(&object.path, lineage, &raw)?),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Returns a ref, if there is a readable one.
    fn read_ref(&self, lineage: LineageId, path: &str) -> Result<Option<Ref>> {
        match self.objects.get(path, REF_MAX).and_then(|raw| Ref::parse(path, lineage, &raw)) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == Kind::NotFound || is_damage(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Announces that `snapshot`'s create is about to put `name`: from now on no sweep deletes it. Waits for a sweep that is
    /// deleting it, so that the put comes after.
    pub(super) fn announce(&self, snapshot: SnapshotId, name: &str) {
        let mut creates = self.creates.lock();
        creates.announce(snapshot, name);
        while creates.is_going(name) {
            self.swept.wait(&mut creates);
        }
    }

    /// Announces and puts an object that never has any other bytes.
    pub(super) fn put_for(&self, snapshot: SnapshotId, name: &str, bytes: &Bytes) -> Result<()> {
        self.announce(snapshot, name);
        put_same(&*self.objects, name, bytes)
    }
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
