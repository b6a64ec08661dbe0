//! Snapshots: sealed chunks in a repository, a signed hash tree over them, and garbage collection.
//!
//! This layer copies [`crate::cipher::Sealed`] bytes and decrypts nothing. All its state is in the repository, except
//! what a snapshot in progress has staged.
//! ```text
//! location    the URL of a repository, and the store that it names
//! copy        all objects of a repository, to another store
//! objects     put, get, list, delete: durable and put-if-absent     repository  open, logs, keys, live snapshots
//! pack page record manifest log redirect refs: the formats          writer      makes a snapshot
//! tree        from a root to a chunk's entry, diff                   reader      reads and verifies a snapshot
//! staging     what is copied and not in the repository yet
//! creates     running creates, and what a sweep spares for them      mark        what is reached
//! sweep       deletes what is not reached                            compact     moves what is reached together
//! check       checks a folder                                        stats       counts what is in a folder
//! bodies      chunks in packs, several with one request              in_order    work of several threads, results in order
//! fetchers    bounds on reads at the same time, reading ahead        read_cache  what was read before, in files
//! ```
//! Required order: packs and pages are durable and confirmed before the manifest is put; the manifest is read back
//! before the log's `add`, which is the commit point.

mod bodies;
pub mod check;
pub mod compact;
pub mod copy;
mod creates;
mod fetchers;
mod in_order;
pub mod location;
pub mod log;
pub mod manifest;
mod mark;
mod moved;
pub mod objects;
pub mod pack;
pub mod page;
mod profile;
pub mod read_cache;
pub mod reader;
pub mod record;
pub mod redirect;
pub mod refs;
pub mod repository;
mod s3;
pub mod staging;
pub mod stats;
mod store_error;
pub mod sweep;
pub mod tree;
pub mod writer;

#[cfg(test)]
mod far_tests;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
pub(crate) mod testing;

use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::units::{InstallationId, LineageId};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// An Ed25519 public key, as genesis has it and a verifier pins it.
pub type PublicKey = [u8; 32];

/// An installation's signing key. The private half stays inside the implementation.
pub trait Signer: Send + Sync {
    /// Signs `message` with Ed25519 (RFC 8032).
    ///
    /// # Errors
    /// If the private half is unavailable.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64]>;
    /// Returns the public half.
    fn public_key(&self) -> PublicKey;
}

/// A [`Signer`] from an Ed25519 seed. The expanded key is in the library's own memory, not in the locked pool.
pub struct SeedSigner(Ed25519KeyPair);

impl SeedSigner {
    /// Makes the signing key with this `seed`.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library rejects the seed.
    pub fn new(seed: &Secret<32>) -> Result<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed.expose())
            .map(Self)
            .map_err(|e| Error::new(Kind::Failed, "make the snapshot signing key from its seed").because(e))
    }
}

impl Signer for SeedSigner {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        Ok(arr(self.0.sign(message).as_ref(), 0))
    }
    fn public_key(&self) -> PublicKey {
        arr(self.0.public_key().as_ref(), 0)
    }
}

/// Whether `signature` is `key`'s over `message`.
pub(crate) fn signature_is_good(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// Returns `N` bytes at `at`; zeros if `bytes` is too short, so that a parser cannot panic (callers check lengths
/// first).
pub(crate) fn arr<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = bytes.get(at..at.saturating_add(N)) {
        out.copy_from_slice(from);
    }
    out
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(arr(bytes, at))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(arr(bytes, at))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(arr(bytes, at))
}

/// Makes an integrity error: which object, at which offset, why.
pub(crate) fn damaged(object: &str, offset: usize, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, format!("{object}: at byte {offset}: {why}"))
        .hint("restore that object from a copy of the repository, or delete the snapshots that need it")
}

/// Makes an error for a format version, kind or flag that this program is too old for.
pub(crate) fn too_new(object: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unsupported, format!("{object}: {what} is not supported by this version"))
        .hint("use a newer coffer")
}

/// The folder that contains everything one installation wrote of one lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder {
    /// The lineage.
    pub lineage: LineageId,
    /// The installation.
    pub installation: InstallationId,
}

impl Folder {
    /// Returns the path of the object `name` of type `sort` ("packs", "pages", …).
    #[must_use]
    pub fn path(&self, sort: &str, name: impl std::fmt::Display) -> String {
        format!("{}/{}/{sort}/{name}", self.lineage, self.installation)
    }
    /// Returns the path of the subfolder of `sort`.
    #[must_use]
    pub fn sort(&self, sort: &str) -> String {
        format!("{}/{}/{sort}", self.lineage, self.installation)
    }
}
