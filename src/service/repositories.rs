//! The repositories that hold snapshots: the one in the data directory, and those that the catalog lists.
//!
//! A repository is opened when something in it is needed. One that cannot be opened fails only that. The catalog has no
//! credentials: they come from the process's environment each time ([`crate::snapshot::location`]).

use super::home::{Home, LOCAL, RepositoryKey};
use super::records::{Records, SnapshotRecord, VolumeRecord};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Record, Tx};
use crate::snapshot::location::Location;
#[cfg(test)]
use crate::snapshot::objects::Objects;
use crate::snapshot::read_cache::{self, ReadCache};
use crate::snapshot::repository::{Author, Repository};
use crate::units::{RepositoryId, SnapshotId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

impl SnapshotRecord {
    /// Returns where its objects are.
    pub(super) const fn home(&self) -> Home {
        Home { repository: self.repository, lineage: self.lineage }
    }
}

/// The catalog's record of a repository that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RepositoryRecord {
    /// The id in its description.
    pub(super) id: RepositoryId,
    pub(super) name: String,
    pub(super) created: Timestamp,
    /// Limit of its read cache in bytes; 0: it has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) cache: u64,
    #[serde(flatten)]
    pub(super) location: Location,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Record for RepositoryRecord {
    const KIND: &'static str = "repository";
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }
}

/// The catalog's record of the repository for the snapshots of volumes that have no setting of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DefaultRepository {
    pub(super) repository: RepositoryKey,
}

impl DefaultRepository {
    /// Its id: there is one.
    pub(super) const ID: &'static str = "default";
}

impl Record for DefaultRepository {
    const KIND: &'static str = "repository-default";
    fn id(&self) -> String {
        Self::ID.to_owned()
    }
}

/// All repositories.
pub(super) struct Repositories {
    records: Arc<Records>,
    env: Env,
    author: Author,
    local: Arc<Repository>,
    /// Those in use, each opened once: it knows this process's logs and creates. Never held while one is read.
    added: Mutex<HashMap<RepositoryId, Arc<Repository>>>,
    /// Those that are being moved, and that nobody can open meanwhile.
    moving: Mutex<HashSet<RepositoryId>>,
    /// The folder with the read caches, one for each repository that was added.
    caches: PathBuf,
    cached: Mutex<HashMap<RepositoryId, Arc<ReadCache>>>,
}

/// A repository that nobody can open until this is dropped.
pub(super) struct Alone<'a>(&'a Repositories, RepositoryId);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1);
        self.0.moving.lock().remove(&self.1);
    }
}

impl Repositories {
    /// Creates the set; only the data directory's own repository is open.
    pub(super) fn new(records: &Arc<Records>, env: &Env, author: Author, local: Repository, caches: PathBuf) -> Self {
        let (records, env, local) = (records.clone(), env.clone(), Arc::new(local));
        let (added, moving, cached) = Default::default();
        Self { records, env, author, local, added, moving, caches, cached }
    }

    /// Returns the read cache of a repository.
    pub(super) fn cache_of(&self, record: &RepositoryRecord) -> Arc<ReadCache> {
        let new = || Arc::new(ReadCache::new(self.caches.join(record.id.to_string()), record.cache));
        self.cached.lock().entry(record.id).or_insert_with(new).clone()
    }

    /// Deletes the caches that no record has any more: an earlier process was killed before it did.
    pub(super) fn delete_left_caches(&self) {
        let Ok(folders) = std::fs::read_dir(&self.caches) else { return };
        let Ok(records) = self.records() else { return };
        for folder in folders.flatten() {
            let name = folder.file_name();
            let is_left = |id| !records.iter().any(|r| r.id == id && r.cache > 0);
            if name.to_string_lossy().parse::<RepositoryId>().is_ok_and(is_left)
                && let Err(err) = read_cache::remove(&folder.path())
            {
                tracing::warn!("{}", err.line());
            }
        }
    }

    /// Deletes the cache of a repository that was removed.
    pub(super) fn delete_cache(&self, record: &RepositoryRecord) {
        if let Err(err) = self.cache_of(record).set_limit(0) {
            tracing::warn!("{}", err.line());
        }
        self.cached.lock().remove(&record.id);
    }

