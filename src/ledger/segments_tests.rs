//! Segments, checkpoints and retention, through the ledger: kills at each step, and what a start and a check find.

use super::audit::{Log, RecordKind};
use super::store::memory::Memory;
use super::*;
use crate::env::Clock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

const DAY: i64 = 24 * 60 * 60 * 1000;

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

/// A clock that a test sets.
struct Set(AtomicI64);

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn since_boot(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn root() -> Secret<32> {
    Secret::build(|b| b.fill(5))
}

fn by() -> Asker {
    let principal = "arn:aws:iam::111122223333:user/alice".to_owned();
    let identity = Identity { principal, via_service: None, client: "test".into(), request: None };
    Asker { identity, administrator: true, denial: None }
}

fn process(store: &Arc<Memory>) -> Catalog {
    Catalog::over(store.clone(), &root()).unwrap()
}

/// A data directory and its store.
struct World {
    dir: tempfile::TempDir,
    store: Arc<Memory>,
    clock: Arc<Set>,
}

impl World {
    fn new() -> (Self, Ledger) {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            store: Arc::new(Memory::default()),
            clock: Arc::new(Set(AtomicI64::new(1000 * DAY))),
        };
        let catalog = (process(&world.store), &root());
        let ledger = Ledger::begin(world.dir.path(), world.env(), catalog, &Act::new("test:Init"), |_| Ok(())).unwrap();
        small(&ledger);
        (world, ledger)
    }

    fn env(&self) -> Env {
        Env { clock: self.clock.clone(), ..Env::system() }
    }

    fn open(&self) -> Ledger {
        let ledger = Ledger::on(self.dir.path(), self.env(), process(&self.store), &root());
        ledger.take_up_audit().unwrap();
        small(&ledger);
        ledger
    }

    /// What a kill at this moment leaves.
    fn killed(&self) -> Self {
        let (store, dir) = (self.store.copy(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join(AUDIT)).unwrap();
        for file in std::fs::read_dir(self.dir.path().join(AUDIT)).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "reserve" {
                std::fs::copy(file.path(), dir.path().join(AUDIT).join(file.file_name())).unwrap();
            }
        }
        Self { dir, store, clock: self.clock.clone() }
    }

    fn later(&self, days: i64) {
        self.clock.0.fetch_add(days * DAY, Ordering::SeqCst);
    }

    fn segments(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path().join(AUDIT)).unwrap();
        let mut names: Vec<String> = names.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| n.ends_with(".log"));
        names.sort();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(AUDIT).join(name)
    }
}

/// Has it begin a segment with every few records.
fn small(ledger: &Ledger) {
    if let Some(log) = ledger.group.log().as_mut() {
        log.set_segment(2000);
    }
}

fn put(ledger: &Ledger, id: &str) -> Result<()> {
    ledger.audited(by(), Act::new("test:Put").detail("object", id), |tx| {
        match tx.get::<Object>(id)? {
            Some(found) => tx.update(&Object { size: found.record.size + 1, ..found.record }, found.version)?,
            None => tx.insert(&Object { id: id.into(), size: 1 })?,
        };
        Ok(())
    })
}

fn remove_object(ledger: &Ledger, id: &str) -> Result<()> {
    ledger.audited(by(), Act::new("test:Remove"), |tx| {
        let found = tx.get::<Object>(id)?.ok_or_else(|| Error::new(Kind::NotFound, "no object"))?;
        tx.delete::<Object>(id, found.version)
    })
}

fn used(ledger: &Ledger, name: &str) -> Result<()> {
    ledger.record(by(), Act::new("test:Use").detail("n", name), Ok(()))
}

