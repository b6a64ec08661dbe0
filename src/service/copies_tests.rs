//! Copies of snapshots: what they hold, what they cost, and what kills, deletes and lost keys leave of them.

use super::super::Service;
use super::super::api::{Reply, SnapshotInfo, SnapshotState};
use super::super::copying::{Job, Stop};
use super::super::lineage_tests::{Place, ask, bytes, caller, content, delete, restore, take, verify, write};
use super::super::operations::CopySnapshot;
use super::super::records::Labels;
use super::super::testing::request;
use super::{Asked, Begun};
use crate::env::SystemRng;
use crate::error::{Kind, Result};
use crate::snapshot::objects::StoreObjects;
use crate::snapshot::testing::{self, Call, Fault, Remote};
use crate::units::SnapshotId;
use crate::volume::testing::Seeded;
use crate::volume::{Attempt, Blocking};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// What the tests write is before this byte.
const END: u64 = 13 * MIB;

fn say(service: &Arc<Service>, asked: Value) -> Result<Reply> {
    ask(service, request(asked))
}

/// An installation with a volume that has 3 MiB, the CMKs `alias/a` and `alias/b`, and the repository `far`.
fn world() -> (Place, Arc<Service>) {
    let (place, service) = Place::new();
    for alias in ["alias/a", "alias/b"] {
        say(&service, json!({"action": "key-create", "alias": alias, "description": ""})).unwrap();
    }
    let url = format!("file://{}", place.path("far").display());
    say(&service, json!({"action": "repository-add", "name": "far", "location": {"url": url}})).unwrap();
    write(&place, &service, 0, 3 * MIB, 1);
    (place, service)
}

fn copy(service: &Arc<Service>, of: SnapshotId, key: Option<&str>, repository: Option<&str>) -> Result<SnapshotInfo> {
    let (key, repository) = (key.map(str::to_owned), repository.map(str::to_owned));
    match ask(service, CopySnapshot { snapshot: of.to_string(), key, repository, ..Default::default() }.into())? {
        Reply::Snapshot(made) => Ok(made),
        other => panic!("{other:?}"),
    }
}

fn begin(service: &Arc<Service>, of: SnapshotId, key: Option<&str>, repository: Option<&str>) -> Result<Begun> {
    let key = key.map(|key| key.parse().unwrap());
    let (snapshot, repository, labels) = (of.to_string(), repository.map(str::to_owned), Labels::default());
    service.jobs.begin_copy(&caller(service), SnapshotId::draw(&SystemRng), Asked { snapshot, key, repository, labels })
}

fn finish(service: &Arc<Service>, begun: Begun) -> SnapshotInfo {
    let id = begun.record.id;
    service.jobs.run_copy(begun, &Arc::new(Job::default()));
    show(service, id)
}

fn show(service: &Arc<Service>, id: SnapshotId) -> SnapshotInfo {
    service.show_snapshot(&id.to_string()).unwrap()
}

/// Returns the plain bytes of a snapshot, up to the last one that any test writes.
fn plain(service: &Arc<Service>, id: SnapshotId) -> Vec<u8> {
    let view = service.open_view(id, &caller(service)).unwrap();
    let mut all = vec![0xee; view.size().min(END) as usize];
    assert_eq!(view.read(0, &mut all, Blocking::Allowed).unwrap(), Attempt::Done);
    all
}

fn arn(service: &Arc<Service>, alias: &str) -> String {
    service.kms.keys().describe(&alias.parse().unwrap()).unwrap().arn
}

fn grants(service: &Arc<Service>, alias: &str) -> usize {
    match say(service, json!({"action": "grant-list", "key": alias})).unwrap() {
        Reply::Grants { grants } => grants.len(),
        other => panic!("{other:?}"),
    }
}

/// Files of both repositories, and of the staging directories.
fn files(place: &Place, part: &str) -> Vec<PathBuf> {
    let mut all = place.files(part);
    all.extend(Place::files_in(place.path("far"), part));
    all
}

fn write_at(place: &Place, service: &Arc<Service>, at: u64, mut bytes: Vec<u8>) {
    let record = place.record(service);
    let used = service.opens.acquire(&record, super::super::opening::Need::Key(&caller(service))).unwrap();
    assert_eq!(used.volume.write(at, &mut bytes, Blocking::Allowed).unwrap(), Attempt::Done);
    used.volume.flush().unwrap();
}

