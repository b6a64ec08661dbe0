//! The wrapped data keys of snapshots.

use super::home::Home;
use super::opening::{Need, OpenVolumes};
use super::records::{Records, SnapshotRecord};
use super::repositories::Repositories;
use crate::error::{Error, Kind, Result};
use crate::units::{DataKeyId, LineageId};
use std::sync::Arc;

/// Finds the wrapped data keys of snapshots in the repository's log, or else in the header of a volume.
pub(super) struct SnapshotKeys {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
    opens: Arc<OpenVolumes>,
}

impl SnapshotKeys {
    /// Creates a finder for these repositories and for the headers of these volumes.
    pub(super) fn new(records: &Arc<Records>, repositories: &Arc<Repositories>, opens: &Arc<OpenVolumes>) -> Self {
        Self { records: records.clone(), repositories: repositories.clone(), opens: opens.clone() }
    }

    /// Returns a snapshot's wrapped data keys, oldest first; of each key, the newest blob in the repository's log.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if neither the log nor any header has one of them.
    pub(super) fn wrapped(&self, record: &SnapshotRecord) -> Result<Vec<(DataKeyId, Vec<u8>)>> {
        self.wrapped_in(record.home(), &record.data_keys).map_err(|e| e.context(record.id))
    }

    /// The same for data keys of a lineage.
    pub(super) fn wrapped_in(&self, home: Home, keys: &[DataKeyId]) -> Result<Vec<(DataKeyId, Vec<u8>)>> {
        let blobs = self.repositories.open(home.repository)?.keys(home.lineage)?;
        let find = |id: &DataKeyId| {
            let found = blobs.get(id).map(|k| k.blob.clone());
            let found = found.or_else(|| self.key_from_a_header(home.lineage, *id));
            let missing = || Error::new(Kind::Integrity, format!("the repository's log has no wrapped key {id}"));
            found.map(|blob| (*id, blob)).ok_or_else(missing)
        };
        keys.iter().map(find).collect()
    }

    /// Returns a wrapped data key whose log record is lost, from the header of a volume that has it.
    fn key_from_a_header(&self, lineage: LineageId, key: DataKeyId) -> Option<Vec<u8>> {
        let volumes = self.records.volumes().ok()?.into_iter().filter(|v| v.lineage == lineage);
        volumes.filter_map(|v| self.opens.acquire(&v, Need::Sealed).ok()).find_map(|used| {
            used.volume.with_header(|h| {
                let epoch = h.identity().key_epochs.iter().find(|k| k.data_key_id == key)?.epoch;
                let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| &k.keys).collect();
                wrapped.into_iter().find(|k| k.epoch == epoch).map(|k| k.blob.clone())
            })
        })
    }
}
