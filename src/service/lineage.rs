//! What the catalog and the repository know of a lineage, brought together: the base of a volume's next snapshot, what a
//! kill or a full disk left half done, which refs still count, and what damaged log records may have said.

use super::Service;
use super::api::{Finding, Grade};
use super::opening::{InUse, Need};
use super::records::{SnapshotRecord, VolumeRecord};
use super::snapshot::base_ref;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::refs::{Ref, RefKind};
use crate::snapshot::repository::Repository;
use crate::snapshot::sweep::{Need as RefNeed, Needs, Swept};
use crate::snapshot::writer::{SnapshotSpec, SnapshotWriter};
use crate::units::{ByteLen, CHUNK, DataKeyId, Epoch, LineageId, RepositoryId, SnapshotId, VolumeId};
use crate::volume::Volume;
use crate::volume::format::{BaseRecord, PendingRecord};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is still to be settled, and was not possible yet.
#[derive(Default)]
pub(super) struct Left {
    /// Snapshots that are neither completed nor in error nor gone, though nobody works on them; why, if it is known.
    snapshots: Mutex<BTreeMap<SnapshotId, Option<String>>>,
    /// Lineages in which something unreachable may lie.
    unswept: Mutex<BTreeSet<LineageId>>,
    /// Deletes that were finished for whoever had begun them.
    finished: Mutex<BTreeSet<SnapshotId>>,
    /// Held by who settles.
    at_work: Mutex<()>,
}

impl Left {
    pub(super) fn add(&self, lineage: LineageId, snapshot: SnapshotId, why: Option<String>) {
        self.snapshots.lock().insert(snapshot, why);
        self.unswept.lock().insert(lineage);
    }

    pub(super) fn sweep_later(&self, lineage: LineageId) {
        self.unswept.lock().insert(lineage);
    }

    pub(super) fn has_finished(&self, snapshot: SnapshotId) -> bool {
        self.finished.lock().contains(&snapshot)
    }
}

impl Service {
    /// Settles snapshots that an earlier process left under way: completed if the log has them, else in error; and deletes
    /// that it left half done.
    pub(super) fn settle_snapshots(self: &Arc<Self>) {
        match self.records.snapshots() {
            Ok(all) => {
                for record in all.iter().filter(|s| s.state == "pending" || s.is_deleting()) {
                    self.jobs.left.add(record.lineage, record.id, None);
                }
            }
            Err(err) => tracing::error!("look for unfinished snapshots: {}", err.line()),
        }
        for record in self.records.volumes().unwrap_or_default().iter().filter(|v| self.holds_parent(v)) {
            self.jobs.left.sweep_later(record.lineage);
        }
        self.settle_left();
    }

    /// Tries again to settle what could not be. Costs nothing when there is nothing.
    pub(super) fn settle_left(self: &Arc<Self>) {
        let Some(_alone) = self.jobs.left.at_work.try_lock() else { return };
        let left = self.jobs.left.snapshots.lock().clone();
        for (id, why) in left {
            match self.settle(id, why.as_deref()) {
                Ok(()) => drop(self.jobs.left.snapshots.lock().remove(&id)),
                Err(err) => tracing::error!("settle snapshot {id}: {}", err.line()),
            }
        }
        let unswept = self.jobs.left.unswept.lock().clone();
        for lineage in unswept {
            match self.sweep_released(lineage) {
                Ok(()) => drop(self.jobs.left.unswept.lock().remove(&lineage)),
                Err(err) => tracing::warn!("look for what nobody needs in lineage {lineage}: {}", err.line()),
            }
        }
    }

