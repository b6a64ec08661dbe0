//! Images that are written, and what becomes of those that are not written to the end.

use super::super::api::Reply;
use super::super::opening::Need;
use super::super::operations::{ExportSnapshot, ImportVolume, ListAuditEvents, Request};
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

/// Imports as the volume `new`.
fn import(
    on: &Fixture,
    file: &File,
    (from, size): (Option<&Path>, Option<u64>),
    report: Report<'_>,
) -> Result<VolumeInfo> {
    let asked = ImportVolume { name: "new".into(), key: Some("alias/k".into()), size, from: from.map(Path::to_owned) };
    match on.service.handle_with(&on.caller(), asked.into(), Some(file.try_clone().unwrap()), report)? {
        Reply::Volume(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

fn contents(on: &Fixture, info: &VolumeInfo) -> Vec<u8> {
    let record = on.service.records.find_volume(&info.id.to_string()).unwrap();
    let used = on.service.opens.acquire(&record, Need::Key(&on.caller())).unwrap();
    let mut got = vec![0; info.size as usize];
    let _done = used.volume.read(0, &mut got, Blocking::Allowed).unwrap();
    got
}

/// Checks that nothing is left of an import.
#[track_caller]
fn nothing_is_left(on: &Fixture) {
    let Reply::Volumes { volumes } = on.ask(request(json!({"action": "volume-list"}))).unwrap() else { panic!() };
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert!(on.service.records.staged_volumes().unwrap().iter().all(|r| r.stage.is_ready()));
    let files = std::fs::read_dir(on.path("data/volumes")).unwrap().count();
    assert_eq!(files, 1);
}

/// A file of forty chunks with data, a hole, zeros, and an end inside a sector.
fn image(on: &Fixture) -> (std::path::PathBuf, File, Vec<u8>) {
    let path = on.path("image");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut wanted = vec![0; 40 * CHUNK + 700];
    for (at, len, byte) in
        [(100, 8192, 1), (16 * CHUNK, CHUNK, 0), (24 * CHUNK + 512, 2 * CHUNK, 2), (40 * CHUNK, 700, 3)]
    {
        wanted[at..at + len].fill(byte);
        file.write_all_at(&wanted[at..at + len], at as u64).unwrap();
    }
    file.set_len(wanted.len() as u64).unwrap();
    (path, file, wanted)
}

#[test]
fn a_volume_is_made_from_a_file_and_its_zeros_are_holes() {
    let on = Fixture::with_volume(1 << 20);
    let (path, file, mut wanted) = image(&on);
    for size in [None, Some(42 * CHUNK as u64 + 1)] {
        let info = import(&on, &file, (Some(&path), size), &mut |_| true).unwrap();
        assert_eq!(info.size, size.unwrap_or(wanted.len() as u64).next_multiple_of(512));
        wanted.resize(info.size as usize, 0);
        assert!(contents(&on, &info) == wanted);
        let whole = import(&on, &file, (Some(&path), size), &mut |_| true);
        assert_eq!(whole.unwrap_err().kind(), Kind::Exists, "its name is taken");
        // The chunks that have data: the first, three in the middle, the last.
        let Reply::Snapshot(made) = on
            .ask(request(json!({"action": "snapshot-create", "volume": "new", "description": "", "wait": true})))
            .unwrap()
        else {
            panic!("another answer")
        };
        assert_eq!(made.changed, 5 * CHUNK as u64);
        on.ask(request(json!({"action": "volume-delete", "volume": "new"}))).unwrap();
        wanted.truncate(40 * CHUNK + 700);
    }
    let small = import(&on, &file, (Some(&path), Some(CHUNK as u64)), &mut |_| true);
    assert_eq!(small.unwrap_err().kind(), Kind::Usage);
    let folder = File::open(on.path("data")).unwrap();
    assert_eq!(import(&on, &folder, (Some(&path), None), &mut |_| true).unwrap_err().kind(), Kind::Usage);
    nothing_is_left(&on);
}

/// A stream with these bytes, whose writer is done or not.
fn stream(bytes: &[u8]) -> (File, std::thread::JoinHandle<()>) {
    let (from, mut to) = std::io::pipe().unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || drop(std::io::Write::write_all(&mut to, &bytes)));
    (File::from(std::os::fd::OwnedFd::from(from)), writing)
}

#[test]
fn a_stream_has_as_many_bytes_as_it_was_said_to_have() {
    let on = Fixture::with_volume(1 << 20);
    let bytes: Vec<u8> = (0..CHUNK + 5000).map(|i| (i / 7) as u8).collect();
    let all = bytes.len() as u64;
    for size in [None, Some(all - 1), Some(all + 1)] {
        let (file, writing) = stream(&bytes);
        assert_eq!(import(&on, &file, (None, size), &mut |_| true).unwrap_err().kind(), Kind::Usage, "{size:?}");
        nothing_is_left(&on);
        drop(file);
        writing.join().unwrap();
    }
    let (file, writing) = stream(&bytes);
    let info = import(&on, &file, (None, Some(all)), &mut |_| true).unwrap();
    writing.join().unwrap();
    let got = contents(&on, &info);
    assert!(got[..bytes.len()] == bytes && got[bytes.len()..].iter().all(|b| *b == 0));
}

#[test]
fn nothing_is_left_of_an_import_whose_caller_is_gone() {
    let on = Fixture::with_volume(1 << 20);
    let (path, file, _) = image(&on);
    let mut reports = 0;
    let stopped = import(&on, &file, (Some(&path), None), &mut |progress| {
        assert_eq!(progress.what, "import");
        reports += 1;
        reports < 3
    });
    assert_eq!((stopped.unwrap_err().kind(), reports), (Kind::Interrupted, 3));
    nothing_is_left(&on);
    // Nobody writes to this one.
    let (from, _to) = std::io::pipe().unwrap();
    let waits = File::from(std::os::fd::OwnedFd::from(from));
    let stopped = import(&on, &waits, (None, Some(4096)), &mut |_| false);
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    nothing_is_left(&on);
    import(&on, &file, (Some(&path), None), &mut |_| true).unwrap();
}

#[test]
fn an_import_ends_when_its_key_is_disabled() {
    let on = Fixture::with_volume(1 << 20);
    let (path, file, _) = image(&on);
    let mut reports = 0;
    let ended = import(&on, &file, (Some(&path), None), &mut |_| {
        reports += 1;
        disable(&on);
        true
    });
    assert_eq!(ended.unwrap_err().kind(), Kind::KeyUnavailable);
    assert!(reports < 3, "chunks were written without the key");
    nothing_is_left(&on);
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
