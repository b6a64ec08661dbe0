//! `repository move`: copies a repository to another place, then uses it there.

use super::api::{Progress, RepositoryInfo, SnapshotState};
use super::home::{LOCAL, RepositoryKey};
use super::records::SnapshotRecord;
use super::repositories::{RepositoryRecord, shown};
use super::{Report, Service};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::{Act, Tx};
use crate::snapshot::copy::{copy_description, copy_objects};
use crate::snapshot::location::Location;
use crate::snapshot::objects::Objects;
use crate::snapshot::repository::Repository;
use crate::units::RepositoryId;
use std::sync::Arc;

impl Service {
    /// Copies a repository to another place, which may have a part of the copy, and uses it there from then on.
    ///
    /// Two passes: one while the repository is in use, and a short one during which nothing else can open it.
    pub(super) fn move_repository(
        &self,
        caller: &Caller,
        what: &str,
        to: Location,
        report: Report<'_>,
    ) -> Result<RepositoryInfo> {
        let RepositoryKey::Added(id) = self.repositories.find(what)? else {
            let what = format!("repository {LOCAL} is part of the data directory");
            return Err(Error::new(Kind::Usage, what).hint("move the data directory, or add another repository"));
        };
        let record = self.repositories.record(id)?.ok_or_else(|| Error::new(Kind::NotFound, "it is gone"))?;
        if record.location == to {
            return self.show_repository(what);
        }
        let of = |e: Error| e.context(format!("move {} to {}", shown(&record), to.url()));
        // What moves within the repository meanwhile would be missing in the copy.
        let _still = self.collector.take(RepositoryKey::Added(id), false).map_err(of)?;
        self.refuse_if_shared(&record).map_err(of)?;
        let (source, copy) = (record.location.open().map_err(of)?, to.make().map_err(of)?);
        self.refuse_if_other(id, &*source, &copy, &to).map_err(of)?;
        let mut on_copied = |done, total| {
            report(Progress { what: "copy".to_owned(), done, total: Some(total), unit: "bytes".to_owned() })
        };
        copy_objects(&*source, &*copy, &mut on_copied).map_err(of)?;
        let alone = self.repositories.keep_from_others(id)?;
        self.ledger().catalog().transaction(|tx| refuse_if_written(tx, &record)).map_err(of)?;
        copy_objects(&*source, &*copy, &mut |_, _| true).map_err(of)?;
        copy_description(&*source, &*copy).map_err(of)?;
        let act = Act::new("coffer:MoveRepository").detail("repository", id).detail("name", &record.name);
        let act = act.detail("from", record.location.url()).detail("url", to.url());
        self.ledger().audited(caller, act, |tx| {
            refuse_if_written(tx, &record)?;
            let found = tx.get::<RepositoryRecord>(&id.to_string())?;
            let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("repository {id} is gone")))?;
            let next = RepositoryRecord { location: to.clone(), ..found.record };
            tx.update(&next, found.version)
        })?;
        drop(alone);
        self.show_repository(what)
    }

    /// Refuses to move a repository in which other installations have snapshots: they would not follow.
    fn refuse_if_shared(&self, record: &RepositoryRecord) -> Result<()> {
        let repository = self.repositories.open(RepositoryKey::Added(record.id))?;
        let own = self.kms.installation().id;
        match repository.installations()?.into_iter().find(|other| *other != own) {
            None => Ok(()),
            Some(other) => Err(Error::new(Kind::Busy, format!("installation {other} keeps snapshots in it"))
                .hint("add the new place as another repository, and set the volumes to it")),
        }
    }

    /// Refuses a place that has anything but a copy of this repository.
    fn refuse_if_other(
        &self,
        id: RepositoryId,
        source: &dyn Objects,
        copy: &Arc<dyn Objects>,
        to: &Location,
    ) -> Result<()> {
        match Repository::open_in(copy.clone(), self.env.clone(), None).and_then(|there| there.id()) {
            Ok(there) if there == id => return Ok(()),
            Ok(there) => {
                let what = format!("{} holds repository {there}", to.url());
                return Err(Error::new(Kind::Exists, what).hint("name an empty folder or prefix"));
            }
            Err(err) if err.kind() == Kind::NotFound => {}
            Err(err) => return Err(err),
        }
        let known = source.folders("")?;
        match copy.folders("")?.into_iter().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(other) => Err(Error::new(Kind::Exists, format!("{} contains {other:?}", to.url()))
                .hint("name an empty folder or prefix")),
        }
    }
}

/// Refuses to move a repository that a snapshot is being written to or deleted from.
fn refuse_if_written(tx: &Tx<'_>, record: &RepositoryRecord) -> Result<()> {
    let key = RepositoryKey::Added(record.id);
    let busy = |s: &SnapshotRecord| matches!(s.state, SnapshotState::Pending | SnapshotState::Deleting);
    if let Some(copy) = super::repository::pending_copy_from(tx, key)? {
        let what = format!("copy {copy} is being made of a snapshot in it");
        return Err(Error::new(Kind::Busy, what).hint("try again when it is done"));
    }
    let all = tx.list::<SnapshotRecord>()?.records.into_iter().map(|r| r.record);
    match all.into_iter().find(|s| s.repository == key && busy(s)) {
        None => Ok(()),
        Some(s) => {
            Err(Error::new(Kind::Busy, format!("snapshot {} is {}", s.id, s.state)).hint("try again when it is done"))
        }
    }
}
