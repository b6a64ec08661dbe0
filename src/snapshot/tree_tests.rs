use super::super::repository::Repository;
use super::super::testing::{Hooked, KEY, LINEAGE, chunk, env, repository, snap, spec};
use crate::cipher::Sealed;
use crate::units::ChunkNo;
use crate::volume::parent::Parent;
use crate::volume::testing::Seeded;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

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
    let fresh = Repository::open_in(objects, env().0, None).unwrap();
    let reader = fresh.open_snapshot(LINEAGE, snap(1)).unwrap();
    assert_eq!(reader.next_with_sectors(ChunkNo(0)).unwrap(), Some(ChunkNo(5)));
    assert!(reader.next_with_sectors(ChunkNo(6)).is_err());
}

/// Two trees of 2^20 chunks (three levels) of which 400 leaf pages are filled; the second differs in `changed`.
fn two_large_trees(repo: &Repository, changed: &[u64]) {
    let first = repo.begin(spec(1, 1 << 20, None)).unwrap();
    for page in 0..400 {
        first.put_chunk(ChunkNo(page * 256 + page % 256), Sealed::made_up(&chunk(1)), KEY).unwrap();
    }
    first.finish().unwrap();
    let second = repo.begin(spec(2, 1 << 20, Some(1))).unwrap();
    for c in changed {
        second.put_chunk(ChunkNo(*c), Sealed::made_up(&chunk(2)), KEY).unwrap();
    }
    second.finish().unwrap();
}

#[test]
fn a_diff_reads_the_pages_that_differ_and_no_others() {
    let (repo, objects) = repository();
    // Two leaf pages of one page above them, and one of another.
    let changed = [3, 257, 300 * 256 + 9];
    two_large_trees(&repo, &changed);
    let cold = Repository::open_in(Arc::new(Hooked(objects)), env().0, None).unwrap();
    let [one, two] = [1, 2].map(|n| cold.open_snapshot(LINEAGE, snap(n)).unwrap());
    for (start, stop_after, met, pages) in [
        // The root, two pages below it and three leaf pages, of each tree.
        (0, 10, &changed[..], 2 * 6),
        // What is before the start is not read: the root, one page and one leaf.
        (1 << 16, 10, &changed[2..], 2 * 3),
        // Nor what is behind the end: the root, one page, one leaf.
        (0, 1, &changed[..1], 2 * 3),
    ] {
        cold.inner.cache.clear();
        Hooked::reads();
        let mut found = Vec::new();
        let mut each = |c: ChunkNo, _| {
            found.push(c.0);
            Ok(if found.len() == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        two.changed_since(Some(&one), ChunkNo(start), &mut each).unwrap();
        assert_eq!((&found[..], Hooked::reads()), (met, pages), "from {start}");
    }
    cold.inner.cache.clear();
    one.changed_since(Some(&one), ChunkNo(0), &mut |_, _| panic!("it does not differ from itself")).unwrap();
    assert_eq!(Hooked::reads(), 0);
}

/// By seeds: whatever two trees hold, their diff from any chunk on is what a comparison of all entries finds.
#[test]
fn a_diff_is_what_a_comparison_of_all_entries_finds() {
    for seed in 1..=30u64 {
        let (mut random, (repo, _)) = (Seeded(seed), repository());
        let sizes = [random.below(700) + 1, random.below(70_000) + 1];
        let held = sizes.map(|chunks| some_chunks(&mut random, chunks));
        for (i, set) in held.iter().enumerate() {
            let writer = repo.begin(spec(i as u64 + 1, sizes[i], None)).unwrap();
            for c in set {
                writer.put_chunk(ChunkNo(*c), Sealed::made_up(&chunk(1 + random.below(2) as u8)), KEY).unwrap();
            }
            writer.finish().unwrap();
        }
        let [one, two] = [1, 2].map(|n| repo.open_snapshot(LINEAGE, snap(n)).unwrap());
        let entry = |tree: &super::Tree, c| tree.entry(ChunkNo(c)).unwrap();
        let near: BTreeSet<u64> = held[0].union(&held[1]).copied().collect();
        for start in [0, random.below(700), random.below(70_000)] {
            let differs = |c: &u64| !entry(one.tree(), *c).same_content(&entry(two.tree(), *c));
            let expected: Vec<u64> = near.range(start..).copied().filter(differs).collect();
            let mut found = Vec::new();
            let mut each = |c: ChunkNo, some| {
                assert_eq!(some, held[1].contains(&c.0));
                found.push(c.0);
                Ok(ControlFlow::Continue(()))
            };
            two.changed_since(Some(&one), ChunkNo(start), &mut each).unwrap();
            assert_eq!(found, expected, "seed {seed}, from {start}");
        }
    }
}
