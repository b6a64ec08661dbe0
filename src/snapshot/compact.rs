//! Compaction: moves the bodies that are reached out of packs that are mostly garbage, then deletes those packs.
//!
//! Pages are signed and never rewritten, so a leaf entry names a pack forever; the redirect of that pack says where its
//! bodies are now. Order, for a batch of packs: the new pack is put and confirmed; every redirect that names an old one
//! is rewritten, so that each names final locations; the old packs are deleted. A reader looks in the pack, then in the
//! redirect. Killed at any point, each body is where the pack or the redirect says; the next run deletes a new pack that
//! nothing names, and an old pack whose bodies its redirect has moved.
//!
//! Bodies are copied while creates, sweeps and reads go on. That is safe: what is reached in a pack that was there at
//! the mark only shrinks, for a create takes no base that is neither live nor marked (`creates.rs`).
//! Only redirecting and deleting takes its turn among the sweeps.

use super::Folder;
use super::log::is_damage;
use super::mark::{Bodies, Listing, Marks, Needs, Reached};
use super::objects::{Listed, put_same};
use super::pack::{BARE, BodyHead, HEAD, PACK_TARGET, PackBuilder, parse_body, weight};
use super::redirect::{Move, Redirect};
use super::repository::{Inner, Repository};
use super::sweep::{Swept, Turn};
use crate::error::{Error, Kind, Result};
use crate::units::{LineageId, PackId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// After compaction, packs that may be compacted hold at most this share of garbage, in percent.
const GARBAGE: u64 = 10;
/// Bytes to read at once.
const SPAN: u64 = 8 << 20;
/// Bytes between two bodies that are rather read than skipped.
const GAP: u64 = 64 << 10;

/// Called with the number of bytes that are about to be copied, and that of all that will be. `false`: stop.
pub type GoOn<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// The same when the total is known.
type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// When to compact, and whether to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Threshold {
    /// Compact only if there are so many bytes of garbage.
    pub bytes: u64,
    /// And only if garbage is at least this share of the packs, in percent.
    pub percent: u64,
    /// Only count.
    pub dry_run: bool,
}

/// The result of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The result of the sweep that came first; in a dry run, of one that would have.
    pub swept: Swept,
    /// Bytes of packs that compaction removed, or would.
    pub removed: u64,
    /// Bytes of packs that it wrote in their place, or would.
    pub written: u64,
    /// Packs that it removed, or would.
    pub packs: u64,
    /// Bytes of bodies that are reached.
    pub live: u64,
    /// Bytes of garbage left in packs.
    pub garbage: u64,
    /// Those of it that are in packs which held snapshots reach.
    pub held: u64,
    /// Packs that could not be compacted because they are damaged, and why.
    pub damaged: Vec<String>,
}

/// How much of a pack is reached.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Its size in bytes.
    pub(super) size: u64,
    /// Bytes of it that are reached bodies, with their part of the footer.
    pub(super) live: u64,
    /// It is left alone.
    pub(super) stays: bool,
}

impl Usage {
    /// Returns the bytes that compaction would free.
    pub(super) const fn garbage(&self) -> u64 {
        let bare = if self.live == 0 { 0 } else { BARE };
        self.size.saturating_sub(self.live + bare)
    }
}

/// Where bodies are, and how much of each pack of the folder is reached.
#[derive(Default)]
pub(super) struct Census {
    pub(super) packs: BTreeMap<PackId, Usage>,
    /// Packs that a create is writing, or has staged, by now unreached; not among `packs`.
    pub(super) pending: BTreeMap<PackId, u64>,
    pub(super) redirects: HashMap<PackId, Arc<Redirect>>,
    /// Packs that are still there although a redirect has moved all their bodies.
    pub(super) superseded: BTreeSet<PackId>,
}

impl Census {
    /// Returns where a body is. `None`: in no pack of this folder.
    pub(super) fn place(&self, pack: PackId, offset: u32, length: u32) -> Option<(PackId, u32)> {
        let moved = self.redirects.get(&pack).and_then(|r| r.find(offset, length));
        let moved = moved.map(|m| (m.pack, m.new_offset)).filter(|(to, _)| self.packs.contains_key(to));
        moved.or_else(|| self.packs.contains_key(&pack).then_some((pack, offset)))
    }