#[test]
fn a_copy_under_another_key_has_the_same_plaintext_and_other_sealed_bytes() {
    let (place, service) = world();
    // Parts of sectors, between which there are holes.
    write_at(&place, &service, 5 * MIB + 512, vec![7; 512]);
    write_at(&place, &service, 7 * MIB + 1024, vec![0; 1024]);
    let source = take(&place, &service);
    let made = copy(&service, source.id, Some("alias/a"), None).unwrap();
    assert_eq!((made.state, made.source, made.base), (SnapshotState::Completed, Some(source.id), None));
    assert_eq!(
        (made.key.clone(), made.created, made.volume),
        (arn(&service, "alias/a"), source.created, source.volume)
    );
    assert_eq!((made.changed, made.stored), (source.changed, source.stored), "holes stay holes");
    verify(&service, made.id);
    assert!(plain(&service, made.id) == plain(&service, source.id));
    let record = |id| service.records.snapshot(id).unwrap().unwrap();
    let (from, to) = (record(source.id), record(made.id));
    assert!(from.lineage != to.lineage && from.data_keys != to.data_keys);
    assert_eq!(to.context["aws:ebs:id"], made.id.to_string());
    let hash =
        |r| service.repositories.local().open_snapshot(r, made.id).unwrap().hash_of(crate::units::ChunkNo(0)).unwrap();
    let was = service.repositories.local().open_snapshot(from.lineage, source.id).unwrap();
    assert_ne!(hash(to.lineage), was.hash_of(crate::units::ChunkNo(0)).unwrap());
    let restored = place.beside(restore(&service, made.id, "w"));
    assert_eq!(restored.record(&service).key_arn, arn(&service, "alias/a"));
    assert!(bytes(&restored, &service, 3 * MIB) == bytes(&place, &service, 3 * MIB));
    // It needs the source no more.
    delete(&service, source.id).unwrap();
    verify(&service, made.id);
    plain(&service, made.id);
    assert_eq!((grants(&service, "alias/a"), files(&place, "-copy")), (0, Vec::new()));
}

#[test]
fn later_copies_of_a_lineage_join_the_first_and_store_what_changed() {
    let (place, service) = world();
    let one = take(&place, &service);
    write(&place, &service, MIB, MIB, 2);
    let two = take(&place, &service);
    let first = copy(&service, one.id, Some("alias/a"), Some("far")).unwrap();
    let second = copy(&service, two.id, Some("alias/a"), Some("far")).unwrap();
    assert_eq!((second.base, second.changed), (Some(first.id), MIB));
    assert!(second.stored <= MIB && second.stored > 0, "{}", second.stored);
    let lineage = |id| service.records.snapshot(id).unwrap().unwrap().lineage;
    assert_eq!(lineage(first.id), lineage(second.id));
    let (from, to) = (first.id.to_string(), second.id.to_string());
    let Reply::Changes(diff) = say(&service, json!({"action": "snapshot-diff", "from": from, "to": to})).unwrap()
    else {
        panic!("no ranges")
    };
    assert_eq!(diff.ranges.iter().map(|r| (r.offset, r.length)).collect::<Vec<_>>(), [(MIB, MIB)]);
    // Without the source of the base, all is compared.
    delete(&service, two.id).unwrap();
    write(&place, &service, 2 * MIB, MIB, 3);
    let three = take(&place, &service);
    let third = copy(&service, three.id, Some("alias/a"), Some("far")).unwrap();
    assert_eq!((third.base, third.changed), (Some(second.id), MIB));
    for (copy, source) in [(first.id, one.id), (third.id, three.id)] {
        verify(&service, copy);
        assert!(plain(&service, copy) == plain(&service, source));
    }
    // Another CMK, or another repository: a lineage of its own.
    let other = copy(&service, three.id, Some("alias/b"), Some("far")).unwrap();
    let here = copy(&service, three.id, Some("alias/a"), None).unwrap();
    assert_eq!((other.base, here.base), (None, None));
    let all = [first.id, other.id, here.id].map(lineage);
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
}

