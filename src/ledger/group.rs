//! Appends by many threads together: those that wait while a sync runs share the next one.
//!
//! A thread puts its record into the queue. If nobody is writing, it writes all that is queued and syncs once; otherwise it
//! waits. In the same way the events of a batch share the commit of the head that counts them. The two stages run at the
//! same time, and writing never waits for the catalog: a transaction whose intent is in the queue holds the catalog's turn.
//!
//! Who ends a stage passes it on to one thread that waits for it. Each thread waits in a seat of its own, and is woken
//! once for its result: waking all of them after each stage took more time than the rest of a request.

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

/// What a waiting thread is woken for.
#[derive(Default)]
struct Told {
    /// To write what is queued.
    writes: bool,
    /// To commit the head.
    commits: bool,
    result: Option<Result<u64>>,
}

/// Where a waiting thread is told; it alone waits there, so each wake is for the thread that has something to do.
#[derive(Default)]
struct Seat {
    told: Mutex<Told>,
    wake: Condvar,
}

impl Seat {
    fn tell(&self, how: impl FnOnce(&mut Told)) {
        how(&mut self.told.lock());
        self.wake.notify_one();
    }
}

/// A record that waits to be written.
struct Waiting {
    entry: Entry,
    space: Space,
    /// The thread also waits until a committed head counts the record.
    counted: bool,
    seat: Arc<Seat>,
}

/// A record that is durable, and waits for a head that counts it.
struct Uncounted {
    sequence: u64,
    seat: Arc<Seat>,
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
    heads: Vec<Uncounted>,
    /// A thread writes the log, or was told to.
    writing: bool,
    /// A thread commits the head, or was told to.
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

impl Queue {
    /// Passes on the stage of writing, to a thread whose record is queued.
    fn next_writer(&mut self) {
        self.writing = self.records.first().map(|next| next.seat.tell(|told| told.writes = true)).is_some();
    }

    /// Passes on the stage of committing, to a thread that waits for it.
    fn next_committer(&mut self) {
        self.committing = self.heads.first().map(|next| next.seat.tell(|told| told.commits = true)).is_some();
    }

    /// Notes that a committed head counts this many records.
    fn counted(&mut self, count: u64) {
        self.counted = self.counted.max(count);
        let counted = self.counted;
        self.heads.retain(|waiting| {
            let done = waiting.sequence < counted;
            if done {
                waiting.seat.tell(|told| told.result = Some(Ok(waiting.sequence)));
            }
            !done
        });
    }
}

/// The log and the threads that append to it.
pub(super) struct Group {
    log: Mutex<Option<Box<Log>>>,
    /// Why nothing can be changed and no key used, while there is no log.
    trouble: RwLock<Option<String>>,
    queue: Mutex<Queue>,
}

impl Group {
    /// Has no log yet.
    pub(super) fn new() -> Self {
        Self { log: Mutex::new(None), trouble: RwLock::new(Some("not checked yet".into())), queue: Mutex::default() }
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
        self.wait(&self.queue_record(entry, space, false), None)
    }

    /// Appends a record; on return it is durable, and a committed head counts it. Not for a thread inside a transaction.
    pub(super) fn append_counted(&self, catalog: &Catalog, entry: Entry, space: Space) -> Result<u64> {
        self.wait(&self.queue_record(entry, space, true), Some(catalog))
    }

    /// Commits a head that counts record `sequence`, which is durable.
    pub(super) fn commit_head(&self, catalog: &Catalog, sequence: u64) -> Result<()> {
        let seat = Arc::<Seat>::default();
        {
            let mut queue = self.queue.lock();
            if queue.counted > sequence {
                return Ok(());
            }
            queue.heads.push(Uncounted { sequence, seat: seat.clone() });
            if !queue.committing {
                queue.next_committer();
            }
        }
        self.wait(&seat, Some(catalog)).map(drop)
    }

