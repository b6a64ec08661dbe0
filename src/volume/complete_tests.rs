//! Snapshots have all that the volume had at their point in time: of a volume that is being filled, after a rollback,
//! and when puts fail or take long.

use super::begin::Begin;
use super::format::Untrusted;
use super::pending::{ChunkSink, Pending};
use super::testing::*;
use super::volume_tests::restored;
use super::*;
use crate::cipher::Sealed;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::units::{CHUNK, RepositoryId, SnapshotId};

const MIB: u64 = 1 << 20;
const CHUNK64: u64 = CHUNK as u64;

fn write(v: &Volume, at: u64, data: &[u8]) {
    assert_eq!(v.write(at, &mut data.to_vec(), Blocking::Allowed).unwrap(), Attempt::Done);
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(13).wrapping_add(seed) | 1).collect()
}

fn all_of(v: &Volume) -> Vec<u8> {
    read(v, 0, v.size() as usize)
}

/// Begins a snapshot without a base.
fn begin_full(v: &Volume, sink: &Arc<impl ChunkSink + 'static>) -> Arc<Pending> {
    let (snapshot, repository) = (SnapshotId::draw(&SystemRng), RepositoryId([9; 16]));
    v.begin_snapshot(Begin { snapshot, time: 0, repository, base: None, sink: sink.clone() }).unwrap()
}

fn sink_of(v: &Volume) -> Arc<Chunks> {
    Arc::new(Chunks { size: v.size(), ..Chunks::default() })
}

/// Takes a snapshot without a base.
fn full(v: &Volume) -> Arc<Chunks> {
    let sink = sink_of(v);
    v.copy_pending(&begin_full(v, &sink), |_| true).unwrap();
    sink
}

/// A snapshot of 8 MiB, of which the chunks 8 to 11 are holes.
fn source() -> Arc<Chunks> {
    let v = open_on(&disk(8 * MIB), "b", None).unwrap();
    write(&v, 0, &pattern(4 << 20, 4));
    write(&v, 6 * MIB, &pattern(2 << 20, 5));
    full(&v)
}

#[test]
fn a_full_snapshot_of_a_volume_that_is_being_filled_is_whole() {
    for boot in ["b", "another-boot"] {
        let snap = source();
        let store = restored(&snap, 9 * MIB);
        let w = open_on(&store, "b", Some(snap.clone())).unwrap();
        w.hydrate_some(4).unwrap();
        write(&w, CHUNK64 + 700, &[9; 5000]); // filled
        write(&w, 3 * MIB + 5, &[8; 10]); // absent
        drop(w);
        let w = open_on(&store, boot, Some(snap)).unwrap();
        let expect = all_of(&w);
        assert!(open_chunks(&full(&w), 9 << 20) == expect, "{boot}");
        assert!(!w.is_hydrated() && all_of(&w) == expect);
    }
}

#[test]
fn a_full_snapshot_of_a_filling_volume_is_whole_whatever_is_changed_meanwhile() {
    for scratch in [true, false] {
        let snap = source();
        let store = restored(&snap, 9 * MIB);
        let w = open_on(&store, "b", Some(snap)).unwrap();
        w.hydrate_some(2).unwrap();
        let expect = all_of(&w);
        if !scratch {
            store.without_spill();
        }
        let sink = sink_of(&w);
        let pending = begin_full(&w, &sink);
        w.trim(5 * CHUNK64, CHUNK64).unwrap(); // may be ignored
        w.write_zeroes(6 * CHUNK64, CHUNK64, false).unwrap(); // may not
        write(&w, 7 * CHUNK64, &pattern(CHUNK, 77));
        write(&w, 4 * MIB, &pattern(MIB as usize, 78)); // a hole of the parent
        let mut step = 0;
        let copied = w.copy_pending(&pending, |_| {
            step += 1;
            match step {
                1 => drop(w.hydrate_some(4).unwrap()),
                2 => w.write_zeroes(6 * MIB, MIB, false).unwrap(),
                3 => write(&w, 7 * MIB + 100, &[1; 4000]),
                _ => {}
            }
            true
        });
        copied.unwrap();
        assert!(open_chunks(&sink, 9 << 20) == expect, "scratch: {scratch}");
        let mut model = expect;
        model[6 * CHUNK..7 * CHUNK].fill(0);
        assert!(all_of(&w)[6 * CHUNK..7 * CHUNK] == model[6 * CHUNK..7 * CHUNK]);
        assert_eq!(read(&w, 6 * MIB, MIB as usize), vec![0; MIB as usize]);
        assert!(pending.saved_chunks().is_empty());
    }
}

