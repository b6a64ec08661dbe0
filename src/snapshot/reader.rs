//! Reading snapshots: whole chunks, their hash checked before any byte is returned; and verify, which reads all of
//! them.

use super::bodies::{Bodies, Wanted, continues, spans};
use super::fetchers::IN_FLIGHT;
use super::in_order::{Head, Line, in_order};
use super::page::LeafEntry;
use super::repository::{Inner, Located, Repository};
use super::tree::{CACHE_PAGES, PageCache, Tree, Visit};
use super::{PublicKey, damaged};
use crate::cipher::{AtRest, SealedMut};
use crate::env::Rng;
use crate::error::{Error, Kind, Result};
use crate::units::{
    CHUNK, ChunkNo, Hash32, InstallationId, KeyTag, LineageId, SECTOR, SECTORS_PER_CHUNK, SectorMap, SnapshotId,
    chunks_in,
};
use crate::volume::parent::{Each, Parent};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open snapshot. Can be read from many threads.
#[derive(Clone)]
pub struct SnapshotReader {
    repo: Arc<Inner>,
    at: Located,
    tree: Tree,
    bodies: Bodies,
}

/// How far a signature can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Signed by the key that the verifier pinned.
    Attested,
    /// Consistent, but no key was pinned.
    Unattested,
}

/// Chunks that cannot be restored, and why.
#[derive(Debug)]
pub struct Bad {
    /// The first chunk.
    pub first: ChunkNo,
    /// Their number (more than one if a page is damaged: then holes among them count too).
    pub count: u64,
    /// The error.
    pub error: Error,
}

/// The result of verify.
#[derive(Debug)]
pub struct Verified {
    /// Whether the signing key was the pinned one.
    pub trust: Trust,
    /// The key that signed.
    pub public_key: PublicKey,
    /// Chunks in its tree.
    pub all: u64,
    /// Chunks whose sectors were read and verified, now or for another snapshot of the same run.
    pub chunks: u64,
    /// Size of their sectors in bytes.
    pub bytes: u64,
    /// Number of bad chunks, counting all that a damaged page covers; if 0, what was read restores bit for bit.
    pub bad_chunks: u64,
    /// The bad chunks, at most [`BAD_MAX`] entries.
    pub bad: Vec<Bad>,
}

/// Most entries in [`Verified::bad`].
pub const BAD_MAX: usize = 1000;

/// A run of verify over any number of snapshots: its settings, and what is known from the snapshots before.
#[derive(Default)]
pub struct Verify<'a> {
    pinned: Option<PublicKey>,
    sample: Option<(u32, &'a dyn Rng)>,
    /// Leaf pages whose chunks are all good, for snapshots share pages; and where their chunks were looked for.
    good: (HashSet<Hash32>, Option<(LineageId, Vec<InstallationId>)>),
    /// The pages that this run has read: nothing else vouches for what is in the repository.
    pages: Option<Arc<PageCache>>,
}

