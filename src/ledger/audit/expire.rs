//! Removes whole old segments.
//!
//! # Order
//! `base-<first>` -> head in the catalog with `first` -> segments before it removed -> older `base-…` removed. A kill
//! between leaves files that nobody reads, which the next run removes.
//!
//! `base-<first, 16 hex digits>` lists the objects as of the checkpoint at `first`, one JSON array `[kind, id, version,
//! hash]` a line. It proves nothing itself: it must have the digest that the checkpoint, under its MAC, says.

use super::checkpoint::CheckpointKey;
use super::known::Known;
use super::log::segment_path;
use super::read::{Reader, has_checkpoint, segments};
use super::record::{AuditHead, RecordKind};
use super::scan::{Scan, Start};
use crate::env::Timestamp;
use crate::error::{IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

fn base_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("base-{first:016x}"))
}

/// Returns the newest checkpoint that is older than `before`, if there is something to remove in front of it; not
/// behind `limit`, the oldest intent without outcome.
pub(crate) fn expirable(
    dir: &Path,
    head: &AuditHead,
    key: &CheckpointKey,
    before: Timestamp,
    limit: u64,
) -> Result<Option<u64>> {
    let candidates = segments(dir)?.into_iter().rev();
    for (sequence, path) in candidates.filter(|s| s.0 > head.first && s.0 < head.count && s.0 <= limit) {
        if !has_checkpoint(&path)? {
            continue;
        }
        let mut reader = Reader::at_segment(dir, (sequence, path))?;
        let previous = reader.position().1;
        let Some(record) = reader.step()? else { continue };
        let genuine = record.body.checkpoint.is_some_and(|c| key.verifies(&c, sequence, &previous));
        if record.kind == RecordKind::Checkpoint && genuine && record.body.at.0 < before.0 {
            return Ok(Some(sequence));
        }
    }
    Ok(None)
}

/// Writes the objects as of the checkpoint at `first`, which the records before it tell. Without them (an old segment is
/// damaged), or if an accept left some unknown, there will be no list: the checkpoint's digest is then all that the
/// objects can be compared with.
pub(crate) fn write_base(dir: &Path, head: &AuditHead, key: &CheckpointKey, first: u64) -> Result<bool> {
    let mut scan = Scan::until(dir, Some(head), Some(key), Start::Oldest, first)?;
    read_base(dir, &mut scan.known, head.first)?;
    if scan.count != first || scan.bad.is_some() || scan.known.is_partial() {
        return Ok(false);
    }
    let Some(objects) = scan.known.objects() else { return Ok(false) };
    let path = base_path(dir, first);
    let new = dir.join("base-new");
    let on = || format!("write {}", path.display());
    let file = open_regular(&new, &OpenHow::write().create())?;
    file.set_len(0).on(on)?;
    let mut out = BufWriter::new(file);
    for object in objects {
        serde_json::to_writer(&mut out, &object).map_err(std::io::Error::other).on(on)?;
        out.write_all(b"\n").on(on)?;
    }
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).on(on)?;
    file.sync_all().and_then(|()| std::fs::rename(&new, &path)).on(on)?;
    sync_dir(dir)?;
    Ok(true)
}

/// Adds to what began at the checkpoint at `first` the objects that it only had a digest of, if the list is there and
/// has that digest.
pub(crate) fn read_base(dir: &Path, known: &mut Known, first: u64) -> Result<()> {
    if first == 0 || !known.is_partial() {
        return Ok(());
    }
    let path = base_path(dir, first);
    let file = match open_regular(&path, &OpenHow::read()) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        file => file?,
    };
    let mut objects = Vec::new();
    for line in BufReader::new(file).lines() {
        match serde_json::from_str(&line.on(|| format!("read {}", path.display()))?) {
            Ok(object) => objects.push(object),
            Err(_) => return Ok(()),
        }
    }
    known.complete(objects);
    Ok(())
}

/// Whether there is anything before `first`.
pub(crate) fn is_removable(dir: &Path, first: u64) -> Result<bool> {
    Ok(segments(dir)?.first().is_some_and(|s| s.0 < first))
}

/// Removes what is before `first`, oldest first. Returns the number of segments.
pub(crate) fn remove_before(dir: &Path, first: u64) -> Result<usize> {
    let old: Vec<u64> = segments(dir)?.into_iter().map(|s| s.0).filter(|s| *s < first).collect();
    for sequence in &old {
        let path = segment_path(dir, *sequence);
        std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
    }
    for entry in std::fs::read_dir(dir).on(|| format!("list {}", dir.display()))? {
        let path = entry.on(|| format!("list {}", dir.display()))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("base-") && path != base_path(dir, first) {
            std::fs::remove_file(&path).on(|| format!("remove {}", path.display()))?;
        }
    }
    sync_dir(dir)?;
    Ok(old.len())
}
