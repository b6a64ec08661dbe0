//! A factory of simulated disks in memory, locked as files are. Whoever holds it can crash them.

use super::factory::{Access, Found, Room, Stores};
use super::sim::SimStore;
use super::watched::{Op, Watched};
use super::{BlockStore, SpillFile, SpillSpace};
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::VolumeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Simulated disks in memory. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct MemoryStores(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    kept: BTreeMap<VolumeId, Kept>,
    /// Unpublished disks.
    half: BTreeMap<VolumeId, SimStore>,
    /// Disks that belong to no volume, by name.
    strangers: BTreeMap<String, SimStore>,
    no_spill: bool,
    spills: BTreeMap<VolumeId, SimStore>,
    /// New disks have no free space.
    full: bool,
}

struct Kept {
    disk: SimStore,
    fence: Arc<Mutex<Fence>>,
}

/// The holders of a disk's lock.
#[derive(Default)]
struct Fence {
    readers: usize,
    writer: bool,
}

/// A handle's share of the lock, released by unlock or drop.
struct Held {
    fence: Arc<Mutex<Fence>>,
    access: Mutex<Option<Access>>,
}

impl Held {
    fn take(fence: &Arc<Mutex<Fence>>, access: Access) -> Option<Self> {
        let mut now = fence.lock();
        match access {
            _ if now.writer => return None,
            Access::Write if now.readers > 0 => return None,
            Access::Write => now.writer = true,
            Access::Read => now.readers += 1,
        }
        Some(Self { fence: fence.clone(), access: Mutex::new(Some(access)) })
    }

    fn give_back(&self) {
        match self.access.lock().take() {
            Some(Access::Write) => self.fence.lock().writer = false,
            Some(Access::Read) => self.fence.lock().readers -= 1,
            None => {}
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl MemoryStores {
    /// Returns a volume's disk, to break or inspect it while it is in use.
    pub(crate) fn disk(&self, id: VolumeId) -> SimStore {
        self.0.lock().kept[&id].disk.clone()
    }

    /// Simulates power loss: each disk keeps what was synced. No disk may be open.
    pub(crate) fn power_loss(&self) {
        let mut shelf = self.0.lock();
        for kept in shelf.kept.values_mut() {
            kept.disk = kept.disk.power_loss(|_| 0);
        }
        shelf.half.clear();
    }

    /// Puts a disk among those of the volumes.
    pub(crate) fn put_stranger(&self, name: &str, disk: SimStore) {
        self.0.lock().strangers.insert(name.to_owned(), disk);
    }

    /// Sets whether disks created from now on have no free space.
    pub(crate) fn make_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Makes [`SpillSpace::create_spill`] fail from now on.
    pub(crate) fn without_spill(&self) {
        self.0.lock().no_spill = true;
    }

    /// Returns the holder of a volume's spill.
    fn spill_of(&self, volume: VolumeId) -> SimStore {
        self.0.lock().spills.entry(volume).or_insert_with(|| SimStore::new(0)).clone()
    }
}

fn missing(id: VolumeId) -> Error {
    Error::new(Kind::NotFound, format!("there is no disk memory:{id}"))
}

impl SpillSpace for MemoryStores {
    fn create_spill(&self, volume: VolumeId) -> io::Result<SpillFile> {
        if self.0.lock().no_spill {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.spill_of(volume).create_spill(volume)
    }
    fn open_spill(&self, volume: VolumeId) -> io::Result<Option<SpillFile>> {
        self.spill_of(volume).open_spill(volume)
    }
    fn remove_spill(&self, volume: VolumeId) -> io::Result<()> {
        self.spill_of(volume).remove_spill(volume)
    }
}

impl Stores for MemoryStores {
    fn create(&self, id: VolumeId, size: u64, fill: &mut dyn FnMut(&dyn BlockStore) -> Result<()>) -> Result<()> {
        let disk = SimStore::new(size);
        disk.set_full(self.0.lock().full);
        self.0.lock().half.insert(id, disk.clone());
        fill(&disk)?;
        disk.sync().on(|| format!("create memory:{id}"))?;
        let mut shelf = self.0.lock();
        if shelf.kept.contains_key(&id) {
            return Err(Error::new(Kind::Exists, format!("there is a disk memory:{id} already")));
        }
        shelf.half.remove(&id);
        shelf.kept.insert(id, Kept { disk, fence: Arc::default() });
        Ok(())
    }

    fn open(&self, id: VolumeId, access: Access) -> Result<Arc<dyn BlockStore>> {
        let shelf = self.0.lock();
        let kept = shelf.kept.get(&id).ok_or_else(|| missing(id))?;
        let held = Held::take(&kept.fence, access)
            .ok_or_else(|| Error::new(Kind::Busy, format!("memory:{id}: another has it")))?;
        Ok(Arc::new(Watched::over(Arc::new(kept.disk.clone()), move |op| {
            if op == Op::Unlock {
                held.give_back();
            }
            if op.changes() && access == Access::Read {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            Ok(())
        })))
    }

    fn remove(&self, id: VolumeId) -> Result<()> {
        let mut shelf = self.0.lock();
        shelf.half.remove(&id);
        shelf.spills.remove(&id);
        shelf.kept.remove(&id);
        Ok(())
    }

    fn has_any(&self, id: VolumeId) -> bool {
        let shelf = self.0.lock();
        shelf.kept.contains_key(&id) || shelf.half.contains_key(&id)
    }

    fn room(&self, id: VolumeId) -> Result<Room> {
        let shelf = self.0.lock();
        let disk = &shelf.kept.get(&id).ok_or_else(|| missing(id))?.disk;
        let size = disk.size().on(|| format!("look at memory:{id}"))?;
        Ok(Room { size, taken: None })
    }

    fn place(&self, id: VolumeId) -> String {
        format!("memory:{id}")
    }

    fn list(&self) -> Result<Vec<Found>> {
        let shelf = self.0.lock();
        let found = |name: String, named: Option<VolumeId>, published| Found {
            key: name.clone().into(),
            place: format!("memory:{name}"),
            name,
            named,
            published,
        };
        let kept = shelf.kept.keys().map(|id| found(id.to_string(), Some(*id), true));
        let half = shelf.half.keys().map(|id| found(format!("{id}.new"), Some(*id), false));
        let strangers = shelf.strangers.keys().map(|name| found(name.clone(), None, false));
        Ok(kept.chain(half).chain(strangers).collect())
    }

    fn changed(&self) -> Option<Timestamp> {
        None
    }

    fn peek(&self, found: &Found, out: &mut [u8], offset: u64) -> Result<()> {
        let shelf = self.0.lock();
        let kept = found.named.filter(|_| found.published).and_then(|id| shelf.kept.get(&id)).map(|k| &k.disk);
        let half = found.named.filter(|_| !found.published).and_then(|id| shelf.half.get(&id));
        let disk = kept.or(half).or_else(|| shelf.strangers.get(&found.name));
        let disk = disk.ok_or_else(|| Error::new(Kind::NotFound, format!("{} is gone", found.place)))?;
        disk.read_at(out, offset).on(|| format!("read {}", found.place))
    }
}
