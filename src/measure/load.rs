//! A lean NBD client for generating load: simple replies, one thread per connection, a fixed number of requests in flight on
//! each. It parses all replies from one `recv` and sends the requests that follow them with one `send`, so that the server
//! dominates the measurement.
//!
//! Wire format: the NBD specification, "Fixed newstyle negotiation" (NBD_OPT_EXPORT_NAME) and "Transmission phase".

use super::cannot;
use crate::error::{Error, IoContext, Kind, Result};
use crate::interrupt;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPT_EXPORT_NAME: u32 = 1;
/// NBD_FLAG_C_FIXED_NEWSTYLE and NBD_FLAG_C_NO_ZEROES.
const CLIENT_FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Bytes in the header of a simple reply.
const HEAD: usize = 16;
const FLAG_FUA: u16 = 1;
/// Buffer size for one `recv`, in bytes.
const ROOM: usize = 256 << 10;
/// Payloads of at least this size are sent without copying.
const VECTORED: usize = 32 << 10;

/// Commands on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
}

/// The kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// 70 % reads, 30 % writes.
    Mixed,
    /// A write, and a flush once it is answered; the pair counts as one request.
    WriteFlush,
    /// Writes with FUA.
    Fua,
    /// Trims.
    Trim,
}

impl Op {
    /// Returns the transmission flags that the server must offer.
    fn needs(self) -> u16 {
        match self {
            Self::Read | Self::Write | Self::Mixed => 0,
            Self::WriteFlush => 1 << 2,
            Self::Fua => 1 << 3,
            Self::Trim => 1 << 5,
        }
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After this number of requests on each connection.
    Count(u64),
    /// Once this is set.
    Set(&'static AtomicBool),
}

/// A workload.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// The requests.
    pub op: Op,
    /// Whether offsets are random instead of sequential.
    pub random: bool,
    /// Bytes per request.
    pub block: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Start of the range in the export, in bytes.
    pub start: u64,
    /// Length of the range, in bytes.
    pub size: u64,
    /// When to stop.
    pub until: Until,
}

/// The results of a run.
pub struct Seen {
    /// Bytes read, written or trimmed.
    pub bytes: u64,
    /// Time from the first request to the last reply.
    pub elapsed: Duration,
    /// Latency of each request in nanoseconds, sorted.
    pub latencies: Vec<u64>,
}

impl Seen {
    /// Returns the latency at percentile `p` (0 to 100), in microseconds.
    pub fn percentile(&self, p: f64) -> f64 {
        let at = (self.latencies.len() as f64 * p / 100.0) as usize;
        let found = self.latencies.get(at.min(self.latencies.len().saturating_sub(1)));
        found.map_or(0.0, |ns| *ns as f64 / 1e3)
    }
}

/// The block numbers of a pattern: sequential with wraparound, or xorshift64 from a fixed seed.
struct Offsets {
    at: u64,
    seed: u64,
    blocks: u64,
    random: bool,
}

impl Offsets {
    fn draw(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn next(&mut self) -> u64 {
        if self.random {
            return self.draw() % self.blocks;
        }
        self.at = (self.at + 1) % self.blocks;
        self.at
    }
}

/// A connection in its transmission phase.
pub struct Connection {
    socket: UnixStream,
    /// The transmission flags that the server offers.
    flags: u16,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Connection {
    /// Connects to an export, with simple replies.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the server refuses the export or violates the protocol; errors of the socket.
    pub fn open(path: &Path, export: &str) -> Result<Self> {
        let what = || format!("connect to {}", path.display());
        let mut socket = UnixStream::connect(path).on(what)?;
        crate::sys::socket_buffers(&socket, 2 << 20);
        let mut hello = [0u8; 18];
        socket.read_exact(&mut hello).on(what)?;
        let mut ask = CLIENT_FLAGS.to_be_bytes().to_vec();
        ask.extend_from_slice(OPTION_MAGIC);
        ask.extend_from_slice(&OPT_EXPORT_NAME.to_be_bytes());
        ask.extend_from_slice(&(export.len() as u32).to_be_bytes());
        ask.extend_from_slice(export.as_bytes());
        socket.write_all(&ask).on(what)?;
        let mut info = [0u8; 10];
        socket.read_exact(&mut info).on(what)?;
        let flags = u16::from_be_bytes([info[8], info[9]]);
        Ok(Self { socket, flags, out: Vec::new(), input: vec![0; ROOM] })
    }

    /// Returns whether the server offers what these requests need.
    pub fn can(&self, op: Op) -> bool {
        self.flags & op.needs() == op.needs()
    }

    fn head(&mut self, command: Command, flags: u16, cookie: u64, offset: u64, len: usize) {
        self.out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.out.extend_from_slice(&flags.to_be_bytes());
        self.out.extend_from_slice(&(command as u16).to_be_bytes());
        self.out.extend_from_slice(&cookie.to_be_bytes());
        self.out.extend_from_slice(&offset.to_be_bytes());
        self.out.extend_from_slice(&(len as u32).to_be_bytes());
    }

    /// Queues a payload, or sends it together with everything queued before it.
    fn payload(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() < VECTORED {
            self.out.extend_from_slice(payload);
            return Ok(());
        }
        let what = || "send requests".to_owned();
        let mut both = [IoSlice::new(&self.out), IoSlice::new(payload)];
        let mut rest = &mut both[..];
        while !rest.is_empty() {
            let sent = self.socket.write_vectored(rest).on(what)?;
            IoSlice::advance_slices(&mut rest, sent);
        }
        self.out.clear();
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).on(|| "send requests".to_owned())?;
            self.out.clear();
        }
        Ok(())
    }

