//! Write-intent map: which GiB of the volume may have been written since the last clean close.
//!
//! 18 blocks of 512 bytes from 128 KiB on; bit i of a block's body is GiB (block * 3840 + i), LSB first.
//! ```text
//! 0 magic "CINT"   4 version u16   6 0 u16   8 block u32   12 0 u32   16 volume tag 8   24 0 u32
//! 28 CRC-32C u32 of the 512 bytes with this field zero   32 480 bytes of bits
//! ```
//! A bit is set and synced before a write to a region whose bit is clear. An unreadable block counts as all ones: that
//! only means more to compare after a crash.

use super::format::{INTENT_OFFSET, META_BLOCK, le32};
use super::map::{check_meta_at, meta_head, seal_meta_at, volume_tag};
use crate::error::{IoContext, Result};
use crate::store::BlockStore;
use crate::units::{GIB, MAX_VOLUME, VolumeId};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const HEAD: usize = 32;
const BITS: u64 = (META_BLOCK - HEAD) as u64 * 8;
const BLOCKS: u64 = (MAX_VOLUME / GIB).div_ceil(BITS);
const CRC_AT: usize = 28;

/// The write-intent map of one volume.
pub struct Intent {
    volume: VolumeId,
    /// One bit per GiB, as on disk.
    bits: Vec<AtomicU64>,
    lock: Mutex<()>,
}

impl Intent {
    /// Reads all blocks (9 KiB), separately: an unreadable one counts as bad.
    #[must_use]
    pub fn load(store: &dyn BlockStore, volume: VolumeId) -> Self {
        let raw: Vec<_> = (0..BLOCKS).map(|no| read_block(store, volume, no)).collect();
        let bits: Vec<AtomicU64> = (0..MAX_VOLUME / GIB / 64).map(|_| AtomicU64::new(0)).collect();
        for (no, block) in raw.iter().enumerate() {
            let never = block.iter().all(|b| *b == 0);
            let good = check_meta_at(block, CRC_AT)
                && block[..4] == *b"CINT"
                && le32(block, 8) as usize == no
                && block[16..24] == volume_tag(volume);
            for bit in 0..BITS {
                let set = !never && (!good || block[HEAD + bit as usize / 8] & (1 << (bit % 8)) != 0);
                let region = no as u64 * BITS + bit;
                if let Some(word) = bits.get(region as usize / 64).filter(|_| set) {
                    word.fetch_or(1 << (region % 64), Ordering::Relaxed);
                }
            }
        }
        Self { volume, bits, lock: Mutex::new(()) }
    }

    /// Writes the blocks of a new volume, all zeros, so that later writes find their space allocated.
    ///
    /// # Errors
    /// What the store reports.
    pub fn create(store: &dyn BlockStore, volume: VolumeId) -> Result<()> {
        let zeros = [0; BLOCKS as usize * META_BLOCK];
        store.write_meta(&zeros, INTENT_OFFSET).on(|| format!("write-intent map of {volume}"))
    }

    /// Allocates blocks that were never written, for a volume created without them.
    ///
    /// # Errors
    /// [`crate::error::Kind::NoSpace`]; what the store reports.
    pub fn reserve(&self, store: &dyn BlockStore) -> Result<()> {
        let _held = self.lock.lock();
        let what = || format!("write-intent map of {}", self.volume);
        let end = INTENT_OFFSET + BLOCKS * META_BLOCK as u64;
        let mut at = INTENT_OFFSET;
        loop {
            at = store.next_hole(at).on(what)?;
            if at >= end {
                return Ok(());
            }
            let data = store.next_data(at).on(what)?.unwrap_or(end).min(end);
            store.write_meta(&vec![0; (data - at) as usize], at).on(what)?;
            at = data;
        }
    }

    /// Treats every GiB as possibly written, in memory only.
    pub fn assume_all(&self) {
        self.bits.iter().for_each(|w| w.store(u64::MAX, Ordering::Release));
    }

    /// Whether the GiB that contains byte `offset` may have been written.
    #[must_use]
    pub fn is_set(&self, offset: u64) -> bool {
        let region = offset / GIB;
        self.bits[region as usize / 64].load(Ordering::Acquire) & (1 << (region % 64)) != 0
    }

