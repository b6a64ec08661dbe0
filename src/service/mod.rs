//! Every verb once: finds what is named, authorises, audits, then acts.
//!
//! A [`Service`] is one data directory, opened under its lock, by a daemon or by a single command. [`Service::handle`] is
//! the one entry for verbs; the NBD edge uses [`Service::attach`] for exports.

mod access;
pub mod api;
mod attachment;
mod bases;
mod check;
mod chores;
mod contexts;
pub mod datadir;
mod export;
mod failed_syncs;
mod filler;
mod housekeeping;
mod jobs;
mod key;
mod keygate;
mod lease;
mod lineage;
#[cfg(test)]
mod lineage_tests;
mod logs;
mod opening;
pub mod operations;
mod records;
mod recovery;
mod refusal;
mod settings;
mod settling;
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
mod view;
mod volume;
mod volume_keys;

pub use access::Remote;
pub use attachment::{Attached, ConnectRequest, Reading, ServedExport, named};
pub use check::examine;
pub use contexts::{Compared, Status};
pub use datadir::Role;
pub use jobs::Report;
pub use lease::{GRACE, Holder};
pub use records::EC2;
pub use settings::{OnKeyLoss, Settings};
pub use snapshot::verify_unopened;
pub use view::SnapshotView;

use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::{Authority, Caller, InstallationConfig, Kms, RootChoice, RootUnlock};
use crate::ledger::Ledger;
use crate::snapshot::repository::{Author, Repository};
use crate::snapshot::{PublicKey, Signer};
use crate::store::factory::Stores;
use crate::store::files::FileStores;
use api::{Reply, StatusInfo};
use bases::Bases;
use datadir::{DataDir, DirLock};
use failed_syncs::FailedSyncs;
use housekeeping::{Chores, Housekeeper};
use jobs::Jobs;
use keygate::KeyGate;
use lineage::Lineages;
use logs::Logs;
use opening::OpenVolumes;
use operations::{Call, Request};
use parking_lot::Mutex;
use records::{Records, SnapshotRecord, VolumeRecord};
use settling::Unsettled;
use snapshot_keys::SnapshotKeys;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use stored::StoredVolumes;
use strangers::Strangers;
use suspensions::Suspensions;
use turns::Turns;
use view::Views;
use volume_keys::{VolumeKeys, context_of};

/// How a data directory is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenAs {
    /// By whom.
    pub role: Role,
    /// The caller knows that no other host opens these volumes: shared file systems are allowed.
    pub single_host: bool,
    /// How long a client over TLS that went without a farewell keeps its volume, and how long after a start one keeps what
    /// it had before (see [`GRACE`]).
    pub lease_grace: std::time::Duration,
}

/// One open data directory.
pub struct Service {
    env: Env,
    data: DataDir,
    kms: Arc<Kms>,
    records: Arc<Records>,
    keys: Arc<VolumeKeys>,
    repository: Arc<Repository>,
    logs: Arc<Logs>,
    lineages: Arc<Lineages>,
    stored: Arc<StoredVolumes>,
    strangers: Arc<Strangers>,
    failed_syncs: Arc<FailedSyncs>,
    role: Role,
    /// What volumes are kept in.
    stores: Arc<dyn Stores>,
    turns: Arc<Turns>,
    keygate: Arc<KeyGate>,
    opens: Arc<OpenVolumes>,
    suspensions: Suspensions,
    leases: lease::Leases,
    allowed: access::Allowed,
    unsettled: Arc<Unsettled>,
    jobs: Arc<Jobs>,
    snapshot_keys: Arc<SnapshotKeys>,
    views: Views,
    endpoints: Mutex<Vec<String>>,
    housekeeper: Arc<Housekeeper>,
    /// A verb of this process left something half done that it could not undo.
    leftovers: AtomicBool,
    lock: Arc<DirLock>,
}