    /// Returns the repository in the data directory.
    pub(super) const fn local(&self) -> &Arc<Repository> {
        &self.local
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not in the catalog; [`Kind::Integrity`] if another one is in its place; what its store
    /// reports.
    pub(super) fn open(&self, key: RepositoryKey) -> Result<Arc<Repository>> {
        let RepositoryKey::Added(id) = key else { return Ok(self.local.clone()) };
        if self.moving.lock().contains(&id) {
            return Err(Error::new(Kind::Busy, format!("repository {} is being moved", self.name_of(key)))
                .hint("try again in a moment"));
        }
        let (opened, known) = match self.opened(id) {
            Some(opened) => (opened, None),
            None => self.open_new(id)?,
        };
        match opened.id() {
            Ok(found) if found == id => Ok(opened),
            Ok(found) => Err(self.in_words(id, known, |of| {
                let what = format!("{of} holds repository {found}, not {id}");
                Error::new(Kind::Integrity, what).hint("put the right one back in its place")
            })),
            Err(err) => Err(self.in_words(id, known, |of| err.context(of))),
        }
    }

    /// Opens a repository that something pending needs. It cannot have been removed: if it is not found, its disk is not
    /// there.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if it is not found; else as [`Repositories::open`].
    pub(super) fn reach(&self, key: RepositoryKey) -> Result<Arc<Repository>> {
        self.open(key).map_err(|err| match err.kind() {
            Kind::NotFound => Error::new(Kind::Unreachable, err.line()).hint("make the repository reachable again"),
            _ => err,
        })
    }

    /// Puts other objects in the place of an added repository's.
    #[cfg(test)]
    pub(super) fn put_in_place(&self, id: RepositoryId, objects: Arc<dyn Objects>) {
        let cache = self.record(id).unwrap().map(|record| self.cache_of(&record));
        let new = Repository::open_cached(objects, self.env.clone(), Some(self.author.clone()), cache);
        self.added.lock().insert(id, Arc::new(new));
    }

    fn opened(&self, id: RepositoryId) -> Option<Arc<Repository>> {
        self.added.lock().get(&id).cloned()
    }

    /// Opens a repository that is not in use, without reading anything of it.
    fn open_new(&self, id: RepositoryId) -> Result<(Arc<Repository>, Option<RepositoryRecord>)> {
        let record = self.record(id)?.ok_or_else(|| unknown(id))?;
        let objects = record.location.open().map_err(|e| e.context(shown(&record)))?;
        let cache = Some(self.cache_of(&record));
        let new = Arc::new(Repository::open_cached(objects, self.env.clone(), Some(self.author.clone()), cache));
        // Another thread may have been faster.
        Ok((self.added.lock().entry(id).or_insert(new).clone(), Some(record)))
    }

    fn in_words(&self, id: RepositoryId, known: Option<RepositoryRecord>, say: impl FnOnce(String) -> Error) -> Error {
        let record = known.or_else(|| self.record(id).ok().flatten());
        say(record.map_or_else(|| format!("repository {id}"), |r| shown(&r)))
    }

    /// Opens the repository that a volume's header names.
    ///
    /// # Errors
    /// As [`Repositories::key_of`] and [`Repositories::open`].
    pub(super) fn open_id(&self, id: RepositoryId) -> Result<Arc<Repository>> {
        self.open(self.key_of(id)?)
    }

    /// Opens the repository that has a snapshot.
    ///
    /// # Errors
    /// As [`Repositories::open`].
    pub(super) fn of_snapshot(&self, id: SnapshotId) -> Result<Arc<Repository>> {
        self.open(self.records.snapshot(id)?.map_or(RepositoryKey::Local, |r| r.repository))
    }

    /// Returns the repository with this id.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is neither in the catalog nor the data directory's own.
    pub(super) fn key_of(&self, id: RepositoryId) -> Result<RepositoryKey> {
        if self.opened(id).is_some() || self.record(id)?.is_some() {
            return Ok(RepositoryKey::Added(id));
        }
        if self.local.id()? == id { Ok(RepositoryKey::Local) } else { Err(unknown(id)) }
    }

    /// Returns the catalog's record of an added repository.
    pub(super) fn record(&self, id: RepositoryId) -> Result<Option<RepositoryRecord>> {
        Ok(self.records.ledger().catalog().get::<RepositoryRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Returns the records of all added repositories, oldest first.
    pub(super) fn records(&self) -> Result<Vec<RepositoryRecord>> {
        let listing = self.records.ledger().catalog().list::<RepositoryRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} is damaged", bad.kind, bad.id);
        }
        let mut all: Vec<_> = listing.records.into_iter().map(|r| r.record).collect();
        all.sort_by_key(|r| (r.created, r.id));
        Ok(all)
    }

    /// Returns all repositories, the data directory's own first.
    pub(super) fn keys(&self) -> Result<Vec<RepositoryKey>> {
        let added = self.records()?.into_iter().map(|r| RepositoryKey::Added(r.id));
        Ok(std::iter::once(RepositoryKey::Local).chain(added).collect())
    }

    /// Returns the repository with this name or id.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(super) fn find(&self, what: &str) -> Result<RepositoryKey> {
        if what == LOCAL {
            return Ok(RepositoryKey::Local);
        }
        let catalog = self.records.ledger().catalog();
        if let Some(found) = catalog.find::<RepositoryRecord>(what)? {
            return Ok(RepositoryKey::Added(found.record.id));
        }
        let by_id = what.parse::<RepositoryId>().ok().map(|id| self.key_of(id));
        by_id.unwrap_or_else(|| {
            let what = format!("there is no repository {what}");
            Err(Error::new(Kind::NotFound, what).hint("see `coffer repository list`"))
        })
    }

