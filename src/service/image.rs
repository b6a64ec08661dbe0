//! Plain images: a snapshot written to a file or to a stream.
//!
//! The file is opened by the caller and passed with the request, so that a server writes and reads nothing that its caller
//! could not. A stream is waited for a second at a time, so that a caller who went away is noticed.

use super::api::{ExportInfo, Progress};
use super::{Report, Service};
use crate::cipher::xts::is_hole;
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::units::{CHUNK, SECTOR};
use crate::volume::Blocking;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Most runs of data and holes that are asked for at once.
const RUNS: usize = 1024;
/// Bytes that a stream surely takes once poll(2) says that it takes any: PIPE_BUF of Linux.
const TAKEN: usize = 4096;

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
        let mut image = Target { file, is_stream: out.is_none(), size, data: 0, report };
        let failed = |e: Error| e.context(format!("export {} to {}", record.id, shown(out)));
        image.begin().map_err(failed)?;
        let mut buf = Zeroizing::new(vec![0; CHUNK]);
        let mut at = 0;
        while at < size {
            let len = (size - at).min((CHUNK * RUNS) as u64);
            for run in view.allocation(at, len, RUNS)? {
                let end = at + run.len;
                if !run.yes && image.skips(end).map_err(failed)? {
                    at = end;
                }
                while at < end {
                    let step = (end - at).min((CHUNK - at as usize % CHUNK) as u64);
                    let piece = &mut buf[..step as usize];
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

/// An image that is being written, from its first byte to its last.
struct Target<'a, 'r> {
    file: &'a File,
    is_stream: bool,
    size: u64,
    /// Bytes that are not holes.
    data: u64,
    report: Report<'r>,
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
            go_on(self.report, "export", end, self.size)?;
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
        go_on(self.report, "export", at + piece.len() as u64, self.size)
    }

    fn stream(&mut self, at: u64, mut piece: &[u8]) -> Result<()> {
        while !piece.is_empty() {
            while !is_ready(self.file, PollFlags::OUT)? {
                go_on(self.report, "export", at, self.size)?;
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
fn go_on(report: Report<'_>, what: &str, done: u64, total: u64) -> Result<()> {
    if report(Progress { what: what.into(), done, total: Some(total), unit: "bytes".into() }) {
        return Ok(());
    }
    Err(Error::new(Kind::Interrupted, format!("the {what} was stopped")))
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

/// Returns the runs of sectors that are not all zeros.
fn data_runs(piece: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, sector) in piece.chunks(SECTOR).enumerate().filter(|(_, sector)| !is_hole(sector)) {
        let (start, end) = (i * SECTOR, i * SECTOR + sector.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
