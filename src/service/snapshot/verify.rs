//! Verification of snapshots: signature, tree and the hashes of chunks. Needs neither keys nor, for itself, the catalog.

use crate::env::Rng;
use crate::error::{Error, Kind, Result};
use crate::service::api::{BadChunks, Progress, SnapshotState, VerifiedInfo, WireError};
use crate::service::operations::VerifySnapshots;
use crate::service::{Report, Service};
use crate::snapshot::PublicKey;
use crate::snapshot::reader::{Bad, Trust, Verified, Verify};
use crate::snapshot::repository::Repository;
use crate::units::{CHUNK, Hash32, LineageId, SnapshotId};

/// A snapshot to verify, as it was named, and where it is; or why it cannot be verified.
pub(super) type Named = (String, Result<(Repository, LineageId, SnapshotId)>);

impl Service {
    /// Verifies the named snapshots, or all completed ones. What is wrong with one does not keep it from the others.
    pub(in crate::service) fn verify_snapshots(
        &self,
        asked: &VerifySnapshots,
        report: Report<'_>,
    ) -> Result<Vec<VerifiedInfo>> {
        let names = if asked.all { self.completed()? } else { asked.snapshots.clone() };
        let find = |name: String| {
            let found = self.records.find_snapshot(&name).and_then(|record| {
                record.must_be_completed()?;
                Ok((Repository::clone(&*self.repository_of(&record)?), record.lineage, record.id))
            });
            (name, found)
        };
        verify(names.into_iter().map(find), asked, &*self.env.rng, report)
    }

    /// Returns the ids of all completed snapshots, each lineage's together.
    fn completed(&self) -> Result<Vec<String>> {
        let mut all = self.records.snapshots()?;
        all.retain(|r| r.state == SnapshotState::Completed && !r.is_hidden());
        all.sort_by_key(|r| (r.lineage, r.created, r.id));
        Ok(all.iter().map(|r| r.id.to_string()).collect())
    }
}

/// Verifies one snapshot after another.
///
/// # Errors
/// [`Kind::Usage`] for a key to trust that is none; [`Kind::Interrupted`].
pub(super) fn verify(
    which: impl ExactSizeIterator<Item = Named>,
    asked: &VerifySnapshots,
    rng: &dyn Rng,
    report: Report<'_>,
) -> Result<Vec<VerifiedInfo>> {
    let pinned = asked.trust.as_deref().map(trusted).transpose()?;
    let sample = asked.sample.map(|of_a_million| (of_a_million, rng));
    let (mut run, count) = (Verify::new(pinned, sample), which.len());
    let mut all = Vec::new();
    for (at, (name, found)) in which.enumerate() {
        let what = if count > 1 { format!("verify {name} ({} of {count})", at + 1) } else { "verify".to_owned() };
        let mut go_on = |done: u64, total: u64| {
            let bytes = |chunks: u64| chunks * CHUNK as u64;
            let progress = || Progress {
                what: what.clone(),
                done: bytes(done),
                total: Some(bytes(total)),
                unit: "bytes".to_owned(),
            };
            !done.is_multiple_of(64) || report(progress())
        };
        let verified = found.and_then(|(repository, lineage, id)| {
            let verified = repository.verify(lineage, id, &mut run, &mut go_on);
            verified.map_err(|e| if e.kind() == Kind::Interrupted { e } else { e.context(format!("snapshot {id}")) })
        });
        all.push(match verified {
            Ok(verified) => info(name, verified),
            Err(err) if err.kind() == Kind::Interrupted => return Err(err),
            Err(err) => VerifiedInfo { snapshot: name, error: Some(WireError::from(&err)), ..VerifiedInfo::default() },
        });
    }
    Ok(all)
}

/// Parses the public key that signatures are required from.
pub(in crate::service) fn trusted(hex: &str) -> Result<PublicKey> {
    let key = hex.parse::<Hash32>().map(|h| h.0);
    key.map_err(|e: Error| {
        e.context("--trust").hint("use the signing key that `coffer status` shows, not a file and not the root key")
    })
}

fn info(snapshot: String, verified: Verified) -> VerifiedInfo {
    let Verified { trust, public_key, all, chunks, bytes, bad_chunks, bad } = verified;
    let words = |b: Bad| BadChunks {
        first: b.first.0,
        count: b.count,
        offset: b.first.offset(),
        reason: b.error.replay().what().to_owned(),
    };
    VerifiedInfo {
        snapshot,
        chunks: all,
        verified: chunks,
        bytes,
        signed_by: Some(hex::encode(public_key)),
        attested: trust == Trust::Attested,
        bad_chunks,
        bad: bad.into_iter().map(words).collect(),
        error: None,
    }
}
