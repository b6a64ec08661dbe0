//! Running creates, and what a concurrent sweep must spare for them.
//!
//! A create announces each object before it puts it. A sweep deletes nothing that a create has announced since the
//! sweep began, whether that create still runs or has ended meanwhile: a snapshot completed after the log was read is
//! not in the mark. The creates' bases are marked before the first delete; from then on a create accepts only a base
//! that is live or marked. So neither waits for the other.

use super::Folder;
use super::repository::Located;
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, PackId, SnapshotId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A running create: its base, and the objects it has announced.
#[derive(Debug)]
struct Running {
    folder: Folder,
    base: Option<Arc<Located>>,
    names: HashSet<String>,
}

/// A running sweep.
#[derive(Debug)]
struct Sweep {
    folder: Folder,
    /// Announcements and bases of creates that have ended since it began.
    names: HashSet<String>,
    bases: Vec<Arc<Located>>,
    /// Manifests it keeps, once it has begun to delete.
    keeps: Option<HashSet<SnapshotId>>,
    /// The object that it is deleting.
    going: Option<String>,
}

/// All creates that run in this process.
#[derive(Debug, Default)]
pub(super) struct Creates {
    running: HashMap<SnapshotId, Running>,
    /// Sweeps, at most one of each folder.
    sweeps: Vec<Sweep>,
    /// Folders that are being compacted, each with the pack that nothing names yet.
    compacted: HashMap<Folder, Option<String>>,
}

impl Creates {
    fn sweep_of(&self, folder: Folder) -> Option<&Sweep> {
        self.sweeps.iter().find(|s| s.folder == folder)
    }

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

    /// Ends a create, completed or not.
    pub(super) fn end(&mut self, snapshot: SnapshotId) {
        let Some(was) = self.running.remove(&snapshot) else { return };
        if let Some(sweep) = self.sweeps.iter_mut().find(|s| s.folder == was.folder) {
            sweep.names.extend(was.names);
            sweep.bases.extend(was.base);
        }
    }

    /// Begins a sweep. `false`: another one of the folder is under way.
    pub(super) fn begin_sweep(&mut self, folder: Folder) -> bool {
        let is_free = self.sweep_of(folder).is_none();
        if is_free {
            let (names, bases) = Default::default();
            self.sweeps.push(Sweep { folder, names, bases, keeps: None, going: None });
        }
        is_free
    }

    /// Begins to compact a folder. `false`: that is under way.
    pub(super) fn begin_compaction(&mut self, folder: Folder) -> bool {
        let is_free = !self.compacted.contains_key(&folder);
        if is_free {
            self.compacted.insert(folder, None);
        }
        is_free
    }

    /// Keeps sweeps from deleting a pack that compaction is about to put, until it announces the next one.
    pub(super) fn announce_compacted(&mut self, folder: Folder, path: String) {
        self.compacted.insert(folder, Some(path));
    }

    pub(super) fn end_compaction(&mut self, folder: Folder) {
        self.compacted.remove(&folder);
    }

    pub(super) fn end_sweep(&mut self, folder: Folder) {
        self.sweeps.retain(|s| s.folder != folder);
    }

    /// Returns the snapshots whose manifests must stay because a create in the sweep's folder is making them.
    pub(super) fn manifests(&self, folder: Folder) -> Vec<SnapshotId> {
        self.running.iter().filter(|(_, r)| r.folder == folder).map(|(id, _)| *id).collect()
    }

    /// Returns bases of creates that are not among `marked`.
    pub(super) fn bases(&self, folder: Folder, marked: &HashSet<(Folder, SnapshotId)>) -> Vec<Arc<Located>> {
        let running = self.running.values().filter(|r| r.folder == folder).filter_map(|r| r.base.as_ref());
        let all = running.chain(self.sweep_of(folder).into_iter().flat_map(|s| &s.bases));
        all.filter(|b| !marked.contains(&(b.folder, b.manifest.snapshot))).cloned().collect()
    }

    /// Returns bases of creates that are not among `marked`. If there are none, deleting begins: from now on, only
    /// snapshots in `keeps` are accepted as bases.
    pub(super) fn seal(
        &mut self,
        folder: Folder,
        marked: &HashSet<(Folder, SnapshotId)>,
        keeps: impl FnOnce() -> HashSet<SnapshotId>,
    ) -> Vec<Arc<Located>> {
        let new = self.bases(folder, marked);
        let Some(sweep) = self.sweeps.iter_mut().find(|s| s.folder == folder) else { return new };
        if new.is_empty() {
            sweep.keeps = Some(keeps());
        }
        new
    }

    /// Whether a deleted snapshot may be being swept right now.
    pub(super) fn dooms(&self, folder: Folder, snapshot: SnapshotId) -> bool {
        self.sweep_of(folder).and_then(|s| s.keeps.as_ref()).is_some_and(|keeps| !keeps.contains(&snapshot))
    }

    /// Whether a create has announced the object, which may not be in the mark.
    pub(super) fn spares(&self, folder: Folder, path: &str) -> bool {
        let ended = self.sweep_of(folder).is_some_and(|s| s.names.contains(path));
        let is_new = self.compacted.get(&folder).is_some_and(|new| new.as_deref() == Some(path));
        ended || is_new || self.running.values().any(|r| r.names.contains(path))
    }

    /// Begins the delete of an object by the folder's sweep. `false`: it must stay.
    pub(super) fn begin_delete(&mut self, folder: Folder, path: &str) -> bool {
        if self.spares(folder, path) {
            return false;
        }
        if let Some(sweep) = self.sweeps.iter_mut().find(|s| s.folder == folder) {
            sweep.going = Some(path.to_owned());
        }
        true
    }

    pub(super) fn end_delete(&mut self, folder: Folder) {
        if let Some(sweep) = self.sweeps.iter_mut().find(|s| s.folder == folder) {
            sweep.going = None;
        }
    }

    /// Whether a sweep is deleting the object.
    pub(super) fn is_going(&self, path: &str) -> bool {
        self.sweeps.iter().any(|s| s.going.as_deref() == Some(path))
    }
}

/// Maximum number of pages whose shape is kept: at most 16 KiB each, most of them far less.
const SHAPES: usize = 4096;

/// What a page references.
#[derive(Debug)]
pub(super) enum Shape {
    /// Child pages, each with its index in its level.
    Pages(Vec<(u64, Hash32)>),
    /// Bodies: by pack, the offset and length of each.
    Bodies(Vec<(PackId, Vec<(u32, u32)>)>),
}

/// A cache of sweeps, so that a page or manifest is read only once: shapes of pages by name, which never change, and
/// manifests by the hash in the log.
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

    /// Forgets pages and manifests that a sweep has not reached.
    pub(super) fn retain(&mut self, folder: Folder, pages: &HashSet<Hash32>, manifests: &HashSet<SnapshotId>) {
        if self.pages.len() >= SHAPES {
            self.pages.retain(|name, _| pages.contains(name));
        }
        self.manifests.retain(|(f, id), _| *f != folder || manifests.contains(id));
    }
}
