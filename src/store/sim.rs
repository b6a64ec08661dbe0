//! A disk in memory that tests crash: synced data stays; unsynced data may stay, vanish or tear at 512 bytes.
//!
//! Faults are scripted: the n-th write or sync from now fails, or everything from there on does (a dead machine).

use super::{BlockStore, SpillFile, SpillSpace, StoreIdentity, Stored};
use crate::cipher::Sealed;
use crate::units::VolumeId;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 512;
/// Bytes in an allocation block of the simulated file system.
const BLOCK: u64 = 4096;
type Page = Box<[u8; PAGE]>;

#[derive(Default)]
struct Disk {
    size: u64,
    /// The disk's identity.
    number: u64,
    /// What reads return.
    now: BTreeMap<u64, Page>,
    /// What is sure to survive power loss.
    durable: BTreeMap<u64, Page>,
    /// Pages written since the last sync, in order, with every content they had.
    pending: Vec<(u64, Page)>,
    /// Pages written before a sync that failed: they may be on the disk or not, and no later sync puts them there.
    lost: Vec<(u64, Page)>,
    /// Fails the operation when it reaches zero.
    fail_in: Option<(u64, bool)>,
    dead: bool,
    /// The next sync fails.
    bad_sync: bool,
    no_spill: bool,
    /// The spill of the volume that is on it.
    spill: Option<Arc<File>>,
    /// Nothing is cached: a read that may not wait gets nothing.
    cold: bool,
    /// 4 KiB blocks that are allocated; punching frees them.
    allocated: BTreeSet<u64>,
    /// No free space for more blocks.
    full: bool,
    /// 512-byte sectors that are unreadable until written.
    bad: BTreeSet<u64>,
    /// The answers of [`BlockStore::next_data`].
    seek: Seek,
    /// Runs before the next grow.
    before_grow: Option<Box<dyn FnOnce() + Send>>,
    before_sync: Option<Box<dyn FnOnce() + Send>>,
    /// Runs before the next read of this many bytes.
    before_read: Option<(usize, Box<dyn FnOnce() + Send>)>,
    writes: u64,
    syncs: u64,
}

/// How the file system reports holes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Seek {
    /// What was never written is a hole.
    #[default]
    Truth,
    /// No holes, as where SEEK_DATA is not supported.
    AllData,
    /// Nothing but holes, which is wrong.
    AllHoles,
}

/// The simulated store. Clones share the disk.
#[derive(Clone, Default)]
pub(crate) struct SimStore(Arc<Mutex<Disk>>);

impl SimStore {
    pub(crate) fn new(size: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let sim = Self::default();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (sim.0.lock().size, sim.0.lock().number) = (size, number);
        sim
    }

    /// Returns the disk after power loss: of the writes since the last sync, each 512-byte page independently keeps a
    /// prefix of its history, chosen by `pick(n)` (a number below n).
    pub(crate) fn power_loss(&self, mut pick: impl FnMut(usize) -> usize) -> Self {
        let disk = self.0.lock();
        let mut after = Disk { size: disk.size, durable: disk.durable.clone(), ..disk.kept() };
        let mut histories: BTreeMap<u64, Vec<&Page>> = BTreeMap::new();
        for (at, page) in disk.lost.iter().chain(&disk.pending) {
            histories.entry(*at).or_default().push(page);
        }
        for (at, history) in histories {
            let n = pick(history.len() + 1);
            if n > 0 {
                after.durable.insert(at, history[n - 1].clone());
            }
        }
        after.now = after.durable.clone();
        Self(Arc::new(Mutex::new(after)))
    }

    /// Returns the disk after SIGKILL: every write that returned is there.
    pub(crate) fn killed(&self) -> Self {
        let disk = self.0.lock();
        let after = Disk {
            size: disk.size,
            now: disk.now.clone(),
            durable: disk.durable.clone(),
            pending: disk.pending.clone(),
            lost: disk.lost.clone(),
            ..disk.kept()
        };
        Self(Arc::new(Mutex::new(after)))
    }

    /// Makes the `n`-th write or sync from now fail (0: the next); `for_good`: and everything after it.
    pub(crate) fn fail_in(&self, n: u64, for_good: bool) {
        self.0.lock().fail_in = Some((n, for_good));
    }

    /// Makes the next sync fail, and lose what it should have made durable.
    pub(crate) fn fail_sync(&self) {
        self.0.lock().bad_sync = true;
    }

