//! The names of KMS cryptography: key specs, usages, algorithms, and which of them go together.
//!
//! Each name is AWS's (KMS API Reference), in `Display`, `FromStr` and serde alike. Which algorithms a key has is in
//! the KMS Developer Guide, "Key spec reference". SM2 and its algorithms exist only in AWS's China Regions: they are
//! refused with [`Kind::Unsupported`], other unknown names with [`Kind::Usage`].

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Names that AWS has in its China Regions only.
const CHINA: [&str; 3] = ["SM2", "SM2PKE", "SM2DSA"];

/// Defines an enum whose variants have AWS's names.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $noun:literal { $($(#[$note:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $(#[$note])* $variant),+
        }
        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns AWS's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == s).ok_or_else(|| {
                    unknown(s, $noun, &[$($text),+])
                })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let name = String::deserialize(d)?;
                name.parse().map_err(|e: Error| serde::de::Error::custom(e.line()))
            }
        }
    };
}

/// Returns the error of a name that is none of `allowed`.
fn unknown(name: &str, noun: &str, allowed: &[&str]) -> Error {
    if CHINA.contains(&name) {
        return Error::new(Kind::Unsupported, format!("{noun} {name} is not supported: coffer has no SM2"))
            .hint(format!("use one of {}", allowed.join(", ")));
    }
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    Error::new(Kind::Usage, format!("{name:?} is not {article} {noun}"))
        .hint(format!("use one of {}", allowed.join(", ")))
}

names! {
    /// What a KMS key is: its kind of material, hence its algorithms (CreateKey, `KeySpec`).
    KeySpec, "key spec" {
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        Rsa2048 = "RSA_2048",
        Rsa3072 = "RSA_3072",
        Rsa4096 = "RSA_4096",
        EccNistP256 = "ECC_NIST_P256",
        EccNistP384 = "ECC_NIST_P384",
        EccNistP521 = "ECC_NIST_P521",
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        EccSecgP256k1 = "ECC_SECG_P256K1",
        Hmac224 = "HMAC_224",
        Hmac256 = "HMAC_256",
        Hmac384 = "HMAC_384",
        Hmac512 = "HMAC_512",
        MlDsa44 = "ML_DSA_44",
        MlDsa65 = "ML_DSA_65",
        MlDsa87 = "ML_DSA_87",
    }
}

names! {
    /// What a KMS key may be used for: one per key, fixed when the key is created (CreateKey, `KeyUsage`).
    KeyUsage, "key usage" {
        EncryptDecrypt = "ENCRYPT_DECRYPT",
        SignVerify = "SIGN_VERIFY",
        GenerateVerifyMac = "GENERATE_VERIFY_MAC",
        KeyAgreement = "KEY_AGREEMENT",
    }
}

names! {
    /// An algorithm of Encrypt, Decrypt and ReEncrypt.
    EncryptionAlgorithm, "encryption algorithm" {
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        /// (RFC 8017, 7.1, with SHA-1 for the label and for MGF1).
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        /// (RFC 8017, 7.1, with SHA-256 for the label and for MGF1).
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
    }
}

names! {
    /// An algorithm of Sign and Verify.
    SigningAlgorithm, "signing algorithm" {
        /// (RFC 8017, 8.1; the salt is as long as the hash).
        RsassaPssSha256 = "RSASSA_PSS_SHA_256",
        RsassaPssSha384 = "RSASSA_PSS_SHA_384",
        RsassaPssSha512 = "RSASSA_PSS_SHA_512",
        /// (RFC 8017, 8.2).
        RsassaPkcs1V15Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        RsassaPkcs1V15Sha384 = "RSASSA_PKCS1_V1_5_SHA_384",
        RsassaPkcs1V15Sha512 = "RSASSA_PKCS1_V1_5_SHA_512",
        /// (FIPS 186-5, 6; signatures are DER, RFC 3279, 2.2.3).
        EcdsaSha256 = "ECDSA_SHA_256",
        EcdsaSha384 = "ECDSA_SHA_384",
        EcdsaSha512 = "ECDSA_SHA_512",
        /// (Ed25519, RFC 8032, 5.1).
        Ed25519Sha512 = "ED25519_SHA_512",
        /// (Ed25519ph, RFC 8032, 5.1, with an empty context).
        Ed25519PhSha512 = "ED25519_PH_SHA_512",
        /// (ML-DSA, FIPS 204, 5.2, with an empty context).
        MlDsaShake256 = "ML_DSA_SHAKE_256",
    }
}

