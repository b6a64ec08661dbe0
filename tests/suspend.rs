//! Volumes whose key goes away under their clients: requests are held, continue, or fail, by policy; through the CMK
//! and by hand.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::api::control;
use coffer::error::Kind;
use coffer::service::api::{AttachmentInfo, Reply};
use coffer::service::operations::AttachVolume;
use common::raw::{DISC, FLUSH, READ, Raw, WRITE, request};
use common::*;
use serde_json::json;

const WRITE_ZEROES: u16 = 6;
const TRIM: u16 = 4;

fn rig(more: &[&str]) -> Scratch {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&[&["volume", "create", "--size", "16MiB", "--name", "web", "--key", "alias/k"], more].concat());
    s
}

fn attach(s: &Scratch) -> AttachmentInfo {
    let request = AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into();
    match control::ask(&s.data.join("control.sock"), &request, &mut |_| ()).unwrap() {
        Some(Reply::Attachment(att)) => att,
        other => panic!("{other:?}"),
    }
}

fn state(s: &Scratch) -> String {
    s.json(&["volume", "show", "web"])["state"].as_str().unwrap().to_owned()
}

/// Sends a write, without waiting for its reply.
fn send(c: &mut Raw, cookie: u64, offset: u64, data: &[u8]) {
    c.put(&[request(WRITE, 0, cookie, offset, data.len() as u32), data.to_vec()].concat());
}

/// Checks that replies with these cookies arrive, in any order, all successful.
#[track_caller]
fn all_answered(c: &mut Raw, cookies: &[u64]) {
    let mut got: Vec<_> = cookies.iter().map(|_| c.reply()).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(cookies.iter().map(|c| (0, *c))));
}

#[test]
fn a_suspended_volume_holds_reads_and_writes_and_goes_on_where_it_was() {
    let s = rig(&[]);
    let server = s.serve();
    let mut c = Raw::open(&s.socket(), "web");
    let (old, new) = (noise(1, 1 << 20), noise(2, 1 << 20));
    assert_eq!(c.ask(WRITE, 0, 0, 1 << 20, &old), 0);
    s.ok(&["key", "disable", "alias/k"]);
    assert_eq!(state(&s), "suspended");
    send(&mut c, 1, 4096, &new);
    send(&mut c, 2, 8192, b"newer");
    c.put(&request(WRITE_ZEROES, 0, 3, 8193, 1));
    // These work without the key. Their replies come before those of held requests.
    for (command, len) in [(FLUSH, 0), (TRIM, 4096)] {
        assert_eq!(c.ask(command, 0, 0, len, &[]), 0);
    }
    s.ok(&["snapshot", "create", "web", "--wait"]);
    let mut reader = Raw::open(&s.socket(), "web");
    reader.put(&request(READ, 0, 9, 0, 4096));
    assert_eq!(reader.ask(FLUSH, 0, 0, 0, &[]), 0);
    s.ok(&["key", "enable", "alias/k"]);
    all_answered(&mut c, &[1, 2, 3]);
    all_answered(&mut reader, &[9]);
    assert_eq!(reader.get(4096), old[..4096], "a TRIM without the key is left undone");
    assert_eq!(c.read(8192, 5), b"n\0wer");
    assert_eq!(c.read(8197, 4000), new[4101..8101]);
    assert_eq!(state(&s), "in-use");
    // A clean disconnect does not wait for the key, and ends the lease.
    s.ok(&["key", "disable", "alias/k"]);
    send(&mut c, 4, 0, b"lost");
    c.put(&request(DISC, 0, 0, 0, 0));
    c.expect_hangup();
    drop(reader);
    wait_until("nobody has it", || s.json(&["volume", "show", "web"])["holder"].is_null());
    drop(server);
}

#[test]
fn an_attached_client_comes_back_to_a_suspended_volume_and_a_first_one_does_not() {
    let s = rig(&[]);
    let server = s.serve();
    let att = attach(&s);
    let mut c = Raw::open(&s.socket(), &att.export);
    assert_eq!(c.ask(WRITE, 0, 0, 4, b"kept"), 0);
    server.kill9();
    s.ok(&["key", "disable", "alias/k"]);
    let server = s.serve();
    // The kernel reconnects, resends, and waits.
    let mut c = Raw::open(&s.socket(), &att.export);
    send(&mut c, 1, 2, b"ys");
    c.put(&request(READ, 0, 2, 0, 4));
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
    assert_eq!(state(&s), "suspended");
    s.ok(&["key", "enable", "alias/k"]);
    let mut answered = [false; 3];
    for _ in 0..2 {
        let (error, cookie) = c.reply();
        assert_eq!(error, 0);
        if cookie == 2 {
            c.get(4);
        }
        answered[cookie as usize] = true;
    }
    assert_eq!(answered, [false, true, true]);
    assert_eq!(c.read(0, 4), b"keys");
    drop(c);
    s.ok(&["detach", "--force", "web"]);
    s.ok(&["key", "disable", "alias/k"]);
    let begin = AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into();
    let refused = control::ask(&s.data.join("control.sock"), &begin, &mut |_| ()).unwrap_err();
    assert_eq!(refused.kind(), Kind::KeyUnavailable, "exit code 6");
    assert!(Nbd::open(&s.socket(), "web").err().unwrap().to_string().contains("isabled"));
    drop(server);
}

