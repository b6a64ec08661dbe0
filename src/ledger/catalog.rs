//! The catalog: every object of the installation as one authenticated record, in a `RecordStore`.
//!
//! `body` is the object's canonical JSON, kept and checked as stored. `mac` = HMAC-SHA-256 under HKDF-SHA-256(root key,
//! no salt, "coffer/catalog/v1") over kind, id, version (u64, little-endian) and body, each preceded by its length as
//! u32. A row whose MAC does not match is *damaged*: it is named and rejected, the others stay usable. A restored old
//! row has a valid MAC; only the audit's chain detects it (see [`super::audit`]).
//!
//! Names, and indexes on fields of bodies ([`Record::INDEXES`]), are hints that are never trusted. Rows that were read
//! stay in memory until the store says that another process changed something (see `cache`).

mod cache;
mod index;

use super::store::sqlite::Sqlite;
use super::store::{Over, RecordStore, Row, Rows, Transaction, Wrote};
use crate::cipher::hkdf_sha256;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use aws_lc_rs::hmac;
use cache::Cache;
use parking_lot::{Mutex, MutexGuard, ReentrantMutex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The kind of the record that a catalog begins with, which is never changed.
pub(crate) const INSTALLATION: &str = "installation";

/// Kinds whose changes are not in the audit's chain: the audit's own head; a repository log's head, which that log
/// proves; how long keys have waited for deletion, which the clock changes; the record that a catalog begins with.
const UNAUDITED: &[&str] = &[
    "audit-head",
    "kms-clock",
    "repository-log",
    INSTALLATION,
    #[cfg(test)]
    "thing",
];

/// Whether each change of this kind must be in the audit's chain.
pub(super) fn is_audited(kind: &str) -> bool {
    !UNAUDITED.contains(&kind)
}

/// A type of object that the catalog stores, one record each.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind, such as `volume`. Part of the MAC: never renamed.
    const KIND: &'static str;
    /// Fields of the body that [`Catalog::list_of`] searches by, an index for each list.
    const INDEXES: &'static [&'static [&'static str]] = &[];
    /// Returns its id, unique within the kind.
    fn id(&self) -> String;
    /// Returns a second, unique, changeable name that it can be found by.
    fn name(&self) -> Option<String> {
        None
    }
}

/// A record, and the version that a later update must find unchanged.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    /// The record.
    pub record: T,
    /// Its version: 1 when inserted, incremented by each update.
    pub version: u64,
}

/// A row that failed authentication or does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The record's kind.
    pub kind: String,
    /// The record's id, as far as the row tells.
    pub id: String,
    /// What is wrong with it.
    pub why: String,
}

/// The result of [`Catalog::list`].
#[derive(Debug)]
pub struct Listing<T> {
    /// The valid records, sorted by id.
    pub records: Vec<Versioned<T>>,
    /// The damaged rows.
    pub damaged: Vec<Damaged>,
}

/// A change of a record, as the audit's chain records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The record's kind.
    pub kind: String,
    /// The record's id.
    pub id: String,
    /// The version after the change; for a removed record, its last version plus one.
    pub version: u64,
    /// SHA-256 of its body in hexadecimal; absent for a removed record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
    /// SHA-256 of the body that it replaces or removes, in hexadecimal; absent for a new record, and in logs from before
    /// there were checkpoints.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub was: Option<String>,
}

/// A row as the audit's chain sees it: its version and hash, or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stamp {
    At(u64, String),
    Damaged,
}

// ---------------------------------------------------------------------------------------------------------------------
// The catalog

/// The transaction that is running, if any.
type Running = RefCell<Option<Box<dyn Transaction>>>;

/// The installation's records. Any thread may call it; transactions of this process run one after another.
pub struct Catalog {
    store: Arc<dyn RecordStore>,
    mac_key: Secret<32>,
    /// Held for the duration of a transaction.
    turn: ReentrantMutex<Running>,
    cache: Mutex<Cache>,
    rows_read: AtomicU64,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

impl Catalog {
    /// Creates an empty catalog at `path`, mode 0600.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something is there; what the file system and SQLite report.
    pub fn create(path: &Path, root: &Secret<32>) -> Result<Self> {
        Self::over(Arc::new(Sqlite::create(path)?), root)
    }

    /// Opens the catalog at `path`. SQLite checks a small one now, a large one later.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without a file, [`Kind::Integrity`] for a damaged or foreign one, [`Kind::Unsupported`] for
    /// one written by a newer coffer.
    pub fn open(path: &Path, root: &Secret<32>) -> Result<Self> {
        Self::over(Arc::new(Sqlite::open(path)?), root)
    }

