//! The server as a whole: listeners, connections, and shutdown.

use super::conn::Conn;
use super::controller::Controller;
use super::export::{Client, Exports, Peer};
use super::output::{Output, Waker};
use super::quiet::Quiet;
use super::spin::Spinners;
use super::tls::TlsServer;
use crate::engine::{Engine, EngineConfig, Severed, Spawn, SystemTicks, Ticks, spawn};
use crate::error::{Error, IoContext, Kind, Result};
use crate::sys;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Socket buffer size requested in each direction, in bytes: it fits a batch of replies, so that the client can read it
/// meanwhile.
const SOCKET_BUFFER: usize = 1 << 20;

/// Idle time after which a TCP client is probed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Interval between further probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes after which an idle client counts as dead; since TCP_USER_TIMEOUT is set too, the kernel uses that
/// instead (tcp(7)).
const KEEPALIVE_COUNT: u32 = 4;
/// How long a TCP client may leave sent data unacknowledged or unread, and probes unanswered.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Configuration of a server.
#[derive(Clone)]
pub struct ServerConfig {
    /// Payload buffers of all connections, in bytes (48 MiB).
    pub budget: usize,
    /// Threads for requests that have to wait (32): three quarters of them can serve one connection, and then share one
    /// sync.
    pub workers: usize,
    /// Time limit of the negotiation (10 s).
    pub handshake: Duration,
    /// Age above which a request is no longer applied and its connection is closed, unless the export says otherwise
    /// (15 s, half the Linux client's default request timeout).
    pub stale_after: Duration,
    /// Maximum number of concurrent connections; more are closed at once (1024).
    pub max_connections: usize,
    /// Maximum number of a connection's requests handed to the workers (256).
    pub max_in_flight: usize,
    /// The clock.
    pub ticks: Arc<dyn Ticks>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            budget: 48 << 20,
            workers: 32,
            handshake: Duration::from_secs(10),
            stale_after: Duration::from_secs(15),
            max_connections: 1024,
            max_in_flight: 256,
            ticks: Arc::new(SystemTicks::default()),
        }
    }
}

/// A source of connections.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket, and its path if the server removes it at the end.
    Unix(UnixListener, Option<PathBuf>),
    /// A TCP socket bound by the caller; [`Exports`] decides who may use it.
    Tcp(TcpListener),
    /// The same, with TLS required.
    Tls(TcpListener, Arc<TlsServer>),
}

impl Listener {
    /// Binds a Unix socket that only its owner can connect to (mode 0600 from the start). Replaces a socket file that
    /// no one listens on any more.
    ///
    /// # Errors
    /// `Busy` if someone listens there; what the operating system reports.
    pub fn unix(path: &Path) -> Result<Self> {
        Self::unix_with_mode(path, 0o600)
    }

    /// Binds a Unix socket with another mode, whatever the umask: it decides who may connect. [`Exports`] decides what
    /// they may do.
    ///
    /// # Errors
    /// As [`Listener::unix`].
    pub fn unix_with_mode(path: &Path, mode: u32) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).on(what)?;
        // bind creates the file with the socket's own mode, less the umask.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).on(what)?;
        let address = SocketAddrUnix::new(path).map_err(|e| {
            Error::new(Kind::Usage, what())
                .because(std::io::Error::from(e))
                .hint("choose a shorter path: a socket's path is limited to 107 bytes")
        })?;
        if let Err(err) = rustix::net::bind(&socket, &address) {
            if err != rustix::io::Errno::ADDRINUSE {
                return Err(Error::listen(what(), err.into()));
            }
            let there = std::fs::symlink_metadata(path).on(what)?.file_type();
            if !std::os::unix::fs::FileTypeExt::is_socket(&there) {
                return Err(
                    Error::new(Kind::Exists, what()).hint("that path exists and is not a socket; choose another")
                );
            }
            match UnixStream::connect(path) {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).on(what)?;
                    rustix::net::bind(&socket, &address).on(what)?;
                }
                _ => return Err(Error::new(Kind::Busy, what()).hint("stop the server that listens there")),
            }
        }
        // The umask removed some bits at bind; no one can connect yet, since nothing listens.
        rustix::fs::chmod(path, rustix::fs::Mode::from_bits_truncate(mode)).on(what)?;
        rustix::net::listen(&socket, 128).on(what)?;
        Ok(Self::Unix(UnixListener::from(socket), Some(path.to_owned())))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.as_fd(),
        }
    }

    /// Duplicates the socket's descriptor.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.fd().try_clone_to_owned()
    }

    fn set_nonblocking(&self) -> std::io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.set_nonblocking(true),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.set_nonblocking(true),
        }
    }

    /// Returns the address of a TCP listener, with its actual port.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
        }
    }

    fn tls(&self) -> Option<Arc<TlsServer>> {
        match self {
            Self::Tls(_, tls) => Some(Arc::clone(tls)),
            Self::Unix(..) | Self::Tcp(_) => None,
        }
    }

    /// Accepts the next connection.
    fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Accepted::Unix(stream)),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.accept().map(|(s, addr)| Accepted::Tcp(s, addr)),
        }
    }
}

