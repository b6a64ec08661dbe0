//! The kernel's nbd driver, controlled over generic netlink (`drivers/block/nbd.c`).

use super::machine::Machine;
use super::netlink::{Family, Heard, What, get_family, hear};
use super::{Device, Driver, NewDisk};
use crate::error::{Error, IoContext, Kind, Result};
use crate::sys::join_netlink_group;
use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Size limit of a datagram from the kernel, in bytes: it builds them in pages of its own, at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// Requests to the driver. All but the status query need CAP_SYS_ADMIN.
pub struct NbdDriver {
    socket: OwnedFd,
    family: Family,
    sequence: u32,
    machine: Machine,
}

fn netlink() -> Result<OwnedFd> {
    let what = || "open a netlink socket".to_owned();
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(GENERIC))
        .on(what)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).on(what)?;
    Ok(socket)
}

impl NbdDriver {
    /// Finds the driver.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if its module is not loaded.
    pub fn open() -> Result<Self> {
        let mut driver =
            Self { socket: netlink()?, family: Family { id: 0, events: 0 }, sequence: 0, machine: Machine::this() };
        let answers = driver.ask("find the nbd driver", get_family).map_err(|err| match err.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, "this kernel's nbd driver is not loaded")
                .hint("load the module with `modprobe nbd`"),
            _ => err,
        })?;
        driver.family = answers.iter().find_map(What::family).ok_or_else(|| {
            Error::new(Kind::Unsupported, "this kernel's nbd driver has no netlink interface")
                .hint("use Linux 5.10 or later")
        })?;
        Ok(driver)
    }

    /// Subscribes to the driver's events.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn events(&self) -> Result<Events> {
        let socket = netlink()?;
        if self.family.events != 0 {
            join_netlink_group(&socket, self.family.events).on(|| "listen to the nbd driver".to_owned())?;
        }
        Ok(Events { socket, family: self.family })
    }

    /// Sends a request and reads until its end; returns the answers before that.
    fn ask(&mut self, what: &str, request: impl FnOnce(u32) -> Vec<u8>) -> Result<Vec<What>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let bytes = request(self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel).on(|| what.to_owned())?;
        let mut answers = Vec::new();
        loop {
            for Heard { sequence, what: said } in self.receive(what)? {
                match said {
                    _ if sequence != self.sequence => {}
                    What::End(None) => return Ok(answers),
                    What::End(Some(code)) => return Err(refusal(what, code)),
                    told @ What::Told { .. } => answers.push(told),
                }
            }
        }
    }

    fn receive(&self, what: &str) -> Result<Vec<Heard>> {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((n, _)) => return hear(&buffer[..n]),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).on(|| what.to_owned()),
            }
        }
    }
}

fn refusal(what: &str, code: i32) -> Error {
    let cause = std::io::Error::from_raw_os_error(code);
    match code {
        libc::EINVAL => Error::new(Kind::InvalidState, what).because(cause),
        libc::EBUSY => Error::new(Kind::Busy, what).because(cause).hint("choose another device"),
        libc::EPERM | libc::EACCES => Error::new(Kind::AccessDenied, what).because(cause).hint("run as root"),
        _ => Error::io(what, cause),
    }
}

impl Driver for NbdDriver {
    fn connect(&mut self, device: Device, disk: &NewDisk, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        let family = self.family;
        self.ask(&format!("connect {device}"), |n| family.connect(n, device, disk, sockets)).map(drop)
    }

    fn replace(&mut self, device: Device, backend: &str, socket: BorrowedFd<'_>) -> Result<bool> {
        let (family, what) = (self.family, format!("give {device} a new connection"));
        self.ask(&what, |n| family.replace(n, device, backend, socket))?;
        // If no connection was dead, the kernel reports nothing and drops the socket. If it takes the socket, it sets
        // the request timeout as its send timeout (nbd_reconnect_socket), which is visible on our descriptor of it.
        Ok(socket_timeout(socket, Timeout::Send).on(|| what)?.is_some())
    }

    fn resize(&mut self, device: Device, backend: &str, size: u64) -> Result<()> {
        let family = self.family;
        self.ask(&format!("give {device} a new size"), |n| family.resize(n, device, backend, size)).map(drop)
    }

    fn disconnect(&mut self, device: Device) -> Result<()> {
        let family = self.family;
        self.ask(&format!("disconnect {device}"), |n| family.disconnect(n, device)).map(drop)
    }

    fn is_connected(&mut self, device: Device, backend: &str) -> Result<bool> {
        let family = self.family;
        let answers = self.ask(&format!("query {device}"), |n| family.status(n, device))?;
        // The driver also counts processes that only have the device open; with a server, it has a pid.
        Ok(answers.iter().any(|a| a.says_connected(family, device))
            && self.machine.is_connected(device)
            && self.machine.backend(device).is_none_or(|b| b == backend))
    }
}

/// The driver's events.
pub struct Events {
    socket: OwnedFd,
    family: Family,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Events {
    /// Reads all pending events; returns whether a connection of this device has ended, or events were lost.
    #[must_use]
    pub fn tell_of(&self, device: Device) -> bool {
        let mut buffer = vec![0; DATAGRAM];
        let mut dead = false;
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((n, _)) => {
                    let heard = hear(&buffer[..n]).unwrap_or_default();
                    dead |= heard.iter().any(|h| h.what.link_dead(self.family) == Some(device));
                }
                Err(Errno::INTR) => {}
                // The socket's buffer was full.
                Err(Errno::NOBUFS) => dead = true,
                Err(_) => return dead,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The controller answers on every Linux; the driver may be missing, and then the error says so.
    #[test]
    fn the_driver_is_found_or_said_to_be_missing() {
        match NbdDriver::open() {
            Ok(driver) => assert!(driver.family.id > 0x10),
            Err(err) => {
                assert_eq!(err.kind(), Kind::NotFound, "{}", err.line());
                assert!(err.line().contains("modprobe nbd"), "{}", err.line());
            }
        }
    }

    #[test]
    fn refusals_keep_their_meaning() {
        assert_eq!(refusal("x", libc::EINVAL).kind(), Kind::InvalidState);
        assert_eq!(refusal("x", libc::EBUSY).kind(), Kind::Busy);
        assert_eq!(refusal("x", libc::EPERM).kind(), Kind::AccessDenied);
        assert_eq!(refusal("x", libc::ENOENT).kind(), Kind::NotFound);
    }
}
