//! The pieces that a request is cut into.

use super::blocking::PIECE;
use crate::units::ChunkNo;

/// A run of bytes in one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) chunk: ChunkNo,
    /// Offset in the volume, in bytes.
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// Cuts a range into pieces, each inside one chunk and at most [`PIECE`] bytes.
pub(super) fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let next = ((at / PIECE + 1) * PIECE).min(end);
            let piece = Piece { chunk: ChunkNo::of(at), offset: at, len: (next - at) as usize };
            at = next;
            piece
        })
    })
}
