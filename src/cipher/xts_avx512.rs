//! AES-256-XTS for x86-64 with AVX-512, VAES and VPCLMULQDQ: the kernel that [`super::xts`] takes where the processor has
//! them.
//!
//! Thirty-two blocks (one part) at a time: eight registers of data, eight of tweaks, fifteen of round keys. A register
//! holds four blocks; tweaks go from one part to the next by one multiplication by x^32 each, which is a byte shift and a
//! carry-less multiplication of the four bytes that leave by the polynomial, off the cipher's critical path.
//! No table, and no branch, depends on key or data.

#![allow(unsafe_code)]

use crate::sys::Locked;
use crate::units::PART;
use std::arch::x86_64::*;

/// Round keys of AES-256 (FIPS 197: 14 rounds).
const ROUNDS: usize = 15;
/// Registers of four blocks in a part.
const LANES: usize = PART / 64;

/// Round keys for sealing and for opening, in locked memory.
pub(super) struct Kernel {
    seal: Locked<[[u8; 16]; ROUNDS]>,
    open: Locked<[[u8; 16]; ROUNDS]>,
}

/// Which way the blocks go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Seal,
    Open,
}

impl Kernel {
    /// The kernel under key 1 (32 bytes), if this processor can run it.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let can = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("aes");
        let key = <&[u8; 32]>::try_from(key).ok().filter(|_| can)?;
        let mut made = Self { seal: Locked::new([[0; 16]; ROUNDS]), open: Locked::new([[0; 16]; ROUNDS]) };
        // SAFETY: the processor has AES-NI (checked above), which is all that this needs.
        unsafe { expand(key, &mut made.seal, &mut made.open) };
        Some(made)
    }

    /// Seals or opens parts of one unit, whose first tweak is `first`, from part `skip` on. `src` and `dst` have the same
    /// length, a multiple of 512; without `src`, `dst` is changed in place.
    pub(super) fn unit(&self, way: Way, first: u128, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        assert!(dst.len().is_multiple_of(PART) && src.is_none_or(|s| s.len() == dst.len()), "not whole parts");
        let mut first = first;
        for _ in 0..skip {
            first = times_x32(first);
        }
        let from = src.map_or(dst.as_ptr(), <[u8]>::as_ptr);
        let to = dst.as_mut_ptr();
        // SAFETY: `new` found every feature; `from` and `to` are valid for dst.len() bytes, a multiple of 512, and are
        // either the same place or do not overlap (a shared and a mutable borrow).
        unsafe {
            match way {
                Way::Seal => parts::<true>(&self.seal, first, from, to, dst.len() / PART),
                Way::Open => parts::<false>(&self.open, first, from, to, dst.len() / PART),
            }
        }
    }
}

/// `t * x^32` in GF(2^128): the four bytes that leave come back multiplied by x^7 + x^2 + x + 1.
const fn times_x32(t: u128) -> u128 {
    let top = t >> 96;
    (t << 32) ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7)
}

#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn parts<const SEAL: bool>(keys: &[[u8; 16]; ROUNDS], first: u128, from: *const u8, to: *mut u8, count: usize) {
    let poly = _mm512_broadcast_i32x4(_mm_set_epi64x(0, 0x87));
    let mut round = [_mm512_setzero_si512(); ROUNDS];
    for (wide, key) in round.iter_mut().zip(keys) {
        // SAFETY: key has 16 bytes; the load needs no alignment.
        *wide = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) });
    }
    let mut tweak = first_tweaks(first, poly);
    for part in 0..count {
        // SAFETY: the caller gives count * 512 bytes at both places.
        let (from, to) = unsafe { (from.add(part * PART), to.add(part * PART)) };
        let mut data = [_mm512_setzero_si512(); LANES];
        for (i, lane) in data.iter_mut().enumerate() {
            // SAFETY: as above: lane i is 64 bytes within the part; the load needs no alignment.
            let block = unsafe { _mm512_loadu_si512(from.add(i * 64).cast()) };
            *lane = _mm512_xor_si512(_mm512_xor_si512(block, tweak[i]), round[0]);
        }
        for key in &round[1..ROUNDS - 1] {
            for lane in &mut data {
                *lane = if SEAL { _mm512_aesenc_epi128(*lane, *key) } else { _mm512_aesdec_epi128(*lane, *key) };
            }
        }
        for (i, lane) in data.iter_mut().enumerate() {
            let last = round[ROUNDS - 1];
            let done = if SEAL { _mm512_aesenclast_epi128(*lane, last) } else { _mm512_aesdeclast_epi128(*lane, last) };
            // SAFETY: as for the load.
            unsafe { _mm512_storeu_si512(to.add(i * 64).cast(), _mm512_xor_si512(done, tweak[i])) };
            let top = _mm512_bsrli_epi128::<12>(tweak[i]);
            tweak[i] = _mm512_xor_si512(_mm512_bslli_epi128::<4>(tweak[i]), _mm512_clmulepi64_epi128::<0>(top, poly));
        }
    }
}

