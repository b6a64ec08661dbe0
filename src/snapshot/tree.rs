//! A snapshot's tree, from its root to a chunk's entry: lookup, walk, diff. Pages are read through a bounded cache.

use super::creates::Shape;
use super::objects::Objects;
use super::page::{FAN, LeafEntry, PAGE_MAX, Page};
use super::read_cache::ReadCache;
use super::{Folder, damaged};
use crate::error::{Error, Kind, Result};
use crate::units::{ChunkNo, Hash32, InstallationId, LineageId, PackId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Pages that a repository keeps in memory (at most 20 KiB each: 10 MiB).
pub const CACHE_PAGES: usize = 512;

/// The most recently used pages, by name. Cached pages have been verified.
pub struct PageCache {
    room: usize,
    held: Mutex<Held>,
}

/// Pages by name, each with the tick of its last use; and the current tick.
type Held = (HashMap<Hash32, (Page, u64)>, u64);

impl PageCache {
    /// Makes a cache for `room` pages.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { room: room.max(1), held: Mutex::new((HashMap::new(), 0)) }
    }
    #[cfg(test)]
    pub(super) fn clear(&self) {
        self.held.lock().0.clear();
    }
    fn get(&self, name: &Hash32) -> Option<Page> {
        let mut held = self.held.lock();
        let (map, tick) = &mut *held;
        *tick += 1;
        let found = map.get_mut(name)?;
        found.1 = *tick;
        Some(found.0.clone())
    }
    fn put(&self, name: Hash32, page: Page) {
        let mut held = self.held.lock();
        let (map, tick) = &mut *held;
        if map.len() >= self.room {
            // A linear scan: the cache is small, and a miss has just cost a read.
            if let Some(oldest) = map.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| *name) {
                map.remove(&oldest);
            }
        }
        *tick += 1;
        map.insert(name, (page, *tick));
    }
}

/// A visitor of a tree.
pub trait Visit {
    /// Called for a page, before it is read. `false`: skip it.
    fn page(&mut self, name: Hash32) -> bool {
        let _ = name;
        true
    }
    /// Called for a chunk that is not a hole.
    ///
    /// # Errors
    /// Ends the walk.
    fn chunk(&mut self, chunk: ChunkNo, entry: &LeafEntry) -> Result<()>;
    /// Called for a page that cannot be read, and the chunks that it covers.
    ///
    /// # Errors
    /// Ends the walk, which is the default.
    fn damaged(&mut self, first: ChunkNo, count: u64, error: Error) -> Result<()> {
        let _ = (first, count);
        Err(error)
    }
}

/// A snapshot's tree.
#[derive(Clone)]
pub struct Tree {
    objects: Arc<dyn Objects>,
    cache: Arc<PageCache>,
    /// Pages that were read before, in files.
    kept: Option<Arc<ReadCache>>,
    lineage: LineageId,
    folders: Vec<InstallationId>,
    root: Hash32,
    depth: u8,
}

/// A node at some level: above the root of a shallower tree there are virtual nodes whose first child is the root.
enum Node {
    Nothing,
    Above(Hash32),
    Page(Page),
}

impl Node {
    fn child(&self, i: usize) -> Hash32 {
        match self {
            Self::Above(root) if i == 0 => *root,
            Self::Nothing | Self::Above(_) => Hash32::default(),
            Self::Page(page) => page.child(i),
        }
    }
    fn leaf(&self, i: usize) -> LeafEntry {
        match self {
            Self::Page(page) => page.leaf(i),
            Self::Nothing | Self::Above(_) => LeafEntry::default(),
        }
    }
}

/// Returns the number of chunks that a page of `level` covers.
const fn span(level: u8) -> u64 {
    (FAN as u64).pow(level as u32 + 1)
}