impl<'a> Verify<'a> {
    /// Begins a run. `pinned`: the public key that must have signed them. `sample`: reads only so many of a million chunks,
    /// chosen at random; all pages are read in any case.
    #[must_use]
    pub fn new(pinned: Option<PublicKey>, sample: Option<(u32, &'a dyn Rng)>) -> Self {
        Self { pinned, sample, good: Default::default(), pages: None }
    }
}

/// Called before each chunk with the number of those before it, and their total. `false`: stop.
pub type GoOn<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Repository {
    /// Opens a snapshot in whichever folder of the lineage it is, and verifies its manifest. A deleted one opens as
    /// long as its manifest exists, for volumes that still hydrate from it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Integrity`] if the manifest's signature, hash or content is wrong.
    pub fn open_snapshot(&self, lineage: LineageId, snapshot: SnapshotId) -> Result<SnapshotReader> {
        let at = self.inner.locate(lineage, snapshot)?;
        let tree = self.inner.tree(&at);
        let (repo, installations) = (self.inner.clone(), at.manifest.folders.clone());
        let bodies = Bodies { repo, home: at.folder, installations };
        Ok(SnapshotReader { repo: self.inner.clone(), at, tree, bodies })
    }

    /// Reads a snapshot and reports which chunks are bad.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the manifest is bad, or signed by another key than the pinned one; what the store reports.
    pub fn verify(
        &self,
        lineage: LineageId,
        snapshot: SnapshotId,
        run: &mut Verify<'_>,
        go_on: GoOn<'_>,
    ) -> Result<Verified> {
        let reader = self.open_snapshot(lineage, snapshot)?;
        let public_key = reader.at.public_key;
        if let Some(key) = run.pinned.filter(|key| *key != public_key) {
            let (signed, wanted) = (hex::encode(public_key), hex::encode(key));
            let what = format!("snapshot {snapshot}: signed by key {signed}, not by the trusted {wanted}");
            return Err(Error::new(Kind::Integrity, what)
                .hint("compare both with the signing key in `coffer status` on the machine that created the snapshot; if neither matches, do not use it"));
        }
        let trust = if run.pinned.is_some() { Trust::Attested } else { Trust::Unattested };
        let place = Some((lineage, reader.at.manifest.folders.clone()));
        if run.good.1 != place {
            run.good = (HashSet::new(), place);
        }
        let pages = run.pages.get_or_insert_with(|| Arc::new(PageCache::new(CACHE_PAGES))).clone();
        let tree = reader.tree.read_through(pages);
        let is_far = self.inner.objects.is_remote();
        let threads = if is_far { IN_FLIGHT } else { 1 };
        let checked = in_order(
            threads,
            || vec![0; CHUNK],
            |room, span: Vec<Wanted>| reader.check_span(&span, room),
            |line| {
                let (found, span) = (Found::default(), Vec::new());
                let mut check =
                    Check { reader: &reader, run, go_on, found, page: None, known: false, line, span, is_far };
                tree.walk(&mut check)?;
                check.end().map(|()| check.found)
            },
        );
        let Found { all, chunks, bytes, mut bad_chunks, mut bad } = checked?;
        let said = reader.at.manifest.chunks;
        if bad_chunks == 0 && all != said {
            let object = reader.at.folder.path("manifests", snapshot);
            let error = damaged(&object, 0, format_args!("it has {said} chunks, the tree has {all}"));
            bad_chunks = chunks_in(reader.at.manifest.size);
            bad.push(Bad { first: ChunkNo(0), count: bad_chunks, error });
        }
        Ok(Verified { trust, public_key, all, chunks, bytes, bad_chunks, bad })
    }
}

/// What a check has found so far.
#[derive(Default)]
struct Found {
    all: u64,
    chunks: u64,
    bytes: u64,
    bad_chunks: u64,
    bad: Vec<Bad>,
}

impl Found {
    fn add(&mut self, bad: Bad) {
        self.bad_chunks += bad.count;
        if self.bad.len() < BAD_MAX {
            self.bad.push(bad);
        }
    }
}

/// A leaf page that is being checked: what was found before it.
struct PageCheck {
    name: Hash32,
    chunks: u64,
    bad: u64,
}

/// A step of a check. What it found is counted in the order of the tree.
enum Step {
    /// A page begins.
    Page(Hash32),
    /// A chunk that is not read: it is not in the sample, or known to be good and of this length.
    Unread(Option<u32>),
    /// Chunks that are read together.
    Span(Vec<Wanted>),
    /// A page that cannot be read.
    Bad(Bad),
}

/// The results of reading a span, one for each chunk.
type Results = Vec<Result<()>>;

/// A check in progress: the walk over the tree runs ahead of the chunks that are read.
struct Check<'a, 'b, 'l> {
    reader: &'a SnapshotReader,
    run: &'a mut Verify<'b>,
    go_on: GoOn<'a>,
    found: Found,
    page: Option<PageCheck>,
    /// Whether the chunks of the page that the walk is in are known to be good.
    known: bool,
    line: &'a mut Line<'l, Step, Vec<Wanted>, Results>,
    /// The next chunks to be read together.
    span: Vec<Wanted>,
    is_far: bool,
}

