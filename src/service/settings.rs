//! Settings of a volume that may be changed while it is attached: its behavior without its key, and its rate limits.

use super::home::RepositoryKey;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

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

/// Requested changes to the settings. `None`: unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changes {
    pub(super) on_key_loss: Option<OnKeyLoss>,
    /// Limit in requests per second; 0: no limit.
    pub(super) iops: Option<u64>,
    /// Limit in bytes per second; 0: no limit.
    pub(super) throughput: Option<u64>,
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

    /// Sets all of them without notifying the watchers.
    pub(super) fn set(&self, on_key_loss: OnKeyLoss, iops: u64, throughput: u64) {
        self.on_key_loss.store(on_key_loss as u8, Ordering::Release);
        self.iops.store(iops, Ordering::Release);
        self.throughput.store(throughput, Ordering::Release);
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
