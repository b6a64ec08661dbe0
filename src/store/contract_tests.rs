//! The contract of stores and their factories. Each test runs on all implementations: files, memory, and both with
//! injected faults.

use super::factory::{Access, Stores};
use super::files::FileStores;
use super::memory::MemoryStores;
use super::watched::{Op, Script, faulty};
use super::{BlockStore, SpillSpace, Stored};
use crate::cipher::{Sealed, SealedBuf};
use crate::env::SystemRng;
use crate::error::{Error, Kind, Result};
use crate::units::VolumeId;
use std::sync::Arc;

const SIZE: u64 = 4 << 20;

struct Subject {
    name: &'static str,
    stores: Arc<dyn Stores>,
    script: Option<Script>,
    /// The implementation that can lose power.
    memory: Option<MemoryStores>,
    _dir: Option<tempfile::TempDir>,
}

impl Subject {
    fn all() -> Vec<Self> {
        let files = |name, script| {
            // On the disk of the build: /tmp may be another kind of file system.
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let stores = Arc::new(FileStores::of(dir.path(), true));
            Self { name, stores, script, memory: None, _dir: Some(dir) }
        };
        let memory = |name, script| {
            let memory = MemoryStores::default();
            Self { name, stores: Arc::new(memory.clone()), script, memory: Some(memory), _dir: None }
        };
        let script = || Some(Script::default());
        vec![
            files("files", None),
            memory("memory", None),
            files("files with faults", script()),
            memory("memory with faults", script()),
        ]
    }

    /// A new store that reads as zeros.
    fn make(&self) -> VolumeId {
        let id = VolumeId::draw(&SystemRng);
        self.stores.create(id, SIZE, &mut |_| Ok(())).unwrap();
        id
    }

    fn try_open(&self, id: VolumeId, access: Access) -> Result<Arc<dyn BlockStore>> {
        let store = self.stores.open(id, access)?;
        Ok(match &self.script {
            Some(script) => faulty(store, script.clone()),
            None => store,
        })
    }

    fn open(&self, id: VolumeId) -> Arc<dyn BlockStore> {
        self.try_open(id, Access::Write).unwrap()
    }

    fn writer(&self) -> Arc<dyn BlockStore> {
        self.open(self.make())
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| ((i / 7) as u8 ^ (i / 4096) as u8 ^ seed) | 1).collect()
}

fn put(store: &dyn BlockStore, at: u64, bytes: &[u8]) {
    store.write_at(Sealed::made_up(bytes), at).unwrap();
}

fn read(store: &dyn BlockStore, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0x5a; len];
    store.read_at(&mut out, at).unwrap();
    out
}

#[test]
fn what_was_written_is_read_back_and_all_else_is_zeros() {
    for on in Subject::all() {
        let store = on.writer();
        let mut like = vec![0; SIZE as usize];
        let writes = [
            (0, 4096),
            (65_536 - 512, 1 << 20), // longer than any step, and aligned to none
            (70_001, 3),             // a few bytes of it again
            (2 << 20, 200_000),
            (SIZE - 512, 512),
        ];
        for (seed, (at, len)) in writes.into_iter().enumerate() {
            let bytes = pattern(len, seed as u8);
            match seed % 2 {
                0 => put(&*store, at, &bytes),
                _ => store.write_meta(&bytes, at).unwrap(),
            }
            like[at as usize..at as usize + len].copy_from_slice(&bytes);
            assert!(read(&*store, 0, SIZE as usize) == like, "{}: after a write at {at}", on.name);
        }
        let mut out = vec![0x5a; 4096];
        if store.read_at_nowait(&mut out, 70_000).unwrap() {
            assert!(out == like[70_000..74_096], "{}", on.name);
        }
        let mut sealed = SealedBuf::holes(8192);
        store.read_sealed(sealed.room(), 65_536).unwrap();
        assert!(sealed[..] == like[65_536..73_728], "{}", on.name);
        if store.read_sealed_nowait(sealed.room().range(0..4096), 2 << 20).unwrap() {
            assert!(sealed[..4096] == like[2 << 20..][..4096], "{}", on.name);
        }
        assert_eq!(store.size().unwrap(), SIZE, "{}", on.name);
    }
}

