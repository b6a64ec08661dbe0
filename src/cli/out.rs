//! Everything that the command line prints. What cannot be written is not success: the first failure is kept, and ends the
//! program with exit code 1. Only a pipe whose reader has gone ends it quietly, as usual.

use super::Common;
use super::client;
use crate::error::{Error, Kind, Result};
use crate::redact;
use crate::service::api::Reply;
use crate::service::operations::ShownOnce;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Write};

/// Why standard output takes nothing any more.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line. Whether that went well, [`outcome`] says.
pub(super) fn line(text: impl std::fmt::Display) {
    let mut failed = FAILED.lock();
    if failed.is_none() {
        *failed = bytes(format!("{text}\n").as_bytes()).err();
    }
}

/// What fails.
pub(super) const WHAT: &str = "write to standard output";

/// Standard output cannot be written: what to do is not what a full disk of coffer's takes.
pub(super) fn unwritten(why: std::io::Error) -> Error {
    Error::io(WHAT, why).hint("check where the output is redirected to, or send it somewhere else")
}

/// Writes bytes to standard output, through no buffer: they may be secret.
///
/// # Errors
/// What the operating system reports; EBADF if it was closed when this program was started.
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
            // Shared with somebody who does not wait.
            Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Whether all lines were printed. A reader that has gone wanted no more of them.
///
/// # Errors
/// The first failure.
pub(super) fn outcome() -> Result<()> {
    match FAILED.lock().take() {
        Some(e) if e.kind() != ErrorKind::BrokenPipe => Err(unwritten(e)),
        _ => Ok(()),
    }
}

/// Refuses to make a secret that could not be shown.
///
/// # Errors
/// If there is no standard output.
pub(super) fn must_be_there(once: ShownOnce) -> Result<()> {
    if once != ShownOnce::Nothing && crate::sys::was_closed(1) {
        return Err(Error::new(Kind::Failed, "standard output is closed, and what this prints is shown only once")
            .hint("redirect it to a file or a terminal"));
    }
    Ok(())
}

/// After an answer was printed: a secret that is shown once and was not is taken back.
///
/// # Errors
/// Why it was not printed, whatever that is.
pub(super) fn keep_or_take_back(common: &Common, once: ShownOnce, reply: &Reply) -> Result<()> {
    let Some(undo) = once.taken_back_by(reply) else { return Ok(()) };
    let Some(err) = FAILED.lock().take() else { return Ok(()) };
    let err = unwritten(err);
    Err(match client::ask(common, undo) {
        Ok(_) => err.context("the token could not be shown and was taken back"),
        Err(failed) => err
            .context(format!("the token could not be shown, and is still valid: {}", failed.line()))
            .hint("take it back by hand: `coffer access deny`, or `coffer key grant revoke`"),
    })
}

/// Says something beside the answer, on standard error. There is nobody to tell if that fails.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Standard error for a log: a log that cannot be written must not end what it is about.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(redact::tokens(&String::from_utf8_lossy(bytes)).as_bytes());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
