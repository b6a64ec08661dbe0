use super::super::testing::{hex, vectors};
use super::super::{KeyUsage, encrypt, verify};
use super::*;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;

const ASYMMETRIC: [KeySpec; 11] = [
    KeySpec::Rsa2048,
    KeySpec::Rsa3072,
    KeySpec::Rsa4096,
    KeySpec::EccNistP256,
    KeySpec::EccNistP384,
    KeySpec::EccNistP521,
    KeySpec::EccSecgP256k1,
    KeySpec::EccNistEdwards25519,
    KeySpec::MlDsa44,
    KeySpec::MlDsa65,
    KeySpec::MlDsa87,
];

/// One key of each spec, made once: RSA keys take long.
static KEYS: LazyLock<HashMap<KeySpec, PrivateKey>> =
    LazyLock::new(|| ASYMMETRIC.iter().map(|spec| (*spec, PrivateKey::generate(*spec).unwrap())).collect());

fn message_digest(alg: SigningAlgorithm) -> MessageDigest {
    match &alg.name()[alg.name().len() - 3..] {
        "256" => MessageDigest::sha256(),
        "384" => MessageDigest::sha384(),
        _ => MessageDigest::sha512(),
    }
}

/// Whether OpenSSL accepts a signature of a message.
fn openssl_verifies(spki: &[u8], alg: SigningAlgorithm, message: &[u8], signature: &[u8]) -> bool {
    let key = PKey::public_key_from_der(spki).unwrap();
    if alg == SigningAlgorithm::Ed25519Sha512 {
        return Verifier::new_without_digest(&key).unwrap().verify_oneshot(signature, message).unwrap();
    }
    let mut verifier = Verifier::new(message_digest(alg), &key).unwrap();
    if alg.name().contains("PSS") {
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
        verifier.set_rsa_mgf1_md(message_digest(alg)).unwrap();
    }
    verifier.update(message).unwrap();
    verifier.verify(signature).unwrap()
}

fn openssl_signs(key: &PKey<Private>, alg: SigningAlgorithm, message: &[u8]) -> Vec<u8> {
    if alg == SigningAlgorithm::Ed25519Sha512 {
        return Signer::new_without_digest(key).unwrap().sign_oneshot_to_vec(message).unwrap();
    }
    let mut signer = Signer::new(message_digest(alg), key).unwrap();
    if alg.name().contains("PSS") {
        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
        signer.set_rsa_mgf1_md(message_digest(alg)).unwrap();
    }
    signer.update(message).unwrap();
    signer.sign_to_vec().unwrap()
}

#[test]
fn openssl_and_coffer_verify_each_other() {
    let message = b"a message of some length";
    let mut tried = 0;
    for spec in ASYMMETRIC.into_iter().filter(|spec| !spec.is_ml_dsa()) {
        let key = &KEYS[&spec];
        let spki = key.public_key_der().unwrap();
        let theirs = PKey::private_key_from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        for alg in spec.signing_algorithms(KeyUsage::SignVerify) {
            if *alg == SigningAlgorithm::Ed25519PhSha512 {
                continue;
            }
            let signature = key.sign(*alg, MessageType::Raw, message).unwrap();
            assert!(openssl_verifies(&spki, *alg, message, &signature), "{spec} {alg}");
            if *alg != SigningAlgorithm::Ed25519Sha512 {
                let digest = openssl::hash::hash(message_digest(*alg), message).unwrap();
                let signature = key.sign(*alg, MessageType::Digest, &digest).unwrap();
                assert!(openssl_verifies(&spki, *alg, message, &signature), "{spec} {alg} of a digest");
            }
            let signature = openssl_signs(&theirs, *alg, message);
            assert!(verify(spec, &spki, *alg, MessageType::Raw, message, &signature).unwrap(), "{spec} {alg}");
            tried += 1;
        }
    }
    assert_eq!(tried, 3 * 6 + 4 + 1);
}

