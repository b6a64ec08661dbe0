//! The sockets that `coffer serve` listens on: opened here, given by a service manager (socket activation, sd_listen_fds(3)),
//! or handed on by the server that this process was before (SIGUSR2).

use super::serve::ServeArgs;
use crate::error::{Error, IoContext, Kind, Result};
use crate::nbd::{Listener, TlsServer};
use listenfd::ListenFd;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// What LISTEN_FDNAMES says of sockets that this server opened and handed on to itself.
const HANDED_ON: &str = "coffer-handed-on";

/// A listener that was asked for. Sockets are opened only when the data directory is held.
enum Wanted {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A socket that somebody else opened.
enum Given {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What will be listened on.
pub(super) struct Plan {
    wanted: Vec<Wanted>,
    given: Vec<Given>,
    /// The given ones are this server's own, opened before it executed itself anew.
    handed_on: bool,
}

/// Open listeners, and how they are called.
pub(super) struct Open {
    pub(super) listeners: Vec<Listener>,
    pub(super) endpoints: Vec<String>,
}

impl Plan {
    /// Reads the arguments and the environment; opens nothing.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what is no address, or one that may not be served so.
    pub(super) fn new(args: &ServeArgs, default: &Path) -> Result<Self> {
        let given = given()?;
        let handed_on =
            std::env::var("LISTEN_FDNAMES").is_ok_and(|names| names.split(':').all(|name| name == HANDED_ON));
        let handed_on = handed_on && !given.is_empty();
        let asked = match (&args.listen[..], given.is_empty() || handed_on) {
            ([], true) => vec![format!("unix:{}", default.display())],
            (asked, _) => asked.to_vec(),
        };
        let wanted = asked.iter().map(|place| Wanted::parse(place, args)).collect::<Result<Vec<_>>>()?;
        if handed_on && wanted.len() != given.len() {
            return Err(Error::new(Kind::Usage, "the sockets that were handed on are not those that --listen names"));
        }
        for socket in &given {
            if let Given::Tcp(socket) = socket {
                may_serve(socket.local_addr().on(|| "look at the socket that was given".to_owned())?, args)?;
            }
        }
        let tcp =
            wanted.iter().any(|w| matches!(w, Wanted::Tcp(_))) || given.iter().any(|g| matches!(g, Given::Tcp(_)));
        if args.tls.is_some() && !tcp {
            return Err(Error::new(Kind::Usage, "--tls is for TCP, and no TCP address is listened on")
                .hint("add --listen tcp:ADDRESS:PORT, or leave --tls out: Unix sockets are served without TLS"));
        }
        Ok(Self { wanted, given, handed_on })
    }

