//! Packs: about 32 MiB of chunk bodies each, self-describing. Version 1. Integers are little-endian.
//!
//! ```text
//! 0    header 64   magic 8 "COFPACK1" | version u16 = 1 | flags u16 = 0 | pack id 16 | lineage 16 | zeros 16 | CRC32C u32
//!                  (the CRC is over the 64 bytes with its own field zero)
//! 64   bodies      one after the other, without gaps:
//!                    head 64: chunk u64 | sector map 16 | key tag 4 | length u32 | BLAKE3 32 of the sectors
//!                    length bytes: the sectors that are not holes, ascending, sealed, 4096 bytes each
//! F    footer      count times { the body's head 64 | its offset u32 (of the head, in the pack) }
//!                  CRC32C u32 over those
//!      tail 16     count u32 | F u32 | magic 8 "COFPEND1"
//! ```
//! Bit `i % 8` of byte `i / 8` of a sector map: sector `i` of the chunk is stored. A leaf entry's *offset* is that of
//! the body's head; its *length* is that of only the sectors.

use super::{arr, damaged, too_new, u16_at, u32_at, u64_at};
use crate::error::{Error, Kind, Result};
use crate::units::{CHUNK, ChunkNo, Hash32, KeyTag, LineageId, PackId, SECTOR, SECTORS_PER_CHUNK, SectorMap};
use std::collections::HashMap;

/// Bytes in a pack's header.
pub const HEADER: usize = 64;
/// Bytes in a body's head.
pub const HEAD: usize = 64;
/// Size in bytes at which a pack is closed.
pub const PACK_TARGET: usize = 32 << 20;
/// Size limit of a pack that a reader accepts, in bytes.
pub const PACK_MAX: usize = 256 << 20;

const MAGIC: &[u8; 8] = b"COFPACK1";
const END: &[u8; 8] = b"COFPEND1";
const VERSION: u16 = 1;
const FOOT: usize = HEAD + 4;
const TAIL: usize = 16;
/// Bytes in a pack besides its bodies and their footer entries.
pub(super) const BARE: u64 = (HEADER + 4 + TAIL) as u64;
static ZERO_SECTOR: [u8; SECTOR] = [0; SECTOR];

/// Returns the sector map of a chunk's sealed bytes: a sector whose bytes are all zero is a hole (docs/format.md,
/// section 1).
#[must_use]
pub fn map_of(sealed: &[u8]) -> SectorMap {
    let mut map = SectorMap::default();
    for (i, sector) in sealed.chunks(SECTOR).take(SECTORS_PER_CHUNK).enumerate() {
        if *sector != ZERO_SECTOR[..sector.len()] {
            map.set(i);
        }
    }
    map
}

/// Returns the total size in bytes of the sectors in `map`.
#[must_use]
pub fn stored_len(map: SectorMap) -> u32 {
    (map.count() * SECTOR) as u32
}

/// Returns what a body with `length` bytes of sectors adds to the size of a pack, in bytes.
pub(super) const fn weight(length: u32) -> u64 {
    length as u64 + (HEAD + FOOT) as u64
}

/// Iterates over the indices, within the chunk, of the sectors in `map`, ascending.
pub fn sectors(map: SectorMap) -> impl Iterator<Item = usize> {
    (0..SECTORS_PER_CHUNK).filter(move |i| map.has(*i))
}

/// Computes the BLAKE3 hash of the sectors of `sealed` in `map`, ascending: a body's and a leaf entry's hash.
#[must_use]
pub fn body_hash(sealed: &[u8], map: SectorMap) -> Hash32 {
    let mut hasher = blake3::Hasher::new();
    for i in sectors(map) {
        hasher.update(sealed.get(i * SECTOR..(i + 1) * SECTOR).unwrap_or_default());
    }
    Hash32(*hasher.finalize().as_bytes())
}

/// The head of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHead {
    /// The chunk.
    pub chunk: ChunkNo,
    /// The sectors that are stored.
    pub map: SectorMap,
    /// The tag of the key that sealed them.
    pub tag: KeyTag,
    /// Bytes of sectors that follow.
    pub length: u32,
    /// BLAKE3 of those sectors.
    pub hash: Hash32,
}

