//! Finding records by fields of their bodies, and what that costs.
//!
//! An index is a hint of the store, like the one of names: the rows it leads to are authenticated as usual and compared
//! with the query. A forged index can hide a record, but whoever can write the file can also remove it.

use super::{Catalog, Listing, Record};
use crate::error::Result;
use std::sync::atomic::Ordering;

impl Catalog {
    pub(super) fn count(&self, rows: usize) {
        self.rows_read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Returns how many rows were read from the store so far: the cost of a verb, without a clock.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// Creates the missing indexes of a kind. Without them records are found by a full scan: a full disk does not
    /// prevent opening.
    pub(crate) fn make_indexes<T: Record>(&self) {
        let _turn = self.turn.lock();
        for fields in T::INDEXES {
            if let Err(e) = self.store.make_index(T::KIND, fields) {
                let (kind, name) = (T::KIND, fields.join("_"));
                tracing::warn!("cannot create the catalog's index of {kind} by {name}: {}", e.line());
            }
        }
    }

    /// Lists the records of a kind that have these values in the fields of an index of [`Record::INDEXES`], or in the
    /// first of them; reads no others. The index is a hint: the caller must compare the records with the query.
    ///
    /// # Errors
    /// What the store reports; a damaged row is not an error here.
    pub fn list_of<T: Record>(&self, wanted: &[(&'static str, &str)]) -> Result<Listing<T>> {
        let rows = self.reading(|rows| rows.list_by(T::KIND, wanted))?;
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

    /// Counts the records that [`Catalog::list_of`] would find, including damaged ones.
    pub(super) fn count_of<T: Record>(&self, field: &'static str, value: &str) -> Result<usize> {
        self.reading(|rows| rows.count_by(T::KIND, &[(field, value)]))
    }

    /// Returns a number that differs after each change of a kind's records: for results derived from all of them.
    #[must_use]
    pub fn changes_of(&self, kind: &str) -> u64 {
        if let Ok(now) = self.store.changes()
            && let cache = self.cache.lock()
            && cache.is_at(now)
        {
            return cache.changes_of(kind);
        }
        // Perhaps a transaction of this process, whose changes are not in the cache yet.
        let _turn = self.turn.lock();
        let changes = self.store.changes();
        let mut cache = self.cache.lock();
        match changes {
            Ok(now) => cache.look_at(now),
            // Unknown: count it as a change.
            Err(_) => cache.forget_all(),
        }
        cache.changes_of(kind)
    }
}
