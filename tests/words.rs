//! Messages for people: why something is refused, what a verb did, and what to do next.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::process::Stdio;

fn with_volume() -> Scratch {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "web", "--key", "alias/k"]);
    s
}

#[test]
fn names_that_no_client_can_have_are_refused_with_the_right_ones() {
    let s = with_volume();
    let digits = "ab".repeat(32);
    let upper = format!("sha256:{}", digits.to_uppercase());
    let colons = format!("sha256:{}", vec!["ab"; 32].join(":"));
    for (name, words) in [
        ("uid:007", &["uid:007", "uid:7"][..]),
        ("uid:+5", &["uid:+5", "uid:5"]),
        ("uid: 5", &["is not a uid"]),
        ("uid:", &["is not a uid"]),
        ("uid:4294967295", &["is not a uid"]),
        ("uid:99999999999", &["is not a uid"]),
        ("sha256:AB", &["64 hexadecimal digits", "openssl"]),
        (&upper, &["lower case"]),
        (&colons, &["colons"]),
    ] {
        s.fails(2, &["access", "allow", name, "--volume", "web", "--user", "ann"], words);
    }
    let whole = format!("sha256:{digits}");
    s.fails(2, &["access", "allow", &whole, "--volume", "web"], &["add --user"]);
    s.ok(&["access", "allow", &whole, "--volume", "web", "--user", "ann"]);
    s.ok(&["access", "allow", "uid:7", "--volume", "web"]);
    s.ok(&["access", "allow", "uid:0", "--volume", "web"]);
    // A token is for network clients: it makes no one a user of this machine.
    for args in [&["uid:1000"][..], &["uid:1000", "--user", "bob"], &["uid:1000", "--user", "uid-1000"], &[&whole]] {
        let args = [&["access", "token"], args, &["--volume", "web"]].concat();
        s.fails(2, &args, &["remote client", "name it after the client"]);
    }
    for name in ["ci", "cn:ci"] {
        s.fails(2, &["access", "token", name, "--volume", "web", "--user", "uid-1000"], &["reserved for a local user"]);
    }
    assert_eq!(s.ids(&["access", "list"]).len(), 3);
}

#[test]
fn a_deny_says_what_it_took_back_and_which_name_was_meant() {
    let s = with_volume();
    for name in ["cn:bob", "uri:bob", "ann"] {
        s.ok(&["access", "allow", name, "--volume", "web"]);
    }
    s.fails(4, &["access", "deny", "bob"], &["no client of that name", "access deny cn:bob", "access deny uri:bob"]);
    s.fails(4, &["access", "deny", "cn:ann"], &["access deny ann"]);
    let nobody = s.fails(4, &["access", "deny", "eve"], &["no client of that name", "access list"]);
    assert!(!nobody.contains("try `coffer"), "{nobody}");
    assert_eq!(s.ids(&["access", "list"]).len(), 3, "nothing was taken back");
    let out = s.ok(&["access", "deny", "cn:bob"]).stdout;
    assert!(out.contains("cn:bob (certificate) is no longer allowed to use web"), "{out}");
    s.ok(&["access", "token", "ci", "--all-volumes"]);
    let out = s.ok(&["tls", "deny", "ci"]).stdout;
    assert!(out.contains("ci (token) is no longer allowed to use all volumes"), "{out}");
    assert_eq!(s.json(&["access", "deny", "ann"])["name"], "ann");
    assert_eq!(s.ids(&["access", "deny", "uri:bob"]), ["uri:bob"]);
}

#[test]
fn resuming_a_volume_that_nobody_uses_fails_by_its_keys_state() {
    let s = with_volume();
    let session = |s: &Scratch| {
        s.ok(&["volume", "suspend", "web"]);
        s.ok(&["key", "disable", "alias/k"]);
        s.fails(6, &["volume", "resume", "web"], &["is disabled", "coffer key enable"]);
        s.ok(&["key", "schedule-deletion", "alias/k"]);
        s.fails(6, &["volume", "resume", "web"], &["is pending deletion", "cancel-deletion"]);
        assert_eq!(s.json(&["volume", "show", "web"])["state"], "suspended", "it stays as it was");
        s.ok(&["key", "cancel-deletion", "alias/k"]);
        s.ok(&["key", "enable", "alias/k"]);
        s.ok(&["volume", "resume", "web"]);
        assert_eq!(s.json(&["volume", "show", "web"])["state"], "available");
    };
    session(&s);
    let _server = s.serve();
    session(&s);
}

