//! CMKs as operations show them, and the effect of disabling one on open volumes.

use super::Service;
use super::api::{Dependents, KeyInfo, SnapshotState};
use crate::env::Timestamp;
use crate::error::Result;
use crate::kms::{KeyMetadata, KeyName, KeyRef};
use crate::units::VolumeId;

impl Service {
    /// Counts what becomes unreadable once a CMK is destroyed.
    pub(super) fn dependents(&self, arn: &str) -> Result<Dependents> {
        let volumes = self.records.volumes()?.iter().filter(|v| v.key_arn == arn).count();
        let all = self.records.snapshots()?;
        // A snapshot in `error` never held readable data.
        let readable = |s: &&super::snapshot::SnapshotRecord| {
            s.key_arn == arn && !s.is_deleting() && s.state != SnapshotState::Error
        };
        Ok(Dependents { volumes, snapshots: all.iter().filter(readable).count() })
    }

    /// Suspends the volumes that are in use under a CMK which has become unusable, and describes the CMK with them.
    pub(super) fn without_key(&self, meta: KeyMetadata) -> Result<KeyInfo> {
        let (continuing, suspended) = self.in_use_under(&meta.arn);
        self.suspensions.suspend_under(&meta.arn);
        Ok(KeyInfo { continuing, suspended, ..self.key_info(meta)? })
    }

    /// Returns the volumes that are in use under a CMK: those that continue without it, and those that do not.
    fn in_use_under(&self, arn: &str) -> (Vec<String>, Vec<String>) {
        let here = self.opens.in_use_under(arn);
        let name =
            |id: VolumeId| self.records.find_volume(&id.to_string()).map_or_else(|_| id.to_string(), |r| r.shown());
        let named =
            |which: bool| here.iter().filter(|(_, continues)| *continues == which).map(|(id, _)| name(*id)).collect();
        (named(true), named(false))
    }

    pub(super) fn key_info(&self, meta: KeyMetadata) -> Result<KeyInfo> {
        let aliases = self.kms.aliases().list(Some(&KeyRef::named(&meta.key)))?;
        Ok(KeyInfo {
            id: meta.key_id.to_string(),
            arn: meta.arn,
            state: meta.key_state,
            manager: meta.key_manager,
            spec: meta.key_spec,
            description: meta.description,
            aliases: aliases.aliases.into_iter().map(|a| a.alias_name).collect(),
            created: meta.creation_date,
            deletion: meta.deletion_date,
            days_held: self.days_held(&meta.key, meta.deletion_date)?,
            materials: meta.versions.len(),
            suspended: Vec::new(),
            continuing: Vec::new(),
            dependents: None,
        })
    }

    /// Returns the days that a key is kept beyond its deletion date, if that date has passed only by the wall clock.
    fn days_held(&self, key: &KeyName, deletion: Option<Timestamp>) -> Result<Option<i64>> {
        let now = self.env.now();
        let Some(at) = deletion.filter(|at| *at <= now) else { return Ok(None) };
        let pending = self.kms.deletions().pending_of(key, at)?;
        Ok(pending.is_held(now).then(|| pending.days_left()))
    }
}
