//! A rollback, and each of its writes as the last one.

use super::super::testing::*;
use super::super::volume_tests::pattern;
use super::*;
use crate::env::SystemRng;
use crate::store::Stored;
use crate::store::sim::SimStore;
use crate::units::{CHUNK, InstallationId, RepositoryId};
use crate::volume::{Attempt, Blocking};
use std::sync::Arc;

const SIZE: usize = 8 * CHUNK;

fn write(v: &Volume, at: u64, data: &[u8]) {
    assert_eq!(v.write(at, &mut data.to_vec(), Blocking::Allowed).unwrap(), Attempt::Done);
}

/// A volume with later data on its disk, and a snapshot of its first half with what that had.
fn world() -> (SimStore, Arc<Chunks>, Vec<u8>) {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &pattern(2 * CHUNK + 700, 3));
    let sink = Arc::new(Chunks { size: SIZE as u64 / 2, ..Chunks::default() });
    let pending = begin(&v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    let before = read(&v, 0, SIZE);
    write(&v, CHUNK as u64 / 2, &pattern(SIZE - CHUNK, 9));
    v.close().unwrap();
    (store, sink, before)
}

fn parent_of(sink: &Chunks) -> ParentRef {
    let (repository, installation) = (RepositoryId([1; 16]), InstallationId([2; 16]));
    ParentRef { snapshot: SnapshotId::draw(&SystemRng), repository, installation, size: sink.size }
}

/// Rolls back as the service does: by one open of the volume, and frees the space by another.
fn roll_back(store: &SimStore, sink: &Arc<Chunks>) -> Result<()> {
    let v = open_on(store, "b", Some(sink.clone()))?;
    let plan = v.plan_rollback(parent_of(sink), &keys(1)[0].1)?;
    v.roll_back_by(plan)?;
    v.close()?;
    drop(v);
    let v = open_on(store, "b", Some(sink.clone()))?;
    v.free_old_data()?;
    v.close()
}

#[test]
fn a_volume_that_is_rolled_back_is_the_snapshot_and_gives_its_space_back() {
    let (store, sink, before) = world();
    roll_back(&store, &sink).unwrap();
    let v = open_on(&store, "b", Some(sink.clone())).unwrap();
    assert!(read(&v, 0, SIZE) == before);
    let there = v.store.stored(v.data_offset, SIZE as u64).unwrap();
    assert_eq!(there, (SIZE as u64, Stored::Hole), "its old bytes take space");
    assert_eq!((v.base().unwrap().p, v.map_generation), (Epoch(0), 2));
    // It is filled, written and snapshotted like any other.
    write(&v, 5 * CHUNK as u64 + 9, &[7; 100]);
    let mut model = before;
    model[5 * CHUNK + 9..5 * CHUNK + 109].fill(7);
    let increment = Arc::new(Chunks { size: SIZE as u64, base: Some(sink.clone()), ..Chunks::default() });
    let pending = begin(&v, &increment);
    assert_eq!(v.copy_pending(&pending, |_| true).unwrap(), 1, "one chunk differs from the snapshot");
    assert!(open_chunks(&increment.over(&sink), SIZE) == model);
    v.complete_snapshot(pending.record()).unwrap();
    while !v.hydrate_some(4).unwrap().done {}
    v.close().unwrap();
    let v = open_on(&store.power_loss(|_| 0), "c", None).unwrap();
    assert!(read(&v, 0, SIZE) == model);
}

#[test]
fn whatever_write_of_a_rollback_is_the_last_the_volume_is_the_old_one_or_the_snapshot() {
    let (store, sink, before) = world();
    let after = read(&open_on(&store.killed(), "b", None).unwrap(), 0, SIZE);
    let (mut old, mut new) = (0, 0);
    for n in 0.. {
        let disk = store.killed();
        disk.fail_in(n, true);
        let outcome = roll_back(&disk, &sink);
        for (left, boot) in [(disk.killed(), "b"), (disk.power_loss(|_| 0), "c"), (disk.power_loss(|n| n - 1), "c")] {
            let v = open_on(&left, boot, Some(sink.clone())).unwrap();
            let seen = read(&v, 0, SIZE);
            assert!(seen == before || seen == after, "write {n}");
            (old, new) = (old + usize::from(seen == after), new + usize::from(seen == before));
            v.close().unwrap();
            drop(v);
            // Repeated, unless it has been done.
            if seen == after {
                roll_back(&left, &sink).unwrap();
            }
            let v = open_on(&left, boot, Some(sink.clone())).unwrap();
            v.free_old_data().unwrap();
            assert!(read(&v, 0, SIZE) == before, "write {n}, repeated");
        }
        if outcome.is_ok() {
            break;
        }
    }
    assert!(old > 3 && new > 3, "{old} times the old one, {new} times the snapshot");
}

#[test]
fn what_cannot_be_rolled_back_is_refused_before_anything_is_written() {
    let (store, sink, _) = world();
    let v = open_on(&store, "b", None).unwrap();
    let key = keys(1);
    let refused = |v: &Volume, parent: ParentRef| v.plan_rollback(parent, &key[0].1).err().map(|e| e.kind());
    let larger = ParentRef { size: SIZE as u64 + 512, ..parent_of(&sink) };
    assert_eq!(refused(&v, larger), Some(Kind::Usage));
    let pending = begin(&v, &sink);
    assert_eq!(refused(&v, parent_of(&sink)), Some(Kind::Busy));
    v.drop_snapshot(pending.record().snapshot).unwrap();
    assert_eq!(v.free_old_data().unwrap_err().kind(), Kind::InvalidState, "its chunks are present");
    assert_eq!(refused(&v, parent_of(&sink)), None);
    drop(v);
    roll_back(&store, &sink).unwrap();
    let v = open_on(&store, "b", Some(sink.clone())).unwrap();
    assert_eq!(refused(&v, parent_of(&sink)), Some(Kind::Busy), "it is being filled");
}

#[test]
fn nothing_counts_as_unchanged_that_was_written_or_may_have_been() {
    let (store, _, _) = world();
    let v = open_on(&store, "b", None).unwrap();
    assert_eq!(v.unchanged_since().unwrap(), None, "it was written after its snapshot");
    let sink = Arc::new(Chunks { size: SIZE as u64, ..Chunks::default() });
    let pending = begin(&v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    assert_eq!(v.unchanged_since().unwrap(), None, "a snapshot is pending");
    v.complete_snapshot(pending.record()).unwrap();
    assert_eq!(v.unchanged_since().unwrap(), Some(pending.record().snapshot));
    v.close().unwrap();
    let v = open_on(&store, "b", None).unwrap();
    assert_eq!(v.unchanged_since().unwrap(), Some(pending.record().snapshot));
    write(&v, 1 << 20, &[1; 512]);
    assert_eq!(v.unchanged_since().unwrap(), None);
    v.flush().unwrap();
    drop(v); // not closed
    let v = open_on(&store.power_loss(|n| n - 1), "another-boot", None).unwrap();
    assert_eq!(v.unchanged_since().unwrap(), None);
}
