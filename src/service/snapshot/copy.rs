//! `snapshot copy`: begins a copy, and waits for it if that is asked for.

use crate::error::Result;
use crate::kms::{Caller, KeyRef};
use crate::service::api::SnapshotInfo;
use crate::service::copies::Asked;
use crate::service::copying::Stop;
use crate::service::records::Labels;
use crate::service::{Report, Role, Service};

impl Service {
    /// Copies a snapshot. Waits for its end if `wait` is set, and always in a command.
    pub(in crate::service) fn copy_snapshot(
        &self,
        caller: &Caller,
        snapshot: &str,
        (key, repository): (Option<KeyRef>, Option<String>),
        labels: Labels,
        (wait, report): (bool, Report<'_>),
    ) -> Result<SnapshotInfo> {
        self.check_labels(&labels)?;
        if let (Role::Command, Ok(source)) = (self.role, self.records.find_snapshot(snapshot)) {
            self.unsettled.settle_home(source.home());
        }
        let asked = Asked { snapshot: snapshot.to_owned(), key, repository, labels };
        let (id, job) = self.jobs.start_copy(caller, asked)?;
        if wait || self.role == Role::Command {
            return self.await_snapshot(caller, (id, &job), Stop::Cancel, report);
        }
        self.info(&self.records.find_snapshot(&id.to_string())?)
    }
}
