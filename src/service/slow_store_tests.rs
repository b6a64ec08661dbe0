//! A repository that takes seconds delays only the volumes that need it.

use super::api::{Reply, SnapshotInfo, SnapshotState, VolumeInfo};
use super::datadir::DataDir;
use super::opening::Need;
use super::operations::DescribeSnapshots;
use super::testing::request;
use super::{GRACE, OpenAs, Role, Service};
use crate::env::Env;
use crate::error::Result;
use crate::kms::{InstallationConfig, RootChoice, RootUnlock};
use crate::snapshot::objects::{Listed, Objects, StoreObjects};
use crate::snapshot::testing::Far;
use crate::store::memory::MemoryStores;
use crate::units::{CHUNK, VolumeId};
use crate::volume::testing::Gate;
use crate::volume::{Attempt, Blocking};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::{Arc, mpsc};

const MIB: u64 = 1 << 20;

/// A repository in which calls on some paths wait at a gate.
struct Gated {
    below: StoreObjects,
    gate: Gate,
    /// The call ("put", "get", …; empty: any) and the parts that such a path has.
    slow: Mutex<Option<(&'static str, Vec<String>)>>,
}

impl Gated {
    fn call<T>(&self, call: &str, path: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let slow = self.slow.lock().clone();
        if slow.is_some_and(|(which, parts)| call.contains(which) && parts.iter().all(|p| path.contains(p.as_str()))) {
            self.gate.pass();
        }
        work()
    }
    fn slow_down(&self, call: &'static str, parts: &[&str]) {
        self.gate.close();
        *self.slow.lock() = Some((call, parts.iter().map(|p| (*p).to_owned()).collect()));
    }
    fn speed_up(&self) {
        *self.slow.lock() = None;
        self.gate.open();
    }
}

impl Objects for Gated {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.call("put", path, || self.below.put_new(path, bytes))
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.call("put", path, || self.below.put_over(path, bytes))
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.call("get", path, || self.below.get(path, limit))
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.call("get", path, || self.below.get_range(path, range))
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        self.call("head", path, || self.below.head(path))
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.call("list", folder, || self.below.list(folder))
    }
    fn irregular(&self, folder: &str) -> Result<Vec<Listed>> {
        self.below.irregular(folder)
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.call("list", folder, || self.below.folders(folder))
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.call("delete", path, || self.below.delete(path))
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        self.call("settle", folder, || self.below.settle(folder, prefix))
    }
}

