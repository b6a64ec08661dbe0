//! Verbs on open volumes: changing settings, and suspending and resuming by hand.

use super::Service;
use super::api::VolumeInfo;
use super::records::VolumeRecord;
use super::repositories::Repositories;
use super::settings::Changes;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;

/// Lowest IOPS limit. With a lower one, a client's queue would outlive its request timeout.
const MIN_IOPS: u64 = 100;
/// Lowest throughput limit, in bytes per second.
const MIN_THROUGHPUT: u64 = 1 << 20;

/// Refuses limits that are too low for any client.
pub(super) fn check_limits(changes: &Changes) -> Result<()> {
    if changes.iops.is_some_and(|n| n > 0 && n < MIN_IOPS) {
        return Err(Error::new(Kind::Usage, format!("the lowest IOPS limit is {MIN_IOPS}"))
            .hint("use --iops 3000, or 0 for no limit"));
    }
    if changes.throughput.is_some_and(|n| n > 0 && n < MIN_THROUGHPUT) {
        return Err(Error::new(Kind::Usage, "the lowest throughput limit is 1 MiB/s")
            .hint("use --throughput 125, or 0 for no limit"));
    }
    Ok(())
}

impl VolumeRecord {
    /// Applies the requested changes.
    pub(super) fn apply(&mut self, changes: &Changes) {
        self.on_key_loss = changes.on_key_loss.unwrap_or(self.on_key_loss);
        self.iops = changes.iops.unwrap_or(self.iops);
        self.throughput = changes.throughput.unwrap_or(self.throughput);
        self.hydrate_rate = changes.hydrate_rate.unwrap_or(self.hydrate_rate);
        self.snapshot_rate = changes.snapshot_rate.unwrap_or(self.snapshot_rate);
        self.repository = changes.repository.unwrap_or(self.repository);
    }
}

impl Service {
    /// Changes settings. They take effect at once, also for an attached volume.
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
        for (name, rate) in [("hydrate-rate", changes.hydrate_rate), ("snapshot-rate", changes.snapshot_rate)] {
            if let Some(rate) = rate {
                act = act.detail(name, rate);
            }
        }
        if let Some(repository) = changes.repository {
            let which = repository.map_or_else(|| "default".to_owned(), |key| key.to_string());
            act = act.detail("repository", which);
        }
        let _turn = self.turns.take(record.id);
        let next = self.records.change_volume_if(caller, act, record.id, |tx, r| {
            changes.repository.flatten().map_or(Ok(()), |key| Repositories::must_know(tx, key))?;
            r.apply(changes);
            Ok(())
        })?;
        if let Some(settings) = self.opens.settings_of(record.id) {
            settings.set(next.on_key_loss, next.iops, next.throughput);
            settings.set_rates(next.hydrate_rate, next.snapshot_rate);
            settings.tell();
        }
        self.volume_info(&next)
    }

    /// Wipes a volume's data key until the volume is resumed by hand. Reads and writes are held or fail, as it is set.
    pub(super) fn suspend_volume(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let next = self.suspensions.suspend_by_hand(&record, caller)?;
        self.volume_info(&next)
    }

    /// Ends a suspension by hand.
    pub(super) fn resume_volume(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let next = self.suspensions.resume_by_hand(&record, caller)?;
        self.volume_info(&next)
    }
}

#[cfg(test)]
#[path = "suspend_tests.rs"]
mod tests;
