//! What the x86-64 kernels share: AES-256's round keys, in locked memory.

#![allow(unsafe_code)]

use crate::sys::Locked;
use std::arch::x86_64::*;

/// Round keys of AES-256 (FIPS 197: 14 rounds).
pub(super) const ROUNDS: usize = 15;

/// Repeats a step for each of eight registers, unrolled.
macro_rules! each_lane {
    ($i:ident => $step:block) => {
        each_lane!($i => $step, 0 1 2 3 4 5 6 7)
    };
    ($i:ident => $step:block, $($n:literal)*) => {
        $({
            let $i: usize = $n;
            $step
        })*
    };
}
pub(super) use each_lane;

/// AES-256 round keys in one direction, in the form that the instructions take.
pub(super) type Keys = [__m128i; ROUNDS];

/// Round keys of key 1 in both directions, and of key 2 for sealing.
pub(super) struct Schedule {
    pub(super) seal: Locked<Keys>,
    pub(super) open: Locked<Keys>,
    pub(super) tweak: Locked<Keys>,
}

impl Schedule {
    /// Expands both keys, in place. `None` without AES-NI.
    pub(super) fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Option<Self> {
        if !is_x86_feature_detected!("aes") {
            return None;
        }
        let zero = || Locked::new([const { zero() }; ROUNDS]);
        let mut made = Self { seal: zero(), open: zero(), tweak: zero() };
        // SAFETY: the processor has AES-NI, checked above; these functions need nothing else.
        unsafe {
            expand(data, &mut made.seal);
            expand(tweak, &mut made.tweak);
            invert(&made.seal, &mut made.open);
        }
        Some(made)
    }
}

const fn zero() -> __m128i {
    // SAFETY: sixteen zero bytes are a valid __m128i.
    unsafe { std::mem::zeroed() }
}

/// Expands the key schedule (FIPS 197, 5.2), in place.
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8; 32], keys: &mut Keys) {
    // SAFETY: key has 32 bytes; the loads need no alignment.
    unsafe {
        keys[0] = _mm_loadu_si128(key.as_ptr().cast());
        keys[1] = _mm_loadu_si128(key.as_ptr().add(16).cast());
    }
    // Even keys take the rotated, substituted word with the round constant, odd ones only the substituted word.
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
}

/// Computes the round keys of the equivalent inverse cipher (FIPS 197, 5.3.5).
#[target_feature(enable = "aes,sse2")]
fn invert(seal: &Keys, open: &mut Keys) {
    open[0] = seal[ROUNDS - 1];
    for i in 1..ROUNDS - 1 {
        open[i] = _mm_aesimc_si128(seal[ROUNDS - 1 - i]);
    }
    open[ROUNDS - 1] = seal[0];
}

/// One step of the schedule: the running sum of the preceding words, plus the substituted word.
#[target_feature(enable = "sse2")]
fn mix(before: __m128i, word: __m128i) -> __m128i {
    let mut t = before;
    t = _mm_xor_si128(t, _mm_slli_si128::<4>(t));
    t = _mm_xor_si128(t, _mm_slli_si128::<8>(t));
    _mm_xor_si128(t, word)
}
