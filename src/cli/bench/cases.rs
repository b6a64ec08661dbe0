//! The workloads of a comparison.

use super::load::{Op, Pattern, Until};
use std::time::Duration;

/// Bytes at the end of each volume that the TRIM case fills and trims; nothing else touches them.
pub(super) const TRIM_ROOM: u64 = 64 << 20;

/// A foreign client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    In,
    Out,
}

/// One workload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// Our own load generator: this many connections, each with `depth` requests in flight.
    Load {
        op: Op,
        random: bool,
        block: usize,
        depth: usize,
        connections: usize,
    },
    /// fio's nbd engine: `--rw`, block, depth.
    Fio {
        rw: &'static str,
        block: usize,
        depth: usize,
    },
    Nbdcopy(Copy),
    /// Connect, read 4 KiB, disconnect.
    Connect,
    /// Sequential, once, 1 MiB at depth 4, with the server's file not in the page cache.
    Cold,
}

/// A workload and its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) work: Work,
    /// Whether means and bars over all cases include it.
    pub(super) counts: bool,
    /// Measured only for coffer.
    pub(super) ours_alone: bool,
}

const fn case(name: &'static str, work: Work) -> Case {
    Case { name, work, counts: true, ours_alone: false }
}

const fn load(name: &'static str, op: Op, random: bool, block: usize, depth: usize, connections: usize) -> Case {
    case(name, Work::Load { op, random, block, depth, connections })
}

const fn fio(name: &'static str, rw: &'static str, block: usize, depth: usize) -> Case {
    case(name, Work::Fio { rw, block, depth })
}

/// The case that is also measured for the disk itself.
pub(super) const COLD: &str = "cold read 1m d4";
const K4: usize = 4 << 10;
const K128: usize = 128 << 10;
const M1: usize = 1 << 20;

pub(super) const CASES: [Case; 34] = [
    load("read 1m d4", Op::Read, false, M1, 4, 1),
    load("write 1m d4", Op::Write, false, M1, 4, 1),
    load("read 128k d16", Op::Read, false, K128, 16, 1),
    load("write 128k d16", Op::Write, false, K128, 16, 1),
    load("read 1m d4 c4", Op::Read, false, M1, 4, 4),
    load("write 1m d4 c4", Op::Write, false, M1, 4, 4),
    load("read 128k d16 c4", Op::Read, false, K128, 16, 4),
    load("write 128k d16 c4", Op::Write, false, K128, 16, 4),
    load("randread 4k d1", Op::Read, true, K4, 1, 1),
    load("randread 4k d32", Op::Read, true, K4, 32, 1),
    load("randread 4k d8 c4", Op::Read, true, K4, 8, 4),
    load("randwrite 4k d1", Op::Write, true, K4, 1, 1),
    load("randwrite 4k d32", Op::Write, true, K4, 32, 1),
    load("randwrite 4k d8 c4", Op::Write, true, K4, 8, 4),
    load("mixed 4k d1", Op::Mixed, true, K4, 1, 1),
    load("mixed 4k d32", Op::Mixed, true, K4, 32, 1),
    load("mixed 4k d8 c4", Op::Mixed, true, K4, 8, 4),
    load("write+flush 4k d1", Op::WriteFlush, true, K4, 1, 1),
    load("write+flush 4k d16", Op::WriteFlush, true, K4, 16, 1),
    load("fua 4k d1", Op::Fua, true, K4, 1, 1),
    load("fua 4k d16", Op::Fua, true, K4, 16, 1),
    load("trim 64k d4", Op::Trim, false, 64 << 10, 4, 1),
    case("nbdcopy in", Work::Nbdcopy(Copy::In)),
    case("nbdcopy out", Work::Nbdcopy(Copy::Out)),
    fio("fio read 128k d16", "read", K128, 16),
    fio("fio write 128k d16", "write", K128, 16),
    fio("fio randread 4k d32", "randread", K4, 32),
    fio("fio randwrite 4k d32", "randwrite", K4, 32),
    case("connect", Work::Connect),
    // What two connections do with two cores, and memory under deep queues.
    Case { counts: false, ..load("randread 4k d32 c2", Op::Read, true, K4, 32, 2) },
    // One large request at a time: whether a server uses idle processors.
    Case { counts: false, ..load("read 4m d1", Op::Read, false, 4 * M1, 1, 1) },
    Case { counts: false, ..load("write 4m d1", Op::Write, false, 4 * M1, 1, 1) },
    Case { counts: false, ours_alone: true, ..load("read 1m d256 c8", Op::Read, false, M1, 256, 8) },
    Case { counts: false, ..case(COLD, Work::Cold) },
];

impl Work {
    /// The pattern for our load generator, if the case uses it.
    pub(super) fn pattern(self, size: u64, time: Duration) -> Option<(Pattern, usize)> {
        let (op, random, block, depth, connections) = match self {
            Self::Load { op, random, block, depth, connections } => (op, random, block, depth, connections),
            Self::Cold => (Op::Read, false, M1, 4, 1),
            _ => return None,
        };
        let (start, size, until) = match op {
            Op::Trim => (size - TRIM_ROOM, TRIM_ROOM, Until::Count(TRIM_ROOM / block as u64)),
            _ if matches!(self, Self::Cold) => (0, size - TRIM_ROOM, Until::Count((size - TRIM_ROOM) / M1 as u64)),
            _ => (0, size - TRIM_ROOM, Until::Time(time)),
        };
        Some((Pattern { op, random, block, depth, start, size, until }, connections))
    }

    /// Bytes of one request. `None` where a request has no size.
    pub(super) const fn block(self) -> Option<usize> {
        match self {
            Self::Load { block, .. } | Self::Fio { block, .. } => Some(block),
            Self::Nbdcopy(_) => Some(256 << 10),
            Self::Cold => Some(M1),
            Self::Connect => None,
        }
    }

    /// Whether it is better described by bytes per second than by requests per second.
    pub(super) const fn is_bulk(self) -> bool {
        match self {
            Self::Load { op: Op::Trim, .. } => false,
            Self::Connect => false,
            _ => matches!(self.block(), Some(block) if block >= 64 << 10),
        }
    }
}
