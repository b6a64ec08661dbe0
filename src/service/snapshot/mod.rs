//! Snapshot verbs: create, list, show, delete, verify, diff.
//!
//! A create fixes its point in time under the volume's header, then copies in its own thread. A delete first hides the snapshot
//! in the catalog; then it is removed from the log, unneeded objects are deleted, and the catalog's record goes last. What a
//! killed process or a full disk left of either is settled at the next open, by housekeeping, and by the next verb
//! ([`super::settling`]).

mod diff;
mod labels;
mod protect;
mod unopened;
mod verify;

pub use unopened::answer_unopened;

use super::api::{SnapshotInfo, SnapshotState};
use super::jobs::Jobs;
use super::records::Labels;
pub(super) use super::records::SnapshotRecord;
use super::{Report, Role, ServedExport, Service, SnapshotView};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::repository::Repository;
use crate::snapshot::sweep::Swept;
use crate::units::{ByteLen, LineageId, SnapshotId, VolumeId};
use std::sync::Arc;

impl Service {
    /// Returns the answer about a snapshot.
    fn info(&self, record: &SnapshotRecord) -> Result<SnapshotInfo> {
        let lock = record.lock.as_ref().map(|lock| Ok::<_, Error>(lock.info(self.both_clocks()?))).transpose()?;
        Ok(SnapshotInfo {
            id: record.id,
            volume: record.volume,
            state: record.state,
            error: record.error.clone(),
            size: record.size,
            changed: record.changed,
            stored: record.stored,
            created: record.created,
            base: record.base,
            key: record.key_arn.clone(),
            description: record.description.clone(),
            name: record.name.clone(),
            tags: record.tags.clone(),
            held: record.held,
            lock,
        })
    }

    /// Returns the repository that has a snapshot.
    fn repository_of(&self, _: &SnapshotRecord) -> &Repository {
        &self.repository
    }

    /// Opens a snapshot in the repository that has it.
    fn reader_of(&self, record: &SnapshotRecord) -> Result<SnapshotReader> {
        self.repository_of(record).open_snapshot(record.lineage, record.id)
    }

    /// Returns the snapshot of a volume that is in progress.
    pub(super) fn pending_of(&self, volume: VolumeId, lineage: LineageId) -> Result<Option<SnapshotId>> {
        self.unsettled.settle_lineage(lineage);
        Ok(self
            .records
            .snapshots()?
            .into_iter()
            .find(|s| s.volume == volume && s.state == SnapshotState::Pending)
            .map(|s| s.id))
    }

    /// Takes a snapshot. Waits for its end if `wait` is set, and always in a command.
    pub(super) fn create_snapshot(
        &self,
        caller: &Caller,
        volume: &str,
        labels: Labels,
        wait: bool,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        self.check_labels(&labels)?;
        let volume = self.records.find_volume(volume)?;
        self.unsettled.settle_lineage(volume.lineage);
        self.attachments.refuse_if_elsewhere(&volume)?;
        let (id, job) = self.jobs.start(caller, &volume, labels)?;
        if wait || self.role == Role::Command {
            if !self.jobs.wait_for(&job, report) {
                let what = format!("snapshot {id} continues: only the wait for it has ended");
                return Err(Error::new(Kind::Interrupted, what).hint(format!("see `coffer snapshot show {id}`")));
            }
            let record = self.records.find_snapshot(&id.to_string())?;
            if record.state == SnapshotState::Error && job.is_stopped() && self.role == Role::Command {
                // The only one who knew of it waited for it and stopped it.
                self.delete_snapshot(caller, &id.to_string())?;
                return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
            }
            record.must_be_completed()?;
            return self.info(&record);
        }
        self.info(&self.records.find_snapshot(&id.to_string())?)
    }

    /// Opens a snapshot for reading, or joins its readers. Unwraps its data keys for every caller, so that each is checked and
    /// audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] unless it is completed; the KMS's errors for its keys.
    pub fn open_view(&self, snapshot: SnapshotId, caller: &Caller) -> Result<Arc<SnapshotView>> {
        self.views.open(snapshot, caller)
    }

    /// Describes a snapshot as an export.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] unless it is completed.
    pub fn snapshot_export(&self, snapshot: SnapshotId) -> Result<ServedExport> {
        let record = self.records.find_snapshot(&snapshot.to_string())?;
        record.must_be_completed()?;
        let description = format!("coffer snapshot of {}, taken {}", record.volume, record.created);
        Ok(ServedExport { name: snapshot.to_string(), description, size: record.size, read_only: true })
    }

