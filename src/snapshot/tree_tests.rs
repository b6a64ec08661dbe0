use super::super::testing::{KEY, LINEAGE, chunk, repository, snap, spec};
use crate::cipher::Sealed;
use crate::units::ChunkNo;
use crate::volume::parent::Parent;
use crate::volume::testing::Seeded;
use std::collections::BTreeSet;

/// The chunks of a sparse tree: some scattered, some in runs, some at the edges of pages and at both ends.
fn some_chunks(random: &mut Seeded, chunks: u64) -> BTreeSet<u64> {
    let mut set = BTreeSet::new();
    for _ in 0..random.below(6) {
        set.insert(random.below(chunks));
        let run = random.below(chunks);
        set.extend((run..run + random.below(4)).filter(|c| *c < chunks));
        let edge = random.below(chunks) / 256 * 256;
        set.extend([edge, edge + 255].into_iter().filter(|c| *c < chunks && random.below(2) == 0));
    }
    set.extend([0, chunks - 1].into_iter().filter(|_| random.below(4) == 0));
    set
}

#[test]
fn the_next_chunk_is_what_a_search_through_all_finds() {
    let (repo, _) = repository();
    let mut made = 0;
    let mut met = BTreeSet::new();
    for (depth, chunks) in [(1, 1), (1, 200), (1, 256), (2, 257), (2, 3000), (2, 65_536), (3, 65_537), (3, 1 << 20)] {
        for seed in 1..=8u64 {
            let mut random = Seeded(seed << 32 | chunks);
            let set = some_chunks(&mut random, chunks);
            made += 1;
            let writer = repo.begin(spec(made, chunks, None)).unwrap();
            for c in &set {
                writer.put_chunk(ChunkNo(*c), Sealed::made_up(&chunk(1)), KEY).unwrap();
            }
            writer.finish().unwrap();
            let reader = repo.open_snapshot(LINEAGE, snap(made)).unwrap();
            let tree = reader.tree();
            assert_eq!(tree.depth(), depth);

            let near = set.iter().flat_map(|c| [c.saturating_sub(1), *c, c + 1, c + 255, c + 256]);
            let anywhere: Vec<u64> = (0..20).map(|_| random.below(chunks + 300)).collect();
            let all = if chunks <= 300 { 0..chunks + 2 } else { 0..0 };
            let ends = [0, chunks - 1, chunks, chunks + 1, 1 << 24, (1 << 24) + 1, u64::MAX / 1024];
            for from in near.chain(anywhere).chain(all).chain(ends) {
                let expected = set.iter().copied().find(|c| *c >= from).map(ChunkNo);
                let found = tree.next(ChunkNo(from)).unwrap();
                assert_eq!(found, expected, "from {from} of {chunks} chunks, seed {seed}: {set:?}");
                assert_eq!(reader.next_with_sectors(ChunkNo(from)).unwrap(), expected);
                met.insert((depth, expected.is_some()));
            }
            let mut walked = BTreeSet::new();
            let mut at = ChunkNo(0);
            while let Some(found) = reader.next_with_sectors(at).unwrap() {
                walked.insert(found.0);
                at = ChunkNo(found.0 + 1);
            }
            assert_eq!(walked, set, "{chunks} chunks, seed {seed}");
        }
    }
    assert_eq!(met.len(), 6, "both answers, at each depth: {met:?}");
}

#[test]
fn the_next_chunk_is_not_guessed_past_a_page_that_is_gone() {
    let (repo, objects) = repository();
    let writer = repo.begin(spec(1, 3000, None)).unwrap();
    for c in [5, 2900] {
        writer.put_chunk(ChunkNo(c), Sealed::made_up(&chunk(1)), KEY).unwrap();
    }
    writer.finish().unwrap();
    let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
    let name = reader.tree().name_of(0, 2900 / 256).unwrap();
    let page = objects.list("").unwrap().into_iter().find(|o| o.name() == name.to_string()).unwrap();
    objects.delete(&page.path).unwrap();
    let fresh = super::super::repository::Repository::open_in(objects, super::super::testing::env().0, None).unwrap();
    let reader = fresh.open_snapshot(LINEAGE, snap(1)).unwrap();
    assert_eq!(reader.next_with_sectors(ChunkNo(0)).unwrap(), Some(ChunkNo(5)));
    assert!(reader.next_with_sectors(ChunkNo(6)).is_err());
}
