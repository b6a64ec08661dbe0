//! Key bytes: one type, one accessor.
//!
//! A [`Secret`] is kept in the pool of locked, no-dump, no-fork pages ([`crate::sys::Locked`]), is wiped when dropped,
//! and cannot be cloned, compared by `==`, printed or serialised. Not covered: copies a library keeps on its stack
//! while it runs, registers saved by a context switch, and hibernation images (see docs/threat-model.md).

use crate::sys::Locked;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// `N` secret bytes.
pub struct Secret<const N: usize>(Locked<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Draws N bytes from the operating system's random numbers, in place.
    #[must_use]
    pub fn random() -> Self {
        Self::build(crate::sys::random)
    }

    /// Makes a secret whose N bytes `fill` writes in place.
    #[must_use]
    pub fn build(fill: impl FnOnce(&mut [u8])) -> Self {
        let mut room = Locked::<[u8; N]>::zeroed();
        fill(&mut room[..]);
        Self(room)
    }

    /// Makes a secret whose N bytes `fill` writes in place, unless it fails.
    ///
    /// # Errors
    /// The error of `fill`.
    pub fn try_build<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut room = Locked::<[u8; N]>::zeroed();
        fill(&mut room[..])?;
        Ok(Self(room))
    }

    /// Moves the bytes out of `from`, which is wiped. `None` if it does not have N bytes (it is wiped all the same).
    #[must_use]
    pub fn take(from: &mut [u8]) -> Option<Self> {
        let made = (from.len() == N).then(|| Self::build(|out| out.copy_from_slice(from)));
        from.zeroize();
        made
    }

    /// Returns the bytes: the only accessor. Callers keep the borrow short and copy nothing out.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Whether both hold the same bytes, in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0[..].ct_eq(&other.0[..]).into()
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret<{N}>(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::<4>::build(|b| b.copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret<4>(redacted) Secret<4>(redacted)");
    }

    #[test]
    fn take_wipes_its_source() {
        let mut raw = [7u8; 16];
        assert_eq!(Secret::<16>::take(&mut raw).unwrap().expose(), &[7; 16]);
        assert_eq!(raw, [0; 16]);
        let mut short = [7u8; 3];
        assert!(Secret::<16>::take(&mut short).is_none());
        assert_eq!(short, [0; 3]);
    }

    #[test]
    fn equality_is_by_content() {
        let of = |b: u8| Secret::<32>::build(|out| out.fill(b));
        assert!(of(1).ct_eq(&of(1)));
        assert!(!of(1).ct_eq(&of(2)));
        assert!(!Secret::<32>::random().ct_eq(&Secret::random()));
    }
}
