//! The cryptography of KMS keys other than symmetric encryption keys: pairs that sign, decrypt or agree, and MAC keys.
//!
//! Pure functions over bytes: storing, authorising and auditing belong to `kms`. [`spec`] has AWS's names.

pub mod spec;

pub use spec::{
    DataKeyPairSpec, EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MacAlgorithm, MessageType,
    SigningAlgorithm, WrappingAlgorithm, WrappingKeySpec,
};
