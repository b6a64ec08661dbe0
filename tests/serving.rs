//! `coffer serve` as a process: what prevents its start, what it survives, and what its clients and its log are told.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::Command;

fn rig() -> Scratch {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "web"]);
    s
}

/// Runs `coffer` from a shell that has changed its limits.
fn limited(s: &Scratch, limits: &str, args: &[&str]) -> Output {
    let inner = s.command(args);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("{limits}; exec \"$0\" \"$@\"")).arg(inner.get_program()).args(inner.get_args());
    output(shell.env_remove("COFFER_DATA").env_remove("COFFER_LOG"))
}

#[test]
fn a_directory_without_an_installation_is_left_as_it_is() {
    let s = Scratch::empty();
    s.fails(4, &["serve"], &["not a coffer data directory", "coffer init"]);
    assert!(!s.data.exists());
    std::fs::create_dir(&s.data).unwrap();
    for args in [&["serve"][..], &["serve", "web"], &["serve", "--run", "true"], &["volume", "list"]] {
        s.fails(4, args, &["not a coffer data directory", "coffer init"]);
    }
    assert_eq!(std::fs::read_dir(&s.data).unwrap().count(), 0, "no lock file, nothing");
}

#[test]
fn tls_without_a_tcp_address_is_refused() {
    let s = rig();
    let tls = s.path("tls");
    s.ok(&["tls", "init", "--dir", tls.to_str().unwrap()]);
    let tls = tls.to_str().unwrap();
    let unix = format!("unix:{}", s.path("other.sock").display());
    s.fails(2, &["serve", "--tls", tls, "--run", "true"], &["--tls", "TCP", "--listen tcp:"]);
    s.fails(2, &["serve", "--tls", tls, "--listen", &unix, "--run", "true"], &["--tls", "TCP"]);
    s.ok(&["serve", "--tls", tls, "--listen", "tcp:127.0.0.1:0", "--run", "true"]);
}

#[test]
fn the_uri_of_a_socket_with_any_name_is_one_that_clients_take() {
    let s = rig();
    let odd = s.path("a b&c=d#e%20.sock");
    let listen = format!("unix:{}", odd.display());
    let said =
        s.ok(&["serve", "web", "--listen", &listen, "--run", "printf '%s\\n%s' \"$uri\" \"$unixsocket\""]).stdout;
    let (uri, path) = said.split_once('\n').unwrap();
    assert!(uri.starts_with("nbd+unix:///web?socket=/") && uri.ends_with("/a%20b%26c%3Dd%23e%2520.sock"), "{uri}");
    assert_eq!(Path::new(path), odd);
    if requires("nbdinfo") {
        s.ok(&["serve", "web", "--listen", &listen, "--run", "nbdinfo --size \"$uri\""]);
    }
}

#[test]
fn too_few_descriptors_are_said_at_the_start() {
    let s = rig();
    let out = limited(&s, "ulimit -n 40", &["serve", "--run", "true"]);
    assert_eq!(out.code, 2, "{out:?}");
    assert!(out.stderr.contains("RLIMIT_NOFILE") && out.stderr.lines().count() < 5, "{}", out.stderr);
    let out = limited(&s, "ulimit -n 256", &["serve", "--run", "true"]);
    assert_eq!(out.code, 0, "{out:?}");
}

#[test]
fn more_clients_than_descriptors_are_turned_away_and_the_rest_is_served() {
    let s = rig();
    // There are fewer descriptors left for connections than clients.
    let script = "ulimit -n 120; exec \"$0\" \"$@\"";
    let inner = s.command(&["serve"]);
    let log = std::fs::File::create(s.path("few.log")).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args()).env_remove("COFFER_DATA");
    let mut server = shell.stderr(log).spawn().unwrap();
    wait_until("it listens", || s.socket().exists());
    let first = Nbd::open(&s.socket(), "web");
    let many: Vec<_> = (0..200).map(|_| Nbd::open(&s.socket(), "web")).collect();
    let mut first = first.unwrap();
    assert_eq!(first.read(0, 4), [0; 4], "who is in stays in");
    assert!(many.iter().any(Result::is_err), "all 200 got in");
    // Verbs still work: some descriptors are not available to clients.
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "more"]);
    drop((many, first));
    wait_until("another gets in", || Nbd::open(&s.socket(), "web").is_ok());
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let said = std::fs::read_to_string(s.path("few.log")).unwrap();
    assert!(said.lines().count() < 30 && said.contains("not served"), "{said}");
}

#[test]
fn signals_that_mean_nothing_do_not_end_a_server() {
    let s = rig();
    let server = s.serve();
    let mut c = server.connect("web");
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    for signal in [Signal::HUP, Signal::USR1, Signal::XFSZ, Signal::PIPE, Signal::ALARM, Signal::PROF, Signal::VTALARM]
    {
        kill_process(pid, signal).unwrap();
    }
    wait_until("they are logged", || s.log().contains("SIGHUP is ignored"));
    c.write(0, b"on");
    assert_eq!(c.read(0, 2), b"on");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_end() {
    let s = rig();
    // 512-byte blocks: the existing files fit, a volume of 1 GiB does not.
    let out = limited(&s, "ulimit -f 20000", &["volume", "create", "--size", "1GiB", "--name", "big"]);
    assert!(out.code > 0 && out.code < 128, "killed by a signal: {out:?}");
    assert!(out.stderr.contains("File too large"), "{}", out.stderr);
    s.ok(&["volume", "show", "web"]);
}

#[test]
fn a_damaged_volume_is_refused_as_what_it_is_and_logged_once() {
    let s = rig();
    let file = std::fs::File::options().write(true).open(s.file("web")).unwrap();
    file.set_len(100).unwrap();
    let server = s.serve();
    let said = Nbd::open(&s.socket(), "web").err().unwrap().to_string();
    assert!(said.starts_with("0x80000002"), "ERR_POLICY, and not that there is no such export: {said}");
    assert!(said.contains("web"), "{said}");
    wait_until("it is logged", || s.log().contains("refused"));
    assert_eq!(s.log().matches("export \"web\" is refused").count(), 1, "{}", s.log());
    std::fs::remove_file(s.file("web")).unwrap();
    let said = Nbd::open(&s.socket(), "web").err().unwrap().to_string();
    assert!(said.starts_with("0x80000002") && said.contains("missing"), "{said}");
    // An unknown name gets the same error as before; a token is not logged.
    assert!(Nbd::open(&s.socket(), "none?t=tok-secret").err().unwrap().to_string().starts_with("0x80000006"));
    wait_until("it is logged", || s.log().contains("\"none\""));
    assert!(!s.log().contains("secret"), "{}", s.log());
    assert_eq!(server.stop(), 0);
}
