//! Points in time without stopping I/O (docs/format.md, section 4); [`super::begin`] fixes them.
//!
//! A snapshot's p is the last epoch that it contains: all pieces of epoch p and older. Taking one is a state write and
//! a counter; the copying continues in the background. A writing piece that finds a chunk which a pending snapshot
//! still needs first saves the old contents of its sectors in the volume's spill, under the stripe, and the copier
//! overlays them on what it reads; if that is not possible, the writer copies the chunk itself. Either way, the chunk is
//! handed to the sink once, as it was at p.
//!
//! A chunk counts as copied when the sink's put has returned. Until then writers save what they change of it, so that a
//! put that failed can be repeated. The stripe is not held during the put.
//!
//! A pending snapshot outlives its process: [`Volume::open`] finds it in the header, with the spill, and writers save
//! for it from the first write on, even before its copier is back ([`Pending::attach`]). If the volume or the spill
//! cannot be trusted, it is lost ([`Volume::lost_snapshots`]).

use super::format::{BaseRecord, PendingRecord, Untrusted};
use super::map::Entry;
use super::piece::Piece;
use super::spill::{Owner, Spill, ToSave};
use super::{Blocking, Live, Volume};
use crate::cipher::{Sealed, SealedBuf, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, DataKeyId, Epoch, KeyEpoch, SECTOR, SnapshotId, SpillId};
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

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
    /// The destination of its chunks, once there is one.
    sink: OnceLock<Arc<dyn ChunkSink>>,
    /// What writers have saved for it and others; `None`: nothing can be saved.
    spill: Option<Arc<Spill>>,
    copied: Mutex<HashSet<u64>>,
    /// Chunks of which sectors were saved for it: they belong to it, although the map has them as changed later by now.
    saved: Mutex<HashSet<u64>>,
    /// Chunks that are being copied, each by one thread.
    at_work: Mutex<HashSet<u64>>,
    /// Notified when a thread has ended its turn at a chunk.
    turned: Condvar,
    failed: Mutex<Option<Error>>,
}

impl Pending {
    pub(super) fn new(record: PendingRecord, spill: Option<Arc<Spill>>) -> Self {
        Self {
            record,
            sink: OnceLock::new(),
            spill,
            copied: Mutex::default(),
            saved: Mutex::default(),
            at_work: Mutex::default(),
            turned: Condvar::new(),
            failed: Mutex::default(),
        }
    }

    /// Sets the destination of its chunks, which has `copied` already. Only the first call counts.
    pub fn attach(&self, sink: Arc<dyn ChunkSink>, copied: impl IntoIterator<Item = ChunkNo>) {
        self.copied.lock().extend(copied.into_iter().map(|c| c.0));
        let _ = self.sink.set(sink);
    }

    fn sink(&self) -> Result<&Arc<dyn ChunkSink>> {
        let none = || Error::new(Kind::Failed, format!("snapshot {} has no destination yet", self.record.snapshot));
        self.sink.get().ok_or_else(none)
    }

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

    /// Whether a chunk belongs to the snapshot and is not copied yet. Saved sectors imply that, whatever the map says by
    /// now.
    fn lacks(&self, chunk: ChunkNo, entry: Entry) -> bool {
        chunk.0 < self.record.chunks && (self.covers(entry) || self.has_saved(chunk)) && !self.has_copied(chunk)
    }

    /// Whether writers have saved sectors of the chunk for it.
    fn has_saved(&self, chunk: ChunkNo) -> bool {
        self.saved.lock().contains(&chunk.0)
    }

    fn has_copied(&self, chunk: ChunkNo) -> bool {
        self.copied.lock().contains(&chunk.0)
    }

    /// Returns the chunks with saved sectors that are not copied yet.
    pub(super) fn saved_chunks(&self) -> Vec<ChunkNo> {
        let mut all: Vec<_> = self.saved.lock().iter().map(|c| ChunkNo(*c)).collect();
        all.retain(|chunk| !self.has_copied(*chunk));
        all
    }

    /// Returns how many chunks are copied.
    pub fn copied(&self) -> u64 {
        self.copied.lock().len() as u64
    }

