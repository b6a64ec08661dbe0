//! A service over a scratch directory, for the tests of this layer.

use super::api::{Reply, SnapshotInfo};
use super::datadir::DataDir;
use super::operations::Request;
use super::records::VolumeRecord;
use super::{GRACE, OpenAs, Role, Service};
use crate::env::{Clock, Env, Timestamp};
use crate::error::Result;
use crate::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The hands of a test's clocks.
pub(super) struct Hands {
    wall: AtomicI64,
    boot: AtomicI64,
}

impl Hands {
    /// Lets hours pass.
    pub(super) fn pass(&self, hours: i64) {
        self.set(hours);
        self.boot.fetch_add(hours * HOUR, Ordering::Relaxed);
    }

    /// Lets minutes pass.
    pub(super) fn pass_minutes(&self, minutes: i64) {
        self.wall.fetch_add(minutes * 60_000, Ordering::Relaxed);
        self.boot.fetch_add(minutes * 60_000, Ordering::Relaxed);
    }

    /// Sets the wall clock forward by hours, or back if negative.
    pub(super) fn set(&self, hours: i64) {
        self.wall.fetch_add(hours * HOUR, Ordering::Relaxed);
    }
}

const HOUR: i64 = 60 * 60 * 1000;

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed))
    }
    fn since_boot(&self) -> i64 {
        self.boot.load(Ordering::Relaxed)
    }
}

/// An open installation with a key `alias/k` and a volume `v` under it.
pub(super) struct Fixture {
    dir: tempfile::TempDir,
    pub(super) service: Arc<Service>,
}

/// Parses an operation from its JSON.
pub(super) fn request(json: serde_json::Value) -> Request {
    serde_json::from_value(json).unwrap()
}

impl Fixture {
    pub(super) fn with_volume(size: u64) -> Self {
        Self::with_volume_in(&Env::system(), size)
    }

    /// The same by clocks that the test moves.
    pub(super) fn clocked(size: u64) -> (Self, Arc<Hands>) {
        let hands = Arc::new(Hands { wall: AtomicI64::new(1_800_000_000_000), boot: AtomicI64::new(1000) });
        let env = Env { clock: hands.clone(), ..Env::system() };
        (Self::with_volume_in(&env, size), hands)
    }

    fn with_volume_in(env: &Env, size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(&dir.path().join("data")).unwrap();
        let key = dir.path().join("root.key");
        Service::init(&data, env, &RootChoice::File(key), &InstallationConfig::default()).unwrap();
        let on = Self { service: open(&dir, env, Role::Daemon), dir };
        on.ask(request(json!({"action": "key-create", "alias": "alias/k", "description": ""}))).unwrap();
        on.ask(request(json!({"action": "volume-create", "name": "v", "size": size, "key": "alias/k"}))).unwrap();
        on
    }

    pub(super) fn caller(&self) -> Caller {
        self.service.caller_of(rustix::process::geteuid().as_raw(), "test").unwrap()
    }

    pub(super) fn ask(&self, request: Request) -> Result<Reply> {
        self.service.handle(&self.caller(), request, &mut |_| true)
    }

    /// Performs an operation on snapshots, given as JSON, that answers with one.
    #[track_caller]
    pub(super) fn snapshot(&self, json: serde_json::Value) -> SnapshotInfo {
        match self.ask(request(json)).unwrap() {
            Reply::Snapshot(info) => info,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a snapshot of `v`.
    pub(super) fn take(&self) -> SnapshotInfo {
        self.snapshot(json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true}))
    }

    pub(super) fn record(&self) -> VolumeRecord {
        self.service.records.find_volume("v").unwrap()
    }

    /// Returns a path beside the data directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn open(dir: &tempfile::TempDir, env: &Env, role: Role) -> Arc<Service> {
    let data = DataDir::at(&dir.path().join("data")).unwrap();
    let lock = data.try_lock(env, "test").unwrap().unwrap();
    let opening = OpenAs { role, single_host: false, lease_grace: GRACE };
    Service::open(data, env.clone(), lock, &RootUnlock::File(dir.path().join("root.key")), opening).unwrap()
}
