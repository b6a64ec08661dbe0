//! `snapshot prune`: deletes what a retention policy does not keep.

use crate::error::{Kind, Result};
use crate::kms::Caller;
use crate::service::Service;
use crate::service::api::{PrunedInfo, SnapshotState, WireError};
use crate::service::home::Home;
use crate::service::locks::Now;
use crate::service::records::SnapshotRecord;
use crate::service::retain::{Candidate, Keep, reasons};
use crate::units::VolumeId;
use std::collections::BTreeMap;

impl Service {
    /// Deletes the completed snapshots of a volume, or of each volume, that the policy does not keep. Keeps what is protected or
    /// being read. What fails is told, and does not keep others from being deleted.
    pub(in crate::service) fn prune_snapshots(
        &self,
        caller: &Caller,
        volume: Option<&str>,
        keep: &Keep,
        dry_run: bool,
    ) -> Result<Vec<PrunedInfo>> {
        keep.must_keep_something()?;
        let of = volume.map(|volume| self.volume_named(volume)).transpose()?;
        self.prune(caller, keep, dry_run, &|r| of.is_none_or(|volume| r.volume == volume))
    }

    /// The same for the snapshots that are selected.
    pub(in crate::service) fn prune(
        &self,
        caller: &Caller,
        keep: &Keep,
        dry_run: bool,
        selects: &dyn Fn(&SnapshotRecord) -> bool,
    ) -> Result<Vec<PrunedInfo>> {
        self.unsettled.settle();
        let now = self.both_clocks()?;
        // Copies are apart from what they are copies of, and those of one place from those of another.
        let group = |r: &SnapshotRecord| (r.volume, r.source.as_ref().map(|_| r.home()));
        let mut groups: BTreeMap<(VolumeId, Option<Home>), Vec<SnapshotRecord>> = BTreeMap::new();
        for record in self.records.snapshots()? {
            if record.state == SnapshotState::Completed && !record.is_hidden() && selects(&record) {
                groups.entry(group(&record)).or_default().push(record);
            }
        }
        let (mut all, mut hidden) = (Vec::new(), Vec::new());
        for records in groups.values_mut() {
            records.sort_by_key(|r| (r.created, r.id));
            let candidates: Vec<_> =
                records.iter().map(|r| Candidate { id: r.id, time: r.created, tags: &r.tags }).collect();
            for (record, mut why) in records.iter().zip(reasons(&candidates, keep)) {
                why.extend(self.obstacles(record, now));
                let outcome =
                    if why.is_empty() && !dry_run { self.prune_one(caller, record) } else { Ok(Pruned::Kept(None)) };
                if matches!(outcome, Ok(Pruned::Hidden)) {
                    hidden.push(record.clone());
                }
                all.push(pruned(record, why, outcome));
            }
        }
        for (id, err) in self.finish_hidden(hidden) {
            all.iter_mut().filter(|row| row.snapshot == id).for_each(|row| {
                (row.kept, row.error) = (true, Some(WireError::from(&err)));
            });
        }
        Ok(all)
    }

    /// Returns what keeps a snapshot although no rule does.
    fn obstacles(&self, record: &SnapshotRecord, now: Now) -> Vec<String> {
        let being_read = self.views.refuse_if_open(record.id).is_err().then(|| "it is being read".to_owned());
        Self::is_protected(record, now).into_iter().chain(being_read).collect()
    }

    /// Hides one, or puts it into the recycle bin.
    fn prune_one(&self, caller: &Caller, record: &SnapshotRecord) -> Result<Pruned> {
        let hide = || {
            let now = self.both_clocks()?;
            self.must_be_deletable_now(record, now)?;
            if self.recycle(caller, record, now)?.is_some() {
                return Ok(Pruned::Gone);
            }
            self.hide(caller, record, now).map(|()| Pruned::Hidden)
        };
        match hide() {
            Err(err) if matches!(err.kind(), Kind::InvalidState | Kind::Busy) => Ok(Pruned::Kept(Some(err.line()))),
            // Someone else deleted it.
            Err(_) if self.records.snapshot(record.id)?.is_none_or(|r| r.recycled.is_some()) => Ok(Pruned::Gone),
            other => other,
        }
    }
}

/// What became of a snapshot.
enum Pruned {
    /// It is kept, because of a rule or for this reason.
    Kept(Option<String>),
    /// It is hidden; its objects are removed with those of the others.
    Hidden,
    /// It is in the recycle bin, or somebody else deleted it.
    Gone,
}

fn pruned(record: &SnapshotRecord, mut reasons: Vec<String>, outcome: Result<Pruned>) -> PrunedInfo {
    let error = match outcome {
        Ok(outcome) => {
            reasons.extend(if let Pruned::Kept(obstacle) = outcome { obstacle } else { None });
            None
        }
        Err(err) => Some(WireError::from(&err)),
    };
    PrunedInfo {
        snapshot: record.id,
        name: record.name.clone(),
        volume: record.volume,
        created: record.created,
        kept: !reasons.is_empty() || error.is_some(),
        reasons,
        error,
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
