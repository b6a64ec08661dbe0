use crate::error::{Error, Kind};
use crate::service::api::LockState;
use crate::service::testing::{Fixture, request};
use crate::units::SnapshotId;
use serde_json::{Value, json};

fn on(on: &Fixture, id: SnapshotId, action: &str, fields: Value) -> Result<Value, Error> {
    let mut asked = json!({"action": action, "snapshot": id.to_string()});
    asked.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
    on.ask(request(asked)).map(|reply| serde_json::to_value(reply).unwrap())
}

fn delete(fixture: &Fixture, id: SnapshotId) -> Result<Value, Error> {
    on(fixture, id, "snapshot-delete", json!({}))
}

#[track_caller]
fn refuses_to_delete(fixture: &Fixture, id: SnapshotId, words: [&str; 2]) {
    let err = delete(fixture, id).unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidState);
    words.iter().for_each(|w| assert!(err.line().contains(w), "{}", err.line()));
}

fn is_held_in_log(fixture: &Fixture, id: SnapshotId) -> bool {
    fixture.service.repositories.local().live(fixture.record().lineage, id).unwrap().unwrap().held
}

#[test]
fn a_hold_lasts_until_it_is_released_whatever_becomes_of_the_catalog() {
    let fixture = Fixture::with_volume(1 << 20);
    let id = fixture.take().id;
    // Twice: a command that was interrupted is given again.
    for _ in 0..2 {
        assert_eq!(on(&fixture, id, "snapshot-hold", json!({})).unwrap()["held"], true);
    }
    refuses_to_delete(&fixture, id, ["it is held", "snapshot release"]);
    // A catalog from before the hold.
    fixture.service.records.note_snapshot(id, |r| r.held = false).unwrap();
    refuses_to_delete(&fixture, id, ["the repository's log holds it", "snapshot release"]);
    for _ in 0..2 {
        assert_eq!(on(&fixture, id, "snapshot-release", json!({})).unwrap()["held"], false);
        assert!(!is_held_in_log(&fixture, id));
    }
    delete(&fixture, id).unwrap();
}

#[test]
fn a_lock_ends_by_both_clocks_and_then_its_snapshot_can_be_deleted() {
    let (fixture, hands) = Fixture::clocked(1 << 20);
    let id = fixture.take().id;
    let lock = |fields| on(&fixture, id, "snapshot-lock", fields);
    let state =
        || fixture.snapshot(json!({"action": "snapshot-show", "snapshot": id.to_string()})).lock.map(|l| l.state);
    lock(json!({"mode": "governance", "days": 3})).unwrap();
    refuses_to_delete(&fixture, id, ["locked in governance mode until", "snapshot unlock"]);
    on(&fixture, id, "snapshot-unlock", json!({})).unwrap();
    assert_eq!((state(), is_held_in_log(&fixture, id)), (None, false));

    lock(json!({"mode": "compliance", "days": 3, "cool_off": 10})).unwrap();
    assert_eq!(state(), Some(LockState::ComplianceCooloff));
    refuses_to_delete(&fixture, id, ["locked in compliance mode until", "snapshot unlock"]);
    hands.pass(11);
    hands.set(-11);
    assert_eq!(state(), Some(LockState::Compliance), "setting the clock back does not prolong cooling off");
    let err = on(&fixture, id, "snapshot-unlock", json!({})).unwrap_err();
    assert!(err.kind() == Kind::InvalidState && err.line().contains("cooling off is over"), "{}", err.line());
    hands.set(1000);
    refuses_to_delete(&fixture, id, ["locked in compliance mode until", "wait until it expires"]);
    hands.pass(60);
    refuses_to_delete(&fixture, id, ["locked in compliance mode until", "wait until it expires"]);
    assert!(is_held_in_log(&fixture, id));
    hands.pass(2);
    assert_eq!(state(), Some(LockState::Expired));
    delete(&fixture, id).unwrap();
}

#[test]
fn a_hold_and_a_lock_end_independently() {
    let fixture = Fixture::with_volume(1 << 20);
    for (first, second) in [("snapshot-release", "snapshot-unlock"), ("snapshot-unlock", "snapshot-release")] {
        let id = fixture.take().id;
        on(&fixture, id, "snapshot-hold", json!({})).unwrap();
        on(&fixture, id, "snapshot-lock", json!({"mode": "governance", "days": 1})).unwrap();
        on(&fixture, id, first, json!({})).unwrap();
        assert_eq!(delete(&fixture, id).unwrap_err().kind(), Kind::InvalidState);
        assert!(is_held_in_log(&fixture, id));
        on(&fixture, id, second, json!({})).unwrap();
        delete(&fixture, id).unwrap();
    }
}

#[test]
fn a_snapshot_that_failed_cannot_be_protected() {
    use crate::service::api::SnapshotState;
    let fixture = Fixture::with_volume(1 << 20);
    let id = fixture.take().id;
    fixture.service.records.note_snapshot(id, |r| r.state = SnapshotState::Error).unwrap();
    for (action, fields) in [("snapshot-hold", json!({})), ("snapshot-lock", json!({"mode": "governance", "days": 1}))]
    {
        assert_eq!(on(&fixture, id, action, fields).unwrap_err().kind(), Kind::InvalidState);
    }
    for fields in [json!({"mode": "governance"}), json!({"mode": "governance", "days": 1, "until": 5})] {
        assert_eq!(on(&fixture, id, "snapshot-lock", fields).unwrap_err().kind(), Kind::Usage);
    }
}
