use super::super::testing::{KEY, LINEAGE, author, memory, snap};
use super::*;
use bytes::Bytes;

fn filled(objects: &dyn Objects, count: u64) -> Log {
    let by = author(1);
    let folder = Folder { lineage: LINEAGE, installation: by.installation };
    let mut log = Log::start(objects, folder, &*by.signer, Timestamp(1)).unwrap();
    for n in 0..count {
        let add = Entry::Add { snapshot: snap(n), manifest: Hash32([1; 32]), time: Timestamp(n as i64) };
        log.append(objects, &*by.signer, &add).unwrap();
    }
    log
}

#[test]
fn a_log_over_a_checkpoint_is_read_back_from_there() {
    let objects = memory();
    let mut log = filled(&*objects, 260);
    let by = author(1);
    log.append(&*objects, &*by.signer, &Entry::Delete { snapshot: snap(3), time: Timestamp(5) }).unwrap();
    log.append(&*objects, &*by.signer, &Entry::Hold { snapshot: snap(4), held: true, time: Timestamp(5) }).unwrap();
    let refused = log.append(&*objects, &*by.signer, &Entry::Delete { snapshot: snap(4), time: Timestamp(6) });
    assert_eq!(refused.unwrap_err().kind(), Kind::InvalidState);
    log.append(&*objects, &*by.signer, &Entry::Key { data_key: KEY, blob: vec![9], time: Timestamp(5) }).unwrap();
    let read = Log::load(&*objects, log.folder).unwrap().unwrap();
    assert_eq!((read.last, &read.state, read.head), (264, &log.state, log.head));
    // Records before the checkpoint are not needed to know the state.
    objects.delete(&path(log.folder, 17)).unwrap();
    assert_eq!(Log::load(&*objects, log.folder).unwrap().unwrap().state, log.state);
}

#[test]
fn gaps_forgeries_and_clones_are_found() {
    let objects = memory();
    let mut log = filled(&*objects, 4);
    let mut clone = log.clone();
    let by = author(1);
    log.append(&*objects, &*by.signer, &Entry::Delete { snapshot: snap(1), time: Timestamp(5) }).unwrap();
    let other = Entry::Delete { snapshot: snap(2), time: Timestamp(5) };
    assert_eq!(clone.append(&*objects, &*by.signer, &other).unwrap_err().kind(), Kind::Integrity);

    let object = path(log.folder, 3);
    let good = objects.get(&object, RECORD_MAX).unwrap();
    for i in 0..good.len() {
        let mut bad = good.to_vec();
        bad[i] ^= 1;
        objects.put_over(&object, Bytes::from(bad)).unwrap();
        assert!(Log::load(&*objects, log.folder).is_err(), "byte {i}");
    }
    objects.delete(&object).unwrap();
    assert_eq!(Log::load(&*objects, log.folder).unwrap_err().kind(), Kind::Integrity);
    objects.put_over(&object, good).unwrap();
    assert_eq!(Log::load(&*objects, log.folder).unwrap().unwrap().last, 5);
}

/// Whatever replaced a record is named, wherever it is; it is not the end of the log.
#[test]
fn what_is_no_file_in_a_records_place_is_a_damaged_record() {
    use super::super::objects::StoreObjects;
    let dir = tempfile::tempdir().unwrap();
    let objects = StoreObjects::local(dir.path()).unwrap();
    let log = filled(&objects, 4);
    let file = dir.path().join(path(log.folder, log.last));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = || rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let folder = || std::fs::create_dir(&file).unwrap();
    let link = || std::os::unix::fs::symlink("gone", &file).unwrap();
    std::fs::remove_file(&file).unwrap();
    for (put, is) in [(&fifo as &dyn Fn(), "a FIFO"), (&link, "a symbolic link"), (&folder, "a directory")] {
        put();
        let found = Log::load_readable(&objects, log.folder, Some(log.public_key)).unwrap().unwrap();
        assert_eq!(found.last, log.last, "{is}");
        let [bad] = &found.unreadable[..] else { panic!("{is}: {:?}", found.unreadable) };
        assert!(bad.number == log.last && bad.error.line().contains(is), "{}", bad.error.line());
        let err = Log::load(&objects, log.folder).unwrap_err();
        assert!(err.kind() == Kind::Integrity && err.line().contains(is), "{}", err.line());
        let _ = std::fs::remove_file(&file);
    }
}

