//! Volume verbs: create, list, show, delete, grow.

use super::api::{HeaderInfo, VolumeInfo, VolumeState};
use super::check::words_for_missing;
use super::keygate::{KeyHolder, Ticket};
use super::opening::Need;
use super::records::{LeaseRecord, NextIdentity, SnapshotRecord, Stage, VolumeRecord};
use super::repositories::Repositories;
use super::settings::{BackgroundRate, Changes};
use super::suspend::check_limits;
use super::volume_keys::context_of;
use super::{EC2, OnKeyLoss, Service};
use crate::cipher::{DataKey, Unwrapped};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Grant, KeyRef};
use crate::ledger::Act;
use crate::units::{ByteLen, Hash32, KeyEpoch, LineageId, VolumeId, check_volume_name};
use crate::volume::Volume;
use crate::volume::format::{ParentRef, WrappedKey};
use crate::volume::lifecycle::{NewVolume, check_size, file_size, format};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The keys, encryption context and parent of a new volume.
pub(super) struct Keyed {
    lineage: LineageId,
    context: BTreeMap<String, String>,
    wrapped: Vec<WrappedKey>,
    unwrapped: Vec<(KeyEpoch, Unwrapped<DataKey>)>,
    arn: String,
    parent: Option<ParentRef>,
    /// From before they were unwrapped.
    ticket: Ticket,
}

/// Writes what a new volume has from the start.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&Volume) -> Result<()>;

/// What a new volume is to be, besides its keys.
struct Wanted<'a> {
    name: Option<String>,
    size: u64,
    settings: Changes,
    fill: Option<Fill<'a>>,
}

/// A new volume that is being written. Its key is wiped like those of open volumes.
struct Filling {
    volume: Volume,
    cmks: Vec<String>,
}

impl KeyHolder for Filling {
    fn cmks(&self) -> &[String] {
        &self.cmks
    }
    fn wipe(&self) {
        self.volume.suspend();
    }
}

/// Returns the record of a new volume whose store does not exist yet.
fn creating(id: VolumeId, keyed: &Keyed, size: u64, now: Timestamp) -> VolumeRecord {
    VolumeRecord {
        id,
        name: None,
        size,
        key_arn: keyed.arn.clone(),
        created: now,
        lineage: keyed.lineage,
        context: keyed.context.clone(),
        hydrated: keyed.parent.is_none(),
        parent: keyed.parent.clone(),
        identity_generation: 0,
        identity_hash: Hash32::default(),
        write_failed: false,
        on_key_loss: OnKeyLoss::default(),
        suspended: false,
        iops: 0,
        throughput: 0,
        hydrate_rate: BackgroundRate::default(),
        snapshot_rate: BackgroundRate::default(),
        repository: None,
        stage: Stage::Creating,
        next: None,
    }
}

impl Service {
    /// Creates a volume, empty or filled from a snapshot.
    pub(super) fn create_volume(
        &self,
        caller: &Caller,
        name: Option<String>,
        size: Option<u64>,
        key: Option<&str>,
        snapshot: Option<&str>,
        settings: &Changes,
    ) -> Result<VolumeInfo> {
        check_limits(settings)?;
        name.iter().try_for_each(|name| self.check_new_name(name))?;
        let from = snapshot.map(|s| self.records.find_snapshot(s)).transpose()?;
        let size = size.or(from.as_ref().map(|s| s.size)).ok_or_else(|| {
            Error::new(Kind::Usage, "a new volume needs a size")
                .hint("use --size 20GiB, or --snapshot to fill it from one")
        })?;
        check_size(size)?;
        if let Some(from) = from.as_ref().filter(|f| size < f.size) {
            return Err(Error::new(
                Kind::Usage,
                format!("{} holds {}, which does not fit into {}", from.id, ByteLen(from.size), ByteLen(size)),
            )
            .hint("leave out --size, or make it larger"));
        }
        let id = VolumeId::draw(&*self.env.rng);
        let keyed = match &from {
            Some(from) => self.keys_of_snapshot(caller, key, from)?,
            None => self.new_keys(caller, key, id)?,
        };
        self.make_volume(caller, id, keyed, Wanted { name, size, settings: *settings, fill: None })
    }

    /// Creates a volume that `fill` writes before it can be found or used. If that fails, there is no volume.
    pub(super) fn create_filled(
        &self,
        caller: &Caller,
        name: &str,
        size: u64,
        key: Option<&str>,
        fill: Fill<'_>,
    ) -> Result<VolumeInfo> {
        self.check_new_name(name)?;
        check_size(size)?;
        let id = VolumeId::draw(&*self.env.rng);
        let keyed = self.new_keys(caller, key, id)?;
        let (name, fill) = (Some(name.to_owned()), Some(fill));
        self.make_volume(caller, id, keyed, Wanted { name, size, settings: Changes::default(), fill })
    }

