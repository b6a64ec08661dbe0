//! Collecting garbage in repositories: a sweep and a compaction of each lineage, one repository at a time.
//!
//! A server does it by itself where a sweep has left enough garbage, slowly, in a thread of its own. It gives way to a caller
//! who asks for the same, and to the move of a repository.

use super::api::{CollectedInfo, HolderInfo, Progress, WireError};
use super::bases::Bases;
use super::copying::Report;
use super::home::{Home, RepositoryKey};
use super::lineage::Lineages;
use super::logs::Logs;
use super::records::Records;
use super::repositories::Repositories;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::compact::{Collected, Threshold};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a server begins to compact by itself: 64 MiB of garbage that are a quarter of what is stored.
const OWN: Threshold = Threshold { bytes: 64 << 20, percent: 25, dry_run: false };
/// How fast it then copies, in bytes per second.
const OWN_RATE: u64 = 32 << 20;
/// How soon a run notices that its caller has stopped it.
const LOOK: Duration = Duration::from_millis(200);

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) threshold: Threshold,
    /// Bytes to copy per second; `None`: as fast as possible.
    pub(super) rate: Option<u64>,
}

/// What [`Collector`] depends on.
pub(super) struct On {
    pub(super) records: Arc<Records>,
    pub(super) repositories: Arc<Repositories>,
    pub(super) logs: Arc<Logs>,
    pub(super) bases: Arc<Bases>,
    pub(super) lineages: Arc<Lineages>,
}

/// All collections in this process.
pub(super) struct Collector {
    on: On,
    runs: Mutex<HashMap<RepositoryKey, Run>>,
    /// Notified when a run is stopped or has ended.
    changed: Condvar,
    /// All runs stop: the service is shutting down.
    is_stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A repository that somebody collects garbage in, or keeps others from that.
struct Run {
    by_itself: bool,
    stop: Arc<AtomicBool>,
}

/// Keeps everyone else from collecting garbage in a repository until it is dropped.
pub(super) struct Alone<'a> {
    collector: &'a Collector,
    repository: RepositoryKey,
    stop: Arc<AtomicBool>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.collector.runs.lock().remove(&self.repository);
        self.collector.changed.notify_all();
    }
}

impl Collector {
    /// Creates one that does nothing yet.
    pub(super) fn new(on: On) -> Self {
        let (runs, changed, is_stopped, thread) = Default::default();
        Self { on, runs, changed, is_stopped, thread }
    }

