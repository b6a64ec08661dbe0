//! A request becomes a call of its export, and what came of it a reply.

use super::budget::Buf;
use super::errno::Errno;
use super::export::{Effort, Export, PIECE, Progress, Zeroing};
use super::link::Outgoing;
use super::reply::{Content, Extent, Style, To};
use super::request::{Command, Refusal, Request};
use crate::error::{Error, Kind, Result};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most extents of one context in one reply: at 16 bytes each, 256 KiB.
const MAX_EXTENTS: usize = 16 * 1024;

/// Why a request failed, as its client hears it.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    errno: Errno,
    /// In words, for replies that have room for them.
    text: String,
}

impl Failure {
    fn of(request: &Request, err: &Error) -> Self {
        let text = err.line();
        // Told to the client, who asked whether it would be fast; nothing is amiss.
        if err.kind() != Kind::Unsupported {
            tracing::warn!(command = ?request.command, offset = request.offset, len = request.len, "{text}");
        }
        Self { errno: Errno::from(err), text }
    }

    fn panicked(request: &Request) -> Self {
        tracing::error!(command = ?request.command, offset = request.offset, len = request.len, "request panicked");
        Self { errno: Errno::Io, text: "a fault in the server".to_owned() }
    }

    /// Full effort has no WouldBlock; were it taken for done, a READ would send whatever lay in its buffer.
    fn unfinished() -> Self {
        Self { errno: Errno::Io, text: "the request was not finished".to_owned() }
    }
}

/// Serves a request, waiting as long as it takes; a WRITE from its byte `done` on. `None`: its key is away, and it may be
/// served again later.
pub(super) fn serve(
    export: &dyn Export,
    request: &Request,
    contexts: &[String],
    buf: &mut Option<Buf>,
    done: &mut usize,
) -> Option<Outgoing> {
    if request.command == Command::BlockStatus {
        return Some(status(export, request, contexts));
    }
    let outcome = finish(export, request, buf.as_deref_mut(), done)?;
    Some(answer(request, outcome, buf.take()))
}

/// Does a request with a payload as [`serve`], and answers what came of it.
pub(super) fn finish(
    export: &dyn Export,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
) -> Option<std::result::Result<(), Failure>> {
    match apply(export, request, buf, done, Effort::Full) {
        Ok(Progress::Done) => Some(Ok(())),
        Ok(Progress::KeyAway) => None,
        Ok(Progress::WouldBlock) => Some(Err(Failure::unfinished())),
        Err(failure) => Some(Err(failure)),
    }
}

/// Does a request, a WRITE from its byte `done` on. A panic below becomes an error: one broken volume must not take the
/// server's other connections along.
pub(super) fn apply(
    export: &dyn Export,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
    effort: Effort,
) -> std::result::Result<Progress, Failure> {
    match catch_unwind(AssertUnwindSafe(|| call(export, request, buf, done, effort))) {
        Ok(Ok(progress)) => Ok(progress),
        Ok(Err(err)) if err.kind() == Kind::KeyUnavailable && export.holds() => Ok(Progress::KeyAway),
        Ok(Err(err)) => Err(Failure::of(request, &err)),
        Err(_) => Err(Failure::panicked(request)),
    }
}

/// Makes all that was written durable, for this request and others.
pub(super) fn flush(export: &dyn Export, request: &Request) -> std::result::Result<(), Failure> {
    match catch_unwind(AssertUnwindSafe(|| export.flush())) {
        Ok(outcome) => outcome.map_err(|err| Failure::of(request, &err)),
        Err(_) => Err(Failure::panicked(request)),
    }
}

fn call(
    export: &dyn Export,
    request: &Request,
    buf: Option<&mut [u8]>,
    done: &mut usize,
    effort: Effort,
) -> Result<Progress> {
    let Request { command, offset, len, fua, .. } = *request;
    match (command, buf) {
        (Command::Flush, _) => export.flush()?,
        (_, _) if len == 0 => {}
        (Command::Read, Some(out)) => return export.read(offset, out, effort),
        (Command::Write, Some(data)) => return write(export, request, data, done, effort),
        (Command::Trim, _) => export.trim(offset, len, fua)?,
        (Command::Cache, _) => export.cache(offset, len)?,
        (Command::WriteZeroes, _) => {
            export.write_zeroes(offset, len, Zeroing { no_hole: request.no_hole, fast: request.fast, fua })?;
        }
        // A payload always comes with a buffer; without one nothing could have been read or written.
        (Command::Read | Command::Write | Command::BlockStatus, _) => {
            return Err(Error::new(Kind::Failed, "request without its buffer"));
        }
    }
    Ok(Progress::Done)
}

