//! Plain images: a snapshot written to a file or to a stream, and a volume made from one.
//!
//! The file is opened by the caller and passed with the request, so that a server writes and reads nothing that its caller
//! could not. A stream is waited for a second at a time, so that a caller who went away is noticed.

use super::api::{ExportInfo, Progress, VolumeInfo};
use super::operations::{ImportVolume, named};
use super::view::SnapshotView;
use super::{Report, Service};
use crate::cipher::xts::data_runs;
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::units::{ByteLen, CHUNK, ChunkNo, SECTOR, SUBSECTOR};
use crate::volume::ahead::AHEAD;
use crate::volume::extents::Run;
use crate::volume::{Blocking, Volume};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Most runs of data and holes that are asked for at once.
const RUNS: usize = 1024;
/// Bytes that a stream surely takes once poll(2) says that it takes any: PIPE_BUF of Linux.
const TAKEN: usize = 4096;
/// How many bytes further progress is reported again.
const STEP: u64 = 16 * CHUNK as u64;

/// Where an image is, for messages and the audit.
fn shown(path: Option<&Path>) -> String {
    path.map_or_else(|| "a stream".to_owned(), |path| path.display().to_string())
}

impl Service {
    /// Writes the plain bytes of a snapshot to a file, in which holes stay holes, or without a path to a stream.
    pub(super) fn export_snapshot(
        &self,
        caller: &Caller,
        what: &str,
        (file, out): (&File, Option<&Path>),
        report: Report<'_>,
    ) -> Result<ExportInfo> {
        let record = self.records.find_snapshot(what)?;
        let view = self.open_view(record.id, caller)?;
        let act = Act::new("coffer:ExportSnapshot")
            .key(record.key_arn.clone())
            .detail("snapshot", record.id)
            .detail("file", shown(out));
        self.ledger().record(caller, act, Ok(()))?;
        let size = view.size();
        let steps = Steps::new("export", size, report);
        let mut image = Target { file, is_stream: out.is_none(), size, data: 0, steps };
        let failed = |e: Error| e.context(format!("export {} to {}", record.id, shown(out)));
        image.begin().map_err(failed)?;
        let mut buf = Zeroizing::new(vec![0; CHUNK]);
        let mut at = 0;
        while at < size {
            let len = (size - at).min((CHUNK * RUNS) as u64);
            let runs = view.allocation(at, len, RUNS)?;
            let mut soon = Expected::of(&view, at, &runs);
            for run in runs {
                let end = at + run.len;
                if !run.yes && image.skips(end).map_err(failed)? {
                    at = end;
                }
                while at < end {
                    let step = (end - at).min((CHUNK - at as usize % CHUNK) as u64);
                    let piece = &mut buf[..step as usize];
                    soon.reading(ChunkNo::of(at));
                    // A hole is read too: its zeros need the key as well.
                    let _done = view.read(at, piece, Blocking::Allowed)?;
                    image.write(at, piece).map_err(failed)?;
                    at += step;
                }
            }
        }
        Ok(ExportInfo { snapshot: record.id, size, data: image.data })
    }
}

/// The chunks with data that are going to be read, so that they can be fetched before.
struct Expected<'a> {
    view: &'a SnapshotView,
    chunks: VecDeque<ChunkNo>,
    /// Those at the front that are being fetched.
    fetching: usize,
}

impl<'a> Expected<'a> {
    /// `runs` begin at the byte `at`.
    fn of(view: &'a SnapshotView, mut at: u64, runs: &[Run]) -> Self {
        let mut chunks = VecDeque::new();
        for run in runs {
            let end = at + run.len;
            let data = if run.yes { at / CHUNK as u64..end.div_ceil(CHUNK as u64) } else { 0..0 };
            chunks.extend(data.map(ChunkNo).skip_while(|c| chunks.back() == Some(c)).collect::<Vec<_>>());
            at = end;
        }
        Self { view, chunks, fetching: 0 }
    }

    /// Has the chunks behind this one fetched.
    fn reading(&mut self, chunk: ChunkNo) {
        while self.chunks.front().is_some_and(|first| *first <= chunk) {
            self.chunks.pop_front();
            self.fetching = self.fetching.saturating_sub(1);
        }
        let more: Vec<_> = self.chunks.iter().take(AHEAD).skip(self.fetching).copied().collect();
        self.fetching += more.len();
        self.view.expect(&more);
    }
}

