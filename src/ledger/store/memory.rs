//! Records in memory, for tests. Transactions run concurrently on a snapshot of the store; one that wrote something is
//! rejected at commit if another has committed meanwhile, like a serializable transaction of PostgreSQL.

use super::{Over, RecordStore, Row, Rows, Transaction, Wrote};
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(in super::super) struct Memory(Mutex<Tables>);

#[derive(Clone, Default)]
struct Tables {
    rows: BTreeMap<(&'static str, String), Row>,
    names: BTreeMap<(&'static str, String), String>,
    changes: u64,
}

impl Memory {
    /// Copies what is committed, as a kill at this moment would leave it.
    pub(in super::super) fn copy(&self) -> Arc<Self> {
        Arc::new(Self(Mutex::new(self.0.lock().clone())))
    }
}

/// A snapshot of the store, and what a transaction did to it since.
struct View {
    store: Arc<Memory>,
    state: Tables,
    wrote: bool,
}

impl View {
    fn of(store: Arc<Memory>) -> Box<Self> {
        let state = store.0.lock().clone();
        Box::new(Self { store, state, wrote: false })
    }

    /// Returns why a write may not replace the current row, or `None` if it may.
    fn in_the_way(&self, kind: &'static str, id: &str, over: Over) -> Option<Wrote> {
        match (self.state.rows.get(&(kind, id.to_owned())).map(|row| row.version), over) {
            (_, Over::Anything) | (None, Over::Nothing) => None,
            (None, Over::Version(_)) => Some(Wrote::Gone),
            (Some(there), Over::Version(version)) if there == version => None,
            (Some(there), _) => Some(Wrote::At(there)),
        }
    }
}

impl RecordStore for Memory {
    fn read(self: Arc<Self>) -> Result<Box<dyn Rows>> {
        Ok(View::of(self))
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn Transaction>> {
        Ok(View::of(self))
    }

    fn changes(&self) -> Result<u64> {
        Ok(self.0.lock().changes)
    }

    fn make_index(&self, _kind: &'static str, _fields: &[&'static str]) -> Result<()> {
        Ok(())
    }

    fn check_rest(&self) -> Result<()> {
        Ok(())
    }

    fn erase_removed(&self) -> Result<()> {
        Ok(())
    }
}

impl Rows for View {
    fn get(&self, kind: &'static str, id: &str) -> Result<Option<Row>> {
        Ok(self.state.rows.get(&(kind, id.to_owned())).cloned())
    }

    fn list(&self, kind: &'static str) -> Result<Vec<Row>> {
        self.list_by(kind, &[])
    }

    fn range(&self, kind: &'static str, after: &str, below: &str, limit: usize) -> Result<Vec<Row>> {
        let inside = |row: &Row| row.id.as_str() > after && row.id.as_str() < below;
        Ok(self.list(kind)?.into_iter().filter(inside).take(limit).collect())
    }

    fn list_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<Vec<Row>> {
        let fits = |row: &Row| {
            let body = serde_json::from_slice::<serde_json::Value>(&row.body).unwrap_or_default();
            fields.iter().all(|(field, value)| body.get(field).and_then(|v| v.as_str()) == Some(value))
        };
        let of_kind = self.state.rows.iter().filter(|((k, _), _)| *k == kind).map(|(_, row)| row);
        Ok(of_kind.filter(|row| fits(row)).cloned().collect())
    }

    fn count_by(&self, kind: &'static str, fields: &[(&'static str, &str)]) -> Result<usize> {
        Ok(self.list_by(kind, fields)?.len())
    }

    fn id_of(&self, kind: &'static str, name: &str) -> Result<Option<String>> {
        Ok(self.state.names.get(&(kind, name.to_owned())).cloned())
    }

    fn some(&self, names: Vec<(String, String)>) -> Result<Vec<(String, Row)>> {
        Ok(self.all()?.into_iter().filter(|(kind, row)| names.contains(&(kind.clone(), row.id.clone()))).collect())
    }

    fn all(&self) -> Result<Vec<(String, Row)>> {
        Ok(self.state.rows.iter().map(|((kind, _), row)| ((*kind).to_owned(), row.clone())).collect())
    }
}

impl Transaction for View {
    fn write(&mut self, kind: &'static str, row: &Row, name: Option<&str>, over: Over) -> Result<Wrote> {
        if let Some(found) = self.in_the_way(kind, &row.id, over) {
            return Ok(found);
        }
        let name = name.map(|name| (kind, name.to_owned()));
        if name.as_ref().and_then(|name| self.state.names.get(name)).is_some_and(|other| *other != row.id) {
            return Ok(Wrote::NameTaken);
        }
        self.state.names.retain(|(k, _), id| *k != kind || *id != row.id);
        self.state.names.extend(name.map(|name| (name, row.id.clone())));
        self.state.rows.insert((kind, row.id.clone()), row.clone());
        self.wrote = true;
        Ok(Wrote::Done)
    }

    fn delete(&mut self, kind: &'static str, id: &str, version: u64) -> Result<Wrote> {
        if let Some(found) = self.in_the_way(kind, id, Over::Version(version)) {
            return Ok(found);
        }
        self.state.names.retain(|(k, _), of| *k != kind || of != id);
        self.state.rows.remove(&(kind, id.to_owned()));
        self.wrote = true;
        Ok(Wrote::Done)
    }

    fn commit(self: Box<Self>) -> Result<u64> {
        let Self { store, mut state, wrote } = *self;
        let mut committed = store.0.lock();
        if !wrote {
            state = committed.clone();
        } else if committed.changes != state.changes {
            let what = "catalog: commit: another transaction was committed meanwhile";
            return Err(Error::new(Kind::Busy, what).hint("try again"));
        }
        state.changes += 1;
        *committed = state;
        Ok(committed.changes)
    }
}
