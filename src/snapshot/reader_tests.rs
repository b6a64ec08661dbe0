use super::super::Folder;
use super::super::pack::{self, parse_pack};
use super::super::redirect::{Move, Redirect};
use super::super::testing::{Hooked, KEY, LINEAGE, author, chunk, repository, snap, spec};
use super::*;
use crate::cipher::{Sealed, SealedMut};
use crate::units::PackId;
use bytes::Bytes;

fn made() -> (Repository, Arc<dyn super::super::objects::Objects>) {
    let (repo, objects) = repository();
    let writer = repo.begin(spec(1, 600, None)).unwrap();
    for n in [1u64, 2, 599] {
        writer.put_chunk(ChunkNo(n), Sealed::made_up(&chunk(n as u8)), KEY).unwrap();
    }
    writer.finish().unwrap();
    (repo, objects)
}

fn pinning(key: PublicKey) -> Verify<'static> {
    Verify { pinned: Some(key), ..Verify::default() }
}

fn only(objects: &dyn super::super::objects::Objects, sort: &str) -> String {
    let all = objects.list("").unwrap();
    all.into_iter().find(|o| o.path.contains(&format!("/{sort}/"))).unwrap().path
}

#[test]
fn verify_names_the_bad_chunk_and_who_signed() {
    let (repo, objects) = made();
    let pinned = author(1).signer.public_key();
    let good = repo.verify(LINEAGE, snap(1), &mut pinning(pinned), &mut |_, _| true).unwrap();
    assert_eq!((good.trust, good.all, good.chunks, good.bad_chunks), (Trust::Attested, 3, 3, 0));
    assert_eq!(
        repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap().trust,
        Trust::Unattested
    );
    assert_eq!(
        repo.verify(LINEAGE, snap(1), &mut pinning([1; 32]), &mut |_, _| true).unwrap_err().kind(),
        Kind::Integrity
    );

    let pack = only(&*objects, "packs");
    let raw = objects.get(&pack, pack::PACK_MAX).unwrap();
    let index = parse_pack(&pack, &raw).unwrap();
    for (head, at) in &index.bodies {
        for offset in [0, 8, 24, 28, 32, 64, 64 + head.length as usize - 1] {
            let mut bad = raw.to_vec();
            bad[*at as usize + offset] ^= 1;
            objects.put_over(&pack, Bytes::from(bad)).unwrap();
            let found = repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap();
            assert_eq!(found.bad.iter().map(|b| b.first).collect::<Vec<_>>(), [head.chunk], "offset {offset}");
            let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
            assert_eq!(
                reader.fetch(head.chunk, SealedMut::over(&mut vec![0; CHUNK])).unwrap_err().kind(),
                Kind::Integrity
            );
        }
    }
    objects.put_over(&pack, raw.slice(..200)).unwrap();
    assert_eq!(repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap().bad.len(), 3);
    objects.delete(&pack).unwrap();
    assert_eq!(repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap().bad.len(), 3);
}

#[test]
fn a_damaged_page_is_named_by_its_chunks() {
    let (repo, objects) = made();
    // Reopened, so that no page is in the cache.
    for object in objects.list("").unwrap().iter().filter(|o| o.path.contains("/pages/")) {
        let raw = objects.get(&object.path, 1 << 20).unwrap();
        let mut bad = raw.to_vec();
        bad[40] ^= 1;
        objects.put_over(&object.path, Bytes::from(bad)).unwrap();
        let fresh = Repository::open_in(objects.clone(), super::super::testing::env().0, Some(author(1))).unwrap();
        let found = fresh.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap();
        assert_eq!(found.bad.len(), 1);
        assert!(found.bad[0].count <= 600);
        objects.put_over(&object.path, raw).unwrap();
    }
    assert!(repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap().bad.is_empty());
}

#[test]
fn a_changed_manifest_is_refused() {
    let (repo, objects) = made();
    let path = only(&*objects, "manifests");
    let raw = objects.get(&path, 1 << 20).unwrap();
    for i in 0..raw.len() {
        let mut bad = raw.to_vec();
        bad[i] ^= 1;
        objects.put_over(&path, Bytes::from(bad)).unwrap();
        assert!(repo.open_snapshot(LINEAGE, snap(1)).is_err(), "byte {i}");
    }
}

#[test]
fn a_moved_pack_is_found_through_its_redirect() {
    let (repo, objects) = made();
    let path = only(&*objects, "packs");
    let raw = objects.get(&path, pack::PACK_MAX).unwrap();
    let index = parse_pack(&path, &raw).unwrap();
    let new = PackId([0xaa; 16]);
    let moves = index.bodies.iter().map(|(h, at)| Move { offset: *at, length: h.length, pack: new, new_offset: *at });
    let redirect = Redirect { old: index.id, moves: moves.collect() };
    let folder = Folder { lineage: LINEAGE, installation: author(1).installation };
    objects.put_new(&folder.path("packs", new), raw).unwrap();
    objects.put_new(&folder.path("redirects", index.id), Bytes::from(redirect.encode())).unwrap();
    objects.delete(&path).unwrap();
    repo.sweep(LINEAGE).unwrap();
    assert!(repo.verify(LINEAGE, snap(1), &mut Verify::default(), &mut |_, _| true).unwrap().bad.is_empty());
    assert!(objects.head(&folder.path("packs", new)).unwrap().is_some());
}