    /// Opens what is not open.
    ///
    /// # Errors
    /// As [`Listener::unix`]; what the operating system reports.
    pub(super) fn open(self, tls: Option<&Arc<TlsServer>>, mode: u32) -> Result<Open> {
        let handed_on = self.handed_on;
        let given = self.given.into_iter().map(|socket| socket.into_listener(handed_on, tls));
        let listeners: Vec<Listener> = if handed_on {
            given.collect()
        } else {
            given.map(Ok).chain(self.wanted.into_iter().map(|w| w.open(tls, mode))).collect::<Result<_>>()?
        };
        let endpoints = listeners.iter().map(endpoint).collect();
        Ok(Open { listeners, endpoints })
    }
}

/// How clients find a listener; of TCP with the port that it got.
fn endpoint(listener: &Listener) -> String {
    match listener {
        Listener::Unix(socket, path) => {
            let path = path.clone().or_else(|| socket.local_addr().ok()?.as_pathname().map(Path::to_owned));
            format!("unix:{}", path.unwrap_or_default().display())
        }
        Listener::Tcp(_) | Listener::Tls(..) => {
            listener.tcp_address().map_or_else(String::new, |address| format!("tcp:{address}"))
        }
    }
}

/// The sockets that this process was started with.
fn given() -> Result<Vec<Given>> {
    let mut fds = ListenFd::from_env();
    let what = || "take a socket that was given to this process".to_owned();
    let mut out = Vec::new();
    for i in 0..fds.len() {
        // Asked of the wrong kind it gives the socket back.
        if let Ok(Some(socket)) = fds.take_unix_listener(i) {
            out.push(Given::Unix(socket));
        } else if let Some(socket) = fds.take_tcp_listener(i).on(what)? {
            out.push(Given::Tcp(socket));
        }
    }
    Ok(out)
}

impl Given {
    fn into_listener(self, handed_on: bool, tls: Option<&Arc<TlsServer>>) -> Listener {
        match self {
            Self::Unix(socket) => {
                // Another's socket file is not this server's to remove.
                let own = handed_on.then(|| socket.local_addr().ok()?.as_pathname().map(Path::to_owned)).flatten();
                Listener::Unix(socket, own)
            }
            Self::Tcp(socket) => tcp_listener(socket, tls),
        }
    }
}

fn tcp_listener(socket: TcpListener, tls: Option<&Arc<TlsServer>>) -> Listener {
    match tls {
        Some(tls) => Listener::Tls(socket, tls.clone()),
        None => Listener::Tcp(socket),
    }
}

impl Wanted {
    fn parse(place: &str, args: &ServeArgs) -> Result<Self> {
        if let Some(path) = place.strip_prefix("unix:") {
            return Ok(Self::Unix(std::path::absolute(path).on(|| format!("listen on {place}"))?));
        }
        let Some(addr) = place.strip_prefix("tcp:") else {
            return Err(Error::new(Kind::Usage, format!("{place:?} is no place to listen"))
                .hint("say unix:PATH or tcp:127.0.0.1:PORT"));
        };
        let bad = || Error::new(Kind::Usage, format!("tcp:{addr} is no address")).hint("say tcp:127.0.0.1:PORT");
        let parsed = addr.parse().map_err(|_| bad())?;
        may_serve(parsed, args)?;
        Ok(Self::Tcp(parsed))
    }

    fn open(self, tls: Option<&Arc<TlsServer>>, mode: u32) -> Result<Listener> {
        match self {
            Self::Unix(path) => Listener::unix_with_mode(&path, mode),
            Self::Tcp(addr) => Ok(tcp_listener(TcpListener::bind(addr).on(|| format!("listen on {addr}"))?, tls)),
        }
    }
}

/// Whether TCP may be served there: by TLS anywhere, else on loopback alone and only if that was spelled out.
fn may_serve(addr: SocketAddr, args: &ServeArgs) -> Result<()> {
    if args.tls.is_some() {
        return Ok(());
    }
    if !addr.ip().is_loopback() {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: plain TCP is served on 127.0.0.1 and ::1 alone"))
            .hint("add --tls DIR (`coffer tls init` makes one), or use a Unix socket"));
    }
    if !args.insecure_loopback {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: on plain TCP a client has no identity")).hint(
            "add --tls DIR, or --insecure-loopback if every user of this machine may read and write these volumes",
        ));
    }
    Ok(())
}

/// This server as it was started, and its listening sockets: what it takes to execute itself anew.
pub(super) struct Successor {
    program: PathBuf,
    args: Vec<OsString>,
    sockets: Vec<OwnedFd>,
}

impl Successor {
    /// To be made before the listeners go to the server. The program is the file at this path by then: an upgrade puts the
    /// new one there.
    ///
    /// # Errors
    /// When a socket cannot be duplicated.
    pub(super) fn new(listeners: &[Listener]) -> Result<Self> {
        let what = || "prepare to hand sockets on".to_owned();
        let sockets = listeners.iter().map(|l| l.try_clone().on(what)).collect::<Result<_>>()?;
        let program = std::env::current_exe().on(what)?;
        Ok(Self { program, args: std::env::args_os().skip(1).collect(), sockets })
    }

    /// Becomes the new server. Connections that clients make meanwhile wait in the sockets.
    pub(super) fn take_over(self) -> Error {
        let names = vec![HANDED_ON; self.sockets.len()].join(":");
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", self.sockets.len().to_string()).env("LISTEN_FDNAMES", names);
        let err = crate::sys::exec_with_sockets(&mut command, &self.sockets);
        Error::io(format!("execute {}", self.program.display()), err).hint("start the server again")
    }
}
