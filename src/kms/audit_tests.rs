//! The audit of the KMS's verbs: what it records, and what becomes of keys when it was changed.

use super::testing::*;
use super::*;
use crate::cipher::wrap::EncryptionContext;
use crate::ledger::Asker;
use crate::ledger::audit::{AuditRecord, RESERVE, RecordKind};
use std::fs::File;

fn records(kms: &Kms) -> Vec<AuditRecord> {
    kms.ledger().audit_records().unwrap().map(Result::unwrap).collect()
}

/// An installation with a key, some acts, and its log as bytes.
fn used() -> (Site, KeyRef, Vec<u8>) {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    for _ in 0..3 {
        kms.crypto().encrypt(&key, &EncryptionContext::of("app", "web"), b"x", &caller()).unwrap();
    }
    drop(kms);
    let log = std::fs::read(place.log()).unwrap();
    (place, key, log)
}

#[test]
fn each_use_names_key_caller_client_and_context() {
    let (place, key, _) = used();
    let kms = place.open().unwrap();
    let (blob, data_key) =
        kms.crypto().new_volume_key(&key, &EncryptionContext::of("aws:ebs:id", "vol-1"), &service()).unwrap();
    drop(kms.crypto().unwrap_volume_key(
        &blob,
        &EncryptionContext::of("aws:ebs:id", "vol-1"),
        data_key.get().id(),
        &service(),
    ));
    let all = records(&kms);
    assert_eq!(all[0].kind, RecordKind::Genesis);
    let of = |act: &str| all.iter().filter(|r| r.body.act == act).collect::<Vec<_>>();
    assert_eq!(of("kms:Encrypt").len(), 3);
    let unwrap = &of("kms:UnwrapVolumeKey")[0].body;
    // What it may do is asked when it asks, and not remembered.
    assert_eq!(unwrap.caller.as_ref().unwrap(), &Asker::from(&service()).identity);
    assert_eq!((unwrap.context.get("aws:ebs:id"), unwrap.result.as_str()), (Some("vol-1"), "ok"));
    assert!(unwrap.key.as_ref().unwrap().ends_with(&key.to_string()));
    assert_eq!(unwrap.detail["data-key"], data_key.get().id().to_string());
    let create = of("kms:CreateKey")[0];
    assert_eq!((create.kind, create.body.changes.len()), (RecordKind::Intent, 1));
    assert!(all.iter().any(|r| r.body.intent == Some(create.sequence) && r.body.result == "ok"));
    assert_eq!(kms.ledger().verify_audit().unwrap().head.count, all.len() as u64);
}

