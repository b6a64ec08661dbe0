//! HMAC keys (RFC 2104, FIPS 198-1).

use super::spec::{KeySpec, KeyUsage, MacAlgorithm};
use crate::error::{Error, Kind, Result};
use crate::sys;
use aws_lc_rs::hmac;
use std::fmt;
use zeroize::Zeroizing;

/// Size limit of a message, in bytes (KMS API Reference, GenerateMac: Message).
pub const MAX_MESSAGE: usize = 4096;

/// An HMAC key. It is wiped when it is dropped; `Debug` shows the spec alone.
pub struct MacKey {
    spec: KeySpec,
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({}, redacted)", self.spec)
    }
}

/// Returns the size of a key, in bytes: as long as the hash (KMS Developer Guide, "Requirements for imported key
/// material"). `None` if `spec` is not one of HMAC.
#[must_use]
pub const fn key_len(spec: KeySpec) -> Option<usize> {
    match spec {
        KeySpec::Hmac224 => Some(28),
        KeySpec::Hmac256 => Some(32),
        KeySpec::Hmac384 => Some(48),
        KeySpec::Hmac512 => Some(64),
        _ => None,
    }
}

impl MacKey {
    /// Draws a key.
    ///
    /// # Errors
    /// [`Kind::Usage`] if `spec` is not one of HMAC.
    pub fn generate(spec: KeySpec) -> Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; len_of(spec)?]);
        sys::random(&mut bytes);
        Ok(Self { spec, bytes })
    }

    /// Makes a key of its bytes.
    ///
    /// # Errors
    /// [`Kind::Usage`] if `spec` is not one of HMAC, or the bytes are not [`key_len`].
    pub fn from_bytes(spec: KeySpec, bytes: &[u8]) -> Result<Self> {
        let len = len_of(spec)?;
        if bytes.len() != len {
            let what = format!("a key of spec {spec} has {len} bytes, not {}", bytes.len());
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(Self { spec, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// Returns the key's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.bytes.clone()
    }

    /// Returns the key's spec.
    #[must_use]
    pub const fn spec(&self) -> KeySpec {
        self.spec
    }

    /// Computes the MAC of a message of 1 to 4096 bytes; it is as long as the hash.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the key does not have the algorithm, or the message has another length.
    pub fn mac(&self, alg: MacAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        let key = self.key(alg, message)?;
        Ok(hmac::sign(&key, message).as_ref().to_vec())
    }

    /// Whether `mac` is the message's, in constant time. A shortened MAC is wrong.
    ///
    /// # Errors
    /// Those of [`Self::mac`].
    pub fn verify(&self, alg: MacAlgorithm, message: &[u8], mac: &[u8]) -> Result<bool> {
        let key = self.key(alg, message)?;
        Ok(hmac::verify(&key, message, mac).is_ok())
    }

    fn key(&self, alg: MacAlgorithm, message: &[u8]) -> Result<hmac::Key> {
        if !self.spec.mac_algorithms(KeyUsage::GenerateVerifyMac).contains(&alg) {
            return Err(Error::new(Kind::Usage, format!("a key of spec {} does not have {alg}", self.spec)));
        }
        if message.is_empty() || message.len() > MAX_MESSAGE {
            let what = format!("a MAC of {} bytes cannot be made: it takes 1 to {MAX_MESSAGE}", message.len());
            return Err(Error::new(Kind::Usage, what));
        }
        let hash = match alg {
            MacAlgorithm::HmacSha224 => hmac::HMAC_SHA224,
            MacAlgorithm::HmacSha256 => hmac::HMAC_SHA256,
            MacAlgorithm::HmacSha384 => hmac::HMAC_SHA384,
            MacAlgorithm::HmacSha512 => hmac::HMAC_SHA512,
        };
        Ok(hmac::Key::new(hash, &self.bytes))
    }
}

fn len_of(spec: KeySpec) -> Result<usize> {
    key_len(spec).ok_or_else(|| Error::new(Kind::Usage, format!("a key of spec {spec} is not an HMAC key")))
}

#[cfg(test)]
#[path = "mac_tests.rs"]
mod tests;
