//! The sending side of a connection, shared by its own thread and the engine's workers, and the flags that end it.

use super::answer;
use super::errno::Hangup;
use super::outgoing::Outgoing;
use super::wire::Wire;
use crate::engine::{Buf, Device, Done, Front, Request, Severed};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno as Os;
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Slices in one `sendmsg(2)`: two for each reply of one chunk. The kernel's limit is 1024; with 64 replies the cost of
/// the call is spread thin enough.
const SLICES: usize = 128;

/// Poll events of a socket whose client sends nothing more.
pub(super) const HUNG_UP: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);

/// Wakes a thread that polls it.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the polling thread return, now or at its next poll.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets it.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Outgoing>,
    /// Bytes of the first entry that have been sent.
    sent: usize,
}

/// The output of a connection; see the module's documentation.
pub(super) struct Output {
    pub(super) id: u64,
    pub(super) wire: Wire,
    pub(super) waker: Waker,
    out: Mutex<Outbox>,
    /// Sending has failed; replies are dropped.
    broken: AtomicBool,
    /// Why nothing more may be applied, once set.
    condemned: OnceLock<Hangup>,
    /// The metadata contexts selected by the client, once an export is open.
    pub(super) contexts: OnceLock<Vec<String>>,
    /// Bytes received and sent.
    pub(super) moved: AtomicU64,
}

impl Output {
    pub(super) fn new(id: u64, socket: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            id,
            wire: Wire::new(socket),
            waker: Waker::new()?,
            out: Mutex::default(),
            broken: AtomicBool::new(false),
            condemned: OnceLock::new(),
            contexts: OnceLock::new(),
            moved: AtomicU64::new(0),
        })
    }

    /// Sends all of `batch`, after what is queued, as far as the socket takes it. Returns true if everything was sent.
    pub(super) fn send(&self, batch: impl Iterator<Item = Outgoing>) -> bool {
        let mut out = self.out.lock();
        out.queue.extend(batch);
        self.push_out(&mut out)
    }

    /// Sends from a worker: wakes the connection's thread for what the socket does not take now.
    fn answer(&self, batch: impl Iterator<Item = Outgoing>) {
        if !self.send(batch) {
            self.waker.wake();
        }
    }

    /// Returns the number of queued entries.
    pub(super) fn unsent(&self) -> usize {
        self.out.lock().queue.len() + usize::from(self.wire.owes())
    }

    /// Drops replies that will not be sent, to release their buffers.
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

    /// Whether the client can no longer be sent anything.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Ends the connection: replies are dropped from now on, and its thread closes it.
    pub(super) fn condemn(&self, why: Hangup) {
        let _ = self.condemned.set(why);
        self.broken.store(true, Ordering::SeqCst);
        let _ = rustix::net::shutdown(self.wire.fd(), Shutdown::Both);
        self.waker.wake();
    }

    /// Returns why the connection was condemned, if it was.
    pub(super) fn condemned(&self) -> Option<Hangup> {
        self.condemned.get().copied()
    }
}

impl Front for Output {
    fn complete(&self, done: &mut dyn Iterator<Item = Done>) {
        self.answer(done.map(answer::answer));
    }

    fn streams(&self, request: &Request) -> bool {
        answer::streams(request)
    }

    fn part(&self, request: &Request, offset: u64, data: Buf) {
        self.answer(std::iter::once(answer::part(request, offset, data)));
    }

    fn query(&self, request: &Request, device: &dyn Device) {
        let contexts = self.contexts.get().map_or(&[][..], Vec::as_slice);
        self.answer(std::iter::once(answer::status(device, request, contexts)));
    }

    /// For a client on this machine, the answer is known as soon as its `close(2)` has returned.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.wire.fd(), HUNG_UP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }

    fn severed(&self, why: Severed) {
        self.condemn(why.into());
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

impl From<Severed> for Hangup {
    fn from(why: Severed) -> Self {
        match why {
            Severed::Stale => Self::Stale,
            Severed::Lost => Self::Lost,
            Severed::Resting => Self::Resting,
            Severed::Displaced => Self::Displaced,
            Severed::Shutdown => Self::Shutdown,
        }
    }
}

/// Fills `slices` from the head of the queue; returns how many.
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
