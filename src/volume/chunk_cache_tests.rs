//! Scripted: each thread waits for a message from the test, never for time.

use super::*;
use crate::cipher::Sealed;
use crate::error::{Error, Kind};
use crate::volume::testing::Seeded;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

const ONE: ChunkNo = ChunkNo(1);

fn filled(n: u64) -> impl FnOnce(SealedMut<'_>) -> Result<u64> {
    move |mut out: SealedMut<'_>| {
        out.copy_from(Sealed::made_up(&[n as u8; CHUNK]));
        Ok(n)
    }
}

/// A fetch that reports when it begins, and ends with the result it is sent.
fn told(began: Sender<()>, end: Receiver<Result<u64>>) -> impl FnOnce(SealedMut<'_>) -> Result<u64> {
    move |mut out: SealedMut<'_>| {
        began.send(()).unwrap();
        let n = end.recv().expect("told to panic")?;
        out.copy_from(Sealed::made_up(&[n as u8; CHUNK]));
        Ok(n)
    }
}

/// Waits until so many wait for the fetch of [`ONE`]: its turn is referenced by the list, the fetching thread, and
/// those who wait.
fn until_waiting(fetched: &ChunkCache<u64>, waiting: usize) {
    loop {
        let state = fetched.state.lock();
        let holders = state.under_way.iter().find(|t| t.chunk == ONE).map_or(0, Arc::strong_count);
        drop(state);
        if holders == 2 + waiting {
            return;
        }
        std::thread::yield_now();
    }
}

/// One thread fetches, `waiting` others wait for it; then the fetch ends with `end`. Returns the results of the first
/// and of the others, whose own fetches return 7, and how often they fetched.
fn race(fetched: &ChunkCache<u64>, waiting: usize, end: Option<Result<u64>>) -> (Option<Result<u64>>, Vec<u64>, usize) {
    let (began, has_begun) = channel();
    let (say, said) = channel();
    let fetches = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fetched.get(ONE, told(began, said)).map(|body| body.key));
        has_begun.recv().unwrap();
        let other = || {
            let body = fetched.get(ONE, |out| {
                fetches.fetch_add(1, Ordering::Relaxed);
                filled(7)(out)
            });
            let body = body.unwrap();
            assert!(body.sealed.iter().all(|b| u64::from(*b) == body.key));
            body.key
        };
        let others: Vec<_> = (0..waiting).map(|_| scope.spawn(other)).collect();
        until_waiting(fetched, waiting);
        match end {
            Some(end) => say.send(end).unwrap(),
            None => drop(say),
        }
        let first = first.join().ok();
        (first, others.into_iter().map(|o| o.join().unwrap()).collect(), fetches.load(Ordering::Relaxed))
    })
}

#[test]
fn a_chunk_that_several_need_is_fetched_once_even_if_it_is_not_kept() {
    for room in [0, 4] {
        let (first, others, fetches) = race(&ChunkCache::new(room), 3, Some(Ok(5)));
        assert_eq!((first.unwrap().unwrap(), others, fetches), (5, vec![5; 3], 0));
    }
}

#[test]
fn who_waited_for_a_fetch_that_failed_or_panicked_fetches_itself() {
    let fetched = ChunkCache::new(4);
    let (first, others, fetches) = race(&fetched, 3, Some(Err(Error::new(Kind::Io, "told to fail"))));
    assert_eq!(first.unwrap().unwrap_err().kind(), Kind::Io);
    assert_eq!((others, fetches), (vec![7; 3], 1));
    let (first, others, fetches) = race(&ChunkCache::new(4), 3, None);
    assert!(first.is_none(), "it panicked");
    assert_eq!((others, fetches), (vec![7; 3], 1));
    assert!(fetched.state.lock().under_way.is_empty());
}

#[test]
fn the_last_ones_are_kept_and_closing_keeps_none() {
    let fetched = ChunkCache::new(2);
    for n in 1..=3 {
        fetched.get(ChunkNo(n), filled(n)).unwrap();
    }
    assert_eq!([1, 2, 3].map(|n| fetched.peek(ChunkNo(n)).map(|b| b.key)), [None, Some(2), Some(3)]);
    fetched.close();
    assert_eq!(fetched.get(ChunkNo(3), filled(9)).unwrap().key, 9);
    assert!(fetched.peek(ChunkNo(3)).is_none() && fetched.state.lock().spare.is_empty());
}