    /// Keeps everyone else from collecting garbage in a repository. A server's own run is stopped, and waited for.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody asked for a run that has not ended.
    pub(super) fn take(&self, repository: RepositoryKey, by_itself: bool) -> Result<Alone<'_>> {
        let mut runs = self.runs.lock();
        while let Some(run) = runs.get(&repository) {
            if by_itself || !run.by_itself {
                let name = self.on.repositories.name_of(repository);
                return Err(Error::new(Kind::Busy, format!("garbage in repository {name} is being collected"))
                    .hint("try again when that has ended"));
            }
            run.stop.store(true, Ordering::Release);
            self.changed.notify_all();
            self.changed.wait(&mut runs);
        }
        let stop = Arc::new(AtomicBool::new(false));
        runs.insert(repository, Run { by_itself, stop: stop.clone() });
        Ok(Alone { collector: self, repository, stop })
    }

    /// Collects garbage in a repository.
    ///
    /// # Errors
    /// [`Kind::Busy`]; [`Kind::Interrupted`]; if the repository cannot be opened. What is wrong with a lineage is in the answer.
    pub(super) fn collect(
        &self,
        caller: &Caller,
        repository: RepositoryKey,
        how: How,
        report: Report<'_>,
    ) -> Result<CollectedInfo> {
        let alone = self.take(repository, false)?;
        let opened = self.on.repositories.open(repository)?;
        if !how.threshold.dry_run {
            self.audit(caller, repository)?;
        }
        let mut pace = Pace::new(&alone, how.rate, Some(report));
        let mut info =
            CollectedInfo { repository: self.on.repositories.name_of(repository), ..CollectedInfo::default() };
        for lineage in opened.own_lineages()? {
            let home = Home { repository, lineage };
            match self.collect_home(home, how.threshold, &mut pace) {
                Ok(done) => add(&mut info, done),
                Err(err) if err.kind() == Kind::Interrupted => return Err(err),
                Err(err) => info.errors.push(WireError::from(&err.context(home))),
            }
        }
        Ok(info)
    }

    fn audit(&self, caller: &Caller, repository: RepositoryKey) -> Result<()> {
        let act = Act::new("coffer:CollectGarbage")
            .detail("repository", repository)
            .detail("name", self.on.repositories.name_of(repository));
        self.on.records.ledger().audited(caller, act, |tx| Repositories::must_know(tx, repository))
    }

    fn collect_home(&self, home: Home, threshold: Threshold, pace: &mut Pace<'_>) -> Result<Collected> {
        self.on.logs.check(home)?;
        if !threshold.dry_run {
            self.on.bases.release_unneeded(home)?;
        }
        pace.before = pace.done;
        self.on.lineages.collect(home, &threshold, &mut |bytes, total| pace.go_on(bytes, total))
    }

    /// Starts a thread that collects garbage where a sweep has left enough, unless one is at work.
    pub(super) fn start_if_due(self: &Arc<Self>) {
        let mut thread = self.thread.lock();
        let is_at_work = thread.as_ref().is_some_and(|t| !t.is_finished());
        if is_at_work || self.is_stopped.load(Ordering::Acquire) || !self.on.lineages.has_worn() {
            return;
        }
        let this = self.clone();
        match std::thread::Builder::new().name("coffer-gc".to_owned()).spawn(move || this.collect_worn()) {
            Ok(started) => *thread = Some(started),
            Err(err) => tracing::error!("start a thread to collect garbage: {err}; will retry in a minute"),
        }
    }

    /// Collects garbage where a sweep has left enough. What fails is logged, and tried again after the next sweep.
    pub(super) fn collect_worn(&self) {
        for home in self.on.lineages.take_worn() {
            match self.collect_one(home) {
                Ok(done) if done.packs > 0 => {
                    let mib = (done.removed.saturating_sub(done.written)) >> 20;
                    tracing::info!("{home}: {} packs are compacted, which gives back {mib} MiB", done.packs);
                }
                Ok(_) => {}
                // Somebody else does it, or will after the restart.
                Err(err) if matches!(err.kind(), Kind::Interrupted | Kind::Busy) => {}
                Err(err) => tracing::warn!("collect garbage of {home}: {}", err.line()),
            }
        }
    }

    fn collect_one(&self, home: Home) -> Result<Collected> {
        let alone = self.take(home.repository, true)?;
        let mut pace = Pace::new(&alone, Some(OWN_RATE), None);
        let would = self.collect_home(home, Threshold { dry_run: true, ..OWN }, &mut pace)?;
        if would.packs == 0 || alone.is_stopped() {
            return Ok(would_not(would));
        }
        self.audit(&self.on.records.own_caller("repository"), home.repository)?;
        self.collect_home(home, OWN, &mut pace)
    }

    /// Stops all runs, for good, and waits for the server's own.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        // A run looks at the flag under the lock before it waits.
        drop(self.runs.lock());
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the thread that collects garbage has failed");
        }
    }
}

fn would_not(would: Collected) -> Collected {
    Collected { packs: 0, removed: 0, written: 0, ..would }
}

/// Adds what was collected in a lineage.
fn add(info: &mut CollectedInfo, done: Collected) {
    let Collected { swept, removed, written, packs, live, garbage, held, damaged } = done;
    info.deleted += swept.deleted + packs;
    info.freed += (swept.freed + removed).saturating_sub(written);
    info.compacted += packs;
    info.written += written;
    info.live += live;
    info.garbage += garbage;
    info.held += held;
    info.refs.extend(swept.refs.into_iter().map(|(id, snapshot)| HolderInfo { id, snapshot }));
    info.blind.extend(swept.blind);
    info.damaged.extend(damaged);
}

impl Alone<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.collector.is_stopped.load(Ordering::Acquire)
    }

    /// Waits, unless the run is stopped.
    fn wait(&self, time: Duration) {
        let mut runs = self.collector.runs.lock();
        if !self.is_stopped() {
            self.collector.changed.wait_for(&mut runs, time);
        }
    }
}

/// Sets the pace of a run, and reports its progress.
struct Pace<'a> {
    alone: &'a Alone<'a>,
    rate: Option<u64>,
    report: Option<Report<'a>>,
    began: Instant,
    done: u64,
    /// What was done before this lineage.
    before: u64,
}

impl<'a> Pace<'a> {
    fn new(alone: &'a Alone<'a>, rate: Option<u64>, report: Option<Report<'a>>) -> Self {
        Self { alone, rate, report, began: Instant::now(), done: 0, before: 0 }
    }

    /// Waits until so many more bytes may be copied. `false`: the run is to stop.
    fn go_on(&mut self, bytes: u64, total: u64) -> bool {
        self.done += bytes;
        loop {
            let (what, unit) = ("compact".to_owned(), "bytes".to_owned());
            let progress = Progress { what, done: (self.done - self.before).min(total), total: Some(total), unit };
            let is_wanted = self.report.as_mut().is_none_or(|report| report(progress));
            if !is_wanted || self.alone.is_stopped() {
                return false;
            }
            let nanos = self.rate.map_or(0, |rate| u128::from(self.done) * 1_000_000_000 / u128::from(rate.max(1)));
            let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let rest = due.saturating_sub(self.began.elapsed());
            if rest.is_zero() {
                return true;
            }
            self.alone.wait(rest.min(LOOK));
        }
    }
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
