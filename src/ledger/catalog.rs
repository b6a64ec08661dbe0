//! The catalog: every object of the installation as one authenticated record, in SQLite.
//!
//! # Schema, version 1 (`PRAGMA user_version`; since coffer 0.1)
//! ```text
//! record(kind TEXT, id TEXT, version INTEGER, body BLOB, mac BLOB)   primary key (kind, id)
//! name  (kind TEXT, name TEXT, id TEXT)                              primary key (kind, name): an index, never believed
//! ```
//! Indexes on fields of bodies ([`Record::INDEXES`]) are never believed either, and made when they are missing.
//!
//! `body` is the object's canonical JSON, kept and checked as stored. `mac` = HMAC-SHA-256 under HKDF-SHA-256(root key,
//! no salt, "coffer/catalog/v1") over kind, id, version (u64, little-endian) and body, each preceded by its length as u32.
//! A row whose MAC does not fit is *damaged*: it is named and refused, the others go on. An old row put back has a good
//! MAC; the audit's chain is what tells (see [`super::audit`]).
//!
//! One connection, WAL, `synchronous=FULL`: what a transaction committed survives power loss. `locking_mode=EXCLUSIVE` keeps
//! the WAL's index in this process's memory: there is no `-shm` file, whose mapped pages a full disk takes away (SIGBUS).
//! Disk space for the WAL and for the database's growth is taken in advance (see `space`). The connection lives on a
//! thread of its own with a private runtime, so that the catalog can be called from any thread, inside a runtime or not. Rows
//! that were read stay in memory (see `cache`).

mod cache;
mod index;
mod space;

use crate::cipher::hkdf_sha256;
use crate::error::{Error, Kind, Result};
use crate::file::{OpenHow, open_regular};
use crate::secret::Secret;
use aws_lc_rs::hmac;
use cache::Cache;
use parking_lot::{Mutex, ReentrantMutex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use tokio::runtime::Runtime;

/// The schema that this build reads and writes.
pub const SCHEMA: i64 = 1;
/// `PRAGMA application_id`: "COFR".
const APPLICATION: i64 = 0x434f_4652;

/// The kind of what a catalog begins with: it is never changed.
pub(crate) const INSTALLATION: &str = "installation";

/// Kinds whose changes the audit's chain does not tell: the audit's own head; a log's head, which the repository's own log
/// tells; how long keys have waited for their deletion, which the clock changes; what a catalog begins with.
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

/// Something that the catalog keeps: one object, one record.
pub trait Record: Serialize + DeserializeOwned {
    /// The table it is in, as in `volume`. Part of the MAC: never renamed.
    const KIND: &'static str;
    /// Fields of its body that [`Catalog::list_of`] finds it by, each list with an index of its own.
    const INDEXES: &'static [&'static [&'static str]] = &[];
    /// Its id, unique within the kind.
    fn id(&self) -> String;
    /// A second, unique, changeable name that it is found by.
    fn name(&self) -> Option<String> {
        None
    }
}

/// A record as it was read, and the version that a later update must find unchanged.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    /// The record.
    pub record: T,
    /// Its version: 1 when inserted, one more with each update.
    pub version: u64,
}

/// A row that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The record's kind.
    pub kind: String,
    /// The record's id, as far as the row tells.
    pub id: String,
    /// What is wrong with it.
    pub why: String,
}

/// What [`Catalog::list`] found.
#[derive(Debug)]
pub struct Listing<T> {
    /// The good records, sorted by id.
    pub records: Vec<Versioned<T>>,
    /// The rows that cannot be believed.
    pub damaged: Vec<Damaged>,
}

/// One change of a record: what the audit's chain remembers of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The record's kind.
    pub kind: String,
    /// The record's id.
    pub id: String,
    /// The version it came to; of a removed record, the one after its last.
    pub version: u64,
    /// SHA-256 of its body in hexadecimal; absent when it was removed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
}

/// What a row says of itself: version and hash, or that it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stamp {
    At(u64, String),
    Damaged,
}

struct Raw {
    id: String,
    version: u64,
    body: Vec<u8>,
    mac: Vec<u8>,
}

