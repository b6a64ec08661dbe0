//! The rules of requests: which commands and flags an export takes, and within which bounds ("Request types", "Command
//! flags", "Error values" of proto.md).

use super::codec::{self, RequestHeader, command, transmission};
use super::errno::Errno;
use super::reply::{Style, To};
use crate::engine::{self, Op, Tag};

/// Largest payload of a request, bytes ("Size constraints": at least 32 MiB for clients that do not ask).
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Data out.
    Read,
    /// Data in.
    Write,
    /// Make durable.
    Flush,
    /// Discard.
    Trim,
    /// Prefetch.
    Cache,
    /// Zero.
    WriteZeroes,
    /// Say what the chosen contexts know.
    BlockStatus,
}

/// A request inside the export's bounds, with flags that fit its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// What it asks for.
    pub command: Command,
    /// How it wants its reply.
    pub style: Style,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes; may be 0. At most [`MAX_PAYLOAD`] where they are carried.
    pub len: u64,
    /// Durable before the reply.
    pub fua: bool,
    /// Keep the space allocated (WRITE_ZEROES only).
    pub no_hole: bool,
    /// Only if it is faster than writing (WRITE_ZEROES only).
    pub fast: bool,
    /// One chunk of content (READ only).
    pub unfragmented: bool,
    /// One extent a context (BLOCK_STATUS only).
    pub one: bool,
    /// The contexts asked for, a bit for each chosen one (BLOCK_STATUS only).
    pub contexts: u64,
}

impl Request {
    /// A READ of nothing, for tests to change.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self {
        command: Command::Read,
        style: Style::Simple,
        cookie: 9,
        offset: 0,
        len: 0,
        fua: false,
        no_hole: false,
        fast: false,
        unfragmented: false,
        one: false,
        contexts: 0,
    };

    /// Whom the reply is for.
    #[must_use]
    pub const fn to(&self) -> To {
        To { style: self.style, cookie: self.cookie, offset: self.offset }
    }
}

impl Request {
    /// The request as the engine does it; what only the reply needs is in its tag.
    #[must_use]
    pub const fn io(&self) -> engine::Request {
        let op = match self.command {
            Command::Read => Op::Read,
            Command::Write => Op::Write,
            Command::Flush => Op::Flush,
            Command::Trim => Op::Trim,
            Command::Cache => Op::Cache,
            Command::WriteZeroes => Op::WriteZeroes,
            Command::BlockStatus => Op::Query,
        };
        let style = match self.style {
            Style::Simple => 0,
            Style::Structured => STRUCTURED,
            Style::Extended => EXTENDED,
        };
        let unfragmented = if self.unfragmented { UNFRAGMENTED } else { 0 };
        let flags = style | unfragmented | if self.one { ONE } else { 0 };
        let Self { offset, len, fua, no_hole, fast, .. } = *self;
        let tag = Tag { id: self.cookie, set: self.contexts, flags };
        engine::Request { op, offset, len, fua, no_hole, fast, tag }
    }
}

/// Flags of a request's [`Tag`].
const STRUCTURED: u32 = 1;
const EXTENDED: u32 = 2;
const UNFRAGMENTED: u32 = 4;
const ONE: u32 = 8;

/// How a request wants its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Whom it is for.
    pub to: To,
    /// One chunk of content (READ only).
    pub unfragmented: bool,
    /// One extent a context (BLOCK_STATUS only).
    pub one: bool,
    /// The contexts asked for, a bit for each chosen one (BLOCK_STATUS only).
    pub contexts: u64,
}

impl Wish {
    /// What [`Request::io`] put into the tag.
    #[must_use]
    pub const fn of(request: &engine::Request) -> Self {
        let Tag { id, set, flags } = request.tag;
        let style = match flags & (STRUCTURED | EXTENDED) {
            STRUCTURED => Style::Structured,
            EXTENDED => Style::Extended,
            _ => Style::Simple,
        };
        let to = To { style, cookie: id, offset: request.offset };
        Self { to, unfragmented: flags & UNFRAGMENTED != 0, one: flags & ONE != 0, contexts: set }
    }
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The error to reply with.
    pub errno: Errno,
    /// The rule, in words.
    pub why: &'static str,
}

const fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

/// What was agreed on for the transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the export.
    pub size: u64,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// How replies look.
    pub style: Style,
    /// Metadata contexts that were chosen; at most 64.
    pub contexts: u32,
}

