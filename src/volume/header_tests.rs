//! What the loss of a sector of a header slot costs, at each point in a volume's life.

use super::super::testing::*;
use super::super::*;
use super::*;
use crate::store::sim::SimStore;
use crate::units::{CHUNK, SnapshotId, chunks_in};
use std::collections::HashMap;

const SIZE: usize = 8 * CHUNK;
const SECTORS: u64 = (SLOT / 512) as u64;

fn write(v: &Volume, chunk: u64, fill: u8) {
    let mut data = vec![fill; 4096];
    assert_eq!(v.write(chunk * CHUNK as u64, &mut data, Blocking::Allowed).unwrap(), Attempt::Done);
}

/// Reads the bytes that this test writes: the first 4 KiB of each chunk.
fn heads(v: &Volume) -> Vec<u8> {
    (0..chunks_in(v.size())).flat_map(|c| read(v, c * CHUNK as u64, 4096)).collect()
}

/// The same from a snapshot.
fn heads_of(chunks: &Chunks, count: u64) -> Vec<u8> {
    use crate::cipher::xts::{At, XtsCipher};
    let cipher = XtsCipher::new(&keys(1)[0].1);
    let mut out = vec![0; count as usize * 4096];
    for (no, (sealed, _)) in chunks.map.lock().iter() {
        let head = &mut out[*no as usize * 4096..][..4096];
        head.copy_from_slice(&sealed[..4096]);
        cipher.open_parts(At::new(no * CHUNK as u64).unwrap(), head);
    }
    out
}

/// A disk as it was after some step, and the contents of the volume then.
struct Moment {
    what: &'static str,
    disk: SimStore,
    content: Vec<u8>,
}

/// A volume's life with all kinds of header writes, and the completed snapshots.
#[derive(Default)]
struct Life {
    moments: Vec<Moment>,
    whole: HashMap<SnapshotId, Arc<Chunks>>,
    /// What was acknowledged last for a chunk, and what was tried last.
    held: HashMap<u64, [u8; 2]>,
}

impl Life {
    fn note(&mut self, what: &'static str, store: &SimStore, v: &Volume) {
        self.moments.push(Moment { what, disk: store.killed(), content: heads(v) });
    }

    fn complete(&mut self, v: &Volume, pending: &Pending, sink: &Chunks) {
        v.copy_pending(pending, |_| true).unwrap();
        v.complete_snapshot(pending.record()).unwrap();
        let none = Arc::default();
        let base = pending.record().base.map_or(&none, |b| &self.whole[&b]);
        self.whole.insert(pending.record().snapshot, Arc::new(sink.over(base)));
    }

    fn sink(&self, v: &Volume) -> Arc<Chunks> {
        let base = v.base().map(|b| self.whole[&b.snapshot].clone());
        Arc::new(Chunks { size: v.size(), base, ..Chunks::default() })
    }

    fn live() -> Self {
        let mut life = Self::default();
        let store = disk(SIZE as u64);
        let v = open_on(&store, "boot", None).unwrap();
        life.note("opened", &store, &v);
        write(&v, 0, 1);
        life.note("written", &store, &v);
        for round in 0..2u8 {
            let sink = life.sink(&v);
            let pending = begin(&v, &sink);
            life.note("a snapshot begun", &store, &v);
            write(&v, 1, 10 + round);
            life.note("written while it is pending", &store, &v);
            life.complete(&v, &pending, &sink);
            life.note("a snapshot completed", &store, &v);
            write(&v, 2, 20 + round);
            life.note("written after it", &store, &v);
        }
        v.grow(SIZE as u64 + 4096, &keys(1)[0].1).unwrap();
        life.note("grown", &store, &v);
        write(&v, 8, 33);
        life.note("written past the old end", &store, &v);
        v.close().unwrap();
        drop(v);
        let v = open_on(&store, "boot", None).unwrap();
        life.note("closed in order, and opened", &store, &v);
        write(&v, 3, 44);
        life.note("written again", &store, &v);
        life
    }

    /// A short life, up to the first failing step.
    fn short(&mut self, store: &SimStore) -> Result<()> {
        let v = open_on(store, "boot", None)?;
        for round in 0..2 {
            self.put(&v, 0, 1 + round)?;
            let sink = self.sink(&v);
            let begin = begin::Begin {
                snapshot: SnapshotId::draw(&crate::env::SystemRng),
                time: 0,
                repository: crate::units::RepositoryId([1; 16]),
                base: v.base(),
                sink: sink.clone(),
            };
            let pending = v.begin_snapshot(begin)?;
            self.put(&v, 1, 10 + round)?;
            v.copy_pending(&pending, |_| true)?;
            let none = Arc::default();
            let whole = sink.over(sink.base.as_ref().unwrap_or(&none));
            self.whole.insert(pending.record().snapshot, Arc::new(whole));
            v.complete_snapshot(pending.record())?;
            self.put(&v, 2, 20 + round)?;
        }
        v.grow(SIZE as u64 + 4096, &keys(1)[0].1)?;
        self.put(&v, 8, 30)?;
        v.close()
    }

