//! Snapshots, what they are kept for, and what kills and damage leave of them.

use super::Service;
use super::api::SnapshotState;
use super::api::{Grade, Reply, SnapshotInfo, VerifiedInfo};
use super::bases::{base_ref, drop_ref};
use super::beginning::Wanted;
use super::copying::Job;
use super::datadir::DataDir;
use super::home::{Home, RepositoryKey};
use super::jobs::Begun;
use super::opening::Need;
use super::operations::{CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, Request, VerifySnapshots};
use super::records::{Labels, VolumeRecord};
use super::{GRACE, OpenAs, Role};
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use crate::units::{SnapshotId, VolumeId};
use crate::volume::format::ParentRef;
use crate::volume::{Attempt, Blocking};
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// An installation with a volume, opened again and again.
pub(super) struct Place {
    root: Arc<tempfile::TempDir>,
    pub(super) volume: VolumeId,
}

impl Place {
    pub(super) fn new() -> (Self, Arc<Service>) {
        let root = Arc::new(tempfile::tempdir().unwrap());
        let place = Self { root, volume: "vol-00000000000000000".parse().unwrap() };
        let choice = RootChoice::File(place.key());
        Service::init(&place.data(), &Env::system(), &choice, &InstallationConfig::default()).unwrap();
        let service = place.open();
        let create = CreateVolume {
            name: Some("v".to_owned()),
            size: Some(64 * MIB),
            key: None,
            snapshot: None,
            on_key_loss: None,
            iops: None,
            throughput: None,
            hydrate_rate: None,
            snapshot_rate: None,
            repository: None,
        }
        .into();
        let Reply::Volume(made) = ask(&service, create).unwrap() else { panic!("no volume") };
        (Self { volume: made.id, ..place }, service)
    }
    /// Returns the same installation, with another of its volumes.
    pub(super) fn beside(&self, volume: VolumeId) -> Self {
        Self { root: self.root.clone(), volume }
    }
    /// Returns a path beside the data directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
    fn key(&self) -> PathBuf {
        self.root.path().join("root.key")
    }
    fn data(&self) -> DataDir {
        DataDir::at(&self.root.path().join("data")).unwrap()
    }
    pub(super) fn open(&self) -> Arc<Service> {
        let (data, env) = (self.data(), Env::system());
        let lock = data.try_lock(&env, "test").unwrap().unwrap();
        let opening = OpenAs { role: Role::Command, single_host: false, lease_grace: GRACE };
        Service::open(data, env, lock, &RootUnlock::File(self.key()), opening).unwrap()
    }
    /// As after a SIGKILL: nothing is shut down.
    pub(super) fn reopen(&self, service: Arc<Service>) -> Arc<Service> {
        let left = Arc::into_inner(service);
        drop(left.expect("nobody else uses it"));
        self.open()
    }
    fn file(&self, volume: VolumeId) -> PathBuf {
        self.data().volumes().join(format!("{volume}.coffer"))
    }
    fn repository(&self) -> PathBuf {
        self.data().repository()
    }
    pub(super) fn record(&self, service: &Service) -> VolumeRecord {
        service.records.find_volume(&self.volume.to_string()).unwrap()
    }
    /// Files of the repository whose path contains `part`.
    pub(super) fn files(&self, part: &str) -> Vec<PathBuf> {
        Self::files_in(self.repository(), part)
    }
    /// Files below a folder whose path contains `part`.
    pub(super) fn files_in(folder: PathBuf, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path)
                } else if path.to_str().unwrap().contains(part) {
                    found.push(path)
                }
            }
        }
        found.sort();
        found
    }
}

pub(super) fn caller(service: &Service) -> Caller {
    service.caller_of(0, "test").unwrap()
}

pub(super) fn ask(service: &Arc<Service>, request: Request) -> Result<Reply> {
    service.handle(&caller(service), request, &mut |_| true)
}

