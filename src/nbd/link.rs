//! One connection as its own thread and the workers share it: the socket's sending side, what is in flight, and the flags
//! that end it.

use super::budget::{Buf, Holder};
use super::errno::Hangup;
use super::reply::Head;
use super::traffic::Traffic;
use super::wire::Wire;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno as Os;
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Slices in one `sendmsg(2)`: two for each reply of one chunk. The kernel's limit is 1024; beyond 64 replies a call's cost is spread.
const SLICES: usize = 128;

/// Bytes that count as going on.
const ENOUGH: u64 = 64 * 1024;

/// What a socket says once its client sends nothing more.
pub(super) const HUNG_UP: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);

/// Something another thread can be woken by while it polls.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the polling side return, now or at its next poll.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets what was woken so far.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Something to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Handshake bytes, or a reply without a READ's data.
    Bytes(Vec<u8>),
    /// A reply of one piece, with a READ's data.
    Reply { head: Head, body: Option<Buf> },
    /// A reply of one piece, with a READ's data in several buffers.
    Pieces { head: Head, bodies: Vec<Buf> },
    /// A READ's data in several chunks: each has a head, and bytes of the buffer, or none.
    Chunks { chunks: Vec<(Head, Range<usize>)>, body: Buf },
}

impl Outgoing {
    /// Its parts, in order; `None` behind the last one.
    fn part(&self, i: usize) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => (i == 0).then_some(bytes),
            Self::Reply { head, .. } if i == 0 => Some(head),
            Self::Reply { body, .. } => body.as_deref().filter(|_| i == 1),
            Self::Pieces { head, .. } if i == 0 => Some(head),
            Self::Pieces { bodies, .. } => bodies.get(i - 1).map(|b| &**b),
            Self::Chunks { chunks, body } => {
                let (head, range) = chunks.get(i / 2)?;
                Some(if i.is_multiple_of(2) { head } else { &body[range.clone()] })
            }
        }
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|i| self.part(i))
    }

    /// Bytes on the wire.
    pub(super) fn len(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }
}

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Outgoing>,
    /// Bytes of the first entry that are sent.
    sent: usize,
}

/// The shared side of a connection.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) wire: Wire,
    pub(super) waker: Waker,
    out: Mutex<Outbox>,
    in_flight: AtomicUsize,
    /// The connection's thread wants to hear of each completion.
    eager: AtomicBool,
    /// Nothing can be sent any more; replies are dropped.
    broken: AtomicBool,
    /// Why nothing more may be applied, once that is so.
    condemned: OnceLock<Hangup>,
    /// How old a request may get, once an export is open.
    pub(super) stale_after: OnceLock<Duration>,
    /// The metadata contexts that the client chose, once an export is open.
    pub(super) contexts: OnceLock<Vec<String>>,
    /// What it shares with the volume's other connections, once an export is open.
    pub(super) traffic: OnceLock<Arc<Traffic>>,
    /// Its part in the budget.
    pub(super) holder: OnceLock<Weak<Holder>>,
    /// Bytes that came and went.
    pub(super) moved: AtomicU64,
    /// How many those were when enough of them had moved, and when that was.
    resting: Mutex<(u64, Duration)>,
    /// It ends in order: nothing of it is held for a key any more.
    pub(super) leaving: AtomicBool,
}

