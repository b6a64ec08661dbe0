//! Verbs with several durable steps: what the catalog records before the first step, and how the rest is done after a kill.
//!
//! | verb | the record says first | then | then the record | after a kill |
//! |---|---|---|---|---|
//! | create, import | *creating* | refs, store, contents | *ready* | is removed, record last |
//! | delete | *deleting* | store, refs and what they held | is deleted | is removed, record last |
//! | grow | the *next* identity | store, header | has that identity | takes the header's identity |
//!
//! Only *ready* volumes are listed and found. Leftovers are settled when the data directory is opened, and by a daemon's
//! housekeeping.

use super::lineage::Lineages;
use super::opening::OpenVolumes;
use super::records::{Records, Stage, VolumeRecord};
use super::stored::{Standing, StoredVolumes};
use super::turns::Turns;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::store::factory::Stores;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl VolumeRecord {
    fn is_settled(&self) -> bool {
        self.stage.is_ready() && self.next.is_none()
    }
}

/// What verbs on volumes left half done.
pub(super) struct Leftovers {
    records: Arc<Records>,
    lineages: Arc<Lineages>,
    stores: Arc<dyn Stores>,
    stored: Arc<StoredVolumes>,
    turns: Arc<Turns>,
    opens: Arc<OpenVolumes>,
    /// Set if a verb of this process left something half done that it could not undo.
    some: AtomicBool,
}

impl Leftovers {
    /// Creates the set; nothing is known to be left yet.
    pub(super) fn new(
        records: &Arc<Records>,
        lineages: &Arc<Lineages>,
        stores: &Arc<dyn Stores>,
        stored: &Arc<StoredVolumes>,
        turns: &Arc<Turns>,
        opens: &Arc<OpenVolumes>,
    ) -> Self {
        Self {
            records: records.clone(),
            lineages: lineages.clone(),
            stores: stores.clone(),
            stored: stored.clone(),
            turns: turns.clone(),
            opens: opens.clone(),
            some: AtomicBool::new(false),
        }
    }

    /// Settles what an earlier verb of this process left half done, if there is anything.
    pub(super) fn settle_if_any(&self) {
        if self.some.load(Ordering::Acquire) {
            self.settle();
        }
    }

    /// Finishes or undoes what an earlier process or a failed verb left half done. What cannot be settled now is retried by the
    /// next verb and at the next start.
    pub(super) fn settle(&self) {
        self.some.store(false, Ordering::Release);
        let all = match self.records.staged_volumes() {
            Ok(all) => all,
            Err(err) => return tracing::error!("list unfinished volumes: {}", err.line()),
        };
        for record in all.into_iter().filter(|r| !r.is_settled()) {
            // Another thread of this process is working on it.
            let Some(_turn) = self.turns.try_take(record.id) else { continue };
            if let Err(err) = self.settle_volume(&record) {
                self.some.store(true, Ordering::Release);
                tracing::error!("settle volume {}: {}", record.shown(), err.line());
            }
        }
    }

    /// Settles one volume. The caller has its turn.
    fn settle_volume(&self, record: &VolumeRecord) -> Result<()> {
        match record.stage {
            Stage::Creating | Stage::Deleting => self.remove(record),
            Stage::Ready => self.settle_grow(record),
        }
    }

    /// Removes everything that a volume consists of, its record last. The caller has its turn, and it has no users.
    pub(super) fn remove(&self, record: &VolumeRecord) -> Result<()> {
        self.remove_parts(record).inspect_err(|_| self.some.store(true, Ordering::Release))
    }

    fn remove_parts(&self, record: &VolumeRecord) -> Result<()> {
        self.stores.remove(record.id)?;
        self.lineages.release_all(record)?;
        let was = if record.stage == Stage::Creating { "creating" } else { "deleting" };
        let act = Act::new("coffer:RemoveVolume").detail("volume", record.id).detail("was", was).restrictive();
        self.records.ledger().audited(&self.records.own_caller("settle"), act, |tx| {
            let id = record.id.to_string();
            let Some(found) = tx.get::<VolumeRecord>(&id)? else { return Ok(()) };
            tx.delete::<VolumeRecord>(&id, found.version)
        })
    }

    /// Settles a growth. The header has either the announced identity or the one before. The catalog vouches for both, so the
    /// other header slot can be repaired without the key.
    fn settle_grow(&self, record: &VolumeRecord) -> Result<()> {
        if self.opens.is_open(record.id) {
            return Ok(()); // its user has updated the record
        }
        let volume = self.stored.open(record)?;
        match self.stored.compare(record, &volume)? {
            Standing::Known | Standing::Announced => {}
            Standing::Ahead => {
                let what = format!("volume {}: its header is newer than the announced one", record.shown());
                return Err(Error::new(Kind::Integrity, what).hint("attach the volume once"));
            }
        }
        volume.mend_sealed(volume.with_header(crate::volume::header::Header::identity_hash))?;
        self.stored.catch_up(record, &volume)?;
        volume.close()
    }
}
