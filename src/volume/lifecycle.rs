//! Create, open, unlock, suspend, grow, close.

use super::format::{
    BaseRecord, DATA_OFFSET, INTENT_OFFSET, Identity, KeySlot, Keys, MAP_BLOCKS, MAP_OFFSET, MAP_WRITTEN, META_BLOCK,
    ParentRef, Region, StateBlock, Untrusted, WrappedKey,
};
use super::header::{Header, NewHeader, NextIdentity};
use super::intent::Intent;
use super::map::{Entry, Map};
use super::parent::Parent;
use super::syncer::Syncer;
use super::writeback::WritebackWindows;
use super::{Ciphers, Live, STRIPES, Stripe, Volume, hydrate};
use crate::cipher::xts::XtsCipher;
use crate::cipher::{DataKey, Unwrapped};
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::{BlockStore, SpillSpace};
use crate::units::{ByteLen, CHUNK, Epoch, Hash32, KeyEpoch, LineageId, MAX_VOLUME, SUBSECTOR, VolumeId, chunks_in};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The parameters of a new volume.
pub struct NewVolume<'a> {
    /// Its id.
    pub id: VolumeId,
    /// Size of the volume's data in bytes: a multiple of 512, at most 64 TiB.
    pub size: u64,
    /// Its lineage: a new one, or its parent's.
    pub lineage: LineageId,
    /// The wrapped data keys.
    pub keys: Vec<WrappedKey>,
    /// The same keys unwrapped, oldest first.
    pub unwrapped: &'a [(KeyEpoch, Unwrapped<DataKey>)],
    /// Encryption context of the wrapped keys.
    pub context: BTreeMap<String, String>,
    /// The snapshot that it is hydrated from.
    pub parent: Option<ParentRef>,
}

/// How a volume file is opened.
#[derive(Clone)]
pub struct Opening {
    /// Open for writing too.
    pub writable: bool,
    /// The source of absent chunks; required if the header names a parent and the volume is not hydrated.
    pub parent: Option<Arc<dyn Parent>>,
    /// A sync failed earlier, whether or not the header could record it (docs/format.md, section 3, "flush, FUA").
    pub write_failed: bool,
    /// Space for the sectors that writers save for a snapshot.
    pub spills: Arc<dyn SpillSpace>,
}

/// A planned growth: the volume's new identity. Nothing is written yet, and no other growth can start.
pub struct GrowPlan<'a> {
    _turn: MutexGuard<'a, ()>,
    /// `None`: it has that size already.
    next: Option<NextIdentity>,
    generation: u64,
    hash: Hash32,
    size: u64,
}

impl GrowPlan<'_> {
    /// Returns the identity's generation after the growth.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the BLAKE3 hash of the identity as it will be stored.
    #[must_use]
    pub const fn hash(&self) -> Hash32 {
        self.hash
    }

    /// Returns the new size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the size changes.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        self.next.is_some()
    }
}

/// Returns the size in bytes of a file that holds a volume of `size` bytes.
#[must_use]
pub const fn file_size(size: u64) -> u64 {
    DATA_OFFSET + size.next_multiple_of(crate::units::SECTOR as u64)
}

/// Suggests the valid size that was probably meant, formatted for a command line.
fn nearest_size(size: u64) -> String {
    const MIB: u64 = 1 << 20;
    match size {
        0 => "use a size such as 20GiB".to_owned(),
        s if s > MAX_VOLUME => "use at most 64TiB".to_owned(),
        s if s < MIB => format!("use {}", s.next_multiple_of(SUBSECTOR as u64)),
        s => {
            let (mib, exact) = (s.next_multiple_of(MIB).min(MAX_VOLUME) / MIB, s - s % SUBSECTOR as u64);
            format!("use {mib}MiB, or {exact} for the next smaller size")
        }
    }
}

/// Checks that a volume can have this size.
///
/// # Errors
/// [`Kind::Usage`] naming the rule.
pub fn check_size(size: u64) -> Result<()> {
    if size == 0 || size > MAX_VOLUME || !size.is_multiple_of(SUBSECTOR as u64) {
        return Err(Error::new(Kind::Usage, format!("a volume cannot have {size} bytes"))
            .hint(format!("choose a multiple of 512 bytes from 512 bytes to 64 TiB: {}", nearest_size(size))));
    }
    Ok(())
}

