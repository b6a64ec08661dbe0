//! Interleavings of creates, deletes, refs and sweeps: what happens at each call of the store is scripted.

use super::super::compact::Threshold;
use super::super::mark::All;
use super::super::objects::Objects;
use super::super::reader::Verify;
use super::super::refs::{Ref, RefKind};
use super::super::repository::Repository;
use super::super::testing::{Hooked, KEY, LINEAGE, author, chunk, env, memory, snap, spec};
use super::super::writer::SnapshotWriter;
use super::{Need, Needs};
use crate::cipher::{Sealed, SealedMut};
use crate::error::Kind;
use crate::units::{CHUNK, ChunkNo};
use crate::volume::parent::Parent;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const CHUNKS: u64 = 600;

fn hooked() -> (Repository, Arc<dyn Objects>) {
    let objects: Arc<dyn Objects> = Arc::new(Hooked(memory()));
    Repository::init_in(&*objects, &env().0).unwrap();
    (Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap(), objects)
}

fn make(repo: &Repository, id: u64, base: Option<u64>, content: &[(u64, u8)]) {
    let writer = repo.begin(spec(id, CHUNKS, base)).unwrap();
    for (n, seed) in content {
        writer.put_chunk(ChunkNo(*n), Sealed::made_up(&chunk(*seed)), KEY).unwrap();
    }
    writer.finish().unwrap();
}

fn is_whole(repo: &Repository, id: u64) {
    let verified = repo.verify(LINEAGE, snap(id), &mut Verify::default(), &mut |_, _| true);
    let verified = verified.unwrap_or_else(|e| panic!("snapshot {id}: {e}"));
    assert!(verified.bad.is_empty(), "snapshot {id}: {:?}", verified.bad);
}

/// Runs `then` at the first call that matches, once.
fn at(op: &'static str, part: &'static str, then: impl FnOnce() + 'static) {
    let then = Cell::new(Some(then));
    Hooked::call(move |o, path| {
        if o == op
            && path.contains(part)
            && let Some(then) = then.take()
        {
            then();
        }
    });
}

#[test]
fn what_completes_after_the_log_was_read_for_the_mark_is_kept() {
    // Each place in the sweep where another thread may complete a snapshot whose pack was listed.
    for (op, part) in
        [("folders", ""), ("list", "/refs"), ("get", "/pages/"), ("get", "/manifests/"), ("list", "/redirects")]
    {
        let (repo, _) = hooked();
        make(&repo, 1, None, &[(0, 1), (300, 2)]);
        make(&repo, 2, Some(1), &[(0, 2)]);
        let writer = repo.begin(spec(3, CHUNKS, Some(2))).unwrap();
        for n in 1..80 {
            writer.put_chunk(ChunkNo(n), Sealed::made_up(&vec![5; CHUNK]), KEY).unwrap();
        }
        repo.delete(LINEAGE, snap(1)).unwrap();
        // The creates have read the pages themselves; the sweep must read them again.
        *repo.inner.shapes.lock() = Default::default();
        repo.inner.cache.clear();
        let called = Rc::new(Cell::new(false));
        let seen = called.clone();
        at(op, part, move || {
            seen.set(true);
            writer.finish().unwrap();
        });
        repo.sweep(LINEAGE).unwrap();
        Hooked::call_none();
        assert!(called.get(), "{op} {part}");
        is_whole(&repo, 2);
        is_whole(&repo, 3);
        make(&repo, 4, Some(3), &[(5, 1)]);
        is_whole(&repo, 4);
    }
}

#[test]
fn a_base_that_is_deleted_while_its_heir_completes_during_a_sweep_leaves_the_heir_whole() {
    for (op, part) in [("list", "/packs"), ("list", "/refs"), ("get", "/pages/")] {
        let (repo, _) = hooked();
        make(&repo, 1, None, &[(0, 1), (300, 2)]);
        make(&repo, 9, None, &[(1, 1)]);
        let again = repo.clone();
        at(op, part, move || {
            // All of it between two calls of the sweep: begun on a base that is still live, which is then deleted.
            let writer = again.begin(spec(2, CHUNKS, Some(1))).unwrap();
            writer.put_chunk(ChunkNo(4), Sealed::made_up(&chunk(3)), KEY).unwrap();
            again.delete(LINEAGE, snap(1)).unwrap();
            writer.finish().unwrap();
        });
        repo.sweep(LINEAGE).unwrap();
        Hooked::call_none();
        is_whole(&repo, 2);
        repo.sweep(LINEAGE).unwrap();
        is_whole(&repo, 2);
    }
}

