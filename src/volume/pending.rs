//! Points in time without stopping I/O (docs/format.md, section 4).
//!
//! A snapshot's p is the last epoch that it contains: all pieces of epoch p and older. Taking one is a state write and
//! a counter; the copying continues in the background. A writing piece that finds a chunk which a pending snapshot
//! still needs first preserves the old contents of its sectors, under the stripe, and the copier overlays them on what
//! it reads; if that is not possible, the writer copies the chunk itself. Either way, the chunk is handed to the sink
//! once, as it was at p.
//!
//! A chunk counts as copied when the sink's put has returned. Until then writers preserve what they change of it, so
//! that a put that failed can be repeated. The stripe is not held during the put, which may wait for a remote store.

use super::format::{BaseRecord, MAX_PENDING, PendingRecord, Untrusted};
use super::header::Header;
use super::map::Entry;
use super::piece::Piece;
use super::preserved::{Places, PreservedSectors, runs};
use super::{Blocking, Live, Volume};
use crate::cipher::{Sealed, SealedBuf, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, DataKeyId, Epoch, KeyEpoch, SECTOR, SnapshotId, chunks_in};
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The destination of a snapshot's chunks. Called from several threads.
pub trait ChunkSink: Send + Sync {
    /// Stores a chunk as it was at the snapshot's point in time ([`CHUNK`] bytes, zeros past the volume's end).
    ///
    /// # Errors
    /// If it cannot be stored: the snapshot fails, the volume is unaffected.
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()>;

    /// Returns the first chunk at or after `from` for which the base has sectors: a comparing snapshot must check those
    /// too.
    ///
    /// # Errors
    /// If the base's tree cannot be read.
    fn next_in_base(&self, from: ChunkNo) -> Result<Option<ChunkNo>>;

    /// Returns how many chunks it takes at most: those past it belong to a later size of the volume.
    fn chunks(&self) -> u64 {
        u64::MAX
    }
}

/// A pending snapshot.
pub struct Pending {
    record: PendingRecord,
    /// Chunks changed after this epoch are copied.
    base_p: Epoch,
    comparing: Untrusted,
    /// Number of chunks in the snapshot: the volume may grow meanwhile.
    chunks: u64,
    sink: Arc<dyn ChunkSink>,
    copied: Mutex<HashSet<u64>>,
    /// Chunks that are being copied, each by one thread.
    at_work: Mutex<HashSet<u64>>,
    /// Notified when a thread has ended its turn at a chunk.
    turned: Condvar,
    pub(super) preserved: PreservedSectors,
    failed: Mutex<Option<Error>>,
}

impl Pending {
    /// Returns the snapshot's record in the header.
    pub const fn record(&self) -> &PendingRecord {
        &self.record
    }

    /// Fails the snapshot; the first reason is kept.
    pub fn fail(&self, why: &Error) {
        self.failed.lock().get_or_insert_with(|| why.replay());
    }

    /// Returns why it failed, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().as_ref().map(Error::replay)
    }

    /// Whether a chunk with this map entry has to be copied before a piece of epoch `now` may change it.
    pub(super) fn needs(&self, chunk: ChunkNo, entry: Entry, now: Epoch) -> bool {
        self.record.p < now && self.lacks(chunk, entry) && self.failed.lock().is_none()
    }

    /// Whether a chunk belongs to the snapshot and is not copied yet. Preserved sectors imply that, whatever the map
    /// says by now.
    fn lacks(&self, chunk: ChunkNo, entry: Entry) -> bool {
        chunk.0 < self.chunks
            && (self.covers(entry) || self.preserved.holds(chunk))
            && !self.copied.lock().contains(&chunk.0)
    }

    /// Marks a chunk as copied, after its put has returned. Its stripe is held.
    fn note_copied(&self, chunk: ChunkNo) {
        self.copied.lock().insert(chunk.0);
        self.preserved.release(chunk);
    }

    /// Whether the snapshot has no base: what it does not copy reads as zeros.
    pub(super) const fn is_full(&self) -> bool {
        self.record.base.is_none()
    }

    /// Waits until no other thread copies the chunk. Without the stripe, which the other may need.
    fn turn_at(&self, chunk: ChunkNo) -> CopyTurn<'_> {
        let mut at_work = self.at_work.lock();
        while !at_work.insert(chunk.0) {
            self.turned.wait(&mut at_work);
        }
        CopyTurn { pending: self, chunk }
    }

    fn covers(&self, entry: Entry) -> bool {
        entry.changed <= self.record.p && (self.comparing != Untrusted::No || entry.changed > self.base_p)
    }
}

