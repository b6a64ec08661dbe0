//! The clock that requests age by.

use std::time::{Duration, Instant};

/// A monotonic clock: time since some fixed point.
pub trait Ticks: Send + Sync {
    /// The time now.
    fn now(&self) -> Duration;
}

/// The operating system's monotonic clock, from when this was made.
#[derive(Debug, Clone, Copy)]
pub struct SystemTicks(Instant);

impl Default for SystemTicks {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Ticks for SystemTicks {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
