use super::*;
use crate::env::SystemRng;
use proptest::prelude::*;

/// Made with Python's `cryptography` 48 (HKDF, AESGCM) and hashlib from the layout in the module's documentation.
const KNOWN_BLOB: &str = "434f464201010100001234abcd12ab34cda6ef1234567890abff6b4371a2b413997141416facebcba474e312317493a2f176a8b836903e5ea36465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182830000311eefa51eacafa51d40b5c5a87a9d07a392c6aa5568a370ac069b9c0f0f169966a785a8e430c52bfce975c013192917b9320c8f54fd4790f19f92e8331f";
const KNOWN_CONTEXT: &str =
    "020000000a0000006177733a6562733a696415000000766f6c2d303132333435363738396162636465663002000000c38402000000c3b6";
const KNOWN_LOCAL: &str = "010707070707070707070707072d22c3921547461142e0d4c977cc6c274e95330032c094bf3cf3bfc3e0d41f3e577a8553e692b2dcb36325ad1a107cf1";
const KEY: &str = "1234abcd-12ab-34cd-a6ef-1234567890ab";

fn counting(from: u8) -> Secret<32> {
    Secret::build(|out| out.iter_mut().enumerate().for_each(|(i, b)| *b = from + i as u8))
}

fn backing() -> Box<dyn WrappingKey> {
    Box::new(BackingKey::new(KEY.parse().unwrap(), counting(0)))
}

fn context() -> EncryptionContext {
    let mut context = EncryptionContext::of("aws:ebs:id", "vol-0123456789abcdef0");
    context.insert("Ä", "ö").unwrap();
    context
}

#[test]
fn a_blob_is_what_an_independent_implementation_makes() {
    let nonce: Vec<u8> = (100..132).collect();
    let blob = backing().seal_with(Purpose::General, &context(), b"attack at dawn", &nonce).unwrap();
    assert_eq!(hex::encode(&blob), KNOWN_BLOB);
    assert_eq!(hex::encode(context().canonical()), KNOWN_CONTEXT);
    let plain = backing().open_bytes(&Blob::parse(&blob).unwrap(), &context()).unwrap();
    assert_eq!(&plain[..], b"attack at dawn");
}

#[test]
fn a_local_seal_is_what_an_independent_implementation_makes() {
    let sealed = hex::decode(KNOWN_LOCAL).unwrap();
    let open = open_local::<32>(&counting(0), b"aad", &sealed).unwrap();
    assert!(open.ct_eq(&counting(32)));
    assert!(open_local::<32>(&counting(0), b"AAD", &sealed).is_err());
    assert!(open_local::<32>(&counting(1), b"aad", &sealed).is_err());
    for i in 0..sealed.len() {
        let mut torn = sealed.clone();
        torn[i] ^= 1;
        assert_eq!(open_local::<32>(&counting(0), b"aad", &torn).unwrap_err().kind(), Kind::Integrity, "byte {i}");
        assert!(open_local::<32>(&counting(0), b"aad", &sealed[..i]).is_err());
    }
}

#[test]
fn every_byte_of_a_volume_blob_counts() {
    let ctx = context();
    let (blob, key) = backing().new_data_key(&ctx, &SystemRng).unwrap();
    let id = key.get().id();
    assert_eq!(backing().open_data_key(&Blob::parse(&blob).unwrap(), &ctx, id).unwrap().get().id(), id);
    for i in 0..blob.len() {
        for bit in [1, 0x80] {
            let mut torn = blob.clone();
            torn[i] ^= bit;
            let opened = Blob::parse(&torn).and_then(|b| backing().open_data_key(&b, &ctx, id));
            assert_eq!(opened.unwrap_err().kind(), Kind::InvalidCiphertext, "byte {i}");
        }
        assert!(Blob::parse(&blob[..i]).and_then(|b| backing().open_data_key(&b, &ctx, id)).is_err());
    }
    let longer = [&blob[..], &[0]].concat();
    assert!(Blob::parse(&longer).and_then(|b| backing().open_data_key(&b, &ctx, id)).is_err());
}

