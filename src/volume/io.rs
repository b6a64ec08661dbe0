//! Read, write, flush: bounds, map, cipher, store.
//!
//! A request is cut into pieces, each inside one chunk and at most 256 KiB. A writing piece holds its chunk's stripe
//! from when it reads the epoch to the end of its last `pwrite`. A reading piece holds nothing: it checks the stripe's
//! sequence before and after its `pread`, and reads again if a write was under way, so that it never opens a mix of
//! old, new and zero bytes.

use super::chunk_cache::Body;
use super::map::Entry;
use super::pending::{Pending, Saved};
use super::piece::{Piece, pieces};
use super::{Attempt, Blocking, Ciphers, Live, Volume};
use crate::cipher::xts::At;
use crate::cipher::{Sealed, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::{ChunkNo, Epoch, KeyEpoch, SECTOR, SUBSECTOR};
use parking_lot::{MappedRwLockReadGuard, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Attempts of a reader without the lock.
const TRIES: usize = 4;

/// Size limit of a piece for which the connection's own thread preserves sectors for a snapshot, in bytes.
pub(super) const ASIDE_INLINE: usize = 64 << 10;

/// What a writing piece does to its subsectors.
pub(super) enum Change<'a> {
    Data(&'a mut [u8]),
    Zero { keep: bool },
}

/// What a writing piece came to under its chunk's stripe.
enum Step {
    Done,
    WouldBlock,
    /// The chunk is absent: its bytes have to be fetched.
    Fetch,
    /// The chunk has to be copied to this snapshot.
    Copy(Arc<Pending>),
}

impl Volume {
    /// Reads plain bytes.
    ///
    /// # Errors
    /// [`Kind::Usage`] out of bounds; [`Kind::KeyUnavailable`] without the key; [`Kind::Integrity`] where map, snapshot
    /// or chunk are damaged; what the store reports.
    pub fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.bounds("read", offset, out.len() as u64)?;
        if !is_parts(offset, out.len()) {
            return self.read_ragged(offset, out, blocking);
        }
        let mut rest = out;
        for piece in pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.len);
            rest = later;
            if self.read_parts(piece, now, blocking)? == Attempt::WouldBlock {
                return Ok(Attempt::WouldBlock);
            }
        }
        Ok(Attempt::Done)
    }

    /// A read that does not start or end at a subsector: reads the whole subsectors around it, and copies what was
    /// asked for.
    fn read_ragged(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        let part = SUBSECTOR as u64;
        let (start, end) = (offset / part * part, (offset + out.len() as u64).div_ceil(part) * part);
        let mut whole = vec![0u8; (end - start) as usize];
        let done = self.read(start, &mut whole, blocking)?;
        if done == Attempt::Done {
            let skip = (offset - start) as usize;
            out.copy_from_slice(&whole[skip..skip + out.len()]);
        }
        Ok(done)
    }

    fn read_parts(&self, piece: Piece, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        let at = part_at(piece.offset)?;
        let entry = self.map.entry(&*self.store, piece.chunk)?;
        if self.is_virgin(piece.chunk, entry)? {
            self.must_be_unlocked()?;
            out.fill(0);
            return Ok(Attempt::Done);
        }
        if !self.is_here(piece.chunk, entry)? {
            self.must_be_unlocked()?;
            let Some(body) = self.parents_bytes(piece.chunk, blocking)? else { return Ok(Attempt::WouldBlock) };
            let skip = (piece.offset - piece.chunk.offset()) as usize;
            self.open_ciphers()?.of(body.key)?.open_parts_to(at, &body.sealed[skip..skip + out.len()], out);
            return Ok(Attempt::Done);
        }
        let Some(key) = self.read_with_key(piece, entry, SealedMut::over(out), blocking)? else {
            return Ok(Attempt::WouldBlock);
        };
        self.open_ciphers()?.of(key)?.open_parts(at, out);
        Ok(Attempt::Done)
    }

    /// Reads sealed bytes and the key epoch that they belong to. Checks the map again after reading: the first write to
    /// a chunk sets its key before it writes data, so if the entry has not changed, it belongs to the bytes.
    fn read_with_key(
        &self,
        piece: Piece,
        entry: Entry,
        mut out: SealedMut<'_>,
        blocking: Blocking,
    ) -> Result<Option<KeyEpoch>> {
        let mut key = entry.key;
        loop {
            if !self.read_sealed(piece.chunk, piece.offset, out.again(), blocking)? {
                return Ok(None);
            }
            let now = self.map.entry(&*self.store, piece.chunk)?.key;
            if now == key {
                return Ok(Some(key));
            }
            key = now;
        }
    }

    /// Reads sealed bytes of a chunk that is here, never a mix of two writes. `false`: it would have had to wait.
    pub(super) fn read_sealed(
        &self,
        chunk: ChunkNo,
        offset: u64,
        mut out: SealedMut<'_>,
        blocking: Blocking,
    ) -> Result<bool> {
        let stripe = self.stripe(chunk);
        for _ in 0..TRIES {
            let before = stripe.sequence.load(Ordering::Acquire);
            if before & 1 == 1 {
                std::hint::spin_loop();
                continue;
            }
            if !self.read_sealed_held(offset, out.again(), blocking)? {
                return Ok(false);
            }
            fence(Ordering::Acquire);
            if stripe.sequence.load(Ordering::Relaxed) == before {
                return Ok(true);
            }
        }
        if blocking == Blocking::Never {
            return Ok(false);
        }
        let _held = stripe.lock.lock();
        self.read_sealed_held(offset, out, blocking)
    }

    /// Reads sealed bytes without synchronisation: the stripe is held, or its sequence checked before and after.
    /// `false`: it would have had to wait.
    pub(super) fn read_sealed_held(&self, offset: u64, out: SealedMut<'_>, blocking: Blocking) -> Result<bool> {
        let what = || format!("read at {offset} of {}", self.id);
        let at = self.data_offset + offset;
        match blocking {
            Blocking::Never => self.store.read_sealed_nowait(out, at).on(what),
            Blocking::Allowed => self.store.read_sealed(out, at).on(what).map(|()| true),
        }
    }

    /// Writes plain bytes. Seals them in place: the contents of `data` must not be used afterwards, unless the result
    /// is [`Attempt::WouldBlock`], which leaves it unchanged.
    ///
    /// # Errors
    /// As [`Volume::read`]; [`Kind::NoSpace`]; [`Kind::ReadOnly`]. After an error any part of it may have been written.
    pub fn write(&self, offset: u64, data: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.may_write("write", offset, data.len() as u64)?;
        if blocking == Blocking::Never && !self.write_would_go_through(offset, data.len() as u64)? {
            return Ok(Attempt::WouldBlock);
        }
        let mut rest = data;
        for piece in pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.len);
            rest = later;
            // Once a piece is sealed in place and written, the request has to be finished here, even if that blocks.
            let blocking = if piece.offset == offset { blocking } else { Blocking::Allowed };
            if self.change(piece, &mut Change::Data(now), blocking)? == Attempt::WouldBlock {
                return Ok(Attempt::WouldBlock);
            }
            if let Some((at, len)) = self.writeback.after_write(piece.offset, piece.len) {
                self.store.start_writeback(self.data_offset + at, len);
            }
        }
        Ok(Attempt::Done)
    }

    /// Checks without locks for anything that would make an inline write wait.
    fn write_would_go_through(&self, offset: u64, len: u64) -> Result<bool> {
        let live = self.live.read().clone();
        if !self.opened.load(Ordering::Acquire) {
            return Ok(false);
        }
        for piece in pieces(offset, len) {
            let entry = self.map.entry(&*self.store, piece.chunk)?;
            if !self.piece_is_plain(&live, piece, entry)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a piece of data needs neither a fetch nor a sync, and not more sectors preserved than takes moments.
    fn piece_is_plain(&self, live: &Live, piece: Piece, entry: Entry) -> Result<bool> {
        let Piece { chunk, len, .. } = piece;
        Ok(self.opened.load(Ordering::Acquire)
            && self.intent.is_set(chunk.offset())
            && !self.is_virgin(chunk, entry)?
            && self.is_here(chunk, entry)?
            && (len <= ASIDE_INLINE || !live.pending.iter().any(|p| p.needs(chunk, entry, live.epoch))))
    }

    /// Makes all completed writes, of all connections, survive power loss.
    ///
    /// # Errors
    /// The first sync error of this volume, now and for ever.
    pub fn flush(&self) -> Result<()> {
        self.sync()
    }

    /// Does one writing piece. What may wait for a repository (a fetch, a copy to a snapshot) is done without the stripe.
    pub(super) fn change(&self, piece: Piece, change: &mut Change<'_>, blocking: Blocking) -> Result<Attempt> {
        let mut fetched = None;
        loop {
            match self.change_held(piece, change, blocking, fetched.as_ref())? {
                Step::Done => return Ok(Attempt::Done),
                Step::WouldBlock => return Ok(Attempt::WouldBlock),
                Step::Fetch => fetched = Some(self.fetch(piece.chunk)?),
                Step::Copy(pending) => self.hand_over(&pending, piece.chunk),
            }
        }
    }

    /// Does one writing piece, under its chunk's stripe, unless something has to be done without the stripe first.
    fn change_held(
        &self,
        piece: Piece,
        change: &mut Change<'_>,
        blocking: Blocking,
        fetched: Option<&Body<KeyEpoch>>,
    ) -> Result<Step> {
        self.must_be_unlocked()?;
        let stripe = self.stripe(piece.chunk);
        let held = match blocking {
            Blocking::Allowed => stripe.lock.lock(),
            Blocking::Never => match stripe.lock.try_lock() {
                Some(held) => held,
                None => return Ok(Step::WouldBlock),
            },
        };
        let live = self.live.read().clone();
        let entry = self.map.entry(&*self.store, piece.chunk)?;
        if blocking == Blocking::Never && !self.piece_is_plain(&live, piece, entry)? {
            return Ok(Step::WouldBlock);
        }
        self.mark_opened()?;
        self.announce(piece.offset)?;
        let Some(entry) = self.make_here(piece.chunk, entry, fetched)? else { return Ok(Step::Fetch) };
        match self.save_before_write(&live, piece, entry, blocking)? {
            Saved::Yes => {}
            Saved::WouldBlock => return Ok(Step::WouldBlock),
            Saved::CopyFirst(pending) => return Ok(Step::Copy(pending)),
        }
        let key = self.mark_changed(piece.chunk, entry, live.epoch)?;
        // Not earlier: suspending waits for those who hold the ciphers, and must not wait for a sync. If they have been
        // wiped by now, the chunk keeps its contents, and is only marked as changed.
        let ciphers = self.open_ciphers()?;
        match change {
            Change::Data(data) => self.put_data(&ciphers, key, piece, data)?,
            Change::Zero { keep } => self.put_zeros(&ciphers, key, piece, *keep)?,
        }
        drop(held);
        Ok(Step::Done)
    }

    /// Marks the chunk as changed in this epoch, before the data is written (docs/format.md, section 3, "changed").
    fn mark_changed(&self, chunk: ChunkNo, entry: Entry, epoch: Epoch) -> Result<KeyEpoch> {
        if entry.changed == epoch && entry.present {
            return Ok(entry.key);
        }
        // A chunk without data is sealed under the newest key; any other keeps its own.
        let key = if entry.changed.0 == 0 && !entry.present { self.current_key() } else { entry.key };
        self.map.mark(&*self.store, &[chunk], |_, _| Entry { present: true, key, changed: epoch })?;
        Ok(key)
    }

    fn put_data(&self, ciphers: &Ciphers, key: KeyEpoch, piece: Piece, data: &mut [u8]) -> Result<()> {
        let part = SUBSECTOR as u64;
        let end = piece.offset + data.len() as u64;
        let (first, last) = (piece.offset.div_ceil(part) * part, end / part * part);
        if first > last {
            return self.write_partial(ciphers, key, piece.chunk, piece.offset, data);
        }
        let (head, rest) = data.split_at_mut((first - piece.offset) as usize);
        let (whole, tail) = rest.split_at_mut((last - first) as usize);
        if !head.is_empty() {
            self.write_partial(ciphers, key, piece.chunk, piece.offset, head)?;
        }
        if !whole.is_empty() {
            let sealed = ciphers.of(key)?.seal(part_at(first)?, whole);
            self.count_sealed(key, sealed.bytes().len());
            self.store_sealed(piece.chunk, first, sealed)?;
        }
        if !tail.is_empty() {
            self.write_partial(ciphers, key, piece.chunk, last, tail)?;
        }
        Ok(())
    }

    /// Changes some bytes of one subsector: read, open, change, seal, write. The stripe is held.
    fn write_partial(&self, ciphers: &Ciphers, key: KeyEpoch, chunk: ChunkNo, offset: u64, bytes: &[u8]) -> Result<()> {
        let start = offset / SUBSECTOR as u64 * SUBSECTOR as u64;
        let mut part = [0u8; SUBSECTOR];
        self.store.read_at(&mut part, self.data_offset + start).on(|| format!("read at {start} of {}", self.id))?;
        let (cipher, at) = (ciphers.of(key)?, part_at(start)?);
        cipher.open_parts(at, &mut part);
        let skip = (offset - start) as usize;
        part[skip..skip + bytes.len()].copy_from_slice(bytes);
        let sealed = cipher.seal(at, &mut part);
        self.count_sealed(key, SUBSECTOR);
        self.store_sealed(chunk, start, sealed)
    }

    fn put_zeros(&self, ciphers: &Ciphers, key: KeyEpoch, piece: Piece, keep: bool) -> Result<()> {
        let part = SUBSECTOR as u64;
        let end = piece.offset + piece.len as u64;
        let (first, last) = (piece.offset.div_ceil(part) * part, end / part * part);
        let zeros = [0u8; SUBSECTOR];
        if first > last {
            return self.write_partial(ciphers, key, piece.chunk, piece.offset, &zeros[..piece.len]);
        }
        if first > piece.offset {
            self.write_partial(ciphers, key, piece.chunk, piece.offset, &zeros[..(first - piece.offset) as usize])?;
        }
        if last > first {
            let what = || format!("zero {} bytes at {first} of {}", last - first, self.id);
            self.changing(piece.chunk, || self.store.zero(self.data_offset + first, last - first, keep)).on(what)?;
        }
        if end > last {
            self.write_partial(ciphers, key, piece.chunk, last, &zeros[..(end - last) as usize])?;
        }
        Ok(())
    }

    pub(super) fn store_sealed(&self, chunk: ChunkNo, offset: u64, sealed: Sealed<'_>) -> Result<()> {
        self.changing(chunk, || self.store.write_at(sealed, self.data_offset + offset))
            .on(|| format!("write {} bytes at {offset} of {}", sealed.bytes().len(), self.id))
    }

    /// Runs a change of sealed bytes so that readers of the stripe notice it. The stripe's lock is held.
    pub(super) fn changing<T>(&self, chunk: ChunkNo, act: impl FnOnce() -> T) -> T {
        let sequence = &self.stripe(chunk).sequence;
        sequence.fetch_add(1, Ordering::AcqRel);
        let outcome = act();
        sequence.fetch_add(1, Ordering::AcqRel);
        outcome
    }

    fn count_sealed(&self, key: KeyEpoch, bytes: usize) {
        if let Some(i) = self.key_epochs.iter().position(|(e, _)| *e == key) {
            self.sealed_units[i].fetch_add(bytes.div_ceil(SECTOR) as u64, Ordering::Relaxed);
        }
    }

    /// Holds the ciphers while one piece is opened or sealed and stored: suspending waits for it.
    fn open_ciphers(&self) -> Result<MappedRwLockReadGuard<'_, Ciphers>> {
        RwLockReadGuard::try_map(self.ciphers.read(), Option::as_ref).map_err(|_| self.locked())
    }

    pub(super) fn must_be_unlocked(&self) -> Result<()> {
        if self.is_unlocked() { Ok(()) } else { Err(self.locked()) }
    }

    fn locked(&self) -> Error {
        Error::new(Kind::KeyUnavailable, format!("{} is suspended: its data key is not available", self.id))
            .hint("enable its CMK with `coffer key enable`, or run `coffer volume resume`")
    }

    pub(super) fn bounds(&self, verb: &str, offset: u64, len: u64) -> Result<()> {
        let size = self.size();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::new(
                Kind::Usage,
                format!("{verb} {len} bytes at {offset} of {}: past the end of the volume ({size} bytes)", self.id),
            ));
        }
        Ok(())
    }

    pub(super) fn may_write(&self, verb: &str, offset: u64, len: u64) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Io, format!("{verb} on {}: an earlier sync failed", self.id))
                .hint("see `coffer volume show`: writes that were not flushed may be lost"));
        }
        if !self.writable {
            return Err(Error::new(Kind::ReadOnly, format!("{verb} on {}: it is open read-only", self.id)));
        }
        self.bounds(verb, offset, len)
    }
}

const fn is_parts(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(SUBSECTOR as u64) && len.is_multiple_of(SUBSECTOR)
}

fn part_at(offset: u64) -> Result<At> {
    At::new(offset).ok_or_else(|| Error::new(Kind::Failed, format!("offset {offset} is not at a part")))
}
