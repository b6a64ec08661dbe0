//! Snapshot verbs: create, list, show, delete, verify, diff.
//!
//! A create fixes its point in time under the volume's header, then copies in its own thread. A delete first hides the snapshot
//! in the catalog; then it is removed from the log, unneeded objects are deleted, and the catalog's record goes last. What a
//! killed process or a full disk left of either is settled at the next open, by housekeeping, and by the next verb
//! ([`super::settling`]).

mod copy;
mod delete;
mod diff;
mod drill;
mod labels;
mod protect;
mod prune;
mod recycle;
mod unopened;
mod verify;
mod wait;

pub use unopened::answer_unopened;
pub(super) use verify::trusted;

use super::api::{SnapshotInfo, SnapshotState};
use super::beginning::Wanted;
use super::copying::Stop;
use super::home::Home;
use super::records::Labels;
pub(super) use super::records::SnapshotRecord;
use super::records::VolumeRecord;
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
        let job = self.jobs.job_of(record.id).filter(|_| record.state == SnapshotState::Pending);
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
            repository: self.repositories.name_of(record.repository),
            copy: job.map(|job| job.progress()),
            schedule: record.schedule,
            proved: record.proved,
            group: record.group.map(|group| group.id),
            source: record.source.as_ref().map(|of| of.snapshot),
            recycled_until: record.recycled.as_ref().map(|r| r.until),
        })
    }

    /// Returns the repository that has a snapshot.
    fn repository_of(&self, record: &SnapshotRecord) -> Result<Arc<Repository>> {
        self.repositories.open(record.repository)
    }

    /// Opens a snapshot in the repository that has it.
    fn reader_of(&self, record: &SnapshotRecord) -> Result<SnapshotReader> {
        self.repository_of(record)?.open_snapshot(record.lineage, record.id)
    }

    /// Returns the snapshot of a volume that is in progress.
    pub(super) fn pending_of(&self, volume: VolumeId, lineage: LineageId) -> Result<Option<SnapshotId>> {
        self.unsettled.settle_lineage(lineage);
        Ok(self
            .records
            .snapshots()?
            .into_iter()
            .find(|s| s.volume == volume && s.source.is_none() && s.state == SnapshotState::Pending)
            .map(|s| s.id))
    }

    /// Takes a snapshot. Waits for its end if `wait` is set, and always in a command.
    pub(super) fn create_snapshot(
        &self,
        caller: &Caller,
        volume: &str,
        labels: (Option<&str>, Labels),
        wait: bool,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        let mut taken = self.create_snapshots(caller, &[volume.to_owned()], labels, wait, report)?;
        taken.pop().ok_or_else(|| Error::new(Kind::Failed, format!("no snapshot of {volume} was taken")))
    }

    /// Takes snapshots of volumes at one instant: all, or none. Waits for their end if `wait` is set, and always in a
    /// command.
    pub(super) fn create_snapshots(
        &self,
        caller: &Caller,
        volumes: &[String],
        (repository, labels): (Option<&str>, Labels),
        wait: bool,
        report: Report<'_>,
    ) -> Result<Vec<SnapshotInfo>> {
        self.check_labels(&labels)?;
        let wanted = self.wanted(volumes, repository)?;
        for one in &wanted {
            self.unsettled.settle_home(Home { repository: one.to, lineage: one.volume.lineage });
            self.attachments.refuse_if_elsewhere(&one.volume)?;
            self.finish_earlier(&one.volume, report)?;
        }
        let jobs = self.jobs.start(caller, wanted, &labels)?;
        if wait || self.role == Role::Command {
            // Whoever interrupts the wait for one does so for all: each is asked in turn.
            let ended = jobs.iter().map(|(id, job)| self.await_snapshot(caller, (*id, job), Stop::Cancel, report));
            return ended.collect::<Vec<_>>().into_iter().collect();
        }
        jobs.iter().map(|(id, _)| self.info(&self.records.find_snapshot(&id.to_string())?)).collect()
    }

    /// Returns the snapshots that a request asks for.
    fn wanted(&self, volumes: &[String], repository: Option<&str>) -> Result<Vec<Wanted>> {
        let named = repository.map(|name| self.repositories.find(name)).transpose()?;
        let mut wanted: Vec<Wanted> = Vec::with_capacity(volumes.len());
        for what in volumes {
            let volume = self.records.find_volume(what)?;
            if wanted.iter().any(|one| one.volume.id == volume.id) {
                return Err(Error::new(Kind::Usage, format!("volume {} is named twice", volume.shown())));
            }
            let to = named.map_or_else(|| self.repositories.for_volume(&volume), Ok)?;
            wanted.push(Wanted { id: SnapshotId::draw(&*self.env.rng), volume, to });
        }
        if wanted.is_empty() {
            return Err(Error::new(Kind::Usage, "no volume is named").hint("name at least one"));
        }
        Ok(wanted)
    }

    /// Finishes what an earlier command left of a volume's snapshots, because no server does.
    fn finish_earlier(&self, volume: &VolumeRecord, report: Report<'_>) -> Result<()> {
        if self.role != Role::Command {
            return Ok(());
        }
        for job in self.jobs.resume_all(|r| r.volume == volume.id && r.source.is_none()) {
            job.wait(report, Some(Stop::Suspend));
            if job.stopped().is_some() {
                let what = format!("an earlier snapshot of volume {} is suspended", volume.shown());
                return Err(Error::new(Kind::Interrupted, what).hint("the next `coffer serve` continues it"));
            }
        }
        Ok(())
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

    /// Waits for the snapshots in progress, at most until `report` returns `false`. Returns those that did not complete.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn wait_for_snapshots(&self, report: Report<'_>) -> Result<Vec<SnapshotId>> {
        let mut failed = Vec::new();
        for (id, job) in self.jobs.under_way() {
            job.wait(report, None);
            if self.records.snapshot(id)?.is_some_and(|r| r.state != SnapshotState::Completed && !r.is_deleting()) {
                failed.push(id);
            }
        }
        Ok(failed)
    }

    /// Returns one snapshot.
    pub(super) fn show_snapshot(&self, what: &str) -> Result<SnapshotInfo> {
        // Its state is that after what was left unfinished is settled. A server's housekeeping does that.
        if self.role == Role::Command
            && let Ok(found) = self.records.find_snapshot(what)
        {
            self.unsettled.settle_home(found.home());
        }
        self.info(&self.records.find_snapshot(what)?)
    }
}