struct Place {
    service: Arc<Service>,
    objects: Arc<Gated>,
    memory: MemoryStores,
    key: String,
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (env, data) = (Env::system(), DataDir::at(&root.path().join("data")).unwrap());
        let file = root.path().join("root.key");
        Service::init(&data, &env, &RootChoice::File(file), &InstallationConfig::default()).unwrap();
        let below = StoreObjects::local(&data.repository()).unwrap();
        let objects = Arc::new(Gated { below, gate: Gate::default(), slow: Mutex::default() });
        let memory = MemoryStores::default();
        let service = Self::open(&root, &objects, &memory);
        let mut place = Self { service, objects, memory, key: String::new(), root };
        let Reply::Key(key) =
            place.ask(json!({"action": "key-create", "alias": "alias/k", "description": ""})).unwrap()
        else {
            panic!("no key")
        };
        place.key = key.arn;
        place
    }
    fn open(root: &tempfile::TempDir, objects: &Arc<Gated>, memory: &MemoryStores) -> Arc<Service> {
        let (env, data) = (Env::system(), DataDir::at(&root.path().join("data")).unwrap());
        let lock = data.try_lock(&env, "test").unwrap().unwrap();
        let opening = OpenAs { role: Role::Daemon, single_host: false, lease_grace: GRACE };
        let (stores, gated) = (Arc::new(memory.clone()), objects.clone());
        let unlock = RootUnlock::File(root.path().join("root.key"));
        Service::open_on(stores, |_| Ok(gated), data, env, lock, &unlock, opening).unwrap()
    }
    /// Ends the server, and starts another.
    fn again(self) -> Self {
        self.again_while(|_| ())
    }
    /// The same, and does something in between.
    fn again_while(self, act: impl FnOnce(&Gated)) -> Self {
        let Self { service, objects, memory, key, root } = self;
        service.await_taken_up();
        service.shut_down();
        drop(Arc::into_inner(service).expect("nobody else uses it"));
        act(&objects);
        let service = Self::open(&root, &objects, &memory);
        Self { service, objects, memory, key, root }
    }
    /// Returns the byte at an offset.
    fn read(&self, id: VolumeId, at: u64) -> u8 {
        let record = self.service.records.find_volume(&id.to_string()).unwrap();
        let caller = self.service.caller_of(0, "test").unwrap();
        let used = self.service.opens.acquire(&record, Need::Key(&caller)).unwrap();
        let mut byte = [0];
        assert_eq!(used.volume.read(at, &mut byte, Blocking::Allowed).unwrap(), Attempt::Done);
        byte[0]
    }
    fn ask(&self, asked: Value) -> Result<Reply> {
        self.service.handle(&self.service.caller_of(0, "test").unwrap(), request(asked), &mut |_| true)
    }
    fn volume(&self, asked: Value) -> VolumeInfo {
        match self.ask(asked).unwrap() {
            Reply::Volume(info) => info,
            other => panic!("{other:?}"),
        }
    }
    fn create(&self, name: &str) -> VolumeId {
        let asked = json!({"action": "volume-create", "name": name, "size": 8 * MIB, "key": "alias/k"});
        let id = self.volume(asked).id;
        self.write(id, 0, 1);
        id
    }
    fn restore(&self, name: &str, snapshot: &SnapshotInfo) -> VolumeId {
        self.volume(json!({"action": "volume-create", "name": name, "snapshot": snapshot.id.to_string()})).id
    }
    fn snapshot(&self, id: VolumeId) -> SnapshotInfo {
        let asked = json!({"action": "snapshot-create", "volume": id.to_string(), "description": "", "wait": true});
        match self.ask(asked).unwrap() {
            Reply::Snapshot(info) => info,
            other => panic!("{other:?}"),
        }
    }
    fn lineage(&self, id: VolumeId) -> String {
        self.service.records.find_volume(&id.to_string()).unwrap().lineage.to_string()
    }
    fn write(&self, id: VolumeId, at: u64, byte: u8) {
        let record = self.service.records.find_volume(&id.to_string()).unwrap();
        let caller = self.service.caller_of(0, "test").unwrap();
        let used = self.service.opens.acquire(&record, Need::Key(&caller)).unwrap();
        assert_eq!(used.volume.write(at, &mut vec![byte; MIB as usize], Blocking::Allowed).unwrap(), Attempt::Done);
        used.volume.flush().unwrap();
    }
    fn close(&self, id: VolumeId) {
        let record = self.service.records.find_volume(&id.to_string()).unwrap();
        drop(self.service.opens.close_unused(&record).unwrap());
    }
    /// Does `slow`, which waits at the gate, and meanwhile `other`, which must not wait. Both have succeeded on return.
    fn meanwhile(&self, what: &str, slow: impl FnOnce() + Send, other: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(slow);
            self.objects.gate.await_arrival();
            let (ended, on_end) = mpsc::channel();
            let acting = scope.spawn(move || {
                other();
                ended.send(()).unwrap();
            });
            let in_time = on_end.recv_timeout(Gate::PATIENCE).is_ok();
            self.objects.speed_up();
            acting.join().unwrap();
            waiting.join().unwrap();
            assert!(in_time, "{what}: others wait for it");
        });
    }
}

