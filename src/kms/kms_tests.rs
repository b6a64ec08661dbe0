use super::testing::*;
use super::*;
use crate::cipher::wrap::EncryptionContext;
use crate::ledger::audit::RecordKind;

#[test]
fn an_installation_opens_again_with_everything_it_had() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("for web", &caller()).unwrap();
    let blob = kms.crypto().encrypt(&key.key_id.into(), &EncryptionContext::new(), b"x", &caller()).unwrap().blob;
    let (installation, public) = (kms.installation().clone(), kms.public_key());
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!((kms.installation(), kms.public_key()), (&installation, public));
    assert_eq!(kms.keys().describe(&key.key_id.into()).unwrap(), key);
    let open = kms.crypto().decrypt(&blob, &EncryptionContext::new(), None, &caller()).unwrap();
    assert_eq!((open.plaintext.expose(), &open.key_arn), (&b"x"[..], &key.arn));
    assert_eq!(kms.installation().account.len(), 12);
    assert_eq!(place.try_init().unwrap_err().kind(), Kind::Exists);
}

#[test]
fn a_folder_without_an_installation_says_so() {
    let place = Site::new();
    let err = place.open().unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.advice().is_some_and(|h| h.contains("coffer init")), "{}", err.line());
}

#[test]
fn a_killed_init_can_be_run_again_and_opens_nothing_before() {
    let whole = Site::new();
    drop(whole.init());
    // What a kill leaves: the marker, and the files made so far, some of them cut.
    let made = ["root.b.json", "root.json", "catalog.db", "audit/0000000000000000.log", "audit/reserve"];
    for count in 0..=made.len() {
        for cut in [false, true] {
            let place = Site::new();
            std::fs::write(place.data().join(UNFINISHED), "").unwrap();
            std::fs::create_dir_all(place.data().join("audit")).unwrap();
            for name in &made[..count] {
                let mut bytes = std::fs::read(whole.data().join(name)).unwrap();
                if cut {
                    bytes.truncate(bytes.len() / 2);
                }
                std::fs::write(place.data().join(name), bytes).unwrap();
            }
            assert_eq!(place.open().unwrap_err().kind(), Kind::InvalidState, "{count}");
            let kms = place.init();
            kms.keys().create("", &caller()).unwrap();
            drop(kms);
            assert_eq!(place.open().unwrap().keys().list().unwrap().keys.len(), 1, "{count}");
        }
    }
}

#[test]
fn a_catalog_or_root_file_of_another_installation_is_refused() {
    let (a, b) = (Site::new(), Site::new());
    drop((a.init(), b.init()));
    std::fs::copy(b.data().join("catalog.db"), a.data().join("catalog.db")).unwrap();
    assert_eq!(a.open().unwrap_err().kind(), Kind::Integrity);
    for name in root::FILES {
        std::fs::copy(b.data().join(name), a.data().join(name)).unwrap();
    }
    let err = Kms::open(a.data(), a.env(), &RootUnlock::File(a.key_file())).unwrap_err();
    assert_eq!(err.kind(), Kind::KeyUnavailable);
    assert!(err.line().contains("root.key"), "{}", err.line());
}

#[test]
fn signatures_verify_and_last() {
    let place = Site::new();
    let kms = place.init();
    let signature = kms.sign(b"log record").unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, kms.public_key());
    key.verify(b"log record", &signature).unwrap();
    assert!(key.verify(b"log recorD", &signature).is_err());
    drop(kms);
    assert_eq!(place.open().unwrap().sign(b"log record").unwrap(), signature);
}

