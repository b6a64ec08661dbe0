//! Keys that are lost while someone is about to use them.

use super::super::api::Reply;
use super::super::opening::Need;
use super::super::testing::{Fixture, request};
use super::*;
use crate::service::operations::ExportVolume;
use crate::units::VolumeId;
use serde_json::json;

fn disable(on: &Fixture) {
    on.ask(request(json!({"action": "key-disable", "key": "alias/k"}))).unwrap();
}

fn snapshot(on: &Fixture) -> crate::units::SnapshotId {
    let made = on.ask(request(json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true})));
    let Reply::Snapshot(info) = made.unwrap() else { panic!("another answer") };
    info.id
}

#[test]
fn a_snapshot_that_is_being_opened_while_its_key_is_disabled_is_not_opened() {
    let on = Fixture::with_volume(1 << 20);
    let (snapshot, caller) = (snapshot(&on), on.caller());
    let opened = on.service.views.open_then(snapshot, &caller, || disable(&on));
    assert_eq!(opened.err().unwrap().kind(), Kind::KeyUnavailable);
    on.ask(request(json!({"action": "key-enable", "key": "alias/k"}))).unwrap();
    let view = on.service.open_view(snapshot, &caller).unwrap();
    let read = || view.read(0, &mut [0; 512], crate::volume::Blocking::Allowed);
    let _done = read().unwrap();
    disable(&on);
    assert_eq!(read().unwrap_err().kind(), Kind::KeyUnavailable);
}

#[test]
fn a_volume_that_is_being_unlocked_while_its_key_is_disabled_stays_locked() {
    let on = Fixture::with_volume(1 << 20);
    let used = on.service.opens.acquire(&on.record(), Need::Sealed).unwrap();
    let unlocked =
        on.service.opens.unlock_then(on.service.keygate.ticket(), &used.volume, &on.caller(), || disable(&on));
    assert_eq!(unlocked.unwrap_err().kind(), Kind::KeyUnavailable);
    assert!(!used.volume.is_unlocked());
}

#[test]
fn an_export_ends_when_its_key_is_disabled() {
    let on = Fixture::with_volume(66 << 20);
    let out = on.path("image");
    let export = ExportVolume { volume: "v".into(), out: out.clone(), fill_holes: true }.into();
    let mut reports = 0;
    let done = on.service.handle(&on.caller(), export, &mut |progress| {
        if progress.what == "export" {
            reports += 1;
            disable(&on);
        }
        true
    });
    assert_eq!((done.unwrap_err().kind(), reports), (Kind::KeyUnavailable, 1));
    assert!(!out.exists(), "half an image is none");
}

#[test]
fn disabling_a_key_waits_neither_for_a_header_nor_for_another_volume_that_is_being_opened() {
    let on = Fixture::with_volume(1 << 20);
    let used = on.service.opens.acquire(&on.record(), Need::Key(&on.caller())).unwrap();
    let _turn = on.service.turns.take(VolumeId::draw(&crate::env::SystemRng));
    // The header's lock is held, as during a sync.
    used.volume.with_header(|_| disable(&on));
    assert!(!used.volume.is_unlocked());
}

#[test]
fn a_volume_suspended_by_hand_is_not_unlocked_by_who_unwrapped_its_key_before() {
    let on = Fixture::with_volume(1 << 20);
    let used = on.service.opens.acquire(&on.record(), Need::Sealed).unwrap();
    let suspend = || drop(on.ask(request(json!({"action": "volume-suspend", "volume": "v"}))).unwrap());
    assert!(on.service.opens.unlock_then(on.service.keygate.ticket(), &used.volume, &on.caller(), suspend).is_err());
    assert!(!used.volume.is_unlocked());
}

#[test]
fn a_volume_suspended_by_hand_after_somebody_looked_is_not_unlocked_by_that_look() {
    let on = Fixture::with_volume(1 << 20);
    let used = on.service.opens.acquire(&on.record(), Need::Sealed).unwrap();
    let ticket = on.service.keygate.ticket();
    on.ask(request(json!({"action": "volume-suspend", "volume": "v"}))).unwrap();
    assert_eq!(on.service.opens.unlock(ticket, &used.volume, &on.caller()).unwrap_err().kind(), Kind::KeyUnavailable);
    assert!(!used.volume.is_unlocked());
}