// ---------------------------------------------------------------------------------------------------------------------
// The thread that owns the connection

type Job = Box<dyn FnOnce(&Runtime, &mut SqliteConnection) + Send>;

struct Worker {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    fn start(path: &Path) -> Result<Self> {
        space::before_open(path)?;
        Self::with(path, options(path), true)
    }

    fn with(path: &Path, options: SqliteConnectOptions, writes: bool) -> Result<Self> {
        let closing = path.to_owned();
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, opened) = mpsc::channel();
        let body = move || {
            let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let connected = made.map_err(sqlx::Error::Io).and_then(|rt| {
                let connection = rt.block_on(options.connect())?;
                Ok((rt, connection))
            });
            match connected {
                Ok((rt, mut connection)) => {
                    let _ = ready.send(Ok(()));
                    while let Ok(job) = inbox.recv() {
                        job(&rt, &mut connection);
                    }
                    let spare = writes.then(|| space::before_close(&closing)).flatten();
                    let _ = rt.block_on(connection.close());
                    space::after_close(spare);
                }
                Err(e) => drop(ready.send(Err(e))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("coffer-catalog".into())
            .spawn(body)
            .map_err(|e| Error::new(Kind::Busy, "catalog: start its thread").because(e).hint(NO_THREAD))?;
        opened.recv().map_err(|_| gone())?.map_err(|e| sql(path, "open it", e))?;
        Ok(Self { path: path.to_owned(), jobs: Some(jobs), thread: Some(thread) })
    }

    fn run<R: Send + 'static>(
        &self,
        what: &str,
        job: impl FnOnce(&Runtime, &mut SqliteConnection) -> sqlx::Result<R> + Send + 'static,
    ) -> Result<R> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |rt, connection| drop(reply.send(job(rt, connection))));
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?.map_err(|e| sql(&self.path, what, e))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const NO_THREAD: &str = "no thread could be started: raise the limit of tasks (ulimit -u, TasksMax), or try again";

fn gone() -> Error {
    Error::new(Kind::Failed, "catalog: its thread has ended").hint("restart coffer")
}

/// Gives a database error its kind, by SQLite's primary result code (sqlite.org/rescode.html), and words for people.
fn sql(path: &Path, what: &str, err: sqlx::Error) -> Error {
    let code = match &err {
        // A thread that could not be started.
        sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::WouldBlock => Some(5),
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<i64>().ok()),
        sqlx::Error::Io(_) => Some(10),
        _ => None,
    };
    let (kind, hint) = match code.map(|c| (c & 0xff, c)) {
        Some((_, 1555 | 2067)) => (Kind::Exists, None),
        Some((5 | 6, _)) if matches!(err, sqlx::Error::Io(_)) => (Kind::Busy, Some(NO_THREAD)),
        Some((5 | 6, _)) => (Kind::Busy, Some("another program has the catalog open; stop it")),
        // SQLite tells a full disk from a broken one only where a plain write met it.
        Some((13, _)) => return no_space(path, what),
        Some((10 | 14, _)) if space::is_out(path) => return no_space(path, what),
        Some((8, _)) => (Kind::ReadOnly, Some("make the data directory writable")),
        Some((10, _)) => (Kind::Io, Some("check the disk, and the kernel's log")),
        Some((11 | 26, _)) => {
            (Kind::Integrity, Some("the catalog's file is damaged: restore it from a backup, or run `coffer doctor`"))
        }
        Some((14, _)) => (Kind::NotFound, Some("the catalog's file cannot be opened; is this the data directory?")),
        _ => (Kind::Failed, None),
    };
    let made = Error::new(kind, format!("catalog: {what}"));
    let made = match &err {
        sqlx::Error::Database(e) => made.because(e.message().to_owned()),
        _ => made.because(err),
    };
    match hint {
        Some(hint) => made.hint(hint),
        None => made,
    }
}

fn no_space(path: &Path, what: &str) -> Error {
    let place = path.parent().unwrap_or(path);
    let what = format!("catalog: {what}: no space left on the file system of {}", place.display());
    Error::new(Kind::NoSpace, what).hint(crate::error::FREE_SPACE)
}

