use super::super::mark::All;
use super::super::objects::Objects;
use super::super::pack::parse_pack;
use super::super::reader::Verify;
use super::super::refs::RefKind;
use super::super::repository::Repository;
use super::super::sweep::GRACE;
use super::super::testing::{
    Call, Content, Fault, Hooked, KEY, LINEAGE, Remote, TestClock, author, chunk, count, env, holds, make, memory,
    snap, spec,
};
use super::*;
use crate::cipher::{Sealed, SealedMut};
use crate::units::{CHUNK, ChunkNo};
use crate::volume::parent::Parent;
use crate::volume::testing::Seeded;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

const CHUNKS: u64 = 600;

fn over(objects: &Arc<dyn Objects>) -> Repository {
    Repository::open_in(objects.clone(), env().0, Some(author(1))).unwrap()
}

fn hooked() -> (Repository, Arc<dyn Objects>) {
    let objects: Arc<dyn Objects> = Arc::new(Hooked(memory()));
    Repository::init_in(&*objects, &env().0).unwrap();
    (over(&objects), objects)
}

fn collect(repo: &Repository) -> Collected {
    repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap()
}

/// Copies all objects.
fn copy_of(objects: &dyn Objects) -> Arc<dyn Objects> {
    let copy = memory();
    for object in objects.list("").unwrap() {
        copy.put_new(&object.path, objects.get(&object.path, 1 << 26).unwrap()).unwrap();
    }
    copy
}

/// Checks that each snapshot has its content and verifies.
fn all_hold(repo: &Repository, model: &BTreeMap<u64, Content>) {
    for (id, content) in model {
        holds(repo, *id, content);
        let found = repo.verify(LINEAGE, snap(*id), &mut Verify::default(), &mut |_, _| true).unwrap();
        assert!(found.bad.is_empty(), "{id}: {:?}", found.bad);
    }
}

/// Checks what a collection promises: little garbage is left, each redirect names packs that are there, and none of them has a
/// redirect.
fn is_compact(objects: &dyn Objects, done: &Collected) {
    let own = Folder { lineage: LINEAGE, installation: author(1).installation };
    let packs: Vec<_> = objects.list(&own.sort("packs")).unwrap();
    let stored: u64 = packs.iter().map(|o| o.size).sum();
    assert!(stored * 4 <= (done.live + packs.len() as u64 * BARE) * 5, "{stored} bytes for {} live", done.live);
    for object in objects.list(&own.sort("redirects")).unwrap() {
        let old: PackId = object.name().parse().unwrap();
        let redirect = Redirect::parse(&object.path, old, &objects.get(&object.path, 1 << 20).unwrap()).unwrap();
        assert!(objects.head(&own.path("packs", old)).unwrap().is_none(), "{old} is both there and moved");
        for to in redirect.moves.iter().map(|m| m.pack) {
            assert!(
                objects.head(&own.path("packs", to)).unwrap().is_some(),
                "{old} is moved to {to}, which is missing"
            );
        }
    }
}

/// A chain of snapshots, each of which replaces parts of the one before.
fn chain(repo: &Repository, ids: std::ops::RangeInclusive<u64>, model: &mut BTreeMap<u64, Content>) {
    for id in ids {
        let base = model.keys().next_back().copied();
        let mut content = base.map(|b| model[&b].clone()).unwrap_or_default();
        let changes: Content = (0..6).map(|i| ((id * (i + 3) + i) % 12 * 50, (id * 7 + i) as u8 % 200 + 1)).collect();
        make(repo, spec(id, CHUNKS, base), &changes);
        content.extend(changes);
        model.insert(id, content);
    }
}

fn delete(repo: &Repository, ids: &[u64], model: &mut BTreeMap<u64, Content>) {
    for id in ids {
        repo.delete(LINEAGE, snap(*id)).unwrap();
        model.remove(id);
    }
}

