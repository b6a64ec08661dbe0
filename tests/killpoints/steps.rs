//! Runs a process and names each of its durable steps; kills it before one of them.
//!
//! Steps are counted over all threads, in the order of the system calls. The data of a step is not examined: `fsync(2)`
//! and the like are not steps, for a kill loses nothing that was written.

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The ending of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed,
}

/// A run: its steps, including the fatal one, and its ending.
pub struct Run {
    pub steps: Vec<String>,
    pub end: End,
}

/// Runs `command`, which stops itself at its start; with `kill_before`, up to that step.
#[expect(clippy::zombie_processes, reason = "waitpid waits for it, and for its threads")]
pub fn run(command: &mut Command, below: &Path, kill_before: Option<usize>) -> Run {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let main = Pid::from_raw(child.id() as i32);
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    assert!(matches!(waitpid(main, Some(flags)).unwrap(), WaitStatus::Stopped(_, Signal::SIGSTOP)));
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(main, options).unwrap();
    ptrace::syscall(main, None).unwrap();
    let mut steps = Vec::new();
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(step) = entered(thread).and_then(|call| call.step(below)) {
                    steps.push(step);
                    if kill_before == Some(steps.len() - 1) {
                        kill(main, Signal::SIGKILL).unwrap();
                        continue;
                    }
                }
                (thread, None)
            }
            // A new thread's own first stop; every other signal is the process's.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Exited(pid, code) if pid == main => return Run { steps, end: End::Exited(code) },
            WaitStatus::Signaled(pid, ..) if pid == main => return Run { steps, end: End::Killed },
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(thread, signal);
    }
}

/// A system call that a thread is about to make.
struct Call {
    thread: Pid,
    number: i64,
    args: [u64; 6],
}

/// Returns the call at whose entry a thread stopped; `None`: it stopped at the end of one.
fn entered(thread: Pid) -> Option<Call> {
    let info = ptrace::syscall_info(thread).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let regs = ptrace::getregs(thread).ok()?;
    #[cfg(target_arch = "x86_64")]
    let (number, args) = (regs.orig_rax as i64, [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]);
    #[cfg(target_arch = "aarch64")]
    let (number, args) = (regs.regs[8] as i64, std::array::from_fn(|i| regs.regs[i]));
    Some(Call { thread, number, args })
}

impl Call {
    /// Returns the file of a descriptor argument.
    fn file(&self, arg: usize) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/fd/{}", self.thread, self.args[arg] as i32)).ok()
    }

    /// Returns the path that an argument points to, relative to the directory descriptor in another.
    fn path(&self, folder: Option<usize>, arg: usize) -> Option<PathBuf> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut raw = [0u8; 4096];
        let n = memory.read_at(&mut raw, self.args[arg]).ok()?;
        let text = &raw[..raw[..n].iter().position(|b| *b == 0)?];
        let path = PathBuf::from(std::str::from_utf8(text).ok()?);
        match folder {
            _ if path.is_absolute() => Some(path),
            Some(folder) if self.args[folder] as i32 != libc::AT_FDCWD => Some(self.file(folder)?.join(path)),
            _ => Some(std::fs::read_link(format!("/proc/{}/cwd", self.thread)).ok()?.join(path)),
        }
    }

    /// Returns the step's name, if the call changes a file or a directory below `below`.
    fn step(&self, below: &Path) -> Option<String> {
        let (verb, path) = self.change()?;
        let path = path?;
        let inside = path.strip_prefix(below).ok()?;
        Some(format!("{verb} {}", class(inside)))
    }

    fn change(&self) -> Option<(&'static str, Option<PathBuf>)> {
        let fd = |verb| Some((verb, self.file(0)));
        #[cfg(target_arch = "x86_64")]
        match self.number {
            libc::SYS_open | libc::SYS_creat => return self.opening(None, 0, self.args[1]),
            libc::SYS_rename | libc::SYS_link => return Some(("name", self.path(None, 1))),
            libc::SYS_unlink | libc::SYS_rmdir => return Some(("remove", self.path(None, 0))),
            libc::SYS_mkdir | libc::SYS_symlink => return Some(("make", self.path(None, 0))),
            _ => {}
        }
        match self.number {
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                fd("write")
            }
            libc::SYS_ftruncate => fd("set the length of"),
            libc::SYS_fallocate => fd("allocate or punch"),
            libc::SYS_copy_file_range => Some(("write", self.file(2))),
            libc::SYS_sendfile => fd("write"),
            libc::SYS_fchmod | libc::SYS_fchown => fd("change the mode or owner of"),
            libc::SYS_fchmodat | libc::SYS_fchownat => Some(("change the mode or owner of", self.path(Some(0), 1))),
            libc::SYS_truncate => Some(("set the length of", self.path(None, 0))),
            libc::SYS_openat => self.opening(Some(0), 1, self.args[2]),
            libc::SYS_openat2 => self.opening(Some(0), 1, self.word(2)?),
            libc::SYS_renameat2 | libc::SYS_linkat => Some(("name", self.path(Some(2), 3))),
            libc::SYS_unlinkat => Some(("remove", self.path(Some(0), 1))),
            libc::SYS_mkdirat => Some(("make", self.path(Some(0), 1))),
            libc::SYS_symlinkat => Some(("make", self.path(Some(1), 2))),
            libc::SYS_io_uring_setup => panic!("io_uring: its writes are not seen from here"),
            _ => None,
        }
    }

    /// Returns the first eight bytes that an argument points to.
    fn word(&self, arg: usize) -> Option<u64> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut raw = [0u8; 8];
        memory.read_exact_at(&mut raw, self.args[arg]).ok()?;
        Some(u64::from_ne_bytes(raw))
    }

    /// Opening a file is a step if it creates or truncates one.
    fn opening(&self, folder: Option<usize>, arg: usize, flags: u64) -> Option<(&'static str, Option<PathBuf>)> {
        let (flags, path) = (flags as i32, self.path(folder, arg)?);
        let there = path.symlink_metadata().is_ok();
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return None; // it has no name: it ends with its process
        }
        if flags & libc::O_CREAT != 0 && !there {
            return Some(("make", Some(path)));
        }
        (flags & libc::O_TRUNC != 0 && there).then_some(("empty", Some(path)))
    }
}

