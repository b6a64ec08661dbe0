//! `coffer serve`: the server. Holds the data directory, answers requests on its control socket, serves volumes over NBD.

use super::args::Common;
use super::client::{data_dir, must_be_initialised, open_as, unlock};
use super::sockets::{Open, Plan, Successor};
use crate::api::control::ControlServer;
use crate::aws::{self, Coffer};
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::interrupt;
use crate::nbd::tls::Oldest;
use crate::nbd::uri::uri;
use crate::nbd::volumes::VolumeExports;
use crate::nbd::{Server, ServerConfig, TlsServer};
use crate::service::datadir::Wanting;
use crate::service::{AUDIT_DAYS, GRACE, OpenAs, Role, Service};
use crate::sys::ActingAs;
use clap::Args;
use sd_notify::NotifyState;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long requests in flight may take when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Volumes to serve, by name [default: all]
    volumes: Vec<String>,
    /// Where to listen: unix:PATH or tcp:ADDRESS:PORT; can be repeated [default: nbd.sock in the data directory]
    #[arg(long, value_name = "WHERE")]
    pub(super) listen: Vec<String>,
    /// Mode of Unix sockets; users other than the owner and root also need `coffer access allow uid:N`
    #[arg(long, value_name = "OCTAL", default_value = "600", value_parser = octal)]
    pub(super) socket_mode: u32,
    /// Allow plain TCP on loopback addresses, where clients have no identity
    #[arg(long)]
    pub(super) insecure_loopback: bool,
    /// Require TLS on TCP, with server-cert.pem, server-key.pem and ca-cert.pem from this directory
    #[arg(long, value_name = "DIR", conflicts_with = "insecure_loopback")]
    pub(super) tls: Option<PathBuf>,
    /// Also accept TLS 1.2, for clients such as nbd-client
    #[arg(long, requires = "tls")]
    tls12: bool,
    /// Also answer AWS's API (KMS, STS) over HTTP there, as 127.0.0.1:4566; elsewhere than on loopback --tls is needed
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) api: Option<SocketAddr>,
    /// Answer only AWS's API, over a fresh installation that is gone afterwards, with fixed credentials: for tests
    #[arg(long, conflicts_with_all = ["volumes", "listen", "insecure_loopback", "tls", "run"])]
    ephemeral: bool,
    /// Seconds for which a disconnected TLS client keeps its volume
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE.as_secs())]
    lease_grace: u64,
    /// Days for which the audit log is kept, 90 or more
    #[arg(long, value_name = "DAYS", default_value_t = AUDIT_DAYS, value_parser = clap::value_parser!(u32).range(i64::from(AUDIT_DAYS)..))]
    audit_retention_days: u32,
    /// Run this command with $uri set, then stop and exit with its status
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
}

fn octal(text: &str) -> std::result::Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "not a mode: use an octal number, as 660".to_owned())?;
    if mode > 0o777 { Err("not a mode: at most 777".to_owned()) } else { Ok(mode) }
}

/// Signals that would end the process by default, and have no meaning for a server.
const IGNORED: [i32; 7] =
    [libc::SIGHUP, libc::SIGUSR1, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGIO, libc::SIGPWR];

fn on_signals() -> Result<signal_hook::iterator::Signals> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
    interrupt::survive_file_size_limit()?;
    signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR2].into_iter().chain(IGNORED))
        .on(|| "catch SIGTERM".to_owned())
}

