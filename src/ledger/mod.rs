//! The ledger: authenticated records of every object, and the chained audit of who did what to them.
//!
//! # In the data directory
//! ```text
//! catalog.db(-wal)         one authenticated record an object          catalog
//! catalog.spare            disk space for catalog.db-wal               catalog::space
//! audit/                   who did what, chained                       audit
//! ```

mod act;
pub mod audit;
pub mod catalog;
pub(crate) mod refusals;

pub use act::Act;
pub use audit::{AuditHead, AuditRecord, Identity};
pub(crate) use catalog::sha256_hex;
pub use catalog::{Catalog, Change, Damaged, Listing, Record, Tx, Versioned};
