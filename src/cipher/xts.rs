//! AES-256-XTS (IEEE 1619-2018) over 4096-byte data units, the tweak of a unit being its number, little-endian, 128
//! bits: dm-crypt's `aes-xts-plain64` with `sector_size:4096 iv_large_sectors`.
//!
//! On x86-64 with AVX-512 and VAES a kernel of our own does the blocks (`xts_avx512`); elsewhere they go through the `aes`
//! crate's parallel interface (VAES, AES-NI, ARMv8 or bitsliced, chosen at run time). None has tables indexed by secrets. The first tweaks of a run's units are sealed together; a unit's further tweaks come
//! eight chains at a time, each step a multiplication by x^8 in GF(2^128), so that no step waits for the one before.
//!
//! Everything works on whole *parts* (512 bytes) and on runs of them that may start and end inside a unit: XTS blocks
//! are independent given the tweak. Ciphertext stealing never happens: all lengths are multiples of 16.

use super::{DataKey, Unwrapped};
use crate::sys::Locked;
use crate::units::{PART, SECTOR, SectorNo};
use aes::{Aes256Dec, Aes256Enc};
use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// XTS blocks in a unit.
const BLOCKS: usize = SECTOR / 16;
/// Units whose first tweaks are sealed in one call.
const BATCH: usize = 32;

/// An open cipher: it can seal and open sectors. Its key schedules lie in locked memory and are wiped on drop.
pub struct XtsCipher {
    seal: Locked<Aes256Enc>,
    open: Locked<Aes256Dec>,
    tweak: Locked<Aes256Enc>,
    /// The processor's own kernel for key 1, where it has one.
    #[cfg(target_arch = "x86_64")]
    kernel: Option<super::xts_avx512::Kernel>,
}

impl std::fmt::Debug for XtsCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsCipher(redacted)")
    }
}

/// Where a run of parts starts: a byte offset into the volume's data that is a multiple of [`PART`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(u64);

impl At {
    /// Byte `offset` of the volume's data. `None` unless it is a multiple of 512.
    #[must_use]
    pub const fn new(offset: u64) -> Option<Self> {
        if offset.is_multiple_of(PART as u64) { Some(Self(offset)) } else { None }
    }
    /// The start of a sector.
    #[must_use]
    pub const fn sector(no: SectorNo) -> Self {
        Self(no.0 * SECTOR as u64)
    }
    /// The same, `bytes` further on; rounded down to a part.
    #[must_use]
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + (bytes - bytes % PART) as u64)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Seal,
    Open,
}

impl XtsCipher {
    /// Builds the key schedules in locked memory.
    #[must_use]
    pub fn new(key: &Unwrapped<DataKey>) -> Self {
        let (data, tweak) = key.get().0.expose().split_at(32);
        Self::from_halves(data, tweak)
    }

    fn from_halves(data: &[u8], tweak: &[u8]) -> Self {
        let half = |bytes: &[u8]| -> Array<u8, cipher::consts::U32> { Array::try_from(bytes).unwrap_or_default() };
        let (mut data, mut tweak) = (half(data), half(tweak));
        let made = Self {
            seal: Locked::new(Aes256Enc::new(&data)),
            open: Locked::new(Aes256Dec::new(&data)),
            tweak: Locked::new(Aes256Enc::new(&tweak)),
            #[cfg(target_arch = "x86_64")]
            kernel: super::xts_avx512::Kernel::new(&data),
        };
        zeroize::Zeroize::zeroize(&mut data[..]);
        zeroize::Zeroize::zeroize(&mut tweak[..]);
        made
    }

    /// Seals `buf` in place; it starts at `at` and is a whole number of parts.
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug of the caller, never of input.
    pub fn seal(&self, at: At, buf: &mut [u8]) {
        self.run(Way::Seal, at, None, buf);
    }

    /// Seals `plain` into `out`, which has the same length, a whole number of parts.
    ///
    /// # Panics
    /// If the lengths differ or are not multiples of 512: a bug of the caller, never of input.
    pub fn seal_to(&self, at: At, plain: &[u8], out: &mut [u8]) {
        self.run(Way::Seal, at, Some(plain), out);
    }

    /// Opens `buf` in place. Does not know holes: see [`XtsCipher::open_parts`].
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug of the caller, never of input.
    pub fn open(&self, at: At, buf: &mut [u8]) {
        self.run(Way::Open, at, None, buf);
    }

