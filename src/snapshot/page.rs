//! Pages of a snapshot's tree: 256 entries each, named by BLAKE3. Version 1. Integers are little-endian.
//!
//! ```text
//! 0   head 32    magic 8 "COFPAGE1" | version u16 = 1 | level u8 | 0 u8 | count u32 | index u64 | zeros 8
//! 32  count entries. Level 0 (leaf), 80 bytes, one a chunk:
//!       hash 32 (BLAKE3 of the stored sectors) | pack 16 | offset u32 | length u32 | sector map 16 | key tag 4 |
//!       flags u16 = 0 | 0 u16.   All zeros: the chunk is a hole.
//!     Level 1 and up (interior), 32 bytes, one a child: the child page's BLAKE3. All zeros: all holes.
//! ```
//! Page `index` of a level covers entries `index * 256 ..`. Entries past *count* are zeros and the last stored one is
//! not, so a tree has exactly one encoding, and a page does not change when its volume grows. A page without entries
//! has no object. Depth is the least `d >= 1` with 256^d >= chunks; the root is page 0 of level d - 1.

use super::pack::{HEAD, stored_len};
use super::{arr, damaged, too_new, u16_at, u32_at, u64_at};
use crate::error::Result;
use crate::units::{Hash32, KeyTag, PackId, SectorMap, chunks_in};
use bytes::Bytes;

/// Entries in a page.
pub const FAN: usize = 256;
/// Bytes in a leaf entry.
pub const LEAF: usize = 80;
/// Bytes in an interior entry.
pub const INTERIOR: usize = 32;
/// Bytes in a page's head.
pub const PAGE_HEAD: usize = 32;
/// Size limit of a page, in bytes.
pub const PAGE_MAX: usize = PAGE_HEAD + FAN * LEAF;
/// Maximum depth of a tree: 256^4 chunks are 2 PiB, more than a volume may have.
pub const DEPTH_MAX: u8 = 4;

const MAGIC: &[u8; 8] = b"COFPAGE1";
const VERSION: u16 = 1;

/// Returns the number of levels in the tree of a volume of `size` bytes.
#[must_use]
pub const fn depth_of(size: u64) -> u8 {
    let (mut depth, mut reach) = (1, FAN as u64);
    while reach < chunks_in(size) && depth < DEPTH_MAX {
        depth += 1;
        reach *= FAN as u64;
    }
    depth
}

/// The entry of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeafEntry {
    /// BLAKE3 of the stored sectors.
    pub hash: Hash32,
    /// The pack that contains them (as written; a redirect may replace it).
    pub pack: [u8; 16],
    /// Offset of the body's head in the pack.
    pub offset: u32,
    /// Total size of the stored sectors, in bytes.
    pub length: u32,
    /// The sectors that are stored.
    pub map: SectorMap,
    /// The tag of the key that sealed them.
    pub tag: KeyTag,
}

impl LeafEntry {
    /// Whether the chunk is a hole.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.map.is_empty()
    }
    /// Returns the pack's id.
    #[must_use]
    pub const fn pack(&self) -> PackId {
        PackId(self.pack)
    }
    /// Whether both describe the same sealed bytes under the same key, wherever they are stored.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.hash == other.hash && self.map == other.map && self.tag == other.tag
    }
    pub(super) fn encode(&self) -> [u8; LEAF] {
        let mut out = [0; LEAF];
        out[..32].copy_from_slice(&self.hash.0);
        out[32..48].copy_from_slice(&self.pack);
        out[48..52].copy_from_slice(&self.offset.to_le_bytes());
        out[52..56].copy_from_slice(&self.length.to_le_bytes());
        out[56..72].copy_from_slice(&self.map.0);
        out[72..76].copy_from_slice(&self.tag.0);
        out
    }
    pub(super) fn decode(bytes: &[u8], at: usize) -> Self {
        Self {
            hash: Hash32(arr(bytes, at)),
            pack: arr(bytes, at + 32),
            offset: u32_at(bytes, at + 48),
            length: u32_at(bytes, at + 52),
            map: SectorMap(arr(bytes, at + 56)),
            tag: KeyTag(arr(bytes, at + 72)),
        }
    }
}

