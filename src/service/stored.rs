//! Volumes at rest: how their stores are opened, and how their headers compare with the catalog.

use super::lineage::Lineages;
use super::records::{Records, VolumeRecord};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::store::Access;
use crate::store::factory::Stores;
use crate::volume::Volume;
use crate::volume::lifecycle::{Opening, parent_in};
use std::sync::Arc;

/// How a volume's header compares with the catalog's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has the identity in the record.
    Known,
    /// It has the next identity in the record: a change was interrupted after the header was written.
    Announced,
    /// It is newer than the record; only its MAC can show whether that is legitimate.
    Ahead,
}

/// The volumes of the records, in their stores.
pub(super) struct StoredVolumes {
    env: Env,
    records: Arc<Records>,
    lineages: Arc<Lineages>,
    stores: Arc<dyn Stores>,
}

impl StoredVolumes {
    /// Creates the volumes in these stores, which are filled from snapshots of these lineages.
    pub(super) fn new(env: &Env, records: &Arc<Records>, lineages: &Arc<Lineages>, stores: &Arc<dyn Stores>) -> Self {
        Self { env: env.clone(), records: records.clone(), lineages: lineages.clone(), stores: stores.clone() }
    }

    /// Opens a volume for use, locked.
    ///
    /// # Errors
    /// The errors of the store, the header and the parent snapshot.
    pub(super) fn open(&self, record: &VolumeRecord) -> Result<Volume> {
        let name = record.shown();
        let store = self.stores.open(record.id, Access::Write).map_err(|e| e.context(format!("volume {name}")))?;
        // A rollback that was interrupted has or has not reached the header.
        let announced = record.next.as_ref().and_then(|next| next.parent.as_ref());
        let in_header = announced.map_or(Ok(None), |_| parent_in(store.clone(), &name))?;
        let rolled_back = announced.filter(|parent| in_header.as_ref() == Some(parent));
        let parent = match rolled_back.or(record.parent.as_ref().filter(|_| !record.hydrated)) {
            Some(parent) => match self.lineages.parent_of(record.lineage, parent) {
                Ok(reader) => Some(reader),
                // Filled, released and deleted before the catalog was updated: the header shows that.
                Err(err) if err.kind() == Kind::NotFound => None,
                Err(err) => return Err(err),
            },
            None => None,
        };
        let spills = self.stores.clone();
        let opening = Opening { writable: true, parent, write_failed: record.write_failed, spills };
        Volume::open(store, self.env.clone(), opening, &name)
    }

    /// Opens a volume that was just created, read-only.
    pub(super) fn open_fresh(&self, record: &VolumeRecord) -> Result<Volume> {
        let store = self.stores.open(record.id, Access::Read)?;
        let parent = record.parent.as_ref().map(|p| self.lineages.open_parent(record.lineage, p)).transpose()?;
        let (write_failed, spills) = (record.write_failed, self.stores.clone());
        let opening = Opening { writable: false, parent, write_failed, spills };
        Volume::open(store, self.env.clone(), opening, &record.shown())
    }

    /// Compares the identity in a volume's header with the catalog's record. The MAC is not enough: the header of a sibling
    /// volume has a good one too.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the header belongs to another volume, or is older than the catalog's record.
    pub(super) fn compare(&self, record: &VolumeRecord, volume: &Volume) -> Result<Standing> {
        let (id, lineage, generation, hash) = volume.with_header(|h| {
            (h.identity().volume_id, h.identity().lineage, h.identity().generation, h.identity_hash())
        });
        let refuse = |why: String| {
            Err(Error::new(Kind::Integrity, format!("volume {}: {why}", record.shown()))
                .hint("restore it from a snapshot, or use `coffer volume accept-rollback` if you rolled its file back yourself"))
        };
        if (id, lineage) != (record.id, record.lineage) {
            return refuse(format!("its header belongs to {id}"));
        }
        if generation < record.identity_generation {
            return refuse(format!(
                "its header was rolled back: it has generation {generation}, the catalog has {}",
                record.identity_generation
            ));
        }
        if generation == record.identity_generation && hash != record.identity_hash {
            return refuse("its header was replaced: it is not the one that the catalog knows".to_owned());
        }
        Ok(match &record.next {
            _ if generation == record.identity_generation => Standing::Known,
            Some(next) if (next.generation, next.hash) == (generation, hash) => Standing::Announced,
            _ => Standing::Ahead,
        })
    }

    /// Takes over the identity in a header that has a good MAC or that the catalog announced.
    pub(super) fn catch_up(&self, record: &VolumeRecord, volume: &Volume) -> Result<()> {
        let act = Act::new("ec2:CatchUpWithHeader").detail("volume", record.id);
        self.records.note_volume("open", act, record.id, |r| r.take_identity(volume)).map(drop)
    }
}
