//! Signals that a process acts on itself, instead of being ended by them.

use crate::error::{IoContext, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Returns whether the user asked this process to stop.
pub fn is_asked_for() -> bool {
    STOP.load(Ordering::Acquire)
}

/// Makes [`is_asked_for`] true.
pub fn ask() {
    STOP.store(true, Ordering::Release);
}

/// From now on, SIGINT and SIGTERM make [`is_asked_for`] true.
///
/// # Errors
/// Errors of the operating system.
pub fn stop_on_signals() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, STOP.clone()).on(|| "catch signals".to_owned())?;
    }
    Ok(())
}

/// The same, for a verb that undoes what it did; the second signal ends the process.
///
/// # Errors
/// Errors of the operating system.
pub fn stop_and_clean_up() -> Result<()> {
    let exit = i32::from(Kind::Interrupted.exit_code());
    for signal in [SIGINT, SIGTERM] {
        // Before the flag is set by the same signal: the first one does not end the process.
        signal_hook::flag::register_conditional_shutdown(signal, exit, STOP.clone())
            .on(|| "catch SIGINT".to_owned())?;
    }
    stop_on_signals()
}

/// Makes a write beyond RLIMIT_FSIZE fail (EFBIG) instead of ending the process.
///
/// # Errors
/// Errors of the operating system.
pub fn survive_file_size_limit() -> Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop).on(|| "catch SIGXFSZ".to_owned())
}
