//! Restore drills: a snapshot is restored to a volume that never becomes one, and read to its end.

use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::service::api::SnapshotInfo;
use crate::service::image::Steps;
use crate::service::records::SnapshotRecord;
use crate::service::{Report, Service};
use crate::snapshot::reader::SnapshotReader;
use crate::units::{CHUNK, ChunkNo, VolumeId};
use crate::volume::parent::Parent;
use crate::volume::{Blocking, Volume};
use zeroize::Zeroizing;

impl Service {
    /// Proves that a snapshot can be restored, and records when: unwraps its data keys, creates a volume from it, reads all
    /// its chunks through that, each checked against the signed tree, and removes the volume.
    pub(in crate::service) fn drill_snapshot(
        &self,
        caller: &Caller,
        what: &str,
        report: Report<'_>,
    ) -> Result<SnapshotInfo> {
        let record = self.records.find_snapshot(what)?;
        record.must_be_completed()?;
        let reader = self.reader_of(&record)?;
        if reader.located().public_key != self.kms.public_key() {
            let what = format!("snapshot {}: it is signed by another key than this installation's", record.id);
            return Err(Error::new(Kind::Integrity, what).hint("see `coffer status` and `coffer snapshot verify`"));
        }
        let id = VolumeId::draw(&*self.env.rng);
        let act = Act::new("coffer:DrillSnapshot").detail("snapshot", record.id).detail("volume", id);
        self.with_clone(caller, id, &record, act, &mut |volume| read_all(volume, &reader, report))
            .map_err(|e| e.context(format!("drill of snapshot {}", record.id)))?;
        let now = self.env.now();
        self.records.note_snapshot(record.id, |r| r.proved = Some(now))?;
        self.info(&self.records.find_snapshot(&record.id.to_string())?)
    }

    /// Creates a volume from a snapshot for `look` alone.
    fn with_clone(
        &self,
        caller: &Caller,
        id: VolumeId,
        from: &SnapshotRecord,
        act: Act,
        look: &mut dyn FnMut(&Volume) -> Result<()>,
    ) -> Result<()> {
        let keyed = self.keys_of_snapshot(caller, None, from)?;
        let turn = self.turns.take(id);
        let record = self.record_creating(caller, act, id, &keyed, from.size)?;
        let looked = self.make_store(&record, keyed, Some(look));
        // A volume that is not ready is found by nobody; after a kill, the next process removes it.
        let removed = self.leftovers.remove(&record);
        drop(turn);
        looked.and(removed)
    }
}

/// Reads all that a volume has from its snapshot.
fn read_all(volume: &Volume, reader: &SnapshotReader, report: Report<'_>) -> Result<()> {
    let expected = reader.located().manifest.chunks;
    let mut steps = Steps::new("drill", expected * CHUNK as u64, report);
    let mut room = Zeroizing::new(vec![0; CHUNK]);
    let (mut from, mut read) = (ChunkNo(0), 0);
    while let Some(chunk) = reader.next_with_sectors(from)? {
        let length = (volume.size() - chunk.offset()).min(CHUNK as u64) as usize;
        let _done = volume.read(chunk.offset(), &mut room[..length], Blocking::Allowed)?;
        read += 1;
        steps.done(read * CHUNK as u64)?;
        from = ChunkNo(chunk.0 + 1);
    }
    if read != expected {
        return Err(Error::new(Kind::Integrity, format!("the manifest has {expected} chunks, the tree {read}")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "drill_tests.rs"]
mod tests;