#[test]
fn a_copy_without_a_key_has_the_same_sealed_bytes_and_needs_no_cmk() {
    let (place, service) = world();
    let a = say(&service, json!({"action": "volume-create", "name": "a", "size": 8 * MIB, "key": "alias/a"})).unwrap();
    let Reply::Volume(a) = a else { panic!("no volume") };
    let place = place.beside(a.id);
    write(&place, &service, 0, 3 * MIB, 1);
    let one = take(&place, &service);
    write(&place, &service, MIB, MIB, 2);
    let two = take(&place, &service);
    let content = plain(&service, two.id);
    drop(service.opens.close_unused(&place.record(&service)).unwrap());
    say(&service, json!({"action": "key-disable", "key": "alias/a"})).unwrap();
    let first = copy(&service, one.id, None, Some("far")).unwrap();
    let second = copy(&service, two.id, None, Some("far")).unwrap();
    assert_eq!((first.base, first.changed, first.stored), (None, 3 * MIB, one.stored));
    assert_eq!((second.base, second.changed), (Some(first.id), MIB));
    // In place: a new id, and nothing more.
    let third = copy(&service, two.id, None, None).unwrap();
    assert_eq!((third.base, third.changed, third.stored), (Some(two.id), 0, 0));
    assert_eq!(copy(&service, one.id, Some("alias/b"), None).unwrap_err().kind(), Kind::KeyUnavailable);
    for id in [one.id, two.id] {
        delete(&service, id).unwrap();
    }
    say(&service, json!({"action": "key-enable", "key": "alias/a"})).unwrap();
    for id in [second.id, third.id] {
        verify(&service, id);
        assert!(plain(&service, id) == content);
    }
    let service = place.reopen(service);
    let restored = place.beside(restore(&service, second.id, "w"));
    assert!(bytes(&restored, &service, 8 * MIB) == content);
}

#[test]
fn the_source_can_be_deleted_while_it_is_copied() {
    for key in [None, Some("alias/a")] {
        let (place, service) = world();
        let source = take(&place, &service);
        let content = plain(&service, source.id);
        let begun = begin(&service, source.id, key, Some("far")).unwrap();
        let id = begun.record.id;
        let said = delete(&service, source.id).unwrap();
        assert!(said.contains(&format!("until its copy {id} is completed")), "{said}");
        let busy = say(&service, json!({"action": "repository-remove", "repository": "far"})).unwrap_err();
        assert_eq!(busy.kind(), Kind::Busy);
        // As after a kill.
        drop(begun);
        let service = place.reopen(service);
        let Reply::Snapshot(made) = say(&service, json!({"action": "snapshot-wait", "snapshot": id})).unwrap() else {
            panic!("no snapshot")
        };
        assert_eq!((made.state, made.changed), (SnapshotState::Completed, 3 * MIB));
        verify(&service, id);
        assert!(plain(&service, id) == content);
        // What only the copy held is gone.
        assert_eq!((place.files("/packs/"), files(&place, "-copy")), (Vec::new(), Vec::new()));
        assert_eq!(std::fs::read_dir(service.data.staging()).unwrap().count(), 0);
    }
}

#[test]
fn a_bad_chunk_of_the_source_ends_the_copy_and_is_named() {
    let (place, service) = world();
    let source = take(&place, &service);
    let pack = place.files("/packs/").pop().unwrap();
    let mut raw = std::fs::read(&pack).unwrap();
    raw[700_000] ^= 1;
    std::fs::write(&pack, raw).unwrap();
    let err = copy(&service, source.id, Some("alias/a"), Some("far")).unwrap_err();
    assert!(err.line().contains("chunk 1"), "{}", err.line());
    let all = service.list_snapshots(&Default::default()).unwrap();
    let failed = all.iter().find(|s| s.source.is_some()).unwrap();
    assert_eq!(failed.state, SnapshotState::Error);
    assert_eq!((files(&place, "-copy"), Place::files_in(place.path("far"), "/packs/")), (Vec::new(), Vec::new()));
    assert_eq!(grants(&service, "alias/a"), 0);
    delete(&service, failed.id).unwrap();
}

