//! Begins snapshots: prepares their destinations, records them as pending, and fixes the point in time of all of them at
//! one instant.

use super::api::SnapshotState;
use super::copying::Sink;
use super::home::{Home, RepositoryKey};
use super::jobs::{Begun, Jobs};
use super::opening::{InUse, Need};
use super::records::{Group, Labels, SnapshotRecord, VolumeRecord};
use crate::error::Result;
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::repository::Repository;
use crate::snapshot::writer::SnapshotSpec;
use crate::units::{GroupId, SnapshotId, chunks_in};
use crate::volume::Volume;
use crate::volume::begin::{Begin, begin_together};
use crate::volume::pending::ChunkSink;
use std::sync::Arc;

/// A snapshot that is to be taken.
pub(super) struct Wanted {
    pub(super) id: SnapshotId,
    pub(super) volume: VolumeRecord,
    pub(super) to: RepositoryKey,
}

/// A snapshot that can be recorded and begun.
struct Prepared {
    used: InUse,
    repository: Arc<Repository>,
    sink: Arc<Sink>,
    begin: Begin,
    record: SnapshotRecord,
}

impl Jobs {
    /// Fixes one point in time of several volumes, and records their snapshots as pending. If it fails for one, none is
    /// taken.
    pub(super) fn begin(&self, caller: &Caller, mut wanted: Vec<Wanted>, labels: &Labels) -> Result<Vec<Begun>> {
        // The order in which turns are taken and headers locked.
        wanted.sort_by_key(|w| w.volume.id);
        let uses = wanted.iter().map(|w| self.open_source(w)).collect::<Result<Vec<_>>>()?;
        // One at a time from here on: size, base and epoch must be those at the moment that the point in time is fixed.
        let turn = |w: &Wanted| (self.on.turns.take(w.volume.id), self.on.bases.keep(w.volume.id));
        let turns: Vec<_> = wanted.iter().map(turn).collect();
        let group = (wanted.len() > 1).then(|| Group { id: GroupId::draw(&*self.on.env.rng), begun: false });
        let prepare = |(w, used)| self.prepare(w, used, labels, group);
        let prepared = wanted.iter().zip(uses).map(prepare).collect::<Result<Vec<_>>>()?;
        self.record(caller, group, &prepared)?;
        let (records, begun): (Vec<_>, _) = (prepared.iter().map(|p| p.record.clone()).collect(), fix(prepared));
        let begun = begun.and_then(|begun| {
            group.map_or(Ok(()), |group| self.note_begun(group, &begun))?;
            Ok(begun)
        });
        drop(turns);
        begun.inspect_err(|err| {
            // All of them, before any is settled: no one else continues a part of a group.
            records.iter().for_each(|r| self.on.unsettled.add(r.home(), r.id, Some(err.line())));
            records.iter().for_each(|r| self.on.unsettled.settle_home(r.home()));
        })
    }

    fn open_source(&self, wanted: &Wanted) -> Result<InUse> {
        let used = self.on.opens.acquire(&wanted.volume, Need::Sealed)?;
        self.on.logs.check(Home { repository: wanted.to, lineage: wanted.volume.lineage })?;
        self.on.bases.settle_header(&wanted.volume, &used.volume);
        Ok(used)
    }