pub(super) fn write(place: &Place, service: &Arc<Service>, at: u64, len: u64, byte: u8) {
    let record = place.record(service);
    let used = service.opens.acquire(&record, Need::Key(&caller(service))).unwrap();
    for piece in 0..len / MIB {
        assert_eq!(used.volume.write(at + piece * MIB, &mut content(byte), Blocking::Allowed).unwrap(), Attempt::Done);
    }
    used.volume.flush().unwrap();
}

pub(super) fn take(place: &Place, service: &Arc<Service>) -> SnapshotInfo {
    take_into(place, service, None).unwrap()
}

/// Takes a snapshot into a repository, or into the one that the volume is set to.
pub(super) fn take_into(place: &Place, service: &Arc<Service>, repository: Option<&str>) -> Result<SnapshotInfo> {
    let (volume, repository) = (place.volume.to_string(), repository.map(str::to_owned));
    match ask(service, CreateSnapshot { volume, wait: true, repository, ..Default::default() }.into())? {
        Reply::Snapshot(made) => Ok(made),
        other => panic!("{other:?}"),
    }
}

fn begin(place: &Place, service: &Arc<Service>) -> Begun {
    let id = SnapshotId::draw(&crate::env::SystemRng);
    let wanted = Wanted { id, volume: place.record(service), to: RepositoryKey::Local };
    service.jobs.begin(&caller(service), vec![wanted], &Labels::default()).unwrap().pop().unwrap()
}

/// Returns the fill of each MiB of a snapshot.
fn contents_of(service: &Arc<Service>, id: SnapshotId) -> Vec<u8> {
    let view = service.open_view(id, &caller(service)).unwrap();
    let mut all = vec![0; 64 * MIB as usize];
    assert_eq!(view.read(0, &mut all, Blocking::Allowed).unwrap(), Attempt::Done);
    all.chunks(MIB as usize).map(|mib| mib[1]).collect()
}

pub(super) fn delete(service: &Arc<Service>, id: SnapshotId) -> Result<String> {
    match ask(service, DeleteSnapshot { snapshot: id.to_string(), now: false }.into())? {
        Reply::Done { message, .. } => Ok(message),
        other => panic!("{other:?}"),
    }
}

fn verified(reply: Result<Reply>) -> VerifiedInfo {
    match reply.unwrap() {
        Reply::Verified { mut snapshots } if snapshots.len() == 1 => snapshots.remove(0),
        other => panic!("{other:?}"),
    }
}

pub(super) fn verify(service: &Arc<Service>, id: SnapshotId) {
    let found =
        verified(ask(service, VerifySnapshots { snapshots: vec![id.to_string()], ..Default::default() }.into()));
    assert!(found.error.is_none() && found.bad_chunks == 0, "{found:?}");
}

fn listed(service: &Arc<Service>) -> Vec<(SnapshotId, SnapshotState)> {
    service.list_snapshots(&Default::default()).unwrap().into_iter().map(|s| (s.id, s.state)).collect()
}

fn base_on(place: &Place, service: &Service) -> Option<SnapshotId> {
    service.repositories.local().ref_on(place.record(service).lineage, &base_ref(place.volume)).unwrap()
}

#[test]
fn the_older_of_two_that_completes_last_takes_nothing_back() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let older = begin(&place, &service);
    write(&place, &service, MIB, MIB, 2);
    let younger = begin(&place, &service);
    let (a, b) = (older.record.id, younger.record.id);
    service.jobs.run_job(younger, &Arc::new(Job::default()));
    service.jobs.run_job(older, &Arc::new(Job::default()));
    assert_eq!(base_on(&place, &service), Some(b), "ref and header move together, to the newer alone");
    delete(&service, b).unwrap();
    write(&place, &service, 2 * MIB, MIB, 3);
    let c = take(&place, &service);
    assert_eq!((c.base, c.changed), (Some(b), MIB), "the base is kept by its ref, though it is deleted");
    [a, c.id].iter().for_each(|id| verify(&service, *id));
}

