//! Key policies and grants with real volumes: who may open one, under which authority it stays open, and what revokes
//! that.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::api::control;
use coffer::error::Kind;
use coffer::service::api::{AttachmentInfo, Reply};
use coffer::service::operations::{AttachVolume, DetachVolume};
use common::raw::{self, DISC, FLUSH, READ, Raw, WRITE, request};
use common::*;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

/// NBD's ERR_POLICY.
const ERR_POLICY: &str = "0x80000002";
/// A user who is neither root nor the owner of anything here.
const NOBODY: u32 = 65534;

/// A volume `web` under the CMK `alias/k`.
fn rig() -> Scratch {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web", "--key", "alias/k"]);
    s
}

fn account(s: &Scratch) -> String {
    s.json(&["status"])["account"].as_str().unwrap().to_owned()
}

/// The user who runs these tests, as a principal.
fn me(s: &Scratch) -> String {
    let uid = rustix::process::geteuid();
    let name = if uid.is_root() { "root".to_owned() } else { format!("user/uid-{}", uid.as_raw()) };
    format!("arn:aws:iam::{}:{name}", account(s))
}

/// A policy that lets the user who runs these tests manage the key but not use it; `more`: further statements.
fn managed(s: &Scratch, more: &[String]) -> String {
    let manage = r#"["kms:*KeyPolicy", "kms:ListGrants", "kms:RevokeGrant", "kms:DescribeKey", "kms:EnableKey", "kms:DisableKey"]"#;
    let all = [&[allow(&me(s), manage, "")], more].concat();
    format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, all.join(",\n"))
}

fn allow(principal: &str, actions: &str, more: &str) -> String {
    format!(
        r#"{{"Effect": "Allow", "Principal": {{"AWS": "{principal}"}}, "Action": {actions}, "Resource": "*"{more}}}"#
    )
}

#[track_caller]
fn set_policy(s: &Scratch, policy: &str) {
    let file = s.path("policy.json");
    std::fs::write(&file, policy).unwrap();
    s.ok(&["key", "policy", "set", "alias/k", file.to_str().unwrap()]);
}

fn begin(s: &Scratch) -> coffer::error::Result<AttachmentInfo> {
    let request = AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into();
    match control::ask(&s.data.join("control.sock"), &request, &mut |_| ())? {
        Some(Reply::Attachment(att)) => Ok(att),
        other => panic!("{other:?}"),
    }
}

fn end(s: &Scratch) {
    control::ask(&s.data.join("control.sock"), &DetachVolume { what: "web".into() }.into(), &mut |_| ()).unwrap();
}

fn state(s: &Scratch) -> String {
    s.json(&["volume", "show", "web"])["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(socket: &Path, name: &str, words: &[&str]) {
    let err = Nbd::open(socket, name).map(drop).unwrap_err().to_string();
    for word in words {
        assert!(err.contains(word), "{name}: no {word:?} in {err}");
    }
}

/// Runs `act` on a thread with another user's id.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    let uid = rustix::process::Uid::from_raw(uid);
    std::thread::scope(|scope| {
        let become_and_act = move || {
            // Only this thread's, as the raw system call does; the socket's peer sees its user.
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        };
        scope.spawn(become_and_act).join().unwrap()
    })
}

fn events(s: &Scratch) -> Vec<serde_json::Value> {
    let all = s.json(&["audit", "list", "--limit", "1000"]);
    all["events"].as_array().unwrap().iter().map(|e| e["record"].clone()).collect()
}

