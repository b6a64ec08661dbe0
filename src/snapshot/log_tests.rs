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
    // What lies before the checkpoint is not needed to know the state.
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
