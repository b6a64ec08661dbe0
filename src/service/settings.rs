//! Settings of a volume that may be changed while it is attached: its behavior without its key, and its rate limits.

use super::home::RepositoryKey;
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What an open volume does when its CMK becomes unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnKeyLoss {
    /// Wipes its data key; reads and writes are held until the CMK is usable again.
    #[default]
    Suspend,
    /// Continues until it is detached, as in AWS, where the CMK is used only at attach.
    Continue,
    /// Wipes its data key; reads and writes fail.
    Fail,
}

impl fmt::Display for OnKeyLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspend => "suspend",
            Self::Continue => "continue",
            Self::Fail => "fail",
        })
    }
}

/// How fast a server does something in the background: fills a volume from its snapshot, or copies its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BackgroundRate {
    /// As fast as it can.
    #[default]
    Unlimited,
    /// Not at all, except for what clients need.
    Paused,
    /// At most so many bytes per second, at least 1 MiB.
    PerSecond(u64),
}

impl BackgroundRate {
    /// The lowest limit, in bytes per second.
    pub const LEAST: u64 = 1 << 20;

    /// Returns how long so many bytes have to take.
    pub(super) fn time_for(self, bytes: u64) -> Duration {
        match self {
            Self::PerSecond(rate) => Duration::from_secs_f64(bytes as f64 / rate.max(Self::LEAST) as f64),
            Self::Unlimited | Self::Paused => Duration::ZERO,
        }
    }

    pub(super) const fn is_default(&self) -> bool {
        matches!(self, Self::Unlimited)
    }
}

impl fmt::Display for BackgroundRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Paused => f.write_str("paused"),
            Self::PerSecond(bytes) => bytes.fmt(f),
        }
    }
}

impl FromStr for BackgroundRate {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse::<u64>()) {
            ("unlimited", _) => Ok(Self::Unlimited),
            ("paused", _) => Ok(Self::Paused),
            (_, Ok(bytes)) if bytes >= Self::LEAST => Ok(Self::PerSecond(bytes)),
            _ => Err(Error::new(Kind::Usage, format!("{text:?} is not a rate"))
                .hint("use unlimited, paused, or at least 1 MiB per second")),
        }
    }
}

impl TryFrom<String> for BackgroundRate {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackgroundRate> for String {
    fn from(rate: BackgroundRate) -> Self {
        rate.to_string()
    }
}

/// Requested changes to the settings. `None`: unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changes {
    pub(super) on_key_loss: Option<OnKeyLoss>,
    /// Limit in requests per second; 0: no limit.
    pub(super) iops: Option<u64>,
    /// Limit in bytes per second; 0: no limit.
    pub(super) throughput: Option<u64>,
    /// How fast it is filled from its snapshot.
    pub(super) hydrate_rate: Option<BackgroundRate>,
    /// How fast its snapshots are copied.
    pub(super) snapshot_rate: Option<BackgroundRate>,
    /// Where its snapshots go; `Some(None)`: to the default repository.
    pub(super) repository: Option<Option<RepositoryKey>>,
}

/// Called on a change, and when the key is back. Returns `false` to be removed.
type Watcher = Box<dyn Fn(&Settings) -> bool + Send + Sync>;

/// The settings of an open volume, shared with its servers.
#[derive(Default)]
pub struct Settings {
    on_key_loss: AtomicU8,
    iops: AtomicU64,
    throughput: AtomicU64,
    hydrate_rate: Mutex<BackgroundRate>,
    snapshot_rate: Mutex<BackgroundRate>,
    watchers: Mutex<Vec<Watcher>>,
}

impl Settings {
    /// Returns what the volume does without its key.
    #[must_use]
    pub fn on_key_loss(&self) -> OnKeyLoss {
        match self.on_key_loss.load(Ordering::Acquire) {
            1 => OnKeyLoss::Continue,
            2 => OnKeyLoss::Fail,
            _ => OnKeyLoss::Suspend,
        }
    }

    /// Returns the limit in requests per second; 0: no limit.
    #[must_use]
    pub fn iops(&self) -> u64 {
        self.iops.load(Ordering::Acquire)
    }

    /// Returns the limit in bytes per second; 0: no limit.
    #[must_use]
    pub fn throughput(&self) -> u64 {
        self.throughput.load(Ordering::Acquire)
    }

    /// Returns how fast it is filled from its snapshot.
    #[must_use]
    pub fn hydrate_rate(&self) -> BackgroundRate {
        *self.hydrate_rate.lock()
    }

    /// Returns how fast its snapshots are copied.
    #[must_use]
    pub fn snapshot_rate(&self) -> BackgroundRate {
        *self.snapshot_rate.lock()
    }

    /// Sets what limits its clients, without notifying the watchers.
    pub(super) fn set(&self, on_key_loss: OnKeyLoss, iops: u64, throughput: u64) {
        self.on_key_loss.store(on_key_loss as u8, Ordering::Release);
        self.iops.store(iops, Ordering::Release);
        self.throughput.store(throughput, Ordering::Release);
    }

    /// Sets how fast it is filled, and its snapshots are copied.
    pub(super) fn set_rates(&self, hydrate: BackgroundRate, snapshot: BackgroundRate) {
        (*self.hydrate_rate.lock(), *self.snapshot_rate.lock()) = (hydrate, snapshot);
    }

    /// Calls `watcher` on each change, and when the key is back, until it returns `false`. It must not block.
    pub fn watch(&self, watcher: impl Fn(&Self) -> bool + Send + Sync + 'static) {
        self.watchers.lock().push(Box::new(watcher));
    }

    /// Notifies the watchers.
    pub(super) fn tell(&self) {
        self.watchers.lock().retain(|watcher| watcher(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_word_or_at_least_a_mebibyte() {
        for (text, rate) in [
            ("unlimited", BackgroundRate::Unlimited),
            ("paused", BackgroundRate::Paused),
            ("1048576", BackgroundRate::PerSecond(1 << 20)),
        ] {
            assert_eq!((text.parse::<BackgroundRate>().unwrap(), rate.to_string()), (rate, text.to_owned()));
        }
        for bad in ["", "0", "1048575", "-1", "pause", "Paused", "1e9", "99999999999999999999999"] {
            assert_eq!(bad.parse::<BackgroundRate>().unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        let time = |rate: BackgroundRate| rate.time_for(8 << 20);
        assert_eq!(time(BackgroundRate::PerSecond(16 << 20)), Duration::from_millis(500));
        assert_eq!((time(BackgroundRate::Unlimited), time(BackgroundRate::Paused)), (Duration::ZERO, Duration::ZERO));
    }
}