#[test]
fn a_read_past_the_end_fails_and_is_never_reported_as_complete() {
    for on in Subject::all() {
        let store = on.writer();
        for at in [SIZE - 100, SIZE, SIZE + (1 << 20)] {
            let err = store.read_at(&mut [0; 512], at).unwrap_err();
            assert_eq!(err.kind(), std::io::ErrorKind::UnexpectedEof, "{} at {at}", on.name);
            let at_once = store.read_at_nowait(&mut [0; 512], at);
            assert!(!at_once.is_ok_and(|whole| whole), "{} at {at}", on.name);
        }
    }
}

#[test]
fn growing_adds_zeros_is_idempotent_and_never_shrinks_a_store() {
    for on in Subject::all() {
        let store = on.writer();
        put(&*store, SIZE - 4096, &[7; 4096]);
        let larger = 2 * SIZE;
        for size in [larger, larger, SIZE, 0, larger - 1] {
            store.grow(size).unwrap();
            assert_eq!(store.size().unwrap(), larger, "{}: grown to {size}", on.name);
        }
        assert_eq!(read(&*store, SIZE - 4096, 8192), [[7; 4096], [0; 4096]].concat(), "{}", on.name);
        put(&*store, larger - 512, &[9; 512]);
        store.grow(SIZE).unwrap();
        assert_eq!(read(&*store, larger - 512, 512), [9; 512], "{}", on.name);
    }
}

#[test]
fn zeroed_and_discarded_ranges_read_as_zeros_and_their_neighbours_stay() {
    for on in Subject::all() {
        for keep in [true, false] {
            let store = on.writer();
            let mut like = pattern(1 << 20, 3);
            put(&*store, 0, &like);
            for (at, len) in [(4096, 65_536), (200_192, 512), (300_032, 30_208), (1 << 20, 1 << 20)] {
                store.zero(at, len, keep).unwrap();
                let end = (at + len).min(1 << 20) as usize;
                like[at.min(1 << 20) as usize..end].fill(0);
                assert!(read(&*store, 0, 1 << 20) == like, "{}: zeroed at {at}, keep {keep}", on.name);
            }
            assert_eq!((store.size().unwrap(), read(&*store, 1 << 20, 4096)), (SIZE, vec![0; 4096]), "{}", on.name);
        }
    }
}

#[test]
fn everything_that_is_not_zero_lies_in_a_reported_extent() {
    for on in Subject::all() {
        let store = on.writer();
        let empty = store.next_data(0).unwrap();
        assert!(empty.is_none_or(|at| at < SIZE), "{}: {empty:?}", on.name);
        for (at, len) in [(0, 512), (100_352, 4096), (1 << 20, 1 << 20), (SIZE - 4096, 4096)] {
            put(&*store, at, &pattern(len, 1));
        }
        store.zero(1 << 20, 131_072, false).unwrap();
        store.zero((1 << 20) + 262_144, 131_072, true).unwrap();
        let (mut at, mut data) = (0, Vec::new());
        while let Some(start) = store.next_data(at).unwrap() {
            let end = store.next_hole(start).unwrap();
            assert!(start >= at && end > start && end <= SIZE, "{}: {start}..{end} from {at}", on.name);
            assert_eq!(store.next_data(start).unwrap(), Some(start), "{}", on.name);
            data.push((start, end));
            at = end;
            if at == SIZE {
                break;
            }
        }
        let all = read(&*store, 0, SIZE as usize);
        let lies = |at: u64| data.iter().any(|(start, end)| (*start..*end).contains(&at));
        let lost = (0..SIZE).find(|at| all[*at as usize] != 0 && !lies(*at));
        assert_eq!(lost, None, "{}: in none of {data:?}", on.name);
        assert_eq!(store.next_data(SIZE).unwrap(), None, "{}", on.name);
    }
}

#[test]
fn a_range_without_data_is_reported_in_bounded_steps_and_discarded_room_is_a_hole() {
    for on in Subject::all() {
        let store = on.writer();
        put(&*store, 0, &pattern(262_144, 1));
        store.zero(131_072, 131_072, false).unwrap();
        if store.next_data(131_072).unwrap() == Some(131_072) {
            continue; // zeros were written: they are data to this file system
        }
        let (mut at, mut told) = (131_072, Vec::new());
        while at < SIZE {
            let (len, stored) = store.stored(at, SIZE - at).unwrap();
            assert!(len > 0 && len <= SIZE - at, "{}: {len} at {at}", on.name);
            told.push(stored);
            at += len;
        }
        assert!(told.iter().all(|s| *s == Stored::Hole), "{}: {told:?}", on.name);
        store.zero(131_072, 65_536, true).unwrap();
        let (len, kept) = store.stored(131_072, 65_536).unwrap();
        assert!(kept != Stored::Data && len > 0 && len <= 65_536, "{}: {len} {kept:?}", on.name);
        assert_eq!(read(&*store, 131_072, 65_536), vec![0; 65_536], "{}", on.name);
    }
}