#[test]
fn without_its_base_the_next_snapshot_is_a_full_one() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let first = take(&place, &service);
    // As an older version left it: the header has a base without a ref, and the base is deleted.
    drop_ref(service.repositories.local(), place.record(&service).lineage, &base_ref(place.volume)).unwrap();
    take(&place, &service);
    delete(&service, first.id).unwrap();
    let service = place.reopen(service);
    for file in place.files("/manifests/").into_iter().chain(place.files("/pages/")) {
        std::fs::remove_file(file).unwrap();
    }
    let full = take(&place, &service);
    assert_eq!((full.base, full.changed), (None, 2 * MIB));
    verify(&service, full.id);
    write(&place, &service, 0, MIB, 7);
    assert_eq!(take(&place, &service).base, Some(full.id), "and the one after that is an increment");
}

#[test]
fn with_the_last_snapshot_the_base_goes_and_the_next_one_is_full() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 4 * MIB, 1);
    let one = take(&place, &service);
    write(&place, &service, 0, MIB, 2);
    let two = take(&place, &service);
    // The newest is deleted but an older one remains: it stays as a base, and the message says so.
    let said = delete(&service, two.id).unwrap();
    assert!(said.contains("as the base of the next snapshot of v (vol-"), "{said}");
    let said = delete(&service, one.id).unwrap();
    assert!(said.contains("freed 5.0 MiB") && !said.contains("stays"), "{said}");
    for part in ["/packs/", "/pages/", "/manifests/", "/refs/"] {
        assert_eq!(place.files(part), Vec::<PathBuf>::new());
    }
    let full = take(&place, &service);
    assert_eq!((full.base, full.changed), (None, 4 * MIB));
    verify(&service, full.id);
}

#[test]
fn a_volume_that_was_filled_is_whole_in_a_full_snapshot() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 3 * MIB, 1);
    let parent = take(&place, &service);
    let filled = Place { volume: restore(&service, parent.id, "w"), ..place };
    // Not filled yet, and the ref on its base is lost: the parent is still the base.
    drop_ref(service.repositories.local(), filled.record(&service).lineage, &base_ref(filled.volume)).unwrap();
    let early = take(&filled, &service);
    assert_eq!(early.base, Some(parent.id));
    delete(&service, early.id).unwrap();
    let said = delete(&service, parent.id).unwrap();
    assert!(said.contains("until volume w (vol-"), "{said}");
    {
        let used = service.opens.acquire(&filled.record(&service), Need::Sealed).unwrap();
        while !used.volume.hydrate_some(16).unwrap().done {}
    }
    service.lineages.note_hydrated(filled.volume);
    drop_ref(service.repositories.local(), filled.record(&service).lineage, &base_ref(filled.volume)).unwrap();
    let full = take(&filled, &service);
    assert_eq!((full.base, full.changed), (None, 3 * MIB), "chunks that were filled count as unchanged in the map");
    verify(&service, full.id);
}

pub(super) fn restore(service: &Arc<Service>, snapshot: SnapshotId, name: &str) -> VolumeId {
    let create = CreateVolume {
        name: Some(name.to_owned()),
        size: None,
        key: None,
        snapshot: Some(snapshot.to_string()),
        on_key_loss: None,
        iops: None,
        throughput: None,
        hydrate_rate: None,
        snapshot_rate: None,
        repository: None,
    }
    .into();
    let Reply::Volume(made) = ask(service, create).unwrap() else { panic!("no volume") };
    made.id
}

/// What [`write`] writes to a MiB.
pub(super) fn content(byte: u8) -> Vec<u8> {
    let mut data = vec![byte; MIB as usize];
    data.iter_mut().step_by(4096).enumerate().for_each(|(i, b)| *b = i as u8);
    data
}

