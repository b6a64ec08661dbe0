//! The server as a whole: listeners, connections, the one-second tick, and going down.

use super::budget::Budget;
use super::conn::Conn;
use super::errno::Hangup;
use super::export::{Client, Exports, Peer};
use super::link::{Link, Waker};
use super::pool::Pool;
use super::quiet::Quiet;
use super::spin::Spinners;
use super::tls::TlsServer;
use crate::error::{Error, IoContext, Kind, Result};
use crate::sys;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// How long a client may let buffers lie while others wait who hold none.
const REST: Duration = Duration::from_secs(30);

/// A monotonic clock: time since some fixed point.
pub trait Ticks: Send + Sync {
    /// The time now.
    fn now(&self) -> Duration;
}

/// The operating system's monotonic clock, from when this was made.
#[derive(Debug, Clone, Copy)]
pub struct SystemTicks(Instant);

impl Default for SystemTicks {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Ticks for SystemTicks {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

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
                .hint("a socket's path has at most 107 bytes")
        })?;
        if let Err(err) = rustix::net::bind(&socket, &address) {
            if err != rustix::io::Errno::ADDRINUSE {
                return Err(Error::io(what(), err.into()));
            }
            let there = std::fs::symlink_metadata(path).on(what)?.file_type();
            if !std::os::unix::fs::FileTypeExt::is_socket(&there) {
                return Err(Error::new(Kind::Exists, what()).hint("what is there is no socket; say another path"));
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
    /// Connections that ended by a [`Hangup`], not by the client's farewell.
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
    pub(super) inline: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) delays: AtomicU64,
    pub(super) bytes_in: AtomicU64,
}

/// What all threads of a server share.
pub(super) struct Shared {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) config: ServerConfig,
    pub(super) budget: Arc<Budget>,
    pub(super) pool: Arc<Pool>,
    pub(super) stats: Counters,
    pub(super) spinners: Spinners,
    /// For what clients may cause to be logged.
    pub(super) quiet: Quiet,
    spawn: Spawn,
    /// No more connections are accepted.
    closed: AtomicBool,
    /// Those that there are end.
    stopping: AtomicBool,
    /// Its sockets live on in another server: their files stay.
    handing_on: AtomicBool,
    links: Mutex<HashMap<u64, Arc<Link>>>,
    /// Told when a connection ends, and when the server stops.
    changed: Condvar,
    next_id: AtomicU64,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.config.ticks.now()
    }

    /// Logs what any client may cause, again and again.
    pub(super) fn warn(&self, line: &str) {
        match self.quiet.next(self.now()) {
            Some(0) => tracing::warn!("{line}"),
            Some(others) => tracing::warn!("{line}; {others} lines like this were left out"),
            None => {}
        }
    }

    fn thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        (self.spawn)(name, Box::new(run))
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether a connection's client is gone; condemns it then, so that what it has not begun is dropped.
    pub(super) fn has_hung_up(&self, connection: u64) -> bool {
        let link = self.links.lock().get(&connection).cloned();
        link.is_none_or(|link| link.condemned().is_some() || link.look_for_hangup().is_err())
    }

    /// The tick: after a gap (a stopped process, a paused machine) everything read before may have been sent again already.
    /// And what waits for a key does not wait for ever.
    fn tick(&self, now: Duration, gap: Duration) {
        let short = self.budget.is_short();
        for link in self.links.lock().values() {
            if link.rests(now) >= REST && short {
                link.condemn(Hangup::Resting);
            }
            if let Some(traffic) = link.traffic.get() {
                traffic.hold.condemn_stale(now);
            }
            if gap > link.stale_after.get().copied().unwrap_or(self.config.stale_after) {
                link.condemn(Hangup::Stale);
            }
        }
    }

    fn tick_until_stopped(&self) {
        let mut last = self.now();
        let mut links = self.links.lock();
        while !self.stopping() {
            self.changed.wait_for(&mut links, Duration::from_secs(1));
            drop(links);
            let now = self.now();
            self.tick(now, now.saturating_sub(last));
            last = now;
            links = self.links.lock();
        }
    }
}