impl Service {
    /// Makes a new installation.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one.
    pub fn init(data: &DataDir, env: &Env, root: &RootChoice, config: &InstallationConfig) -> Result<StatusInfo> {
        data.refuse_foreign()?;
        data.create()?;
        let lock = data
            .try_lock(env, "init")?
            .ok_or_else(|| Error::new(Kind::Busy, format!("{} is in use", data.path().display())))?;
        // What is there of an init that was killed belongs to this one; anything else is somebody's.
        let again = data.path().join(crate::kms::UNFINISHED).symlink_metadata().is_ok();
        let description = data.repository().join("coffer-repository.json");
        if !again && description.symlink_metadata().is_ok() {
            let what = format!("init {}: there is a snapshot repository in it already", data.path().display());
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
    /// [`Kind::NotFound`] if `coffer init` was never run there; what the KMS says of its root key.
    pub fn open(data: DataDir, env: Env, lock: DirLock, unlock: &RootUnlock, opening: OpenAs) -> Result<Arc<Self>> {
        let stores = Arc::new(FileStores::of(&data.volumes(), opening.single_host));
        Self::open_over(stores, data, env, lock, unlock, opening)
    }

    /// The same with volumes kept in other stores than the directory's own files.
    ///
    /// # Errors
    /// As [`Service::open`].
    pub(crate) fn open_over(
        stores: Arc<dyn Stores>,
        data: DataDir,
        env: Env,
        lock: DirLock,
        unlock: &RootUnlock,
        opening: OpenAs,
    ) -> Result<Arc<Self>> {
        let (kms, lock) = (Arc::new(Kms::open(data.path(), env.clone(), unlock)?), Arc::new(lock));
        let records = Arc::new(Records::new(kms.clone(), lock.clone()));
        let author = Author { installation: kms.installation().id, signer: Arc::new(KmsSigner(kms.clone())) };
        let repository = Repository::open_later(&data.repository(), env.clone(), Some(author))?;
        let repository = Arc::new(repository);
        let logs = Arc::new(Logs::new(records.clone(), repository.clone()));
        let bases = Arc::new(Bases::new(records.clone(), repository.clone()));
        let lineages = Lineages::new(records.clone(), repository.clone(), logs.clone(), bases.clone(), stores.clone());
        let lineages = Arc::new(lineages);
        let stored = StoredVolumes::new(env.clone(), records.clone(), lineages.clone(), stores.clone());
        let stored = Arc::new(stored);
        let strangers = Arc::new(Strangers::new(env.clone(), records.clone(), stores.clone()));
        let failed_syncs = Arc::new(FailedSyncs::new(records.clone()));
        let (turns, keygate) = (Arc::<Turns>::default(), Arc::<KeyGate>::default());
        let (keys, housekeeper) =
            (Arc::new(VolumeKeys::new(kms.clone(), records.clone())), Arc::<Housekeeper>::default());
        let opens = OpenVolumes::new(opening::On {
            role: opening.role,
            records: records.clone(),
            keys: keys.clone(),
            keygate: keygate.clone(),
            turns: turns.clone(),
            lineages: lineages.clone(),
            stored: stored.clone(),
            strangers: strangers.clone(),
            failed_syncs: failed_syncs.clone(),
            housekeeper: housekeeper.clone(),
        });
        let opens = Arc::new(opens);
        let suspensions =
            Suspensions::new(kms.clone(), records.clone(), keys.clone(), keygate.clone(), turns.clone(), opens.clone());
        let unsettled = Arc::new(Unsettled::new(
            records.clone(),
            repository.clone(),
            logs.clone(),
            bases.clone(),
            lineages.clone(),
            opens.clone(),
        ));
        let jobs = Jobs::new(jobs::On {
            env: env.clone(),
            role: opening.role,
            records: records.clone(),
            repository: repository.clone(),
            logs: logs.clone(),
            bases,
            opens: opens.clone(),
            turns: turns.clone(),
            unsettled: unsettled.clone(),
        });
        let snapshot_keys = Arc::new(SnapshotKeys::new(records.clone(), repository.clone(), opens.clone()));
        let views = Views::new(
            records.clone(),
            repository.clone(),
            logs.clone(),
            keys.clone(),
            snapshot_keys.clone(),
            keygate.clone(),
        );
        let service = Arc::new(Self {
            env,
            data,
            keys,
            records,
            kms,
            repository,
            logs,
            lineages,
            stored,
            strangers,
            failed_syncs,
            role: opening.role,
            stores,
            turns,
            keygate,
            opens,
            suspensions,
            leases: lease::Leases::new(opening.lease_grace),
            allowed: access::Allowed::default(),
            unsettled,
            jobs: Arc::new(jobs),
            snapshot_keys,
            views,
            endpoints: Mutex::default(),
            housekeeper,
            leftovers: AtomicBool::new(false),
            lock,
        });
        service.settle_volumes();
        service.unsettled.look();
        if opening.role == Role::Daemon {
            service.keep_leases();
            service.opens.start_hydration();
            service.housekeeper.start(Arc::downgrade(&service) as Weak<dyn Chores>);
        }
        Ok(service)
    }

    /// Whether a server waits for the data directory that this process has.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.lock.is_asked_for()
    }

    /// The data directory.
    #[must_use]
    pub const fn data(&self) -> &DataDir {
        &self.data
    }

    /// Says where NBD is served, for `status` and attachments.
    pub fn set_endpoints(&self, endpoints: Vec<String>) {
        *self.endpoints.lock() = endpoints;
    }

    /// Who a local caller with this user id is (docs/architecture.md, "Access").
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] for a user that this installation does not know.
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
        let authority = Authority::Administrator;
        Ok(Caller { principal, via_service: None, client: client.to_owned(), authority })
    }

    /// Whether a local user with this id administers the installation: its owner, or root.
    #[must_use]
    pub fn is_administered_by(&self, uid: u32) -> bool {
        uid == 0 || self.owner().is_ok_and(|owner| owner == uid)
    }

    /// The records and the audit.
    fn ledger(&self) -> &Ledger {
        self.kms.ledger()
    }

    fn volume_records(&self) -> Result<Vec<VolumeRecord>> {
        self.records.volumes()
    }

    fn snapshot_records(&self) -> Result<Vec<SnapshotRecord>> {
        self.records.snapshots()
    }

    fn find_volume(&self, what: &str) -> Result<VolumeRecord> {
        self.records.find_volume(what)
    }

    /// The user that the data directory belongs to.
    fn owner(&self) -> Result<u32> {
        let meta = std::fs::metadata(self.data.path()).on(|| format!("look at {}", self.data.path().display()))?;
        Ok(meta.uid())
    }

    /// Performs an operation.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] if the caller may not ask for it; what the operation says. A refusal is in the audit.
    pub fn handle(self: &Arc<Self>, caller: &Caller, request: Request, report: Report<'_>) -> Result<Reply> {
        self.settle_leftovers();
        request.route(Call { service: self, caller, report })
    }

    fn status(&self) -> StatusInfo {
        let daemon = (self.role == Role::Daemon).then(std::process::id);
        status(&self.kms, &self.data, self.endpoints.lock().clone(), daemon)
    }

    /// Ends in order: snapshots under way are given up, volumes are closed, keys wiped.
    pub fn shut_down(self: &Arc<Self>) {
        self.jobs.stop_all();
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

/// Whether a path lies inside a folder, for refusing key files beside what they open.
pub(crate) fn lies_inside(path: &Path, folder: &Path) -> bool {
    let real = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_owned());
    real(path.parent().unwrap_or(path)).starts_with(real(folder))
}

/// The installation's signing key, as the repository uses it. The private half stays in the KMS.
struct KmsSigner(Arc<Kms>);

impl Signer for KmsSigner {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        self.0.sign(message)
    }
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }
}
