//! Accounts, users, roles and access keys through the command line, with and without a server.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use serde_json::Value;

const POLICY: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}"#;
const TRUST: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}"#;

/// A scratch installation with the files `policy` and `trust` beside it.
fn rig() -> (Scratch, String, String) {
    let s = Scratch::new();
    let file = |name: &str, text: &str| {
        let path = s.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (policy, trust) = (file("policy", POLICY), file("trust", TRUST));
    (s, policy, trust)
}

fn names(all: &Value, list: &str) -> Vec<String> {
    all[list].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_account_with_a_user_a_role_policies_and_keys() {
    let (s, policy, trust) = rig();
    let team = s.json(&["account", "create", "team"])["id"].as_str().unwrap().to_owned();
    s.fails(1, &["account", "create", "again", "--id", &team], &["already exists"]);
    assert_eq!(names(&s.json(&["account", "list"]), "accounts"), ["coffer", "team"]);
    assert_eq!(s.json(&["account", "show", &team])["name"], "team");

    let made = s.json(&["principal", "create", "user", "alice", "--account", &team, "--path", "/dev/", "--tag", "a=b"]);
    let arn = format!("arn:aws:iam::{team}:user/dev/alice");
    assert_eq!((made["arn"].as_str(), &made["tags"]["a"]), (Some(&*arn), &Value::from("b")));
    // The same name in the first account is another user.
    s.ok(&["principal", "create", "user", "alice"]);
    s.fails(1, &["principal", "create", "user", "ALICE"], &["already exists", "case does not count"]);
    s.fails(2, &["principal", "create", "user", "uid-1000"], &["reserved for a local user"]);
    s.ok(&["principal", "create", "role", "deploy", "--trust", &trust, "--max-session", "7200"]);
    s.fails(2, &["principal", "create", "role", "x", "--trust", &trust, "--max-session", "60"], &["3600 to 43200"]);
    let all = s.json(&["principal", "list"]);
    assert_eq!(names(&all, "principals"), ["alice", "deploy"]);
    assert_eq!(s.ids(&["principal", "list", "--account", &team]), std::slice::from_ref(&arn));
    let role = s.json(&["principal", "show", "role/deploy"]);
    assert_eq!((role["trust"].as_str(), role["max_session_seconds"].as_u64()), (Some(TRUST), Some(7200)));
    s.fails(2, &["principal", "update-trust", "role/deploy", &policy], &["trust policy", "sts:AssumeRole"]);
    assert_eq!(s.json(&["principal", "show", "role/deploy"])["trust"].as_str(), Some(TRUST));
    let other = TRUST.replace(r#"{"AWS": "*"}"#, r#"{"AWS": "444455556666"}"#);
    assert_ne!(other, TRUST);
    std::fs::write(s.path("other"), &other).unwrap();
    s.ok(&["principal", "update-trust", "role/deploy", s.path("other").to_str().unwrap()]);
    assert_eq!(s.json(&["principal", "show", "role/deploy"])["trust"].as_str(), Some(&*other));

    s.ok(&["principal", "policy", "put", &arn, "use-keys", &policy]);
    assert_eq!(s.json(&["principal", "policy", "show", &arn, "use-keys"])["document"].as_str(), Some(POLICY));
    assert_eq!(s.ids(&["principal", "policy", "list", &arn]), ["use-keys"]);
    assert!(s.ids(&["principal", "policy", "list", "user/alice"]).is_empty());
    std::fs::write(s.path("bad"), "{").unwrap();
    let bad = s.path("bad").to_str().unwrap().to_owned();
    s.fails(2, &["principal", "policy", "put", &arn, "x", &bad], &["identity policy", "not valid JSON"]);

    let key = s.json(&["principal", "key", "create", &arn]);
    let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    assert!(id.starts_with("AKIA") && secret.len() == 40);
    let listed = s.json(&["principal", "key", "list", &arn]);
    assert_eq!((&listed["keys"][0]["id"], listed["keys"][0].get("secret")), (&Value::from(id), None), "shown once");
    s.ok(&["principal", "key", "disable", id]);
    assert_eq!(s.json(&["principal", "key", "list", &arn])["keys"][0]["active"], false);
    s.ok(&["principal", "key", "enable", id]);
    s.ok(&["principal", "revoke-sessions", &arn]);
    assert!(s.json(&["principal", "show", &arn])["revoked_before"].is_number());

    s.fails(1, &["principal", "delete", &arn], &["still has access keys"]);
    s.ok(&["principal", "key", "delete", id]);
    s.fails(1, &["principal", "delete", &arn], &["still has inline policies", "policy delete"]);
    s.ok(&["principal", "policy", "delete", &arn, "use-keys"]);
    s.ok(&["principal", "delete", &arn]);
    s.fails(4, &["principal", "show", &arn], &["there is no"]);
    s.ok(&["audit", "verify"]);
    let log = s.json(&["audit", "list", "--limit", "200"]).to_string();
    for act in
        ["organizations:CreateAccount", "iam:CreateUser", "iam:PutUserPolicy", "iam:CreateAccessKey", "iam:DeleteUser"]
    {
        assert!(log.contains(act), "{act} is not in the audit");
    }
    assert!(!log.contains(secret));
}

#[test]
fn a_server_does_the_same() {
    let (s, policy, _) = rig();
    let _server = s.serve();
    s.ok(&["principal", "create", "user", "alice"]);
    s.ok(&["principal", "policy", "put", "user/alice", "p", &policy]);
    let quiet = s.ids(&["principal", "key", "create", "root"]);
    assert!(quiet.len() == 2 && quiet[0].starts_with("AKIA") && quiet[1].len() == 40, "the id, then the secret");
    assert_eq!(s.json(&["principal", "show", "user/alice"])["policies"][0], "p");
    s.fails(4, &["principal", "show", "user/bob"], &["there is no user/bob"]);
    s.fails(2, &["principal", "show", "bob"], &["user/NAME"]);
    s.fails(4, &["principal", "list", "--account", "999999999999"], &["there is no account"]);
}

#[test]
fn keys_of_several_regions_are_listed_by_names_that_other_commands_take() {
    let s = Scratch::new();
    let key = s.json(&["key", "create"])["id"].as_str().unwrap().to_owned();
    assert!(s.ok(&["key", "list"]).stdout.lines().any(|line| line.trim().starts_with(&format!("{key} "))));
    std::fs::write(s.path("in"), r#"{"MultiRegion": true}"#).unwrap();
    let input = s.path("in").to_str().unwrap().to_owned();
    let made: Value = serde_json::from_str(&s.ok(&["kms", "create-key", "--input", &input]).stdout).unwrap();
    let id = &made["KeyMetadata"]["KeyId"];
    std::fs::write(s.path("in"), format!(r#"{{"KeyId": {id}, "ReplicaRegion": "eu-west-1"}}"#)).unwrap();
    s.ok(&["kms", "replicate-key", "--input", &input]);
    let list = s.ok(&["key", "list"]).stdout;
    let names: Vec<&str> =
        list.lines().filter_map(|line| line.split_whitespace().next()).filter(|n| n.contains(':')).collect();
    assert_eq!(names.len(), 3, "{list}");
    names.iter().for_each(|name| drop(s.ok(&["key", "show", name])));
}

/// Its secret would be valid, and nobody would know it.
#[test]
fn an_access_key_that_could_not_be_shown_is_deleted() {
    let (s, ..) = rig();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = output(s.command(&["principal", "key", "create", "root"]).stdout(full));
    assert!(out.code == 1 && out.stderr.contains("was revoked"), "{out:?}");
    assert!(s.ids(&["principal", "key", "list", "root"]).is_empty());
}
