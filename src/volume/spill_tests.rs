use super::super::Volume;
use super::super::blocking::{Attempt, Blocking};
use super::super::io::ASIDE_INLINE;
use super::super::pending::Pending;
use super::super::testing::{self, Chunks, Seeded, disk, open_chunks, open_on};
use super::*;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::store::{BlockStore, SpillSpace};
use crate::units::CHUNK;
use std::sync::Arc;
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

fn spill_of(v: &Volume) -> Arc<Spill> {
    v.live.read().spill.clone().unwrap()
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
    let (spill, p) = (spill_of(&v), pending.record().p);
    let mut saved = pending.saved_chunks();
    saved.sort();
    assert_eq!(saved, [ChunkNo(1), ChunkNo(5)]);
    assert_eq!(spill.tail.lock().end as usize, HEADER + 4 * (HEAD + SECTOR), "three sectors and one, each once");
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    assert_eq!(spill.chunks_of(p, 0), []);
    assert!(v.live.read().spill.is_none(), "it ends with the last snapshot");
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
        assert!(v.live.read().spill.is_none(), "seed {seed}: nothing is left aside");
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
                store.without_spill();
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
    assert_eq!(pending.saved_chunks(), [ChunkNo(0)]);
    store.set_cold(true);
    assert_eq!(inline(CHUNK, SECTOR), Attempt::WouldBlock, "it would wait for the disk");
    assert!(pending.saved_chunks() == [ChunkNo(0)] && now(&v)[CHUNK..] == [5; SIZE][CHUNK..]);
    store.set_cold(false);
    assert_eq!(inline(CHUNK, ASIDE_INLINE + SECTOR), Attempt::WouldBlock, "it is too much");
    store.without_spill();
    assert_eq!(inline(0, SECTOR), Attempt::Done, "set aside already");
    v.copy_pending(&pending, |_| true).unwrap();
    assert_eq!(inline(CHUNK, ASIDE_INLINE + SECTOR), Attempt::Done, "the snapshot has the chunk");
}

#[test]
fn where_nothing_can_be_set_aside_the_chunk_is_copied() {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "b", None).unwrap();
    write(&v, 0, &[5; SIZE]);
    store.without_spill();
    let (pending, sink) = begin(&v);
    write(&v, CHUNK + 1, &[6; 10]);
    assert_eq!(sink.map.lock().keys().copied().collect::<Vec<_>>(), [1]);
    v.copy_pending(&pending, |_| true).unwrap();
    assert!(open_chunks(&sink, SIZE) == [5; SIZE]);
}

/// A spill of its own, on its simulated disk.
fn spill(boot: &str) -> (SimStore, Owner, Spill) {
    let store = SimStore::new(0);
    let volume = VolumeId::draw(&SystemRng);
    let owner = Owner { volume, boot_id: boot.to_owned(), file: store.identity().unwrap() };
    let made = Spill::create(store.create_spill(volume).unwrap(), SpillId::draw(&SystemRng), owner.clone()).unwrap();
    (store, owner, made)
}

fn reopen(store: &SimStore, owner: &Owner, id: SpillId) -> Result<Spill> {
    Spill::open(store.open_spill(owner.volume).unwrap().unwrap(), id, owner.clone())
}

/// Saves for the snapshot with slot 1.
fn save(spill: &Spill, chunk: u64, sectors: &[(usize, u8)], epoch: u32) {
    let bodies: Vec<_> = sectors.iter().map(|(sector, fill)| (*sector, [*fill; SECTOR])).collect();
    let all: Vec<ToSave<'_>> = bodies.iter().map(|(sector, body)| (*sector, Sealed::made_up(body))).collect();
    assert!(spill.save(ChunkNo(chunk), &all, (Epoch(epoch), 2), true).unwrap());
}

/// Returns the first byte of each sector that a snapshot of `p` takes.
fn taken(spill: &Spill, chunk: u64, p: u32) -> Vec<(usize, u8)> {
    let places = spill.places(ChunkNo(chunk), Epoch(p));
    let mut all = crate::cipher::SealedBuf::holes(CHUNK);
    all.room().copy_from(Sealed::made_up(&vec![0xee; CHUNK]));
    spill.overlay(&places, all.room()).unwrap();
    places.iter().map(|(sector, _)| (*sector, all[sector * SECTOR])).collect()
}

