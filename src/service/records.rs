//! The catalog's records of volumes, snapshots, attachments and leases: how they are found, and how they are changed.
//!
//! All else of the service stands on this. A record is changed by an audited act; what the service changes by itself is
//! audited in its own name.

use super::api::SnapshotState;
use super::datadir::DirLock;
use super::settings::OnKeyLoss;
use super::token::{self, ExportName};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller, Kms};
use crate::ledger::{Act, Ledger, Record};
use crate::units::{DataKeyId, Hash32, LineageId, SnapshotId, VolumeId};
use crate::volume::Volume;
use crate::volume::format::ParentRef;
use crate::volume::lifecycle::GrowPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name that coffer's own use of keys has in the audit and in `kms:ViaService`.
pub const EC2: &str = crate::kms::policy::VOLUME_SERVICE;

/// The records, over the ledger.
pub(super) struct Records {
    kms: Arc<Kms>,
    /// As long as anybody can change a record, no other process may.
    _lock: Arc<DirLock>,
}

impl Records {
    /// Those in the ledger of a KMS, whose data directory is locked.
    pub(super) fn new(kms: &Arc<Kms>, lock: &Arc<DirLock>) -> Self {
        Self { kms: kms.clone(), _lock: lock.clone() }
    }

    /// The ledger, for records that only one component has.
    pub(super) fn ledger(&self) -> &Ledger {
        self.kms.ledger()
    }

    /// The service itself, as a caller in the audit.
    pub(super) fn own_caller(&self, what: &str) -> Caller {
        Caller {
            principal: format!("arn:aws:iam::{}:service/{EC2}", self.kms.installation().account),
            via_service: Some(EC2.to_owned()),
            client: what.to_owned(),
            authority: Authority::Settled,
        }
    }

    /// All volumes that there are.
    pub(super) fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        let listing = self.ledger().catalog().list::<VolumeRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} cannot be believed", bad.kind, bad.id);
        }
        Ok(listing.records.into_iter().map(|r| r.record).filter(|r| r.stage.is_ready()).collect())
    }

    /// All records of volumes, those of cut-off creates and deletes too.
    pub(super) fn staged_volumes(&self) -> Result<Vec<VolumeRecord>> {
        Ok(self.ledger().catalog().list::<VolumeRecord>()?.records.into_iter().map(|r| r.record).collect())
    }

    /// The record of a volume whose delete was cut off or failed.
    pub(super) fn find_deleting(&self, what: &str) -> Result<Option<VolumeRecord>> {
        let Ok(id) = what.parse::<VolumeId>() else { return Ok(None) };
        Ok(self.volume(id)?.filter(|r| r.stage == Stage::Deleting))
    }

    /// The volume of that id or name.
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

    /// The volume that an export's name asks for. An empty name stands for the only one there is.
    pub(super) fn exported(&self, name: &str) -> Result<VolumeRecord> {
        match ExportName::parse(name)?.volume {
            "" => match <[VolumeRecord; 1]>::try_from(self.volumes()?) {
                Ok([only]) => Ok(only),
                Err(all) => Err(Error::new(Kind::NotFound, format!("no export is named, and there are {}", all.len()))
                    .hint("name a volume")),
            },
            name => self.find_volume(name),
        }
    }

    /// A volume's record, whatever its stage.
    pub(super) fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>> {
        Ok(self.ledger().catalog().get::<VolumeRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Changes a volume's record, audited.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is gone.
    pub(super) fn change_volume(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        change: impl Fn(&mut VolumeRecord),
    ) -> Result<VolumeRecord> {
        let changed = self.ledger().audited(caller, act, |tx| {
            let found = tx.get::<VolumeRecord>(&id.to_string())?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("volume {id} is gone")))?;
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version)
        })?;
        Ok(changed.record)
    }

    /// Writes down what became of a volume, in the service's own name. `None`: it is gone.
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

    /// All snapshots, hidden ones too.
    pub(super) fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        let listing = self.ledger().catalog().list::<SnapshotRecord>()?;
        for bad in &listing.damaged {
            tracing::error!("the catalog's record of {} {} cannot be believed", bad.kind, bad.id);
        }
        Ok(listing.records.into_iter().map(|r| r.record).collect())
    }

    /// The snapshot of that id, if it is not hidden.
    pub(super) fn find_snapshot(&self, what: &str) -> Result<SnapshotRecord> {
        let found = self.snapshot(what.parse()?)?;
        found.filter(|r| !r.is_deleting()).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no snapshot {what}")).hint("see `coffer snapshot list`")
        })
    }

    /// A snapshot's record, of a hidden one too.
    pub(super) fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>> {
        Ok(self.ledger().catalog().get::<SnapshotRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Writes down what became of a snapshot, in the service's own name.
    pub(super) fn note_snapshot(&self, id: SnapshotId, change: impl Fn(&mut SnapshotRecord)) -> Result<()> {
        let act = Act::new("ec2:SnapshotNotification").detail("snapshot", id);
        let noted = self.ledger().audited(&self.own_caller("snapshot"), act, |tx| {
            let Some(found) = tx.get::<SnapshotRecord>(&id.to_string())? else { return Ok(()) };
            let mut next = found.record;
            change(&mut next);
            tx.update(&next, found.version).map(drop)
        });
        noted.inspect_err(|err| tracing::error!("note what became of {id}: {}", err.line()))
    }

    /// The attachment of a volume.
    pub(super) fn attachment_of(&self, id: VolumeId) -> Result<Option<AttachmentRecord>> {
        Ok(self.ledger().catalog().find::<AttachmentRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// The grants that a volume's durable lease lives by. `None`: it has no such lease.
    pub(super) fn grants_of_lease(&self, id: VolumeId) -> Result<Option<Vec<String>>> {
        if let Some(attachment) = self.attachment_of(id)? {
            return Ok(Some(attachment.grants));
        }
        Ok(self.ledger().catalog().get::<LeaseRecord>(&id.to_string())?.map(|f| f.record.grants))
    }

    /// The volumes whose durable lease lives by a grant.
    pub(super) fn leased_under(&self, grant: &str) -> Result<Vec<VolumeId>> {
        let lived = |grants: &[String]| grants.iter().any(|g| g == grant);
        let attached = self.ledger().catalog().list::<AttachmentRecord>()?.records;
        let leased = self.ledger().catalog().list::<LeaseRecord>()?.records;
        let attached = attached.into_iter().filter(|a| lived(&a.record.grants)).map(|a| a.record.volume);
        let leased = leased.into_iter().filter(|l| lived(&l.record.grants)).map(|l| l.record.volume);
        Ok(attached.chain(leased).collect())
    }
}

/// What the catalog keeps of a volume. The header wins where they differ and its MAC is good.
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
    /// A sync of its file failed, and nobody has accepted that yet: the header may not have learnt of it.
    #[serde(default)]
    pub(super) write_failed: bool,
    /// What it does when its CMK cannot be used.
    #[serde(default)]
    pub(super) on_key_loss: OnKeyLoss,
    /// Suspended by hand.
    #[serde(default)]
    pub(super) suspended: bool,
    /// Requests a second; 0: no limit.
    #[serde(default)]
    pub(super) iops: u64,
    /// Bytes a second; 0: no limit.
    #[serde(default)]
    pub(super) throughput: u64,
    /// How far its create or delete is.
    #[serde(default, skip_serializing_if = "Stage::is_ready")]
    pub(super) stage: Stage,
    /// What its header is about to be changed to.
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
    /// Name and id, as messages show a volume.
    pub(super) fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), |n| format!("{n} ({})", self.id))
    }

    /// Takes over what a volume's header says that it is.
    pub(super) fn take_identity(&mut self, volume: &Volume) {
        (self.identity_generation, self.identity_hash, self.size) =
            volume.with_header(|h| (h.identity().generation, h.identity_hash(), h.identity().size));
        self.next = None;
    }
}

