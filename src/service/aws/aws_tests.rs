//! Every operation of the table, once allowed and once refused; dry runs; what the audit says of each; paged lists; and
//! what nobody may do with service-managed keys and the data keys of volumes.

use super::testing::*;
use super::*;
use crate::kms::{EBS_ALIAS, KeyRef};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

/// Operations with a member DryRun (KMS API model of 2014-11-01).
const DRY: [&str; 15] = [
    "CreateGrant",
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "RetireGrant",
    "RevokeGrant",
    "Sign",
    "Verify",
    "VerifyMac",
];

/// Performs each operation: refused first, then as a dry run, then allowed.
struct Tour {
    lab: Lab,
    root: Caller,
    done: BTreeSet<String>,
}

impl Tour {
    fn new() -> Self {
        let lab = Lab::new();
        let root = lab.root(A, EAST);
        Self { lab, root, done: BTreeSet::new() }
    }

    /// Someone without any permission. Refusals are recorded for 20 of each principal in a row.
    fn nobody(&self, n: usize) -> Caller {
        self.lab.user(A, &format!("nobody{n}"), EAST, None)
    }

    /// The changes of keys, aliases and grants so far.
    fn changes(&self) -> u64 {
        let catalog = self.lab.service.ledger().catalog();
        ["kms-key", "kms-alias", "kms-grant"].iter().map(|kind| catalog.changes_of(kind)).sum()
    }

    /// Makes a call, and checks that it leaves these acts in the audit, with its request.
    fn recorded(&self, caller: &Caller, op: &str, input: &Value, acts: &[&str]) -> Result<Value> {
        let caller = self.lab.again(caller);
        let before = self.lab.events().len();
        let answer = self.lab.call(&caller, op, input.clone());
        let new = self.lab.events().split_off(before);
        let found: Vec<&str> = new.iter().map(|e| e.record.body.act.as_str()).collect();
        assert_eq!(found, acts, "{op} {input}");
        let reads = find(&format!("kms:{op}")).unwrap().reads;
        for (i, event) in new.iter().enumerate() {
            let body = &event.record.body;
            let is_last = i + 1 == new.len();
            let result = if answer.is_ok() || !is_last { "ok" } else { "refused" };
            assert_eq!(body.result, result, "{op}: {:?}", body.error);
            let who = body.caller.as_ref().unwrap();
            let request = who.request.as_deref().unwrap();
            assert_eq!(who.principal, caller.principal);
            assert_eq!(request.id, caller.request.as_ref().unwrap().id, "{op}");
            assert_eq!((request.source.as_str(), request.region.as_str()), ("192.0.2.7", EAST));
            assert_eq!(request.read_only, reads, "{op}");
            let names_one = ["KeyId", "TargetKeyId", "DestinationKeyId"].iter().any(|name| input.get(name).is_some());
            let told = body.key.is_some() || body.detail.contains_key("target");
            assert!(told || !names_one, "{op}: the record names no key: {body:?}");
        }
        answer
    }

    fn step(&mut self, op: &str, input: Value) -> Value {
        self.done.insert(format!("kms:{op}"));
        let (nobody, root) = (self.nobody(self.done.len()), self.root.clone());
        let all: &[&str] = if op == "ReEncrypt" { &["ReEncryptFrom", "ReEncryptTo"] } else { &[op] };
        let acts: Vec<String> = all.iter().map(|act| format!("kms:{act}")).collect();
        let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
        let code = |answer: Result<Value>| answer.map_err(|e| e.aws()).unwrap_err();
        let before = self.changes();
        assert_eq!(code(self.recorded(&nobody, op, &input, &acts[..1])), "AccessDeniedException", "{op}");
        if DRY.contains(&op) {
            // A dry run of ReEncrypt does not use its source: it ends at its destination.
            let mut dry = input.clone();
            dry["DryRun"] = true.into();
            assert_eq!(code(self.recorded(&nobody, op, &dry, &acts[..1])), "AccessDeniedException", "{op}");
            assert_eq!(
                code(self.recorded(&root, op, &dry, &acts[acts.len() - 1..])),
                "DryRunOperationException",
                "{op}"
            );
        }
        assert_eq!(self.changes(), before, "{op}: a refusal or a dry run wrote something");
        let answer = self.recorded(&root, op, &input, &acts).unwrap_or_else(|e| panic!("{op} {input}: {}", e.line()));
        self.lab.checked(op, &answer);
        answer
    }

