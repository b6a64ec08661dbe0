//! How far this installation wrote the log of each lineage. The repository's log must not be shorter.

use super::api::SnapshotState;
use super::records::{Records, SnapshotRecord};
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
    last: u64,
}

impl Record for LogRecord {
    const KIND: &'static str = "repository-log";
    fn id(&self) -> String {
        self.lineage.to_string()
    }
}

/// The logs of all lineages, and the catalog's records of them.
pub(super) struct Logs {
    records: Arc<Records>,
    repository: Arc<Repository>,
}

impl Logs {
    /// Creates the logs of this repository.
    pub(super) fn new(records: &Arc<Records>, repository: &Arc<Repository>) -> Self {
        Self { records: records.clone(), repository: repository.clone() }
    }

    /// Refuses a repository folder that is older than this installation left it.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it was rolled back, or has damage that the catalog cannot make up for.
    pub(super) fn check(&self, lineage: LineageId) -> Result<()> {
        let known =
            self.records.ledger().catalog().get::<LogRecord>(&lineage.to_string())?.map_or(0, |r| r.record.last);
        let found = self.repository.last_log_number(lineage)?.unwrap_or(0);
        if found < known {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "repository folder of lineage {lineage}: its log ends at {found}, but this installation wrote up to {known}"
                ),
            )
            .hint("restore the newer copy of the folder, which was rolled back"));
        }
        self.vouch(lineage)
    }

    /// Records the current length of a log.
    pub(super) fn note(&self, lineage: LineageId) {
        let noted = self.repository.last_log_number(lineage).and_then(|last| {
            let next = LogRecord { lineage, last: last.unwrap_or(0) };
            self.records.ledger().catalog().transaction(|tx| match tx.get::<LogRecord>(&next.id())? {
                Some(found) => tx.update(&next, found.version).map(drop),
                None => tx.insert(&next).map(drop),
            })
        });
        if let Err(err) = noted {
            tracing::warn!("record the length of the log of lineage {lineage}: {}", err.line());
        }
    }

    /// Makes up for damaged log records. The catalog is authenticated, so it decides, unless it is damaged itself.
    fn vouch(&self, lineage: LineageId) -> Result<()> {
        let (bad, unknown) = self.repository.unreadable(lineage)?;
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
        for record in listing.records.into_iter().map(|r| r.record).filter(|r| r.lineage == lineage) {
            if record.state == SnapshotState::Completed {
                sets.0.insert(record.id)
            } else {
                sets.1.insert(record.id)
            };
        }
        tracing::warn!("{why}; the catalog has the same facts, and the next record that is written replaces it");
        self.repository.vouch(lineage, &sets.0, &sets.1)
    }
}