/// How far a volume's create or delete is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Its store may be there or not.
    Creating,
    /// It is there.
    #[default]
    Ready,
    /// Its store may be there or not; it is not to come back.
    Deleting,
}

impl Stage {
    /// Whether there is such a volume, for everybody.
    pub(super) fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// An identity that a volume's header is about to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NextIdentity {
    pub(super) generation: u64,
    pub(super) hash: Hash32,
    /// Bytes a user sees.
    size: u64,
}

impl NextIdentity {
    /// The one that a planned growth makes.
    pub(super) fn of(plan: &GrowPlan<'_>) -> Self {
        Self { generation: plan.generation(), hash: plan.hash(), size: plan.size() }
    }
}

/// What the catalog keeps of a snapshot; for its contents the repository's log wins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapshotId,
    pub(super) volume: VolumeId,
    pub(super) lineage: LineageId,
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
}

impl Record for SnapshotRecord {
    const KIND: &'static str = "snapshot";
    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl SnapshotRecord {
    /// Refuses one that nothing can be read from.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] with its state.
    pub(super) fn must_be_completed(&self) -> Result<()> {
        match self.state {
            SnapshotState::Completed => Ok(()),
            SnapshotState::Error => Err(Error::new(
                Kind::InvalidState,
                format!("snapshot {} failed: {}", self.id, self.error.as_deref().unwrap_or("no reason is known")),
            )
            .hint("take another")),
            state => Err(Error::new(Kind::InvalidState, format!("snapshot {} is {state}", self.id))
                .hint("wait until it is completed")),
        }
    }

    /// Hidden: what is left of it goes.
    pub(super) fn is_deleting(&self) -> bool {
        self.state == SnapshotState::Deleting
    }
}

/// What the catalog keeps of an attachment, until `coffer detach`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttachmentRecord {
    pub(super) id: String,
    pub(super) volume: VolumeId,
    pub(super) device: String,
    pub(super) created: Timestamp,
    /// BLAKE3 of the token, hexadecimal. Records of before tokens have none: there the id itself was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// The grants that it lives by; attachments from before there were grants have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
}

impl AttachmentRecord {
    /// Whether this token is its own.
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
        Some(self.volume.to_string()) // one a volume
    }
}

/// What the catalog keeps of a lease of a client over TLS, from its first connection to its farewell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub(super) volume: VolumeId,
    /// The name that the client was allowed under.
    pub(super) holder: String,
    pub(super) since: Timestamp,
    /// The grants that it lives by; leases from before there were grants have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
}

impl Record for LeaseRecord {
    const KIND: &'static str = "lease";
    fn id(&self) -> String {
        self.volume.to_string()
    }
}

/// An act, with the grants that begin with it.
pub(super) fn with_grants(act: Act, grants: &[String]) -> Act {
    act.detail("grant", grants.join(" "))
}