/// A connection whose peer has not been examined yet.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Accepted {
    /// Prepares the socket and determines its peer. A failure affects only this connection.
    fn ready(self) -> std::io::Result<(OwnedFd, Peer)> {
        match self {
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                sys::socket_buffers(&stream, SOCKET_BUFFER);
                let peer = Peer::of_unix(sys::peer_cred(&stream)?);
                Ok((stream.into(), peer))
            }
            Self::Tcp(stream, addr) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                sys::socket_buffers(&stream, SOCKET_BUFFER);
                notice_the_dead(&stream)?;
                Ok((stream.into(), Peer::Tcp { addr }))
            }
        }
    }
}

/// Makes the kernel end a TCP connection whose peer is gone: a client whose machine vanished sends nothing, and would
/// keep its lease for ever. An idle client is probed after [`KEEPALIVE_IDLE`], then every [`KEEPALIVE_INTERVAL`].
/// Probes are not sent while replies are on their way, and a live client may leave those unread for a while: up to
/// [`UNACKNOWLEDGED`].
fn notice_the_dead(stream: &impl AsFd) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED.as_millis() as u32)?;
    Ok(())
}

/// Counters since the server started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that ended with a [`super::Hangup`]: disconnected uncleanly.
    pub hangups: u64,
    /// Requests accepted.
    pub requests: u64,
    /// Requests rejected by the protocol's rules.
    pub refused: u64,
    /// Requests served by the connection's own thread.
    pub inline: u64,
    /// Requests handed to the workers.
    pub queued: u64,
    /// Times a connection had to wait for the budget.
    pub stalls: u64,
    /// Requests delayed by their volume's limits.
    pub delays: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes of the budget in use now.
    pub budget_used: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    pub(super) hangups: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) bytes_in: AtomicU64,
}

/// What all threads of a server share.
pub(super) struct Shared {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) config: ServerConfig,
    pub(super) engine: Arc<Engine>,
    pub(super) stats: Counters,
    pub(super) spinners: Spinners,
    /// Rate limit of log lines that clients can cause.
    pub(super) quiet: Quiet,
    spawn: Spawn,
    /// No more connections are accepted.
    closed: AtomicBool,
    /// Another server took over the sockets: do not remove their files.
    handing_on: AtomicBool,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.config.ticks.now()
    }

    /// Logs a line that any client can cause, at a limited rate.
    pub(super) fn warn(&self, line: &str) {
        match self.quiet.next(self.now()) {
            Some(0) => tracing::warn!("{line}"),
            Some(others) => tracing::warn!("{line}; {others} similar lines suppressed"),
            None => {}
        }
    }

    fn thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        (self.spawn)(name, Box::new(run))
    }

    pub(super) fn stopping(&self) -> bool {
        self.engine.is_stopping()
    }
}

/// A running server. Dropping it is [`Server::shutdown`] without a drain period.
pub struct Server {
    shared: Arc<Shared>,
    stop: Arc<Waker>,
    accepting: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves `exports` on `listeners`.
    ///
    /// # Errors
    /// If a thread or a descriptor cannot be created.
    pub fn start(listeners: Vec<Listener>, exports: Arc<dyn Exports>, config: ServerConfig) -> Result<Self> {
        Self::start_with(listeners, exports, config, Box::new(spawn))
    }

    fn start_with(
        listeners: Vec<Listener>,
        exports: Arc<dyn Exports>,
        config: ServerConfig,
        spawn: Spawn,
    ) -> Result<Self> {
        let what = || "start the NBD server".to_owned();
        let stop = Arc::new(Waker::new().on(what)?);
        let ServerConfig { budget, workers, stale_after, .. } = config;
        let engine_config = EngineConfig { budget, workers, stale_after, ticks: Arc::clone(&config.ticks) };
        let shared = Arc::new(Shared {
            exports,
            engine: Engine::start(engine_config, &spawn).on(what)?,
            stats: Counters::default(),
            spinners: Spinners::default(),
            quiet: Quiet::default(),
            spawn,
            closed: AtomicBool::new(false),
            handing_on: AtomicBool::new(false),
            config,
        });
        let mut server = Self { shared, stop, accepting: Vec::new() };
        server.shared.exports.served_by(server.controller());
        for listener in listeners {
            listener.set_nonblocking().on(what)?;
            let (shared, stop) = (Arc::clone(&server.shared), Arc::clone(&server.stop));
            let accepting = move || Acceptor::new(&shared, &listener, &stop).run();
            server.accepting.push(server.shared.thread("nbd-accept", accepting).on(what)?);
        }
        Ok(server)
    }

