//! The interface to the layers below: a volume as one connection holds it, in plain bytes.

use crate::error::{Error, Kind, Result};
use crate::units::VolumeId;
use std::sync::Arc;
use std::time::Duration;

pub use crate::volume::{Attempt, Blocking, PIECE};

/// An open volume or snapshot. Offsets and lengths are in bytes, of any alignment, inside [`Device::size`] and not
/// empty; many threads call at once.
///
/// The effect of a completed call is visible to every connection of the same volume, and a flush on one covers what was
/// acknowledged on all.
pub trait Device: Send + Sync {
    /// Returns the volume's id: devices of one volume share a [`super::VolumeScheduler`]. `None`: it shares nothing.
    fn volume(&self) -> Option<VolumeId> {
        None
    }
    /// Called before the volume's first request, once for each scheduler: sets its limits, and may keep it for
    /// [`VolumeControl::release`].
    fn scheduled(&self, _scheduler: &Arc<dyn VolumeControl>) {}
    /// Returns the size in bytes; it may grow while it is open, and never shrinks.
    fn size(&self) -> u64;
    /// Whether writes are rejected.
    fn read_only(&self) -> bool;
    /// Returns how long after it was read a request may still be applied, if this client's request timeout is known
    /// (half of it). `None`: the engine's default.
    fn stale_after(&self) -> Option<Duration> {
        None
    }
    /// Whether requests that fail with `KeyUnavailable` wait until the key is back, instead of failing.
    fn waits_for_key(&self) -> bool {
        false
    }
    /// Whether the key is available. [`VolumeControl::release`] is called after it came back.
    fn has_key(&self) -> bool {
        true
    }
    /// Reads `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// What the layers below report.
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt>;
    /// Writes `data` at `offset`. The data is plaintext in the engine's own buffer, which may be sealed in place: its
    /// contents are undefined after Done or an error, and unchanged after WouldBlock. `fua`: durable on return,
    /// together with everything written before. Called with at most one aligned [`PIECE`] at a time, for which
    /// `KeyUnavailable` leaves volume and data unchanged.
    ///
    /// # Errors
    /// What the layers below report.
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt>;
    /// Makes everything durable that completed before the call.
    ///
    /// # Errors
    /// What the layers below report.
    fn flush(&self) -> Result<()>;
    /// Discards a range.
    ///
    /// # Errors
    /// What the layers below report.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()>;
    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`], before anything is changed, if it must be `fast` and would not be; what the layers below
    /// report.
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()>;
    /// Prefetches a range.
    ///
    /// # Errors
    /// What the layers below report.
    fn cache(&self, offset: u64, len: u64) -> Result<()>;
    /// Returns the extents of the metadata context of that name, from `offset` on: at least one, at most `most`, at
    /// most `len` bytes in all, possibly fewer.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a context that it does not have; what the layers below report.
    fn extents(&self, context: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        let _ = (offset, len, most);
        Err(Error::new(Kind::Unsupported, format!("there is no metadata context {context}")))
    }
}

/// Controls what all connections of a volume share; used by the volume's device.
pub trait VolumeControl: Send + Sync {
    /// Limits the volume to this many requests and bytes a second; 0: no limit. Applies from the next request on.
    fn set_limits(&self, requests: u64, bytes: u64);
    /// Retries held requests: the key is back, or the key-loss policy changed.
    fn release(&self);
}

/// Options of a write of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zeroing {
    /// Its space stays allocated.
    pub no_hole: bool,
    /// Only if it is faster than writing the range.
    pub fast: bool,
    /// Durable before the call returns.
    pub fua: bool,
}

/// A run of bytes with the same status in a metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; never 0.
    pub len: u64,
    /// Status flags, as the context defines them.
    pub flags: u32,
}
