use super::super::testing::*;
use super::super::{DataKeySpec, EBS_ALIAS, Kms};
use super::*;
use crate::cipher::wrap::EncryptionContext;

fn none() -> EncryptionContext {
    EncryptionContext::new()
}

/// What a call came to: `ok`, or the AWS error code.
fn code<T>(result: Result<T>) -> &'static str {
    result.map_or_else(|e| e.aws(), |_| "ok")
}

#[test]
fn states_and_errors_are_those_of_the_developer_guide() {
    const OFF: &str = "DisabledException";
    const BAD: &str = "KMSInvalidStateException";
    type Verb = (&'static str, fn(&Kms, &KeyRef) -> &'static str, [&'static str; 3]);
    let verbs: &[Verb] = &[
        ("DescribeKey", |k, r| code(k.keys().describe(r)), ["ok", "ok", "ok"]),
        ("Encrypt", |k, r| code(k.crypto().encrypt(r, &none(), b"x", &caller())), ["ok", OFF, BAD]),
        (
            "GenerateDataKey",
            |k, r| code(k.crypto().generate_data_key(r, DataKeySpec::Aes256, &none(), &caller())),
            ["ok", OFF, BAD],
        ),
        (
            "GenerateDataKeyWithoutPlaintext",
            |k, r| code(k.crypto().generate_data_key_without_plaintext(r, DataKeySpec::Aes128, &none(), &caller())),
            ["ok", OFF, BAD],
        ),
        ("volume key", |k, r| code(k.crypto().new_volume_key(r, &none(), &service())), ["ok", OFF, BAD]),
        ("RotateKeyOnDemand", |k, r| code(k.rotations().on_demand(r, &caller())), ["ok", OFF, BAD]),
        ("UpdateKeyDescription", |k, r| code(k.keys().update_description(r, "d", &caller())), ["ok", "ok", BAD]),
        ("CreateAlias", |k, r| code(k.aliases().create("alias/new", r, &caller())), ["ok", "ok", BAD]),
        ("UpdateAlias", |k, r| code(k.aliases().update("alias/old", r, &caller())), ["ok", "ok", BAD]),
        ("DeleteAlias", |k, _| code(k.aliases().delete("alias/old", &caller())), ["ok", "ok", "ok"]),
        ("EnableKey", |k, r| code(k.keys().enable(r, &caller())), ["ok", "ok", BAD]),
        ("DisableKey", |k, r| code(k.keys().disable(r, &caller())), ["ok", "ok", BAD]),
        ("ScheduleKeyDeletion", |k, r| code(k.keys().schedule_deletion(r, 7, &caller())), ["ok", "ok", BAD]),
        ("CancelKeyDeletion", |k, r| code(k.keys().cancel_deletion(r, &caller())), [BAD, BAD, "ok"]),
    ];
    let place = Site::new();
    let kms = place.init();
    for (verb, run, expected) in verbs {
        for (state, expected) in [KeyState::Enabled, KeyState::Disabled, KeyState::PendingDeletion].iter().zip(expected)
        {
            let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
            kms.aliases().create("alias/old", &key, &caller()).unwrap();
            match state {
                KeyState::Disabled => drop(kms.keys().disable(&key, &caller()).unwrap()),
                KeyState::PendingDeletion => drop(kms.keys().schedule_deletion(&key, 7, &caller()).unwrap()),
                _ => {}
            }
            assert_eq!(kms.keys().describe(&key).unwrap().key_state, *state);
            assert_eq!(run(&kms, &key), *expected, "{verb} {state:?}");
            for alias in ["alias/old", "alias/new"] {
                let _ = kms.aliases().delete(alias, &caller());
            }
        }
    }
}

#[test]
fn decrypting_follows_the_state_too_and_comes_back_with_it() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let blob = kms.crypto().encrypt(&key, &none(), b"x", &caller()).unwrap().blob;
    let (wrapped, data_key) = kms.crypto().new_volume_key(&key, &none(), &service()).unwrap();
    let id = data_key.get().id();
    kms.keys().disable(&key, &caller()).unwrap();
    let err = kms.crypto().unwrap_volume_key(&wrapped, &none(), id, &service()).unwrap_err();
    assert_eq!((err.kind(), err.aws()), (Kind::KeyUnavailable, "DisabledException"));
    assert_eq!(code(kms.crypto().decrypt(&blob, &none(), None, &caller())), "DisabledException");
    kms.keys().enable(&key, &caller()).unwrap();
    kms.keys().schedule_deletion(&key, 30, &caller()).unwrap();
    assert_eq!(code(kms.crypto().decrypt(&blob, &none(), None, &caller())), "KMSInvalidStateException");
    assert_eq!(kms.keys().cancel_deletion(&key, &caller()).unwrap().key_state, KeyState::Disabled);
    kms.keys().enable(&key, &caller()).unwrap();
    kms.crypto().unwrap_volume_key(&wrapped, &none(), id, &service()).unwrap();
    assert_eq!(code(kms.crypto().decrypt(&blob, &none(), None, &caller())), "ok");
}

#[test]
fn old_versions_decrypt_after_rotation_and_the_newest_encrypts() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let ctx = EncryptionContext::of("aws:ebs:id", "vol-0123456789abcdef0");
    let old = kms.crypto().encrypt(&key, &none(), b"old", &caller()).unwrap();
    let (wrapped, data_key) = kms.crypto().new_volume_key(&key, &ctx, &service()).unwrap();
    let id = data_key.get().id();
    let versions = kms.rotations().on_demand(&key, &caller()).unwrap().versions;
    assert_eq!(versions.iter().map(|v| v.current).collect::<Vec<_>>(), [false, true]);
    let new = kms.crypto().encrypt(&key, &none(), b"new", &caller()).unwrap();
    assert_eq!(
        (&old.key_material_id, &new.key_material_id),
        (&versions[0].key_material_id, &versions[1].key_material_id)
    );
    drop(kms);
    let kms = place.open().unwrap();
    for (blob, plain) in [(&old.blob, b"old"), (&new.blob, b"new")] {
        assert_eq!(kms.crypto().decrypt(blob, &none(), None, &caller()).unwrap().plaintext.expose(), plain);
    }
    assert_eq!(kms.crypto().unwrap_volume_key(&wrapped, &ctx, id, &service()).unwrap().get().id(), id);
    let again = kms.crypto().rewrap_volume_key(&wrapped, &ctx, id, &key, &service()).unwrap();
    assert_eq!(kms.crypto().blob_info(&again).unwrap().material.to_string(), versions[1].key_material_id);
    assert_eq!(kms.crypto().unwrap_volume_key(&again, &ctx, id, &service()).unwrap().get().id(), id);
    // AWS stops after 25; coffer does not.
    for _ in 1..30 {
        kms.rotations().on_demand(&key, &caller()).unwrap();
    }
    assert_eq!(kms.keys().describe(&key).unwrap().versions.len(), 31);
}