/// Tweaks of a part's 32 blocks, from the first: two registers by doubling, the rest each x^8 times the one two before.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn first_tweaks(first: u128, poly: __m512i) -> [__m512i; LANES] {
    let mut eight = [0u128; 8];
    super::xts::fill_tweaks(first, &mut eight);
    let mut out = [_mm512_setzero_si512(); LANES];
    for (i, four) in eight.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: four u128 are 64 bytes, in memory as a little-endian machine's XTS has them; no alignment is needed.
        out[i] = unsafe { _mm512_loadu_si512(four.as_ptr().cast()) };
    }
    for i in 2..LANES {
        let top = _mm512_bsrli_epi128::<15>(out[i - 2]);
        out[i] = _mm512_xor_si512(_mm512_bslli_epi128::<1>(out[i - 2]), _mm512_clmulepi64_epi128::<0>(top, poly));
    }
    out
}

/// The key schedule (FIPS 197, 5.2), and its inverse for the equivalent inverse cipher (5.3.5).
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8; 32], seal: &mut [[u8; 16]; ROUNDS], open: &mut [[u8; 16]; ROUNDS]) {
    let load = |bytes: &[u8]| {
        let mut half = [0u8; 16];
        half.copy_from_slice(bytes);
        // SAFETY: half has 16 bytes; the load needs no alignment.
        unsafe { _mm_loadu_si128(half.as_ptr().cast()) }
    };
    let mut keys = [_mm_setzero_si128(); ROUNDS];
    keys[0] = load(&key[..16]);
    keys[1] = load(&key[16..]);
    // Even keys take the rotated, substituted word with the round constant, odd ones the substituted word alone.
    macro_rules! even {
        ($i:expr, $rcon:expr) => {
            keys[$i] = mix(keys[$i - 2], _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$rcon>(keys[$i - 1])));
        };
    }
    macro_rules! odd {
        ($i:expr) => {
            keys[$i] = mix(keys[$i - 2], _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(keys[$i - 1])));
        };
    }
    even!(2, 0x01);
    odd!(3);
    even!(4, 0x02);
    odd!(5);
    even!(6, 0x04);
    odd!(7);
    even!(8, 0x08);
    odd!(9);
    even!(10, 0x10);
    odd!(11);
    even!(12, 0x20);
    odd!(13);
    even!(14, 0x40);
    let store = |room: &mut [u8; 16], key: __m128i| {
        // SAFETY: room has 16 bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), key) };
    };
    for i in 0..ROUNDS {
        store(&mut seal[i], keys[i]);
        let inverse =
            if i == 0 || i == ROUNDS - 1 { keys[ROUNDS - 1 - i] } else { _mm_aesimc_si128(keys[ROUNDS - 1 - i]) };
        store(&mut open[i], inverse);
    }
    keys = [_mm_setzero_si128(); ROUNDS];
    std::hint::black_box(&keys);
}

/// One step of the schedule: the running sum of the words before, and the word that was substituted.
#[target_feature(enable = "sse2")]
fn mix(before: __m128i, word: __m128i) -> __m128i {
    let mut t = before;
    t = _mm_xor_si128(t, _mm_slli_si128::<4>(t));
    t = _mm_xor_si128(t, _mm_slli_si128::<8>(t));
    _mm_xor_si128(t, word)
}
