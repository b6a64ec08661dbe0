//! How records name repositories, and where the snapshots of a lineage are.

use crate::error::{Error, Result};
use crate::units::{LineageId, RepositoryId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of the repository in the data directory.
pub(super) const LOCAL: &str = "local";

/// A repository, as records name it: `local`, or the id in its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum RepositoryKey {
    /// The one in the data directory.
    #[default]
    Local,
    /// One that was added.
    Added(RepositoryId),
}

impl RepositoryKey {
    /// Returns whether it is the one in the data directory.
    pub(super) fn is_local(&self) -> bool {
        *self == Self::Local
    }
}

impl fmt::Display for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str(LOCAL),
            Self::Added(id) => id.fmt(f),
        }
    }
}

impl FromStr for RepositoryKey {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if s == LOCAL { Ok(Self::Local) } else { s.parse().map(Self::Added) }
    }
}

impl TryFrom<String> for RepositoryKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RepositoryKey> for String {
    fn from(key: RepositoryKey) -> Self {
        key.to_string()
    }
}

/// Where snapshots are: a lineage's folders in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Home {
    pub(super) repository: RepositoryKey,
    pub(super) lineage: LineageId,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, lineage } = self;
        match repository {
            RepositoryKey::Local => write!(f, "lineage {lineage}"),
            RepositoryKey::Added(id) => write!(f, "lineage {lineage} in repository {id}"),
        }
    }
}
