use super::super::compact::Threshold;
use super::super::mark::All;
use super::super::refs::RefKind;
use super::super::testing::{Content, LINEAGE, count, make, repository, snap, spec};
use super::*;
use crate::volume::testing::Seeded;
use std::collections::BTreeMap;

const CHUNKS: u64 = 600;

fn stored(objects: &dyn super::super::objects::Objects) -> u64 {
    let is_data = |o: &&Listed| !o.path.contains("/log/") && o.path.contains('/');
    objects.list("").unwrap().iter().filter(is_data).map(|o| o.size).sum()
}

/// What a snapshot is said to give back is what deleting it, and then collecting garbage, gives back.
#[test]
fn the_unique_bytes_of_a_snapshot_are_what_deleting_it_gives_back() {
    for seed in 1..12 {
        let mut dice = Seeded(seed);
        let (repo, objects) = repository();
        let mut live: BTreeMap<u64, Content> = BTreeMap::new();
        for id in 1..=7 {
            let base = live.keys().nth(dice.below(live.len().max(1) as u64) as usize).copied();
            let changes: Content = (0..5).map(|_| (dice.below(12) * 45, dice.below(7) as u8)).collect();
            make(&repo, spec(id, CHUNKS, base), &changes);
            live.insert(id, changes);
        }
        while !live.is_empty() {
            repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap();
            let stats = repo.stats(LINEAGE, &All).unwrap();
            assert_eq!(stats.unique.len(), live.len());
            assert_eq!(stats.packs.objects as usize, count(&*objects, "packs"));
            assert!(stats.shared <= stats.live && stats.live + stats.garbage == stats.packs.bytes);
            let id = *live.keys().nth(dice.below(live.len() as u64) as usize).unwrap();
            let (_, unique) = *stats.unique.iter().find(|(of, _)| *of == snap(id)).unwrap();
            let before = stats.live + stats.pages.bytes + stats.manifests.bytes;
            repo.delete(LINEAGE, snap(id)).unwrap();
            live.remove(&id);
            repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap();
            let stats = repo.stats(LINEAGE, &All).unwrap();
            let after = stats.live + stats.pages.bytes + stats.manifests.bytes;
            assert_eq!(before - after, unique, "seed {seed}, snapshot {id}");
        }
        assert_eq!(stored(&*objects), 0);
    }
}

#[test]
fn refs_are_listed_readable_or_not_and_removed_by_name() {
    let (repo, objects) = repository();
    make(&repo, spec(1, CHUNKS, None), &[(0, 1)].into());
    repo.put_ref(LINEAGE, "vol-base", RefKind::Volume, snap(1)).unwrap();
    let bad = format!("{LINEAGE}/refs/damaged");
    objects.put_new(&bad, bytes::Bytes::from_static(b"{")).unwrap();
    let refs = repo.stats(LINEAGE, &All).unwrap().refs;
    assert_eq!(refs.iter().filter(|r| r.content.is_ok()).count(), 1);
    let damaged = refs.iter().find(|r| r.content.is_err()).unwrap();
    assert_eq!(damaged.name, "damaged");
    for name in ["", "..", "a/b", "../coffer-repository.json"] {
        assert_eq!(repo.remove_ref(LINEAGE, name).unwrap_err().kind(), Kind::Usage, "{name:?}");
    }
    refs.iter().for_each(|r| repo.remove_ref(LINEAGE, &r.name).unwrap());
    assert!(repo.found_refs(LINEAGE).unwrap().is_empty());
}
