//! The contract of record stores, and the catalog over each: each test runs over every implementation.

use super::memory::Memory;
use super::sqlite::Sqlite;
use super::*;
use crate::error::{Error, Kind};
use crate::ledger::{Catalog, Record};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::sync::{Barrier, mpsc};
use std::thread;

type Store = Arc<dyn RecordStore>;

macro_rules! for_every_store {
    ($($test:ident)*) => {
        mod sqlite_does {
            $(#[test]
            fn $test() {
                let dir = tempfile::tempdir().unwrap();
                super::$test(super::Arc::new(super::Sqlite::create(&dir.path().join("catalog.db")).unwrap()));
            })*
        }
        mod memory_does {
            $(#[test]
            fn $test() {
                super::$test(super::Arc::new(super::Memory::default()));
            })*
        }
    };
}

for_every_store! {
    rows_are_read_back_by_the_bytes_of_their_ids
    a_write_finds_what_it_expects_or_changes_nothing
    names_are_unique_in_their_kind_follow_their_row_and_are_freed
    what_is_undone_only_its_transaction_ever_saw
    a_reader_beside_a_transaction_sees_all_of_it_or_nothing
    transactions_side_by_side_lose_no_change
    no_two_transactions_act_on_what_the_other_one_changes
    each_commit_moves_the_counter_by_one_and_nothing_else_does
    rows_are_found_by_fields_with_an_index_and_without
    what_was_removed_is_erased_and_the_rest_stays
    a_damaged_row_is_named_and_the_others_go_on
    what_one_process_changes_another_one_reads
    an_own_change_costs_the_cache_no_more_than_what_it_touched
}

fn row(id: &str, version: u64, body: &str) -> Row {
    Row { id: id.into(), version, body: body.into(), mac: b"mac".to_vec() }
}

/// Does a transaction; retries if the store reports a conflict.
fn commit<R>(store: &Store, mut act: impl FnMut(&mut dyn Transaction) -> R) -> (R, u64) {
    loop {
        let mut tx = store.clone().begin().unwrap();
        let done = act(&mut *tx);
        match tx.commit() {
            Ok(changes) => return (done, changes),
            Err(e) => assert_eq!(e.kind(), Kind::Busy, "{}", e.line()),
        }
    }
}

fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|r| r.id.as_str()).collect()
}

fn read(store: &Store) -> Box<dyn Rows> {
    store.clone().read().unwrap()
}

fn rows_are_read_back_by_the_bytes_of_their_ids(store: Store) {
    let wanted = ["B", "a", "a1", "b", "ä"];
    commit(&store, |tx| {
        for id in ["b", "ä", "a", "B", "a1"] {
            assert_eq!(tx.write("thing", &row(id, 1, "{}"), None, Over::Nothing).unwrap(), Wrote::Done);
        }
        tx.write("other", &row("a", 7, "[]"), None, Over::Nothing).unwrap();
    });
    let rows = read(&store);
    assert_eq!(ids(&rows.list("thing").unwrap()), wanted);
    assert_eq!(rows.get("other", "a").unwrap(), Some(row("a", 7, "[]")));
    assert_eq!((rows.get("other", "b").unwrap(), rows.get("none", "a").unwrap()), (None, None));
    assert!(rows.list("none").unwrap().is_empty());
    let mut all = rows.all().unwrap();
    all.sort_by(|a, b| (&a.0, &a.1.id).cmp(&(&b.0, &b.1.id)));
    assert_eq!(all.len(), 6);
    assert_eq!(all[0], ("other".to_owned(), row("a", 7, "[]")));
    let names = [("thing", "ä"), ("other", "a"), ("other", "b"), ("none", "a"), ("it's", "a")];
    let mut some = rows.some(names.map(|(kind, id)| (kind.to_owned(), id.to_owned())).to_vec()).unwrap();
    some.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(some, [("other".to_owned(), row("a", 7, "[]")), ("thing".to_owned(), row("ä", 1, "{}"))]);
}