pub(super) fn bytes(place: &Place, service: &Arc<Service>, len: u64) -> Vec<u8> {
    let used = service.opens.acquire(&place.record(service), Need::Key(&caller(service))).unwrap();
    let mut out = vec![0xee; len as usize];
    assert_eq!(used.volume.read(0, &mut out, Blocking::Allowed).unwrap(), Attempt::Done);
    out
}

#[test]
fn the_chunks_that_cannot_be_filled_are_named_and_the_rest_is_filled() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let one = take(&place, &service);
    write(&place, &service, 8 * MIB, MIB, 2);
    let two = take(&place, &service);
    let filled = Place { volume: restore(&service, two.id, "w"), ..place };
    drop(one);
    // The first snapshot's only pack: chunks 0 and 1.
    let packs = filled.files("/packs/");
    let first = packs.iter().min_by_key(|p| std::fs::metadata(p).unwrap().modified().unwrap()).unwrap();
    std::fs::remove_file(first).unwrap();
    let used = service.opens.acquire(&filled.record(&service), Need::Key(&caller(&service))).unwrap();
    for _ in 0..4 {
        let _step = used.volume.hydrate_some(16);
    }
    let shown = service.show_volume("w").unwrap().header.unwrap().damage.unwrap();
    assert!(shown.contains("2 chunks of its snapshot (0, 1) cannot be read"), "{shown}");
    let found = service.doctor.look().unwrap();
    assert!(found.iter().any(|f| f.grade == Grade::Error && f.message.contains("(0, 1)")), "{found:?}");
    let mut out = vec![0; MIB as usize];
    assert_eq!(used.volume.read(0, &mut out, Blocking::Allowed).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(used.volume.read(8 * MIB, &mut out, Blocking::Allowed).unwrap(), Attempt::Done);
    assert!(out == content(2));
}

#[test]
fn what_a_volume_was_filled_from_goes_when_it_is_filled_if_it_was_deleted() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 3 * MIB, 1);
    let parent = take(&place, &service).id;
    let filled = Place { volume: restore(&service, parent, "w"), ..place };
    ask(&service, DeleteVolume { volume: place.volume.to_string() }.into()).unwrap();
    delete(&service, parent).unwrap();
    assert!(!filled.files("/packs/").is_empty(), "it is needed until then");
    {
        let used = service.opens.acquire(&filled.record(&service), Need::Sealed).unwrap();
        while !used.volume.hydrate_some(16).unwrap().done {}
    }
    service.lineages.note_hydrated(filled.volume);
    for part in ["/packs/", "/pages/", "/manifests/", "/refs/"] {
        assert_eq!(filled.files(part), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_volume_that_is_filled_frees_nothing_by_a_log_that_was_rolled_back() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 3 * MIB, 1);
    let parent = take(&place, &service).id;
    let filled = Place { volume: restore(&service, parent, "w"), ..place };
    ask(&service, DeleteVolume { volume: place.volume.to_string() }.into()).unwrap();
    delete(&service, parent).unwrap();
    let kept = take(&filled, &service).id;
    // Everything that holds it except the log's last record, which is removed.
    drop_ref(service.repositories.local(), filled.record(&service).lineage, &base_ref(filled.volume)).unwrap();
    std::fs::remove_file(filled.files("/log/").last().unwrap()).unwrap();
    let service = filled.reopen(service);
    let manifest = || filled.files(&format!("/manifests/{kept}")).len();
    assert_eq!(manifest(), 1);
    {
        let used = service.opens.acquire(&filled.record(&service), Need::Sealed).unwrap();
        while !used.volume.hydrate_some(16).unwrap().done {}
    }
    service.lineages.note_hydrated(filled.volume);
    assert_eq!(manifest(), 1, "the log is older than what it is asked about");
}

