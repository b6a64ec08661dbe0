//! The servers to compare: coffer and its peers. Each is a separate process over a file on the same disk, with a Unix socket in a
//! private folder. Dropping [`Servers`] ends them all; the caller removes the folder.

use clap::ValueEnum;
use coffer::error::{Error, IoContext, Kind, Result};
use coffer::measure::cannot;
use coffer::measure::load::Connection;
use coffer::measure::session::Session;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The passphrase of the LUKS images, which hold nothing secret.
const PASSPHRASE: &[u8] = b"bench";
/// Upper limit on the size of a LUKS 1 header before the data, in bytes.
const LUKS_HEADER: u64 = 4 << 20;
const FLOOR: &str = include_str!("../../floor/floor.c");

/// The servers that coffer can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// nbdkit over a plain file, unencrypted
    Nbdkit,
    /// nbdkit with its LUKS filter
    NbdkitLuks,
    /// qemu-nbd over a plain file, unencrypted
    QemuNbd,
    /// qemu-nbd over a LUKS image
    QemuLuks,
    /// tools/floor: the barest encrypting server
    Floor,
}

impl Peer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::NbdkitLuks => "nbdkit-luks",
            Self::QemuNbd => "qemu-nbd",
            Self::QemuLuks => "qemu-luks",
            Self::Floor => "floor",
        }
    }
}

/// A running server.
pub struct Server {
    pub name: &'static str,
    pub socket: PathBuf,
    pub export: &'static str,
    pub pid: u32,
    /// The file with its data.
    pub file: PathBuf,
}

impl Server {
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    pub fn connect(&self) -> Result<Connection> {
        Connection::open(&self.socket, self.export)
    }

    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// Returns the processor time used so far, in seconds.
    pub fn cpu(&self) -> f64 {
        coffer::sys::cpu_time(self.pid).unwrap_or_default().as_secs_f64()
    }

    /// Resets the peak of resident memory, if the kernel allows it.
    pub fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    /// Drops the server's file from the page cache.
    pub fn forget_pages(&self) -> Result<()> {
        let what = || format!("drop {} from the page cache", self.file.display());
        let file = File::open(&self.file).on(what)?;
        file.sync_all().on(what)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(std::io::Error::from).on(what)
    }

    /// Returns the peak of resident memory, in bytes.
    pub fn peak(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// All servers of a comparison.
pub struct Servers {
    folder: PathBuf,
    pub all: Vec<Server>,
    children: Vec<Child>,
    coffer: Option<Session>,
}

impl Servers {
    /// Starts coffer and the peers over files of `size` bytes in `folder`, which must exist and belongs to the caller.
    pub fn start(coffer: &Path, folder: &Path, peers: &[Peer], size: u64) -> Result<Self> {
        let mut made = Self { folder: folder.to_owned(), all: Vec::new(), children: Vec::new(), coffer: None };
        made.start_coffer(coffer, size)?;
        let passphrase = made.folder.join("passphrase");
        std::fs::write(&passphrase, PASSPHRASE).on(|| format!("write {}", passphrase.display()))?;
        for peer in peers {
            made.start_peer(*peer, &passphrase, size)?;
        }
        Ok(made)
    }

    fn start_coffer(&mut self, coffer: &Path, size: u64) -> Result<()> {
        let session = self.coffer.insert(Session::with(coffer.to_owned(), &self.folder));
        session.init()?;
        let id = session.line(&["volume", "create", "-q", "--size", &size.to_string(), "--name", "bench"])?;
        session.serve()?;
        let (socket, pid) = (session.nbd_socket(), session.server_pid());
        let file = self.folder.join("data/volumes").join(format!("{id}.coffer"));
        self.all.push(Server { name: "coffer", socket, export: "bench", pid, file });
        Ok(())
    }

    fn start_peer(&mut self, peer: Peer, passphrase: &Path, size: u64) -> Result<()> {
        let name = peer.name();
        let (socket, file) = (self.folder.join(format!("{name}.sock")), self.folder.join(format!("{name}.raw")));
        let luks = matches!(peer, Peer::NbdkitLuks | Peer::QemuLuks);
        let room = File::create(&file).and_then(|f| f.set_len(if luks { size + LUKS_HEADER } else { size }));
        room.on(|| format!("create {}", file.display()))?;
        if luks {
            // nbdkit's filter only reads LUKS 1.
            let kind = ["luksFormat", "-q", "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512"];
            finish(
                Command::new("cryptsetup")
                    .args(kind)
                    .args(["--pbkdf-force-iterations", "1000"])
                    .arg(&file)
                    .arg(passphrase),
            )?;
        }
        let (s, f, p) = (socket.display(), file.display(), passphrase.display());
        let mut command = match peer {
            Peer::Nbdkit => args("nbdkit", &["-f", "-U", &s.to_string(), "file", &f.to_string()]),
            Peer::NbdkitLuks => {
                let secret = format!("passphrase=+{p}");
                args("nbdkit", &["-f", "-U", &s.to_string(), "--filter=luks", "file", &f.to_string(), &secret])
            }
            Peer::QemuNbd => args(
                "qemu-nbd",
                &["-t", "-e", "16", "--discard=unmap", "-f", "raw", "-k", &s.to_string(), &f.to_string()],
            ),
            Peer::QemuLuks => {
                let secret = format!("secret,id=bench,file={p}");
                let image = format!("driver=luks,key-secret=bench,file.driver=file,file.filename={f}");
                let serve = [
                    "-t",
                    "-e",
                    "16",
                    "--discard=unmap",
                    "-k",
                    &s.to_string(),
                    "--object",
                    &secret,
                    "--image-opts",
                    &image,
                ];
                args("qemu-nbd", &serve)
            }
            Peer::Floor => {
                let program = self.build_floor()?;
                args(&program.display().to_string(), &[&s.to_string(), &f.to_string()])
            }
        };
        let said = self.folder.join(format!("{name}.log"));
        let log = File::create(&said).on(|| format!("create {}", said.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|e| missing(&command, e))?;
        let pid = child.id();
        self.children.push(child);
        self.wait_for(name, &socket, &said)?;
        self.all.push(Server { name, socket, export: "", pid, file });
        Ok(())
    }

    fn build_floor(&self) -> Result<PathBuf> {
        let (source, program) = (self.folder.join("floor.c"), self.folder.join("floor"));
        std::fs::write(&source, FLOOR).on(|| format!("write {}", source.display()))?;
        finish(Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(&source).args(["-lcrypto", "-lpthread"]))?;
        Ok(program)
    }

    /// Waits until the newest child accepts connections on its socket. `log` is the file with its error output.
    fn wait_for(&mut self, name: &str, socket: &Path, log: &Path) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(Ok(Some(status))) = self.children.last_mut().map(Child::try_wait) {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(cannot(format!("{name} ended: {status}: {}", said.trim())));
            }
            if Instant::now() > until {
                return Err(Error::new(Kind::Unreachable, format!("{name} did not answer in 20 s")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // The floor has no clean shutdown, and unwritten data of the others is not needed.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(coffer) = &mut self.coffer {
            let _ = coffer.stop();
        }
    }
}

fn args(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn missing(command: &Command, e: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::io(format!("run {program}"), e).hint("tools/setup installs what is compared")
}

/// Runs a command and returns its standard output. If it fails, the error contains its error output.
pub fn finish(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| missing(command, e))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    if coffer::interrupt::is_asked_for() {
        return Err(Error::new(Kind::Interrupted, "stopped"));
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(cannot(format!("{}: {}: {said}", command.get_program().to_string_lossy(), out.status)))
}
