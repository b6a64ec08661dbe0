//! Waiting for pending snapshots, continuing them, and cancelling them.

use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::service::api::{Progress, SnapshotInfo, SnapshotState};
use crate::service::copying::{Job, Stop};
use crate::service::records::SnapshotRecord;
use crate::service::{Report, Role, Service};
use crate::units::SnapshotId;
use std::time::Duration;

impl Service {
    /// Continues the snapshots that an earlier process left.
    pub(in crate::service) fn resume_snapshots(&self) {
        drop(self.jobs.resume_all(|_| true));
    }

    /// Waits until a snapshot is completed. A waiter that leaves ends the waiting in a server; in a command, the snapshot
    /// stops as told.
    pub(super) fn await_snapshot(
        &self,
        caller: &Caller,
        (id, job): (SnapshotId, &Job),
        on_leave: Stop,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        if !job.wait(report, self.on_leave(on_leave)) {
            let what = format!("snapshot {id} continues: only the wait for it has ended");
            return Err(Error::new(Kind::Interrupted, what).hint(format!("see `coffer snapshot show {id}`")));
        }
        let record = self.records.find_snapshot(&id.to_string())?;
        if record.state == SnapshotState::Error && job.stopped() == Some(Stop::Cancel) && self.role == Role::Command {
            // The only one who knew of it waited for it and stopped it.
            self.delete_snapshot(caller, &id.to_string(), true)?;
            return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
        }
        if record.state == SnapshotState::Pending && job.stopped().is_none() {
            let what = format!("copy {id} waits for a CMK that cannot be used");
            return Err(Error::new(Kind::KeyUnavailable, what).hint(format!(
                "enable the CMK, then use `coffer snapshot wait {id}`; a server continues it by itself"
            )));
        }
        if record.state == SnapshotState::Pending {
            let what = format!("snapshot {id} is suspended: the process ends");
            return Err(Error::new(Kind::Interrupted, what).hint("the next `coffer serve` continues it"));
        }
        record.must_be_completed()?;
        self.info(&record)
    }

    /// Waits until a pending snapshot is completed. Without a server, continues it.
    pub(in crate::service) fn wait_for_snapshot(
        &self,
        caller: &Caller,
        what: &str,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        loop {
            let record = self.records.find_snapshot(what)?;
            if record.state != SnapshotState::Pending {
                record.must_be_completed()?;
                return self.info(&record);
            }
            let job = self.jobs.job_of(record.id).map_or_else(|| self.jobs.resume(&record), Ok);
            let failed = match job {
                // Otherwise it could not be continued just now, and nobody works on it.
                Ok(job) if !job.wait(report, self.on_leave(Stop::Suspend)) || job.stopped().is_some() => {
                    return self.await_snapshot(caller, (record.id, &job), Stop::Suspend, report);
                }
                Ok(_) => continue,
                Err(err) => err,
            };
            // Settles what cannot be continued. The rest may pass.
            drop(self.jobs.resume_all(|r| r.id == record.id));
            let is_pending = self.records.find_snapshot(what)?.state == SnapshotState::Pending;
            if is_pending && (self.role == Role::Command || !pause(report)) {
                return Err(failed);
            }
        }
    }

    /// Returns what becomes of a snapshot whose waiter leaves: a server continues it.
    fn on_leave(&self, stop: Stop) -> Option<Stop> {
        Some(stop).filter(|_| self.role == Role::Command)
    }

    /// Cancels a pending snapshot.
    pub(super) fn cancel_snapshot(&self, record: &SnapshotRecord) {
        if let Some(job) = self.jobs.job_of(record.id) {
            job.stop(Stop::Cancel);
            job.await_end();
        }
        let why = "it was cancelled".to_owned();
        self.unsettled.add(record.home(), record.id, Some(why));
        self.unsettled.settle_home(record.home());
    }
}

/// Pauses before another look. `false`: the waiter has left.
fn pause(report: Report<'_>) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    report(Progress { what: "wait".to_owned(), done: 0, total: None, unit: "bytes".to_owned() })
}