#[test]
fn a_listed_user_opens_a_volume_by_the_default_policy_and_by_one_that_names_it() {
    if !rustix::process::geteuid().is_root() {
        skip("root, to become another user");
        return;
    }
    let s = rig();
    let open = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let socket = open.path().join("nbd.sock");
    let place = format!("unix:{}", socket.display());
    let _server = s.serve_with(&["--listen", &place, "--socket-mode", "666"]);
    s.ok(&["access", "allow", "uid:65534", "--volume", "web", "--user", "alice"]);
    let alice = format!("arn:aws:iam::{}:user/alice", account(&s));
    let opens = || {
        as_user(NOBODY, || {
            let mut c = Nbd::open(&socket, "web").unwrap();
            c.write(0, b"hers");
            c.close();
        });
    };
    opens();

    // Without the account's delegation, her own permissions do not count.
    set_policy(&s, &managed(&s, &[]));
    let words = [ERR_POLICY, &alice, "kms:CreateGrant", "no resource-based policy allows"];
    as_user(NOBODY, || refused(&socket, "web", &words));
    let refusals = |s: &Scratch| {
        let of_alice = |e: &&serde_json::Value| e["caller"]["principal"] == alice && e["result"] == "refused";
        events(s).iter().filter(of_alice).cloned().collect::<Vec<_>>()
    };
    let found = refusals(&s);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["act"], &found[0]["caller"]["via_service"]),
        (&"kms:CreateGrant".into(), &"ec2.coffer".into())
    );
    assert!(found[0]["caller"]["client"].as_str().unwrap().contains("vol-"), "{found:?}");

    // A statement that names her is enough, but not one for half of the actions.
    let decrypt = allow(&alice, r#""kms:Decrypt""#, "");
    set_policy(&s, &managed(&s, std::slice::from_ref(&decrypt)));
    as_user(NOBODY, || refused(&socket, "web", &[ERR_POLICY, "kms:CreateGrant"]));
    let resource = r#", "Condition": {"Bool": {"kms:GrantIsForAWSResource": true}}"#;
    let create = allow(&alice, r#""kms:CreateGrant""#, resource);
    set_policy(&s, &managed(&s, std::slice::from_ref(&create)));
    as_user(NOBODY, || refused(&socket, "web", &[ERR_POLICY, "kms:Decrypt"]));
    set_policy(&s, &managed(&s, &[decrypt, create]));
    opens();
    refused(&socket, "web", &[ERR_POLICY, &me(&s)]);
}

#[test]
fn a_reader_is_asked_too_while_the_volume_is_open_for_others() {
    if !rustix::process::geteuid().is_root() {
        skip("root, to become another user");
        return;
    }
    let s = rig();
    let (open, mode) = (tempfile::tempdir().unwrap(), PermissionsExt::from_mode(0o755));
    std::fs::set_permissions(open.path(), mode).unwrap();
    let socket = open.path().join("nbd.sock");
    let place = format!("unix:{}", socket.display());
    let _server = s.serve_with(&["--listen", &place, "--socket-mode", "666"]);
    s.ok(&["access", "allow", "uid:65534", "--volume", "web"]);
    let uses = allow(&me(&s), r#"["kms:Decrypt", "kms:CreateGrant"]"#, "");
    let deny = format!(
        r#"{{"Effect": "Deny", "Principal": {{"AWS": "arn:aws:iam::{}:user/uid-65534"}}, "Action": "kms:Decrypt", "Resource": "*"}}"#,
        account(&s)
    );
    set_policy(&s, &managed(&s, &[uses, deny]));
    // Another process holds it open for reading: this one is not a second connection of the same holder.
    let program =
        "import sys, nbd; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print(h.get_size(), flush=True); sys.stdin.read()";
    if !Path::new("/usr/lib/python3/dist-packages/nbd.py").exists() {
        skip("python3-libnbd");
        return;
    }
    let uri = format!("nbd+unix:///web?ro?socket={}", socket.display()).replace("web?ro?socket", "web%3Fro?socket");
    let mut other = std::process::Command::new("/usr/bin/python3");
    let mut other = other.args(["-c", program, &uri]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.as_mut().unwrap()), &mut said).unwrap();
    assert_eq!(said.trim(), (4 << 20).to_string());
    as_user(NOBODY, || refused(&socket, "web?ro", &[ERR_POLICY, "kms:Decrypt", "explicit deny"]));
    drop(other.stdin.take());
    other.wait().unwrap();
}

#[test]
fn through_the_volume_service_alone_a_key_opens_volumes_and_no_ciphertext() {
    let s = rig();
    let clear = s.path("clear");
    std::fs::write(&clear, "secret").unwrap();
    let sealed = s.path("sealed");
    let (clear, sealed) = (clear.to_str().unwrap(), sealed.to_str().unwrap());
    s.ok(&["key", "encrypt", "alias/k", "--input", clear, "--out", sealed]);
    let through = r#", "Condition": {"StringEquals": {"kms:ViaService": "ec2.coffer"}}"#;
    let uses = r#"["kms:Decrypt", "kms:GenerateDataKey*", "kms:CreateGrant"]"#;
    set_policy(&s, &managed(&s, &[allow(&me(&s), uses, through)]));
    for served in [false, true] {
        let server = served.then(|| s.serve());
        let said = s.fails(6, &["key", "decrypt", "--input", sealed], &["kms:Decrypt", &me(&s), "not authorized"]);
        assert!(!said.contains("secret"));
        s.fails(6, &["key", "encrypt", "alias/k", "--input", clear], &["kms:Encrypt"]);
        s.ok(&["volume", "create", "--size", "1MiB", "--name", &format!("v{served}"), "--key", "alias/k"]);
        if let Some(server) = server {
            let mut c = server.connect("web");
            c.write(0, b"ours");
            c.close();
            begin(&s).unwrap();
            end(&s);
        }
    }
}

#[test]
fn a_revoked_grant_suspends_its_volume_until_it_is_attached_again() {
    let s = rig();
    let server = s.serve();
    let att = begin(&s).unwrap();
    let mut c = Raw::open(&s.socket(), &att.export);
    assert_eq!(c.ask(WRITE, 0, 0, 4, b"kept"), 0);
    let grants = s.json(&["key", "grant", "list", "alias/k"])["grants"].clone();
    let grant = grants[0]["id"].as_str().unwrap().to_owned();
    assert_eq!((grants.as_array().unwrap().len(), grant.len()), (1, 64));
    let service = format!("arn:aws:iam::{}:service/ec2.coffer", account(&s));
    assert_eq!((&grants[0]["grantee"], &grants[0]["operations"]), (&service.into(), &serde_json::json!(["Decrypt"])));
    assert!(grants[0]["equals"]["aws:ebs:id"].as_str().unwrap().starts_with("vol-"), "{grants}");

    s.ok(&["key", "grant", "revoke", "alias/k", &grant]);
    assert_eq!(state(&s), "suspended");
    c.put(&request(READ, 0, 5, 0, 4));
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0, "what needs no key goes on, and the read is held");
    s.fails(6, &["volume", "resume", "web"], &["was revoked", "attach it again"]);
    s.fails(6, &["volume", "grow", "web", "--size", "8MiB"], &["was revoked"]);
    s.ok(&["key", "disable", "alias/k"]);
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(state(&s), "suspended", "enabling the key gives no grant back");
    refused(&s.socket(), &att.export, &[ERR_POLICY, "was revoked"]);
    server.kill9();
    let _server = s.serve();
    refused(&s.socket(), &att.export, &[ERR_POLICY, "was revoked"]);
    end(&s);
    let att = begin(&s).unwrap();
    assert_eq!(Raw::open(&s.socket(), &att.export).read(0, 4), b"kept");
    let new = s.ids(&["key", "grant", "list", "alias/k"]);
    assert!(new.len() == 1 && new[0] != grant, "{new:?}");
    end(&s);
    assert!(s.ids(&["key", "grant", "list", "alias/k"]).is_empty(), "the grant went with the attachment");
    let acts: Vec<_> = events(&s).iter().map(|e| e["act"].clone()).collect();
    assert!(acts.contains(&"kms:RevokeGrant".into()) && acts.contains(&"kms:UnwrapVolumeKey".into()), "{acts:?}");
}