/// Makes a repository that was compacted, and has garbage in packs old and new.
fn worn() -> (Arc<dyn Objects>, BTreeMap<u64, Content>) {
    let objects = memory();
    Repository::init_in(&*objects, &env().0).unwrap();
    let (repo, mut model) = (over(&objects), BTreeMap::new());
    chain(&repo, 1..=8, &mut model);
    delete(&repo, &[1, 2, 4], &mut model);
    let done = collect(&repo);
    assert!(done.packs > 0 && count(&*objects, "redirects") > 0);
    is_compact(&*objects, &done);
    chain(&repo, 9..=14, &mut model);
    delete(&repo, &[3, 5, 6, 9, 11], &mut model);
    (objects, model)
}

#[test]
fn a_compacted_repository_restores_all_and_is_small() {
    let (objects, model) = worn();
    let repo = over(&objects);
    let would =
        repo.collect(LINEAGE, &All, &Threshold { dry_run: true, ..Threshold::default() }, &mut |_, _| true).unwrap();
    let before: u64 = objects.list("").unwrap().iter().map(|o| o.size).sum();
    let done = collect(&repo);
    assert_eq!((would.packs, would.removed), (done.packs, done.removed), "a dry run says what will be done");
    assert_eq!((would.swept.deleted, would.swept.freed), (done.swept.deleted, done.swept.freed));
    assert!(objects.list("").unwrap().iter().map(|o| o.size).sum::<u64>() < before);
    is_compact(&*objects, &done);
    all_hold(&repo, &model);
    all_hold(&over(&objects), &model);
    let again = collect(&repo);
    assert_eq!((again.packs, again.written, again.swept.deleted), (0, 0, 0), "nothing is left to do");
    // Everything goes when nothing is needed, redirects too.
    for id in model.keys() {
        repo.delete(LINEAGE, snap(*id)).unwrap();
    }
    repo.sweep(LINEAGE).unwrap();
    for sort in ["packs", "pages", "manifests", "redirects"] {
        assert_eq!(count(&*objects, sort), 0, "{sort}");
    }
}

#[test]
fn killed_at_any_put_or_delete_all_snapshots_read_and_the_next_run_finishes() {
    let (worn, model) = worn();
    let mut hits = 0;
    for (call, took_effect) in [(Call::Put, false), (Call::Put, true), (Call::Delete, false), (Call::Delete, true)] {
        for after in 0.. {
            let below = copy_of(&*worn);
            let (env, clock) = env();
            let remote = Remote::over(below.clone(), clock, 0);
            let repo = Repository::open_in(remote.clone(), env, Some(author(1))).unwrap();
            remote.fail(Fault { call, after, kind: Kind::Io, took_effect });
            let ended = repo.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true);
            if !remote.mend() {
                break;
            }
            hits += 1;
            assert_eq!(ended.unwrap_err().kind(), Kind::Io);
            let at = format!("{call:?} {after} {took_effect}");
            // Both who lives on and who starts again.
            for repo in [&repo, &over(&below)] {
                all_hold(repo, &model);
                repo.sweep(LINEAGE).unwrap_or_else(|e| panic!("{at}: {e}"));
                all_hold(repo, &model);
            }
            let repo = if after % 2 == 0 { repo } else { over(&below) };
            let done = collect(&repo);
            is_compact(&*below, &done);
            all_hold(&repo, &model);
            all_hold(&over(&below), &model);
            assert_eq!(count(&*below, "manifests"), model.len(), "{at}");
        }
    }
    assert!(hits > 40, "{hits} calls failed");
}

