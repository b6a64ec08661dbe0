use super::super::reader::Verify;
use super::super::repository::Repository;
use super::super::testing::{Faulty, KEY, LINEAGE, author, chunk, env, memory, snap, spec};
use super::super::writer::SnapshotWriter;
use super::*;
use crate::cipher::{Sealed, SealedMut};
use crate::units::{CHUNK, SECTOR};
use crate::volume::parent::Parent;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Chunks of the snapshot: three packs, if all are full.
const CHUNKS: u64 = 150;

/// The contents of a chunk: full ones, so that packs fill up; a few holes.
fn content(n: u64) -> Vec<u8> {
    if n % 10 == 3 { vec![0; CHUNK] } else { (0..CHUNK).map(|i| (i / SECTOR) as u8 ^ n as u8 | 1).collect() }
}

fn put(writer: &SnapshotWriter, n: u64) {
    writer.put_chunk(ChunkNo(n), Sealed::made_up(&content(n)), KEY).unwrap();
}

/// A repository with a base snapshot, number 1, in which some chunks are as in the next one and others are not.
fn with_base() -> Repository {
    let objects = memory();
    Repository::init_in(&*objects, &env().0).unwrap();
    let repo = Repository::open_in(objects, env().0, Some(author(1))).unwrap();
    let base = repo.begin(spec(1, CHUNKS, None)).unwrap();
    for n in [0, 3, 5, 13, 140] {
        base.put_chunk(ChunkNo(n), Sealed::made_up(&if n == 5 { content(5) } else { chunk(9) }), KEY).unwrap();
    }
    base.finish().unwrap();
    repo
}

/// Kills the process of `writer` and resumes its snapshot.
fn resumed(repo: &Repository, writer: SnapshotWriter, folder: &Path) -> (SnapshotWriter, BTreeSet<ChunkNo>) {
    drop(writer);
    let staged = Staging::open(folder, &env().0.boot_id).unwrap().unwrap();
    let copied = staged.copied().collect();
    (repo.resume(staged).unwrap(), copied)
}

fn check(repo: &Repository) {
    let reader = repo.open_snapshot(LINEAGE, snap(2)).unwrap();
    let mut out = vec![1; CHUNK];
    for n in 0..CHUNKS {
        let _tag = reader.fetch(ChunkNo(n), SealedMut::over(&mut out)).unwrap();
        assert!(out == content(n), "chunk {n}");
    }
    assert!(repo.verify(LINEAGE, snap(2), &mut Verify::new(None, None), &mut |_, _| true).unwrap().bad.is_empty());
}

#[test]
fn a_snapshot_killed_anywhere_continues_where_it_was() {
    for kills in [vec![0], vec![1], vec![60, 61], vec![64, 65, 66], vec![90, 139], vec![150]] {
        for send in [false, true] {
            let (repo, dir) = (with_base(), tempfile::tempdir().unwrap());
            let folder = dir.path().join("staging");
            let mut writer = repo.begin_staged(spec(2, CHUNKS, Some(1)), &folder).unwrap();
            for n in 0..=CHUNKS {
                if kills.contains(&n) {
                    let (again, copied) = resumed(&repo, writer, &folder);
                    assert!(copied.into_iter().eq((0..n).map(ChunkNo)), "killed at {n}");
                    writer = again;
                }
                if n < CHUNKS {
                    put(&writer, n);
                }
                if send {
                    let _put = writer.send_one().unwrap();
                }
            }
            assert_eq!(writer.backlog(), if send { 0 } else { 2 });
            let packs = || std::fs::read_dir(&folder).unwrap().count() - 1;
            assert_eq!(packs(), if send { 1 } else { 3 }, "packs that are put are removed");
            let done = writer.finish().unwrap();
            assert_eq!((done.stats.packs, done.stats.changed), (3, CHUNKS - 13 - 1), "{kills:?}");
            assert_eq!(packs(), 0);
            check(&repo);
        }
    }
}

#[test]
fn a_put_that_fails_is_repeated_with_the_same_bytes_by_the_next_process_too() {
    for after_effect in [false, true] {
        let below = memory();
        Repository::init_in(&*below, &env().0).unwrap();
        let faulty = Faulty::new(below, u64::MAX, after_effect);
        let open = || Repository::open_in(faulty.clone(), env().0, Some(author(1))).unwrap();
        let (repo, dir) = (open(), tempfile::tempdir().unwrap());
        let folder = dir.path().join("staging");
        let writer = repo.begin_staged(spec(2, CHUNKS, None), &folder).unwrap();
        let (puts, fails) = (faulty.puts.load(Ordering::SeqCst), |n| faulty.fail_from.store(n, Ordering::SeqCst));
        fails(puts);
        (0..CHUNKS).for_each(|n| put(&writer, n));
        assert_eq!(writer.send_one().unwrap_err().kind(), Kind::Io);
        assert_eq!(writer.finish().unwrap_err().kind(), Kind::Io);
        assert_eq!(writer.backlog(), 3);
        drop(writer);
        let repo = open();
        let staged = Staging::open(&folder, &env().0.boot_id).unwrap().unwrap();
        let writer = repo.resume(staged).unwrap();
        assert_eq!(writer.finish().unwrap_err().kind(), Kind::Io);
        fails(u64::MAX);
        assert_eq!(writer.finish().unwrap().stats.packs, 3);
        check(&repo);
    }
}

