//! Operations that use keys: the public ones (Encrypt, Decrypt, ReEncrypt, GenerateDataKey), and internal ones (volume data
//! keys). Each writes an audit record that is durable before any key byte is returned.
//!
//! Public callers get the same
//! error for every invalid ciphertext (InvalidCiphertextException): which check failed is only in the audit log, where an
//! attacker who tries ciphertexts cannot see it.

use super::authority::Authorizer;
use super::backing::BackingKeys;
use super::caller::{Authority, Caller, Wanted};
use super::key::Keys;
use super::keystore::{KeyManager, KeyRecord, KeyStore};
use super::name::{EBS_ALIAS, KeyRef, Target};
use super::scope::Scope;
use crate::cipher::wrap::{Blob, EncryptionContext, KeyId, KeyMaterialId, MAX_PLAINTEXT, Purpose};
use crate::cipher::{DataKey, Unwrapped};
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger};
use crate::units::DataKeyId;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Plaintext that a public operation returns; wiped on drop, never shown.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plaintext({} bytes, redacted)", self.0.len())
    }
}

/// The length of a public data key (KMS API Reference, GenerateDataKey: KeySpec, NumberOfBytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKeySpec {
    /// 16 bytes.
    Aes128,
    /// 32 bytes.
    Aes256,
    /// 1 to 1024 bytes.
    Bytes(u16),
}

impl DataKeySpec {
    fn len(self) -> Result<usize> {
        match self {
            Self::Aes128 => Ok(16),
            Self::Aes256 => Ok(32),
            Self::Bytes(n @ 1..=1024) => Ok(n.into()),
            Self::Bytes(n) => {
                Err(Error::new(Kind::Usage, format!("GenerateDataKey: a data key has 1 to 1024 bytes, not {n}")))
            }
        }
    }
}

/// A ciphertext blob and the key that encrypted it.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// The blob.
    pub blob: Vec<u8>,
    /// ARN of the key.
    pub key_arn: String,
    /// The version that was used, hexadecimal.
    pub key_material_id: String,
}

/// The result of Decrypt.
#[derive(Debug)]
pub struct Decrypted {
    /// The plaintext.
    pub plaintext: Plaintext,
    /// ARN of the key.
    pub key_arn: String,
    /// The version that was used, hexadecimal.
    pub key_material_id: String,
}

/// The fields of a blob, unauthenticated: for display, and for authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// The key that it names.
    pub key_id: KeyId,
    /// ARN of that key here.
    pub key_arn: String,
    /// The version that it names.
    pub material: KeyMaterialId,
    /// Its purpose.
    pub purpose: Purpose,
}

/// The error for public callers, for any ciphertext that cannot be decrypted.
fn invalid_ciphertext(verb: &str) -> Error {
    Error::new(Kind::InvalidCiphertext, format!("{verb}: the ciphertext is not valid"))
        .hint("check that the ciphertext is complete and that the encryption context is the one used to encrypt")
}

/// What keys are for: encrypting, decrypting, and making data keys.
pub struct Crypto {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
    backing: Arc<BackingKeys>,
    authorizer: Arc<Authorizer>,
    keys: Arc<Keys>,
}

impl Crypto {
    /// With these keys.
    pub(super) const fn new(
        env: Env,
        scope: Arc<Scope>,
        ledger: Arc<Ledger>,
        store: Arc<KeyStore>,
        backing: Arc<BackingKeys>,
        authorizer: Arc<Authorizer>,
        keys: Arc<Keys>,
    ) -> Self {
        Self { env, scope, ledger, store, backing, authorizer, keys }
    }

    /// A key's record, if this caller may use it now with that context.
    fn usable(&self, verb: &str, id: KeyId, ctx: &EncryptionContext, caller: &Caller) -> Result<KeyRecord> {
        let key = self.store.load(id)?.record;
        let (arn, shown) = (self.scope.key_arn(id), shown(verb));
        if key.manager == KeyManager::Aws && caller.via_service.is_none() {
            let what = format!("{shown}: key {arn} is managed by the service, and only the service may use it");
            return Err(Error::new(Kind::AccessDenied, what).hint("create a key of your own with `coffer key create`"));
        }
        let facts = self.authorizer.lease_facts();
        for (action, grant) in asked_by(verb) {
            self.authorizer.authorize(&key, Wanted { action, context: ctx, grant: grant.then_some(&facts) }, caller)?;
        }
        key.check_usable(shown, &arn)?;
        Ok(key)
    }