#[test]
fn synced_data_is_there_for_the_next_handle_and_after_power_loss() {
    for on in Subject::all() {
        let id = on.make();
        let store = on.open(id);
        put(&*store, 8192, &[1; 4096]);
        store.write_meta(&[2; 512], 0).unwrap();
        store.start_writeback(0, SIZE);
        store.sync().unwrap();
        put(&*store, 8192, &[3; 4096]);
        put(&*store, 1 << 20, &[4; 4096]);
        drop(store);
        let next = on.open(id);
        assert_eq!(read(&*next, 8192, 4096), [3; 4096], "{}: a handle's end loses nothing", on.name);
        assert_eq!(read(&*next, 1 << 20, 4096), [4; 4096], "{}", on.name);
        drop(next);
        let Some(memory) = &on.memory else { continue };
        memory.power_loss();
        let after = on.open(id);
        assert_eq!(read(&*after, 0, 512), [2; 512], "{}", on.name);
        assert_eq!(read(&*after, 8192, 4096), [1; 4096], "{}: what was synced", on.name);
        assert_eq!(read(&*after, 1 << 20, 4096), [0; 4096], "{}: what was not", on.name);
    }
}

#[test]
fn a_failed_sync_is_not_latched_and_the_next_one_does_not_make_it_good() {
    for on in Subject::all() {
        let Some(script) = &on.script else { continue };
        let store = on.writer();
        put(&*store, 0, &[1; 512]);
        *script.lock() = Some((Op::Sync, 0, libc::EIO));
        assert_eq!(store.sync().unwrap_err().raw_os_error(), Some(libc::EIO), "{}", on.name);
        store.sync().unwrap();
        put(&*store, 4096, &[2; 512]);
        store.sync().unwrap();
        assert_eq!(read(&*store, 4096, 512), [2; 512], "{}", on.name);
    }
    // A failure of the disk itself: what it lost stays lost, what is written and synced afterwards does not.
    let memory = MemoryStores::default();
    let id = VolumeId::draw(&SystemRng);
    memory.create(id, SIZE, &mut |_| Ok(())).unwrap();
    let store = memory.open(id, Access::Write).unwrap();
    put(&*store, 0, &[1; 512]);
    put(&*store, 512, &[1; 512]);
    memory.disk(id).fail_sync();
    assert!(store.sync().is_err());
    put(&*store, 512, &[2; 512]);
    store.sync().unwrap();
    assert_eq!(read(&*store, 0, 1024), [[1; 512], [2; 512]].concat());
    drop(store);
    memory.power_loss();
    let after = memory.open(id, Access::Read).unwrap();
    assert_eq!(read(&*after, 0, 1024), [[0; 512], [2; 512]].concat());
}

/// Calls an operation once.
fn run(store: &dyn BlockStore, op: Op) -> std::io::Result<()> {
    match op {
        Op::Size => store.size().map(drop),
        Op::Read => store.read_at(&mut [0; 512], 0),
        Op::Write => store.write_at(Sealed::made_up(&[8; 512]), 0),
        Op::Meta => store.write_meta(&[8; 512], 0),
        Op::Zero => store.zero(0, 512, false),
        Op::Seek => store.next_data(0).map(drop),
        Op::Grow => store.grow(2 * SIZE),
        Op::Sync => store.sync(),
        Op::Unlock => store.unlock(),
        Op::Identity => store.identity().map(drop),
    }
}

