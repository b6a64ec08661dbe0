//! Appends by many threads together: those that wait while a sync runs share the next one.
//!
//! A thread puts its record into the queue. If nobody is writing, it writes all that is queued, syncs once, and tells the
//! others; otherwise it waits for one that does. In the same way the events of a batch share the commit of the head
//! that counts them. The two stages run at the same time, and writing never waits for the catalog: a transaction whose
//! intent is in the queue holds the catalog's turn.

use super::audit::{AuditHead, Entry, Log};
use super::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::sync::Arc;

/// What a record may take on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// Nothing: the reserve must be there before.
    Kept,
    /// What is allocated.
    Allocated,
    /// The reserve too: the act restricts or frees space.
    Reserve,
}

/// Where the thread that asked finds the result.
type Slot<R> = Arc<Mutex<Option<Result<R>>>>;

struct Waiting {
    entry: Entry,
    space: Space,
    sequence: Slot<u64>,
}

/// The results of a batch, in its order; and of the log then, its head and whether it has its reserve.
struct Written {
    results: Vec<Result<u64>>,
    log: Option<(AuditHead, bool)>,
}

/// What is queued, and how far the stages are.
#[derive(Default)]
struct Queue {
    records: Vec<Waiting>,
    heads: Vec<Slot<()>>,
    /// A thread writes the log.
    writing: bool,
    /// A thread commits the head.
    committing: bool,
    /// The durable log's head.
    head: Option<AuditHead>,
    /// The log has its reserve.
    reserved: bool,
    /// Records that a committed head counts.
    counted: u64,
    /// Urgent acts that gave up the reserve and are not finished: nobody takes it again before.
    urgent: usize,
    /// Batches written; for tests.
    batches: u64,
}

