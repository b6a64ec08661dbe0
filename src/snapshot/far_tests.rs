//! Reading from far away: many chunks at once, within bounds, each error at the right chunk.

use super::fetchers::IN_FLIGHT;
use super::objects::Objects;
use super::read_cache::ReadCache;
use super::reader::{SnapshotReader, Verified, Verify};
use super::repository::Repository;
use super::testing::{Far, KEY, LINEAGE, author, env, memory, snap, spec};
use super::{bodies, pack, page::LeafEntry};
use crate::cipher::{Sealed, SealedMut};
use crate::error::{Kind, Result};
use crate::units::{CHUNK, ChunkNo, Hash32, SECTOR};
use crate::volume::parent::{Each, Fetch, Parent};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Chunks of the snapshot.
const CHUNKS: u64 = 1000;
/// Bytes of a chunk's body in its pack: two sectors.
const BODY: u64 = (pack::HEAD + 2 * SECTOR) as u64;

/// Returns the content of a chunk, which no other has.
fn chunk(n: u64) -> Vec<u8> {
    let mut out = vec![0; CHUNK];
    for sector in [0, 100] {
        let room = out[sector * SECTOR..(sector + 1) * SECTOR].chunks_mut(8);
        room.for_each(|part| part.copy_from_slice(&(n + 1).to_le_bytes()));
    }
    out
}

struct World {
    far: Arc<Far>,
    repo: Repository,
    reader: SnapshotReader,
}

impl World {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(kept: Option<Arc<ReadCache>>) -> Self {
        let below = memory();
        Repository::init_in(&*below, &env().0).unwrap();
        let near = Repository::open_in(below.clone(), env().0, Some(author(1))).unwrap();
        let writer = near.begin(spec(1, CHUNKS, None)).unwrap();
        for n in 0..CHUNKS {
            writer.put_chunk(ChunkNo(n), Sealed::made_up(&chunk(n)), KEY).unwrap();
        }
        writer.finish().unwrap();
        let far = Far::over(below);
        let repo = Repository::open_cached(far.clone(), env().0, Some(author(1)), kept);
        let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
        Self { far, repo, reader }
    }

    fn entry(&self, n: u64) -> LeafEntry {
        self.reader.tree().entry(ChunkNo(n)).unwrap()
    }

    /// The bytes of a chunk's body in its pack.
    fn place(&self, n: u64) -> std::ops::Range<u64> {
        let entry = self.entry(n);
        u64::from(entry.offset)..u64::from(entry.offset) + pack::HEAD as u64 + u64::from(entry.length)
    }

    fn verify(&self) -> Verified {
        self.repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap()
    }

    /// Fetches chunks many at once, compares what comes, and returns the errors.
    fn fetch(&self, chunks: impl Iterator<Item = u64>) -> BTreeMap<u64, Kind> {
        let chunks: Vec<_> = chunks.map(ChunkNo).collect();
        let (errors, seen) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
        self.reader.fetch_many(&chunks, &|no, fetch| {
            let mut out = vec![0xee; CHUNK];
            match fetch(SealedMut::over(&mut out)) {
                Ok(tag) => assert!(tag == Some(KEY.tag()) && out == chunk(no.0), "chunk {no}"),
                Err(err) => drop(errors.lock().insert(no.0, err.kind())),
            }
            seen.lock().push(no);
            true
        });
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        assert_eq!(seen, chunks, "each once");
        errors.into_inner()
    }

    fn damage(&self, n: u64) {
        let path = self.far.list("").unwrap().into_iter().find(|o| o.name() == self.entry(n).pack().to_string());
        let path = path.unwrap().path;
        let mut raw = self.far.get(&path, pack::PACK_MAX).unwrap().to_vec();
        raw[self.entry(n).offset as usize + pack::HEAD] ^= 1;
        self.far.put_over(&path, Bytes::from(raw)).unwrap();
    }
}