#[test]
fn a_second_root_slot_opens_too() {
    let place = Site::new();
    let kms = place.init();
    let cost = Argon2Cost { memory_kib: 65536, time: 3, lanes: 1 };
    let phrase = || Passphrase::take(&mut b"correct horse".to_vec()).unwrap();
    kms.add_root_slot(&RootChoice::Passphrase(phrase(), cost), &caller()).unwrap();
    let slots = kms.root_slots().unwrap();
    assert_eq!(slots.len(), 2);
    kms.remove_root_slot(&slots[1].id, &caller()).unwrap();
    assert_eq!(kms.remove_root_slot(&slots[0].id, &caller()).unwrap_err().kind(), Kind::InvalidState);
    assert_eq!(kms.remove_root_slot(&slots[1].id, &caller()).unwrap_err().kind(), Kind::NotFound);
    kms.add_root_slot(&RootChoice::Passphrase(phrase(), cost), &caller()).unwrap();
    drop(kms);
    std::fs::remove_file(place.key_file()).unwrap();
    assert_eq!(place.open().unwrap_err().kind(), Kind::KeyUnavailable);
    Kms::open(place.data(), place.env(), &RootUnlock::Passphrase(phrase())).unwrap();
}

#[test]
fn a_tampered_key_is_unavailable_and_the_others_work() {
    let place = Site::new();
    let kms = place.init();
    let (bad, good) = (kms.keys().create("bad", &caller()).unwrap(), kms.keys().create("good", &caller()).unwrap());
    let none = EncryptionContext::new();
    let blob = kms.crypto().encrypt(&bad.key_id.into(), &none, b"x", &caller()).unwrap().blob;
    drop(kms);
    let sql = format!(
        "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), 'bad', 'bed') AS BLOB) WHERE id = '{}'",
        bad.key_id
    );
    place.tamper(sql);
    let kms = place.open().unwrap();
    assert_eq!(kms.ledger().audit_trouble(), None);
    for err in [
        kms.keys().describe(&bad.key_id.into()).map(drop).unwrap_err(),
        kms.crypto().encrypt(&bad.key_id.into(), &none, b"x", &caller()).map(drop).unwrap_err(),
        kms.crypto().decrypt(&blob, &none, None, &caller()).map(drop).unwrap_err(),
        kms.keys().enable(&bad.key_id.into(), &caller()).map(drop).unwrap_err(),
    ] {
        assert_eq!(err.kind(), Kind::KeyUnavailable, "{}", err.line());
        assert!(err.line().contains(&bad.key_id.to_string()), "{}", err.line());
    }
    kms.crypto().encrypt(&good.key_id.into(), &none, b"x", &caller()).unwrap();
    let listing = kms.keys().list().unwrap();
    assert_eq!((listing.keys.len(), listing.damaged.len()), (1, 1));
}

#[test]
fn an_older_catalog_put_back_makes_keys_unavailable_until_accepted() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    drop(kms);
    let old = std::fs::read(place.data().join("catalog.db")).unwrap();
    let kms = place.open().unwrap();
    kms.keys().disable(&key, &caller()).unwrap();
    drop(kms);
    std::fs::write(place.data().join("catalog.db"), old).unwrap();
    let kms = place.open().unwrap();
    let trouble = kms.ledger().audit_trouble().unwrap();
    assert!(trouble.contains("rolled back"), "{trouble}");
    assert_eq!(kms.keys().describe(&key).unwrap().key_state, KeyState::Unavailable);
    // The key looks enabled again, which is what the attacker wanted: it is of no use.
    let none = EncryptionContext::new();
    assert_eq!(kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap_err().kind(), Kind::KeyUnavailable);
    let volume = kms.crypto().new_volume_key(&key, &none, &service()).unwrap_err();
    assert!(volume.advice().is_some_and(|h| h.contains("audit accept")), "{}", volume.line());
    kms.ledger().accept_audit(&caller()).unwrap();
    kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap();
    assert_eq!(kms.ledger().accept_audit(&caller()).unwrap_err().kind(), Kind::InvalidState);
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(kms.ledger().audit_trouble(), None);
    assert_eq!(kms.ledger().verify_audit().unwrap().trouble, None);
    let accepted = kms.ledger().audit_records().unwrap().map(Result::unwrap).any(|r| r.kind == RecordKind::Accept);
    assert!(accepted);
}

