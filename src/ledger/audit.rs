//! The audit log: who did what with which key, and the result; a hash chain in DATA/audit/.
//!
//! # Segment `<first sequence, 16 hex digits>.log`; record version 1 (since coffer 0.1)
//! ```text
//! offset  bytes  field (integers little-endian)
//!      0      4  length of the whole record
//!      4      1  version: 1
//!      5      1  kind: 0 genesis, 1 intent, 2 outcome, 3 event, 4 accept
//!      6      2  0
//!      8      8  sequence, from 0, without gaps over all segments
//!     16     32  SHA-256 of the whole previous record; zeros in the first
//!     48      n  body, canonical JSON (see [`Body`])
//!   48+n      4  CRC32C of all before
//! ```
//! An act that changes the catalog is an *intent* (with the hash of each change), durable before the catalog's commit,
//! and an *outcome* after it. A use of a key changes nothing: it is one *event*, durable before key bytes leave. The
//! catalog stores the log's count and head (under its MAC): for an intent in the act's own transaction, for an event
//! right after it.
//!
//! # At open
//! | found | done |
//! |---|---|
//! | a torn record after the catalog's head | cut: no answer was sent for it |
//! | an intent without outcome | closed as `ok` or `interrupted`, by what the catalog has; left open on a full disk (see `known`) |
//! | fewer records than the head counts; another hash at the head; a bad record before it | trouble |
//! | an audited object whose version or hash differs from the log's last act on it | trouble: catalog rolled back, or log cut |
//! | an object that no record names, or one that is missing | the same |
//!
//! In trouble, keys stay unavailable until `audit accept`, which sets damaged records aside, keeps them, and records
//! that in the chain. The chain proves nothing against root on this machine: only heads kept elsewhere do.
//!
//! # On a full disk
//! Disk space is allocated ahead of the newest segment's end, so that uses of keys can be recorded for a while.
//! `reserve` is 1 MiB kept for acts that restrict or free space (disable, schedule deletion, detach, delete). On a full
//! disk it is released for them and for opening; nothing else is recorded until it has been allocated again, which each
//! act tries.

mod known;

pub(super) use known::{Compared, Known};

use super::RequestInfo;
use super::catalog::{Change, Record};
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular, sync_dir};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

const HEAD: usize = 48;
const CRC: usize = 4;
/// Size limit of a record, in bytes.
const MAX_RECORD: usize = 1 << 20;
/// Bytes in a segment after which the next one is begun.
const SEGMENT: u64 = 16 << 20;
/// Bytes reserved for acts that restrict or free space.
pub(crate) const RESERVE: u64 = 1 << 20;
/// Bytes allocated ahead of the newest segment's end: room for some hundred records.
const AHEAD: u64 = 256 << 10;
const RESERVE_FILE: &str = "reserve";

/// The caller as established by the edge; part of every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// An ARN, such as `arn:aws:iam::111122223333:root` or `…:user/alice`.
    pub principal: String,
    /// The service that acts for the principal (`kms:ViaService`); set by coffer's service layer, never from a request.
    pub via_service: Option<String>,
    /// Origin of the request: address, process, command.
    pub client: String,
    /// The request over the network, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RequestInfo>>,
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// The first record.
    Genesis,
    /// An act that is about to change the catalog.
    Intent,
    /// The result of an intent.
    Outcome,
    /// An act that changed nothing in the catalog: a use of a key, or a refusal.
    Event,
    /// Someone accepted the log as it was found.
    Accept,
}

impl RecordKind {
    const ALL: [Self; 5] = [Self::Genesis, Self::Intent, Self::Outcome, Self::Event, Self::Accept];

    const fn byte(self) -> u8 {
        match self {
            Self::Genesis => 0,
            Self::Intent => 1,
            Self::Outcome => 2,
            Self::Event => 3,
            Self::Accept => 4,
        }
    }
}