#[test]
fn a_key_past_its_date_is_gone_with_its_aliases_and_its_blobs_are_lost() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    kms.aliases().create("alias/web", &key, &caller()).unwrap();
    let blob = kms.crypto().encrypt(&key, &none(), b"x", &caller()).unwrap().blob;
    for (days, expected) in [(6, "ValidationException"), (31, "ValidationException"), (7, "ok")] {
        assert_eq!(code(kms.keys().schedule_deletion(&key, days, &caller())), expected);
    }
    place.pass_days(6);
    assert_eq!(kms.deletions().purge_due().unwrap(), []);
    place.pass_days(1);
    // Its date has passed: not yet purged, but past saving.
    assert_eq!(code(kms.keys().cancel_deletion(&key, &caller())), "KMSInvalidStateException");
    drop(kms);
    let kms = place.open().unwrap();
    assert_eq!(code(kms.keys().describe(&key)), "NotFoundException");
    assert_eq!(code(kms.keys().describe(&"alias/web".parse().unwrap())), "NotFoundException");
    assert_eq!(code(kms.crypto().decrypt(&blob, &none(), None, &caller())), "InvalidCiphertextException");
    drop(kms);
    // The chain knows of the removal: it is no rollback.
    assert_eq!(place.open().unwrap().ledger().audit_trouble(), None);
}

