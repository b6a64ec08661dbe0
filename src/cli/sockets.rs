//! The sockets that `coffer serve` listens on: opened here, passed by a service manager (socket activation,
//! sd_listen_fds(3)), or handed over by the server that this process was before (SIGUSR2).

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

/// The name in LISTEN_FDNAMES of sockets that this server opened and handed over to itself.
const HANDED_ON: &str = "coffer-handed-on";
/// The same of the socket of AWS's API, the last of them.
const HANDED_ON_API: &str = "coffer-handed-on-api";

/// A requested listener. Sockets are opened only when the data directory is locked.
enum Wanted {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A socket that was passed to this process.
enum Given {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The listeners to open.
pub(super) struct Plan {
    wanted: Vec<Wanted>,
    given: Vec<Given>,
    /// The given ones are this server's own, opened before it re-executed itself.
    handed_on: bool,
}

/// Open listeners, and their names.
pub(super) struct Open {
    pub(super) listeners: Vec<Listener>,
    pub(super) endpoints: Vec<String>,
}

impl Plan {
    /// Reads the arguments and the environment; opens nothing.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an invalid address, or one that may not be served this way.
    pub(super) fn new(args: &ServeArgs, default: &Path) -> Result<(Self, Option<TcpListener>)> {
        let mut given = given()?;
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<&str> = names.split(':').collect();
        // Its own is the last one that it handed over.
        let api = (names.last() == Some(&HANDED_ON_API) && args.api.is_some()).then(|| given.pop());
        if api.is_some() {
            names.pop();
        }
        let api = match api.flatten() {
            Some(Given::Tcp(socket)) => Some(socket),
            _ => None,
        };
        let handed_on = names.iter().all(|name| *name == HANDED_ON) && !given.is_empty();
        let asked = match (&args.listen[..], given.is_empty() || handed_on) {
            ([], true) => vec![format!("unix:{}", default.display())],
            (asked, _) => asked.to_vec(),
        };
        let wanted = asked.iter().map(|place| Wanted::parse(place, args)).collect::<Result<Vec<_>>>()?;
        if handed_on && wanted.len() != given.len() {
            return Err(Error::new(Kind::Usage, "the sockets that were handed over do not match --listen"));
        }
        for socket in &given {
            if let Given::Tcp(socket) = socket {
                may_serve(
                    socket.local_addr().on(|| "examine a socket that was passed to this process".to_owned())?,
                    args,
                )?;
            }
        }
        let tcp =
            wanted.iter().any(|w| matches!(w, Wanted::Tcp(_))) || given.iter().any(|g| matches!(g, Given::Tcp(_)));
        if args.tls.is_some() && !tcp && args.api.is_none() {
            return Err(Error::new(Kind::Usage, "--tls needs a TCP listener").hint(
                "add --listen tcp:ADDRESS:PORT or --api ADDRESS:PORT, or omit --tls: Unix sockets do not use TLS",
            ));
        }
        Ok((Self { wanted, given, handed_on }, api))
    }

    /// Opens what is not open yet.
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

/// The address of a listener; for TCP with its actual port.
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

/// The sockets that were passed to this process.
fn given() -> Result<Vec<Given>> {
    let mut fds = ListenFd::from_env();
    let what = || "take a socket that was passed to this process".to_owned();
    let mut out = Vec::new();
    for i in 0..fds.len() {
        // Asked for the wrong type, it leaves the socket in place.
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
                // The service manager removes its own socket files.
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
            return Err(Error::new(Kind::Usage, format!("--listen: {place:?} is not an address"))
                .hint("use unix:PATH or tcp:ADDRESS:PORT"));
        };
        let bad = || {
            Error::new(Kind::Usage, format!("--listen: tcp:{addr} is not an address"))
                .hint("use a numeric address and a port, as tcp:127.0.0.1:10809")
        };
        let parsed = addr.parse().map_err(|_| bad())?;
        may_serve(parsed, args)?;
        Ok(Self::Tcp(parsed))
    }

    fn open(self, tls: Option<&Arc<TlsServer>>, mode: u32) -> Result<Listener> {
        match self {
            Self::Unix(path) => Listener::unix_with_mode(&path, mode),
            Self::Tcp(addr) => Ok(tcp_listener(
                TcpListener::bind(addr).map_err(|e| Error::listen(format!("listen on tcp:{addr}"), e))?,
                tls,
            )),
        }
    }
}

/// Whether TCP may be served there: with TLS anywhere, without it only on loopback and only if asked for.
fn may_serve(addr: SocketAddr, args: &ServeArgs) -> Result<()> {
    if args.tls.is_some() {
        return Ok(());
    }
    if !addr.ip().is_loopback() {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: plain TCP is only served on 127.0.0.1 and ::1"))
            .hint("add --tls DIR with certificates from `coffer tls init`, or use a Unix socket"));
    }
    if !args.insecure_loopback {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: on plain TCP, clients have no identity")).hint(
            "add --tls DIR, or --insecure-loopback if every user of this machine may read and write these volumes",
        ));
    }
    Ok(())
}

/// This server's command line and listening sockets, which it needs to re-execute itself.
pub(super) struct Successor {
    program: PathBuf,
    args: Vec<OsString>,
    sockets: Vec<OwnedFd>,
    /// Whether the last of them is that of AWS's API.
    has_api: bool,
}

impl Successor {
    /// To be created before the listeners are passed to the server. The program is executed by its path, where an upgrade
    /// puts the new version.
    ///
    /// # Errors
    /// When a socket cannot be duplicated.
    pub(super) fn new(listeners: &[Listener], api: Option<&crate::aws::Listener>) -> Result<Self> {
        let what = || "prepare to hand over the sockets".to_owned();
        let mut sockets = listeners.iter().map(|l| l.try_clone().on(what)).collect::<Result<Vec<_>>>()?;
        sockets.extend(api.map(|l| l.try_clone().on(what)).transpose()?);
        let program = std::env::current_exe().on(what)?;
        Ok(Self { program, args: std::env::args_os().skip(1).collect(), sockets, has_api: api.is_some() })
    }

    /// Becomes the new server. New connections meanwhile wait in the sockets.
    pub(super) fn take_over(self) -> Error {
        let mut names = vec![HANDED_ON; self.sockets.len()];
        if let (true, Some(last)) = (self.has_api, names.last_mut()) {
            *last = HANDED_ON_API;
        }
        let names = names.join(":");
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", self.sockets.len().to_string()).env("LISTEN_FDNAMES", names);
        let err = crate::sys::exec_with_sockets(&mut command, &self.sockets);
        Error::io(format!("execute {}", self.program.display()), err).hint("start the server again")
    }
}
