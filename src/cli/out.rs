//! Everything that the command line prints. A write error is a failure: the first one is kept, and makes the exit code 1.
//! Only EPIPE is ignored, as usual.

use super::args::Common;
use super::client;
use crate::error::{Error, Kind, Result};
use crate::service::api::Reply;
use crate::service::operations::ShownOnce;
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

/// Refuses to create a secret that could not be shown.
///
/// # Errors
/// If there is no standard output.
pub(super) fn must_be_there(once: ShownOnce) -> Result<()> {
    if once != ShownOnce::Nothing && crate::sys::was_closed(1) {
        return Err(Error::new(
            Kind::Failed,
            "standard output is closed, and this command's output is shown only once",
        )
        .hint("redirect it to a file or a terminal"));
    }
    Ok(())
}

/// After a reply was printed: revokes a secret that is shown once and could not be written.
///
/// # Errors
/// Why it was not written.
pub(super) fn keep_or_take_back(common: &Common, once: ShownOnce, reply: &Reply) -> Result<()> {
    let Some(undo) = once.taken_back_by(reply) else { return Ok(()) };
    let Some(err) = FAILED.lock().take() else { return Ok(()) };
    let err = unwritten(err);
    Err(match client::ask(common, undo) {
        Ok(_) => err.context("the token could not be shown and was revoked"),
        Err(failed) => err
            .context(format!("the token could not be shown, and is still valid: {}", failed.line()))
            .hint("revoke it with `coffer access deny` or `coffer key grant revoke`"),
    })
}

/// Prints a message on standard error. A failure cannot be reported anywhere.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
