//! Customer master keys, as they are shown.

use crate::cipher::keys::KeySpec;
use crate::env::Timestamp;
use crate::kms::{KeyManager, KeyState};
use serde::{Deserialize, Serialize};

/// A CMK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Key id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// `Enabled`, `Disabled`, `PendingDeletion` or `Unavailable`.
    pub state: KeyState,
    /// `CUSTOMER` or `AWS`.
    pub manager: KeyManager,
    /// `SYMMETRIC_DEFAULT`.
    pub spec: KeySpec,
    /// Free text for people.
    pub description: String,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// When it was created.
    pub created: Timestamp,
    /// When it will be deleted, if deletion is scheduled.
    pub deletion: Option<Timestamp>,
    /// Days left of the waiting period although the deletion date has passed by the wall clock: the clock was set, or the machine
    /// was off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_held: Option<i64>,
    /// Number of backing keys: 1 plus one per rotation.
    pub materials: usize,
    /// Attached volumes that the operation suspended. Only in the answers to disabling the key and to scheduling its deletion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<String>,
    /// Attached volumes that continue with the key they have (`--on-key-loss continue`). Only in the same answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub continuing: Vec<String>,
    /// What becomes unreadable when the key is destroyed. Only in the answer to scheduling its deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependents: Option<Dependents>,
}

/// The number of volumes and snapshots whose data keys a CMK wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependents {
    /// Volumes, in use or not.
    pub volumes: usize,
    /// Snapshots, including those of deleted volumes.
    pub snapshots: usize,
}