/// The log and the threads that append to it.
pub(super) struct Group {
    log: Mutex<Option<Box<Log>>>,
    /// Why nothing can be changed and no key used, while there is no log.
    trouble: RwLock<Option<String>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Group {
    /// Has no log yet.
    pub(super) fn new() -> Self {
        Self {
            log: Mutex::new(None),
            trouble: RwLock::new(Some("not checked yet".into())),
            queue: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Makes a log ready. The catalog has committed a head that counts its records up to `counted`.
    pub(super) fn open(&self, log: Box<Log>, counted: u64) {
        let mut open = self.log.lock();
        let mut queue = self.queue.lock();
        (queue.head, queue.counted, queue.reserved) = (Some(log.head()), counted, log.has_reserve());
        *open = Some(log);
        *self.trouble.write() = None;
    }

    /// Closes the log: from now on nothing is recorded.
    pub(super) fn close(&self, why: String) {
        let mut open = self.log.lock();
        *open = None;
        self.queue.lock().head = None;
        *self.trouble.write() = Some(why);
    }

    /// Returns why there is no log.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.read().clone()
    }

    /// Fails if there is no log.
    pub(super) fn ready(&self) -> Result<()> {
        self.trouble().map_or(Ok(()), |why| Err(unavailable(&why)))
    }

    /// Returns the log, which nobody else writes meanwhile. Not for a thread inside a transaction.
    pub(super) fn log(&self) -> MutexGuard<'_, Option<Box<Log>>> {
        self.log.lock()
    }

    /// Returns the head of what is durable.
    pub(super) fn head(&self) -> Option<AuditHead> {
        self.queue.lock().head.clone()
    }

    /// Appends a record; it is durable on return. Returns its sequence.
    pub(super) fn append(&self, entry: Entry, space: Space) -> Result<u64> {
        let sequence = Slot::default();
        let mut queue = self.queue.lock();
        queue.records.push(Waiting { entry, space, sequence: sequence.clone() });
        loop {
            if let Some(result) = sequence.lock().take() {
                return result;
            }
            if queue.writing {
                self.changed.wait(&mut queue);
                continue;
            }
            queue.writing = true;
            let batch = std::mem::take(&mut queue.records);
            let may_reserve = queue.urgent == 0;
            let written = MutexGuard::unlocked(&mut queue, || self.write(&batch, may_reserve));
            // Before anyone is told: a transaction commits this head, which must count its intent.
            if let Some((head, reserved)) = written.log {
                (queue.head, queue.reserved) = (Some(head), reserved);
            }
            for (waiting, result) in batch.iter().zip(written.results) {
                *waiting.sequence.lock() = Some(result);
            }
            queue.writing = false;
            queue.batches += 1;
            self.changed.notify_all();
        }
    }

    /// Writes a batch.
    fn write(&self, batch: &[Waiting], may_reserve: bool) -> Written {
        let mut log = self.log.lock();
        let Some(log) = log.as_mut() else {
            let why = self.trouble().unwrap_or_default();
            return Written { results: batch.iter().map(|_| Err(unavailable(&why))).collect(), log: None };
        };
        let mut results: Vec<Result<u64>> = batch.iter().map(|_| Err(unavailable("not written"))).collect();
        let mut left: Vec<usize> = (0..batch.len()).collect();
        for space in [Space::Kept, Space::Allocated, Space::Reserve] {
            if left.iter().map(|i| batch[*i].space).min() != Some(space) {
                continue;
            }
            let entries: Vec<&Entry> = left.iter().map(|i| &batch[*i].entry).collect();
            let done = match space {
                Space::Kept => log.reserve().and_then(|()| log.append(&entries)),
                Space::Allocated => log.append(&entries),
                Space::Reserve => log.with_reserve(|log| log.append(&entries)),
            };
            match done {
                Ok(first) => left.drain(..).zip(first..).for_each(|(i, sequence)| results[i] = Ok(sequence)),
                // The others may take more space.
                Err(e) if e.kind() == Kind::NoSpace => left.retain(|i| {
                    let stays = batch[*i].space > space;
                    if !stays {
                        results[*i] = Err(e.replay());
                    }
                    stays
                }),
                Err(e) => left.drain(..).for_each(|i| results[i] = Err(e.replay())),
            }
        }
        if may_reserve {
            log.take_space();
        }
        Written { results, log: Some((log.head(), log.has_reserve())) }
    }

    /// Commits a head that counts record `sequence`, which is durable.
    pub(super) fn commit_head(&self, catalog: &Catalog, sequence: u64) -> Result<()> {
        let result = Slot::default();
        let mut queue = self.queue.lock();
        queue.heads.push(result.clone());
        loop {
            if queue.counted > sequence {
                return Ok(());
            }
            if let Some(result) = result.lock().take() {
                return result;
            }
            if queue.committing {
                self.changed.wait(&mut queue);
                continue;
            }
            queue.committing = true;
            let waiting = std::mem::take(&mut queue.heads);
            let committed = MutexGuard::unlocked(&mut queue, || self.commit_head_now(catalog));
            queue.committing = false;
            match committed {
                Ok(()) => {
                    waiting.iter().for_each(|slot| *slot.lock() = Some(Ok(())));
                }
                Err(e) => waiting.iter().for_each(|slot| *slot.lock() = Some(Err(e.replay()))),
            }
            self.changed.notify_all();
        }
    }

    /// Notes that a head that counts this many records was committed.
    pub(super) fn counted(&self, count: u64) {
        let mut queue = self.queue.lock();
        queue.counted = queue.counted.max(count);
        self.changed.notify_all();
    }

    /// Runs an urgent act: on a full disk it gives up the reserve, and tries again. Then takes space again.
    pub(super) fn with_reserve<R>(&self, mut act: impl FnMut() -> Result<R>) -> Result<R> {
        match act() {
            Err(e) if e.kind() == Kind::NoSpace => {}
            other => return other,
        }
        let _urgent = Urgent::begin(self);
        if let Some(log) = self.log.lock().as_mut() {
            self.queue.lock().reserved = false;
            log.give_up_reserve()?;
        }
        act()
    }

    /// Gives up the reserve.
    pub(super) fn give_up_reserve(&self) -> Result<()> {
        self.queue.lock().reserved = false;
        self.log.lock().as_mut().map_or(Ok(()), |log| log.give_up_reserve())
    }

    /// Makes the next heads say that the records before `first` are no longer kept.
    pub(super) fn keep_from(&self, first: u64) {
        let mut log = self.log.lock();
        if let Some(log) = log.as_mut() {
            log.keep_from(first);
            self.queue.lock().head = Some(log.head());
        }
    }

    /// Commits the head as it is now.
    pub(super) fn commit_head_now(&self, catalog: &Catalog) -> Result<()> {
        let count = catalog.begin(true, |tx| {
            let head = self.head().ok_or_else(|| unavailable(&self.trouble().unwrap_or_default()))?;
            tx.put_head(&head)?;
            Ok(head.count)
        })?;
        self.counted(count);
        Ok(())
    }

    /// Makes sure that the reserve is there, before an act that must leave it.
    pub(super) fn keep_reserve(&self) -> Result<()> {
        if self.queue.lock().reserved {
            return Ok(());
        }
        self.log.lock().as_mut().map_or(Ok(()), |log| log.reserve())
    }

    /// Number of batches written so far.
    #[cfg(test)]
    pub(super) fn batches(&self) -> u64 {
        self.queue.lock().batches
    }

    /// Number of records that wait for a batch.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().records.len()
    }
}

/// An urgent act that gave up the reserve.
struct Urgent<'a>(&'a Group);

impl<'a> Urgent<'a> {
    fn begin(group: &'a Group) -> Self {
        group.queue.lock().urgent += 1;
        Self(group)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        let last = {
            let mut queue = self.0.queue.lock();
            queue.urgent -= 1;
            queue.urgent == 0
        };
        if last && let Some(log) = self.0.log.lock().as_mut() {
            log.take_space();
        }
    }
}

fn unavailable(why: &str) -> Error {
    let what = format!("keys are unavailable until the audit log is accepted: {why}");
    let hint = "find out what happened (a restored backup?), then run `coffer audit accept`";
    Error::new(Kind::KeyUnavailable, what).hint(hint)
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
