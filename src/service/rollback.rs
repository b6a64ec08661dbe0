//! Rolls volumes back to their snapshots, in place.
//!
//! Order: the state that is abandoned is kept as a snapshot; the catalog announces the next identity, with the snapshot
//! as the volume's parent; a ref holds that; the header is changed; the catalog takes it over; the old data is freed.
//! After a kill, the volume is the old one or the snapshot, and the same command finishes the rest.

use super::api::{RolledBackInfo, SnapshotState};
use super::copying::Report;
use super::opening::Need;
use super::records::{Labels, NextIdentity, SnapshotRecord, VolumeRecord};
use super::settings::BackgroundRate;
use super::stored::Standing;
use super::{Role, Service};
use crate::cipher::{DataKey, Unwrapped};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::units::{KeyEpoch, SnapshotId};
use crate::volume::Volume;
use crate::volume::format::ParentRef;

type Keys = [(KeyEpoch, Unwrapped<DataKey>)];

impl Service {
    /// Rolls a volume without users back to a snapshot of its lineage. Unless `discard` is set, what the volume has now
    /// is a snapshot afterwards.
    pub(super) fn roll_back_volume(
        &self,
        caller: &Caller,
        what: &str,
        (snapshot, discard): (&str, bool),
        report: Report<'_>,
    ) -> Result<RolledBackInfo> {
        let record = self.records.find_volume(what)?;
        self.refuse_if_held(&record)?;
        let to = self.records.find_snapshot(snapshot)?;
        self.must_fit(&record, &to)?;
        if let Some(pending) = self.pending_of(record.id, record.lineage)? {
            let what = format!("volume {}: its snapshot {pending} is still in progress", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("wait until it is completed, or delete it"));
        }
        let used = self.opens.acquire(&record, Need::Key(caller))?;
        let keys = self.keys.unwrap(&used.volume, caller)?;
        must_have_keys(&used.volume, &to)?;
        if is_done(&used.volume, &to)? {
            drop(used);
            return self.finish_rollback(&record, &to, None);
        }
        if !used.volume.is_hydrated() {
            let what = format!("volume {} is still being filled from its snapshot", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("see `coffer volume show`; try again once it is hydrated"));
        }
        let kept = if discard { None } else { Some(self.keep_state(caller, &record, &used.volume, &to, report)?) };
        drop(used);
        self.replace_state(caller, &record, &to, kept, &keys)?;
        self.finish_rollback(&record, &to, kept)
    }

    /// Refuses a snapshot that the volume cannot be filled from.
    fn must_fit(&self, record: &VolumeRecord, to: &SnapshotRecord) -> Result<()> {
        to.must_be_completed()?;
        self.logs.check(to.home())?;
        if to.lineage != record.lineage {
            let what = format!("{} is not of the lineage of volume {}: it has another data key", to.id, record.shown());
            return Err(Error::new(Kind::Usage, what).hint("use `coffer volume create --snapshot` instead"));
        }
        Ok(())
    }

    /// Returns the snapshot that has what the volume has now: its newest one, if nothing was written since, or a new one.
    fn keep_state(
        &self,
        caller: &Caller,
        record: &VolumeRecord,
        volume: &Volume,
        to: &SnapshotRecord,
        report: Report<'_>,
    ) -> Result<SnapshotId> {
        if let Some(newest) = volume.unchanged_since()?
            && let Some(found) = self.records.snapshot(newest)?
            && found.state == SnapshotState::Completed
            && !found.is_hidden()
        {
            return Ok(newest);
        }
        if volume_is_paused(record, self.role) {
            let what = format!("volume {}: its snapshots are paused, so what it has cannot be kept", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("use `coffer volume modify --snapshot-rate`, or --discard"));
        }
        let description = format!("before the rollback to {}", to.id);
        let labels = Labels { description, ..Labels::default() };
        let taken = self.create_snapshot(caller, &record.id.to_string(), (None, labels), true, report)?;
        Ok(taken.id)
    }

