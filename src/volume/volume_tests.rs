//! What a user of a volume relies on, case by case. Crashes are in `crash_tests.rs`.

use super::begin::Begin;
use super::format::{DATA_OFFSET, SLOT};
use super::lifecycle::{NewVolume, Opening, file_size, format};
use super::testing::*;
use super::*;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::units::{CHUNK, RepositoryId, SnapshotId};

const MIB: u64 = 1 << 20;

fn write(v: &Volume, at: u64, data: &[u8]) {
    assert_eq!(v.write(at, &mut data.to_vec(), Blocking::Allowed).unwrap(), Attempt::Done);
}

pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(13).wrapping_add(seed) | 1).collect()
}

fn snapshot(v: &Volume) -> Arc<Chunks> {
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let pending = begin(v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    sink
}

#[test]
fn every_offset_and_length_reads_back() {
    let v = open_on(&disk(2 * MIB), "b", None).unwrap();
    let mut model = vec![0u8; 2 << 20];
    let mut rng = Seeded(42);
    for round in 0..400 {
        let at = rng.below(2 * MIB - 1);
        let len = (1 + rng.below([700, 5000, 600_000][round % 3])).min(2 * MIB - at) as usize;
        let data = pattern(len, round as u8);
        write(&v, at, &data);
        model[at as usize..at as usize + len].copy_from_slice(&data);
        let from = rng.below(2 * MIB - 1);
        let n = (1 + rng.below(9000)).min(2 * MIB - from) as usize;
        assert_eq!(read(&v, from, n), model[from as usize..from as usize + n], "round {round}");
    }
    assert_eq!(read(&v, 0, 2 << 20), model);
}

#[test]
fn what_lies_in_the_store_is_not_the_plaintext_and_openssl_opens_it() {
    let store = disk(MIB);
    let v = open_on(&store, "b", None).unwrap();
    let plain = pattern(4096, 9);
    write(&v, 3 * 4096, &plain);
    let mut sealed = vec![0u8; 4096];
    store.read_at(&mut sealed, DATA_OFFSET + 3 * 4096).unwrap();
    assert_ne!(sealed, plain);
    use openssl::symm::{Cipher, Crypter, Mode};
    let key: Vec<u8> = (0..64).map(|i| 31u8.wrapping_add(i)).collect();
    let mut c = Crypter::new(Cipher::aes_256_xts(), Mode::Decrypt, &key, Some(&3u128.to_le_bytes())).unwrap();
    c.pad(false);
    let mut out = vec![0u8; 4096 + 16];
    let n = c.update(&sealed, &mut out).unwrap();
    assert_eq!(out[..n], plain);
}

#[test]
fn a_new_volume_reads_zeros_and_out_of_bounds_is_refused() {
    let v = open_on(&disk(MIB + 512), "b", None).unwrap();
    assert_eq!(read(&v, 0, MIB as usize + 512), vec![0; MIB as usize + 512]);
    for (at, len) in [(MIB + 512, 1), (u64::MAX, 2), (0, MIB as usize + 513)] {
        assert_eq!(v.read(at, &mut vec![0; len], Blocking::Allowed).unwrap_err().kind(), Kind::Usage);
        assert_eq!(v.write(at, &mut vec![0; len], Blocking::Allowed).unwrap_err().kind(), Kind::Usage);
    }
    write(&v, MIB + 500, &[7; 12]);
    assert_eq!(read(&v, MIB + 499, 13), [&[0][..], &[7; 12]].concat());
}

#[test]
fn zeroes_and_trims_read_as_zeros_without_touching_neighbours() {
    let v = open_on(&disk(4 * MIB), "b", None).unwrap();
    let data = pattern(4 << 20, 1);
    write(&v, 0, &data);
    v.write_zeroes(1000, 700_000, false).unwrap();
    v.write_zeroes(2 * MIB + 3, 5, true).unwrap();
    let mut model = data;
    model[1000..701_000].fill(0);
    model[(2 << 20) + 3..(2 << 20) + 8].fill(0);
    assert_eq!(read(&v, 0, 4 << 20), model);
    v.trim(3 * MIB + 10, 5000).unwrap();
    model[(3 << 20) + 512..(3 << 20) + 5010 / 512 * 512].fill(0);
    assert_eq!(read(&v, 0, 4 << 20), model);
}

#[test]
fn trimming_an_empty_volume_of_8_tib_touches_nothing() {
    let store = disk(8 << 40);
    let v = open_on(&store, "b", None).unwrap();
    let before = store.writes();
    v.trim(0, 8 << 40).unwrap();
    v.write_zeroes(0, 8 << 40, false).unwrap();
    assert_eq!(store.writes(), before);
}

#[test]
fn steady_state_writes_cost_no_metadata() {
    let store = disk(2 * MIB);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[1; 4096]);
    let before = (store.writes(), store.syncs());
    for i in 0..10 {
        write(&v, i * 4096, &[2; 4096]);
    }
    assert_eq!((store.writes(), store.syncs()), (before.0 + 10, before.1));
}

