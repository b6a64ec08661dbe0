//! AES-256-XTS for ARMv8 with its AES instructions and PMULL: eight blocks at a time, one to a register. Tweaks go from one
//! step to the next by one multiplication by x^8 each: a shift by a byte, and a carry-less multiplication of the byte that
//! leaves by the polynomial, beside the cipher's chain of instructions.

#![allow(unsafe_code)]

use super::{Engine, Firsts, Tweak, Way, check};
use crate::sys::Locked;
use crate::units::SUBSECTOR;
use std::arch::aarch64::*;

/// Round keys of AES-256 (FIPS 197: 14 rounds).
const ROUNDS: usize = 15;
/// Blocks that are worked on together.
const LANES: usize = 8;
/// Bytes of those.
const STEP: usize = LANES * 16;
/// Steps in a part.
const STEPS: usize = SUBSECTOR / STEP;

type Keys = [uint8x16_t; ROUNDS];

/// Round keys for both ways of key 1, and for sealing under key 2.
pub(super) struct ArmAes {
    seal: Locked<Keys>,
    open: Locked<Keys>,
    tweak: Locked<Keys>,
}

pub(super) fn runs_here() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

impl ArmAes {
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Option<Self> {
        if !runs_here() {
            return None;
        }
        let zero = || Locked::new([const { zero() }; ROUNDS]);
        let mut made = Self { seal: zero(), open: zero(), tweak: zero() };
        // SAFETY: the processor has the AES instructions, which is all that these need.
        unsafe {
            expand(data, &mut made.seal);
            expand(tweak, &mut made.tweak);
            invert(&made.seal, &mut made.open);
        }
        Some(made)
    }
}

const fn zero() -> uint8x16_t {
    // SAFETY: sixteen zero bytes are a valid uint8x16_t.
    unsafe { std::mem::zeroed() }
}

impl Engine for ArmAes {
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts) {
        // SAFETY: `new` found the AES instructions.
        unsafe {
            match count {
                0..=1 => first_tweaks::<1>(&self.tweak, unit, &mut out.0),
                2..=4 => first_tweaks::<4>(&self.tweak, unit, &mut out.0),
                _ => {
                    for (i, eight) in out.0.as_chunks_mut::<8>().0.iter_mut().enumerate().take(count.div_ceil(8)) {
                        first_tweaks::<8>(&self.tweak, unit.wrapping_add(i as u64 * 8), eight);
                    }
                }
            }
        }
    }

    fn unit(&self, way: Way, first: &Tweak, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        check(src, dst);
        let from = src.map_or(dst.as_ptr(), <[u8]>::as_ptr);
        let (to, count) = (dst.as_mut_ptr(), dst.len() / SUBSECTOR);
        // SAFETY: `new` found the AES instructions; `from` and `to` are valid for count * 512 bytes, and are either the
        // same place or do not overlap (a shared and a mutable borrow).
        unsafe {
            match way {
                Way::Seal => parts::<true>(&self.seal, first, skip, from, to, count),
                Way::Open => parts::<false>(&self.open, first, skip, from, to, count),
            }
        }
    }
}

/// Seals the numbers of R units.
#[target_feature(enable = "neon,aes")]
fn first_tweaks<const R: usize>(keys: &Keys, unit: u64, out: &mut [Tweak]) {
    let mut lanes = [zero(); R];
    for (i, lane) in lanes.iter_mut().enumerate() {
        let number = vcombine_u64(vcreate_u64(unit.wrapping_add(i as u64)), vcreate_u64(0));
        *lane = vreinterpretq_u8_u64(number);
    }
    rounds::<true, R>(keys, &mut lanes);
    for (lane, tweak) in lanes.iter().zip(out) {
        // SAFETY: a tweak has 16 bytes; the store needs no alignment.
        unsafe { vst1q_u8(tweak.as_mut_ptr(), veorq_u8(*lane, keys[ROUNDS - 1])) };
    }
}

/// All rounds but the last exclusive-or. The instruction adds its key before it substitutes, where FIPS 197 does after the
/// mixing of columns: so key 0 goes in first by itself.
#[target_feature(enable = "neon,aes")]
fn rounds<const SEAL: bool, const R: usize>(keys: &Keys, lanes: &mut [uint8x16_t; R]) {
    for key in &keys[..ROUNDS - 2] {
        for lane in lanes.iter_mut() {
            *lane = if SEAL { vaesmcq_u8(vaeseq_u8(*lane, *key)) } else { vaesimcq_u8(vaesdq_u8(*lane, *key)) };
        }
    }
    for lane in lanes.iter_mut() {
        let key = keys[ROUNDS - 2];
        *lane = if SEAL { vaeseq_u8(*lane, key) } else { vaesdq_u8(*lane, key) };
    }
}

