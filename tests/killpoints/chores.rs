//! What a server does by itself when its time has come: rotation, expiry of imported material, deletion of keys, and the ends of
//! the audit log. A server that is killed meanwhile is followed by one that finishes it.

use crate::acts::{Act, Case};
use crate::aws::{act, call, created, import};
use crate::check::files;
use crate::world::{Copy, DAY, Open, request};
use coffer::env::Env;
use coffer::service::Role;
use serde_json::{Value, json};
use std::path::Path;

/// Bytes of a segment after which the next one is begun (docs/format.md, "Audit").
const SEGMENT: u64 = 4 << 20;

/// Leaves a server nothing to do but its chores, and keys that do not wait for their deletion.
fn at_rest(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    open.json(json!({"action": "volume-delete", "volume": "filling"}));
    open.json(json!({"action": "key-cancel-deletion", "key": "alias/dying"}));
}

fn dying(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    open.json(json!({"action": "volume-delete", "volume": "filling"}));
}

/// A key of this Region and one other, which rotates every 90 days.
fn rotates(copy: &Copy) {
    at_rest(copy);
    let open = created(copy, json!({"MultiRegion": true}));
    call(&open, "ReplicateKey", json!({"KeyId": "alias/x", "ReplicaRegion": "eu-west-1"}));
    call(&open, "EnableKeyRotation", json!({"KeyId": "alias/x", "RotationPeriodInDays": 90}));
}

/// A key whose imported material is good for a day.
fn expires(copy: &Copy) {
    at_rest(copy);
    let open = created(copy, json!({"Origin": "EXTERNAL"}));
    let mut asked = import(&open);
    asked["ExpirationModel"] = "KEY_MATERIAL_EXPIRES".into();
    asked["ValidTo"] = ((Env::system().now().0 + DAY) / 1000).into();
    call(&open, "ImportKeyMaterial", asked);
}

/// A use of a key whose record has its encryption context twice: 16 KiB.
fn long_use() -> Value {
    json!({"KeyId": "alias/k", "Plaintext": "AAAA", "EncryptionContext": {"k": "x".repeat(8000)}})
}

/// The segments of the audit, and the bytes of records in the newest.
fn segments(data: &Path) -> (usize, u64) {
    let mut all: Vec<_> = files(&data.join("audit"));
    all.retain(|file| file.extension().is_some_and(|e| e == "log"));
    all.sort();
    let newest = std::fs::read(all.last().unwrap()).unwrap();
    // Behind the records is space that was allocated ahead.
    let used = newest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    (all.len(), used as u64)
}

/// An audit of a full segment, and so many records after it.
fn long_audit(copy: &Copy, more: usize) {
    at_rest(copy);
    let open = copy.open(Role::Command).unwrap();
    while segments(&copy.data()) < (1, SEGMENT) {
        // None is longer than this.
        let left = ((SEGMENT - segments(&copy.data()).1) / 20_000).max(1);
        (0..left).for_each(|_| drop(call(&open, "Encrypt", long_use())));
    }
    (0..more).for_each(|_| drop(call(&open, "Encrypt", long_use())));
}

fn full_segment(copy: &Copy) {
    long_audit(copy, 0);
    assert_eq!(segments(&copy.data()).0, 1);
}

fn old_segment(copy: &Copy) {
    long_audit(copy, 1);
    assert_eq!(segments(&copy.data()).0, 2);
}

fn has_rotated(open: &Open) -> bool {
    let all = call(open, "ListKeyRotations", json!({"KeyId": "alias/x"}));
    !all["Rotations"].as_array().unwrap().is_empty()
}

fn has_lost_its_material(open: &Open) -> bool {
    call(open, "DescribeKey", json!({"KeyId": "alias/x"}))["KeyMetadata"]["KeyState"] == "PendingImport"
}

/// A snapshot that stays in the recycle bin for nine days.
fn binned(copy: &Copy) {
    at_rest(copy);
    crate::acts::into_the_bin(copy);
}

fn has_emptied_the_bin(open: &Open) -> bool {
    crate::acts::recycled(open).is_empty()
}

/// A volume of which a snapshot is due each day.
fn scheduled(copy: &Copy) {
    at_rest(copy);
    crate::acts::scheduled(copy);
}

fn has_taken_one(open: &Open) -> bool {
    let all = open.json(json!({"action": "snapshot-list"}));
    all["snapshots"].as_array().unwrap().iter().any(|s| !s["schedule"].is_null() && s["state"] == "completed")
}

fn is_deleted(open: &Open) -> bool {
    open.ask(request(json!({"action": "key-show", "key": "alias/dying"}))).is_err()
}

fn has_two_segments(open: &Open) -> bool {
    segments(open.0.data().path()).0 == 2
}

fn has_one_segment(open: &Open) -> bool {
    segments(open.0.data().path()).0 == 1
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let chores = |name, prepare: fn(&Copy), act: fn(&Copy) -> Act, is_done: fn(&Open) -> bool| Case {
        name,
        prepare,
        act,
        is_done,
    };
    vec![
        chores("chores/rotate", rotates, |_| Act::Chores { days: 91 }, has_rotated),
        chores("chores/expire-material", expires, |_| Act::Chores { days: 2 }, has_lost_its_material),
        chores("chores/empty-recycle-bin", binned, |_| Act::Chores { days: 10 }, has_emptied_the_bin),
        chores("chores/run-schedule", scheduled, |_| Act::Chores { days: 2 }, has_taken_one),
        chores("chores/delete-key", dying, |_| Act::Chores { days: 31 }, is_deleted),
        chores("chores/begin-audit-segment", full_segment, |_| act("Encrypt", long_use()), has_two_segments),
        chores("chores/expire-audit", old_segment, |_| Act::Chores { days: 100 }, has_one_segment),
    ]
}
