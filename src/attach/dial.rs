//! Connections to the server, up to the point where the kernel takes them over: the client's side of the NBD
//! negotiation (proto.md, "Newstyle negotiation"; `NBD_OPT_GO` and `NBD_OPT_INFO`).

use crate::error::{Error, IoContext, Kind, Result};
use crate::nbd::codec::{
    CLIENT_FIXED_NEWSTYLE, CLIENT_NO_ZEROES, ExportQuery, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, NBDMAGIC,
    OPTION_REPLY_MAGIC, OptionHeader, Reader, info, option, reply,
};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// Timeout for each message of the negotiation. The server allows ten seconds for all of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Socket buffer size requested, in bytes: a large request is sent at once.
const SOCKET_BUFFER: usize = 1 << 20;
/// Size limit of a reply's data, in bytes; the longest string of the protocol is 4096.
const LONGEST: usize = 64 * 1024;
/// Maximum number of replies to one option: an export has a handful of information types.
const MOST_REPLIES: usize = 64;

/// What the server reports about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// A connection that is ready for requests.
#[derive(Debug)]
pub struct Dialed {
    /// The socket, without timeouts.
    pub socket: OwnedFd,
    /// The server's information.
    pub facts: Facts,
}

/// A server that can be dialed.
pub trait Dial {
    /// Opens the connection for a slot; the server ends an older one in that slot.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if no server answers; what the server reports.
    fn dial(&mut self, slot: u32) -> Result<Dialed>;

    /// Queries the export's information, which takes no lease.
    ///
    /// # Errors
    /// As [`Dial::dial`].
    fn look(&mut self) -> Result<Facts>;
}

/// A server on a Unix socket.
pub struct Server {
    /// The path of its socket.
    pub socket: PathBuf,
    /// The export's name, including the attachment's token.
    pub export: Zeroizing<String>,
}

impl Dial for Server {
    fn dial(&mut self, slot: u32) -> Result<Dialed> {
        let mut stream = self.connect()?;
        let mark = if self.export.contains('?') { '&' } else { '?' };
        let name = Zeroizing::new(format!("{}{mark}c={slot}", *self.export));
        let facts = negotiate(&mut stream, option::GO, &name)?;
        // The kernel observes the socket's timeouts, and would end a connection that is idle that long.
        let untimed = stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None));
        untimed.on(|| "prepare a connection for the kernel".to_owned())?;
        crate::sys::socket_buffers(&stream, SOCKET_BUFFER);
        Ok(Dialed { socket: stream.into(), facts })
    }

    fn look(&mut self) -> Result<Facts> {
        let mut stream = self.connect()?;
        let facts = negotiate(&mut stream, option::INFO, &self.export)?;
        let _ = stream.write_all(&plain_option(option::ABORT));
        Ok(facts)
    }
}

impl Server {
    fn connect(&self) -> Result<UnixStream> {
        let nobody = |e| {
            Error::new(Kind::Unreachable, format!("no server is listening on {}", self.socket.display())).because(e)
        };
        let stream = UnixStream::connect(&self.socket).map_err(nobody)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(nobody)?;
        Ok(stream)
    }
}

fn plain_option(option: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(OptionHeader::SIZE);
    OptionHeader { option, len: 0 }.encode(&mut out);
    out
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Failed, format!("the server's {what} is not that of NBD"))
        .hint("check which program listens on that socket")
}

fn lost(e: std::io::Error) -> Error {
    Error::new(Kind::Unreachable, "the server did not finish the negotiation").because(e)
}

fn take<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut out = [0; N];
    stream.read_exact(&mut out).map_err(lost)?;
    Ok(out)
}

/// Negotiates from the greeting to the reply to one option.
fn negotiate(stream: &mut (impl Read + Write), asked: u32, name: &str) -> Result<Facts> {
    let greeting: [u8; 18] = take(stream)?;
    let mut r = Reader::new(&greeting);
    let known = r.u64() == Some(NBDMAGIC) && r.u64() == Some(IHAVEOPT);
    let flags = r.u16().filter(|f| known && f & FLAG_FIXED_NEWSTYLE != 0).ok_or_else(|| malformed("greeting"))?;
    let zeroes = if flags & FLAG_NO_ZEROES != 0 { CLIENT_NO_ZEROES } else { 0 };
    let mut data = Vec::new();
    ExportQuery { name: name.to_owned(), wants: Vec::new() }.encode(&mut data);
    let data = Zeroizing::new(data);
    let mut out = Zeroizing::new(Vec::with_capacity(4 + OptionHeader::SIZE + data.len()));
    out.extend_from_slice(&(CLIENT_FIXED_NEWSTYLE | zeroes).to_be_bytes());
    let len = u32::try_from(data.len()).map_err(|_| Error::new(Kind::Usage, "the export's name is too long"))?;
    OptionHeader { option: asked, len }.encode(&mut out);
    out.extend_from_slice(&data);
    stream.write_all(&out).map_err(lost)?;
    read_answer(stream, asked)
}

fn read_answer(stream: &mut impl Read, asked: u32) -> Result<Facts> {
    let mut facts = None;
    for _ in 0..MOST_REPLIES {
        let (kind, data) = read_reply(stream, asked)?;
        match kind {
            reply::ACK => return facts.ok_or_else(|| malformed("description of the export")),
            reply::INFO => {
                let mut r = Reader::new(&data);
                if r.u16() == Some(info::EXPORT) {
                    let found = r.u64().zip(r.u16()).filter(|_| r.is_empty());
                    let (size, flags) = found.ok_or_else(|| malformed("description of the export"))?;
                    facts = Some(Facts { size, flags });
                }
            }
            _ => return Err(refused(kind, &data)),
        }
    }
    Err(malformed("answer"))
}

fn read_reply(stream: &mut impl Read, asked: u32) -> Result<(u32, Vec<u8>)> {
    let head: [u8; 20] = take(stream)?;
    let mut r = Reader::new(&head);
    let ours = r.u64() == Some(OPTION_REPLY_MAGIC) && r.u32() == Some(asked);
    let (kind, len) = r.u32().zip(r.u32()).filter(|_| ours).ok_or_else(|| malformed("reply"))?;
    let len = usize::try_from(len).ok().filter(|n| *n <= LONGEST).ok_or_else(|| malformed("reply"))?;
    let mut data = vec![0; len];
    stream.read_exact(&mut data).map_err(lost)?;
    Ok((kind, data))
}

fn refused(kind: u32, words: &[u8]) -> Error {
    let shown: String = String::from_utf8_lossy(words).chars().filter(|c| !c.is_control()).collect();
    let class = match kind {
        reply::ERR_UNKNOWN => Kind::NotFound,
        reply::ERR_POLICY => Kind::AccessDenied,
        reply::ERR_SHUTDOWN => Kind::Unreachable,
        reply::ERR_UNSUP | reply::ERR_PLATFORM => Kind::Unsupported,
        _ => Kind::Failed,
    };
    let shown = if shown.is_empty() { format!("option reply {kind:#x}") } else { shown };
    Error::new(class, format!("the server refuses: {shown}"))
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
