//! Snapshot verbs: create, list, show, delete, verify.
//!
//! A create fixes its point in time under the volume's header, then copies in a thread of its own. A delete hides the
//! snapshot in the catalog first; then the log says so, what nobody needs goes, and the catalog's record last. What a killed
//! process, or a full disk, left of either is settled at the next open, and by housekeeping and the next verb
//! ([`super::lineage`]).

use super::api::{Progress, Reply, SnapshotInfo};
use super::datadir::DataDir;
use super::opening::{InUse, Need};
pub(super) use super::records::SnapshotRecord;
use super::records::{DELETING, VolumeRecord};
use super::{Report, Role, Service};
use crate::cipher::Sealed;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::reader::{SnapshotReader, Trust};
use crate::snapshot::repository::Repository;
use crate::snapshot::sweep::Swept;
use crate::snapshot::writer::{Completed, SnapshotSpec, SnapshotWriter};
use crate::units::{ByteLen, CHUNK, ChunkNo, DataKeyId, LineageId, SnapshotId, VolumeId, chunks_in};
use crate::volume::format::PendingRecord;
use crate::volume::parent::Parent;
use crate::volume::pending::{Begin, ChunkSink, Pending};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

impl SnapshotRecord {
    /// What is answered of it.
    fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id,
            volume: self.volume,
            state: self.state.clone(),
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

/// A snapshot being copied in this process.
#[derive(Default)]
pub(super) struct Job {
    copied: AtomicU64,
    stop: AtomicBool,
    over: Mutex<bool>,
    changed: Condvar,
}

/// All of them, and what is still to be settled.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) running: Mutex<HashMap<SnapshotId, Arc<Job>>>,
    pub(super) left: super::settling::Left,
}

/// Chunks go into the writer; the base is asked through its reader.
struct Sink {
    /// What the volume has at the point in time.
    chunks: u64,
    writer: SnapshotWriter,
    base: Option<SnapshotReader>,
}

impl ChunkSink for Sink {
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        self.writer.put_chunk(chunk, sealed, key)
    }
    fn next_in_base(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.base.as_ref().map_or(Ok(None), |b| b.next_with_sectors(from))
    }
    fn chunks(&self) -> u64 {
        self.chunks
    }
}

/// A snapshot that was begun.
pub(super) struct Begun {
    used: InUse,
    pending: Arc<Pending>,
    sink: Arc<Sink>,
    pub(super) record: SnapshotRecord,
}

impl Service {
    pub(super) fn pending_of(self: &Arc<Self>, volume: VolumeId) -> Result<Option<SnapshotId>> {
        self.settle_left();
        Ok(self.records.snapshots()?.into_iter().find(|s| s.volume == volume && s.state == "pending").map(|s| s.id))
    }