/// Writes the header of a new volume into a store of [`file_size`] bytes that reads as zeros.
///
/// # Errors
/// [`Kind::Usage`] for a size that no volume can have; what the store reports.
pub fn format(store: &dyn BlockStore, env: &Env, new: NewVolume<'_>) -> Result<()> {
    check_size(new.size)?;
    let Some((mac_epoch, mac_key)) = new.unwrapped.last() else {
        return Err(Error::new(Kind::Failed, format!("create {}: no data key", new.id)));
    };
    let region = |kind: &str, offset, length| Region { kind: kind.to_owned(), offset, length, version: 1 };
    let map = region("map", MAP_OFFSET, MAP_BLOCKS * META_BLOCK as u64);
    let filled_from = new.parent.as_ref().map(|p| chunks_in(p.size));
    let base = new.parent.as_ref().map(|p| BaseRecord {
        snapshot: p.snapshot,
        p: Epoch(0),
        repository: p.repository,
        map_generation: 1,
    });
    let identity = Identity {
        generation: 1,
        volume_id: new.id,
        size: new.size,
        sector_size: crate::units::SECTOR as u32,
        chunk_size: CHUNK as u32,
        data_offset: DATA_OFFSET,
        regions: vec![
            region("intent", INTENT_OFFSET, MAP_OFFSET - INTENT_OFFSET),
            Region { version: if filled_from.is_some() { MAP_WRITTEN } else { 1 }, ..map },
            region("data", DATA_OFFSET, MAX_VOLUME),
        ],
        lineage: new.lineage,
        parent: new.parent,
        map_generation: 1,
        key_epochs: new.unwrapped.iter().map(|(e, k)| KeySlot { epoch: *e, data_key_id: k.get().id() }).collect(),
        context: new.context,
        mac_epoch: *mac_epoch,
    };
    let state = StateBlock {
        clean: true,
        boot_id: env.boot_id.to_string(),
        file: store.identity().on(|| format!("create {}", new.id))?,
        epoch: Epoch(1),
        pending: Vec::new(),
        spill: None,
        base,
        trust_p: Epoch(0),
        changed_untrusted: Untrusted::No,
        write_failed: false,
        sealed_units: BTreeMap::new(),
        lease_generation: 0,
        hydrated: identity.parent.is_none(),
    };
    Intent::create(store, new.id)?;
    if let Some(chunks) = filled_from {
        Map::new(new.id, identity.map_generation, chunks_in(new.size), None).write_absent(store, chunks)?;
    }
    Header::create(store, NewHeader { identity, keys: Keys { keys: new.keys }, state }, mac_key)
}

/// Returns how many of the first chunks had their map blocks written when the volume was created: those of its
/// snapshot.
fn chunks_written(id: &Identity) -> u64 {
    let written = id.regions.iter().any(|r| r.kind == "map" && r.version >= MAP_WRITTEN);
    id.parent.as_ref().filter(|_| written).map_or(0, |p| chunks_in(p.size))
}

/// Returns the snapshot that the volume in a store is or was filled from, as its header says.
///
/// # Errors
/// [`Kind::Integrity`] if no header is good; what the store reports.
pub fn parent_in(store: Arc<dyn BlockStore>, name: &str) -> Result<Option<ParentRef>> {
    Ok(Header::load(store, Arc::new(Syncer::default()), name)?.identity().parent.clone())
}

