//! Creates that run, and what a sweep that runs at the same time has to spare.
//!
//! A create announces each object before it puts it. A sweep deletes nothing that a create has announced since the sweep
//! began, whether that create still runs or has ended meanwhile: what completed after the log was read for the mark is not
//! in the mark. Their bases are marked before the first delete; from then on a create takes no base that is neither live
//! nor marked. So neither waits for the other.

use super::Folder;
use super::repository::Located;
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, PackId, SnapshotId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A create that runs: what it is built on, and the objects it has put.
#[derive(Debug)]
struct Running {
    folder: Folder,
    base: Option<Arc<Located>>,
    names: HashSet<String>,
}

/// A sweep that runs.
#[derive(Debug)]
struct Sweep {
    folder: Folder,
    /// What creates had announced that ended since it began, and what they were built on.
    names: HashSet<String>,
    bases: Vec<Arc<Located>>,
    /// Manifests it keeps, once it has begun to delete.
    keeps: Option<HashSet<SnapshotId>>,
}

/// All creates that run in this process.
#[derive(Debug, Default)]
pub(super) struct Creates {
    running: HashMap<SnapshotId, Running>,
    sweep: Option<Sweep>,
}

impl Creates {
    pub(super) fn begin(&mut self, snapshot: SnapshotId, folder: Folder, base: Option<Arc<Located>>) -> Result<()> {
        if self.running.contains_key(&snapshot) {
            return Err(Error::new(Kind::Busy, format!("snapshot {snapshot} is being created")));
        }
        self.running.insert(snapshot, Running { folder, base, names: HashSet::new() });
        Ok(())
    }

    pub(super) fn announce(&mut self, snapshot: SnapshotId, name: &str) {
        if let Some(running) = self.running.get_mut(&snapshot) {
            running.names.insert(name.to_owned());
        }
    }

    /// The create is over, completed or not.
    pub(super) fn end(&mut self, snapshot: SnapshotId) {
        let Some(was) = self.running.remove(&snapshot) else { return };
        if let Some(sweep) = self.sweep.as_mut().filter(|s| s.folder == was.folder) {
            sweep.names.extend(was.names);
            sweep.bases.extend(was.base);
        }
    }

    pub(super) fn begin_sweep(&mut self, folder: Folder) {
        self.sweep = Some(Sweep { folder, names: HashSet::new(), bases: Vec::new(), keeps: None });
    }

    pub(super) fn end_sweep(&mut self) {
        self.sweep = None;
    }

    /// Snapshots whose manifests must stay for the sake of creates in the sweep's folder.
    pub(super) fn manifests(&self) -> Vec<SnapshotId> {
        let Some(sweep) = &self.sweep else { return Vec::new() };
        self.running.iter().filter(|(_, r)| r.folder == sweep.folder).map(|(id, _)| *id).collect()
    }

    /// Bases that creates stand on and that are not among `marked`. With none, deleting begins: what `keeps` does not
    /// name is no base from now on.
    pub(super) fn seal(
        &mut self,
        marked: &HashSet<(Folder, SnapshotId)>,
        keeps: impl FnOnce() -> HashSet<SnapshotId>,
    ) -> Vec<Arc<Located>> {
        let Some(sweep) = &mut self.sweep else { return Vec::new() };
        let running = self.running.values().filter(|r| r.folder == sweep.folder).filter_map(|r| r.base.as_ref());
        let all = running.chain(&sweep.bases);
        let new: Vec<_> = all.filter(|b| !marked.contains(&(b.folder, b.manifest.snapshot))).cloned().collect();
        if new.is_empty() {
            sweep.keeps = Some(keeps());
        }
        new
    }

    /// Whether a snapshot that is deleted may be going right now.
    pub(super) fn dooms(&self, folder: Folder, snapshot: SnapshotId) -> bool {
        let sweep = self.sweep.as_ref().filter(|s| s.folder == folder);
        sweep.and_then(|s| s.keeps.as_ref()).is_some_and(|keeps| !keeps.contains(&snapshot))
    }

    /// Whether an object is a create's, which may not be in the mark.
    pub(super) fn spares(&self, path: &str) -> bool {
        let ended = self.sweep.as_ref().is_some_and(|s| s.names.contains(path));
        ended || self.running.values().any(|r| r.names.contains(path))
    }
}

/// Pages whose shape is kept: at most 16 KiB each, most of them far less.
const SHAPES: usize = 4096;

/// What a page leads to.
#[derive(Debug)]
pub(super) enum Shape {
    /// Pages below, each with its index in its level.
    Pages(Vec<(u64, Hash32)>),
    /// Packs.
    Packs(HashSet<PackId>),
}

/// What sweeps remember, so that one more does not read again what all before it have read: pages by name, which never
/// change, and manifests by the hash that the log has.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pages: HashMap<Hash32, Arc<Shape>>,
    pub(super) manifests: HashMap<(Folder, SnapshotId), Arc<Located>>,
}

impl Shapes {
    pub(super) fn page(&self, name: &Hash32) -> Option<Arc<Shape>> {
        self.pages.get(name).cloned()
    }

    pub(super) fn keep_page(&mut self, name: Hash32, shape: &Arc<Shape>) {
        if self.pages.len() < SHAPES {
            self.pages.insert(name, shape.clone());
        }
    }

    /// Forgets pages that a sweep has not met.
    pub(super) fn retain(&mut self, folder: Folder, pages: &HashSet<Hash32>, manifests: &HashSet<SnapshotId>) {
        if self.pages.len() >= SHAPES {
            self.pages.retain(|name, _| pages.contains(name));
        }
        self.manifests.retain(|(f, id), _| *f != folder || manifests.contains(id));
    }
}
