//! The NBD server: the protocol of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, fixed newstyle,
//! simple replies.
//!
//! Read in this order: [`codec`] (bytes on the wire), [`session`] (the protocol as a state machine, without sockets),
//! [`errno`] (what an error looks like to a client), [`export`] (what lies below), [`budget`] (payload memory), `link`
//! (one connection as its thread and the workers share it), `pool` (the workers), `conn` (one connection's thread)
//! and [`serve`] (listeners and the server as a whole).
//!
//! Structured replies, block status and TLS would enter at three places: the option table in [`session`], a second reply
//! encoder in [`codec`], and the stream type in `link`.

pub mod budget;
pub mod codec;
mod conn;
pub mod errno;
pub mod export;
mod link;
pub mod memory;
mod pool;
pub mod replay;
pub mod serve;
pub mod session;
pub mod volumes;

pub use errno::{Errno, Hangup};
pub use export::{Client, Effort, Export, ExportEntry, ExportInfo, Exports, Peer, Progress};
pub use serve::{Controller, Listener, Server, ServerConfig, Stats, SystemTicks, Ticks};
