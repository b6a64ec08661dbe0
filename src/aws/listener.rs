//! The listener: a socket, TLS, connections, limits, and their end.

use super::answer::{self, Answer, Shape};
use super::backend::{ApiError, Backend};
use super::clean::Clean;
use super::edge::{Body, Edge, Peer};
use super::rate::Rate;
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::nbd::TlsServer;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use zeroize::{Zeroize, Zeroizing};

/// The protocols offered in TLS, preferred first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Threads that read and write sockets; operations run on others.
const IO_THREADS: usize = 2;
/// Concurrent requests of an HTTP/2 connection.
const STREAMS: u32 = 64;
/// How long an HTTP/2 client may be silent before it is probed, and how long the probe waits.
const PROBE: Duration = Duration::from_secs(20);
/// How long a client may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Largest body that is read before the request has its place among the concurrent ones, in bytes: of larger ones, which take
/// memory while they arrive, a quarter of that number may be arriving.
const SMALL: usize = 64 << 10;
/// Largest body, in bytes, that hyper's first read buffer holds with its head. For a larger one it takes a buffer that is not
/// wiped until the connection ends.
const FIRST_BUFFER: usize = 6 << 10;
/// How many times the limit of a body is read and thrown away, so that a client gets to read why it is refused.
const DISCARDED: usize = 8;

/// What clients may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body, in bytes (1 MiB).
    pub body: usize,
    /// Largest request line and headers, in bytes (32 KiB); at least 8 KiB.
    pub head: usize,
    /// Time for a TLS handshake (10 s).
    pub handshake: Duration,
    /// Time until the next request's headers are there (60 s): also how long an HTTP/1.1 connection may idle.
    pub head_time: Duration,
    /// Time for a body (15 s).
    pub body_time: Duration,
    /// Concurrent connections; more are closed at once (512).
    pub connections: usize,
    /// Concurrent requests, bodies included; more are answered with 503 (128).
    pub requests: usize,
    /// Requests of each principal (1000 a second, 2000 at once); more are answered with ThrottlingException.
    pub principal: Rate,
    /// Refused requests of each source address that the backend is told of (5 a second, 50 at once).
    pub failures: Rate,
}

const fn rate(per_second: u32, burst: u32) -> Rate {
    match (NonZeroU32::new(per_second), NonZeroU32::new(burst)) {
        (Some(per_second), Some(burst)) => Rate::new(per_second, burst),
        _ => Rate::new(NonZeroU32::MIN, NonZeroU32::MIN),
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            head: 32 << 10,
            handshake: Duration::from_secs(10),
            head_time: Duration::from_secs(60),
            body_time: Duration::from_secs(15),
            connections: 512,
            requests: 128,
            principal: rate(1000, 2000),
            failures: rate(5, 50),
        }
    }
}

/// Configuration of a listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0: any.
    pub address: SocketAddr,
    /// Certificates, if the listener uses TLS.
    pub tls: Option<Arc<TlsServer>>,
    /// Whether `POST /_coffer/reset` forgets all state. Anyone who can connect may send it.
    pub ephemeral: bool,
    /// Limits.
    pub limits: Limits,
    /// The clock that signatures are checked by, and random numbers for request ids.
    pub env: Env,
}

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: Config,
}

impl Listener {
    /// Binds the socket.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an address other than loopback without TLS; what the operating system reports.
    pub fn bind(config: Config) -> Result<Self> {
        permitted(config.address, config.tls.is_some())?;
        let what = || format!("listen on http {}", config.address);
        let socket = TcpListener::bind(config.address).map_err(|e| Error::listen(what(), e))?;
        Self::from_socket(socket, config)
    }

    /// Takes a listening socket that was passed to this process, whatever the configuration's address.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn from_socket(socket: TcpListener, config: Config) -> Result<Self> {
        let address = socket.local_addr().on(|| "examine the HTTP socket".to_owned())?;
        permitted(address, config.tls.is_some())?;
        socket.set_nonblocking(true).on(|| format!("listen on http {address}"))?;
        Ok(Self { socket, address, config })
    }

    /// Returns the address, with the actual port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL that clients use as endpoint, if they reach the server by this address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.config.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Duplicates the socket's descriptor, to hand it over.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }
}

