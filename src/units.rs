//! Units as types: a sector number cannot be mistaken for a chunk number, nor a key epoch for an epoch.
//!
//! Sizes are in bytes unless the name says otherwise. Identifiers have AWS's form: `vol-` and `snap-` with 17
//! hexadecimal digits (EC2 long resource ids), UUIDs for keys.

use crate::env::Rng;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes in a sector: the XTS data unit.
pub const SECTOR: usize = 4096;
/// Bytes in a subsector: the unit of the hole rule, and the smallest unit that is sealed independently.
pub const SUBSECTOR: usize = 512;
/// Bytes in a chunk: the unit of change tracking, snapshots and hydration (the block of the EBS direct APIs).
pub const CHUNK: usize = 512 * 1024;
/// Sectors in a chunk.
pub const SECTORS_PER_CHUNK: usize = CHUNK / SECTOR;
/// Size limit of a volume, in bytes (64 TiB, as EBS io2 Block Express).
pub const MAX_VOLUME: u64 = 64 << 40;
/// One GiB: the range that one bit of the write-intent map covers.
pub const GIB: u64 = 1 << 30;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A sector number, counted from the first byte of the volume's data. The XTS tweak is derived from it and nothing
    /// else.
    SectorNo(u64)
}
number! {
    /// A chunk number (512 KiB each), counted from the first byte of the volume's data.
    ChunkNo(u64)
}
number! {
    /// A volume's point-in-time counter. A new volume is at 1; 0 is before the first.
    Epoch(u32)
}
number! {
    /// The number of the data key that sealed a chunk. Local to one header, never reused.
    KeyEpoch(u8)
}

impl ChunkNo {
    /// Returns the byte offset of the chunk in the volume's data.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 * CHUNK as u64
    }
    /// Returns the chunk that contains byte `offset`.
    #[must_use]
    pub const fn of(offset: u64) -> Self {
        Self(offset / CHUNK as u64)
    }
    /// Returns the chunk's first sector.
    #[must_use]
    pub const fn first_sector(self) -> SectorNo {
        SectorNo(self.0 * SECTORS_PER_CHUNK as u64)
    }
}

/// Returns the number of chunks in a volume of `size` bytes.
#[must_use]
pub const fn chunks_in(size: u64) -> u64 {
    size.div_ceil(CHUNK as u64)
}

/// The sectors of a chunk that hold data: bit `i` of byte `i / 8` is sector `i` of the chunk (LSB first). A clear bit
/// is a hole: the sector reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SectorMap(pub [u8; 16]);

impl SectorMap {
    /// Sets sector `i` (0 to 127).
    pub const fn set(&mut self, i: usize) {
        self.0[i / 8] |= 1 << (i % 8);
    }
    /// Whether sector `i` (0 to 127) holds data.
    #[must_use]
    pub const fn has(&self, i: usize) -> bool {
        self.0[i / 8] & (1 << (i % 8)) != 0
    }
    /// Whether sector `i` (0 to 127) holds data, and the length in sectors of the run of equal state that starts there.
    #[must_use]
    pub fn run(&self, i: usize) -> (bool, usize) {
        let full = self.has(i);
        (full, (i..self.0.len() * 8).take_while(|j| self.has(*j) == full).count())
    }
    /// Returns the number of sectors that hold data.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|b| b.count_ones() as usize).sum()
    }
    /// Whether every sector is a hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Debug for SectorMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SectorMap({} of 128)", self.count())
    }
}

