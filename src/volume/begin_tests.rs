//! One point in time of several volumes.

use super::super::testing::*;
use super::*;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::units::CHUNK;
use crate::volume::Blocking;

const SIZE: u64 = 2 * CHUNK as u64;

/// Two volumes with their disks, in the order in which they are begun.
fn two() -> [(SimStore, Arc<Volume>); 2] {
    let mut both = [(); 2].map(|()| {
        let disk = disk(SIZE);
        let volume = Arc::new(open_on(&disk, "boot-1", None).unwrap());
        write(&volume, 1);
        (disk, volume)
    });
    both.sort_by_key(|(_, volume)| volume.id);
    both
}

fn write(v: &Volume, byte: u8) {
    let _done = v.write(0, &mut vec![byte; CHUNK], Blocking::Allowed).unwrap();
}

fn begin_of(sink: &Arc<Chunks>) -> Begin {
    let snapshot = SnapshotId::draw(&SystemRng);
    Begin { snapshot, time: 0, repository: RepositoryId([1; 16]), base: None, sink: sink.clone() }
}

fn first_byte(volume: &Volume, pending: &Pending, sink: &Chunks) -> u8 {
    volume.copy_pending(pending, |_| true).unwrap();
    open_chunks(sink, CHUNK)[0]
}

#[test]
fn what_is_written_while_a_group_begins_is_in_all_of_its_snapshots_or_in_none() {
    let [(_, a), (disk_b, b)] = two();
    let sinks = [(); 2].map(|()| Arc::new(Chunks { size: SIZE, ..Chunks::default() }));
    // The state of `a` is durable by now, that of `b` is not: the point in time is not reached for either.
    let (to_a, to_b) = (a.clone(), b.clone());
    disk_b.before_sync(move || {
        write(&to_a, 2);
        write(&to_b, 2);
    });
    let pending = begin_together(vec![(&a, begin_of(&sinks[0])), (&b, begin_of(&sinks[1]))]).unwrap();
    write(&a, 3);
    write(&b, 3);
    assert_eq!(first_byte(&a, &pending[0], &sinks[0]), 2);
    assert_eq!(first_byte(&b, &pending[1], &sinks[1]), 2);
    assert_eq!([read(&a, 0, 1), read(&b, 0, 1)], [[3], [3]]);
}

#[test]
fn a_group_of_which_one_cannot_begin_leaves_nothing_pending_and_the_next_one_is_right() {
    let [(disk_a, a), (disk_b, b)] = two();
    let sinks = [(); 2].map(|()| Arc::new(Chunks { size: SIZE, ..Chunks::default() }));
    disk_b.fail_in(0, false);
    assert!(begin_together(vec![(&a, begin_of(&sinks[0])), (&b, begin_of(&sinks[1]))]).is_err());
    assert!(a.pending_records().is_empty() && b.pending_records().is_empty());
    // As an earlier process of this boot left it: nothing is pending, and no chunk was handed over.
    let (killed, nobody) = (disk_a.killed(), Arc::new(Chunks::default()));
    let reopened = open_on(&killed, "boot-1", None).unwrap();
    assert!(reopened.pending_records().is_empty() && reopened.lost_snapshots().is_empty());
    assert_eq!(nobody.map.lock().len() + sinks[0].map.lock().len(), 0);
    write(&a, 2);
    let pending = a.begin_snapshot(begin_of(&sinks[0])).unwrap();
    write(&a, 3);
    assert_eq!(first_byte(&a, &pending, &sinks[0]), 2);
}

#[test]
fn a_volume_that_is_named_twice_or_out_of_order_is_refused_and_waits_for_nobody() {
    let [(_, a), (_, b)] = two();
    let sink = Arc::new(Chunks { size: SIZE, ..Chunks::default() });
    for pair in [[&b, &a], [&a, &a]] {
        let members = pair.map(|volume| (&**volume, begin_of(&sink))).into();
        assert_eq!(begin_together(members).err().unwrap().kind(), Kind::Usage);
    }
    assert!(a.pending_records().is_empty() && b.pending_records().is_empty());
}
