//! The audit log: who did what with which key, and the result; a hash chain in DATA/audit/.
//!
//! # Segment `<first sequence, 16 hex digits>.log`; record version 1 (since coffer 0.1)
//! ```text
//! offset  bytes  field (integers little-endian)
//!      0      4  length of the whole record
//!      4      1  version: 2 for a checkpoint, 1 for all others
//!      5      1  kind: 0 genesis, 1 intent, 2 outcome, 3 event, 4 accept, 5 checkpoint
//!      6      2  0
//!      8      8  sequence, from 0, without gaps over all segments
//!     16     32  SHA-256 of the whole previous record; zeros in the first
//!     48      n  body, canonical JSON (see [`Body`])
//!   48+n      4  CRC32C of all before
//! ```
//! An act that changes the catalog is an *intent* (with the hash of each change), durable before the catalog's commit,
//! and an *outcome* after it. A use of a key changes nothing: it is one *event*, durable before key bytes leave. The
//! catalog stores the log's count and head (under its MAC): for an intent in the act's own transaction, for an event
//! right after it. Threads that record at once share a sync and a commit of the head (see `super::group`).
//!
//! A segment begins with a checkpoint: a digest of all objects, and the unfinished intents, under a MAC. Reading starts
//! at the newest one.
//!
//! # At open, from the newest checkpoint on; within a minute, for the whole log and all rows
//! | found | done |
//! |---|---|
//! | a torn record after the catalog's head | cut: no answer was sent for it |
//! | an intent without outcome | closed as `ok` or `interrupted`, by what the catalog has; left open on a full disk (see `known`) |
//! | fewer records than the head counts; another hash at the head; a bad record before it | trouble |
//! | an audited object whose version or hash differs from the log's last act on it | trouble: catalog rolled back, or log cut |
//! | an object that no record names, or one that is missing | the same |
//! | a bad or missing record in a segment that a later checkpoint follows | reported, and keys stay usable |
//!
//! In trouble, keys stay unavailable until `audit accept`, which sets damaged records aside, keeps them, and records
//! that in the chain. The chain proves nothing against root on this machine: only heads kept elsewhere do.
//!
//! # On a full disk
//! Disk space is allocated ahead of the newest segment's end, so that uses of keys can be recorded for a while.
//! `reserve` is 1 MiB kept for acts that restrict or free space (disable, schedule deletion, detach, delete). On a full
//! disk it is released for them and for opening; nothing else is recorded until it has been allocated again, which each
//! act tries.

mod checkpoint;
mod digest;
mod expire;
mod find;
mod known;
mod log;
mod read;
mod record;
mod scan;

pub(super) use checkpoint::CheckpointKey;
pub(super) use expire::{expirable, is_removable, read_base, remove_before, write_base};
pub use find::{AuditEvent, Filter, Page};
pub(super) use find::{Wanted, events, newest};
pub(super) use known::{Compared, Name};
#[cfg(test)]
pub(crate) use log::RESERVE;
pub(super) use log::{Entry, Log, give_up_reserve};
pub use read::Reader;
pub(super) use record::Body;
pub use record::{AuditHead, AuditRecord, Identity, RecordKind};
pub(super) use scan::{Scan, Start};

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
