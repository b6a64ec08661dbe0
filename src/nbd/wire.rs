//! The transport of a connection: the plain socket, or TLS over it once the client has requested that.
//!
//! A plain socket is read by one `readv(2)` and written by one `sendmsg(2)`. Under TLS the same calls transfer records:
//! the connection's thread reads, any thread sends, and one lock protects the TLS state of both directions. Its buffers
//! are bounded: [`SEALED`] bytes received, [`UNSENT`] bytes and one batch of handshake records to be sent.

use super::errno::Hangup;
use super::export::TlsPeer;
use super::tls;
use parking_lot::Mutex;
use rustix::io::Errno as Os;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use rustls::ServerConnection;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes received from the socket at once under TLS: eight of the largest records.
const SEALED: usize = 128 * 1024;
/// Maximum number of plaintext bytes encrypted before the socket takes them.
const UNSENT: usize = 128 * 1024;

/// A connection's socket, and TLS over it.
pub(super) struct Wire {
    socket: OwnedFd,
    tls: OnceLock<Tls>,
}

struct Tls {
    state: Mutex<WireState>,
    /// Encrypted bytes are waiting for the socket.
    owes: AtomicBool,
    /// A read may return data without a read of the socket. Used only by the connection's thread.
    holds: AtomicBool,
}

struct WireState {
    connection: ServerConnection,
    /// The peer, for the log.
    peer: String,
    /// Bytes received and not yet decrypted: `sealed[start..end]`.
    sealed: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self { socket, tls: OnceLock::new() }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Switches to TLS for all further bytes. The caller has sent everything in plaintext, and holds no plaintext
    /// bytes.
    pub(super) fn start_tls(&self, mut connection: ServerConnection, peer: String) {
        connection.set_buffer_limit(Some(UNSENT));
        let state = WireState { connection, peer, sealed: vec![0; SEALED], start: 0, end: 0 };
        let tls = Tls { state: Mutex::new(state), owes: AtomicBool::new(false), holds: AtomicBool::new(false) };
        let _ = self.tls.set(tls);
    }

