//! Finds events in the log, newest first, and joins intents with their outcomes.
//!
//! Reads backwards, whole segments into memory (at most 5 MiB each), so that the newest events cost the same however
//! long the log is. Checks the checksum and the sequence of each record; the chain is checked at start and by `audit
//! verify`.

use super::read::segments;
use super::record::{AuditRecord, HEAD, MAX_RECORD, RecordKind, decode, sha256};
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::file::{OpenHow, open_regular};
use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Records read for one page at most; for an intent's outcome as many again.
const MAX_READ: usize = 10_000;
/// Events on one page at most.
const MAX_PAGE: usize = 1000;
/// Milliseconds by which the clock may have been set back between two records. A search stops at a record that is older
/// than wanted by more.
const CLOCK_STEP: i64 = 24 * 60 * 60 * 1000;

/// What events to find; a field that is `None` leaves out nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// At this time or earlier.
    pub to: Option<Timestamp>,
    /// Name of the act, with or without its service: `kms:Decrypt` or `Decrypt`.
    pub act: Option<String>,
    /// ARN of the KMS key, the value of a detail, or the id of an object that it changed.
    pub resource: Option<String>,
    /// The principal's ARN, or the name that it ends with.
    pub user: Option<String>,
    /// Id of the access key that signed the request.
    pub access_key: Option<String>,
    /// Id of the event.
    pub event: Option<String>,
    /// Whether it was to change nothing. Of acts without a request over the network: whether it changed nothing.
    pub read_only: Option<bool>,
}

/// An act: its record, with what its outcome says if it is an intent. The result is empty while there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its id, a UUID: the same each time.
    pub id: String,
    /// Its record.
    pub record: AuditRecord,
}

/// Some events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events, newest first; maybe none, although there are more.
    pub records: Vec<AuditEvent>,
    /// Where to continue, if there may be more.
    pub next: Option<String>,
}

impl Filter {
    fn fits(&self, record: &AuditRecord) -> bool {
        let body = &record.body;
        let request = body.caller.as_ref().and_then(|c| c.request.as_deref());
        let of = |wanted: &Option<String>, fits: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(fits);
        let read_only = request.map_or(record.kind == RecordKind::Event, |r| r.read_only);
        self.from.is_none_or(|from| body.at.0 >= from.0)
            && self.to.is_none_or(|to| body.at.0 <= to.0)
            && of(&self.act, &|act| body.act == act || body.act.split_once(':').is_some_and(|(_, name)| name == act))
            && of(&self.resource, &|resource| {
                body.key.as_deref() == Some(resource)
                    || body.detail.values().any(|v| v == resource)
                    || body.changes.iter().any(|c| c.id == resource)
            })
            && of(&self.user, &|user| {
                let principal = body.caller.as_ref().map(|c| c.principal.as_str());
                principal.is_some_and(|p| p == user || p.rsplit(['/', ':']).next() == Some(user))
            })
            && of(&self.access_key, &|key| request.is_some_and(|r| r.access_key == key))
            && self.read_only.is_none_or(|wanted| read_only == wanted)
    }
}

/// What events to find, by a filter and by a test of the caller. The test sees a record before it is joined with its
/// outcome.
pub(crate) struct Wanted<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) test: &'a dyn Fn(&AuditRecord) -> bool,
}

impl Wanted<'_> {
    fn fits(&self, record: &AuditRecord) -> bool {
        self.filter.fits(record) && (self.test)(record)
    }
}

/// Returns the id of the event of a record: its sequence (48 bits) and bits of its hash, as a UUID of version 8 (RFC
/// 9562).
fn id_of(sequence: u64, bytes: &[u8]) -> String {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&sequence.to_be_bytes()[2..]);
    id[6..].copy_from_slice(&sha256(bytes)[..10]);
    uuid::Builder::from_custom_bytes(id).into_uuid().to_string()
}