/// Whether HTTP may be served there. Signatures authenticate requests, but hide nothing of them.
fn permitted(address: SocketAddr, tls: bool) -> Result<()> {
    if tls || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("http {address}: without TLS, only 127.0.0.1 and ::1 are served"))
        .hint("use TLS with certificates from `coffer tls init`, or a loopback address"))
}

/// A running server. Dropping it is [`Server::shutdown`] without a drain period.
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    stop: Option<oneshot::Sender<()>>,
    accepting: Option<JoinHandle<()>>,
}

/// Serves a backend on a listener, on threads of its own. Not to be called from asynchronous code.
///
/// # Errors
/// If the threads cannot be started.
pub fn serve(listener: Listener, backend: Arc<dyn Backend>) -> Result<Server> {
    let what = || "start the HTTP server".to_owned();
    let Listener { socket, config, .. } = listener;
    let Config { limits, env, tls, ephemeral, .. } = config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(limits.requests.max(1))
        .thread_name("aws")
        .enable_all()
        .build()
        .on(what)?;
    let edge = Edge::new(backend, env, [limits.principal, limits.failures], ephemeral);
    let requests = Arc::new(Semaphore::new(limits.requests));
    let arriving = Arc::new(Semaphore::new((limits.requests / 4).max(1)));
    let shared = Arc::new(Shared { edge, limits, tls, requests, arriving });
    let (stop, stopped) = oneshot::channel();
    let socket = {
        let _within = runtime.enter();
        tokio::net::TcpListener::from_std(socket).on(what)?
    };
    let accepting = runtime.spawn(accept(socket, shared, stopped));
    Ok(Server { runtime: Some(runtime), stop: Some(stop), accepting: Some(accepting) })
}

impl Server {
    /// Stops accepting, closes idle connections, and lets requests in flight finish for up to `drain`. Returns true if every
    /// connection has ended. Not to be called from asynchronous code.
    pub fn shutdown(mut self, drain: Duration) -> bool {
        self.end(drain)
    }

    fn end(&mut self, drain: Duration) -> bool {
        let (Some(runtime), Some(accepting)) = (self.runtime.take(), self.accepting.take()) else { return true };
        drop(self.stop.take());
        let ended = runtime.block_on(async { tokio::time::timeout(drain, accepting).await.is_ok() });
        // Cuts what is left. Operations that still run keep their threads until they end.
        runtime.shutdown_background();
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What all connections share.
struct Shared {
    edge: Edge,
    limits: Limits,
    tls: Option<Arc<TlsServer>>,
    requests: Arc<Semaphore>,
    /// Large bodies that may be arriving.
    arriving: Arc<Semaphore>,
}

async fn accept(socket: tokio::net::TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    tracing::debug!("HTTP connection of {address} closed: too many");
                    continue;
                };
                tokio::spawn(connection(stream, address, Arc::clone(&shared), graceful.watcher(), place));
            }
            Err(err) => {
                // No descriptors, most likely: the connection stays pending.
                tracing::warn!("HTTP connection not accepted: {err}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    graceful.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared>,
    watcher: Watcher,
    _place: OwnedSemaphorePermit,
) {
    let unread = u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX);
    if stream.set_nodelay(true).is_err() || rustix::net::sockopt::set_tcp_user_timeout(&stream, unread).is_err() {
        return;
    }
    let peer = Peer { address: address.ip().to_canonical(), secure: shared.tls.is_some() };
    let Some(tls) = &shared.tls else { return http1(stream, peer, shared, watcher).await };
    let mut config = rustls::ServerConfig::clone(&tls.config());
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    let shaken = tokio::time::timeout(shared.limits.handshake, TlsAcceptor::from(Arc::new(config)).accept(stream));
    let Ok(Ok(stream)) = shaken.await else {
        tracing::debug!("TLS handshake with {address} failed");
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(ALPN[0]) {
        http2(stream, peer, shared, watcher).await;
    } else {
        http1(stream, peer, shared, watcher).await;
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    shared: Arc<Shared>,
    watcher: Watcher,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.head_time);
    builder.max_buf_size(shared.limits.head.max(8192));
    let service = service_fn(move |request| respond(request, peer, Arc::clone(&shared)));
    if let Err(err) = watcher.watch(builder.serve_connection(TokioIo::new(Clean::new(stream)), service)).await {
        tracing::debug!("HTTP connection of {} ended: {err}", peer.address);
    }
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    shared: Arc<Shared>,
    watcher: Watcher,
) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PROBE).keep_alive_timeout(PROBE);
    builder.max_concurrent_streams(STREAMS);
    builder.max_header_list_size(u32::try_from(shared.limits.head).unwrap_or(u32::MAX));
    let service = service_fn(move |request| respond(request, peer, Arc::clone(&shared)));
    if let Err(err) = watcher.watch(builder.serve_connection(TokioIo::new(Clean::new(stream)), service)).await {
        tracing::debug!("HTTP/2 connection of {} ended: {err}", peer.address);
    }
}

