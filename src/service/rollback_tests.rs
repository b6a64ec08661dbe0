//! Rolling back through the catalog: what is kept, what is refused, what the snapshot is held by.

use super::super::Service;
use super::super::api::{Reply, RolledBackInfo};
use super::super::lineage_tests::{Place, ask, bytes, caller, delete, restore, take, verify, write};
use super::super::opening::Need;
use super::super::operations::{Request, RollBackVolume};
use super::super::testing::request;
use crate::error::{Kind, Result};
use crate::units::SnapshotId;
use serde_json::json;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn roll_back(place: &Place, service: &Arc<Service>, to: SnapshotId, discard: bool) -> Result<RolledBackInfo> {
    let (volume, snapshot) = (place.volume.to_string(), to.to_string());
    match ask(service, Request::from(RollBackVolume { volume, snapshot, discard }))? {
        Reply::RolledBack(done) => Ok(done),
        other => panic!("{other:?}"),
    }
}

/// Returns the byte that a MiB was written with.
fn byte(place: &Place, service: &Arc<Service>, at: u64) -> u8 {
    bytes(place, service, at + 2)[at as usize + 1]
}

#[test]
fn a_rolled_back_volume_is_its_snapshot_and_what_it_was_is_kept_once() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 4 * MIB, 1);
    let first = take(&place, &service);
    write(&place, &service, 2 * MIB, 4 * MIB, 2);
    let done = roll_back(&place, &service, first.id, false).unwrap();
    let kept = done.kept.expect("it was changed since its snapshot");
    assert_ne!(kept, first.id);
    assert_eq!(byte(&place, &service, 3 * MIB), 1);
    assert_eq!(byte(&place, &service, 5 * MIB), 0);
    let record = place.record(&service);
    assert_eq!((record.hydrated, record.parent.map(|p| p.snapshot)), (false, Some(first.id)));
    // To the other one and back: each state has one snapshot.
    fill(&place, &service);
    assert_eq!(roll_back(&place, &service, kept, false).unwrap().kept, Some(first.id), "nothing was written since");
    assert_eq!(byte(&place, &service, 3 * MIB), 2);
    assert_eq!(roll_back(&place, &service, kept, false).unwrap().kept, None, "it is that already");
    let branch = restore(&service, kept, "branch");
    assert_eq!(byte(&place.beside(branch), &service, 5 * MIB), 2);
    // The next snapshot is an increment to what it was rolled back to.
    write(&place, &service, 0, MIB, 3);
    let next = take(&place, &service);
    assert_eq!((next.base, next.changed), (Some(kept), MIB));
    verify(&service, next.id);
}

#[test]
fn a_volume_that_is_rolled_back_again_to_what_it_was_filled_from_can_be_opened() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let first = take(&place, &service);
    for n in 0..3 {
        roll_back(&place, &service, first.id, false).unwrap();
        assert_eq!(byte(&place, &service, MIB), 1, "round {n}");
        assert!(!place.record(&service).hydrated, "round {n}");
        fill(&place, &service);
    }
    let service = place.reopen(service);
    assert_eq!(byte(&place, &service, MIB), 1);
}

/// Fills the volume from its snapshot, as a server does.
fn fill(place: &Place, service: &Arc<Service>) {
    let used = service.opens.acquire(&place.record(service), Need::Sealed).unwrap();
    while !used.volume.hydrate_some(64).unwrap().done {}
    service.lineages.note_hydrated(place.volume);
}

#[test]
fn the_snapshot_is_held_until_the_volume_is_filled_from_it() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 4 * MIB, 1);
    let first = take(&place, &service);
    write(&place, &service, 0, 4 * MIB, 2);
    roll_back(&place, &service, first.id, true).unwrap();
    assert!(delete(&service, first.id).unwrap().contains("until volume"), "a volume needs it");
    let service = place.reopen(service);
    assert_eq!(byte(&place, &service, MIB), 1);
    fill(&place, &service);
    assert_eq!(byte(&place, &service, MIB), 1);
    assert!(place.record(&service).hydrated);
}

#[test]
fn what_cannot_be_rolled_back_says_why_and_stays_as_it_is() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let first = take(&place, &service);
    write(&place, &service, 0, 2 * MIB, 2);
    let used = service.opens.acquire(&place.record(&service), Need::Sealed).unwrap();
    let busy = roll_back(&place, &service, first.id, true).unwrap_err();
    assert!(busy.kind() == Kind::Busy && busy.line().contains("is in use"), "{}", busy.line());
    drop(used);
    let other = ask(&service, request(json!({"action": "volume-create", "size": 64 * MIB}))).unwrap();
    let Reply::Volume(other) = other else { panic!("{other:?}") };
    let beside = place.beside(other.id);
    let strange = roll_back(&beside, &service, first.id, true).unwrap_err();
    assert!(strange.kind() == Kind::Usage && strange.line().contains("another data key"), "{}", strange.line());
    // A branch of the lineage can take it, one that is smaller cannot.
    ask(&service, request(json!({"action": "volume-grow", "volume": place.volume.to_string(), "size": 65 * MIB})))
        .unwrap();
    let larger = take(&place, &service);
    let branch = place.beside(restore(&service, first.id, "branch"));
    let filling = roll_back(&branch, &service, first.id, true).unwrap_err();
    assert!(filling.kind() == Kind::Busy && filling.line().contains("being filled"), "{}", filling.line());
    fill(&branch, &service);
    assert_eq!(roll_back(&branch, &service, larger.id, true).unwrap_err().kind(), Kind::Usage);
    assert!(place.record(&service).next.is_none(), "nothing was announced");
    assert_eq!(byte(&place, &service, 0), 2);
}

#[test]
fn a_rollback_that_was_announced_and_not_made_leaves_the_volume_and_lets_the_snapshot_go() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let first = take(&place, &service);
    write(&place, &service, 0, 2 * MIB, 2);
    // As a process left it that was killed before the header was written.
    let parent = crate::volume::format::ParentRef {
        snapshot: first.id,
        repository: service.repositories.local().id().unwrap(),
        installation: service.kms.installation().id,
        size: first.size,
    };
    let used = service.opens.acquire(&place.record(&service), Need::Key(&caller(&service))).unwrap();
    let keys = service.keys.unwrap(&used.volume, &caller(&service)).unwrap();
    let plan = used.volume.plan_rollback(parent.clone(), &keys[0].1).unwrap();
    let next = super::NextIdentity::of_rollback(&plan);
    drop(used);
    let act = crate::ledger::Act::new("test");
    let me = caller(&service);
    service.records.change_volume(&me, act, place.volume, |r| r.next = Some(next.clone())).unwrap();
    service.lineages.hold_fill(place.record(&service).lineage, place.volume, &parent).unwrap();
    assert!(place.record(&service).next.is_some());
    let service = place.reopen(service);
    assert_eq!(byte(&place, &service, 0), 2);
    assert!(place.record(&service).next.is_none(), "the next open gives it up");
    let newest = take(&place, &service);
    let said = delete(&service, first.id).unwrap();
    assert!(!said.contains("until volume"), "{said}");
    verify(&service, newest.id);
}
