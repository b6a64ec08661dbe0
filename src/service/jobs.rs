//! Snapshots in progress: once its point in time is fixed ([`super::beginning`]), each copies in its own thread.

use super::apart::apart;
use super::api::SnapshotState;
use super::bases::Bases;
use super::beginning::Wanted;
use super::copies::{self, Copies};
pub use super::copying::Report;
use super::copying::{self, Job, Sink, Stop};
use super::lineage::Lineages;
use super::logs::Logs;
use super::opening::{InUse, Need, OpenVolumes};
use super::records::{Labels, Records, SnapshotRecord};
use super::repositories::Repositories;
use super::settling::Unsettled;
use super::turns::Turns;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::snapshot::staging::{self, Staging};
use crate::snapshot::writer::{Completed, SnapshotWriter};
use crate::units::{CHUNK, SnapshotId, chunks_in};
use crate::volume::pending::Pending;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

/// What [`Jobs`] depends on.
pub(super) struct On {
    /// Clock and randomness.
    pub(super) env: Env,
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
    /// Copies of snapshots.
    pub(super) copies: Copies,
    /// Where the sources of copies are released.
    pub(super) lineages: Arc<Lineages>,
    /// Where failed snapshots are left to be settled.
    pub(super) unsettled: Arc<Unsettled>,
    /// The directory with the staging directories of all pending snapshots.
    pub(super) staging: PathBuf,
}

/// All snapshots in progress in this process.
pub(super) struct Jobs {
    pub(super) on: On,
    running: Mutex<HashMap<SnapshotId, Arc<Job>>>,
}

/// What a job does.
enum Work {
    /// Copies a point in time of a volume.
    Snapshot(Box<Begun>),
    /// Copies a snapshot.
    Copy(Box<copies::Begun>),
}

/// A snapshot whose point in time is fixed.
pub(super) struct Begun {
    pub(super) used: InUse,
    pub(super) pending: Arc<Pending>,
    pub(super) sink: Arc<Sink>,
    pub(super) record: SnapshotRecord,
}

impl Jobs {
    /// Creates an empty set.
    pub(super) fn new(on: On) -> Self {
        Self { on, running: Mutex::default() }
    }

    /// Begins snapshots at one instant, and copies each in its own thread.
    pub(super) fn start(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Vec<Wanted>,
        labels: &Labels,
    ) -> Result<Vec<(SnapshotId, Arc<Job>)>> {
        let jobs: Vec<_> = wanted.iter().map(|w| (w.id, Arc::new(Job::default()))).collect();
        // Before the catalog has them: nobody else continues them.
        self.running.lock().extend(jobs.iter().cloned());
        let begun = self.begin(caller, wanted, labels).inspect_err(|_| {
            let mut running = self.running.lock();
            jobs.iter().for_each(|(id, _)| drop(running.remove(id)));
        })?;
        for one in begun {
            if let Some((id, job)) = jobs.iter().find(|(id, _)| *id == one.record.id) {
                self.spawn((*id, Work::Snapshot(Box::new(one))), job);
            }
        }
        Ok(jobs)
    }

    /// Begins a copy of a snapshot, and makes it in its own thread.
    pub(super) fn start_copy(
        self: &Arc<Self>,
        caller: &Caller,
        asked: copies::Asked,
    ) -> Result<(SnapshotId, Arc<Job>)> {
        let (id, job) = (SnapshotId::draw(&*self.on.env.rng), Arc::new(Job::default()));
        self.running.lock().insert(id, job.clone());
        let begun = self.begin_copy(caller, id, asked).inspect_err(|_| drop(self.running.lock().remove(&id)))?;
        self.spawn((id, Work::Copy(Box::new(begun))), &job);
        Ok((id, job))
    }

    /// Begins a copy: it is pending, and its source is held.
    pub(super) fn begin_copy(&self, caller: &Caller, id: SnapshotId, asked: copies::Asked) -> Result<copies::Begun> {
        let begun = self.on.copies.begin(caller, id, asked)?;
        if let Err(err) = self.on.copies.hold(&begun.record) {
            self.fail_copy(begun, &err);
            return Err(err);
        }
        Ok(begun)
    }

    /// Continues a pending snapshot that an earlier process left, unless it is being copied already.
    ///
    /// # Errors
    /// [`Kind::Integrity`] or [`Kind::NotFound`] if it cannot be continued; [`Kind::Exists`] if its repository has it
    /// completed; other errors may pass.
    pub(super) fn resume(self: &Arc<Self>, record: &SnapshotRecord) -> Result<Arc<Job>> {
        let job = match self.running.lock().entry(record.id) {
            Entry::Occupied(running) => return Ok(running.get().clone()),
            Entry::Vacant(free) => free.insert(Arc::new(Job::default())).clone(),
        };
        let work = match record.source {
            None => self.take_up(record).map(|begun| Work::Snapshot(Box::new(begun))),
            Some(_) => self.on.copies.take_up(record).map(|begun| Work::Copy(Box::new(begun))),
        };
        match work {
            Ok(work) => {
                tracing::info!("snapshot {} continues", record.id);
                self.spawn((record.id, work), &job);
                Ok(job)
            }
            Err(err) => {
                self.running.lock().remove(&record.id);
                job.end();
                Err(err)
            }
        }
    }

