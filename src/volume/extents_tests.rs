//! Holes, data and changes as a client sees them, on a file: a simulated disk has no file system to ask.

use super::super::testing::*;
use super::super::*;
use super::*;
use crate::env::SystemRng;
use crate::store::file::{FileStore, Folder};
use crate::units::RepositoryId;
use crate::units::SnapshotId;
use crate::volume::begin::Begin;
use crate::volume::format::ParentRef;
use crate::volume::lifecycle::{NewVolume, Opening, file_size, format};

const MIB: u64 = 1 << 20;

fn on_file(size: u64, parent: Option<Arc<Chunks>>) -> (tempfile::TempDir, Volume) {
    // On the disk of the build: /tmp may be another kind of file system.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("v");
    let mut store = FileStore::create_unnamed(&path, file_size(size), true).unwrap();
    let keys = keys(1);
    let of = |p: &Arc<Chunks>| ParentRef {
        snapshot: SnapshotId::draw(&SystemRng),
        repository: RepositoryId([1; 16]),
        installation: crate::units::InstallationId([2; 16]),
        size: p.size,
    };
    let new = NewVolume { parent: parent.as_ref().map(of), ..new_volume(VolumeId::draw(&SystemRng), size, &keys) };
    format(&store, &env("b"), new).unwrap();
    store.publish(&path).unwrap();
    let parent = parent.map(|p| p as Arc<dyn Parent>);
    let opening = Opening { writable: true, parent, write_failed: false, spills: Arc::new(Folder::new(dir.path())) };
    let volume = Volume::open(Arc::new(store), env("b"), opening, "test").unwrap();
    volume.unlock(&keys).unwrap();
    (dir, volume)
}

fn write(v: &Volume, at: u64, len: usize) {
    let mut data = vec![0xa5; len];
    assert_eq!(v.write(at, &mut data, Blocking::Allowed).unwrap(), Attempt::Done);
}

fn runs(all: &[(u64, bool)]) -> Vec<Run> {
    all.iter().map(|(len, yes)| Run { len: *len, yes: *yes }).collect()
}

/// Data (yes) and holes (no).
fn stored(all: &[(u64, bool)]) -> Vec<Run<Stored>> {
    all.iter().map(|(len, yes)| Run { len: *len, yes: if *yes { Stored::Data } else { Stored::Hole } }).collect()
}

fn snapshot(v: &Volume) -> Arc<Chunks> {
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let (snapshot, repository) = (SnapshotId::draw(&SystemRng), RepositoryId([1; 16]));
    let begin = Begin { snapshot, time: 0, repository, base: v.base(), sink: sink.clone() };
    let pending = v.begin_snapshot(begin).unwrap();
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    sink
}

#[test]
fn holes_are_told_to_the_sector() {
    let (_dir, v) = on_file(8 * MIB, None);
    assert_eq!(v.allocation(0, 8 * MIB, 100).unwrap(), stored(&[(8 * MIB, false)]));
    write(&v, 2 * 4096, 4096);
    write(&v, 3 * MIB, 64 << 10);
    let told = [(8192, false), (4096, true), (3 * MIB - 12288, false), (64 << 10, true), (5 * MIB - (64 << 10), false)];
    assert_eq!(v.allocation(0, 8 * MIB, 100).unwrap(), stored(&told));
    assert_eq!(v.allocation(0, 8 * MIB, 2).unwrap(), stored(&told[..2]), "no more than were asked for");
    assert_eq!(v.allocation(3 * MIB + 5, 10, 1).unwrap(), stored(&[(10, true)]), "any offset and length");
    v.write_zeroes(3 * MIB + 4096, 4096, false).unwrap();
    v.trim(2 * 4096, 4096).unwrap();
    let told = [(3 * MIB, false), (4096, true), (4096, false), ((64 << 10) - 8192, true)];
    assert_eq!(v.allocation(0, 3 * MIB + (64 << 10), 100).unwrap(), stored(&told));
    assert!(v.allocation(8 * MIB, 1, 1).is_err());
    assert!(v.allocation(u64::MAX, 2, 1).is_err());
}

#[test]
fn chunks_that_are_not_here_are_told_from_the_tree_and_not_fetched() {
    let (_dir, from) = on_file(4 * MIB, None);
    write(&from, MIB + 8192, 4096);
    write(&from, 3 * MIB, 4096);
    let parent = snapshot(&from);
    let (_dir, v) = on_file(4 * MIB, Some(parent.clone()));
    let told = [(MIB + 8192, false), (4096, true), (2 * MIB - 12288, false), (4096, true), (MIB - 4096, false)];
    assert_eq!(v.allocation(0, 4 * MIB, 100).unwrap(), stored(&told));
    write(&v, MIB, 4096);
    let told = [(MIB, false), (4096, true), (4096, false), (4096, true), (2 * MIB - 12288, false)];
    assert_eq!(v.allocation(0, 3 * MIB, 100).unwrap(), stored(&told));
    assert_eq!(parent.fetches.load(Ordering::Relaxed), 1, "the write alone fetched its chunk");
}

