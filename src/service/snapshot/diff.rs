//! What changed between two snapshots of a lineage, from their trees: no key is needed, and equal subtrees are not read.

use crate::error::{Error, Kind, Result};
use crate::service::api::{ChangedRange, ChangesInfo, Progress};
use crate::service::{Report, Service};
use crate::snapshot::reader::SnapshotReader;
use crate::units::{CHUNK, ChunkNo, SnapshotId};
use crate::volume::parent::Parent;
use std::ops::ControlFlow;

/// Most ranges in one answer: it must fit into what a client of the control socket reads.
pub(super) const MOST: usize = 64 * 1024;
/// Differing chunks between two looks at whether the client is still there.
const LOOK: u64 = 4096;

impl Service {
    /// Returns what changed from one snapshot to another of its lineage, from the byte `start` on.
    pub(in crate::service) fn diff_snapshots(
        &self,
        from: Option<&str>,
        to: &str,
        start: u64,
        report: Report<'_>,
    ) -> Result<ChangesInfo> {
        let open = |what: &str| {
            let record = self.records.find_snapshot(what)?;
            record.must_be_completed()?;
            self.logs.check(record.home())?;
            self.reader_of(&record)
        };
        let from = from.map(open).transpose()?;
        changes(from.as_ref(), &open(to)?, start, MOST, report)
    }
}

/// Ranges under construction: a chunk that continues the last range extends it.
struct Ranges {
    all: Vec<ChangedRange>,
    most: usize,
    /// Size of the snapshot in bytes.
    size: u64,
}

impl Ranges {
    /// Adds a chunk. Returns where the next answer has to start if this one is full.
    fn add(&mut self, chunk: ChunkNo, zero: bool) -> Option<u64> {
        let start = chunk.offset();
        // What is past the end of the snapshot is not in it.
        let length = self.size.checked_sub(start).filter(|n| *n > 0)?;
        let length = length.min(CHUNK as u64);
        if let Some(last) = self.all.last_mut().filter(|l| l.offset + l.length == start && l.zero == zero) {
            last.length += length;
            return None;
        }
        if self.all.len() == self.most {
            return Some(start);
        }
        self.all.push(ChangedRange { offset: start, length, zero });
        None
    }
}

/// Returns what changed between two open snapshots, in at most `most` ranges.
pub(super) fn changes(
    from: Option<&SnapshotReader>,
    to: &SnapshotReader,
    start: u64,
    most: usize,
    report: Report<'_>,
) -> Result<ChangesInfo> {
    let id = |r: &SnapshotReader| r.located().manifest.snapshot;
    must_be_related(from, to)?;
    let size = to.size();
    let (mut ranges, mut next, mut met) = (Ranges { all: Vec::new(), most, size }, None, 0);
    to.changed_since(from, ChunkNo::of(start), &mut |chunk, some| {
        met += 1;
        if met % LOOK == 0 && !report(progress(chunk, size)) {
            return Err(Error::new(Kind::Interrupted, "the comparison was stopped"));
        }
        next = ranges.add(chunk, !some);
        Ok(if next.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let from_size = from.map(Parent::size);
    Ok(ChangesInfo { from: from.map(id), to: id(to), from_size, size, ranges: ranges.all, next })
}

fn progress(chunk: ChunkNo, size: u64) -> Progress {
    Progress { what: "compare".to_owned(), done: chunk.offset(), total: Some(size), unit: "bytes".to_owned() }
}

/// Refuses snapshots of two lineages: their data keys differ, so equal content is sealed as different bytes.
fn must_be_related(from: Option<&SnapshotReader>, to: &SnapshotReader) -> Result<()> {
    let at = |r: &SnapshotReader| (r.located().folder.lineage, r.located().manifest.snapshot);
    let (lineage, to): (_, SnapshotId) = at(to);
    match from.map(at) {
        Some((other, from)) if other != lineage => {
            let what = format!("{from} and {to} are not of one lineage: they have different data keys");
            Err(Error::new(Kind::Usage, what)
                .hint("compare snapshots of one volume, or of volumes that were created from one another's snapshots"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
