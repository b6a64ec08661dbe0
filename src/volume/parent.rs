//! What a volume made from a snapshot is filled from: sealed chunks of the snapshot's tree.

use crate::cipher::SealedMut;
use crate::error::Result;
use crate::units::{ChunkNo, KeyTag, SectorMap};

/// A source of sealed chunks: a snapshot, as a volume sees it. Implemented over a repository by the snapshot layer.
pub trait Parent: Send + Sync {
    /// Size of the snapshot's volume when it was taken, bytes. Chunks past it are holes.
    fn size(&self) -> u64;

    /// Which sectors of the chunk are no holes. Reads the tree, fetches no data.
    ///
    /// # Errors
    /// When the tree cannot be read, or a page of it is damaged.
    fn sectors(&self, chunk: ChunkNo) -> Result<SectorMap>;

    /// Whether the chunk has any sector that is not a hole.
    ///
    /// # Errors
    /// As [`Parent::sectors`].
    fn has_sectors(&self, chunk: ChunkNo) -> Result<bool> {
        Ok(!self.sectors(chunk)?.is_empty())
    }

    /// Fetches the whole chunk ([`crate::units::CHUNK`] bytes) into `out`, holes as zeros, its hash checked before the
    /// call returns. Answers the tag of the key that sealed it, or `None` if all of it is a hole.
    ///
    /// # Errors
    /// When the chunk cannot be had or its hash is wrong: then `out` holds nothing to be used.
    fn fetch(&self, chunk: ChunkNo, out: SealedMut<'_>) -> Result<Option<KeyTag>>;

    /// First chunk at or after `from` that has sectors; `None`: none up to the end.
    ///
    /// # Errors
    /// As [`Parent::has_sectors`].
    fn next_with_sectors(&self, from: ChunkNo) -> Result<Option<ChunkNo>>;
}
