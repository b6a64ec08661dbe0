use super::super::codec::{SimpleReply, option as opt};
use super::super::replay::{drive, encodes_back};
use super::*;
use crate::error::Kind;
use proptest::prelude::*;

const FLAGS: [u8; 4] = [0, 0, 0, 3];

fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    OptionHeader { option: number, len: data.len() as u32 }.encode(&mut out);
    out.extend_from_slice(data);
    out
}

fn query(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    ExportQuery { name: name.into(), wants: wants.to_vec() }.encode(&mut out);
    out
}

fn request_bytes(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut out = Vec::new();
    RequestHeader { flags, command, cookie: 9, offset, len: len.into() }.encode(&mut out);
    out
}

fn flags(read_only: bool) -> u16 {
    Terms { size: 0, read_only, style: Style::Simple, contexts: 0 }.flags()
}

/// Returns types and data of the replies in a transcript's output, after the greeting.
fn replies(output: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut r = codec::Reader::new(&output[18..]);
    let mut out = Vec::new();
    while !r.is_empty() {
        assert_eq!(r.u64(), Some(codec::OPTION_REPLY_MAGIC));
        let _ = r.u32().unwrap();
        let (kind, len) = (r.u32().unwrap(), r.u32().unwrap());
        out.push((kind, r.bytes(len as usize).unwrap().to_vec()));
    }
    out
}

fn negotiate(options: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
    let transcript = drive(&[&FLAGS[..], &options.concat()].concat(), 0);
    assert_eq!(transcript.hangup, None);
    replies(&transcript.output)
}

fn transmit(name: &str, requests: &[Vec<u8>]) -> super::super::replay::Transcript {
    drive(&[&FLAGS[..], &option_bytes(opt::GO, &query(name, &[])), &requests.concat()].concat(), 0)
}

fn refused(event: &Event) -> Option<Errno> {
    match event {
        Event::Refused { to, refusal } if to.cookie == 9 => Some(refusal.errno),
        _ => None,
    }
}

#[test]
fn go_describes_the_export_and_its_block_sizes() {
    let got = negotiate(&[option_bytes(opt::GO, &query("disk", &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]))]);
    let kinds: Vec<u32> = got.iter().map(|r| r.0).collect();
    assert_eq!(kinds, [reply::INFO, reply::INFO, reply::INFO, reply::INFO, reply::ACK]);
    assert_eq!(got[0].1, [&[0, 0][..], &65536u64.to_be_bytes(), &flags(false).to_be_bytes()].concat());
    let sizes = [1u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(got[1].1, [&[0, 3][..], &sizes].concat());
    assert_eq!(got[2].1, b"\0\x01disk");
    assert_eq!(got[3].1, b"\0\x02Go");
}

#[test]
fn info_answers_like_go_and_stays_in_the_negotiation() {
    let ask = query("ro", &[]);
    let got = negotiate(&[option_bytes(opt::INFO, &ask), option_bytes(opt::GO, &ask)]);
    assert_eq!(got[..3], got[3..]);
    assert_eq!(got[0].1[10..], flags(true).to_be_bytes());
    assert_eq!(flags(true) & codec::transmission::READ_ONLY, codec::transmission::READ_ONLY);
}

#[test]
fn failures_of_go_say_which_and_why() {
    let got = negotiate(&[
        option_bytes(opt::GO, &query("nope", &[])),
        option_bytes(opt::GO, &query("full", &[])),
        option_bytes(opt::INFO, &[0, 0, 0, 9, b'x', 0, 0]),
        option_bytes(opt::GO, &[]),
        option_bytes(opt::GO, &query(&"n".repeat(4097), &[])),
        option_bytes(opt::GO, &vec![0; MAX_OPTION as usize + 1]),
    ]);
    let kinds: Vec<u32> = got.iter().map(|r| r.0).collect();
    let bad = reply::ERR_INVALID;
    assert_eq!(kinds, [reply::ERR_UNKNOWN, reply::ERR_POLICY, bad, bad, bad, reply::ERR_TOO_BIG]);
    assert_eq!(got[0].1, b"no such export");
}

#[test]
fn list_names_exports_and_takes_no_data() {
    let got = negotiate(&[option_bytes(opt::LIST, &[]), option_bytes(opt::LIST, &[1])]);
    assert_eq!(got[0], (reply::SERVER, b"\0\0\0\x04diska disk".to_vec()));
    assert_eq!((got[1].0, got[2].0), (reply::ACK, reply::ERR_INVALID));
}