    /// Begins the snapshot in its repository. The volume's turn is taken.
    fn prepare(&self, wanted: &Wanted, used: InUse, labels: &Labels, group: Option<Group>) -> Result<Prepared> {
        let Wanted { id, volume, to } = wanted;
        // Before anything is recorded that would stay in error.
        used.volume.must_have_room_for_snapshot()?;
        let repository = self.on.repositories.open(*to)?;
        let (epoch, keys, context, generation) = used.volume.with_header(|h| {
            let wrapped: Vec<_> = h.keys().into_iter().flat_map(|k| k.keys.clone()).collect();
            let blob = |e| wrapped.iter().find(|k| k.epoch == e).map(|k| k.blob.clone()).unwrap_or_default();
            let keys: Vec<_> = h.identity().key_epochs.iter().map(|k| (k.data_key_id, blob(k.epoch))).collect();
            (h.state().epoch, keys, h.identity().context.clone(), h.identity().map_generation)
        });
        let time = self.on.env.now();
        let spec = SnapshotSpec {
            id: *id,
            lineage: volume.lineage,
            volume: Some(volume.id),
            size: used.volume.size(),
            time,
            point: epoch.0,
            map_generation: generation,
            base: None,
            keys: keys.clone(),
            source: None,
        };
        let (writer, base, reader) = self.on.bases.begin(&used.volume, &repository, &spec, &self.staging_of(*id))?;
        let sink = Arc::new(Sink { chunks: chunks_in(spec.size), writer, base: reader });
        let record = SnapshotRecord {
            id: *id,
            volume: volume.id,
            lineage: volume.lineage,
            repository: *to,
            state: SnapshotState::Pending,
            error: None,
            size: spec.size,
            changed: 0,
            stored: 0,
            created: time,
            base: base.as_ref().map(|b| b.snapshot),
            key_arn: volume.key_arn.clone(),
            data_keys: keys.iter().map(|(id, _)| *id).collect(),
            context,
            description: labels.description.clone(),
            name: labels.name.clone(),
            tags: labels.tags.clone(),
            held: false,
            lock: None,
            recycled: None,
            schedule: labels.schedule,
            proved: None,
            group,
            source: None,
        };
        let destination = sink.clone() as Arc<dyn ChunkSink>;
        let begin = Begin { snapshot: *id, time: time.0, repository: repository.id()?, base, sink: destination };
        Ok(Prepared { used, repository, sink, begin, record })
    }

    /// Records all of them as pending, in one step.
    fn record(&self, caller: &Caller, group: Option<Group>, prepared: &[Prepared]) -> Result<()> {
        let act = match (group, prepared) {
            (None, [one]) => Act::new("ec2:CreateSnapshot")
                .key(one.record.key_arn.clone())
                .detail("volume", one.record.volume)
                .detail("snapshot", one.record.id),
            _ => Act::new("ec2:CreateSnapshots")
                .detail("group", group.map(|g| g.id.to_string()).unwrap_or_default())
                .detail("volumes", joined(prepared, |r| r.volume))
                .detail("snapshots", joined(prepared, |r| r.id)),
        };
        self.on.records.ledger().audited(caller, act, |tx| {
            for one in prepared {
                self.on.repositories.must_be_current(tx, one.record.repository, &one.repository)?;
                tx.insert(&one.record)?;
            }
            Ok(())
        })
    }

    /// Records that all of a group is begun: from here on, what a kill leaves of it continues.
    fn note_begun(&self, group: Group, begun: &[Begun]) -> Result<()> {
        let members: Vec<_> = begun.iter().map(|one| one.record.id).collect();
        self.on.records.note_begun(group.id, &members).map_err(|err| err.context(format!("begin {}", group.id)))
    }
}

/// Fixes the points in time.
fn fix(prepared: Vec<Prepared>) -> Result<Vec<Begun>> {
    let volumes: Vec<Arc<Volume>> = prepared.iter().map(|one| one.used.volume.clone()).collect();
    let (begins, rest): (Vec<_>, Vec<_>) =
        prepared.into_iter().map(|one| (one.begin, (one.used, one.sink, one.record))).unzip();
    let pending = begin_together(volumes.iter().map(|volume| &**volume).zip(begins).collect())?;
    let begun = rest.into_iter().zip(pending);
    Ok(begun.map(|((used, sink, record), pending)| Begun { used, pending, sink, record }).collect())
}

/// Returns what the members have of something, separated by blanks.
fn joined<T: ToString>(prepared: &[Prepared], of: impl Fn(&SnapshotRecord) -> T) -> String {
    prepared.iter().map(|one| of(&one.record).to_string()).collect::<Vec<_>>().join(" ")
}