async fn respond(
    request: Request<Incoming>,
    peer: Peer,
    shared: Arc<Shared>,
) -> std::result::Result<Answer, Infallible> {
    let shape = Shape::of(request.headers());
    let failed = |shared: &Shared, err: &ApiError| answer::failure(shape, None, &shared.edge.draw_id(), err);
    let busy = || ApiError::new("ServiceUnavailable", "too many requests are in progress");
    let (head, incoming) = request.into_parts();
    let limits = shared.limits;
    // A slow client has no place among the requests before its body is there.
    let is_small = length_of(&head).is_some_and(|length| length <= SMALL);
    let arriving = if is_small { None } else { Some(Arc::clone(&shared.arriving).try_acquire_owned()) };
    if matches!(arriving, Some(Err(_))) {
        return Ok(failed(&shared, &busy()));
    }
    let reading = tokio::time::timeout(limits.body_time, read(incoming, &head, limits.body));
    let body = reading.await.unwrap_or_else(|_| {
        Err(ApiError { status: 408, ..ApiError::new("RequestTimeoutException", "the body did not arrive in time") })
    });
    drop(arriving);
    let Ok(permit) = Arc::clone(&shared.requests).try_acquire_owned() else {
        return Ok(failed(&shared, &busy()));
    };
    let outgrows = head.version < Version::HTTP_2 && length_of(&head).is_none_or(|length| length > FIRST_BUFFER);
    let answering = {
        let shared = Arc::clone(&shared);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            shared.edge.answer(&head, body, peer)
        })
    };
    let mut answer = answering.await.unwrap_or_else(|_| {
        tracing::error!("a request's thread panicked");
        failed(&shared, &ApiError::internal())
    });
    if outgrows {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

/// The length of a body, as its request says.
fn length_of(head: &http::request::Parts) -> Option<usize> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `most` bytes.
async fn read(mut incoming: Incoming, head: &http::request::Parts, most: usize) -> Body {
    // Room for all of it: a buffer that grows leaves copies behind.
    let room = length_of(head).unwrap_or(16 << 10).min(most);
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    let mut discarded = 0;
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| ApiError::new("IncompleteBody", "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if discarded > 0 || body.len() + data.len() > most {
            discarded += data.len() + body.len();
            body.zeroize();
            if discarded > most.saturating_mul(DISCARDED) {
                break;
            }
            continue;
        }
        body.extend_from_slice(&data);
    }
    if discarded > 0 {
        return Err(ApiError::new("RequestEntityTooLargeException", format!("the body is larger than {most} bytes")));
    }
    Ok(body)
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
