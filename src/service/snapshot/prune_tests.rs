use crate::error::Kind;
use crate::kms::Caller;
use crate::service::api::{PrunedInfo, Reply};
use crate::service::testing::{Fixture, Hands, request};
use crate::service::{Service, api::SnapshotInfo};
use serde_json::{Value, json};
use std::sync::Arc;

fn ask(on: &Fixture, verb: Value) -> crate::error::Result<Vec<PrunedInfo>> {
    match on.ask(request(verb))? {
        Reply::Pruned { snapshots, .. } => Ok(snapshots),
        other => panic!("{other:?}"),
    }
}

/// Snapshots of `v`, a day apart.
fn daily(on: &Fixture, hands: &Hands, count: usize) -> Vec<String> {
    let one = |_| {
        hands.pass(24);
        on.take().id.to_string()
    };
    (0..count).map(one).collect()
}

fn left(on: &Fixture) -> Vec<String> {
    let Reply::Snapshots { snapshots } = on.ask(request(json!({"action": "snapshot-list"}))).unwrap() else {
        panic!("another answer")
    };
    snapshots.iter().map(|s: &SnapshotInfo| s.id.to_string()).collect()
}

#[test]
fn what_no_rule_keeps_is_deleted_unless_it_is_protected_or_read() {
    let (on, hands) = Fixture::clocked(1 << 20);
    let all = daily(&on, &hands, 6);
    let verb = |action: &str, n: usize| json!({"action": action, "snapshot": all[n]});
    on.ask(request(verb("snapshot-hold", 0))).unwrap();
    let lock = json!({"action": "snapshot-lock", "snapshot": all[1], "mode": "governance", "days": 3});
    on.ask(request(lock)).unwrap();
    let tag = json!({"action": "snapshot-tag", "snapshot": all[2], "tags": {"keep": "yes"}});
    on.ask(request(tag)).unwrap();
    let view = on.service.open_view(all[3].parse().unwrap(), &on.caller()).unwrap();
    let keep = json!({"last": 1, "tags": {"keep": null}});
    let prune =
        |dry_run: bool| ask(&on, json!({"action": "snapshot-prune", "keep": keep, "dry_run": dry_run})).unwrap();
    let reasons = |found: &[PrunedInfo]| found.iter().map(|p| p.reasons.join(", ")).collect::<Vec<_>>();
    let dry = prune(true);
    assert_eq!(left(&on), all, "a dry run deletes nothing");
    let found = prune(false);
    assert_eq!(reasons(&dry), reasons(&found));
    let [held, locked, tagged, read, gone, last] = &reasons(&found)[..] else { panic!("{found:?}") };
    assert!(locked.starts_with("it is locked in governance mode until"), "{locked}");
    assert_eq!([&**held, tagged, read, gone, last], ["it is held", "tag keep", "it is being read", "", "last 1"]);
    assert_eq!(left(&on), [&all[..4], &all[5..]].concat());
    drop(view);
    assert_eq!(prune(false).iter().filter(|p| !p.kept).count(), 1);
}

#[test]
fn each_volume_is_pruned_by_itself_and_without_a_rule_none_is() {
    let (on, hands) = Fixture::clocked(1 << 20);
    on.ask(request(json!({"action": "volume-create", "name": "w", "size": 1 << 20}))).unwrap();
    let v = daily(&on, &hands, 3);
    let w = on.snapshot(json!({"action": "snapshot-create", "volume": "w", "description": "", "wait": true}));
    for none in [json!({}), json!({"last": 0})] {
        let err = ask(&on, json!({"action": "snapshot-prune", "keep": none})).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.line().contains("--keep-last"), "{}", err.line());
    }
    let only = ask(&on, json!({"action": "snapshot-prune", "keep": {"daily": 2}, "volume": "w"})).unwrap();
    assert_eq!(only.iter().map(|p| p.snapshot).collect::<Vec<_>>(), [w.id]);
    let found = ask(&on, json!({"action": "snapshot-prune", "keep": {"daily": 2}})).unwrap();
    assert_eq!(found.iter().filter(|p| !p.kept).map(|p| p.snapshot.to_string()).collect::<Vec<_>>(), v[..1]);
    assert_eq!(left(&on).len(), 3);
}

#[test]
fn pruned_snapshots_go_into_the_bin_and_a_failure_is_told() {
    let (on, hands) = Fixture::clocked(1 << 20);
    on.ask(request(json!({"action": "recycle-bin-set", "days": 2}))).unwrap();
    let all = daily(&on, &hands, 2);
    let pruned = |service: &Arc<Service>, caller: &Caller| {
        service.prune(caller, &super::Keep { last: 1, ..Default::default() }, false, &|_| true).unwrap()
    };
    assert!(!pruned(&on.service, &on.caller())[0].kept);
    on.ask(request(json!({"action": "snapshot-recover", "snapshot": all[0]}))).unwrap();
    on.ask(request(json!({"action": "recycle-bin-set", "days": null}))).unwrap();
    // The repository is gone: its log cannot be read in a new process, and not be written here.
    let log = on.service.data().repository().join(on.record().lineage.to_string());
    std::fs::rename(&log, on.path("away")).unwrap();
    std::fs::write(&log, b"").unwrap();
    let found = pruned(&on.service, &on.caller());
    assert!(found[0].kept && found[0].error.is_some() && found[1].error.is_none(), "{found:?}");
}

/// What was hidden together when a process was killed is deleted when the next one settles it.
#[test]
fn interrupted_deletes_are_finished_together() {
    let (on, hands) = Fixture::clocked(1 << 20);
    let all = daily(&on, &hands, 4);
    let now = on.service.both_clocks().unwrap();
    for id in &all[..3] {
        let record = on.service.records.snapshot(id.parse().unwrap()).unwrap().unwrap();
        on.service.hide(&on.caller(), &record, now).unwrap();
    }
    assert_eq!(left(&on), all[3..]);
    on.service.unsettled.look();
    on.service.unsettled.settle();
    for id in &all[..3] {
        let id = id.parse().unwrap();
        assert!(on.service.records.snapshot(id).unwrap().is_none() && on.service.unsettled.has_finished(id));
    }
    let repository = on.service.repositories.local().clone();
    assert_eq!(repository.live_ids(on.record().lineage).unwrap(), [all[3].parse().unwrap()]);
}
