//! An installation's log of one lineage: signed records `log/%016x`, each naming its predecessor's hash (see
//! [`super::record`] for the envelope). The record's kind is in the envelope, what it says in a JSON body:
//!
//! ```text
//! 1 genesis     { public_key hex, time }                     number 0, previous zeros; signed by that key
//! 2 add         { snapshot, manifest (hex), time }           the commit point of a snapshot
//! 3 delete      { snapshot, time }                           hides it at once
//! 4 hold        { snapshot, held, time }                     a held snapshot cannot be deleted
//! 5 key         { data_key, blob hex, time }                 the wrapped key; the newest per data-key id wins
//! 6 checkpoint  { live, deleted, keys }                      each number that is a multiple of 256: all that counts
//! ```
//! A reader takes genesis for the key, the newest checkpoint, and verifies the chain from there: a gap, a wrong hash, a
//! wrong signature are errors. *deleted* holds those whose objects were not swept yet.

use super::objects::{Objects, put_same};
use super::record::{Envelope, Family, RECORD_MAX, Record};
use super::{Folder, PublicKey, Signer, damaged, too_new};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::units::{DataKeyId, Hash32, SnapshotId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// A checkpoint stands at each multiple of this.
pub const CHECKPOINT_EVERY: u64 = 256;
/// The longest blob of a wrapped key, bytes (FORMATS 5: a blob stays under 6144).
pub const BLOB_MAX: usize = 8192;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Genesis {
    public_key: Hash32,
    time: Timestamp,
}

/// A snapshot that the log shows as completed and not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Hash of its manifest.
    pub manifest: Hash32,
    /// When it was added.
    pub time: Timestamp,
    /// Whether it may not be deleted.
    pub held: bool,
}

/// A snapshot that was deleted and whose objects may still be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// Hash of its manifest.
    pub manifest: Hash32,
    /// When it was deleted.
    pub time: Timestamp,
}

/// A data key's wrapped form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// The ciphertext blob.
    #[serde(with = "hex_bytes")]
    pub blob: Vec<u8>,
    /// When it was put.
    pub time: Timestamp,
}

/// What a record says, but for genesis and checkpoints, which this file writes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A snapshot is completed.
    Add {
        /// Which.
        snapshot: SnapshotId,
        /// Hash of its manifest.
        manifest: Hash32,
        /// Time of the record.
        time: Timestamp,
    },
    /// A snapshot is deleted.
    Delete {
        /// Which.
        snapshot: SnapshotId,
        /// Time of the record.
        time: Timestamp,
    },
    /// A snapshot is held, or no longer.
    Hold {
        /// Which.
        snapshot: SnapshotId,
        /// Held from now on, or not.
        held: bool,
        /// Time of the record.
        time: Timestamp,
    },
    /// A data key's wrapped form, new or newly wrapped.
    Key {
        /// Which data key.
        data_key: DataKeyId,
        /// Its blob.
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

/// What a log amounts to; also a checkpoint's body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogState {
    /// Snapshots that are completed and not deleted.
    pub live: BTreeMap<SnapshotId, Live>,
    /// Snapshots that were deleted and not swept.
    pub deleted: BTreeMap<SnapshotId, Deleted>,
    /// Wrapped keys.
    pub keys: BTreeMap<DataKeyId, WrappedKey>,
}