// ---------------------------------------------------------------------------------------------------------------------
// The catalog

/// The installation's records. Any thread may call it; transactions follow one another.
pub struct Catalog {
    worker: Worker,
    mac_key: Secret<32>,
    /// Held for the length of a transaction; true while one runs.
    turn: ReentrantMutex<Cell<bool>>,
    cache: Mutex<Cache>,
    rows_read: AtomicU64,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .locking_mode(SqliteLockingMode::Exclusive)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("secure_delete", "ON")
        .pragma("wal_autocheckpoint", space::CHECKPOINT_PAGES.to_string())
        .disable_statement_logging()
}

impl Catalog {
    /// Makes an empty catalog at `path`, mode 0600.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something is there; what the file system and SQLite report.
    pub fn create(path: &Path, root: &Secret<32>) -> Result<Self> {
        open_regular(path, &OpenHow::write().create_new()).map_err(|e| e.context("create the catalog"))?;
        let catalog = Self::on(Worker::start(path)?, root);
        for statement in [
            "CREATE TABLE record(kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL, \
             mac BLOB NOT NULL, PRIMARY KEY(kind, id)) STRICT, WITHOUT ROWID",
            "CREATE TABLE name(kind TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY(kind, name)) \
             STRICT, WITHOUT ROWID",
            "CREATE INDEX name_of ON name(kind, id)",
            "PRAGMA application_id = 1129268818",
            "PRAGMA user_version = 1",
        ] {
            catalog.execute("make its tables", statement)?;
        }
        // SQLite removes a WAL that it finds beside an empty database.
        space::take_for_wal(path);
        Ok(catalog)
    }

    /// Opens the catalog at `path` and has SQLite check it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without a file, [`Kind::Integrity`] for a damaged or foreign one, [`Kind::Unsupported`] for one
    /// that a newer coffer wrote.
    pub fn open(path: &Path, root: &Secret<32>) -> Result<Self> {
        let on = |e: Error| e.context(format!("open {}", path.display()));
        let catalog = Self::on(Worker::start(path).map_err(on)?, root);
        catalog.check(path)?;
        Ok(catalog)
    }

