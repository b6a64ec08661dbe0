//! Images that are written, and what becomes of those that are not written to the end.

use super::super::api::Reply;
use super::super::opening::Need;
use super::super::operations::{ExportSnapshot, ListAuditEvents, Request};
use super::super::testing::{Fixture, request};
use super::*;
use serde_json::json;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// 40 chunks and a half sector.
const SIZE: u64 = 40 * CHUNK as u64 + 512;

/// Writes to the volume `v`, and returns what it holds then: data, zeros that were written, and holes.
fn fill(on: &Fixture) -> Vec<u8> {
    let mut wanted = vec![0u8; SIZE as usize];
    let used = on.service.opens.acquire(&on.record(), Need::Key(&on.caller())).unwrap();
    for (at, len, byte) in [(0, 4096, 1), (3 * CHUNK + 4096, 2 * CHUNK, 2), (9 * CHUNK, CHUNK, 0), (40 * CHUNK, 512, 3)]
    {
        wanted[at..at + len].fill(byte);
        let _done = used.volume.write(at as u64, &mut vec![byte; len], Blocking::Allowed).unwrap();
    }
    used.volume.flush().unwrap();
    wanted
}

fn export(on: &Fixture, out: Option<&Path>, file: &File, report: Report<'_>) -> Result<ExportInfo> {
    let snapshot = on.take().id.to_string();
    let asked = ExportSnapshot { snapshot, out: out.map(Path::to_owned) }.into();
    match on.service.handle_with(&on.caller(), asked, Some(file.try_clone().unwrap()), report)? {
        Reply::Exported(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

fn disable(on: &Fixture) {
    on.ask(request(json!({"action": "key-disable", "key": "alias/k"}))).unwrap();
}

#[test]
fn a_snapshot_is_written_as_it_was_and_its_holes_stay_holes() {
    let on = Fixture::with_volume(SIZE);
    let (wanted, path) = (fill(&on), on.path("image"));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    // What a process that had to give way has written of it.
    file.write_all_at(&[9; 8192], 100 * CHUNK as u64).unwrap();
    let mut last = 0;
    let info = export(&on, Some(&path), &file, &mut |progress| {
        assert!(progress.done >= last && progress.total == Some(SIZE), "{progress:?}");
        last = progress.done;
        true
    });
    let info = info.unwrap();
    assert_eq!((info.size, info.data, last), (SIZE, 4096 + 2 * CHUNK as u64 + 512, SIZE));
    assert!(std::fs::read(&path).unwrap() == wanted);
    let stored = file.metadata().unwrap().blocks() * 512;
    assert!(stored < 4 * CHUNK as u64, "{stored} bytes are stored");
    let found = on.ask(ListAuditEvents::newest(20).into()).unwrap();
    let Reply::Events { events } = found else { panic!("another answer") };
    let exported = |e: &&super::super::api::EventInfo| e.record.to_string().contains("coffer:ExportSnapshot");
    let event = events.iter().find(exported).expect("it is in the audit");
    assert!(event.record.to_string().contains(path.to_str().unwrap()), "{}", event.record);
}

#[test]
fn a_stream_gets_all_bytes() {
    let on = Fixture::with_volume(SIZE);
    let wanted = fill(&on);
    let (mut from, to) = std::io::pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        from.read_to_end(&mut got).unwrap();
        got
    });
    let to = File::from(std::os::fd::OwnedFd::from(to));
    export(&on, None, &to, &mut |_| true).unwrap();
    drop(to);
    assert!(reading.join().unwrap() == wanted);
}

#[test]
fn nobody_waits_for_a_reader_whose_caller_is_gone() {
    let on = Fixture::with_volume(SIZE);
    fill(&on);
    let (_from, to) = std::io::pipe().unwrap();
    // The pipe is full after 64 KiB, and is never read.
    let ended = export(&on, None, &File::from(std::os::fd::OwnedFd::from(to)), &mut |_| false);
    assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn an_image_is_not_finished_without_the_key() {
    let on = Fixture::with_volume(SIZE);
    fill(&on);
    let file = tempfile::tempfile().unwrap();
    let mut reports = 0;
    let ended = export(&on, Some(Path::new("/image")), &file, &mut |_| {
        reports += 1;
        if reports == 1 {
            disable(&on);
        }
        true
    });
    assert_eq!(ended.unwrap_err().kind(), Kind::KeyUnavailable);
    let ended = export_of(&on, &file);
    assert_eq!(ended.unwrap_err().kind(), Kind::KeyUnavailable);
}

/// Exports the oldest snapshot.
fn export_of(on: &Fixture, file: &File) -> Result<Reply> {
    let Reply::Snapshots { snapshots } = on.ask(request(json!({"action": "snapshot-list"}))).unwrap() else { panic!() };
    let asked = ExportSnapshot { snapshot: snapshots[0].id.to_string(), out: None }.into();
    on.service.handle_with(&on.caller(), asked, Some(file.try_clone().unwrap()), &mut |_| true)
}

#[test]
fn a_request_without_its_file_is_refused() {
    let on = Fixture::with_volume(SIZE);
    let asked: Request = ExportSnapshot { snapshot: on.take().id.to_string(), out: None }.into();
    assert_eq!(on.ask(asked).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn runs_of_data_are_those_of_whole_sectors() {
    let mut piece = vec![0; 4 * SECTOR + 512];
    assert!(data_runs(&piece).is_empty());
    piece[SECTOR] = 1;
    piece[3 * SECTOR - 1] = 1;
    piece[4 * SECTOR + 511] = 1;
    assert_eq!(data_runs(&piece), [SECTOR..3 * SECTOR, 4 * SECTOR..4 * SECTOR + 512]);
}
