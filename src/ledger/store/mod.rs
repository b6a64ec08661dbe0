//! Where records are kept: rows of bytes by kind and id, behind the trait [`RecordStore`].
//!
//! [`sqlite::Sqlite`] is what a data directory has. A store that several processes share (PostgreSQL) stands behind the same
//! trait, and nothing above it takes for granted that there is one process:
//!
//! - Versions are checked by the write itself ([`Over`]), not only by whoever read the row before.
//! - What is kept in memory is held against [`RecordStore::changes`] before it is used.
//! - Transactions look as if they ran one after the other. A store has the later one wait, or refuses it with [`Kind::Busy`].
//! - No number is drawn by counting rows here: ids are random, and counters are records like any other.
//!
//! A store believes nothing and proves nothing. MACs are made and checked above it, so that each store has them; an index is a
//! hint, and what it leads to is authenticated and held against what was asked for. What a store needs beside that (SQLite its
//! spare space, its one thread) is its own affair.
//!
//! `contract_tests.rs` is what every store has to pass; `memory.rs` is one for tests, whose transactions run side by side.
//!
//! [`Kind::Busy`]: crate::error::Kind::Busy

#[cfg(test)]
pub(super) mod memory;
pub(super) mod sqlite;

use crate::error::Result;
use std::sync::Arc;

/// A row, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Unique within its kind.
    pub(super) id: String,
    /// 1 when inserted, one more with each update.
    pub(super) version: u64,
    /// JSON, as bytes; a row that was tampered with may hold anything.
    pub(super) body: Vec<u8>,
    /// What proves the rest. The store does not look at it.
    pub(super) mac: Vec<u8>,
}

/// What a write may find in the place of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing: it is new.
    Nothing,
    /// A row of this version.
    Version(u64),
    /// Whatever is there, or nothing.
    Anything,
}

/// What became of a write. One that was not done has changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// It is part of the transaction.
    Done,
    /// Not done: there is a row, at this version.
    At(u64),
    /// Not done: there is no row.
    Gone,
    /// Not done: another row of the kind has the name.
    NameTaken,
}

/// Rows can be read here. Kinds and names of fields are words of the program, never of a request.
pub(super) trait Rows {
    /// The row of that id.
    fn get(&self, kind: &'static str, id: &str) -> Result<Option<Row>>;

    /// All rows of a kind, by the bytes of their ids.
    fn list(&self, kind: &'static str) -> Result<Vec<Row>>;

    /// The rows whose bodies have these strings in these fields, by id. Fast for the fields of an index, or the first of them.
    fn list_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<Vec<Row>>;

    /// How many rows [`Rows::list_by`] gives.
    fn count_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<usize>;

    /// The id of the row that was written with this name.
    fn id_of(&self, kind: &'static str, name: &str) -> Result<Option<String>>;

    /// All rows, each with its kind, in no order.
    fn all(&self) -> Result<Vec<(String, Row)>>;
}

/// A transaction. It sees what it wrote itself; dropped without a commit, it is undone.
pub(super) trait Transaction: Rows + Send {
    /// Writes a row, and the name that finds it instead of the one it had, over what may be there.
    fn write(&mut self, kind: &'static str, row: &Row, name: Option<&str>, over: Over) -> Result<Wrote>;

    /// Removes the row of that version, and its name.
    fn delete(&mut self, kind: &'static str, id: &str, version: u64) -> Result<Wrote>;

    /// Makes it durable. Answers the number that it brought [`RecordStore::changes`] to. After an error it is not known whether
    /// it took place, unless the error is [`Kind::Busy`](crate::error::Kind::Busy): then it did not.
    fn commit(self: Box<Self>) -> Result<u64>;
}

/// Where records are kept.
pub(super) trait RecordStore: Send + Sync {
    /// Reads what was committed. It may wait until a transaction has ended, so no thread asks for it inside one of its own.
    fn read(self: Arc<Self>) -> Result<Box<dyn Rows>>;

    /// Begins a transaction. It may wait until another one has ended.
    fn begin(self: Arc<Self>) -> Result<Box<dyn Transaction>>;

    /// How many transactions were committed, by whomever: one more after each. It never waits for one.
    fn changes(&self) -> Result<u64>;

    /// Makes an index on fields of the bodies of a kind, unless it is there.
    fn make_index(&self, kind: &'static str, fields: &[&'static str]) -> Result<()>;

    /// Overwrites what was removed, where the store itself still has it.
    fn erase_removed(&self) -> Result<()>;
}

#[cfg(test)]
#[path = "contract_tests.rs"]
mod contract;
