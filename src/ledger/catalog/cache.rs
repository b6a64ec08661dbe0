//! A cache of authenticated catalog rows: opening a volume reads a dozen of them.
//!
//! The cache is valid as long as the store's change counter says that no one else changed anything. A transaction
//! bypasses the cache and, when it ends, invalidates what it touched. Listing always reads the store, so that `doctor`
//! sees its actual state.

use super::Row;
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of rows kept per kind; when it is reached, all of them are dropped.
const MAX_CACHED: usize = 4096;

/// The cached rows of one kind.
#[derive(Default)]
struct Table {
    /// By id; `None`: there is no such row.
    rows: HashMap<String, Option<Arc<Row>>>,
    /// Where a name led last. Never trusted, like the index in the file.
    names: HashMap<String, String>,
    /// All rows of the kind are cached.
    complete: bool,
}

/// The cached rows of all kinds, and how often records of each were changed.
#[derive(Default)]
pub(super) struct Cache {
    tables: HashMap<&'static str, Table>,
    /// Changes by this process, by kind; those by others are not told apart by kind.
    own: HashMap<String, u64>,
    others: u64,
    /// The store's change counter that the cache is valid for.
    seen: u64,
}

impl Cache {
    /// Makes an empty cache of a store whose counter is at `seen`.
    pub(super) fn at(seen: u64) -> Self {
        Self { seen, ..Self::default() }
    }

    /// Updates the counter: if it has moved, someone else changed something, and the cache is dropped.
    pub(super) fn look_at(&mut self, now: u64) {
        if now != self.seen {
            self.forget_all();
            self.seen = now;
        }
    }

    /// Whether it is valid for the store's counter as it is now.
    pub(super) const fn is_at(&self, now: u64) -> bool {
        self.seen == now
    }

    pub(super) fn forget_all(&mut self) {
        self.tables.clear();
        self.others += 1;
    }

    /// Updates the counter after a transaction of this process; if it moved by more than one, drops the cache.
    pub(super) fn own_change(&mut self, now: u64) {
        if now == self.seen + 1 {
            self.seen = now;
        } else {
            self.look_at(now);
        }
    }

    /// Returns a row, or that there is none; `None`: not cached.
    pub(super) fn row(&self, kind: &str, id: &str) -> Option<Option<Arc<Row>>> {
        let table = self.tables.get(kind)?;
        match table.rows.get(id) {
            Some(known) => Some(known.clone()),
            None => table.complete.then_some(None),
        }
    }

    /// Returns the id that a name leads to.
    pub(super) fn id_of(&self, kind: &str, name: &str) -> Option<&str> {
        self.tables.get(kind)?.names.get(name).map(String::as_str)
    }

    /// Whether a name that is not cached does not exist.
    pub(super) fn knows_all(&self, kind: &str) -> bool {
        self.tables.get(kind).is_some_and(|t| t.complete)
    }

    fn table(&mut self, kind: &'static str) -> &mut Table {
        let table = self.tables.entry(kind).or_default();
        if table.rows.len() >= MAX_CACHED {
            *table = Table::default();
        }
        table
    }

    pub(super) fn keep(&mut self, kind: &'static str, id: &str, row: Option<Arc<Row>>, name: Option<String>) {
        let table = self.table(kind);
        if let Some(name) = name {
            table.names.insert(name, id.to_owned());
        }
        table.rows.insert(id.to_owned(), row);
    }

    /// Caches all authenticated rows of a kind, with their names; `complete`: there are no others.
    pub(super) fn keep_all(&mut self, kind: &'static str, rows: Vec<(Row, Option<String>)>, complete: bool) {
        if rows.len() >= MAX_CACHED {
            self.tables.remove(kind);
            return;
        }
        let mut table = Table { complete, ..Table::default() };
        for (row, name) in rows {
            table.names.extend(name.map(|n| (n, row.id.clone())));
            table.rows.insert(row.id.clone(), Some(Arc::new(row)));
        }
        self.tables.insert(kind, table);
    }

    /// Returns how often a row of this kind was changed, or may have been.
    pub(super) fn changes_of(&self, kind: &str) -> u64 {
        self.others + self.own.get(kind).copied().unwrap_or(0)
    }

    /// Drops a row that was changed, or may have been.
    pub(super) fn forget(&mut self, kind: &str, id: &str) {
        *self.own.entry(kind.to_owned()).or_default() += 1;
        if let Some(table) = self.tables.get_mut(kind) {
            table.rows.remove(id);
            table.complete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> Row {
        Row { id: id.into(), version: 1, body: Vec::new(), mac: Vec::new() }
    }

    #[test]
    fn what_was_forgotten_is_not_known_and_neither_is_what_was_never_read() {
        let mut cache = Cache::default();
        assert!(cache.row("thing", "a").is_none());
        cache.keep("thing", "a", None, None);
        assert!(cache.row("thing", "a").unwrap().is_none());
        cache.keep_all("thing", vec![(row("a"), Some("web".into())), (row("b"), None)], true);
        assert_eq!(cache.row("thing", "a").unwrap().unwrap().id, "a");
        assert_eq!(cache.id_of("thing", "web"), Some("a"));
        assert!(cache.row("thing", "c").unwrap().is_none() && cache.knows_all("thing"));
        cache.forget("thing", "a");
        assert!(cache.row("thing", "a").is_none() && cache.row("thing", "c").is_none() && !cache.knows_all("thing"));
        assert!(cache.row("thing", "b").is_some());
    }

    #[test]
    fn a_change_of_somebody_else_makes_it_forget_everything_and_an_own_one_does_not() {
        let mut cache = Cache::at(7);
        cache.keep("thing", "a", None, None);
        cache.own_change(8);
        cache.look_at(8);
        assert!(cache.row("thing", "a").is_some());
        let before = cache.changes_of("thing");
        cache.look_at(9);
        assert!(cache.row("thing", "a").is_none());
        assert_ne!(cache.changes_of("thing"), before);
        // Another process's change came between this process's check and its commit.
        cache.keep("thing", "a", None, None);
        cache.own_change(11);
        assert!(cache.row("thing", "a").is_none());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut cache = Cache::default();
        for n in 0..3 * MAX_CACHED {
            cache.keep("thing", &n.to_string(), Some(Arc::new(row(&n.to_string()))), Some(format!("n{n}")));
        }
        assert!(cache.tables["thing"].rows.len() <= MAX_CACHED && cache.tables["thing"].names.len() <= MAX_CACHED);
        cache.keep_all("thing", (0..MAX_CACHED).map(|n| (row(&n.to_string()), None)).collect(), true);
        assert!(!cache.knows_all("thing") && cache.row("thing", "1").is_none());
    }
}