#[test]
fn a_base_whose_deleting_has_begun_is_refused_and_creates_do_not_wait_for_it() {
    let (repo, objects) = hooked();
    make(&repo, 1, None, &[(0, 1)]);
    make(&repo, 2, None, &[(1, 1)]);
    repo.delete(LINEAGE, snap(1)).unwrap();
    let own = repo.inner.own(LINEAGE).unwrap();
    {
        let mut creates = repo.inner.creates.lock();
        assert!(creates.begin_sweep(own));
        let keeps = [snap(2)].into();
        assert!(creates.seal(own, &Default::default(), || keeps).is_empty());
    }
    assert_eq!(repo.begin(spec(3, CHUNKS, Some(1))).err().unwrap().kind(), Kind::NotFound);
    let writer = repo.begin(spec(4, CHUNKS, Some(2))).unwrap();
    writer.put_chunk(ChunkNo(1), Sealed::made_up(&chunk(4)), KEY).unwrap();
    let done = writer.finish().unwrap();
    let manifest = own.path("manifests", done.manifest.snapshot);
    assert!(repo.inner.creates.lock().spares(own, &manifest), "what ended since the sweep began is spared");
    repo.inner.creates.lock().end_sweep(own);
    assert!(!repo.inner.creates.lock().spares(own, &manifest));
    assert!(objects.head(&manifest).unwrap().is_some());
}

type Content = BTreeMap<u64, u8>;

/// The expected contents, and the dice.
struct World {
    repo: Repository,
    dice: Cell<u64>,
    live: RefCell<BTreeMap<u64, Content>>,
    refs: RefCell<BTreeMap<u64, Content>>,
    running: RefCell<Vec<(u64, SnapshotWriter, Content)>>,
    next: Cell<u64>,
    sweeping: Cell<bool>,
    depth: Cell<u32>,
}

impl World {
    fn roll(&self, sides: u32) -> u32 {
        // A step of PCG: it only has to be reproducible from the seed.
        let state = self.dice.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dice.set(state);
        (state >> 33) as u32 % sides
    }

    fn pick<T: Clone>(&self, map: &RefCell<BTreeMap<u64, T>>) -> Option<(u64, T)> {
        let map = map.borrow();
        let at = (!map.is_empty()).then(|| self.roll(map.len() as u32) as usize)?;
        map.iter().nth(at).map(|(id, content)| (*id, content.clone()))
    }

    fn step(&self) {
        match self.roll(9) {
            0..=2 => self.begin(),
            3 | 4 => self.finish(),
            5 => {
                let Some((id, _)) = self.pick(&self.live) else { return };
                self.live.borrow_mut().remove(&id);
                self.repo.delete(LINEAGE, snap(id)).unwrap();
            }
            6 => self.put_ref(),
            7 => {
                let Some((id, _)) = self.pick(&self.refs) else { return };
                self.refs.borrow_mut().remove(&id);
                self.repo.delete_ref(LINEAGE, &format!("r{id}")).unwrap();
            }
            _ if self.sweeping.get() => {}
            _ => {
                self.sweeping.set(true);
                if self.roll(2) == 0 {
                    assert_eq!(self.repo.sweep(LINEAGE).unwrap().blind, None);
                } else {
                    let done = self.repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap();
                    assert_eq!((done.swept.blind, done.damaged), (None, Vec::new()));
                }
                self.sweeping.set(false);
            }
        }
    }

