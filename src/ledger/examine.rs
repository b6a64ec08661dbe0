//! Examines catalog and audit separately, for when they cannot be opened. Writes nothing.

use super::audit::{CheckpointKey, Scan, Start};
use super::catalog::Stamp;
use super::{AUDIT, AuditHead, CATALOG, Catalog};
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use std::path::Path;

/// Examines the catalog and the audit in `dir`; without the root key, the catalog's records are not checked.
pub(crate) fn examine(dir: &Path, root: Option<&Secret<32>>) -> [(&'static str, Result<String>); 2] {
    let path = dir.join(CATALOG);
    let opened = match root {
        Some(root) => Catalog::look(&path, root).map(Some),
        None => Catalog::look_without_key(&path).map(|()| None),
    };
    let catalog = opened.as_ref().map_err(Error::replay).map(|found| match found {
        None => "SQLite finds no damage; without the root key its records are not checked".to_owned(),
        Some(catalog) => {
            let rows = catalog.stamps().unwrap_or_default();
            let damaged = rows.values().filter(|s| **s == Stamp::Damaged).count();
            format!("SQLite finds no damage; {} records, {damaged} of them damaged", rows.len())
        }
    });
    let head = opened.ok().flatten().and_then(|c| c.get::<AuditHead>("head").ok().flatten()).map(|h| h.record);
    let key = root.map(CheckpointKey::of);
    [("catalog", catalog), ("audit", audit(dir, head.as_ref(), key.as_ref()))]
}

fn audit(dir: &Path, head: Option<&AuditHead>, key: Option<&CheckpointKey>) -> Result<String> {
    let scan = Scan::run(&dir.join(AUDIT), head, key, Start::Oldest)?;
    let trouble = match head {
        Some(_) => scan.trouble(head),
        None => scan.bad.as_ref().map(|(why, _)| why.clone()),
    };
    match trouble {
        None => Ok(format!("{} records, chained, head {}", scan.count, hex::encode(scan.hash))),
        Some(why) => {
            Err(Error::new(Kind::Integrity, why).hint("find out what happened, then run `coffer audit accept`"))
        }
    }
}