#[test]
fn a_copy_taken_at_any_step_opens_with_all_or_nothing_of_the_act() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    // Inside the transaction, before the intent: the copy is of a process killed right there.
    let early = Site::new();
    kms.ledger()
        .audited(&caller(), Act::new("test:Early"), |tx| {
            let read = tx.get::<keystore::KeyRecord>(&key.to_string())?.unwrap();
            tx.update(&read.record, read.version)?;
            place.copy_to(&early);
            Ok(())
        })
        .unwrap();
    let kms_early = early.open().unwrap();
    assert_eq!(kms_early.ledger().audit_trouble(), None);
    kms_early.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap();

    // Killed after the intent, before the commit: log of after, catalog of before.
    let (between, before) = (Site::new(), Site::new());
    place.copy_to(&before);
    kms.keys().disable(&key, &caller()).unwrap();
    place.copy_to(&between);
    for name in ["catalog.db", "catalog.db-wal"] {
        std::fs::copy(before.data().join(name), between.data().join(name)).unwrap();
    }
    cut_last_record(&between);
    let opened = between.open().unwrap();
    assert_eq!(opened.ledger().audit_trouble(), None);
    assert_eq!(opened.keys().describe(&key).unwrap().key_state, KeyState::Enabled);
    assert_eq!(last_result(&opened), "interrupted");

    // Killed after the commit, before the outcome.
    let after = Site::new();
    place.copy_to(&after);
    cut_last_record(&after);
    let opened = after.open().unwrap();
    assert_eq!(opened.keys().describe(&key).unwrap().key_state, KeyState::Disabled);
    assert_eq!(last_result(&opened), "ok");
    assert_eq!(opened.ledger().verify_audit().unwrap().trouble, None);
}

#[test]
fn a_removal_killed_before_its_outcome_locks_nothing() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap().key_id;
    let none = EncryptionContext::new();
    type Remove = fn(&Kms, &KeyRef);
    let removals: [(&str, Remove); 2] = [
        ("kms:DeleteAlias", |kms, key| {
            kms.aliases().create("alias/gone", key, &caller()).unwrap();
            kms.aliases().delete("alias/gone", &caller()).unwrap();
        }),
        ("kms:CreateAlias", |kms, key| {
            kms.aliases().create("alias/there", key, &caller()).unwrap();
        }),
    ];
    for (act, remove) in removals {
        remove(&kms, &key.into());
        let killed = Site::new();
        place.copy_to(&killed);
        cut_last_record(&killed);
        let opened = killed.open().unwrap();
        assert_eq!((opened.ledger().audit_trouble(), last_result(&opened)), (None, "ok".into()), "{act}");
        opened.crypto().encrypt(&key.into(), &none, b"x", &caller()).unwrap();
        drop(opened);
        assert_eq!(killed.open().unwrap().ledger().verify_audit().unwrap().trouble, None, "{act}");
    }
}

/// SQL that takes rows from the catalog of another place.
fn from_old(old: &Site, then: &str) -> String {
    format!("ATTACH '{}' AS old; {then}; DETACH old", old.data().join(CATALOG).display())
}

#[test]
fn a_log_and_its_head_cut_together_are_noticed() {
    let (place, old) = (Site::new(), Site::new());
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    drop(kms);
    place.copy_to(&old);
    let kms = place.open().unwrap();
    kms.keys().disable(&key, &caller()).unwrap();
    kms.keys().enable(&key, &caller()).unwrap();
    drop(kms);
    std::fs::copy(old.log(), place.log()).unwrap();
    let head = "INSERT OR REPLACE INTO main.record SELECT * FROM old.record WHERE kind = 'audit-head'";
    place.tamper(from_old(&old, head));
    let kms = place.open().unwrap();
    let trouble = kms.ledger().audit_trouble().unwrap();
    assert!(trouble.contains(&key.to_string()) && trouble.contains("the log was cut"), "{trouble}");
    assert!(kms.ledger().verify_audit().unwrap().trouble.is_some());
    assert!(kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).is_err());
    kms.ledger().accept_audit(&caller()).unwrap();
    kms.crypto().encrypt(&key, &EncryptionContext::new(), b"x", &caller()).unwrap();
    kms.keys().disable(&key, &caller()).unwrap();
    drop(kms);
    assert_eq!(place.open().unwrap().ledger().audit_trouble(), None);
}

