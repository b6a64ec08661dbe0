//! Assembles a service: builds each component from those above it in the order of docs/decisions/0031.

use super::access::Access;
use super::attachments::Attachments;
use super::bases::Bases;
use super::check::Doctor;
use super::copies::{self, Copies};
use super::failed_syncs::FailedSyncs;
use super::garbage::{self, Collector};
use super::housekeeping::Housekeeper;
use super::jobs::{self, Jobs};
use super::kept::KeptLeases;
use super::keygate::KeyGate;
use super::lease::Leases;
use super::lineage::Lineages;
use super::logs::Logs;
use super::opening::{self, OpenVolumes};
use super::records::Records;
use super::repositories::Repositories;
use super::settling::Unsettled;
use super::snapshot_keys::SnapshotKeys;
use super::stage::Leftovers;
use super::stored::StoredVolumes;
use super::strangers::Strangers;
use super::suspensions::Suspensions;
use super::turns::Turns;
use super::view::Views;
use super::volume_keys::VolumeKeys;
use super::{Base, Service};
use parking_lot::Mutex;
use std::sync::Arc;

/// The components for the repositories.
struct Snapshots {
    repositories: Arc<Repositories>,
    logs: Arc<Logs>,
    bases: Arc<Bases>,
    lineages: Arc<Lineages>,
}

impl Snapshots {
    fn over(base: &Base, records: &Arc<Records>) -> Self {
        let (author, local) = (base.author.clone(), base.local.clone());
        let caches = base.data.caches();
        let repositories = Arc::new(Repositories::new(records, &base.env, author, local, caches));
        let logs = Arc::new(Logs::new(records, &repositories));
        let bases = Arc::new(Bases::new(records, &repositories));
        let staging = base.data.staging();
        let lineages = Arc::new(Lineages::new(records, &repositories, &logs, &bases, &base.stores, staging));
        Self { repositories, logs, bases, lineages }
    }

    fn collector(&self, records: &Arc<Records>) -> Arc<Collector> {
        Arc::new(Collector::new(garbage::On {
            records: records.clone(),
            repositories: self.repositories.clone(),
            logs: self.logs.clone(),
            bases: self.bases.clone(),
            lineages: self.lineages.clone(),
        }))
    }
}

/// The components for opening a volume.
struct Volumes {
    turns: Arc<Turns>,
    keygate: Arc<KeyGate>,
    keys: Arc<VolumeKeys>,
    stored: Arc<StoredVolumes>,
    strangers: Arc<Strangers>,
    failed_syncs: Arc<FailedSyncs>,
    housekeeper: Arc<Housekeeper>,
    opens: Arc<OpenVolumes>,
}

impl Volumes {
    fn over(base: &Base, records: &Arc<Records>, lineages: &Arc<Lineages>) -> Self {
        let (turns, keygate, housekeeper) = Default::default();
        let keys = Arc::new(VolumeKeys::new(&base.kms, records));
        let stored = Arc::new(StoredVolumes::new(&base.env, records, lineages, &base.stores));
        let strangers = Arc::new(Strangers::new(&base.env, records, &base.stores));
        let failed_syncs = Arc::new(FailedSyncs::new(records));
        let opens = Arc::new(OpenVolumes::new(opening::On {
            role: base.opening.role,
            records: records.clone(),
            keys: Arc::clone(&keys),
            keygate: Arc::clone(&keygate),
            turns: Arc::clone(&turns),
            lineages: lineages.clone(),
            stored: Arc::clone(&stored),
            strangers: Arc::clone(&strangers),
            failed_syncs: Arc::clone(&failed_syncs),
            housekeeper: Arc::clone(&housekeeper),
        }));
        Self { turns, keygate, keys, stored, strangers, failed_syncs, housekeeper, opens }
    }
}

/// Creates the components for snapshots in progress and for unsettled ones.
fn jobs(
    base: &Base,
    records: &Arc<Records>,
    snapshots: &Snapshots,
    volumes: &Volumes,
    snapshot_keys: &Arc<SnapshotKeys>,
) -> (Arc<Unsettled>, Arc<Jobs>) {
    let Snapshots { repositories, logs, bases, lineages } = snapshots;
    let staging = base.data.staging();
    let copies = Copies::new(copies::On {
        env: base.env.clone(),
        records: records.clone(),
        repositories: repositories.clone(),
        logs: logs.clone(),
        lineages: lineages.clone(),
        keys: volumes.keys.clone(),
        snapshot_keys: snapshot_keys.clone(),
        keygate: volumes.keygate.clone(),
        staging: staging.clone(),
    });
    let unsettled = Arc::new(Unsettled::new(records, repositories, logs, bases, lineages, &volumes.opens, staging));
    let jobs = Jobs::new(jobs::On {
        env: base.env.clone(),
        staging: base.data.staging(),
        records: records.clone(),
        repositories: repositories.clone(),
        logs: logs.clone(),
        bases: bases.clone(),
        opens: volumes.opens.clone(),
        turns: volumes.turns.clone(),
        copies,
        lineages: lineages.clone(),
        unsettled: unsettled.clone(),
    });
    (unsettled, Arc::new(jobs))
}

impl Service {
    /// Assembles all components of a service.
    pub(super) fn assemble(base: Base) -> Self {
        let records = Arc::new(Records::new(&base.kms, &base.lock));
        let snapshots = Snapshots::over(&base, &records);
        let volumes = Volumes::over(&base, &records, &snapshots.lineages);
        let snapshot_keys = Arc::new(SnapshotKeys::new(&records, &snapshots.repositories, &volumes.opens));
        let (unsettled, jobs) = jobs(&base, &records, &snapshots, &volumes, &snapshot_keys);
        let collector = snapshots.collector(&records);
        let Base { env, data, kms, stores, lock, opening, .. } = base;
        let Snapshots { repositories, logs, lineages, .. } = snapshots;
        let Volumes { turns, keygate, keys, stored, strangers, failed_syncs, housekeeper, opens } = volumes;
        let leases = Arc::new(Leases::new(opening.lease_grace));
        let access = Arc::new(Access::new(&env, &kms, &records));
        Self {
            role: opening.role,
            suspensions: Suspensions::new(&kms, &records, &keys, &keygate, &turns, &opens),
            kept: Arc::new(KeptLeases::new(&env, &records, &keys, &leases)),
            attachments: Attachments::new(&env, opening.role, &records, &leases),
            access: access.clone(),
            views: Views::new(&records, &repositories, &logs, &keys, &snapshot_keys, &keygate),
            leftovers: Leftovers::new(&records, &lineages, &stores, &stored, &turns, &opens),
            doctor: Doctor {
                data: data.clone(),
                env: env.clone(),
                kms: kms.clone(),
                records: records.clone(),
                repositories: repositories.clone(),
                logs: logs.clone(),
                stores: stores.clone(),
                strangers,
                opens: opens.clone(),
                access,
            },
            last_uses: super::last_uses::LastUses::default(),
            retention: super::retention::Retention::new(&env, &kms),
            slow_chores: super::chores::SlowChores::default(),
            endpoints: Mutex::default(),
            taking_up: Mutex::default(),
            env,
            data,
            kms,
            records,
            keys,
            repositories,
            logs,
            lineages,
            collector,
            stored,
            failed_syncs,
            stores,
            turns,
            keygate,
            opens,
            leases,
            unsettled,
            jobs,
            snapshot_keys,
            housekeeper,
            lock,
        }
    }
}
