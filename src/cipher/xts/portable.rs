//! The kernel that runs everywhere: blocks through the `aes` crate's parallel interface (AES-NI, VAES, ARMv8, or
//! bitsliced, chosen at run time), tweaks by 128-bit arithmetic, in eight independent chains that advance by a
//! multiplication by x^8 in GF(2^128). The other kernels are tested against it.

use super::engine::{Engine, Firsts, Tweak, Way, check};
use crate::sys::Locked;
use crate::units::{SECTOR, SUBSECTOR};
use aes::{Aes256Dec, Aes256Enc};
use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// XTS blocks in a unit.
const BLOCKS: usize = SECTOR / 16;

pub(super) struct Portable {
    seal: Locked<Aes256Enc>,
    open: Locked<Aes256Dec>,
    tweak: Locked<Aes256Enc>,
}

impl Portable {
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Self {
        let (data, tweak) = (<Array<u8, _>>::cast_from_core(data), <Array<u8, _>>::cast_from_core(tweak));
        Self {
            seal: Locked::new(Aes256Enc::new(data)),
            open: Locked::new(Aes256Dec::new(data)),
            tweak: Locked::new(Aes256Enc::new(tweak)),
        }
    }
}

impl Engine for Portable {
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts) {
        for (i, block) in out.0[..count].iter_mut().enumerate() {
            *block = u128::from(unit.wrapping_add(i as u64)).to_le_bytes();
        }
        self.tweak.encrypt_blocks(Array::cast_slice_from_core_mut(&mut out.0[..count]));
    }

    fn unit(&self, way: Way, first: &Tweak, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        check(src, dst);
        let (skip, count) = (skip * SUBSECTOR / 16, dst.len() / 16);
        let mut tweaks = [0u128; BLOCKS];
        fill_tweaks(u128::from_le_bytes(*first), &mut tweaks[..skip + count]);
        let tweaks = &tweaks[skip..skip + count];
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

/// `t * x` in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1 (IEEE 1619, 5.2).
const fn times_x(t: u128) -> u128 {
    (t << 1) ^ ((t >> 127) * 0x87)
}

/// `t * x^8`: the byte shifted out at the top is added back, multiplied by x^7 + x^2 + x + 1.
const fn times_x8(t: u128) -> u128 {
    let top = t >> 120;
    (t << 8) ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7)
}

/// Computes the tweaks of consecutive blocks, beginning with `first`.
fn fill_tweaks(first: u128, out: &mut [u128]) {
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