#[test]
fn changes_are_told_by_the_chunk_from_the_point_asked_about() {
    let (_dir, v) = on_file(64 * MIB, None);
    let chunk = CHUNK as u64;
    write(&v, 0, 100);
    let first = v.epoch();
    snapshot(&v);
    assert_eq!(v.changed_after(first, (0, 64 * MIB), 100, None).unwrap(), runs(&[(64 * MIB, false)]));
    write(&v, 2 * chunk + 5, 1);
    write(&v, 60 * MIB, 4096);
    let told = [(2 * chunk, false), (chunk, true), (60 * MIB - 3 * chunk, false), (chunk, true)];
    let told = [&told[..], &[(4 * MIB - chunk, false)]].concat();
    assert_eq!(v.changed_after(first, (0, 64 * MIB), 100, None).unwrap(), runs(&told));
    assert_eq!(v.changed_after(first, (2 * chunk + 7, 10), 1, None).unwrap(), runs(&[(10, true)]));
    assert_eq!(v.changed_after(Epoch(0), (0, chunk + 1), 9, None).unwrap(), runs(&[(chunk, true), (1, false)]));
    let mut odd = |c: ChunkNo| Ok(c.0 == 1);
    let also = v.changed_after(first, (0, 3 * chunk), 9, Some(&mut odd)).unwrap();
    assert_eq!(also, runs(&[(chunk, false), (2 * chunk, true)]));
    assert!(v.trusted_from().is_some_and(|p| p <= first));
}

#[test]
fn zeroing_is_fast_when_nothing_has_to_be_copied_or_sealed() {
    let (_dir, v) = on_file(4 * MIB + 512, None);
    write(&v, 0, 8192);
    assert!(v.zeroes_fast(0, v.size()).unwrap());
    assert!(v.zeroes_fast(512, 512).unwrap());
    assert!(!v.zeroes_fast(1, 512).unwrap());
    assert!(!v.zeroes_fast(0, 513).unwrap());
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let (snapshot, repository) = (SnapshotId::draw(&SystemRng), RepositoryId([1; 16]));
    v.begin_snapshot(Begin { snapshot, time: 0, repository, base: v.base(), sink }).unwrap();
    assert!(!v.zeroes_fast(0, 512).unwrap(), "a snapshot needs what lies there");
}

#[test]
fn zeros_whose_room_is_kept_are_no_hole_and_zeros_for_as_long_as_nothing_is_written_there() {
    let store = disk(4 * MIB);
    let v = open_on(&store, "b", None).unwrap();
    // This disk reports as holes what was never written, so there must be no data here before.
    v.write_zeroes(MIB, 64 << 10, true).unwrap();
    let told = |all: &[(u64, Stored)]| all.iter().map(|(len, yes)| Run { len: *len, yes: *yes }).collect::<Vec<_>>();
    let (kept, rest) = (64 << 10, 3 * MIB - (64 << 10));
    let before = told(&[(MIB, Stored::Hole), (kept, Stored::Zeros), (rest, Stored::Hole)]);
    assert_eq!(v.allocation(0, 4 * MIB, 9).unwrap(), before);
    assert_eq!(v.allocation(MIB + 512, 512, 9).unwrap(), told(&[(512, Stored::Zeros)]));
    write(&v, MIB, 4096);
    let after = [(MIB, Stored::Hole), (4096, Stored::Data), (kept - 4096, Stored::Zeros), (rest, Stored::Hole)];
    assert_eq!(v.allocation(0, 4 * MIB, 9).unwrap(), told(&after));
}

#[test]
fn on_a_file_kept_room_is_never_told_as_a_hole() {
    let (_dir, v) = on_file(4 * MIB, None);
    write(&v, MIB, 64 << 10);
    v.write_zeroes(MIB, 32 << 10, true).unwrap();
    v.write_zeroes(2 * MIB, 32 << 10, true).unwrap();
    let all = v.allocation(0, 4 * MIB, 100).unwrap();
    let mut at = 0;
    for run in all {
        let kept = (MIB..MIB + (64 << 10)).contains(&at) || (2 * MIB..2 * MIB + (32 << 10)).contains(&at);
        assert_eq!(run.yes == Stored::Hole, !kept, "at {at}");
        assert!(run.yes != Stored::Zeros || read(&v, at, run.len as usize).iter().all(|b| *b == 0));
        at += run.len;
    }
    assert_eq!(at, 4 * MIB);
}
