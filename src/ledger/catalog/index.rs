//! Finding records by fields of their bodies, and what finding costs.
//!
//! An index is a hint of the store, as the one of names is: what it leads to is authenticated as any row is, and held against
//! what was asked for. An index that was tampered with can hide a record, as whoever can write the file can remove it.

use super::{Catalog, Listing, Record};
use crate::error::Result;
use std::sync::atomic::Ordering;

impl Catalog {
    pub(super) fn count(&self, rows: usize) {
        self.rows_read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// How many rows were read from the store so far: what a verb costs, told without a clock.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// Makes the indexes of a kind that are missing. Without them its records are found all the same, by a look at each: a full
    /// disk is no reason to stay closed.
    pub(crate) fn make_indexes<T: Record>(&self) {
        let _turn = self.turn.lock();
        for fields in T::INDEXES {
            if let Err(e) = self.store.make_index(T::KIND, fields) {
                let (kind, name) = (T::KIND, fields.join("_"));
                tracing::warn!("cannot create the catalog's index of {kind} by {name}: {}", e.line());
            }
        }
    }

    /// The records of a kind that have these values in the fields of an index of [`Record::INDEXES`], or in the first of them;
    /// no others are read. The index may lead astray: what it leads to is still to be held against what was asked for.
    ///
    /// # Errors
    /// What the store reports; a damaged row is no error here.
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

    /// How many records [`Catalog::list_of`] would find, damaged ones among them.
    pub(super) fn count_of<T: Record>(&self, field: &'static str, value: &str) -> Result<usize> {
        self.reading(|rows| rows.count_by(T::KIND, &[(field, value)]))
    }

    /// A number that is another one after each change of a kind's records: for what is worked out of all of them.
    #[must_use]
    pub fn changes_of(&self, kind: &str) -> u64 {
        let changes = self.store.changes();
        let mut cache = self.cache.lock();
        match changes {
            Ok(now) => cache.look_at(now),
            // Nobody knows: it counts as a change.
            Err(_) => cache.forget_all(),
        }
        cache.changes_of(kind)
    }
}
