//! A remote repository whose calls take time and may fail: each operation reports the failure, damages nothing and can
//! be repeated.

use super::objects::Objects;
use super::reader::Verify;
use super::repository::Repository;
use super::testing::{Call, Fault, KEY, LINEAGE, Remote, author, chunk, env, memory, snap, spec};
use crate::cipher::{Sealed, SealedMut};
use crate::error::{Error, Kind, Result};
use crate::units::{CHUNK, ChunkNo};
use crate::volume::parent::Parent;
use std::sync::Arc;

/// Latency of a call in milliseconds.
const LATENCY: i64 = 250;
const CHUNKS: u64 = 600;
const FIRST: [(u64, u8); 3] = [(3, 1), (4, 9), (500, 0)];
const SECOND: [(u64, u8); 3] = [(3, 1), (4, 2), (500, 3)];

/// A repository with the snapshot 1, and perhaps 2 on top of it; reopened, so that nothing of it is in memory.
struct World {
    below: Arc<dyn Objects>,
    remote: Arc<Remote>,
    repo: Repository,
}

impl World {
    fn new(snapshots: u64) -> Self {
        let (below, (env, clock)) = (memory(), env());
        Repository::init_in(&*below, &env).unwrap();
        let near = Repository::open_in(below.clone(), env.clone(), Some(author(1))).unwrap();
        take(&near, 1, &FIRST).unwrap();
        if snapshots == 2 {
            take(&near, 2, &SECOND).unwrap();
        }
        let remote = Remote::read_once(below.clone(), clock, LATENCY);
        let repo = Repository::open_in(remote.clone(), env, Some(author(1))).unwrap();
        Self { below, remote, repo }
    }

    /// Opens it as another process would.
    fn another(&self) -> Repository {
        Repository::open_in(self.below.clone(), env().0, Some(author(1))).unwrap()
    }

    fn packs(&self) -> usize {
        self.below.list("").unwrap().iter().filter(|o| o.path.contains("/packs/")).count()
    }
}

fn take(repo: &Repository, id: u64, content: &[(u64, u8)]) -> Result<()> {
    let writer = repo.begin(spec(id, CHUNKS, (id > 1).then_some(id - 1)))?;
    for (n, seed) in content {
        writer.put_chunk(ChunkNo(*n), Sealed::made_up(&chunk(*seed)), KEY)?;
    }
    writer.finish().map(drop)
}

/// Restores chunks, and compares them.
fn restore(repo: &Repository, id: u64, content: &[(u64, u8)]) -> Result<()> {
    let reader = repo.open_snapshot(LINEAGE, snap(id))?;
    for (n, seed) in content {
        let mut out = vec![0xee; CHUNK];
        reader.fetch(ChunkNo(*n), SealedMut::over(&mut out))?;
        assert!(out == chunk(*seed), "{id}: chunk {n} is another one");
    }
    Ok(())
}

/// Returns the first error, of the snapshot or of a chunk.
fn verify(repo: &Repository, id: u64) -> Result<()> {
    let found = repo.verify(LINEAGE, snap(id), &mut Verify::default(), &mut |_, _| true)?;
    found.bad.into_iter().next().map_or(Ok(()), |bad| Err(bad.error))
}

fn is_good(repo: &Repository, id: u64, content: &[(u64, u8)]) {
    restore(repo, id, content).unwrap();
    verify(repo, id).unwrap();
}

/// Runs `act` with each call of each kind failing in turn, before or after it takes effect, then `again` with a working
/// store. Checks that an error of `act` is the store's own. Returns how many faults were hit.
fn at_every_call(
    snapshots: u64,
    act: impl Fn(&Repository) -> Result<()>,
    again: impl Fn(&World, Fault, Option<Error>),
) -> u64 {
    let mut met = 0;
    for call in Call::ALL {
        for took_effect in [false, true] {
            for after in 0.. {
                let kind = [Kind::Io, Kind::AccessDenied, Kind::NoSpace][after as usize % 3];
                let fault = Fault { call, after, kind, took_effect };
                let world = World::new(snapshots);
                world.remote.fail(fault);
                let failed = act(&world.repo).err();
                if !world.remote.mend() {
                    assert!(failed.is_none(), "{fault:?}: {failed:?}");
                    break;
                }
                met += 1;
                if let Some(err) = &failed {
                    let told = err.line();
                    assert!(told.contains("told to fail"), "{fault:?}: {told}");
                    assert_eq!(err.kind(), kind, "{fault:?}: {told}");
                }
                again(&world, fault, failed);
            }
        }
    }
    met
}

#[test]
fn a_snapshot_whose_create_failed_is_whole_or_absent_and_is_created_again() {
    let met = at_every_call(
        1,
        |repo| take(repo, 2, &SECOND),
        |world, fault, failed| {
            let seen = world.another();
            is_good(&seen, 1, &FIRST);
            match seen.locate(LINEAGE, snap(2)) {
                Ok(_) => is_good(&seen, 2, &SECOND),
                Err(err) => assert!(err.kind() == Kind::NotFound && failed.is_some(), "{fault:?}: {err:?}"),
            }
            drop(seen);
            match take(&world.repo, 2, &SECOND) {
                Ok(()) => {}
                Err(err) => assert_eq!(err.kind(), Kind::Exists, "{fault:?}: {}", err.line()),
            }
            world.repo.sweep(LINEAGE).unwrap();
            for repo in [&world.repo, &world.another()] {
                is_good(repo, 1, &FIRST);
                is_good(repo, 2, &SECOND);
            }
            assert_eq!(world.packs(), 2, "{fault:?}: a pack that nobody needs was left");
        },
    );
    assert!(met > 20, "{met} faults");
}

#[test]
fn a_verify_that_could_not_read_something_never_says_that_all_is_good() {
    let met = at_every_call(
        2,
        |repo| verify(repo, 2),
        |world, fault, failed| {
            assert!(failed.is_some(), "{fault:?} was not told");
            verify(&world.repo, 2).unwrap();
        },
    );
    assert!(met > 5, "{met} faults");
}

#[test]
fn a_restore_fails_or_gives_the_right_bytes_and_can_be_repeated() {
    let met = at_every_call(
        2,
        |repo| restore(repo, 2, &SECOND),
        |world, fault, failed| {
            assert!(failed.is_some(), "{fault:?} was not told");
            restore(&world.repo, 2, &SECOND).unwrap();
        },
    );
    assert!(met > 5, "{met} faults");
}

#[test]
fn a_delete_that_failed_is_done_again_and_takes_nothing_of_its_neighbour() {
    let delete = |repo: &Repository| {
        match repo.delete(LINEAGE, snap(2)) {
            Err(err) if err.kind() == Kind::InvalidState => {} // an earlier attempt took effect
            other => other?,
        }
        repo.sweep(LINEAGE).map(drop)
    };
    let met = at_every_call(2, delete, |world, fault, _| {
        is_good(&world.another(), 1, &FIRST);
        delete(&world.repo).unwrap();
        for repo in [&world.repo, &world.another()] {
            is_good(repo, 1, &FIRST);
            let live = repo.live(LINEAGE, snap(2)).unwrap();
            assert!(live.is_none(), "{fault:?}: it is still there");
        }
        assert_eq!(world.packs(), 1, "{fault:?}");
    });
    assert!(met > 10, "{met} faults");
}
