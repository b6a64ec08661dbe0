//! What a lineage's snapshots are kept for: what volumes are filled from, bases, and deletes that are not finished. What nobody
//! needs is swept.

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
    /// Lineages in which something unreachable may lie.
    unswept: Mutex<BTreeSet<LineageId>>,
}

impl Lineages {
    /// Those of this repository; a volume that is in none of the records counts if it is in the stores.
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

    /// The snapshot that a volume is filled from.
    pub(super) fn open_parent(&self, lineage: LineageId, parent: &ParentRef) -> Result<Arc<dyn Parent>> {
        Ok(Arc::new(self.repository.open_snapshot(lineage, parent.snapshot)?))
    }

    /// What a volume needs of the repository: what it is filled from, and the base of its next snapshot.
    pub(super) fn hold_parent(&self, lineage: LineageId, volume: VolumeId, parent: SnapshotId) -> Result<()> {
        self.repository.put_ref(lineage, &fill_ref(volume), RefKind::Volume, parent)?;
        self.repository.put_ref(lineage, &base_ref(volume), RefKind::Volume, parent)?;
        // Hidden meanwhile, its objects may be going before the log says so.
        if self.records.snapshot(parent)?.is_some_and(|r| r.state == SnapshotState::Completed) {
            return Ok(());
        }
        drop_ref(&self.repository, lineage, &fill_ref(volume))?;
        drop_ref(&self.repository, lineage, &base_ref(volume))?;
        Err(Error::new(Kind::NotFound, format!("snapshot {parent} was deleted")))
    }

    /// The volume is filled, or gone.
    fn release_parent(&self, record: &VolumeRecord) {
        let (lineage, parent) = (record.lineage, record.parent.as_ref().map(|p| p.snapshot));
        let is_live = parent.map_or(Ok(None), |p| self.repository.live(lineage, p));
        let released = match is_live {
            Ok(Some(_)) => drop_ref(&self.repository, lineage, &fill_ref(record.id)),
            // It was kept for this volume alone; the ref goes last ([`Lineages::holds_parent`]).
            Ok(None) => self.sweep_released(lineage),
            Err(err) => Err(err),
        };
        if let Err(err) = released {
            tracing::warn!("{} is filled, but its hold on its snapshot stays: {}", record.shown(), err.line());
            self.sweep_later(lineage);
        }
    }

    /// The catalog learns that a volume needs its snapshot no longer.
    pub(super) fn note_hydrated(&self, id: VolumeId) {
        let act = Act::new("ec2:VolumeHydrated").detail("volume", id);
        let noted = self.records.note_volume("fill", act, id, |r| r.hydrated = true);
        match noted {
            Ok(Some(record)) => self.release_parent(&record),
            Ok(None) => {}
            Err(err) => tracing::warn!("note that {id} is filled: {}", err.line()),
        }
    }

    /// Whether a filled volume still has the ref that held its snapshot: it was cut off before that was let go.
    pub(super) fn holds_parent(&self, record: &VolumeRecord) -> bool {
        let fill = || self.repository.ref_on(record.lineage, &fill_ref(record.id));
        record.hydrated && record.parent.is_some() && fill().is_ok_and(|found| found.is_some())
    }

    /// The volume is gone: what only it needed may go too. Where that cannot be now, it is tried again: refs of a volume that
    /// the catalog does not know count for nothing.
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
            tracing::warn!("let go of what only {volume} needed: {}; tried again later", err.line());
            self.sweep_later(lineage);
        }
        Ok(())
    }

    /// Finishes a delete that the catalog has noted: log, bases that nobody needs, objects, and the catalog's record last.
    pub(super) fn finish_delete(&self, record: &SnapshotRecord) -> Result<Swept> {
        let lineage = record.lineage;
        let mut swept = Swept::default();
        if self.repository.live(lineage, record.id)?.is_some() {
            match self.records.ledger().with_reserve(|| self.repository.delete(lineage, record.id)) {
                // Its objects make room for the log to say so. Nobody sees the snapshot any more: the catalog hides it.
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

    /// Something unreachable may lie in a lineage.
    pub(super) fn sweep_later(&self, lineage: LineageId) {
        self.unswept.lock().insert(lineage);
    }

    /// Sweeps where that was put off.
    pub(super) fn sweep_left(&self) {
        let unswept = self.unswept.lock().clone();
        for lineage in unswept {
            match self.sweep_released(lineage) {
                Ok(()) => drop(self.unswept.lock().remove(&lineage)),
                Err(err) => tracing::warn!("look for what nobody needs in lineage {lineage}: {}", err.line()),
            }
        }
    }

    /// Lets go of bases that nobody needs, and of all else; not by a log that was rolled back, which knows less than is needed.
    fn sweep_released(&self, lineage: LineageId) -> Result<()> {
        self.logs.check(lineage)?;
        self.bases.release_unneeded(lineage)?;
        self.sweep(lineage).map(drop)
    }

    /// Deletes what nobody needs of a lineage.
    pub(super) fn sweep(&self, lineage: LineageId) -> Result<Swept> {
        let volumes = self.records.volumes()?.into_iter().filter(|v| v.lineage == lineage && !v.hydrated);
        let parents = volumes.filter_map(|v| v.parent.map(|p| p.snapshot)).collect();
        let going = self.records.snapshots()?.into_iter().filter(SnapshotRecord::is_deleting).map(|r| r.id).collect();
        self.repository.sweep_for(lineage, &Known { lineages: self, parents, going })
    }
}

/// Name of the ref on what a volume is filled from.
fn fill_ref(volume: VolumeId) -> String {
    format!("{volume}-fill")
}

/// What the catalog says of this installation's refs.
struct Known<'a> {
    lineages: &'a Lineages,
    /// What volumes are still filled from.
    parents: Vec<SnapshotId>,
    /// What is being deleted.
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
                // Without it the next snapshot is full.
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