impl Service {
    /// Makes a volume from an image. Until it is whole there is no such volume; after a kill or a failure, what there is of it is
    /// removed.
    pub(super) fn import_volume(
        &self,
        caller: &Caller,
        asked: &ImportVolume,
        file: File,
        report: Report<'_>,
    ) -> Result<VolumeInfo> {
        let ImportVolume { name, key, size, from } = asked;
        let failed = |e: Error| e.context(format!("import {}", shown(from.as_deref())));
        let source = Source::new(file, from.is_none(), *size).map_err(failed)?;
        let act = named("coffer:ImportVolume", name).detail("file", shown(from.as_deref()));
        self.ledger().record(caller, act, Ok(()))?;
        let mut steps = Steps::new("import", source.length, report);
        let fill = &mut |volume: &Volume| source.copy_to(volume, &mut steps).map_err(failed);
        self.create_filled(caller, name, source.size, key.as_deref(), fill)
    }
}

/// An image that is being read.
struct Source {
    file: File,
    is_stream: bool,
    /// Its length in bytes.
    length: u64,
    /// The size of the volume, which is at least the length.
    size: u64,
}

impl Source {
    /// A stream has as many bytes as `size` says; a file may have less.
    fn new(file: File, is_stream: bool, size: Option<u64>) -> Result<Self> {
        let usage = |why: String, hint: &str| Err(Error::new(Kind::Usage, why).hint(hint));
        let length = match size {
            Some(size) if is_stream => size,
            None if is_stream => {
                return usage("the size of a stream is not known".to_owned(), "give its bytes with --size");
            }
            _ => length_of(&file)?,
        };
        let whole = size.unwrap_or(length);
        if whole < length {
            let why = format!("the image has {}, which does not fit into {}", ByteLen(length), ByteLen(whole));
            return usage(why, "leave out --size, or make it larger");
        }
        // One that overflows is refused as too large.
        let size = whole.checked_next_multiple_of(SUBSECTOR as u64).unwrap_or(u64::MAX);
        Ok(Self { file, is_stream, length, size })
    }

    /// Writes the image to a new volume, except for sectors of zeros, which stay holes.
    fn copy_to(&self, volume: &Volume, steps: &mut Steps<'_>) -> Result<()> {
        let mut buf = Zeroizing::new(vec![0; CHUNK]);
        let mut at = 0;
        while let Some(start) = self.data_from(at)? {
            let len = (self.length - start).min((CHUNK - start as usize % CHUNK) as u64) as usize;
            self.read(start, &mut buf[..len], steps)?;
            let whole = len.next_multiple_of(SUBSECTOR);
            buf[len..whole].fill(0);
            for run in data_runs(&buf[..whole]) {
                let place = start + run.start as u64;
                let _done = volume.write(place, &mut buf[run], Blocking::Allowed)?;
            }
            at = start + len as u64;
            steps.done(at)?;
        }
        if self.is_stream && self.next(&mut [0], self.length, steps)? > 0 {
            let why = format!("the stream is longer than the {} bytes of --size", self.length);
            return Err(Error::new(Kind::Usage, why).hint("give all of its bytes with --size"));
        }
        Ok(())
    }

    /// Returns the first sector from `at` on that may have data.
    fn data_from(&self, at: u64) -> Result<Option<u64>> {
        if at >= self.length {
            return Ok(None);
        }
        if self.is_stream {
            return Ok(Some(at));
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(at.max(found / SECTOR as u64 * SECTOR as u64)).filter(|start| *start < self.length)),
            Err(Errno::NXIO) => Ok(None),
            // It does not know its holes.
            Err(Errno::INVAL) => Ok(Some(at)),
            Err(e) => Err(e).on(|| "find the data in the file".to_owned()),
        }
    }

    fn read(&self, at: u64, mut piece: &mut [u8], steps: &mut Steps<'_>) -> Result<()> {
        if !self.is_stream {
            return self.file.read_exact_at(piece, at).on(|| "read the file".to_owned());
        }
        let mut at = at;
        while !piece.is_empty() {
            let got = self.next(piece, at, steps)?;
            if got == 0 {
                let why = format!("the stream ended after {at} of the {} bytes of --size", self.length);
                return Err(Error::new(Kind::Usage, why).hint("see whether what writes it failed; else correct --size"));
            }
            (at, piece) = (at + got as u64, &mut piece[got..]);
        }
        Ok(())
    }

    /// Reads what comes next in a stream. 0: it has ended.
    fn next(&self, piece: &mut [u8], at: u64, steps: &mut Steps<'_>) -> Result<usize> {
        loop {
            while !is_ready(&self.file, PollFlags::IN)? {
                steps.waits(at)?;
            }
            match rustix::io::read(&self.file, &mut *piece) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                got => return got.on(|| "read the stream".to_owned()),
            }
        }
    }
}