#[test]
fn a_volume_key_opens_under_its_own_context_id_and_purpose_only() {
    let (blob, key) = backing().new_data_key(&context(), &SystemRng).unwrap();
    let blob = Blob::parse(&blob).unwrap();
    let id = key.get().id();
    let other = EncryptionContext::of("aws:ebs:id", "vol-0123456789abcdef1");
    assert!(backing().open_data_key(&blob, &other, id).is_err());
    assert!(backing().open_data_key(&blob, &context(), DataKeyId([0; 16])).is_err());
    assert!(backing().open_bytes(&blob, &context()).is_err());
    let general = backing().seal_bytes(&context(), &[7; 64], &SystemRng).unwrap();
    assert!(backing().open_data_key(&Blob::parse(&general).unwrap(), &context(), id).is_err());
}

#[test]
fn equal_halves_are_refused_when_unwrapped() {
    let blob = backing().seal(Purpose::Volume, &context(), &[9; 64], &SystemRng).unwrap();
    let id = DataKey(Secret::build(|b| b.fill(9))).id();
    let err = backing().open_data_key(&Blob::parse(&blob).unwrap(), &context(), id).unwrap_err();
    assert!(err.what().contains("equal"), "{err}");
    assert!(checked(Secret::build(|b| b.fill(1)), Kind::Failed).is_err());
}

#[test]
fn public_plaintexts_are_1_to_4096_bytes_and_their_blobs_stay_in_bounds() {
    let empty = EncryptionContext::new();
    for (len, fits) in [(0, false), (1, true), (4096, true), (4097, false)] {
        let blob = backing().seal_bytes(&empty, &vec![1; len], &SystemRng);
        assert_eq!(blob.is_ok(), fits, "{len}");
        assert!(blob.map_or(0, |b| b.len()) <= MAX_BLOB);
    }
}

