use super::super::store::sqlite;
use super::*;

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

fn thing(id: &str, name: Option<&str>, size: u64) -> Thing {
    Thing { id: id.into(), name: name.map(Into::into), size }
}

fn root() -> Secret<32> {
    Secret::build(|b| b.fill(5))
}

fn fresh() -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::create(&dir.path().join("catalog.db"), &root()).unwrap();
    (dir, catalog)
}

/// Runs SQL on the catalog's file, bypassing coffer.
fn tamper(dir: &tempfile::TempDir, statement: &str) {
    sqlite::tamper(&dir.path().join("catalog.db"), statement.into()).unwrap();
}

#[test]
fn what_was_committed_is_there_after_reopening_and_what_failed_is_not() {
    let (dir, catalog) = fresh();
    catalog.transaction(|tx| tx.insert(&thing("a", Some("web"), 1))).unwrap();
    let failed = catalog.transaction(|tx| {
        tx.insert(&thing("b", None, 2))?;
        tx.update(&thing("a", Some("web"), 9), 1)?;
        Err::<(), _>(Error::new(Kind::Failed, "no"))
    });
    assert!(failed.is_err());
    drop(catalog);
    let catalog = Catalog::open(&dir.path().join("catalog.db"), &root()).unwrap();
    let found = catalog.get::<Thing>("a").unwrap().unwrap();
    assert_eq!((found.record, found.version), (thing("a", Some("web"), 1), 1));
    assert!(catalog.get::<Thing>("b").unwrap().is_none());
}

