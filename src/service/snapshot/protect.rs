//! What protects a snapshot from deletion: a hold, which lasts until it is released, and a lock, which lasts until its date.
//!
//! Both are recorded in the catalog. Behind either stands one hold in the repository's log, so that a catalog that was restored
//! from a backup does not make a snapshot deletable: what the log holds and the catalog does not know is deleted only after
//! `snapshot release`. The log's hold comes before the catalog's record and goes after it.

use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::service::Service;
use crate::service::api::{LockState, SnapshotInfo};
use crate::service::locks::{Asked, Lock, Now};
use crate::service::records::SnapshotRecord;

impl Service {
    /// Returns the time by both clocks.
    pub(super) fn both_clocks(&self) -> Result<Now> {
        Ok(Now { wall: self.env.now(), counted: self.kms.waited().count()? })
    }

    /// Counts the time that locks have lasted, if there are any.
    pub(in crate::service) fn count_for_locks(&self) -> Result<()> {
        if self.records.snapshots()?.iter().any(|r| r.lock.is_some()) {
            self.kms.waited().count()?;
        }
        Ok(())
    }

    /// Holds a snapshot against deletion until it is released.
    pub(in crate::service) fn hold_snapshot(&self, caller: &Caller, what: &str) -> Result<SnapshotInfo> {
        let record = self.records.find_snapshot(what)?;
        self.hold_in_log(&record)?;
        let act = Act::new("coffer:HoldSnapshot").detail("snapshot", record.id).restrictive();
        self.protected(caller, act, &record, |record| {
            record.held = true;
            Ok(())
        })
    }

    /// Releases a hold. A lock stays.
    pub(in crate::service) fn release_snapshot(&self, caller: &Caller, what: &str) -> Result<SnapshotInfo> {
        let record = self.records.find_snapshot(what)?;
        let act = Act::new("coffer:ReleaseSnapshot").detail("snapshot", record.id);
        let released = self.protected(caller, act, &record, |record| {
            record.held = false;
            Ok(())
        })?;
        self.release_in_log(&record)?;
        Ok(released)
    }

    /// Locks a snapshot, or changes its lock.
    pub(in crate::service) fn lock_snapshot(&self, caller: &Caller, what: &str, asked: &Asked) -> Result<SnapshotInfo> {
        let record = self.records.find_snapshot(what)?;
        let now = self.both_clocks()?;
        let named = |e: Error| e.context(format!("lock snapshot {}", record.id));
        Lock::asked(record.lock.as_ref(), asked, now).map_err(named)?;
        self.hold_in_log(&record)?;
        let act = Act::new("ec2:LockSnapshot").detail("snapshot", record.id).detail("mode", asked.mode).restrictive();
        self.protected(caller, act, &record, |record| {
            record.lock = Some(Lock::asked(record.lock.as_ref(), asked, now).map_err(named)?);
            Ok(())
        })
    }

    /// Takes a lock back, if its mode and its cooling-off period allow that.
    pub(in crate::service) fn unlock_snapshot(&self, caller: &Caller, what: &str) -> Result<SnapshotInfo> {
        let record = self.records.find_snapshot(what)?;
        let now = self.both_clocks()?;
        let act = Act::new("ec2:UnlockSnapshot").detail("snapshot", record.id);
        let unlocked = self.protected(caller, act, &record, |record| {
            let named = |e: Error| e.context(format!("unlock snapshot {}", record.id));
            record.lock.as_ref().map_or(Ok(()), |lock| lock.must_be_removable(now)).map_err(named)?;
            record.lock = None;
            Ok(())
        })?;
        self.release_in_log(&record)?;
        Ok(unlocked)
    }

    fn protected(
        &self,
        caller: &Caller,
        act: Act,
        record: &SnapshotRecord,
        change: impl Fn(&mut SnapshotRecord) -> Result<()>,
    ) -> Result<SnapshotInfo> {
        let changed = self.records.change_snapshot(caller, act, record.id, change)?;
        self.info(&changed)
    }

    /// Puts the hold into the repository's log that stands behind a hold or a lock.
    fn hold_in_log(&self, record: &SnapshotRecord) -> Result<()> {
        record.must_be_completed()?;
        self.logs.check(record.home())?;
        let repository = self.repository_of(record)?;
        if !repository.live(record.lineage, record.id)?.is_some_and(|live| live.held) {
            repository.hold(record.lineage, record.id, true)?;
            self.logs.note(record.home());
        }
        Ok(())
    }

    /// Removes it, if neither is left.
    fn release_in_log(&self, record: &SnapshotRecord) -> Result<()> {
        let record = self.records.find_snapshot(&record.id.to_string())?;
        if Self::is_protected(&record, self.both_clocks()?).is_some() {
            return Ok(());
        }
        self.logs.check(record.home())?;
        let repository = self.repository_of(&record)?;
        if repository.live(record.lineage, record.id)?.is_some_and(|live| live.held) {
            repository.hold(record.lineage, record.id, false)?;
            self.logs.note(record.home());
        }
        Ok(())
    }

    /// Returns what the catalog knows of that protects a snapshot.
    pub(super) fn is_protected(record: &SnapshotRecord, now: Now) -> Option<String> {
        if record.held {
            return Some("it is held".to_owned());
        }
        let lock = record.lock.as_ref().map(|lock| lock.info(now)).filter(|lock| lock.state != LockState::Expired);
        lock.map(|lock| format!("it is locked in {} mode until {}", lock.mode, lock.until))
    }

    /// Refuses to delete a snapshot that the catalog knows to be protected, as a transaction finds it.
    ///
    /// # Errors
    /// [`Kind::InvalidState`].
    pub(super) fn must_be_deletable(record: &SnapshotRecord, now: Now) -> Result<()> {
        match Self::is_protected(record, now) {
            Some(why) => {
                Err(Error::new(Kind::InvalidState, format!("snapshot {} cannot be deleted: {why}", record.id)))
            }
            None => Ok(()),
        }
    }

    /// Refuses to delete a snapshot that is held or locked.
    ///
    /// # Errors
    /// [`Kind::InvalidState`], with the way to remove the protection.
    pub(super) fn must_be_unprotected(&self, record: &SnapshotRecord, now: Now) -> Result<()> {
        let refuse = |why: &str, hint: &str| {
            Err(Error::new(Kind::InvalidState, format!("snapshot {} cannot be deleted: {why}", record.id)).hint(hint))
        };
        if let Some(why) = Self::is_protected(record, now) {
            return refuse(
                &why,
                match &record.lock {
                    _ if record.held => "release it first: `coffer snapshot release`",
                    Some(lock) if lock.must_be_removable(now).is_ok() => {
                        "take the lock back first: `coffer snapshot unlock`"
                    }
                    _ => "nobody can take this lock back: wait until it expires",
                },
            );
        }
        let held = self.repository_of(record)?.live(record.lineage, record.id)?.is_some_and(|live| live.held);
        if held && record.lock.is_none() {
            let why = "the repository's log holds it, and the catalog does not know why; perhaps it is an older copy";
            return refuse(why, "find out who held it, then release it: `coffer snapshot release`");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "protect_tests.rs"]
mod tests;
