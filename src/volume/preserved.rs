//! What writers set aside for one pending snapshot: the old content of sectors that they change in chunks which the copier
//! has not reached. The copier puts it over what it reads.
//!
//! The sectors lie, sealed as they were, in scratch room ([`Scratch`]) that goes with its process, as the snapshot does: only a
//! completed one outlives it. A chunk's entries are changed under that chunk's stripe alone.

use super::io::Piece;
use super::{Blocking, Volume};
use crate::cipher::{SealedBuf, SealedMut};
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::Scratch;
use crate::units::{ChunkNo, SECTOR, SECTORS_PER_CHUNK};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The file system's free space is looked at each time the file has grown by so many bytes.
const LOOK_EVERY: u64 = 16 << 20;

/// Bytes that are set aside at most; what it takes to find them again, 16 bytes a sector, is in memory.
const MAX_BYTES: u64 = 4 << 30;

/// See the module.
#[derive(Default)]
pub(super) struct PreservedSectors(Mutex<PreservedState>);

#[derive(Default)]
struct PreservedState {
    file: Option<Arc<Scratch>>,
    /// Bytes of the file.
    end: u64,
    /// Places in it that are free again.
    free: Vec<u64>,
    chunks: HashMap<u64, Saved>,
}

/// The sectors of one chunk.
#[derive(Default)]
struct Saved {
    /// A bit for each sector that is here.
    mask: u128,
    places: Places,
}

/// Sectors of a chunk, and where they lie.
type Places = Vec<(usize, u64)>;

/// What lay here of a chunk, with the file that it lies in.
pub(super) type Taken = (Arc<Scratch>, Places);

const _: () = assert!(SECTORS_PER_CHUNK == u128::BITS as usize);

impl PreservedSectors {
    /// Whether something of a chunk lies here.
    pub(super) fn holds(&self, chunk: ChunkNo) -> bool {
        self.0.lock().chunks.contains_key(&chunk.0)
    }

    /// Some chunk of which something lies here.
    pub(super) fn any(&self) -> Option<ChunkNo> {
        self.0.lock().chunks.keys().next().map(|c| ChunkNo(*c))
    }

    /// Those of a chunk's sectors that are not here.
    fn missing(&self, chunk: ChunkNo, sectors: Range<usize>) -> Vec<usize> {
        let mask = self.0.lock().chunks.get(&chunk.0).map_or(0, |s| s.mask);
        sectors.filter(|s| mask & (1 << s) == 0).collect()
    }

    /// Finds room for `count` sectors.
    fn reserve(
        &self,
        count: usize,
        make: impl FnOnce() -> std::io::Result<Scratch>,
    ) -> Result<(Arc<Scratch>, Vec<u64>)> {
        let what = || "preserve sectors for a snapshot".to_owned();
        let mut state = self.0.lock();
        let file = match &state.file {
            Some(file) => file.clone(),
            None => state.file.insert(Arc::new(make().on(what)?)).clone(),
        };
        let reused = state.free.len().min(count);
        let end = state.end + ((count - reused) * SECTOR) as u64;
        if end > MAX_BYTES {
            return Err(Error::new(Kind::NoSpace, format!("{}: {MAX_BYTES} bytes are", what())));
        }
        if state.end / LOOK_EVERY != end / LOOK_EVERY && file.is_nearly_full().on(what)? {
            return Err(Error::new(Kind::NoSpace, format!("{}: less than 5 % of the disk is free", what())));
        }
        let at = state.free.len() - reused;
        let mut places = state.free.split_off(at);
        while places.len() < count {
            places.push(state.end);
            state.end += SECTOR as u64;
        }
        Ok((file, places))
    }

    /// Takes what lies here of a chunk, for the copier to put it over what it has read.
    pub(super) fn take(&self, chunk: ChunkNo) -> Option<Taken> {
        let mut state = self.0.lock();
        let saved = state.chunks.remove(&chunk.0)?;
        state.file.clone().map(|file| (file, saved.places))
    }

    /// Puts what was taken over `sealed`, a chunk's bytes; its places are free then.
    pub(super) fn overlay(&self, taken: Option<Taken>, mut sealed: SealedMut<'_>) -> Result<()> {
        let Some((file, places)) = taken else { return Ok(()) };
        for run in runs(&places) {
            let (sector, place) = run[0];
            let out = sealed.range(sector * SECTOR..(sector + run.len()) * SECTOR);
            file.read_at(out, place).on(|| "read sectors that were preserved for a snapshot".to_owned())?;
        }
        self.0.lock().free.extend(places.into_iter().map(|(_, place)| place));
        Ok(())
    }
}

/// Those that follow each other, in the chunk and in the file.
fn runs(places: &[(usize, u64)]) -> impl Iterator<Item = &[(usize, u64)]> {
    places.chunk_by(|a, b| b.0 == a.0 + 1 && b.1 == a.1 + SECTOR as u64)
}

impl Volume {
    /// Sets aside what a writing piece is about to change, as far as it is not here already. The chunk's stripe is held.
    /// `false`: it would have had to wait for the disk.
    pub(super) fn set_aside(&self, aside: &PreservedSectors, piece: Piece, blocking: Blocking) -> Result<bool> {
        let chunk = piece.chunk;
        let first = (piece.offset - chunk.offset()) as usize / SECTOR;
        let end = (piece.offset - chunk.offset()) as usize + piece.len;
        let missing = aside.missing(chunk, first..end.div_ceil(SECTOR));
        let (Some(from), Some(to)) = (missing.first(), missing.last()) else { return Ok(true) };
        let mut old = SealedBuf::holes((to + 1 - from) * SECTOR);
        let there = (self.chunk_len(chunk) as usize).saturating_sub(from * SECTOR).min(old.len());
        let at = chunk.offset() + (from * SECTOR) as u64;
        if !self.read_sealed_held(at, old.room().range(0..there), blocking)? {
            return Ok(false);
        }
        let (file, places) = aside.reserve(missing.len(), || self.scratch.scratch())?;
        let mask = missing.iter().fold(0, |mask, sector| mask | 1 << sector);
        let places: Places = missing.iter().copied().zip(places).collect();
        for run in runs(&places) {
            let (sector, place) = run[0];
            let body = old.sealed().range((sector - from) * SECTOR..(sector - from + run.len()) * SECTOR);
            file.write_at(body, place).on(|| format!("preserve sectors of chunk {chunk} of {}", self.id))?;
        }
        let mut state = aside.0.lock();
        let saved = state.chunks.entry(chunk.0).or_default();
        saved.mask |= mask;
        saved.places.extend(places);
        Ok(true)
    }
}

#[cfg(test)]
#[path = "preserved_tests.rs"]
mod tests;
