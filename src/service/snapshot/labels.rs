//! Names and tags of snapshots, and lists by them.

use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Tags, check_tags};
use crate::ledger::Act;
use crate::service::api::SnapshotInfo;
use crate::service::operations::DescribeSnapshots;
use crate::service::records::{Labels, SnapshotRecord};
use crate::service::{Role, Service};
use crate::units::{VolumeId, check_snapshot_name};

impl Service {
    /// Refuses a name or tags that a new snapshot may not have.
    pub(super) fn check_labels(&self, labels: &Labels) -> Result<()> {
        check_tags("a snapshot", &labels.tags)?;
        let Some(name) = &labels.name else { return Ok(()) };
        check_snapshot_name(name)?;
        match self.ledger().catalog().find::<SnapshotRecord>(name)? {
            Some(taken) => {
                Err(Error::new(Kind::Exists, format!("snapshot {name} already exists ({})", taken.record.id))
                    .hint("choose another --name"))
            }
            None => Ok(()),
        }
    }

    /// Adds tags to a snapshot, replaces the values of those that it has, and removes others.
    pub(in crate::service) fn tag_snapshot(
        &self,
        caller: &Caller,
        what: &str,
        add: &Tags,
        remove: &[String],
    ) -> Result<SnapshotInfo> {
        check_tags("a snapshot", add)?;
        let record = self.records.find_snapshot(what)?;
        let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join(" ");
        let mut act = Act::new(if add.is_empty() { "ec2:DeleteTags" } else { "ec2:CreateTags" });
        for (detail, tags) in [("tags", names(&mut add.keys())), ("removed", names(&mut remove.iter()))] {
            if !tags.is_empty() {
                act = act.detail(detail, tags);
            }
        }
        let changed = self.records.change_snapshot(caller, act.detail("snapshot", record.id), record.id, |record| {
            record.tags.retain(|name, _| !remove.contains(name));
            record.tags.extend(add.clone());
            check_tags("a snapshot", &record.tags)
        })?;
        self.info(&changed)
    }

    /// Returns the snapshots that are not hidden and that the filter selects, oldest first.
    pub(in crate::service) fn list_snapshots(&self, filter: &DescribeSnapshots) -> Result<Vec<SnapshotInfo>> {
        if self.role == Role::Command {
            self.unsettled.settle(); // a server's housekeeping does
        }
        let of = filter.volume.as_deref().map(|volume| self.volume_named(volume)).transpose()?;
        let has = |r: &SnapshotRecord, name: &String, value: &Option<String>| {
            r.tags.get(name).is_some_and(|found| value.as_ref().is_none_or(|v| v == found))
        };
        let mut all = self.records.snapshots()?;
        all.retain(|r| !r.is_deleting() && r.recycled.is_some() == filter.recycled);
        all.retain(|r| of.is_none_or(|volume| r.volume == volume));
        all.retain(|r| filter.group.is_none_or(|group| r.group.is_some_and(|of| of.id == group)));
        all.retain(|r| filter.tags.iter().all(|(name, value)| has(r, name, value)));
        all.sort_by_key(|r| (r.created, r.id));
        all.iter().map(|r| self.info(r)).collect()
    }

    /// Returns the id of a volume, which may be deleted if it is named by its id: its snapshots are kept.
    pub(super) fn volume_named(&self, what: &str) -> Result<VolumeId> {
        match what.parse() {
            Ok(id) => Ok(id),
            Err(_) => Ok(self.records.find_volume(what)?.id),
        }
    }
}
