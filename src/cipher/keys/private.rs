//! Private keys: generate, import and store them, sign, decrypt and agree with them.
//!
//! AWS-LC does it all, in constant time, except for two algorithms that its Rust interface lacks: Ed25519ph
//! (ed25519-dalek) and ML-DSA with an external μ (ml-dsa). See decision 0034.

use super::der::{is_one_sequence, public_key};
use super::message::{Input, MU, input};
use super::spec::{EncryptionAlgorithm, KeySpec, MessageType, SigningAlgorithm};
use crate::error::{Error, Kind, Result};
use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, PqdsaKeyPair, RsaEncoding, RsaKeyPair};
use aws_lc_rs::{agreement, error::Unspecified};
use std::fmt;
use zeroize::Zeroizing;

/// An asymmetric private key. Its library wipes it when it is dropped; `Debug` shows the spec alone.
pub struct PrivateKey {
    spec: KeySpec,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    MlDsa(PqdsaKeyPair),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, redacted)", self.spec)
    }
}

/// What a spec needs of AWS-LC.
enum Family {
    Rsa(KeySize),
    Ec(&'static signature::EcdsaSigningAlgorithm),
    Ed25519,
    MlDsa(&'static signature::PqdsaSigningAlgorithm),
}

impl Family {
    fn of(spec: KeySpec) -> Result<Self> {
        Ok(match spec {
            KeySpec::Rsa2048 => Self::Rsa(KeySize::Rsa2048),
            KeySpec::Rsa3072 => Self::Rsa(KeySize::Rsa3072),
            KeySpec::Rsa4096 => Self::Rsa(KeySize::Rsa4096),
            KeySpec::EccNistP256 => Self::Ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
            KeySpec::EccNistP384 => Self::Ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
            KeySpec::EccNistP521 => Self::Ec(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
            KeySpec::EccSecgP256k1 => Self::Ec(&signature::ECDSA_P256K1_SHA256_ASN1_SIGNING),
            KeySpec::EccNistEdwards25519 => Self::Ed25519,
            KeySpec::MlDsa44 => Self::MlDsa(&signature::ML_DSA_44_SIGNING),
            KeySpec::MlDsa65 => Self::MlDsa(&signature::ML_DSA_65_SIGNING),
            KeySpec::MlDsa87 => Self::MlDsa(&signature::ML_DSA_87_SIGNING),
            KeySpec::SymmetricDefault | KeySpec::Hmac224 | KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 => {
                return Err(Error::new(Kind::Usage, format!("a key of spec {spec} has no private key")));
            }
        })
    }
}

impl PrivateKey {
    /// Generates a key. RSA keys have the public exponent 65537 and take up to seconds.
    ///
    /// # Errors
    /// [`Kind::Usage`] if `spec` is not asymmetric.
    pub fn generate(spec: KeySpec) -> Result<Self> {
        let failed = |_| Error::new(Kind::Failed, format!("generate a key of spec {spec}: the library failed"));
        let pair = match Family::of(spec)? {
            Family::Rsa(size) => Pair::Rsa(RsaKeyPair::generate(size).map_err(failed)?),
            Family::Ec(alg) => Pair::Ec(EcdsaKeyPair::generate(alg).map_err(failed)?),
            Family::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            Family::MlDsa(alg) => Pair::MlDsa(PqdsaKeyPair::generate(alg).map_err(failed)?),
        };
        Ok(Self { spec, pair })
    }

    /// Opens a key in PKCS #8 (RFC 5208, RFC 5958), unencrypted DER. The key must be of `spec`, consistent, and without
    /// bytes after it. An ML-DSA key must include its seed (RFC 9881, 6): it cannot be stored otherwise.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is not such a key; what exactly is wrong with it is not told.
    pub fn from_pkcs8(spec: KeySpec, pkcs8: &[u8]) -> Result<Self> {
        let family = Family::of(spec)?;
        let pair = is_one_sequence(pkcs8).then(|| Pair::parse(&family, pkcs8)).flatten();
        let pair = pair.ok_or_else(|| {
            Error::new(Kind::Usage, format!("the key is not a private key of spec {spec} in PKCS #8 DER"))
        })?;
        Ok(Self { spec, pair })
    }

    /// Returns the key in PKCS #8 version 1, unencrypted DER; an ML-DSA key is its seed.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>> {
        let copy = |der: &[u8]| Zeroizing::new(der.to_vec());
        let der = match &self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map(|der| copy(der.as_ref())),
            Pair::Ec(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
            Pair::MlDsa(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
        };
        der.map_err(|_| self.failed("encode"))
    }

    /// Returns the key's spec.
    #[must_use]
    pub const fn spec(&self) -> KeySpec {
        self.spec
    }

    /// Returns the public key as SubjectPublicKeyInfo, DER (RFC 5280, 4.1; RFC 5480, RFC 8410, RFC 9881).
    ///
    /// # Errors
    /// [`Kind::Failed`] if the library fails.
    pub fn public_key_der(&self) -> Result<Vec<u8>> {
        let der: Result<PublicKeyX509Der<'_>, Unspecified> = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::Ec(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
            Pair::MlDsa(pair) => pair.public_key().as_der(),
        };
        der.map(|der| der.as_ref().to_vec()).map_err(|_| self.failed("encode"))
    }

    /// Signs a message: RAW of 1 to 4096 bytes; DIGEST as long as the algorithm's hash; EXTERNAL_MU of 64 bytes, for
    /// ML-DSA. ED25519_SHA_512 takes RAW only, ED25519_PH_SHA_512 takes DIGEST only and hashes it once more, as AWS
    /// does. ECDSA signatures are DER; the salt of PSS is as long as the hash.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the key does not have the algorithm, or the algorithm the message.
    pub fn sign(&self, alg: SigningAlgorithm, message_type: MessageType, message: &[u8]) -> Result<Vec<u8>> {
        let input = input(self.spec, alg, message_type, message)?;
        let signature = match (&self.pair, &input) {
            (Pair::Rsa(pair), Input::Digest(digest)) => sign_rsa(pair, alg, digest),
            (Pair::Ec(pair), Input::Digest(digest)) => pair.sign_digest(digest).map(|s| s.as_ref().to_vec()).ok(),
            (Pair::Ed25519(pair), Input::Message(message)) => pair.try_sign(message).map(|s| s.as_ref().to_vec()).ok(),
            (Pair::Ed25519(pair), Input::Prehash(message)) => sign_ed25519ph(pair, message),
            (Pair::MlDsa(pair), Input::Message(message)) => {
                let mut out = vec![0; pair.algorithm().signature_len()];
                pair.sign(message, &mut out).ok().map(|_| out)
            }
            (Pair::MlDsa(_), Input::Mu(mu)) => self.sign_mu(mu)?,
            _ => None,
        };
        signature.ok_or_else(|| self.failed("sign with"))
    }

    /// Decrypts RSAES-OAEP without a label.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the key does not have the algorithm, [`Kind::InvalidCiphertext`] for any fault of the
    /// ciphertext: nothing tells which.
    pub fn decrypt(&self, alg: EncryptionAlgorithm, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let oaep = oaep(alg).filter(|_| self.spec.is_rsa()).ok_or_else(|| {
            Error::new(Kind::Usage, format!("a key of spec {} does not decrypt with {alg}", self.spec))
        })?;
        open_oaep(&self.to_pkcs8()?, oaep, ciphertext)
            .ok_or_else(|| Error::new(Kind::InvalidCiphertext, format!("the ciphertext is not one of {alg}")))
    }

    /// Agrees on a secret with the holder of a public key, given as SubjectPublicKeyInfo: returns the x coordinate of
    /// the shared point, as long as the curve's field (ECDH, NIST SP 800-56A rev. 3, 5.7.1.2).
    ///
    /// # Errors
    /// [`Kind::Usage`] if this key cannot agree, or if the peer's is not a valid key on the same curve.
    pub fn agree(&self, peer_spki_der: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let alg = match self.spec {
            KeySpec::EccNistP256 => &agreement::ECDH_P256,
            KeySpec::EccNistP384 => &agreement::ECDH_P384,
            KeySpec::EccNistP521 => &agreement::ECDH_P521,
            spec => return Err(Error::new(Kind::Usage, format!("a key of spec {spec} does not agree on secrets"))),
        };
        let refused = || {
            let what = format!("the peer's key is not a public key of spec {} in SubjectPublicKeyInfo DER", self.spec);
            Error::new(Kind::Usage, what)
        };
        public_key(peer_spki_der).ok_or_else(refused)?;
        let private = agreement::PrivateKey::from_private_key_der(alg, &self.to_pkcs8()?)
            .map_err(|_| self.failed("agree with"))?;
        let peer = agreement::UnparsedPublicKey::new(alg, peer_spki_der);
        let peer = agreement::ParsedPublicKey::try_from(peer).map_err(|_| refused())?;
        if peer.format() != agreement::ParsedPublicKeyFormat::X509 {
            return Err(refused());
        }
        agreement::agree(&private, peer, refused(), |x| Ok(Zeroizing::new(x.to_vec())))
    }

    /// Signs a message representative. The nonce is randomised ("hedged", FIPS 204, 3.4).
    fn sign_mu(&self, mu: &[u8; MU]) -> Result<Option<Vec<u8>>> {
        let pkcs8 = self.to_pkcs8()?;
        let Some(seed) = ml_dsa_seed(&pkcs8) else { return Ok(None) };
        Ok(match self.spec {
            KeySpec::MlDsa44 => sign_mu_of::<ml_dsa::MlDsa44>(seed, mu),
            KeySpec::MlDsa65 => sign_mu_of::<ml_dsa::MlDsa65>(seed, mu),
            KeySpec::MlDsa87 => sign_mu_of::<ml_dsa::MlDsa87>(seed, mu),
            _ => None,
        })
    }

    fn failed(&self, what: &str) -> Error {
        Error::new(Kind::Failed, format!("{what} a key of spec {}: the library failed", self.spec))
    }
}

impl Pair {
    fn parse(family: &Family, pkcs8: &[u8]) -> Option<Self> {
        match family {
            Family::Rsa(size) => {
                let bits = PrivateDecryptingKey::from_pkcs8(pkcs8).ok()?.key_size_bits();
                let pair = (bits == size.len() * 8).then(|| RsaKeyPair::from_pkcs8(pkcs8).ok());
                pair.flatten().map(Self::Rsa)
            }
            Family::Ec(alg) => EcdsaKeyPair::from_pkcs8(alg, pkcs8).ok().map(Self::Ec),
            Family::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(Self::Ed25519),
            Family::MlDsa(alg) => {
                let pair = PqdsaKeyPair::from_pkcs8(alg, pkcs8).ok()?;
                pair.to_pkcs8v1().is_ok().then_some(Self::MlDsa(pair))
            }
        }
    }
}

/// Returns AWS-LC's parameters of an OAEP algorithm.
pub(super) const fn oaep(alg: EncryptionAlgorithm) -> Option<&'static OaepAlgorithm> {
    match alg {
        EncryptionAlgorithm::RsaesOaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        EncryptionAlgorithm::RsaesOaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        EncryptionAlgorithm::SymmetricDefault => None,
    }
}

/// Decrypts RSAES-OAEP with a key in PKCS #8. `None` for any fault.
pub(super) fn open_oaep(pkcs8: &[u8], alg: &'static OaepAlgorithm, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(pkcs8).ok()?).ok()?;
    if ciphertext.len() != key.key_size_bytes() {
        return None;
    }
    let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
    let len = key.decrypt(alg, ciphertext, &mut out, None).ok()?.len();
    out.truncate(len);
    Some(out)
}

fn sign_rsa(pair: &RsaKeyPair, alg: SigningAlgorithm, digest: &Digest) -> Option<Vec<u8>> {
    use SigningAlgorithm as Alg;
    let encoding: &'static dyn RsaEncoding = match alg {
        Alg::RsassaPssSha256 => &signature::RSA_PSS_SHA256,
        Alg::RsassaPssSha384 => &signature::RSA_PSS_SHA384,
        Alg::RsassaPssSha512 => &signature::RSA_PSS_SHA512,
        Alg::RsassaPkcs1V15Sha256 => &signature::RSA_PKCS1_SHA256,
        Alg::RsassaPkcs1V15Sha384 => &signature::RSA_PKCS1_SHA384,
        Alg::RsassaPkcs1V15Sha512 => &signature::RSA_PKCS1_SHA512,
        _ => return None,
    };
    let mut out = vec![0; pair.public_modulus_len()];
    pair.sign_digest(encoding, digest, &mut out).ok().map(|()| out)
}

