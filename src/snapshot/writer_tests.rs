use super::super::reader::Verify;
use super::super::testing::{Faulty, KEY, LINEAGE, author, chunk, env, memory, repository, snap, spec};
use super::*;
use crate::cipher::SealedMut;
use crate::volume::parent::Parent;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

fn put(writer: &SnapshotWriter, n: u64, seed: u8) {
    writer.put_chunk(ChunkNo(n), Sealed::made_up(&chunk(seed)), KEY).unwrap();
}

fn holds(repo: &Repository, id: u64, content: &[(u64, u8)]) {
    let reader = repo.open_snapshot(LINEAGE, snap(id)).unwrap();
    let mut out = vec![1; CHUNK];
    for (n, seed) in content {
        let tag = reader.fetch(ChunkNo(*n), SealedMut::over(&mut out)).unwrap();
        assert_eq!((tag, &out), ((*seed != 0).then(|| KEY.tag()), &chunk(*seed)), "chunk {n}");
    }
    let verified = repo.verify(LINEAGE, snap(id), &mut Verify::default(), &mut |_, _| true).unwrap();
    assert!(verified.bad.is_empty(), "{:?}", verified.bad);
}

/// The chunks from `start` on that differ between two snapshots, and whether the second has any sector of them.
fn differing(repo: &Repository, from: Option<u64>, to: u64, start: u64) -> Vec<(u64, bool)> {
    let open = |n| repo.open_snapshot(LINEAGE, snap(n)).unwrap();
    let (base, mut found) = (from.map(open), Vec::new());
    let mut each = |chunk: ChunkNo, some| {
        found.push((chunk.0, some));
        Ok(ControlFlow::Continue(()))
    };
    open(to).changed_since(base.as_ref(), ChunkNo(start), &mut each).unwrap();
    found
}

#[test]
fn only_what_differs_from_the_base_is_stored() {
    let (repo, _) = repository();
    let first = repo.begin(spec(1, 1000, None)).unwrap();
    for (n, seed) in [(0, 1), (300, 2), (999, 3), (500, 0)] {
        put(&first, n, seed);
    }
    assert_eq!(first.finish().unwrap().stats.chunks, 3);
    let second = repo.begin(spec(2, 1000, Some(1))).unwrap();
    put(&second, 0, 1);
    put(&second, 300, 9);
    put(&second, 999, 0);
    let done = second.finish().unwrap();
    assert_eq!((done.stats.chunks, done.stats.changed, done.stats.stored_bytes), (2, 2, 2 * 4096));
    holds(&repo, 1, &[(0, 1), (300, 2), (999, 3), (500, 0)]);
    holds(&repo, 2, &[(0, 1), (300, 9), (999, 0), (500, 0)]);
    assert_eq!(differing(&repo, Some(1), 2, 0), [(300, true), (999, false)]);
    assert_eq!(differing(&repo, Some(1), 2, 301), [(999, false)], "from a later chunk on");
    assert_eq!(differing(&repo, None, 2, 0), [(0, true), (300, true)], "against nothing");
}

#[test]
fn a_volume_that_grew_takes_over_the_smaller_tree() {
    let (repo, _) = repository();
    let first = repo.begin(spec(1, 200, None)).unwrap();
    put(&first, 7, 1);
    let small = first.finish().unwrap();
    for (id, base, chunks) in [(2u64, 1u64, 300u64), (3, 1, 70_000), (4, 2, 20_000_000)] {
        let grown = repo.begin(spec(id, chunks, Some(base))).unwrap();
        if id == 3 {
            put(&grown, 69_999, 5);
        }
        let done = grown.finish().unwrap();
        assert_ne!(done.root, small.root);
        holds(&repo, id, &[(7, 1), (8, 0), (chunks - 1, if id == 3 { 5 } else { 0 })]);
    }
    assert_eq!(differing(&repo, Some(1), 3, 0), [(69_999, true)]);
    assert_eq!(differing(&repo, Some(3), 1, 8), [(69_999, false)]);
    assert_eq!(differing(&repo, Some(4), 2, 0), [], "only the size differs");
    assert_eq!(repo.begin(spec(5, 100, Some(1))).err().unwrap().kind(), Kind::Usage);
}

#[test]
fn an_empty_volume_of_eight_tebibytes_costs_nothing() {
    let (repo, objects) = repository();
    let done = repo.begin(spec(1, 16 << 20, None)).unwrap().finish().unwrap();
    assert_eq!((done.root, done.stats.pages, done.stats.packs), (Hash32::default(), 0, 0));
    // Description, genesis, key, add, manifest.
    assert_eq!(objects.list("").unwrap().len(), 5);
    holds(&repo, 1, &[(0, 0), ((16 << 20) - 1, 0)]);
}

#[test]
fn many_threads_fill_many_packs() {
    let (repo, _) = repository();
    let writer = repo.begin(spec(1, 400, None)).unwrap();
    let full = |n: u64| vec![n as u8 | 1; CHUNK];
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let writer = &writer;
            s.spawn(move || {
                for n in (t..200).step_by(4) {
                    writer.put_chunk(ChunkNo(n), Sealed::made_up(&full(n)), KEY).unwrap();
                }
            });
        }
    });
    let done = writer.finish().unwrap();
    assert!(done.stats.packs >= 3 && done.stats.stored_bytes == 200 * CHUNK as u64);
    let reader = repo.open_snapshot(LINEAGE, snap(1)).unwrap();
    let mut out = vec![0; CHUNK];
    for n in [0, 63, 64, 199] {
        reader.fetch(ChunkNo(n), SealedMut::over(&mut out)).unwrap();
        assert_eq!(out, full(n));
    }
}

