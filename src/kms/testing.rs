//! Shared by the tests of this module: a place for an installation, a clock that can be set, callers.

use super::*;
use crate::env::{Clock, SystemRng, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub(super) struct Place {
    data: tempfile::TempDir,
    elsewhere: Arc<tempfile::TempDir>,
    now: Arc<AtomicI64>,
    /// The machine's boot-time clock, and its boot number.
    since_boot: Arc<AtomicI64>,
    boot: std::cell::Cell<u32>,
}

struct SetClock(Arc<AtomicI64>, Arc<AtomicI64>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
    fn since_boot(&self) -> i64 {
        self.1.load(Ordering::Relaxed)
    }
}

const DAY: i64 = 24 * 60 * 60 * 1000;

impl Place {
    pub(super) fn new() -> Self {
        let now = Arc::new(AtomicI64::new(1_800_000_000_000));
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
        Self { data, elsewhere, now, since_boot: Arc::new(AtomicI64::new(1000)), boot: std::cell::Cell::new(0) }
    }
    pub(super) fn data(&self) -> &Path {
        self.data.path()
    }
    pub(super) fn key_file(&self) -> PathBuf {
        self.elsewhere.path().join("root.key")
    }
    pub(super) fn env(&self) -> Env {
        let clock = Arc::new(SetClock(self.now.clone(), self.since_boot.clone()));
        Env { clock, rng: Arc::new(SystemRng), boot_id: format!("test {}", self.boot.get()).into() }
    }
    /// Lets time pass.
    pub(super) fn pass_days(&self, days: i64) {
        self.now.fetch_add(days * DAY, Ordering::Relaxed);
        self.since_boot.fetch_add(days * DAY, Ordering::Relaxed);
    }
    /// Sets the wall clock forward, or back if negative.
    pub(super) fn set_clock_by_days(&self, days: i64) {
        self.now.fetch_add(days * DAY, Ordering::Relaxed);
    }
    /// Switches the machine off for that long, and starts it again; everything must be reopened.
    pub(super) fn off_for_days(&self, days: i64) {
        self.now.fetch_add(days * DAY, Ordering::Relaxed);
        self.since_boot.store(0, Ordering::Relaxed);
        self.boot.set(self.boot.get() + 1);
    }
    pub(super) fn try_init(&self) -> Result<Kms> {
        let choice = RootChoice::File(self.key_file());
        let config = InstallationConfig { account: Some(ACCOUNT.into()), ..InstallationConfig::default() };
        Kms::init(self.data(), self.env(), &choice, &config)
    }
    pub(super) fn init(&self) -> Kms {
        self.try_init().unwrap()
    }
    pub(super) fn open(&self) -> Result<Kms> {
        Kms::open(self.data(), self.env(), &RootUnlock::Automatic)
    }
    /// A copy of the data directory, as a kill at this moment would leave it.
    pub(super) fn copy_to(&self, other: &Self) {
        for path in self.files() {
            let to = other.data().join(path.strip_prefix(self.data()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&path, to).unwrap();
        }
        let _ = std::fs::remove_file(other.data().join("catalog.db-shm"));
    }
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let list = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let (dirs, mut files): (Vec<_>, Vec<_>) = list(self.data()).into_iter().partition(|p| p.is_dir());
        files.extend(dirs.iter().flat_map(|d| list(d)));
        files
    }
    pub(super) fn log(&self) -> PathBuf {
        self.data().join("audit/0000000000000000.log")
    }
    pub(super) fn tamper(&self, statement: String) {
        ledger::tamper(&self.data().join("catalog.db"), statement).unwrap();
    }
}

/// The account of installations in these tests.
pub(super) const ACCOUNT: &str = "111122223333";

/// A user of the account.
pub(super) fn user(name: &str, authority: Authority) -> Caller {
    Caller::new(format!("arn:aws:iam::{ACCOUNT}:user/{name}"), "pid 7", authority)
}

pub(super) fn caller() -> Caller {
    user("alice", Authority::Administrator)
}

pub(super) fn service() -> Caller {
    Caller { via_service: Some(policy::VOLUME_SERVICE.into()), ..caller() }
}

/// Removes the last record of the log.
pub(super) fn cut_last_record(place: &Place) {
    let bytes = std::fs::read(place.log()).unwrap();
    let starts = record_starts(&bytes);
    std::fs::write(place.log(), &bytes[..*starts.last().unwrap()]).unwrap();
}

pub(super) fn record_starts(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (0, Vec::new());
    while at < bytes.len() {
        starts.push(at);
        at += u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    }
    starts
}
