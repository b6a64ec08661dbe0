//! A digest of a set of objects' states that an act updates by what it changed, whatever the number of objects.
//!
//! LtHash (Bellare and Micciancio, EUROCRYPT 1997; parameters and proof: Lewi, Kim, Maykov, Weis, "Securing Update
//! Propagation with Homomorphic Hashing", IACR ePrint 2019/227) with 1024 words of 16 bits: the sum, word by word, of
//! 2 KiB of BLAKE3 output for each object. Finding two sets with the same digest takes at least 2^200 operations, even
//! for someone who chooses the objects. A sum of plain 256-bit hashes would not do: old states of many objects, which
//! are in the log, would be enough to find a combination with the same sum.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const WORDS: usize = 1024;
const CONTEXT: &str = "coffer 2026 audit checkpoint objects v1";

/// The digest of a set; of the empty one to begin with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest(Box<[u16; WORDS]>);

impl Default for Digest {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({:04x}{:04x}…)", self.0[0], self.0[1])
    }
}

impl Digest {
    /// Adds an object at a version, with the hash of its body.
    pub(crate) fn add(&mut self, kind: &str, id: &str, version: u64, hash: &str) {
        self.mix(kind, id, version, hash, u16::wrapping_add);
    }

    /// Removes what was added.
    pub(crate) fn remove(&mut self, kind: &str, id: &str, version: u64, hash: &str) {
        self.mix(kind, id, version, hash, u16::wrapping_sub);
    }

    fn mix(&mut self, kind: &str, id: &str, version: u64, hash: &str, with: fn(u16, u16) -> u16) {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for field in [kind.as_bytes(), id.as_bytes(), &version.to_le_bytes(), hash.as_bytes()] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        let mut bytes = [0; 2 * WORDS];
        hasher.finalize_xof().fill(&mut bytes);
        for (word, add) in self.0.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *word = with(*word, u16::from_le_bytes(*add));
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        to.serialize_str(&hex::encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(serde::de::Error::custom)?;
        let words: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|w| u16::from_le_bytes(*w)).collect();
        let words = Box::<[u16; WORDS]>::try_from(words).ok().filter(|_| bytes.len() == 2 * WORDS);
        words.map(Self).ok_or_else(|| serde::de::Error::custom("a digest has 2048 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn of(rows: &BTreeMap<u8, (u64, String)>) -> Digest {
        let mut digest = Digest::default();
        rows.iter().for_each(|(id, (version, hash))| digest.add("volume", &id.to_string(), *version, hash));
        digest
    }

    #[test]
    fn it_is_the_sum_of_words_that_blake3_defines() {
        let mut input = Vec::new();
        for field in [&b"volume"[..], b"a", &7u64.to_le_bytes(), b"h"] {
            input.extend_from_slice(&(field.len() as u64).to_le_bytes());
            input.extend_from_slice(field);
        }
        // The first 32 bytes of BLAKE3's extended output are its key derivation's plain output.
        let plain = blake3::derive_key(CONTEXT, &input);
        let mut digest = Digest::default();
        digest.add("volume", "a", 7, "h");
        digest.add("volume", "a", 7, "h");
        for (word, two) in digest.0.iter().zip(plain.as_chunks::<2>().0) {
            assert_eq!(*word, u16::from_le_bytes(*two).wrapping_mul(2));
        }
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!((json.len(), serde_json::from_str::<Digest>(&json).unwrap() == digest), (2 + 4096, true));
        assert!(serde_json::from_str::<Digest>("\"00\"").is_err());
    }

    #[test]
    fn a_field_does_not_run_into_the_next() {
        let one = |kind: &str, id: &str, hash: &str| {
            let mut digest = Digest::default();
            digest.add(kind, id, 1, hash);
            digest
        };
        assert_ne!(one("volume", "a", "h"), one("volum", "ea", "h"));
        assert_ne!(one("volume", "a", "h"), one("volume", "a", "i"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn updated_step_by_step_it_equals_that_of_all_rows(acts in prop::collection::vec((0u8..12, 0u8..4), 0..80)) {
            let (mut rows, mut digest) = (BTreeMap::<u8, (u64, String)>::new(), Digest::default());
            for (id, act) in acts {
                if let Some((version, hash)) = rows.get(&id).cloned() {
                    digest.remove("volume", &id.to_string(), version, &hash);
                    rows.remove(&id);
                    if act > 0 {
                        rows.insert(id, (version + 1, format!("h{act}")));
                    }
                } else {
                    rows.insert(id, (1, format!("h{act}")));
                }
                if let Some((version, hash)) = rows.get(&id) {
                    digest.add("volume", &id.to_string(), *version, hash);
                }
                prop_assert_eq!(&digest, &of(&rows));
            }
        }
    }
}
