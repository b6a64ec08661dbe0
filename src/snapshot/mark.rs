//! Marking: what live snapshots, refs and running creates reach in an installation's folder.
//!
//! Something unreadable might reach anything: it is noted ([`Marks::blind`]), and then nothing may be deleted or moved.

use super::Folder;
use super::creates::Shape;
use super::log::{Log, is_damage};
use super::objects::Listed;
use super::redirect::Redirect;
use super::refs::{REF_MAX, Ref, RefKind};
use super::repository::{Inner, Located};
use super::sweep::GRACE;
use super::tree::Tree;
use crate::error::{Kind, Result};
use crate::units::{Hash32, PackId, SnapshotId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;

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
pub(super) struct All;

impl Needs for All {
    fn of(&self, _: &str, _: Option<&Ref>) -> Need {
        Need::Keep
    }
}

/// A body that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Total size of its sectors, in bytes.
    pub(super) length: u32,
    /// It stays where it is: a held snapshot reaches it, or pages contradict each other about it.
    pub(super) stays: bool,
}

/// Reached bodies, by pack and offset as leaf entries name them.
pub(super) type Bodies = HashMap<PackId, BTreeMap<u32, Reached>>;

/// Maximum number of faults to keep.
const FAULTS_MAX: usize = 1000;

/// What is reached.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) pages: HashSet<Hash32>,
    pub(super) packs: HashSet<PackId>,
    pub(super) manifests: HashSet<SnapshotId>,
    /// The redirects of packs that have one.
    pub(super) redirects: HashMap<PackId, Arc<Redirect>>,
    /// Each body, if bodies are asked for.
    pub(super) bodies: Option<Bodies>,
    /// What is marked now is reached by a held snapshot.
    holding: bool,
    /// Nothing is going to be deleted: this mark changes nothing, and does not bind creates.
    only_looks: bool,
    /// Snapshots that have been marked from.
    pub(super) roots: HashSet<(Folder, SnapshotId)>,
    pub(super) refs: Vec<(String, SnapshotId)>,
    /// Paths of own refs to remove.
    pub(super) dropped: Vec<String>,
    /// The first thing that could not be read.
    pub(super) blind: Option<String>,
    /// What else could not be read, at most [`FAULTS_MAX`].
    pub(super) faults: Vec<String>,
}

impl Marks {
    /// Marks that list every body.
    pub(super) fn of_bodies() -> Self {
        Self { bodies: Some(HashMap::new()), ..Self::default() }
    }

    /// The same for one who only looks.
    pub(super) fn of_looking() -> Self {
        Self { only_looks: true, ..Self::of_bodies() }
    }

    /// Unwraps a result; a damaged or missing object blinds the mark.
    fn see<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(e) if is_damage(&e) => {
                self.fault(e.line());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn fault(&mut self, why: String) {
        if self.blind.is_none() {
            self.blind = Some(why);
        } else if self.faults.len() < FAULTS_MAX {
            self.faults.push(why);
        }
    }

    /// Marks the bodies that a leaf page names.
    fn reach(&mut self, pack: PackId, named: &[(u32, u32)]) {
        self.packs.insert(pack);
        let Some(bodies) = &mut self.bodies else { return };
        let bodies = bodies.entry(pack).or_default();
        for (offset, length) in named {
            let new = Reached { length: *length, stays: self.holding };
            let known = bodies.entry(*offset).or_insert(new);
            known.stays |= self.holding || known.length != *length;
        }
    }
}

/// The objects of a folder.
pub(super) struct Listing {
    pub(super) manifests: Vec<Listed>,
    pub(super) pages: Vec<Listed>,
    pub(super) packs: Vec<Listed>,
    pub(super) redirects: Vec<Listed>,
}

impl Listing {
    pub(super) fn read(inner: &Inner, own: Folder) -> Result<Self> {
        let list = |sort| inner.objects.list(&own.sort(sort));
        Ok(Self {
            manifests: list("manifests")?,
            pages: list("pages")?,
            packs: list("packs")?,
            redirects: list("redirects")?,
        })
    }

