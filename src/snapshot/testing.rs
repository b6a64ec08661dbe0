//! Shared by the tests of this layer: a memory store, stores that fail as scripted, an author, generated chunks.

use super::SeedSigner;
use super::objects::{Listed, Objects, StoreObjects};
use super::repository::{Author, Repository};
use super::writer::SnapshotSpec;
use crate::cipher::{Sealed, SealedMut};
use crate::env::{Clock, Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::units::{CHUNK, ChunkNo, DataKeyId, InstallationId, LineageId, SECTOR, SnapshotId};
use crate::volume::parent::Parent;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub(crate) const KEY: DataKeyId = DataKeyId([7; 16]);
pub(crate) const LINEAGE: LineageId = LineageId([3; 16]);

pub(crate) struct TestClock(pub(crate) AtomicI64);
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::SeqCst))
    }
    fn since_boot(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn env() -> (Env, Arc<TestClock>) {
    let clock = Arc::new(TestClock(AtomicI64::new(1_000_000)));
    (Env { clock: clock.clone(), ..Env::system() }, clock)
}

pub(crate) fn memory() -> Arc<dyn Objects> {
    Arc::new(StoreObjects::over(Arc::new(object_store::memory::InMemory::new())))
}

pub(crate) fn author(n: u8) -> Author {
    let signer = SeedSigner::new(&Secret::build(|out| out.fill(n))).unwrap();
    Author { installation: InstallationId([n; 16]), signer: Arc::new(signer) }
}

pub(crate) fn repository() -> (Repository, Arc<dyn Objects>) {
    let objects = memory();
    Repository::init_in(&*objects, &env().0).unwrap();
    (Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap(), objects)
}

pub(crate) fn snap(n: u64) -> SnapshotId {
    format!("snap-{n:017x}").parse().unwrap()
}

pub(crate) fn spec(n: u64, chunks: u64, base: Option<u64>) -> SnapshotSpec {
    SnapshotSpec {
        id: snap(n),
        lineage: LINEAGE,
        volume: None,
        size: chunks * CHUNK as u64,
        time: Timestamp(n as i64),
        point: n as u32,
        map_generation: 1,
        base: base.map(snap),
        keys: vec![(KEY, vec![1, 2, 3])],
        source: None,
    }
}

/// Makes a chunk with some sectors derived from `seed`; all holes for 0.
pub(crate) fn chunk(seed: u8) -> Vec<u8> {
    let mut out = vec![0; CHUNK];
    if seed != 0 {
        for i in [0usize, 5, 127].into_iter().filter(|i| *i != 5 || seed.is_multiple_of(2)) {
            out[i * SECTOR..(i + 1) * SECTOR].fill(seed);
        }
    }
    out
}

/// Chunks of a snapshot, each by the seed of [`chunk`].
pub(crate) type Content = BTreeMap<u64, u8>;

/// Makes a snapshot.
pub(crate) fn make(repo: &Repository, spec: SnapshotSpec, content: &Content) {
    let writer = repo.begin(spec).unwrap();
    for (n, seed) in content {
        writer.put_chunk(ChunkNo(*n), Sealed::made_up(&chunk(*seed)), KEY).unwrap();
    }
    writer.finish().unwrap();
}

/// Checks that a snapshot has this content, and nothing else.
pub(crate) fn holds(repo: &Repository, id: u64, content: &Content) {
    let reader = repo.open_snapshot(LINEAGE, snap(id)).unwrap();
    let mut out = vec![1; CHUNK];
    for (n, seed) in content {
        reader.fetch(ChunkNo(*n), SealedMut::over(&mut out)).unwrap_or_else(|e| panic!("{id} chunk {n}: {e:?}"));
        assert_eq!(out, chunk(*seed), "{id} chunk {n}");
    }
    let mut found = 0;
    let mut count = |_| {
        found += 1;
        Ok(())
    };
    reader.for_each_chunk(&mut count).unwrap();
    assert_eq!(found, content.values().filter(|s| **s != 0).count());
}

/// Returns the number of objects of a sort.
pub(crate) fn count(objects: &dyn Objects, sort: &str) -> usize {
    objects.list("").unwrap().iter().filter(|o| o.path.contains(&format!("/{sort}/"))).count()
}

/// A store whose puts fail from the nth on (0: the first), before or after they take effect, until it is repaired.
pub(crate) struct Faulty {
    pub(crate) below: Arc<dyn Objects>,
    pub(crate) puts: AtomicU64,
    pub(crate) fail_from: AtomicU64,
    pub(crate) after_effect: bool,
}

impl Faulty {
    pub(crate) fn new(below: Arc<dyn Objects>, fail_from: u64, after_effect: bool) -> Arc<Self> {
        Arc::new(Self { below, puts: AtomicU64::new(0), fail_from: AtomicU64::new(fail_from), after_effect })
    }
    fn put(&self, path: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let nth = self.puts.fetch_add(1, Ordering::SeqCst);
        let from = self.fail_from.load(Ordering::SeqCst);
        if nth < from {
            return work();
        }
        if nth == from && self.after_effect {
            work()?;
        }
        Err(Error::new(Kind::Io, format!("put {path}: told to fail")))
    }
}

impl Objects for Faulty {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put(path, || self.below.put_new(path, bytes))
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put(path, || self.below.put_over(path, bytes))
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.below.get(path, limit)
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.below.get_range(path, range)
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        self.below.head(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.below.list(folder)
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.below.folders(folder)
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.below.delete(path)
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        self.below.settle(folder, prefix)
    }
}

/// A store that calls a hook before each operation, on the same thread: a script of what happens in between. Not while
/// the caller holds a lock of the repository: before deletes, and before operations on a log.
pub(crate) struct Hooked(pub(crate) Arc<dyn Objects>);

type Hook = std::rc::Rc<dyn Fn(&str, &str)>;

thread_local! {
    static HOOK: std::cell::RefCell<Option<Hook>> = const { std::cell::RefCell::new(None) };
    static READS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Hooked {
    /// Sets the hook of this thread.
    pub(crate) fn call(hook: impl Fn(&str, &str) + 'static) {
        HOOK.set(Some(std::rc::Rc::new(hook)));
    }
    pub(crate) fn call_none() {
        HOOK.set(None);
    }
    /// Returns the number of objects that this thread has read since the last call.
    pub(crate) fn reads() -> u64 {
        READS.replace(0)
    }
    fn before(&self, op: &str, path: &str) {
        if op == "get" {
            READS.set(READS.get() + 1);
        }
        if path.contains("/log") {
            return;
        }
        if let Some(hook) = HOOK.with_borrow(Clone::clone) {
            hook(op, path);
        }
    }
}

impl Objects for Hooked {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.before("put", path);
        self.0.put_new(path, bytes)
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.before("put", path);
        self.0.put_over(path, bytes)
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.before("get", path);
        self.0.get(path, limit)
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.before("get", path);
        self.0.get_range(path, range)
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        self.before("head", path);
        self.0.head(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.before("list", folder);
        self.0.list(folder)
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.before("folders", folder);
        self.0.folders(folder)
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.0.delete(path)
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        self.0.settle(folder, prefix)
    }
}

/// A call to an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Put,
    Get,
    Head,
    List,
    Delete,
    Settle,
}

impl Call {
    pub(crate) const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Settle];
}