    fn count(&mut self, bodies: &Bodies) {
        for (pack, named) in bodies {
            for (offset, Reached { length, stays }) in named {
                let Some(place) = self.place(*pack, *offset, *length) else { continue };
                if let Some(usage) = self.packs.get_mut(&place.0) {
                    usage.live += weight(*length);
                    usage.stays |= stays;
                }
            }
        }
        let moved = |pack: &PackId| bodies.contains_key(pack) && self.redirects.contains_key(pack);
        let unreached = self.packs.iter().filter(|(_, usage)| usage.live == 0).map(|(pack, _)| *pack);
        self.superseded = unreached.filter(moved).collect();
    }

    /// Chooses the packs to compact, those with most garbage first, until at most [`GARBAGE`] percent is left.
    fn choose(&self, threshold: &Threshold) -> BTreeSet<PackId> {
        let free = || self.packs.iter().filter(|(_, usage)| !usage.stays);
        let total: u64 = free().map(|(_, usage)| usage.size).sum();
        let mut garbage: u64 = free().map(|(_, usage)| usage.garbage()).sum();
        if garbage == 0 || garbage < threshold.bytes || garbage * 100 < total * threshold.percent {
            return BTreeSet::new();
        }
        let mut left = total;
        let mut order: Vec<_> = free().filter(|(_, usage)| usage.garbage() > 0).collect();
        order.sort_by_key(|(id, usage)| (usage.live * 1000 / usage.size.max(1), **id));
        let mut chosen = BTreeSet::new();
        for (pack, usage) in order {
            if garbage * 100 <= left * GARBAGE {
                break;
            }
            chosen.insert(*pack);
            garbage -= usage.garbage();
            left -= usage.garbage();
        }
        chosen
    }
}

/// A body that is to be moved.
#[derive(Debug, Clone, Copy)]
struct Body {
    /// Where its head is, in the pack that contains it.
    at: u32,
    length: u32,
    /// Pack and offset as leaf entries name it.
    named: (PackId, u32),
}

/// What to do with a body that was read and checked.
type Each<'a> = &'a mut dyn FnMut(&Body, &BodyHead, &[u8]) -> Result<()>;

/// Packs with the bodies to move out of them.
type Work = Vec<(PackId, Vec<Body>)>;

/// What is to be done.
#[derive(Default)]
struct Plan {
    batches: Vec<Work>,
    /// Packs whose redirects have moved them, with the new places.
    superseded: Work,
    sizes: BTreeMap<PackId, u64>,
    /// The packs whose redirects name a pack.
    naming: HashMap<PackId, BTreeSet<PackId>>,
}

impl Plan {
    fn make(census: &Census, chosen: &BTreeSet<PackId>, bodies: &Bodies) -> Self {
        let mut work: BTreeMap<PackId, Vec<Body>> = chosen.iter().map(|pack| (*pack, Vec::new())).collect();
        let mut superseded: BTreeMap<PackId, Vec<Body>> = BTreeMap::new();
        for (pack, named) in bodies {
            for (offset, Reached { length, .. }) in named {
                let Some((to, at)) = census.place(*pack, *offset, *length) else { continue };
                let body = Body { at, length: *length, named: (*pack, *offset) };
                if let Some(work) = work.get_mut(&to) {
                    work.push(body);
                }
                if census.superseded.contains(pack) {
                    superseded.entry(*pack).or_default().push(body);
                }
            }
        }
        superseded.keys().for_each(|pack| drop(work.remove(pack)));
        let mut naming: HashMap<PackId, BTreeSet<PackId>> = HashMap::new();
        for (old, redirect) in &census.redirects {
            for to in redirect.moves.iter().map(|m| m.pack).filter(|to| work.contains_key(to)) {
                naming.entry(to).or_default().insert(*old);
            }
        }
        let sizes = census.packs.iter().map(|(pack, usage)| (*pack, usage.size)).collect();
        Self { batches: batches(work), superseded: superseded.into_iter().collect(), sizes, naming }
    }

    /// Returns the number of bytes to read.
    fn total(&self) -> u64 {
        let all = self.batches.iter().chain(std::iter::once(&self.superseded)).flatten();
        all.flat_map(|(_, bodies)| bodies).map(|b| weight(b.length)).sum()
    }

    fn size(&self, pack: PackId) -> u64 {
        self.sizes.get(&pack).copied().unwrap_or(0)
    }
}

/// Divides packs into batches whose bodies fill one pack. Those without any body come first: they give back space.
fn batches(work: BTreeMap<PackId, Vec<Body>>) -> Vec<Work> {
    let mut order: Vec<_> = work.into_iter().collect();
    order.sort_by_key(|(id, bodies)| (!bodies.is_empty(), *id));
    let (mut all, mut batch, mut fill) = (Vec::new(), Work::new(), 0);
    for (pack, mut bodies) in order {
        bodies.sort_by_key(|b| b.at);
        let more: u64 = bodies.iter().map(|b| weight(b.length)).sum();
        if fill > 0 && fill + more > PACK_TARGET as u64 {
            all.push(std::mem::take(&mut batch));
            fill = 0;
        }
        fill += more;
        batch.push((pack, bodies));
    }
    all.extend((!batch.is_empty()).then_some(batch));
    all
}

