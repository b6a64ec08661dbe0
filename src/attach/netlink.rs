//! Messages of the kernel's nbd driver over generic netlink: bytes in, bytes out, no sockets.
//!
//! Sources: `include/uapi/linux/nbd-netlink.h`, `include/uapi/linux/genetlink.h` and netlink(7). Numbers are in native
//! byte order; attributes are padded to four bytes.

use super::{BLOCK, DEAD_CONNECTION, Device, NewDisk, REQUEST_TIMEOUT};
use crate::error::{Error, Kind, Result};
use netlink_packet_core::{
    DefaultNla, Emitable, ErrorBuffer, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NlaBuffer, NlasIterator,
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The family's name (`NBD_GENL_FAMILY_NAME`).
pub const FAMILY: &str = "nbd";
/// Its multicast group for events (`NBD_GENL_MCAST_GROUP_NAME`).
pub const EVENTS: &str = "nbd_mc_group";

const GENL_ID_CTRL: u16 = 0x10;
/// Bytes in `struct genlmsghdr`: command, version, two unused.
const GENL_HEADER: usize = 4;
/// Bytes in `struct nlmsghdr`.
const HEADER: usize = 16;

/// `CTRL_CMD_*`, `CTRL_ATTR_*`.
mod ctrl {
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const GROUPS: u16 = 7;
    pub(super) const GROUP_NAME: u16 = 1;
    pub(super) const GROUP_ID: u16 = 2;
}

/// `NBD_CMD_*`.
pub mod command {
    /// Connects a device.
    pub const CONNECT: u8 = 1;
    /// Disconnects a device.
    pub const DISCONNECT: u8 = 2;
    /// Changes a device: size, replacements for dead sockets.
    pub const RECONFIGURE: u8 = 3;
    /// An event: a connection has ended.
    pub const LINK_DEAD: u8 = 4;
    /// Queries the devices.
    pub const STATUS: u8 = 5;
}

/// `NBD_ATTR_*`, `NBD_SOCK_*`, `NBD_DEVICE_*`.
mod attribute {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE: u16 = 2;
    pub(super) const BLOCK_SIZE: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const CLIENT_FLAGS: u16 = 6;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const DEVICE_LIST: u16 = 9;
    /// Linux 5.14 and later; older kernels ignore it.
    pub(super) const BACKEND: u16 = 10;
    pub(super) const ITEM: u16 = 1;
    pub(super) const SOCKET_FD: u16 = 1;
    pub(super) const DEVICE_INDEX: u16 = 1;
    pub(super) const DEVICE_CONNECTED: u16 = 2;
}

/// The driver's netlink family on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Message type of its messages.
    pub id: u16,
    /// Multicast group of its events; 0 if it has none.
    pub events: u32,
}

/// Makes a message to the kernel, requesting an acknowledgement.
fn message(kind: u16, command: u8, version: u8, sequence: u32, attributes: &[DefaultNla]) -> Vec<u8> {
    let length = HEADER + GENL_HEADER + attributes.buffer_len();
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    header.sequence_number = sequence;
    let mut out = vec![0; length];
    header.emit(&mut out[..HEADER]);
    out[HEADER..HEADER + GENL_HEADER].copy_from_slice(&[command, version, 0, 0]);
    attributes.emit(&mut out[HEADER + GENL_HEADER..]);
    out
}

