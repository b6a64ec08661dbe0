use super::super::Volume;
use super::super::blocking::{Attempt, Blocking};
use super::super::io::ASIDE_INLINE;
use super::super::pending::Pending;
use super::super::testing::{self, Chunks, Seeded, disk, open_chunks, open_on};
use super::*;
use crate::store::ScratchSpace;
use crate::units::CHUNK;
use std::sync::atomic::{AtomicBool, Ordering};

/// Not a multiple of a chunk, nor of a sector.
const SIZE: usize = 5 * CHUNK + 7 * SECTOR + 512;

fn filled() -> (Volume, Vec<u8>) {
    let v = open_on(&disk(SIZE as u64), "b", None).unwrap();
    let all: Vec<u8> = (0..SIZE).map(|i| (i * 7 + i / 4096) as u8 | 1).collect();
    write(&v, 0, &all);
    (v, all)
}

fn write(v: &Volume, at: usize, data: &[u8]) {
    assert_eq!(v.write(at as u64, &mut data.to_vec(), Blocking::Allowed).unwrap(), Attempt::Done);
}

fn begin(v: &Volume) -> (Arc<Pending>, Arc<Chunks>) {
    let sink = Arc::new(Chunks { size: SIZE as u64, ..Chunks::default() });
    (testing::begin(v, &sink), sink)
}

/// Writes in a random way to a random place.
fn scribble(v: &Volume, model: &mut [u8], rng: &mut Seeded) {
    let longest = [512, SECTOR as u64, 3 * SECTOR as u64, 300_000][rng.below(4) as usize];
    let at = rng.below(SIZE as u64) as usize;
    let len = (1 + rng.below(longest) as usize).min(SIZE - at);
    let fill = rng.below(256) as u8;
    if rng.below(10) == 0 {
        v.write_zeroes(at as u64, len as u64, false).unwrap();
        model[at..at + len].fill(0);
    } else {
        write(v, at, &vec![fill; len]);
        model[at..at + len].fill(fill);
    }
}

fn now(v: &Volume) -> Vec<u8> {
    testing::read(v, 0, SIZE)
}

#[test]
fn a_small_write_sets_its_sectors_aside_and_copies_no_chunk() {
    let (v, all) = filled();
    let (pending, sink) = begin(&v);
    write(&v, CHUNK + 5000, &[0; 100]);
    write(&v, CHUNK + 5100, &[0; 9000]);
    write(&v, SIZE - 3, &[0; 3]);
    assert!(sink.map.lock().is_empty());
    assert!(
        pending.preserved.holds(ChunkNo(1))
            && pending.preserved.holds(ChunkNo(5))
            && !pending.preserved.holds(ChunkNo(0))
    );
    assert_eq!(pending.preserved.0.lock().end, 4 * SECTOR as u64, "three sectors and one, each once");
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    assert_eq!(pending.preserved.any(), None);
    assert!(open_chunks(&sink, SIZE) == all);
}

#[test]
fn whatever_is_written_before_between_and_after_the_copying_stays_out_of_the_snapshot() {
    for seed in 1..40 {
        let mut rng = Seeded(seed);
        let (v, mut model) = filled();
        let first = begin(&v);
        let at_first = model.clone();
        (0..rng.below(20)).for_each(|_| scribble(&v, &mut model, &mut rng));
        let second = begin(&v);
        let at_second = model.clone();
        (0..rng.below(20)).for_each(|_| scribble(&v, &mut model, &mut rng));
        for ((pending, _), _) in [(&first, &at_first), (&second, &at_second)] {
            let copied = v.copy_pending(pending, |_| {
                (0..rng.below(4)).for_each(|_| scribble(&v, &mut model, &mut rng));
                true
            });
            copied.unwrap();
            (0..rng.below(4)).for_each(|_| scribble(&v, &mut model, &mut rng));
            v.complete_snapshot(pending.record()).unwrap();
        }
        assert!(open_chunks(&first.1, SIZE) == at_first, "seed {seed}: the first snapshot");
        // The second is a full one too: no base had completed when it began.
        assert!(open_chunks(&second.1, SIZE) == at_second, "seed {seed}: the second snapshot");
        assert!(now(&v) == model, "seed {seed}: the volume");
        let places: usize = [&first, &second].iter().map(|(p, _)| p.preserved.0.lock().chunks.len()).sum();
        assert_eq!(places, 0, "seed {seed}: nothing is left aside");
    }
}