#[test]
fn scheduling_a_keys_deletion_says_how_much_is_lost_by_it() {
    let s = with_volume();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "other"]);
    let out = s.ok(&["key", "schedule-deletion", "alias/k"]);
    assert!(out.stderr.contains("1 volume and 0 snapshots become permanently unreadable"), "{}", out.stderr);
    s.ok(&["key", "cancel-deletion", "alias/k"]);
    s.ok(&["key", "enable", "alias/k"]);
    for volume in ["web", "web", "other"] {
        s.ok(&["snapshot", "create", volume]);
    }
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "web2", "--key", "alias/k"]);
    s.ok(&["volume", "delete", "web"]);
    let out = s.ok(&["--json", "key", "schedule-deletion", "alias/k"]);
    assert!(out.stderr.contains("1 volume and 2 snapshots become permanently unreadable"), "{}", out.stderr);
    assert_eq!(out.json()["dependents"], serde_json::json!({ "volumes": 1, "snapshots": 2 }));
    let unused = s.id(&["key", "create"]);
    assert_eq!(s.ok(&["key", "schedule-deletion", &unused]).stderr, "");
    assert!(s.json(&["key", "show", &unused]).get("dependents").is_none());
}

#[test]
fn doctor_names_volumes_without_their_key_and_a_lost_copy_of_the_root_file() {
    let s = with_volume();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "other"]);
    let about = |check: &str, words: &str| {
        let all = s.json(&["doctor"])["findings"].as_array().unwrap().clone();
        let fits = |f: &&serde_json::Value| f["check"] == check && f["message"].as_str().unwrap().contains(words);
        all.iter().filter(fits).map(|f| (f["grade"].clone(), f["message"].to_string())).collect::<Vec<_>>()
    };
    let is = |check: &str, words: &str, grade: &str, says: &str| {
        let found = about(check, words);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == grade && found[0].1.contains(says), "{found:?}");
    };
    assert_eq!(about("root file", ""), []);
    is("volume", "web", "ok", "web");
    s.ok(&["key", "disable", "alias/k"]);
    is("volume", "web", "warning", "its CMK is disabled: `coffer key enable ");
    s.ok(&["key", "schedule-deletion", "alias/k"]);
    is("volume", "web", "warning", "its CMK is pending deletion: `coffer key cancel-deletion ");
    is("volume", "other", "ok", "other");
    s.ok(&["key", "cancel-deletion", "alias/k"]);
    s.ok(&["key", "enable", "alias/k"]);
    is("volume", "web", "ok", "web");
    let (a, b) = (s.data.join("root.json"), s.data.join("root.b.json"));
    for (lost, kept) in [(&a, &b), (&b, &a)] {
        std::fs::remove_file(lost).unwrap();
        let copy = format!("cp -p {} {}", kept.display(), lost.display());
        is("root file", "", "warning", &copy);
        s.ok(&["volume", "show", "web"]);
        std::fs::write(lost, "{").unwrap();
        is("root file", "", "warning", &copy);
        std::fs::copy(kept, lost).unwrap();
        assert_eq!(about("root file", ""), []);
    }
    for file in [&a, &b] {
        std::fs::remove_file(file).unwrap();
    }
    let said = s.fails(4, &["status"], &["root.json", "restore root.json from a backup"]);
    assert!(!said.contains("coffer init"), "{said}");
    s.fails(4, &["serve"], &["restore root.json from a backup"]);
}

#[test]
fn the_audit_is_a_table_for_people_and_records_for_programs() {
    let s = with_volume();
    s.fails(4, &["volume", "show", "none"], &[]);
    s.ok(&["key", "disable", "alias/k"]);
    let out = s.ok(&["audit", "list"]).stdout;
    let mut lines = out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NO", "TIME", "PRINCIPAL", "ACTION", "RESOURCE", "OUTCOME"]);
    let volume = s.json(&["volume", "show", "web"])["id"].as_str().unwrap().to_owned();
    let made = out.lines().find(|l| l.contains("ec2:CreateVolume")).unwrap();
    assert!(made.contains(&volume) && made.contains(":root") && made.ends_with("ok"), "{made}");
    assert!(!out.contains('{'), "{out}");
    let rows = out.lines().count();
    let records = s.json(&["audit", "list"])["events"].as_array().unwrap().clone();
    assert!(rows < records.len(), "an act and its outcome are one row");
    assert_eq!(records.last().unwrap()["record"]["kind"], "outcome");
}