impl Check<'_, '_, '_> {
    /// Remembers a page whose chunks were all read and are all good. A page above the leaves has no chunks of its own.
    fn end_page(&mut self) {
        let Some(page) = self.page.take() else { return };
        let has_chunks = self.found.chunks > page.chunks;
        if has_chunks && self.found.bad_chunks == page.bad && self.run.sample.is_none() {
            self.run.good.0.insert(page.name);
        }
    }

    /// Decides whether to read a chunk.
    fn is_chosen(&self) -> bool {
        self.run.sample.is_none_or(|(of_a_million, rng)| {
            let mut drawn = [0; 8];
            rng.fill(&mut drawn);
            u64::from_le_bytes(drawn) % 1_000_000 < u64::from(of_a_million)
        })
    }

    /// Has the chunks of the span read.
    fn read_span(&mut self) {
        let span = std::mem::take(&mut self.span);
        if !span.is_empty() {
            self.line.give(Step::Span(span.clone()), span);
        }
    }

    /// Counts what is done, and waits until there is room for more, or until `all` is done.
    fn count(&mut self, all: bool) -> Result<()> {
        while let Some(head) = self.line.next(all) {
            let (step, results) = match head {
                Head::Note(step) => (step, Vec::new()),
                Head::Done(step, Some(results)) => (step, results),
                Head::Done(_, None) => return Err(Error::new(Kind::Failed, "the check of a chunk was aborted")),
            };
            match step {
                Step::Page(name) => {
                    self.end_page();
                    self.page = Some(PageCheck { name, chunks: self.found.chunks, bad: self.found.bad_chunks });
                }
                Step::Unread(length) => self.count_chunk(length.map(Ok))?,
                Step::Span(span) => {
                    for (wanted, result) in span.iter().zip(results) {
                        let read = result.map(|()| wanted.entry.length);
                        self.count_chunk(Some(read.map_err(|error| Bad { first: wanted.chunk, count: 1, error })))?;
                    }
                }
                Step::Bad(bad) => self.found.add(bad),
            }
        }
        Ok(())
    }

    /// Counts a chunk; `None`: it was not read.
    fn count_chunk(&mut self, read: Option<std::result::Result<u32, Bad>>) -> Result<()> {
        if !(self.go_on)(self.found.all, self.reader.at.manifest.chunks) {
            return Err(Error::new(Kind::Interrupted, "the check was interrupted"));
        }
        self.found.all += 1;
        match read {
            Some(Ok(length)) => {
                self.found.chunks += 1;
                self.found.bytes += u64::from(length);
            }
            Some(Err(bad)) => self.found.add(bad),
            None => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.read_span();
        self.count(true)?;
        self.end_page();
        Ok(())
    }
}

impl Visit for Check<'_, '_, '_> {
    fn page(&mut self, name: Hash32) -> bool {
        self.read_span();
        self.known = self.run.good.0.contains(&name);
        self.line.note(Step::Page(name));
        true
    }

    fn chunk(&mut self, chunk: ChunkNo, entry: &LeafEntry) -> Result<()> {
        let wanted = Wanted { chunk, entry: *entry };
        if !self.is_chosen() || self.known {
            self.read_span();
            self.line.note(Step::Unread(self.known.then_some(entry.length)));
        } else {
            if !self.is_far || !continues(&self.span, &wanted) {
                self.read_span();
            }
            self.span.push(wanted);
        }
        self.count(false)
    }

    fn damaged(&mut self, first: ChunkNo, count: u64, error: Error) -> Result<()> {
        let end = chunks_in(self.reader.at.manifest.size);
        let count = count.min(end.saturating_sub(first.0));
        self.read_span();
        self.line.note(Step::Bad(Bad { first, count, error }));
        self.count(false)
    }
}

impl SnapshotReader {
    /// Returns its manifest and where that is.
    #[must_use]
    pub const fn located(&self) -> &Located {
        &self.at
    }