fn sequence_of(id: &str) -> Option<u64> {
    let id = Uuid::parse_str(id).ok()?;
    let mut sequence = [0; 8];
    sequence[2..].copy_from_slice(&id.as_bytes()[..6]);
    Some(u64::from_be_bytes(sequence))
}

fn token(before: u64) -> String {
    format!("1{before:016x}{:08x}", crc32c::crc32c(&before.to_le_bytes()))
}

fn before(text: &str) -> Result<u64> {
    let number = text.get(1..17).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.filter(|n| token(*n) == text).ok_or_else(|| {
        Error::new(Kind::Usage, "audit: invalid page token").hint("use the token of the page before, unchanged")
    })
}

/// A segment in memory.
struct Loaded {
    first: u64,
    bytes: Vec<u8>,
    /// Where each record begins.
    starts: Vec<usize>,
}

impl Loaded {
    fn of(first: u64, path: &Path) -> Result<Self> {
        let (mut bytes, on) = (Vec::new(), || format!("read {}", path.display()));
        open_regular(path, &OpenHow::read())?.read_to_end(&mut bytes).on(on)?;
        let (mut starts, mut at) = (Vec::new(), 0);
        while let Some(length) = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) {
            let end = at + length as usize;
            if !(HEAD..=MAX_RECORD).contains(&(length as usize)) || end > bytes.len() {
                break;
            }
            starts.push(at);
            at = end;
        }
        Ok(Self { first, bytes, starts })
    }
}

/// The records of the log by sequence.
struct Records {
    segments: Vec<(u64, PathBuf)>,
    loaded: VecDeque<Loaded>,
    /// Sequence of the oldest record that is kept.
    first: u64,
    /// Number of records.
    count: u64,
}

impl Records {
    fn of(dir: &Path, first: u64, count: u64) -> Result<Self> {
        let mut segments = segments(dir)?;
        segments.retain(|s| s.0 >= first && s.0 < count);
        let mut records = Self { segments, loaded: VecDeque::new(), first, count };
        if count == u64::MAX {
            records.count = match records.segments.last() {
                Some((newest, _)) => {
                    let newest = *newest;
                    newest + records.load(newest)?.map_or(0, |l| l.starts.len() as u64)
                }
                None => first,
            };
        }
        Ok(records)
    }

    /// Returns the sequence that the segment of a record begins with.
    fn segment(&self, sequence: u64) -> Option<u64> {
        self.segments.iter().rev().map(|s| s.0).find(|first| *first <= sequence)
    }

    fn load(&mut self, sequence: u64) -> Result<Option<&Loaded>> {
        let Some((first, path)) = self.segments.iter().rev().find(|s| s.0 <= sequence) else { return Ok(None) };
        if let Some(at) = self.loaded.iter().position(|l| l.first == *first) {
            self.loaded.swap(0, at);
        } else {
            self.loaded.push_front(Loaded::of(*first, path)?);
            self.loaded.truncate(2);
        }
        Ok(self.loaded.front())
    }

    /// Returns a record, and its bytes.
    fn get(&mut self, sequence: u64) -> Result<(AuditRecord, &[u8])> {
        let bad = |why: &str| Error::new(Kind::Integrity, format!("audit record {sequence}: {why}"));
        let hint = "run `coffer audit verify`";
        let Some(loaded) = self.load(sequence)? else { return Err(bad("it is missing").hint(hint)) };
        let at = (sequence - loaded.first) as usize;
        let Some(start) = loaded.starts.get(at) else { return Err(bad("it is missing or cut short").hint(hint)) };
        let end = loaded.starts.get(at + 1).copied().unwrap_or(loaded.bytes.len());
        let bytes = &loaded.bytes[*start..end];
        let mut previous = [0; 32];
        previous.copy_from_slice(&bytes[16..HEAD]);
        match decode(&mut &bytes[..], sequence, &previous) {
            Ok(Some((record, _))) => Ok((record, bytes)),
            Ok(None) => Err(bad("it is missing").hint(hint)),
            Err(why) => Err(bad(&why).hint(hint)),
        }
    }