    /// Sets the bit of the GiB that contains `offset` and makes it durable, before the write that it announces.
    ///
    /// # Errors
    /// What the store reports: then the write must not happen.
    pub fn announce(&self, store: &dyn BlockStore, offset: u64, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.is_set(offset) {
            return Ok(());
        }
        let _held = self.lock.lock();
        if self.is_set(offset) {
            return Ok(());
        }
        let region = offset / GIB;
        let mut words: Vec<u64> = self.bits.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        words[region as usize / 64] |= 1 << (region % 64);
        self.write_block(store, &words, region / BITS)?;
        sync()?;
        self.bits[region as usize / 64].fetch_or(1 << (region % 64), Ordering::AcqRel);
        Ok(())
    }

    /// Clears all bits, after a sync that began when the last write had ended.
    ///
    /// # Errors
    /// What the store reports.
    pub fn clear(&self, store: &dyn BlockStore) -> Result<()> {
        let _held = self.lock.lock();
        let set: Vec<u64> = self.bits.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let none = vec![0u64; set.len()];
        for no in 0..BLOCKS {
            let any = (no * BITS..(no + 1) * BITS)
                .any(|r| set.get(r as usize / 64).is_some_and(|w| w & (1 << (r % 64)) != 0));
            if any {
                self.write_block(store, &none, no)?;
            }
        }
        self.bits.iter().for_each(|w| w.store(0, Ordering::Release));
        Ok(())
    }

    fn write_block(&self, store: &dyn BlockStore, words: &[u64], no: u64) -> Result<()> {
        let mut out = meta_head(*b"CINT", no as u32, 0, volume_tag(self.volume));
        for bit in 0..BITS {
            let region = no * BITS + bit;
            if words.get(region as usize / 64).is_some_and(|w| w & (1 << (region % 64)) != 0) {
                out[HEAD + bit as usize / 8] |= 1 << (bit % 8);
            }
        }
        seal_meta_at(&mut out, CRC_AT);
        store
            .write_meta(&out, INTENT_OFFSET + no * META_BLOCK as u64)
            .on(|| format!("write-intent block {no} of {}", self.volume))
    }
}

/// Returns a block as stored; a bad one if it cannot be read.
fn read_block(store: &dyn BlockStore, volume: VolumeId, no: u64) -> [u8; META_BLOCK] {
    let mut block = [0; META_BLOCK];
    if let Err(err) = store.read_at(&mut block, INTENT_OFFSET + no * META_BLOCK as u64) {
        tracing::warn!("write-intent block {no} of {volume}: {err}; its whole range counts as written");
        block = [0xff; META_BLOCK];
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;
    use crate::store::sim::SimStore;

    #[test]
    fn a_bit_is_durable_before_its_write_and_cleared_after() {
        let (disk, volume) = (SimStore::new(1 << 20), VolumeId::draw(&SystemRng));
        let intent = Intent::load(&disk, volume);
        let region = 5000 * GIB;
        intent.announce(&disk, region + 17, || disk.sync().on(String::new)).unwrap();
        let after = disk.power_loss(|_| 0);
        let seen = Intent::load(&after, volume);
        assert!(seen.is_set(region) && !seen.is_set(region + GIB) && !seen.is_set(region - 1));
        intent.announce(&disk, region, || panic!("set already: no sync")).unwrap();
        intent.clear(&disk).unwrap();
        assert!(!Intent::load(&disk, volume).is_set(region));
    }

    #[test]
    fn a_failed_sync_leaves_the_bit_unset_so_that_the_write_cannot_go_on() {
        let (disk, volume) = (SimStore::new(1 << 20), VolumeId::draw(&SystemRng));
        let intent = Intent::load(&disk, volume);
        disk.fail_in(1, false);
        assert!(intent.announce(&disk, 0, || disk.sync().on(String::new)).is_err());
        assert!(!intent.is_set(0));
    }

    #[test]
    fn a_damaged_block_counts_as_all_ones() {
        let (disk, volume) = (SimStore::new(1 << 20), VolumeId::draw(&SystemRng));
        Intent::load(&disk, volume).announce(&disk, 3 * GIB, || Ok(())).unwrap();
        let unreadable = disk.killed();
        disk.poke(INTENT_OFFSET + 100, 1);
        unreadable.spoil(INTENT_OFFSET);
        for disk in [disk, unreadable] {
            let seen = Intent::load(&disk, volume);
            assert!(seen.is_set(0) && seen.is_set(3839 * GIB) && !seen.is_set(3840 * GIB));
        }
    }
}
