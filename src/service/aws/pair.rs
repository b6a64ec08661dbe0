//! Key pairs and HMAC keys.

use super::crypto::{Pairs, context, no_recipient};
use super::operation::{At, AwsOperation};
use super::values::{Bytes, word};
use crate::cipher::keys::{
    DataKeyPairSpec, EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MAX_MESSAGE, MacAlgorithm,
    MessageType, SigningAlgorithm,
};
use crate::error::Result;
use crate::kms::{Origin, ToSign};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest signature, MAC or public key of a request, bytes.
const MAX_PROOF: usize = 6144;

/// Sign.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Sign {
    key_id: String,
    message: Bytes,
    message_type: Option<String>,
    signing_algorithm: String,
}

/// A signature.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SignOutput {
    key_id: String,
    signature: Bytes,
    signing_algorithm: SigningAlgorithm,
}

fn message_type(text: Option<&str>) -> Result<MessageType> {
    Ok(text.map(|t| word(t, "messageType", MessageType::NAMES)).transpose()?.unwrap_or(MessageType::Raw))
}

fn signing(text: &str) -> Result<SigningAlgorithm> {
    word(text, "signingAlgorithm", SigningAlgorithm::NAMES)
}

impl AwsOperation for Sign {
    type Output = SignOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<SignOutput> {
        let (key, algorithm) = (at.key(&self.key_id)?, signing(&self.signing_algorithm)?);
        let message_type = message_type(self.message_type.as_deref())?;
        let what = ToSign { algorithm, message_type, message: self.message.up_to(MAX_MESSAGE, "message")? };
        let (key_id, signature) = at.service.kms.crypto().sign(&key, what, at.caller)?;
        Ok(SignOutput { key_id, signature: Bytes::of(&signature), signing_algorithm: algorithm })
    }
}

/// Verify.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Verify {
    key_id: String,
    message: Bytes,
    message_type: Option<String>,
    signature: Bytes,
    signing_algorithm: String,
}

/// A valid signature.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyOutput {
    key_id: String,
    signature_valid: bool,
    signing_algorithm: SigningAlgorithm,
}

impl AwsOperation for Verify {
    type Output = VerifyOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<VerifyOutput> {
        let (key, algorithm) = (at.key(&self.key_id)?, signing(&self.signing_algorithm)?);
        let message_type = message_type(self.message_type.as_deref())?;
        let what = ToSign { algorithm, message_type, message: self.message.up_to(MAX_MESSAGE, "message")? };
        let signature = self.signature.up_to(MAX_PROOF, "signature")?;
        let key_id = at.service.kms.crypto().verify(&key, what, signature, at.caller)?;
        Ok(VerifyOutput { key_id, signature_valid: true, signing_algorithm: algorithm })
    }
}

/// GetPublicKey.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GetPublicKey {
    key_id: String,
}

/// A public key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PublicKeyOutput {
    key_id: String,
    public_key: Bytes,
    customer_master_key_spec: KeySpec,
    key_spec: KeySpec,
    key_usage: KeyUsage,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    encryption_algorithms: &'static [EncryptionAlgorithm],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    signing_algorithms: &'static [SigningAlgorithm],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    key_agreement_algorithms: &'static [KeyAgreementAlgorithm],
}

impl AwsOperation for GetPublicKey {
    type Output = PublicKeyOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<PublicKeyOutput> {
        let found = at.service.kms.crypto().public_key(&at.key(&self.key_id)?, at.caller)?;
        let (spec, usage) = (found.key.key_spec, found.key.key_usage);
        Ok(PublicKeyOutput {
            key_id: found.key.arn,
            public_key: Bytes::of(&found.der),
            customer_master_key_spec: spec,
            key_spec: spec,
            key_usage: usage,
            encryption_algorithms: spec.encryption_algorithms(usage),
            signing_algorithms: spec.signing_algorithms(usage),
            key_agreement_algorithms: spec.key_agreement_algorithms(usage),
        })
    }
}

/// DeriveSharedSecret.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DeriveSharedSecret {
    key_id: String,
    key_agreement_algorithm: String,
    public_key: Bytes,
    recipient: Option<Value>,
}

/// A secret that two owners of pairs have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SharedSecretOutput {
    key_id: String,
    shared_secret: Bytes,
    key_agreement_algorithm: KeyAgreementAlgorithm,
    key_origin: Origin,
}

impl AwsOperation for DeriveSharedSecret {
    type Output = SharedSecretOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<SharedSecretOutput> {
        no_recipient("DeriveSharedSecret", self.recipient.as_ref())?;
        let key = at.key(&self.key_id)?;
        let algorithm = word(&self.key_agreement_algorithm, "keyAgreementAlgorithm", KeyAgreementAlgorithm::NAMES)?;
        let peer = self.public_key.up_to(8192, "publicKey")?;
        let (key_id, secret) = at.service.kms.crypto().derive_shared_secret(&key, algorithm, peer, at.caller)?;
        Ok(SharedSecretOutput {
            key_id,
            shared_secret: Bytes::of(secret.expose()),
            key_agreement_algorithm: algorithm,
            key_origin: at.service.kms.keys().describe(&key)?.origin,
        })
    }
}

