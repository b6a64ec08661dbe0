//! The catalog's records of volumes, snapshots, attachments and leases: how they are found and changed.
//!
//! The rest of the service depends on this. Every change of a record is an audited act; changes by the service itself are audited
//! under its own name.

use super::api::SnapshotState;
use super::datadir::DirLock;
use super::home::{Home, RepositoryKey};
use super::locks::{Lock, Now};
use super::settings::{BackgroundRate, OnKeyLoss};
use super::token::{self, ExportName};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Grant, Kms, Tags};
use crate::ledger::{Act, Ledger, Record, Tx};
use crate::units::{DataKeyId, GroupId, Hash32, LineageId, ScheduleId, SnapshotId, VolumeId, check_snapshot_name};
use crate::volume::Volume;
use crate::volume::format::ParentRef;
use crate::volume::lifecycle::GrowPlan;
use crate::volume::rollback::RollbackPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of coffer's own use of keys in the audit and in `kms:ViaService`.
pub const EC2: &str = crate::kms::policy::VOLUME_SERVICE;

/// The records, in the ledger.
pub(super) struct Records {
    kms: Arc<Kms>,
    /// Held as long as anything in this process can change a record, so that no other process may.
    _lock: Arc<DirLock>,
}

impl Records {
    /// Creates the records in the ledger of a KMS whose data directory is locked.
    pub(super) fn new(kms: &Arc<Kms>, lock: &Arc<DirLock>) -> Self {
        Self { kms: kms.clone(), _lock: lock.clone() }
    }

    /// Returns the ledger, for records that belong to a single component.
    pub(super) fn ledger(&self) -> &Ledger {
        self.kms.ledger()
    }

    /// Returns the service itself as a caller, for the audit.
    pub(super) fn own_caller(&self, what: &str) -> Caller {
        let principal = format!("arn:aws:iam::{}:service/{EC2}", self.kms.installation().account);
        Caller::service(principal, EC2, what)
    }

