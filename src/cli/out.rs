//! Everything that the command line prints. A write error is a failure: the first one is kept, and makes the exit code 1.
//! Only EPIPE is ignored, as usual.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Write};

/// The first error of a write to standard output.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line. [`outcome`] reports errors.
pub(super) fn line(text: impl std::fmt::Display) {
    let mut failed = FAILED.lock();
    if failed.is_none() {
        *failed = bytes(format!("{text}\n").as_bytes()).err();
    }
}

/// The operation, for error messages.
pub(super) const WHAT: &str = "write to standard output";

/// An error of standard output. Its hint is not the one for a full disk.
pub(super) fn unwritten(why: std::io::Error) -> Error {
    Error::io(WHAT, why).hint("check where the output is redirected to")
}

/// Writes bytes to standard output, unbuffered: they may be secret.
///
/// # Errors
/// What the operating system reports; EBADF if it was closed when this program started.
pub(super) fn bytes(mut all: &[u8]) -> std::io::Result<()> {
    if crate::sys::was_closed(1) {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    let stdout = rustix::stdio::stdout();
    while !all.is_empty() {
        match rustix::io::write(stdout, all) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => all = &all[n..],
            Err(rustix::io::Errno::INTR) => {}
            // The file description is shared with a process that made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Whether all lines were printed. EPIPE is not an error: the reader wanted no more.
///
/// # Errors
/// The first failure.
pub(super) fn outcome() -> Result<()> {
    match FAILED.lock().take() {
        Some(e) if e.kind() != ErrorKind::BrokenPipe => Err(unwritten(e)),
        _ => Ok(()),
    }
}

/// Takes the first failure to print, so that [`outcome`] does not report it again.
pub(super) fn take_failure() -> Option<Error> {
    FAILED.lock().take().map(unwritten)
}

/// Prints a message on standard error. A failure cannot be reported anywhere.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
