//! What lies below the NBD server: something that lists exports, and an export that reads and writes plain bytes.
//!
//! The service layer implements both; tests use one in memory.

use super::controller::Controller;
use crate::engine::Device;
use crate::error::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;

/// One open export, as one connection holds it: a device, for which NBD's `NBD_FLAG_CAN_MULTI_CONN` holds.
pub trait Export: Device {
    /// The client has said goodbye on this connection (`NBD_CMD_DISC`); what is in flight ends still.
    fn farewell(&self) {}
}

/// `base:allocation`: the range takes no space.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: the range reads as zeroes.
pub const STATE_ZERO: u32 = 2;
/// Name of the context that tells holes and zeroes ("The `base:` metadata namespace").
pub const ALLOCATION: &str = "base:allocation";

/// A line of `NBD_OPT_LIST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportEntry {
    /// The name to ask for.
    pub name: String,
    /// Words for people; may be empty.
    pub description: String,
}

/// What `NBD_OPT_INFO` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name (without a token).
    pub name: String,
    /// Words for people; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// All exports of a server.
pub trait Exports: Send + Sync {
    /// Told once, before the first connection, how connections of the server can be ended.
    fn served_by(&self, _server: Controller) {}
    /// The exports that this client may know of.
    fn list(&self, client: &Client) -> Vec<ExportEntry>;
    /// Describes an export; takes no lease.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Busy`, … as the client is to hear them.
    fn info(&self, name: &str, client: &Client) -> Result<ExportInfo>;
    /// Told that a client asked for an export in a way that cannot be read, and was refused.
    fn refuse(&self, _client: &Client, _why: &Error) {}
    /// The metadata contexts of an export; takes no lease.
    ///
    /// # Errors
    /// As [`Exports::info`].
    fn contexts(&self, name: &str, client: &Client) -> Result<Vec<String>> {
        self.info(name, client).map(|_| Vec::new())
    }
    /// Opens an export and takes its lease; dropping the last Arc of that connection ends it. The server drops its own
    /// after everything in flight on the connection has ended.
    ///
    /// # Errors
    /// As [`Exports::info`].
    fn open(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>>;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The other end.
    pub peer: Peer,
    /// This server's number of the connection, never given twice.
    pub connection: u64,
    /// What TLS says of it, once TLS is on.
    pub tls: Option<TlsPeer>,
}

/// The other end of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPeer {
    /// The client's certificate, if it showed one: verified against the CA for clients.
    pub certificate: Option<Certificate>,
}

/// What a certificate says of whom it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Common name, then the alternative names, each with its kind: `cn:`, `dns:`, `email:`, `uri:`.
    pub names: Vec<String>,
    /// `sha256:` and the SHA-256 of the whole certificate, hexadecimal.
    pub fingerprint: String,
}

/// The other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A process on this machine, as the kernel knows it (`SO_PEERCRED`).
    Unix {
        /// Process id when it connected.
        pid: i32,
        /// Effective user id when it connected.
        uid: u32,
        /// When the process started, clock ticks since boot (`/proc/PID/stat`, field 22); 0 when it had ended already.
        start_time: u64,
    },
    /// An address.
    Tcp {
        /// The remote address and port.
        addr: SocketAddr,
    },
}

impl Peer {
    /// The process at the other end of a Unix socket.
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
