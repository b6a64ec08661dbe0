//! Imported key material (KMS Developer Guide, "Importing key material").
//!
//! # Import token, version 1
//! ```text
//! 0  4  magic "COFI"
//! 4  1  version: 1
//! 5  n  sealed under the root key (`cipher::wrap`, local seal) with AAD "coffer/import-token/v1" || id of the key's row:
//!       JSON {algorithm, spec, expires (ms since 1970), key (PKCS #8, hexadecimal)}
//! ```
//! The server keeps nothing of it: the private wrapping key comes back with the token, which only this installation opens,
//! for this key, for 24 hours.

use super::backing::BackingKeys;
use super::caller::Caller;
use super::key::{KeyMetadata, Keys};
use super::keystore::{BackingRecord, KeyRecord, KeyState, KeyStore, Origin, invalid_state};
use super::name::KeyRef;
use super::policy::{Facts, Key};
use super::root::RootKey;
use crate::cipher::keys::{KeySpec, WrappingAlgorithm, WrappingKey, WrappingKeySpec};
use crate::cipher::wrap::{KeyMaterialId, open_local_bytes, seal_local};
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Versioned};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"COFI\x01";
const DAY: i64 = 24 * 60 * 60 * 1000;
/// How far ahead material can expire, in milliseconds (KMS API Reference, ImportKeyMaterial: ValidTo).
const MAX_VALID: i64 = 365 * DAY;

/// What GetParametersForImport returns.
#[derive(Debug, Clone)]
pub struct ImportParameters {
    /// ARN of the key.
    pub key_arn: String,
    /// The token that ImportKeyMaterial needs.
    pub token: Vec<u8>,
    /// The public key to wrap the material with: SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// Until when token and public key can be used.
    pub valid_to: Timestamp,
}

/// Material to import.
#[derive(Debug, Clone)]
pub struct Material<'a> {
    /// The token of GetParametersForImport.
    pub token: &'a [u8],
    /// The material, wrapped as those parameters say.
    pub encrypted: &'a [u8],
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Whether it is new material for a rotation, or (`Some(false)`) the same as before. None: whichever the key lacks.
    pub is_new: Option<bool>,
    /// Free text.
    pub description: Option<String>,
    /// The id that it must have.
    pub id: Option<String>,
}

/// What a token contains.
#[derive(Serialize, Deserialize)]
struct Token {
    algorithm: WrappingAlgorithm,
    spec: WrappingKeySpec,
    expires: Timestamp,
    key: Zeroizing<String>,
}

/// Importing material, and deleting it.
pub struct Imports {
    env: Env,
    root: Arc<RootKey>,
    store: Arc<KeyStore>,
    backing: Arc<BackingKeys>,
    keys: Arc<Keys>,
}

fn aad(row: &str) -> Vec<u8> {
    [b"coffer/import-token/v1", row.as_bytes()].concat()
}

impl Imports {
    /// For these keys.
    pub(super) const fn new(
        env: Env,
        root: Arc<RootKey>,
        store: Arc<KeyStore>,
        backing: Arc<BackingKeys>,
        keys: Arc<Keys>,
    ) -> Self {
        Self { env, root, store, backing, keys }
    }

    fn check_origin(&self, key: &KeyRecord, verb: &str) -> Result<()> {
        let arn = self.keys.scope.arn_of(&key.key());
        if key.origin != Origin::External {
            let what = format!("{verb}: key {arn} has the origin {}, not EXTERNAL", key.origin.name());
            return Err(Error::new(Kind::Unsupported, what).hint("create a key with Origin EXTERNAL"));
        }
        key.check_not_pending(verb, &arn)
    }

    /// Makes a wrapping key, and the token that belongs to it, for a key whose material is to be imported.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a key of another origin or a wrapping algorithm that is not offered; [`Kind::InvalidState`]
    /// by the key's state.
    pub fn parameters(
        &self,
        key: &KeyRef,
        algorithm: WrappingAlgorithm,
        spec: WrappingKeySpec,
        caller: &Caller,
    ) -> Result<ImportParameters> {
        let verb = "GetParametersForImport";
        let facts = Facts::new().text(Key::WrappingAlgorithm, algorithm.name()).text(Key::WrappingKeySpec, spec.name());
        self.keys.authorizer.ask_about(key, verb, &facts, caller)?;
        let record = self.store.find(key)?.record;
        self.check_origin(&record, verb)?;
        if algorithm == WrappingAlgorithm::RsaesPkcs1V15 {
            let what = format!("{verb}: {algorithm} is not offered");
            return Err(Error::new(Kind::Unsupported, what).hint("use RSAES_OAEP_SHA_256 or RSA_AES_KEY_WRAP_SHA_256"));
        }
        let pair = WrappingKey::generate(spec)?;
        let valid_to = Timestamp(self.env.now().0.saturating_add(DAY));
        let token = Token { algorithm, spec, expires: valid_to, key: Zeroizing::new(hex::encode(pair.to_pkcs8()?)) };
        let fail = |e| Error::new(Kind::Failed, format!("{verb}: encode the import token")).because(e);
        let json = Zeroizing::new(serde_json::to_vec(&token).map_err(fail)?);
        let sealed = seal_local(self.root.secret(), &aad(&record.key().row()), &json, &*self.env.rng)?;
        let key_arn = self.keys.scope.arn_of(&record.key());
        Ok(ImportParameters { key_arn, token: [MAGIC, &sealed].concat(), public_key: pair.public_key_der()?, valid_to })
    }

