//! AES-256-XTS for x86-64 with AES-NI and no vector extension of it: one block to a register, four at a time, which
//! leaves room for their tweaks in the sixteen registers (eight at a time is a tenth slower); the processor overlaps
//! consecutive groups of four. Each tweak is its predecessor times x, by a shift and a mask: that chain is shorter than
//! the cipher's, so its latency is hidden.

#![allow(unsafe_code)]

use super::engine::{Engine, Firsts, Tweak, Way, check};
use super::x86::{Keys, ROUNDS, Schedule};
use crate::units::SUBSECTOR;
use std::arch::x86_64::*;

/// Blocks processed together.
const LANES: usize = 4;
/// Bytes in a step.
const STEP: usize = LANES * 16;
/// Steps in a subsector.
const STEPS: usize = SUBSECTOR / STEP;

pub(super) struct AesNi(Schedule);

pub(super) fn runs_here() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2")
}

impl AesNi {
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Option<Self> {
        if runs_here() { Schedule::new(data, tweak).map(Self) } else { None }
    }
}

impl Engine for AesNi {
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts) {
        // SAFETY: features: see [`Engine`].
        unsafe {
            match count {
                0..=1 => first_tweaks::<1>(&self.0.tweak, unit, &mut out.0),
                2..=4 => first_tweaks::<4>(&self.0.tweak, unit, &mut out.0),
                _ => {
                    for (i, eight) in out.0.as_chunks_mut::<8>().0.iter_mut().enumerate().take(count.div_ceil(8)) {
                        first_tweaks::<8>(&self.0.tweak, unit.wrapping_add(i as u64 * 8), eight);
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
                Way::Seal => parts::<true>(&self.0.seal, first, skip, from, to, count),
                Way::Open => parts::<false>(&self.0.open, first, skip, from, to, count),
            }
        }
    }
}

/// Seals the numbers of R units.
#[target_feature(enable = "aes,sse2")]
fn first_tweaks<const R: usize>(keys: &Keys, unit: u64, out: &mut [Tweak]) {
    let mut lanes = [_mm_setzero_si128(); R];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = _mm_xor_si128(_mm_set_epi64x(0, unit.wrapping_add(i as u64) as i64), keys[0]);
    }
    for key in &keys[1..ROUNDS - 1] {
        for lane in &mut lanes {
            *lane = _mm_aesenc_si128(*lane, *key);
        }
    }
    for (lane, tweak) in lanes.iter().zip(out) {
        // SAFETY: tweaks: see [`Engine`].
        unsafe { _mm_storeu_si128(tweak.as_mut_ptr().cast(), _mm_aesenclast_si128(*lane, keys[ROUNDS - 1])) };
    }
}

#[target_feature(enable = "aes,sse2")]
unsafe fn parts<const SEAL: bool>(keys: &Keys, first: &Tweak, skip: usize, from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: tweaks: see [`Engine`].
    let mut next = unsafe { _mm_loadu_si128(first.as_ptr().cast()) };
    for _ in 0..skip * SUBSECTOR / 16 {
        next = times_x(next);
    }
    for step in 0..count * STEPS {
        // Hides the keys from the optimiser, which would load them before the loop: they do not fit, and would be
        // spilled to the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: buffers: see [`Engine`].
        let (from, to) = unsafe { (from.add(step * STEP), to.add(step * STEP)) };
        let mut tweak = [_mm_setzero_si128(); LANES];
        let mut data = [_mm_setzero_si128(); LANES];
        for (i, (lane, t)) in data.iter_mut().zip(&mut tweak).enumerate() {
            // SAFETY: lanes: see [`Engine`].
            let block = unsafe { _mm_loadu_si128(from.add(i * 16).cast()) };
            *lane = _mm_xor_si128(_mm_xor_si128(next, keys[0]), block);
            // The last round ends in an exclusive-or with its key, so the tweak is merged into that key.
            *t = _mm_xor_si128(next, keys[ROUNDS - 1]);
            next = times_x(next);
        }
        for key in &keys[1..ROUNDS - 1] {
            for lane in &mut data {
                *lane = if SEAL { _mm_aesenc_si128(*lane, *key) } else { _mm_aesdec_si128(*lane, *key) };
            }
        }
        for (i, (lane, key)) in data.iter().zip(&tweak).enumerate() {
            let done = if SEAL { _mm_aesenclast_si128(*lane, *key) } else { _mm_aesdeclast_si128(*lane, *key) };
            // SAFETY: lanes: see [`Engine`].
            unsafe { _mm_storeu_si128(to.add(i * 16).cast(), done) };
        }
    }
}

/// `t * x` in GF(2^128): each half's top bit, spread over a word, selects what it carries into: the other half's lowest
/// bit, or x^7 + x^2 + x + 1.
#[target_feature(enable = "sse2")]
fn times_x(t: __m128i) -> __m128i {
    let tops = _mm_shuffle_epi32::<0b00_01_00_11>(_mm_srai_epi32::<31>(t));
    let carry = _mm_and_si128(tops, _mm_set_epi32(0, 1, 0, 0x87));
    _mm_xor_si128(_mm_add_epi64(t, t), carry)
}
