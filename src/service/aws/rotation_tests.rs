//! Rotation, imported material and its expiry, and multi-Region keys.

use super::testing::*;
use crate::kms::Caller;
use crate::service::opening::Need;
use serde_json::{Value, json};

fn seal(on: &Lab, caller: &Caller, key: &str) -> Value {
    on.ok(caller, "Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone()
}

fn opens(on: &Lab, caller: &Caller, blob: &Value) -> Result<Vec<u8>, &'static str> {
    let opened = on.call(caller, "Decrypt", json!({"CiphertextBlob": blob}));
    opened.map(|o| bytes(&o["Plaintext"])).map_err(|e| e.aws())
}

/// The material of all versions of a key, oldest first, with their states.
fn versions(on: &Lab, caller: &Caller, key: &str) -> Vec<(String, String)> {
    let all = on.ok(caller, "ListKeyRotations", json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}));
    all["Rotations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (text(&r["KeyMaterialId"]), text(&r["KeyMaterialState"])))
        .collect()
}

fn rotations(on: &Lab, caller: &Caller, key: &str) -> Vec<String> {
    let all = on.ok(caller, "ListKeyRotations", json!({"KeyId": key}));
    all["Rotations"].as_array().unwrap().iter().map(|r| text(&r["RotationType"])).collect()
}

#[test]
fn a_key_rotates_when_both_clocks_say_so() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let old = seal(&on, &root, &k);
    on.ok(&root, "EnableKeyRotation", json!({"KeyId": k, "RotationPeriodInDays": 90}));
    on.service.do_chores();
    // A clock that was set forward.
    on.set_clock_by_days(91);
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k), [""; 0]);
    on.pass_days(89);
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k), [""; 0]);
    on.pass_days(1);
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k), ["AUTOMATIC"]);
    let states: Vec<String> = versions(&on, &root, &k).into_iter().map(|v| v.1).collect();
    assert_eq!(states, ["NON_CURRENT", "CURRENT"]);
    let next = on.ok(&root, "GetKeyRotationStatus", json!({"KeyId": k}));
    assert_eq!(next["NextRotationDate"].as_f64().unwrap(), on.now_seconds() + 90.0 * 86400.0);
    // Once, and both versions decrypt.
    on.service.do_chores();
    let new = seal(&on, &root, &k);
    assert_eq!(rotations(&on, &root, &k).len(), 1);
    for blob in [&old, &new] {
        assert_eq!(opens(&on, &root, blob).unwrap(), b"m");
    }
    let id = |blob: &Value| text(&on.ok(&root, "Decrypt", json!({"CiphertextBlob": blob}))["KeyMaterialId"]);
    let all: Vec<String> = versions(&on, &root, &k).into_iter().map(|v| v.0).collect();
    assert_eq!([id(&old), id(&new)], all[..]);
    on.ok(&root, "DisableKeyRotation", json!({"KeyId": k}));
    on.pass_days(400);
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k).len(), 1);
    let recorded: Vec<_> = on.events().into_iter().filter(|e| e.record.body.act == "kms:RotateKey").collect();
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0].record.body.key.as_deref(), Some(&*k));
}

#[test]
fn a_disabled_key_rotates_once_it_is_enabled() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    on.ok(&root, "EnableKeyRotation", json!({"KeyId": k}));
    assert_eq!(on.ok(&root, "GetKeyRotationStatus", json!({"KeyId": k}))["RotationPeriodInDays"], 365);
    on.ok(&root, "DisableKey", json!({"KeyId": k}));
    on.pass_days(366);
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k), [""; 0]);
    for op in ["EnableKeyRotation", "RotateKeyOnDemand", "DisableKeyRotation"] {
        assert_eq!(on.err(&root, op, json!({"KeyId": k})), "DisabledException", "{op}");
    }
    on.ok(&root, "EnableKey", json!({"KeyId": k}));
    on.service.do_chores();
    assert_eq!(rotations(&on, &root, &k), ["AUTOMATIC"]);
    for days in [89, 2561] {
        let bad = json!({"KeyId": k, "RotationPeriodInDays": days});
        assert_eq!(on.err(&root, "EnableKeyRotation", bad), "ValidationException");
    }
}

