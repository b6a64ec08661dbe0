//! The cryptography of KMS keys other than symmetric encryption keys: pairs that sign, decrypt or agree, and MAC keys.
//!
//! Pure functions over bytes: storing, authorising and auditing belong to `kms`. Decision 0034 says which library does
//! what.
//!
//! - [`spec`]: AWS's names, and which go together.
//! - [`private`]: sign, decrypt, agree; [`public`]: verify, encrypt; [`mac`]: HMAC.
//! - [`wrapping`]: opens imported key material; [`pair`]: data key pairs.

mod der;
pub mod mac;
mod message;
pub mod pair;
pub mod private;
pub mod public;
pub mod spec;
#[cfg(test)]
mod testing;
pub mod wrapping;

pub use mac::MacKey;
pub use message::{MAX_MESSAGE, MU};
pub use pair::{DataKeyPair, generate_pair};
pub use private::PrivateKey;
pub use public::{encrypt, verify};
pub use spec::{
    DataKeyPairSpec, EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MacAlgorithm, MessageType,
    SigningAlgorithm, WrappingAlgorithm, WrappingKeySpec,
};
pub use wrapping::WrappingKey;