    /// Whether it still needs what a piece of this epoch changed of the chunk.
    fn waits_for(&self, chunk: ChunkNo, epoch: Epoch) -> bool {
        self.record.p < epoch && self.has_saved(chunk) && !self.has_copied(chunk) && self.failed.lock().is_none()
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
        entry.changed <= self.record.p && (self.record.comparing != Untrusted::No || entry.changed > self.record.base_p)
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
    /// In this file, where saved sectors replace what was changed since.
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

    pub(super) fn spill_owner(&self) -> Result<Owner> {
        let file = self.store.identity().on(|| format!("open {}", self.id))?;
        Ok(Owner { volume: self.id, boot_id: self.env.boot_id.to_string(), file })
    }

    /// Finds the pending snapshots that an earlier process left in the header. `trusted`: nothing was lost since.
    pub(super) fn restore_pending(&mut self, trusted: bool) {
        let state = self.header.get_mut().state();
        let (left, spill) = (state.pending.clone(), state.spill);
        if left.is_empty() {
            // A kill may have left one.
            return self.remove_spill();
        }
        let lost = |why: &str| Err(Error::new(Kind::Integrity, format!("{} {why}", self.id)));
        let spill = match spill {
            _ if !trusted => lost("was not closed cleanly before the machine went down, or is a copy"),
            None => lost("had no space for a spill"),
            Some(id) => self.open_spill(id).map(Arc::new),
        };
        let mut all = Vec::new();
        for record in left {
            match &spill {
                Ok(spill) if record.map_generation == self.map_generation && record.chunks > 0 => {
                    let saved = spill.chunks_of(record.p, record.slot).into_iter().map(|c| c.0).collect();
                    let pending = Pending { saved: Mutex::new(saved), ..Pending::new(record, Some(spill.clone())) };
                    all.push(Arc::new(pending));
                }
                Ok(_) => self.lost.push((record.snapshot, format!("{} was rolled back", self.id))),
                Err(err) => self.lost.push((record.snapshot, err.line())),
            }
        }
        let live = self.live.get_mut();
        let spill = spill.ok().filter(|_| !all.is_empty());
        *live = Arc::new(Live { epoch: live.epoch, pending: all, spill });
    }

    fn open_spill(&self, id: SpillId) -> Result<Spill> {
        let what = || format!("open the spill of {}", self.id);
        let file = self.spills.open_spill(self.id).on(what)?;
        let file = file.ok_or_else(|| Error::new(Kind::NotFound, format!("{}: it is missing", what())))?;
        Spill::open(file, id, self.spill_owner()?)
    }

    /// Returns a pending snapshot, to be copied further after [`Pending::attach`].
    pub fn pending_snapshot(&self, snapshot: SnapshotId) -> Option<Arc<Pending>> {
        self.live.read().pending.iter().find(|p| p.record.snapshot == snapshot).cloned()
    }

    /// Returns the snapshots of the header that cannot be continued, and why.
    pub fn lost_snapshots(&self) -> &[(SnapshotId, String)] {
        &self.lost
    }

    /// Makes durable what writers saved for pending snapshots, before the volume is recorded as cleanly closed.
    pub(super) fn close_spill(&self) -> Result<()> {
        let live = self.live.read().clone();
        live.spill.as_ref().map_or(Ok(()), |spill| spill.close())
    }

    /// Saves what a writing piece is about to overwrite, for the snapshots that still need it. The stripe is held.
    pub(super) fn save_before_write(
        &self,
        live: &Live,
        piece: Piece,
        entry: Entry,
        blocking: Blocking,
    ) -> Result<Saved> {
        // One record serves all of them: the newest needs it, and the older ones if they have none yet.
        let needing = || live.pending.iter().filter(|p| p.needs(piece.chunk, entry, live.epoch));
        let Some(newest) = needing().max_by_key(|p| p.record.p) else { return Ok(Saved::Yes) };
        let slots = needing().fold(0, |slots, p| slots | 1 << p.record.slot);
        match self.save_sectors(live, (newest, slots), piece, blocking) {
            Ok(true) => {
                for pending in needing() {
                    pending.saved.lock().insert(piece.chunk.0);
                }
                Ok(Saved::Yes)
            }
            Ok(false) => Ok(Saved::WouldBlock),
            Err(_) if blocking == Blocking::Never => Ok(Saved::WouldBlock),
            Err(err) => {
                tracing::debug!("snapshot {}: {}; the chunk is copied", newest.record.snapshot, err.line());
                Ok(Saved::CopyFirst(newest.clone()))
            }
        }
    }

    /// Saves what a writing piece is about to change, unless it is saved already. The chunk's stripe is held. `false`: it
    /// would have had to wait.
    fn save_sectors(
        &self,
        live: &Live,
        (newest, slots): (&Pending, u8),
        piece: Piece,
        blocking: Blocking,
    ) -> Result<bool> {
        let no_spill = || Error::new(Kind::NoSpace, format!("{} has no spill", self.id));
        let spill = live.spill.as_ref().ok_or_else(no_spill)?;
        let chunk = piece.chunk;
        let first = (piece.offset - chunk.offset()) as usize / SECTOR;
        let end = (piece.offset - chunk.offset()) as usize + piece.len;
        let missing = spill.missing(chunk, first..end.div_ceil(SECTOR), newest.record.p);
        let (Some(from), Some(to)) = (missing.first(), missing.last()) else { return Ok(true) };
        let mut old = SealedBuf::holes((to + 1 - from) * SECTOR);
        let there = (self.chunk_len(chunk) as usize).saturating_sub(from * SECTOR).min(old.len());
        let at = chunk.offset() + (from * SECTOR) as u64;
        if !self.read_sealed_held(at, old.room().range(0..there), blocking)? {
            return Ok(false);
        }
        let old = old.sealed();
        let body = |sector: usize| old.range((sector - from) * SECTOR..(sector + 1 - from) * SECTOR);
        let sectors: Vec<ToSave<'_>> = missing.iter().map(|sector| (*sector, body(*sector))).collect();
        spill.save(chunk, &sectors, (live.epoch, slots), blocking == Blocking::Allowed)
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

    /// Counts the chunks that the snapshot still needs, as far as the map knows.
    ///
    /// # Errors
    /// If the map or the base's tree cannot be read.
    pub fn chunks_to_copy(&self, pending: &Pending) -> Result<u64> {
        let (mut at, mut count) = (ChunkNo(0), 0);
        while let Some(chunk) = self.next_candidate(pending, at)? {
            count += u64::from(!pending.has_copied(chunk));
            at = ChunkNo(chunk.0 + 1);
        }
        Ok(count)
    }

    /// Copies all that the snapshot still needs. Other I/O continues between chunks. `progress` gets the number of
    /// chunks copied by this call so far, and stops it by returning `false`; another call continues.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] if it was stopped; what made the snapshot fail, or a chunk: then a repeat may succeed.
    pub fn copy_pending(&self, pending: &Pending, mut progress: impl FnMut(u64) -> bool) -> Result<u64> {
        // Pieces of epoch p that are under way hold their stripes: once each stripe was free, all of them are in the
        // map.
        for stripe in &self.stripes {
            drop(stripe.lock.lock());
        }
        let (mut at, mut copied) = (ChunkNo(0), 0);
        let mut sealed = SealedBuf::holes(CHUNK);
        // A chunk written meanwhile is no longer a candidate of the map, but by then its sectors are saved or the chunk
        // copied.
        let mut rest = Vec::new();
        let mut next = |at| match self.next_candidate(pending, at)? {
            Some(chunk) => Ok(Some(chunk)),
            None => {
                if rest.is_empty() {
                    rest = pending.saved_chunks();
                }
                Ok::<_, Error>(rest.pop())
            }
        };
        while let Some(chunk) = next(at)? {
            self.copy_one(pending, chunk, &mut sealed)?;
            if let Some(failed) = pending.failure() {
                return Err(failed);
            }
            copied += 1;
            if !progress(copied) {
                return Err(Error::new(Kind::Interrupted, format!("snapshot {} was stopped", pending.record.snapshot)));
            }
            at = at.max(ChunkNo(chunk.0 + 1));
        }
        if self.map.was_rebuilt() && pending.record.comparing == Untrusted::No {
            let err = Error::new(Kind::Integrity, format!("a map block of {} is damaged", self.id))
                .hint("create the snapshot again: the next one compares all chunks");
            pending.fail(&err);
        }
        pending.failure().map_or(Ok(copied), Err)
    }

    /// Copies a chunk, unless it is copied already. Neither reading nor the put holds the stripe: writers do not wait,
    /// and save what they change meanwhile.
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
                let places = pending.spill.as_ref().map(|spill| (spill, spill.places(chunk, pending.record.p)));
                let key = self.map.entry(&*self.store, chunk)?.key;
                drop(held); // what is changed from here on does not matter: the chunk is read
                if let Some((spill, places)) = places {
                    spill.overlay(&places, sealed.room())?;
                }
                key
            }
        };
        pending.sink()?.put(chunk, sealed.sealed(), self.data_key_id(key)?)?;
        let _held = self.stripe(chunk).lock.lock();
        pending.copied.lock().insert(chunk.0);
        self.release_saved(chunk);
        Ok(())
    }

    /// Forgets the saved sectors of a chunk that no pending snapshot waits for. The chunk's stripe is held.
    fn release_saved(&self, chunk: ChunkNo) {
        let live = self.live.read().clone();
        if let Some(spill) = &live.spill {
            spill.release(chunk, |epoch| live.pending.iter().any(|p| p.waits_for(chunk, epoch)));
        }
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
        let record = &pending.record;
        let next = if record.comparing == Untrusted::No {
            self.next_marked(from, record.chunks, |e| e.changed > record.base_p && e.changed <= record.p)
        } else {
            self.next_compared(pending, from)
        };
        next.map(|found| found.filter(|c| c.0 < record.chunks))
    }

    /// Returns the first chunk at or after `from`, and before the chunk `end`, whose map entry is `wanted`.
    pub(super) fn next_marked(
        &self,
        mut from: ChunkNo,
        end: u64,
        wanted: impl Fn(Entry) -> bool,
    ) -> Result<Option<ChunkNo>> {
        while let Some(chunk) = self.map.next_mapped(&*self.store, from, ChunkNo(end)) {
            if chunk.0 >= end {
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
            let marked = self.next_marked(from, pending.record.chunks, |e| e.present || e.changed.0 > 0)?;
            let absent = if pending.is_full() { self.next_absent(from) } else { None };
            let all = [data, marked, absent, pending.sink()?.next_in_base(from)?];
            let record = &pending.record;
            match all.into_iter().flatten().min().filter(|c| c.0 < record.chunks) {
                None => return Ok(None),
                Some(c) if record.comparing == Untrusted::All || self.intent.is_set(c.offset()) => return Ok(Some(c)),
                Some(c) => {
                    let entry = self.map.entry(&*self.store, c)?;
                    if entry.changed > record.base_p && entry.changed <= record.p {
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
            .any(|x| x.record.snapshot == record.snapshot && x.record.comparing != Untrusted::No);
        let unannounced = self.unannounced.load(Ordering::Acquire);
        // Before the header forgets it: nothing would remove the spill later.
        self.unpublish(record.snapshot);
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
        // With the header, so that no snapshot begins meanwhile, on a spill that is being removed.
        let _header = self.header.lock();
        let mut live = self.live.write();
        let pending: Vec<_> = live.pending.iter().filter(|p| p.record.snapshot != snapshot).cloned().collect();
        let spill = live.spill.clone().filter(|_| !pending.is_empty());
        let unneeded = live.spill.is_some() && spill.is_none();
        *live = Arc::new(Live { epoch: live.epoch, pending, spill });
        if unneeded {
            self.remove_spill();
        }
    }

    /// Removes the spill file, if there is one.
    pub(super) fn remove_spill(&self) {
        if let Err(err) = self.spills.remove_spill(self.id) {
            tracing::warn!("remove the spill of {}: {err}; the next snapshot replaces it", self.id);
        }
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
