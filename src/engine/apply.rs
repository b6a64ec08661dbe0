//! Turns requests into calls of their device.

use super::device::{Attempt, Blocking, Device, PIECE, Zeroing};
use super::done::Failure;
use super::request::{Op, Request};
use crate::error::{Error, Kind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Failure {
    /// Logs an error and converts it to what the client is told.
    #[must_use]
    pub fn of(request: &Request, err: &Error) -> Self {
        let text = err.line();
        // The client asked whether it would be fast, and is told; nothing is wrong.
        if err.kind() != Kind::Unsupported {
            tracing::warn!(op = ?request.op, offset = request.offset, len = request.len, "{text}");
        }
        Self { kind: err.kind(), text }
    }

    fn panicked(request: &Request) -> Self {
        tracing::error!(op = ?request.op, offset = request.offset, len = request.len, "request panicked");
        Self { kind: Kind::Failed, text: "a fault in the server".to_owned() }
    }

    /// An attempt that may block never returns WouldBlock; if it were taken for done, a READ would send whatever was in
    /// its buffer.
    #[must_use]
    pub fn unfinished() -> Self {
        Self { kind: Kind::Failed, text: "the request was not finished".to_owned() }
    }
}

/// Calls the layers below. A panic there becomes a failure: one broken volume must not take the other connections down.
///
/// # Errors
/// The error of `call`, as told to the client.
pub fn guarded<R>(request: &Request, call: impl FnOnce() -> Result<R>) -> std::result::Result<R, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|err| Failure::of(request, &err)),
        Err(_) => Err(Failure::panicked(request)),
    }
}

/// Does a request, waiting as long as it takes; a WRITE from its byte `done` on. `None`: its key is unavailable, and
/// the request can be retried later.
pub(super) fn finish(
    device: &dyn Device,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
) -> Option<std::result::Result<(), Failure>> {
    match apply(device, request, buf, done, Blocking::Allowed) {
        Ok(Attempt::Done) => Some(Ok(())),
        Ok(Attempt::KeyAway) => None,
        Ok(Attempt::WouldBlock) => Some(Err(Failure::unfinished())),
        Err(failure) => Some(Err(failure)),
    }
}

/// Does a request; a WRITE from its byte `done` on. A panic below becomes an error: one broken volume must not take the
/// server's other connections down.
pub(super) fn apply(
    device: &dyn Device,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
    blocking: Blocking,
) -> std::result::Result<Attempt, Failure> {
    match catch_unwind(AssertUnwindSafe(|| call(device, request, buf, done, blocking))) {
        Ok(Ok(progress)) => Ok(progress),
        Ok(Err(err)) if err.kind() == Kind::KeyUnavailable && device.waits_for_key() => Ok(Attempt::KeyAway),
        Ok(Err(err)) => Err(Failure::of(request, &err)),
        Err(_) => Err(Failure::panicked(request)),
    }
}

/// Makes everything durable that was written, by this request and others.
pub(super) fn flush(device: &dyn Device, request: &Request) -> std::result::Result<(), Failure> {
    guarded(request, || device.flush())
}

fn call(
    device: &dyn Device,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
    blocking: Blocking,
) -> Result<Attempt> {
    let Request { op, offset, len, fua, .. } = *request;
    match (op, buf) {
        (Op::Flush, _) => device.flush()?,
        (_, _) if len == 0 => {}
        (Op::Read, Some(out)) => return device.read(offset, out, blocking),
        (Op::Write, Some(data)) => return write(device, request, data, done, blocking),
        (Op::Trim, _) => device.trim(offset, len, fua)?,
        (Op::Cache, _) => device.cache(offset, len)?,
        (Op::WriteZeroes, _) => {
            device.write_zeroes(offset, len, Zeroing { no_hole: request.no_hole, fast: request.fast, fua })?;
        }
        // A request with a payload always has a buffer; without one nothing could have been read or written.
        (Op::Read | Op::Write | Op::Query, _) => {
            return Err(Error::new(Kind::Failed, "request without its buffer"));
        }
    }
    Ok(Attempt::Done)
}

/// Writes piece by piece, so that `done` is exact when the key is suspended or the next piece would block.
fn write(
    device: &dyn Device,
    request: &Request,
    data: &mut [u8],
    done: &mut usize,
    blocking: Blocking,
) -> Result<Attempt> {
    while *done < data.len() {
        let at = request.offset + *done as u64;
        let end = ((at / PIECE + 1) * PIECE - request.offset).min(data.len() as u64) as usize;
        let last = end == data.len();
        match device.write(at, &mut data[*done..end], request.fua && last, blocking)? {
            Attempt::Done => *done = end,
            other => return Ok(other),
        }
    }
    Ok(Attempt::Done)
}