fn a_write_finds_what_it_expects_or_changes_nothing(store: Store) {
    let first = row("a", 1, "{}");
    commit(&store, |tx| tx.write("thing", &first, None, Over::Nothing).unwrap());
    commit(&store, |tx| {
        let next = row("a", 2, "[1]");
        assert_eq!(tx.write("thing", &next, None, Over::Nothing).unwrap(), Wrote::At(1));
        assert_eq!(tx.write("thing", &next, None, Over::Version(2)).unwrap(), Wrote::At(1));
        assert_eq!(tx.write("thing", &row("b", 2, "[1]"), None, Over::Version(1)).unwrap(), Wrote::Gone);
        assert_eq!(tx.delete("thing", "a", 2).unwrap(), Wrote::At(1));
        assert_eq!(tx.delete("thing", "b", 1).unwrap(), Wrote::Gone);
        assert_eq!(tx.list("thing").unwrap(), std::slice::from_ref(&first));
    });
    assert_eq!(read(&store).list("thing").unwrap(), std::slice::from_ref(&first));
    let second = row("a", 2, "[2]");
    commit(&store, |tx| assert_eq!(tx.write("thing", &second, None, Over::Version(1)).unwrap(), Wrote::Done));
    assert_eq!(read(&store).get("thing", "a").unwrap(), Some(second));
    let any = row("a", 1, "[3]");
    commit(&store, |tx| assert_eq!(tx.write("thing", &any, None, Over::Anything).unwrap(), Wrote::Done));
    commit(&store, |tx| assert_eq!(tx.write("thing", &row("c", 1, ""), None, Over::Anything).unwrap(), Wrote::Done));
    assert_eq!(read(&store).get("thing", "a").unwrap(), Some(any));
    commit(&store, |tx| assert_eq!(tx.delete("thing", "a", 1).unwrap(), Wrote::Done));
    assert_eq!(ids(&read(&store).list("thing").unwrap()), ["c"]);
}

fn names_are_unique_in_their_kind_follow_their_row_and_are_freed(store: Store) {
    commit(&store, |tx| {
        assert_eq!(tx.write("thing", &row("a", 1, "{}"), Some("web"), Over::Nothing).unwrap(), Wrote::Done);
        assert_eq!(tx.write("other", &row("x", 1, "{}"), Some("web"), Over::Nothing).unwrap(), Wrote::Done);
        assert_eq!(tx.write("thing", &row("b", 1, "{}"), Some("db"), Over::Nothing).unwrap(), Wrote::Done);
    });
    commit(&store, |tx| {
        assert_eq!(tx.write("thing", &row("c", 1, "{}"), Some("web"), Over::Nothing).unwrap(), Wrote::NameTaken);
        assert_eq!(tx.write("thing", &row("b", 2, "{}"), Some("web"), Over::Version(1)).unwrap(), Wrote::NameTaken);
        // An existing row is reported before a taken name.
        assert_eq!(tx.write("thing", &row("b", 2, "{}"), Some("web"), Over::Version(3)).unwrap(), Wrote::At(1));
    });
    let of = |kind, name: &str| read(&store).id_of(kind, name).unwrap();
    assert_eq!(ids(&read(&store).list("thing").unwrap()), ["a", "b"]);
    assert_eq!(read(&store).get("thing", "b").unwrap().unwrap().version, 1);
    assert_eq!((of("thing", "web").as_deref(), of("other", "web").as_deref()), (Some("a"), Some("x")));
    assert_eq!((of("thing", "db").as_deref(), of("thing", "none")), (Some("b"), None));
    // It keeps its name, changes it, drops it; the old name is free within the same transaction.
    commit(&store, |tx| {
        assert_eq!(tx.write("thing", &row("a", 2, "{}"), Some("web"), Over::Version(1)).unwrap(), Wrote::Done);
        assert_eq!(tx.write("thing", &row("a", 3, "{}"), Some("app"), Over::Version(2)).unwrap(), Wrote::Done);
        assert_eq!(tx.write("thing", &row("b", 2, "{}"), Some("web"), Over::Version(1)).unwrap(), Wrote::Done);
    });
    assert_eq!((of("thing", "app").as_deref(), of("thing", "web").as_deref()), (Some("a"), Some("b")));
    assert_eq!(of("thing", "db"), None);
    commit(&store, |tx| {
        assert_eq!(tx.write("thing", &row("a", 4, "{}"), None, Over::Version(3)).unwrap(), Wrote::Done);
        assert_eq!(tx.delete("thing", "b", 2).unwrap(), Wrote::Done);
    });
    assert_eq!((of("thing", "app"), of("thing", "web")), (None, None));
    commit(&store, |tx| {
        assert_eq!(tx.write("thing", &row("c", 1, "{}"), Some("web"), Over::Nothing).unwrap(), Wrote::Done);
    });
}

