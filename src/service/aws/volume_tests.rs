//! Volumes under keys of other accounts.

use super::super::api::Reply;
use super::super::opening::Need;
use super::super::testing::request;
use super::find;
use super::testing::*;
use crate::error::{Kind, Result};
use crate::volume::Blocking;
use serde_json::{Value, json};

fn ask(on: &Lab, asked: Value) -> Result<Reply> {
    on.service.handle(&on.owner(), request(asked), &mut |_| true)
}

fn create(on: &Lab, name: &str, key: Option<&str>, snapshot: Option<String>) -> Result<Value> {
    let size = snapshot.is_none().then_some(1 << 20);
    let asked = json!({"action": "volume-create", "name": name, "size": size, "key": key, "snapshot": snapshot,
        "on_key_loss": null, "iops": null, "throughput": null});
    ask(on, asked).map(|reply| serde_json::to_value(reply).unwrap())
}

/// Opens a volume, and reads its first sector.
fn first_byte(on: &Lab, name: &str) -> Result<u8> {
    let record = on.service.records.find_volume(name)?;
    let used = on.service.opens.acquire(&record, Need::Key(&on.owner()))?;
    let mut sector = [0; 512];
    let _done = used.volume.read(0, &mut sector, Blocking::Allowed)?;
    Ok(sector[0])
}

#[test]
fn volumes_and_snapshots_are_used_under_a_key_that_another_account_shares() {
    let on = Lab::new();
    let other = on.root(B, EAST);
    let key = on.key(&other, json!({}));
    assert_eq!(create(&on, "v", Some(&key), None).unwrap_err().kind(), Kind::AccessDenied);
    let policies = [key_policy("Allow", "kms:*", &root_of(B)), key_policy("Allow", "kms:*", &root_of(A))];
    let asked = json!({"KeyId": key, "Policy": joined(&policies).to_string()});
    on.ok(&other, "PutKeyPolicy", asked);
    assert_eq!(create(&on, "v", Some(&key), None).unwrap()["key"], key.as_str());
    let record = on.service.records.find_volume("v").unwrap();
    let used = on.service.opens.acquire(&record, Need::Key(&on.owner())).unwrap();
    let _done = used.volume.write(0, &mut [7; 512], Blocking::Allowed).unwrap();
    used.volume.flush().unwrap();
    drop(used);
    let taken = ask(&on, json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true})).unwrap();
    let Reply::Snapshot(taken) = taken else { panic!("another answer") };
    assert_eq!(create(&on, "w", None, Some(taken.id.to_string())).unwrap()["key"], key.as_str());
    assert_eq!((first_byte(&on, "v").unwrap(), first_byte(&on, "w").unwrap()), (7, 7));
    // The account that owns the key sees its use, and takes it back.
    let attribute = json!({"AttributeKey": "EventName", "AttributeValue": "Decrypt"});
    let lookup = find("cloudtrail:LookupEvents").unwrap();
    let events = on.service.aws(&other, lookup, json!({"LookupAttributes": [attribute]})).unwrap();
    assert!(!events["Events"].as_array().unwrap().is_empty());
    on.ok(&other, "DisableKey", json!({"KeyId": key}));
    assert_eq!(first_byte(&on, "v").unwrap_err().kind(), Kind::KeyUnavailable);
    on.ok(&other, "EnableKey", json!({"KeyId": key}));
    assert_eq!(first_byte(&on, "v").unwrap(), 7);
}

#[test]
fn a_key_of_another_region_is_refused_for_a_volume() {
    let on = Lab::new();
    for key in [on.key(&on.root(A, WEST), json!({})), on.key(&on.root(A, WEST), json!({"MultiRegion": true}))] {
        let err = create(&on, "v", Some(&key), None).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.what().contains(EAST) && err.what().contains(WEST), "{}", err.line());
    }
}
