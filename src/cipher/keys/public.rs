//! Public keys: verify and encrypt with a SubjectPublicKeyInfo, as GetPublicKey returns it.

use super::der::public_key;
use super::message::{Input, MU, input};
use super::private::oaep;
use super::spec::{EncryptionAlgorithm, KeySpec, MessageType, SigningAlgorithm};
use crate::error::{Error, Kind, Result};
use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};

/// Whether `signature` is one of the message by the key's holder. Messages are those of
/// [`PrivateKey::sign`](super::PrivateKey::sign).
///
/// # Errors
/// [`Kind::Usage`] if the key is not a public key of `spec`, does not have the algorithm, or the algorithm does not take
/// the message. A malformed signature is not an error but wrong.
pub fn verify(
    spec: KeySpec,
    spki_der: &[u8],
    alg: SigningAlgorithm,
    message_type: MessageType,
    message: &[u8],
    signature: &[u8],
) -> Result<bool> {
    let input = input(spec, alg, message_type, message)?;
    let (key, bare) = verification(spec, alg).and_then(|v| parse(spec, spki_der, v)).ok_or_else(|| not_a_key(spec))?;
    Ok(match &input {
        Input::Digest(digest) => key.verify_digest_sig(digest, signature).is_ok(),
        Input::Message(message) => key.verify_sig(message, signature).is_ok(),
        Input::Prehash(message) => verify_ed25519ph(&bare, message, signature),
        Input::Mu(mu) => verify_mu(spec, &bare, mu, signature),
    })
}

/// Encrypts with RSAES-OAEP, without a label. See [`max_plaintext`] for how much.
///
/// # Errors
/// [`Kind::Usage`] if the key is not a public key of `spec` or does not have the algorithm, or if the plaintext is empty
/// or too long.
pub fn encrypt(spec: KeySpec, spki_der: &[u8], alg: EncryptionAlgorithm, plaintext: &[u8]) -> Result<Vec<u8>> {
    let (Some(oaep), Some(max)) = (oaep(alg), max_plaintext(spec, alg)) else {
        return Err(Error::new(Kind::Usage, format!("a key of spec {spec} does not encrypt with {alg}")));
    };
    if plaintext.is_empty() || plaintext.len() > max {
        let what = format!("{} bytes cannot be encrypted under {alg} and a key of spec {spec}", plaintext.len());
        return Err(Error::new(Kind::Usage, what).hint(format!("encrypt 1 to {max} bytes")));
    }
    let key = rsa_key(spec, spki_der).ok_or_else(|| not_a_key(spec))?;
    let failed = |_| Error::new(Kind::Failed, format!("encrypt under a key of spec {spec}: the library failed"));
    let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
    let mut out = vec![0; key.ciphertext_size()];
    let len = key.encrypt(oaep, plaintext, &mut out, None).map_err(failed)?.len();
    out.truncate(len);
    Ok(out)
}

/// Returns how many bytes a key of `spec` can encrypt at most (KMS API Reference, Encrypt; RFC 8017, 7.1.1: the modulus
/// less two hashes and two bytes). `None` if it is not an RSA key, or the algorithm not one of RSA.
#[must_use]
pub const fn max_plaintext(spec: KeySpec, alg: EncryptionAlgorithm) -> Option<usize> {
    let hash = match alg {
        EncryptionAlgorithm::RsaesOaepSha1 => 20,
        EncryptionAlgorithm::RsaesOaepSha256 => 32,
        EncryptionAlgorithm::SymmetricDefault => return None,
    };
    match spec.modulus_bits() {
        Some(bits) => Some(bits / 8 - 2 * hash - 2),
        None => None,
    }
}

fn not_a_key(spec: KeySpec) -> Error {
    Error::new(Kind::Usage, format!("the key is not a public key of spec {spec} in SubjectPublicKeyInfo DER"))
}

/// Returns how AWS-LC verifies a signature of `alg` by a key of `spec`.
fn verification(spec: KeySpec, alg: SigningAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
    use SigningAlgorithm as Alg;
    Some(match (alg, spec) {
        (Alg::RsassaPssSha256, _) => &signature::RSA_PSS_2048_8192_SHA256,
        (Alg::RsassaPssSha384, _) => &signature::RSA_PSS_2048_8192_SHA384,
        (Alg::RsassaPssSha512, _) => &signature::RSA_PSS_2048_8192_SHA512,
        (Alg::RsassaPkcs1V15Sha256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (Alg::RsassaPkcs1V15Sha384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Alg::RsassaPkcs1V15Sha512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (Alg::EcdsaSha256, KeySpec::EccNistP256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Alg::EcdsaSha256, KeySpec::EccSecgP256k1) => &signature::ECDSA_P256K1_SHA256_ASN1,
        (Alg::EcdsaSha384, KeySpec::EccNistP384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Alg::EcdsaSha512, KeySpec::EccNistP521) => &signature::ECDSA_P521_SHA512_ASN1,
        (Alg::Ed25519Sha512 | Alg::Ed25519PhSha512, KeySpec::EccNistEdwards25519) => &signature::ED25519,
        (Alg::MlDsaShake256, KeySpec::MlDsa44) => &signature::ML_DSA_44,
        (Alg::MlDsaShake256, KeySpec::MlDsa65) => &signature::ML_DSA_65,
        (Alg::MlDsaShake256, KeySpec::MlDsa87) => &signature::ML_DSA_87,
        _ => return None,
    })
}

/// Parses a SubjectPublicKeyInfo of `spec`, and returns the bare key too.
fn parse(
    spec: KeySpec,
    spki_der: &[u8],
    alg: &'static dyn VerificationAlgorithm,
) -> Option<(ParsedPublicKey, Vec<u8>)> {
    let bare = public_key(spki_der)?;
    if spec.is_rsa() {
        rsa_key(spec, spki_der)?;
    }
    Some((ParsedPublicKey::new(alg, spki_der).ok()?, bare))
}

fn rsa_key(spec: KeySpec, spki_der: &[u8]) -> Option<PublicEncryptingKey> {
    public_key(spki_der)?;
    let key = PublicEncryptingKey::from_der(spki_der).ok()?;
    (spec.modulus_bits() == Some(key.key_size_bits())).then_some(key)
}

/// Verifies Ed25519ph, without a context (RFC 8032, 5.1).
fn verify_ed25519ph(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use ed25519_dalek::{Digest as _, Sha512, Signature, VerifyingKey};
    let key = key.try_into().ok().and_then(|raw| VerifyingKey::from_bytes(raw).ok());
    let (Some(key), Ok(signature)) = (key, Signature::from_slice(signature)) else { return false };
    key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, &signature).is_ok()
}

fn verify_mu(spec: KeySpec, key: &[u8], mu: &[u8; MU], signature: &[u8]) -> bool {
    match spec {
        KeySpec::MlDsa44 => verify_mu_of::<ml_dsa::MlDsa44>(key, mu, signature),
        KeySpec::MlDsa65 => verify_mu_of::<ml_dsa::MlDsa65>(key, mu, signature),
        KeySpec::MlDsa87 => verify_mu_of::<ml_dsa::MlDsa87>(key, mu, signature),
        _ => false,
    }
}

fn verify_mu_of<P: ml_dsa::MlDsaParams>(key: &[u8], mu: &[u8; MU], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (key.try_into(), signature.try_into()) else { return false };
    let key = ml_dsa::VerifyingKey::<P>::decode(key);
    ml_dsa::Signature::<P>::decode(signature).is_some_and(|signature| key.verify_mu(&(*mu).into(), &signature))
}

#[cfg(test)]
#[path = "public_tests.rs"]
mod tests;
