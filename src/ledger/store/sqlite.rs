//! Records in SQLite: a file in the data directory.
//!
//! # Schema, version 1 (`PRAGMA user_version`; since coffer 0.1)
//! ```text
//! record(kind TEXT, id TEXT, version INTEGER, body BLOB, mac BLOB)   primary key (kind, id)
//! name  (kind TEXT, name TEXT, id TEXT)                              primary key (kind, name)
//! ```
//! Indexes on fields of bodies are created when missing.
//!
//! One connection, WAL, `synchronous=FULL`: what a transaction committed survives power loss. `locking_mode=EXCLUSIVE`
//! keeps the WAL's index in this process's memory: there is no `-shm` file, whose mapped pages would raise SIGBUS on a
//! full disk. Disk space for the WAL and for the database's growth is allocated in advance (see `space`). The catalog can
//! be called from any thread, inside a runtime or not.

mod space;

use super::{Over, RecordStore, Row, Rows, Transaction, Wrote};
use crate::error::{Error, Kind, Result};
use crate::file::{OpenHow, open_regular};
use futures::executor::block_on;
use parking_lot::{Condvar, Mutex};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The schema version that this build reads and writes.
const SCHEMA: i64 = 1;
/// Size of a file whose structure is checked when it is opened, in bytes: that takes a few milliseconds.
const CHECKED_AT_ONCE: u64 = 8 << 20;
/// `PRAGMA application_id`: "COFR".
const APPLICATION: i64 = 0x434f_4652;

// ---------------------------------------------------------------------------------------------------------------------
// The connection

/// The connection, which threads use one at a time. SQLite runs on a thread of the driver; the futures that wait for it
/// need no runtime.
struct Worker {
    path: PathBuf,
    writes: bool,
    connection: Mutex<Option<SqliteConnection>>,
}

impl Worker {
    fn start(path: &Path) -> Result<Self> {
        space::before_open(path)?;
        Self::with(path, options(path), true)
    }

    fn with(path: &Path, options: SqliteConnectOptions, writes: bool) -> Result<Self> {
        let connection = block_on(options.connect()).map_err(|e| sql(path, "open it", e))?;
        Ok(Self { path: path.to_owned(), writes, connection: Mutex::new(Some(connection)) })
    }

    fn run<R>(&self, what: &str, job: impl FnOnce(&mut SqliteConnection) -> sqlx::Result<R>) -> Result<R> {
        let mut connection = self.connection.lock();
        job(connection.as_mut().ok_or_else(closed)?).map_err(|e| sql(&self.path, what, e))
    }

    fn execute(&self, what: &str, statement: &'static str) -> Result<()> {
        self.run(what, move |c| block_on(sqlx::query(statement).execute(c)).map(|_| ()))
    }

