//! AES-256-XTS (IEEE 1619-2018) over 4096-byte data units; the tweak of a unit is its number, 128 bits little-endian:
//! dm-crypt's `aes-xts-plain64` with `sector_size:4096 iv_large_sectors`.
//!
//! The blocks go through a [`Kernel`] chosen at run time, the first that the processor supports of: AVX-512 with VAES,
//! AVX2 with VAES, AES-NI, ARMv8 AES, and the `aes` crate. Each does two things: it seals the first tweaks of a run's
//! units together, and it seals or opens blocks of one unit, advancing the tweaks in registers in parallel with the
//! cipher's own chain of instructions. This module has what they share: runs, units that start or end in the middle,
//! holes.
//!
//! # Constant time
//! No kernel has a table, a branch or an address that depends on key, tweak or data. The processor's AES instructions
//! take the same time for all data; without them, the `aes` crate is bitsliced. What does depend on sealed bytes is
//! whether a subsector is a hole, which anyone who has the disk can see.
//!
//! All operations take whole *subsectors* (512 bytes), in runs that may start and end inside a unit: XTS blocks are
//! independent given the tweak. Ciphertext stealing never happens: all lengths are multiples of 16.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod aesni;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod engine;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vaes;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{DataKey, Sealed, SealedMut, Unwrapped};
use crate::units::{SECTOR, SUBSECTOR, SectorNo};
use engine::{BATCH, Engine, Firsts, Tweak, Way, check};

/// Subsectors in a unit.
const SUBSECTORS: usize = SECTOR / SUBSECTOR;

/// An implementation of the block operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// x86-64 with AVX-512, VAES and VPCLMULQDQ: four blocks an instruction.
    Avx512,
    /// x86-64 with AVX2, VAES and VPCLMULQDQ: two blocks an instruction.
    Vaes,
    /// x86-64 with AES-NI: one block an instruction.
    AesNi,
    /// ARMv8 with its AES instructions.
    ArmAes,
    /// The `aes` crate, which runs everywhere.
    Portable,
}

impl Kernel {
    /// All kernels, the fastest first.
    pub const ALL: [Self; 5] = [Self::Avx512, Self::Vaes, Self::AesNi, Self::ArmAes, Self::Portable];

    /// Returns the kernels that this processor supports, the fastest first. [`Kernel::Portable`] is always among them.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|k| k.runs_here())
    }

    fn runs_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::runs_here(),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes => vaes::runs_here(),
            #[cfg(target_arch = "x86_64")]
            Self::AesNi => aesni::runs_here(),
            #[cfg(target_arch = "aarch64")]
            Self::ArmAes => aarch64::runs_here(),
            Self::Portable => true,
            _ => false,
        }
    }

    /// Expands both keys for this kernel. `None` if the processor does not support it.
    fn engine(self, data: &[u8; 32], tweak: &[u8; 32]) -> Option<Box<dyn Engine>> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::new(data, tweak).map(|e| Box::new(e) as Box<dyn Engine>),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes => vaes::Vaes::new(data, tweak).map(|e| Box::new(e) as Box<dyn Engine>),
            #[cfg(target_arch = "x86_64")]
            Self::AesNi => aesni::AesNi::new(data, tweak).map(|e| Box::new(e) as Box<dyn Engine>),
            #[cfg(target_arch = "aarch64")]
            Self::ArmAes => aarch64::ArmAes::new(data, tweak).map(|e| Box::new(e) as Box<dyn Engine>),
            Self::Portable => Some(Box::new(portable::Portable::new(data, tweak))),
            _ => None,
        }
    }
}

/// An open cipher: it seals and opens sectors. Its key schedules are in locked memory and wiped on drop.
pub struct XtsCipher {
    engine: Box<dyn Engine>,
    kernel: Kernel,
}

impl std::fmt::Debug for XtsCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsCipher(redacted)")
    }
}

/// The start of a run of subsectors: a byte offset into the volume's data, a multiple of [`SUBSECTOR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(u64);