#[test]
fn a_snapshot_that_waits_for_its_repository_delays_no_other_volume() {
    let waits = [
        ("settle", "", "its first contact"),
        ("get", "/log/", "reading the log"),
        ("put", "/packs/", "a pack"),
        ("put", "/pages/", "a page"),
        ("put", "/manifests/", "the manifest"),
        ("put", "/log/", "the log"),
        ("put", "/refs/", "the base"),
    ];
    for (call, part, what) in waits {
        let place = Place::new();
        let (a, b) = (place.create("a"), place.create("b"));
        if what == "reading the log" {
            // Its first record is read back.
            place.objects.slow_down("list", &[&place.lineage(a), "/log"]);
        } else {
            place.objects.slow_down(call, &[&place.lineage(a), part]);
        }
        let other = || {
            let taken = place.snapshot(b);
            place.write(b, MIB, 2);
            place.snapshot(b);
            let c = place.restore("c", &taken);
            place.write(c, 3 * MIB, 3);
            place.close(c);
            let id = b.to_string();
            place.volume(json!({"action": "volume-suspend", "volume": id}));
            place.volume(json!({"action": "volume-resume", "volume": id}));
            place.close(b);
            place.ask(json!({"action": "snapshot-delete", "snapshot": taken.id.to_string()})).unwrap();
            place.ask(json!({"action": "key-disable", "key": place.key})).unwrap();
            place.ask(json!({"action": "key-enable", "key": place.key})).unwrap();
        };
        place.meanwhile(what, || drop(place.snapshot(a)), other);
    }
}

#[test]
fn an_append_to_the_log_of_a_lineage_delays_no_volume_that_is_opened_there() {
    let place = Place::new();
    let a = place.create("a");
    let first = place.snapshot(a);
    place.write(a, MIB, 2);
    place.objects.slow_down("put", &[&place.lineage(a), "/log/"]);
    let other = || {
        let c = place.restore("c", &first);
        place.write(c, 3 * MIB, 3);
        place.close(c);
        place.write(c, 3 * MIB, 4);
    };
    place.meanwhile("an append", || drop(place.snapshot(a)), other);
}

#[test]
fn a_sweep_delays_no_create_and_no_sweep_of_another_lineage() {
    let place = Place::new();
    let (a, b) = (place.create("a"), place.create("b"));
    let (one, two) = (place.snapshot(a), place.snapshot(b));
    place.objects.slow_down("delete", &[&place.lineage(a), "/packs/"]);
    let remove = |taken: &SnapshotInfo| {
        drop(place.ask(json!({"action": "snapshot-delete", "snapshot": taken.id.to_string()})).unwrap());
    };
    let other = || {
        place.write(a, MIB, 2);
        place.write(b, MIB, 2);
        place.snapshot(b);
        remove(&two);
    };
    place.meanwhile("a sweep", || remove(&one), other);
    place.snapshot(a);
}

