//! What `coffer bench`, `coffer demo` and the comparison with other servers (tools/compare) share: an installation in a scratch
//! folder, an NBD load generator, and facts about the machine to report with every measurement.

pub mod load;
pub mod machine;
pub mod session;

use crate::error::{Error, IoContext, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Set by SIGINT and SIGTERM during a measurement.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Returns whether the user asked to stop. Scratch files and servers are removed on the way out.
pub fn interrupted() -> bool {
    STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// Makes SIGINT and SIGTERM set a flag instead of ending the process.
///
/// # Errors
/// Errors of the operating system.
pub fn stop_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = STOP.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).on(|| "catch signals".to_owned())?;
    }
    Ok(())
}

/// Returns the error for a measurement that cannot be made.
#[must_use]
pub fn cannot(what: impl Into<String>) -> Error {
    Error::new(Kind::Failed, what)
}
