//! Authorization headers: no panic, and what is read is what was written. Run: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir
//! tools/fuzz sigv4_header`.

#![no_main]

#[path = "../../../src/aws/sigv4/header.rs"]
#[allow(dead_code)]
pub mod header;

use header::{Authorization, SCHEME, TERMINATOR};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let Ok(read) = Authorization::parse(input) else { return };
    let Authorization { access_key_id, date, region, service, signed_headers, signature } = &read;
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    let written = format!(
        "{SCHEME} Credential={access_key_id}/{date}/{region}/{service}/{TERMINATOR}, SignedHeaders={}, Signature={signature}",
        signed_headers.join(";")
    );
    assert_eq!(Authorization::parse(&written), Ok(read));
});
