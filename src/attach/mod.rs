//! A volume as a disk of this machine: what `coffer attach` has to do with the kernel.
//!
//! Read in this order: [`Driver`] (what a kernel driver has to offer), [`netlink`] (the nbd driver's messages as bytes),
//! [`nbd`] (the nbd driver), [`machine`] (what `/sys` and `/proc` say of its devices), [`dial`] (connections to the server),
//! [`keeper`] (what is done when connections end) and [`helper`] (the process that does it).

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

/// Bytes of the device's blocks: one sector of a volume.
pub const BLOCK: u64 = 4096;
/// How long the kernel waits for a reply before it sends a request again, on another connection.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests wait for a connection before they fail.
pub const DEAD_CONNECTION: Duration = Duration::from_secs(24 * 3600);
/// The most connections of one device.
pub const MOST_CONNECTIONS: u32 = 16;

/// An nbd device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Device(pub u32);

impl Device {
    /// The device at a path, as `/dev/nbd0`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for another name.
    pub fn at(path: &Path) -> Result<Self> {
        let name = path.strip_prefix("/dev").unwrap_or(path).to_str().unwrap_or_default();
        let number = name.strip_prefix("nbd").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(|n| n.parse().ok()).map(Self).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} is not an nbd device", path.display()))
                .hint("use a name such as /dev/nbd0, or omit it to get a free device")
        })
    }

    /// Its name below `/sys/block`.
    #[must_use]
    pub fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    /// Its path.
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

/// What a new device is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes.
    pub size: u64,
    /// The server's transmission flags (NBD, "Transmission flags").
    pub flags: u16,
    /// What tells this attachment from any other: the kernel keeps it with the device.
    pub backend: String,
}

/// A kernel driver that makes a block device of connections to a server.
pub trait Driver {
    /// Shows the device. The kernel takes copies of the sockets, which must have no timeouts set.
    ///
    /// # Errors
    /// [`Kind::Busy`] if the device is in use; what the kernel says.
    fn connect(&mut self, device: Device, disk: &NewDisk, sockets: &[BorrowedFd<'_>]) -> Result<()>;

    /// Offers a socket in the place of a dead one. `false`: none is dead, and the kernel has not taken it.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if the device is not connected, or is another's now; what the kernel says.
    fn replace(&mut self, device: Device, backend: &str, socket: BorrowedFd<'_>) -> Result<bool>;

    /// Gives the device a new size in bytes.
    ///
    /// # Errors
    /// As [`Driver::replace`].
    fn resize(&mut self, device: Device, backend: &str, size: u64) -> Result<()>;

    /// Takes the device away; what was not answered fails.
    ///
    /// # Errors
    /// What the kernel says.
    fn disconnect(&mut self, device: Device) -> Result<()>;

    /// Whether the device is connected, and by this attachment where the kernel can tell.
    ///
    /// # Errors
    /// What the kernel says.
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
