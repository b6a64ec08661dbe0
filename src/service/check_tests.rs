use super::super::api::Reply;
use super::super::api::SnapshotState;
use super::super::testing::{Fixture, request};
use super::*;
use crate::service::operations::{DeleteSnapshot, Doctor};
use serde_json::json;

#[test]
fn a_failed_snapshot_is_a_warning_until_it_is_deleted() {
    let on = Fixture::with_volume(1 << 20);
    let about = || {
        let Reply::Findings { findings } = on.ask(Doctor {}.into()).unwrap() else { panic!("another answer") };
        findings.into_iter().filter(|f| f.check == "snapshot").collect::<Vec<_>>()
    };
    let made = on.ask(request(json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true})));
    let Reply::Snapshot(info) = made.unwrap() else { panic!("another answer") };
    assert_eq!(about(), []);
    let fail = |r: &mut SnapshotRecord| {
        (r.state, r.error) = (SnapshotState::Error, Some("the disk was full".to_owned()));
    };
    on.service.records.note_snapshot(info.id, fail).unwrap();
    let [found] = &about()[..] else { panic!("{:?}", about()) };
    assert_eq!(found.grade, Grade::Warning);
    for words in [&info.id.to_string(), &info.volume.to_string(), "the disk was full", "coffer snapshot delete"] {
        assert!(found.message.contains(words), "{}", found.message);
    }
    on.ask(DeleteSnapshot { snapshot: info.id.to_string(), now: false }.into()).unwrap();
    assert_eq!(about(), []);
}
