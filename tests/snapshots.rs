//! Snapshots from the command line: what needs no key, and what outlives who asked for it.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::Scratch;

#[test]
fn verify_without_a_server_needs_no_root_key() {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", "16MiB", "--name", "v"]);
    let snapshot = scratch.id(&["snapshot", "create", "v"]);
    std::fs::rename(&scratch.key, scratch.path("away")).unwrap();
    assert!(scratch.ok(&["snapshot", "verify", &snapshot]).stdout.contains("pin --trust"));
    scratch.fails(4, &["snapshot", "verify", "snap-00000000000000000"], &["there is no snapshot"]);
}

#[test]
fn a_server_for_one_command_finishes_the_snapshots_that_it_began() {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", "64MiB", "--name", "v"]);
    let command = format!("'{}' snapshot create -q v; '{0}' snapshot create -q v", common::COFFER);
    let out = scratch.ok(&["serve", "v", "--run", &command]);
    assert_eq!(out.stdout.lines().count(), 2);
    for id in out.stdout.lines() {
        assert_eq!(scratch.json(&["snapshot", "show", id])["state"], "completed", "{out:?}");
        scratch.ok(&["snapshot", "verify", id]);
    }
}
