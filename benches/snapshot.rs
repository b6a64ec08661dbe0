//! A full snapshot of a volume into a local repository, compared with hashing the same bytes and with writing and
//! syncing them.

#[path = "support/settings.rs"]
mod settings;
mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::io::Write;
use support::SIZE;

fn snapshot(c: &mut Criterion) {
    let dir = support::scratch();
    let volume = support::volume(dir.path());
    let root = dir.path().join("repository");
    let repository = support::repository(&root);
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE));
    let bytes = vec![5u8; 32 << 20];
    group.bench_function("floor: BLAKE3", |b| {
        b.iter(|| {
            for _ in 0..SIZE / (32 << 20) {
                std::hint::black_box(blake3::hash(&bytes));
            }
        });
    });
    group.bench_function("floor: write and sync", |b| {
        b.iter(|| {
            let path = dir.path().join("plain");
            let mut file = std::fs::File::create(&path).expect("a file");
            (0..SIZE / (32 << 20)).for_each(|_| file.write_all(&bytes).expect("written"));
            file.sync_all().expect("synced");
            drop(file);
            std::fs::remove_file(&path).expect("removed");
        });
    });
    group.bench_function("full snapshot", |b| {
        b.iter(|| {
            let (lineage, _) = support::snapshot(&volume, &repository);
            std::fs::remove_dir_all(root.join(lineage.to_string())).expect("removed");
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = snapshot }
criterion_main!(benches);
