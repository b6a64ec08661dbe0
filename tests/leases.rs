//! Who holds a volume: attachments with their token, slots, broken leases, and shared readers.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::api::control;
use coffer::kms::Caller;
use coffer::service::api::{AttachmentInfo, Reply};
use coffer::service::operations::Request;
use coffer::service::operations::{AttachVolume, DeleteVolume, ListAuditEvents, RenewAttachment};
use coffer::service::{ConnectRequest, Holder, Role};
use common::*;
use std::sync::Arc;
use std::time::Duration;

fn ask(s: &Scratch, request: &Request) -> Reply {
    control::ask(&s.data.join("control.sock"), request, &mut |_| ()).unwrap().expect("a server answers")
}

#[track_caller]
fn attachment(reply: Reply) -> AttachmentInfo {
    match reply {
        Reply::Attachment(att) => att,
        other => panic!("{other:?}"),
    }
}

/// Registers an attachment of `web`, as `coffer attach` does before it hands sockets to the kernel.
fn begin(s: &Scratch) -> AttachmentInfo {
    attachment(ask(s, &AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into()))
}

fn rig() -> Scratch {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web"]);
    s
}

#[track_caller]
fn refused(s: &Scratch, name: &str) -> String {
    match Nbd::open(&s.socket(), name) {
        Ok(_) => panic!("{name} was let in"),
        Err(err) => err.to_string(),
    }
}

#[test]
fn a_token_is_told_once_kept_hashed_and_survives_a_restart() {
    let s = rig();
    let server = s.serve();
    let att = begin(&s);
    let (name, token) = att.export.split_once("?t=").unwrap();
    assert!(name == "web" && token.starts_with("att-") && token.len() == 4 + 64, "{}", att.export);
    assert_ne!(token, att.id);
    let mut c = server.connect(&att.export);
    c.write(0, b"mine");
    for other in ["web".to_owned(), format!("web?t={}", att.id), format!("web?t={token}0")] {
        assert!(refused(&s, &other).contains(&att.id), "who holds it is said, by its public id");
    }
    let listed = s.json(&["attachments"]).to_string() + &s.json(&["audit", "list"]).to_string();
    assert!(listed.contains(&att.id) && !listed.contains(token));
    drop(c);
    server.kill9();
    let server = s.serve();
    assert!(refused(&s, "web").contains(&att.id), "nobody gets in before it");
    assert_eq!(server.connect(&att.export).read(0, 4), b"mine");
    assert_eq!(server.stop(), 0);
    let all: Vec<u8> = files(&s.data).iter().flat_map(|f| contents(f)).collect();
    assert!(!all.windows(token.len()).any(|w| w == token.as_bytes()), "the token lies in the data directory");
}

#[test]
fn a_renewed_token_takes_the_place_of_the_old_one_and_connections_go_on() {
    let s = rig();
    let server = s.serve();
    let old = begin(&s);
    let mut c = server.connect(&old.export);
    let new = attachment(ask(&s, &RenewAttachment { what: "web".into() }.into()));
    assert_eq!((&new.id, &new.device), (&old.id, &old.device));
    assert_ne!(new.export, old.export);
    refused(&s, &old.export);
    c.write(0, b"on");
    assert_eq!(server.connect(&new.export).read(0, 2), b"on");
    let gone = control::ask(&s.data.join("control.sock"), &RenewAttachment { what: "no".into() }.into(), &mut |_| ());
    assert!(gone.unwrap_err().line().contains("not attached"));
}

#[test]
fn a_new_connection_in_a_slot_closes_the_old_one_and_leaves_the_others() {
    let s = rig();
    let server = s.serve();
    let att = begin(&s);
    let slot = |n: u32| format!("{}&c={n}", att.export);
    let (mut first, mut other) = (server.connect(&slot(0)), server.connect(&slot(1)));
    first.write(0, b"1");
    other.write(1, b"2");
    let mut second = server.connect(&slot(0));
    assert_eq!(second.read(0, 2), b"12");
    assert!(first.try_read(0, 1).is_err(), "the old one is closed");
    other.write(1, b"3");
    assert_eq!(second.read(0, 2), b"13");
}

#[test]
fn force_takes_a_volume_away_and_closes_its_connections() {
    let s = rig();
    let server = s.serve();
    let att = begin(&s);
    let mut c = server.connect(&att.export);
    c.write(0, b"x");
    s.fails(5, &["volume", "delete", "web"], &[&att.id]);
    let said = s.ok(&["detach", "--force", "/dev/nbd7"]).stdout;
    assert!(said.contains(&att.id), "{said}");
    assert!(c.try_read(0, 1).is_err());
    assert!(s.ids(&["attachments"]).is_empty());
    refused(&s, &att.export);
    // A process that holds it, too.
    let mut c = server.connect("web");
    assert_eq!(c.read(0, 1), b"x");
    let said = s.ok(&["detach", "--force", "web"]).stdout;
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(c.try_read(0, 1).is_err());
    s.fails(4, &["detach", "--force", "web"], &["not attached"]);
    let events = s.json(&["audit", "list"]).to_string();
    assert_eq!(events.matches("coffer:BreakLease").count(), 3, "two were done, one was refused: {events}");
}

