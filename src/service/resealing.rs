//! Copying a snapshot to another place: its chunks are read, sealed again with the copy's data key if it has its own, and put, by
//! as many threads as there are processors.
//!
//! A chunk is read whole, and its hash verified, before it is opened. Equal plaintext at the same place is sealed to equal bytes, so
//! the writer finds out what equals the base.

use super::copying::{Job, Retries, Sender, Sink, complete_after, interrupted_if};
use super::keygate::HeldCiphers;
use crate::cipher::SealedBuf;
use crate::cipher::xts::At;
use crate::error::{Error, Kind, Result};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::writer::Completed;
use crate::sys::Pages;
use crate::units::{CHUNK, ChunkNo, DataKeyId, KeyTag};
use crate::volume::parent::Parent;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroize;

/// Chunks that are looked for at a time.
const BATCH: usize = 256;
/// Most threads. Each has two buffers of a chunk.
const MOST_THREADS: usize = 16;

/// The ciphers between a source and its copy.
pub(super) struct Ciphers {
    /// Those of the source, by the tags in its tree.
    pub(super) from: Arc<HeldCiphers<KeyTag>>,
    /// That of the copy.
    pub(super) to: Arc<HeldCiphers<DataKeyId>>,
    /// The copy's data key.
    pub(super) data_key: DataKeyId,
}

/// A copy that is to be made.
pub(super) struct Copying {
    pub(super) source: SnapshotReader,
    pub(super) sink: Arc<Sink>,
    /// `None`: the sealed bytes are copied as they are.
    pub(super) ciphers: Option<Ciphers>,
    /// The chunks that may differ from the base.
    pub(super) candidates: Candidates,
    /// The chunks that an earlier process has copied.
    pub(super) copied: HashSet<ChunkNo>,
}

/// Which chunks may differ from the base.
#[derive(Clone)]
pub(super) enum Candidates {
    /// Those in which the source differs from this snapshot of its lineage, whose content the base has; `None`: without a base, those
    /// that are no holes.
    Since(Option<Box<SnapshotReader>>),
    /// All that are no holes in the source or in the base.
    All,
}

impl Copying {
    /// Copies all that is not copied yet, and completes the copy in its repository.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] if the job was stopped; [`Kind::Integrity`] naming a bad chunk of the source; [`Kind::KeyUnavailable`]
    /// once a CMK cannot be used; what the repositories report.
    pub(super) fn run(&self, job: &Arc<Job>) -> Result<Completed> {
        job.expect(self.copied.len() as u64, self.total());
        complete_after(&self.sink, job, |sender| self.copy_all(sender, job))
    }

    /// Returns how many chunks there are to copy. Counting is not worth an error: it is shown to people.
    fn total(&self) -> u64 {
        let Candidates::Since(Some(old)) = &self.candidates else { return self.source.located().manifest.chunks };
        let mut count = 0;
        let counted = self.source.changed_since(Some(old), ChunkNo(0), &mut |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        });
        counted.map_or(0, |()| count)
    }

    fn copy_all(&self, sender: &Sender, job: &Job) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let feed = Feed::new(self);
        let shared = Shared { failure: Mutex::new(None), stop: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let work = || shared.note(self.work(&feed, sender, job, &shared));
                if let Err(err) = std::thread::Builder::new().name("snapshot-copy".to_owned()).spawn_scoped(scope, work)
                {
                    tracing::warn!("start a thread to copy a snapshot: {err}; continuing with fewer");
                }
            }
            shared.note(self.work(&feed, sender, job, &shared));
        });
        match shared.failure.into_inner() {
            // The sender's failure is the reason.
            Some(err) if err.kind() == Kind::Interrupted && sender.has_failed() => Ok(()),
            Some(err) => Err(err),
            None => Ok(()),
        }
    }

    /// Copies chunk after chunk, beside other threads.
    fn work(&self, feed: &Feed<'_>, sender: &Sender, job: &Job, shared: &Shared) -> Result<()> {
        let writer = &self.sink.writer;
        let mut room = Room::new();
        let mut retries = Retries::new(job, self.source.is_remote() || writer.is_remote());
        while !shared.stop.load(Ordering::Relaxed) {
            let chunk = match feed.next() {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(()),
                Err(err) => {
                    retries.failed(writer.id(), err)?;
                    continue;
                }
            };
            if !sender.await_room(writer, job) {
                return Err(Error::new(Kind::Interrupted, format!("snapshot {} was stopped", writer.id())));
            }
            loop {
                interrupted_if(job, writer.id())?;
                match self.copy_chunk(chunk, &mut room) {
                    Ok(()) => break,
                    Err(err) => retries.failed(writer.id(), err)?,
                }
            }
            retries.succeeded();
            job.count();
        }
        Ok(())
    }

    fn copy_chunk(&self, chunk: ChunkNo, room: &mut Room) -> Result<()> {
        let Room { sealed, plain, resealed } = room;
        let tag = self.source.fetch(chunk, sealed.room())?;
        let id = self.source.located().manifest.snapshot;
        match (&self.ciphers, tag) {
            (None, Some(tag)) => {
                let missing =
                    || Error::new(Kind::Integrity, format!("chunk {chunk} of {id}: its data key is not named"));
                let key = self.source.located().manifest.key_of(tag).ok_or_else(missing)?;
                self.sink.writer.put_chunk(chunk, sealed.sealed(), key)
            }
            (None, None) => self.sink.writer.put_chunk(chunk, sealed.sealed(), NO_KEY),
            (Some(to), None) => self.sink.writer.put_chunk(chunk, sealed.sealed(), to.data_key),
            (Some(ciphers), Some(tag)) => {
                ciphers.reseal(chunk, tag, (sealed, plain, resealed)).map_err(|e| e.context(format!("copy {id}")))?;
                self.sink.writer.put_chunk(chunk, resealed.sealed(), ciphers.data_key)
            }
        }
    }
}