#[test]
fn by_seeds_what_is_live_restores_whatever_is_made_deleted_and_compacted() {
    for seed in 1..40 {
        let mut dice = Seeded(seed);
        let (mut repo, objects) = hooked();
        let (mut model, mut next) = (BTreeMap::<u64, Content>::new(), 1);
        for _ in 0..40 {
            let some = |dice: &mut Seeded, model: &BTreeMap<u64, Content>| {
                let at = dice.below(model.len().max(1) as u64);
                model.keys().nth(at as usize).copied()
            };
            match dice.below(10) {
                0..=4 => {
                    let base = some(&mut dice, &model).filter(|_| dice.below(6) > 0);
                    let mut content = base.map(|b| model[&b].clone()).unwrap_or_default();
                    let mut changes = Content::new();
                    for _ in 0..dice.below(12) {
                        changes.insert(dice.below(20) * 30, dice.below(6) as u8);
                    }
                    make(&repo, spec(next, CHUNKS, base), &changes);
                    content.extend(changes);
                    model.insert(next, content);
                    next += 1;
                }
                5 | 6 => {
                    let gone = some(&mut dice, &model);
                    gone.into_iter().for_each(|id| delete(&repo, &[id], &mut model));
                }
                7 => drop(repo.sweep(LINEAGE).unwrap()),
                8 => repo = over(&objects),
                _ => is_compact(&*objects, &collect(&repo)),
            }
        }
        is_compact(&*objects, &collect(&repo));
        all_hold(&repo, &model);
        all_hold(&over(&objects), &model);
        let all: Vec<_> = model.keys().copied().collect();
        delete(&repo, &all, &mut model);
        collect(&repo);
        for sort in ["packs", "pages", "manifests", "redirects"] {
            assert_eq!(count(&*objects, sort), 0, "seed {seed}: {sort}");
        }
    }
}

/// Runs `then` at the nth call that matches, once.
fn at(op: &'static str, part: &'static str, nth: usize, then: impl FnOnce() + 'static) -> Rc<Cell<bool>> {
    let (then, seen, called) = (Cell::new(Some(then)), Cell::new(0), Rc::new(Cell::new(false)));
    let tell = called.clone();
    Hooked::call(move |o, path| {
        if o != op || !path.contains(part) {
            return;
        }
        seen.set(seen.get() + 1);
        if seen.get() == nth + 1
            && let Some(then) = then.take()
        {
            tell.set(true);
            then();
        }
    });
    called
}

/// A reader that is between any two calls to the store when packs are compacted finds each body, even if its redirect is
/// rewritten right after it was read.
#[test]
fn a_reader_finds_what_moves_under_it() {
    for part in ["/packs/", "/redirects/"] {
        for nth in 0.. {
            let (worn, mut model) = worn();
            let objects: Arc<dyn Objects> = Arc::new(Hooked(worn));
            let ours = over(&objects);
            // One that only reads, as another installation does, and knows nothing of what ours moves.
            let repo = Repository::open_in(objects.clone(), env().0, None).unwrap();
            let reader = repo.open_snapshot(LINEAGE, snap(7)).unwrap();
            let content = model.remove(&7).unwrap();
            let called = at("get", part, nth, move || drop(collect(&ours)));
            let mut out = vec![0; CHUNK];
            for (n, seed) in &content {
                reader.fetch(ChunkNo(*n), SealedMut::over(&mut out)).unwrap();
                assert!(out == chunk(*seed), "chunk {n}");
            }
            Hooked::call_none();
            if !called.get() {
                assert!(nth > if part == "/packs/" { 3 } else { 0 }, "{part}: {nth} calls");
                break;
            }
        }
    }
}

/// Chunk 5 was moved once; the pack that it is in now is compacted after its redirect was read.
#[test]
fn a_reader_looks_at_a_redirect_again_when_it_was_rewritten_under_it() {
    let (repo, objects) = hooked();
    let seeds = |from: u64, to: u64, seed: u8| (from..to).map(|n| (n, seed)).collect::<Content>();
    make(&repo, spec(1, CHUNKS, None), &seeds(0, 6, 1));
    make(&repo, spec(2, CHUNKS, Some(1)), &seeds(0, 3, 2));
    repo.delete(LINEAGE, snap(1)).unwrap();
    assert_eq!(collect(&repo).packs, 1);
    make(&repo, spec(3, CHUNKS, Some(2)), &seeds(3, 5, 3));
    repo.delete(LINEAGE, snap(2)).unwrap();
    let reader = Repository::open_in(objects, env().0, None).unwrap().open_snapshot(LINEAGE, snap(3)).unwrap();
    // The first is the pack that the leaf entry names, which is gone.
    let called = at("get", "/packs/", 1, move || assert_eq!(collect(&repo).packs, 1));
    let mut out = vec![0; CHUNK];
    reader.fetch(ChunkNo(5), SealedMut::over(&mut out)).unwrap();
    Hooked::call_none();
    assert!(called.get() && out == chunk(1));
}

