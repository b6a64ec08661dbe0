//! NBD's wire types: all numbers big-endian, encoder next to decoder, every read bounds-checked.
//!
//! Nothing here knows about order or meaning; that is [`super::session`]. Section names are those of proto.md.

use super::errno::Errno;

/// First eight bytes from a server ("Newstyle negotiation").
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes from a server, and the start of every option.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request ("Request message").
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of every request under extended headers ("Request message" of the extension).
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of every simple reply ("Simple reply message").
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of every chunk of a structured reply ("Structured reply chunk message").
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of every chunk of a reply under extended headers ("Extended reply chunk message" of the extension).
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flags ("Handshake flags"): the server speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flags: the server can omit the 124 zeroes after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;
/// Client flags ("Client flags"): the client speaks fixed newstyle.
pub const CLIENT_FIXED_NEWSTYLE: u32 = 1;
/// Client flags: the client wants the 124 zeroes omitted.
pub const CLIENT_NO_ZEROES: u32 = 2;

/// Option numbers ("Option types").
pub mod option {
    /// Select an export and enter transmission; has no error reply.
    pub const EXPORT_NAME: u32 = 1;
    /// End the negotiation.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Switch to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and enter transmission with it.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use 64-bit request headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Reply types to options ("Option reply types").
pub mod reply {
    /// Accepted, or end of a list.
    pub const ACK: u32 = 1;
    /// One export of the list.
    pub const SERVER: u32 = 2;
    /// One piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// This server does not know the option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// The server does not allow it.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// The option's data is malformed.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// This build or machine does not support it.
    pub const ERR_PLATFORM: u32 = (1 << 31) + 4;
    /// TLS is required first.
    pub const ERR_TLS_REQD: u32 = (1 << 31) + 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    /// The option, or its answer, is too large.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
    /// Extended headers are in use, which this option would turn off.
    pub const ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;
}

/// Information types of `NBD_REP_INFO`.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's canonical name.
    pub const NAME: u16 = 1;
    /// Description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags ("Transmission flags").
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are rejected.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLUSH` is supported.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `NBD_CMD_FLAG_FUA` is supported.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `NBD_CMD_TRIM` is supported.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `NBD_CMD_WRITE_ZEROES` is supported.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `NBD_CMD_FLAG_DF` is supported.
    pub const SEND_DF: u16 = 1 << 7;
    /// All connections to the export see the same state.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `NBD_CMD_CACHE` is supported.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// `NBD_CMD_FLAG_FAST_ZERO` is supported.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `NBD_CMD_BLOCK_STATUS` may have a payload that names its contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Command numbers ("Request types").
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Make durable what was acknowledged.
    pub const FLUSH: u16 = 3;
    /// Discard a range.
    pub const TRIM: u16 = 4;
    /// Prefetch a range.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Report the metadata contexts' status of a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Types of the chunks of a structured or extended reply ("Structured reply types").
pub mod chunk {
    /// No payload; the request is done.
    pub const NONE: u16 = 0;
    /// Data, and its offset.
    pub const OFFSET_DATA: u16 = 1;
    /// A range that reads as zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one metadata context, 32-bit lengths.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one metadata context, 64-bit lengths.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// An error.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// An error, and its offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// Reply flags: the last chunk.
    pub const DONE: u16 = 1;
}

/// Command flags ("Command flags"): make durable before replying.
pub const CMD_FUA: u16 = 1;
/// Command flags: write zeroes without making a hole.
pub const CMD_NO_HOLE: u16 = 2;
/// Command flags: one chunk of content.
pub const CMD_DF: u16 = 4;
/// Command flags: one extent a context.
pub const CMD_REQ_ONE: u16 = 8;
/// Command flags: write zeroes only if that is faster than writing.
pub const CMD_FAST_ZERO: u16 = 16;
/// Command flags: the length is that of a payload (extended headers only).
pub const CMD_PAYLOAD_LEN: u16 = 32;

/// Length limit of a string of the protocol, in bytes ("Values" of proto.md: 4096).
pub const MAX_STRING: usize = 4096;

/// Reads big-endian numbers and byte runs from a slice; `None` if it is too short.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// Reads a 16-bit number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Reads a 32-bit number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a 64-bit number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Encodes the server's greeting: magic, magic, handshake flags.
#[must_use]
pub fn greeting(flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    out.extend_from_slice(&NBDMAGIC.to_be_bytes());
    out.extend_from_slice(&IHAVEOPT.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out
}

/// The header of an option from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option number, see [`option`].
    pub option: u32,
    /// Length of its data in bytes.
    pub len: u32,
}

impl OptionHeader {
    /// Length on the wire in bytes.
    pub const SIZE: usize = 16;

    /// Decodes one; `None` if the magic is wrong or bytes are missing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        (r.u64()? == IHAVEOPT).then_some(())?;
        Some(Self { option: r.u32()?, len: r.u32()? })
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&self.option.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportQuery {
    /// The export's name; empty: the default export.
    pub name: String,
    /// The information types requested, see [`info`].
    pub wants: Vec<u16>,
}

impl ExportQuery {
    /// Decodes one; `None` if a length does not fit, bytes are left over, or the name is not UTF-8.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let len = usize::try_from(r.u32()?).ok()?;
        let name = decode_name(r.bytes(len)?)?;
        let count = r.u16()?;
        let wants = (0..count).map(|_| r.u16()).collect::<Option<Vec<_>>>()?;
        r.is_empty().then_some(Self { name, wants })
    }

    /// Appends it to `out`. The name must be at most [`MAX_STRING`] bytes and the wants at most 65,535, as decoded ones
    /// are.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len32(self.name.len()).to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&u16::try_from(self.wants.len()).unwrap_or(u16::MAX).to_be_bytes());
        for want in &self.wants {
            out.extend_from_slice(&want.to_be_bytes());
        }
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaQuery {
    /// The export's name; empty: the default export.
    pub name: String,
    /// The contexts or wildcards requested.
    pub queries: Vec<String>,
}

impl MetaQuery {
    /// Decodes one; `None` if a length does not fit, bytes are left over, or a string is not a valid string of the
    /// protocol.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let string = |r: &mut Reader<'_>| {
            let len = usize::try_from(r.u32()?).ok()?;
            decode_name(r.bytes(len)?)
        };
        let name = string(&mut r)?;
        let count = r.u32()?;
        // No capacity from the count: the client chooses it.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(string(&mut r)?);
        }
        r.is_empty().then_some(Self { name, queries })
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let string = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&len32(text.len()).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        string(out, &self.name);
        out.extend_from_slice(&len32(self.queries.len()).to_be_bytes());
        for query in &self.queries {
            string(out, query);
        }
    }
}

/// Decodes an export's name: UTF-8, at most [`MAX_STRING`] bytes, no NUL.
#[must_use]
pub fn decode_name(bytes: &[u8]) -> Option<String> {
    (bytes.len() <= MAX_STRING && !bytes.contains(&0)).then_some(())?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn len32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Appends a reply to an option; its data is the concatenation of `parts`.
pub fn option_reply(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&len32(parts.iter().map(|p| p.len()).sum()).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// Command number, see [`command`].
    pub command: u16,
    /// The client's id of the request, returned in the reply.
    pub cookie: u64,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes; without extended headers at most 32 bits.
    pub len: u64,
}

impl RequestHeader {
    /// Length on the wire in bytes.
    pub const SIZE: usize = 28;
    /// Length on the wire in bytes, with extended headers.
    pub const EXTENDED_SIZE: usize = 32;

    /// Decodes one; `None` if the magic is wrong or bytes are missing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        (r.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self { flags: r.u16()?, command: r.u16()?, cookie: r.u64()?, offset: r.u64()?, len: r.u32()?.into() })
    }

    /// Decodes one with extended headers; `None` as in [`RequestHeader::decode`].
    #[must_use]
    pub fn decode_extended(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        (r.u32()? == EXTENDED_REQUEST_MAGIC).then_some(())?;
        Some(Self { flags: r.u16()?, command: r.u16()?, cookie: r.u64()?, offset: r.u64()?, len: r.u64()? })
    }

    /// Appends it to `out`. A length of more than 32 bits becomes the largest: it needs extended headers.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.encode_middle(out);
        out.extend_from_slice(&u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// Appends it to `out`, with extended headers.
    pub fn encode_extended(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        self.encode_middle(out);
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    fn encode_middle(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
    }
}

/// The header of a simple reply; the data of a successful READ follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// The error, if it failed.
    pub error: Option<Errno>,
    /// The request's cookie.
    pub cookie: u64,
}

impl SimpleReply {
    /// Length on the wire in bytes.
    pub const SIZE: usize = 16;

    /// Encodes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.error.map_or(0, Errno::wire).to_be_bytes());
        out[8..].copy_from_slice(&self.cookie.to_be_bytes());
        out
    }

    /// Decodes one; `None` if the magic or the error number is not the protocol's, or bytes are missing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        (r.u32()? == SIMPLE_REPLY_MAGIC).then_some(())?;
        let error = match r.u32()? {
            0 => None,
            n => Some(Errno::from_wire(n)?),
        };
        Some(Self { error, cookie: r.u64()? })
    }
}
