//! Redirects: the new locations of a compacted pack's bodies. Version 1. Integers are little-endian.
//!
//! ```text
//! 0    head 64   magic 8 "COFREDIR" | version u16 = 1 | 0 u16 | count u32 | old pack 16 | BLAKE3 32 (of all, this field zero)
//! 64   count times { offset u32 | length u32 | new pack 16 | new offset u32 | 0 u32 }, 32 bytes, ascending by offset
//! ```
//! Offsets and lengths are those of leaf entries. A redirect always names final locations: a reader follows one, once.

use super::{arr, damaged, too_new, u16_at, u32_at};
use crate::error::Result;
use crate::units::{Hash32, PackId};

const MAGIC: &[u8; 8] = b"COFREDIR";
const VERSION: u16 = 1;
const HEAD: usize = 64;
const MOVE: usize = 32;
/// Maximum number of bodies of one pack that a redirect may name.
pub const MOVES_MAX: usize = 1 << 20;
/// Size limit of a redirect, in bytes.
pub const REDIRECT_MAX: usize = HEAD + MOVES_MAX * MOVE;

/// The move of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Offset of its head, as the leaf entry has it.
    pub offset: u32,
    /// Total size of its sectors, in bytes.
    pub length: u32,
    /// The pack that contains it now.
    pub pack: PackId,
    /// Offset of its head in that pack.
    pub new_offset: u32,
}

/// The new locations of the bodies of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The pack that was compacted.
    pub old: PackId,
    /// The moves of its bodies, ascending by offset.
    pub moves: Vec<Move>,
}

impl Redirect {
    /// Sorts the moves and encodes the redirect.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut moves = self.moves.clone();
        moves.sort_by_key(|m| m.offset);
        let mut out = Vec::with_capacity(HEAD + moves.len() * MOVE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(moves.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.old.0);
        out.resize(HEAD, 0);
        for m in &moves {
            out.extend_from_slice(&m.offset.to_le_bytes());
            out.extend_from_slice(&m.length.to_le_bytes());
            out.extend_from_slice(&m.pack.0);
            out.extend_from_slice(&m.new_offset.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        let hash = Hash32::of(&out);
        out[32..64].copy_from_slice(&hash.0);
        out
    }

    /// Parses and checks the redirect of pack `old`.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::error::Kind::Integrity) naming what is wrong;
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for a newer version.
    pub fn parse(object: &str, old: PackId, bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEAD || bytes.len() > REDIRECT_MAX || bytes[..8] != *MAGIC {
            return Err(damaged(object, 0, "not a redirect: wrong magic or length"));
        }
        let mut plain = bytes.to_vec();
        plain[32..64].fill(0);
        if Hash32::of(&plain).0 != bytes[32..64] {
            return Err(damaged(object, 32, "the checksum is wrong"));
        }
        if u16_at(bytes, 8) != VERSION {
            return Err(too_new(object, format_args!("redirect version {}", u16_at(bytes, 8))));
        }
        if bytes.len() != HEAD + (u32_at(bytes, 12) as usize).saturating_mul(MOVE) || bytes[16..32] != old.0 {
            return Err(damaged(object, 12, format_args!("count or pack id do not match pack {old}")));
        }
        let moves: Vec<Move> = bytes[HEAD..].chunks_exact(MOVE).map(decode).collect();
        match moves.windows(2).position(|w| w[0].offset >= w[1].offset) {
            Some(i) => Err(damaged(object, HEAD + (i + 1) * MOVE, "the moves are not in order")),
            None => Ok(Self { old, moves }),
        }
    }

    /// Returns the move of the body at `offset` with `length` bytes of sectors.
    #[must_use]
    pub fn find(&self, offset: u32, length: u32) -> Option<Move> {
        let i = self.moves.binary_search_by_key(&offset, |m| m.offset).ok()?;
        self.moves.get(i).copied().filter(|m| m.length == length)
    }
}

fn decode(raw: &[u8]) -> Move {
    Move { offset: u32_at(raw, 0), length: u32_at(raw, 4), pack: PackId(arr(raw, 8)), new_offset: u32_at(raw, 24) }
}

#[cfg(test)]
#[path = "redirect_tests.rs"]
mod tests;