/// The exclusive right to copy a chunk to a snapshot.
struct CopyTurn<'a> {
    pending: &'a Pending,
    chunk: ChunkNo,
}

impl Drop for CopyTurn<'_> {
    fn drop(&mut self) {
        self.pending.at_work.lock().remove(&self.chunk.0);
        self.pending.turned.notify_all();
    }
}

/// Where the contents that a chunk had at the point in time are found.
enum Source {
    /// In this file, where preserved sectors replace what was changed since.
    Here,
    /// In the parent: the chunk was absent.
    Parent,
    /// Nowhere: the chunk read as zeros, whatever the file has in its place.
    Zeros,
}

/// Whether a piece may change its chunk.
pub(super) enum Saved {
    /// Yes: each pending snapshot has what it needs.
    Yes,
    /// It would have had to wait.
    WouldBlock,
    /// Not before the chunk is copied to this snapshot ([`Volume::hand_over`]), without the stripe.
    CopyFirst(Arc<Pending>),
}

/// The parameters of a new snapshot.
pub struct Begin {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Time of the begin, milliseconds since 1970.
    pub time: i64,
    /// The repository that it is written to.
    pub repository: crate::units::RepositoryId,
    /// The base of the increment; must be what [`Volume::base`] returned.
    pub base: Option<BaseRecord>,
    /// The destination of its chunks.
    pub sink: Arc<dyn ChunkSink>,
}

impl Volume {
    /// Returns the newest completed snapshot of the present map generation, or the parent that the volume was made
    /// from.
    pub fn base(&self) -> Option<BaseRecord> {
        let header = self.header.lock();
        let newest = header.state().base.clone().filter(|b| b.map_generation == self.map_generation);
        newest.or_else(|| {
            let parent = header.identity().parent.as_ref()?;
            let (snapshot, repository) = (parent.snapshot, parent.repository);
            Some(BaseRecord { snapshot, p: Epoch(0), repository, map_generation: self.map_generation })
        })
    }

    /// Returns the header's pending snapshots: at open, those that an earlier process left.
    pub fn pending_records(&self) -> Vec<PendingRecord> {
        self.header.lock().state().pending.clone()
    }

    /// Fixes the point in time: everything acknowledged before this call is in the snapshot, nothing begun after it is.
    ///
    /// # Errors
    /// [`Kind::Busy`] if too many are pending; what the store reports.
    pub fn begin_snapshot(&self, begin: Begin) -> Result<Arc<Pending>> {
        if let Some(failed) = self.syncer.failure() {
            return Err(failed.context(format!("snapshot {}", self.id)));
        }
        if self.map.was_rebuilt() {
            *self.untrusted.lock() = Untrusted::All;
        }
        self.with_header_mut(|header| {
            // Chunks filled from a parent are marked as unchanged: without a base they have to be searched for. So does
            // everything if the base is older than what the map knows.
            let base_p = begin.base.as_ref().map_or(Epoch(0), |b| b.p);
            let filled = begin.base.is_none() && header.identity().parent.is_some();
            let untold = filled || base_p < header.state().trust_p;
            let comparing = if untold { Untrusted::All } else { *self.untrusted.lock() };
            let (record, next) = self.write_begin(header, &begin)?;
            let pending = Arc::new(Pending {
                record,
                base_p,
                comparing,
                chunks: chunks_in(self.size()).min(begin.sink.chunks()),
                sink: begin.sink,
                copied: Mutex::default(),
                at_work: Mutex::default(),
                turned: Condvar::new(),
                preserved: PreservedSectors::default(),
                failed: Mutex::default(),
            });
            let mut live = self.live.write();
            let mut all = live.pending.clone();
            all.push(pending.clone());
            *live = Arc::new(Live { epoch: next, pending: all });
            Ok(pending)
        })
    }