#[test]
fn contexts_refuse_what_two_readers_would_read_differently() {
    assert!(EncryptionContext::from_json(r#"{"a":"1","a":"2"}"#).is_err());
    assert!(EncryptionContext::from_json(r#"{"a":1}"#).is_err());
    assert!(EncryptionContext::from_json(r#"{"":"1"}"#).is_err());
    assert!(EncryptionContext::from_json(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CONTEXT))).is_err());
    let ctx = EncryptionContext::from_json(r#"{"b":"2","a":"1"}"#).unwrap();
    assert_eq!(ctx.to_json(), r#"{"a":"1","b":"2"}"#);
    assert_eq!(EncryptionContext::new().canonical(), [0; 4]);
    // No two contexts share canonical bytes: these include the boundary between key and value.
    assert_ne!(EncryptionContext::of("ab", "c").canonical(), EncryptionContext::of("a", "bc").canonical());
}

#[test]
fn key_ids_read_both_forms() {
    for good in [KEY, "mrk-1234abcd12ab34cd56ef1234567890ab"] {
        assert_eq!(good.parse::<KeyId>().unwrap().to_string(), good);
    }
    for bad in ["", "mrk-", "mrk-12", "1234abcd12ab34cd56ef1234567890ab", "{1234abcd-12ab-34cd-a6ef-1234567890ab}"] {
        assert!(bad.parse::<KeyId>().is_err(), "{bad}");
    }
    let kinds: [KeyId; 2] = [KEY.parse().unwrap(), "mrk-1234abcd12ab34cda6ef1234567890ab".parse().unwrap()];
    assert_ne!(kinds[0], kinds[1]);
}

#[test]
fn nothing_secret_is_shown() {
    let key = BackingKey::new(KEY.parse().unwrap(), Secret::build(|b| b.fill(0xa7)));
    let shown = format!("{key:?} {key:#?}").to_lowercase();
    assert!(!shown.contains("a7a7") && !shown.contains("167, 167"), "{shown}");
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(blob) = Blob::parse(&bytes) {
            prop_assert!(backing().open_bytes(&blob, &EncryptionContext::new()).is_err());
        }
    }

    #[test]
    fn near_blobs_parse_or_fail_without_panic(at in 0usize..160, value: u8, cut in 0usize..200) {
        let mut bytes = hex::decode(KNOWN_BLOB).unwrap();
        let at = at.min(bytes.len() - 1);
        let same = bytes[at] == value;
        bytes[at] = value;
        bytes.truncate(cut.max(at + 1));
        let opened = Blob::parse(&bytes).and_then(|b| backing().open_bytes(&b, &context()));
        prop_assert_eq!(opened.is_ok(), same && bytes.len() * 2 == KNOWN_BLOB.len());
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_pairs_in_any_order(
        pairs in proptest::collection::hash_map("[a-zäß]{1,9}", "\\PC{0,20}", 0..6),
        plain in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let build = |pairs: Vec<(&String, &String)>| {
            let mut ctx = EncryptionContext::new();
            for (k, v) in pairs { ctx.insert(k.as_str(), v.as_str()).unwrap(); }
            ctx
        };
        let there = build(pairs.iter().collect());
        let mut back: Vec<_> = pairs.iter().collect();
        back.reverse();
        let blob = backing().seal_bytes(&there, &plain, &SystemRng).unwrap();
        let blob = Blob::parse(&blob).unwrap();
        prop_assert_eq!(&backing().open_bytes(&blob, &build(back)).unwrap()[..], &plain[..]);
        let mut wrong = there.clone();
        wrong.insert("0", "").unwrap();
        prop_assert!(backing().open_bytes(&blob, &wrong).is_err());
        prop_assert_eq!(EncryptionContext::from_json(&there.to_json()).unwrap(), there);
    }
}

/// A key whose bytes stay in OpenSSL: it wraps message keys by AES-KWP (RFC 5649), as PKCS #11 tokens do.
struct Token(openssl::aes::AesKey, openssl::aes::AesKey);

impl WrappingKey for Token {
    fn key_id(&self) -> KeyId {
        KEY.parse().unwrap()
    }
    fn material(&self) -> KeyMaterialId {
        KeyMaterialId([0x70; 32])
    }
    fn suite(&self) -> Suite {
        Suite::Message
    }
    fn wrap_message_key(&self, head: &[u8], nonce: &[u8]) -> Result<MessageKey> {
        let (fresh, mut recipient) = (Secret::<32>::random(), vec![0; 40]);
        openssl::aes::wrap_key(&self.0, None, &mut recipient, fresh.expose()).unwrap();
        Ok(MessageKey { keys: message_keys(&fresh, head, nonce), recipient })
    }
    fn unwrap_message_key(&self, head: &[u8], nonce: &[u8], recipient: &[u8]) -> Result<Secret<64>> {
        let wrong = |_| bad("the message key does not unwrap");
        let fresh =
            Secret::try_build(|out| openssl::aes::unwrap_key(&self.1, None, out, recipient).map(drop).map_err(wrong))?;
        Ok(message_keys(&fresh, head, nonce))
    }
}

/// Suite 2: the same blob code, over a key that only wraps and unwraps.
#[test]
fn a_key_that_gives_no_bytes_away_makes_blobs_too() {
    let [wrap, unwrap] =
        [openssl::aes::AesKey::new_encrypt, openssl::aes::AesKey::new_decrypt].map(|new| new(&[3; 32]));
    let token: Box<dyn WrappingKey> = Box::new(Token(wrap.unwrap(), unwrap.unwrap()));
    let blob = token.seal_bytes(&context(), &[5; MAX_PLAINTEXT], &SystemRng).unwrap();
    assert!(blob.len() <= MAX_BLOB);
    let parsed = Blob::parse(&blob).unwrap();
    assert_eq!((parsed.suite(), parsed.plaintext_len()), (Suite::Message, MAX_PLAINTEXT));
    assert_eq!(token.open_bytes(&parsed, &context()).unwrap()[..], [5; MAX_PLAINTEXT]);
    assert!(token.open_bytes(&parsed, &EncryptionContext::new()).is_err());
    assert!(backing().open_bytes(&parsed, &context()).is_err(), "another key");
    let (blob, key) = token.new_data_key(&context(), &SystemRng).unwrap();
    let id = key.get().id();
    assert_eq!(token.open_data_key(&Blob::parse(&blob).unwrap(), &context(), id).unwrap().get().id(), id);
    for i in 0..blob.len() {
        let mut torn = blob.clone();
        torn[i] ^= 1;
        let opened = Blob::parse(&torn).and_then(|b| token.open_data_key(&b, &context(), id));
        assert_eq!(opened.unwrap_err().kind(), Kind::InvalidCiphertext, "byte {i}");
        assert!(Blob::parse(&blob[..i]).and_then(|b| token.open_data_key(&b, &context(), id)).is_err());
    }
}
