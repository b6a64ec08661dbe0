use super::super::objects::Objects;
use super::super::reader::Verify;
use super::super::refs::RefKind;
use super::super::testing::{KEY, LINEAGE, author, count, env, holds, make, repository, snap, spec};
use super::*;
use crate::cipher::Sealed;
use crate::error::Kind;
use crate::units::{CHUNK, ChunkNo};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CHUNKS: u64 = 300;

#[derive(Debug, Clone)]
enum Step {
    Create(Option<prop::sample::Index>, Vec<(u64, u8)>),
    Delete(prop::sample::Index),
    Ref(prop::sample::Index),
    Unref(prop::sample::Index),
    Sweep,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![0u64..4, Just(256), Just(299)];
    let content = proptest::collection::vec((place, 0u8..5), 0..4);
    prop_oneof![
        4 => (any::<Option<prop::sample::Index>>(), content).prop_map(|(base, c)| Step::Create(base, c)),
        3 => any::<prop::sample::Index>().prop_map(Step::Delete),
        1 => any::<prop::sample::Index>().prop_map(Step::Ref),
        1 => any::<prop::sample::Index>().prop_map(Step::Unref),
        2 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

type Model = BTreeMap<u64, BTreeMap<u64, u8>>;

struct World {
    repo: Repository,
    objects: Arc<dyn Objects>,
    live: Model,
    /// Deleted, but kept by a ref.
    hidden: Model,
    refs: HashSet<u64>,
    next: u64,
}

impl World {
    fn pick(map: &Model, index: &prop::sample::Index) -> Option<u64> {
        (!map.is_empty()).then(|| *index.get(&map.keys().collect::<Vec<_>>()).to_owned())
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Create(base, changes) => {
                self.next += 1;
                let base = base.and_then(|i| Self::pick(&self.live, &i));
                let mut content = base.map(|b| self.live[&b].clone()).unwrap_or_default();
                let changes: BTreeMap<u64, u8> = changes.into_iter().collect();
                make(&self.repo, spec(self.next, CHUNKS, base), &changes);
                content.extend(changes);
                self.live.insert(self.next, content);
            }
            Step::Delete(i) => {
                let Some(id) = Self::pick(&self.live, &i) else { return };
                self.repo.delete(LINEAGE, snap(id)).unwrap();
                let content = self.live.remove(&id).unwrap();
                if self.refs.contains(&id) {
                    self.hidden.insert(id, content);
                }
            }
            Step::Ref(i) => {
                let Some(id) = Self::pick(&self.live, &i) else { return };
                self.repo.put_ref(LINEAGE, &format!("r{id}"), RefKind::Volume, snap(id)).unwrap();
                self.refs.insert(id);
            }
            Step::Unref(i) => {
                if self.refs.is_empty() {
                    return;
                }
                let id = *i.get(&self.refs.iter().copied().collect::<Vec<_>>());
                self.repo.delete_ref(LINEAGE, &format!("r{id}")).unwrap();
                self.refs.remove(&id);
                self.hidden.remove(&id);
            }
            Step::Sweep => drop(self.repo.sweep(LINEAGE).unwrap()),
            Step::Reopen => {
                self.repo = Repository::open_in(self.objects.clone(), env().0, Some(author(1))).unwrap();
            }
        }
    }

    fn check(&self) {
        for (id, content) in self.live.iter().chain(&self.hidden) {
            holds(&self.repo, *id, content);
        }
        assert_eq!(self.repo.list(LINEAGE).unwrap().len(), self.live.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_live_or_needed_restores_and_the_rest_goes(steps in proptest::collection::vec(step(), 1..24)) {
        let (repo, objects) = repository();
        let mut world =
            World { repo, objects, live: Model::new(), hidden: Model::new(), refs: HashSet::new(), next: 0 };
        for step in steps {
            world.apply(step);
        }
        world.repo.sweep(LINEAGE).unwrap();
        world.check();
        for id in world.live.keys() {
            world.repo.delete(LINEAGE, snap(*id)).unwrap();
        }
        for id in &world.refs {
            world.repo.delete_ref(LINEAGE, &format!("r{id}")).unwrap();
        }
        world.repo.sweep(LINEAGE).unwrap();
        for sort in ["packs", "pages", "manifests", "redirects", "refs"] {
            prop_assert_eq!(count(&*world.objects, sort), 0, "{}", sort);
        }
    }
}

#[test]
fn with_other_installations_a_day_passes_first() {
    let (_, objects) = repository();
    let (env, clock) = env();
    let ours = Repository::open_in(objects.clone(), env.clone(), Some(author(1))).unwrap();
    let theirs = Repository::open_in(objects.clone(), env, Some(author(2))).unwrap();
    make(&ours, spec(1, CHUNKS, None), &[(0, 1)].into());
    make(&ours, spec(2, CHUNKS, Some(1)), &[(1, 2)].into());
    theirs.put_ref(LINEAGE, "vol", RefKind::Volume, snap(1)).unwrap();
    make(&theirs, spec(3, CHUNKS, Some(1)), &[(256, 3)].into());
    ours.delete(LINEAGE, snap(1)).unwrap();
    ours.delete(LINEAGE, snap(2)).unwrap();
    assert_eq!(theirs.put_ref(LINEAGE, "late", RefKind::Volume, snap(2)).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(theirs.refs(LINEAGE).unwrap().len(), 1);
    let swept = ours.sweep(LINEAGE).unwrap();
    assert_eq!((swept.deleted, swept.kept), (0, 2));
    clock.0.fetch_add(GRACE, Ordering::SeqCst);
    assert_eq!(ours.sweep(LINEAGE).unwrap().kept, 1);
    holds(&theirs, 1, &[(0, 1), (1, 0)].into());
    // The ref is removed; the other installation's own snapshot still uses our pages.
    theirs.delete_ref(LINEAGE, "vol").unwrap();
    ours.sweep(LINEAGE).unwrap();
    holds(&theirs, 3, &[(0, 1), (256, 3)].into());
    theirs.delete(LINEAGE, snap(3)).unwrap();
    clock.0.fetch_add(GRACE, Ordering::SeqCst);
    theirs.sweep(LINEAGE).unwrap();
    ours.sweep(LINEAGE).unwrap();
    assert_eq!((count(&*objects, "packs"), count(&*objects, "pages")), (0, 0));
}

#[test]
fn a_running_create_keeps_its_base_and_its_own() {
    let (repo, objects) = repository();
    make(&repo, spec(1, CHUNKS, None), &[(0, 1)].into());
    let writer = repo.begin(spec(2, CHUNKS, Some(1))).unwrap();
    for n in 1..80 {
        writer.put_chunk(ChunkNo(n), Sealed::made_up(&vec![5; CHUNK]), KEY).unwrap();
    }
    repo.delete(LINEAGE, snap(1)).unwrap();
    let before = count(&*objects, "packs");
    assert_eq!((before, repo.sweep(LINEAGE).unwrap().deleted), (2, 0));
    writer.finish().unwrap();
    repo.sweep(LINEAGE).unwrap();
    let verified = repo.verify(LINEAGE, snap(2), &mut Verify::default(), &mut |_, _| true).unwrap();
    assert_eq!((verified.chunks, verified.bad.len()), (80, 0));
}

#[test]
fn a_held_snapshot_stays() {
    let (repo, _) = repository();
    make(&repo, spec(1, CHUNKS, None), &[(0, 1)].into());
    repo.hold(LINEAGE, snap(1), true).unwrap();
    assert_eq!(repo.delete(LINEAGE, snap(1)).unwrap_err().kind(), Kind::InvalidState);
    repo.hold(LINEAGE, snap(1), false).unwrap();
    repo.delete(LINEAGE, snap(1)).unwrap();
    assert!(repo.open_snapshot(LINEAGE, snap(1)).is_ok(), "hidden, but not swept yet");
    repo.sweep(LINEAGE).unwrap();
    assert_eq!(repo.open_snapshot(LINEAGE, snap(1)).err().unwrap().kind(), Kind::NotFound);
}