    /// Records the use of a key in the audit log, durably, before the result is returned. `told` maps the error for the caller.
    fn used<R>(&self, caller: &Caller, act: Act, result: Result<R>, told: impl FnOnce(Error) -> Error) -> Result<R> {
        match result {
            Ok(value) => self.ledger.record(caller, act, Ok(())).map(|()| value),
            Err(e) => {
                self.ledger.record_refusal(act, caller, &e);
                Err(told(e))
            }
        }
    }

    fn seal(
        &self,
        act: Act,
        key: &KeyRef,
        ctx: &EncryptionContext,
        plain: &[u8],
        caller: &Caller,
    ) -> Result<Encrypted> {
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let id = self.store.resolve(key)?;
        let act = act.key(self.scope.key_arn(id)).context(ctx);
        let sealed = self.usable(&verb, id, ctx, caller).and_then(|key| {
            let backing = self.backing.current(&key)?;
            let blob = backing.seal_bytes(ctx, plain, &*self.env.rng)?;
            Ok(Encrypted { blob, key_arn: self.scope.key_arn(id), key_material_id: backing.material().to_string() })
        });
        self.used(caller, act, sealed, |e| e)
    }

    /// Encrypts 1 to 4096 bytes under a key's current backing key.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::KeyUnavailable`] by the key's state, [`Kind::Usage`] for another length.
    pub fn encrypt(&self, key: &KeyRef, ctx: &EncryptionContext, plain: &[u8], caller: &Caller) -> Result<Encrypted> {
        self.seal(Act::new("kms:Encrypt"), key, ctx, plain, caller)
    }

    /// Generates a data key for the caller's own use: plaintext and blob.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`].
    pub fn generate_data_key(
        &self,
        key: &KeyRef,
        spec: DataKeySpec,
        ctx: &EncryptionContext,
        caller: &Caller,
    ) -> Result<(Plaintext, Encrypted)> {
        let plain = random(spec)?;
        let sealed = self.seal(Act::new("kms:GenerateDataKey"), key, ctx, &plain, caller)?;
        Ok((Plaintext(plain), sealed))
    }

    /// Generates a data key for the caller's own use, and returns only the blob.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`].
    pub fn generate_data_key_without_plaintext(
        &self,
        key: &KeyRef,
        spec: DataKeySpec,
        ctx: &EncryptionContext,
        caller: &Caller,
    ) -> Result<Encrypted> {
        self.seal(Act::new("kms:GenerateDataKeyWithoutPlaintext"), key, ctx, &random(spec)?, caller)
    }

