//! The backing keys of KMS keys: made here, sealed under the root key, and opened for use.
//!
//! Nothing else knows where their bytes are. What they do is behind [`Backing`], which keys in hardware can implement, too.

use super::keystore::{BackingRecord, KeyRecord, Origin, unavailable};
use super::root::RootKey;
use super::scope::Scope;
use crate::cipher::keys::{
    EncryptionAlgorithm, KeySpec, MacAlgorithm, MacKey, MessageType, PrivateKey, SigningAlgorithm,
};
use crate::cipher::wrap::{BackingKey, KeyId, KeyMaterialId, WrappingKey, open_local_bytes, seal_local};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::units::InstallationId;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What one backing key can do. A kind of key has the operations of its usage; the caller has checked that before, so the
/// others only fail.
pub(super) trait Backing: std::fmt::Debug {
    /// What blobs are made and opened with.
    fn wrapping(&self) -> Result<&dyn WrappingKey> {
        Err(cannot("wrap and unwrap message keys"))
    }
    /// Signs a message.
    fn sign(&self, _algorithm: SigningAlgorithm, _of: MessageType, _message: &[u8]) -> Result<Vec<u8>> {
        Err(cannot("sign"))
    }
    /// Decrypts with the private key of a pair.
    fn decrypt(&self, _algorithm: EncryptionAlgorithm, _ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Err(cannot("decrypt"))
    }
    /// Agrees on a secret with the owner of a public key (SubjectPublicKeyInfo, DER).
    fn agree(&self, _peer: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Err(cannot("agree on a secret"))
    }
    /// Makes a MAC.
    fn mac(&self, _algorithm: MacAlgorithm, _message: &[u8]) -> Result<Vec<u8>> {
        Err(cannot("make a MAC"))
    }
    /// Verifies a MAC, in constant time.
    fn verify_mac(&self, _algorithm: MacAlgorithm, _message: &[u8], _mac: &[u8]) -> Result<bool> {
        Err(cannot("verify a MAC"))
    }
}

fn cannot(what: &str) -> Error {
    Error::new(Kind::Failed, format!("this kind of backing key does not {what}"))
}

impl Backing for BackingKey {
    fn wrapping(&self) -> Result<&dyn WrappingKey> {
        Ok(self)
    }
}

impl Backing for PrivateKey {
    fn sign(&self, algorithm: SigningAlgorithm, of: MessageType, message: &[u8]) -> Result<Vec<u8>> {
        Self::sign(self, algorithm, of, message)
    }
    fn decrypt(&self, algorithm: EncryptionAlgorithm, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Self::decrypt(self, algorithm, ciphertext)
    }
    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Self::agree(self, peer)
    }
}

impl Backing for MacKey {
    fn mac(&self, algorithm: MacAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        Self::mac(self, algorithm, message)
    }
    fn verify_mac(&self, algorithm: MacAlgorithm, message: &[u8], mac: &[u8]) -> Result<bool> {
        Self::verify(self, algorithm, message, mac)
    }
}

/// New material of a key, not yet kept.
pub(super) struct Made {
    pub(super) record: BackingRecord,
    /// The public key of a pair: SubjectPublicKeyInfo, DER.
    pub(super) public: Option<Vec<u8>>,
}

/// The backing keys of an installation.
pub(super) struct BackingKeys {
    env: Env,
    installation: InstallationId,
    scope: Arc<Scope>,
    root: Arc<RootKey>,
}

/// What a sealed backing key belongs to: it opens for nothing else.
struct Owner {
    key: KeyId,
    spec: KeySpec,
    origin: Origin,
}

fn backing_aad(installation: InstallationId, owner: &Owner, material: KeyMaterialId, generation: u32) -> Vec<u8> {
    let key = owner.key.to_string();
    let generation = generation.to_le_bytes();
    let (spec, origin) = (owner.spec.name().as_bytes(), owner.origin.name().as_bytes());
    let fields: [&[u8]; 6] = [&installation.0, key.as_bytes(), &material.0, spec, origin, &generation];
    let mut aad = b"coffer/backing-key/v1".to_vec();
    for field in fields {
        aad.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
        aad.extend_from_slice(field);
    }
    aad
}

/// New material, and the public key of a pair.
type Generated = (Zeroizing<Vec<u8>>, Option<Vec<u8>>);

