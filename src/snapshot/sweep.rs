//! Garbage collection: deletes unreachable manifests, pages, packs and redirects in this installation's own folder.
//!
//! Order: list the objects, then read the log's live snapshots, then the refs, then the bases of creates; mark from
//! those; delete what was listed and neither marked nor announced by a create meanwhile (`creates.rs`). An object put
//! after the listing is not in it; whoever puts a ref after the refs were read then sees the delete in the log.
//!
//! Something unreadable while marking might reach anything: then nothing is deleted, and the result says why. A sweep
//! reads each page and each manifest once, and the next one reads only what is new.

use super::Folder;
use super::mark::{All, Listing, Marks, names};
pub use super::mark::{Need, Needs};
use super::objects::Listed;
use super::repository::{Inner, Located, Repository};
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, LineageId, PackId, SnapshotId};
use std::collections::HashSet;

/// How long a deleted snapshot's objects are kept if the repository has other installations, in milliseconds (24 h).
pub const GRACE: i64 = 24 * 3600 * 1000;

/// The result of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Objects deleted.
    pub deleted: u64,
    /// Size of the deleted objects in bytes.
    pub freed: u64,
    /// Deleted snapshots that are still kept by a ref, a running create or the 24 hours.
    pub kept: u64,
    /// Refs that keep a deleted snapshot: ref id and snapshot.
    pub refs: Vec<(String, SnapshotId)>,
    /// Why nothing could be deleted: something unreadable may need it.
    pub blind: Option<String>,
}

/// The sweep of a folder, one at a time. Ends it for the creates, however it ends.
pub(super) struct Turn<'a>(&'a Inner, Folder);

impl<'a> Turn<'a> {
    pub(super) fn wait_for(inner: &'a Inner, own: Folder) -> Self {
        let mut creates = inner.creates.lock();
        while !creates.begin_sweep(own) {
            inner.swept.wait(&mut creates);
        }
        Self(inner, own)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.creates.lock().end_sweep(self.1);
        self.0.swept.notify_all();
    }
}

impl Repository {
    /// Deletes, in this installation's folder of `lineage`, what no live snapshot, ref or running create reaches.
    ///
    /// # Errors
    /// As [`Repository::sweep_for`].
    pub fn sweep(&self, lineage: LineageId) -> Result<Swept> {
        self.sweep_for(lineage, &All)
    }

    /// Like [`Repository::sweep`], but the installation decides about its own refs.
    ///
    /// # Errors
    /// If part of the log's state is unknown, or the store fails: then nothing was deleted. If the store fails at a
    /// delete, some objects were, and a repeat continues.
    pub fn sweep_for(&self, lineage: LineageId, needs: &dyn Needs) -> Result<Swept> {
        let inner = &*self.inner;
        let own = inner.own(lineage)?;
        let turn = Turn::wait_for(inner, own);
        let there = Listing::read(inner, own)?;
        let mut marks = Marks::default();
        inner.mark(own, &there, needs, &mut marks)?;
        let mut swept = Swept { refs: std::mem::take(&mut marks.refs), blind: marks.blind.take(), ..Swept::default() };
        if swept.blind.is_some() {
            return Ok(swept);
        }
        inner.delete_unmarked(own, &there, &marks, &mut swept)?;
        drop(turn);
        inner.trim_log(own)?;
        Ok(swept)
    }
}

impl Inner {
    /// Deletes what was listed and is not marked.
    pub(super) fn delete_unmarked(&self, own: Folder, there: &Listing, marks: &Marks, swept: &mut Swept) -> Result<()> {
        self.shapes.lock().retain(own, &marks.pages, &marks.manifests);
        // Manifests first: an interrupted sweep leaves none whose pages or packs are gone.
        for object in there.unmarked(marks) {
            self.take(own, object, swept)?;
        }
        swept.kept = self.forget(own, there, marks)?;
        // Refs last: as long as one exists, what it held may exist too.
        marks.dropped.iter().try_for_each(|path| self.objects.delete(path))
    }