/// As when its key is disabled, `--on-key-loss` decides what a revoked grant means for the volume's holder.
#[test]
fn a_volume_may_go_on_without_its_grant_until_it_is_closed_or_fail() {
    let s = rig();
    let server = s.serve();
    for (how, error) in [("continue", 0), ("fail", 5)] {
        s.ok(&["volume", "modify", "web", "--on-key-loss", how]);
        let att = begin(&s).unwrap();
        let mut c = Raw::open(&s.socket(), &att.export);
        s.ok(&["key", "grant", "revoke", "alias/k", &s.id(&["key", "grant", "list", "alias/k"])]);
        assert_eq!(c.ask(WRITE, 0, 0, 2, b"on"), error, "{how}");
        c.put(&request(DISC, 0, 0, 0, 0));
        c.expect_hangup();
        refused(&s.socket(), &att.export, &[ERR_POLICY, "was revoked"]);
        end(&s);
    }
    drop(server);
}

#[test]
fn an_attached_volume_comes_back_after_a_restart_though_its_policy_was_tightened() {
    let s = rig();
    let server = s.serve();
    let att = begin(&s).unwrap();
    let mut process = server.connect(&att.export);
    process.write(0, b"mine");
    set_policy(&s, &managed(&s, &[]));
    // Nothing changes for the holder: more connections, a key that was unavailable, a server that was killed.
    assert_eq!(server.connect(&att.export).read(0, 4), b"mine");
    s.ok(&["key", "disable", "alias/k"]);
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(state(&s), "in-use");
    assert_eq!(process.read(0, 4), b"mine");
    server.kill9();
    let server = s.serve();
    let mut c = server.connect(&att.export);
    assert_eq!(c.read(0, 4), b"mine");
    c.close();
    drop(process);
    // A first attach is authorised again.
    end(&s);
    let err = begin(&s).unwrap_err();
    assert_eq!((err.kind(), err.kind().exit_code()), (Kind::AccessDenied, 6), "{}", err.line());
    assert!(err.line().contains("kms:CreateGrant"), "{}", err.line());
    refused(&s.socket(), "web", &[ERR_POLICY, "kms:CreateGrant"]);
    assert!(s.ids(&["attachments"]).is_empty());
}