    /// Writes the state that fixes the point in time; returns its record and the next epoch.
    fn write_begin(&self, header: &mut Header, begin: &Begin) -> Result<(PendingRecord, Epoch)> {
        if header.state().pending.len() >= MAX_PENDING {
            return Err(Error::new(Kind::Busy, format!("{} already has {MAX_PENDING} pending snapshots", self.id))
                .hint("wait until one is completed"));
        }
        let p = header.state().epoch;
        let next = p.0.checked_add(1).map(Epoch).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("{} has no epochs left", self.id))
                .hint("copy the data to a new volume")
        })?;
        let record = PendingRecord {
            snapshot: begin.snapshot,
            p,
            time: begin.time,
            repository: begin.repository,
            base: begin.base.as_ref().map(|b| b.snapshot),
            map_generation: self.map_generation,
        };
        let units = self.units_for_state();
        header.write_state(|s| {
            s.epoch = next;
            s.pending.push(record.clone());
            s.sealed_units = units;
        })?;
        Ok((record, next))
    }

    /// Preserves what a writing piece is about to overwrite, for each snapshot that still needs it. The stripe is held.
    pub(super) fn save_before_write(
        &self,
        live: &Live,
        piece: Piece,
        entry: Entry,
        blocking: Blocking,
    ) -> Result<Saved> {
        for pending in live.pending.iter().filter(|p| p.needs(piece.chunk, entry, live.epoch)) {
            match self.set_aside(&pending.preserved, piece, blocking) {
                Ok(true) => {}
                Ok(false) => return Ok(Saved::WouldBlock),
                Err(_) if blocking == Blocking::Never => return Ok(Saved::WouldBlock),
                Err(err) => {
                    tracing::debug!("snapshot {}: {}; the chunk is copied", pending.record.snapshot, err.line());
                    return Ok(Saved::CopyFirst(pending.clone()));
                }
            }
        }
        Ok(Saved::Yes)
    }

    /// Preserves what a writing piece is about to change, unless it is already. The chunk's stripe is held. `false`: it
    /// would have had to wait for the disk.
    fn set_aside(&self, aside: &PreservedSectors, piece: Piece, blocking: Blocking) -> Result<bool> {
        let chunk = piece.chunk;
        let first = (piece.offset - chunk.offset()) as usize / SECTOR;
        let end = (piece.offset - chunk.offset()) as usize + piece.len;
        let missing = aside.missing(chunk, first..end.div_ceil(SECTOR));
        let (Some(from), Some(to)) = (missing.first(), missing.last()) else { return Ok(true) };
        let mut old = SealedBuf::holes((to + 1 - from) * SECTOR);
        let there = (self.chunk_len(chunk) as usize).saturating_sub(from * SECTOR).min(old.len());
        let at = chunk.offset() + (from * SECTOR) as u64;
        if !self.read_sealed_held(at, old.room().range(0..there), blocking)? {
            return Ok(false);
        }
        let (file, places) = aside.reserve(missing.len(), || self.scratch.scratch())?;
        let mask = missing.iter().fold(0, |mask, sector| mask | 1 << sector);
        let places: Places = missing.iter().copied().zip(places).collect();
        for run in runs(&places) {
            let (sector, place) = run[0];
            let body = old.sealed().range((sector - from) * SECTOR..(sector - from + run.len()) * SECTOR);
            file.write_at(body, place).on(|| format!("preserve sectors of chunk {chunk} of {}", self.id))?;
        }
        aside.keep(chunk, mask, places);
        Ok(true)
    }

    /// Copies a chunk from a writer's thread, which does not hold the stripe. A failure fails the snapshot, never the
    /// client's write.
    pub(super) fn hand_over(&self, pending: &Pending, chunk: ChunkNo) {
        if let Err(err) = self.copy_one(pending, chunk, &mut SealedBuf::holes(CHUNK)) {
            tracing::warn!("snapshot {} fails: {}", pending.record.snapshot, err.line());
            pending.fail(&err);
        }
    }

    fn read_chunk(&self, chunk: ChunkNo, mut sealed: SealedMut<'_>) -> Result<()> {
        let len = self.chunk_len(chunk) as usize;
        sealed.range(len..CHUNK).clear();
        self.read_sealed_held(chunk.offset(), sealed.range(0..len), Blocking::Allowed).map(drop)
    }

    fn data_key_id(&self, key: KeyEpoch) -> Result<DataKeyId> {
        self.key_epochs.iter().find(|(e, _)| *e == key).map(|(_, id)| *id).ok_or_else(|| {
            Error::new(
                Kind::Integrity,
                format!("the map of {} refers to key epoch {key}, which its header does not have", self.id),
            )
        })
    }

    /// Copies all that the snapshot still needs. Other I/O continues between chunks. `progress` gets the number of
    /// chunks copied so far, and stops the copying by returning `false`.
    ///
    /// # Errors
    /// What made the snapshot fail.
    pub fn copy_pending(&self, pending: &Pending, mut progress: impl FnMut(u64) -> bool) -> Result<u64> {
        // Pieces of epoch p that are under way hold their stripes: once each stripe was free, all of them are in the
        // map.
        for stripe in &self.stripes {
            drop(stripe.lock.lock());
        }
        let (mut at, mut copied) = (ChunkNo(0), 0);
        let mut sealed = SealedBuf::holes(CHUNK);
        // A chunk written meanwhile is no longer a candidate of the map, but by then its sectors are preserved or the
        // chunk copied.
        while let Some(chunk) = self.next_candidate(pending, at)?.or_else(|| pending.preserved.any()) {
            self.copy_one(pending, chunk, &mut sealed)?;
            if let Some(failed) = pending.failure() {
                return Err(failed);
            }
            copied += 1;
            if !progress(copied) {
                let err = Error::new(Kind::Interrupted, format!("snapshot {} was stopped", pending.record.snapshot));
                pending.fail(&err);
                return Err(err);
            }
            at = at.max(ChunkNo(chunk.0 + 1));
        }
        if self.map.was_rebuilt() && pending.comparing == Untrusted::No {
            let err = Error::new(Kind::Integrity, format!("a map block of {} is damaged", self.id))
                .hint("create the snapshot again: the next one compares all chunks");
            pending.fail(&err);
        }
        pending.failure().map_or(Ok(copied), Err)
    }

    /// Copies a chunk, unless it is copied already. Neither reading nor the put holds the stripe: writers do not wait,
    /// and preserve what they change meanwhile.
    fn copy_one(&self, pending: &Pending, chunk: ChunkNo, sealed: &mut SealedBuf) -> Result<()> {
        let _turn = pending.turn_at(chunk);
        let key = match self.source_of(pending, chunk)? {
            None => return Ok(()),
            Some(Source::Zeros) => {
                sealed.room().clear();
                self.current_key()
            }
            Some(Source::Parent) => {
                let body = self.fetch(chunk)?;
                sealed.room().copy_from(body.sealed.sealed());
                body.key
            }
            Some(Source::Here) => {
                self.read_chunk(chunk, sealed.room())?;
                let held = self.stripe(chunk).lock.lock();
                let places = pending.preserved.places(chunk);
                let key = self.map.entry(&*self.store, chunk)?.key;
                drop(held); // what is changed from here on does not matter: the chunk is read
                pending.preserved.overlay(places, sealed.room())?;
                key
            }
        };
        pending.sink.put(chunk, sealed.sealed(), self.data_key_id(key)?)?;
        let _held = self.stripe(chunk).lock.lock();
        pending.note_copied(chunk);
        Ok(())
    }

    /// Returns where the snapshot finds a chunk; `None`: it has it already, or by its base. A chunk that is absent now
    /// was so at the point in time, and one that still reads as zeros did.
    fn source_of(&self, pending: &Pending, chunk: ChunkNo) -> Result<Option<Source>> {
        let entry = self.map.entry(&*self.store, chunk)?;
        Ok(if !pending.lacks(chunk, entry) {
            None
        } else if self.is_virgin(chunk, entry)? {
            Some(Source::Zeros)
        } else if self.is_here(chunk, entry)? {
            Some(Source::Here)
        } else {
            pending.is_full().then_some(Source::Parent)
        })
    }

    /// Returns the first chunk at or after `from` that may belong to the snapshot.
    fn next_candidate(&self, pending: &Pending, from: ChunkNo) -> Result<Option<ChunkNo>> {
        let next = if pending.comparing == Untrusted::No {
            self.next_marked(pending, from, |e| e.changed > pending.base_p && e.changed <= pending.record.p)
        } else {
            self.next_compared(pending, from)
        };
        next.map(|found| found.filter(|c| c.0 < pending.chunks))
    }

    /// Returns the first chunk whose map entry is `wanted`.
    fn next_marked(
        &self,
        pending: &Pending,
        mut from: ChunkNo,
        wanted: impl Fn(Entry) -> bool,
    ) -> Result<Option<ChunkNo>> {
        while let Some(chunk) = self.map.next_mapped(&*self.store, from, ChunkNo(pending.chunks)) {
            if chunk.0 >= pending.chunks {
                break;
            }
            if wanted(self.map.entry(&*self.store, chunk)?) {
                return Ok(Some(chunk));
            }
            from = ChunkNo(chunk.0 + 1);
        }
        Ok(None)
    }

    /// The same where the map's `changed` cannot be trusted: every chunk that the map has as ever written, all data of
    /// the file, and all that the base has. None suffices alone: a file system may report data as holes, or a map block
    /// may be lost. Without a base, also every absent chunk.
    fn next_compared(&self, pending: &Pending, mut from: ChunkNo) -> Result<Option<ChunkNo>> {
        loop {
            let what = || format!("find data of {}", self.id);
            let data = self.store.next_data(self.data_offset + from.offset()).on(what)?;
            let data = data.map(|d| ChunkNo::of(d - self.data_offset));
            let marked = self.next_marked(pending, from, |e| e.present || e.changed.0 > 0)?;
            let absent = if pending.is_full() { self.next_absent(from) } else { None };
            let all = [data, marked, absent, pending.sink.next_in_base(from)?];
            match all.into_iter().flatten().min().filter(|c| c.0 < pending.chunks) {
                None => return Ok(None),
                Some(c) if pending.comparing == Untrusted::All || self.intent.is_set(c.offset()) => return Ok(Some(c)),
                Some(c) => {
                    let entry = self.map.entry(&*self.store, c)?;
                    if entry.changed > pending.base_p && entry.changed <= pending.record.p {
                        return Ok(Some(c)); // its GiB was closed cleanly, so the map is right about it
                    }
                    from = ChunkNo(c.0 + 1);
                }
            }
        }
    }

    /// Completes a snapshot that is durable in its repository: the next one is an increment to it.
    ///
    /// # Errors
    /// What the store reports.
    pub fn complete_snapshot(&self, record: &PendingRecord) -> Result<()> {
        let compared = self
            .live
            .read()
            .pending
            .iter()
            .any(|x| x.record.snapshot == record.snapshot && x.comparing != Untrusted::No);
        let unannounced = self.unannounced.load(Ordering::Acquire);
        self.with_header_mut(|header| {
            header.write_state(|s| {
                s.pending.retain(|x| x.snapshot != record.snapshot);
                let newer = s.base.as_ref().is_none_or(|b| b.map_generation != record.map_generation || record.p > b.p);
                if newer && record.map_generation == self.map_generation {
                    s.base = Some(BaseRecord {
                        snapshot: record.snapshot,
                        p: record.p,
                        repository: record.repository,
                        map_generation: record.map_generation,
                    });
                }
                if compared && !unannounced {
                    (s.trust_p, s.changed_untrusted) = (record.p, Untrusted::No);
                }
            })
        })?;
        if compared && !unannounced {
            *self.untrusted.lock() = Untrusted::No;
        }
        self.unpublish(record.snapshot);
        Ok(())
    }

    /// Drops a failed or cancelled snapshot: it never becomes a base.
    ///
    /// # Errors
    /// What the store reports.
    pub fn drop_snapshot(&self, snapshot: SnapshotId) -> Result<()> {
        self.unpublish(snapshot);
        self.with_header_mut(|h| h.write_state(|s| s.pending.retain(|x| x.snapshot != snapshot)))
    }

    fn unpublish(&self, snapshot: SnapshotId) {
        let mut live = self.live.write();
        let pending = live.pending.iter().filter(|p| p.record.snapshot != snapshot).cloned().collect();
        *live = Arc::new(Live { epoch: live.epoch, pending });
    }

    pub(super) fn units_for_state(&self) -> std::collections::BTreeMap<u8, u64> {
        self.key_epochs.iter().zip(&self.sealed_units).map(|((e, _), n)| (e.0, n.load(Ordering::Relaxed))).collect()
    }

    /// Returns the current sealed bytes of a chunk, for an export: needs no key. `None`: the chunk is absent.
    ///
    /// # Errors
    /// What map or store report.
    pub fn read_sealed_chunk(&self, chunk: ChunkNo, mut out: SealedMut<'_>) -> Result<Option<DataKeyId>> {
        let entry = self.map.entry(&*self.store, chunk)?;
        let len = self.chunk_len(chunk) as usize;
        out.range(len..CHUNK).clear();
        if self.is_virgin(chunk, entry)? {
            out.clear();
            return Ok(Some(self.data_key_id(entry.key)?));
        }
        if !self.is_here(chunk, entry)? {
            return Ok(None);
        }
        self.read_sealed(chunk, chunk.offset(), out.range(0..len), Blocking::Allowed)?;
        Ok(Some(self.data_key_id(entry.key)?))
    }
}
