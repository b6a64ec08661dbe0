//! The pair of header slots: which one is current, how each part is changed, what is repaired.
//!
//! Write orders: a state is one 4 KiB write into the slot that is not current, then a sync. Identity and keys are
//! written as a whole slot to the one that is not current, synced, then to the other, synced. A slot that is unreadable
//! or behind is rewritten from the good one at the next open for writing.
//!
//! After each write, memory matches the disk. A damaged slot that is skipped may have been the newer one, so the state
//! of the other is not trusted: see `distrust`.

use super::format::{Flags, INTENT_OFFSET, Identity, Keys, SLOT, STATE, Slot, StateBlock, Untrusted, json};
use super::syncer::Syncer;
use crate::cipher::{DataKey, Unwrapped};
use crate::error::{Error, IoContext, Kind, Result};
use crate::secret::Secret;
use crate::store::BlockStore;
use crate::units::{Epoch, Hash32, VolumeId};
use aws_lc_rs::hmac;
use std::sync::Arc;

/// How many epochs the state of the other slot may be behind, plus one. Each state write raises the epoch by at most
/// one, and the slots alternate, so the other slot is one behind.
const RESERVED_EPOCHS: u32 = 2;

/// The header of an open volume file.
pub struct Header {
    store: Arc<dyn BlockStore>,
    syncer: Arc<Syncer>,
    now: Slot,
    /// The slot (0 or 1) that holds the state in `now`.
    at: u8,
    /// Why the other slot has to be rewritten, if it has to be.
    repair: Option<String>,
    /// The other slot's keys and their generation, where they differ.
    other_keys: Option<(u64, Keys)>,
    fallback: bool,
    /// The other slot's state lacks something that must survive the loss of this slot.
    behind: bool,
}

/// A new identity with its MAC, not yet written.
pub(super) struct NextIdentity {
    pub(super) identity: Identity,
    raw: Vec<u8>,
    mac: [u8; 32],
}

impl NextIdentity {
    pub(super) fn hash(&self) -> Hash32 {
        Hash32::of(&self.raw)
    }
}

/// The store and its one syncer.
type Disk = (Arc<dyn BlockStore>, Arc<Syncer>);

/// The initial contents of a header.
pub(super) struct NewHeader {
    pub(super) identity: Identity,
    pub(super) keys: Keys,
    pub(super) state: StateBlock,
}

/// Returns the volume id in a header, if there is a coffer header at all; `read` reads from the candidate, and returns
/// whether it could. Nothing else is checked, and nothing is authenticated: for telling stores apart.
#[must_use]
pub fn id_in(read: impl Fn(&mut [u8], u64) -> bool) -> Option<VolumeId> {
    let mut raw = vec![0u8; SLOT];
    [0, SLOT as u64].into_iter().find_map(|at| {
        let found = read(&mut raw, at).then(|| super::format::decode_preamble(&raw).ok())?;
        found.map(|(_, id)| id)
    })
}

impl Header {
    /// Writes both slots of a new volume, without a sync: the file has no name yet.
    pub(super) fn create(store: &dyn BlockStore, new: NewHeader, key: &Unwrapped<DataKey>) -> Result<()> {
        let identity_raw = json(&new.identity)?;
        let mut slot = Slot {
            flags: Flags::default(),
            identity: new.identity,
            identity_raw,
            mac: [0; 32],
            keys: new.keys,
            keys_generation: 1,
            state: new.state,
            state_generation: 2,
        };
        slot.mac = mac_of(&slot, key);
        let what = || format!("write the header of {}", slot.identity.volume_id);
        store.write_meta(&slot.encode(0)?, 0).on(what)?;
        slot.state_generation = 1;
        store.write_meta(&slot.encode(1)?, SLOT as u64).on(what)
    }

