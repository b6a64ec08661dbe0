//! What a lineage's snapshots are kept for: filling volumes, bases, and unfinished deletes. Anything else is swept.

use super::api::SnapshotState;
use super::bases::{Bases, base_ref, drop_ref};
use super::home::{Home, RepositoryKey};
use super::logs::Logs;
use super::records::{CopySource, Records, SnapshotRecord, VolumeRecord};
use super::repositories::Repositories;
use crate::cipher::SealedMut;
use crate::error::{Error, Kind, Result};
use crate::ledger::Act;
use crate::snapshot::compact::{Collected, GoOn, Threshold};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::refs::{Ref, RefKind};
use crate::snapshot::repository::Repository;
use crate::snapshot::staging;
use crate::snapshot::sweep::{Need as RefNeed, Needs, Swept};
use crate::store::factory::Stores;
use crate::units::{ChunkNo, KeyTag, LineageId, PackId, RepositoryId, SectorMap, SnapshotId, VolumeId};
use crate::volume::format::ParentRef;
use crate::volume::parent::{Each, Parent};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// All lineages of the repositories.
pub(super) struct Lineages {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
    logs: Arc<Logs>,
    bases: Arc<Bases>,
    stores: Arc<dyn Stores>,
    /// The directory with the staging directories of pending snapshots.
    staging: PathBuf,
    /// Where there may be unreachable objects.
    unswept: Mutex<BTreeSet<Home>>,
    /// Where a sweep may have left packs with garbage.
    worn: Mutex<BTreeSet<Home>>,
    /// Copies that have ended and whose source is not released, with its home.
    unreleased: Mutex<BTreeMap<SnapshotId, Home>>,
}

impl Lineages {
    /// Creates the lineages of these repositories. A volume without a record still counts if it is in the stores.
    pub(super) fn new(
        records: &Arc<Records>,
        repositories: &Arc<Repositories>,
        logs: &Arc<Logs>,
        bases: &Arc<Bases>,
        stores: &Arc<dyn Stores>,
        staging: PathBuf,
    ) -> Self {
        Self {
            records: records.clone(),
            repositories: repositories.clone(),
            logs: logs.clone(),
            bases: bases.clone(),
            stores: stores.clone(),
            staging,
            unswept: Mutex::default(),
            worn: Mutex::default(),
            unreleased: Mutex::default(),
        }
    }

    /// Opens the snapshot that a volume is filled from.
    pub(super) fn open_parent(&self, lineage: LineageId, parent: &ParentRef) -> Result<Arc<dyn Parent>> {
        Ok(Arc::new(self.repositories.open_id(parent.repository)?.open_snapshot(lineage, parent.snapshot)?))
    }

    /// Returns the snapshot that a volume is filled from. One in a repository that was added is opened at its first use: a volume
    /// whose repository is out of reach can be used as far as it is filled.
    pub(super) fn parent_of(&self, lineage: LineageId, parent: &ParentRef) -> Result<Arc<dyn Parent>> {
        if self.repositories.key_of(parent.repository)?.is_local() {
            return self.open_parent(lineage, parent);
        }
        let (repositories, parent) = (self.repositories.clone(), parent.clone());
        Ok(Arc::new(FarParent { repositories, lineage, parent, reader: OnceLock::new() }))
    }

