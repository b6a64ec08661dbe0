//! The process that keeps a device connected: how it is started, how it gets its job, how it publishes its state.
//!
//! One helper per device. It holds a lock on `/run/coffer-attach/nbdN`, which contains its state as JSON. Its job,
//! including the attachment's token, comes over a socket that is its standard input, not in arguments or environment.
//! Its log is `/run/coffer-attach/nbdN.log`: on a file system that needs no disk.

use super::dial::Server;
use super::keeper::{Keeper, News, Turn};
use super::machine::Machine;
use super::nbd::{Events, NbdDriver};
use super::{Device, Driver};
use crate::env::{Env, Timestamp};
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::WireError;
use crate::sys::{LockKind, ofd_is_locked, ofd_lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The directory of the helpers' files.
const RUN: &str = "/run/coffer-attach";
/// Size limit of a message between a command and its helper, in bytes.
const MESSAGE: usize = 64 * 1024;
/// Size in bytes at which the next helper truncates the log.
const LONG_LOG: u64 = 1 << 20;

/// The state that a helper publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperState {
    /// Its process id.
    pub pid: u32,
    /// The attachment's id.
    pub attachment: String,
    /// Number of connections that it maintains.
    pub connections: u32,
    /// How many of them the kernel is known to use.
    pub alive: u32,
    /// When it was started.
    pub since: Timestamp,
}

/// The files of a device's helper.
#[derive(Debug, Clone)]
pub struct HelperPlace {
    dir: PathBuf,
    device: Device,
}

/// The exclusive right to maintain a device: no one else has it while this lives, in this process or one that it was
/// handed to.
#[derive(Debug)]
pub struct Held(File);

impl HelperPlace {
    /// Returns the files of a device of this machine.
    #[must_use]
    pub fn of(device: Device) -> Self {
        Self { dir: RUN.into(), device }
    }

    fn file(&self) -> PathBuf {
        self.dir.join(self.device.name())
    }

    /// Returns the path of its helper's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.device.name()))
    }

    /// Takes the right to the device. `None`: someone else has it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn hold(&self) -> Result<Option<Held>> {
        let path = self.file();
        let what = || format!("lock {}", path.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).on(what)?;
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path).on(what)?;
        if !ofd_lock(&file, LockKind::Exclusive, 0, 1).on(what)? {
            return Ok(None);
        }
        // The last helper's state is out of date; its process id may be another process's now.
        file.set_len(0).on(what)?;
        Ok(Some(Held(file)))
    }

    /// Returns the last helper's state, whether it lives or not. Taking the right to the device removes it.
    #[must_use]
    pub fn last(&self) -> Option<HelperState> {
        serde_json::from_slice(&std::fs::read(self.file()).ok()?).ok()
    }

    /// Whether there is a helper, or one is being started or ended.
    #[must_use]
    pub fn is_held(&self) -> bool {
        File::open(self.file()).is_ok_and(|f| ofd_is_locked(&f, 0, 1).unwrap_or(true))
    }

    /// Returns the state of a living helper.
    #[must_use]
    pub fn living(&self) -> Option<HelperState> {
        self.is_held().then(|| self.last()).flatten()
    }

    /// Ends the living helper, and takes its right.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it does not end.
    pub fn end_helper(&self) -> Result<Held> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(held) = self.hold()? {
                return Ok(held);
            }
            if let Some(pid) = self.last().and_then(|s| process(&s)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            if Instant::now() >= until {
                return Err(Error::new(Kind::Busy, format!("the helper of {} did not end", self.device))
                    .hint(format!("see {}", self.log().display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn process(state: &HelperState) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(state.pid).ok()?)
}

impl HelperState {
    /// Tells the helper that the volume has a new size. `false`: this process lacks permission.
    #[must_use]
    pub fn tell_of_size(&self) -> bool {
        let told = process(self).map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::USR1));
        told.is_some_and(|r| r.is_ok())
    }
}

impl Held {
    fn write(&self, state: &HelperState) {
        let Ok(text) = serde_json::to_vec(state) else { return };
        let done = self.0.write_all_at(&text, 0).and_then(|()| self.0.set_len(text.len() as u64));
        if let Err(e) = done {
            tracing::warn!("write the helper's state: {e}");
        }
    }
}

/// A helper's job. Contains the attachment's token.
#[derive(Serialize, Deserialize)]
pub struct Job {
    /// The device.
    pub device: Device,
    /// The attachment's id.
    pub attachment: String,
    /// The path of the server's socket.
    pub socket: PathBuf,
    /// The export's name, including the token.
    pub export: Zeroizing<String>,
    /// Number of connections.
    pub connections: u32,
    /// The device is connected already.
    pub adopt: bool,
}

/// A helper's answer when it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// Size of the device in bytes.
    pub size: u64,
    /// Number of its connections.
    pub connections: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Up(Up),
    Error(WireError),
}

