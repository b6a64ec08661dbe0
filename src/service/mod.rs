//! The service: each verb finds its objects, authorizes, audits, then acts.
//!
//! A [`Service`] is one data directory, opened under its lock by a daemon or by a single command. [`Service::handle`] is the only
//! entry point for verbs; the NBD front end uses [`Service::attach`] for exports.

mod access;
mod apart;
pub mod api;
mod assemble;
mod attachment;
mod attachments;
pub mod aws;
mod bases;
mod beginning;
mod cadence;
mod check;
mod chores;
mod contexts;
mod copies;
mod copying;
pub mod datadir;
mod export;
mod failed_syncs;
mod filler;
pub mod foreign;
mod garbage;
mod home;
mod housekeeping;
mod image;
mod jobs;
mod kept;
mod key;
mod keygate;
mod last_uses;
mod lease;
mod lineage;
#[cfg(test)]
mod lineage_tests;
mod locks;
mod logs;
mod opening;
pub mod operations;
mod principals;
mod records;
mod recovery;
mod refusal;
mod remote;
mod repositories;
mod repository;
mod repository_move;
mod resealing;
mod retain;
mod retention;
mod rewrap;
mod rollback;
mod schedules;
mod settings;
mod settling;
#[cfg(test)]
mod slow_store_tests;
mod snapshot;
mod snapshot_keys;
mod stage;
mod stored;
#[cfg(test)]
mod stores_tests;
mod strangers;
mod suspend;
mod suspensions;
#[cfg(test)]
mod testing;
mod token;
mod turns;
mod upkeep;
mod view;
mod volume;
mod volume_keys;

pub use access::Remote;
pub use attachment::{Attached, ConnectRequest, Reading, ServedExport, named};
pub use cadence::{Cadence, DAYS, TimeOfDay};
pub use check::examine;
pub use contexts::{Compared, Status};
pub use datadir::Role;
pub(crate) use datadir::lies_inside;
pub use jobs::Report;
pub use lease::{GRACE, Holder};
pub use records::EC2;
pub use retain::Keep;
pub use retention::AUDIT_DAYS;
pub use settings::{BackgroundRate, OnKeyLoss, Settings};
pub use snapshot::answer_unopened;
pub use token::volume_part;
pub use view::SnapshotView;

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::{Authority, Caller, InstallationConfig, Kms, RootChoice, RootUnlock};
use crate::ledger::Ledger;
use crate::snapshot::objects::{Objects, StoreObjects};
use crate::snapshot::repository::{Author, Repository};
use crate::snapshot::{PublicKey, Signer};
use crate::store::factory::Stores;
use crate::store::files::FileStores;
use access::Access;
use api::{Finding, Reply, StatusInfo};
use attachments::Attachments;
use check::Doctor;
use datadir::{DataDir, DirLock};
use failed_syncs::FailedSyncs;
use garbage::Collector;
use housekeeping::{Chores, Housekeeper};
use jobs::Jobs;
use kept::KeptLeases;
use keygate::KeyGate;
use lease::Leases;
use lineage::Lineages;
use logs::Logs;
use opening::OpenVolumes;
use operations::{Call, Request};
use parking_lot::Mutex;
use records::Records;
use repositories::Repositories;
use settling::Unsettled;
use snapshot_keys::SnapshotKeys;
use stage::Leftovers;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use stored::StoredVolumes;
use suspensions::Suspensions;
use turns::Turns;
use view::Views;
use volume_keys::{VolumeKeys, context_of};

/// How to open a data directory.
#[derive(Debug, Clone, Copy)]
pub struct OpenAs {
    /// Daemon or single command.
    pub role: Role,
    /// Promises that no other host opens these volumes, which allows shared file systems.
    pub single_host: bool,
    /// How long a TLS client that disconnected uncleanly keeps its volume, and how long after a start a client keeps the one that
    /// it had before (see [`GRACE`]).
    pub lease_grace: std::time::Duration,
}

/// What a service is assembled from.
struct Base {
    env: Env,
    data: DataDir,
    kms: Arc<Kms>,
    author: Author,
    /// The data directory's own.
    local: Repository,
    stores: Arc<dyn Stores>,
    lock: Arc<DirLock>,
    opening: OpenAs,
}

