//! Fixing a point in time: of one volume, or of several volumes at one instant (docs/format.md, section 4).
//!
//! Each volume's state is written and synced with the next epoch and the pending snapshot; then the epochs of all
//! volumes are published together, while no piece of any of them can read its epoch. A client that saw a write to one
//! volume acknowledged before it began another write therefore finds, in the snapshots, the second one only with the
//! first.
//!
//! A process that is killed between the state writes leaves some of a group begun. Whoever begins a group records
//! durably that all of it was begun before the first snapshot counts.

use super::format::{BaseRecord, MAX_PENDING, PendingRecord, Untrusted};
use super::header::Header;
use super::pending::{ChunkSink, Pending};
use super::spill::Spill;
use super::{Live, Volume};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{Epoch, RepositoryId, SnapshotId, SpillId, chunks_in};
use parking_lot::MutexGuard;
use std::sync::Arc;

/// The parameters of a new snapshot.
pub struct Begin {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Time of the begin, milliseconds since 1970.
    pub time: i64,
    /// The repository that it is written to.
    pub repository: RepositoryId,
    /// The base of the increment; must be what [`Volume::base`] returned.
    pub base: Option<BaseRecord>,
    /// The destination of its chunks.
    pub sink: Arc<dyn ChunkSink>,
}

/// A volume whose state has the snapshot, and whose pieces do not know it yet. The header stays locked until they do.
struct Begun<'a> {
    volume: &'a Volume,
    header: MutexGuard<'a, Header>,
    next: Epoch,
    pending: Arc<Pending>,
    spill: Option<Arc<Spill>>,
}

/// Fixes one point in time of several volumes: everything acknowledged before this call is in the snapshots, nothing
/// begun after it is, and there is one instant that separates the two on all volumes. Returns the pending snapshots in
/// the order of `members`.
///
/// # Errors
/// [`Kind::Usage`] unless the members are in ascending order of their volumes' ids, each volume once; what
/// [`Volume::begin_snapshot`] returns. After an error, none is begun.
pub fn begin_together(members: Vec<(&Volume, Begin)>) -> Result<Vec<Arc<Pending>>> {
    // The order in which headers are locked: two groups cannot wait for each other.
    if !members.is_sorted_by(|(a, _), (b, _)| a.id < b.id) {
        return Err(Error::new(Kind::Usage, "begin snapshots together: the volumes are not in order, or one is twice"));
    }
    for (volume, _) in &members {
        volume.prepare_for_begin()?;
    }
    let volumes: Vec<&Volume> = members.iter().map(|(volume, _)| *volume).collect();
    let outcome = write_all(members).map(publish);
    if outcome.is_err() {
        volumes.iter().for_each(|volume| volume.notice_failed_sync());
    }
    outcome
}

/// Writes the states of all members; after an error, takes back those that were written.
fn write_all(members: Vec<(&Volume, Begin)>) -> Result<Vec<Begun<'_>>> {
    let mut begun = Vec::with_capacity(members.len());
    for (volume, begin) in members {
        match volume.write_begin(begin) {
            Ok(one) => begun.push(one),
            Err(err) => {
                begun.into_iter().for_each(Begun::take_back);
                return Err(err);
            }
        }
    }
    Ok(begun)
}

/// Lets the pieces of all volumes know, at one instant.
fn publish(begun: Vec<Begun<'_>>) -> Vec<Arc<Pending>> {
    let mut lives: Vec<_> = begun.iter().map(|one| one.volume.live.write()).collect();
    for (live, one) in lives.iter_mut().zip(&begun) {
        let mut all = live.pending.clone();
        all.push(one.pending.clone());
        **live = Arc::new(Live { epoch: one.next, pending: all, spill: one.spill.clone() });
    }
    drop(lives);
    begun.into_iter().map(|one| one.pending).collect()
}

impl Begun<'_> {
    /// Removes the snapshot from the state again. If that fails, whoever settles the snapshot repeats it.
    fn take_back(mut self) {
        let snapshot = self.pending.record().snapshot;
        if let Err(err) = self.header.write_state(|s| s.pending.retain(|x| x.snapshot != snapshot)) {
            tracing::warn!("take back snapshot {snapshot} of {}: {}", self.volume.id, err.line());
        }
        // The epoch has advanced on disk.
        let mut live = self.volume.live.write();
        *live = Arc::new(Live { epoch: self.next, pending: live.pending.clone(), spill: live.spill.clone() });
        self.volume.remove_unused_spill(&live);
    }
}