    /// Opens a blob of a public operation.
    fn open_public(
        &self,
        verb: &str,
        bytes: &[u8],
        ctx: &EncryptionContext,
        key: Option<&KeyRef>,
        caller: &Caller,
    ) -> Result<Decrypted> {
        let blob = Blob::parse(bytes)?;
        if let Some(named) = key
            && self.store.resolve(named)? != blob.key_id()
        {
            let what = format!("{verb}: the ciphertext was not encrypted under key {named}");
            return Err(Error::new(Kind::InvalidCiphertext, what).reason(Reason::IncorrectKey));
        }
        if blob.purpose() != Purpose::General {
            return Err(Error::new(Kind::InvalidCiphertext, "the blob holds a volume's data key"));
        }
        let record = self.usable(verb, blob.key_id(), ctx, caller).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::InvalidCiphertext, e.what().to_owned()),
            _ => e,
        })?;
        let plaintext = Plaintext(self.version(&record, &blob)?.open_bytes(&blob, ctx)?);
        Ok(Decrypted {
            plaintext,
            key_arn: self.scope.key_arn(record.id),
            key_material_id: blob.material().to_string(),
        })
    }

    /// The backing key of `key` that `blob` names.
    fn version(&self, key: &KeyRecord, blob: &Blob<'_>) -> Result<crate::cipher::wrap::BackingKey> {
        let named = key.backing.iter().find(|b| b.material == blob.material());
        let missing = || {
            let what = format!("key {} has no backing key {}", self.scope.key_arn(key.id), blob.material());
            Error::new(Kind::InvalidCiphertext, what)
        };
        self.backing.unseal(key, named.ok_or_else(missing)?)
    }

    /// The act, with the fields of the blob.
    fn blob_act(&self, act: Act, bytes: &[u8], ctx: &EncryptionContext) -> Act {
        let act = act.context(ctx);
        match Blob::parse(bytes) {
            Ok(blob) => act.key(self.scope.key_arn(blob.key_id())).detail("material", blob.material()),
            Err(_) => act,
        }
    }

    /// Decrypts a blob of Encrypt, GenerateDataKey or ReEncrypt. `key`, if given, must be the one that encrypted it.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`], the same whatever is wrong with the blob (IncorrectKeyException for a key other than
    /// `key`); [`Kind::KeyUnavailable`] by the key's state.
    pub fn decrypt(
        &self,
        blob: &[u8],
        ctx: &EncryptionContext,
        key: Option<&KeyRef>,
        caller: &Caller,
    ) -> Result<Decrypted> {
        let act = self.blob_act(Act::new("kms:Decrypt"), blob, ctx);
        let opened = self.open_public("Decrypt", blob, ctx, key, caller);
        self.used(caller, act, opened, |e| public("Decrypt", e))
    }

    /// Decrypts a blob and encrypts it under another key or context; the plaintext does not leave this module.
    ///
    /// # Errors
    /// As [`Crypto::decrypt`] and [`Crypto::encrypt`].
    pub fn re_encrypt(
        &self,
        blob: &[u8],
        from: (&EncryptionContext, Option<&KeyRef>),
        to: (&EncryptionContext, &KeyRef),
        caller: &Caller,
    ) -> Result<Encrypted> {
        let act = self.blob_act(Act::new("kms:ReEncryptFrom"), blob, from.0);
        let opened = self.open_public("ReEncrypt", blob, from.0, from.1, caller);
        let opened = self.used(caller, act, opened, |e| public("ReEncrypt", e))?;
        self.seal(Act::new("kms:ReEncryptTo"), to.1, to.0, opened.plaintext.expose(), caller)
    }

    /// The fields of a blob, unauthenticated.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] naming the violation of the format.
    pub fn blob_info(&self, blob: &[u8]) -> Result<BlobInfo> {
        let blob = Blob::parse(blob)?;
        let (key_id, material, purpose) = (blob.key_id(), blob.material(), blob.purpose());
        Ok(BlobInfo { key_id, key_arn: self.scope.key_arn(key_id), material, purpose })
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Internal operations

    /// Generates a volume's data key under `key`, bound to `context` (`aws:ebs:id` = the volume). `alias/aws/ebs` is created
    /// on first use. `caller.via_service` is set by the service.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`].
    pub fn new_volume_key(
        &self,
        key: &KeyRef,
        context: &EncryptionContext,
        caller: &Caller,
    ) -> Result<(Vec<u8>, Unwrapped<DataKey>)> {
        if key.target == Target::Alias(EBS_ALIAS.into()) {
            self.keys.ensure_ebs_default(caller)?;
        }
        let id = self.store.resolve(key)?;
        let act = Act::new("kms:GenerateVolumeKey").key(self.scope.key_arn(id)).context(context);
        let made = self.usable("GenerateVolumeKey", id, context, caller).and_then(|key| {
            let backing = self.backing.current(&key)?;
            Ok((backing.new_data_key(context, &*self.env.rng)?, backing.material()))
        });
        let act = match &made {
            Ok(((_, key), material)) => act.detail("data-key", key.get().id()).detail("material", material),
            Err(_) => act,
        };
        self.used(caller, act, made.map(|(made, _)| made), |e| e)
    }

    fn open_volume_key(
        &self,
        verb: &str,
        bytes: &[u8],
        context: &EncryptionContext,
        expected: DataKeyId,
        caller: &Caller,
    ) -> Result<Unwrapped<DataKey>> {
        let blob = Blob::parse(bytes)?;
        let key = self.usable(verb, blob.key_id(), context, caller)?;
        self.version(&key, &blob)?.open_data_key(&blob, context, expected)
    }

    /// Opens a volume's data key. The audit record is durable before this returns.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] naming what is wrong with the blob, [`Kind::KeyUnavailable`] by the key's state,
    /// [`Kind::NotFound`] for a deleted key.
    pub fn unwrap_volume_key(
        &self,
        blob: &[u8],
        context: &EncryptionContext,
        expected: DataKeyId,
        caller: &Caller,
    ) -> Result<Unwrapped<DataKey>> {
        let mut act = self.blob_act(Act::new("kms:UnwrapVolumeKey"), blob, context).detail("data-key", expected);
        if let Authority::Grants(ids) = &caller.authority {
            act = act.detail("grant", ids.join(" "));
        }
        let opened = self.open_volume_key("UnwrapVolumeKey", blob, context, expected, caller);
        self.used(caller, act, opened, |e| e)
    }

    /// Wraps a volume's data key again, under the current backing key of `to` and the same context; the data key stays the
    /// same.
    ///
    /// # Errors
    /// As [`Crypto::unwrap_volume_key`] and [`Crypto::new_volume_key`].
    pub fn rewrap_volume_key(
        &self,
        blob: &[u8],
        context: &EncryptionContext,
        expected: DataKeyId,
        to: &KeyRef,
        caller: &Caller,
    ) -> Result<Vec<u8>> {
        if to.target == Target::Alias(EBS_ALIAS.into()) {
            self.keys.ensure_ebs_default(caller)?;
        }
        let act = self.blob_act(Act::new("kms:RewrapVolumeKey"), blob, context).detail("data-key", expected);
        let rewrapped = self.open_volume_key("RewrapVolumeKeyFrom", blob, context, expected, caller);
        let rewrapped = rewrapped.and_then(|key| {
            let id = self.store.resolve(to)?;
            let backing = self.backing.current(&self.usable("RewrapVolumeKey", id, context, caller)?)?;
            Ok((backing.wrap_data_key(&key, context, &*self.env.rng)?, self.scope.key_arn(id), backing.material()))
        });
        let act = match &rewrapped {
            Ok((_, arn, material)) => act.detail("to", arn).detail("to-material", material),
            Err(_) => act,
        };
        self.used(caller, act, rewrapped.map(|(blob, _, _)| blob), |e| e)
    }
}