#[test]
fn an_update_that_read_an_old_version_is_refused() {
    let (_dir, catalog) = fresh();
    catalog.transaction(|tx| tx.insert(&thing("a", None, 1))).unwrap();
    assert_eq!(catalog.transaction(|tx| tx.update(&thing("a", None, 2), 1)).unwrap().version, 2);
    assert_eq!(catalog.transaction(|tx| tx.update(&thing("a", None, 3), 1)).unwrap_err().kind(), Kind::Busy);
    assert_eq!(catalog.transaction(|tx| tx.update(&thing("x", None, 3), 1)).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(catalog.transaction(|tx| tx.insert(&thing("a", None, 3))).unwrap_err().kind(), Kind::Exists);
    assert_eq!(catalog.get::<Thing>("a").unwrap().unwrap().record.size, 2);
}

#[test]
fn names_are_unique_follow_their_record_and_are_freed() {
    let (_dir, catalog) = fresh();
    catalog.transaction(|tx| tx.insert(&thing("a", Some("web"), 1))).unwrap();
    let taken = catalog.transaction(|tx| tx.insert(&thing("b", Some("web"), 1))).unwrap_err();
    assert_eq!((taken.kind(), taken.what()), (Kind::Exists, "thing name \"web\" is taken"));
    catalog.transaction(|tx| tx.update(&thing("a", Some("db"), 1), 1)).unwrap();
    catalog.transaction(|tx| tx.insert(&thing("b", Some("web"), 2))).unwrap();
    assert_eq!(catalog.find::<Thing>("web").unwrap().unwrap().record.id, "b");
    assert_eq!(catalog.find::<Thing>("db").unwrap().unwrap().record.id, "a");
    assert_eq!(catalog.transaction(|tx| tx.delete::<Thing>("a", 2)).unwrap_err().kind(), Kind::InvalidState);
    catalog.begin(true, |tx| tx.delete::<Thing>("a", 2)).unwrap();
    assert!(catalog.find::<Thing>("db").unwrap().is_none());
}

#[test]
fn a_changed_row_is_named_and_the_others_go_on() {
    for statement in [
        "UPDATE record SET body = replace(CAST(body AS TEXT), '7', '8') WHERE id = 'a'",
        "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), '7', '8') AS BLOB) WHERE id = 'a'",
        "UPDATE record SET version = 2 WHERE id = 'a'",
        "UPDATE record SET mac = x'00' WHERE id = 'a'",
        "UPDATE record SET body = (SELECT body FROM record WHERE id = 'b'), \
         mac = (SELECT mac FROM record WHERE id = 'b') WHERE id = 'a'",
    ] {
        let (dir, catalog) = fresh();
        catalog
            .transaction(|tx| {
                tx.insert(&thing("a", Some("web"), 7))?;
                tx.insert(&thing("b", Some("db"), 7))
            })
            .unwrap();
        drop(catalog);
        if sqlite::tamper(&dir.path().join("catalog.db"), statement.into()).is_err() {
            continue; // STRICT refuses text in a BLOB column: nothing was changed.
        }
        let catalog = Catalog::open(&dir.path().join("catalog.db"), &root()).unwrap();
        let err = catalog.get::<Thing>("a").unwrap_err();
        assert_eq!(err.kind(), Kind::Integrity);
        assert!(err.what().contains("thing/a"), "{err}");
        let listing = catalog.list::<Thing>().unwrap();
        assert_eq!((listing.records.len(), listing.damaged.len()), (1, 1));
        assert_eq!(catalog.get::<Thing>("b").unwrap().unwrap().record.size, 7);
        assert!(catalog.transaction(|tx| tx.update(&thing("a", None, 1), 1)).is_err());
        assert_eq!(catalog.transaction(|tx| tx.insert(&thing("a", None, 1))).unwrap_err().kind(), Kind::Exists);
    }
}

#[test]
fn the_name_index_is_not_believed() {
    let (dir, catalog) = fresh();
    catalog
        .transaction(|tx| {
            tx.insert(&thing("a", Some("web"), 1))?;
            tx.insert(&thing("b", Some("db"), 2))
        })
        .unwrap();
    drop(catalog);
    tamper(&dir, "UPDATE name SET id = 'b' WHERE name = 'web'");
    tamper(&dir, "DELETE FROM name WHERE name = 'db'");
    let catalog = Catalog::open(&dir.path().join("catalog.db"), &root()).unwrap();
    assert_eq!(catalog.find::<Thing>("web").unwrap().unwrap().record.id, "a");
    assert_eq!(catalog.find::<Thing>("db").unwrap().unwrap().record.id, "b");
}

#[test]
fn damaged_foreign_newer_and_missing_files_are_told_apart() {
    let (dir, catalog) = fresh();
    drop(catalog);
    let path = dir.path().join("catalog.db");
    tamper(&dir, "PRAGMA user_version = 2");
    assert_eq!(Catalog::open(&path, &root()).unwrap_err().kind(), Kind::Unsupported);
    tamper(&dir, "PRAGMA application_id = 1");
    assert_eq!(Catalog::open(&path, &root()).unwrap_err().kind(), Kind::Integrity);
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let err = Catalog::open(&path, &root()).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity, "{}", err.line());
    assert!(err.what().contains("catalog.db"), "{err}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Catalog::open(&path, &root()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_large_file_is_opened_at_once_and_checked_later() {
    let (dir, catalog) = fresh();
    let path = dir.path().join("catalog.db");
    catalog.transaction(|tx| tx.insert(&thing("a", Some(&"n".repeat(10 << 20)), 1))).unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path, &root()).unwrap();
    catalog.check_rest().unwrap();
    drop(catalog);
    // A page in the middle of the large row: what opening reads is whole.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 5 << 20).unwrap();
    let catalog = Catalog::open(&path, &root()).unwrap();
    assert_eq!(catalog.check_rest().unwrap_err().kind(), Kind::Integrity);
}

#[test]
fn cached_rows_are_read_while_a_transaction_runs_and_are_never_older_than_the_last_one_that_ended() {
    let (_dir, catalog) = fresh();
    catalog.transaction(|tx| tx.insert(&thing("a", None, 0))).unwrap();
    let size = || catalog.get::<Thing>("a").unwrap().unwrap().record.size;
    for round in 0..50 {
        assert_eq!(size(), round);
        let changes = catalog.changes_of("thing");
        catalog
            .transaction(|tx| {
                tx.update(&thing("a", None, round + 1), round + 1)?;
                std::thread::scope(|scope| {
                    assert_eq!(scope.spawn(size).join().unwrap(), round, "not committed yet, and nobody waits");
                });
                Ok(())
            })
            .unwrap();
        assert_eq!(std::thread::scope(|scope| scope.spawn(size).join().unwrap()), round + 1);
        assert_ne!(catalog.changes_of("thing"), changes);
    }
}

