//! The audited transaction over a store that is not SQLite.

use super::store::memory::Memory;
use super::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Object {
    id: String,
    size: u64,
}

impl Record for Object {
    const KIND: &'static str = "object";
    fn id(&self) -> String {
        self.id.clone()
    }
}

/// A kind that the audit does not cover.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note(String);

impl Record for Note {
    const KIND: &'static str = "thing";
    fn id(&self) -> String {
        self.0.clone()
    }
}

fn object(id: &str, size: u64) -> Object {
    Object { id: id.into(), size }
}

fn by() -> Asker {
    let principal = "arn:aws:iam::111122223333:user/alice".to_owned();
    Asker {
        identity: Identity { principal, via_service: None, client: "test".into(), request: None },
        administrator: true,
        denial: None,
    }
}

fn root() -> Secret<32> {
    Secret::build(|b| b.fill(5))
}

fn process(store: &Arc<Memory>) -> Catalog {
    Catalog::over(store.clone(), &root()).unwrap()
}

fn fresh() -> (tempfile::TempDir, Arc<Memory>, Ledger) {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let ledger =
        Ledger::begin(dir.path(), Env::system(), (process(&store), &root()), &Act::new("test:Init"), |_| Ok(()))
            .unwrap();
    (dir, store, ledger)
}

fn reopen(dir: &tempfile::TempDir, store: &Arc<Memory>) -> Ledger {
    let ledger = Ledger::on(dir.path(), Env::system(), process(store), &root());
    ledger.take_up_audit().unwrap();
    ledger
}

/// Returns the act and result of each record; for an outcome, its result.
fn told(ledger: &Ledger) -> Vec<(String, String)> {
    ledger.audit_records().unwrap().map(|r| r.unwrap().body).map(|b| (b.act, b.result)).collect()
}

fn pair(act: &str, result: &str) -> (String, String) {
    (act.into(), result.into())
}

#[test]
fn a_change_and_its_record_are_both_there_or_neither() {
    let (dir, store, ledger) = fresh();
    ledger.audited(by(), Act::new("test:Make"), |tx| tx.insert(&object("a", 1))).unwrap();
    let refused = ledger.audited(by(), Act::new("test:Refuse"), |tx| {
        tx.insert(&object("b", 1))?;
        Err::<(), _>(Error::new(Kind::AccessDenied, "no"))
    });
    assert_eq!(refused.unwrap_err().kind(), Kind::AccessDenied);
    let wanted = [pair("test:Init", ""), pair("test:Make", ""), pair("", "ok"), pair("test:Refuse", "refused")];
    assert_eq!(told(&ledger), wanted);
    drop(ledger);
    let ledger = reopen(&dir, &store);
    assert_eq!((ledger.audit_trouble(), ledger.verify_audit().unwrap().trouble), (None, None));
    assert_eq!(ledger.catalog().get::<Object>("a").unwrap().unwrap().record, object("a", 1));
    assert!(ledger.catalog().get::<Object>("b").unwrap().is_none());
    // A change that is not in the log is noticed over any store.
    process(&store).begin(true, |tx| tx.delete::<Object>("a", 1)).unwrap();
    assert!(ledger.verify_audit().unwrap().trouble.unwrap().contains("object a"));
}

#[test]
fn a_commit_that_another_process_came_before_is_recorded_as_failed() {
    let (dir, store, ledger) = fresh();
    let other = process(&store);
    let make = |meanwhile: &dyn Fn() -> Result<()>| {
        ledger.audited(by(), Act::new("test:Make"), |tx| {
            tx.insert(&object("a", 1))?;
            meanwhile()
        })
    };
    let late = make(&|| other.transaction(|tx| tx.insert(&Note("n".into()))).map(drop));
    assert_eq!(late.unwrap_err().kind(), Kind::Busy);
    assert_eq!(told(&ledger).last().unwrap(), &pair("", "failed"));
    assert!(ledger.catalog().get::<Object>("a").unwrap().is_none());
    make(&|| Ok(())).unwrap();
    assert_eq!(told(&ledger).last().unwrap(), &pair("", "ok"));
    drop(ledger);
    let ledger = reopen(&dir, &store);
    assert_eq!((ledger.audit_trouble(), ledger.verify_audit().unwrap().trouble), (None, None));
    assert_eq!(ledger.catalog().get::<Object>("a").unwrap().unwrap().version, 1);
}
