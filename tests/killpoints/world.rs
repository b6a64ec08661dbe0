//! A small installation with one of everything, and copies of it to kill.

use coffer::env::{Clock, Env, Timestamp};
use coffer::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use coffer::service::api::Reply;
use coffer::service::datadir::{DataDir, Wanting};
use coffer::service::operations::Request;
use coffer::service::{ConnectRequest, GRACE, Holder, OpenAs, Role, Service};
use coffer::volume::Blocking;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Size of its volumes in bytes: nine chunks, the last one short.
pub const SIZE: u64 = 8 * 512 * 1024 + 65_536;

/// The installation that is copied.
pub struct World(tempfile::TempDir);

/// One copy: `data`, `root.key` and `out` in a directory.
pub struct Copy {
    root: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

fn scratch() -> tempfile::TempDir {
    // In memory if possible: nothing here is about power loss.
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap()
}

/// Parses a verb's JSON.
pub fn request(json: Value) -> Request {
    serde_json::from_value(json).unwrap()
}

impl Copy {
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _owned: None }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.root.join("out").join(name)
    }

    pub fn init(&self) -> coffer::error::Result<()> {
        let (data, env) = (DataDir::at(&self.data())?, Env::system());
        let root = RootChoice::File(self.root.join("root.key"));
        Service::init(&data, &env, &root, &InstallationConfig::default()).map(drop)
    }

    pub fn open(&self, role: Role) -> coffer::error::Result<Open> {
        self.open_in(role, Env::system())
    }

    /// Opens it on a machine that has been up for so many days more.
    pub fn open_later(&self, role: Role, days: i64) -> coffer::error::Result<Open> {
        let env = Env::system();
        self.open_in(role, Env { clock: Arc::new(Later(env.clock.clone(), days * DAY)), ..env })
    }

    fn open_in(&self, role: Role, env: Env) -> coffer::error::Result<Open> {
        let data = DataDir::at(&self.data())?;
        // A snapshot's thread may hold it for a moment longer.
        let lock = data.lock(&env, "test", Wanting::Command, Duration::from_secs(10), || false)?.expect("a lock");
        let opening = OpenAs { role, single_host: false, lease_grace: GRACE };
        let unlock = RootUnlock::File(self.root.join("root.key"));
        Ok(Open(Service::open(data, env, lock, &unlock, opening)?))
    }
}

/// Milliseconds in a day.
pub const DAY: i64 = 24 * 60 * 60 * 1000;

/// A clock that is ahead of another.
struct Later(Arc<dyn Clock>, i64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.now().0 + self.1)
    }
    fn since_boot(&self) -> i64 {
        self.0.since_boot() + self.1
    }
}

/// An open installation; closed cleanly when it is dropped.
pub struct Open(pub Arc<Service>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

impl Open {
    /// Names the user `bob` in a key policy, a trust policy and a grant.
    fn name_bob(&self) {
        let users = self.json(json!({"action": "principal-list"}));
        let users = users["principals"].as_array().unwrap();
        let bob = users.iter().find(|p| p["name"] == "bob").unwrap()["arn"].as_str().unwrap().to_owned();
        let policy = self.json(json!({"action": "key-policy-show", "key": "alias/second"}));
        let mut policy: Value = serde_json::from_str(policy["document"].as_str().unwrap()).unwrap();
        let mut statement = policy["Statement"][0].clone();
        statement["Principal"] = json!({"AWS": bob});
        policy["Statement"].as_array_mut().unwrap().push(statement);
        self.json(json!({"action": "key-policy-set", "key": "alias/second", "policy": policy.to_string(), "bypass_lockout_check": false}));
        let trust = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": bob}, "Action": "sts:AssumeRole"}]});
        self.json(json!({"action": "role-create", "name": "of-bob", "trust": trust.to_string()}));
        self.json(json!({"action": "grant-create", "key": "alias/second", "grantee": bob, "operations": ["Decrypt"]}));
    }

    /// Whether each of what names the user `bob` names him by his ARN: all, or none.
    pub fn names_of_bob(&self) -> [bool; 4] {
        let text = |verb: Value| self.json(verb).to_string();
        let users = self.json(json!({"action": "principal-list"}));
        let users = users["principals"].as_array().unwrap();
        // Of all keys, as some acts move or remove the alias of the one.
        let keys = self.json(json!({"action": "key-list"}))["keys"].as_array().unwrap().clone();
        let of_any = |action: &str| {
            keys.iter().any(|key| text(json!({"action": action, "key": key["id"]})).contains("user/bob"))
        };
        [
            of_any("key-policy-show"),
            of_any("grant-list"),
            users.iter().any(|p| p["name"] == "of-bob" && p["trust"].as_str().unwrap().contains("user/bob")),
            users.iter().any(|p| p["name"] == "bob"),
        ]
    }

    pub fn caller(&self) -> Caller {
        self.0.caller_of(rustix::process::geteuid().as_raw(), "killpoints").unwrap()
    }

    pub fn ask(&self, request: Request) -> coffer::error::Result<Reply> {
        self.0.handle(&self.caller(), request, &mut |_| true)
    }

    /// Asks with a file, which the caller opened.
    pub fn ask_with(&self, request: Request, file: &File) -> coffer::error::Result<Reply> {
        self.0.handle_with(&self.caller(), request, Some(file.try_clone().unwrap()), &mut |_| true)
    }

    /// Runs a verb that must succeed; returns its answer as JSON.
    #[track_caller]
    pub fn json(&self, verb: Value) -> Value {
        let reply = self.ask(request(verb.clone())).unwrap_or_else(|e| panic!("{verb}: {}", e.line()));
        serde_json::to_value(reply).unwrap()
    }

    /// Uses a volume as a client does.
    pub fn with_volume<T>(
        &self,
        name: &str,
        act: impl FnOnce(&coffer::volume::Volume) -> T,
    ) -> coffer::error::Result<T> {
        let peer = Holder::Process { pid: std::process::id() as i32, start: 1 };
        let attached = self.0.attach(name, ConnectRequest { peer, connection: 1 }, &self.caller())?;
        attached.farewell();
        Ok(act(attached.volume()))
    }

    fn fill(&self, name: &str, chunks: std::ops::Range<u64>, byte: u8) {
        let write = |v: &coffer::volume::Volume| {
            for chunk in chunks {
                let _done = v.write(chunk * 512 * 1024, &mut [byte; 8192], Blocking::Allowed).unwrap();
            }
            v.flush().unwrap();
        };
        self.with_volume(name, write).unwrap();
    }
}

/// An identity policy.
pub const DOCUMENT: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}"#;
/// The trust policy of a role.
pub const TRUST: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"AWS": "444455556666"}, "Action": "sts:AssumeRole"}]}"#;
/// The first bytes of the chunks of `other`.
pub const OTHER: u8 = 0x5a;

