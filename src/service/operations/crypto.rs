//! Cryptographic operations on CMKs. Plaintexts and blobs travel as hexadecimal.

use super::{Authorization, Call, Operation, on_key};
use crate::error::{Error, Kind, Result};
use crate::kms::{DataKeySpec, Encrypted};
use crate::ledger::Act;
use crate::service::api::{CryptoInfo, Plain};
use crate::service::context_of;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Encrypts 1 to 4096 bytes under a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// The CMK: id, ARN or alias.
    pub key: String,
    /// The plaintext.
    pub plaintext: Plain,
    /// Encryption context, which Decrypt must also be given.
    pub context: BTreeMap<String, String>,
}

impl Operation for Encrypt {
    type Answer = CryptoInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "Encrypt", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<CryptoInfo> {
        let (key, context) = (call.key(&self.key)?, context_of(&self.context)?);
        let made = call.service.kms.crypto().encrypt(&key, &context, &self.plaintext.bytes()?, call.caller)?;
        Ok(encrypted(made, None))
    }
}

/// Decrypts a blob from Encrypt, GenerateDataKey or ReEncrypt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// If set, the CMK that the blob must have been made under.
    pub key: Option<String>,
    /// The ciphertext blob.
    pub blob: String,
    /// The encryption context of the blob.
    pub context: BTreeMap<String, String>,
}

impl Operation for Decrypt {
    type Answer = CryptoInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(self.key.as_ref().map_or_else(|| Act::new("kms:Decrypt"), |key| on_key(call, "Decrypt", key)))
    }
    fn perform(self, call: Call<'_>) -> Result<CryptoInfo> {
        let key = self.key.as_deref().map(|key| call.key(key)).transpose()?;
        let (blob, context) = (blob_of(&self.blob)?, context_of(&self.context)?);
        let opened = call.service.kms.crypto().decrypt(&blob, &context, key.as_ref(), call.caller)?;
        let plaintext = Some(Plain::of(opened.plaintext.expose()));
        Ok(CryptoInfo { key: opened.key_arn, key_material_id: opened.key_material_id, blob: None, plaintext })
    }
}

/// Re-encrypts a blob under another CMK, or under the newest backing key of the same one. The plaintext stays in the KMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReEncrypt {
    /// The CMK to re-encrypt under: id, ARN or alias.
    pub key: String,
    /// The ciphertext blob.
    pub blob: String,
    /// The encryption context of the old blob.
    pub context: BTreeMap<String, String>,
    /// The encryption context of the new blob.
    pub new_context: BTreeMap<String, String>,
}

impl Operation for ReEncrypt {
    type Answer = CryptoInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        Some(on_key(call, "ReEncryptTo", &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<CryptoInfo> {
        let (from, to) = (context_of(&self.context)?, context_of(&self.new_context)?);
        let (blob, key) = (blob_of(&self.blob)?, call.key(&self.key)?);
        let made = call.service.kms.crypto().re_encrypt(&blob, (&from, None), (&to, &key), call.caller)?;
        Ok(encrypted(made, None))
    }
}

/// Generates a data key for the caller's own use: wrapped, and also in clear if requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateDataKey {
    /// The CMK that wraps it: id, ARN or alias.
    pub key: String,
    /// Its length in bytes, 1 to 1024.
    pub bytes: u16,
    /// Whether to return the clear form, too.
    pub plaintext: bool,
    /// Encryption context, which Decrypt must also be given.
    pub context: BTreeMap<String, String>,
}

impl Operation for GenerateDataKey {
    type Answer = CryptoInfo;
    const AUTHORIZATION: Authorization = Authorization::KeyPolicy;
    fn act(&self, call: &Call<'_>) -> Option<Act> {
        let operation = if self.plaintext { "GenerateDataKey" } else { "GenerateDataKeyWithoutPlaintext" };
        Some(on_key(call, operation, &self.key))
    }
    fn perform(self, call: Call<'_>) -> Result<CryptoInfo> {
        let (kms, spec) = (&call.service.kms, DataKeySpec::Bytes(self.bytes));
        let (key, context) = (call.key(&self.key)?, context_of(&self.context)?);
        if !self.plaintext {
            let made = kms.crypto().generate_data_key_without_plaintext(&key, spec, &context, call.caller)?;
            return Ok(encrypted(made, None));
        }
        let (clear, made) = kms.crypto().generate_data_key(&key, spec, &context, call.caller)?;
        Ok(encrypted(made, Some(Plain::of(clear.expose()))))
    }
}

fn encrypted(made: Encrypted, plaintext: Option<Plain>) -> CryptoInfo {
    let blob = Some(hex::encode(made.blob));
    CryptoInfo { key: made.key_arn, key_material_id: made.key_material_id, blob, plaintext }
}

fn blob_of(hexadecimal: &str) -> Result<Vec<u8>> {
    hex::decode(hexadecimal).map_err(|_| Error::new(Kind::InvalidCiphertext, "the ciphertext blob is not hexadecimal"))
}
