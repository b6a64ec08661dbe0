//! Reading snapshots: whole chunks, their hash checked before any byte is returned; and verify, which reads all of
//! them.

use super::pack::{self, BodyHead, check_body};
use super::page::LeafEntry;
use super::redirect::{REDIRECT_MAX, Redirect};
use super::repository::{Inner, Located, Repository};
use super::tree::{Tree, Visit};
use super::{Folder, PublicKey, damaged};
use crate::cipher::{AtRest, SealedMut};
use crate::error::{Error, Kind, Result};
use crate::units::{
    CHUNK, ChunkNo, Hash32, KeyTag, LineageId, PackId, SECTOR, SECTORS_PER_CHUNK, SectorMap, SnapshotId, chunks_in,
};
use crate::volume::parent::Parent;
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
    /// Chunks whose sectors were read and verified.
    pub chunks: u64,
    /// Size of their sectors in bytes.
    pub bytes: u64,
    /// Chunks that are bad; if empty, the snapshot restores bit for bit.
    pub bad: Vec<Bad>,
}

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

    /// Reads a whole snapshot and reports which chunks are bad. `pinned`: the public key that must have signed it.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the manifest is bad, or signed by another key than `pinned`; what the store reports.
    pub fn verify(
        &self,
        lineage: LineageId,
        snapshot: SnapshotId,
        pinned: Option<PublicKey>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Verified> {
        let reader = self.open_snapshot(lineage, snapshot)?;
        let public_key = reader.at.public_key;
        if let Some(key) = pinned.filter(|key| *key != public_key) {
            let (signed, wanted) = (hex::encode(public_key), hex::encode(key));
            let what = format!("snapshot {snapshot}: signed by key {signed}, not by the trusted {wanted}");
            return Err(Error::new(Kind::Integrity, what)
                .hint("compare both with the signing key in `coffer status` on the machine that created the snapshot; if neither matches, do not use it"));
        }
        let trust = if pinned.is_some() { Trust::Attested } else { Trust::Unattested };
        let room = vec![0; CHUNK];
        let mut check = Check { reader: &reader, go_on, chunks: 0, bytes: 0, entries: 0, bad: Vec::new(), room };
        reader.tree.walk(&mut check)?;
        let Check { chunks, bytes, entries, mut bad, .. } = check;
        let said = reader.at.manifest.chunks;
        if bad.is_empty() && entries != said {
            let object = reader.at.folder.path("manifests", snapshot);
            let error = damaged(&object, 0, format_args!("it has {said} chunks, the tree has {entries}"));
            bad.push(Bad { first: ChunkNo(0), count: chunks_in(reader.at.manifest.size), error });
        }
        Ok(Verified { trust, public_key, chunks, bytes, bad })
    }
}

struct Check<'a> {
    reader: &'a SnapshotReader,
    go_on: &'a mut dyn FnMut(u64) -> bool,
    chunks: u64,
    bytes: u64,
    entries: u64,
    bad: Vec<Bad>,
    /// A buffer for one chunk's sectors.
    room: Vec<u8>,
}

impl Visit for Check<'_> {
    fn chunk(&mut self, chunk: ChunkNo, entry: &LeafEntry) -> Result<()> {
        self.entries += 1;
        if !(self.go_on)(self.bytes) {
            return Err(Error::new(Kind::Interrupted, "the check was interrupted"));
        }
        match self.reader.body(chunk, entry, &mut self.room[..entry.length as usize]) {
            Ok(()) => {
                self.chunks += 1;
                self.bytes += u64::from(entry.length);
            }
            Err(error) => self.bad.push(Bad { first: chunk, count: 1, error }),
        }
        Ok(())
    }
    fn damaged(&mut self, first: ChunkNo, count: u64, error: Error) -> Result<()> {
        let end = chunks_in(self.reader.at.manifest.size);
        let count = count.min(end.saturating_sub(first.0));
        self.bad.push(Bad { first, count, error });
        Ok(())
    }
}

impl SnapshotReader {
    /// Returns its manifest and where that is.
    #[must_use]
    pub const fn located(&self) -> &Located {
        &self.at
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

    /// Reads where the entry says; if the pack is in none of the folders, follows a redirect, once.
    fn find(&self, entry: &LeafEntry, head: &mut [u8], out: &mut [u8]) -> Result<(String, usize)> {
        let parts = &mut [head, out];
        if let Some(found) = self.read(entry.pack(), entry.offset, parts)? {
            return Ok(found);
        }
        for folder in self.folders() {
            let object = folder.path("redirects", entry.pack());
            let raw = match self.repo.objects.get(&object, REDIRECT_MAX) {
                Ok(raw) => raw,
                Err(e) if e.kind() == Kind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let redirect = Redirect::parse(&object, entry.pack(), &raw)?;
            let Some(to) = redirect.find(entry.offset, entry.length) else { continue };
            if let Some(found) = self.read(to.pack, to.new_offset, parts)? {
                return Ok(found);
            }
        }
        let object = self.at.folder.path("packs", entry.pack());
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
