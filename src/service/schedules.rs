//! Schedules: a server takes a snapshot of a volume each time one is due, and prunes what it took.
//!
//! A schedule's record says when it is due next, and what became of its last run. A run takes the snapshot first and updates the
//! record then; if it is killed in between, the next one finds the snapshot and takes no second. Times that were missed while no
//! server ran, or while the last snapshot was still being copied, are made up for by one run.

use super::Service;
use super::api::{ScheduleInfo, SnapshotState};
use super::cadence::Cadence;
use super::records::{Labels, SnapshotRecord};
use super::retain::Keep;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::{Act, Record, Versioned};
use crate::units::{ScheduleId, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

/// Pause before a run that failed is tried again, in milliseconds.
const AGAIN: i64 = 5 * 60 * 1000;

/// The catalog's record of a schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ScheduleRecord {
    id: ScheduleId,
    volume: VolumeId,
    cadence: Cadence,
    /// Which of its snapshots to keep; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<Keep>,
    paused: bool,
    created: Timestamp,
    /// When it is due.
    next: Timestamp,
    /// When it last took a snapshot, or tried to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ran: Option<Timestamp>,
    /// The snapshot of its last run that took one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotId>,
    /// Whether that one is known to be completed, and what it made superfluous is pruned.
    #[serde(default)]
    settled: bool,
    /// Why the last run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Record for ScheduleRecord {
    const KIND: &'static str = "snapshot-schedule";
    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Service {
    /// Adds a schedule for a volume.
    pub(super) fn add_schedule(
        &self,
        caller: &Caller,
        volume: &str,
        cadence: Cadence,
        keep: Option<Keep>,
    ) -> Result<ScheduleInfo> {
        cadence.check()?;
        keep.as_ref().map_or(Ok(()), Keep::must_keep_something)?;
        let volume = self.records.find_volume(volume)?;
        let (id, now) = (ScheduleId::draw(&*self.env.rng), self.env.now());
        let record = ScheduleRecord {
            id,
            volume: volume.id,
            cadence,
            keep,
            paused: false,
            created: now,
            next: cadence.next(now, now),
            ran: None,
            snapshot: None,
            settled: true,
            error: None,
        };
        let act = Act::new("dlm:CreateLifecyclePolicy").detail("schedule", id).detail("volume", volume.id);
        self.ledger().audited(caller, act, |tx| tx.insert(&record))?;
        self.schedule_info(&record)
    }

    /// Returns all schedules, oldest first.
    pub(super) fn list_schedules(&self) -> Result<Vec<ScheduleInfo>> {
        let mut all = self.schedules()?;
        all.sort_by_key(|s| (s.record.created, s.record.id));
        all.iter().map(|s| self.schedule_info(&s.record)).collect()
    }

    /// Removes a schedule. Its snapshots are kept.
    pub(super) fn remove_schedule(&self, caller: &Caller, what: &str) -> Result<String> {
        let id: ScheduleId = what.parse()?;
        let act = Act::new("dlm:DeleteLifecyclePolicy").detail("schedule", id);
        self.ledger().audited(caller, act, |tx| match tx.get::<ScheduleRecord>(&id.to_string())? {
            Some(found) => tx.delete::<ScheduleRecord>(&id.to_string(), found.version),
            None => Err(there_is_none(id)),
        })?;
        Ok(format!("schedule {id} is removed; its snapshots are kept"))
    }

    /// Pauses a schedule, or resumes it: what was missed meanwhile is not made up for.
    pub(super) fn pause_schedule(&self, caller: &Caller, what: &str, paused: bool) -> Result<ScheduleInfo> {
        let id: ScheduleId = what.parse()?;
        let now = self.env.now();
        let act = Act::new("dlm:UpdateLifecyclePolicy").detail("schedule", id).detail("paused", paused);
        let changed = self.change_schedule(caller, act, id, |record| {
            if record.paused && !paused {
                record.next = record.cadence.next(record.created, now);
            }
            record.paused = paused;
        })?;
        self.schedule_info(&changed.ok_or_else(|| there_is_none(id))?)
    }

    fn schedules(&self) -> Result<Vec<Versioned<ScheduleRecord>>> {
        let listing = self.ledger().catalog().list::<ScheduleRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} is damaged", bad.kind, bad.id);
        }
        Ok(listing.records)
    }

    fn schedule_info(&self, record: &ScheduleRecord) -> Result<ScheduleInfo> {
        let volume = self.records.volume(record.volume)?;
        Ok(ScheduleInfo {
            id: record.id,
            volume: record.volume,
            name: volume.and_then(|v| v.name),
            cadence: record.cadence,
            keep: record.keep.clone(),
            paused: record.paused,
            created: record.created,
            next: record.next,
            ran: record.ran,
            snapshot: record.snapshot,
            error: record.error.clone(),
        })
    }

    /// Changes the record of a schedule. `None`: it is gone.
    fn change_schedule(
        &self,
        caller: &Caller,
        act: Act,
        id: ScheduleId,
        change: impl Fn(&mut ScheduleRecord),
    ) -> Result<Option<ScheduleRecord>> {
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<ScheduleRecord>(&id.to_string())? else { return Ok(None) };
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version).map(|made| Some(made.record))
        })
    }

    /// Runs the schedules that are due, and settles the last runs of all. What fails is in its record, and tried again.
    pub(super) fn run_schedules(&self, is_stopped: &dyn Fn() -> bool) {
        let all = match self.schedules() {
            Ok(all) => all,
            Err(err) => return tracing::error!("list the schedules: {}", err.line()),
        };
        for found in all {
            if is_stopped() {
                return;
            }
            let id = found.record.id;
            if let Err(err) = self.settle_run(found.record).and_then(|record| self.run_if_due(record)) {
                tracing::error!("schedule {id}: {}", err.line());
            }
        }
    }

    /// Looks at the end of the last run, if that is not known yet: prunes after a completed snapshot, and plans another run after a
    /// failed one.
    fn settle_run(&self, record: ScheduleRecord) -> Result<ScheduleRecord> {
        let Some(id) = record.snapshot.filter(|_| !record.settled) else { return Ok(record) };
        let failed = match self.records.snapshot(id)?.map(|s| (s.state, s.error)) {
            Some((SnapshotState::Pending, _)) => return Ok(record),
            Some((SnapshotState::Error, why)) => Some((why.unwrap_or_default(), self.retry(&record))),
            // Somebody deleted what a killed server left of it.
            None => Some((format!("snapshot {id} is gone"), self.env.now())),
            Some(_) => None,
        };
        let trouble = match &failed {
            Some((why, _)) => Some(why.clone()),
            None => self.prune_own(&record).unwrap_or_else(|err| Some(err.line())),
        };
        self.note_run(&record, |r| {
            (r.settled, r.error) = (true, trouble.clone());
            if let Some((_, again)) = &failed {
                (r.next, r.snapshot) = (*again, None);
            }
        })
    }

    /// Prunes by the schedule's rules what it took. Returns what went wrong.
    fn prune_own(&self, record: &ScheduleRecord) -> Result<Option<String>> {
        let Some(keep) = &record.keep else { return Ok(None) };
        let own = |s: &SnapshotRecord| s.schedule == Some(record.id);
        let pruned = self.prune(&self.scheduler(record), keep, false, &own)?;
        let failed = pruned.into_iter().find_map(|one| one.error.map(|err| (one.snapshot, err)));
        Ok(failed.map(|(snapshot, err)| format!("prune {snapshot}: {}", err.message)))
    }

    fn run_if_due(&self, record: ScheduleRecord) -> Result<()> {
        let now = self.env.now();
        // A date that is further off than the cadence allows is from before the clock was set back.
        let is_due = record.next <= now || record.next > record.cadence.next(record.created, now);
        if record.paused || !is_due || (record.snapshot.is_some() && !record.settled) {
            return Ok(());
        }
        let taken = match self.taken_by(&record)? {
            Some(taken) => Ok(taken),
            None => self.take(&record),
        };
        let next = record.cadence.next(record.created, now);
        let retry = self.retry(&record);
        self.note_run(&record, |r| {
            r.ran = Some(now);
            match &taken {
                Ok(id) => (r.next, r.snapshot, r.settled, r.error) = (next, Some(*id), false, None),
                Err(err) => (r.next, r.error) = (retry, Some(err.line())),
            }
        })
        .map(drop)
    }

    /// Returns the snapshot that a run took before it was killed.
    fn taken_by(&self, record: &ScheduleRecord) -> Result<Option<SnapshotId>> {
        let is_it = |s: &SnapshotRecord| {
            let is_whole = matches!(s.state, SnapshotState::Pending | SnapshotState::Completed) && !s.is_hidden();
            s.schedule == Some(record.id) && is_whole && s.created >= record.next && Some(s.id) != record.snapshot
        };
        Ok(self.records.snapshots()?.into_iter().find(is_it).map(|s| s.id))
    }

    /// Takes a snapshot. What failed runs left goes first: it holds no data, and its reason was told.
    fn take(&self, record: &ScheduleRecord) -> Result<SnapshotId> {
        let failed = |s: &SnapshotRecord| s.schedule == Some(record.id) && s.state == SnapshotState::Error;
        for left in self.records.snapshots()?.into_iter().filter(failed) {
            self.delete_snapshot(&self.scheduler(record), &left.id.to_string(), true)?;
        }
        let description = format!("taken by a schedule, {}", record.cadence);
        let labels = Labels { description, schedule: Some(record.id), ..Labels::default() };
        let volume = record.volume.to_string();
        let made = self.create_snapshot(&self.scheduler(record), &volume, (None, labels), false, &mut |_| true)?;
        Ok(made.id)
    }

    /// Returns when to try a failed run again: soon, but not later than the next one.
    fn retry(&self, record: &ScheduleRecord) -> Timestamp {
        let now = self.env.now();
        Timestamp(now.0.saturating_add(AGAIN)).min(record.cadence.next(record.created, now))
    }

    fn note_run(&self, record: &ScheduleRecord, change: impl Fn(&mut ScheduleRecord)) -> Result<ScheduleRecord> {
        let act = Act::new("dlm:PolicyRun").detail("schedule", record.id).detail("volume", record.volume);
        let changed = self.change_schedule(&self.scheduler(record), act, record.id, change)?;
        changed.ok_or_else(|| there_is_none(record.id))
    }

    /// Returns the service as the caller of a schedule's acts.
    fn scheduler(&self, record: &ScheduleRecord) -> Caller {
        self.records.own_caller(&format!("schedule {}", record.id))
    }
}

fn there_is_none(id: ScheduleId) -> Error {
    Error::new(Kind::NotFound, format!("there is no schedule {id}")).hint("see `coffer snapshot schedule list`")
}

#[cfg(test)]
#[path = "schedules_tests.rs"]
mod tests;