    /// Returns all volumes that are ready.
    pub(super) fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        let listing = self.ledger().catalog().list::<VolumeRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} is damaged", bad.kind, bad.id);
        }
        Ok(listing.records.into_iter().map(|r| r.record).filter(|r| r.stage.is_ready()).collect())
    }

    /// Returns all records of volumes, including those of unfinished creates and deletes.
    pub(super) fn staged_volumes(&self) -> Result<Vec<VolumeRecord>> {
        Ok(self.ledger().catalog().list::<VolumeRecord>()?.records.into_iter().map(|r| r.record).collect())
    }

    /// Returns the record of a volume whose delete was interrupted or failed.
    pub(super) fn find_deleting(&self, what: &str) -> Result<Option<VolumeRecord>> {
        let Ok(id) = what.parse::<VolumeId>() else { return Ok(None) };
        Ok(self.volume(id)?.filter(|r| r.stage == Stage::Deleting))
    }

    /// Returns the volume with that id or name.
    pub(super) fn find_volume(&self, what: &str) -> Result<VolumeRecord> {
        let catalog = self.ledger().catalog();
        let found = match what.parse::<VolumeId>() {
            Ok(id) => catalog.get::<VolumeRecord>(&id.to_string())?,
            Err(_) => catalog.find::<VolumeRecord>(what)?,
        };
        found.map(|f| f.record).filter(|r| r.stage.is_ready()).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no volume {what}")).hint("see `coffer volume list`")
        })
    }

    /// Returns the volume that an export name asks for. An empty name stands for the only volume.
    pub(super) fn exported(&self, name: &str) -> Result<VolumeRecord> {
        match ExportName::parse(name)?.volume {
            "" => match <[VolumeRecord; 1]>::try_from(self.volumes()?) {
                Ok([only]) => Ok(only),
                Err(all) => {
                    Err(Error::new(Kind::NotFound, format!("no export is named, and there are {} volumes", all.len()))
                        .hint("name a volume"))
                }
            },
            name => self.find_volume(name),
        }
    }

    /// Returns the record of a volume in any stage.
    pub(super) fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>> {
        Ok(self.ledger().catalog().get::<VolumeRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Changes the record of a volume; audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the volume is gone.
    pub(super) fn change_volume(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        change: impl Fn(&mut VolumeRecord),
    ) -> Result<VolumeRecord> {
        self.change_volume_if(caller, act, id, |_, record| {
            change(record);
            Ok(())
        })
    }

    /// Like [`Records::change_volume`], unless `change` refuses it, which may look at other records.
    pub(super) fn change_volume_if(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        change: impl Fn(&Tx<'_>, &mut VolumeRecord) -> Result<()>,
    ) -> Result<VolumeRecord> {
        let changed = self.ledger().audited(caller, act, |tx| {
            let found = tx.get::<VolumeRecord>(&id.to_string())?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("volume {id} is gone")))?;
            let mut next = found.record;
            change(tx, &mut next)?;
            tx.update(&next, found.version)
        })?;
        Ok(changed.record)
    }

    /// Changes the record of a volume in the service's own name; audited. `None`: the volume is gone.
    pub(super) fn note_volume(
        &self,
        client: &str,
        act: Act,
        id: VolumeId,
        change: impl Fn(&mut VolumeRecord),
    ) -> Result<Option<VolumeRecord>> {
        self.ledger().audited(&self.own_caller(client), act, |tx| {
            let Some(found) = tx.get::<VolumeRecord>(&id.to_string())? else { return Ok(None) };
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version).map(|made| Some(made.record))
        })
    }

    /// Returns all snapshots, including hidden ones.
    pub(super) fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        let listing = self.ledger().catalog().list::<SnapshotRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} is damaged", bad.kind, bad.id);
        }
        Ok(listing.records.into_iter().map(|r| r.record).collect())
    }

    /// Returns the snapshot with that id or name, unless it is hidden.
    pub(super) fn find_snapshot(&self, what: &str) -> Result<SnapshotRecord> {
        let found = match what.parse::<SnapshotId>() {
            Ok(id) => self.snapshot(id)?,
            // What cannot be a name was meant as an id.
            Err(malformed) if check_snapshot_name(what).is_err() => return Err(malformed),
            Err(_) => self.ledger().catalog().find::<SnapshotRecord>(what)?.map(|f| f.record),
        };
        match found {
            Some(record) if !record.is_hidden() => Ok(record),
            Some(record) if !record.is_deleting() => {
                Err(Error::new(Kind::NotFound, format!("snapshot {what} is in the recycle bin"))
                    .hint(format!("take it out with `coffer snapshot recover {what}`")))
            }
            _ => {
                Err(Error::new(Kind::NotFound, format!("there is no snapshot {what}"))
                    .hint("see `coffer snapshot list`"))
            }
        }
    }

    /// Returns the record of a snapshot, hidden or not.
    pub(super) fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>> {
        Ok(self.ledger().catalog().get::<SnapshotRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Changes the record of a snapshot that is not hidden; audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone; the error of `change`.
    pub(super) fn change_snapshot(
        &self,
        caller: &Caller,
        act: Act,
        id: SnapshotId,
        change: impl Fn(&mut SnapshotRecord) -> Result<()>,
    ) -> Result<SnapshotRecord> {
        let changed = self.ledger().audited(caller, act, |tx| {
            let found = tx.get::<SnapshotRecord>(&id.to_string())?.filter(|f| !f.record.is_deleting());
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("snapshot {id} is gone")))?;
            let mut next = found.record;
            change(&mut next)?;
            tx.update(&next, found.version)
        })?;
        Ok(changed.record)
    }

    /// Changes the record of a snapshot in the service's own name; audited. The grants of a copy that has ended are removed.
    pub(super) fn note_snapshot(&self, id: SnapshotId, change: impl Fn(&mut SnapshotRecord)) -> Result<()> {
        let act = Act::new("ec2:SnapshotNotification").detail("snapshot", id);
        let noted = self.ledger().audited(&self.own_caller("snapshot"), act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&id.to_string())? else { return Ok(()) };
            let mut next = found.record;
            change(&mut next);
            let ended = next.source.as_mut().filter(|_| next.state != SnapshotState::Pending);
            let grants = ended.map(|source| std::mem::take(&mut source.grants)).unwrap_or_default();
            grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
            tx.update(&next, found.version).map(drop)
        });
        noted.inspect_err(|err| tracing::error!("update the record of {id}: {}", err.line()))
    }

    /// Records that all snapshots of a group are begun, in one step; audited.
    pub(super) fn note_begun(&self, group: GroupId, members: &[SnapshotId]) -> Result<()> {
        let act = Act::new("ec2:MultiVolumeSnapshotsNotification").detail("group", group);
        self.ledger().audited(&self.own_caller("snapshot"), act, |tx| {
            for id in members {
                let Some(found) = tx.get::<SnapshotRecord>(&id.to_string())? else { continue };
                let next = SnapshotRecord { group: Some(Group { id: group, begun: true }), ..found.record };
                tx.update(&next, found.version)?;
            }
            Ok(())
        })
    }

    /// Returns the attachment of a volume.
    pub(super) fn attachment_of(&self, id: VolumeId) -> Result<Option<AttachmentRecord>> {
        Ok(self.ledger().catalog().find::<AttachmentRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Returns the grants that a volume's durable lease depends on. `None`: it has no durable lease.
    pub(super) fn grants_of_lease(&self, id: VolumeId) -> Result<Option<Vec<String>>> {
        if let Some(attachment) = self.attachment_of(id)? {
            return Ok(Some(attachment.grants));
        }
        Ok(self.ledger().catalog().get::<LeaseRecord>(&id.to_string())?.map(|f| f.record.grants))
    }

    /// Returns the volumes whose durable lease depends on a grant.
    pub(super) fn leased_under(&self, grant: &str) -> Result<Vec<VolumeId>> {
        let lived = |grants: &[String]| grants.iter().any(|g| g == grant);
        let attached = self.ledger().catalog().list::<AttachmentRecord>()?.records;
        let leased = self.ledger().catalog().list::<LeaseRecord>()?.records;
        let attached = attached.into_iter().filter(|a| lived(&a.record.grants)).map(|a| a.record.volume);
        let leased = leased.into_iter().filter(|l| lived(&l.record.grants)).map(|l| l.record.volume);
        Ok(attached.chain(leased).collect())
    }
}

/// The catalog's record of a volume. Where the two differ, a header with a good MAC takes precedence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VolumeRecord {
    pub(super) id: VolumeId,
    pub(super) name: Option<String>,
    pub(super) size: u64,
    pub(super) key_arn: String,
    pub(super) created: Timestamp,
    pub(super) lineage: LineageId,
    pub(super) context: BTreeMap<String, String>,
    pub(super) parent: Option<ParentRef>,
    pub(super) hydrated: bool,
    pub(super) identity_generation: u64,
    pub(super) identity_hash: Hash32,
    /// A sync of its store failed, and the loss is not accepted yet. The header may not show this.
    #[serde(default)]
    pub(super) write_failed: bool,
    /// What it does when its CMK becomes unusable.
    #[serde(default)]
    pub(super) on_key_loss: OnKeyLoss,
    /// Whether it is suspended by hand.
    #[serde(default)]
    pub(super) suspended: bool,
    /// Limit in requests per second; 0: no limit.
    #[serde(default)]
    pub(super) iops: u64,
    /// Limit in bytes per second; 0: no limit.
    #[serde(default)]
    pub(super) throughput: u64,
    /// How fast it is filled from its snapshot.
    #[serde(default, skip_serializing_if = "BackgroundRate::is_default")]
    pub(super) hydrate_rate: BackgroundRate,
    /// How fast its snapshots are copied.
    #[serde(default, skip_serializing_if = "BackgroundRate::is_default")]
    pub(super) snapshot_rate: BackgroundRate,
    /// Where its snapshots go; none: to the default repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) repository: Option<RepositoryKey>,
    /// How far its create or delete has got.
    #[serde(default, skip_serializing_if = "Stage::is_ready")]
    pub(super) stage: Stage,
    /// The identity that its header is about to be changed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<NextIdentity>,
}