    /// Returns the event of a record; `None` for one that is not an act.
    fn event(&mut self, sequence: u64, wanted: &Wanted<'_>) -> Result<Option<AuditEvent>> {
        let (mut record, bytes) = self.get(sequence)?;
        if matches!(record.kind, RecordKind::Outcome | RecordKind::Checkpoint) || !wanted.fits(&record) {
            return Ok(None);
        }
        let id = id_of(sequence, bytes);
        if record.kind == RecordKind::Intent {
            let end = self.count.min(sequence.saturating_add(MAX_READ as u64));
            for later in sequence + 1..end {
                let (outcome, _) = self.get(later)?;
                if outcome.kind == RecordKind::Outcome && outcome.body.intent == Some(sequence) {
                    (record.body.result, record.body.error) = (outcome.body.result, outcome.body.error);
                    record.body.detail.extend(outcome.body.detail);
                    break;
                }
            }
        }
        Ok(Some(AuditEvent { id, record }))
    }

    /// Whether all records of the segment before `sequence` are newer than wanted; then where to continue.
    fn skip(&mut self, sequence: u64, filter: &Filter) -> Result<Option<u64>> {
        let (Some(to), Some(first)) = (filter.to, self.segment(sequence)) else { return Ok(None) };
        let oldest = self.get(first)?.0.body.at;
        Ok((oldest.0 > to.0.saturating_add(CLOCK_STEP)).then_some(first))
    }
}

/// Finds events among the records from `first` to `count` - 1; at most `limit`, which is at most 1000.
pub(crate) fn events(
    dir: &Path,
    (first, count): (u64, u64),
    wanted: &Wanted<'_>,
    from: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let from = from.map(before).transpose()?;
    let mut records = Records::of(dir, first, count)?;
    let mut page = Page { records: Vec::new(), next: None };
    let filter = wanted.filter;
    if let Some(id) = &filter.event {
        if let Some(sequence) = sequence_of(id).filter(|s| (records.first..records.count).contains(s)) {
            page.records.extend(records.event(sequence, wanted)?.filter(|e| e.id.eq_ignore_ascii_case(id)));
        }
        return Ok(page);
    }
    let mut position = from.unwrap_or(u64::MAX).min(records.count);
    let (mut read, mut segment) = (0, None);
    while position > records.first {
        if read == MAX_READ || page.records.len() >= limit.clamp(1, MAX_PAGE) {
            page.next = Some(token(position));
            break;
        }
        let at = records.segment(position - 1);
        if at != segment {
            segment = at;
            if let Some(first) = records.skip(position - 1, filter)? {
                position = first;
                read = (read + MAX_READ / 8).min(MAX_READ);
                continue;
            }
        }
        position -= 1;
        read += 1;
        page.records.extend(records.event(position, wanted)?);
        if filter.from.is_some() && records.get(position)?.0.body.at.0 < oldest_wanted(filter) {
            break;
        }
    }
    Ok(page)
}

fn oldest_wanted(filter: &Filter) -> i64 {
    filter.from.map_or(i64::MIN, |from| from.0.saturating_sub(CLOCK_STEP))
}

/// Returns the newest `limit` of the records from `first` to `count` - 1, oldest first; without checkpoints, which
/// nobody did.
pub(crate) fn newest(dir: &Path, (first, count): (u64, u64), limit: usize) -> Result<Vec<AuditRecord>> {
    let mut records = Records::of(dir, first, count)?;
    let (mut found, mut position) = (VecDeque::new(), records.count);
    while position > records.first && found.len() < limit {
        position -= 1;
        let record = records.get(position)?.0;
        if record.kind != RecordKind::Checkpoint {
            found.push_front(record);
        }
    }
    Ok(found.into())
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