#[test]
fn readers_share_a_volume_and_do_not_write() {
    let s = rig();
    let server = s.serve();
    let mut writer = server.connect("web");
    writer.write(0, b"seen");
    assert!(refused(&s, "web?ro").contains("held by"));
    writer.close();
    let (mut a, mut b) = (server.connect("web?ro"), server.connect("web?ro"));
    assert_eq!((a.read(0, 4), b.read(0, 4)), (b"seen".to_vec(), b"seen".to_vec()));
    assert_eq!(a.try_write(0, b"no", false).unwrap(), Err(1), "EPERM");
    assert!(refused(&s, "web").contains("(reading)"));
    a.close();
    b.close();
    server.connect("web").write(0, b"more");
}

#[test]
fn a_name_with_a_misspelt_parameter_opens_nothing() {
    let s = rig();
    let server = s.serve();
    for query in ["ro=1", "RO", "readonly", "ro&ro", "c=x", "c=", "", "ro%20", "x"] {
        let said = refused(&s, &format!("web?{query}"));
        assert!(said.starts_with("0x80000003") && said.contains("the export name"), "{query}: {said}");
    }
    assert_eq!(server.connect("web?ro").try_write(0, b"x", false).unwrap(), Err(1), "EPERM");
    wait_until("the reader is gone", || s.json(&["volume", "show", "web"])["holder"].is_null());
    server.connect("web").write(0, b"x");
    let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
    assert!(refused(&s, &format!("{snapshot}?RO")).contains("no parameter RO"));
    assert_eq!(server.connect(&format!("{snapshot}?ro")).read(0, 1), b"x");
}

#[test]
fn force_takes_a_snapshot_from_its_readers() {
    let s = rig();
    let server = s.serve();
    server.connect("web").write(0, b"x");
    let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
    s.fails(4, &["detach", "--force", &snapshot], &["no client is reading it"]);
    let (mut a, mut b) = (server.connect(&snapshot), server.connect(&snapshot));
    assert_eq!((a.read(0, 1), b.read(0, 1)), (b"x".to_vec(), b"x".to_vec()));
    s.fails(5, &["snapshot", "delete", &snapshot], &["being read"]);
    let said = s.ok(&["detach", "--force", &snapshot]).stdout;
    assert!(said.contains(&snapshot) && said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(a.try_read(0, 1).is_err() && b.try_read(0, 1).is_err());
    let events = s.json(&["audit", "list"]).to_string();
    assert!(events.contains("coffer:BreakLease") && events.contains(&snapshot), "{events}");
    let mut again = server.connect(&snapshot);
    assert_eq!(again.read(0, 1), b"x", "it may be opened again");
    s.ok(&["detach", "--force", &snapshot]);
    s.ok(&["snapshot", "delete", &snapshot]);
}

/// A server in a container, and a client on its host: the kernel does not show the client's process id to the server.
#[test]
fn a_client_from_another_pid_namespace_holds_a_volume_by_its_connection() {
    let s = rig();
    let unshare = |args: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).args(args).env_remove("COFFER_DATA");
        command
    };
    if !unshare(&["true"]).status().is_ok_and(|status| status.success()) {
        skip("the right to make a PID namespace");
        return;
    }
    let data = s.data.to_str().unwrap();
    let mut server = unshare(&[COFFER, "--data", data, "serve"]).spawn().unwrap();
    wait_until("it listens", || std::os::unix::net::UnixStream::connect(s.data.join("control.sock")).is_ok());
    let mut first = Nbd::open(&s.socket(), "web").unwrap();
    first.write(0, b"mine");
    let said = refused(&s, "web");
    assert!(said.contains("from another PID namespace"), "{said}");
    assert_eq!(first.read(0, 4), b"mine");
    first.close();
    wait_until("the next one gets in", || Nbd::open(&s.socket(), "web").is_ok());
    server.kill().unwrap();
    server.wait().unwrap();
}

/// `coffer attach` gives the kernel a request timeout of 10 s; those of other clients are unknown.
#[test]
fn requests_of_an_attached_device_are_not_applied_after_half_its_timeout() {
    let s = rig();
    let service = s.opened(Role::Daemon);
    let caller = service.caller_of(rustix::process::geteuid().as_raw(), "test").unwrap();
    let asking = |connection| ConnectRequest { peer: Holder::Process { pid: 1, start: 1 }, connection };
    assert_eq!(service.attach("web", asking(1), &caller).unwrap().stale_after(), None);
    let begin = AttachVolume { volume: "web".into(), device: "/dev/nbd7".into() }.into();
    let att = attachment(service.handle(&caller, begin, &mut |_| true).unwrap());
    let of = |name: &str, connection| service.attach(name, asking(connection), &caller).unwrap().stale_after();
    assert_eq!(of(&format!("{}&c=0", att.export), 2), Some(Duration::from_secs(5)));
    assert_eq!(of(&att.export, 3), None, "without a slot it is another client's");
    service.shut_down();
}

