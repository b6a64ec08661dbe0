//! Snapshot verbs: create, list, show, delete, verify.
//!
//! A create fixes its point in time under the volume's header, then copies in a thread of its own. What a killed process
//! left is settled at the next open: if the repository's log has the snapshot it is completed, else it is in error.

use super::api::{Progress, Reply, SnapshotInfo};
use super::opening::{InUse, Need};
use super::volume::VolumeRecord;
use super::{Report, Role, Service};
use crate::cipher::Sealed;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::catalog::Record;
use crate::kms::{Act, Caller};
use crate::snapshot::reader::{SnapshotReader, Trust};
use crate::snapshot::refs::RefKind;
use crate::snapshot::writer::{Completed, SnapshotSpec, SnapshotWriter};
use crate::units::{CHUNK, ChunkNo, DataKeyId, LineageId, SnapshotId, VolumeId};
use crate::volume::format::PendingRecord;
use crate::volume::parent::Parent;
use crate::volume::pending::{Begin, ChunkSink, Pending};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the catalog keeps of a snapshot; for its contents the repository's log wins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapshotId,
    pub(super) volume: VolumeId,
    pub(super) lineage: LineageId,
    pub(super) state: String,
    pub(super) error: Option<String>,
    pub(super) size: u64,
    pub(super) changed: u64,
    pub(super) stored: u64,
    pub(super) created: Timestamp,
    pub(super) base: Option<SnapshotId>,
    pub(super) key_arn: String,
    pub(super) data_keys: Vec<DataKeyId>,
    pub(super) context: BTreeMap<String, String>,
    pub(super) description: String,
}

impl Record for SnapshotRecord {
    const KIND: &'static str = "snapshot";
    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl SnapshotRecord {
    pub(super) fn must_be_completed(&self) -> Result<()> {
        match self.state.as_str() {
            "completed" => Ok(()),
            "error" => Err(Error::new(
                Kind::InvalidState,
                format!("snapshot {} failed: {}", self.id, self.error.as_deref().unwrap_or("no reason is known")),
            )
            .hint("take another")),
            state => Err(Error::new(Kind::InvalidState, format!("snapshot {} is {state}", self.id))
                .hint("wait until it is completed")),
        }
    }

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

/// How far this installation's log of a lineage was, when it last wrote there: a shorter one was rolled back.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LogRecord {
    lineage: LineageId,
    last: u64,
}

impl Record for LogRecord {
    const KIND: &'static str = "repository-log";
    fn id(&self) -> String {
        self.lineage.to_string()
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

/// All of them.
#[derive(Default)]
pub(super) struct Jobs(Mutex<HashMap<SnapshotId, Arc<Job>>>, Mutex<()>);

/// Chunks go into the writer; the base is asked through its reader.
struct Sink {
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
}

/// A snapshot that was begun.
struct Begun {
    used: InUse,
    pending: Arc<Pending>,
    sink: Arc<Sink>,
    record: SnapshotRecord,
}

impl Service {
    pub(super) fn snapshot_records(&self) -> Result<Vec<SnapshotRecord>> {
        let listing = self.kms.catalog().list::<SnapshotRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} cannot be believed", bad.kind, bad.id);
        }
        Ok(listing.records.into_iter().map(|r| r.record).collect())
    }

