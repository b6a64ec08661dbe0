//! AES-256-XTS for x86-64 with AVX-512, VAES and VPCLMULQDQ.
//!
//! Thirty-two blocks (one subsector) at a time, four to a register: eight registers of data, eight of tweaks. Each
//! tweak advances to the next subsector by one multiplication by x^32: a shift by four bytes, and a carry-less
//! multiplication of the four bytes shifted out by the polynomial, in parallel with the cipher's chain of instructions.
//! The round keys stay in locked memory and are reloaded for each subsector: the loads cost nothing, and no copy of the
//! keys is put on the stack.

#![allow(unsafe_code)]

use super::engine::{Engine, Firsts, Tweak, Way, check};
use super::x86::{Keys, ROUNDS, Schedule, each_lane};
use crate::units::SUBSECTOR;
use std::arch::x86_64::*;

/// Registers of four blocks in a subsector.
const LANES: usize = SUBSECTOR / 64;

pub(super) struct Avx512(Schedule);

pub(super) fn runs_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("aes")
}

impl Avx512 {
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Option<Self> {
        if runs_here() { Schedule::new(data, tweak).map(Self) } else { None }
    }
}

impl Engine for Avx512 {
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts) {
        // SAFETY: features: see [`Engine`].
        unsafe {
            match count {
                0..=4 => first_tweaks::<1>(&self.0.tweak, unit, out),
                _ => first_tweaks::<4>(&self.0.tweak, unit, out),
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

/// Broadcasts key `i` to all four lanes.
#[target_feature(enable = "avx512f")]
fn wide(keys: &Keys, i: usize) -> __m512i {
    _mm512_broadcast_i32x4(keys[i])
}

/// Seals the numbers of R * 4 units.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
fn first_tweaks<const R: usize>(keys: &Keys, unit: u64, out: &mut Firsts) {
    let mut lanes = [_mm512_setzero_si512(); R];
    for (i, lane) in lanes.iter_mut().enumerate() {
        let start = _mm512_maskz_set1_epi64(0b0101_0101, unit.wrapping_add(i as u64 * 4) as i64);
        let numbers = _mm512_add_epi64(start, _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0));
        *lane = _mm512_xor_si512(numbers, wide(keys, 0));
    }
    for round in 1..ROUNDS - 1 {
        for lane in &mut lanes {
            *lane = _mm512_aesenc_epi128(*lane, wide(keys, round));
        }
    }
    for (lane, four) in lanes.iter().zip(out.0.as_chunks_mut::<4>().0) {
        let sealed = _mm512_aesenclast_epi128(*lane, wide(keys, ROUNDS - 1));
        // SAFETY: tweaks: see [`Engine`].
        unsafe { _mm512_storeu_si512(four.as_mut_ptr().cast(), sealed) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn parts<const SEAL: bool>(keys: &Keys, first: &Tweak, skip: usize, from: *const u8, to: *mut u8, count: usize) {
    let poly = _mm512_broadcast_i32x4(_mm_set_epi64x(0, 0x87));
    let mut tweak = tweaks(first, poly);
    for _ in 0..skip {
        each_lane!(i => { tweak[i] = times_x32(tweak[i], poly) });
    }
    for part in 0..count {
        // Hides the keys from the optimiser, which would load them before the loop: 15 registers of them do not fit,
        // and would be spilled to the stack.
        let keys = std::hint::black_box(keys);
        // SAFETY: buffers: see [`Engine`].
        let (from, to) = unsafe { (from.add(part * SUBSECTOR), to.add(part * SUBSECTOR)) };
        let mut data = [_mm512_setzero_si512(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: lanes: see [`Engine`].
            let block = unsafe { _mm512_loadu_si512(from.add(i * 64).cast()) };
            *lane = _mm512_ternarylogic_epi64::<XOR3>(block, tweak[i], wide(keys, 0));
        }
        for round in 1..ROUNDS - 1 {
            let key = wide(keys, round);
            for lane in &mut data {
                *lane = if SEAL { _mm512_aesenc_epi128(*lane, key) } else { _mm512_aesdec_epi128(*lane, key) };
            }
        }
        let last = wide(keys, ROUNDS - 1);
        // Unrolled by hand: a loop would index data and tweaks in memory.
        each_lane!(i => {
            // The last round ends in an exclusive-or with its key, so the tweak is merged into that key.
            let key = _mm512_xor_si512(last, tweak[i]);
            let lane = data[i];
            let done = if SEAL { _mm512_aesenclast_epi128(lane, key) } else { _mm512_aesdeclast_epi128(lane, key) };
            // SAFETY: lanes: see [`Engine`].
            unsafe { _mm512_storeu_si512(to.add(i * 64).cast(), done) };
            tweak[i] = times_x32(tweak[i], poly);
        });
    }
}

/// The truth table of a ^ b ^ c.
const XOR3: i32 = 0x96;

/// Each lane times x^32 in GF(2^128): the four bytes shifted out are added back, multiplied by x^7 + x^2 + x + 1.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_x32(t: __m512i, poly: __m512i) -> __m512i {
    let top = _mm512_bsrli_epi128::<12>(t);
    _mm512_xor_si512(_mm512_bslli_epi128::<4>(t), _mm512_clmulepi64_epi128::<0>(top, poly))
}

/// Computes the tweaks of a subsector's 32 blocks: the first times x^0 to x^7, and those shifted by whole bytes.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn tweaks(first: &Tweak, poly: __m512i) -> [__m512i; LANES] {
    // SAFETY: tweaks: see [`Engine`].
    let first = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(first.as_ptr().cast()) });
    let times = |bits: __m512i| {
        let left = _mm512_sub_epi64(_mm512_set1_epi64(64), bits);
        let carry = _mm512_srlv_epi64(first, left);
        // The low half's carry goes to the high half; the high half's is reduced and added to the low half.
        let (up, back) = (_mm512_bslli_epi128::<8>(carry), _mm512_clmulepi64_epi128::<1>(carry, poly));
        _mm512_ternarylogic_epi64::<XOR3>(_mm512_sllv_epi64(first, bits), up, back)
    };
    let low = times(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0));
    let high = times(_mm512_set_epi64(7, 7, 6, 6, 5, 5, 4, 4));
    macro_rules! bytes {
        ($t:expr, $n:expr) => {
            _mm512_xor_si512(
                _mm512_bslli_epi128::<$n>($t),
                _mm512_clmulepi64_epi128::<0>(_mm512_bsrli_epi128::<{ 16 - $n }>($t), poly),
            )
        };
    }
    [low, high, bytes!(low, 1), bytes!(high, 1), bytes!(low, 2), bytes!(high, 2), bytes!(low, 3), bytes!(high, 3)]
}