impl BodyHead {
    fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..8].copy_from_slice(&self.chunk.0.to_le_bytes());
        out[8..24].copy_from_slice(&self.map.0);
        out[24..28].copy_from_slice(&self.tag.0);
        out[28..32].copy_from_slice(&self.length.to_le_bytes());
        out[32..].copy_from_slice(&self.hash.0);
        out
    }
    fn decode(bytes: &[u8], at: usize) -> Self {
        Self {
            chunk: ChunkNo(u64_at(bytes, at)),
            map: SectorMap(arr(bytes, at + 8)),
            tag: KeyTag(arr(bytes, at + 24)),
            length: u32_at(bytes, at + 28),
            hash: Hash32(arr(bytes, at + 32)),
        }
    }
}

/// A pack that is being filled, in memory.
#[derive(Debug)]
pub struct PackBuilder {
    id: PackId,
    bytes: Vec<u8>,
    footer: Vec<u8>,
    count: u32,
}

impl PackBuilder {
    /// Makes an empty pack.
    #[must_use]
    pub fn new(id: PackId, lineage: LineageId) -> Self {
        let mut bytes = Vec::with_capacity(PACK_TARGET + CHUNK + HEAD);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&lineage.0);
        bytes.resize(HEADER, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        Self { id, bytes, footer: Vec::new(), count: 0 }
    }
    /// Continues a pack from its bytes, which end with its last body, and its bodies' heads with their offsets.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is another pack. The bodies are checked when the complete pack is parsed.
    pub fn restore(
        object: &str,
        (id, lineage): (PackId, LineageId),
        bytes: Vec<u8>,
        bodies: impl Iterator<Item = (BodyHead, u32)>,
    ) -> Result<Self> {
        let mut pack = Self::new(id, lineage);
        if bytes.get(..HEADER) != Some(&pack.bytes[..]) {
            return Err(damaged(object, 0, format_args!("it is not pack {id}")));
        }
        for (head, offset) in bodies {
            pack.footer.extend_from_slice(&head.encode());
            pack.footer.extend_from_slice(&offset.to_le_bytes());
            pack.count += 1;
        }
        pack.bytes.truncate(0);
        pack.bytes.extend_from_slice(&bytes);
        Ok(pack)
    }
    /// Returns its id.
    #[must_use]
    pub const fn id(&self) -> PackId {
        self.id
    }
    /// Returns the bytes so far: the header and all bodies.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Takes back the last append, which was at `offset`.
    pub fn take_back(&mut self, offset: u32) {
        self.bytes.truncate((offset as usize).max(HEADER));
        self.footer.truncate(self.footer.len().saturating_sub(FOOT));
        self.count = self.count.saturating_sub(1);
    }
    /// Whether nothing has been appended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Whether it has reached [`PACK_TARGET`].
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET
    }
    /// Appends those sectors of `sealed` (one chunk) that are in `map`. Returns the offset of the body's head.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the pack would grow past [`PACK_MAX`].
    pub fn append(&mut self, chunk: ChunkNo, map: SectorMap, tag: KeyTag, hash: Hash32, sealed: &[u8]) -> Result<u32> {
        let offset = self.room_for(chunk)?;
        let head = BodyHead { chunk, map, tag, length: stored_len(map), hash }.encode();
        self.bytes.extend_from_slice(&head);
        for i in sectors(map) {
            self.bytes.extend_from_slice(sealed.get(i * SECTOR..(i + 1) * SECTOR).unwrap_or(&ZERO_SECTOR));
        }
        self.note(&head, offset);
        Ok(offset)
    }
    /// Appends a body that [`parse_body`] has checked. Returns the offset of its head.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the pack would grow past [`PACK_MAX`].
    pub fn copy(&mut self, head: &BodyHead, sectors: &[u8]) -> Result<u32> {
        let offset = self.room_for(head.chunk)?;
        let head = head.encode();
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(sectors);
        self.note(&head, offset);
        Ok(offset)
    }
    /// Returns the offset of the next body.
    fn room_for(&self, chunk: ChunkNo) -> Result<u32> {
        let offset = u32::try_from(self.bytes.len()).ok().filter(|o| (*o as usize) < PACK_MAX - 2 * CHUNK);
        offset.ok_or_else(|| {
            Error::new(Kind::Usage, format!("append chunk {chunk} to pack {}: the pack is full", self.id))
        })
    }
    fn note(&mut self, head: &[u8; HEAD], offset: u32) {
        self.footer.extend_from_slice(head);
        self.footer.extend_from_slice(&offset.to_le_bytes());
        self.count += 1;
    }
    /// Returns footer and tail, which follow the bodies.
    #[must_use]
    pub fn footer(&self) -> Vec<u8> {
        let mut footer = self.footer.clone();
        footer.extend_from_slice(&crc32c::crc32c(&self.footer).to_le_bytes());
        footer.extend_from_slice(&self.count.to_le_bytes());
        footer.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        footer.extend_from_slice(END);
        footer
    }
    /// Appends footer and tail, and returns the pack's bytes.
    #[must_use]
    pub fn seal(mut self) -> Vec<u8> {
        let footer = self.footer();
        self.bytes.extend_from_slice(&footer);
        self.bytes
    }
}

