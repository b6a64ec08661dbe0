use super::checkpoint::Checkpoint;
use super::known::Known;
use super::read::segments;
use super::record::{decode, encode, json, sha256};
use super::*;
use crate::env::Timestamp;
use crate::ledger::catalog::Change;
use crate::secret::Secret;
use std::path::{Path, PathBuf};

fn key() -> CheckpointKey {
    CheckpointKey::of(&Secret::build(|b| b.fill(5)))
}

fn act() -> Body {
    Body::at(Timestamp(1), "test:Act")
}

fn event() -> Entry {
    Entry::new(RecordKind::Event, act()).unwrap()
}

/// An intent that brings volume `id` to `version`.
fn intent(id: &str, version: u64) -> Entry {
    let mut body = act();
    let hash = |v: u64| (v > 0).then(|| format!("h{v}"));
    body.changes =
        vec![Change { kind: "volume".into(), id: id.into(), version, hash: hash(version), was: hash(version - 1) }];
    Entry::new(RecordKind::Intent, body).unwrap()
}

fn outcome(of: u64) -> Entry {
    let mut body = Body::at(Timestamp(1), "");
    (body.intent, body.result) = (Some(of), "ok".into());
    Entry::new(RecordKind::Outcome, body).unwrap()
}

fn scan(dir: &Path, head: Option<&AuditHead>, start: Start) -> Scan {
    Scan::run(dir, head, Some(&key()), start).unwrap()
}

/// A log that begins a segment with each pair of events; without checkpoints, as before there were any.
fn segmented(dir: &Path) -> Log {
    let mut log = Log::create(dir, key(), act()).unwrap();
    log.known().forget_rest();
    log.set_segment(1);
    for _ in 0..3 {
        log.append(&[&event(), &event()]).unwrap();
    }
    log
}

#[test]
fn segments_follow_each_other_and_a_missing_one_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let head = segmented(&dir).head();
    assert_eq!(segments(&dir).unwrap().iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 3, 5]);
    let found = scan(&dir, Some(&head), Start::Newest);
    assert_eq!((found.began, found.count, found.trouble(Some(&head))), (0, 7, None));
    std::fs::remove_file(dir.join("0000000000000003.log")).unwrap();
    let found = scan(&dir, Some(&head), Start::Newest);
    assert!(found.trouble(Some(&head)).unwrap().contains("missing"));
    Log::set_aside(&dir, &found).unwrap();
    let clean = scan(&dir, None, Start::Oldest);
    assert_eq!((clean.count, clean.bad.is_none()), (3, true));
    let accept = Entry::new(RecordKind::Accept, act()).unwrap();
    Log::resume(&dir, clean, key()).unwrap().append(&[&accept]).unwrap();
    assert_eq!(scan(&dir, None, Start::Oldest).count, 4);
}

#[test]
fn the_newest_records_are_read_from_the_newest_segments_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    segmented(&dir);
    let numbers =
        |limit, count| newest(&dir, (0, count), limit).unwrap().iter().map(|r| r.sequence).collect::<Vec<_>>();
    assert_eq!(numbers(1, 7), [6]);
    assert_eq!(numbers(3, 7), [4, 5, 6]);
    assert_eq!(numbers(3, u64::MAX), [4, 5, 6]);
    assert_eq!(numbers(3, 6), [3, 4, 5], "what is being appended is not read");
    assert_eq!(numbers(50, 7), [0, 1, 2, 3, 4, 5, 6]);
    // A damaged old segment costs its own records, and no more.
    std::fs::write(dir.join("0000000000000000.log"), b"damaged, as it is no record at all, though it is long enough")
        .unwrap();
    assert_eq!(numbers(6, 7), [1, 2, 3, 4, 5, 6]);
    assert_eq!(newest(&dir, (0, 7), 7).unwrap_err().kind(), crate::error::Kind::Integrity);
}

