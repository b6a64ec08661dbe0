//! Operations with key pairs and HMAC keys: Sign, Verify, GetPublicKey, DeriveSharedSecret, GenerateMac, VerifyMac; and
//! data key pairs.

use super::caller::{Caller, Wanted};
use super::data::{Crypto, Encrypted, Plaintext, public_of, random_bytes};
use super::key::KeyMetadata;
use super::keystore::{KeyManager, KeyRecord};
use super::name::KeyRef;
use super::policy::{Facts, Key};
use crate::cipher::keys::{
    self, DataKeyPair, DataKeyPairSpec, EncryptionAlgorithm, KeyAgreementAlgorithm, KeyUsage, MacAlgorithm,
    MessageType, SigningAlgorithm,
};
use crate::cipher::wrap::EncryptionContext;
use crate::error::{Error, Kind, Reason, Result};
use crate::ledger::Act;

/// What is signed, and how.
#[derive(Debug, Clone, Copy)]
pub struct ToSign<'a> {
    /// The algorithm.
    pub algorithm: SigningAlgorithm,
    /// Whether the message is the message, its digest, or its representative.
    pub message_type: MessageType,
    /// The message, 1 to 4096 bytes.
    pub message: &'a [u8],
}

impl ToSign<'_> {
    fn facts(&self) -> Facts {
        Facts::new().text(Key::SigningAlgorithm, self.algorithm.name()).text(Key::MessageType, self.message_type.name())
    }
}

/// A public key, and the key that it belongs to.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// The key.
    pub key: KeyMetadata,
    /// SubjectPublicKeyInfo (RFC 5280), DER.
    pub der: Vec<u8>,
}

fn refuse(verb: &str, key: &KeyRecord, algorithm: impl std::fmt::Display) -> Error {
    let what = format!("{verb}: a key of spec {} for {} does not have the algorithm {algorithm}", key.spec, key.usage);
    Error::new(Kind::Usage, what).reason(Reason::InvalidKeyUsage)
}

impl Crypto {
    /// Runs a use of a key: authorizes it, checks the key's state and usage, and records it.
    fn with_key<R>(
        &self,
        verb: &str,
        key: &KeyRef,
        (usage, facts): (KeyUsage, Facts),
        caller: &Caller,
        use_it: impl FnOnce(&KeyRecord, &str) -> Result<R>,
    ) -> Result<R> {
        let name = self.store.resolve(key)?;
        let arn = self.scope.arn_of(&name);
        let (none, facts) = (EncryptionContext::new(), key.facts().and(&facts));
        let used = self.usable(verb, &name, usage, (&none, &facts), caller).and_then(|key| use_it(&key, &arn));
        self.used(caller, Act::new(format!("kms:{verb}")).key(arn), used)
    }

    /// Signs a message with a key's private key. Returns the key's ARN and the signature: DER for ECDSA (RFC 3279, 2.2.3).
    ///
    /// # Errors
    /// [`Kind::Usage`] for an algorithm that the key does not have (InvalidKeyUsageException), or a message of another
    /// length than its type has; [`Kind::KeyUnavailable`] by the key's state.
    pub fn sign(&self, key: &KeyRef, what: ToSign<'_>, caller: &Caller) -> Result<(String, Vec<u8>)> {
        self.with_key("Sign", key, (KeyUsage::SignVerify, what.facts()), caller, |key, arn| {
            check_signing(key, "Sign", what.algorithm)?;
            caller.unless_dry_run("Sign")?;
            let signature = self.backing.current(key)?.0.sign(what.algorithm, what.message_type, what.message)?;
            Ok((arn.to_owned(), signature))
        })
    }

