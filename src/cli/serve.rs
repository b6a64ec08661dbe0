//! `coffer serve`: the daemon. Holds the data directory, answers verbs on its socket, serves volumes over NBD.

use super::Common;
use super::client::{data_dir, open_as, unlock};
use crate::api::control::ControlServer;
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::nbd::volumes::VolumeExports;
use crate::nbd::{Listener, Server, ServerConfig, TlsServer};
use crate::service::datadir::Wanting;
use crate::service::{GRACE, OpenAs, Role, Service};
use clap::Args;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long requests in flight may take when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Volumes to serve, by name [default: all]
    volumes: Vec<String>,
    /// Where to listen: unix:PATH, or tcp:ADDRESS:PORT [default: nbd.sock in the data directory]
    #[arg(long, value_name = "WHERE")]
    listen: Vec<String>,
    /// Serve plain TCP, without any client identity, on this machine's own addresses
    #[arg(long)]
    insecure_loopback: bool,
    /// Serve TCP by TLS alone, with the certificates in this folder: server-cert.pem, server-key.pem, ca-cert.pem
    #[arg(long, value_name = "DIR", conflicts_with = "insecure_loopback")]
    tls: Option<PathBuf>,
    /// Seconds for which a TLS client that was cut off keeps its volume
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE.as_secs())]
    lease_grace: u64,
    /// Serve, run this command with $uri set, and exit with its status
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the user asked this process to stop.
pub(super) fn interrupted() -> bool {
    STOP.load(Ordering::Acquire)
}

fn on_signals() -> Result<signal_hook::iterator::Signals> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).on(|| "catch SIGTERM".to_owned())
}

pub(super) fn run(common: &Common, args: ServeArgs) -> Result<u8> {
    log_to_stderr();
    crate::sys::raise_file_limit();
    let mut signals = on_signals()?;
    let data = data_dir(common)?;
    let env = Env::system();
    let (listeners, endpoints) = listen(&args, &data.nbd_socket())?;
    let tls = args.tls.as_deref().map(|dir| TlsServer::open(dir, env.clone()).map(Arc::new)).transpose()?;
    let patience = Duration::from_secs(10);
    let socket = data.control_socket();
    let lock = data
        .lock(&env, "serve", Wanting::Server, patience, || crate::api::control::daemon_answers(&socket))?
        .ok_or_else(|| {
            let who = data.holder().map_or_else(String::new, |h| format!(", pid {}", h.pid));
            Error::new(Kind::Busy, format!("{} is served already{who}", data.path().display()))
                .hint("stop that server first")
        })?;
    let unlock = unlock(common, &data)?;
    let opening = OpenAs { lease_grace: Duration::from_secs(args.lease_grace), ..open_as(common, Role::Daemon) };
    let service = Service::open(data, env, lock, &unlock, opening)?;
    args.volumes.iter().try_for_each(|name| service.export(name).map(drop))?;
    let listeners = listeners.into_iter().map(|w| w.open(tls.as_ref())).collect::<Result<Vec<_>>>()?;
    let endpoints = real(endpoints, &listeners);
    service.set_endpoints(endpoints.clone());
    let exports = Arc::new(VolumeExports::new(service.clone(), args.volumes.clone()));
    let server = Server::start(listeners, exports, ServerConfig::default())?;
    let control = ControlServer::start(&socket, service.clone())?;
    let code = match &args.run {
        Some(command) => captive(command, &args, &service, &endpoints)?,
        None => {
            eprintln!("coffer: serving {} on {}", service.data().path().display(), endpoints.join(", "));
            wait_for_signal(&mut signals);
            0
        }
    };
    drop(control);
    if !server.shutdown(DRAIN) {
        tracing::warn!("some requests were still in flight after {} s", DRAIN.as_secs());
    }
    service.shut_down();
    Ok(code)
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COFFER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("coffer=warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .try_init();
}

/// A listener that was asked for. Sockets are opened only when the data directory is held.
enum Wanted {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Wanted {
    fn open(self, tls: Option<&Arc<TlsServer>>) -> Result<Listener> {
        match self {
            Self::Unix(path) => Listener::unix(&path),
            Self::Tcp(addr) => {
                let socket = TcpListener::bind(addr).on(|| format!("listen on {addr}"))?;
                Ok(match tls {
                    Some(tls) => Listener::Tls(socket, tls.clone()),
                    None => Listener::Tcp(socket),
                })
            }
        }
    }
}

/// The endpoints with the ports that they got: port 0 asks for any.
fn real(asked: Vec<String>, listeners: &[Listener]) -> Vec<String> {
    let real = |(asked, listener): (String, &Listener)| listener.tcp_address().map_or(asked, |a| format!("tcp:{a}"));
    asked.into_iter().zip(listeners).map(real).collect()
}

fn listen(args: &ServeArgs, default: &std::path::Path) -> Result<(Vec<Wanted>, Vec<String>)> {
    let asked = if args.listen.is_empty() { vec![format!("unix:{}", default.display())] } else { args.listen.clone() };
    let mut wanted = Vec::new();
    for place in &asked {
        wanted.push(if let Some(path) = place.strip_prefix("unix:") {
            Wanted::Unix(std::path::absolute(path).on(|| format!("listen on {place}"))?)
        } else if let Some(addr) = place.strip_prefix("tcp:") {
            Wanted::Tcp(tcp(addr, args)?)
        } else {
            return Err(Error::new(Kind::Usage, format!("{place:?} is no place to listen"))
                .hint("say unix:PATH or tcp:127.0.0.1:PORT"));
        });
    }
    Ok((wanted, asked))
}

fn tcp(addr: &str, args: &ServeArgs) -> Result<SocketAddr> {
    let bad = || Error::new(Kind::Usage, format!("tcp:{addr} is no address")).hint("say tcp:127.0.0.1:PORT");
    let parsed: SocketAddr = addr.parse().map_err(|_| bad())?;
    if args.tls.is_some() {
        return Ok(parsed);
    }
    if !parsed.ip().is_loopback() {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: plain TCP is served on 127.0.0.1 and ::1 alone"))
            .hint("add --tls DIR (`coffer tls init` makes one), or use a Unix socket"));
    }
    if !args.insecure_loopback {
        return Err(Error::new(Kind::Usage, format!("tcp:{addr}: on plain TCP a client has no identity")).hint(
            "add --tls DIR, or --insecure-loopback if every user of this machine may read and write these volumes",
        ));
    }
    Ok(parsed)
}

fn wait_for_signal(signals: &mut signal_hook::iterator::Signals) {
    if signals.forever().next().is_some() {
        STOP.store(true, Ordering::Release);
    }
}

/// Runs a command against this server and answers its exit code, as a shell would.
fn captive(command: &str, args: &ServeArgs, service: &Arc<Service>, endpoints: &[String]) -> Result<u8> {
    let name = match args.volumes.first() {
        Some(name) => name.clone(),
        None => service.exports()?.first().map(|e| e.name.clone()).unwrap_or_default(),
    };
    let endpoint = endpoints.first().map(String::as_str).unwrap_or_default();
    let (uri, socket) = match endpoint.strip_prefix("unix:") {
        Some(path) => (format!("nbd+unix:///{name}?socket={path}"), path.to_owned()),
        None => {
            let scheme = if args.tls.is_some() { "nbds" } else { "nbd" };
            (format!("{scheme}://{}/{name}", endpoint.trim_start_matches("tcp:")), String::new())
        }
    };
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env("uri", uri)
        .env("unixsocket", socket)
        .env("COFFER_DATA", service.data().path())
        .status()
        .on(|| format!("run {command:?}"))?;
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}