/// The body of a record. Absent fields are left out of the JSON; fields are in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Time of the record, milliseconds since 1970.
    pub at: Timestamp,
    /// Name of the act, such as `kms:Decrypt`, `ebs:AttachVolume`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub act: String,
    /// The caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Identity>,
    /// ARN of the KMS key concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The encryption context of a key's use.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    pub context: EncryptionContext,
    /// Further details: key material, volume, alias.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
    /// The catalog changes of an intent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// In an outcome: the sequence of its intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// `ok`, `refused`, `failed`, `interrupted`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// Why it was refused or failed; the caller may have been told less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Body {
    pub(super) fn at(at: Timestamp, act: &str) -> Self {
        Self {
            at,
            act: act.into(),
            caller: None,
            key: None,
            context: EncryptionContext::new(),
            detail: BTreeMap::new(),
            changes: Vec::new(),
            intent: None,
            result: String::new(),
            error: None,
        }
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// Its sequence, from 0.
    pub sequence: u64,
    /// Its kind.
    pub kind: RecordKind,
    /// Its body.
    #[serde(flatten)]
    pub body: Body,
}

/// Count and head of the log, as stored in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The number of records that the log has at least.
    pub count: u64,
    /// SHA-256 of the last of those, hexadecimal. Keep a copy elsewhere to detect tampering by root.
    pub hash: String,
}

impl Record for AuditHead {
    const KIND: &'static str = "audit-head";
    fn id(&self) -> String {
        "head".into()
    }
}

type Hash = [u8; 32];

