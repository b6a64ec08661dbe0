//! A full disk: what frees space or takes rights away works, with and without a server; everything else says what to
//! do.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// A scratch installation on a small ext4 of its own.
struct Disk {
    s: Scratch,
}

impl Disk {
    /// `None` if this user may not mount.
    fn new(block: u32) -> Option<Self> {
        let s = Scratch::empty();
        let image = s.path("image");
        std::fs::create_dir(&s.data).unwrap();
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let done = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
        let block = block.to_string();
        let made = done(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-b", &block]).arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&s.data));
        if !made {
            skip("mkfs.ext4 and loop devices");
            return None;
        }
        let disk = Self { s };
        disk.s.init();
        Some(disk)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let path = self.s.data.join("filler");
        let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        for len in [1 << 20, 64 << 10, 4 << 10, 1 << 10] {
            // Recently deleted space is free only after the journal's next commit.
            for _ in 0..3 {
                while file.write_all(&vec![1; len]).is_ok() {}
                let _ = file.sync_all();
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.s.data.join("filler")).unwrap();
        rustix::fs::syncfs(std::fs::File::open(&self.s.data).unwrap()).unwrap();
    }

    fn reserve(&self) -> u64 {
        self.s.data.join("audit/reserve").metadata().unwrap().blocks() * 512
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.s.data).status();
    }
}

/// Acts that restrict, free space or only read, one after the other.
fn acts(s: &Scratch, keys: &[String], volume: &str, snapshot: &str) {
    for _ in 0..3 {
        s.ok(&["volume", "list"]);
        s.ok(&["audit", "list"]);
    }
    for key in keys {
        s.ok(&["key", "disable", key]);
    }
    // The log of its repository needs a file for that, and what it frees may be less.
    s.ok(&["snapshot", "delete", snapshot]);
    s.ok(&["volume", "delete", volume]);
    s.ok(&["audit", "verify"]);
}

/// What cannot be done fails with a useful message.
fn refused_in_words(s: &Scratch) {
    let mut said = None;
    // Preallocated space lasts for some.
    for _ in 0..2000 {
        let out = s.coffer(&["key", "create"]);
        if out.code != 0 {
            said = Some(out.stderr);
            break;
        }
    }
    let said = said.expect("a full disk was never full");
    assert!(said.to_lowercase().contains("no space left") && said.contains("snapshot delete"), "{said}");
    assert!(!said.contains("(code:"), "{said}");
}

fn full_disk(block: u32, served: bool) {
    let Some(disk) = Disk::new(block) else { return };
    let s = &disk.s;
    let keys: Vec<String> = (0..6).map(|_| s.id(&["key", "create"])).collect();
    for name in ["v", "w", "x"] {
        s.ok(&["volume", "create", "--size", "4MiB", "--name", name]);
    }
    let snapshots: Vec<String> = (0..2).map(|_| s.id(&["snapshot", "create", "v", "--wait"])).collect();
    let server = served.then(|| s.serve());
    assert!(disk.reserve() >= 1 << 20);
    disk.fill();
    acts(s, &keys[..3], "w", &snapshots[0]);
    assert!(!s.data.join("catalog.db-shm").exists());
    // The same again when even what was freed is used up.
    disk.fill();
    acts(s, &keys[3..], "x", &snapshots[1]);
    if served {
        disk.fill();
        refused_in_words(s);
        s.ok(&["volume", "delete", "v"]);
    }
    disk.make_room();
    s.ok(&["key", "enable", &keys[0]]);
    assert!(disk.reserve() >= 1 << 20, "the reserve is not made good again");
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "new"]);
    s.ok(&["audit", "verify"]);
    drop(server);
    assert_eq!(s.serve().connect("new").read(0, 8192), vec![0; 8192]);
}

#[test]
fn what_frees_space_or_restricts_works_without_a_server() {
    full_disk(4096, false);
}

#[test]
fn what_frees_space_or_restricts_works_with_a_server() {
    full_disk(4096, true);
}

#[test]
fn the_same_where_blocks_are_small_without_a_server() {
    full_disk(1024, false);
}

#[test]
fn the_same_where_blocks_are_small_with_a_server() {
    full_disk(1024, true);
}

/// The installation predates preallocation, or another program used the space.
#[test]
fn without_space_taken_in_advance_the_reserve_opens_and_disables() {
    let Some(disk) = Disk::new(4096) else { return };
    let s = &disk.s;
    let key = s.id(&["key", "create"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    std::fs::remove_file(s.data.join("catalog.spare")).unwrap();
    let trim = |path: &Path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len()).unwrap();
    };
    trim(&s.data.join("audit/0000000000000000.log"));
    trim(&s.data.join("catalog.db"));
    disk.fill();
    s.ok(&["key", "disable", &key]);
    s.ok(&["volume", "delete", "v"]);
    disk.make_room();
    s.ok(&["key", "enable", &key]);
    assert!(disk.reserve() >= 1 << 20);
    s.ok(&["audit", "verify"]);
}

#[test]
fn doctor_tells_of_a_disk_that_is_nearly_full() {
    let Some(disk) = Disk::new(4096) else { return };
    disk.fill();
    let out = disk.s.ok(&["doctor"]).stdout;
    assert!(out.contains("warning  space") && out.contains("snapshot delete"), "{out}");
    disk.make_room();
    let out = disk.s.ok(&["doctor"]).stdout;
    assert!(!out.contains("space:"), "{out}");
}

#[test]
fn doctor_tells_of_a_disk_that_became_read_only() {
    let Some(disk) = Disk::new(4096) else { return };
    let s = &disk.s;
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(&s.data).status().unwrap();
        assert!(done.success());
    };
    remount("remount,ro");
    let out = s.coffer(&["doctor"]);
    let words = ["ERROR    installation", "ERROR    space", "ok       root key", "ok       catalog", "ok       audit"];
    assert!(out.code == 1 && words.iter().all(|w| out.stdout.contains(w)), "{out:?}");
    remount("remount,rw");
    s.ok(&["doctor"]);
}