/// A log of adds 1 to 6, a delete of 2, a key; and what its catalog knows.
fn eventful(objects: &dyn Objects) -> Log {
    let (repo_author, folder) = (author(1), Folder { lineage: LINEAGE, installation: author(1).installation });
    let mut log = Log::start(objects, folder, &*repo_author.signer, Timestamp(1)).unwrap();
    let mut put = |entry| log.append(objects, &*repo_author.signer, &entry).unwrap();
    for n in 1..=6 {
        let manifest = manifest(objects, folder, n);
        put(Entry::Add { snapshot: snap(n), manifest, time: Timestamp(n as i64) });
    }
    put(Entry::Delete { snapshot: snap(2), time: Timestamp(7) });
    put(Entry::Key { data_key: KEY, blob: vec![9], time: Timestamp(8) });
    log
}

fn manifest(objects: &dyn Objects, folder: Folder, n: u64) -> Hash32 {
    let by = author(1);
    let manifest = Manifest {
        format: Manifest::FORMAT,
        snapshot: snap(n),
        installation: folder.installation,
        volume: None,
        size: 4096,
        root: Hash32::default(),
        depth: 1,
        time: Timestamp(n as i64),
        point: 1,
        map_generation: 1,
        parent: None,
        keys: BTreeMap::new(),
        folders: vec![folder.installation],
        chunks: 0,
        changed_chunks: 0,
        stored_bytes: 0,
        source: None,
    };
    let record = manifest.sign(folder, Hash32::default(), &*by.signer).unwrap();
    objects.put_new(&folder.path("manifests", snap(n)), record.raw().clone()).unwrap();
    record.hash()
}

#[test]
fn any_record_may_be_damaged_or_missing_and_the_catalog_settles_what_it_said() {
    let key = author(1).signer.public_key();
    let completed: BTreeSet<_> = [1, 3, 4, 5, 6].map(snap).into();
    for number in 0..=8 {
        for missing in [false, true] {
            if missing && number == 8 {
                continue; // a shorter log, which the catalog's own count detects
            }
            let objects = memory();
            let whole = eventful(&*objects);
            let object = path(whole.folder, number);
            let mut bad = objects.get(&object, RECORD_MAX).unwrap().to_vec();
            bad[ENVELOPE_BODY] ^= 1;
            if missing {
                objects.delete(&object).unwrap()
            } else {
                objects.put_over(&object, Bytes::from(bad)).unwrap()
            }
            assert!(Log::load(&*objects, whole.folder).is_err(), "who cannot ask a catalog is told");
            let mut log = Log::load_readable(&*objects, whole.folder, Some(key)).unwrap().unwrap();
            assert_eq!((log.last, log.unreadable.len(), log.unreadable[0].number), (8, 1, number));
            assert_eq!(log.lacks_something(), number != 0);
            let by = author(1);
            let next =
                Entry::Add { snapshot: snap(7), manifest: manifest(&*objects, whole.folder, 7), time: Timestamp(9) };
            if number != 0 {
                assert_eq!(log.append(&*objects, &*by.signer, &next).unwrap_err().kind(), Kind::Integrity);
                log.vouch(&*objects, Timestamp(9), &completed, &BTreeSet::new()).unwrap();
            }
            let live: Vec<_> = whole.state.live.iter().map(|(id, l)| (*id, l.manifest)).collect();
            assert_eq!(log.state.live.iter().map(|(id, l)| (*id, l.manifest)).collect::<Vec<_>>(), live, "{number}");
            log.append(&*objects, &*by.signer, &next).unwrap();
            // Another reader needs no catalog from now on, unless genesis is gone: that has the key.
            if number != 0 {
                let read = Log::load(&*objects, whole.folder).unwrap().unwrap();
                assert_eq!((read.last, &read.state), (10, &log.state), "{number}");
            }
            let read = Log::load_readable(&*objects, whole.folder, Some(key)).unwrap().unwrap();
            assert_eq!((read.unreadable.len(), read.lacks_something()), (0, false));
        }
    }
}

const ENVELOPE_BODY: usize = super::super::record::ENVELOPE + 4;

#[test]
fn a_hidden_delete_resurrects_nothing_and_a_lost_add_without_manifest_keeps_its_objects() {
    let objects = memory();
    let whole = eventful(&*objects);
    // The delete of 2 and the add of 5 are unreadable, and 5's manifest is missing for now.
    for number in [5, 7] {
        objects.put_over(&path(whole.folder, number), Bytes::from_static(b"x")).unwrap();
    }
    let object = whole.folder.path("manifests", snap(5));
    objects.delete(&object).unwrap();
    let key = author(1).signer.public_key();
    let mut log = Log::load_readable(&*objects, whole.folder, Some(key)).unwrap().unwrap();
    assert!(log.state.live.contains_key(&snap(2)), "nothing that can be read deletes it");
    let completed = [1, 3, 4, 5, 6].map(snap).into();
    log.vouch(&*objects, Timestamp(9), &completed, &BTreeSet::new()).unwrap();
    assert!(!log.state.live.contains_key(&snap(2)) && log.state.deleted.contains_key(&snap(2)));
    assert!(log.state.live[&snap(5)].manifest.is_zero(), "it counts as live: nothing it may need goes");
}

