//! coffer: encrypted block volumes over NBD, with snapshots and the key management service under them.
//!
//! # Layers
//! A module imports only from its own layer or from those above it in this list; `tests/layers.rs` checks that.
//! ```text
//! words     error units env sys file secret no I/O of their own; sys.rs holds the only unsafe outside cipher/
//! cipher    XTS, wrapping                   an open cipher can be built from an Unwrapped<DataKey> only
//! ledger    records, transaction, audit     authenticated records over trait RecordStore (SQLite)
//! kms       keys, root, policies, grants    the verbs the rest may call
//! store     sealed bytes at rest            trait BlockStore and its factory; files first; memory and faults for tests
//! volume    header, map, read, write        where plain meets sealed: bounds -> cipher -> store
//! engine    order, limits, workers          which request is done when; front ends above, a Device below
//! snapshot  manifest, repository, tree      copies sealed chunks, opens nothing
//! service   create attach snapshot          every verb once, typed; authorises, audits, then acts
//! edges     nbd, api, attach, cli           translate; no logic
//! ```
//! # Three paths to read first
//! - What happens to a write: `nbd::conn` -> `engine::submit` -> `nbd::volumes` -> `volume::io` -> `cipher::xts` -> `store::file`.
//! - What happens to `snapshot create`: `service::jobs` -> `volume::pending` -> `snapshot::writer` -> `snapshot::repository`.
//! - What happens to Decrypt: `service::key` -> `kms::data` -> `kms::authority` -> `kms::policy` -> `cipher::wrap`; each use is in
//!   the audit (`ledger::audit`) before its answer.
//!
//! # What XTS cannot do
//! Live data is confidential, not authenticated: see docs/threat-model.md.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod env;
pub mod error;
pub mod file;
pub mod redact;
pub mod secret;
pub mod sys;
pub mod units;

pub mod cipher;
pub mod engine;
pub mod kms;
pub mod ledger;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod volume;

pub mod api;
pub mod attach;
pub mod cli;
pub mod nbd;
