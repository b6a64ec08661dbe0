use super::super::testing::{INSTALLATION, KEY, root};
use super::*;
use crate::env::SystemRng;
use proptest::prelude::*;

const ID: &str = "ASIAIOSFODNN7EXAMPLE";

fn tokens() -> Tokens {
    Tokens::new(INSTALLATION, &root())
}

fn session() -> Session {
    Session {
        holder: "AROACKCEVSQ6C2EXAMPLE".into(),
        session_name: Some("build-7".into()),
        issued: Timestamp(1_800_000_000_000),
        expires: Timestamp(1_800_003_600_000),
        policies: vec![r#"{"Statement":[]}"#.into()],
        tags: Tags::from([("team".into(), "größe".into())]),
        transitive: BTreeSet::from(["team".into()]),
    }
}

/// HKDF of RFC 5869 for at most one block, over OpenSSL's HMAC.
fn hkdf(ikm: &[u8], salt: &[u8], info: &[u8], len: usize) -> Vec<u8> {
    use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
    let hmac = |key: &[u8], data: &[u8]| {
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.sign_oneshot_to_vec(data).unwrap()
    };
    // OpenSSL refuses an empty key; HMAC pads a key with zeros anyway.
    let salt = if salt.is_empty() { &[0u8; 32][..] } else { salt };
    let prk = hmac(salt, ikm);
    hmac(&prk, &[info, &[1]].concat())[..len].to_vec()
}

/// The bytes are those of this module's documentation, for another implementation too.
#[test]
fn openssl_opens_a_token_and_derives_its_secret() {
    let (token, secret) = tokens().seal(ID, &session(), &SystemRng).unwrap();
    let raw = openssl::base64::decode_block(&token).unwrap();
    assert_eq!(raw[..2], [1, 1]);
    let key = hkdf(&[KEY; 32], &[], &[b"coffer/session-token/v1", ID.as_bytes()].concat(), 32);
    let key = hkdf(&key, &[], b"coffer/local-seal/v1", 32);
    let aad = [b"coffer/session-token/v1", &INSTALLATION.0[..]].concat();
    let (ciphertext, tag) = raw[14..].split_at(raw.len() - 14 - 16);
    let cipher = openssl::symm::Cipher::aes_256_gcm();
    let plain = openssl::symm::decrypt_aead(cipher, &key, Some(&raw[2..14]), &aad, ciphertext, tag).unwrap();
    assert_eq!(
        std::str::from_utf8(&plain).unwrap(),
        r#"{"holder":"AROACKCEVSQ6C2EXAMPLE","name":"build-7","issued":1800000000000,"expires":1800003600000,"policies":["{\"Statement\":[]}"],"tags":{"team":"größe"},"transitive":["team"]}"#
    );
    let derived = hkdf(&[KEY; 32], &raw, &[b"coffer/session-secret/v1", ID.as_bytes()].concat(), 30);
    assert_eq!(openssl::base64::encode_block(&derived), *secret);
    assert_eq!(secret.len(), 40);
}

#[test]
fn a_token_opens_with_its_own_access_key_and_installation_alone() {
    let (token, secret) = tokens().seal(ID, &session(), &SystemRng).unwrap();
    let (opened, again) = tokens().open(ID, &token).unwrap();
    assert_eq!((opened, &*again), (session(), &*secret));
    let other_root = Secret::<32>::build(|out| out.fill(1));
    let others = [Tokens::new(InstallationId([8; 16]), &root()), Tokens::new(INSTALLATION, &other_root)];
    let refused = |tokens: &Tokens, id: &str, token: &str| {
        let err = tokens.open(id, token).unwrap_err();
        assert_eq!((err.kind(), err.why()), (Kind::AccessDenied, Some(Reason::UnrecognizedClient)));
        assert!(!err.line().contains(token) || token.len() < 4, "{}", err.line());
    };
    others.iter().for_each(|other| refused(other, ID, &token));
    for id in ["ASIAIOSFODNN7EXAMPLF", "ASIA", "AKIAIOSFODNN7EXAMPLE", ""] {
        refused(&tokens(), id, &token);
    }
    for bad in ["", "A", "AQ==", "AQE=", &token[..token.len() - 4], &format!("{token}AAAA"), &format!(" {token}")] {
        refused(&tokens(), ID, bad);
    }
    refused(&tokens(), ID, &"A".repeat(MAX_TOKEN + 4));
}

#[test]
fn every_session_has_another_token_and_secret() {
    let [a, b] = [(); 2].map(|()| tokens().seal(ID, &session(), &SystemRng).unwrap());
    assert!(a.0 != b.0 && a.1 != b.1);
}

#[test]
fn the_largest_session_fits_into_the_longest_token() {
    let empty = serde_json::to_vec(&Session { policies: vec![String::new()], ..session() }).unwrap().len();
    let filled = |extra: usize| Session { policies: vec!["x".repeat(MAX_SESSION - empty + extra)], ..session() };
    let (token, _) = tokens().seal(ID, &filled(0), &SystemRng).unwrap();
    assert!(token.len() <= MAX_TOKEN && token.len() > MAX_TOKEN - 4, "{}", token.len());
    assert_eq!(tokens().open(ID, &token).unwrap().0, filled(0));
    let err = tokens().seal(ID, &filled(1), &SystemRng).unwrap_err();
    assert_eq!((err.kind(), err.aws()), (Kind::Usage, "PackedPolicyTooLarge"));
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_panic(text in any::<String>(), raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        for token in [text, STANDARD.encode(&raw), STANDARD.encode([&[1, 1], &raw[..]].concat())] {
            prop_assert_eq!(tokens().open(ID, &token).unwrap_err().why(), Some(Reason::UnrecognizedClient));
        }
    }

    /// Of the text, so that bits which base64 does not use are among them.
    #[test]
    fn a_token_with_another_bit_is_refused(at in any::<proptest::sample::Index>(), bit in 0..7u8) {
        let (token, _) = tokens().seal(ID, &session(), &SystemRng).unwrap();
        let mut bytes = token.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = String::from_utf8(bytes) {
            prop_assert!(tokens().open(ID, &other).is_err());
        }
    }
}
