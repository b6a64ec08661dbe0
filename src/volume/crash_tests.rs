//! Random work, crashes and snapshots against a model, by seed. `COFFER_SEED=n cargo test crash` repeats one.
//!
//! The model tracks which contents each 512-byte subsector may have after power loss: that of the last flush, or any
//! written since. After SIGKILL it must have the last acknowledged one.

use super::begin::Begin;
use super::testing::*;
use super::*;
use crate::env::SystemRng;
use crate::store::sim::SimStore;
use crate::units::{RepositoryId, SUBSECTOR, SnapshotId};
use std::collections::BTreeMap;

const SIZE: usize = 3 << 20;

struct World {
    disk: SimStore,
    volume: Volume,
    now: Vec<u8>,
    /// Contents that a subsector had since the last flush, oldest first; no entry: only `now`.
    since: BTreeMap<usize, Vec<[u8; SUBSECTOR]>>,
    base: Option<Arc<Chunks>>,
    /// The parent, if the volume was made from a snapshot.
    parent: Option<Arc<Chunks>>,
    pending: Option<(Arc<Pending>, Arc<Chunks>, Vec<u8>)>,
    boot: u32,
    rng: Seeded,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = disk(SIZE as u64);
        let volume = open_on(&disk, "boot-0", None).unwrap();
        Self::of(disk, volume, vec![0; SIZE], None, seed)
    }

    /// A volume made from a snapshot that has data in most chunks.
    fn restored(seed: u64) -> Self {
        let parent = Arc::new(Chunks { size: SIZE as u64, ..Chunks::default() });
        let content: Vec<u8> = (0..SIZE).map(|i| if (i / 70_000) % 5 == 0 { 0 } else { (i / 700) as u8 | 1 }).collect();
        let source = open_on(&disk(SIZE as u64), "boot-0", None).unwrap();
        for (i, run) in content.chunks(70_000).enumerate().filter(|(i, _)| i % 5 != 0) {
            let _done = source.write(i as u64 * 70_000, &mut run.to_vec(), Blocking::Allowed).unwrap();
        }
        let begin = Begin {
            snapshot: SnapshotId::draw(&SystemRng),
            time: 0,
            repository: RepositoryId([1; 16]),
            base: None,
            sink: parent.clone(),
        };
        let pending = source.begin_snapshot(begin).unwrap();
        source.copy_pending(&pending, |_| true).unwrap();
        let disk = volume_tests::restored(&parent, SIZE as u64);
        let volume = open_on(&disk, "boot-0", Some(parent.clone())).unwrap();
        Self::of(disk, volume, content, Some(parent), seed)
    }

    fn of(disk: SimStore, volume: Volume, now: Vec<u8>, parent: Option<Arc<Chunks>>, seed: u64) -> Self {
        let (base, rng) = (parent.clone(), Seeded(seed));
        Self { disk, volume, now, since: BTreeMap::new(), base, parent, pending: None, boot: 0, rng }
    }

    fn span(&mut self) -> (usize, usize) {
        let at = self.rng.below(SIZE as u64 - 1) as usize;
        let most = [600, 9000, 300_000][self.rng.below(3) as usize];
        (at, (1 + self.rng.below(most) as usize).min(SIZE - at))
    }

    fn part(&self, i: usize) -> [u8; SUBSECTOR] {
        self.now[i * SUBSECTOR..(i + 1) * SUBSECTOR].try_into().unwrap()
    }

    /// Remembers the contents of a range's subsectors before a change.
    fn remember(&mut self, at: usize, len: usize) {
        for i in at / SUBSECTOR..(at + len).div_ceil(SUBSECTOR) {
            let old = self.part(i);
            self.since.entry(i).or_default().push(old);
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..50 => {
                let (at, len) = self.span();
                let fill = 1 + self.rng.below(250) as u8;
                let data: Vec<u8> = (0..len).map(|i| fill.wrapping_add((i / 100) as u8)).collect();
                self.remember(at, len);
                let _done = self.volume.write(at as u64, &mut data.clone(), Blocking::Allowed).unwrap();
                self.now[at..at + len].copy_from_slice(&data);
            }
            50..60 => {
                let (at, len) = self.span();
                self.remember(at, len);
                self.volume.write_zeroes(at as u64, len as u64, false).unwrap();
                self.now[at..at + len].fill(0);
            }
            60..67 => self.trim(),
            67..72 => self.look(),
            72..80 => {
                self.volume.flush().unwrap();
                self.since.clear();
            }
            80..86 => self.begin(),
            86..89 => self.finish(),
            89..92 => self.copy_some(),
            92..94 if self.parent.is_some() => {
                let batch = 1 + self.rng.below(3) as usize;
                self.volume.hydrate_some(batch).unwrap();
            }
            92..96 => self.crash(false),
            _ => self.crash(true),
        }
    }

    /// Reads return what was written last, wherever it comes from; without blocking, they may return nothing.
    fn look(&mut self) {
        let (at, len) = self.span();
        let blocking = [Blocking::Never, Blocking::Allowed][self.rng.below(2) as usize];
        let mut seen = vec![0; len];
        let progress = self.volume.read(at as u64, &mut seen, blocking).unwrap();
        assert!(progress == Attempt::Done || blocking == Blocking::Never);
        assert!(progress != Attempt::Done || seen == self.now[at..at + len], "{len} bytes at {at} are others");
    }

    fn trim(&mut self) {
        let (at, len) = self.span();
        self.remember(at, len);
        self.volume.trim(at as u64, len as u64).unwrap();
        let mut seen = vec![0; len];
        let _done = self.volume.read(at as u64, &mut seen, Blocking::Allowed).unwrap();
        for (i, byte) in seen.iter().enumerate() {
            assert!(*byte == 0 || *byte == self.now[at + i], "trimmed bytes are zeros or what they were");
        }
        self.now[at..at + len].copy_from_slice(&seen);
    }

    fn begin(&mut self) {
        if self.pending.is_some() {
            return;
        }
        let base = self.volume.base();
        assert!(base.is_none() || self.base.is_some());
        let sink =
            Arc::new(Chunks { size: SIZE as u64, base: base.as_ref().and(self.base.clone()), ..Chunks::default() });
        let begin = Begin {
            snapshot: SnapshotId::draw(&SystemRng),
            time: 0,
            repository: RepositoryId([1; 16]),
            base,
            sink: sink.clone(),
        };
        let pending = self.volume.begin_snapshot(begin).unwrap();
        self.pending = Some((pending, sink, self.now.clone()));
    }

    fn finish(&mut self) {
        let Some((pending, sink, expect)) = self.pending.take() else { return };
        self.volume.copy_pending(&pending, |_| true).unwrap();
        self.volume.complete_snapshot(pending.record()).unwrap();
        let whole = match &sink.base {
            Some(base) => sink.over(base),
            None => sink.over(&Chunks::default()),
        };
        assert!(open_chunks(&whole, SIZE) == expect, "the snapshot is not its point in time");
        self.base = Some(Arc::new(whole));
    }

    /// Copies part of a snapshot.
    fn copy_some(&mut self) {
        let Some((pending, ..)) = &self.pending else { return };
        let most = 1 + self.rng.below(3);
        match self.volume.copy_pending(pending, |n| n < most) {
            Err(err) if err.kind() == Kind::Interrupted => {}
            other => drop(other.unwrap()),
        }
    }

    /// Continues the pending snapshot after SIGKILL; after power loss it is lost.
    fn resume(&mut self, power: bool) {
        let Some((pending, sink, expect)) = self.pending.take() else { return };
        let id = pending.record().snapshot;
        let Some(again) = self.volume.pending_snapshot(id) else {
            assert!(power, "lost by SIGKILL: {:?}", self.volume.lost_snapshots());
            return self.volume.drop_snapshot(id).unwrap();
        };
        assert!(!power || self.volume.with_header(|h| h.state().clean), "kept over power loss");
        // Sometimes writers come first.
        for _ in 0..self.rng.below(3) {
            let at = self.rng.below(SIZE as u64 - 5000) as usize;
            self.remember(at, 5000);
            let _done = self.volume.write(at as u64, &mut [0xab; 5000], Blocking::Allowed).unwrap();
            self.now[at..at + 5000].fill(0xab);
        }
        let copied: Vec<_> = sink.map.lock().keys().map(|c| ChunkNo(*c)).collect();
        again.attach(sink.clone(), copied);
        self.pending = Some((again, sink, expect));
    }

    fn crash(&mut self, power: bool) {
        let after = if power {
            self.boot += 1;
            let rng = &mut self.rng;
            self.disk.power_loss(|n| rng.below(n as u64) as usize)
        } else {
            self.disk.killed()
        };
        self.disk = after;
        self.volume = open_on(&self.disk, &format!("boot-{}", self.boot), self.parent.clone().map(|p| p as _)).unwrap();
        let mut seen = vec![0; SIZE];
        let _done = self.volume.read(0, &mut seen, Blocking::Allowed).unwrap();
        for i in 0..SIZE / SUBSECTOR {
            let part: [u8; SUBSECTOR] = seen[i * SUBSECTOR..(i + 1) * SUBSECTOR].try_into().unwrap();
            let older = power && self.since.get(&i).is_some_and(|all| all.contains(&part));
            assert!(part == self.part(i) || older, "part {i} has neither its last content nor an allowed older one");
        }
        self.now = seen;
        if power {
            // What is on the disk now is durable; what was allowed before no longer is.
            self.since.clear();
        }
        self.resume(power);
    }
}

