//! How far this installation wrote the log of each lineage, in each repository. The repository's log must not be shorter.

use super::api::SnapshotState;
use super::home::{Home, RepositoryKey};
use super::records::{Records, SnapshotRecord};
use super::repositories::Repositories;
use crate::error::{Error, Kind, Result};
use crate::ledger::Record;
use crate::snapshot::repository::Repository;
use crate::units::LineageId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The length of a lineage's log when this installation last wrote to it. A shorter log was rolled back.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LogRecord {
    lineage: LineageId,
    #[serde(default, skip_serializing_if = "RepositoryKey::is_local")]
    repository: RepositoryKey,
    last: u64,
}

/// Returns the id of the record of a log.
fn record_id(home: Home) -> String {
    match home.repository {
        RepositoryKey::Local => home.lineage.to_string(),
        RepositoryKey::Added(id) => format!("{}@{id}", home.lineage),
    }
}

impl Record for LogRecord {
    const KIND: &'static str = "repository-log";
    fn id(&self) -> String {
        record_id(Home { repository: self.repository, lineage: self.lineage })
    }
}

/// The logs of all lineages, and the catalog's records of them.
pub(super) struct Logs {
    records: Arc<Records>,
    repositories: Arc<Repositories>,
}

impl Logs {
    /// Creates the logs in these repositories.
    pub(super) fn new(records: &Arc<Records>, repositories: &Arc<Repositories>) -> Self {
        Self { records: records.clone(), repositories: repositories.clone() }
    }

    /// Returns where this installation has logs.
    pub(super) fn all(&self) -> Result<Vec<Home>> {
        let all = self.records.ledger().catalog().list::<LogRecord>()?.records.into_iter().map(|r| r.record);
        Ok(all.map(|r| Home { repository: r.repository, lineage: r.lineage }).collect())
    }

    /// Returns where this installation has a log of a lineage.
    pub(super) fn homes(&self, lineage: LineageId) -> Result<Vec<Home>> {
        let mut all = self.all()?;
        all.retain(|home| home.lineage == lineage);
        Ok(all)
    }

    /// Refuses a repository folder that is older than this installation left it.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it was rolled back, or has damage that the catalog cannot make up for.
    pub(super) fn check(&self, home: Home) -> Result<()> {
        let known = self.records.ledger().catalog().get::<LogRecord>(&record_id(home))?.map_or(0, |r| r.record.last);
        let repository = self.repositories.open(home.repository)?;
        let found = repository.last_log_number(home.lineage)?.unwrap_or(0);
        if found < known {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "repository folder of {home}: its log ends at {found}, but this installation wrote up to {known}"
                ),
            )
            .hint("restore the newer copy of the folder, which was rolled back"));
        }
        self.vouch(home, &repository)
    }

    /// Records the current length of a log.
    pub(super) fn note(&self, home: Home) {
        let Home { repository, lineage } = home;
        let last = self.repositories.open(repository).and_then(|r| r.last_log_number(lineage));
        let noted = last.and_then(|last| {
            let next = LogRecord { lineage, repository, last: last.unwrap_or(0) };
            self.records.ledger().catalog().transaction(|tx| match tx.get::<LogRecord>(&next.id())? {
                Some(found) => tx.update(&next, found.version).map(drop),
                None => tx.insert(&next).map(drop),
            })
        });
        if let Err(err) = noted {
            tracing::warn!("record the length of the log of {home}: {}", err.line());
        }
    }

    /// Makes up for damaged log records. The catalog is authenticated, so it decides, unless it is damaged itself.
    fn vouch(&self, home: Home, repository: &Repository) -> Result<()> {
        let (bad, unknown) = repository.unreadable(home.lineage)?;
        if !unknown {
            return Ok(());
        }
        let why = bad.first().map(|b| b.error.line()).unwrap_or_default();
        let listing = self.records.ledger().catalog().list::<SnapshotRecord>()?;
        if let Some(doubt) = listing.damaged.first() {
            let what = format!("{why}; and the catalog's record of {} {} is damaged", doubt.kind, doubt.id);
            return Err(Error::new(Kind::Integrity, what).hint("restore that log record from a copy of the repository"));
        }
        let mut sets = (BTreeSet::new(), BTreeSet::new());
        for record in listing.records.into_iter().map(|r| r.record).filter(|r| r.home() == home) {
            if record.state == SnapshotState::Completed {
                sets.0.insert(record.id)
            } else {
                sets.1.insert(record.id)
            };
        }
        tracing::warn!("{why}; the catalog has the same facts, and the next record that is written replaces it");
        repository.vouch(home.lineage, &sets.0, &sets.1)
    }
}