#[target_feature(enable = "neon,aes")]
unsafe fn parts<const SEAL: bool>(keys: &Keys, first: &Tweak, skip: usize, from: *const u8, to: *mut u8, count: usize) {
    let mut tweak = tweaks(first);
    for _ in 0..skip * STEPS {
        for t in &mut tweak {
            *t = times_x8(*t);
        }
    }
    for step in 0..count * STEPS {
        // Nothing of the keys is kept from step to step: they do not all fit, and would be put on the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: the caller gives count * 512 bytes at both places.
        let (from, to) = unsafe { (from.add(step * STEP), to.add(step * STEP)) };
        let mut data = [zero(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: as above: lane i is 16 bytes within the step; the load needs no alignment.
            *lane = veorq_u8(unsafe { vld1q_u8(from.add(i * 16)) }, tweak[i]);
        }
        rounds::<SEAL, LANES>(keys, &mut data);
        for (i, lane) in data.iter().enumerate() {
            let done = veorq_u8(*lane, veorq_u8(keys[ROUNDS - 1], tweak[i]));
            // SAFETY: as for the load.
            unsafe { vst1q_u8(to.add(i * 16), done) };
            tweak[i] = times_x8(tweak[i]);
        }
    }
}

/// `t * x^8` in GF(2^128): the byte that leaves comes back multiplied by x^7 + x^2 + x + 1.
#[target_feature(enable = "neon,aes")]
fn times_x8(t: uint8x16_t) -> uint8x16_t {
    let nothing = zero();
    let top = vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vextq_u8::<15>(t, nothing)));
    veorq_u8(vextq_u8::<15>(nothing, t), vreinterpretq_u8_p128(vmull_p64(top, 0x87)))
}

/// Tweaks of a step's eight blocks: the first times x^0 to x^7.
#[target_feature(enable = "neon,aes")]
fn tweaks(first: &Tweak) -> [uint8x16_t; LANES] {
    // SAFETY: first has 16 bytes; the load needs no alignment.
    let first = vreinterpretq_u64_u8(unsafe { vld1q_u8(first.as_ptr()) });
    let mut out = [zero(); LANES];
    for (i, t) in out.iter_mut().enumerate() {
        let (bits, left) = (vdupq_n_s64(i as i64), vdupq_n_s64(i as i64 - 64));
        // A shift by a negative count goes right; by 64 or more it leaves nothing.
        let carry = vshlq_u64(first, left);
        // The low half's carry goes to the high half, the high half's comes back reduced.
        let up = vextq_u64::<1>(vdupq_n_u64(0), carry);
        let back = vreinterpretq_u64_p128(vmull_p64(vgetq_lane_u64::<1>(carry), 0x87));
        *t = vreinterpretq_u8_u64(veorq_u64(vshlq_u64(first, bits), veorq_u64(up, back)));
    }
    out
}

/// The key schedule (FIPS 197, 5.2), in place.
#[target_feature(enable = "neon,aes")]
fn expand(key: &[u8; 32], keys: &mut Keys) {
    // SAFETY: key has 32 bytes; the loads need no alignment.
    unsafe {
        keys[0] = vld1q_u8(key.as_ptr());
        keys[1] = vld1q_u8(key.as_ptr().add(16));
    }
    for i in 2..ROUNDS {
        let last = vgetq_lane_u32::<3>(vreinterpretq_u32_u8(keys[i - 1]));
        // All columns are alike, so the shift of rows changes nothing, and the first column is the substituted word.
        let word =
            vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vaeseq_u8(vreinterpretq_u8_u32(vdupq_n_u32(last)), zero())));
        // Even keys take the rotated word with the round constant, odd ones the substituted word alone.
        let word = if i % 2 == 0 { word.rotate_right(8) ^ (1 << (i / 2 - 1)) } else { word };
        let mut t = keys[i - 2];
        t = veorq_u8(t, vextq_u8::<12>(zero(), t));
        t = veorq_u8(t, vextq_u8::<8>(zero(), t));
        keys[i] = veorq_u8(t, vreinterpretq_u8_u32(vdupq_n_u32(word)));
    }
}

/// Round keys of the equivalent inverse cipher (FIPS 197, 5.3.5).
#[target_feature(enable = "neon,aes")]
fn invert(seal: &Keys, open: &mut Keys) {
    open[0] = seal[ROUNDS - 1];
    for i in 1..ROUNDS - 1 {
        open[i] = vaesimcq_u8(seal[ROUNDS - 1 - i]);
    }
    open[ROUNDS - 1] = seal[0];
}