    /// Makes [`SpillSpace::create_spill`] fail from now on, and appends to an existing spill.
    pub(crate) fn without_spill(&self) {
        let mut disk = self.0.lock();
        disk.no_spill = true;
        if let Some(spill) = &disk.spill {
            rustix::fs::fcntl_add_seals(&**spill, SealFlags::GROW).unwrap();
        }
    }

    /// Sets whether writes fail that would allocate a block.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Makes the sector that contains `offset` unreadable until it is written.
    pub(crate) fn spoil(&self, offset: u64) {
        self.0.lock().bad.insert(offset / PAGE as u64);
    }

    /// Loses a range: it reads as zeros, is not allocated, and is a hole.
    pub(crate) fn punch(&self, offset: u64, len: u64) {
        let mut disk = self.0.lock();
        let pages = offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64);
        disk.now.retain(|at, _| !pages.contains(at));
        disk.durable.retain(|at, _| !pages.contains(at));
        disk.pending.retain(|(at, _)| !pages.contains(at));
        disk.lost.retain(|(at, _)| !pages.contains(at));
        let blocks = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
        disk.allocated.retain(|b| !blocks.contains(b));
    }

    /// Truncates the disk, which a store never does itself.
    pub(crate) fn truncate(&self, size: u64) {
        let mut disk = self.0.lock();
        disk.size = size;
        let end = size.div_ceil(PAGE as u64);
        disk.now.split_off(&end);
        disk.durable.split_off(&end);
        disk.pending.retain(|(at, _)| *at < end);
        disk.lost.retain(|(at, _)| *at < end);
    }

    /// Sets how it reports holes from now on.
    pub(crate) fn set_seek(&self, seek: Seek) {
        self.0.lock().seek = seek;
    }

    /// Runs `act` once, before the next grow.
    pub(crate) fn before_grow(&self, act: impl FnOnce() + Send + 'static) {
        self.0.lock().before_grow = Some(Box::new(act));
    }

    /// Runs `act` once, before the next sync.
    pub(crate) fn before_sync(&self, act: impl FnOnce() + Send + 'static) {
        self.0.lock().before_sync = Some(Box::new(act));
    }

    /// Sets whether reads have to wait for the disk from now on.
    pub(crate) fn set_cold(&self, cold: bool) {
        self.0.lock().cold = cold;
    }

    /// Runs `act` once, before the next read of `len` bytes.
    pub(crate) fn before_read(&self, len: usize, act: impl FnOnce() + Send + 'static) {
        self.0.lock().before_read = Some((len, Box::new(act)));
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    pub(crate) fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    /// Flips bits of one byte on the disk: what reads return and what survives power loss.
    pub(crate) fn poke(&self, offset: u64, xor: u8) {
        let mut disk = self.0.lock();
        let at = offset / PAGE as u64;
        for map in [true, false] {
            let side = if map { &mut disk.now } else { &mut disk.durable };
            side.entry(at).or_insert_with(|| Box::new([0; PAGE]))[(offset % PAGE as u64) as usize] ^= xor;
        }
    }
}

