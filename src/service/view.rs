//! Completed snapshots, open for reading: what an NBD client gets under the snapshot's id.
//!
//! Chunks are fetched whole from the repository, checked against their hash, and opened with the data keys that sealed them. Any
//! number of clients share one view. It needs no lease, because a snapshot is immutable. While a view is open, its snapshot
//! cannot be deleted. When a CMK that wraps its keys is disabled, its keys are wiped like those of a volume.

use super::keygate::{HeldCiphers, KeyGate, KeyHolder};
use super::logs::Logs;
use super::records::{Records, SnapshotRecord};
use super::repositories::Repositories;
use super::snapshot_keys::SnapshotKeys;
use super::volume_keys::VolumeKeys;
use crate::cipher::xts::{At, XtsCipher};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::repository::Repository;
use crate::units::{CHUNK, ChunkNo, KeyTag, LineageId, SECTOR, SUBSECTOR, SnapshotId};
use crate::volume::ahead::{AHEAD, Ahead};
use crate::volume::chunk_cache::{Body, ChunkCache};
use crate::volume::extents::{Run, Runs};
use crate::volume::parent::{Each, Fetch, Parent};
use crate::volume::{Attempt, Blocking};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Sealed chunks kept in memory: 8 MiB per view, and as much again of those that are fetched ahead.
const RECENT: usize = 16;
/// Most chunks that one pass over the tree covers: 8 GiB of the volume.
const CHUNKS: u64 = 16 * 1024;

/// All views.
pub(super) struct Views {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
    logs: Arc<Logs>,
    keys: Arc<VolumeKeys>,
    snapshot_keys: Arc<SnapshotKeys>,
    keygate: Arc<KeyGate>,
    /// The open views, one per snapshot.
    open: Mutex<HashMap<SnapshotId, Weak<SnapshotView>>>,
}

/// One open snapshot.
pub struct SnapshotView {
    id: SnapshotId,
    lineage: LineageId,
    repository: Arc<Repository>,
    reader: SnapshotReader,
    ciphers: Arc<HeldCiphers<KeyTag>>,
    /// Recent chunks, each with the tag of the key that sealed it; `None`: the whole chunk is a hole.
    recent: Arc<ChunkCache<Option<KeyTag>>>,
    ahead: Ahead,
}

