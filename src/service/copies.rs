//! Copies of snapshots: to another repository, or under another CMK.
//!
//! Without a key, the sealed bytes are copied as they are: same lineage, same data keys. With one, the first copy of a lineage gets a
//! data key and a lineage of its own; the catalog remembers it, and later copies of the same source lineage to the same CMK and
//! repository join it, so that they are increments.
//!
//! Order of a begin: staging directory; catalog (the record, the grants that the service continues under, the new lineage); a ref that
//! holds the source, and is removed once the copy has ended ([`Lineages::release_source`]).

use super::api::SnapshotState;
use super::copying::{Job, Sink};
use super::home::{Home, RepositoryKey};
use super::keygate::{HeldCiphers, KeyGate, KeyHolder, Ticket};
use super::lineage::Lineages;
use super::logs::Logs;
use super::records::{CopySource, Labels, Records, SnapshotRecord};
use super::repositories::Repositories;
use super::resealing::{Candidates, Ciphers, Copying};
use super::snapshot_keys::SnapshotKeys;
use super::turns::Turns;
use super::volume_keys::VolumeKeys;
use crate::cipher::xts::XtsCipher;
use crate::cipher::{DataKey, Unwrapped};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller, Grant, KeyRef};
use crate::ledger::{Act, Record};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::repository::Repository;
use crate::snapshot::staging::Staging;
use crate::snapshot::writer::{Completed, SnapshotSpec, SnapshotWriter};
use crate::units::{DataKeyId, LineageId, SnapshotId, chunks_in};
use crate::volume::parent::Parent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What [`Copies`] depends on.
pub(super) struct On {
    /// Clock and randomness.
    pub(super) env: Env,
    /// The catalog's records.
    pub(super) records: Arc<Records>,
    /// Sources and destinations.
    pub(super) repositories: Arc<Repositories>,
    /// The logs that must not have been rolled back.
    pub(super) logs: Arc<Logs>,
    /// Holds the sources.
    pub(super) lineages: Arc<Lineages>,
    /// Unwraps the keys.
    pub(super) keys: Arc<VolumeKeys>,
    /// The wrapped keys of the sources.
    pub(super) snapshot_keys: Arc<SnapshotKeys>,
    /// The gate that keys must pass to be put in place.
    pub(super) keygate: Arc<KeyGate>,
    /// The directory with the staging directories of all pending snapshots.
    pub(super) staging: PathBuf,
}

/// Begins and continues copies.
pub(super) struct Copies {
    on: On,
    /// Taken while the lineage of a first copy is made.
    turns: Turns<(LineageId, RepositoryKey)>,
}

/// What is to be copied, and how.
pub(super) struct Asked {
    /// Id or name of the source.
    pub(super) snapshot: String,
    /// The CMK of the copy; `None`: that of the source, with the same data keys.
    pub(super) key: Option<KeyRef>,
    /// Name or id of its repository; `None`: that of the source.
    pub(super) repository: Option<String>,
    pub(super) labels: Labels,
}

/// The catalog's record of a lineage that was made for copies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CopyLineage {
    /// The lineage of the sources, the CMK (its ARN), and the repository of the copies.
    source: LineageId,
    key_arn: String,
    #[serde(default, skip_serializing_if = "RepositoryKey::is_local")]
    pub(super) repository: RepositoryKey,
    /// The lineage of the copies.
    pub(super) lineage: LineageId,
    pub(super) data_key: DataKeyId,
    /// The wrapped data key, which the repository's log does not have before the first copy is completed; and its encryption context.
    #[serde(with = "hex")]
    pub(super) blob: Vec<u8>,
    pub(super) context: BTreeMap<String, String>,
}

impl Record for CopyLineage {
    const KIND: &'static str = "copy-lineage";
    fn id(&self) -> String {
        Self::id_of(self.source, self.repository, &self.key_arn)
    }
}

impl CopyLineage {
    fn id_of(source: LineageId, repository: RepositoryKey, key_arn: &str) -> String {
        format!("{source}@{repository}@{key_arn}")
    }
}

/// The lineage of a copy and its keys.
struct Target {
    lineage: LineageId,
    key_arn: String,
    context: BTreeMap<String, String>,
    /// Its data keys, wrapped.
    keys: Vec<(DataKeyId, Vec<u8>)>,
    /// With a key of its own: what it is sealed with, the grants to continue it, and the lineage if it is new.
    resealed: Option<Resealed>,
}