#[test]
fn a_volume_may_go_on_without_its_cmk_or_fail() {
    let s = rig(&["--on-key-loss", "continue"]);
    let server = s.serve();
    let mut c = server.connect("web");
    s.ok(&["key", "disable", "alias/k"]);
    c.write(0, b"as AWS has it");
    assert_eq!(c.read(0, 13), b"as AWS has it");
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(s.json(&["volume", "modify", "web", "--on-key-loss", "fail"])["on_key_loss"], json!("fail"));
    s.ok(&["key", "disable", "alias/k"]);
    assert_eq!(c.try_read(0, 1).unwrap(), Err(5), "EIO");
    assert_eq!(c.try_write(0, b"x", false).unwrap(), Err(5));
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(c.read(0, 2), b"as");
    // Held requests fail once the volume's policy says so.
    s.ok(&["volume", "modify", "web", "--on-key-loss", "suspend"]);
    c.close();
    let mut c = Raw::open(&s.socket(), "web");
    s.ok(&["key", "disable", "alias/k"]);
    send(&mut c, 1, 0, b"held");
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
    s.ok(&["volume", "modify", "web", "--on-key-loss", "fail"]);
    assert_eq!(c.reply(), (5, 1));
    s.fails(2, &["volume", "modify", "web"], &["no setting is given"]);
    drop(server);
}

#[test]
fn a_volume_is_suspended_and_resumed_by_hand_under_any_key() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "web"]);
    let server = s.serve();
    let att = attach(&s);
    let mut c = Raw::open(&s.socket(), &att.export);
    assert_eq!(s.json(&["volume", "suspend", "web"])["state"], json!("suspended"));
    send(&mut c, 1, 0, b"held");
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
    server.kill9();
    let server = s.serve();
    let mut c = Raw::open(&s.socket(), &att.export);
    assert_eq!(state(&s), "suspended", "a restart does not change that");
    send(&mut c, 1, 0, b"again");
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
    s.fails(6, &["volume", "grow", "web", "--size", "2MiB"], &["suspended by hand", "volume resume"]);
    s.ok(&["volume", "resume", "web"]);
    assert_eq!(c.reply(), (0, 1));
    assert_eq!(c.read(0, 5), b"again");
    let events = s.json(&["audit", "list"]).to_string();
    assert!(events.contains("coffer:SuspendVolume") && events.contains("coffer:ResumeVolume"));
    drop((c, server));
    // Without a server, and for a volume that no one has open.
    s.ok(&["detach", "--force", "web"]);
    s.ok(&["volume", "suspend", "web"]);
    s.fails(6, &["serve", "web", "--run", "nbdinfo \"$uri\" || exit 6"], &[]);
    s.ok(&["volume", "resume", "web"]);
    // Enabling a CMK does not undo a manual suspend.
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "own", "--key", "alias/k"]);
    let server = s.serve();
    let mut c = Raw::open(&s.socket(), "own");
    s.ok(&["volume", "suspend", "own"]);
    s.ok(&["key", "disable", "alias/k"]);
    s.fails(6, &["volume", "resume", "own"], &["isabled"]);
    s.ok(&["key", "enable", "alias/k"]);
    assert_eq!(s.json(&["volume", "show", "own"])["state"], json!("suspended"));
    s.ok(&["volume", "resume", "own"]);
    assert_eq!(c.ask(WRITE, 0, 0, 1, b"x"), 0);
    drop(server);
}

#[test]
fn limits_are_set_shown_and_changed_while_a_volume_is_attached() {
    let s = rig(&["--iops", "3000", "--throughput", "125"]);
    let shown = s.json(&["volume", "show", "web"]);
    assert_eq!((&shown["iops"], &shown["throughput"]), (&json!(3000), &json!(125 << 20)));
    assert!(s.ok(&["volume", "show", "web"]).stdout.contains("3000 IOPS, 125 MiB/s"));
    let server = s.serve();
    let mut c = server.connect("web");
    c.write(0, b"x");
    s.ok(&["volume", "modify", "web", "--iops", "0", "--throughput", "200MiB"]);
    assert_eq!(c.read(0, 1), b"x");
    let shown = s.json(&["volume", "show", "web"]);
    assert_eq!((&shown["iops"], &shown["throughput"]), (&json!(null), &json!(200 << 20)));
    s.fails(2, &["volume", "modify", "web", "--iops", "5"], &["lowest IOPS limit is 100"]);
    s.fails(2, &["volume", "modify", "web", "--throughput", "5KiB"], &["lowest throughput limit is 1 MiB/s"]);
    drop(server);
}
