//! The command line when its output cannot be written, when descriptors are missing, and when it is interrupted.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs `coffer ARGS` under a shell's redirections.
fn shell(s: &Scratch, redirect: &str, args: &[&str]) -> Output {
    let inner = s.command(args);
    let mut outer = Command::new("/bin/sh");
    outer.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")]).arg(inner.get_program()).args(inner.get_args());
    output(outer.env_remove("COFFER_DATA").stdin(Stdio::null()))
}

/// Runs it with its output in a pipe that no one reads.
fn unread(s: &Scratch, args: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    output_keeping(s.command(args).stdout(writer))
}

fn output_keeping(command: &mut Command) -> Output {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let out = child.wait_with_output().unwrap();
    Output {
        code: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
        stdout: String::new(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

#[test]
fn what_cannot_be_printed_is_no_success() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let looks = [
        &["volume", "list"][..],
        &["-q", "volume", "list"],
        &["--json", "volume", "show", "v"],
        &["status"],
        &["doctor"],
        &["audit", "list"],
        &["volume", "grow", "v", "--size", "2MiB"],
        &["--help"],
        &["volume", "create", "--help"],
        &["--version"],
    ];
    for args in looks {
        for (redirect, why) in [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")] {
            let out = shell(&s, redirect, args);
            assert_eq!(out.code, 1, "{args:?} {redirect}: {out:?}");
            assert!(out.stderr.contains("write to standard output") && out.stderr.contains(why), "{args:?}: {out:?}");
        }
    }
    // Whoever closed a pipe wanted no more.
    for args in [&["volume", "list"][..], &["--help"], &["--json", "status"]] {
        let out = unread(&s, args);
        assert_eq!((out.code, &*out.stderr), (0, ""), "{args:?}");
    }
}

#[test]
fn a_token_that_nobody_saw_is_taken_back() {
    let s = Scratch::new();
    let key = s.id(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let grantee = s.json(&["key", "show", &key])["arn"].as_str().unwrap().replace(&format!("key/{key}"), "user/bob");
    let grantee = grantee.replace(":kms:us-east-1:", ":iam::");
    let token = |name| ["access", "token", name, "--volume", "v"];
    let grant = ["key", "grant", "create", "alias/k", "--grantee", &grantee, "--operation", "Decrypt"];
    let session = |s: &Scratch| {
        for flag in [&[][..], &["-q"], &["--json"]] {
            for args in [&token("ci")[..], &grant] {
                let args = [flag, args].concat();
                let out = shell(s, ">/dev/full", &args);
                assert_eq!(out.code, 1, "{args:?}: {out:?}");
                assert!(out.stderr.contains("revoked") && out.stderr.contains("No space left"), "{out:?}");
                let out = unread(s, &args);
                assert_eq!(out.code, 1, "{args:?}: {out:?}");
                assert!(out.stderr.contains("revoked"), "{out:?}");
                let out = shell(s, ">&-", &args);
                assert_eq!(out.code, 1, "{args:?}: {out:?}");
                assert!(out.stderr.contains("standard output is closed"), "{out:?}");
                assert!(
                    s.ids(&["access", "list"]).is_empty() && s.ids(&["key", "grant", "list", "alias/k"]).is_empty()
                );
            }
        }
    };
    session(&s);
    let server = s.serve();
    session(&s);
    drop(server);
    // One that was printed stays. The token of a named grant can be issued again: nothing is revoked.
    assert!(s.id(&token("ci")).starts_with("tok-"));
    let named = [&grant[..], &["--name", "mine"]].concat();
    let before = s.json(&named);
    assert_eq!(shell(&s, ">/dev/full", &named).code, 1);
    let again = s.json(&named);
    assert!(again["token"].is_string() && again["token"] == before["token"] && again["id"] == before["id"]);
    assert_eq!((s.ids(&["access", "list"]).len(), s.ids(&["key", "grant", "list", "alias/k"]).len()), (1, 1));
}

#[test]
fn a_client_that_is_gone_before_its_token_comes_leaves_none() {
    use std::io::Write;
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let _server = s.serve();
    let mut client = std::os::unix::net::UnixStream::connect(s.data.join("control.sock")).unwrap();
    let request = r#"{"request":{"action":"access-token","name":"ci","user":null,"volumes":["v"],"all":false}}"#;
    client.write_all(request.as_bytes()).unwrap();
    client.shutdown(std::net::Shutdown::Read).unwrap();
    client.write_all(b"\n").unwrap();
    wait_until("the token is taken back", || s.log().contains("revoked"));
    let events = s.json(&["audit", "list"]).to_string();
    assert!(events.contains("MakeTlsToken") && events.contains("DenyTlsClient"), "{events}");
    assert!(s.ids(&["access", "list"]).is_empty());
}

#[test]
fn nothing_panics_when_standard_error_takes_nothing() {
    let s = Scratch::new();
    for redirect in ["2>/dev/full", "2>&-"] {
        assert_eq!(shell(&s, redirect, &["volume", "show", "none"]).code, 4, "{redirect}");
        assert_eq!(shell(&s, redirect, &["--json", "volume", "show", "none"]).code, 4, "{redirect}");
    }
    s.ok(&["volume", "create", "--size", "128MiB", "--name", "v"]);
    let out = s.path("image");
    let export = ["--json", "volume", "export", "v", "--sealed", out.to_str().unwrap()];
    assert_eq!(shell(&s, "2>/dev/full", &export).code, 0, "progress is not what was asked for");
    // A server whose log cannot be written serves all the same.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut server = s.command(&["serve"]).stderr(writer).spawn().unwrap();
    let socket = s.data.join("control.sock");
    wait_until("the server answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    std::fs::remove_file(&socket).unwrap(); // is logged
    wait_until("the socket is there again", || socket.exists());
    assert_eq!(s.json(&["status"])["daemon"], server.id());
    assert_eq!(end(&mut server, rustix::process::Signal::TERM), 0);
}

#[test]
fn missing_descriptors_are_not_taken_by_files_of_data() {
    let s = Scratch::new();
    let out = shell(&s, "<&- >&- 2>&-", &["volume", "create", "--size", "1MiB", "--name", "v"]);
    assert_eq!((out.code, out.stdout, out.stderr), (1, String::new(), String::new()), "its facts went nowhere");
    let shown = s.ok(&["volume", "show", "v"]).stdout;
    assert!(shown.contains("available"), "{shown}");
    assert_eq!(shell(&s, "<&- >&- 2>&-", &["volume", "show", "none"]).code, 4);
    s.ok(&["audit", "verify"]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 4096));
    drop(server);
    s.ok(&["doctor"]);
}

#[test]
fn a_passphrase_is_not_asked_for_where_there_is_no_terminal() {
    if !requires("setsid") {
        return;
    }
    let s = Scratch::empty();
    let inner = s.command(&["init", "--passphrase"]);
    let mut outer = Command::new("setsid");
    let out = output(outer.arg("-w").arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null()));
    assert_eq!(out.code, 2, "{out:?}");
    assert!(out.stderr.contains("no terminal") && out.stderr.contains("--passphrase-fd"), "{out:?}");
    assert!(!s.data.join("root.json").exists());
}

/// A pseudoterminal: the person's side and the programs' side.
fn terminal() -> (File, File) {
    use std::os::fd::AsRawFd;
    let open = |path: &str| File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    let person = open("/dev/ptmx");
    let (mut number, unlocked) = (0i32, 0i32);
    // SAFETY: both requests read or write one int, which lives for the length of the call.
    let done = unsafe {
        libc::ioctl(person.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) == 0
            && libc::ioctl(person.as_raw_fd(), libc::TIOCGPTN, &raw mut number) == 0
    };
    assert!(done);
    (person, open(&format!("/dev/pts/{number}")))
}

/// Reads what appears on a terminal, up to these words.
fn shown(person: &mut File, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        let mut byte = [0];
        person.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn a_passphrase_is_not_shown_and_ctrl_c_leaves_the_terminal_as_it_was() {
    use rustix::termios::{LocalModes, tcgetattr};
    if !requires("setsid") {
        return;
    }
    let s = Scratch::empty();
    let start = |tty: &File| {
        let inner = s.command(&["init", "--passphrase"]);
        let mut outer = Command::new("setsid");
        outer.args(["-c", "-w"]).arg(inner.get_program()).args(inner.get_args()).stdin(tty.try_clone().unwrap());
        outer.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for (typed, code, words) in [
        (&[&b"\x03"[..]][..], 130, "passphrase prompt: interrupted"),
        (&[b"a long secret\x03"], 130, "passphrase prompt: interrupted"),
        (&[b"a long secret\n", b"another secret\n"], 2, "do not match"),
    ] {
        let (mut person, tty) = terminal();
        let before = tcgetattr(&tty).unwrap().local_modes;
        assert!(before.contains(LocalModes::ECHO | LocalModes::ISIG));
        let child = start(&tty);
        let mut seen = String::new();
        for text in typed {
            seen.push_str(&shown(&mut person, ": "));
            std::io::Write::write_all(&mut person, text).unwrap();
        }
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(tcgetattr(&tty).unwrap().local_modes, before);
        assert!(!seen.contains("secret"), "{seen}");
    }
}

fn end(child: &mut Child, signal: rustix::process::Signal) -> i32 {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_interrupted_export_leaves_nothing_and_can_be_done_again() {
    use rustix::process::Signal;
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "2GiB", "--name", "v"]);
    let folder = s.path("out");
    std::fs::create_dir(&folder).unwrap();
    let out = folder.join("image");
    let args = ["--json", "volume", "export", "v", "--sealed", out.to_str().unwrap()];
    for signal in [Signal::INT, Signal::KILL] {
        let mut export = s.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Its progress fills the pipe, so it is at work until it is interrupted.
        let pipe = export.stderr.take().unwrap();
        rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
        let mut progress = BufReader::with_capacity(128, pipe);
        let mut line = String::new();
        progress.read_line(&mut line).unwrap();
        assert!(line.contains("export"), "{line}");
        assert!(!out.exists(), "half an image has no name");
        assert_ne!(end(&mut export, signal), 0);
        assert_eq!(names(&folder), [""; 0], "{signal:?}");
    }
    s.ok(&args[1..]);
    assert_eq!(out.metadata().unwrap().len(), 2 << 30);
    assert_eq!(names(&folder), ["image"]);
}

#[test]
fn a_key_that_could_not_be_written_is_in_no_file() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    let folder = s.path("out");
    std::fs::create_dir(&folder).unwrap();
    let clear = folder.join("clear");
    let args = ["key", "generate-data-key", "alias/k", "--plaintext-out", clear.to_str().unwrap()];
    assert_eq!(shell(&s, ">/dev/full", &args).code, 1);
    assert_eq!(shell(&s, ">&-", &args).code, 1);
    assert_eq!(names(&folder), [""; 0], "a clear key without its blob");
    s.ok(&["key", "disable", "alias/k"]);
    assert_eq!(s.coffer(&args).code, 6);
    assert_eq!(names(&folder), [""; 0]);
    s.ok(&["key", "enable", "alias/k"]);
    s.coffer(&args);
    assert_eq!(names(&folder), ["clear"]);
}

/// Starts the demo and reads its output until a volume was written.
fn demo_at_work(s: &Scratch, scratch: &Path) -> Child {
    let mut demo = s.command(&["demo", "--files", "4MiB", "--dir", scratch.to_str().unwrap()]);
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains(" write ")), "it ended before it wrote anything");
    demo
}