#[test]
fn staging_counts_in_its_own_boot_or_once_it_is_closed() {
    let (repo, dir) = (with_base(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("staging");
    assert!(Staging::open(&folder, "a").unwrap().is_none());
    let writer = repo.begin_staged(spec(2, CHUNKS, Some(1)), &folder).unwrap();
    (0..80).for_each(|n| put(&writer, n));
    assert_eq!(Staging::open(&folder, "another boot").unwrap_err().kind(), Kind::Integrity);
    assert_eq!(packs_in(&folder).unwrap().len(), 2, "a sweep asks whatever the boot");
    writer.suspend().unwrap();
    assert_eq!(
        writer.put_chunk(ChunkNo(80), Sealed::made_up(&content(80)), KEY).unwrap_err().kind(),
        Kind::InvalidState
    );
    drop(writer);
    // What was closed and is shorter now is damage, even if the cut is between two records.
    let path = folder.join("progress");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - RECORD]).unwrap();
    assert_eq!(Staging::open(&folder, "another boot").unwrap_err().kind(), Kind::Integrity);
    std::fs::write(&path, &whole).unwrap();
    let staged = Staging::open(&folder, "another boot").unwrap().unwrap();
    assert_eq!((staged.copied().count(), staged.spec()), (80, &spec(2, CHUNKS, Some(1))));
    let writer = repo.resume(staged).unwrap();
    assert!(Staging::open(&folder, "a third boot").is_ok(), "nothing was written since");
    put(&writer, 80);
    assert_eq!(Staging::open(&folder, "a third boot").unwrap_err().kind(), Kind::Integrity);
    assert_eq!(Staging::open(&folder, "another boot").unwrap().unwrap().copied().count(), 81);
    writer.abort().unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_torn_record_is_cut_and_damage_is_refused() {
    let (repo, dir) = (with_base(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("staging");
    let writer = repo.begin_staged(spec(2, CHUNKS, Some(1)), &folder).unwrap();
    (0..6).for_each(|n| put(&writer, n));
    drop(writer);
    let path = folder.join("progress");
    let whole = std::fs::read(&path).unwrap();
    let at = whole.len() - 6 * RECORD;
    let copied = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Staging::open(&folder, &env().0.boot_id).map(|s| s.unwrap().copied().count())
    };
    for cut in at..whole.len() {
        assert_eq!(copied(&whole[..cut]).unwrap(), (cut - at) / RECORD, "cut at {cut}");
    }
    for flip in (0..whole.len()).step_by(31) {
        let mut bad = whole.clone();
        bad[flip] ^= 4;
        let ignored = flip >= 56 + u32_at(&whole, 12) as usize && flip < at;
        match copied(&bad) {
            Ok(n) => assert!(ignored && n == 6 || flip >= at + 5 * RECORD && n == 5, "a flip at {flip}"),
            Err(err) => assert!(matches!(err.kind(), Kind::Integrity | Kind::Unsupported), "a flip at {flip}"),
        }
    }
    // A staged body that was damaged is found before its pack is put.
    std::fs::write(&path, &whole).unwrap();
    let staged = Staging::open(&folder, &env().0.boot_id).unwrap().unwrap();
    let [(pack, _)] = &packs_of(&staged.notes)[..] else { panic!("one pack") };
    let pack = pack_path(&folder, *pack);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let refused = repo.resume(staged).unwrap().finish().unwrap_err();
    assert_eq!(refused.kind(), Kind::Integrity);
    // So is one that was cut, or removed, or that something else stands in for.
    let again = || repo.resume(Staging::open(&folder, &env().0.boot_id).unwrap().unwrap());
    std::fs::write(&pack, [0; 1000]).unwrap();
    assert_eq!(again().err().unwrap().kind(), Kind::Integrity);
    std::fs::remove_file(&pack).unwrap();
    assert_eq!(again().err().unwrap().kind(), Kind::Integrity);
    rustix::fs::mknodat(rustix::fs::CWD, &pack, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert_eq!(again().err().unwrap().kind(), Kind::Integrity);
}

#[test]
fn a_body_that_cannot_be_staged_leaves_no_trace_in_its_pack() {
    let (repo, dir) = (with_base(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("staging");
    let writer = Arc::new(repo.begin_staged(spec(2, CHUNKS, Some(1)), &folder).unwrap());
    // The pack's file cannot be made: something else has the place of the directory.
    std::fs::rename(&folder, dir.path().join("away")).unwrap();
    std::fs::write(&folder, b"").unwrap();
    assert!(writer.put_chunk(ChunkNo(0), Sealed::made_up(&content(0)), KEY).is_err());
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(dir.path().join("away"), &folder).unwrap();
    (0..CHUNKS).for_each(|n| put(&writer, n));
    writer.finish().unwrap();
    check(&repo);
}

#[test]
fn a_pack_whose_end_cannot_be_staged_is_not_forgotten() {
    let (repo, dir) = (with_base(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("staging");
    let writer = repo.begin_staged(spec(2, CHUNKS, Some(1)), &folder).unwrap();
    (0..CHUNKS).for_each(|n| put(&writer, n));
    let (writer, _) = resumed(&repo, writer, &folder);
    // The file of the last pack is opened again for its footer, and cannot be.
    let away = dir.path().join("away");
    while writer.send_one().unwrap() {}
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, b"").unwrap();
    writer.finish().unwrap_err();
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    assert_eq!(writer.finish().unwrap().stats.packs, 3);
    check(&repo);
}