#[test]
fn service_managed_keys_rotate_yearly() {
    let on = Lab::new();
    let (root, owner) = (on.root(A, EAST), on.owner());
    let create = json!({"action": "volume-create", "name": "v", "size": 1 << 20});
    on.service.handle(&owner, crate::service::testing::request(create), &mut |_| true).unwrap();
    on.service.do_chores();
    let k = on.arn(&root, crate::kms::EBS_ALIAS);
    let status = on.ok(&root, "GetKeyRotationStatus", json!({"KeyId": k}));
    assert_eq!((&status["KeyRotationEnabled"], &status["RotationPeriodInDays"]), (&json!(true), &json!(365)));
    for n in 1..=2 {
        on.pass_days(364);
        on.service.do_chores();
        assert_eq!(on.service.kms.keys().describe(&k.parse().unwrap()).unwrap().versions.len(), n);
        on.pass_days(2);
        on.service.do_chores();
        assert_eq!(on.service.kms.keys().describe(&k.parse().unwrap()).unwrap().versions.len(), n + 1);
    }
    // The volume opens with the version that wrapped its key.
    let show = json!({"action": "volume-show", "volume": "v"});
    on.service.handle(&owner, crate::service::testing::request(show), &mut |_| true).unwrap();
}

#[test]
fn rotation_on_demand_has_no_limit_and_keeps_old_ciphertexts() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let mut blobs = vec![seal(&on, &root, &k)];
    for _ in 0..15 {
        assert_eq!(on.ok(&root, "RotateKeyOnDemand", json!({"KeyId": k}))["KeyId"], k);
        blobs.push(seal(&on, &root, &k));
    }
    assert_eq!(rotations(&on, &root, &k), ["ON_DEMAND"; 15]);
    for blob in &blobs {
        assert_eq!(opens(&on, &root, blob).unwrap(), b"m");
    }
    for input in [
        json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}),
        json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}),
    ] {
        let other = on.key(&root, input);
        for op in ["RotateKeyOnDemand", "EnableKeyRotation", "GetKeyRotationStatus"] {
            assert_eq!(on.err(&root, op, json!({"KeyId": other})), "UnsupportedOperationException", "{op}");
        }
    }
}