    /// Sends one read and waits for it.
    pub fn read_once(&mut self, offset: u64, len: usize) -> Result<()> {
        self.head(Command::Read, 0, 0, offset, len);
        self.send()?;
        let mut answer = vec![0; HEAD + len];
        self.socket.read_exact(&mut answer).on(|| "read a reply".to_owned())?;
        cookie(&answer[..HEAD]).map(drop)
    }

    /// Sends one flush and waits for it.
    pub fn flush(&mut self) -> Result<()> {
        self.head(Command::Flush, 0, 0, 0, 0);
        self.send()?;
        let mut answer = [0; HEAD];
        self.socket.read_exact(&mut answer).on(|| "read a reply".to_owned())?;
        cookie(&answer).map(drop)
    }

    /// Keeps `depth` requests in flight until the pattern ends, then waits for the rest.
    fn load(&mut self, pattern: &Pattern, seed: u64, started: Instant) -> Result<Seen> {
        let mut run = Run::new(pattern, seed);
        for slot in 0..pattern.depth {
            run.ask(self, slot)?;
        }
        run.sent(&mut (0..pattern.depth), Instant::now());
        self.send()?;
        let (mut held, mut skip) = (0, 0);
        let mut asked = Vec::with_capacity(pattern.depth);
        // Also reads the payload of the last reply: the connection may be used again.
        while run.flying > 0 || skip > 0 {
            let got = self.socket.read(&mut self.input[held..]).on(|| "read replies".to_owned())?;
            if got == 0 {
                return Err(cannot("the server hung up"));
            }
            let now = Instant::now();
            let goes_on = run.goes_on(now - started)?;
            let (end, mut at) = (held + got, 0);
            loop {
                let payload = skip.min(end - at);
                at += payload;
                skip -= payload;
                if skip > 0 || end - at < HEAD {
                    break;
                }
                let slot = cookie(&self.input[at..at + HEAD])? as usize;
                at += HEAD;
                skip = run.answered(slot, now, goes_on)?;
                if run.slots[slot].state != LoadState::Idle {
                    run.ask(self, slot)?;
                    asked.push(slot);
                }
            }
            self.input.copy_within(at..end, 0);
            held = end - at;
            run.sent(&mut asked.drain(..), now);
            self.send()?;
        }
        let elapsed = started.elapsed();
        Ok(Seen { bytes: run.latencies.len() as u64 * pattern.block as u64, elapsed, latencies: run.latencies })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.out.clear();
        self.head(Command::Disconnect, 0, 0, 0, 0);
        let _ = self.socket.write_all(&self.out);
    }
}

/// Returns the cookie of a reply, which must not be an error.
fn cookie(head: &[u8]) -> Result<u64> {
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(0) != REPLY_MAGIC || word(4) != 0 {
        return Err(cannot(format!("the server answered error {}", word(4))));
    }
    Ok(u64::from(word(8)) << 32 | u64::from(word(12)))
}

/// The request in a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoadState {
    Idle,
    Reading,
    Changing,
    /// The second half of [`Op::WriteFlush`].
    Flushing,
}

#[derive(Clone, Copy)]
struct Slot {
    state: LoadState,
    since: Instant,
}

