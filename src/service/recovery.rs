//! Losses that a person may accept after a look: a rolled-back header, or lost writes. Each acceptance is audited.

use super::Service;
use super::api::VolumeInfo;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;

impl Service {
    /// Accepts a volume's header with a good MAC as the one that the catalog knows from now on.
    pub(super) fn accept_rollback(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let _turn = self.opens.close_unused(&record)?;
        let volume = self.stored.open(&record)?;
        let (id, lineage) = volume.with_header(|h| (h.identity().volume_id, h.identity().lineage));
        if (id, lineage) != (record.id, record.lineage) {
            return Err(Error::new(Kind::Integrity, format!("volume {}: its header belongs to {id}", record.shown()))
                .hint("restore the volume's own file; the header of another volume is not a rollback"));
        }
        let keys = self.keys.unwrap(&volume, caller)?;
        volume.unlock(&keys)?;
        let act = Act::new("coffer:AcceptRollback").key(record.key_arn.clone()).detail("volume", record.id);
        let next = self.records.change_volume(caller, act, record.id, |r| r.take_identity(&volume))?;
        drop(volume);
        self.volume_info(&next)
    }

    /// Makes a volume writable again after a failed sync. What was not flushed before may be lost for good.
    pub(super) fn accept_lost_writes(&self, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let turn = self.opens.close_unused(&record)?;
        let act = Act::new("coffer:AcceptLostWrites").key(record.key_arn.clone()).detail("volume", record.id);
        self.ledger().record(caller, act, Ok(()))?;
        // Opened separately: whoever joins an open volume gets it as it was opened, that is read-only.
        let volume = self.stored.open(&record)?;
        self.failed_syncs.watch(&volume);
        self.stored.compare(&record, &volume)?;
        volume.accept_lost_writes()?;
        self.failed_syncs.note(record.id, false)?;
        volume.close()?;
        drop(turn);
        self.show_volume(what)
    }
}