/// A disk of 4 MiB whose map generation was raised, as a rollback does: what was written before is no longer there.
fn rolled_back(parent: Option<&Arc<Chunks>>) -> SimStore {
    let store = parent.map_or_else(|| disk(4 * MIB), |p| restored(p, 4 * MIB));
    let w = open_on(&store, "b", parent.map(|p| p.clone() as Arc<dyn Parent>)).unwrap();
    write(&w, 0, &pattern(4 << 20, 9));
    w.flush().unwrap();
    let next = w.header.lock().next_identity(&keys(1)[0].1, |id| id.map_generation += 1).unwrap();
    w.header.lock().write_identity(next).unwrap();
    store
}

#[test]
fn after_a_rollback_a_comparing_snapshot_has_none_of_the_old_bytes() {
    let small = open_on(&disk(4 * MIB), "b", None).unwrap();
    write(&small, 0, &pattern(CHUNK, 3));
    let one = full(&small);
    for parent in [None, Some(&one)] {
        for boot in ["b", "another-boot"] {
            let store = rolled_back(parent);
            let w = open_on(&store, boot, parent.map(|p| p.clone() as Arc<dyn Parent>)).unwrap();
            write(&w, MIB + 5, &[7; 3]);
            let expect = all_of(&w);
            let named = format!("parent: {}, {boot}", parent.is_some());
            assert_eq!(expect[2 << 20..], vec![0; 2 << 20], "{named}");

            let compared = Arc::new(Chunks { size: w.size(), base: parent.cloned(), ..Chunks::default() });
            let whole = sink_of(&w);
            let pending = [begin(&w, &compared), begin_full(&w, &whole)];
            write(&w, 2 * MIB + 9, &[6; 9]);
            w.write_zeroes(3 * MIB, 4096, false).unwrap();
            pending.iter().for_each(|p| assert!(w.copy_pending(p, |_| true).unwrap() > 0));
            let compared = parent.map_or_else(|| compared.clone(), |p| Arc::new(compared.over(p)));
            assert!(open_chunks(&compared, 4 << 20) == expect, "{named}");
            assert!(open_chunks(&whole, 4 << 20) == expect, "{named}: full");
        }
    }
}

/// A lost map mark makes a chunk read as zeros that the base has: the snapshot has what is read.
#[test]
fn after_a_rollback_a_chunk_whose_mark_was_lost_is_zeros_in_the_next_snapshot() {
    let store = rolled_back(None);
    let w = open_on(&store, "b", None).unwrap();
    *w.untrusted.lock() = Untrusted::All;
    let had = Arc::new(Chunks { size: w.size(), ..Chunks::default() });
    had.map.lock().insert(5, (pattern(CHUNK, 3), w.key_epochs[0].1));
    for touched in [false, true] {
        let sink = Arc::new(Chunks { size: w.size(), base: Some(had.clone()), ..Chunks::default() });
        let pending = begin_full(&w, &sink);
        if touched {
            write(&w, 5 * CHUNK64 + 4096, &[1; 10]);
        }
        w.copy_pending(&pending, |_| true).unwrap();
        assert!(sink.over(&had).map.lock().is_empty(), "touched: {touched}");
    }
}

/// A sink that can be made to fail, and whose puts wait at a gate.
struct Slow {
    chunks: Arc<Chunks>,
    gate: Gate,
}

impl ChunkSink for Slow {
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        self.gate.pass();
        self.chunks.put(chunk, sealed, key)
    }
    fn next_in_base(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.chunks.next_in_base(from)
    }
}

