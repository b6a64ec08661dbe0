//! Shared by the volume's tests: a volume on a simulated disk, a snapshot sink and a parent in memory.

use super::begin::Begin;
use super::format::WrappedKey;
use super::lifecycle::{NewVolume, Opening, file_size, format};
use super::parent::Parent;
use super::pending::{ChunkSink, Pending};
use super::*;
use crate::cipher::{DataKey, Sealed, SealedMut, Unwrapped, test_key};
use crate::env::{Rng, SystemClock, SystemRng};
use crate::store::sim::SimStore;
use crate::units::{CHUNK, KeyTag, LineageId, RepositoryId, SECTOR, SectorMap, SnapshotId};
use std::collections::BTreeMap;

/// A small repeatable generator (xorshift64*): tests print its seed.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n.max(1)
    }
}

pub(crate) fn env(boot: &str) -> Env {
    Env { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng) as Arc<dyn Rng>, boot_id: boot.into() }
}

pub(crate) fn keys(n: u8) -> Vec<(KeyEpoch, Unwrapped<DataKey>)> {
    (0..n).map(|i| (KeyEpoch(i), test_key(i + 1))).collect()
}

pub(crate) fn new_volume<'a>(id: VolumeId, size: u64, keys: &'a [(KeyEpoch, Unwrapped<DataKey>)]) -> NewVolume<'a> {
    NewVolume {
        id,
        size,
        lineage: LineageId([7; 16]),
        keys: keys.iter().map(|(e, _)| WrappedKey { epoch: *e, blob: vec![1, 2, 3], arn: "arn:test".into() }).collect(),
        unwrapped: keys,
        context: BTreeMap::new(),
        parent: None,
    }
}

/// Makes a formatted disk with one data key and no parent.
pub(crate) fn disk(size: u64) -> SimStore {
    let store = SimStore::new(file_size(size));
    format(&store, &env("boot-1"), new_volume(VolumeId::draw(&SystemRng), size, &keys(1))).unwrap();
    store.sync().unwrap();
    store
}

pub(crate) fn open_on(store: &SimStore, boot: &str, parent: Option<Arc<dyn Parent>>) -> Result<Volume> {
    let volume = Volume::open(
        Arc::new(store.clone()),
        env(boot),
        Opening { writable: true, parent, write_failed: false, spills: Arc::new(store.clone()) },
        "test",
    )?;
    volume.unlock(&keys(volume.key_epochs.len() as u8))?;
    Ok(volume)
}

/// Reads plain bytes of a volume.
pub(crate) fn read(v: &Volume, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xee; len];
    assert_eq!(v.read(at, &mut out, Blocking::Allowed).unwrap(), Attempt::Done);
    out
}

/// Begins a snapshot whose chunks go to `sink`.
pub(crate) fn begin(v: &Volume, sink: &Arc<Chunks>) -> Arc<Pending> {
    let base = v.base();
    v.begin_snapshot(Begin {
        snapshot: SnapshotId::draw(&SystemRng),
        time: 0,
        repository: RepositoryId([1; 16]),
        base,
        sink: sink.clone(),
    })
    .unwrap()
}

/// A gate that a test opens: a scripted latency. Whoever passes waits until it is open.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: parking_lot::Condvar,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    waiting: usize,
}

impl Gate {
    /// How long a test waits before it fails.
    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

    pub(crate) fn closed() -> Self {
        let gate = Self::default();
        gate.close();
        gate
    }
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
    }
    pub(crate) fn open(&self) {
        self.state.lock().is_closed = false;
        self.changed.notify_all();
    }
    pub(crate) fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while state.is_closed {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
    }
    /// Waits until someone waits at the gate.
    pub(crate) fn await_arrival(&self) {
        let mut state = self.state.lock();
        while state.waiting == 0 {
            assert!(!self.changed.wait_for(&mut state, Self::PATIENCE).timed_out(), "nobody came to the gate");
        }
    }
}

/// Chunks in memory: a sink for a snapshot, and afterwards a parent for a volume.
#[derive(Default)]
pub(crate) struct Chunks {
    pub(crate) map: Mutex<BTreeMap<u64, (Vec<u8>, DataKeyId)>>,
    pub(crate) size: u64,
    pub(crate) fetches: AtomicU64,
    pub(crate) broken: AtomicBool,
    /// The base of this snapshot.
    pub(crate) base: Option<Arc<Self>>,
}

impl Chunks {
    /// Merges these changes with the contents of `base`.
    pub(crate) fn over(&self, base: &Self) -> Self {
        let mut all = base.map.lock().clone();
        all.extend(self.map.lock().clone());
        all.retain(|_, (bytes, _)| bytes.iter().any(|b| *b != 0));
        Self { map: Mutex::new(all), size: self.size, ..Self::default() }
    }
}

impl ChunkSink for Chunks {
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::NoSpace, "the repository is full"));
        }
        let twice = self.map.lock().insert(chunk.0, (sealed.bytes().to_vec(), key));
        assert!(
            twice.is_none_or(|t| t.0 == sealed.bytes()),
            "chunk {chunk} was handed over twice with different bytes"
        );
        Ok(())
    }
    fn next_in_base(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.base.as_ref().map_or(Ok(None), |b| b.next_with_sectors(from))
    }
}

impl Parent for Chunks {
    fn size(&self) -> u64 {
        self.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap> {
        let mut found = SectorMap::default();
        if let Some((bytes, _)) = self.map.lock().get(&chunk.0) {
            let full = bytes.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|b| *b != 0));
            full.for_each(|(i, _)| found.set(i));
        }
        Ok(found)
    }
    fn fetch(&self, chunk: ChunkNo, mut out: SealedMut<'_>) -> Result<Option<KeyTag>> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Integrity, "its hash is wrong"));
        }
        self.fetches.fetch_add(1, Ordering::Relaxed);
        assert_eq!(out.len(), CHUNK);
        let map = self.map.lock();
        let Some((bytes, key)) = map.get(&chunk.0) else {
            out.clear();
            return Ok(None);
        };
        out.copy_from(Sealed::made_up(bytes));
        Ok(Some(key.tag()))
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        Ok(self.map.lock().range(from.0..).next().map(|(c, _)| ChunkNo(*c)))
    }
}

/// Returns the plain bytes of a snapshot in memory.
pub(crate) fn open_chunks(chunks: &Chunks, size: usize) -> Vec<u8> {
    use crate::cipher::xts::{At, XtsCipher};
    let cipher = XtsCipher::new(&keys(1)[0].1);
    let mut out = vec![0u8; size.next_multiple_of(CHUNK)];
    for (no, (bytes, _)) in chunks.map.lock().iter() {
        let mut plain = bytes.clone();
        cipher.open_parts(At::new(no * CHUNK as u64).unwrap(), &mut plain);
        out[*no as usize * CHUNK..][..CHUNK].copy_from_slice(&plain);
    }
    out.truncate(size);
    out
}