impl LogState {
    /// Applies `entry`, or says why it cannot be.
    fn apply(&mut self, entry: &Entry) -> std::result::Result<(), String> {
        match entry {
            Entry::Add { snapshot, manifest, time } => {
                if self.live.contains_key(snapshot) || self.deleted.contains_key(snapshot) {
                    return Err(format!("{snapshot} was added before"));
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

/// A log that was read and verified.
#[derive(Debug, Clone)]
pub struct Log {
    /// Whose and of which lineage.
    pub folder: Folder,
    /// The key that genesis shows.
    pub public_key: PublicKey,
    /// What the log amounts to.
    pub state: LogState,
    /// The last record's number.
    pub last: u64,
    head: Hash32,
}

impl Log {
    /// Reads and verifies the log of `folder`; `None` when there is none.
    ///
    /// # Errors
    /// Integrity for a gap, a wrong hash, signature or body; what the store says.
    pub fn load(objects: &dyn Objects, folder: Folder) -> Result<Option<Self>> {
        let mut numbers: Vec<u64> = Vec::new();
        for object in objects.list(&folder.sort("log"))? {
            // Names of staged puts that were cut off are no records.
            if let Some(n) = Some(object.name()).filter(|n| n.len() == 16).and_then(|n| u64::from_str_radix(n, 16).ok())
            {
                numbers.push(n);
            }
        }
        let Some(last) = numbers.iter().copied().max() else { return Ok(None) };
        let genesis = read(objects, folder, 0)?;
        let object = path(folder, 0);
        if genesis.envelope.kind != GENESIS || !genesis.envelope.previous.is_zero() {
            return Err(damaged(&object, 10, "the first record is not a genesis"));
        }
        let public_key = genesis.body::<Genesis>(&object)?.public_key.0;
        genesis.verify(&object, &public_key)?;
        let mut log = Self { folder, public_key, state: LogState::default(), last: 0, head: genesis.hash() };
        let checkpoint = last - last % CHECKPOINT_EVERY;
        if checkpoint > 0 {
            let record = read(objects, folder, checkpoint)?;
            log.head = record.envelope.previous;
            log.last = checkpoint - 1;
            log.follow(&record)?;
        }
        while log.last < last {
            let record = read(objects, folder, log.last + 1)?;
            log.follow(&record)?;
        }
        Ok(Some(log))
    }

    /// Starts a log: puts genesis.
    ///
    /// # Errors
    /// Integrity when another genesis is there; what the store says.
    pub fn start(objects: &dyn Objects, folder: Folder, signer: &dyn Signer, time: Timestamp) -> Result<Self> {
        let public_key = signer.public_key();
        let body = json(&Genesis { public_key: Hash32(public_key), time })?;
        let record = Record::sign(envelope(folder, GENESIS, 0, Hash32::default()), &body, signer)?;
        put_same(objects, &path(folder, 0), record.raw())?;
        Ok(Self { folder, public_key, state: LogState::default(), last: 0, head: record.hash() })
    }

    /// Takes over one verified record.
    fn follow(&mut self, record: &Record) -> Result<()> {
        let object = path(self.folder, record.envelope.number);
        record.verify(&object, &self.public_key)?;
        if record.envelope.number != self.last + 1 || record.envelope.previous != self.head {
            return Err(damaged(&object, 40, "the record does not follow the one before it"));
        }
        let at_checkpoint = record.envelope.number.is_multiple_of(CHECKPOINT_EVERY);
        if (record.envelope.kind == CHECKPOINT) != at_checkpoint {
            return Err(damaged(&object, 10, "checkpoints stand at multiples of 256, and only there"));
        }
        if at_checkpoint {
            self.state = record.body(&object)?;
        } else {
            let entry = decode(&object, record)?;
            self.state.apply(&entry).map_err(|why| damaged(&object, super::record::ENVELOPE, why))?;
        }
        self.last = record.envelope.number;
        self.head = record.hash();
        Ok(())
    }

    /// Appends `entry`; before each multiple of 256, a checkpoint. Durable when it returns. A repeat with the same entry
    /// after a failure whose put did land finds its own bytes.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] when the entry does not fit the log; Integrity when somebody else wrote the next record.
    pub fn append(&mut self, objects: &dyn Objects, signer: &dyn Signer, entry: &Entry) -> Result<()> {
        let mut fits = self.state.clone();
        fits.apply(entry)
            .map_err(|why| Error::new(Kind::InvalidState, format!("{}: {why}", self.folder.sort("log"))))?;
        if (self.last + 1).is_multiple_of(CHECKPOINT_EVERY) {
            let body = json(&self.state)?;
            self.put(objects, signer, CHECKPOINT, &body)?;
        }
        let (kind, body) = encode(entry)?;
        self.put(objects, signer, kind, &body)?;
        self.state = fits;
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

fn path(folder: Folder, number: u64) -> String {
    folder.path("log", format_args!("{number:016x}"))
}

const fn envelope(folder: Folder, kind: u16, number: u64, previous: Hash32) -> Envelope {
    Envelope { family: Family::Log, kind, lineage: folder.lineage, number, previous, signer: folder.installation }
}

fn read(objects: &dyn Objects, folder: Folder, number: u64) -> Result<Record> {
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
