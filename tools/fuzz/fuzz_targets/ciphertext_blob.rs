//! Ciphertext blobs: no bytes are a panic; what parses says of itself what its bytes say, and opens under no key that did not
//! make it; and what a key makes parses and opens. Run: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz
//! ciphertext_blob`.

#![no_main]

use coffer::cipher::wrap::{BackingKey, Blob, EncryptionContext, KeyId, MAGIC, MAX_PLAINTEXT, Purpose, WrappingKey};
use coffer::env::SystemRng;
use coffer::secret::Secret;
use libfuzzer_sys::fuzz_target;

/// The key of the seeds in the corpus.
fn backing() -> BackingKey {
    let id: KeyId = "1234abcd-12ab-34cd-56ef-1234567890ab".parse().unwrap();
    BackingKey::new(id, Secret::build(|out| out.fill(7)))
}

/// The first bytes of a blob, from what it says of itself.
fn head(blob: &Blob<'_>) -> Vec<u8> {
    let purpose = match blob.purpose() {
        Purpose::General => 1,
        Purpose::Volume => 2,
    };
    let id = blob.key_id().to_string();
    let (kind, digits) = match id.strip_prefix("mrk-") {
        Some(digits) => (1, digits.to_owned()),
        None => (0, id.replace('-', "")),
    };
    let mut out = MAGIC.to_vec();
    out.extend([1, blob.suite() as u8, purpose, 0, kind]);
    let hex = digits + &blob.material().to_string();
    out.extend((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()));
    out
}

fuzz_target!(|input: &[u8]| {
    let (key, context) = (&backing() as &dyn WrappingKey, EncryptionContext::new());
    if let Ok(blob) = Blob::parse(input) {
        let head = head(&blob);
        assert_eq!(&input[..head.len()], head);
        assert!(blob.plaintext_len() < input.len());
        // Only the seeds open: to make another, an input would need a MAC of that key.
        if let Ok(plain) = key.open_bytes(&blob, &context) {
            assert_eq!(&plain[..], b"a seed of the corpus");
        }
    }
    let plain = &input[..input.len().min(MAX_PLAINTEXT)];
    let Ok(made) = key.seal_bytes(&context, plain, &SystemRng) else {
        assert!(plain.is_empty());
        return;
    };
    let blob = Blob::parse(&made).unwrap();
    assert_eq!(&made[..head(&blob).len()], head(&blob));
    assert_eq!(&key.open_bytes(&blob, &context).unwrap()[..], plain);
});
