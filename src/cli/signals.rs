//! Signals that a command acts on itself.

use crate::error::{IoContext, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether the user asked this process to stop.
pub(super) fn interrupted() -> bool {
    STOP.load(Ordering::Acquire)
}

/// Makes [`interrupted`] true.
pub(super) fn stop() {
    STOP.store(true, Ordering::Release);
}

/// From now on, the first SIGINT or SIGTERM makes [`interrupted`] true, so that the verb undoes what it did. The second one
/// ends the process.
pub(super) fn stop_on_interrupt() -> Result<()> {
    let exit = i32::from(Kind::Interrupted.exit_code());
    for signal in [libc::SIGINT, libc::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, exit, STOP.clone())
            .and_then(|_| signal_hook::flag::register(signal, STOP.clone()))
            .on(|| "catch SIGINT".to_owned())?;
    }
    Ok(())
}

/// A file that grows beyond RLIMIT_FSIZE makes the write fail (EFBIG) instead of ending the process.
pub(super) fn survive_file_size_limit() -> Result<()> {
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map(drop).on(|| "catch SIGXFSZ".to_owned())
}
