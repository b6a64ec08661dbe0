//! The protocol as a state machine: bytes in, events and handshake bytes out. No sockets, no clock.
//!
//! ```text
//! ClientFlags -> Option <-> Data | Skip      one option at a time, each answered before the next is read
//!                  |  Choose (the caller answers) -> Option, or
//!                  v
//!              Transmission <-> Payload | Drain          -> Ended (NBD_CMD_DISC, NBD_OPT_ABORT)
//! ```
//! The caller feeds bytes with [`Session::step`] until it has used all and nothing happened. While
//! [`Session::payload_left`] is not zero, the next bytes are a WRITE's payload: the caller puts them where it wants and
//! reports them with [`Session::payload_received`], so that they need not be copied through here.
//!
//! Where TLS is required (FORCEDTLS of proto.md), only STARTTLS and ABORT are allowed before it; [`Event::StartTls`]
//! tells the caller to start it, and [`Session::tls_started`] discards all that was negotiated before.
//!
//! [`super::request`] has the rules of requests, [`super::reply`] the format of replies.

use super::codec::{self, ExportQuery, MetaQuery, OptionHeader, RequestHeader, info, option, reply};
use super::errno::{self, Errno, Hangup};
use super::export::{ExportEntry, ExportInfo};
use super::reply::{Style, To};
use crate::error::Error;

pub use super::request::{Command, MAX_PAYLOAD, Refusal, Request, Terms};

/// Smallest request, in bytes (`NBD_INFO_BLOCK_SIZE`).
pub const MIN_BLOCK: u32 = 1;
/// Preferred request size and alignment, in bytes: a sector.
pub const PREFERRED_BLOCK: u32 = 4096;
/// Largest payload that is discarded to keep a connection, in bytes; a longer one is hung up on.
pub const MAX_DRAIN: u64 = 64 << 20;
/// Maximum number of options in a negotiation. Well-behaved clients send fewer than ten, or two per export when they list.
pub const MAX_OPTIONS: u32 = 1024;
/// Longest option data that is parsed, in bytes: a name, and room for every information request or many contexts.
pub const MAX_OPTION: u32 = 16 * 1024;
/// Maximum number of metadata contexts selected at once.
pub const MAX_CONTEXTS: usize = 64;
/// Longest option data that is discarded and answered, in bytes; a longer one is hung up on.
pub const MAX_OPTION_SKIP: u32 = 1 << 20;

/// The error message for a client that has not started required TLS.
const NOT_BEFORE_TLS: &str = "this listener requires TLS";

/// How an export is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// `NBD_OPT_INFO`: describe it.
    Info,
    /// `NBD_OPT_GO`: open it, or say why not.
    Go,
    /// `NBD_OPT_EXPORT_NAME`: open it, or hang up.
    ExportName,
}

/// An event for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client lists the exports; answer with [`Session::answer_list`].
    List,
    /// The client requests an export; answer with [`Session::answer_choice`].
    Choose {
        /// How it requests it.
        how: Choice,
        /// The export's name; empty: the default.
        name: String,
    },
    /// The client sent a malformed request for an export. It has been answered, or gets no answer.
    Malformed {
        /// What is wrong.
        why: &'static str,
        /// Cut the link because of it: `NBD_OPT_EXPORT_NAME` has no error reply.
        hangup: Option<Hangup>,
    },
    /// The client asks which metadata contexts an export has; answer with [`Session::answer_contexts`].
    Contexts {
        /// The export's name; empty: the default.
        name: String,
    },
    /// Serve this request. The payload of a WRITE of len > 0 follows, see [`Session::payload_left`].
    Request(Request),
    /// Reply with this error. A payload has been discarded already.
    Refused {
        /// The request.
        to: To,
        /// The reason.
        refusal: Refusal,
    },
    /// Send the bytes of [`Session::take_output`], then start TLS and call [`Session::tls_started`].
    StartTls,
    /// The client disconnects cleanly: finish what is in flight, then close.
    End,
}