impl Volume {
    /// Opens a volume file without its key. Writes nothing yet.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for a damaged, foreign or truncated file, naming offset and field; [`Kind::Unsupported`] for
    /// one of a later version.
    pub fn open(store: Arc<dyn BlockStore>, env: Env, opening: Opening, name: &str) -> Result<Self> {
        let syncer = Arc::new(Syncer::default());
        let header = Header::load(store.clone(), syncer.clone(), name)?;
        if let Some(damage) = header.damage() {
            tracing::warn!("{damage}; it is repaired when the volume is opened with its key");
        }
        let flags = header.flags();
        if flags.incompatible != 0 {
            return Err(Error::new(
                Kind::Unsupported,
                format!("open volume {name}: it uses incompatible features {:#x}", flags.incompatible),
            )
            .hint("use a newer coffer"));
        }
        let (id, state) = (header.identity().clone(), header.state().clone());
        check_length(&*store, &id, name)?;
        if id.parent.is_some() && !state.hydrated && opening.parent.is_none() {
            return Err(Error::new(Kind::Failed, format!("open volume {name}: its snapshot is not available"))
                .hint("restore the repository with the snapshot: the volume is not filled yet"));
        }
        // Possibly only one slot says that it is hydrated: then the step that ends hydration is repeated, for both.
        let hydrated = state.hydrated && (!header.is_behind() || opening.parent.is_none());
        let write_failed = state.write_failed || opening.write_failed;
        let untrusted = if write_failed { Untrusted::All } else { judge_trust(&header, &*store, &env)? };
        let key_epochs: Vec<_> = id.key_epochs.iter().map(|k| (k.epoch, k.data_key_id)).collect();
        // If nothing has to be fetched, the contents of a damaged map block can be inferred.
        let rebuild = ((id.parent.is_none() || hydrated) && key_epochs.len() == 1).then(|| Entry {
            present: true,
            key: key_epochs[0].0,
            changed: state.epoch,
        });
        let units = |e: &KeyEpoch| AtomicU64::new(state.sealed_units.get(&e.0).copied().unwrap_or(0));
        let intact = !write_failed && is_intact(&header, &*store, &env)?;
        let mut volume = Self {
            intent: Intent::load(&*store, id.volume_id),
            map: Map::new(id.volume_id, id.map_generation, chunks_in(id.size), rebuild).written(chunks_written(&id)),
            id: id.volume_id,
            data_offset: id.data_offset,
            map_generation: id.map_generation,
            size: id.size.into(),
            writable: opening.writable && flags.read_only_compatible == 0 && !write_failed,
            sealed_units: key_epochs.iter().map(|(e, _)| units(e)).collect(),
            key_epochs,
            live: RwLock::new(Arc::new(Live { epoch: state.epoch, ..Live::default() })),
            ciphers: RwLock::new(None),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            hydration: hydrate::Hydration::new(hydrated),
            parent: opening.parent.filter(|_| !hydrated),
            opened: AtomicBool::new(false),
            untrusted: Mutex::new(untrusted),
            grows: Mutex::new(()),
            unannounced: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            on_failed_sync: OnceLock::new(),
            syncer,
            writeback: WritebackWindows::default(),
            header: Mutex::new(header),
            spills: opening.spills,
            lost: Vec::new(),
            store,
            env,
        };
        if opening.writable {
            volume.restore_pending(intact);
        }
        Ok(volume)
    }

    /// Unlocks the volume with the unwrapped data keys: checks that they are the identity's, then its MAC, then repairs
    /// the header.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] for a wrong key, [`Kind::KeyUnavailable`] for a missing one, [`Kind::Integrity`] for
    /// a header that was changed without the key.
    pub fn unlock(&self, keys: &[(KeyEpoch, Unwrapped<DataKey>)]) -> Result<()> {
        self.unlock_if(keys, || Ok(()))
    }

    /// The same, if `admit` agrees under the lock that [`Volume::suspend`] takes, so that a suspend after that check
    /// wipes these ciphers.
    ///
    /// # Errors
    /// As [`Volume::unlock`]; the error of `admit`.
    pub fn unlock_if(&self, keys: &[(KeyEpoch, Unwrapped<DataKey>)], admit: impl FnOnce() -> Result<()>) -> Result<()> {
        for (epoch, id) in &self.key_epochs {
            let found = keys.iter().find(|(e, _)| e == epoch).map(|(_, k)| k.get());
            match found {
                Some(key) if key.id() == *id => {
                    if key.halves_are_equal() {
                        return Err(Error::new(
                            Kind::InvalidCiphertext,
                            format!("{}: its data key is invalid (equal halves)", self.id),
                        ));
                    }
                }
                Some(_) => {
                    return Err(Error::new(
                        Kind::InvalidCiphertext,
                        format!("open volume {}: key epoch {epoch} unwraps to a different data key", self.id),
                    ));
                }
                None => {
                    return Err(Error::new(Kind::KeyUnavailable, format!("{}: no data key of epoch {epoch}", self.id)));
                }
            }
        }
        let header = self.header.lock();
        let mac_epoch = header.identity().mac_epoch;
        let mac_key = keys.iter().find(|(e, _)| *e == mac_epoch).map(|(_, k)| k);
        header.verify(mac_key.ok_or_else(|| Error::new(Kind::KeyUnavailable, format!("{}: no MAC key", self.id)))?)?;
        drop(header);
        if self.writable
            && let Err(err) = self.with_header_mut(Header::mend)
        {
            // One slot is enough to read, and a write has to repair it first.
            tracing::warn!("{}: its header could not be repaired: {}", self.id, err.line());
        }
        let built = keys.iter().map(|(e, k)| (*e, XtsCipher::new(k))).collect();
        let mut ciphers = self.ciphers.write();
        admit()?;
        *ciphers = Some(Ciphers(built));
        Ok(())
    }