struct Resealed {
    ciphers: Ciphers,
    grants: Vec<Grant>,
    new: Option<CopyLineage>,
}

/// A copy that has begun.
pub(super) struct Begun {
    pub(super) record: SnapshotRecord,
    copying: Copying,
}

impl Begun {
    /// Returns the writer of the copy.
    pub(super) fn writer(&self) -> &SnapshotWriter {
        &self.copying.sink.writer
    }

    /// Copies all that is left, and completes the copy in its repository.
    pub(super) fn run(&self, job: &Arc<Job>) -> Result<Completed> {
        self.copying.run(job)
    }

    /// Gives up; returns the record.
    pub(super) fn give_up(self) -> SnapshotRecord {
        let Self { record, copying } = self;
        copying.sink.abort();
        record
    }
}

/// An unwrapped data key by its id.
type Keys = Vec<(DataKeyId, Unwrapped<DataKey>)>;

impl Copies {
    pub(super) fn new(on: On) -> Self {
        Self { on, turns: Turns::default() }
    }

    /// Begins a copy: checks the caller, and records it as pending. [`Copies::hold`] comes next.
    ///
    /// # Errors
    /// [`Kind::NotFound`] or [`Kind::InvalidState`] for the source; [`Kind::AccessDenied`] and [`Kind::KeyUnavailable`] for a CMK; what
    /// the repositories report. Nothing was recorded then.
    pub(super) fn begin(&self, caller: &Caller, id: SnapshotId, asked: Asked) -> Result<Begun> {
        let source = self.on.records.find_snapshot(&asked.snapshot)?;
        source.must_be_completed()?;
        self.on.logs.check(source.home())?;
        let to = asked.repository.map_or(Ok(source.repository), |name| self.on.repositories.find(&name))?;
        let repository = self.on.repositories.open(to)?;
        let reader = self.on.repositories.open(source.repository)?.open_snapshot(source.lineage, source.id)?;
        let turn = asked.key.as_ref().map(|_| self.turns.take((source.lineage, to)));
        let target = match &asked.key {
            Some(key) => self.resealed(caller, id, &source, (key, to))?,
            None => self.as_it_is(&source)?,
        };
        self.on.logs.check(Home { repository: to, lineage: target.lineage })?;
        let spec = SnapshotSpec {
            id,
            lineage: target.lineage,
            volume: reader.located().manifest.volume,
            size: reader.size(),
            time: source.created,
            point: reader.located().manifest.point,
            map_generation: reader.located().manifest.map_generation,
            base: None,
            keys: target.keys.clone(),
            source: Some(source.id.to_string()),
        };
        let (writer, base) = self.begin_on_best(&source, &repository, to, &spec)?;
        let record = record(&source, to, &spec, (&target, base.as_ref()), asked.labels);
        if let Err(err) = self.note(caller, &record, &target, &repository) {
            if let Err(left) = writer.abort() {
                tracing::warn!("snapshot {id}: {}", left.line());
            }
            return Err(err);
        }
        drop(turn);
        let ciphers = target.resealed.map(|resealed| resealed.ciphers);
        self.begun(record, reader, (writer, base, ciphers), std::iter::empty())
    }

    fn begun(
        &self,
        record: SnapshotRecord,
        source: SnapshotReader,
        (writer, base, ciphers): (SnapshotWriter, Option<SnapshotReader>, Option<Ciphers>),
        copied: impl Iterator<Item = crate::units::ChunkNo>,
    ) -> Result<Begun> {
        let candidates = match (&base, &ciphers) {
            (None, _) => Candidates::Since(None),
            // Sealed alike: the trees tell.
            (Some(base), None) => Candidates::Since(Some(Box::new(base.clone()))),
            (Some(_), Some(_)) => {
                self.source_of_base(&record).map_or(Candidates::All, |old| Candidates::Since(Some(Box::new(old))))
            }
        };
        let sink = Arc::new(Sink { chunks: chunks_in(record.size), writer, base });
        Ok(Begun { record, copying: Copying { source, sink, ciphers, candidates, copied: copied.collect() } })
    }

