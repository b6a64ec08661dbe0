use super::super::testing::{hex, vectors};
use super::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Group {
    spec: KeySpec,
    alg: MacAlgorithm,
    /// Name, key, message, MAC, whether it is valid.
    tests: Vec<(String, String, String, String, bool)>,
}

#[test]
fn macs_are_those_of_wycheproof() {
    let groups: Vec<Group> = vectors(include_str!("vectors/hmac.json"));
    assert_eq!(groups.len(), 4);
    for group in groups {
        assert!(group.tests.iter().any(|t| t.4) && group.tests.iter().any(|t| !t.4));
        for (name, key, message, mac, valid) in &group.tests {
            let key = MacKey::from_bytes(group.spec, &hex(key)).unwrap();
            let (message, mac) = (hex(message), hex(mac));
            assert_eq!(key.mac(group.alg, &message).unwrap() == mac, *valid, "{name}");
            assert_eq!(key.verify(group.alg, &message, &mac).unwrap(), *valid, "{name}");
        }
    }
}

/// RFC 4231, 4.3: test case 2. Its key has four bytes, which RFC 2104 pads with zeros: so may the caller.
#[test]
fn macs_are_those_of_rfc_4231() {
    let message = b"what do ya want for nothing?";
    for (spec, alg, mac) in [
        (KeySpec::Hmac224, MacAlgorithm::HmacSha224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
        (
            KeySpec::Hmac256,
            MacAlgorithm::HmacSha256,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            KeySpec::Hmac384,
            MacAlgorithm::HmacSha384,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            KeySpec::Hmac512,
            MacAlgorithm::HmacSha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d\
             4a6b4b636e070a38bce737",
        ),
    ] {
        let mut key = b"Jefe".to_vec();
        key.resize(key_len(spec).unwrap(), 0);
        let key = MacKey::from_bytes(spec, &key).unwrap();
        assert_eq!(key.mac(alg, message).unwrap(), hex(mac), "{alg}");
    }
}

#[test]
fn a_short_or_changed_mac_is_wrong() {
    let key = MacKey::generate(KeySpec::Hmac256).unwrap();
    let alg = MacAlgorithm::HmacSha256;
    let mac = key.mac(alg, b"message").unwrap();
    assert!(key.verify(alg, b"message", &mac).unwrap());
    assert!(!key.verify(alg, b"message", &mac[..31]).unwrap());
    assert!(!key.verify(alg, b"message", &[]).unwrap());
    assert!(!key.verify(alg, b"message", &[&mac[..], &[0]].concat()).unwrap());
    assert!(!key.verify(alg, b"massage", &mac).unwrap());
    assert!(!MacKey::generate(KeySpec::Hmac256).unwrap().verify(alg, b"message", &mac).unwrap());
}

#[test]
fn keys_messages_and_algorithms_have_limits() {
    for (spec, len) in [(KeySpec::Hmac224, 28), (KeySpec::Hmac256, 32), (KeySpec::Hmac384, 48), (KeySpec::Hmac512, 64)]
    {
        let key = MacKey::generate(spec).unwrap();
        assert_eq!(key.to_bytes().len(), len);
        assert_ne!(key.to_bytes(), MacKey::generate(spec).unwrap().to_bytes());
        assert_eq!(MacKey::from_bytes(spec, &key.to_bytes()).unwrap().to_bytes(), key.to_bytes());
        for wrong in [0, len - 1, len + 1] {
            assert_eq!(MacKey::from_bytes(spec, &vec![0; wrong]).unwrap_err().kind(), Kind::Usage);
        }
        for alg in MacAlgorithm::ALL {
            let own = alg.name().rsplit('_').next() == spec.name().rsplit('_').next();
            assert_eq!(key.mac(*alg, b"x").is_ok(), own, "{spec} {alg}");
        }
        let alg = spec.mac_algorithms(KeyUsage::GenerateVerifyMac)[0];
        assert!(key.mac(alg, &[1; 4096]).is_ok());
        assert_eq!(key.mac(alg, &[1; 4097]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(key.mac(alg, &[]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(format!("{key:?}"), format!("MacKey({spec}, redacted)"));
    }
    assert_eq!(MacKey::generate(KeySpec::SymmetricDefault).unwrap_err().kind(), Kind::Usage);
    assert_eq!(MacKey::from_bytes(KeySpec::Rsa2048, &[0; 32]).unwrap_err().kind(), Kind::Usage);
}