impl Disk {
    /// Copies what a crash does not change.
    fn kept(&self) -> Self {
        let (allocated, bad, spill) = (self.allocated.clone(), self.bad.clone(), self.spill.clone());
        Self { allocated, bad, spill, full: self.full, seek: self.seek, number: self.number, ..Self::default() }
    }

    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if let Some((n, for_good)) = self.fail_in {
            if n == 0 {
                self.fail_in = None;
                self.dead = for_good;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            self.fail_in = Some((n - 1, for_good));
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.step()?;
        self.writes += 1;
        if offset + data.len() as u64 > self.size {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let blocks = offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK);
        if self.full && blocks.clone().any(|b| !self.allocated.contains(&b)) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.allocated.extend(blocks);
        let mut done = 0;
        while done < data.len() {
            let at = (offset + done as u64) / PAGE as u64;
            let skip = ((offset + done as u64) % PAGE as u64) as usize;
            let n = (PAGE - skip).min(data.len() - done);
            self.bad.remove(&at);
            let page = self.now.entry(at).or_insert_with(|| Box::new([0; PAGE]));
            page[skip..skip + n].copy_from_slice(&data[done..done + n]);
            let copy = page.clone();
            self.pending.push((at, copy));
            done += n;
        }
        Ok(())
    }
}

impl BlockStore for SimStore {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().size)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let act = self.0.lock().before_read.take_if(|(len, _)| *len == out.len());
        if let Some((_, act)) = act {
            act();
        }
        let disk = self.0.lock();
        if offset + out.len() as u64 > disk.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = offset + out.len() as u64;
        if disk.bad.range(offset / PAGE as u64..end.div_ceil(PAGE as u64)).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        out.fill(0);
        for (at, page) in disk.now.range(offset / PAGE as u64..end.div_ceil(PAGE as u64)) {
            let start = at * PAGE as u64;
            let (from, to) = (start.max(offset), (start + PAGE as u64).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn read_at_nowait(&self, out: &mut [u8], offset: u64) -> io::Result<bool> {
        if self.0.lock().cold {
            return Ok(false);
        }
        self.read_at(out, offset).map(|()| true)
    }

    fn write_at(&self, data: Sealed<'_>, offset: u64) -> io::Result<()> {
        self.0.lock().put(data.bytes(), offset)
    }

    fn write_meta(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.lock().put(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, keep: bool) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        if keep {
            let blocks = offset / BLOCK..(offset + len).div_ceil(BLOCK);
            if disk.full && blocks.clone().any(|b| !disk.allocated.contains(&b)) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            disk.allocated.extend(blocks);
        } else {
            let whole = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
            disk.allocated.retain(|b| !whole.contains(b));
        }
        let (first, last) = (offset / PAGE as u64, (offset + len).div_ceil(PAGE as u64));
        let touched: Vec<u64> = disk.now.range(first..last).map(|(at, _)| *at).collect();
        assert!(offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE as u64), "only whole parts are zeroed");
        for at in touched {
            disk.now.insert(at, Box::new([0; PAGE]));
            disk.pending.push((at, Box::new([0; PAGE])));
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let disk = self.0.lock();
        let found = disk.now.range(offset / PAGE as u64..).next().map(|(at, _)| (at * PAGE as u64).max(offset));
        Ok(match disk.seek {
            Seek::Truth => found,
            Seek::AllData => Some(offset).filter(|at| *at < disk.size),
            Seek::AllHoles => None,
        })
    }

    fn stored(&self, offset: u64, len: u64) -> io::Result<(u64, Stored)> {
        let disk = self.0.lock();
        let kind = |at: u64| if disk.allocated.contains(&(at / BLOCK)) { Stored::Zeros } else { Stored::Hole };
        let mut end = (offset / BLOCK + 1) * BLOCK;
        while end < offset + len && kind(end) == kind(offset) {
            end += BLOCK;
        }
        Ok((len.min(end - offset), kind(offset)))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let disk = self.0.lock();
        if disk.seek == Seek::AllData {
            return Ok(disk.size);
        }
        let mut at = offset / PAGE as u64;
        while disk.now.contains_key(&at) {
            at += 1;
        }
        Ok((at * PAGE as u64).max(offset).min(disk.size))
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let act = self.0.lock().before_grow.take();
        if let Some(act) = act {
            act();
        }
        let mut disk = self.0.lock();
        disk.size = disk.size.max(size);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let act = self.0.lock().before_sync.take();
        if let Some(act) = act {
            act();
        }
        let mut disk = self.0.lock();
        let told = std::mem::take(&mut disk.bad_sync).then(|| Err(io::Error::from_raw_os_error(libc::EIO)));
        if let Err(err) = told.unwrap_or_else(|| disk.step()) {
            let pending = std::mem::take(&mut disk.pending);
            disk.lost.extend(pending);
            return Err(err);
        }
        disk.syncs += 1;
        for (at, page) in std::mem::take(&mut disk.pending) {
            disk.lost.retain(|(lost, _)| *lost != at);
            disk.durable.insert(at, page);
        }
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<StoreIdentity> {
        Ok(StoreIdentity { holder: 1, number: self.0.lock().number, born: None })
    }
}

impl SpillSpace for SimStore {
    /// Not on the simulated disk, and not subject to its faults.
    fn create_spill(&self, _: VolumeId) -> io::Result<SpillFile> {
        let mut disk = self.0.lock();
        if disk.no_spill {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file: File = rustix::fs::memfd_create("spill", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into();
        disk.spill = Some(Arc::new(file.try_clone()?));
        Ok(SpillFile::over(file))
    }
    fn open_spill(&self, _: VolumeId) -> io::Result<Option<SpillFile>> {
        let spill = self.0.lock().spill.clone();
        spill.map(|file| file.try_clone().map(SpillFile::over)).transpose()
    }
    fn remove_spill(&self, _: VolumeId) -> io::Result<()> {
        self.0.lock().spill = None;
        Ok(())
    }
}
