//! The control protocol: verbs over a Unix socket in the data directory, one JSON object a line.
//!
//! ```text
//! client -> {"request": {"action": "volume-list"}}                  one a connection; some with an open file
//! server -> {"progress": {"what": …, "done": …, "total": …}}        any number
//! server -> {"reply": {…}}  or  {"error": {"kind": …, "message": …, "hint": …}}
//! ```
//! SO_PEERCRED identifies the caller before a byte is read. A client that hangs up while it waits stops its job; one
//! that does not read its progress misses some of it. Both sides wipe what they read and wrote: it may be plaintext.

use super::line::{self, Lines};
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::Caller;
use crate::service::Service;
use crate::service::api::{Progress, Reply, WireError};
use crate::service::operations::Request;
use crate::sys::peer_cred;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Size limit of an answer that a client reads, in bytes: a list of thousands of volumes fits.
const ANSWER: usize = 64 << 20;
/// Size limit of a request that a server reads, in bytes: a key policy, the longest text in one, has at most 32 KiB.
const REQUEST: usize = 1 << 20;
/// Length limit of a Unix socket's path, in bytes.
const PATH: usize = 107;
/// Maximum number of clients waiting to be accepted.
const BACKLOG: i32 = 128;
/// Pause after a failed accept: the cause usually persists.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct Call {
    request: Request,
}

#[derive(Debug, Serialize)]
struct Calling<'a> {
    request: &'a Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Progress(Progress),
    Reply(Box<Reply>),
    Error(WireError),
}

/// The work of a connection's thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Limits of the control socket.
pub struct Limits {
    /// Concurrent connections; more are told that the server is busy.
    pub connections: usize,
    /// Time for a client to send its request, from when it connected.
    pub request: Duration,
    /// Time for a client to read its answer.
    pub answer: Duration,
    /// How often the server checks that its socket is still at its path.
    pub look: Duration,
    /// Starts a thread.
    pub spawn: Box<dyn Fn(Job) -> std::io::Result<()> + Send>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            request: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            look: Duration::from_secs(1),
            spawn: Box::new(|job| std::thread::Builder::new().name("coffer-verb".into()).spawn(job).map(drop)),
        }
    }
}

/// The server side of the control socket.
pub struct ControlServer {
    /// Dropping it wakes the accepting thread. Not a connection to the path, which may be gone.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens on `path` (mode 0600), replacing a dead daemon's socket. The caller holds the data directory's lock, so
    /// no one else listens.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the path is too long for a Unix socket (107 bytes).
    pub fn start(path: &Path, service: Arc<Service>) -> Result<Self> {
        Self::start_with(path, service, Limits::default())
    }

    /// Listens with other limits.
    ///
    /// # Errors
    /// As [`ControlServer::start`].
    pub fn start_with(path: &Path, service: Arc<Service>, limits: Limits) -> Result<Self> {
        let what = || format!("listen on {}", path.display());
        if path.as_os_str().len() > PATH {
            return Err(Error::new(
                Kind::Usage,
                format!("{}: the path is longer than the limit of {PATH} bytes", what()),
            )
            .hint("choose a data directory with a shorter path"));
        }
        let bound = Bound::new(path).map_err(|e| Error::listen(what(), e))?;
        let (stop, woken) = UnixStream::pair().on(what)?;
        let active = Arc::default();
        let accepting =
            Accepting { path: path.to_owned(), bound, service, limits, active, woken, failing: Failing::default() };
        let thread = std::thread::Builder::new().name("coffer-control".into());
        let thread = thread.spawn(move || accepting.run()).on(what)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listening socket, and the identity of its file.
struct Bound {
    listener: UnixListener,
    file: (u64, u64),
    /// The directory that it is in.
    home: Option<(u64, u64)>,
}

impl Bound {
    fn new(path: &Path) -> std::io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the socket's mode: it is never accessible to others, not even for a moment.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let file = file_at(path).ok_or(ErrorKind::NotFound)?;
        Ok(Self { listener: UnixListener::from(socket), file, home: home_of(path) })
    }

    fn is_at(&self, path: &Path) -> bool {
        file_at(path) == Some(self.file)
    }

    /// Whether another directory, or none, has taken the place of the one that it is in.
    fn is_homeless(&self, path: &Path) -> bool {
        home_of(path) != self.home
    }
}

fn home_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path.parent()?).ok().map(|m| (m.dev(), m.ino()))
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Logs a failure when it begins, not each time.
#[derive(Default)]
struct Failing(Option<String>);

