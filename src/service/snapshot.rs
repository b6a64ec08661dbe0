//! Snapshot verbs: create, list, show, delete, verify.
//!
//! A create fixes its point in time under the volume's header, then copies in a thread of its own. A delete hides the
//! snapshot in the catalog first; then the log says so, what nobody needs goes, and the catalog's record last. What a killed
//! process, or a full disk, left of either is settled at the next open, and by housekeeping and the next verb
//! ([`super::settling`]).

use super::api::SnapshotState;
use super::api::{Progress, SnapshotInfo};
use super::datadir::DataDir;
use super::jobs::Jobs;
pub(super) use super::records::SnapshotRecord;
use super::{Report, Role, ServedExport, Service, SnapshotView};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::reader::Trust;
use crate::snapshot::repository::Repository;
use crate::snapshot::sweep::Swept;
use crate::units::{ByteLen, LineageId, SnapshotId, VolumeId};
use std::sync::Arc;

impl SnapshotRecord {
    /// What is answered of it.
    fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id,
            volume: self.volume,
            state: self.state,
            error: self.error.clone(),
            size: self.size,
            changed: self.changed,
            stored: self.stored,
            created: self.created,
            base: self.base,
            key: self.key_arn.clone(),
            description: self.description.clone(),
        }
    }
}

impl Service {
    /// The snapshot that is being taken of a volume.
    pub(super) fn pending_of(&self, volume: VolumeId) -> Result<Option<SnapshotId>> {
        self.unsettled.settle();
        Ok(self
            .records
            .snapshots()?
            .into_iter()
            .find(|s| s.volume == volume && s.state == SnapshotState::Pending)
            .map(|s| s.id))
    }

    /// Takes a snapshot; waits for its end if asked to, and in a command always.
    pub(super) fn create_snapshot(
        &self,
        caller: &Caller,
        volume: &str,
        description: String,
        wait: bool,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        self.unsettled.settle();
        let volume = self.records.find_volume(volume)?;
        self.attachments.refuse_if_elsewhere(&volume)?;
        let (id, job) = self.jobs.start(caller, &volume, description)?;
        if wait || self.role == Role::Command {
            if !self.jobs.wait_for(&job, report) {
                let what = format!("snapshot {id} continues: only the wait for it has ended");
                return Err(Error::new(Kind::Interrupted, what).hint(format!("see `coffer snapshot show {id}`")));
            }
            let record = self.records.find_snapshot(&id.to_string())?;
            if record.state == SnapshotState::Error && job.is_stopped() && self.role == Role::Command {
                // Whoever waited for it has stopped it, and nobody else has heard of it.
                self.delete_snapshot(caller, &id.to_string())?;
                return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
            }
            record.must_be_completed()?;
            return Ok(record.info());
        }
        Ok(self.records.find_snapshot(&id.to_string())?.info())
    }

    /// Opens a snapshot for reading, or joins those who have it open. Its data keys are unwrapped for every caller, so that
    /// each is asked for and audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] before it is completed; what the KMS says of its key.
    pub fn open_view(&self, snapshot: SnapshotId, caller: &Caller) -> Result<Arc<SnapshotView>> {
        self.views.open(snapshot, caller)
    }

    /// What a snapshot would be as an export.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] before it is completed.
    pub fn snapshot_export(&self, snapshot: SnapshotId) -> Result<ServedExport> {
        let record = self.records.find_snapshot(&snapshot.to_string())?;
        record.must_be_completed()?;
        let description = format!("coffer snapshot of {}, taken {}", record.volume, record.created);
        Ok(ServedExport { name: snapshot.to_string(), description, size: record.size, read_only: true })
    }

    /// Waits for the snapshots under way. Where `report` says to stop, they are given up. Answers those that did not complete.
    ///
    /// # Errors
    /// When the catalog cannot be read.
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