    /// Returns a handle for ending single connections.
    #[must_use]
    pub fn controller(&self) -> Controller {
        Controller::new(Arc::downgrade(&self.shared.engine))
    }

    /// Returns the number of connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.engine.connections()
    }

    /// Returns the counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = &self.shared.stats;
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let engine = self.shared.engine.stats();
        Stats {
            accepted: of(&s.accepted),
            hangups: of(&s.hangups),
            requests: of(&s.requests),
            refused: of(&s.refused),
            inline: engine.inline,
            queued: engine.queued,
            stalls: engine.stalls,
            delays: engine.delays,
            bytes_in: of(&s.bytes_in),
            budget_used: engine.budget_used,
        }
    }

    /// Stops accepting and reading, lets requests in flight finish and their replies be sent for up to `drain`, then
    /// cuts the remaining connections and waits as long again. Requests that were not begun are not answered: a kernel
    /// client resends them to the next server, whereas an error reply would reach its file system. Returns true if
    /// every connection has ended and dropped its export.
    pub fn shutdown(mut self, drain: Duration) -> bool {
        self.stop(drain)
    }

    /// Like [`Server::shutdown`], but another server took over the listening sockets: files of Unix sockets stay.
    pub fn hand_on(mut self, drain: Duration) -> bool {
        self.shared.handing_on.store(true, Ordering::SeqCst);
        self.stop(drain)
    }

    fn stop(&mut self, drain: Duration) -> bool {
        let shared = &self.shared;
        if shared.closed.swap(true, Ordering::SeqCst) {
            return true;
        }
        // The listeners first: a client that is disconnected here and reconnects at once must not reach this server
        // again.
        self.stop.wake();
        for thread in self.accepting.drain(..) {
            let _ = thread.join();
        }
        let engine = &shared.engine;
        engine.drain();
        let mut ended = engine.wait_for_connections(drain);
        if !ended {
            engine.queues().iter().for_each(|queue| queue.sever(Severed::Shutdown));
            ended = engine.wait_for_connections(drain.max(Duration::from_secs(1)));
        }
        engine.stop(ended);
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Accepts the connections of a listener.
struct Acceptor<'a> {
    shared: &'a Arc<Shared>,
    listener: &'a Listener,
    stop: &'a Waker,
    /// Closed for a moment when there are no more descriptors, so that a client can be turned away instead of left
    /// waiting.
    reserve: Option<OwnedFd>,
}

impl<'a> Acceptor<'a> {
    fn new(shared: &'a Arc<Shared>, listener: &'a Listener, stop: &'a Waker) -> Self {
        Self { shared, listener, stop, reserve: reserve() }
    }

    fn run(mut self) {
        while !self.shared.closed.load(Ordering::SeqCst) {
            let mut fds = [
                PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.listener.fd(), PollFlags::IN),
            ];
            if poll(&mut fds, None).is_err() || fds[1].revents().is_empty() {
                continue;
            }
            match self.listener.accept() {
                Ok(accepted) => {
                    let (shared, tls) = (self.shared, self.listener.tls());
                    if let Err(err) = accepted.ready().and_then(|(socket, peer)| admit(shared, socket, peer, tls)) {
                        self.shared.warn(&format!("NBD connection not served: {err}"));
                    }
                }
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(err) => self.failed(&err),
            }
        }
        if let Listener::Unix(_, Some(path)) = self.listener
            && !self.shared.handing_on.load(Ordering::SeqCst)
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Handles a failed accept. If there are no descriptors, turns the client away by means of the reserve.
    fn failed(&mut self, err: &std::io::Error) {
        let none_left = matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        let hint = if none_left { " (raise RLIMIT_NOFILE: `ulimit -n`, LimitNOFILE= of the service)" } else { "" };
        self.shared.warn(&format!("NBD connection rejected: {err}{hint}"));
        if none_left && self.reserve.take().is_some() {
            drop(self.listener.accept());
            self.reserve = reserve();
            return;
        }
        self.reserve = self.reserve.take().or_else(reserve);
        // The connection stays pending: pause before trying again.
        let mut fds = [PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN)];
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let _ = poll(&mut fds, Some(&pause));
    }
}

/// Opens a descriptor to keep in reserve.
fn reserve() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

fn admit(shared: &Arc<Shared>, socket: OwnedFd, peer: Peer, tls: Option<Arc<TlsServer>>) -> std::io::Result<()> {
    let connection = shared.engine.draw_id();
    let out = Arc::new(Output::new(connection, socket)?);
    let io = shared.engine.connect(connection, Arc::clone(&out) as _, shared.config.max_connections);
    let io = io.ok_or_else(|| std::io::Error::other("too many connections"))?;
    shared.stats.accepted.fetch_add(1, Ordering::Relaxed);
    let conn = Conn::new(Arc::clone(shared), out, io, Client { peer, connection, tls: None }, tls);
    shared.thread("nbd-conn", move || conn.run()).map(drop)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
