//! A connection's thread: reads all that a `recv` returns, serves it inline if that need not wait, sends all replies in
//! one `sendmsg`, and hands the rest to the workers.

use super::answer;
use super::errno::Hangup;
use super::export::{Client, Export, ExportInfo, Peer};
use super::outgoing::Outgoing;
use super::output::{HUNG_UP, Output};
use super::serve::Shared;
use super::session::{Choice, Event, Session};
use super::spin::Spin;
use super::tls::TlsServer;
use crate::engine::{
    Buf, Delay, Device, LARGEST_PART, Op, Part, Payload, Queue, Ready, Request, Severed, Submitter, divide,
};
use crate::error::{Error, Kind};
use crate::redact;
use crate::service::volume_part;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Read-ahead buffer, in bytes: 32 writes of 4 KiB with their headers.
const READ_AHEAD: usize = 160 * 1024;
/// Read-ahead after a large payload, in bytes: a few headers, so that the next payload is received directly into its
/// own buffer.
const READ_AHEAD_BEHIND_LARGE: usize = 4096;
/// Smallest payload that counts as large for that, in bytes.
const LARGE_WRITE: u64 = 32 * 1024;
/// Reply bytes after which a batch is sent, so that the client can work on them meanwhile.
const BATCH_BYTES: usize = 256 * 1024;
/// Number of unsent replies at which a connection is no longer read.
const MAX_UNSENT: usize = 1024;
/// Maximum payload of complete writes that wait while the socket is drained, in bytes.
const MAX_READY: usize = 512 * 1024;
/// Longest sleep while something is waited for, so that time limits are noticed.
const TICK: Duration = Duration::from_secs(1);

/// Whether draining the socket before beginning the request is worthwhile. Parts go to the workers.
fn is_large(ready: &Ready) -> bool {
    ready.request.op == Op::Write && ready.request.len >= LARGE_WRITE && ready.payload.part.is_none()
}

/// A WRITE whose payload is arriving.
struct Incoming {
    write: Ready,
    filled: usize,
}

impl Incoming {
    /// Returns where the next bytes go.
    fn rest(&mut self) -> &mut [u8] {
        self.write.payload.buf.as_deref_mut().map_or(&mut [], |b| &mut b[self.filled..])
    }
}

/// The stage of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Reading.
    Open,
    /// Finishing what is in flight, without reading.
    Ending,
}

/// The state that only the connection's own thread uses.
pub(super) struct Conn {
    shared: Arc<Shared>,
    out: Arc<Output>,
    /// The same connection in the engine.
    queue: Arc<Queue>,
    client: Client,
    /// The configuration of TLS, where the listener requires it.
    tls: Option<Arc<TlsServer>>,
    session: Session,
    export: Option<Arc<dyn Export>>,
    /// Its client waits for a key as long as it takes, and its hang-up is noticed at once: time spent waiting does not
    /// age requests.
    patient: bool,
    began: Duration,
    stage: Stage,
    rx: Vec<u8>,
    start: usize,
    end: usize,
    /// When the newest bytes of `rx` were read.
    read_at: Duration,
    incoming: Option<Incoming>,
    /// The remaining parts of that WRITE.
    following: VecDeque<(Request, Buf, Part)>,
    /// Large writes, and requests that must not overtake them, while the socket is drained.
    ready: VecDeque<Ready>,
    /// A request that waits for a buffer.
    stalled: Option<Request>,
    /// A request delayed by the volume's limits.
    delayed: Option<(Request, Delay)>,
    spin: Spin,
    /// Since when the socket has been readable but not read.
    unread_since: Option<Duration>,
    batch: Vec<Outgoing>,
    batch_bytes: usize,
    /// Last, so that it is dropped last: dropping it removes the connection from the engine, and then it holds no
    /// buffer any more.
    io: Submitter,
}

impl Conn {
    pub(super) fn new(
        shared: Arc<Shared>,
        out: Arc<Output>,
        io: Submitter,
        client: Client,
        tls: Option<Arc<TlsServer>>,
    ) -> Self {
        let began = shared.now();
        Self {
            patient: false,
            shared,
            out,
            queue: Arc::clone(io.queue()),
            client,
            session: if tls.is_some() { Session::requiring_tls() } else { Session::new() },
            tls,
            export: None,
            began,
            stage: Stage::Open,
            rx: vec![0; READ_AHEAD],
            start: 0,
            end: 0,
            read_at: began,
            incoming: None,
            following: VecDeque::new(),
            ready: VecDeque::new(),
            stalled: None,
            delayed: None,
            spin: Spin::default(),
            unread_since: None,
            batch: Vec::with_capacity(64),
            batch_bytes: 0,
            io,
        }
    }

