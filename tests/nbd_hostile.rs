//! Hostile NBD clients against a live server: whatever one of them does, the server survives, another client is served
//! meanwhile, and nothing is left over.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

use coffer::engine::{Device, Extent, VolumeControl};
use coffer::error::Result;
use coffer::nbd::memory::Memory;
use coffer::nbd::{
    Attempt, Blocking, Client, Export, ExportEntry, ExportInfo, Exports, Listener, Server, ServerConfig, Zeroing,
    replay,
};
use coffer::units::VolumeId;
use parking_lot::{Condvar, Mutex};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[path = "../src/nbd/test_client.rs"]
mod client;
use client::{DISC, FLUSH, READ, Raw, WRITE, option, query, request};

const SIZE: usize = 64 << 20;

/// Number of open handles, and an event when that changes.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Open {
    fn add(&self, n: isize) {
        let mut count = self.count.lock();
        *count = count.wrapping_add_signed(n);
        self.changed.notify_all();
    }

    fn wait_for(&self, n: usize) {
        let mut count = self.count.lock();
        while *count != n {
            let late = self.changed.wait_for(&mut count, Duration::from_secs(30)).timed_out();
            assert!(!late, "{} handles are open, not {n}", *count);
        }
    }
}

struct Handle(Arc<Memory>, Arc<Open>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.1.add(-1);
    }
}

impl Export for Handle {}

impl Device for Handle {
    fn volume(&self) -> Option<VolumeId> {
        self.0.volume()
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        self.0.scheduled(scheduler);
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        self.0.read_only()
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.0.read(offset, out, blocking)
    }
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        self.0.write(offset, data, fua, blocking)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.0.trim(offset, len, fua)
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.0.write_zeroes(offset, len, how)
    }
    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.0.cache(offset, len)
    }
    fn extents(&self, context: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        self.0.extents(context, offset, len, most)
    }
}

struct One(Arc<Memory>, Arc<Open>);

impl Exports for One {
    fn list(&self, _: &Client) -> Vec<ExportEntry> {
        vec![ExportEntry { name: "m".into(), description: "memory".into() }]
    }
    fn info(&self, name: &str, _: &Client) -> Result<ExportInfo> {
        let (size, read_only) = (self.0.size(), self.0.read_only());
        Ok(ExportInfo { name: name.into(), description: String::new(), size, read_only })
    }
    fn contexts(&self, _: &str, _: &Client) -> Result<Vec<String>> {
        Ok(vec!["base:allocation".into()])
    }
    fn open(&self, _: &str, _: &Client) -> Result<Arc<dyn Export>> {
        self.1.add(1);
        Ok(Arc::new(Handle(Arc::clone(&self.0), Arc::clone(&self.1))))
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    path: PathBuf,
    server: Server,
    open: Arc<Open>,
    /// A well-behaved client that must be served whatever the others do.
    good: Raw,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let open = Arc::<Open>::default();
        let exports = Arc::new(One(Arc::new(Memory::new(SIZE)), Arc::clone(&open)));
        let config = ServerConfig { budget: 4 << 20, workers: 4, ..ServerConfig::default() };
        let server = Server::start(vec![Listener::unix(&path).unwrap()], exports, config).unwrap();
        let good = Raw::open(&path, "m");
        Self { _dir: dir, path, server, open, good }
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.path)
    }

    fn open(&self) -> Raw {
        Raw::open(&self.path, "m")
    }

    /// Checks that the others are served.
    fn check(&mut self) {
        assert_eq!(self.good.ask(WRITE, 1, 5, 3, b"abc"), 0);
        assert_eq!(self.good.read(5, 3), b"abc");
        assert_eq!(self.good.ask(FLUSH, 0, 0, 0, &[]), 0);
        assert_eq!(self.good.ask(WRITE, 0, 8192, 1 << 20, &vec![1; 1 << 20]), 0);
    }

    /// Checks that the others are served, and that nothing is left once all have disconnected.
    fn finish(mut self) {
        self.check();
        self.open.wait_for(1);
        self.good.put(&request(DISC, 0, 0, 0, 0));
        self.good.expect_hangup();
        self.open.wait_for(0);
        assert!(self.server.shutdown(Duration::from_secs(30)));
    }
}