    /// Opens `buf` in place by the hole rule: an aligned 512-byte part whose sealed bytes are all zero stays zeros.
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug of the caller, never of input.
    pub fn open_parts(&self, at: At, buf: &mut [u8]) {
        let mut start = 0;
        while start < buf.len() {
            let hole = is_hole(&buf[start..start + PART]);
            let mut end = start + PART;
            while end < buf.len() && is_hole(&buf[end..end + PART]) == hole {
                end += PART;
            }
            if !hole {
                self.run(Way::Open, at.plus(start), None, &mut buf[start..end]);
            }
            start = end;
        }
    }

    fn run(&self, way: Way, at: At, src: Option<&[u8]>, dst: &mut [u8]) {
        assert!(dst.len().is_multiple_of(PART) && src.is_none_or(|s| s.len() == dst.len()), "not whole parts");
        let mut unit = at.0 / SECTOR as u64;
        let mut skip = (at.0 % SECTOR as u64) as usize;
        let mut done = 0;
        while done < dst.len() {
            let units = (skip + dst.len() - done).div_ceil(SECTOR).min(BATCH);
            let firsts = self.first_tweaks(unit, units);
            for first in &firsts[..units] {
                let len = (SECTOR - skip).min(dst.len() - done);
                let from = src.map(|s| &s[done..done + len]);
                self.unit(way, u128::from_le_bytes((*first).into()), skip / 16, from, &mut dst[done..done + len]);
                done += len;
                skip = 0;
            }
            unit += units as u64;
        }
    }

    fn first_tweaks(&self, unit: u64, count: usize) -> [Array<u8, cipher::consts::U16>; BATCH] {
        let mut out = [Array::default(); BATCH];
        for (i, block) in out[..count].iter_mut().enumerate() {
            *block = u128::from(unit + i as u64).to_le_bytes().into();
        }
        self.tweak.encrypt_blocks(&mut out[..count]);
        out
    }

    /// Blocks `skip..` of one unit, whose first tweak is `first`.
    fn unit(&self, way: Way, first: u128, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = &self.kernel {
            let way = if way == Way::Seal { super::xts_avx512::Way::Seal } else { super::xts_avx512::Way::Open };
            return kernel.unit(way, first, skip * 16 / PART, src, dst);
        }
        self.unit_portable(way, first, skip, src, dst);
    }

    fn unit_portable(&self, way: Way, first: u128, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        let mut tweaks = [0u128; BLOCKS];
        fill_tweaks(first, &mut tweaks[..skip + dst.len() / 16]);
        let tweaks = &tweaks[skip..skip + dst.len() / 16];
        match src {
            Some(src) => xor_from(src, dst, tweaks),
            None => xor(dst, tweaks),
        }
        let (blocks, _) = Array::<u8, cipher::consts::U16>::slice_as_chunks_mut(dst);
        match way {
            Way::Seal => self.seal.encrypt_blocks(blocks),
            Way::Open => self.open.decrypt_blocks(blocks),
        }
        xor(dst, tweaks);
    }
}

/// Whether a part's sealed bytes are all zero. The first 16 bytes settle it for almost every part.
#[must_use]
pub fn is_hole(part: &[u8]) -> bool {
    let (head, tail) = part.split_at(16.min(part.len()));
    head.iter().all(|b| *b == 0) && tail.iter().fold(0, |a, b| a | b) == 0
}

/// `t * x` in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1 (IEEE 1619, 5.2).
const fn times_x(t: u128) -> u128 {
    (t << 1) ^ ((t >> 127) * 0x87)
}

/// `t * x^8`: the byte that leaves at the top comes back multiplied by x^7 + x^2 + x + 1.
const fn times_x8(t: u128) -> u128 {
    let top = t >> 120;
    (t << 8) ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7)
}

/// Tweaks of consecutive blocks, from the first on.
pub(super) fn fill_tweaks(first: u128, out: &mut [u128]) {
    let mut t = first;
    for slot in out.iter_mut().take(8) {
        *slot = t;
        t = times_x(t);
    }
    for i in 8..out.len() {
        out[i] = times_x8(out[i - 8]);
    }
}

fn xor(buf: &mut [u8], tweaks: &[u128]) {
    for (block, tweak) in buf.as_chunks_mut::<16>().0.iter_mut().zip(tweaks) {
        *block = (u128::from_ne_bytes(*block) ^ tweak.to_le()).to_ne_bytes();
    }
}

fn xor_from(src: &[u8], dst: &mut [u8], tweaks: &[u128]) {
    let blocks = dst.as_chunks_mut::<16>().0.iter_mut().zip(src.as_chunks::<16>().0).zip(tweaks);
    for ((to, from), tweak) in blocks {
        *to = (u128::from_ne_bytes(*from) ^ tweak.to_le()).to_ne_bytes();
    }
}

#[cfg(test)]
#[path = "xts_tests.rs"]
mod tests;
