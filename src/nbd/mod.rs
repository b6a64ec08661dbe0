//! The NBD server: the protocol of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, fixed newstyle, with
//! simple and structured replies and extended headers. A front end of [`crate::engine`].
//!
//! Read in this order: [`codec`] (bytes on the wire), [`session`] (the protocol as a state machine, without sockets),
//! [`errno`] (how errors are reported to a client), [`export`] (what is served), `conn` (a connection's thread: reads
//! and submits), `output` (sending, by that thread and by the engine's workers) and [`serve`] (listeners and the server
//! as a whole).
//!
//! `wire` is the transport, plain or TLS; [`tls`] has the server's certificates, [`pki`] makes them.
//!
//! [`request`] has the rules of requests, [`reply`] the three formats of replies; `answer` turns a completed request
//! into its reply.

mod answer;
pub mod codec;
mod conn;
mod controller;
pub mod errno;
pub mod export;
pub mod memory;
mod outgoing;
mod output;
pub mod pki;
mod quiet;
pub mod replay;
pub mod reply;
pub mod request;
pub mod serve;
pub mod session;
mod spin;
pub mod tls;
pub mod uri;
pub mod volumes;
mod wire;

pub use crate::engine::{Attempt, Blocking, Device, SystemTicks, Ticks, Zeroing};
pub use controller::Controller;
pub use errno::{Errno, Hangup};
pub use export::{Certificate, Client, Export, ExportEntry, ExportInfo, Exports, Peer, TlsPeer};
pub use serve::{Listener, Server, ServerConfig, Stats};
pub use tls::TlsServer;