/// Opens it and checks everything.
fn is_sound(world: &World, when: &str) -> Ledger {
    let ledger = world.open();
    assert_eq!(ledger.audit_trouble(), None, "{when}");
    ledger.check_rest().unwrap();
    assert_eq!(ledger.audit_trouble(), None, "{when}");
    assert_eq!(ledger.verify_audit().unwrap().trouble, None, "{when}");
    ledger
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn a_kill_at_any_write_or_sync_loses_nothing_that_was_answered_and_is_never_trouble() {
    for seed in 1..=3u64 {
        let (world, ledger) = World::new();
        let world = Arc::new(world);
        let answered = Arc::new(Mutex::new(BTreeSet::new()));
        let kills = Arc::new(Mutex::new(Vec::new()));
        let gate = {
            let (world, answered, kills) = (world.clone(), answered.clone(), kills.clone());
            let draw = Mutex::new(Draw(seed));
            move |_: &str| {
                if draw.lock().below(6) == 0 {
                    let answered: BTreeSet<String> = answered.lock().clone();
                    kills.lock().push((answered, world.killed()));
                }
                Ok(())
            }
        };
        ledger.group.log().as_mut().unwrap().set_gate(Arc::new(gate));
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (ledger, answered) = (&ledger, answered.clone());
                scope.spawn(move || {
                    let mut draw = Draw(seed * 1000 + thread + 1);
                    for n in 0..12 {
                        let (id, name) = (format!("o{}", draw.below(5)), format!("{thread}-{n}"));
                        match draw.below(4) {
                            0 => drop(remove_object(ledger, &id)),
                            1 => put(ledger, &id).unwrap(),
                            _ => {
                                used(ledger, &name).unwrap();
                                answered.lock().insert(name);
                            }
                        }
                    }
                });
            }
        });
        drop(ledger);
        is_sound(&world, "at the end");
        let kills = std::mem::take(&mut *kills.lock());
        assert!(kills.len() > 3, "{}", kills.len());
        for (at, (answered, killed)) in kills.into_iter().enumerate() {
            let when = format!("seed {seed}, kill {at}");
            let ledger = is_sound(&killed, &when);
            let records = ledger.audit_records().unwrap().map(|r| r.unwrap().body);
            let there: BTreeSet<String> = records.filter_map(|b| b.detail.get("n").cloned()).collect();
            assert!(answered.is_subset(&there), "{when}: {:?}", answered.difference(&there));
            put(&ledger, "o1").unwrap();
            drop(ledger);
            is_sound(&killed, &when);
        }
    }
}

/// A world with old segments, an object that only those name, and one that changed since.
fn aged() -> (World, Ledger) {
    let (world, ledger) = World::new();
    put(&ledger, "old").unwrap();
    put(&ledger, "both").unwrap();
    put(&ledger, "gone").unwrap();
    remove_object(&ledger, "gone").unwrap();
    (0..30).for_each(|n| used(&ledger, &format!("old {n}")).unwrap());
    world.later(100);
    put(&ledger, "both").unwrap();
    (0..30).for_each(|n| used(&ledger, &format!("new {n}")).unwrap());
    (world, ledger)
}

#[test]
fn a_row_that_only_old_segments_name_is_compared_after_the_start() {
    let (world, ledger) = aged();
    drop(ledger);
    assert!(world.segments().len() > 4);
    process(&world.store).begin(true, |tx| tx.delete::<Object>("old", 1)).unwrap();
    let ledger = world.open();
    assert_eq!(ledger.audit_trouble(), None, "the newest segment does not name it");
    ledger.check_rest().unwrap();
    assert!(ledger.audit_trouble().unwrap().contains("object old"));
    assert_eq!(used(&ledger, "x").unwrap_err().kind(), Kind::KeyUnavailable);
    ledger.accept_audit(by()).unwrap();
    used(&ledger, "x").unwrap();
    drop(ledger);
    is_sound(&world, "accepted");
}