/// One open data directory: its components, and what else its verbs need.
pub struct Service {
    env: Env,
    data: DataDir,
    kms: Arc<Kms>,
    repositories: Arc<Repositories>,
    /// Where volumes are stored.
    stores: Arc<dyn Stores>,
    role: Role,
    // The components, each after those that it depends on (docs/decisions/0031).
    records: Arc<Records>,
    leases: Arc<Leases>,
    keygate: Arc<KeyGate>,
    turns: Arc<Turns>,
    keys: Arc<VolumeKeys>,
    logs: Arc<Logs>,
    lineages: Arc<Lineages>,
    collector: Arc<Collector>,
    stored: Arc<StoredVolumes>,
    failed_syncs: Arc<FailedSyncs>,
    housekeeper: Arc<Housekeeper>,
    opens: Arc<OpenVolumes>,
    suspensions: Suspensions,
    kept: Arc<KeptLeases>,
    attachments: Attachments,
    snapshot_keys: Arc<SnapshotKeys>,
    views: Views,
    unsettled: Arc<Unsettled>,
    jobs: Arc<Jobs>,
    leftovers: Leftovers,
    access: Arc<Access>,
    doctor: Doctor,
    last_uses: last_uses::LastUses,
    retention: retention::Retention,
    slow_chores: chores::SlowChores,
    /// Where NBD is served.
    endpoints: Mutex<Vec<String>>,
    /// The thread that takes up the work of an earlier server.
    taking_up: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Last, so that no other process opens the directory before everything above is dropped.
    lock: Arc<DirLock>,
}

impl Service {
    /// Creates an installation.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one; [`Kind::Busy`] if another process has the directory locked.
    pub fn init(data: &DataDir, env: &Env, root: &RootChoice, config: &InstallationConfig) -> Result<StatusInfo> {
        data.refuse_foreign()?;
        data.create()?;
        let lock = data
            .try_lock(env, "init")?
            .ok_or_else(|| Error::new(Kind::Busy, format!("{} is in use", data.path().display())))?;
        // What an `init` that was killed left behind belongs to this one; anything else is foreign.
        let again = data.path().join(crate::kms::UNFINISHED).symlink_metadata().is_ok();
        let description = data.repository().join("coffer-repository.json");
        if !again && description.symlink_metadata().is_ok() {
            let what = format!("init {}: it already contains a snapshot repository", data.path().display());
            return Err(Error::new(Kind::Exists, what).hint("choose another directory, or move the repository away"));
        }
        let kms = Kms::init_then(data.path(), env.clone(), root, config, || {
            match Repository::init(&data.repository(), env) {
                Err(e) if e.kind() == Kind::Exists => Ok(()),
                made => made.map(drop),
            }
        })?;
        let status = status(&kms, data, Vec::new(), None);
        drop(lock);
        Ok(status)
    }

    /// Opens an installation under its lock, and settles what an earlier process left unfinished.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if `coffer init` was never run there; the KMS's errors for its root key.
    pub fn open(data: DataDir, env: Env, lock: DirLock, unlock: &RootUnlock, opening: OpenAs) -> Result<Arc<Self>> {
        let stores = Arc::new(FileStores::of(&data.volumes(), opening.single_host));
        Self::open_over(stores, data, env, lock, unlock, opening)
    }

    /// Opens an installation whose volumes are in other stores than the directory's own files.
    ///
    /// # Errors
    /// The errors of [`Service::open`].
    pub(crate) fn open_over(
        stores: Arc<dyn Stores>,
        data: DataDir,
        env: Env,
        lock: DirLock,
        unlock: &RootUnlock,
        opening: OpenAs,
    ) -> Result<Arc<Self>> {
        let local = |data: &DataDir| Ok(Arc::new(StoreObjects::local_later(&data.repository())?) as Arc<dyn Objects>);
        Self::open_on(stores, local, data, env, lock, unlock, opening)
    }

    /// Opens an installation whose volumes and snapshots are in other stores than the directory's own files.
    ///
    /// # Errors
    /// The errors of [`Service::open`].
    pub(crate) fn open_on(
        stores: Arc<dyn Stores>,
        objects: impl FnOnce(&DataDir) -> Result<Arc<dyn Objects>>,
        data: DataDir,
        env: Env,
        lock: DirLock,
        unlock: &RootUnlock,
        opening: OpenAs,
    ) -> Result<Arc<Self>> {
        let kms = Arc::new(Kms::open(data.path(), env.clone(), unlock)?);
        let author = Author { installation: kms.installation().id, signer: Arc::new(KmsSigner(kms.clone())) };
        let local = Repository::open_later(objects(&data)?, env.clone(), Some(author.clone()));
        let base = Base { env, data, kms, author, local, stores, lock: Arc::new(lock), opening };
        let service = Arc::new(Self::assemble(base));
        service.unsettled.look();
        match opening.role {
            Role::Command => {
                service.settle();
                service.expire_recycled();
            }
            Role::Daemon => {
                service.kept.keep_all();
                service.lineages.look_for_garbage();
                service.housekeeper.start(Arc::downgrade(&service) as Weak<dyn Chores>);
                service.take_up();
            }
        }
        Ok(service)
    }

    /// Finishes or undoes what an earlier process left half done.
    fn settle(&self) {
        self.leftovers.settle();
        self.repositories.delete_left_caches();
        self.unsettled.settle_near();
    }

