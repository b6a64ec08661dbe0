use super::*;
use crate::nbd::codec::{greeting, option_reply};
use proptest::prelude::*;
use std::io::Cursor;

/// A server with fixed messages, which records what the client sends.
struct Script {
    words: Cursor<Vec<u8>>,
    heard: Vec<u8>,
}

impl Script {
    fn new(words: Vec<u8>) -> Self {
        Self { words: Cursor::new(words), heard: Vec::new() }
    }
}

impl Read for Script {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.words.read(out)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.heard.extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// Greeting and replies to GO: type and data of each.
fn words(replies: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = greeting(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    replies.iter().for_each(|(kind, data)| option_reply(&mut out, option::GO, *kind, &[data]));
    out
}

fn go(words: Vec<u8>) -> Result<Facts> {
    negotiate(&mut Script::new(words), option::GO, "web?t=x&c=0")
}

#[test]
fn an_export_is_asked_for_by_name_and_its_facts_are_read() {
    let block_size = [&info::BLOCK_SIZE.to_be_bytes()[..], &[0; 12]].concat();
    let answer = words(&[(reply::INFO, &export(5 << 30, 0x56d)), (reply::INFO, &block_size), (reply::ACK, &[])]);
    let mut script = Script::new(answer);
    let facts = negotiate(&mut script, option::GO, "web?t=x&c=3").unwrap();
    assert_eq!(facts, Facts { size: 5 << 30, flags: 0x56d });
    let mut r = Reader::new(&script.heard);
    assert_eq!(r.u32(), Some(3), "fixed newstyle, no zeroes");
    assert_eq!((r.u64(), r.u32(), r.u32()), (Some(IHAVEOPT), Some(option::GO), Some(17)));
    let query = ExportQuery::decode(r.bytes(17).unwrap()).unwrap();
    assert_eq!((query.name.as_str(), r.is_empty()), ("web?t=x&c=3", true));
}

#[test]
fn refusals_keep_their_kind_and_the_servers_words() {
    for (kind, expected) in [
        (reply::ERR_UNKNOWN, Kind::NotFound),
        (reply::ERR_POLICY, Kind::AccessDenied),
        (reply::ERR_SHUTDOWN, Kind::Unreachable),
        (reply::ERR_TOO_BIG, Kind::Failed),
        (99, Kind::Failed),
    ] {
        let err = go(words(&[(kind, b"held by\x1b[31m 7")])).unwrap_err();
        assert_eq!((err.kind(), err.what()), (expected, "the server refuses: held by[31m 7"));
    }
}

#[test]
fn what_is_no_nbd_is_said_to_be_none() {
    let good = words(&[(reply::INFO, &export(1, 1)), (reply::ACK, &[])]);
    for cut in 0..good.len() {
        assert_eq!(go(good[..cut].to_vec()).unwrap_err().kind(), Kind::Unreachable, "cut at {cut}");
    }
    let mut old = good.clone();
    old[17] = 0;
    let mut magic = good.clone();
    magic[0] ^= 1;
    let mut other_option = good;
    other_option[18 + 11] ^= 1;
    let short = words(&[(reply::INFO, &export(1, 1)[..9]), (reply::ACK, &[])]);
    let silent = words(&[(reply::ACK, &[])]);
    let mut long = words(&[]);
    long.extend([&OPTION_REPLY_MAGIC.to_be_bytes()[..], &[0, 0, 0, 7, 0, 0, 0, 3, 255, 0, 0, 0]].concat());
    let endless = words(&vec![(reply::INFO, &b"\0\x01x"[..]); 100]);
    for bad in [old, magic, other_option, short, silent, long, endless] {
        let err = go(bad).unwrap_err();
        assert!(err.kind() == Kind::Failed && err.line().contains("not that of NBD"), "{}", err.line());
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server { socket: dir.path().join("s"), export: Zeroizing::new("x".to_owned()) };
    assert_eq!(server.dial(0).unwrap_err().kind(), Kind::Unreachable);
    drop(std::os::unix::net::UnixListener::bind(&server.socket).unwrap());
    assert_eq!(server.look().unwrap_err().kind(), Kind::Unreachable, "a dead server leaves its socket");
}

proptest! {
    #[test]
    fn no_words_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), greet in any::<bool>()) {
        let mut out = if greet { words(&[]) } else { Vec::new() };
        out.extend(bytes);
        let _ = go(out);
    }
}