    /// Counts what [`Inner::delete_unmarked`] would delete.
    pub(super) fn count_unmarked(&self, own: Folder, there: &Listing, marks: &Marks, swept: &mut Swept) {
        let creates = self.creates.lock();
        for object in there.unmarked(marks).filter(|o| !creates.spares(own, &o.path)) {
            swept.deleted += 1;
            swept.freed += object.size;
        }
    }

    /// Checks that all pages and packs that a snapshot reaches exist. A page is read once; one that was read before
    /// only has to be in its folder still.
    ///
    /// # Errors
    /// [`Kind::Integrity`]: what is missing or damaged.
    pub(super) fn check_reach(&self, root: &Located) -> Result<()> {
        let mut marks = Marks::default();
        self.mark_root(root.folder, root, &mut marks)?;
        let id = root.manifest.snapshot;
        if let Some(why) = marks.blind {
            return Err(Error::new(Kind::Integrity, format!("snapshot {id}: {why}")));
        }
        let (mut pages, mut packs) = (HashSet::<Hash32>::new(), HashSet::<PackId>::new());
        for installation in &root.manifest.folders {
            let folder = Folder { lineage: root.folder.lineage, installation: *installation };
            let names = |sort: &str| self.objects.list(&folder.sort(sort));
            pages.extend(names("pages")?.iter().filter_map(|o| o.name().parse::<Hash32>().ok()));
            // A missing pack that has a redirect was moved.
            packs.extend(
                names("packs")?.iter().chain(&names("redirects")?).filter_map(|o| o.name().parse::<PackId>().ok()),
            );
        }
        for name in marks.pages.difference(&pages) {
            self.must_exist(root, &["pages"], name).map_err(|e| e.context(format!("snapshot {id}: page {name}")))?;
        }
        for name in marks.packs.difference(&packs) {
            let sorts = ["packs", "redirects"];
            self.must_exist(root, &sorts, name).map_err(|e| e.context(format!("snapshot {id}: pack {name}")))?;
        }
        Ok(())
    }

    /// Looks for an object that a list does not have: the list may be older than it.
    fn must_exist(&self, root: &Located, sorts: &[&str], name: &dyn std::fmt::Display) -> Result<()> {
        for installation in &root.manifest.folders {
            let folder = Folder { lineage: root.folder.lineage, installation: *installation };
            for sort in sorts {
                if self.objects.head(&folder.path(sort, name))?.is_some() {
                    return Ok(());
                }
            }
        }
        Err(Error::new(Kind::Integrity, "it is missing"))
    }

    /// Deletes one object, unless a create has announced it meanwhile. A create that announces it during the delete waits
    /// for the end of that, and puts the object again; nobody else waits.
    pub(super) fn take(&self, own: Folder, object: &Listed, swept: &mut Swept) -> Result<()> {
        if !self.creates.lock().begin_delete(own, &object.path) {
            return Ok(());
        }
        let deleted = self.objects.delete(&object.path);
        self.creates.lock().end_delete(own);
        self.swept.notify_all();
        deleted?;
        swept.deleted += 1;
        swept.freed += object.size;
        Ok(())
    }

    /// Removes deleted snapshots whose manifests are gone from the state that the log's next checkpoint will record.
    /// Returns how many deleted ones are still kept.
    fn forget(&self, own: Folder, there: &Listing, marks: &Marks) -> Result<u64> {
        let listed: HashSet<SnapshotId> = names(&there.manifests);
        self.change_log(own, |log| {
            let Some(log) = log.as_mut() else { return Ok(0) };
            log.state.deleted.retain(|id, _| marks.manifests.contains(id) && listed.contains(id));
            Ok(log.state.deleted.len() as u64)
        })
    }
}

#[cfg(test)]
#[path = "race_tests.rs"]
mod race_tests;
#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