    /// All snapshots that are not hidden, oldest first.
    pub(super) fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.unsettled.settle();
        let mut all = self.records.snapshots()?;
        all.retain(|r| !r.is_deleting());
        all.sort_by_key(|r| (r.created, r.id));
        Ok(all.iter().map(SnapshotRecord::info).collect())
    }

    /// One snapshot.
    pub(super) fn show_snapshot(&self, what: &str) -> Result<SnapshotInfo> {
        self.unsettled.settle();
        Ok(self.records.find_snapshot(what)?.info())
    }

    /// Hides the snapshot at once; its objects go unless a volume or a later snapshot needs them.
    pub(super) fn delete_snapshot(&self, caller: &Caller, what: &str) -> Result<String> {
        let id: SnapshotId = what.parse()?;
        self.unsettled.settle();
        let record = match self.records.snapshot(id)? {
            // What a kill or a full disk had cut off was finished just now, or when this process began.
            None if self.unsettled.has_finished(id) => {
                return Ok(format!("snapshot {id} is deleted"));
            }
            Some(record) if record.is_deleting() => record,
            _ => self.records.find_snapshot(what)?,
        };
        if record.state == SnapshotState::Pending {
            return Err(Error::new(Kind::Busy, format!("snapshot {} is being taken", record.id))
                .hint("wait until it is completed"));
        }
        self.views.refuse_if_open(record.id)?;
        self.logs.check(record.lineage)?;
        if self.repository.live(record.lineage, record.id)?.is_some_and(|live| live.held) {
            return Err(Error::new(Kind::InvalidState, format!("snapshot {} is held against deletion", record.id)));
        }
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id);
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&record.id.to_string())? else { return Ok(()) };
            tx.update(&SnapshotRecord { state: SnapshotState::Deleting, ..found.record }, found.version).map(drop)
        })?;
        let swept = self.lineages.finish_delete(&record).inspect_err(|_| {
            self.unsettled.add(record.lineage, record.id, None);
        });
        let swept = swept.map_err(|e| {
            e.context(format!("snapshot {} is hidden, but not all of it could be removed yet", record.id))
        })?;
        Ok(self.say_deleted(record.id, &swept))
    }

    /// What a delete came to, and what still holds space.
    pub(super) fn say_deleted(&self, id: SnapshotId, swept: &Swept) -> String {
        let mut said = format!("snapshot {id} is deleted; freed {}", ByteLen(swept.freed));
        if let Some(why) = &swept.blind {
            said += &format!("; more is kept, for what cannot be read may need it ({why}): see `coffer doctor`");
        }
        if self.views.refuse_if_open(id).is_err() {
            said += "; an NBD client still reads it";
        }
        for (held, on) in &swept.refs {
            let volume = |sort: &str| {
                let id = held.strip_suffix(sort)?.parse::<VolumeId>().ok()?;
                let found = self.records.volume(id).ok()??;
                Some(found.shown())
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

    /// Reads all of a completed snapshot and checks it.
    pub(super) fn verify_snapshot(&self, what: &str, trust: Option<&str>, report: Report<'_>) -> Result<String> {
        let record = self.records.find_snapshot(what)?;
        record.must_be_completed()?;
        verify(&self.repository, record.lineage, record.id, trust, report)
    }
}

/// Checks a snapshot of a data directory without its root key: the repository alone says all that is needed. The catalog,
/// which is sealed by that key, is not asked.
///
/// # Errors
/// [`Kind::NotFound`]; [`Kind::Integrity`] for what is bad.
pub fn verify_unopened(
    data: &DataDir,
    env: Env,
    what: &str,
    trust: Option<&str>,
    report: Report<'_>,
) -> Result<String> {
    let id: SnapshotId = what.parse()?;
    let repository = Repository::open(&data.repository(), env, None)?;
    let mut damage = None;
    for lineage in repository.lineages()? {
        match repository.locate(lineage, id) {
            Ok(found) if found.live => return verify(&repository, lineage, id, trust, report),
            Ok(_) => {}
            Err(err) if err.kind() == Kind::NotFound => {}
            // Of another lineage, perhaps.
            Err(err) => damage = damage.or(Some(err)),
        }
        // What a record that cannot be read said may be about this one.
        let unreadable = repository.unreadable_by_anyone(lineage).unwrap_or_default();
        damage = damage.or_else(|| unreadable.first().map(|u| u.error.replay()));
    }
    let ask = "without its keys nothing tells what that record said: ask again while `coffer serve` runs";
    Err(damage.map(|err| err.hint(ask)).unwrap_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no snapshot {what}")).hint("see `coffer snapshot list`")
    }))
}

fn verify(
    repository: &Repository,
    lineage: LineageId,
    id: SnapshotId,
    trust: Option<&str>,
    report: Report<'_>,
) -> Result<String> {
    let pinned = trust.map(|hex| hex.parse::<crate::units::Hash32>().map(|h| h.0));
    let pinned = pinned.transpose().map_err(|e| {
        e.context("the key to trust")
            .hint("it is the signing key that `coffer status` shows, not a file and not the root key")
    })?;
    let mut chunks = 0u64;
    let verified = repository.verify(lineage, id, pinned, &mut |done| {
        chunks += 1;
        !chunks.is_multiple_of(64)
            || report(Progress { what: "verify".to_owned(), done, total: None, unit: "bytes".to_owned() })
    })?;
    if let Some(bad) = verified.bad.first() {
        let what = format!(
            "snapshot {id}: {} parts of it cannot be read, the first at chunk {}",
            verified.bad.len(),
            bad.first
        );
        return Err(Error::new(Kind::Integrity, what).because(bad.error.replay()));
    }
    let trust = match verified.trust {
        Trust::Attested => "attested by the key that you trust".to_owned(),
        Trust::Unattested => format!("consistent but unattested; pin --trust {}", hex::encode(verified.public_key)),
    };
    let message = format!("snapshot {id}: {} chunks, {} bytes, {trust}", verified.chunks, verified.bytes);
    Ok(message)
}