/// By seeds: whichever sectors are stored, each ends up in its place, whatever the buffer contained before.
#[test]
fn stored_sectors_are_spread_to_their_places() {
    let mut rng = crate::volume::testing::Seeded(7);
    for round in 0..60 {
        let (mut map, mut want, mut out) = (SectorMap::default(), vec![0u8; CHUNK], vec![0xeeu8; CHUNK]);
        let share = [0, 1, 5, 9, 10][round % 5];
        for i in (0..SECTORS_PER_CHUNK).filter(|_| rng.below(10) < share) {
            out[map.count() * SECTOR..][..SECTOR].fill(i as u8 + 1);
            want[i * SECTOR..][..SECTOR].fill(i as u8 + 1);
            map.set(i);
        }
        spread(map, &mut out);
        assert!(out == want, "round {round}, {} sectors", map.count());
    }
}

#[test]
fn all_pages_are_read_whatever_the_sample() {
    let (repo, objects) = repository();
    let writer = repo.begin(spec(1, 30_000, None)).unwrap();
    for n in 0..3000u64 {
        writer.put_chunk(ChunkNo(n * 10), Sealed::made_up(&chunk(1)), KEY).unwrap();
    }
    writer.finish().unwrap();
    let rng = &crate::env::SystemRng;
    let mut looked = 0;
    let mut verify = |of_a_million| {
        let mut go_on = |done, all| {
            looked = looked.max(done + 1);
            assert_eq!(all, 3000);
            true
        };
        let mut run = Verify { sample: Some((of_a_million, rng)), ..Verify::default() };
        repo.verify(LINEAGE, snap(1), &mut run, &mut go_on).unwrap()
    };
    assert_eq!(verify(0).chunks, 0);
    assert_eq!(verify(1_000_000).chunks, 3000);
    // Less likely than 2^-200 to be outside: 13 standard deviations.
    let some = verify(100_000);
    assert!((90..600).contains(&some.chunks), "{}", some.chunks);
    assert_eq!((some.all, some.bytes, looked), (3000, some.chunks * 2 * 4096, 3000));

    let page = repo.open_snapshot(LINEAGE, snap(1)).unwrap().tree().name_of(0, 5).unwrap();
    let page = objects.list("").unwrap().into_iter().find(|o| o.name() == page.to_string()).unwrap();
    objects.delete(&page.path).unwrap();
    repo.inner.cache.clear();
    let mut run = Verify { sample: Some((0, rng)), ..Verify::default() };
    let found = repo.verify(LINEAGE, snap(1), &mut run, &mut |_, _| true).unwrap();
    assert_eq!((found.bad[0].first, found.bad_chunks, found.bad.len()), (ChunkNo(5 * 256), 256, 1));
}

/// What snapshots share is read once in a run, and counts for each of them; a bad chunk is told for each of them.
#[test]
fn a_run_over_a_chain_reads_shared_chunks_once() {
    let (_, objects) = repository();
    let objects: Arc<dyn super::super::objects::Objects> = Arc::new(Hooked(objects));
    let repo = Repository::open_in(objects.clone(), super::super::testing::env().0, Some(author(1))).unwrap();
    for n in 1..=3u64 {
        let writer = repo.begin(spec(n, 1000, (n > 1).then(|| n - 1))).unwrap();
        for c in if n == 1 { 0..600 } else { n..n + 1 } {
            writer.put_chunk(ChunkNo(c), Sealed::made_up(&chunk(n as u8)), KEY).unwrap();
        }
        writer.finish().unwrap();
    }
    let verify = |ids: &[u64]| {
        let mut run = Verify::default();
        Hooked::reads();
        let one = |n: &u64| repo.verify(LINEAGE, snap(*n), &mut run, &mut |_, _| true).unwrap();
        let found: Vec<_> = ids.iter().map(one).collect();
        (found, Hooked::reads())
    };
    let (found, reads) = verify(&[1, 2, 3]);
    for found in found {
        assert_eq!((found.all, found.chunks, found.bad_chunks), (600, 600, 0));
    }
    // The second and the third have a leaf page of their own, of 256 chunks; the rest are manifests, logs and pages.
    let bodies = 600 + 2 * 256;
    assert!((bodies..bodies + 50).contains(&reads), "{reads} reads");
    // A bad chunk in a page that all three share is bad in each.
    let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
    let entry = reader.tree().entry(ChunkNo(300)).unwrap();
    let pack = objects.list("").unwrap().into_iter().find(|o| o.name() == entry.pack().to_string()).unwrap();
    let mut raw = objects.get(&pack.path, pack::PACK_MAX).unwrap().to_vec();
    raw[entry.offset as usize + pack::HEAD] ^= 1;
    objects.put_over(&pack.path, Bytes::from(raw)).unwrap();
    for found in verify(&[1, 2, 3]).0 {
        assert_eq!((found.bad_chunks, found.bad[0].first), (1, ChunkNo(300)));
    }
}
