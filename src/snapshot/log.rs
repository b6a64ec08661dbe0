//! An installation's log of one lineage: signed records `log/%016x`, each with its predecessor's hash (see
//! [`super::record`] for the envelope). The envelope holds the record's kind; its body is JSON:
//!
//! ```text
//! 1 genesis     { public_key hex, time }                     number 0, previous zeros; signed by that key
//! 2 add         { snapshot, manifest (hex), time }           the commit point of a snapshot
//! 3 delete      { snapshot, time }                           hides it at once
//! 4 hold        { snapshot, held, time }                     a held snapshot cannot be deleted
//! 5 key         { data_key, blob hex, time }                 the wrapped key; the newest per data-key id wins
//! 6 checkpoint  { live, deleted, keys }                      at each multiple of 256: the whole state
//! 7 mend        { unreadable [number], live, deleted, keys } the whole state, though those records are unreadable
//! ```
//! A reader takes the key from genesis, starts at the newest checkpoint, and verifies the chain from there: a gap, a
//! wrong hash or a wrong signature is an error. *deleted* holds snapshots whose objects were not swept yet. Records
//! between genesis and the last checkpoint but one are deleted by sweeps.
//!
//! The log's own installation sets an unreadable record aside: the others are signed and numbered, so they remain
//! valid, and what the lost one contained is settled by the installation's catalog ([`Log::vouch`]). It then writes a
//! *mend*, whose *previous* is zeros if the record before it is one of the unreadable. A signed record that does not
//! follow the one before it is a fork, and is never set aside.

use super::manifest::Manifest;
use super::objects::{Objects, put_same};
use super::record::{Envelope, Family, RECORD_MAX, Record};
use super::{Folder, PublicKey, Signer, damaged, too_new};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::units::{DataKeyId, Hash32, SnapshotId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Interval of checkpoints: there is one at each multiple.
pub const CHECKPOINT_EVERY: u64 = 256;
/// Size limit of a wrapped key's blob, in bytes (a ciphertext blob is at most 6144: docs/format.md, section 6).
pub const BLOB_MAX: usize = 8192;
/// Maximum number of records set aside in one log.
const UNREADABLE_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Genesis {
    public_key: Hash32,
    time: Timestamp,
}

/// A completed snapshot that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Hash of its manifest.
    pub manifest: Hash32,
    /// Time of its add record.
    pub time: Timestamp,
    /// Whether it is held against deletion.
    pub held: bool,
}

/// A deleted snapshot whose objects may still exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// Hash of its manifest.
    pub manifest: Hash32,
    /// Time of its delete record.
    pub time: Timestamp,
}

/// A wrapped data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// The ciphertext blob.
    #[serde(with = "hex_bytes")]
    pub blob: Vec<u8>,
    /// Time of its record.
    pub time: Timestamp,
}

