use super::super::testing::{hex, vectors};
use super::super::{DataKeyPairSpec, PrivateKey, generate_pair};
use super::*;
use openssl::encrypt::Decrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Padding;
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Group {
    spec: KeySpec,
    alg: SigningAlgorithm,
    key: String,
    /// Name, message, signature, whether it is valid.
    tests: Vec<(String, String, String, bool)>,
}

fn groups() -> Vec<Group> {
    vectors(include_str!("vectors/verify.json"))
}

/// The digest of a message, by OpenSSL.
fn digest_of(alg: SigningAlgorithm, message: &[u8]) -> Vec<u8> {
    let name = alg.name();
    let md = match &name[name.len() - 3..] {
        "256" => MessageDigest::sha256(),
        "384" => MessageDigest::sha384(),
        "512" => MessageDigest::sha512(),
        _ => panic!("{name}"),
    };
    openssl::hash::hash(md, message).unwrap().to_vec()
}

#[test]
fn signatures_of_wycheproof_verify_or_do_not() {
    let mut seen: HashMap<KeySpec, (usize, usize)> = HashMap::new();
    for group in groups() {
        let key = hex(&group.key);
        let digests = group.spec.is_rsa() || group.alg.name().starts_with("ECDSA");
        for (name, message, signature, valid) in &group.tests {
            let (message, signature) = (hex(message), hex(signature));
            let raw = verify(group.spec, &key, group.alg, MessageType::Raw, &message, &signature).unwrap();
            assert_eq!(raw, *valid, "{name}");
            if digests {
                let digest = digest_of(group.alg, &message);
                let result = verify(group.spec, &key, group.alg, MessageType::Digest, &digest, &signature);
                assert_eq!(result.unwrap(), *valid, "{name}, by digest");
            }
            let count = seen.entry(group.spec).or_default();
            *(if *valid { &mut count.0 } else { &mut count.1 }) += 1;
        }
    }
    assert_eq!(seen.len(), 11, "all asymmetric specs: {seen:?}");
    assert!(seen.values().all(|(valid, invalid)| *valid > 0 && *invalid > 0), "{seen:?}");
}

/// Spec, algorithm, public key, message, signature.
type Valid = (KeySpec, SigningAlgorithm, Vec<u8>, Vec<u8>, Vec<u8>);

/// A valid test of each spec.
fn valid() -> Vec<Valid> {
    let mut found = HashMap::new();
    for group in groups() {
        if let Some((_, message, signature, _)) = group.tests.iter().find(|t| t.3) {
            let test = (group.spec, group.alg, hex(&group.key), hex(message), hex(signature));
            found.entry(group.spec).or_insert(test);
        }
    }
    let mut found: Vec<Valid> = found.into_values().collect();
    // In the same order in each run, as the seeds of properties choose by it.
    found.sort_by_key(|(spec, ..)| spec.name());
    found
}

#[test]
fn a_changed_signature_message_or_key_does_not_verify() {
    for (spec, alg, key, message, signature) in valid() {
        let check =
            |message: &[u8], signature: &[u8]| verify(spec, &key, alg, MessageType::Raw, message, signature).unwrap();
        assert!(check(&message, &signature), "{spec}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut bad = signature.clone();
            bad[at] ^= 1;
            assert!(!check(&message, &bad), "{spec}, byte {at}");
        }
        assert!(!check(&message, &signature[..signature.len() - 1]), "{spec}");
        assert!(!check(&message, &[&signature[..], &[0]].concat()), "{spec}");
        assert!(!check(&message, &[]), "{spec}");
        assert!(!check(&[&message[..], b"x"].concat(), &signature), "{spec}");
    }
}

#[test]
fn a_key_of_another_spec_or_form_is_refused() {
    let all = valid();
    assert_eq!(all.len(), 11);
    for (spec, alg, key, message, signature) in &all {
        let refused = |key: &[u8], why: &str| {
            let err = verify(*spec, key, *alg, MessageType::Raw, message, signature).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{spec}: {why}");
        };
        for (other, _, other_key, ..) in &all {
            if other != spec {
                refused(other_key, other.name());
            }
        }
        refused(&[], "empty");
        refused(&key[..key.len() - 1], "truncated");
        refused(&[&key[..], &[0]].concat(), "longer");
        refused(&public_key(key).unwrap(), "not a SubjectPublicKeyInfo");
    }
}

/// RFC 8032, 7.3: TEST abc. The key is put into SubjectPublicKeyInfo by hand (RFC 8410, 4).
#[test]
fn ed25519ph_verifies_the_test_of_its_rfc() {
    let key = hex("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf");
    let signature = hex("98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41\
         31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406");
    assert!(verify_ed25519ph(&key, b"abc", &signature));
    assert!(!verify_ed25519ph(&key, b"abd", &signature));
    assert!(!verify_ed25519ph(&key, b"abc", &signature[1..]));
    assert!(!verify_ed25519ph(&key[1..], b"abc", &signature));
}

