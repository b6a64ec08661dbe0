//! After a whole session no secret and no plaintext is in the data directory, in any output or in the server's process.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::scan::{base64, found, has, needles};
use common::*;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;
const MARKER: &[u8] = b"PLAINTEXT-MARKER-7f3a9c51e0d24b68-that-must-not-be-seen";

#[test]
fn the_search_finds_each_form() {
    let secret = noise(1, 64);
    let all = needles("it", &secret);
    for needle in &all {
        let hay = [b"before", &needle.bytes[..], b"behind"].concat();
        assert!(!found(&all, "hay", &hay).is_empty(), "{}", needle.form());
    }
    assert!(found(&all, "hay", &noise(2, 4096)).is_empty());
    // RFC 4648, 10: "foobar" is Zm9vYmFy.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(base64(b"foobar", alphabet), b"Zm9vYmFy");
}

/// A marker in every 512 bytes, whatever the reader's alignment.
fn marked(len: usize) -> Vec<u8> {
    let mut out = noise(3, len);
    for part in out.chunks_mut(512) {
        part[100..100 + MARKER.len()].copy_from_slice(MARKER);
    }
    out
}

#[test]
fn no_secret_and_no_plaintext_is_left_anywhere() {
    let s = Scratch::new();
    let mut said = String::new();
    let mut run = |args: &[&str]| {
        for flag in [&[][..], &["--json"], &["-q"]] {
            // A repeat may fail; its message is checked too.
            let out = s.coffer(&[flag, args].concat());
            said.push_str(&out.stdout);
            said.push_str(&out.stderr);
        }
    };
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v", "--key", "alias/k"]);
    let key_file = s.path("clear.key");
    s.ok(&["volume", "export-key", "v", "--out", key_file.to_str().unwrap()]);
    let data_key = std::fs::read(&key_file).unwrap();
    assert_eq!(data_key.len(), 64);
    let text = std::fs::read_to_string(&s.key).unwrap();
    let word = text.split_whitespace().nth(1).unwrap();
    let root: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&word[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut all = needles("the root key", &root);
    all.extend(needles("the first half of the data key", &data_key[..32]));
    all.extend(needles("the second half of the data key", &data_key[32..]));
    all.extend(needles("the plaintext", MARKER));

    let server = s.serve();
    let mut c = server.connect("v");
    for i in 0..4 {
        c.write(i * MIB + 512, &marked(1 << 20));
    }
    c.flush();
    let snap = s.id(&["snapshot", "create", "v", "--wait"]);
    c.write(5 * MIB + 3, &marked(4096));
    c.write(100, MARKER);
    c.close();
    run(&["snapshot", "create", "v", "--wait"]);
    run(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let mut c = server.connect("copy");
    assert!(has(&c.read(0, 4096), MARKER), "the session reads what it wrote");
    c.write(7, MARKER);
    c.close();
    for args in [
        &["volume", "show", "v"][..],
        &["volume", "list"],
        &["volume", "grow", "v", "--size", "9MiB"],
        &["key", "show", "alias/k"],
        &["key", "list"],
        &["key", "rotate", "alias/k"],
        &["snapshot", "show", &snap],
        &["snapshot", "verify", &snap],
        &["status"],
        &["doctor"],
        &["audit", "list", "--limit", "10000"],
        &["volume", "show", "none"],
    ] {
        run(args);
    }
    let proc = PathBuf::from(format!("/proc/{}", server.pid()));
    for name in ["environ", "cmdline"] {
        let bytes = std::fs::read(proc.join(name)).unwrap();
        assert!(!bytes.is_empty());
        assert_eq!(found(&all, name, &bytes), [""; 0]);
    }
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");

    // Once while the server runs, once after it was killed, and once after a clean shutdown.
    let search = |when: &str| {
        let all_files = files(&s.data);
        let of = |part: &str| all_files.iter().any(|f| f.to_string_lossy().contains(part));
        assert!(of("catalog.db") && of("/packs/") && of("/audit/") && of("/volumes/"), "{all_files:?}");
        let bad: Vec<_> = all_files.iter().flat_map(|f| found(&all, &f.display().to_string(), &contents(f))).collect();
        assert!(bad.is_empty(), "{when}: {bad:#?}");
        let seen: usize = all_files.iter().map(|f| contents(f).len()).sum();
        assert!(seen > 8 << 20, "{when}: only {seen} bytes were looked at");
    };
    search("running");
    server.kill9();
    search("killed");
    assert_eq!(s.serve().stop(), 0);
    search("ended");
    assert!(said.len() > 4000, "{}", said.len());
    assert_eq!(found(&all, "output", said.as_bytes()), [""; 0]);
    assert_eq!(found(&all, "the log", s.log().as_bytes()), [""; 0]);
}

#[test]
fn a_passphrase_stays_out_of_everything() {
    let s = Scratch::empty();
    let words = "a passphrase of many words 8c1f";
    let mut said = String::new();
    for args in [
        &["init"][..],
        &["volume", "create", "--size", "1MiB", "--name", "v"],
        &["doctor"],
        &["audit", "list"],
        &["serve", "--run", "tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline"],
    ] {
        let out = with_passphrase(&s, words, args);
        assert_eq!(out.code, 0, "{args:?}: {out:?}");
        said.push_str(&out.stdout);
        said.push_str(&out.stderr);
    }
    assert!(said.contains("passphrase-fd"), "the server's arguments were not seen: {said}");
    let all = needles("the passphrase", words.as_bytes());
    assert_eq!(found(&all, "output", said.as_bytes()), [""; 0]);
    for file in files(&s.data) {
        assert_eq!(found(&all, &file.display().to_string(), &contents(&file)), [""; 0]);
    }
}
