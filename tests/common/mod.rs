//! Shared by the integration tests: a scratch data directory, the binary, a running server, a client that may fail.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../../src/nbd/test_client.rs"]
pub mod raw;
pub mod scan;
pub mod signed;

use coffer::env::Env;
use coffer::kms::RootUnlock;
use coffer::service::datadir::DataDir;
use coffer::service::{GRACE, OpenAs, Role, Service};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The binary under test, unless `COFFER_UNDER_TEST` names another, such as the release build.
pub const COFFER: &str = env!("CARGO_BIN_EXE_coffer");
/// Timeout for anything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a tool is installed. A test may skip itself without it, but not if COFFER_NO_SKIP is set.
pub fn requires(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(tool).exists()) {
        return true;
    }
    skip(tool)
}

/// Prints that a test is skipped for lack of something; returns false.
pub fn skip(what: &str) -> bool {
    assert!(std::env::var_os("COFFER_NO_SKIP").is_none(), "needs {what}, and COFFER_NO_SKIP is set");
    println!("SKIP: needs {what}");
    false
}

/// A file below the folder in which `tools/setup` keeps AWS's clients; None, if the test may be skipped without it.
pub fn aws_client(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let file = cache.map(|c| c.join("coffer-aws").join(path)).filter(|file| file.exists());
    file.or_else(|| {
        skip(&format!("{path}, which `tools/setup` installs"));
        None
    })
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 plus the signal for a killed one.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Parses standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Output {
        code: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A temporary directory with a data directory in it, and the root key file beside that.
pub struct Scratch {
    root: tempfile::TempDir,
    pub data: PathBuf,
    pub key: PathBuf,
    /// Variables that its commands and servers get.
    pub env: Vec<(&'static str, String)>,
}

impl Scratch {
    /// Makes an initialised one, with its root key in a file.
    #[track_caller]
    pub fn new() -> Self {
        let scratch = Self::empty();
        scratch.init();
        scratch
    }

    /// Makes one below `folder`, which is on a real disk.
    #[track_caller]
    pub fn new_in(folder: &str) -> Self {
        let scratch = Self::empty_in(tempfile::tempdir_in(folder).unwrap());
        scratch.init();
        scratch
    }

    /// Opens the service in this process, as a server or a command does.
    #[track_caller]
    pub fn opened(&self, role: Role) -> Arc<Service> {
        let (data, env) = (DataDir::at(&self.data).unwrap(), Env::system());
        let lock = data.try_lock(&env, "test").unwrap().unwrap();
        let opening = OpenAs { role, single_host: false, lease_grace: GRACE };
        Service::open(data, env, lock, &RootUnlock::File(self.key.clone()), opening).unwrap()
    }

    /// Makes one that is not initialised.
    pub fn empty() -> Self {
        Self::empty_in(tempfile::tempdir().unwrap())
    }

    fn empty_in(root: tempfile::TempDir) -> Self {
        let (data, key) = (root.path().join("data"), root.path().join("root.key"));
        Self { root, data, key, env: Vec::new() }
    }

    #[track_caller]
    pub fn init(&self) {
        let key = self.key.to_str().unwrap();
        self.ok(&["init", "--key-file", key]);
    }

    /// Returns a path in the temporary directory, beside the data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes `coffer --data DATA ARGS`, without coffer's variables of the caller's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("COFFER_UNDER_TEST").unwrap_or_else(|| COFFER.into());
        let mut command = Command::new(program);
        command.arg("--data").arg(&self.data).args(args).stdin(Stdio::null());
        command.env_remove("COFFER_DATA").env_remove("COFFER_LOG");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    pub fn coffer(&self, args: &[&str]) -> Output {
        output(&mut self.command(args))
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Output {
        let out = self.coffer(args);
        assert_eq!(out.code, 0, "{args:?}: {out:?}");
        out
    }

    /// Runs a command that must succeed, and parses its JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        self.ok(&[&["--json"], args].concat()).json()
    }

    /// Returns the ids that a command prints with -q.
    #[track_caller]
    pub fn ids(&self, args: &[&str]) -> Vec<String> {
        self.ok(&[&["-q"], args].concat()).stdout.lines().map(str::to_owned).collect()
    }

    /// Returns the one id that a command prints with -q.
    #[track_caller]
    pub fn id(&self, args: &[&str]) -> String {
        <[String; 1]>::try_from(self.ids(args)).unwrap_or_else(|all| panic!("{args:?}: {all:?}"))[0].clone()
    }

    /// Runs a command that must fail with this exit code and print all of these words. Returns its message.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str], words: &[&str]) -> String {
        let out = self.coffer(args);
        assert_eq!(out.code, code, "{args:?}: {out:?}");
        assert_eq!(out.stdout, "", "{args:?}");
        for word in words {
            assert!(out.stderr.contains(word), "{args:?} does not say {word:?}: {}", out.stderr);
        }
        out.stderr
    }

    /// Returns the path of a volume's file.
    #[track_caller]
    pub fn file(&self, volume: &str) -> PathBuf {
        let all = self.json(&["volume", "list"])["volumes"].as_array().unwrap().clone();
        let found = all.iter().find(|v| v["name"] == volume || v["id"] == volume);
        let id = found.unwrap_or_else(|| panic!("no volume {volume}"))["id"].as_str().unwrap().to_owned();
        self.data.join("volumes").join(format!("{id}.coffer"))
    }

    pub fn socket(&self) -> PathBuf {
        self.data.join("nbd.sock")
    }

    /// Returns an export's URI for NBD clients.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket().display())
    }

    /// Starts `coffer serve`.
    #[track_caller]
    pub fn serve(&self) -> Served<'_> {
        self.serve_with(&[])
    }

    /// Starts `coffer serve` with more flags.
    #[track_caller]
    pub fn serve_with(&self, args: &[&str]) -> Served<'_> {
        let log = self.path("serve.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = self.command(&[&["serve"], args].concat()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut served = Served { scratch: self, child: Some(child) };
        let control = self.data.join("control.sock");
        wait_until("the server answers", || {
            if let Some(status) = served.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended, {status}: {}", std::fs::read_to_string(&log).unwrap());
            }
            UnixStream::connect(&control).is_ok()
        });
        served
    }

    /// Returns the servers' standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }
}