fn flip(log: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = log.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Another client in a record, with a good checksum: only the chain or the head can tell.
fn rewrite(log: &[u8], starts: &[usize], which: usize) -> Vec<u8> {
    let mut bytes = log.to_vec();
    let (start, end) = (starts[which], starts.get(which + 1).copied().unwrap_or(log.len()));
    let client = start + bytes[start..end].windows(6).position(|w| w == b"pid 7\"").unwrap();
    bytes[client + 4] = b'8';
    let crc = crc32c::crc32c(&bytes[start..end - 4]);
    bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_changed_cut_or_emptied_log_makes_keys_unavailable_until_accepted() {
    type Attack = (&'static str, fn(&[u8], &[usize]) -> Vec<u8>);
    let attacks: [Attack; 9] = [
        ("a bit in the first record", |log, _| flip(log, 60)),
        ("a bit in the middle", |log, starts| flip(log, starts[3] + 60)),
        ("a bit of a length", |log, starts| flip(log, starts[3] + 1)),
        ("a bit in the last record", |log, starts| flip(log, starts[starts.len() - 1] + 60)),
        ("the last record cut", |log, starts| log[..starts[starts.len() - 1]].to_vec()),
        ("half a record cut", |log, starts| log[..starts[starts.len() - 1] + 20].to_vec()),
        ("emptied", |_, _| Vec::new()),
        ("an early record rewritten", |log, starts| rewrite(log, starts, 1)),
        ("the last record rewritten", |log, starts| rewrite(log, starts, starts.len() - 1)),
    ];
    for (name, attack) in attacks {
        let (place, key, log) = used();
        std::fs::write(place.log(), attack(&log, &record_starts(&log))).unwrap();
        let kms = place.open().unwrap();
        let ctx = EncryptionContext::new();
        assert!(kms.ledger().audit_trouble().is_some(), "{name}");
        assert!(kms.ledger().verify_audit().unwrap().trouble.is_some(), "{name}");
        assert_eq!(
            kms.crypto().encrypt(&key, &ctx, b"x", &caller()).unwrap_err().kind(),
            Kind::KeyUnavailable,
            "{name}"
        );
        kms.ledger().accept_audit(&caller()).unwrap();
        kms.crypto().encrypt(&key, &ctx, b"x", &caller()).unwrap();
        drop(kms);
        let kms = place.open().unwrap();
        assert_eq!(
            (kms.ledger().audit_trouble(), kms.ledger().verify_audit().unwrap().trouble),
            (None, None),
            "{name}"
        );
        assert!(records(&kms).iter().any(|r| r.kind == RecordKind::Accept), "{name}");
    }
}

#[test]
fn what_is_torn_behind_the_head_is_cut_without_a_word() {
    let (place, key, log) = used();
    let record = &log[*record_starts(&log).last().unwrap()..];
    for extra in [&record[..10], &record[..60], &[0; 300][..], record] {
        std::fs::write(place.log(), [&log[..], extra].concat()).unwrap();
        let kms = place.open().unwrap();
        assert_eq!(kms.ledger().audit_trouble(), None);
        assert_eq!(std::fs::read(place.log()).unwrap(), log);
    }
    place.open().unwrap().crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap();
    assert_eq!(place.open().unwrap().ledger().verify_audit().unwrap().trouble, None);
}

#[test]
fn a_refused_change_is_recorded_as_refused() {
    let (place, key, _) = used();
    let kms = place.open().unwrap();
    kms.keys().cancel_deletion(&key, &caller()).unwrap_err();
    let all = records(&kms);
    let last = &all.last().unwrap().body;
    assert_eq!((last.act.as_str(), last.result.as_str()), ("kms:CancelKeyDeletion", "refused"));
    assert!(last.error.as_ref().unwrap().contains("not pending deletion"));
}

#[test]
fn what_is_no_file_in_the_place_of_one_is_named_and_nothing_hangs() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let put = |path: &Path| {
        let _ = std::fs::remove_file(path);
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    let (place, key, _) = used();
    let none = EncryptionContext::new();
    put(&place.data().join("audit/reserve"));
    put(&place.data().join("root.json"));
    let kms = place.open().unwrap();
    kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap();
    drop(kms);
    assert_eq!(std::fs::metadata(place.data().join("audit/reserve")).unwrap().len(), RESERVE, "it was made again");
    put(&place.data().join("root.b.json"));
    let err = place.open().unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("a FIFO"), "{}", err.line());

    let (place, key, _) = used();
    put(&place.log());
    let kms = place.open().unwrap();
    assert!(kms.ledger().audit_trouble().unwrap().contains("a FIFO"));
    assert_eq!(kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap_err().kind(), Kind::KeyUnavailable);
    drop(kms);

    for name in ["catalog.db", "catalog.db-wal", "catalog.db-journal", "catalog.db-shm"] {
        let (place, _, _) = used();
        put(&place.data().join(name));
        let err = place.open().unwrap_err();
        assert!(err.line().contains("a FIFO"), "{}", err.line());
    }
    let (place, _, _) = used();
    put(&place.key_file());
    let err = place.open().unwrap_err();
    assert!(err.kind() == Kind::KeyUnavailable && err.line().contains("a FIFO"), "{}", err.line());
}

/// A file system of one size, or none where this user may not mount.
fn small_disk(path: &Path) -> bool {
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(path).status();
    mount.is_ok_and(|s| s.success())
}

#[test]
fn on_a_full_disk_a_key_can_still_be_disabled_and_nothing_else() {
    let place = Site::new();
    if !small_disk(place.data()) {
        eprintln!("SKIP: may not mount a small tmpfs");
        return;
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let kms = place.init();
        let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
        let filler = place.data().join("filler");
        let mut file = File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        let mut refused = None;
        for _ in 0..8000 {
            refused = kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).err();
            if refused.is_some() {
                break;
            }
        }
        assert_eq!(refused.unwrap().kind(), Kind::NoSpace);
        kms.keys().disable(&key, &caller()).unwrap();
        let after = kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap_err();
        assert!(matches!(after.kind(), Kind::KeyUnavailable | Kind::NoSpace), "{}", after.line());
        assert_eq!(kms.keys().create("", &caller()).unwrap_err().kind(), Kind::NoSpace);
        std::fs::remove_file(&filler).unwrap();
        kms.keys().enable(&key, &caller()).unwrap();
        kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap();
        assert_eq!(kms.ledger().verify_audit().unwrap().trouble, None);
        kms.ledger().record(&caller(), Act::new("ebs:DetachVolume").restrictive(), Ok(())).unwrap();
    }));
    let _ = std::process::Command::new("umount").arg("-l").arg(place.data()).status();
    outcome.unwrap();
}