impl Place {
    /// Adds a repository whose calls on some paths wait at a gate.
    fn add_far(&self) -> Arc<Gated> {
        let folder = self.root.path().join("far");
        let url = format!("file://{}", folder.display());
        self.ask(json!({"action": "repository-add", "name": "far", "location": {"url": url}})).unwrap();
        let below = StoreObjects::local(&folder).unwrap();
        let objects = Arc::new(Gated { below, gate: Gate::default(), slow: Mutex::default() });
        let record = self.service.repositories.records().unwrap().remove(0);
        self.service.repositories.put_in_place(record.id, objects.clone());
        objects
    }
    fn snapshot_into(&self, id: VolumeId, repository: &str) -> SnapshotInfo {
        let asked = json!({"action": "snapshot-create", "volume": id.to_string(), "description": "", "wait": true,
            "repository": repository});
        match self.ask(asked).unwrap() {
            Reply::Snapshot(info) => info,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_added_repository_that_waits_delays_only_what_needs_it() {
    for (call, part) in [("settle", ""), ("list", "/log"), ("put", "/packs/"), ("put", "/log/"), ("get", "/manifests/")]
    {
        let place = Place::new();
        let far = place.add_far();
        let a = place.create("a");
        let local = place.snapshot(a);
        let sibling = place.restore("sibling", &local);
        place.write(a, 2 * MIB, 2);
        far.slow_down(call, &[part]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| place.snapshot_into(a, "far"));
            far.gate.await_arrival();
            let (ended, on_end) = mpsc::channel();
            let (place, local) = (&place, &local);
            let acting = scope.spawn(move || {
                place.write(sibling, MIB, 3);
                let taken = place.snapshot(sibling);
                place.close(sibling);
                assert!(place.service.list_snapshots(&DescribeSnapshots::default()).unwrap().len() >= 2);
                place.service.list_repositories().unwrap();
                place.ask(json!({"action": "snapshot-delete", "snapshot": taken.id.to_string()})).unwrap();
                place.ask(json!({"action": "snapshot-verify", "snapshots": [local.id.to_string()]})).unwrap();
                assert_eq!(place.read(a, 0), 1);
                place.write(a, 3 * MIB, 4);
                ended.send(()).unwrap();
            });
            let in_time = on_end.recv_timeout(Gate::PATIENCE).is_ok();
            far.speed_up();
            acting.join().unwrap();
            assert_eq!(waiting.join().unwrap().state, SnapshotState::Completed, "{call} {part}");
            assert!(in_time, "{call} {part}: others wait for it");
        });
    }
}

#[test]
fn a_snapshot_that_the_end_of_its_server_stops_is_continued_by_the_next_one() {
    let place = Place::new();
    let a = place.create("a");
    let first = place.snapshot(a);
    place.write(a, 2 * MIB, 2);
    let gate = Arc::new(Gate::closed());
    let held = gate.clone();
    place.memory.disk(a).before_read(CHUNK, move || held.pass());
    let asked = json!({"action": "snapshot-create", "volume": a.to_string(), "description": "", "wait": false});
    let Reply::Snapshot(begun) = place.ask(asked).unwrap() else { panic!("no snapshot") };
    gate.await_arrival();
    let (_, job) = place.service.jobs.under_way().remove(0);
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| place.service.shut_down());
        while job.stopped().is_none() {
            std::thread::yield_now();
        }
        gate.open();
        ending.join().unwrap();
    });
    let shown = place.service.show_snapshot(&begun.id.to_string()).unwrap();
    assert_eq!((shown.state, shown.error), (SnapshotState::Pending, None));
    let place = place.again();
    place.write(a, 2 * MIB, 3);
    let asked = json!({"action": "snapshot-wait", "snapshot": begun.id.to_string()});
    let Reply::Snapshot(done) = place.ask(asked).unwrap() else { panic!("no snapshot") };
    assert_eq!((done.state, done.base, done.changed), (SnapshotState::Completed, Some(first.id), MIB));
    let copy = place.restore("copy", &done);
    assert_eq!(place.read(copy, 2 * MIB), 2, "its own point in time");
    let next = place.snapshot(a);
    assert_eq!((next.state, next.base, next.changed), (SnapshotState::Completed, Some(begun.id), MIB));
}

#[test]
fn a_start_waits_for_no_repository() {
    let place = Place::new();
    let (a, b) = (place.create("a"), place.create("b"));
    let taken = place.snapshot(a);
    let _copy = place.restore("copy", &taken);
    let asked = json!({"action": "snapshot-create", "volume": b.to_string(), "description": "", "wait": false});
    let lineage = place.lineage(a);
    let place = place.again_while(|objects| objects.slow_down("", &[&lineage]));
    place.objects.gate.await_arrival();
    place.ask(asked).unwrap();
    place.ask(json!({"action": "key-disable", "key": "alias/k"})).unwrap();
    place.ask(json!({"action": "key-enable", "key": "alias/k"})).unwrap();
    place.ask(json!({"action": "snapshot-list"})).unwrap();
    assert_eq!(place.volume(json!({"action": "volume-show", "volume": b.to_string()})).id, b);
    place.objects.speed_up();
    place.service.await_taken_up();
}