#[test]
fn other_options_are_refused_politely_and_the_negotiation_goes_on() {
    for number in [4, opt::STARTTLS, 12, u32::MAX] {
        let got = negotiate(&[option_bytes(number, &[]), option_bytes(opt::GO, &query("disk", &[]))]);
        assert_eq!(got[0].0, reply::ERR_UNSUP, "{number}");
        assert_eq!(got.last().unwrap().0, reply::ACK);
    }
    let got = negotiate(&[option_bytes(99, &vec![7; 100_000]), option_bytes(opt::STARTTLS, &[0])]);
    assert_eq!((got[0].0, got[1].0), (reply::ERR_UNSUP, reply::ERR_INVALID));
}

#[test]
fn abort_is_acknowledged_with_or_without_data() {
    for data in [&[][..], b"why"] {
        let bytes = [&FLAGS[..], &option_bytes(opt::ABORT, data), b"more"].concat();
        let transcript = drive(&bytes, 0);
        assert_eq!(replies(&transcript.output), [(reply::ACK, vec![])]);
        assert_eq!(transcript.events, [Event::End]);
    }
}

#[test]
fn export_name_answers_bare_with_and_without_zeroes() {
    for (client, len) in [(1, 134), (3, 10), (0, 134), (2, 10)] {
        let bytes = [&[0, 0, 0, client][..], &option_bytes(opt::EXPORT_NAME, b"disk")].concat();
        let output = drive(&bytes, 0).output;
        assert_eq!(output.len() - 18, len);
        assert_eq!(output[18..26], 65536u64.to_be_bytes());
    }
    let refused = [&FLAGS[..], &option_bytes(opt::EXPORT_NAME, b"nope")].concat();
    assert_eq!(drive(&refused, 0).hangup, Some(Hangup::Refused));
    let long = [&FLAGS[..], &option_bytes(opt::EXPORT_NAME, &[b'n'; 4097])].concat();
    assert_eq!(drive(&long, 0).hangup, Some(Hangup::OptionTooLong));
}

/// Each malformed request for an export is reported to the caller, once: it is a refusal, and refusals are recorded.
#[test]
fn malformed_requests_for_an_export_are_reported() {
    let malformed = |number: u32, data: &[u8]| {
        let structured = option_bytes(opt::STRUCTURED_REPLY, &[]);
        let transcript = drive(&[&FLAGS[..], &structured, &option_bytes(number, data)].concat(), 0);
        let told = transcript.events.iter().filter(|e| matches!(e, Event::Malformed { .. })).count();
        (told, transcript.events.len(), transcript.hangup)
    };
    let (large, name) = (vec![0; MAX_OPTION as usize + 1], query(&"n".repeat(4097), &[]));
    for number in [opt::INFO, opt::GO, opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        for data in [&[][..], b"\0\0\0\x02\xc3\x28\0\0", b"\0\0\0\x01\0\0\0", &[0, 0, 0, 9, b'x', 0, 0], &name, &large]
        {
            assert_eq!(malformed(number, data), (1, 1, None), "{number} {}", data.len());
        }
        assert_eq!(malformed(number, &vec![0; MAX_OPTION_SKIP as usize + 1]), (1, 1, Some(Hangup::OptionTooLong)));
    }
    for (name, hangup) in
        [(&b"\xc3\x28"[..], Hangup::Refused), (&[0; 1], Hangup::Refused), (&[b'n'; 4097], Hangup::OptionTooLong)]
    {
        assert_eq!(malformed(opt::EXPORT_NAME, name), (1, 1, Some(hangup)));
    }
    assert_eq!(malformed(opt::GO, &query("disk", &[])).0, 0);
}

#[test]
fn what_cannot_be_answered_hangs_up() {
    let hangup = |parts: &[&[u8]]| drive(&parts.concat(), 0).hangup;
    assert_eq!(hangup(&[&[0, 0, 0, 4]]), Some(Hangup::ClientFlags));
    assert_eq!(hangup(&[&FLAGS, &[0; 16]]), Some(Hangup::OptionMagic));
    assert_eq!(hangup(&[&[0; 4], &option_bytes(opt::LIST, &[])]), Some(Hangup::NotFixed));
    let mut huge = Vec::new();
    OptionHeader { option: 99, len: MAX_OPTION_SKIP + 1 }.encode(&mut huge);
    assert_eq!(hangup(&[&FLAGS, &huge]), Some(Hangup::OptionTooLong));
    let flood = option_bytes(99, &[]).repeat(MAX_OPTIONS as usize + 1);
    assert_eq!(hangup(&[&FLAGS, &flood]), Some(Hangup::TooManyOptions));
    assert_eq!(transmit("disk", &[vec![0; 28]]).hangup, Some(Hangup::RequestMagic));
    let long = request_bytes(codec::command::WRITE, 0, 0, MAX_DRAIN as u32 + 1);
    assert_eq!(transmit("disk", &[long]).hangup, Some(Hangup::PayloadTooLong));
}

