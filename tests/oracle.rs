//! Reads what coffer writes with an independent reader: tools/oracle, in Python, written only from the format's
//! description.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::service::Role;
use common::*;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

fn requires_reader() -> bool {
    let there = Command::new("python3").args(["-c", "import cryptography"]).output();
    there.is_ok_and(|out| out.status.success()) || skip("python3 with cryptography")
}

fn reader(args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/oracle/coffer_reader.py")).args(args);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[track_caller]
fn reads(args: &[&str]) -> String {
    let out = output(&mut reader(args));
    assert_eq!(out.code, 0, "{args:?}: {out:?}");
    out.stdout
}

/// Checks that the reader finds damage, and prints all of these words.
#[track_caller]
fn finds(args: &[&str], words: &[&str]) {
    let out = output(&mut reader(args));
    assert_eq!(out.code, 1, "{args:?}: {out:?}");
    for word in words {
        assert!(out.stderr.contains(word), "{args:?} does not say {word:?}: {}", out.stderr);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A volume, with a copy in memory of its expected contents.
struct Volume<'a> {
    scratch: &'a Scratch,
    name: &'static str,
    model: Vec<u8>,
}

impl<'a> Volume<'a> {
    fn create(scratch: &'a Scratch, name: &'static str, mib: usize) -> Self {
        scratch.ok(&["volume", "create", "--size", &format!("{mib}MiB"), "--name", name]);
        Self { scratch, name, model: vec![0; mib * MIB] }
    }

    /// Writes noise (seed 0: zeros, by WRITE) and trims, at these places.
    fn change(&mut self, writes: &[(u64, usize, usize)], trims: &[(usize, usize)]) {
        let served = self.scratch.serve();
        let mut nbd = served.connect(self.name);
        for &(seed, at, len) in writes {
            let data = if seed == 0 { vec![0; len] } else { noise(seed, len) };
            nbd.write(at as u64, &data);
            self.model[at..at + len].copy_from_slice(&data);
        }
        for &(at, len) in trims {
            nbd.try_trim(at as u64, len as u32).unwrap().unwrap();
            self.model[at..at + len].fill(0);
        }
        nbd.flush();
        nbd.close();
        assert_eq!(served.stop(), 0);
    }

    fn key(&self) -> PathBuf {
        let path = self.scratch.path(&format!("{}.key", self.name));
        if !path.exists() {
            self.scratch.ok(&["volume", "export-key", self.name, "--out", text(&path)]);
        }
        path
    }

    fn file(&self) -> PathBuf {
        self.scratch.file(self.name)
    }

    /// Verifies the file and reads a range of it with the key.
    #[track_caller]
    fn check(&self, ranges: &[(usize, usize)]) {
        let (file, key) = (self.file(), self.key());
        let said = reads(&["volume", "verify", text(&file), "--key", text(&key)]);
        assert!(said.contains("identity MAC match") && said.contains("2 slots"), "{said}");
        for &(at, len) in ranges {
            let [offset, length] = [at, len].map(|n| n.to_string());
            let args = ["volume", "read", text(&file), "--key", text(&key), "--offset", &offset, "--length", &length];
            let out = reader(&args).output().unwrap();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(out.stdout == self.model[at..at + len], "{}: {at}+{len} differs", self.name);
        }
    }
}

/// Flips one bit of a file, and back when it is dropped.
struct Flipped(std::fs::File, u64);

impl Flipped {
    fn at(path: &Path, offset: u64) -> Self {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let flipped = Self(file, offset);
        flipped.flip();
        flipped
    }
    fn flip(&self) {
        let mut byte = [0];
        self.0.read_exact_at(&mut byte, self.1).unwrap();
        self.0.write_all_at(&[byte[0] ^ 0x10], self.1).unwrap();
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        self.flip();
    }
}

#[test]
fn volumes_fresh_written_and_grown() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let mut vol = Volume::create(&s, "web", 6);
    vol.check(&[(0, 5000), (6 * MIB - 513, 513)]);
    let shown: serde_json::Value = serde_json::from_str(&reads(&["volume", "show", text(&vol.file())])).unwrap();
    assert_eq!(shown["size"], 6 * MIB);
    assert_eq!(shown["problems"], serde_json::json!([]));
    let id = s.id(&["volume", "show", "web"]);
    assert!(shown["slots"].as_array().unwrap().iter().all(|slot| slot["volume_id"] == id.as_str()));

    // Whole sectors, parts of sectors, odd bytes across the end of a chunk, zeros, the last bytes.
    let writes = [
        (1, 8192, 8192),
        (2, 20 * 4096 + 512, 512),
        (3, 30 * 4096 + 700, 5),
        (4, 524_288 - 1001, 3003),
        (5, 2 * MIB, MIB),
        (0, 2 * MIB + 4096 + 512, 1024),
        (6, 6 * MIB - 7, 7),
    ];
    vol.change(&writes, &[(2 * MIB + 65536, 131_072), (8192 + 512, 512)]);
    vol.check(&[(0, 6 * MIB), (30 * 4096 + 699, 7), (2 * MIB + 4095, 2000), (6 * MIB - 8, 8)]);

    s.ok(&["volume", "grow", "web", "--size", "40MiB"]);
    vol.model.resize(40 * MIB, 0);
    // More than 60 chunks: a second block of the map.
    vol.change(&[(7, 39 * MIB + 99, 70_000), (8, 6 * MIB - 100, 200)], &[]);
    vol.check(&[(0, 7 * MIB), (39 * MIB - 5, MIB + 5)]);
}

#[test]
fn another_volumes_key_opens_nothing() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let (a, b) = (Volume::create(&s, "a", 1), Volume::create(&s, "b", 1));
    finds(&["volume", "verify", text(&a.file()), "--key", text(&b.key())], &["data-key id"]);
}