    fn unwrap(&self, key: &KeyRecord, material: &Material<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let verb = "ImportKeyMaterial";
        let bad = || {
            Error::new(Kind::Usage, format!("{verb}: the import token is not one of this key"))
                .reason(Reason::InvalidImportToken)
                .hint("request a new one with GetParametersForImport")
        };
        let sealed = material.token.strip_prefix(MAGIC).ok_or_else(bad)?;
        let json = open_local_bytes(self.root.secret(), &aad(&key.key().row()), sealed).map_err(|_| bad())?;
        let token: Token = serde_json::from_slice(&json).map_err(|_| bad())?;
        if token.expires.0 <= self.env.now().0 {
            let what = format!("{verb}: the import token has expired");
            return Err(Error::new(Kind::Usage, what)
                .reason(Reason::ExpiredImportToken)
                .hint("request a new one with GetParametersForImport"));
        }
        let pkcs8 = Zeroizing::new(hex::decode(&*token.key).map_err(|_| bad())?);
        WrappingKey::from_pkcs8(token.spec, &pkcs8)?.unwrap(token.algorithm, material.encrypted)
    }

    /// Imports material into a key: its first, the same again after it expired or was deleted, or new material that a
    /// rotation on demand then takes into use. Returns the key and the id of the material.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an invalid or expired token; [`Kind::InvalidCiphertext`] for material that does not unwrap or is
    /// not one for the key's spec, or (IncorrectKeyMaterialException) is not the one that it had; [`Kind::InvalidState`] by
    /// the key's state.
    pub fn import(&self, key: &KeyRef, material: &Material<'_>, caller: &Caller) -> Result<(KeyMetadata, String)> {
        let now = self.env.now();
        if material.expires.is_some_and(|at| at.0 <= now.0) {
            return Err(Error::new(Kind::Usage, "ImportKeyMaterial: ValidTo is in the past"));
        }
        if material.expires.is_some_and(|at| at.0 - now.0 > MAX_VALID) {
            let what = "ImportKeyMaterial: ValidTo is more than 365 days ahead";
            return Err(Error::new(Kind::Usage, what).hint("import the same material again before it expires"));
        }
        let id = std::cell::RefCell::new(String::new());
        let act = Act::new("kms:ImportKeyMaterial");
        let model = if material.expires.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
        let mut facts = Facts::new().text(Key::ExpirationModel, model);
        if let Some(at) = material.expires {
            facts = facts.moment(Key::ValidTo, at);
        }
        let meta = self.keys.change_if(key, act, &facts, caller, |key, verb, arn| {
            self.check_origin(key, verb)?;
            key.check_not_pending(verb, arn)?;
            let bytes = self.unwrap(key, material)?;
            let made = self.backing.import(key, &bytes).map_err(|e| match e.kind() {
                Kind::Integrity => Error::new(Kind::InvalidCiphertext, format!("{verb}: {}", e.what())),
                _ => e,
            })?;
            let made_id = made.record.material;
            if material.id.as_ref().is_some_and(|wanted| *wanted != made_id.to_string()) {
                return Err(other_material(verb));
            }
            self.check_replica(key, made_id, verb)?;
            let record =
                BackingRecord { expires: material.expires, description: material.description.clone(), ..made.record };
            put(key, record, material.is_new, verb)?;
            if let Some(public) = made.public {
                key.public = Some(hex::encode(public));
            }
            if key.state == KeyState::PendingImport {
                key.state = KeyState::Enabled;
            }
            *id.borrow_mut() = made_id.to_string();
            Ok(())
        })?;
        Ok((meta, id.into_inner()))
    }