#[test]
fn a_snapshot_holds_its_point_in_time_whatever_is_written_meanwhile() {
    let v = open_on(&disk(4 * MIB), "b", None).unwrap();
    let first = pattern(4 << 20, 3);
    write(&v, 0, &first);
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let pending = begin(&v, &sink);
    write(&v, 100, &pattern(2 << 20, 77)); // overwritten after the point in time, before the copier reads it
    v.write_zeroes(3 * MIB, 4096, false).unwrap();
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    assert_eq!(open_chunks(&sink, 4 << 20), first);
}

#[test]
fn the_second_snapshot_copies_only_what_changed() {
    let v = open_on(&disk(64 * MIB), "b", None).unwrap();
    write(&v, 0, &pattern(64 << 20, 3));
    let first = snapshot(&v);
    assert_eq!(first.map.lock().len(), 128);
    write(&v, 5 * CHUNK as u64 + 7, &[9; 3]);
    write(&v, 9 * CHUNK as u64, &[9; CHUNK]);
    let second = snapshot(&v);
    assert_eq!(second.map.lock().keys().copied().collect::<Vec<_>>(), [5, 9]);
    assert_eq!(open_chunks(&second.over(&first), 64 << 20), read(&v, 0, 64 << 20));
    assert_eq!(snapshot(&v).map.lock().len(), 0);
}

#[test]
fn a_snapshot_that_cannot_be_stored_fails_and_the_write_does_not() {
    let store = disk(MIB);
    let v = open_on(&store, "b", None).unwrap();
    store.without_spill();
    write(&v, 0, &pattern(1 << 20, 1));
    let sink = Arc::new(Chunks::default());
    let pending = begin(&v, &sink);
    sink.broken.store(true, Ordering::Relaxed);
    write(&v, 0, &[5; 4096]);
    assert_eq!(pending.failure().unwrap().kind(), Kind::NoSpace);
    assert_eq!(v.copy_pending(&pending, |_| true).unwrap_err().kind(), Kind::NoSpace);
    v.drop_snapshot(pending.record().snapshot).unwrap();
    assert!(v.base().is_none() && v.pending_records().is_empty());
    assert_eq!(read(&v, 0, 4096), [5; 4096]);
}

pub(super) fn restored(from: &Arc<Chunks>, size: u64) -> SimStore {
    let store = SimStore::new(file_size(size));
    let keys = keys(1);
    let parent = format::ParentRef {
        snapshot: SnapshotId::draw(&SystemRng),
        repository: RepositoryId([1; 16]),
        installation: crate::units::InstallationId([2; 16]),
        size: from.size,
    };
    let new = NewVolume { parent: Some(parent), ..new_volume(VolumeId::draw(&SystemRng), size, &keys) };
    format(&store, &env("b"), new).unwrap();
    store.sync().unwrap();
    store
}

