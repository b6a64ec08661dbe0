//! Sectors preserved for one pending snapshot: writers save the old contents of sectors in chunks that the copier has
//! not reached. The copier overlays them on what it reads.
//!
//! The sectors are kept, sealed as they were, in scratch space ([`Scratch`]) that ends with its process, as the
//! snapshot does: only a completed one outlives it. A chunk's entries are changed only under that chunk's stripe.

use crate::cipher::SealedMut;
use crate::error::{Error, IoContext, Kind, Result};
use crate::store::Scratch;
use crate::units::{ChunkNo, SECTOR, SECTORS_PER_CHUNK};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Free space is checked each time the file has grown by this many bytes.
const LOOK_EVERY: u64 = 16 << 20;

/// Maximum number of preserved bytes; their index, 16 bytes a sector, is in memory.
const MAX_BYTES: u64 = 4 << 30;

/// The preserved sectors of a snapshot; see the module's documentation.
#[derive(Default)]
pub(super) struct PreservedSectors(Mutex<PreservedState>);

#[derive(Default)]
struct PreservedState {
    file: Option<Arc<Scratch>>,
    /// Size of the file in bytes.
    end: u64,
    /// Offsets in it that are free again.
    free: Vec<u64>,
    chunks: HashMap<u64, Saved>,
}

/// The sectors of one chunk.
#[derive(Default)]
struct Saved {
    /// A bit for each sector that is preserved.
    mask: u128,
    places: Places,
}

/// Sectors of a chunk, and their offsets in the file.
pub(super) type Places = Vec<(usize, u64)>;

/// The preserved sectors of a chunk, and the file that holds them.
pub(super) type Kept = (Arc<Scratch>, Places);

const _: () = assert!(SECTORS_PER_CHUNK == u128::BITS as usize);

impl PreservedSectors {
    /// Whether any sector of a chunk is preserved.
    pub(super) fn holds(&self, chunk: ChunkNo) -> bool {
        self.0.lock().chunks.contains_key(&chunk.0)
    }

    /// Returns some chunk that has preserved sectors.
    pub(super) fn any(&self) -> Option<ChunkNo> {
        self.0.lock().chunks.keys().next().map(|c| ChunkNo(*c))
    }

    /// Returns those of a chunk's sectors that are not preserved.
    pub(super) fn missing(&self, chunk: ChunkNo, sectors: Range<usize>) -> Vec<usize> {
        let mask = self.0.lock().chunks.get(&chunk.0).map_or(0, |s| s.mask);
        sectors.filter(|s| mask & (1 << s) == 0).collect()
    }

    /// Allocates space for `count` sectors.
    pub(super) fn reserve(
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

    /// Adds sectors of a chunk, as a mask and with their places, once they are written there.
    pub(super) fn keep(&self, chunk: ChunkNo, mask: u128, places: Places) {
        let mut state = self.0.lock();
        let saved = state.chunks.entry(chunk.0).or_default();
        saved.mask |= mask;
        saved.places.extend(places);
    }

    /// Returns a chunk's preserved sectors, for the copier to overlay on what it has read. They stay until
    /// [`PreservedSectors::release`].
    pub(super) fn places(&self, chunk: ChunkNo) -> Option<Kept> {
        let state = self.0.lock();
        let saved = state.chunks.get(&chunk.0)?;
        state.file.clone().map(|file| (file, saved.places.clone()))
    }

    /// Overlays preserved sectors on `sealed`, a chunk's bytes.
    pub(super) fn overlay(&self, kept: Option<Kept>, mut sealed: SealedMut<'_>) -> Result<()> {
        let Some((file, places)) = kept else { return Ok(()) };
        for run in runs(&places) {
            let (sector, place) = run[0];
            let out = sealed.range(sector * SECTOR..(sector + run.len()) * SECTOR);
            file.read_at(out, place).on(|| "read sectors that were preserved for a snapshot".to_owned())?;
        }
        Ok(())
    }

    /// Removes a chunk's preserved sectors and frees their space.
    pub(super) fn release(&self, chunk: ChunkNo) {
        let mut state = self.0.lock();
        let places = state.chunks.remove(&chunk.0).map(|saved| saved.places).unwrap_or_default();
        state.free.extend(places.into_iter().map(|(_, place)| place));
    }
}

/// Splits them into runs that are contiguous in the chunk and in the file.
pub(super) fn runs(places: &[(usize, u64)]) -> impl Iterator<Item = &[(usize, u64)]> {
    places.chunk_by(|a, b| b.0 == a.0 + 1 && b.1 == a.1 + SECTOR as u64)
}

#[cfg(test)]
#[path = "preserved_tests.rs"]
mod tests;
