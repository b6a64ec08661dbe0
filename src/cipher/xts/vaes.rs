//! AES-256-XTS for x86-64 with AVX2, VAES and VPCLMULQDQ, for processors without AVX-512 (Zen 3, Alder Lake).
//!
//! Sixteen blocks at a time, two to a register: eight registers of data. The tweaks do not fit beside them: they are on
//! the stack, and each is read and written once. Each advances by one multiplication by x^16: a shift by two bytes, and
//! a carry-less multiplication of the two bytes shifted out by the polynomial, in parallel with the cipher's chain of
//! instructions.

#![allow(unsafe_code)]

use super::engine::{Engine, Firsts, Tweak, Way, check};
use super::x86::{Keys, ROUNDS, Schedule, each_lane};
use crate::units::SUBSECTOR;
use std::arch::x86_64::*;

/// Registers of two blocks processed together.
const LANES: usize = 8;
/// Bytes in a step.
const STEP: usize = LANES * 32;
/// Steps in a subsector.
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
        // SAFETY: features: see [`Engine`].
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
        let (to, count) = (dst.as_mut_ptr(), dst.len() / SUBSECTOR);
        // In place, both come from one borrow: a second one would end the first.
        let from = src.map_or(to.cast_const(), <[u8]>::as_ptr);
        // SAFETY: features and buffers: see [`Engine`].
        unsafe {
            match way {
                Way::Seal => parts::<true>(&self.0.seal, first, skip, from, to, count),
                Way::Open => parts::<false>(&self.0.open, first, skip, from, to, count),
            }
        }
    }
}

/// Broadcasts key `i` to both lanes.
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
        // SAFETY: tweaks: see [`Engine`].
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
        // Hides the keys from the optimiser, which would load them before the loop: they do not fit, and would be
        // spilled to the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: buffers: see [`Engine`].
        let (from, to) = unsafe { (from.add(step * STEP), to.add(step * STEP)) };
        let mut data = [_mm256_setzero_si256(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: lanes: see [`Engine`].
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
        // Unrolled by hand: a loop would index data in memory.
        each_lane!(i => {
            // The last round ends in an exclusive-or with its key, so the tweak is merged into that key.
            let key = _mm256_xor_si256(last, tweak[i]);
            let lane = data[i];
            let done = if SEAL { _mm256_aesenclast_epi128(lane, key) } else { _mm256_aesdeclast_epi128(lane, key) };
            // SAFETY: lanes: see [`Engine`].
            unsafe { _mm256_storeu_si256(to.add(i * 32).cast(), done) };
            tweak[i] = times_x16(tweak[i], poly);
        });
    }
}

/// Each lane times x^16 in GF(2^128): the two bytes shifted out are added back, multiplied by x^7 + x^2 + x + 1.
#[target_feature(enable = "avx2,vpclmulqdq")]
fn times_x16(t: __m256i, poly: __m256i) -> __m256i {
    let top = _mm256_srli_si256::<14>(t);
    _mm256_xor_si256(_mm256_slli_si256::<2>(t), _mm256_clmulepi64_epi128::<0>(top, poly))
}

/// Computes the tweaks of a step's 16 blocks: the first times x^0 to x^7, and those shifted by a whole byte.
#[target_feature(enable = "avx2,vpclmulqdq")]
fn tweaks(first: &Tweak, poly: __m256i) -> [__m256i; LANES] {
    // SAFETY: tweaks: see [`Engine`].
    let first = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(first.as_ptr().cast()) });
    let mut out = [_mm256_setzero_si256(); LANES];
    for (i, t) in out.iter_mut().take(4).enumerate() {
        let (even, odd) = (i as i64 * 2, i as i64 * 2 + 1);
        let bits = _mm256_set_epi64x(odd, odd, even, even);
        let carry = _mm256_srlv_epi64(first, _mm256_sub_epi64(_mm256_set1_epi64x(64), bits));
        // The low half's carry goes to the high half; the high half's is reduced and added to the low half.
        let (up, back) = (_mm256_slli_si256::<8>(carry), _mm256_clmulepi64_epi128::<1>(carry, poly));
        *t = _mm256_xor_si256(_mm256_xor_si256(_mm256_sllv_epi64(first, bits), up), back);
    }
    for i in 4..LANES {
        let (t, top) = (out[i - 4], _mm256_srli_si256::<15>(out[i - 4]));
        out[i] = _mm256_xor_si256(_mm256_slli_si256::<1>(t), _mm256_clmulepi64_epi128::<0>(top, poly));
    }
    out
}
