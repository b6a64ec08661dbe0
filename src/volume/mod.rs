//! Volumes: where plaintext meets the store.
//!
//! - [`io`]: read, write, flush. Bounds, then map, then cipher, then store. `zero`: TRIM and WRITE_ZEROES.
//! - [`begin`]: fixes a point in time, of one volume or of several at one instant.
//! - [`pending`]: points in time; sectors that a pending snapshot still needs are saved in its `spill` before they are
//!   overwritten.
//! - [`hydrate`]: chunks of a volume made from a snapshot are fetched when first touched, the rest in the background.
//! - [`chunk_cache`]: the chunks fetched last, each fetched once. [`ahead`]: which ones will be read next.
//! - [`extents`]: holes and changes, found without reading data.
//! - [`rollback`]: back to a snapshot, in place.
//! - [`lifecycle`]: create, open, unlock, suspend, grow, close.
//! - `writeback`: starts long runs of writes on their way to the disk before anyone flushes.
//! - [`mod@format`], [`header`], [`map`], [`intent`], [`syncer`]: the file's structures, and when they are durable.
//!
//! Locks, in acquisition order: a chunk's stripe, then the header, then a map block. A stripe's holder may wait for a
//! fetch or a sync; a reader waits for a stripe only while a write to that chunk is under way.

pub mod ahead;
pub mod begin;
mod blocking;
pub mod chunk_cache;
mod clearing;
pub mod extents;
pub mod format;
pub mod header;
pub mod hydrate;
pub mod intent;
pub mod io;
pub mod lifecycle;
pub mod map;
mod missing;
pub mod parent;
pub mod pending;
mod piece;
pub mod rollback;
mod spill;
pub mod syncer;
mod writeback;
mod zero;

pub use blocking::{Attempt, Blocking, PIECE};
pub use header::id_in;

use crate::cipher::xts::XtsCipher;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::{BlockStore, SpillSpace};
use crate::units::{ChunkNo, DataKeyId, Epoch, KeyEpoch, SnapshotId, VolumeId};
use format::Untrusted;
use header::Header;
use intent::Intent;
use map::Map;
use parent::Parent;
use parking_lot::{Mutex, RwLock};
use pending::Pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use syncer::Syncer;
use writeback::WritebackWindows;

/// Locks for chunks: chunk c belongs to stripe c % STRIPES.
const STRIPES: usize = 256;

/// The open ciphers of a volume, by key epoch. Dropping it wipes them.
struct Ciphers(Vec<(KeyEpoch, XtsCipher)>);

impl Ciphers {
    fn of(&self, epoch: KeyEpoch) -> Result<&XtsCipher> {
        self.0.iter().find(|(e, _)| *e == epoch).map(|(_, c)| c).ok_or_else(|| {
            Error::new(Kind::Integrity, format!("the map refers to key epoch {epoch}, which the header does not have"))
        })
    }
}

#[derive(Default)]
struct Stripe {
    lock: Mutex<()>,
    /// Odd while sealed bytes of one of its chunks are being changed.
    sequence: AtomicU64,
}

/// What each piece of a request needs: its epoch, and the snapshots that may still need what it overwrites.
#[derive(Default)]
struct Live {
    epoch: Epoch,
    pending: Vec<Arc<Pending>>,
    /// Where their sectors are saved; `None`: none is pending, or nothing can be saved.
    spill: Option<Arc<spill::Spill>>,
}

