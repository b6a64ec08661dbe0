//! The base of a volume's next snapshot. A ref holds it, the volume's header names it, and it never moves backwards.

use super::api::SnapshotState;
use super::home::Home;
use super::records::{Records, SnapshotRecord, VolumeRecord};
use super::repositories::Repositories;
use super::turns::{Turn, Turns};
use crate::error::{Kind, Result};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::refs::RefKind;
use crate::snapshot::repository::Repository;
use crate::snapshot::writer::{SnapshotSpec, SnapshotWriter};
use crate::units::{Epoch, LineageId, VolumeId};
use crate::volume::Volume;
use crate::volume::format::{BaseRecord, PendingRecord};
use std::path::Path;
use std::sync::Arc;

/// The bases of all volumes.
pub(super) struct Bases {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
    /// Taken for a volume while its point in time is fixed, and while its base moves. Held across puts and gets of a
    /// repository, so each volume has its own.
    turns: Turns,
}

impl Bases {
    /// Creates the bases that have refs in these repositories.
    pub(super) fn new(records: &Arc<Records>, repositories: &Arc<Repositories>) -> Self {
        Self { records: records.clone(), repositories: repositories.clone(), turns: Turns::default() }
    }

    /// Keeps a volume's base in place until the guard is dropped, while a point in time is fixed on it.
    pub(super) fn keep(&self, volume: VolumeId) -> Turn<'_> {
        self.turns.take(volume)
    }

    /// Settles the pending snapshots in the header of an open volume before another one begins. One that the catalog also lists
    /// as pending stays: either it is being taken, or it is settled on its own.
    pub(super) fn settle_header(&self, record: &VolumeRecord, volume: &Volume) {
        for pending in volume.pending_records() {
            let settled = self.records.snapshot(pending.snapshot).and_then(|found| match found {
                Some(r) if r.state == SnapshotState::Pending => Ok(()),
                Some(r) if r.state == SnapshotState::Completed => self.take(volume, record.lineage, &pending),
                _ => volume.drop_snapshot(pending.snapshot),
            });
            if let Err(err) = settled {
                tracing::warn!("{}: forget snapshot {}: {}", record.shown(), pending.snapshot, err.line());
            }
        }
    }

    /// Makes a completed snapshot the base of its volume's next one if it is newer than the current base. Moves the ref first and
    /// then the header, never backwards. If the ref cannot be written, the base stays. A base in another repository is given up.
    pub(super) fn take(&self, volume: &Volume, lineage: LineageId, pending: &PendingRecord) -> Result<()> {
        let _turn = self.turns.take(volume.id());
        let before = volume.base();
        let newer = before.as_ref().is_none_or(|b| b.repository != pending.repository || pending.p > b.p);
        if newer && pending.map_generation == volume.map_generation() {
            let held = self.repositories.open_id(pending.repository).and_then(|repository| {
                repository.put_ref(lineage, &base_ref(volume.id()), RefKind::Volume, pending.snapshot)
            });
            if let Err(err) = held {
                volume.drop_snapshot(pending.snapshot)?;
                return Err(err);
            }
            // Before the header names another one: after a kill, this is then done again.
            if let Some(left) = before.filter(|b| b.repository != pending.repository)
                && let Err(err) = self.leave(volume.id(), lineage, &left)
            {
                tracing::warn!("release {}, the former base of {}: {}", left.snapshot, volume.id(), err.line());
            }
        }
        volume.complete_snapshot(pending)
    }

    /// Drops the ref on a base in a repository that the volume's base has left. What only it held goes with the next sweep.
    fn leave(&self, volume: VolumeId, lineage: LineageId, left: &BaseRecord) -> Result<()> {
        match self.repositories.open_id(left.repository) {
            Ok(repository) => drop_ref(&repository, lineage, &base_ref(volume)),
            Err(err) if err.kind() == Kind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// Begins a snapshot in a repository, on the best available base there: the one in the volume's header if a ref holds it, else
    /// the snapshot that the volume is still being filled from, else none (the snapshot is then full).
    pub(super) fn begin(
        &self,
        volume: &Volume,
        to: &Repository,
        spec: &SnapshotSpec,
        staging: &Path,
    ) -> Result<(SnapshotWriter, Option<BaseRecord>, Option<SnapshotReader>)> {
        let id = to.id()?;
        let held = to.ref_on(spec.lineage, &base_ref(volume.id()))?.is_some();
        let newest = volume.base().filter(|b| held && b.repository == id);
        let parent = volume.with_header(|h| h.identity().parent.clone()).filter(|p| p.repository == id);
        let parent = parent.filter(|_| !volume.is_hydrated()).map(|p| {
            let map_generation = volume.map_generation();
            BaseRecord { snapshot: p.snapshot, p: Epoch(0), repository: p.repository, map_generation }
        });
        let mut last = None;
        for base in newest.into_iter().chain(parent) {
            match Self::begin_on(to, spec, &base, staging) {
                Ok((writer, reader)) => return Ok((writer, Some(base), Some(reader))),
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Integrity) => last = Some(err),
                Err(err) => return Err(err),
            }
        }
        match last {
            // Only that snapshot has what was not fetched yet.
            Some(err) if !volume.is_hydrated() => Err(err),
            Some(err) => {
                tracing::warn!("{}: {}; the snapshot is a full one", volume.id(), err.line());
                Ok((to.begin_staged(spec.clone(), staging)?, None, None))
            }
            None => Ok((to.begin_staged(spec.clone(), staging)?, None, None)),
        }
    }

    fn begin_on(
        to: &Repository,
        spec: &SnapshotSpec,
        base: &BaseRecord,
        staging: &Path,
    ) -> Result<(SnapshotWriter, SnapshotReader)> {
        let reader = to.open_snapshot(spec.lineage, base.snapshot)?;
        let spec = SnapshotSpec { base: Some(base.snapshot), ..spec.clone() };
        let writer = to.begin_staged(spec, staging)?;
        Ok((writer, reader))
    }

    /// Drops the ref on the base after a snapshot failed because of damage, which may be in the base. A base without a ref is not
    /// used, so the next snapshot is full.
    pub(super) fn distrust(&self, record: &SnapshotRecord) {
        let _turn = self.turns.take(record.volume);
        let repository = self.repositories.open(record.repository);
        if let Err(err) = repository.and_then(|r| drop_ref(&r, record.lineage, &base_ref(record.volume))) {
            tracing::warn!("release the base of {}: {}", record.volume, err.line());
        }
    }

    /// Releases the bases in a home that are deleted and whose volume has no snapshots left there. The next snapshot of such a
    /// volume is full.
    pub(super) fn release_unneeded(&self, home: Home) -> Result<()> {
        let (repository, lineage) = (self.repositories.open(home.repository)?, home.lineage);
        for volume in self.records.volumes()?.into_iter().filter(|v| v.lineage == lineage) {
            let _turn = self.turns.take(volume.id);
            let counts = |s: &SnapshotRecord| {
                s.home() == home
                    && s.volume == volume.id
                    && s.source.is_none()
                    && (s.state == SnapshotState::Completed || s.state == SnapshotState::Pending)
            };
            if self.records.snapshots()?.iter().any(counts) {
                continue;
            }
            let Some(base) = repository.ref_on(lineage, &base_ref(volume.id))? else { continue };
            if repository.live(lineage, base)?.is_none() {
                drop_ref(&repository, lineage, &base_ref(volume.id))?;
            }
        }
        Ok(())
    }
}

/// Returns the name of the ref on the base of a volume's next snapshot.
pub(super) fn base_ref(volume: VolumeId) -> String {
    format!("{volume}-base")
}

/// Deletes a ref if it exists.
pub(super) fn drop_ref(repository: &Repository, lineage: LineageId, id: &str) -> Result<()> {
    match repository.delete_ref(lineage, id) {
        Err(err) if err.kind() != Kind::NotFound => Err(err),
        _ => Ok(()),
    }
}
