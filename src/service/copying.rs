//! Copying a pending snapshot: one thread copies chunks to the staging directory, another puts full packs into the
//! repository. A remote repository that fails is tried again; clients of the volume never wait for it.

use super::api::{CopyInfo, Progress};
use super::settings::{BackgroundRate, Settings};
use crate::cipher::Sealed;
use crate::error::{Error, Kind, Result};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::writer::{Completed, SnapshotWriter};
use crate::units::{CHUNK, ChunkNo, DataKeyId, SnapshotId};
use crate::volume::Volume;
use crate::volume::parent::Parent;
use crate::volume::pending::{ChunkSink, Pending};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Complete packs that may wait for the repository while the copier continues: 64 MiB.
const BACKLOG: usize = 2;
/// How often a thread that waits looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);
/// How soon a copy that is paused notices that it is resumed.
const PAUSED_LOOK: Duration = Duration::from_millis(500);
/// First pause after a remote repository failed; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a remote repository may fail without a success in between before the snapshot does.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Callback for the progress of a verb. Returning `false` asks the verb to stop.
pub type Report<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The process ends: the snapshot continues in the next one.
    Suspend,
    /// The snapshot is not wanted any more.
    Cancel,
}

/// A snapshot that this process is copying.
pub(super) struct Job {
    /// Chunks copied by this process, and by earlier ones.
    copied: AtomicU64,
    before: AtomicU64,
    /// Chunks to copy in all; 0: not counted yet.
    total: AtomicU64,
    begun: Instant,
    stop: Mutex<Option<Stop>>,
    /// Why it waits for its repository.
    waits: Mutex<Option<String>>,
    over: Mutex<bool>,
    /// Notified when it is over or is to stop.
    changed: Condvar,
}

impl Default for Job {
    fn default() -> Self {
        let (copied, before, total, stop, waits, over, changed) = Default::default();
        Self { copied, before, total, begun: Instant::now(), stop, waits, over, changed }
    }
}

impl Job {
    /// Asks it to stop. A cancelled one stays cancelled.
    pub(super) fn stop(&self, how: Stop) {
        let mut stop = self.stop.lock();
        if *stop != Some(Stop::Cancel) {
            *stop = Some(how);
        }
        drop(stop);
        let _over = self.over.lock();
        self.changed.notify_all();
    }

    /// Returns whether and why it was asked to stop.
    pub(super) fn stopped(&self) -> Option<Stop> {
        *self.stop.lock()
    }