    fn check_new_name(&self, name: &str) -> Result<()> {
        check_volume_name(name)?;
        if self.ledger().catalog().find::<VolumeRecord>(name)?.is_some() {
            return Err(Error::new(Kind::Exists, format!("volume {name} already exists")).hint("choose another --name"));
        }
        Ok(())
    }

    fn new_keys(&self, caller: &Caller, key: Option<&str>, id: VolumeId) -> Result<Keyed> {
        let key = key.map_or(Ok(KeyRef::ebs_default()), str::parse::<KeyRef>)?;
        let context = BTreeMap::from([("aws:ebs:id".to_owned(), id.to_string())]);
        let caller = Caller { via_service: Some(EC2.to_owned()), ..caller.clone() };
        let ticket = self.keygate.ticket();
        let (blob, unwrapped) = self.kms.crypto().new_volume_key(&key, &context_of(&context)?, &caller)?;
        let arn = self.kms.crypto().blob_info(&blob)?.key_arn;
        Ok(Keyed {
            lineage: LineageId::draw(&*self.env.rng),
            context,
            wrapped: vec![WrappedKey { epoch: KeyEpoch(0), blob, arn: arn.clone() }],
            unwrapped: vec![(KeyEpoch(0), unwrapped)],
            arn,
            parent: None,
            ticket,
        })
    }