#[test]
fn imported_material_rotates_when_new_material_waits() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({"Origin": "EXTERNAL"}));
    let first = on.import(&root, &k, &[1; 32], json!({})).unwrap();
    let old = seal(&on, &root, &k);
    assert_eq!(on.err(&root, "EnableKeyRotation", json!({"KeyId": k})), "UnsupportedOperationException");
    assert_eq!(on.err(&root, "RotateKeyOnDemand", json!({"KeyId": k})), "KMSInvalidStateException");
    let other = on.import(&root, &k, &[2; 32], json!({})).unwrap_err();
    assert_eq!(other.aws(), "IncorrectKeyMaterialException");
    let new = json!({"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "second"});
    let second = on.import(&root, &k, &[2; 32], new).unwrap();
    let id = |v: &Value| text(&v["KeyMaterialId"]);
    let state = |material: &Value, state: &str| (id(material), state.to_owned());
    assert_eq!(versions(&on, &root, &k), [state(&first, "CURRENT"), state(&second, "PENDING_ROTATION")]);
    // It is not used before the rotation.
    let opened = on.ok(&root, "Decrypt", json!({"CiphertextBlob": seal(&on, &root, &k)}));
    assert_eq!(id(&opened), id(&first));
    on.ok(&root, "RotateKeyOnDemand", json!({"KeyId": k}));
    assert_eq!(versions(&on, &root, &k), [state(&first, "NON_CURRENT"), state(&second, "CURRENT")]);
    let new = seal(&on, &root, &k);
    assert_eq!(id(&on.ok(&root, "Decrypt", json!({"CiphertextBlob": new}))), id(&second));
    assert_eq!(opens(&on, &root, &old).unwrap(), b"m");
    // Without one of its materials the key is not usable; either comes back by itself.
    on.ok(&root, "DeleteImportedKeyMaterial", json!({"KeyId": k, "KeyMaterialId": id(&first)}));
    assert_eq!(on.state(&root, &k), "PendingImport");
    assert_eq!(opens(&on, &root, &new).unwrap_err(), "KMSInvalidStateException");
    on.import(&root, &k, &[1; 32], json!({"ImportType": "EXISTING_KEY_MATERIAL"})).unwrap();
    assert_eq!((on.state(&root, &k).as_str(), opens(&on, &root, &old).unwrap()), ("Enabled", b"m".to_vec()));
}

#[test]
fn material_expires_and_comes_back() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({"Origin": "EXTERNAL"}));
    let until = on.now_seconds() + 10.0 * 86400.0;
    on.import(&root, &k, &[1; 32], json!({"ValidTo": until})).unwrap();
    let meta = on.ok(&root, "DescribeKey", json!({"KeyId": k}))["KeyMetadata"].clone();
    assert_eq!((&meta["ExpirationModel"], meta["ValidTo"].as_f64()), (&json!("KEY_MATERIAL_EXPIRES"), Some(until)));
    let blob = seal(&on, &root, &k);
    on.pass_days(9);
    assert_eq!(opens(&on, &root, &blob).unwrap(), b"m");
    on.pass_days(1);
    // At once, and for good once the service has looked: setting the clock back does not bring it back.
    for looked in [false, true] {
        if looked {
            on.service.do_chores();
            on.set_clock_by_days(-5);
        }
        assert_eq!(on.state(&root, &k), "PendingImport", "{looked}");
        assert_eq!(opens(&on, &root, &blob).unwrap_err(), "KMSInvalidStateException");
        for (op, mut asked) in [
            ("Encrypt", json!({"Plaintext": b64(b"m")})),
            ("EnableKey", json!({})),
            ("DisableKey", json!({})),
            ("CreateGrant", json!({"GranteePrincipal": root_of(A), "Operations": ["Decrypt"]})),
        ] {
            asked["KeyId"] = json!(k);
            assert_eq!(on.err(&root, op, asked), "KMSInvalidStateException", "{op}");
        }
    }
    let recorded = on.events().into_iter().filter(|e| e.record.body.act == "kms:DeleteExpiredKeyMaterial").count();
    assert_eq!(recorded, 1);
    assert_eq!(on.import(&root, &k, &[2; 32], json!({})).unwrap_err().aws(), "IncorrectKeyMaterialException");
    assert_eq!(on.import(&root, &k, &[1; 31], json!({})).unwrap_err().aws(), "InvalidCiphertextException");
    on.import(&root, &k, &[1; 32], json!({})).unwrap();
    assert_eq!(opens(&on, &root, &blob).unwrap(), b"m");
    assert!(on.import(&root, &k, &[1; 32], json!({"ValidTo": 1.0})).is_err());
    let days_ahead = |days: f64| json!({"ValidTo": on.now_seconds() + days * 86400.0});
    let refused = on.import(&root, &k, &[1; 32], days_ahead(365.1)).unwrap_err();
    assert_eq!(
        (refused.aws(), refused.what().contains("365 days")),
        ("ValidationException", true),
        "{}",
        refused.line()
    );
    on.import(&root, &k, &[1; 32], days_ahead(365.0)).unwrap();
}

#[test]
fn a_volume_is_suspended_while_the_material_of_its_key_is_gone() {
    let on = Lab::new();
    let (root, owner) = (on.root(A, EAST), on.owner());
    let k = on.key(&root, json!({"Origin": "EXTERNAL"}));
    on.import(&root, &k, &[1; 32], json!({"ValidTo": on.now_seconds() + 10.0 * 86400.0})).unwrap();
    let create = json!({"action": "volume-create", "name": "v", "size": 1 << 20, "key": k});
    on.service.handle(&owner, crate::service::testing::request(create), &mut |_| true).unwrap();
    let record = on.service.records.find_volume("v").unwrap();
    let used = on.service.opens.acquire(&record, Need::Key(&owner)).unwrap();
    on.pass_days(9);
    on.service.do_chores();
    assert!(used.volume.is_unlocked());
    on.pass_days(1);
    on.service.do_chores();
    assert!(!used.volume.is_unlocked());
    assert!(on.service.opens.waiting(record.id).is_some());
    on.import(&root, &k, &[1; 32], json!({})).unwrap();
    assert!(used.volume.is_unlocked());
    // As when it is deleted.
    on.ok(&root, "DeleteImportedKeyMaterial", json!({"KeyId": k}));
    assert!(!used.volume.is_unlocked());
    on.import(&root, &k, &[1; 32], json!({})).unwrap();
    assert!(used.volume.is_unlocked());
}

