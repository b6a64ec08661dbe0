//! What Sign and Verify are given, checked and hashed: the part that both have in common.

use super::spec::{KeySpec, KeyUsage, MessageType, SigningAlgorithm};
use crate::error::{Error, Kind, Result};
use aws_lc_rs::digest::{self, Digest};

/// Size limits of a message, in bytes (KMS API Reference, Sign: Message).
pub const MAX_MESSAGE: usize = 4096;
/// Size of the message representative of ML-DSA, in bytes (FIPS 204, 6.2).
pub const MU: usize = 64;

/// A message in the form in which the key's algorithm takes it.
pub(super) enum Input<'a> {
    /// The digest that RSA or ECDSA signs.
    Digest(Digest),
    /// The message of Ed25519 or ML-DSA.
    Message(&'a [u8]),
    /// The message of Ed25519ph, not hashed yet.
    Prehash(&'a [u8]),
    /// The message representative of ML-DSA.
    Mu(&'a [u8; MU]),
}

/// Returns the hash of an algorithm that signs digests.
fn hash(alg: SigningAlgorithm) -> Option<&'static digest::Algorithm> {
    use SigningAlgorithm as Alg;
    match alg {
        Alg::RsassaPssSha256 | Alg::RsassaPkcs1V15Sha256 | Alg::EcdsaSha256 => Some(&digest::SHA256),
        Alg::RsassaPssSha384 | Alg::RsassaPkcs1V15Sha384 | Alg::EcdsaSha384 => Some(&digest::SHA384),
        Alg::RsassaPssSha512 | Alg::RsassaPkcs1V15Sha512 | Alg::EcdsaSha512 => Some(&digest::SHA512),
        Alg::Ed25519Sha512 | Alg::Ed25519PhSha512 | Alg::MlDsaShake256 => None,
    }
}

/// Checks that a key of `spec` has the algorithm, the algorithm the message type, and the message its length.
///
/// AWS hashes the digest that ED25519_PH_SHA_512 takes once more (KMS API Reference, Sign: MessageType): the caller's
/// 64 bytes are the message of Ed25519ph, and so they are here.
pub(super) fn input(
    spec: KeySpec,
    alg: SigningAlgorithm,
    message_type: MessageType,
    message: &[u8],
) -> Result<Input<'_>> {
    if !spec.signing_algorithms(KeyUsage::SignVerify).contains(&alg) {
        return Err(Error::new(Kind::Usage, format!("a key of spec {spec} does not sign with {alg}")));
    }
    match (alg, message_type) {
        (SigningAlgorithm::Ed25519PhSha512, MessageType::Digest) => {
            fits(message, digest::SHA512.output_len(), alg).map(Input::Prehash)
        }
        (SigningAlgorithm::Ed25519Sha512 | SigningAlgorithm::MlDsaShake256, MessageType::Raw) => {
            raw(message).map(Input::Message)
        }
        (SigningAlgorithm::MlDsaShake256, MessageType::ExternalMu) => {
            let mu = message.try_into().map_err(|_| length(MU, message.len(), alg))?;
            Ok(Input::Mu(mu))
        }
        _ => match (hash(alg), message_type) {
            (Some(hash), MessageType::Raw) => Ok(Input::Digest(digest::digest(hash, raw(message)?))),
            (Some(hash), MessageType::Digest) => {
                let wrong = |_| length(hash.output_len(), message.len(), alg);
                Digest::import_less_safe(message, hash).map_err(wrong).map(Input::Digest)
            }
            _ => Err(Error::new(Kind::Usage, format!("{alg} does not take a message of type {message_type}"))),
        },
    }
}

/// Returns a message whose length is in AWS's limits.
fn raw(message: &[u8]) -> Result<&[u8]> {
    if message.is_empty() || message.len() > MAX_MESSAGE {
        let what = format!("a message of {} bytes cannot be signed: it must have 1 to {MAX_MESSAGE}", message.len());
        return Err(Error::new(Kind::Usage, what).hint("hash a longer message and sign its digest"));
    }
    Ok(message)
}

fn fits(message: &[u8], want: usize, alg: SigningAlgorithm) -> Result<&[u8]> {
    if message.len() == want { Ok(message) } else { Err(length(want, message.len(), alg)) }
}

fn length(want: usize, have: usize, alg: SigningAlgorithm) -> Error {
    Error::new(Kind::Usage, format!("{alg} takes a digest of {want} bytes, not of {have}"))
}