    /// Returns the keys of a volume from a snapshot: the snapshot's wrapped data keys, under the same encryption context.
    pub(super) fn keys_of_snapshot(&self, caller: &Caller, key: Option<&str>, from: &SnapshotRecord) -> Result<Keyed> {
        from.must_be_completed()?;
        self.logs.check(from.home())?;
        if let Some(key) = key {
            let wanted = self.kms.keys().describe(&key.parse()?)?.arn;
            if wanted != from.key_arn {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{} is sealed under {}, not {wanted}", from.id, from.key_arn),
                )
                .hint("leave out --key: a volume from a snapshot keeps its data key and CMK"));
            }
        }
        let context = context_of(&from.context)?;
        let caller = Caller { via_service: Some(EC2.to_owned()), ..caller.clone() };
        let ticket = self.keygate.ticket();
        let (mut wrapped, mut unwrapped) = (Vec::new(), Vec::new());
        for (i, (data_key, blob)) in self.snapshot_keys.wrapped(from)?.into_iter().enumerate() {
            let epoch = KeyEpoch(i as u8);
            unwrapped.push((epoch, self.kms.crypto().unwrap_volume_key(&blob, &context, data_key, &caller)?));
            let arn = self.kms.crypto().blob_info(&blob)?.key_arn;
            wrapped.push(WrappedKey { epoch, blob, arn });
        }
        let parent = ParentRef {
            snapshot: from.id,
            repository: self.repositories.open(from.repository)?.id()?,
            installation: self.kms.installation().id,
            size: from.size,
        };
        Ok(Keyed {
            lineage: from.lineage,
            context: from.context.clone(),
            wrapped,
            unwrapped,
            arn: from.key_arn.clone(),
            parent: Some(parent),
            ticket,
        })
    }

    /// Writes the record as *creating* first, then makes refs and store, then marks the record as *ready*.
    fn make_volume(
        &self,
        caller: &Caller,
        id: VolumeId,
        keyed: Keyed,
        Wanted { name, size, settings, fill }: Wanted<'_>,
    ) -> Result<VolumeInfo> {
        let turn = self.turns.take(id);
        let act = Act::new("ec2:CreateVolume").key(keyed.arn.clone()).detail("volume", id).detail("size", size);
        let mut record = creating(id, &keyed, size, self.env.now());
        record.name = name;
        record.apply(&settings);
        self.insert_creating(caller, act, &record)?;
        if let Err(err) = self.make_store(&record, keyed, fill).and_then(|()| self.make_ready(&mut record)) {
            if let Err(left) = self.leftovers.remove(&record) {
                tracing::error!("remove {id}, whose create failed: {}; will retry", left.line());
            }
            return Err(err.context(format!("create volume {id}")));
        }
        drop(turn);
        if !record.hydrated {
            // A daemon starts to fill it now; a command leaves that to the next server.
            drop(self.opens.acquire(&record, Need::Sealed)?);
        }
        self.volume_info(&record)
    }

    /// Records a new volume as *creating*: until it is ready, nobody finds it.
    pub(super) fn record_creating(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        keyed: &Keyed,
        size: u64,
    ) -> Result<VolumeRecord> {
        let record = creating(id, keyed, size, self.env.now());
        self.insert_creating(caller, act, &record)?;
        Ok(record)
    }

    fn insert_creating(&self, caller: &Caller, act: Act, record: &VolumeRecord) -> Result<()> {
        let parent = record.parent.as_ref().map(|p| self.repositories.key_of(p.repository)).transpose()?;
        self.ledger().audited(caller, act, |tx| {
            record.repository.map_or(Ok(()), |key| Repositories::must_know(tx, key))?;
            parent.map_or(Ok(()), |key| Repositories::must_know(tx, key))?;
            tx.insert(record).map(drop)
        })
    }

    /// Puts the refs on what the volume is filled from, creates its store and writes its first contents.
    pub(super) fn make_store(&self, record: &VolumeRecord, keyed: Keyed, fill: Option<Fill<'_>>) -> Result<()> {
        if let Some(parent) = &keyed.parent {
            self.lineages.hold_parent(keyed.lineage, record.id, parent)?;
        }
        let mut new = Some(NewVolume {
            id: record.id,
            size: record.size,
            lineage: keyed.lineage,
            keys: keyed.wrapped,
            unwrapped: &keyed.unwrapped,
            context: keyed.context,
            parent: keyed.parent,
        });
        self.stores.create(record.id, file_size(record.size), &mut |store| match new.take() {
            Some(new) => format(store, &self.env, new),
            None => Err(Error::new(Kind::Failed, format!("{} already exists", record.id))),
        })?;
        fill.map_or(Ok(()), |fill| self.fill_store(record, keyed.ticket, &keyed.unwrapped, fill))
    }

    /// Writes the first contents of a new volume, and closes it: they are durable then.
    fn fill_store(
        &self,
        record: &VolumeRecord,
        ticket: Ticket,
        keys: &[(KeyEpoch, Unwrapped<DataKey>)],
        fill: Fill<'_>,
    ) -> Result<()> {
        let volume = self.stored.open(record)?;
        let filling = Arc::new(Filling { cmks: self.keys.cmks_of(&volume), volume });
        let holder: Arc<dyn KeyHolder> = filling.clone();
        self.keygate.register(Arc::downgrade(&holder));
        let Filling { volume, cmks } = &*filling;
        let filled = volume
            .unlock_if(keys, || self.keygate.admit(ticket, cmks.iter().map(String::as_str)))
            .and_then(|()| fill(volume))
            .and_then(|()| volume.flush());
        filled.and(volume.close())
    }

    /// Takes the identity of the new store into the catalog. From now on the volume exists.
    fn make_ready(&self, record: &mut VolumeRecord) -> Result<()> {
        let made = self.stored.open_fresh(record)?;
        let act = Act::new("ec2:VolumeCreated").detail("volume", record.id);
        *record = self.records.change_volume(&self.records.own_caller("create"), act, record.id, |r| {
            r.stage = Stage::Ready;
            r.take_identity(&made);
        })?;
        Ok(())
    }

    /// Returns all volumes, oldest first.
    pub(super) fn list_volumes(&self) -> Result<Vec<VolumeInfo>> {
        let mut records = self.records.volumes()?;
        records.sort_by_key(|r| (r.created, r.id));
        records.iter().map(|r| self.volume_info(r)).collect()
    }

    /// Returns one volume, with the contents of its header.
    pub(super) fn show_volume(&self, what: &str) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        let mut info = self.volume_info(&record)?;
        let used = self.opens.acquire(&record, Need::Sealed)?;
        let path = self.stores.place(record.id).into();
        info.hydrated = used.volume.is_hydrated();
        let units = used.volume.sealed_units().iter().map(|(_, n)| n).sum();
        let missing = words_for_missing(&used.volume.missing_chunks());
        info.header = Some(used.volume.with_header(|h| {
            let (id, state) = (h.identity(), h.state());
            let blob = |e: KeyEpoch| {
                let keys = h.keys();
                let found = keys.iter().flat_map(|k| &k.keys).find(|k| k.epoch == e);
                found.map(|k| hex::encode(&k.blob)).unwrap_or_default()
            };
            HeaderInfo {
                path,
                generation: id.generation,
                lineage: id.lineage.to_string(),
                data_keys: id.key_epochs.iter().map(|k| (k.data_key_id.to_string(), blob(k.epoch))).collect(),
                context: id.context.clone(),
                epoch: state.epoch.0,
                clean: state.clean,
                changed_untrusted: state.changed_untrusted,
                write_failed: state.write_failed || record.write_failed,
                sealed_units: units,
                damage: h.damage().or(missing),
            }
        }));
        Ok(info)
    }

    /// Returns the answer about a volume, without reading its header.
    pub(super) fn volume_info(&self, record: &VolumeRecord) -> Result<VolumeInfo> {
        let room = self.stores.room(record.id);
        let holder = self.attachments.holder_of(record.id)?;
        let suspended = record.suspended || self.opens.is_waiting(record.id);
        let state = match (&room, &holder) {
            (Err(_), _) => VolumeState::Error,
            (Ok(room), _) if room.size < file_size(record.size) => VolumeState::Error,
            _ if suspended => VolumeState::Suspended,
            (_, Some(_)) => VolumeState::InUse,
            _ => VolumeState::Available,
        };
        Ok(VolumeInfo {
            id: record.id,
            name: record.name.clone(),
            size: record.size,
            stored: room.ok().and_then(|r| r.taken),
            state,
            key: record.key_arn.clone(),
            snapshot: record.parent.as_ref().map(|p| p.snapshot),
            hydrated: record.hydrated || self.opens.is_hydrated(record.id),
            created: record.created,
            holder,
            on_key_loss: record.on_key_loss,
            iops: Some(record.iops).filter(|n| *n > 0),
            throughput: Some(record.throughput).filter(|n| *n > 0),
            hydrate_rate: record.hydrate_rate,
            snapshot_rate: record.snapshot_rate,
            repository: record.repository.map(|key| self.repositories.name_of(key)),
            header: None,
        })
    }

    /// Deletes a volume. Once the catalog marks it as deleted, it cannot be found any longer; then its parts are removed.
    pub(super) fn delete_volume(&self, caller: &Caller, what: &str) -> Result<String> {
        let record = match self.records.find_deleting(what)? {
            Some(record) => record,
            None => self.records.find_volume(what)?,
        };
        self.refuse_if_held(&record)?;
        if let Some(snapshot) = self.pending_of(record.id, record.lineage)? {
            return Err(Error::new(
                Kind::Busy,
                format!("volume {}: its snapshot {snapshot} is still in progress", record.shown()),
            )
            .hint("wait until it is completed"));
        }
        let _turn = self.opens.close_unused(&record)?;
        let act = Act::new("ec2:DeleteVolume").key(record.key_arn.clone()).detail("volume", record.id).restrictive();
        let gone = self.ledger().audited(caller, act, |tx| {
            let id = record.id.to_string();
            if let Some(lease) = tx.get::<LeaseRecord>(&id)? {
                lease.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                tx.delete::<LeaseRecord>(&id, lease.version)?;
            }
            let found = tx.get::<VolumeRecord>(&id)?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("volume {id} is gone")))?;
            // Its name is free at once.
            let gone = VolumeRecord { stage: Stage::Deleting, name: None, ..found.record };
            Ok(tx.update(&gone, found.version)?.record)
        })?;
        self.leftovers.remove(&gone).map_err(|e| {
            let what = format!("volume {} is deleted, but not all of its data is removed yet", record.shown());
            e.context(what).hint(format!("restart the server, or use `coffer volume delete {}`", record.id))
        })?;
        Ok(format!("volume {} is deleted; its snapshots are kept", record.shown()))
    }

    /// Grows a volume. First announces the header's next identity in the catalog: after a kill, the catalog then vouches for the
    /// header, whether it is the old or the new one.
    pub(super) fn grow_volume(&self, caller: &Caller, what: &str, size: u64) -> Result<VolumeInfo> {
        let record = self.records.find_volume(what)?;
        self.attachments.refuse_if_elsewhere(&record)?;
        let used = self.opens.acquire(&record, Need::Key(caller))?;
        // One at a time until the last update of the catalog: one call must not undo what another announced.
        let _turn = self.turns.take(record.id);
        let keys = self.keys.unwrap(&used.volume, caller)?;
        let mac_epoch = used.volume.with_header(|h| h.identity().mac_epoch);
        let mac_key = keys.iter().find(|(e, _)| *e == mac_epoch).map(|(_, k)| k);
        let mac_key =
            mac_key.ok_or_else(|| Error::new(Kind::KeyUnavailable, format!("{}: no MAC key", record.shown())))?;
        let plan = used.volume.plan_grow(size, mac_key)?;
        if !plan.is_change() {
            return self.volume_info(&record);
        }
        let next = NextIdentity::of(&plan);
        let announce = Act::new("ec2:ModifyVolume").detail("size", size).detail("volume", record.id);
        self.records.change_volume(caller, announce, record.id, |r| r.next = Some(next.clone()))?;
        let grown = used.volume.grow_by(plan);
        // The header tells what the volume is now, whether or not this failed.
        let done = Act::new("ec2:VolumeModified").detail("volume", record.id);
        let now = self.records.change_volume(caller, done, record.id, |r| r.take_identity(&used.volume));
        grown?;
        self.volume_info(&now?)
    }
}