#[test]
fn it_can_be_called_from_inside_runtimes_and_from_many_threads() {
    let (_dir, catalog) = fresh();
    for runtime in [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()] {
        let mut runtime = runtime;
        let id = format!("rt{}", catalog.list::<Thing>().unwrap().records.len());
        let inside = async { catalog.transaction(|tx| tx.insert(&thing(&id, None, 1))).map(|v| v.version) };
        assert_eq!(runtime.enable_all().build().unwrap().block_on(inside).unwrap(), 1);
    }
    catalog.transaction(|tx| tx.insert(&thing("n", None, 0))).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let bump = |tx: &mut Tx<'_>| {
                        let now = tx.get::<Thing>("n")?.unwrap();
                        tx.update(&thing("n", None, now.record.size + 1), now.version)
                    };
                    catalog.transaction(bump).unwrap();
                }
            });
        }
    });
    assert_eq!(catalog.get::<Thing>("n").unwrap().unwrap().record.size, 20);
}

#[test]
fn a_transaction_inside_a_transaction_is_refused_and_a_panic_undoes() {
    let (_dir, catalog) = fresh();
    let nested = catalog.transaction(|_| catalog.transaction(|tx| tx.insert(&thing("a", None, 1))));
    assert_eq!(nested.unwrap_err().kind(), Kind::InvalidState);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        catalog.transaction(|tx| -> Result<()> {
            tx.insert(&thing("a", None, 1))?;
            panic!("bug in a caller")
        })
    }));
    assert!(panicked.is_err());
    assert!(catalog.get::<Thing>("a").unwrap().is_none());
    catalog.transaction(|tx| tx.insert(&thing("a", None, 1))).unwrap();
}

/// Reads come from the cache, the index or all rows; they agree with a model after any change, rollback or renaming.
#[test]
fn reads_agree_with_a_model_through_changes_renames_and_failed_transactions() {
    let (_dir, catalog) = fresh();
    let mut model: std::collections::BTreeMap<String, Thing> = Default::default();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut undone, mut found) = (0, 0);
    for step in 0..2000 {
        let (id, name) = (format!("t{}", draw(6)), (draw(3) > 0).then(|| format!("n{}", draw(6))));
        let next = thing(&id, name.as_deref(), step);
        let (fails, removes) = (draw(4) == 0, draw(4) == 0);
        if draw(2) == 0 {
            let done = catalog.begin(true, |tx| {
                match tx.get::<Thing>(&id)? {
                    Some(old) if removes => tx.delete::<Thing>(&id, old.version)?,
                    Some(old) => drop(tx.update(&next, old.version)?),
                    None => drop(tx.insert(&next)?),
                }
                if fails { Err(Error::new(Kind::Failed, "undone")) } else { Ok(()) }
            });
            let taken = model.values().any(|t| t.id != id && t.name.is_some() && t.name == name);
            match done {
                Ok(()) if removes && model.contains_key(&id) => drop(model.remove(&id)),
                Ok(()) => drop(model.insert(id.clone(), next)),
                Err(err) => {
                    assert!(fails || (err.kind() == Kind::Exists && taken), "{}", err.line());
                    undone += 1;
                }
            }
        }
        if draw(5) == 0 {
            let all: Vec<_> = catalog.list::<Thing>().unwrap().records.into_iter().map(|r| r.record).collect();
            assert_eq!(all, model.values().cloned().collect::<Vec<_>>());
        }
        let (id, name) = (format!("t{}", draw(6)), format!("n{}", draw(6)));
        assert_eq!(catalog.get::<Thing>(&id).unwrap().map(|f| f.record).as_ref(), model.get(&id), "step {step}");
        let named = model.values().find(|t| t.name.as_deref() == Some(&name));
        assert_eq!(catalog.find::<Thing>(&name).unwrap().map(|f| f.record).as_ref(), named, "step {step}");
        found += usize::from(named.is_some());
    }
    assert!(undone > 50 && found > 200, "{undone} {found}");
}