    fn key(&mut self, input: Value) -> String {
        text(&self.step("CreateKey", input)["KeyMetadata"]["KeyId"])
    }
}

#[test]
fn each_operation_is_allowed_and_refused() {
    let mut on = Tour::new();
    let k = on.key(json!({"Description": "first", "Tags": [{"TagKey": "team", "TagValue": "a"}]}));
    let id = |k: &str| json!({"KeyId": k});
    let shown = on.step("DescribeKey", id(&k));
    let meta = &shown["KeyMetadata"];
    assert_eq!(meta["Arn"], format!("arn:aws:kms:{EAST}:{A}:key/{k}"));
    for (member, value) in [
        ("AWSAccountId", A),
        ("Description", "first"),
        ("KeyUsage", "ENCRYPT_DECRYPT"),
        ("KeyState", "Enabled"),
        ("Origin", "AWS_KMS"),
        ("KeyManager", "CUSTOMER"),
        ("KeySpec", "SYMMETRIC_DEFAULT"),
    ] {
        assert_eq!(meta[member], value, "{member}");
    }
    assert_eq!(meta["EncryptionAlgorithms"], json!(["SYMMETRIC_DEFAULT"]));
    assert_eq!((&meta["Enabled"], &meta["MultiRegion"]), (&json!(true), &json!(false)));
    assert_eq!(on.step("ListKeys", json!({}))["Keys"].as_array().unwrap().len(), 1);
    assert_eq!(on.step("UpdateKeyDescription", json!({"KeyId": k, "Description": "second"})), json!({}));
    on.step("TagResource", json!({"KeyId": k, "Tags": [{"TagKey": "env", "TagValue": "test"}]}));
    on.step("UntagResource", json!({"KeyId": k, "TagKeys": ["team"]}));
    let tags = on.step("ListResourceTags", id(&k));
    assert_eq!(tags, json!({"Tags": [{"TagKey": "env", "TagValue": "test"}], "Truncated": false}));
    use_of_symmetric_keys(&mut on, &k);
    let last = on.step("GetKeyLastUsage", id(&k));
    assert_eq!((&last["KeyId"], &last["KeyLastUsage"]["Operation"]), (&meta["Arn"], &json!("Decrypt")));
    use_of_pairs(&mut on, &k);
    aliases_and_policies(&mut on, &k);
    grants(&mut on, &k);
    rotation_and_import(&mut on, &k);
    regions(&mut on);
    on.step("DisableKey", id(&k));
    assert_eq!(on.lab.state(&on.root, &k), "Disabled");
    on.step("EnableKey", id(&k));
    let gone = on.step("ScheduleKeyDeletion", json!({"KeyId": k, "PendingWindowInDays": 7}));
    assert_eq!((&gone["KeyState"], &gone["PendingWindowInDays"]), (&json!("PendingDeletion"), &json!(7)));
    assert_eq!(gone["DeletionDate"].as_f64().unwrap(), on.lab.now_seconds() + 7.0 * 86400.0);
    on.step("CancelKeyDeletion", id(&k));
    assert_eq!(on.lab.state(&on.root, &k), "Disabled");
    let all: BTreeSet<String> =
        OPERATIONS.iter().map(|o| o.name.to_owned()).filter(|name| name.starts_with("kms:")).collect();
    assert_eq!(on.done, all);
}