/// Sends as much as the server takes: it may hang up in between.
fn push(raw: &mut Raw, bytes: &[u8]) {
    let _ = raw.0.write_all(bytes);
}

#[test]
fn bad_magics_and_flags_are_hung_up_on() {
    let rig = Rig::new();
    let mut flags = Raw(UnixStream::connect(&rig.path).unwrap());
    flags.put(&u32::MAX.to_be_bytes());
    flags.expect_hangup();
    let mut old = rig.connect();
    push(&mut old, &[0; 64]);
    old.expect_hangup();
    let mut c = rig.open();
    push(&mut c, &[0xff; 28]);
    c.expect_hangup();
    let mut c = rig.open();
    push(&mut c, &option(7, &query("m", &[])));
    push(&mut c, &[0; 28]);
    c.expect_hangup();
    rig.finish();
}

#[test]
fn huge_lengths_are_refused_or_hung_up_on() {
    let rig = Rig::new();
    let mut c = rig.connect();
    let mut huge = option(7, &[]);
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    push(&mut c, &huge);
    c.expect_hangup();
    let mut c = rig.connect();
    let mut lying = query("m", &[]);
    lying[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    c.put(&option(7, &lying));
    assert_eq!(c.option_reply().0, (1 << 31) + 3);
    let mut many = query("m", &[]);
    let at = many.len() - 2;
    many[at..].copy_from_slice(&u16::MAX.to_be_bytes());
    c.put(&option(6, &many));
    assert_eq!(c.option_reply().0, (1 << 31) + 3);
    let mut c = rig.open();
    assert_eq!(c.ask(READ, 0, 0, u32::MAX, &[]), 22);
    push(&mut c, &request(WRITE, 0, 1, 0, u32::MAX));
    c.expect_hangup();
    rig.finish();
}

#[test]
fn ranges_that_overflow_are_refused() {
    let rig = Rig::new();
    let mut c = rig.open();
    for (command, error) in [(READ, 22), (4, 22), (5, 22), (6, 28)] {
        for offset in [u64::MAX, u64::MAX - 1, 1 << 63, SIZE as u64 + 1, SIZE as u64] {
            assert_eq!(c.ask(command, 0, offset, 4096, &[]), error, "{command} at {offset}");
        }
    }
    assert_eq!(c.ask(WRITE, 0, u64::MAX - 4095, 4096, &[0; 4096]), 28);
    assert_eq!(c.ask(6, 0, 1, u32::MAX, &[]), 28);
    for command in [7, 8, 99, u16::MAX] {
        assert_eq!(c.ask(command, 0, 0, 0, &[]), 22);
    }
    assert_eq!(c.ask(READ, 0xfffe, 0, 1, &[]), 22);
    assert_eq!(c.read(0, 1), [0]);
    drop(c);
    rig.finish();
}

#[test]
fn a_flood_of_options_ends() {
    let rig = Rig::new();
    let mut c = rig.connect();
    push(&mut c, &option(3, &[]).repeat(5000));
    c.expect_hangup();
    let mut c = rig.connect();
    push(&mut c, &option(99, &[7; 5000]).repeat(5000));
    c.expect_hangup();
    // The same from a client that reads no reply and goes away.
    let mut c = rig.connect();
    push(&mut c, &option(3, &[]).repeat(200));
    drop(c);
    rig.finish();
}

#[test]
fn half_sent_requests_hold_up_nobody() {
    let mut rig = Rig::new();
    let mut halves: Vec<Raw> = (0..12).map(|_| rig.open()).collect();
    for (i, c) in halves.iter_mut().enumerate() {
        let bytes = [request(WRITE, 0, 1, 0, 1 << 20), vec![9; 1000]].concat();
        c.put(&bytes[..[5, 27, 28, 500][i % 4]]);
    }
    rig.check();
    drop(halves);
    let mut c = rig.open();
    assert_eq!(c.read(0, 5), [0; 5], "a half WRITE is not applied");
    drop(c);
    rig.finish();
}

#[test]
fn clients_that_vanish_with_replies_in_flight_leave_nothing() {
    let rig = Rig::new();
    for i in 0..20 {
        let mut c = rig.open();
        for cookie in 0..30 {
            push(&mut c, &request(READ, 0, cookie, 0, if i % 2 == 0 { 1 << 20 } else { 100_000 }));
        }
        if i % 3 == 0 {
            c.reply();
        }
    }
    rig.finish();
}

#[test]
fn slow_readers_hold_up_nobody() {
    let mut rig = Rig::new();
    let mut slow: Vec<Raw> = (0..6).map(|_| rig.open()).collect();
    for c in &mut slow {
        // Header by header: the server stops reading at some point, the socket's buffer takes the rest.
        for cookie in 0..64 {
            c.put(&request(READ, 0, cookie, 0, 1 << 20));
        }
    }
    for _ in 0..10 {
        rig.check();
    }
    let last = &mut slow[5];
    for _ in 0..64 {
        assert_eq!(last.reply().0, 0);
        last.get(1 << 20);
    }
    drop(slow);
    rig.finish();
}

#[test]
fn bad_requests_whose_answers_are_not_read_use_bounded_memory() {
    let mut rig = Rig::new();
    let mut c = rig.open();
    c.0.set_nonblocking(true).unwrap();
    let flood = request(99, 0, 1, 0, 0).repeat(1000);
    // The server must stop reading: the client's side must fill up before a gigabyte was sent.
    let filled = (0..40_000).any(|_| {
        matches!(c.0.write(&flood), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock) && {
            rig.check();
            matches!(c.0.write(&flood), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        }
    });
    assert!(filled);
    drop(c);
    rig.finish();
}

#[test]
fn payload_on_the_wrong_command_is_taken_for_a_request_and_hung_up_on() {
    let rig = Rig::new();
    for command in [READ, FLUSH, 4, 5, 6] {
        let mut c = rig.open();
        let len = if command == FLUSH { 0 } else { 512 };
        push(&mut c, &[request(command, 0, 1, 0, len), vec![7; 512]].concat());
        c.expect_hangup();
    }
    rig.finish();
}

#[test]
fn data_after_a_farewell_is_not_looked_at() {
    let rig = Rig::new();
    let mut c = rig.open();
    push(&mut c, &[request(DISC, 0, 0, 0, 0), request(WRITE, 0, 1, 0, 3), b"bad".to_vec()].concat());
    c.expect_hangup();
    let mut c = rig.open();
    assert_eq!(c.read(0, 3), [0; 3]);
    c.0.shutdown(Shutdown::Write).unwrap();
    c.expect_hangup();
    rig.finish();
}

/// The data of an option that requests these metadata contexts of `m`.
fn contexts(queries: &[&[u8]]) -> Vec<u8> {
    let string = |text: &[u8]| [&(text.len() as u32).to_be_bytes(), text].concat();
    let all: Vec<u8> = queries.iter().flat_map(|q| string(q)).collect();
    [&string(b"m")[..], &(queries.len() as u32).to_be_bytes(), &all].concat()
}

/// The header of a request under extended headers.
fn extended(command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let mut out = 0x21e4_1c71u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(7u64.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

impl Rig {
    /// A client that has negotiated these options, each of which must be acknowledged, and entered transmission.
    fn negotiated(&self, options: &[(u32, &[u8])]) -> Raw {
        let mut c = self.connect();
        for (number, data) in options.iter().chain([&(7, &query("m", &[])[..])]) {
            c.put(&option(*number, data));
            loop {
                let (kind, _) = c.option_reply();
                assert!(kind < 1 << 31, "option {number} was refused");
                if kind == 1 {
                    break;
                }
            }
        }
        c
    }
}

/// Reads type, flags and payload of the next chunk of a structured reply.
fn chunk(c: &mut Raw) -> (u16, u16, Vec<u8>) {
    let head = c.get(20);
    assert_eq!(head[..4], 0x668e_33efu32.to_be_bytes());
    let half = |at: usize| u16::from_be_bytes(head[at..at + 2].try_into().unwrap());
    let len = u32::from_be_bytes(head[16..].try_into().unwrap());
    (half(6), half(4), c.get(len as usize))
}

/// The same under extended headers, which must return the request's offset.
fn extended_chunk(c: &mut Raw, offset: u64) -> (u16, Vec<u8>) {
    let head = c.get(32);
    assert_eq!(head[..4], 0x6e8a_278cu32.to_be_bytes());
    assert_eq!(head[16..24], offset.to_be_bytes());
    let len = u64::from_be_bytes(head[24..].try_into().unwrap());
    (u16::from_be_bytes(head[6..8].try_into().unwrap()), c.get(len as usize))
}

const STRUCTURED: (u32, &[u8]) = (8, &[]);
const EXTENDED: (u32, &[u8]) = (11, &[]);

#[test]
fn queries_of_contexts_that_lie_are_refused() {
    let rig = Rig::new();
    let mut c = rig.connect();
    c.put(&option(8, &[]));
    assert_eq!(c.option_reply().0, 1);
    let mut many = contexts(&[]);
    let at = many.len() - 4;
    many[at..].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut long = contexts(&[b"x"]);
    let at = long.len() - 5;
    long[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    for bad in [&many, &long, &vec![0xff; 100], &contexts(&[&[0xff, 0xfe]]), &contexts(&[&[0; 4]])] {
        for number in [9, 10] {
            c.put(&option(number, bad));
            assert_eq!(c.option_reply().0, (1 << 31) + 3);
        }
    }
    // More than is worth reading; then a flood of good ones.
    c.put(&option(10, &vec![1; 500_000]));
    assert_eq!(c.option_reply().0, (1 << 31) + 9);
    push(&mut c, &option(10, &contexts(&[&b"base:allocation"[..]; 600])).repeat(2000));
    c.expect_hangup();
    rig.finish();
}

#[test]
fn what_was_not_negotiated_is_refused_and_the_connection_lives() {
    let rig = Rig::new();
    let mut c = rig.open();
    for (command, flags) in [(7, 0), (7, 8), (READ, 4), (WRITE, 32), (6, 32)] {
        let payload = if command == WRITE { &[1; 512][..] } else { &[] };
        assert_eq!(c.ask(command, flags, 0, 512, payload), 22, "{command} {flags}");
    }
    drop(c);
    let mut c = rig.negotiated(&[STRUCTURED]);
    c.put(&request(7, 0, 7, 0, 512));
    let (kind, flags, error) = chunk(&mut c);
    assert_eq!((kind, flags, &error[..4]), (0x8001, 1, &22u32.to_be_bytes()[..]));
    assert!(std::str::from_utf8(&error[6..]).unwrap().contains("context"));
    c.put(&request(READ, 0, 7, u64::MAX, u32::MAX));
    assert_eq!(chunk(&mut c).0, 0x8001);
    c.put(&request(READ, 4, 7, 0, 3));
    assert_eq!(chunk(&mut c).2, [&[0; 8][..], &[0; 3]].concat());
    drop(c);
    rig.finish();
}

#[test]
fn payloads_and_lengths_under_extended_headers_that_lie() {
    let rig = Rig::new();
    let chosen = contexts(&[b"base:allocation"]);
    let mut c = rig.negotiated(&[EXTENDED, (10, &chosen)]);
    // Rejected with an error, payload discarded: the next one is served.
    let cases: [(u16, u16, u64, u64, Vec<u8>); 6] = [
        (READ, 32, 0, 100, vec![9; 100]),
        (4, 32, 0, 1, vec![9]),
        (7, 32, 0, 12, [&512u64.to_be_bytes()[..], &5u32.to_be_bytes()].concat()),
        (7, 32, 0, 11, vec![0; 11]),
        (7, 32, 0, 1 << 20, vec![0; 1 << 20]),
        (4, 0, u64::MAX, u64::MAX, vec![]),
    ];
    for (command, flags, offset, len, payload) in cases {
        c.put(&[extended(command, flags, offset, len), payload].concat());
        let (kind, error) = extended_chunk(&mut c, offset);
        assert_eq!((kind, &error[..4]), (0x8001, &22u32.to_be_bytes()[..]), "{command} {flags} {len}");
    }
    // The data of a WRITE without NBD_CMD_FLAG_PAYLOAD_LEN is data all the same: here it looks like a request.
    let data = extended(READ, 0, 0, 4096);
    c.put(&[extended(WRITE, 0, 1 << 20, data.len() as u64), data.clone()].concat());
    assert_eq!(extended_chunk(&mut c, 1 << 20).0, 0);
    c.put(&extended(READ, 0, 1 << 20, data.len() as u64));
    assert_eq!(extended_chunk(&mut c, 1 << 20).1[8..], data);
    c.put(&extended(6, 0, 1, u64::MAX));
    assert_eq!(extended_chunk(&mut c, 1).1[..4], 28u32.to_be_bytes());
    c.put(&extended(7, 0, 4096, 8192));
    let (kind, status) = extended_chunk(&mut c, 4096);
    assert_eq!((kind, &status[8..]), (6, &[8192u64.to_be_bytes(), 3u64.to_be_bytes()].concat()[..]));
    push(&mut c, &extended(READ, 32, 0, u64::MAX));
    c.expect_hangup();
    rig.finish();
}

/// Requests the status of everything again and again and reads no reply: the server stops reading, and serves the
/// others.
#[test]
fn status_that_nobody_reads_uses_bounded_memory() {
    let mut rig = Rig::new();
    // As fragmented as possible: every other sector is data.
    let mut c = rig.open();
    for at in (0..4u64 << 20).step_by(8192) {
        assert_eq!(c.ask(WRITE, 0, at, 1, &[1]), 0);
    }
    drop(c);
    let chosen = contexts(&[b"base:allocation"]);
    let mut c = rig.negotiated(&[STRUCTURED, (10, &chosen)]);
    c.0.set_nonblocking(true).unwrap();
    let flood = request(7, 0, 7, 0, 4 << 20).repeat(100);
    let filled = (0..10_000).any(|_| {
        matches!(c.0.write(&flood), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock) && {
            rig.check();
            matches!(c.0.write(&flood), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        }
    });
    assert!(filled);
    drop(c);
    rig.finish();
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let rig = Rig::new();
    for i in 0..200 {
        let mut c = Raw(UnixStream::connect(&rig.path).unwrap());
        if i % 2 == 0 {
            push(&mut c, &[0, 0, 0, 3]);
        }
        if i % 4 == 0 {
            push(&mut c, &option(7, &query("m", &[]))[..i % 20]);
        }
    }
    rig.finish();
}

#[test]
fn the_fuzzers_corpus_replays() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/fuzz/corpus/nbd_session");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        let (seed, bytes) = input.split_at(8.min(input.len()));
        let seed = seed.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        assert_eq!(replay::drive(bytes, seed), replay::drive(bytes, 0));
        assert!((0..bytes.len()).all(|at| replay::encodes_back(&bytes[at..])));
        count += 1;
    }
    assert!(count >= 17, "{count} seeds");
}
