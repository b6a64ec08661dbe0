//! coffer's cipher alone, out of coffer's own files, with its own tests: small enough to be built for another processor,
//! and under a sanitizer. See `run`.

#[path = "../../../src/secret.rs"]
pub mod secret;
#[path = "../../../src/sys.rs"]
pub mod sys;
#[path = "../../../src/cipher/xts/mod.rs"]
pub mod xts;

pub mod units {
    //! What the cipher uses of coffer's units.
    pub const SECTOR: usize = 4096;
    pub const PART: usize = 512;
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SectorNo(pub u64);
}

pub mod cipher {
    //! Where coffer has it.
    pub use super::*;
}

#[derive(Debug)]
pub struct DataKey(secret::Secret<64>);
#[derive(Debug)]
pub struct Unwrapped<T>(T);

impl<T> Unwrapped<T> {
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// A key of one repeated pattern.
pub fn test_key(seed: u8) -> Unwrapped<DataKey> {
    Unwrapped(DataKey(secret::Secret::build(|out| {
        out.iter_mut().enumerate().for_each(|(i, b)| *b = seed.wrapping_mul(31).wrapping_add(i as u8));
    })))
}
