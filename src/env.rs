//! The only place that asks the operating system for the time, for random numbers, or which boot this is.
//!
//! Each is handed in as a value, so that tests can say what time it is. Key material does not come from here: it comes
//! from [`crate::secret::Secret::random`], which always asks the operating system.

use std::sync::Arc;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{}", t.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// The time now, by the wall clock: somebody may set it.
    fn now(&self) -> Timestamp;
    /// Milliseconds since the machine was started, the time that it slept included. Nobody can set this clock; it says nothing
    /// about other boots ([`Env::boot_id`]).
    fn since_boot(&self) -> i64;
}

/// A source of random numbers for ids and nonces (never for keys).
pub trait Rng: Send + Sync {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's clock.
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

/// The operating system's random numbers (getrandom).
#[derive(Debug, Clone, Copy)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, out: &mut [u8]) {
        crate::sys::random(out);
    }
}

/// Clock and randomness, as every part of coffer gets them.
#[derive(Clone)]
pub struct Env {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Random numbers for ids and nonces.
    pub rng: Arc<dyn Rng>,
    /// Which boot of the machine this is (`/proc/sys/kernel/random/boot_id`), 36 characters.
    pub boot_id: Arc<str>,
}

impl Env {
    /// The real ones.
    #[must_use]
    pub fn system() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng), boot_id: boot.trim().into() }
    }

    /// The time now.
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
