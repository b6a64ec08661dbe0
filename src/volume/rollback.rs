//! Rolling a volume back to a snapshot of its lineage, in place (docs/format.md, section 3, "rollback").
//!
//! The header gets a new identity: the snapshot as its parent, and the next map generation, under which no chunk was
//! ever written. From then on the volume reads as the snapshot, and is filled from it like a volume that was created
//! from it. Sealed bytes from before are never read again; their space is freed afterwards.

use super::Volume;
use super::format::{MAP_WRITTEN, ParentRef, Untrusted};
use super::header::NextIdentity;
use crate::cipher::{DataKey, Unwrapped};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{ByteLen, ChunkNo, Epoch, Hash32, SnapshotId, chunks_in};

/// A planned rollback: the volume's new identity. Nothing is written yet.
pub struct RollbackPlan {
    next: NextIdentity,
    parent: ParentRef,
}

impl RollbackPlan {
    /// Returns the identity's generation after the rollback.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.next.identity.generation
    }

    /// Returns the BLAKE3 hash of the identity as it will be stored.
    #[must_use]
    pub fn hash(&self) -> Hash32 {
        self.next.hash()
    }

    /// Returns the volume's size in bytes, which stays as it is.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.next.identity.size
    }

    /// Returns the snapshot.
    #[must_use]
    pub const fn parent(&self) -> &ParentRef {
        &self.parent
    }
}

impl Volume {
    /// Returns the newest completed snapshot of the volume, if certainly nothing was written since its point in time.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn unchanged_since(&self) -> Result<Option<SnapshotId>> {
        let Some(base) = self.base() else { return Ok(None) };
        let trust_p = self.with_header(|h| h.state().trust_p);
        let is_trusted = *self.untrusted.lock() == Untrusted::No && !self.map.was_rebuilt() && base.p >= trust_p;
        if !is_trusted || !self.live.read().pending.is_empty() {
            return Ok(None);
        }
        let changed = self.next_marked(ChunkNo(0), chunks_in(self.size()), |entry| entry.changed > base.p)?;
        Ok(changed.is_none().then_some(base.snapshot))
    }

    /// Computes the identity of the volume after a rollback to `parent`, before anything is written.
    ///
    /// # Errors
    /// [`Kind::Busy`] while the volume is being filled or a snapshot of it is pending; [`Kind::Usage`] if the snapshot is
    /// larger; [`Kind::ReadOnly`].
    pub fn plan_rollback(&self, parent: ParentRef, mac_key: &Unwrapped<DataKey>) -> Result<RollbackPlan> {
        let refuse = |kind, why: String| Err(Error::new(kind, format!("roll back {}: {why}", self.id)));
        if !self.is_writable() {
            return refuse(Kind::ReadOnly, "it is open read-only".to_owned());
        }
        if !self.is_hydrated() {
            return refuse(Kind::Busy, "it is still being filled from its snapshot".to_owned());
        }
        if parent.size > self.size() {
            let (larger, size) = (ByteLen(parent.size), ByteLen(self.size()));
            return refuse(Kind::Usage, format!("the snapshot holds {larger}, the volume only {size}; grow it first"));
        }
        let header = self.header.lock();
        if let Some(pending) = header.state().pending.first() {
            return refuse(Kind::Busy, format!("its snapshot {} is pending", pending.snapshot));
        }
        let next = header.next_identity(mac_key, |id| {
            id.parent = Some(parent.clone());
            id.map_generation += 1;
            for region in id.regions.iter_mut().filter(|r| r.kind == "map") {
                region.version = MAP_WRITTEN;
            }
        })?;
        Ok(RollbackPlan { next, parent })
    }

    /// Rolls back as planned. The volume must be closed and opened again afterwards, with its new parent.
    ///
    /// # Errors
    /// What the store reports: then the header has the old identity or the new one.
    pub fn roll_back_by(&self, plan: RollbackPlan) -> Result<()> {
        // The new identity says that these blocks were written, so that a lost one is not taken for an absent chunk.
        self.map.write_unwritten(&*self.store, chunks_in(plan.parent.size))?;
        self.sync()?;
        let written = self.with_header_mut(|header| {
            header.write_identity_and(plan.next, |state| {
                (state.hydrated, state.base) = (false, None);
                (state.trust_p, state.changed_untrusted) = (Epoch(0), Untrusted::No);
            })
        });
        self.notice_failed_sync();
        written
    }

    /// Frees the space of a volume in which no chunk is present: what the file has in their places is from before a
    /// rollback.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if a chunk is present; what the store reports.
    pub fn free_old_data(&self) -> Result<()> {
        let what = || format!("free what {} held before its rollback", self.id);
        if let Some(chunk) = self.next_marked(ChunkNo(0), chunks_in(self.size()), |entry| entry.present)? {
            return Err(Error::new(Kind::InvalidState, format!("{}: chunk {chunk} is present", what())));
        }
        let length = self.store.size().on(what)?.saturating_sub(self.data_offset);
        self.store.zero(self.data_offset, length, false).on(what)?;
        self.sync()
    }
}

#[cfg(test)]
#[path = "rollback_tests.rs"]
mod tests;
