//! Reads the log in order.

use super::record::{AuditRecord, CHECKPOINT, HEAD, Hash, decode, sha256};
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Lists the segments of `dir`, by first sequence.
pub(super) fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    if !dir.exists() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(dir).on(|| format!("list {}", dir.display()))? {
        let path = entry.on(|| format!("list {}", dir.display()))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".log"));
        if let Some(first) = name.filter(|n| n.len() == 16).and_then(|n| u64::from_str_radix(n, 16).ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the first bytes of a segment: the header of its first record, or less.
pub(super) fn head_of(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = open_regular(path, &OpenHow::read())?;
    file.take(HEAD as u64).read_to_end(&mut head).on(|| format!("read {}", path.display()))?;
    Ok(head)
}

/// Whether a segment claims to begin with a checkpoint.
pub(super) fn has_checkpoint(path: &Path) -> Result<bool> {
    Ok(head_of(path)?.get(5) == Some(&CHECKPOINT))
}

/// Reads the log in order, checking checksums and chain; stops at the first bad record, which is an error.
pub struct Reader {
    segments: std::vec::IntoIter<(u64, PathBuf)>,
    current: Option<(PathBuf, BufReader<File>)>,
    offset: u64,
    next: u64,
    previous: Hash,
    ended: bool,
    /// Whole segments are missing before the current one.
    gap: bool,
    /// Maximum number of records to read.
    until: u64,
}

impl Reader {
    /// Starts at the oldest record in `dir` (DATA/audit) that is kept: record `first`.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) fn open(dir: &Path, first: u64) -> Result<Self> {
        let found = segments(dir)?;
        match found.iter().find(|s| s.0 == first) {
            Some((_, path)) if first > 0 => Self::at_segment(dir, (first, path.clone())),
            _ => Ok(Self::at(found.into_iter().filter(|s| s.0 >= first).collect(), first, [0; 32])),
        }
    }

    fn at(segments: Vec<(u64, PathBuf)>, next: u64, previous: Hash) -> Self {
        let segments = segments.into_iter();
        Self { segments, current: None, offset: 0, next, previous, ended: false, gap: false, until: u64::MAX }
    }

    /// Starts at a segment, trusting its first record's hash of the record before it: that record is a checkpoint,
    /// whose MAC covers the hash.
    pub(super) fn at_segment(dir: &Path, (first, path): (u64, PathBuf)) -> Result<Self> {
        let mut previous = [0; 32];
        if let Some(hash) = head_of(&path)?.get(16..HEAD) {
            previous.copy_from_slice(hash);
        }
        Ok(Self::at(segments(dir)?.into_iter().filter(|s| s.0 >= first).collect(), first, previous))
    }

    /// Sequence of the next record, and hash of the one before it.
    pub(super) const fn position(&self) -> (u64, Hash) {
        (self.next, self.previous)
    }

    /// Where the next record begins: segment, byte.
    pub(super) fn place(self) -> Option<(PathBuf, u64)> {
        self.current.map(|(path, _)| (path, self.offset))
    }

    /// Whether no later segment has records.
    pub(super) fn in_newest(&self) -> bool {
        self.segments.len() == 0 && !self.gap
    }

    /// Stops after record `count` - 1.
    pub(crate) const fn until(mut self, count: u64) -> Self {
        self.until = count;
        self
    }

    /// Ends the reading with an error about the next record.
    pub(super) fn bad(&mut self, why: &str) -> Error {
        self.ended = true;
        let place = self.current.as_ref().map_or_else(String::new, |(p, _)| p.display().to_string());
        let what = format!("audit record {} at byte {} of {place}: {why}", self.next, self.offset);
        Error::new(Kind::Integrity, what).hint("find out what happened, then run `coffer audit accept`")
    }

    /// Reads the next record.
    pub(super) fn step(&mut self) -> Result<Option<AuditRecord>> {
        loop {
            if let Some((_, file)) = &mut self.current {
                match decode(file, self.next, &self.previous) {
                    Ok(Some((record, bytes))) => {
                        self.offset += bytes.len() as u64;
                        self.next += 1;
                        self.previous = sha256(&bytes);
                        return Ok(Some(record));
                    }
                    Ok(None) => {}
                    Err(why) => return Err(self.bad(&why)),
                }
            }
            let Some((first, path)) = self.segments.next() else { return Ok(None) };
            let file = open_regular(&path, &OpenHow::read())?;
            self.current = Some((path, BufReader::new(file)));
            self.offset = 0;
            if first != self.next {
                self.gap = true;
                return Err(self.bad(&format!("the segment starts at {first}; records between are missing")));
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<AuditRecord>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.next >= self.until {
            return None;
        }
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