    /// Sets the write-intent bit before the write (docs/format.md, section 3, "write-intent"). If there is no space for
    /// its block, the state says instead, in place, that the map is trusted nowhere: a full disk must not refuse the
    /// TRIM that frees it.
    pub(super) fn announce(&self, offset: u64) -> Result<()> {
        match self.intent.announce(&*self.store, offset, || self.sync()) {
            Err(err) if err.kind() == Kind::NoSpace => {
                tracing::warn!("{}; the next snapshot of {} compares all chunks", err.line(), self.id);
                self.unannounced.store(true, Ordering::Release);
                *self.untrusted.lock() = Untrusted::All;
                self.with_header_mut(|h| h.write_state(|s| s.changed_untrusted = Untrusted::All))?;
                self.intent.assume_all();
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Wipes the ciphers, once no piece uses them. Later operations fail until [`Volume::unlock`]. Returns whether
    /// there were any.
    pub fn suspend(&self) -> bool {
        self.ciphers.write().take().is_some()
    }

    /// Records durably, before the first write, that this file may change (docs/format.md, section 3, "open").
    pub(super) fn mark_opened(&self) -> Result<()> {
        if self.opened.load(Ordering::Acquire) {
            return Ok(());
        }
        let first = self.with_header_mut(|header| {
            if self.opened.load(Ordering::Acquire) {
                return Ok(false);
            }
            let file = self.store.identity().on(|| format!("open {}", self.id))?;
            let untrusted = *self.untrusted.lock();
            header.write_state(|s| {
                s.clean = false;
                s.boot_id = self.env.boot_id.to_string();
                s.file = file;
                s.changed_untrusted = untrusted;
            })?;
            self.opened.store(true, Ordering::Release);
            Ok(true)
        })?;
        if first && let Err(err) = self.intent.reserve(&*self.store) {
            tracing::debug!("{}; retried at the next open", err.line());
        }
        Ok(())
    }

    /// Closes cleanly: what was written is durable, and the next open can trust the map. Wipes the key, and unlocks the
    /// file so that it can be opened again at once, even if this volume is still referenced. It must not be used any
    /// more.
    ///
    /// # Errors
    /// What the store reports: then the next open finds an unclean volume.
    pub fn close(&self) -> Result<()> {
        self.suspend();
        let closed = self.close_clean();
        self.store.unlock().on(|| format!("unlock {}", self.id))?;
        closed
    }

    fn close_clean(&self) -> Result<()> {
        if !self.opened.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.sync()?;
        self.close_spill()?;
        if *self.untrusted.lock() == Untrusted::No {
            self.intent.clear(&*self.store)?;
        }
        let (units, boot) = (self.units_for_state(), self.env.boot_id.to_string());
        self.with_header_mut(|h| h.write_state(|s| (s.clean, s.sealed_units, s.boot_id) = (true, units, boot)))?;
        self.opened.store(false, Ordering::Release);
        Ok(())
    }

    /// Replaces the wrapped data keys, one for each key epoch, in both slots of the header; durable on return. The data keys stay.
    ///
    /// # Errors
    /// [`Kind::ReadOnly`]; what the store reports: a slot may then have the old ones, and a repeat writes both again.
    pub fn rewrap(&self, keys: Vec<WrappedKey>) -> Result<()> {
        if !self.writable {
            return Err(Error::new(Kind::ReadOnly, format!("volume {} is read-only", self.id)));
        }
        self.with_header_mut(|header| header.write_keys(Keys { keys }))
    }

    /// Grows the volume: first the file, then the identity in both slots, then the reported size.
    ///
    /// # Errors
    /// As [`Volume::plan_grow`] and [`Volume::grow_by`].
    pub fn grow(&self, size: u64, mac_key: &Unwrapped<DataKey>) -> Result<()> {
        self.grow_by(self.plan_grow(size, mac_key)?)
    }

    /// Computes the identity of the volume at that size, before anything is written. One growth at a time: the plan
    /// holds a lock, and another plan waits for it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a smaller or impossible size, [`Kind::ReadOnly`], [`Kind::Integrity`] if there is data past
    /// the old end.
    pub fn plan_grow(&self, size: u64, mac_key: &Unwrapped<DataKey>) -> Result<GrowPlan<'_>> {
        check_size(size)?;
        let turn = self.grows.lock();
        let old = self.size();
        if size < old {
            return Err(Error::new(
                Kind::Usage,
                format!("{} has {} and cannot shrink to {}", self.id, ByteLen(old), ByteLen(size)),
            ));
        }
        if !self.is_writable() {
            return Err(Error::new(Kind::ReadOnly, format!("grow {}: it is open read-only", self.id)));
        }
        let header = self.header.lock();
        let (generation, hash) = (header.identity().generation, header.identity_hash());
        if size == old {
            return Ok(GrowPlan { _turn: turn, next: None, generation, hash, size });
        }
        let next = header.next_identity(mac_key, |id| id.size = size)?;
        drop(header);
        self.check_tail(old)?;
        Ok(GrowPlan { _turn: turn, generation: next.identity.generation, hash: next.hash(), next: Some(next), size })
    }

    /// Grows as planned.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] if the file system cannot hold it; what the store reports.
    pub fn grow_by(&self, plan: GrowPlan<'_>) -> Result<()> {
        let GrowPlan { _turn, next, size, .. } = plan;
        let Some(next) = next else { return Ok(()) };
        let what = || format!("grow {} to {size} bytes", self.id);
        // An interrupted growth may have left it longer: it is never truncated.
        if self.store.size().on(what)? < file_size(size) {
            self.store.grow(file_size(size)).map_err(|e| {
                Error::io(what(), e)
                    .hint("choose a smaller size: a file on ext4 is limited to 16 TiB, including the header")
            })?;
        }
        self.sync()?;
        let (written, now) = self.with_header_mut(|h| {
            let written = h.write_identity(next);
            Ok((written, h.identity().size))
        })?;
        self.notice_failed_sync();
        // One slot is enough for the next open to have the new size.
        self.map.grow(chunks_in(now));
        self.size.store(now, Ordering::Release);
        written
    }

    /// Repairs the header's other slot without the key, if the identity has the `expected` hash, which the caller
    /// vouches for in place of the MAC.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for another identity; what the store reports.
    pub fn mend_sealed(&self, expected: Hash32) -> Result<()> {
        self.with_header_mut(|header| {
            if header.identity_hash() != expected {
                return Err(Error::new(
                    Kind::Integrity,
                    format!("repair the header of {}: it is a different one", self.id),
                )
                .hint("attach the volume once, so that the header's MAC can be checked with its key"));
            }
            if self.writable { header.mend_slot() } else { Ok(()) }
        })
    }

    /// Checks that there is no data past the end: growing must not expose any.
    fn check_tail(&self, old: u64) -> Result<()> {
        let end = file_size(old) - self.data_offset;
        let mut tail = vec![0u8; (end - old) as usize];
        self.store.read_at(&mut tail, self.data_offset + old).on(|| format!("grow {}", self.id))?;
        match tail.iter().position(|b| *b != 0) {
            None => Ok(()),
            Some(at) => Err(Error::new(
                Kind::Integrity,
                format!("grow {}: the file has data past the end of the volume, at {}", self.id, old + at as u64),
            )),
        }
    }

    /// Calls `act` once, when a sync fails. It may be called from any thread that writes, with locks of this volume
    /// held.
    pub fn on_failed_sync(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_failed_sync.set(Box::new(act));
    }

    /// Clears the record of a failed sync. The map is trusted nowhere until a snapshot has compared everything.
    ///
    /// # Errors
    /// What the store reports.
    pub fn accept_lost_writes(&self) -> Result<()> {
        *self.untrusted.lock() = Untrusted::All;
        self.with_header_mut(|h| {
            h.write_state_twice(|s| (s.write_failed, s.changed_untrusted) = (false, Untrusted::All))
        })
    }
}

fn check_length(store: &dyn BlockStore, id: &Identity, name: &str) -> Result<()> {
    let (have, need) =
        (store.size().on(|| format!("open volume {name}"))?, file_size(id.size) - DATA_OFFSET + id.data_offset);
    if have < need {
        return Err(Error::new(
            Kind::Integrity,
            format!("open volume {name}: the file has {have} bytes, its size needs {need}"),
        )
        .hint("restore the volume from a snapshot: the file was truncated"));
    }
    Ok(())
}

/// Whether the file has everything that was written, by whichever process.
fn is_intact(header: &Header, store: &dyn BlockStore, env: &Env) -> Result<bool> {
    let (state, file) = (header.state(), store.identity().on(|| format!("open {}", header.identity().volume_id))?);
    Ok(!header.fell_back() && (state.clean || (file == state.file && *state.boot_id == *env.boot_id)))
}

/// Decides where the map's `changed` can be trusted (docs/format.md, section 3, "open").
fn judge_trust(header: &Header, store: &dyn BlockStore, env: &Env) -> Result<Untrusted> {
    let state = header.state();
    if header.fell_back() || state.changed_untrusted == Untrusted::All {
        return Ok(Untrusted::All);
    }
    let file = store.identity().on(|| format!("open {}", header.identity().volume_id))?;
    let same_file = file == state.file;
    Ok(if state.clean {
        state.changed_untrusted
    } else if !same_file {
        Untrusted::All
    } else if *state.boot_id != *env.boot_id {
        Untrusted::Intent
    } else {
        state.changed_untrusted
    })
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("writable", &self.writable).finish_non_exhaustive()
    }
}