/// RFC 8032, 7.1: TEST 3. 7.3: TEST abc. The seeds are put into PKCS #8 by hand (RFC 8410, 7).
#[test]
fn ed25519_signatures_are_those_of_the_rfc() {
    let key = |seed: &str| {
        let pkcs8 = hex(&format!("302e020100300506032b657004220420{seed}"));
        let key = PrivateKey::from_pkcs8(KeySpec::EccNistEdwards25519, &pkcs8).unwrap();
        assert_eq!(*key.to_pkcs8().unwrap(), pkcs8);
        key
    };
    let test_3 = key("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
    assert_eq!(
        test_3.public_key_der().unwrap(),
        hex("302a300506032b6570032100fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    );
    assert_eq!(
        test_3.sign(SigningAlgorithm::Ed25519Sha512, MessageType::Raw, &hex("af82")).unwrap(),
        hex("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a")
    );
    let abc = key("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42");
    let Pair::Ed25519(pair) = &abc.pair else { panic!() };
    assert_eq!(
        sign_ed25519ph(pair, b"abc").unwrap(),
        hex("98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41\
             31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406")
    );
}

#[test]
fn ed25519ph_takes_a_digest_as_its_message() {
    let key = &KEYS[&KeySpec::EccNistEdwards25519];
    let (alg, spki) = (SigningAlgorithm::Ed25519PhSha512, key.public_key_der().unwrap());
    let digest = openssl::hash::hash(MessageDigest::sha512(), b"long").unwrap();
    let signature = key.sign(alg, MessageType::Digest, &digest).unwrap();
    assert!(verify(key.spec(), &spki, alg, MessageType::Digest, &digest, &signature).unwrap());
    let pure = verify(key.spec(), &spki, SigningAlgorithm::Ed25519Sha512, MessageType::Raw, &digest, &signature);
    assert!(!pure.unwrap());
    assert_eq!(key.sign(alg, MessageType::Raw, &digest).unwrap_err().kind(), Kind::Usage);
    assert_eq!(
        key.sign(SigningAlgorithm::Ed25519Sha512, MessageType::Digest, &digest).unwrap_err().kind(),
        Kind::Usage
    );
}

#[derive(Deserialize)]
struct MlDsa {
    spec: KeySpec,
    name: String,
    pkcs8: String,
    public: String,
    #[serde(default)]
    msg: Option<String>,
    mu: String,
    sig: String,
}

/// The keys and signatures of Wycheproof, some of which are NIST's (draft-celi-acvp-ml-dsa, tables 1 and 2).
#[test]
fn ml_dsa_keys_and_representatives_are_those_of_wycheproof() {
    let all: Vec<MlDsa> = vectors(include_str!("vectors/ml_dsa.json"));
    assert!(all.iter().any(|t| t.name.contains("NIST")) && all.iter().any(|t| t.msg.is_some()));
    for test in all {
        let alg = SigningAlgorithm::MlDsaShake256;
        let key = PrivateKey::from_pkcs8(test.spec, &hex(&test.pkcs8)).unwrap();
        assert_eq!(*key.to_pkcs8().unwrap(), hex(&test.pkcs8));
        let spki = key.public_key_der().unwrap();
        assert!(spki.ends_with(&hex(&test.public)), "{}", test.name);
        let (mu, known) = (hex(&test.mu), hex(&test.sig));
        let mut signatures = vec![known, key.sign(alg, MessageType::ExternalMu, &mu).unwrap()];
        // What the one library signs by μ, the other verifies by message, and the other way round.
        if let Some(message) = test.msg.map(|m| hex(&m)) {
            signatures.push(key.sign(alg, MessageType::Raw, &message).unwrap());
            for signature in &signatures {
                let raw = verify(test.spec, &spki, alg, MessageType::Raw, &message, signature);
                assert!(raw.unwrap(), "{}", test.name);
            }
        }
        for mut signature in signatures {
            assert!(verify(test.spec, &spki, alg, MessageType::ExternalMu, &mu, &signature).unwrap(), "{}", test.name);
            signature[5] ^= 1;
            assert!(!verify(test.spec, &spki, alg, MessageType::ExternalMu, &mu, &signature).unwrap());
            assert!(!verify(test.spec, &spki, alg, MessageType::ExternalMu, &mu, &signature[1..]).unwrap());
        }
    }
}

/// FIPS 204, 6.2: μ = H(H(pk) || 0 || 0 || M), by OpenSSL's SHAKE256.
#[test]
fn a_representative_computed_outside_stands_for_its_message() {
    let shake = |parts: &[&[u8]]| {
        let mut hasher = openssl::hash::Hasher::new(MessageDigest::shake_256()).unwrap();
        parts.iter().for_each(|part| hasher.update(part).unwrap());
        let mut out = [0; 64];
        hasher.finish_xof(&mut out).unwrap();
        out
    };
    for (spec, len) in [(KeySpec::MlDsa44, 1312), (KeySpec::MlDsa65, 1952), (KeySpec::MlDsa87, 2592)] {
        let (key, alg) = (&KEYS[&spec], SigningAlgorithm::MlDsaShake256);
        let spki = key.public_key_der().unwrap();
        let mu = shake(&[&shake(&[&spki[spki.len() - len..]]), &[0, 0], b"message"]);
        let signature = key.sign(alg, MessageType::ExternalMu, &mu).unwrap();
        assert!(verify(spec, &spki, alg, MessageType::Raw, b"message", &signature).unwrap(), "{spec}");
        assert!(!verify(spec, &spki, alg, MessageType::Raw, b"massage", &signature).unwrap(), "{spec}");
        assert_ne!(key.sign(alg, MessageType::ExternalMu, &mu).unwrap(), signature, "hedged");
        assert_eq!(key.sign(alg, MessageType::ExternalMu, &mu[1..]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(key.sign(alg, MessageType::Digest, &mu).unwrap_err().kind(), Kind::Usage);
    }
}

#[derive(Deserialize)]
struct Oaep {
    spec: KeySpec,
    alg: EncryptionAlgorithm,
    pkcs8: String,
    /// Name, ciphertext, plaintext, whether it is valid.
    tests: Vec<(String, String, String, bool)>,
}

#[test]
fn oaep_decrypts_as_wycheproof_has_it() {
    let groups: Vec<Oaep> = vectors(include_str!("vectors/oaep.json"));
    for group in groups {
        let key = PrivateKey::from_pkcs8(group.spec, &hex(&group.pkcs8)).unwrap();
        assert!(group.tests.iter().any(|t| t.3) && group.tests.iter().any(|t| !t.3));
        for (name, ciphertext, plaintext, valid) in &group.tests {
            match key.decrypt(group.alg, &hex(ciphertext)) {
                Ok(found) => assert!(*valid && *found == hex(plaintext), "{name}"),
                Err(err) => assert!(!valid && err.kind() == Kind::InvalidCiphertext, "{name}: {}", err.line()),
            }
        }
    }
}

#[test]
fn decryption_needs_the_key_the_algorithm_and_the_length() {
    let (key, alg) = (&KEYS[&KeySpec::Rsa2048], EncryptionAlgorithm::RsaesOaepSha256);
    let ciphertext = encrypt(key.spec(), &key.public_key_der().unwrap(), alg, b"secret").unwrap();
    assert_eq!(**key.decrypt(alg, &ciphertext).unwrap(), b"secret"[..]);
    let faults = [
        key.decrypt(alg, &ciphertext[1..]),
        key.decrypt(alg, &[&[0], &ciphertext[..]].concat()),
        key.decrypt(alg, &[]),
        key.decrypt(alg, &[0xff; 256]),
        key.decrypt(EncryptionAlgorithm::RsaesOaepSha1, &ciphertext),
        PrivateKey::generate(KeySpec::Rsa2048).unwrap().decrypt(alg, &ciphertext),
    ];
    assert!(faults.into_iter().all(|f| f.unwrap_err().kind() == Kind::InvalidCiphertext));
    assert_eq!(key.decrypt(EncryptionAlgorithm::SymmetricDefault, &ciphertext).unwrap_err().kind(), Kind::Usage);
    assert_eq!(KEYS[&KeySpec::EccNistP256].decrypt(alg, &ciphertext).unwrap_err().kind(), Kind::Usage);
}

#[derive(Deserialize)]
struct Ecdh {
    spec: KeySpec,
    /// Name, private key, public key, shared secret, whether it is valid.
    tests: Vec<(String, String, String, String, bool)>,
}

#[test]
fn secrets_are_those_of_wycheproof() {
    let groups: Vec<Ecdh> = vectors(include_str!("vectors/ecdh.json"));
    assert_eq!(groups.len(), 3);
    for group in groups {
        assert!(group.tests.iter().any(|t| t.4) && group.tests.iter().any(|t| !t.4));
        for (name, private, public, shared, valid) in &group.tests {
            let key = PrivateKey::from_pkcs8(group.spec, &hex(private)).unwrap();
            match key.agree(&hex(public)) {
                Ok(found) => assert!(*valid && *found == hex(shared), "{name}"),
                Err(err) => assert!(!valid && err.kind() == Kind::Usage, "{name}: {}", err.line()),
            }
        }
    }
}

#[test]
fn openssl_agrees_and_a_wrong_peer_is_refused() {
    for (spec, nid) in [
        (KeySpec::EccNistP256, Nid::X9_62_PRIME256V1),
        (KeySpec::EccNistP384, Nid::SECP384R1),
        (KeySpec::EccNistP521, Nid::SECP521R1),
    ] {
        let key = &KEYS[&spec];
        let theirs = EcKey::generate(&EcGroup::from_curve_name(nid).unwrap()).unwrap();
        let theirs = PKey::from_ec_key(theirs).unwrap();
        let ours = PKey::public_key_from_der(&key.public_key_der().unwrap()).unwrap();
        let mut deriver = openssl::derive::Deriver::new(&theirs).unwrap();
        deriver.set_peer(&ours).unwrap();
        let peer = theirs.public_key_to_der().unwrap();
        assert_eq!(*key.agree(&peer).unwrap(), deriver.derive_to_vec().unwrap(), "{spec}");
        let refused = |peer: &[u8], why: &str| assert_eq!(key.agree(peer).unwrap_err().kind(), Kind::Usage, "{why}");
        for other in ASYMMETRIC.into_iter().filter(|other| *other != spec) {
            refused(&KEYS[&other].public_key_der().unwrap(), other.name());
        }
        let point = theirs.ec_key().unwrap();
        let mut ctx = openssl::bn::BigNumContext::new().unwrap();
        let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
        let point = point.public_key().to_bytes(point.group(), form, &mut ctx).unwrap();
        refused(&point, "a bare point");
        refused(&peer[..peer.len() - 1], "truncated");
        refused(&[&peer[..], &[0]].concat(), "longer");
        refused(&[], "empty");
        let mut off_the_curve = peer;
        *off_the_curve.last_mut().unwrap() ^= 1;
        refused(&off_the_curve, "not on the curve");
    }
    for spec in [KeySpec::EccSecgP256k1, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048, KeySpec::MlDsa44] {
        let own = KEYS[&spec].public_key_der().unwrap();
        assert_eq!(KEYS[&spec].agree(&own).unwrap_err().kind(), Kind::Usage, "{spec}");
    }
}

#[test]
fn a_stored_key_opens_as_its_own_spec_only() {
    for spec in ASYMMETRIC {
        let pkcs8 = KEYS[&spec].to_pkcs8().unwrap();
        let again = PrivateKey::from_pkcs8(spec, &pkcs8).unwrap();
        assert_eq!(again.to_pkcs8().unwrap(), pkcs8);
        assert_eq!(again.public_key_der().unwrap(), KEYS[&spec].public_key_der().unwrap());
        let refused = |spec, pkcs8: &[u8], why: &str| {
            let err = PrivateKey::from_pkcs8(spec, pkcs8).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{spec}: {why}");
        };
        for other in KeySpec::ALL.iter().filter(|other| **other != spec) {
            refused(*other, &pkcs8, spec.name());
        }
        refused(spec, &pkcs8[..pkcs8.len() - 1], "truncated");
        refused(spec, &[&pkcs8[..], &[0]].concat(), "longer");
        refused(spec, &KEYS[&spec].public_key_der().unwrap(), "a public key");
        assert_eq!(format!("{again:?}"), format!("PrivateKey({spec}, redacted)"));
    }
    assert_eq!(PrivateKey::generate(KeySpec::Hmac256).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn keys_made_by_openssl_open_and_odd_sizes_do_not() {
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap().private_key_to_pkcs8().unwrap();
    let key = PrivateKey::from_pkcs8(KeySpec::Rsa2048, &rsa(2048)).unwrap();
    assert_eq!(key.spec(), KeySpec::Rsa2048);
    for bits in [1024, 2040, 2056] {
        assert!(PrivateKey::from_pkcs8(KeySpec::Rsa2048, &rsa(bits)).is_err(), "{bits}");
    }
    // A private key that does not belong to the public key beside it.
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let (one, two) = (EcKey::generate(&group).unwrap(), EcKey::generate(&group).unwrap());
    let pkcs8 = |key| PKey::from_ec_key(key).unwrap().private_key_to_pkcs8().unwrap();
    let mixed = EcKey::from_private_components(&group, one.private_key(), two.public_key()).unwrap();
    assert!(PrivateKey::from_pkcs8(KeySpec::EccNistP256, &pkcs8(mixed)).is_err());
    assert!(PrivateKey::from_pkcs8(KeySpec::EccNistP256, &pkcs8(one)).is_ok());
}

#[test]
fn an_algorithm_of_another_spec_is_refused() {
    for spec in ASYMMETRIC {
        for alg in SigningAlgorithm::ALL {
            let has = spec.signing_algorithms(KeyUsage::SignVerify).contains(alg);
            let result = KEYS[&spec].sign(*alg, MessageType::Raw, b"message");
            assert_eq!(result.is_ok(), has && *alg != SigningAlgorithm::Ed25519PhSha512, "{spec} {alg}");
        }
        for len in [0, 4097] {
            let alg = spec.signing_algorithms(KeyUsage::SignVerify)[0];
            assert_eq!(KEYS[&spec].sign(alg, MessageType::Raw, &vec![1; len]).unwrap_err().kind(), Kind::Usage);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_key_or_a_secret(which in 0usize..11, junk in prop::collection::vec(any::<u8>(), 0..300),
                                       at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let spec = ASYMMETRIC[which];
        prop_assert!(PrivateKey::from_pkcs8(spec, &junk).is_err());
        let mut changed = KEYS[&spec].to_pkcs8().unwrap().to_vec();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        // It may be another key; it must not be trouble.
        if let Ok(key) = PrivateKey::from_pkcs8(spec, &changed) {
            prop_assert_eq!(key.spec(), spec);
            prop_assert!(key.public_key_der().is_ok());
        }
        prop_assert!(KEYS[&KeySpec::EccNistP256].agree(&junk).is_err());
    }
}
