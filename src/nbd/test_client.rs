// A client that speaks NBD by hand, so that tests can also violate the protocol. Included by path; independent of
// coffer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;

pub(crate) struct Raw(pub(crate) UnixStream);

pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"IHAVEOPT".to_vec();
    out.extend(number.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

pub(crate) fn query(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut out = (name.len() as u32).to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend((wants.len() as u16).to_be_bytes());
    wants.iter().for_each(|w| out.extend(w.to_be_bytes()));
    out
}

pub(crate) fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

impl Raw {
    /// Connects and exchanges flags.
    pub(crate) fn connect(path: &Path) -> Self {
        let mut raw = Self(UnixStream::connect(path).unwrap());
        assert_eq!(raw.get(18)[..16], *b"NBDMAGICIHAVEOPT");
        raw.put(&3u32.to_be_bytes());
        raw
    }

    /// Connects and enters transmission with an export.
    pub(crate) fn open(path: &Path, name: &str) -> Self {
        let mut raw = Self::connect(path);
        raw.put(&option(7, &query(name, &[])));
        while raw.option_reply().0 != 1 {}
        raw
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn get(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.0.read_exact(&mut out).unwrap();
        out
    }

    /// Reads type and data of the next reply to an option.
    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.get(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        (word(12), self.get(word(16) as usize))
    }

    /// Reads error and cookie of the next reply to a request.
    pub(crate) fn reply(&mut self) -> (u32, u64) {
        let head = self.get(16);
        assert_eq!(head[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(head[8..].try_into().unwrap()))
    }

    /// Sends a request and returns the error of its reply.
    pub(crate) fn ask(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> u32 {
        let mut bytes = request(command, flags, 77, offset, len);
        bytes.extend(payload);
        self.put(&bytes);
        let (error, cookie) = self.reply();
        assert_eq!(cookie, 77);
        error
    }

    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        assert_eq!(self.ask(READ, 0, offset, len, &[]), 0);
        self.get(len as usize)
    }

    /// Waits for the server to hang up, discarding whatever it sent before.
    pub(crate) fn expect_hangup(&mut self) {
        let mut sink = [0; 4096];
        while matches!(self.0.read(&mut sink), Ok(n) if n > 0) {}
    }
}