#[test]
fn a_caller_who_may_not_use_a_cmk_is_refused_before_anything_is_written() {
    let (place, service) = world();
    let source = take(&place, &service);
    let before = (files(&place, ""), service.records.snapshots().unwrap().len());
    let policy = |actions: &[&str]| {
        let all = json!({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"});
        let deny = json!({"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": actions, "Resource": "*"});
        let policy = json!({"Version": "2012-10-17", "Statement": [all, deny]}).to_string();
        say(
            &service,
            json!({"action": "key-policy-set", "key": "alias/a", "policy": policy, "bypass_lockout_check": true}),
        )
        .unwrap();
    };
    for action in ["kms:GenerateDataKeyWithoutPlaintext", "kms:CreateGrant", "kms:Decrypt"] {
        policy(&[action]);
        let err = copy(&service, source.id, Some("alias/a"), None).unwrap_err();
        assert!(err.kind() == Kind::AccessDenied && err.line().contains(action), "{}", err.line());
        assert!(before == (files(&place, ""), service.records.snapshots().unwrap().len()));
    }
    policy(&["kms:TagResource"]);
    let made = copy(&service, source.id, Some("alias/a"), None).unwrap();
    // So is one who joins a lineage, and one who may not open the source.
    policy(&["kms:GenerateDataKeyWithoutPlaintext"]);
    assert_eq!(copy(&service, source.id, Some("alias/a"), None).unwrap_err().kind(), Kind::AccessDenied);
    policy(&["kms:Decrypt"]);
    assert_eq!(copy(&service, made.id, Some("alias/b"), None).unwrap_err().kind(), Kind::AccessDenied);
    assert_eq!(copy(&service, made.id, Some("alias/none"), None).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(std::fs::read_dir(service.data.staging()).unwrap().count(), 0);
}

#[test]
fn a_copy_waits_while_its_cmk_is_disabled_and_fails_if_its_grant_is_revoked() {
    let (place, service) = world();
    let source = take(&place, &service);
    let begun = begin(&service, source.id, Some("alias/a"), Some("far")).unwrap();
    let id = begun.record.id;
    assert_eq!(grants(&service, "alias/a"), 1);
    say(&service, json!({"action": "key-disable", "key": "alias/a"})).unwrap();
    assert_eq!(finish(&service, begun).state, SnapshotState::Pending);
    let wait = json!({"action": "snapshot-wait", "snapshot": id});
    assert_eq!(say(&service, wait.clone()).unwrap_err().kind(), Kind::KeyUnavailable);
    say(&service, json!({"action": "key-enable", "key": "alias/a"})).unwrap();
    let Reply::Snapshot(made) = say(&service, wait).unwrap() else { panic!("no snapshot") };
    assert_eq!((made.state, grants(&service, "alias/a")), (SnapshotState::Completed, 0));
    verify(&service, id);
    let begun = begin(&service, source.id, Some("alias/b"), Some("far")).unwrap();
    let id = begun.record.id;
    let grant = service.records.snapshot(id).unwrap().unwrap().source.unwrap().grants.pop().unwrap();
    say(&service, json!({"action": "grant-revoke", "key": "alias/b", "grant": grant})).unwrap();
    drop(begun);
    let service = place.reopen(service);
    say(&service, json!({"action": "snapshot-wait", "snapshot": id})).unwrap_err();
    let failed = show(&service, id);
    assert!(
        failed.state == SnapshotState::Error && failed.error.as_ref().is_some_and(|e| e.contains("revoked")),
        "{failed:?}"
    );
    assert_eq!(files(&place, "-copy"), Vec::<PathBuf>::new());
}

#[test]
fn a_copy_waits_for_a_repository_that_is_not_there() {
    let (place, service) = world();
    let source = take(&place, &service);
    let begun = begin(&service, source.id, Some("alias/a"), Some("far")).unwrap();
    let wait = json!({"action": "snapshot-wait", "snapshot": begun.record.id});
    let id = begun.record.id;
    drop(begun);
    std::fs::rename(place.path("far"), place.path("unplugged")).unwrap();
    let service = place.reopen(service);
    assert_eq!(say(&service, wait.clone()).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(show(&service, id).state, SnapshotState::Pending);
    std::fs::rename(place.path("unplugged"), place.path("far")).unwrap();
    say(&service, wait).unwrap();
    verify(&service, id);
}

#[test]
fn a_remote_repository_that_fails_is_tried_again() {
    let (place, service) = world();
    let source = take(&place, &service);
    let there = copy(&service, source.id, None, Some("far")).unwrap();
    let below = Arc::new(StoreObjects::local(&place.path("far")).unwrap());
    let remote = Remote::over(below, testing::env().1, 0);
    let far = service.repositories.records().unwrap().remove(0).id;
    service.repositories.put_in_place(far, remote.clone());
    // Read from it, then written to.
    for (of, call, to) in [(there.id, Call::Get, "local"), (source.id, Call::Put, "far")] {
        let begun = begin(&service, of, Some("alias/a"), Some(to)).unwrap();
        remote.fail(Fault { call, after: 1, kind: Kind::Unreachable, took_effect: false });
        let made = finish(&service, begun);
        assert!(remote.mend() && made.state == SnapshotState::Completed, "{made:?}");
        verify(&service, made.id);
        assert!(plain(&service, made.id) == plain(&service, source.id));
    }
}

#[test]
fn a_copy_that_is_cancelled_leaves_nothing() {
    let (place, service) = world();
    let source = take(&place, &service);
    let begun = begin(&service, source.id, Some("alias/a"), Some("far")).unwrap();
    let (id, job) = (begun.record.id, Arc::new(Job::default()));
    job.stop(Stop::Cancel);
    service.jobs.run_copy(begun, &job);
    assert_eq!(show(&service, id).state, SnapshotState::Error);
    delete(&service, id).unwrap();
    assert_eq!((grants(&service, "alias/a"), files(&place, "-copy")), (0, Vec::new()));
    assert_eq!(Place::files_in(place.path("far"), "/packs/"), Vec::<PathBuf>::new());
    // Its lineage is joined all the same.
    let made = copy(&service, source.id, Some("alias/a"), Some("far")).unwrap();
    verify(&service, made.id);
    assert!(plain(&service, made.id) == plain(&service, source.id));
}

#[test]
fn copies_are_pruned_apart_from_what_they_are_copies_of() {
    let (place, service) = world();
    let (one, two) = (take(&place, &service), take(&place, &service));
    let copies = [one.id, two.id].map(|id| copy(&service, id, None, Some("far")).unwrap().id);
    say(&service, json!({"action": "snapshot-prune", "keep": {"last": 1}})).unwrap();
    let left: Vec<_> = service.list_snapshots(&Default::default()).unwrap().iter().map(|s| s.id).collect();
    assert!(left.len() == 2 && left.contains(&two.id) && left.contains(&copies[1]), "{left:?}");
}

/// A snapshot that is to be as it was taken, and what it holds: the fill of each MiB.
type Taken = (SnapshotId, Vec<u8>);

#[test]
fn copies_are_whole_whatever_is_written_deleted_and_killed_meanwhile() {
    for seed in 0..4 {
        let (mut random, (place, mut service)) = (Seeded(seed), world());
        let mut model = vec![0u8; 64];
        model[..3].fill(1);
        let mut all: Vec<Taken> = vec![(take(&place, &service).id, model.clone())];
        for step in 0..12u8 {
            match random.below(5) {
                0 | 1 => {
                    let mib = random.below(12);
                    write(&place, &service, mib * MIB, MIB, step + 2);
                    model[mib as usize] = step + 2;
                    all.push((take(&place, &service).id, model.clone()));
                }
                2 if all.len() > 1 => {
                    let (id, _) = all.swap_remove(random.below(all.len() as u64) as usize);
                    delete(&service, id).unwrap();
                }
                _ => {
                    let (of, content) = all[random.below(all.len() as u64) as usize].clone();
                    let key = [None, Some("alias/a"), Some("alias/b")][random.below(3) as usize];
                    let repository = ["local", "far"][random.below(2) as usize];
                    let begun = begin(&service, of, key, Some(repository)).unwrap();
                    let id = begun.record.id;
                    if random.below(2) == 0 {
                        assert_eq!(finish(&service, begun).state, SnapshotState::Completed, "seed {seed} step {step}");
                    } else {
                        drop(begun);
                        service = place.reopen(service);
                        say(&service, json!({"action": "snapshot-wait", "snapshot": id})).unwrap();
                    }
                    all.push((id, content));
                }
            }
        }
        for (id, model) in all {
            verify(&service, id);
            let found = plain(&service, id);
            let wanted = |mib: usize| if model[mib] == 0 { vec![0; MIB as usize] } else { content(model[mib]) };
            let bad = found.chunks(MIB as usize).enumerate().find(|(mib, got)| **got != wanted(*mib));
            assert!(bad.is_none(), "seed {seed}: {id} differs in MiB {}", bad.unwrap().0);
        }
        assert_eq!(files(&place, "-copy"), Vec::<PathBuf>::new(), "seed {seed}");
    }
}