    /// Continues the pending snapshots that earlier processes left, if they are `wanted`. One that cannot be continued is
    /// left to be settled; what may pass is tried again later. Returns the jobs of the others.
    pub(super) fn resume_all(self: &Arc<Self>, wanted: impl Fn(&SnapshotRecord) -> bool) -> Vec<Arc<Job>> {
        let all = self.on.unsettled.resumable().unwrap_or_else(|err| {
            tracing::error!("list pending snapshots: {}", err.line());
            Vec::new()
        });
        let jobs = Mutex::new(Vec::new());
        let resume = |record: SnapshotRecord| {
            let record = &record;
            let settle = |why| {
                self.on.unsettled.add(record.home(), record.id, why);
                self.on.unsettled.settle_home(record.home());
            };
            match self.resume(record) {
                Ok(job) => jobs.lock().push(job),
                Err(err) if err.kind() == Kind::Exists => settle(None),
                Err(err) if is_final(&err) => {
                    tracing::error!("snapshot {}: {}", record.id, err.line());
                    settle(Some(err.line()));
                }
                Err(err) => tracing::warn!("snapshot {}: {}; trying again later", record.id, err.line()),
            }
        };
        apart(all.into_iter().filter(|r| wanted(r)).collect(), |r| r.repository, resume);
        jobs.into_inner()
    }

    fn take_up(&self, record: &SnapshotRecord) -> Result<Begun> {
        let lost = |why: String| Error::new(Kind::Integrity, format!("cannot be continued: {why}"));
        if record.group.is_some_and(|group| !group.begun) {
            return Err(Error::new(Kind::NotFound, "the process that took it ended before all of its group was begun"));
        }
        let volume = self.on.records.find_volume(&record.volume.to_string())?;
        let used = self.on.opens.acquire(&volume, Need::Sealed)?;
        let repository = self.on.repositories.reach(record.repository)?;
        self.on.logs.check(record.home())?;
        let Some(pending) = used.volume.pending_snapshot(record.id) else {
            let why = used.volume.lost_snapshots().iter().find(|(id, _)| *id == record.id).map(|(_, why)| why.clone());
            let unbegun = "the process that took it ended before it was begun";
            return Err(why.map_or_else(|| Error::new(Kind::NotFound, unbegun), lost));
        };
        let staged = Staging::open(&self.staging_of(record.id), &self.on.env.boot_id)?;
        let staged = staged.ok_or_else(|| lost("its staging directory is missing".to_owned()))?;
        let base = record.base.map(|base| repository.open_snapshot(record.lineage, base)).transpose()?;
        let copied: Vec<_> = staged.copied().collect();
        let writer = repository.resume(staged)?;
        let sink = Arc::new(Sink { chunks: chunks_in(record.size), writer, base });
        pending.attach(sink.clone(), copied);
        Ok(Begun { used, pending, sink, record: record.clone() })
    }

    /// Returns the staging directory of a snapshot.
    pub(super) fn staging_of(&self, snapshot: SnapshotId) -> PathBuf {
        self.on.staging.join(snapshot.to_string())
    }