    pub(super) fn find_snapshot(&self, what: &str) -> Result<SnapshotRecord> {
        let id: SnapshotId = what.parse()?;
        let found = self.kms.catalog().get::<SnapshotRecord>(&id.to_string())?;
        found.map(|f| f.record).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no snapshot {what}")).hint("see `coffer snapshot list`")
        })
    }

    pub(super) fn pending_of(&self, volume: VolumeId) -> Result<Option<SnapshotId>> {
        Ok(self.snapshot_records()?.into_iter().find(|s| s.volume == volume && s.state == "pending").map(|s| s.id))
    }

    pub(super) fn create_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        volume: &str,
        description: String,
        wait: bool,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        let volume = self.find_volume(volume)?;
        let begun = self.begin(caller, &volume, description)?;
        let (id, job) = (begun.record.id, Arc::new(Job::default()));
        self.jobs.0.lock().insert(id, job.clone());
        let service = self.clone();
        let runner = job.clone();
        std::thread::spawn(move || {
            service.run_job(begun, &runner);
            service.jobs.0.lock().remove(&id);
            *runner.over.lock() = true;
            runner.changed.notify_all();
        });
        if wait || self.role == Role::Command {
            wait_for(&job, report);
            let record = self.find_snapshot(&id.to_string())?;
            if record.state == "error" && job.stop.load(Ordering::Relaxed) && self.role == Role::Command {
                // Whoever waited for it has stopped it, and nobody else has heard of it.
                self.delete_snapshot(caller, &id.to_string())?;
                return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
            }
            record.must_be_completed()?;
            return Ok(record.info());
        }
        Ok(self.find_snapshot(&id.to_string())?.info())
    }

    /// Refuses a repository folder that is older than this installation left it.
    pub(super) fn check_log(&self, lineage: LineageId) -> Result<()> {
        let known = self.kms.catalog().get::<LogRecord>(&lineage.to_string())?.map_or(0, |r| r.record.last);
        let found = self.repository.last_log_number(lineage)?.unwrap_or(0);
        if found < known {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "repository folder of lineage {lineage}: its log ends at {found}, this installation wrote {known}"
                ),
            )
            .hint("it was rolled back: bring the newer copy back"));
        }
        Ok(())
    }

    fn note_log(&self, lineage: LineageId) {
        let noted = self.repository.last_log_number(lineage).and_then(|last| {
            let next = LogRecord { lineage, last: last.unwrap_or(0) };
            self.kms.catalog().transaction(|tx| match tx.get::<LogRecord>(&next.id())? {
                Some(found) => tx.update(&next, found.version).map(drop),
                None => tx.insert(&next).map(drop),
            })
        });
        if let Err(err) = noted {
            tracing::warn!("note how far the log of lineage {lineage} is: {}", err.line());
        }
    }

    /// Fixes the point in time, and writes down that the snapshot is pending.
    fn begin(self: &Arc<Self>, caller: &Caller, volume: &VolumeRecord, description: String) -> Result<Begun> {
        self.refuse_if_attached_elsewhere(volume)?;
        let used = self.acquire(volume, Need::Sealed)?;
        self.check_log(volume.lineage)?;
        // One at a time from here on: base and epoch must be what the volume has when its point in time is fixed.
        let _turn = self.jobs.1.lock();
        let id = SnapshotId::draw(&*self.env.rng);
        let base = used.volume.base().filter(|b| b.repository == self.repository.id());
        let (epoch, keys, context, generation) = used.volume.with_header(|h| {
            let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| k.keys.clone()).collect();
            let blob = |e| wrapped.iter().find(|k| k.epoch == e).map(|k| k.blob.clone()).unwrap_or_default();
            let keys: Vec<_> = h.identity().key_epochs.iter().map(|k| (k.data_key_id, blob(k.epoch))).collect();
            (h.state().epoch, keys, h.identity().context.clone(), h.identity().map_generation)
        });
        let time = self.env.now();
        let record = SnapshotRecord {
            id,
            volume: volume.id,
            lineage: volume.lineage,
            state: "pending".to_owned(),
            error: None,
            size: used.volume.size(),
            changed: 0,
            stored: 0,
            created: time,
            base: base.as_ref().map(|b| b.snapshot),
            key_arn: volume.key_arn.clone(),
            data_keys: keys.iter().map(|(id, _)| *id).collect(),
            context,
            description,
        };
        let writer = self.repository.begin(SnapshotSpec {
            id,
            lineage: volume.lineage,
            volume: Some(volume.id),
            size: record.size,
            time,
            point: epoch.0,
            map_generation: generation,
            base: record.base,
            keys,
            source: None,
        })?;
        let base_reader = record.base.map(|b| self.repository.open_snapshot(volume.lineage, b)).transpose()?;
        let sink = Arc::new(Sink { writer, base: base_reader });
        let act = Act::new("ec2:CreateSnapshot")
            .key(volume.key_arn.clone())
            .detail("volume", volume.id)
            .detail("snapshot", id);
        self.kms.audited(caller, act, |tx| tx.insert(&record))?;
        let begin = Begin {
            snapshot: id,
            time: time.0,
            repository: self.repository.id(),
            base,
            sink: sink.clone() as Arc<dyn ChunkSink>,
        };
        let pending = match used.volume.begin_snapshot(begin) {
            Ok(pending) => pending,
            Err(err) => {
                self.note_snapshot(id, |r| (r.state, r.error) = ("error".to_owned(), Some(err.line())));
                return Err(err);
            }
        };
        Ok(Begun { used, pending, sink, record })
    }

    fn run_job(self: &Arc<Self>, begun: Begun, job: &Job) {
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
                if let Err(left) = used.volume.drop_snapshot(record.id) {
                    tracing::error!("snapshot {}: {}", record.id, left.line());
                }
                self.note_snapshot(record.id, |r| (r.state, r.error) = ("error".to_owned(), Some(err.line())));
                drop(pending);
                // A writer that others still hold leaves its objects to the next sweep.
                if let Some(Err(left)) = Arc::into_inner(sink).map(|s| s.writer.abort()) {
                    tracing::warn!("snapshot {}: {}", record.id, left.line());
                }
            }
        }
    }

    /// The log has it: the volume's base moves, held by a ref, and the catalog says so.
    fn complete(&self, used: &InUse, pending: &PendingRecord, record: &SnapshotRecord, done: &Completed) {
        self.note_log(record.lineage);
        let stored = done.stats.stored_bytes;
        let changed = done.stats.changed * CHUNK as u64;
        let settled = self
            .repository
            .put_ref(record.lineage, &base_ref(record.volume), RefKind::Volume, record.id)
            .and_then(|()| used.volume.complete_snapshot(pending));
        if let Err(err) = settled {
            tracing::error!(
                "snapshot {} is completed, but {} could not take it as its base: {}",
                record.id,
                record.volume,
                err.line()
            );
        }
        self.note_snapshot(record.id, |r| {
            (r.state, r.changed, r.stored) = ("completed".to_owned(), changed, stored);
        });
    }

    fn note_snapshot(&self, id: SnapshotId, change: impl Fn(&mut SnapshotRecord)) {
        let act = Act::new("ec2:SnapshotNotification").detail("snapshot", id);
        let noted = self.kms.audited(&self.own_caller("snapshot"), act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&id.to_string())? else { return Ok(()) };
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version).map(drop)
        });
        if let Err(err) = noted {
            tracing::error!("note what became of {id}: {}", err.line());
        }
    }

    /// Settles snapshots that an earlier process left pending: completed if the log has them, else in error.
    pub(super) fn settle_snapshots(self: &Arc<Self>) {
        let left = match self.snapshot_records() {
            Ok(all) => all.into_iter().filter(|s| s.state == "pending").collect::<Vec<_>>(),
            Err(err) => return tracing::error!("look for unfinished snapshots: {}", err.line()),
        };
        for record in left {
            if let Err(err) = self.settle(&record) {
                tracing::error!("settle snapshot {}: {}", record.id, err.line());
            }
        }
    }

    fn settle(self: &Arc<Self>, record: &SnapshotRecord) -> Result<()> {
        let located = match self.repository.locate(record.lineage, record.id) {
            Ok(located) if located.live => Some(located),
            Ok(_) => None,
            Err(err) if err.kind() == Kind::NotFound => None,
            Err(err) => return Err(err),
        };
        let volume = self.kms.catalog().get::<VolumeRecord>(&record.volume.to_string())?;
        let used = volume.map(|v| self.acquire(&v.record, Need::Sealed)).transpose();
        if let Ok(Some(used)) = &used {
            let pending = used.volume.pending_records().into_iter().find(|p| p.snapshot == record.id);
            match (&located, &pending) {
                (Some(_), Some(pending)) => {
                    self.repository.put_ref(record.lineage, &base_ref(record.volume), RefKind::Volume, record.id)?;
                    used.volume.complete_snapshot(pending)?;
                }
                (None, Some(_)) => used.volume.drop_snapshot(record.id)?,
                (_, None) => {}
            }
        }
        match located {
            Some(at) => self.note_snapshot(record.id, |r| {
                r.state = "completed".to_owned();
                (r.changed, r.stored) = (at.manifest.changed_chunks * CHUNK as u64, at.manifest.stored_bytes);
            }),
            None => self.note_snapshot(record.id, |r| {
                (r.state, r.error) =
                    ("error".to_owned(), Some("the process that took it ended before it was completed".to_owned()));
            }),
        }
        Ok(())
    }

    /// Asks all snapshots under way to stop, and waits until they have.
    pub(super) fn stop_jobs(&self) {
        let jobs: Vec<_> = self.jobs.0.lock().values().cloned().collect();
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

    pub(super) fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let mut all = self.snapshot_records()?;
        all.sort_by_key(|r| (r.created, r.id));
        Ok(all.iter().map(SnapshotRecord::info).collect())
    }

    pub(super) fn show_snapshot(&self, what: &str) -> Result<SnapshotInfo> {
        Ok(self.find_snapshot(what)?.info())
    }

    /// Hides the snapshot at once; its objects go unless a volume or a later snapshot needs them.
    pub(super) fn delete_snapshot(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<Reply> {
        let record = self.find_snapshot(what)?;
        if record.state == "pending" {
            return Err(Error::new(Kind::Busy, format!("snapshot {} is being taken", record.id))
                .hint("wait until it is completed"));
        }
        self.refuse_if_viewed(record.id)?;
        if record.state == "completed" {
            match self.repository.delete(record.lineage, record.id) {
                Err(err) if err.kind() != Kind::NotFound => return Err(err),
                _ => self.note_log(record.lineage),
            }
        }
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id);
        self.kms.audited(caller, act, |tx| match tx.get::<SnapshotRecord>(&record.id.to_string())? {
            Some(found) => tx.delete::<SnapshotRecord>(&record.id.to_string(), found.version),
            None => Ok(()),
        })?;
        let swept = self.repository.sweep(record.lineage)?;
        let message = format!("snapshot {} is deleted; {} bytes are free again", record.id, swept.freed);
        Ok(Reply::Done { message })
    }

    pub(super) fn verify_snapshot(&self, what: &str, trust: Option<&str>, report: Report<'_>) -> Result<Reply> {
        let record = self.find_snapshot(what)?;
        record.must_be_completed()?;
        let pinned = trust.map(|hex| hex.parse::<crate::units::Hash32>().map(|h| h.0)).transpose()?;
        let mut chunks = 0u64;
        let verified = self.repository.verify(record.lineage, record.id, pinned, &mut |done| {
            chunks += 1;
            !chunks.is_multiple_of(64)
                || report(Progress { what: "verify".to_owned(), done, total: None, unit: "bytes".to_owned() })
        })?;
        if let Some(bad) = verified.bad.first() {
            let what = format!(
                "snapshot {}: {} of its places are bad, the first at chunk {}",
                record.id,
                verified.bad.len(),
                bad.first
            );
            return Err(Error::new(Kind::Integrity, what).because(bad.error.replay()));
        }
        let trust = match verified.trust {
            Trust::Attested => "attested by the key that you trust".to_owned(),
            Trust::Unattested => format!("consistent but unattested; pin --trust {}", hex::encode(verified.public_key)),
        };
        let message = format!("snapshot {}: {} chunks, {} bytes, {trust}", record.id, verified.chunks, verified.bytes);
        Ok(Reply::Done { message })
    }

    /// What a volume needs of the repository: what it is filled from, and the base of its next snapshot.
    pub(super) fn hold_parent(&self, lineage: LineageId, volume: VolumeId, parent: SnapshotId) -> Result<()> {
        self.repository.put_ref(lineage, &fill_ref(volume), RefKind::Volume, parent)?;
        self.repository.put_ref(lineage, &base_ref(volume), RefKind::Volume, parent)
    }

    /// The volume is filled, or gone.
    pub(super) fn release_parent(&self, lineage: LineageId, volume: VolumeId) -> Result<()> {
        self.drop_ref(lineage, &fill_ref(volume))
    }

    /// The volume is gone: what only it needed may go too.
    pub(super) fn release_all(&self, lineage: LineageId, volume: VolumeId) -> Result<()> {
        self.drop_ref(lineage, &fill_ref(volume))?;
        self.drop_ref(lineage, &base_ref(volume))?;
        if self.repository.last_log_number(lineage)?.is_some() {
            self.repository.sweep(lineage)?;
        }
        Ok(())
    }

    fn drop_ref(&self, lineage: LineageId, id: &str) -> Result<()> {
        match self.repository.delete_ref(lineage, id) {
            Err(err) if err.kind() != Kind::NotFound => Err(err),
            _ => Ok(()),
        }
    }
}

fn fill_ref(volume: VolumeId) -> String {
    format!("{volume}-fill")
}

fn base_ref(volume: VolumeId) -> String {
    format!("{volume}-base")
}

fn wait_for(job: &Job, report: Report<'_>) {
    let mut over = job.over.lock();
    while !*over {
        let timed_out = job.changed.wait_for(&mut over, Duration::from_millis(200)).timed_out();
        if timed_out {
            let done = job.copied.load(Ordering::Relaxed) * CHUNK as u64;
            let go_on = report(Progress { what: "copy".to_owned(), done, total: None, unit: "bytes".to_owned() });
            if !go_on {
                job.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}
