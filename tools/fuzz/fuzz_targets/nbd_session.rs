//! NBD bytes in random pieces through a session: no panic, the same result as in one piece, and what decodes encodes back.
//! The first eight bytes of an input choose the pieces. Run: `cargo +nightly fuzz run --fuzz-dir tools/fuzz nbd_session`.

#![no_main]

use coffer::nbd::replay;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first_chunk::<8>() else { return };
    assert_eq!(replay::drive(bytes, u64::from_be_bytes(*seed)), replay::drive(bytes, 0));
    for at in 0..bytes.len().min(64) {
        assert!(replay::encodes_back(&bytes[at..]));
    }
});