/// GenerateMac.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateMac {
    message: Bytes,
    key_id: String,
    mac_algorithm: String,
}

/// A MAC.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MacOutput {
    mac: Bytes,
    mac_algorithm: MacAlgorithm,
    key_id: String,
}

fn mac_algorithm(text: &str) -> Result<MacAlgorithm> {
    word(text, "macAlgorithm", MacAlgorithm::NAMES)
}

impl AwsOperation for GenerateMac {
    type Output = MacOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<MacOutput> {
        let (key, algorithm) = (at.key(&self.key_id)?, mac_algorithm(&self.mac_algorithm)?);
        let message = self.message.up_to(MAX_MESSAGE, "message")?;
        let (key_id, mac) = at.service.kms.crypto().mac(&key, algorithm, message, at.caller)?;
        Ok(MacOutput { mac: Bytes::of(&mac), mac_algorithm: algorithm, key_id })
    }
}

/// VerifyMac.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct VerifyMac {
    message: Bytes,
    key_id: String,
    mac_algorithm: String,
    mac: Bytes,
}

/// A valid MAC.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyMacOutput {
    key_id: String,
    mac_valid: bool,
    mac_algorithm: MacAlgorithm,
}

impl AwsOperation for VerifyMac {
    type Output = VerifyMacOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<VerifyMacOutput> {
        let (key, algorithm) = (at.key(&self.key_id)?, mac_algorithm(&self.mac_algorithm)?);
        let (message, mac) = (self.message.up_to(MAX_MESSAGE, "message")?, self.mac.up_to(MAX_PROOF, "mac")?);
        let key_id = at.service.kms.crypto().verify_mac(&key, algorithm, message, mac, at.caller)?;
        Ok(VerifyMacOutput { key_id, mac_valid: true, mac_algorithm: algorithm })
    }
}

/// A new data key pair.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PairOutput {
    private_key_ciphertext_blob: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_plaintext: Option<Bytes>,
    public_key: Bytes,
    key_id: String,
    key_pair_spec: DataKeyPairSpec,
    key_material_id: String,
}

/// GenerateDataKeyPair.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateDataKeyPair {
    encryption_context: Option<Pairs>,
    key_id: String,
    key_pair_spec: String,
    recipient: Option<Value>,
}

fn pair_spec(text: &str) -> Result<DataKeyPairSpec> {
    word(text, "keyPairSpec", DataKeyPairSpec::NAMES)
}

impl AwsOperation for GenerateDataKeyPair {
    type Output = PairOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<PairOutput> {
        no_recipient("GenerateDataKeyPair", self.recipient.as_ref())?;
        let (key, spec) = (at.key(&self.key_id)?, pair_spec(&self.key_pair_spec)?);
        let context = context(self.encryption_context.as_ref())?;
        let (private, public, sealed) =
            at.service.kms.crypto().generate_data_key_pair(&key, spec, &context, at.caller)?;
        Ok(PairOutput {
            private_key_ciphertext_blob: Bytes::of(&sealed.blob),
            private_key_plaintext: Some(Bytes::of(private.expose())),
            public_key: Bytes::of(&public),
            key_id: sealed.key_arn,
            key_pair_spec: spec,
            key_material_id: sealed.key_material_id,
        })
    }
}

/// GenerateDataKeyPairWithoutPlaintext.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GenerateDataKeyPairWithoutPlaintext {
    encryption_context: Option<Pairs>,
    key_id: String,
    key_pair_spec: String,
}

impl AwsOperation for GenerateDataKeyPairWithoutPlaintext {
    type Output = PairOutput;
    const TAKES_ALIASES: bool = true;
    const TAKES_DRY_RUN: bool = true;
    const TAKES_GRANT_TOKENS: bool = true;
    fn perform(self, at: &At<'_>) -> Result<PairOutput> {
        let (key, spec) = (at.key(&self.key_id)?, pair_spec(&self.key_pair_spec)?);
        let context = context(self.encryption_context.as_ref())?;
        let crypto = at.service.kms.crypto();
        let (public, sealed) = crypto.generate_data_key_pair_without_plaintext(&key, spec, &context, at.caller)?;
        Ok(PairOutput {
            private_key_ciphertext_blob: Bytes::of(&sealed.blob),
            private_key_plaintext: None,
            public_key: Bytes::of(&public),
            key_id: sealed.key_arn,
            key_pair_spec: spec,
            key_material_id: sealed.key_material_id,
        })
    }
}