fn is_mounted(scratch: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts").unwrap().contains(scratch.to_str().unwrap())
}

#[test]
fn an_interrupted_demo_takes_down_what_it_put_up_and_the_next_one_does_it_for_a_killed_one() {
    use rustix::process::Signal;
    if !requires("nbdcopy") {
        return;
    }
    let s = Scratch::empty();
    let scratch = s.path("scratch");
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = demo_at_work(&s, &scratch);
        // No one reads on: that must not end it.
        let mut rest = demo.stdout.take().unwrap();
        let reading = std::thread::spawn(move || rest.read_to_end(&mut Vec::new()).unwrap());
        assert_eq!(end(&mut demo, signal), 130);
        reading.join().unwrap();
        assert!(!scratch.exists() && !is_mounted(&scratch), "{signal:?}");
    }
    let mut demo = demo_at_work(&s, &scratch);
    assert_eq!(end(&mut demo, Signal::KILL), 137);
    let lock = File::open(scratch.join("data/lock")).unwrap();
    assert!(coffer::sys::ofd_is_locked(&lock, 0, 1).unwrap(), "its server lives");
    let out = s.coffer(&["demo", "--files", "4MiB", "--dir", scratch.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stdout.contains("left behind by a killed demo"), "{}", out.stdout);
    assert!(!coffer::sys::ofd_is_locked(&lock, 0, 1).unwrap(), "its server was ended");
    assert!(!scratch.exists() && !is_mounted(&scratch));
}

