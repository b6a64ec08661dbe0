//! Disks that fail, lie or are full, and incomplete snapshots: what still works of the rest of a volume.

use super::format::{ENTRIES, INTENT_OFFSET, MAP_OFFSET, META_BLOCK};
use super::lifecycle::Opening;
use super::testing::*;
use super::volume_tests::restored;
use super::*;
use crate::store::sim::{Seek, SimStore};
use crate::units::{CHUNK, KeyTag, SectorMap};
use std::collections::BTreeSet;

const CHUNK64: u64 = CHUNK as u64;

fn write(v: &Volume, chunk: u64, fill: u8) -> Result<Attempt> {
    v.write(chunk * CHUNK64, &mut [fill; 4096], Blocking::Allowed)
}

fn head(v: &Volume, chunk: u64) -> Result<u8> {
    let mut out = [0xee; 512];
    v.read(chunk * CHUNK64, &mut out, Blocking::Allowed).map(|_| out[0])
}

fn put(v: &Volume, chunk: u64, fill: u8) {
    assert_eq!(write(v, chunk, fill).unwrap(), Attempt::Done);
}

/// Takes a snapshot, incremental to `base`.
fn snapshot_on(v: &Volume, base: Option<&Arc<Chunks>>) -> Arc<Chunks> {
    let sink = Arc::new(Chunks { size: v.size(), base: base.cloned(), ..Chunks::default() });
    let pending = begin(v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    base.map_or_else(|| sink.clone(), |b| Arc::new(sink.over(b)))
}

/// Makes a snapshot of `chunks` chunks, each beginning with its number modulo 200, plus one.
fn source(chunks: u64) -> Arc<Chunks> {
    let v = open_on(&disk(chunks * CHUNK64), "b", None).unwrap();
    (0..chunks).for_each(|c| put(&v, c, (c % 200) as u8 + 1));
    snapshot_on(&v, None)
}

/// Returns the first byte of a chunk of a snapshot in memory.
fn head_of(snapshot: &Chunks, chunk: u64) -> u8 {
    use crate::cipher::xts::{At, XtsCipher};
    let Some(mut sealed) = snapshot.map.lock().get(&chunk).map(|(sealed, _)| sealed[..512].to_vec()) else { return 0 };
    XtsCipher::new(&keys(1)[0].1).open_parts(At::new(chunk * CHUNK64).unwrap(), &mut sealed);
    sealed[0]
}

/// A parent some of whose chunks cannot be fetched, which counts the requests.
struct Torn {
    whole: Arc<Chunks>,
    bad: Mutex<BTreeSet<u64>>,
    asked: AtomicU64,
}

impl Torn {
    fn new(whole: Arc<Chunks>, bad: &[u64]) -> Arc<Self> {
        Arc::new(Self { whole, bad: Mutex::new(bad.iter().copied().collect()), asked: AtomicU64::new(0) })
    }
}

impl Parent for Torn {
    fn size(&self) -> u64 {
        self.whole.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap> {
        self.whole.sectors(chunk)
    }
    fn fetch(&self, chunk: ChunkNo, out: crate::cipher::SealedMut<'_>) -> Result<Option<KeyTag>> {
        if self.bad.lock().contains(&chunk.0) {
            return Err(Error::new(Kind::Integrity, "its hash is wrong"));
        }
        self.whole.fetch(chunk, out)
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.whole.next_with_sectors(from)
    }
}

#[test]
fn whichever_sync_fails_the_volume_says_so_once_and_knows_it_after_reopening() {
    let size = 8 * CHUNK64;
    let key = keys(1);
    type Act = (&'static str, Box<dyn Fn(&Volume) -> bool>);
    let acts: [Act; 7] = [
        ("a first write", Box::new(|v| write(v, 1, 1).is_ok())),
        ("a flush", Box::new(|v| v.flush().is_ok())),
        ("a snapshot", {
            Box::new(|v| {
                let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
                let begin = begin::Begin {
                    snapshot: SnapshotId::draw(&crate::env::SystemRng),
                    time: 0,
                    repository: crate::units::RepositoryId([1; 16]),
                    base: None,
                    sink,
                };
                let Ok(pending) = v.begin_snapshot(begin) else { return false };
                v.copy_pending(&pending, |_| true).is_ok() && v.complete_snapshot(pending.record()).is_ok()
            })
        }),
        ("a grow", Box::new(move |v| v.grow(size + 4096, &key[0].1).is_ok())),
        ("accepting lost writes", Box::new(|v| v.accept_lost_writes().is_ok())),
        ("a filling", Box::new(|v| v.hydrate_some(9).is_ok() && v.hydrate_some(9).is_ok())),
        ("closing", Box::new(|v| v.close().is_ok())),
    ];
    for (what, act) in acts {
        let mut failures = 0;
        for stop in 0..40 {
            let snap = source(2);
            let store = restored(&snap, size);
            let v = open_on(&store, "b", Some(snap)).unwrap();
            if what == "closing" || what == "a flush" {
                put(&v, 3, 3);
            }
            let told = Arc::new(AtomicU64::new(0));
            let seen = told.clone();
            v.on_failed_sync(move || {
                seen.fetch_add(1, Ordering::Relaxed);
            });
            store.fail_in(stop, false);
            let fine = act(&v);
            if !v.syncer.has_failed() {
                assert_eq!(told.load(Ordering::Relaxed), 0);
                if fine {
                    break;
                }
                continue; // a write failed, not a sync
            }
            failures += 1;
            assert_eq!(told.load(Ordering::Relaxed), 1, "{what}, step {stop}");
            assert!(!v.is_writable() && v.flush().is_err(), "{what}, step {stop}");
            let parent = v.parent.clone();
            drop(v);
            let again = open_on(&store.killed(), "b", parent).unwrap();
            assert!(!again.is_writable(), "{what}, step {stop}: forgotten");
        }
        assert!(failures > 0, "{what} syncs nothing?");
    }
}

#[test]
fn one_chunk_that_cannot_be_had_leaves_the_rest_filled_and_is_filled_when_it_can() {
    let snap = source(40);
    let torn = Torn::new(snap.clone(), &[3, 20]);
    let store = restored(&snap, 40 * CHUNK64);
    let v = open_on(&store, "b", Some(torn.clone())).unwrap();
    let mut errors = 0;
    for _ in 0..12 {
        match v.hydrate_some(16) {
            Ok(step) => assert!(!step.done, "it is not whole"),
            Err(err) => {
                errors += 1;
                assert!(err.line().contains("2 chunks") && err.line().contains("3, 20"), "{}", err.line());
            }
        }
    }
    assert!(errors > 0);
    assert_eq!(v.missing_chunks(), [ChunkNo(3), ChunkNo(20)]);
    let absent: Vec<_> = (0..40).filter(|c| !v.map.entry(&store, ChunkNo(*c)).unwrap().present).collect();
    assert_eq!(absent, [3, 20], "the rest is here");
    assert_eq!(head(&v, 3).unwrap_err().kind(), Kind::Integrity, "an error, never zeros");
    // One is overwritten entirely, the other can be fetched again.
    v.write_zeroes(20 * CHUNK64, CHUNK64, false).unwrap();
    torn.bad.lock().clear();
    let done = (0..70).any(|_| v.hydrate_some(16).is_ok_and(|step| step.done));
    assert!(done && v.missing_chunks().is_empty());
    assert_eq!((head(&v, 3).unwrap(), head(&v, 20).unwrap(), head(&v, 39).unwrap()), (4, 0, 40));
}

#[test]
fn a_damaged_map_block_of_a_filled_volume_costs_nothing_that_is_there() {
    for punch in [true, false] {
        let snap = source(40);
        let store = restored(&snap, 40 * CHUNK64);
        let v = open_on(&store, "b", Some(snap.clone())).unwrap();
        while !v.hydrate_some(16).unwrap().done {}
        put(&v, 7, 99);
        v.close().unwrap();
        drop(v);
        if punch {
            store.punch(MAP_OFFSET, META_BLOCK as u64)
        } else {
            store.poke(MAP_OFFSET + 48, 0x55)
        }
        let v = open_on(&store, "b", None).unwrap();
        assert!(v.check_map().unwrap(), "it is named");
        assert_eq!((head(&v, 0).unwrap(), head(&v, 7).unwrap(), head(&v, 39).unwrap()), (1, 99, 40));
        put(&v, 8, 98);
        let next = snapshot_on(&v, Some(&snap));
        assert_eq!((head_of(&next, 7), head_of(&next, 8)), (99, 98));
    }
}

#[test]
fn a_write_that_fails_while_a_volume_is_filled_leaves_no_chunk_behind() {
    let snap = source(20);
    for stop in 0..60 {
        let store = restored(&snap, 20 * CHUNK64);
        let v = open_on(&store, "b", Some(snap.clone())).unwrap();
        store.fail_in(stop, false);
        let mut failed = false;
        while !v.syncer.has_failed() {
            match v.hydrate_some(4) {
                Ok(step) if step.done => break,
                Ok(_) => {}
                Err(_) => failed = true,
            }
        }
        assert!((0..20).all(|c| head(&v, c).unwrap() == c as u8 + 1), "step {stop}");
        if v.is_hydrated() {
            let here = |c| v.map.entry(&store, ChunkNo(c)).unwrap().present;
            assert!((0..20).all(here), "step {stop}: filled, they say");
        }
        if !failed {
            return;
        }
    }
}

#[test]
fn a_lost_map_block_of_a_filling_volume_is_an_error_for_its_chunks_and_the_rest_is_filled() {
    let chunks = ENTRIES as u64 + 10;
    let snap = source(chunks);
    let store = restored(&snap, chunks * CHUNK64);
    let v = open_on(&store, "b", Some(snap.clone())).unwrap();
    put(&v, 5, 99);
    put(&v, 65, 98);
    v.flush().unwrap();
    drop(v);
    // What was flushed is still there, but which chunks were written is lost.
    store.punch(MAP_OFFSET, META_BLOCK as u64);
    let v = open_on(&store, "b", Some(snap)).unwrap();
    let err = head(&v, 5).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity);
    assert!(err.line().contains("map block 0"), "the snapshot's old bytes are not the answer: {}", err.line());
    assert_eq!(head(&v, 65).unwrap(), 98);
    for _ in 0..20 {
        let _err = v.hydrate_some(16);
    }
    assert_eq!(v.missing_chunks().len(), ENTRIES);
    let here = |c| v.map.entry(&store, ChunkNo(c)).unwrap().present;
    assert!((60..70).all(here));
}

#[test]
fn trimming_and_asking_for_holes_look_at_each_chunk_once_while_a_volume_is_filled() {
    let chunks = 400;
    let snap = source(chunks);
    let torn = Torn::new(snap.clone(), &[]);
    let v = open_on(&restored(&snap, chunks * CHUNK64), "b", Some(torn.clone())).unwrap();
    for _ in 0..24 {
        v.hydrate_some(16).unwrap(); // 384 of them
    }
    let asked = || torn.asked.swap(0, Ordering::Relaxed);
    asked();
    v.trim(0, 128 * CHUNK64).unwrap();
    let trimmed = asked();
    assert!(trimmed <= 2 * 400, "{trimmed} looks into the snapshot for 128 chunks");
    v.allocation(0, v.size(), 1000).unwrap();
    let told = asked();
    assert!(told <= 2 * 400, "{told} looks into the snapshot for 400 chunks");
    assert_eq!((head(&v, 5).unwrap(), head(&v, 130).unwrap(), head(&v, 399).unwrap()), (0, 131, 200));
}

#[test]
fn a_comparing_snapshot_goes_on_when_the_volume_grows() {
    let store = disk(4 * CHUNK64 - 4096);
    let v = open_on(&store, "b", None).unwrap();
    (0..4).for_each(|c| put(&v, c, 10));
    drop(v);
    let v = open_on(&store, "another-boot", None).unwrap();
    assert_ne!(*v.untrusted.lock(), Untrusted::No);
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let pending = begin(&v, &sink);
    v.grow(9 * CHUNK64, &keys(1)[0].1).unwrap();
    for c in 0..9 {
        put(&v, c, 20);
    }
    let end = 4 * CHUNK64 - 4096;
    assert_eq!(v.write(end, &mut [7; 4096], Blocking::Allowed).unwrap(), Attempt::Done);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    assert_eq!(sink.map.lock().keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "what it had, and no more");
    assert!((0..4).all(|c| head_of(&sink, c) == 10));
    let past = sink.map.lock()[&3].0[CHUNK - 4096..].to_vec();
    assert!(past == [0; 4096], "past its end there was nothing");
}

/// What was written, what became zeros since the base, and what only the base has.
fn compared(lie: impl Fn(&SimStore)) {
    let store = disk(200 * CHUNK64);
    let v = open_on(&store, "b", None).unwrap();
    for c in [0, 1, 2, 70, 130] {
        put(&v, c, 10);
    }
    let base = snapshot_on(&v, None);
    put(&v, 1, 20);
    v.write_zeroes(2 * CHUNK64, CHUNK64, false).unwrap();
    v.trim(70 * CHUNK64, CHUNK64).unwrap();
    put(&v, 190, 30);
    v.flush().unwrap();
    drop(v);
    lie(&store);
    store.poke(70, 1); // a slot is lost: nothing in the map is trusted
    let v = open_on(&store, "b", None).unwrap();
    assert_eq!(*v.untrusted.lock(), Untrusted::All);
    let whole = snapshot_on(&v, Some(&base));
    let heads: Vec<_> = [0, 1, 2, 70, 130, 190].into_iter().map(|c| head_of(&whole, c)).collect();
    assert_eq!(heads, [10, 20, 0, 0, 10, 30]);
}

#[test]
fn a_comparing_snapshot_is_whole_whatever_is_said_of_holes_and_whichever_map_block_is_lost() {
    compared(|store| store.set_seek(Seek::Truth));
    compared(|store| store.set_seek(Seek::AllData));
    compared(|store| store.set_seek(Seek::AllHoles));
    compared(|store| store.punch(MAP_OFFSET, 64 * META_BLOCK as u64));
}

#[test]
fn a_snapshot_is_whole_where_the_file_system_tells_holes_that_are_none() {
    let store = disk(200 * CHUNK64);
    let v = open_on(&store, "b", None).unwrap();
    put(&v, 3, 10);
    let base = snapshot_on(&v, None);
    put(&v, 130, 20);
    v.close().unwrap();
    drop(v);
    store.set_seek(Seek::AllHoles);
    let v = open_on(&store, "b", None).unwrap();
    assert_eq!(*v.untrusted.lock(), Untrusted::No);
    let whole = snapshot_on(&v, Some(&base));
    assert_eq!((head_of(&whole, 3), head_of(&whole, 130)), (10, 20));
}

#[test]
fn on_a_full_disk_a_volume_opens_reads_and_trims_and_a_reader_writes_nothing() {
    for made_without_room in [false, true] {
        let store = disk(8 * CHUNK64);
        let v = open_on(&store, "b", None).unwrap();
        (0..4).for_each(|c| put(&v, c, 10));
        v.close().unwrap();
        drop(v);
        if made_without_room {
            store.punch(INTENT_OFFSET, MAP_OFFSET - INTENT_OFFSET); // as in volumes of earlier versions
        }
        store.set_full(true);
        let (writes, syncs) = (store.writes(), store.syncs());
        let opening = Opening { writable: false, parent: None, write_failed: false, spills: Arc::new(store.clone()) };
        let v = Volume::open(Arc::new(store.clone()), env("b"), opening, "test").unwrap();
        v.unlock(&keys(1)).unwrap();
        assert_eq!(head(&v, 1).unwrap(), 10);
        v.close().unwrap();
        drop(v);
        assert_eq!((store.writes(), store.syncs()), (writes, syncs), "a reader writes nothing");
        let v = open_on(&store, "b", None).unwrap();
        v.trim(CHUNK64, CHUNK64).unwrap();
        v.write_zeroes(2 * CHUNK64, 4096, false).unwrap();
        assert_eq!(write(&v, 6, 1).unwrap_err().kind(), Kind::NoSpace);
        v.flush().unwrap();
        assert_eq!([0, 1, 2, 3].map(|c| head(&v, c).unwrap()), [10, 0, 0, 10]);
        let full = snapshot_on(&v, None);
        assert_eq!([0, 1, 2, 3].map(|c| head_of(&full, c)), [10, 0, 0, 10]);
        drop(v);
        // Power loss: what could not be announced is compared all the same.
        let after = store.power_loss(|_| 0);
        after.set_full(false);
        let v = open_on(&after, "another-boot", None).unwrap();
        assert_ne!(*v.untrusted.lock(), Untrusted::No);
        assert!(v.intent.is_set(0) || *v.untrusted.lock() == Untrusted::All);
        put(&v, 6, 1);
        let room = after.stored(INTENT_OFFSET, 9216).unwrap();
        assert_eq!(room, (9216, crate::store::Stored::Zeros), "there is room now, and it is taken");
    }
}

#[test]
fn on_a_full_disk_a_volume_that_is_being_filled_trims_what_it_has() {
    let snap = source(70);
    let store = restored(&snap, 70 * CHUNK64);
    let v = open_on(&store, "b", Some(snap)).unwrap();
    store.set_full(true);
    v.trim(0, 70 * CHUNK64).unwrap();
    assert_eq!([0, 1, 69].map(|c| head(&v, c).unwrap()), [0; 3]);
    assert!(v.hydrate_some(16).unwrap().done, "nothing is left to be fetched");
}

#[test]
fn a_truncated_file_says_so() {
    let store = disk(8 * CHUNK64);
    let v = open_on(&store, "b", None).unwrap();
    put(&v, 7, 1);
    v.close().unwrap();
    drop(v);
    store.truncate(store.size().unwrap() - 1);
    let err = open_on(&store, "b", None).unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity);
    assert!(err.line().contains("the file has") && err.advice().unwrap().contains("truncated"), "{}", err.line());
}
