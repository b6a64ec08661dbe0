//! Where clear keys become ciphers: the types that keep plain and sealed bytes apart, and a data key unwrapped or not.
//!
//! - [`Sealed`] bytes are XTS ciphertext or holes; stores and snapshots accept only those (see [`sealed`]).
//! - An [`Unwrapped`] key can be made by `cipher::wrap` alone, and is the only thing an open cipher is built from.

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

/// Proof that a key was made or unwrapped by the KMS: only `cipher::wrap` makes one.
#[derive(Debug)]
pub struct Unwrapped<T>(T);

impl<T> Unwrapped<T> {
    /// The key.
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

/// HKDF-SHA-256 (RFC 5869) of `ikm` into `out` (at most 255 * 32 bytes).
pub(crate) fn hkdf_sha256(ikm: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let okm = prk.expand(info, Len(out.len())).expect("out is far below 255 * 32 bytes");
    okm.fill(out).expect("the length is the one that expand was given");
}

impl DataKey {
    /// The key's public name (see [`DataKeyId`]).
    #[must_use]
    pub fn id(&self) -> DataKeyId {
        let mut id = [0u8; 16];
        hkdf_sha256(self.0.expose(), &[], &[b"coffer/data-key-id/v1"], &mut id);
        DataKeyId(id)
    }

    /// Whether both halves are equal, which XTS forbids (FIPS 140-3 IG C.I).
    #[must_use]
    pub fn halves_are_equal(&self) -> bool {
        let (a, b) = self.0.expose().split_at(32);
        subtle::ConstantTimeEq::ct_eq(a, b).into()
    }

    /// Writes the 64 clear bytes to a file: the audited way out, for `volume export-key` alone.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) fn write_clear(&self, file: &std::fs::File) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(file, self.0.expose(), 0)
    }

    /// HKDF-SHA-256 of the key with `salt` and `info`: for MAC keys that depend on it.
    #[must_use]
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Secret<32> {
        Secret::build(|out| hkdf_sha256(self.0.expose(), salt, info, out))
    }
}

/// A key for tests of the layers above, made of one repeated pattern.
#[cfg(test)]
pub(crate) fn test_key(seed: u8) -> Unwrapped<DataKey> {
    Unwrapped(DataKey(Secret::build(|out| {
        for (i, b) in out.iter_mut().enumerate() {
            *b = seed.wrapping_mul(31).wrapping_add(i as u8);
        }
    })))
}