    /// Reads both slots and uses the newer good one.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if neither is good, naming the offset and field of each.
    pub(super) fn load(store: Arc<dyn BlockStore>, syncer: Arc<Syncer>, name: &str) -> Result<Self> {
        let size = store.size().on(|| format!("open volume {name}"))?;
        if size < INTENT_OFFSET {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "open volume {name}: the file has {size} bytes, fewer than the header of a volume ({INTENT_OFFSET})"
                ),
            )
            .hint("restore it from a snapshot: it was truncated, or is not a coffer volume"));
        }
        // Read separately: an unreadable sector costs only its own slot.
        let slot = |at: u64| {
            let mut raw = vec![0u8; SLOT];
            store.read_at(&mut raw, at).on(|| format!("read 65536 bytes at {at}"))?;
            Slot::decode(&raw)
        };
        match [slot(0), slot(SLOT as u64)] {
            [Ok(a), Ok(b)] => Ok(Self::both((store, syncer), a, b)),
            [Ok(a), Err(e)] => Ok(Self::one((store, syncer), a, 0, &e)),
            [Err(e), Ok(b)] => Ok(Self::one((store, syncer), b, 1, &e)),
            [Err(a), Err(b)] => Err(Error::new(
                Kind::Integrity,
                format!(
                    "open volume {name}: both header slots are damaged: slot A (from byte 0), {}; slot B (from byte {SLOT}), {}",
                    a.line(),
                    b.line()
                ),
            )
            .hint("restore the volume from a snapshot, or put the right file in place")),
        }
    }

    fn both((store, syncer): Disk, a: Slot, b: Slot) -> Self {
        let rank = |s: &Slot| (s.identity.generation, s.state_generation);
        let (at, now, other) = if rank(&a) >= rank(&b) { (0, a, b) } else { (1, b, a) };
        let repair = (other.identity_hash() != now.identity_hash()).then(|| "it has an older generation".to_owned());
        let other_keys = (repair.is_none() && other.keys_generation != now.keys_generation)
            .then(|| (other.keys_generation, other.keys.clone()));
        let behind = lacks(&other.state, &now.state);
        Self { store, syncer, now, at, repair, other_keys, fallback: false, behind }
    }

    fn one((store, syncer): Disk, mut good: Slot, at: u8, why: &Error) -> Self {
        // The contents of the damaged slot are unknown: it may have been the newer one.
        distrust(&mut good.state);
        let repair = Some(why.line());
        Self { store, syncer, now: good, at, repair, other_keys: None, fallback: true, behind: true }
    }

    /// Returns the volume's identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.now.identity
    }

    /// Returns its feature flags.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        self.now.flags
    }

    /// Returns the BLAKE3 hash of the identity as stored.
    #[must_use]
    pub fn identity_hash(&self) -> Hash32 {
        self.now.identity_hash()
    }

    /// Returns the wrapped keys, newest first if the slots differ (a rewrap was interrupted).
    #[must_use]
    pub fn keys(&self) -> Vec<&Keys> {
        let mut all = vec![(self.now.keys_generation, &self.now.keys)];
        all.extend(self.other_keys.as_ref().map(|(g, k)| (*g, k)));
        all.sort_by_key(|(g, _)| std::cmp::Reverse(*g));
        all.into_iter().map(|(_, k)| k).collect()
    }

    /// Returns the state as of the last write.
    #[must_use]
    pub const fn state(&self) -> &StateBlock {
        &self.now.state
    }

    /// Whether a damaged slot was skipped: then nothing in the state can be trusted.
    #[must_use]
    pub const fn fell_back(&self) -> bool {
        self.fallback
    }

    /// Whether the loss of the current slot would lose something that must survive: that the volume is hydrated, or
    /// that a sync failed.
    pub(super) const fn is_behind(&self) -> bool {
        self.behind
    }

    /// Returns what is wrong with the other slot, for a warning.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let name = if self.at == 0 { "B" } else { "A" };
        self.repair.as_ref().map(|why| format!("header slot {name} of {}: {why}", self.volume()))
    }

    fn volume(&self) -> VolumeId {
        self.now.identity.volume_id
    }

    /// Verifies the identity's MAC under the data key of its MAC epoch.
    ///
    /// # Errors
    /// [`Kind::Integrity`]: the header was changed by someone without the key.
    pub(super) fn verify(&self, key: &Unwrapped<DataKey>) -> Result<()> {
        let expect = mac_key(&self.now, key);
        hmac::verify(&expect, &self.now.mac_input(), &self.now.mac).map_err(|_| {
            Error::new(
                Kind::Integrity,
                format!("open volume {}: identity MAC at offset {}: does not match", self.volume(), 4096),
            )
            .hint("restore the volume from a snapshot: the header was changed")
        })
    }

    /// Uses the volume's one syncer: a failure here also fails the client's next flush.
    fn sync(&self) -> Result<()> {
        self.syncer.sync(&*self.store, || self.volume().to_string())
    }

    /// Writes a whole slot, without a sync.
    fn put_slot(&self, slot: &Slot, to: u8) -> Result<()> {
        let what = || format!("write header slot {} of {}", if to == 0 { "A" } else { "B" }, self.volume());
        self.store.write_meta(&slot.encode(to)?, u64::from(to) * SLOT as u64).on(what)
    }

    /// Records in both slots that a sync failed. The syncer refuses further syncs, so this one bypasses it: whether it
    /// became durable is unknown, and nothing depends on it.
    pub(super) fn record_failure(&mut self) -> Result<()> {
        for _ in 0..2 {
            let mut next = self.now.clone();
            next.state.write_failed = true;
            next.state_generation += 1;
            let to = 1 - self.at;
            self.repair.get_or_insert_with(|| "a write to it failed".to_owned());
            self.put_slot(&next, to)?;
            self.store.sync().on(|| format!("write the state of {}", self.volume()))?;
            (self.now, self.at, self.repair) = (next, to, None);
        }
        self.behind = false;
        Ok(())
    }

    /// Writes a new state, durable on return.
    pub(super) fn write_state(&mut self, change: impl FnOnce(&mut StateBlock)) -> Result<()> {
        if self.fallback {
            self.mend_slot()?; // both slots must say what is not trusted before an epoch or a flag builds on it
        }
        let mut next = self.now.clone();
        change(&mut next.state);
        if next.state == self.now.state && self.repair.is_none() {
            return Ok(());
        }
        self.put_state(next)
    }

    /// Like [`Header::write_state`], but in both slots: it survives the loss of either.
    pub(super) fn write_state_twice(&mut self, change: impl FnOnce(&mut StateBlock)) -> Result<()> {
        self.write_state(change)?;
        self.catch_up()
    }

    /// Writes the state into the other slot too, if that one lacks something.
    fn catch_up(&mut self) -> Result<()> {
        if self.behind || self.repair.is_some() { self.put_state(self.now.clone()) } else { Ok(()) }
    }

    fn put_state(&mut self, mut next: Slot) -> Result<()> {
        next.state_generation += 1;
        let to = 1 - self.at;
        let written = if self.repair.is_some() {
            // Rewrite the whole slot on this occasion: a state block alone would not repair it.
            self.put_slot(&next, to)
        } else {
            let offset = u64::from(to) * SLOT as u64 + STATE.0 as u64;
            let what = || format!("write the state of {}", self.volume());
            self.store.write_meta(&next.encode_state()?, offset).on(what)
        };
        if let Err(err) = written.and_then(|()| self.sync()) {
            // The slot may contain the old state, the new one, or neither.
            self.repair.get_or_insert_with(|| "a write to it failed".to_owned());
            return Err(err);
        }
        // After a fallback, the slot that was good still holds the state that is not trusted.
        self.behind = self.fallback || lacks(&self.now.state, &next.state);
        self.fallback = false;
        (self.now, self.at, self.repair) = (next, to, None);
        Ok(())
    }

    /// Makes the identity that follows this one, with its MAC. Writes nothing.
    pub(super) fn next_identity(
        &self,
        key: &Unwrapped<DataKey>,
        change: impl FnOnce(&mut Identity),
    ) -> Result<NextIdentity> {
        let mut next = self.now.clone();
        change(&mut next.identity);
        next.identity.generation += 1;
        next.identity_raw = json(&next.identity)?;
        let mac = mac_of(&next, key);
        Ok(NextIdentity { identity: next.identity, raw: next.identity_raw, mac })
    }

    /// Writes a new identity into both slots, with a sync after each.
    ///
    /// # Errors
    /// What the store reports. The identity is then what the disk has: read it again.
    pub(super) fn write_identity(&mut self, new: NextIdentity) -> Result<()> {
        self.write_identity_and(new, |_| ())
    }

    /// The same, with a change of the state that belongs to it.
    ///
    /// # Errors
    /// As [`Header::write_identity`].
    pub(super) fn write_identity_and(&mut self, new: NextIdentity, change: impl FnOnce(&mut StateBlock)) -> Result<()> {
        let mut next = self.now.clone();
        change(&mut next.state);
        if new.identity.generation != next.identity.generation + 1 {
            return Err(Error::new(Kind::Failed, format!("the header of {} changed meanwhile", self.volume())));
        }
        (next.identity, next.identity_raw, next.mac) = (new.identity, new.raw, new.mac);
        self.write_both(next)
    }

    /// Writes rewrapped keys into both slots, with a sync after each.
    ///
    /// # Errors
    /// What the store reports; an interrupted rewrap is finished at the next open.
    pub fn write_keys(&mut self, keys: Keys) -> Result<()> {
        let mut next = self.now.clone();
        next.keys_generation = next.keys_generation.max(self.other_keys.as_ref().map_or(0, |(g, _)| *g)) + 1;
        next.keys = keys;
        self.write_both(next)
    }

    fn write_both(&mut self, mut next: Slot) -> Result<()> {
        for _ in 0..2 {
            next.state_generation += 1;
            let to = 1 - self.at;
            if let Err(err) = self.put_slot(&next, to).and_then(|()| self.sync()) {
                self.repair.get_or_insert_with(|| "a write to it failed".to_owned());
                return Err(err);
            }
            (self.now, self.at, self.other_keys) = (next.clone(), to, None);
            (self.behind, self.fallback) = (true, false);
            self.repair = Some("it has an older generation".to_owned());
        }
        (self.repair, self.behind) = (None, false);
        Ok(())
    }

    /// Repairs the other slot from this one, if necessary. Needs no key: it is a copy.
    pub(super) fn mend_slot(&mut self) -> Result<()> {
        if self.fallback {
            self.put_state(self.now.clone())?; // the damaged one first: there is only one good one
        }
        self.catch_up()
    }

    /// The same for a volume that is unlocked; also finishes an interrupted rewrap.
    pub(super) fn mend(&mut self) -> Result<()> {
        if let Some(keys) = self.other_keys.take() {
            let newest = if keys.0 > self.now.keys_generation { keys.1 } else { self.now.keys.clone() };
            return self.write_keys(newest);
        }
        self.mend_slot()
    }
}

/// Marks the state of the good slot as not trusted: the damaged slot may have been the newer one, with later writes and
/// newer epochs in the map. Everything written from here on, even a repair, carries the mark, so that no later open
/// trusts the map.
fn distrust(state: &mut StateBlock) {
    state.clean = false;
    state.changed_untrusted = Untrusted::All;
    state.epoch = Epoch(state.epoch.0.saturating_add(RESERVED_EPOCHS));
}

/// Whether `older` lacks something of `newer` that must survive the loss of its slot.
const fn lacks(older: &StateBlock, newer: &StateBlock) -> bool {
    (newer.hydrated && !older.hydrated) || (newer.write_failed && !older.write_failed)
}

fn mac_key(slot: &Slot, key: &Unwrapped<DataKey>) -> hmac::Key {
    let id = slot.identity.volume_id.to_string();
    let derived: Secret<32> = key.get().derive(&slot.identity.lineage.0, &[b"coffer/header-mac/v1", id.as_bytes()]);
    hmac::Key::new(hmac::HMAC_SHA256, derived.expose())
}

fn mac_of(slot: &Slot, key: &Unwrapped<DataKey>) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&mac_key(slot, key), &slot.mac_input()).as_ref());
    out
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