#[test]
fn a_damaged_or_missing_old_segment_is_reported_and_keys_stay_usable() {
    for missing in [true, false] {
        let (world, ledger) = aged();
        drop(ledger);
        let path = world.path(&world.segments()[1]);
        if missing {
            std::fs::remove_file(&path).unwrap();
        } else {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[100] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let ledger = world.open();
        ledger.check_rest().unwrap();
        assert_eq!(ledger.audit_trouble(), None);
        assert!(ledger.verify_audit().unwrap().trouble.unwrap().contains("audit record"));
        used(&ledger, "x").unwrap();
        // What the old segments told is still compared, by the digest.
        process(&world.store).begin(true, |tx| tx.delete::<Object>("old", 1)).unwrap();
        drop(ledger);
        let ledger = world.open();
        ledger.check_rest().unwrap();
        assert!(ledger.audit_trouble().unwrap().contains("rolled back, removed or added"));
    }
}

#[test]
fn old_segments_are_removed_and_what_they_told_is_still_compared() {
    let (world, ledger) = aged();
    let before = world.segments();
    assert_eq!(ledger.expire_audit(by(), 101).unwrap(), 0);
    assert_eq!(ledger.expire_audit(by(), 0).unwrap_err().kind(), Kind::Usage);
    let removed = ledger.expire_audit(by(), 90).unwrap();
    assert!(removed > 1 && removed < before.len(), "{removed} of {}", before.len());
    assert_eq!(world.segments()[0], before[removed]);
    assert_eq!(ledger.expire_audit(by(), 90).unwrap(), 0, "once");
    let records: Vec<AuditRecord> = ledger.audit_records().unwrap().map(Result::unwrap).collect();
    assert_eq!(records[0].kind, RecordKind::Checkpoint);
    assert!(records.iter().any(|r| r.body.detail.get("n").is_some_and(|n| n == "new 29")));
    drop(ledger);
    drop(is_sound(&world, "expired"));
    for id in ["old", "both"] {
        let tampered = world.killed();
        let version = process(&tampered.store).get::<Object>(id).unwrap().unwrap().version;
        process(&tampered.store).begin(true, |tx| tx.delete::<Object>(id, version)).unwrap();
        let ledger = tampered.open();
        ledger.check_rest().unwrap();
        let trouble = ledger.audit_trouble().unwrap();
        assert!(trouble.contains(&format!("object {id}")), "{trouble}");
    }
    // The oldest segment that is kept cannot go unnoticed, nor can the list of objects be changed.
    let cut = world.killed();
    std::fs::remove_file(cut.path(&cut.segments()[0])).unwrap();
    assert!(cut.open().verify_audit().unwrap().trouble.is_some());
    let listed = world.killed();
    let names = std::fs::read_dir(listed.dir.path().join(AUDIT)).unwrap().map(|f| f.unwrap().path());
    let base: Vec<PathBuf> = names.filter(|p| p.to_str().unwrap().contains("/base-")).collect();
    assert_eq!(base.len(), 1);
    std::fs::write(&base[0], "").unwrap();
    drop(is_sound(&listed, "the digest is enough"));
    let version = process(&listed.store).get::<Object>("old").unwrap().unwrap().version;
    process(&listed.store).begin(true, |tx| tx.delete::<Object>("old", version)).unwrap();
    let ledger = listed.open();
    ledger.check_rest().unwrap();
    assert!(ledger.audit_trouble().unwrap().contains("rolled back, removed or added"));
}

#[test]
fn a_kill_at_any_step_of_a_removal_leaves_a_log_that_holds() {
    let (world, ledger) = aged();
    let before = world.segments();
    drop(ledger);
    // The list is written, and nothing else: the head still counts all segments.
    let first = world.killed();
    std::fs::write(first.path("base-new"), "half").unwrap();
    std::fs::write(first.path("base-0000000000000009"), "never finished").unwrap();
    drop(is_sound(&first, "the list"));
    assert_eq!(first.segments(), before);
    // The head says so, and some of the segments are still there.
    let ledger = world.open();
    let removed = ledger.expire_audit(by(), 90).unwrap();
    drop(ledger);
    for kept in 1..=removed {
        let killed = world.killed();
        for name in &before[removed - kept..removed] {
            std::fs::write(killed.path(name), "no longer read").unwrap();
        }
        let ledger = is_sound(&killed, "some are left");
        assert_eq!(ledger.expire_audit(by(), 90).unwrap(), kept);
        assert_eq!(killed.segments()[0], before[removed]);
        drop(ledger);
        drop(is_sound(&killed, "and removed"));
    }
}

#[test]
fn segments_since_an_unfinished_act_are_kept() {
    let (world, ledger) = World::new();
    (0..20).for_each(|n| used(&ledger, &format!("{n}")).unwrap());
    let body = |intent: Option<u64>| {
        let mut body = Act::new("test:Open").body(Timestamp(1000 * DAY), Some(by().identity));
        body.changes =
            vec![Change { kind: "object".into(), id: "x".into(), version: 1, hash: Some("h".into()), was: None }];
        body.intent = intent;
        body
    };
    let open = ledger.group.append(Entry::new(RecordKind::Intent, body(None)).unwrap(), Space::Kept).unwrap();
    (0..20).for_each(|n| used(&ledger, &format!("{n}")).unwrap());
    world.later(100);
    (0..20).for_each(|n| used(&ledger, &format!("{n}")).unwrap());
    assert!(ledger.expire_audit(by(), 90).unwrap() > 0);
    let first = ledger.audit_records().unwrap().next().unwrap().unwrap().sequence;
    assert!(first <= open && first > 0, "{first} {open}");
    ledger.group.append(Entry::new(RecordKind::Outcome, body(Some(open))).unwrap(), Space::Kept).unwrap();
    assert!(ledger.expire_audit(by(), 90).unwrap() > 0);
    assert!(ledger.audit_records().unwrap().next().unwrap().unwrap().sequence > open);
}

/// Prints how long a start takes, and how many events a second are recorded; over SQLite and a real file system.
#[test]
#[ignore = "a measurement: cargo test --lib -- --ignored --nocapture segments_tests::measure"]
fn measure() {
    use std::time::Instant;
    let home = tempfile::tempdir_in(std::env::var("MEASURE_IN").unwrap_or_else(|_| "/var/tmp".into())).unwrap();
    for records in [1000u64, 100_000, 1_000_000] {
        let dir = home.path().join(records.to_string());
        std::fs::create_dir(&dir).unwrap();
        drop(Ledger::create(&dir, Env::system(), &root(), &Act::new("test:Init"), |_| Ok(())).unwrap());
        let ledger = Ledger::open(&dir, Env::system(), &root()).unwrap();
        ledger.take_up_audit().unwrap();
        if let Some(log) = ledger.group.log().as_mut() {
            let body = || Act::new("kms:Decrypt").key("arn:aws:kms:eu-west-1:111122223333:key/k".into());
            let entry = |_| Entry::new(RecordKind::Event, body().body(Timestamp(1), Some(by().identity))).unwrap();
            for _ in 0..records / 1000 {
                let entries: Vec<Entry> = (0..1000).map(entry).collect();
                Log::append(log, &entries.iter().collect::<Vec<_>>()).unwrap();
            }
        }
        let count = ledger.group.log().as_ref().unwrap().head();
        ledger.catalog.begin(true, |tx| tx.put_head(&count)).unwrap();
        drop(ledger);
        let start = Instant::now();
        let ledger = Ledger::open(&dir, Env::system(), &root()).unwrap();
        ledger.take_up_audit().unwrap();
        let took = start.elapsed();
        let start = Instant::now();
        ledger.events(&Filter::default(), None, 50).unwrap();
        let list = start.elapsed();
        let start = Instant::now();
        ledger.verify_audit().unwrap();
        println!("{records} records: start {took:?}, newest 50 {list:?}, whole {:?}", start.elapsed());
    }
    for threads in [1u64, 16] {
        let dir = home.path().join(format!("threads-{threads}"));
        std::fs::create_dir(&dir).unwrap();
        let ledger = Ledger::create(&dir, Env::system(), &root(), &Act::new("test:Init"), |_| Ok(())).unwrap();
        for with_head in [true, false] {
            let (each, start) = (2000 / threads, Instant::now());
            let before = ledger.group.batches();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for n in 0..each {
                            if with_head {
                                used(&ledger, &n.to_string()).unwrap();
                            } else {
                                let body = ledger.event_of(&by(), &Act::new("test:Use"));
                                let entry = Entry::new(RecordKind::Event, body).unwrap();
                                ledger.group.append(entry, Space::Kept).unwrap();
                            }
                        }
                    });
                }
            });
            let rate = (each * threads) as f64 / start.elapsed().as_secs_f64();
            let batches = ledger.group.batches() - before;
            println!("{threads} threads, head at once {with_head}: {rate:.0} events/s, {batches} batches");
        }
    }
}
