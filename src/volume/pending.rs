//! A point in time, without stopping: section 3 of docs/format.md.
//!
//! A snapshot's p is the epoch before its increment: it holds all pieces of epoch p and older. Taking one is a state
//! write and a counter; the copying goes on behind it. A writing piece that finds a chunk which a pending snapshot still
//! needs sets the old content of its sectors aside first, under the stripe, and the copier puts it over what it reads; or,
//! where that cannot be, copies the chunk itself. Whoever copies, the chunk is handed to the sink once, as it was at p.

use super::format::{BaseRecord, MAX_PENDING, PendingRecord, Untrusted};
use super::header::Header;
use super::io::Piece;
use super::map::Entry;
use super::preserved::{PreservedSectors, Taken};
use super::{Blocking, Live, Volume};
use crate::cipher::{Sealed, SealedBuf, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{CHUNK, ChunkNo, DataKeyId, Epoch, SnapshotId, chunks_in};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where the chunks of a snapshot go. Called from several threads.
pub trait ChunkSink: Send + Sync {
    /// Takes a chunk as it was at the snapshot's point in time ([`CHUNK`] bytes, zeros past the volume's end).
    ///
    /// # Errors
    /// When it cannot be kept: the snapshot fails, the volume goes on.
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()>;

    /// First chunk at or after `from` that the base has sectors for: a comparing snapshot must look at those too.
    ///
    /// # Errors
    /// When the base's tree cannot be read.
    fn next_in_base(&self, from: ChunkNo) -> Result<Option<ChunkNo>>;

    /// Chunks that it takes at most: those past them belong to a later size of the volume.
    fn chunks(&self) -> u64 {
        u64::MAX
    }
}

/// A snapshot under way.
pub struct Pending {
    record: PendingRecord,
    /// Chunks changed after this epoch are looked at.
    base_p: Epoch,
    comparing: Untrusted,
    /// Chunks that the volume had, and the snapshot has: it may grow meanwhile.
    chunks: u64,
    sink: Arc<dyn ChunkSink>,
    copied: Mutex<HashSet<u64>>,
    pub(super) preserved: PreservedSectors,
    failed: Mutex<Option<Error>>,
}

impl Pending {
    /// Which snapshot this is.
    pub const fn record(&self) -> &PendingRecord {
        &self.record
    }

    /// Gives the snapshot up; the first reason is kept.
    pub fn fail(&self, why: &Error) {
        self.failed.lock().get_or_insert_with(|| why.replay());
    }

    /// Why it was given up, if it was.
    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().as_ref().map(Error::replay)
    }

    /// Whether a chunk with this map entry has to be copied before a piece of epoch `now` may change it.
    pub(super) fn needs(&self, chunk: ChunkNo, entry: Entry, now: Epoch) -> bool {
        self.record.p < now && self.lacks(chunk, entry) && self.failed.lock().is_none()
    }

    /// Whether a chunk is the snapshot's and not copied. What is set aside of it is so whatever the map says by now.
    fn lacks(&self, chunk: ChunkNo, entry: Entry) -> bool {
        chunk.0 < self.chunks
            && (self.covers(entry) || self.preserved.holds(chunk))
            && !self.copied.lock().contains(&chunk.0)
    }

    /// Counts a chunk as copied, and answers what is to be put over its bytes as they are or were lately. Its stripe is held.
    fn take(&self, chunk: ChunkNo) -> Option<Taken> {
        self.copied.lock().insert(chunk.0);
        self.preserved.take(chunk)
    }

    fn covers(&self, entry: Entry) -> bool {
        entry.changed <= self.record.p && (self.comparing != Untrusted::No || entry.changed > self.base_p)
    }
}

/// What is asked of a snapshot to be begun.
pub struct Begin {
    /// Its id.
    pub snapshot: SnapshotId,
    /// When, milliseconds since 1970.
    pub time: i64,
    /// Where it goes.
    pub repository: crate::units::RepositoryId,
    /// The base it is an increment to; must be what [`Volume::base`] answered.
    pub base: Option<BaseRecord>,
    /// Where its chunks go.
    pub sink: Arc<dyn ChunkSink>,
}