impl Link {
    pub(super) fn new(id: u64, socket: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            id,
            wire: Wire::new(socket),
            waker: Waker::new()?,
            out: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            eager: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            condemned: OnceLock::new(),
            stale_after: OnceLock::new(),
            contexts: OnceLock::new(),
            traffic: OnceLock::new(),
            holder: OnceLock::new(),
            moved: AtomicU64::new(0),
            resting: Mutex::default(),
            leaving: AtomicBool::new(false),
        })
    }

    /// Sends all of `batch`, behind what waits already, as far as the socket takes it. True: everything is out.
    pub(super) fn send(&self, batch: impl Iterator<Item = Outgoing>) -> bool {
        let mut out = self.out.lock();
        out.queue.extend(batch);
        self.push_out(&mut out)
    }

    /// Sends one thing, from a worker: what the socket does not take now, the connection's thread is woken for.
    pub(super) fn answer(&self, one: Outgoing) {
        let out_at_once = {
            let mut out = self.out.lock();
            out.queue.push_back(one);
            self.push_out(&mut out)
        };
        if !out_at_once {
            self.waker.wake();
        }
    }

    /// Things that wait to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.out.lock().queue.len() + usize::from(self.wire.owes())
    }

    /// Gives the buffers of replies back that are not sent any more.
    pub(super) fn drop_unsent(&self) {
        let mut out = self.out.lock();
        out.queue.clear();
        out.sent = 0;
    }

    fn push_out(&self, out: &mut Outbox) -> bool {
        while !out.queue.is_empty() && !self.broken() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = gather(&out.queue, out.sent, &mut slices);
            match self.wire.send(&slices[..count]) {
                Ok(n) => {
                    self.moved.fetch_add(n as u64, Ordering::Relaxed);
                    out.advance(n);
                }
                Err(Os::INTR) => {}
                Err(Os::AGAIN) => return false,
                Err(_) => self.broken.store(true, Ordering::SeqCst),
            }
        }
        out.queue.clear();
        out.sent = 0;
        match self.wire.flush() {
            Ok(done) => done || self.broken(),
            Err(_) => {
                self.broken.store(true, Ordering::SeqCst);
                true
            }
        }
    }

    /// Whether the client can no longer be answered.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// From now on nothing of this connection is applied that has not begun; its thread ends it.
    pub(super) fn condemn(&self, why: Hangup) {
        let _ = self.condemned.set(why);
        self.broken.store(true, Ordering::SeqCst);
        let _ = rustix::net::shutdown(self.wire.fd(), Shutdown::Both);
        self.waker.wake();
    }

    /// Why the connection is condemned, if it is.
    pub(super) fn condemned(&self) -> Option<Hangup> {
        self.condemned.get().copied()
    }

    /// Condemns the connection if its client has hung up, though bytes of it may be unread. Of a client on this machine that is
    /// known as soon as its `close(2)` has returned.
    pub(super) fn look_for_hangup(&self) -> Result<(), Hangup> {
        let mut fds = [PollFd::from_borrowed_fd(self.wire.fd(), HUNG_UP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) {
            self.condemn(Hangup::Lost);
            return Err(Hangup::Lost);
        }
        Ok(())
    }

    /// Whether a request that was read at `read_at` may be applied now. Of a change this is asked when it has its place in the
    /// order of writes, never before: whatever is newer and overlaps it waits then until it is applied or dropped.
    pub(super) fn may_apply(&self, now: Duration, read_at: Duration, stale_after: Duration) -> Result<(), Hangup> {
        if now.saturating_sub(read_at) > stale_after {
            self.condemn(Hangup::Stale);
        }
        self.condemned().map_or(Ok(()), Err)
    }

    /// For how long its client has let buffers lie: replies that it does not read, or a payload that it does not send, while
    /// nothing of it is being done. Asked every second.
    pub(super) fn rests(&self, now: Duration) -> Duration {
        let moved = self.moved.load(Ordering::Relaxed);
        let holds = self.holder.get().and_then(Weak::upgrade).is_some_and(|h| h.held() > 0);
        let mut resting = self.resting.lock();
        if !holds || self.in_flight() > 0 || moved - resting.0 >= ENOUGH {
            *resting = (moved, now);
        }
        now.saturating_sub(resting.1)
    }

    /// Whether it ends in order.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Requests handed to the workers and not finished.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// `n` requests ended: answered, or dropped.
    pub(super) fn finished(&self, n: usize) {
        self.in_flight.fetch_sub(n, Ordering::SeqCst);
        if self.eager.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Whether each completion shall wake the connection's thread. Set it before looking at [`Link::in_flight`].
    pub(super) fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::SeqCst);
    }
}

/// Fills `slices` with the head of the queue; how many.
fn gather<'a>(queue: &'a VecDeque<Outgoing>, sent: usize, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
    let mut count = 0;
    let mut skip = sent;
    for part in queue.iter().flat_map(Outgoing::parts) {
        let gone = skip.min(part.len());
        skip -= gone;
        if gone == part.len() {
            continue;
        }
        if count == SLICES {
            break;
        }
        slices[count] = IoSlice::new(&part[gone..]);
        count += 1;
    }
    count
}

impl Outbox {
    fn advance(&mut self, mut n: usize) {
        while let Some(first) = self.queue.front() {
            let left = first.len() - self.sent;
            if n < left {
                self.sent += n;
                return;
            }
            n -= left;
            self.sent = 0;
            self.queue.pop_front();
        }
    }
}