/// The index of a whole pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    /// Its id.
    pub id: PackId,
    /// Its lineage.
    pub lineage: LineageId,
    /// Each body's head and the head's offset.
    pub bodies: Vec<(BodyHead, u32)>,
}

/// What a pack's header and footer say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackFooter {
    pub(super) id: PackId,
    pub(super) lineage: LineageId,
    /// The length of each body's sectors, by the offset of its head.
    pub(super) bodies: HashMap<u32, u32>,
}

impl From<PackIndex> for PackFooter {
    fn from(index: PackIndex) -> Self {
        let bodies = index.bodies.iter().map(|(head, offset)| (*offset, head.length)).collect();
        Self { id: index.id, lineage: index.lineage, bodies }
    }
}

/// Reads and checks header, footer and tail of a pack of `size` bytes, but no body.
///
/// # Errors
/// As [`parse_pack`]; the error of `read`.
pub(super) fn parse_footer(
    object: &str,
    size: u64,
    read: &mut dyn FnMut(std::ops::Range<u64>) -> Result<bytes::Bytes>,
) -> Result<PackFooter> {
    let tail_at = size.saturating_sub(TAIL as u64);
    if size < BARE || size > PACK_MAX as u64 {
        return Err(damaged(object, 0, format_args!("{size} bytes are no pack")));
    }
    let (id, lineage) = parse_head(object, &read(0..HEADER as u64)?)?;
    let tail = read(tail_at..size)?;
    let (count, at) = parse_tail(object, &tail, tail_at as usize)?;
    let footer = read(at as u64..tail_at)?;
    let footer = check_footer(object, &footer, at)?;
    let mut next = HEADER;
    let mut bodies = HashMap::with_capacity(count);
    for (i, foot) in footer.chunks_exact(FOOT).enumerate() {
        let head = BodyHead::decode(foot, 0);
        if u32_at(foot, HEAD) as usize != next || head.length != stored_len(head.map) || head.map.is_empty() {
            return Err(damaged(object, at + i * FOOT, format_args!("footer entry {i} is inconsistent")));
        }
        bodies.insert(next as u32, head.length);
        next += HEAD + head.length as usize;
    }
    if next != at {
        return Err(damaged(object, next, "bytes between the last body and the footer"));
    }
    Ok(PackFooter { id, lineage, bodies })
}

/// Returns the number of bodies and the offset of the footer, which ends before the tail at `tail_at`.
fn parse_tail(object: &str, tail: &[u8], tail_at: usize) -> Result<(usize, usize)> {
    if tail.len() != TAIL || tail[8..] != *END {
        return Err(damaged(object, tail_at + 8, "the pack's end mark is missing"));
    }
    let (count, at) = (u32_at(tail, 0) as usize, u32_at(tail, 4) as usize);
    let end = count.checked_mul(FOOT).and_then(|n| n.checked_add(at));
    if end.is_none_or(|end| end + 4 != tail_at || at < HEADER) {
        return Err(damaged(object, tail_at, "count and footer offset do not match the pack's length"));
    }
    Ok((count, at))
}