    /// Waits for the snapshots in progress, and stops them if `report` returns `false`. Returns those that did not complete.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn wait_for_snapshots(&self, report: Report<'_>) -> Result<Vec<SnapshotId>> {
        let mut failed = Vec::new();
        for (id, job) in self.jobs.under_way() {
            Jobs::wait_out(&job, report);
            if self.records.snapshot(id)?.is_some_and(|r| r.state != SnapshotState::Completed && !r.is_deleting()) {
                failed.push(id);
            }
        }
        Ok(failed)
    }

    /// Returns one snapshot.
    pub(super) fn show_snapshot(&self, what: &str) -> Result<SnapshotInfo> {
        // Its state is that after what was left unfinished is settled.
        if let Ok(found) = self.records.find_snapshot(what) {
            self.unsettled.settle_lineage(found.lineage);
        }
        self.info(&self.records.find_snapshot(what)?)
    }

    /// Hides a snapshot at once, and removes the objects that no volume or later snapshot needs.
    pub(super) fn delete_snapshot(&self, caller: &Caller, what: &str) -> Result<String> {
        let id = match what.parse() {
            Ok(id) => id,
            Err(_) => self.records.find_snapshot(what)?.id,
        };
        if let Some(found) = self.records.snapshot(id)? {
            self.unsettled.settle_lineage(found.lineage);
        }
        let record = match self.records.snapshot(id)? {
            // An interrupted delete was finished just now, or when this process started.
            None if self.unsettled.has_finished(id) => {
                return Ok(format!("snapshot {id} is deleted"));
            }
            Some(record) if record.is_deleting() => record,
            _ => self.records.find_snapshot(&id.to_string())?,
        };
        if record.state == SnapshotState::Pending {
            return Err(Error::new(Kind::Busy, format!("snapshot {} is still in progress", record.id))
                .hint("wait until it is completed"));
        }
        self.views.refuse_if_open(record.id)?;
        self.logs.check(record.lineage)?;
        let now = self.both_clocks()?;
        if !record.is_deleting() {
            self.must_be_unprotected(&record, now)?;
        }
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id);
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&record.id.to_string())? else { return Ok(()) };
            if let Some(why) = Self::is_protected(&found.record, now).filter(|_| !found.record.is_deleting()) {
                return Err(Error::new(Kind::InvalidState, format!("snapshot {} cannot be deleted: {why}", record.id)));
            }
            // Its name is free at once.
            let gone = SnapshotRecord { state: SnapshotState::Deleting, name: None, ..found.record };
            tx.update(&gone, found.version).map(drop)
        })?;
        let swept = self.lineages.finish_delete(&record).inspect_err(|_| {
            self.unsettled.add(record.lineage, record.id, None);
        });
        let swept = swept.map_err(|e| {
            e.context(format!("snapshot {} is hidden, but not all of its data is removed yet", record.id))
        })?;
        Ok(self.say_deleted(record.id, &swept))
    }

    /// Returns the message about a delete: what it freed, and what still occupies space.
    pub(super) fn say_deleted(&self, id: SnapshotId, swept: &Swept) -> String {
        let mut said = format!("snapshot {id} is deleted; freed {}", ByteLen(swept.freed));
        if let Some(why) = &swept.blind {
            said += &format!("; more is kept, because unreadable records may need it ({why}): see `coffer doctor`");
        }
        if self.views.refuse_if_open(id).is_err() {
            said += "; an NBD client is still reading it";
        }
        for (held, on) in &swept.refs {
            let volume = |sort: &str| {
                let id = held.strip_suffix(sort)?.parse::<VolumeId>().ok()?;
                let found = self.records.volume(id).ok()??;
                Some(found.shown())
            };
            if let Some(volume) = volume("-fill") {
                said += &format!(
                    "\n{on} stays in the repository until volume {volume} is filled from it (by a server) or deleted"
                );
            } else if let Some(volume) = volume("-base") {
                said += &format!(
                    "\n{on} stays in the repository as the base of the next snapshot of {volume}, until that is completed or the last snapshot of {volume} is deleted"
                );
            } else {
                said += &format!("\n{on} stays in the repository for the ref {held}");
            }
        }
        said
    }
}