/// A snapshot of 16 chunks in a repository far away, whose reads are counted.
fn far_away(place: &Place) -> (Arc<Far>, SnapshotInfo) {
    let a = place.create("a");
    (0..8).for_each(|n| place.write(a, n * MIB, n as u8 + 1));
    let folder = place.root.path().join("far");
    let asked =
        json!({"action": "repository-add", "name": "far", "location": {"url": format!("file://{}", folder.display())}});
    place.ask(asked).unwrap();
    let far = Far::over(Arc::new(StoreObjects::local(&folder).unwrap()));
    let record = place.service.repositories.records().unwrap().remove(0);
    place.service.repositories.put_in_place(record.id, far.clone());
    let taken = place.snapshot_into(a, "far");
    far.ranges();
    (far, taken)
}

/// Returns the bytes of a far snapshot's packs that were read, and with how many requests.
fn read_of(far: &Far) -> (u64, usize) {
    let ranges = far.ranges();
    (ranges.iter().map(|(_, range)| range.end - range.start).sum(), ranges.len())
}

/// 16 chunks and their heads.
const WHOLE: u64 = 16 * (CHUNK as u64 + 64);

#[test]
fn a_served_snapshot_is_fetched_ahead_of_who_reads_it_in_order_and_of_nobody_else() {
    let place = Place::new();
    let (far, taken) = far_away(&place);
    let caller = place.service.caller_of(0, "test").unwrap();
    let view = place.service.open_view(taken.id, &caller).unwrap();
    let read = |chunk: u64, blocking| {
        let mut piece = [0; 512];
        let attempt = view.read(chunk * CHUNK as u64, &mut piece, blocking).unwrap();
        assert!(attempt == Attempt::WouldBlock || piece == [(chunk / 2) as u8 + 1; 512], "chunk {chunk}");
        attempt
    };
    for chunk in [12, 9, 15] {
        assert_eq!(read(chunk, Blocking::Allowed), Attempt::Done);
    }
    assert_eq!(far.ranges().len(), 3);
    (0..3).for_each(|chunk| assert_eq!(read(chunk, Blocking::Allowed), Attempt::Done));
    far.await_read(5);
    // 3 and 4 are in memory. Reading 3 makes 5 to 7 likely, and so on.
    for chunk in 3..16 {
        while read(chunk, Blocking::Never) == Attempt::WouldBlock {
            std::thread::yield_now();
        }
    }
    assert_eq!(far.ranges().len(), 13, "the rest, each once");
}

#[test]
fn an_export_and_a_fill_read_many_chunks_at_once_and_each_once() {
    let place = Place::new();
    let (far, taken) = far_away(&place);
    let out = place.root.path().join("image");
    far.close();
    std::thread::scope(|scope| {
        let exporting = scope.spawn(|| {
            let caller = place.service.caller_of(0, "test").unwrap();
            let file = std::fs::File::create(&out).unwrap();
            let id = taken.id.to_string();
            place.service.export_snapshot(&caller, &id, (&file, Some(&out)), &mut |_| true).unwrap()
        });
        far.await_reading(16);
        far.open();
        assert_eq!(exporting.join().unwrap().data, 8 * MIB);
    });
    let image = std::fs::read(&out).unwrap();
    assert!(image.chunks(MIB as usize).enumerate().all(|(n, part)| part.iter().all(|b| *b == n as u8 + 1)));
    assert_eq!(read_of(&far), (WHOLE, 16));
    let copy = place.restore("copy", &taken);
    while !place.volume(json!({"action": "volume-show", "volume": "copy"})).hydrated {
        std::thread::yield_now();
    }
    let (bytes, requests) = read_of(&far);
    assert!(bytes == WHOLE && requests <= 4, "{bytes} bytes with {requests} requests");
    assert_eq!((place.read(copy, 0), place.read(copy, 8 * MIB - 1)), (1, 8));
}
