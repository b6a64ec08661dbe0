//! The bare cipher: AES-256 over independent blocks of a buffer, nothing else, one loop for each register width. The
//! rate that XTS could reach if tweaks cost nothing. The key is zeros: the time does not depend on it.

#![allow(unsafe_code)]

use coffer::cipher::xts::Kernel;

/// Seals or opens a buffer, in whole steps of 512 bytes, block by block. `None` if the processor has no such registers.
pub fn loop_of(kernel: Kernel, seal: bool) -> Option<fn(&mut [u8])> {
    #[cfg(target_arch = "x86_64")]
    if Kernel::available().any(|k| k == kernel) {
        macro_rules! safe {
            ($name:ident, $seal:literal) => {
                // SAFETY: the processor supports the kernel, which needs every feature that the loop needs.
                Some(|buf| unsafe { x86::$name::<$seal>(buf) })
            };
        }
        return match (kernel, seal) {
            (Kernel::Avx512, true) => safe!(wide, true),
            (Kernel::Avx512, false) => safe!(wide, false),
            (Kernel::Vaes, true) => safe!(double, true),
            (Kernel::Vaes, false) => safe!(double, false),
            (Kernel::AesNi, true) => safe!(single, true),
            (Kernel::AesNi, false) => safe!(single, false),
            _ => None,
        };
    }
    let _ = (kernel, seal);
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    macro_rules! bare {
        ($name:ident, $features:literal, $zero:ident, $load:ident, $store:ident, $xor:ident, $enc:ident, $last:ident, $dec:ident, $declast:ident) => {
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const SEAL: bool>(buf: &mut [u8]) {
                // Round keys as unknown to the compiler as real ones.
                let keys = std::hint::black_box([$zero(); 15]);
                let width = size_of_val(&keys[0]);
                for step in buf.chunks_exact_mut(8 * width) {
                    let mut lanes = [$zero(); 8];
                    for (i, lane) in lanes.iter_mut().enumerate() {
                        // SAFETY: lane i is inside the step; the load needs no alignment.
                        *lane = $xor(unsafe { $load(step.as_ptr().add(i * width).cast()) }, keys[0]);
                    }
                    for key in &keys[1..14] {
                        for lane in &mut lanes {
                            *lane = if SEAL { $enc(*lane, *key) } else { $dec(*lane, *key) };
                        }
                    }
                    for (i, lane) in lanes.iter().enumerate() {
                        let done = if SEAL { $last(*lane, keys[14]) } else { $declast(*lane, keys[14]) };
                        // SAFETY: as for the load.
                        unsafe { $store(step.as_mut_ptr().add(i * width).cast(), done) };
                    }
                }
            }
        };
    }

    bare!(
        wide,
        "avx512f,avx512bw,vaes",
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_xor_si512,
        _mm512_aesenc_epi128,
        _mm512_aesenclast_epi128,
        _mm512_aesdec_epi128,
        _mm512_aesdeclast_epi128
    );
    bare!(
        double,
        "avx2,vaes",
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_xor_si256,
        _mm256_aesenc_epi128,
        _mm256_aesenclast_epi128,
        _mm256_aesdec_epi128,
        _mm256_aesdeclast_epi128
    );
    bare!(
        single,
        "aes,sse2",
        _mm_setzero_si128,
        _mm_loadu_si128,
        _mm_storeu_si128,
        _mm_xor_si128,
        _mm_aesenc_si128,
        _mm_aesenclast_si128,
        _mm_aesdec_si128,
        _mm_aesdeclast_si128
    );
}