    fn put(&mut self, v: &Volume, chunk: u64, fill: u8) -> Result<()> {
        let held = self.held.entry(chunk).or_insert([0; 2]);
        held[1] = fill;
        let _done = v.write(chunk * CHUNK as u64, &mut [fill; 4096], Blocking::Allowed)?;
        held[0] = fill;
        Ok(())
    }

    /// Checks that the next snapshot of this disk contains what the volume does.
    fn check(&self, disk: &SimStore, boot: &str, content: &[u8], told: &str) {
        let v = open_on(disk, boot, None).unwrap();
        assert!(heads(&v) == content, "{told}: the content");
        for left in v.pending_records() {
            v.drop_snapshot(left.snapshot).unwrap();
        }
        let sink = self.sink(&v);
        let pending = begin(&v, &sink);
        v.copy_pending(&pending, |_| true).unwrap();
        let none = Arc::default();
        let whole = sink.over(sink.base.as_ref().unwrap_or(&none));
        let held = heads_of(&whole, chunks_in(v.size()));
        assert!(held == content, "{told}: the snapshot misses what was written");
    }
}

#[test]
fn a_lost_sector_of_either_slot_costs_that_slot_and_no_snapshot_omits_anything() {
    let life = Life::live();
    for moment in &life.moments {
        for slot in 0..2 {
            for sector in 0..SECTORS {
                let at = slot * SLOT as u64 + sector * 512;
                for flip in [true, false] {
                    let used = [0, 1, 8, 9, 10, 56, 120, 121].contains(&sector);
                    if flip && !used {
                        continue; // zeros that nothing checks
                    }
                    if !flip && !used && sector % 64 != 63 {
                        continue; // any sector fails the slot's read alike
                    }
                    let told = format!("{}, slot {slot}, sector {sector}, flipped {flip}", moment.what);
                    let disk = moment.disk.killed();
                    if flip {
                        disk.poke(at + 70, 0x40)
                    } else {
                        disk.spoil(at)
                    }
                    // The first open repairs the slot and does nothing else; the second must not trust what the first
                    // did not.
                    drop(open_on(&disk, "boot", None).unwrap());
                    life.check(&disk.killed(), "boot", &moment.content, &told);
                    // The same slot is lost again after a write.
                    let v = open_on(&disk, "boot", None).unwrap();
                    write(&v, 5, 99);
                    let content = heads(&v);
                    drop(v);
                    for again in (0..2).filter(|_| flip && sector % 8 == 0) {
                        let disk = disk.killed();
                        disk.poke(again * SLOT as u64 + 70, 1);
                        life.check(&disk, "boot", &content, &format!("{told}, then slot {again}"));
                    }
                }
            }
        }
    }
}

#[test]
fn wherever_the_machine_stops_no_snapshot_omits_anything_whichever_slot_is_lost() {
    for stop in 0..100 {
        let store = disk(SIZE as u64);
        store.fail_in(stop, true);
        let mut life = Life::default();
        let whole = life.short(&store).is_ok();
        let after = [("boot", store.killed()), ("b2", store.power_loss(|_| 0)), ("b2", store.power_loss(|n| n - 1))];
        for (i, (boot, after)) in after.into_iter().enumerate() {
            for slot in [None, Some(0), Some(1)] {
                let told = format!("step {stop}, crash {i}, slot {slot:?}");
                let disk = after.killed();
                slot.into_iter().for_each(|slot: u64| disk.poke(slot * SLOT as u64 + 70, 1));
                let v = open_on(&disk, boot, None).unwrap();
                let content = heads(&v);
                let acknowledged = |(c, held): (&u64, &[u8; 2])| held.contains(&content[*c as usize * 4096]);
                // What was written past an end that is not durable yet was never flushed.
                let in_size = |(c, _): &(&u64, &[u8; 2])| **c < chunks_in(v.size());
                assert!(
                    i > 0 || life.held.iter().filter(in_size).all(acknowledged),
                    "{told}: lost what was acknowledged"
                );
                drop(v);
                life.check(&disk, boot, &content, &told);
            }
        }
        if whole {
            assert!(stop > 15, "each header write has its steps");
            return;
        }
    }
    panic!("a short life has more than 100 steps");
}

#[test]
fn what_was_passed_over_is_not_believed_at_the_second_open_either() {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "boot", None).unwrap();
    write(&v, 0, 1);
    v.close().unwrap();
    drop(v);
    store.poke(70, 1);
    for _ in 0..2 {
        let v = open_on(&store, "boot", None).unwrap();
        assert_eq!(*v.untrusted.lock(), Untrusted::All);
        let clean = v.with_header(|h| h.state().clean);
        assert!(!clean);
    }
    let v = open_on(&store, "boot", None).unwrap();
    let sink = Arc::new(Chunks { size: v.size(), ..Chunks::default() });
    let pending = begin(&v, &sink);
    v.copy_pending(&pending, |_| true).unwrap();
    v.complete_snapshot(pending.record()).unwrap();
    v.close().unwrap();
    drop(v);
    assert_eq!(*open_on(&store, "boot", None).unwrap().untrusted.lock(), Untrusted::No, "all was compared");
}

