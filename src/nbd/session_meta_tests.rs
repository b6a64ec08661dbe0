//! Structured replies, extended headers and metadata contexts, as a client negotiates and uses them.

use super::*;

/// The contexts of every export of [`drive`].
pub(super) const CONTEXTS: [&str; 3] = ["base:allocation", "coffer:changed", "coffer:diff:snap-1"];

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(super) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    MetaQuery { name: name.into(), queries: queries.iter().map(|q| (*q).to_owned()).collect() }.encode(&mut out);
    out
}

fn extended(command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    RequestHeader { flags, command, cookie: 9, offset, len }.encode_extended(&mut out);
    out
}

/// Returns names and ids of the contexts in a reply's list, and its last reply type.
fn contexts(replies: &[(u32, Vec<u8>)]) -> (Vec<(u32, String)>, u32) {
    let listed = replies.iter().filter(|r| r.0 == reply::META_CONTEXT);
    let one = |r: &(u32, Vec<u8>)| {
        (u32::from_be_bytes(r.1[..4].try_into().unwrap()), String::from_utf8(r.1[4..].to_vec()).unwrap())
    };
    (listed.map(one).collect(), replies.last().unwrap().0)
}

/// Runs the transmission after these options and GO for `disk`.
fn after(options: &[Vec<u8>], requests: &[Vec<u8>]) -> super::super::super::replay::Transcript {
    let go = option_bytes(opt::GO, &query("disk", &[]));
    drive(&[&FLAGS[..], &options.concat(), &go, &requests.concat()].concat(), 0)
}

fn structured() -> Vec<u8> {
    option_bytes(opt::STRUCTURED_REPLY, &[])
}

fn headers() -> Vec<u8> {
    option_bytes(opt::EXTENDED_HEADERS, &[])
}

/// Returns the transmission flags in the reply to GO.
fn told_flags(options: &[Vec<u8>], name: &str) -> u16 {
    let got = negotiate(&[options, &[option_bytes(opt::GO, &query(name, &[]))]].concat());
    let export = got.iter().find(|r| r.0 == reply::INFO && r.1[..2] == [0, 0]).unwrap();
    u16::from_be_bytes(export.1[10..12].try_into().unwrap())
}

#[test]
fn styles_are_acknowledged_once_and_not_taken_back() {
    let kinds = |options: &[Vec<u8>]| negotiate(options).iter().map(|r| r.0).collect::<Vec<_>>();
    assert_eq!(kinds(&[structured(), structured()]), [reply::ACK, reply::ERR_INVALID]);
    assert_eq!(kinds(&[structured(), headers(), headers()]), [reply::ACK, reply::ACK, reply::ERR_INVALID]);
    assert_eq!(kinds(&[headers(), structured()]), [reply::ACK, reply::ERR_EXT_HEADER_REQD]);
    for number in [opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS] {
        assert_eq!(kinds(&[option_bytes(number, &[0])]), [reply::ERR_INVALID]);
    }
    let bare = [&FLAGS[..], &headers(), &option_bytes(opt::EXPORT_NAME, b"disk")].concat();
    assert_eq!(drive(&bare, 0).hangup, Some(Hangup::Refused), "EXPORT_NAME cannot follow extended headers");
}

