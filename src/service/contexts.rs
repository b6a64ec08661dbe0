//! Metadata contexts: what an export reports of its ranges without giving out their bytes.
//!
//! - `base:allocation`: a hole that reads as zeroes (3); allocated space that reads as zeroes (2); data (0).
//! - `coffer:changed`: chunks changed (1) since the last completed snapshot; for a snapshot: since its base.
//! - `coffer:diff:snap-…`: chunks changed (1) since that snapshot of the same lineage.
//!
//! Changes are reported per chunk of 512 KiB. Where the map has no answer for a point in time, the trees of two snapshots are
//! compared. Where that is impossible too, everything is reported as changed: a backup then copies too much, never too little.

use super::api::SnapshotState;
use super::records::SnapshotRecord;
use super::view::{SnapshotView, differ};
use super::{Attached, Service};
use crate::error::{Error, Kind, Result};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::repository::Repository;
use crate::store::Stored;
use crate::units::{ChunkNo, Epoch, LineageId, SnapshotId};
use crate::volume::Volume;
use crate::volume::extents::{Run, Runs};
use parking_lot::Mutex;
use std::sync::Arc;

const ALLOCATION: &str = "base:allocation";
const CHANGED: &str = "coffer:changed";
const DIFF: &str = "coffer:diff:";

/// A context, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Allocation,
    Changed,
    Diff(SnapshotId),
}

impl Context {
    fn parse(name: &str) -> Result<Self> {
        match name {
            ALLOCATION => Ok(Self::Allocation),
            CHANGED => Ok(Self::Changed),
            _ => match name.strip_prefix(DIFF) {
                Some(id) => id.parse().map(Self::Diff),
                None => Err(Error::new(Kind::Unsupported, format!("there is no metadata context {name}"))),
            },
        }
    }
}

/// A run of bytes of an export and its flags in a context ("The `base:` metadata namespace"; bit 0 of coffer's contexts:
/// changed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Length in bytes; never 0.
    pub len: u64,
    /// The flags of the context.
    pub flags: u32,
}

/// Allocated space (WRITE_ZEROES with NO_HOLE) that reads as zeroes.
const ZERO: u32 = 2;
/// A hole that reads as zeroes.
const HOLE_AND_ZERO: u32 = 3;
/// Changed, in coffer's contexts.
const DIRTY: u32 = 1;

/// The snapshots that one export's contexts compare with, each opened once.
#[derive(Default)]
pub struct Compared(Mutex<Vec<(SnapshotId, Arc<SnapshotReader>)>>);

impl Compared {
    fn open(&self, repository: &Repository, lineage: LineageId, id: SnapshotId) -> Result<Arc<SnapshotReader>> {
        let mut open = self.0.lock();
        if let Some((_, reader)) = open.iter().find(|(known, _)| *known == id) {
            return Ok(reader.clone());
        }
        let reader = Arc::new(repository.open_snapshot(lineage, id)?);
        open.push((id, reader.clone()));
        Ok(reader)
    }
}

impl Service {
    /// Returns the names of the contexts of a volume or a snapshot.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it does not exist; errors of the catalog.
    pub fn contexts(&self, export: &str) -> Result<Vec<String>> {
        let (lineage, own) = match export.parse::<SnapshotId>() {
            Ok(id) => (self.records.find_snapshot(export)?.lineage, Some(id)),
            Err(_) => (self.records.exported(export)?.lineage, None),
        };
        let mut names = vec![ALLOCATION.to_owned(), CHANGED.to_owned()];
        let others = |s: &SnapshotRecord| {
            let is_live = s.state == SnapshotState::Completed && !s.is_hidden();
            s.lineage == lineage && is_live && Some(s.id) != own
        };
        names.extend(self.records.snapshots()?.into_iter().filter(others).map(|s| format!("{DIFF}{}", s.id)));
        Ok(names)
    }

    /// Returns at most `most` statuses of a context for a range of an open snapshot.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for an unknown context; the errors of [`SnapshotView::read`].
    pub fn view_status(
        &self,
        view: &SnapshotView,
        compared: &Compared,
        context: &str,
        range: (u64, u64),
        most: usize,
    ) -> Result<Vec<Status>> {
        let (repository, against) = match Context::parse(context)? {
            Context::Allocation => {
                let runs = view.allocation(range.0, range.1, most)?.into_iter();
                return Ok(runs.map(|r| Status { len: r.len, flags: if r.yes { 0 } else { HOLE_AND_ZERO } }).collect());
            }
            Context::Changed => (view.repository().clone(), view.reader().located().manifest.parent),
            Context::Diff(id) => (self.repositories.of_snapshot(id)?, Some(id)),
        };
        // A deleted and swept predecessor compares with nothing: all existing data counts as changed.
        let other = match against.map(|id| compared.open(&repository, view.lineage(), id)).transpose() {
            Err(err) if err.kind() == Kind::NotFound => None,
            other => other?,
        };
        view.changed_since(other.as_deref(), range, most).map(changed)
    }
}