#[test]
fn snapshots_full_and_incremental_and_what_is_made_from_them() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let mut vol = Volume::create(&s, "web", 5);
    vol.change(&[(1, 4096, 9000), (2, 3 * MIB + 17, 600_000)], &[]);
    let first = s.id(&["snapshot", "create", "web", "--wait"]);
    let model_then = vol.model.clone();
    vol.change(&[(3, 3 * MIB + 512, 513), (4, 5 * MIB - 1, 1)], &[(4096, 4096)]);
    let second = s.id(&["snapshot", "create", "web", "--wait"]);

    let repository = s.data.join("repository");
    let said = reads(&["repo", "verify", text(&repository)]);
    assert!(said.starts_with("2 snapshots, "), "{said}");
    let (key, out) = (vol.key(), s.path("out"));
    for (snapshot, model) in [(&first, &model_then), (&second, &vol.model)] {
        reads(&["repo", "extract", text(&repository), snapshot, text(&out), "--key", text(&key)]);
        assert!(std::fs::read(&out).unwrap() == *model, "{snapshot} differs");
    }
    // Without the key there is sealed data, and it is what coffer exports.
    let sealed = s.path("sealed");
    s.ok(&["volume", "export", "web", text(&sealed), "--sealed"]);
    reads(&["repo", "extract", text(&repository), &second, text(&out)]);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&sealed).unwrap());

    // A volume from the first one, larger: until it is hydrated, the reader says where the rest is.
    s.ok(&["volume", "create", "--snapshot", &first, "--name", "copy", "--size", "8MiB"]);
    let mut copy = Volume { scratch: &s, name: "copy", model: model_then };
    copy.model.resize(8 * MIB, 0);
    let file = copy.file();
    reads(&["volume", "verify", text(&file)]);
    finds(&["volume", "read", text(&file), "--key", text(&copy.key()), "--length", "9000"], &["absent", &first]);
    copy.change(&[(9, 7 * MIB + 5, 4000), (10, 3 * MIB, 20)], &[]);
    let served = s.serve();
    let nbd = served.connect("copy");
    wait_until("the volume is filled", || s.json(&["volume", "show", "copy"])["hydrated"] == true);
    nbd.close();
    assert_eq!(served.stop(), 0);
    copy.check(&[(0, 8 * MIB)]);
}

/// Bodies of compacted packs are where redirects say, and a log may begin with a checkpoint.
#[test]
fn a_compacted_repository_and_a_trimmed_log() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let mut vol = Volume::create(&s, "web", 5);
    vol.change(&[(1, 0, 5 * MIB)], &[]);
    let first = s.id(&["snapshot", "create", "web", "--wait"]);
    vol.change(&[(2, 0, 2 * MIB)], &[]);
    let second = s.id(&["snapshot", "create", "web", "--wait"]);
    let service = s.opened(Role::Command);
    for n in 0..520 {
        let action = if n % 2 == 0 { "snapshot-hold" } else { "snapshot-release" };
        let request = serde_json::from_value(serde_json::json!({"action": action, "snapshot": second})).unwrap();
        service.handle(&service.caller_of(0, "test").unwrap(), request, &mut |_| true).unwrap();
    }
    service.shut_down();
    drop(service);
    s.ok(&["snapshot", "delete", &first]);
    assert_eq!(s.json(&["repository", "gc"])["repositories"][0]["compacted"], 1);
    let repository = s.data.join("repository");
    let all = |sort: &str| files(&repository).iter().filter(|f| f.parent().unwrap().ends_with(sort)).count();
    assert!(all("redirects") == 1 && all("log") < 520, "{} redirects, {} records", all("redirects"), all("log"));
    let said = reads(&["repo", "verify", text(&repository)]);
    assert!(said.starts_with("1 snapshots, "), "{said}");
    let (key, out) = (vol.key(), s.path("out"));
    reads(&["repo", "extract", text(&repository), &second, text(&out), "--key", text(&key)]);
    assert!(std::fs::read(&out).unwrap() == vol.model);
    // A redirect that is damaged is found.
    let _flipped = Flipped::at(&only(&repository, "redirects"), 70);
    finds(&["repo", "verify", text(&repository)], &["redirects"]);
}