    fn settle(self: &Arc<Self>, id: SnapshotId, why: Option<&str>) -> Result<()> {
        let Some(record) = self.records.snapshot(id)? else { return Ok(()) };
        if record.is_deleting() {
            self.check_log(record.lineage)?;
            self.finish_delete(&record)?;
            self.jobs.left.finished.lock().insert(id);
            return Ok(());
        }
        if record.state != "pending" {
            return Ok(());
        }
        self.check_log(record.lineage)?;
        let completed = self.repository.live(record.lineage, id)?.is_some();
        let volume = self.ledger().catalog().get::<VolumeRecord>(&record.volume.to_string())?;
        // One that cannot be opened is settled when it can be: `settle_header`.
        if let Some(Ok(used)) = volume.map(|v| self.acquire(&v.record, Need::Sealed)) {
            let pending = used.volume.pending_records().into_iter().find(|p| p.snapshot == id);
            match pending {
                Some(pending) if completed => self.take_as_base(&used.volume, record.lineage, &pending)?,
                Some(_) => used.volume.drop_snapshot(id)?,
                None => {}
            }
        }
        if !completed {
            let why = why.unwrap_or("the process that took it ended before it was completed").to_owned();
            return self.records.note_snapshot(id, |r| (r.state, r.error) = ("error".to_owned(), Some(why.clone())));
        }
        // What a damaged manifest says is not needed to know that it is completed.
        let at = self.repository.locate(record.lineage, id).ok();
        let counts = at.map_or((0, 0), |at| (at.manifest.changed_chunks * CHUNK as u64, at.manifest.stored_bytes));
        self.records.note_snapshot(id, |r| {
            r.state = "completed".to_owned();
            (r.changed, r.stored) = counts;
        })
    }

    /// Settles what the header of an open volume says of snapshots under way, before it gets another: only one that the
    /// catalog has as pending may stay, for somebody works on it, or it is settled itself.
    pub(super) fn settle_header(&self, record: &VolumeRecord, volume: &Volume) {
        for pending in volume.pending_records() {
            let settled = self.records.snapshot(pending.snapshot).and_then(|found| match found {
                Some(r) if r.state == "pending" => Ok(()),
                Some(r) if r.state == "completed" => self.take_as_base(volume, record.lineage, &pending),
                _ => volume.drop_snapshot(pending.snapshot),
            });
            if let Err(err) = settled {
                tracing::warn!("{}: forget snapshot {}: {}", record.shown(), pending.snapshot, err.line());
            }
        }
    }

    /// A completed snapshot becomes the base of its volume's next one, if it is newer than what is that now: the ref first,
    /// then the header, and never back. Where the ref cannot be put, the base stays what it is.
    pub(super) fn take_as_base(&self, volume: &Volume, lineage: LineageId, pending: &PendingRecord) -> Result<()> {
        let _turn = self.jobs.turn.lock();
        let newer = volume.base().is_none_or(|b| b.repository != pending.repository || pending.p > b.p);
        if newer && pending.map_generation == volume.map_generation() {
            let held = self.repository.put_ref(lineage, &base_ref(volume.id()), RefKind::Volume, pending.snapshot);
            if let Err(err) = held {
                volume.drop_snapshot(pending.snapshot)?;
                return Err(err);
            }
        }
        volume.complete_snapshot(pending)
    }