#[test]
fn a_create_whose_base_is_compacted_meanwhile_completes() {
    // Before its first chunk, between chunks, and at each look of its last check.
    for place in 0..4 {
        let (worn, mut model) = worn();
        let objects: Arc<dyn Objects> = Arc::new(Hooked(worn));
        let repo = over(&objects);
        let writer = repo.begin(spec(20, CHUNKS, Some(7))).unwrap();
        let mut content = model[&7].clone();
        if place == 0 {
            assert!(collect(&repo).packs > 0);
        }
        for (n, seed) in [(0, 9), (50, content[&50]), (77, 3)] {
            writer.put_chunk(ChunkNo(n), Sealed::made_up(&chunk(seed)), KEY).unwrap();
            content.insert(n, seed);
        }
        // The base itself is deleted: only the create needs what it shares with it.
        delete(&repo, &[7], &mut model);
        let other = repo.clone();
        match place {
            1 => drop(collect(&repo)),
            2 => drop(at("list", "/packs", 0, move || drop(collect(&other)))),
            3 => drop(at("list", "/redirects", 0, move || drop(collect(&other)))),
            _ => {}
        }
        writer.finish().unwrap();
        Hooked::call_none();
        model.insert(20, content);
        all_hold(&repo, &model);
        is_compact(&*objects, &collect(&repo));
        all_hold(&over(&objects), &model);
    }
}

/// While bodies are copied, snapshots are made and deleted and swept: what is copied may be garbage by then, even its pack.
#[test]
fn while_bodies_are_copied_anything_may_happen() {
    for nth in 0..3 {
        let (worn, model) = worn();
        let objects: Arc<dyn Objects> = Arc::new(Hooked(worn));
        let repo = over(&objects);
        let (model, seen) = (Rc::new(std::cell::RefCell::new(model)), Cell::new(0));
        let (other, shared) = (repo.clone(), model.clone());
        let mut go_on = |_, _| {
            let now = seen.replace(seen.get() + 1);
            if now == nth {
                let mut model = shared.borrow_mut();
                delete(&other, &[7, 8, 10], &mut model);
                assert!(other.sweep(LINEAGE).unwrap().deleted > 0);
                chain(&other, 15..=16, &mut model);
                delete(&other, &[12, 15], &mut model);
                other.sweep(LINEAGE).unwrap();
            }
            true
        };
        repo.collect(LINEAGE, &All, &Threshold::default(), &mut go_on).unwrap();
        all_hold(&repo, &model.borrow());
        is_compact(&*objects, &collect(&repo));
        all_hold(&over(&objects), &model.borrow());
    }
}

#[test]
fn one_compaction_at_a_time_and_one_can_be_stopped() {
    let (objects, model) = worn();
    let repo = over(&objects);
    let other = repo.clone();
    let mut go_on = |_, _| {
        let err = other.collect(LINEAGE, &All, &Threshold::default(), &mut |_, _| true).unwrap_err();
        assert_eq!(err.kind(), Kind::Busy);
        false
    };
    let err = repo.collect(LINEAGE, &All, &Threshold::default(), &mut go_on).unwrap_err();
    assert_eq!(err.kind(), Kind::Interrupted);
    all_hold(&repo, &model);
    is_compact(&*objects, &collect(&repo));
}

