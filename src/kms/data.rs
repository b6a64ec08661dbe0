//! Operations that use keys: the public ones (Encrypt, Decrypt, ReEncrypt, GenerateDataKey), and internal ones (volume data
//! keys). Each writes an audit record that is durable before any key byte is returned.
//!
//! Public callers get the same
//! error for every invalid ciphertext (InvalidCiphertextException): which check failed is only in the audit log, where an
//! attacker who tries ciphertexts cannot see it.

use super::authority::Authorizer;
use super::backing::{Backing, BackingKeys};
use super::caller::{Authority, Caller, Wanted};
use super::key::Keys;
use super::keystore::{KeyManager, KeyRecord, KeyStore};
use super::name::{EBS_ALIAS, KeyRef, Target};
use super::policy::{Facts, Key};
use super::scope::{KeyName, Scope};
use crate::cipher::keys::{self, EncryptionAlgorithm, KeyUsage};
use crate::cipher::wrap::{Blob, EncryptionContext, KeyId, KeyMaterialId, MAX_PLAINTEXT, Purpose};
use crate::cipher::{DataKey, Unwrapped};
use crate::env::Env;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::{Act, Ledger};
use crate::units::DataKeyId;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Plaintext that a public operation returns; wiped on drop, never shown.
pub struct Plaintext(pub(super) Zeroizing<Vec<u8>>);

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
    /// The version that was used, hexadecimal; empty for a pair, which has one.
    pub key_material_id: String,
    /// The algorithm that was used.
    pub algorithm: EncryptionAlgorithm,
}

/// The result of Decrypt.
#[derive(Debug)]
pub struct Decrypted {
    /// The plaintext.
    pub plaintext: Plaintext,
    /// ARN of the key.
    pub key_arn: String,
    /// The version that was used, hexadecimal; empty for a pair, which has one.
    pub key_material_id: String,
    /// The algorithm that was used.
    pub algorithm: EncryptionAlgorithm,
}

/// A ciphertext, and what a caller says about it.
#[derive(Debug, Clone, Copy)]
pub struct Ciphertext<'a> {
    /// The ciphertext: of a symmetric key, a blob.
    pub bytes: &'a [u8],
    /// The encryption context that it was made with.
    pub context: &'a EncryptionContext,
    /// The key that it must have been made with.
    pub key: Option<&'a KeyRef>,
    /// The algorithm that it was made by.
    pub algorithm: EncryptionAlgorithm,
}

