//! What lies below the engine: a volume as one connection holds it, in plain bytes.

use crate::error::{Error, Kind, Result};
use crate::units::VolumeId;
use std::sync::Arc;
use std::time::Duration;

pub use crate::volume::{Attempt, Blocking, PIECE};

/// One open volume or snapshot. Offsets and lengths are bytes, any alignment, inside [`Device::size`] and not empty; many threads
/// call at once.
///
/// What a call has finished is visible to every connection of the same volume: a flush on one covers what was acknowledged on
/// all.
pub trait Device: Send + Sync {
    /// Which volume it is: devices of one volume share a [`super::VolumeScheduler`]. `None`: it shares nothing.
    fn volume(&self) -> Option<VolumeId> {
        None
    }
    /// Called before the volume's first request, once for each scheduler: to set its limits, and to keep it for
    /// [`VolumeControl::release`].
    fn scheduled(&self, _scheduler: &Arc<dyn VolumeControl>) {}
    /// Bytes; may grow while it is open, never shrinks.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// How long after a request was read it may still be applied, when this client's request timeout is known (half of
    /// it). `None`: the engine's default.
    fn stale_after(&self) -> Option<Duration> {
        None
    }
    /// Whether requests that fail with `KeyUnavailable` wait until the key is back, instead of failing.
    fn waits_for_key(&self) -> bool {
        false
    }
    /// Whether the key is at hand. When it comes back, [`VolumeControl::release`] is called after that.
    fn has_key(&self) -> bool {
        true
    }
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// What the layers below report.
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt>;
    /// Writes `data` at `offset`. The bytes are plain and lie in the engine's own buffer: the callee may seal them in
    /// place, so they are undefined after Done or an error and untouched after WouldBlock. `fua`: durable before it returns,
    /// with what was written before. It is called with at most one aligned [`PIECE`] at a time, and there `KeyUnavailable`
    /// leaves volume and data untouched.
    ///
    /// # Errors
    /// What the layers below report.
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt>;
    /// Makes everything durable that was finished before the call.
    ///
    /// # Errors
    /// What the layers below report.
    fn flush(&self) -> Result<()>;
    /// The range is no longer needed.
    ///
    /// # Errors
    /// What the layers below report.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()>;
    /// The range shall read as zeroes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`], before anything is changed, when it was to be `fast` and would not be; what the layers below
    /// report.
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()>;
    /// The range will be needed soon.
    ///
    /// # Errors
    /// What the layers below report.
    fn cache(&self, offset: u64, len: u64) -> Result<()>;
    /// What the metadata context of that name says from `offset` on: at least one extent, at most `most`, in all no more
    /// than `len` bytes, perhaps less.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a context that it does not have; what the layers below report.
    fn extents(&self, context: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        let _ = (offset, len, most);
        Err(Error::new(Kind::Unsupported, format!("there is no metadata context {context}")))
    }
}

/// How a volume's device steers what all connections of the volume share.
pub trait VolumeControl: Send + Sync {
    /// Limits the volume to so many requests and bytes a second; 0: no limit. Holds from the next request on.
    fn set_limits(&self, requests: u64, bytes: u64);
    /// Retries held requests: the key is back, or what the volume does without it was changed.
    fn release(&self);
}

/// How a range is zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zeroing {
    /// Its space stays allocated.
    pub no_hole: bool,
    /// Only if it takes less time than writing it.
    pub fast: bool,
    /// Durable before the call returns.
    pub fua: bool,
}

/// A run of bytes of which a metadata context says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; never 0.
    pub len: u64,
    /// What the context says of them.
    pub flags: u32,
}