impl Tree {
    /// Makes the tree with that root and depth, whose pages are in one of `folders`.
    #[must_use]
    pub fn new(
        objects: Arc<dyn Objects>,
        cache: Arc<PageCache>,
        lineage: LineageId,
        folders: Vec<InstallationId>,
        root: Hash32,
        depth: u8,
    ) -> Self {
        Self { objects, cache, kept: None, lineage, folders, root, depth }
    }
    /// Keeps what it reads in files, and reads those first.
    pub(super) fn kept_in(self, kept: Option<Arc<ReadCache>>) -> Self {
        Self { kept, ..self }
    }
    /// Returns the same tree, which reads what is not in `cache` from the repository.
    pub(super) fn read_through(&self, cache: Arc<PageCache>) -> Self {
        Self { cache, kept: None, ..self.clone() }
    }
    /// Returns the hash of the root page.
    #[must_use]
    pub const fn root(&self) -> Hash32 {
        self.root
    }
    /// Returns the number of levels.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    fn page(&self, level: u8, index: u64, name: Hash32) -> Result<Page> {
        if let Some(page) = self.cache.get(&name) {
            // A tree may reference a page at a wrong place: a page from the cache was checked for its own level and
            // index.
            if page.level() == level && page.index() == index {
                return Ok(page);
            }
        }
        if let Some(kept) = self.kept.as_ref().and_then(|kept| kept.get_all(&name, PAGE_MAX)) {
            let page = Page::parse(&format!("page {name}"), Bytes::from(kept), name, level, index)?;
            self.cache.put(name, page.clone());
            return Ok(page);
        }
        for installation in &self.folders {
            let object = Folder { lineage: self.lineage, installation: *installation }.path("pages", name);
            match self.objects.get(&object, PAGE_MAX) {
                Ok(bytes) => {
                    let page = Page::parse(&object, bytes.clone(), name, level, index)?;
                    if let Some(kept) = &self.kept {
                        kept.put(&name, &bytes);
                    }
                    self.cache.put(name, page.clone());
                    return Ok(page);
                }
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let object = format!("{}/*/pages/{name}", self.lineage);
        Err(damaged(&object, 0, format_args!("page {index} of level {level} is missing in each of its folders")))
    }

    fn node(&self, level: u8, index: u64, name: Hash32) -> Result<Node> {
        if name.is_zero() {
            Ok(Node::Nothing)
        } else if level >= self.depth {
            Ok(Node::Above(name))
        } else {
            self.page(level, index, name).map(Node::Page)
        }
    }

    /// Returns what page `index` of `level`, with this name, references.
    pub(super) fn shape(&self, level: u8, index: u64, name: Hash32) -> Result<Shape> {
        let node = self.node(level, index, name)?;
        let first = index * FAN as u64;
        if level == 0 {
            let mut bodies: HashMap<PackId, Vec<(u32, u32)>> = HashMap::new();
            for entry in (0..FAN).map(|i| node.leaf(i)).filter(|e| !e.is_hole()) {
                bodies.entry(entry.pack()).or_default().push((entry.offset, entry.length));
            }
            return Ok(Shape::Bodies(bodies.into_iter().collect()));
        }
        let children = (0..FAN).map(|i| (first + i as u64, node.child(i)));
        Ok(Shape::Pages(children.filter(|(_, name)| !name.is_zero()).collect()))
    }

    /// Returns the name of page `index` of `level`; zeros if it is all holes. For a level above the root, the root's
    /// (index 0).
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn name_of(&self, level: u8, index: u64) -> Result<Hash32> {
        let mut name = self.root;
        if level >= self.depth {
            return Ok(if index == 0 { name } else { Hash32::default() });
        }
        if index.checked_mul(span(level)).is_none_or(|first| first >= span(self.depth - 1)) {
            return Ok(Hash32::default());
        }
        for at in ((level + 1)..self.depth).rev() {
            let here = index / (span(at) / span(level));
            let below = index / (span(at - 1) / span(level));
            name = self.node(at, here, name)?.child((below % FAN as u64) as usize);
        }
        Ok(name)
    }

    /// Returns the entry of `chunk`; a hole past the tree's end.
    ///
    /// # Errors
    /// If a page cannot be read, or is damaged.
    pub fn entry(&self, chunk: ChunkNo) -> Result<LeafEntry> {
        let index = chunk.0 / FAN as u64;
        if chunk.0 >= span(self.depth - 1) {
            return Ok(LeafEntry::default());
        }
        let name = self.name_of(0, index)?;
        Ok(self.node(0, index, name)?.leaf((chunk.0 % FAN as u64) as usize))
    }

    /// Returns all 256 entries of leaf page `index`.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn leaves(&self, index: u64) -> Result<Vec<LeafEntry>> {
        let node = self.node(0, index, self.name_of(0, index)?)?;
        Ok((0..FAN).map(|i| node.leaf(i)).collect())
    }