impl Record for VolumeRecord {
    const KIND: &'static str = "volume";
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn name(&self) -> Option<String> {
        self.name.clone()
    }
}

impl VolumeRecord {
    /// Returns name and id, as messages show a volume.
    pub(super) fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), |n| format!("{n} ({})", self.id))
    }

    /// Returns the snapshots that it is being filled from, or is about to be.
    pub(super) fn filled_from(&self) -> impl Iterator<Item = &ParentRef> {
        let next = self.next.as_ref().and_then(|next| next.parent.as_ref());
        self.parent.as_ref().filter(|_| !self.hydrated).into_iter().chain(next)
    }

    /// Takes over the identity in the volume's header.
    pub(super) fn take_identity(&mut self, volume: &Volume) {
        (self.identity_generation, self.identity_hash, self.size) =
            volume.with_header(|h| (h.identity().generation, h.identity_hash(), h.identity().size));
        let (parent, hydrated) = volume.with_header(|h| (h.identity().parent.clone(), h.state().hydrated));
        // After a rollback it has a parent again, perhaps the same one.
        self.hydrated &= hydrated;
        self.parent = parent;
        self.next = None;
    }
}

/// How far a volume's create or delete has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Being created: its store may or may not exist.
    Creating,
    /// Created, and not deleted.
    #[default]
    Ready,
    /// Being deleted: its store may or may not exist, and must not be used again.
    Deleting,
}

