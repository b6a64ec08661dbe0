//! Data key pairs, for use outside the KMS (GenerateDataKeyPair).

use super::private::PrivateKey;
use super::spec::DataKeyPairSpec;
use crate::error::Result;
use zeroize::Zeroizing;

/// A data key pair, as GenerateDataKeyPair returns it.
pub struct DataKeyPair {
    /// The private key in PKCS #8, unencrypted DER (RFC 5958).
    pub private: Zeroizing<Vec<u8>>,
    /// The public key as SubjectPublicKeyInfo, DER (RFC 5280, 4.1).
    pub public: Vec<u8>,
}

impl std::fmt::Debug for DataKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKeyPair(redacted)")
    }
}

/// Generates a data key pair. An RSA pair takes up to seconds.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) if the library fails.
pub fn generate_pair(spec: DataKeyPairSpec) -> Result<DataKeyPair> {
    let key = PrivateKey::generate(spec.into())?;
    Ok(DataKeyPair { private: key.to_pkcs8()?, public: key.public_key_der()? })
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