/// A process holds its lease through its connections: the policy is evaluated at the first of them.
#[test]
fn a_process_that_has_a_volume_keeps_it_and_gets_more_connections() {
    let s = rig();
    let server = s.serve();
    let mut c = server.connect("web");
    c.write(0, b"on");
    assert!(s.ids(&["key", "grant", "list", "alias/k"]).is_empty(), "no grant is written for that");
    set_policy(&s, &managed(&s, &[]));
    let mut second = server.connect("web");
    assert_eq!(second.read(0, 2), b"on");
    s.ok(&["key", "disable", "alias/k"]);
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(c.read(0, 2), b"on");
    c.close();
    second.close();
    wait_until("nobody has it", || s.json(&["volume", "show", "web"])["holder"].is_null());
    refused(&s.socket(), "web", &[ERR_POLICY]);
}

/// The first connection of a holder is still being authorised when its next ones come: they are authorised as well.
#[test]
fn nobody_slips_in_beside_a_connection_that_is_being_refused() {
    let s = rig();
    let _server = s.serve();
    set_policy(&s, &managed(&s, &[]));
    let socket = s.socket();
    let tries = || (0..25).filter(|_| Nbd::open(&socket, "web").is_ok()).count();
    let in_all: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(tries)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(in_all, 0);
    wait_until("nobody has it", || s.json(&["volume", "show", "web"])["holder"].is_null());
}

#[test]
fn every_way_to_the_data_key_asks_the_policy() {
    let s = rig();
    let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
    set_policy(&s, &managed(&s, &[]));
    let out = s.path("out");
    let out = out.to_str().unwrap();
    for served in [false, true] {
        let server = served.then(|| s.serve());
        for args in [
            &["volume", "export-key", "web", "--out", out][..],
            &["volume", "export", "web", out, "--sealed"],
            &["volume", "grow", "web", "--size", "8MiB"],
            &["volume", "create", "--snapshot", &snapshot],
            &["volume", "accept-rollback", "web"],
        ] {
            s.fails(6, args, &["kms:Decrypt", "not authorized"]);
            assert!(!Path::new(out).exists());
        }
        s.fails(
            6,
            &["volume", "create", "--size", "1MiB", "--key", "alias/k"],
            &["kms:GenerateDataKeyWithoutPlaintext"],
        );
        s.fails(6, &["key", "rotate", "alias/k"], &["kms:RotateKeyOnDemand"]);
        s.fails(6, &["key", "schedule-deletion", "alias/k"], &["kms:ScheduleKeyDeletion"]);
        s.fails(6, &["key", "alias", "delete", "alias/k"], &["kms:DeleteAlias"]);
        s.ok(&["key", "show", "alias/k"]);
        if server.is_some() {
            refused(&s.socket(), &snapshot, &[ERR_POLICY, "kms:Decrypt"]);
        }
    }
    assert_eq!(s.ids(&["volume", "list"]).len(), 1);
}

#[test]
fn policies_are_shown_set_and_reset_with_a_server_and_without() {
    let s = rig();
    let root = format!("arn:aws:iam::{}:root", account(&s));
    for served in [false, true] {
        let server = served.then(|| s.serve());
        let shown: serde_json::Value = s.ok(&["key", "policy", "show", "alias/k"]).json();
        assert_eq!(shown["Statement"][0]["Principal"]["AWS"], root);
        let document = managed(&s, &[]);
        let mut set = s.command(&["key", "policy", "set", "alias/k", "-"]);
        let mut set = set.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        set.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
        assert!(set.wait().unwrap().success());
        assert_eq!(s.json(&["key", "policy", "show", "alias/k"])["document"], document);

        let file = s.path("bad.json");
        let bad = document.replace("\"Effect\": \"Allow\"", "\"Effect\": \"Perhaps\"");
        std::fs::write(&file, bad).unwrap();
        let bad = file.to_str().unwrap();
        s.fails(2, &["key", "policy", "set", "alias/k", bad], &["key policy", "Statement[0].Effect"]);
        s.fails(2, &["key", "create", "--policy", bad], &["key policy"]);
        let out = s.path("out.json");
        std::fs::write(&out, document.replace("KeyPolicy", "Nothing")).unwrap();
        let out = out.to_str().unwrap();
        s.fails(2, &["key", "policy", "set", "alias/k", out], &["could no longer change the key's policy", "--bypass"]);
        s.ok(&["key", "policy", "set", "alias/k", out, "--bypass-policy-lockout-safety-check"]);
        s.fails(6, &["key", "policy", "show", "alias/k"], &["kms:GetKeyPolicy"]);
        s.fails(6, &["key", "policy", "set", "alias/k", out], &["kms:PutKeyPolicy"]);
        drop(server);
        if !rustix::process::geteuid().is_root() {
            s.fails(6, &["key", "policy", "reset", "alias/k"], &["uid 0"]);
            return;
        }
        s.ok(&["key", "policy", "reset", "alias/k"]);
        assert!(events(&s).iter().any(|e| e["act"] == "coffer:ResetKeyPolicy"));
    }
    let file = s.path("policy.json");
    let short = managed(&s, &[]);
    let longest = format!("{short}{}", " ".repeat(32_768 - short.len()));
    std::fs::write(&file, &longest).unwrap();
    let made = s.id(&["key", "create", "--policy", file.to_str().unwrap()]);
    s.fails(6, &["key", "rotate", &made], &["kms:RotateKeyOnDemand"]);
    let _server = s.serve();
    s.ok(&["key", "policy", "set", &made, file.to_str().unwrap()]);
    assert_eq!(s.json(&["key", "policy", "show", &made])["document"], longest);
    std::fs::write(&file, longest + " ").unwrap();
    s.fails(2, &["key", "policy", "set", &made, file.to_str().unwrap()], &["32768"]);
    s.fails(4, &["key", "policy", "show", "alias/none"], &["alias/none"]);
}