/// Writes piece by piece, so that what is not written when the key goes away, or would have to wait, is known.
fn write(
    export: &dyn Export,
    request: &Request,
    data: &mut [u8],
    done: &mut usize,
    effort: Effort,
) -> Result<Progress> {
    while *done < data.len() {
        let at = request.offset + *done as u64;
        let end = ((at / PIECE + 1) * PIECE - request.offset).min(data.len() as u64) as usize;
        let last = end == data.len();
        match export.write(at, &mut data[*done..end], request.fua && last, effort)? {
            Progress::Done => *done = end,
            other => return Ok(other),
        }
    }
    Ok(Progress::Done)
}

/// The reply to a request that was done, or failed.
pub(super) fn answer(request: &Request, outcome: std::result::Result<(), Failure>, buf: Option<Buf>) -> Outgoing {
    let to = request.to();
    if let Err(failure) = outcome {
        // A FLUSH has no place; every other command's failure is told at its start, before which nothing failed.
        let at = (request.command != Command::Flush).then_some(request.offset);
        return Outgoing::Bytes(to.error(failure.errno, &failure.text, at));
    }
    match buf.filter(|_| request.command == Command::Read) {
        Some(body) => content(request, to, body, true),
        None if request.command == Command::Read => Outgoing::Reply { head: to.nothing_read(), body: None },
        None => Outgoing::Reply { head: to.done(), body: None },
    }
}

/// What was read, as one chunk or several; `last`: nothing follows them.
pub(super) fn content(request: &Request, to: To, body: Buf, last: bool) -> Outgoing {
    let whole = |body: Buf| Outgoing::Reply { head: to.data(request.offset, body.len(), last), body: Some(body) };
    if request.style == Style::Simple || request.unfragmented {
        return whole(body);
    }
    match Content::of(&body, request.offset) {
        Content::Data => whole(body),
        Content::Zeroes => Outgoing::Reply { head: to.hole(request.offset, body.len() as u32, last), body: None },
        Content::Mixed(runs) => {
            let count = runs.len();
            let chunk = |(i, (run, zero)): (usize, (Range<usize>, bool))| {
                let (at, last) = (request.offset + run.start as u64, last && i + 1 == count);
                if zero { (to.hole(at, run.len() as u32, last), 0..0) } else { (to.data(at, run.len(), last), run) }
            };
            Outgoing::Chunks { chunks: runs.into_iter().enumerate().map(chunk).collect(), body }
        }
    }
}

/// The reply to a request that the rules do not allow.
pub(super) fn refuse(to: To, refusal: Refusal) -> Outgoing {
    Outgoing::Bytes(to.error(refusal.errno, refusal.why, None))
}

/// BLOCK_STATUS: a chunk for each context asked for.
fn status(export: &dyn Export, request: &Request, contexts: &[String]) -> Outgoing {
    let most = if request.one { 1 } else { MAX_EXTENTS };
    let asked: Vec<(u32, &String)> =
        (0u32..).zip(contexts).filter(|(id, _)| request.contexts & (1 << id) != 0).collect();
    let mut out = Vec::new();
    for (n, (id, name)) in asked.iter().enumerate() {
        let found = catch_unwind(AssertUnwindSafe(|| export.extents(name, request.offset, request.len, most)));
        let extents: Vec<Extent> = match found {
            Ok(Ok(extents)) if !extents.is_empty() => extents,
            Ok(Ok(_)) => return answer(request, Err(Failure::unfinished()), None),
            Ok(Err(err)) => return answer(request, Err(Failure::of(request, &err)), None),
            Err(_) => return answer(request, Err(Failure::panicked(request)), None),
        };
        out.extend(request.to().status(*id, &extents, n + 1 == asked.len()));
    }
    if out.is_empty() {
        return answer(request, Err(Failure::unfinished()), None);
    }
    Outgoing::Bytes(out)
}