/// Returns the kind of file that a path is, without ids.
///
/// # Panics
/// For a file of an unknown kind: the harness must know what it kills.
fn class(inside: &Path) -> String {
    let text = inside.to_str().unwrap();
    if text.ends_with(" (deleted)") {
        return "a file without a name".to_owned();
    }
    let mut parts: Vec<&str> = text.split('/').collect();
    // A repository that was added.
    if ["more", "moved"].contains(&parts[0]) {
        parts.splice(..1, ["data", "repository"]);
    }
    let known = match &parts[..] {
        ["root.key"] => "the root key file",
        ["data"] => "the data directory",
        ["data", "volumes" | "repository" | "audit"] => "a folder",
        ["data", "root.json" | "root.b.json"] => "root.json",
        ["data", "root.json.new" | "root.b.json.new"] => "new root.json",
        ["data", "init-unfinished"] => "init's marker",
        ["data", "lock"] => "lock",
        ["data", "catalog.db"] => "catalog",
        ["data", "catalog.db-wal"] => "catalog's log",
        ["data", "catalog.db-journal"] => "catalog's journal",
        ["data", "catalog.spare"] => "catalog's spare blocks",
        ["data", "audit", "reserve"] => "audit reserve",
        ["data", "audit", "base-new"] => "the audit's new base",
        ["data", "audit", name] if name.starts_with("base-") => "the audit's base",
        ["data", "audit", name] if name.ends_with(".log") => "audit",
        ["data", "audit", name] if name.starts_with("set-aside-") => "set-aside audit",
        ["data", "volumes", name] if name.ends_with(".coffer") => "volume",
        ["data", "volumes", name] if name.ends_with(".new") => "new volume",
        ["data", "volumes", name] if name.ends_with(".spill") => "spill",
        ["data", "staging"] | ["data", "staging", _] => "a folder",
        ["data", "cache"] | ["data", "cache", _] | ["data", "cache", _, _] => "a folder",
        ["data", "cache", _, _, _] => "cached file",
        ["data", "staging", _, "progress"] => "snapshot's progress",
        ["data", "staging", _, name] if name.ends_with(".pack") => "staged pack",
        ["data", "repository", name] if name.starts_with("coffer-repository.json") => "repository's description",
        ["data", "repository", _] | ["data", "repository", _, _] => "a folder",
        ["data", "repository", _, "refs", _] => "ref",
        ["data", "repository", _, _, "log" | "manifests" | "pages" | "packs" | "redirects"] => "a folder",
        ["data", "repository", _, _, sort, _] => match *sort {
            "log" => "repository's log",
            "manifests" => "manifest",
            "pages" => "page",
            "packs" => "pack",
            _ => "redirect",
        },
        ["out", ..] => "the exported file",
        _ => panic!("a file that the harness does not know: {text}"),
    };
    known.to_owned()
}
