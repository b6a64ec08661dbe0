//! Absent chunks whose place TRIM or WRITE_ZEROES has cleared, until they are marked as present.

use crate::units::ChunkNo;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Absent chunks that requests have cleared and not marked yet, and by how many requests each.
#[derive(Default)]
pub(super) struct Clearing(Mutex<HashMap<u64, u32>>);

impl Clearing {
    /// Begins a request, which has cleared nothing yet.
    pub(super) const fn begin(&self) -> Cleared<'_> {
        Cleared { clearing: self, chunks: Vec::new() }
    }

    /// Whether a request has cleared the chunk. Its stripe is held.
    pub(super) fn holds(&self, chunk: ChunkNo) -> bool {
        self.0.lock().contains_key(&chunk.0)
    }
}

/// The absent chunks that one request has cleared; until it is dropped, the background leaves them alone.
pub(super) struct Cleared<'a> {
    clearing: &'a Clearing,
    chunks: Vec<ChunkNo>,
}

impl Cleared<'_> {
    /// Returns the chunks, in the order in which they were cleared.
    pub(super) fn chunks(&self) -> &[ChunkNo] {
        &self.chunks
    }

    /// Adds a chunk, before it is cleared. Its stripe is held.
    pub(super) fn add(&mut self, chunk: ChunkNo) {
        *self.clearing.0.lock().entry(chunk.0).or_default() += 1;
        self.chunks.push(chunk);
    }
}

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        let mut all = self.clearing.0.lock();
        for chunk in &self.chunks {
            if let Some(count) = all.get_mut(&chunk.0) {
                *count -= 1;
                if *count == 0 {
                    all.remove(&chunk.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_two_requests_clear_is_left_alone_until_both_have_ended() {
        let clearing = Clearing::default();
        let (mut one, mut two) = (clearing.begin(), clearing.begin());
        one.add(ChunkNo(1));
        two.add(ChunkNo(1));
        one.add(ChunkNo(2));
        drop(one);
        assert!(clearing.holds(ChunkNo(1)) && !clearing.holds(ChunkNo(2)));
        drop(two);
        assert!(!clearing.holds(ChunkNo(1)));
    }
}