#[test]
fn flags_follow_what_was_negotiated_and_what_the_export_does() {
    use codec::transmission as t;
    let changes = t::SEND_TRIM | t::SEND_WRITE_ZEROES | t::SEND_FAST_ZERO;
    let simple = told_flags(&[], "disk");
    assert_eq!(simple & (changes | t::CAN_MULTI_CONN | t::SEND_FLUSH | t::SEND_FUA | t::SEND_CACHE), {
        changes | t::CAN_MULTI_CONN | t::SEND_FLUSH | t::SEND_FUA | t::SEND_CACHE
    });
    assert_eq!(simple & (t::SEND_DF | t::BLOCK_STATUS_PAYLOAD | 1 << 4 | 1 << 9), 0);
    assert_eq!(told_flags(&[structured()], "disk"), simple | t::SEND_DF);
    let chosen = option_bytes(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation"]));
    assert_eq!(told_flags(&[headers()], "disk"), simple | t::SEND_DF);
    assert_eq!(told_flags(&[headers(), chosen.clone()], "disk"), simple | t::SEND_DF | t::BLOCK_STATUS_PAYLOAD);
    assert_eq!(told_flags(&[structured(), chosen], "disk"), simple | t::SEND_DF);
    assert_eq!(told_flags(&[], "ro") & (changes | t::READ_ONLY), t::READ_ONLY);
}

#[test]
fn contexts_are_listed_with_wildcards_and_chosen_by_name() {
    let ask = |number: u32, queries: &[&str]| {
        let got = negotiate(&[structured(), option_bytes(number, &meta("disk", queries))]);
        contexts(&got[1..])
    };
    let names = |found: (Vec<(u32, String)>, u32)| {
        assert_eq!(found.1, reply::ACK);
        found.0.into_iter().map(|c| c.1).collect::<Vec<_>>()
    };
    assert_eq!(names(ask(opt::LIST_META_CONTEXT, &[])), CONTEXTS);
    assert_eq!(names(ask(opt::LIST_META_CONTEXT, &["base:"])), CONTEXTS[..1]);
    assert_eq!(names(ask(opt::LIST_META_CONTEXT, &["coffer:"])), CONTEXTS[1..]);
    assert_eq!(names(ask(opt::LIST_META_CONTEXT, &["coffer:diff:"])), CONTEXTS[2..]);
    assert_eq!(names(ask(opt::LIST_META_CONTEXT, &["x-other:all", "base:allocation"])), CONTEXTS[..1]);
    assert!(names(ask(opt::LIST_META_CONTEXT, &["qemu:dirty-bitmap:x"])).is_empty());
    assert!(names(ask(opt::SET_META_CONTEXT, &[])).is_empty());
    assert!(names(ask(opt::SET_META_CONTEXT, &["base:", "coffer:"])).is_empty(), "wildcards choose nothing");
    let both = ask(opt::SET_META_CONTEXT, &["coffer:changed", "base:allocation"]);
    assert_eq!(both.0.len(), 2);
    assert_ne!(both.0[0].0, both.0[1].0, "each has an id of its own");
}

#[test]
fn what_is_no_question_about_contexts_is_refused() {
    let kind = |options: &[Vec<u8>]| negotiate(options).last().unwrap().0;
    let good = meta("disk", &["base:allocation"]);
    assert_eq!(kind(&[option_bytes(opt::SET_META_CONTEXT, &good)]), reply::ERR_INVALID, "structured replies first");
    for number in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        for bad in [&[][..], &[0, 0, 0, 9, b'x'], &good[..good.len() - 1], &[&good[..], b"x"].concat()] {
            assert_eq!(kind(&[structured(), option_bytes(number, bad)]), reply::ERR_INVALID);
        }
        // Four billion queries that do not follow.
        let flood = [&0u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
        assert_eq!(kind(&[structured(), option_bytes(number, &flood)]), reply::ERR_INVALID);
        assert_eq!(kind(&[structured(), option_bytes(number, &meta("nope", &[]))]), reply::ERR_UNKNOWN);
        let large = meta("disk", &[&"x".repeat(4000), &"y".repeat(4000), &"z".repeat(4000), &"w".repeat(4090), "v:v"]);
        let large = [large, vec![0; 1000]].concat();
        assert_eq!(kind(&[structured(), option_bytes(number, &large)]), reply::ERR_TOO_BIG);
    }
}

#[test]
fn block_status_needs_contexts_of_the_same_export_chosen_last() {
    let status = || request_bytes(codec::command::BLOCK_STATUS, 0, 0, 100);
    let choose = |name: &str, queries: &[&str]| option_bytes(opt::SET_META_CONTEXT, &meta(name, queries));
    let answer = |options: &[Vec<u8>]| after(options, &[status()]).events.last().unwrap().clone();
    let alloc = &["base:allocation"][..];
    let Event::Request(request) = answer(&[structured(), choose("disk", alloc)]) else { panic!() };
    assert_eq!((request.command, request.contexts, request.len), (Command::BlockStatus, 1, 100));
    for options in [
        vec![],
        vec![structured()],
        vec![structured(), choose("ro", alloc)],
        vec![structured(), choose("disk", alloc), choose("disk", &[])],
        vec![structured(), choose("disk", alloc), choose("nope", alloc)],
        vec![structured(), choose("disk", alloc), option_bytes(opt::SET_META_CONTEXT, &[1])],
    ] {
        assert_eq!(refused(&answer(&options)), Some(Errno::Inval), "{options:?}");
    }
    // Listing does not change the selection.
    let listed = option_bytes(opt::LIST_META_CONTEXT, &meta("disk", &[]));
    assert!(matches!(answer(&[structured(), choose("disk", alloc), listed]), Event::Request(_)));
}

#[test]
fn structured_requests_have_flags_of_their_own() {
    use codec::command::*;
    let choose = option_bytes(opt::SET_META_CONTEXT, &meta("disk", &CONTEXTS));
    let one = |command: u16, flags: u16| {
        let got = after(&[structured(), choose.clone()], &[request_bytes(command, flags, 0, 512)]);
        got.events.last().unwrap().clone()
    };
    let Event::Request(request) = one(READ, codec::CMD_DF) else { panic!() };
    assert!(request.unfragmented);
    let Event::Request(request) = one(BLOCK_STATUS, codec::CMD_REQ_ONE) else { panic!() };
    assert_eq!((request.one, request.contexts), (true, 0b111));
    let Event::Request(request) = one(WRITE_ZEROES, codec::CMD_FAST_ZERO | codec::CMD_NO_HOLE) else { panic!() };
    assert!(request.fast && request.no_hole);
    for (command, flags) in [(READ, 8), (BLOCK_STATUS, 4), (BLOCK_STATUS, 32), (TRIM, 4), (CACHE, 1 << 15)] {
        assert_eq!(refused(&one(command, flags)), Some(Errno::Inval), "{command} {flags}");
    }
    let none = after(&[structured(), choose], &[request_bytes(BLOCK_STATUS, 0, 0, 0)]);
    assert_eq!(refused(none.events.last().unwrap()), Some(Errno::Inval));
    let terms = Terms { size: 1 << 40, read_only: false, style: Style::Structured, contexts: 0 };
    let large = RequestHeader { flags: 0, command: READ, cookie: 9, offset: 0, len: (32 << 20) + 1 };
    assert_eq!(terms.admit(&large).unwrap_err().errno, Errno::Overflow);
}

#[test]
fn extended_headers_carry_lengths_of_64_bits_and_say_where_a_payload_is() {
    use codec::command::*;
    let payload = codec::CMD_PAYLOAD_LEN;
    let write = [extended(WRITE, payload, 10, 3), b"abc".to_vec()].concat();
    let got = after(&[headers()], &[write, extended(TRIM, 0, 0, 65536), extended(DISC, 0, 0, 0)]);
    assert_eq!(got.hangup, None);
    assert!(matches!(got.events[1], Event::Request(Request { command: Command::Write, len: 3, .. })));
    assert!(matches!(got.events[2], Event::Request(Request { command: Command::Trim, len: 65536, .. })));
    assert_eq!((got.events.last(), &got.payload[..]), (Some(&Event::End), &b"abc"[..]));

    let terms = Terms { size: 64 << 40, read_only: false, style: Style::Extended, contexts: 0 };
    let whole = RequestHeader { flags: 0, command: TRIM, cookie: 9, offset: 0, len: 64 << 40 };
    assert_eq!(terms.admit(&whole).unwrap().len, 64 << 40);

    // A WRITE has a payload even if it does not say so, like qemu's.
    let got = after(&[headers()], &[extended(WRITE, 0, 10, 3), b"abc".to_vec(), extended(READ, 0, 0, 1)]);
    assert!(matches!(got.events[1], Event::Request(Request { command: Command::Write, len: 3, .. })));
    assert!(matches!(got.events[2], Event::Request(Request { command: Command::Read, len: 1, .. })));
    assert_eq!(got.payload, b"abc");
    // A payload where there must be none is discarded and rejected.
    let stray = [extended(READ, payload, 0, 5), vec![9; 5], extended(READ, 0, 0, 1)].concat();
    let got = after(&[headers()], &[stray]);
    assert_eq!(refused(&got.events[1]), Some(Errno::Inval));
    assert!(matches!(got.events[2], Event::Request(_)));
    let huge = after(&[headers()], &[extended(READ, payload, 0, u64::MAX)]);
    assert_eq!(huge.hangup, Some(Hangup::PayloadTooLong));
    // A compact header is invalid here, and vice versa.
    assert_eq!(after(&[headers()], &[vec![0x25, 0x60, 0x95, 0x13], vec![0; 28]]).hangup, Some(Hangup::RequestMagic));
    assert_eq!(after(&[], &[extended(READ, 0, 0, 1)]).hangup, Some(Hangup::RequestMagic));
}

#[test]
fn a_block_status_may_name_its_contexts() {
    let ask = |ids: &[u32], len: u64| {
        let choose = option_bytes(opt::SET_META_CONTEXT, &meta("disk", &CONTEXTS));
        let body: Vec<u8> = len.to_be_bytes().into_iter().chain(ids.iter().flat_map(|i| i.to_be_bytes())).collect();
        let head = extended(codec::command::BLOCK_STATUS, codec::CMD_PAYLOAD_LEN, 4096, body.len() as u64);
        let next = extended(codec::command::READ, 0, 0, 1);
        let got = after(&[headers(), choose], &[head, body, next]);
        assert!(matches!(got.events.last(), Some(Event::Request(Request { command: Command::Read, .. }))));
        got.events[got.events.len() - 2].clone()
    };
    let Event::Request(request) = ask(&[2, 0], 512) else { panic!() };
    assert_eq!((request.contexts, request.offset, request.len), (0b101, 4096, 512));
    for bad in [&[0u32, 0][..], &[3], &[u32::MAX], &[64], &[0, 1, 2, 0], &[]] {
        assert_eq!(refused(&ask(bad, 512)), Some(Errno::Inval), "{bad:?}");
    }
    assert_eq!(refused(&ask(&[0], 0)), Some(Errno::Inval));
    assert_eq!(refused(&ask(&[0], u64::MAX)), Some(Errno::Inval));
}
