//! Requests in parts, over a live server.

use super::*;

const M1: u64 = 1 << 20;

/// Bytes that identify their offset.
fn noise(from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Opens a connection with structured replies.
fn structured(path: &Path) -> Raw {
    let mut raw = Raw::connect(path);
    raw.put(&option(8, &[]));
    assert_eq!(raw.option_reply().0, 1);
    raw.put(&option(7, &query("gated", &[])));
    while raw.option_reply().0 != 1 {}
    raw
}

/// Reads one chunk: whether it is the last, its type, its payload.
fn chunk(from: &mut Raw) -> (bool, u16, Vec<u8>) {
    let head = from.get(20);
    assert_eq!(head[..4], 0x668e_33efu32.to_be_bytes());
    let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let len = u32::from_be_bytes(head[16..].try_into().unwrap());
    (short(4) & 1 == 1, short(6), from.get(len as usize))
}

/// Reads a structured reply to its end, and assembles its data. Holes are left as they are.
fn gathered(from: &mut Raw, offset: u64, len: u64) -> (Vec<u8>, usize) {
    let (mut out, mut chunks) = (vec![0xee; len as usize], 0);
    loop {
        let (last, kind, payload) = chunk(from);
        chunks += 1;
        let at = || (u64::from_be_bytes(payload[..8].try_into().unwrap()) - offset) as usize;
        match kind {
            0 => assert!(last && payload.is_empty()),
            1 => out[at()..at() + payload.len() - 8].copy_from_slice(&payload[8..]),
            2 => {
                let hole = u32::from_be_bytes(payload[8..].try_into().unwrap()) as usize;
                out[at()..at() + hole].fill(0);
            }
            other => panic!("chunk of type {other}"),
        }
        if last {
            return (out, chunks);
        }
    }
}

#[test]
fn large_requests_at_any_offset_are_right_in_every_shape_of_reply() {
    let r = plain();
    r.gate.update(|s| s.open = true);
    let (mut simple, mut chunks) = (Raw::open(&r.path, "gated"), structured(&r.path));
    for (offset, len) in [(100, 3 * M1 + 77), (4 * M1, M1 + 1), (7 * M1 - 1, 2 * M1 + 2), (1, 20 * M1)] {
        let data = noise(offset, len);
        assert_eq!(simple.ask(WRITE, 0, offset, len as u32, &data), 0);
        assert!(simple.read(offset, len as u32) == data, "{offset} {len}");
        chunks.put(&request(READ, 0, 5, offset, len as u32));
        let (seen, count) = gathered(&mut chunks, offset, len);
        assert!(seen == data && count > 2, "{offset} {len}: {count} chunks");
        chunks.put(&request(READ, 4, 6, offset, len as u32)); // DF
        let (seen, count) = gathered(&mut chunks, offset, len);
        assert!(seen == data && count == 1, "one chunk was asked for, {count} came");
    }
    drop((simple, chunks));
    assert_nothing_held(r.server);
}

#[test]
fn chunks_with_extended_headers_name_the_requests_own_offset() {
    let r = plain();
    r.gate.update(|s| s.open = true);
    let mut c = Raw::connect(&r.path);
    c.put(&option(11, &[]));
    assert_eq!(c.option_reply().0, 1);
    c.put(&option(7, &query("gated", &[])));
    while c.option_reply().0 != 1 {}
    let (offset, len) = (M1 / 2, 3 * M1);
    let mut ask = [0x21e4_1c71u32.to_be_bytes(), [0, 0, 0, READ as u8]].concat();
    [9, offset, len].iter().for_each(|word: &u64| ask.extend(word.to_be_bytes()));
    c.put(&ask);
    let mut holes = 0;
    loop {
        let head = c.get(32);
        let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap());
        assert_eq!((&head[..4], word(8), word(16)), (&0x6e8a_278cu32.to_be_bytes()[..], 9, offset));
        let (done, kind) = (head[5] & 1 == 1, head[7]);
        let payload = c.get(word(24) as usize);
        match (done, kind) {
            (false, 2) => holes += u64::from(u32::from_be_bytes(payload[8..].try_into().unwrap())),
            (true, 0) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(holes, len, "memory is zero");
}

#[test]
fn parts_of_one_read_are_served_at_once() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    c.put(&[request(READ, 0, 1, SLOW, 6 << 20), request(READ, 0, 2, 100, 3)].concat());
    assert_eq!(c.reply(), (0, 2), "others pass");
    c.get(3);
    r.gate.wait_for(|s| s.entered == 6);
    r.gate.update(|s| s.open = true);
    assert_eq!(c.reply(), (0, 1));
    assert!(c.get(6 << 20).iter().all(|b| *b == 0));
}

#[test]
fn a_write_is_begun_while_its_payload_is_on_its_way() {
    let r = plain();
    let (mut c, mut other) = (Raw::open(&r.path, "gated"), Raw::open(&r.path, "gated"));
    let data = noise(0, 4 * M1);
    c.put(&request(WRITE, 0, 1, SLOW, 4 << 20));
    c.put(&data[..2 * M1 as usize + 5]);
    r.gate.wait_for(|s| s.entered == 2);
    r.gate.update(|s| s.open = true);
    c.put(&data[2 * M1 as usize + 5..]);
    assert_eq!(c.reply(), (0, 1));
    assert!(other.read(SLOW, 4 << 20) == data);
}

#[test]
fn a_write_cut_off_in_its_payload_leaves_nothing_running() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    c.put(&request(WRITE, 0, 1, SLOW, 8 << 20));
    c.put(&noise(0, 3 * M1 + 5));
    r.gate.wait_for(|s| s.entered == 3);
    drop(c);
    r.gate.update(|s| s.open = true);
    r.gate.wait_for(|s| s.dropped == 1);
    let mut other = Raw::open(&r.path, "gated");
    assert!(other.read(SLOW, 3 << 20) == noise(0, 3 * M1), "what was begun is whole");
    assert_eq!(other.read(SLOW + 3 * M1, 5), [0; 5]);
    drop(other);
    assert_nothing_held(r.server);
}

#[test]
fn one_failing_part_fails_the_request_once_and_the_connection_lives() {
    let r = rig(ServerConfig::default());
    r.gate.update(|s| s.open = true);
    let (mut simple, mut chunks) = (Raw::open(&r.path, "gated"), structured(&r.path));
    assert_eq!(simple.ask(READ, 0, 28, 3 << 20, &[]), 28);
    assert_eq!(simple.ask(WRITE, 1, 28, 3 << 20, &noise(0, 3 * M1)), 28);
    assert_eq!(simple.ask(READ, 0, 13, 3 << 20, &[]), 5, "a panic");
    chunks.put(&request(READ, 0, 5, 28, 3 << 20));
    let error = loop {
        let (last, kind, payload) = chunk(&mut chunks);
        match (last, kind) {
            (false, 1 | 2) => {}
            (true, _) => break (kind, u32::from_be_bytes(payload[..4].try_into().unwrap())),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error, (0x8002, 28), "an error with its offset, behind all data");
    assert_eq!(simple.read(SLOW, 4).len(), 4);
    drop((simple, chunks));
    assert_nothing_held(r.server);
}
