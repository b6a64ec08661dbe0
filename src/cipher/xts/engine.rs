//! What a kernel is to the cipher: a key, and two operations on blocks.

use crate::units::SUBSECTOR;

/// Units whose first tweaks are sealed in one call.
pub(super) const BATCH: usize = 16;

/// The direction of a transformation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Seal,
    Open,
}

/// A tweak in memory: little-endian.
pub(super) type Tweak = [u8; 16];

/// The first tweaks of a run's units. Kernels may fill more entries than asked for.
#[repr(align(64))]
pub(super) struct Firsts(pub(super) [Tweak; BATCH]);

/// A kernel with a key. Round keys are in locked memory and wiped on drop.
///
/// # Safety of the SIMD engines
/// The `unsafe` blocks of the SIMD engines rest on this argument:
/// - *Features.* An engine's `new` returns `None` unless the processor has every feature that its functions are
///   compiled with.
/// - *Buffers.* [`Engine::unit`] calls [`check`] first, so `from` and `to` are valid for `count` * 512 bytes. They are
///   the same place (no `src`), or do not overlap (a shared and a mutable borrow). Steps cover exactly these bytes.
/// - *Lanes.* Lane `i` of a step is the `i`-th of the registers that make up the step, so it is inside the buffer. All
///   loads and stores are unaligned.
/// - *Tweaks.* A [`Tweak`] has 16 bytes, two 32, four 64: the width of the load or store, which is unaligned.
pub(super) trait Engine: Send + Sync {
    /// Seals the numbers of `count` units (at most [`BATCH`]), starting at `unit`, under key 2.
    fn first_tweaks(&self, unit: u64, count: usize, out: &mut Firsts);

    /// Seals or opens subsectors of one unit under key 1. `first` is the unit's first tweak; the run starts at
    /// subsector `skip`. `src` and `dst` have the same length, a multiple of 512 bytes; without `src`, `dst` is changed
    /// in place.
    fn unit(&self, way: Way, first: &Tweak, skip: usize, src: Option<&[u8]>, dst: &mut [u8]);
}

/// Checks the lengths that every engine relies on.
pub(super) fn check(src: Option<&[u8]>, dst: &[u8]) {
    assert!(dst.len().is_multiple_of(SUBSECTOR) && src.is_none_or(|s| s.len() == dst.len()), "not whole subsectors");
}
