//! Runs a short comparison, and checks that it measures and cleans up; the results do not matter here.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const COMPARE: &str = env!("CARGO_BIN_EXE_coffer-compare");
const CASES: &str = "randread 4k d8 c4,mixed 4k d32,write 1m d4,fua 4k d16,trim,nbdcopy in,connect";

/// Returns the coffer binary, which the workspace's tests build beside this one's.
fn coffer() -> PathBuf {
    let beside = Path::new(COMPARE).with_file_name("coffer");
    assert!(beside.is_file(), "build coffer first: cargo build");
    beside
}

fn bench(dir: &Path) -> Command {
    let mut command = Command::new(COMPARE);
    command.args(["nbdkit,floor", "--size", "128MiB", "--seconds", "0.05", "--dir"]).arg(dir);
    command.arg("--coffer").arg(coffer());
    command
}

/// Returns whether these programs are installed. They must be if skipping is not allowed.
fn are_there(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find =
        |tool: &&&str| !std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(tool).exists());
    let missing: Vec<_> = tools.iter().filter(find).collect();
    assert!(missing.is_empty() || std::env::var_os("COFFER_NO_SKIP").is_none(), "needs {missing:?}");
    if !missing.is_empty() {
        println!("SKIP: needs {missing:?}");
    }
    missing.is_empty()
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn output(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < until, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_comparison_measures_each_server_and_leaves_nothing_behind() {
    if !are_there(&["nbdkit", "nbdcopy", "cc"]) {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let samples = dir.path().join("samples.json");
    let out = output(bench(dir.path()).args(["--rounds", "2", "--only", CASES, "--samples"]).arg(&samples));
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    for said in ["geometric means", "bars:", "rate over unencrypted nbdkit", "rate over the floor"] {
        assert!(out.stdout.contains(said), "{said}: {}", out.stdout);
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
    let out = output(Command::new(COMPARE).arg("--plot").arg(&samples).arg("--out").arg(&plots));
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    assert!(std::fs::read_to_string(plots.join("rate-bulk.svg")).unwrap().contains("write 1m d4"));
    std::fs::remove_dir_all(&plots).unwrap();
    std::fs::remove_file(&samples).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch files are left");
}

#[test]
fn a_comparison_that_is_broken_off_ends_its_servers_and_removes_its_files() {
    if !are_there(&["nbdkit", "cc"]) {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut child = bench(dir.path())
        .args(["--rounds", "1000", "--only", "randread 4k d1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let scratch = dir.path().join(format!("coffer-compare-{}", child.id()));
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
