use super::*;

#[test]
fn segments_follow_each_other_and_a_missing_one_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let body = Body::at(Timestamp(1), "test:Act");
    let mut log = Log::create(&dir, &body).unwrap();
    for _ in 0..3 {
        log.length = SEGMENT;
        log.append(&[(RecordKind::Event, &body), (RecordKind::Event, &body)]).unwrap();
    }
    assert_eq!(segments(&dir).unwrap().iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 3, 5]);
    let head = log.head();
    let scan = Scan::run(&dir, Some(&head)).unwrap();
    assert_eq!((scan.count, scan.trouble(Some(&head))), (7, None));
    std::fs::remove_file(dir.join("0000000000000003.log")).unwrap();
    let scan = Scan::run(&dir, Some(&head)).unwrap();
    assert!(scan.trouble(Some(&head)).unwrap().contains("missing"));
    Log::set_aside(&dir, &scan).unwrap();
    let clean = Scan::run(&dir, None).unwrap();
    assert_eq!((clean.count, clean.bad.is_none()), (3, true));
    Log::resume(&dir, &clean).unwrap().append(&[(RecordKind::Accept, &body)]).unwrap();
    assert_eq!(Scan::run(&dir, None).unwrap().count, 4);
}

#[test]
fn the_newest_records_are_read_from_the_newest_segments_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let body = Body::at(Timestamp(1), "test:Act");
    let mut log = Log::create(&dir, &body).unwrap();
    for _ in 0..3 {
        log.length = SEGMENT;
        log.append(&[(RecordKind::Event, &body), (RecordKind::Event, &body)]).unwrap();
    }
    let numbers = |limit, count| newest(&dir, limit, count).unwrap().iter().map(|r| r.sequence).collect::<Vec<_>>();
    assert_eq!(numbers(1, 7), [6]);
    assert_eq!(numbers(3, 7), [4, 5, 6]);
    assert_eq!(numbers(3, 6), [3, 4, 5], "what is being appended is not read");
    assert_eq!(numbers(50, 7), [0, 1, 2, 3, 4, 5, 6]);
    // A damaged old segment costs its own records, and no more.
    std::fs::write(dir.join("0000000000000000.log"), b"damaged, as it is no record at all, though it is long enough")
        .unwrap();
    assert_eq!(numbers(6, 7), [1, 2, 3, 4, 5, 6]);
    assert_eq!(newest(&dir, 7, 7).unwrap_err().kind(), Kind::Integrity);
}

#[test]
fn any_bytes_after_a_good_head_decode_or_fail_without_panic() {
    let previous = [0; 32];
    let good = encode(0, &previous, RecordKind::Event, &Body::at(Timestamp(1), "x")).unwrap();
    assert!(decode(&mut &good[..], 0, &previous).unwrap().is_some());
    for i in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            if bytes[i] == value {
                continue;
            }
            bytes[i] = value;
            assert!(decode(&mut &bytes[..], 0, &previous).is_err(), "byte {i}");
        }
        assert_eq!(decode(&mut &good[..i], 0, &previous).is_err(), i != 0);
    }
}