#[test]
fn a_removed_row_put_back_is_noticed() {
    let (place, old) = (Site::new(), Site::new());
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    kms.aliases().create("alias/gone", &key, &caller()).unwrap();
    drop(kms);
    place.copy_to(&old);
    let kms = place.open().unwrap();
    kms.aliases().delete("alias/gone", &caller()).unwrap();
    drop(kms);
    let row = "INSERT INTO main.record SELECT * FROM old.record WHERE kind = 'kms-alias'";
    place.tamper(from_old(&old, row));
    let trouble = place.open().unwrap().ledger().audit_trouble().unwrap();
    assert!(trouble.contains("kms-alias") && trouble.contains("the row restored"), "{trouble}");
}

#[test]
fn a_catalog_changed_outside_the_audit_is_refused_in_the_code() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    let changed = kms.ledger().catalog().transaction(|tx| {
        let read = tx.get::<keystore::KeyRecord>(&key.key_id.to_string())?.unwrap();
        tx.update(&read.record, read.version)
    });
    assert_eq!(changed.unwrap_err().kind(), Kind::InvalidState);
}

#[test]
fn no_mapped_file_lies_beside_the_catalog_and_its_space_is_kept() {
    use std::os::unix::fs::MetadataExt;
    let place = Site::new();
    let kms = place.init();
    kms.keys().create("", &caller()).unwrap();
    let at = |name: &str| place.data().join(name);
    assert!(at("catalog.db-wal").exists() && !at("catalog.db-shm").exists());
    drop(kms);
    assert!(!at("catalog.db-wal").exists(), "the catalog was not closed");
    let spare = std::fs::read(at("catalog.spare")).unwrap();
    assert!(spare.iter().all(|b| *b == 0), "what was removed from the catalog may be in there");
    // A stale one of an older coffer is of no use, and does no harm.
    std::fs::write(at("catalog.db-shm"), [7; 32768]).unwrap();
    let kms = place.open().unwrap();
    assert_eq!(kms.keys().list().unwrap().keys.len(), 1);
    assert!(std::fs::metadata(at("catalog.db-wal")).unwrap().blocks() * 512 >= 512 << 10);
    // A kill between the steps of closing leaves both names, or the old content under the spare one.
    std::fs::hard_link(at("catalog.db-wal"), at("catalog.spare")).unwrap();
    kms.keys().create("", &caller()).unwrap();
    let killed = Site::new();
    place.copy_to(&killed);
    assert_eq!(killed.open().unwrap().keys().list().unwrap().keys.len(), 2);
    let old = std::fs::read(at("catalog.db-wal")).unwrap();
    std::fs::remove_file(at("catalog.spare")).unwrap();
    drop(kms);
    std::fs::write(at("catalog.spare"), old).unwrap();
    let kms = place.open().unwrap();
    assert_eq!((kms.keys().list().unwrap().keys.len(), kms.ledger().audit_trouble()), (2, None));
}

