//! What the tests of this directory share: known answers, and hexadecimal.

use serde::de::DeserializeOwned;

/// Parses a file of known answers (vectors/README.md).
#[track_caller]
pub(super) fn vectors<T: DeserializeOwned>(json: &str) -> Vec<T> {
    let all: Vec<T> = serde_json::from_str(json).unwrap();
    assert!(!all.is_empty());
    all
}

/// Decodes hexadecimal.
#[track_caller]
pub(super) fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}