    /// Returns what the base of a copy was copied from, if that still exists.
    fn source_of_base(&self, record: &SnapshotRecord) -> Option<SnapshotReader> {
        let base = self.on.records.snapshot(record.base?).ok()??;
        let (of, own) = (base.source?, record.source.as_ref()?);
        let old = self.on.records.snapshot(of.snapshot).ok()??;
        if of.lineage != own.lineage || old.state != SnapshotState::Completed {
            return None;
        }
        self.on.repositories.open(old.repository).ok()?.open_snapshot(old.lineage, old.id).ok()
    }

    /// Returns the target of a copy of the sealed bytes.
    fn as_it_is(&self, source: &SnapshotRecord) -> Result<Target> {
        Ok(Target {
            lineage: source.lineage,
            key_arn: source.key_arn.clone(),
            context: source.context.clone(),
            keys: self.on.snapshot_keys.wrapped(source)?,
            resealed: None,
        })
    }

    /// Returns the target of a copy under a CMK: the lineage of earlier ones, or a new one. Unwraps the keys for the caller, who is
    /// checked and audited.
    fn resealed(
        &self,
        caller: &Caller,
        id: SnapshotId,
        source: &SnapshotRecord,
        (key, to): (&KeyRef, RepositoryKey),
    ) -> Result<Target> {
        let ticket = self.on.keygate.ticket();
        let blobs = self.on.snapshot_keys.wrapped(source)?;
        let arn = self.on.keys.arn_of(key)?;
        let from = self.on.keys.unwrap_blobs((source.id, &source.context), blobs.clone(), caller)?;
        let known = arn.map(|arn| CopyLineage::id_of(source.lineage, to, &arn));
        let known = known.map(|id| self.on.records.ledger().catalog().get::<CopyLineage>(&id)).transpose()?.flatten();
        let (lineage, own, new) = match known.map(|found| found.record) {
            Some(lineage) => {
                let blob = self.newest_blob(&lineage)?;
                let own = self.on.keys.unwrap_blobs(
                    (id, &lineage.context),
                    vec![(lineage.data_key, blob.clone())],
                    caller,
                )?;
                (CopyLineage { blob, ..lineage }, own, false)
            }
            None => {
                let context = BTreeMap::from([("aws:ebs:id".to_owned(), id.to_string())]);
                let (blob, own) = self.on.keys.new_key(key, (id, &context), caller)?;
                let data_key = own.get().id();
                let key_arn = self.on.keys.cmks_of_blobs(&[(data_key, blob.clone())])?.concat();
                let drawn = LineageId::draw(&*self.on.env.rng);
                let (source, repository) = (source.lineage, to);
                (
                    CopyLineage { source, key_arn, repository, lineage: drawn, data_key, blob, context },
                    vec![(data_key, own)],
                    true,
                )
            }
        };
        let grants =
            self.on.keys.grants_for_copy(id, (&blobs, &source.context), (&lineage.blob, &lineage.context), caller)?;
        let keys = vec![(lineage.data_key, lineage.blob.clone())];
        let ciphers = self.ciphers(ticket, (&blobs, &from), (&keys, &own))?;
        Ok(Target {
            lineage: lineage.lineage,
            key_arn: lineage.key_arn.clone(),
            context: lineage.context.clone(),
            keys,
            resealed: Some(Resealed { ciphers, grants, new: new.then_some(lineage) }),
        })
    }

    /// Returns the wrapped data key of a lineage of copies: as its log has it, else as the first copy began with it.
    fn newest_blob(&self, lineage: &CopyLineage) -> Result<Vec<u8>> {
        let in_log = self.on.repositories.open(lineage.repository)?.keys(lineage.lineage)?;
        Ok(in_log.get(&lineage.data_key).map_or_else(|| lineage.blob.clone(), |key| key.blob.clone()))
    }