/// A running `coffer serve`. Dropping it stops it cleanly.
pub struct Served<'a> {
    pub scratch: &'a Scratch,
    child: Option<Child>,
}

impl Served<'_> {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn uri(&self, name: &str) -> String {
        self.scratch.uri(name)
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub fn kill9(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends it a signal that ends it; returns how it ended.
    pub fn signalled(mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap()
    }

    /// Stops it with SIGTERM; returns its exit code.
    pub fn stop(mut self) -> i32 {
        let child = self.child.take().unwrap();
        end(child)
    }

    /// Connects to an export.
    #[track_caller]
    pub fn connect(&self, name: &str) -> Nbd {
        Nbd::open(&self.scratch.socket(), name).unwrap_or_else(|e| panic!("connect to {name}: {e}"))
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }
}

/// Sends SIGTERM, then SIGKILL if that has no effect; returns the exit code.
fn end(mut child: Child) -> i32 {
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            return -1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client whose server may go away: every call returns a result, with the server's errors as numbers.
pub struct Nbd(UnixStream, u64);

/// The result of a request: success, or the protocol's error number.
pub type Answer = std::io::Result<Result<(), u32>>;

impl Nbd {
    pub fn open(socket: &Path, name: &str) -> std::io::Result<Self> {
        let mut nbd = Self(UnixStream::connect(socket)?, 0);
        nbd.0.set_read_timeout(Some(PATIENCE))?;
        nbd.get(18)?;
        nbd.0.write_all(&3u32.to_be_bytes())?;
        nbd.0.write_all(&raw::option(7, &raw::query(name, &[])))?;
        loop {
            let head = nbd.get(20)?;
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let data = nbd.get(word(16) as usize)?;
            match word(12) {
                1 => return Ok(nbd),
                3 if data[..2] == [0, 0] => nbd.1 = u64::from_be_bytes(data[2..10].try_into().unwrap()),
                code if code >> 31 == 1 => {
                    let text = format!("{code:#x}: {}", String::from_utf8_lossy(&data));
                    return Err(std::io::Error::other(text));
                }
                _ => {}
            }
        }
    }

    /// Returns the export's size when it was opened.
    pub const fn size(&self) -> u64 {
        self.1
    }

    fn get(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let mut out = vec![0; n];
        self.0.read_exact(&mut out)?;
        Ok(out)
    }

    fn ask(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> Answer {
        self.0.write_all(&raw::request(command, flags, 7, offset, len))?;
        self.0.write_all(payload)?;
        let head = self.get(16)?;
        match u32::from_be_bytes(head[4..8].try_into().unwrap()) {
            0 => Ok(Ok(())),
            error => Ok(Err(error)),
        }
    }

    pub fn try_write(&mut self, offset: u64, data: &[u8], fua: bool) -> Answer {
        self.ask(raw::WRITE, u16::from(fua), offset, data.len() as u32, data)
    }

    pub fn try_flush(&mut self) -> Answer {
        self.ask(raw::FLUSH, 0, 0, 0, &[])
    }

    pub fn try_trim(&mut self, offset: u64, len: u32) -> Answer {
        self.ask(4, 0, offset, len, &[])
    }

    pub fn try_read(&mut self, offset: u64, len: u32) -> std::io::Result<Result<Vec<u8>, u32>> {
        match self.ask(raw::READ, 0, offset, len, &[])? {
            Ok(()) => self.get(len as usize).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    #[track_caller]
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.try_write(offset, data, false).unwrap().unwrap();
    }

    #[track_caller]
    pub fn flush(&mut self) {
        self.try_flush().unwrap().unwrap();
    }

    #[track_caller]
    pub fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.try_read(offset, len).unwrap().unwrap()
    }

    /// Disconnects cleanly, and waits until the server has released the volume.
    pub fn close(mut self) {
        let _ = self.0.write_all(&raw::request(raw::DISC, 0, 0, 0, 0));
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// Returns incompressible bytes, different for any two seeds.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Runs a command with a passphrase on descriptor 3.
#[track_caller]
pub fn with_passphrase(scratch: &Scratch, words: &str, args: &[&str]) -> Output {
    let file = scratch.path("passphrase");
    std::fs::write(&file, words).unwrap();
    let inner = scratch.command(&[&["--passphrase-fd", "3"], args].concat());
    let mut outer = Command::new("/bin/sh");
    outer.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(&file).arg(inner.get_program()).args(inner.get_args());
    output(outer.env_remove("COFFER_DATA").stdin(Stdio::null()))
}

/// Returns all files below a directory.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => out.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => out.push(entry.path()),
            _ => {}
        }
    }
    out
}

/// Returns the total size of all files below a directory.
pub fn bytes_in(folder: &Path) -> u64 {
    files(folder).iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum()
}

/// Changes one byte of a file.
pub fn flip(file: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let open = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// Returns a file's contents without its holes: a volume's file has many.
pub fn contents(file: &Path) -> Vec<u8> {
    use rustix::fs::SeekFrom;
    use std::os::unix::fs::FileExt;
    let Ok(open) = std::fs::File::open(file) else { return Vec::new() };
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(from) = rustix::fs::seek(&open, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&open, SeekFrom::Hole(from)).unwrap();
        let mut part = vec![0; usize::try_from(at - from).unwrap()];
        let n = open.read_at(&mut part, from).unwrap();
        out.extend(&part[..n]);
    }
    out
}