    /// Keeps everyone else from opening a repository. Whoever has it open can read on; writes are refused by
    /// [`Repositories::must_be_current`].
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody else does that.
    pub(super) fn keep_from_others(&self, id: RepositoryId) -> Result<Alone<'_>> {
        if !self.moving.lock().insert(id) {
            return Err(Error::new(Kind::Busy, format!("repository {id} is being moved")));
        }
        self.forget(id);
        Ok(Alone(self, id))
    }

    /// Refuses a repository that was moved or removed since it was opened, in the transaction that records what is about to be
    /// written to it.
    ///
    /// # Errors
    /// [`Kind::Busy`]; as [`Repositories::must_know`].
    pub(super) fn must_be_current(&self, tx: &Tx<'_>, key: RepositoryKey, opened: &Arc<Repository>) -> Result<()> {
        Self::must_know(tx, key)?;
        match key {
            RepositoryKey::Added(id) if !self.opened(id).is_some_and(|now| Arc::ptr_eq(&now, opened)) => {
                let what = format!("repository {} was moved or removed meanwhile", self.name_of(key));
                Err(Error::new(Kind::Busy, what).hint("try again"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a repository that the catalog does not have, in the transaction that is about to name it.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(super) fn must_know(tx: &Tx<'_>, key: RepositoryKey) -> Result<()> {
        match key {
            RepositoryKey::Added(id) if tx.get::<RepositoryRecord>(&id.to_string())?.is_none() => Err(unknown(id)),
            _ => Ok(()),
        }
    }

    /// Closes a repository that was removed.
    pub(super) fn forget(&self, id: RepositoryId) {
        self.added.lock().remove(&id);
    }

    /// Returns the name of a repository; its id, if its record cannot be read.
    pub(super) fn name_of(&self, key: RepositoryKey) -> String {
        let RepositoryKey::Added(id) = key else { return LOCAL.to_owned() };
        self.record(id).ok().flatten().map_or_else(|| id.to_string(), |r| r.name)
    }

    /// Returns the repository for the snapshots of volumes without a setting of their own.
    pub(super) fn default_key(&self) -> Result<RepositoryKey> {
        let found = self.records.ledger().catalog().get::<DefaultRepository>(DefaultRepository::ID)?;
        Ok(found.map_or(RepositoryKey::Local, |f| f.record.repository))
    }

    /// Returns where the next snapshot of a volume goes.
    pub(super) fn for_volume(&self, volume: &VolumeRecord) -> Result<RepositoryKey> {
        volume.repository.map_or_else(|| self.default_key(), Ok)
    }
}

/// Returns how messages name a repository.
pub(super) fn shown(record: &RepositoryRecord) -> String {
    format!("repository {} ({})", record.name, record.location.url())
}

fn unknown(id: RepositoryId) -> Error {
    Error::new(Kind::NotFound, format!("repository {id} is not known here"))
        .hint("add it again with `coffer repository add`")
}