/// By seeds: whatever is fetched, held, dropped and fails, a body that someone holds is never overwritten.
#[test]
fn a_buffer_goes_round_only_when_nobody_holds_it() {
    for seed in 1..=20u64 {
        println!("seed {seed}");
        let (mut rng, fetched, mut held) = (Seeded(seed), ChunkCache::new(3), Vec::<(u64, Body<u64>)>::new());
        for _ in 0..200 {
            let n = rng.below(9);
            let fails = rng.below(4) == 0;
            let got = fetched.get(ChunkNo(n), |mut out| {
                out.copy_from(Sealed::made_up(&[if fails { 0xee } else { n as u8 }; CHUNK]));
                if fails { Err(Error::new(Kind::Io, "told to fail")) } else { Ok(n) }
            });
            held.extend(got.ok().map(|body| (n, body)));
            if rng.below(2) == 0 && !held.is_empty() {
                held.swap_remove(rng.below(held.len() as u64) as usize);
            }
            if held.len() > 6 {
                held.clear();
            }
            for (n, body) in &held {
                assert!(
                    body.key == *n && body.sealed.iter().all(|b| u64::from(*b) == *n),
                    "chunk {n} was written over"
                );
            }
        }
    }
}

#[test]
fn what_is_fetched_ahead_is_shared_kept_and_fetched_once() {
    let fetched = ChunkCache::new(4);
    let (began, has_begun) = channel();
    let (say, said) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| fetched.get_ahead(ONE, told(began, said)));
        has_begun.recv().unwrap();
        fetched.get_ahead(ONE, |_| panic!("it is under way"));
        let reader = scope.spawn(|| fetched.get(ONE, |_| panic!("it is under way")).unwrap().key);
        until_waiting(&fetched, 1);
        say.send(Ok(5)).unwrap();
        assert_eq!(reader.join().unwrap(), 5);
    });
    fetched.get_ahead(ONE, |_| panic!("it is kept"));
    assert_eq!(fetched.get(ONE, filled(9)).unwrap().key, 5);
    fetched.get_ahead(ChunkNo(2), |_| Err(Error::new(Kind::Io, "told to fail")));
    assert_eq!(fetched.get(ChunkNo(2), filled(2)).unwrap().key, 2, "its reader tries again");
    fetched.close();
    fetched.get_ahead(ChunkNo(3), |_| panic!("nothing is kept any more"));
}

#[test]
fn a_reader_waits_for_a_chunk_that_is_fetched_ahead_only_for_a_while() {
    let fetched = ChunkCache::new(4);
    let (began, has_begun) = channel();
    let (say, said) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| fetched.get_ahead(ONE, told(began, said)));
        has_begun.recv().unwrap();
        // It does not come. Two readers share one fetch of their own.
        let reader = || fetched.get(ONE, filled(7)).unwrap().key;
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        assert_eq!(readers.map(|r| r.join().unwrap()), [7, 7]);
        say.send(Ok(5)).unwrap();
    });
    // Whichever is kept, it is kept once.
    let state = fetched.state.lock();
    assert!(state.kept.len() == 1 && state.under_way.is_empty());
}

#[test]
fn what_no_reader_asked_for_is_fetched_once_and_not_kept() {
    let fetched = ChunkCache::new(2);
    fetched.get(ChunkNo(1), filled(1)).unwrap();
    for n in 2..9 {
        assert_eq!(fetched.get_once(ChunkNo(n), filled(n)).unwrap().key, n);
        assert!(!fetched.has(ChunkNo(n)));
    }
    assert_eq!(fetched.get_once(ChunkNo(1), filled(9)).unwrap().key, 1, "from memory");
    assert!(fetched.has(ChunkNo(1)));
    fetched.make_room(3);
    (2..5).for_each(|n| drop(fetched.get(ChunkNo(n), filled(n)).unwrap()));
    assert_eq!([1, 2, 3, 4].map(|n| fetched.has(ChunkNo(n))), [false, true, true, true]);
}
