//! The protocol as a state machine: bytes in, events and handshake bytes out. No sockets, no clock.
//!
//! ```text
//! ClientFlags -> Option <-> Data | Skip      one option at a time, each answered before the next is read
//!                  |  Choose (the caller answers) -> Option, or
//!                  v
//!              Transmission <-> Payload | Drain          -> Ended (NBD_CMD_DISC, NBD_OPT_ABORT)
//! ```
//! The caller feeds bytes with [`Session::step`] until it says that all are used and nothing happened. While
//! [`Session::payload_left`] is not zero, the next bytes are a WRITE's payload: the caller puts them where it wants them and
//! reports them by [`Session::payload_received`], so that they need not pass through here.
//!
//! Where TLS is required (FORCEDTLS of proto.md), nothing but STARTTLS and ABORT is done before it; [`Event::StartTls`] tells
//! the caller to begin it, and [`Session::tls_started`] forgets all that was negotiated before.
//!
//! Structured replies, when they come, are arms of `Session::option`.

use super::codec::{self, ExportQuery, OptionHeader, RequestHeader, info, option, reply, transmission};
use super::errno::{self, Errno, Hangup};
use super::export::{ExportEntry, ExportInfo};
use crate::error::Error;

/// Smallest request, bytes (`NBD_INFO_BLOCK_SIZE`).
pub const MIN_BLOCK: u32 = 1;
/// Preferred request size and alignment, bytes: a sector.
pub const PREFERRED_BLOCK: u32 = 4096;
/// Largest payload of a request, bytes ("Size constraints": at least 32 MiB for clients that do not ask).
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Largest payload that is read and thrown away to keep a connection, bytes; a longer one is hung up on.
pub const MAX_DRAIN: u32 = 64 << 20;
/// Options in one negotiation. Well-behaved clients send fewer than ten, or two per export when they list.
pub const MAX_OPTIONS: u32 = 1024;
/// Longest option data that is looked at, bytes: a name, and room for every information request.
pub const MAX_OPTION: u32 = 16 * 1024;
/// Longest option data that is skipped and answered; a longer one is hung up on.
pub const MAX_OPTION_SKIP: u32 = 1 << 20;

/// What a client without TLS is told where it is required.
const NOT_BEFORE_TLS: &str = "this listener serves nothing without TLS";

/// How an export is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// `NBD_OPT_INFO`: describe it.
    Info,
    /// `NBD_OPT_GO`: open it, or say why not.
    Go,
    /// `NBD_OPT_EXPORT_NAME`: open it, or hang up.
    ExportName,
}

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
}

/// A request inside the export's bounds, with flags that fit its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// What it asks for.
    pub command: Command,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes; may be 0.
    pub len: u32,
    /// Durable before the reply.
    pub fua: bool,
    /// Keep the space allocated (WRITE_ZEROES only).
    pub no_hole: bool,
}

/// What the bytes amounted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client wants the exports; answer with [`Session::answer_list`].
    List,
    /// The client asks for an export; answer with [`Session::answer_choice`].
    Choose {
        /// How it asks.
        how: Choice,
        /// Which; empty: the default.
        name: String,
    },
    /// Serve this. After a WRITE of len > 0 its payload follows, see [`Session::payload_left`].
    Request(Request),
    /// Reply with this error. The payload, if there was one, is skipped already.
    Refused {
        /// The client's name for the request.
        cookie: u64,
        /// Why.
        errno: Errno,
    },
    /// Send what [`Session::take_output`] has, then begin TLS and say so by [`Session::tls_started`].
    StartTls,
    /// The client ends the connection: finish what is in flight, then close.
    End,
}

/// What [`Session::step`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used.
    pub used: usize,
    /// What happened, if anything.
    pub event: Option<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    ClientFlags,
    Option,
    Data(OptionHeader),
    Skip {
        header: OptionHeader,
        left: u32,
    },
    Listing,
    StartingTls,
    Choosing {
        how: Choice,
        wants: Vec<u16>,
    },
    Transmission,
    Payload(u32),
    /// A refused WRITE's payload, and what to answer once it is gone.
    Drain {
        left: u32,
        cookie: u64,
        errno: Errno,
    },
    Ended,
}

