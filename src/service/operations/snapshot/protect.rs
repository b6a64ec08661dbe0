//! Operations that protect snapshots from deletion.

use super::super::{Authorization, Call, Operation, named};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::service::api::{LockMode, SnapshotInfo};
use crate::service::locks::{Asked, Expiry};
use serde::{Deserialize, Serialize};

/// Holds a snapshot against deletion until it is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
}

impl Operation for HoldSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:HoldSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.hold_snapshot(call.caller, &self.snapshot)
    }
}

/// Releases a hold. A lock stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
}

impl Operation for ReleaseSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("coffer:ReleaseSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.release_snapshot(call.caller, &self.snapshot)
    }
}

/// Locks a snapshot against deletion, or changes its lock, by the rules of EBS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
    /// Whether it can be taken back.
    pub mode: LockMode,
    /// How long it lasts, 1 to 36500 days; or `until`.
    #[serde(default)]
    pub days: Option<u32>,
    /// When it expires, at least a day from now; or `days`.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// For how many hours a compliance lock can be taken back, 1 to 72; `None`: it cannot.
    #[serde(default)]
    pub cool_off: Option<u32>,
}

impl Operation for LockSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:LockSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        let expiry = match (self.days, self.until) {
            (Some(days), None) => Expiry::Days(days),
            (None, Some(at)) => Expiry::At(at),
            _ => {
                return Err(
                    Error::new(Kind::Usage, "a lock needs either a duration or a date").hint("use --days or --until")
                );
            }
        };
        let asked = Asked { mode: self.mode, expiry, cool_off: self.cool_off };
        call.service.lock_snapshot(call.caller, &self.snapshot, &asked)
    }
}

/// Takes back a governance lock, or a compliance lock in its cooling-off period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockSnapshot {
    /// Id or name of the snapshot.
    pub snapshot: String,
}

impl Operation for UnlockSnapshot {
    type Answer = SnapshotInfo;
    const AUTHORIZATION: Authorization = Authorization::Administrator;
    fn act(&self, _: &Call<'_>) -> Option<Act> {
        Some(named("ec2:UnlockSnapshot", &self.snapshot))
    }
    fn perform(self, call: Call<'_>) -> Result<SnapshotInfo> {
        call.service.unlock_snapshot(call.caller, &self.snapshot)
    }
}
