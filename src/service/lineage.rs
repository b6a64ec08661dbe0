//! What a lineage's snapshots are kept for: filling volumes, bases, and unfinished deletes. Anything else is swept.

use super::api::SnapshotState;
use super::bases::{Bases, base_ref, drop_ref};
use super::logs::Logs;
use super::records::{Records, SnapshotRecord, VolumeRecord};
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::snapshot::refs::{Ref, RefKind};
use crate::snapshot::repository::Repository;
use crate::snapshot::sweep::{Need as RefNeed, Needs, Swept};
use crate::store::factory::Stores;
use crate::units::{LineageId, SnapshotId, VolumeId};
use crate::volume::format::ParentRef;
use crate::volume::parent::Parent;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// All lineages of the repository.
pub(super) struct Lineages {
    records: Arc<Records>,
    repository: Arc<Repository>,
    logs: Arc<Logs>,
    bases: Arc<Bases>,
    stores: Arc<dyn Stores>,
    /// Lineages that may contain unreachable objects.
    unswept: Mutex<BTreeSet<LineageId>>,
}

impl Lineages {
    /// Creates the lineages of this repository. A volume without a record still counts if it is in the stores.
    pub(super) fn new(
        records: &Arc<Records>,
        repository: &Arc<Repository>,
        logs: &Arc<Logs>,
        bases: &Arc<Bases>,
        stores: &Arc<dyn Stores>,
    ) -> Self {
        Self {
            records: records.clone(),
            repository: repository.clone(),
            logs: logs.clone(),
            bases: bases.clone(),
            stores: stores.clone(),
            unswept: Mutex::new(BTreeSet::new()),
        }
    }

    /// Opens the snapshot that a volume is filled from.
    pub(super) fn open_parent(&self, lineage: LineageId, parent: &ParentRef) -> Result<Arc<dyn Parent>> {
        Ok(Arc::new(self.repository.open_snapshot(lineage, parent.snapshot)?))
    }

    /// Puts the refs that a volume needs: on the snapshot that it is filled from, and on the base of its next snapshot.
    pub(super) fn hold_parent(&self, lineage: LineageId, volume: VolumeId, parent: SnapshotId) -> Result<()> {
        self.repository.put_ref(lineage, &fill_ref(volume), RefKind::Volume, parent)?;
        self.repository.put_ref(lineage, &base_ref(volume), RefKind::Volume, parent)?;
        // If it was hidden meanwhile, its objects may be removed before the log says so.
        if self.records.snapshot(parent)?.is_some_and(|r| r.state == SnapshotState::Completed) {
            return Ok(());
        }
        drop_ref(&self.repository, lineage, &fill_ref(volume))?;
        drop_ref(&self.repository, lineage, &base_ref(volume))?;
        Err(Error::new(Kind::NotFound, format!("snapshot {parent} was deleted")))
    }

    /// Releases the snapshot of a volume that is filled or deleted.
    fn release_parent(&self, record: &VolumeRecord) {
        let (lineage, parent) = (record.lineage, record.parent.as_ref().map(|p| p.snapshot));
        let is_live = parent.map_or(Ok(None), |p| self.repository.live(lineage, p));
        let released = match is_live {
            Ok(Some(_)) => drop_ref(&self.repository, lineage, &fill_ref(record.id)),
            // Only this volume kept it; the ref goes last ([`Lineages::holds_parent`]).
            Ok(None) => self.sweep_released(lineage),
            Err(err) => Err(err),
        };
        if let Err(err) = released {
            tracing::warn!("{} is filled, but still holds its snapshot: {}", record.shown(), err.line());
            self.sweep_later(lineage);
        }
    }

    /// Records in the catalog that a volume no longer needs its snapshot.
    pub(super) fn note_hydrated(&self, id: VolumeId) {
        let act = Act::new("ec2:VolumeHydrated").detail("volume", id);
        let noted = self.records.note_volume("fill", act, id, |r| r.hydrated = true);
        match noted {
            Ok(Some(record)) => self.release_parent(&record),
            Ok(None) => {}
            Err(err) => tracing::warn!("record that {id} is filled: {}", err.line()),
        }
    }

    /// Returns whether a filled volume still has the ref on its snapshot, because its release was interrupted.
    pub(super) fn holds_parent(&self, record: &VolumeRecord) -> bool {
        let fill = || self.repository.ref_on(record.lineage, &fill_ref(record.id));
        record.hydrated && record.parent.is_some() && fill().is_ok_and(|found| found.is_some())
    }

    /// Releases everything that only a deleted volume needed. What fails now is retried later: refs of a volume that the catalog
    /// does not know are ignored.
    pub(super) fn release_all(&self, lineage: LineageId, volume: VolumeId) -> Result<()> {
        let released = drop_ref(&self.repository, lineage, &fill_ref(volume)).and_then(|()| {
            drop_ref(&self.repository, lineage, &base_ref(volume))?;
            if self.repository.last_log_number(lineage)?.is_some() {
                self.logs.check(lineage)?;
                self.sweep(lineage)?;
            }
            Ok(())
        });
        if let Err(err) = released {
            tracing::warn!("release what only {volume} needed: {}; will retry", err.line());
            self.sweep_later(lineage);
        }
        Ok(())
    }