#[test]
fn a_volume_from_a_snapshot_is_usable_at_once_and_fills_behind() {
    let v = open_on(&disk(8 * MIB), "b", None).unwrap();
    let data = pattern(5 << 20, 4);
    write(&v, 0, &data);
    let snap = snapshot(&v);
    let store = restored(&snap, 9 * MIB);
    let w = open_on(&store, "b", Some(snap)).unwrap();
    let mut model = [data, vec![0; 4 << 20]].concat();
    assert_eq!(read(&w, MIB + 3, 100), model[(1 << 20) + 3..(1 << 20) + 103]);
    write(&w, 2 * MIB + 5, &[9; 10]); // part of an absent chunk: fetched, merged
    model[(2 << 20) + 5..(2 << 20) + 15].fill(9);
    w.trim(3 * MIB, CHUNK as u64).unwrap(); // a whole absent chunk: never fetched
    model[3 << 20..(3 << 20) + CHUNK].fill(0);
    w.write_zeroes(4 * MIB + 1, 10, false).unwrap();
    model[(4 << 20) + 1..(4 << 20) + 11].fill(0);
    assert_eq!(read(&w, 0, 9 << 20), model);
    while !w.hydrate_some(3).unwrap().done {}
    assert!(w.is_hydrated());
    w.close().unwrap();
    drop(w);
    let again = open_on(&store, "b", None).unwrap(); // the snapshot is no longer needed
    assert_eq!(read(&again, 0, 9 << 20), model);
}

#[test]
fn a_snapshot_of_a_half_filled_volume_is_an_increment_to_its_parent() {
    let v = open_on(&disk(8 * MIB), "b", None).unwrap();
    write(&v, 0, &pattern(8 << 20, 4));
    let snap = snapshot(&v);
    let w = open_on(&restored(&snap, 8 * MIB), "b", Some(snap.clone())).unwrap();
    w.hydrate_some(4).unwrap();
    write(&w, 6 * MIB, &[1; 512]);
    let second = snapshot(&w);
    assert_eq!(second.map.lock().keys().copied().collect::<Vec<_>>(), [12]);
    assert_eq!(open_chunks(&second.over(&snap), 8 << 20), read(&w, 0, 8 << 20));
}

#[test]
fn a_failed_fetch_is_an_error_and_never_zeros() {
    let v = open_on(&disk(MIB), "b", None).unwrap();
    write(&v, 0, &pattern(1 << 20, 4));
    let snap = snapshot(&v);
    let w = open_on(&restored(&snap, MIB), "b", Some(snap.clone())).unwrap();
    snap.broken.store(true, Ordering::Relaxed);
    assert_eq!(w.read(0, &mut [0; 512], Blocking::Allowed).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(w.write(0, &mut [0; 512], Blocking::Allowed).unwrap_err().kind(), Kind::Integrity);
    snap.broken.store(false, Ordering::Relaxed);
    assert_eq!(read(&w, 0, 1 << 20), pattern(1 << 20, 4));
}

#[test]
fn inline_work_never_waits_and_never_spoils_the_callers_buffer() {
    let store = disk(4 * MIB);
    let v = open_on(&store, "b", None).unwrap();
    let data = pattern(8192, 1);
    let mut buf = data.clone();
    assert_eq!(v.write(0, &mut buf, Blocking::Never).unwrap(), Attempt::WouldBlock, "the first write opens the volume");
    assert_eq!(buf, data);
    write(&v, 0, &data);
    assert_eq!(v.write(8192, &mut buf, Blocking::Never).unwrap(), Attempt::Done);
    let held = v.stripe(ChunkNo(0)).lock.lock();
    let mut buf = data.clone();
    assert_eq!(v.write(0, &mut buf, Blocking::Never).unwrap(), Attempt::WouldBlock);
    assert_eq!(buf, data);
    drop(held);
    let sink = Arc::new(Chunks::default());
    let _pending = begin(&v, &sink);
    store.set_cold(true);
    assert_eq!(v.write(0, &mut buf, Blocking::Never).unwrap(), Attempt::WouldBlock, "a snapshot needs what was there");
    assert_eq!(buf, data);
    store.set_cold(false);
    assert_eq!(v.read(0, &mut buf, Blocking::Never).unwrap(), Attempt::Done);
}

#[test]
fn a_failed_sync_makes_the_volume_read_only_for_good() {
    let store = disk(MIB);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[1; 4096]);
    let sink = Arc::new(Chunks::default());
    let pending = begin(&v, &sink);
    store.fail_in(0, false);
    assert!(v.flush().is_err());
    assert!(v.flush().is_err());
    assert_eq!(v.write(0, &mut [2; 512], Blocking::Allowed).unwrap_err().kind(), Kind::Io);
    assert_eq!(read(&v, 0, 4096), [1; 4096]);
    assert!(pending.failure().is_some());
    drop(v);
    let again = open_on(&store, "b", None).unwrap();
    assert!(!again.is_writable(), "a restart does not make lost writes come back");
}

