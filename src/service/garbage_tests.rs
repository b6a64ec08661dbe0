use super::super::Service;
use super::super::lineage_tests::{Place, ask, caller, delete, take, verify, write};
use super::super::operations::CollectGarbage;
use super::*;
use crate::service::api::Reply;
use crate::units::SnapshotId;
use std::sync::mpsc;

const MIB: u64 = 1 << 20;

/// A snapshot of which half is in a pack whose other half is garbage.
fn worn() -> (Place, Arc<Service>, SnapshotId) {
    let (place, service) = Place::new();
    write(&place, &service, 0, 8 * MIB, 1);
    let first = take(&place, &service).id;
    write(&place, &service, 0, 4 * MIB, 2);
    let second = take(&place, &service).id;
    delete(&service, first).unwrap();
    (place, service, second)
}

fn collect(service: &Arc<Service>, rate: Option<u64>, report: Report<'_>) -> Result<Vec<CollectedInfo>> {
    let asked = CollectGarbage { repository: Some("local".to_owned()), dry_run: false, rate };
    match service.handle(&caller(service), asked.into(), report)? {
        Reply::Collected { repositories, .. } => Ok(repositories),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_asks_can_stop_it_and_so_does_the_end_of_the_service() {
    let (place, service, left) = worn();
    // At this rate, it would take months.
    let stopped = collect(&service, Some(1), &mut |_| false).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Interrupted);
    let mut looks = 0;
    let ending = service.clone();
    let ended = collect(&service, Some(1), &mut |p| {
        looks += 1;
        assert!(p.total.is_some_and(|total| p.done <= total && total > 3 * MIB), "{p:?}");
        ending.collector.stop();
        true
    });
    assert_eq!((ended.unwrap_err().kind(), looks), (Kind::Interrupted, 1));
    verify(&service, left);
    drop(ending);
    let service = place.reopen(service);
    assert_eq!(collect(&service, None, &mut |_| true).unwrap()[0].compacted, 1);
    verify(&service, left);
}

#[test]
fn a_rate_that_copies_nothing_is_refused() {
    let (_place, service, _) = worn();
    let refused = collect(&service, Some(0), &mut |_| true).unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
}

#[test]
fn a_second_run_is_refused_and_the_servers_own_gives_way() {
    let (_place, service, left) = worn();
    let other = service.clone();
    let mut seen = None;
    let done = collect(&service, None, &mut |_| {
        let refused = collect(&other, None, &mut |_| true).unwrap_err();
        seen.get_or_insert(refused.kind());
        assert!(other.collector.take(RepositoryKey::Local, true).is_err(), "the server's own does not interfere");
        true
    });
    assert_eq!((done.unwrap()[0].compacted, seen), (1, Some(Kind::Busy)));
    let (begun, has_begun) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let alone = service.collector.take(RepositoryKey::Local, true).unwrap();
            begun.send(()).unwrap();
            while !alone.is_stopped() {
                alone.wait(LOOK);
            }
        });
        has_begun.recv().unwrap();
        assert_eq!(collect(&service, None, &mut |_| true).unwrap()[0].compacted, 0);
    });
    verify(&service, left);
}

/// What a server does by itself is below its threshold here, and is looked at once after a sweep.
#[test]
fn a_server_looks_once_after_a_sweep_and_leaves_little_garbage_alone() {
    let (_place, service, left) = worn();
    assert!(service.lineages.has_worn());
    service.collector.collect_worn();
    assert!(!service.lineages.has_worn());
    let would = CollectGarbage { repository: None, dry_run: true, rate: None };
    let Reply::Collected { repositories, dry_run: true } = ask(&service, would.into()).unwrap() else { panic!("no") };
    assert_eq!((repositories.len(), repositories[0].compacted), (1, 1));
    verify(&service, left);
}