    /// Records its end, and tells those who wait for it.
    pub(super) fn end(&self) {
        *self.over.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for its end.
    pub(super) fn await_end(&self) {
        let mut over = self.over.lock();
        while !*over {
            self.changed.wait(&mut over);
        }
    }

    /// Notes what earlier processes have copied, and how much there is to copy in all; 0: not known.
    pub(super) fn expect(&self, before: u64, total: u64) {
        self.before.store(before, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Counts one more chunk as copied.
    pub(super) fn count(&self) {
        self.copied.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how far it is.
    pub(super) fn progress(&self) -> CopyInfo {
        let here = self.copied.load(Ordering::Relaxed);
        let copied = here + self.before.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed).max(copied);
        let rate = (here * CHUNK as u64) as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        CopyInfo {
            copied: copied * CHUNK as u64,
            total: total * CHUNK as u64,
            percent: (copied * 100).checked_div(total).unwrap_or(0) as u8,
            rate: rate as u64,
            waits: self.waits.lock().clone(),
        }
    }

    /// Pauses, unless it is to stop.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut over = self.over.lock();
        while self.stopped().is_none() && !self.changed.wait_until(&mut over, until).timed_out() {}
    }

    /// Waits for its end, or until `report` returns `false`: then stops it as told, and waits for that, or leaves it alone
    /// and returns `false`.
    pub(super) fn wait(&self, report: Report<'_>, on_leave: Option<Stop>) -> bool {
        let mut over = self.over.lock();
        while !*over {
            let timed_out = self.changed.wait_for(&mut over, LOOK).timed_out();
            if timed_out {
                let CopyInfo { copied, total, .. } = self.progress();
                let total = (total > 0).then_some(total);
                let progress = Progress { what: "copy".to_owned(), done: copied, total, unit: "bytes".to_owned() };
                // A waiter that is slow to take it must not delay the snapshot's end.
                if !MutexGuard::unlocked(&mut over, || report(progress)) {
                    let Some(how) = on_leave else { return false };
                    MutexGuard::unlocked(&mut over, || self.stop(how));
                }
            }
        }
        true
    }
}

/// Passes chunks to the writer, and looks up the base through its reader.
pub(super) struct Sink {
    /// Chunks in the volume at the point in time.
    pub(super) chunks: u64,
    pub(super) writer: SnapshotWriter,
    pub(super) base: Option<SnapshotReader>,
}

impl Sink {
    /// Gives up what was put. If the writer is still shared, the next sweep removes its objects.
    pub(super) fn abort(self: Arc<Self>) {
        let id = self.writer.id();
        if let Some(Err(left)) = Arc::into_inner(self).map(|sink| sink.writer.abort()) {
            tracing::warn!("snapshot {id}: {}", left.line());
        }
    }
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

/// Retries of calls to a remote repository.
pub(super) struct Retries<'a> {
    job: &'a Job,
    is_remote: bool,
    pause: Duration,
    since: Option<Instant>,
}

impl<'a> Retries<'a> {
    pub(super) fn new(job: &'a Job, is_remote: bool) -> Self {
        Self { job, is_remote, pause: FIRST_PAUSE, since: None }
    }

    /// Notes a success.
    pub(super) fn succeeded(&mut self) {
        if self.since.take().is_some() {
            *self.job.waits.lock() = None;
        }
        self.pause = FIRST_PAUSE;
    }

    /// Pauses after a failure that may pass.
    ///
    /// # Errors
    /// The failure, if it will not pass, or has lasted for too long.
    pub(super) fn failed(&mut self, id: SnapshotId, err: Error) -> Result<()> {
        let passes = self.is_remote && matches!(err.kind(), Kind::Io | Kind::Unreachable);
        let since = *self.since.get_or_insert_with(Instant::now);
        if !passes || self.job.stopped().is_some() || since.elapsed() > PATIENCE {
            return Err(err);
        }
        tracing::warn!("snapshot {id}: {}; trying again in {} s", err.line(), self.pause.as_secs());
        *self.job.waits.lock() = Some(err.line());
        self.job.pause(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// The rate that a volume's snapshots are copied at, which may change meanwhile.
struct Pace<'a> {
    settings: &'a Settings,
    job: &'a Job,
    rate: BackgroundRate,
    /// Since when, and how many bytes, at this rate.
    since: Instant,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(settings: &'a Settings, job: &'a Job) -> Self {
        Self { settings, job, rate: settings.snapshot_rate(), since: Instant::now(), bytes: 0 }
    }

    /// Waits after a chunk until the next one is due, or the job is to stop.
    fn keep(&mut self) {
        self.bytes += CHUNK as u64;
        while self.settings.snapshot_rate() == BackgroundRate::Paused && self.job.stopped().is_none() {
            self.job.pause(PAUSED_LOOK);
        }
        if self.settings.snapshot_rate() == BackgroundRate::Unlimited {
            return;
        }
        let (rate, lag) = (self.settings.snapshot_rate(), self.since.elapsed());
        let due = rate.time_for(self.bytes);
        // What a slow disk or repository has cost is not made up for in a burst.
        if rate != self.rate || lag > due + LOOK {
            (self.rate, self.since, self.bytes) = (rate, Instant::now(), 0);
            return;
        }
        self.job.pause(due.saturating_sub(lag));
    }
}

/// The thread that puts full packs into the repository.
pub(super) struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Sender {
    fn start(sink: &Arc<Sink>, job: &Arc<Job>, is_remote: bool) -> Self {
        let shared = Arc::new(Shared::default());
        let run = {
            let (shared, sink, job) = (shared.clone(), sink.clone(), job.clone());
            move || {
                let outcome = send(&sink.writer, &job, &shared, is_remote);
                *shared.failure.lock() = outcome.err();
            }
        };
        let thread = std::thread::Builder::new().name("snapshot-put".to_owned()).spawn(run);
        let thread = thread.inspect_err(|err| tracing::warn!("start a thread for packs: {err}")).ok();
        Self { shared, thread }
    }

    /// Waits until the repository has taken enough packs for the copier to continue. `false`: it will not.
    pub(super) fn await_room(&self, writer: &SnapshotWriter, job: &Job) -> bool {
        while self.thread.is_some() && job.stopped().is_none() && self.shared.failure.lock().is_none() {
            if writer.await_backlog(|n| n <= BACKLOG, LOOK) {
                return true;
            }
        }
        self.thread.is_none() && job.stopped().is_none()
    }

    /// Returns whether the thread has ended because it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.shared.failure.lock().is_some()
    }

    /// Ends the thread, and returns its failure. It may be in the middle of a put, which is waited for unless `leave`.
    fn end(self, leave: bool) -> Result<()> {
        self.shared.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.filter(|_| !leave) {
            let _ = thread.join();
        }
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }
}

fn send(writer: &SnapshotWriter, job: &Job, shared: &Shared, is_remote: bool) -> Result<()> {
    let mut retries = Retries::new(job, is_remote);
    while !shared.end.load(Ordering::Acquire) && job.stopped().is_none() {
        match writer.send_one() {
            Ok(true) => retries.succeeded(),
            Ok(false) => drop(writer.await_backlog(|n| n > 0, LOOK)),
            Err(err) => retries.failed(writer.id(), err)?,
        }
    }
    Ok(())
}

/// Copies all that a pending snapshot still needs, and completes it in its repository.
///
/// # Errors
/// [`Kind::Interrupted`] if the job was stopped; else what made the snapshot fail.
pub(super) fn copy(
    (volume, settings): (&Volume, &Settings),
    pending: &Pending,
    sink: &Arc<Sink>,
    job: &Arc<Job>,
) -> Result<Completed> {
    job.before.store(pending.copied(), Ordering::Relaxed);
    complete_after(sink, job, |sender| copy_all((volume, settings), pending, sender, sink, job))
}

/// Does `work`, which puts chunks, while another thread puts full packs into the repository; then completes the snapshot there.
///
/// # Errors
/// [`Kind::Interrupted`] if the job was stopped; the error of `work`; what the repository reports.
pub(super) fn complete_after(
    sink: &Arc<Sink>,
    job: &Arc<Job>,
    work: impl FnOnce(&Sender) -> Result<()>,
) -> Result<Completed> {
    let is_remote = sink.writer.is_remote();
    let sender = Sender::start(sink, job, is_remote);
    let copied = work(&sender);
    let is_suspended = job.stopped() == Some(Stop::Suspend);
    let sent = sender.end(is_suspended);
    copied.and(sent)?;
    let mut retries = Retries::new(job, is_remote);
    loop {
        match sink.writer.finish() {
            Ok(done) => return Ok(done),
            Err(err) => retries.failed(sink.writer.id(), err)?,
        }
        interrupted_if(job, sink.writer.id())?;
    }
}

fn copy_all(
    (volume, settings): (&Volume, &Settings),
    pending: &Pending,
    sender: &Sender,
    sink: &Sink,
    job: &Job,
) -> Result<()> {
    let mut pace = Pace::new(settings, job);
    // Only a fetch from the parent may pass: the volume's own disk is local.
    let mut retries = Retries::new(job, sink.writer.is_remote() && !volume.is_hydrated());
    loop {
        interrupted_if(job, sink.writer.id())?;
        let before = pending.copied();
        let total = volume.chunks_to_copy(pending).map(|left| before + left);
        job.total.store(total.unwrap_or(0), Ordering::Relaxed);
        let here = job.copied.load(Ordering::Relaxed);
        let outcome = volume.copy_pending(pending, |n| {
            job.copied.store(here + n, Ordering::Relaxed);
            pace.keep();
            sender.await_room(&sink.writer, job)
        });
        match outcome {
            Ok(_) => return Ok(()),
            Err(err) if err.kind() == Kind::Interrupted => {
                // The sender's failure, if there is one, is the reason.
                return if sender.has_failed() { Ok(()) } else { Err(err) };
            }
            Err(err) => retries.failed(sink.writer.id(), err)?,
        }
    }
}

/// Refuses to continue a job that is to stop.
pub(super) fn interrupted_if(job: &Job, id: SnapshotId) -> Result<()> {
    let stopped = || Error::new(Kind::Interrupted, format!("snapshot {id} was stopped"));
    job.stopped().map_or(Ok(()), |_| Err(stopped()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hangs_up_ends_the_waiting_and_the_snapshot_only_if_told_to() {
        let job = Arc::new(Job::default());
        assert!(!job.wait(&mut |_| false, None));
        assert_eq!(job.stopped(), None, "the server continues it");
        let other = job.clone();
        let mut gone = |_| {
            // Does what the snapshot's thread does once it sees that it should stop.
            let other = other.clone();
            drop(std::thread::spawn(move || other.end()));
            false
        };
        assert!(job.wait(&mut gone, Some(Stop::Cancel)));
        assert_eq!(job.stopped(), Some(Stop::Cancel));
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again_and_a_stop_ends_every_pause() {
        let id: SnapshotId = "snap-0123456789abcdef0".parse().unwrap();
        let err = |kind| Error::new(kind, "told to fail");
        let job = Arc::new(Job::default());
        for (kind, is_remote) in [(Kind::Io, false), (Kind::Integrity, true), (Kind::NoSpace, true)] {
            let failed = Retries::new(&job, is_remote).failed(id, err(kind));
            assert_eq!(failed.unwrap_err().kind(), kind);
        }
        let mut retries = Retries { pause: Duration::from_secs(3600), ..Retries::new(&job, true) };
        std::thread::scope(|scope| {
            let pausing = scope.spawn(move || retries.failed(id, err(Kind::Io)));
            while job.progress().waits.is_none() {
                std::thread::yield_now();
            }
            job.stop(Stop::Suspend);
            pausing.join().unwrap().unwrap();
        });
        assert_eq!(Retries::new(&job, true).failed(id, err(Kind::Io)).unwrap_err().kind(), Kind::Io, "it is stopped");
    }
}