#[test]
fn a_key_file_is_shared_only_if_that_is_said_and_a_killed_init_finds_its_own() {
    let (place, other) = (Site::new(), Site::new());
    drop(place.init());
    let config = InstallationConfig::default();
    let init = |choice: &RootChoice| Kms::init(other.data(), other.env(), choice, &config);
    let before = std::fs::read(place.key_file()).unwrap();
    let err = init(&RootChoice::File(place.key_file())).unwrap_err();
    assert!(err.kind() == Kind::Exists && err.line().contains("--reuse-key-file"), "{}", err.line());
    assert!(!other.data().join(UNFINISHED).exists());
    // A kill after the key file was made: the marker names it.
    std::fs::write(other.data().join(UNFINISHED), other.key_file().to_str().unwrap()).unwrap();
    std::fs::copy(place.key_file(), other.key_file()).unwrap();
    assert_eq!(init(&RootChoice::File(place.key_file())).unwrap_err().kind(), Kind::Exists);
    drop(init(&RootChoice::File(other.key_file())).unwrap());
    assert_eq!(std::fs::read(place.key_file()).unwrap(), before);
    other.open().unwrap();
    let third = Site::new();
    Kms::init(third.data(), third.env(), &RootChoice::SharedFile(place.key_file()), &config).unwrap();
    third.open().unwrap();
}

fn last_result(kms: &Kms) -> String {
    let records: Vec<_> = kms.ledger().audit_records().unwrap().map(Result::unwrap).collect();
    records.last().unwrap().body.result.clone()
}

#[test]
fn kms_verbs_inside_a_catalog_transaction_are_refused_and_do_not_hang() {
    let place = Site::new();
    let kms = place.init();
    let inner = kms.ledger().catalog().transaction(|_| kms.keys().create("", &caller()));
    assert_eq!(inner.unwrap_err().kind(), Kind::InvalidState);
    let inner = kms.ledger().audited(&caller(), Act::new("test:Nested"), |_| kms.keys().create("", &caller()));
    assert_eq!(inner.unwrap_err().kind(), Kind::InvalidState);
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    // Looking is allowed.
    kms.ledger().catalog().transaction(|_| kms.keys().describe(&key)).unwrap();
    kms.ledger().audited(&caller(), Act::new("test:Look"), |_| kms.keys().describe(&key)).unwrap();
    assert_eq!(
        kms.ledger().catalog().transaction(|_| kms.ledger().audit_records().map(drop)).unwrap_err().kind(),
        Kind::InvalidState
    );
}

#[test]
fn nothing_secret_is_in_debug_errors_or_files() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    let record = kms.here.store.load(&key.key).unwrap().record;
    let none = EncryptionContext::of("a", "b");
    let plain = [0xa7u8; 24];
    let sealed = kms.crypto().encrypt(&key.key_id.into(), &none, &plain, &caller()).unwrap();
    let opened = kms.crypto().decrypt(&sealed.blob, &none, None, &caller()).unwrap();
    let wrong = kms.crypto().decrypt(&sealed.blob, &EncryptionContext::new(), None, &caller()).unwrap_err();
    let (_, volume) = kms.crypto().new_volume_key(&key.key_id.into(), &none, &service()).unwrap();
    let file = std::fs::read(place.key_file()).unwrap();
    let digits = String::from_utf8(file[18..82].to_vec()).unwrap();
    let scope = kms.here.scope.clone();
    let backing = backing::BackingKeys::new(kms.env.clone(), kms.installation.public.id, scope, kms.root.clone());
    let backing = backing.current(&record).unwrap();
    let shown = format!(
        "{kms:?} {:?} {:?} {record:?} {sealed:?} {opened:#?} {wrong:?} {} {volume:?} {backing:?} {:?} {key:?}",
        kms.root,
        kms.ledger,
        wrong.line(),
        kms.installation
    );
    let root = kms.root.secret().expose();
    let decimal = |b: &[u8]| b.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let base64_of_plain = "p6enp6en";
    for secret in [hex::encode(root), decimal(root), digits.clone(), hex::encode(plain), decimal(&plain[..4])] {
        assert!(!shown.contains(&secret));
    }
    assert!(!shown.contains(base64_of_plain));
    drop(kms);
    let file_secret = hex::decode(&digits).unwrap();
    let place_open = place.open().unwrap();
    let root = place_open.root.secret().expose();
    for path in place.files() {
        let bytes = std::fs::read(&path).unwrap();
        for secret in [&root[..], hex::encode(root).as_bytes(), &file_secret, digits.as_bytes(), &plain] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", path.display());
        }
    }
}