/// Signs with Ed25519ph, without a context (RFC 8032, 5.1).
fn sign_ed25519ph(pair: &Ed25519KeyPair, message: &[u8]) -> Option<Vec<u8>> {
    use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
    use ed25519_dalek::{Digest as _, Sha512, SigningKey};
    let seed: Curve25519SeedBin<'_> = pair.seed().ok()?.as_be_bytes().ok()?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_ref().try_into().ok()?);
    let key = SigningKey::from_bytes(&seed);
    let signature = key.sign_prehashed(Sha512::new_with_prefix(message), None).ok()?;
    Some(signature.to_bytes().to_vec())
}

/// Returns the seed in an ML-DSA key of AWS-LC: `privateKey` is `[0] IMPLICIT OCTET STRING (SIZE (32))`, and the last
/// element (RFC 9881, 6).
fn ml_dsa_seed(pkcs8: &[u8]) -> Option<&[u8; 32]> {
    let (head, seed) = pkcs8.split_last_chunk::<32>()?;
    head.ends_with(&[0x04, 34, 0x80, 32]).then_some(seed)
}

fn sign_mu_of<P: ml_dsa::MlDsaParams>(seed: &[u8; 32], mu: &[u8; MU]) -> Option<Vec<u8>> {
    let seed: Zeroizing<ml_dsa::B32> = Zeroizing::new((*seed).into());
    let key = ml_dsa::ExpandedSigningKey::<P>::from_seed(&seed);
    let signature = key.sign_mu_randomized(&(*mu).into(), &mut Kernel).ok()?;
    Some(signature.encode().to_vec())
}

/// The kernel's random numbers, as ml-dsa takes them.
struct Kernel;

mod rng {
    use ml_dsa::signature::rand_core::{TryCryptoRng, TryRng};
    use std::convert::Infallible;

    impl TryRng for super::Kernel {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            let mut raw = [0; 4];
            self.try_fill_bytes(&mut raw).map(|()| u32::from_le_bytes(raw))
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            let mut raw = [0; 8];
            self.try_fill_bytes(&mut raw).map(|()| u64::from_le_bytes(raw))
        }
        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
            crate::sys::random(out);
            Ok(())
        }
    }

    impl TryCryptoRng for super::Kernel {}
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod tests;
