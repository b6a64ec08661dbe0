//! Statistics of an installation's folder: how much of it is needed, and what deleting each snapshot would give back.

use super::Folder;
use super::compact::Census;
use super::creates::Shape;
use super::mark::{Listing, Marks, Needs};
use super::objects::Listed;
use super::pack::weight;
use super::refs::{REF_MAX, Ref};
use super::repository::{Inner, Located, Repository};
use super::sweep::Turn;
use super::tree::Tree;
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, LineageId, PackId, SnapshotId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Number and size of the objects of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many there are.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Tally {
    fn of<'a>(all: impl IntoIterator<Item = &'a Listed>) -> Self {
        let add = |t: Self, o: &Listed| Self { objects: t.objects + 1, bytes: t.bytes + o.size };
        all.into_iter().fold(Self::default(), add)
    }
}

/// A ref, as it was found.
#[derive(Debug)]
pub struct FoundRef {
    /// Its name, `<installation>-<id>`.
    pub name: String,
    /// Its content, or why that is unreadable.
    pub content: Result<Ref>,
}

/// Statistics of this installation's folder of a lineage.
#[derive(Debug, Default)]
pub struct Stats {
    /// Packs.
    pub packs: Tally,
    /// Pages.
    pub pages: Tally,
    /// Manifests.
    pub manifests: Tally,
    /// Redirects.
    pub redirects: Tally,
    /// Log records.
    pub records: Tally,
    /// Bytes in packs that are reached.
    pub live: u64,
    /// Those of them that several snapshots reach.
    pub shared: u64,
    /// Bytes in packs that are not reached.
    pub garbage: u64,
    /// Bytes in packs of snapshots that are not completed.
    pub pending: u64,
    /// Bytes that deleting a live snapshot would give back after garbage is collected, if no volume or job needs it.
    pub unique: Vec<(SnapshotId, u64)>,
    /// The refs of the lineage.
    pub refs: Vec<FoundRef>,
    /// What could not be read: then the other numbers are too low.
    pub faults: Vec<String>,
}

/// A snapshot by its place in a list; `None`: several, or one that is not in the list.
type Owner = Option<usize>;

/// Who reaches what.
#[derive(Default)]
struct Owners {
    pages: HashMap<Hash32, Owner>,
    bodies: HashMap<(PackId, u32), (Owner, u32)>,
}

/// Notes that `who` reaches something, too. Returns whether that is news for what is below it.
fn claim<K: std::hash::Hash + Eq>(all: &mut HashMap<K, Owner>, key: K, who: Owner) -> bool {
    match all.entry(key) {
        Entry::Vacant(free) => {
            free.insert(who);
            true
        }
        Entry::Occupied(known) if known.get().is_none() || *known.get() == who => false,
        Entry::Occupied(mut known) => {
            known.insert(None);
            true
        }
    }
}

impl Repository {
    /// Counts what is in this installation's folder of `lineage`.
    ///
    /// # Errors
    /// If the log cannot be read; what the store reports.
    pub fn stats(&self, lineage: LineageId, needs: &dyn Needs) -> Result<Stats> {
        let inner = &*self.inner;
        let own = inner.own(lineage)?;
        let turn = Turn::wait_for(inner, own);
        let there = Listing::read(inner, own)?;
        let mut marks = Marks::of_looking();
        inner.mark(own, &there, needs, &mut marks)?;
        let census = inner.census(own, &there, needs, &marks);
        let mut stats = Stats {
            packs: Tally::of(&there.packs),
            pages: Tally::of(&there.pages),
            manifests: Tally::of(&there.manifests),
            redirects: Tally::of(&there.redirects),
            records: Tally::of(&inner.objects.list(&own.sort("log"))?),
            live: census.packs.values().map(|usage| usage.live).sum(),
            pending: census.pending.values().sum(),
            faults: marks.blind.iter().chain(&marks.faults).cloned().collect(),
            ..Stats::default()
        };
        stats.garbage = stats.packs.bytes.saturating_sub(stats.live + stats.pending);
        if marks.blind.is_none() {
            inner.count_unique(own, &there, &marks, &census, &mut stats)?;
        }
        drop(turn);
        stats.refs = self.found_refs(lineage)?;
        Ok(stats)
    }