    pub(super) fn create_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        volume: &str,
        description: String,
        wait: bool,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        self.settle_left();
        let volume = self.records.find_volume(volume)?;
        let begun = self.begin(caller, &volume, description)?;
        let (id, job) = (begun.record.id, Arc::new(Job::default()));
        self.jobs.running.lock().insert(id, job.clone());
        let begun = Arc::new(Mutex::new(Some(begun)));
        let run = {
            let (service, job, begun) = (self.clone(), job.clone(), begun.clone());
            move || service.run_begun(id, &begun, &job)
        };
        if let Err(err) = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run) {
            tracing::warn!("start a thread for snapshot {id}: {err}; its caller's thread copies");
            self.run_begun(id, &begun, &job);
        }
        if wait || self.role == Role::Command {
            if !wait_for(&job, report, self.role) {
                let what = format!("snapshot {id} continues: only the wait for it has ended");
                return Err(Error::new(Kind::Interrupted, what).hint(format!("see `coffer snapshot show {id}`")));
            }
            let record = self.records.find_snapshot(&id.to_string())?;
            if record.state == "error" && job.stop.load(Ordering::Relaxed) && self.role == Role::Command {
                // Whoever waited for it has stopped it, and nobody else has heard of it.
                self.delete_snapshot(caller, &id.to_string())?;
                return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
            }
            record.must_be_completed()?;
            return Ok(record.info());
        }
        Ok(self.records.find_snapshot(&id.to_string())?.info())
    }

    /// Fixes the point in time, and writes down that the snapshot is pending.
    pub(super) fn begin(
        self: &Arc<Self>,
        caller: &Caller,
        volume: &VolumeRecord,
        description: String,
    ) -> Result<Begun> {
        self.refuse_if_attached_elsewhere(volume)?;
        let used = self.opens.acquire(volume, Need::Sealed)?;
        self.logs.check(volume.lineage)?;
        self.bases.settle_header(volume, &used.volume);
        // One at a time from here on: size, base and epoch must be what the volume has when its point in time is fixed.
        let sized = self.turns.take(volume.id);
        let based = self.bases.keep();
        let id = SnapshotId::draw(&*self.env.rng);
        let (epoch, keys, context, generation) = used.volume.with_header(|h| {
            let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| k.keys.clone()).collect();
            let blob = |e| wrapped.iter().find(|k| k.epoch == e).map(|k| k.blob.clone()).unwrap_or_default();
            let keys: Vec<_> = h.identity().key_epochs.iter().map(|k| (k.data_key_id, blob(k.epoch))).collect();
            (h.state().epoch, keys, h.identity().context.clone(), h.identity().map_generation)
        });
        let time = self.env.now();
        let spec = SnapshotSpec {
            id,
            lineage: volume.lineage,
            volume: Some(volume.id),
            size: used.volume.size(),
            time,
            point: epoch.0,
            map_generation: generation,
            base: None,
            keys: keys.clone(),
            source: None,
        };
        let (writer, base, reader) = self.bases.begin(&used.volume, &spec)?;
        let sink = Arc::new(Sink { chunks: chunks_in(spec.size), writer, base: reader });
        let record = SnapshotRecord {
            id,
            volume: volume.id,
            lineage: volume.lineage,
            state: "pending".to_owned(),
            error: None,
            size: spec.size,
            changed: 0,
            stored: 0,
            created: time,
            base: base.as_ref().map(|b| b.snapshot),
            key_arn: volume.key_arn.clone(),
            data_keys: keys.iter().map(|(id, _)| *id).collect(),
            context,
            description,
        };
        let act = Act::new("ec2:CreateSnapshot")
            .key(volume.key_arn.clone())
            .detail("volume", volume.id)
            .detail("snapshot", id);
        self.ledger().audited(caller, act, |tx| tx.insert(&record))?;
        let begin = Begin {
            snapshot: id,
            time: time.0,
            repository: self.repository.id()?,
            base,
            sink: sink.clone() as Arc<dyn ChunkSink>,
        };
        let pending = match used.volume.begin_snapshot(begin) {
            Ok(pending) => pending,
            Err(err) => {
                self.leave_unsettled(record.lineage, id, Some(err.line()));
                drop((sink, based, sized));
                drop(used);
                self.settle_left();
                return Err(err);
            }
        };
        Ok(Begun { used, pending, sink, record })
    }

    fn run_begun(self: &Arc<Self>, id: SnapshotId, begun: &Mutex<Option<Begun>>, job: &Job) {
        let Some(begun) = begun.lock().take() else { return };
        self.run_job(begun, job);
        self.jobs.running.lock().remove(&id);
        *job.over.lock() = true;
        job.changed.notify_all();
    }

    pub(super) fn run_job(self: &Arc<Self>, begun: Begun, job: &Job) {
        let Begun { used, pending, sink, record } = begun;
        let copied = used.volume.copy_pending(&pending, |n| {
            job.copied.store(n, Ordering::Relaxed);
            !job.stop.load(Ordering::Relaxed)
        });
        let outcome = copied.and_then(|_| sink.writer.finish());
        match outcome {
            Ok(done) => self.complete(&used, pending.record(), &record, &done),
            Err(err) => {
                tracing::error!("snapshot {}: {}", record.id, err.line());
                if err.kind() == Kind::Integrity && record.base.is_some() {
                    self.bases.distrust(&record);
                }
                if let Err(left) = used.volume.drop_snapshot(record.id) {
                    tracing::error!("snapshot {}: {}", record.id, left.line());
                }
                drop(pending);
                // A writer that others still hold leaves its objects to the next sweep.
                if let Some(Err(left)) = Arc::into_inner(sink).map(|s| s.writer.abort()) {
                    tracing::warn!("snapshot {}: {}", record.id, left.line());
                }
                self.leave_unsettled(record.lineage, record.id, Some(err.line()));
                drop(used);
                self.settle_left();
            }
        }
    }

    /// The log has it: the volume's base moves, held by a ref, and the catalog says so.
    fn complete(&self, used: &InUse, pending: &PendingRecord, record: &SnapshotRecord, done: &Completed) {
        self.logs.note(record.lineage);
        let stored = done.stats.stored_bytes;
        let changed = done.stats.changed * CHUNK as u64;
        if let Err(err) = self.bases.take(&used.volume, record.lineage, pending) {
            tracing::error!(
                "snapshot {} is completed, but {} could not take it as its base: {}",
                record.id,
                record.volume,
                err.line()
            );
        }
        let noted = self.records.note_snapshot(record.id, |r| {
            (r.state, r.changed, r.stored) = ("completed".to_owned(), changed, stored);
        });
        if noted.is_err() {
            self.leave_unsettled(record.lineage, record.id, None);
        }
    }

    /// Asks all snapshots under way to stop, and waits until they have.
    pub(super) fn stop_jobs(&self) {
        let jobs: Vec<_> = self.jobs.running.lock().values().cloned().collect();
        for job in &jobs {
            job.stop.store(true, Ordering::Relaxed);
        }
        for job in jobs {
            let mut over = job.over.lock();
            while !*over {
                job.changed.wait(&mut over);
            }
        }
    }

    /// Waits for the snapshots under way. Where `report` says to stop, they are given up. Answers those that did not complete.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn wait_for_snapshots(self: &Arc<Self>, report: Report<'_>) -> Result<Vec<SnapshotId>> {
        let jobs: Vec<_> = self.jobs.running.lock().iter().map(|(id, job)| (*id, job.clone())).collect();
        let mut failed = Vec::new();
        for (id, job) in jobs {
            wait_for(&job, report, Role::Command);
            if self.records.snapshot(id)?.is_some_and(|r| r.state != "completed" && !r.is_deleting()) {
                failed.push(id);
            }
        }
        Ok(failed)
    }

    pub(super) fn list_snapshots(self: &Arc<Self>) -> Result<Vec<SnapshotInfo>> {
        self.settle_left();
        let mut all = self.records.snapshots()?;
        all.retain(|r| !r.is_deleting());
        all.sort_by_key(|r| (r.created, r.id));
        Ok(all.iter().map(SnapshotRecord::info).collect())
    }

    pub(super) fn show_snapshot(self: &Arc<Self>, what: &str) -> Result<SnapshotInfo> {
        self.settle_left();
        Ok(self.records.find_snapshot(what)?.info())
    }

    /// Hides the snapshot at once; its objects go unless a volume or a later snapshot needs them.
    pub(super) fn delete_snapshot(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<Reply> {
        let id: SnapshotId = what.parse()?;
        self.settle_left();
        let record = match self.records.snapshot(id)? {
            // What a kill or a full disk had cut off was finished just now, or when this process began.
            None if self.jobs.left.has_finished(id) => {
                return Ok(Reply::Done { message: format!("snapshot {id} is deleted") });
            }
            Some(record) if record.is_deleting() => record,
            _ => self.records.find_snapshot(what)?,
        };
        if record.state == "pending" {
            return Err(Error::new(Kind::Busy, format!("snapshot {} is being taken", record.id))
                .hint("wait until it is completed"));
        }
        self.refuse_if_viewed(record.id)?;
        self.logs.check(record.lineage)?;
        if self.repository.live(record.lineage, record.id)?.is_some_and(|live| live.held) {
            return Err(Error::new(Kind::InvalidState, format!("snapshot {} is held against deletion", record.id)));
        }
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id);
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&record.id.to_string())? else { return Ok(()) };
            tx.update(&SnapshotRecord { state: DELETING.to_owned(), ..found.record }, found.version).map(drop)
        })?;
        let swept = self.lineages.finish_delete(&record).inspect_err(|_| {
            self.leave_unsettled(record.lineage, record.id, None);
        });
        let swept = swept.map_err(|e| {
            e.context(format!("snapshot {} is hidden, but not all of it could be removed yet", record.id))
        })?;
        Ok(Reply::Done { message: self.say_deleted(record.id, &swept) })
    }

    /// What a delete came to, and what still holds space.
    pub(super) fn say_deleted(&self, id: SnapshotId, swept: &Swept) -> String {
        let mut said = format!("snapshot {id} is deleted; freed {}", ByteLen(swept.freed));
        if let Some(why) = &swept.blind {
            said += &format!("; more is kept, for what cannot be read may need it ({why}): see `coffer doctor`");
        }
        if self.refuse_if_viewed(id).is_err() {
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

    pub(super) fn verify_snapshot(&self, what: &str, trust: Option<&str>, report: Report<'_>) -> Result<Reply> {
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
pub fn verify_unopened(data: &DataDir, env: Env, what: &str, trust: Option<&str>, report: Report<'_>) -> Result<Reply> {
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
) -> Result<Reply> {
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
    Ok(Reply::Done { message })
}

/// Waits until a snapshot is over. `false`: who waited has gone. A server goes on without them; a command is all there is.
fn wait_for(job: &Job, report: Report<'_>, role: Role) -> bool {
    let mut over = job.over.lock();
    while !*over {
        let timed_out = job.changed.wait_for(&mut over, Duration::from_millis(200)).timed_out();
        if timed_out {
            let done = job.copied.load(Ordering::Relaxed) * CHUNK as u64;
            let go_on = report(Progress { what: "copy".to_owned(), done, total: None, unit: "bytes".to_owned() });
            match role {
                Role::Daemon if !go_on => return false,
                Role::Command if !go_on => job.stop.store(true, Ordering::Relaxed),
                _ => {}
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hangs_up_ends_the_waiting_and_only_a_command_the_snapshot() {
        let job = Arc::new(Job::default());
        assert!(!wait_for(&job, &mut |_| false, Role::Daemon));
        assert!(!job.stop.load(Ordering::Relaxed), "the server goes on with it");
        let other = job.clone();
        let mut gone = |_| {
            // As its thread does when it has seen that it is to stop.
            let other = other.clone();
            drop(std::thread::spawn(move || {
                *other.over.lock() = true;
                other.changed.notify_all();
            }));
            false
        };
        assert!(wait_for(&job, &mut gone, Role::Command));
        assert!(job.stop.load(Ordering::Relaxed));
    }
}
