//! Repositories without an installation: a copy, or another installation's. They are only read, and need no key and no catalog.

use super::Report;
use super::api::Progress;
use super::snapshot::trusted;
use crate::env::{Env, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::snapshot::location::Location;
use crate::snapshot::reader::{Trust, Verified, Verify};
use crate::snapshot::repository::{Listing, Repository};
use crate::units::{CHUNK, InstallationId, LineageId, SnapshotId, VolumeId};
use serde::Serialize;

/// A repository that is open for reading.
pub struct ForeignRepository(Repository);

/// A snapshot in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its lineage.
    pub lineage: LineageId,
    /// The installation whose folder has it.
    pub installation: InstallationId,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The point in time.
    pub time: Timestamp,
    /// Size of the volume, in bytes.
    pub size: u64,
    /// The snapshot that it is an increment to.
    pub parent: Option<SnapshotId>,
    /// Bytes that it added.
    pub stored: u64,
}

/// What a repository has.
#[derive(Debug, Default, Serialize)]
pub struct Contents {
    /// Its snapshots, oldest first.
    pub snapshots: Vec<ForeignSnapshot>,
    /// Lineages whose snapshots cannot be listed, and why.
    pub damaged: Vec<(LineageId, String)>,
}

/// The result of verifying one snapshot.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Chunks that were verified.
    pub chunks: u64,
    /// Size of their sectors, in bytes.
    pub bytes: u64,
    /// The public key that signed it, in hexadecimal; `None` if nothing shows that.
    pub signed_by: Option<String>,
    /// Whether that is the trusted one.
    pub attested: bool,
    /// What is wrong with it; empty: it restores bit for bit.
    pub bad: Vec<String>,
}

impl ForeignRepository {
    /// Opens a repository.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none; what its store reports.
    pub fn open(location: &Location, env: Env) -> Result<Self> {
        let opened = location.open().and_then(|objects| Repository::open_in(objects, env, None));
        opened.map(Self).map_err(|e| e.context(format!("repository at {}", location.url())))
    }

    /// Returns its id.
    ///
    /// # Errors
    /// If its description is missing or damaged.
    pub fn id(&self) -> Result<String> {
        Ok(self.0.id()?.to_string())
    }

    /// Lists what it has. A damaged lineage is listed as such.
    ///
    /// # Errors
    /// What its store reports.
    pub fn contents(&self) -> Result<Contents> {
        let mut all = Contents::default();
        for lineage in self.0.lineages()? {
            match self.0.list(lineage) {
                Ok(found) => all.snapshots.extend(found.into_iter().map(|l| of_listing(lineage, l))),
                Err(err) if err.kind() == Kind::Integrity => all.damaged.push((lineage, err.line())),
                Err(err) => return Err(err),
            }
        }
        all.snapshots.sort_by_key(|s| (s.time, s.id));
        Ok(all)
    }

    /// Verifies one snapshot, or all, and continues after a bad one.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the snapshot is not there; what its store reports.
    pub fn verify(&self, only: Option<SnapshotId>, trust: Option<&str>, report: Report<'_>) -> Result<Vec<Checked>> {
        let pinned = trust.map(trusted).transpose()?;
        let contents = self.contents()?;
        let wanted: Vec<_> = contents.snapshots.iter().filter(|s| only.is_none_or(|id| id == s.id)).collect();
        if let (Some(id), true) = (only, wanted.is_empty()) {
            let damage = contents.damaged.first().map(|(_, why)| Error::new(Kind::Integrity, why.clone()));
            return Err(damage.unwrap_or_else(|| Error::new(Kind::NotFound, format!("there is no snapshot {id}"))));
        }
        let mut run = Verify::new(pinned, None);
        wanted.into_iter().map(|s| self.check(s, &mut run, report)).collect()
    }

    fn check(&self, of: &ForeignSnapshot, run: &mut Verify<'_>, report: Report<'_>) -> Result<Checked> {
        let bytes = |chunks: u64| chunks * CHUNK as u64;
        let mut go_on = |done, total| {
            let (done, total) = (bytes(done), Some(bytes(total)));
            report(Progress { what: format!("verify {}", of.id), done, total, unit: "bytes".to_owned() })
        };
        match self.0.verify(of.lineage, of.id, run, &mut go_on) {
            Ok(verified) => Ok(checked(of.id, &verified)),
            Err(err) if err.kind() == Kind::Integrity => {
                let bad = vec![err.line()];
                Ok(Checked { snapshot: of.id, chunks: 0, bytes: 0, signed_by: None, attested: false, bad })
            }
            Err(err) => Err(err),
        }
    }
}

fn of_listing(lineage: LineageId, l: Listing) -> ForeignSnapshot {
    let Listing { id, installation, volume, time, size, parent, stored_bytes, .. } = l;
    ForeignSnapshot { id, lineage, installation, volume, time, size, parent, stored: stored_bytes }
}

fn checked(snapshot: SnapshotId, verified: &Verified) -> Checked {
    Checked {
        snapshot,
        chunks: verified.chunks,
        bytes: verified.bytes,
        signed_by: Some(hex::encode(verified.public_key)),
        attested: matches!(verified.trust, Trust::Attested),
        bad: verified.bad.iter().map(|b| format!("chunk {}: {}", b.first, b.error.line())).collect(),
    }
}