#[test]
fn doctor_says_what_it_can_of_an_installation_that_does_not_open() {
    let findings = |s: &Scratch, code: i32| {
        let out = s.coffer(&["--json", "doctor"]);
        assert_eq!(out.code, code, "{out:?}");
        let all = out.json()["findings"].as_array().unwrap().clone();
        let of = |f: &serde_json::Value| {
            let text = |name: &str| f[name].as_str().unwrap().to_owned();
            (text("check"), text("grade"), text("message"))
        };
        all.iter().map(of).collect::<Vec<_>>()
    };
    let has = |all: &[(String, String, String)], check: &str, grade: &str, words: &str| {
        let found = all.iter().any(|(c, g, m)| c == check && g == grade && m.contains(words));
        assert!(found, "no {grade} of {check} says {words:?}: {all:#?}");
    };
    // The key file is lost.
    let s = Scratch::new();
    std::fs::rename(&s.key, s.path("away")).unwrap();
    let all = findings(&s, 1);
    has(&all, "installation", "error", "does not open");
    has(&all, "key file", "error", s.key.to_str().unwrap());
    has(&all, "key file", "error", "--root-key-file");
    for check in ["root file", "catalog", "audit", "volumes", "repository"] {
        has(&all, check, "ok", "");
    }
    assert!(s.coffer(&["doctor"]).stdout.contains("ERROR    key file"));
    // The catalog is damaged.
    let s = Scratch::new();
    std::fs::write(s.data.join("catalog.db"), noise(1, 8192)).unwrap();
    let all = findings(&s, 7);
    has(&all, "installation", "error", "catalog");
    has(&all, "key file", "ok", s.key.to_str().unwrap());
    std::fs::remove_file(s.data.join("catalog.db")).unwrap();
    std::fs::create_dir(s.data.join("catalog.db")).unwrap();
    let out = s.coffer(&["--json", "doctor"]);
    assert!(out.code != 0 && out.json()["findings"].is_array(), "{out:?}");
    // Both root files are lost, and others may enter.
    let s = Scratch::new();
    for name in ["root.json", "root.b.json"] {
        std::fs::remove_file(s.data.join(name)).unwrap();
    }
    std::fs::set_permissions(&s.data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let all = findings(&s, 1);
    has(&all, "root file", "error", "root.json");
    has(&all, "files", "error", "chmod 700");
    // Where there is nothing to look at it says so, as before.
    Scratch::empty().fails(4, &["doctor"], &["not a coffer data directory"]);
}
