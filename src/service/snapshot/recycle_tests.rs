use crate::error::Kind;
use crate::service::api::{Reply, SnapshotInfo};
use crate::service::testing::{Fixture, request};
use serde_json::{Value, json};

fn ask(on: &Fixture, verb: Value) -> Reply {
    on.ask(request(verb.clone())).unwrap_or_else(|e| panic!("{verb}: {}", e.line()))
}

fn list(on: &Fixture, recycled: bool) -> Vec<SnapshotInfo> {
    match ask(on, json!({"action": "snapshot-list", "recycled": recycled})) {
        Reply::Snapshots { snapshots } => snapshots,
        other => panic!("{other:?}"),
    }
}

fn on_one(on: &Fixture, action: &str, id: &str) -> crate::error::Result<Reply> {
    on.ask(request(json!({"action": action, "snapshot": id})))
}

fn named(on: &Fixture) -> String {
    let create = json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true, "name": "n"});
    on.snapshot(create).id.to_string()
}

#[test]
fn what_is_in_the_bin_is_hidden_and_whole_until_its_time_is_over_by_both_clocks() {
    let (on, hands) = Fixture::clocked(1 << 20);
    ask(&on, json!({"action": "recycle-bin-set", "days": 2}));
    let id = named(&on);
    let Reply::Done { message, .. } = on_one(&on, "snapshot-delete", "n").unwrap() else { panic!("another answer") };
    assert!(message.contains("recycle bin until"), "{message}");
    // Given again, it is still in the bin; everything else does not find it.
    on_one(&on, "snapshot-delete", &id).unwrap();
    for action in ["snapshot-show", "snapshot-hold", "snapshot-tag"] {
        let err = on_one(&on, action, &id).unwrap_err();
        assert!(err.kind() == Kind::NotFound && err.line().contains("snapshot recover"), "{action}: {}", err.line());
    }
    assert_eq!(on_one(&on, "snapshot-show", "n").unwrap_err().kind(), Kind::NotFound);
    assert_eq!((list(&on, false).len(), list(&on, true).len()), (0, 1));
    let make = json!({"action": "volume-create", "name": "again", "snapshot": id});
    assert_eq!(on.ask(request(make)).unwrap_err().kind(), Kind::NotFound);
    // It comes out with its name, if that is free.
    on_one(&on, "snapshot-recover", &id).unwrap();
    assert_eq!(list(&on, false)[0].name.as_deref(), Some("n"));
    on_one(&on, "snapshot-delete", "n").unwrap();
    let other = named(&on);
    on_one(&on, "snapshot-recover", &id).unwrap();
    let names: Vec<_> = list(&on, false).into_iter().map(|s| (s.id.to_string(), s.name)).collect();
    assert!(names.contains(&(id.clone(), None)) && names.contains(&(other, Some("n".to_owned()))), "{names:?}");

    on_one(&on, "snapshot-delete", &id).unwrap();
    // A setting applies to what is deleted from now on.
    ask(&on, json!({"action": "recycle-bin-set", "days": null}));
    hands.set(1000);
    hands.pass(47);
    on.service.do_chores();
    assert_eq!(list(&on, true).len(), 1);
    hands.pass(1);
    on.service.do_chores();
    assert_eq!(list(&on, true).len(), 0);
    assert_eq!(on_one(&on, "snapshot-recover", &id).unwrap_err().kind(), Kind::NotFound);
    on_one(&on, "snapshot-delete", "n").unwrap();
    assert_eq!((list(&on, false).len(), list(&on, true).len()), (0, 0), "deleted at once");
}

#[test]
fn now_is_for_good_unless_it_is_protected_and_what_failed_needs_no_bin() {
    use crate::service::api::SnapshotState;
    let on = Fixture::with_volume(1 << 20);
    ask(&on, json!({"action": "recycle-bin-set", "days": 365}));
    let [one, two, failed, locked] = [(); 4].map(|()| on.take().id.to_string());
    let now = |id: &str| on.ask(request(json!({"action": "snapshot-delete", "snapshot": id, "now": true})));
    now(&one).unwrap();
    on_one(&on, "snapshot-delete", &two).unwrap();
    now(&two).unwrap();
    on.service.records.note_snapshot(failed.parse().unwrap(), |r| r.state = SnapshotState::Error).unwrap();
    on_one(&on, "snapshot-delete", &failed).unwrap();
    assert_eq!(list(&on, true).len(), 0);
    ask(&on, json!({"action": "snapshot-lock", "snapshot": locked, "mode": "compliance", "days": 1}));
    for refused in [now(&locked), on_one(&on, "snapshot-delete", &locked)] {
        assert_eq!(refused.unwrap_err().kind(), Kind::InvalidState);
    }
    assert_eq!(list(&on, false).len(), 1);
    for days in [0, 366] {
        let err = on.ask(request(json!({"action": "recycle-bin-set", "days": days}))).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
    }
}