    /// Verifies a signature with a key's public key. Returns the key's ARN.
    ///
    /// # Errors
    /// As [`Crypto::sign`]; [`Kind::InvalidCiphertext`] (KMSInvalidSignatureException) for a signature that is not valid.
    pub fn verify(&self, key: &KeyRef, what: ToSign<'_>, signature: &[u8], caller: &Caller) -> Result<String> {
        self.with_key("Verify", key, (KeyUsage::SignVerify, what.facts()), caller, |key, arn| {
            check_signing(key, "Verify", what.algorithm)?;
            caller.unless_dry_run("Verify")?;
            let ToSign { algorithm, message_type, message } = what;
            match keys::verify(key.spec, &public_of(key)?, algorithm, message_type, message, signature)? {
                true => Ok(arn.to_owned()),
                false => Err(Error::new(Kind::InvalidCiphertext, "Verify: the signature is not valid")
                    .reason(Reason::InvalidSignature)),
            }
        })
    }

    /// The public key of a pair.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a key that is no pair; as for any use of the key.
    pub fn public_key(&self, key: &KeyRef, caller: &Caller) -> Result<PublicKey> {
        let name = self.store.resolve(key)?;
        let act = Act::new("kms:GetPublicKey").key(self.scope.arn_of(&name));
        let found = || {
            let record = self.store.load(&name)?.record;
            let context = EncryptionContext::new();
            self.authorizer.authorize(
                &record,
                Wanted { action: "GetPublicKey", context: &context, grant: None, facts: Some(&key.facts()) },
                caller,
            )?;
            if record.spec.is_symmetric() || record.manager == KeyManager::Aws {
                let what = format!("GetPublicKey: key {} has no public key", self.scope.arn_of(&name));
                return Err(Error::new(Kind::Unsupported, what));
            }
            self.keys.check_usable(&record, "GetPublicKey")?;
            Ok(PublicKey { der: public_of(&record)?, key: self.keys.metadata(&record)? })
        };
        self.used(caller, act, found())
    }

    /// Agrees on a secret with the owner of another public key (SubjectPublicKeyInfo, DER): ECDH (NIST SP 800-56A),
    /// the x coordinate. Returns the key's ARN and the secret.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a public key that is invalid or of another curve; as for any use of the key.
    pub fn derive_shared_secret(
        &self,
        key: &KeyRef,
        algorithm: KeyAgreementAlgorithm,
        peer: &[u8],
        caller: &Caller,
    ) -> Result<(String, Plaintext)> {
        let verb = "DeriveSharedSecret";
        let facts = Facts::new().text(Key::KeyAgreementAlgorithm, algorithm.name());
        self.with_key(verb, key, (KeyUsage::KeyAgreement, facts), caller, |key, arn| {
            if !key.spec.key_agreement_algorithms(key.usage).contains(&algorithm) {
                return Err(refuse(verb, key, algorithm));
            }
            caller.unless_dry_run(verb)?;
            Ok((arn.to_owned(), Plaintext(self.backing.current(key)?.0.agree(peer)?)))
        })
    }

    /// Makes the MAC of a message of 1 to 4096 bytes. Returns the key's ARN and the MAC.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an algorithm that the key does not have (InvalidKeyUsageException); as for any use of the key.
    pub fn mac(
        &self,
        key: &KeyRef,
        algorithm: MacAlgorithm,
        message: &[u8],
        caller: &Caller,
    ) -> Result<(String, Vec<u8>)> {
        let facts = Facts::new().text(Key::MacAlgorithm, algorithm.name());
        self.with_key("GenerateMac", key, (KeyUsage::GenerateVerifyMac, facts), caller, |key, arn| {
            check_mac(key, "GenerateMac", algorithm)?;
            caller.unless_dry_run("GenerateMac")?;
            Ok((arn.to_owned(), self.backing.current(key)?.0.mac(algorithm, message)?))
        })
    }