/// An open volume file. Without its data key (before [`Volume::unlock`], or suspended) it can be snapshotted, but not
/// read.
pub struct Volume {
    env: Env,
    store: Arc<dyn BlockStore>,
    spills: Arc<dyn SpillSpace>,
    id: VolumeId,
    data_offset: u64,
    map_generation: u32,
    size: AtomicU64,
    writable: bool,
    header: Mutex<Header>,
    map: Map,
    intent: Intent,
    syncer: Arc<Syncer>,
    writeback: WritebackWindows,
    live: RwLock<Arc<Live>>,
    key_epochs: Vec<(KeyEpoch, DataKeyId)>,
    ciphers: RwLock<Option<Ciphers>>,
    stripes: Box<[Stripe]>,
    parent: Option<Arc<dyn Parent>>,
    hydration: hydrate::Hydration,
    /// The state on disk records that this volume may have been written.
    opened: AtomicBool,
    untrusted: Mutex<Untrusted>,
    /// A write-intent bit could not be written: the map is not trusted again before the volume is reopened.
    unannounced: AtomicBool,
    /// Held from the comparison of sizes until the new size is published. Taken before the header.
    grows: Mutex<()>,
    /// A sync failed: no more writes.
    failed: AtomicBool,
    /// Called once when that happens.
    on_failed_sync: OnceLock<Box<dyn Fn() + Send + Sync>>,
    sealed_units: Vec<AtomicU64>,
    /// Snapshots of the header that cannot be continued, and why.
    lost: Vec<(SnapshotId, String)>,
}

impl Volume {
    /// Returns the volume's id.
    pub const fn id(&self) -> VolumeId {
        self.id
    }

    /// Returns the size of the volume's data, in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether it was opened for writing, and no sync has failed since.
    pub fn is_writable(&self) -> bool {
        self.writable && !self.failed.load(Ordering::Acquire)
    }

    /// Whether the volume has its data key.
    pub fn is_unlocked(&self) -> bool {
        self.ciphers.read().is_some()
    }

    /// Calls `look` with the current header.
    pub fn with_header<T>(&self, look: impl FnOnce(&Header) -> T) -> T {
        look(&self.header.lock())
    }

    /// Returns the epoch of the next write.
    pub fn epoch(&self) -> Epoch {
        self.live.read().epoch
    }

    /// Returns how many XTS units each data key has sealed so far, as (epoch, units).
    pub fn sealed_units(&self) -> Vec<(KeyEpoch, u64)> {
        self.key_epochs.iter().zip(&self.sealed_units).map(|((e, _), n)| (*e, n.load(Ordering::Relaxed))).collect()
    }

    fn stripe(&self, chunk: ChunkNo) -> &Stripe {
        &self.stripes[(chunk.0 % STRIPES as u64) as usize]
    }

    fn current_key(&self) -> KeyEpoch {
        self.key_epochs.last().map_or(KeyEpoch(0), |(e, _)| *e)
    }

    fn sync(&self) -> Result<()> {
        self.writeback.forget();
        let outcome = self.syncer.sync(&*self.store, || self.id.to_string());
        self.notice_failed_sync();
        outcome
    }

    /// Changes the header. Its syncs are the volume's: a failed one has the same consequences.
    fn with_header_mut<T>(&self, change: impl FnOnce(&mut Header) -> Result<T>) -> Result<T> {
        let outcome = change(&mut self.header.lock());
        if outcome.is_err() {
            self.notice_failed_sync();
        }
        outcome
    }

    /// Handles a failed sync, once, whoever met it. The caller must not hold the header's lock.
    fn notice_failed_sync(&self) {
        if self.syncer.has_failed() && !self.failed.swap(true, Ordering::AcqRel) {
            self.record_failed_sync();
        }
    }

    /// Makes the volume read-only, fails pending snapshots, and records that in the state until someone accepts it
    /// (docs/format.md, section 3, "flush, FUA").
    fn record_failed_sync(&self) {
        tracing::error!("{}: a sync failed, acknowledged writes may be lost; the volume is read-only now", self.id);
        for pending in &self.live.read().pending {
            pending.fail(&Error::new(Kind::Io, format!("a sync of {} failed", self.id)));
        }
        if let Err(err) = self.header.lock().record_failure() {
            tracing::error!("{}: the failure could not be recorded in the header: {}", self.id, err.line());
        }
        if let Some(tell) = self.on_failed_sync.get() {
            tell();
        }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("id", &self.id).field("size", &self.size()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod complete_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod far_tests;
#[cfg(test)]
mod faults_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod volume_tests;
