//! Snapshots in several repositories.

use super::super::api::{Grade, Reply, RepositoryInfo, SnapshotState};
use super::super::beginning::Wanted;
use super::super::home::RepositoryKey;
use super::super::lineage_tests::{Place, ask, bytes, content, delete, restore, take, take_into, verify, write};
use super::super::opening::Need;
use super::super::operations::{DescribeSnapshots, Request};
use super::super::records::Labels;
use super::super::testing::request;
use super::super::{Service, bases};
use crate::error::{Error, Kind, Result};
use crate::units::SnapshotId;
use crate::volume::{Attempt, Blocking};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn add(place: &Place, service: &Arc<Service>, name: &str) -> Result<RepositoryInfo> {
    let url = format!("file://{}", place.path(name).display());
    match ask(service, request(json!({"action": "repository-add", "name": name, "location": {"url": url}})))? {
        Reply::Repository(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

fn say(service: &Arc<Service>, json: serde_json::Value) -> Result<Reply> {
    ask(service, request(json))
}

fn remove(service: &Arc<Service>, name: &str) -> Result<Reply> {
    say(service, json!({"action": "repository-remove", "repository": name}))
}

/// An installation with a volume that has 3 MiB, and the repository `far`.
fn two() -> (Place, Arc<Service>) {
    let (place, service) = Place::new();
    add(&place, &service, "far").unwrap();
    write(&place, &service, 0, 3 * MIB, 1);
    (place, service)
}

fn files(place: &Place, part: &str) -> Vec<PathBuf> {
    Place::files_in(place.path("far"), part)
}

#[test]
fn each_repository_has_its_own_snapshots_bases_and_log() {
    let (place, service) = two();
    let here = take(&place, &service);
    assert_eq!((here.repository.as_str(), here.base), ("local", None));
    write(&place, &service, MIB, MIB, 2);
    let there = take_into(&place, &service, Some("far")).unwrap();
    assert_eq!((there.repository.as_str(), there.base, there.changed), ("far", None, 3 * MIB), "the first one is full");
    write(&place, &service, 2 * MIB, MIB, 3);
    let next = take_into(&place, &service, Some("far")).unwrap();
    assert_eq!((next.base, next.changed), (Some(there.id), MIB), "the second one is an increment");
    let lineage = place.record(&service).lineage;
    let left = service.repositories.local().ref_on(lineage, &bases::base_ref(place.volume)).unwrap();
    assert_eq!(left, None, "the base here was given up");
    let service = place.reopen(service);
    for id in [here.id, there.id, next.id] {
        verify(&service, id);
    }
    let restored = place.beside(restore(&service, next.id, "w"));
    assert!(bytes(&restored, &service, 3 * MIB) == [content(1), content(2), content(3)].concat());
    let said = delete(&service, there.id).unwrap();
    assert!(said.contains("is deleted"), "{said}");
    verify(&service, next.id);
    verify(&service, here.id);
}

#[test]
fn snapshots_go_where_the_volume_is_set_or_else_to_the_default() {
    let (place, service) = two();
    let set = |to: &str| {
        let asked = json!({"action": "volume-modify", "volume": place.volume.to_string(), "repository": to});
        match say(&service, asked).unwrap() {
            Reply::Volume(info) => info.repository,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(set("far").as_deref(), Some("far"));
    assert_eq!(take(&place, &service).repository, "far");
    assert_eq!(set("default"), None);
    assert_eq!(take(&place, &service).repository, "local");
    say(&service, json!({"action": "repository-default", "repository": "far"})).unwrap();
    assert_eq!(take(&place, &service).repository, "far");
    assert_eq!(set("local").as_deref(), Some("local"));
    assert_eq!(take(&place, &service).repository, "local");
    let Reply::Repositories { repositories } = say(&service, json!({"action": "repository-list"})).unwrap() else {
        panic!("no list")
    };
    let shown: Vec<_> = repositories.iter().map(|r| (r.name.as_str(), r.default, r.snapshots)).collect();
    assert_eq!(shown, [("local", false, 2), ("far", true, 2)]);
    let unknown = take_into(&place, &service, Some("nowhere")).unwrap_err();
    assert!(unknown.kind() == Kind::NotFound && unknown.line().contains("repository list"), "{}", unknown.line());
}

#[test]
fn the_first_snapshot_into_another_repository_is_whole_while_the_volume_is_filled() {
    let (place, service) = two();
    let parent = take(&place, &service);
    let filled = place.beside(restore(&service, parent.id, "w"));
    write(&filled, &service, MIB, MIB, 2);
    let full = take_into(&filled, &service, Some("far")).unwrap();
    assert_eq!((full.base, full.changed), (None, 3 * MIB));
    verify(&service, full.id);
    // Without the first repository's packs.
    let again = filled.beside(restore(&service, full.id, "x"));
    Place::files_in(place.path("data/repository"), "/packs/").iter().for_each(|f| std::fs::remove_file(f).unwrap());
    assert!(bytes(&again, &service, 3 * MIB) == [content(1), content(2), content(1)].concat());
}

#[test]
fn a_volume_is_filled_from_the_repository_of_its_snapshot_which_keeps_it_until_then() {
    let (place, service) = two();
    let parent = take_into(&place, &service, Some("far")).unwrap();
    let filled = place.beside(restore(&service, parent.id, "w"));
    delete(&service, parent.id).unwrap();
    say(&service, json!({"action": "volume-delete", "volume": place.volume.to_string()})).unwrap();
    assert!(!files(&place, "/packs/").is_empty(), "it is needed until then");
    let refused = remove(&service, "far").unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.line().contains("is being filled"), "{}", refused.line());
    let service = place.reopen(service);
    {
        let used = service.opens.acquire(&filled.record(&service), Need::Sealed).unwrap();
        while !used.volume.hydrate_some(16).unwrap().done {}
    }
    service.lineages.note_hydrated(filled.volume);
    for part in ["/packs/", "/pages/", "/manifests/", "/refs/"] {
        assert_eq!(files(&place, part), Vec::<PathBuf>::new());
    }
    assert!(bytes(&filled, &service, MIB) == content(1));
    remove(&service, "far").unwrap();
}

/// Verifies a snapshot; an error of its own is the result.
fn verdict(service: &Arc<Service>, id: SnapshotId) -> Result<Reply> {
    let reply = say(service, json!({"action": "snapshot-verify", "snapshots": [id.to_string()]}))?;
    match &reply {
        Reply::Verified { snapshots } => match &snapshots[0].error {
            Some(err) => Err(Error::from(err.clone())),
            None => Ok(reply),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_repository_that_cannot_be_opened_fails_only_what_needs_it() {
    let (place, service) = two();
    let here = take(&place, &service);
    let there = take_into(&place, &service, Some("far")).unwrap();
    std::fs::rename(place.path("far"), place.path("away")).unwrap();
    let service = place.reopen(service);
    verify(&service, here.id);
    write(&place, &service, 0, MIB, 5);
    take_into(&place, &service, Some("local")).unwrap();
    assert_eq!(service.list_snapshots(&DescribeSnapshots::default()).unwrap().len(), 3);
    let refused = |asked: Result<Reply>| {
        let err = asked.unwrap_err();
        assert!(err.line().contains("far (file://"), "{}", err.line());
    };
    let snapshot = |id: SnapshotId, verb: &str| say(&service, json!({"action": verb, "snapshot": id.to_string()}));
    refused(verdict(&service, there.id));
    refused(snapshot(there.id, "snapshot-delete"));
    refused(say(&service, json!({"action": "volume-create", "name": "w", "snapshot": there.id.to_string()})));
    let asked = json!({"action": "snapshot-create", "volume": place.volume.to_string(), "description": "",
        "wait": true, "repository": "far"});
    refused(ask(&service, serde_json::from_value::<Request>(asked).unwrap()));
    let found = service.doctor.check_repositories();
    assert!(found.iter().any(|f| f.grade == Grade::Error && f.message.contains("far (file://")), "{found:?}");
    let shown = service.show_repository("far").unwrap();
    assert!(shown.error.is_some() && shown.snapshots == 1);
    std::fs::rename(place.path("away"), place.path("far")).unwrap();
    verify(&service, there.id);
    assert_eq!(service.doctor.check_repositories(), []);
    // Another one in its place is not taken for it.
    std::fs::rename(place.path("far"), place.path("away")).unwrap();
    add(&place, &service, "other").unwrap();
    std::fs::rename(place.path("other"), place.path("far")).unwrap();
    let service = place.reopen(service);
    let err = verdict(&service, there.id).unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("holds repository"), "{}", err.line());
}

#[test]
fn a_volume_whose_repository_is_out_of_reach_is_used_as_far_as_it_is_filled() {
    let (place, service) = two();
    let taken = take_into(&place, &service, Some("far")).unwrap();
    let filled = place.beside(restore(&service, taken.id, "w"));
    write(&filled, &service, 0, MIB, 2);
    std::fs::rename(place.path("far"), place.path("away")).unwrap();
    let service = place.reopen(service);
    write(&filled, &service, 0, MIB, 3);
    assert!(bytes(&filled, &service, MIB) == content(3));
    let read = |at: u64| {
        let caller = service.caller_of(0, "test").unwrap();
        let used = service.opens.acquire(&filled.record(&service), Need::Key(&caller)).unwrap();
        used.volume.read(at, &mut [0; 4096], Blocking::Allowed)
    };
    let err = read(2 * MIB).unwrap_err();
    assert!(err.line().contains("far (file://"), "{}", err.line());
    std::fs::rename(place.path("away"), place.path("far")).unwrap();
    assert_eq!(read(2 * MIB).unwrap(), Attempt::Done);
    assert!(bytes(&filled, &service, 3 * MIB) == [content(3), content(1), content(1)].concat());
}

#[test]
fn a_repository_is_moved_with_its_snapshots_and_used_where_it_is_then() {
    let (place, service) = two();
    let first = take_into(&place, &service, Some("far")).unwrap();
    let filled = place.beside(restore(&service, first.id, "w"));
    let moved = |to: &str| {
        let url = format!("file://{}", place.path(to).display());
        say(&service, json!({"action": "repository-move", "repository": "far", "location": {"url": url}}))
    };
    // A copy that was interrupted.
    std::fs::create_dir_all(place.path("moved")).unwrap();
    let lineage = place.record(&service).lineage.to_string();
    let packs = files(&place, "/packs/");
    let half = place.path("moved").join(packs[0].strip_prefix(place.path("far")).unwrap());
    std::fs::create_dir_all(half.parent().unwrap()).unwrap();
    std::fs::copy(&packs[0], &half).unwrap();
    let stale = place.path("moved").join(&lineage).join("refs");
    std::fs::create_dir_all(&stale).unwrap();
    std::fs::write(stale.join("gone"), b"a ref").unwrap();
    moved("moved").unwrap();
    moved("moved").unwrap();
    std::fs::remove_dir_all(place.path("far")).unwrap();
    let names = |folder: &str| Place::files_in(place.path(folder), "").len();
    assert!(names("moved") > 5 && !stale.join("gone").exists());
    verify(&service, first.id);
    write(&place, &service, 0, MIB, 2);
    let second = take_into(&place, &service, Some("far")).unwrap();
    assert_eq!((second.base, second.changed), (Some(first.id), MIB));
    assert!(bytes(&filled, &service, MIB) == content(1));
    let service = place.reopen(service);
    verify(&service, second.id);
    delete(&service, first.id).unwrap();
    assert_eq!(service.doctor.check_repositories(), []);
}

#[test]
fn a_repository_is_not_moved_where_it_would_lose_something() {
    let (place, service) = two();
    let taken = take_into(&place, &service, Some("far")).unwrap();
    let refused = |to: &str, name: &str, kind: Kind, words: &str| {
        let url = format!("file://{}", place.path(to).display());
        let asked = json!({"action": "repository-move", "repository": name, "location": {"url": url}});
        let err = say(&service, asked).unwrap_err();
        assert!(err.kind() == kind && err.line().contains(words), "{}", err.line());
    };
    refused("moved", "local", Kind::Usage, "part of the data directory");
    add(&place, &service, "other").unwrap();
    refused("other", "far", Kind::Exists, "holds repository");
    std::fs::create_dir_all(place.path("things/of/others")).unwrap();
    refused("things", "far", Kind::Exists, "contains");
    let key = service.repositories.find("far").unwrap();
    let caller = service.caller_of(0, "test").unwrap();
    let id = SnapshotId::draw(&crate::env::SystemRng);
    let wanted = Wanted { id, volume: place.record(&service), to: key };
    let begun = service.jobs.begin(&caller, vec![wanted], &Labels::default()).unwrap().pop().unwrap();
    refused("moved", "far", Kind::Busy, "is pending");
    let id = begun.record.id;
    service.jobs.run_job(begun, &Default::default());
    verify(&service, id);
    // Nobody opens it during the last pass, and who has it open cannot begin to write.
    let RepositoryKey::Added(far) = key else { panic!("it was added") };
    let before = service.repositories.open(key).unwrap();
    let alone = service.repositories.keep_from_others(far).unwrap();
    assert_eq!(take_into(&place, &service, Some("far")).unwrap_err().kind(), Kind::Busy);
    assert_eq!(service.repositories.keep_from_others(far).map(drop).unwrap_err().kind(), Kind::Busy);
    drop(alone);
    let late = service.ledger().catalog().transaction(|tx| service.repositories.must_be_current(tx, key, &before));
    assert_eq!(late.unwrap_err().kind(), Kind::Busy);
    verify(&service, taken.id);
    let (elsewhere, other) = Place::new();
    let url = format!("file://{}", place.path("far").display());
    say(&other, json!({"action": "repository-add", "name": "far", "location": {"url": url}})).unwrap();
    write(&elsewhere, &other, 0, MIB, 7);
    take_into(&elsewhere, &other, Some("far")).unwrap();
    refused("moved", "far", Kind::Busy, "keeps snapshots in it");
}

#[test]
fn two_installations_keep_their_snapshots_in_one_repository() {
    let (place, service) = two();
    let (other_place, other) = Place::new();
    let url = format!("file://{}", place.path("far").display());
    say(&other, json!({"action": "repository-add", "name": "shared", "location": {"url": url}})).unwrap();
    let mine = take_into(&place, &service, Some("far")).unwrap();
    write(&other_place, &other, 0, MIB, 7);
    let theirs = take_into(&other_place, &other, Some("shared")).unwrap();
    delete(&service, mine.id).unwrap();
    verify(&other, theirs.id);
    let other = other_place.reopen(other);
    write(&other_place, &other, MIB, MIB, 8);
    let next = take_into(&other_place, &other, Some("shared")).unwrap();
    assert_eq!((next.base, next.changed), (Some(theirs.id), MIB));
    remove(&service, "far").unwrap();
    verify(&other, next.id);
}

#[test]
fn what_was_left_in_an_added_repository_is_settled_by_the_verbs_that_use_it() {
    let (place, service) = two();
    let key = service.repositories.find("far").unwrap();
    let caller = service.caller_of(0, "test").unwrap();
    let id = SnapshotId::draw(&crate::env::SystemRng);
    let wanted = Wanted { id, volume: place.record(&service), to: key };
    let begun = service.jobs.begin(&caller, vec![wanted], &Labels::default()).unwrap().pop().unwrap();
    let id = begun.record.id;
    drop(begun);
    let service = place.reopen(service);
    let state = || service.show_snapshot(&id.to_string()).unwrap().state;
    assert_eq!(state(), SnapshotState::Pending);
    let taken = take_into(&place, &service, Some("far")).unwrap();
    assert_eq!(state(), SnapshotState::Completed);
    delete(&service, id).unwrap();
    // The log's next record cannot be written.
    let log = files(&place, "/log/");
    let next = log[0].with_file_name(format!("{:016x}", log.len()));
    std::fs::create_dir(&next).unwrap();
    delete(&service, taken.id).unwrap_err();
    std::fs::remove_dir(&next).unwrap();
    let service = place.reopen(service);
    delete(&service, taken.id).map_or_else(|e| assert_eq!(e.kind(), Kind::NotFound, "{}", e.line()), drop);
    assert_eq!(files(&place, "/packs/"), Vec::<PathBuf>::new());
}

/// A disk that is not mounted looks like a repository that is not there.
#[test]
fn a_pending_snapshot_waits_for_its_repository_and_is_not_given_up() {
    let (place, service) = two();
    let key = service.repositories.find("far").unwrap();
    let caller = service.caller_of(0, "test").unwrap();
    let id = SnapshotId::draw(&crate::env::SystemRng);
    let wanted = Wanted { id, volume: place.record(&service), to: key };
    drop(service.jobs.begin(&caller, vec![wanted], &Labels::default()).unwrap());
    std::fs::rename(place.path("far"), place.path("away")).unwrap();
    let service = place.reopen(service);
    let state = || service.show_snapshot(&id.to_string()).unwrap().state;
    assert!(service.jobs.resume_all(|_| true).is_empty());
    assert_eq!(state(), SnapshotState::Pending);
    std::fs::rename(place.path("away"), place.path("far")).unwrap();
    service.jobs.resume_all(|_| true).iter().for_each(|job| job.await_end());
    assert_eq!(state(), SnapshotState::Completed);
    verify(&service, id);
}

#[test]
fn a_log_that_was_rolled_back_is_refused_in_each_repository() {
    let (place, service) = two();
    let here = take(&place, &service);
    let there = take_into(&place, &service, Some("far")).unwrap();
    std::fs::remove_file(files(&place, "/log/").last().unwrap()).unwrap();
    let service = place.reopen(service);
    let err = delete(&service, there.id).unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("log ends at"), "{}", err.line());
    delete(&service, here.id).unwrap();
}

#[test]
fn a_repository_is_added_once_and_removed_when_nothing_needs_it() {
    let (place, service) = two();
    let again = |name: &str, url: String| {
        say(&service, json!({"action": "repository-add", "name": name, "location": {"url": url}})).unwrap_err()
    };
    let far = format!("file://{}", place.path("far").display());
    assert!(again("far", far.clone()).line().contains("already exists"));
    assert!(again("twice", far).line().contains("which is far here"));
    let own = format!("file://{}", place.path("data/repository").display());
    assert!(again("mine", own).line().contains("which is local here"));
    std::fs::create_dir_all(place.path("full/of/things")).unwrap();
    let full = again("full", format!("file://{}", place.path("full").display()));
    assert!(full.line().contains("an empty folder"), "{}", full.line());
    for bad in ["local", "default", "", "a/b", "00112233445566778899aabbccddeeff"] {
        assert_eq!(again(bad, "file:///nowhere".to_owned()).kind(), Kind::Usage, "{bad}");
    }
    assert_eq!(remove(&service, "local").unwrap_err().kind(), Kind::Usage);
    let taken = take_into(&place, &service, Some("far")).unwrap();
    let needed = |why: &str| {
        let err = remove(&service, "far").unwrap_err();
        assert!(err.kind() == Kind::Busy && err.line().contains(why), "{}", err.line());
    };
    needed("1 snapshots");
    delete(&service, taken.id).unwrap();
    let modify = |to: &str| {
        let asked = json!({"action": "volume-modify", "volume": place.volume.to_string(), "repository": to});
        say(&service, asked).unwrap();
    };
    modify("far");
    needed("go there");
    modify("default");
    let default = |name: &str| say(&service, json!({"action": "repository-default", "repository": name})).unwrap();
    default("far");
    needed("the default");
    default("local");
    remove(&service, "far").unwrap();
    assert_eq!(remove(&service, "far").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(Place::files_in(place.path("far"), "coffer-repository.json").len(), 1, "nothing was deleted");
    // And back.
    add(&place, &service, "far").unwrap();
    let taken = take_into(&place, &service, Some("far")).unwrap();
    verify(&service, taken.id);
}

#[test]
fn what_is_read_is_kept_up_to_a_limit_and_goes_with_it() {
    let (place, service) = two();
    let cache = |service: &Arc<Service>, size: u64| match say(
        service,
        json!({"action": "repository-cache", "repository": "far", "size": size}),
    ) {
        Ok(Reply::Repository(info)) => (info.cache, info.cached.unwrap()),
        other => panic!("{other:?}"),
    };
    let folders = || std::fs::read_dir(place.path("data/cache")).into_iter().flatten().count();
    let taken = take_into(&place, &service, Some("far")).unwrap();
    let first = place.beside(restore(&service, taken.id, "w"));
    assert!(bytes(&first, &service, MIB) == content(1));
    assert_eq!(folders(), 0, "off by default");
    assert_eq!(cache(&service, 64 * MIB), (64 * MIB, 0));
    // Nothing is in memory.
    let service = place.reopen(service);
    let second = place.beside(restore(&service, taken.id, "x"));
    assert!(bytes(&second, &service, 3 * MIB) == [content(1), content(1), content(1)].concat());
    // Without the packs and pages, and for another process too.
    let all: Vec<_> = ["/packs/", "/pages/"].iter().flat_map(|part| files(&place, part)).collect();
    assert!(all.len() >= 2);
    let away = |file: &PathBuf| file.with_extension("away");
    all.iter().for_each(|file| std::fs::rename(file, away(file)).unwrap());
    let service = place.reopen(service);
    assert!(cache(&service, 64 * MIB).1 >= 3 * MIB);
    let third = place.beside(restore(&service, taken.id, "y"));
    assert!(bytes(&third, &service, 3 * MIB) == [content(1), content(1), content(1)].concat());
    all.iter().for_each(|file| std::fs::rename(away(file), file).unwrap());
    verify(&service, taken.id);
    // A smaller limit, none, and what a killed process left of none.
    let (_, used) = cache(&service, MIB);
    assert!(used <= MIB && used > 0, "{used}");
    assert_eq!(cache(&service, 0), (0, 0));
    assert_eq!(folders(), 0);
    let left = place.path("data/cache").join(taken.repository.replace("far", &"7".repeat(32)));
    std::fs::create_dir_all(left.join("ab")).unwrap();
    std::fs::write(left.join("ab/half"), b"x").unwrap();
    let service = place.reopen(service);
    assert_eq!(folders(), 0, "{}", left.display());
    let err = say(&service, json!({"action": "repository-cache", "repository": "local", "size": MIB})).unwrap_err();
    assert_eq!(err.kind(), Kind::Usage);
    let err = say(&service, json!({"action": "repository-cache", "repository": "none", "size": MIB})).unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}