/// One connection's progress through a pattern.
struct Run {
    pattern: Pattern,
    offsets: Offsets,
    payload: Vec<u8>,
    slots: Vec<Slot>,
    flying: usize,
    begun: u64,
    latencies: Vec<u64>,
}

impl Run {
    fn new(pattern: &Pattern, seed: u64) -> Self {
        let blocks = (pattern.size / pattern.block as u64).max(1);
        let seed = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed * 2 + 1);
        Self {
            pattern: *pattern,
            offsets: Offsets { at: 0, seed, blocks, random: pattern.random },
            payload: (0..pattern.block).map(|i| (i * 31 + 7) as u8).collect(),
            slots: vec![Slot { state: LoadState::Changing, since: Instant::now() }; pattern.depth],
            flying: pattern.depth,
            begun: 0,
            latencies: Vec::with_capacity(1 << 20),
        }
    }

    /// Returns whether a free slot takes another request.
    fn goes_on(&self, elapsed: Duration) -> Result<bool> {
        if interrupt::is_asked_for() {
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        Ok(match self.pattern.until {
            Until::Time(time) => elapsed < time,
            Until::Count(count) => self.begun < count,
            Until::Set(stop) => !stop.load(Ordering::Relaxed),
        })
    }

    /// Queues the next request of a slot.
    fn ask(&mut self, to: &mut Connection, slot: usize) -> Result<()> {
        let (len, id) = (self.pattern.block, slot as u64);
        if self.slots[slot].state == LoadState::Flushing {
            to.head(Command::Flush, 0, id, 0, 0);
            return Ok(());
        }
        self.begun += 1;
        let offset = self.pattern.start + self.offsets.next() * len as u64;
        let op = match self.pattern.op {
            Op::Mixed if self.offsets.draw() % 10 < 7 => Op::Read,
            Op::Mixed => Op::Write,
            op => op,
        };
        self.slots[slot].state = if op == Op::Read { LoadState::Reading } else { LoadState::Changing };
        match op {
            Op::Read => to.head(Command::Read, 0, id, offset, len),
            Op::Trim => to.head(Command::Trim, 0, id, offset, len),
            _ => {
                to.head(Command::Write, if op == Op::Fua { FLAG_FUA } else { 0 }, id, offset, len);
                to.payload(&self.payload)?;
            }
        }
        Ok(())
    }

    /// Records the time at which requests were sent. A flush belongs to the write before it.
    fn sent(&mut self, slots: &mut dyn Iterator<Item = usize>, now: Instant) {
        for slot in slots {
            if self.slots[slot].state != LoadState::Flushing {
                self.slots[slot].since = now;
            }
        }
    }

    /// Handles the header of a reply, and returns the number of payload bytes after it. The slot is then idle, or ready for its
    /// next request.
    fn answered(&mut self, slot: usize, now: Instant, goes_on: bool) -> Result<usize> {
        let number = slot;
        let slot = self.slots.get_mut(slot).filter(|s| s.state != LoadState::Idle);
        let slot = slot.ok_or_else(|| cannot(format!("the server answered request {number}, which nobody asked")))?;
        if slot.state == LoadState::Changing && self.pattern.op == Op::WriteFlush {
            slot.state = LoadState::Flushing;
            return Ok(0);
        }
        let payload = if slot.state == LoadState::Reading { self.pattern.block } else { 0 };
        self.latencies.push((now - slot.since).as_nanos() as u64);
        let more = goes_on && !matches!(self.pattern.until, Until::Count(count) if self.begun >= count);
        slot.state = if more { LoadState::Changing } else { LoadState::Idle };
        self.flying -= usize::from(!more);
        Ok(payload)
    }
}

/// Runs a pattern on all connections at once. If it is sequential, each connection has its own part of the range.
pub fn load(connections: &mut [Connection], pattern: &Pattern) -> Result<Seen> {
    let share = pattern.size / connections.len() as u64 / pattern.block as u64 * pattern.block as u64;
    let started = Instant::now();
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .enumerate()
            .map(|(i, connection)| {
                let mut own = *pattern;
                if !own.random {
                    own.start += share * i as u64;
                    own.size = share;
                }
                scope.spawn(move || connection.load(&own, i as u64, started))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(cannot("a load thread ended"))))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut all = Seen { bytes: 0, elapsed: Duration::ZERO, latencies: Vec::new() };
    for one in seen {
        all.bytes += one.bytes;
        all.elapsed = all.elapsed.max(one.elapsed);
        all.latencies.extend(one.latencies);
    }
    all.latencies.sort_unstable();
    Ok(all)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