    /// Opens the catalog at `path` for a look, when it cannot be opened: nothing is written, and what the WAL holds is not seen.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub(super) fn look(path: &Path, root: &Secret<32>) -> Result<Self> {
        open_regular(path, &OpenHow::read())?;
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
        let catalog = Self::on(Worker::with(path, options.disable_statement_logging(), false)?, root);
        catalog.check(path)?;
        Ok(catalog)
    }

    /// The same without the key that the rows are authenticated under.
    pub(super) fn look_without_key(path: &Path) -> Result<()> {
        Self::look(path, &Secret::build(|_| ())).map(drop)
    }

    /// Has SQLite check the file, and looks at whose it is.
    fn check(&self, path: &Path) -> Result<()> {
        let (catalog, on) = (self, |e: Error| e.context(format!("open {}", path.display())));
        let application = catalog.number("PRAGMA application_id").map_err(on)?;
        let schema = catalog.number("PRAGMA user_version").map_err(on)?;
        if application != APPLICATION {
            let what = format!("catalog {}: a SQLite file, but not coffer's", path.display());
            return Err(Error::new(Kind::Integrity, what).hint("restore the data directory from a backup"));
        }
        if schema != SCHEMA {
            let what = format!("catalog {}: schema {schema}, this build knows {SCHEMA}", path.display());
            return Err(
                Error::new(Kind::Unsupported, what).hint("use the coffer version that last opened it, or newer")
            );
        }
        let check = catalog.worker.run("check itself", |rt, c| {
            rt.block_on(sqlx::query("PRAGMA quick_check(1)").fetch_one(c)).and_then(|row| row.try_get::<String, _>(0))
        });
        let said = check.map_err(on)?;
        if said != "ok" {
            let what = format!("catalog {}: SQLite finds it damaged: {said}", path.display());
            return Err(Error::new(Kind::Integrity, what).hint("restore it from a backup"));
        }
        Ok(())
    }

    fn on(worker: Worker, root: &Secret<32>) -> Self {
        let (turn, cache, rows_read) = (ReentrantMutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { worker, mac_key: mac_key(root), turn, cache, rows_read }
    }

    fn execute(&self, what: &str, statement: &'static str) -> Result<()> {
        self.worker.run(what, move |rt, c| rt.block_on(sqlx::query(statement).execute(c)).map(|_| ()))
    }

    fn number(&self, statement: &'static str) -> Result<i64> {
        self.worker.run(statement, move |rt, c| {
            rt.block_on(sqlx::query(statement).fetch_one(c)).and_then(|row| row.try_get::<i64, _>(0))
        })
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

    fn genuine(&self, kind: &str, raw: &Raw) -> bool {
        let mac = self.mac(kind, &raw.id, raw.version, &raw.body);
        subtle::ConstantTimeEq::ct_eq(mac.as_ref(), &raw.mac[..]).into()
    }

    fn read<T: Record>(&self, raw: &Raw) -> Result<Versioned<T>, Damaged> {
        if !self.genuine(T::KIND, raw) {
            return Err(damaged::<T>(raw, "its MAC does not fit: the row was changed outside coffer".into()));
        }
        parse(raw)
    }

    fn rows(&self, kind: &'static str, id: Option<&str>) -> Result<Vec<Raw>> {
        let id = id.map(str::to_owned);
        self.worker
            .run("read records", move |rt, c| {
                let all = "SELECT id, version, body, mac FROM record WHERE kind = ? ORDER BY id";
                let one = "SELECT id, version, body, mac FROM record WHERE kind = ? AND id = ?";
                let rows = match id {
                    None => rt.block_on(sqlx::query(all).bind(kind).fetch_all(c))?,
                    Some(id) => rt.block_on(sqlx::query(one).bind(kind).bind(id).fetch_all(c))?,
                };
                rows.iter().map(raw).collect()
            })
            .inspect(|rows: &Vec<Raw>| self.count(rows.len()))
    }

    /// The record of that id, if there is one.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the row cannot be believed; what SQLite reports.
    pub fn get<T: Record>(&self, id: &str) -> Result<Option<Versioned<T>>> {
        let turn = self.turn.lock();
        if !turn.get()
            && let Some(known) = self.cache.lock().row(T::KIND, id)
        {
            return known.map(|raw| parse(&raw).map_err(refuse)).transpose();
        }
        let row = self.rows(T::KIND, Some(id))?.into_iter().next();
        let found = row.as_ref().map(|raw| self.read(raw).map_err(refuse)).transpose()?;
        if !turn.get() {
            let name = found.as_ref().and_then(|f: &Versioned<T>| f.record.name());
            self.cache.lock().keep(T::KIND, id, row.map(Arc::new), name);
        }
        Ok(found)
    }

    /// The record of that name, if there is one. The index is a hint: what it leads to must bear the name.
    ///
    /// # Errors
    /// As [`Catalog::get`].
    pub fn find<T: Record>(&self, name: &str) -> Result<Option<Versioned<T>>> {
        let turn = self.turn.lock();
        let (known, all) = {
            let cache = self.cache.lock();
            let use_it = !turn.get();
            let known = cache.id_of(T::KIND, name).filter(|_| use_it).map(str::to_owned);
            (known, use_it && cache.knows_all(T::KIND))
        };
        if let Some(id) = known
            && let Some(found) = self.get_named::<T>(&id, name)?
        {
            return Ok(Some(found));
        }
        if all {
            return Ok(None);
        }
        if let Some(id) = self.indexed(T::KIND, name)?
            && let Some(found) = self.get_named::<T>(&id, name)?
        {
            return Ok(Some(found));
        }
        Ok(self.list::<T>()?.records.into_iter().find(|r| r.record.name().as_deref() == Some(name)))
    }

    fn get_named<T: Record>(&self, id: &str, name: &str) -> Result<Option<Versioned<T>>> {
        Ok(self.get::<T>(id)?.filter(|found| found.record.name().as_deref() == Some(name)))
    }

    /// The id that the index in the file has for a name.
    fn indexed(&self, kind: &'static str, name: &str) -> Result<Option<String>> {
        let wanted = name.to_owned();
        self.worker.run("look up a name", move |rt, c| {
            let query = sqlx::query("SELECT id FROM name WHERE kind = ? AND name = ?").bind(kind).bind(wanted);
            rt.block_on(query.fetch_optional(c))?.map(|row| row.try_get::<String, _>(0)).transpose()
        })
    }

    /// All records of a kind, sorted by id, and the rows that cannot be believed; always read from the file.
    ///
    /// # Errors
    /// What SQLite reports; a damaged row is no error here.
    pub fn list<T: Record>(&self) -> Result<Listing<T>> {
        let turn = self.turn.lock();
        let mut listing = Listing { records: Vec::new(), damaged: Vec::new() };
        let mut good = Vec::new();
        for raw in self.rows(T::KIND, None)? {
            match self.read::<T>(&raw) {
                Ok(found) => {
                    good.push((raw, found.record.name()));
                    listing.records.push(found);
                }
                Err(damaged) => listing.damaged.push(damaged),
            }
        }
        if !turn.get() {
            self.cache.lock().keep_all(T::KIND, good, listing.damaged.is_empty());
        }
        Ok(listing)
    }

    /// Every row's version and hash, by kind and id: what the audit's chain is compared with.
    pub(super) fn stamps(&self) -> Result<HashMap<(String, String), Stamp>> {
        let _turn = self.turn.lock();
        let rows = self.worker.run("read all records", |rt, c| {
            let query = sqlx::query("SELECT id, version, body, mac, kind FROM record");
            let rows = rt.block_on(query.fetch_all(c))?;
            rows.iter().map(|row| Ok((row.try_get::<String, _>(4)?, raw(row)?))).collect::<sqlx::Result<Vec<_>>>()
        })?;
        let stamp = |(kind, raw): (String, Raw)| {
            let good = self.genuine(&kind, &raw);
            let stamp = if good { Stamp::At(raw.version, sha256_hex(&raw.body)) } else { Stamp::Damaged };
            ((kind, raw.id), stamp)
        };
        Ok(rows.into_iter().map(stamp).collect())
    }

    /// Moves what the write-ahead log holds into the database and empties it: what was removed is then overwritten there too.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let _turn = self.turn.lock();
        self.execute("empty its write-ahead log", "PRAGMA wal_checkpoint(TRUNCATE)")?;
        // That gave its disk space back.
        space::take_for_wal(&self.worker.path);
        Ok(())
    }

    /// Whether this thread is inside a transaction.
    pub(super) fn in_transaction(&self) -> bool {
        self.turn.is_owned_by_current_thread()
    }

    /// Runs `act` in a transaction that is durable when this returns, and undone if `act` fails. For bookkeeping that the
    /// audit need not tell; whatever a person would ask about goes through an audited one, as does every removal.
    ///
    /// # Errors
    /// What `act` says; [`Kind::InvalidState`] inside another transaction; what SQLite reports.
    pub fn transaction<R>(&self, act: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        self.begin(false, act)
    }

    pub(super) fn begin<R>(&self, audited: bool, act: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        let turn = self.turn.lock();
        if turn.get() {
            return Err(Error::new(Kind::InvalidState, "catalog: a transaction inside a transaction"));
        }
        self.execute("begin a transaction", "BEGIN IMMEDIATE")?;
        turn.set(true);
        let mut tx =
            Tx { catalog: self, running: &turn, audited, changes: Vec::new(), touched: Vec::new(), open: true };
        let result = act(&mut tx)?;
        self.execute("commit", "COMMIT")?;
        tx.open = false;
        Ok(result)
    }
}

