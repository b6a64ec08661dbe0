//! Garbage collection: deletes unreachable manifests, pages, packs and redirects in this installation's own folder.
//!
//! Order: list the objects, then read the log's live snapshots, then the refs, then the bases of creates; mark from
//! those; delete what was listed and neither marked nor announced by a create meanwhile (`creates.rs`). An object put
//! after the listing is not in it; whoever puts a ref after the refs were read then sees the delete in the log.
//!
//! Something unreadable while marking might reach anything: then nothing is deleted, and the result says why. A sweep
//! reads each page and each manifest once, and the next one reads only what is new.

use super::Folder;
use super::creates::Shape;
use super::log::is_damage;
use super::objects::Listed;
use super::redirect::{REDIRECT_MAX, Redirect};
use super::refs::{REF_MAX, Ref, RefKind};
use super::repository::{Inner, Located, Repository};
use super::tree::Tree;
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, LineageId, PackId, SnapshotId};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

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

/// What an installation knows of one of its own refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is needed.
    Keep,
    /// It is not needed: it is removed, after everything that only it held.
    Drop,
    /// It must be on this snapshot, and is put again.
    On(SnapshotId),
}

/// An installation's knowledge of its refs, from its catalog.
pub trait Needs {
    /// Decides about the ref `id`; `found`: its contents, if readable.
    fn of(&self, id: &str, found: Option<&Ref>) -> Need;
    /// Returns the snapshots that are needed, with or without a ref.
    fn roots(&self) -> Vec<SnapshotId> {
        Vec::new()
    }
    /// Returns the packs that are needed, though no page reaches them yet: those of pending snapshots.
    fn packs(&self) -> BTreeSet<PackId> {
        BTreeSet::new()
    }
    /// Whether a snapshot is being deleted, though the log had no space yet to record it.
    fn is_going(&self, snapshot: SnapshotId) -> bool {
        let _ = snapshot;
        false
    }
}

/// Every ref counts, and an unreadable one may be on anything.
struct All;

impl Needs for All {
    fn of(&self, _: &str, _: Option<&Ref>) -> Need {
        Need::Keep
    }
}

#[derive(Default)]
struct Marks {
    pages: HashSet<Hash32>,
    packs: HashSet<PackId>,
    manifests: HashSet<SnapshotId>,
    /// Snapshots that have been marked from.
    roots: HashSet<(Folder, SnapshotId)>,
    refs: Vec<(String, SnapshotId)>,
    /// Paths of own refs to remove.
    dropped: Vec<String>,
    blind: Option<String>,
}

