//! Rows of the catalog that were read and found genuine, kept in memory: opening a volume looks at a dozen of them.
//!
//! The catalog has one process at a time (the data directory's lock), so nothing but this process changes a row that it
//! knows. A transaction reads past the cache and, at its end, has the cache forget what it touched. Listing reads the file
//! each time: `doctor` sees it as it is.

use super::Raw;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows kept of one kind, at most; with more, all of them are forgotten.
const MOST: usize = 4096;

/// What is known of one kind.
#[derive(Default)]
struct Table {
    /// By id; `None`: there is no such row.
    rows: HashMap<String, Option<Arc<Raw>>>,
    /// Where a name led last. Never believed, as the index in the file is not.
    names: HashMap<String, String>,
    /// All rows are known.
    complete: bool,
}

/// What is known of all kinds, and how often records of each were changed.
#[derive(Default)]
pub(super) struct Cache(HashMap<&'static str, Table>, HashMap<String, u64>);

impl Cache {
    /// A row, or that there is none; `None`: not known.
    pub(super) fn row(&self, kind: &str, id: &str) -> Option<Option<Arc<Raw>>> {
        let table = self.0.get(kind)?;
        match table.rows.get(id) {
            Some(known) => Some(known.clone()),
            None => table.complete.then_some(None),
        }
    }

    /// The id that a name leads to.
    pub(super) fn id_of(&self, kind: &str, name: &str) -> Option<&str> {
        self.0.get(kind)?.names.get(name).map(String::as_str)
    }

    /// Whether a name that leads nowhere here leads nowhere at all.
    pub(super) fn knows_all(&self, kind: &str) -> bool {
        self.0.get(kind).is_some_and(|t| t.complete)
    }

    fn table(&mut self, kind: &'static str) -> &mut Table {
        let table = self.0.entry(kind).or_default();
        if table.rows.len() >= MOST {
            *table = Table::default();
        }
        table
    }

    pub(super) fn keep(&mut self, kind: &'static str, id: &str, row: Option<Arc<Raw>>, name: Option<String>) {
        let table = self.table(kind);
        if let Some(name) = name {
            table.names.insert(name, id.to_owned());
        }
        table.rows.insert(id.to_owned(), row);
    }

    /// All genuine rows of a kind, with their names; `complete`: there are no others.
    pub(super) fn keep_all(&mut self, kind: &'static str, rows: Vec<(Raw, Option<String>)>, complete: bool) {
        if rows.len() >= MOST {
            self.0.remove(kind);
            return;
        }
        let mut table = Table { complete, ..Table::default() };
        for (row, name) in rows {
            table.names.extend(name.map(|n| (n, row.id.clone())));
            table.rows.insert(row.id.clone(), Some(Arc::new(row)));
        }
        self.0.insert(kind, table);
    }

    /// How often a row of this kind was changed, or may have been.
    pub(super) fn changes_of(&self, kind: &str) -> u64 {
        self.1.get(kind).copied().unwrap_or(0)
    }

    /// A row was changed, or may have been.
    pub(super) fn forget(&mut self, kind: &str, id: &str) {
        *self.1.entry(kind.to_owned()).or_default() += 1;
        if let Some(table) = self.0.get_mut(kind) {
            table.rows.remove(id);
            table.complete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: &str) -> Raw {
        Raw { id: id.into(), version: 1, body: Vec::new(), mac: Vec::new() }
    }

    #[test]
    fn what_was_forgotten_is_not_known_and_neither_is_what_was_never_read() {
        let mut cache = Cache::default();
        assert!(cache.row("thing", "a").is_none());
        cache.keep("thing", "a", None, None);
        assert!(cache.row("thing", "a").unwrap().is_none());
        cache.keep_all("thing", vec![(raw("a"), Some("web".into())), (raw("b"), None)], true);
        assert_eq!(cache.row("thing", "a").unwrap().unwrap().id, "a");
        assert_eq!(cache.id_of("thing", "web"), Some("a"));
        assert!(cache.row("thing", "c").unwrap().is_none() && cache.knows_all("thing"));
        cache.forget("thing", "a");
        assert!(cache.row("thing", "a").is_none() && cache.row("thing", "c").is_none() && !cache.knows_all("thing"));
        assert!(cache.row("thing", "b").is_some());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut cache = Cache::default();
        for n in 0..3 * MOST {
            cache.keep("thing", &n.to_string(), Some(Arc::new(raw(&n.to_string()))), Some(format!("n{n}")));
        }
        assert!(cache.0["thing"].rows.len() <= MOST && cache.0["thing"].names.len() <= MOST);
        cache.keep_all("thing", (0..MOST).map(|n| (raw(&n.to_string()), None)).collect(), true);
        assert!(!cache.knows_all("thing") && cache.row("thing", "1").is_none());
    }
}