#[test]
fn a_size_that_cannot_be_comes_with_one_that_can() {
    let s = with_volume();
    for (size, words) in [
        ("100MB", &["100000000 bytes", "use 96MiB", "99999744"][..]),
        ("1", &["use 512"]),
        ("0", &["use a size such as 20GiB"]),
        ("65TiB", &["use at most 64TiB"]),
    ] {
        s.fails(2, &["volume", "create", "--size", size], words);
    }
    for size in ["96MiB", "99999744", "512"] {
        s.ok(&["volume", "create", "--size", size]);
    }
    s.fails(2, &["volume", "grow", "web", "--size", "100MB"], &["use 96MiB"]);
}

#[test]
fn advice_is_about_what_failed() {
    let s = with_volume();
    let snapshot = s.id(&["snapshot", "create", "web"]);
    let verify = |trust: &str, words: &[&str]| s.fails(7, &["snapshot", "verify", &snapshot, "--trust", trust], words);
    let said = verify(&"00".repeat(32), &["not by the trusted 00", "coffer status"]);
    assert!(!said.contains("restore that object"), "{said}");
    let file = s.key.to_str().unwrap();
    s.fails(2, &["snapshot", "verify", &snapshot, "--trust", file], &["64 hexadecimal digits", "not a file"]);
    let key = s.json(&["status"])["signing_key"].as_str().unwrap().to_owned();
    assert!(s.ok(&["snapshot", "verify", &snapshot, "--trust", &key]).stdout.contains("attested"));
    // The output's disk is full, not coffer's.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = s.command(&["access", "token", "ci", "--volume", "web"]).stdout(full).stderr(Stdio::piped()).spawn();
    let said = String::from_utf8(out.unwrap().wait_with_output().unwrap().stderr).unwrap();
    assert!(said.contains("No space left") && said.contains("redirected"), "{said}");
    assert!(!said.contains("snapshot delete"), "{said}");
    // A passphrase, and no one at a terminal to ask.
    let s = Scratch::empty();
    assert_eq!(with_passphrase(&s, "a passphrase of many words", &["init"]).code, 0);
    for verb in ["status", "serve"] {
        s.fails(6, &[verb], &["it needs a passphrase", "not a terminal", "--passphrase-fd 3"]);
    }
}

#[test]
fn a_lost_pack_is_one_line_in_the_log() {
    let s = with_volume();
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "big"]);
    let server = s.serve();
    server.connect("big").write(0, &noise(1, 16 << 20));
    let snapshot = s.id(&["snapshot", "create", "--wait", "big"]);
    for pack in files(&s.data.join("repository")).iter().filter(|f| f.to_string_lossy().contains("/packs/")) {
        std::fs::remove_file(pack).unwrap();
    }
    let copy = s.id(&["volume", "create", "--snapshot", &snapshot, "--name", "copy"]);
    let lacks = format!("{copy} lacks chunk");
    wait_until("all of it is missed", || s.log().contains("32 chunks of"));
    let log = s.log();
    assert_eq!(log.lines().filter(|l| l.contains(&lacks)).count(), 1, "{log}");
    drop(server);
}

#[test]
fn every_help_shows_the_global_options_apart() {
    let s = Scratch::empty();
    for args in [&["volume", "create", "--help"][..], &["snapshot", "list", "--help"], &["serve", "-h"]] {
        let out = s.ok(args).stdout;
        let (own, global) = out.split_once("Global options:").unwrap_or_else(|| panic!("{out}"));
        for flag in ["--data", "--json", "--root-key-file", "--passphrase-fd", "--single-host-i-know"] {
            assert!(global.contains(flag) && !own.contains(flag), "{flag}: {out}");
        }
        assert!(!out.contains("daemon"), "{out}");
    }
}
