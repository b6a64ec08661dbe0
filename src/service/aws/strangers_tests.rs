//! What a stranger learns of another account: the answer for what exists is that for what does not.

use super::OPERATIONS;
use super::testing::*;
use crate::kms::Caller;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Takes the place of the name of a key in a request.
const KEY: &str = "{KEY}";

/// The requests by which an operation names a key, with [`KEY`] in its place. None: it names no key of another account.
fn requests(operation: &str, own: &str, blob: &Value, grant: &str) -> Vec<Value> {
    let text = b64(b"text");
    let of_key = |more: Value| {
        let mut asked = json!({"KeyId": KEY});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vec![asked]
    };
    match operation {
        "DescribeKey"
        | "EnableKey"
        | "DisableKey"
        | "ScheduleKeyDeletion"
        | "CancelKeyDeletion"
        | "GetKeyLastUsage"
        | "ListResourceTags"
        | "GetPublicKey"
        | "EnableKeyRotation"
        | "DisableKeyRotation"
        | "GetKeyRotationStatus"
        | "RotateKeyOnDemand"
        | "ListKeyRotations"
        | "DeleteImportedKeyMaterial"
        | "GetKeyPolicy"
        | "ListKeyPolicies"
        | "ListGrants"
        | "ListAliases" => of_key(json!({})),
        "UpdateKeyDescription" => of_key(json!({"Description": "d"})),
        "TagResource" => of_key(json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        "UntagResource" => of_key(json!({"TagKeys": ["a"]})),
        // The last of each is refused before anybody asks whether it is allowed.
        "Encrypt" => [json!({"Plaintext": text}), json!({"Plaintext": b64(&[0; 4097])})].map(of_key).concat(),
        "Decrypt" => of_key(json!({"CiphertextBlob": blob})),
        "ReEncrypt" => vec![
            json!({"CiphertextBlob": blob, "SourceKeyId": KEY, "DestinationKeyId": own}),
            json!({"CiphertextBlob": blob, "SourceKeyId": KEY, "DestinationKeyId": KEY}),
            json!({"CiphertextBlob": blob, "DestinationKeyId": KEY}),
        ],
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => {
            [json!({"KeySpec": "AES_256"}), json!({"NumberOfBytes": 99_999})].map(of_key).concat()
        }
        "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => {
            of_key(json!({"KeyPairSpec": "ECC_NIST_P256"}))
        }
        "Sign" => of_key(json!({"Message": text, "SigningAlgorithm": "ECDSA_SHA_256"})),
        "Verify" => of_key(json!({"Message": text, "Signature": text, "SigningAlgorithm": "ECDSA_SHA_256"})),
        "DeriveSharedSecret" => of_key(json!({"KeyAgreementAlgorithm": "ECDH", "PublicKey": text})),
        "GenerateMac" => of_key(json!({"Message": text, "MacAlgorithm": "HMAC_SHA_256"})),
        "VerifyMac" => of_key(json!({"Message": text, "Mac": text, "MacAlgorithm": "HMAC_SHA_256"})),
        "CreateAlias" => vec![json!({"AliasName": "alias/new", "TargetKeyId": KEY})],
        "UpdateAlias" => vec![json!({"AliasName": "alias/own", "TargetKeyId": KEY})],
        "GetParametersForImport" => {
            of_key(json!({"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}))
        }
        "ImportKeyMaterial" => of_key(json!({
            "ImportToken": text, "EncryptedKeyMaterial": text, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"})),
        "PutKeyPolicy" => of_key(json!({"Policy": key_policy("Allow", "kms:*", &root_of(B)).to_string()})),
        "CreateGrant" => of_key(json!({"GranteePrincipal": root_of(B), "Operations": ["Decrypt"]})),
        "RetireGrant" | "RevokeGrant" => of_key(json!({"GrantId": grant})),
        "ReplicateKey" => of_key(json!({"ReplicaRegion": WEST})),
        "UpdatePrimaryRegion" => of_key(json!({"PrimaryRegion": WEST})),
        "tag:TagResources" => vec![json!({"ResourceARNList": [KEY], "Tags": {"a": "b"}})],
        "tag:UntagResources" => vec![json!({"ResourceARNList": [KEY], "TagKeys": ["a"]})],
        "tag:GetResources" => vec![json!({"ResourceARNList": [KEY]})],
        "CreateKey"
        | "ListKeys"
        | "GenerateRandom"
        | "DeleteAlias"
        | "ListRetirableGrants"
        | "sts:GetCallerIdentity"
        | "sts:AssumeRole"
        | "sts:GetSessionToken"
        | "cloudtrail:LookupEvents"
        | "tag:GetTagKeys"
        | "tag:GetTagValues" => Vec::new(),
        other => panic!("{other} is in no row of this table"),
    }
}

/// The operations of which the KMS API Reference says that KeyId can be an alias.
const TAKE_ALIASES: &[&str] = &[
    "DescribeKey",
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "Sign",
    "Verify",
    "GetPublicKey",
    "DeriveSharedSecret",
    "GenerateMac",
    "VerifyMac",
];

#[test]
fn operations_take_aliases_where_aws_does() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let key = on.key(&root, json!({}));
    on.ok(&root, "CreateAlias", json!({"AliasName": "alias/own", "TargetKeyId": key}));
    let blob = on.ok(&root, "Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let arn = format!("arn:aws:kms:{EAST}:{A}:alias/own");
    for operation in OPERATIONS.iter().filter_map(|entry| entry.name.strip_prefix("kms:")) {
        for request in requests(operation, &key, &blob, "0") {
            for alias in ["alias/own", &arn] {
                let answer = on.call(&root, operation, filled(&request, alias)).map_err(|e| (e.aws(), e.line()));
                let is_refused = matches!(&answer, Err((_, why)) if why.starts_with("Invalid keyId"));
                match operation {
                    "CreateAlias" | "UpdateAlias" => assert_eq!(answer.unwrap_err().0, "ValidationException"),
                    _ => assert_eq!(is_refused, !TAKE_ALIASES.contains(&operation), "{operation} {alias}: {answer:?}"),
                }
            }
        }
    }
    assert_eq!(on.state(&root, &key), "Enabled");
}

/// Keys of account [`A`] of all sorts and in all states, and aliases of theirs, by ARN.
fn keys_of_a(on: &Lab, root: &Caller) -> Vec<String> {
    let make = |input: Value| on.key(root, input);
    let mut all = vec![
        make(json!({})),
        make(json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})),
        make(json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"})),
        make(json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"})),
        make(json!({"MultiRegion": true})),
        make(json!({"Origin": "EXTERNAL"})),
    ];
    let (off, dying) = (make(json!({})), make(json!({})));
    on.ok(root, "DisableKey", json!({"KeyId": off}));
    on.ok(root, "ScheduleKeyDeletion", json!({"KeyId": dying, "PendingWindowInDays": 7}));
    on.ok(root, "CreateAlias", json!({"AliasName": "alias/there", "TargetKeyId": all[0]}));
    all.extend([off, dying, format!("arn:aws:kms:{EAST}:{A}:alias/there")]);
    all
}

fn filled(request: &Value, key: &str) -> Value {
    serde_json::from_str(&request.to_string().replace(KEY, key)).unwrap()
}

/// What a request is answered, without the name that it has for the key.
fn answered(on: &Lab, caller: &Caller, operation: &str, request: &Value, key: &str) -> String {
    let answer = match on.call(&on.again(caller), operation, filled(request, key)) {
        Ok(answer) => answer.to_string(),
        Err(e) => format!("{}: {}", e.aws(), e.line()),
    };
    answer.replace(key, KEY)
}

#[test]
fn a_stranger_is_answered_the_same_whether_a_key_exists_or_not() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let there = keys_of_a(&on, &root);
    let blob = on.ok(&root, "Encrypt", json!({"KeyId": there[0], "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let grant = json!({"KeyId": there[0], "GranteePrincipal": root_of(A), "Operations": ["Decrypt"]});
    let grant = text(&on.ok(&root, "CreateGrant", grant)["GrantId"]);
    let id = "00000000-1111-2222-3333-444444444444";
    let missing_key = format!("arn:aws:kms:{EAST}:{A}:key/{id}");
    let missing_alias = format!("arn:aws:kms:{EAST}:{A}:alias/missing");
    let user = on.user(B, "all", EAST, Some(identity("Allow", "*", "*")));
    let other = on.root(B, EAST);
    let own = on.key(&other, json!({}));
    on.ok(&other, "CreateAlias", json!({"AliasName": "alias/own", "TargetKeyId": own}));
    let of_own = on.ok(&other, "Encrypt", json!({"KeyId": own, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let mut told = BTreeSet::new();
    for entry in OPERATIONS {
        let operation = entry.name.trim_start_matches("kms:");
        for blob in [&blob, &of_own] {
            for request in requests(operation, &own, blob, &grant) {
                for caller in [&other, &user] {
                    for key in &there {
                        let missing = if key.contains(":alias/") { &missing_alias } else { &missing_key };
                        let answers = [key, missing].map(|key| answered(&on, caller, operation, &request, key));
                        let [exists, not] = answers;
                        if exists != not {
                            told.insert(format!("{operation} {request}\n  exists:      {exists}\n  does not: {not}"));
                        }
                    }
                }
            }
        }
    }
    assert!(told.is_empty(), "{}", told.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Someone pastes a secret where a name belongs.
#[test]
fn a_secret_that_is_typed_as_a_name_is_not_recorded() {
    let on = Lab::new();
    let (root, own) = (on.root(A, EAST), "alias/own");
    let user = on.user(A, "user", EAST, Some(identity("Allow", "*", "*")));
    let session = on.ok(&user, "sts:GetSessionToken", json!({}));
    let secrets = ["SecretAccessKey", "SessionToken"].map(|name| text(&session["Credentials"][name]));
    let blob = json!(b64(b"blob"));
    let grant = json!({"KeyId": own, "GranteePrincipal": KEY, "RetiringPrincipal": KEY, "Operations": ["Decrypt"]});
    let more = [
        ("CreateAlias", json!({"AliasName": KEY, "TargetKeyId": own})),
        ("CreateAlias", json!({"AliasName": format!("alias/{KEY}"), "TargetKeyId": own})),
        ("DeleteAlias", json!({"AliasName": format!("alias/{KEY}")})),
        ("CreateGrant", grant),
        ("RetireGrant", json!({"KeyId": own, "GrantId": KEY})),
        ("ListRetirableGrants", json!({"RetiringPrincipal": KEY})),
        ("ReplicateKey", json!({"KeyId": own, "ReplicaRegion": KEY})),
        ("GetKeyPolicy", json!({"KeyId": own, "PolicyName": KEY})),
        ("ListKeys", json!({"Marker": KEY})),
        ("sts:AssumeRole", json!({"RoleArn": KEY, "RoleSessionName": KEY})),
        ("sts:AssumeRole", json!({"RoleArn": format!("arn:aws:iam::{A}:role/{KEY}"), "RoleSessionName": "session"})),
        (
            "cloudtrail:LookupEvents",
            json!({"LookupAttributes": [{"AttributeKey": "ResourceName", "AttributeValue": KEY}]}),
        ),
        ("tag:TagResources", json!({"ResourceARNList": [KEY], "Tags": {"a": "b"}})),
    ];
    for secret in &secrets {
        for entry in OPERATIONS {
            let operation = entry.name.trim_start_matches("kms:");
            for request in requests(operation, own, &blob, KEY) {
                let _refused = on.call(&root, operation, filled(&request, secret));
                let arn = format!("arn:aws:kms:{EAST}:{A}:key/{secret}");
                let _refused = on.call(&root, operation, filled(&request, &arn));
            }
        }
        for (operation, request) in &more {
            let _refused = on.call(&user, operation, filled(request, secret));
        }
    }
    let recorded = serde_json::to_string(&on.events().iter().map(|e| &e.record).collect::<Vec<_>>()).unwrap();
    assert!(recorded.contains("Invalid keyId") && recorded.contains('…'));
    for part in secrets.iter().map(|secret| &secret[secret.len() / 2..][..12]) {
        let found = recorded.find(part).map(|at| &recorded[at.saturating_sub(600)..at + 12]);
        assert_eq!(found, None);
    }
}

/// The events that a caller's account sees of its newest request, without what is of one request alone.
fn events_of(on: &Lab, caller: &Caller, request: &str) -> Vec<Value> {
    let found = on.call(&on.again(caller), "cloudtrail:LookupEvents", json!({"MaxResults": 5})).unwrap();
    let seen = found["Events"].as_array().unwrap().iter().filter_map(|event| {
        let mut event = event.clone();
        let mut told: Value = serde_json::from_str(event["CloudTrailEvent"].as_str().unwrap()).unwrap();
        let is_of = told["requestID"] == request;
        ["requestID", "eventID"].iter().for_each(|name| drop(told.as_object_mut().unwrap().remove(*name)));
        event["CloudTrailEvent"] = told;
        event.as_object_mut().unwrap().remove("EventId");
        is_of.then_some(event)
    });
    seen.collect()
}

/// What a request is answered and what is seen of it, without the name that it has for the key.
fn answered_and_seen(on: &Lab, caller: &Caller, operation: &str, request: &Value, key: &str) -> (String, String) {
    let caller = on.again(caller);
    let answer = match on.call(&caller, operation, filled(request, key)) {
        Ok(answer) => answer.to_string(),
        Err(e) => format!("{}: {}", e.aws(), e.line()),
    };
    let events = events_of(on, &caller, &caller.request.as_ref().unwrap().id);
    (answer.replace(key, KEY), Value::from(events).to_string().replace(key, KEY))
}

#[test]
fn a_strangers_account_sees_no_more_of_a_refusal_than_he_was_answered() {
    let on = Lab::new();
    let (root, other) = (on.root(A, EAST), on.root(B, EAST));
    let (there, own) = (keys_of_a(&on, &root), on.key(&other, json!({})));
    on.ok(&other, "CreateAlias", json!({"AliasName": "alias/own", "TargetKeyId": own}));
    let blob = on.ok(&root, "Encrypt", json!({"KeyId": there[0], "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let grant = json!({"KeyId": there[0], "GranteePrincipal": root_of(A), "Operations": ["Decrypt"]});
    let grant = text(&on.ok(&root, "CreateGrant", grant)["GrantId"]);
    let missing_key = format!("arn:aws:kms:{EAST}:{A}:key/00000000-1111-2222-3333-444444444444");
    let missing_alias = format!("arn:aws:kms:{EAST}:{A}:alias/missing");
    let pairs = [(&there[0], &missing_key), (there.last().unwrap(), &missing_alias)];
    let mut told = BTreeSet::new();
    for operation in OPERATIONS.iter().map(|entry| entry.name.trim_start_matches("kms:")) {
        for request in requests(operation, &own, &blob, &grant) {
            for (key, missing) in pairs {
                let [exists, not] = [key, missing].map(|key| answered_and_seen(&on, &other, operation, &request, key));
                let of_key = if key.contains(":alias/") { &*there[0] } else { "nothing" };
                if exists != not || exists.1.contains(of_key) {
                    let (exists, not) = (exists.1, not.1);
                    told.insert(format!("{operation} {request}\n  exists:      {exists}\n  does not: {not}"));
                }
            }
        }
    }
    assert!(told.is_empty(), "{}", told.into_iter().collect::<Vec<_>>().join("\n"));
    // By a ciphertext.
    let gone = on.key(&root, json!({}));
    let of_gone = on.ok(&root, "Encrypt", json!({"KeyId": gone, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    on.ok(&root, "ScheduleKeyDeletion", json!({"KeyId": gone, "PendingWindowInDays": 7}));
    on.pass_days(3);
    on.service.kms.deletions().purge_due().unwrap();
    on.pass_days(8);
    assert_eq!(on.service.kms.deletions().purge_due().unwrap().len(), 2);
    for operation in ["Decrypt", "ReEncrypt"] {
        let [exists, not] = [&blob, &of_gone].map(|blob| {
            let request = match operation {
                "Decrypt" => json!({"CiphertextBlob": blob}),
                _ => json!({"CiphertextBlob": blob, "DestinationKeyId": own}),
            };
            answered_and_seen(&on, &other, operation, &request, "{NONE}")
        });
        assert_eq!(exists, not, "{operation}");
        assert!(exists.1.contains("AccessDenied") && !exists.1.contains(A), "{}", exists.1);
    }
    // The owner of a key sees why a use of it was refused.
    assert_eq!(
        on.err(&root, "Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}})),
        "InvalidCiphertextException"
    );
    let found = on.call(&root, "cloudtrail:LookupEvents", json!({"MaxResults": 1})).unwrap();
    assert_eq!(found["Events"][0]["Resources"][0]["ResourceName"], there[0]);
}

#[test]
fn a_stranger_is_answered_the_same_for_a_ciphertext_and_a_grant_of_another_account_and_none() {
    let on = Lab::new();
    let (root, other) = (on.root(A, EAST), on.root(B, EAST));
    let blob =
        |key: &str| on.ok(&root, "Encrypt", json!({"KeyId": key, "Plaintext": b64(b"m")}))["CiphertextBlob"].clone();
    let (key, gone, own) = (on.key(&root, json!({})), on.key(&root, json!({})), on.key(&other, json!({})));
    let (of_key, of_gone) = (blob(&key), blob(&gone));
    let grant = json!({"KeyId": key, "GranteePrincipal": root_of(A), "Operations": ["Decrypt"]});
    let grant = text(&on.ok(&root, "CreateGrant", grant)["GrantId"]);
    on.ok(&root, "ScheduleKeyDeletion", json!({"KeyId": gone, "PendingWindowInDays": 7}));
    on.pass_days(3);
    on.service.kms.deletions().purge_due().unwrap();
    on.pass_days(8);
    assert_eq!(on.service.kms.deletions().purge_due().unwrap().len(), 1);
    let same = |operation: &str, [there, missing]: [Value; 2]| {
        let answer = |input| answered(&on, &other, operation, &input, "{NONE}");
        assert_eq!(answer(there), answer(missing), "{operation}");
    };
    same("Decrypt", [&of_key, &of_gone].map(|blob| json!({"CiphertextBlob": blob})));
    same("ReEncrypt", [&of_key, &of_gone].map(|blob| json!({"CiphertextBlob": blob, "DestinationKeyId": own})));
    for named in [&key, &gone] {
        same("Decrypt", [&of_key, &of_gone].map(|blob| json!({"CiphertextBlob": blob, "KeyId": named})));
    }
    let none = "0".repeat(64);
    for operation in ["RetireGrant", "RevokeGrant"] {
        same(operation, [&grant, &none].map(|grant| json!({"KeyId": key, "GrantId": grant})));
    }
    let role = on.role(A, "closed", A, identity("Allow", "kms:*", "*"));
    let user = on.user(B, "all", EAST, Some(identity("Allow", "*", "*")));
    let assume = |role: &str| {
        answered(&on, &user, "sts:AssumeRole", &json!({"RoleArn": KEY, "RoleSessionName": "session"}), role)
    };
    assert_eq!(assume(&role), assume(&format!("arn:aws:iam::{A}:role/missing")));
}
