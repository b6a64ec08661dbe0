//! Replies to requests, in the three formats that a client can negotiate. All numbers big-endian.
//!
//! ```text
//! simple      0x67446698 | error u32 | cookie u64 | a READ's data
//! structured  0x668e33ef | flags u16 | type u16 | cookie u64 | length u32 | payload        one or more chunks
//! extended    0x6e8a278c | flags u16 | type u16 | cookie u64 | offset u64 | length u64 | payload
//! payloads    data: offset u64, bytes      hole: offset u64, length u32      error: errno u32, text length u16, text
//!             (, offset u64)      status: context u32, {length u32, flags u32}…; under extended headers context u32,
//!             count u32, {length u64, flags u64}…
//! ```
//! Sections "Structured reply chunk message" and "Structured reply types" of proto.md, and the extension for extended
//! headers. A reply without payload is simple even if structured replies were negotiated, as the specification allows.

use super::codec::{self, SimpleReply, chunk};
use super::errno::Errno;
use crate::engine::Extent;
use std::ops::Range;

/// Unit of the search for zeroes, in bytes.
const SECTOR: usize = 4096;
/// Shortest run of zeroes sent as a hole, unless everything requested is zero, in bytes.
const HOLE_MIN: usize = 32 * 1024;
/// Maximum number of chunks in a reply to a READ; data in more runs is sent as data.
const MAX_CHUNKS: usize = 64;
/// Length limit of an error's text, in bytes (the protocol's limit is 4096).
const MAX_TEXT: usize = 1024;

/// The reply format of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Style {
    /// Simple replies, which every client supports.
    #[default]
    Simple,
    /// Structured replies (`NBD_OPT_STRUCTURED_REPLY`).
    Structured,
    /// Extended replies (`NBD_OPT_EXTENDED_HEADERS`).
    Extended,
}

/// The request that a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct To {
    /// The connection's reply format.
    pub style: Style,
    /// The client's id of the request.
    pub cookie: u64,
    /// Its offset, which extended headers return.
    pub offset: u64,
}

/// The fixed part of a reply, which the data of a READ may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Head {
    /// The longest: an extended header and a hole.
    const MAX: usize = 44;

    const fn new() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl To {
    /// Makes the header of a chunk whose payload has `len` bytes.
    fn chunk(&self, kind: u16, len: usize, last: bool) -> Head {
        let flags = if last { chunk::DONE } else { 0 };
        let (cookie, flags, kind) = (self.cookie.to_be_bytes(), flags.to_be_bytes(), kind.to_be_bytes());
        let head = Head::new();
        if self.style == Style::Extended {
            let head = head.put(&codec::EXTENDED_REPLY_MAGIC.to_be_bytes()).put(&flags).put(&kind).put(&cookie);
            return head.put(&self.offset.to_be_bytes()).put(&(len as u64).to_be_bytes());
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        head.put(&codec::STRUCTURED_REPLY_MAGIC.to_be_bytes()).put(&flags).put(&kind).put(&cookie).put(&len)
    }

    /// Makes the reply to a completed request without data. Not for a READ of more than 0 bytes.
    #[must_use]
    pub fn done(&self) -> Head {
        match self.style {
            Style::Extended => self.chunk(chunk::NONE, 0, true),
            Style::Simple | Style::Structured => {
                Head::new().put(&SimpleReply { error: None, cookie: self.cookie }.encode())
            }
        }
    }

    /// Makes the reply to a READ of no bytes.
    #[must_use]
    pub fn nothing_read(&self) -> Head {
        if self.style == Style::Structured { self.chunk(chunk::NONE, 0, true) } else { self.done() }
    }

    /// Makes the header for `len` bytes of a READ at offset `at`. A simple reply has all of them.
    #[must_use]
    pub fn data(&self, at: u64, len: usize, last: bool) -> Head {
        match self.style {
            Style::Simple => self.done(),
            Style::Structured | Style::Extended => self.chunk(chunk::OFFSET_DATA, 8 + len, last).put(&at.to_be_bytes()),
        }
    }

    /// Makes a hole: `len` bytes at `at` that read as zeroes. Not for simple replies.
    #[must_use]
    pub fn hole(&self, at: u64, len: u32, last: bool) -> Head {
        self.chunk(chunk::OFFSET_HOLE, 12, last).put(&at.to_be_bytes()).put(&len.to_be_bytes())
    }

    /// Makes an error reply, with the offset `at` if there is one. A simple reply has room only for the number.
    #[must_use]
    pub fn error(&self, errno: Errno, text: &str, at: Option<u64>) -> Vec<u8> {
        if self.style == Style::Simple {
            return SimpleReply { error: Some(errno), cookie: self.cookie }.encode().to_vec();
        }
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let (kind, tail) = if at.is_some() { (chunk::ERROR_OFFSET, 8) } else { (chunk::ERROR, 0) };
        let mut out = self.chunk(kind, 6 + text.len() + tail, true).to_vec();
        out.extend_from_slice(&errno.wire().to_be_bytes());
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend(at.into_iter().flat_map(u64::to_be_bytes));
        out
    }

    /// Makes the status of a range in the context with this id. There must be at least one extent; not for simple
    /// replies.
    #[must_use]
    pub fn status(&self, context: u32, extents: &[Extent], last: bool) -> Vec<u8> {
        if self.style == Style::Extended {
            let mut out = self.chunk(chunk::BLOCK_STATUS_EXT, 8 + 16 * extents.len(), last).to_vec();
            out.extend_from_slice(&context.to_be_bytes());
            out.extend_from_slice(&(extents.len() as u32).to_be_bytes());
            for extent in extents {
                out.extend_from_slice(&extent.len.to_be_bytes());
                out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
            }
            return out;
        }
        // An extent of 4 GiB or more does not fit: its first part is reported, and the client asks again from there.
        let told = extents.iter().position(|e| e.len > u64::from(u32::MAX)).map_or(extents.len(), |i| i + 1);
        let mut out = self.chunk(chunk::BLOCK_STATUS, 4 + 8 * told, last).to_vec();
        out.extend_from_slice(&context.to_be_bytes());
        for extent in &extents[..told] {
            let len = u32::try_from(extent.len).unwrap_or(u32::MAX - (SECTOR as u32 - 1));
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&extent.flags.to_be_bytes());
        }
        out
    }
}

