//! Damaged, foreign, missing, full, read-only: each is named, no wrong data is read, and the rest keeps working.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
const SLOT: u64 = 64 << 10;

/// A volume of 1 MiB whose first 8 KiB are noise.
fn with_volume(name: &str) -> (Scratch, Vec<u8>) {
    let s = Scratch::new();
    let data = add_volume(&s, name, 11);
    (s, data)
}

fn add_volume(s: &Scratch, name: &str, seed: u64) -> Vec<u8> {
    let data = noise(seed, 8192);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", name]);
    put(s, name, 0, &data);
    data
}

fn put(s: &Scratch, name: &str, at: u64, data: &[u8]) {
    let server = s.serve();
    let mut c = server.connect(name);
    c.write(at, data);
    c.close();
    assert_eq!(server.stop(), 0);
}

fn damage_of(s: &Scratch, name: &str) -> serde_json::Value {
    s.json(&["volume", "show", name])["header"]["damage"].clone()
}

#[test]
fn one_damaged_header_slot_is_named_and_mended() {
    for (slot, at, field) in
        [(0, 0, "magic"), (0, 4096 + 100, "identity"), (SLOT, 28 * 1024 + 90, "keys"), (SLOT, 60 * 1024 + 95, "state")]
    {
        let (s, data) = with_volume("v");
        flip(&s.file("v"), slot + at);
        let damage = damage_of(&s, "v");
        let words = damage.as_str().unwrap_or_else(|| panic!("{field}: damage is passed over in silence"));
        assert!(words.contains(field) || words.contains("preamble"), "{field}: {words}");
        let doctor = s.ok(&["doctor"]).stdout;
        assert!(
            doctor.contains("warning  volume:") && doctor.contains("attaching the volume repairs this"),
            "{doctor}"
        );
        let server = s.serve();
        let mut c = server.connect("v");
        assert_eq!(c.read(0, 8192), data, "{field}");
        c.close();
        assert_eq!(server.stop(), 0);
        assert!(damage_of(&s, "v").is_null(), "{field} was not mended: {}", damage_of(&s, "v"));
        assert!(s.log().contains(field) || s.log().contains("slot"), "{field}: no warning in the log: {}", s.log());
    }
}

#[test]
fn two_damaged_header_slots_are_refused_by_offset_and_field() {
    let (s, _) = with_volume("v");
    for slot in [0, SLOT] {
        flip(&s.file("v"), slot + 4096 + 100);
    }
    s.fails(7, &["volume", "show", "v"], &["v (vol-", "slot A (from byte 0), identity checksum at offset 4152"]);
    s.fails(7, &["volume", "show", "v"], &["slot B (from byte 65536), identity checksum at offset 4152"]);
    s.fails(7, &["snapshot", "create", "v"], &["identity"]);
    let server = s.serve();
    let refused = Nbd::open(&s.socket(), "v").err().unwrap().to_string();
    assert!(refused.contains("identity"), "{refused}");
    drop(server);
    assert_eq!(s.coffer(&["doctor"]).code, 1);
}

#[test]
fn a_file_that_is_no_volume_is_refused() {
    let (s, _) = with_volume("v");
    std::fs::write(s.file("v"), noise(1, 2 << 20)).unwrap();
    s.fails(7, &["volume", "show", "v"], &["v (vol-"]);
    std::fs::write(s.file("v"), "").unwrap();
    s.fails(7, &["volume", "show", "v"], &["v (vol-"]);
    std::fs::remove_file(s.file("v")).unwrap();
    std::fs::create_dir(s.file("v")).unwrap();
    let out = s.coffer(&["volume", "show", "v"]);
    assert!(out.code != 0 && out.stderr.contains("v (vol-"), "{out:?}");
}