    /// Finishes a delete that the catalog has recorded: the log, unneeded bases, the objects, and last the catalog's record.
    pub(super) fn finish_delete(&self, record: &SnapshotRecord) -> Result<Swept> {
        let lineage = record.lineage;
        let mut swept = Swept::default();
        if let Some(live) = self.repository.live(lineage, record.id)? {
            let delete = || {
                // The hold of a lock that has expired: the catalog would not say that it is deleted if anything protected it.
                if live.held {
                    self.repository.hold(lineage, record.id, false)?;
                }
                self.repository.delete(lineage, record.id)
            };
            match self.records.ledger().with_reserve(delete) {
                // Removing its objects makes room for the log entry. The catalog hides the snapshot, so no client sees it
                // meanwhile.
                Err(err) if err.kind() == Kind::NoSpace => {
                    swept = self.sweep(lineage)?;
                    self.repository.delete(lineage, record.id)?;
                }
                other => other?,
            }
        }
        self.logs.note(lineage);
        self.bases.release_unneeded(lineage)?;
        let now = self.sweep(lineage)?;
        let act = Act::new("ec2:SnapshotNotification").detail("snapshot", record.id).detail("state", "deleted");
        self.records.ledger().audited(&self.records.own_caller("snapshot"), act, |tx| {
            match tx.get::<SnapshotRecord>(&record.id.to_string())? {
                Some(found) => tx.delete::<SnapshotRecord>(&record.id.to_string(), found.version),
                None => Ok(()),
            }
        })?;
        Ok(Swept { deleted: swept.deleted + now.deleted, freed: swept.freed + now.freed, ..now })
    }

    /// Marks a lineage as possibly containing unreachable objects.
    pub(super) fn sweep_later(&self, lineage: LineageId) {
        self.unswept.lock().insert(lineage);
    }

    /// Returns the lineages whose sweep was put off.
    pub(super) fn unswept(&self) -> BTreeSet<LineageId> {
        self.unswept.lock().clone()
    }

    /// Retries the sweep of a lineage, if it was put off.
    pub(super) fn sweep_left(&self, lineage: LineageId) {
        if !self.unswept.lock().contains(&lineage) {
            return;
        }
        match self.sweep_released(lineage) {
            Ok(()) => drop(self.unswept.lock().remove(&lineage)),
            Err(err) => tracing::warn!("sweep lineage {lineage}: {}", err.line()),
        }
    }

    /// Releases unneeded bases, then sweeps. Refuses a log that was rolled back, which knows less than is needed.
    fn sweep_released(&self, lineage: LineageId) -> Result<()> {
        self.logs.check(lineage)?;
        self.bases.release_unneeded(lineage)?;
        self.sweep(lineage).map(drop)
    }

    /// Deletes all unneeded objects of a lineage.
    pub(super) fn sweep(&self, lineage: LineageId) -> Result<Swept> {
        let volumes = self.records.volumes()?.into_iter().filter(|v| v.lineage == lineage && !v.hydrated);
        let parents = volumes.filter_map(|v| v.parent.map(|p| p.snapshot)).collect();
        let going = self.records.snapshots()?.into_iter().filter(SnapshotRecord::is_deleting).map(|r| r.id).collect();
        self.repository.sweep_for(lineage, &Known { lineages: self, parents, going })
    }
}

/// Returns the name of the ref on the snapshot that a volume is filled from.
fn fill_ref(volume: VolumeId) -> String {
    format!("{volume}-fill")
}

/// What the catalog knows about this installation's refs.
struct Known<'a> {
    lineages: &'a Lineages,
    /// The snapshots that volumes are still filled from.
    parents: Vec<SnapshotId>,
    /// The snapshots that are being deleted.
    going: BTreeSet<SnapshotId>,
}

impl Needs for Known<'_> {
    fn of(&self, id: &str, found: Option<&Ref>) -> RefNeed {
        let named = |sort: &str| id.strip_suffix(sort).and_then(|v| v.parse::<VolumeId>().ok());
        let (Some(volume), fills) = (named("-fill").or(named("-base")), named("-fill").is_some()) else {
            return RefNeed::Keep;
        };
        match self.lineages.records.volume(volume) {
            Err(_) => RefNeed::Keep,
            Ok(None) => {
                if self.lineages.stores.has_any(volume) {
                    RefNeed::Keep
                } else {
                    RefNeed::Drop
                }
            }
            Ok(Some(record)) => match (fills, found, record.parent) {
                (true, _, _) if record.hydrated => RefNeed::Drop,
                (_, Some(_), _) => RefNeed::Keep,
                (true, None, Some(parent)) => RefNeed::On(parent.snapshot),
                // Without this ref the next snapshot is full.
                (_, None, _) => RefNeed::Drop,
            },
        }
    }

    fn roots(&self) -> Vec<SnapshotId> {
        self.parents.clone()
    }

    fn is_going(&self, snapshot: SnapshotId) -> bool {
        self.going.contains(&snapshot)
    }
}