#[test]
fn grants_are_made_listed_and_taken_back_with_a_server_and_without() {
    let s = rig();
    let alice = format!("arn:aws:iam::{}:user/alice", account(&s));
    for served in [false, true] {
        let server = served.then(|| s.serve());
        let create = [
            "key",
            "grant",
            "create",
            "alias/k",
            "--grantee",
            &alice,
            "--operation",
            "Decrypt",
            "--operation",
            "Encrypt",
        ];
        let more = ["--context-equals", "a=1", "--retiring", &alice, "--name", "one"];
        let made = s.json(&[&create[..], &more[..]].concat());
        assert_eq!(
            (&made["operations"], &made["equals"]["a"]),
            (&serde_json::json!(["Decrypt", "Encrypt"]), &"1".into())
        );
        let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
        assert_eq!(s.id(&[&["-q"], &create[..], &more[..]].concat()[1..]), id, "the same name is the same grant");
        let other = s.id(&create);
        assert_eq!(s.ids(&["key", "grant", "list", "--retirable-by", &alice]), [id]);
        assert_eq!(s.ids(&["key", "grant", "list", "alias/k", "--grantee", &alice]).len(), 2);
        assert_eq!(s.ids(&["key", "grant", "list", "alias/k", "--id", &other]), [other.as_str()]);
        assert!(s.ok(&["key", "grant", "list", "alias/k"]).stdout.contains("a=1"));
        s.ok(&["key", "grant", "retire", "--token", token]);
        s.ok(&["key", "grant", "retire", "alias/k", &other]);
        s.fails(4, &["key", "grant", "revoke", "alias/k", &other], &[&other]);
        assert!(s.ids(&["key", "grant", "list", "alias/k"]).is_empty());
        s.fails(2, &["key", "grant", "create", "alias/k", "--grantee", "alice", "--operation", "Decrypt"], &["alice"]);
        s.fails(2, &["key", "grant", "create", "alias/k", "--grantee", &alice, "--operation", "Sign"], &["Sign"]);
        drop(server);
    }
}

/// A clean disconnect ends a process's lease, even of a volume that was suspended under it.
#[test]
fn a_suspended_attachment_can_be_detached() {
    let s = rig();
    let _server = s.serve();
    let att = begin(&s).unwrap();
    let mut c = Raw::open(&s.socket(), &att.export);
    let grant = s.id(&["key", "grant", "list", "alias/k"]);
    s.ok(&["key", "grant", "retire", "alias/k", &grant]);
    assert_eq!(state(&s), "suspended");
    c.put(&request(DISC, 0, 0, 0, 0));
    c.expect_hangup();
    end(&s);
    wait_until("it is closed", || state(&s) == "available");
    s.ok(&["volume", "delete", "web"]);
}