/// A fault, which happens once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// How many such calls succeed first.
    pub(crate) after: u64,
    pub(crate) kind: Kind,
    /// The call takes effect, and only its result is lost.
    pub(crate) took_effect: bool,
}

/// A remote store: each call takes time on the test's clock, and one fails as scripted.
pub(crate) struct Remote {
    below: Arc<dyn Objects>,
    clock: Arc<TestClock>,
    latency: i64,
    fault: parking_lot::Mutex<Option<Fault>>,
    is_remote: bool,
}

impl Remote {
    pub(crate) fn over(below: Arc<dyn Objects>, clock: Arc<TestClock>, latency: i64) -> Arc<Self> {
        Arc::new(Self { below, clock, latency, fault: parking_lot::Mutex::default(), is_remote: true })
    }

    /// The same, read as a folder is: one call after the other, and nothing is read again after a fault.
    pub(crate) fn read_once(below: Arc<dyn Objects>, clock: Arc<TestClock>, latency: i64) -> Arc<Self> {
        Arc::new(Self { below, clock, latency, fault: parking_lot::Mutex::default(), is_remote: false })
    }

    /// Sets the fault.
    pub(crate) fn fail(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
    }

    /// Removes the fault. Returns whether it was hit.
    pub(crate) fn mend(&self) -> bool {
        self.fault.lock().take().is_none()
    }

    fn call<T>(&self, call: Call, path: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.clock.0.fetch_add(self.latency, Ordering::SeqCst);
        let mut fault = self.fault.lock();
        let Some(told) = fault.as_mut().filter(|f| f.call == call) else {
            drop(fault);
            return work();
        };
        if told.after > 0 {
            told.after -= 1;
            drop(fault);
            return work();
        }
        let Fault { kind, took_effect, .. } = *told;
        *fault = None;
        drop(fault);
        if took_effect {
            work()?;
        }
        Err(Error::new(kind, format!("{call:?} {path}: told to fail")))
    }
}