pub(super) fn run(common: &Common, args: ServeArgs) -> Result<u8> {
    crate::logging::start("coffer=warn");
    let mut signals = on_signals()?;
    if args.ephemeral {
        return super::ephemeral::run(&args, signals);
    }
    let data = data_dir(common)?;
    must_be_initialised(&data)?;
    let files = crate::sys::raise_file_limit();
    let max_connections = connections_within(files, OWN_FILES + if args.api.is_some() { API_FILES } else { 0 })?;
    let env = Env::system();
    let (plan, api_socket) = Plan::new(&args, &data.nbd_socket())?;
    let oldest = if args.tls12 { Oldest::Tls12 } else { Oldest::Tls13 };
    let tls = args.tls.as_deref().map(|dir| TlsServer::open(dir, env.clone(), oldest).map(Arc::new)).transpose()?;
    let owner = data.act_as_owner()?;
    let patience = Duration::from_secs(10);
    let socket = data.control_socket();
    let lock = data
        .lock(&env, "serve", Wanting::Server, patience, || crate::api::control::daemon_answers(&socket))?
        .ok_or_else(|| {
            let who = data.holder().map_or_else(String::new, |h| format!(", pid {}", h.pid));
            Error::new(Kind::Busy, format!("{} is already served{who}", data.path().display()))
                .hint("stop that server first")
        })?;
    let unlock = unlock(common, &data)?;
    let opening = OpenAs { lease_grace: Duration::from_secs(args.lease_grace), ..open_as(common, Role::Daemon) };
    let service = Service::open(data, env.clone(), lock, &unlock, opening)?;
    // It may be a passphrase, and the server runs for long.
    drop(unlock);
    service.keep_audit_for(args.audit_retention_days)?;
    args.volumes.iter().try_for_each(|name| service.export(name).map(drop))?;
    let captive_volume = match (&args.run, args.volumes.first()) {
        (None, _) => String::new(),
        (Some(_), Some(name)) => name.clone(),
        (Some(_), None) if service.exports()?.is_empty() => String::new(),
        (Some(_), None) => service.export("").map(|e| e.name).map_err(|e| {
            Error::new(Kind::Usage, format!("serve --run: {}", e.what())).hint("name the volume for $uri")
        })?,
    };
    let Open { listeners, endpoints } = if args.listen.is_empty() {
        plan.open(tls.as_ref(), args.socket_mode)?
    } else {
        crate::sys::as_started(|| plan.open(tls.as_ref(), args.socket_mode))?
    };
    let api = args.api.map(|address| api_listener(address, api_socket, tls.as_ref(), env)).transpose()?;
    let successor = Successor::new(&listeners, api.as_ref())?;
    service.set_endpoints(endpoints.clone());
    let exports = Arc::new(VolumeExports::new(service.clone(), args.volumes.clone()));
    let server = Server::start(listeners, exports, ServerConfig { max_connections, ..ServerConfig::default() })?;
    let control = ControlServer::start(&socket, service.clone())?;
    let url = api.as_ref().map(aws::Listener::url);
    let api = api.map(|listener| aws::serve(listener, Arc::new(Coffer::new(service.clone())))).transpose()?;
    let (code, asked) = match &args.run {
        Some(command) => {
            let endpoint = endpoints.first().map(String::as_str).unwrap_or_default();
            let (uri, socket) = uri(endpoint, &captive_volume, args.tls.is_some());
            let (code, cut_off) = captive(command, &service, (&uri, &socket), &mut signals)?;
            (finish_snapshots(code, cut_off, common, &service, &mut signals)?, Asked::Stop)
        }
        None => {
            let api = url.map_or_else(String::new, |url| format!("; AWS API on {url}"));
            let (data, places) = (service.data().path().display(), endpoints.join(", "));
            let serving = format!("serving {data} on {places}{api}");
            super::out::note(format!("coffer: {serving}"));
            notify(&[NotifyState::Ready, NotifyState::Status(&serving)]);
            feed_watchdog(&server);
            (0, wait_for_signal(&mut signals))
        }
    };
    end((server, api), control, &service, asked.eq(&Asked::Renew).then_some((successor, owner, &mut signals)))?;
    if args.run.is_none() {
        super::out::note(format!("coffer: stopped serving {}", service.data().path().display()));
    }
    Ok(code)
}

/// The listener of AWS's API: on the socket that was handed over, if there is one.
fn api_listener(
    address: SocketAddr,
    handed_on: Option<TcpListener>,
    tls: Option<&Arc<TlsServer>>,
    env: Env,
) -> Result<aws::Listener> {
    let config = aws::Config { address, tls: tls.cloned(), ephemeral: false, limits: aws::Limits::default(), env };
    match handed_on {
        Some(socket) => aws::Listener::from_socket(socket, config),
        None => aws::Listener::bind(config),
    }
}

/// Ends in order; with a successor, executes it, unless a signal asked to stop meanwhile.
fn end(
    (server, api): (Server, Option<aws::Server>),
    control: ControlServer,
    service: &Arc<Service>,
    successor: Option<(Successor, Option<ActingAs>, &mut signal_hook::iterator::Signals)>,
) -> Result<()> {
    drop(control);
    if !api.is_none_or(|api| api.shutdown(DRAIN)) {
        tracing::warn!("requests of the AWS API were still in flight after {} s", DRAIN.as_secs());
    }
    let ended = match &successor {
        None => {
            notify(&[NotifyState::Stopping]);
            server.shutdown(DRAIN)
        }
        Some(_) => {
            notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)]);
            server.hand_on(DRAIN)
        }
    };
    if !ended {
        tracing::warn!("requests were still in flight after {} s", DRAIN.as_secs());
    }
    service.shut_down();
    successor.map_or(Ok(()), |(next, owner, signals)| {
        // A signal to stop that came meanwhile would be lost with this program.
        if signals.pending().any(ends) {
            return Ok(());
        }
        // It must start with the credentials that this process started with.
        drop(owner);
        Err(next.take_over())
    })
}

/// Descriptors that a server needs for itself: the catalog, the audit log, sockets, what verbs open, some volumes.
const OWN_FILES: u64 = 96;
/// Descriptors of the AWS API: its connections.
const API_FILES: u64 = 512;
/// Descriptors of a connection: its socket, its thread's eventfd, its volume's file.
const FILES_PER_CONNECTION: u64 = 3;