fn number32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn number64(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn string(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn sockets(all: &[BorrowedFd<'_>]) -> DefaultNla {
    let fd = |s: &BorrowedFd<'_>| number32(attribute::SOCKET_FD, s.as_raw_fd().cast_unsigned());
    let items: Vec<_> = all.iter().map(|s| nested(attribute::ITEM, &[fd(s)])).collect();
    nested(attribute::SOCKETS, &items)
}

/// Makes a query to the controller for the driver's family.
#[must_use]
pub fn get_family(sequence: u32) -> Vec<u8> {
    message(GENL_ID_CTRL, ctrl::GET_FAMILY, 2, sequence, &[string(ctrl::FAMILY_NAME, FAMILY)])
}

impl Family {
    fn message(self, command: u8, sequence: u32, attributes: &[DefaultNla]) -> Vec<u8> {
        message(self.id, command, 1, sequence, attributes)
    }

    /// Makes an `NBD_CMD_CONNECT`.
    #[must_use]
    pub fn connect(self, sequence: u32, device: Device, disk: &NewDisk, all: &[BorrowedFd<'_>]) -> Vec<u8> {
        let attributes = [
            number32(attribute::INDEX, device.0),
            number64(attribute::SIZE, disk.size),
            number64(attribute::BLOCK_SIZE, BLOCK),
            number64(attribute::TIMEOUT, REQUEST_TIMEOUT.as_secs()),
            number64(attribute::DEAD_CONN_TIMEOUT, DEAD_CONNECTION.as_secs()),
            number64(attribute::SERVER_FLAGS, disk.flags.into()),
            // The device stays when its last user closes it, and is not destroyed when it is disconnected.
            number64(attribute::CLIENT_FLAGS, 0),
            string(attribute::BACKEND, &disk.backend),
            sockets(all),
        ];
        self.message(command::CONNECT, sequence, &attributes)
    }

    /// Makes an `NBD_CMD_RECONFIGURE` with a socket that replaces a dead one.
    #[must_use]
    pub fn replace(self, sequence: u32, device: Device, backend: &str, socket: BorrowedFd<'_>) -> Vec<u8> {
        let attributes =
            [number32(attribute::INDEX, device.0), string(attribute::BACKEND, backend), sockets(&[socket])];
        self.message(command::RECONFIGURE, sequence, &attributes)
    }

    /// Makes an `NBD_CMD_RECONFIGURE` with a new size in bytes.
    #[must_use]
    pub fn resize(self, sequence: u32, device: Device, backend: &str, size: u64) -> Vec<u8> {
        let attributes = [
            number32(attribute::INDEX, device.0),
            string(attribute::BACKEND, backend),
            number64(attribute::SIZE, size),
        ];
        self.message(command::RECONFIGURE, sequence, &attributes)
    }

    /// Makes an `NBD_CMD_DISCONNECT`.
    #[must_use]
    pub fn disconnect(self, sequence: u32, device: Device) -> Vec<u8> {
        self.message(command::DISCONNECT, sequence, &[number32(attribute::INDEX, device.0)])
    }

    /// Makes an `NBD_CMD_STATUS` for one device.
    #[must_use]
    pub fn status(self, sequence: u32, device: Device) -> Vec<u8> {
        self.message(command::STATUS, sequence, &[number32(attribute::INDEX, device.0)])
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The request that it answers; 0 for an event.
    pub sequence: u32,
    /// Its contents.
    pub what: What,
}

/// The contents of a message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The request has completed, or failed with this errno.
    End(Option<i32>),
    /// An answer or event of a family.
    Told {
        /// The family.
        kind: u16,
        /// The family's command.
        command: u8,
        /// Type and value of each attribute.
        attributes: Vec<(u16, Vec<u8>)>,
    },
}

/// Parses the messages of one datagram.
///
/// # Errors
/// [`Kind::Failed`] if a length is invalid.
pub fn hear(mut datagram: &[u8]) -> Result<Vec<Heard>> {
    let bad = |e| Error::new(Kind::Failed, "netlink: malformed message from the kernel").because(e);
    let mut all = Vec::new();
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(bad)?;
        let (sequence, kind) = (message.sequence_number(), message.message_type());
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = message.payload();
        let what = if kind == NLMSG_ERROR {
            let code = ErrorBuffer::new_checked(payload).map_err(bad)?.code();
            What::End(code.map(|c| c.get().saturating_neg()))
        } else {
            let (head, body) = payload
                .split_at_checked(GENL_HEADER)
                .ok_or_else(|| Error::new(Kind::Failed, "netlink: truncated message from the kernel"))?;
            What::Told { kind, command: head[0], attributes: attributes(body)? }
        };
        all.push(Heard { sequence, what });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(all)
}

fn attributes(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>> {
    NlasIterator::new(bytes)
        .map(|a| a.map(|a: NlaBuffer<&[u8]>| (a.kind(), a.value().to_vec())))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::new(Kind::Failed, "netlink: malformed attribute from the kernel").because(e))
}

fn find(all: &[(u16, Vec<u8>)], kind: u16) -> Option<&[u8]> {
    all.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice())
}

fn find16(all: &[(u16, Vec<u8>)], kind: u16) -> Option<u16> {
    find(all, kind)?.try_into().ok().map(u16::from_ne_bytes)
}

fn find32(all: &[(u16, Vec<u8>)], kind: u16) -> Option<u32> {
    find(all, kind)?.try_into().ok().map(u32::from_ne_bytes)
}

impl What {
    /// Returns the family in the controller's answer.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        let Self::Told { kind: GENL_ID_CTRL, attributes: all, .. } = self else { return None };
        let id = find16(all, ctrl::FAMILY_ID)?;
        let groups = find(all, ctrl::GROUPS).and_then(|g| attributes(g).ok()).unwrap_or_default();
        let events = groups.iter().find_map(|(_, group)| {
            let group = attributes(group).ok()?;
            let name = find(&group, ctrl::GROUP_NAME)?;
            (name.strip_suffix(&[0]).unwrap_or(name) == EVENTS.as_bytes()).then(|| find32(&group, ctrl::GROUP_ID))?
        });
        Some(Family { id, events: events.unwrap_or(0) })
    }

    /// Returns the device of which a connection has ended (`NBD_CMD_LINK_DEAD`).
    #[must_use]
    pub fn link_dead(&self, family: Family) -> Option<Device> {
        match self {
            Self::Told { kind, command: command::LINK_DEAD, attributes } if *kind == family.id => {
                find32(attributes, attribute::INDEX).map(Device)
            }
            _ => None,
        }
    }

    /// Whether this answer to `NBD_CMD_STATUS` says that the device is connected.
    #[must_use]
    pub fn says_connected(&self, family: Family, device: Device) -> bool {
        let Self::Told { kind, command: command::STATUS, attributes: all } = self else { return false };
        let list = find(all, attribute::DEVICE_LIST).and_then(|l| attributes(l).ok()).unwrap_or_default();
        *kind == family.id
            && list.iter().filter_map(|(_, item)| attributes(item).ok()).any(|item| {
                find32(&item, attribute::DEVICE_INDEX) == Some(device.0)
                    && find(&item, attribute::DEVICE_CONNECTED) == Some(&[1])
            })
    }
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