/// A record's contents. Genesis, checkpoints and mends, which only this file writes, are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A snapshot was completed.
    Add {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Hash of its manifest.
        manifest: Hash32,
        /// Time of the record.
        time: Timestamp,
    },
    /// A snapshot was deleted.
    Delete {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Time of the record.
        time: Timestamp,
    },
    /// A snapshot was held or released.
    Hold {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Whether it is held from now on.
        held: bool,
        /// Time of the record.
        time: Timestamp,
    },
    /// A data key was wrapped, for the first time or again.
    Key {
        /// The data key.
        data_key: DataKeyId,
        /// The ciphertext blob.
        blob: Vec<u8>,
        /// Time of the record.
        time: Timestamp,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    snapshot: SnapshotId,
    manifest: Hash32,
    time: Timestamp,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    snapshot: SnapshotId,
    time: Timestamp,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldBody {
    snapshot: SnapshotId,
    held: bool,
    time: Timestamp,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyBody {
    data_key: DataKeyId,
    #[serde(with = "hex_bytes")]
    blob: Vec<u8>,
    time: Timestamp,
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};
    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

const GENESIS: u16 = 1;
const ADD: u16 = 2;
const DELETE: u16 = 3;
const HOLD: u16 = 4;
const KEY: u16 = 5;
const CHECKPOINT: u16 = 6;
const MEND: u16 = 7;

/// The state that a log's records add up to; also a checkpoint's body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogState {
    /// Completed snapshots that are not deleted.
    pub live: BTreeMap<SnapshotId, Live>,
    /// Deleted snapshots that are not swept.
    pub deleted: BTreeMap<SnapshotId, Deleted>,
    /// Wrapped keys.
    pub keys: BTreeMap<DataKeyId, WrappedKey>,
}

impl LogState {
    /// Applies `entry`, or returns why it does not fit.
    fn apply(&mut self, entry: &Entry) -> std::result::Result<(), String> {
        match entry {
            Entry::Add { snapshot, manifest, time } => {
                if self.live.contains_key(snapshot) || self.deleted.contains_key(snapshot) {
                    return Err(format!("{snapshot} was already added"));
                }
                self.live.insert(*snapshot, Live { manifest: *manifest, time: *time, held: false });
            }
            Entry::Delete { snapshot, time } => {
                let held = self.live.get(snapshot).map(|l| l.held);
                match held {
                    None => return Err(format!("{snapshot} is not live")),
                    Some(true) => return Err(format!("{snapshot} is held")),
                    Some(false) => {}
                }
                if let Some(was) = self.live.remove(snapshot) {
                    self.deleted.insert(*snapshot, Deleted { manifest: was.manifest, time: *time });
                }
            }
            Entry::Hold { snapshot, held, .. } => {
                self.live.get_mut(snapshot).ok_or_else(|| format!("{snapshot} is not live"))?.held = *held;
            }
            Entry::Key { data_key, blob, time } => {
                if blob.len() > BLOB_MAX {
                    return Err(format!("the blob of data key {data_key} has {} bytes", blob.len()));
                }
                self.keys.insert(*data_key, WrappedKey { blob: blob.clone(), time: *time });
            }
        }
        Ok(())
    }
}

/// A verified log.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its folder: lineage and installation.
    pub folder: Folder,
    /// The public key in genesis.
    pub public_key: PublicKey,
    /// The current state.
    pub state: LogState,
    /// The last record's number.
    pub last: u64,
    /// Unreadable records that no later record replaces.
    pub unreadable: Vec<Unreadable>,
    /// Snapshots that a readable record deletes, though their add record is unreadable.
    gone: BTreeSet<SnapshotId>,
    /// The state was settled from the installation's catalog.
    vouched: bool,
    /// Hash of the last record; zeros if that is unreadable.
    head: Hash32,
}

/// An unreadable record.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// Its number.
    pub number: u64,
    /// Why it is unreadable.
    pub error: Arc<Error>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MendBody {
    unreadable: Vec<u64>,
    live: BTreeMap<SnapshotId, Live>,
    deleted: BTreeMap<SnapshotId, Deleted>,
    keys: BTreeMap<DataKeyId, WrappedKey>,
}

impl Log {
    /// Reads and verifies the log of `folder`; `None` if there is none.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for a gap, a wrong hash, signature or body; what the store reports.
    pub fn load(objects: &dyn Objects, folder: Folder) -> Result<Option<Self>> {
        let log = Self::load_readable(objects, folder, None)?;
        match log.as_ref().and_then(|l| l.unreadable.first()) {
            Some(bad) => Err(bad.error.replay()),
            None => Ok(log),
        }
    }