/// How many connections may be open at once with this many descriptors, if others take `taken` of them.
fn connections_within(files: u64, taken: u64) -> Result<usize> {
    let usual = ServerConfig::default().max_connections;
    match files.saturating_sub(taken) / FILES_PER_CONNECTION {
        0 => {
            Err(Error::new(Kind::Usage, format!("serve: too few open files are allowed (RLIMIT_NOFILE is {files})"))
                .hint(format!(
                    "raise the limit to 1024 or more with `ulimit -n` or LimitNOFILE= of the service; at least {} are needed",
                    taken + FILES_PER_CONNECTION
                )))
        }
        some => Ok(usize::try_from(some).unwrap_or(usual).min(usual)),
    }
}

/// What a signal asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM, SIGINT: to stop.
    Stop,
    /// SIGUSR2: to re-execute itself and hand over its sockets.
    Renew,
}

pub(super) fn wait_for_signal(signals: &mut signal_hook::iterator::Signals) -> Asked {
    for signal in signals.forever() {
        match signal {
            libc::SIGUSR2 => return Asked::Renew,
            libc::SIGHUP => {
                tracing::warn!("SIGHUP is ignored: changed certificates are used from the next connection on")
            }
            other if IGNORED.contains(&other) => tracing::warn!("signal {other} is ignored"),
            _ => break,
        }
    }
    interrupt::ask();
    Asked::Stop
}

/// Notifies the service manager, if there is one (sd_notify(3)).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::warn!("notify the service manager: {err}");
    }
}

/// Sends keep-alive notifications to the service manager, if it wants them (WatchdogSec).
fn feed_watchdog(server: &Server) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let controller = server.controller();
    let feeding = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while controller.is_alive() {
            notify(&[NotifyState::Watchdog]);
            std::thread::sleep(limit / 3);
        }
    });
    if let Err(err) = feeding {
        tracing::error!("start the watchdog thread: {err}; the service manager will end this server");
    }
}

/// Waits for snapshots that the command began. Ctrl-C suspends them: the next server continues them.
fn finish_snapshots(
    code: u8,
    mut stopped: bool,
    common: &Common,
    service: &Arc<Service>,
    signals: &mut signal_hook::iterator::Signals,
) -> Result<u8> {
    let mut told = false;
    let mut bar = super::render::Progressing::new(common);
    let failed = service.wait_for_snapshots(&mut |progress| {
        stopped |= signals.pending().any(ends);
        if !told && !stopped {
            super::out::note(
                "coffer: waiting for snapshots to complete; after Ctrl-C the next `coffer serve` continues them",
            );
            told = true;
        }
        bar.show(&progress);
        !stopped
    })?;
    for id in &failed {
        super::out::note(format!("coffer: snapshot {id} is not completed (see `coffer snapshot show {id}`)"));
    }
    Ok(match (failed.is_empty(), code) {
        (false, 0) => {
            if stopped {
                130
            } else {
                1
            }
        }
        _ => code,
    })
}

/// Whether a signal asks the server to stop.
fn ends(signal: i32) -> bool {
    [libc::SIGINT, libc::SIGTERM].contains(&signal)
}

/// How long the command may take to end after a signal was forwarded to it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs a command against this server. Returns its exit code, as a shell would, and whether it was interrupted by SIGTERM or
/// SIGINT. Such a signal is forwarded to the command, and the exit code is 128 plus the signal's number.
///
/// If standard input is not a terminal, the command gets its own process group, so that the signal also reaches the children of the
/// shell. On a terminal it stays in this process's group, to which the terminal sends its signals.
fn captive(
    command: &str,
    service: &Arc<Service>,
    (uri, socket): (&str, &str),
    signals: &mut signal_hook::iterator::Signals,
) -> Result<(u8, bool)> {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let what = || format!("run {command:?}");
    signals.add_signal(libc::SIGCHLD).on(what)?;
    let apart = !std::io::stdin().is_terminal();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    shell.env("uri", uri).env("unixsocket", socket).env("COFFER_DATA", service.data().path());
    if apart {
        shell.process_group(0);
    }
    let mut child = shell.spawn().on(what)?;
    let signal_child = |pid: u32, signal: i32| {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(signal)) {
            let _ = if apart {
                rustix::process::kill_process_group(pid, signal)
            } else {
                rustix::process::kill_process(pid, signal)
            };
        }
    };
    let mut cut_off = None;
    let status = loop {
        if let Some(status) = child.try_wait().on(what)? {
            break status;
        }
        let heard = match cut_off {
            None => signals.wait().find(|s| ends(*s)),
            Some((_, since)) if Instant::elapsed(&since) > LAST_WORDS => {
                tracing::warn!("the command did not end within {} s and is killed", LAST_WORDS.as_secs());
                signal_child(child.id(), libc::SIGKILL);
                break child.wait().on(what)?;
            }
            Some(_) => {
                std::thread::sleep(Duration::from_millis(20));
                signals.pending().find(|s| ends(*s))
            }
        };
        if let Some(signal) = heard {
            signal_child(child.id(), signal);
            cut_off = cut_off.or(Some((signal, Instant::now())));
        }
    };
    let code = match cut_off {
        Some((signal, _)) => 128 + signal,
        None => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
    };
    Ok((u8::try_from(code).unwrap_or(1), cut_off.is_some()))
}
