//! Zeroing whole absent chunks: one sync for all, and nothing that happens meanwhile brings old bytes back.

use super::super::testing::*;
use super::super::volume_tests::restored;
use super::super::{Attempt, Volume};
use super::*;
use crate::store::sim::SimStore;
use crate::units::KeyEpoch;
use parking_lot::Mutex;
use std::sync::Arc;

const COUNT: u64 = 40;
const SIZE: usize = COUNT as usize * CHUNK;
const CHUNK64: u64 = CHUNK as u64;

fn snapshot(v: &Volume, base: Option<&Arc<Chunks>>) -> Arc<Chunks> {
    let sink = Arc::new(Chunks { size: v.size(), base: base.cloned(), ..Chunks::default() });
    let pending = begin(v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    base.map_or_else(|| sink.clone(), |b| Arc::new(sink.over(b)))
}

fn source() -> (Arc<Chunks>, Vec<u8>) {
    let v = open_on(&disk(SIZE as u64), "b", None).unwrap();
    let all: Vec<u8> = (0..SIZE).map(|i| (i / 511) as u8 | 1).collect();
    assert_eq!(v.write(0, &mut all.clone(), Blocking::Allowed).unwrap(), Attempt::Done);
    (snapshot(&v, None), all)
}

/// A volume that is being filled, and was written to before.
fn filling(snap: &Arc<Chunks>) -> (SimStore, Arc<Volume>) {
    let store = restored(snap, SIZE as u64 + CHUNK64);
    let v = open_on(&store, "b", Some(snap.clone())).unwrap();
    assert_eq!(v.write(SIZE as u64, &mut [1; 512], Blocking::Allowed).unwrap(), Attempt::Done);
    v.flush().unwrap();
    (store, Arc::new(v))
}

type Zero = fn(&Volume, u64, u64) -> Result<()>;
const WAYS: [Zero; 3] = [
    |v, at, len| v.trim(at, len),
    |v, at, len| v.write_zeroes(at, len, false),
    |v, at, len| v.write_zeroes(at, len, true),
];

#[test]
fn zeroing_any_number_of_absent_chunks_costs_one_sync() {
    let (snap, mut all) = source();
    for zero in WAYS {
        let (store, v) = filling(&snap);
        let before = store.syncs();
        zero(&v, CHUNK64, 30 * CHUNK64).unwrap();
        assert_eq!(store.syncs() - before, 1);
        all[CHUNK..31 * CHUNK].fill(0);
        assert!(read(&v, 0, SIZE) == all);
        assert_eq!(snap.fetches.swap(0, std::sync::atomic::Ordering::Relaxed), 10, "only what is left");
        let next = snapshot(&v, Some(&snap));
        assert!(open_chunks(&next, SIZE + CHUNK)[..SIZE] == all);
    }
}

#[test]
fn what_is_being_zeroed_is_neither_stored_nor_marked_by_the_background() {
    let (snap, all) = source();
    for zero in WAYS {
        let (store, v) = filling(&snap);
        let other = v.clone();
        store.before_sync(move || {
            for chunk in (0..COUNT).map(ChunkNo) {
                assert!(matches!(other.fill(chunk), Ok(Ok(None))));
                // Stored before it was cleared.
                other.mark_filled(chunk, KeyEpoch(0)).unwrap();
                assert!(!other.map.entry(&*other.store, chunk).unwrap().present);
            }
        });
        zero(&v, 0, SIZE as u64).unwrap();
        assert!(read(&v, 0, SIZE) == vec![0; SIZE]);
        assert!((0..COUNT).all(|c| !v.hydration.clearing.holds(ChunkNo(c))));
        while !v.hydrate_some(16).unwrap().done {}
        assert!(read(&v, 0, SIZE) == vec![0; SIZE] && all.len() == SIZE);
    }
}

#[test]
fn a_crash_while_absent_chunks_are_zeroed_leaves_each_sector_old_or_zero() {
    let (snap, all) = source();
    for zero in WAYS {
        for seed in 1..12 {
            let (store, v) = filling(&snap);
            let midway: Arc<Mutex<Vec<SimStore>>> = Arc::default();
            let (seen, disk, mut rng) = (midway.clone(), store.clone(), Seeded(seed));
            store.before_sync(move || {
                seen.lock().extend([disk.killed(), disk.power_loss(|n| rng.below(n as u64) as usize)]);
            });
            zero(&v, 0, SIZE as u64).unwrap();
            for disk in midway.lock().drain(..) {
                let v = open_on(&disk, "another-boot", Some(snap.clone())).unwrap();
                assert!(read(&v, 0, SIZE) == all, "nothing was acknowledged, and nothing marked");
            }
            let mut rng = Seeded(seed);
            let lost = store.power_loss(|n| rng.below(n as u64) as usize);
            let v = open_on(&lost, "another-boot", Some(snap.clone())).unwrap();
            let after = read(&v, 0, SIZE);
            let is_whole = |(now, old): (&[u8], &[u8])| now == old || now.iter().all(|b| *b == 0);
            assert!(after.chunks(512).zip(all.chunks(512)).all(is_whole), "seed {seed}");
            let next = snapshot(&v, Some(&snap));
            assert!(open_chunks(&next, SIZE + CHUNK)[..SIZE] == after, "seed {seed}: the next snapshot");
        }
    }
}

#[test]
fn a_failed_request_leaves_its_chunks_as_they_were() {
    let (snap, all) = source();
    let (store, v) = filling(&snap);
    // The clearing of the fifth chunk fails.
    store.fail_in(4, false);
    assert!(v.write_zeroes(0, SIZE as u64, false).is_err());
    assert!((0..COUNT).all(|c| !v.hydration.clearing.holds(ChunkNo(c))));
    assert!(read(&v, 0, SIZE) == all);
    while !v.hydrate_some(16).unwrap().done {}
    assert!(read(&v, 0, SIZE) == all);
}