/// The fields of a blob, unauthenticated: for display, and for authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// The key that it names, as volumes find it.
    pub key: KeyName,
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
    pub(super) scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    pub(super) store: Arc<KeyStore>,
    pub(super) backing: Arc<BackingKeys>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) keys: Arc<Keys>,
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

    /// A key's record, if this caller may use it now with that context, and it has that usage. A dry run is not ended here, as
    /// the algorithm is still to be checked ([`Caller::unless_dry_run`]).
    pub(super) fn usable(
        &self,
        verb: &str,
        name: &KeyName,
        usage: KeyUsage,
        (ctx, facts): (&EncryptionContext, &Facts),
        caller: &Caller,
    ) -> Result<KeyRecord> {
        let key = self.permitted(verb, name, (ctx, facts), caller)?;
        let (arn, shown) = (self.scope.arn_of(name), shown(verb));
        self.keys.check_usable(&key, shown)?;
        if key.usage != usage {
            let what = format!("{shown}: key {arn} is for {}, not for {usage}", key.usage);
            return Err(Error::new(Kind::Usage, what).reason(Reason::InvalidKeyUsage));
        }
        Ok(key)
    }

    /// A key's record, if this caller may use it so, whatever its state.
    fn permitted(
        &self,
        verb: &str,
        name: &KeyName,
        (ctx, facts): (&EncryptionContext, &Facts),
        caller: &Caller,
    ) -> Result<KeyRecord> {
        let key = self.store.load(name)?.record;
        let (arn, shown) = (self.scope.arn_of(name), shown(verb));
        if key.manager == KeyManager::Aws && caller.via_service.is_none() {
            let what = format!("{shown}: key {arn} is managed by the service, and only the service may use it");
            return Err(Error::new(Kind::AccessDenied, what).hint("create a key of your own with `coffer key create`"));
        }
        let lease = self.authorizer.lease_facts();
        for (action, grant) in asked_by(verb) {
            let wanted = Wanted { action, context: ctx, grant: grant.then_some(&lease), facts: Some(facts) };
            self.authorizer.authorize(&key, wanted, caller)?;
        }
        Ok(key)
    }

    /// The same for a symmetric encryption key, as data keys need one.
    fn usable_symmetric(
        &self,
        verb: &str,
        name: &KeyName,
        (ctx, facts): (&EncryptionContext, &Facts),
        caller: &Caller,
    ) -> Result<KeyRecord> {
        let facts = Facts::new().text(Key::EncryptionAlgorithm, "SYMMETRIC_DEFAULT").and(facts);
        let key = self.usable(verb, name, KeyUsage::EncryptDecrypt, (ctx, &facts), caller)?;
        check_algorithm(&key, shown(verb), EncryptionAlgorithm::SymmetricDefault)?;
        caller.unless_dry_run(shown(verb))?;
        Ok(key)
    }

    /// Records the use of a key in the audit log, durably, before the result is returned.
    pub(super) fn used<R>(&self, caller: &Caller, act: Act, result: Result<R>) -> Result<R> {
        self.used_telling(caller, act, result, |_| None)
    }

    /// The same; `less` says what the caller is answered if that is less than the error says.
    fn used_telling<R>(
        &self,
        caller: &Caller,
        act: Act,
        result: Result<R>,
        less: impl FnOnce(&Error) -> Option<Error>,
    ) -> Result<R> {
        match result {
            Ok(value) => self.ledger.record(caller, act, Ok(())).map(|()| value),
            Err(e) => {
                let less = less(&e);
                let act = if let Some(less) = &less { act.answered(less) } else { act };
                self.ledger.record_refusal(act, caller, &e);
                Err(less.unwrap_or(e))
            }
        }
    }

    pub(super) fn seal(
        &self,
        act: Act,
        key: &KeyRef,
        ctx: &EncryptionContext,
        plain: &[u8],
        caller: &Caller,
    ) -> Result<Encrypted> {
        self.seal_with(act, key, EncryptionAlgorithm::SymmetricDefault, (ctx, &Facts::new()), plain, caller)
    }

    pub(super) fn seal_with(
        &self,
        act: Act,
        key: &KeyRef,
        algorithm: EncryptionAlgorithm,
        (ctx, facts): (&EncryptionContext, &Facts),
        plain: &[u8],
        caller: &Caller,
    ) -> Result<Encrypted> {
        self.seal_made(act, key, algorithm, (ctx, facts), (|| Ok(plain), |plain| plain), caller).map(|(_, made)| made)
    }

    /// The same with something that is made only if the caller may, and its bytes, which are encrypted. Returns it, too.
    pub(super) fn seal_made<M>(
        &self,
        act: Act,
        key: &KeyRef,
        algorithm: EncryptionAlgorithm,
        (ctx, facts): (&EncryptionContext, &Facts),
        (make, bytes): (impl FnOnce() -> Result<M>, impl Fn(&M) -> &[u8]),
        caller: &Caller,
    ) -> Result<(M, Encrypted)> {
        let facts = key.facts().text(Key::EncryptionAlgorithm, algorithm.name()).and(facts);
        let verb = act.name().trim_start_matches("kms:").to_owned();
        let name = self.store.resolve(key)?;
        let arn = self.scope.arn_of(&name);
        let act = act.key(arn.clone()).context(ctx);
        let sealed = self.usable(&verb, &name, KeyUsage::EncryptDecrypt, (ctx, &facts), caller).and_then(|key| {
            check_algorithm(&key, shown(&verb), algorithm)?;
            check_context(shown(&verb), algorithm, ctx)?;
            caller.unless_dry_run(shown(&verb))?;
            let made = make()?;
            let plain = bytes(&made);
            if algorithm != EncryptionAlgorithm::SymmetricDefault {
                let blob = keys::encrypt(key.spec, &public_of(&key)?, algorithm, plain)?;
                return Ok((made, Encrypted { blob, key_arn: arn, key_material_id: String::new(), algorithm }));
            }
            let (backing, material) = self.backing.current(&key)?;
            let blob = backing.wrapping()?.seal_bytes(ctx, plain, &*self.env.rng)?;
            Ok((made, Encrypted { blob, key_arn: arn, key_material_id: material.to_string(), algorithm }))
        });
        self.used(caller, act, sealed)
    }

    /// Encrypts 1 to 4096 bytes under a key's current backing key.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::KeyUnavailable`] by the key's state, [`Kind::Usage`] for another length.
    pub fn encrypt(&self, key: &KeyRef, ctx: &EncryptionContext, plain: &[u8], caller: &Caller) -> Result<Encrypted> {
        self.seal(Act::new("kms:Encrypt"), key, ctx, plain, caller)
    }

    /// The same with an algorithm: with that of an RSA key, under its public key.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`]; [`Kind::Usage`] for an algorithm that the key does not have (InvalidKeyUsageException).
    pub fn encrypt_with(
        &self,
        key: &KeyRef,
        algorithm: EncryptionAlgorithm,
        ctx: &EncryptionContext,
        plain: &[u8],
        caller: &Caller,
    ) -> Result<Encrypted> {
        self.seal_with(Act::new("kms:Encrypt"), key, algorithm, (ctx, &Facts::new()), plain, caller)
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

    /// Opens a ciphertext of a public operation.
    fn open_public(&self, verb: &str, from: &Ciphertext<'_>, facts: Facts, caller: &Caller) -> Result<Decrypted> {
        let facts = from.key.map_or_else(Facts::new, KeyRef::facts).and(&facts);
        let facts = facts.text(Key::EncryptionAlgorithm, from.algorithm.name());
        if from.algorithm != EncryptionAlgorithm::SymmetricDefault {
            return self.open_by_private_key(verb, from, &facts, caller);
        }
        let blob = Blob::parse(from.bytes)?;
        let name = match from.key {
            Some(named) => self.store.resolve(named)?,
            None => self.store.of_blob(blob.key_id(), &self.scope.place_of(caller))?,
        };
        if name.id != blob.key_id() {
            // Which key a ciphertext belongs to is said to whoever may use the key that was named.
            self.permitted(verb, &name, (from.context, &facts), caller)?;
            let what = format!("{verb}: the ciphertext was not encrypted under key {}", self.scope.arn_of(&name));
            return Err(Error::new(Kind::InvalidCiphertext, what).reason(Reason::IncorrectKey));
        }
        if blob.purpose() != Purpose::General {
            return Err(Error::new(Kind::InvalidCiphertext, "the blob holds a volume's data key"));
        }
        let record = self.usable_symmetric(verb, &name, (from.context, &facts), caller)?;
        let plaintext = Plaintext(self.version(&record, &blob)?.wrapping()?.open_bytes(&blob, from.context)?);
        let (key_arn, key_material_id) = (self.scope.arn_of(&name), blob.material().to_string());
        Ok(Decrypted { plaintext, key_arn, key_material_id, algorithm: from.algorithm })
    }

    /// Opens what was encrypted under the public key of a pair.
    fn open_by_private_key(
        &self,
        verb: &str,
        from: &Ciphertext<'_>,
        facts: &Facts,
        caller: &Caller,
    ) -> Result<Decrypted> {
        let named = from.key.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{verb}: a ciphertext of an asymmetric key needs the key's id"))
        })?;
        let name = self.store.resolve(named)?;
        let key = self.usable(verb, &name, KeyUsage::EncryptDecrypt, (from.context, facts), caller)?;
        check_algorithm(&key, verb, from.algorithm)?;
        check_context(verb, from.algorithm, from.context)?;
        caller.unless_dry_run(verb)?;
        let plaintext = Plaintext(self.backing.current(&key)?.0.decrypt(from.algorithm, from.bytes)?);
        let key_arn = self.scope.arn_of(&name);
        Ok(Decrypted { plaintext, key_arn, key_material_id: String::new(), algorithm: from.algorithm })
    }

    /// The backing key of `key` that `blob` names.
    fn version(&self, key: &KeyRecord, blob: &Blob<'_>) -> Result<Box<dyn Backing>> {
        let named = key.backing.iter().find(|b| b.material == blob.material() && !b.pending);
        let missing = || {
            let what = format!("key {} has no backing key {}", self.scope.arn_of(&key.key()), blob.material());
            Error::new(Kind::InvalidCiphertext, what)
        };
        self.backing.open(key, named.ok_or_else(missing)?)
    }

    /// The act, with the fields of the blob.
    fn blob_act(&self, act: Act, bytes: &[u8], ctx: &EncryptionContext, caller: &Caller) -> Act {
        let act = act.context(ctx);
        let Ok(blob) = Blob::parse(bytes) else { return act };
        let act = act.detail("material", blob.material());
        let by_request = matches!(caller.authority, Authority::Principal(_));
        match self.store.of_blob(blob.key_id(), &self.scope.place_of(caller)) {
            // Of a key that is gone nobody knows whose it was. What is not asked for over the network is about keys at home.
            Ok(name) if by_request && !self.store.exists(&name) => act.detail("named", blob.key_id()),
            Ok(name) => act.key(self.scope.arn_of(&name)),
            Err(_) => act.key(self.scope.arn_of(&blob.key_id().into())),
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
        let algorithm = EncryptionAlgorithm::SymmetricDefault;
        self.decrypt_with(&Ciphertext { bytes: blob, context: ctx, key, algorithm }, caller)
    }

    /// The same with an algorithm: with that of an RSA key, with its private key.
    ///
    /// # Errors
    /// As [`Crypto::decrypt`]; [`Kind::Usage`] for an algorithm that the key does not have (InvalidKeyUsageException).
    pub fn decrypt_with(&self, from: &Ciphertext<'_>, caller: &Caller) -> Result<Decrypted> {
        let act = self.ciphertext_act(Act::new("kms:Decrypt"), from, caller);
        let opened = self.open_public("Decrypt", from, Facts::new(), caller);
        self.used_telling(caller, act, opened, |e| told("Decrypt", from, caller, e))
    }

    /// The act, with the key of a ciphertext.
    fn ciphertext_act(&self, act: Act, from: &Ciphertext<'_>, caller: &Caller) -> Act {
        if from.algorithm == EncryptionAlgorithm::SymmetricDefault {
            return self.blob_act(act, from.bytes, from.context, caller);
        }
        match from.key.map(|key| self.store.resolve(key)) {
            Some(Ok(name)) => act.key(self.scope.arn_of(&name)),
            _ => act,
        }
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
        let algorithm = EncryptionAlgorithm::SymmetricDefault;
        let from = Ciphertext { bytes: blob, context: from.0, key: from.1, algorithm };
        Ok(self.re_encrypt_with(&from, (to.0, to.1, algorithm), caller)?.1)
    }

    /// The same with algorithms. Returns the key and the version that decrypted, and the new ciphertext.
    ///
    /// # Errors
    /// As [`Crypto::decrypt_with`] and [`Crypto::encrypt_with`].
    pub fn re_encrypt_with(
        &self,
        from: &Ciphertext<'_>,
        to: (&EncryptionContext, &KeyRef, EncryptionAlgorithm),
        caller: &Caller,
    ) -> Result<((String, String), Encrypted)> {
        let live = Caller { dry_run: false, ..caller.clone() };
        let act = self.ciphertext_act(Act::new("kms:ReEncryptFrom"), from, caller);
        let facts = Facts::new().flag(Key::ReEncryptOnSameKey, self.is_same_key(from, to.1, caller));
        let opened = self.open_public("ReEncrypt", from, facts.clone(), &live);
        // A dry run uses nothing: only its refusal is recorded for this key.
        let opened = match opened {
            Ok(opened) if caller.dry_run => opened,
            opened => self.used_telling(&live, act, opened, |e| told("ReEncrypt", from, caller, e))?,
        };
        let made =
            self.seal_with(Act::new("kms:ReEncryptTo"), to.1, to.2, (to.0, &facts), opened.plaintext.expose(), caller)?;
        Ok(((opened.key_arn, opened.key_material_id), made))
    }

    /// Whether a ciphertext is re-encrypted under the key that it has.
    fn is_same_key(&self, from: &Ciphertext<'_>, to: &KeyRef, caller: &Caller) -> bool {
        let old = match (from.key, Blob::parse(from.bytes)) {
            (Some(key), _) => self.store.resolve(key),
            (None, Ok(blob)) => self.store.of_blob(blob.key_id(), &self.scope.place_of(caller)),
            (None, Err(e)) => Err(e),
        };
        matches!((old, self.store.resolve(to)), (Ok(old), Ok(new)) if old == new)
    }

    /// The fields of a blob, unauthenticated.
    ///
    /// # Errors
    /// [`Kind::InvalidCiphertext`] naming the violation of the format.
    pub fn blob_info(&self, blob: &[u8]) -> Result<BlobInfo> {
        let blob = Blob::parse(blob)?;
        let key = self.key_at_home(blob.key_id())?;
        let (material, purpose) = (blob.material(), blob.purpose());
        Ok(BlobInfo { key_arn: self.scope.arn_of(&key), key, material, purpose })
    }

    /// The key with an id as volumes find it: of the installation's account, or of another that shares it, in the
    /// installation's Region.
    fn key_at_home(&self, id: KeyId) -> Result<KeyName> {
        self.store.of_blob(id, self.scope.place(None))
    }

    /// Volumes are in the installation's Region, and so are their keys, as in EBS.
    fn check_for_volume(&self, name: &KeyName) -> Result<()> {
        let (wanted, home) = (self.scope.place(name.place.as_ref()), self.scope.place(None));
        if wanted.region == home.region {
            return Ok(());
        }
        let what = format!(
            "key {} is in Region {}, and volumes are in {}",
            self.scope.arn_of(name),
            wanted.region,
            home.region
        );
        Err(Error::new(Kind::Usage, what).hint("name a key of that Region, or a replica there of a multi-Region key"))
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
        let name = self.store.resolve(key)?;
        let act = Act::new("kms:GenerateVolumeKey").key(self.scope.arn_of(&name)).context(context);
        let key = self
            .check_for_volume(&name)
            .and_then(|()| self.usable_symmetric("GenerateVolumeKey", &name, (context, &key.facts()), caller));
        let made = key.and_then(|key| {
            let (backing, material) = self.backing.current(&key)?;
            Ok((backing.wrapping()?.new_data_key(context, &*self.env.rng)?, material))
        });
        let act = match &made {
            Ok(((_, key), material)) => act.detail("data-key", key.get().id()).detail("material", material),
            Err(_) => act,
        };
        self.used(caller, act, made.map(|(made, _)| made))
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
        let name = self.key_at_home(blob.key_id())?;
        let key = self.usable_symmetric(verb, &name, (context, &Facts::new()), caller)?;
        self.version(&key, &blob)?.wrapping()?.open_data_key(&blob, context, expected)
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
        let mut act =
            self.blob_act(Act::new("kms:UnwrapVolumeKey"), blob, context, caller).detail("data-key", expected);
        if let Authority::Grants(ids) = &caller.authority {
            act = act.detail("grant", ids.join(" "));
        }
        let opened = self.open_volume_key("UnwrapVolumeKey", blob, context, expected, caller);
        self.used(caller, act, opened)
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
        let act = self.blob_act(Act::new("kms:RewrapVolumeKey"), blob, context, caller).detail("data-key", expected);
        let rewrapped = self.open_volume_key("RewrapVolumeKeyFrom", blob, context, expected, caller);
        let rewrapped = rewrapped.and_then(|key| {
            let name = self.store.resolve(to)?;
            self.check_for_volume(&name)?;
            let record = self.usable_symmetric("RewrapVolumeKey", &name, (context, &to.facts()), caller)?;
            let (backing, material) = self.backing.current(&record)?;
            Ok((backing.wrapping()?.wrap_data_key(&key, context, &*self.env.rng)?, self.scope.arn_of(&name), material))
        });
        let act = match &rewrapped {
            Ok((_, arn, material)) => act.detail("to", arn).detail("to-material", material),
            Err(_) => act,
        };
        self.used(caller, act, rewrapped.map(|(blob, _, _)| blob))
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

/// Refuses an algorithm that a key does not have.
pub(super) fn check_algorithm(key: &KeyRecord, verb: &str, algorithm: EncryptionAlgorithm) -> Result<()> {
    if key.spec.encryption_algorithms(key.usage).contains(&algorithm) {
        return Ok(());
    }
    let what = format!("{verb}: a key of spec {} does not have the algorithm {algorithm}", key.spec);
    Err(Error::new(Kind::Usage, what).reason(Reason::InvalidKeyUsage))
}

/// Only a symmetric key binds an encryption context to a ciphertext.
fn check_context(verb: &str, algorithm: EncryptionAlgorithm, context: &EncryptionContext) -> Result<()> {
    if algorithm == EncryptionAlgorithm::SymmetricDefault || context.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{verb}: {algorithm} takes no encryption context")))
}

/// The public key of a pair: SubjectPublicKeyInfo, DER.
pub(super) fn public_of(key: &KeyRecord) -> Result<Vec<u8>> {
    let missing = || Error::new(Kind::Integrity, format!("key {}: its public key is missing or damaged", key.id));
    key.public.as_deref().and_then(|text| hex::decode(text).ok()).ok_or_else(missing)
}

/// What a public caller is answered if that is less than the error says: without which check failed, and without anything about
/// a key that the caller did not name, unless it is of the caller's own account.
fn told(verb: &str, from: &Ciphertext<'_>, caller: &Caller, e: &Error) -> Option<Error> {
    let Authority::Principal(by) = &caller.authority else { return public(verb, e) };
    // Whether there is such a key, a stranger does not learn (`Caller::denial`).
    let is_foreign = |key: &KeyRef| key.account().is_some_and(|account| account != by.principal.account);
    if e.kind() == Kind::NotFound && from.key.is_some_and(is_foreign) {
        return None;
    }
    let own = format!(":{}:key/", by.principal.account);
    let is_hidden = match e.kind() {
        Kind::NotFound => true,
        Kind::AccessDenied => !e.what().contains(&own),
        _ => false,
    };
    if from.key.is_some() || !is_hidden {
        return public(verb, e);
    }
    let what = format!(
        "User: {} is not authorized to perform: kms:{verb} with the key of this ciphertext: it does not exist in this \
         Region, or no policy allows it",
        caller.principal
    );
    Some(Error::new(Kind::AccessDenied, what))
}

/// The same for a caller who may learn about the key.
fn public(verb: &str, e: &Error) -> Option<Error> {
    let known = e.why() == Some(Reason::IncorrectKey);
    let is_less = e.kind() == Kind::NotFound || (e.kind() == Kind::InvalidCiphertext && !known);
    is_less.then(|| invalid_ciphertext(verb))
}

fn random(spec: DataKeySpec) -> Result<Zeroizing<Vec<u8>>> {
    spec.len().map(random_bytes)
}

/// Random bytes of the operating system.
pub(super) fn random_bytes(len: usize) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(vec![0u8; len]);
    debug_assert!(plain.len() <= MAX_PLAINTEXT);
    crate::sys::random(&mut plain);
    plain
}
