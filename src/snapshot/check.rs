//! Checking an installation's folder: every object is well-formed, and what is reached is there.

use super::compact::Census;
use super::log::{Log, is_damage};
use super::mark::{Listing, Marks, Needs, names};
use super::objects::Listed;
use super::pack::{PACK_MAX, PackFooter, parse_footer, parse_pack};
use super::page::{PAGE_MAX, Page};
use super::repository::{Inner, Repository};
use super::sweep::Turn;
use super::{Folder, u64_at};
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, LineageId, PackId, SnapshotId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Called before each object with its size in bytes, and that of all. `false`: stop.
pub type GoOn<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// The result of a check.
#[derive(Debug, Default)]
pub struct Checked {
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// What is wrong, each naming its object.
    pub problems: Vec<String>,
    /// Objects that nothing reaches: a collection of garbage deletes them.
    pub orphans: Vec<Listed>,
}

/// A running check.
struct Check<'a> {
    inner: &'a Inner,
    own: Folder,
    go_on: GoOn<'a>,
    total: u64,
    found: Checked,
}

impl Repository {
    /// Checks this installation's folder of `lineage`: that its objects are well-formed, that what its snapshots reach is
    /// there, that its log is whole, and that redirects name final places. `read_data`: also reads every body.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] if `go_on` stops it; what the store reports. What is wrong is in the result.
    pub fn check(&self, lineage: LineageId, needs: &dyn Needs, read_data: bool, go_on: GoOn<'_>) -> Result<Checked> {
        let inner = &*self.inner;
        let own = inner.own(lineage)?;
        let turn = Turn::wait_for(inner, own);
        let there = Listing::read(inner, own)?;
        let mut marks = Marks::of_looking();
        let marked = inner.mark(own, &there, needs, &mut marks);
        let census = match marked {
            Ok(()) if marks.blind.is_none() => Some(inner.census(own, &there, needs, &marks)),
            Err(e) if !is_damage(&e) => return Err(e),
            Ok(()) | Err(_) => None,
        };
        drop(turn);
        let sizes = |all: &[Listed]| all.iter().map(|o| o.size).sum::<u64>();
        let light = sizes(&there.pages) + sizes(&there.redirects);
        let total = light + if read_data { sizes(&there.packs) } else { 0 };
        let mut check = Check { inner, own, go_on, total, found: Checked::default() };
        check.found.problems.extend(marks.blind.iter().chain(&marks.faults).cloned());
        check.log()?;
        check.manifests(&there)?;
        check.pages(&there)?;
        let footers = check.packs(&there, read_data)?;
        check.redirects(&there, &footers)?;
        check.refs(self)?;
        if let Some(census) = &census {
            check.reached(&marks, census, &footers)?;
            let creates = inner.creates.lock();
            let orphans = there.unmarked(&marks).filter(|o| !creates.spares(own, &o.path));
            check.found.orphans.extend(orphans.cloned());
        }
        check.found.problems.sort();
        check.found.problems.dedup();
        Ok(check.found)
    }
}