/// The form in which a READ's data is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// All of it as data.
    Data,
    /// All zero.
    Zeroes,
    /// Mixed: runs in order, each with whether it is zero.
    Mixed(Vec<(Range<usize>, bool)>),
}

impl Content {
    /// Searches what was read at `offset` for zeroes. Data costs a check of 16 bytes of each sector.
    #[must_use]
    pub fn of(data: &[u8], offset: u64) -> Self {
        let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let end = (at + SECTOR - ((offset + at as u64) % SECTOR as u64) as usize).min(data.len());
            let zero = is_zero(&data[at..end]);
            match runs.last_mut() {
                Some((run, was)) if *was == zero => run.end = end,
                // The usual case, one run of data, allocates nothing.
                None if !zero => {
                    let Some(first) = first_zero_sector(data, offset, end) else { return Self::Data };
                    runs.push((at..first, false));
                    at = first;
                    continue;
                }
                _ => runs.push((at..end, zero)),
            }
            at = end;
        }
        match &runs[..] {
            [(_, true)] => Self::Zeroes,
            _ => merged(runs),
        }
    }
}

/// Returns the start of the first zero sector at or after `at`.
fn first_zero_sector(data: &[u8], offset: u64, mut at: usize) -> Option<usize> {
    while at < data.len() {
        let end = (at + SECTOR - ((offset + at as u64) % SECTOR as u64) as usize).min(data.len());
        if is_zero(&data[at..end]) {
            return Some(at);
        }
        at = end;
    }
    None
}

/// Turns runs of zeroes that are too short for a chunk back into data.
fn merged(runs: Vec<(Range<usize>, bool)>) -> Content {
    let mut out: Vec<(Range<usize>, bool)> = Vec::new();
    for (run, zero) in runs {
        let zero = zero && run.len() >= HOLE_MIN;
        match out.last_mut() {
            Some((last, was)) if *was == zero => last.end = run.end,
            _ => out.push((run, zero)),
        }
    }
    if out.len() > MAX_CHUNKS || out.iter().all(|(_, zero)| !zero) { Content::Data } else { Content::Mixed(out) }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (head, tail) = bytes.split_at(16.min(bytes.len()));
    head.iter().all(|b| *b == 0) && tail.iter().fold(0, |all, b| all | b) == 0
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