/// The data key of a hole.
const NO_KEY: DataKeyId = DataKeyId([0; 16]);

impl Ciphers {
    /// Opens a chunk, and seals it with the copy's key.
    fn reseal(
        &self,
        chunk: ChunkNo,
        tag: KeyTag,
        (sealed, plain, out): (&SealedBuf<Pages>, &mut Plain, &mut SealedBuf<Pages>),
    ) -> Result<()> {
        let at = At::new(chunk.offset()).ok_or_else(|| Error::new(Kind::Failed, "the chunk is not aligned"))?;
        let missing = || Error::new(Kind::Integrity, format!("chunk {chunk}: it was sealed under an unknown data key"));
        self.from.with(&tag, |from| {
            let from = from.ok_or_else(missing)?;
            self.to.with(&self.data_key, |to| {
                from.reseal(to.ok_or_else(missing)?, at, sealed.sealed(), &mut plain.0, out.room());
                Ok(())
            })?
        })?
    }
}

/// The plaintext of one chunk, wiped when it is dropped. Its pages are in no core dump.
struct Plain(Pages);

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The buffers of a thread.
struct Room {
    sealed: SealedBuf<Pages>,
    plain: Plain,
    resealed: SealedBuf<Pages>,
}

impl Room {
    fn new() -> Self {
        let pages = || SealedBuf::pages(CHUNK);
        Self { sealed: pages(), plain: Plain(Pages::zeroed(CHUNK)), resealed: pages() }
    }
}

/// What the threads of one copy have in common.
struct Shared {
    /// The first failure.
    failure: Mutex<Option<Error>>,
    stop: AtomicBool,
}

impl Shared {
    fn note(&self, outcome: Result<()>) {
        if let Err(err) = outcome {
            self.stop.store(true, Ordering::Relaxed);
            self.failure.lock().get_or_insert(err);
        }
    }
}

/// The chunks that are still to be copied, in order, each for one thread.
struct Feed<'a> {
    of: &'a Copying,
    state: Mutex<Ahead>,
}

struct Ahead {
    candidates: Candidates,
    found: VecDeque<ChunkNo>,
    /// Where to look for more; `None`: there is no more.
    next: Option<ChunkNo>,
}

impl<'a> Feed<'a> {
    fn new(of: &'a Copying) -> Self {
        let (candidates, found) = (of.candidates.clone(), VecDeque::new());
        Self { of, state: Mutex::new(Ahead { candidates, found, next: Some(ChunkNo(0)) }) }
    }

    fn next(&self) -> Result<Option<ChunkNo>> {
        let mut ahead = self.state.lock();
        loop {
            if let Some(chunk) = ahead.found.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(from) = ahead.next else { return Ok(None) };
            match self.of.batch(&ahead.candidates, from) {
                Ok(batch) => {
                    ahead.next = batch.last().filter(|_| batch.len() == BATCH).map(|last| ChunkNo(last.0 + 1));
                    ahead.found.extend(batch.into_iter().filter(|chunk| !self.of.copied.contains(chunk)));
                }
                // What the base was copied from was deleted meanwhile: the rest is compared by content.
                Err(err) if is_gone(&err) && matches!(ahead.candidates, Candidates::Since(Some(_))) => {
                    tracing::info!("snapshot {}: {}; comparing all", self.of.sink.writer.id(), err.line());
                    ahead.candidates = Candidates::All;
                }
                Err(err) => return Err(err),
            }
        }
    }
}

fn is_gone(err: &Error) -> bool {
    matches!(err.kind(), Kind::Integrity | Kind::NotFound)
}

impl Copying {
    /// Returns the next candidates, ascending; fewer than [`BATCH`]: there are no more.
    fn batch(&self, candidates: &Candidates, from: ChunkNo) -> Result<Vec<ChunkNo>> {
        let mut batch = Vec::with_capacity(BATCH);
        match candidates {
            Candidates::Since(old) => self.source.changed_since(old.as_deref(), from, &mut |chunk, _| {
                batch.push(chunk);
                Ok(if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?,
            Candidates::All => {
                let mut from = from;
                while batch.len() < BATCH {
                    let here = self.source.next_with_sectors(from)?;
                    let there = self.sink.base.as_ref().map_or(Ok(None), |base| base.next_with_sectors(from))?;
                    let Some(chunk) = here.into_iter().chain(there).min() else { break };
                    batch.push(chunk);
                    from = ChunkNo(chunk.0 + 1);
                }
            }
        }
        Ok(batch)
    }
}
