//! Appends by many threads: what they share, and what each of them is told.

use super::super::audit::{Body, CheckpointKey, RecordKind, Scan, Start};
use super::super::store::memory::Memory;
use super::*;
use crate::env::Timestamp;
use crate::secret::Secret;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

fn root() -> Secret<32> {
    Secret::build(|b| b.fill(5))
}

fn entry(act: &str) -> Entry {
    Entry::new(RecordKind::Event, Body::at(Timestamp(1), act)).unwrap()
}

struct Place {
    _keep: tempfile::TempDir,
    dir: PathBuf,
    group: Group,
    catalog: Catalog,
}

impl Place {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("audit");
        let catalog = Catalog::over(Arc::new(Memory::default()), &root()).unwrap();
        let log = Log::create(&dir, CheckpointKey::of(&root()), Body::at(Timestamp(1), "test:Init")).unwrap();
        let group = Group::new();
        group.open(Box::new(log), 0);
        Self { _keep: keep, dir, group, catalog }
    }

    /// Has each write and sync call `gate` first.
    fn gate(&self, gate: impl Fn(&str) -> std::io::Result<()> + Send + Sync + 'static) {
        self.group.log().as_mut().unwrap().set_gate(Arc::new(gate));
    }

    /// Has syncs wait until what it returns is set.
    fn hold_syncs(&self) -> Arc<(Mutex<bool>, Condvar)> {
        let open = Arc::new((Mutex::new(false), Condvar::new()));
        let gate = open.clone();
        self.gate(move |step| {
            let mut is_open = gate.0.lock();
            while step == "sync" && !*is_open {
                gate.1.wait(&mut is_open);
            }
            Ok(())
        });
        open
    }

    fn acts(&self) -> Vec<String> {
        read(&self.dir)
    }
}

fn read(dir: &Path) -> Vec<String> {
    super::super::audit::Reader::open(dir, 0).unwrap().map(|r| r.unwrap().body.act).collect()
}

fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

/// Whether a thread writes a batch, and nothing waits for the next one.
fn is_writing(group: &Group) -> bool {
    let queue = group.queue.lock();
    queue.writing && queue.records.is_empty()
}

#[test]
fn records_that_wait_for_a_sync_share_the_next_one_and_the_head() {
    let place = Place::new();
    let gate = place.hold_syncs();
    let group = &place.group;
    std::thread::scope(|scope| {
        let record = |n: usize| group.append_counted(&place.catalog, entry(&format!("test:{n}")), Space::Kept);
        let first = scope.spawn(move || record(0));
        until(|| is_writing(group));
        let others: Vec<_> = (1..16).map(|n| scope.spawn(move || record(n))).collect();
        until(|| group.queued() == 15);
        assert_eq!(group.head().unwrap().count, 1, "nothing is told before it is durable");
        *gate.0.lock() = true;
        gate.1.notify_all();
        let mut found = vec![first.join().unwrap().unwrap()];
        found.extend(others.into_iter().map(|t| t.join().unwrap().unwrap()));
        found.sort_unstable();
        assert_eq!(found, (1..17).collect::<Vec<u64>>());
    });
    assert_eq!(group.batches(), 2, "one for the first, one for the fifteen that came meanwhile");
    let head = place.catalog.get::<AuditHead>("head").unwrap().unwrap().record;
    assert_eq!(head, group.head().unwrap());
    let scan = Scan::run(&place.dir, Some(&head), None, Start::Oldest).unwrap();
    assert_eq!((scan.count, scan.trouble(Some(&head))), (17, None));
}

