//! What the benches share: a volume in a file of a scratch directory, under a key of its own.

#![allow(dead_code)]

use coffer::cipher::wrap::{BackingKey, EncryptionContext, KeyId};
use coffer::env::{Env, SystemRng};
use coffer::store::file::FileStore;
use coffer::units::{KeyEpoch, LineageId, VolumeId};
use coffer::volume::lifecycle::{NewVolume, Opening, file_size, format};
use coffer::volume::{Effort, Volume};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SIZE: u64 = 256 << 20;

/// A scratch directory on a real disk (not /tmp, which may be memory).
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a scratch directory")
}

/// A volume of [`SIZE`] bytes, every byte written once.
pub fn volume(dir: &std::path::Path) -> Volume {
    let backing = BackingKey::generate(KeyId::draw(&SystemRng));
    let (_, key) = backing.new_data_key(&EncryptionContext::new(), &SystemRng).expect("a data key");
    let keys = [(KeyEpoch(0), key)];
    let path = dir.join("volume");
    let mut store = FileStore::create_unnamed(&path, file_size(SIZE), false).expect("a file");
    let new = NewVolume {
        id: VolumeId::draw(&SystemRng),
        size: SIZE,
        lineage: LineageId::draw(&SystemRng),
        keys: Vec::new(),
        unwrapped: &keys,
        context: BTreeMap::new(),
        parent: None,
    };
    format(&store, &Env::system(), new).expect("a header");
    store.publish(&path).expect("a name");
    let opening = Opening { writable: true, parent: None, write_failed: false };
    let volume = Volume::open(Arc::new(store), Env::system(), opening, "bench").expect("a volume");
    volume.unlock(&keys).expect("its key");
    for at in (0..SIZE).step_by(1 << 20) {
        let _done = volume.write(at, &mut vec![(at >> 20) as u8; 1 << 20], Effort::Full).expect("a write");
    }
    volume
}