#[test]
fn a_head_that_was_tampered_with_or_removed_is_trouble_and_accepting_heals_it() {
    for statement in [
        "UPDATE record SET version = 9223372036854775807 WHERE kind = 'audit-head'",
        "UPDATE record SET mac = x'00' WHERE kind = 'audit-head'",
        "DELETE FROM record WHERE kind = 'audit-head'",
    ] {
        let place = Site::new();
        drop(place.init());
        place.tamper(statement.into());
        let kms = place.open().unwrap();
        assert!(kms.ledger().audit_trouble().is_some());
        assert_eq!(kms.keys().create("", &caller()).unwrap_err().kind(), Kind::KeyUnavailable);
        kms.ledger().accept_audit(&caller()).unwrap();
        kms.keys().create("", &caller()).unwrap();
        drop(kms);
        assert_eq!(place.open().unwrap().ledger().audit_trouble(), None);
    }
}

#[test]
fn a_key_removed_from_the_catalog_by_hand_is_noticed() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    drop(kms);
    place.tamper(format!("DELETE FROM record WHERE id = '{}'", key.key_id));
    assert!(place.open().unwrap().ledger().audit_trouble().unwrap().contains(&key.key_id.to_string()));
    std::fs::remove_file(place.data().join(CATALOG)).unwrap();
    let err = place.open().unwrap_err();
    assert_eq!(err.kind(), Kind::Integrity, "{}", err.line());
}

#[test]
fn a_deleted_keys_sealed_material_is_in_no_file() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    let material = &key.versions[0].key_material_id;
    let in_files = |place: &Site| {
        let database = place.files().into_iter().filter(|p| p.to_string_lossy().contains("catalog.db"));
        database.into_iter().any(|p| {
            let bytes = std::fs::read(p).unwrap();
            bytes.windows(material.len()).any(|w| w == material.as_bytes())
        })
    };
    assert!(in_files(&place));
    kms.keys().schedule_deletion(&key.key_id.into(), 7, &caller()).unwrap();
    place.pass_days(7);
    assert_eq!(kms.deletions().purge_due().unwrap(), std::slice::from_ref(&key.key));
    assert!(!in_files(&place));
}

#[test]
fn many_threads_and_runtimes_may_use_it() {
    const fn shared<T: Send + Sync>() {}
    shared::<Kms>();
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let none = EncryptionContext::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    kms.crypto().encrypt(&key, &none, b"x", &caller()).unwrap();
                    kms.keys().update_description(&key, "d", &caller()).unwrap();
                }
                // A reader beside writers sees whole records.
                assert!(kms.ledger().audit_records().unwrap().all(|r| r.is_ok()));
            });
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { kms.crypto().encrypt(&key, &none, b"x", &caller()) }).unwrap();
    assert_eq!(kms.ledger().verify_audit().unwrap().trouble, None);
}

#[test]
fn configurations_are_checked() {
    for (account, region, name) in [
        (Some("123"), "us-east-1", "x"),
        (Some("12345678901a"), "us-east-1", "x"),
        (None, "", "x"),
        (None, "US East", "x"),
        (None, "us-east-1", ""),
        (None, "us-east-1", "a\nb"),
    ] {
        let place = Site::new();
        let config = InstallationConfig { account: account.map(Into::into), region: region.into(), name: name.into() };
        let made = Kms::init(place.data(), place.env(), &RootChoice::File(place.key_file()), &config);
        assert_eq!(made.unwrap_err().kind(), Kind::Usage);
        place.init();
    }
}