impl World {
    pub fn new() -> Self {
        let dir = scratch();
        let copy = Copy::at(dir.path());
        std::fs::create_dir(dir.path().join("out")).unwrap();
        copy.init().unwrap();
        let open = copy.open(Role::Command).unwrap();
        for alias in ["alias/k", "alias/off", "alias/dying", "alias/second"] {
            open.json(json!({"action": "key-create", "alias": alias, "description": ""}));
        }
        let volume =
            |name: &str| open.json(json!({"action": "volume-create", "name": name, "size": SIZE, "key": "alias/k"}));
        ["other", "v", "held", "idle"].iter().for_each(|name| drop(volume(name)));
        open.fill("other", 0..9, OTHER);
        open.fill("v", 0..4, 1);
        let snapshot = |volume: &str| {
            let made =
                open.json(json!({"action": "snapshot-create", "volume": volume, "description": "", "wait": true}));
            made["id"].as_str().unwrap().to_owned()
        };
        snapshot("other");
        let first = snapshot("v");
        open.fill("v", 2..6, 2);
        snapshot("v");
        open.fill("v", 5..9, 3);
        open.json(json!({"action": "volume-create", "name": "filling", "snapshot": first}));
        open.json(json!({"action": "attach-begin", "volume": "held", "device": "/dev/nbd7"}));
        open.json(json!({"action": "grant-create", "key": "alias/k", "grantee": "arn:aws:iam::111122223333:user/a",
            "operations": ["Decrypt"], "name": "g"}));
        open.json(json!({"action": "access-allow", "name": "client", "volumes": ["v"], "all": false}));
        open.json(json!({"action": "account-create", "name": "team", "account": "444455556666"}));
        ["alice", "bob"].iter().for_each(|name| drop(open.json(json!({"action": "user-create", "name": name}))));
        open.json(json!({"action": "role-create", "name": "deploy", "trust": TRUST}));
        open.name_bob();
        open.json(json!({"action": "access-key-create", "principal": "user/alice"}));
        open.json(
            json!({"action": "principal-policy-put", "principal": "user/alice", "policy": "p", "document": DOCUMENT}),
        );
        open.json(json!({"action": "key-disable", "key": "alias/off"}));
        open.json(json!({"action": "key-schedule-deletion", "key": "alias/dying", "days": 30}));
        drop(open);
        Self(dir)
    }

    pub fn copy(&self) -> Copy {
        let to = scratch();
        copy_into(self.0.path(), to.path());
        Copy { root: to.path().to_owned(), _owned: Some(to) }
    }
}

/// Copies a directory, keeping holes.
fn copy_into(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            std::fs::create_dir(&target).unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).unwrap();
            copy_into(&entry.path(), &target);
        } else if kind.is_file() {
            copy_file(&entry.path(), &target);
        }
    }
}

fn copy_file(from: &Path, to: &Path) {
    use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
    let source = File::open(from).unwrap();
    let about = source.metadata().unwrap();
    let mode = about.permissions().mode();
    let target = File::options().write(true).create_new(true).mode(mode).open(to).unwrap();
    target.set_len(about.len()).unwrap();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(start)).unwrap();
        let mut data = vec![0; (at - start) as usize];
        source.read_exact_at(&mut data, start).unwrap();
        target.write_all_at(&data, start).unwrap();
    }
}
