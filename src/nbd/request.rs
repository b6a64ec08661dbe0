//! The rules of requests: which commands and flags an export supports, and within which bounds ("Request types",
//! "Command flags", "Error values" of proto.md).

use super::codec::{self, RequestHeader, command, transmission};
use super::errno::Errno;
use super::reply::{Style, To};
use crate::engine::{self, Op, Tag};

/// Size limit of a request's payload, in bytes ("Size constraints": at least 32 MiB for clients that do not ask).
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// The command of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Makes completed writes durable.
    Flush,
    /// Discards a range.
    Trim,
    /// Prefetches a range.
    Cache,
    /// Writes zeroes.
    WriteZeroes,
    /// Reports the status of a range in the selected contexts.
    BlockStatus,
}

/// A request inside the export's bounds, with flags that are valid for its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The reply format.
    pub style: Style,
    /// The client's id of the request.
    pub cookie: u64,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes; may be 0. At most [`MAX_PAYLOAD`] if it has a payload.
    pub len: u64,
    /// Durable before the reply.
    pub fua: bool,
    /// Keep the space allocated (WRITE_ZEROES only).
    pub no_hole: bool,
    /// Only if it is faster than writing (WRITE_ZEROES only).
    pub fast: bool,
    /// Send the data as one chunk (READ only).
    pub unfragmented: bool,
    /// Send one extent per context (BLOCK_STATUS only).
    pub one: bool,
    /// The requested contexts, one bit for each selected one (BLOCK_STATUS only).
    pub contexts: u64,
}

impl Request {
    /// A READ of nothing, for tests to modify.
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

    /// Returns what the reply needs to name the request.
    #[must_use]
    pub const fn to(&self) -> To {
        To { style: self.style, cookie: self.cookie, offset: self.offset }
    }
}

impl Request {
    /// Returns the request for the engine; what only the reply needs is in its tag.
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

/// The reply that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The request it answers.
    pub to: To,
    /// Send the data as one chunk (READ only).
    pub unfragmented: bool,
    /// Send one extent per context (BLOCK_STATUS only).
    pub one: bool,
    /// The requested contexts, one bit for each selected one (BLOCK_STATUS only).
    pub contexts: u64,
}

impl Wish {
    /// Decodes the tag made by [`Request::io`].
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

/// The reason why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The error to reply with.
    pub errno: Errno,
    /// The rule that it violates.
    pub why: &'static str,
}

const fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

/// The negotiated parameters of the transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Size of the export in bytes.
    pub size: u64,
    /// Whether changes are rejected.
    pub read_only: bool,
    /// The reply format.
    pub style: Style,
    /// Number of selected metadata contexts; at most 64.
    pub contexts: u32,
}

impl Terms {
    /// Returns the transmission flags of the export.
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

    /// Returns a bit for each selected context.
    #[must_use]
    pub const fn all_contexts(&self) -> u64 {
        if self.contexts >= 64 { u64::MAX } else { (1 << self.contexts) - 1 }
    }

    /// Returns the length of the payload after a request's header. A WRITE always has one: under extended headers it
    /// should set `NBD_CMD_FLAG_PAYLOAD_LEN`, but qemu (8.2 to 10.0 at least) does not. Otherwise its data, which a
    /// guest chooses, would be parsed as requests.
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

    /// Returns the command, and the flags that it allows besides FUA, which every command allows.
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
            // EOVERFLOW is allowed for a READ that could have been split; other clients expect only EINVAL.
            let split = kind == Command::Read && self.style != Style::Simple;
            let errno = if split { Errno::Overflow } else { Errno::Inval };
            return refuse(errno, "more than 32 MiB in one request");
        }
        // Compare without a sum, which a hostile offset could overflow.
        if offset > self.size || len > self.size - offset {
            let past_end = matches!(kind, Command::Write | Command::WriteZeroes);
            return refuse(if past_end { Errno::NoSpc } else { Errno::Inval }, "past the end of the export");
        }
        Ok(())
    }
}
