//! The envelope of signed objects: log records and manifests. Version 1. Integers are little-endian.
//!
//! ```text
//! 0    magic 8 ("COFLOGR1" or "COFMANI1") | version u16 = 1 | kind u16 | body length u32 | lineage 16 | number u64 |
//!      previous BLAKE3 32 | signer 16 (installation id)                                                  88 bytes
//! 88   body: JSON
//!      Ed25519 64 over "coffer/log/v1" or "coffer/manifest/v1" || all bytes before the signature
//! ```
//! A record is verified as stored and never reserialised. Its hash, which the next record or a log entry contains, is
//! the BLAKE3 of all its bytes, signature included.

use super::{PublicKey, Signer, arr, damaged, signature_is_good, too_new, u16_at, u32_at, u64_at};
use crate::error::{Error, Kind, Result};
use crate::units::{Hash32, InstallationId, LineageId};
use bytes::Bytes;

/// Bytes before the body.
pub const ENVELOPE: usize = 88;
/// Bytes of the signature.
pub const SIGNATURE: usize = 64;
/// Size limit of a body, in bytes.
pub const BODY_MAX: usize = 16 << 20;
/// Size limit of a record, in bytes.
pub const RECORD_MAX: usize = ENVELOPE + BODY_MAX + SIGNATURE;

const VERSION: u16 = 1;

/// The type of a record: determines the magic and the signature's context string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A record of an installation's log.
    Log,
    /// A snapshot's manifest.
    Manifest,
}

impl Family {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Log => b"COFLOGR1",
            Self::Manifest => b"COFMANI1",
        }
    }
    const fn domain(self) -> &'static [u8] {
        match self {
            Self::Log => b"coffer/log/v1",
            Self::Manifest => b"coffer/manifest/v1",
        }
    }
}

/// The fields of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Log record or manifest.
    pub family: Family,
    /// The kind within the family.
    pub kind: u16,
    /// The lineage it belongs to.
    pub lineage: LineageId,
    /// A log record's number; 0 for a manifest.
    pub number: u64,
    /// The hash of the preceding log record, or of the parent's manifest; zeros if there is none.
    pub previous: Hash32,
    /// The installation that signed.
    pub signer: InstallationId,
}

/// A record as stored. Its signature counts as valid only after [`Record::verify`].
#[derive(Debug, Clone)]
pub struct Record {
    /// The envelope.
    pub envelope: Envelope,
    raw: Bytes,
}

impl Record {
    /// Signs `body` under `envelope`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the body is longer than [`BODY_MAX`].
    pub fn sign(envelope: Envelope, body: &[u8], signer: &dyn Signer) -> Result<Self> {
        if body.len() > BODY_MAX {
            return Err(Error::new(Kind::Usage, format!("a signed record of {} bytes is too long", body.len())));
        }
        let domain = envelope.family.domain();
        let mut all = Vec::with_capacity(domain.len() + ENVELOPE + body.len() + SIGNATURE);
        all.extend_from_slice(domain);
        all.extend_from_slice(envelope.family.magic());
        all.extend_from_slice(&VERSION.to_le_bytes());
        all.extend_from_slice(&envelope.kind.to_le_bytes());
        all.extend_from_slice(&(body.len() as u32).to_le_bytes());
        all.extend_from_slice(&envelope.lineage.0);
        all.extend_from_slice(&envelope.number.to_le_bytes());
        all.extend_from_slice(&envelope.previous.0);
        all.extend_from_slice(&envelope.signer.0);
        all.extend_from_slice(body);
        let signature = signer.sign(&all)?;
        all.extend_from_slice(&signature);
        Ok(Self { envelope, raw: Bytes::from(all).slice(domain.len()..) })
    }

    /// Parses an envelope and checks its lengths, but not the signature.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is not such a record; [`Kind::Unsupported`] for a newer version.
    pub fn parse(object: &str, family: Family, raw: Bytes) -> Result<Self> {
        if raw.len() < ENVELOPE + SIGNATURE || raw[..8] != *family.magic() {
            return Err(damaged(object, 0, "not a signed record: wrong magic or too short"));
        }
        if u16_at(&raw, 8) != VERSION {
            return Err(too_new(object, format_args!("record version {}", u16_at(&raw, 8))));
        }
        let length = u32_at(&raw, 12) as usize;
        if length > BODY_MAX || raw.len() != ENVELOPE + length + SIGNATURE {
            return Err(damaged(object, 12, format_args!("a body of {length} bytes does not match {}", raw.len())));
        }
        let envelope = Envelope {
            family,
            kind: u16_at(&raw, 10),
            lineage: LineageId(arr(&raw, 16)),
            number: u64_at(&raw, 32),
            previous: Hash32(arr(&raw, 40)),
            signer: InstallationId(arr(&raw, 72)),
        };
        Ok(Self { envelope, raw })
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is not `key`'s.
    pub fn verify(&self, object: &str, key: &PublicKey) -> Result<()> {
        let (signed, signature) = self.raw.split_at(self.raw.len().saturating_sub(SIGNATURE));
        let message = [self.envelope.family.domain(), signed].concat();
        if signature_is_good(key, &message, signature) {
            return Ok(());
        }
        Err(damaged(object, signed.len(), format_args!("the signature was not made with key {}", hex::encode(key))))
    }

    /// Parses the body as `T`.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the JSON is not a `T`.
    pub fn body<T: serde::de::DeserializeOwned>(&self, object: &str) -> Result<T> {
        let body = self.raw.get(ENVELOPE..self.raw.len().saturating_sub(SIGNATURE)).unwrap_or_default();
        serde_json::from_slice(body).map_err(|e| damaged(object, ENVELOPE, "the body is not as expected").because(e))
    }

    /// Returns all bytes, as stored.
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }
    /// Returns the BLAKE3 hash of all bytes.
    #[must_use]
    pub fn hash(&self) -> Hash32 {
        Hash32::of(&self.raw)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
