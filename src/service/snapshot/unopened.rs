//! Operations on the snapshots of a data directory that is not opened: the repository has everything that they need. The
//! catalog, which is sealed under the root key, is not used.

use super::diff::{MOST, changes};
use super::verify::verify;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::service::Report;
use crate::service::api::Reply;
use crate::service::datadir::DataDir;
use crate::service::operations::Request;
use crate::snapshot::repository::Repository;
use crate::units::{LineageId, SnapshotId};

/// Performs a request without the root key.
///
/// # Errors
/// [`Kind::NotFound`]; [`Kind::Integrity`] for damage; [`Kind::Unsupported`] for an operation that needs the catalog.
pub fn answer_unopened(data: &DataDir, env: Env, request: Request, report: Report<'_>) -> Result<Reply> {
    let repository = Repository::open(&data.repository(), env.clone(), None)?;
    let open = |what: &str| {
        let (lineage, id) = find(&repository, what)?;
        repository.open_snapshot(lineage, id)
    };
    match request {
        Request::VerifySnapshots(asked) => {
            let names = if asked.all { all(&repository)? } else { named(asked.snapshots.clone()) };
            let place = |(name, found): (String, Result<()>)| {
                let found = found.and_then(|()| find(&repository, &name));
                (name, found.map(|(lineage, id)| (repository.clone(), lineage, id)))
            };
            let snapshots = verify(names.into_iter().map(place), &asked, &*env.rng, report)?;
            Ok(Reply::Verified { snapshots })
        }
        Request::DiffSnapshots(asked) => {
            let from = asked.from.as_deref().map(open).transpose()?;
            changes(from.as_ref(), &open(&asked.to)?, asked.start, MOST, report).map(Reply::Changes)
        }
        other => Err(Error::new(Kind::Unsupported, format!("{}: it needs the catalog", other.name()))),
    }
}

fn named(names: Vec<String>) -> Vec<(String, Result<()>)> {
    names.into_iter().map(|name| (name, Ok(()))).collect()
}

/// Returns the ids of all live snapshots, and the lineages of which some may be missing here.
fn all(repository: &Repository) -> Result<Vec<(String, Result<()>)>> {
    let mut all = Vec::new();
    for lineage in repository.lineages()? {
        match repository.live_ids(lineage) {
            Ok(ids) => all.extend(named(ids.iter().map(SnapshotId::to_string).collect())),
            Err(err) => all.push((format!("lineage {lineage}"), Err(err))),
        }
        if let Some(bad) = repository.unreadable_by_anyone(lineage)?.first() {
            all.push((format!("lineage {lineage}"), Err(bad.error.replay())));
        }
    }
    Ok(all)
}

/// Finds a live snapshot in any lineage.
fn find(repository: &Repository, what: &str) -> Result<(LineageId, SnapshotId)> {
    let id: SnapshotId = what.parse()?;
    let mut damage = None;
    for lineage in repository.lineages()? {
        match repository.locate(lineage, id) {
            Ok(found) if found.live => return Ok((lineage, id)),
            Ok(_) => {}
            Err(err) if err.kind() == Kind::NotFound => {}
            // It may be of another lineage.
            Err(err) => damage = damage.or(Some(err)),
        }
        // An unreadable record may be about this snapshot.
        let unreadable = repository.unreadable_by_anyone(lineage).unwrap_or_default();
        damage = damage.or_else(|| unreadable.first().map(|u| u.error.replay()));
    }
    let ask = "try again while `coffer serve` runs: only the catalog can say what that record contained";
    Err(damage.map(|err| err.hint(ask)).unwrap_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no snapshot {what}")).hint("see `coffer snapshot list`")
    }))
}