impl Failing {
    fn note(&mut self, what: &str, outcome: &std::io::Result<()>) {
        let now = outcome.as_ref().err().map(ToString::to_string);
        if self.0 != now
            && let Some(why) = &now
        {
            tracing::error!("{what}: {why}");
        }
        self.0 = now;
    }
}

/// The state of the accepting thread.
struct Accepting {
    path: PathBuf,
    bound: Bound,
    service: Arc<Service>,
    limits: Limits,
    active: Arc<AtomicUsize>,
    woken: UnixStream,
    failing: Failing,
}

/// A place among the counted connections.
struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Accepting {
    fn run(mut self) {
        while !self.is_stopped(self.limits.look, true) {
            self.accept();
            self.stay_at_path();
        }
        if self.bound.is_at(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Waits for a client or for the stop; returns whether it is stopping.
    fn is_stopped(&self, time: Duration, or_client: bool) -> bool {
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        if or_client {
            fds.push(PollFd::new(&self.bound.listener, PollFlags::IN));
        }
        poll(&mut fds, Some(&time)).is_ok() && !fds[0].revents().is_empty()
    }

    fn accept(&mut self) {
        let outcome = match self.bound.listener.accept() {
            Ok((connection, _)) => {
                self.admit(connection);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => return,
            Err(e) => Err(e),
        };
        self.failing.note("accept a command's connection", &outcome);
        if outcome.is_err() {
            // No descriptor is free: the client waits, and so does this thread, unless it is told to stop.
            self.is_stopped(PAUSE, false);
        }
    }

    /// Gives a connection a thread of its own, or tells it why not.
    fn admit(&self, connection: UnixStream) {
        let caller = peer_cred(&connection).on(|| "read the credentials of a client".to_owned());
        let caller = match caller.and_then(|peer| self.service.caller_of(peer.uid, "command line")) {
            Ok(caller) => caller,
            Err(err) => return refuse(&connection, &err),
        };
        let busy = |why: String| Error::new(Kind::Busy, why).hint("try again in a moment");
        let before = self.active.fetch_add(1, Ordering::AcqRel);
        let place = ConnectionSlot(self.active.clone());
        if before >= self.limits.connections {
            return refuse(&connection, &busy(format!("the server already has {before} commands in progress")));
        }
        // Shared, so that it still exists if no thread can be started.
        let connection = Arc::new(connection);
        let (service, theirs) = (self.service.clone(), connection.clone());
        let (request, answer) = (Instant::now() + self.limits.request, self.limits.answer);
        let job = Box::new(move || {
            serve_one(&service, &caller, &theirs, request, answer);
            drop(place);
        });
        if let Err(err) = (self.limits.spawn)(job) {
            tracing::error!("start a thread for a command: {err}");
            refuse(&connection, &busy("the server cannot start another thread".to_owned()).because(err));
        }
    }

    /// Rebinds the socket if its file was removed or replaced: otherwise commands would not find this server.
    fn stay_at_path(&mut self) {
        if self.bound.is_at(&self.path) {
            return;
        }
        if self.bound.is_homeless(&self.path) {
            // Another installation may be at this path now.
            let what = format!("listen on {} again", self.path.display());
            let moved = std::io::Error::other("the data directory was moved or removed: stop this server");
            return self.failing.note(&what, &Err(moved));
        }
        let (path, again) = (self.path.clone(), Bound::new(&self.path));
        match again {
            Ok(bound) => {
                let before = std::mem::replace(&mut self.bound, bound);
                while let Ok((connection, _)) = before.listener.accept() {
                    self.admit(connection);
                }
                tracing::warn!("{} was removed or replaced; the socket was created again", path.display());
                self.failing = Failing::default();
            }
            Err(e) => self.failing.note(&format!("listen on {} again", path.display()), &Err(e)),
        }
    }
}

/// Sends an error from the accepting thread, without blocking.
fn refuse(connection: &UnixStream, err: &Error) {
    if connection.set_nonblocking(true).is_ok()
        && let Ok(line) = line::encode(&Answer::Error(WireError::from(err)))
    {
        let _ = line::write(connection, &line, None);
    }
}

fn serve_one(service: &Arc<Service>, caller: &Caller, connection: &UnixStream, until: Instant, time: Duration) {
    let mut undo = None;
    let answer = match hear(connection, until) {
        Ok(Some((request, file))) => {
            let once = request.shows_once();
            let outcome = service.handle_with(caller, request, file, &mut |progress| tell(connection, progress));
            undo = outcome.as_ref().ok().and_then(|reply| once.taken_back_by(reply));
            outcome.map(|r| Answer::Reply(Box::new(r))).unwrap_or_else(|e| Answer::Error(WireError::from(&e)))
        }
        Ok(None) => return,
        Err(err) => {
            service.refuse_unread(caller, &err);
            Answer::Error(WireError::from(&err))
        }
    };
    let sent = line::encode(&answer).and_then(|line| line::write(connection, &line, Some(Instant::now() + time)));
    if let (Err(_), Some(undo)) = (sent, undo) {
        match service.handle(caller, undo, &mut |_| true) {
            Ok(_) => tracing::warn!("a client disconnected before it received its token, which was revoked"),
            Err(err) => tracing::error!(
                "a client disconnected before it received its token, which could not be revoked: {}",
                err.line()
            ),
        }
    }
}

fn hear(connection: &UnixStream, until: Instant) -> Result<Option<(Request, Option<File>)>> {
    let mut lines = Lines::new(connection, REQUEST, Some(until));
    let line = match lines.next() {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(None),
        Err(e) => {
            let why = match e.kind() {
                ErrorKind::TimedOut => "the request did not arrive in time",
                ErrorKind::InvalidData => "the request is too long",
                ErrorKind::UnexpectedEof => return Ok(None),
                _ => "read a request",
            };
            return Err(Error::new(Kind::Usage, why).because(e));
        }
    };
    // serde's own words repeat what they are about: that may be a secret in the wrong place.
    let call: Call = serde_json::from_slice(line).map_err(|e| {
        let sort = match e.classify() {
            serde_json::error::Category::Data => "an action or a field of it is unknown, missing or of another type",
            _ => "it is not valid JSON",
        };
        let what = format!("unknown or malformed request: {sort} (column {})", e.column());
        Error::new(Kind::Usage, what).hint("use the same version of coffer as the server")
    })?;
    Ok(Some((call.request, lines.take_file())))
}

/// Sends progress, unless the client has not read the previous one: a job does not wait for an observer. `false`: it
/// hung up.
fn tell(connection: &UnixStream, progress: Progress) -> bool {
    let mut fds = [PollFd::new(connection, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(0) | Err(_) => true,
        Ok(_) => {
            line::encode(&Answer::Progress(progress)).and_then(|line| line::write(connection, &line, None)).is_ok()
        }
    }
}

/// Whether a daemon listens on `path`. One that is too busy to accept a connection counts.
#[must_use]
pub fn daemon_answers(path: &Path) -> bool {
    matches!(dial(path, Instant::now()), Ok(_) | Err(Errno::AGAIN))
}

/// How long a client waits until the server takes its connection and its request.
const CONNECT: Duration = Duration::from_secs(10);
/// After how long a client says that it waits for an answer.
const SILENCE: Duration = Duration::from_secs(5);

/// Connects to a Unix socket. [`Errno::AGAIN`]: somebody listens there, and accepted no connection until then.
fn dial(path: &Path, until: Instant) -> std::result::Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            // The queue of connections is full, which poll(2) cannot wait for.
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    let connection = UnixStream::from(socket);
    connection.set_nonblocking(false).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(connection)
}

/// Connects to a control socket. `None`: no one listens there. Root's request must not reach another server through a
/// link made by the data directory's owner: the listener has to run as that owner.
fn connect(path: &Path) -> Result<Option<UnixStream>> {
    let connection = match dial(path, Instant::now() + CONNECT) {
        Ok(connection) => connection,
        Err(Errno::AGAIN) => return Err(unreachable(path, "does not accept connections")),
        Err(_) => return Ok(None),
    };
    if rustix::process::geteuid().is_root() {
        let folder = path.parent().unwrap_or(path);
        let owner = std::fs::metadata(folder).on(|| format!("stat {}", folder.display()))?.uid();
        let listens =
            peer_cred(&connection).on(|| format!("read the credentials of the server on {}", path.display()))?.uid;
        if owner != 0 && listens != owner {
            let what =
                format!("{}: the server runs as uid {listens}, but uid {owner} owns the directory", path.display());
            return Err(Error::new(Kind::AccessDenied, what)
                .hint("check whether it is a link to another server, then remove it or restart the server"));
        }
    }
    Ok(Some(connection))
}

fn unreachable(path: &Path, why: &str) -> Error {
    Error::new(Kind::Unreachable, format!("the server at {} {why}", path.display())).hint("see its log, then try again")
}

/// Whether nothing comes for a while.
fn is_silent(connection: &UnixStream) -> bool {
    let until = Instant::now() + SILENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(connection, PollFlags::IN)], Some(&time)) {
            Ok(0) => return true,
            Err(Errno::INTR) if !left.is_zero() => {}
            _ => return false,
        }
    }
}