    /// Begins a snapshot on the best base that there is: the one of the volume's header, if a ref holds it; the snapshot
    /// that the volume is still filled from; or none, then the snapshot is a full one.
    pub(super) fn begin_on_base(
        &self,
        used: &InUse,
        spec: &SnapshotSpec,
    ) -> Result<(SnapshotWriter, Option<BaseRecord>, Option<SnapshotReader>)> {
        let repository = self.repository.id()?;
        let held = self.repository.ref_on(spec.lineage, &base_ref(used.volume.id()))?.is_some();
        let newest = used.volume.base().filter(|b| held && b.repository == repository);
        let parent = used.volume.with_header(|h| h.identity().parent.clone()).filter(|p| p.repository == repository);
        let parent = parent.filter(|_| !used.volume.is_hydrated()).map(|p| {
            let map_generation = used.volume.map_generation();
            BaseRecord { snapshot: p.snapshot, p: Epoch(0), repository: p.repository, map_generation }
        });
        let mut last = None;
        for base in newest.into_iter().chain(parent) {
            match self.begin_on(spec, &base) {
                Ok((writer, reader)) => return Ok((writer, Some(base), Some(reader))),
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Integrity) => last = Some(err),
                Err(err) => return Err(err),
            }
        }
        match last {
            // What was not fetched yet is nowhere but in that snapshot.
            Some(err) if !used.volume.is_hydrated() => Err(err),
            Some(err) => {
                tracing::warn!("{}: {}; the snapshot is a full one", used.volume.id(), err.line());
                Ok((self.repository.begin(spec.clone())?, None, None))
            }
            None => Ok((self.repository.begin(spec.clone())?, None, None)),
        }
    }

    fn begin_on(&self, spec: &SnapshotSpec, base: &BaseRecord) -> Result<(SnapshotWriter, SnapshotReader)> {
        let reader = self.repository.open_snapshot(spec.lineage, base.snapshot)?;
        let writer = self.repository.begin(SnapshotSpec { base: Some(base.snapshot), ..spec.clone() })?;
        Ok((writer, reader))
    }

    /// A snapshot failed over something damaged, perhaps in its base: without a ref that counts as none, and the next one
    /// is full.
    pub(super) fn distrust_base(&self, record: &SnapshotRecord) {
        let _turn = self.jobs.turn.lock();
        if let Err(err) = self.drop_ref(record.lineage, &base_ref(record.volume)) {
            tracing::warn!("let go of the base of {}: {}", record.volume, err.line());
        }
    }

    /// Finishes a delete that the catalog has noted: log, bases that nobody needs, objects, and the catalog's record last.
    pub(super) fn finish_delete(&self, record: &SnapshotRecord) -> Result<Swept> {
        let lineage = record.lineage;
        let mut swept = Swept::default();
        if self.repository.live(lineage, record.id)?.is_some() {
            match self.ledger().with_reserve(|| self.repository.delete(lineage, record.id)) {
                // Its objects make room for the log to say so. Nobody sees the snapshot any more: the catalog hides it.
                Err(err) if err.kind() == Kind::NoSpace => {
                    swept = self.sweep_lineage(lineage)?;
                    self.repository.delete(lineage, record.id)?;
                }
                other => other?,
            }
        }
        self.note_log(lineage);
        self.release_bases(lineage)?;
        let now = self.sweep_lineage(lineage)?;
        let act = Act::new("ec2:SnapshotNotification").detail("snapshot", record.id).detail("state", "deleted");
        self.ledger().audited(&self.records.own_caller("snapshot"), act, |tx| {
            match tx.get::<SnapshotRecord>(&record.id.to_string())? {
                Some(found) => tx.delete::<SnapshotRecord>(&record.id.to_string(), found.version),
                None => Ok(()),
            }
        })?;
        Ok(Swept { deleted: swept.deleted + now.deleted, freed: swept.freed + now.freed, ..now })
    }

    /// Lets go of bases that are deleted and whose volume has no snapshot left: its next one is full.
    fn release_bases(&self, lineage: LineageId) -> Result<()> {
        let _turn = self.jobs.turn.lock();
        let snapshots = self.records.snapshots()?;
        for volume in self.records.volumes()?.into_iter().filter(|v| v.lineage == lineage) {
            let counts =
                |s: &&SnapshotRecord| s.volume == volume.id && (s.state == "completed" || s.state == "pending");
            if snapshots.iter().any(|s| counts(&s)) {
                continue;
            }
            let Some(base) = self.repository.ref_on(lineage, &base_ref(volume.id))? else { continue };
            if self.repository.live(lineage, base)?.is_none() {
                self.drop_ref(lineage, &base_ref(volume.id))?;
            }
        }
        Ok(())
    }

    /// Lets go of bases that nobody needs, and of all else; not by a log that was rolled back, which knows less than is needed.
    pub(super) fn sweep_released(&self, lineage: LineageId) -> Result<()> {
        self.check_log(lineage)?;
        self.release_bases(lineage)?;
        self.sweep_lineage(lineage).map(drop)
    }

    /// Deletes what nobody needs of a lineage.
    pub(super) fn sweep_lineage(&self, lineage: LineageId) -> Result<Swept> {
        let volumes = self.records.volumes()?.into_iter().filter(|v| v.lineage == lineage && !v.hydrated);
        let parents = volumes.filter_map(|v| v.parent.map(|p| p.snapshot)).collect();
        let going = self.records.snapshots()?.into_iter().filter(SnapshotRecord::is_deleting).map(|r| r.id).collect();
        self.repository.sweep_for(lineage, &Known { service: self, parents, going })
    }

    /// What a delete came to, and what still holds space.
    pub(super) fn say_deleted(&self, id: SnapshotId, swept: &Swept) -> String {
        let mut said = format!("snapshot {id} is deleted; freed {}", ByteLen(swept.freed));
        if let Some(why) = &swept.blind {
            said += &format!("; more is kept, for what cannot be read may need it ({why}): see `coffer doctor`");
        }
        if self.views_hold(id) {
            said += "; an NBD client still reads it";
        }
        for (held, on) in &swept.refs {
            let volume = |sort: &str| {
                let id = held.strip_suffix(sort)?.parse::<VolumeId>().ok()?;
                let found = self.ledger().catalog().get::<VolumeRecord>(&id.to_string()).ok()??;
                Some(found.record.shown())
            };
            if let Some(volume) = volume("-fill") {
                said += &format!(
                    "\n{on} stays in the repository until volume {volume} is filled from it (a server fills it) or deleted"
                );
            } else if let Some(volume) = volume("-base") {
                said += &format!(
                    "\n{on} stays in the repository as the base of the next snapshot of {volume}: it goes when that is completed, or the last snapshot of {volume} is deleted"
                );
            } else {
                said += &format!("\n{on} stays in the repository for the ref {held}");
            }
        }
        said
    }

    fn views_hold(&self, id: SnapshotId) -> bool {
        self.refuse_if_viewed(id).is_err()
    }

    /// Settles what damaged log records may have said. The catalog is authenticated, so its word counts; not if it has
    /// damage of its own.
    pub(super) fn vouch(&self, lineage: LineageId) -> Result<()> {
        let (bad, unknown) = self.repository.unreadable(lineage)?;
        if !unknown {
            return Ok(());
        }
        let why = bad.first().map(|b| b.error.line()).unwrap_or_default();
        let listing = self.ledger().catalog().list::<SnapshotRecord>()?;
        if let Some(doubt) = listing.damaged.first() {
            let what = format!("{why}; and the catalog's record of {} {} cannot be believed", doubt.kind, doubt.id);
            return Err(
                Error::new(Kind::Integrity, what).hint("put that log record back from a copy of the repository")
            );
        }
        let mut sets = (BTreeSet::new(), BTreeSet::new());
        for record in listing.records.into_iter().map(|r| r.record).filter(|r| r.lineage == lineage) {
            if record.state == "completed" {
                sets.0.insert(record.id)
            } else {
                sets.1.insert(record.id)
            };
        }
        tracing::warn!(
            "{why}; the catalog knows what it can have said, and the next record that is written makes up for it"
        );
        self.repository.vouch(lineage, &sets.0, &sets.1)
    }

    /// The wrapped form of a data key whose log record is lost, from the header of a volume that has it.
    pub(super) fn key_from_a_header(self: &Arc<Self>, lineage: LineageId, key: DataKeyId) -> Option<Vec<u8>> {
        let volumes = self.records.volumes().ok()?.into_iter().filter(|v| v.lineage == lineage);
        volumes.filter_map(|v| self.acquire(&v, Need::Sealed).ok()).find_map(|used| {
            used.volume.with_header(|h| {
                let epoch = h.identity().key_epochs.iter().find(|k| k.data_key_id == key)?.epoch;
                let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| &k.keys).collect();
                wrapped.into_iter().find(|k| k.epoch == epoch).map(|k| k.blob.clone())
            })
        })
    }

    /// The repository as `coffer doctor` sees it.
    pub(super) fn check_repository(self: &Arc<Self>) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut add = |grade, message: String| out.push(Finding { grade, check: "repository".to_owned(), message });
        if let Err(err) = self.repository.id() {
            let mend = self.repository_of_a_header().and_then(|id| Repository::description_of(id).ok());
            let mend = mend.map_or_else(
                || "put it back from a copy".to_owned(),
                |json| format!("put it back from a copy, or write into repository/coffer-repository.json: {json}"),
            );
            add(Grade::Error, format!("{}; snapshots cannot be used until then: {mend}", err.line()));
            return out;
        }
        let records = self.records.snapshots().unwrap_or_default();
        let mut lineages: BTreeSet<LineageId> = records.iter().map(|r| r.lineage).collect();
        lineages.extend(self.records.volumes().unwrap_or_default().iter().map(|v| v.lineage));
        for lineage in lineages {
            self.check_lineage(lineage, &records, &mut add);
        }
        for record in records.iter().filter(|r| r.is_deleting()) {
            add(Grade::Warning, format!("snapshot {} is deleted, but not all of it could be removed yet", record.id));
        }
        out
    }

    fn check_lineage(&self, lineage: LineageId, records: &[SnapshotRecord], add: &mut dyn FnMut(Grade, String)) {
        match self.repository.unreadable(lineage) {
            Ok((bad, _)) => {
                for record in bad {
                    add(
                        Grade::Warning,
                        format!(
                            "{}; the catalog knows what counts, so nothing is lost: the next snapshot that is taken or deleted in this lineage writes a record that makes up for it",
                            record.error.line()
                        ),
                    );
                }
            }
            Err(err) => return add(Grade::Error, format!("{}; put it back from a copy of the repository", err.line())),
        }
        if let Err(err) = self.check_log(lineage) {
            return add(Grade::Error, err.line());
        }
        for record in records.iter().filter(|r| r.lineage == lineage && r.state == "completed") {
            match self.repository.live(lineage, record.id) {
                Ok(None) => add(
                    Grade::Error,
                    format!("snapshot {} is not in the repository any more: `coffer snapshot delete` it", record.id),
                ),
                Ok(Some(_)) => {
                    if let Err(err) = self.repository.check_reach(lineage, record.id) {
                        add(
                            Grade::Error,
                            format!(
                                "snapshot {}: {}; put that object back from a copy, or delete the snapshot: until then nothing of its lineage can be freed",
                                record.id,
                                err.line()
                            ),
                        );
                    }
                }
                Err(err) => add(Grade::Error, err.line()),
            }
        }
    }

    /// The repository's id, as headers of volumes have it.
    fn repository_of_a_header(self: &Arc<Self>) -> Option<RepositoryId> {
        let volumes = self.records.volumes().ok()?;
        let parents = volumes.iter().find_map(|v| v.parent.as_ref().map(|p| p.repository));
        parents.or_else(|| {
            let used = volumes.iter().filter_map(|v| self.acquire(v, Need::Sealed).ok());
            used.filter_map(|u| u.volume.base()).map(|b| b.repository).next()
        })
    }
}

/// What the catalog says of this installation's refs.
struct Known<'a> {
    service: &'a Service,
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
        match self.service.ledger().catalog().get::<VolumeRecord>(&volume.to_string()) {
            Err(_) => RefNeed::Keep,
            Ok(None) => {
                if self.service.stores.has_any(volume) {
                    RefNeed::Keep
                } else {
                    RefNeed::Drop
                }
            }
            Ok(Some(record)) => match (fills, found, record.record.parent) {
                (true, _, _) if record.record.hydrated => RefNeed::Drop,
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

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