fn use_of_symmetric_keys(on: &mut Tour, k: &str) {
    let plain = b64(b"attack at dawn");
    let sealed = on.step("Encrypt", json!({"KeyId": k, "Plaintext": plain, "EncryptionContext": {"a": "b"}}));
    assert_eq!(sealed["EncryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    let blob = &sealed["CiphertextBlob"];
    let opened = on.step("Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}}));
    assert_eq!(opened["Plaintext"], plain);
    for wrong in [json!({"CiphertextBlob": blob}), json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "c"}})] {
        assert_eq!(on.lab.err(&on.root, "Decrypt", wrong), "InvalidCiphertextException");
    }
    let to = json!({
        "CiphertextBlob": blob, "SourceEncryptionContext": {"a": "b"}, "DestinationKeyId": k,
        "DestinationEncryptionContext": {"c": "d"},
    });
    let again = on.step("ReEncrypt", to);
    let opened = json!({"CiphertextBlob": again["CiphertextBlob"], "EncryptionContext": {"c": "d"}});
    assert_eq!(on.lab.ok(&on.root, "Decrypt", opened)["Plaintext"], plain);
    let made = on.step("GenerateDataKey", json!({"KeyId": k, "KeySpec": "AES_256"}));
    assert_eq!(bytes(&made["Plaintext"]).len(), 32);
    let opened = on.lab.ok(&on.root, "Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"]}));
    assert_eq!(opened["Plaintext"], made["Plaintext"]);
    let made = on.step("GenerateDataKeyWithoutPlaintext", json!({"KeyId": k, "NumberOfBytes": 1024}));
    let opened = on.lab.ok(&on.root, "Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"], "KeyId": k}));
    assert_eq!(bytes(&opened["Plaintext"]).len(), 1024);
    assert_eq!(bytes(&on.step("GenerateRandom", json!({"NumberOfBytes": 24}))["Plaintext"]).len(), 24);
    for bad in [
        json!({"KeyId": k}),
        json!({"KeyId": k, "KeySpec": "AES_256", "NumberOfBytes": 3}),
        json!({"KeyId": k, "NumberOfBytes": 1025}),
        json!({"KeyId": k, "NumberOfBytes": 0}),
        json!({"KeyId": k, "KeySpec": "AES_512"}),
    ] {
        assert_eq!(on.lab.err(&on.root, "GenerateDataKey", bad.clone()), "ValidationException", "{bad}");
    }
}

fn use_of_pairs(on: &mut Tour, k: &str) {
    on.step("GenerateDataKeyPair", json!({"KeyId": k, "KeyPairSpec": "ECC_NIST_P256"}));
    on.step("GenerateDataKeyPairWithoutPlaintext", json!({"KeyId": k, "KeyPairSpec": "ECC_NIST_P256"}));
    let signs = on.key(json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}));
    let mut asked = json!({"KeyId": signs, "Message": b64(b"m"), "SigningAlgorithm": "ECDSA_SHA_256"});
    asked["Signature"] = on.step("Sign", asked.clone())["Signature"].clone();
    assert_eq!(on.step("Verify", asked.clone())["SignatureValid"], true);
    asked["Message"] = b64(b"n").into();
    assert_eq!(on.lab.err(&on.root, "Verify", asked), "KMSInvalidSignatureException");
    on.step("GetPublicKey", json!({"KeyId": signs}));
    let agrees = on.key(json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"}));
    let peer = on.lab.ok(&on.root, "GetPublicKey", json!({"KeyId": agrees}))["PublicKey"].clone();
    on.step("DeriveSharedSecret", json!({"KeyId": agrees, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer}));
    let macs = on.key(json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}));
    let mut asked = json!({"KeyId": macs, "Message": b64(b"m"), "MacAlgorithm": "HMAC_SHA_256"});
    asked["Mac"] = on.step("GenerateMac", asked.clone())["Mac"].clone();
    assert_eq!(on.step("VerifyMac", asked.clone())["MacValid"], true);
    asked["Message"] = b64(b"n").into();
    assert_eq!(on.lab.err(&on.root, "VerifyMac", asked), "KMSInvalidMacException");
    // Each key only for its usage.
    let wrong = json!({"KeyId": macs, "Plaintext": b64(b"m")});
    assert_eq!(on.lab.err(&on.root, "Encrypt", wrong), "InvalidKeyUsageException");
    let wrong = json!({"KeyId": signs, "Message": b64(b"m"), "SigningAlgorithm": "ECDSA_SHA_384"});
    assert_eq!(on.lab.err(&on.root, "Sign", wrong), "InvalidKeyUsageException");
}

