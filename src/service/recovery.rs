//! What a person may accept after looking: a rolled-back header, writes that were lost. Each is audited.

use super::Service;
use super::api::VolumeInfo;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::units::VolumeId;
use crate::volume::Volume;
use std::sync::Arc;

impl Service {
    /// Takes the header as it is, if its MAC is good, as the one that the catalog knows from now on.
    pub(super) fn accept_rollback(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let _turn = self.close_unused(&record)?;
        let volume = self.open_file(&record)?;
        let (id, lineage) = volume.with_header(|h| (h.identity().volume_id, h.identity().lineage));
        if (id, lineage) != (record.id, record.lineage) {
            return Err(Error::new(Kind::Integrity, format!("volume {}: its header is that of {id}", record.shown()))
                .hint("put the right file back: another volume's is no rollback"));
        }
        let keys = self.keys.unwrap(&volume, caller)?;
        volume.unlock(&keys)?;
        let act = Act::new("coffer:AcceptRollback").key(record.key_arn.clone()).detail("volume", record.id);
        let next = self.records.change_volume(caller, act, record.id, |r| r.take_identity(&volume))?;
        drop(volume);
        self.volume_info(&next)
    }

    /// Makes a volume writable again whose sync failed: what was not flushed before may be lost for good.
    pub(super) fn accept_lost_writes(self: &Arc<Self>, caller: &Caller, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let turn = self.close_unused(&record)?;
        let act = Act::new("coffer:AcceptLostWrites").key(record.key_arn.clone()).detail("volume", record.id);
        self.ledger().record(caller, act, Ok(()))?;
        // By itself: whoever joins an open volume gets it as it was opened, read-only, for as long as it stays open.
        let volume = self.open_file(&record)?;
        self.note_failed_syncs_of(&volume);
        self.compare_with_catalog(&record, &volume)?;
        volume.accept_lost_writes()?;
        self.set_write_failed(record.id, false)?;
        volume.close()?;
        drop(turn);
        self.show_volume(what)
    }

    /// Has the catalog told when a sync of this volume fails: the header is on the disk that just failed.
    pub(super) fn note_failed_syncs_of(self: &Arc<Self>, volume: &Volume) {
        let (service, id) = (Arc::downgrade(self), volume.id());
        volume.on_failed_sync(move || {
            let Some(service) = service.upgrade() else { return };
            // In a thread of its own: whoever synced may hold the very locks that the catalog's change waits for.
            let telling = service.clone();
            let tell = move || {
                if let Err(err) = telling.set_write_failed(id, true) {
                    tracing::error!("{id}: the catalog could not be told of the failed sync: {}", err.line());
                }
            };
            match std::thread::Builder::new().name("coffer-tell".into()).spawn(tell) {
                Ok(thread) => service.telling.lock().push(thread),
                Err(err) => tracing::error!("{id}: no thread to tell the catalog of the failed sync: {err}"),
            }
        });
    }

    fn set_write_failed(&self, id: VolumeId, failed: bool) -> Result<()> {
        let act = Act::new("coffer:NoteLostWrites").detail("volume", id).detail("lost", failed).restrictive();
        self.records.note_volume("sync", act, id, |r| r.write_failed = failed).map(drop)
    }
}