impl Objects for Remote {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.call(Call::Put, path, || self.below.put_new(path, bytes))
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.call(Call::Put, path, || self.below.put_over(path, bytes))
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.call(Call::Get, path, || self.below.get(path, limit))
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.call(Call::Get, path, || self.below.get_range(path, range))
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        self.call(Call::Head, path, || self.below.head(path))
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.call(Call::List, folder, || self.below.list(folder))
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.call(Call::List, folder, || self.below.folders(folder))
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.call(Call::Delete, path, || self.below.delete(path))
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        self.call(Call::Settle, folder, || self.below.settle(folder, prefix))
    }
    fn is_remote(&self) -> bool {
        self.is_remote
    }
}

/// A remote store that counts its reads of ranges, holds them at a gate, and fails those that touch some bytes.
pub(crate) struct Far {
    below: Arc<dyn Objects>,
    state: parking_lot::Mutex<FarState>,
    changed: parking_lot::Condvar,
}

#[derive(Default)]
struct FarState {
    is_closed: bool,
    reading: usize,
    most: usize,
    ranges: Vec<(String, Range<u64>)>,
    gets: u64,
    fault: Option<(Range<u64>, Kind)>,
}

impl Far {
    pub(crate) fn over(below: Arc<dyn Objects>) -> Arc<Self> {
        Arc::new(Self { below, state: parking_lot::Mutex::default(), changed: parking_lot::Condvar::new() })
    }
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
    }
    pub(crate) fn open(&self) {
        self.state.lock().is_closed = false;
        self.changed.notify_all();
    }
    /// Waits until so many ranges are being read.
    pub(crate) fn await_reading(&self, count: usize) {
        let mut state = self.state.lock();
        while state.reading != count {
            let patience = crate::volume::testing::Gate::PATIENCE;
            let waited = self.changed.wait_for(&mut state, patience);
            assert!(!waited.timed_out(), "{} are being read, not {count}", state.reading);
        }
    }
    /// Waits until so many ranges have been read since the last [`Far::ranges`], and none is being read.
    pub(crate) fn await_read(&self, count: usize) {
        let mut state = self.state.lock();
        while state.ranges.len() < count || state.reading > 0 {
            let patience = crate::volume::testing::Gate::PATIENCE;
            let waited = self.changed.wait_for(&mut state, patience);
            assert!(!waited.timed_out(), "{} were read, not {count}", state.ranges.len());
        }
    }
    /// Returns the most that were read at the same time.
    pub(crate) fn most(&self) -> usize {
        self.state.lock().most
    }
    /// Returns the ranges that were read since the last call.
    pub(crate) fn ranges(&self) -> Vec<(String, Range<u64>)> {
        std::mem::take(&mut self.state.lock().ranges)
    }
    /// Returns how many whole objects were read since the last call.
    pub(crate) fn gets(&self) -> u64 {
        std::mem::take(&mut self.state.lock().gets)
    }
    /// Fails each read that has any of these bytes.
    pub(crate) fn fail(&self, bytes: Range<u64>, kind: Kind) {
        self.state.lock().fault = Some((bytes, kind));
    }
    pub(crate) fn mend(&self) {
        self.state.lock().fault = None;
    }
}

impl Objects for Far {
    fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.below.put_new(path, bytes)
    }
    fn put_over(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.below.put_over(path, bytes)
    }
    fn get(&self, path: &str, limit: usize) -> Result<Bytes> {
        self.state.lock().gets += 1;
        self.below.get(path, limit)
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let mut state = self.state.lock();
        state.ranges.push((path.to_owned(), range.clone()));
        state.reading += 1;
        state.most = state.most.max(state.reading);
        self.changed.notify_all();
        while state.is_closed {
            self.changed.wait(&mut state);
        }
        let fault = state.fault.clone().filter(|(bad, _)| bad.start < range.end && range.start < bad.end);
        drop(state);
        let read = match fault {
            Some((_, kind)) => Err(Error::new(kind, format!("get {path}: told to fail"))),
            None => self.below.get_range(path, range),
        };
        self.state.lock().reading -= 1;
        self.changed.notify_all();
        read
    }
    fn head(&self, path: &str) -> Result<Option<u64>> {
        self.below.head(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.below.list(folder)
    }
    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.below.folders(folder)
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.below.delete(path)
    }
    fn settle(&self, folder: &str, prefix: &str) -> Result<()> {
        self.below.settle(folder, prefix)
    }
    fn is_remote(&self) -> bool {
        true
    }
}