/// Returns the identifier that the kernel stores with the device, so that a helper recognises its own.
#[must_use]
pub fn backend(attachment: &str) -> String {
    format!("coffer {attachment}")
}

/// Whether an identifier was made by [`backend`].
#[must_use]
pub fn is_ours(backend: &str) -> bool {
    backend.starts_with("coffer att-")
}

/// Starts the helper, hands it the job and the right to the device, and waits until it is up. `shown` appears in its
/// argument list.
///
/// # Errors
/// What the helper reports; then nothing is attached.
pub fn start(job: &Job, held: Held, shown: &str) -> Result<Up> {
    let what = || "start the attachment's helper".to_owned();
    crate::sys::keep_descriptors_from_children();
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .on(what)?;
    let place = HelperPlace::of(job.device);
    let log = open_log(&place)?;
    let both = log.try_clone().on(what)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("coffer").args(["attach-helper", shown, &job.device.to_string()]);
    command.stdin(Stdio::from(theirs)).stdout(log).stderr(both).current_dir("/");
    let level = std::env::var_os("COFFER_LOG");
    command.env_clear().envs(level.map(|l| ("COFFER_LOG", l)));
    let child = command.spawn().on(what)?;
    drop(command);
    let text = crate::api::line::encode(job).on(what)?;
    hand_over(&ours, &text, held.0).on(what)?;
    let answer = hear_answer(&ours).ok_or_else(|| {
        Error::new(Kind::Failed, format!("the helper (pid {}) ended before the device was connected", child.id()))
            .hint(format!("see {}", place.log().display()))
    })?;
    match answer {
        Answer::Up(up) => Ok(up),
        Answer::Error(wire) => Err(wire.into()),
    }
}

fn open_log(place: &HelperPlace) -> Result<File> {
    let path = place.log();
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    let log = options.open(&path).on(|| format!("open {}", path.display()))?;
    if log.metadata().is_ok_and(|m| m.len() > LONG_LOG) {
        let _ = log.set_len(0);
    }
    Ok(log)
}

