//! Sends requests to the server if one is running, otherwise opens the data directory in this process. The replies are the
//! same.

use super::args::Common;
use super::render;
use crate::api::control;
use crate::env::Env;
use crate::error::{Error, IoContext, Kind, Result};
use crate::interrupt;
use crate::kms::{Passphrase, RootUnlock};
use crate::service::api::{Progress, Reply};
use crate::service::datadir::{DataDir, Wanting};
use crate::service::operations::Request;
use crate::service::operations::{Answer, Operation};
use crate::service::{GRACE, OpenAs, Role, Service};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a command waits for a data directory that is held by a process without a socket.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The data directory that the options name.
pub(super) fn data_dir(common: &Common) -> Result<DataDir> {
    let named = || std::env::var_os("COFFER_DATA").filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = match common.data.clone().or_else(named) {
        Some(path) => path,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/coffer"),
        None => home("XDG_DATA_HOME", ".local/share")?.join("coffer"),
    };
    DataDir::at(&path)
}

/// `$variable`, or the folder of that name in the home directory.
pub(super) fn home(variable: &str, folder: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| set("HOME").map(|h| h.join(folder))).ok_or_else(|| {
        Error::new(Kind::Usage, "neither HOME nor XDG_DATA_HOME is set").hint("name the data directory with --data")
    })
}

/// The folder for what must not be in the data directory: key files.
pub(super) fn config_folder() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/etc/coffer"));
    }
    Ok(home("XDG_CONFIG_HOME", ".config")?.join("coffer"))
}

/// Performs an operation.
pub(super) fn call<O: Operation>(common: &Common, operation: O) -> Result<O::Answer> {
    let other = || {
        Error::new(Kind::Failed, "the server sent an unexpected reply")
            .hint("use the same version of coffer as the server")
    };
    O::Answer::of_reply(ask(common, operation.into())?).ok_or_else(other)
}

/// An open file that goes with a request.
#[derive(Clone, Copy)]
pub(super) struct Handed<'a> {
    pub(super) file: &'a File,
    /// Whether the request can begin again with it, as with a file and not with a pipe.
    pub(super) can_restart: bool,
}

/// Performs a request.
pub(super) fn ask(common: &Common, request: Request) -> Result<Reply> {
    ask_with(common, request, None)
}

/// Performs a request that an open file may go with.
pub(super) fn ask_with(common: &Common, request: Request, handed: Option<Handed<'_>>) -> Result<Reply> {
    let data = data_dir(common)?;
    let socket = data.control_socket();
    let mut bar = render::Progressing::new(common);
    if let Some(reply) = ask_once(&socket, &request, handed, &mut bar)? {
        return Ok(reply);
    }
    must_be_initialised(&data)?;
    interrupt::survive_file_size_limit()?;
    match call_here(common, &data, &request, handed, &mut bar)? {
        Some(reply) => Ok(reply),
        None => ask_daemon(&socket, &request, handed, &mut bar),
    }
}

/// Sends a request to the server. `None`: no server is running.
pub(super) fn ask_once(
    socket: &std::path::Path,
    request: &Request,
    handed: Option<Handed<'_>>,
    bar: &mut render::Progressing,
) -> Result<Option<Reply>> {
    let waits = bar.tells_of_waiting();
    let waiting = |pid: Option<u32>| {
        if waits {
            let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            super::out::note(format!("coffer: waiting for the server{who} to answer"));
        }
    };
    let file = handed.map(|h| h.file.as_fd());
    control::ask_patiently(socket, request, file, &waiting, &mut |p| bar.show(&p))
}

/// Whether this is an installation that has lost its root files.
pub(super) fn has_lost_its_root_files(data: &DataDir) -> bool {
    !data.is_initialised() && ["catalog.db", "audit"].iter().any(|name| data.path().join(name).exists())
}

/// Refuses a directory in which `coffer init` was never run, before anything is created there.
pub(super) fn must_be_initialised(data: &DataDir) -> Result<()> {
    if data.is_initialised() {
        return Ok(());
    }
    match std::fs::metadata(data.path().join("root.json")) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(e).on(|| format!("read {}", data.path().display()))
        }
        _ if has_lost_its_root_files(data) => {
            let what = format!(
                "{}: root.json and its copy root.b.json are missing, but the catalog exists",
                data.path().display()
            );
            Err(Error::new(Kind::NotFound, what)
                .hint("restore root.json from a backup; without it nothing here can be opened"))
        }
        _ => Err(Error::new(Kind::NotFound, format!("{} is not a coffer data directory", data.path().display()))
            .hint("run `coffer init`, or name the directory with --data")),
    }
}

/// Performs a request in this process. `None`: a server is running or starting, and should do it.
fn call_here(
    common: &Common,
    data: &DataDir,
    request: &Request,
    handed: Option<Handed<'_>>,
    bar: &mut render::Progressing,
) -> Result<Option<Reply>> {
    let (env, socket) = (Env::system(), data.control_socket());
    let _owner = data.act_as_owner()?;
    let answers = || control::daemon_answers(&socket);
    let Some(lock) = data.lock(&env, request.name(), Wanting::Command, PATIENCE, answers)? else {
        return Ok(None);
    };
    let unlock = unlock(common, data)?;
    let service = Service::open(data.clone(), env, lock, &unlock, open_as(common, Role::Command))?;
    let caller = service.caller_of(rustix::process::getuid().as_raw(), "command line")?;
    if handed.is_some()
        || matches!(
            request,
            Request::CreateSnapshot(_)
                | Request::CreateSnapshots(_)
                | Request::CopySnapshot(_)
                | Request::WaitSnapshot(_)
        )
    {
        interrupt::stop_and_clean_up()?;
    }
    let file = handed.map(|h| h.file.try_clone()).transpose().on(|| "duplicate a file descriptor".to_owned())?;
    let mut gave_way = false;
    let outcome = service.handle_with(&caller, request.clone(), file, &mut |p: Progress| {
        bar.show(&p);
        gave_way |= handed.is_none_or(|h| h.can_restart) && service.is_asked_for();
        !(gave_way || interrupt::is_asked_for())
    });
    service.shut_down();
    match outcome {
        // What was done so far was undone or is continued there; the server performs the verb from the start.
        Err(err) if gave_way && err.kind() == Kind::Interrupted => Ok(None),
        other => other.map(Some),
    }
}