/// How messages name an internal operation: by AWS's operation that it is authorized as.
fn shown(verb: &str) -> &str {
    match verb {
        "GenerateVolumeKey" => "GenerateDataKeyWithoutPlaintext",
        "UnwrapVolumeKey" => "Decrypt",
        "RewrapVolumeKey" | "RewrapVolumeKeyFrom" => "ReEncrypt",
        public => public,
    }
}

/// AWS's operations that an operation is authorized as, and whether each is on the grant of a volume's lease.
fn asked_by(verb: &str) -> Vec<(&str, bool)> {
    match verb {
        "GenerateVolumeKey" => vec![("GenerateDataKeyWithoutPlaintext", false), ("CreateGrant", true)],
        "UnwrapVolumeKey" => vec![("Decrypt", false)],
        "ReEncrypt" | "RewrapVolumeKeyFrom" => vec![("ReEncryptFrom", false)],
        "RewrapVolumeKey" => vec![("ReEncryptTo", false)],
        public => vec![(public, false)],
    }
}

/// AWS's operations that an operation is authorized as, and whether each is on the grant of a volume's lease. The error
/// for a public caller, without which check failed.
fn public(verb: &str, e: Error) -> Error {
    let known = e.why() == Some(Reason::IncorrectKey);
    if e.kind() == Kind::InvalidCiphertext && !known { invalid_ciphertext(verb) } else { e }
}

fn random(spec: DataKeySpec) -> Result<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(vec![0u8; spec.len()?]);
    debug_assert!(plain.len() <= MAX_PLAINTEXT);
    crate::sys::random(&mut plain);
    Ok(plain)
}
