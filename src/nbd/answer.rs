//! Turns completed requests into replies.

use super::errno;
use super::outgoing::Outgoing;
use super::reply::{Content, Style, To};
use super::request::{Refusal, Wish};
use crate::engine::{Buf, Data, Device, Done, Extent, Failure, Op, Request, guarded};
use std::ops::Range;

/// Maximum number of extents of one context in a reply: at 16 bytes each, 256 KiB.
const MAX_EXTENTS: usize = 16 * 1024;

/// Makes the reply to a completed request.
pub(super) fn answer(done: Done) -> Outgoing {
    let request = done.request;
    let wish = Wish::of(&request);
    let to = wish.to;
    if let Err(failure) = done.outcome {
        return failed(&request, to, &failure);
    }
    match done.data {
        Data::Whole(body) => content(&wish, request.offset, body, true),
        Data::Parts(bodies) => Outgoing::Pieces { head: to.data(request.offset, request.len as usize, true), bodies },
        Data::None if request.op == Op::Read => Outgoing::Reply { head: to.nothing_read(), body: None },
        Data::None => Outgoing::Reply { head: to.done(), body: None },
    }
}

fn failed(request: &Request, to: To, failure: &Failure) -> Outgoing {
    // A FLUSH has no offset; any other failed command reports its start, before which nothing failed.
    let at = (request.op != Op::Flush).then_some(request.offset);
    Outgoing::Bytes(to.error(errno::row(failure.kind).errno, &failure.text, at))
}

/// Whether parts of a READ are sent as they are done, each in a chunk of its own.
pub(super) fn streams(request: &Request) -> bool {
    let wish = Wish::of(request);
    wish.to.style != Style::Simple && !wish.unfragmented
}

/// Makes the reply for a part of a READ that streams.
pub(super) fn part(request: &Request, offset: u64, data: Buf) -> Outgoing {
    content(&Wish::of(request), offset, data, false)
}

/// Makes the reply for what was read at `offset`, as one chunk or several; `last`: no chunk follows.
fn content(wish: &Wish, offset: u64, body: Buf, last: bool) -> Outgoing {
    let to = wish.to;
    let whole = |body: Buf| Outgoing::Reply { head: to.data(offset, body.len(), last), body: Some(body) };
    if to.style == Style::Simple || wish.unfragmented {
        return whole(body);
    }
    match Content::of(&body, offset) {
        Content::Data => whole(body),
        Content::Zeroes => Outgoing::Reply { head: to.hole(offset, body.len() as u32, last), body: None },
        Content::Mixed(runs) => {
            let count = runs.len();
            let chunk = |(i, (run, zero)): (usize, (Range<usize>, bool))| {
                let (at, last) = (offset + run.start as u64, last && i + 1 == count);
                if zero { (to.hole(at, run.len() as u32, last), 0..0) } else { (to.data(at, run.len(), last), run) }
            };
            Outgoing::Chunks { chunks: runs.into_iter().enumerate().map(chunk).collect(), body }
        }
    }
}

/// Makes the reply to a request that violates the rules.
pub(super) fn refuse(to: To, refusal: Refusal) -> Outgoing {
    Outgoing::Bytes(to.error(refusal.errno, refusal.why, None))
}

/// Answers BLOCK_STATUS: a chunk for each context asked for.
pub(super) fn status(device: &dyn Device, request: &Request, contexts: &[String]) -> Outgoing {
    let wish = Wish::of(request);
    let most = if wish.one { 1 } else { MAX_EXTENTS };
    let asked: Vec<(u32, &String)> = (0u32..).zip(contexts).filter(|(id, _)| wish.contexts & (1 << id) != 0).collect();
    let mut out = Vec::new();
    for (n, (id, name)) in asked.iter().enumerate() {
        let extents: Vec<Extent> = match guarded(request, || device.extents(name, request.offset, request.len, most)) {
            Ok(extents) if !extents.is_empty() => extents,
            Ok(_) => return failed(request, wish.to, &Failure::unfinished()),
            Err(failure) => return failed(request, wish.to, &failure),
        };
        out.extend(wish.to.status(*id, &extents, n + 1 == asked.len()));
    }
    if out.is_empty() {
        return failed(request, wish.to, &Failure::unfinished());
    }
    Outgoing::Bytes(out)
}
