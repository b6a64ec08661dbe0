//! The state of this machine's nbd devices in `/sys` and `/proc`.

use super::{BLOCK, Device};
use crate::error::{Error, IoContext, Kind, Result};
use std::path::{Path, PathBuf};

/// Size limit of a request to the server, in KiB. The kernel starts a request's timeout before it is sent: with 128 of
/// them queued, larger ones could time out while waiting for their turn.
const REQUEST_KIB: u64 = 1024;
/// Read-ahead in KiB: several requests at once.
const READ_AHEAD_KIB: u64 = 4096;

/// A machine, given by its root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// Returns the machine that this runs on.
    #[must_use]
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    fn block(&self, device: Device) -> PathBuf {
        self.root.join("sys/block").join(device.name())
    }

    fn fact(&self, device: Device, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.block(device).join(name)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    /// Whether the device has a server: then the driver shows the pid of the process that connected it.
    #[must_use]
    pub fn is_connected(&self, device: Device) -> bool {
        self.block(device).join("pid").exists()
    }

    /// Whether a new server can be connected to it.
    #[must_use]
    pub fn is_free(&self, device: Device) -> bool {
        !self.is_connected(device) && self.size(device) == 0
    }

    /// Returns the size in bytes; 0 without a server.
    #[must_use]
    pub fn size(&self, device: Device) -> u64 {
        self.fact(device, "size").and_then(|s| s.parse::<u64>().ok()).map_or(0, |sectors| sectors.saturating_mul(512))
    }

    /// Returns the identifier set when it was connected (Linux 5.14 and later).
    #[must_use]
    pub fn backend(&self, device: Device) -> Option<String> {
        self.fact(device, "backend")
    }

    /// Returns the number of its connections, including dead ones: the driver makes a queue for each, up to one per
    /// CPU.
    #[must_use]
    pub fn queues(&self, device: Device) -> u32 {
        let all = std::fs::read_dir(self.block(device).join("mq")).map(|d| d.flatten().count()).unwrap_or(0);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Sets request size and read-ahead. The kernel's defaults are for slower devices.
    ///
    /// # Errors
    /// What writing to `/sys` reports.
    pub fn tune(&self, device: Device) -> Result<()> {
        let most = self.fact(device, "queue/max_hw_sectors_kb").and_then(|s| s.parse().ok()).unwrap_or(u64::MAX);
        let settings = [("queue/max_sectors_kb", REQUEST_KIB.min(most)), ("queue/read_ahead_kb", READ_AHEAD_KIB)];
        settings.into_iter().try_for_each(|(name, kib)| {
            std::fs::write(self.block(device).join(name), kib.to_string()).on(|| format!("set {name} of {device}"))
        })
    }

    /// Checks that nothing uses the device: file systems, swap, device mapper, loop devices.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming the user.
    pub fn refuse_used(&self, device: Device) -> Result<()> {
        let busy = |by: String, hint| Err(Error::new(Kind::Busy, format!("{device} is {by}")).hint(hint));
        let numbers = self.numbers(device);
        let mounts = self.text("proc/self/mountinfo");
        // Fields: id, parent, major:minor, root, mount point, ...
        let mounted = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let number = words.nth(2)?;
            numbers.iter().any(|n| n == number).then(|| words.nth(1).unwrap_or_default().to_owned())
        });
        if let Some(place) = mounted {
            return busy(format!("mounted on {place}"), "unmount it first");
        }
        let path = device.path();
        let is_ours = |other: &str| is_part(other, &path);
        if self.text("proc/swaps").lines().any(|l| l.split_whitespace().next().is_some_and(is_ours)) {
            return busy("used as swap".to_owned(), "disable it first with swapoff");
        }
        if let Some(holder) = self.holder(device) {
            return busy(format!("used by {holder}"), "remove that device first with dmsetup or mdadm");
        }
        if let Some(name) = self.loop_over(&path) {
            return busy(format!("used by /dev/{name}"), "detach that device first with losetup -d");
        }
        Ok(())
    }

    /// Returns the directories in `/sys` of the device and its partitions.
    fn parts(&self, device: Device) -> Vec<PathBuf> {
        let (own, name) = (self.block(device), device.name());
        let inside = std::fs::read_dir(&own).into_iter().flatten().flatten().map(|e| e.path());
        let parts = inside.filter(|p| p.file_name().and_then(|f| f.to_str()).is_some_and(|f| f.starts_with(&name)));
        let mut all: Vec<_> = parts.collect();
        all.push(own);
        all
    }

    fn numbers(&self, device: Device) -> Vec<String> {
        let read = |p: PathBuf| std::fs::read_to_string(p.join("dev")).ok();
        self.parts(device).into_iter().filter_map(read).map(|t| t.trim().to_owned()).collect()
    }

    fn holder(&self, device: Device) -> Option<String> {
        let inside = |p: PathBuf| std::fs::read_dir(p.join("holders")).into_iter().flatten().flatten();
        let first = self.parts(device).into_iter().flat_map(inside).next()?;
        Some(first.file_name().to_string_lossy().into_owned())
    }

    fn loop_over(&self, path: &Path) -> Option<String> {
        let all = std::fs::read_dir(self.root.join("sys/block")).ok()?.flatten();
        let over = |name: &String| {
            let file = self.root.join("sys/block").join(name).join("loop/backing_file");
            std::fs::read_to_string(file).is_ok_and(|f| is_part(f.trim(), path))
        };
        all.map(|e| e.file_name().to_string_lossy().into_owned()).find(over)
    }
}

/// Whether a path is that of the device or of one of its partitions.
fn is_part(path: &str, device: &Path) -> bool {
    let Some(rest) = path.strip_prefix(device.to_str().unwrap_or_default()) else { return false };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    rest.is_empty() || rest.strip_prefix('p').is_some_and(digits)
}

/// Opens the device exclusively, so that no one starts using it (open(2), O_EXCL on a block device).
///
/// # Errors
/// [`Kind::Busy`] if it is in use, in whichever mount namespace.
pub fn claim(device: Device) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::File::options().read(true).custom_flags(libc::O_EXCL).open(device.path());
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::new(Kind::Busy, format!("{device} is in use")).hint("unmount it first"),
        _ => Error::io(format!("open {device}"), e),
    })
}

const _: () = assert!(BLOCK <= 4096, "the driver supports no blocks larger than a page");

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
