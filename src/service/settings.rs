//! What a volume does that may be changed while it is attached: without its key, and how fast it goes.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What an open volume does when its CMK cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnKeyLoss {
    /// Its data key is wiped; reads and writes are held until the CMK can be used again.
    #[default]
    Suspend,
    /// It goes on until it is detached, as AWS has it: the CMK is asked for at attach alone.
    Continue,
    /// Its data key is wiped; reads and writes fail.
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

/// What of it is asked to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changes {
    pub(super) on_key_loss: Option<OnKeyLoss>,
    /// 0: no limit.
    pub(super) iops: Option<u64>,
    /// Bytes a second; 0: no limit.
    pub(super) throughput: Option<u64>,
}

/// Told that something changed, or that the key is back; false: not wanted any more.
type Watcher = Box<dyn Fn(&Settings) -> bool + Send + Sync>;

/// The settings of an open volume, as its servers look at them.
#[derive(Default)]
pub struct Settings {
    on_key_loss: AtomicU8,
    iops: AtomicU64,
    throughput: AtomicU64,
    watchers: Mutex<Vec<Watcher>>,
}

impl Settings {
    /// What it does without its key.
    #[must_use]
    pub fn on_key_loss(&self) -> OnKeyLoss {
        match self.on_key_loss.load(Ordering::Acquire) {
            1 => OnKeyLoss::Continue,
            2 => OnKeyLoss::Fail,
            _ => OnKeyLoss::Suspend,
        }
    }

    /// Requests a second; 0: no limit.
    #[must_use]
    pub fn iops(&self) -> u64 {
        self.iops.load(Ordering::Acquire)
    }

    /// Bytes a second; 0: no limit.
    #[must_use]
    pub fn throughput(&self) -> u64 {
        self.throughput.load(Ordering::Acquire)
    }

    /// Sets all of them. Nobody is told.
    pub(super) fn set(&self, on_key_loss: OnKeyLoss, iops: u64, throughput: u64) {
        self.on_key_loss.store(on_key_loss as u8, Ordering::Release);
        self.iops.store(iops, Ordering::Release);
        self.throughput.store(throughput, Ordering::Release);
    }

    /// Has `watcher` told of changes, and of a key that is back, until it answers false. It must not wait.
    pub fn watch(&self, watcher: impl Fn(&Self) -> bool + Send + Sync + 'static) {
        self.watchers.lock().push(Box::new(watcher));
    }

    /// Something has changed.
    pub(super) fn tell(&self) {
        self.watchers.lock().retain(|watcher| watcher(self));
    }
}