#[test]
fn keys_are_found_by_id_arn_alias_and_alias_arn_of_this_place_only() {
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    let alias = kms.aliases().create("alias/web", &key.key_id.into(), &caller()).unwrap();
    for name in [key.key_id.to_string(), key.arn.clone(), "alias/web".into(), alias.alias_arn] {
        assert_eq!(kms.keys().describe(&name.parse().unwrap()).unwrap().arn, key.arn);
    }
    let elsewhere = key.arn.replace("us-east-1", "eu-west-1");
    assert_eq!(code(kms.keys().describe(&elsewhere.parse().unwrap())), "NotFoundException");
    assert_eq!(code(kms.keys().describe(&"alias/none".parse().unwrap())), "NotFoundException");
}

#[test]
fn aliases_follow_the_rules() {
    let place = Site::new();
    let kms = place.init();
    let a = KeyRef::from(kms.keys().create("a", &caller()).unwrap().key_id);
    let b = KeyRef::from(kms.keys().create("b", &caller()).unwrap().key_id);
    let create = |name: &str, key: &KeyRef| code(kms.aliases().create(name, key, &caller()));
    assert_eq!(create("alias/web", &a), "ok");
    assert_eq!(create("alias/web", &b), "AlreadyExistsException");
    assert_eq!(create("alias/aws/mine", &a), "NotAuthorizedException");
    assert_eq!(create("web", &a), "InvalidAliasNameException");
    assert_eq!(create("alias/x", &"alias/web".parse().unwrap()), "ValidationException");
    assert_eq!(code(kms.aliases().update("alias/web", &b, &caller())), "ok");
    assert_eq!(kms.aliases().list(Some(&b)).unwrap().aliases[0].alias_name, "alias/web");
    assert!(kms.aliases().list(Some(&a)).unwrap().aliases.is_empty());
    assert_eq!(code(kms.aliases().delete("alias/web", &caller())), "ok");
    assert_eq!(code(kms.aliases().delete("alias/web", &caller())), "NotFoundException");
    assert_eq!(create("alias/web", &a), "ok");
    drop(kms);
    assert_eq!(place.open().unwrap().ledger().audit_trouble(), None);
}

#[test]
fn the_default_key_of_volumes_is_made_once_and_serves_the_service_alone() {
    let place = Site::new();
    let kms = place.init();
    let ebs = KeyRef::ebs_default();
    assert_eq!(code(kms.keys().describe(&ebs)), "NotFoundException");
    kms.crypto().new_volume_key(&ebs, &none(), &service()).unwrap();
    kms.crypto().new_volume_key(&ebs, &none(), &service()).unwrap();
    assert_eq!(kms.keys().list().unwrap().keys.len(), 1);
    let key = kms.keys().describe(&ebs).unwrap();
    assert_eq!(key.key_manager, KeyManager::Aws);
    for refused in [
        code(kms.crypto().encrypt(&ebs, &none(), b"x", &caller())),
        code(kms.crypto().new_volume_key(&ebs, &none(), &caller())),
        code(kms.keys().disable(&ebs, &caller())),
        code(kms.keys().schedule_deletion(&ebs, 7, &caller())),
        code(kms.aliases().create("alias/web", &key.key_id.into(), &caller())),
    ] {
        assert_eq!(refused, "AccessDeniedException");
    }
    assert_eq!(code(kms.aliases().delete(EBS_ALIAS, &caller())), "NotAuthorizedException");
}