#[test]
fn an_import_needs_its_own_token_in_time() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let (k, l) = (on.key(&root, json!({"Origin": "EXTERNAL"})), on.key(&root, json!({"Origin": "EXTERNAL"})));
    let asked = json!({"KeyId": k, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    let given = on.ok(&root, "GetParametersForImport", asked);
    let wrapped = b64(&oaep(&bytes(&given["PublicKey"]), &[1; 32]));
    let import = |key: &str, token: &Value| {
        let asked = json!({
            "KeyId": key, "ImportToken": token, "EncryptedKeyMaterial": wrapped, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        });
        on.call(&root, "ImportKeyMaterial", asked).map_err(|e| e.aws())
    };
    assert_eq!(import(&l, &given["ImportToken"]).unwrap_err(), "InvalidImportTokenException");
    assert_eq!(import(&k, &json!(b64(b"no token"))).unwrap_err(), "InvalidImportTokenException");
    let ours = on.key(&root, json!({}));
    assert_eq!(import(&ours, &given["ImportToken"]).unwrap_err(), "UnsupportedOperationException");
    on.ok(&root, "ScheduleKeyDeletion", json!({"KeyId": k}));
    assert_eq!(import(&k, &given["ImportToken"]).unwrap_err(), "KMSInvalidStateException");
    on.ok(&root, "CancelKeyDeletion", json!({"KeyId": k}));
    // A key that never had material waits for it again.
    assert_eq!(on.state(&root, &k), "PendingImport");
    on.pass_days(1);
    assert_eq!(import(&k, &given["ImportToken"]).unwrap_err(), "ExpiredImportTokenException");
    let all: Vec<_> = on.events().into_iter().filter(|e| e.record.body.act == "kms:ImportKeyMaterial").collect();
    assert!(all.iter().all(|e| e.record.body.result == "refused"));
}

#[test]
fn replicas_have_the_same_material_and_nothing_else() {
    let on = Lab::new();
    let (east, west) = (on.root(A, EAST), on.root(A, WEST));
    let k = on
        .key(&east, json!({"MultiRegion": true, "Description": "primary", "Tags": [{"TagKey": "a", "TagValue": "b"}]}));
    let id = k.rsplit('/').next().unwrap();
    let before = seal(&on, &east, &k);
    on.ok(&east, "CreateAlias", json!({"AliasName": "alias/m", "TargetKeyId": k}));
    on.ok(&east, "CreateGrant", json!({"KeyId": k, "GranteePrincipal": root_of(B), "Operations": ["Decrypt"]}));
    let own = joined(&[key_policy("Allow", "kms:*", &root_of(A)), key_policy("Allow", "kms:Decrypt", &root_of(B))]);
    on.ok(&east, "PutKeyPolicy", json!({"KeyId": k, "Policy": own.to_string()}));
    for (region, code) in [(EAST, "ValidationException"), ("", "ValidationException"), ("x/y", "ValidationException")] {
        assert_eq!(on.err(&east, "ReplicateKey", json!({"KeyId": k, "ReplicaRegion": region})), code, "{region:?}");
    }
    let asked = json!({"KeyId": k, "ReplicaRegion": WEST, "Description": "replica"});
    let made = on.ok(&east, "ReplicateKey", asked.clone());
    assert_eq!(on.err(&east, "ReplicateKey", asked), "AlreadyExistsException");
    assert_eq!(made["ReplicaKeyMetadata"]["KeyId"], id);
    assert_eq!(made["ReplicaTags"], json!([]));
    let config = &made["ReplicaKeyMetadata"]["MultiRegionConfiguration"];
    assert_eq!((&config["MultiRegionKeyType"], &config["PrimaryKey"]["Arn"]), (&json!("REPLICA"), &json!(k)));
    let after = seal(&on, &west, id);
    for caller in [&east, &west] {
        for blob in [&before, &after] {
            assert_eq!(opens(&on, caller, blob).unwrap(), b"m", "{}", caller.request.as_ref().unwrap().region);
        }
    }
    // Aliases, grants, tags, policy, description and state are of each Region.
    assert_eq!(on.ok(&west, "ListAliases", json!({"KeyId": id}))["Aliases"], json!([]));
    assert_eq!(on.ok(&west, "ListGrants", json!({"KeyId": id}))["Grants"], json!([]));
    assert_eq!(on.ok(&west, "ListResourceTags", json!({"KeyId": id}))["Tags"], json!([]));
    assert_ne!(on.ok(&west, "GetKeyPolicy", json!({"KeyId": id}))["Policy"], own.to_string());
    assert_eq!(on.ok(&west, "DescribeKey", json!({"KeyId": id}))["KeyMetadata"]["Description"], "replica");
    on.ok(&west, "DisableKey", json!({"KeyId": id}));
    assert_eq!((on.state(&east, id).as_str(), on.state(&west, id).as_str()), ("Enabled", "Disabled"));
    on.ok(&west, "EnableKey", json!({"KeyId": id}));
    // A rotation reaches the replica; only the primary rotates.
    for op in ["RotateKeyOnDemand", "EnableKeyRotation"] {
        assert_eq!(on.err(&west, op, json!({"KeyId": id})), "UnsupportedOperationException", "{op}");
    }
    on.ok(&east, "EnableKeyRotation", json!({"KeyId": k, "RotationPeriodInDays": 90}));
    on.pass_days(91);
    on.service.do_chores();
    assert_eq!(rotations(&on, &west, id), ["AUTOMATIC"]);
    assert_eq!(versions(&on, &west, id), versions(&on, &east, id));
    let rotated = seal(&on, &east, &k);
    assert_eq!(opens(&on, &west, &rotated).unwrap(), b"m");
    let single = on.key(&east, json!({}));
    assert_eq!(
        on.err(&east, "ReplicateKey", json!({"KeyId": single, "ReplicaRegion": WEST})),
        "UnsupportedOperationException"
    );
}

#[test]
fn the_primary_key_moves_and_goes_last() {
    let on = Lab::new();
    let (east, west) = (on.root(A, EAST), on.root(A, WEST));
    let k = on.key(&east, json!({"MultiRegion": true}));
    let id = k.rsplit('/').next().unwrap();
    assert_eq!(on.err(&east, "UpdatePrimaryRegion", json!({"KeyId": k, "PrimaryRegion": WEST})), "NotFoundException");
    on.ok(&east, "ReplicateKey", json!({"KeyId": k, "ReplicaRegion": WEST}));
    on.ok(&east, "EnableKeyRotation", json!({"KeyId": k, "RotationPeriodInDays": 90}));
    assert_eq!(
        on.err(&west, "UpdatePrimaryRegion", json!({"KeyId": id, "PrimaryRegion": EAST})),
        "UnsupportedOperationException"
    );
    // Both keys must allow it.
    let shut = key_policy("Allow", "kms:PutKeyPolicy", &root_of(A));
    on.ok(&west, "PutKeyPolicy", json!({"KeyId": id, "Policy": shut.to_string()}));
    assert_eq!(
        on.err(&east, "UpdatePrimaryRegion", json!({"KeyId": k, "PrimaryRegion": WEST})),
        "AccessDeniedException"
    );
    let open = key_policy("Allow", "kms:*", &root_of(A));
    on.ok(&west, "PutKeyPolicy", json!({"KeyId": id, "Policy": open.to_string()}));
    on.ok(&east, "UpdatePrimaryRegion", json!({"KeyId": k, "PrimaryRegion": WEST}));
    on.ok(&west, "RotateKeyOnDemand", json!({"KeyId": id}));
    assert_eq!(on.ok(&west, "GetKeyRotationStatus", json!({"KeyId": id}))["RotationPeriodInDays"], 90);
    // The primary waits for the last replica.
    let gone = on.ok(&west, "ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7}));
    assert_eq!((&gone["KeyState"], gone.get("DeletionDate")), (&json!("PendingReplicaDeletion"), None));
    let meta = on.ok(&west, "DescribeKey", json!({"KeyId": id}))["KeyMetadata"].clone();
    assert_eq!(meta["PendingDeletionWindowInDays"], 7);
    assert_eq!(on.err(&west, "Encrypt", json!({"KeyId": id, "Plaintext": b64(b"m")})), "KMSInvalidStateException");
    seal(&on, &east, &k);
    on.pass_days(40);
    on.service.do_chores();
    assert_eq!(on.state(&west, id), "PendingReplicaDeletion");
    on.ok(&east, "ScheduleKeyDeletion", json!({"KeyId": k, "PendingWindowInDays": 7}));
    on.service.do_chores();
    on.pass_days(8);
    on.service.do_chores();
    assert_eq!(on.err(&east, "DescribeKey", json!({"KeyId": k})), "NotFoundException");
    assert_eq!(on.state(&west, id), "PendingDeletion");
    on.service.do_chores();
    on.pass_days(8);
    on.service.do_chores();
    assert_eq!(on.err(&west, "DescribeKey", json!({"KeyId": id})), "NotFoundException");
}

#[test]
fn a_replica_of_imported_material_takes_only_the_same() {
    let on = Lab::new();
    let (east, west) = (on.root(A, EAST), on.root(A, WEST));
    let k = on.key(&east, json!({"MultiRegion": true, "Origin": "EXTERNAL"}));
    let id = k.rsplit('/').next().unwrap();
    on.import(&east, &k, &[1; 32], json!({})).unwrap();
    on.ok(&east, "ReplicateKey", json!({"KeyId": k, "ReplicaRegion": WEST}));
    assert_eq!(on.state(&west, id), "PendingImport");
    let other = on.import(&west, id, &[2; 32], json!({})).unwrap_err();
    assert_eq!(other.aws(), "IncorrectKeyMaterialException");
    on.import(&west, id, &[1; 32], json!({})).unwrap();
    let blob = seal(&on, &east, &k);
    assert_eq!(opens(&on, &west, &blob).unwrap(), b"m");
}

#[test]
fn a_key_needs_the_permissions_of_what_it_gets() {
    let on = Lab::new();
    let east = on.root(A, EAST);
    let k = on.key(&east, json!({"MultiRegion": true}));
    let user = on.user(A, "u", EAST, Some(identity("Allow", "kms:CreateKey", "*")));
    on.key(&user, json!({}));
    let tagged = json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]});
    assert_eq!(on.err(&user, "CreateKey", tagged), "AccessDeniedException");
    let replicates = on.user(A, "v", EAST, Some(identity("Allow", "kms:ReplicateKey", "*")));
    let asked = json!({"KeyId": k, "ReplicaRegion": WEST});
    assert_eq!(on.err(&replicates, "ReplicateKey", asked.clone()), "AccessDeniedException");
    let both = json!(["kms:ReplicateKey", "kms:CreateKey"]);
    let mut policy = identity("Allow", "kms:ReplicateKey", "*");
    policy["Statement"][0]["Action"] = both;
    let both = on.user(A, "w", EAST, Some(policy));
    on.ok(&both, "ReplicateKey", asked);
    // The permission to create is needed in the replica's Region alone.
    let creates_in = |region: &str| {
        let mut creates = identity("Allow", "kms:CreateKey", "*");
        creates["Statement"][0]["Condition"] = json!({"StringEquals": {"aws:RequestedRegion": region}});
        joined(&[identity("Allow", "kms:ReplicateKey", "*"), creates])
    };
    let asked = json!({"KeyId": k, "ReplicaRegion": "ap-southeast-2"});
    let here = on.user(A, "here", EAST, Some(creates_in(EAST)));
    assert_eq!(on.err(&here, "ReplicateKey", asked.clone()), "AccessDeniedException");
    on.ok(&on.user(A, "there", EAST, Some(creates_in("ap-southeast-2"))), "ReplicateKey", asked);
}
