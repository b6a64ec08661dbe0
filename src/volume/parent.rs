//! The source that a volume is hydrated from: sealed chunks of a snapshot's tree.

use crate::cipher::SealedMut;
use crate::error::Result;
use crate::units::{ChunkNo, KeyTag, SectorMap};
use std::sync::Arc;

/// Fetches a chunk, as [`Parent::fetch`] does.
pub type Fetch<'a> = dyn Fn(SealedMut<'_>) -> Result<Option<KeyTag>> + 'a;

/// Takes a chunk that can be fetched now, perhaps in another thread. `false`: no more are needed.
pub type Each<'a> = dyn Fn(ChunkNo, &Fetch<'_>) -> bool + Send + Sync + 'a;

/// A source of sealed chunks: a snapshot, as a volume sees it. The snapshot layer implements it over a repository.
pub trait Parent: Send + Sync {
    /// Returns the size in bytes of the snapshot's volume when it was taken. Chunks past it are holes.
    fn size(&self) -> u64;

    /// Returns which sectors of the chunk are not holes. Reads the tree, fetches no data.
    ///
    /// # Errors
    /// If the tree cannot be read, or a page of it is damaged.
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap>;

    /// Whether the chunk has any sector that is not a hole.
    ///
    /// # Errors
    /// As [`Parent::sectors`].
    fn has_sectors(&self, chunk: ChunkNo) -> Result<bool> {
        Ok(!self.sectors(chunk)?.is_empty())
    }

    /// Fetches the whole chunk ([`crate::units::CHUNK`] bytes) into `out`, holes as zeros, and verifies its hash.
    /// Returns the tag of the key that sealed it, or `None` if all of it is a hole.
    ///
    /// # Errors
    /// If the chunk cannot be fetched or its hash is wrong: then the contents of `out` must not be used.
    fn fetch(&self, chunk: ChunkNo, out: SealedMut<'_>) -> Result<Option<KeyTag>>;

    /// Returns the first chunk at or after `from` that has sectors; `None`: none up to the end.
    ///
    /// # Errors
    /// As [`Parent::has_sectors`].
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>>;

    /// Whether fetching waits for a network, so that it takes about as long for many chunks at once as for one.
    fn is_far(&self) -> bool {
        false
    }

    /// Calls `each` for each of these chunks, in any order and from several threads if that is faster, until it returns `false`.
    /// What `each` does not fetch may have been read in vain.
    fn fetch_many(&self, chunks: &[ChunkNo], each: &Each<'_>) {
        for chunk in chunks {
            if !each(*chunk, &|out| self.fetch(*chunk, out)) {
                return;
            }
        }
    }

    /// Returns at once, and calls `each` for these chunks from other threads, as soon as that is possible: for chunks that will
    /// probably be needed. May leave out any of them, and does so with all if the source is not far.
    fn fetch_ahead(&self, chunks: &[ChunkNo], each: &Arc<Each<'static>>) {
        let _ = (chunks, each);
    }
}
