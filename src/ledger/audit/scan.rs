//! One pass over the log, from its beginning or from the newest checkpoint.

use super::checkpoint::CheckpointKey;
use super::known::Known;
use super::read::{Reader, has_checkpoint, segments};
use super::record::{AuditHead, AuditRecord, Hash, RecordKind};
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// Where a pass begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the oldest record that is kept.
    Oldest,
    /// At the newest checkpoint that the catalog's head counts; without one, at the oldest record.
    Newest,
}

/// The result of one pass over the log.
pub(crate) struct Scan {
    /// Number of good records, and hash of the last.
    pub(crate) count: u64,
    pub(crate) hash: Hash,
    /// Sequence of the oldest record that is kept.
    pub(crate) first: u64,
    /// Sequence of the record that it began with.
    pub(crate) began: u64,
    /// Where to continue appending: segment, byte.
    pub(super) tail: Option<(PathBuf, u64)>,
    /// The first bad record, if any, and whether only the newest segment is affected.
    pub(crate) bad: Option<(String, bool)>,
    /// Hash after as many records as the catalog's head counts.
    at_head: Option<Hash>,
    /// What the catalog must contain.
    pub(crate) known: Known,
}

impl Scan {
    /// Reads the log in `dir`. Without the key, checkpoints are compared with the records before them, but the first
    /// one is trusted.
    pub(crate) fn run(dir: &Path, head: Option<&AuditHead>, key: Option<&CheckpointKey>, start: Start) -> Result<Self> {
        Self::until(dir, head, key, start, u64::MAX)
    }

    /// Reads the records before `end` only.
    pub(crate) fn until(
        dir: &Path,
        head: Option<&AuditHead>,
        key: Option<&CheckpointKey>,
        start: Start,
        end: u64,
    ) -> Result<Self> {
        let first = oldest(dir, head)?;
        let found = if start == Start::Newest { checkpoints(dir, head)? } else { Vec::new() };
        for segment in found {
            let scan = Self::read(Reader::at_segment(dir, segment)?, first, head, key, end)?;
            // A checkpoint that is torn or forged is told by those who come to it from before.
            if scan.count > scan.began {
                return Ok(scan);
            }
        }
        Self::read(Reader::open(dir, first)?, first, head, key, end)
    }

    fn read(
        mut reader: Reader,
        first: u64,
        head: Option<&AuditHead>,
        key: Option<&CheckpointKey>,
        end: u64,
    ) -> Result<Self> {
        let wanted = head.map(|h| h.count);
        let (began, hash) = reader.position();
        let at_head = (wanted == Some(began)).then_some(hash);
        let mut scan =
            Self { count: began, hash, first, began, tail: None, bad: None, at_head, known: Known::default() };
        while scan.count < end {
            let (sequence, previous) = reader.position();
            let read = reader.step().and_then(|record| {
                let Some(record) = record else { return Ok(None) };
                match scan.note(record, &previous, key) {
                    Ok(()) => Ok(Some(())),
                    Err(why) => Err(Error::new(Kind::Integrity, format!("audit record {sequence}: {why}"))),
                }
            });
            match read {
                Ok(Some(())) => {
                    (scan.count, scan.hash) = reader.position();
                    if wanted == Some(scan.count) {
                        scan.at_head = Some(scan.hash);
                    }
                }
                Ok(None) => break,
                Err(e) if e.kind() == Kind::Integrity => {
                    scan.bad = Some((e.what().to_owned(), reader.in_newest()));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        scan.tail = reader.place();
        Ok(scan)
    }

    fn note(&mut self, record: AuditRecord, previous: &Hash, key: Option<&CheckpointKey>) -> Result<(), String> {
        let AuditRecord { sequence, kind, body } = record;
        if kind != RecordKind::Checkpoint {
            if sequence == self.began && sequence > 0 {
                return Err("the log begins with it, and it is not a checkpoint".into());
            }
            self.known.note(sequence, kind, body);
            return Ok(());
        }
        let checkpoint = body.checkpoint.ok_or("it is a checkpoint without contents")?;
        if key.is_some_and(|key| !key.verifies(&checkpoint, sequence, previous)) {
            return Err("its MAC does not match: the checkpoint was not made by this installation".into());
        }
        if sequence == self.began {
            self.known = Known::from_checkpoint(&checkpoint);
            return Ok(());
        }
        self.known.pass(&checkpoint)
    }

    /// Returns the count and the hash of the good records.
    pub(crate) fn at(&self) -> AuditHead {
        AuditHead { count: self.count, hash: hex::encode(self.hash), first: self.first }
    }

    /// Returns how the log contradicts the catalog's head, if it does.
    pub(crate) fn trouble(&self, head: Option<&AuditHead>) -> Option<String> {
        let Some(head) = head else { return Some("the catalog does not contain the length of the audit log".into()) };
        if self.count < head.count {
            let found = format!("the audit log has {} valid records, the catalog counts {}", self.count, head.count);
            return Some(self.bad.as_ref().map_or_else(|| found.clone(), |(why, _)| format!("{found}: {why}")));
        }
        if self.at_head.map(hex::encode).as_deref() != Some(head.hash.as_str()) {
            return Some(format!(
                "the first {} records of the audit log are not those that the catalog knows",
                head.count
            ));
        }
        match &self.bad {
            Some((why, false)) => Some(why.clone()),
            _ => None,
        }
    }
}

/// Returns the sequence of the oldest record that is kept: what the catalog says; without that, what there is.
fn oldest(dir: &Path, head: Option<&AuditHead>) -> Result<u64> {
    if let Some(head) = head {
        return Ok(head.first);
    }
    Ok(match segments(dir)?.first() {
        Some((first, path)) if has_checkpoint(path)? => *first,
        _ => 0,
    })
}

/// Lists the segments that begin with a checkpoint, and not behind the head, newest first.
fn checkpoints(dir: &Path, head: Option<&AuditHead>) -> Result<Vec<(u64, PathBuf)>> {
    let (first, count) = head.map_or((0, u64::MAX), |h| (h.first, h.count));
    let mut found = segments(dir)?;
    found.retain(|s| s.0 > first && s.0 <= count);
    found.reverse();
    // Two are enough: no more than the newest one is ever torn.
    let mut checked = found.into_iter().map(|s| has_checkpoint(&s.1).map(|has| has.then_some(s)));
    let mut kept = Vec::new();
    while kept.len() < 2
        && let Some(segment) = checked.next().transpose()?
    {
        kept.extend(segment);
    }
    Ok(kept)
}