#[test]
fn a_truncated_volume_is_refused() {
    let (s, _) = with_volume("v");
    let file = std::fs::File::options().write(true).open(s.file("v")).unwrap();
    let len = file.metadata().unwrap().len();
    for left in [len - 1, len - 4096, 128 << 10, SLOT, 100] {
        file.set_len(left).unwrap();
        s.fails(7, &["volume", "show", "v"], &["v (vol-"]);
        let server = s.serve();
        assert!(Nbd::open(&s.socket(), "v").is_err(), "{left}");
        drop(server);
    }
}

#[test]
fn an_older_copy_or_a_siblings_file_is_refused() {
    let (s, data) = with_volume("v");
    add_volume(&s, "w", 12);
    let (v, w, old) = (s.file("v"), s.file("w"), s.path("old"));
    std::fs::copy(&v, &old).unwrap();
    s.ok(&["volume", "grow", "v", "--size", "2MiB"]);
    std::fs::copy(&old, &v).unwrap();
    s.fails(7, &["volume", "show", "v"], &["generation", "rolled back"]);
    let server = s.serve();
    assert!(Nbd::open(&s.socket(), "v").is_err());
    assert!(Nbd::open(&s.socket(), "w").is_ok());
    drop(server);
    std::fs::copy(&w, &v).unwrap();
    let said = s.fails(7, &["volume", "show", "v"], &["v (vol-"]);
    assert!(said.contains(&s.id(&["volume", "show", "w"])), "whose file it is: {said}");
    s.ok(&["volume", "show", "w"]);
    let accepted = s.coffer(&["volume", "accept-rollback", "v"]);
    assert_ne!(accepted.code, 0, "a sibling's file is not taken: {accepted:?}");
    std::fs::copy(&old, &v).unwrap();
    s.ok(&["volume", "accept-rollback", "v"]);
    assert_eq!(s.json(&["volume", "show", "v"])["size"], json!(MIB));
    let server = s.serve();
    let mut c = server.connect("v");
    assert_eq!((c.size(), c.read(0, 8192)), (MIB, data));
}

#[test]
fn without_the_root_key_nothing_opens() {
    let (s, data) = with_volume("v");
    let good = std::fs::read_to_string(&s.key).unwrap();
    let wrong = format!("coffer-root-key-1 {}\n", "5a".repeat(32));
    std::fs::write(&s.key, wrong).unwrap();
    s.fails(6, &["volume", "list"], &[s.key.to_str().unwrap()]);
    assert_eq!(s.coffer(&["serve", "--run", "true"]).code, 6);
    std::fs::write(&s.key, "not a key").unwrap();
    let out = s.coffer(&["volume", "list"]);
    assert!([6, 7].contains(&out.code) && out.stderr.contains(s.key.to_str().unwrap()), "{out:?}");
    std::fs::rename(&s.key, s.path("away")).unwrap();
    s.fails(6, &["volume", "list"], &[s.key.to_str().unwrap()]);
    for text in [s.log(), s.coffer(&["volume", "list"]).stderr] {
        assert!(!text.contains(good.split_whitespace().nth(1).unwrap()));
    }
    let away = s.path("away");
    let away_key = ["--root-key-file", away.to_str().unwrap()];
    s.fails(6, &[&away_key[..], &["volume", "list"]].concat(), &[]);
    std::fs::write(&away, &good).unwrap();
    assert_eq!(s.ids(&[&away_key[..], &["volume", "list"]].concat()).len(), 1);
    std::fs::rename(&away, &s.key).unwrap();
    assert_eq!(s.serve().connect("v").read(0, 8192), data);
}

#[test]
fn one_damaged_root_file_is_survived_and_two_are_refused() {
    let (s, _) = with_volume("v");
    let (a, b) = (s.data.join("root.json"), s.data.join("root.b.json"));
    let good = std::fs::read(&a).unwrap();
    for file in [&a, &b] {
        let was = std::fs::read(file).unwrap();
        flip(file, 40);
        s.ok(&["volume", "show", "v"]);
        std::fs::remove_file(file).ok();
        s.ok(&["volume", "show", "v"]);
        std::fs::write(file, was).unwrap();
    }
    flip(&a, 40);
    flip(&b, 300);
    s.fails(7, &["volume", "show", "v"], &["root"]);
    std::fs::write(&a, "").unwrap();
    std::fs::write(&b, "{}").unwrap();
    s.fails(7, &["volume", "show", "v"], &["root"]);
    std::fs::write(&b, good).unwrap();
    s.ok(&["volume", "show", "v"]);
}

