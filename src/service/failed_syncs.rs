//! Syncs of volumes that failed: the catalog is told, for the header is on the disk that just failed.

use super::records::Records;
use crate::error::Result;
use crate::ledger::Act;
use crate::units::VolumeId;
use crate::volume::Volume;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Tells the catalog of failed syncs.
pub(super) struct FailedSyncs {
    records: Arc<Records>,
    /// Threads that tell the catalog something which must not be lost.
    telling: Mutex<Vec<JoinHandle<()>>>,
}

impl FailedSyncs {
    /// Notes them in these records.
    pub(super) fn new(records: &Arc<Records>) -> Self {
        Self { records: records.clone(), telling: Mutex::new(Vec::new()) }
    }

    /// Has the catalog told when a sync of this volume fails: the header is on the disk that just failed.
    pub(super) fn watch(self: &Arc<Self>, volume: &Volume) {
        let (this, id) = (Arc::downgrade(self), volume.id());
        volume.on_failed_sync(move || {
            let Some(this) = this.upgrade() else { return };
            // In a thread of its own: whoever synced may hold the very locks that the catalog's change waits for.
            let telling = this.clone();
            let tell = move || {
                if let Err(err) = telling.note(id, true) {
                    tracing::error!("{id}: the catalog could not be told of the failed sync: {}", err.line());
                }
            };
            match std::thread::Builder::new().name("coffer-tell".into()).spawn(tell) {
                Ok(thread) => this.telling.lock().push(thread),
                Err(err) => tracing::error!("{id}: no thread to tell the catalog of the failed sync: {err}"),
            }
        });
    }

    /// Writes down that a volume's sync failed, or that this was accepted.
    pub(super) fn note(&self, id: VolumeId, failed: bool) -> Result<()> {
        let act = Act::new("coffer:NoteLostWrites").detail("volume", id).detail("lost", failed).restrictive();
        self.records.note_volume("sync", act, id, |r| r.write_failed = failed).map(drop)
    }

    /// Waits until the catalog knows of all that failed so far.
    pub(super) fn wait(&self) {
        let telling = std::mem::take(&mut *self.telling.lock());
        telling.into_iter().for_each(|thread| drop(thread.join()));
    }
}
