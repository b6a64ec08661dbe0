//! A volume's reads and writes in one thread, compared with those of a plain file.

#[path = "support/settings.rs"]
mod settings;
mod support;

use coffer::volume::Blocking;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::os::unix::fs::FileExt;
use support::SIZE;

fn volume(c: &mut Criterion) {
    let dir = support::scratch();
    let volume = support::volume(dir.path());
    let plain = std::fs::File::options().read(true).write(true).create_new(true).open(dir.path().join("plain"));
    let plain = plain.expect("a plain file");
    for at in (0..SIZE).step_by(1 << 20) {
        plain.write_all_at(&vec![7; 1 << 20], at).expect("a write");
    }
    let mut group = c.benchmark_group("volume");
    for size in [4usize << 10, 128 << 10] {
        let mut buf = vec![3u8; size];
        let mut n = 0u64;
        let mut next = move || {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (n >> 20) % (SIZE / size as u64) * size as u64
        };
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor: pread", size), |b| {
            b.iter(|| plain.read_exact_at(&mut buf, next()).expect("a read"));
        });
        group.bench_function(BenchmarkId::new("read", size), |b| {
            b.iter(|| volume.read(next(), &mut buf, Blocking::Allowed).expect("a read"));
        });
        group.bench_function(BenchmarkId::new("floor: pwrite", size), |b| {
            b.iter(|| plain.write_all_at(&buf, next()).expect("a write"));
        });
        group.bench_function(BenchmarkId::new("write", size), |b| {
            b.iter(|| volume.write(next(), &mut buf, Blocking::Allowed).expect("a write"));
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = volume }
criterion_main!(benches);
