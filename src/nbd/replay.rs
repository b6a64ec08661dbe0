//! Drives a session with generated input: shared by the fuzzer, the corpus test and the property tests.

use super::codec::{ExportQuery, MetaQuery, OptionHeader, RequestHeader, SimpleReply};
use super::errno::Hangup;
use super::export::{ExportEntry, ExportInfo};
use super::session::{Choice, Event, Session};
use crate::error::{Error, Kind};

/// Everything a session did with some input, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transcript {
    /// The events it reported.
    pub events: Vec<Event>,
    /// The handshake bytes it would have sent.
    pub output: Vec<u8>,
    /// Payload bytes of accepted WRITEs.
    pub payload: Vec<u8>,
    /// Why it hung up, if it did.
    pub hangup: Option<Hangup>,
}

/// The metadata contexts of every export.
const CONTEXTS: [&str; 3] = ["base:allocation", "coffer:changed", "coffer:diff:snap-1"];

/// Feeds `input` to a session in pieces whose sizes are derived from `seed` (0: one piece). The export `disk` has 64
/// KiB; `ro` is the same but read-only; `full` fails for lack of space.
#[must_use]
pub fn drive(input: &[u8], seed: u64) -> Transcript {
    let mut out = Transcript::default();
    let mut session = Session::new();
    let mut state = seed;
    let mut rest = input;
    while !rest.is_empty() && out.hangup.is_none() {
        let n = if seed == 0 { rest.len() } else { piece(&mut state).min(rest.len()) };
        let (now, later) = rest.split_at(n);
        rest = later;
        if let Err(hangup) = feed(&mut session, now, &mut out) {
            out.hangup = Some(hangup);
        }
        out.output.extend(session.take_output());
    }
    out
}

/// Returns a piece's size, 1 to 64 bytes, small ones often (xorshift64*).
fn piece(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let r = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
    1 + (r % (1 + (r >> 8) % 64)) as usize
}

fn feed(session: &mut Session, mut input: &[u8], out: &mut Transcript) -> Result<(), Hangup> {
    loop {
        let paid = session.payload_left().min(input.len());
        out.payload.extend_from_slice(&input[..paid]);
        session.payload_received(paid);
        input = &input[paid..];
        let step = session.step(input)?;
        input = &input[step.used..];
        let Some(event) = step.event else {
            if step.used == 0 && paid == 0 {
                return Ok(());
            }
            continue;
        };
        match &event {
            Event::List => {
                let entry = ExportEntry { name: "disk".into(), description: "a disk".into() };
                session.answer_list(&[entry]);
            }
            Event::Contexts { name } => {
                let all = export(Choice::Info, name).map(|_| CONTEXTS.map(str::to_owned));
                session.answer_contexts(all.as_ref().map(|all| &all[..]));
            }
            Event::Choose { how, name } => {
                let answer = export(*how, name);
                session.answer_choice(answer.as_ref())?;
            }
            Event::Malformed { hangup: Some(hangup), .. } => {
                let hangup = *hangup;
                out.events.push(event);
                return Err(hangup);
            }
            _ => {}
        }
        out.events.push(event);
    }
}

fn export(how: Choice, name: &str) -> Result<ExportInfo, Error> {
    match name {
        "disk" | "" | "ro" => Ok(ExportInfo {
            name: "disk".into(),
            description: format!("{how:?}"),
            size: 65536,
            read_only: name == "ro",
        }),
        "full" => Err(Error::new(Kind::NoSpace, "open full")),
        _ => Err(Error::new(Kind::NotFound, "no such export")),
    }
}

/// Decodes `bytes` as every wire type and encodes the result; false if that differs from the input.
#[must_use]
pub fn encodes_back(bytes: &[u8]) -> bool {
    let mut again = Vec::new();
    let mut same = true;
    let mut check = |again: &mut Vec<u8>| {
        same &= bytes.starts_with(again);
        again.clear();
    };
    if let Some(header) = OptionHeader::decode(bytes) {
        header.encode(&mut again);
        check(&mut again);
    }
    if let Some(header) = RequestHeader::decode(bytes) {
        header.encode(&mut again);
        check(&mut again);
    }
    if let Some(header) = RequestHeader::decode_extended(bytes) {
        header.encode_extended(&mut again);
        check(&mut again);
    }
    if let Some(query) = ExportQuery::decode(bytes) {
        query.encode(&mut again);
        check(&mut again);
    }
    if let Some(query) = MetaQuery::decode(bytes) {
        query.encode(&mut again);
        check(&mut again);
    }
    if let Some(reply) = SimpleReply::decode(bytes) {
        again.extend_from_slice(&reply.encode());
        check(&mut again);
    }
    same
}