impl Stage {
    /// Returns whether the volume exists for all callers.
    pub(super) fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// The identity that a volume's header is about to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NextIdentity {
    pub(super) generation: u64,
    pub(super) hash: Hash32,
    /// Size in bytes, as a client sees it.
    size: u64,
    /// The snapshot that the volume is about to be rolled back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<ParentRef>,
}

impl NextIdentity {
    /// Returns the identity that a planned growth results in.
    pub(super) fn of(plan: &GrowPlan<'_>) -> Self {
        Self { generation: plan.generation(), hash: plan.hash(), size: plan.size(), parent: None }
    }

    /// Returns the identity that a planned rollback results in.
    pub(super) fn of_rollback(plan: &RollbackPlan) -> Self {
        let parent = Some(plan.parent().clone());
        Self { generation: plan.generation(), hash: plan.hash(), size: plan.size(), parent }
    }
}

/// The catalog's record of a snapshot. For the contents, the repository's log takes precedence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapshotId,
    pub(super) volume: VolumeId,
    pub(super) lineage: LineageId,
    /// The repository that has it. Records from before there were several have none: theirs is the data directory's.
    #[serde(default, skip_serializing_if = "RepositoryKey::is_local")]
    pub(super) repository: RepositoryKey,
    pub(super) state: SnapshotState,
    pub(super) error: Option<String>,
    pub(super) size: u64,
    pub(super) changed: u64,
    pub(super) stored: u64,
    pub(super) created: Timestamp,
    pub(super) base: Option<SnapshotId>,
    pub(super) key_arn: String,
    pub(super) data_keys: Vec<DataKeyId>,
    pub(super) context: BTreeMap<String, String>,
    pub(super) description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: Tags,
    /// Whether it is held against deletion until it is released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lock: Option<Lock>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recycled: Option<Recycled>,
    /// The schedule that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) schedule: Option<ScheduleId>,
    /// When a drill last proved that it can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proved: Option<Timestamp>,
    /// The group that it was taken with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<Group>,
    /// What it is a copy of, if it is one. `volume` and `created` are then those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<CopySource>,
}

/// The source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopySource {
    pub(super) snapshot: SnapshotId,
    pub(super) lineage: LineageId,
    #[serde(default, skip_serializing_if = "RepositoryKey::is_local")]
    pub(super) repository: RepositoryKey,
    /// The data keys of the source and their encryption context, if the copy has another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) data_keys: Vec<DataKeyId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) context: BTreeMap<String, String>,
    /// The grants that the service makes the copy under. They are removed with its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
    /// Whether there may be a ref on the source. It is released after the copy has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) held: bool,
}

