//! The operation that deletes what a retention policy does not keep.

use super::super::{Authorization, Call, Operation, Pruned, named};
use crate::error::Result;
use crate::ledger::Act;
use crate::service::Keep;
use serde::{Deserialize, Serialize};

/// Deletes the completed snapshots that a retention policy does not keep, of each volume by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneSnapshots {
    /// Only those of this volume (name or id); `None`: of all volumes.
    #[serde(default)]
    pub volume: Option<String>,
    /// What to keep of each volume. A policy that keeps nothing is refused.
    pub keep: Keep,
    /// Whether to answer only, and delete nothing.
    #[serde(default)]
    pub dry_run: bool,
}

impl Operation for PruneSnapshots {
    type Answer = Pruned;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:PruneSnapshots", self.volume.as_deref().unwrap_or("all volumes")))
    }
    fn perform(self, call: Call<'_>) -> Result<Pruned> {
        let Self { volume, keep, dry_run } = self;
        let snapshots = call.service.prune_snapshots(call.caller, volume.as_deref(), &keep, dry_run)?;
        Ok(Pruned { snapshots, dry_run })
    }
}