#[test]
fn without_its_key_a_volume_is_neither_read_nor_written_but_can_be_snapshotted() {
    let v = open_on(&disk(MIB), "b", None).unwrap();
    write(&v, 0, &pattern(4096, 1));
    v.suspend();
    assert_eq!(v.read(0, &mut [0; 512], Blocking::Allowed).unwrap_err().kind(), Kind::KeyUnavailable);
    assert_eq!(v.write(0, &mut [0; 512], Blocking::Allowed).unwrap_err().kind(), Kind::KeyUnavailable);
    v.flush().unwrap();
    let snap = snapshot(&v);
    v.unlock(&keys(1)).unwrap();
    assert_eq!(open_chunks(&snap, 1 << 20), read(&v, 0, 1 << 20));
}

#[test]
fn one_damaged_slot_is_repaired_and_two_are_refused_naming_offset_and_field() {
    for (slot, byte) in [(0u64, 70u64), (0, 4100), (1, 28 * 1024 + 60), (1, 60 * 1024 + 100), (0, 0)] {
        let store = disk(MIB);
        let v = open_on(&store, "b", None).unwrap();
        write(&v, 0, &[3; 4096]);
        v.close().unwrap();
        drop(v);
        store.poke(slot * SLOT as u64 + byte, 0x55);
        let v = Volume::open(
            Arc::new(store.clone()),
            env("b"),
            Opening { writable: true, parent: None, write_failed: false, spills: Arc::new(store.clone()) },
            "web",
        )
        .unwrap();
        assert!(v.with_header(|h| h.damage()).unwrap().contains(if slot == 0 { "slot A" } else { "slot B" }));
        v.unlock(&keys(1)).unwrap();
        assert_eq!(read(&v, 0, 4096), [3; 4096]);
        drop(v);
        let v = open_on(&store, "b", None).unwrap();
        assert!(v.with_header(|h| h.damage()).is_none(), "slot {slot} byte {byte} was not mended");
    }
    let store = disk(MIB);
    store.poke(70, 1);
    store.poke(SLOT as u64 + 4096, 1);
    let err = open_on(&store, "b", None).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity);
    assert!(
        err.line().contains("preamble checksum at offset 60") && err.line().contains("identity magic at offset 4096"),
        "{}",
        err.line()
    );
}

