//! The clock for the age of requests.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Ticks: Send + Sync {
    /// Returns the time since some fixed point.
    fn now(&self) -> Duration;
}

/// The operating system's monotonic clock, counted from when this was created.
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
