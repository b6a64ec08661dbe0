//! The operations of AWS's table that write the ledger in a way that no verb does.

use crate::acts::{Act, Case};
use crate::world::{Copy, Open};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer::service::Role;
use coffer::service::aws::find;
use openssl::encrypt::Encrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Padding;
use serde_json::{Value, json};

const ELSEWHERE: &str = "eu-west-1";

/// Calls an operation that must succeed.
#[track_caller]
pub fn call(open: &Open, operation: &str, input: Value) -> Value {
    perform(open, operation, input).unwrap_or_else(|e| panic!("{operation}: {}", e.line()))
}

/// Most operations take ids; the names here are aliases, which are the same in each copy.
fn perform(open: &Open, operation: &str, mut input: Value) -> coffer::error::Result<Value> {
    let alias = input["KeyId"].as_str().filter(|key| key.starts_with("alias/") && operation != "DescribeKey");
    if let Some(alias) = alias {
        input["KeyId"] = described(open, alias)["KeyId"].clone();
    }
    open.0.aws(&open.caller(), find(&format!("kms:{operation}")).unwrap(), input)
}

pub fn run(copy: &Copy, operation: &str, input: Value) -> coffer::error::Result<()> {
    perform(&copy.open(Role::Command)?, operation, input).map(drop)
}

pub fn act(operation: &str, input: Value) -> Act {
    Act::Aws { operation: operation.to_owned(), input }
}

pub fn created(copy: &Copy, input: Value) -> Open {
    let open = copy.open(Role::Command).unwrap();
    let made = call(&open, "CreateKey", input);
    call(&open, "CreateAlias", json!({"AliasName": "alias/x", "TargetKeyId": made["KeyMetadata"]["KeyId"]}));
    open
}

/// A request to import material into `alias/x`, wrapped by OpenSSL.
pub fn import(open: &Open) -> Value {
    let asked = json!({"KeyId": "alias/x", "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    let given = call(open, "GetParametersForImport", asked);
    let public = PKey::public_key_from_der(&STANDARD.decode(given["PublicKey"].as_str().unwrap()).unwrap()).unwrap();
    let mut by = Encrypter::new(&public).unwrap();
    by.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
    by.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
    by.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
    let mut wrapped = vec![0; by.encrypt_len(&[7; 32]).unwrap()];
    let len = by.encrypt(&[7; 32], &mut wrapped).unwrap();
    json!({
        "KeyId": "alias/x", "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": STANDARD.encode(&wrapped[..len]),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    })
}

fn external(copy: &Copy) {
    drop(created(copy, json!({"Origin": "EXTERNAL"})));
}

fn imported(copy: &Copy) {
    let open = created(copy, json!({"Origin": "EXTERNAL"}));
    let asked = import(&open);
    call(&open, "ImportKeyMaterial", asked);
}

fn multi_region(copy: &Copy) {
    drop(created(copy, json!({"MultiRegion": true})));
}

fn replicated(copy: &Copy) {
    let open = created(copy, json!({"MultiRegion": true}));
    call(&open, "ReplicateKey", json!({"KeyId": "alias/x", "ReplicaRegion": ELSEWHERE}));
}

fn rotates(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    call(&open, "EnableKeyRotation", json!({"KeyId": "alias/k"}));
}

fn tagged(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    call(&open, "TagResource", json!({"KeyId": "alias/k", "Tags": [{"TagKey": "team", "TagValue": "web"}]}));
}

fn described(open: &Open, key: &str) -> Value {
    call(open, "DescribeKey", json!({"KeyId": key}))["KeyMetadata"].clone()
}

const fn nothing(_: &Copy) {}

const fn never(_: &Open) -> bool {
    false
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let case = |name, prepare: fn(&Copy), act: fn(&Copy) -> Act, is_done: fn(&Open) -> bool| Case {
        name,
        prepare,
        act,
        is_done,
    };
    vec![
        case(
            "aws/create-key",
            nothing,
            |_| {
                let tags = json!([{"TagKey": "team", "TagValue": "web"}]);
                act("CreateKey", json!({"Description": "of aws", "MultiRegion": true, "Tags": tags}))
            },
            |open| shape(open).iter().any(|line| line.contains("of aws")),
        ),
        case(
            "aws/tag-resource",
            tagged,
            |_| {
                let tags = json!([{"TagKey": "team", "TagValue": "db"}, {"TagKey": "env", "TagValue": "test"}]);
                act("TagResource", json!({"KeyId": "alias/k", "Tags": tags}))
            },
            never,
        ),
        case(
            "aws/untag-resource",
            tagged,
            |_| act("UntagResource", json!({"KeyId": "alias/k", "TagKeys": ["team"]})),
            never,
        ),
        case(
            "aws/update-key-description",
            nothing,
            |_| act("UpdateKeyDescription", json!({"KeyId": "alias/k", "Description": "changed"})),
            never,
        ),
        case(
            "aws/enable-key-rotation",
            nothing,
            |_| act("EnableKeyRotation", json!({"KeyId": "alias/k", "RotationPeriodInDays": 90})),
            never,
        ),
        case("aws/disable-key-rotation", rotates, |_| act("DisableKeyRotation", json!({"KeyId": "alias/k"})), never),
        case(
            "aws/rotate-key-on-demand",
            replicated,
            |_| act("RotateKeyOnDemand", json!({"KeyId": "alias/x"})),
            |open| {
                let all = call(open, "ListKeyRotations", json!({"KeyId": "alias/x"}));
                !all["Rotations"].as_array().unwrap().is_empty()
            },
        ),
        case(
            "aws/import-key-material",
            external,
            |copy| act("ImportKeyMaterial", import(&copy.open(Role::Command).unwrap())),
            never,
        ),
        case(
            "aws/delete-imported-key-material",
            imported,
            |_| act("DeleteImportedKeyMaterial", json!({"KeyId": "alias/x"})),
            never,
        ),
        case(
            "aws/replicate-key",
            multi_region,
            |_| act("ReplicateKey", json!({"KeyId": "alias/x", "ReplicaRegion": ELSEWHERE})),
            never,
        ),
        case(
            "aws/update-primary-region",
            replicated,
            |_| act("UpdatePrimaryRegion", json!({"KeyId": "alias/x", "PrimaryRegion": ELSEWHERE})),
            |open| described(open, "alias/x")["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA",
        ),
    ]
}

/// What AWS's operations show of the keys, without ids and times.
pub fn shape(open: &Open) -> Vec<String> {
    let all = call(open, "ListKeys", json!({}));
    let one = |key: &Value| {
        let id = json!({"KeyId": key["KeyId"]});
        let meta = call(open, "DescribeKey", id.clone())["KeyMetadata"].clone();
        let tags = call(open, "ListResourceTags", id.clone())["Tags"].clone();
        let rotation = call(open, "GetKeyRotationStatus", id);
        let versions =
            call(open, "ListKeyRotations", json!({"KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}));
        let states: Vec<String> = versions["Rotations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| format!("{}/{}", v["KeyMaterialState"], v["ImportState"]))
            .collect();
        let regions = &meta["MultiRegionConfiguration"];
        format!(
            "aws key: {} {} tags={tags} rotates={} versions={states:?} {} of {} replicas={}",
            meta["Description"],
            meta["KeyState"],
            rotation["RotationPeriodInDays"],
            regions["MultiRegionKeyType"],
            regions["PrimaryKey"]["Region"],
            regions["ReplicaKeys"].as_array().map_or(0, Vec::len)
        )
    };
    let mut lines: Vec<String> = all["Keys"].as_array().unwrap().iter().map(one).collect();
    lines.sort();
    lines
}
