//! How the demo mounts a volume: the kernel's nbd device, or nbdfuse and a loop device.

use crate::attach::Device;
use crate::attach::machine::Machine;
use crate::error::{Error, IoContext, Kind, Result};
use crate::measure::session::Session;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A way that works on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `coffer attach`.
    Nbd,
    /// nbdfuse presents the volume as a file; a loop device mounts it.
    Fuse,
}

/// The first way that works on this machine, or why none does.
pub(super) fn way() -> std::result::Result<Way, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".to_owned());
    }
    if let Some(missing) = ["mkfs.ext4", "e2fsck", "mount", "umount"].into_iter().find(|t| !have(t)) {
        return Err(format!("{missing} is not installed (run tools/setup demo)"));
    }
    if Path::new("/dev/nbd0").exists() {
        return Ok(Way::Nbd);
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        return Err("this machine has neither /dev/nbd0 nor /dev/fuse with loop devices".to_owned());
    }
    if !have("nbdfuse") {
        return Err("nbdfuse is not installed (run tools/setup demo)".to_owned());
    }
    Ok(Way::Fuse)
}

fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(tool).exists())
}

/// Runs a tool; its output is shown only if it fails.
pub(super) fn tool(name: &str, args: &[&OsStr]) -> Result<()> {
    let out = Command::new(name).args(args).stdin(Stdio::null()).output().on(|| format!("run {name}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::new(Kind::Failed, format!("{name} failed ({}): {said}", out.status)))
}

/// `syncfs(2)` of a mounted file system.
pub(super) fn sync(folder: &Path) -> Result<()> {
    let what = || format!("sync {}", folder.display());
    let dir = std::fs::File::open(folder).on(what)?;
    rustix::fs::syncfs(&dir).on(what)
}

/// A mounted volume. Dropping it unmounts.
pub(super) struct Mounted {
    device: PathBuf,
    at: PathBuf,
    mounted: bool,
    fuse: Option<Child>,
    detach: Option<Box<dyn FnOnce() -> Result<()>>>,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nbd => "coffer attach (the kernel's nbd)",
            Self::Fuse => "nbdfuse and a loop device",
        }
    }

    /// Makes the volume available as a block device or file, formats it if `fresh`, and mounts it at `at`.
    pub(super) fn mount(self, coffer: &Session, volume: &str, at: &Path, fresh: bool) -> Result<Mounted> {
        std::fs::create_dir_all(at).on(|| format!("create {}", at.display()))?;
        let mut mounted = match self {
            Self::Nbd => attach(coffer, volume, at)?,
            Self::Fuse => fuse(coffer, volume, at)?,
        };
        if fresh {
            tool("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), mounted.device.as_os_str()])?;
        }
        let mut args: Vec<&OsStr> = Vec::new();
        if self == Self::Fuse {
            args.extend(["-o".as_ref(), "loop".as_ref() as &OsStr]);
        }
        args.extend([mounted.device.as_os_str(), at.as_os_str()]);
        tool("mount", &args)?;
        mounted.mounted = true;
        Ok(mounted)
    }
}

fn attach(coffer: &Session, volume: &str, at: &Path) -> Result<Mounted> {
    let machine = Machine::this();
    let free = (0..16).map(Device).find(|d| machine.is_free(*d));
    let device = free.ok_or_else(|| Error::new(Kind::Busy, "all nbd devices are in use"))?.to_string();
    coffer.run(&["attach", volume, &device])?;
    let end = coffer.detacher(&device);
    Ok(Mounted { device: device.into(), at: at.to_owned(), mounted: false, fuse: None, detach: Some(end) })
}

fn fuse(coffer: &Session, volume: &str, at: &Path) -> Result<Mounted> {
    let folder = at.with_extension("fuse");
    std::fs::create_dir_all(&folder).on(|| format!("create {}", folder.display()))?;
    let file = folder.join("volume");
    std::fs::File::create(&file).on(|| format!("create {}", file.display()))?;
    let mut command = Command::new("nbdfuse");
    command.arg(&file).arg(coffer.uri(volume)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not reached by the terminal's signals: mounts are removed in order.
    command.process_group(0);
    let child = command.spawn();
    let mut mounted = Mounted {
        device: file.clone(),
        at: at.to_owned(),
        mounted: false,
        fuse: Some(child.on(|| "run nbdfuse".to_owned())?),
        detach: None,
    };
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
        if let Some(Ok(Some(status))) = mounted.fuse.as_mut().map(Child::try_wait) {
            return Err(Error::new(Kind::Failed, format!("nbdfuse ended: {status}")));
        }
        if Instant::now() > until {
            return Err(Error::new(Kind::Failed, "nbdfuse did not present the volume within 20 s"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(mounted)
}

impl Mounted {
    /// Unmounts, runs e2fsck if `check`, then removes the device.
    pub(super) fn end(&mut self, check: bool) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            tool("umount", &[self.at.as_os_str()])?;
        }
        let checked =
            if check { tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), self.device.as_os_str()]) } else { Ok(()) };
        if let Some(mut child) = self.fuse.take() {
            tool("umount", &[self.device.as_os_str()])?;
            child.wait().on(|| "wait for nbdfuse".to_owned())?;
        }
        if let Some(detach) = self.detach.take() {
            detach()?;
        }
        checked
    }
}

impl Drop for Mounted {
    /// After a failure or a signal: removes as much as possible.
    fn drop(&mut self) {
        if std::mem::take(&mut self.mounted) {
            unmount(&self.at);
        }
        if let Some(mut child) = self.fuse.take() {
            unmount(&self.device);
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(detach) = self.detach.take() {
            let _ = detach();
        }
    }
}

/// Unmounts; a mount in use is detached lazily.
pub(super) fn unmount(at: &Path) {
    if tool("umount", &[at.as_os_str()]).is_err() {
        let _ = tool("umount", &["-l".as_ref(), at.as_os_str()]);
    }
}