#[test]
fn every_command_is_taken_with_its_flags() {
    use codec::command::*;
    let expected = [
        (READ, Command::Read),
        (FLUSH, Command::Flush),
        (TRIM, Command::Trim),
        (CACHE, Command::Cache),
        (WRITE_ZEROES, Command::WriteZeroes),
        (WRITE, Command::Write),
    ];
    for (wire, command) in expected {
        let range = if wire == FLUSH { (0, 0) } else { (4095, 3) };
        let mut bytes = request_bytes(wire, codec::CMD_FUA, range.0, range.1);
        bytes.extend(if wire == WRITE { &b"abc"[..] } else { &[] });
        let got = transmit("disk", &[bytes.clone(), request_bytes(DISC, 0, 0, 0)]);
        let (offset, len) = range;
        let request = Request { command, offset, len: len.into(), fua: true, ..Request::PLAIN };
        assert_eq!(got.events[1..], [Event::Request(request), Event::End]);
        assert_eq!(got.payload, if wire == WRITE { &b"abc"[..] } else { &[] });
    }
}

#[test]
fn rules_of_requests() {
    use codec::command::*;
    let size = 65536;
    let check = |command, flags, offset, len, read_only| {
        let terms = Terms { size, read_only, style: Style::Simple, contexts: 0 };
        terms.admit(&RequestHeader { flags, command, cookie: 0, offset, len }).err().map(|r| r.errno)
    };
    assert_eq!(check(READ, 0, size, 0, false), None);
    assert_eq!(check(READ, 0, size - 1, 2, false), Some(Errno::Inval));
    assert_eq!(check(READ, 0, u64::MAX, u64::MAX, false), Some(Errno::Inval));
    assert_eq!(check(TRIM, 0, 1, u64::MAX, false), Some(Errno::Inval));
    assert_eq!(check(READ, 0, u64::MAX, 1, false), Some(Errno::Inval));
    assert_eq!(check(WRITE, 0, u64::MAX, 1, false), Some(Errno::NoSpc));
    assert_eq!(check(WRITE_ZEROES, 0, size, 1, false), Some(Errno::NoSpc));
    assert_eq!(check(TRIM, 0, size, 1, false), Some(Errno::Inval));
    assert_eq!(check(CACHE, 0, size, 1, false), Some(Errno::Inval));
    assert_eq!(check(READ, 0, 0, (32 << 20) + 1, false), Some(Errno::Inval));
    assert_eq!(check(WRITE, 0, 0, (32 << 20) + 1, false), Some(Errno::Inval));
    for command in [WRITE, TRIM, WRITE_ZEROES] {
        assert_eq!(check(command, 0, 0, 1, true), Some(Errno::Perm));
    }
    assert_eq!(check(READ, 0, 0, 1, true), None);
    assert_eq!(check(FLUSH, 0, 0, 0, true), None);
    assert_eq!(check(FLUSH, 0, 1, 0, false), Some(Errno::Inval));
    assert_eq!(check(WRITE_ZEROES, codec::CMD_NO_HOLE, 0, 1, false), None);
    assert_eq!(check(WRITE_ZEROES, codec::CMD_NO_HOLE | codec::CMD_FAST_ZERO, 0, 1, false), None);
    for (command, flags) in
        [(READ, 2), (WRITE, 2), (READ, 4), (WRITE_ZEROES, 64), (TRIM, 8), (CACHE, 32), (FLUSH, 2), (TRIM, 16)]
    {
        assert_eq!(check(command, flags, 0, 0, false), Some(Errno::Inval));
    }
    for command in [7, 8, u16::MAX] {
        assert_eq!(check(command, 0, 0, 0, false), Some(Errno::Inval));
    }
}

#[test]
fn a_refused_write_is_skipped_and_the_next_request_served() {
    let write = [request_bytes(codec::command::WRITE, 0, 65536, 5), b"12345".to_vec()].concat();
    let got = transmit("disk", &[write, request_bytes(codec::command::READ, 0, 0, 1)]);
    assert_eq!(refused(&got.events[1]), Some(Errno::NoSpc));
    assert!(matches!(got.events[2], Event::Request(Request { command: Command::Read, len: 1, .. })));
    assert!(got.payload.is_empty());
}

#[test]
fn a_refused_write_is_answered_when_its_payload_is_gone() {
    let mut session = Session::new();
    session.step(&[&FLAGS[..], &option_bytes(opt::GO, &query("disk", &[]))].concat()).unwrap();
    let export = ExportInfo { name: "disk".into(), description: String::new(), size: 10, read_only: false };
    session.answer_choice(Ok(&export)).unwrap();
    let header = request_bytes(codec::command::WRITE, 0, 9, 3);
    assert_eq!(session.step(&header).unwrap(), Step { used: header.len(), event: None });
    assert_eq!(session.step(b"12").unwrap(), Step { used: 2, event: None });
    assert!(session.in_transmission());
    let step = session.step(b"3rest").unwrap();
    assert_eq!((step.used, step.event.as_ref().and_then(refused)), (1, Some(Errno::NoSpc)));
}