impl CopySource {
    /// Returns where the source is.
    pub(super) const fn home(&self) -> Home {
        Home { repository: self.repository, lineage: self.lineage }
    }

    /// Returns whether the copy is sealed with another data key.
    pub(super) const fn is_resealed(&self) -> bool {
        !self.data_keys.is_empty()
    }
}

/// A snapshot's place in a group that was taken at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: GroupId,
    /// Whether the point in time of every member was fixed. Until then none of them counts.
    pub(super) begun: bool,
}

/// How long a deleted snapshot stays in the recycle bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recycled {
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    /// The count at which its time has passed, too.
    pub(super) until_counted: i64,
}

impl Recycled {
    /// Returns whether its time is over, by both clocks.
    pub(super) fn is_over(&self, now: Now) -> bool {
        now.wall >= self.until && now.counted >= self.until_counted
    }
}

impl Record for SnapshotRecord {
    const KIND: &'static str = "snapshot";
    fn id(&self) -> String {
        self.id.to_string()
    }
    /// In the recycle bin it keeps its name, but others may take it.
    fn name(&self) -> Option<String> {
        self.name.clone().filter(|_| !self.is_hidden())
    }
}

/// What the one who takes a snapshot says about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    /// Free text for people.
    pub(super) description: String,
    /// A name that may be used in place of its id.
    pub(super) name: Option<String>,
    pub(super) tags: Tags,
    /// The schedule that takes it.
    pub(super) schedule: Option<ScheduleId>,
}

impl SnapshotRecord {
    /// Refuses a snapshot that cannot be read from.
    ///
    /// # Errors
    /// [`Kind::InvalidState`], with the state.
    pub(super) fn must_be_completed(&self) -> Result<()> {
        match self.state {
            SnapshotState::Completed => Ok(()),
            SnapshotState::Error => Err(Error::new(
                Kind::InvalidState,
                format!("snapshot {} failed: {}", self.id, self.error.as_deref().unwrap_or("unknown reason")),
            )
            .hint("take another snapshot")),
            state => Err(Error::new(Kind::InvalidState, format!("snapshot {} is {state}", self.id))
                .hint("wait until it is completed")),
        }
    }

    /// Returns whether it is deleted for everyone who does not ask for what is in the recycle bin.
    pub(super) fn is_hidden(&self) -> bool {
        self.is_deleting() || self.recycled.is_some()
    }

    /// Returns whether it is hidden, and its remains are to be removed.
    pub(super) fn is_deleting(&self) -> bool {
        self.state == SnapshotState::Deleting
    }
}

/// The catalog's record of an attachment, kept until `coffer detach`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttachmentRecord {
    pub(super) id: String,
    pub(super) volume: VolumeId,
    pub(super) device: String,
    pub(super) created: Timestamp,
    /// BLAKE3 hash of the token, in hexadecimal. Records from before tokens have none; there the id was the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// The grants that it depends on. Attachments from before grants have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
}

impl AttachmentRecord {
    /// Returns whether this token is its own.
    pub(super) fn is_opened_by(&self, token: &str) -> bool {
        match &self.token {
            Some(hash) => *hash == token::hash(token),
            None => self.id == token,
        }
    }
}

impl Record for AttachmentRecord {
    const KIND: &'static str = "attachment";
    fn id(&self) -> String {
        self.id.clone()
    }
    fn name(&self) -> Option<String> {
        Some(self.volume.to_string()) // one per volume
    }
}

/// The catalog's record of a TLS client's lease, kept from its first connection until it disconnects cleanly.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub(super) volume: VolumeId,
    /// The name of the client's access record.
    pub(super) holder: String,
    pub(super) since: Timestamp,
    /// The grants that it depends on. Leases from before grants have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
}

impl Record for LeaseRecord {
    const KIND: &'static str = "lease";
    fn id(&self) -> String {
        self.volume.to_string()
    }
}

/// Adds the grants that an act creates to its details.
pub(super) fn with_grants(act: Act, grants: &[String]) -> Act {
    act.detail("grant", grants.join(" "))
}
