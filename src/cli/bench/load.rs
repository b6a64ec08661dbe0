//! A lean NBD client for load: one connection, simple replies, a fixed number of requests in flight.
//!
//! Wire facts: the NBD specification, "Fixed newstyle negotiation" (EXPORT_NAME) and "Transmission phase".

use super::cannot;
use crate::error::{IoContext, Result};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPT_EXPORT_NAME: u32 = 1;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// A connection in its transmission phase.
pub(super) struct Connection {
    socket: UnixStream,
    out: Vec<u8>,
    input: Vec<u8>,
}

/// What to ask for.
pub(super) struct Pattern {
    pub(super) write: bool,
    pub(super) random: bool,
    pub(super) block: usize,
    pub(super) depth: usize,
    pub(super) size: u64,
    pub(super) time: Duration,
}

/// What came of it.
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Of each request, sorted.
    pub(super) latencies: Vec<Duration>,
}

impl Seen {
    /// Microseconds.
    pub(super) fn percentile(&self, p: f64) -> f64 {
        let at = (self.latencies.len() as f64 * p / 100.0) as usize;
        let found = self.latencies.get(at.min(self.latencies.len().saturating_sub(1)));
        found.map_or(0.0, |d| d.as_secs_f64() * 1e6)
    }
}

/// The offsets of a pattern: round and round, or xorshift64 from a fixed seed.
struct Offsets {
    at: u64,
    seed: u64,
    blocks: u64,
    random: bool,
}

impl Offsets {
    fn next(&mut self) -> u64 {
        if self.random {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            return self.seed % self.blocks;
        }
        self.at = (self.at + 1) % self.blocks;
        self.at
    }
}

impl Connection {
    pub(super) fn open(path: &Path, export: &str) -> Result<Self> {
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
        Ok(Self { socket, out: Vec::new(), input: vec![0; 2 << 20] })
    }

    fn push(&mut self, write: bool, cookie: u64, offset: u64, payload: &[u8], len: usize) {
        self.out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.out.extend_from_slice(&[0, 0, 0, u8::from(write)]);
        self.out.extend_from_slice(&cookie.to_be_bytes());
        self.out.extend_from_slice(&offset.to_be_bytes());
        self.out.extend_from_slice(&(len as u32).to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    pub(super) fn read_once(&mut self, offset: u64, len: usize) -> Result<()> {
        self.push(false, 0, offset, &[], len);
        self.send()?;
        self.reply(len).map(drop)
    }

    fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.out).on(|| "send requests".to_owned())?;
        self.out.clear();
        Ok(())
    }

    /// Reads one reply and its payload; answers its cookie.
    fn reply(&mut self, len: usize) -> Result<u64> {
        let what = || "read a reply".to_owned();
        self.socket.read_exact(&mut self.input[..16 + len]).on(what)?;
        let head = &self.input[..16];
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(0) != REPLY_MAGIC || word(4) != 0 {
            return Err(cannot(format!("the server answered error {}", word(4))));
        }
        Ok(u64::from(word(8)) << 32 | u64::from(word(12)))
    }

    /// Keeps `depth` requests in flight until the time is over, then waits for the rest.
    pub(super) fn load(&mut self, pattern: &Pattern) -> Result<Seen> {
        let payload: Vec<u8> =
            if pattern.write { (0..pattern.block).map(|i| (i * 31 + 7) as u8).collect() } else { Vec::new() };
        let expect = if pattern.write { 0 } else { pattern.block };
        let blocks = (pattern.size / pattern.block as u64).max(1);
        let mut offsets = Offsets { at: 0, seed: 0x9e37_79b9_7f4a_7c15, blocks, random: pattern.random };
        let mut sent = vec![Instant::now(); pattern.depth];
        let mut latencies = Vec::with_capacity(1 << 20);
        let started = Instant::now();
        for (cookie, at) in sent.iter_mut().enumerate() {
            *at = Instant::now();
            self.push(pattern.write, cookie as u64, offsets.next() * pattern.block as u64, &payload, pattern.block);
            if pattern.write {
                self.send()?;
            }
        }
        self.send()?;
        let mut flying = pattern.depth;
        while flying > 0 {
            let cookie = self.reply(expect)? as usize;
            let slot = sent.get_mut(cookie).ok_or_else(|| cannot(format!("the server answered request {cookie}")))?;
            let now = Instant::now();
            latencies.push(now - *slot);
            if now - started < pattern.time {
                *slot = now;
                let offset = offsets.next() * pattern.block as u64;
                self.push(pattern.write, cookie as u64, offset, &payload, pattern.block);
                self.send()?;
            } else {
                flying -= 1;
            }
        }
        let elapsed = started.elapsed();
        latencies.sort_unstable();
        Ok(Seen { bytes: latencies.len() as u64 * pattern.block as u64, elapsed, latencies })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.out.clear();
        self.push(false, 0, 0, &[], 0);
        self.out[7] = 2; // NBD_CMD_DISC
        let _ = self.socket.write_all(&self.out);
    }
}
