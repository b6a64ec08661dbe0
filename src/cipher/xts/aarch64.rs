//! AES-256-XTS for ARMv8 with its AES instructions and PMULL: eight blocks at a time, one to a register. Each tweak
//! advances to the next step by one multiplication by x^8: a shift by a byte, and a carry-less multiplication of the
//! byte shifted out by the polynomial, in parallel with the cipher's chain of instructions.

#![allow(unsafe_code)]

use super::engine::{Engine, Firsts, Tweak, Way, check};
use crate::sys::Locked;
use crate::units::SUBSECTOR;
use std::arch::aarch64::*;

/// Round keys of AES-256 (FIPS 197: 14 rounds).
const ROUNDS: usize = 15;
/// Blocks processed together.
const LANES: usize = 8;
/// Bytes in a step.
const STEP: usize = LANES * 16;
/// Steps in a subsector.
const STEPS: usize = SUBSECTOR / STEP;

type Keys = [uint8x16_t; ROUNDS];

/// Round keys of key 1 in both directions, and of key 2 for sealing.
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
        // SAFETY: the processor has the AES instructions, checked above; these functions need nothing else.
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
        // SAFETY: features: see [`Engine`].
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
        let (to, count) = (dst.as_mut_ptr(), dst.len() / SUBSECTOR);
        // In place, both come from one borrow: a second one would end the first.
        let from = src.map_or(to.cast_const(), <[u8]>::as_ptr);
        // SAFETY: features and buffers: see [`Engine`].
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
        // SAFETY: tweaks: see [`Engine`].
        unsafe { vst1q_u8(tweak.as_mut_ptr(), veorq_u8(*lane, keys[ROUNDS - 1])) };
    }
}

/// All rounds up to the last exclusive-or. The instruction adds its key before SubBytes, where FIPS 197 adds it after
/// MixColumns: so key 0 is the first one it adds.
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
        // Hides the keys from the optimiser, which would load them before the loop: they do not all fit, and would be
        // spilled to the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: buffers: see [`Engine`].
        let (from, to) = unsafe { (from.add(step * STEP), to.add(step * STEP)) };
        let mut data = [zero(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: lanes: see [`Engine`].
            *lane = veorq_u8(unsafe { vld1q_u8(from.add(i * 16)) }, tweak[i]);
        }
        rounds::<SEAL, LANES>(keys, &mut data);
        for (i, lane) in data.iter().enumerate() {
            let done = veorq_u8(*lane, veorq_u8(keys[ROUNDS - 1], tweak[i]));
            // SAFETY: lanes: see [`Engine`].
            unsafe { vst1q_u8(to.add(i * 16), done) };
            tweak[i] = times_x8(tweak[i]);
        }
    }
}

/// `t * x^8` in GF(2^128): the byte shifted out is added back, multiplied by x^7 + x^2 + x + 1.
#[target_feature(enable = "neon,aes")]
fn times_x8(t: uint8x16_t) -> uint8x16_t {
    let nothing = zero();
    let top = vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vextq_u8::<15>(t, nothing)));
    veorq_u8(vextq_u8::<15>(nothing, t), vreinterpretq_u8_p128(vmull_p64(top, 0x87)))
}

/// Computes the tweaks of a step's eight blocks: the first times x^0 to x^7.
#[target_feature(enable = "neon,aes")]
fn tweaks(first: &Tweak) -> [uint8x16_t; LANES] {
    // SAFETY: tweaks: see [`Engine`].
    let first = vreinterpretq_u64_u8(unsafe { vld1q_u8(first.as_ptr()) });
    let mut out = [zero(); LANES];
    for (i, t) in out.iter_mut().enumerate() {
        let (bits, left) = (vdupq_n_s64(i as i64), vdupq_n_s64(i as i64 - 64));
        // A shift by a negative count goes right; one by 64 or more leaves zero.
        let carry = vshlq_u64(first, left);
        // The low half's carry goes to the high half; the high half's is reduced and added to the low half.
        let up = vextq_u64::<1>(vdupq_n_u64(0), carry);
        let back = vreinterpretq_u64_p128(vmull_p64(vgetq_lane_u64::<1>(carry), 0x87));
        *t = vreinterpretq_u8_u64(veorq_u64(vshlq_u64(first, bits), veorq_u64(up, back)));
    }
    out
}

/// Expands the key schedule (FIPS 197, 5.2), in place.
#[target_feature(enable = "neon,aes")]
fn expand(key: &[u8; 32], keys: &mut Keys) {
    // SAFETY: key has 32 bytes; the loads need no alignment.
    unsafe {
        keys[0] = vld1q_u8(key.as_ptr());
        keys[1] = vld1q_u8(key.as_ptr().add(16));
    }
    for i in 2..ROUNDS {
        let last = vgetq_lane_u32::<3>(vreinterpretq_u32_u8(keys[i - 1]));
        // All columns are equal, so ShiftRows changes nothing, and the first column is the substituted word.
        let word =
            vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vaeseq_u8(vreinterpretq_u8_u32(vdupq_n_u32(last)), zero())));
        // Even keys take the rotated word with the round constant, odd ones only the substituted word.
        let word = if i % 2 == 0 { word.rotate_right(8) ^ (1 << (i / 2 - 1)) } else { word };
        let mut t = keys[i - 2];
        t = veorq_u8(t, vextq_u8::<12>(zero(), t));
        t = veorq_u8(t, vextq_u8::<8>(zero(), t));
        keys[i] = veorq_u8(t, vreinterpretq_u8_u32(vdupq_n_u32(word)));
    }
}

/// Computes the round keys of the equivalent inverse cipher (FIPS 197, 5.3.5).
#[target_feature(enable = "neon,aes")]
fn invert(seal: &Keys, open: &mut Keys) {
    open[0] = seal[ROUNDS - 1];
    for i in 1..ROUNDS - 1 {
        open[i] = vaesimcq_u8(seal[ROUNDS - 1 - i]);
    }
    open[ROUNDS - 1] = seal[0];
}
