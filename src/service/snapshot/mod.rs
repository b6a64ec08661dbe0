//! Snapshot verbs: create, list, show, delete, verify, diff.
//!
//! A create fixes its point in time under the volume's header, then copies in its own thread. A delete first hides the snapshot
//! in the catalog; then it is removed from the log, unneeded objects are deleted, and the catalog's record goes last. What a
//! killed process or a full disk left of either is settled at the next open, by housekeeping, and by the next verb
//! ([`super::settling`]).

mod delete;
mod diff;
mod labels;
mod protect;
mod prune;
mod recycle;
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
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::repository::Repository;
use crate::units::{LineageId, SnapshotId, VolumeId};
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
            schedule: record.schedule,
            recycled_until: record.recycled.as_ref().map(|r| r.until),
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
                self.delete_snapshot(caller, &id.to_string(), true)?;
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
}
