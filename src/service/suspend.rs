//! Volumes whose key goes away and comes back: by what happens to their CMK, or by hand. And what a person may change of a
//! volume while it is attached.

use super::Service;
use super::api::VolumeInfo;
use super::opening::Open;
use super::settings::Changes;
use super::volume::VolumeRecord;
use crate::error::{Error, Kind, Result};
use crate::kms::{Act, Caller};
use crate::service::OnKeyLoss;
use crate::units::VolumeId;
use crate::volume::Volume;
use std::sync::Arc;

/// Fewest requests a second that may be set: with less, a client's queue outlives its request timeout.
const MIN_IOPS: u64 = 100;
/// Fewest bytes a second that may be set.
const MIN_THROUGHPUT: u64 = 1 << 20;

/// Refuses limits that no client could live with.
pub(super) fn check_limits(changes: &Changes) -> Result<()> {
    if changes.iops.is_some_and(|n| n > 0 && n < MIN_IOPS) {
        return Err(Error::new(Kind::Usage, format!("a volume has at least {MIN_IOPS} IOPS"))
            .hint("say --iops 3000, or 0 for no limit"));
    }
    if changes.throughput.is_some_and(|n| n > 0 && n < MIN_THROUGHPUT) {
        return Err(Error::new(Kind::Usage, "a volume has a throughput of at least 1 MiB/s")
            .hint("say --throughput 125, or 0 for no limit"));
    }
    Ok(())
}

impl VolumeRecord {
    pub(super) fn apply(&mut self, changes: &Changes) {
        self.on_key_loss = changes.on_key_loss.unwrap_or(self.on_key_loss);
        self.iops = changes.iops.unwrap_or(self.iops);
        self.throughput = changes.throughput.unwrap_or(self.throughput);
    }
}

impl Service {
    /// Changes settings; they hold at once for those who have the volume attached.
    pub(super) fn modify_volume(
        self: &Arc<Self>,
        caller: &Caller,
        what: &str,
        changes: &Changes,
    ) -> Result<VolumeInfo> {
        check_limits(changes)?;
        let record = self.find_volume(what)?;
        let mut act = Act::new("ec2:ModifyVolume").key(record.key_arn.clone()).detail("volume", record.id);
        if let Some(policy) = changes.on_key_loss {
            act = act.detail("on-key-loss", policy);
        }
        for (name, limit) in [("iops", changes.iops), ("throughput", changes.throughput)] {
            if let Some(limit) = limit {
                act = act.detail(name, limit);
            }
        }
        let opens = self.opens.lock();
        let next = self.change_record(caller, act, record.id, |r| r.apply(changes))?;
        if let Some(open) = opens.get(&record.id) {
            open.settings.set(next.on_key_loss, next.iops, next.throughput);
            open.settings.tell();
        }
        drop(opens);
        self.volume_info(&next)
    }

    /// Wipes a volume's data key until it is resumed by hand. Reads and writes are held, or fail, as it is set.
    pub(super) fn suspend_volume(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.find_volume(what)?;
        let act =
            Act::new("coffer:SuspendVolume").key(record.key_arn.clone()).detail("volume", record.id).restrictive();
        let mut opens = self.opens.lock();
        let next = self.change_record(caller, act, record.id, |r| r.suspended = true)?;
        if let Some(open) = opens.get_mut(&record.id) {
            suspend(open, "by hand");
        }
        drop(opens);
        self.volume_info(&next)
    }

    /// The end of that. The header's MAC is checked before anything goes on.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if its CMK cannot be used: it stays suspended then.
    pub(super) fn resume_volume(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.find_volume(what)?;
        let act = Act::new("coffer:ResumeVolume").key(record.key_arn.clone()).detail("volume", record.id);
        let mut opens = self.opens.lock();
        if let Some(open) = opens.get_mut(&record.id).filter(|o| o.suspended) {
            let lease = self.as_resuming(record.id, caller)?;
            open.volume.unlock(&self.unwrap_keys(&open.volume, &lease)?)?;
            let next = self
                .change_record(caller, act, record.id, |r| r.suspended = false)
                .inspect_err(|_| open.volume.suspend())?;
            resumed(open);
            drop(opens);
            return self.volume_info(&next);
        }
        let next = self.change_record(caller, act, record.id, |r| r.suspended = false)?;
        drop(opens);
        self.volume_info(&next)
    }