#[test]
fn what_is_no_chunk_of_the_volume_is_refused() {
    let (repo, _) = repository();
    let mut small = spec(1, 2, None);
    small.size -= 4096;
    let writer = repo.begin(small.clone()).unwrap();
    let bad = |n: u64, bytes: &[u8]| writer.put_chunk(ChunkNo(n), Sealed::made_up(bytes), KEY).unwrap_err().kind();
    assert_eq!(bad(2, &chunk(1)), Kind::Usage);
    assert_eq!(bad(0, &chunk(1)[1..]), Kind::Usage);
    assert_eq!(bad(1, &chunk(1)), Kind::Usage);
    put(&writer, 0, 1);
    let twin = DataKeyId([7, 7, 7, 7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    let clash = writer.put_chunk(ChunkNo(0), Sealed::made_up(&chunk(2)), twin).unwrap_err();
    assert_eq!(clash.kind(), Kind::InvalidState);
    assert_eq!(repo.begin(small.clone()).err().unwrap().kind(), Kind::Busy);
    writer.abort().unwrap();
    repo.begin(small.clone()).unwrap().finish().unwrap();
    assert_eq!(repo.begin(small).err().unwrap().kind(), Kind::Exists);
}

#[test]
fn abort_leaves_nothing_but_what_was_there() {
    let (repo, objects) = repository();
    let before = objects.list("").unwrap().len();
    let writer = repo.begin(spec(1, 400, None)).unwrap();
    for n in 0..70 {
        writer.put_chunk(ChunkNo(n), Sealed::made_up(&vec![1; CHUNK]), KEY).unwrap();
    }
    assert!(objects.list("").unwrap().len() > before);
    writer.abort().unwrap();
    assert_eq!(objects.list("").unwrap().len(), before);
}

/// Fails at every put in turn: afterwards the snapshot is completed and correct, or absent and can be made again.
fn kill_at_every_put(after_effect: bool) {
    for nth in 0.. {
        let below = memory();
        Repository::init_in(&*below, &env().0).unwrap();
        let whole = Repository::open_in(below.clone(), env().0, Some(author(1))).unwrap();
        let base = whole.begin(spec(1, 600, None)).unwrap();
        put(&base, 3, 1);
        base.finish().unwrap();
        let faulty = Faulty::new(below.clone(), nth, after_effect);
        let repo = Repository::open_in(faulty.clone(), env().0, Some(author(1))).unwrap();
        let mut second = spec(2, 600, Some(1));
        second.keys.push((DataKeyId([8; 16]), vec![5]));
        let writer = repo.begin(second.clone()).unwrap();
        put(&writer, 4, 2);
        put(&writer, 500, 3);
        let first_try = writer.finish();
        let survived = first_try.is_ok();

        let content = [(3, 1), (4, 2), (500, 3)];
        let killed = Repository::open_in(below.clone(), env().0, Some(author(1))).unwrap();
        match killed.locate(LINEAGE, snap(2)) {
            Ok(_) => holds(&killed, 2, &content),
            Err(e) => assert_eq!(e.kind(), Kind::NotFound),
        }
        holds(&killed, 1, &[(3, 1), (4, 0)]);
        // In the same process a repeat continues; in half of the runs another process starts the create over.
        faulty.fail_from.store(u64::MAX, Ordering::SeqCst);
        if nth % 2 == 0 {
            writer.finish().unwrap();
        } else {
            drop(writer);
            match killed.begin(second) {
                Ok(writer) => {
                    put(&writer, 4, 2);
                    put(&writer, 500, 3);
                    writer.finish().unwrap();
                }
                Err(e) => assert_eq!(e.kind(), Kind::Exists),
            }
        }
        let last = Repository::open_in(below.clone(), env().0, Some(author(1))).unwrap();
        holds(&last, 2, &content);
        last.sweep(LINEAGE).unwrap();
        holds(&last, 2, &content);
        assert_eq!(
            last.inner
                .objects
                .list(&format!("{LINEAGE}"))
                .unwrap()
                .iter()
                .filter(|o| o.path.contains("/packs/"))
                .count(),
            2
        );
        if survived {
            assert!(nth >= 7, "pack, 2 leaves, root, manifest, key, add");
            return;
        }
    }
}

#[test]
fn killed_before_each_put() {
    kill_at_every_put(false);
}

#[test]
fn killed_after_each_put_took_effect() {
    kill_at_every_put(true);
}

#[test]
fn a_pack_that_is_gone_at_finish_is_found_before_the_commit() {
    let (repo, objects) = repository();
    let writer = repo.begin(spec(1, 400, None)).unwrap();
    for n in 0..70 {
        writer.put_chunk(ChunkNo(n), Sealed::made_up(&vec![1; CHUNK]), KEY).unwrap();
    }
    let pack = objects.list("").unwrap().into_iter().find(|o| o.path.contains("/packs/")).unwrap();
    objects.delete(&pack.path).unwrap();
    assert_eq!(writer.finish().unwrap_err().kind(), Kind::Integrity);
    assert_eq!(repo.list(LINEAGE).unwrap(), []);
    let late = writer.put_chunk(ChunkNo(1), Sealed::made_up(&chunk(2)), KEY).unwrap_err();
    assert_eq!(late.kind(), Kind::InvalidState);
}