impl At {
    /// Returns the place at byte `offset` of the volume's data. `None` unless it is a multiple of 512.
    #[must_use]
    pub const fn new(offset: u64) -> Option<Self> {
        if offset.is_multiple_of(SUBSECTOR as u64) { Some(Self(offset)) } else { None }
    }
    /// Returns the start of a sector.
    #[must_use]
    pub const fn sector(no: SectorNo) -> Self {
        Self(no.0 * SECTOR as u64)
    }
    /// Returns the place `bytes` further on, rounded down to a subsector.
    #[must_use]
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + (bytes - bytes % SUBSECTOR) as u64)
    }
}

impl XtsCipher {
    /// Expands the key for the fastest kernel that this processor supports.
    #[must_use]
    pub fn new(key: &Unwrapped<DataKey>) -> Self {
        let made = Kernel::available().find_map(|kernel| Self::with_kernel(key, kernel));
        made.expect("the portable kernel runs everywhere")
    }

    /// Expands the key for one kernel, for tests and benchmarks. `None` if this processor does not support it.
    #[must_use]
    pub fn with_kernel(key: &Unwrapped<DataKey>, kernel: Kernel) -> Option<Self> {
        let (data, tweak) = key.get().0.expose().split_at(32);
        Self::from_halves(data.try_into().ok()?, tweak.try_into().ok()?, kernel)
    }

    fn from_halves(data: &[u8; 32], tweak: &[u8; 32], kernel: Kernel) -> Option<Self> {
        Some(Self { engine: kernel.engine(data, tweak)?, kernel })
    }

