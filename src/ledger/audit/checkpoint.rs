//! The checkpoint that a segment begins with: what the records before it add up to, under a MAC, so that reading can
//! begin there.

use super::super::catalog::Change;
use super::digest::Digest;
use crate::cipher::hkdf_sha256;
use crate::secret::Secret;
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of the log after as many records as the checkpoint's own sequence. Count and hash are in the header of its
/// record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Digest of all audited objects; of an open intent's, as they were before it.
    pub(super) objects: Digest,
    /// Intents that may or may not have happened, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) open: Vec<Open>,
    /// Intents without outcome that later acts decided, and whether they happened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) told: BTreeMap<u64, bool>,
    /// HMAC-SHA-256 over the rest, hexadecimal.
    pub(super) mac: String,
}

/// An intent without outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) sequence: u64,
    pub(super) changes: Vec<Change>,
}

/// The key that authenticates checkpoints: HKDF-SHA-256(root key, no salt, "coffer/audit/v1").
pub(crate) struct CheckpointKey(hmac::Key);

impl CheckpointKey {
    /// Derives it.
    pub(crate) fn of(root: &Secret<32>) -> Self {
        let key: Secret<32> = Secret::build(|out| hkdf_sha256(root.expose(), &[], &[b"coffer/audit/v1"], out));
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    /// Authenticates a checkpoint at its place in the chain: after `sequence` records, of which the last has the hash
    /// `previous`.
    pub(super) fn sign(&self, checkpoint: &mut Checkpoint, sequence: u64, previous: &[u8; 32]) {
        checkpoint.mac = hex::encode(hmac::sign(&self.0, &covered(checkpoint, sequence, previous)));
    }

    /// Whether this key signed the checkpoint for this place.
    pub(super) fn verifies(&self, checkpoint: &Checkpoint, sequence: u64, previous: &[u8; 32]) -> bool {
        let mac = hex::decode(&checkpoint.mac).unwrap_or_default();
        hmac::verify(&self.0, &covered(checkpoint, sequence, previous), &mac).is_ok()
    }
}

fn covered(checkpoint: &Checkpoint, sequence: u64, previous: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(previous);
    // Maps and lists in one order, no floating point: the same value is always the same bytes.
    let bare = Checkpoint { mac: String::new(), ..checkpoint.clone() };
    out.extend_from_slice(&serde_json::to_vec(&bare).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_holds_for_one_place_one_content_and_one_key() {
        let key = |n| CheckpointKey::of(&Secret::build(|b| b.fill(n)));
        let mut cp = Checkpoint {
            objects: Digest::default(),
            open: Vec::new(),
            told: BTreeMap::from([(3, true)]),
            mac: String::new(),
        };
        key(1).sign(&mut cp, 9, &[7; 32]);
        assert!(key(1).verifies(&cp, 9, &[7; 32]));
        assert!(!key(2).verifies(&cp, 9, &[7; 32]));
        assert!(!key(1).verifies(&cp, 8, &[7; 32]));
        assert!(!key(1).verifies(&cp, 9, &[6; 32]));
        cp.told.insert(3, false);
        assert!(!key(1).verifies(&cp, 9, &[7; 32]));
        cp.told.insert(3, true);
        cp.objects.add("volume", "v", 1, "h");
        assert!(!key(1).verifies(&cp, 9, &[7; 32]));
    }

    /// The MAC is that of RFC 2104 under the key of RFC 5869, as OpenSSL computes them.
    #[test]
    fn openssl_computes_the_same_mac() {
        use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
        let hmac = |key: &[u8], data: &[u8]| {
            let key = PKey::hmac(key).unwrap();
            let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
            signer.sign_oneshot_to_vec(data).unwrap()
        };
        let extracted = hmac(&[0; 32], &[5; 32]);
        let derived = hmac(&extracted, b"coffer/audit/v1\x01");
        let cp = Checkpoint { objects: Digest::default(), open: Vec::new(), told: BTreeMap::new(), mac: String::new() };
        let data = [
            &9u64.to_le_bytes()[..],
            &[7; 32],
            format!("{{\"objects\":\"{}\",\"mac\":\"\"}}", "0".repeat(4096)).as_bytes(),
        ]
        .concat();
        let mut signed = cp;
        CheckpointKey::of(&Secret::build(|b| b.fill(5))).sign(&mut signed, 9, &[7; 32]);
        assert_eq!(signed.mac, hex::encode(hmac(&derived, &data)));
    }
}