    /// Whether its repository is reached over a network: what fails may succeed later.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.repo.objects.is_remote()
    }

    /// Returns its tree.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Calls `each` with every chunk from `start` on that differs from `base`, another snapshot of the lineage, until it breaks;
    /// without one, with every chunk that is not a hole. The boolean says whether the chunk has any sector here. Reads only
    /// the differing parts of the trees.
    ///
    /// # Errors
    /// If a page cannot be read; the error of `each`.
    pub fn changed_since(
        &self,
        base: Option<&Self>,
        start: ChunkNo,
        each: &mut dyn FnMut(ChunkNo, bool) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let base = base.map_or_else(|| self.tree.emptied(), |base| base.tree.clone());
        base.diff(&self.tree, start, &mut |chunk, _, entry| each(chunk, !entry.is_hole()))
    }

    /// Calls `each` with the number of every chunk that is not a hole, ascending.
    ///
    /// # Errors
    /// If a page cannot be read; the error of `each`.
    pub fn for_each_chunk(&self, each: &mut dyn FnMut(ChunkNo) -> Result<()>) -> Result<()> {
        struct Each<'a>(&'a mut dyn FnMut(ChunkNo) -> Result<()>);
        impl Visit for Each<'_> {
            fn chunk(&mut self, chunk: ChunkNo, _: &LeafEntry) -> Result<()> {
                (self.0)(chunk)
            }
        }
        self.tree.walk(&mut Each(each))
    }

    /// Reads the sectors of a chunk that is not a hole, consecutively into `out`, and verifies them against its entry: from the
    /// cache of what was read before, or from its pack.
    fn body(&self, wanted: &Wanted, out: &mut [u8]) -> Result<()> {
        let hash = &wanted.entry.hash;
        if self.repo.kept.as_ref().is_some_and(|kept| kept.get(hash, out)) {
            return Ok(());
        }
        self.bodies.read(wanted, out)?;
        self.keep(hash, out);
        Ok(())
    }

    /// Keeps sectors for later reads, if there is a cache.
    fn keep(&self, hash: &Hash32, sectors: &[u8]) {
        if let Some(kept) = &self.repo.kept {
            kept.put(hash, sectors);
        }
    }

    /// Reads and checks the chunks of a span in the repository. `room`: a buffer for one chunk's sectors.
    fn check_span(&self, span: &[Wanted], room: &mut [u8]) -> Results {
        let one = |wanted: &Wanted| self.bodies.read(wanted, &mut room[..wanted.entry.length as usize]);
        if !self.repo.objects.is_remote() {
            return span.iter().map(one).collect();
        }
        let _slot = self.repo.slots.take();
        match self.bodies.read_span(span) {
            Some(read) => span.iter().map(|wanted| read.sectors(wanted).map(drop)).collect(),
            None => span.iter().map(one).collect(),
        }
    }

    /// Reads the chunks of a span, and hands each to `each`, until that returns `false`. Returns what that returned last.
    fn fetch_span(&self, span: &[Wanted], each: &Each<'_>) -> bool {
        // One body is read straight into its place.
        let read = if span.len() > 1 { self.bodies.read_span(span) } else { None };
        span.iter().all(|wanted| {
            each(wanted.chunk, &|out| match &read {
                Some(read) => {
                    let out = self.room_for(wanted.chunk, out)?;
                    let sectors = read.sectors(wanted).map_err(|e| self.of_this(e))?;
                    out[..sectors.len()].copy_from_slice(sectors);
                    self.keep(&wanted.entry.hash, sectors);
                    spread(wanted.entry.map, out);
                    Ok(Some(wanted.entry.tag))
                }
                None => self.fetch_wanted(wanted, out),
            })
        })
    }

    /// Fetches a chunk that is not a hole.
    fn fetch_wanted(&self, wanted: &Wanted, out: SealedMut<'_>) -> Result<Option<KeyTag>> {
        let out = self.room_for(wanted.chunk, out)?;
        // Safe: a page whose entry has another length than its map was rejected as damaged when it was read.
        self.body(wanted, &mut out[..wanted.entry.length as usize]).map_err(|e| self.of_this(e))?;
        spread(wanted.entry.map, out);
        Ok(Some(wanted.entry.tag))
    }

    fn room_for<'o>(&self, chunk: ChunkNo, out: SealedMut<'o>) -> Result<&'o mut [u8]> {
        if out.len() == CHUNK {
            return Ok(out.room(&OfPack));
        }
        Err(Error::new(Kind::Usage, format!("fetch chunk {chunk}: room for {} bytes", out.len())))
    }

    fn of_this(&self, err: Error) -> Error {
        err.context(format!("snapshot {}", self.at.manifest.snapshot))
    }

    /// Returns the chunk's hash in the signed tree; `None` if all of it is a hole.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn hash_of(&self, chunk: ChunkNo) -> Result<Option<Hash32>> {
        let entry = self.tree.entry(chunk)?;
        Ok((!entry.is_hole()).then_some(entry.hash))
    }
}