/// Returns the length of a file or a block device.
fn length_of(file: &File) -> Result<u64> {
    let about = file.metadata().on(|| "read the length of the file".to_owned())?;
    if about.is_file() {
        return Ok(about.len());
    }
    if about.file_type().is_block_device() {
        return rustix::fs::seek(file, SeekFrom::End(0)).on(|| "read the size of the device".to_owned());
    }
    Err(Error::new(Kind::Usage, "it is neither a file nor a block device").hint("give - to read a stream"))
}

/// An image that is being written, from its first byte to its last.
struct Target<'a, 'r> {
    file: &'a File,
    is_stream: bool,
    size: u64,
    /// Bytes that are not holes.
    data: u64,
    steps: Steps<'r>,
}

impl Target<'_, '_> {
    fn begin(&self) -> Result<()> {
        if self.is_stream {
            return Ok(());
        }
        // It is written again from the start if another process has begun it.
        self.file.set_len(0).and_then(|()| self.file.set_len(self.size)).on(|| "set the length of the file".to_owned())
    }

    /// Whether a hole up to `end` needs not be written.
    fn skips(&mut self, end: u64) -> Result<bool> {
        if !self.is_stream {
            self.steps.done(end)?;
        }
        Ok(!self.is_stream)
    }

    fn write(&mut self, at: u64, piece: &[u8]) -> Result<()> {
        let runs = data_runs(piece);
        self.data += runs.iter().map(|run| run.len() as u64).sum::<u64>();
        if self.is_stream {
            self.stream(at, piece)?;
        } else {
            for run in runs {
                let place = at + run.start as u64;
                self.file.write_all_at(&piece[run], place).on(|| "write the file".to_owned())?;
            }
        }
        self.steps.done(at + piece.len() as u64)
    }

    fn stream(&mut self, at: u64, mut piece: &[u8]) -> Result<()> {
        while !piece.is_empty() {
            while !is_ready(self.file, PollFlags::OUT)? {
                self.steps.waits(at)?;
            }
            match rustix::io::write(self.file, &piece[..piece.len().min(TAKEN)]) {
                Ok(taken) => piece = &piece[taken..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(e).on(|| "write the stream".to_owned()),
            }
        }
        Ok(())
    }
}

/// Reports progress, and stops when nobody wants the outcome any longer.
pub(super) struct Steps<'r> {
    what: &'static str,
    total: u64,
    report: Report<'r>,
    /// From where on it is reported again.
    next: u64,
}

impl<'r> Steps<'r> {
    pub(super) fn new(what: &'static str, total: u64, report: Report<'r>) -> Self {
        Self { what, total, report, next: 0 }
    }

    /// So many bytes are done.
    pub(super) fn done(&mut self, done: u64) -> Result<()> {
        if done < self.next && done < self.total {
            return Ok(());
        }
        self.next = done + STEP;
        self.waits(done)
    }

    /// So many bytes are done, and a stream lets it wait.
    fn waits(&mut self, done: u64) -> Result<()> {
        let what = self.what;
        if (self.report)(Progress { what: what.into(), done, total: Some(self.total), unit: "bytes".into() }) {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, format!("the {what} was stopped")))
    }
}

/// Waits until a file can be read or written without waiting, at most a second.
fn is_ready(file: &File, flags: PollFlags) -> Result<bool> {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    match poll(&mut [PollFd::new(file, flags)], Some(&second)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e).on(|| "wait for the stream".to_owned()),
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
