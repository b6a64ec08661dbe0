//! Deletes: into the recycle bin, or for good.

use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::service::Service;
use crate::service::api::SnapshotState;
use crate::service::home::Home;
use crate::service::locks::Now;
use crate::service::records::SnapshotRecord;
use crate::snapshot::sweep::Swept;
use crate::units::{ByteLen, SnapshotId, VolumeId};
use std::collections::BTreeMap;

impl Service {
    /// Deletes a snapshot: puts it into the recycle bin, if that is on and `now` is not set; otherwise for good.
    pub(in crate::service) fn delete_snapshot(&self, caller: &Caller, what: &str, now: bool) -> Result<String> {
        let id = match what.parse() {
            Ok(id) => id,
            Err(_) => self.records.find_snapshot(what)?.id,
        };
        if let Some(found) = self.records.snapshot(id)? {
            if found.state == SnapshotState::Pending {
                self.cancel_snapshot(&found);
            } else {
                self.unsettled.settle_home(found.home());
            }
        }
        let record = match self.records.snapshot(id)? {
            // An interrupted delete was finished just now, or when this process started.
            None if self.unsettled.has_finished(id) => {
                return Ok(format!("snapshot {id} is deleted"));
            }
            Some(record) if record.is_deleting() || record.recycled.is_some() => record,
            _ => self.records.find_snapshot(&id.to_string())?,
        };
        if record.state == SnapshotState::Pending {
            return Err(Error::new(Kind::Busy, format!("snapshot {} could not be cancelled", record.id))
                .hint("see the server's log, or wait until it is completed"));
        }
        let clocks = self.both_clocks()?;
        if !now && !record.is_deleting() {
            if let Some(bin) = &record.recycled {
                return Ok(say_recycled(id, bin.until));
            }
            self.must_be_deletable_now(&record, clocks)?;
            if let Some(until) = self.recycle(caller, &record, clocks)? {
                return Ok(say_recycled(id, until));
            }
        }
        self.delete_for_good(caller, &record, clocks)
    }

    /// Refuses to delete a snapshot that is protected, or that a client reads, or whose log was rolled back.
    pub(super) fn must_be_deletable_now(&self, record: &SnapshotRecord, now: Now) -> Result<()> {
        self.views.refuse_if_open(record.id)?;
        self.logs.check(record.home())?;
        self.must_be_unprotected(record, now)
    }

    /// Hides a snapshot at once, and removes the objects that no volume or later snapshot needs.
    pub(super) fn delete_for_good(&self, caller: &Caller, record: &SnapshotRecord, now: Now) -> Result<String> {
        if record.is_deleting() {
            self.views.refuse_if_open(record.id)?;
            self.logs.check(record.home())?;
        } else {
            self.must_be_deletable_now(record, now)?;
        }
        self.hide(caller, record, now)?;
        let swept = self.lineages.finish_delete(record).map_err(|err| self.hidden_only(record, err))?;
        Ok(self.say_deleted(record.id, &swept))
    }

    /// Hides a snapshot. It is for good: what finishes it can be repeated.
    pub(super) fn hide(&self, caller: &Caller, record: &SnapshotRecord, now: Now) -> Result<()> {
        let act = Act::new("ec2:DeleteSnapshot").detail("snapshot", record.id);
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&record.id.to_string())? else { return Ok(()) };
            if !found.record.is_deleting() {
                Self::must_be_deletable(&found.record, now)?;
            }
            // Its name is free at once.
            let gone = SnapshotRecord { state: SnapshotState::Deleting, name: None, ..found.record };
            tx.update(&gone, found.version).map(drop)
        })
    }

    /// Finishes the deletes of hidden snapshots, by one sweep in each home. Returns the errors of those that could not be
    /// finished.
    pub(super) fn finish_hidden(&self, hidden: Vec<SnapshotRecord>) -> Vec<(SnapshotId, Error)> {
        let mut homes: BTreeMap<Home, Vec<SnapshotRecord>> = BTreeMap::new();
        hidden.into_iter().for_each(|record| homes.entry(record.home()).or_default().push(record));
        let mut failed = Vec::new();
        for (home, records) in homes {
            if let Err(err) = self.lineages.finish_deletes(home, &records) {
                failed.extend(records.iter().map(|record| (record.id, self.hidden_only(record, err.replay()))));
            }
        }
        failed
    }

    /// Leaves a delete that could not be finished to be settled. Returns the error for its caller.
    fn hidden_only(&self, record: &SnapshotRecord, err: Error) -> Error {
        self.unsettled.add(record.home(), record.id, None);
        err.context(format!("snapshot {} is hidden, but not all of its data is removed yet", record.id))
    }

    /// Returns the message about a delete: what it freed, and what still occupies space.
    pub(super) fn say_deleted(&self, id: SnapshotId, swept: &Swept) -> String {
        let mut said = format!("snapshot {id} is deleted; freed {}", ByteLen(swept.freed));
        if let Some(why) = &swept.blind {
            said += &format!("; more is kept, because unreadable records may need it ({why}): see `coffer doctor`");
        }
        if self.views.refuse_if_open(id).is_err() {
            said += "; an NBD client is still reading it";
        }
        for (held, on) in &swept.refs {
            let volume = |sort: &str| {
                let id = held.strip_suffix(sort)?.parse::<VolumeId>().ok()?;
                let found = self.records.volume(id).ok()??;
                Some(found.shown())
            };
            if let Some(volume) = volume("-fill") {
                said += &format!(
                    "\n{on} stays in the repository until volume {volume} is filled from it (by a server) or deleted"
                );
            } else if let Some(volume) = volume("-base") {
                said += &format!(
                    "\n{on} stays in the repository as the base of the next snapshot of {volume}, until that is completed or the last snapshot of {volume} is deleted"
                );
            } else if let Some(copy) = held.strip_suffix("-copy") {
                said += &format!("\n{on} stays in the repository until its copy {copy} is completed or deleted");
            } else {
                said += &format!("\n{on} stays in the repository for the ref {held}");
            }
        }
        said
    }
}

/// Returns the message about a snapshot in the recycle bin.
fn say_recycled(id: SnapshotId, until: crate::env::Timestamp) -> String {
    format!(
        "snapshot {id} is in the recycle bin until {until}: `coffer snapshot recover {id}` takes it out, `coffer snapshot delete --now {id}` frees its space"
    )
}