#[test]
fn any_bytes_after_a_good_head_decode_or_fail_without_panic() {
    let previous = [0; 32];
    let good = encode(0, &previous, RecordKind::Event, &json(&Body::at(Timestamp(1), "x")).unwrap());
    assert!(decode(&mut &good[..], 0, &previous).unwrap().is_some());
    for i in 0..good.len() {
        for value in [0, 1, 2, 5, 0x7f, 0xff] {
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

/// A log with checkpoints: volume `a` is at version 3, and the intent that brings it to 4 is unfinished.
fn with_checkpoints(dir: &Path) -> Log {
    let mut log = Log::create(dir, key(), act()).unwrap();
    log.set_segment(1);
    for version in 1..=3 {
        let sequence = log.append(&[&intent("a", version)]).unwrap();
        log.append(&[&outcome(sequence)]).unwrap();
    }
    log.append(&[&intent("a", 4)]).unwrap();
    log.append(&[&event()]).unwrap();
    log
}

#[test]
fn a_start_reads_the_newest_segment_and_knows_what_the_whole_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let head = with_checkpoints(&dir).head();
    let (whole, part) = (scan(&dir, Some(&head), Start::Oldest), scan(&dir, Some(&head), Start::Newest));
    assert_eq!((whole.began, whole.bad.clone(), whole.trouble(Some(&head))), (0, None, None));
    assert_eq!((part.began, part.count, part.trouble(Some(&head))), (head.count - 2, head.count, None));
    assert_eq!((whole.count, whole.hash), (part.count, part.hash));
    let (whole, part) = (whole.known.checkpoint().unwrap(), part.known.checkpoint().unwrap());
    assert_eq!(whole, part);
    assert_eq!((part.open.len(), part.open[0].changes[0].version), (1, 4));
    // What it says is the digest of the object's only state.
    let mut wanted = digest::Digest::default();
    wanted.add("volume", "a", 3, "h3");
    assert_eq!(part.objects, wanted);
}

/// The bytes of a checkpoint's record that continues `dir`'s log.
fn forged(dir: &Path, known: &Known, sign: Option<&CheckpointKey>) -> (PathBuf, Vec<u8>) {
    let found = scan(dir, None, Start::Oldest);
    let mut checkpoint: Checkpoint = known.checkpoint().unwrap();
    checkpoint.mac = "00".repeat(32);
    if let Some(key) = sign {
        key.sign(&mut checkpoint, found.count, &found.hash);
    }
    let mut body = act();
    body.checkpoint = Some(Box::new(checkpoint));
    let bytes = encode(found.count, &found.hash, RecordKind::Checkpoint, &json(&body).unwrap());
    (dir.join(format!("{:016x}.log", found.count)), bytes)
}

#[test]
fn a_forged_checkpoint_is_cut_off_or_trouble_but_never_believed() {
    let other = CheckpointKey::of(&Secret::build(|b| b.fill(6)));
    let signers = [(None, "MAC"), (Some(other), "MAC"), (Some(key()), "does not agree")];
    for (signer, why) in signers {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("audit");
        let mut log = with_checkpoints(&dir);
        let head = log.head();
        // It says that there are no objects.
        let (path, bytes) = forged(&dir, &Known::default(), signer.as_ref());
        std::fs::write(&path, &bytes).unwrap();
        if why == "MAC" {
            let found = scan(&dir, Some(&head), Start::Newest);
            assert_eq!((found.count, found.trouble(Some(&head))), (head.count, None), "{why}");
            assert_eq!(found.known.checkpoint(), log.known().checkpoint());
        }
        // The same, by someone who can change the head too.
        let counted = AuditHead { count: head.count + 1, hash: hex::encode(sha256(&bytes)), first: 0 };
        let trouble = scan(&dir, Some(&counted), Start::Oldest).trouble(Some(&counted)).unwrap();
        assert!(trouble.contains(why), "{trouble}");
    }
}

#[test]
fn a_segment_that_was_cut_short_at_any_byte_is_continued_from_what_is_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let mut log = with_checkpoints(&dir);
    let head = log.head();
    log.append(&[&event()]).unwrap();
    drop(log);
    let (_, path) = segments(&dir).unwrap().pop().unwrap();
    let full = std::fs::read(&path).unwrap();
    for cut in (0..full.len()).step_by(37) {
        std::fs::write(&path, &full[..cut]).unwrap();
        let found = scan(&dir, Some(&head), Start::Newest);
        assert_eq!(found.trouble(Some(&head)), None, "{cut}");
        let count = found.count;
        let mut log = Log::resume(&dir, found, key()).unwrap();
        log.append(&[&event()]).unwrap();
        let head = log.head();
        let found = scan(&dir, Some(&head), Start::Oldest);
        assert_eq!((found.trouble(Some(&head)), found.bad), (None, None), "{cut}");
        assert!(found.count > count);
    }
}

#[test]
fn an_old_log_gets_a_checkpoint_with_its_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let mut log = Log::create(&dir, key(), act()).unwrap();
    // As written before there were checkpoints: no hash of what was there.
    for version in 1..=2 {
        let mut body = act();
        let hash = Some(format!("h{version}"));
        body.changes = vec![Change { kind: "volume".into(), id: "a".into(), version, hash, was: None }];
        let sequence = log.append(&[&Entry::new(RecordKind::Intent, body).unwrap()]).unwrap();
        log.append(&[&outcome(sequence)]).unwrap();
    }
    let head = log.head();
    drop(log);
    let found = scan(&dir, Some(&head), Start::Newest);
    assert_eq!((found.began, found.known.is_partial()), (0, false));
    let mut log = Log::resume(&dir, found, key()).unwrap();
    log.set_segment(1);
    log.append(&[&intent("a", 3)]).unwrap();
    let head = log.head();
    let found = scan(&dir, Some(&head), Start::Newest);
    assert_eq!((found.began, found.count, found.trouble(Some(&head))), (5, 7, None));
    assert_eq!(scan(&dir, Some(&head), Start::Oldest).bad, None);
}