#[test]
fn a_damaged_catalog_is_refused() {
    let (s, data) = with_volume("v");
    let db = s.data.join("catalog.db");
    // A server's last threads may leave SQLite's log behind; a command recovers and removes it.
    s.ok(&["volume", "list"]);
    let good = std::fs::read(&db).unwrap();
    assert!(!s.data.join("catalog.db-wal").exists(), "the catalog was not closed");
    for (what, bytes) in [
        ("cut", good[..good.len() / 2].to_vec()),
        ("garbage", noise(1, good.len())),
        ("empty", Vec::new()),
        ("text", b"hello\n".to_vec()),
    ] {
        std::fs::write(&db, bytes).unwrap();
        let out = s.coffer(&["volume", "list"]);
        assert_eq!(out.code, 7, "{what}: {out:?}");
        assert!(out.stderr.contains("catalog"), "{what}: {}", out.stderr);
        assert_ne!(s.coffer(&["serve", "--run", "true"]).code, 0, "{what}");
    }
    std::fs::remove_file(&db).unwrap();
    let out = s.coffer(&["volume", "list"]);
    assert!(out.code != 0 && out.stderr.contains("catalog"), "{out:?}");
    assert!(!db.exists(), "an empty catalog is not made in the place of a lost one");
    std::fs::write(&db, good).unwrap();
    assert_eq!(s.serve().connect("v").read(0, 8192), data);
}

#[test]
fn a_damaged_key_record_makes_that_key_unavailable_and_no_other() {
    let s = Scratch::new();
    let bad = s.id(&["key", "create", "--alias", "alias/bad", "--description", "here-the-bit-flips"]);
    let good = s.id(&["key", "create", "--alias", "alias/good"]);
    let make = |name: &str, key: &str| s.coffer(&["volume", "create", "--size", "1MiB", "--name", name, "--key", key]);
    assert_eq!((make("b", "alias/bad").code, make("g", "alias/good").code), (0, 0));
    let db = s.data.join("catalog.db");
    let bytes = std::fs::read(&db).unwrap();
    let word = b"here-the-bit-flips";
    let places: Vec<_> = (0..bytes.len() - word.len()).filter(|i| bytes[*i..].starts_with(word)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| flip(&db, *at as u64));
    let server = s.serve();
    server.connect("g").write(0, &[1; 512]);
    let refused = Nbd::open(&s.socket(), "b").err().unwrap().to_string();
    assert!(refused.contains(&bad) || refused.contains("damaged"), "{refused}");
    drop(server);
    let refused = make("c", &bad);
    assert!([6, 7].contains(&refused.code) && refused.stderr.contains(&bad), "{refused:?}");
    assert_eq!(make("c", "alias/good").code, 0);
    assert!(s.ids(&["key", "list"]).contains(&good));
    let doctor = s.coffer(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains(&bad), "{doctor:?}");
}

#[test]
fn a_cut_audit_makes_keys_unavailable() {
    let (s, data) = with_volume("v");
    let log = files(&s.data.join("audit")).into_iter().find(|f| f.extension().is_some_and(|e| e == "log")).unwrap();
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() / 2]).unwrap();
    let out = s.coffer(&["volume", "create", "--size", "1MiB", "--name", "w"]);
    assert_eq!(out.code, 6, "{out:?}");
    assert!(out.stderr.contains("audit"), "{}", out.stderr);
    let server = s.serve();
    let refused = Nbd::open(&s.socket(), "v").err().unwrap().to_string();
    assert!(refused.contains("audit"), "{refused}");
    drop(server);
    let doctor = s.coffer(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("ERROR    audit"), "{doctor:?}");
    assert_eq!(s.coffer(&["audit", "verify"]).code, 7);
    std::fs::write(&log, &whole).unwrap();
    assert_eq!(s.serve().connect("v").read(0, 8192), data);
    // Or someone accepts the loss: from then on it works, and the chain records it.
    s.ok(&["audit", "verify"]);
    std::fs::write(&log, &whole[..whole.len() / 2]).unwrap();
    s.ok(&["audit", "accept"]);
    s.ok(&["audit", "verify"]);
    assert!(s.json(&["audit", "list"]).to_string().to_lowercase().contains("accept"));
    assert_eq!(s.serve().connect("v").read(0, 8192), data);
}

