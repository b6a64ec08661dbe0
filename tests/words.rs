//! What people are told: why something is refused, what a verb did, and what to do next.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;

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
    s.fails(2, &["access", "allow", &whole, "--volume", "web"], &["say --user"]);
    s.ok(&["access", "allow", &whole, "--volume", "web", "--user", "ann"]);
    s.ok(&["access", "allow", "uid:7", "--volume", "web"]);
    s.ok(&["access", "allow", "uid:0", "--volume", "web"]);
    // A token is for who comes over the network: it makes nobody a user of this machine.
    for args in [&["uid:1000"][..], &["uid:1000", "--user", "bob"], &["uid:1000", "--user", "uid-1000"], &[&whole]] {
        let args = [&["access", "token"], args, &["--volume", "web"]].concat();
        s.fails(2, &args, &["remote client", "call it by the client's name"]);
    }
    for name in ["ci", "cn:ci"] {
        s.fails(2, &["access", "token", name, "--volume", "web", "--user", "uid-1000"], &["a user of this machine"]);
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
    assert!(!nobody.contains("perhaps"), "{nobody}");
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
