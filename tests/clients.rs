//! `coffer serve` against third-party clients: the nbd crate, libnbd and its tools, qemu, fio, a kernel file system.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;
#[path = "clients/fs.rs"]
mod fs;
#[path = "clients/shell.rs"]
mod shell;
#[path = "clients/status.rs"]
mod status;
#[path = "clients/tools.rs"]
mod tools;

use common::*;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A data directory with one volume, `web`.
fn with_volume(size: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", size, "--name", "web"]);
    scratch
}

/// Runs a client to its end; it must succeed. Returns its standard output.
#[track_caller]
fn good(command: &mut Command) -> String {
    let out = output(command);
    assert_eq!(out.code, 0, "{command:?}: {out:?}");
    out.stdout
}

/// Runs a client that must fail and print all of these words.
#[track_caller]
fn bad(command: &mut Command, words: &[&str]) {
    let out = output(command);
    assert_ne!(out.code, 0, "{command:?}: {out:?}");
    for word in words {
        assert!(out.stderr.contains(word), "{command:?} does not say {word:?}: {}", out.stderr);
    }
}

fn run(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn hash_of(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize().to_string()
}

/// Reads the whole volume with the hand-written client.
fn content(served: &Served<'_>, size: u64) -> Vec<u8> {
    let mut nbd = served.connect("web");
    let all = (0..size).step_by(MIB as usize).flat_map(|at| nbd.read(at, MIB.min(size - at) as u32)).collect();
    nbd.close();
    all
}

#[test]
fn the_nbd_crate_negotiates_reads_and_writes() {
    let s = with_volume("3MiB");
    let served = s.serve();
    let mut stream = UnixStream::connect(s.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let export = nbd::client::handshake(&mut stream, b"web").unwrap();
    assert_eq!((export.size, export.readonly, export.send_flush, export.send_trim), (3 * MIB, false, true, true));
    let mut client = nbd::client::NbdClient::new(stream, &export);
    let data = noise(1, 700_001);
    client.seek(SeekFrom::Start(524_000)).unwrap();
    client.write_all(&data).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(523_999)).unwrap();
    let mut back = vec![1; data.len() + 2];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, [&[0], &data[..], &[0]].concat());
    drop(client);

    let mut stream = UnixStream::connect(s.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    nbd::client::handshake(&mut stream, b"nope").map(drop).unwrap_err();
    drop(served);
}

#[test]
fn plain_tcp_is_served_on_loopback_when_asked_for_alone() {
    let s = with_volume("2MiB");
    s.fails(2, &["serve", "--listen", "tcp:127.0.0.1:10809"], &["no identity", "--insecure-loopback"]);
    for addr in ["0.0.0.0:10809", "[::]:10809", "192.0.2.1:10809"] {
        let place = format!("tcp:{addr}");
        s.fails(2, &["serve", "--insecure-loopback", "--listen", &place], &[addr, "only served on"]);
        s.fails(2, &["serve", "--listen", &place], &[addr, "only served on"]);
    }
    s.fails(2, &["serve", "--insecure-loopback", "--listen", "tcp:localhost"], &["not an address"]);
    s.fails(2, &["serve", "--listen", "vsock:1"], &["not an address"]);

    let served = s.serve_with(&["--insecure-loopback", "--listen", "tcp:127.0.0.1:0"]);
    let place = s.json(&["status"])["nbd"][0].as_str().unwrap().to_owned();
    let port = place.rsplit_once(':').unwrap().1;
    if !requires("nbdinfo") {
        return;
    }
    let uri = format!("nbd://127.0.0.1:{port}/web");
    assert_eq!(good(&mut run("nbdinfo", &["--size", &uri])).trim(), (2 * MIB).to_string());
    if requires("qemu-io") {
        let write = ["-f", "raw", "-c", "write -P 0x5a 1000 70000", "-c", "read -P 0x5a 1000 70000", &uri];
        let said = good(&mut run("qemu-io", &write));
        assert!(said.contains("wrote 70000/70000") && said.contains("read 70000/70000"), "{said}");
    }
    // Its Unix socket was not requested.
    assert!(UnixStream::connect(s.socket()).is_err());
    assert_eq!(served.stop(), 0);
}

#[test]
fn one_client_after_another() {
    let s = with_volume("1MiB");
    let served = s.serve();
    if !shell::requires_shell() {
        return;
    }
    let mut first = served.connect("web");
    first.write(0, b"mine");
    let me = format!("process {}", std::process::id());
    shell::refused(&s.uri("web"), &["volume web", &me]);
    // Another connection of the holder's process is accepted.
    let mut second = served.connect("web");
    first.flush();
    assert_eq!(second.read(0, 4), b"mine");
    first.close();
    shell::refused(&s.uri("web"), &["volume web", &me]);
    second.close();
    good(&mut shell::command(&s.uri("web"), "assert h.pread(4, 0) == b'mine'"));
}

#[test]
fn what_stands_where_the_socket_should_is_left_alone() {
    let s = with_volume("1MiB");
    let file = s.path("precious");
    std::fs::write(&file, "precious").unwrap();
    let place = format!("unix:{}", file.display());
    let out = s.coffer(&["serve", "--listen", &place]);
    assert!(out.code != 0 && out.stderr.contains("precious"), "{out:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    // A server of another data directory listens there: it keeps its socket.
    let served = s.serve();
    let other = Scratch::new();
    let place = format!("unix:{}", s.socket().display());
    let out = other.coffer(&["serve", "--listen", &place]);
    assert!(out.code != 0 && out.stderr.contains("nbd.sock"), "{out:?}");
    served.connect("web").close();
    // A killed server's socket is replaced.
    served.kill9();
    assert!(s.socket().exists());
    s.serve().connect("web").close();
}

/// A user who is neither owner nor root: nothing by default, then only what was allowed. Both are in the audit.
#[test]
fn other_users_of_this_machine_use_what_they_were_allowed() {
    if !shell::requires_shell() || !requires("setpriv") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        skip("root, to become another user");
        return;
    }
    let s = with_volume("1MiB");
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "db"]);
    // Only its owner may enter the data directory; the socket is where others can reach it.
    let open =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let socket = open.path().join("nbd.sock");
    let place = format!("unix:{}", socket.display());
    s.fails(2, &["serve", "--socket-mode", "1777"], &["at most 777"]);
    let _served = s.serve_with(&["--listen", &place, "--socket-mode", "666"]);
    let uri = |name: &str| format!("nbd+unix:///{name}?socket={}", socket.display());
    let nobody = |name: &str, script: &str| {
        let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-m", "nbd"];
        let mut command = run("setpriv", &as_nobody);
        command.args(["-u", &uri(name), "-c", script]).env("LIBNBD_DEBUG", "1");
        command
    };
    bad(&mut nobody("web", "h.pread(1, 0)"), &["the local user uid:65534 may not use volume web"]);
    s.fails(2, &["access", "allow", "uid:me", "--volume", "web"], &["uid:me"]);
    s.ok(&["access", "allow", "uid:65534", "--volume", "web"]);
    good(&mut nobody("web", "h.pwrite(b'theirs', 0)"));
    bad(&mut nobody("db", "h.pread(1, 0)"), &["may not use volume db"]);
    bad(&mut nobody("nope", "h.pread(1, 0)"), &["may not use volume nope"]);
    let audit = s.ok(&["audit", "list"]).stdout;
    assert!(audit.contains("user/uid-65534"), "{audit}");
    s.ok(&["access", "deny", "uid:65534"]);
    bad(&mut nobody("web", "h.pread(1, 0)"), &["may not use volume web"]);
    // Root is served as before.
    good(&mut shell::command(&uri("web"), "assert h.pread(6, 0) == b'theirs'"));
}