fn aliases_and_policies(on: &mut Tour, k: &str) {
    on.step("CreateAlias", json!({"AliasName": "alias/one", "TargetKeyId": k}));
    let other = on.key(json!({}));
    on.step("UpdateAlias", json!({"AliasName": "alias/one", "TargetKeyId": other}));
    let all = on.step("ListAliases", json!({}));
    assert_eq!(all["Aliases"][0]["TargetKeyId"], other);
    assert_eq!(all["Aliases"][0]["AliasArn"], format!("arn:aws:kms:{EAST}:{A}:alias/one"));
    on.step("DeleteAlias", json!({"AliasName": "alias/one"}));
    let policy = key_policy("Allow", "kms:*", &root_of(A)).to_string();
    on.step("PutKeyPolicy", json!({"KeyId": k, "PolicyName": "default", "Policy": policy}));
    assert_eq!(on.step("GetKeyPolicy", json!({"KeyId": k})), json!({"Policy": policy, "PolicyName": "default"}));
    assert_eq!(
        on.step("ListKeyPolicies", json!({"KeyId": k})),
        json!({"PolicyNames": ["default"], "Truncated": false})
    );
}

fn grants(on: &mut Tour, k: &str) {
    let asked = json!({
        "KeyId": k, "GranteePrincipal": format!("arn:aws:iam::{A}:user/nobody1"), "Operations": ["Decrypt", "Encrypt"],
        "RetiringPrincipal": root_of(A), "Constraints": {"EncryptionContextSubset": {"a": "b"}}, "Name": "n",
    });
    let made = on.step("CreateGrant", asked.clone());
    let all = on.step("ListGrants", json!({"KeyId": k}));
    let one = &all["Grants"][0];
    assert_eq!((&one["GrantId"], &one["IssuingAccount"]), (&made["GrantId"], &json!(root_of(A))));
    assert_eq!(one["Constraints"], json!({"EncryptionContextSubset": {"a": "b"}}));
    assert_eq!(one["Operations"], json!(["Decrypt", "Encrypt"]));
    assert_eq!(on.lab.ok(&on.root, "CreateGrant", asked)["GrantId"], made["GrantId"]);
    let mine = on.step("ListRetirableGrants", json!({"RetiringPrincipal": root_of(A)}));
    assert_eq!(mine["Grants"][0]["GrantId"], made["GrantId"]);
    on.step("RetireGrant", json!({"KeyId": on.lab.arn(&on.root, k), "GrantId": made["GrantId"]}));
    let made = on.lab.ok(
        &on.root,
        "CreateGrant",
        json!({
            "KeyId": k, "GranteePrincipal": root_of(A), "Operations": ["Decrypt"], "RetiringPrincipal": root_of(A),
        }),
    );
    on.lab.ok(&on.root, "RetireGrant", json!({"GrantToken": made["GrantToken"]}));
    let unknown = json!({"GrantToken": "00".repeat(32)});
    assert_eq!(on.lab.err(&on.root, "RetireGrant", unknown), "InvalidGrantTokenException");
    let made = on.lab.ok(
        &on.root,
        "CreateGrant",
        json!({
            "KeyId": k, "GranteePrincipal": root_of(A), "Operations": ["Decrypt"],
        }),
    );
    on.step("RevokeGrant", json!({"KeyId": k, "GrantId": made["GrantId"]}));
    assert_eq!(on.lab.ok(&on.root, "ListGrants", json!({"KeyId": k}))["Grants"], json!([]));
}

