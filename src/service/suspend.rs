//! Verbs for volumes that are open: what a person may change of one, and taking its key away by hand.

use super::Service;
use super::api::VolumeInfo;
use super::records::VolumeRecord;
use super::settings::Changes;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;

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
    /// Takes over what is asked to be changed.
    pub(super) fn apply(&mut self, changes: &Changes) {
        self.on_key_loss = changes.on_key_loss.unwrap_or(self.on_key_loss);
        self.iops = changes.iops.unwrap_or(self.iops);
        self.throughput = changes.throughput.unwrap_or(self.throughput);
    }
}

impl Service {
    /// Changes settings; they hold at once for those who have the volume attached.
    pub(super) fn modify_volume(&self, caller: &Caller, what: &str, changes: &Changes) -> Result<VolumeInfo> {
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
    pub(super) fn suspend_volume(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let next = self.suspensions.suspend_by_hand(&record, caller)?;
        self.volume_info(&next)
    }

    /// The end of that.
    pub(super) fn resume_volume(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let next = self.suspensions.resume_by_hand(&record, caller)?;
        self.volume_info(&next)
    }

    /// A CMK cannot be used any more.
    pub(super) fn suspend_volumes(&self, arn: &str) {
        self.suspensions.suspend_under(arn);
    }

    /// A CMK can be used again.
    pub(super) fn resume_volumes(&self, arn: &str) {
        self.suspensions.resume_under(arn);
    }

    /// All keys can be used again.
    pub(super) fn resume_all_volumes(&self) {
        self.suspensions.resume_all();
    }
}

#[cfg(test)]
#[path = "suspend_tests.rs"]
mod tests;