    /// Deletes imported material: all of it, or one version. The key is pending import until the same is imported again.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a key of another origin; [`Kind::NotFound`] for a version that it does not have;
    /// [`Kind::InvalidState`] while it is pending deletion.
    pub fn delete(&self, key: &KeyRef, id: Option<&str>, caller: &Caller) -> Result<(KeyMetadata, Option<String>)> {
        let gone = std::cell::RefCell::new(None);
        let act = Act::new("kms:DeleteImportedKeyMaterial").restrictive();
        let meta = self.keys.change(key, act, caller, |key, verb, arn| {
            self.check_origin(key, verb)?;
            let current = key.current().map(|b| b.material);
            let wanted = match id {
                None => current,
                Some(id) => Some(material_of(key, id).ok_or_else(|| {
                    Error::new(Kind::NotFound, format!("{verb}: key {arn} has no key material {id}"))
                })?),
            };
            for version in key.backing.iter_mut().filter(|b| Some(b.material) == wanted) {
                version.sealed.clear();
                version.expires = None;
            }
            // Material that was never in use leaves nothing that it could decrypt.
            key.backing.retain(|b| !(b.pending && b.sealed.is_empty()));
            *gone.borrow_mut() = wanted.map(|id| id.to_string());
            Ok(())
        })?;
        Ok((meta, gone.into_inner()))
    }
}

impl Imports {
    /// Refuses material for a Region's key that the other Regions' keys do not have: they decrypt each other's ciphertexts.
    fn check_replica(&self, key: &KeyRecord, material: KeyMaterialId, verb: &str) -> Result<()> {
        if key.primary.is_none() || !key.backing.is_empty() {
            return Ok(());
        }
        let others = self.store.keys_of(key.id)?.into_iter().map(|k| k.record).filter(|k| k.place != key.place);
        let has: Vec<_> = others.flat_map(|k| k.backing).filter(|b| !b.pending).map(|b| b.material).collect();
        if has.is_empty() || has.contains(&material) { Ok(()) } else { Err(other_material(verb)) }
    }

    /// Deletes imported material that has expired; the same material can be imported again. `lost` is first told the ARN of
    /// each key that is pending import because of it. Called periodically by the service. Returns the number of keys.
    ///
    /// # Errors
    /// What the catalog or the audit reports.
    pub fn delete_expired(&self, lost: &dyn Fn(&str)) -> Result<usize> {
        let now = self.env.now();
        let expired = |b: &BackingRecord| !b.sealed.is_empty() && !b.is_here(now);
        let timed = self.store.timed()?;
        let has_expired = |k: &&Versioned<KeyRecord>| k.record.backing.iter().any(expired);
        let keys: Vec<_> = timed.iter().filter(|k| k.record.origin == Origin::External).filter(has_expired).collect();
        let myself = Caller::service(self.keys.scope.root_principal(), "coffer", "coffer itself");
        let arn_of = |key: &KeyRecord| self.keys.scope.arn_of(&key.key());
        // All of them, before anything can fail.
        let unusable = keys.iter().filter(|k| k.record.backing.iter().any(|b| !b.pending && expired(b)));
        unusable.for_each(|key| lost(&arn_of(&key.record)));
        for found in &keys {
            let arn = arn_of(&found.record);
            let act = Act::new("kms:DeleteExpiredKeyMaterial").key(arn).restrictive();
            self.keys.ledger.audited(&myself, act, |tx| {
                let mut key = found.record.clone();
                for version in key.backing.iter_mut().filter(|b| expired(b)) {
                    version.sealed.clear();
                    version.expires = None;
                }
                key.backing.retain(|b| !(b.pending && b.sealed.is_empty()));
                tx.update(&key, found.version).map(drop)
            })?;
        }
        if !keys.is_empty() {
            self.keys.ledger.catalog().erase_removed()?;
        }
        Ok(keys.len())
    }
}

fn material_of(key: &KeyRecord, id: &str) -> Option<KeyMaterialId> {
    key.backing.iter().map(|b| b.material).find(|m| m.to_string() == id)
}

fn other_material(verb: &str) -> Error {
    let what = format!("{verb}: the key material is not the one that the key had");
    Error::new(Kind::InvalidCiphertext, what)
        .reason(Reason::IncorrectKeyMaterial)
        .hint("import the original material, or create another key")
}

/// Puts imported material into a key.
fn put(key: &mut KeyRecord, new: BackingRecord, is_new: Option<bool>, verb: &str) -> Result<()> {
    if let Some(old) = key.backing.iter_mut().find(|b| b.material == new.material) {
        if is_new == Some(true) {
            return Err(invalid_state(verb, &key.id.to_string(), "has this key material already", "omit ImportType"));
        }
        (old.sealed, old.root_generation, old.expires) = (new.sealed, new.root_generation, new.expires);
        if new.description.is_some() {
            old.description = new.description;
        }
        return Ok(());
    }
    if key.backing.is_empty() {
        key.backing.push(new);
        return Ok(());
    }
    let rotates = key.spec == KeySpec::SymmetricDefault;
    if is_new != Some(true) || !rotates {
        return Err(other_material(verb));
    }
    key.backing.retain(|b| !b.pending);
    key.backing.push(BackingRecord { pending: true, ..new });
    Ok(())
}