#[test]
fn an_unknown_export_is_refused_in_words() {
    let (s, _) = with_volume("v");
    let server = s.serve();
    let refused = Nbd::open(&s.socket(), "nope").err().unwrap().to_string();
    assert!(refused.starts_with("0x80000006") && refused.contains("there is no volume nope"), "{refused}");
    if requires("nbdinfo") {
        let out = output(Command::new("nbdinfo").arg(server.uri("nope")));
        assert!(out.code != 0 && out.stderr.contains("nope"), "{out:?}");
        let out = output(Command::new("nbdinfo").args(["--list"]).arg(server.uri("")));
        assert!(out.code == 0 && out.stdout.contains("export=\"v\""), "{out:?}");
    }
}

#[test]
fn impossible_sizes_are_refused_and_leave_nothing() {
    let s = Scratch::new();
    let create = |size: &str| s.coffer(&["volume", "create", "--name", "v", "--size", size]);
    for size in
        ["0", "1", "1000", "65TiB", "70368744178176", "18446744073709551615", "18446744073709551616", "-512", "1.5GiB"]
    {
        let out = create(size);
        assert_eq!(out.code, 2, "{size}: {out:?}");
    }
    if requires("stat") {
        let kind = output(Command::new("stat").args(["-f", "-c", "%T"]).arg(&s.data));
        if kind.stdout.trim() == "ext2/ext3" {
            let out = create("64TiB");
            assert_eq!(out.code, 1, "{out:?}");
            assert!(out.stderr.contains("ext4 is limited to 16 TiB"), "{}", out.stderr);
        }
    }
    assert!(s.ids(&["volume", "list"]).is_empty() && files(&s.data.join("volumes")).is_empty());
    let out = create("512");
    assert_eq!(out.code, 0, "{out:?}");
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &[7; 512]);
    assert_eq!(c.read(0, 512), [7; 512]);
    assert!(c.try_read(0, 513).unwrap().is_err());
}

