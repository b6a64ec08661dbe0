//! Failed syncs of volumes. They are recorded in the catalog, because the header is on the disk that just failed.

use super::records::Records;
use crate::error::Result;
use crate::ledger::Act;
use crate::units::VolumeId;
use crate::volume::Volume;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Records failed syncs in the catalog.
pub(super) struct FailedSyncs {
    records: Arc<Records>,
    /// The threads that record a failure which must not be lost.
    telling: Mutex<Vec<JoinHandle<()>>>,
}

impl FailedSyncs {
    /// Creates a recorder that writes to these records.
    pub(super) fn new(records: &Arc<Records>) -> Self {
        Self { records: records.clone(), telling: Mutex::new(Vec::new()) }
    }

    /// Records any failed sync of this volume in the catalog: its header is on the disk that just failed.
    pub(super) fn watch(self: &Arc<Self>, volume: &Volume) {
        let (this, id) = (Arc::downgrade(self), volume.id());
        volume.on_failed_sync(move || {
            let Some(this) = this.upgrade() else { return };
            // In a separate thread: the thread that synced may hold the very locks that the catalog's change waits for.
            let telling = this.clone();
            let tell = move || {
                if let Err(err) = telling.note(id, true) {
                    tracing::error!("{id}: record the failed sync in the catalog: {}", err.line());
                }
            };
            match std::thread::Builder::new().name("coffer-tell".into()).spawn(tell) {
                Ok(thread) => this.telling.lock().push(thread),
                Err(err) => tracing::error!("{id}: start a thread to record the failed sync: {err}"),
            }
        });
    }

    /// Records that a sync of a volume failed, or that its loss was accepted.
    pub(super) fn note(&self, id: VolumeId, failed: bool) -> Result<()> {
        let act = Act::new("coffer:NoteLostWrites").detail("volume", id).detail("lost", failed).restrictive();
        self.records.note_volume("sync", act, id, |r| r.write_failed = failed).map(drop)
    }

    /// Waits until all failures so far are recorded.
    pub(super) fn wait(&self) {
        let telling = std::mem::take(&mut *self.telling.lock());
        telling.into_iter().for_each(|thread| drop(thread.join()));
    }
}