#[test]
fn to_public_callers_all_bad_blobs_look_alike_and_the_audit_knows_why() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    let other = Site::new().init();
    let ctx = EncryptionContext::of("a", "b");
    let good = kms.crypto().encrypt(&key, &ctx, b"x", &caller()).unwrap().blob;
    let (volume, _) = kms.crypto().new_volume_key(&key, &ctx, &service()).unwrap();
    let strange_key = KeyRef::from(other.keys().create("", &caller()).unwrap().key_id);
    let foreign = other.crypto().encrypt(&strange_key, &ctx, b"x", &caller()).unwrap().blob;
    let mut torn = good.clone();
    *torn.last_mut().unwrap() ^= 1;
    let mut words = std::collections::HashSet::new();
    let wrong = EncryptionContext::new();
    for (blob, ctx) in [(&volume, &ctx), (&foreign, &ctx), (&torn, &ctx), (&good, &wrong), (&vec![1, 2, 3], &ctx)] {
        let err = kms.crypto().decrypt(blob, ctx, None, &caller()).unwrap_err();
        assert_eq!(err.aws(), "InvalidCiphertextException");
        words.insert(err.line());
        let err = kms.crypto().re_encrypt(blob, (ctx, None), (&wrong, &key), &caller()).unwrap_err();
        assert_eq!(err.aws(), "InvalidCiphertextException");
    }
    assert_eq!(words.len(), 1, "{words:?}");
    let reasons: std::collections::HashSet<_> =
        kms.ledger().audit_records().unwrap().filter_map(|r| r.unwrap().body.error).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    let second = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    assert_eq!(code(kms.crypto().decrypt(&good, &ctx, Some(&second), &caller())), "IncorrectKeyException");
    assert_eq!(code(kms.crypto().decrypt(&good, &ctx, Some(&key), &caller())), "ok");
    let moved = kms.crypto().re_encrypt(&good, (&ctx, Some(&key)), (&wrong, &second), &caller()).unwrap();
    assert_eq!(kms.crypto().decrypt(&moved.blob, &wrong, Some(&second), &caller()).unwrap().plaintext.expose(), b"x");
}

#[test]
fn data_keys_have_the_length_asked_for_and_open_again() {
    let place = Site::new();
    let kms = place.init();
    let key = KeyRef::from(kms.keys().create("", &caller()).unwrap().key_id);
    for (spec, len) in [(DataKeySpec::Aes128, 16), (DataKeySpec::Aes256, 32), (DataKeySpec::Bytes(1024), 1024)] {
        let (plain, sealed) = kms.crypto().generate_data_key(&key, spec, &none(), &caller()).unwrap();
        assert_eq!(plain.expose().len(), len);
        let opened = kms.crypto().decrypt(&sealed.blob, &none(), None, &caller()).unwrap();
        assert_eq!(opened.plaintext.expose(), plain.expose());
    }
    for n in [0, 1025] {
        assert_eq!(
            code(kms.crypto().generate_data_key(&key, DataKeySpec::Bytes(n), &none(), &caller())),
            "ValidationException"
        );
    }
}

/// A row of a catalog from before there were policies is read, and written as it was then.
#[test]
fn a_key_without_a_policy_is_kept_as_it_always_was() {
    let material = "97c37f683e02c46af48a23af0a4436ba047b6b437f2a18e8658863c842cd9156";
    let row = format!(
        r#"{{"id":"0c37c562-31bb-4d9c-981d-888b26171495","manager":"CUSTOMER","state":"Disabled","description":"old","created":1795897762875,"backing":[{{"material":"{material}","sealed":"00ff","created":1795897762875,"root_generation":1}}]}}"#
    );
    let record: KeyRecord = serde_json::from_str(&row).unwrap();
    assert_eq!((record.state, &record.policy, record.deletion), (KeyState::Disabled, &None, None));
    assert_eq!(serde_json::to_string(&record).unwrap(), row);
    // A new key without one has the same fields.
    let place = Site::new();
    let kms = place.init();
    let key = kms.keys().create("", &caller()).unwrap();
    let json = serde_json::to_value(&kms.here.store.load(&key.key).unwrap().record).unwrap();
    let fields: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["backing", "created", "description", "id", "manager", "state"]);
}
