//! NBD bytes in random pieces through a session: no panic, the same result as in one piece, and what decodes encodes back.
//! The first eight bytes of an input choose the pieces. Run: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz nbd_session`.
//!
//! The protocol's modules are taken in by path, not by way of the coffer crate: they need none of its dependencies, and
//! building those anew with coverage would take minutes.

#![no_main]

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
pub mod error;
#[path = "../../../src/redact.rs"]
mod redact;

/// The names of the engine that these modules use.
#[path = "../../../src/engine"]
#[allow(dead_code, unused_imports, missing_docs)]
pub mod engine {
    mod request;
    pub use request::{Op, Request, Tag};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Extent {
        pub len: u64,
        pub flags: u32,
    }

    pub trait Device: Send + Sync {}
}

#[path = "../../../src/nbd"]
#[allow(dead_code, unused_imports)]
pub mod nbd {
    pub mod codec;
    pub mod errno;
    pub mod export;
    pub mod replay;
    pub mod reply;
    pub mod request;
    pub mod session;

    /// The one name of `controller` that these modules use.
    pub mod controller {
        pub struct Controller;
    }
}

/// The names of `sys` that these modules use.
#[path = "../../../src/sys"]
#[allow(dead_code)]
pub mod sys {
    #[allow(missing_docs)]
    pub struct PeerCred {
        pub pid: i32,
        pub uid: u32,
    }

    #[path = "process.rs"]
    mod process;
    pub use process::ProcessStat;
}

use libfuzzer_sys::fuzz_target;
use nbd::replay;

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first_chunk::<8>() else { return };
    assert_eq!(replay::drive(bytes, u64::from_be_bytes(*seed)), replay::drive(bytes, 0));
    for at in 0..bytes.len().min(64) {
        assert!(replay::encodes_back(&bytes[at..]));
    }
});