impl Volume {
    /// Fixes the point in time: everything acknowledged before this call is in the snapshot, nothing begun after it is.
    ///
    /// # Errors
    /// [`Kind::Busy`] if too many are pending; what the store reports.
    pub fn begin_snapshot(&self, begin: Begin) -> Result<Arc<Pending>> {
        let mut begun = begin_together(vec![(self, begin)])?;
        begun.pop().ok_or_else(|| Error::new(Kind::Failed, format!("snapshot {}: nothing was begun", self.id)))
    }

    /// Refuses another snapshot while too many are pending.
    ///
    /// # Errors
    /// [`Kind::Busy`].
    pub fn must_have_room_for_snapshot(&self) -> Result<()> {
        self.with_header(|header| self.must_have_room(header))
    }

    fn must_have_room(&self, header: &Header) -> Result<()> {
        if header.state().pending.len() < MAX_PENDING {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, format!("{} already has {MAX_PENDING} pending snapshots", self.id))
            .hint("wait until one is completed"))
    }

    /// Does what can be done before the header is locked.
    fn prepare_for_begin(&self) -> Result<()> {
        if let Some(failed) = self.syncer.failure() {
            return Err(failed.context(format!("snapshot {}", self.id)));
        }
        if self.map.was_rebuilt() {
            *self.untrusted.lock() = Untrusted::All;
        }
        if !self.with_header(|h| h.state().clean) {
            // After a crash of the machine: what is pending from here on is of this boot.
            self.mark_opened()?;
        }
        Ok(())
    }

    /// Writes the state that fixes the point in time, unknown to the volume's pieces yet.
    fn write_begin(&self, begin: Begin) -> Result<Begun<'_>> {
        let mut header = self.header.lock();
        self.must_have_room(&header)?;
        let p = header.state().epoch;
        let next = p.0.checked_add(1).map(Epoch).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("{} has no epochs left", self.id))
                .hint("copy the data to a new volume")
        })?;
        // Chunks filled from a parent are marked as unchanged: without a base they have to be searched for. So does
        // everything if the base is older than what the map knows.
        let base_p = begin.base.as_ref().map_or(Epoch(0), |b| b.p);
        let filled = begin.base.is_none() && header.identity().parent.is_some();
        let untold = filled || base_p < header.state().trust_p;
        let comparing = if untold { Untrusted::All } else { *self.untrusted.lock() };
        let record = PendingRecord {
            snapshot: begin.snapshot,
            p,
            time: begin.time,
            repository: begin.repository,
            base: begin.base.as_ref().map(|b| b.snapshot),
            map_generation: self.map_generation,
            base_p,
            comparing,
            chunks: chunks_in(self.size()).min(begin.sink.chunks()),
            slot: free_slot(&header.state().pending),
        };
        let spill = self.spill_for_begin();
        let units = self.units_for_state();
        let written = header.write_state(|s| {
            s.epoch = next;
            s.pending.push(record.clone());
            s.spill = spill.as_ref().map(|s| s.id());
            s.sealed_units = units;
        });
        if let Err(err) = written {
            self.remove_unused_spill(&self.live.read());
            return Err(err);
        }
        let pending = Arc::new(Pending::new(record, spill.clone()));
        pending.attach(begin.sink, []);
        Ok(Begun { volume: self, header, next, pending, spill })
    }

    /// Returns the spill for another snapshot: that of the pending ones, or a new one. `None`: there is no space for
    /// one, so writers will copy chunks themselves, and the snapshot ends with its process.
    fn spill_for_begin(&self) -> Option<Arc<Spill>> {
        let live = self.live.read().clone();
        if !live.pending.is_empty() {
            return live.spill.clone();
        }
        let made = self.spills.create_spill(self.id).on(|| format!("start the spill of {}", self.id));
        let made = made.and_then(|file| Spill::create(file, SpillId::draw(&*self.env.rng), self.spill_owner()?));
        match made {
            Ok(spill) => Some(Arc::new(spill)),
            Err(err) => {
                tracing::warn!("{}; writes to chunks that a snapshot needs will be slow", err.line());
                None
            }
        }
    }

    /// Removes the spill that was made for a snapshot which is not begun, unless another one uses it. The header is
    /// locked.
    fn remove_unused_spill(&self, live: &Live) {
        if live.pending.is_empty() {
            self.remove_spill();
        }
    }
}

/// Returns the lowest slot that no pending snapshot has.
fn free_slot(pending: &[PendingRecord]) -> u8 {
    (0..MAX_PENDING as u8).find(|slot| pending.iter().all(|p| p.slot != *slot)).unwrap_or(0)
}

#[cfg(test)]
#[path = "begin_tests.rs"]
mod tests;