/// New material for a key.
fn generate(spec: KeySpec) -> Result<Generated> {
    if spec == KeySpec::SymmetricDefault {
        let secret = Secret::<32>::random();
        return Ok((Zeroizing::new(secret.expose().to_vec()), None));
    }
    if spec.is_mac() {
        return Ok((MacKey::generate(spec)?.to_bytes(), None));
    }
    let pair = PrivateKey::generate(spec)?;
    Ok((pair.to_pkcs8()?, Some(pair.public_key_der()?)))
}

impl BackingKeys {
    /// Those that this root key seals.
    pub(super) const fn new(env: Env, installation: InstallationId, scope: Arc<Scope>, root: Arc<RootKey>) -> Self {
        Self { env, installation, scope, root }
    }

    /// Makes a version for a key, to be kept in its record.
    pub(super) fn create(&self, key: KeyId, spec: KeySpec) -> Result<Made> {
        let (bytes, public) = generate(spec)?;
        let record = self.keep(&Owner { key, spec, origin: Origin::AwsKms }, &bytes)?;
        Ok(Made { record, public })
    }

    /// The version that imported material makes of a key. The material is checked against the key's spec.
    pub(super) fn import(&self, key: &KeyRecord, bytes: &[u8]) -> Result<Made> {
        let owner = Owner { key: key.id, spec: key.spec, origin: Origin::External };
        let public = parse(&owner, bytes)?.1;
        Ok(Made { record: self.keep(&owner, bytes)?, public })
    }

    fn keep(&self, owner: &Owner, bytes: &[u8]) -> Result<BackingRecord> {
        let (material, generation) = (KeyMaterialId::of(owner.key, bytes), self.root.generation());
        let aad = backing_aad(self.installation, owner, material, generation);
        let sealed = hex::encode(seal_local(self.root.secret(), &aad, bytes, &*self.env.rng)?);
        Ok(BackingRecord {
            material,
            sealed,
            created: self.env.now(),
            root_generation: generation,
            rotation: None,
            pending: false,
            expires: None,
            description: None,
        })
    }

    /// Opens one backing key of a key.
    pub(super) fn open(&self, key: &KeyRecord, version: &BackingRecord) -> Result<Box<dyn Backing>> {
        let arn = self.scope.arn_of(&key.key());
        if !version.is_here(self.env.now()) {
            let what = format!("key {arn}: its imported key material {} is gone", version.material);
            return Err(Error::new(Kind::KeyUnavailable, what).hint("import the same material again"));
        }
        let owner = Owner { key: key.id, spec: key.spec, origin: key.origin };
        let aad = backing_aad(self.installation, &owner, version.material, version.root_generation);
        let opened = hex::decode(&version.sealed)
            .map_err(|e| Error::new(Kind::Integrity, "the sealed material is not hexadecimal").because(e))
            .and_then(|sealed| open_local_bytes(self.root.secret(), &aad, &sealed))
            .and_then(|bytes| match KeyMaterialId::of(key.id, &bytes) == version.material {
                true => Ok(parse(&owner, &bytes)?.0),
                false => Err(Error::new(Kind::Integrity, "the material does not match its id")),
            });
        opened.map_err(|e| unavailable(format!("key {arn}, version {}", version.material), e))
    }

    /// The current backing key, and its id.
    pub(super) fn current(&self, key: &KeyRecord) -> Result<(Box<dyn Backing>, KeyMaterialId)> {
        let last = key.current().ok_or_else(|| {
            let err = Error::new(Kind::Integrity, "it has no backing key");
            unavailable(format!("key {}", self.scope.arn_of(&key.key())), err)
        })?;
        Ok((self.open(key, last)?, last.material))
    }
}

/// Opened material, and the public key of a pair.
type Parsed = (Box<dyn Backing>, Option<Vec<u8>>);

fn parse(owner: &Owner, bytes: &[u8]) -> Result<Parsed> {
    let Owner { key, spec, .. } = *owner;
    if spec.is_mac() {
        return Ok((Box::new(MacKey::from_bytes(spec, bytes)?), None));
    }
    if spec.is_symmetric() {
        let secret = Secret::<32>::try_build(|out| match bytes.len() == out.len() {
            true => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            false => Err(Error::new(Kind::Integrity, "the material has another length than its key")),
        })?;
        return Ok((Box::new(BackingKey::new(key, secret)), None));
    }
    let pair = PrivateKey::from_pkcs8(spec, bytes)?;
    let public = pair.public_key_der()?;
    Ok((Box::new(pair), Some(public)))
}