fn sha256(bytes: &[u8]) -> Hash {
    let mut out = [0u8; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

fn encode(sequence: u64, previous: &Hash, kind: RecordKind, body: &Body) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(body).map_err(|e| Error::new(Kind::Failed, "audit record").because(e))?;
    let length = HEAD + json.len() + CRC;
    let length32 = u32::try_from(length).ok().filter(|_| length <= MAX_RECORD);
    let length32 = length32.ok_or_else(|| Error::new(Kind::Usage, "audit record: the act is too large to record"))?;
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&length32.to_le_bytes());
    out.extend_from_slice(&[1, kind.byte(), 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(previous);
    out.extend_from_slice(&json);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Reads one record; `None` at the end. The error says what is wrong with a bad one.
fn decode(from: &mut impl Read, sequence: u64, previous: &Hash) -> Result<Option<(AuditRecord, Vec<u8>)>, String> {
    let mut bytes = Vec::new();
    let got = from.by_ref().take(HEAD as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if got == 0 {
        return Ok(None);
    }
    if got < HEAD {
        return Err("it is cut short".into());
    }
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if !(HEAD + CRC..=MAX_RECORD).contains(&length) {
        return Err(format!("its length {length} is out of bounds"));
    }
    let rest = from.by_ref().take((length - HEAD) as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if rest < length - HEAD {
        return Err("it is cut short".into());
    }
    let (covered, crc) = bytes.split_at(length - CRC);
    if crc32c::crc32c(covered).to_le_bytes() != *crc {
        return Err("its checksum does not match".into());
    }
    let kind = RecordKind::ALL.into_iter().find(|k| k.byte() == covered[5]);
    let (Some(kind), 1) = (kind, covered[4]) else {
        return Err(format!("unknown version {}, kind {}", covered[4], covered[5]));
    };
    if covered[8..16] != sequence.to_le_bytes() || covered[16..HEAD] != *previous {
        return Err("it does not continue the record before it: the chain is broken".into());
    }
    let body = serde_json::from_slice(&covered[HEAD..]).map_err(|e| format!("its body is invalid: {e}"))?;
    Ok(Some((AuditRecord { sequence, kind, body }, bytes)))
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

/// Lists the segments of `dir`, by first sequence.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
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
    /// Starts at the first record in `dir` (DATA/audit).
    ///
    /// # Errors
    /// What the file system reports.
    pub fn open(dir: &Path) -> Result<Self> {
        let segments = segments(dir)?.into_iter();
        Ok(Self {
            segments,
            current: None,
            offset: 0,
            next: 0,
            previous: [0; 32],
            ended: false,
            gap: false,
            until: u64::MAX,
        })
    }

    /// Starts at a segment, trusting its first record's hash of the record before it.
    fn at_segment(first: u64, path: PathBuf) -> Result<Self> {
        let mut previous = [0; 32];
        let file = open_regular(&path, &OpenHow::read())?;
        let mut head = Vec::new();
        (&file).take(HEAD as u64).read_to_end(&mut head).on(|| format!("read {}", path.display()))?;
        if let Some(hash) = head.get(16..HEAD) {
            previous.copy_from_slice(hash);
        }
        let segments = vec![(first, path)].into_iter();
        Ok(Self {
            segments,
            current: None,
            offset: 0,
            next: first,
            previous,
            ended: false,
            gap: false,
            until: u64::MAX,
        })
    }

    pub(super) const fn until(mut self, count: u64) -> Self {
        self.until = count;
        self
    }

    fn bad(&mut self, why: &str) -> Error {
        self.ended = true;
        let place = self.current.as_ref().map_or_else(String::new, |(p, _)| p.display().to_string());
        let what = format!("audit record {} at byte {} of {place}: {why}", self.next, self.offset);
        Error::new(Kind::Integrity, what).hint("find out what happened, then run `coffer audit accept`")
    }

    fn step(&mut self) -> Result<Option<AuditRecord>> {
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

/// Returns the newest `limit` of the first `count` records, oldest first. Reads only the newest segments: the chain
/// before those is not checked.
pub(super) fn newest(dir: &Path, limit: usize, count: u64) -> Result<Vec<AuditRecord>> {
    let mut newest: VecDeque<AuditRecord> = VecDeque::new();
    for (first, path) in segments(dir)?.into_iter().rev().filter(|(first, _)| *first < count) {
        let mut part: VecDeque<AuditRecord> = VecDeque::new();
        let mut reader = Reader::at_segment(first, path)?.until(newest.front().map_or(count, |r| r.sequence));
        let wanted = limit - newest.len();
        while let Some(record) = reader.next().transpose()? {
            if part.len() == wanted {
                part.pop_front();
            }
            part.push_back(record);
        }
        part.append(&mut newest);
        newest = part;
        if newest.len() >= limit {
            break;
        }
    }
    Ok(newest.into())
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

/// The result of one pass over the log.
pub(super) struct Scan {
    pub(super) count: u64,
    pub(super) hash: Hash,
    /// Where to continue appending: segment, byte.
    tail: Option<(PathBuf, u64)>,
    /// The first bad record, if any, and whether only the newest segment is affected.
    pub(super) bad: Option<(String, bool)>,
    /// Hash after as many records as the catalog's head counts.
    at_head: Option<Hash>,
    /// What the catalog must contain.
    pub(super) known: Known,
}

impl Scan {
    pub(super) fn run(dir: &Path, head: Option<&AuditHead>) -> Result<Self> {
        let wanted = head.map(|h| h.count);
        let mut reader = Reader::open(dir)?;
        let mut scan = Self {
            count: 0,
            hash: [0; 32],
            tail: None,
            bad: None,
            at_head: (wanted == Some(0)).then_some([0; 32]),
            known: Known::default(),
        };
        loop {
            match reader.step() {
                Ok(Some(record)) => {
                    scan.count = reader.next;
                    scan.hash = reader.previous;
                    if wanted == Some(scan.count) {
                        scan.at_head = Some(scan.hash);
                    }
                    scan.known.note(record.sequence, record.kind, record.body);
                }
                Ok(None) => break,
                Err(e) if e.kind() == Kind::Integrity => {
                    scan.bad = Some((e.what().to_owned(), reader.segments.len() == 0 && !reader.gap));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        scan.tail = reader.current.map(|(path, _)| (path, reader.offset));
        Ok(scan)
    }

    /// Returns how the log contradicts the catalog's head, if it does.
    pub(super) fn trouble(&self, head: Option<&AuditHead>) -> Option<String> {
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

// ---------------------------------------------------------------------------------------------------------------------
// Writing

/// The log, open for appending.
pub(super) struct Log {
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
}

impl Log {
    /// Starts a log with its genesis record.
    pub(super) fn create(dir: &Path, genesis: &Body) -> Result<Self> {
        std::fs::DirBuilder::new().mode(0o700).create(dir).on(|| format!("create {}", dir.display()))?;
        let file = new_segment(dir, 0)?;
        let mut log = Self::on(dir, file, 0, (0, [0; 32]));
        log.reserve()?;
        log.append(&[(RecordKind::Genesis, genesis)])?;
        Ok(log)
    }

    fn on(dir: &Path, file: File, length: u64, (next, previous): (u64, Hash)) -> Self {
        Self { dir: dir.into(), file, length, ahead: 0, next, previous, failed: false, reserve: false }
    }

    /// Continues after the last good record of `scan`; cuts a torn record after that.
    pub(super) fn resume(dir: &Path, scan: &Scan) -> Result<Self> {
        let (file, length) = match &scan.tail {
            Some((path, length)) => (open_regular(path, &OpenHow::write())?, *length),
            None => (new_segment(dir, scan.count)?, 0),
        };
        let cut = || "cut the incomplete end of the audit log".to_owned();
        // Setting the length frees space allocated past it, even if the length does not change.
        if file.metadata().on(cut)?.len() != length {
            file.set_len(length).and_then(|()| file.sync_all()).on(cut)?;
        }
        let mut log = Self::on(dir, file, length, (scan.count, scan.hash));
        log.take_space();
        Ok(log)
    }

    /// Allocates space ahead and the reserve, as far as there is room.
    pub(super) fn take_space(&mut self) {
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
    pub(super) fn set_aside(dir: &Path, scan: &Scan) -> Result<()> {
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
    pub(super) fn head(&self) -> AuditHead {
        AuditHead { count: self.next, hash: hex::encode(self.previous) }
    }

    /// Makes sure that the reserve is allocated, before an act that must not use it.
    pub(super) fn reserve(&mut self) -> Result<()> {
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
    pub(super) fn give_up_reserve(&mut self) -> Result<()> {
        self.reserve = false;
        give_up_reserve(&self.dir)?;
        self.take_ahead();
        Ok(())
    }

    /// Runs a step that must work on a full disk: if there is no space, releases the reserve and retries.
    pub(super) fn with_reserve<R>(&mut self, mut step: impl FnMut(&mut Self) -> Result<R>) -> Result<R> {
        match step(self) {
            Err(e) if e.kind() == Kind::NoSpace => {
                self.give_up_reserve()?;
                step(self)
            }
            other => other,
        }
    }

    /// Runs an act's step, which may use the reserve or not. Then allocates space again.
    pub(super) fn with_space<R>(&mut self, may_use: bool, mut step: impl FnMut(&mut Self) -> Result<R>) -> Result<R> {
        if !may_use {
            self.reserve()?;
        }
        let result = if may_use { self.with_reserve(step) } else { step(self) };
        self.take_space();
        result
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

    /// Appends records and syncs them: durable on return. Returns the first one's sequence.
    pub(super) fn append(&mut self, records: &[(RecordKind, &Body)]) -> Result<u64> {
        if self.failed {
            let what = "audit: an earlier sync failed; nothing more is recorded, and keys cannot be used";
            return Err(Error::new(Kind::Io, what).hint("check the disk, then restart coffer"));
        }
        let (first, mut next, mut previous) = (self.next, self.next, self.previous);
        let mut bytes = Vec::new();
        for (kind, body) in records {
            let record = encode(next, &previous, *kind, body)?;
            previous = sha256(&record);
            next += 1;
            bytes.extend_from_slice(&record);
        }
        if self.length >= SEGMENT {
            self.begin_segment()?;
        }
        self.take_ahead();
        if let Err(e) = self.file.write_all_at(&bytes, self.length) {
            // What was written of it is torn: if it cannot be cut off, nothing may be appended any more.
            self.failed = self.file.set_len(self.length).is_err();
            self.ahead = 0;
            return Err(Error::io("write the audit log", e));
        }
        if let Err(e) = self.file.sync_data() {
            self.failed = true;
            return Err(Error::io("sync the audit log", e));
        }
        self.length += bytes.len() as u64;
        (self.next, self.previous) = (next, previous);
        Ok(first)
    }
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
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
pub(super) fn give_up_reserve(dir: &Path) -> Result<()> {
    let file = match open_regular(&dir.join(RESERVE_FILE), &OpenHow::write()) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        file => file?,
    };
    file.set_len(0).and_then(|()| file.sync_all()).on(|| "give up the audit's reserve".into())
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