fn hand_over(to: &OwnedFd, text: &[u8], lock: File) -> rustix::io::Result<()> {
    let fds = [lock.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(to, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

fn hear_answer(from: &OwnedFd) -> Option<Answer> {
    let mut buffer = vec![0; MESSAGE];
    loop {
        match rustix::net::recv(from, &mut buffer[..], RecvFlags::empty()) {
            Ok((n, _)) => return serde_json::from_slice(&buffer[..n]).ok(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Runs the helper. Returns `Ok` when the device has been disconnected.
///
/// # Errors
/// If it was not started by [`start`]. Later failures go to the log.
pub fn run() -> Result<()> {
    let (job, held) = take_job()?;
    settle(job.device);
    match begin(&job) {
        Ok((keeper, events)) => {
            let up = Up { size: keeper.size(), connections: job.connections };
            let state = HelperState {
                pid: std::process::id(),
                attachment: job.attachment.clone(),
                connections: job.connections,
                alive: keeper.alive(),
                since: Env::system().now(),
            };
            held.write(&state);
            answer(&Answer::Up(up));
            tracing::info!("{}: attachment {}, {} connections", job.device, job.attachment, job.connections);
            keep(job.device, keeper, &events, &held, state)
        }
        Err(err) => {
            tracing::warn!("{}: {}", job.device, err.line());
            // The command may take the device again as soon as it has the answer.
            drop(held);
            answer(&Answer::Error(WireError::from(&err)));
            Ok(())
        }
    }
}

fn take_job() -> Result<(Job, Held)> {
    let by_hand =
        || Error::new(Kind::Usage, "attach-helper: only `coffer attach` can start it").hint("use `coffer attach`");
    let mut text = Zeroizing::new(vec![0; MESSAGE]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let stdin = rustix::stdio::stdin();
    let heard = rustix::net::recvmsg(stdin, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|_| by_hand())?;
    let lock = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let job = serde_json::from_slice(&text[..heard.bytes]).map_err(|_| by_hand())?;
    Ok((job, Held(File::from(lock.ok_or_else(by_hand)?))))
}

/// Detaches from the shell that started it, and prepares for running when memory is short: the kernel may be waiting
/// for this process to write that memory out.
fn settle(device: Device) {
    let _ = rustix::process::setsid();
    if let Ok(name) = std::ffi::CString::new(format!("coffer:{}", device.name())) {
        let _ = rustix::thread::set_name(&name);
    }
    use rustix::mm::MlockAllFlags as Lock;
    let _ = rustix::mm::mlockall(Lock::CURRENT | Lock::FUTURE | Lock::ONFAULT);
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    crate::logging::start("coffer=info");
}

fn begin(job: &Job) -> Result<(Keeper<NbdDriver, Server>, Events)> {
    let driver = NbdDriver::open()?;
    let events = driver.events()?;
    let machine = Machine::this();
    let server = Server { socket: job.socket.clone(), export: job.export.clone() };
    let (device, backend, now) = (job.device, backend(&job.attachment), Instant::now());
    if job.adopt {
        let size = machine.size(device);
        return Ok((Keeper::adopt(driver, server, device, backend, job.connections, size, now), events));
    }
    let keeper = Keeper::connect(driver, server, device, backend, job.connections, now)?;
    if let Err(err) = wait_for(device, &machine).and_then(|()| machine.tune(device)) {
        drop(keeper);
        let _ = NbdDriver::open().and_then(|mut d| d.disconnect(device));
        return Err(err);
    }
    Ok((keeper, events))
}

/// Waits for the device file, which the kernel or udev creates.
fn wait_for(device: Device, machine: &Machine) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while machine.size(device) == 0 || !device.path().exists() {
        if Instant::now() >= until {
            return Err(Error::new(Kind::Failed, format!("{device} was not connected within 10 s")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn answer(what: &Answer) {
    if let Ok(text) = serde_json::to_vec(what) {
        let _ = rustix::net::send(rustix::stdio::stdin(), &text, SendFlags::NOSIGNAL);
    }
    if let Ok(null) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}

fn keep(
    device: Device,
    mut keeper: Keeper<NbdDriver, Server>,
    events: &Events,
    held: &Held,
    mut state: HelperState,
) -> Result<()> {
    let (woken, waker) = UnixStream::pair().on(|| "wait for signals".to_owned())?;
    woken.set_nonblocking(true).on(|| "wait for signals".to_owned())?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGUSR1, waker).on(|| "catch SIGUSR1".to_owned())?;
    loop {
        let news = News { link_dead: events.tell_of(device), size: drain(&woken) };
        let turn = keeper.turn(Instant::now(), news);
        if state.alive != keeper.alive() {
            state.alive = keeper.alive();
            held.write(&state);
        }
        match turn {
            Turn::Ended(why) => {
                tracing::info!("{device}: {why}");
                return Ok(());
            }
            Turn::Wait(until) => sleep(&keeper, events, &woken, until),
        }
    }
}

/// Sleeps until a socket ends, the driver or a signal has news, or until the given time.
fn sleep(keeper: &Keeper<NbdDriver, Server>, events: &Events, woken: &UnixStream, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let time = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let sockets: Vec<_> = keeper.sockets().collect();
    let mut fds = vec![PollFd::new(events, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
    fds.extend(sockets.iter().map(|s| PollFd::new(s, PollFlags::RDHUP)));
    let _ = poll(&mut fds, Some(&time));
}

fn drain(woken: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut some = false;
    while matches!(std::io::Read::read(&mut &*woken, &mut buffer), Ok(n) if n > 0) {
        some = true;
    }
    some
}

#[cfg(test)]
#[path = "helper_tests.rs"]
mod tests;
