//! The backing keys of KMS keys: made here, sealed under the root key, unsealed for use.
//!
//! Nothing else knows where their bytes are: what keeps them in hardware instead takes this one's place.

use super::keystore::{BackingRecord, KeyRecord, unavailable};
use super::root::RootKey;
use super::scope::Scope;
use crate::cipher::wrap::{BackingKey, KeyId, KeyMaterialId, open_local};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::units::InstallationId;
use std::sync::Arc;

/// What a key is for, as it is bound to its sealed backing keys.
pub(super) const SPEC: &str = "SYMMETRIC_DEFAULT";
/// Where its backing keys come from, bound to them too.
pub(super) const ORIGIN: &str = "AWS_KMS";

/// The backing keys of an installation.
pub(super) struct BackingKeys {
    env: Env,
    installation: InstallationId,
    scope: Arc<Scope>,
    root: Arc<RootKey>,
}

fn backing_aad(installation: InstallationId, key: KeyId, material: KeyMaterialId, generation: u32) -> Vec<u8> {
    let key = key.to_string();
    let generation = generation.to_le_bytes();
    let fields: [&[u8]; 6] =
        [&installation.0, key.as_bytes(), &material.0, SPEC.as_bytes(), ORIGIN.as_bytes(), &generation];
    let mut aad = b"coffer/backing-key/v1".to_vec();
    for field in fields {
        aad.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
        aad.extend_from_slice(field);
    }
    aad
}

impl BackingKeys {
    /// Those that this root key seals.
    pub(super) const fn new(env: Env, installation: InstallationId, scope: Arc<Scope>, root: Arc<RootKey>) -> Self {
        Self { env, installation, scope, root }
    }

    /// Makes a version for a key, to be kept in its record.
    pub(super) fn create(&self, key: KeyId) -> Result<BackingRecord> {
        let backing = BackingKey::generate(key);
        let generation = self.root.generation();
        let aad = backing_aad(self.installation, key, backing.material(), generation);
        let sealed = hex::encode(backing.seal_under(self.root.secret(), &aad, &*self.env.rng)?);
        Ok(BackingRecord { material: backing.material(), sealed, created: self.env.now(), root_generation: generation })
    }

    /// Unseals one backing key of a key.
    pub(super) fn unseal(&self, key: &KeyRecord, version: &BackingRecord) -> Result<BackingKey> {
        let arn = self.scope.key_arn(key.id);
        let aad = backing_aad(self.installation, key.id, version.material, version.root_generation);
        let opened = hex::decode(&version.sealed)
            .map_err(|e| Error::new(Kind::Integrity, "the sealed material is not hexadecimal").because(e))
            .and_then(|sealed| open_local::<32>(self.root.secret(), &aad, &sealed))
            .map(|secret| BackingKey::new(key.id, secret));
        let backing = opened.map_err(|e| unavailable(format!("key {arn}, version {}", version.material), e))?;
        if backing.material() != version.material {
            let err = Error::new(Kind::Integrity, "the material does not match its id");
            return Err(unavailable(format!("key {arn}"), err));
        }
        Ok(backing)
    }

    /// The current backing key.
    pub(super) fn current(&self, key: &KeyRecord) -> Result<BackingKey> {
        let last = key.backing.last().ok_or_else(|| {
            let err = Error::new(Kind::Integrity, "it has no backing key");
            unavailable(format!("key {}", self.scope.key_arn(key.id)), err)
        })?;
        self.unseal(key, last)
    }
}