/// Sends a request to a server that is running or starting.
pub(super) fn ask_daemon(
    socket: &std::path::Path,
    request: &Request,
    handed: Option<Handed<'_>>,
    bar: &mut render::Progressing,
) -> Result<Reply> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(reply) = ask_once(socket, request, handed, bar)? {
            return Ok(reply);
        }
        if std::time::Instant::now() >= until {
            return Err(Error::new(Kind::Unreachable, format!("the server at {} ended", socket.display()))
                .hint("see its log, then try again"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How this process opens the data directory.
pub(super) const fn open_as(common: &Common, role: Role) -> OpenAs {
    OpenAs { role, single_host: common.single_host_i_know, lease_grace: GRACE }
}

/// How this process obtains the root key.
pub(super) fn unlock(common: &Common, data: &DataDir) -> Result<RootUnlock> {
    match common.passphrase_fd {
        Some(fd) => crate::sys::as_started(|| read_passphrase_fd(fd)).map(RootUnlock::Passphrase),
        None => match &common.root_key_file {
            Some(file) => Ok(RootUnlock::File(file.clone())),
            None if only_a_passphrase_opens(data) && std::io::stdin().is_terminal() => {
                ask_passphrase("Passphrase").map(RootUnlock::Passphrase)
            }
            None if only_a_passphrase_opens(data) => {
                let what = "root key: it needs a passphrase, and standard input is not a terminal";
                Err(Error::new(Kind::KeyUnavailable, what)
                    .hint("pass it on a file descriptor, as in `coffer --passphrase-fd 3 … 3<FILE`"))
            }
            None => Ok(RootUnlock::Automatic),
        },
    }
}

/// Whether the root key has a passphrase slot and no key file slot.
fn only_a_passphrase_opens(data: &DataDir) -> bool {
    let slots = crate::kms::root::RootFile::read(data.path()).map(|f| f.slots()).unwrap_or_default();
    let has = |kind: &str| slots.iter().any(|s| s.kind == kind);
    has("passphrase") && !has("file")
}

/// Reads a passphrase from an inherited descriptor, up to the first newline.
pub(super) fn read_passphrase_fd(fd: i32) -> Result<Passphrase> {
    let path = format!("/proc/self/fd/{fd}");
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let what = || format!("read the passphrase from file descriptor {fd}");
    let file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("--passphrase-fd {fd}: file descriptor {fd} is not open");
            return Err(Error::new(Kind::Usage, what).hint(format!("redirect it, as in `{fd}<FILE`")));
        }
        file => file.on(what)?,
    };
    let (end, _) = read_line(&file, &mut bytes, b"\n").on(what)?;
    Passphrase::take(&mut bytes[..end])
}

/// The most bytes to read of a passphrase: one more than it may have.
const LONGEST: usize = 1025;
/// Characters that a terminal sends for Ctrl-C and Ctrl-\.
const STOPS: [u8; 2] = [3, 28];
/// Characters that end a line typed at a terminal.
const TYPED: [u8; 3] = [b'\n', STOPS[0], STOPS[1]];

/// Reads up to one of these bytes, the end of the file or a full buffer; returns how many bytes precede it, and which it was.
fn read_line(from: &File, bytes: &mut [u8], ends: &[u8]) -> std::io::Result<(usize, Option<u8>)> {
    let mut end = 0;
    while end < bytes.len() {
        match rustix::io::read(from, &mut bytes[end..]) {
            Ok(0) => break,
            Ok(n) => match bytes[end..end + n].iter().position(|b| ends.contains(b)) {
                Some(at) => return Ok((end + at, Some(bytes[end + at]))),
                None => end += n,
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok((end, None))
}

/// Prompts for a passphrase on the terminal, without echo.
pub(super) fn ask_passphrase(prompt: &str) -> Result<Passphrase> {
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
    let what = || "ask for the passphrase".to_owned();
    let none = || Error::new(Kind::Usage, "no terminal to ask for the passphrase").hint("use --passphrase-fd");
    let tty = match File::options().read(true).write(true).open("/dev/tty") {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENOENT | libc::ENOTTY)) => return Err(none()),
        tty => tty.on(what)?,
    };
    if !tty.is_terminal() {
        return Err(none());
    }
    let before = tcgetattr(&tty).on(what)?;
    let mut silent = before.clone();
    // Keyboard signals are off: they would end this process and leave the terminal without echo.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = STOPS[0];
    silent.special_codes[SpecialCodeIndex::VEOL2] = STOPS[1];
    tcsetattr(&tty, OptionalActions::Flush, &silent).on(what)?;
    let _ = write!(&tty, "{prompt}: ");
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let read = read_line(&tty, &mut bytes, &TYPED);
    let _ = tcsetattr(&tty, OptionalActions::Flush, &before);
    let _ = writeln!(&tty);
    let (end, by) = read.on(what)?;
    if by.is_some_and(|b| STOPS.contains(&b)) {
        return Err(Error::new(Kind::Interrupted, "passphrase prompt: interrupted"));
    }
    Passphrase::take(&mut bytes[..end])
}