    fn queue_record(&self, entry: Entry, space: Space, counted: bool) -> Arc<Seat> {
        let seat = Arc::<Seat>::default();
        let mut queue = self.queue.lock();
        queue.records.push(Waiting { entry, space, counted, seat: seat.clone() });
        if !queue.writing {
            queue.next_writer();
        }
        seat
    }

    /// Waits for a result, and takes the part in the stages that falls to this thread meanwhile.
    fn wait(&self, seat: &Seat, catalog: Option<&Catalog>) -> Result<u64> {
        loop {
            let told = {
                let mut told = seat.told.lock();
                while !told.writes && !told.commits && told.result.is_none() {
                    seat.wake.wait(&mut told);
                }
                std::mem::take(&mut *told)
            };
            if told.writes {
                self.write_queued();
            }
            if let (true, Some(catalog)) = (told.commits, catalog) {
                self.commit_queued(catalog);
            }
            if let Some(result) = told.result {
                return result;
            }
        }
    }

    /// Writes all that is queued, tells the threads that wait for it, and passes the stage on.
    fn write_queued(&self) {
        let batch = std::mem::take(&mut self.queue.lock().records);
        let written = self.write(&batch);
        let mut queue = self.queue.lock();
        // Before anyone is told: a transaction commits this head, which must count its intent.
        if let (Some((mut head, reserved)), Some(now)) = (written.log, &queue.head) {
            // Since the batch was written, older records may have been dropped, or the log been closed.
            head.first = head.first.max(now.first);
            (queue.head, queue.reserved) = (Some(head), reserved);
        }
        let mut done = Vec::with_capacity(batch.len());
        for (waiting, result) in batch.into_iter().zip(written.results) {
            match result {
                Ok(sequence) if waiting.counted && queue.counted <= sequence => {
                    queue.heads.push(Uncounted { sequence, seat: waiting.seat });
                }
                result => done.push((waiting.seat, result)),
            }
        }
        queue.batches += 1;
        queue.next_writer();
        if !queue.committing {
            queue.next_committer();
        }
        drop(queue);
        done.into_iter().for_each(|(seat, result)| seat.tell(|told| told.result = Some(result)));
    }

    /// Commits the head for all that wait for it, tells them, and passes the stage on.
    fn commit_queued(&self, catalog: &Catalog) {
        let waiting = std::mem::take(&mut self.queue.lock().heads);
        // Another transaction may have counted them meanwhile.
        let committed = if waiting.is_empty() { Ok(()) } else { self.commit_head_now(catalog) };
        self.queue.lock().next_committer();
        for Uncounted { sequence, seat } in waiting {
            let result = committed.as_ref().map(|()| sequence).map_err(|e| e.replay());
            seat.tell(|told| told.result = Some(result));
        }
    }

    /// Writes a batch.
    fn write(&self, batch: &[Waiting]) -> Written {
        let mut log = self.log.lock();
        // An urgent act that has the log's reserve took the log before.
        let may_reserve = self.queue.lock().urgent == 0;
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
                Space::Kept if may_reserve => log.reserve().and_then(|()| log.append(&entries)),
                Space::Kept => Err(given_up()),
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

    /// Notes that a head that counts this many records was committed.
    pub(super) fn counted(&self, count: u64) {
        self.queue.lock().counted(count);
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
        let mut log = self.log.lock();
        if self.queue.lock().urgent > 0 {
            return Err(given_up());
        }
        log.as_mut().map_or(Ok(()), |log| log.reserve())
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

/// An urgent act has the reserve: the disk is full, and other acts must not take it back before.
fn given_up() -> Error {
    Error::new(Kind::NoSpace, "audit: no space left for its reserve").hint(crate::error::FREE_SPACE)
}

fn unavailable(why: &str) -> Error {
    let what = format!("keys are unavailable until the audit log is accepted: {why}");
    let hint = "find out what happened (a restored backup?), then run `coffer audit accept`";
    Error::new(Kind::KeyUnavailable, what).hint(hint)
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