    /// Returns where the snapshot is that a volume is or was filled from. `None`: it was not, or its repository was removed.
    ///
    /// # Errors
    /// If it may be in the data directory's repository, whose id is unreadable.
    pub(super) fn parent_home(&self, record: &VolumeRecord) -> Result<Option<Home>> {
        let Some(parent) = &record.parent else { return Ok(None) };
        match self.repositories.key_of(parent.repository) {
            Ok(repository) => Ok(Some(Home { repository, lineage: record.lineage })),
            Err(err) if err.kind() == Kind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Puts the refs that a volume needs: on the snapshot that it is filled from, and on the base of its next snapshot.
    pub(super) fn hold_parent(&self, lineage: LineageId, volume: VolumeId, parent: &ParentRef) -> Result<()> {
        self.hold(lineage, parent, &[fill_ref(volume), base_ref(volume)])
    }

    /// Puts the ref on the snapshot that a volume is about to be filled from.
    pub(super) fn hold_fill(&self, lineage: LineageId, volume: VolumeId, parent: &ParentRef) -> Result<()> {
        self.hold(lineage, parent, &[fill_ref(volume)])
    }

    /// Puts the ref on the base of a volume's next snapshot, the snapshot that it is filled from.
    pub(super) fn hold_base(&self, lineage: LineageId, volume: VolumeId, parent: &ParentRef) -> Result<()> {
        self.hold(lineage, parent, &[base_ref(volume)])
    }

    fn hold(&self, lineage: LineageId, parent: &ParentRef, refs: &[String]) -> Result<()> {
        let (repository, parent) = (self.repositories.open_id(parent.repository)?, parent.snapshot);
        refs.iter().try_for_each(|name| repository.put_ref(lineage, name, RefKind::Volume, parent))?;
        // If it was hidden meanwhile, its objects may be removed before the log says so.
        if self.records.snapshot(parent)?.is_some_and(|r| r.state == SnapshotState::Completed) {
            return Ok(());
        }
        refs.iter().try_for_each(|name| drop_ref(&repository, lineage, name))?;
        Err(Error::new(Kind::NotFound, format!("snapshot {parent} was deleted")))
    }

    /// Releases the snapshot of a volume that is filled or deleted.
    fn release_parent(&self, record: &VolumeRecord) {
        let home = match self.parent_home(record) {
            Ok(Some(home)) => home,
            Ok(None) => return,
            Err(err) => return still_held(record, &err),
        };
        if let Err(err) = self.release_parent_in(home, record) {
            still_held(record, &err);
            self.sweep_later(home);
        }
    }

    fn release_parent_in(&self, home: Home, record: &VolumeRecord) -> Result<()> {
        let repository = self.repositories.open(home.repository)?;
        let parent = record.parent.as_ref().map(|p| p.snapshot);
        match parent.map_or(Ok(None), |p| repository.live(home.lineage, p))? {
            Some(_) => drop_ref(&repository, home.lineage, &fill_ref(record.id)),
            // Only this volume kept it; the ref goes last ([`Lineages::holds_parent`]).
            None => self.sweep_released(home),
        }
    }

    /// Puts the ref that holds the source of a copy, unless it is there.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the source was deleted before it was held.
    pub(super) fn hold_source(&self, copy: SnapshotId, of: &CopySource) -> Result<()> {
        let (repository, id) = (self.repositories.open(of.repository)?, copy_ref(copy));
        if repository.ref_on(of.lineage, &id)? == Some(of.snapshot) {
            return Ok(());
        }
        repository.put_ref(of.lineage, &id, RefKind::Volume, of.snapshot)?;
        // If it was hidden meanwhile, its objects may be removed before the log says so.
        if self.records.snapshot(of.snapshot)?.is_some_and(|r| r.state == SnapshotState::Completed) {
            return Ok(());
        }
        drop_ref(&repository, of.lineage, &id)?;
        Err(Error::new(Kind::NotFound, format!("snapshot {} was deleted", of.snapshot)))
    }

    /// Releases the source of a copy that has ended. What fails is retried.
    pub(super) fn release_source(&self, copy: SnapshotId) {
        let found = self.records.snapshot(copy).ok().flatten().filter(|r| r.state != SnapshotState::Pending);
        let Some(of) = found.and_then(|r| r.source).filter(|of| of.held) else { return };
        if let Err(err) = self.release_source_in(copy, &of) {
            tracing::warn!("release the source of copy {copy}: {}; will retry", err.line());
            self.release_source_later(copy, of.home());
        }
    }

    /// Notes that the source of a copy is still to be released.
    pub(super) fn release_source_later(&self, copy: SnapshotId, source: Home) {
        self.unreleased.lock().insert(copy, source);
        self.sweep_later(source);
    }

    fn release_source_in(&self, copy: SnapshotId, of: &CopySource) -> Result<()> {
        let repository = self.repositories.open(of.repository)?;
        match repository.live(of.lineage, of.snapshot)? {
            Some(_) => drop_ref(&repository, of.lineage, &copy_ref(copy))?,
            // Perhaps only this copy kept it; the ref goes last.
            None => self.sweep_released(of.home())?,
        }
        self.records.note_snapshot(copy, |r| r.source.iter_mut().for_each(|of| of.held = false))
    }

    /// Records in the catalog that a volume no longer needs its snapshot.
    pub(super) fn note_hydrated(&self, id: VolumeId) {
        let act = Act::new("ec2:VolumeHydrated").detail("volume", id);
        let noted = self.records.note_volume("fill", act, id, |r| r.hydrated = true);
        match noted {
            Ok(Some(record)) => self.release_parent(&record),
            Ok(None) => {}
            Err(err) => tracing::warn!("record that {id} is filled: {}", err.line()),
        }
    }

    /// Returns where a filled volume still has the ref on its snapshot, because its release was interrupted.
    pub(super) fn holds_parent(&self, record: &VolumeRecord, which: impl Fn(RepositoryKey) -> bool) -> Option<Home> {
        if !record.hydrated || record.parent.is_none() {
            return None;
        }
        let home = self.parent_home(record).ok().flatten().filter(|home| which(home.repository))?;
        let repository = self.repositories.open(home.repository).ok()?;
        repository.ref_on(home.lineage, &fill_ref(record.id)).ok()?.map(|_| home)
    }

    /// Releases everything that only a deleted volume needed, in all repositories. What fails now is retried later: refs of a
    /// volume that the catalog does not know are ignored.
    pub(super) fn release_all(&self, record: &VolumeRecord) -> Result<()> {
        let lineage = record.lineage;
        let mut homes: BTreeSet<Home> = self.logs.homes(lineage)?.into_iter().collect();
        homes.extend(self.records.snapshots()?.iter().map(SnapshotRecord::home).filter(|h| h.lineage == lineage));
        homes.insert(Home { repository: RepositoryKey::Local, lineage });
        homes.extend(self.parent_home(record).ok().flatten());
        for home in homes {
            match self.release_in(home, record.id) {
                // It was removed.
                Err(err) if err.kind() == Kind::NotFound && !home.repository.is_local() => {}
                Err(err) => {
                    tracing::warn!("release what only {} needed: {}; will retry", record.id, err.line());
                    self.sweep_later(home);
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn release_in(&self, home: Home, volume: VolumeId) -> Result<()> {
        let (repository, lineage) = (self.repositories.open(home.repository)?, home.lineage);
        drop_ref(&repository, lineage, &fill_ref(volume))?;
        drop_ref(&repository, lineage, &base_ref(volume))?;
        if repository.last_log_number(lineage)?.is_some() {
            self.logs.check(home)?;
            self.sweep(home)?;
        }
        Ok(())
    }

    /// Finishes a delete that the catalog has recorded: the log, unneeded bases, the objects, and last the catalog's record.
    pub(super) fn finish_delete(&self, record: &SnapshotRecord) -> Result<Swept> {
        self.finish_deletes(record.home(), std::slice::from_ref(record))
    }

    /// The same for several in one home, whose objects are removed by one sweep: it has to mark what all others need.
    pub(super) fn finish_deletes(&self, home: Home, records: &[SnapshotRecord]) -> Result<Swept> {
        let repository = self.repositories.open(home.repository)?;
        let mut early = Swept::default();
        for record in records {
            let swept = self.delete_in_log(&repository, record)?;
            early = Swept { deleted: early.deleted + swept.deleted, freed: early.freed + swept.freed, ..swept };
        }
        self.logs.note(home);
        records.iter().for_each(|record| self.release_source(record.id));
        self.bases.release_unneeded(home)?;
        let now = self.sweep(home)?;
        for record in records {
            let act = Act::new("ec2:SnapshotNotification").detail("snapshot", record.id).detail("state", "deleted");
            self.records.ledger().audited(&self.records.own_caller("snapshot"), act, |tx| {
                match tx.get::<SnapshotRecord>(&record.id.to_string())? {
                    Some(found) => tx.delete::<SnapshotRecord>(&record.id.to_string(), found.version),
                    None => Ok(()),
                }
            })?;
        }
        Ok(Swept { deleted: early.deleted + now.deleted, freed: early.freed + now.freed, ..now })
    }

    /// Deletes a snapshot in its log, unless that was done. Returns what was swept to make room for it.
    fn delete_in_log(&self, repository: &Repository, record: &SnapshotRecord) -> Result<Swept> {
        let lineage = record.lineage;
        let Some(live) = repository.live(lineage, record.id)? else { return Ok(Swept::default()) };
        let delete = || {
            // The hold of a lock that has expired: the catalog would not say that it is deleted if anything protected it.
            if live.held {
                repository.hold(lineage, record.id, false)?;
            }
            repository.delete(lineage, record.id)
        };
        match self.records.ledger().with_reserve(delete) {
            // Removing its objects makes room for the log entry. The catalog hides the snapshot, so no client sees it
            // meanwhile.
            Err(err) if err.kind() == Kind::NoSpace => {
                let swept = self.sweep(record.home())?;
                repository.delete(lineage, record.id)?;
                Ok(swept)
            }
            other => other.map(|()| Swept::default()),
        }
    }

    /// Notes that there may be unreachable objects.
    pub(super) fn sweep_later(&self, home: Home) {
        self.unswept.lock().insert(home);
    }

    /// Returns where a sweep was put off.
    pub(super) fn unswept(&self) -> BTreeSet<Home> {
        self.unswept.lock().clone()
    }

    /// Retries a sweep, if it was put off.
    pub(super) fn sweep_left(&self, home: Home) {
        if !self.unswept.lock().contains(&home) {
            return;
        }
        let copies: Vec<_> =
            self.unreleased.lock().extract_if(.., |_, source| *source == home).map(|(id, _)| id).collect();
        copies.into_iter().for_each(|copy| self.release_source(copy));
        match self.sweep_released(home) {
            Ok(()) => drop(self.unswept.lock().remove(&home)),
            Err(err) => tracing::warn!("sweep {home}: {}", err.line()),
        }
    }

    /// Releases unneeded bases, then sweeps. Refuses a log that was rolled back, which knows less than is needed.
    pub(super) fn sweep_released(&self, home: Home) -> Result<()> {
        self.logs.check(home)?;
        self.bases.release_unneeded(home)?;
        self.sweep(home).map(drop)
    }

    /// Deletes all unneeded objects of a lineage in a repository.
    pub(super) fn sweep(&self, home: Home) -> Result<Swept> {
        let repository = self.repositories.open(home.repository)?;
        let swept = repository.sweep_for(home.lineage, &self.known(home, &repository)?)?;
        self.worn.lock().insert(home);
        Ok(swept)
    }

    /// Sweeps a lineage in a repository, then compacts its packs.
    pub(super) fn collect(&self, home: Home, threshold: &Threshold, go_on: GoOn<'_>) -> Result<Collected> {
        let repository = self.repositories.open(home.repository)?;
        repository.collect(home.lineage, &self.known(home, &repository)?, threshold, go_on)
    }

    /// Notes that packs in the data directory's repository may have garbage: an earlier process may not have come to it.
    pub(super) fn look_for_garbage(&self) {
        let local = |r: &SnapshotRecord| r.repository.is_local().then(|| r.home());
        self.worn.lock().extend(self.records.snapshots().unwrap_or_default().iter().filter_map(local));
    }

    /// Returns whether a sweep may have left packs with garbage.
    pub(super) fn has_worn(&self) -> bool {
        !self.worn.lock().is_empty()
    }

    /// Takes where a sweep may have left packs with garbage.
    pub(super) fn take_worn(&self) -> BTreeSet<Home> {
        std::mem::take(&mut *self.worn.lock())
    }

    /// Returns what the catalog knows about a lineage in a repository.
    pub(super) fn known(&self, home: Home, repository: &Repository) -> Result<Known<'_>> {
        let here = repository.id()?;
        let volumes = self.records.volumes()?.into_iter().filter(|v| v.lineage == home.lineage);
        let parents = volumes.flat_map(|v| v.filled_from().cloned().collect::<Vec<_>>());
        let parents = parents.filter(|p| p.repository == here).map(|p| p.snapshot);
        let (mut roots, mut packs): (Vec<_>, _) = (parents.collect(), BTreeSet::new());
        let snapshots = self.records.snapshots()?;
        let going = snapshots.iter().filter(|r| r.is_deleting()).map(|r| r.id).collect();
        for pending in snapshots.iter().filter(|r| r.home() == home && r.state == SnapshotState::Pending) {
            roots.extend(pending.base);
            // One whose staging is damaged cannot be continued, and needs nothing.
            packs.extend(staging::packs_in(&self.staging.join(pending.id.to_string())).unwrap_or_default());
        }
        Ok(Known { lineages: self, here, roots, packs, going })
    }
}

/// The snapshot that a volume is filled from, in a repository that may be out of reach.
struct FarParent {
    repositories: Arc<Repositories>,
    lineage: LineageId,
    parent: ParentRef,
    reader: OnceLock<SnapshotReader>,
}

impl FarParent {
    /// Returns its reader. Threads that come at once open it each, and use the first.
    fn reader(&self) -> Result<&SnapshotReader> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let repository = self.repositories.open_id(self.parent.repository)?;
        let opened = repository.open_snapshot(self.lineage, self.parent.snapshot)?;
        Ok(self.reader.get_or_init(|| opened))
    }
}

impl Parent for FarParent {
    fn size(&self) -> u64 {
        self.parent.size
    }
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap> {
        self.reader()?.sectors(chunk)
    }
    fn fetch(&self, chunk: ChunkNo, out: SealedMut<'_>) -> Result<Option<KeyTag>> {
        self.reader()?.fetch(chunk, out)
    }
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>> {
        self.reader()?.next_with_sectors(from)
    }
    /// Not known before it is opened.
    fn is_far(&self) -> bool {
        self.reader.get().is_some_and(Parent::is_far)
    }
    fn fetch_many(&self, chunks: &[ChunkNo], each: &Each<'_>) {
        match self.reader() {
            Ok(reader) => reader.fetch_many(chunks, each),
            Err(err) => drop(chunks.iter().all(|chunk| each(*chunk, &|_| Err(err.replay())))),
        }
    }
    fn fetch_ahead(&self, chunks: &[ChunkNo], each: &Arc<Each<'static>>) {
        if let Some(reader) = self.reader.get() {
            reader.fetch_ahead(chunks, each);
        }
    }
}

fn still_held(record: &VolumeRecord, err: &Error) {
    tracing::warn!("{} is filled, but still holds its snapshot: {}", record.shown(), err.line());
}

/// Returns the name of the ref on the snapshot that a volume is filled from.
fn fill_ref(volume: VolumeId) -> String {
    format!("{volume}-fill")
}

/// Returns the name of the ref on the snapshot that a copy is made of.
pub(super) fn copy_ref(copy: SnapshotId) -> String {
    format!("{copy}-copy")
}

/// What the catalog knows about this installation's refs.
pub(super) struct Known<'a> {
    lineages: &'a Lineages,
    /// The repository of the refs.
    here: RepositoryId,
    /// The snapshots that volumes are still filled from, and the bases of pending snapshots.
    roots: Vec<SnapshotId>,
    /// The packs that pending snapshots have put, or will.
    packs: BTreeSet<PackId>,
    /// The snapshots that are being deleted.
    going: BTreeSet<SnapshotId>,
}

impl Needs for Known<'_> {
    fn of(&self, id: &str, found: Option<&Ref>) -> RefNeed {
        if let Some(copy) = id.strip_suffix("-copy").and_then(|copy| copy.parse().ok()) {
            return self.of_copy(copy, found.is_some());
        }
        let named = |sort: &str| id.strip_suffix(sort).and_then(|v| v.parse::<VolumeId>().ok());
        let (Some(volume), fills) = (named("-fill").or(named("-base")), named("-fill").is_some()) else {
            return RefNeed::Keep;
        };
        match self.lineages.records.volume(volume) {
            Err(_) => RefNeed::Keep,
            Ok(None) => {
                if self.lineages.stores.has_any(volume) {
                    RefNeed::Keep
                } else {
                    RefNeed::Drop
                }
            }
            Ok(Some(record)) => match (fills, found, record.filled_from().next()) {
                (true, _, None) => RefNeed::Drop,
                (_, Some(_), _) => RefNeed::Keep,
                (true, None, Some(parent)) if parent.repository == self.here => RefNeed::On(parent.snapshot),
                // A volume needs no other snapshot to be filled, and without its base the next one is full.
                (_, None, _) => RefNeed::Drop,
            },
        }
    }

    fn roots(&self) -> Vec<SnapshotId> {
        self.roots.clone()
    }

    fn packs(&self) -> BTreeSet<PackId> {
        self.packs.clone()
    }

    fn is_going(&self, snapshot: SnapshotId) -> bool {
        self.going.contains(&snapshot)
    }
}

impl Known<'_> {
    /// Decides about the ref of a copy on its source.
    fn of_copy(&self, copy: SnapshotId, is_readable: bool) -> RefNeed {
        match self.lineages.records.snapshot(copy) {
            Err(_) => RefNeed::Keep,
            Ok(Some(record)) if record.state == SnapshotState::Pending => match record.source {
                Some(of) if !is_readable => RefNeed::On(of.snapshot),
                _ => RefNeed::Keep,
            },
            Ok(_) => RefNeed::Drop,
        }
    }
}
