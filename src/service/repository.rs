//! Repository verbs: add, list, show, default, cache, remove.

use super::Service;
use super::api::{RepositoryInfo, SnapshotState};
use super::home::{Home, LOCAL, RepositoryKey};
use super::records::{SnapshotRecord, VolumeRecord};
use super::repositories::{DefaultRepository, Repositories, RepositoryRecord, shown};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::{Act, Tx};
use crate::snapshot::location::Location;
use crate::snapshot::repository::Repository;
use crate::units::{InstallationId, LineageId, RepositoryId, SnapshotId};

/// Names a volume's setting to follow the default, so no repository can have it.
const DEFAULT: &str = "default";

impl Service {
    /// Adds a repository: opens the one at a location, or makes one there.
    pub(super) fn add_repository(
        &self,
        caller: &Caller,
        name: String,
        location: Location,
        cache: u64,
    ) -> Result<RepositoryInfo> {
        check_name(&name)?;
        if self.ledger().catalog().find::<RepositoryRecord>(&name)?.is_some() {
            let what = format!("repository {name} already exists");
            return Err(Error::new(Kind::Exists, what).hint("choose another name, or remove it first"));
        }
        let id = self.open_or_make(&location)?;
        if let Ok(known) = self.repositories.key_of(id) {
            let what = format!("{} holds repository {id}, which is {} here", location.url(), self.name_of(known));
            return Err(Error::new(Kind::Exists, what).hint("see `coffer repository list`"));
        }
        let record = RepositoryRecord { id, name, created: self.env.now(), cache, location };
        let act = Act::new("coffer:AddRepository")
            .detail("repository", id)
            .detail("name", &record.name)
            .detail("url", record.location.url());
        self.ledger().audited(caller, act, |tx| tx.insert(&record))?;
        self.repository_info(RepositoryKey::Added(id))
    }

    /// Returns the id of the repository at a location, which is made if nothing is there.
    fn open_or_make(&self, location: &Location) -> Result<RepositoryId> {
        let of = |e: Error| e.context(format!("repository at {}", location.url()));
        let objects = location.make().map_err(of)?;
        Repository::settle_in(&*objects).map_err(of)?;
        match Repository::open_in(objects.clone(), self.env.clone(), None) {
            Ok(there) => there.id(),
            Err(err) if err.kind() == Kind::NotFound => {
                let others = objects.folders("").map_err(of)?;
                if let Some(other) = others.first() {
                    let what = format!("{} has no repository, but contains {other:?}", location.url());
                    return Err(Error::new(Kind::Exists, what).hint("name an empty folder or prefix"));
                }
                Repository::init_in(&*objects, &self.env).map_err(of)
            }
            Err(err) => Err(of(err)),
        }
    }

    /// Returns all repositories.
    pub(super) fn list_repositories(&self) -> Result<Vec<RepositoryInfo>> {
        self.repositories.keys()?.into_iter().map(|key| self.repository_info(key)).collect()
    }

    /// Returns one repository, and whether it can be opened.
    pub(super) fn show_repository(&self, what: &str) -> Result<RepositoryInfo> {
        let key = self.repositories.find(what)?;
        let opened = self.repositories.open(key).and_then(|r| r.id());
        let mut info = self.repository_info(key)?;
        match opened {
            Ok(id) => info.id = Some(id.to_string()),
            Err(err) => info.error = Some(err.line()),
        }
        if let RepositoryKey::Added(id) = key
            && let Some(record) = self.repositories.record(id)?
        {
            info.cached = Some(self.repositories.cache_of(&record).taken());
        }
        Ok(info)
    }

