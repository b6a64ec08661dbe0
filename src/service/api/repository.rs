//! Answers about repositories.

use crate::env::Timestamp;
use crate::snapshot::location::Location;
use serde::{Deserialize, Serialize};

/// A repository of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    /// The id in its description. `None` for the data directory's own in a list, which reads nothing.
    pub id: Option<String>,
    /// Its name; `local` for the data directory's own.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Whether the snapshots of volumes without a setting of their own go there.
    pub default: bool,
    /// Snapshots of this installation in it.
    pub snapshots: usize,
    /// Bytes that those added to it.
    pub stored: u64,
    /// When it was added; `None` for the data directory's own.
    pub created: Option<Timestamp>,
    /// Limit of its read cache, in bytes; 0: it has none.
    #[serde(default)]
    pub cache: u64,
    /// Bytes that its read cache takes. Only `show` looks.
    #[serde(default)]
    pub cached: Option<u64>,
    /// Why it cannot be opened. Only `show` tries.
    pub error: Option<String>,
}