    fn begin(&self) {
        let id = self.next.replace(self.next.get() + 1);
        let base = if self.roll(4) == 0 { None } else { self.pick(&self.live).or_else(|| self.pick(&self.refs)) };
        let mut content = base.as_ref().map(|(_, c)| c.clone()).unwrap_or_default();
        let writer = match self.repo.begin(spec(id, CHUNKS, base.as_ref().map(|(id, _)| *id))) {
            Ok(writer) => writer,
            // Deleted and swept in between.
            Err(e) => return assert_eq!(e.kind(), Kind::NotFound, "{e}"),
        };
        for _ in 0..self.roll(3) {
            let (at, seed) = ([0, 1, 299, 599][self.roll(4) as usize], self.roll(4) as u8);
            writer.put_chunk(ChunkNo(at), Sealed::made_up(&chunk(seed)), KEY).unwrap();
            content.insert(at, seed);
        }
        self.running.borrow_mut().push((id, writer, content));
    }

    fn finish(&self) {
        let taken = self.running.borrow_mut().pop();
        let Some((id, writer, content)) = taken else { return };
        if self.roll(5) == 0 {
            return writer.abort().unwrap();
        }
        writer.finish().unwrap();
        self.live.borrow_mut().insert(id, content);
    }

    fn put_ref(&self) {
        let Some((id, content)) = self.pick(&self.live) else { return };
        match self.repo.put_ref(LINEAGE, &format!("r{id}"), RefKind::Volume, snap(id)) {
            Ok(()) => drop(self.refs.borrow_mut().insert(id, content)),
            Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{e}"),
        }
    }

    fn check(&self) {
        let live = self.live.borrow();
        live.keys().for_each(|id| is_whole(&self.repo, *id));
        for (id, content) in live.iter().chain(self.refs.borrow().iter()) {
            let reader = self.repo.open_snapshot(LINEAGE, snap(*id)).unwrap();
            let mut out = vec![1; CHUNK];
            for (n, seed) in content {
                reader.fetch(ChunkNo(*n), SealedMut::over(&mut out)).unwrap();
                assert!(out == chunk(*seed), "snapshot {id} chunk {n}");
            }
        }
    }
}

#[test]
fn in_every_order_what_is_live_verifies_and_what_a_ref_holds_resolves() {
    for seed in 0..60 {
        let (repo, objects) = hooked();
        let world = Rc::new(World {
            repo,
            dice: Cell::new(seed * 2 + 1),
            live: RefCell::default(),
            refs: RefCell::default(),
            running: RefCell::default(),
            next: Cell::new(1),
            sweeping: Cell::new(false),
            depth: Cell::new(0),
        });
        for _ in 0..14 {
            let inner = Rc::downgrade(&world);
            Hooked::call(move |_, _| {
                let Some(world) = inner.upgrade() else { return };
                if world.depth.get() < 2 && world.roll(6) == 0 {
                    world.depth.set(world.depth.get() + 1);
                    world.step();
                    world.depth.set(world.depth.get() - 1);
                }
            });
            world.step();
            Hooked::call_none();
            world.check();
        }
        world.running.borrow_mut().clear();
        world.repo.sweep(LINEAGE).unwrap();
        world.check();
        for (id, _) in std::mem::take(&mut *world.live.borrow_mut()) {
            world.repo.delete(LINEAGE, snap(id)).unwrap();
        }
        for (id, _) in std::mem::take(&mut *world.refs.borrow_mut()) {
            world.repo.delete_ref(LINEAGE, &format!("r{id}")).unwrap();
        }
        world.repo.sweep(LINEAGE).unwrap();
        let left: Vec<_> = objects.list("").unwrap().into_iter().filter(|o| !o.path.contains("/log/")).collect();
        assert_eq!(left.len(), 1, "seed {seed}: only the description: {left:?}");
    }
}

#[test]
fn deleting_one_of_many_reads_what_is_new_alone() {
    let (repo, _) = hooked();
    for id in 1..=60 {
        make(&repo, id, (id > 1).then(|| id - 1), &[(id * 7 % CHUNKS, (id % 4 + 1) as u8)]);
    }
    repo.sweep(LINEAGE).unwrap();
    repo.delete(LINEAGE, snap(30)).unwrap();
    Hooked::reads();
    let swept = repo.sweep(LINEAGE).unwrap();
    assert!(swept.deleted > 0);
    assert_eq!(Hooked::reads(), 0, "manifests and pages of the live ones are known");
    make(&repo, 61, Some(60), &[(0, 9)]);
    repo.delete(LINEAGE, snap(31)).unwrap();
    Hooked::reads();
    repo.sweep(LINEAGE).unwrap();
    let reads = Hooked::reads();
    assert!((1..=4).contains(&reads), "its manifest and its two or three pages: {reads}");
}