#[test]
fn a_failed_sync_fails_everyone_in_the_batch_and_everyone_after() {
    let place = Place::new();
    let (syncs, gate) = (Arc::new(AtomicU32::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
    let (count, inner) = (syncs.clone(), gate.clone());
    place.gate(move |step| {
        let mut open = inner.0.lock();
        while step == "sync" && !*open {
            inner.1.wait(&mut open);
        }
        match step == "sync" && count.fetch_add(1, Ordering::SeqCst) == 1 {
            true => Err(std::io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    });
    let group = &place.group;
    std::thread::scope(|scope| {
        let append = |n: u32| group.append(entry(&format!("test:{n}")), Space::Kept);
        let first = scope.spawn(move || append(0));
        until(|| is_writing(group));
        let others: Vec<_> = (1..8).map(|n| scope.spawn(move || append(n))).collect();
        until(|| group.queued() == 7);
        *gate.0.lock() = true;
        gate.1.notify_all();
        assert_eq!(first.join().unwrap().unwrap(), 1);
        for other in others {
            assert_eq!(other.join().unwrap().unwrap_err().kind(), Kind::Io);
        }
    });
    assert_eq!(group.append(entry("test:late"), Space::Reserve).unwrap_err().kind(), Kind::Io);
    assert_eq!((syncs.load(Ordering::SeqCst), group.head().unwrap().count), (2, 2));
}

#[test]
fn an_intent_is_written_with_the_events_that_wait_while_its_transaction_holds_the_catalog() {
    let place = Place::new();
    let gate = place.hold_syncs();
    let group = &place.group;
    std::thread::scope(|scope| {
        let record = |act: &str| group.append_counted(&place.catalog, entry(act), Space::Kept).map(drop);
        let first = scope.spawn(move || record("test:First"));
        until(|| is_writing(group));
        let others: Vec<_> = (0..2).map(|_| scope.spawn(move || record("test:Event"))).collect();
        let intent = scope.spawn(|| {
            place.catalog.begin(true, |tx| {
                let sequence = group.append(entry("test:Intent"), Space::Allocated)?;
                let head = group.head().unwrap();
                assert!(head.count > sequence, "the head that is committed with an act counts its intent");
                tx.put_head(&head)
            })
        });
        until(|| group.queued() == 3);
        *gate.0.lock() = true;
        gate.1.notify_all();
        first.join().unwrap().unwrap();
        intent.join().unwrap().unwrap();
        others.into_iter().for_each(|t| t.join().unwrap().unwrap());
    });
    assert_eq!((group.batches(), place.acts().len()), (2, 5));
}

#[test]
fn on_a_full_disk_a_batch_is_parted_by_what_each_record_may_take() {
    let place = Place::new();
    let full = Arc::new(AtomicU32::new(0));
    let left = full.clone();
    place.gate(move |step| {
        let fails = step == "write" && left.load(Ordering::SeqCst) > 0;
        if fails {
            left.fetch_sub(1, Ordering::SeqCst);
        }
        if fails { Err(std::io::Error::from_raw_os_error(28)) } else { Ok(()) }
    });
    let group = &place.group;
    let batch = |spaces: &[Space]| -> Vec<Waiting> {
        let waiting =
            |space: &Space| Waiting { entry: entry("test:Act"), space: *space, counted: false, seat: Arc::default() };
        spaces.iter().map(waiting).collect()
    };
    let spaces = [Space::Reserve, Space::Kept, Space::Allocated, Space::Reserve];
    let told = |results: Vec<Result<u64>>| -> Vec<Option<u64>> {
        let of = |r: Result<u64>| r.map_err(|e| assert_eq!(e.kind(), Kind::NoSpace, "{}", e.line())).ok();
        results.into_iter().map(of).collect()
    };
    assert_eq!(told(group.write(&batch(&spaces)).results), [Some(1), Some(2), Some(3), Some(4)]);
    full.store(1, Ordering::SeqCst);
    assert_eq!(told(group.write(&batch(&spaces)).results), [Some(5), None, Some(6), Some(7)]);
    full.store(2, Ordering::SeqCst);
    assert_eq!(told(group.write(&batch(&spaces)).results), [Some(8), None, None, Some(9)]);
    // While an urgent act has the reserve, none takes it back, whatever the disk has.
    full.store(0, Ordering::SeqCst);
    let urgent = Urgent::begin(group);
    group.give_up_reserve().unwrap();
    let written = group.write(&batch(&spaces));
    assert_eq!((told(written.results), written.log.unwrap().1), (vec![Some(10), None, Some(11), Some(12)], false));
    assert_eq!(group.keep_reserve().unwrap_err().kind(), Kind::NoSpace);
    drop(urgent);
    group.keep_reserve().unwrap();
    assert_eq!(told(group.write(&batch(&[Space::Kept])).results), [Some(13)]);
    assert_eq!(place.acts().len(), 14);
}
