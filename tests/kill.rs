//! SIGKILL at many moments: what was acknowledged is there, a snapshot is complete or in error, a hydration continues.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const MIB: u64 = 1 << 20;
const STEP: usize = 1 << 20;

/// A generator for offsets and lengths.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let bytes = noise(self.0, 8);
        u64::from_le_bytes(bytes.try_into().unwrap()) % n
    }
}

/// What one client wrote into its part of the volume.
struct Part {
    start: u64,
    /// Everything that was acknowledged.
    now: Vec<u8>,
    /// The last request, if it was not answered: each sector of it may be old or new.
    flying: Option<(usize, Vec<u8>)>,
}

/// Writes until the server is gone.
fn write_until_killed(part: &mut Part, mut c: Nbd, draw: &mut Draw, answered: &AtomicU64) {
    loop {
        let sectors = part.now.len() as u64 / 512;
        let at = draw.below(sectors);
        let len = 1 + draw.below(64).min(sectors - at - 1);
        let (at, data) = (at as usize * 512, noise(draw.below(u64::MAX), len as usize * 512));
        let fua = draw.below(4) == 0;
        let answer = c.try_write(part.start + at as u64, &data, fua);
        part.flying = Some((at, data));
        match answer {
            Err(_) => return,
            Ok(done) => done.unwrap(),
        }
        let (at, data) = part.flying.take().unwrap();
        part.now[at..at + data.len()].copy_from_slice(&data);
        answered.fetch_add(1, Ordering::Relaxed);
        if draw.below(16) == 0 && c.try_flush().is_err() {
            return;
        }
    }
}

/// Reads the part; what was in flight becomes known.
fn check(part: &mut Part, c: &mut Nbd, round: u64) {
    let mut got = Vec::new();
    for at in (0..part.now.len()).step_by(STEP) {
        got.extend(c.read(part.start + at as u64, STEP as u32));
    }
    if let Some((at, data)) = part.flying.take() {
        for (i, new) in data.chunks(512).enumerate() {
            let place = at + i * 512..at + i * 512 + 512;
            if got[place.clone()] == *new {
                part.now[place].copy_from_slice(new);
            }
        }
    }
    let wrong = got.chunks(512).zip(part.now.chunks(512)).position(|(a, b)| a != b);
    assert_eq!(wrong, None, "round {round}: a sector of the part from {} is not what was acknowledged", part.start);
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "12MiB", "--name", "v"]);
    let parts: Vec<_> =
        (0..3).map(|i| Mutex::new(Part { start: i * 4 * MIB, now: vec![0; 4 << 20], flying: None })).collect();
    for round in 0..6 {
        let server = s.serve();
        let mut reader = server.connect("v");
        for part in &parts {
            check(&mut part.lock().unwrap(), &mut reader, round);
        }
        let answered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for (i, part) in parts.iter().enumerate() {
                let (c, answered) = (server.connect("v"), &answered);
                let mut draw = Draw((round * 3 + i as u64) << 32);
                scope.spawn(move || write_until_killed(&mut part.lock().unwrap(), c, &mut draw, answered));
            }
            let enough = [1, 10, 40, 100, 200, 300][round as usize];
            wait_until("enough writes are answered", || answered.load(Ordering::Relaxed) >= enough);
            server.kill9();
        });
        assert_eq!(s.json(&["volume", "show", "v"])["header"]["clean"], json!(false), "round {round}");
    }
    // A later snapshot has the same contents.
    let server = s.serve();
    let mut reader = server.connect("v");
    parts.iter().for_each(|p| check(&mut p.lock().unwrap(), &mut reader, 99));
    let snap = s.id(&["snapshot", "create", "v", "--wait"]);
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let mut copy = server.connect("copy");
    parts.iter().for_each(|p| check(&mut p.lock().unwrap(), &mut copy, 100));
}

fn read_all(c: &mut Nbd, len: usize) -> Vec<u8> {
    (0..len).step_by(STEP).flat_map(|at| c.read(at as u64, STEP as u32)).collect()
}

fn write_all(c: &mut Nbd, data: &[u8]) {
    for (i, part) in data.chunks(STEP).enumerate() {
        c.write((i * STEP) as u64, part);
    }
}

fn state_of(s: &Scratch, snap: &str) -> Value {
    s.json(&["snapshot", "show", snap])["state"].clone()
}