fn what_is_undone_only_its_transaction_ever_saw(store: Store) {
    commit(&store, |tx| tx.write("thing", &row("a", 1, "{}"), Some("web"), Over::Nothing).unwrap());
    let before = store.changes().unwrap();
    let mut tx = store.clone().begin().unwrap();
    tx.write("thing", &row("b", 1, r#"{"of": "x"}"#), Some("db"), Over::Nothing).unwrap();
    tx.delete("thing", "a", 1).unwrap();
    assert_eq!(ids(&tx.list("thing").unwrap()), ["b"]);
    assert_eq!(ids(&tx.list_by("thing", &[("of", "x")]).unwrap()), ["b"]);
    assert_eq!((tx.get("thing", "a").unwrap(), tx.id_of("thing", "web").unwrap()), (None, None));
    assert_eq!(tx.id_of("thing", "db").unwrap().as_deref(), Some("b"));
    assert_eq!((tx.count_by("thing", &[("of", "x")]).unwrap(), tx.all().unwrap().len()), (1, 1));
    drop(tx);
    let rows = read(&store);
    assert_eq!(ids(&rows.list("thing").unwrap()), ["a"]);
    assert_eq!(rows.id_of("thing", "web").unwrap().as_deref(), Some("a"));
    assert_eq!((rows.id_of("thing", "db").unwrap(), rows.all().unwrap().len()), (None, 1));
    assert_eq!(store.changes().unwrap(), before);
}

fn a_reader_beside_a_transaction_sees_all_of_it_or_nothing(store: Store) {
    for (round, commits) in [false, true].into_iter().enumerate() {
        let mut tx = store.clone().begin().unwrap();
        let (ready, go) = mpsc::channel();
        let seen = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                ready.send(()).unwrap();
                read(&store).list("thing").unwrap().len()
            });
            tx.write("thing", &row("a", 1, "{}"), None, Over::Anything).unwrap();
            go.recv().unwrap();
            tx.write("thing", &row("b", 1, "{}"), None, Over::Anything).unwrap();
            if commits {
                tx.commit().unwrap();
            } else {
                drop(tx);
            }
            reader.join().unwrap()
        });
        assert!(seen == 0 || (commits && seen == 2), "round {round}: {seen} rows");
        assert_eq!(read(&store).list("thing").unwrap().len(), if commits { 2 } else { 0 });
    }
}

fn transactions_side_by_side_lose_no_change(store: Store) {
    commit(&store, |tx| tx.write("thing", &row("n", 1, "0"), None, Over::Nothing).unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    commit(&store, |tx| {
                        let found = tx.get("thing", "n").unwrap().unwrap();
                        let count: u64 = std::str::from_utf8(&found.body).unwrap().parse().unwrap();
                        let next = row("n", found.version + 1, &(count + 1).to_string());
                        assert_eq!(tx.write("thing", &next, None, Over::Version(found.version)).unwrap(), Wrote::Done);
                    });
                }
            });
        }
    });
    assert_eq!(read(&store).get("thing", "n").unwrap(), Some(row("n", 21, "20")));
}

/// Of two lamps each may be put out while the other one is lit: serially, one is always lit.
fn no_two_transactions_act_on_what_the_other_one_changes(store: Store) {
    for _ in 0..20 {
        commit(&store, |tx| {
            for id in ["a", "b"] {
                tx.write("lamp", &row(id, 1, "on"), None, Over::Anything).unwrap();
            }
        });
        let start = Barrier::new(2);
        thread::scope(|scope| {
            for (own, other) in [("a", "b"), ("b", "a")] {
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    start.wait();
                    commit(store, |tx| {
                        if tx.get("lamp", other).unwrap().unwrap().body == b"on" {
                            tx.write("lamp", &row(own, 2, "off"), None, Over::Version(1)).unwrap();
                        }
                    });
                });
            }
        });
        let burning = read(&store).list("lamp").unwrap().into_iter().filter(|r| r.body == b"on").count();
        assert_eq!(burning, 1);
    }
}

