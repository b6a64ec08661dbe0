//! Commands of the user that run around a step of a verb, and signals that must not come between.

use crate::error::{IoContext, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_default};
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// While it exists, SIGINT, SIGTERM and SIGHUP do not end this process: what was begun is undone first. They reach the
/// commands that it runs.
#[derive(Default)]
pub(super) struct HeldSignals {
    seen: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
}

impl HeldSignals {
    /// # Errors
    /// What the operating system reports.
    pub(super) fn hold() -> Result<Self> {
        let held = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let what = || format!("catch signal {signal}");
            register_conditional_default(signal, held.released.clone()).on(what)?;
            register(signal, held.seen.clone()).on(what)?;
        }
        Ok(held)
    }

    /// Whether one has come.
    pub(super) fn is_interrupted(&self) -> bool {
        self.seen.load(Ordering::Acquire)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.released.store(true, Ordering::Release);
    }
}

/// Runs a line with sh; what it prints goes to standard error.
///
/// # Errors
/// If sh cannot be run.
pub(super) fn run(line: &str, variables: &[(&str, &str)]) -> Result<ExitStatus> {
    let what = || format!("run {line:?}");
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().on(what)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).envs(variables.iter().copied()).stdin(Stdio::null()).stdout(stderr);
    shell.status().on(what)
}
