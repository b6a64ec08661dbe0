//! What a drill proves, what it records, and that it leaves nothing.

use crate::error::{Kind, Result};
use crate::service::api::{Finding, Grade, Reply, SnapshotInfo};
use crate::service::lineage_tests::Place;
use crate::service::testing::{Fixture, request};
use crate::volume::Blocking;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A volume with data in three of its chunks, and a snapshot of it.
fn with_snapshot(on: &Fixture) -> SnapshotInfo {
    let used = on.service.opens.acquire(&on.record(), crate::service::opening::Need::Key(&on.caller())).unwrap();
    for at in [0, MIB, 3 * MIB] {
        let _done = used.volume.write(at, &mut vec![7; 9000], Blocking::Allowed).unwrap();
    }
    drop(used);
    on.take()
}

fn drill(on: &Fixture, snapshot: &SnapshotInfo) -> Result<SnapshotInfo> {
    match on.ask(request(json!({"action": "snapshot-drill", "snapshot": snapshot.id})))? {
        Reply::Snapshot(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

fn volumes(on: &Fixture) -> usize {
    assert_eq!(on.service.records.volumes().unwrap().len(), 1);
    std::fs::read_dir(on.path("data/volumes")).unwrap().count()
}

#[test]
fn a_snapshot_that_can_be_restored_is_proved_and_nothing_is_left_of_the_drill() {
    let on = Fixture::with_volume(4 * MIB);
    let taken = with_snapshot(&on);
    let before = volumes(&on);
    let mut seen = 0;
    let asked = request(json!({"action": "snapshot-drill", "snapshot": taken.id}));
    let answer = on.service.handle(&on.caller(), asked, &mut |p| {
        seen = seen.max(p.done);
        true
    });
    let Reply::Snapshot(proved) = answer.unwrap() else { panic!("not a snapshot") };
    assert_eq!((taken.proved, proved.proved.is_some(), seen), (None, true, 3 * (512 << 10)));
    assert_eq!(volumes(&on), before);
    let refs = on.service.repositories.local().refs(on.record().lineage).unwrap();
    assert!(refs.iter().all(|r| r.id.starts_with(&on.record().id.to_string())), "{refs:?}");
}

#[test]
fn damage_and_a_key_that_is_not_there_are_found_and_recorded_as_no_proof() {
    let on = Fixture::with_volume(4 * MIB);
    let taken = with_snapshot(&on);
    let (pack, shown) = (&Place::files_in(on.path("data/repository"), "/packs/")[0], || {
        on.snapshot(json!({"action": "snapshot-show", "snapshot": taken.id})).proved
    });
    on.ask(request(json!({"action": "key-disable", "key": "alias/k"}))).unwrap();
    assert_eq!(drill(&on, &taken).unwrap_err().kind(), Kind::KeyUnavailable);
    on.ask(request(json!({"action": "key-enable", "key": "alias/k"}))).unwrap();
    let good = std::fs::read(pack).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(pack, &bad).unwrap();
    let err = drill(&on, &taken).unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("chunk"), "{}", err.line());
    assert_eq!(shown(), None);
    std::fs::write(pack, &good).unwrap();
    drill(&on, &taken).unwrap();
    assert!(shown().is_some());
}

#[test]
fn doctor_warns_once_nothing_of_a_volume_was_proved_restorable_for_90_days() {
    let (on, hands) = Fixture::clocked(4 * MIB);
    let nags = || match on.ask(request(json!({"action": "doctor"}))).unwrap() {
        Reply::Findings { findings } => {
            let is_nag = |f: &&Finding| f.check == "drill" && f.grade == Grade::Warning;
            findings.iter().find(is_nag).map(|f| f.message.clone())
        }
        other => panic!("{other:?}"),
    };
    let taken = with_snapshot(&on);
    assert_eq!(nags(), None, "it is new");
    hands.pass(91 * 24);
    assert!(nags().unwrap().contains("never proved restorable"));
    drill(&on, &taken).unwrap();
    assert_eq!(nags(), None);
    hands.pass(91 * 24);
    assert!(nags().unwrap().contains("last on"));
}
