//! Wall clock, boot clock, random numbers and boot id: the only module that gets them from the operating system.
//!
//! They are passed as values, so that tests can control them. Key material does not come from here but from
//! [`crate::secret::Secret::random`], which always uses the operating system's generator.

use std::sync::Arc;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl std::fmt::Display for Timestamp {
    /// Formats as RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{}", t.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// Returns the wall-clock time, which an administrator can set.
    fn now(&self) -> Timestamp;
    /// Returns milliseconds since boot, including time asleep. Nobody can set this clock; values from different boots
    /// ([`Env::boot_id`]) are not comparable.
    fn since_boot(&self) -> i64;
}

/// A source of random numbers for ids and nonces (never keys).
pub trait Rng: Send + Sync {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one door to the system clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn since_boot(&self) -> i64 {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        since.tv_sec.saturating_mul(1000).saturating_add(since.tv_nsec / 1_000_000)
    }
}

/// The operating system's random number generator (getrandom).
#[derive(Debug, Clone, Copy)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, out: &mut [u8]) {
        crate::sys::random(out);
    }
}

/// The clock, random numbers and boot id that coffer runs with.
#[derive(Clone)]
pub struct Env {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Random numbers for ids and nonces.
    pub rng: Arc<dyn Rng>,
    /// The id of the current boot (`/proc/sys/kernel/random/boot_id`), 36 characters.
    pub boot_id: Arc<str>,
}

impl Env {
    /// Returns the operating system's clock and random numbers.
    #[must_use]
    pub fn system() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng), boot_id: boot.trim().into() }
    }

    /// Returns the wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("boot_id", &self.boot_id).finish_non_exhaustive()
    }
}