/// A connection's thread may still be closing what it had when the next client comes.
#[test]
fn a_closed_volume_opens_again_while_something_refers_to_it() {
    let s = rig();
    let service = s.opened(Role::Command);
    let caller = service.caller_of(rustix::process::geteuid().as_raw(), "test").unwrap();
    let asking = |connection| ConnectRequest { peer: Holder::Process { pid: 1, start: 1 }, connection };
    let first = service.attach("web", asking(1), &caller).unwrap();
    let left_over = first.volume().clone();
    drop(first);
    let again = service.attach("web", asking(2), &caller).unwrap();
    assert!(!Arc::ptr_eq(&left_over, again.volume()));
    drop(again);
    service.shut_down();
}

/// A server keeps a volume open for a moment: reconnecting costs no use of the key, but another principal's connection
/// does.
#[test]
fn who_comes_back_at_once_finds_the_volume_open_and_somebody_else_is_audited() {
    let s = rig();
    let service = s.opened(Role::Daemon);
    let owner = service.caller_of(rustix::process::geteuid().as_raw(), "test").unwrap();
    let other =
        Caller { principal: owner.principal.replace("root", "user/other").replace("uid-", "other-"), ..owner.clone() };
    let asking = |connection| ConnectRequest { peer: Holder::Process { pid: 1, start: 1 }, connection };
    let unwraps = || {
        let Reply::Events { events, .. } =
            service.handle(&owner, ListAuditEvents::newest(1000).into(), &mut |_| true).unwrap()
        else {
            panic!("no events")
        };
        events.iter().filter(|e| e.record["act"] == "kms:UnwrapVolumeKey").count()
    };
    for (connection, caller, expected) in
        [(1, &owner, 1), (2, &owner, 1), (3, &other, 2), (4, &other, 2), (5, &owner, 3)]
    {
        let attached = service.attach("web", asking(connection), caller).unwrap();
        drop(attached);
        assert_eq!(unwraps(), expected, "connection {connection}");
    }
    // It is nobody's now, though it is open.
    service.handle(&owner, DeleteVolume { volume: "web".into() }.into(), &mut |_| true).unwrap();
    service.shut_down();
}

/// A volume that is already open is no back door: every lease and every principal is authorised and audited at its
/// first connection.
#[test]
fn each_lease_and_each_principal_of_an_open_volume_is_asked_and_audited_once() {
    let s = rig();
    let service = s.opened(Role::Daemon);
    let owner = service.caller_of(rustix::process::geteuid().as_raw(), "test").unwrap();
    let user = |name: &str| {
        let account = owner.principal.split(':').nth(4).unwrap();
        Caller { principal: format!("arn:aws:iam::{account}:user/{name}"), ..owner.clone() }
    };
    let (other, third) = (user("other"), user("third"));
    // The volumes' default key is usable by everyone in the account.
    let nobody = Caller { principal: "arn:aws:iam::999999999999:user/eve".into(), ..owner.clone() };
    let asking = |pid, connection| ConnectRequest { peer: Holder::Process { pid, start: 1 }, connection };
    let unwraps = || {
        let Reply::Events { events, .. } =
            service.handle(&owner, ListAuditEvents::newest(1000).into(), &mut |_| true).unwrap()
        else {
            panic!("no events")
        };
        let of = |e: &&coffer::service::api::EventInfo| e.record["act"] == "kms:UnwrapVolumeKey";
        events
            .iter()
            .filter(of)
            .map(|e| e.record["caller"]["principal"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut attached = Vec::new();
    for (connection, (pid, caller, expected)) in [
        (1, &owner, 1),
        (1, &owner, 1), // one lease, and another connection of it
        (2, &other, 2),
        (2, &other, 2),
        (3, &owner, 3), // another lease of the same principal
        (1, &owner, 3),
        (1, &third, 4), // the process has changed its user
        (1, &third, 4),
    ]
    .into_iter()
    .enumerate()
    {
        attached.push(service.attach("web?ro", asking(pid, connection as u64), caller).unwrap());
        let found = unwraps();
        assert_eq!(found.len(), expected, "connection {connection}: {found:?}");
        let last = [&owner, &other, &owner, &third][expected - 1];
        assert_eq!(found.last(), Some(&last.principal));
    }
    let refused = service.attach("web?ro", asking(4, 100), &nobody).map(drop).unwrap_err();
    assert_eq!(refused.kind(), coffer::error::Kind::AccessDenied);
    // Also as a process that already holds the volume, under another identity.
    let refused = service.attach("web?ro", asking(1, 101), &nobody).map(drop).unwrap_err();
    assert_eq!(refused.kind(), coffer::error::Kind::AccessDenied);
    drop(attached);
    service.shut_down();
}

#[test]
fn a_volume_that_nobody_comes_back_to_is_closed() {
    let s = rig();
    let server = s.serve();
    server.connect("web").close();
    let file = std::fs::read_dir(s.data.join("volumes")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::File::open(file).unwrap();
    wait_until("its file is unlocked", || !coffer::sys::ofd_is_locked(&file, 0, 0).unwrap());
    assert_eq!(server.connect("web").read(0, 4), [0; 4]);
    assert_eq!(server.stop(), 0);
}
