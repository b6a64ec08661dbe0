//! Shared by the benchmarks: a volume in a file of a scratch directory, under a key of its own, and a snapshot of it.

#![allow(dead_code)]

use coffer::cipher::wrap::{BackingKey, EncryptionContext, KeyId, WrappingKey};
use coffer::cipher::{DataKey, Sealed, Unwrapped};
use coffer::env::{Env, SystemRng};
use coffer::error::Result;
use coffer::secret::Secret;
use coffer::snapshot::SeedSigner;
use coffer::snapshot::repository::{Author, Repository};
use coffer::snapshot::writer::{SnapshotSpec, SnapshotWriter};
use coffer::store::file::{FileStore, Folder};
use coffer::units::{ChunkNo, DataKeyId, InstallationId, KeyEpoch, LineageId, SnapshotId, VolumeId};
use coffer::volume::begin::Begin;
use coffer::volume::format::ParentRef;
use coffer::volume::lifecycle::{NewVolume, Opening, file_size, format};
use coffer::volume::parent::Parent;
use coffer::volume::pending::ChunkSink;
use coffer::volume::{Blocking, Volume};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const SIZE: u64 = 256 << 20;

/// The data key of a volume.
pub type Keys = [(KeyEpoch, Unwrapped<DataKey>); 1];

/// A scratch directory on a real disk (not /tmp, which may be memory).
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a scratch directory")
}

/// Generates a data key.
pub fn keys() -> Keys {
    let backing: &dyn WrappingKey = &BackingKey::generate(KeyId::draw(&SystemRng));
    let (_, key) = backing.new_data_key(&EncryptionContext::new(), &SystemRng).expect("a data key");
    [(KeyEpoch(0), key)]
}

/// Makes a volume of [`SIZE`] bytes, every byte written once.
pub fn volume(dir: &Path) -> Volume {
    let volume = volume_of(&dir.join("volume"), &keys(), None);
    for at in (0..SIZE).step_by(1 << 20) {
        let _done = volume.write(at, &mut vec![(at >> 20) as u8; 1 << 20], Blocking::Allowed).expect("a write");
    }
    volume
}

/// Makes a volume of [`SIZE`] bytes in a new file: empty, or to be hydrated from a snapshot.
pub fn volume_of(path: &Path, keys: &Keys, parent: Option<(ParentRef, Arc<dyn Parent>)>) -> Volume {
    let mut store = FileStore::create_unnamed(path, file_size(SIZE), false).expect("a file");
    let (named, parent) = parent.unzip();
    let new = NewVolume {
        id: VolumeId::draw(&SystemRng),
        size: SIZE,
        lineage: LineageId::draw(&SystemRng),
        keys: Vec::new(),
        unwrapped: keys,
        context: BTreeMap::new(),
        parent: named,
    };
    format(&store, &Env::system(), new).expect("a header");
    store.publish(path).expect("a name");
    let spills = Arc::new(Folder::new(path.parent().expect("a folder")));
    let opening = Opening { writable: true, parent, write_failed: false, spills };
    let volume = Volume::open(Arc::new(store), Env::system(), opening, "bench").expect("a volume");
    volume.unlock(keys).expect("its key");
    volume
}

/// Makes a repository in a directory.
pub fn repository(root: &Path) -> Repository {
    let env = Env::system();
    Repository::init(root, &env).expect("a repository");
    let signer = SeedSigner::new(&Secret::random()).expect("a signing key");
    let author = Author { installation: InstallationId::draw(&SystemRng), signer: Arc::new(signer) };
    Repository::open(root, env, Some(author)).expect("a repository")
}

struct Sink(SnapshotWriter);

impl ChunkSink for Sink {
    fn put(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        self.0.put_chunk(chunk, sealed, key)
    }
    fn next_in_base(&self, _from: ChunkNo) -> Result<Option<ChunkNo>> {
        Ok(None)
    }
}

/// Takes a full snapshot of a volume, in a lineage of its own: nothing is there yet.
pub fn snapshot(volume: &Volume, repository: &Repository) -> (LineageId, SnapshotId) {
    let (id, lineage) = (SnapshotId::draw(&SystemRng), LineageId::draw(&SystemRng));
    let data_key = volume.with_header(|h| h.identity().key_epochs[0].data_key_id);
    let spec = SnapshotSpec {
        id,
        lineage,
        volume: None,
        size: SIZE,
        time: Env::system().now(),
        point: 1,
        map_generation: 1,
        base: None,
        keys: vec![(data_key, vec![0; 200])],
        source: None,
    };
    let sink = Arc::new(Sink(repository.begin(spec).expect("begun")));
    let begin =
        Begin { snapshot: id, time: 0, repository: repository.id().expect("an id"), base: None, sink: sink.clone() };
    let pending = volume.begin_snapshot(begin).expect("a point in time");
    volume.copy_pending(&pending, |_| true).expect("copied");
    sink.0.finish().expect("finished");
    volume.drop_snapshot(id).expect("forgotten");
    (lineage, id)
}
