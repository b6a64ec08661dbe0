//! Customer master keys, as they are shown.

use super::state::KeySpec;
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
    /// Enabled, Disabled, PendingDeletion, Unavailable.
    pub state: KeyState,
    /// CUSTOMER or AWS.
    pub manager: KeyManager,
    /// SYMMETRIC_DEFAULT.
    pub spec: KeySpec,
    /// For people.
    pub description: String,
    /// Aliases that point at it.
    pub aliases: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it will be deleted, if it will.
    pub deletion: Option<Timestamp>,
    /// Its date has passed by the wall clock, but so many days of its waiting time have not: the clock was set, or the machine off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_held: Option<i64>,
    /// Backing keys so far: 1 and one for each rotation.
    pub materials: usize,
    /// In the answer to disabling it and to scheduling its deletion: volumes in use that were suspended by that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<String>,
    /// There too: volumes in use that go on with the key that they have, as they were set to (`--on-key-loss continue`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub continuing: Vec<String>,
    /// In the answer to scheduling its deletion: what becomes unreadable when it is destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependents: Option<Dependents>,
}

/// How much a CMK wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependents {
    /// Volumes, in use or not.
    pub volumes: usize,
    /// Snapshots, of volumes that are gone too.
    pub snapshots: usize,
}