#[test]
fn bodies_side_by_side_are_read_with_one_request_of_at_most_a_span() {
    let world = World::new();
    assert!(world.fetch(0..CHUNKS).is_empty());
    let ranges = world.far.ranges();
    let all: u64 = ranges.iter().map(|(_, r)| r.end - r.start).sum();
    assert_eq!(all, CHUNKS * BODY, "each byte once");
    assert_eq!(ranges.len() as u64, CHUNKS.div_ceil(bodies::SPAN as u64 / BODY));
    assert!(ranges.iter().all(|(_, r)| r.end - r.start <= bodies::SPAN as u64));
    let found = world.verify();
    assert_eq!((found.chunks, found.bad_chunks), (CHUNKS, 0));
    // A check ends with each page of the tree.
    assert_eq!(world.far.ranges().len(), 4);
}

#[test]
fn requests_at_the_same_time_reach_the_bound_and_no_more() {
    let world = World::new();
    world.far.close();
    std::thread::scope(|scope| {
        // No two are side by side. All of them share the bound.
        let odd = |from: u64| (from..from + 400).filter(|n| n % 2 == 1);
        let world = &world;
        let all = [0, 400].map(|from| scope.spawn(move || world.fetch(odd(from))));
        world.far.await_reading(IN_FLIGHT);
        world.far.open();
        all.into_iter().for_each(|one| assert!(one.join().unwrap().is_empty()));
    });
    assert_eq!((world.far.most(), world.far.ranges().len()), (IN_FLIGHT, 400));
}

#[test]
fn a_fault_in_the_middle_is_the_error_of_the_right_chunk_alone() {
    let world = World::new();
    let all = || (400..600).chain([999]);
    for kind in [Kind::Io, Kind::AccessDenied, Kind::Integrity] {
        let place = world.place(500);
        world.far.fail(place.start + 70..place.start + 71, kind);
        assert_eq!(world.fetch(all()), BTreeMap::from([(500, kind)]));
        let found = world.verify();
        assert_eq!((found.bad_chunks, found.chunks, found.all), (1, CHUNKS - 1, CHUNKS));
        assert_eq!((found.bad[0].first, found.bad[0].error.kind()), (ChunkNo(500), kind));
        world.far.mend();
    }
    world.damage(500);
    world.damage(502);
    assert_eq!(world.fetch(all()), BTreeMap::from([(500, Kind::Integrity), (502, Kind::Integrity)]));
    let bad: Vec<_> = world.verify().bad.iter().map(|b| b.first.0).collect();
    assert_eq!(bad, [500, 502], "in the order of the tree");
    // A pack that is missing.
    let pack = world.far.list("").unwrap().into_iter().find(|o| o.path.contains("/packs/")).unwrap();
    world.far.delete(&pack.path).unwrap();
    assert_eq!(world.fetch(all()).len(), 201);
    assert_eq!(world.verify().bad_chunks, CHUNKS);
}

#[test]
fn a_check_that_is_stopped_reads_little_more_and_reports_in_order() {
    let world = World::new();
    let mut seen = Vec::new();
    let stopped = world.repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |done, all| {
        assert_eq!(all, CHUNKS);
        seen.push(done);
        done < 700
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(seen, (0..=700).collect::<Vec<_>>());
}

#[test]
fn what_needs_no_more_chunks_stops_the_others() {
    let world = World::new();
    let (fetched, odd) = (AtomicUsize::new(0), (0..500u64).map(|n| ChunkNo(2 * n)).collect::<Vec<_>>());
    world.reader.fetch_many(&odd, &|_, _: &Fetch<'_>| fetched.fetch_add(1, Ordering::Relaxed) < 100);
    let fetched = fetched.into_inner();
    assert!((101..101 + IN_FLIGHT).contains(&fetched), "{fetched}");
}

#[test]
fn chunks_are_fetched_ahead_in_other_threads_and_holes_are_not() {
    let world = World::new();
    let got = Arc::new(Mutex::new(Vec::new()));
    let each: Arc<Each<'static>> = Arc::new({
        let got = got.clone();
        move |no: ChunkNo, fetch: &Fetch<'_>| {
            let mut out = vec![0; CHUNK];
            fetch(SealedMut::over(&mut out)).unwrap();
            assert!(out == chunk(no.0), "chunk {no}");
            got.lock().push(no.0);
            true
        }
    });
    world.far.close();
    // The last is past the end.
    world.reader.fetch_ahead(&[5, 7, 9, 5000].map(ChunkNo), &each);
    world.far.await_reading(3);
    assert_eq!(*got.lock(), [0u64; 0]);
    world.far.open();
    world.far.await_read(3);
    drop(world);
    while Arc::strong_count(&each) > 1 {
        std::thread::yield_now();
    }
    got.lock().sort_unstable();
    assert_eq!(*got.lock(), [5, 7, 9]);
}