#[test]
fn forks_are_never_set_aside() {
    let objects = memory();
    let whole = eventful(&*objects);
    let other = memory();
    let mut clone = filled(&*other, 0);
    let by = author(1);
    for n in 10..20 {
        let add = Entry::Add { snapshot: snap(n), manifest: Hash32([1; 32]), time: Timestamp(1) };
        clone.append(&*other, &*by.signer, &add).unwrap();
    }
    // A record signed by the same key, of a log that diverged.
    let foreign = other.get(&path(whole.folder, 5), RECORD_MAX).unwrap();
    objects.put_over(&path(whole.folder, 5), foreign).unwrap();
    let key = author(1).signer.public_key();
    assert_eq!(Log::load_readable(&*objects, whole.folder, Some(key)).unwrap_err().kind(), Kind::Integrity);
}

#[test]
fn a_damaged_checkpoint_costs_nothing() {
    let objects = memory();
    let log = filled(&*objects, 300);
    objects.put_over(&path(log.folder, 256), Bytes::from_static(b"")).unwrap();
    let key = author(1).signer.public_key();
    let read = Log::load_readable(&*objects, log.folder, Some(key)).unwrap().unwrap();
    assert_eq!((read.last, &read.state, read.lacks_something()), (log.last, &log.state, false));
    // Files that were never records are not counted.
    objects.put_new(&path(log.folder, u64::MAX), Bytes::from_static(b"x")).unwrap();
    assert_eq!(Log::load_readable(&*objects, log.folder, Some(key)).unwrap().unwrap().last, log.last);
}

/// Behind genesis, a trimmed log begins with the last checkpoint but one; killed at any delete, it reads the same.
#[test]
fn a_trimmed_log_reads_the_same_even_without_its_last_checkpoint() {
    let objects = memory();
    let log = filled(&*objects, 255);
    assert_eq!(log.trim(&*objects).unwrap(), 0, "nothing is old enough");
    let mut log = filled(&*memory(), 0);
    let objects = memory();
    for last in [300, 700, 1100] {
        let grown = filled_from(&*objects, &mut log, last);
        assert_eq!(grown.trim(&*objects).unwrap(), (last - last % 256).saturating_sub(256));
        // What is left if it is killed, or the next one runs.
        grown.trim(&*objects).unwrap();
        let read = Log::load(&*objects, grown.folder).unwrap().unwrap();
        assert_eq!((read.last, &read.state, read.head), (grown.last, &grown.state, grown.head));
    }
    let left = numbers(&*objects, log.folder).unwrap();
    assert_eq!((left.iter().nth(1).copied(), left.len()), (Some(768), 1 + (log.last - 768 + 1) as usize));
    objects.put_over(&path(log.folder, 1024), Bytes::from_static(b"damaged")).unwrap();
    assert_eq!(Log::load_readable(&*objects, log.folder, None).unwrap().unwrap().state, log.state);
}

fn filled_from(objects: &dyn Objects, log: &mut Log, last: u64) -> Log {
    let by = author(1);
    if numbers(objects, log.folder).unwrap().is_empty() {
        *log = Log::start(objects, log.folder, &*by.signer, Timestamp(1)).unwrap();
    }
    while log.last < last {
        let snapshot = snap(log.last);
        let add = Entry::Add { snapshot, manifest: Hash32([1; 32]), time: Timestamp(1) };
        log.append(objects, &*by.signer, &add).unwrap();
    }
    log.clone()
}

#[test]
fn a_log_that_is_not_whole_is_not_trimmed() {
    let objects = memory();
    let log = filled(&*objects, 1100);
    let all = numbers(&*objects, log.folder).unwrap().len();
    for number in [0, 768, 800, 1024, 1030, log.last] {
        let object = path(log.folder, number);
        let good = objects.get(&object, RECORD_MAX).unwrap();
        objects.put_over(&object, good.slice(..good.len() - 1)).unwrap();
        assert_eq!(log.trim(&*objects).unwrap(), 0, "record {number}");
        assert_eq!(numbers(&*objects, log.folder).unwrap().len(), all);
        objects.put_over(&object, good).unwrap();
    }
    assert_eq!(log.trim(&*objects).unwrap(), 768);
}
