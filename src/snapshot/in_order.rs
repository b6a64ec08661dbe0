//! Work done by several threads, whose results are taken in the order in which it was given.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

/// Most entries in a line, with and without work.
const LONGEST: usize = 4096;

/// A task, and where its result goes.
type Given<T, R> = (T, SyncSender<R>);

/// Entries that wait for their turn: each has a note of the caller's, and perhaps a task.
pub(super) struct Line<'a, N, T, R> {
    waiting: VecDeque<(N, Due<R>)>,
    /// Tasks whose results were not taken.
    open: usize,
    threads: usize,
    give: Option<Sender<Given<T, R>>>,
    /// Does a task in the caller's thread, if there is no other.
    here: &'a mut dyn FnMut(T) -> R,
}

enum Due<R> {
    Nothing,
    Done(R),
    Coming(Receiver<R>),
}

/// The entry at the head of a line.
pub(super) enum Head<N, R> {
    /// It had no task.
    Note(N),
    /// Its task was done; `None`: it panicked.
    Done(N, Option<R>),
}

impl<N, T, R> Line<'_, N, T, R> {
    /// Adds an entry without a task.
    pub(super) fn note(&mut self, note: N) {
        self.waiting.push_back((note, Due::Nothing));
    }

    /// Adds an entry with a task. Without threads, it is done now.
    pub(super) fn give(&mut self, note: N, task: T) {
        let due = if let Some(give) = &self.give {
            let (tell, told) = sync_channel(1);
            // The threads end only after the line.
            let _ = give.send((task, tell));
            self.open += 1;
            Due::Coming(told)
        } else {
            Due::Done((self.here)(task))
        };
        self.waiting.push_back((note, due));
    }

    /// Takes the head of the line. `None`: the line is empty, or, unless `all`, the head is not done, and there is room for more
    /// entries.
    pub(super) fn next(&mut self, all: bool) -> Option<Head<N, R>> {
        let must = all || self.open > self.threads || self.waiting.len() > LONGEST;
        let (note, due) = self.waiting.pop_front()?;
        let told = match due {
            Due::Nothing => return Some(Head::Note(note)),
            Due::Done(done) => return Some(Head::Done(note, Some(done))),
            Due::Coming(told) => told,
        };
        let done = match told.try_recv() {
            Ok(done) => Some(done),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) if must => told.recv().ok(),
            Err(TryRecvError::Empty) => {
                self.waiting.push_front((note, Due::Coming(told)));
                return None;
            }
        };
        self.open -= 1;
        Some(Head::Done(note, done))
    }
}

/// Calls `run` with a line whose tasks `work` does in up to `threads` threads, each with a state of its own; with one, in the
/// calling thread.
pub(super) fn in_order<N, T: Send, R: Send, S, O>(
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> R + Sync,
    run: impl FnOnce(&mut Line<'_, N, T, R>) -> O,
) -> O {
    let mut own = state();
    let mut here = |task| work(&mut own, task);
    let (give, given) = channel::<Given<T, R>>();
    let given = parking_lot::Mutex::new(given);
    let serve = || {
        let mut own = state();
        loop {
            // One thread waits for a task, the others for their turn to do so.
            let next = given.lock().recv();
            let Ok((task, tell)) = next else { return };
            let _ = tell.send(work(&mut own, task));
        }
    };
    std::thread::scope(|scope| {
        let spawn = |_: &usize| std::thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, serve).is_ok();
        let threads = (0..if threads > 1 { threads } else { 0 }).take_while(spawn).count();
        let give = (threads > 0).then_some(give);
        let mut line = Line { waiting: VecDeque::new(), open: 0, threads, give, here: &mut here };
        run(&mut line)
    })
}

#[cfg(test)]
#[path = "in_order_tests.rs"]
mod tests;