impl SnapshotView {
    /// Returns the id of the snapshot.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.id
    }

    /// Returns its lineage.
    #[must_use]
    pub const fn lineage(&self) -> LineageId {
        self.lineage
    }

    /// Returns the size of the volume at the point in time, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// Returns the repository that has it.
    pub(super) const fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Returns the reader of its tree and chunks.
    pub(super) const fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Reads plain bytes at any offset and length inside the snapshot.
    ///
    /// # Errors
    /// [`Kind::Usage`] out of bounds; [`Kind::KeyUnavailable`] while its CMK is unusable; [`Kind::Integrity`] for a chunk with a
    /// wrong hash; errors of the repository.
    pub fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.bounds(offset, out.len() as u64)?;
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let chunk = ChunkNo::of(at);
            let skip = (at - chunk.offset()) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(CHUNK - skip));
            if !self.read_in_chunk(chunk, skip, now, blocking)? {
                return Ok(Attempt::WouldBlock);
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(Attempt::Done)
    }

    /// Reads within one chunk. `false`: that would have to wait for the repository.
    fn read_in_chunk(&self, chunk: ChunkNo, skip: usize, out: &mut [u8], blocking: Blocking) -> Result<bool> {
        let Some(Body { sealed, key: tag }) = self.fetch(chunk, blocking)? else { return Ok(false) };
        let Some(tag) = tag else {
            self.ciphers.must_be_there().map_err(|e| e.context(format!("read {}", self.id)))?;
            out.fill(0);
            return Ok(true);
        };
        let open = |cipher: Option<&XtsCipher>| self.open_sectors(chunk, cipher, skip, &sealed, out);
        self.ciphers.with(&tag, open).map_err(|e| e.context(format!("read {}", self.id)))??;
        Ok(true)
    }

    /// Opens a range of a chunk's sealed bytes.
    fn open_sectors(
        &self,
        chunk: ChunkNo,
        cipher: Option<&XtsCipher>,
        skip: usize,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let cipher = cipher.ok_or_else(|| {
            Error::new(
                Kind::Integrity,
                format!("chunk {chunk} of {} was sealed under a key that the snapshot does not name", self.id),
            )
        })?;
        // The cipher works on whole subsectors: those at the ends of the range are opened completely.
        let (first, end) = (skip / SUBSECTOR * SUBSECTOR, (skip + out.len()).next_multiple_of(SUBSECTOR));
        let start = At::new(chunk.offset() + first as u64)
            .ok_or_else(|| Error::new(Kind::Failed, "the chunk is not aligned"))?;
        if (first, end) == (skip, skip + out.len()) {
            cipher.open_parts_to(start, &sealed[first..end], out);
        } else {
            let mut whole = sealed[first..end].to_vec();
            cipher.open_parts(start, &mut whole);
            out.copy_from_slice(&whole[skip - first..skip - first + out.len()]);
        }
        Ok(())
    }

    /// Returns a chunk, from memory or from the repository. `None`: that would have to wait.
    fn fetch(&self, chunk: ChunkNo, blocking: Blocking) -> Result<Option<Body<Option<KeyTag>>>> {
        let known = self.recent.peek(chunk);
        if blocking == Blocking::Never && known.is_none() {
            return Ok(None);
        }
        if self.reader.is_far() {
            let soon: Vec<_> = self.ahead.read(chunk).filter(|c| c.offset() < self.size()).collect();
            self.expect(&soon);
        }
        match known {
            Some(body) => Ok(Some(body)),
            None => self.recent.get(chunk, |sealed| self.reader.fetch(chunk, sealed)).map(Some),
        }
    }

    /// Has chunks fetched that will be read soon, if the repository is far. At most [`AHEAD`] of them may be waiting for that.
    pub(super) fn expect(&self, chunks: &[ChunkNo]) {
        if chunks.is_empty() || !self.reader.is_far() {
            return;
        }
        let recent = self.recent.clone();
        recent.make_room(RECENT + AHEAD);
        let each: Arc<Each<'static>> = Arc::new(move |chunk: ChunkNo, fetch: &Fetch<'_>| {
            recent.get_ahead(chunk, fetch);
            true
        });
        self.reader.fetch_ahead(chunks, &each);
    }

    /// Fetches the chunks of a range, at most as many as are kept, so that reading them soon does not wait.
    ///
    /// # Errors
    /// The errors of [`SnapshotView::read`].
    pub fn prefetch(&self, offset: u64, len: u64) -> Result<()> {
        self.bounds(offset, len)?;
        let chunks = ChunkNo::of(offset).0..(offset + len).div_ceil(CHUNK as u64);
        let chunks: Vec<_> = chunks.take(RECENT).map(ChunkNo).collect();
        self.expect(chunks.get(1..).unwrap_or_default());
        chunks.iter().try_for_each(|c| self.fetch(*c, Blocking::Allowed).map(drop))
    }

    /// Returns which parts of a range are data (yes) or holes (no), from the tree: at most `most` runs.
    ///
    /// # Errors
    /// The errors of [`SnapshotView::read`].
    pub fn allocation(&self, offset: u64, len: u64, most: usize) -> Result<Vec<Run>> {
        self.bounds(offset, len)?;
        let (mut runs, mut at, end) = (Runs::new(most), offset, offset + len);
        while at < end {
            let chunk = ChunkNo::of(at);
            let full = self.reader.next_with_sectors(chunk)?.map_or(end, |c| c.offset().max(at)).min(end);
            if full > at {
                if !runs.push(full - at, false) {
                    break;
                }
                at = full;
                continue;
            }
            let map = self.reader.sectors(chunk)?;
            let first = ((at - chunk.offset()) / SECTOR as u64) as usize;
            let (data, same) = map.run(first);
            let stop = (chunk.offset() + ((first + same) * SECTOR) as u64).min(end);
            if !runs.push(stop - at, data) {
                break;
            }
            at = stop;
        }
        Ok(runs.done())
    }

    /// Returns which chunks of a range differ (yes) from another snapshot of the lineage; without one, which hold any data.
    ///
    /// # Errors
    /// The errors of [`SnapshotView::read`].
    pub fn changed_since(
        &self,
        other: Option<&SnapshotReader>,
        (offset, len): (u64, u64),
        most: usize,
    ) -> Result<Vec<Run>> {
        self.bounds(offset, len)?;
        let (mut runs, mut at, end) = (Runs::new(most), offset, offset + len);
        let last = ChunkNo::of(offset).0 + CHUNKS;
        while at < end && ChunkNo::of(at).0 < last {
            let chunk = ChunkNo::of(at);
            let stop = (chunk.offset() + CHUNK as u64).min(end);
            let differs = match other {
                Some(other) => differ(&self.reader, other, chunk)?,
                None => self.reader.has_sectors(chunk)?,
            };
            if !runs.push(stop - at, differs) {
                break;
            }
            at = stop;
        }
        Ok(runs.done())
    }

    fn bounds(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let what = format!("{len} bytes at {offset} of {}: the range exceeds its size of {size} bytes", self.id);
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(())
    }
}