#[test]
fn a_snapshot_on_a_base_that_is_not_whole_fails_and_the_next_one_is_full() {
    for part in ["/packs/", "/pages/"] {
        let (place, service) = Place::new();
        write(&place, &service, 0, 4 * MIB, 1);
        let one = take(&place, &service);
        let lost = place.files(part).remove(0);
        std::fs::remove_file(&lost).unwrap();
        let findings = service.doctor.check_repositories();
        let named = lost.file_name().unwrap().to_str().unwrap();
        assert!(findings.iter().any(|f| f.grade == Grade::Error && f.message.contains(named)), "{findings:?}");
        write(&place, &service, 0, MIB, 2);
        let create = CreateSnapshot { volume: place.volume.to_string(), wait: true, ..Default::default() }.into();
        let err = ask(&service, create).unwrap_err();
        assert!(err.line().contains("is missing") || err.line().contains("no object"), "{}", err.line());
        let full = take(&place, &service);
        assert_eq!((full.base, full.changed), (None, 4 * MIB));
        verify(&service, full.id);
        assert_eq!(base_on(&place, &service), Some(full.id));
        drop(one);
    }
}

#[test]
fn a_delete_that_is_cut_off_is_hidden_and_finished_by_the_next_command() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let one = take(&place, &service);
    write(&place, &service, 0, MIB, 2);
    let two = take(&place, &service);
    // The log's next record cannot be written: a directory has its name.
    let log = place.files("/log/");
    let next = log[0].with_file_name(format!("{:016x}", log.len()));
    std::fs::create_dir(&next).unwrap();
    let err = delete(&service, one.id).unwrap_err();
    assert!(err.line().contains("hidden"), "{}", err.line());
    // To the next command that is a damaged record like any other, and the pending record goes after it.
    assert_eq!(listed(&service), [(two.id, SnapshotState::Completed)]);
    assert_eq!(service.show_snapshot(&one.id.to_string()).unwrap_err().kind(), Kind::NotFound);
    verify(&service, two.id);
    let service = place.reopen(service);
    assert_eq!(listed(&service), [(two.id, SnapshotState::Completed)]);
    delete(&service, one.id).map_or_else(|e| assert_eq!(e.kind(), Kind::NotFound, "{}", e.line()), drop);
    assert_eq!(service.doctor.check_repositories(), [], "the record behind it makes up for it");
    assert_eq!(place.files("/manifests/").len(), 1);
    verify(&service, two.id);
    assert_eq!(delete(&service, SnapshotId::draw(&crate::env::SystemRng)).unwrap_err().kind(), Kind::NotFound);
    let service = place.reopen(service);
    assert_eq!(delete(&service, one.id).unwrap_err().kind(), Kind::NotFound, "long gone");
}

#[test]
fn what_was_finished_when_the_process_began_is_good_to_delete_again() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let one = take(&place, &service);
    let log = place.files("/log/");
    let next = log[0].with_file_name(format!("{:016x}", log.len()));
    std::fs::create_dir(&next).unwrap();
    delete(&service, one.id).unwrap_err();
    std::fs::remove_dir(&next).unwrap();
    let service = place.reopen(service);
    assert_eq!(place.files("/packs/"), Vec::<PathBuf>::new(), "settled at the open");
    assert!(delete(&service, one.id).unwrap().contains("is deleted"));
}

#[test]
fn what_killed_creates_leave_is_continued_and_no_slot_is_lost() {
    let (place, mut service) = Place::new();
    for round in 0..10 {
        write(&place, &service, 0, 2 * MIB, round + 1);
        // Begun, then killed: the header has it as pending.
        drop(begin(&place, &service));
        // The volume cannot be opened meanwhile.
        let file = place.file(place.volume);
        let away = file.with_extension("away");
        std::fs::rename(&file, &away).unwrap();
        service = place.reopen(service);
        assert_eq!(listed(&service).last().unwrap().1, SnapshotState::Pending);
        std::fs::rename(&away, &file).unwrap();
        write(&place, &service, 0, MIB, 99);
        let next = take(&place, &service);
        let all = listed(&service);
        assert!(all.iter().all(|(_, state)| *state == SnapshotState::Completed), "{all:?}");
        let killed = all.into_iter().map(|(id, _)| id).find(|id| *id != next.id).unwrap();
        assert_eq!(contents_of(&service, killed)[..2], [round + 1, round + 1], "its own point in time");
        assert_eq!(contents_of(&service, next.id)[..2], [99, round + 1]);
        for id in [killed, next.id] {
            verify(&service, id);
            delete(&service, id).unwrap();
        }
        assert!(place.data().staging().read_dir().unwrap().next().is_none());
    }
}