    /// Opens the catalog at `path` for examination, when it cannot be opened normally: writes nothing, and does not see
    /// what the WAL holds.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub(super) fn look(path: &Path, root: &Secret<32>) -> Result<Self> {
        Self::over(Arc::new(Sqlite::look(path)?), root)
    }

    /// The same without the key that authenticates the rows.
    pub(super) fn look_without_key(path: &Path) -> Result<()> {
        Sqlite::look(path).map(drop)
    }

    /// Makes a catalog of the records of a store.
    ///
    /// # Errors
    /// What the store reports.
    pub(super) fn over(store: Arc<dyn RecordStore>, root: &Secret<32>) -> Result<Self> {
        let cache = Mutex::new(Cache::at(store.changes()?));
        let (turn, rows_read) = (ReentrantMutex::default(), AtomicU64::new(0));
        Ok(Self { store, mac_key: mac_key(root), turn, cache, rows_read })
    }

    /// Reads in this thread's transaction if there is one, else what was committed.
    fn reading<R>(&self, read: impl FnOnce(&dyn Rows) -> Result<R>) -> Result<R> {
        let turn = self.turn.lock();
        match &*turn.borrow() {
            Some(running) => read(&**running),
            None => read(&*self.store.clone().read()?),
        }
    }

    /// Returns the cache, without anything that others may have changed.
    fn cache(&self) -> Result<MutexGuard<'_, Cache>> {
        let changes = self.store.changes()?;
        let mut cache = self.cache.lock();
        cache.look_at(changes);
        Ok(cache)
    }

    fn mac(&self, kind: &str, id: &str, version: u64, body: &[u8]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.mac_key.expose());
        let mut mac = hmac::Context::with_key(&key);
        for field in [kind.as_bytes(), id.as_bytes(), &version.to_le_bytes(), body] {
            mac.update(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
            mac.update(field);
        }
        mac.sign()
    }

    fn genuine(&self, kind: &str, row: &Row) -> bool {
        let mac = self.mac(kind, &row.id, row.version, &row.body);
        subtle::ConstantTimeEq::ct_eq(mac.as_ref(), &row.mac[..]).into()
    }

    fn believe<T: Record>(&self, row: &Row) -> Result<Versioned<T>, Damaged> {
        if !self.genuine(T::KIND, row) {
            return Err(damaged::<T>(row, "its MAC does not match: the row was changed outside coffer".into()));
        }
        parse(row)
    }

    fn row(&self, kind: &'static str, id: &str) -> Result<Option<Row>> {
        self.reading(|rows| rows.get(kind, id)).inspect(|found| self.count(usize::from(found.is_some())))
    }

    /// Returns a cached row, or that there is none, without waiting for a running transaction: its changes are not committed,
    /// and this thread may not wait for the sync of one. `None`: not cached, or this thread's own transaction must be asked.
    fn known(&self, kind: &str, id: &str) -> Option<Option<Arc<Row>>> {
        if self.turn.is_owned_by_current_thread() {
            return None;
        }
        let changes = self.store.changes().ok()?;
        let cache = self.cache.lock();
        if cache.is_at(changes) { cache.row(kind, id) } else { None }
    }

    /// Returns the record with this id, if there is one.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for a damaged row; what the store reports.
    pub fn get<T: Record>(&self, id: &str) -> Result<Option<Versioned<T>>> {
        if let Some(known) = self.known(T::KIND, id) {
            return known.map(|row| parse(&row).map_err(refuse)).transpose();
        }
        let turn = self.turn.lock();
        let inside = turn.borrow().is_some();
        if !inside && let Some(known) = self.cache()?.row(T::KIND, id) {
            return known.map(|row| parse(&row).map_err(refuse)).transpose();
        }
        let row = self.row(T::KIND, id)?;
        let found = row.as_ref().map(|row| self.believe(row).map_err(refuse)).transpose()?;
        if !inside {
            let name = found.as_ref().and_then(|f: &Versioned<T>| f.record.name());
            self.cache.lock().keep(T::KIND, id, row.map(Arc::new), name);
        }
        Ok(found)
    }

    /// Returns the record with this name, if there is one. The index is a hint: the record it leads to must have the
    /// name.
    ///
    /// # Errors
    /// As [`Catalog::get`].
    pub fn find<T: Record>(&self, name: &str) -> Result<Option<Versioned<T>>> {
        let turn = self.turn.lock();
        let (known, all) = {
            let (cache, use_it) = (self.cache()?, turn.borrow().is_none());
            let known = cache.id_of(T::KIND, name).filter(|_| use_it).map(str::to_owned);
            (known, use_it && cache.knows_all(T::KIND))
        };
        match known {
            Some(id) => {
                if let Some(found) = self.get_named::<T>(&id, name)? {
                    return Ok(Some(found));
                }
            }
            None if all => return Ok(None),
            None => {}
        }
        if let Some(id) = self.reading(|rows| rows.id_of(T::KIND, name))?
            && let Some(found) = self.get_named::<T>(&id, name)?
        {
            return Ok(Some(found));
        }
        Ok(self.list::<T>()?.records.into_iter().find(|r| r.record.name().as_deref() == Some(name)))
    }

    fn get_named<T: Record>(&self, id: &str, name: &str) -> Result<Option<Versioned<T>>> {
        Ok(self.get::<T>(id)?.filter(|found| found.record.name().as_deref() == Some(name)))
    }

    /// Lists all records of a kind, sorted by id, and the damaged rows; always reads the store.
    ///
    /// # Errors
    /// What the store reports; a damaged row is not an error here.
    pub fn list<T: Record>(&self) -> Result<Listing<T>> {
        let turn = self.turn.lock();
        let mut listing = Listing { records: Vec::new(), damaged: Vec::new() };
        let mut good = Vec::new();
        drop(self.cache()?);
        let rows = self.reading(|rows| rows.list(T::KIND))?;
        self.count(rows.len());
        for row in rows {
            match self.believe::<T>(&row) {
                Ok(found) => {
                    good.push((row, found.record.name()));
                    listing.records.push(found);
                }
                Err(damaged) => listing.damaged.push(damaged),
            }
        }
        if turn.borrow().is_none() {
            self.cache.lock().keep_all(T::KIND, good, listing.damaged.is_empty());
        }
        Ok(listing)
    }

    /// Lists the records of a kind whose ids are after `after` and before `below`, at most `limit`, sorted by id; always
    /// reads the store, and no other rows.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn page<T: Record>(&self, after: &str, below: &str, limit: usize) -> Result<Listing<T>> {
        let rows = self.reading(|rows| rows.range(T::KIND, after, below, limit))?;
        self.count(rows.len());
        let mut listing = Listing { records: Vec::new(), damaged: Vec::new() };
        for row in rows {
            match self.believe::<T>(&row) {
                Ok(found) => listing.records.push(found),
                Err(damaged) => listing.damaged.push(damaged),
            }
        }
        Ok(listing)
    }

    /// Returns every row's version and hash, by kind and id, to compare with the audit's chain.
    pub(super) fn stamps(&self) -> Result<HashMap<(String, String), Stamp>> {
        Ok(self.reading(|rows| rows.all())?.into_iter().map(|row| self.stamp(row)).collect())
    }

    /// Returns the same of these kinds and ids.
    pub(super) fn stamps_of(&self, names: Vec<(String, String)>) -> Result<HashMap<(String, String), Stamp>> {
        Ok(self.reading(|rows| rows.some(names))?.into_iter().map(|row| self.stamp(row)).collect())
    }

    fn stamp(&self, (kind, row): (String, Row)) -> ((String, String), Stamp) {
        let good = self.genuine(&kind, &row);
        let stamp = if good { Stamp::At(row.version, sha256_hex(&row.body)) } else { Stamp::Damaged };
        ((kind, row.id), stamp)
    }

    /// Runs `step` while no transaction of this process runs.
    pub(super) fn between_transactions<R>(&self, step: impl FnOnce() -> Result<R>) -> Result<R> {
        let turn = self.turn.lock();
        if turn.borrow().is_some() {
            return Err(nested());
        }
        step()
    }

    /// Checks what was left out when the store was opened.
    pub(super) fn check_rest(&self) -> Result<()> {
        self.between_transactions(|| self.store.check_rest())
    }

    /// Overwrites removed data that the store still holds.
    pub(crate) fn erase_removed(&self) -> Result<()> {
        let turn = self.turn.lock();
        if turn.borrow().is_some() {
            return Err(nested());
        }
        self.store.erase_removed()
    }

    /// Whether this thread is inside a transaction.
    pub(super) fn in_transaction(&self) -> bool {
        self.turn.is_owned_by_current_thread()
    }

    /// Runs `act` in a transaction that is durable on return, and undone if `act` fails. For bookkeeping that need not
    /// be in the audit; anything that a person would ask about needs an audited one, and so does every removal.
    ///
    /// # Errors
    /// The error of `act`; [`Kind::InvalidState`] inside another transaction; what the store reports.
    pub fn transaction<R>(&self, act: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        self.begin(false, act)
    }

    pub(super) fn begin<R>(&self, audited: bool, act: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        let turn = self.turn.lock();
        if turn.borrow().is_some() {
            return Err(nested());
        }
        let running = self.store.clone().begin()?;
        turn.replace(Some(running));
        let mut tx = Tx { catalog: self, running: &turn, audited, changes: Vec::new(), touched: Vec::new() };
        let result = act(&mut tx)?;
        tx.commit()?;
        Ok(result)
    }
}