/// Whatever is wrong with a request, its refusal leaves one record of who requested what.
#[test]
fn a_refused_request_leaves_one_record() {
    let s = rig();
    let (bad, empty, out) = (s.path("bad.json"), s.path("empty"), s.path("out"));
    std::fs::write(&bad, r#"{"Statement": []}"#).unwrap();
    std::fs::write(&empty, "").unwrap();
    let (bad, empty, out) = (bad.to_str().unwrap(), empty.to_str().unwrap(), out.to_str().unwrap());
    let refused = || {
        let all = events(&s).into_iter().filter(|e| e["result"] == "refused");
        all.map(|e| (e["act"].as_str().unwrap().to_owned(), e)).collect::<Vec<_>>()
    };
    for served in [false, true] {
        let server = served.then(|| s.serve());
        for (verb, args) in [
            ("ec2:CreateVolume", &["volume", "create", "--size", "1MiB", "--key", "alias/none"][..]),
            ("ec2:CreateVolume", &["volume", "create", "--size", "1MiB", "--key", "??"]),
            ("ec2:CreateVolume", &["volume", "create", "--size", "1MiB", "--name", "web"]),
            ("ec2:CreateVolume", &["volume", "create", "--snapshot", "snap-none"]),
            ("ec2:ModifyVolume", &["volume", "grow", "none", "--size", "1GiB"]),
            ("ec2:ModifyVolume", &["volume", "modify", "none", "--iops", "100"]),
            ("ec2:ModifyVolume", &["volume", "modify", "web", "--iops", "7"]),
            ("ec2:DeleteVolume", &["volume", "delete", "none"]),
            ("coffer:SuspendVolume", &["volume", "suspend", "none"]),
            ("coffer:ResumeVolume", &["volume", "resume", "none"]),
            ("coffer:ExportVolume", &["volume", "export", "none", "--sealed", out]),
            ("coffer:ExportKey", &["volume", "export-key", "none", "--out", out]),
            ("coffer:AcceptRollback", &["volume", "accept-rollback", "none"]),
            ("coffer:AcceptLostWrites", &["volume", "accept-lost-writes", "none"]),
            ("ec2:CreateSnapshot", &["snapshot", "create", "none"]),
            ("ec2:DeleteSnapshot", &["snapshot", "delete", "snap-none"]),
            ("coffer:AllowTlsClient", &["access", "allow", "bob", "--volume", "none"]),
            ("coffer:MakeTlsToken", &["access", "token", "bob", "--volume", "none"]),
            ("coffer:DenyTlsClient", &["access", "deny", "nobody"]),
            ("coffer:BreakLease", &["detach", "none", "--force"]),
            ("kms:PutKeyPolicy", &["key", "policy", "set", "alias/k", bad]),
            ("kms:PutKeyPolicy", &["key", "policy", "set", "nonsense", bad]),
            ("kms:PutKeyPolicy", &["key", "policy", "set", "alias/none", bad]),
            ("kms:CreateKey", &["key", "create", "--policy", bad]),
            ("kms:CreateKey", &["key", "create", "--alias", "alias/k"]),
            ("kms:CreateKey", &["key", "create", "--alias", "alias/aws/mine"]),
            ("kms:CreateGrant", &["key", "grant", "create", "alias/k", "--grantee", "alice", "--operation", "Decrypt"]),
            ("kms:CreateGrant", &["key", "grant", "create", "alias/k", "--grantee", "x", "--operation", "Decrpyt"]),
            ("kms:RevokeGrant", &["key", "grant", "revoke", "alias/k", "none"]),
            ("kms:RetireGrant", &["key", "grant", "retire", "--token", "none"]),
            ("kms:ListGrants", &["key", "grant", "list", "alias/none"]),
            ("kms:GetKeyPolicy", &["key", "policy", "show", "alias/none"]),
            ("kms:DescribeKey", &["key", "show", "alias/none"]),
            ("kms:DescribeKey", &["key", "show", "nonsense"]),
            ("kms:DisableKey", &["key", "disable", "alias/none"]),
            ("kms:EnableKey", &["key", "enable", "nonsense"]),
            ("kms:RotateKeyOnDemand", &["key", "rotate", "alias/none"]),
            ("kms:ScheduleKeyDeletion", &["key", "schedule-deletion", "alias/k", "--days", "3"]),
            ("kms:CancelKeyDeletion", &["key", "cancel-deletion", "alias/k"]),
            ("kms:Encrypt", &["key", "encrypt", "alias/k", "--input", empty]),
            ("kms:Encrypt", &["key", "encrypt", "nonsense", "--input", bad]),
            ("kms:Decrypt", &["key", "decrypt", "--input", bad]),
            ("kms:Decrypt", &["key", "decrypt", "--input", bad, "--key", "nonsense"]),
            ("kms:GenerateDataKeyWithoutPlaintext", &["key", "generate-data-key", "alias/k", "--bytes", "2000"]),
            ("kms:CreateAlias", &["key", "alias", "create", "alias/a b", "alias/k"]),
            ("kms:UpdateAlias", &["key", "alias", "update", "alias/none", "alias/k"]),
            ("kms:DeleteAlias", &["key", "alias", "delete", "alias/none"]),
        ] {
            let before = refused().len();
            let out = s.coffer(args);
            assert_ne!(out.code, 0, "{args:?}");
            let after = refused();
            assert_eq!(after.len(), before + 1, "{args:?}: {:?}; {out:?}", &after[before..]);
            let (act, record) = &after[before];
            assert_eq!((act.as_str(), &record["caller"]["principal"]), (verb, &me(&s).into()), "{args:?}");
            assert!(!record["error"].as_str().unwrap().is_empty(), "{record}");
        }
        drop(server);
    }
}

/// So does a name that is refused over NBD, whoever requested it, and a malformed request.
#[test]
fn a_refused_name_and_an_unreadable_request_leave_one_record() {
    let s = rig();
    let open = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let socket = open.path().join("nbd.sock");
    let place = format!("unix:{}", socket.display());
    let _server = s.serve_with(&["--listen", &place, "--socket-mode", "666"]);
    s.ok(&["access", "allow", "uid:65534", "--volume", "web", "--user", "alice"]);
    let of = |who: &str| {
        let all = events(&s).into_iter().filter(|e| e["result"] == "refused" && e["caller"]["principal"] == who);
        all.collect::<Vec<_>>()
    };
    let leaves_one = |who: &str, act: &str, named: Option<&str>, asks: &dyn Fn()| {
        let before = of(who).len();
        asks();
        let found = of(who);
        assert_eq!(found.len(), before + 1, "{act} {named:?}: {:?}", &found[before..]);
        assert_eq!(found[before]["act"], act, "{found:?}");
        assert!(!found[before].to_string().contains("att-0123"), "a token is recorded: {found:?}");
        if let Some(named) = named {
            assert_eq!(found[before]["detail"]["named"], named, "{found:?}");
        }
    };
    let me = me(&s);
    for name in ["none", "web?ro=1", "web?t=att-0123", "snap-00000000000000000"] {
        let plain = name.split('?').next();
        leaves_one(&me, "ec2:AttachVolume", plain, &|| assert!(Nbd::open(&socket, name).is_err()));
    }
    leaves_one(&me, "coffer:UnknownRequest", None, &|| {
        let mut control = UnixStream::connect(s.data.join("control.sock")).unwrap();
        control.write_all(b"{\"action\": \"key-drop\"}\n").unwrap();
        let mut said = String::new();
        control.read_to_string(&mut said).unwrap();
        assert!(said.contains("unknown or malformed request"), "{said}");
    });
    if !rustix::process::geteuid().is_root() {
        skip("root, to become another user");
        return;
    }
    let alice = format!("arn:aws:iam::{}:user/alice", account(&s));
    for name in ["none", "web?ro=1", "web?t=att-0123", "web?t=tok-0123"] {
        leaves_one(&alice, "ec2:AttachVolume", None, &|| {
            as_user(NOBODY, || assert!(Nbd::open(&socket, name).is_err()))
        });
    }
}

/// A malformed request for an export is recorded without a name.
#[test]
fn a_malformed_request_for_an_export_leaves_one_record() {
    let s = rig();
    let server = s.serve();
    let refused = || events(&s).into_iter().filter(|e| e["result"] == "refused").collect::<Vec<_>>();
    let (long, huge) = (raw::query(&"n".repeat(4097), &[]), vec![0; 70_000]);
    for (number, data) in [
        (7, &b"\0\0\0\x02\xc3\x28\0\0"[..]),
        (6, b"\0\0\0\x02\xc3\x28\0\0"),
        (7, b"\0\0\0\x03a\0b\0\0"),
        (7, &long),
        (7, &huge),
        (1, b"\xc3\x28"),
        (1, &[b'n'; 4097]),
        (7, &vec![0; (1 << 20) + 1]),
    ] {
        let before = refused().len();
        let mut client = Raw::connect(&s.socket());
        // The server may hang up before all of it is sent.
        let _ = client.0.write_all(&raw::option(number, data));
        let _ = client.0.read(&mut [0; 64]);
        let found = refused();
        assert_eq!(found.len(), before + 1, "{number} {}: {:?}", data.len(), &found[before..]);
        assert_eq!(found[before]["act"], "ec2:AttachVolume");
        assert_eq!(found[before]["caller"]["principal"], me(&s));
    }
    assert_eq!(server.stop(), 0);
}

/// A token in place of a name is neither recorded nor logged, however it got there.
#[test]
fn a_token_where_a_name_belongs_is_neither_recorded_nor_logged() {
    let s = rig();
    let server = s.serve();
    let hex = "0123456789abcdef".repeat(4);
    for around in ["v%3Ft=T", "v&t=T", "v#t=T", "v;t=T", "v\u{ff1f}t=T", "T", "T?ro", "web?t=T", "web?T"] {
        for kind in ["tok-", "att-"] {
            let name = around.replace('T', &format!("{kind}{hex}"));
            let err = Nbd::open(&s.socket(), &name).map(drop).unwrap_err().to_string();
            assert!(!err.contains(&hex[..20]), "{err}");
        }
    }
    let token = format!("tok-{hex}");
    for args in [
        &["access", "deny", &token][..],
        &["key", "grant", "retire", "alias/k", &token],
        &["key", "show", &token],
        &["key", "alias", "delete", &token],
        &["volume", "delete", &token],
        &["snapshot", "delete", &token],
        &["detach", &token, "--force"],
        &["access", "allow", &token, "--volume", "none"],
    ] {
        let out = s.coffer(args);
        assert_ne!(out.code, 0, "{args:?}");
        assert!(!out.stderr.contains(&hex[..20]), "{args:?}: {}", out.stderr);
    }
    // Where serde says what is wrong, it repeats it.
    let fields =
        ["action\": \"T", "action\": \"key-disable\", \"T\": \"", "action\": \"volume-create\", \"size\": \"T"];
    for asks in fields.map(|f| format!("{{\"request\": {{\"{}\"}}}}\n", f.replace('T', &token))) {
        let mut control = UnixStream::connect(s.data.join("control.sock")).unwrap();
        control.write_all(asks.as_bytes()).unwrap();
        let mut said = String::new();
        control.read_to_string(&mut said).unwrap();
        assert!(said.contains("unknown or malformed request") && !said.contains(&hex[..20]), "{said}");
    }
    let recorded = events(&s);
    assert!(recorded.iter().filter(|e| e["result"] == "refused").count() >= 29, "{recorded:?}");
    let shown = |text: &str| text.contains(&hex[..20]);
    assert!(!recorded.iter().any(|e| shown(&e.to_string())), "{recorded:?}");
    assert_eq!(server.stop(), 0);
    assert!(!shown(&s.log()), "{}", s.log());
    assert!(s.log().contains("is refused"), "{}", s.log());
}

/// The policy has a separate action for exporting the data key.
#[test]
fn a_policy_can_refuse_the_clear_data_key_to_who_may_use_the_volume() {
    let s = rig();
    let out = s.path("out");
    let out = out.to_str().unwrap();
    let uses = allow(&me(&s), r#"["kms:Decrypt", "kms:CreateGrant"]"#, "");
    set_policy(&s, &managed(&s, std::slice::from_ref(&uses)));
    for served in [false, true] {
        let server = served.then(|| s.serve());
        s.fails(6, &["volume", "export-key", "web", "--out", out], &["kms:ExportVolumeKey", "not authorized"]);
        assert!(!Path::new(out).exists());
        let last = events(&s).into_iter().rfind(|e| e["result"] == "refused").unwrap();
        assert_eq!(last["act"], "kms:ExportVolumeKey", "{last}");
        if let Some(server) = server {
            server.connect("web").close();
        }
    }
    let all = allow(&me(&s), r#""kms:*""#, "");
    let deny = all.replace("Allow", "Deny").replace("kms:*", "kms:ExportVolumeKey");
    set_policy(&s, &managed(&s, &[all.clone(), deny]));
    s.fails(6, &["volume", "export-key", "web", "--out", out], &["kms:ExportVolumeKey", "explicit deny"]);
    set_policy(&s, &managed(&s, &[all]));
    s.ok(&["volume", "export-key", "web", "--out", out]);
    assert_eq!(std::fs::metadata(out).unwrap().len(), 64);
    assert!(events(&s).iter().any(|e| e["act"] == "coffer:ExportKey" && e["result"] == "ok"));
}

/// Whoever disables a key is told what is suspended from then on, and what is not.
#[test]
fn what_a_key_takes_with_it_is_said_when_it_goes_and_by_doctor() {
    let s = rig();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "on", "--key", "alias/k", "--on-key-loss", "continue"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "idle", "--key", "alias/k"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "other"]);
    let server = s.serve();
    let clients = ["web", "on", "other"].map(|name| server.connect(name));
    for args in [&["key", "disable", "alias/k"][..], &["key", "schedule-deletion", "alias/k", "--days", "7"]] {
        let said = s.ok(args);
        assert!(said.stderr.contains("suspended until") && said.stderr.contains("web (vol-"), "{said:?}");
        assert!(
            said.stderr.contains("not suspended until they are closed") && said.stderr.contains("on (vol-"),
            "{said:?}"
        );
        assert!(!said.stderr.contains("idle") && !said.stderr.contains("other"), "{said:?}");
        let doctor = s.coffer(&["doctor"]).stdout;
        assert!(doctor.contains("web (vol-") && doctor.contains("is suspended until its CMK"), "{doctor}");
        s.coffer(&["key", "cancel-deletion", "alias/k"]);
        s.ok(&["key", "enable", "alias/k"]);
        wait_until("it goes on", || state(&s) == "in-use");
    }
    let answer = s.json(&["key", "schedule-deletion", "alias/k", "--days", "7"]);
    let (suspended, goes_on) = (answer["suspended"].as_array().unwrap(), answer["continuing"].as_array().unwrap());
    assert!(suspended.len() == 1 && suspended[0].as_str().unwrap().starts_with("web "), "{answer}");
    assert!(goes_on.len() == 1 && goes_on[0].as_str().unwrap().starts_with("on "), "{answer}");
    let doctor = s.coffer(&["doctor"]).stdout;
    assert!(doctor.contains("is pending deletion at") && doctor.contains("cancel-deletion"), "{doctor}");
    assert!(s.json(&["key", "show", "alias/k"])["suspended"].is_null(), "only in the answer to the act");
    drop(clients);
}
