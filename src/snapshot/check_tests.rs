use super::super::compact::Threshold;
use super::super::mark::All;
use super::super::objects::Objects;
use super::super::testing::{Content, LINEAGE, author, env, make, repository, snap, spec};
use super::*;
use bytes::Bytes;
use std::sync::Arc;

const CHUNKS: u64 = 600;

/// A repository with a compacted pack and live snapshots.
fn made() -> Arc<dyn Objects> {
    let (repo, objects) = repository();
    let mut base = None;
    for id in 1..=5 {
        let changes: Content = (0..6).map(|i| ((id * (i + 2) + i) % 9 * 60, (id * 7 + i) as u8 + 1)).collect();
        make(&repo, spec(id, CHUNKS, base), &changes);
        base = Some(id);
    }
    [1, 2].iter().for_each(|id| repo.delete(LINEAGE, snap(*id)).unwrap());
    assert!(repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap().packs > 0);
    // Without the last record, nothing is missing.
    [true, false].iter().for_each(|held| repo.hold(LINEAGE, snap(5), *held).unwrap());
    objects
}

fn check(objects: &Arc<dyn Objects>, read_data: bool) -> Checked {
    let repo = Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap();
    repo.check(LINEAGE, &All, read_data, &mut |_, _| true).unwrap()
}

#[test]
fn a_good_repository_has_no_problems() {
    let objects = made();
    for read_data in [false, true] {
        let found = check(&objects, read_data);
        assert_eq!((found.problems, found.orphans), (Vec::new(), Vec::new()));
        let all = objects.list("").unwrap();
        assert_eq!(found.objects as usize, all.iter().filter(|o| o.path.contains('/')).count());
    }
}

/// Whatever object is missing, cut off or changed, the check names it; a changed body only if it reads all data.
#[test]
fn whatever_is_damaged_or_missing_is_named() {
    let objects = made();
    for object in objects.list("").unwrap().into_iter().filter(|o| o.path.contains('/')) {
        let good = objects.get(&object.path, 1 << 26).unwrap();
        let mut flipped = good.to_vec();
        let at = if object.path.contains("/packs/") { 64 + 64 + 5 } else { good.len() / 2 };
        flipped[at] ^= 1;
        let cut = good.slice(..good.len() - 1);
        for (what, bytes) in [("missing", None), ("cut", Some(cut)), ("flipped", Some(Bytes::from(flipped)))] {
            match bytes {
                None => objects.delete(&object.path).unwrap(),
                Some(bytes) => objects.put_over(&object.path, bytes).unwrap(),
            }
            let found = check(&objects, true).problems;
            let of_log = object.path.contains("/log/");
            let is_named = found.iter().any(|why| why.contains(&object.path) || of_log && why.contains("/log/"));
            // The pack that a redirect moves is gone: which one is missing is all that is known.
            let old_pack = object.path.replace("/redirects/", "/packs/");
            let is_named = is_named || found.iter().any(|why| why.contains(&old_pack) || why.contains(object.name()));
            // Without its last record a log looks rolled back: the catalog knows that.
            let is_last =
                of_log && objects.list("").unwrap().iter().all(|o| !o.path.contains("/log/") || o.path <= object.path);
            assert!(is_named || is_last && what == "missing", "{what} {}: {found:?}", object.path);
            let light = check(&objects, false).problems;
            let is_body = object.path.contains("/packs/") && what == "flipped";
            assert!(light.is_empty() == (is_body || is_last && what == "missing"), "{what} {}: {light:?}", object.path);
            objects.put_over(&object.path, good.clone()).unwrap();
        }
    }
    assert!(check(&objects, true).problems.is_empty());
}

#[test]
fn what_nothing_needs_and_what_has_no_name_is_listed() {
    let objects = made();
    let own = Folder { lineage: LINEAGE, installation: author(1).installation };
    let repo = Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap();
    let writer = repo.begin(spec(9, CHUNKS, Some(5))).unwrap();
    let full = vec![7; crate::units::CHUNK];
    for n in 0..70 {
        writer
            .put_chunk(crate::units::ChunkNo(n), crate::cipher::Sealed::made_up(&full), super::super::testing::KEY)
            .unwrap();
    }
    let found = repo.check(LINEAGE, &All, true, &mut |_, _| true).unwrap();
    assert!(found.orphans.is_empty(), "a running create needs them: {:?}", found.orphans);
    drop(writer);
    let found = repo.check(LINEAGE, &All, true, &mut |_, _| true).unwrap();
    assert_eq!((found.orphans.len(), found.problems.len()), (1, 0));
    objects.put_new(&own.path("pages", "nonsense"), Bytes::from_static(b"?")).unwrap();
    let found = repo.check(LINEAGE, &All, true, &mut |_, _| true).unwrap();
    assert!(found.problems.len() == 1 && found.problems[0].contains("nonsense"), "{:?}", found.problems);
    let stopped = repo.check(LINEAGE, &All, true, &mut |_, _| false).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Interrupted);
}

#[test]
fn a_redirect_to_a_pack_that_was_moved_itself_is_a_problem() {
    use super::super::redirect::{Move, Redirect};
    let objects = made();
    let own = Folder { lineage: LINEAGE, installation: author(1).installation };
    let all = objects.list(&own.sort("redirects")).unwrap();
    let old: PackId = all[0].name().parse().unwrap();
    let mut redirect = Redirect::parse(&all[0].path, old, &objects.get(&all[0].path, 1 << 20).unwrap()).unwrap();
    let to = redirect.moves[0];
    let next = Redirect { old: PackId([5; 16]), moves: vec![Move { offset: to.new_offset, ..to }] };
    objects.put_new(&own.path("redirects", next.old), Bytes::from(next.encode())).unwrap();
    redirect.moves[0] = Move { pack: next.old, ..to };
    objects.put_over(&all[0].path, Bytes::from(redirect.encode())).unwrap();
    let found = check(&objects, false);
    assert!(found.problems.iter().any(|why| why.contains("final place")), "{:?}", found.problems);
}