fn slow(v: &Volume) -> Arc<Slow> {
    Arc::new(Slow { chunks: sink_of(v), gate: Gate::closed() })
}

#[test]
fn a_put_that_failed_is_repeated_with_the_sectors_of_the_point_in_time() {
    let v = open_on(&disk(4 * MIB), "b", None).unwrap();
    let expect = pattern(4 << 20, 2);
    write(&v, 0, &expect);
    let sink = slow(&v);
    let pending = begin_full(&v, &sink);
    write(&v, 100, &[0xee; 5000]);
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| v.copy_pending(&pending, |_| true));
        sink.gate.await_arrival();
        // Read, but not stored yet.
        write(&v, 300_000, &[0xdd; 9000]);
        sink.chunks.broken.store(true, Ordering::Relaxed);
        sink.gate.open();
        assert_eq!(copying.join().unwrap().unwrap_err().kind(), Kind::NoSpace);
    });
    write(&v, 50_000, &[0xcc; 9000]);
    sink.chunks.broken.store(false, Ordering::Relaxed);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    assert!(open_chunks(&sink.chunks, 4 << 20) == expect);
    assert!(pending.saved_chunks().is_empty());
}

#[test]
fn no_put_holds_the_stripe_of_its_chunk() {
    let store = disk(300 * MIB);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &pattern(CHUNK, 2));
    store.without_spill();
    for by_writer in [false, true] {
        let sink = slow(&v);
        let pending = begin_full(&v, &sink);
        let expect = read(&v, 0, CHUNK);
        std::thread::scope(|scope| {
            let put = scope.spawn(|| {
                if by_writer {
                    write(&v, 0, &[3; 10]);
                } else {
                    v.copy_pending(&pending, |_| true).unwrap();
                }
            });
            sink.gate.await_arrival();
            let is_locked = v.stripe(ChunkNo(0)).lock.is_locked();
            if !is_locked {
                // The same stripe, and a chunk that the snapshot does not have.
                write(&v, (if by_writer { 512 } else { 256 }) * CHUNK64, &[1; 512]);
            }
            sink.gate.open();
            put.join().unwrap();
            assert!(!is_locked, "by a writer: {by_writer}");
        });
        v.copy_pending(&pending, |_| true).unwrap();
        v.complete_snapshot(pending.record()).unwrap();
        assert!(open_chunks(&sink.chunks, 257 * CHUNK)[..CHUNK] == expect, "by a writer: {by_writer}");
    }
}

/// A parent whose fetches wait at a gate.
struct SlowParent(Arc<Chunks>, Gate);

impl Parent for SlowParent {
    fn size(&self) -> u64 {
        self.0.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<crate::units::SectorMap> {
        self.0.sectors(chunk)
    }
    fn fetch(&self, chunk: ChunkNo, out: crate::cipher::SealedMut<'_>) -> Result<Option<crate::units::KeyTag>> {
        self.1.pass();
        self.0.fetch(chunk, out)
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.0.next_with_sectors(from)
    }
}

#[test]
fn a_fetch_for_a_write_leaves_the_stripe_of_its_chunk_free() {
    let parent = Arc::new(SlowParent(source(), Gate::closed()));
    let v = open_on(&restored(&parent.0, 200 * MIB), "b", Some(parent.clone())).unwrap();
    let before = parent.0.clone();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&v, 700, &[9; 5000]));
        parent.1.await_arrival();
        let is_locked = v.stripe(ChunkNo(0)).lock.is_locked();
        if !is_locked {
            write(&v, 256 * CHUNK64, &[1; 512]);
            v.write_zeroes(0, CHUNK64, false).unwrap(); // the same chunk, wholly: needs no fetch
        }
        parent.1.open();
        writing.join().unwrap();
        assert!(!is_locked);
    });
    let mut model = vec![0; CHUNK];
    model[700..5700].fill(9);
    assert!(read(&v, 0, CHUNK) == model, "what was fetched before the zeroes is not stored after them");
    assert!(read(&v, CHUNK64, CHUNK) == open_chunks(&before, 8 << 20)[CHUNK..2 * CHUNK]);
}
