//! The recycle bin: a deleted snapshot stays there, hidden but whole, for as many days as the retention setting said when it was
//! deleted (EBS User Guide, "Recycle Bin").

use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::{Act, Record};
use crate::service::Service;
use crate::service::api::{RecycleBinInfo, SnapshotInfo, SnapshotState};
use crate::service::locks::Now;
use crate::service::records::{Recycled, SnapshotRecord};
use serde::{Deserialize, Serialize};

/// Longest retention in days (EBS User Guide, "Recycle Bin").
const LONGEST: u32 = 365;
const DAY: i64 = 24 * 60 * 60 * 1000;

/// The retention setting. Without a record the bin is off.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RecycleBin {
    days: u32,
}

impl Record for RecycleBin {
    const KIND: &'static str = "recycle-bin";
    fn id(&self) -> String {
        ID.to_owned()
    }
}

/// There is one bin.
const ID: &str = "snapshots";

impl Service {
    /// Returns the retention setting.
    pub(in crate::service) fn recycle_bin(&self) -> Result<RecycleBinInfo> {
        let days = self.ledger().catalog().get::<RecycleBin>(ID)?.map(|found| found.record.days);
        Ok(RecycleBinInfo { days })
    }

    /// Sets for how many days deleted snapshots are kept from now on; `None`: not at all. What is in the bin stays as long as it
    /// was to stay.
    pub(in crate::service) fn set_recycle_bin(&self, caller: &Caller, days: Option<u32>) -> Result<RecycleBinInfo> {
        if let Some(days) = days.filter(|days| !(1..=LONGEST).contains(days)) {
            return Err(Error::new(
                Kind::Usage,
                format!("the recycle bin keeps snapshots for 1 to {LONGEST} days, not {days}"),
            )
            .hint("use `coffer snapshot recycle-bin off` to delete them at once"));
        }
        let act = Act::new("coffer:SetRecycleBin").detail("days", days.unwrap_or(0));
        self.ledger().audited(caller, act, |tx| match (tx.get::<RecycleBin>(ID)?, days) {
            (Some(found), Some(days)) => tx.update(&RecycleBin { days }, found.version).map(drop),
            (None, Some(days)) => tx.insert(&RecycleBin { days }).map(drop),
            (Some(found), None) => tx.delete::<RecycleBin>(ID, found.version),
            (None, None) => Ok(()),
        })?;
        self.recycle_bin()
    }

    /// Puts a completed snapshot into the bin, if there is one. Returns when it will be deleted.
    pub(super) fn recycle(&self, caller: &Caller, record: &SnapshotRecord, now: Now) -> Result<Option<Timestamp>> {
        let Some(days) = self.recycle_bin()?.days.filter(|_| record.state == SnapshotState::Completed) else {
            return Ok(None);
        };
        let long = i64::from(days) * DAY;
        let (until, until_counted) = (Timestamp(now.wall.0.saturating_add(long)), now.counted.saturating_add(long));
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id).detail("recycled-until", until);
        self.records.change_snapshot(caller, act, record.id, |record| {
            Self::must_be_deletable(record, now)?;
            record.recycled = Some(Recycled { since: now.wall, until, until_counted });
            Ok(())
        })?;
        Ok(Some(until))
    }

    /// Takes a snapshot out of the bin. Its name is its own again, unless another one has it by now.
    pub(in crate::service) fn recover_snapshot(&self, caller: &Caller, what: &str) -> Result<SnapshotInfo> {
        let id = what.parse()?;
        let found = self.records.snapshot(id)?.filter(|r| !r.is_deleting());
        let record = found.ok_or_else(|| {
            let what = format!("there is no snapshot {id} in the recycle bin");
            Error::new(Kind::NotFound, what).hint("see `coffer snapshot list --recycled`")
        })?;
        let named =
            record.name.as_deref().map(|name| self.ledger().catalog().find::<SnapshotRecord>(name)).transpose()?;
        let is_taken = named.flatten().is_some_and(|other| other.record.id != id);
        let act = Act::new("ec2:RestoreSnapshotFromRecycleBin").detail("snapshot", id);
        let changed = self.records.change_snapshot(caller, act, id, |record| {
            record.recycled = None;
            if is_taken {
                record.name = None;
            }
            Ok(())
        })?;
        self.info(&changed)
    }

    /// Deletes what has been in the bin for long enough. What fails is logged, and due again.
    pub(in crate::service) fn expire_recycled(&self) {
        let expire = || {
            let mut due = self.records.snapshots()?;
            due.retain(|r| r.recycled.is_some() && !r.is_deleting());
            if due.is_empty() {
                return Ok(());
            }
            let (now, caller) = (self.both_clocks()?, self.records.own_caller("recycle bin"));
            due.retain(|r| r.recycled.as_ref().is_some_and(|recycled| recycled.is_over(now)));
            let failed = |id, err: &Error| tracing::error!("delete {id} from the recycle bin: {}", err.line());
            due.retain(|record| {
                let hide = || self.must_be_deletable_now(record, now).and_then(|()| self.hide(&caller, record, now));
                hide().inspect_err(|err| failed(record.id, err)).is_ok()
            });
            self.finish_hidden(due).iter().for_each(|(id, err)| failed(*id, err));
            Ok::<_, Error>(())
        };
        if let Err(err) = expire() {
            tracing::error!("look into the recycle bin: {}", err.line());
        }
    }
}

#[cfg(test)]
#[path = "recycle_tests.rs"]
mod tests;