/// Moves the sectors in `map` from the front of a chunk to their places, and fills the rest with zeros.
fn spread(map: SectorMap, out: &mut [u8]) {
    let mut packed = map.count();
    if packed == SECTORS_PER_CHUNK {
        return;
    }
    // From the end: what is still to be moved is before its destination.
    for i in (0..SECTORS_PER_CHUNK).rev() {
        let to = i * SECTOR;
        if map.has(i) {
            packed -= 1;
            out.copy_within(packed * SECTOR..(packed + 1) * SECTOR, to);
        } else {
            out[to..to + SECTOR].fill(0);
        }
    }
}

/// Vouches for packs: bodies were sealed when [`super::writer::SnapshotWriter::put_chunk`] took them, and their hash is
/// checked.
struct OfPack;
impl AtRest for OfPack {}

impl Parent for SnapshotReader {
    fn size(&self) -> u64 {
        self.at.manifest.size
    }

    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap> {
        Ok(self.tree.entry(chunk)?.map)
    }

    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.tree.next(from)
    }

    fn fetch(&self, chunk: ChunkNo, mut out: SealedMut<'_>) -> Result<Option<KeyTag>> {
        let entry = self.tree.entry(chunk)?;
        if entry.is_hole() {
            out.clear();
            return Ok(None);
        }
        self.fetch_wanted(&Wanted { chunk, entry }, out)
    }

    fn is_far(&self) -> bool {
        self.repo.objects.is_remote()
    }

    fn fetch_many(&self, chunks: &[ChunkNo], each: &Each<'_>) {
        let mut wanted = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let kept = |e: &LeafEntry| self.repo.kept.as_ref().is_some_and(|kept| kept.has(&e.hash));
            match self.tree.entry(*chunk) {
                Ok(entry) if !entry.is_hole() && !kept(&entry) => wanted.push(Wanted { chunk: *chunk, entry }),
                // A hole, one that was read before, or one of a page that cannot be read.
                _ => {
                    if !each(*chunk, &|out| self.fetch(*chunk, out)) {
                        return;
                    }
                }
            }
        }
        let spans = spans(wanted);
        let threads = IN_FLIGHT.min(spans.len());
        let (left, stopped) = (Mutex::new(spans.into_iter()), AtomicBool::new(false));
        let work = || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(span) = left.lock().next() else { return };
                let _slot = self.repo.slots.take();
                if !self.fetch_span(&span, each) {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without more threads, this one does it all.
                let _ = std::thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
    }

    fn fetch_ahead(&self, chunks: &[ChunkNo], each: &Arc<Each<'static>>) {
        if !self.is_far() {
            return;
        }
        let reader = Arc::new(self.clone());
        for chunk in chunks.iter().copied() {
            let (reader, each) = (Arc::clone(&reader), Arc::clone(each));
            let job = move || {
                if reader.has_sectors(chunk).is_ok_and(|has| has) {
                    each(chunk, &|out| reader.fetch(chunk, out));
                }
            };
            if !self.repo.fetchers.submit(Box::new(job)) {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
