//! Waiting for pending snapshots, continuing them, and cancelling them.

use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::service::api::{SnapshotInfo, SnapshotState};
use crate::service::copying::{Job, Stop};
use crate::service::records::SnapshotRecord;
use crate::service::{Report, Role, Service};
use crate::units::SnapshotId;

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
        if !job.wait(report, Some(on_leave).filter(|_| self.role == Role::Command)) {
            let what = format!("snapshot {id} continues: only the wait for it has ended");
            return Err(Error::new(Kind::Interrupted, what).hint(format!("see `coffer snapshot show {id}`")));
        }
        let record = self.records.find_snapshot(&id.to_string())?;
        if record.state == SnapshotState::Error && job.stopped() == Some(Stop::Cancel) && self.role == Role::Command {
            // The only one who knew of it waited for it and stopped it.
            self.delete_snapshot(caller, &id.to_string(), true)?;
            return Err(Error::new(Kind::Interrupted, format!("snapshot {id} was stopped")));
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
        let record = self.records.find_snapshot(what)?;
        if record.state != SnapshotState::Pending {
            record.must_be_completed()?;
            return self.info(&record);
        }
        let job = self.jobs.job_of(record.id).map_or_else(|| self.jobs.resume(&record), Ok);
        match job {
            Ok(job) => self.await_snapshot(caller, (record.id, &job), Stop::Suspend, report),
            Err(err) => {
                drop(self.jobs.resume_all(|r| r.id == record.id));
                let now = self.records.find_snapshot(what)?;
                if now.state == SnapshotState::Completed { self.info(&now) } else { Err(err) }
            }
        }
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