#[test]
fn threads_that_write_all_the_while_leave_the_snapshot_as_it_was() {
    for seed in 1..8 {
        let (v, all) = filled();
        let (pending, sink) = begin(&v);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 0..3 {
                let (v, done) = (&v, &done);
                scope.spawn(move || {
                    let (mut rng, mut own) = (Seeded(seed * 100 + n), vec![0; SIZE]);
                    while !done.load(Ordering::Relaxed) {
                        scribble(v, &mut own, &mut rng);
                    }
                });
            }
            let copied = v.copy_pending(&pending, |_| true);
            done.store(true, Ordering::Relaxed);
            copied.unwrap();
        });
        assert!(open_chunks(&sink, SIZE) == all, "seed {seed}");
    }
}

#[test]
fn what_is_written_while_the_copier_reads_its_chunk_stays_out_of_the_snapshot() {
    for scratch in [true, false] {
        for change in [
            (|v| write(v, CHUNK + 5 * SECTOR, &[0xee; 3 * SECTOR])) as fn(&Volume),
            |v| write(v, CHUNK + 100, &[0xee; 10]),
            |v| v.write_zeroes(CHUNK as u64, CHUNK as u64, false).unwrap(),
            |v| write(v, 0, &[0xee; 2 * CHUNK]),
        ] {
            let store = disk(SIZE as u64);
            let v = Arc::new(open_on(&store, "b", None).unwrap());
            let all: Vec<u8> = (0..SIZE).map(|i| (i / 100) as u8 | 1).collect();
            write(&v, 0, &all);
            let (pending, sink) = begin(&v);
            if !scratch {
                store.without_scratch();
            }
            let writer = Arc::new(Mutex::new(None));
            let copied = v.copy_pending(&pending, |n| {
                if n == 1 {
                    let (v, store, writer) = (v.clone(), store.clone(), writer.clone());
                    store.before_read(CHUNK, move || {
                        let writing = std::thread::spawn(move || change(&v));
                        if scratch {
                            writing.join().unwrap();
                        } else {
                            // It waits for the chunk to be copied.
                            *writer.lock() = Some(writing);
                        }
                    });
                }
                true
            });
            copied.unwrap();
            if let Some(writing) = writer.lock().take() {
                writing.join().unwrap();
            }
            assert!(now(&v) != all, "the change was made");
            assert!(open_chunks(&sink, SIZE) == all);
        }
    }
}

#[test]
fn a_small_write_under_a_snapshot_is_done_at_once_if_what_was_there_is_at_hand() {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[5; SIZE]);
    let (pending, _) = begin(&v);
    let inline = |at: usize, len: usize| v.write(at as u64, &mut vec![6; len], Blocking::Never).unwrap();
    assert_eq!(inline(0, SECTOR), Attempt::Done);
    assert!(pending.preserved.holds(ChunkNo(0)));
    store.set_cold(true);
    assert_eq!(inline(CHUNK, SECTOR), Attempt::WouldBlock, "it would wait for the disk");
    assert!(!pending.preserved.holds(ChunkNo(1)) && now(&v)[CHUNK..] == [5; SIZE][CHUNK..]);
    store.set_cold(false);
    assert_eq!(inline(CHUNK, ASIDE_INLINE + SECTOR), Attempt::WouldBlock, "it is too much");
    store.without_scratch();
    assert_eq!(inline(0, SECTOR), Attempt::Done, "set aside already");
    v.copy_pending(&pending, |_| true).unwrap();
    assert_eq!(inline(CHUNK, ASIDE_INLINE + SECTOR), Attempt::Done, "the snapshot has the chunk");
}

#[test]
fn where_nothing_can_be_set_aside_the_chunk_is_copied() {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[5; SIZE]);
    store.without_scratch();
    let (pending, sink) = begin(&v);
    write(&v, CHUNK + 1, &[6; 10]);
    assert_eq!(sink.map.lock().keys().copied().collect::<Vec<_>>(), [1]);
    v.copy_pending(&pending, |_| true).unwrap();
    assert!(open_chunks(&sink, SIZE) == [5; SIZE]);
}

#[test]
fn places_are_used_again() {
    let (v, _) = filled();
    let (pending, _) = begin(&v);
    write(&v, 0, &[0; 3 * SECTOR]);
    assert!(pending.preserved.places(ChunkNo(0)).is_some());
    pending.preserved.release(ChunkNo(0));
    write(&v, CHUNK, &[0; 2 * SECTOR]);
    assert_eq!(pending.preserved.0.lock().end, 3 * SECTOR as u64);
    assert_eq!(pending.preserved.0.lock().free.len(), 1);
}

#[test]
fn no_more_is_set_aside_than_the_limit() {
    let store = disk(SIZE as u64);
    let aside = PreservedSectors::default();
    let all = (MAX_BYTES / SECTOR as u64) as usize;
    aside.reserve(all, || store.scratch()).unwrap();
    let refused = aside.reserve(1, || store.scratch()).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace);
}