    /// Returns all 256 children of interior page `index` of `level`.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn children(&self, level: u8, index: u64) -> Result<Vec<Hash32>> {
        let node = self.node(level, index, self.name_of(level, index)?)?;
        Ok((0..FAN).map(|i| node.child(i)).collect())
    }

    /// Returns the first chunk at or after `from` that is not a hole; `None`: only holes up to the end. Reads only the
    /// pages on the way.
    ///
    /// # Errors
    /// As [`Tree::entry`].
    pub fn next(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.next_below(self.depth - 1, 0, from.0)
    }

    fn next_below(&self, level: u8, index: u64, from: u64) -> Result<Option<ChunkNo>> {
        if level == 0 {
            let first = index * FAN as u64;
            let node = self.node(0, index, self.name_of(0, index)?)?;
            let found = (from.max(first)..first + FAN as u64).find(|c| !node.leaf((c - first) as usize).is_hole());
            return Ok(found.map(ChunkNo));
        }
        let node = self.node(level, index, self.name_of(level, index)?)?;
        let first = index * FAN as u64;
        // Skip what is before `from` without reading it.
        for child in (from / span(level - 1)).max(first)..first + FAN as u64 {
            if node.child((child - first) as usize).is_zero() {
                continue;
            }
            if let Some(found) = self.next_below(level - 1, child, from)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Visits every page and every chunk that is not a hole, in order.
    ///
    /// # Errors
    /// The error of `visit`.
    pub fn walk(&self, visit: &mut dyn Visit) -> Result<()> {
        self.walk_node(self.depth - 1, 0, self.root, visit)
    }

    fn walk_node(&self, level: u8, index: u64, name: Hash32, visit: &mut dyn Visit) -> Result<()> {
        if name.is_zero() || !visit.page(name) {
            return Ok(());
        }
        let node = match self.node(level, index, name) {
            Ok(node) => node,
            Err(e) => return visit.damaged(ChunkNo(index * span(level)), span(level), e),
        };
        for i in 0..FAN {
            let below = index * FAN as u64 + i as u64;
            if level > 0 {
                self.walk_node(level - 1, below, node.child(i), visit)?;
                continue;
            }
            let entry = node.leaf(i);
            if !entry.is_hole() {
                visit.chunk(ChunkNo(below), &entry)?;
            }
        }
        Ok(())
    }

    /// Returns the tree of a snapshot of this lineage that is all holes.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { root: Hash32::default(), depth: 1, ..self.clone() }
    }

    /// Calls `each` with every chunk from `start` on whose content differs, its entry here and its entry in `other`, until it
    /// breaks. Does not read subtrees with equal hashes, nor any before `start`.
    ///
    /// # Errors
    /// If a page cannot be read; the error of `each`.
    pub fn diff(&self, other: &Self, start: ChunkNo, each: Differs<'_>) -> Result<()> {
        let top = self.depth.max(other.depth) - 1;
        self.diff_node(other, (top, 0), (self.root, other.root), start, each).map(drop)
    }

    fn diff_node(
        &self,
        other: &Self,
        (level, index): (u8, u64),
        (ours, theirs): (Hash32, Hash32),
        start: ChunkNo,
        each: Differs<'_>,
    ) -> Result<ControlFlow<()>> {
        // A root above its own level covers only child 0, so equal names mean equal subtrees only if both are at the
        // same level.
        let same_level = (level >= self.depth) == (level >= other.depth);
        if ours == theirs && (same_level || ours.is_zero()) {
            return Ok(ControlFlow::Continue(()));
        }
        let (a, b) = (self.node(level, index, ours)?, other.node(level, index, theirs)?);
        let first = index * FAN as u64;
        let below = if level == 0 { 1 } else { span(level - 1) };
        for at in (start.0 / below).max(first)..first + FAN as u64 {
            let i = (at - first) as usize;
            let flow = if level > 0 {
                self.diff_node(other, (level - 1, at), (a.child(i), b.child(i)), start, each)?
            } else {
                let (x, y) = (a.leaf(i), b.leaf(i));
                if x.same_content(&y) { ControlFlow::Continue(()) } else { each(ChunkNo(at), &x, &y)? }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The callback of [`Tree::diff`].
pub type Differs<'a> = &'a mut dyn FnMut(ChunkNo, &LeafEntry, &LeafEntry) -> Result<ControlFlow<()>>;

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