    /// Puts the ciphers in place, to be wiped when one of the CMKs becomes unusable.
    fn ciphers(
        &self,
        ticket: Ticket,
        (from_blobs, from): (&[(DataKeyId, Vec<u8>)], &Keys),
        (to_blobs, to): (&[(DataKeyId, Vec<u8>)], &Keys),
    ) -> Result<Ciphers> {
        let data_key = to.first().map(|(id, _)| *id);
        let data_key = data_key.ok_or_else(|| Error::new(Kind::Failed, "a copy has no data key"))?;
        let from_held = Arc::new(HeldCiphers::new(self.on.keys.cmks_of_blobs(from_blobs)?));
        let to_held = Arc::new(HeldCiphers::new(self.on.keys.cmks_of_blobs(to_blobs)?));
        for holder in [from_held.clone() as Arc<dyn KeyHolder>, to_held.clone() as Arc<dyn KeyHolder>] {
            self.on.keygate.register(Arc::downgrade(&holder));
        }
        let gate = &self.on.keygate;
        from_held.put(gate, ticket, || from.iter().map(|(id, key)| (id.tag(), XtsCipher::new(key))).collect())?;
        to_held.put(gate, ticket, || to.iter().map(|(id, key)| (*id, XtsCipher::new(key))).collect())?;
        Ok(Ciphers { from: from_held, to: to_held, data_key })
    }

    /// Begins the writer on the best base in the repository: for a copy in place, the source itself.
    fn begin_on_best(
        &self,
        source: &SnapshotRecord,
        repository: &Repository,
        to: RepositoryKey,
        spec: &SnapshotSpec,
    ) -> Result<(SnapshotWriter, Option<SnapshotReader>)> {
        let staging = self.on.staging.join(spec.id.to_string());
        for base in self.bases(source, Home { repository: to, lineage: spec.lineage })? {
            let begin = || {
                // A base that lacks something would fail the copy at its end.
                repository.check_reach(spec.lineage, base)?;
                let reader = repository.open_snapshot(spec.lineage, base)?;
                let spec = SnapshotSpec { base: Some(base), ..spec.clone() };
                Ok::<_, Error>((repository.begin_staged(spec, &staging)?, Some(reader)))
            };
            match begin() {
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Integrity) => {
                    tracing::warn!("copy {}: {}; trying another base", source.id, err.line());
                }
                other => return other,
            }
        }
        Ok((repository.begin_staged(spec.clone(), &staging)?, None))
    }

    /// Returns the possible bases of a copy, the best one first: of the same volume, not newer than the source, and then the newest.
    fn bases(&self, source: &SnapshotRecord, home: Home) -> Result<Vec<SnapshotId>> {
        let is_usable = |r: &SnapshotRecord| {
            let of = r.source.as_ref().map(|of| of.lineage);
            let is_alike = home.lineage == source.lineage || of == Some(source.lineage);
            r.home() == home
                && is_alike
                && r.state == SnapshotState::Completed
                && !r.is_hidden()
                && r.size <= source.size
        };
        let mut all: Vec<_> = self.on.records.snapshots()?.into_iter().filter(is_usable).collect();
        let rank = |r: &SnapshotRecord| {
            (r.id == source.id, r.volume == source.volume, r.created <= source.created, r.created, r.id)
        };
        all.sort_by_key(|r| std::cmp::Reverse(rank(r)));
        Ok(all.into_iter().map(|r| r.id).collect())
    }

    /// Records the copy as pending, with all that it needs to be continued.
    fn note(&self, caller: &Caller, record: &SnapshotRecord, target: &Target, to: &Arc<Repository>) -> Result<()> {
        let of = record.source.as_ref().ok_or_else(|| Error::new(Kind::Failed, "a copy has no source"))?;
        let act = Act::new("ec2:CopySnapshot")
            .key(record.key_arn.clone())
            .detail("source", of.snapshot)
            .detail("snapshot", record.id)
            .detail("repository", record.repository);
        self.on.records.ledger().audited(caller, act, |tx| {
            self.on.repositories.must_be_current(tx, record.repository, to)?;
            Repositories::must_know(tx, of.repository)?;
            let source = tx.get::<SnapshotRecord>(&of.snapshot.to_string())?.filter(|found| !found.record.is_hidden());
            let gone = || Error::new(Kind::NotFound, format!("snapshot {} was deleted meanwhile", of.snapshot));
            source.ok_or_else(gone)?;
            if let Some(resealed) = &target.resealed {
                resealed.new.as_ref().map_or(Ok(()), |new| tx.insert(new).map(drop))?;
                resealed.grants.iter().try_for_each(|grant| grant.put(tx))?;
            }
            tx.insert(record).map(drop)
        })
    }

    /// Puts the ref that holds the source of a copy until it has ended, unless it is there.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the source was deleted before it was held; what its repository reports.
    pub(super) fn hold(&self, record: &SnapshotRecord) -> Result<()> {
        record.source.as_ref().map_or(Ok(()), |of| self.on.lineages.hold_source(record.id, of))
    }

    /// Takes up a copy that an earlier process left pending, under its grants.
    ///
    /// # Errors
    /// [`Kind::Integrity`], [`Kind::NotFound`] or [`Kind::AccessDenied`] if it cannot be continued; [`Kind::Exists`] if its repository
    /// has it completed; other errors may pass.
    pub(super) fn take_up(&self, record: &SnapshotRecord) -> Result<Begun> {
        let lost = |why: &str| Error::new(Kind::Integrity, format!("cannot be continued: {why}"));
        let of = record.source.clone().ok_or_else(|| lost("it is not a copy"))?;
        let (repository, from) =
            (self.on.repositories.reach(record.repository)?, self.on.repositories.reach(of.repository)?);
        self.on.logs.check(record.home())?;
        let staged = Staging::open(&self.on.staging.join(record.id.to_string()), &self.on.env.boot_id)?;
        let staged = staged.ok_or_else(|| lost("its staging directory is missing"))?;
        if repository.live(record.lineage, record.id)?.is_some() {
            return Err(Error::new(Kind::Exists, format!("snapshot {} is completed", record.id)));
        }
        self.hold(record)?;
        let source = from.open_snapshot(of.lineage, of.snapshot)?;
        let base = record.base.map(|base| repository.open_snapshot(record.lineage, base)).transpose()?;
        let ciphers = of.is_resealed().then(|| self.ciphers_again(record, &of, &staged.spec().keys)).transpose()?;
        let copied: Vec<_> = staged.copied().collect();
        let writer = repository.resume(staged)?;
        self.begun(record.clone(), source, (writer, base, ciphers), copied.into_iter())
    }

    /// Unwraps the keys of a copy again, under its grants.
    fn ciphers_again(&self, record: &SnapshotRecord, of: &CopySource, own: &[(DataKeyId, Vec<u8>)]) -> Result<Ciphers> {
        let ticket = self.on.keygate.ticket();
        let caller = self.on.records.own_caller("snapshot");
        let caller = Caller { authority: Authority::Grants(of.grants.clone()), ..caller };
        let blobs = self.on.snapshot_keys.wrapped_in(of.home(), &of.data_keys)?;
        let unwrap = |id, context, blobs: &[_]| {
            let unwrapped = self.on.keys.unwrap_blobs((id, context), blobs.to_vec(), &caller);
            unwrapped.map_err(|e| {
                e.context(format!("continue copy {}", record.id)).hint("delete it, and copy the snapshot again")
            })
        };
        let from = unwrap(of.snapshot, &of.context, &blobs)?;
        let to = unwrap(record.id, &record.context, own)?;
        self.ciphers(ticket, (&blobs, &from), (own, &to))
    }
}

