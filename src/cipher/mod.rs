//! Where clear keys become ciphers: the types that keep plain and sealed bytes apart, and unwrapped data keys.
//!
//! - [`Sealed`] bytes are XTS ciphertext or holes; stores and snapshots accept nothing else (see [`sealed`]).
//! - An [`Unwrapped`] key is made only by `cipher::wrap`, and an open cipher is built from nothing else.

pub mod keys;
pub mod sealed;
pub mod wrap;
pub mod xts;

pub use sealed::{AtRest, Sealed, SealedBuf, SealedMut};

use crate::secret::Secret;
use crate::units::DataKeyId;
use aws_lc_rs::hkdf;

/// A volume's data key: 64 bytes, two AES-256 keys, key 1 (data) then key 2 (tweak).
#[derive(Debug)]
pub struct DataKey(Secret<64>);

/// Proof that the KMS made or unwrapped a key: only `cipher::wrap` makes one.
#[derive(Debug)]
pub struct Unwrapped<T>(T);

impl<T> Unwrapped<T> {
    /// Returns the key.
    pub const fn get(&self) -> &T {
        &self.0
    }
}

struct Len(usize);
impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Computes HKDF-SHA-256 (RFC 5869) of `ikm` into `out` (at most 255 * 32 bytes).
pub(crate) fn hkdf_sha256(ikm: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let okm = prk.expand(info, Len(out.len())).expect("out is far below 255 * 32 bytes");
    okm.fill(out).expect("the length is the one that expand was given");
}

impl DataKey {
    /// Returns the key's public id (see [`DataKeyId`]).
    #[must_use]
    pub fn id(&self) -> DataKeyId {
        let mut id = [0u8; 16];
        hkdf_sha256(self.0.expose(), &[], &[b"coffer/data-key-id/v1"], &mut id);
        DataKeyId(id)
    }

    /// Whether both halves are equal, which XTS does not allow (FIPS 140-3 IG C.I).
    #[must_use]
    pub fn halves_are_equal(&self) -> bool {
        let (a, b) = self.0.expose().split_at(32);
        subtle::ConstantTimeEq::ct_eq(a, b).into()
    }

    /// Writes the 64 clear bytes to a file: the audited exit, used only by `volume export-key`.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) fn write_clear(&self, file: &std::fs::File) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(file, self.0.expose(), 0)
    }

    /// Derives a MAC key from the data key: HKDF-SHA-256 with `salt` and `info`.
    #[must_use]
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Secret<32> {
        Secret::build(|out| hkdf_sha256(self.0.expose(), salt, info, out))
    }
}

/// Makes a key of one repeated pattern, for tests of the layers above.
#[cfg(test)]
pub(crate) fn test_key(seed: u8) -> Unwrapped<DataKey> {
    Unwrapped(DataKey(Secret::build(|out| {
        for (i, b) in out.iter_mut().enumerate() {
            *b = seed.wrapping_mul(31).wrapping_add(i as u8);
        }
    })))
}
