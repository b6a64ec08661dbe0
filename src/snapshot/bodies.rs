//! Bodies of chunks in packs: read one at a time, or several that lie side by side with one request. Each is checked
//! against its entry in the signed tree before it is used.

use super::pack::{self, BodyHead, check_body};
use super::page::LeafEntry;
use super::redirect::Redirect;
use super::repository::Inner;
use super::{Folder, arr, damaged};
use crate::error::{Kind, Result};
use crate::units::{ChunkNo, InstallationId, PackId};
use bytes::Bytes;
use std::sync::Arc;

/// Most bytes that are read with one request, heads included, unless one body is larger.
pub(super) const SPAN: usize = 4 << 20;

/// A chunk that is not a hole, and its entry in the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) chunk: ChunkNo,
    pub(super) entry: LeafEntry,
}

impl Wanted {
    /// Where its body begins and ends in the pack.
    const fn place(&self) -> (u64, u64) {
        let start = self.entry.offset as u64;
        (start, start + (pack::HEAD + self.entry.length as usize) as u64)
    }
}

/// Whether the body of `next` lies right behind those of `span`, and can be read together with them.
pub(super) fn continues(span: &[Wanted], next: &Wanted) -> bool {
    let (Some(first), Some(last)) = (span.first(), span.last()) else { return true };
    let (start, end) = next.place();
    last.entry.pack == next.entry.pack && last.place().1 == start && end - first.place().0 <= SPAN as u64
}

/// Cuts a list into spans that can be read with one request each, in order of their places.
pub(super) fn spans(mut wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    wanted.sort_by_key(|w| (w.entry.pack, w.entry.offset));
    let mut all: Vec<Vec<Wanted>> = Vec::new();
    for next in wanted {
        match all.last_mut().filter(|span| continues(span, &next)) {
            Some(span) => span.push(next),
            None => all.push(vec![next]),
        }
    }
    all
}

/// The bytes of a span.
pub(super) struct SpanBytes {
    object: String,
    start: u64,
    bytes: Bytes,
}

/// The bodies that one snapshot refers to.
#[derive(Clone)]
pub(super) struct Bodies {
    pub(super) repo: Arc<Inner>,
    /// The snapshot's own folder.
    pub(super) home: Folder,
    /// The installations whose folders may have the packs.
    pub(super) installations: Vec<InstallationId>,
}

impl Bodies {
    /// Reads the sectors of a chunk, consecutively, into `out`, which has the entry's length, and checks them.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the body is missing or damaged; what the store reports. Then the contents of `out` must not be used.
    pub(super) fn read(&self, wanted: &Wanted, out: &mut [u8]) -> Result<()> {
        let mut head = [0u8; pack::HEAD];
        let (object, offset) = self.find(&wanted.entry, &mut head, out)?;
        check(wanted, &object, offset, &head, out)
    }

    /// Reads the bodies of a span with one request. `None`: that failed. Each has to be read by itself, which shows what is
    /// wrong with which.
    pub(super) fn read_span(&self, span: &[Wanted]) -> Option<SpanBytes> {
        let (first, last) = (span.first()?, span.last()?);
        if !self.known_redirects(first.entry.pack()).is_empty() {
            return None;
        }
        let range = first.place().0..last.place().1;
        for folder in self.folders() {
            let object = folder.path("packs", first.entry.pack());
            match self.repo.objects.get_range(&object, range.clone()) {
                Ok(bytes) => return Some(SpanBytes { object, start: range.start, bytes }),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Reads where a redirect that is known says; else where the entry says; if the pack is in none of the folders, follows
    /// its redirect. That may be rewritten before what it names is read: then it is followed again.
    fn find(&self, entry: &LeafEntry, head: &mut [u8], out: &mut [u8]) -> Result<(String, usize)> {
        let (pack, parts) = (entry.pack(), &mut [head, out]);
        let find = |redirect: &Redirect| redirect.find(entry.offset, entry.length).map(|m| (m.pack, m.new_offset));
        for redirect in self.known_redirects(pack) {
            if let Some((pack, offset)) = find(&redirect)
                && let Some(found) = self.read_at(pack, offset, parts)?
            {
                return Ok(found);
            }
        }
        if let Some(found) = self.read_at(pack, entry.offset, parts)? {
            return Ok(found);
        }
        for folder in self.folders() {
            let mut tried = None;
            // Each turn but the last takes a whole compaction.
            while let Some(to) = self.repo.read_redirect(folder, pack)?.as_deref().and_then(find) {
                if let Some(found) = self.read_at(to.0, to.1, parts)? {
                    return Ok(found);
                }
                if tried.replace(to) == Some(to) {
                    break;
                }
            }
        }
        let object = self.home.path("packs", pack);
        Err(damaged(
            &object,
            entry.offset as usize,
            "the pack is missing, and no redirect names the new location of its bodies",
        ))
    }

    /// Returns the redirects of a pack that need not be read, for they were before.
    fn known_redirects(&self, pack: PackId) -> Vec<Arc<Redirect>> {
        let moved = self.repo.moved.lock();
        self.folders().filter_map(|folder| moved.get(folder, pack).flatten()).collect()
    }

    fn folders(&self) -> impl Iterator<Item = Folder> {
        let lineage = self.home.lineage;
        self.installations.iter().map(move |i| Folder { lineage, installation: *i })
    }

    fn read_at(&self, pack: PackId, offset: u32, parts: &mut [&mut [u8]]) -> Result<Option<(String, usize)>> {
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
}

impl SpanBytes {
    /// Returns the sectors of one of the span's chunks, checked.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if its body is damaged.
    pub(super) fn sectors(&self, wanted: &Wanted) -> Result<&[u8]> {
        let (start, end) = wanted.place();
        let at = |place: u64| place.saturating_sub(self.start) as usize;
        let body = self.bytes.get(at(start)..at(end)).unwrap_or_default();
        let (head, sectors) = body.split_at(pack::HEAD.min(body.len()));
        check(wanted, &self.object, wanted.entry.offset as usize, &arr(head, 0), sectors)?;
        Ok(sectors)
    }
}

/// Checks a body against the entry of its chunk.
fn check(wanted: &Wanted, object: &str, offset: usize, head: &[u8; pack::HEAD], sectors: &[u8]) -> Result<()> {
    let Wanted { chunk, entry } = *wanted;
    let head = check_body(object, offset, head, sectors).map_err(|e| e.context(format_args!("chunk {chunk}")))?;
    let right = BodyHead { chunk, map: entry.map, tag: entry.tag, length: entry.length, hash: entry.hash };
    if head == right {
        return Ok(());
    }
    Err(damaged(object, offset, format_args!("the body does not belong to chunk {chunk} of the signed tree")))
}