/// The result of [`Session::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used.
    pub used: usize,
    /// The event, if there is one.
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
    /// A list or selection of metadata contexts that waits for the contexts of the export.
    Contexts {
        option: u32,
        query: MetaQuery,
    },
    Transmission,
    Payload(u64),
    /// A BLOCK_STATUS whose payload names its contexts.
    StatusPayload(RequestHeader),
    /// A rejected request's payload, and the answer once it is discarded.
    Drain {
        left: u64,
        to: To,
        refusal: Refusal,
    },
    Ended,
}

/// The TLS state of a session ("TLS support").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// NOTLS.
    Absent,
    /// FORCEDTLS, not started.
    Required,
    /// Started.
    On,
}

/// The protocol state of a connection.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    /// The start of an incomplete header or option.
    partial: Vec<u8>,
    out: Vec<u8>,
    options: u32,
    tls: Tls,
    fixed: bool,
    no_zeroes: bool,
    /// The metadata contexts selected last, and the export that they were selected for.
    chosen: Option<(String, Vec<String>)>,
    terms: Terms,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Makes a session; its greeting is in [`Session::take_output`].
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
            chosen: None,
            terms: Terms { size: 0, read_only: true, style: Style::Simple, contexts: 0 },
        }
    }

    /// Makes a session for a listener that requires TLS.
    #[must_use]
    pub fn requiring_tls() -> Self {
        Self { tls: Tls::Required, ..Self::new() }
    }

    /// Records that all further bytes are exchanged over TLS. Discards what was negotiated before, except the client's
    /// flags, which are not sent again, and the count of options.
    pub fn tls_started(&mut self) {
        let (options, fixed, no_zeroes) = (self.options, self.fixed, self.no_zeroes);
        let (phase, tls) = (Phase::Option, Tls::On);
        *self = Self { phase, tls, options, fixed, no_zeroes, out: Vec::new(), ..Self::new() };
    }

    /// Whether an option must wait for TLS.
    fn too_early(&self, number: u32) -> bool {
        self.tls == Tls::Required && !matches!(number, option::STARTTLS | option::ABORT)
    }

    /// Returns handshake bytes to send, in order. Empty in transmission.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether the negotiation is over and an export is being served.
    #[must_use]
    pub const fn in_transmission(&self) -> bool {
        matches!(self.phase, Phase::Transmission | Phase::Payload(_) | Phase::StatusPayload(_) | Phase::Drain { .. })
    }

    /// Whether the client has disconnected; bytes after that are ignored.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Updates the size of an export that has grown.
    pub const fn set_size(&mut self, bytes: u64) {
        self.terms.size = bytes;
    }

    /// Returns the metadata contexts of the transmission; a context's id is its index.
    #[must_use]
    pub fn contexts(&self) -> &[String] {
        self.chosen.as_ref().map_or(&[], |(_, contexts)| contexts)
    }

    /// Returns how many bytes of the last WRITE's payload have not been received.
    #[must_use]
    pub const fn payload_left(&self) -> usize {
        match self.phase {
            Phase::Payload(n) => n as usize,
            _ => 0,
        }
    }

    /// Records that the caller has taken `n` bytes of payload off the stream.
    pub fn payload_received(&mut self, n: usize) {
        if let Phase::Payload(left) = self.phase {
            let left = left.saturating_sub(n as u64);
            self.phase = if left == 0 { Phase::Transmission } else { Phase::Payload(left) };
        }
    }

    /// Uses bytes up to the next event, or all of them. Uses none while the caller owes an answer or a payload, and
    /// after the end.
    ///
    /// # Errors
    /// If the link must be cut.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Hangup> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (took, event) = match &mut self.phase {
                Phase::Listing
                | Phase::StartingTls
                | Phase::Choosing { .. }
                | Phase::Contexts { .. }
                | Phase::Payload(_)
                | Phase::Ended => (0, None),
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
                Phase::StatusPayload(header) => {
                    let header = *header;
                    self.status_payload(header, rest)
                }
                Phase::Drain { left, to, refusal } => {
                    let took = usize::try_from(*left).map_or(rest.len(), |left| rest.len().min(left));
                    *left -= took as u64;
                    let refused = (*left == 0).then_some(Event::Refused { to: *to, refusal: *refusal });
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

    /// Collects `need` bytes from `input` in `partial`, after those kept before. True when they are complete.
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
            return match asks_for_export(header.option) && !early {
                true => Ok((took, Some(unnamed("this option has too much data", Hangup::OptionTooLong)))),
                false => Err(Hangup::OptionTooLong),
            };
        }
        if header.len == 0 {
            return Ok((took, self.option(header)?));
        }
        self.phase = if asks_for_export(header.option) && !early && header.len <= MAX_OPTION {
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

    /// Handles an option whose data is complete in `partial`.
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
                // Its short reply has no room for what extended headers changed.
                if self.terms.style == Style::Extended {
                    return Ok(Some(unnamed("EXPORT_NAME after extended headers", Hangup::Refused)));
                }
                Ok(Some(match codec::decode_name(&data) {
                    Some(name) => self.choose(Choice::ExportName, ExportQuery { name, wants: Vec::new() }),
                    None => unnamed("the name is malformed", Hangup::Refused),
                }))
            }
            option::INFO | option::GO => match ExportQuery::decode(&data) {
                Some(query) => {
                    let how = if header.option == option::GO { Choice::Go } else { Choice::Info };
                    Ok(Some(self.choose(how, query)))
                }
                None => Ok(Some(self.refuse(header.option, reply::ERR_INVALID, "malformed export request"))),
            },
            option::LIST => {
                self.phase = Phase::Listing;
                Ok(Some(Event::List))
            }
            option::ABORT => Ok(Some(self.abort())),
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.choose_style(header.option);
                Ok(None)
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => Ok(self.meta_query(header.option, &data)),
            other => {
                self.say(other, reply::ERR_UNSUP, unsupported(other));
                Ok(None)
            }
        }
    }

    fn choose(&mut self, how: Choice, query: ExportQuery) -> Event {
        // Contexts apply to the export that they were selected for. A mere query changes nothing.
        let same = self.chosen.as_ref().filter(|(name, _)| *name == query.name);
        self.terms.contexts = same.map_or(0, |(_, contexts)| contexts.len() as u32);
        self.phase = Phase::Choosing { how, wants: query.wants };
        Event::Choose { how, name: query.name }
    }

    fn choose_style(&mut self, number: u32) {
        let wanted = if number == option::EXTENDED_HEADERS { Style::Extended } else { Style::Structured };
        match (self.terms.style, wanted) {
            (Style::Extended, Style::Structured) => {
                self.say(number, reply::ERR_EXT_HEADER_REQD, "extended headers are already enabled");
            }
            (had, wanted) if had == wanted => self.say(number, reply::ERR_INVALID, "already enabled"),
            (_, wanted) => {
                self.terms.style = wanted;
                codec::option_reply(&mut self.out, number, reply::ACK, &[]);
            }
        }
    }

    fn meta_query(&mut self, number: u32, data: &[u8]) -> Option<Event> {
        if number == option::SET_META_CONTEXT {
            self.chosen = None;
        }
        if self.terms.style == Style::Simple {
            self.say(number, reply::ERR_INVALID, "metadata contexts need structured replies");
            return None;
        }
        let Some(query) = MetaQuery::decode(data) else {
            return Some(self.refuse(number, reply::ERR_INVALID, "malformed query of metadata contexts"));
        };
        let name = query.name.clone();
        self.phase = Phase::Contexts { option: number, query };
        Some(Event::Contexts { name })
    }

    fn start_tls(&mut self) -> Option<Event> {
        if self.tls == Tls::On {
            self.say(option::STARTTLS, reply::ERR_INVALID, "TLS is already enabled");
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

    /// Answers an option whose data was discarded.
    fn end_of_skip(&mut self) -> Option<Event> {
        let Phase::Skip { header, left: 0 } = self.phase else { return None };
        self.phase = Phase::Option;
        match header.option {
            early if self.too_early(early) => self.say(early, reply::ERR_TLS_REQD, NOT_BEFORE_TLS),
            // The data of ABORT is ignored.
            option::ABORT => return Some(self.abort()),
            option::INFO | option::GO | option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                if header.option == option::SET_META_CONTEXT {
                    self.chosen = None;
                }
                return Some(self.refuse(header.option, reply::ERR_TOO_BIG, "this option has too much data"));
            }
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

    /// Answers a malformed option that requests an export.
    fn refuse(&mut self, option: u32, kind: u32, why: &'static str) -> Event {
        self.say(option, kind, why);
        Event::Malformed { why, hangup: None }
    }

    /// Answers [`Event::List`]. Leaves out names longer than the protocol allows.
    pub fn answer_list(&mut self, entries: &[ExportEntry]) {
        for entry in entries.iter().filter(|e| e.name.len() <= codec::MAX_STRING) {
            let len = (entry.name.len() as u32).to_be_bytes();
            let parts = [&len[..], entry.name.as_bytes(), clip(&entry.description).as_bytes()];
            codec::option_reply(&mut self.out, option::LIST, reply::SERVER, &parts);
        }
        codec::option_reply(&mut self.out, option::LIST, reply::ACK, &[]);
        self.phase = Phase::Option;
    }

    /// Answers [`Event::Contexts`] with all contexts of the export, or the error.
    pub fn answer_contexts(&mut self, answer: Result<&[String], &Error>) {
        let Phase::Contexts { option: number, query } = std::mem::replace(&mut self.phase, Phase::Option) else {
            return;
        };
        let all = match answer {
            Ok(all) => all,
            Err(err) => return self.say(number, errno::row(err.kind()).option, clip(&err.line())),
        };
        let choosing = number == option::SET_META_CONTEXT;
        let asked = |context: &&String| {
            let wildcard = |q: &String| !choosing && q.ends_with(':') && context.starts_with(q);
            query.queries.iter().any(|q| q == *context || wildcard(q))
        };
        let found: Vec<&String> = match (choosing, query.queries.is_empty()) {
            (false, true) => all.iter().collect(),
            _ => all.iter().filter(asked).collect(),
        };
        if choosing && found.len() > MAX_CONTEXTS {
            return self.say(number, reply::ERR_TOO_BIG, "too many metadata contexts");
        }
        for (i, name) in found.iter().enumerate() {
            // In a list the id has no meaning.
            let id = if choosing { i as u32 } else { 0 };
            codec::option_reply(
                &mut self.out,
                number,
                reply::META_CONTEXT,
                &[&id.to_be_bytes(), clip(name).as_bytes()],
            );
        }
        codec::option_reply(&mut self.out, number, reply::ACK, &[]);
        if choosing {
            self.chosen = Some((query.name, found.into_iter().cloned().collect()));
        }
    }

    /// Answers [`Event::Choose`]. After a successful GO or EXPORT_NAME the session is in transmission.
    ///
    /// # Errors
    /// If the link must be cut, because EXPORT_NAME has no error reply.
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
                self.out.extend_from_slice(&self.terms_of(export).flags().to_be_bytes());
                if !self.no_zeroes {
                    self.out.extend_from_slice(&[0; 124]);
                }
            }
            Ok(export) => self.describe(number, export, &wants),
        }
        if let (Ok(export), Choice::Go | Choice::ExportName) = (answer, how) {
            self.terms = self.terms_of(export);
            if self.terms.contexts == 0 {
                self.chosen = None;
            }
            self.phase = Phase::Transmission;
        }
        Ok(())
    }

    const fn terms_of(&self, export: &ExportInfo) -> Terms {
        Terms { size: export.size, read_only: export.read_only, ..self.terms }
    }

    fn describe(&mut self, number: u32, export: &ExportInfo, wants: &[u16]) {
        let flags = self.terms_of(export).flags();
        let out = &mut self.out;
        let mut fact = |kind: u16, parts: [&[u8]; 3]| {
            let kind = kind.to_be_bytes();
            codec::option_reply(out, number, reply::INFO, &[&kind, parts[0], parts[1], parts[2]]);
        };
        fact(info::EXPORT, [&export.size.to_be_bytes(), &flags.to_be_bytes(), &[]]);
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
        let extended = self.terms.style == Style::Extended;
        let size = if extended { RequestHeader::EXTENDED_SIZE } else { RequestHeader::SIZE };
        let decode = if extended { RequestHeader::decode_extended } else { RequestHeader::decode };
        let (took, header) = if self.partial.is_empty() && input.len() >= size {
            (size, decode(input))
        } else {
            let (took, whole) = self.gather(input, size);
            if !whole {
                return Ok((took, None));
            }
            let header = decode(&self.partial);
            self.partial.clear();
            (took, header)
        };
        let header = header.ok_or(Hangup::RequestMagic)?;
        if header.command == codec::command::DISC {
            self.phase = Phase::Ended;
            return Ok((took, Some(Event::End)));
        }
        Ok((took, self.requested(&header)?))
    }

    /// Handles a request whose header is complete: what it is, and what its payload becomes.
    fn requested(&mut self, header: &RequestHeader) -> Result<Option<Event>, Hangup> {
        let payload = self.terms.payload(header);
        if payload > MAX_DRAIN {
            return Err(Hangup::PayloadTooLong);
        }
        let longest = 8 + 4 * u64::from(self.terms.contexts);
        if header.command == codec::command::BLOCK_STATUS
            && (12..=longest).contains(&payload)
            && payload.is_multiple_of(4)
        {
            self.phase = Phase::StatusPayload(*header);
            return Ok(None);
        }
        let to = To { style: self.terms.style, cookie: header.cookie, offset: header.offset };
        match self.terms.admit(header) {
            Ok(request) => {
                if payload > 0 {
                    self.phase = Phase::Payload(payload);
                }
                Ok(Some(Event::Request(request)))
            }
            // Answered once the payload is discarded: libnbd rejects a reply to a request that it is still sending.
            Err(refusal) if payload > 0 => {
                self.phase = Phase::Drain { left: payload, to, refusal };
                Ok(None)
            }
            Err(refusal) => Ok(Some(Event::Refused { to, refusal })),
        }
    }

    /// Handles the payload of a BLOCK_STATUS ("Request types" of the extension): the effective length, and contexts by
    /// id.
    fn status_payload(&mut self, header: RequestHeader, input: &[u8]) -> (usize, Option<Event>) {
        let (took, whole) = self.gather(input, header.len as usize);
        if !whole {
            return (took, None);
        }
        let data = std::mem::take(&mut self.partial);
        self.phase = Phase::Transmission;
        let to = To { style: self.terms.style, cookie: header.cookie, offset: header.offset };
        let (len, chosen) = self.chosen_of(&data);
        let plain = RequestHeader { flags: header.flags & !codec::CMD_PAYLOAD_LEN, len, ..header };
        let event = match (self.terms.admit(&plain), chosen) {
            (Ok(request), Some(contexts)) => Event::Request(Request { contexts, ..request }),
            (Ok(_), None) => {
                let why = "a metadata context that was not selected, or a repeated one";
                Event::Refused { to, refusal: Refusal { errno: Errno::Inval, why } }
            }
            (Err(refusal), _) => Event::Refused { to, refusal },
        };
        (took, Some(event))
    }

    /// Returns length and contexts in the payload of a BLOCK_STATUS; no contexts: one is unknown, or named twice.
    fn chosen_of(&self, data: &[u8]) -> (u64, Option<u64>) {
        let mut r = codec::Reader::new(data);
        let len = r.u64().unwrap_or(0);
        let mut chosen = 0u64;
        while let Some(id) = r.u32() {
            let bit = 1u64.checked_shl(id).unwrap_or(0) & self.terms.all_contexts();
            if bit == 0 || chosen & bit != 0 {
                return (len, None);
            }
            chosen |= bit;
        }
        (len, Some(chosen))
    }
}

/// Whether the data of an option names an export.
const fn asks_for_export(number: u32) -> bool {
    matches!(
        number,
        option::EXPORT_NAME | option::INFO | option::GO | option::LIST_META_CONTEXT | option::SET_META_CONTEXT
    )
}

/// Makes the event of a malformed request for an export that cannot be answered.
const fn unnamed(why: &'static str, hangup: Hangup) -> Event {
    Event::Malformed { why, hangup: Some(hangup) }
}

/// Returns the longest prefix of `text` that is a valid string of the protocol.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(codec::MAX_STRING)]
}

const fn unsupported(number: u32) -> &'static str {
    match number {
        option::STARTTLS => "this listener does not support TLS",
        _ => "unknown option",
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
