//! `coffer serve` under a service manager: inherited sockets, notifications, and a server that replaces itself.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::io::ErrorKind;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn with_volume() -> Scratch {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", "8MiB", "--name", "web"]);
    scratch
}

/// Ends a process that the test started, whatever happens to the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// systemd's own program listens, and starts coffer with the socket when a client connects.
#[test]
fn sockets_that_systemd_opened_are_served() {
    if !requires("systemd-socket-activate") {
        return;
    }
    let s = with_volume();
    let socket = s.path("given.sock");
    let mut activate = Command::new("systemd-socket-activate");
    activate.arg("--listen").arg(&socket).arg("--setenv=PATH").arg(COFFER);
    activate.arg("--data").arg(&s.data).arg("serve").stdin(Stdio::null());
    let log = std::fs::File::create(s.path("serve.log")).unwrap();
    let mut server = Ended(activate.stderr(log).spawn().unwrap());
    // The client that triggers the start is served like any other. A socket file may exist before anything listens on
    // it.
    let mut first = None;
    wait_until("systemd listens", || {
        first = match Nbd::open(&socket, "web") {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => None,
            opened => Some(opened.unwrap()),
        };
        first.is_some()
    });
    let mut nbd = first.unwrap();
    nbd.write(0, b"given");
    assert!(!s.socket().exists(), "it opened a socket that nobody asked for");
    let status = s.json(&["status"]);
    assert_eq!(status["nbd"], serde_json::json!([format!("unix:{}", socket.display())]));
    nbd.close();
    signal(server.0.id(), "TERM");
    assert!(server.0.wait().unwrap().success());
    assert!(socket.exists(), "the socket is systemd's to remove");
}

/// An inherited TCP socket obeys the rules of one that is requested.
#[test]
fn plain_tcp_that_was_given_needs_the_same_words() {
    if !requires("systemd-socket-activate") {
        return;
    }
    let s = with_volume();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut activate = Command::new("systemd-socket-activate");
    activate.arg("--listen").arg(format!("127.0.0.1:{port}")).arg(COFFER).arg("--data").arg(&s.data).arg("serve");
    let server = activate.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("systemd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let out = server.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(2) && said.contains("--insecure-loopback"), "{said}");
}

#[test]
fn the_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let s = with_volume();
    let path = s.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = s.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000").stderr(Stdio::null());
    let mut server = Ended(command.spawn().unwrap());
    let hear = |what: &str| {
        let mut buf = [0; 4096];
        loop {
            let n = manager.recv(&mut buf).unwrap_or_else(|e| panic!("waited for {what}: {e}"));
            let said = String::from_utf8_lossy(&buf[..n]).into_owned();
            if said.lines().any(|line| line == what) {
                return said;
            }
        }
    };
    assert!(hear("READY=1").contains("STATUS=serving"));
    Nbd::open(&s.socket(), "web").unwrap().close();
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    signal(server.0.id(), "USR2");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    signal(server.0.id(), "TERM");
    hear("STOPPING=1");
    assert!(server.0.wait().unwrap().success());
}

/// An upgrade: the server executes a new image in the same process. No one who connects meanwhile is rejected, and what
/// was acknowledged before is there afterwards.
#[test]
fn a_server_that_takes_its_own_place_turns_nobody_away() {
    let s = with_volume();
    let tcp = ["--insecure-loopback", "--listen", "tcp:127.0.0.1:0", "--listen"];
    let place = format!("unix:{}", s.socket().display());
    let served = s.serve_with(&[&tcp[..], &[&place]].concat());
    let before = s.json(&["status"]);
    let pid = before["daemon"].as_u64().unwrap() as u32;
    let (stop, connects) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // The greeting comes from the old server or the new one; a refusal would be an error of the client.
                let mut stream = UnixStream::connect(s.socket()).expect("a server listens at every moment");
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut first = [0; 1];
                let _ = std::io::Read::read(&mut stream, &mut first);
                connects.fetch_add(1, Ordering::SeqCst);
            }
        });
        for round in 0..3u64 {
            let mut nbd = Nbd::open(&s.socket(), "web").unwrap();
            nbd.write(round * 4096, &[round as u8 + 1; 4096]);
            let seen = connects.load(Ordering::SeqCst);
            wait_until("somebody connects", || connects.load(Ordering::SeqCst) > seen);
            signal(pid, "USR2");
            // The old server ends this connection; the next one reaches the new server.
            while nbd.try_read(0, 1).is_ok() {}
            let mut nbd = Nbd::open(&s.socket(), "web").unwrap();
            for old in 0..=round {
                assert_eq!(nbd.read(old * 4096, 4096), [old as u8 + 1; 4096]);
            }
            nbd.close();
            wait_until("the new server answers", || s.coffer(&["status"]).code == 0);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let after = s.json(&["status"]);
    assert_eq!((&after["nbd"], &after["daemon"]), (&before["nbd"], &before["daemon"]), "same sockets, same process");
    assert_eq!(served.stop(), 0);
    assert!(!s.socket().exists());
}

/// A signal to stop that comes right after the one to upgrade is obeyed, by the old program or the new one.
#[test]
fn a_server_that_is_asked_to_stop_while_it_takes_its_own_place_stops() {
    let s = with_volume();
    for _ in 0..5 {
        let mut server = Ended(s.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap());
        wait_until("the server answers", || s.coffer(&["status"]).stdout.contains("unix:"));
        signal(server.0.id(), "USR2");
        signal(server.0.id(), "TERM");
        wait_until("it has stopped", || server.0.try_wait().unwrap().is_some());
    }
}

/// systemd loads the units of tools/systemd without warnings, and rates the service's hardening as good.
#[test]
fn the_units_are_good_and_hardened() {
    if !requires("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["coffer.service", "coffer.socket"] {
        let text = std::fs::read_to_string(format!("{}/tools/systemd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        // The program and the manual are elsewhere here.
        let text = text.replace("/usr/bin/coffer --data", &format!("{COFFER} --data"));
        let text: String = text.lines().filter(|l| !l.starts_with("Documentation")).map(|l| format!("{l}\n")).collect();
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let unit = dir.path().join("coffer.service");
    let verify = output(Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit));
    let complaints: Vec<_> = verify.stderr.lines().filter(|l| l.contains("coffer")).collect();
    assert!(verify.code == 0 && complaints.is_empty(), "{verify:?}");
    // 10 is a service without any protection; systemd calls up to 2 OK or better.
    let mut security = Command::new("systemd-analyze");
    let said = output(security.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&unit));
    assert_eq!(said.code, 0, "{}", said.stdout.lines().last().unwrap_or(&said.stderr));
}