/// A batch whose bodies were copied, in memory.
struct Copied {
    /// The new pack; `None`: there was no body.
    new: Option<(PackId, Bytes)>,
    /// By pack and offset of a copied body, its offset in the new pack.
    moved: HashMap<(PackId, u32), u32>,
    /// The packs whose bodies were all copied.
    packs: Vec<PackId>,
}

/// The compaction of a folder, one at a time.
struct Compaction<'a>(&'a Inner, Folder);

impl<'a> Compaction<'a> {
    fn begin(inner: &'a Inner, own: Folder) -> Result<Self> {
        if inner.creates.lock().begin_compaction(own) {
            return Ok(Self(inner, own));
        }
        Err(Error::new(Kind::Busy, format!("collect garbage of lineage {}: that is under way", own.lineage))
            .hint("wait until it has ended"))
    }
}

impl Drop for Compaction<'_> {
    fn drop(&mut self) {
        self.0.creates.lock().end_compaction(self.1);
    }
}

impl Repository {
    /// Lists the lineages in which this installation has a folder.
    ///
    /// # Errors
    /// What the store reports; [`Kind::ReadOnly`] without an author.
    pub fn own_lineages(&self) -> Result<Vec<LineageId>> {
        let mut all = Vec::new();
        for lineage in self.lineages()? {
            if self.inner.folders(lineage)?.contains(&self.inner.own(lineage)?) {
                all.push(lineage);
            }
        }
        Ok(all)
    }

    /// Sweeps this installation's folder of `lineage`, then compacts its packs. `go_on` sets the pace, and can stop it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if that is under way; [`Kind::Interrupted`] if it was stopped; as [`Repository::sweep_for`]. A
    /// repeat continues.
    pub fn collect(
        &self,
        lineage: LineageId,
        needs: &dyn Needs,
        threshold: &Threshold,
        go_on: GoOn<'_>,
    ) -> Result<Collected> {
        let inner = &*self.inner;
        let own = inner.own(lineage)?;
        let _alone = Compaction::begin(inner, own)?;
        let mut done = Collected::default();
        let plan = inner.plan(own, needs, threshold, &mut done)?;
        let total = plan.total();
        let go_on: Pace<'_> = &mut |bytes| go_on(bytes, total);
        for (pack, bodies) in &plan.superseded {
            inner.finish(own, &plan, *pack, bodies, go_on, &mut done)?;
        }
        for batch in &plan.batches {
            let copied = inner.copy(own, batch, go_on, &mut done)?;
            inner.put_pack(own, &copied, &mut done)?;
            inner.replace(own, &plan, batch, &copied, &mut done)?;
        }
        if !threshold.dry_run && done.swept.blind.is_none() {
            inner.trim_log(own)?;
        }
        done.garbage = (done.garbage + done.written).saturating_sub(done.removed);
        Ok(done)
    }
}

impl Inner {
    /// Marks and sweeps, and decides what to compact.
    fn plan(&self, own: Folder, needs: &dyn Needs, threshold: &Threshold, done: &mut Collected) -> Result<Plan> {
        let _turn = Turn::wait_for(self, own);
        let there = Listing::read(self, own)?;
        let mut marks = if threshold.dry_run { Marks::of_looking() } else { Marks::of_bodies() };
        self.mark(own, &there, needs, &mut marks)?;
        done.swept.refs = std::mem::take(&mut marks.refs);
        done.swept.blind = marks.blind.take();
        if done.swept.blind.is_some() {
            return Ok(Plan::default());
        }
        let census = self.census(own, &there, needs, &marks);
        if threshold.dry_run {
            self.count_unmarked(own, &there, &marks, &mut done.swept);
        } else {
            self.delete_unmarked(own, &there, &marks, &mut done.swept)?;
        }
        let chosen = census.choose(threshold);
        let usages = || census.packs.values();
        done.live = usages().map(|usage| usage.live).sum();
        done.garbage = usages().map(Usage::garbage).sum();
        done.held = usages().filter(|usage| usage.stays).map(Usage::garbage).sum();
        if threshold.dry_run {
            for usage in chosen.iter().filter_map(|pack| census.packs.get(pack)) {
                done.packs += 1;
                done.removed += usage.size;
                done.written += usage.size - usage.garbage();
            }
            return Ok(Plan::default());
        }
        Ok(marks.bodies.as_ref().map_or_else(Plan::default, |bodies| Plan::make(&census, &chosen, bodies)))
    }