/// Asks the daemon that listens on `path`. `None`: nobody listens there.
///
/// # Errors
/// The verb's error; [`Kind::Unreachable`] if the daemon goes away in the middle.
pub fn ask(path: &Path, request: &Request, report: &mut dyn FnMut(Progress)) -> Result<Option<Reply>> {
    ask_patiently(path, request, None, &|_| (), report)
}

/// The same; `file` is passed with the request, for an operation that needs one. `waiting` is called once, with the
/// server's process id, when the server has said nothing for five seconds. The request may be under way then: it is never
/// given up. A server that does not take the request within ten seconds is unreachable.
///
/// # Errors
/// As [`ask`].
pub fn ask_patiently(
    path: &Path,
    request: &Request,
    file: Option<BorrowedFd<'_>>,
    waiting: &dyn Fn(Option<u32>),
    report: &mut dyn FnMut(Progress),
) -> Result<Option<Reply>> {
    let Some(connection) = connect(path)? else { return Ok(None) };
    let gone = |why: &str| unreachable(path, why);
    // A request without its end is not performed.
    let until = Some(Instant::now() + CONNECT);
    let sent = line::encode(&Calling { request }).and_then(|line| match file {
        Some(file) => line::write_with(&connection, &line, file, until),
        None => line::write(&connection, &line, until),
    });
    if sent.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut) {
        return Err(gone("does not read requests"));
    }
    if sent.is_ok() && is_silent(&connection) {
        waiting(peer_cred(&connection).ok().and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0));
    }
    let mut lines = Lines::new(&connection, ANSWER, None);
    loop {
        // It may have refused without reading the request.
        let line = match (lines.next(), &sent) {
            (Ok(Some(line)), _) => line,
            (_, Err(e)) => return Err(gone("closed the connection").because(std::io::Error::from(e.kind()))),
            (Ok(None), Ok(())) => return Err(gone("closed the connection without a reply")),
            (Err(e), Ok(())) => {
                let why = match e.kind() {
                    ErrorKind::UnexpectedEof => "closed the connection in the middle of its reply",
                    ErrorKind::InvalidData => "sent a reply that is too long",
                    _ => "closed the connection",
                };
                return Err(gone(why).because(e));
            }
        };
        match serde_json::from_slice(line)
            .map_err(|e| gone("sent a reply that this version does not understand").because(e))?
        {
            Answer::Progress(progress) => report(progress),
            Answer::Reply(reply) => return Ok(Some(*reply)),
            Answer::Error(wire) => return Err(wire.into()),
        }
    }
}