fn by_seeds(make: impl Fn(u64) -> World) {
    let one = std::env::var("COFFER_SEED").ok().and_then(|s| s.parse().ok());
    let seeds: Vec<u64> = one.map_or_else(|| (1..=24).collect(), |s| vec![s]);
    for seed in seeds {
        println!("seed {seed}");
        let mut world = make(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..120 {
            world.step();
        }
    }
}

#[test]
fn random_work_crashes_and_snapshots_agree_with_the_model() {
    by_seeds(World::new);
}

#[test]
fn the_same_while_a_volume_is_filled_from_its_snapshot() {
    by_seeds(World::restored);
}

#[test]
fn a_clean_close_is_believed_and_power_loss_is_compared() {
    let disk = disk(SIZE as u64);
    let v = open_on(&disk, "boot-1", None).unwrap();
    let _done = v.write(0, &mut [1; 4096], Blocking::Allowed).unwrap();
    assert_eq!(*v.untrusted.lock(), Untrusted::No);
    v.close().unwrap();
    assert_eq!(*open_on(&disk.killed(), "boot-2", None).unwrap().untrusted.lock(), Untrusted::No);
    let v = open_on(&disk, "boot-2", None).unwrap();
    let _done = v.write(0, &mut [1; 4096], Blocking::Allowed).unwrap();
    drop(v);
    assert_eq!(*open_on(&disk.killed(), "boot-2", None).unwrap().untrusted.lock(), Untrusted::No);
    assert_eq!(*open_on(&disk.power_loss(|_| 0), "boot-3", None).unwrap().untrusted.lock(), Untrusted::Intent);
}
