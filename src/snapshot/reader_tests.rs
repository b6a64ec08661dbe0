use super::super::pack::parse_pack;
use super::super::redirect::Move;
use super::super::testing::{KEY, LINEAGE, author, chunk, repository, snap, spec};
use super::*;
use crate::cipher::{Sealed, SealedMut};
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

fn only(objects: &dyn super::super::objects::Objects, sort: &str) -> String {
    let all = objects.list("").unwrap();
    all.into_iter().find(|o| o.path.contains(&format!("/{sort}/"))).unwrap().path
}

#[test]
fn verify_names_the_bad_chunk_and_who_signed() {
    let (repo, objects) = made();
    let pinned = author(1).signer.public_key();
    let good = repo.verify(LINEAGE, snap(1), Some(pinned), &mut |_| true).unwrap();
    assert_eq!((good.trust, good.chunks, good.bad.len()), (Trust::Attested, 3, 0));
    assert_eq!(repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap().trust, Trust::Unattested);
    assert_eq!(repo.verify(LINEAGE, snap(1), Some([1; 32]), &mut |_| true).unwrap_err().kind(), Kind::Integrity);

    let pack = only(&*objects, "packs");
    let raw = objects.get(&pack, pack::PACK_MAX).unwrap();
    let index = parse_pack(&pack, &raw).unwrap();
    for (head, at) in &index.bodies {
        for offset in [0, 8, 24, 28, 32, 64, 64 + head.length as usize - 1] {
            let mut bad = raw.to_vec();
            bad[*at as usize + offset] ^= 1;
            objects.put_over(&pack, Bytes::from(bad)).unwrap();
            let found = repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap();
            assert_eq!(found.bad.iter().map(|b| b.first).collect::<Vec<_>>(), [head.chunk], "offset {offset}");
            let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
            assert_eq!(
                reader.fetch(head.chunk, SealedMut::over(&mut vec![0; CHUNK])).unwrap_err().kind(),
                Kind::Integrity
            );
        }
    }
    objects.put_over(&pack, raw.slice(..200)).unwrap();
    assert_eq!(repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap().bad.len(), 3);
    objects.delete(&pack).unwrap();
    assert_eq!(repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap().bad.len(), 3);
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
        let found = fresh.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap();
        assert_eq!(found.bad.len(), 1);
        assert!(found.bad[0].count <= 600);
        objects.put_over(&object.path, raw).unwrap();
    }
    assert!(repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap().bad.is_empty());
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
    assert!(repo.verify(LINEAGE, snap(1), None, &mut |_| true).unwrap().bad.is_empty());
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