/// Returns whether a chunk differs between two snapshots of a lineage, from their trees.
pub(super) fn differ(one: &SnapshotReader, other: &SnapshotReader, chunk: ChunkNo) -> Result<bool> {
    Ok(one.hash_of(chunk)? != other.hash_of(chunk)? || one.sectors(chunk)? != other.sectors(chunk)?)
}

impl Views {
    /// Creates an empty set.
    pub(super) fn new(
        records: &Arc<Records>,
        repositories: &Arc<Repositories>,
        logs: &Arc<Logs>,
        keys: &Arc<VolumeKeys>,
        snapshot_keys: &Arc<SnapshotKeys>,
        keygate: &Arc<KeyGate>,
    ) -> Self {
        Self {
            records: records.clone(),
            repositories: repositories.clone(),
            logs: logs.clone(),
            keys: keys.clone(),
            snapshot_keys: snapshot_keys.clone(),
            keygate: keygate.clone(),
            open: Mutex::default(),
        }
    }

    /// Opens a snapshot for reading, or joins its readers. Unwraps its data keys for every caller, so that each is checked and
    /// audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidState`] unless it is completed; the KMS's errors for its keys.
    pub(super) fn open(&self, snapshot: SnapshotId, caller: &Caller) -> Result<Arc<SnapshotView>> {
        self.open_then(snapshot, caller, || ())
    }

    /// Like [`Views::open`], but runs `unwrapped` after the unwrap and before the ciphers are put in place, when a CMK may be
    /// lost.
    pub(super) fn open_then(
        &self,
        snapshot: SnapshotId,
        caller: &Caller,
        unwrapped: impl FnOnce(),
    ) -> Result<Arc<SnapshotView>> {
        let record = self.records.find_snapshot(&snapshot.to_string())?;
        record.must_be_completed()?;
        self.logs.check(record.home())?;
        let ticket = self.keygate.ticket();
        let blobs = self.snapshot_keys.wrapped(&record)?;
        let cmks = self.keys.cmks_of_blobs(&blobs)?;
        let keys = self.keys.unwrap_blobs((record.id, &record.context), blobs, caller)?;
        let act = Act::new("ec2:AttachSnapshot").key(record.key_arn.clone()).detail("snapshot", snapshot);
        self.records.ledger().record(caller, act, Ok(()))?;
        unwrapped();
        let view = self.view_of(&record, cmks)?;
        let built = || keys.iter().map(|(id, key)| (id.tag(), XtsCipher::new(key))).collect();
        view.ciphers.put(&self.keygate, ticket, built)?;
        Ok(view)
    }

    /// Returns the open view of a snapshot; a new one has no ciphers yet.
    fn view_of(&self, record: &SnapshotRecord, cmks: Vec<String>) -> Result<Arc<SnapshotView>> {
        let viewed = |views: &HashMap<_, Weak<SnapshotView>>| views.get(&record.id).and_then(Weak::upgrade);
        if let Some(view) = viewed(&self.open.lock()) {
            return Ok(view);
        }
        // Without the lock: a repository that is slow must not delay other snapshots.
        let repository = self.repositories.open(record.repository)?;
        let reader = repository.open_snapshot(record.lineage, record.id)?;
        let mut views = self.open.lock();
        views.retain(|_, view| view.strong_count() > 0);
        if let Some(view) = viewed(&views) {
            return Ok(view);
        }
        let ciphers = Arc::new(HeldCiphers::new(cmks));
        let holder: Arc<dyn KeyHolder> = ciphers.clone();
        self.keygate.register(Arc::downgrade(&holder));
        let (id, lineage, recent) = (record.id, record.lineage, Arc::new(ChunkCache::new(RECENT)));
        let view = Arc::new(SnapshotView { id, lineage, repository, reader, ciphers, recent, ahead: Ahead::default() });
        views.insert(record.id, Arc::downgrade(&view));
        Ok(view)
    }

    /// Refuses an operation on a snapshot while a client is reading it.
    pub(super) fn refuse_if_open(&self, snapshot: SnapshotId) -> Result<()> {
        let viewed = self.open.lock().get(&snapshot).is_some_and(|view| view.strong_count() > 0);
        if viewed {
            return Err(Error::new(Kind::Busy, format!("snapshot {snapshot} is being read by an NBD client"))
                .hint("disconnect the client first"));
        }
        Ok(())
    }
}