    /// Counts what is reached in each pack that is marked.
    pub(super) fn census(&self, own: Folder, there: &Listing, needs: &dyn Needs, marks: &Marks) -> Census {
        let mut census = Census::default();
        let needed = needs.packs();
        for object in &there.packs {
            let Some(pack) = object.name().parse().ok() else { continue };
            if needed.contains(&pack) || self.creates.lock().spares(own, &object.path) {
                census.pending.insert(pack, object.size);
            } else if marks.packs.contains(&pack) {
                census.packs.insert(pack, Usage { size: object.size, ..Usage::default() });
            }
        }
        census.redirects.clone_from(&marks.redirects);
        if let Some(bodies) = &marks.bodies {
            census.count(bodies);
        }
        census
    }

    /// Deletes a pack that an interrupted compaction left behind: its redirect has moved its bodies.
    fn finish(
        &self,
        own: Folder,
        plan: &Plan,
        pack: PackId,
        bodies: &[Body],
        go_on: Pace<'_>,
        done: &mut Collected,
    ) -> Result<()> {
        let Some(redirect) = self.read_redirect(own, pack)? else { return Ok(()) };
        let mut places: BTreeMap<PackId, Vec<Body>> = BTreeMap::new();
        for body in bodies {
            let Some(to) = redirect.find(body.named.1, body.length) else { return Ok(()) };
            places.entry(to.pack).or_default().push(Body { at: to.new_offset, ..*body });
        }
        for (to, mut bodies) in places {
            bodies.sort_by_key(|b| b.at);
            match self.read_bodies(own, to, &bodies, go_on, &mut |_, _, _| Ok(())) {
                Err(e) if is_damage(&e) || e.kind() == Kind::NotFound => {
                    done.damaged.push(e.line());
                    return Ok(());
                }
                other => other?,
            }
        }
        let _turn = Turn::wait_for(self, own);
        self.remove(own, plan, &[pack], done)
    }

