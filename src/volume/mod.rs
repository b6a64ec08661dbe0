//! Volumes: where plaintext meets the store.
//!
//! - [`io`]: read, write, zero, flush. Bounds, then map, then cipher, then store.
//! - [`pending`]: points in time; what a snapshot under way still needs is set aside (`aside`) before it is overwritten.
//! - [`hydrate`]: chunks of a volume made from a snapshot are fetched when first touched, the rest in the background.
//! - [`fetched`]: what was fetched last, each chunk once.
//! - [`extents`]: holes and changes, told without reading.
//! - [`lifecycle`]: create, open, unlock, suspend, grow, close.
//! - `writeback`: long runs of writes go to the disk before anybody flushes.
//! - [`mod@format`], [`header`], [`map`], [`intent`], [`syncer`]: what lies on disk and when it is durable.
//!
//! Locks, in the order they are taken: a chunk's stripe, then the header, then a map block. A stripe's holder may wait for
//! a fetch or a sync; a reader never waits for a stripe unless a write to that chunk is being done.

mod blocking;
pub mod chunk_cache;
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
mod preserved;
pub mod syncer;
mod writeback;

pub use blocking::{Attempt, Blocking, PIECE};
pub use header::id_in;

use crate::cipher::xts::XtsCipher;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::{BlockStore, ScratchSpace};
use crate::units::{ChunkNo, DataKeyId, Epoch, KeyEpoch, VolumeId};
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

/// What pieces of requests look at: the epoch they belong to, and the snapshots that may still need what they overwrite.
#[derive(Default)]
struct Live {
    epoch: Epoch,
    pending: Vec<Arc<Pending>>,
}

/// An open volume file. Without its data key (before [`Volume::unlock`], or suspended) it can be snapshotted, not read.
pub struct Volume {
    env: Env,
    store: Arc<dyn BlockStore>,
    scratch: Arc<dyn ScratchSpace>,
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
    /// The state on disk says that this volume may have been written.
    opened: AtomicBool,
    untrusted: Mutex<Untrusted>,
    /// A write-intent bit could not be written: nothing but a new open makes the map believed again.
    unannounced: AtomicBool,
    /// Held from the comparison of sizes until the new size is announced. Taken before the header.
    grows: Mutex<()>,
    /// A sync failed: no more writes.
    failed: AtomicBool,
    /// Told of it, once.
    on_failed_sync: OnceLock<Box<dyn Fn() + Send + Sync>>,
    sealed_units: Vec<AtomicU64>,
}

impl Volume {
    /// The volume's id.
    pub const fn id(&self) -> VolumeId {
        self.id
    }

    /// Bytes a user sees.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether it was opened for writing, and no sync has failed since.
    pub fn is_writable(&self) -> bool {
        self.writable && !self.failed.load(Ordering::Acquire)
    }

    /// Whether the data key is at hand.
    pub fn is_unlocked(&self) -> bool {
        self.ciphers.read().is_some()
    }

    /// The header as it is now, for showing.
    pub fn with_header<T>(&self, look: impl FnOnce(&Header) -> T) -> T {
        look(&self.header.lock())
    }

    /// The epoch of the next write.
    pub fn epoch(&self) -> Epoch {
        self.live.read().epoch
    }

    /// XTS units sealed so far under each data key, as (epoch, units).
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

    /// Changes the header. Its syncs are the volume's: one that fails has the same consequences.
    fn with_header_mut<T>(&self, change: impl FnOnce(&mut Header) -> Result<T>) -> Result<T> {
        let outcome = change(&mut self.header.lock());
        if outcome.is_err() {
            self.notice_failed_sync();
        }
        outcome
    }

    /// What follows from a failed sync, once, whoever met it. The header is not locked by the caller.
    fn notice_failed_sync(&self) {
        if self.syncer.has_failed() && !self.failed.swap(true, Ordering::AcqRel) {
            self.record_failed_sync();
        }
    }

    /// Order 5: the volume goes read-only, pending snapshots fail, and the state says so until somebody accepts it.
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
mod crash_tests;
#[cfg(test)]
mod faults_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod volume_tests;
