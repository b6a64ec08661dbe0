//! Wrapping keys: the RSA pairs under which callers encrypt the key material that they import (ImportKeyMaterial).
//!
//! RSAES algorithms encrypt the material itself. RSA_AES algorithms encrypt an AES-256 key, followed by the material
//! under that key (AES key wrap with padding, RFC 5649), as PKCS #11's CKM_RSA_AES_KEY_WRAP does.

use super::private::{PrivateKey, oaep, open_oaep};
use super::spec::{EncryptionAlgorithm, WrappingAlgorithm, WrappingKeySpec};
use crate::error::{Error, Kind, Result};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use zeroize::Zeroizing;

/// Size limit of encrypted key material, in bytes (KMS API Reference, ImportKeyMaterial: EncryptedKeyMaterial).
pub const MAX_MATERIAL: usize = 6144;

/// The RSA pair of one import. It is wiped when it is dropped; `Debug` shows the spec alone.
#[derive(Debug)]
pub struct WrappingKey(PrivateKey);

impl WrappingKey {
    /// Generates a pair, which takes up to seconds.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library fails.
    pub fn generate(spec: WrappingKeySpec) -> Result<Self> {
        PrivateKey::generate(spec.into()).map(Self)
    }

    /// Opens a pair in PKCS #8, as [`Self::to_pkcs8`] returned it.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is not one of this spec.
    pub fn from_pkcs8(spec: WrappingKeySpec, pkcs8: &[u8]) -> Result<Self> {
        PrivateKey::from_pkcs8(spec.into(), pkcs8).map(Self)
    }

    /// Returns the pair in PKCS #8.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>> {
        self.0.to_pkcs8()
    }

    /// Returns the public key as SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library fails.
    pub fn public_key_der(&self) -> Result<Vec<u8>> {
        self.0.public_key_der()
    }

    /// Decrypts key material.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for RSAES_PKCS1_V1_5, which AWS refuses too. For any fault of the material
    /// [`Kind::InvalidCiphertext`]: nothing tells which, so that a caller learns nothing about the padding.
    pub fn unwrap(&self, alg: WrappingAlgorithm, encrypted_material: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (hash, aes) = match alg {
            WrappingAlgorithm::RsaesPkcs1V15 => {
                return Err(Error::new(Kind::Unsupported, format!("{alg} is no longer supported"))
                    .hint("use RSAES_OAEP_SHA_256 or RSA_AES_KEY_WRAP_SHA_256"));
            }
            WrappingAlgorithm::RsaesOaepSha1 => (EncryptionAlgorithm::RsaesOaepSha1, false),
            WrappingAlgorithm::RsaesOaepSha256 => (EncryptionAlgorithm::RsaesOaepSha256, false),
            WrappingAlgorithm::RsaAesKeyWrapSha1 => (EncryptionAlgorithm::RsaesOaepSha1, true),
            WrappingAlgorithm::RsaAesKeyWrapSha256 => (EncryptionAlgorithm::RsaesOaepSha256, true),
        };
        let material =
            if aes { self.open_aes(hash, encrypted_material)? } else { self.open(hash, encrypted_material)? };
        material.filter(|material| !material.is_empty()).ok_or_else(|| {
            Error::new(
                Kind::InvalidCiphertext,
                "the key material is not encrypted under this wrapping key and algorithm",
            )
        })
    }

    fn open(&self, hash: EncryptionAlgorithm, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let pkcs8 = self.to_pkcs8()?;
        Ok(oaep(hash).and_then(|oaep| open_oaep(&pkcs8, oaep, ciphertext)))
    }

    /// Opens an AES key, and the material under it.
    fn open_aes(&self, hash: EncryptionAlgorithm, encrypted: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let modulus = self.0.spec().modulus_bits().unwrap_or(0) / 8;
        let split = encrypted.split_at_checked(modulus).filter(|_| encrypted.len() <= MAX_MATERIAL);
        let Some((wrapped_key, wrapped)) = split else { return Ok(None) };
        let key = self.open(hash, wrapped_key)?;
        Ok(key.and_then(|key| unwrap_padded(&key, wrapped)))
    }
}

/// Unwraps AES key wrap with padding (RFC 5649) under an AES-256 key. `None` for any fault.
fn unwrap_padded(key: &[u8], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let kek = AesKek::new(&AES_256, key).ok()?;
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    let len = kek.unwrap_with_padding(wrapped, &mut out).ok()?.len();
    out.truncate(len);
    Some(out)
}

#[cfg(test)]
#[path = "wrapping_tests.rs"]
mod tests;
