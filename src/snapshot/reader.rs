//! Reading snapshots: whole chunks, their hash checked before any byte is returned; and verify, which reads all of
//! them.

use super::pack::{self, BodyHead, check_body};
use super::page::LeafEntry;
use super::redirect::Redirect;
use super::repository::{Inner, Located, Repository};
use super::tree::{Tree, Visit};
use super::{Folder, PublicKey, damaged};
use crate::cipher::{AtRest, SealedMut};
use crate::env::Rng;
use crate::error::{Error, Kind, Result};
use crate::units::{
    CHUNK, ChunkNo, Hash32, InstallationId, KeyTag, LineageId, PackId, SECTOR, SECTORS_PER_CHUNK, SectorMap,
    SnapshotId, chunks_in,
};
use crate::volume::parent::Parent;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// An open snapshot. Can be read from many threads.
#[derive(Clone)]
pub struct SnapshotReader {
    repo: Arc<Inner>,
    at: Located,
    tree: Tree,
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
}

impl<'a> Verify<'a> {
    /// Begins a run. `pinned`: the public key that must have signed them. `sample`: reads only so many of a million chunks,
    /// chosen at random; all pages are read in any case.
    #[must_use]
    pub fn new(pinned: Option<PublicKey>, sample: Option<(u32, &'a dyn Rng)>) -> Self {
        Self { pinned, sample, good: Default::default() }
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
        Ok(SnapshotReader { repo: self.inner.clone(), at, tree })
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
        let (room, found) = (vec![0; CHUNK], Found::default());
        let mut check = Check { reader: &reader, run, go_on, found, page: None, room };
        reader.tree.walk(&mut check)?;
        check.end_page();
        let Found { all, chunks, bytes, mut bad_chunks, mut bad } = check.found;
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

/// A leaf page that is being checked: what was found before it, and whether its chunks are known to be good.
struct PageCheck {
    name: Hash32,
    chunks: u64,
    bad: u64,
    known: bool,
}

struct Check<'a, 'b> {
    reader: &'a SnapshotReader,
    run: &'a mut Verify<'b>,
    go_on: GoOn<'a>,
    found: Found,
    page: Option<PageCheck>,
    /// A buffer for one chunk's sectors.
    room: Vec<u8>,
}

impl Check<'_, '_> {
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
}

impl Visit for Check<'_, '_> {
    fn page(&mut self, name: Hash32) -> bool {
        self.end_page();
        let (chunks, bad, known) = (self.found.chunks, self.found.bad_chunks, self.run.good.0.contains(&name));
        self.page = Some(PageCheck { name, chunks, bad, known });
        true
    }

    fn chunk(&mut self, chunk: ChunkNo, entry: &LeafEntry) -> Result<()> {
        if !(self.go_on)(self.found.all, self.reader.at.manifest.chunks) {
            return Err(Error::new(Kind::Interrupted, "the check was interrupted"));
        }
        self.found.all += 1;
        if !self.is_chosen() {
            return Ok(());
        }
        let is_known = self.page.as_ref().is_some_and(|page| page.known);
        let mut read = || self.reader.body(chunk, entry, &mut self.room[..entry.length as usize]);
        match if is_known { Ok(()) } else { read() } {
            Ok(()) => {
                self.found.chunks += 1;
                self.found.bytes += u64::from(entry.length);
            }
            Err(error) => self.found.add(Bad { first: chunk, count: 1, error }),
        }
        Ok(())
    }

    fn damaged(&mut self, first: ChunkNo, count: u64, error: Error) -> Result<()> {
        let end = chunks_in(self.reader.at.manifest.size);
        let count = count.min(end.saturating_sub(first.0));
        self.found.add(Bad { first, count, error });
        Ok(())
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

    /// Reads the sectors of a chunk that is not a hole, consecutively into `out`, and verifies them against its entry.
    fn body(&self, chunk: ChunkNo, entry: &LeafEntry, out: &mut [u8]) -> Result<()> {
        let mut raw = [0u8; pack::HEAD];
        let (object, offset) = self.find(entry, &mut raw, out)?;
        let head = check_body(&object, offset, &raw, out).map_err(|e| e.context(format_args!("chunk {chunk}")))?;
        let wanted = BodyHead { chunk, map: entry.map, tag: entry.tag, length: entry.length, hash: entry.hash };
        if head != wanted {
            return Err(damaged(
                &object,
                offset,
                format_args!("the body does not belong to chunk {chunk} of the signed tree"),
            ));
        }
        Ok(())
    }

    /// Reads where a redirect that is known says; else where the entry says; if the pack is in none of the folders, follows
    /// its redirect. That may be rewritten before what it names is read: then it is followed again.
    fn find(&self, entry: &LeafEntry, head: &mut [u8], out: &mut [u8]) -> Result<(String, usize)> {
        let (pack, parts) = (entry.pack(), &mut [head, out]);
        let find = |redirect: &Redirect| redirect.find(entry.offset, entry.length).map(|m| (m.pack, m.new_offset));
        for folder in self.folders() {
            let known = self.repo.moved.lock().get(folder, pack).flatten();
            if let Some((pack, offset)) = known.as_deref().and_then(find)
                && let Some(found) = self.read(pack, offset, parts)?
            {
                return Ok(found);
            }
        }
        if let Some(found) = self.read(pack, entry.offset, parts)? {
            return Ok(found);
        }
        for folder in self.folders() {
            let mut tried = None;
            // Each turn but the last takes a whole compaction.
            while let Some(to) = self.repo.read_redirect(folder, pack)?.as_deref().and_then(find) {
                if let Some(found) = self.read(to.0, to.1, parts)? {
                    return Ok(found);
                }
                if tried.replace(to) == Some(to) {
                    break;
                }
            }
        }
        let object = self.at.folder.path("packs", pack);
        Err(damaged(
            &object,
            entry.offset as usize,
            "the pack is missing, and no redirect names the new location of its bodies",
        ))
    }

    fn folders(&self) -> impl Iterator<Item = Folder> {
        let lineage = self.at.folder.lineage;
        self.at.manifest.folders.iter().map(move |i| Folder { lineage, installation: *i })
    }

    fn read(&self, pack: PackId, offset: u32, parts: &mut [&mut [u8]]) -> Result<Option<(String, usize)>> {
        for folder in self.folders() {
            let object = folder.path("packs", pack);
            match self.repo.objects.get_into(&object, u64::from(offset), parts) {
                Ok(()) => return Ok(Some((object, offset as usize))),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
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
        if out.len() != CHUNK {
            return Err(Error::new(Kind::Usage, format!("fetch chunk {chunk}: room for {} bytes", out.len())));
        }
        let entry = self.tree.entry(chunk)?;
        if entry.is_hole() {
            out.clear();
            return Ok(None);
        }
        let out = out.room(&OfPack);
        let what = || format!("snapshot {}", self.at.manifest.snapshot);
        // Safe: a page whose entry has another length than its map was rejected as damaged when it was read.
        self.body(chunk, &entry, &mut out[..entry.length as usize]).map_err(|e| e.context(what()))?;
        spread(entry.map, out);
        Ok(Some(entry.tag))
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