impl Volume {
    /// The newest completed snapshot of the present map generation, or the parent that the volume was made from.
    pub fn base(&self) -> Option<BaseRecord> {
        let header = self.header.lock();
        let newest = header.state().base.clone().filter(|b| b.map_generation == self.map_generation);
        newest.or_else(|| {
            let parent = header.identity().parent.as_ref()?;
            let (snapshot, repository) = (parent.snapshot, parent.repository);
            Some(BaseRecord { snapshot, p: Epoch(0), repository, map_generation: self.map_generation })
        })
    }

    /// Snapshots that the header says are under way: at open, those that an earlier process left.
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
            // Chunks that were filled from a parent are marked as unchanged: without a base they have to be looked for. So has
            // everything when the base is older than what the map tells.
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

    /// The state write that fixes the point in time; the epoch that follows it.
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

    /// What a writing piece does before it changes a chunk: whoever still needs it gets what was there. The stripe is held.
    /// `false`: it would have had to wait.
    pub(super) fn save_before_write(
        &self,
        live: &Live,
        piece: Piece,
        entry: Entry,
        blocking: Blocking,
    ) -> Result<bool> {
        for pending in live.pending.iter().filter(|p| p.needs(piece.chunk, entry, live.epoch)) {
            match self.set_aside(&pending.preserved, piece, blocking) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(_) if blocking == Blocking::Never => return Ok(false),
                Err(err) => {
                    tracing::debug!("snapshot {}: {}; the chunk is copied", pending.record.snapshot, err.line());
                    self.hand_over(pending, piece.chunk, entry);
                }
            }
        }
        Ok(true)
    }

    /// Copies a chunk from a writer's thread. A failure is the snapshot's, never the client's write's.
    fn hand_over(&self, pending: &Pending, chunk: ChunkNo, entry: Entry) {
        let mut sealed = SealedBuf::holes(CHUNK);
        let copied = self.read_chunk(chunk, sealed.room()).and_then(|()| {
            pending.preserved.overlay(pending.take(chunk), sealed.room())?;
            pending.sink.put(chunk, sealed.sealed(), self.data_key_id(entry)?)
        });
        if let Err(err) = copied {
            tracing::warn!("snapshot {} fails: {}", pending.record.snapshot, err.line());
            pending.fail(&err);
        }
    }

    fn read_chunk(&self, chunk: ChunkNo, mut sealed: SealedMut<'_>) -> Result<()> {
        let len = self.chunk_len(chunk) as usize;
        sealed.range(len..CHUNK).clear();
        self.read_sealed_held(chunk.offset(), sealed.range(0..len), Blocking::Allowed).map(drop)
    }

    fn data_key_id(&self, entry: Entry) -> Result<DataKeyId> {
        self.key_epochs.iter().find(|(e, _)| *e == entry.key).map(|(_, id)| *id).ok_or_else(|| {
            Error::new(
                Kind::Integrity,
                format!("the map of {} refers to key epoch {}, which its header does not have", self.id, entry.key),
            )
        })
    }

    /// Copies all that the snapshot still needs. Other I/O goes on between chunks. `progress` gets the number of chunks
    /// copied so far, and may stop the copying by answering `false`.
    ///
    /// # Errors
    /// What made the snapshot fail.
    pub fn copy_pending(&self, pending: &Pending, mut progress: impl FnMut(u64) -> bool) -> Result<u64> {
        // Pieces of epoch p that are still being done hold their stripes: once each was free, all of them are in the map.
        for stripe in &self.stripes {
            drop(stripe.lock.lock());
        }
        let (mut at, mut copied) = (ChunkNo(0), 0);
        let mut sealed = SealedBuf::holes(CHUNK);
        // What was written meanwhile is behind the map's candidates, and all of it is set aside or copied by then.
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

    /// Reads a chunk without its stripe, so that no writer waits for that: what they change meanwhile they set aside.
    fn copy_one(&self, pending: &Pending, chunk: ChunkNo, sealed: &mut SealedBuf) -> Result<()> {
        let wanted = || -> Result<Option<Entry>> {
            let entry = self.map.entry(&*self.store, chunk)?;
            Ok((pending.lacks(chunk, entry) && self.is_here(chunk, entry)?).then_some(entry))
        };
        let ahead = wanted()?.is_some();
        if ahead {
            self.read_chunk(chunk, sealed.room())?;
        }
        let held = self.stripe(chunk).lock.lock();
        let Some(entry) = wanted()? else { return Ok(()) };
        if !ahead {
            self.read_chunk(chunk, sealed.room())?;
        }
        let taken = pending.take(chunk);
        drop(held); // what they change from here on, the snapshot has
        pending.preserved.overlay(taken, sealed.room())?;
        pending.sink.put(chunk, sealed.sealed(), self.data_key_id(entry)?)
    }

    /// First chunk at or after `from` that may belong into the snapshot.
    fn next_candidate(&self, pending: &Pending, from: ChunkNo) -> Result<Option<ChunkNo>> {
        let next = if pending.comparing == Untrusted::No {
            self.next_marked(pending, from, |e| e.changed > pending.base_p && e.changed <= pending.record.p)
        } else {
            self.next_compared(pending, from)
        };
        next.map(|found| found.filter(|c| c.0 < pending.chunks))
    }

    /// First chunk whose map entry is `wanted`.
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

    /// The same where the map's `changed` cannot be believed: all that the map has as ever written, all data of the file, and
    /// all that the base has. None of them stands alone: a file system may tell too few holes, or a map block be lost.
    fn next_compared(&self, pending: &Pending, mut from: ChunkNo) -> Result<Option<ChunkNo>> {
        loop {
            let what = || format!("find data of {}", self.id);
            let data = self.store.next_data(self.data_offset + from.offset()).on(what)?;
            let data = data.map(|d| ChunkNo::of(d - self.data_offset));
            let marked = self.next_marked(pending, from, |e| e.present || e.changed.0 > 0)?;
            let all = [data, marked, pending.sink.next_in_base(from)?];
            match all.into_iter().flatten().min().filter(|c| c.0 < pending.chunks) {
                None => return Ok(None),
                Some(c) if pending.comparing == Untrusted::All || self.intent.is_set(c.offset()) => return Ok(Some(c)),
                Some(c) => {
                    let entry = self.map.entry(&*self.store, c)?;
                    if entry.changed > pending.base_p && entry.changed <= pending.record.p {
                        return Ok(Some(c)); // its GiB was closed in order, so the map is right about it
                    }
                    from = ChunkNo(c.0 + 1);
                }
            }
        }
    }

    /// The snapshot is in its repository for good: the next one is an increment to it.
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

    /// The snapshot is given up: it never becomes a base.
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

    /// Sealed bytes of a chunk as they are now, for an export: no key is needed. `None`: absent here.
    ///
    /// # Errors
    /// What map or store report.
    pub fn read_sealed_chunk(&self, chunk: ChunkNo, mut out: SealedMut<'_>) -> Result<Option<DataKeyId>> {
        let entry = self.map.entry(&*self.store, chunk)?;
        let len = self.chunk_len(chunk) as usize;
        out.range(len..CHUNK).clear();
        if self.is_virgin(chunk, entry)? {
            out.clear();
            return Ok(Some(self.data_key_id(entry)?));
        }
        if !self.is_here(chunk, entry)? {
            return Ok(None);
        }
        self.read_sealed(chunk, chunk.offset(), out.range(0..len), Blocking::Allowed)?;
        Ok(Some(self.data_key_id(entry)?))
    }
}