#[test]
fn each_snapshot_takes_the_first_record_after_its_point_in_time() {
    let (store, owner, spill) = spill("b");
    save(&spill, 3, &[(1, 10), (127, 11)], 5);
    save(&spill, 3, &[(1, 20), (2, 0)], 6);
    save(&spill, 4, &[(0, 30)], 6);
    let expect = |spill: &Spill| {
        assert_eq!(taken(spill, 3, 4), [(1, 10), (2, 0), (127, 11)]);
        assert_eq!(taken(spill, 3, 5), [(1, 20), (2, 0)]);
        assert_eq!(taken(spill, 3, 6), []);
        assert_eq!(spill.missing(ChunkNo(3), 0..4, Epoch(5)), [0, 3]);
        let mut chunks = spill.chunks_of(Epoch(5), 1);
        chunks.sort();
        assert_eq!((chunks, spill.chunks_of(Epoch(0), 0)), (vec![ChunkNo(3), ChunkNo(4)], vec![]));
    };
    expect(&spill);
    let again = reopen(&store, &owner, spill.id()).unwrap();
    expect(&again);
    save(&again, 3, &[(3, 40)], 7);
    let again = reopen(&store, &owner, spill.id()).unwrap();
    assert_eq!(taken(&again, 3, 6), [(3, 40)]);
    again.release(ChunkNo(3), |epoch| epoch == Epoch(7));
    assert!(again.chunks_of(Epoch(6), 1).contains(&ChunkNo(3)));
    again.release(ChunkNo(3), |epoch| epoch > Epoch(7));
    assert_eq!(again.chunks_of(Epoch(0), 1), [ChunkNo(4)]);
}

#[test]
fn a_spill_counts_only_for_its_volume_its_snapshots_and_its_boot() {
    let (store, owner, spill) = spill("b");
    save(&spill, 0, &[(0, 1)], 5);
    let id = spill.id();
    let refused = |owner: &Owner, id: SpillId| reopen(&store, owner, id).err().unwrap().kind();
    let other = Owner { boot_id: "c".to_owned(), ..owner.clone() };
    assert_eq!(refused(&other, id), Kind::Integrity, "another boot");
    assert_eq!(refused(&owner, SpillId([0; 16])), Kind::Integrity, "another spill");
    let copied = Owner { file: StoreIdentity { number: 77, ..owner.file.clone() }, ..owner.clone() };
    assert_eq!(refused(&copied, id), Kind::Integrity, "another file");
    // Closed, it counts after a restart, until something more is saved.
    spill.close().unwrap();
    let next = reopen(&store, &other, id).unwrap();
    assert_eq!(taken(&next, 0, 4), [(0, 1)]);
    assert!(reopen(&store, &owner, id).is_ok());
    save(&next, 0, &[(1, 2)], 5);
    assert_eq!(refused(&owner, id), Kind::Integrity, "written in another boot");
    assert_eq!(taken(&reopen(&store, &other, id).unwrap(), 0, 4), [(0, 1), (1, 2)]);
}

#[test]
fn a_torn_tail_is_cut_and_damage_before_good_records_is_refused() {
    let (store, owner, spill) = spill("b");
    for n in 0..4 {
        save(&spill, n, &[(n as usize, n as u8)], 5); // the first is a hole
    }
    let whole = spill.tail.lock().end;
    let file = store.open_spill(owner.volume).unwrap().unwrap();
    let mut all = vec![0; whole as usize];
    file.read_at(&mut all, 0).unwrap();
    let again = |bytes: &[u8]| {
        let file = store.create_spill(owner.volume).unwrap();
        file.write_head(bytes).unwrap();
        reopen(&store, &owner, spill.id())
    };
    for cut in HEADER..all.len() {
        let opened = again(&all[..cut]).unwrap();
        let complete = match cut - HEADER {
            0..HEAD => 0,
            past => 1 + (past - HEAD) / (HEAD + SECTOR),
        };
        assert_eq!(opened.chunks_of(Epoch(0), 1).len(), complete, "cut at {cut}");
        if cut % 1000 == 0 {
            save(&opened, 9, &[(9, 9)], 6);
            assert_eq!(taken(&reopen(&store, &owner, spill.id()).unwrap(), 9, 5), [(9, 9)], "cut at {cut}");
        }
    }
    for at in (0..all.len()).step_by(97) {
        let mut bad = all.clone();
        bad[at] ^= 0x40;
        let last = at >= all.len() - HEAD - SECTOR;
        assert_eq!(again(&bad).is_ok(), last, "a flip at {at}");
    }
}