/// Checks the exact contents of a completed snapshot.
fn must_hold(s: &Scratch, server: &Served<'_>, snap: &str, want: &[u8], when: &str) {
    s.ok(&["snapshot", "verify", snap]);
    let copy = s.id(&["volume", "create", "--snapshot", snap]);
    let mut c = server.connect(&copy);
    assert!(read_all(&mut c, want.len()) == want, "{when}: the snapshot holds something else");
    c.close();
    s.ok(&["volume", "delete", &copy]);
}

#[test]
fn a_snapshot_whose_server_is_killed_is_continued_and_whole() {
    const LEN: usize = 12 << 20;
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "12MiB", "--name", "v"]);
    let repository = s.data.join("repository");
    let mut continued = 0;
    for round in 0..7u64 {
        let server = s.serve();
        let mut c = server.connect("v");
        let mut data = noise(100 + round, LEN);
        write_all(&mut c, &data);
        let before = bytes_in(&repository);
        let snap = s.id(&["snapshot", "create", "v"]);
        // Writes after the point in time: chunks that are not copied yet must keep their contents.
        let at_the_point = data.clone();
        for at in [0, LEN / 2, LEN - STEP] {
            let new = noise(200 + round, STEP);
            c.write(at as u64, &new);
            data[at..at + STEP].copy_from_slice(&new);
        }
        let threshold = round * 2 * MIB;
        wait_until("so much is copied", || {
            bytes_in(&repository) >= before + threshold || state_of(&s, &snap) != json!("pending")
        });
        server.kill9();
        continued += u32::from(state_of(&s, &snap) == json!("pending"));
        let server = s.serve();
        let when = format!("round {round}");
        // More writes, as early as possible: what it still needs is saved for it.
        let mut c = server.connect("v");
        let new = noise(800 + round, STEP);
        c.write(STEP as u64, &new);
        data[STEP..2 * STEP].copy_from_slice(&new);
        c.close();
        let done = s.json(&["snapshot", "wait", &snap]);
        assert_eq!(done["state"], json!("completed"), "{when}: {done}");
        must_hold(&s, &server, &snap, &at_the_point, &when);
        let mut c = server.connect("v");
        assert!(read_all(&mut c, LEN) == data, "{when}: the volume");
        if round % 2 == 0 {
            let next = s.id(&["snapshot", "create", "v", "--wait"]);
            must_hold(&s, &server, &next, &data, &format!("{when}, the next one"));
            if round % 4 == 0 {
                s.ok(&["snapshot", "delete", &snap]);
                must_hold(&s, &server, &next, &data, &format!("{when}, with the killed one deleted"));
            }
        }
        c.close();
        assert_eq!(server.stop(), 0);
    }
    assert!(continued > 0, "no kill was early enough");
}

