//! The storage of records: rows of bytes by kind and id, behind the trait [`RecordStore`].
//!
//! [`sqlite::Sqlite`] is what a data directory uses. A store shared by several processes (PostgreSQL) can implement the
//! same trait, and nothing above it assumes a single process:
//!
//! - The write itself checks versions ([`Over`]), not only whoever read the row before.
//! - Cached rows are checked against [`RecordStore::changes`] before use.
//! - Transactions are serializable. A store makes the later one wait, or rejects it with [`Kind::Busy`].
//! - No number is allocated by counting rows: ids are random, and counters are ordinary records.
//!
//! A store is not trusted and proves nothing. MACs are made and checked above it, so every store has them; an index is
//! a hint, and what it leads to is authenticated and compared with the query. What else a store needs (SQLite its spare
//! space, its one thread) is its own business.
//!
//! Every store must pass `contract_tests.rs`; `memory.rs` is one for tests, whose transactions run concurrently.
//!
//! [`Kind::Busy`]: crate::error::Kind::Busy

#[cfg(test)]
pub(super) mod memory;
pub(super) mod sqlite;

use crate::error::Result;
use std::sync::Arc;

/// A row of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Unique within its kind.
    pub(super) id: String,
    /// 1 when inserted, incremented by each update.
    pub(super) version: u64,
    /// JSON, as bytes; a tampered row can hold anything.
    pub(super) body: Vec<u8>,
    /// The MAC over the rest. The store does not check it.
    pub(super) mac: Vec<u8>,
}

/// What a write may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing: the row is new.
    Nothing,
    /// A row of this version.
    Version(u64),
    /// Anything or nothing.
    Anything,
}

/// The result of a write. One that was not done has changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Done, as part of the transaction.
    Done,
    /// Not done: there is a row, at this version.
    At(u64),
    /// Not done: there is no row.
    Gone,
    /// Not done: another row of the kind has the name.
    NameTaken,
}

/// Reads rows. Kinds and field names are constants of the program, never from a request.
pub(super) trait Rows {
    /// Returns the row with this id.
    fn get(&self, kind: &'static str, id: &str) -> Result<Option<Row>>;

    /// Lists all rows of a kind, sorted by the bytes of their ids.
    fn list(&self, kind: &'static str) -> Result<Vec<Row>>;

    /// Lists rows of a kind by id: those after `after` and before `below`, at most `limit`, sorted by the bytes of their ids.
    fn range(&self, kind: &'static str, after: &str, below: &str, limit: usize) -> Result<Vec<Row>>;

    /// Lists the rows whose bodies have these strings in these fields, by id. Fast for the fields of an index, or the
    /// first of them.
    fn list_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<Vec<Row>>;

    /// Counts the rows that [`Rows::list_by`] returns.
    fn count_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<usize>;

    /// Returns the id of the row that was written with this name.
    fn id_of(&self, kind: &'static str, name: &str) -> Result<Option<String>>;

    /// Returns those of the rows with these kinds and ids that exist, each with its kind, in no order. The kinds may be
    /// of a record of the log, and unknown here.
    fn some(&self, names: Vec<(String, String)>) -> Result<Vec<(String, Row)>>;

    /// Lists all rows, each with its kind, in no order.
    fn all(&self) -> Result<Vec<(String, Row)>>;
}

/// A transaction. It sees its own writes; dropped without a commit, it is undone.
pub(super) trait Transaction: Rows + Send {
    /// Writes a row and sets its name to `name`, if `over` permits replacing the current row.
    fn write(&mut self, kind: &'static str, row: &Row, name: Option<&str>, over: Over) -> Result<Wrote>;

    /// Removes the row of that version, and its name.
    fn delete(&mut self, kind: &'static str, id: &str, version: u64) -> Result<Wrote>;

    /// Makes it durable. Returns the value that it brought [`RecordStore::changes`] to. After an error it is unknown
    /// whether it took effect, unless the error is [`Kind::Busy`](crate::error::Kind::Busy): then it did not.
    fn commit(self: Box<Self>) -> Result<u64>;
}

/// A store of records.
pub(super) trait RecordStore: Send + Sync {
    /// Starts a read of what was committed. It may wait for a transaction to end, so a thread must not call it inside
    /// one of its own.
    fn read(self: Arc<Self>) -> Result<Box<dyn Rows>>;

    /// Begins a transaction. It may wait for another one to end.
    fn begin(self: Arc<Self>) -> Result<Box<dyn Transaction>>;

    /// Returns the number of transactions committed, by any process: incremented by each. Never waits for one.
    fn changes(&self) -> Result<u64>;

    /// Creates an index on fields of the bodies of a kind, unless it exists.
    fn make_index(&self, kind: &'static str, fields: &[&'static str]) -> Result<()>;

    /// Checks what was left out when the store was opened, for that would have taken long.
    fn check_rest(&self) -> Result<()>;

    /// Overwrites removed data that the store itself still holds.
    fn erase_removed(&self) -> Result<()>;
}

#[cfg(test)]
#[path = "contract_tests.rs"]
mod contract;
