//! Volumes whose key goes away and comes back: by what happens to their CMK, or by hand. And what a person may change of a
//! volume while it is attached.

use super::Service;
use super::api::VolumeInfo;
use super::opening::Open;
use super::records::VolumeRecord;
use super::settings::Changes;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::service::OnKeyLoss;
use crate::units::VolumeId;
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
        let record = self.records.find_volume(what)?;
        let mut act = Act::new("ec2:ModifyVolume").key(record.key_arn.clone()).detail("volume", record.id);
        if let Some(policy) = changes.on_key_loss {
            act = act.detail("on-key-loss", policy);
        }
        for (name, limit) in [("iops", changes.iops), ("throughput", changes.throughput)] {
            if let Some(limit) = limit {
                act = act.detail(name, limit);
            }
        }
        let _turn = self.turns.take(record.id);
        let next = self.records.change_volume(caller, act, record.id, |r| r.apply(changes))?;
        if let Some(settings) = self.opens.settings_of(record.id) {
            settings.set(next.on_key_loss, next.iops, next.throughput);
            settings.tell();
        }
        self.volume_info(&next)
    }

    /// Wipes a volume's data key until it is resumed by hand. Reads and writes are held, or fail, as it is set.
    pub(super) fn suspend_volume(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let act =
            Act::new("coffer:SuspendVolume").key(record.key_arn.clone()).detail("volume", record.id).restrictive();
        let next = self.records.change_volume(caller, act, record.id, |r| r.suspended = true)?;
        self.keygate.close(&record.id.to_string());
        self.wipe_those(|id, _| (id == record.id).then(|| "by hand".to_owned()));
        self.volume_info(&next)
    }

    /// The end of that. The header's MAC is checked before anything goes on.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if its CMK cannot be used: it stays suspended then.
    pub(super) fn resume_volume(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let act = Act::new("coffer:ResumeVolume").key(record.key_arn.clone()).detail("volume", record.id);
        let _turn = self.turns.take(record.id);
        let held = self.opens.lock().get(&record.id).filter(|o| o.suspended).map(|o| o.volume.clone());
        let Some(volume) = held else {
            // Nobody waits for it; whoever opens it next would only then learn that its CMK cannot be used.
            self.kms.must_be_usable(&record.key_arn, "ResumeVolume")?;
            let next = self.records.change_volume(caller, act, record.id, |r| r.suspended = false)?;
            return self.volume_info(&next);
        };
        let lease = self.keys.as_resuming(record.id, caller)?;
        self.opens.unlock(self.keygate.ticket(), &volume, &lease)?;
        let next = self.records.change_volume(caller, act, record.id, |r| r.suspended = false).inspect_err(|_| {
            volume.suspend();
        })?;
        if let Some(open) = self.opens.lock().get_mut(&record.id) {
            open.resume();
        }
        self.volume_info(&next)
    }

    /// A CMK cannot be used any more: wipes the data keys of the open volumes under it, unless they are to go on, and the
    /// ciphers of snapshot exports and of exports to files. Waits for pieces that are being sealed or opened, for nothing else.
    pub(super) fn suspend_volumes(&self, arn: &str) {
        self.keygate.close(arn);
        self.keygate.wipe(arn);
        self.wipe_those(|_, open| {
            let under = open.cmks.iter().any(|c| c == arn) && open.settings.on_key_loss() != OnKeyLoss::Continue;
            under.then(|| format!("its CMK {arn} cannot be used"))
        });
    }

    /// A volume may not be used any more by those who have it: wipes its data keys, unless it is to go on.
    pub(super) fn suspend_one(&self, id: VolumeId, why: &str) {
        self.keygate.close(&id.to_string());
        self.wipe_those(|this, open| {
            (this == id && open.settings.on_key_loss() != OnKeyLoss::Continue).then(|| why.to_owned())
        });
    }

    /// Wipes the data keys of those open volumes for which `why` has a reason. What is not unlocked yet is kept from it by
    /// the gate, which is closed before.
    fn wipe_those(&self, why: impl Fn(VolumeId, &Open) -> Option<String>) {
        let mut those = Vec::new();
        for (id, open) in self.opens.lock().iter_mut() {
            if let Some(why) = why(*id, open) {
                those.push((*id, open.volume.clone(), why));
            }
        }
        // Without `opens`: a piece that waits for its disk keeps nobody from opening or closing another volume.
        for (id, volume, why) in those {
            if volume.suspend() {
                tracing::warn!("{id} is suspended: {why}");
                let away = !volume.is_unlocked();
                if let Some(open) = self.opens.lock().get_mut(&id).filter(|o| Arc::ptr_eq(&o.volume, &volume)) {
                    open.suspended = open.is_used() && away;
                }
            }
        }
    }

    /// A CMK can be used again: the suspended volumes under it go on, but for those suspended by hand.
    pub(super) fn resume_volumes(&self, arn: &str) {
        self.resume_those(|open| open.cmks.iter().any(|c| c == arn));
    }

    /// All keys can be used again.
    pub(super) fn resume_all_volumes(&self) {
        self.resume_those(|_| true);
    }

    fn resume_those(&self, which: impl Fn(&Open) -> bool) {
        let caller = self.records.own_caller("resume");
        let those: Vec<VolumeId> =
            self.opens.lock().iter().filter(|(_, o)| o.suspended && which(o)).map(|(id, _)| *id).collect();
        for id in those {
            let _turn = self.turns.take(id);
            let held = self.opens.lock().get(&id).filter(|o| o.suspended).map(|o| o.volume.clone());
            let Some(volume) = held else { continue };
            let ticket = self.keygate.ticket();
            let unlocked = self.records.volume(id).and_then(|found| {
                let by_hand = found.is_some_and(|r| r.suspended);
                if !by_hand {
                    let lease = self.keys.as_resuming(id, &caller)?;
                    self.opens.unlock(ticket, &volume, &lease)?;
                }
                Ok(!by_hand)
            });
            match unlocked {
                Ok(true) => drop(self.opens.lock().get_mut(&id).map(Open::resume)),
                Ok(false) => {}
                Err(err) => tracing::error!("resume {id}: {}", err.line()),
            }
        }
    }
}

#[cfg(test)]
#[path = "suspend_tests.rs"]
mod tests;