#[test]
fn a_snapshot_whose_command_is_killed_is_continued_and_whole() {
    const LEN: usize = 8 << 20;
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v"]);
    let repository = s.data.join("repository");
    let (mut data, mut taken, mut continued) = (Vec::new(), Vec::<(String, Vec<u8>)>::new(), 0);
    for round in 0..5u64 {
        let server = s.serve();
        let mut c = server.connect("v");
        // Over what the snapshot that was killed before still needs.
        data = noise(300 + round, LEN);
        write_all(&mut c, &data);
        c.close();
        assert_eq!(server.stop(), 0);
        let before = bytes_in(&repository);
        let mut child = s.command(&["-q", "snapshot", "create", "v"]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("so much is copied", || {
            bytes_in(&repository) > before + round * 2 * MIB || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let all = s.json(&["snapshot", "list"])["snapshots"].as_array().unwrap().clone();
        assert!(all.iter().all(|s| s["state"] != json!("error")), "round {round}: {all:?}");
        let ids = all.iter().map(|s| s["id"].as_str().unwrap().to_owned());
        let new: Vec<_> = ids.filter(|id| taken.iter().all(|(known, _)| known != id)).collect();
        continued += usize::from(all.last().is_some_and(|s| s["state"] == json!("pending")));
        taken.extend(new.into_iter().map(|id| (id, data.clone())));
    }
    assert!(continued > 0, "no kill was early enough");
    taken.push((s.id(&["snapshot", "create", "v"]), data));
    let server = s.serve();
    for (n, (snap, data)) in taken.iter().enumerate() {
        assert_eq!(s.json(&["snapshot", "wait", snap])["state"], json!("completed"));
        must_hold(&s, &server, snap, data, &format!("snapshot {n}"));
    }
    assert_eq!(s.log().matches("ERROR").count(), 0, "{}", s.log());
}

#[test]
fn a_filling_that_is_killed_goes_on() {
    const LEN: usize = 64 << 20;
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "64MiB", "--name", "v"]);
    let mut data = noise(400, LEN);
    let server = s.serve();
    let mut c = server.connect("v");
    write_all(&mut c, &data);
    c.close();
    let snap = s.id(&["snapshot", "create", "v", "--wait"]);
    assert_eq!(server.stop(), 0);
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let file = s.file("copy");
    let mut halfway = 0;
    for round in 0..4u64 {
        let server = s.serve();
        let mut c = server.connect("copy");
        // A write during hydration, to another place each time.
        let at = (round as usize * 7 + 3) << 20;
        let new = noise(500 + round, 5000);
        c.write(at as u64 + 100, &new);
        data[at + 100..at + 5100].copy_from_slice(&new);
        let stored = || file.metadata().unwrap().blocks() * 512;
        wait_until("so much is filled", || stored() >= (round * 4 + 1) * MIB);
        server.kill9();
        let shown = s.json(&["volume", "show", "copy"]);
        halfway += u32::from(shown["hydrated"] == json!(false));
    }
    assert!(halfway > 0, "no kill was early enough");
    let server = s.serve();
    let mut c = server.connect("copy");
    assert!(read_all(&mut c, LEN) == data);
    wait_until("it is filled", || s.json(&["volume", "show", "copy"])["hydrated"] == json!(true));
    assert!(read_all(&mut c, LEN) == data);
    c.close();
    s.ok(&["snapshot", "delete", &snap]);
    assert!(read_all(&mut server.connect("copy"), LEN) == data, "it does not need its snapshot any more");
}

#[test]
fn sigterm_ends_in_order() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v"]);
    let data = noise(600, 8 << 20);
    let server = s.serve();
    let mut c = server.connect("v");
    write_all(&mut c, &data);
    // The client is still connected, and has not flushed.
    assert_eq!(server.stop(), 0);
    let shown = s.json(&["volume", "show", "v"]);
    assert_eq!((&shown["header"]["clean"], &shown["state"]), (&json!(true), &json!("available")));
    assert!(c.try_read(0, 512).is_err(), "the connection is gone");
    let server = s.serve();
    let mut c = server.connect("v");
    assert!(read_all(&mut c, 8 << 20) == data);
    let snap = s.id(&["snapshot", "create", "v"]);
    assert_eq!(server.stop(), 0);
    assert_ne!(state_of(&s, &snap), json!("error"));
    let server = s.serve();
    s.ok(&["snapshot", "wait", &snap]);
    must_hold(&s, &server, &snap, &data, "after SIGTERM");
    let next = s.id(&["snapshot", "create", "v", "--wait"]);
    must_hold(&s, &server, &next, &data, "the next after SIGTERM");
}

#[test]
fn a_create_or_grow_that_is_killed_leaves_what_opens() {
    let s = Scratch::new();
    let folder = s.data.join("volumes");
    for round in 0..4 {
        let before = files(&folder).len();
        let mut child = s.command(&["-q", "volume", "create", "--size", "1MiB"]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("a file appears", || files(&folder).len() > before || child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        for id in s.ids(&["volume", "list"]) {
            assert_eq!(s.json(&["volume", "show", &id])["size"], json!(MIB), "round {round}");
        }
        s.ok(&["doctor"]);
    }
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let data = noise(700, STEP);
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &data);
    c.close();
    assert_eq!(server.stop(), 0);
    let file = s.file("v");
    for round in 2..6 {
        let len = file.metadata().unwrap().len();
        let size = format!("{round}MiB");
        let mut child =
            s.command(&["-q", "volume", "grow", "v", "--size", &size]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the file grows", || file.metadata().unwrap().len() > len || child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        let server = s.serve();
        let mut c = server.connect("v");
        assert!([round - 1, round].contains(&(c.size() / MIB)), "round {round}: {}", c.size());
        assert!(c.read(0, STEP as u32) == data, "round {round}");
        assert_eq!(c.read(c.size() - 512, 512).len(), 512);
        c.close();
        let shown = s.json(&["volume", "show", "v"])["size"].as_u64().unwrap();
        assert!([(round - 1) * MIB, round * MIB].contains(&shown), "round {round}: {shown}");
        drop(server);
        assert_eq!(s.json(&["volume", "grow", "v", "--size", &size])["size"], json!(round * MIB));
    }
}
