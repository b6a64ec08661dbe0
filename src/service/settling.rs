//! Settles snapshots that an earlier process or a full disk left in progress (completed if the log has them, else in `error`),
//! and deletes that were interrupted.

use super::api::SnapshotState;
use super::bases::Bases;
use super::home::{Home, RepositoryKey};
use super::lineage::Lineages;
use super::logs::Logs;
use super::opening::{Need, OpenVolumes};
use super::records::{Records, SnapshotRecord};
use super::repositories::Repositories;
use super::turns::Turns;
use crate::error::Result;
use crate::snapshot::staging;
use crate::units::{CHUNK, LineageId, SnapshotId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is still to be settled.
pub(super) struct Unsettled {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
    logs: Arc<Logs>,
    bases: Arc<Bases>,
    lineages: Arc<Lineages>,
    opens: Arc<OpenVolumes>,
    /// The directory with the staging directories of pending snapshots.
    staging: PathBuf,
    /// Snapshots that are not completed, in `error` or gone, and that no thread works on; with the reason, if known.
    snapshots: Mutex<BTreeMap<SnapshotId, (Home, Option<String>)>>,
    /// Snapshots whose delete was finished here.
    finished: Mutex<BTreeSet<SnapshotId>>,
    /// Taken for a home while it is being settled, which may wait for its repository.
    at_work: Turns<Home>,
    /// Whether the refs in added repositories are still to be looked at.
    far: AtomicBool,
}

impl Unsettled {
    /// Creates an empty set.
    pub(super) fn new(
        records: &Arc<Records>,
        repositories: &Arc<Repositories>,
        logs: &Arc<Logs>,
        bases: &Arc<Bases>,
        lineages: &Arc<Lineages>,
        opens: &Arc<OpenVolumes>,
        staging: PathBuf,
    ) -> Self {
        let (snapshots, finished, at_work) = Default::default();
        Self {
            records: records.clone(),
            repositories: repositories.clone(),
            logs: logs.clone(),
            bases: bases.clone(),
            lineages: lineages.clone(),
            opens: opens.clone(),
            staging,
            snapshots,
            finished,
            at_work,
            far: AtomicBool::new(true),
        }
    }

    /// Adds a snapshot to be settled. Its home may have unreachable objects.
    pub(super) fn add(&self, home: Home, snapshot: SnapshotId, why: Option<String>) {
        self.snapshots.lock().insert(snapshot, (home, why));
        self.lineages.sweep_later(home);
    }

    /// Returns whether settling finished the delete of a snapshot.
    pub(super) fn has_finished(&self, snapshot: SnapshotId) -> bool {
        self.finished.lock().contains(&snapshot)
    }

    /// Finds what an earlier process left in progress: deletes, and snapshots that cannot be continued.
    pub(super) fn look(&self) {
        match self.records.snapshots() {
            Ok(all) => {
                let is_lost = |s: &SnapshotRecord| s.state == SnapshotState::Pending && !self.is_staged(s.id);
                for record in all.iter().filter(|s| is_lost(s) || s.is_deleting()) {
                    self.add(record.home(), record.id, None);
                }
                for record in all.iter().filter(|s| s.state != SnapshotState::Pending) {
                    let held = record.source.as_ref().filter(|of| of.held);
                    held.into_iter().for_each(|of| self.lineages.release_source_later(record.id, of.home()));
                }
                self.remove_staging(&all);
            }
            Err(err) => tracing::error!("list unfinished snapshots: {}", err.line()),
        }
    }

    fn is_staged(&self, snapshot: SnapshotId) -> bool {
        self.staging.join(snapshot.to_string()).exists()
    }

    /// Removes the staging directories that no pending snapshot needs.
    fn remove_staging(&self, all: &[SnapshotRecord]) {
        for entry in std::fs::read_dir(&self.staging).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SnapshotId>().ok());
            let is_pending = |id| all.iter().any(|s| s.id == id && s.state == SnapshotState::Pending);
            if id.is_some_and(|id| !is_pending(id))
                && let Err(err) = staging::remove(&entry.path())
            {
                tracing::warn!("{}", err.line());
            }
        }
    }

    /// Returns the pending snapshots that an earlier process left and that can perhaps be continued.
    pub(super) fn resumable(&self) -> Result<Vec<SnapshotRecord>> {
        let mut all = self.records.snapshots()?;
        let lost = self.snapshots.lock();
        all.retain(|s| s.state == SnapshotState::Pending && !lost.contains_key(&s.id) && self.is_staged(s.id));
        Ok(all)
    }

    /// Settles what is in the data directory's repository; others may be slow, and wait until they are used or it is their
    /// turn.
    pub(super) fn settle_near(&self) {
        self.look_at_refs(|repository| repository.is_local());
        self.settle_local();
    }

    /// Finds the refs of filled volumes whose release was interrupted.
    fn look_at_refs(&self, which: impl Fn(RepositoryKey) -> bool) {
        for record in self.records.volumes().unwrap_or_default() {
            self.lineages.holds_parent(&record, &which).into_iter().for_each(|home| self.lineages.sweep_later(home));
        }
    }

    /// Retries what could not be settled before. Cheap if there is nothing.
    pub(super) fn settle(&self) {
        if self.far.swap(false, Ordering::AcqRel) {
            self.look_at_refs(|repository| !repository.is_local());
        }
        self.settle_where(|_| true);
    }

    /// The same in the data directory's repository alone.
    pub(super) fn settle_local(&self) {
        self.settle_where(|home| home.repository.is_local());
    }

    /// The same for one lineage, in all repositories.
    pub(super) fn settle_lineage(&self, lineage: LineageId) {
        self.settle_where(|home| home.lineage == lineage);
    }

    fn settle_where(&self, which: impl Fn(&Home) -> bool) {
        let mut homes = self.lineages.unswept();
        homes.extend(self.snapshots.lock().values().map(|(home, _)| *home));
        homes.into_iter().filter(which).for_each(|home| self.settle_home(home));
    }

    /// The same for one home, unless another thread is settling it. An operation on one volume need not wait for what others
    /// have left.
    pub(super) fn settle_home(&self, home: Home) {
        let Some(_alone) = self.at_work.try_take(home) else { return };
        self.settle_deletes(home);
        let left: Vec<_> =
            self.snapshots.lock().iter().filter(|(_, (of, _))| *of == home).map(|(id, s)| (*id, s.1.clone())).collect();
        for (id, why) in left {
            match self.settle_one(id, why.as_deref()) {
                Ok(()) => drop(self.snapshots.lock().remove(&id)),
                Err(err) => tracing::error!("settle snapshot {id}: {}", err.line()),
            }
        }
        self.lineages.sweep_left(home);
    }

    /// Finishes interrupted deletes together, by one sweep. If that fails, each is settled for itself.
    fn settle_deletes(&self, home: Home) {
        let left: Vec<_> = self.snapshots.lock().iter().filter(|(_, (of, _))| *of == home).map(|(id, _)| *id).collect();
        let records = left.into_iter().filter_map(|id| self.records.snapshot(id).ok().flatten());
        let deletes: Vec<_> = records.filter(|r| r.is_deleting() && r.home() == home).collect();
        if deletes.len() < 2 {
            return;
        }
        match self.logs.check(home).and_then(|()| self.lineages.finish_deletes(home, &deletes)) {
            Ok(_) => deletes.iter().for_each(|record| {
                self.finished.lock().insert(record.id);
                self.snapshots.lock().remove(&record.id);
            }),
            Err(err) => tracing::warn!("finish {} deletes in {home}: {}", deletes.len(), err.line()),
        }
    }

    fn settle_one(&self, id: SnapshotId, why: Option<&str>) -> Result<()> {
        let Some(record) = self.records.snapshot(id)? else { return Ok(()) };
        if record.is_deleting() {
            self.logs.check(record.home())?;
            self.lineages.finish_delete(&record)?;
            self.finished.lock().insert(id);
            return Ok(());
        }
        if record.state != SnapshotState::Pending {
            return Ok(());
        }
        self.logs.check(record.home())?;
        let repository = self.repositories.open(record.repository)?;
        let completed = repository.live(record.lineage, id)?.is_some();
        let volume = if record.source.is_none() { self.records.volume(record.volume)? } else { None };
        // A volume that cannot be opened is settled once it can be: `settle_header`.
        if let Some(Ok(used)) = volume.map(|v| self.opens.acquire(&v, Need::Sealed)) {
            let pending = used.volume.pending_records().into_iter().find(|p| p.snapshot == id);
            match pending {
                Some(pending) if completed => self.bases.take(&used.volume, record.lineage, &pending)?,
                Some(_) => used.volume.drop_snapshot(id)?,
                None => {}
            }
        }
        if !completed {
            let why = why.unwrap_or("the process that took it ended before it was completed").to_owned();
            self.records.note_snapshot(id, |r| (r.state, r.error) = (SnapshotState::Error, Some(why.clone())))?;
            self.lineages.release_source(id);
            return staging::remove(&self.staging.join(id.to_string()));
        }
        // A damaged manifest is not needed to know that the snapshot is completed.
        let at = repository.locate(record.lineage, id).ok();
        let counts = at.map_or((0, 0), |at| (at.manifest.changed_chunks * CHUNK as u64, at.manifest.stored_bytes));
        self.records.note_snapshot(id, |r| {
            r.state = SnapshotState::Completed;
            (r.changed, r.stored) = counts;
        })?;
        self.lineages.release_source(id);
        staging::remove(&self.staging.join(id.to_string()))
    }
}