#[test]
fn a_killed_create_that_cannot_be_continued_is_in_error_and_no_slot_is_lost() {
    let (place, mut service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    for _ in 0..10 {
        drop(begin(&place, &service));
        std::fs::remove_dir_all(place.data().staging()).unwrap();
        let file = place.file(place.volume);
        let away = file.with_extension("away");
        std::fs::rename(&file, &away).unwrap();
        service = place.reopen(service);
        assert!(listed(&service).iter().all(|(_, state)| *state == SnapshotState::Error));
        std::fs::rename(&away, &file).unwrap();
    }
    let good = take(&place, &service);
    verify(&service, good.id);
    let used = service.opens.acquire(&place.record(&service), Need::Sealed).unwrap();
    assert_eq!(used.volume.pending_records(), []);
}

#[test]
fn refs_of_volumes_that_nobody_knows_count_for_nothing() {
    let (place, service) = Place::new();
    write(&place, &service, 0, 2 * MIB, 1);
    let one = take(&place, &service);
    let lineage = place.record(&service).lineage;
    let stranger = VolumeId::draw(&crate::env::SystemRng);
    let repository = service.repositories.local().id().unwrap();
    let installation = service.kms.installation().id;
    let parent = ParentRef { snapshot: one.id, repository, installation, size: one.size };
    service.lineages.hold_parent(lineage, stranger, &parent).unwrap();
    // A file that may belong to that volume: then its refs count.
    let file = place.file(stranger);
    std::fs::write(&file, b"").unwrap();
    service.lineages.sweep(Home { repository: RepositoryKey::Local, lineage }).unwrap();
    assert_eq!(place.files("/refs/").len(), 3);
    std::fs::remove_file(&file).unwrap();
    delete(&service, one.id).unwrap();
    assert_eq!(place.files("/packs/"), Vec::<PathBuf>::new());
    assert_eq!(place.files("/refs/"), Vec::<PathBuf>::new());
}

#[test]
fn a_damaged_log_record_costs_nothing_that_the_catalog_knows() {
    for number in 1..=5 {
        let (place, service) = Place::new();
        let taken: Vec<_> = (0..3)
            .map(|n| {
                write(&place, &service, n * MIB, MIB, n as u8 + 1);
                take(&place, &service).id
            })
            .collect();
        delete(&service, taken[0]).unwrap();
        let log = place.files("/log/");
        assert_eq!(log.len(), 6, "genesis, key, three adds, a delete");
        let mut bytes = std::fs::read(&log[number]).unwrap();
        bytes[120] ^= 0x5a;
        std::fs::write(&log[number], bytes).unwrap();
        let service = place.reopen(service);
        let named = service.doctor.check_repositories();
        let name = log[number].file_name().unwrap().to_str().unwrap();
        assert!(named.iter().any(|f| f.message.contains(name) && f.grade == Grade::Warning), "{number}: {named:?}");
        verify(&service, taken[1]);
        service.keys_for_test(taken[2]);
        let service = place.reopen(service);
        delete(&service, taken[1]).unwrap();
        write(&place, &service, 5 * MIB, MIB, 9);
        let next = take(&place, &service);
        assert_eq!(next.base, Some(taken[2]));
        [taken[2], next.id].iter().for_each(|id| verify(&service, *id));
        // Repaired: a reader without the catalog accepts the log as it is.
        let service = place.reopen(service);
        assert!(service.doctor.check_repositories().iter().all(|f| f.grade == Grade::Ok), "{number}");
        assert!(delete(&service, taken[0]).is_err(), "nothing came back");
    }
}

impl Service {
    /// Checks that the wrapped keys of a snapshot are available, as a volume created from it needs them.
    fn keys_for_test(&self, id: SnapshotId) {
        let record = self.records.snapshot(id).unwrap().unwrap();
        self.logs.check(record.home()).unwrap();
        assert_eq!(self.snapshot_keys.wrapped(&record).unwrap().len(), record.data_keys.len());
    }
}

#[test]
fn a_shorter_log_is_still_found_and_never_mended() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let one = take(&place, &service);
    let log = place.files("/log/");
    std::fs::remove_file(log.last().unwrap()).unwrap();
    let service = place.reopen(service);
    let err = delete(&service, one.id).unwrap_err();
    assert!(err.kind() == Kind::Integrity && err.line().contains("log ends at"), "{}", err.line());
}

