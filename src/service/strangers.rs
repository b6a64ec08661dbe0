//! Stores without a record in the catalog: copies of a volume, and leftovers of interrupted creates.

use super::records::{Records, VolumeRecord};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::factory::{Found, Stores};
use crate::units::VolumeId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The stores that the catalog does not know.
pub(super) struct Strangers {
    env: Env,
    records: Arc<Records>,
    stores: Arc<dyn Stores>,
    /// When a store was last added or removed, and the stores without a record at that time.
    seen: Mutex<Option<(Timestamp, Vec<Found>)>>,
}

impl Strangers {
    /// Creates the set over these stores.
    pub(super) fn new(env: &Env, records: &Arc<Records>, stores: &Arc<dyn Stores>) -> Self {
        Self { env: env.clone(), records: records.clone(), stores: stores.clone(), seen: Mutex::new(None) }
    }

    /// Returns the volume id in the header of a store, without opening the store.
    pub(super) fn id_in(&self, found: &Found) -> Option<VolumeId> {
        crate::volume::id_in(|out, at| self.stores.peek(found, out, at).is_ok())
    }

    /// Refuses to open a volume if another store has the same volume id: which one is the volume is not for coffer to decide.
    /// Only stores that the catalog does not know are examined; a copy under another volume's name is found when that volume is
    /// opened.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if there is such a store.
    pub(super) fn refuse_copies(&self, record: &VolumeRecord) -> Result<()> {
        for found in self.all()? {
            let own = found.published && found.named == Some(record.id);
            if !own && self.id_in(&found) == Some(record.id) {
                return Err(Error::new(
                    Kind::Integrity,
                    format!("volume {}: {} has the same volume id", record.shown(), found.place),
                )
                .hint("find out which of the two is the volume, and move the other out of that folder"));
            }
        }
        Ok(())
    }

    /// Returns the stores, and files that may be taken for one, that the catalog does not know. Cached until the set of stores
    /// changes: opening one volume of thousands must not read all of them.
    fn all(&self) -> Result<Vec<Found>> {
        let changed = self.stores.changed();
        let mut seen = self.seen.lock();
        if let Some((at, found)) = seen.as_ref()
            && Some(*at) == changed
        {
            return Ok(found.clone());
        }
        let known: BTreeSet<VolumeId> = self.records.volumes()?.into_iter().map(|r| r.id).collect();
        let mut found = self.stores.list()?;
        found.retain(|f| !f.named.is_some_and(|id| known.contains(&id)));
        // A change within the same clock tick as this look would not change the time.
        let settled = changed.filter(|at| self.env.now().0 - at.0 > 2000);
        *seen = settled.map(|at| (at, found.clone()));
        Ok(found)
    }
}
