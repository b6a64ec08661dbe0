//! Volumes at rest: how one's store is opened, and how its header stands to the catalog's record.

use super::lineage::Lineages;
use super::records::{Records, VolumeRecord};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::store::Access;
use crate::store::factory::Stores;
use crate::volume::Volume;
use crate::volume::lifecycle::Opening;
use std::sync::Arc;

/// How a volume's header stands to the catalog's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the one that the record names.
    Known,
    /// It is the one that the record names as the next: a change was cut off after the header was written.
    Announced,
    /// It is newer than what the record knows; only its MAC can tell whether that is right.
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
    /// Volumes in these stores, filled from snapshots of these lineages.
    pub(super) fn new(env: &Env, records: &Arc<Records>, lineages: &Arc<Lineages>, stores: &Arc<dyn Stores>) -> Self {
        Self { env: env.clone(), records: records.clone(), lineages: lineages.clone(), stores: stores.clone() }
    }

    /// Opens a volume, locked, to use it.
    ///
    /// # Errors
    /// What store, header and parent report.
    pub(super) fn open(&self, record: &VolumeRecord) -> Result<Volume> {
        let name = record.shown();
        let store = self.stores.open(record.id, Access::Write).map_err(|e| e.context(format!("volume {name}")))?;
        let parent = match &record.parent {
            Some(parent) if !record.hydrated => match self.lineages.open_parent(record.lineage, parent) {
                Ok(reader) => Some(reader),
                // Filled, released and deleted before the catalog heard of it: the header knows.
                Err(err) if err.kind() == Kind::NotFound => None,
                Err(err) => return Err(err),
            },
            _ => None,
        };
        let scratch = self.stores.clone();
        let opening = Opening { writable: true, parent, write_failed: record.write_failed, scratch };
        Volume::open(store, self.env.clone(), opening, &name)
    }

    /// Opens a volume that was just made, to look at it.
    pub(super) fn open_fresh(&self, record: &VolumeRecord) -> Result<Volume> {
        let store = self.stores.open(record.id, Access::Read)?;
        let parent = record.parent.as_ref().map(|p| self.lineages.open_parent(record.lineage, p)).transpose()?;
        let (write_failed, scratch) = (record.write_failed, self.stores.clone());
        let opening = Opening { writable: false, parent, write_failed, scratch };
        Volume::open(store, self.env.clone(), opening, &record.shown())
    }

    /// A sibling's header has a good MAC too, so the identity is compared with the catalog's.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for one that is another volume's, or older than the catalog knows.
    pub(super) fn compare(&self, record: &VolumeRecord, volume: &Volume) -> Result<Standing> {
        let (id, lineage, generation, hash) = volume.with_header(|h| {
            (h.identity().volume_id, h.identity().lineage, h.identity().generation, h.identity_hash())
        });
        let refuse = |why: String| {
            Err(Error::new(Kind::Integrity, format!("volume {}: {why}", record.shown()))
                .hint("its file was rolled back or exchanged; restore it from a snapshot, or `coffer volume accept-rollback` if that was you"))
        };
        if (id, lineage) != (record.id, record.lineage) {
            return refuse(format!("its header is that of {id}"));
        }
        if generation < record.identity_generation {
            return refuse(format!(
                "its header has generation {generation}, the catalog {}",
                record.identity_generation
            ));
        }
        if generation == record.identity_generation && hash != record.identity_hash {
            return refuse("its header is not the one that the catalog knows".to_owned());
        }
        Ok(match &record.next {
            _ if generation == record.identity_generation => Standing::Known,
            Some(next) if (next.generation, next.hash) == (generation, hash) => Standing::Announced,
            _ => Standing::Ahead,
        })
    }

    /// The catalog takes over what a header says, whose MAC is good or which it announced.
    pub(super) fn catch_up(&self, record: &VolumeRecord, volume: &Volume) -> Result<()> {
        let act = Act::new("ec2:CatchUpWithHeader").detail("volume", record.id);
        self.records.note_volume("open", act, record.id, |r| r.take_identity(volume)).map(drop)
    }
}