    /// Returns the kernel in use.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Seals `buf` in place and returns it as sealed; it starts at `at` and is a whole number of subsectors.
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug in the caller, never caused by input.
    pub fn seal<'a>(&self, at: At, buf: &'a mut [u8]) -> Sealed<'a> {
        self.run(Way::Seal, at, None, buf, false);
        Sealed::by_cipher(buf)
    }

    /// Seals `plain` into `out`, which has the same length, a whole number of subsectors.
    ///
    /// # Panics
    /// If the lengths differ or are not multiples of 512: a bug in the caller, never caused by input.
    pub fn seal_to<'a>(&self, at: At, plain: &[u8], out: &'a mut [u8]) -> Sealed<'a> {
        self.run(Way::Seal, at, Some(plain), out, false);
        Sealed::by_cipher(out)
    }

    /// Seals zeros into each hole of `buf`, for readers that do not know the hole rule.
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug in the caller, never caused by input.
    pub fn fill_holes(&self, at: At, buf: SealedMut<'_>) {
        let buf = buf.for_cipher();
        check(None, buf);
        for (i, subsector) in buf.chunks_mut(SUBSECTOR).enumerate().filter(|(_, subsector)| is_hole(subsector)) {
            self.run(Way::Seal, at.plus(i * SUBSECTOR), None, subsector, false);
        }
    }

    /// Opens `buf` in place, without the hole rule: see [`XtsCipher::open_parts`].
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug in the caller, never caused by input.
    pub fn open(&self, at: At, buf: &mut [u8]) {
        self.run(Way::Open, at, None, buf, false);
    }

    /// Opens `buf` in place by the hole rule: an aligned 512-byte subsector whose sealed bytes are all zero stays
    /// zeros.
    ///
    /// # Panics
    /// If the length is not a multiple of 512: a bug in the caller, never caused by input.
    pub fn open_parts(&self, at: At, buf: &mut [u8]) {
        self.run(Way::Open, at, None, buf, true);
    }

    /// Opens `sealed` into `out` by the hole rule, as [`XtsCipher::open_parts`] does in place.
    ///
    /// # Panics
    /// If the lengths differ or are not multiples of 512: a bug in the caller, never caused by input.
    pub fn open_parts_to(&self, at: At, sealed: &[u8], out: &mut [u8]) {
        self.run(Way::Open, at, Some(sealed), out, true);
    }

    /// Opens `sealed`, which starts at `at`, by the hole rule into `plain`, and seals that into `out` with another key. Holes stay
    /// holes. `plain` is not wiped.
    ///
    /// # Panics
    /// If the lengths differ or are not multiples of 512: a bug in the caller, never caused by input.
    pub fn reseal(&self, to: &Self, at: At, sealed: Sealed<'_>, plain: &mut [u8], out: SealedMut<'_>) {
        let (sealed, out) = (sealed.bytes(), out.for_cipher());
        self.open_parts_to(at, sealed, plain);
        check(Some(plain), out);
        let subsectors: Vec<bool> = sealed.chunks(SUBSECTOR).map(is_hole).collect();
        let mut start = 0;
        for run in subsectors.chunk_by(|a, b| a == b) {
            let bytes = start * SUBSECTOR..(start + run.len()) * SUBSECTOR;
            if run[0] {
                out[bytes].fill(0);
            } else {
                to.run(Way::Seal, at.plus(bytes.start), Some(&plain[bytes.clone()]), &mut out[bytes], false);
            }
            start += run.len();
        }
    }

    fn run(&self, way: Way, at: At, src: Option<&[u8]>, dst: &mut [u8], holes: bool) {
        check(src, dst);
        let mut unit = at.0 / SECTOR as u64;
        let mut skip = (at.0 % SECTOR as u64) as usize / SUBSECTOR;
        let mut done = 0;
        let mut firsts = Firsts([[0; 16]; BATCH]);
        while done < dst.len() {
            let units = (skip * SUBSECTOR + dst.len() - done).div_ceil(SECTOR).min(BATCH);
            self.engine.first_tweaks(unit, units, &mut firsts);
            for first in &firsts.0[..units] {
                let len = (SECTOR - skip * SUBSECTOR).min(dst.len() - done);
                let from = src.map(|s| &s[done..done + len]);
                let to = &mut dst[done..done + len];
                if holes && may_have_holes(from.unwrap_or(to)) {
                    self.unit_with_holes(first, skip, from, to);
                } else {
                    self.engine.unit(way, first, skip, from, to);
                }
                done += len;
                skip = 0;
            }
            unit += units as u64;
        }
    }

    /// Opens the subsectors of a unit between its holes, run by run.
    #[cold]
    fn unit_with_holes(&self, first: &Tweak, skip: usize, src: Option<&[u8]>, dst: &mut [u8]) {
        let mut holes = [false; SUBSECTORS];
        for (hole, subsector) in holes.iter_mut().zip(src.unwrap_or(dst).as_chunks::<SUBSECTOR>().0) {
            *hole = is_hole(subsector);
        }
        let holes = &holes[..dst.len() / SUBSECTOR];
        let mut start = 0;
        for run in holes.chunk_by(|a, b| a == b) {
            let bytes = start * SUBSECTOR..(start + run.len()) * SUBSECTOR;
            let (from, to) = (src.map(|s| &s[bytes.clone()]), &mut dst[bytes]);
            if run[0] {
                to.fill(0);
            } else {
                self.engine.unit(Way::Open, first, skip + start, from, to);
            }
            start += run.len();
        }
    }
}

/// Whether the first 16 bytes of any subsector are zero: without that, no subsector is a hole.
fn may_have_holes(subsectors: &[u8]) -> bool {
    subsectors
        .as_chunks::<SUBSECTOR>()
        .0
        .iter()
        .any(|p| p.first_chunk::<16>().is_some_and(|head| u128::from_ne_bytes(*head) == 0))
}

/// Whether a subsector's sealed bytes are all zero, which means "absent" (see [`super::sealed`]). The first 16 bytes
/// settle it for almost every subsector.
#[must_use]
pub fn is_hole(subsector: &[u8]) -> bool {
    let (head, tail) = subsector.split_at(16.min(subsector.len()));
    head.iter().all(|b| *b == 0) && tail.iter().fold(0, |a, b| a | b) == 0
}

/// Returns the runs of sectors that are not all zero, as byte ranges.
#[must_use]
pub fn data_runs(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, sector) in bytes.chunks(SECTOR).enumerate().filter(|(_, sector)| !is_hole(sector)) {
        let (start, end) = (i * SECTOR, i * SECTOR + sector.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