#[test]
fn foreign_truncated_and_forged_files_are_refused() {
    let err = open_on(&SimStore::new(100), "b", None).unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("100 bytes"), "{}", err.line());
    let foreign = SimStore::new(file_size(MIB));
    assert!(open_on(&foreign, "b", None).unwrap_err().line().contains("not a coffer volume"));
    let store = disk(MIB);
    let opening = Opening { writable: true, parent: None, write_failed: false, spills: Arc::new(store.clone()) };
    let wrong = Volume::open(Arc::new(store), env("b"), opening, "w").unwrap();
    let other = vec![(KeyEpoch(0), crate::cipher::test_key(99))];
    assert_eq!(wrong.unlock(&other).unwrap_err().kind(), Kind::InvalidCiphertext);
    // A sibling's key opens nothing here, and a header forged without the key fails its MAC.
    let forged = SimStore::new(file_size(2 * MIB));
    let evil = vec![(KeyEpoch(0), crate::cipher::test_key(5))];
    let mut new = new_volume(VolumeId::draw(&SystemRng), 2 * MIB, &evil);
    new.lineage = crate::units::LineageId([9; 16]);
    format(&forged, &env("b"), new).unwrap();
    assert!(open_on(&forged, "b", None).is_err());
}

#[test]
fn growing_keeps_data_and_shows_zeros_and_survives_a_crash_at_each_write() {
    let key = keys(1);
    for stop in 0..12 {
        let store = disk(MIB + 512);
        let v = open_on(&store, "b", None).unwrap();
        write(&v, 0, &pattern((1 << 20) + 512, 1));
        v.flush().unwrap();
        store.fail_in(stop, true);
        let grown = v.grow(3 * MIB, &key[0].1);
        drop(v);
        for after in [store.killed(), store.power_loss(|n| n - 1), store.power_loss(|_| 0)] {
            let v = open_on(&after, "b2", None).unwrap();
            assert!(v.size() == MIB + 512 || v.size() == 3 * MIB, "stop {stop}");
            assert!(grown.is_err() || v.size() == 3 * MIB, "an answered grow stays");
            assert_eq!(read(&v, 0, (1 << 20) + 512), pattern((1 << 20) + 512, 1));
            if v.size() == 3 * MIB {
                assert_eq!(read(&v, MIB + 512, (2 << 20) - 512), vec![0; (2 << 20) - 512]);
            }
        }
        if grown.is_ok() {
            return;
        }
    }
    panic!("grow needs more than 12 steps");
}