    /// Copies the bodies of a batch into a new pack. A damaged pack is left alone, and so is one that a sweep has deleted.
    fn copy(&self, own: Folder, batch: &Work, go_on: Pace<'_>, done: &mut Collected) -> Result<Copied> {
        let mut new = PackBuilder::new(PackId::draw(&*self.env.rng), own.lineage);
        let (mut moved, mut packs) = (HashMap::new(), Vec::new());
        for (pack, bodies) in batch {
            let mut keep = |body: &Body, head: &_, sectors: &_| {
                moved.insert((*pack, body.at), new.copy(head, sectors)?);
                Ok(())
            };
            match self.read_bodies(own, *pack, bodies, go_on, &mut keep) {
                Ok(()) => packs.push(*pack),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) if is_damage(&e) => done.damaged.push(e.line()),
                Err(e) => return Err(e),
            }
        }
        let new = (!new.is_empty()).then(|| (new.id(), Bytes::from(new.seal())));
        Ok(Copied { new, moved, packs })
    }

    /// Reads bodies of a pack, ascending by offset, and checks them. Neighbours are read together.
    fn read_bodies(&self, own: Folder, pack: PackId, bodies: &[Body], go_on: Pace<'_>, each: Each<'_>) -> Result<()> {
        let object = own.path("packs", pack);
        let end = |b: &Body| u64::from(b.at) + HEAD as u64 + u64::from(b.length);
        let mut rest = bodies;
        while let Some(first) = rest.first() {
            let start = u64::from(first.at);
            let joins = |w: &&[Body]| w.iter().all(|b| end(b) - start <= SPAN) && apart(w, &end) <= GAP;
            let more = rest.windows(2).take_while(joins).count();
            let (now, later) = rest.split_at((more + 1).min(rest.len()));
            rest = later;
            let bytes: u64 = now.iter().map(|b| weight(b.length)).sum();
            if !go_on(bytes) {
                return Err(Error::new(Kind::Interrupted, "collect garbage: stopped")
                    .hint("the same command continues where it ended"));
            }
            let last = now.iter().map(end).max().unwrap_or(start);
            let raw = self.objects.get_range(&object, start..last)?;
            for body in now {
                let at = (u64::from(body.at) - start) as usize;
                let (head, sectors) = parse_body(&object, body.at as usize, raw.get(at..).unwrap_or_default())?;
                if head.length != body.length {
                    let why = format_args!("the body has {} bytes, its entry says {}", head.length, body.length);
                    return Err(super::damaged(&object, body.at as usize, why));
                }
                each(body, &head, sectors)?;
            }
        }
        Ok(())
    }

    /// Puts and confirms the new pack of a batch. Sweeps leave it alone.
    fn put_pack(&self, own: Folder, copied: &Copied, done: &mut Collected) -> Result<()> {
        let Some((id, bytes)) = &copied.new else { return Ok(()) };
        let object = own.path("packs", id);
        self.creates.lock().announce_compacted(own, object.clone());
        put_same(&*self.objects, &object, bytes)?;
        let there = self.objects.head(&object)?;
        if there != Some(bytes.len() as u64) {
            let why = format_args!("{} bytes were written, but {there:?} are present", bytes.len());
            return Err(super::damaged(&object, 0, why));
        }
        done.written += bytes.len() as u64;
        Ok(())
    }

    /// Rewrites the redirects of a batch, whose new pack is there, and deletes the old packs.
    fn replace(&self, own: Folder, plan: &Plan, batch: &Work, copied: &Copied, done: &mut Collected) -> Result<()> {
        let _turn = Turn::wait_for(self, own);
        let mut packs = Vec::new();
        for pack in &copied.packs {
            let object = own.path("packs", pack);
            // A sweep may have deleted it meanwhile.
            let is_spared = self.creates.lock().spares(own, &object);
            if !is_spared && self.objects.head(&object)?.is_some() {
                packs.push(*pack);
            }
        }
        if packs.is_empty() {
            return Ok(());
        }
        let named = batch.iter().filter(|(pack, _)| packs.contains(pack)).flat_map(|(_, bodies)| bodies);
        let mut direct: BTreeMap<PackId, Vec<Body>> = BTreeMap::new();
        for (pack, bodies) in batch.iter().filter(|(pack, _)| packs.contains(pack)) {
            direct.entry(*pack).or_default().extend(bodies.iter().filter(|b| b.named.0 == *pack));
        }
        let mut rewritten: BTreeSet<PackId> =
            packs.iter().filter_map(|p| plan.naming.get(p)).flatten().copied().collect();
        rewritten.extend(named.map(|b| b.named.0));
        for old in rewritten {
            self.rewrite(own, old, &packs, copied, direct.get(&old).map_or(&[], |d| d))?;
        }
        self.remove(own, plan, &packs, done)
    }

    /// Rewrites the redirect of `old`, from which `packs` are going to vanish. `direct`: the bodies that are in it itself.
    fn rewrite(&self, own: Folder, old: PackId, packs: &[PackId], copied: &Copied, direct: &[Body]) -> Result<()> {
        let current = self.read_redirect(own, old)?;
        // Nobody reaches the pack any more: a sweep has deleted its redirect.
        if current.is_none() && direct.is_empty() {
            return Ok(());
        }
        let new = copied.new.as_ref().map(|(id, _)| *id);
        let place = |pack: PackId, at: u32| Some((new?, *copied.moved.get(&(pack, at))?));
        let mut moves: BTreeMap<u32, Move> = BTreeMap::new();
        for m in current.iter().flat_map(|r| &r.moves) {
            if !packs.contains(&m.pack) {
                moves.insert(m.offset, *m);
            } else if let Some((pack, new_offset)) = place(m.pack, m.new_offset) {
                moves.insert(m.offset, Move { pack, new_offset, ..*m });
            }
        }
        for body in direct {
            if let Some((pack, new_offset)) = place(old, body.at) {
                moves.insert(body.at, Move { offset: body.at, length: body.length, pack, new_offset });
            }
        }
        self.put_redirect(own, old, moves)
    }

    /// Deletes packs that nothing needs any more.
    fn remove(&self, own: Folder, plan: &Plan, packs: &[PackId], done: &mut Collected) -> Result<()> {
        for pack in packs {
            let (path, size) = (own.path("packs", pack), plan.size(*pack));
            let mut taken = Swept::default();
            self.take(own, &Listed { path, size, modified: self.env.now() }, &mut taken)?;
            done.packs += taken.deleted;
            done.removed += taken.freed;
        }
        Ok(())
    }
}

/// Returns the number of bytes between neighbours.
fn apart(neighbours: &[Body], end: &impl Fn(&Body) -> u64) -> u64 {
    match neighbours {
        [a, b] => u64::from(b.at).saturating_sub(end(a)),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "compact_tests.rs"]
mod tests;