    /// Verifies a MAC. Returns the key's ARN.
    ///
    /// # Errors
    /// As [`Crypto::mac`]; [`Kind::InvalidCiphertext`] (KMSInvalidMacException) for a MAC that is not valid.
    pub fn verify_mac(
        &self,
        key: &KeyRef,
        algorithm: MacAlgorithm,
        message: &[u8],
        mac: &[u8],
        caller: &Caller,
    ) -> Result<String> {
        let facts = Facts::new().text(Key::MacAlgorithm, algorithm.name());
        self.with_key("VerifyMac", key, (KeyUsage::GenerateVerifyMac, facts), caller, |key, arn| {
            check_mac(key, "VerifyMac", algorithm)?;
            caller.unless_dry_run("VerifyMac")?;
            match self.backing.current(key)?.0.verify_mac(algorithm, message, mac)? {
                true => Ok(arn.to_owned()),
                false => {
                    let err = Error::new(Kind::InvalidCiphertext, "VerifyMac: the MAC is not valid");
                    Err(err.reason(Reason::InvalidMac))
                }
            }
        })
    }

    /// Makes a key pair for the caller's own use: its private key (PKCS #8, DER) in clear and wrapped, and its public key.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`].
    pub fn generate_data_key_pair(
        &self,
        key: &KeyRef,
        spec: DataKeyPairSpec,
        ctx: &EncryptionContext,
        caller: &Caller,
    ) -> Result<(Plaintext, Vec<u8>, Encrypted)> {
        let (pair, sealed) = self.pair("GenerateDataKeyPair", key, spec, ctx, caller)?;
        Ok((Plaintext(pair.private), pair.public, sealed))
    }

    /// The same without the private key in clear.
    ///
    /// # Errors
    /// As [`Crypto::encrypt`].
    pub fn generate_data_key_pair_without_plaintext(
        &self,
        key: &KeyRef,
        spec: DataKeyPairSpec,
        ctx: &EncryptionContext,
        caller: &Caller,
    ) -> Result<(Vec<u8>, Encrypted)> {
        let (pair, sealed) = self.pair("GenerateDataKeyPairWithoutPlaintext", key, spec, ctx, caller)?;
        Ok((pair.public, sealed))
    }

    fn pair(
        &self,
        verb: &str,
        key: &KeyRef,
        spec: DataKeyPairSpec,
        ctx: &EncryptionContext,
        caller: &Caller,
    ) -> Result<(DataKeyPair, Encrypted)> {
        let facts = Facts::new().text(Key::DataKeyPairSpec, spec.name());
        let (act, algorithm) = (Act::new(format!("kms:{verb}")), EncryptionAlgorithm::SymmetricDefault);
        // An RSA pair takes up to a second: not before the caller is known to be allowed.
        let pair = || keys::generate_pair(spec);
        self.seal_made(act, key, algorithm, (ctx, &facts), (pair, private_of), caller)
    }

    /// 1 to 1024 random bytes. Not authorized here ([`super::Authorizer::ask_own`]).
    ///
    /// # Errors
    /// [`Kind::Usage`] for another number; what the audit reports.
    pub fn random(&self, bytes: usize, caller: &Caller) -> Result<Plaintext> {
        if !(1..=1024).contains(&bytes) {
            let what = format!("GenerateRandom: the number of bytes must be 1 to 1024, not {bytes}");
            return Err(Error::new(Kind::Usage, what));
        }
        self.used(caller, Act::new("kms:GenerateRandom"), Ok(Plaintext(random_bytes(bytes))))
    }
}

fn private_of(pair: &DataKeyPair) -> &[u8] {
    &pair.private
}

fn check_signing(key: &KeyRecord, verb: &str, algorithm: SigningAlgorithm) -> Result<()> {
    match key.spec.signing_algorithms(key.usage).contains(&algorithm) {
        true => Ok(()),
        false => Err(refuse(verb, key, algorithm)),
    }
}

fn check_mac(key: &KeyRecord, verb: &str, algorithm: MacAlgorithm) -> Result<()> {
    match key.spec.mac_algorithms(key.usage).contains(&algorithm) {
        true => Ok(()),
        false => Err(refuse(verb, key, algorithm)),
    }
}