names! {
    /// What the message of Sign and Verify is.
    MessageType, "message type" {
        /// : the algorithm hashes it.
        Raw = "RAW",
        /// : the caller has hashed it.
        Digest = "DIGEST",
        /// : the 64-byte message representative of ML-DSA (FIPS 204, 6.2).
        ExternalMu = "EXTERNAL_MU",
    }
}

names! {
    /// An algorithm of GenerateMac and VerifyMac (RFC 2104).
    MacAlgorithm, "MAC algorithm" {
        HmacSha224 = "HMAC_SHA_224",
        HmacSha256 = "HMAC_SHA_256",
        HmacSha384 = "HMAC_SHA_384",
        HmacSha512 = "HMAC_SHA_512",
    }
}

names! {
    /// An algorithm of DeriveSharedSecret.
    KeyAgreementAlgorithm, "key agreement algorithm" {
        /// (NIST SP 800-56A rev. 3, 5.7.1.2).
        Ecdh = "ECDH",
    }
}

names! {
    /// What GenerateDataKeyPair can make.
    DataKeyPairSpec, "data key pair spec" {
        Rsa2048 = "RSA_2048",
        Rsa3072 = "RSA_3072",
        Rsa4096 = "RSA_4096",
        EccNistP256 = "ECC_NIST_P256",
        EccNistP384 = "ECC_NIST_P384",
        EccNistP521 = "ECC_NIST_P521",
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        EccSecgP256k1 = "ECC_SECG_P256K1",
    }
}

names! {
    /// How key material is wrapped for ImportKeyMaterial (GetParametersForImport, `WrappingAlgorithm`).
    WrappingAlgorithm, "wrapping algorithm" {
        /// (AWS refuses it since October 2023, and so does coffer).
        RsaesPkcs1V15 = "RSAES_PKCS1_V1_5",
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
        /// (an AES key under RSAES_OAEP_SHA_1, then the material under the AES key, RFC 5649).
        RsaAesKeyWrapSha1 = "RSA_AES_KEY_WRAP_SHA_1",
        /// (an AES key under RSAES_OAEP_SHA_256, then the material under the AES key, RFC 5649).
        RsaAesKeyWrapSha256 = "RSA_AES_KEY_WRAP_SHA_256",
    }
}

names! {
    /// The size of the RSA key that wraps key material (GetParametersForImport, `WrappingKeySpec`).
    WrappingKeySpec, "wrapping key spec" {
        Rsa2048 = "RSA_2048",
        Rsa3072 = "RSA_3072",
        Rsa4096 = "RSA_4096",
    }
}