#[test]
fn what_cannot_be_read_costs_its_snapshot_and_no_other() {
    for what in ["pages", "manifests"] {
        let (repo, objects) = hooked();
        make(&repo, 1, None, &[(0, 1), (300, 2)]);
        make(&repo, 2, None, &[(1, 1)]);
        make(&repo, 3, Some(2), &[(2, 1)]);
        let own = repo.inner.own(LINEAGE).unwrap();
        let bad = match what {
            "pages" => own.path("pages", repo.locate(LINEAGE, snap(1)).unwrap().manifest.root),
            _ => own.path("manifests", snap(1)),
        };
        let good = objects.get(&bad, 1 << 20).unwrap();
        let mut flipped = good.to_vec();
        flipped[60] ^= 1;
        objects.put_over(&bad, flipped.into()).unwrap();
        let repo = Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap();
        repo.delete(LINEAGE, snap(2)).unwrap();
        let before = objects.list("").unwrap().len();
        let swept = repo.sweep(LINEAGE).unwrap();
        assert!(swept.blind.unwrap().contains(&bad), "it is named");
        assert_eq!(objects.list("").unwrap().len(), before, "it may need anything");
        make(&repo, 4, Some(3), &[(9, 1)]);
        is_whole(&repo, 4);
        // After a repair everything is whole and the rest is swept; or the damaged one is deleted.
        if what == "pages" {
            objects.put_over(&bad, good).unwrap();
            is_whole(&repo, 1);
        } else {
            repo.delete(LINEAGE, snap(1)).unwrap();
        }
        let swept = repo.sweep(LINEAGE).unwrap();
        assert!(swept.blind.is_none() && swept.deleted > 0);
        [3, 4].iter().for_each(|id| is_whole(&repo, *id));
    }
}

#[test]
fn a_damaged_ref_is_what_the_catalog_says_or_stops_deleting_alone() {
    struct Says(Need);
    impl Needs for Says {
        fn of(&self, _: &str, found: Option<&Ref>) -> Need {
            assert!(found.is_none());
            self.0
        }
    }
    let (repo, objects) = hooked();
    make(&repo, 1, None, &[(0, 1)]);
    make(&repo, 2, None, &[(1, 1)]);
    repo.put_ref(LINEAGE, "v-fill", RefKind::Volume, snap(1)).unwrap();
    let path = objects.list(&format!("{LINEAGE}/refs")).unwrap()[0].path.clone();
    objects.put_over(&path, bytes::Bytes::from_static(b"{")).unwrap();
    repo.delete(LINEAGE, snap(1)).unwrap();
    let swept = repo.sweep_for(LINEAGE, &Says(Need::Keep)).unwrap();
    assert!(swept.blind.unwrap().contains("refs") && swept.deleted == 0);
    let swept = repo.sweep_for(LINEAGE, &Says(Need::On(snap(1)))).unwrap();
    assert_eq!((swept.deleted, swept.kept), (0, 1));
    assert_eq!(repo.ref_on(LINEAGE, "v-fill").unwrap(), Some(snap(1)));
    assert!(repo.open_snapshot(LINEAGE, snap(1)).is_ok());
    objects.put_over(&path, bytes::Bytes::from_static(b"{")).unwrap();
    assert!(repo.sweep_for(LINEAGE, &Says(Need::Drop)).unwrap().deleted > 0);
    assert!(objects.head(&path).unwrap().is_none());
    is_whole(&repo, 2);
    // A damaged one can be replaced too.
    objects.put_over(&path, bytes::Bytes::from_static(b"{")).unwrap();
    repo.put_ref(LINEAGE, "v-fill", RefKind::Volume, snap(2)).unwrap();
    assert_eq!(repo.ref_on(LINEAGE, "v-fill").unwrap(), Some(snap(2)));
}
