//! A short `coffer bench`: not what it measures matters here, but that it measures and cleans up.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::process::{Command, Stdio};

const CASES: &str = "randread 4k d8 c4,mixed 4k d32,write 1m d4,fua 4k d16,trim,nbdcopy in,connect";

fn bench(dir: &std::path::Path) -> Command {
    let mut command = Command::new(COFFER);
    command.args(["bench", "--against", "nbdkit,floor", "--size", "128MiB", "--seconds", "0.05", "--dir"]).arg(dir);
    command
}

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

#[test]
fn a_comparison_measures_each_server_and_leaves_nothing_behind() {
    if !["nbdkit", "nbdcopy", "cc"].iter().all(|tool| requires(tool)) {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let samples = dir.path().join("samples.json");
    let out = output(bench(dir.path()).args(["--rounds", "2", "--only", CASES, "--samples"]).arg(&samples));
    assert_eq!(out.code, 0, "{out:?}");
    for said in ["geometric means", "bars:", "rate over unencrypted nbdkit", "rate over the floor"] {
        assert!(out.stdout.contains(said), "{said}: {out:?}");
    }
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(&samples).unwrap()).unwrap();
    let all = all["samples"].as_array().unwrap();
    // The name also matches "write 1m d4 c4": eight cases, three servers, two rounds.
    assert_eq!(all.len(), 8 * 3 * 2, "{all:?}");
    for sample in all {
        assert!(sample["requests"].as_f64().unwrap() > 0.0, "{sample}");
        assert!(sample["resident"].as_u64().unwrap() > 1 << 20, "{sample}");
    }
    assert!(all.iter().filter(|s| s["case"] == "mixed 4k d32").all(|s| s["cpu_per_million"].as_f64().unwrap() > 0.0));

    let plots = dir.path().join("plots");
    let out = output(Command::new(COFFER).args(["bench", "--plot"]).arg(&samples).arg("--out").arg(&plots));
    assert_eq!(out.code, 0, "{out:?}");
    assert!(std::fs::read_to_string(plots.join("rate-bulk.svg")).unwrap().contains("write 1m d4"));
    std::fs::remove_dir_all(&plots).unwrap();
    std::fs::remove_file(&samples).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch files are left");
}

#[test]
fn a_comparison_that_is_broken_off_ends_its_servers_and_removes_its_files() {
    if !["nbdkit", "cc"].iter().all(|tool| requires(tool)) {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut child = bench(dir.path())
        .args(["--rounds", "1000", "--only", "randread 4k d1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let scratch = dir.path().join(format!("coffer-bench-{}", child.id()));
    wait_until("the last server listens", || scratch.join("floor.sock").exists());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(!scratch.exists(), "scratch files are left");
    let children: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(&*scratch.to_string_lossy()))
        .collect();
    assert!(children.is_empty(), "servers are left: {children:?}");
}