    /// Whether a volume is suspended by hand.
    pub(super) fn is_suspended(&self, id: VolumeId) -> Result<bool> {
        Ok(self.kms.catalog().get::<VolumeRecord>(&id.to_string())?.is_some_and(|f| f.record.suspended))
    }

    fn change_record(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        change: impl Fn(&mut VolumeRecord),
    ) -> Result<VolumeRecord> {
        let changed = self.kms.audited(caller, act, |tx| {
            let found = tx.get::<VolumeRecord>(&id.to_string())?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("volume {id} is gone")))?;
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version)
        })?;
        Ok(changed.record)
    }

    /// A CMK cannot be used any more: wipes the data keys of the open volumes under it, unless they are to go on.
    pub(super) fn suspend_volumes(&self, arn: &str) {
        self.suspend_views(arn);
        for open in self.opens.lock().values_mut() {
            if open.settings.on_key_loss() != OnKeyLoss::Continue
                && open.volume.is_unlocked()
                && self.is_under(&open.volume, arn)
            {
                suspend(open, &format!("its CMK {arn} cannot be used"));
            }
        }
    }

    /// A volume may not be used any more by those who have it: wipes its data keys, unless it is to go on.
    pub(super) fn suspend_one(&self, id: VolumeId, why: &str) {
        let mut opens = self.opens.lock();
        let open = opens.get_mut(&id).filter(|o| o.settings.on_key_loss() != OnKeyLoss::Continue);
        if let Some(open) = open.filter(|o| o.volume.is_unlocked()) {
            suspend(open, why);
        }
    }

    /// Whether a CMK wraps one of the volume's data keys: by the key id in the blob, never by the ARN shown beside it.
    fn is_under(&self, volume: &Volume, arn: &str) -> bool {
        let blobs: Vec<_> = volume.with_header(|h| h.keys().iter().flat_map(|k| k.keys.clone()).collect());
        blobs.iter().any(|k| self.kms.blob_info(&k.blob).is_ok_and(|i| i.key_arn == arn))
    }

    /// A CMK can be used again: the suspended volumes under it go on, but for those suspended by hand.
    pub(super) fn resume_volumes(&self, arn: &str) {
        self.resume_those(|volume| self.is_under(volume, arn));
    }

    /// All keys can be used again.
    pub(super) fn resume_all_volumes(&self) {
        self.resume_those(|_| true);
    }

    fn resume_those(&self, which: impl Fn(&Volume) -> bool) {
        let caller = self.own_caller("resume");
        for open in self.opens.lock().values_mut().filter(|o| o.suspended && which(&o.volume)) {
            let id = open.volume.id();
            let unlocked = self.is_suspended(id).and_then(|by_hand| {
                if !by_hand {
                    let lease = self.as_resuming(id, &caller)?;
                    open.volume.unlock(&self.unwrap_keys(&open.volume, &lease)?)?;
                }
                Ok(!by_hand)
            });
            match unlocked {
                Ok(true) => resumed(open),
                Ok(false) => {}
                Err(err) => tracing::error!("resume {id}: {}", err.line()),
            }
        }
    }
}

/// Returns when no cipher call runs any more and the keys are wiped.
fn suspend(open: &mut Open, why: &str) {
    tracing::warn!("{} is suspended: {why}", open.volume.id());
    open.suspended |= open.volume.is_unlocked();
    open.volume.suspend();
}

/// The volume is unlocked: what was held for it goes on.
pub(super) fn resumed(open: &mut Open) {
    open.suspended = false;
    open.settings.tell();
}
