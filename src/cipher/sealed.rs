//! Bytes that may be stored, told apart from plain ones by their type alone: nothing looks at the bytes.
//!
//! [`Sealed`] bytes come from three sources only:
//! - a cipher: [`super::xts::XtsCipher::seal`] returns what it sealed;
//! - a place that holds sealed bytes ([`AtRest`]), read into a [`SealedMut`], the only way to fill a [`SealedBuf`];
//! - holes.
//!
//! # Holes
//! Zeros stand for absent data: a new store, a trimmed range, what a snapshot does not contain, the padding past a volume's
//! end. A 512-byte part whose sealed bytes are all zero is a *hole* ([`super::xts::is_hole`]); it is never passed to the cipher
//! and reads as zeros. By the format, zeros that were never sealed are therefore valid sealed bytes, and a new [`SealedBuf`]
//! consists of them. Holes reveal which parts are unused, and nothing about the others.

use crate::sys::Pages;
use std::ops::{Deref, DerefMut, Range};

/// A token by which a module vouches that the bytes it reads into a [`SealedMut`] were sealed before they were stored there.
/// Each implementation is private to its module; `tests/layers.rs` lists them.
pub trait AtRest {}

/// Sealed bytes: what may be stored.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a>(&'a [u8]);

impl<'a> Sealed<'a> {
    /// The output of a cipher.
    pub(super) const fn by_cipher(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
    /// A part of them.
    ///
    /// # Panics
    /// If there are fewer: a bug of the caller, never of input.
    #[must_use]
    pub fn range(self, range: Range<usize>) -> Self {
        Self(&self.0[range])
    }
    /// Arbitrary bytes, for tests.
    #[cfg(test)]
    pub(crate) const fn made_up(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// Room to read sealed bytes into. It may lie over any buffer, and yields no [`Sealed`] by itself: only [`SealedBuf`], which
/// hands out nothing but this for writing, does.
#[derive(Debug)]
pub struct SealedMut<'a>(&'a mut [u8]);

impl<'a> SealedMut<'a> {
    /// Over a plain buffer, such as a request's own, where the bytes are then opened in place.
    pub const fn over(room: &'a mut [u8]) -> Self {
        Self(room)
    }
    /// The buffer itself, for a module that reads sealed bytes into it.
    pub fn room(self, _from: &impl AtRest) -> &'a mut [u8] {
        self.0
    }
    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Reborrows it, for a call that may be repeated.
    pub const fn again(&mut self) -> SealedMut<'_> {
        SealedMut(self.0)
    }
    /// A part of it.
    ///
    /// # Panics
    /// If there is less: a bug of the caller, never of input.
    pub fn range(&mut self, range: Range<usize>) -> SealedMut<'_> {
        SealedMut(&mut self.0[range])
    }
    /// Makes all of it a hole.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
    /// Copies sealed bytes of the same length into it.
    ///
    /// # Panics
    /// If the lengths differ: a bug of the caller, never of input.
    pub fn copy_from(&mut self, sealed: Sealed<'_>) {
        self.0.copy_from_slice(sealed.0);
    }
    /// The buffer, for a cipher that seals in place.
    pub(super) const fn for_cipher(self) -> &'a mut [u8] {
        self.0
    }
}

/// A buffer that holds sealed bytes and holes only.
pub struct SealedBuf<B = Vec<u8>>(B);

impl SealedBuf {
    /// Holes, on the heap.
    #[must_use]
    pub fn holes(len: usize) -> Self {
        Self(vec![0; len])
    }
}

impl SealedBuf<Pages> {
    /// Holes, in pages of their own, for buffers that are reused.
    #[must_use]
    pub fn pages(len: usize) -> Self {
        Self(Pages::zeroed(len))
    }
}

impl<B: Deref<Target = [u8]>> SealedBuf<B> {
    /// All of it.
    #[must_use]
    pub fn sealed(&self) -> Sealed<'_> {
        Sealed(&self.0)
    }
}

impl<B: DerefMut<Target = [u8]>> SealedBuf<B> {
    /// Room for sealed bytes: all of it.
    pub fn room(&mut self) -> SealedMut<'_> {
        SealedMut(&mut self.0)
    }
}

impl<B: Deref<Target = [u8]>> Deref for SealedBuf<B> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<B: Deref<Target = [u8]>> std::fmt::Debug for SealedBuf<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedBuf({} bytes)", self.len())
    }
}