/// Checks the footer at `at`, checksum included, and returns its entries.
fn check_footer<'a>(object: &str, footer: &'a [u8], at: usize) -> Result<&'a [u8]> {
    let (entries, crc) = footer.split_at(footer.len().saturating_sub(4));
    if crc32c::crc32c(entries) != u32_at(crc, 0) {
        return Err(damaged(object, at, "the footer's checksum is wrong"));
    }
    Ok(entries)
}

/// Parses a body (head and sectors) and checks head, lengths and hash. `object` and `offset` are for errors.
///
/// # Errors
/// [`Kind::Integrity`] naming what is wrong.
pub fn parse_body<'a>(object: &str, offset: usize, bytes: &'a [u8]) -> Result<(BodyHead, &'a [u8])> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(damaged(
            object,
            offset,
            format_args!("{} bytes left, fewer than a body's head ({HEAD})", bytes.len()),
        ));
    };
    let sectors = rest.get(..u32_at(head, 28) as usize).unwrap_or(rest);
    Ok((check_body(object, offset, head, sectors)?, sectors))
}

/// Checks a body's head, lengths, and the hash of its sectors.
///
/// # Errors
/// As [`parse_body`].
pub fn check_body(object: &str, offset: usize, head: &[u8; HEAD], sectors: &[u8]) -> Result<BodyHead> {
    let head = BodyHead::decode(head, 0);
    if head.length != stored_len(head.map) || head.map.is_empty() {
        return Err(damaged(object, offset + 28, "the body's length does not match its sector map"));
    }
    let (want, there) = (head.length as usize, sectors.len());
    if want != there {
        return Err(damaged(
            object,
            offset,
            format_args!("the body's sectors need {want} bytes, only {there} are present"),
        ));
    }
    if Hash32::of(sectors) != head.hash {
        return Err(damaged(
            object,
            offset + HEAD,
            format_args!("the hash of chunk {}'s sectors is wrong", head.chunk),
        ));
    }
    Ok(head)
}

/// Parses and checks a whole pack: header, every body and its hash, footer, tail.
///
/// # Errors
/// [`Kind::Integrity`] naming the first error; [`Kind::Unsupported`] for a newer version.
pub fn parse_pack(object: &str, bytes: &[u8]) -> Result<PackIndex> {
    let (id, lineage) = parse_header(object, bytes)?;
    let tail = bytes.len() - TAIL;
    let (count, at) = parse_tail(object, &bytes[tail..], tail)?;
    let footer = check_footer(object, &bytes[at..tail], at)?;
    let mut bodies = Vec::with_capacity(count);
    let mut next = HEADER;
    for (i, foot) in footer.chunks_exact(FOOT).enumerate() {
        let (head, _body) = parse_body(object, next, &bytes[next.min(at)..at])?;
        if u32_at(foot, HEAD) as usize != next || BodyHead::decode(foot, 0) != head {
            return Err(damaged(
                object,
                at + i * FOOT,
                format_args!("footer entry {i} differs from the body it names"),
            ));
        }
        bodies.push((head, next as u32));
        next += HEAD + head.length as usize;
    }
    if next != at {
        return Err(damaged(object, next, "bytes between the last body and the footer"));
    }
    Ok(PackIndex { id, lineage, bodies })
}

fn parse_header(object: &str, bytes: &[u8]) -> Result<(PackId, LineageId)> {
    if bytes.len() < HEADER + 4 + TAIL || bytes.len() > PACK_MAX {
        return Err(damaged(object, 0, format_args!("{} bytes are too short for a pack", bytes.len())));
    }
    parse_head(object, bytes)
}

fn parse_head(object: &str, bytes: &[u8]) -> Result<(PackId, LineageId)> {
    if !bytes.starts_with(MAGIC) {
        return Err(damaged(object, 0, "not a pack: wrong magic"));
    }
    let mut header: [u8; HEADER] = arr(bytes, 0);
    header[60..].fill(0);
    if crc32c::crc32c(&header) != u32_at(bytes, 60) {
        return Err(damaged(object, 60, "the header's checksum is wrong"));
    }
    if u16_at(bytes, 8) != VERSION || u16_at(bytes, 10) != 0 {
        return Err(too_new(object, format_args!("pack version {} flags {}", u16_at(bytes, 8), u16_at(bytes, 10))));
    }
    Ok((PackId(arr(bytes, 12)), LineageId(arr(bytes, 28))))
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
