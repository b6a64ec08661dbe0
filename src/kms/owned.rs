//! The keys that coffer owns itself: derived from the root key, or sealed under it. They belong to no account, no policy is
//! about them, and no operation lists or uses them.

use super::Kms;
use crate::error::{Error, Kind, Result};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// A key of coffer's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedKey {
    /// Its name.
    pub name: &'static str,
    /// What it protects.
    pub protects: &'static str,
}

/// The keys that are derived from the root key.
const DERIVED: [OwnedKey; 5] = [
    OwnedKey { name: "catalog", protects: "authenticates its records" },
    OwnedKey { name: "audit", protects: "authenticates its checkpoints" },
    OwnedKey { name: "local seal", protects: "seals backing keys and import tokens" },
    OwnedKey { name: "principals", protects: "seals access keys and sessions" },
    OwnedKey { name: "grant tokens", protects: "names grants" },
];
/// The key that is sealed under the root key.
const SIGNING: OwnedKey = OwnedKey { name: "signing key", protects: "signs snapshots" };

impl Kms {
    /// The keys that coffer owns itself.
    pub fn owned_keys(&self) -> impl Iterator<Item = OwnedKey> {
        DERIVED.into_iter().chain([SIGNING])
    }

    /// The generation of the root key that they depend on.
    #[must_use]
    pub fn root_generation(&self) -> u32 {
        self.root.generation()
    }

    /// Checks that the signing key opens, and that what it signs verifies.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it does not; the caller says what to do next.
    pub fn check_signing_key(&self) -> Result<()> {
        const MESSAGE: &[u8] = b"coffer/signing-key-check/v1";
        let signature = self.sign(MESSAGE)?;
        UnparsedPublicKey::new(&ED25519, self.public_key())
            .verify(MESSAGE, &signature)
            .map_err(|_| Error::new(Kind::Integrity, "signing key: what it signs does not verify"))
    }
}
