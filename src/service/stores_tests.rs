//! The service over stores in memory, which tests crash: nothing may assume that a volume is a file.

use super::api::{Finding, Grade, Reply, SnapshotInfo, VolumeInfo};
use super::datadir::DataDir;
use super::opening::Need;
use super::testing::request;
use super::{GRACE, OpenAs, Role, Service};
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use crate::store::Stores;
use crate::store::memory::MemoryStores;
use crate::units::VolumeId;
use crate::volume::lifecycle::file_size;
use crate::volume::{Attempt, Blocking};
use serde_json::{Value, json};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

struct Place {
    root: tempfile::TempDir,
    memory: MemoryStores,
}

impl Place {
    fn new() -> (Self, Arc<Service>) {
        let place = Self { root: tempfile::tempdir().unwrap(), memory: MemoryStores::default() };
        let choice = RootChoice::File(place.root.path().join("root.key"));
        Service::init(&place.data(), &Env::system(), &choice, &InstallationConfig::default()).unwrap();
        let service = place.open();
        (place, service)
    }

    fn data(&self) -> DataDir {
        DataDir::at(&self.root.path().join("data")).unwrap()
    }

    fn open(&self) -> Arc<Service> {
        let (data, env) = (self.data(), Env::system());
        let lock = data.try_lock(&env, "test").unwrap().unwrap();
        let opening = OpenAs { role: Role::Command, single_host: false, lease_grace: GRACE };
        let unlock = RootUnlock::File(self.root.path().join("root.key"));
        Service::open_over(Arc::new(self.memory.clone()), data, env, lock, &unlock, opening).unwrap()
    }

    /// Loses power; then the next process opens the directory.
    fn after_power_loss(&self, service: Arc<Service>) -> Arc<Service> {
        service.failed_syncs.wait();
        drop(Arc::into_inner(service).expect("nobody else uses it"));
        self.memory.power_loss();
        self.open()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.data().volumes()).unwrap().count()
    }
}

fn caller(service: &Service) -> Caller {
    service.caller_of(0, "test").unwrap()
}

fn ask(service: &Arc<Service>, json: Value) -> Result<Reply> {
    service.handle(&caller(service), request(json), &mut |_| true)
}

fn volume(service: &Arc<Service>, json: Value) -> VolumeInfo {
    match ask(service, json).unwrap() {
        Reply::Volume(info) => info,
        other => panic!("{other:?}"),
    }
}

fn create(service: &Arc<Service>, name: &str) -> VolumeInfo {
    volume(service, json!({"action": "volume-create", "name": name, "size": 8 * MIB}))
}

fn snapshot(service: &Arc<Service>, id: VolumeId) -> SnapshotInfo {
    let asked = json!({"action": "snapshot-create", "volume": id.to_string(), "description": "", "wait": true});
    match ask(service, asked).unwrap() {
        Reply::Snapshot(info) => info,
        other => panic!("{other:?}"),
    }
}

fn show(service: &Arc<Service>, id: VolumeId) -> VolumeInfo {
    volume(service, json!({"action": "volume-show", "volume": id.to_string()}))
}

fn doctor(service: &Arc<Service>) -> Vec<Finding> {
    match ask(service, json!({"action": "doctor"})).unwrap() {
        Reply::Findings { findings } => findings,
        other => panic!("{other:?}"),
    }
}

fn write(service: &Arc<Service>, id: VolumeId, at: u64, byte: u8) -> Result<()> {
    let record = service.records.find_volume(&id.to_string())?;
    let used = service.opens.acquire(&record, Need::Key(&caller(service)))?;
    assert_eq!(used.volume.write(at, &mut vec![byte; MIB as usize], Blocking::Allowed)?, Attempt::Done);
    used.volume.flush()
}

fn read(service: &Arc<Service>, id: VolumeId, at: u64) -> Vec<u8> {
    let record = service.records.find_volume(&id.to_string()).unwrap();
    let used = service.opens.acquire(&record, Need::Key(&caller(service))).unwrap();
    let mut out = vec![0xee; MIB as usize];
    assert_eq!(used.volume.read(at, &mut out, Blocking::Allowed).unwrap(), Attempt::Done);
    out
}

fn full(byte: u8) -> Vec<u8> {
    vec![byte; MIB as usize]
}

