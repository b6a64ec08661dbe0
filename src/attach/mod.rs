//! A volume as a disk of this machine: the kernel side of `coffer attach`.
//!
//! Read in this order: [`Driver`] (what a kernel driver must offer), [`netlink`] (the nbd driver's messages as bytes),
//! [`nbd`] (the nbd driver), [`machine`] (its devices in `/sys` and `/proc`), [`dial`] (connections to the server),
//! [`keeper`] (keeps a device connected) and [`helper`] (the process that does).

pub mod dial;
pub mod helper;
pub mod keeper;
pub mod machine;
pub mod nbd;
pub mod netlink;

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Block size of the device in bytes: one sector of a volume.
pub const BLOCK: u64 = 4096;
/// How long the kernel waits for a reply before it resends a request, over another connection.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests wait for a connection before they fail.
pub const DEAD_CONNECTION: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of connections of a device.
pub const MOST_CONNECTIONS: u32 = 16;

/// The number of an nbd device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Device(pub u32);

impl Device {
    /// Returns the device at a path, such as `/dev/nbd0`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for any other name.
    pub fn at(path: &Path) -> Result<Self> {
        let name = path.strip_prefix("/dev").unwrap_or(path).to_str().unwrap_or_default();
        let number = name.strip_prefix("nbd").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(|n| n.parse().ok()).map(Self).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} is not an nbd device", path.display()))
                .hint("use a name such as /dev/nbd0, or omit it to get a free device")
        })
    }

    /// Returns its name in `/sys/block`.
    #[must_use]
    pub fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    /// Returns its path.
    #[must_use]
    pub fn path(self) -> PathBuf {
        Path::new("/dev").join(self.name())
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/dev/nbd{}", self.0)
    }
}

/// The parameters of a new device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Size in bytes.
    pub size: u64,
    /// The server's transmission flags (NBD, "Transmission flags").
    pub flags: u16,
    /// Identifies this attachment: the kernel stores it with the device.
    pub backend: String,
}

/// A kernel driver that makes a block device from connections to a server.
pub trait Driver {
    /// Connects the device. The kernel duplicates the sockets, which must have no timeouts set.
    ///
    /// # Errors
    /// [`Kind::Busy`] if the device is in use; what the kernel reports.
    fn connect(&mut self, device: Device, disk: &NewDisk, sockets: &[BorrowedFd<'_>]) -> Result<()>;

    /// Offers a socket as a replacement for a dead one. `false`: none is dead, and the kernel has not taken it.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if the device is not connected, or by another attachment; what the kernel reports.
    fn replace(&mut self, device: Device, backend: &str, socket: BorrowedFd<'_>) -> Result<bool>;

    /// Sets the device's size in bytes.
    ///
    /// # Errors
    /// As [`Driver::replace`].
    fn resize(&mut self, device: Device, backend: &str, size: u64) -> Result<()>;

    /// Disconnects the device; unanswered requests fail.
    ///
    /// # Errors
    /// What the kernel reports.
    fn disconnect(&mut self, device: Device) -> Result<()>;

    /// Whether the device is connected, and by this attachment if the kernel can tell.
    ///
    /// # Errors
    /// What the kernel reports.
    fn is_connected(&mut self, device: Device, backend: &str) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_names() {
        assert_eq!(Device::at(Path::new("/dev/nbd12")).unwrap(), Device(12));
        assert_eq!(Device::at(Path::new("nbd0")).unwrap().to_string(), "/dev/nbd0");
        for bad in ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd+1", "/tmp/nbd0", "", "/dev/nbd4294967296"] {
            assert_eq!(Device::at(Path::new(bad)).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
