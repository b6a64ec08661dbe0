//! The first read of a volume made from a snapshot, compared with a warm one and with the floor: for each chunk fetch
//! its body from the pack, hash it, write it into a file, open it, and nothing else. Prints ratios from interleaved
//! rounds first.

#[path = "support/settings.rs"]
mod settings;
mod support;

use coffer::cipher::xts::{At, XtsCipher};
use coffer::snapshot::page::LeafEntry;
use coffer::snapshot::reader::SnapshotReader;
use coffer::units::{CHUNK, ChunkNo, InstallationId};
use coffer::volume::format::ParentRef;
use coffer::volume::{Blocking, PIECE, Volume};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::SIZE;

const ROUNDS: usize = 9;
/// Bytes per write, as in a volume's file.
const WRITE_STEP: usize = 32 << 10;
/// A large request. Two concurrent ones need different chunks, unlike two of [`PIECE`].
const LARGE: u64 = 1 << 20;
/// Bytes of a body's head in its pack.
const HEAD: u64 = 64;

/// A snapshot, and what is needed to open and check its chunks.
struct Made {
    dir: PathBuf,
    keys: support::Keys,
    reader: SnapshotReader,
    named: ParentRef,
    /// Each chunk's entry and pack.
    chunks: Vec<(ChunkNo, LeafEntry, PathBuf)>,
    cipher: XtsCipher,
    /// The snapshot's source: every chunk is present.
    warm: Volume,
}

fn made(dir: &Path) -> Made {
    let keys = support::keys();
    let warm = support::volume_of(&dir.join("volume"), &keys, None);
    // No two chunks are alike, and none is a hole.
    for at in (0..SIZE).step_by(1 << 20) {
        let _done = warm.write(at, &mut vec![(at >> 20) as u8; 1 << 20], Blocking::Allowed).expect("a write");
    }
    let root = dir.join("repository");
    let repository = support::repository(&root);
    let (lineage, snapshot) = support::snapshot(&warm, &repository);
    let reader = repository.open_snapshot(lineage, snapshot).expect("a snapshot");
    let folder = reader.located().folder;
    let installation: InstallationId = folder.installation;
    let entry = |n| {
        let entry = reader.tree().entry(ChunkNo(n)).expect("an entry");
        (ChunkNo(n), entry, root.join(folder.path("packs", entry.pack())))
    };
    let chunks: Vec<_> = (0..SIZE / CHUNK as u64).map(entry).collect();
    assert!(chunks.iter().all(|(_, e, _)| e.length as usize == CHUNK), "every sector is stored");
    let named = ParentRef { snapshot, repository: repository.id().expect("an id"), installation, size: SIZE };
    let cipher = XtsCipher::new(&keys[0].1);
    Made { dir: dir.to_owned(), keys, reader, named, chunks, cipher, warm }
}

impl Made {
    /// Makes a file for the floor to write to, as empty as a volume's.
    fn empty_file(&self) -> File {
        let path = self.dir.join("plain");
        let _ = std::fs::remove_file(&path);
        let file = File::options().read(true).write(true).create_new(true).open(path).expect("a plain file");
        file.set_len(SIZE).expect("a length");
        file
    }

    /// Does the floor's work for each chunk; without `to` nothing is written.
    fn floor(&self, threads: usize, to: Option<&File>) {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut buf = vec![0u8; CHUNK];
                    while let Some((no, entry, pack)) = self.chunks.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        let file = File::open(pack).expect("a pack");
                        file.read_exact_at(&mut buf, u64::from(entry.offset) + HEAD).expect("a body");
                        assert!(*blake3::hash(&buf).as_bytes() == entry.hash.0, "chunk {no}");
                        for (i, step) in buf.chunks(WRITE_STEP).enumerate().take_while(|_| to.is_some()) {
                            let at = no.offset() + (i * WRITE_STEP) as u64;
                            to.expect("looked at").write_all_at(step, at).expect("a write");
                        }
                        self.cipher.open_parts(At::new(no.offset()).expect("a part"), black_box(&mut buf));
                    }
                });
            }
        });
    }

    /// Makes a volume from the snapshot, with every chunk absent.
    fn untouched(&self) -> Volume {
        let path = self.dir.join("first");
        let _ = std::fs::remove_file(&path);
        support::volume_of(&path, &self.keys, Some((self.named.clone(), Arc::new(self.reader.clone()))))
    }
}

/// Reads a whole volume in order, the threads taking turns request by request.
fn read(volume: &Volume, threads: usize, request: u64) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buf = vec![0u8; request as usize];
                loop {
                    let at = next.fetch_add(request, Ordering::Relaxed);
                    if at >= SIZE {
                        return;
                    }
                    let _done = volume.read(at, black_box(&mut buf), Blocking::Allowed).expect("a read");
                }
            });
        }
    });
}

/// Reads a whole volume while it is hydrated in the background, as a server does it: 16 chunks, then 50 ms for the
/// clients.
fn read_while_filling(volume: &Volume, threads: usize, request: u64) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) && !volume.hydrate_some(16).expect("filled").done {
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        read(volume, threads, request);
        ended.store(true, Ordering::Relaxed);
        filler.thread().unpark();
    });
}

fn seconds(act: impl FnOnce()) -> f64 {
    let began = Instant::now();
    act();
    began.elapsed().as_secs_f64()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn ratios(made: &Made) {
    println!("GB/s, and over the floor and over a warm read; medians of {ROUNDS} interleaved rounds");
    for (threads, request) in [(1, PIECE), (2, PIECE), (2, LARGE)] {
        let names = ["floor", "floor without writing", "first touch", "first touch, filling", "warm read"];
        let mut rounds: Vec<[f64; 5]> = Vec::new();
        for _ in 0..ROUNDS {
            let (file, first) = (made.empty_file(), made.untouched());
            let floor = seconds(|| made.floor(threads, Some(&file)));
            let no_write = seconds(|| made.floor(threads, None));
            let touch = seconds(|| read(&first, threads, request));
            drop(first);
            let again = made.untouched();
            let filling = seconds(|| read_while_filling(&again, threads, request));
            rounds.push([floor, no_write, touch, filling, seconds(|| read(&made.warm, threads, request))]);
        }
        for (i, name) in names.iter().enumerate() {
            let rate = median(rounds.iter().map(|r| SIZE as f64 / r[i] / 1e9).collect());
            let over = |base: usize| median(rounds.iter().map(|r| r[base] / r[i]).collect());
            println!("{threads} x {:>4} KiB, {name:<22} {rate:>6.2}  {:>5.2} {:>5.2}", request >> 10, over(0), over(4));
        }
    }
}

fn hydration(c: &mut Criterion) {
    let dir = support::scratch();
    let made = made(dir.path());
    ratios(&made);
    let mut group = c.benchmark_group("hydration");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE));
    for threads in [1, 2] {
        group.bench_function(format!("floor: fetch, hash, write, open, {threads} threads"), |b| {
            b.iter_batched(|| made.empty_file(), |file| made.floor(threads, Some(&file)), BatchSize::PerIteration);
        });
        group.bench_function(format!("first touch, {threads} threads"), |b| {
            b.iter_batched(|| made.untouched(), |volume| read(&volume, threads, LARGE), BatchSize::PerIteration);
        });
        group.bench_function(format!("warm read, {threads} threads"), |b| b.iter(|| read(&made.warm, threads, LARGE)));
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = hydration }
criterion_main!(benches);