#[test]
fn a_volume_goes_through_its_life_in_a_store_that_is_not_a_file() {
    let (place, service) = Place::new();
    let made = create(&service, "v");
    assert_eq!((made.state.word(), made.stored), ("available", None));
    write(&service, made.id, MIB, 7).unwrap();
    let taken = snapshot(&service, made.id);
    write(&service, made.id, MIB, 8).unwrap();
    let restored = volume(
        &service,
        json!({"action": "volume-create", "name": "w", "snapshot": taken.id.to_string(), "size": 9 * MIB}),
    );
    assert!(read(&service, restored.id, MIB) == full(7) && read(&service, restored.id, 8 * MIB) == full(0));
    let grown = volume(&service, json!({"action": "volume-grow", "volume": "v", "size": 16 * MIB}));
    write(&service, made.id, 15 * MIB, 9).unwrap();
    assert_eq!((grown.size, place.memory.room(made.id).unwrap().size), (16 * MIB, file_size(16 * MIB)));

    let service = place.after_power_loss(service);
    assert!(read(&service, made.id, MIB) == full(8) && read(&service, made.id, 15 * MIB) == full(9));
    assert!(read(&service, restored.id, MIB) == full(7));
    let shown = show(&service, made.id).header.unwrap();
    assert_eq!(shown.path.to_str(), Some(&*format!("memory:{}", made.id)));
    let bad: Vec<_> = doctor(&service).into_iter().filter(|f| f.check == "volume" && f.grade != Grade::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    for id in [made.id, restored.id] {
        ask(&service, json!({"action": "volume-delete", "volume": id.to_string()})).unwrap();
        assert!(!place.memory.has_any(id));
    }
    assert_eq!(place.files(), 0, "something took the stores for files");
}

#[test]
fn a_create_without_room_leaves_neither_store_nor_name() {
    let (place, service) = Place::new();
    place.memory.make_full(true);
    let asked = || json!({"action": "volume-create", "name": "v", "size": MIB});
    assert_eq!(ask(&service, asked()).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(place.memory.list().unwrap(), []);
    place.memory.make_full(false);
    let made = volume(&service, asked());
    write(&service, made.id, 0, 1).unwrap();
}

#[test]
fn a_lost_store_affects_its_own_volume_only() {
    let (place, service) = Place::new();
    let (lost, kept) = (create(&service, "lost"), create(&service, "kept"));
    write(&service, kept.id, 0, 1).unwrap();
    place.memory.remove(lost.id).unwrap();
    let Reply::Volumes { volumes } = ask(&service, json!({"action": "volume-list"})).unwrap() else { panic!() };
    let states: Vec<_> = volumes.iter().map(|v| (v.id, v.state.word())).collect();
    assert_eq!(states, [(lost.id, "error"), (kept.id, "available")]);
    assert_eq!(write(&service, lost.id, 0, 1).unwrap_err().kind(), Kind::NotFound);
    assert!(read(&service, kept.id, 0) == full(1));
}

#[test]
fn a_copy_of_a_store_is_reported_and_keeps_the_volume_from_being_opened() {
    let (place, service) = Place::new();
    let made = create(&service, "v");
    place.memory.put_stranger("copy", place.memory.disk(made.id).killed());
    let refused = write(&service, made.id, 0, 1).unwrap_err();
    assert!(refused.kind() == Kind::Integrity && refused.line().contains("memory:copy"), "{}", refused.line());
    let told = doctor(&service);
    let told =
        told.iter().any(|f| f.grade == Grade::Error && f.message.contains(&format!("copy has the id of {}", made.id)));
    assert!(told);
}

#[test]
fn a_failed_sync_makes_a_volume_read_only_until_the_loss_is_accepted() {
    let (place, service) = Place::new();
    let made = create(&service, "v");
    write(&service, made.id, 0, 1).unwrap();
    place.memory.disk(made.id).fail_sync();
    assert_eq!(write(&service, made.id, 0, 2).unwrap_err().kind(), Kind::Io);
    let service = place.after_power_loss(service);
    let is_lost = |service: &Arc<Service>| show(service, made.id).header.unwrap().write_failed;
    assert!(is_lost(&service));
    assert_eq!(write(&service, made.id, 0, 3).unwrap_err().kind(), Kind::ReadOnly);
    ask(&service, json!({"action": "volume-accept-lost-writes", "volume": "v"})).unwrap();
    write(&service, made.id, 0, 4).unwrap();
    assert!(read(&service, made.id, 0) == full(4) && !is_lost(&service));
}
