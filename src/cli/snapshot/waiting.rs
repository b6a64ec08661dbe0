//! Waiting for a server's snapshot, which an interrupt ends and the snapshot survives.

use crate::api::control;
use crate::cli::args::Common;
use crate::cli::client::data_dir;
use crate::error::{IoContext, Result};

/// From now on, Ctrl-C ends the waiting for a server's snapshot, and says that the snapshot continues. Without a server,
/// the snapshot is cancelled, or suspended if it was only waited for.
pub(super) fn end_waiting_on_interrupt(common: &Common) -> Result<()> {
    if !control::daemon_answers(&data_dir(common)?.control_socket()) {
        return Ok(());
    }
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]).on(|| "catch SIGINT".to_owned())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("coffer: no longer waiting; the server continues the snapshot (see `coffer snapshot list`)");
            std::process::exit(130);
        }
    });
    Ok(())
}