impl Marks {
    /// Unwraps a result; a damaged or missing object blinds the sweep.
    fn see<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(e) if is_damage(&e) => {
                self.blind.get_or_insert_with(|| e.line());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// The sweep of a folder, one at a time. Ends it for the creates, however it ends.
struct Turn<'a>(&'a Inner, Folder);

impl<'a> Turn<'a> {
    fn wait_for(inner: &'a Inner, own: Folder) -> Self {
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
        let _turn = Turn::wait_for(inner, own);
        let there = Listing::read(inner, own)?;
        let mut marks = Marks::default();
        inner.mark(own, &there, needs, &mut marks)?;
        let mut swept = Swept { refs: std::mem::take(&mut marks.refs), blind: marks.blind.take(), ..Swept::default() };
        if swept.blind.is_some() {
            return Ok(swept);
        }
        inner.shapes.lock().retain(own, &marks.pages, &marks.manifests);
        // Manifests first: an interrupted sweep leaves none whose pages or packs are gone.
        for o in &there.manifests {
            if o.name().parse().is_ok_and(|id| !marks.manifests.contains(&id)) {
                inner.take(own, o, &mut swept)?;
            }
        }
        for o in &there.pages {
            if o.name().parse().is_ok_and(|name| !marks.pages.contains(&name)) {
                inner.take(own, o, &mut swept)?;
            }
        }
        for o in there.packs.iter().chain(&there.redirects) {
            if o.name().parse().is_ok_and(|id| !marks.packs.contains(&id)) {
                inner.take(own, o, &mut swept)?;
            }
        }
        swept.kept = inner.forget(own, &there, &marks)?;
        // Refs last: as long as one exists, what it held may exist too.
        marks.dropped.iter().try_for_each(|path| inner.objects.delete(path))?;
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
    fn mark(&self, own: Folder, there: &Listing, needs: &dyn Needs, marks: &mut Marks) -> Result<()> {
        self.settled_state(own)?;
        let now = self.env.now();
        let wait = self.has_others(own)?;
        marks.packs.extend(needs.packs());
        let mut lost = HashSet::new();
        if let Some(log) = self.log(own)? {
            lost.extend(log.state.deleted.keys().copied());
            let fresh = log.state.deleted.iter().filter(|(_, d)| wait && now.0.saturating_sub(d.time.0) < GRACE);
            let present: HashSet<SnapshotId> = there.manifests.iter().filter_map(|o| o.name().parse().ok()).collect();
            let fresh = fresh.map(|(id, _)| *id).filter(|id| present.contains(id));
            let live = log.state.live.keys().copied().filter(|id| wait || !needs.is_going(*id));
            for id in live.chain(fresh) {
                if let Some(at) = marks.see(self.known_manifest(&log, id))? {
                    self.mark_root(own, &at, marks)?;
                }
            }
        }
        self.mark_refs(own, needs, &lost, marks)?;
        self.mark_others(own, marks)?;
        self.mark_redirects(own, there, marks)?;
        if marks.blind.is_some() {
            return Ok(());
        }
        loop {
            let mut creates = self.creates.lock();
            marks.manifests.extend(creates.manifests(own));
            let new = creates.seal(own, &marks.roots, || marks.manifests.clone());
            drop(creates);
            if new.is_empty() {
                return Ok(());
            }
            for base in new {
                self.mark_root(own, &base, marks)?;
                if marks.blind.is_some() {
                    return Ok(());
                }
            }
            self.mark_redirects(own, there, marks)?;
        }
    }

    /// Returns a manifest, read and verified only once.
    fn known_manifest(&self, log: &super::log::Log, id: SnapshotId) -> Result<Arc<Located>> {
        let said = log.state.live.get(&id).map(|l| l.manifest).or(log.state.deleted.get(&id).map(|d| d.manifest));
        let known = self.shapes.lock().manifests.get(&(log.folder, id)).cloned();
        if let Some(known) = known.filter(|k| said == Some(k.hash)) {
            return Ok(known);
        }
        let read = Arc::new(self.manifest(log, id)?);
        self.shapes.lock().manifests.insert((log.folder, id), read.clone());
        Ok(read)
    }

    /// Marks everything that a snapshot reaches.
    fn mark_root(&self, own: Folder, root: &Located, marks: &mut Marks) -> Result<()> {
        if !marks.roots.insert((root.folder, root.manifest.snapshot)) {
            return Ok(());
        }
        if root.folder == own {
            marks.manifests.insert(root.manifest.snapshot);
        }
        let tree = self.tree(root);
        self.mark_page(&tree, (tree.depth() - 1, 0), tree.root(), marks)
    }

    fn mark_page(&self, tree: &Tree, (level, index): (u8, u64), name: Hash32, marks: &mut Marks) -> Result<()> {
        if name.is_zero() || !marks.pages.insert(name) {
            return Ok(());
        }
        let known = self.shapes.lock().page(&name);
        let shape = match known {
            Some(shape) => shape,
            None => {
                let Some(shape) = marks.see(tree.shape(level, index, name))? else { return Ok(()) };
                let shape = Arc::new(shape);
                self.shapes.lock().keep_page(name, &shape);
                shape
            }
        };
        match &*shape {
            Shape::Packs(packs) => marks.packs.extend(packs),
            Shape::Pages(below) if level > 0 => {
                for (index, name) in below {
                    self.mark_page(tree, (level - 1, *index), *name, marks)?;
                }
            }
            Shape::Pages(_) => {
                marks.blind.get_or_insert_with(|| format!("page {name} is at the wrong position of a tree"));
            }
        }
        Ok(())
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

    /// Whether any other installation has a folder in this repository.
    fn has_others(&self, own: Folder) -> Result<bool> {
        for lineage in self.objects.folders("")?.iter().filter_map(|n| n.parse().ok()) {
            if self.folders(lineage)?.iter().any(|f| f.installation != own.installation) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Marks the snapshots that refs need, in any folder, and those that the catalog needs. A ref on a snapshot whose
    /// manifest is gone was void when it was put.
    fn mark_refs(&self, own: Folder, needs: &dyn Needs, lost: &HashSet<SnapshotId>, marks: &mut Marks) -> Result<()> {
        let now = self.env.now();
        let mut homes: Vec<(Folder, SnapshotId)> = Vec::new();
        let mine = format!("{}/refs/{}-", own.lineage, own.installation);
        for object in self.ref_objects(own.lineage)? {
            let read = self.objects.get(&object.path, REF_MAX);
            let read = read.and_then(|raw| Ref::parse(&object.path, own.lineage, &raw));
            let need = object.path.strip_prefix(&mine).map(|id| (id, needs.of(id, read.as_ref().ok())));
            match (need, read) {
                (_, Err(e)) if e.kind() == Kind::NotFound => {}
                (Some((_, Need::Drop)), _) => marks.dropped.push(object.path.clone()),
                (Some((id, Need::On(snapshot))), _) => {
                    self.renew_ref(own, id, snapshot)?;
                    homes.push((own, snapshot));
                }
                (_, Ok(found)) if found.counts(now) => {
                    if lost.contains(&found.snapshot) {
                        marks.refs.push((found.id.clone(), found.snapshot));
                    }
                    homes.push((found.home(own.lineage), found.snapshot));
                }
                (_, Ok(_)) => {}
                (_, Err(e)) => drop(marks.see::<()>(Err(e))?),
            }
        }
        homes.extend(needs.roots().into_iter().map(|id| (own, id)));
        for (folder, snapshot) in homes.into_iter().filter(|home| !marks.roots.contains(home)).collect::<HashSet<_>>() {
            let found = self.locate_in(folder, snapshot);
            if let Some(Some(at)) = marks.see(found)? {
                self.mark_root(own, &at, marks)?;
            }
        }
        Ok(())
    }

    /// Puts an unreadable ref of this installation again.
    fn renew_ref(&self, own: Folder, id: &str, snapshot: SnapshotId) -> Result<()> {
        let path = Ref::path(own.lineage, own.installation, id)?;
        let now = self.env.now();
        let (installation, folder) = (own.installation, own.installation);
        let kind = RefKind::Volume;
        let renewed =
            Ref { format: 1, kind, installation, id: id.to_owned(), snapshot, folder, time: now, heartbeat: now };
        self.objects.put_over(&path, bytes::Bytes::from(renewed.encode()?))
    }

    /// Marks live snapshots of other installations whose trees reach into this folder.
    fn mark_others(&self, own: Folder, marks: &mut Marks) -> Result<()> {
        for folder in self.folders(own.lineage)?.into_iter().filter(|f| *f != own) {
            let Some(Some(log)) = marks.see(self.log(folder))? else { continue };
            for id in log.state.live.keys() {
                let Some(at) = marks.see(self.known_manifest(&log, *id))? else { continue };
                if at.manifest.folders.contains(&own.installation) {
                    self.mark_root(own, &at, marks)?;
                }
            }
        }
        Ok(())
    }

    /// Marks packs named by redirects: a pack reached through a redirect keeps the redirect and the packs it names.
    fn mark_redirects(&self, own: Folder, there: &Listing, marks: &mut Marks) -> Result<()> {
        for o in &there.redirects {
            let Some(old) = o.name().parse::<PackId>().ok().filter(|old| marks.packs.contains(old)) else { continue };
            let raw = self.objects.get(&o.path, REDIRECT_MAX);
            let redirect = raw.and_then(|raw| Redirect::parse(&own.path("redirects", old), old, &raw));
            if let Some(redirect) = marks.see(redirect)? {
                marks.packs.extend(redirect.moves.iter().map(|m| m.pack));
            }
        }
        Ok(())
    }

    /// Deletes one object, unless a create has announced it meanwhile. A create that announces it during the delete waits
    /// for the end of that, and puts the object again; nobody else waits.
    fn take(&self, own: Folder, object: &Listed, swept: &mut Swept) -> Result<()> {
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
        let listed: HashSet<SnapshotId> = there.manifests.iter().filter_map(|o| o.name().parse().ok()).collect();
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