/// Makes the key that rows are authenticated under.
fn mac_key(root: &Secret<32>) -> Secret<32> {
    Secret::build(|out| hkdf_sha256(root.expose(), &[], &[b"coffer/catalog/v1"], out))
}

fn raw(row: &sqlx::sqlite::SqliteRow) -> sqlx::Result<Raw> {
    let version = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
    Ok(Raw { id: row.try_get(0)?, version, body: row.try_get(2)?, mac: row.try_get(3)? })
}

fn damaged<T: Record>(raw: &Raw, why: String) -> Damaged {
    Damaged { kind: T::KIND.into(), id: raw.id.clone(), why }
}

/// The record of a genuine row.
fn parse<T: Record>(raw: &Raw) -> Result<Versioned<T>, Damaged> {
    let record: T =
        serde_json::from_slice(&raw.body).map_err(|e| damaged::<T>(raw, format!("its body cannot be read: {e}")))?;
    if record.id() != raw.id {
        return Err(damaged::<T>(raw, "its body names another id".into()));
    }
    Ok(Versioned { record, version: raw.version })
}

fn refuse(damaged: Damaged) -> Error {
    let Damaged { kind, id, why } = damaged;
    Error::new(Kind::Integrity, format!("catalog record {kind}/{id}: {why}"))
        .hint("restore the data directory from a backup, or run `coffer doctor`")
}

/// SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions

/// A running transaction. Dropped without commit, it is undone.
#[derive(Debug)]
pub struct Tx<'a> {
    catalog: &'a Catalog,
    running: &'a Cell<bool>,
    audited: bool,
    changes: Vec<Change>,
    /// Kind and id of each row that may be another afterwards.
    touched: Vec<(&'static str, String)>,
    open: bool,
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.open {
            let _ = self.catalog.execute("undo a transaction", "ROLLBACK");
        }
        let mut cache = self.catalog.cache.lock();
        self.touched.iter().for_each(|(kind, id)| cache.forget(kind, id));
        self.running.set(false);
    }
}

impl Tx<'_> {
    /// As [`Catalog::get`], seeing this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::get`].
    pub fn get<T: Record>(&self, id: &str) -> Result<Option<Versioned<T>>> {
        self.catalog.get(id)
    }

    /// As [`Catalog::find`], seeing this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::find`].
    pub fn find<T: Record>(&self, name: &str) -> Result<Option<Versioned<T>>> {
        self.catalog.find(name)
    }

    /// As [`Catalog::list`], seeing this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn list<T: Record>(&self) -> Result<Listing<T>> {
        self.catalog.list()
    }

    /// As [`Catalog::list_of`], seeing this transaction's own changes.
    ///
    /// # Errors
    /// As [`Catalog::list_of`].
    pub fn list_of<T: Record>(&self, wanted: &[(&'static str, &str)]) -> Result<Listing<T>> {
        self.catalog.list_of(wanted)
    }

    /// How many records of a kind have this value in a field, the first of an index.
    ///
    /// # Errors
    /// What SQLite reports.
    pub fn count_of<T: Record>(&self, field: &'static str, value: &str) -> Result<usize> {
        self.catalog.count_of::<T>(field, value)
    }

    /// Adds a record, at version 1.
    ///
    /// # Errors
    /// [`Kind::Exists`] if its id or its name is taken.
    pub fn insert<T: Record>(&mut self, record: &T) -> Result<Versioned<T>> {
        // A row that cannot be believed still holds its place: it is not overwritten by chance.
        if !self.catalog.rows(T::KIND, Some(&record.id()))?.is_empty() {
            return Err(Error::new(Kind::Exists, format!("{} {} exists already", T::KIND, record.id())));
        }
        self.write(record, 1)
    }

    /// Replaces the record that was read as `version`.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody changed it since, [`Kind::NotFound`] if it is gone, [`Kind::Exists`] if its new name is
    /// taken, [`Kind::Integrity`] if the row cannot be believed.
    pub fn update<T: Record>(&mut self, record: &T, version: u64) -> Result<Versioned<T>> {
        self.expect::<T>(&record.id(), version)?;
        self.write(record, version + 1)
    }

    /// Removes the record that was read as `version`.
    ///
    /// # Errors
    /// As [`Tx::update`]; [`Kind::InvalidState`] in a transaction that is not audited: a removal that the audit's chain
    /// does not know looks like a catalog rolled back.
    pub fn delete<T: Record>(&mut self, id: &str, version: u64) -> Result<()> {
        if !self.audited {
            let what = format!("catalog: remove {} {id}: only an audited transaction removes", T::KIND);
            return Err(Error::new(Kind::InvalidState, what));
        }
        self.expect::<T>(id, version)?;
        self.touched.push((T::KIND, id.into()));
        let owned = id.to_owned();
        self.catalog.worker.run("remove a record", move |rt, c| {
            for statement in
                ["DELETE FROM name WHERE kind = ? AND id = ?", "DELETE FROM record WHERE kind = ? AND id = ?"]
            {
                rt.block_on(sqlx::query(statement).bind(T::KIND).bind(&owned).execute(&mut *c))?;
            }
            Ok(())
        })?;
        self.changes.push(Change { kind: T::KIND.into(), id: id.into(), version: version + 1, hash: None });
        Ok(())
    }

    /// Writes a record whatever is there, a damaged row included, and leaves it out of [`Tx::changes`]: for the audit's own
    /// head, which cannot be in the chain that it is the head of.
    pub(crate) fn put_head<T: Record>(&mut self, record: &T) -> Result<()> {
        self.write(record, 1)?;
        self.changes.pop();
        Ok(())
    }

    /// What this transaction changed so far, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    fn expect<T: Record>(&self, id: &str, version: u64) -> Result<()> {
        match self.catalog.get::<T>(id)? {
            None => Err(Error::new(Kind::NotFound, format!("{} {id} is gone", T::KIND))),
            Some(found) if found.version != version => {
                let what = format!("{} {id}: it is at version {}, not {version}", T::KIND, found.version);
                Err(Error::new(Kind::Busy, what).hint("somebody else changed it meanwhile; try again"))
            }
            Some(_) => Ok(()),
        }
    }

    fn write<T: Record>(&mut self, record: &T, version: u64) -> Result<Versioned<T>> {
        let id = record.id();
        if !self.audited && is_audited(T::KIND) {
            let what = format!("catalog: write {} {id}: only an audited transaction changes such a record", T::KIND);
            return Err(Error::new(Kind::InvalidState, what));
        }
        self.touched.push((T::KIND, id.clone()));
        let fail = |e| Error::new(Kind::Failed, format!("catalog: {} {id} has no JSON form", T::KIND)).because(e);
        let body = serde_json::to_vec(record).map_err(fail)?;
        let mac = self.catalog.mac(T::KIND, &id, version, &body).as_ref().to_vec();
        let hash = Some(sha256_hex(&body));
        let again = serde_json::from_slice(&body).map_err(fail)?;
        let (owned, name) = (id.clone(), record.name());
        let named = name.clone();
        let wrote = self.catalog.worker.run("write a record", move |rt, c| {
            let number = i64::try_from(version).unwrap_or(i64::MAX);
            let put = "INSERT OR REPLACE INTO record(kind, id, version, body, mac) VALUES (?, ?, ?, ?, ?)";
            rt.block_on(
                sqlx::query(put).bind(T::KIND).bind(&owned).bind(number).bind(body).bind(mac).execute(&mut *c),
            )?;
            let clear = "DELETE FROM name WHERE kind = ? AND id = ?";
            rt.block_on(sqlx::query(clear).bind(T::KIND).bind(&owned).execute(&mut *c))?;
            if let Some(name) = name {
                let index = "INSERT INTO name(kind, name, id) VALUES (?, ?, ?)";
                rt.block_on(sqlx::query(index).bind(T::KIND).bind(name).bind(&owned).execute(&mut *c))?;
            }
            Ok(())
        });
        wrote.map_err(|e| match (e.kind(), named) {
            (Kind::Exists, Some(name)) => Error::new(Kind::Exists, format!("{} name {name:?} is taken", T::KIND)),
            _ => e,
        })?;
        self.changes.push(Change { kind: T::KIND.into(), id, version, hash });
        Ok(Versioned { record: again, version })
    }
}

/// Runs SQL on the file at `path` behind coffer's back.
#[cfg(test)]
pub(crate) fn tamper(path: &Path, statement: String) {
    let worker = Worker::start(path).unwrap();
    let run = move |rt: &Runtime, c: &mut SqliteConnection| {
        rt.block_on(sqlx::query(sqlx::AssertSqlSafe(statement)).execute(c)).map(|_| ())
    };
    worker.run("tamper", run).unwrap();
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
