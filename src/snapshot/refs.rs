//! Refs: declare that a volume or job needs a snapshot. JSON in `<lineage>/refs/<installation>-<id>`, at most 4 KiB.
//!
//! ```text
//! { "format": 1, "kind": "volume" | "job", "installation": owner of the ref, "id": [A-Za-z0-9._-]{1,64},
//!   "snapshot": snap-…, "folder": installation whose folder holds its manifest, "time": ms, "heartbeat": ms }
//! ```
//! A volume ref never expires. A job ref is void once its heartbeat is [`JOB_REF_LIFE`] old. After putting a ref, its
//! putter checks whether the owner's log has a delete: if so, the ref does not count and is removed again.

use super::{Folder, damaged};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::units::{InstallationId, LineageId, SnapshotId};
use serde::{Deserialize, Serialize};

/// Size limit of a ref, in bytes.
pub const REF_MAX: usize = 4096;
/// Maximum age of a job ref's heartbeat, in milliseconds (24 h).
pub const JOB_REF_LIFE: i64 = 24 * 3600 * 1000;

/// The kind of user that needs the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefKind {
    /// A volume: it hydrates from the snapshot, or the snapshot is its base. Removed only by its owner.
    Volume,
    /// A running job: it has a heartbeat.
    Job,
}

/// A ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ref {
    /// Version of the format: 1.
    pub format: u32,
    /// Volume or job.
    pub kind: RefKind,
    /// The owner's installation.
    pub installation: InstallationId,
    /// The volume's or job's id.
    pub id: String,
    /// The snapshot that it needs.
    pub snapshot: SnapshotId,
    /// The installation whose folder holds the snapshot's manifest.
    pub folder: InstallationId,
    /// Time of the first put.
    pub time: Timestamp,
    /// When its owner last confirmed that it is needed.
    pub heartbeat: Timestamp,
}

impl Ref {
    /// Returns the path of the ref `id` of `installation`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the id violates the rule for ids.
    pub fn path(lineage: LineageId, installation: InstallationId, id: &str) -> Result<String> {
        let good = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !good {
            let what = format!("{id:?} is not a valid ref id: 1 to 64 characters of A-Z a-z 0-9 . _ -");
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(format!("{lineage}/refs/{installation}-{id}"))
    }

    /// Parses the ref at `path`.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is not a ref, or belongs to another path.
    pub fn parse(path: &str, lineage: LineageId, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > REF_MAX {
            return Err(damaged(path, REF_MAX, "too long for a ref"));
        }
        let found: Self = serde_json::from_slice(bytes).map_err(|e| damaged(path, 0, "not a ref").because(e))?;
        if found.format != 1 {
            return Err(super::too_new(path, format_args!("ref format {}", found.format)));
        }
        if Self::path(lineage, found.installation, &found.id).ok().as_deref() != Some(path) {
            return Err(damaged(path, 0, "the ref belongs at another path"));
        }
        Ok(found)
    }

    /// Encodes it.
    ///
    /// # Errors
    /// Never in practice; the JSON library can return one.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::new(Kind::Failed, format!("write ref {}", self.id)).because(e))
    }

    /// Whether it still counts at `now`.
    #[must_use]
    pub const fn counts(&self, now: Timestamp) -> bool {
        match self.kind {
            RefKind::Volume => true,
            RefKind::Job => now.0.saturating_sub(self.heartbeat.0) < JOB_REF_LIFE,
        }
    }

    /// Returns the folder that contains the snapshot's manifest.
    #[must_use]
    pub const fn home(&self, lineage: LineageId) -> Folder {
        Folder { lineage, installation: self.folder }
    }
}

#[cfg(test)]
#[path = "refs_tests.rs"]
mod tests;