    /// Like [`Log::load`], but sets unreadable records aside and lists them. For the folder's own installation, whose
    /// public key is `own`, and for readers that change nothing.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if records contradict each other, or too many are unreadable; what the store reports.
    pub fn load_readable(objects: &dyn Objects, folder: Folder, own: Option<PublicKey>) -> Result<Option<Self>> {
        let all = numbers(objects, folder)?;
        if all.is_empty() && !exists(objects, folder, &all, 0)? {
            return Ok(None);
        }
        let mut log = match (Self::from_genesis(objects, folder), own) {
            (Err(e), Some(key)) if is_damage(&e) => {
                let mut log = Self::empty(folder, key, Hash32::default());
                log.set_aside(0, e);
                log
            }
            (started, _) => started?,
        };
        let last = log.find_last(objects, &all)?;
        let mut checkpoint = last - last % CHECKPOINT_EVERY;
        while checkpoint > 0 {
            match read(objects, folder, checkpoint, &log.public_key) {
                Ok(record) => {
                    log.start_at(&record)?;
                    break;
                }
                // It contains no more than the one before it and the records in between, which still exist.
                Err(e) if is_damage(&e) => checkpoint -= CHECKPOINT_EVERY,
                Err(e) => return Err(e),
            }
        }
        while log.last < last {
            let number = log.last + 1;
            match read(objects, folder, number, &log.public_key) {
                Ok(record) => log.follow(&record)?,
                Err(e) if is_damage(&e) && log.unreadable.len() < UNREADABLE_MAX => log.set_aside(number, e),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(log))
    }

    fn empty(folder: Folder, public_key: PublicKey, head: Hash32) -> Self {
        let state = LogState::default();
        let (unreadable, gone) = (Vec::new(), BTreeSet::new());
        Self { folder, public_key, state, last: 0, unreadable, gone, vouched: false, head }
    }

    fn from_genesis(objects: &dyn Objects, folder: Folder) -> Result<Self> {
        let genesis = read_any(objects, folder, 0)?;
        let object = path(folder, 0);
        if genesis.envelope.kind != GENESIS || !genesis.envelope.previous.is_zero() {
            return Err(damaged(&object, 10, "the first record is not a genesis record"));
        }
        let public_key = genesis.body::<Genesis>(&object)?.public_key.0;
        genesis.verify(&object, &public_key)?;
        Ok(Self::empty(folder, public_key, genesis.hash()))
    }

    /// Starts with a checkpoint, skipping everything before it.
    fn start_at(&mut self, record: &Record) -> Result<()> {
        self.last = record.envelope.number - 1;
        self.head = record.envelope.previous;
        self.follow(record)
    }

    /// Returns the number of the last record: the highest authentic one, plus unreadable ones that directly follow it.
    /// A file with any other number is not a record.
    fn find_last(&self, objects: &dyn Objects, all: &BTreeSet<u64>) -> Result<u64> {
        let mut last = 0;
        for number in all.iter().rev().copied().take(UNREADABLE_MAX) {
            match read(objects, self.folder, number, &self.public_key) {
                Ok(_) => {
                    last = number;
                    break;
                }
                Err(e) if is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
        while exists(objects, self.folder, all, last + 1)? {
            last += 1;
        }
        Ok(last)
    }

    fn set_aside(&mut self, number: u64, error: Error) {
        self.unreadable.push(Unreadable { number, error: Arc::new(error) });
        (self.last, self.head) = (number, Hash32::default());
    }

    /// Whether part of the state is unknown: an unreadable record is neither genesis nor a checkpoint.
    #[must_use]
    pub fn lacks_something(&self) -> bool {
        !self.vouched && self.unreadable.iter().any(|u| !u.number.is_multiple_of(CHECKPOINT_EVERY))
    }

    /// Settles, from the installation's catalog, what unreadable records may have contained. Snapshots in `completed`
    /// exist if their manifest does, for it is signed and an id is used only once; for those in `unclear` the log
    /// decides; all others were deleted.
    ///
    /// # Errors
    /// What the store reports, except for a missing or damaged manifest, which affects only its snapshot.
    pub fn vouch(
        &mut self,
        objects: &dyn Objects,
        now: Timestamp,
        completed: &BTreeSet<SnapshotId>,
        unclear: &BTreeSet<SnapshotId>,
    ) -> Result<()> {
        for id in completed {
            let known = self.state.live.contains_key(id) || self.state.deleted.contains_key(id);
            if known || self.gone.contains(id) {
                continue;
            }
            let (manifest, time) = match signed_manifest(objects, self.folder, *id, &self.public_key) {
                Ok((manifest, hash)) => (hash, manifest.time),
                // Kept, with all that it may need, until it is deleted or its manifest is restored.
                Err(e) if is_damage(&e) || e.kind() == Kind::NotFound => (Hash32::default(), now),
                Err(e) => return Err(e),
            };
            self.state.live.insert(*id, Live { manifest, time, held: false });
        }
        let lost: Vec<_> =
            self.state.live.keys().filter(|id| !completed.contains(id) && !unclear.contains(id)).copied().collect();
        for id in lost {
            if let Some(was) = self.state.live.remove(&id) {
                self.state.deleted.insert(id, Deleted { manifest: was.manifest, time: now });
            }
        }
        self.vouched = true;
        Ok(())
    }

    /// Starts a log: puts genesis.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if there is another genesis; what the store reports.
    pub fn start(objects: &dyn Objects, folder: Folder, signer: &dyn Signer, time: Timestamp) -> Result<Self> {
        let public_key = signer.public_key();
        let body = json(&Genesis { public_key: Hash32(public_key), time })?;
        let record = Record::sign(envelope(folder, GENESIS, 0, Hash32::default()), &body, signer)?;
        put_same(objects, &path(folder, 0), record.raw())?;
        Ok(Self::empty(folder, public_key, record.hash()))
    }

    /// Applies one authentic record. Anything else wrong with it is not damage, but a fork or a bug.
    fn follow(&mut self, record: &Record) -> Result<()> {
        let object = path(self.folder, record.envelope.number);
        let behind_gap = self.unreadable.last().is_some_and(|u| u.number == self.last);
        let chained = record.envelope.previous == self.head || behind_gap;
        if record.envelope.number != self.last + 1 || !chained {
            return Err(damaged(&object, 40, "the record does not follow the one before it"));
        }
        let at_checkpoint = record.envelope.number.is_multiple_of(CHECKPOINT_EVERY);
        if (record.envelope.kind == CHECKPOINT) != at_checkpoint {
            return Err(damaged(&object, 10, "checkpoints must be at multiples of 256, and only there"));
        }
        if at_checkpoint {
            self.replace(record.body(&object)?);
            // A checkpoint is written only after everything before it was settled.
            self.unreadable.clear();
        } else if record.envelope.kind == MEND {
            let MendBody { unreadable, live, deleted, keys } = record.body(&object)?;
            self.replace(LogState { live, deleted, keys });
            self.unreadable.retain(|u| !unreadable.contains(&u.number));
        } else {
            let entry = decode(&object, record)?;
            if let Err(why) = self.state.apply(&entry) {
                if !self.lacks_something() {
                    return Err(damaged(&object, super::record::ENVELOPE, why));
                }
                self.apply_anyway(&entry);
            }
        }
        self.last = record.envelope.number;
        self.head = record.hash();
        Ok(())
    }

    fn replace(&mut self, state: LogState) {
        self.state = state;
        self.gone.clear();
    }

    /// Applies an entry that refers to a lost one.
    fn apply_anyway(&mut self, entry: &Entry) {
        match entry {
            Entry::Add { snapshot, manifest, time } => {
                self.state.deleted.remove(snapshot);
                self.state.live.insert(*snapshot, Live { manifest: *manifest, time: *time, held: false });
            }
            Entry::Delete { snapshot, time } => {
                self.gone.insert(*snapshot);
                if let Some(was) = self.state.live.remove(snapshot) {
                    self.state.deleted.insert(*snapshot, Deleted { manifest: was.manifest, time: *time });
                }
            }
            Entry::Hold { .. } | Entry::Key { .. } => {}
        }
    }

    /// Appends `entry`, and before it a checkpoint if its number would be a multiple of 256. Durable on return.
    /// Repeating it after a failure whose put took effect finds the same bytes.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] if the entry does not fit the log; [`Kind::Integrity`] if someone else wrote the next
    /// record.
    pub fn append(&mut self, objects: &dyn Objects, signer: &dyn Signer, entry: &Entry) -> Result<()> {
        let mut fits = self.state.clone();
        fits.apply(entry)
            .map_err(|why| Error::new(Kind::InvalidState, format!("{}: {why}", self.folder.sort("log"))))?;
        self.mend(objects, signer)?;
        if (self.last + 1).is_multiple_of(CHECKPOINT_EVERY) {
            let body = json(&self.state)?;
            self.put(objects, signer, CHECKPOINT, &body)?;
        }
        let (kind, body) = encode(entry)?;
        self.put(objects, signer, kind, &body)?;
        self.state = fits;
        Ok(())
    }

    /// Deletes the records that no reader needs, oldest first: those between genesis and the last checkpoint but one. Should
    /// the last be damaged, a reader starts at the one before it. Does nothing if what is kept is not whole. Returns the
    /// number of the first record behind genesis that is kept.
    ///
    /// # Errors
    /// What the store reports; a repeat continues.
    pub fn trim(&self, objects: &dyn Objects) -> Result<u64> {
        let first = (self.last - self.last % CHECKPOINT_EVERY).saturating_sub(CHECKPOINT_EVERY);
        if first == 0 || !self.unreadable.is_empty() {
            return Ok(0);
        }
        let old: Vec<u64> = numbers(objects, self.folder)?.range(1..first).copied().collect();
        if !old.is_empty() && !self.is_whole_from(objects, first)? {
            return Ok(0);
        }
        old.iter().try_for_each(|number| objects.delete(&path(self.folder, *number)))?;
        Ok(first)
    }

    /// Checks every record of a log as it is stored, and that each follows the one before it. Returns how many there are, and
    /// what is wrong.
    ///
    /// # Errors
    /// What the store reports.
    pub fn check(objects: &dyn Objects, folder: Folder) -> Result<(u64, Vec<String>)> {
        let all = numbers(objects, folder)?;
        let (mut problems, mut before) = (Vec::new(), None);
        if all.is_empty() {
            return Ok((0, problems));
        }
        let mut see = |found: Result<Record>| match found {
            Err(e) if is_damage(&e) || e.kind() == Kind::Unsupported => {
                problems.push(e.line());
                Ok(None)
            }
            other => other.map(Some),
        };
        let key = see(read_any(objects, folder, 0))?.and_then(|r| r.body::<Genesis>(&path(folder, 0)).ok());
        for number in all.iter().copied() {
            let Some(key) = &key else { break };
            let Some(record) = see(read(objects, folder, number, &key.public_key.0))? else { continue };
            let known = before.replace((number, record.hash()));
            let follows = known.is_none_or(|(last, hash)| last + 1 != number || hash == record.envelope.previous);
            if !follows {
                see(Err(damaged(&path(folder, number), 40, "the record does not follow the one before it")))?;
            }
        }
        // A gap that a reader needs is one here, too.
        match Self::load(objects, folder) {
            Err(e) if is_damage(&e) || e.kind() == Kind::Unsupported => problems.push(e.line()),
            other => drop(other?),
        }
        Ok((all.len() as u64, problems))
    }

    /// Whether genesis and the records from checkpoint `first` on, as they are stored, add up to this log.
    fn is_whole_from(&self, objects: &dyn Objects, first: u64) -> Result<bool> {
        let mut kept = match Self::from_genesis(objects, self.folder) {
            Err(e) if is_damage(&e) => return Ok(false),
            started => started?,
        };
        for number in first..=self.last {
            let record = read(objects, self.folder, number, &self.public_key);
            let followed = record.and_then(|r| if number == first { kept.start_at(&r) } else { kept.follow(&r) });
            match followed {
                Err(e) if is_damage(&e) => return Ok(false),
                other => other?,
            }
        }
        Ok(kept.head == self.head && kept.state.live == self.state.live && kept.state.keys == self.state.keys)
    }

    /// Replaces unreadable records, so that other readers need not set them aside.
    fn mend(&mut self, objects: &dyn Objects, signer: &dyn Signer) -> Result<()> {
        let Some(first) = self.unreadable.first() else { return Ok(()) };
        if self.lacks_something() {
            return Err(first.error.replay());
        }
        let LogState { live, deleted, keys } = self.state.clone();
        let unreadable = self.unreadable.iter().map(|u| u.number).collect();
        if (self.last + 1).is_multiple_of(CHECKPOINT_EVERY) {
            self.put(objects, signer, CHECKPOINT, &json(&self.state)?)?;
        } else {
            self.put(objects, signer, MEND, &json(&MendBody { unreadable, live, deleted, keys })?)?;
        }
        self.unreadable.clear();
        Ok(())
    }

    fn put(&mut self, objects: &dyn Objects, signer: &dyn Signer, kind: u16, body: &[u8]) -> Result<()> {
        let number = self.last + 1;
        let record = Record::sign(envelope(self.folder, kind, number, self.head), body, signer)?;
        put_same(objects, &path(self.folder, number), record.raw())?;
        self.last = number;
        self.head = record.hash();
        Ok(())
    }
}

/// Returns the numbers of the existing records. Names of interrupted staged puts are not records.
fn numbers(objects: &dyn Objects, folder: Folder) -> Result<BTreeSet<u64>> {
    let mut all = objects.list(&folder.sort("log"))?;
    // A FIFO in a record's place is a damaged record, not the end of the log.
    all.extend(objects.irregular(&folder.sort("log"))?);
    let number = |name: &str| (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten();
    Ok(all.iter().filter_map(|object| number(object.name())).collect())
}

/// Whether a record exists. A list may be older than the newest records: what it lacks at the end would pass for not written.
fn exists(objects: &dyn Objects, folder: Folder, all: &BTreeSet<u64>, number: u64) -> Result<bool> {
    Ok(all.contains(&number) || objects.head(&path(folder, number))?.is_some())
}

/// Whether an object is unreadable because it or its disk is damaged, rather than for lack of permission, descriptors
/// or a newer program.
pub(super) fn is_damage(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    error.kind() == Kind::Integrity || cause.and_then(std::io::Error::raw_os_error) == Some(libc::EIO)
}

/// Reads the manifest of a snapshot of `folder`, checked only against the folder's key.
pub(super) fn signed_manifest(
    objects: &dyn Objects,
    folder: Folder,
    snapshot: SnapshotId,
    key: &PublicKey,
) -> Result<(Manifest, Hash32)> {
    let object = folder.path("manifests", snapshot);
    let (manifest, record) = Manifest::parse(&object, folder, snapshot, objects.get(&object, RECORD_MAX)?)?;
    record.verify(&object, key)?;
    Ok((manifest, record.hash()))
}

fn path(folder: Folder, number: u64) -> String {
    folder.path("log", format_args!("{number:016x}"))
}

const fn envelope(folder: Folder, kind: u16, number: u64, previous: Hash32) -> Envelope {
    Envelope { family: Family::Log, kind, lineage: folder.lineage, number, previous, signer: folder.installation }
}

/// Reads the record of that number, signed by `key`.
fn read(objects: &dyn Objects, folder: Folder, number: u64, key: &PublicKey) -> Result<Record> {
    let record = read_any(objects, folder, number)?;
    record.verify(&path(folder, number), key)?;
    Ok(record)
}

fn read_any(objects: &dyn Objects, folder: Folder, number: u64) -> Result<Record> {
    let object = path(folder, number);
    let raw = objects.get(&object, RECORD_MAX).map_err(|e| {
        if e.kind() == Kind::NotFound { damaged(&object, 0, "the log has a gap here").because(e) } else { e }
    })?;
    let record = Record::parse(&object, Family::Log, raw)?;
    let e = &record.envelope;
    if e.lineage != folder.lineage || e.signer != folder.installation || e.number != number {
        return Err(damaged(&object, 16, "the record is of another log or another number"));
    }
    Ok(record)
}

fn json<T: Serialize>(body: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|e| Error::new(Kind::Failed, "write a log record").because(e))
}

fn encode(entry: &Entry) -> Result<(u16, Vec<u8>)> {
    Ok(match entry.clone() {
        Entry::Add { snapshot, manifest, time } => (ADD, json(&AddBody { snapshot, manifest, time })?),
        Entry::Delete { snapshot, time } => (DELETE, json(&DeleteBody { snapshot, time })?),
        Entry::Hold { snapshot, held, time } => (HOLD, json(&HoldBody { snapshot, held, time })?),
        Entry::Key { data_key, blob, time } => (KEY, json(&KeyBody { data_key, blob, time })?),
    })
}

fn decode(object: &str, record: &Record) -> Result<Entry> {
    fn body<T: DeserializeOwned>(object: &str, record: &Record) -> Result<T> {
        record.body(object)
    }
    Ok(match record.envelope.kind {
        ADD => {
            let AddBody { snapshot, manifest, time } = body(object, record)?;
            Entry::Add { snapshot, manifest, time }
        }
        DELETE => {
            let DeleteBody { snapshot, time } = body(object, record)?;
            Entry::Delete { snapshot, time }
        }
        HOLD => {
            let HoldBody { snapshot, held, time } = body(object, record)?;
            Entry::Hold { snapshot, held, time }
        }
        KEY => {
            let KeyBody { data_key, blob, time } = body(object, record)?;
            Entry::Key { data_key, blob, time }
        }
        other => return Err(too_new(object, format_args!("log record kind {other}"))),
    })
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
