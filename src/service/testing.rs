//! A service over a scratch directory, for the tests of this layer.

use super::api::Reply;
use super::datadir::DataDir;
use super::operations::Request;
use super::records::VolumeRecord;
use super::{GRACE, OpenAs, Role, Service};
use crate::env::Env;
use crate::error::Result;
use crate::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

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
        let dir = tempfile::tempdir().unwrap();
        let (data, env) = (DataDir::at(&dir.path().join("data")).unwrap(), Env::system());
        let key = dir.path().join("root.key");
        Service::init(&data, &env, &RootChoice::File(key), &InstallationConfig::default()).unwrap();
        let on = Self { service: open(&dir, Role::Daemon), dir };
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

    pub(super) fn record(&self) -> VolumeRecord {
        self.service.records.find_volume("v").unwrap()
    }

    /// Returns a path beside the data directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn open(dir: &tempfile::TempDir, role: Role) -> Arc<Service> {
    let (data, env) = (DataDir::at(&dir.path().join("data")).unwrap(), Env::system());
    let lock = data.try_lock(&env, "test").unwrap().unwrap();
    let opening = OpenAs { role, single_host: false, lease_grace: GRACE };
    Service::open(data, env, lock, &RootUnlock::File(dir.path().join("root.key")), opening).unwrap()
}