fn each_commit_moves_the_counter_by_one_and_nothing_else_does(store: Store) {
    let start = store.changes().unwrap();
    commit(&store, |tx| tx.write("thing", &row("a", 1, "{}"), None, Over::Nothing).unwrap());
    assert_eq!(store.changes().unwrap(), start + 1);
    drop(store.clone().begin().unwrap());
    read(&store).list("thing").unwrap();
    store.make_index("thing", &["of"]).unwrap();
    assert_eq!(store.changes().unwrap(), start + 1);
    let mut seen: Vec<u64> = thread::scope(|scope| {
        let write = |id: &'static str| {
            let store = &store;
            scope
                .spawn(move || commit(store, |tx| tx.write("thing", &row(id, 1, "{}"), None, Over::Nothing).unwrap()).1)
        };
        let threads: Vec<_> = ["b", "c", "d", "e"].map(write).into();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    seen.sort_unstable();
    assert_eq!(seen, (start + 2..=start + 5).collect::<Vec<_>>());
    assert_eq!(store.changes().unwrap(), start + 5);
}

fn rows_are_found_by_fields_with_an_index_and_without(store: Store) {
    commit(&store, |tx| {
        for (id, body) in [
            ("c", r#"{"key": "k1", "grantee": "bob"}"#),
            ("a", r#"{"key": "k1", "grantee": "eve"}"#),
            ("b", r#"{"key": "k2", "grantee": "bob"}"#),
            ("d", r#"{"key": 1}"#),
            ("e", r#"{"grantee": "bob"}"#),
            ("f", "no JSON"),
            ("g", r#"{"key": "k1' OR '1' = '1", "grantee": null}"#),
        ] {
            tx.write("grant", &row(id, 1, body), None, Over::Nothing).unwrap();
        }
        tx.write("other", &row("a", 1, r#"{"key": "k1", "grantee": "bob"}"#), None, Over::Nothing).unwrap();
    });
    for indexed in [false, true] {
        let of = |fields: &[(&'static str, &str)]| {
            let rows = read(&store);
            let found = rows.list_by("grant", fields).unwrap();
            assert_eq!(rows.count_by("grant", fields).unwrap(), found.len());
            found.into_iter().map(|r| r.id).collect::<Vec<_>>()
        };
        assert_eq!(of(&[("key", "k1")]), ["a", "c"], "{indexed}");
        assert_eq!(of(&[("key", "k1"), ("grantee", "bob")]), ["c"], "{indexed}");
        assert_eq!(of(&[("grantee", "bob")]), ["b", "c", "e"], "{indexed}");
        assert_eq!(of(&[("key", "k1' OR '1' = '1")]), ["g"], "{indexed}");
        assert_eq!((of(&[("key", "1")]).len(), of(&[("none", "k1")]).len()), (0, 0), "{indexed}");
        for _ in 0..2 {
            store.make_index("grant", &["key", "grantee"]).unwrap();
        }
    }
}

fn what_was_removed_is_erased_and_the_rest_stays(store: Store) {
    commit(&store, |tx| {
        for id in ["a", "b"] {
            tx.write("thing", &row(id, 1, "{}"), Some(id), Over::Nothing).unwrap();
        }
    });
    commit(&store, |tx| tx.delete("thing", "a", 1).unwrap());
    store.erase_removed().unwrap();
    assert_eq!(ids(&read(&store).list("thing").unwrap()), ["b"]);
    assert_eq!(read(&store).id_of("thing", "b").unwrap().as_deref(), Some("b"));
    commit(&store, |tx| assert_eq!(tx.write("thing", &row("a", 1, "{}"), None, Over::Nothing).unwrap(), Wrote::Done));
}

// ---------------------------------------------------------------------------------------------------------------------
// The catalog over each store

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Thing {
    id: String,
    name: Option<String>,
    size: u64,
}

impl Record for Thing {
    const KIND: &'static str = "thing";
    fn id(&self) -> String {
        self.id.clone()
    }
    fn name(&self) -> Option<String> {
        self.name.clone()
    }
}

fn thing(id: &str, name: &str, size: u64) -> Thing {
    Thing { id: id.into(), name: Some(name.into()), size }
}

/// A catalog as a separate process has it.
fn process(store: &Store) -> Catalog {
    Catalog::over(store.clone(), &Secret::build(|b| b.fill(5))).unwrap()
}

fn a_damaged_row_is_named_and_the_others_go_on(store: Store) {
    let catalog = process(&store);
    catalog
        .transaction(|tx| {
            tx.insert(&thing("a", "web", 7))?;
            tx.insert(&thing("b", "db", 7))
        })
        .unwrap();
    let whole = read(&store).get("thing", "a").unwrap().unwrap();
    let other = read(&store).get("thing", "b").unwrap().unwrap();
    let body = String::from_utf8(whole.body.clone()).unwrap().replace('7', "8").into_bytes();
    for damaged in [
        Row { body, ..whole.clone() },
        Row { version: 2, ..whole.clone() },
        Row { mac: vec![0], ..whole.clone() },
        Row { body: other.body, mac: other.mac, ..whole.clone() },
    ] {
        assert_eq!(catalog.get::<Thing>("a").unwrap().unwrap().record.size, 7);
        commit(&store, |tx| tx.write("thing", &damaged, Some("web"), Over::Anything).unwrap());
        let err = catalog.get::<Thing>("a").unwrap_err();
        assert!(err.kind() == Kind::Integrity && err.what().contains("thing/a"), "{}", err.line());
        let listing = catalog.list::<Thing>().unwrap();
        assert_eq!((listing.records.len(), listing.damaged[0].id.as_str()), (1, "a"));
        assert_eq!(catalog.find::<Thing>("db").unwrap().unwrap().record.size, 7);
        assert!(catalog.transaction(|tx| tx.update(&thing("a", "web", 1), 1)).is_err());
        assert_eq!(catalog.transaction(|tx| tx.insert(&thing("a", "x", 1))).unwrap_err().kind(), Kind::Exists);
        commit(&store, |tx| tx.write("thing", &whole, Some("web"), Over::Anything).unwrap());
    }
    assert_eq!(catalog.find::<Thing>("web").unwrap().unwrap().record.size, 7);
}

fn what_one_process_changes_another_one_reads(store: Store) {
    let (one, two) = (process(&store), process(&store));
    one.transaction(|tx| {
        tx.insert(&thing("a", "web", 1))?;
        tx.insert(&thing("b", "db", 1))
    })
    .unwrap();
    // Both have it cached: by id, by name, and that there are no others.
    for catalog in [&one, &two] {
        assert_eq!(catalog.list::<Thing>().unwrap().records.len(), 2);
        assert_eq!(catalog.find::<Thing>("web").unwrap().unwrap().record.id, "a");
        assert!(catalog.get::<Thing>("c").unwrap().is_none() && catalog.find::<Thing>("new").unwrap().is_none());
    }
    let before = one.changes_of(Thing::KIND);
    assert_eq!(one.changes_of(Thing::KIND), before);
    two.transaction(|tx| {
        tx.update(&thing("a", "app", 2), 1)?;
        tx.update(&thing("b", "web", 2), 1)?;
        tx.insert(&thing("c", "new", 2))
    })
    .unwrap();
    assert_ne!(one.changes_of(Thing::KIND), before);
    assert_eq!(one.get::<Thing>("a").unwrap().unwrap().version, 2);
    assert_eq!(one.find::<Thing>("web").unwrap().unwrap().record.id, "b");
    assert_eq!(one.find::<Thing>("new").unwrap().unwrap().record.id, "c");
    assert!(one.find::<Thing>("db").unwrap().is_none());
    // An update based on a read before the other one's change does not overwrite it.
    assert_eq!(one.transaction(|tx| tx.update(&thing("a", "app", 9), 1)).unwrap_err().kind(), Kind::Busy);
    two.begin(true, |tx| tx.delete::<Thing>("c", 1)).unwrap();
    assert!(one.get::<Thing>("c").unwrap().is_none());
    assert_eq!(one.transaction(|tx| tx.update(&thing("c", "new", 9), 1)).unwrap_err().kind(), Kind::NotFound);
}

fn an_own_change_costs_the_cache_no_more_than_what_it_touched(store: Store) {
    let catalog = process(&store);
    catalog
        .transaction(|tx| {
            tx.insert(&thing("a", "web", 1))?;
            tx.insert(&thing("b", "db", 1))
        })
        .unwrap();
    catalog.list::<Thing>().unwrap();
    catalog.transaction(|tx| tx.update(&thing("a", "web", 2), 1)).unwrap();
    let before = catalog.rows_read();
    assert_eq!(catalog.get::<Thing>("b").unwrap().unwrap().record.size, 1);
    assert_eq!(catalog.rows_read(), before, "b was read anew");
    assert_eq!(catalog.get::<Thing>("a").unwrap().unwrap().record.size, 2);
    assert_eq!(catalog.rows_read(), before + 1);
}

/// A store that never blocks rejects the later one; SQLite makes it wait.
#[test]
fn a_commit_that_comes_too_late_is_refused_and_leaves_no_trace() {
    let store: Store = Arc::new(Memory::default());
    let (one, two) = (process(&store), process(&store));
    one.transaction(|tx| tx.insert(&thing("a", "web", 1))).unwrap();
    let late = one.transaction(|tx| {
        let read = tx.get::<Thing>("a")?.ok_or_else(|| Error::new(Kind::NotFound, "a"))?;
        two.transaction(|tx| tx.update(&thing("a", "web", 2), 1))?;
        tx.insert(&thing("b", "db", read.record.size))
    });
    assert_eq!(late.unwrap_err().kind(), Kind::Busy);
    assert_eq!(one.get::<Thing>("a").unwrap().unwrap().record.size, 2);
    assert!(one.get::<Thing>("b").unwrap().is_none() && one.find::<Thing>("db").unwrap().is_none());
    one.transaction(|tx| tx.insert(&thing("b", "db", 3))).unwrap();
    assert_eq!(two.find::<Thing>("db").unwrap().unwrap().record.size, 3);
}