fn nested() -> Error {
    Error::new(Kind::InvalidState, "catalog: a transaction inside a transaction")
}

/// Derives the key that authenticates rows.
fn mac_key(root: &Secret<32>) -> Secret<32> {
    Secret::build(|out| hkdf_sha256(root.expose(), &[], &[b"coffer/catalog/v1"], out))
}

fn damaged<T: Record>(row: &Row, why: String) -> Damaged {
    Damaged { kind: T::KIND.into(), id: row.id.clone(), why }
}

/// Parses the record of an authenticated row.
fn parse<T: Record>(row: &Row) -> Result<Versioned<T>, Damaged> {
    let record: T =
        serde_json::from_slice(&row.body).map_err(|e| damaged::<T>(row, format!("its body is invalid: {e}")))?;
    if record.id() != row.id {
        return Err(damaged::<T>(row, "its body has another id".into()));
    }
    Ok(Versioned { record, version: row.version })
}

fn refuse(damaged: Damaged) -> Error {
    let Damaged { kind, id, why } = damaged;
    Error::new(Kind::Integrity, format!("catalog record {kind}/{id}: {why}"))
        .hint("restore the data directory from a backup, or run `coffer doctor`")
}

/// Returns the SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions

/// A running transaction. Dropped without commit, it is undone.
pub struct Tx<'a> {
    catalog: &'a Catalog,
    running: &'a Running,
    audited: bool,
    changes: Vec<Change>,
    /// Kind and id of each row that may differ afterwards.
    touched: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("audited", &self.audited).field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        drop(self.running.take());
        let mut cache = self.catalog.cache.lock();
        self.touched.iter().for_each(|(kind, id)| cache.forget(kind, id));
    }
}

