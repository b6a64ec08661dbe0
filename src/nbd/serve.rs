//! The server as a whole: listeners, connections, the one-second tick, and going down.

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

/// Socket buffer asked for in each direction, bytes: a batch of replies fits, so that the client can drain it meanwhile.
const SOCKET_BUFFER: usize = 1 << 20;

/// Silence after which a TCP client is asked whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer after which it is gone: 30 s after its last sign of life.
const KEEPALIVE_COUNT: u32 = 4;
/// How long a TCP client may leave unacknowledged or unread what was sent to it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// How a server behaves.
#[derive(Clone)]
pub struct ServerConfig {
    /// Bytes of payload buffers for all connections (48 MiB).
    pub budget: usize,
    /// Threads for requests that wait (32): as many of one connection's as its three quarters of them can share one sync.
    pub workers: usize,
    /// Longest negotiation (10 s).
    pub handshake: Duration,
    /// Age at which a request is not applied any more and its connection is closed, unless the export says otherwise (15 s,
    /// half the Linux client's default request timeout).
    pub stale_after: Duration,
    /// Connections at once; more are closed as they come (1024).
    pub max_connections: usize,
    /// Requests of one connection with the workers at once (256).
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

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket, and its path, if that is to be removed when the server ends.
    Unix(UnixListener, Option<PathBuf>),
    /// A TCP socket that somebody else bound; who may use it is for [`Exports`] to decide.
    Tcp(TcpListener),
    /// The same, where nothing is served without TLS.
    Tls(TcpListener, Arc<TlsServer>),
}

impl Listener {
    /// Binds a Unix socket that its owner alone can connect to (mode 0600 from its first moment). A socket file that
    /// nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `Busy` when somebody listens there; what the operating system reports.
    pub fn unix(path: &Path) -> Result<Self> {
        Self::unix_with_mode(path, 0o600)
    }

    /// The same with another mode, whatever the umask: who may connect. What they may do then is for [`Exports`] to decide.
    ///
    /// # Errors
    /// As [`Listener::unix`].
    pub fn unix_with_mode(path: &Path, mode: u32) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).on(what)?;
        // The mode of the socket itself becomes, less the umask, the mode of the file that bind makes.
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
        // The umask took its part away at bind; nobody listens yet, so nobody gets in too early.
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

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.fd().try_clone_to_owned()
    }

    fn set_nonblocking(&self) -> std::io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.set_nonblocking(true),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.set_nonblocking(true),
        }
    }

    /// The address of a TCP listener, with the port that it got.
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

    /// The next connection.
    fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Accepted::Unix(stream)),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.accept().map(|(s, addr)| Accepted::Tcp(s, addr)),
        }
    }
}

/// A connection whose other end is not looked at yet.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Accepted {
    /// Ready for use, and who is at the other end. What fails here is this connection's alone.
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

/// Has a TCP connection ended when its other end is gone: a client whose machine vanished sends nothing, and would keep its
/// lease for ever. An idle one is asked after [`KEEPALIVE_IDLE`], then every [`KEEPALIVE_INTERVAL`]. That is not
/// done while replies are on their way, and one that lives may leave them unread for a while: they have [`UNACKNOWLEDGED`].
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
    /// Connections that ended by a [`super::Hangup`], not by the client's farewell.
    pub hangups: u64,
    /// Requests taken.
    pub requests: u64,
    /// Requests refused by the protocol's rules.
    pub refused: u64,
    /// Requests served by the connection's own thread.
    pub inline: u64,
    /// Requests handed to the workers.
    pub queued: u64,
    /// Times a connection had to wait for the budget.
    pub stalls: u64,
    /// Requests that were put off because their volume was at its limits.
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
    /// For what clients may cause to be logged.
    pub(super) quiet: Quiet,
    spawn: Spawn,
    /// No more connections are accepted.
    closed: AtomicBool,
    /// Its sockets live on in another server: their files stay.
    handing_on: AtomicBool,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.config.ticks.now()
    }

    /// Logs what any client may cause, again and again.
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

/// A running server. Dropping it is [`Server::shutdown`] without patience.
pub struct Server {
    shared: Arc<Shared>,
    stop: Arc<Waker>,
    accepting: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves `exports` on `listeners`.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be made.
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

    /// A handle that ends single connections.
    #[must_use]
    pub fn controller(&self) -> Controller {
        Controller::new(Arc::downgrade(&self.shared.engine))
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.engine.connections()
    }

    /// Counters since the start.
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

    /// Stops accepting and reading, lets what is in flight finish and its replies go out for up to `drain`, then cuts what
    /// is left and waits as long again. Requests that were not begun are not answered: a kernel client sends them again to
    /// the next server, whereas an error reply would reach its file system. True: every connection has ended and let go of
    /// its export.
    pub fn shutdown(mut self, drain: Duration) -> bool {
        self.stop(drain)
    }

    /// As [`Server::shutdown`], but somebody else has the listening sockets too and goes on with them: files of Unix sockets
    /// stay.
    pub fn hand_on(mut self, drain: Duration) -> bool {
        self.shared.handing_on.store(true, Ordering::SeqCst);
        self.stop(drain)
    }

    fn stop(&mut self, drain: Duration) -> bool {
        let shared = &self.shared;
        if shared.closed.swap(true, Ordering::SeqCst) {
            return true;
        }
        // The sockets first: a client that is ended here and comes back at once must not meet this server again.
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

/// One listener's life.
struct Acceptor<'a> {
    shared: &'a Arc<Shared>,
    listener: &'a Listener,
    stop: &'a Waker,
    /// Given up for a moment when there are no more descriptors, so that a client can be turned away instead of left waiting.
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

    /// A connection could not be accepted. Without descriptors it is turned away by the one in reserve.
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
        // The connection stays readable: wait a little before asking again.
        let mut fds = [PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN)];
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let _ = poll(&mut fds, Some(&pause));
    }
}

/// A descriptor to spare.
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