#[test]
fn a_message_must_have_the_length_and_type_of_its_algorithm() {
    for (spec, alg, key, _, signature) in valid() {
        let check =
            |message_type, len| verify(spec, &key, alg, message_type, &vec![7; len], &signature).map_err(|e| e.kind());
        assert_eq!(check(MessageType::Raw, 0), Err(Kind::Usage), "{spec}");
        assert_eq!(check(MessageType::Raw, 4096), Ok(false), "{spec}");
        assert_eq!(check(MessageType::Raw, 4097), Err(Kind::Usage), "{spec}");
        let mu = if spec.is_ml_dsa() { Ok(false) } else { Err(Kind::Usage) };
        assert_eq!(check(MessageType::ExternalMu, 64), mu, "{spec}");
        assert_eq!(check(MessageType::ExternalMu, 63), Err(Kind::Usage), "{spec}");
        let hashes = !spec.is_ml_dsa() && spec != KeySpec::EccNistEdwards25519;
        let len = if hashes { digest_of(alg, b"x").len() } else { 64 };
        assert_eq!(check(MessageType::Digest, len), if hashes { Ok(false) } else { Err(Kind::Usage) }, "{spec}");
        assert_eq!(check(MessageType::Digest, len - 1), Err(Kind::Usage), "{spec}");
    }
    let (spec, _, key, ..) = valid().into_iter().find(|v| v.0 == KeySpec::EccNistEdwards25519).unwrap();
    let ph = |message_type, len: usize| {
        let alg = SigningAlgorithm::Ed25519PhSha512;
        verify(spec, &key, alg, message_type, &vec![7; len], &[0; 64]).map_err(|e| e.kind())
    };
    assert_eq!(ph(MessageType::Digest, 64), Ok(false));
    assert_eq!(ph(MessageType::Digest, 32), Err(Kind::Usage));
    assert_eq!(ph(MessageType::Raw, 64), Err(Kind::Usage));
}

#[test]
fn an_algorithm_of_another_spec_is_refused() {
    for (spec, _, key, message, signature) in valid() {
        for alg in SigningAlgorithm::ALL {
            let result = verify(spec, &key, *alg, MessageType::Raw, &message, &signature);
            let has = spec.signing_algorithms(super::super::KeyUsage::SignVerify).contains(alg);
            assert_eq!(result.is_ok(), has && *alg != SigningAlgorithm::Ed25519PhSha512, "{spec} {alg}");
        }
    }
}

/// The sizes that AWS documents (KMS API Reference, Encrypt).
#[test]
fn the_longest_plaintexts_are_those_of_aws() {
    use EncryptionAlgorithm as Alg;
    for (spec, sha_1, sha_256) in
        [(KeySpec::Rsa2048, 214, 190), (KeySpec::Rsa3072, 342, 318), (KeySpec::Rsa4096, 470, 446)]
    {
        assert_eq!(max_plaintext(spec, Alg::RsaesOaepSha1), Some(sha_1));
        assert_eq!(max_plaintext(spec, Alg::RsaesOaepSha256), Some(sha_256));
        assert_eq!(max_plaintext(spec, Alg::SymmetricDefault), None);
    }
    assert_eq!(max_plaintext(KeySpec::EccNistP256, Alg::RsaesOaepSha1), None);
}

#[test]
fn openssl_decrypts_what_is_encrypted_here() {
    use EncryptionAlgorithm as Alg;
    let pair = generate_pair(DataKeyPairSpec::Rsa2048).unwrap();
    let key = PKey::private_key_from_der(&pair.private).unwrap();
    for (alg, md) in [(Alg::RsaesOaepSha1, MessageDigest::sha1()), (Alg::RsaesOaepSha256, MessageDigest::sha256())] {
        let max = max_plaintext(KeySpec::Rsa2048, alg).unwrap();
        for len in [1, 32, max] {
            let plaintext = vec![len as u8; len];
            let ciphertext = encrypt(KeySpec::Rsa2048, &pair.public, alg, &plaintext).unwrap();
            assert_eq!(ciphertext.len(), 256);
            let mut decrypter = Decrypter::new(&key).unwrap();
            decrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
            decrypter.set_rsa_oaep_md(md).unwrap();
            decrypter.set_rsa_mgf1_md(md).unwrap();
            let mut out = vec![0; 256];
            let len = decrypter.decrypt(&ciphertext, &mut out).unwrap();
            assert_eq!(out[..len], plaintext);
        }
        for len in [0, max + 1] {
            let err = encrypt(KeySpec::Rsa2048, &pair.public, alg, &vec![1; len]).unwrap_err();
            assert_eq!(err.advice(), Some(&format!("encrypt 1 to {max} bytes")[..]));
        }
        let err = encrypt(KeySpec::Rsa3072, &pair.public, alg, b"x").unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
    }
    let p256 = PrivateKey::generate(KeySpec::EccNistP256).unwrap().public_key_der().unwrap();
    for spec in [KeySpec::Rsa2048, KeySpec::EccNistP256] {
        assert_eq!(encrypt(spec, &p256, Alg::RsaesOaepSha256, b"x").unwrap_err().kind(), Kind::Usage);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_verify_panic(which in 0usize..11, at in any::<prop::sample::Index>(), bit in 0u8..8,
                                  junk in prop::collection::vec(any::<u8>(), 0..200)) {
        let (spec, alg, key, message, signature) = valid().swap_remove(which);
        prop_assert!(!verify(spec, &key, alg, MessageType::Raw, &message, &junk).unwrap());
        prop_assert!(verify(spec, &junk, alg, MessageType::Raw, &message, &signature).is_err());
        // A key with one wrong bit is refused, or is another key.
        let mut bad = key;
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        prop_assert!(!verify(spec, &bad, alg, MessageType::Raw, &message, &signature).unwrap_or(false));
    }
}

#[test]
fn a_key_has_one_encoding() {
    for (spec, alg, key, message, signature) in valid() {
        for at in 0..30 {
            for bit in 0..8 {
                let mut bad = key.clone();
                bad[at] ^= 1 << bit;
                let verified = verify(spec, &bad, alg, MessageType::Raw, &message, &signature).unwrap_or(false);
                assert!(!verified, "{spec}, byte {at}, bit {bit}");
            }
        }
    }
}