#[test]
fn each_operation_reports_its_error_changes_nothing_and_works_again() {
    for on in Subject::all() {
        let Some(script) = &on.script else { continue };
        for op in Op::ALL {
            for errno in [libc::EIO, libc::ENOSPC] {
                let store = on.writer();
                put(&*store, 0, &[1; 512]);
                *script.lock() = Some((op, 1, errno));
                run(&*store, op).unwrap();
                put_back(&*store, script);
                let failed = run(&*store, op).unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(errno), "{}: {op:?}", on.name);
                assert_eq!(read(&*store, 0, 512), [1; 512], "{}: {op:?} that failed changed something", on.name);
                run(&*store, op).unwrap();
            }
        }
    }
}

/// Undoes the effect of the first, successful call, with the script paused.
fn put_back(store: &dyn BlockStore, script: &Script) {
    let told = script.lock().take();
    put(store, 0, &[1; 512]);
    *script.lock() = told;
}

#[test]
fn a_store_has_one_writer_or_readers_and_readers_cannot_change_it() {
    for on in Subject::all() {
        let id = on.make();
        let kind = |access| on.try_open(id, access).err().map(|e| e.kind());
        let writer = on.open(id);
        put(&*writer, 0, &[1; 512]);
        assert_eq!([kind(Access::Write), kind(Access::Read)], [Some(Kind::Busy); 2], "{}", on.name);
        writer.unlock().unwrap();
        let (one, two) = (on.try_open(id, Access::Read).unwrap(), on.try_open(id, Access::Read).unwrap());
        assert_eq!(kind(Access::Write), Some(Kind::Busy), "{}", on.name);
        for op in Op::ALL.into_iter().filter(|op| op.changes()) {
            assert!(run(&*one, op).is_err(), "{}: a reader may {op:?}", on.name);
        }
        assert_eq!((read(&*two, 0, 512), two.size().unwrap()), (vec![1; 512], SIZE), "{}", on.name);
        drop((one, two));
        assert_eq!(kind(Access::Write), None, "{}", on.name);
    }
}

#[test]
fn the_identity_is_the_same_for_all_handles_and_differs_between_stores() {
    for on in Subject::all() {
        let (id, other) = (on.make(), on.make());
        let store = on.open(id);
        let known = store.identity().unwrap();
        put(&*store, 0, &[1; 512]);
        store.grow(2 * SIZE).unwrap();
        store.sync().unwrap();
        assert_eq!(store.identity().unwrap(), known, "{}", on.name);
        drop(store);
        assert_eq!(on.try_open(id, Access::Read).unwrap().identity().unwrap(), known, "{}", on.name);
        assert_ne!(on.open(other).identity().unwrap(), known, "{}", on.name);
    }
}

#[test]
fn a_store_appears_when_it_is_complete_and_not_before() {
    for on in Subject::all() {
        let (id, stores) = (VolumeId::draw(&SystemRng), &on.stores);
        assert!(!stores.has_any(id) && stores.place(id).contains(&id.to_string()), "{}", on.name);
        let refused = |_: &dyn BlockStore| Err(Error::new(Kind::NoSpace, "told to fail"));
        assert_eq!(stores.create(id, SIZE, &mut { refused }).unwrap_err().kind(), Kind::NoSpace, "{}", on.name);
        assert_eq!(on.try_open(id, Access::Read).err().map(|e| e.kind()), Some(Kind::NotFound), "{}", on.name);
        assert_eq!(stores.room(id).unwrap_err().kind(), Kind::NotFound, "{}", on.name);
        let remains = stores.list().unwrap();
        assert!(remains.iter().all(|f| f.named == Some(id) && !f.published), "{}: {remains:?}", on.name);
        assert_eq!(stores.has_any(id), !remains.is_empty(), "{}", on.name);
        // The next case starts fresh.
        let mut seen = None;
        let filled = stores.create(id, SIZE, &mut |store| {
            assert_eq!(read(store, 0, 512), [0; 512], "{}", on.name);
            put(store, 0, &[1; 512]);
            seen = Some(stores.open(id, Access::Read).err().map(|e| e.kind()));
            Ok(())
        });
        filled.unwrap();
        assert_eq!(seen, Some(Some(Kind::NotFound)), "{}: it was seen half made", on.name);
        if let Some(memory) = &on.memory {
            memory.power_loss();
        }
        assert_eq!(read(&*on.open(id), 0, 512), [1; 512], "{}", on.name);
        assert_eq!(stores.room(id).unwrap().size, SIZE, "{}", on.name);
        let found = stores.list().unwrap();
        let [found] = &found[..] else { panic!("{}: {found:?}", on.name) };
        assert!(found.named == Some(id) && found.published, "{}: {found:?}", on.name);
        let mut head = [0; 512];
        stores.peek(found, &mut head, 0).unwrap();
        assert_eq!(head, [1; 512], "{}", on.name);
        assert!(stores.peek(found, &mut head, SIZE).is_err(), "{}", on.name);
    }
}