#[test]
fn packs_of_held_snapshots_are_left_alone() {
    let (objects, mut model) = worn();
    let repo = over(&objects);
    let packs = || objects.list("").unwrap().into_iter().filter(|o| o.path.contains("/packs/")).map(|o| o.path);
    let before: BTreeSet<_> = packs().collect();
    repo.hold(LINEAGE, snap(7), true).unwrap();
    let reached = repo.open_snapshot(LINEAGE, snap(7)).unwrap();
    let mut kept = BTreeSet::new();
    let own = Folder { lineage: LINEAGE, installation: author(1).installation };
    for n in model[&7].keys() {
        let entry = reached.tree().entry(ChunkNo(*n)).unwrap();
        let redirect = repo.inner.redirect(own, entry.pack()).unwrap();
        let moved = redirect.and_then(|r| r.find(entry.offset, entry.length));
        kept.insert(own.path("packs", moved.map_or(entry.pack(), |m| m.pack)));
    }
    let done = collect(&repo);
    let after: BTreeSet<_> = packs().collect();
    assert!(kept.is_subset(&after) && done.held > 0, "{done:?}");
    assert!(before.difference(&after).count() > 0, "others are compacted");
    repo.hold(LINEAGE, snap(7), false).unwrap();
    is_compact(&*objects, &collect(&repo));
    all_hold(&repo, &model);
    delete(&repo, &[7], &mut model);
    is_compact(&*objects, &collect(&repo));
    all_hold(&repo, &model);
}

/// What a pending snapshot has put is neither garbage nor compacted.
#[test]
fn packs_of_pending_snapshots_are_left_alone() {
    struct Pending(PackId);
    impl Needs for Pending {
        fn of(&self, _: &str, _: Option<&super::super::refs::Ref>) -> super::super::mark::Need {
            super::super::mark::Need::Keep
        }
        fn packs(&self) -> BTreeSet<PackId> {
            [self.0].into()
        }
    }
    let (objects, model) = worn();
    let repo = over(&objects);
    let own = repo.inner.own(LINEAGE).unwrap();
    let mut pack = PackBuilder::new(PackId([9; 16]), LINEAGE);
    let sealed = chunk(4);
    let map = super::super::pack::map_of(&sealed);
    let hash = super::super::pack::body_hash(&sealed, map);
    pack.append(ChunkNo(1), map, KEY.tag(), hash, &sealed).unwrap();
    let staged = own.path("packs", pack.id());
    objects.put_new(&staged, Bytes::from(pack.seal())).unwrap();
    repo.collect(LINEAGE, &Pending(PackId([9; 16])), &Threshold::default(), &mut |_, _| true).unwrap();
    assert!(objects.head(&staged).unwrap().is_some());
    all_hold(&repo, &model);
    collect(&repo);
    assert!(objects.head(&staged).unwrap().is_none(), "once nothing is pending, it is swept");
}

#[test]
fn a_damaged_pack_is_named_and_left_alone_and_a_damaged_redirect_stops_everything() {
    let (objects, model) = worn();
    let own = Folder { lineage: LINEAGE, installation: author(1).installation };
    let would = Threshold { dry_run: true, ..Threshold::default() };
    assert!(over(&objects).collect(LINEAGE, &All, &would, &mut |_, _| true).unwrap().packs > 1);
    // The first body of each pack in turn.
    for object in objects.list(&own.sort("packs")).unwrap() {
        let copy = copy_of(&*objects);
        let good = copy.get(&object.path, 1 << 26).unwrap();
        let mut bad = good.to_vec();
        let (head, offset) = parse_pack(&object.path, &good).unwrap().bodies[0];
        bad[offset as usize + HEAD] ^= 1;
        copy.put_over(&object.path, Bytes::from(bad)).unwrap();
        let repo = over(&copy);
        let done = collect(&repo);
        let is_left = copy.head(&object.path).unwrap().is_some();
        assert_eq!(done.damaged.len(), usize::from(is_left && done.damaged.len() == 1), "{done:?}");
        assert!(done.damaged.iter().all(|why| why.contains(&object.path) && is_left), "{done:?}");
        if is_left {
            copy.put_over(&object.path, good).unwrap();
        }
        // If the damaged body was garbage, nothing is lost.
        all_hold(&over(&copy), &model);
        assert!(head.length > 0);
    }
    let redirect = objects.list(&own.sort("redirects")).unwrap()[0].path.clone();
    let mut bad = objects.get(&redirect, 1 << 20).unwrap().to_vec();
    bad[70] ^= 1;
    objects.put_over(&redirect, Bytes::from(bad)).unwrap();
    let before = objects.list("").unwrap().len();
    let done = collect(&over(&objects));
    assert!(done.swept.blind.unwrap().contains(&redirect));
    assert_eq!(objects.list("").unwrap().len(), before);
}