#[test]
fn nothing_is_read_after_a_farewell() {
    let got = transmit("disk", &[request_bytes(codec::command::DISC, 0, 7, 7), vec![0; 100]]);
    assert_eq!((got.hangup, got.events.last()), (None, Some(&Event::End)));
}

#[test]
fn an_export_may_grow_while_it_is_served() {
    let mut session = Session::new();
    let go = [&FLAGS[..], &option_bytes(opt::GO, &query("disk", &[]))].concat();
    session.step(&go).unwrap();
    let export = ExportInfo { name: "disk".into(), description: String::new(), size: 10, read_only: false };
    session.answer_choice(Ok(&export)).unwrap();
    assert!(session.in_transmission());
    let read = request_bytes(codec::command::READ, 0, 10, 1);
    assert!(matches!(session.step(&read).unwrap().event, Some(Event::Refused { .. })));
    session.set_size(11);
    assert!(matches!(session.step(&read).unwrap().event, Some(Event::Request(_))));
}

#[test]
fn long_words_are_cut_to_the_protocols_strings() {
    let mut session = Session::new();
    session.step(&[&FLAGS[..], &option_bytes(opt::GO, &query("x", &[]))].concat()).unwrap();
    session.take_output();
    let err = Error::new(Kind::Busy, "ä".repeat(5000));
    session.answer_choice(Err(&err)).unwrap();
    assert_eq!(session.take_output().len(), 20 + codec::MAX_STRING);
    session.step(&option_bytes(opt::LIST, &[])).unwrap();
    session.answer_list(&[ExportEntry { name: "n".repeat(5000), description: String::new() }]);
    assert_eq!(session.take_output().len(), 20);
}

#[path = "session_meta_tests.rs"]
mod structured;
use structured::{CONTEXTS, meta};

/// A client's stream: sensible parts and noise, in any order.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        3 => (0u32..13, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, data)| option_bytes(n, &data)),
        2 => prop::sample::select(vec![opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS])
            .prop_map(|number| option_bytes(number, &[])),
        2 => (9u32..11, prop::sample::select(vec!["disk", "ro", "nope"]), 0usize..4)
            .prop_map(|(number, name, n)| option_bytes(number, &meta(name, &CONTEXTS[..n]))),
        3 => prop::sample::select(vec!["disk", "ro", "nope", "full"])
            .prop_map(|name| option_bytes(opt::GO, &query(name, &[info::NAME]))),
        4 => (0u16..9, 0u16..4, 0u64..70_000, 0u32..200).prop_map(|(command, flags, offset, len)| {
            let mut bytes = request_bytes(command, flags, offset, len);
            bytes.extend(vec![0x5a; if command == 1 { len as usize } else { 0 }]);
            bytes
        }),
        3 => (0u16..9, 0u16..64, 0u64..70_000, 0u64..200).prop_map(|(command, flags, offset, len)| {
            let mut bytes = Vec::new();
            RequestHeader { flags, command, cookie: 9, offset, len }.encode_extended(&mut bytes);
            bytes.extend(vec![0; if flags & 32 != 0 { len as usize } else { 0 }]);
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| [&FLAGS[..], &parts.concat()].concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(input in stream(), seed in 1u64..) {
        prop_assert_eq!(drive(&input, seed), drive(&input, 0));
    }

    #[test]
    fn noise_never_panics(input in prop::collection::vec(any::<u8>(), 0..600), seed in any::<u64>()) {
        let _ = drive(&input, seed);
        let _ = drive(&[&FLAGS[..], &input].concat(), seed);
    }

    #[test]
    fn what_decodes_encodes_back(mut input in prop::collection::vec(any::<u8>(), 16..80), kind in 0..6) {
        match kind {
            0 => input[..8].copy_from_slice(&codec::IHAVEOPT.to_be_bytes()),
            1 => input[..4].copy_from_slice(&codec::REQUEST_MAGIC.to_be_bytes()),
            2 => input[..8].copy_from_slice(&SimpleReply { error: Some(Errno::NoSpc), cookie: 0 }.encode()[..8]),
            3 => input[..4].copy_from_slice(&codec::EXTENDED_REQUEST_MAGIC.to_be_bytes()),
            4 => input = meta("name", &["a:b", ""]),
            _ => input = query("name", &[1, 2, 3]),
        }
        prop_assert!(encodes_back(&input));
    }
}