impl Terms {
    /// The transmission flags of the export.
    #[must_use]
    pub const fn flags(&self) -> u16 {
        use transmission as t;
        let mut flags = t::HAS_FLAGS | t::SEND_FLUSH | t::SEND_FUA | t::SEND_CACHE | t::CAN_MULTI_CONN;
        if self.read_only {
            flags |= t::READ_ONLY;
        } else {
            flags |= t::SEND_TRIM | t::SEND_WRITE_ZEROES | t::SEND_FAST_ZERO;
        }
        if !matches!(self.style, Style::Simple) {
            flags |= t::SEND_DF;
        }
        if matches!(self.style, Style::Extended) && self.contexts > 0 {
            flags |= t::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    /// All contexts that were chosen, a bit each.
    #[must_use]
    pub const fn all_contexts(&self) -> u64 {
        if self.contexts >= 64 { u64::MAX } else { (1 << self.contexts) - 1 }
    }

    /// Bytes of payload behind a request's header. A WRITE always has one: under extended headers it should say so by
    /// `NBD_CMD_FLAG_PAYLOAD_LEN`, and qemu (8.2 to 10.0 at least) does not. Its data, taken for requests, would be what a
    /// guest chooses.
    #[must_use]
    pub const fn payload(&self, header: &RequestHeader) -> u64 {
        let says_so = matches!(self.style, Style::Extended) && header.flags & codec::CMD_PAYLOAD_LEN != 0;
        if says_so || header.command == command::WRITE { header.len } else { 0 }
    }

    /// Checks a request against the export and the rules of its command.
    ///
    /// # Errors
    /// The error to reply with.
    pub fn admit(&self, header: &RequestHeader) -> Result<Request, Refusal> {
        let (kind, allowed) = self.rules(header)?;
        if header.flags & !(allowed | codec::CMD_FUA) != 0 {
            return refuse(Errno::Inval, "a flag that this command does not support");
        }
        self.bounds(kind, header.offset, header.len)?;
        let has = |flag: u16| header.flags & flag != 0;
        Ok(Request {
            command: kind,
            style: self.style,
            cookie: header.cookie,
            offset: header.offset,
            len: header.len,
            fua: has(codec::CMD_FUA),
            no_hole: has(codec::CMD_NO_HOLE),
            fast: has(codec::CMD_FAST_ZERO),
            unfragmented: has(codec::CMD_DF),
            one: has(codec::CMD_REQ_ONE),
            contexts: if kind == Command::BlockStatus { self.all_contexts() } else { 0 },
        })
    }

    /// The command, and the flags that it has besides FUA, which goes with every command.
    fn rules(&self, header: &RequestHeader) -> Result<(Command, u16), Refusal> {
        let structured = self.style != Style::Simple;
        let payload = if self.style == Style::Extended { codec::CMD_PAYLOAD_LEN } else { 0 };
        Ok(match header.command {
            command::READ => (Command::Read, if structured { codec::CMD_DF } else { 0 }),
            command::WRITE => (Command::Write, payload),
            command::FLUSH => (Command::Flush, 0),
            command::TRIM => (Command::Trim, 0),
            command::CACHE => (Command::Cache, 0),
            command::WRITE_ZEROES => (Command::WriteZeroes, codec::CMD_NO_HOLE | codec::CMD_FAST_ZERO),
            command::BLOCK_STATUS if self.contexts > 0 => (Command::BlockStatus, codec::CMD_REQ_ONE),
            command::BLOCK_STATUS => return refuse(Errno::Inval, "no metadata context was selected"),
            _ => return refuse(Errno::Inval, "an unknown command"),
        })
    }

    fn bounds(&self, kind: Command, offset: u64, len: u64) -> Result<(), Refusal> {
        if matches!(kind, Command::Write | Command::Trim | Command::WriteZeroes) && self.read_only {
            return refuse(Errno::Perm, "the export is read-only");
        }
        if kind == Command::Flush && (offset, len) != (0, 0) {
            return refuse(Errno::Inval, "a FLUSH with an offset or a length");
        }
        if kind == Command::BlockStatus && len == 0 {
            return refuse(Errno::Inval, "a BLOCK_STATUS of no bytes");
        }
        if matches!(kind, Command::Read | Command::Write) && len > u64::from(MAX_PAYLOAD) {
            // EOVERFLOW is what a client may expect of a READ that could have been split; others know EINVAL alone.
            let split = kind == Command::Read && self.style != Style::Simple;
            let errno = if split { Errno::Overflow } else { Errno::Inval };
            return refuse(errno, "more than 32 MiB in one request");
        }
        // No sum that could wrap: a hostile offset is as good as any other here.
        if offset > self.size || len > self.size - offset {
            let past_end = matches!(kind, Command::Write | Command::WriteZeroes);
            return refuse(if past_end { Errno::NoSpc } else { Errno::Inval }, "past the end of the export");
        }
        Ok(())
    }
}