#[test]
fn other_installations_read_and_extend_what_was_compacted() {
    let (objects, mut model) = worn();
    let (env, clock) = env();
    let theirs = Repository::open_in(objects.clone(), env.clone(), Some(author(2))).unwrap();
    let ours = Repository::open_in(objects.clone(), env, Some(author(1))).unwrap();
    let later = |clock: &TestClock| clock.0.fetch_add(GRACE + 1_000_000, Ordering::SeqCst);
    theirs.put_ref(LINEAGE, "base", RefKind::Volume, snap(8)).unwrap();
    make(&theirs, spec(30, CHUNKS, Some(8)), &[(1, 5)].into());
    let mut content = model[&8].clone();
    content.insert(1, 5);
    model.insert(30, content);
    // Nothing of what was deleted is garbage on that day.
    assert_eq!(collect(&ours).packs, 0);
    later(&clock);
    assert!(collect(&ours).packs > 0);
    all_hold(&theirs, &model);
    ours.delete(LINEAGE, snap(8)).unwrap();
    model.remove(&8);
    theirs.delete_ref(LINEAGE, "base").unwrap();
    later(&clock);
    collect(&ours);
    // Only their snapshot reaches some of our packs now.
    all_hold(&theirs, &model);
    make(&theirs, spec(31, CHUNKS, Some(30)), &[(2, 5)].into());
    let mut content = model[&30].clone();
    content.insert(2, 5);
    model.insert(31, content);
    all_hold(&theirs, &model);
    collect(&theirs);
    all_hold(&ours, &model);
}

#[test]
fn a_threshold_puts_compaction_off() {
    let (objects, _) = worn();
    let repo = over(&objects);
    let none =
        repo.collect(LINEAGE, &All, &Threshold { bytes: 1 << 30, ..Threshold::default() }, &mut |_, _| true).unwrap();
    assert!(none.packs == 0 && none.garbage > 0);
    let none =
        repo.collect(LINEAGE, &All, &Threshold { percent: 99, ..Threshold::default() }, &mut |_, _| true).unwrap();
    assert_eq!(none.packs, 0);
    let done =
        repo.collect(LINEAGE, &All, &Threshold { bytes: 1, percent: 5, dry_run: false }, &mut |_, _| true).unwrap();
    assert!(done.packs > 0 && done.garbage < none.garbage);
}

/// A sweep trims the log, and who reads it from its beginning finds the same snapshots.
#[test]
fn a_sweep_trims_the_log() {
    let (repo, objects) = hooked();
    let (mut model, own) = (BTreeMap::new(), repo.inner.own(LINEAGE).unwrap());
    chain(&repo, 1..=2, &mut model);
    for n in 0..600 {
        repo.hold(LINEAGE, snap(2), n % 2 == 0).unwrap();
    }
    assert!(count(&*objects, "log") > 600);
    repo.sweep(LINEAGE).unwrap();
    assert!(count(&*objects, "log") < 400);
    assert!(objects.head(&own.path("log", "0000000000000000")).unwrap().is_some());
    repo.hold(LINEAGE, snap(1), true).unwrap();
    let again = over(&objects);
    all_hold(&again, &model);
    assert_eq!(again.last_log_number(LINEAGE).unwrap(), repo.last_log_number(LINEAGE).unwrap());
    assert!(again.live(LINEAGE, snap(1)).unwrap().unwrap().held);
}

#[test]
fn a_sweep_leaves_alone_the_new_pack_that_nothing_names_yet() {
    let (worn, model) = worn();
    let objects: Arc<dyn Objects> = Arc::new(Hooked(worn));
    let repo = over(&objects);
    let other = repo.clone();
    let called = at("head", "/packs/", 0, move || drop(other.sweep(LINEAGE).unwrap()));
    let done = collect(&repo);
    Hooked::call_none();
    assert!(called.get() && done.packs > 0);
    is_compact(&*objects, &done);
    all_hold(&over(&objects), &model);
}