impl KeySpec {
    /// Whether the key is one secret (encryption or HMAC), not a pair.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::SymmetricDefault) || self.is_mac()
    }

    /// Whether the key is a private key with its public key.
    #[must_use]
    pub const fn is_asymmetric(self) -> bool {
        !self.is_symmetric()
    }

    /// Whether the key is an HMAC key.
    #[must_use]
    pub const fn is_mac(self) -> bool {
        matches!(self, Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512)
    }

    /// Whether the key is an RSA key.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    /// Returns the size of an RSA key's modulus, in bits; `None` for other keys.
    #[must_use]
    pub const fn modulus_bits(self) -> Option<usize> {
        match self {
            Self::Rsa2048 => Some(2048),
            Self::Rsa3072 => Some(3072),
            Self::Rsa4096 => Some(4096),
            _ => None,
        }
    }

    /// Whether the key is an ML-DSA key.
    #[must_use]
    pub const fn is_ml_dsa(self) -> bool {
        matches!(self, Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87)
    }

    /// Returns the usages that a key of this spec can have.
    #[must_use]
    pub const fn usages(self) -> &'static [KeyUsage] {
        match self {
            Self::SymmetricDefault => &[KeyUsage::EncryptDecrypt],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[KeyUsage::EncryptDecrypt, KeyUsage::SignVerify],
            Self::EccNistP256 | Self::EccNistP384 | Self::EccNistP521 => {
                &[KeyUsage::SignVerify, KeyUsage::KeyAgreement]
            }
            Self::EccNistEdwards25519 | Self::EccSecgP256k1 | Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => {
                &[KeyUsage::SignVerify]
            }
            Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512 => &[KeyUsage::GenerateVerifyMac],
        }
    }

    /// Returns the usage of a new key for which a caller asked for `usage`. Only a symmetric encryption key may leave it
    /// out; all others must name it, even where one value is possible (CreateKey, `KeyUsage`).
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is missing, or not among [`Self::usages`].
    pub fn usage(self, usage: Option<KeyUsage>) -> Result<KeyUsage> {
        let hint = || {
            let names: Vec<_> = self.usages().iter().map(|u| u.name()).collect();
            format!("set KeyUsage to {}", names.join(" or "))
        };
        match usage {
            None if self == Self::SymmetricDefault => Ok(KeyUsage::EncryptDecrypt),
            None => Err(Error::new(Kind::Usage, format!("a key of spec {self} needs a KeyUsage")).hint(hint())),
            Some(usage) if self.usages().contains(&usage) => Ok(usage),
            Some(usage) => {
                Err(Error::new(Kind::Usage, format!("a key of spec {self} cannot have KeyUsage {usage}")).hint(hint()))
            }
        }
    }

    /// Returns the encryption algorithms of a key with this spec and usage.
    #[must_use]
    pub const fn encryption_algorithms(self, usage: KeyUsage) -> &'static [EncryptionAlgorithm] {
        match (self, usage) {
            (Self::SymmetricDefault, KeyUsage::EncryptDecrypt) => &[EncryptionAlgorithm::SymmetricDefault],
            (_, KeyUsage::EncryptDecrypt) if self.is_rsa() => {
                &[EncryptionAlgorithm::RsaesOaepSha1, EncryptionAlgorithm::RsaesOaepSha256]
            }
            _ => &[],
        }
    }

    /// Returns the signing algorithms of a key with this spec and usage.
    #[must_use]
    pub const fn signing_algorithms(self, usage: KeyUsage) -> &'static [SigningAlgorithm] {
        use SigningAlgorithm as Alg;
        if !matches!(usage, KeyUsage::SignVerify) {
            return &[];
        }
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[
                Alg::RsassaPkcs1V15Sha256,
                Alg::RsassaPkcs1V15Sha384,
                Alg::RsassaPkcs1V15Sha512,
                Alg::RsassaPssSha256,
                Alg::RsassaPssSha384,
                Alg::RsassaPssSha512,
            ],
            Self::EccNistP256 | Self::EccSecgP256k1 => &[Alg::EcdsaSha256],
            Self::EccNistP384 => &[Alg::EcdsaSha384],
            Self::EccNistP521 => &[Alg::EcdsaSha512],
            Self::EccNistEdwards25519 => &[Alg::Ed25519Sha512, Alg::Ed25519PhSha512],
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => &[Alg::MlDsaShake256],
            Self::SymmetricDefault | Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512 => &[],
        }
    }

    /// Returns the MAC algorithms of a key with this spec and usage.
    #[must_use]
    pub const fn mac_algorithms(self, usage: KeyUsage) -> &'static [MacAlgorithm] {
        match (self, usage) {
            (Self::Hmac224, KeyUsage::GenerateVerifyMac) => &[MacAlgorithm::HmacSha224],
            (Self::Hmac256, KeyUsage::GenerateVerifyMac) => &[MacAlgorithm::HmacSha256],
            (Self::Hmac384, KeyUsage::GenerateVerifyMac) => &[MacAlgorithm::HmacSha384],
            (Self::Hmac512, KeyUsage::GenerateVerifyMac) => &[MacAlgorithm::HmacSha512],
            _ => &[],
        }
    }

    /// Returns the key agreement algorithms of a key with this spec and usage.
    #[must_use]
    pub const fn key_agreement_algorithms(self, usage: KeyUsage) -> &'static [KeyAgreementAlgorithm] {
        match (self, usage) {
            (Self::EccNistP256 | Self::EccNistP384 | Self::EccNistP521, KeyUsage::KeyAgreement) => {
                &[KeyAgreementAlgorithm::Ecdh]
            }
            _ => &[],
        }
    }
}

impl From<DataKeyPairSpec> for KeySpec {
    fn from(spec: DataKeyPairSpec) -> Self {
        match spec {
            DataKeyPairSpec::Rsa2048 => Self::Rsa2048,
            DataKeyPairSpec::Rsa3072 => Self::Rsa3072,
            DataKeyPairSpec::Rsa4096 => Self::Rsa4096,
            DataKeyPairSpec::EccNistP256 => Self::EccNistP256,
            DataKeyPairSpec::EccNistP384 => Self::EccNistP384,
            DataKeyPairSpec::EccNistP521 => Self::EccNistP521,
            DataKeyPairSpec::EccNistEdwards25519 => Self::EccNistEdwards25519,
            DataKeyPairSpec::EccSecgP256k1 => Self::EccSecgP256k1,
        }
    }
}

impl From<WrappingKeySpec> for KeySpec {
    fn from(spec: WrappingKeySpec) -> Self {
        match spec {
            WrappingKeySpec::Rsa2048 => Self::Rsa2048,
            WrappingKeySpec::Rsa3072 => Self::Rsa3072,
            WrappingKeySpec::Rsa4096 => Self::Rsa4096,
        }
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
