//! AES-256-XTS for x86-64 with AVX2, VAES and VPCLMULQDQ, for processors without AVX-512 (Zen 3, Alder Lake).
//!
//! Sixteen blocks at a time, two to a register: eight registers of data; the tweaks, which do not fit beside them, lie on
//! the stack and are read and written once. They advance by one multiplication by x^16 each: a shift by two bytes, and
//! a carry-less multiplication of the two that leave by the polynomial, beside the cipher's chain of instructions.

#![allow(unsafe_code)]

use super::x86::{Keys, ROUNDS, Schedule, each_lane};
use super::{Engine, Firsts, Tweak, Way, check};
use crate::units::SUBSECTOR;
use std::arch::x86_64::*;

/// Registers of two blocks that are worked on together.
const LANES: usize = 8;
/// Bytes of those.
const STEP: usize = LANES * 32;
/// Steps in a part.
const STEPS: usize = SUBSECTOR / STEP;

pub(super) struct Vaes(Schedule);

pub(super) fn runs_here() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("aes")
}

impl Vaes {
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Option<Self> {
        if runs_here() { Schedule::new(data, tweak).map(Self) } else { None }
    }
}

impl Engine for Vaes {
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts) {
        // SAFETY: `new` found every feature.
        unsafe {
            match count {
                0..=2 => first_tweaks::<1>(&self.0.tweak, unit, out),
                3..=4 => first_tweaks::<2>(&self.0.tweak, unit, out),
                _ => first_tweaks::<8>(&self.0.tweak, unit, out),
            }
        }
    }

    fn unit(&self, way: Way, first: &Tweak, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        check(src, dst);
        let from = src.map_or(dst.as_ptr(), <[u8]>::as_ptr);
        let (to, count) = (dst.as_mut_ptr(), dst.len() / SUBSECTOR);
        // SAFETY: `new` found every feature; `from` and `to` are valid for count * 512 bytes, and are either the same
        // place or do not overlap (a shared and a mutable borrow).
        unsafe {
            match way {
                Way::Seal => parts::<true>(&self.0.seal, first, skip, from, to, count),
                Way::Open => parts::<false>(&self.0.open, first, skip, from, to, count),
            }
        }
    }
}

/// Key `i` in both lanes.
#[target_feature(enable = "avx2")]
fn wide(keys: &Keys, i: usize) -> __m256i {
    _mm256_broadcastsi128_si256(keys[i])
}

/// Seals the numbers of R * 2 units.
#[target_feature(enable = "avx2,vaes")]
fn first_tweaks<const R: usize>(keys: &Keys, unit: u64, out: &mut Firsts) {
    let mut lanes = [_mm256_setzero_si256(); R];
    for (i, lane) in lanes.iter_mut().enumerate() {
        let number = unit.wrapping_add(i as u64 * 2);
        *lane = _mm256_xor_si256(_mm256_set_epi64x(0, number.wrapping_add(1) as i64, 0, number as i64), wide(keys, 0));
    }
    for round in 1..ROUNDS - 1 {
        for lane in &mut lanes {
            *lane = _mm256_aesenc_epi128(*lane, wide(keys, round));
        }
    }
    for (lane, two) in lanes.iter().zip(out.0.as_chunks_mut::<2>().0) {
        let sealed = _mm256_aesenclast_epi128(*lane, wide(keys, ROUNDS - 1));
        // SAFETY: two tweaks are 32 bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(two.as_mut_ptr().cast(), sealed) };
    }
}

#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn parts<const SEAL: bool>(keys: &Keys, first: &Tweak, skip: usize, from: *const u8, to: *mut u8, count: usize) {
    let poly = _mm256_broadcastsi128_si256(_mm_set_epi64x(0, 0x87));
    let mut tweak = tweaks(first, poly);
    for _ in 0..skip * STEPS {
        each_lane!(i => { tweak[i] = times_x16(tweak[i], poly) });
    }
    for step in 0..count * STEPS {
        // Nothing of the keys is kept from step to step: they do not fit, and would be put on the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: the caller gives count * 512 bytes at both places.
        let (from, to) = unsafe { (from.add(step * STEP), to.add(step * STEP)) };
        let mut data = [_mm256_setzero_si256(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: as above: lane i is 32 bytes within the step; the load needs no alignment.
            let block = unsafe { _mm256_loadu_si256(from.add(i * 32).cast()) };
            *lane = _mm256_xor_si256(_mm256_xor_si256(tweak[i], wide(keys, 0)), block);
        }
        for round in 1..ROUNDS - 1 {
            let key = wide(keys, round);
            for lane in &mut data {
                *lane = if SEAL { _mm256_aesenc_epi128(*lane, key) } else { _mm256_aesdec_epi128(*lane, key) };
            }
        }
        let last = wide(keys, ROUNDS - 1);
        // Unrolled by hand: as a loop, data would go through memory to be counted.
        each_lane!(i => {
            // The last round ends in an exclusive-or with its key, so the tweak goes into that.
            let key = _mm256_xor_si256(last, tweak[i]);
            let lane = data[i];
            let done = if SEAL { _mm256_aesenclast_epi128(lane, key) } else { _mm256_aesdeclast_epi128(lane, key) };
            // SAFETY: as for the load.
            unsafe { _mm256_storeu_si256(to.add(i * 32).cast(), done) };
            tweak[i] = times_x16(tweak[i], poly);
        });
    }
}

/// Each lane times x^16 in GF(2^128): the two bytes that leave come back multiplied by x^7 + x^2 + x + 1.
#[target_feature(enable = "avx2,vpclmulqdq")]
fn times_x16(t: __m256i, poly: __m256i) -> __m256i {
    let top = _mm256_srli_si256::<14>(t);
    _mm256_xor_si256(_mm256_slli_si256::<2>(t), _mm256_clmulepi64_epi128::<0>(top, poly))
}

/// Tweaks of a step's 16 blocks: the first times x^0 to x^7, and those by a whole byte.
#[target_feature(enable = "avx2,vpclmulqdq")]
fn tweaks(first: &Tweak, poly: __m256i) -> [__m256i; LANES] {
    // SAFETY: first has 16 bytes; the load needs no alignment.
    let first = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(first.as_ptr().cast()) });
    let mut out = [_mm256_setzero_si256(); LANES];
    for (i, t) in out.iter_mut().take(4).enumerate() {
        let (even, odd) = (i as i64 * 2, i as i64 * 2 + 1);
        let bits = _mm256_set_epi64x(odd, odd, even, even);
        let carry = _mm256_srlv_epi64(first, _mm256_sub_epi64(_mm256_set1_epi64x(64), bits));
        // The low half's carry goes to the high half, the high half's comes back reduced.
        let (up, back) = (_mm256_slli_si256::<8>(carry), _mm256_clmulepi64_epi128::<1>(carry, poly));
        *t = _mm256_xor_si256(_mm256_xor_si256(_mm256_sllv_epi64(first, bits), up), back);
    }
    for i in 4..LANES {
        let (t, top) = (out[i - 4], _mm256_srli_si256::<15>(out[i - 4]));
        out[i] = _mm256_xor_si256(_mm256_slli_si256::<1>(t), _mm256_clmulepi64_epi128::<0>(top, poly));
    }
    out
}