#[test]
fn a_writer_that_may_not_wait_does_not_and_the_limit_holds() {
    let (_, _, mut spill) = spill("b");
    let body = [1; SECTOR];
    let one: [ToSave<'_>; 1] = [(0, Sealed::made_up(&body))];
    let stalled = spill.stall();
    assert!(!spill.save(ChunkNo(0), &one, (Epoch(5), 1), false).unwrap());
    drop(stalled);
    assert!(spill.save(ChunkNo(0), &one, (Epoch(5), 1), false).unwrap());
    spill.limit = spill.tail.lock().end + (HEAD + SECTOR) as u64;
    assert!(spill.save(ChunkNo(0), &[(1, one[0].1)], (Epoch(5), 1), true).unwrap());
    let full = spill.save(ChunkNo(0), &[(2, one[0].1)], (Epoch(5), 1), true).unwrap_err();
    assert_eq!(full.kind(), Kind::NoSpace);
    assert_eq!(spill.missing(ChunkNo(0), 0..4, Epoch(4)), [2, 3]);
}

#[test]
fn a_closed_spill_that_was_cut_is_refused() {
    let (store, owner, spill) = spill("b");
    save(&spill, 0, &[(0, 1), (1, 2)], 5);
    spill.close().unwrap();
    let file = store.open_spill(owner.volume).unwrap().unwrap();
    reopen(&store, &owner, spill.id()).unwrap();
    file.cut((HEADER + HEAD + SECTOR) as u64).unwrap();
    assert_eq!(reopen(&store, &owner, spill.id()).err().unwrap().kind(), Kind::Integrity);
}

/// A snapshot under test: the copier's side, and what it must contain.
type Taken = (Arc<Pending>, Arc<Chunks>, Vec<u8>);

fn take(v: &Volume, base: &Arc<Chunks>, model: &[u8]) -> Taken {
    let sink = Arc::new(Chunks { size: SIZE as u64, base: Some(base.clone()), ..Chunks::default() });
    (testing::begin(v, &sink), sink, model.to_vec())
}

fn ends_right(v: &Volume, (pending, sink, expect): Taken, base: &Chunks, what: &str) {
    v.copy_pending(&pending, |_| true).unwrap();
    v.drop_snapshot(pending.record().snapshot).unwrap();
    assert!(open_chunks(&sink.over(base), SIZE) == expect, "{what}");
}

/// A volume with a completed snapshot.
fn with_base() -> (SimStore, Volume, Vec<u8>, Arc<Chunks>) {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "b", None).unwrap();
    let model: Vec<u8> = (0..SIZE).map(|i| (i / 900) as u8 | 1).collect();
    write(&v, 0, &model);
    let (pending, sink) = begin(&v);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    (store, v, model, Arc::new(sink.over(&Chunks::default())))
}

#[test]
fn what_is_saved_for_one_snapshot_says_nothing_about_another() {
    let (_, v, mut model, base) = with_base();
    let a = take(&v, &base, &model);
    // Unchanged since the base: nothing is saved for A.
    write(&v, CHUNK, &[0xaa; SECTOR]);
    model[CHUNK..CHUNK + SECTOR].fill(0xaa);
    let b = take(&v, &base, &model);
    write(&v, CHUNK + SECTOR, &[0xbb; SECTOR]);
    model[CHUNK + SECTOR..CHUNK + 2 * SECTOR].fill(0xbb);
    ends_right(&v, a, &base, "the older one");
    ends_right(&v, b, &base, "the newer one");
    assert!(now(&v) == model);
}

#[test]
fn any_number_of_increments_begun_copied_and_continued_in_any_order_hold_their_points_in_time() {
    for seed in 1..60 {
        let mut rng = Seeded(seed);
        let (mut store, mut v, mut model, base) = with_base();
        let mut all: Vec<Taken> = Vec::new();
        for _ in 0..40 {
            match rng.below(12) {
                0..6 => scribble(&v, &mut model, &mut rng),
                6..8 if all.len() < 8 => all.push(take(&v, &base, &model)),
                8..10 if !all.is_empty() => {
                    let (pending, ..) = &all[rng.below(all.len() as u64) as usize];
                    let most = rng.below(3);
                    let _stopped = v.copy_pending(pending, |n| n <= most);
                }
                10 if !all.is_empty() => {
                    let one = all.remove(rng.below(all.len() as u64) as usize);
                    ends_right(&v, one, &base, &format!("seed {seed}"));
                }
                11 => {
                    store = store.killed();
                    v = open_on(&store, "b", None).unwrap();
                    for (pending, sink, _) in &mut all {
                        let again = v.pending_snapshot(pending.record().snapshot).expect("lost by a kill");
                        let copied: Vec<_> = sink.map.lock().keys().map(|c| ChunkNo(*c)).collect();
                        again.attach(sink.clone(), copied);
                        *pending = again;
                    }
                }
                _ => {}
            }
        }
        all.into_iter().for_each(|one| ends_right(&v, one, &base, &format!("seed {seed}, at the end")));
        assert!(now(&v) == model, "seed {seed}");
    }
}