    /// Lists all refs of `lineage`, whether or not they are readable.
    ///
    /// # Errors
    /// What the store reports.
    pub fn found_refs(&self, lineage: LineageId) -> Result<Vec<FoundRef>> {
        let mut all = Vec::new();
        for object in self.inner.ref_objects(lineage)? {
            let content = self.inner.objects.get(&object.path, REF_MAX);
            let content = content.and_then(|raw| Ref::parse(&object.path, lineage, &raw));
            // It was removed since it was listed.
            if !content.as_ref().is_err_and(|e| e.kind() == Kind::NotFound) {
                all.push(FoundRef { name: object.name().to_owned(), content });
            }
        }
        Ok(all)
    }

    /// Removes a ref, of any installation, by its name in [`Repository::found_refs`].
    ///
    /// # Errors
    /// [`Kind::Usage`] for what cannot be a name; what the store reports.
    pub fn remove_ref(&self, lineage: LineageId, name: &str) -> Result<()> {
        self.inner.author()?;
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(Error::new(Kind::Usage, format!("{name:?} is not the name of a ref")));
        }
        self.inner.objects.delete(&format!("{lineage}/refs/{name}"))
    }
}

impl Inner {
    fn count_unique(
        &self,
        own: Folder,
        there: &Listing,
        marks: &Marks,
        census: &Census,
        stats: &mut Stats,
    ) -> Result<()> {
        let live = self.own_state(own)?.live;
        let ids: Vec<SnapshotId> = live.keys().copied().collect();
        let mut owners = Owners::default();
        for (folder, id) in &marks.roots {
            let Some(at) = self.marked(*folder, *id)? else { continue };
            let who = if *folder == own { ids.binary_search(id).ok() } else { None };
            let tree = self.tree(&at);
            self.claim_page(&tree, (tree.depth() - 1, 0), tree.root(), who, &mut owners)?;
        }
        let mut unique = vec![0; ids.len()];
        let mut add = |owner: Owner, bytes: u64| {
            owner.and_then(|at| unique.get_mut(at)).into_iter().for_each(|sum: &mut u64| *sum += bytes);
        };
        for ((pack, offset), (owner, length)) in &owners.bodies {
            if census.place(*pack, *offset, *length).is_some() {
                add(*owner, weight(*length));
                stats.shared += if owner.is_none() { weight(*length) } else { 0 };
            }
        }
        for page in &there.pages {
            let owner = page.name().parse().ok().and_then(|name| owners.pages.get(&name));
            add(owner.copied().flatten(), page.size);
        }
        for manifest in &there.manifests {
            add(manifest.name().parse().ok().and_then(|id| ids.binary_search(&id).ok()), manifest.size);
        }
        stats.unique = ids.into_iter().zip(unique).collect();
        Ok(())
    }

    /// Returns a snapshot that was marked from.
    fn marked(&self, folder: Folder, id: SnapshotId) -> Result<Option<Arc<Located>>> {
        let known = self.shapes.lock().manifests.get(&(folder, id)).cloned();
        match known {
            Some(known) => Ok(Some(known)),
            None => Ok(self.locate_in(folder, id)?.map(Arc::new)),
        }
    }

    /// Notes that a snapshot reaches a page and what is below. A page is looked at twice at most.
    fn claim_page(
        &self,
        tree: &Tree,
        (level, index): (u8, u64),
        name: Hash32,
        who: Owner,
        owners: &mut Owners,
    ) -> Result<()> {
        if name.is_zero() || !claim(&mut owners.pages, name, who) {
            return Ok(());
        }
        match &*self.shape(tree, (level, index), name)? {
            Shape::Pages(below) if level > 0 => below
                .iter()
                .try_for_each(|(index, name)| self.claim_page(tree, (level - 1, *index), *name, who, owners)),
            Shape::Pages(_) => Ok(()),
            Shape::Bodies(named) => {
                for (pack, (offset, length)) in named.iter().flat_map(|(pack, all)| all.iter().map(|one| (*pack, *one)))
                {
                    let known = owners.bodies.entry((pack, offset)).or_insert((who, length));
                    if known.0 != who {
                        known.0 = None;
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