    /// Sets how much of what is read from a repository is kept in the data directory; 0: nothing.
    pub(super) fn set_repository_cache(&self, caller: &Caller, what: &str, size: u64) -> Result<RepositoryInfo> {
        let RepositoryKey::Added(id) = self.repositories.find(what)? else {
            let what = format!("repository {LOCAL} is part of the data directory");
            return Err(Error::new(Kind::Usage, what).hint("only a repository that was added can have a cache"));
        };
        let act = Act::new("coffer:SetRepositoryCache").detail("repository", id).detail("name", what);
        let record = self.ledger().audited(caller, act.detail("size", size), |tx| {
            let found = tx.get::<RepositoryRecord>(&id.to_string())?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("repository {id} is gone")))?;
            let next = RepositoryRecord { cache: size, ..found.record };
            tx.update(&next, found.version)?;
            Ok(next)
        })?;
        self.repositories.cache_of(&record).set_limit(size)?;
        self.show_repository(what)
    }

    /// Makes a repository the one for the snapshots of volumes without a setting of their own.
    pub(super) fn set_default_repository(&self, caller: &Caller, what: &str) -> Result<RepositoryInfo> {
        let key = self.repositories.find(what)?;
        let act = Act::new("coffer:SetDefaultRepository").detail("repository", key).detail("name", self.name_of(key));
        let next = DefaultRepository { repository: key };
        self.ledger().audited(caller, act, |tx| {
            Repositories::must_know(tx, key)?;
            match tx.get::<DefaultRepository>(DefaultRepository::ID)? {
                Some(found) => tx.update(&next, found.version),
                None => tx.insert(&next),
            }
        })?;
        self.repository_info(key)
    }

    /// Removes a repository from the catalog, if nothing here needs it. Its objects stay.
    pub(super) fn remove_repository(&self, caller: &Caller, what: &str) -> Result<String> {
        let RepositoryKey::Added(id) = self.repositories.find(what)? else {
            let what = format!("repository {LOCAL} is part of the data directory");
            return Err(Error::new(Kind::Usage, what).hint("only a repository that was added can be removed"));
        };
        let record = self.repositories.record(id)?.ok_or_else(|| Error::new(Kind::NotFound, "it is gone"))?;
        self.refuse_if_referred_to(&record)?;
        let act = Act::new("coffer:RemoveRepository").detail("repository", id).detail("name", &record.name);
        self.ledger().audited(caller, act, |tx| {
            let Some(found) = tx.get::<RepositoryRecord>(&id.to_string())? else { return Ok(()) };
            refuse_if_needed(tx, &record)?;
            tx.delete::<RepositoryRecord>(&id.to_string(), found.version)
        })?;
        self.repositories.forget(id);
        self.repositories.delete_cache(&record);
        Ok(format!("{} is removed; nothing in it was deleted", shown(&record)))
    }

    /// Refuses to remove a repository in which this installation has refs, after releasing those that nothing needs.
    fn refuse_if_referred_to(&self, record: &RepositoryRecord) -> Result<()> {
        self.ledger().catalog().transaction(|tx| refuse_if_needed(tx, record))?;
        let key = RepositoryKey::Added(record.id);
        let repository = self.repositories.open(key)?;
        for lineage in repository.lineages()? {
            let own = |lineage: LineageId| own_refs(&repository, lineage, self.kms.installation().id);
            if own(lineage)?.is_empty() {
                continue;
            }
            self.lineages.sweep_released(Home { repository: key, lineage })?;
            if let Some((held, on)) = own(lineage)?.into_iter().next() {
                let what = format!("{}: the ref {held} on {on} is still needed", shown(record));
                return Err(Error::new(Kind::Busy, what).hint("wait until the volume is filled, or delete it"));
            }
        }
        Ok(())
    }

    /// Returns the setting that a request names: a repository, or `default`.
    pub(super) fn repository_setting(&self, what: &str) -> Result<Option<RepositoryKey>> {
        if what == DEFAULT { Ok(None) } else { self.repositories.find(what).map(Some) }
    }

    fn name_of(&self, key: RepositoryKey) -> String {
        self.repositories.name_of(key)
    }

    fn repository_info(&self, key: RepositoryKey) -> Result<RepositoryInfo> {
        let record = match key {
            RepositoryKey::Added(id) => self.repositories.record(id)?,
            RepositoryKey::Local => None,
        };
        let here: Vec<SnapshotRecord> =
            self.records.snapshots()?.into_iter().filter(|s| s.repository == key && !s.is_deleting()).collect();
        let local = || Location::of_folder(&self.data.repository());
        Ok(RepositoryInfo {
            id: record.as_ref().map(|r| r.id.to_string()),
            name: self.name_of(key),
            default: self.repositories.default_key()? == key,
            snapshots: here.len(),
            stored: here.iter().map(|s| s.stored).sum(),
            created: record.as_ref().map(|r| r.created),
            cache: record.as_ref().map_or(0, |r| r.cache),
            cached: None,
            location: record.map_or_else(local, |r| r.location),
            error: None,
        })
    }
}

/// Returns this installation's refs in a lineage.
fn own_refs(repository: &Repository, lineage: LineageId, own: InstallationId) -> Result<Vec<(String, SnapshotId)>> {
    let all = repository.refs(lineage)?.into_iter().filter(|r| r.installation == own);
    Ok(all.map(|r| (r.id, r.snapshot)).collect())
}

/// Returns a copy that is being made of a snapshot in a repository.
pub(super) fn pending_copy_from(tx: &Tx<'_>, key: RepositoryKey) -> Result<Option<SnapshotId>> {
    let reads = |s: &SnapshotRecord| {
        s.state == SnapshotState::Pending && s.source.as_ref().is_some_and(|of| of.repository == key)
    };
    Ok(tx.list::<SnapshotRecord>()?.records.into_iter().map(|r| r.record).find(reads).map(|s| s.id))
}

/// Refuses to remove a repository that a record names.
fn refuse_if_needed(tx: &Tx<'_>, record: &RepositoryRecord) -> Result<()> {
    let key = RepositoryKey::Added(record.id);
    let needed = |why: String, hint: &str| {
        Err(Error::new(Kind::Busy, format!("{} is needed: {why}", shown(record))).hint(hint.to_owned()))
    };
    let snapshots = tx.list::<SnapshotRecord>()?.records.into_iter().map(|r| r.record);
    let here: Vec<_> = snapshots.filter(|s| s.repository == key).collect();
    if let Some(first) = here.first() {
        return needed(format!("it has {} snapshots, such as {}", here.len(), first.id), "delete them first");
    }
    if let Some(copy) = pending_copy_from(tx, key)? {
        return needed(
            format!("copy {copy} is being made of a snapshot in it"),
            "wait until it is completed, or delete it",
        );
    }
    for volume in tx.list::<VolumeRecord>()?.records.into_iter().map(|r| r.record) {
        let (shown, hint) = (volume.shown(), "use `coffer volume modify --repository` first");
        if volume.repository == Some(key) {
            return needed(format!("the snapshots of volume {shown} go there"), hint);
        }
        if !volume.hydrated && volume.parent.is_some_and(|p| p.repository == record.id) {
            return needed(format!("volume {shown} is being filled from it"), "wait until it is filled, or delete it");
        }
    }
    if tx.get::<DefaultRepository>(DefaultRepository::ID)?.is_some_and(|d| d.record.repository == key) {
        return needed("it is the default".to_owned(), "make another one the default: `coffer repository default`");
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    if [LOCAL, DEFAULT].contains(&name) || name.parse::<RepositoryId>().is_ok() {
        let what = format!("repository name {name:?} has a meaning of its own");
        return Err(Error::new(Kind::Usage, what).hint("choose another name"));
    }
    crate::units::check_name("repository", name)
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
