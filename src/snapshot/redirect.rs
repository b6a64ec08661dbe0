//! Redirects: the new locations of a compacted pack's bodies. Version 1. Integers are little-endian.
//!
//! ```text
//! 0    head 64   magic 8 "COFREDIR" | version u16 = 1 | 0 u16 | count u32 | old pack 16 | BLAKE3 32 (of all, this field zero)
//! 64   count times { offset u32 | length u32 | new pack 16 | new offset u32 | 0 u32 }, 32 bytes, ascending by offset
//! ```
//! Offsets and lengths are those of leaf entries. A redirect always names final locations: a reader follows one, once.

use super::{Folder, arr, damaged, too_new, u16_at, u32_at};
use crate::error::Result;
use crate::units::{Hash32, PackId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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

/// The redirects that this process has read or written, so that it reads each once. Those of its own folder are exact;
/// those of others may have been rewritten.
#[derive(Default)]
pub(super) struct Moved {
    known: HashMap<(Folder, PackId), Arc<Redirect>>,
    /// The number of moves in them.
    moves: usize,
    /// Packs without a redirect in that folder, for a pack that is none of the folder's never gets one.
    never: HashSet<(Folder, PackId)>,
    /// The number of puts that have begun or ended: whoever read a redirect before or during one may have read the old one.
    puts: u64,
}

/// Maximum number of moves to keep (16 MiB), and of packs without a redirect.
const KEPT_MAX: usize = 1 << 19;

impl Moved {
    /// Returns a redirect; `Some(None)`: there is none.
    pub(super) fn get(&self, folder: Folder, old: PackId) -> Option<Option<Arc<Redirect>>> {
        match self.known.get(&(folder, old)) {
            Some(known) => Some(Some(known.clone())),
            None => self.never.contains(&(folder, old)).then_some(None),
        }
    }

    /// Returns the number of puts.
    pub(super) const fn puts(&self) -> u64 {
        self.puts
    }

    /// Keeps a redirect that was read when the number of puts was `puts`.
    pub(super) fn keep_read(&mut self, folder: Folder, redirect: &Arc<Redirect>, puts: u64) {
        if self.puts == puts {
            self.keep(folder, redirect);
        }
    }

    /// Begins or ends a put. Nothing is known of the pack until it has succeeded.
    pub(super) fn put(&mut self, folder: Folder, old: PackId, done: Option<&Arc<Redirect>>) {
        self.puts += 1;
        self.forget(folder, old);
        done.iter().for_each(|redirect| self.keep(folder, redirect));
    }

    fn keep(&mut self, folder: Folder, redirect: &Arc<Redirect>) {
        if self.moves + redirect.moves.len() > KEPT_MAX {
            (self.known, self.moves) = Default::default();
        }
        self.forget(folder, redirect.old);
        self.moves += redirect.moves.len();
        self.known.insert((folder, redirect.old), redirect.clone());
    }

    /// Leaves packs of which it is not known that they have no redirect in that folder.
    pub(super) fn retain_unknown(&self, folder: Folder, packs: &mut HashSet<PackId>) {
        packs.retain(|pack| !self.never.contains(&(folder, *pack)));
    }

    /// Keeps that a pack of another folder has no redirect in this one.
    pub(super) fn keep_none(&mut self, folder: Folder, old: PackId) {
        if self.never.len() >= KEPT_MAX {
            self.never.clear();
        }
        self.never.insert((folder, old));
    }

    fn forget(&mut self, folder: Folder, old: PackId) {
        self.never.remove(&(folder, old));
        if let Some(was) = self.known.remove(&(folder, old)) {
            self.moves = self.moves.saturating_sub(was.moves.len());
        }
    }
}

#[cfg(test)]
#[path = "redirect_tests.rs"]
mod tests;