/// Where a session stands with TLS ("TLS support").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// NOTLS.
    Absent,
    /// FORCEDTLS, and not begun.
    Required,
    /// Begun.
    On,
}

/// One connection's protocol state.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    /// The start of a header or option that has not come whole.
    partial: Vec<u8>,
    out: Vec<u8>,
    options: u32,
    tls: Tls,
    fixed: bool,
    no_zeroes: bool,
    size: u64,
    read_only: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session whose greeting waits in [`Session::take_output`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::ClientFlags,
            partial: Vec::new(),
            out: codec::greeting(codec::FLAG_FIXED_NEWSTYLE | codec::FLAG_NO_ZEROES),
            options: 0,
            tls: Tls::Absent,
            fixed: false,
            no_zeroes: false,
            size: 0,
            read_only: true,
        }
    }

    /// The same, on a listener that serves nothing without TLS.
    #[must_use]
    pub fn requiring_tls() -> Self {
        Self { tls: Tls::Required, ..Self::new() }
    }

    /// Tells the session that from now on its bytes come and go by TLS. What was negotiated before is forgotten, but for
    /// the client's flags, which it does not send again, and the count of options.
    pub fn tls_started(&mut self) {
        let (options, fixed, no_zeroes) = (self.options, self.fixed, self.no_zeroes);
        let (phase, tls) = (Phase::Option, Tls::On);
        *self = Self { phase, tls, options, fixed, no_zeroes, out: Vec::new(), ..Self::new() };
    }

    /// Whether an option has to wait for TLS.
    fn too_early(&self, number: u32) -> bool {
        self.tls == Tls::Required && !matches!(number, option::STARTTLS | option::ABORT)
    }

    /// Handshake bytes to send, in order. Empty in transmission.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether the negotiation is over and an export is being served.
    #[must_use]
    pub const fn in_transmission(&self) -> bool {
        matches!(self.phase, Phase::Transmission | Phase::Payload(_) | Phase::Drain { .. })
    }

    /// Whether the client has ended the connection; bytes after that are not looked at.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Tells the session that the export has grown.
    pub const fn set_size(&mut self, bytes: u64) {
        self.size = bytes;
    }

    /// Bytes of the last WRITE's payload that have not come yet.
    #[must_use]
    pub const fn payload_left(&self) -> usize {
        match self.phase {
            Phase::Payload(n) => n as usize,
            _ => 0,
        }
    }

    /// Tells the session that the caller has taken `n` bytes of payload off the stream.
    pub fn payload_received(&mut self, n: usize) {
        if let Phase::Payload(left) = self.phase {
            let left = left.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
            self.phase = if left == 0 { Phase::Transmission } else { Phase::Payload(left) };
        }
    }

    /// Uses bytes up to the next event, or all of them. Uses none while the caller owes an answer or a payload, and after
    /// the end.
    ///
    /// # Errors
    /// When the link must be cut.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Hangup> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (took, event) = match &mut self.phase {
                Phase::Listing | Phase::StartingTls | Phase::Choosing { .. } | Phase::Payload(_) | Phase::Ended => {
                    (0, None)
                }
                Phase::ClientFlags => self.client_flags(rest)?,
                Phase::Option => self.option_header(rest)?,
                Phase::Data(header) => {
                    let header = *header;
                    self.option_data(header, rest)?
                }
                Phase::Skip { left, .. } => {
                    let took = rest.len().min(*left as usize);
                    *left -= took as u32;
                    (took, self.end_of_skip())
                }
                Phase::Transmission => self.request(rest)?,
                Phase::Drain { left, cookie, errno } => {
                    let took = rest.len().min(*left as usize);
                    *left -= took as u32;
                    let refused = (*left == 0).then_some(Event::Refused { cookie: *cookie, errno: *errno });
                    if refused.is_some() {
                        self.phase = Phase::Transmission;
                    }
                    (took, refused)
                }
            };
            used += took;
            if event.is_some() || took == 0 || used == input.len() {
                return Ok(Step { used, event });
            }
        }
    }

    /// Collects `need` bytes from `input` behind what was kept before; true when they are whole (in `partial`).
    fn gather(&mut self, input: &[u8], need: usize) -> (usize, bool) {
        let took = input.len().min(need.saturating_sub(self.partial.len()));
        self.partial.extend_from_slice(&input[..took]);
        (took, self.partial.len() >= need)
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Hangup> {
        let (took, whole) = self.gather(input, 4);
        if whole {
            let flags = codec::Reader::new(&self.partial).u32().unwrap_or(u32::MAX);
            self.partial.clear();
            if flags & !(codec::CLIENT_FIXED_NEWSTYLE | codec::CLIENT_NO_ZEROES) != 0 {
                return Err(Hangup::ClientFlags);
            }
            self.fixed = flags & codec::CLIENT_FIXED_NEWSTYLE != 0;
            self.no_zeroes = flags & codec::CLIENT_NO_ZEROES != 0;
            self.phase = Phase::Option;
        }
        Ok((took, None))
    }

    fn option_header(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Hangup> {
        let (took, whole) = self.gather(input, OptionHeader::SIZE);
        if !whole {
            return Ok((took, None));
        }
        let header = OptionHeader::decode(&self.partial).ok_or(Hangup::OptionMagic)?;
        self.partial.clear();
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(Hangup::TooManyOptions);
        }
        let early = self.too_early(header.option);
        if early && header.option == option::EXPORT_NAME {
            return Err(Hangup::NotSecure);
        }
        if !self.fixed && header.option != option::EXPORT_NAME {
            return Err(Hangup::NotFixed);
        }
        let nameless = header.option == option::EXPORT_NAME && header.len as usize > codec::MAX_STRING;
        if header.len > MAX_OPTION_SKIP || nameless {
            return Err(Hangup::OptionTooLong);
        }
        if header.len == 0 {
            return Ok((took, self.option(header)?));
        }
        let known = matches!(header.option, option::EXPORT_NAME | option::INFO | option::GO);
        self.phase = if known && !early && header.len <= MAX_OPTION {
            Phase::Data(header)
        } else {
            Phase::Skip { header, left: header.len }
        };
        Ok((took, None))
    }

    fn option_data(&mut self, header: OptionHeader, input: &[u8]) -> Result<(usize, Option<Event>), Hangup> {
        let (took, whole) = self.gather(input, header.len as usize);
        Ok((took, if whole { self.option(header)? } else { None }))
    }

    /// An option whose data lies whole in `partial`.
    fn option(&mut self, header: OptionHeader) -> Result<Option<Event>, Hangup> {
        let data = std::mem::take(&mut self.partial);
        self.phase = Phase::Option;
        if self.too_early(header.option) {
            self.say(header.option, reply::ERR_TLS_REQD, NOT_BEFORE_TLS);
            return Ok(None);
        }
        match header.option {
            option::STARTTLS if self.tls != Tls::Absent => Ok(self.start_tls()),
            option::EXPORT_NAME => {
                let name = codec::decode_name(&data).ok_or(Hangup::Refused)?;
                Ok(Some(self.choose(Choice::ExportName, ExportQuery { name, wants: Vec::new() })))
            }
            option::INFO | option::GO => match ExportQuery::decode(&data) {
                Some(query) => {
                    let how = if header.option == option::GO { Choice::Go } else { Choice::Info };
                    Ok(Some(self.choose(how, query)))
                }
                None => {
                    self.say(header.option, reply::ERR_INVALID, "malformed export request");
                    Ok(None)
                }
            },
            option::LIST => {
                self.phase = Phase::Listing;
                Ok(Some(Event::List))
            }
            option::ABORT => Ok(Some(self.abort())),
            other => {
                self.say(other, reply::ERR_UNSUP, unsupported(other));
                Ok(None)
            }
        }
    }

    fn choose(&mut self, how: Choice, query: ExportQuery) -> Event {
        self.phase = Phase::Choosing { how, wants: query.wants };
        Event::Choose { how, name: query.name }
    }

    fn start_tls(&mut self) -> Option<Event> {
        if self.tls == Tls::On {
            self.say(option::STARTTLS, reply::ERR_INVALID, "TLS is on already");
            return None;
        }
        codec::option_reply(&mut self.out, option::STARTTLS, reply::ACK, &[]);
        self.phase = Phase::StartingTls;
        Some(Event::StartTls)
    }

    fn abort(&mut self) -> Event {
        codec::option_reply(&mut self.out, option::ABORT, reply::ACK, &[]);
        self.phase = Phase::Ended;
        Event::End
    }

    /// Answers an option whose data was thrown away.
    fn end_of_skip(&mut self) -> Option<Event> {
        let Phase::Skip { header, left: 0 } = self.phase else { return None };
        self.phase = Phase::Option;
        match header.option {
            early if self.too_early(early) => self.say(early, reply::ERR_TLS_REQD, NOT_BEFORE_TLS),
            // Data of ABORT is to be ignored.
            option::ABORT => return Some(self.abort()),
            option::INFO | option::GO => self.say(header.option, reply::ERR_TOO_BIG, "export request too long"),
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.say(header.option, reply::ERR_INVALID, "this option takes no data");
            }
            other => self.say(other, reply::ERR_UNSUP, unsupported(other)),
        }
        None
    }

    fn say(&mut self, option: u32, kind: u32, text: &str) {
        codec::option_reply(&mut self.out, option, kind, &[text.as_bytes()]);
    }

    /// Answers [`Event::List`]. Names longer than the protocol allows are left out.
    pub fn answer_list(&mut self, entries: &[ExportEntry]) {
        for entry in entries.iter().filter(|e| e.name.len() <= codec::MAX_STRING) {
            let len = (entry.name.len() as u32).to_be_bytes();
            let parts = [&len[..], entry.name.as_bytes(), clip(&entry.description).as_bytes()];
            codec::option_reply(&mut self.out, option::LIST, reply::SERVER, &parts);
        }
        codec::option_reply(&mut self.out, option::LIST, reply::ACK, &[]);
        self.phase = Phase::Option;
    }

    /// Answers [`Event::Choose`]. After a good GO or EXPORT_NAME the session is in transmission.
    ///
    /// # Errors
    /// When the link must be cut, because EXPORT_NAME has no error reply.
    pub fn answer_choice(&mut self, answer: Result<&ExportInfo, &Error>) -> Result<(), Hangup> {
        let Phase::Choosing { how, wants } = std::mem::replace(&mut self.phase, Phase::Option) else { return Ok(()) };
        let number = if how == Choice::Go { option::GO } else { option::INFO };
        match answer {
            Err(_) if how == Choice::ExportName => return Err(Hangup::Refused),
            Err(err) => {
                let line = err.line();
                self.say(number, errno::row(err.kind()).option, clip(&line));
                return Ok(());
            }
            Ok(export) if how == Choice::ExportName => {
                self.out.extend_from_slice(&export.size.to_be_bytes());
                self.out.extend_from_slice(&flags(export.read_only).to_be_bytes());
                if !self.no_zeroes {
                    self.out.extend_from_slice(&[0; 124]);
                }
            }
            Ok(export) => self.describe(number, export, &wants),
        }
        if let (Ok(export), Choice::Go | Choice::ExportName) = (answer, how) {
            (self.size, self.read_only) = (export.size, export.read_only);
            self.phase = Phase::Transmission;
        }
        Ok(())
    }

    fn describe(&mut self, number: u32, export: &ExportInfo, wants: &[u16]) {
        let out = &mut self.out;
        let mut fact = |kind: u16, parts: [&[u8]; 3]| {
            let kind = kind.to_be_bytes();
            codec::option_reply(out, number, reply::INFO, &[&kind, parts[0], parts[1], parts[2]]);
        };
        fact(info::EXPORT, [&export.size.to_be_bytes(), &flags(export.read_only).to_be_bytes(), &[]]);
        let sizes = [MIN_BLOCK, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
        fact(info::BLOCK_SIZE, [&sizes[0], &sizes[1], &sizes[2]]);
        if wants.contains(&info::NAME) && export.name.len() <= codec::MAX_STRING {
            fact(info::NAME, [export.name.as_bytes(), &[], &[]]);
        }
        if wants.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            fact(info::DESCRIPTION, [clip(&export.description).as_bytes(), &[], &[]]);
        }
        codec::option_reply(out, number, reply::ACK, &[]);
    }

    fn request(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Hangup> {
        let (took, header) = if self.partial.is_empty() && input.len() >= RequestHeader::SIZE {
            (RequestHeader::SIZE, RequestHeader::decode(input))
        } else {
            let (took, whole) = self.gather(input, RequestHeader::SIZE);
            if !whole {
                return Ok((took, None));
            }
            let header = RequestHeader::decode(&self.partial);
            self.partial.clear();
            (took, header)
        };
        let header = header.ok_or(Hangup::RequestMagic)?;
        if header.command == codec::command::DISC {
            self.phase = Phase::Ended;
            return Ok((took, Some(Event::End)));
        }
        let admitted = admit(&header, self.size, self.read_only);
        if header.command == codec::command::WRITE && header.len > 0 {
            if header.len > MAX_DRAIN {
                return Err(Hangup::PayloadTooLong);
            }
            self.phase = match admitted {
                Ok(_) => Phase::Payload(header.len),
                // Answered when the payload is gone: libnbd takes a reply to what it is still sending for a stray one.
                Err(errno) => Phase::Drain { left: header.len, cookie: header.cookie, errno },
            };
            if admitted.is_err() {
                return Ok((took, None));
            }
        }
        let event = match admitted {
            Ok(request) => Event::Request(request),
            Err(errno) => Event::Refused { cookie: header.cookie, errno },
        };
        Ok((took, Some(event)))
    }
}

