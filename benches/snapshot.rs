//! A full snapshot of a volume into a local repository, beside hashing the same bytes and beside writing and syncing them.

#[path = "support/settings.rs"]
mod settings;
mod support;

use coffer::cipher::Sealed;
use coffer::env::{Env, SystemRng};
use coffer::error::Result;
use coffer::secret::Secret;
use coffer::snapshot::SeedSigner;
use coffer::snapshot::repository::{Author, Repository};
use coffer::snapshot::writer::{SnapshotSpec, SnapshotWriter};
use coffer::units::{ChunkNo, DataKeyId, InstallationId, LineageId, SnapshotId};
use coffer::volume::pending::{Begin, ChunkSink};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::io::Write;
use std::sync::Arc;
use support::SIZE;

struct Sink(SnapshotWriter);

impl ChunkSink for Sink {
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        self.0.put_chunk(chunk, sealed, key)
    }
    fn next_in_base(&self, _from: ChunkNo) -> Result<Option<ChunkNo>> {
        Ok(None)
    }
}

fn snapshot(c: &mut Criterion) {
    let dir = support::scratch();
    let volume = support::volume(dir.path());
    let env = Env::system();
    let root = dir.path().join("repository");
    let id = Repository::init(&root, &env).expect("a repository");
    let signer = SeedSigner::new(&Secret::random()).expect("a signing key");
    let author = Author { installation: InstallationId::draw(&SystemRng), signer: Arc::new(signer) };
    let repository = Repository::open(&root, env.clone(), Some(author)).expect("a repository");
    let data_key = volume.with_header(|h| h.identity().key_epochs[0].data_key_id);
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
            let snapshot = SnapshotId::draw(&SystemRng);
            let lineage = LineageId::draw(&SystemRng); // a lineage of its own: nothing is there yet
            let spec = SnapshotSpec {
                id: snapshot,
                lineage,
                volume: None,
                size: SIZE,
                time: env.now(),
                point: 1,
                map_generation: 1,
                base: None,
                keys: vec![(data_key, vec![0; 200])],
                source: None,
            };
            let sink = Arc::new(Sink(repository.begin(spec).expect("begun")));
            let begin = Begin { snapshot, time: 0, repository: id, base: None, sink: sink.clone() };
            let pending = volume.begin_snapshot(begin).expect("a point in time");
            volume.copy_pending(&pending, |_| true).expect("copied");
            sink.0.finish().expect("finished");
            volume.drop_snapshot(snapshot).expect("forgotten");
            std::fs::remove_dir_all(root.join(lineage.to_string())).expect("removed");
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = snapshot }
criterion_main!(benches);
