//! The NBD server: the protocol of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, fixed newstyle,
//! simple replies.
//!
//! Read in this order: [`codec`] (bytes on the wire), [`session`] (the protocol as a state machine, without sockets),
//! [`errno`] (what an error looks like to a client), [`export`] (what lies below), [`budget`] (payload memory), `link`
//! (one connection as its thread and the workers share it), `pool` (the workers), [`traffic`] (what the connections of one
//! volume share: `order` of its writes, `hold` for what waits for its key, `limit` for how fast it goes), `conn` (one connection's thread)
//! and [`serve`] (listeners and the server as a whole).
//!
//! `wire` is the transport, bare or TLS; [`tls`] has the server's certificates, [`pki`] makes some.
//!
//! [`request`] has the rules of requests, [`reply`] the three shapes of replies; `apply` goes from one to the other, `parts` divides
//! what is too large for one thread.

mod apply;
pub mod budget;
pub mod codec;
mod commit;
mod conn;
pub mod errno;
pub mod export;
mod hold;
mod limit;
mod link;
pub mod memory;
mod order;
mod parts;
pub mod pki;
mod pool;
mod quiet;
pub mod replay;
pub mod reply;
pub mod request;
pub mod serve;
pub mod session;
mod spin;
pub mod tls;
pub mod traffic;
pub mod volumes;
mod wire;

pub use errno::{Errno, Hangup};
pub use export::{
    Certificate, Client, Effort, Export, ExportEntry, ExportInfo, Exports, Peer, Progress, TlsPeer, Zeroing,
};
pub use serve::{Controller, Listener, Server, ServerConfig, Stats, SystemTicks, Ticks};
pub use tls::TlsServer;
pub use traffic::Traffic;