#[test]
fn a_second_store_for_a_volume_is_refused_and_the_first_stays_intact() {
    for on in Subject::all() {
        let id = on.make();
        put(&*on.open(id), 0, &[1; 512]);
        let again = on.stores.create(id, 2 * SIZE, &mut |store| {
            put(store, 0, &[2; 512]);
            Ok(())
        });
        assert_eq!(again.unwrap_err().kind(), Kind::Exists, "{}", on.name);
        let first = on.open(id);
        assert_eq!((read(&*first, 0, 512), first.size().unwrap()), (vec![1; 512], SIZE), "{}", on.name);
    }
}

#[test]
fn removing_takes_store_and_remains_and_leaves_others_alone() {
    for on in Subject::all() {
        let (id, other, half) = (on.make(), on.make(), VolumeId::draw(&SystemRng));
        on.stores.create(half, SIZE, &mut |_| Err(Error::new(Kind::Failed, "told to fail"))).unwrap_err();
        for gone in [id, half, id, VolumeId::draw(&SystemRng)] {
            on.stores.remove(gone).unwrap();
            assert!(!on.stores.has_any(gone), "{}", on.name);
        }
        assert_eq!(on.try_open(id, Access::Write).err().map(|e| e.kind()), Some(Kind::NotFound), "{}", on.name);
        let left = on.stores.list().unwrap();
        assert_eq!(left.iter().map(|f| f.named).collect::<Vec<_>>(), [Some(other)], "{}", on.name);
        on.stores
            .create(id, SIZE, &mut |store| {
                assert_eq!(read(store, 0, 512), [0; 512], "{}: nothing of the old one", on.name);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn the_time_of_the_last_change_never_goes_back() {
    for on in Subject::all() {
        let Some(before) = on.stores.changed() else { continue };
        let id = on.make();
        assert!(on.stores.changed().is_some_and(|after| after >= before), "{}", on.name);
        on.stores.remove(id).unwrap();
        assert!(on.stores.changed().is_some_and(|after| after >= before), "{}", on.name);
    }
}

#[test]
fn a_spill_returns_what_was_written_and_goes_with_its_volume() {
    for on in Subject::all() {
        let (one, two) = (on.make(), on.make());
        let before = on.stores.list().unwrap().len();
        assert!(on.stores.open_spill(one).unwrap().is_none(), "{}", on.name);
        let spills = [one, two].map(|id| on.stores.create_spill(id).unwrap());
        spills[0].write_records(&[(&[9; 64], Sealed::made_up(&[1; 4096]))], 8192).unwrap();
        spills[1].write_head(&[2; 4096]).unwrap();
        drop(spills);
        let again = on.stores.open_spill(one).unwrap().unwrap();
        let mut back = SealedBuf::holes(4096);
        again.read_sealed(back.room(), 8192 + 64).unwrap();
        assert!(back[..] == [1; 4096], "{}", on.name);
        again.read_sealed(back.room(), 0).unwrap();
        assert!(back[..] == [0; 4096], "{}: never written", on.name);
        assert!(again.read_sealed(back.room(), 1 << 20).is_err(), "{}", on.name);
        assert_eq!(again.read_at(&mut [0; 8192], 8192).unwrap(), 64 + 4096, "{}", on.name);
        again.is_nearly_full().unwrap();
        again.sync().unwrap();
        assert_eq!(on.stores.list().unwrap().len(), before, "{}: spills are not listed", on.name);
        on.stores.remove_spill(two).unwrap();
        assert!(on.stores.open_spill(two).unwrap().is_none(), "{}", on.name);
        on.stores.remove(one).unwrap();
        assert!(on.stores.open_spill(one).unwrap().is_none() && !on.stores.has_any(one), "{}", on.name);
        on.stores.remove(two).unwrap();
    }
    let memory = MemoryStores::default();
    memory.without_spill();
    assert!(memory.create_spill(VolumeId::draw(&SystemRng)).is_err());
}
