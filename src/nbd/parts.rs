//! A READ or WRITE too large for one thread goes in parts: workers serve them at once, those of a WRITE while the rest of its
//! payload is on its way still.
//!
//! A part is a request like any other, with a part of the request's buffer and a place of its own in the order of writes. What
//! is different is the end: where replies come in chunks, a READ's parts are sent as they are done, and a chunk that says so
//! ends them; else the reply is sent when all parts are done. The first failure is the request's. A connection that ends in the
//! midst of a WRITE leaves those parts applied that had come, as any write that was cut off may be.

use super::apply::{self, Failure};
use super::budget::Buf;
use super::link::{Link, Outgoing};
use super::reply::Style;
use super::session::{Command, Request};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest READ or WRITE that is served as one, and largest part, bytes. Parts end at multiples of it.
pub(super) const MOST: u64 = 1 << 20;

/// A request in parts, shared by them.
struct Whole {
    request: Request,
    /// Parts that have not ended, and the end itself.
    left: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failure: Option<Failure>,
    /// A READ's, in order, where they are sent together.
    bodies: Vec<Option<Buf>>,
}

/// One part of a request.
pub(super) struct Part {
    whole: Arc<Whole>,
    index: usize,
}

/// Divides a request: each part with its bytes of the buffer.
pub(super) fn divide(request: Request, buf: Buf) -> VecDeque<(Request, Buf, Part)> {
    let end = request.offset + request.len;
    let bounds = |at: &u64| (*at < end).then(|| ((at / MOST + 1) * MOST).min(end));
    let ends: Vec<u64> = std::iter::successors(Some(request.offset), bounds).skip(1).collect();
    let starts = std::iter::once(request.offset).chain(ends.iter().copied());
    let requests: Vec<Request> =
        starts.zip(&ends).map(|(at, end)| Request { offset: at, len: end - at, fua: false, ..request }).collect();
    let bufs = buf.split(requests.iter().map(|r| r.len as usize));
    let state = State { failure: None, bodies: requests.iter().map(|_| None).collect() };
    let left = AtomicUsize::new(requests.len());
    let whole = Arc::new(Whole { request, left, state: Mutex::new(state) });
    let parts = (0..).map(|index| Part { whole: Arc::clone(&whole), index });
    requests.into_iter().zip(bufs).zip(parts).map(|((request, buf), part)| (request, buf, part)).collect()
}

impl Whole {
    /// Whether the parts of a READ are sent as they are done.
    fn streams(&self) -> bool {
        self.request.style != Style::Simple && !self.request.unfragmented
    }

    fn answer(&self) -> Outgoing {
        let State { failure, bodies } = std::mem::take(&mut *self.state.lock());
        let to = self.request.to();
        match (failure, self.request.command) {
            (Some(failure), _) => apply::answer(&self.request, Err(failure), None),
            (None, Command::Read) if self.streams() => Outgoing::Reply { head: to.nothing_read(), body: None },
            (None, Command::Read) => {
                let head = to.data(self.request.offset, self.request.len as usize, true);
                Outgoing::Pieces { head, bodies: bodies.into_iter().flatten().collect() }
            }
            (None, _) => Outgoing::Reply { head: to.done(), body: None },
        }
    }
}

impl Part {
    /// Whether the request is to be durable when it is answered.
    pub(super) fn is_durable(&self) -> bool {
        self.whole.request.fua && self.whole.request.command == Command::Write
    }

    /// The part ended so; `request` and `buf` are its own. The last one to end answers the client, or gives the WRITE back that is
    /// to be made durable and then answered.
    #[must_use]
    pub(super) fn end(
        self,
        link: &Link,
        request: &Request,
        outcome: Result<(), Failure>,
        buf: Option<Buf>,
    ) -> Option<Request> {
        let durable = self.is_durable();
        let whole = self.whole;
        match (outcome, buf.filter(|_| request.command == Command::Read)) {
            (Err(failure), _) => {
                whole.state.lock().failure.get_or_insert(failure);
            }
            (Ok(()), Some(body)) if whole.streams() => {
                link.answer(apply::content(request, whole.request.to(), body, false));
            }
            (Ok(()), Some(body)) => whole.state.lock().bodies[self.index] = Some(body),
            (Ok(()), None) => {}
        }
        // After the send: the chunk that ends the reply has to be behind all others.
        if whole.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        if durable && whole.state.lock().failure.is_none() {
            return Some(whole.request);
        }
        link.answer(whole.answer());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn parts_end_at_multiples_and_cover_the_request() {
        let holder = Budget::new(16 << 20).join(|| ());
        for (offset, len) in [(0, MOST + 1), (0, 2 * MOST), (1, 3 * MOST), (MOST - 1, MOST + 2), (5 * MOST, 4 * MOST)] {
            let request = Request { command: Command::Write, offset, len, fua: true, ..Request::PLAIN };
            let parts = divide(request, holder.take(len as usize).unwrap());
            let mut at = offset;
            for (n, (part, buf, of)) in parts.iter().enumerate() {
                assert_eq!((part.offset, buf.len() as u64, of.index), (at, part.len, n));
                assert!(part.len > 0 && part.len <= MOST && !part.fua);
                at += part.len;
                assert!(at.is_multiple_of(MOST) || at == offset + len);
            }
            assert_eq!(at, offset + len);
        }
    }
}