/// A running server. Dropping it is [`Server::shutdown`] without patience.
pub struct Server {
    shared: Arc<Shared>,
    stop: Arc<Waker>,
    accepting: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    ticker: Option<JoinHandle<()>>,
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
        let shared = Arc::new(Shared {
            exports,
            budget: Budget::new(config.budget),
            pool: Arc::new(Pool::new(config.workers, Arc::clone(&config.ticks))),
            stats: Counters::default(),
            spinners: Spinners::default(),
            quiet: Quiet::default(),
            spawn,
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            handing_on: AtomicBool::new(false),
            links: Mutex::default(),
            changed: Condvar::new(),
            next_id: AtomicU64::new(1),
            config,
        });
        let mut server = Self { shared, stop, accepting: Vec::new(), workers: Vec::new(), ticker: None };
        for _ in 0..server.shared.config.workers.max(1) {
            let shared = Arc::clone(&server.shared);
            server.workers.push(server.shared.thread("nbd-worker", move || shared.pool.work()).on(what)?);
        }
        let shared = Arc::clone(&server.shared);
        server.ticker = Some(server.shared.thread("nbd-tick", move || shared.tick_until_stopped()).on(what)?);
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
        Controller(Arc::downgrade(&self.shared))
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.links.lock().len()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = &self.shared.stats;
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Stats {
            accepted: of(&s.accepted),
            hangups: of(&s.hangups),
            requests: of(&s.requests),
            refused: of(&s.refused),
            inline: of(&s.inline),
            queued: of(&s.queued),
            stalls: of(&s.stalls),
            delays: of(&s.delays),
            bytes_in: of(&s.bytes_in),
            budget_used: self.shared.budget.used() as u64,
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
        shared.stopping.store(true, Ordering::SeqCst);
        {
            let links = shared.links.lock();
            links.values().for_each(|link| link.waker.wake());
            shared.changed.notify_all();
        }
        let mut ended = self.wait_for_connections(drain);
        if !ended {
            shared.links.lock().values().for_each(|link| link.condemn(Hangup::Shutdown));
            ended = self.wait_for_connections(drain.max(Duration::from_secs(1)));
        }
        shared.pool.stop();
        if ended {
            // With a request stuck below, its worker could not be joined; it ends with the process.
            self.workers.drain(..).chain(self.ticker.take()).for_each(|thread| drop(thread.join()));
        }
        ended
    }

    fn wait_for_connections(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut links = self.shared.links.lock();
        while !links.is_empty() {
            if self.shared.changed.wait_until(&mut links, deadline).timed_out() {
                return links.is_empty();
            }
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Ends single connections of a server, from inside [`Exports`] or elsewhere; outlives the server harmlessly.
#[derive(Clone)]
pub struct Controller(Weak<Shared>);

impl Controller {
    /// Whether the server runs, and is not stuck where all its threads meet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| {
            drop(shared.links.lock());
            !shared.stopping()
        })
    }

    /// Hangs up on a connection ([`Client::connection`]): nothing of it is applied that has not begun, and its export is
    /// dropped once the rest has ended. Does not wait. False: it has ended already.
    pub fn disconnect(&self, connection: u64) -> bool {
        let link = self.0.upgrade().and_then(|shared| shared.links.lock().get(&connection).cloned());
        link.is_some_and(|link| {
            link.condemn(Hangup::Displaced);
            true
        })
    }
}

/// How threads are made, by name.
type Spawn = Box<dyn Fn(&str, Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> + Send + Sync>;

fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
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
        self.shared.warn(&format!("NBD connection turned away: {err}{hint}"));
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

/// Takes the connection off the list when its thread ends, however it ends.
struct Listed(Arc<Shared>, u64);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.links.lock().remove(&self.1);
        self.0.changed.notify_all();
    }
}

fn admit(shared: &Arc<Shared>, socket: OwnedFd, peer: Peer, tls: Option<Arc<TlsServer>>) -> std::io::Result<()> {
    let connection = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let link = Arc::new(Link::new(connection, socket)?);
    {
        let mut links = shared.links.lock();
        if links.len() >= shared.config.max_connections {
            return Err(std::io::Error::other("too many connections"));
        }
        links.insert(connection, Arc::clone(&link));
    }
    shared.stats.accepted.fetch_add(1, Ordering::Relaxed);
    let listed = Listed(Arc::clone(shared), connection);
    let conn = Conn::new(Arc::clone(shared), link, Client { peer, connection, tls: None }, tls);
    let run = move || {
        let _listed = listed;
        conn.run();
    };
    shared.thread("nbd-conn", run).map(drop)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
