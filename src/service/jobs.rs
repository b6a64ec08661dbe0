//! Snapshots in progress: each fixes its point in time under its volume's header, then copies in its own thread.

use super::api::Progress;
use super::api::SnapshotState;
use super::bases::Bases;
use super::datadir::Role;
use super::home::{Home, RepositoryKey};
use super::logs::Logs;
use super::opening::{InUse, Need, OpenVolumes};
use super::records::{Records, SnapshotRecord, VolumeRecord};
use super::repositories::Repositories;
use super::settling::Unsettled;
use super::turns::Turns;
use crate::cipher::Sealed;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::writer::{Completed, SnapshotSpec, SnapshotWriter};
use crate::units::{CHUNK, ChunkNo, DataKeyId, SnapshotId, chunks_in};
use crate::volume::format::PendingRecord;
use crate::volume::parent::Parent;
use crate::volume::pending::{Begin, ChunkSink, Pending};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Callback for the progress of a verb. Returning `false` asks the verb to stop.
pub type Report<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// A snapshot that this process is copying.
#[derive(Default)]
pub(super) struct Job {
    copied: AtomicU64,
    stop: AtomicBool,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Job {
    /// Returns whether the snapshot was asked to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What [`Jobs`] depends on.
pub(super) struct On {
    /// Clock and randomness.
    pub(super) env: Env,
    /// Decides whether a waiter that leaves stops the snapshot.
    pub(super) role: Role,
    /// The catalog's records.
    pub(super) records: Arc<Records>,
    /// The destinations of the snapshots.
    pub(super) repositories: Arc<Repositories>,
    /// The logs that the snapshots extend.
    pub(super) logs: Arc<Logs>,
    /// The bases of the snapshots.
    pub(super) bases: Arc<Bases>,
    /// The source volumes.
    pub(super) opens: Arc<OpenVolumes>,
    /// One point in time at a time per volume.
    pub(super) turns: Arc<Turns>,
    /// Where failed snapshots are left to be settled.
    pub(super) unsettled: Arc<Unsettled>,
}

/// All snapshots in progress in this process.
pub(super) struct Jobs {
    on: On,
    running: Mutex<HashMap<SnapshotId, Arc<Job>>>,
}

/// Passes chunks to the writer, and looks up the base through its reader.
struct Sink {
    /// Chunks in the volume at the point in time.
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

/// A snapshot whose point in time is fixed.
pub(super) struct Begun {
    used: InUse,
    pending: Arc<Pending>,
    sink: Arc<Sink>,
    pub(super) record: SnapshotRecord,
}

impl Jobs {
    /// Creates an empty set.
    pub(super) fn new(on: On) -> Self {
        Self { on, running: Mutex::default() }
    }

    /// Begins a snapshot in a repository, and copies it in its own thread.
    pub(super) fn start(
        self: &Arc<Self>,
        caller: &Caller,
        volume: &VolumeRecord,
        to: RepositoryKey,
        description: String,
    ) -> Result<(SnapshotId, Arc<Job>)> {
        let begun = self.begin(caller, volume, to, description)?;
        let (id, job) = (begun.record.id, Arc::new(Job::default()));
        self.running.lock().insert(id, job.clone());
        let begun = Arc::new(Mutex::new(Some(begun)));
        let run = {
            let (this, job, begun) = (self.clone(), job.clone(), begun.clone());
            move || this.run_begun(id, &begun, &job)
        };
        if let Err(err) = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run) {
            tracing::warn!("start a thread for snapshot {id}: {err}; copying in the caller's thread");
            self.clone().run_begun(id, &begun, &job);
        }
        Ok((id, job))
    }

    /// Fixes the point in time, and records the snapshot as pending.
    pub(super) fn begin(
        &self,
        caller: &Caller,
        volume: &VolumeRecord,
        to: RepositoryKey,
        description: String,
    ) -> Result<Begun> {
        let used = self.on.opens.acquire(volume, Need::Sealed)?;
        let repository = self.on.repositories.open(to)?;
        self.on.logs.check(Home { repository: to, lineage: volume.lineage })?;
        self.on.bases.settle_header(volume, &used.volume);
        // One at a time from here on: size, base and epoch must be those at the moment that the point in time is fixed.
        let sized = self.on.turns.take(volume.id);
        let based = self.on.bases.keep(volume.id);
        let id = SnapshotId::draw(&*self.on.env.rng);
        let (epoch, keys, context, generation) = used.volume.with_header(|h| {
            let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| k.keys.clone()).collect();
            let blob = |e| wrapped.iter().find(|k| k.epoch == e).map(|k| k.blob.clone()).unwrap_or_default();
            let keys: Vec<_> = h.identity().key_epochs.iter().map(|k| (k.data_key_id, blob(k.epoch))).collect();
            (h.state().epoch, keys, h.identity().context.clone(), h.identity().map_generation)
        });
        let time = self.on.env.now();
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
        let (writer, base, reader) = self.on.bases.begin(&used.volume, &repository, &spec)?;
        let sink = Arc::new(Sink { chunks: chunks_in(spec.size), writer, base: reader });
        let record = SnapshotRecord {
            id,
            volume: volume.id,
            lineage: volume.lineage,
            repository: to,
            state: SnapshotState::Pending,
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
        self.on.records.ledger().audited(caller, act, |tx| {
            self.on.repositories.must_be_current(tx, to, &repository)?;
            tx.insert(&record)
        })?;
        let begin = Begin {
            snapshot: id,
            time: time.0,
            repository: repository.id()?,
            base,
            sink: sink.clone() as Arc<dyn ChunkSink>,
        };
        let pending = match used.volume.begin_snapshot(begin) {
            Ok(pending) => pending,
            Err(err) => {
                self.on.unsettled.add(record.home(), id, Some(err.line()));
                drop((sink, based, sized));
                drop(used);
                self.on.unsettled.settle_home(record.home());
                return Err(err);
            }
        };
        Ok(Begun { used, pending, sink, record })
    }

    fn run_begun(self: Arc<Self>, id: SnapshotId, begun: &Mutex<Option<Begun>>, job: &Job) {
        let Some(begun) = begun.lock().take() else { return };
        self.run_job(begun, job);
        self.running.lock().remove(&id);
        // Whoever learns of the end may reopen the data directory: this thread must not be the one that keeps it locked.
        drop(self);
        *job.over.lock() = true;
        job.changed.notify_all();
    }

    /// Copies a snapshot that was begun, and completes it or fails it.
    pub(super) fn run_job(&self, begun: Begun, job: &Job) {
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
                    self.on.bases.distrust(&record);
                }
                if let Err(left) = used.volume.drop_snapshot(record.id) {
                    tracing::error!("snapshot {}: {}", record.id, left.line());
                }
                drop(pending);
                // If the writer is still shared, the next sweep removes its objects.
                if let Some(Err(left)) = Arc::into_inner(sink).map(|s| s.writer.abort()) {
                    tracing::warn!("snapshot {}: {}", record.id, left.line());
                }
                self.on.unsettled.add(record.home(), record.id, Some(self.reason(&err, job)));
                drop(used);
                self.on.unsettled.settle_home(record.home());
            }
        }
    }

    /// Returns the reason for a failure, as the catalog's record has it.
    fn reason(&self, err: &Error, job: &Job) -> String {
        if self.on.role == Role::Daemon && job.is_stopped() && err.kind() == Kind::Interrupted {
            return "the server was stopped before it was completed; create another snapshot".to_owned();
        }
        err.line()
    }

    /// Completes a snapshot that the log has: moves the volume's base, held by a ref, and updates the catalog.
    fn complete(&self, used: &InUse, pending: &PendingRecord, record: &SnapshotRecord, done: &Completed) {
        self.on.logs.note(record.home());
        let stored = done.stats.stored_bytes;
        let changed = done.stats.changed * CHUNK as u64;
        if let Err(err) = self.on.bases.take(&used.volume, record.lineage, pending) {
            tracing::error!(
                "snapshot {} is completed, but could not become the base of {}: {}",
                record.id,
                record.volume,
                err.line()
            );
        }
        let noted = self.on.records.note_snapshot(record.id, |r| {
            (r.state, r.changed, r.stored) = (SnapshotState::Completed, changed, stored);
        });
        if noted.is_err() {
            self.on.unsettled.add(record.home(), record.id, None);
        }
    }

    /// Waits for the end of a snapshot. `false`: the waiter has left, and the snapshot continues.
    pub(super) fn wait_for(&self, job: &Job, report: Report<'_>) -> bool {
        wait_for(job, report, self.on.role)
    }

    /// Waits for the end of a snapshot, and stops it if `report` returns `false`.
    pub(super) fn wait_out(job: &Job, report: Report<'_>) {
        wait_for(job, report, Role::Command);
    }

    /// Returns the snapshots in progress.
    pub(super) fn under_way(&self) -> Vec<(SnapshotId, Arc<Job>)> {
        self.running.lock().iter().map(|(id, job)| (*id, job.clone())).collect()
    }

    /// Asks all snapshots in progress to stop, and waits until they have.
    pub(super) fn stop_all(&self) {
        let jobs = self.under_way();
        for (_, job) in &jobs {
            job.stop.store(true, Ordering::Relaxed);
        }
        for (_, job) in jobs {
            let mut over = job.over.lock();
            while !*over {
                job.changed.wait(&mut over);
            }
        }
    }
}

/// Waits for the end of a snapshot. `false`: the waiter has left. A server continues without the waiter; a command stops the
/// snapshot.
fn wait_for(job: &Job, report: Report<'_>, role: Role) -> bool {
    let mut over = job.over.lock();
    while !*over {
        let timed_out = job.changed.wait_for(&mut over, Duration::from_millis(200)).timed_out();
        if timed_out {
            let done = job.copied.load(Ordering::Relaxed) * CHUNK as u64;
            let progress = Progress { what: "copy".to_owned(), done, total: None, unit: "bytes".to_owned() };
            // A waiter that is slow to take it must not delay the snapshot's end.
            let go_on = MutexGuard::unlocked(&mut over, || report(progress));
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
        assert!(!job.stop.load(Ordering::Relaxed), "the server continues it");
        let other = job.clone();
        let mut gone = |_| {
            // Does what the snapshot's thread does once it sees that it should stop.
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
