//! coffer: encrypted block volumes over NBD, with snapshots and a built-in key management service.
//!
//! # Layers
//! A module imports only from its own layer and the layers above it in this list; `tests/layers.rs` enforces it.
//! ```text
//! words     redact error units env sys file  no I/O of their own; sys.rs holds the only unsafe outside cipher/
//!           secret logging interrupt
//! cipher    XTS, wrapping                   an open cipher can be built from an Unwrapped<DataKey> only
//! ledger    records, transaction, audit     authenticated records over trait RecordStore (SQLite)
//! iam       accounts, principals, sessions   who a credential belongs to; authorizes nothing
//! kms       keys, root, policies, grants    the verbs the other layers may call
//! store     sealed bytes at rest            trait BlockStore and its factory: files; memory and faults for tests
//! volume    header, map, read, write        where plaintext meets ciphertext: bounds -> cipher -> store
//! engine    order, limits, workers          schedules requests; front ends above, a Device below
//! snapshot  manifest, repository, tree      copies sealed chunks, decrypts nothing
//! service   create attach snapshot          every verb once, typed; authorises, audits, then acts
//! edges     nbd, api, aws, attach, cli      translate; no logic
//! ```
//! # Three paths to read first
//! - What happens to a write: `nbd::conn` -> `engine::submit` -> `nbd::volumes` -> `volume::io` -> `cipher::xts` ->
//!   `store::file`.
//! - What happens to `snapshot create`: `service::operations::snapshot` -> `service::jobs` -> `volume::pending` ->
//!   `snapshot::writer` -> `snapshot::repository`.
//! - What happens to Decrypt: `service::operations::crypto` -> `kms::data` -> `kms::authority` -> `kms::policy` ->
//!   `cipher::wrap`; `ledger::audit` records each use durably before the answer is sent.
//!
//! # What XTS cannot do
//! Live data is confidential, not authenticated: see docs/threat-model.md.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod env;
pub mod error;
pub mod file;
pub mod interrupt;
pub mod logging;
pub mod redact;
pub mod secret;
pub mod sys;
pub mod units;

pub mod cipher;
pub mod document;
pub mod engine;
pub mod iam;
pub mod kms;
pub mod ledger;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod volume;

pub mod api;
pub mod attach;
pub mod aws;
pub mod cli;
pub mod measure;
pub mod nbd;