    /// Takes up the work of an earlier server, in a thread of its own: a repository that is slow must not delay the start.
    fn take_up(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        let run = move || {
            // Each step for itself: the service must be able to end in between.
            let steps: [fn(&Arc<Self>); 4] =
                [|s| s.settle(), |s| s.resume_snapshots(), |s| s.opens.start_hydration(), |s| s.unsettled.settle()];
            for step in steps {
                if let Some(service) = this.upgrade() {
                    step(&service);
                }
            }
        };
        match std::thread::Builder::new().name("take-up".to_owned()).spawn(run) {
            Ok(thread) => *self.taking_up.lock() = Some(thread),
            Err(err) => tracing::error!("start a thread to continue snapshots and fills: {err}; retried in a minute"),
        }
    }

    /// Waits until what an earlier server left is taken up.
    #[cfg(test)]
    fn await_taken_up(&self) {
        if let Some(thread) = self.taking_up.lock().take() {
            thread.join().unwrap();
        }
    }

    /// Returns whether a server waits for the data directory that this process has open.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.lock.is_asked_for()
    }

    /// Returns the data directory.
    #[must_use]
    pub const fn data(&self) -> &DataDir {
        &self.data
    }

    /// Sets the endpoints that serve NBD, which `status` and attachments report.
    pub fn set_endpoints(&self, endpoints: Vec<String>) {
        *self.endpoints.lock() = endpoints;
    }

    /// Sets for how many days the audit is kept; a daemon removes what is older once a day.
    ///
    /// # Errors
    /// [`Kind::Usage`] for less than [`AUDIT_DAYS`].
    pub fn keep_audit_for(&self, days: u32) -> Result<()> {
        self.retention.keep_for(days)
    }

    /// Returns the caller for a local user id (docs/architecture.md, "Access").
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for a user who does not administer this installation.
    pub fn caller_of(&self, uid: u32, client: &str) -> Result<Caller> {
        let account = &self.kms.installation().account;
        let owner = self.owner()?;
        let principal = match uid {
            0 => format!("arn:aws:iam::{account}:root"),
            u if u == owner => format!("arn:aws:iam::{account}:user/uid-{u}"),
            u => {
                return Err(Error::new(Kind::AccessDenied, format!("uid {u} is not a user of this installation"))
                    .hint("run as the owner of the data directory, or as root"));
            }
        };
        Ok(Caller::new(principal, client, Authority::Administrator))
    }

    /// Returns whether a local user administers the installation: its owner, or root.
    #[must_use]
    pub fn is_administered_by(&self, uid: u32) -> bool {
        uid == 0 || self.owner().is_ok_and(|owner| owner == uid)
    }

    /// Returns the records and the audit.
    fn ledger(&self) -> &Ledger {
        self.kms.ledger()
    }

    /// Settles what an earlier verb of this process left half done, if there is anything. In a server that is left to
    /// housekeeping: no verb waits for what it does not need.
    fn settle_leftovers(&self) {
        if self.role == Role::Command {
            self.leftovers.settle_if_any();
        }
    }

    /// Returns the user id of the owner of the data directory.
    fn owner(&self) -> Result<u32> {
        let meta = std::fs::metadata(self.data.path()).on(|| format!("stat {}", self.data.path().display()))?;
        Ok(meta.uid())
    }

    /// Performs an operation.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] if the caller may not ask for it; the operation's own errors. Refusals are audited.
    pub fn handle(self: &Arc<Self>, caller: &Caller, request: Request, report: Report<'_>) -> Result<Reply> {
        self.handle_with(caller, request, None, report)
    }

    /// Performs an operation that may need a file, which its caller opened: this process reads and writes no file at a path
    /// that its caller could not.
    ///
    /// # Errors
    /// The errors of [`Service::handle`].
    pub fn handle_with(
        self: &Arc<Self>,
        caller: &Caller,
        request: Request,
        file: Option<File>,
        report: Report<'_>,
    ) -> Result<Reply> {
        self.settle_leftovers();
        request.route(Call::new(self, caller, file, report))
    }

    fn doctor(&self) -> Result<Vec<Finding>> {
        self.doctor.look()
    }

    fn status(&self) -> StatusInfo {
        let daemon = (self.role == Role::Daemon).then(std::process::id);
        status(&self.kms, &self.data, self.endpoints.lock().clone(), daemon)
    }

    /// Shuts down in order: suspends snapshots in progress, closes volumes, wipes keys.
    pub fn shut_down(&self) {
        self.slow_chores.stop();
        self.collector.stop();
        self.jobs.suspend_all();
        self.opens.close_all();
        self.failed_syncs.wait();
    }
}

fn status(kms: &Kms, data: &DataDir, nbd: Vec<String>, daemon: Option<u32>) -> StatusInfo {
    let installation = kms.installation();
    StatusInfo {
        installation: installation.id.to_string(),
        account: installation.account.clone(),
        region: installation.region.clone(),
        signing_key: hex::encode(kms.public_key()),
        data: data.path().to_owned(),
        nbd,
        daemon,
    }
}

/// The installation's signing key, for the repository. The private half stays in the KMS.
struct KmsSigner(Arc<Kms>);

impl Signer for KmsSigner {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        self.0.sign(message)
    }
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }
}
