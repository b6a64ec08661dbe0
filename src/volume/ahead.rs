//! Which chunks will be read next: recognizes reads in order, of several readers at the same time.
//!
//! Two steps from a chunk to the next begin a *stream*; two chunks are then expected, and with each further step twice as
//! many, up to [`AHEAD`] for all streams together. Reads anywhere else expect nothing.

use crate::units::ChunkNo;
use parking_lot::Mutex;
use std::ops::Range;

/// Most chunks that are expected and were not read: 8 MiB.
pub const AHEAD: usize = 16;
/// Readers that are told apart.
const STREAMS: usize = 16;
/// Steps from a chunk to the next before anything is expected.
const STEPS: u32 = 2;
/// How far a request may be behind another one of the same reader, in chunks: requests overtake each other.
const BEHIND: u64 = 4;
/// A stream without a read for so many reads of others has ended.
const FORGOTTEN: u64 = 256;

/// A reader, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// The chunk behind the last one that was read.
    next: u64,
    /// The chunk behind the last one that was expected.
    end: u64,
    steps: u32,
    /// When it was used last.
    used: u64,
}

impl Stream {
    const fn is_running(&self, now: u64) -> bool {
        self.steps >= STEPS && self.used + FORGOTTEN > now
    }
}

/// The readers of a volume or snapshot.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<Readers>);

#[derive(Debug, Default)]
struct Readers {
    streams: Vec<Stream>,
    reads: u64,
}

impl Ahead {
    /// Notes a read of a chunk. Returns the chunks that it newly makes likely to be read next.
    pub fn read(&self, chunk: ChunkNo) -> impl Iterator<Item = ChunkNo> + use<> {
        self.0.lock().read(chunk.0).map(ChunkNo)
    }
}

impl Readers {
    fn read(&mut self, chunk: u64) -> Range<u64> {
        self.reads += 1;
        let now = self.reads;
        let is_of = |s: &&mut Stream| chunk + BEHIND >= s.next && chunk <= s.next.max(s.end);
        let Some(stream) = self.streams.iter_mut().filter(is_of).min_by_key(|s| s.next.abs_diff(chunk)) else {
            self.begin(chunk);
            return 0..0;
        };
        stream.used = now;
        if chunk < stream.next {
            return 0..0;
        }
        stream.next = chunk + 1;
        stream.steps += 1;
        let (next, steps, end) = (stream.next, stream.steps, stream.end.max(stream.next));
        if steps < STEPS {
            return 0..0;
        }
        let running = self.streams.iter().filter(|s| s.is_running(now)).count();
        let window = (AHEAD / running.max(1)).min(2 << (steps - STEPS).min(8)) as u64;
        let until = end.max(next + window);
        if let Some(stream) = self.streams.iter_mut().find(|s| s.used == now) {
            stream.end = until;
        }
        end..until
    }

    /// Begins a stream, in the place of another one if there are too many.
    fn begin(&mut self, chunk: u64) {
        let now = self.reads;
        // Reads anywhere must not drive out those in order.
        let worth = |i: &usize| self.streams.get(*i).map(|s| (s.is_running(now), s.used));
        if self.streams.len() >= STREAMS
            && let Some(least) = (0..self.streams.len()).min_by_key(worth)
        {
            self.streams.swap_remove(least);
        }
        self.streams.push(Stream { next: chunk + 1, end: 0, steps: 0, used: self.reads });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::testing::Seeded;
    use std::collections::BTreeSet;

    fn expected(ahead: &Ahead, chunk: u64) -> Vec<u64> {
        ahead.read(ChunkNo(chunk)).map(|c| c.0).collect()
    }

    #[test]
    fn reads_in_order_expect_more_and_more_and_nothing_twice() {
        let ahead = Ahead::default();
        assert_eq!(expected(&ahead, 10), [0u64; 0]);
        assert_eq!(expected(&ahead, 10), [0u64; 0], "the second half of a chunk");
        assert_eq!(expected(&ahead, 11), [0u64; 0]);
        assert_eq!(expected(&ahead, 12), [13, 14]);
        assert_eq!(expected(&ahead, 12), [0u64; 0]);
        assert_eq!(expected(&ahead, 13), [15, 16, 17]);
        let mut seen: Vec<u64> = (13..18).collect();
        for chunk in 14..200 {
            let more = expected(&ahead, chunk);
            assert!(more.iter().all(|c| *c > chunk && *c <= chunk + AHEAD as u64), "{chunk}: {more:?}");
            seen.extend(more);
        }
        assert_eq!(seen, (13..200 + AHEAD as u64).collect::<Vec<_>>());
    }

    #[test]
    fn requests_that_overtake_each_other_are_of_one_reader() {
        let ahead = Ahead::default();
        let all: Vec<u64> = [0, 1, 2, 4, 3, 5, 7, 6, 8, 10, 9, 11].iter().flat_map(|c| expected(&ahead, *c)).collect();
        assert_eq!(all, (3..=*all.last().unwrap()).collect::<Vec<_>>());
        assert!(all.len() >= AHEAD);
    }

    /// By seeds: readers anywhere expect nothing, whatever a reader in order does among them, who always finds the next
    /// chunk expected.
    #[test]
    fn reads_anywhere_expect_nothing() {
        for seed in 1..=50u64 {
            println!("seed {seed}");
            let (mut rng, ahead, mut soon, mut next) = (Seeded(seed), Ahead::default(), BTreeSet::new(), 0);
            for _ in 0..2000 {
                if rng.below(3) == 0 {
                    assert!(next < 4 || soon.contains(&next), "chunk {next} was not expected");
                    soon.extend(expected(&ahead, next));
                    next += 1;
                } else {
                    // Far apart: each is a multiple of 100.
                    let chunk = 1_000_000 + rng.below(1_000_000) * 100;
                    assert_eq!(expected(&ahead, chunk), [0u64; 0], "chunk {chunk}");
                }
            }
        }
    }

    #[test]
    fn several_readers_share_what_is_expected() {
        let ahead = Ahead::default();
        let mut soon: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 4];
        for step in 0..400 {
            for (reader, soon) in soon.iter_mut().enumerate() {
                let chunk = reader as u64 * 10_000 + step;
                let was_expected = soon.remove(&chunk);
                assert!(was_expected || step < 4, "reader {reader}: chunk {chunk} was not expected");
                soon.extend(expected(&ahead, chunk));
            }
            let all: usize = soon.iter().map(BTreeSet::len).sum();
            assert!(step < 100 || all <= AHEAD, "{all} are expected");
        }
        // The last one that still reads gets the room of the others.
        for step in 400..1000 {
            soon[0].remove(&step);
            soon[0].extend(expected(&ahead, step));
        }
        assert_eq!(soon[0].len(), AHEAD);
    }
}