    /// Gives the volume its new identity, while nobody else can open it.
    fn replace_state(
        &self,
        caller: &Caller,
        record: &VolumeRecord,
        to: &SnapshotRecord,
        kept: Option<SnapshotId>,
        keys: &Keys,
    ) -> Result<()> {
        let turn = self.opens.close_unused(record)?;
        let record = self.records.find_volume(&record.id.to_string())?;
        self.refuse_if_held(&record)?;
        let volume = self.stored.open(&record)?;
        let is_kept = kept.map_or(Ok(true), |kept| volume.unchanged_since().map(|newest| newest == Some(kept)))?;
        if !is_kept || self.stored.compare(&record, &volume)? != Standing::Known {
            let what = format!("volume {} was used meanwhile", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("try again"));
        }
        let parent = ParentRef {
            snapshot: to.id,
            repository: self.repositories.open(to.repository)?.id()?,
            installation: self.kms.installation().id,
            size: to.size,
        };
        let mac_epoch = volume.with_header(|h| h.identity().mac_epoch);
        let mac_key = keys.iter().find(|(epoch, _)| *epoch == mac_epoch).map(|(_, key)| key);
        let mac_key =
            mac_key.ok_or_else(|| Error::new(Kind::KeyUnavailable, format!("{}: no MAC key", record.shown())))?;
        let plan = volume.plan_rollback(parent.clone(), mac_key)?;
        let next = NextIdentity::of_rollback(&plan);
        let announce = Act::new("coffer:RollBackVolume").detail("volume", record.id).detail("snapshot", to.id);
        self.records.change_volume(caller, announce, record.id, |r| r.next = Some(next.clone()))?;
        let changed =
            self.lineages.hold_fill(record.lineage, record.id, &parent).and_then(|()| volume.roll_back_by(plan));
        // The header tells what the volume is now, whether or not this failed.
        let done = Act::new("coffer:VolumeRolledBack").detail("volume", record.id);
        let noted = self.records.change_volume(caller, done, record.id, |r| r.take_identity(&volume));
        let closed = volume.close();
        drop(turn);
        changed.and(noted.map(drop)).and(closed)
    }

    /// Frees what a volume that was rolled back held before, and has it filled.
    fn finish_rollback(
        &self,
        record: &VolumeRecord,
        to: &SnapshotRecord,
        kept: Option<SnapshotId>,
    ) -> Result<RolledBackInfo> {
        let freed = match self.free_old_data(record) {
            // A client was faster, or it is filled in part: what is left is overwritten by and by.
            Err(err) if matches!(err.kind(), Kind::Busy | Kind::InvalidState) => Ok(()),
            other => other,
        };
        let record = self.records.find_volume(&record.id.to_string())?;
        if let Some(parent) = &record.parent
            && let Err(err) = self.lineages.hold_base(record.lineage, record.id, parent)
        {
            tracing::warn!("hold {} as the base of {}: {}", parent.snapshot, record.shown(), err.line());
        }
        // A daemon starts to fill it now; a command leaves that to the next server.
        drop(self.opens.acquire(&record, Need::Sealed)?);
        freed.map_err(|e| e.context(format!("volume {} is rolled back, but", record.shown())))?;
        Ok(RolledBackInfo { volume: record.id, snapshot: to.id, kept })
    }

    /// Frees the space of what a volume held before its rollback, while nobody else can open it.
    fn free_old_data(&self, record: &VolumeRecord) -> Result<()> {
        let _turn = self.opens.close_unused(record)?;
        let volume = self.stored.open(&self.records.find_volume(&record.id.to_string())?)?;
        let freed = volume.free_old_data();
        freed.and(volume.close())
    }

    /// Refuses a volume that is attached, or that a client uses.
    pub(super) fn refuse_if_held(&self, record: &VolumeRecord) -> Result<()> {
        let Some(holder) = self.attachments.holder_of(record.id)? else { return Ok(()) };
        Err(Error::new(Kind::Busy, format!("volume {} is held by {holder}", record.shown()))
            .hint("use `coffer detach`; if it was not attached, disconnect the client or use `coffer detach --force`"))
    }
}

/// Whether the copy of a snapshot would not end.
fn volume_is_paused(record: &VolumeRecord, role: Role) -> bool {
    role == Role::Daemon && record.snapshot_rate == BackgroundRate::Paused
}

/// Refuses a snapshot with a data key that the volume does not have.
fn must_have_keys(volume: &Volume, to: &SnapshotRecord) -> Result<()> {
    let has = |id| volume.with_header(|h| h.identity().key_epochs.iter().any(|k| k.data_key_id == id));
    match to.data_keys.iter().find(|id| !has(**id)) {
        Some(_) => Err(Error::new(Kind::Usage, format!("{} has a data key that the volume does not have", to.id))
            .hint("use `coffer volume create --snapshot` instead")),
        None => Ok(()),
    }
}

/// Whether the volume is the snapshot already: rolled back to it, and not written since.
fn is_done(volume: &Volume, to: &SnapshotRecord) -> Result<bool> {
    let is_rolled_back = volume.map_generation() > 1 && !volume.is_hydrated();
    Ok(is_rolled_back && volume.unchanged_since()? == Some(to.id))
}

#[cfg(test)]
#[path = "rollback_tests.rs"]
mod tests;
