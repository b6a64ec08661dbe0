//! Large READs and WRITEs in parts: workers serve them concurrently, those of a WRITE while the rest of its payload is
//! still arriving.
//!
//! A part is a request like any other, with its share of the request's buffer and a place of its own in the order of
//! writes. Only the end differs: if the front end streams, it gets a READ's parts as they are done, and then the end
//! without data; else the request completes when all parts are done. The first failure is the request's. A connection
//! that ends in the middle of a WRITE leaves those parts applied that had arrived, as any interrupted write may.

use super::budget::Buf;
use super::done::{Data, Done, Failure};
use super::queue::Queue;
use super::request::{Op, Request};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size limit of a READ or WRITE served as one, and of a part, in bytes. Parts end at multiples of it.
pub const LARGEST_PART: u64 = 1 << 20;

/// A request in parts, shared by them.
#[derive(Debug)]
struct Whole {
    request: Request,
    /// Number of parts that have not ended.
    left: AtomicUsize,
    state: Mutex<PartsState>,
}

#[derive(Debug, Default)]
struct PartsState {
    failure: Option<Failure>,
    /// The data of a READ, in order, if it is sent together.
    bodies: Vec<Option<Buf>>,
}

/// One part of a request.
#[derive(Debug)]
pub struct Part {
    whole: Arc<Whole>,
    index: usize,
}

/// Divides a request into parts, each with its share of the buffer.
pub fn divide(request: Request, buf: Buf) -> VecDeque<(Request, Buf, Part)> {
    let end = request.offset + request.len;
    let bounds = |at: &u64| (*at < end).then(|| ((at / LARGEST_PART + 1) * LARGEST_PART).min(end));
    let ends: Vec<u64> = std::iter::successors(Some(request.offset), bounds).skip(1).collect();
    let starts = std::iter::once(request.offset).chain(ends.iter().copied());
    let requests: Vec<Request> =
        starts.zip(&ends).map(|(at, end)| Request { offset: at, len: end - at, fua: false, ..request }).collect();
    let bufs = buf.split(requests.iter().map(|r| r.len as usize));
    let state = PartsState { failure: None, bodies: requests.iter().map(|_| None).collect() };
    let left = AtomicUsize::new(requests.len());
    let whole = Arc::new(Whole { request, left, state: Mutex::new(state) });
    let parts = (0..).map(|index| Part { whole: Arc::clone(&whole), index });
    requests.into_iter().zip(bufs).zip(parts).map(|((request, buf), part)| (request, buf, part)).collect()
}

impl Part {
    /// Whether the request must be durable when it is answered.
    pub(super) fn is_durable(&self) -> bool {
        self.whole.request.fua && self.whole.request.op == Op::Write
    }

    /// Ends the part; `request` and `buf` are its own. The last one to end completes the request, or returns the WRITE
    /// that has to be made durable first.
    #[must_use]
    pub(super) fn end(
        self,
        queue: &Queue,
        request: &Request,
        outcome: Result<(), Failure>,
        buf: Option<Buf>,
    ) -> Option<Request> {
        let durable = self.is_durable();
        let whole = self.whole;
        match (outcome, buf.filter(|_| request.op == Op::Read)) {
            (Err(failure), _) => {
                whole.state.lock().failure.get_or_insert(failure);
            }
            (Ok(()), Some(body)) if queue.front.streams(&whole.request) => {
                queue.front.part(&whole.request, request.offset, body);
            }
            (Ok(()), Some(body)) => whole.state.lock().bodies[self.index] = Some(body),
            (Ok(()), None) => {}
        }
        // After handing over the data: the end of the request must follow all parts.
        if whole.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let PartsState { failure, bodies } = std::mem::take(&mut *whole.state.lock());
        if durable && failure.is_none() {
            return Some(whole.request);
        }
        let bodies: Vec<Buf> = bodies.into_iter().flatten().collect();
        let data = if failure.is_some() || bodies.is_empty() { Data::None } else { Data::Parts(bodies) };
        let done = Done { request: whole.request, outcome: failure.map_or(Ok(()), Err), data };
        queue.front.complete(&mut std::iter::once(done));
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
        for (offset, len) in [
            (0, LARGEST_PART + 1),
            (0, 2 * LARGEST_PART),
            (1, 3 * LARGEST_PART),
            (LARGEST_PART - 1, LARGEST_PART + 2),
            (5 * LARGEST_PART, 4 * LARGEST_PART),
        ] {
            let request = Request { fua: true, ..Request::new(Op::Write, offset, len) };
            let parts = divide(request, holder.take(len as usize).unwrap());
            let mut at = offset;
            for (n, (part, buf, of)) in parts.iter().enumerate() {
                assert_eq!((part.offset, buf.len() as u64, of.index), (at, part.len, n));
                assert!(part.len > 0 && part.len <= LARGEST_PART && !part.fua);
                at += part.len;
                assert!(at.is_multiple_of(LARGEST_PART) || at == offset + len);
            }
            assert_eq!(at, offset + len);
        }
    }
}
