//! Appends to the log, and manages its disk space.

use super::checkpoint::CheckpointKey;
use super::known::Known;
use super::read::segments;
use super::record::{AuditHead, Body, Hash, RecordKind, encode, json, sha256};
use super::scan::Scan;
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

/// Bytes in a segment after which the next one is begun.
const SEGMENT: u64 = 4 << 20;
/// Bytes reserved for acts that restrict or free space.
pub(crate) const RESERVE: u64 = 1 << 20;
/// Bytes allocated ahead of the newest segment's end: room for some hundred records.
const AHEAD: u64 = 256 << 10;
const RESERVE_FILE: &str = "reserve";

/// A record that is ready to be appended.
pub(crate) struct Entry {
    kind: RecordKind,
    json: Vec<u8>,
    /// What [`Known`] needs of an intent, an outcome or an accept.
    body: Option<Body>,
    at: Timestamp,
}

impl Entry {
    /// Prepares a record.
    ///
    /// # Errors
    /// [`Kind::Usage`] for one that is too large.
    pub(crate) fn new(kind: RecordKind, body: Body) -> Result<Self> {
        let (json, at) = (json(&body)?, body.at);
        let body = (kind != RecordKind::Event).then_some(body);
        Ok(Self { kind, json, body, at })
    }
}

/// A scripted fault of tests: called before each write and sync of the log.
#[cfg(test)]
pub(crate) type Gate = std::sync::Arc<dyn Fn(&str) -> std::io::Result<()> + Send + Sync>;

/// The log, open for appending.
pub(crate) struct Log {
    dir: PathBuf,
    file: File,
    length: u64,
    /// End of the space allocated for the newest segment.
    ahead: u64,
    next: u64,
    previous: Hash,
    /// Set by a failed sync: what is on disk is then unknown until the next start reads it.
    failed: bool,
    reserve: bool,
    /// Sequence of the oldest record that is kept.
    first: u64,
    key: CheckpointKey,
    /// What the records so far add up to, for the next checkpoint.
    known: Known,
    /// As [`SEGMENT`].
    segment: u64,
    #[cfg(test)]
    gate: Option<Gate>,
}

impl Log {
    /// Starts a log with its genesis record.
    pub(crate) fn create(dir: &Path, key: CheckpointKey, genesis: Body) -> Result<Self> {
        std::fs::DirBuilder::new().mode(0o700).create(dir).on(|| format!("create {}", dir.display()))?;
        let file = new_segment(dir, 0)?;
        let mut log = Self::on(dir, file, 0, key);
        log.reserve()?;
        log.append(&[&Entry::new(RecordKind::Genesis, genesis)?])?;
        Ok(log)
    }

    fn on(dir: &Path, file: File, length: u64, key: CheckpointKey) -> Self {
        Self {
            dir: dir.into(),
            file,
            length,
            ahead: 0,
            next: 0,
            previous: [0; 32],
            failed: false,
            reserve: false,
            first: 0,
            key,
            known: Known::default(),
            segment: SEGMENT,
            #[cfg(test)]
            gate: None,
        }
    }

    /// Continues after the last good record of `scan`; cuts a torn record after that.
    pub(crate) fn resume(dir: &Path, scan: Scan, key: CheckpointKey) -> Result<Self> {
        let (file, length) = match &scan.tail {
            Some((path, length)) => (open_regular(path, &OpenHow::write())?, *length),
            None => (new_segment(dir, scan.count)?, 0),
        };
        let cut = || "cut the incomplete end of the audit log".to_owned();
        // Setting the length frees space allocated past it, even if the length does not change.
        if file.metadata().on(cut)?.len() != length {
            file.set_len(length).and_then(|()| file.sync_all()).on(cut)?;
        }
        let mut log = Self::on(dir, file, length, key);
        (log.next, log.previous, log.first, log.known) = (scan.count, scan.hash, scan.first, scan.known);
        log.take_space();
        Ok(log)
    }

    /// Allocates space ahead and the reserve, as far as there is room.
    pub(crate) fn take_space(&mut self) {
        self.take_ahead();
        if !self.reserve {
            let _ = self.reserve();
        }
    }

