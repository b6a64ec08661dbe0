use super::*;
use crate::cipher::Sealed;
use crate::snapshot::repository::Repository;
use crate::snapshot::testing::{KEY, chunk, repository, snap, spec};
use crate::snapshot::writer::SnapshotSpec;
use crate::units::LineageId;

const C: u64 = CHUNK as u64;
/// Bytes in the last chunk of a volume that ends within that chunk's last sector.
const TAIL: u64 = 127 * 4096 + 512;

/// Takes snapshot `n` of a volume of `size` bytes with these chunks, each with a seed; 0 makes it a hole.
fn take(repo: &Repository, n: u64, size: u64, base: Option<u64>, chunks: &[(u64, u8)]) -> SnapshotReader {
    take_of(repo, SnapshotSpec { size, ..spec(n, 1, base) }, chunks)
}

fn take_of(repo: &Repository, spec: SnapshotSpec, chunks: &[(u64, u8)]) -> SnapshotReader {
    let (lineage, id) = (spec.lineage, spec.id);
    let writer = repo.begin(spec).unwrap();
    for (c, seed) in chunks {
        writer.put_chunk(ChunkNo(*c), Sealed::made_up(&chunk(*seed)), KEY).unwrap();
    }
    writer.finish().unwrap();
    repo.open_snapshot(lineage, id).unwrap()
}

fn all(from: Option<&SnapshotReader>, to: &SnapshotReader) -> ChangesInfo {
    changes(from, to, 0, MOST, &mut |_| true).unwrap()
}

fn ranges(info: &ChangesInfo) -> Vec<(u64, u64, bool)> {
    info.ranges.iter().map(|r| (r.offset, r.length, r.zero)).collect()
}

#[test]
fn ranges_are_of_neighbouring_chunks_and_end_with_the_snapshot() {
    let (repo, _) = repository();
    let one = take(&repo, 1, 10 * C, None, &[(0, 1), (1, 1), (2, 1), (7, 1)]);
    let size = 20 * C + TAIL;
    let two = take(&repo, 2, size, Some(1), &[(1, 2), (2, 0), (3, 2), (4, 2), (20, 2)]);
    let found = all(Some(&one), &two);
    assert_eq!((found.from, found.to), (Some(snap(1)), snap(2)));
    assert_eq!((found.from_size, found.size, found.next), (Some(10 * C), size, None));
    assert_eq!(ranges(&found), [(C, C, false), (2 * C, C, true), (3 * C, 2 * C, false), (20 * C, TAIL, false)]);
    // The other way round nothing past the smaller one's end is listed.
    assert_eq!(ranges(&all(Some(&two), &one)), [(C, 2 * C, false), (3 * C, 2 * C, true)]);
    let whole = all(None, &two);
    assert_eq!((whole.from, whole.from_size), (None, None));
    assert_eq!(ranges(&whole), [(0, 2 * C, false), (3 * C, 2 * C, false), (7 * C, C, false), (20 * C, TAIL, false)]);
}

#[test]
fn parts_of_an_answer_add_up_to_all_of_it() {
    let (repo, _) = repository();
    let one = take(&repo, 1, 2000 * C, None, &[(3, 1), (4, 1), (900, 1)]);
    let chunks: Vec<_> = (0..40).map(|i| (i * 37, 2)).chain([(4, 0), (900, 0), (901, 2), (902, 2)]).collect();
    let two = take(&repo, 2, 2000 * C, Some(1), &chunks);
    let whole = all(Some(&one), &two);
    assert!(whole.ranges.len() > 40 && whole.next.is_none());
    for most in [1, 2, 7, whole.ranges.len() - 1, whole.ranges.len()] {
        let (mut parts, mut start) = (Vec::new(), 0);
        loop {
            let part = changes(Some(&one), &two, start, most, &mut |_| true).unwrap();
            assert!(part.ranges.len() <= most);
            parts.extend(part.ranges);
            match part.next {
                Some(next) => start = next,
                None => break,
            }
        }
        assert_eq!(parts, whole.ranges, "{most} at a time");
    }
    let past = changes(Some(&one), &two, u64::MAX, MOST, &mut |_| true).unwrap();
    assert_eq!((past.ranges.len(), past.next), (0, None));
}

#[test]
fn snapshots_of_two_lineages_are_not_compared_and_who_hangs_up_is_not_waited_for() {
    let (repo, _) = repository();
    let one = take(&repo, 1, C, None, &[(0, 1)]);
    let other = take_of(&repo, SnapshotSpec { lineage: LineageId([9; 16]), ..spec(2, 1, None) }, &[(0, 1)]);
    let refused = changes(Some(&one), &other, 0, MOST, &mut |_| true).unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(refused.line().contains("not of one lineage"), "{}", refused.line());
    let chunks: Vec<_> = (0..LOOK).map(|c| (c, 1)).collect();
    let long = take(&repo, 3, LOOK * C, None, &chunks);
    assert_eq!(changes(None, &long, 0, MOST, &mut |_| false).unwrap_err().kind(), Kind::Interrupted);
}