    fn number(&self, statement: &'static str) -> Result<i64> {
        self.run(statement, move |c| {
            block_on(sqlx::query(statement).fetch_one(c)).and_then(|row| row.try_get::<i64, _>(0))
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(connection) = self.connection.get_mut().take() else { return };
        let spare = self.writes.then(|| space::before_close(&self.path)).flatten();
        let _ = block_on(connection.close());
        space::after_close(spare);
    }
}

const NO_THREAD: &str = "raise the limit of tasks (ulimit -u, TasksMax), or try again";

fn closed() -> Error {
    Error::new(Kind::Failed, "catalog: it is closed").hint("restart coffer")
}

/// Maps a database error to a kind, by SQLite's primary result code (sqlite.org/rescode.html), and a message for
/// people.
fn sql(path: &Path, what: &str, err: sqlx::Error) -> Error {
    let code = match &err {
        // The thread could not be started.
        sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::WouldBlock => Some(5),
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<i64>().ok()),
        sqlx::Error::Io(_) => Some(10),
        _ => None,
    };
    let (kind, hint) = match code.map(|c| (c & 0xff, c)) {
        Some((_, 1555 | 2067)) => (Kind::Exists, None),
        Some((5 | 6, _)) if matches!(err, sqlx::Error::Io(_)) => (Kind::Busy, Some(NO_THREAD)),
        Some((5 | 6, _)) => (Kind::Busy, Some("stop the other program that has the catalog open")),
        // SQLite reports a full disk as such only from a plain write.
        Some((13, _)) => return no_space(path, what),
        Some((10 | 14, _)) if space::is_out(path) => return no_space(path, what),
        Some((8, _)) => (Kind::ReadOnly, Some("make the data directory writable")),
        Some((10, _)) => (Kind::Io, Some("check the disk and the kernel log")),
        Some((11 | 26, _)) => {
            (Kind::Integrity, Some("restore the catalog from a backup, or run `coffer doctor`: its file is damaged"))
        }
        Some((14, _)) => (Kind::NotFound, Some("check that this is the data directory: the catalog cannot be opened")),
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
// The file

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

/// A catalog's file. Reads and transactions take turns at its connection.
pub(in super::super) struct Sqlite {
    worker: Worker,
    turn: Turn,
    changes: AtomicU64,
    /// Its structure was not checked when it was opened.
    unchecked: AtomicBool,
}

/// The turn at the connection. It may be released on another thread than the one that took it.
#[derive(Default)]
struct Turn {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Turn {
    fn take(&self) {
        let mut taken = self.taken.lock();
        while *taken {
            self.free.wait(&mut taken);
        }
        *taken = true;
    }

    fn give(&self) {
        *self.taken.lock() = false;
        self.free.notify_one();
    }
}

impl Sqlite {
    /// Creates an empty one at `path`, mode 0600.
    ///
    /// # Errors
    /// [`Kind::Exists`] if something is there; what the file system and SQLite report.
    pub(in super::super) fn create(path: &Path) -> Result<Self> {
        open_regular(path, &OpenHow::write().create_new()).map_err(|e| e.context("create the catalog"))?;
        let made = Self::on(Worker::start(path)?);
        for statement in [
            "CREATE TABLE record(kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL, \
             mac BLOB NOT NULL, PRIMARY KEY(kind, id)) STRICT, WITHOUT ROWID",
            "CREATE TABLE name(kind TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY(kind, name)) \
             STRICT, WITHOUT ROWID",
            "CREATE INDEX name_of ON name(kind, id)",
            "PRAGMA application_id = 1129268818",
            "PRAGMA user_version = 1",
        ] {
            made.worker.execute("create its tables", statement)?;
        }
        // SQLite removes a WAL that it finds beside an empty database.
        space::take_for_wal(path);
        Ok(made)
    }

    /// Opens the one at `path` and has SQLite check it, unless it is large: then [`RecordStore::check_rest`] does.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without a file, [`Kind::Integrity`] for a damaged or foreign one, [`Kind::Unsupported`] for
    /// one written by a newer coffer.
    pub(in super::super) fn open(path: &Path) -> Result<Self> {
        let opened = Self::on(Worker::start(path).map_err(|e| e.context(format!("open {}", path.display())))?);
        opened.check_schema(path)?;
        let is_small = path.metadata().is_ok_and(|file| file.len() <= CHECKED_AT_ONCE);
        opened.unchecked.store(!is_small, Ordering::Release);
        if is_small {
            opened.check_structure()?;
        }
        Ok(opened)
    }

    /// Opens it for examination, when it cannot be opened normally: writes nothing, and does not see what the WAL
    /// holds.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub(in super::super) fn look(path: &Path) -> Result<Self> {
        open_regular(path, &OpenHow::read())?;
        space::refuse_specials(path)?;
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
        let opened = Self::on(Worker::with(path, options.disable_statement_logging(), false)?);
        opened.check_schema(path)?;
        opened.check_structure()?;
        Ok(opened)
    }

    /// Checks that the file is a catalog of this schema.
    fn check_schema(&self, path: &Path) -> Result<()> {
        let (worker, on) = (&self.worker, |e: Error| e.context(format!("open {}", path.display())));
        let application = worker.number("PRAGMA application_id").map_err(on)?;
        let schema = worker.number("PRAGMA user_version").map_err(on)?;
        if application != APPLICATION {
            let what = format!("catalog {}: not coffer's SQLite file", path.display());
            return Err(Error::new(Kind::Integrity, what).hint("restore the data directory from a backup"));
        }
        if schema != SCHEMA {
            let what = format!("catalog {}: unknown schema {schema}; this build supports {SCHEMA}", path.display());
            return Err(Error::new(Kind::Unsupported, what)
                .hint("use the version of coffer that last opened it, or a newer one"));
        }
        Ok(())
    }

    /// Has SQLite check the file's structure.
    fn check_structure(&self) -> Result<()> {
        let path = self.worker.path.display();
        let said = self.worker.run("check itself", |c| {
            block_on(sqlx::query("PRAGMA quick_check(1)").fetch_one(c)).and_then(|row| row.try_get::<String, _>(0))
        });
        let said = said.map_err(|e| e.context(format!("open {path}")))?;
        if said != "ok" {
            let what = format!("catalog {path}: damaged: {said}");
            return Err(Error::new(Kind::Integrity, what).hint("restore it from a backup"));
        }
        Ok(())
    }

    fn on(worker: Worker) -> Self {
        Self { worker, turn: Turn::default(), changes: AtomicU64::new(0), unchecked: AtomicBool::new(false) }
    }
}

impl RecordStore for Sqlite {
    fn read(self: Arc<Self>) -> Result<Box<dyn Rows>> {
        Ok(Box::new(Held::of(self)))
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn Transaction>> {
        let mut held = Held::of(self);
        held.worker().execute("begin a transaction", "BEGIN IMMEDIATE")?;
        held.open = true;
        Ok(Box::new(held))
    }

    fn changes(&self) -> Result<u64> {
        Ok(self.changes.load(Ordering::Acquire))
    }

    fn make_index(&self, kind: &'static str, fields: &[&'static str]) -> Result<()> {
        let name = fields.join("_");
        let on: Vec<String> = fields.iter().map(|f| field(f)).collect();
        let on = on.join(", ");
        let make = format!("CREATE INDEX IF NOT EXISTS \"{kind}_of_{name}\" ON record({on}) WHERE kind = '{kind}'");
        self.alone(|worker| {
            worker.run("create an index", move |c| {
                block_on(sqlx::query(sqlx::AssertSqlSafe(make)).execute(c)).map(|_| ())
            })
        })
    }

    fn check_rest(&self) -> Result<()> {
        if self.unchecked.load(Ordering::Acquire) {
            self.alone(|_| self.check_structure())?;
            self.unchecked.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Checkpoints the write-ahead log into the database and empties it: that overwrites removed data in both.
    fn erase_removed(&self) -> Result<()> {
        self.alone(|worker| {
            worker.execute("empty its write-ahead log", "PRAGMA wal_checkpoint(TRUNCATE)")?;
            // The checkpoint freed its disk space.
            space::take_for_wal(&worker.path);
            Ok(())
        })
    }
}

impl Sqlite {
    fn alone<R>(&self, step: impl FnOnce(&Worker) -> Result<R>) -> Result<R> {
        self.turn.take();
        let done = step(&self.worker);
        self.turn.give();
        done
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Reads and transactions

/// A turn at the connection, for a read or a transaction.
struct Held {
    store: Arc<Sqlite>,
    /// A transaction has begun and not ended.
    open: bool,
}

impl Held {
    fn of(store: Arc<Sqlite>) -> Self {
        store.turn.take();
        Self { store, open: false }
    }

    fn worker(&self) -> &Worker {
        &self.store.worker
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.open {
            let _ = self.worker().execute("undo a transaction", "ROLLBACK");
        }
        self.store.turn.give();
    }
}

fn row(row: &sqlx::sqlite::SqliteRow) -> sqlx::Result<Row> {
    let version = version_of(row.try_get(1)?);
    Ok(Row { id: row.try_get(0)?, version, body: row.try_get(2)?, mac: row.try_get(3)? })
}

fn version_of(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The expression for a field of a body, as an index has it; a body that is not JSON has none, and does not affect the
/// others.
fn field(name: &str) -> String {
    format!("CASE WHEN json_valid(CAST(body AS TEXT)) THEN json_extract(CAST(body AS TEXT), '$.{name}') END")
}

/// A query for the rows of a kind with the given fields. The kind is a literal: with a parameter SQLite would not use
/// the kind's index.
fn select(what: &str, kind: &'static str, fields: &[(&'static str, &str)]) -> String {
    let equal: String = fields.iter().map(|(f, _)| format!(" AND {} = ?", field(f))).collect();
    format!("SELECT {what} FROM record WHERE kind = '{kind}'{equal}")
}

fn values(fields: &[(&'static str, &str)]) -> Vec<String> {
    fields.iter().map(|(_, value)| (*value).to_owned()).collect()
}

impl Rows for Held {
    fn get(&self, kind: &'static str, id: &str) -> Result<Option<Row>> {
        self.worker().run("read records", |c| {
            let one = "SELECT id, version, body, mac FROM record WHERE kind = ? AND id = ?";
            block_on(sqlx::query(one).bind(kind).bind(id).fetch_optional(c))?.as_ref().map(row).transpose()
        })
    }

    fn list(&self, kind: &'static str) -> Result<Vec<Row>> {
        self.worker().run("read records", |c| {
            let all = "SELECT id, version, body, mac FROM record WHERE kind = ? ORDER BY id";
            block_on(sqlx::query(all).bind(kind).fetch_all(c))?.iter().map(row).collect()
        })
    }

    fn range(&self, kind: &'static str, after: &str, below: &str, limit: usize) -> Result<Vec<Row>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.worker().run("read a page of records", |c| {
            let page =
                "SELECT id, version, body, mac FROM record WHERE kind = ? AND id > ? AND id < ? ORDER BY id LIMIT ?";
            let query = sqlx::query(page).bind(kind).bind(after).bind(below).bind(limit);
            block_on(query.fetch_all(c))?.iter().map(row).collect()
        })
    }

    fn list_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<Vec<Row>> {
        let query = select("id, version, body, mac", kind, fields) + " ORDER BY id";
        let values = values(fields);
        self.worker().run("read records by an index", move |c| {
            let query = values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(query)), |q, v| q.bind(v));
            block_on(query.fetch_all(c))?.iter().map(row).collect()
        })
    }

    fn count_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<usize> {
        let (query, values) = (select("COUNT(*)", kind, fields), values(fields));
        let count = self.worker().run("count records by an index", move |c| {
            let query = values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(query)), |q, v| q.bind(v));
            block_on(query.fetch_one(c)).and_then(|row| row.try_get::<i64, _>(0))
        })?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn id_of(&self, kind: &'static str, name: &str) -> Result<Option<String>> {
        self.worker().run("look up a name", |c| id_of(c, kind, name))
    }

    fn some(&self, names: Vec<(String, String)>) -> Result<Vec<(String, Row)>> {
        self.worker().run("read records", move |c| {
            let one = "SELECT id, version, body, mac FROM record WHERE kind = ? AND id = ?";
            let mut found = Vec::new();
            for (kind, id) in names {
                let query = sqlx::query(one).bind(&kind).bind(id);
                if let Some(there) = block_on(query.fetch_optional(&mut *c))? {
                    found.push((kind, row(&there)?));
                }
            }
            Ok(found)
        })
    }

    fn all(&self) -> Result<Vec<(String, Row)>> {
        self.worker().run("read all records", |c| {
            let query = sqlx::query("SELECT id, version, body, mac, kind FROM record");
            let rows = block_on(query.fetch_all(c))?;
            rows.iter().map(|r| Ok((r.try_get::<String, _>(4)?, row(r)?))).collect()
        })
    }
}

fn id_of(c: &mut SqliteConnection, kind: &'static str, name: &str) -> sqlx::Result<Option<String>> {
    let query = sqlx::query("SELECT id FROM name WHERE kind = ? AND name = ?").bind(kind).bind(name);
    block_on(query.fetch_optional(c))?.map(|row| row.try_get(0)).transpose()
}

/// Returns why a write may not replace the current row, or `None` if it may.
fn in_the_way(c: &mut SqliteConnection, (kind, id): (&'static str, &str), over: Over) -> sqlx::Result<Option<Wrote>> {
    if over == Over::Anything {
        return Ok(None);
    }
    let query = sqlx::query("SELECT version FROM record WHERE kind = ? AND id = ?").bind(kind).bind(id);
    let found = block_on(query.fetch_optional(c))?.map(|row| row.try_get(0).map(version_of)).transpose()?;
    Ok(match (found, over) {
        (None, Over::Version(_)) => Some(Wrote::Gone),
        (Some(there), Over::Version(version)) if there == version => None,
        (Some(there), _) => Some(Wrote::At(there)),
        (None, _) => None,
    })
}

impl Transaction for Held {
    fn write(&mut self, kind: &'static str, row: &Row, name: Option<&str>, over: Over) -> Result<Wrote> {
        let Row { id, version, body, mac } = row;
        self.worker().run("write a record", |c| {
            if let Some(found) = in_the_way(c, (kind, id), over)? {
                return Ok(found);
            }
            if let Some(name) = name
                && id_of(c, kind, name)?.is_some_and(|other| other != *id)
            {
                return Ok(Wrote::NameTaken);
            }
            let number = i64::try_from(*version).unwrap_or(i64::MAX);
            let put = "INSERT OR REPLACE INTO record(kind, id, version, body, mac) VALUES (?, ?, ?, ?, ?)";
            block_on(
                sqlx::query(put).bind(kind).bind(id).bind(number).bind(&body[..]).bind(&mac[..]).execute(&mut *c),
            )?;
            let clear = "DELETE FROM name WHERE kind = ? AND id = ?";
            block_on(sqlx::query(clear).bind(kind).bind(id).execute(&mut *c))?;
            if let Some(name) = name {
                let index = "INSERT INTO name(kind, name, id) VALUES (?, ?, ?)";
                block_on(sqlx::query(index).bind(kind).bind(name).bind(id).execute(&mut *c))?;
            }
            Ok(Wrote::Done)
        })
    }

    fn delete(&mut self, kind: &'static str, id: &str, version: u64) -> Result<Wrote> {
        self.worker().run("remove a record", |c| {
            if let Some(found) = in_the_way(c, (kind, id), Over::Version(version))? {
                return Ok(found);
            }
            for statement in
                ["DELETE FROM name WHERE kind = ? AND id = ?", "DELETE FROM record WHERE kind = ? AND id = ?"]
            {
                block_on(sqlx::query(statement).bind(kind).bind(id).execute(&mut *c))?;
            }
            Ok(Wrote::Done)
        })
    }

    fn commit(mut self: Box<Self>) -> Result<u64> {
        self.worker().execute("commit", "COMMIT")?;
        self.open = false;
        Ok(self.store.changes.fetch_add(1, Ordering::AcqRel) + 1)
    }
}

/// Runs SQL on the file at `path`, bypassing coffer.
#[cfg(test)]
pub(crate) fn tamper(path: &Path, statement: String) -> Result<()> {
    let worker = Worker::start(path)?;
    worker.run("tamper", move |c| block_on(sqlx::query(sqlx::AssertSqlSafe(statement)).execute(c)).map(|_| ()))
}
