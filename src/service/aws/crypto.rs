//! Encrypting, decrypting, and data keys.

use super::operation::{At, AwsOperation};
use super::values::{Bytes, invalid, missing, word};
use crate::cipher::keys::EncryptionAlgorithm;
use crate::cipher::wrap::{EncryptionContext, MAX_BLOB, MAX_PLAINTEXT};
use crate::error::{Error, Kind, Result};
use crate::kms::{Ciphertext, DataKeySpec};
use crate::service::context_of;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Pairs of an encryption context.
pub(super) type Pairs = BTreeMap<String, String>;

pub(super) fn algorithm(text: Option<&str>, member: &str) -> Result<EncryptionAlgorithm> {
    let named = text.map(|a| word(a, member, EncryptionAlgorithm::NAMES)).transpose()?;
    Ok(named.unwrap_or(EncryptionAlgorithm::SymmetricDefault))
}

/// The encryption context of a request.
pub(super) fn context(pairs: Option<&Pairs>) -> Result<EncryptionContext> {
    pairs.map_or_else(|| Ok(EncryptionContext::new()), context_of)
}

/// Refuses a recipient: an enclave that attests itself.
pub(super) fn no_recipient(verb: &str, recipient: Option<&Value>) -> Result<()> {
    match recipient {
        None => Ok(()),
        Some(_) => {
            let what = format!("{verb}: Recipient (an attested enclave) is not supported");
            Err(Error::new(Kind::Unsupported, what).hint("send the request without Recipient"))
        }
    }
}

/// Encrypt.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Encrypt {
    key_id: String,
    plaintext: Bytes,
    encryption_context: Option<Pairs>,
    encryption_algorithm: Option<String>,
}

/// A ciphertext.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EncryptOutput {
    ciphertext_blob: Bytes,
    key_id: String,
    encryption_algorithm: EncryptionAlgorithm,
}

impl AwsOperation for Encrypt {
    type Output = EncryptOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<EncryptOutput> {
        let (key, context) = (at.key(&self.key_id)?, context(self.encryption_context.as_ref())?);
        let algorithm = algorithm(self.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        let plain = self.plaintext.up_to(MAX_PLAINTEXT, "plaintext")?;
        let made = at.service.kms.crypto().encrypt_with(&key, algorithm, &context, plain, at.caller)?;
        Ok(EncryptOutput {
            ciphertext_blob: Bytes::of(&made.blob),
            key_id: made.key_arn,
            encryption_algorithm: algorithm,
        })
    }
}

/// Decrypt.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Decrypt {
    ciphertext_blob: Option<Bytes>,
    encryption_context: Option<Pairs>,
    key_id: Option<String>,
    encryption_algorithm: Option<String>,
    recipient: Option<Value>,
    dry_run_modifiers: Option<Value>,
}

/// A plaintext.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DecryptOutput {
    key_id: String,
    plaintext: Bytes,
    encryption_algorithm: EncryptionAlgorithm,
    #[serde(skip_serializing_if = "String::is_empty")]
    key_material_id: String,
}

impl AwsOperation for Decrypt {
    type Output = DecryptOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<DecryptOutput> {
        no_recipient("Decrypt", self.recipient.as_ref())?;
        no_modifiers("Decrypt", self.dry_run_modifiers.as_ref())?;
        let context = context(self.encryption_context.as_ref())?;
        let key = self.key_id.as_deref().map(|key| at.key(key)).transpose()?;
        let algorithm = algorithm(self.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        let blob = self.ciphertext_blob.ok_or_else(|| missing("ciphertextBlob"))?;
        let bytes = blob.up_to(MAX_BLOB, "ciphertextBlob")?;
        let from = Ciphertext { bytes, context: &context, key: key.as_ref(), algorithm };
        let opened = at.service.kms.crypto().decrypt_with(&from, at.caller)?;
        Ok(DecryptOutput {
            key_id: opened.key_arn,
            plaintext: Bytes::of(opened.plaintext.expose()),
            encryption_algorithm: algorithm,
            key_material_id: opened.key_material_id,
        })
    }
}

/// Refuses what AWS added to dry runs: checking without the ciphertext.
fn no_modifiers(verb: &str, modifiers: Option<&Value>) -> Result<()> {
    match modifiers {
        None => Ok(()),
        Some(Value::Array(none)) if none.is_empty() => Ok(()),
        Some(_) => Err(Error::new(Kind::Unsupported, format!("{verb}: DryRunModifiers is not supported"))),
    }
}

/// ReEncrypt.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ReEncrypt {
    ciphertext_blob: Option<Bytes>,
    source_encryption_context: Option<Pairs>,
    source_key_id: Option<String>,
    destination_key_id: String,
    destination_encryption_context: Option<Pairs>,
    source_encryption_algorithm: Option<String>,
    destination_encryption_algorithm: Option<String>,
    dry_run_modifiers: Option<Value>,
}