    fn take_ahead(&mut self) {
        if self.ahead < self.length + AHEAD / 2
            && fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.length, AHEAD).is_ok()
        {
            self.ahead = self.length + AHEAD;
        }
    }

    /// Moves everything after the last good record aside, and keeps it as `set-aside-…`.
    pub(crate) fn set_aside(dir: &Path, scan: &Scan) -> Result<()> {
        std::fs::create_dir_all(dir).on(|| format!("create {}", dir.display()))?;
        let Some((tail, good)) = scan.tail.as_ref().filter(|_| scan.bad.is_some()) else { return Ok(()) };
        let aside = |path: &Path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let free = |n: &u32| !dir.join(format!("set-aside-{n}-{name}")).exists();
            dir.join(format!("set-aside-{}-{name}", (0..u32::MAX).find(free).unwrap_or_default()))
        };
        for (_, path) in segments(dir)?.into_iter().filter(|(_, path)| path > tail || (path == tail && *good == 0)) {
            std::fs::rename(&path, aside(&path)).on(|| format!("move {} aside", path.display()))?;
        }
        if *good > 0 {
            std::fs::copy(tail, aside(tail)).on(|| format!("copy {}", tail.display()))?;
            let file = open_regular(tail, &OpenHow::write())?;
            file.set_len(*good).and_then(|()| file.sync_all()).on(|| format!("cut {}", tail.display()))?;
        }
        sync_dir(dir)
    }

    /// Returns the log's count and head.
    pub(crate) fn head(&self) -> AuditHead {
        AuditHead { count: self.next, hash: hex::encode(self.previous), first: self.first }
    }

    /// Makes sure that the reserve is allocated, before an act that must not use it.
    pub(crate) fn reserve(&mut self) -> Result<()> {
        if self.reserve {
            return Ok(());
        }
        let path = self.dir.join(RESERVE_FILE);
        let file = match open_regular(&path, &OpenHow::write().create()) {
            // The file's contents do not matter, only its space.
            Err(e) if e.kind() == Kind::Integrity && std::fs::remove_file(&path).is_ok() => {
                open_regular(&path, &OpenHow::write().create())
            }
            file => file,
        }?;
        match fallocate(&file, FallocateFlags::empty(), 0, RESERVE) {
            Err(rustix::io::Errno::OPNOTSUPP) => file.write_all_at(&vec![0; RESERVE as usize], 0),
            other => other.map_err(Into::into),
        }
        // A partial reserve would be of no use, and take space from the acts it is for.
        .inspect_err(|_| drop(file.set_len(0)))
        .on(|| format!("reserve {RESERVE} bytes in {}", path.display()))?;
        self.reserve = true;
        Ok(())
    }

    /// Releases the reserve, for an act that restricts or frees space on a full disk.
    pub(crate) fn give_up_reserve(&mut self) -> Result<()> {
        self.reserve = false;
        give_up_reserve(&self.dir)?;
        self.take_ahead();
        Ok(())
    }

    /// Runs a step that must work on a full disk: if there is no space, releases the reserve and retries.
    pub(crate) fn with_reserve<R>(&mut self, mut step: impl FnMut(&mut Self) -> Result<R>) -> Result<R> {
        match step(self) {
            Err(e) if e.kind() == Kind::NoSpace => {
                self.give_up_reserve()?;
                step(self)
            }
            other => other,
        }
    }

    /// Starts a new segment; on a full disk continues the old one, which has space ahead.
    fn begin_segment(&mut self) -> Result<()> {
        let file = match new_segment(&self.dir, self.next) {
            Err(e) if e.kind() == Kind::NoSpace => return Ok(()),
            file => file?,
        };
        if fallocate(&file, FallocateFlags::KEEP_SIZE, 0, AHEAD).is_err_and(is_full) {
            let path = segment_path(&self.dir, self.next);
            return std::fs::remove_file(&path).on(|| format!("remove {}", path.display()));
        }
        (self.file, self.length, self.ahead) = (file, 0, 0);
        Ok(())
    }

    /// Whether the reserve is allocated.
    pub(crate) const fn has_reserve(&self) -> bool {
        self.reserve
    }

    /// Returns what the records so far add up to.
    pub(crate) const fn known(&mut self) -> &mut Known {
        &mut self.known
    }

    /// Sets the oldest record that is kept; what is before it may be removed once a head that says so is committed.
    pub(crate) const fn keep_from(&mut self, first: u64) {
        self.first = first;
    }

    /// Returns the checkpoint to begin a segment with, if what it needs is known.
    fn checkpoint(&self, at: Timestamp) -> Result<Option<Entry>> {
        let Some(mut checkpoint) = self.known.checkpoint() else { return Ok(None) };
        self.key.sign(&mut checkpoint, self.next, &self.previous);
        let mut body = Body::at(at, "");
        body.checkpoint = Some(Box::new(checkpoint));
        // Too many unfinished acts to fit: the segment has none, and reading begins at an earlier one.
        Ok(Entry::new(RecordKind::Checkpoint, body).ok())
    }

    /// Appends records and syncs them: durable on return. Returns the first one's sequence.
    pub(crate) fn append(&mut self, entries: &[&Entry]) -> Result<u64> {
        if self.failed {
            let what = "audit: an earlier sync failed; nothing more is recorded, and keys cannot be used";
            return Err(Error::new(Kind::Io, what).hint("check the disk, then restart coffer"));
        }
        if self.length >= self.segment {
            self.begin_segment()?;
        }
        let at = entries.first().map_or(Timestamp(0), |e| e.at);
        let checkpoint = if self.length == 0 && self.next > 0 { self.checkpoint(at)? } else { None };
        let (mut next, mut previous) = (self.next, self.previous);
        let mut bytes = Vec::new();
        for entry in checkpoint.iter().chain(entries.iter().copied()) {
            let record = encode(next, &previous, entry.kind, &entry.json);
            previous = sha256(&record);
            next += 1;
            bytes.extend_from_slice(&record);
        }
        self.take_ahead();
        self.write(&bytes)?;
        let first = self.next + u64::from(checkpoint.is_some());
        (self.next, self.previous) = (next, previous);
        if let Some(checkpoint) = checkpoint.and_then(|c| c.body?.checkpoint) {
            self.known = Known::from_checkpoint(&checkpoint);
        }
        for (sequence, entry) in (first..).zip(entries) {
            if let Some(body) = &entry.body {
                self.known.note(sequence, entry.kind, body.clone());
            }
        }
        Ok(first)
    }

    /// Writes at the end of the segment, and syncs.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.pass("write").and_then(|()| self.file.write_all_at(bytes, self.length)) {
            // What was written of it is torn: if it cannot be cut off, nothing may be appended any more.
            self.failed = self.file.set_len(self.length).is_err();
            self.ahead = 0;
            return Err(Error::io("write the audit log", e));
        }
        if let Err(e) = self.pass("sync").and_then(|()| self.file.sync_data()) {
            self.failed = true;
            return Err(Error::io("sync the audit log", e));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    fn pass(&self, step: &str) -> std::io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(step))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests script faults here")]
    const fn pass(&self, _step: &str) -> std::io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// Sets the size at which the next segment is begun.
    #[cfg(test)]
    pub(crate) const fn set_segment(&mut self, bytes: u64) {
        self.segment = bytes;
    }
}

/// Returns the path of the segment that begins with record `first`.
pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.log"))
}

const fn is_full(error: rustix::io::Errno) -> bool {
    matches!(error, rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)
}

fn new_segment(dir: &Path, first: u64) -> Result<File> {
    let path = segment_path(dir, first);
    // A file that exists already is empty: a kill followed its creation.
    let file = open_regular(&path, &OpenHow::write().create())?;
    sync_dir(dir)?;
    Ok(file)
}

/// Removes the reserve of the log in `dir`, if it exists.
pub(crate) fn give_up_reserve(dir: &Path) -> Result<()> {
    let file = match open_regular(&dir.join(RESERVE_FILE), &OpenHow::write()) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        file => file?,
    };
    file.set_len(0).and_then(|()| file.sync_all()).on(|| "give up the audit's reserve".into())
}