impl Attached {
    /// Returns at most `most` statuses of a context for a range of the volume; they may cover less than the range.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for an unknown context; [`Kind::NotFound`] for a snapshot that is gone; the errors of the map, the
    /// store and the repository.
    pub fn status(&self, compared: &Compared, context: &str, range: (u64, u64), most: usize) -> Result<Vec<Status>> {
        let volume = self.volume();
        match Context::parse(context)? {
            Context::Allocation => volume.allocation(range.0, range.1, most).map(allocation),
            Context::Changed => self.changed(compared, None, range, most).map(changed),
            Context::Diff(id) => self.changed(compared, Some(id), range, most).map(changed),
        }
    }

    /// Returns the chunks changed since a snapshot, or since the last one.
    fn changed(
        &self,
        compared: &Compared,
        since: Option<SnapshotId>,
        range: (u64, u64),
        most: usize,
    ) -> Result<Vec<Run>> {
        let (repositories, volume) = (self.repositories(), self.volume());
        let lineage = volume.with_header(|h| h.identity().lineage);
        let base = volume.base();
        let since = match since {
            Some(id) => compared.open(&*repositories.of_snapshot(id)?, lineage, id)?,
            None => match &base {
                Some(base) if point_is_trusted(volume, base.p) => {
                    return volume.changed_after(base.p, range, most, None);
                }
                Some(_) => return Ok(all(range)),
                // Never snapshotted: everything ever written is changed.
                None => return volume.changed_after(Epoch(0), range, most, None),
            },
        };
        let point = own_point(volume, &since);
        if let Some(point) = point.filter(|p| point_is_trusted(volume, *p)) {
            return volume.changed_after(point, range, most, None);
        }
        let Some(base) = base.filter(|b| point_is_trusted(volume, b.p)) else { return Ok(all(range)) };
        let repository = match repositories.open_id(base.repository) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(all(range)),
            other => other?,
        };
        let base_reader = compared.open(&repository, lineage, base.snapshot)?;
        let mut differs = |chunk: ChunkNo| differ(&since, &base_reader, chunk);
        volume.changed_after(base.p, range, most, Some(&mut differs))
    }
}

/// Returns the epoch of a snapshot, if it was taken of this volume with its present map.
fn own_point(volume: &Volume, snapshot: &SnapshotReader) -> Option<Epoch> {
    let manifest = &snapshot.located().manifest;
    let own = manifest.volume == Some(volume.id()) && manifest.map_generation == volume.map_generation();
    own.then_some(Epoch(manifest.point))
}

fn point_is_trusted(volume: &Volume, point: Epoch) -> bool {
    volume.trusted_from().is_some_and(|from| point >= from)
}

/// Reports a whole range as changed, for lack of knowledge.
fn all((_, len): (u64, u64)) -> Vec<Run> {
    let mut runs = Runs::new(1);
    runs.push(len, true);
    runs.done()
}

fn allocation(runs: Vec<Run<Stored>>) -> Vec<Status> {
    let flags = |stored| match stored {
        Stored::Hole => HOLE_AND_ZERO,
        Stored::Zeros => ZERO,
        Stored::Data => 0,
    };
    runs.into_iter().map(|r| Status { len: r.len, flags: flags(r.yes) }).collect()
}

fn changed(runs: Vec<Run>) -> Vec<Status> {
    runs.into_iter().map(|r| Status { len: r.len, flags: if r.yes { DIRTY } else { 0 } }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_have_names() {
        let snap = "snap-0123456789abcdef0";
        assert_eq!(Context::parse("base:allocation").unwrap(), Context::Allocation);
        assert_eq!(Context::parse("coffer:changed").unwrap(), Context::Changed);
        assert_eq!(Context::parse(&format!("coffer:diff:{snap}")).unwrap(), Context::Diff(snap.parse().unwrap()));
        for bad in ["coffer:", "coffer:diff:", "coffer:diff:web", "base:", ""] {
            assert!(Context::parse(bad).is_err(), "{bad}");
        }
    }
}
