//! Finding records by fields of their bodies, and what finding costs.
//!
//! An index is a hint in the file, as the one of names is: what it leads to is authenticated as any row is, and held against what
//! was asked for. An index that was tampered with can hide a record, as whoever can write the file can remove it.

use super::{Catalog, Listing, Raw, Record, raw};
use crate::error::Result;
use sqlx::Row;
use std::sync::atomic::Ordering;

/// A field of a body, as an index has it; a body that is no JSON has none, and does not stand in the others' way.
fn field(name: &str) -> String {
    format!("CASE WHEN json_valid(CAST(body AS TEXT)) THEN json_extract(CAST(body AS TEXT), '$.{name}') END")
}

impl Catalog {
    pub(super) fn count(&self, rows: usize) {
        self.rows_read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// How many rows were read from the file so far: what a verb costs, told without a clock.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// Makes the indexes of a kind that are missing. Without them its records are found all the same, by a look at each: a full
    /// disk is no reason to stay closed.
    pub(crate) fn make_indexes<T: Record>(&self) {
        let _turn = self.turn.lock();
        for fields in T::INDEXES {
            let (kind, name) = (T::KIND, fields.join("_"));
            let on: Vec<String> = fields.iter().map(|f| field(f)).collect();
            let on = on.join(", ");
            let make = format!("CREATE INDEX IF NOT EXISTS \"{kind}_of_{name}\" ON record({on}) WHERE kind = '{kind}'");
            let made = self.worker.run("make an index", move |rt, c| {
                rt.block_on(sqlx::query(sqlx::AssertSqlSafe(make)).execute(c)).map(|_| ())
            });
            if let Err(e) = made {
                tracing::warn!("the catalog's index of {kind} by {name} could not be made: {}", e.line());
            }
        }
    }

    /// A query for the records of a kind whose fields are these.
    fn select<T: Record>(what: &str, fields: &[&str]) -> String {
        let equal: String = fields.iter().map(|f| format!(" AND {} = ?", field(f))).collect();
        format!("SELECT {what} FROM record WHERE kind = '{}'{equal}", T::KIND)
    }

    /// The records of a kind that have these values in the fields of an index of [`Record::INDEXES`], or in the first of them;
    /// no others are read. The index may lead astray: what it leads to is still to be held against what was asked for.
    ///
    /// # Errors
    /// What SQLite reports; a damaged row is no error here.
    pub fn list_of<T: Record>(&self, wanted: &[(&'static str, &str)]) -> Result<Listing<T>> {
        let _turn = self.turn.lock();
        let fields: Vec<&str> = wanted.iter().map(|(f, _)| *f).collect();
        let query = Self::select::<T>("id, version, body, mac", &fields) + " ORDER BY id";
        let values: Vec<String> = wanted.iter().map(|(_, v)| (*v).to_owned()).collect();
        let rows: Vec<Raw> = self.worker.run("read records by an index", move |rt, c| {
            let query = values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(query)), |q, v| q.bind(v));
            rt.block_on(query.fetch_all(c))?.iter().map(raw).collect()
        })?;
        self.count(rows.len());
        let mut listing = Listing { records: Vec::new(), damaged: Vec::new() };
        for row in rows {
            match self.read::<T>(&row) {
                Ok(found) => listing.records.push(found),
                Err(damaged) => listing.damaged.push(damaged),
            }
        }
        Ok(listing)
    }

    /// How many records [`Catalog::list_of`] would find, damaged ones among them.
    pub(super) fn count_of<T: Record>(&self, field: &'static str, value: &str) -> Result<usize> {
        let _turn = self.turn.lock();
        let (query, value) = (Self::select::<T>("COUNT(*)", &[field]), value.to_owned());
        let count = self.worker.run("count records by an index", move |rt, c| {
            let one = sqlx::query(sqlx::AssertSqlSafe(query)).bind(value).fetch_one(c);
            rt.block_on(one).and_then(|row| row.try_get::<i64, _>(0))
        })?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// A number that is another one after each change of a kind's records: for what is worked out of all of them.
    #[must_use]
    pub fn changes_of(&self, kind: &str) -> u64 {
        self.cache.lock().changes_of(kind)
    }
}