/// A parsed and verified page.
#[derive(Debug, Clone)]
pub struct Page {
    level: u8,
    index: u64,
    bytes: Bytes,
}

impl Page {
    /// Parses a page and verifies that its hash is `name` and that it is page `index` of `level`.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::error::Kind::Integrity), naming what is wrong and where;
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for a newer version or unknown flags.
    pub fn parse(object: &str, bytes: Bytes, name: Hash32, level: u8, index: u64) -> Result<Self> {
        if Hash32::of(&bytes) != name {
            return Err(damaged(object, 0, format_args!("the page's hash is not {name}")));
        }
        if bytes.len() < PAGE_HEAD || bytes.len() > PAGE_MAX || bytes[..8] != *MAGIC {
            return Err(damaged(object, 0, "not a page: wrong magic or length"));
        }
        if u16_at(&bytes, 8) != VERSION {
            return Err(too_new(object, format_args!("page version {}", u16_at(&bytes, 8))));
        }
        if bytes[10] != level || u64_at(&bytes, 16) != index || bytes[11] != 0 || u64_at(&bytes, 24) != 0 {
            return Err(damaged(object, 10, format_args!("not page {index} of level {level}")));
        }
        let page = Self { level, index, bytes };
        let count = u32_at(&page.bytes, 12) as usize;
        if count == 0 || count > FAN || page.bytes.len() != PAGE_HEAD + count * page.stride() {
            return Err(damaged(object, 12, format_args!("a count of {count} does not match the page's length")));
        }
        page.check(object, count)?;
        Ok(page)
    }

    const fn stride(&self) -> usize {
        if self.level == 0 { LEAF } else { INTERIOR }
    }

    fn check(&self, object: &str, count: usize) -> Result<()> {
        if self.bytes[PAGE_HEAD + (count - 1) * self.stride()..].iter().all(|b| *b == 0) {
            return Err(damaged(object, 12, "the last entry is empty"));
        }
        for i in (0..count).filter(|_| self.level == 0) {
            let (entry, at) = (self.leaf(i), PAGE_HEAD + i * LEAF);
            if u16_at(&self.bytes, at + 76) != 0 {
                return Err(too_new(object, format_args!("flags {:#x} of entry {i}", u16_at(&self.bytes, at + 76))));
            }
            let reach = (entry.offset as usize).checked_add(HEAD + entry.length as usize);
            let fits = entry.length == stored_len(entry.map)
                && reach.is_some_and(|n| n <= u32::MAX as usize)
                && (!entry.is_hole() || entry == LeafEntry::default())
                && u16_at(&self.bytes, at + 78) == 0;
            if !fits {
                return Err(damaged(object, at, format_args!("entry {i} is inconsistent")));
            }
        }
        Ok(())
    }

    /// Returns its level; 0: a leaf.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }
    /// Returns its index in its level.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }
    /// Returns entry `i` of a leaf page; a hole past the count.
    #[must_use]
    pub fn leaf(&self, i: usize) -> LeafEntry {
        LeafEntry::decode(&self.bytes, PAGE_HEAD + i * LEAF)
    }
    /// Returns entry `i` of an interior page; zeros past the count.
    #[must_use]
    pub fn child(&self, i: usize) -> Hash32 {
        Hash32(arr(&self.bytes, PAGE_HEAD + i * INTERIOR))
    }
}

/// Encodes leaf page `index`; `None` if all entries are holes.
#[must_use]
pub fn encode_leaf(index: u64, entries: &[LeafEntry]) -> Option<Vec<u8>> {
    let count = entries.iter().rposition(|e| !e.is_hole())? + 1;
    Some(encode(0, index, count, entries.iter().map(LeafEntry::encode)))
}

/// Encodes interior page `index` of `level`; `None` if all children are zeros.
#[must_use]
pub fn encode_interior(level: u8, index: u64, children: &[Hash32]) -> Option<Vec<u8>> {
    let count = children.iter().rposition(|h| !h.is_zero())? + 1;
    Some(encode(level, index, count, children.iter().map(|h| h.0)))
}

fn encode<const N: usize>(level: u8, index: u64, count: usize, entries: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_HEAD + count * N);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[level, 0]);
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for entry in entries.take(count) {
        out.extend_from_slice(&entry);
    }
    out
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
