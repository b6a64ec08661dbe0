//! Volumes whose snapshot is far away: filled with many chunks at once, and read ahead of clients that read in order.

use super::ahead::AHEAD;
use super::parent::{Each, Fetch};
use super::testing::*;
use super::volume_tests::restored;
use super::*;
use crate::units::{CHUNK, KeyTag, SectorMap};
use std::collections::BTreeSet;

const CHUNK64: u64 = CHUNK as u64;

/// Fetches in four threads, notes what it is asked to fetch ahead, and fails some chunks.
struct FarAway {
    near: Arc<Chunks>,
    bad: Mutex<BTreeSet<u64>>,
    ahead: Mutex<Vec<u64>>,
    /// Runs in the fetching thread, after a chunk was handed over.
    after: Box<dyn Fn(u64) + Send + Sync>,
}

impl FarAway {
    fn over(near: &Arc<Chunks>) -> Self {
        let (bad, ahead) = Default::default();
        Self { near: near.clone(), bad, ahead, after: Box::new(|_| ()) }
    }

    /// Returns which chunks were expected since the last call.
    fn expected(&self) -> Vec<u64> {
        std::mem::take(&mut self.ahead.lock())
    }
}

impl Parent for FarAway {
    fn size(&self) -> u64 {
        self.near.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap> {
        self.near.sectors(chunk)
    }
    fn fetch(&self, chunk: ChunkNo, out: crate::cipher::SealedMut<'_>) -> Result<Option<KeyTag>> {
        if self.bad.lock().contains(&chunk.0) {
            return Err(Error::new(Kind::Io, format!("chunk {chunk}: told to fail")));
        }
        self.near.fetch(chunk, out)
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.near.next_with_sectors(from)
    }
    fn is_far(&self) -> bool {
        true
    }
    fn fetch_many(&self, chunks: &[ChunkNo], each: &Each<'_>) {
        std::thread::scope(|scope| {
            for part in chunks.chunks(chunks.len().div_ceil(4)) {
                scope.spawn(|| {
                    part.iter().all(|chunk| {
                        let goes_on = each(*chunk, &|out| self.fetch(*chunk, out));
                        (self.after)(chunk.0);
                        goes_on
                    })
                });
            }
        });
    }
    fn fetch_ahead(&self, chunks: &[ChunkNo], each: &Arc<Each<'static>>) {
        for chunk in chunks {
            self.ahead.lock().push(chunk.0);
            let fetch: &Fetch<'_> = &|out| self.fetch(*chunk, out);
            each(*chunk, fetch);
        }
    }
}

/// Makes a snapshot of so many chunks, each of which begins with its number, and a disk to be filled from it.
fn made(chunks: u64) -> (Arc<Chunks>, crate::store::sim::SimStore) {
    let v = open_on(&disk(chunks * CHUNK64), "b", None).unwrap();
    for n in 0..chunks {
        assert_eq!(v.write(n * CHUNK64, &mut [n as u8 + 1; 4096], Blocking::Allowed).unwrap(), Attempt::Done);
    }
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let pending = begin(&v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    let disk = restored(&sink, v.size());
    (sink, disk)
}

fn is_right(v: &Volume, chunk: u64) -> bool {
    read(v, chunk * CHUNK64, 4096) == [chunk as u8 + 1; 4096]
}

fn present(v: &Volume) -> Vec<u64> {
    let chunks = v.size() / CHUNK64;
    (0..chunks).filter(|n| v.map.entry(&*v.store, ChunkNo(*n)).unwrap().present).collect()
}

#[test]
fn what_can_be_fetched_is_filled_and_the_rest_is_named_and_retried() {
    let (near, disk) = made(100);
    let far = Arc::new(FarAway::over(&near));
    *far.bad.lock() = [7, 50, 51].into();
    let v = open_on(&disk, "b", Some(far.clone())).unwrap();
    let first = v.hydrate_some(80).unwrap();
    assert_eq!((first.chunks, first.done, v.missing_chunks()), (77, false, [7, 50, 51].map(ChunkNo).to_vec()));
    assert_eq!(v.hydrate_some(80).unwrap().chunks, 20);
    assert_eq!(near.fetches.load(Ordering::Relaxed), 97, "each once");
    let err = v.hydrate_some(80).unwrap_err();
    assert!(err.line().contains("(7, 50, 51): ") && err.line().contains("told to fail"), "{}", err.line());
    assert!((0..100).filter(|n| ![7, 50, 51].contains(n)).all(|n| is_right(&v, n)));
    far.bad.lock().clear();
    while !v.hydrate_some(80).is_ok_and(|step| step.done) {}
    assert!((0..100).all(|n| is_right(&v, n)));
}

#[test]
fn a_client_that_writes_meanwhile_keeps_its_data() {
    let (near, disk) = made(64);
    let volume: Arc<OnceLock<Arc<Volume>>> = Arc::default();
    let seen = volume.clone();
    // After each chunk was stored, and before it is marked, and the one behind it, before it is fetched.
    let after = move |n: u64| {
        let v = seen.get().unwrap();
        for n in [n, n + 1] {
            let _done = v.write(n % 64 * CHUNK64 + 512, &mut [0xcc; 512], Blocking::Allowed).unwrap();
        }
    };
    let far = Arc::new(FarAway { after: Box::new(after), ..FarAway::over(&near) });
    let v = volume.get_or_init(|| Arc::new(open_on(&disk, "b", Some(far)).unwrap()));
    while !v.hydrate_some(64).unwrap().done {}
    for n in 0..64 {
        let mut expect = vec![n as u8 + 1; 4096];
        expect[512..1024].fill(0xcc);
        assert!(read(v, n * CHUNK64, 4096) == expect, "chunk {n}");
    }
}

#[test]
fn filling_stops_when_it_is_told_to_and_what_is_filled_stays() {
    let (near, disk) = made(100);
    let v = open_on(&disk, "b", Some(Arc::new(FarAway::over(&near)))).unwrap();
    let left = AtomicU64::new(10);
    let go_on = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    let step = v.hydrate_while(100, &go_on).unwrap();
    assert!((10..=14).contains(&step.chunks), "{} of four threads", step.chunks);
    assert_eq!(present(&v).len(), step.chunks);
    while !v.hydrate_some(30).unwrap().done {}
    assert_eq!(near.fetches.load(Ordering::Relaxed), 100, "none twice");
    assert!((0..100).all(|n| is_right(&v, n)));
}

#[test]
fn a_disk_that_fails_stops_the_filling_with_its_error() {
    let (near, disk) = made(200);
    let v = open_on(&disk, "b", Some(Arc::new(FarAway::over(&near)))).unwrap();
    v.hydrate_some(4).unwrap();
    disk.fail_sync();
    assert!(v.hydrate_some(196).is_err());
    assert_eq!(present(&v).len(), 4);
}

#[test]
fn reads_in_order_are_fetched_ahead_and_reads_anywhere_are_not() {
    let (near, disk) = made(100);
    let far = Arc::new(FarAway::over(&near));
    let v = open_on(&disk, "b", Some(far.clone())).unwrap();
    for n in [90, 3, 50, 20, 70, 10, 60, 92] {
        assert!(is_right(&v, n));
    }
    assert_eq!(far.expected(), [0u64; 0]);
    assert_eq!(near.fetches.load(Ordering::Relaxed), 8, "only what was read");
    let mut piece = [0; 4096];
    for n in 20..40 {
        // As the engine does: what is in memory is not waited for.
        let at = n * CHUNK64;
        let attempt = v.read(at, &mut piece, Blocking::Never).unwrap();
        if attempt == Attempt::WouldBlock {
            assert!(n < 23, "chunk {n} is not in memory");
            let _done = v.read(at, &mut piece, Blocking::Allowed).unwrap();
        }
        assert_eq!(piece, [n as u8 + 1; 4096]);
    }
    assert_eq!(far.expected(), (23..40 + AHEAD as u64).collect::<Vec<_>>());
    // Those that nobody waited for are stored first, from memory.
    let before = near.fetches.load(Ordering::Relaxed);
    v.hydrate_some(15).unwrap();
    assert_eq!(near.fetches.load(Ordering::Relaxed), before);
    assert!((25..40).all(|n| present(&v).contains(&n)));
    // What is present needs no fetch, wherever it is read.
    while !v.hydrate_some(64).unwrap().done {}
    (0..100).for_each(|n| assert!(is_right(&v, n)));
    assert_eq!(far.expected(), [0u64; 0]);
}