#[test]
fn two_grows_at_once_leave_the_larger_size_and_what_was_written_there() {
    let store = disk(MIB);
    let v = Arc::new(open_on(&store, "b", None).unwrap());
    let key = Arc::new(keys(1));
    let late = Arc::new(Mutex::new(None));
    // The larger growth comes between the smaller one's comparison and its change of the file.
    let (w, key_of_w, handle) = (v.clone(), key.clone(), late.clone());
    store.before_grow(move || {
        let other = w.clone();
        let thread = std::thread::spawn(move || {
            other.grow(5 * MIB, &key_of_w[0].1).unwrap();
            write(&other, 4 * MIB, &pattern(4096, 7));
            other.flush().unwrap();
        });
        if w.grows.is_locked() {
            *handle.lock() = Some(thread); // it waits for its turn
        } else {
            thread.join().unwrap();
        }
    });
    v.grow(3 * MIB, &key[0].1).unwrap();
    let late = late.lock().take();
    if let Some(thread) = late {
        thread.join().unwrap();
    }
    assert_eq!((v.size(), store.size().unwrap()), (5 * MIB, file_size(5 * MIB)));
    assert_eq!(read(&v, 4 * MIB, 4096), pattern(4096, 7));
    let again = open_on(&store.power_loss(|_| 0), "b2", None).unwrap();
    assert_eq!(read(&again, 4 * MIB, 4096), pattern(4096, 7));
    assert_eq!(v.grow(3 * MIB, &key[0].1).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_plan_to_grow_says_what_the_identity_will_be_and_changes_nothing() {
    let (store, key) = (disk(MIB), keys(1));
    let v = open_on(&store, "b", None).unwrap();
    let before = (store.writes(), store.size().unwrap());
    let told = {
        let plan = v.plan_grow(3 * MIB, &key[0].1).unwrap();
        assert!(plan.is_change() && v.grows.is_locked());
        (plan.generation(), plan.hash(), plan.size())
    };
    assert_eq!((store.writes(), store.size().unwrap(), v.size()), (before.0, before.1, MIB));
    v.grow_by(v.plan_grow(3 * MIB, &key[0].1).unwrap()).unwrap();
    let header = |v: &Volume| v.with_header(|h| (h.identity().generation, h.identity_hash(), h.identity().size));
    assert_eq!(header(&v), told, "the same plan each time, and kept");
    assert_eq!(header(&open_on(&store.power_loss(|_| 0), "b2", None).unwrap()), told);
    let again = v.plan_grow(3 * MIB, &key[0].1).unwrap();
    assert!(!again.is_change());
    assert_eq!((again.generation(), again.hash(), again.size()), told);
    // An interrupted growth left the file longer than this one needs it.
    drop(again);
    store.grow(file_size(9 * MIB)).unwrap();
    v.grow(4 * MIB, &key[0].1).unwrap();
    assert_eq!(store.size().unwrap(), file_size(9 * MIB));
}

#[test]
fn two_key_epochs_are_read_each_under_its_own_key() {
    let store = SimStore::new(file_size(4 * MIB));
    let both = keys(2);
    format(&store, &env("b"), new_volume(VolumeId::draw(&SystemRng), 4 * MIB, &both)).unwrap();
    let v = open_on(&store, "b", None).unwrap();
    // Chunk 0 stays under key 0, as a volume's older chunks do after a new data key was made.
    v.map
        .mark(&store, &[ChunkNo(0)], |_, _| map::Entry { present: true, key: KeyEpoch(0), changed: Epoch(1) })
        .unwrap();
    write(&v, 0, &pattern(2 * CHUNK, 6));
    assert_eq!(v.map.entry(&store, ChunkNo(0)).unwrap().key, KeyEpoch(0));
    assert_eq!(v.map.entry(&store, ChunkNo(1)).unwrap().key, KeyEpoch(1));
    v.close().unwrap();
    drop(v);
    let v = open_on(&store, "b", None).unwrap();
    assert_eq!(read(&v, 0, 2 * CHUNK), pattern(2 * CHUNK, 6));
    let snap = snapshot(&v);
    let ids: Vec<_> = snap.map.lock().values().map(|(_, id)| *id).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn writers_and_readers_at_once_never_see_a_torn_part() {
    let v = Arc::new(open_on(&disk(MIB), "b", None).unwrap());
    write(&v, 0, &[1; 8192]);
    std::thread::scope(|s| {
        for who in 1..3u8 {
            let v = v.clone();
            s.spawn(move || (0..2000).for_each(|_| write(&v, 0, &[who; 8192])));
        }
        for _ in 0..2000 {
            let seen = read(&v, 0, 8192);
            for part in seen.chunks(512) {
                assert!(part.iter().all(|b| *b == part[0] && (1..3).contains(b)), "a mix within 512 bytes");
            }
        }
    });
}

#[test]
fn a_comparing_snapshot_has_absent_chunks_by_their_parent_whatever_is_trimmed_meanwhile() {
    let v = open_on(&disk(4 * MIB), "b", None).unwrap();
    write(&v, 0, &pattern(4 << 20, 4));
    let parent = snapshot(&v);
    let store = restored(&parent, 4 * MIB);
    let w = open_on(&store, "b", Some(parent.clone())).unwrap();
    write(&w, 0, &[1; 512]);
    drop(w);
    let w = open_on(&store, "another-boot", Some(parent.clone())).unwrap();
    let expect = read(&w, 0, 4 << 20);
    let sink = Arc::new(Chunks { size: w.size(), base: Some(parent.clone()), ..Chunks::default() });
    let pending = begin(&w, &sink);
    w.trim(2 * MIB, MIB).unwrap();
    w.write_zeroes(3 * MIB, CHUNK as u64, false).unwrap();
    w.copy_pending(&pending, |_| true).unwrap();
    w.complete_snapshot(pending.record()).unwrap();
    assert!(open_chunks(&sink.over(&parent), 4 << 20) == expect);
    assert_eq!(read(&w, 2 * MIB, 1 << 20), vec![0; 1 << 20]);
}

#[test]
fn a_sync_that_fails_in_the_header_fails_the_next_flush() {
    let store = disk(MIB);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[1; 4096]);
    store.fail_in(1, false); // the state's write succeeds, its sync does not
    let sink = Arc::new(Chunks::default());
    let begin =
        Begin { snapshot: SnapshotId::draw(&SystemRng), time: 0, repository: RepositoryId([1; 16]), base: None, sink };
    assert!(v.begin_snapshot(begin).is_err());
    assert!(v.flush().is_err(), "the kernel may have dropped the client's pages in that sync");
    assert!(!v.is_writable());
}

#[test]
fn accepted_lost_writes_make_the_volume_writable_and_the_map_untrusted() {
    let store = disk(MIB);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[1; 4096]);
    store.fail_in(0, false);
    assert!(v.flush().is_err());
    drop(v);
    let v = open_on(&store, "b", None).unwrap();
    assert!(!v.is_writable());
    v.accept_lost_writes().unwrap();
    drop(v);
    let v = open_on(&store, "b", None).unwrap();
    assert!(v.is_writable());
    assert_eq!(*v.untrusted.lock(), Untrusted::All);
}

/// After a rollback the file still holds bytes from before it; none of them may be read again.
#[test]
fn after_a_rollback_old_bytes_are_never_seen_and_the_parents_are() {
    let v = open_on(&disk(4 * MIB), "b", None).unwrap();
    write(&v, 0, &pattern(CHUNK, 3));
    let parent = snapshot(&v); // chunk 0 alone
    let store = restored(&parent, 4 * MIB);
    let w = open_on(&store, "b", Some(parent.clone())).unwrap();
    write(&w, 0, &pattern(4 << 20, 9));
    w.flush().unwrap();
    let next = w.header.lock().next_identity(&keys(1)[0].1, |id| id.map_generation += 1).unwrap();
    w.header.lock().write_identity(next).unwrap();
    drop(w);
    let w = open_on(&store, "b", Some(parent)).unwrap();
    let mut model = vec![0u8; 4 << 20];
    model[..CHUNK].copy_from_slice(&pattern(CHUNK, 3));
    assert!(read(&w, 0, 4 << 20) == model, "old bytes are seen");
    write(&w, MIB + 5, &[7; 3]);
    write(&w, 100, &[8; 10]);
    model[(1 << 20) + 5..(1 << 20) + 8].fill(7);
    model[100..110].fill(8);
    assert!(read(&w, 0, 4 << 20) == model, "old bytes came to light around a write");
    assert_eq!(w.base().unwrap().p, Epoch(0), "a base of another map generation is none: the parent takes its place");
    while !w.hydrate_some(4).unwrap().done {}
    w.close().unwrap();
    drop(w);
    let w = open_on(&store.power_loss(|_| 0), "c", None).unwrap();
    assert!(read(&w, 0, 4 << 20) == model);
}

#[test]
fn what_was_fetched_is_read_without_waiting_and_stored_first_without_a_second_fetch() {
    let v = open_on(&disk(8 * MIB), "b", None).unwrap();
    let data = pattern(8 << 20, 4);
    write(&v, 0, &data);
    let snap = snapshot(&v);
    let w = open_on(&restored(&snap, 8 * MIB), "b", Some(snap.clone())).unwrap();
    let (half, chunk) = (CHUNK as u64 / 2, CHUNK as u64);
    let mut out = vec![0; CHUNK / 2];
    assert_eq!(w.read(0, &mut out, Blocking::Never).unwrap(), Attempt::WouldBlock);
    for n in [9, 3, 12] {
        read(&w, n * chunk, 512);
        assert_eq!(w.read(n * chunk + half, &mut out, Blocking::Never).unwrap(), Attempt::Done);
        assert!(out == data[(n * chunk + half) as usize..][..CHUNK / 2], "chunk {n}");
    }
    let present = |n| w.map.entry(&*w.store, ChunkNo(n)).unwrap().present;
    assert_eq!(w.hydrate_some(2).unwrap().chunks, 2);
    assert_eq!(([9, 3, 12].map(present), snap.fetches.load(Ordering::Relaxed)), ([false, true, true], 3));
    assert_eq!(w.hydrate_some(3).unwrap().chunks, 3); // the one that is left, then the first ones in order
    assert_eq!(([0, 1, 2, 9].map(present), snap.fetches.load(Ordering::Relaxed)), ([true, true, false, true], 5));
    w.suspend();
    assert_eq!(w.read(4 * chunk, &mut out, Blocking::Never).unwrap_err().kind(), Kind::KeyUnavailable);
}

/// A parent that delivers chunks when the test says so.
struct Slow(Arc<Chunks>, std::sync::mpsc::Sender<()>, Mutex<std::sync::mpsc::Receiver<()>>);

impl Parent for Slow {
    fn size(&self) -> u64 {
        self.0.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<crate::units::SectorMap> {
        self.0.sectors(chunk)
    }
    fn fetch(&self, chunk: ChunkNo, out: crate::cipher::SealedMut<'_>) -> Result<Option<crate::units::KeyTag>> {
        self.1.send(()).unwrap();
        self.2.lock().recv().unwrap();
        self.0.fetch(chunk, out)
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.0.next_with_sectors(from)
    }
}

#[test]
fn suspending_waits_for_no_fetch_and_what_began_leaves_its_data_alone() {
    let first = open_on(&disk(MIB), "b", None).unwrap();
    let old = pattern(CHUNK, 3);
    write(&first, 0, &old);
    let chunks = snapshot(&first);
    let (asked, on_asked) = std::sync::mpsc::channel();
    let (go, on_go) = std::sync::mpsc::channel();
    let parent = Arc::new(Slow(chunks.clone(), asked, Mutex::new(on_go)));
    let v = open_on(&restored(&chunks, MIB), "b", Some(parent)).unwrap();
    let new = pattern(4096, 77);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut data = new.clone();
            let outcome = v.write(8192, &mut data, Blocking::Allowed);
            (outcome.map_err(|e| e.kind()), data)
        });
        on_asked.recv().unwrap();
        // With the fetch under way: if suspend waited for it, this would never return.
        v.suspend();
        assert!(!v.is_unlocked());
        go.send(()).unwrap();
        assert_eq!(writing.join().unwrap(), (Err(Kind::KeyUnavailable), new.clone()));
    });
    v.unlock(&keys(1)).unwrap();
    assert_eq!(read(&v, 0, CHUNK), old, "nothing was changed");
    write(&v, 8192, &new);
    assert_eq!(read(&v, 8192, 4096), new);
    assert_eq!(read(&v, 0, 8192), old[..8192]);
}

#[test]
fn without_its_key_nothing_is_zeroed_and_nothing_read_as_zeros() {
    let v = open_on(&disk(MIB), "b", None).unwrap();
    write(&v, 0, &pattern(4096, 1));
    v.suspend();
    let kind = |outcome: Result<()>| outcome.unwrap_err().kind();
    assert_eq!(kind(v.write_zeroes(0, 4096, false)), Kind::KeyUnavailable);
    assert_eq!(kind(v.read(CHUNK as u64, &mut [0; 512], Blocking::Allowed).map(drop)), Kind::KeyUnavailable);
    v.trim(0, 4096).unwrap();
    v.flush().unwrap();
    v.unlock(&keys(1)).unwrap();
    assert_eq!(read(&v, 0, 4096), pattern(4096, 1));
}
