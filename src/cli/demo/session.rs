//! One installation of the demo: commands are run as a user would run them, with this same program.

use crate::api::control::daemon_answers;
use crate::error::{Error, IoContext, Kind, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A data directory, its key file, and its server.
pub(in crate::cli) struct Session {
    scratch: PathBuf,
    program: PathBuf,
    server: Option<Child>,
    apart: bool,
}

impl Session {
    pub(in crate::cli) fn new(scratch: &Path) -> Result<Self> {
        let program = std::env::current_exe().on(|| "find this program".to_owned())?;
        Ok(Self { scratch: scratch.to_owned(), program, server: None, apart: false })
    }

    /// Keeps the terminal's signals from the server: the caller catches them, and stops it when it is no longer needed.
    pub(super) const fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    pub(in crate::cli) fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn key_file(&self) -> PathBuf {
        self.scratch.join("root.key")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(self.data()).args(args).stdin(Stdio::null());
        command
    }

    /// The output of a command, without its last newline.
    pub(in crate::cli) fn text(&self, args: &[&str]) -> Result<String> {
        let out = self.command(args).output().on(|| format!("run coffer {}", args.join(" ")))?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned());
        }
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        Err(Error::new(Kind::Failed, format!("coffer {}: {said}", args.join(" "))))
    }

    pub(in crate::cli) fn run(&self, args: &[&str]) -> Result<()> {
        self.text(args).map(drop)
    }

    /// The id that a command with -q prints.
    pub(in crate::cli) fn line(&self, args: &[&str]) -> Result<String> {
        self.text(args)
    }

    pub(in crate::cli) fn init(&self) -> Result<()> {
        let file = self.key_file();
        self.run(&["init", "-q", "--key-file", &file.to_string_lossy()])
    }

    pub(in crate::cli) fn serve(&mut self) -> Result<()> {
        let mut command = self.command(&["serve"]);
        if self.apart {
            command.process_group(0);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = self.server.insert(child.on(|| "start the server".to_owned())?);
        let socket = self.scratch.join("data/control.sock");
        let until = Instant::now() + Duration::from_secs(20);
        while !daemon_answers(&socket) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::new(Kind::Failed, format!("the server ended: {status}")));
            }
            if Instant::now() > until {
                return Err(Error::new(Kind::Unreachable, "the server did not respond within 20 s"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub(in crate::cli) fn nbd_socket(&self) -> PathBuf {
        self.data().join("nbd.sock")
    }

    /// The server's process id; 0 without one.
    pub(in crate::cli) fn server_pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Child::id)
    }

    fn server_file(&self, name: &str) -> String {
        let pid = self.server_pid();
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
    }

    /// CPU seconds that the server has used.
    pub(in crate::cli) fn server_cpu(&self) -> f64 {
        crate::sys::cpu_time(self.server_pid()).unwrap_or_default().as_secs_f64()
    }

    /// Resident memory of the server, bytes.
    pub(in crate::cli) fn server_memory(&self) -> u64 {
        let status = self.server_file("status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    pub(in crate::cli) fn uri(&self, volume: &str) -> String {
        crate::cli::sockets::uri(&format!("unix:{}", self.nbd_socket().display()), volume, false).0
    }

    /// Ends an attachment later, without this session.
    pub(in crate::cli) fn detacher(&self, device: &str) -> Box<dyn FnOnce() -> Result<()>> {
        let mut command = self.command(&["detach", "-q", device]);
        Box::new(move || {
            let out = command.output().on(|| "run coffer detach".to_owned())?;
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            if out.status.success() { Ok(()) } else { Err(Error::new(Kind::Failed, said)) }
        })
    }

    pub(in crate::cli) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.server.take() else { return Ok(()) };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let status = child.wait().on(|| "wait for the server".to_owned())?;
        if status.success() { Ok(()) } else { Err(Error::new(Kind::Failed, format!("the server ended: {status}"))) }
    }

    /// Searches every file in the data directory for the marker and for each plaintext key of this installation.
    pub(in crate::cli) fn search(&self, marker: &str) -> Result<String> {
        let exported = self.scratch.join("data-key");
        self.run(&["volume", "export-key", "web2", "--out", &exported.to_string_lossy()])?;
        let read = |p: &Path| std::fs::read(p).on(|| format!("read {}", p.display()));
        let (root, data_key) = (read(&self.key_file())?, read(&exported)?);
        std::fs::remove_file(&exported).on(|| "remove the exported key".to_owned())?;
        let needles = [
            ("the plaintext marker", marker.as_bytes()),
            ("the root key", longest_secret(&root)),
            ("half 1 of the data key", &data_key[..32]),
            ("half 2 of the data key", &data_key[32..]),
        ];
        let (mut files, mut bytes) = (0usize, 0usize);
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).on(|| format!("list {}", folder.display()))?.flatten() {
                let path = entry.path();
                let kind = entry.file_type().on(|| format!("look at {}", path.display()))?;
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    bytes += search_file(&path, &needles)?;
                    files += 1;
                }
            }
        }
        Ok(format!(
            "{} files, {} MiB of data: no marker, no plaintext key. The root key is in {}",
            files,
            bytes >> 20,
            self.key_file().display()
        ))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The secret part of a key file: its longest word, or all of it if it is not text.
fn longest_secret(file: &[u8]) -> &[u8] {
    let words = file.split(|b| b.is_ascii_whitespace() || *b == b':' || *b == b'"');
    words.max_by_key(|w| w.len()).filter(|w| file.is_ascii() && w.len() >= 32).unwrap_or(file)
}

/// Searches the data of a sparse file; returns how many bytes it read.
fn search_file(path: &Path, needles: &[(&str, &[u8])]) -> Result<usize> {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt;
    const WINDOW: usize = 4 << 20;
    let what = || format!("search {}", path.display());
    let file = std::fs::File::open(path).on(what)?;
    let longest = needles.iter().map(|(_, n)| n.len()).max().unwrap_or(1);
    let mut buf = vec![0u8; WINDOW + longest];
    let (mut at, mut total) = (0u64, 0usize);
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        let n = file.read_at(&mut buf, data).on(what)?;
        if n == 0 {
            break;
        }
        for (name, needle) in needles {
            if find(&buf[..n], needle) {
                return Err(Error::new(Kind::Integrity, format!("{name} is in {}, near byte {data}", path.display())));
            }
        }
        let step = n.min(WINDOW);
        total += step;
        at = data + step as u64;
    }
    Ok(total)
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|b| b == first) {
        if haystack[from + at..].starts_with(needle) {
            return true;
        }
        from += at + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_needle_is_found_across_windows_and_its_absence_is_not_claimed_wrongly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"the marker", (20 << 20) + (4 << 20) - 3).unwrap();
        assert!(search_file(&path, &[("it", b"the marker")]).is_err());
        assert!(search_file(&path, &[("it", b"the other!")]).unwrap() > 0);
    }
}