#[test]
fn memory_has_the_identity_that_the_disk_has_wherever_a_grow_fails() {
    let key = keys(1);
    for stop in 0..12 {
        let store = disk(SIZE as u64);
        let v = open_on(&store, "boot", None).unwrap();
        write(&v, 0, 1);
        store.fail_in(stop, false);
        let grown = v.grow(2 * SIZE as u64, &key[0].1);
        let seen = open_on(&store.killed(), "boot", None).unwrap();
        assert_eq!(v.with_header(Header::identity_hash), seen.with_header(Header::identity_hash), "stop {stop}");
        assert_eq!(v.size(), seen.size(), "stop {stop}");
        assert_eq!(v.size(), v.with_header(|h| h.identity().size), "stop {stop}");
        if grown.is_ok() {
            assert!(stop > 3, "a grow syncs the file and writes both slots");
            return;
        }
        if v.is_writable() {
            // It keeps its state, and passes it to the next open.
            write(&v, 7, 2);
            v.grow(2 * SIZE as u64, &key[0].1).unwrap();
            write(&v, 15, 3);
            v.close().unwrap();
            let seen = open_on(&store.power_loss(|_| 0), "boot", None).unwrap();
            assert_eq!(seen.size(), 2 * SIZE as u64);
            assert_eq!(read(&seen, 15 * CHUNK as u64, 1), [3]);
        }
    }
    panic!("a grow needs more than 12 steps");
}

#[test]
fn a_slot_is_mended_without_the_key_when_somebody_vouches_for_the_identity() {
    let store = disk(SIZE as u64);
    let spills = Arc::new(store.clone());
    let opening = || lifecycle::Opening { writable: true, parent: None, write_failed: false, spills: spills.clone() };
    store.poke(70, 1);
    let v = Volume::open(Arc::new(store.clone()), env("boot"), opening(), "test").unwrap();
    let hash = v.with_header(Header::identity_hash);
    let before = store.writes();
    assert_eq!(v.mend_sealed(Hash32::of(b"another")).unwrap_err().kind(), Kind::Integrity);
    assert_eq!(store.writes(), before, "nothing is copied that nobody vouches for");
    v.mend_sealed(hash).unwrap();
    assert!(v.with_header(|h| h.damage()).is_none());
    drop(v);
    let v = open_on(&store, "boot", None).unwrap();
    assert!(v.with_header(|h| h.damage()).is_none());
    assert_eq!(*v.untrusted.lock(), Untrusted::All, "a repair keeps what is not believed");
}

#[test]
fn a_filled_volume_stays_filled_whichever_slot_is_lost() {
    let from = open_on(&disk(SIZE as u64), "boot", None).unwrap();
    write(&from, 1, 7);
    let snap = Arc::new(Chunks { size: SIZE as u64, ..Chunks::default() });
    let pending = begin(&from, &snap);
    from.copy_pending(&pending, |_| true).unwrap();
    let store = volume_tests::restored(&snap, SIZE as u64);
    let v = open_on(&store, "boot", Some(snap)).unwrap();
    while !v.hydrate_some(4).unwrap().done {}
    write(&v, 1, 8);
    drop(v);
    for slot in 0..2 {
        let disk = store.killed();
        disk.poke(slot * SLOT as u64 + 70, 1);
        // The snapshot's ref was dropped: it is not needed, and no fill overwrites what was written since.
        let v = open_on(&disk, "boot", None).unwrap();
        assert!(v.is_hydrated());
        assert_eq!(read(&v, CHUNK as u64, 4096), [8; 4096]);
    }
}

#[test]
fn what_is_no_regular_file_has_no_volume_id_and_nothing_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, link, file) = (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("file"));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let store = disk(SIZE as u64);
    let mut header = vec![0; 2 * SLOT];
    store.read_at(&mut header, 0).unwrap();
    std::fs::write(&file, header).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let stores: &dyn crate::store::Stores = &crate::store::files::FileStores::of(dir.path(), true);
    let ids = stores.list().unwrap().into_iter().map(|found| {
        let id = id_in(|out, at| stores.peek(&found, out, at).is_ok());
        (found.key, id.is_some())
    });
    let ids: std::collections::BTreeMap<_, _> = ids.collect();
    let told = ["fifo", "file", "folder", "link"].map(|name| ids[std::ffi::OsStr::new(name)]);
    assert_eq!(told, [false, true, false, false]);
}

#[test]
fn a_failed_sync_is_known_whichever_slot_is_lost() {
    let store = disk(SIZE as u64);
    let v = open_on(&store, "boot", None).unwrap();
    write(&v, 0, 1);
    store.fail_in(0, false);
    assert!(v.flush().is_err());
    drop(v);
    for slot in 0..2 {
        let disk = store.killed();
        disk.poke(slot * SLOT as u64 + 70, 1);
        assert!(!open_on(&disk, "boot", None).unwrap().is_writable());
    }
}