impl Check<'_> {
    /// Notes what is wrong with an object. One that was deleted since it was listed is nothing.
    fn see<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) if is_damage(&e) || e.kind() == Kind::Unsupported => {
                self.found.problems.push(e.line());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn begin(&mut self, bytes: u64) -> Result<()> {
        self.found.objects += 1;
        self.found.bytes += bytes;
        if (self.go_on)(bytes, self.total) {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, "the check was interrupted"))
    }

    fn misnamed(&mut self, object: &Listed) {
        self.found.problems.push(format!("{}: not the name of such an object", object.path));
    }

    fn log(&mut self) -> Result<()> {
        let (checked, problems) = Log::check(&*self.inner.objects, self.own)?;
        self.found.objects += checked;
        self.found.problems.extend(problems);
        Ok(())
    }

    fn manifests(&mut self, there: &Listing) -> Result<()> {
        let Some(log) = self.inner.log(self.own)? else { return Ok(()) };
        for object in &there.manifests {
            self.begin(0)?;
            let Ok(id) = object.name().parse::<SnapshotId>() else {
                self.misnamed(object);
                continue;
            };
            if log.state.live.contains_key(&id) || log.state.deleted.contains_key(&id) {
                let read = self.inner.manifest(&log, id);
                self.see(read)?;
            }
        }
        let present: HashSet<SnapshotId> = names(&there.manifests);
        for id in log.state.live.keys().filter(|id| !present.contains(id)) {
            let read = self.inner.manifest(&log, *id);
            self.see(read)?;
        }
        Ok(())
    }

    fn pages(&mut self, there: &Listing) -> Result<()> {
        for object in &there.pages {
            self.begin(object.size)?;
            let Ok(name) = object.name().parse::<Hash32>() else {
                self.misnamed(object);
                continue;
            };
            let read = self.inner.objects.get(&object.path, PAGE_MAX);
            let parsed = read.and_then(|raw| {
                // Its own level and index: that a tree has it in their place is seen when it is marked.
                let (level, index) = (raw.get(10).copied().unwrap_or(0), u64_at(&raw, 16));
                Page::parse(&object.path, raw, name, level, index)
            });
            self.see(parsed)?;
        }
        Ok(())
    }

    /// Checks all packs, and returns their footers.
    fn packs(&mut self, there: &Listing, read_data: bool) -> Result<HashMap<PackId, PackFooter>> {
        let mut all = HashMap::new();
        for object in &there.packs {
            self.begin(if read_data { object.size } else { 0 })?;
            let Ok(pack) = object.name().parse::<PackId>() else {
                self.misnamed(object);
                continue;
            };
            let objects = &self.inner.objects;
            let footer = if read_data {
                let raw = objects.get(&object.path, PACK_MAX);
                raw.and_then(|raw| parse_pack(&object.path, &raw)).map(PackFooter::from)
            } else {
                parse_footer(&object.path, object.size, &mut |range| objects.get_range(&object.path, range))
            };
            let Some(footer) = self.see(footer)? else { continue };
            if (footer.id, footer.lineage) != (pack, self.own.lineage) {
                let why = format!("{}: it is pack {} of lineage {}", object.path, footer.id, footer.lineage);
                self.found.problems.push(why);
            }
            all.insert(pack, footer);
        }
        Ok(all)
    }

    fn redirects(&mut self, there: &Listing, footers: &HashMap<PackId, PackFooter>) -> Result<()> {
        let moved: HashSet<PackId> = names(&there.redirects);
        for object in &there.redirects {
            self.begin(object.size)?;
            let Ok(old) = object.name().parse::<PackId>() else {
                self.misnamed(object);
                continue;
            };
            let read = self.inner.read_redirect(self.own, old);
            let Some(Some(redirect)) = self.see(read)? else { continue };
            for to in &redirect.moves {
                let why = match footers.get(&to.pack) {
                    Some(footer) if footer.bodies.get(&to.new_offset) == Some(&to.length) => continue,
                    Some(_) => format!("has no such body at byte {}", to.new_offset),
                    None if moved.contains(&to.pack) => {
                        "was moved itself: a redirect must name the final place".to_owned()
                    }
                    None => "is missing or damaged".to_owned(),
                };
                let what =
                    format!("{}: the body at byte {} is moved to pack {}, which", object.path, to.offset, to.pack);
                self.found.problems.push(format!("{what} {why}"));
            }
        }
        Ok(())
    }

    fn refs(&mut self, repository: &Repository) -> Result<()> {
        for found in repository.found_refs(self.own.lineage)? {
            self.begin(0)?;
            self.see(found.content)?;
        }
        Ok(())
    }

    /// Checks that every body that is reached is where it should be.
    fn reached(&mut self, marks: &Marks, census: &Census, footers: &HashMap<PackId, PackFooter>) -> Result<()> {
        let mut lost: BTreeMap<PackId, u64> = BTreeMap::new();
        let mut elsewhere: BTreeMap<PackId, u64> = BTreeMap::new();
        for (pack, named) in marks.bodies.iter().flatten() {
            for (offset, body) in named {
                match census.place(*pack, *offset, body.length) {
                    // A damaged pack is a problem of its own.
                    Some((to, at)) => {
                        let is_there = footers.get(&to).is_none_or(|f| f.bodies.get(&at) == Some(&body.length));
                        *lost.entry(to).or_default() += u64::from(!is_there);
                    }
                    None => *elsewhere.entry(*pack).or_default() += 1,
                }
            }
        }
        let others = if elsewhere.is_empty() { HashSet::new() } else { self.inner.foreign_packs(self.own)? };
        for (pack, bodies) in lost.into_iter().filter(|(_, bodies)| *bodies > 0) {
            self.found
                .problems
                .push(format!("{}: {bodies} chunks that snapshots need are not in it", self.own.path("packs", pack)));
        }
        for (pack, bodies) in elsewhere.into_iter().filter(|(pack, _)| !others.contains(pack)) {
            let is_pending = census.pending.contains_key(&pack);
            if !is_pending {
                let what = self.own.path("packs", pack);
                self.found
                    .problems
                    .push(format!("{what}: it is missing, and {bodies} chunks that snapshots need with it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
