use super::*;
use crate::volume::testing::{Gate, Seeded};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns the notes and results of a line in their order.
fn line(threads: usize, entries: &[Option<u64>], work: impl Fn(u64) -> u64 + Sync) -> Vec<(usize, Option<u64>)> {
    in_order(
        threads,
        || (),
        |(), task| work(task),
        |line| {
            let mut out = Vec::new();
            let mut take = |line: &mut Line<'_, usize, u64, u64>, all| {
                while let Some(head) = line.next(all) {
                    out.push(match head {
                        Head::Note(note) => (note, None),
                        Head::Done(note, done) => (note, Some(done.unwrap())),
                    });
                }
            };
            for (note, task) in entries.iter().enumerate() {
                match task {
                    Some(task) => line.give(note, *task),
                    None => line.note(note),
                }
                take(line, false);
            }
            take(line, true);
            out
        },
    )
}

/// By seeds: whatever tasks there are, and however long each takes, the results come in order, each once.
#[test]
fn results_come_in_the_order_of_their_tasks() {
    for seed in 1..=30u64 {
        println!("seed {seed}");
        let mut rng = Seeded(seed);
        let entries: Vec<_> = (0..500).map(|n| (rng.below(4) > 0).then_some(n)).collect();
        let work = |n: u64| {
            (0..Seeded(seed + n).below(2000)).for_each(|_| std::hint::spin_loop());
            n * 2
        };
        let expected: Vec<_> = entries.iter().enumerate().map(|(i, n)| (i, n.map(|n| n * 2))).collect();
        for threads in [1, 2, 5] {
            assert_eq!(line(threads, &entries, work), expected, "{threads} threads");
        }
    }
}

#[test]
fn one_thread_is_the_callers() {
    let here = std::thread::current().id();
    line(1, &[Some(1), Some(2)], |n| {
        assert_eq!(std::thread::current().id(), here);
        n
    });
}

#[test]
fn no_more_tasks_are_open_than_there_are_threads_and_one() {
    let (gate, begun) = (Gate::closed(), AtomicUsize::new(0));
    let work = |(): &mut (), ()| {
        begun.fetch_add(1, Ordering::SeqCst);
        gate.pass();
    };
    in_order(
        3,
        || (),
        work,
        |line| {
            (0..3).for_each(|n| line.give(n, ()));
            gate.await_arrival();
            assert!(line.next(false).is_none(), "there is room for more");
            line.give(3, ());
            assert!(line.open == 4 && begun.load(Ordering::SeqCst) <= 3);
            std::thread::scope(|scope| {
                scope.spawn(|| gate.open());
                assert!(matches!(line.next(false), Some(Head::Done(0, Some(())))), "it waits for the head");
            });
        },
    );
}
