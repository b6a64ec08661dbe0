use super::super::KeySpec;
use super::super::testing::{hex, vectors};
use super::*;
use openssl::encrypt::Encrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Padding;
use proptest::prelude::*;
use std::sync::LazyLock;

static KEY: LazyLock<WrappingKey> = LazyLock::new(|| WrappingKey::generate(WrappingKeySpec::Rsa2048).unwrap());

/// Encrypts with OpenSSL, under the public key of `key`.
fn oaep_by_openssl(key: &WrappingKey, md: MessageDigest, plaintext: &[u8]) -> Vec<u8> {
    let public = PKey::public_key_from_der(&key.public_key_der().unwrap()).unwrap();
    let mut encrypter = Encrypter::new(&public).unwrap();
    encrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
    encrypter.set_rsa_oaep_md(md).unwrap();
    encrypter.set_rsa_mgf1_md(md).unwrap();
    let mut out = vec![0; encrypter.encrypt_len(plaintext).unwrap()];
    let len = encrypter.encrypt(plaintext, &mut out).unwrap();
    out.truncate(len);
    out
}

/// Name, AES key, material, wrapped material, whether it is valid.
type Kwp = (String, String, String, String, bool);

fn kwp() -> Vec<Kwp> {
    vectors(include_str!("vectors/kwp.json"))
}

#[test]
fn material_wrapped_by_openssl_and_wycheproof_unwraps() {
    let all = kwp();
    assert!(all.iter().any(|t| t.4) && all.iter().any(|t| !t.4));
    for (name, aes, material, wrapped, valid) in all {
        for (alg, md) in [
            (WrappingAlgorithm::RsaAesKeyWrapSha1, MessageDigest::sha1()),
            (WrappingAlgorithm::RsaAesKeyWrapSha256, MessageDigest::sha256()),
        ] {
            let encrypted = [oaep_by_openssl(&KEY, md, &hex(&aes)), hex(&wrapped)].concat();
            match KEY.unwrap(alg, &encrypted) {
                Ok(found) => assert!(valid && *found == hex(&material), "{name}"),
                Err(err) => assert!(!valid && err.kind() == Kind::InvalidCiphertext, "{name}: {}", err.line()),
            }
        }
    }
}

#[test]
fn material_encrypted_by_openssl_decrypts() {
    for spec in WrappingKeySpec::ALL {
        let key = WrappingKey::generate(*spec).unwrap();
        let key = WrappingKey::from_pkcs8(*spec, &key.to_pkcs8().unwrap()).unwrap();
        for (alg, md) in [
            (WrappingAlgorithm::RsaesOaepSha1, MessageDigest::sha1()),
            (WrappingAlgorithm::RsaesOaepSha256, MessageDigest::sha256()),
        ] {
            let encrypted = oaep_by_openssl(&key, md, &[7; 32]);
            assert_eq!(*key.unwrap(alg, &encrypted).unwrap(), [7; 32]);
        }
        let public = PKey::public_key_from_der(&key.public_key_der().unwrap()).unwrap();
        assert_eq!(public.bits() as usize, KeySpec::from(*spec).modulus_bits().unwrap());
    }
}

#[test]
fn every_fault_is_the_same_error() {
    let aes = [9; 32];
    let (_, kwp_key, _, kwp_wrapped, _) = kwp().into_iter().find(|t| t.4).unwrap();
    let sha256 = MessageDigest::sha256();
    let good = oaep_by_openssl(&KEY, sha256, &aes);
    let mut changed = good.clone();
    changed[100] ^= 1;
    let other = WrappingKey::generate(WrappingKeySpec::Rsa2048).unwrap();
    let short_aes = [oaep_by_openssl(&KEY, sha256, &[9; 16]), hex(&kwp_wrapped)].concat();
    let wrong_aes = [good.clone(), hex(&kwp_wrapped)].concat();
    let whole = [oaep_by_openssl(&KEY, sha256, &hex(&kwp_key)), hex(&kwp_wrapped)].concat();
    let oaep = WrappingAlgorithm::RsaesOaepSha256;
    let wrap = WrappingAlgorithm::RsaAesKeyWrapSha256;
    assert!(KEY.unwrap(wrap, &whole).is_ok());
    let faults = [
        KEY.unwrap(oaep, &[]),
        KEY.unwrap(oaep, &changed),
        KEY.unwrap(oaep, &good[1..]),
        KEY.unwrap(oaep, &[&good[..], &[0]].concat()),
        KEY.unwrap(WrappingAlgorithm::RsaesOaepSha1, &good),
        other.unwrap(oaep, &good),
        KEY.unwrap(oaep, &oaep_by_openssl(&KEY, sha256, &[])),
        KEY.unwrap(wrap, &good),
        KEY.unwrap(wrap, &short_aes),
        KEY.unwrap(wrap, &wrong_aes),
        KEY.unwrap(wrap, &whole[..whole.len() - 1]),
        KEY.unwrap(wrap, &[&whole[..], &[0; 8]].concat()),
        KEY.unwrap(wrap, &vec![0; MAX_MATERIAL + 1]),
        KEY.unwrap(WrappingAlgorithm::RsaAesKeyWrapSha1, &whole),
    ];
    let lines: Vec<_> = faults.into_iter().map(|fault| fault.unwrap_err()).collect();
    assert!(lines.iter().all(|e| e.kind() == Kind::InvalidCiphertext && e.line() == lines[0].line()));
}

#[test]
fn pkcs1_is_refused() {
    let err = KEY.unwrap(WrappingAlgorithm::RsaesPkcs1V15, &[0; 256]).unwrap_err();
    assert_eq!(err.kind(), Kind::Unsupported);
}

#[test]
fn a_pair_of_another_size_is_refused() {
    let pkcs8 = KEY.to_pkcs8().unwrap();
    assert_eq!(WrappingKey::from_pkcs8(WrappingKeySpec::Rsa4096, &pkcs8).unwrap_err().kind(), Kind::Usage);
    assert_eq!(format!("{:?}", *KEY), "WrappingKey(PrivateKey(RSA_2048, redacted))");
}

proptest! {
    #[test]
    fn no_bytes_make_unwrap_panic(which in 0usize..5, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(KEY.unwrap(WrappingAlgorithm::ALL[which], &bytes).is_err());
    }
}
