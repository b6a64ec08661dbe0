//! A short `coffer bench`: not what it measures matters here, but that it measures and cleans up.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::process::Command;

#[test]
fn alone_it_measures_cipher_file_server_a_snapshot_and_idle_volumes() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut command = Command::new(COFFER);
    command
        .args(["bench", "--size", "64MiB", "--seconds", "0.05", "--volumes", "3", "--json", "--dir"])
        .arg(dir.path());
    let out = output(&mut command);
    assert_eq!(out.code, 0, "{out:?}");
    let all: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    let rows = all["rows"].as_array().unwrap();
    let named = |part: &str| rows.iter().filter(|r| r["what"].as_str().unwrap().contains(part)).count();
    assert_eq!(
        (named("memcpy"), named("AES-256-XTS"), named("file "), named("nbd "), named("snapshot")),
        (1, 4, 4, 7, 1)
    );
    assert!(rows.iter().all(|r| r["rate"].as_f64().unwrap() > 0.0), "{rows:?}");
    let load = &all["under_load"];
    assert!(["p99_alone", "p99", "rate", "snapshot"].iter().all(|k| load[k].as_f64().unwrap() > 0.0), "{load}");
    let idle = &all["idle"];
    assert_eq!(idle["volumes"], 3);
    assert!(idle["open_each"].as_f64().unwrap() > 0.0 && idle["start_up"].as_f64().unwrap() > 0.0, "{idle}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch files are left");
}
