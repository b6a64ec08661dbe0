//! The interface below the NBD server: lists of exports, and exports that read and write plain bytes.
//!
//! The service layer implements both; tests use one in memory.

use super::controller::Controller;
use crate::engine::Device;
use crate::error::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;

/// An open export, as one connection holds it: a device for which `NBD_FLAG_CAN_MULTI_CONN` holds.
pub trait Export: Device {
    /// Called when the client disconnects cleanly (`NBD_CMD_DISC`); requests in flight still finish.
    fn farewell(&self) {}
}

/// `base:allocation`: the range is not allocated.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: the range reads as zeroes.
pub const STATE_ZERO: u32 = 2;
/// The metadata context for holes and zeroes ("The `base:` metadata namespace").
pub const ALLOCATION: &str = "base:allocation";

/// An entry in the reply to `NBD_OPT_LIST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportEntry {
    /// The export's name.
    pub name: String,
    /// Description for people; may be empty.
    pub description: String,
}

/// The reply to `NBD_OPT_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name (without a token).
    pub name: String,
    /// Description for people; may be empty.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether writes are rejected.
    pub read_only: bool,
}

/// All exports of a server.
pub trait Exports: Send + Sync {
    /// Called once, before the first connection, with a handle for ending connections.
    fn served_by(&self, _server: Controller) {}
    /// Lists the exports that this client may see.
    fn list(&self, client: &Client) -> Vec<ExportEntry>;
    /// Describes an export, without taking a lease.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Busy`, … as they are reported to the client.
    fn info(&self, name: &str, client: &Client) -> Result<ExportInfo>;
    /// Called when a malformed request for an export was refused.
    fn refuse(&self, _client: &Client, _why: &Error) {}
    /// Lists the metadata contexts of an export, without taking a lease.
    ///
    /// # Errors
    /// As [`Exports::info`].
    fn contexts(&self, name: &str, client: &Client) -> Result<Vec<String>> {
        self.info(name, client).map(|_| Vec::new())
    }
    /// Opens an export and takes its lease, which ends when the connection's last Arc is dropped. The server drops its
    /// own after everything in flight on the connection has ended.
    ///
    /// # Errors
    /// As [`Exports::info`].
    fn open(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>>;
}

/// The client of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address or process.
    pub peer: Peer,
    /// The server's id of the connection, never reused.
    pub connection: u64,
    /// Its TLS identity, once TLS is on.
    pub tls: Option<TlsPeer>,
}

/// The identity of a TLS client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPeer {
    /// The client's certificate, if it sent one: verified against the client CA.
    pub certificate: Option<Certificate>,
}

/// The subject of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Common name, then the alternative names, each with its kind: `cn:`, `dns:`, `email:`, `uri:`.
    pub names: Vec<String>,
    /// `sha256:` and the SHA-256 of the whole certificate, hexadecimal.
    pub fingerprint: String,
}

/// The peer of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A process on this machine, according to the kernel (`SO_PEERCRED`).
    Unix {
        /// Process id when it connected; 0: not visible from this PID namespace.
        pid: i32,
        /// Effective user id when it connected.
        uid: u32,
        /// Start time of the process, clock ticks since boot (`/proc/PID/stat`, field 22); 0 if it had ended already.
        start_time: u64,
    },
    /// A TCP client.
    Tcp {
        /// The remote address and port.
        addr: SocketAddr,
    },
}

impl Peer {
    /// Makes the peer of a Unix socket.
    pub(super) fn of_unix(cred: crate::sys::PeerCred) -> Self {
        let start_time = crate::sys::ProcessStat::of(cred.pid).map_or(0, |stat| stat.start_time);
        Self::Unix { pid: cred.pid, uid: cred.uid, start_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let Peer::Unix { start_time, .. } = Peer::of_unix(crate::sys::PeerCred { pid, uid: 0 }) else { panic!() };
        assert!(start_time > 0);
    }
}