/// Checks a request against the export and the rules of its command ("Request types", "Error values").
///
/// # Errors
/// The error to reply with.
pub fn admit(header: &RequestHeader, size: u64, read_only: bool) -> Result<Request, Errno> {
    use codec::command;
    let (command, flags) = match header.command {
        command::READ => (Command::Read, codec::CMD_FUA),
        command::WRITE => (Command::Write, codec::CMD_FUA),
        command::FLUSH => (Command::Flush, codec::CMD_FUA),
        command::TRIM => (Command::Trim, codec::CMD_FUA),
        command::CACHE => (Command::Cache, codec::CMD_FUA),
        command::WRITE_ZEROES => (Command::WriteZeroes, codec::CMD_FUA | codec::CMD_NO_HOLE),
        _ => return Err(Errno::Inval),
    };
    if header.flags & !flags != 0 {
        return Err(Errno::Inval);
    }
    let changes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
    if changes && read_only {
        return Err(Errno::Perm);
    }
    if command == Command::Flush && (header.offset, header.len) != (0, 0) {
        return Err(Errno::Inval);
    }
    if matches!(command, Command::Read | Command::Write) && header.len > MAX_PAYLOAD {
        return Err(Errno::Inval);
    }
    // No sum that could wrap: a hostile offset is as good as any other here.
    if header.offset > size || u64::from(header.len) > size - header.offset {
        let past_end = matches!(command, Command::Write | Command::WriteZeroes);
        return Err(if past_end { Errno::NoSpc } else { Errno::Inval });
    }
    Ok(Request {
        command,
        cookie: header.cookie,
        offset: header.offset,
        len: header.len,
        fua: header.flags & codec::CMD_FUA != 0,
        no_hole: header.flags & codec::CMD_NO_HOLE != 0,
    })
}

/// The transmission flags of an export.
#[must_use]
pub const fn flags(read_only: bool) -> u16 {
    use transmission as t;
    let all = t::HAS_FLAGS
        | t::SEND_FLUSH
        | t::SEND_FUA
        | t::SEND_TRIM
        | t::SEND_WRITE_ZEROES
        | t::SEND_CACHE
        | t::CAN_MULTI_CONN;
    if read_only { all | t::READ_ONLY } else { all }
}

/// The longest start of `text` that is a string of the protocol.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(codec::MAX_STRING)]
}

const fn unsupported(number: u32) -> &'static str {
    match number {
        option::STARTTLS => "this listener has no TLS",
        option::STRUCTURED_REPLY => "this server sends simple replies",
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => "this server has no metadata contexts",
        option::EXTENDED_HEADERS => "this server takes 32-bit lengths",
        _ => "unknown option",
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
