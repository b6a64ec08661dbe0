//! Lines of JSON on a socket: with a deadline, a length limit, and buffers that are wiped, for they may contain
//! plaintext. An open file can come with a line (SCM_RIGHTS, unix(7)).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use zeroize::{Zeroize, Zeroizing};

/// Initial size of a reader's buffer, in bytes: nearly every line fits.
const ROOM: usize = 32 * 1024;

/// Counts the bytes written.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Encodes a value as one line. Measures it first: a growing buffer would leave copies behind that are never wiped.
pub(crate) fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>> {
    let mut length = Count(1);
    serde_json::to_writer(&mut length, value)?;
    let mut line = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *line, value)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes all bytes before the deadline, or for as long as it takes.
pub(super) fn write(mut to: &UnixStream, mut bytes: &[u8], until: Option<Instant>) -> Result<()> {
    while !bytes.is_empty() {
        to.set_write_timeout(until.map(left).transpose()?)?;
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(timed(e)),
        }
    }
    Ok(())
}

/// Writes all bytes, and passes an open file with the first.
pub(super) fn write_with(to: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>, until: Option<Instant>) -> Result<()> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    to.set_write_timeout(until.map(left).transpose()?)?;
    let sent = loop {
        match rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => break sent,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(timed(e.into())),
        }
    };
    write(to, &bytes[sent..], until)
}

/// Returns the time left.
fn left(until: Instant) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
}

fn timed(e: Error) -> Error {
    if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { e }
}

/// Reads lines.
pub(super) struct Lines<'a> {
    from: &'a UnixStream,
    buf: Zeroizing<Vec<u8>>,
    /// Start of the bytes that are read and not yet returned.
    start: usize,
    end: usize,
    most: usize,
    until: Option<Instant>,
    file: Option<File>,
}

impl<'a> Lines<'a> {
    /// Reads lines of at most `most` bytes, all of them before `until`.
    pub(super) fn new(from: &'a UnixStream, most: usize, until: Option<Instant>) -> Self {
        let buf = Zeroizing::new(vec![0; ROOM.min(most)]);
        Self { from, buf, start: 0, end: 0, most, until, file: None }
    }

    /// Returns the next line, without its end. `None`: end of stream.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] in the middle of a line, [`ErrorKind::InvalidData`] for one that is too long,
    /// [`ErrorKind::TimedOut`].
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        let mut seen = self.start;
        loop {
            if let Some(at) = self.buf[seen..self.end].iter().position(|b| *b == b'\n').map(|at| seen + at) {
                let line = self.start..at;
                self.start = at + 1;
                return Ok(Some(&self.buf[line]));
            }
            self.make_room()?;
            seen = self.end;
            self.from.set_read_timeout(self.until.map(left).transpose()?)?;
            match self.receive() {
                Ok(0) if self.end == 0 => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.end += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(timed(e)),
            }
        }
    }

    /// Takes the file that came with what was read.
    pub(super) const fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// Reads the bytes that have arrived. Keeps one of the files passed with them; the kernel closes those without space.
    fn receive(&mut self) -> Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut self.buf[self.end..])];
        let got = rustix::net::recvmsg(self.from, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.file = files.last().map(File::from);
            }
        }
        Ok(got.bytes)
    }

    /// Moves the unread part to the front, and makes room after it.
    fn make_room(&mut self) -> Result<()> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= std::mem::take(&mut self.start);
        self.buf[self.end..].zeroize();
        if self.end < self.buf.len() {
            return Ok(());
        }
        if self.end >= self.most {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut larger = Zeroizing::new(vec![0; (2 * self.end).min(self.most)]);
        larger[..self.end].copy_from_slice(&self.buf);
        self.buf = larger;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;

    #[test]
    fn lines_come_whole_whatever_their_pieces() {
        let (a, b) = UnixStream::pair().unwrap();
        let long = vec![b'x'; 3 * ROOM];
        let sender = std::thread::spawn({
            let long = long.clone();
            move || {
                for piece in [&b"on"[..], b"e\ntwo\n\n", &long, b"\nend"] {
                    write(&a, piece, None).unwrap();
                }
            }
        });
        let mut lines = Lines::new(&b, 4 * ROOM, None);
        for want in [&b"one"[..], b"two", b"", &long] {
            assert_eq!(lines.next().unwrap().unwrap(), want);
        }
        assert_eq!(lines.next().unwrap_err().kind(), ErrorKind::UnexpectedEof, "the last has no end");
        sender.join().unwrap();
    }

    #[test]
    fn a_file_comes_with_a_line() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut sent = tempfile::tempfile().unwrap();
        write_with(&a, b"first\n", sent.as_fd(), None).unwrap();
        write(&a, b"second\n", None).unwrap();
        let mut lines = Lines::new(&b, ROOM, None);
        assert_eq!(lines.next().unwrap().unwrap(), b"first");
        let mut got = lines.take_file().unwrap();
        got.write_all(b"the same file").unwrap();
        let mut text = String::new();
        sent.rewind().unwrap();
        sent.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the same file");
        assert_eq!(lines.next().unwrap().unwrap(), b"second");
        assert!(lines.take_file().is_none());
    }

    #[test]
    fn a_line_is_not_longer_than_allowed_and_nobody_is_waited_for_too_long() {
        let (a, b) = UnixStream::pair().unwrap();
        write(&a, &[b'x'; 100], None).unwrap();
        assert_eq!(Lines::new(&b, 100, None).next().unwrap_err().kind(), ErrorKind::InvalidData);
        write(&a, b"half", None).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(Lines::new(&b, 100, Some(soon)).next().unwrap_err().kind(), ErrorKind::TimedOut);
        // No one reads: what does not fit into the socket's buffer is dropped.
        let all = vec![0; 8 << 20];
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(write(&a, &all, soon).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_value_is_one_line_of_the_length_it_was_given() {
        let line = encode(&serde_json::json!({ "a": "b\n", "c": [1, 2] })).unwrap();
        assert_eq!(&**line, b"{\"a\":\"b\\n\",\"c\":[1,2]}\n");
        assert_eq!(line.capacity(), line.len(), "it never grew");
    }
}