macro_rules! resource_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);
        impl $name {
            /// The prefix of every id of this type.
            pub const PREFIX: &'static str = $prefix;
            /// Draws a new id: 68 random bits, shown as 17 hexadecimal digits.
            #[must_use]
            pub fn draw(rng: &dyn Rng) -> Self {
                let mut raw = [0u8; 16];
                rng.fill(&mut raw);
                Self(u128::from_le_bytes(raw) & ((1 << 68) - 1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:017x}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                let digits = s.strip_prefix($prefix).filter(|d| {
                    d.len() == 17 && d.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                });
                digits.and_then(|d| u128::from_str_radix(d, 16).ok()).map(Self).ok_or_else(|| {
                    let what = format!(concat!("{:?} is not an id of the form ", $prefix, "<17 hex digits>"), s);
                    Error::new(Kind::Usage, what).hint(concat!("see `coffer ", $noun, " list`"))
                })
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                s.parse()
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

resource_id! {
    /// A volume's id: `vol-` and 17 hexadecimal digits.
    VolumeId, "vol-", "volume"
}
resource_id! {
    /// A snapshot's id: `snap-` and 17 hexadecimal digits.
    SnapshotId, "snap-", "snapshot"
}

resource_id! {
    /// The id of a schedule of snapshots: `sched-` and 17 hexadecimal digits.
    ScheduleId, "sched-", "snapshot schedule"
}

resource_id! {
    /// The id of snapshots that were taken together: `snapgroup-` and 17 hexadecimal digits.
    GroupId, "snapgroup-", "group of snapshots"
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);
        impl $name {
            /// Draws a new id: 128 random bits.
            #[must_use]
            pub fn draw(rng: &dyn Rng) -> Self {
                let mut raw = [0u8; 16];
                rng.fill(&mut raw);
                Self(raw)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                let mut raw = [0u8; 16];
                hex::decode_to_slice(s, &mut raw).map_err(|e| {
                    Error::new(Kind::Usage, format!("{s:?} is not 32 hexadecimal digits")).because(e)
                })?;
                Ok(Self(raw))
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes_id! {
    /// A lineage: a volume, its snapshots, and every volume made from those under the same data keys.
    LineageId
}
bytes_id! {
    /// One coffer data directory.
    InstallationId
}
bytes_id! {
    /// First 16 bytes of HKDF-SHA-256(data key, info "coffer/data-key-id/v1"): detects a wrong unwrapped key before
    /// anything is decrypted.
    DataKeyId
}
bytes_id! {
    /// A pack of chunk bodies in a repository.
    PackId
}
bytes_id! {
    /// A volume's spill, for as long as any of its snapshots is pending.
    SpillId
}
bytes_id! {
    /// A snapshot repository.
    RepositoryId
}

impl DataKeyId {
    /// Returns the key tag for this data key in leaves and packs: its first four bytes, unique within a lineage.
    #[must_use]
    pub const fn tag(&self) -> KeyTag {
        KeyTag([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

/// First 4 bytes of a [`DataKeyId`]; zeros where a chunk has no sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyTag(pub [u8; 4]);

/// A 32-byte BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
    /// Whether the hash is all zeros, which means "absent" in trees.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash32 {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let mut raw = [0u8; 32];
        hex::decode_to_slice(s, &mut raw)
            .map_err(|e| Error::new(Kind::Usage, format!("{s:?} is not 64 hexadecimal digits")).because(e))?;
        Ok(Self(raw))
    }
}

impl Serialize for Hash32 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A size in bytes, written as `20GiB`, `512MiB`, `1TiB`, `4096`, or decimal as `20GB`.
///
/// `GiB` and `G` are powers of 1024, `GB` is a power of 1000. Fractions and bits (`Gb`) are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteLen(pub u64);

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];

impl FromStr for ByteLen {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = |next: &str| Error::new(Kind::Usage, format!("{s:?} is not a size")).hint(next);
        let usual = "use a whole number of bytes, KiB, MiB, GiB, TiB (powers of 1024), kB, MB, GB or TB (powers of 1000), as 20GiB";
        let split = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (digits, unit) = s.split_at(split);
        if unit.starts_with(['.', ',']) && !digits.is_empty() {
            return Err(bad("use a whole number of a smaller unit, as 1536MiB for 1.5 GiB"));
        }
        let number: u64 = digits.parse().map_err(|_| bad(usual))?;
        let unit = unit.trim();
        let binary = UNITS.iter().find(|(n, _)| n.eq_ignore_ascii_case(unit) || n[..1].eq_ignore_ascii_case(unit));
        let decimal = DECIMAL.iter().find(|(n, _)| n.eq_ignore_ascii_case(unit));
        let factor = match (unit, binary, decimal) {
            ("" | "B", ..) => 1,
            (_, Some((_, factor)), _) => *factor,
            (_, _, Some((name, _))) if unit.ends_with('b') => {
                return Err(bad(&format!("a small b means bits: use {name} or {}iB", &name[..1].to_uppercase())));
            }
            (_, _, Some((_, factor))) => *factor,
            _ => return Err(bad(usual)),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| bad("use a size below 2^64 bytes"))
    }
}

impl ByteLen {
    /// Formats it for a command line: in the largest unit that is exact, without a space.
    #[must_use]
    pub fn argument(self) -> String {
        let unit = UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        unit.map_or_else(|| self.0.to_string(), |(name, factor)| format!("{}{name}", self.0 / factor))
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in UNITS {
            if self.0 >= factor {
                return if self.0.is_multiple_of(factor) {
                    write!(f, "{} {name}", self.0 / factor)
                } else {
                    write!(f, "{:.1} {name}", self.0 as f64 / factor as f64)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Checks a volume's name: 1 to 128 of `[A-Za-z0-9._-]`, the first a letter or digit, and not in the form of an id.
///
/// # Errors
/// [`Kind::Usage`] naming the rule that is violated.
pub fn check_volume_name(name: &str) -> Result<()> {
    check_name("volume", name)
}

/// Checks a snapshot's name, by the rule for volumes.
///
/// # Errors
/// [`Kind::Usage`] naming the rule that is violated.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    check_name("snapshot", name)
}

/// Checks the name of a thing of this kind, under the rule for volume names.
///
/// # Errors
/// [`Kind::Usage`], with the rule that is broken.
pub fn check_name(kind: &str, name: &str) -> Result<()> {
    let rule = if name.is_empty() || name.len() > 128 {
        "must have 1 to 128 characters"
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        "may contain only A-Z a-z 0-9 . _ -"
    } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
        "must start with a letter or a digit"
    } else if name.starts_with(VolumeId::PREFIX) || name.starts_with(SnapshotId::PREFIX) {
        "must not look like an id (vol-…, snap-…)"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Usage, format!("{kind} name {name:?} {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_show() {
        let of = |s: &str| s.parse::<ByteLen>().map(|b| b.0).ok();
        assert_eq!(of("20GiB"), Some(20 << 30));
        assert_eq!(of("20G"), Some(20 << 30));
        assert_eq!(of("4096"), Some(4096));
        assert_eq!(of("1 tib"), Some(1 << 40));
        for bad in ["", "GiB", "1.5GiB", "20XB", "99999999999TiB", "-1"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        for (text, bytes) in
            [("10GB", 10_000_000_000), ("1 kB", 1000), ("1KB", 1000), ("5MB", 5_000_000), ("2TB", 2 * 10u64.pow(12))]
        {
            assert_eq!(of(text), Some(bytes), "{text}");
        }
        for (bad, words) in [
            ("10Gb", "use GB or GiB"),
            ("10mb", "a small b means bits"),
            ("1.5GiB", "1536MiB"),
            ("0,5GB", "whole number"),
            ("20XB", "kB, MB, GB or TB"),
            ("1e9", "powers of 1024"),
            ("99999999TB", "2^64"),
        ] {
            let said = bad.parse::<ByteLen>().unwrap_err().line();
            assert!(said.contains("is not a size") && said.contains(words), "{bad}: {said}");
        }
        assert_eq!(ByteLen(20 << 30).to_string(), "20 GiB");
        assert_eq!(ByteLen(1536).to_string(), "1.5 KiB");
        for (bytes, text) in [(20 << 30, "20GiB"), (1536, "1536"), (3 << 19, "1536KiB"), (0, "0")] {
            assert_eq!((ByteLen(bytes).argument().as_str(), of(text)), (text, Some(bytes)));
        }
    }

    #[test]
    fn ids_are_of_the_aws_form_and_round_trip() {
        let id = VolumeId::draw(&crate::env::SystemRng);
        let text = id.to_string();
        assert_eq!(text.len(), "vol-".len() + 17);
        assert_eq!(text.parse::<VolumeId>().unwrap(), id);
        for bad in ["vol-", "vol-0123", "snap-0123456789abcdef0", "vol-0123456789ABCDEF0", "vol-0123456789abcdeg0"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["web", "a", "0x", "a.b_c-d"] {
            assert!(check_volume_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a?b", "vol-1", "snap-1", "é", &"x".repeat(129)] {
            assert!(check_volume_name(bad).is_err(), "{bad}");
        }
    }
}