    /// Copies a snapshot in its own thread.
    fn spawn(self: &Arc<Self>, (id, work): (SnapshotId, Work), job: &Arc<Job>) {
        let work = Arc::new(Mutex::new(Some(work)));
        let run = {
            let (this, job, work) = (self.clone(), job.clone(), work.clone());
            move || this.run_begun(id, &work, &job)
        };
        if let Err(err) = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run) {
            tracing::warn!("start a thread for snapshot {id}: {err}; copying in the caller's thread");
            self.clone().run_begun(id, &work, job);
        }
    }

    fn run_begun(self: Arc<Self>, id: SnapshotId, work: &Mutex<Option<Work>>, job: &Arc<Job>) {
        let Some(work) = work.lock().take() else { return };
        match work {
            Work::Snapshot(begun) => self.run_job(*begun, job),
            Work::Copy(begun) => self.run_copy(*begun, job),
        }
        self.running.lock().remove(&id);
        // Whoever learns of the end may reopen the data directory: this thread must not be the one that keeps it locked.
        drop(self);
        job.end();
    }

    /// Copies a snapshot that was begun, and completes it, suspends it, or fails it.
    pub(super) fn run_job(&self, begun: Begun, job: &Arc<Job>) {
        let copied = copying::copy((&begun.used.volume, &begun.used.settings), &begun.pending, &begun.sink, job);
        match copied {
            Ok(done) => self.complete(&begun, &done),
            Err(err) if may_pass(&err) && job.stopped() == Some(Stop::Suspend) => suspend(&begun.sink.writer),
            Err(err) => self.fail(begun, &err),
        }
    }

    /// Makes a copy that was begun, and completes it, suspends it, or fails it. While a CMK is unusable, it waits for that.
    pub(super) fn run_copy(&self, begun: copies::Begun, job: &Arc<Job>) {
        match begun.run(job) {
            Ok(done) => self.complete_copy(&begun.record, &done),
            Err(err) if may_pass(&err) && job.stopped() == Some(Stop::Suspend) => suspend(begun.writer()),
            Err(err) if err.kind() == Kind::KeyUnavailable && job.stopped() != Some(Stop::Cancel) => {
                tracing::warn!("snapshot {}: {}; trying again later", begun.record.id, err.line());
                suspend(begun.writer());
            }
            Err(err) => self.fail_copy(begun, &err),
        }
    }

    /// Completes a copy that the log has: updates the catalog, then releases the source.
    fn complete_copy(&self, record: &SnapshotRecord, done: &Completed) {
        self.on.logs.note(record.home());
        self.note_completed(record, done, || self.on.lineages.release_source(record.id));
    }

    /// Updates the catalog for a snapshot that the log has. If that worked, does what comes `then`, and removes the staging.
    fn note_completed(&self, record: &SnapshotRecord, done: &Completed, then: impl FnOnce()) {
        let (stored, changed) = (done.stats.stored_bytes, done.stats.changed * CHUNK as u64);
        let noted = self.on.records.note_snapshot(record.id, |r| {
            (r.state, r.changed, r.stored) = (SnapshotState::Completed, changed, stored);
        });
        if noted.is_err() {
            return self.on.unsettled.add(record.home(), record.id, None);
        }
        then();
        if let Err(err) = staging::remove(&self.staging_of(record.id)) {
            tracing::warn!("{}; removed at the next start", err.line());
        }
    }

    /// Ends a copy that cannot be completed.
    fn fail_copy(&self, begun: copies::Begun, err: &Error) {
        let record = begun.give_up();
        tracing::error!("snapshot {}: {}", record.id, err.line());
        self.on.unsettled.add(record.home(), record.id, Some(err.line()));
        self.on.unsettled.settle_home(record.home());
    }

    /// Ends a snapshot that cannot be completed.
    fn fail(&self, begun: Begun, err: &Error) {
        let Begun { used, pending, sink, record } = begun;
        tracing::error!("snapshot {}: {}", record.id, err.line());
        if err.kind() == Kind::Integrity && record.base.is_some() {
            self.on.bases.distrust(&record);
        }
        if let Err(left) = used.volume.drop_snapshot(record.id) {
            tracing::error!("snapshot {}: {}", record.id, left.line());
        }
        drop(pending);
        sink.abort();
        self.on.unsettled.add(record.home(), record.id, Some(err.line()));
        drop(used);
        self.on.unsettled.settle_home(record.home());
    }

    /// Completes a snapshot that the log has: moves the volume's base, held by a ref, and updates the catalog.
    fn complete(&self, begun: &Begun, done: &Completed) {
        let Begun { used, pending, record, .. } = begun;
        self.on.logs.note(record.home());
        if let Err(err) = self.on.bases.take(&used.volume, record.lineage, pending.record()) {
            tracing::error!(
                "snapshot {} is completed, but could not become the base of {}: {}",
                record.id,
                record.volume,
                err.line()
            );
        }
        self.note_completed(record, done, || ());
    }

    /// Returns the snapshots in progress.
    pub(super) fn under_way(&self) -> Vec<(SnapshotId, Arc<Job>)> {
        self.running.lock().iter().map(|(id, job)| (*id, job.clone())).collect()
    }

    /// Returns the job of a snapshot that this process is copying.
    pub(super) fn job_of(&self, snapshot: SnapshotId) -> Option<Arc<Job>> {
        self.running.lock().get(&snapshot).cloned()
    }

    /// Suspends all snapshots in progress, and waits until they are.
    pub(super) fn suspend_all(&self) {
        let jobs = self.under_way();
        jobs.iter().for_each(|(_, job)| job.stop(Stop::Suspend));
        jobs.iter().for_each(|(_, job)| job.await_end());
    }
}

/// Whether a job that was stopped failed for no reason of its own.
fn may_pass(err: &Error) -> bool {
    matches!(err.kind(), Kind::Interrupted | Kind::Io | Kind::Unreachable)
}

/// Whether a snapshot that an earlier process left can never be continued.
fn is_final(err: &Error) -> bool {
    matches!(err.kind(), Kind::Integrity | Kind::NotFound | Kind::Unsupported | Kind::AccessDenied)
}

/// Makes durable what is copied so far: the next process continues.
fn suspend(writer: &SnapshotWriter) {
    let id = writer.id();
    match writer.suspend() {
        Ok(()) => tracing::info!("snapshot {id} is suspended; the next server continues it"),
        Err(err) => tracing::warn!("snapshot {id}: {}; it continues only if the machine stays up", err.line()),
    }
}
