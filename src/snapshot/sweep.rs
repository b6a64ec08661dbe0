//! What nothing reaches any more goes: manifests, pages, packs and redirects of this installation's own folder.
//!
//! Order: list what is there, then the creates that run, then what is live, then the refs; mark from those; delete what
//! was listed and not marked. An object put after the list is not in it; a create leaves the pending ones only after its
//! `add`; a ref put after the refs were read is put by somebody who then sees the delete in the log. A page that cannot
//! be read while marking ends the sweep before anything is deleted.

use super::Folder;
use super::objects::Listed;
use super::page::LeafEntry;
use super::redirect::{REDIRECT_MAX, Redirect};
use super::refs::Ref;
use super::repository::{Inner, Located, Pending, Repository};
use super::tree::Visit;
use crate::error::Result;
use crate::units::{ChunkNo, Hash32, LineageId, PackId, SnapshotId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How long a deleted snapshot's objects stay when the repository has other installations, milliseconds (24 h).
pub const GRACE: i64 = 24 * 3600 * 1000;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Objects deleted.
    pub deleted: u64,
    /// Their bytes.
    pub freed: u64,
    /// Deleted snapshots that a ref, a running create or the 24 hours still keep.
    pub kept: u64,
}

#[derive(Default)]
struct Marks {
    pages: HashSet<Hash32>,
    packs: HashSet<PackId>,
    manifests: HashSet<SnapshotId>,
}

impl Visit for Marks {
    fn page(&mut self, name: Hash32) -> bool {
        self.pages.insert(name)
    }
    fn chunk(&mut self, _: ChunkNo, entry: &LeafEntry) -> Result<()> {
        self.packs.insert(entry.pack());
        Ok(())
    }
}

impl Repository {
    /// Deletes, in this installation's folder of `lineage`, what no live snapshot, ref or running create reaches.
    ///
    /// # Errors
    /// When a log, manifest, ref or page cannot be read: then nothing was deleted. What the store says of a delete: then
    /// some was, and a repeat goes on.
    pub fn sweep(&self, lineage: LineageId) -> Result<Swept> {
        let inner = &*self.inner;
        let own = inner.own(lineage)?;
        let _alone = inner.gate.write();
        let there = Listing::read(inner, own)?;
        let pending: Vec<Pending> = inner.pending.lock().values().filter(|p| p.folder == own).cloned().collect();
        let marks = inner.mark(own, &there, &pending)?;
        let mut swept = Swept { kept: marks.manifests.len() as u64, ..Swept::default() };
        // Manifests first: a sweep that breaks off leaves none whose pages or packs are gone.
        for o in &there.manifests {
            if o.name().parse().is_ok_and(|id| !marks.manifests.contains(&id)) {
                inner.take(o, &mut swept)?;
            }
        }
        for o in &there.pages {
            if o.name().parse().is_ok_and(|name| !marks.pages.contains(&name)) {
                inner.take(o, &mut swept)?;
            }
        }
        for o in there.packs.iter().chain(&there.redirects) {
            if o.name().parse().is_ok_and(|id| !marks.packs.contains(&id)) {
                inner.take(o, &mut swept)?;
            }
        }
        swept.kept -= inner.forget(own, &there, &marks)?;
        Ok(swept)
    }
}

struct Listing {
    manifests: Vec<Listed>,
    pages: Vec<Listed>,
    packs: Vec<Listed>,
    redirects: Vec<Listed>,
}

impl Listing {
    fn read(inner: &Inner, own: Folder) -> Result<Self> {
        let list = |sort| inner.objects.list(&own.sort(sort));
        Ok(Self {
            manifests: list("manifests")?,
            pages: list("pages")?,
            packs: list("packs")?,
            redirects: list("redirects")?,
        })
    }
}