fn rotation_and_import(on: &mut Tour, k: &str) {
    on.step("EnableKeyRotation", json!({"KeyId": k, "RotationPeriodInDays": 90}));
    let status = on.step("GetKeyRotationStatus", json!({"KeyId": k}));
    assert_eq!((&status["KeyRotationEnabled"], &status["RotationPeriodInDays"]), (&json!(true), &json!(90)));
    on.step("RotateKeyOnDemand", json!({"KeyId": k}));
    let all = on.step("ListKeyRotations", json!({"KeyId": k}));
    assert_eq!(all["Rotations"][0]["RotationType"], "ON_DEMAND");
    on.step("DisableKeyRotation", json!({"KeyId": k}));
    let x = on.key(json!({"Origin": "EXTERNAL"}));
    assert_eq!(on.lab.state(&on.root, &x), "PendingImport");
    let asked = json!({"KeyId": x, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    let given = on.step("GetParametersForImport", asked);
    let wrapped = oaep(&bytes(&given["PublicKey"]), &[3; 32]);
    on.step(
        "ImportKeyMaterial",
        json!({
            "KeyId": x, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": b64(&wrapped),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        }),
    );
    assert_eq!(on.lab.state(&on.root, &x), "Enabled");
    on.step("DeleteImportedKeyMaterial", json!({"KeyId": x}));
    assert_eq!(on.lab.state(&on.root, &x), "PendingImport");
}

fn regions(on: &mut Tour) {
    let m = on.key(json!({"MultiRegion": true}));
    assert!(m.starts_with("mrk-"));
    let made = on.step("ReplicateKey", json!({"KeyId": m, "ReplicaRegion": WEST}));
    assert_eq!(made["ReplicaKeyMetadata"]["Arn"], format!("arn:aws:kms:{WEST}:{A}:key/{m}"));
    on.step("UpdatePrimaryRegion", json!({"KeyId": m, "PrimaryRegion": WEST}));
    let config = &on.lab.ok(&on.root, "DescribeKey", json!({"KeyId": m}))["KeyMetadata"]["MultiRegionConfiguration"];
    assert_eq!((&config["MultiRegionKeyType"], &config["PrimaryKey"]["Region"]), (&json!("REPLICA"), &json!(WEST)));
}

#[test]
fn tokens_say_who_one_is() {
    let on = Lab::new();
    let (root, user) = (on.root(A, EAST), on.user(A, "u", EAST, None));
    let who = on.ok(&user, "sts:GetCallerIdentity", json!({}));
    assert_eq!((&who["Account"], &who["Arn"]), (&json!(A), &json!(format!("arn:aws:iam::{A}:user/u"))));
    assert_eq!(on.err(&on.owner(), "sts:GetCallerIdentity", json!({})), "AccessDeniedException");
    let role = on.role(A, "r", A, identity("Allow", "kms:ListKeys", "*"));
    let asked = json!({"RoleArn": role, "RoleSessionName": "session"});
    assert_eq!(on.err(&user, "sts:AssumeRole", asked), "AccessDeniedException");
    let may = on.user(A, "may", EAST, Some(identity("Allow", "sts:AssumeRole", &role)));
    let session = on.session(&may, &role, None, EAST);
    assert_eq!(session.principal, format!("arn:aws:sts::{A}:assumed-role/r/session"));
    on.ok(&session, "ListKeys", json!({}));
    assert_eq!(on.err(&session, "ListAliases", json!({})), "AccessDeniedException");
    on.ok(&user, "sts:GetSessionToken", json!({"DurationSeconds": "900"}));
    assert_eq!(on.err(&session, "sts:GetSessionToken", json!({})), "AccessDeniedException");
    assert_eq!(on.err(&root, "sts:GetSessionToken", json!({})), "AccessDeniedException");
    assert_eq!(on.err(&user, "sts:GetSessionToken", json!({"DurationSeconds": "x"})), "ValidationException");
}

#[test]
fn members_that_aws_does_not_have_are_refused() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    for operation in OPERATIONS {
        let asked = json!({"KeyId": "k", "NoSuchMember": 1});
        assert_eq!(on.err(&root, operation.name, asked), "ValidationException", "{}", operation.name);
        let plain = json!("a string");
        assert_eq!(on.err(&root, operation.name, plain), "ValidationException", "{}", operation.name);
    }
}

#[test]
fn lists_come_in_pages() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let mut keys: Vec<String> = (0..5).map(|_| on.key(&root, json!({}))).collect();
    keys.sort();
    let k = &keys[0];
    for i in 0..5 {
        on.ok(&root, "CreateAlias", json!({"AliasName": format!("alias/a{i}"), "TargetKeyId": k}));
        on.ok(&root, "TagResource", json!({"KeyId": k, "Tags": [{"TagKey": format!("t{i}"), "TagValue": "v"}]}));
        on.ok(&root, "RotateKeyOnDemand", json!({"KeyId": k}));
        let to = format!("arn:aws:iam::{A}:user/u{i}");
        let asked =
            json!({"KeyId": k, "GranteePrincipal": to, "RetiringPrincipal": root_of(A), "Operations": ["Decrypt"]});
        on.ok(&root, "CreateGrant", asked);
    }
    for (op, list, item, base, most) in [
        ("ListKeys", "Keys", "KeyArn", json!({}), 1000),
        ("ListAliases", "Aliases", "AliasName", json!({}), 100),
        ("ListAliases", "Aliases", "AliasName", json!({"KeyId": k}), 100),
        ("ListResourceTags", "Tags", "TagKey", json!({"KeyId": k}), 50),
        ("ListKeyRotations", "Rotations", "KeyMaterialId", json!({"KeyId": k}), 1000),
        ("ListGrants", "Grants", "GrantId", json!({"KeyId": k}), 100),
        ("ListRetirableGrants", "Grants", "GrantId", json!({"RetiringPrincipal": root_of(A)}), 100),
    ] {
        let with = |more: &[(&str, Value)]| {
            let mut asked = base.clone();
            more.iter().for_each(|(name, value)| asked[*name] = value.clone());
            asked
        };
        let whole = on.ok(&root, op, with(&[]));
        assert_eq!((whole["Truncated"].as_bool(), whole.get("NextMarker")), (Some(false), None), "{op}");
        let names = |page: &Value| page[list].as_array().unwrap().iter().map(|i| text(&i[item])).collect::<Vec<_>>();
        let (mut found, mut pages, mut marker) = (Vec::new(), 0, None);
        loop {
            let mut more = vec![("Limit", json!(2))];
            more.extend(marker.map(|m| ("Marker", m)));
            let page = on.ok(&root, op, with(&more));
            found.extend(names(&page));
            pages += 1;
            assert_eq!(page["Truncated"].as_bool().unwrap(), page.get("NextMarker").is_some(), "{op}");
            match page.get("NextMarker") {
                Some(next) => marker = Some(next.clone()),
                None => break,
            }
        }
        assert_eq!((found, pages), (names(&whole), 3), "{op}");
        assert_eq!(names(&whole).len(), 5, "{op}");
        for bad in [json!(0), json!(most + 1)] {
            assert_eq!(on.err(&root, op, with(&[("Limit", bad)])), "ValidationException", "{op}");
        }
        on.ok(&root, op, with(&[("Limit", json!(most))]));
        assert_eq!(on.err(&root, op, with(&[("Marker", json!("no marker"))])), "InvalidMarkerException", "{op}");
    }
}

#[test]
fn service_managed_keys_are_the_services_own() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let owner = on.owner();
    on.service
        .handle(
            &owner,
            crate::service::testing::request(json!({"action": "volume-create", "name": "v", "size": 1 << 20})),
            &mut |_| true,
        )
        .unwrap();
    let k = text(&on.ok(&root, "DescribeKey", json!({"KeyId": EBS_ALIAS}))["KeyMetadata"]["Arn"]);
    assert_eq!(on.ok(&root, "DescribeKey", json!({"KeyId": k}))["KeyMetadata"]["KeyManager"], "AWS");
    on.ok(&root, "GetKeyRotationStatus", json!({"KeyId": k}));
    on.ok(&root, "GetKeyPolicy", json!({"KeyId": k}));
    for (op, mut asked) in [
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("ScheduleKeyDeletion", json!({})),
        ("UpdateKeyDescription", json!({"Description": "mine"})),
        ("EnableKeyRotation", json!({})),
        ("DisableKeyRotation", json!({})),
        ("RotateKeyOnDemand", json!({})),
        ("PutKeyPolicy", json!({"Policy": key_policy("Allow", "kms:*", &root_of(A)).to_string()})),
        ("TagResource", json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        ("UntagResource", json!({"TagKeys": ["a"]})),
        ("Encrypt", json!({"Plaintext": b64(b"m")})),
        ("GenerateDataKey", json!({"KeySpec": "AES_256"})),
    ] {
        asked["KeyId"] = json!(k);
        assert_eq!(on.err(&root, op, asked), "AccessDeniedException", "{op}");
    }
    let asked = json!({"AliasName": "alias/mine", "TargetKeyId": k});
    assert_eq!(on.err(&root, "CreateAlias", asked), "AccessDeniedException");
    for op in ["CreateAlias", "UpdateAlias"] {
        let asked = json!({"AliasName": "alias/aws/mine", "TargetKeyId": on.key(&root, json!({}))});
        assert_eq!(on.err(&root, op, asked), "NotAuthorizedException", "{op}");
    }
    assert_eq!(on.err(&root, "DeleteAlias", json!({"AliasName": EBS_ALIAS})), "NotAuthorizedException");
    assert_eq!(on.state(&root, &k), "Enabled");
}

#[test]
fn data_keys_of_volumes_are_not_for_callers() {
    let on = Lab::new();
    let root = on.root(A, EAST);
    let k = on.key(&root, json!({}));
    let context = super::super::context_of(&[("aws:ebs:id".to_owned(), "vol-1".to_owned())].into()).unwrap();
    let key: KeyRef = k.parse().unwrap();
    let (blob, _) = on.service.kms.crypto().new_volume_key(&key, &context, &on.owner()).unwrap();
    let asked = json!({"CiphertextBlob": b64(&blob), "EncryptionContext": {"aws:ebs:id": "vol-1"}});
    assert_eq!(on.err(&root, "Decrypt", asked), "InvalidCiphertextException");
    let asked = json!({
        "CiphertextBlob": b64(&blob), "SourceEncryptionContext": {"aws:ebs:id": "vol-1"}, "DestinationKeyId": k,
    });
    assert_eq!(on.err(&root, "ReEncrypt", asked), "InvalidCiphertextException");
}

/// All that the audit's files contain.
fn log_of(on: &Lab) -> Vec<u8> {
    let dir = on.dir.path().join("data/audit");
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files.flat_map(|path| std::fs::read(path).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2) })]

    /// Whatever member a secret is in, right or wrong, and whether the request is refused or not.
    #[test]
    fn no_secret_of_a_request_is_recorded(secret in "[a-zA-Z0-9]{24}", wrong_type in any::<bool>()) {
        let on = Lab::new();
        // Of whom a thousand refusals are recorded.
        let root = on.owner();
        let k = on.key(&root, json!({}));
        let secret_b64 = b64(secret.as_bytes());
        let value = |s: &str| if wrong_type { json!({"x": s}) } else { json!(s) };
        let mut kept = Vec::new();
        for operation in OPERATIONS {
            for member in UNRECORDED {
                let mut asked = json!({"KeyId": k});
                asked[*member] = match *member {
                    "GrantTokens" => json!([secret]),
                    "GrantToken" | "TokenCode" => value(&secret),
                    _ => value(&secret_b64),
                };
                let _refused_or_not = on.call(&root, operation.name, asked);
            }
            for member in ["DryRun", "Limit", "NumberOfBytes", "MultiRegion"] {
                let mut asked = json!({"KeyId": k});
                asked[member] = json!(secret);
                let _refused = on.call(&root, operation.name, asked).map_err(|e| kept.push(e.line()));
            }
        }
        let made = on.ok(&root, "Encrypt", json!({"KeyId": k, "Plaintext": secret_b64}));
        on.ok(&root, "Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"]}));
        let log = log_of(&on);
        let blob = text(&made["CiphertextBlob"]);
        for hidden in [&secret, &secret_b64, &blob] {
            prop_assert!(!log.windows(hidden.len()).any(|w| w == hidden.as_bytes()), "the log has {hidden}");
            prop_assert!(!kept.iter().any(|line| line.contains(hidden.as_str())), "an error has {hidden}");
        }
        // What is not secret is there.
        prop_assert!(log.windows(k.len()).any(|w| w == k.as_bytes()));
    }
}