/// A mount that is unmounted when this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, args: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root, to mount");
            return None;
        }
        if !requires("mount") || !requires("umount") {
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let out = output(Command::new("mount").args(args).arg(at));
        if out.code != 0 {
            skip(&format!("to mount ({})", out.stderr.trim()));
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_reaches_the_client_and_passes() {
    let s = Scratch::empty();
    let Some(_mount) = Mount::new(&s.data, &["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"]) else { return };
    s.init();
    s.ok(&["volume", "create", "--size", "64MiB", "--name", "v"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "w"]);
    let server = s.serve();
    let (mut v, mut w) = (server.connect("v"), server.connect("w"));
    let ballast = s.data.join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    w.write(0, &noise(1, 4096));
    let mut written = 0;
    let error = loop {
        match v.try_write(written * MIB, &noise(written, 1 << 20), false).unwrap() {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 64, "it never got full");
    };
    assert_eq!(error, 28, "ENOSPC");
    assert!(written > 2, "{written}");
    for i in 0..written {
        assert!(v.read(i * MIB, 1 << 20) == noise(i, 1 << 20), "MiB {i}");
    }
    assert_eq!(w.read(0, 4096), noise(1, 4096));
    s.ok(&["volume", "list"]);
    let refused = s.coffer(&["snapshot", "create", "v", "--wait"]);
    assert!(refused.code == 1 && refused.stderr.to_lowercase().contains("space"), "{refused:?}");
    std::fs::remove_file(&ballast).unwrap();
    v.write(written * MIB, &noise(99, 1 << 20));
    v.flush();
    assert!(v.read(written * MIB, 1 << 20) == noise(99, 1 << 20));
    v.close();
    w.close();
    assert_eq!(server.stop(), 0);
    let server = s.serve();
    let mut v = server.connect("v");
    assert!(v.read(written * MIB, 1 << 20) == noise(99, 1 << 20));
    assert!(v.read(0, 1 << 20) == noise(0, 1 << 20));
}

#[test]
fn a_read_only_directory_is_named_and_not_hung_on() {
    let (s, data) = with_volume("v");
    let place = s.data.display().to_string();
    let Some(mount) = Mount::new(&s.data, &["--bind", &place]) else { return };
    assert_eq!(output(Command::new("mount").args(["-o", "remount,bind,ro", &place])).code, 0);
    for args in [&["volume", "list"][..], &["serve", "--run", "true"], &["volume", "create", "--size", "1MiB"]] {
        s.fails(1, args, &[&place, "Read-only file system", "remount"]);
    }
    drop(mount);
    assert_eq!(s.serve().connect("v").read(0, 8192), data);
}

#[test]
fn a_second_server_is_told_who_is_the_first() {
    let (s, data) = with_volume("v");
    let server = s.serve();
    s.fails(5, &["serve"], &[&format!("pid {}", server.pid())]);
    assert_eq!(server.connect("v").read(0, 8192), data, "the first goes on");
    let pid = server.pid();
    server.kill9();
    assert!(s.data.join("control.sock").exists() && s.socket().exists(), "nothing stale is left to test with");
    assert_eq!(s.json(&["status"])["daemon"], json!(null));
    let server = s.serve();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.connect("v").read(0, 8192), data);
    assert_eq!(server.stop(), 0);
    assert!(!s.data.join("control.sock").exists() && !s.socket().exists());
}

/// Makes a volume of 4 MiB and a snapshot of it; returns the files of the repository that contain `what`.
fn with_snapshot() -> (Scratch, Vec<u8>, String) {
    let s = Scratch::new();
    let data = noise(21, 4 << 20);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    put(&s, "v", 0, &data);
    let snap = s.id(&["snapshot", "create", "v"]);
    (s, data, snap)
}

fn stored(s: &Scratch, what: &str) -> PathBuf {
    let all = files(&s.data.join("repository"));
    let found = all.iter().find(|f| f.parent().unwrap().ends_with(what));
    found.unwrap_or_else(|| panic!("no {what} in {all:?}")).clone()
}

#[test]
fn damage_in_a_pack_is_found_and_never_read() {
    let (s, data, snap) = with_snapshot();
    s.ok(&["snapshot", "verify", &snap]);
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    flip(&stored(&s, "packs"), 2 << 20);
    let said = s.fails(7, &["snapshot", "verify", &snap], &[&snap, "chunk"]);
    let number = said.split(": chunk ").nth(1).and_then(|t| t.split_whitespace().next());
    let chunk: u64 = number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!((3..=4).contains(&chunk), "{said}");
    let server = s.serve();
    let mut c = server.connect("copy");
    let mut bad = Vec::new();
    for no in 0..8 {
        let (at, len) = (no * MIB / 2, (MIB / 2) as usize);
        match c.try_read(at, len as u32).unwrap() {
            Ok(got) => assert!(got == data[at as usize..at as usize + len], "chunk {no} reads wrong"),
            Err(_) => bad.push(no),
        }
    }
    assert_eq!(bad, [chunk]);
    assert!(s.log().contains("chunk"), "{}", s.log());
    c.close();
    assert_eq!(server.connect("v").read(0, 4096), data[..4096], "the volume itself is as it was");
}

#[test]
fn damage_in_a_page_or_manifest_is_found_and_never_read() {
    let (s, data, snap) = with_snapshot();
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    for what in ["pages", "manifests"] {
        let file = stored(&s, what);
        let good = std::fs::read(&file).unwrap();
        flip(&file, good.len() as u64 / 2);
        s.fails(7, &["snapshot", "verify", &snap], &[]);
        let server = s.serve();
        if let Ok(mut c) = Nbd::open(&s.socket(), "copy") {
            assert!(c.try_read(0, 4096).unwrap().is_err(), "{what}");
        }
        assert_eq!(server.connect("v").read(0, 4096), data[..4096], "{what}");
        drop(server);
        std::fs::write(&file, good).unwrap();
        s.ok(&["snapshot", "verify", &snap]);
    }
    std::fs::remove_file(stored(&s, "packs")).unwrap();
    s.fails(7, &["snapshot", "verify", &snap], &["chunk"]);
}

#[test]
fn damage_in_a_log_record_is_named_and_costs_nothing_that_the_catalog_knows() {
    let (s, data, snap) = with_snapshot();
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let file = stored(&s, "log");
    let good = std::fs::read(&file).unwrap();
    flip(&file, good.len() as u64 / 2);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(s.coffer(&["doctor"]).stdout.contains(name));
    let server = s.serve();
    s.ok(&["snapshot", "verify", &snap]);
    assert_eq!(server.connect("copy").read(0, 4096), data[..4096]);
    assert_eq!(server.connect("v").read(0, 4096), data[..4096]);
}

/// strace makes each write to the volume's file and each sync of it fail, like a dying disk: the header cannot record
/// it.
#[test]
fn a_failed_sync_is_remembered_by_the_catalog_until_it_is_accepted() {
    if !requires("strace") || !requires("qemu-io") {
        return;
    }
    let (s, data) = with_volume("v");
    let file = s.file("v");
    let mut serve = Command::new("strace");
    serve.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(&file);
    serve.args(["-e", "trace=fdatasync,pwrite64", "-e", "inject=fdatasync,pwrite64:error=EIO"]);
    let plain = s.command(&["serve", "v", "--run", "qemu-io -f raw -c 'write 0 4096' \"$uri\" 2>&1 >&2"]);
    serve.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => serve.env(name, value),
            None => serve.env_remove(name),
        };
    }
    let out = output(&mut serve);
    assert!(out.stderr.contains("Input/output error"), "{out:?}");
    assert_eq!(s.json(&["volume", "show", "v"])["header"]["write_failed"], true);
    let doctor = s.coffer(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("a sync failed"), "{doctor:?}");
    let server = s.serve();
    let mut client = server.connect("v");
    assert_eq!(client.read(0, 8192), data, "what was there can be read");
    assert!(client.try_write(0, &[1; 512], false).unwrap().is_err(), "and not changed");
    drop(client);
    // Accepted while the server still has it open, read-only, for a client that comes back: the next one may write.
    wait_until("nobody uses it", || s.json(&["volume", "show", "v"])["state"] == "available");
    s.ok(&["volume", "accept-lost-writes", "v"]);
    server.connect("v").write(0, &[2; 512]);
    server.stop();
    assert_eq!(s.json(&["volume", "show", "v"])["header"]["write_failed"], false);
    s.serve().connect("v").write(0, &[1; 512]);
}

#[test]
fn two_files_with_one_volume_id_are_both_refused() {
    let (s, data) = with_volume("v");
    let copy = s.data.join("volumes/copied.coffer");
    std::fs::copy(s.file("v"), &copy).unwrap();
    let server = s.serve();
    let refused = Nbd::open(&s.socket(), "v").err().unwrap().to_string();
    assert!(refused.contains("same volume id") && refused.contains("copied.coffer"), "{refused}");
    let doctor = s.coffer(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("copied.coffer has the id of vol-"), "{doctor:?}");
    std::fs::remove_file(copy).unwrap();
    assert_eq!(server.connect("v").read(0, 8192), data);
}