#[test]
fn without_the_description_volumes_work_and_doctor_says_how_to_mend_it() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let one = take(&place, &service);
    let description = place.repository().join("coffer-repository.json");
    std::fs::write(&description, b"{").unwrap();
    let service = place.reopen(service);
    assert_eq!(service.list_volumes().unwrap().len(), 1);
    write(&place, &service, MIB, MIB, 2);
    assert_eq!(delete(&service, one.id).unwrap_err().kind(), Kind::Integrity);
    let found = service.doctor.check_repositories();
    let json = found
        .iter()
        .find_map(|f| f.message.split_once("coffer-repository.json: {").map(|(_, json)| format!("{{{json}")));
    std::fs::write(&description, json.unwrap()).unwrap();
    let service = place.reopen(service);
    let next = take(&place, &service);
    assert_eq!((next.base, next.changed), (Some(one.id), MIB));
    verify(&service, next.id);
}

#[test]
fn verify_needs_no_key() {
    let (place, service) = Place::new();
    write(&place, &service, 0, MIB, 1);
    let one = take(&place, &service);
    let key = hex::encode(service.kms.public_key());
    drop(Arc::into_inner(service).unwrap());
    std::fs::remove_file(place.key()).unwrap();
    let check = |id: SnapshotId, trust: Option<&str>| {
        let (snapshots, trust) = (vec![id.to_string()], trust.map(str::to_owned));
        let request = VerifySnapshots { snapshots, trust, ..Default::default() }.into();
        verified(super::answer_unopened(&place.data(), Env::system(), request, &mut |_| true))
    };
    let kind = |found: &VerifiedInfo| found.error.as_ref().map(|e| e.kind);
    let found = check(one.id, Some(&key));
    assert_eq!((found.attested, found.signed_by, found.chunks, found.verified), (true, Some(key), 2, 2));
    assert!(!check(one.id, None).attested);
    assert_eq!(kind(&check(one.id, Some(&"0".repeat(64)))), Some(Kind::Integrity));
    assert_eq!(kind(&check(SnapshotId::draw(&crate::env::SystemRng), None)), Some(Kind::NotFound));
    // Its own record is unreadable: without the catalog, nothing shows that the snapshot is live.
    let record = place.files("/log/").pop().unwrap();
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"x").unwrap();
    let err = check(one.id, None).error.unwrap();
    assert!(err.kind == Kind::Integrity && err.message.contains("/log/"), "{err:?}");
    std::fs::write(&record, good).unwrap();
    let pack = &place.files("/packs/")[0];
    let mut bytes = std::fs::read(pack).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(pack, bytes).unwrap();
    let found = check(one.id, None);
    assert_eq!((found.bad_chunks, found.bad[0].first, found.verified), (1, 0, 1));
    assert!(found.bad[0].reason.contains("/packs/"), "{found:?}");
}