    /// Reads what is available into the slices, in order, reading the socket at most once. 0: nothing now.
    pub(super) fn read(&self, slices: &mut [IoSliceMut<'_>]) -> Result<usize, Hangup> {
        match self.tls.get() {
            Some(tls) => tls.read(&self.socket, slices),
            None => match rustix::io::readv(&self.socket, slices) {
                Ok(0) => Err(Hangup::Lost),
                Ok(n) => Ok(n),
                Err(Os::AGAIN | Os::INTR) => Ok(0),
                Err(_) => Err(Hangup::Lost),
            },
        }
    }

    /// Whether a read may return data though the socket has none.
    pub(super) fn holds_input(&self) -> bool {
        self.tls.get().is_some_and(|tls| tls.holds.load(Ordering::Relaxed))
    }

    /// Sends what is accepted at once from `slices`; returns how many bytes. Under TLS they may not all be in the
    /// socket yet, see [`Wire::flush`].
    pub(super) fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, Os> {
        match self.tls.get() {
            Some(tls) => tls.send(&self.socket, slices),
            None => send(&self.socket, slices),
        }
    }

    /// Sends what [`Wire::send`] and TLS itself have left over; returns whether nothing is left.
    pub(super) fn flush(&self) -> Result<bool, Os> {
        let Some(tls) = self.tls.get().filter(|tls| tls.owes.load(Ordering::SeqCst)) else { return Ok(true) };
        tls.flush(&self.socket, &mut tls.state.lock())
    }

    /// Whether there is anything to flush.
    pub(super) fn owes(&self) -> bool {
        self.tls.get().is_some_and(|tls| tls.owes.load(Ordering::SeqCst))
    }

    /// Returns the client's TLS identity. Valid once a byte has been read under TLS: the handshake is complete then.
    pub(super) fn tls_peer(&self) -> Option<TlsPeer> {
        let state = self.tls.get()?.state.lock();
        let chain = state.connection.peer_certificates();
        let certificate = chain.and_then(|c| c.first()).map(|c| tls::describe(c));
        Some(TlsPeer { certificate })
    }

    /// Sends close_notify, so that the client can tell a clean end from a cut; whether it arrives does not matter.
    pub(super) fn close(&self) {
        if let Some(tls) = self.tls.get() {
            let mut state = tls.state.lock();
            state.connection.send_close_notify();
            let _ = tls.flush(&self.socket, &mut state);
        }
    }
}

impl Tls {
    fn read(&self, socket: &OwnedFd, slices: &mut [IoSliceMut<'_>]) -> Result<usize, Hangup> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let wanted: usize = slices.iter().map(|s| s.len()).sum();
        let (mut got, mut asked) = (0, false);
        loop {
            let open = state.take(slices, &mut got);
            if got == wanted {
                break;
            }
            let over = !open || {
                if state.start == state.end && !asked {
                    asked = true;
                    !state.receive(socket)?
                } else {
                    false
                }
            };
            if over {
                // Data before the end is returned first; the next read sees the end again.
                return if got > 0 { Ok(got) } else { Err(Hangup::Lost) };
            }
            if state.start == state.end {
                break;
            }
            let opened = state.open();
            // Handshake messages, or the alert with the reason.
            let flushed = self.flush(socket, state);
            opened?;
            flushed.map_err(|_| Hangup::Lost)?;
        }
        self.holds.store(got == wanted || state.start < state.end, Ordering::Relaxed);
        Ok(got)
    }

    fn send(&self, socket: &OwnedFd, slices: &[IoSlice<'_>]) -> Result<usize, Os> {
        let mut state = self.state.lock();
        if !self.flush(socket, &mut state)? {
            return Err(Os::AGAIN);
        }
        let taken = state.connection.writer().write_vectored(slices).map_err(|_| Os::PIPE)?;
        self.flush(socket, &mut state)?;
        Ok(taken)
    }

    fn flush(&self, socket: &OwnedFd, state: &mut WireState) -> Result<bool, Os> {
        while state.connection.wants_write() {
            match state.connection.write_tls(&mut Out(socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.owes.store(true, Ordering::SeqCst);
                    return Ok(false);
                }
                Err(e) => return Err(Os::from_io_error(&e).unwrap_or(Os::PIPE)),
            }
        }
        self.owes.store(false, Ordering::SeqCst);
        Ok(true)
    }
}

impl WireState {
    /// Moves decrypted bytes into `slices`, after the first `got`. Returns false at the end of the client's stream.
    fn take(&mut self, slices: &mut [IoSliceMut<'_>], got: &mut usize) -> bool {
        let mut skip = *got;
        for slice in slices {
            while skip < slice.len() {
                match self.connection.reader().read(&mut slice[skip..]) {
                    Ok(0) => return false,
                    Ok(n) => (skip, *got) = (skip + n, *got + n),
                    Err(e) => return e.kind() == ErrorKind::WouldBlock,
                }
            }
            skip -= slice.len();
        }
        true
    }

    /// Reads the socket. Returns false at its end.
    fn receive(&mut self, socket: &OwnedFd) -> Result<bool, Hangup> {
        match rustix::net::recv(socket, &mut self.sealed[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(false),
            Ok((_, n)) => {
                (self.start, self.end) = (0, n);
                Ok(true)
            }
            Err(Os::AGAIN | Os::INTR) => Ok(true),
            Err(_) => Err(Hangup::Lost),
        }
    }

    /// Decrypts some of what was received.
    fn open(&mut self) -> Result<(), Hangup> {
        let mut input = &self.sealed[self.start..self.end];
        let Ok(used) = self.connection.read_tls(&mut input) else { return Err(Hangup::Tls) };
        // Nothing after the client's close_notify is used.
        self.start = if used == 0 { self.end } else { self.start + used };
        match self.connection.process_new_packets() {
            Ok(_) => Ok(()),
            Err(err) => {
                tracing::warn!(client = self.peer, "TLS: {err}");
                Err(Hangup::Tls)
            }
        }
    }
}

fn send(socket: &OwnedFd, slices: &[IoSlice<'_>]) -> Result<usize, Os> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags)
}

/// A nonblocking socket, as a writer.
struct Out<'a>(&'a OwnedFd);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        Ok(send(self.0, slices)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