impl Tx<'_> {
    fn running<R>(&self, step: impl FnOnce(&mut dyn Transaction) -> Result<R>) -> Result<R> {
        let ended = || Error::new(Kind::InvalidState, "catalog: the transaction has ended");
        step(&mut **self.running.borrow_mut().as_mut().ok_or_else(ended)?)
    }

    /// Makes it durable. The cache keeps what the transaction did not touch, unless others changed something meanwhile.
    fn commit(mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            let changes = running.commit()?;
            // At once: who reads the cache without a turn finds the count before the change, or none of the old rows.
            let mut cache = self.catalog.cache.lock();
            self.touched.drain(..).for_each(|(kind, id)| cache.forget(kind, &id));
            cache.own_change(changes);
        }
        Ok(())
    }

    /// Like [`Catalog::get`], but sees this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::get`].
    pub fn get<T: Record>(&self, id: &str) -> Result<Option<Versioned<T>>> {
        self.catalog.get(id)
    }

    /// Like [`Catalog::find`], but sees this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::find`].
    pub fn find<T: Record>(&self, name: &str) -> Result<Option<Versioned<T>>> {
        self.catalog.find(name)
    }

    /// Like [`Catalog::list`], but sees this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn list<T: Record>(&self) -> Result<Listing<T>> {
        self.catalog.list()
    }

    /// Like [`Catalog::page`], but sees this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::page`].
    pub fn page<T: Record>(&self, after: &str, below: &str, limit: usize) -> Result<Listing<T>> {
        self.catalog.page(after, below, limit)
    }

    /// Like [`Catalog::list_of`], but sees this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::list_of`].
    pub fn list_of<T: Record>(&self, wanted: &[(&'static str, &str)]) -> Result<Listing<T>> {
        self.catalog.list_of(wanted)
    }

    /// Counts the records of a kind that have this value in a field, the first of an index.
    ///
    /// # Errors
    /// What the store reports.
    pub fn count_of<T: Record>(&self, field: &'static str, value: &str) -> Result<usize> {
        self.catalog.count_of::<T>(field, value)
    }

    /// Adds a record, at version 1.
    ///
    /// # Errors
    /// [`Kind::Exists`] if its id or its name is taken.
    pub fn insert<T: Record>(&mut self, record: &T) -> Result<Versioned<T>> {
        // A damaged row still occupies its place: it is not overwritten by accident.
        self.write(record, 1, Over::Nothing)
    }

    /// Replaces the record that was read as `version`.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it has changed since, [`Kind::NotFound`] if it is gone, [`Kind::Exists`] if its new name is
    /// taken, [`Kind::Integrity`] for a damaged row.
    pub fn update<T: Record>(&mut self, record: &T, version: u64) -> Result<Versioned<T>> {
        let was = self.expect::<T>(&record.id(), version)?;
        let written = self.write(record, version + 1, Over::Version(version))?;
        if let Some(change) = self.changes.last_mut() {
            change.was = Some(was);
        }
        Ok(written)
    }

    /// Removes the record that was read as `version`.
    ///
    /// # Errors
    /// As [`Tx::update`]; [`Kind::InvalidState`] in a transaction that is not audited: a removal that is not in the
    /// audit's chain looks like a rolled-back catalog.
    pub fn delete<T: Record>(&mut self, id: &str, version: u64) -> Result<()> {
        if !self.audited {
            let what = format!("catalog: remove {} {id}: only an audited transaction removes", T::KIND);
            return Err(Error::new(Kind::InvalidState, what));
        }
        let was = Some(self.expect::<T>(id, version)?);
        self.touched.push((T::KIND, id.into()));
        let gone = self.running(|running| running.delete(T::KIND, id, version))?;
        done::<T>(gone, id, None, Over::Version(version))?;
        self.changes.push(Change { kind: T::KIND.into(), id: id.into(), version: version + 1, hash: None, was });
        Ok(())
    }

    /// Writes a record over whatever is there, even a damaged row, and leaves it out of [`Tx::changes`]: for the
    /// audit's own head, which cannot be in the chain that it is the head of.
    pub(crate) fn put_head<T: Record>(&mut self, record: &T) -> Result<()> {
        self.write(record, 1, Over::Anything)?;
        self.changes.pop();
        Ok(())
    }

    /// Returns the changes of this transaction so far, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Returns the hash of the record's body, if it has this version.
    fn expect<T: Record>(&self, id: &str, version: u64) -> Result<String> {
        let Some(row) = self.catalog.row(T::KIND, id)? else {
            return done::<T>(Wrote::Gone, id, None, Over::Version(version)).map(|()| String::new());
        };
        let there = self.catalog.believe::<T>(&row).map_err(refuse)?.version;
        if there != version {
            done::<T>(Wrote::At(there), id, None, Over::Version(version))?;
        }
        Ok(sha256_hex(&row.body))
    }

    fn write<T: Record>(&mut self, record: &T, version: u64, over: Over) -> Result<Versioned<T>> {
        let id = record.id();
        if !self.audited && is_audited(T::KIND) {
            let what = format!("catalog: write {} {id}: only an audited transaction changes such a record", T::KIND);
            return Err(Error::new(Kind::InvalidState, what));
        }
        self.touched.push((T::KIND, id.clone()));
        let fail = |e| Error::new(Kind::Failed, format!("catalog: encode {} {id}", T::KIND)).because(e);
        let body = serde_json::to_vec(record).map_err(fail)?;
        let mac = self.catalog.mac(T::KIND, &id, version, &body).as_ref().to_vec();
        let hash = Some(sha256_hex(&body));
        let again = serde_json::from_slice(&body).map_err(fail)?;
        let (row, name) = (Row { id: id.clone(), version, body, mac }, record.name());
        let wrote = self.running(|running| running.write(T::KIND, &row, name.as_deref(), over))?;
        done::<T>(wrote, &id, name.as_deref(), over)?;
        self.changes.push(Change { kind: T::KIND.into(), id, version, hash, was: None });
        Ok(Versioned { record: again, version })
    }
}

/// Turns a write that was not done into its error.
fn done<T: Record>(wrote: Wrote, id: &str, name: Option<&str>, over: Over) -> Result<()> {
    match (wrote, over) {
        (Wrote::Done, _) => Ok(()),
        (Wrote::At(there), Over::Version(version)) => {
            let what = format!("{} {id} has version {there}, not {version}", T::KIND);
            Err(Error::new(Kind::Busy, what).hint("try again: it was changed meanwhile"))
        }
        (Wrote::At(_), _) => Err(Error::new(Kind::Exists, format!("{} {id} already exists", T::KIND))),
        (Wrote::Gone, _) => Err(Error::new(Kind::NotFound, format!("{} {id} no longer exists", T::KIND))),
        (Wrote::NameTaken, _) => {
            Err(Error::new(Kind::Exists, format!("{} name {:?} is taken", T::KIND, name.unwrap_or_default())))
        }
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