impl Inner {
    fn mark(&self, own: Folder, there: &Listing, pending: &[Pending]) -> Result<Marks> {
        let mut marks = Marks::default();
        let mut roots: Vec<Arc<Located>> = pending.iter().filter_map(|p| p.base.clone()).collect();
        let log = self.log(own)?;
        let now = self.env.now();
        let wait = self.has_others(own)?;
        if let Some(log) = &log {
            let fresh = log.state.deleted.iter().filter(|(_, d)| wait && now.0.saturating_sub(d.time.0) < GRACE);
            let present: HashSet<SnapshotId> = there.manifests.iter().filter_map(|o| o.name().parse().ok()).collect();
            let fresh = fresh.map(|(id, _)| *id).filter(|id| present.contains(id));
            for id in log.state.live.keys().copied().chain(fresh) {
                roots.push(Arc::new(self.manifest(log, id)?));
            }
        }
        roots.extend(self.roots_of_refs(own)?);
        roots.extend(self.roots_of_others(own)?);
        for root in roots {
            if root.folder == own {
                marks.manifests.insert(root.manifest.snapshot);
            }
            self.tree(&root).walk(&mut marks)?;
        }
        self.mark_redirects(own, there, &mut marks)?;
        for p in pending {
            marks.manifests.insert(p.snapshot);
        }
        Ok(marks)
    }

    /// Whether any other installation has a folder in this repository.
    fn has_others(&self, own: Folder) -> Result<bool> {
        for lineage in self.objects.folders("")?.iter().filter_map(|n| n.parse().ok()) {
            if self.folders(lineage)?.iter().any(|f| f.installation != own.installation) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Snapshots that refs need, in any folder. One whose manifest is gone was void before the ref was put.
    fn roots_of_refs(&self, own: Folder) -> Result<Vec<Arc<Located>>> {
        let now = self.env.now();
        let mut found: HashMap<(Folder, SnapshotId), Arc<Located>> = HashMap::new();
        for r in self.refs(own.lineage)?.into_iter().filter(|r: &Ref| r.counts(now)) {
            let key = (r.home(own.lineage), r.snapshot);
            if found.contains_key(&key) {
                continue;
            }
            if let Some(at) = self.locate_in(key.0, key.1)? {
                found.insert(key, Arc::new(at));
            }
        }
        Ok(found.into_values().collect())
    }

    /// Live snapshots of other installations whose trees reach into our folder.
    fn roots_of_others(&self, own: Folder) -> Result<Vec<Arc<Located>>> {
        let mut found = Vec::new();
        for folder in self.folders(own.lineage)?.into_iter().filter(|f| *f != own) {
            let Some(log) = self.log(folder)? else { continue };
            for id in log.state.live.keys() {
                let at = self.manifest(&log, *id)?;
                if at.manifest.folders.contains(&own.installation) {
                    found.push(Arc::new(at));
                }
            }
        }
        Ok(found)
    }

    /// A pack that is reached through a redirect keeps the redirect and the packs it names.
    fn mark_redirects(&self, own: Folder, there: &Listing, marks: &mut Marks) -> Result<()> {
        for o in &there.redirects {
            let Some(old) = o.name().parse::<PackId>().ok().filter(|old| marks.packs.contains(old)) else { continue };
            let raw = self.objects.get(&o.path, REDIRECT_MAX)?;
            let redirect = Redirect::parse(&own.path("redirects", old), old, &raw)?;
            marks.packs.extend(redirect.moves.iter().map(|m| m.pack));
        }
        Ok(())
    }

    /// Deletes one object, unless a running create has announced it meanwhile. Its lock is held over the delete, so a
    /// create that comes after it puts the object anew.
    fn take(&self, object: &Listed, swept: &mut Swept) -> Result<()> {
        let pending = self.pending.lock();
        if pending.values().any(|p| p.names.contains(&object.path)) {
            return Ok(());
        }
        self.objects.delete(&object.path)?;
        swept.deleted += 1;
        swept.freed += object.size;
        Ok(())
    }

    /// Drops, from what the log's next checkpoint will say, the deleted snapshots whose manifests are gone. Answers how
    /// many of the marked manifests are live.
    fn forget(&self, own: Folder, there: &Listing, marks: &Marks) -> Result<u64> {
        let listed: HashSet<SnapshotId> = there.manifests.iter().filter_map(|o| o.name().parse().ok()).collect();
        self.with_log(own, |log| {
            let Some(log) = log.as_mut() else { return Ok(marks.manifests.len() as u64) };
            log.state.deleted.retain(|id, _| marks.manifests.contains(id) && listed.contains(id));
            Ok(marks.manifests.iter().filter(|id| !log.state.deleted.contains_key(id)).count() as u64)
        })
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
