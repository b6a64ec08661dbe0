//! Bytes that may be stored, told apart from plain bytes by their type: nothing inspects the bytes.
//!
//! [`Sealed`] bytes have three sources:
//! - a cipher: [`super::xts::XtsCipher::seal`] returns what it sealed;
//! - a place that holds sealed bytes ([`AtRest`]), read into a [`SealedMut`], the only way to fill a [`SealedBuf`];
//! - holes.
//!
//! # Holes
//! Zeros stand for absent data: a new store, a trimmed range, what a snapshot does not contain, the padding past a
//! volume's end. A 512-byte subsector whose sealed bytes are all zero is a *hole* ([`super::xts::is_hole`]); it is
//! never passed to the cipher and reads as zeros. By the format, zeros that were never sealed are therefore valid
//! sealed bytes, and a new [`SealedBuf`] consists of them. Holes reveal which subsectors are unused, and nothing about
//! the others.

use crate::sys::Pages;
use std::ops::{Deref, DerefMut, Range};

/// A token with which a module vouches that the bytes it reads into a [`SealedMut`] were sealed before they were
/// stored. Each implementation is private to its module; `tests/layers.rs` lists them.
pub trait AtRest {}

/// Sealed bytes: what may be stored.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a>(&'a [u8]);

impl<'a> Sealed<'a> {
    /// Wraps the output of a cipher.
    pub(super) const fn by_cipher(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// Returns the bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
    /// Returns a subrange.
    ///
    /// # Panics
    /// If `range` is out of bounds: a bug in the caller, never caused by input.
    #[must_use]
    pub fn range(self, range: Range<usize>) -> Self {
        Self(&self.0[range])
    }
    /// Wraps arbitrary bytes, for tests.
    #[cfg(test)]
    pub(crate) const fn made_up(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// A buffer to read sealed bytes into. It can wrap any buffer, and yields no [`Sealed`] by itself: only [`SealedBuf`]
/// does, and that hands out nothing else for writing.
#[derive(Debug)]
pub struct SealedMut<'a>(&'a mut [u8]);

impl<'a> SealedMut<'a> {
    /// Wraps a plain buffer, such as a request's own, where the bytes are then opened in place.
    pub const fn over(room: &'a mut [u8]) -> Self {
        Self(room)
    }
    /// Returns the buffer, to a module that reads sealed bytes into it.
    pub fn room(self, _from: &impl AtRest) -> &'a mut [u8] {
        self.0
    }
    /// Returns the length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether the length is 0.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Reborrows it, for a call that may be repeated.
    pub const fn again(&mut self) -> SealedMut<'_> {
        SealedMut(self.0)
    }
    /// Returns a subrange.
    ///
    /// # Panics
    /// If `range` is out of bounds: a bug in the caller, never caused by input.
    pub fn range(&mut self, range: Range<usize>) -> SealedMut<'_> {
        SealedMut(&mut self.0[range])
    }
    /// Fills it with zeros: one hole.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
    /// Copies sealed bytes of the same length into it.
    ///
    /// # Panics
    /// If the lengths differ: a bug in the caller, never caused by input.
    pub fn copy_from(&mut self, sealed: Sealed<'_>) {
        self.0.copy_from_slice(sealed.0);
    }
    /// Returns the buffer, to a cipher that seals in place.
    pub(super) const fn for_cipher(self) -> &'a mut [u8] {
        self.0
    }
}

/// A buffer that holds only sealed bytes and holes.
pub struct SealedBuf<B = Vec<u8>>(B);

impl SealedBuf {
    /// Allocates `len` bytes of holes on the heap.
    #[must_use]
    pub fn holes(len: usize) -> Self {
        Self(vec![0; len])
    }
}

impl SealedBuf<Pages> {
    /// Maps `len` bytes of holes in pages of their own, for buffers that are reused.
    #[must_use]
    pub fn pages(len: usize) -> Self {
        Self(Pages::zeroed(len))
    }
}

impl<B: Deref<Target = [u8]>> SealedBuf<B> {
    /// Returns all of it as sealed bytes.
    #[must_use]
    pub fn sealed(&self) -> Sealed<'_> {
        Sealed(&self.0)
    }
}

impl<B: DerefMut<Target = [u8]>> SealedBuf<B> {
    /// Returns all of it, to read sealed bytes into.
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