/// A ciphertext that was decrypted and encrypted again.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncryptOutput {
    ciphertext_blob: Bytes,
    source_key_id: String,
    key_id: String,
    source_encryption_algorithm: EncryptionAlgorithm,
    destination_encryption_algorithm: EncryptionAlgorithm,
    #[serde(skip_serializing_if = "String::is_empty")]
    source_key_material_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    destination_key_material_id: String,
}

impl AwsOperation for ReEncrypt {
    type Output = ReEncryptOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<ReEncryptOutput> {
        no_modifiers("ReEncrypt", self.dry_run_modifiers.as_ref())?;
        let source = algorithm(self.source_encryption_algorithm.as_deref(), "sourceEncryptionAlgorithm")?;
        let destination =
            algorithm(self.destination_encryption_algorithm.as_deref(), "destinationEncryptionAlgorithm")?;
        let from_context = context(self.source_encryption_context.as_ref())?;
        let to_context = context(self.destination_encryption_context.as_ref())?;
        let key = self.source_key_id.as_deref().map(|key| at.key(key)).transpose()?;
        let to = at.key(&self.destination_key_id)?;
        let blob = self.ciphertext_blob.ok_or_else(|| missing("ciphertextBlob"))?;
        let bytes = blob.up_to(MAX_BLOB, "ciphertextBlob")?;
        let from = Ciphertext { bytes, context: &from_context, key: key.as_ref(), algorithm: source };
        let (old, made) = at.service.kms.crypto().re_encrypt_with(&from, (&to_context, &to, destination), at.caller)?;
        Ok(ReEncryptOutput {
            ciphertext_blob: Bytes::of(&made.blob),
            source_key_id: old.0,
            key_id: made.key_arn,
            source_encryption_algorithm: source,
            destination_encryption_algorithm: destination,
            source_key_material_id: old.1,
            destination_key_material_id: made.key_material_id,
        })
    }
}

/// The length of a data key: exactly one of the two says it.
fn length(spec: Option<&str>, bytes: Option<i64>) -> Result<DataKeySpec> {
    match (spec, bytes) {
        (Some("AES_128"), None) => Ok(DataKeySpec::Aes128),
        (Some("AES_256"), None) => Ok(DataKeySpec::Aes256),
        (Some(other), None) => Err(invalid("keySpec", other, "Member must satisfy enum value set: [AES_256, AES_128]")),
        (None, Some(n)) => match u16::try_from(n).ok().filter(|n| (1..=1024).contains(n)) {
            Some(n) => Ok(DataKeySpec::Bytes(n)),
            None => {
                let end = if n < 1 { "greater than or equal to 1" } else { "less than or equal to 1024" };
                Err(invalid("numberOfBytes", &n.to_string(), &format!("Member must have value {end}")))
            }
        },
        _ => Err(Error::new(Kind::Usage, "Please specify either number of bytes or key spec.")),
    }
}

/// GenerateDataKey.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateDataKey {
    key_id: String,
    encryption_context: Option<Pairs>,
    number_of_bytes: Option<i64>,
    key_spec: Option<String>,
    recipient: Option<Value>,
}

/// A data key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataKeyOutput {
    ciphertext_blob: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<Bytes>,
    key_id: String,
    key_material_id: String,
}

impl AwsOperation for GenerateDataKey {
    type Output = DataKeyOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<DataKeyOutput> {
        no_recipient("GenerateDataKey", self.recipient.as_ref())?;
        let (key, context) = (at.key(&self.key_id)?, context(self.encryption_context.as_ref())?);
        let spec = length(self.key_spec.as_deref(), self.number_of_bytes)?;
        let (clear, made) = at.service.kms.crypto().generate_data_key(&key, spec, &context, at.caller)?;
        Ok(DataKeyOutput {
            ciphertext_blob: Bytes::of(&made.blob),
            plaintext: Some(Bytes::of(clear.expose())),
            key_id: made.key_arn,
            key_material_id: made.key_material_id,
        })
    }
}

/// GenerateDataKeyWithoutPlaintext.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateDataKeyWithoutPlaintext {
    key_id: String,
    encryption_context: Option<Pairs>,
    key_spec: Option<String>,
    number_of_bytes: Option<i64>,
}

impl AwsOperation for GenerateDataKeyWithoutPlaintext {
    type Output = DataKeyOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<DataKeyOutput> {
        let (key, context) = (at.key(&self.key_id)?, context(self.encryption_context.as_ref())?);
        let spec = length(self.key_spec.as_deref(), self.number_of_bytes)?;
        let made = at.service.kms.crypto().generate_data_key_without_plaintext(&key, spec, &context, at.caller)?;
        Ok(DataKeyOutput {
            ciphertext_blob: Bytes::of(&made.blob),
            plaintext: None,
            key_id: made.key_arn,
            key_material_id: made.key_material_id,
        })
    }
}