fn kept_in(folder: &std::path::Path) -> Arc<ReadCache> {
    Arc::new(ReadCache::new(folder.to_owned(), 64 << 20))
}

fn fetch_one(reader: &SnapshotReader, n: u64) -> Result<()> {
    let mut out = vec![0xee; CHUNK];
    reader.fetch(ChunkNo(n), SealedMut::over(&mut out))?;
    assert!(out == chunk(n), "chunk {n}");
    Ok(())
}

#[test]
fn what_was_read_once_is_not_read_again_by_the_next_process_and_verify_reads_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::with(Some(kept_in(dir.path())));
    assert!(world.fetch((0..500).chain([700])).is_empty());
    fetch_one(&world.reader, 900).unwrap();
    world.far.ranges();
    world.far.gets();
    // Another process.
    let again = Repository::open_cached(world.far.clone(), env().0, Some(author(1)), Some(kept_in(dir.path())));
    let world = World { reader: again.open_snapshot(LINEAGE, snap(1)).unwrap(), repo: again, far: world.far };
    let opened = world.far.gets();
    assert!(world.fetch((0..500).chain([700])).is_empty());
    fetch_one(&world.reader, 900).unwrap();
    assert_eq!((world.far.ranges(), world.far.gets()), (vec![], 0), "neither bodies nor pages; {opened} to open it");
    assert!(world.fetch(500..510).is_empty());
    assert_eq!(world.far.ranges().len(), 1);
    // A chunk that is damaged in the repository alone is good here, and bad for verify.
    world.damage(3);
    assert!(world.fetch(3..4).is_empty());
    world.far.ranges();
    let found = world.verify();
    assert_eq!((found.bad_chunks, found.bad[0].first), (1, ChunkNo(3)));
    let bytes: u64 = world.far.ranges().iter().map(|(_, r)| r.end - r.start).sum();
    assert_eq!(bytes, CHUNKS * BODY);
}

#[test]
fn a_kept_file_that_is_damaged_is_dropped_and_fetched_anew() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::with(Some(kept_in(dir.path())));
    let file = |hash: Hash32| dir.path().join(&hash.to_string()[..2]).join(hash.to_string());
    let file = file(world.entry(8).hash);
    fetch_one(&world.reader, 8).unwrap();
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    let longer = [&good[..], b"0"].concat();
    for (n, bad) in [&flipped[..], &good[..4096], &longer[..], &[]].into_iter().enumerate() {
        for many in [false, true] {
            std::fs::write(&file, bad).unwrap();
            world.far.ranges();
            if many {
                assert!(world.fetch(8..9).is_empty());
            } else {
                fetch_one(&world.reader, 8).unwrap();
            }
            assert_eq!(world.far.ranges().len(), 1, "damage {n}");
            assert!(std::fs::read(&file).unwrap() == good, "damage {n}: it is kept again");
        }
    }
    // With the repository out of reach, a damaged file is an error, and a good one is not.
    world.far.fail(0..u64::MAX, Kind::Io);
    fetch_one(&world.reader, 8).unwrap();
    std::fs::write(&file, b"").unwrap();
    assert_eq!(fetch_one(&world.reader, 8).unwrap_err().kind(), Kind::Io);
}
