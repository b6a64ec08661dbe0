//! Hydration's memory: where no chunk is absent any more, and which chunks could not be fetched.

use crate::error::{Error, Kind};
use crate::units::{ChunkNo, VolumeId};
use std::collections::BTreeMap;

/// Maximum number of runs remembered; when it is reached, all are forgotten.
const RUNS: usize = 4096;
/// Maximum number of chunks remembered: beyond it, the whole snapshot is probably gone.
const MAX_CHUNKS: usize = 65_536;
/// Upper bound of the rounds between two attempts at a chunk.
const LONGEST_WAIT: u64 = 64;
/// Chunks that an error names.
const NAMED: usize = 16;

/// Runs of chunks of which none is absent: present, or without data in the parent. A chunk never becomes absent again.
#[derive(Default)]
pub(super) struct Present(BTreeMap<u64, u64>);

impl Present {
    /// Returns the end of the run that contains `chunk`.
    pub(super) fn end_of(&self, chunk: u64) -> Option<u64> {
        self.0.range(..=chunk).next_back().map(|(_, end)| *end).filter(|end| *end > chunk)
    }

    /// Adds the run from `start` to `end`, exclusive.
    pub(super) fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // Merge the runs that it overlaps or touches.
        while let Some((s, e)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= start) {
            (start, end) = (start.min(s), end.max(e));
            self.0.remove(&s);
        }
        if self.0.len() >= RUNS {
            self.0.clear();
        }
        self.0.insert(start, end);
    }
}

struct Tries {
    failed: u32,
    /// The first round in which to try again.
    next: u64,
    why: String,
}

/// Chunks that could not be fetched, and when to retry each: after one round, two, four, up to [`LONGEST_WAIT`].
#[derive(Default)]
pub(super) struct Missing {
    round: u64,
    chunks: BTreeMap<u64, Tries>,
    /// Reasons logged already: a lost pack takes hundreds of chunks with it.
    told: Vec<Reason>,
}

/// A cause of loss that many chunks can share: the error's kind and errno.
type Reason = (Kind, Option<i32>);

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn contains(&self, chunk: ChunkNo) -> bool {
        // Beyond the limit the rest stays absent, until an attempt succeeds.
        self.chunks.contains_key(&chunk.0) || self.chunks.len() >= MAX_CHUNKS
    }

    pub(super) fn all(&self) -> Vec<ChunkNo> {
        self.chunks.keys().map(|c| ChunkNo(*c)).collect()
    }

    /// Records a failed attempt.
    pub(super) fn add(&mut self, volume: VolumeId, chunk: ChunkNo, why: &Error) {
        if self.is_new(why) {
            let more = "filling continues, and further missing chunks are only counted";
            tracing::error!("{volume} lacks chunk {chunk}: {}; {more}", why.line());
        }
        let round = self.round;
        let tries = self.chunks.entry(chunk.0).or_insert(Tries { failed: 0, next: 0, why: String::new() });
        tries.next = round + (1 << tries.failed.min(6)).min(LONGEST_WAIT);
        tries.failed += 1;
        tries.why = why.line();
    }

    /// Whether no chunk was lost for this reason yet.
    fn is_new(&mut self, why: &Error) -> bool {
        let mut cause = std::error::Error::source(why);
        let mut code = None;
        while let Some(err) = cause.filter(|_| code.is_none()) {
            code = err.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            cause = err.source();
        }
        let reason = (why.kind(), code);
        let new = !self.told.contains(&reason);
        if new {
            self.told.push(reason);
        }
        new
    }

    /// Forgets the chunks for which `is_present` holds.
    pub(super) fn forget(&mut self, is_present: impl Fn(ChunkNo) -> bool) {
        self.chunks.retain(|chunk, _| !is_present(ChunkNo(*chunk)));
    }

    /// Begins a round, and returns the chunks to retry in it, at most `most`.
    pub(super) fn due(&mut self, most: usize) -> Vec<ChunkNo> {
        self.round += 1;
        let due = self.chunks.iter().filter(|(_, t)| t.next <= self.round).map(|(c, _)| ChunkNo(*c));
        due.take(most).collect()
    }

    /// Makes the error that describes them.
    pub(super) fn error(&self, volume: VolumeId) -> Error {
        let named: Vec<_> = self.chunks.keys().take(NAMED).map(u64::to_string).collect();
        let more = if self.chunks.len() > NAMED { ", …" } else { "" };
        let why = self.chunks.values().next().map_or("", |t| t.why.as_str());
        Error::new(
            Kind::Integrity,
            format!(
                "{} chunks of {volume} cannot be fetched from its snapshot ({}{more}): {why}",
                self.chunks.len(),
                named.join(", ")
            ),
        )
        .hint("restore the snapshot's repository, or overwrite these chunks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;

    #[test]
    fn runs_that_touch_become_one() {
        let mut present = Present::default();
        present.add(5, 5);
        assert_eq!(present.end_of(5), None);
        present.add(10, 20);
        present.add(30, 40);
        assert_eq!(
            (present.end_of(9), present.end_of(10), present.end_of(19), present.end_of(20)),
            (None, Some(20), Some(20), None)
        );
        present.add(15, 30);
        assert_eq!(present.end_of(10), Some(40));
        present.add(0, 10);
        assert_eq!(present.end_of(0), Some(40));
        present.add(2, u64::MAX);
        assert_eq!(present.end_of(1), Some(u64::MAX));
        assert_eq!(present.0.len(), 1);
    }

    #[test]
    fn the_log_has_each_reason_once() {
        let io = |code| Error::io("read a pack", std::io::Error::from_raw_os_error(code));
        let mut missing = Missing::default();
        let told: Vec<bool> = [io(libc::ENOENT), io(libc::EIO), Error::new(Kind::Integrity, "its hash is wrong")]
            .iter()
            .flat_map(|why| [missing.is_new(why), missing.is_new(why)])
            .collect();
        assert_eq!(told, [true, false, true, false, true, false]);
    }

    #[test]
    fn a_missing_chunk_is_tried_again_less_and_less_often_and_never_given_up() {
        let mut missing = Missing::default();
        let (volume, why) = (VolumeId::draw(&SystemRng), Error::new(Kind::Integrity, "its hash is wrong"));
        missing.add(volume, ChunkNo(7), &why);
        let mut tried = Vec::new();
        for round in 1..=400 {
            for chunk in missing.due(16) {
                tried.push(round);
                missing.add(volume, chunk, &why);
            }
        }
        assert_eq!(tried, [1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]);
        assert!(missing.error(volume).line().contains("(7)"), "{}", missing.error(volume).line());
        missing.forget(|c| c == ChunkNo(7));
        assert!(missing.is_empty());
    }
}