/// A volume with some data, and a snapshot of it.
fn snapshotted(s: &Scratch) -> (Volume<'_>, String) {
    let mut vol = Volume::create(s, "web", 2);
    vol.change(&[(1, 4096, 20_000), (2, MIB, 600_000)], &[]);
    let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
    (vol, snapshot)
}

fn only(folder: &Path, sort: &str) -> PathBuf {
    let lineage = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let all = std::fs::read_dir(lineage).unwrap().map(|e| e.unwrap().path().join(sort)).filter(|p| p.is_dir());
    let mut objects: Vec<_> = all.flat_map(|dir| std::fs::read_dir(dir).unwrap()).map(|e| e.unwrap().path()).collect();
    objects.sort();
    objects.pop().unwrap()
}

#[test]
fn a_flipped_byte_of_a_repository_is_found_by_both() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let (_vol, snapshot) = snapshotted(&s);
    let repository = s.data.join("repository");
    // A body's head and its sectors, a page's entry, a manifest's and a log record's body.
    for (sort, at, word) in [
        ("packs", 64 + 3, "packs"),
        ("packs", 64 + 64 + 5000, "packs"),
        ("pages", 32 + 10, "pages"),
        ("manifests", 88 + 20, "manifests"),
        ("log", 88 + 20, "log"),
    ] {
        let flipped = Flipped::at(&only(&repository, sort), at);
        finds(&["repo", "verify", text(&repository)], &[]);
        let out = s.coffer(&["snapshot", "verify", &snapshot]);
        assert!(out.code != 0 && format!("{out:?}").contains(word), "{sort} at {at}: {out:?}");
        drop(flipped);
    }
    s.ok(&["snapshot", "verify", &snapshot]);
    reads(&["repo", "verify", text(&repository)]);
}

#[test]
fn a_flipped_byte_of_a_header_is_found_by_both() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let (vol, _) = snapshotted(&s);
    let file = vol.file();
    let places = [("preamble", 40), ("identity", 4096 + 200), ("keys", 28 * 1024 + 200), ("state", 60 * 1024 + 100)];
    for (what, at) in places {
        let one = Flipped::at(&file, at);
        finds(&["volume", "verify", text(&file)], &["slot A", what, "checksum"]);
        // The other slot opens the volume. Showing it repairs nothing.
        let shown = s.json(&["volume", "show", "web"]);
        assert!(shown["header"]["damage"].is_string(), "{what}: {shown}");
        let two = Flipped::at(&file, 65536 + at);
        finds(&["volume", "verify", text(&file)], &["both slots", what]);
        let out = s.coffer(&["volume", "show", "web"]);
        assert!(format!("{out:?}").contains(what), "{what}: {out:?}");
        let attached = s.coffer(&["snapshot", "create", "web", "--wait"]);
        assert!(attached.code != 0 && attached.stderr.contains(what), "{what}: {attached:?}");
        drop((one, two));
    }
    vol.check(&[(0, 2 * MIB)]);
}

#[test]
fn a_flipped_byte_of_the_map_is_found() {
    if !requires_reader() {
        return;
    }
    let s = Scratch::new();
    let (vol, _) = snapshotted(&s);
    let file = vol.file();
    let flipped = Flipped::at(&file, 192 * 1024 + 33);
    finds(&["volume", "verify", text(&file)], &["CMAP block 0", "CRC32C"]);
    drop(flipped);
    let flipped = Flipped::at(&file, 128 * 1024 + 33);
    finds(&["volume", "verify", text(&file)], &["CINT block 0", "CRC32C"]);
    drop(flipped);
    reads(&["volume", "verify", text(&file)]);
}
