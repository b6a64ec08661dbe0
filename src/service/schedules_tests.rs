use crate::error::{Error, Kind};
use crate::service::api::{Reply, ScheduleInfo, SnapshotInfo, SnapshotState};
use crate::service::testing::{Fixture, request};
use serde_json::{Value, json};

fn ask(on: &Fixture, verb: Value) -> Result<ScheduleInfo, Error> {
    match on.ask(request(verb))? {
        Reply::Schedule(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

fn add(on: &Fixture, more: Value) -> String {
    let mut verb = json!({"action": "schedule-add", "volume": "v", "cadence": {"every": {"minutes": 60}}});
    verb.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    ask(on, verb).unwrap().id.to_string()
}

fn schedules(on: &Fixture) -> Vec<ScheduleInfo> {
    match on.ask(request(json!({"action": "schedule-list"}))).unwrap() {
        Reply::Schedules { schedules } => schedules,
        other => panic!("{other:?}"),
    }
}

fn snapshots(on: &Fixture) -> Vec<SnapshotInfo> {
    match on.ask(request(json!({"action": "snapshot-list"}))).unwrap() {
        Reply::Snapshots { snapshots } => snapshots,
        other => panic!("{other:?}"),
    }
}

/// A minute of a server: what is due is begun, and ends.
fn minute(on: &Fixture) {
    on.service.do_chores();
    assert_eq!(on.service.wait_for_snapshots(&mut |_| true).unwrap(), []);
}

#[test]
fn a_snapshot_is_taken_once_each_time_it_is_due_and_once_for_all_that_was_missed() {
    let (on, hands) = Fixture::clocked(1 << 20);
    let id = add(&on, json!({}));
    minute(&on);
    assert_eq!(snapshots(&on).len(), 0);
    for taken in 1..=2 {
        hands.pass(1);
        (0..3).for_each(|_| minute(&on));
        assert_eq!(snapshots(&on).len(), taken);
    }
    hands.pass(50);
    (0..3).for_each(|_| minute(&on));
    let all = snapshots(&on);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|s| s.schedule.map(|s| s.to_string()) == Some(id.clone())), "{all:?}");
    assert!(all[0].description.contains("every 1h"), "{}", all[0].description);
    let [found] = &schedules(&on)[..] else { panic!("one schedule") };
    assert_eq!((found.snapshot, found.error.clone()), (Some(all[2].id), None));
    assert_eq!(found.next.0 - found.ran.unwrap().0, 60 * 60 * 1000);
    // Set back by a year, the clock does not stop it for a year.
    hands.set(-365 * 24);
    minute(&on);
    assert_eq!(snapshots(&on).len(), 4);
    minute(&on);
    assert_eq!(snapshots(&on).len(), 4);
}

#[test]
fn it_prunes_what_it_took_and_nothing_else() {
    let (on, hands) = Fixture::clocked(1 << 20);
    let own = on.take().id;
    add(&on, json!({"keep": {"last": 2}}));
    for _ in 0..5 {
        hands.pass(1);
        (0..2).for_each(|_| minute(&on));
    }
    let all = snapshots(&on);
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].id, all[0].schedule), (own, None));
    let err =
        ask(&on, json!({"action": "schedule-add", "volume": "v", "cadence": {"daily": {"at": "01:00"}}, "keep": {}}));
    assert_eq!(err.unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_failed_run_is_told_and_tried_again_and_keeps_no_other_from_running() {
    let (on, hands) = Fixture::clocked(1 << 20);
    on.ask(request(json!({"action": "volume-create", "name": "w", "size": 1 << 20}))).unwrap();
    let (bad, good) = (add(&on, json!({"volume": "w"})), add(&on, json!({})));
    on.ask(request(json!({"action": "volume-delete", "volume": "w"}))).unwrap();
    hands.pass(1);
    minute(&on);
    let of = |id: &str| schedules(&on).into_iter().find(|s| s.id.to_string() == id).unwrap();
    let (ran, failed) = (of(&good), of(&bad));
    assert!(ran.error.is_none() && ran.snapshot.is_some());
    assert!(failed.error.as_ref().is_some_and(|why| why.contains("there is no volume")), "{failed:?}");
    assert_eq!(failed.next.0 - failed.ran.unwrap().0, 5 * 60 * 1000, "soon again");

    // A snapshot that fails while it is copied, as a server that is stopped leaves it.
    let id = ran.snapshot.unwrap();
    let fail = |r: &mut crate::service::records::SnapshotRecord| {
        (r.state, r.error) = (SnapshotState::Error, Some("the disk was full".to_owned()));
    };
    on.service.records.note_snapshot(id, fail).unwrap();
    minute(&on);
    assert_eq!(of(&good).error.as_deref(), Some("the disk was full"));
    minute(&on);
    assert_eq!(snapshots(&on).len(), 1, "not at once");
    hands.pass_minutes(5);
    minute(&on);
    let all = snapshots(&on);
    assert_eq!(all.iter().map(|s| (s.state, s.id == id)).collect::<Vec<_>>(), [(SnapshotState::Completed, false)]);
    assert_eq!(of(&good).error, None);
}

#[test]
fn a_run_that_was_killed_after_it_took_its_snapshot_takes_no_second() {
    let (on, hands) = Fixture::clocked(1 << 20);
    add(&on, json!({}));
    hands.pass(1);
    let record = on.service.schedules().unwrap().remove(0).record;
    let taken = on.service.take(&record).unwrap();
    minute(&on);
    let [found] = &schedules(&on)[..] else { panic!("one schedule") };
    assert_eq!((found.snapshot, snapshots(&on).len()), (Some(taken), 1));
    hands.pass(1);
    minute(&on);
    minute(&on);
    assert_eq!(snapshots(&on).len(), 2);
}

#[test]
fn a_paused_schedule_waits_and_makes_up_for_nothing() {
    let (on, hands) = Fixture::clocked(1 << 20);
    let id = add(&on, json!({}));
    let pause = |paused: bool| ask(&on, json!({"action": "schedule-pause", "schedule": id, "paused": paused})).unwrap();
    assert!(pause(true).paused);
    hands.pass(10);
    minute(&on);
    assert_eq!(snapshots(&on).len(), 0);
    let resumed = pause(false);
    minute(&on);
    assert_eq!((resumed.paused, snapshots(&on).len()), (false, 0));
    hands.pass(1);
    minute(&on);
    assert_eq!(snapshots(&on).len(), 1);
    let remove = || on.ask(request(json!({"action": "schedule-remove", "schedule": id})));
    remove().unwrap();
    assert_eq!(remove().unwrap_err().kind(), Kind::NotFound);
    hands.pass(5);
    minute(&on);
    assert_eq!((schedules(&on).len(), snapshots(&on).len()), (0, 1), "its snapshots are kept");
}
