//! The control socket under clients, cleaners and shortages that a server must survive.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::api::control::{ControlServer, Limits, ask};
use coffer::error::{Error, Kind};
use coffer::service::Role;
use coffer::service::api::Reply;
use coffer::service::operations::{CreateKey, DescribeVolumes};
use common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A control socket in this process.
struct Here {
    s: Scratch,
    control: Option<ControlServer>,
}

impl Here {
    fn with(limits: Limits) -> Self {
        let s = Scratch::new();
        let service = s.opened(Role::Command);
        let control = ControlServer::start_with(&s.data.join("control.sock"), service, limits).unwrap();
        Self { s, control: Some(control) }
    }

    fn path(&self) -> PathBuf {
        self.s.data.join("control.sock")
    }

    fn ask(&self) -> Result<Option<Reply>, Error> {
        ask(&self.path(), &DescribeVolumes {}.into(), &mut |_| ())
    }

    /// Connects another client that sends these bytes, and no more for now.
    fn client(&self, sends: &[u8]) -> UnixStream {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.write_all(sends); // one that was refused already learns it from what it reads
        client
    }
}

fn said(mut client: UnixStream) -> String {
    let mut text = Vec::new();
    // It may end with a reset: the server does not read a refused request.
    let _ = client.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_moment_without_threads_costs_a_command_and_not_the_socket() {
    let none = Arc::new(AtomicBool::new(true));
    let without = none.clone();
    let usual = Limits::default().spawn;
    let here = Here::with(Limits {
        spawn: Box::new(move |job| {
            if without.load(Ordering::Acquire) { Err(std::io::ErrorKind::WouldBlock.into()) } else { usual(job) }
        }),
        ..Limits::default()
    });
    for _ in 0..3 {
        let err = here.ask().unwrap_err();
        assert_eq!(err.kind(), Kind::Busy, "{}", err.line());
        assert!(err.line().contains("thread") && err.line().contains("try again"), "{}", err.line());
    }
    none.store(false, Ordering::Release);
    assert!(matches!(here.ask(), Ok(Some(Reply::Volumes { .. }))));
}

#[test]
fn half_a_request_is_not_waited_for_however_it_trickles() {
    let here = Here::with(Limits { request: Duration::from_millis(100), ..Limits::default() });
    let mut client = here.client(b"{\"request\"");
    let reader = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || said(reader));
    let until = Instant::now() + PATIENCE;
    // A byte now and then: each by itself is in time. Ends when the server hangs up.
    while client.write_all(b" ").is_ok() {
        assert!(Instant::now() < until, "the server still reads");
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = reading.join().unwrap();
    assert!(text.contains("did not arrive in time"), "{text}");
    assert!(here.ask().is_ok());
}

#[test]
fn a_request_has_a_longest_length() {
    let here = Here::with(Limits::default());
    let client = UnixStream::connect(here.path()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server hangs up in the middle of it.
    let _ = (&client).write_all(&vec![b' '; 2 << 20]);
    let text = said(client);
    assert!(text.contains("too long"), "{text}");
}

#[test]
fn too_many_clients_are_told_so_and_those_before_go_on() {
    let here = Here::with(Limits { connections: 2, ..Limits::default() });
    let mut first: Vec<_> = (0..2).map(|_| here.client(b"{\"request\": ")).collect();
    let mut last = None;
    wait_until("one is too many", || {
        last = here.ask().err();
        last.is_some()
    });
    let err = last.unwrap();
    assert_eq!(err.kind(), Kind::Busy);
    assert!(err.line().contains("2 commands in progress"), "{}", err.line());
    let mut client = first.pop().unwrap();
    client.write_all(b"{\"action\": \"volume-list\"}}\n").unwrap();
    assert!(said(client).contains("\"reply\""));
    drop(first);
    wait_until("there is room again", || here.ask().is_ok());
}

#[test]
fn a_client_that_does_not_read_its_answer_is_given_up() {
    let here = Here::with(Limits { connections: 1, answer: Duration::from_millis(50), ..Limits::default() });
    // An answer that exceeds any socket's buffer.
    for n in 0..120 {
        let request =
            CreateKey { alias: None, description: "x".repeat(4000), policy: None, bypass_lockout_check: false }.into();
        wait_until("the one before has ended", || match ask(&here.path(), &request, &mut |_| ()) {
            Ok(_) => true,
            Err(e) => {
                assert_eq!(e.kind(), Kind::Busy, "{n}: {}", e.line());
                false
            }
        });
    }
    let deaf = wait_for_place(&here, b"{\"request\": {\"action\": \"key-list\"}}\n");
    wait_until("its thread is free", || here.ask().is_ok());
    let mut text = Vec::new();
    let _ = (&deaf).read_to_end(&mut text);
    assert!(!text.ends_with(b"\n"), "it was cut off");
}

/// A client that got the only place.
fn wait_for_place(here: &Here, sends: &[u8]) -> UnixStream {
    let mut found = None;
    wait_until("there is a place", || {
        let client = here.client(sends);
        let mut byte = [0; 10];
        let n = rustix::net::recv(&client, &mut byte[..], rustix::net::RecvFlags::PEEK).map_or(0, |(n, _)| n);
        if n > 0 && !byte.starts_with(b"{\"error\"") {
            found = Some(client);
        }
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_socket_that_was_removed_or_replaced_comes_back_and_does_not_hinder_the_end() {
    let mut here = Here::with(Limits { look: Duration::from_millis(10), ..Limits::default() });
    let path = here.path();
    let is_socket = |p: &Path| p.symlink_metadata().is_ok_and(|m| m.file_type().is_socket());
    std::fs::remove_file(&path).unwrap();
    wait_until("it is there again", || is_socket(&path));
    wait_until("it answers", || matches!(here.ask(), Ok(Some(_))));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    wait_until("the socket was created again", || is_socket(&path));
    wait_until("it answers", || matches!(here.ask(), Ok(Some(_))));
    drop(here.control.take());
    assert!(!path.exists(), "an orderly end removes it");

    // Gone when the server stops, and no one checks before that.
    let mut here = Here::with(Limits { look: Duration::from_secs(3600), ..Limits::default() });
    std::fs::remove_file(here.path()).unwrap();
    drop(here.control.take());
    // Another server's by then: this one must not remove it.
    let mut here = Here::with(Limits { look: Duration::from_secs(3600), ..Limits::default() });
    std::fs::remove_file(here.path()).unwrap();
    let _other = UnixListener::bind(here.path()).unwrap();
    drop(here.control.take());
    assert!(is_socket(&here.path()));
}

/// Another installation can be put at the path of one that was moved, and its commands are not for the old server.
#[test]
fn a_server_whose_directory_was_moved_does_not_come_back_at_its_path() {
    let here = Here::with(Limits { look: Duration::from_millis(10), ..Limits::default() });
    let (path, data) = (here.path(), here.s.data.clone());
    let moved = data.with_extension("moved");
    std::fs::rename(&data, &moved).unwrap();
    std::fs::create_dir(&data).unwrap();
    let socket = moved.join("control.sock");
    // Each answer comes after a look at the path.
    for _ in 0..3 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(b"nonsense\n").unwrap();
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).unwrap();
        assert!(!path.exists(), "{answer}");
    }
    std::fs::remove_dir(&data).unwrap();
    std::fs::rename(&moved, &data).unwrap();
    assert!(matches!(here.ask(), Ok(Some(_))), "back at its place");
}

#[test]
fn a_server_whose_socket_is_gone_ends_on_sigterm_and_commands_find_it_before() {
    let s = Scratch::new();
    let server = s.serve();
    std::fs::remove_file(s.data.join("control.sock")).unwrap();
    // It waits for the directory's lock, and tries the socket meanwhile.
    s.ok(&["volume", "list"]);
    std::fs::remove_file(s.data.join("control.sock")).unwrap();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_server_that_dies_in_the_middle_of_an_answer_is_exit_8() {
    let s = Scratch::new();
    for (answer, word) in [
        (&b""[..], "closed the connection without a reply"),
        (b"{\"reply\": {\"kind\": \"volumes\"", "in the middle of its reply"),
        (
            b"{\"progress\": {\"what\": \"x\", \"done\": 1, \"total\": null, \"unit\": \"b\"}}\n",
            "closed the connection without",
        ),
        (b"nonsense\n", "does not understand"),
    ] {
        let path = s.data.join("control.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let dying = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut byte = [0];
            while byte != *b"\n" {
                client.read_exact(&mut byte).unwrap();
            }
            client.write_all(answer).unwrap();
        });
        s.fails(8, &["volume", "list"], &[word, "control.sock"]);
        dying.join().unwrap();
    }
}

#[test]
fn without_a_free_descriptor_clients_wait_and_the_log_says_so_once() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let s = Scratch::new();
    let server = s.serve();
    s.ok(&["volume", "list"]);
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    let set = |most| prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(1024) }).unwrap();
    set(3);
    let mut client = UnixStream::connect(s.data.join("control.sock")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"{\"request\": {\"action\": \"key-list\"}}\n").unwrap();
    let words = "accept a command's connection";
    wait_until("it is logged", || s.log().contains(words));
    set(1024);
    assert!(said(client).contains("\"reply\""));
    assert_eq!(s.log().matches(words).count(), 1, "{}", s.log());
    assert_eq!(server.stop(), 0);
}