    /// Serves the connection until it ends; on return everything in flight has ended and the export is dropped.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        shared.spinners.wakes();
        self.run_awake();
        shared.spinners.sleeps();
    }

    fn run_awake(&mut self) {
        if let Err(why) = self.serve() {
            tracing::debug!(connection = self.out.id, "{why}");
            self.out.condemn(why);
            self.queue.sever(Severed::Lost);
            self.ready.clear();
            self.io.cancel();
            self.shared.stats.hangups.fetch_add(1, Ordering::Relaxed);
        }
        self.queue.set_eager(true);
        while self.queue.in_flight() > 0 {
            self.sleep(PollFlags::empty(), Some(TICK));
        }
        self.out.drop_unsent();
        self.io.close();
        self.export = None;
        if self.out.condemned().is_none() {
            self.out.wire.close();
        }
        let _ = rustix::net::shutdown(self.out.wire.fd(), rustix::net::Shutdown::Both);
    }

    fn serve(&mut self) -> Result<(), Hangup> {
        self.queue_output();
        loop {
            if let Some(why) = self.out.condemned() {
                return Err(why);
            }
            if self.shared.stopping() {
                if self.export.is_none() {
                    return Err(Hangup::Shutdown);
                }
                self.stage = Stage::Ending;
            }
            self.consume()?;
            if self.stage == Stage::Ending {
                self.io.leave();
            }
            self.send_batch();
            self.commit();
            if self.out.broken() && self.stage == Stage::Open {
                return Err(Hangup::Lost);
            }
            let waits = self.stage == Stage::Ending || self.is_held_up();
            self.queue.set_eager(waits);
            if !self.ready.is_empty() {
                self.read_or_serve()?;
                continue;
            }
            if self.stage == Stage::Ending && self.queue.in_flight() == 0 && self.out.unsent() == 0 {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Whether the socket must not be read: no buffer, too much in flight, or replies that the client does not read.
    fn is_held_up(&self) -> bool {
        let limit = if self.export.is_some() { MAX_UNSENT } else { 1 };
        self.stalled.is_some()
            || self.delayed.is_some()
            || self.queue.in_flight() + self.ready.len() >= self.shared.config.max_in_flight
            || self.out.unsent() >= limit
    }

    /// Parses and serves the bytes that were read.
    fn consume(&mut self) -> Result<(), Hangup> {
        if let Some(export) = &self.export {
            self.session.set_size(export.size());
        }
        while self.stage == Stage::Open {
            if let Some(request) = self.stalled.take()
                && !self.begin(request)?
            {
                return Ok(());
            }
            if let Some((request, delay)) = self.delayed.take()
                && !self.after_delay(request, delay)?
            {
                return Ok(());
            }
            if self.incoming.is_some() && !self.fill_from_read_ahead()? {
                return Ok(());
            }
            if self.batch.len() >= 64 || self.batch_bytes >= BATCH_BYTES {
                self.send_batch();
            }
            if self.is_held_up() {
                return Ok(());
            }
            let step = self.session.step(&self.rx[self.start..self.end])?;
            self.start += step.used;
            match step.event {
                Some(event) => self.event(event)?,
                None => {
                    self.queue_output();
                    if step.used == 0 {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> Result<(), Hangup> {
        // Defence in depth: the session rejects these before TLS, and a client without TLS would be taken for a local
        // one.
        if self.tls.is_some()
            && self.client.tls.is_none()
            && matches!(event, Event::List | Event::Contexts { .. } | Event::Choose { .. })
        {
            return Err(Hangup::NotSecure);
        }
        match event {
            Event::Request(request) => {
                self.shared.stats.requests.fetch_add(1, Ordering::Relaxed);
                self.within_limits(request.io())?;
            }
            Event::Refused { to, refusal } => {
                self.shared.stats.refused.fetch_add(1, Ordering::Relaxed);
                self.send_soon(answer::refuse(to, refusal));
            }
            Event::List => {
                let entries = self.shared.exports.list(&self.client);
                self.session.answer_list(&entries);
                self.queue_output();
            }
            Event::Contexts { name } => {
                let contexts = self.shared.exports.contexts(&name, &self.client);
                self.session.answer_contexts(contexts.as_deref());
                self.queue_output();
            }
            Event::Choose { how, name } => self.choose(how, &name)?,
            Event::Malformed { why, hangup } => {
                self.shared.exports.refuse(&self.client, &Error::new(Kind::Usage, why));
                hangup.map_or(Ok(()), Err)?;
                self.queue_output();
            }
            Event::StartTls => self.start_tls()?,
            Event::End => {
                self.queue_output();
                if let Some(export) = &self.export {
                    export.farewell();
                }
                self.stage = Stage::Ending;
            }
        }
        Ok(())
    }

    /// Starts TLS, once the reply to STARTTLS is out; nothing received before the handshake counts.
    fn start_tls(&mut self) -> Result<(), Hangup> {
        self.queue_output();
        let Some(tls) = &self.tls else { return Err(Hangup::Tls) };
        // A client waits for the reply. Bytes that came without waiting were injected by someone else, to be taken for
        // the client's own once TLS is on.
        if self.start < self.end {
            return Err(Hangup::Injection);
        }
        if self.out.unsent() > 0 {
            return Err(Hangup::Lost);
        }
        let peer = match self.client.peer {
            Peer::Tcp { addr } => addr.to_string(),
            Peer::Unix { pid, .. } => format!("pid {pid}"),
        };
        self.out.wire.start_tls(tls.accept().ok_or(Hangup::Tls)?, peer);
        self.session.tls_started();
        Ok(())
    }

    fn choose(&mut self, how: Choice, name: &str) -> Result<(), Hangup> {
        let described = self.shared.exports.info(name, &self.client);
        let answer = match described {
            Ok(info) if how == Choice::Info => Ok(info),
            Ok(info) => self.open(name, info),
            Err(err) => Err(err),
        };
        if let Err(err) = &answer
            && how != Choice::Info
        {
            let name: String = redact::tokens(volume_part(name)).chars().take(40).collect();
            let line = format!("connection {}: export {name:?} is refused: {}", self.out.id, err.line());
            self.shared.warn(&line);
        }
        let answered = self.session.answer_choice(answer.as_ref());
        if self.session.in_transmission() {
            let _ = self.out.contexts.set(self.session.contexts().to_vec());
        }
        self.queue_output();
        answered
    }

    fn open(&mut self, name: &str, info: ExportInfo) -> Result<ExportInfo, Error> {
        let export = self.shared.exports.open(name, &self.client)?;
        let info = ExportInfo { size: export.size(), read_only: export.read_only(), ..info };
        self.patient = export.stale_after().is_none() && matches!(self.client.peer, Peer::Unix { .. });
        self.io.open(Arc::clone(&export) as Arc<dyn Device>);
        self.export = Some(export);
        Ok(info)
    }

    /// Begins a request, or delays it if the volume is at its limits. Returns false if it waits.
    fn within_limits(&mut self, request: Request) -> Result<bool, Hangup> {
        match self.io.delay(&request) {
            None => self.begin(request),
            Some(delay) => {
                self.delayed = Some((request, delay));
                Ok(false)
            }
        }
    }

    /// Begins a delayed request, if its time has come.
    fn after_delay(&mut self, request: Request, delay: Delay) -> Result<bool, Hangup> {
        if self.io.has_changed(&delay) {
            return self.within_limits(request);
        }
        if self.shared.now() < delay.until {
            self.delayed = Some((request, delay));
            return Ok(false);
        }
        self.begin(request)
    }

    /// Takes a buffer for a request and serves it, or waits for its payload. Returns false if it waits for a buffer.
    fn begin(&mut self, request: Request) -> Result<bool, Hangup> {
        if !request.carries() {
            self.line_up(Ready { request, payload: Payload::default(), read_at: self.read_at })?;
            return Ok(true);
        }
        let Some((buf, load)) = self.io.buffer(request.len as usize) else {
            self.stalled = Some(request);
            return Ok(false);
        };
        if request.len > LARGEST_PART && load.is_none() {
            self.following = divide(request, buf);
        } else {
            let payload = Payload { buf: Some(buf), load, part: None };
            self.expect(Ready { request, payload, read_at: self.read_at })?;
        }
        self.next_part(self.read_at)?;
        Ok(true)
    }

    /// Continues a request in parts: all of a READ, or one part of a WRITE, whose payload is to come.
    fn next_part(&mut self, read_at: Duration) -> Result<(), Hangup> {
        while let Some((request, buf, part)) = self.following.pop_front() {
            self.expect(Ready { request, payload: Payload { buf: Some(buf), load: None, part: Some(part) }, read_at })?;
            if self.incoming.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Continues a request that has its buffer: serves a READ at once, a WRITE when its payload is complete.
    fn expect(&mut self, ready: Ready) -> Result<(), Hangup> {
        if ready.request.op == Op::Read {
            return self.line_up(ready);
        }
        self.incoming = Some(Incoming { write: ready, filled: 0 });
        Ok(())
    }

    /// Moves payload from the read-ahead into its buffer; true when the WRITE is complete and was served.
    fn fill_from_read_ahead(&mut self) -> Result<bool, Hangup> {
        while let Some(incoming) = &mut self.incoming {
            let ahead = &self.rx[self.start..self.end];
            let rest = incoming.rest();
            let n = ahead.len().min(rest.len());
            rest[..n].copy_from_slice(&ahead[..n]);
            let whole = n == rest.len();
            incoming.filled += n;
            self.start += n;
            self.session.payload_received(n);
            if !whole {
                return Ok(false);
            }
            if let Some(Incoming { write, .. }) = self.incoming.take() {
                let read_at = write.read_at;
                self.line_up(write)?;
                self.next_part(read_at)?;
            }
        }
        Ok(true)
    }

    /// Serves a complete request, or queues it if it is a large write: those wait until the socket is drained, for a
    /// client whose bytes are taken continues while they are written. Neither changes nor a FLUSH overtake queued
    /// writes.
    fn line_up(&mut self, ready: Ready) -> Result<(), Hangup> {
        let follows = ready.request.changes() || ready.request.op == Op::Flush;
        if is_large(&ready) || (follows && !self.ready.is_empty()) {
            self.ready.push_back(ready);
            return Ok(());
        }
        self.dispatch(ready)
    }

    /// Drains the socket first, then serves queued writes up to the next large one.
    fn read_or_serve(&mut self) -> Result<(), Hangup> {
        let waiting: usize = self.ready.iter().filter_map(|r| r.payload.buf.as_deref()).map(<[u8]>::len).sum();
        let reading = self.stage == Stage::Open && waiting < MAX_READY && !self.is_held_up();
        if reading && self.read()? {
            return Ok(());
        }
        while let Some(ready) = self.ready.pop_front() {
            self.dispatch(ready)?;
            if self.ready.front().is_some_and(is_large) {
                break;
            }
        }
        Ok(())
    }

    /// Serves a complete request: here if it need not wait, else by the workers. If connections already compete for
    /// processors, another thread gains nothing.
    fn dispatch(&mut self, ready: Ready) -> Result<(), Hangup> {
        let more = self.has_more() && self.shared.spinners.is_quiet();
        if let Some(done) = self.io.submit(ready, more)? {
            self.send_soon(answer::answer(done));
        }
        Ok(())
    }

    /// Whether more of the client's requests are pending or arriving.
    fn has_more(&self) -> bool {
        self.start < self.end || self.incoming.is_some() || !self.ready.is_empty()
    }

    /// Starts or joins the commit of the requests to be made durable.
    fn commit(&mut self) {
        let more = self.has_more() || self.stage != Stage::Open;
        let out = Arc::clone(&self.out);
        self.io.commit(more, || is_readable(&out));
    }

    fn send_soon(&mut self, one: Outgoing) {
        self.batch_bytes += one.len();
        self.batch.push(one);
    }

    fn queue_output(&mut self) {
        let bytes = self.session.take_output();
        if !bytes.is_empty() {
            self.send_soon(Outgoing::Bytes(bytes));
            self.send_batch();
        }
    }

    fn send_batch(&mut self) {
        self.batch_bytes = 0;
        self.out.send(self.batch.drain(..));
    }

    /// Waits until there is something to do, and reads.
    fn wait(&mut self) -> Result<(), Hangup> {
        let reading = self.stage == Stage::Open && !self.is_held_up();
        let watching = self.stage == Stage::Open && (reading || self.unread_since.is_none());
        let for_key = self.stage == Stage::Open && !reading && self.io.waits_for_key();
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, watching);
        events.set(PollFlags::RDHUP, for_key);
        events.set(PollFlags::OUT, self.out.unsent() > 0);
        let timeout = if self.export.is_none() {
            Some(self.handshake_left()?.min(TICK))
        } else if reading {
            None
        } else if let Some((_, delay)) = &self.delayed {
            let left = delay.until.saturating_sub(self.shared.now());
            Some(left.clamp(Duration::from_millis(1), TICK))
        } else {
            Some(TICK)
        };
        if reading && self.export.is_some() && self.look_again()? {
            return Ok(());
        }
        // Under TLS, received bytes may not all have been used yet, which a poll of the socket does not report.
        let held = watching && self.out.wire.holds_input();
        let asleep = Instant::now();
        let seen = if held { PollFlags::IN } else { self.sleep(events, timeout) };
        if for_key {
            if seen.intersects(HUNG_UP) {
                return Err(Hangup::Lost);
            }
            self.forgive();
        }
        if !watching || !seen.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        if !reading {
            self.unread_since = Some(self.shared.now());
            return Ok(());
        }
        self.spin.slept(asleep.elapsed());
        self.read().map(drop)
    }

    /// Resets the age of requests, read or unread, that were waiting for a key.
    fn forgive(&mut self) {
        if !self.patient {
            return;
        }
        let now = self.shared.now();
        self.read_at = now;
        self.unread_since = self.unread_since.map(|_| now);
        if let Some(incoming) = &mut self.incoming {
            incoming.write.read_at = now;
        }
    }

    /// Busy-polls the socket, while recent polls succeed. `false`: nothing came.
    fn look_again(&mut self) -> Result<bool, Hangup> {
        let (mut spin, shared) = (std::mem::take(&mut self.spin), Arc::clone(&self.shared));
        let found = spin.look(&shared.spinners, Instant::now, || self.read());
        self.spin = spin;
        found
    }

    /// Returns the time left for the negotiation.
    fn handshake_left(&self) -> Result<Duration, Hangup> {
        let spent = self.shared.now().saturating_sub(self.began);
        match self.shared.config.handshake.checked_sub(spent) {
            // Not zero: a poll that returns at once would spin through the last fraction of a millisecond.
            Some(left) if !left.is_zero() => Ok(left.max(Duration::from_millis(1))),
            _ => Err(Hangup::HandshakeTimeout),
        }
    }

    /// Polls the waker and the socket, and returns the socket's events. Leaves the socket out if `events` is empty: a
    /// hang-up would make every poll return at once.
    fn sleep(&self, events: PollFlags, timeout: Option<Duration>) -> PollFlags {
        let mut fds = [
            PollFd::from_borrowed_fd(self.out.waker.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.out.wire.fd(), events),
        ];
        let count = if events.is_empty() { 1 } else { 2 };
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        self.shared.spinners.sleeps();
        let polled = poll(&mut fds[..count], timeout.as_ref());
        self.shared.spinners.wakes();
        if polled.is_err() {
            return PollFlags::empty();
        }
        if !fds[0].revents().is_empty() {
            self.out.waker.clear();
        }
        if count == 2 { fds[1].revents() } else { PollFlags::empty() }
    }

    /// Reads once: the rest of a payload into its buffer, then the read-ahead. `false`: the socket has nothing.
    fn read(&mut self) -> Result<bool, Hangup> {
        let now = self.shared.now();
        if let Some(since) = self.unread_since.take()
            && self.export.is_some()
            && now.saturating_sub(since) > self.io.stale_after()
        {
            return Err(Hangup::Stale);
        }
        if self.start > 0 {
            self.rx.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let (mut none, mut limit) = ([0; 0], self.rx.len());
        let payload = match &mut self.incoming {
            Some(incoming) => {
                if incoming.write.request.len >= LARGE_WRITE {
                    limit = self.end + READ_AHEAD_BEHIND_LARGE;
                }
                incoming.rest()
            }
            None => &mut none[..],
        };
        let wanted = payload.len();
        let mut slices = [IoSliceMut::new(payload), IoSliceMut::new(&mut self.rx[self.end..limit])];
        let first = usize::from(wanted == 0);
        let n = self.out.wire.read(&mut slices[first..])?;
        if n == 0 {
            return Ok(false);
        }
        if self.tls.is_some() && self.client.tls.is_none() {
            self.client.tls = self.out.wire.tls_peer();
        }
        self.read_at = now;
        let paid = n.min(wanted);
        self.end += n - paid;
        if let Some(incoming) = &mut self.incoming {
            incoming.filled += paid;
            self.session.payload_received(paid);
        }
        self.shared.stats.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
        self.out.moved.fetch_add(n as u64, Ordering::Relaxed);
        Ok(true)
    }
}

/// Whether the socket is readable now.
fn is_readable(out: &Output) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(out.wire.fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    out.wire.holds_input() || poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}