    /// Returns what is not marked, in the order in which it is deleted.
    pub(super) fn unmarked<'a>(&'a self, marks: &'a Marks) -> impl Iterator<Item = &'a Listed> {
        let manifests =
            self.manifests.iter().filter(|o| o.name().parse().is_ok_and(|id| !marks.manifests.contains(&id)));
        let pages = self.pages.iter().filter(|o| o.name().parse().is_ok_and(|name| !marks.pages.contains(&name)));
        let packs = self.packs.iter().chain(&self.redirects);
        let packs = packs.filter(|o| o.name().parse().is_ok_and(|id| !marks.packs.contains(&id)));
        manifests.chain(pages).chain(packs)
    }
}

impl Inner {
    /// Marks everything that is reached. Then deleting may begin: from now on, no create takes a base that is not marked.
    pub(super) fn mark(&self, own: Folder, there: &Listing, needs: &dyn Needs, marks: &mut Marks) -> Result<()> {
        self.settled_state(own)?;
        let now = self.env.now();
        let wait = self.has_others(own)?;
        marks.packs.extend(needs.packs());
        if marks.bodies.is_some() {
            self.mark_held(own, needs, wait, marks)?;
        }
        let mut lost = HashSet::new();
        if let Some(log) = self.log(own)? {
            lost.extend(log.state.deleted.keys().copied());
            let fresh = log.state.deleted.iter().filter(|(_, d)| wait && now.0.saturating_sub(d.time.0) < GRACE);
            let present: HashSet<SnapshotId> = names(&there.manifests);
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
            let new = match marks.only_looks {
                true => creates.bases(own, &marks.roots),
                false => creates.seal(own, &marks.roots, || marks.manifests.clone()),
            };
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

    /// Marks what held snapshots reach, before anything else: a page is marked from once.
    fn mark_held(&self, own: Folder, needs: &dyn Needs, wait: bool, marks: &mut Marks) -> Result<()> {
        marks.holding = true;
        for folder in self.folders(own.lineage)? {
            let Some(Some(log)) = marks.see(self.log(folder))? else { continue };
            let stays = |id| folder != own || wait || !needs.is_going(id);
            for (id, _) in log.state.live.iter().filter(|(id, live)| live.held && stays(**id)) {
                let Some(at) = marks.see(self.known_manifest(&log, *id))? else { continue };
                if at.manifest.folders.contains(&own.installation) {
                    self.mark_root(own, &at, marks)?;
                }
            }
        }
        marks.holding = false;
        Ok(())
    }

    /// Returns a manifest, read and verified only once.
    fn known_manifest(&self, log: &Log, id: SnapshotId) -> Result<Arc<Located>> {
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
    pub(super) fn mark_root(&self, own: Folder, root: &Located, marks: &mut Marks) -> Result<()> {
        if !marks.roots.insert((root.folder, root.manifest.snapshot)) {
            return Ok(());
        }
        if root.folder == own {
            marks.manifests.insert(root.manifest.snapshot);
        }
        let tree = self.tree(root);
        self.mark_page(&tree, (tree.depth() - 1, 0), tree.root(), marks)
    }

    /// Returns what a page references, read only once.
    pub(super) fn shape(&self, tree: &Tree, (level, index): (u8, u64), name: Hash32) -> Result<Arc<Shape>> {
        if let Some(known) = self.shapes.lock().page(&name) {
            return Ok(known);
        }
        let shape = Arc::new(tree.shape(level, index, name)?);
        self.shapes.lock().keep_page(name, &shape);
        Ok(shape)
    }

    fn mark_page(&self, tree: &Tree, (level, index): (u8, u64), name: Hash32, marks: &mut Marks) -> Result<()> {
        if name.is_zero() || !marks.pages.insert(name) {
            return Ok(());
        }
        let Some(shape) = marks.see(self.shape(tree, (level, index), name))? else { return Ok(()) };
        match &*shape {
            Shape::Bodies(named) => named.iter().for_each(|(pack, named)| marks.reach(*pack, named)),
            Shape::Pages(below) if level > 0 => {
                for (index, name) in below {
                    self.mark_page(tree, (level - 1, *index), *name, marks)?;
                }
            }
            Shape::Pages(_) => {
                marks.fault(format!("page {name} is at the wrong position of a tree"));
            }
        }
        Ok(())
    }

    /// Whether any other installation has a folder in this repository.
    pub(super) fn has_others(&self, own: Folder) -> Result<bool> {
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
                    if !marks.only_looks {
                        self.renew_ref(own, id, snapshot)?;
                    }
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
        let (packs, redirects): (HashSet<PackId>, HashSet<PackId>) = (names(&there.packs), names(&there.redirects));
        let mut absent: HashSet<PackId> = marks.packs.iter().filter(|pack| !packs.contains(pack)).copied().collect();
        absent.retain(|pack| !redirects.contains(pack) && !marks.redirects.contains_key(pack));
        self.moved.lock().retain_unknown(own, &mut absent);
        if !absent.is_empty() {
            for foreign in self.foreign_packs(own)? {
                if absent.remove(&foreign) {
                    self.moved.lock().keep_none(own, foreign);
                }
            }
        }
        // The list may be older than a redirect: if the pack is nowhere else either, it is looked for by name.
        let moved = marks.packs.iter().filter(|pack| redirects.contains(pack) || absent.contains(pack));
        for old in moved.copied().collect::<Vec<_>>() {
            if let Some(Some(redirect)) = marks.see(self.redirect(own, old))? {
                marks.packs.extend(redirect.moves.iter().map(|m| m.pack));
                marks.redirects.insert(old, redirect);
            }
        }
        Ok(())
    }

    /// Returns the packs in other installations' folders, moved or not.
    pub(super) fn foreign_packs(&self, own: Folder) -> Result<HashSet<PackId>> {
        let mut all = HashSet::new();
        for folder in self.folders(own.lineage)?.into_iter().filter(|f| *f != own) {
            for sort in ["packs", "redirects"] {
                all.extend(names::<PackId>(&self.objects.list(&folder.sort(sort))?));
            }
        }
        Ok(all)
    }
}

/// Returns what the objects are named for, except for names that are none.
pub(super) fn names<T: FromStr + Eq + Hash>(all: &[Listed]) -> HashSet<T> {
    all.iter().filter_map(|object| object.name().parse().ok()).collect()
}