/// Returns the record of a copy that begins.
fn record(
    source: &SnapshotRecord,
    to: RepositoryKey,
    spec: &SnapshotSpec,
    (target, base): (&Target, Option<&SnapshotReader>),
    labels: Labels,
) -> SnapshotRecord {
    let resealed = target.resealed.as_ref();
    let grants = resealed.map(|r| r.grants.iter().map(Record::id).collect()).unwrap_or_default();
    let of = CopySource {
        snapshot: source.id,
        lineage: source.lineage,
        repository: source.repository,
        data_keys: resealed.map(|_| source.data_keys.clone()).unwrap_or_default(),
        context: resealed.map(|_| source.context.clone()).unwrap_or_default(),
        grants,
        held: true,
    };
    SnapshotRecord {
        id: spec.id,
        volume: source.volume,
        lineage: target.lineage,
        repository: to,
        state: SnapshotState::Pending,
        error: None,
        size: spec.size,
        changed: 0,
        stored: 0,
        created: source.created,
        base: base.map(|base| base.located().manifest.snapshot),
        key_arn: target.key_arn.clone(),
        data_keys: target.keys.iter().map(|(id, _)| *id).collect(),
        context: target.context.clone(),
        description: labels.description,
        name: labels.name,
        tags: labels.tags,
        held: false,
        lock: None,
        recycled: None,
        schedule: None,
        proved: None,
        group: None,
        source: Some(of),
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
