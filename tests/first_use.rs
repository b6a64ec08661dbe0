//! What a new user runs into: flags that contradict each other, lists that replace, and refusals without a way on.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn with_volume() -> Scratch {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "web", "--key", "alias/k"]);
    s
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Stops a process, and waits until each of its threads has stopped.
fn stop(pid: u32) {
    send(pid, Signal::STOP);
    wait_until("all threads are stopped", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let states: Vec<_> =
            tasks.map(|t| std::fs::read_to_string(t.path().join("status")).unwrap_or_default()).collect();
        states.iter().all(|status| status.contains("State:\tT"))
    });
}

#[test]
fn a_passphrase_and_a_key_file_are_not_both_taken() {
    let s = Scratch::empty();
    let file = s.path("other.key");
    let file = file.to_str().unwrap();
    for args in [&["init", "--key-file", file][..], &["init", "--passphrase", "--key-file", file]] {
        let out = with_passphrase(&s, "a long enough one\n", args);
        assert_eq!(out.code, 2, "{out:?}");
        assert!(out.stderr.contains("--key-file"), "{out:?}");
    }
    assert!(!s.data.join("root.json").exists());
}

#[test]
fn a_name_in_an_encryption_context_has_one_value() {
    let s = with_volume();
    let word = s.path("word");
    std::fs::write(&word, "word").unwrap();
    let word = word.to_str().unwrap();
    let twice = |flag: &'static str| [flag, "a=x", flag, "a=y"];
    let more_than_once = &["\"a\"", "more than once"];
    for flag in ["--context-equals", "--context-subset"] {
        let grant =
            ["key", "grant", "create", "alias/k", "--grantee", "arn:aws:iam::1:user/a", "--operation", "Decrypt"];
        s.fails(2, &[&grant[..], &twice(flag)].concat(), more_than_once);
    }
    for verb in [&["encrypt", "alias/k", "--input", word][..], &["decrypt", "--input", word]] {
        s.fails(2, &[&["key"], verb, &twice("--context")].concat(), more_than_once);
    }
    let moves = ["key", "re-encrypt", "alias/k", "--input", word];
    s.fails(2, &[&moves[..], &twice("--new-context")].concat(), more_than_once);
    s.fails(2, &[&["key", "generate-data-key", "alias/k"][..], &twice("--context")].concat(), more_than_once);
    s.fails(
        2,
        &["key", "encrypt", "alias/k", "--input", word, "--context", "ab"],
        &["\"ab\" is not of the form name=value"],
    );
}

#[test]
fn allowing_says_what_it_replaces_and_can_add() {
    let s = with_volume();
    for name in ["web2", "web3"] {
        s.ok(&["volume", "create", "--size", "1MiB", "--name", name]);
    }
    let rounds = |s: &Scratch| {
        let allow = |args: &[&str]| s.ok(&[&["access", "allow", "alice"], args].concat()).stdout;
        assert_eq!(allow(&["--volume", "web", "--volume", "web2", "--user", "al"]), "alice may now use: web, web2\n");
        assert_eq!(allow(&["--add", "--volume", "web3"]), "alice may now use: web, web2, web3 (before: web, web2)\n");
        let listed = &s.json(&["access", "list"])["clients"][0];
        assert!(listed["principal"].as_str().unwrap().ends_with(":user/al"), "the user stays: {listed}");
        assert_eq!(allow(&["--volume", "web3"]), "alice may now use: web3 (before: web, web2, web3)\n");
        assert_eq!(allow(&["--all-volumes"]), "alice may now use: all (before: web3)\n");
        assert_eq!(allow(&["--add", "--volume", "web"]), "alice may now use: all (before: all)\n");
        assert_eq!(s.json(&["tls", "allow", "alice", "--volume", "web"])["volumes"], serde_json::json!(["web"]));
        s.ok(&["access", "deny", "alice"]);
        assert_eq!(allow(&["--add", "--volume", "web"]), "alice may now use: web\n");
        s.ok(&["access", "deny", "alice"]);
    };
    rounds(&s);
    let server = s.serve();
    rounds(&s);
    drop(server);
    let help = s.ok(&["access", "allow", "--help"]).stdout;
    assert!(help.contains("replace") && help.contains("--add"), "{help}");
}

#[test]
fn adding_leaves_out_volumes_that_were_deleted() {
    let s = with_volume();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "old"]);
    s.ok(&["access", "allow", "alice", "--volume", "old"]);
    s.ok(&["volume", "delete", "old"]);
    s.ok(&["access", "allow", "alice", "--add", "--volume", "web"]);
    assert_eq!(s.json(&["access", "list"])["clients"][0]["volumes"], serde_json::json!(["web"]));
}

#[test]
fn a_passphrase_is_read_once_for_several_requests() {
    let s = Scratch::empty();
    let phrase = "a long enough one\n";
    let run = |args: &[&str]| {
        let out = with_passphrase(&s, phrase, args);
        assert_eq!(out.code, 0, "{args:?}: {out:?}");
        out.stdout
    };
    run(&["init"]);
    run(&["volume", "create", "--size", "1MiB", "--name", "web"]);
    // A pipe: what was read of it is gone.
    let inner = s.command(&["--passphrase-fd", "0", "access", "allow", "alice", "--volume", "web"]);
    let mut command = inner;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), phrase.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "alice may now use: web\n", "{out:?}");
}

/// A command that runs while the server does not.
fn asking(s: &Scratch, args: &[&str]) -> Child {
    s.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_server_that_does_not_answer_is_named_and_waited_for() {
    let s = with_volume();
    let server = s.serve();
    stop(server.pid());
    let loud = asking(&s, &["volume", "list"]);
    let quiet = asking(&s, &["--quiet", "volume", "list"]);
    std::thread::sleep(Duration::from_secs(6));
    send(server.pid(), Signal::CONT);
    let (loud, quiet) = (loud.wait_with_output().unwrap(), quiet.wait_with_output().unwrap());
    assert!(loud.status.success() && quiet.status.success(), "{loud:?} {quiet:?}");
    let said = format!("coffer: waiting for the server (pid {}) to answer\n", server.pid());
    assert_eq!(String::from_utf8_lossy(&loud.stderr), said);
    assert_eq!(String::from_utf8_lossy(&quiet.stderr), "");
}

#[test]
fn a_server_that_accepts_nothing_is_unreachable_in_ten_seconds() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let s = with_volume();
    let server = s.serve();
    stop(server.pid());
    let address = SocketAddrUnix::new(s.data.join("control.sock")).unwrap();
    let mut queue = Vec::new();
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        if connect(&socket, &address).is_err() {
            break;
        }
        queue.push(UnixStream::from(socket));
    }
    let begun = Instant::now();
    s.fails(8, &["volume", "list"], &["does not accept connections"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    send(server.pid(), Signal::CONT);
}

#[test]
fn serve_run_passes_signals_on_and_ends_with_its_command() {
    let s = with_volume();
    for (signal, command, code) in [
        (Signal::TERM, "trap 'echo told >>told; exit 0' TERM; touch up; while :; do sleep 0.05; done", 143),
        (Signal::INT, "touch up; sleep 100; true", 130),
        (Signal::TERM, "trap '' TERM; touch up; while :; do sleep 1; done", 143),
    ] {
        let up = s.path("up");
        let _ = std::fs::remove_file(&up);
        let mut command = {
            let mut c = s.command(&["serve", "web", "--run", command]);
            c.current_dir(up.parent().unwrap()).stdin(Stdio::null());
            c
        };
        let mut child = command.spawn().unwrap();
        wait_until("the command runs", || up.exists());
        send(child.id(), signal);
        wait_until("the server ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        s.ok(&["volume", "list"]);
    }
    assert_eq!(std::fs::read_to_string(s.path("told")).unwrap(), "told\n");
}

#[test]
fn serve_run_does_not_choose_among_volumes() {
    let s = with_volume();
    assert!(s.ok(&["serve", "--run", "echo \"$uri\""]).stdout.contains("/web?"), "there is one");
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "web2"]);
    s.fails(2, &["serve", "--run", "echo \"$uri\""], &["no export is named, and there are 2", "name the volume"]);
    assert!(s.ok(&["serve", "web2", "--run", "echo \"$uri\""]).stdout.contains("/web2?"));
}

/// Additions at the same time are all kept, and one after a deny brings nothing back.
#[test]
fn additions_to_what_a_client_may_use_are_made_by_the_server() {
    let s = with_volume();
    for n in 0..6 {
        s.ok(&["volume", "create", "--size", "1MiB", "--name", &format!("v{n}")]);
    }
    let _server = s.serve();
    let volumes = || s.json(&["access", "list"])["clients"][0]["volumes"].as_array().unwrap().len();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let s = &s;
            scope.spawn(move || s.ok(&["access", "allow", "uid:5", "--add", "--volume", &format!("v{n}")]));
        }
    });
    assert_eq!(volumes(), 6);
    s.ok(&["access", "deny", "uid:5"]);
    s.ok(&["access", "allow", "uid:5", "--add", "--volume", "v0"]);
    assert_eq!(volumes(), 1);
}

#[test]
fn who_is_locked_out_is_told_so_and_told_the_way_back() {
    let s = with_volume();
    let account = s.json(&["status"])["account"].as_str().unwrap().to_owned();
    let file = s.path("policy.json");
    let file = file.to_str().unwrap();
    let write = |principal: &str| {
        let text = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": {{"AWS": "arn:aws:iam::{account}:{principal}"}}, "Action": "kms:*", "Resource": "*"}}]}}"#
        );
        std::fs::write(file, text).unwrap();
    };
    let set = ["key", "policy", "set", "alias/k", file, "--bypass-policy-lockout-safety-check"];
    write("root");
    assert_eq!(s.ok(&set).stderr, "", "it locks nobody out");
    write("user/bob");
    let refusals = || {
        let all = s.json(&["audit", "list", "--limit", "1000"]);
        all["events"].as_array().unwrap().iter().filter(|e| e["record"]["result"] == "refused").count()
    };
    let before = refusals();
    let warned = s.ok(&set).stderr;
    assert_eq!(refusals(), before, "what succeeds leaves no refusal");
    assert!(warned.contains("warning") && warned.contains("locks you out"), "{warned}");
    s.fails(6, &["key", "policy", "show", "alias/k"], &["coffer key policy reset"]);
    s.fails(6, &["key", "disable", "alias/k"], &["coffer key policy"]);
    let key = ["key", "create", "--policy", file, "--bypass-policy-lockout-safety-check"];
    assert!(s.ok(&key).stderr.contains("locks you out"));
}

#[test]
fn an_alias_points_at_a_key_not_at_an_alias() {
    let s = with_volume();
    for verb in ["create", "update"] {
        let help = s.ok(&["key", "alias", verb, "--help"]).stdout;
        assert!(help.contains("Key id or ARN") && !help.contains("ARN or alias"), "{help}");
    }
}

#[test]
fn a_key_whose_deletion_was_cancelled_is_said_to_stay_disabled() {
    let s = with_volume();
    s.ok(&["key", "schedule-deletion", "alias/k"]);
    s.fails(1, &["key", "enable", "alias/k"], &["pending deletion", "coffer key cancel-deletion"]);
    let said = s.ok(&["key", "cancel-deletion", "alias/k"]).stderr;
    assert!(said.contains("stays disabled") && said.contains("coffer key enable"), "{said}");
    s.fails(4, &["key", "show", "alias/none"], &["alias/none is not found", "coffer key alias list"]);
}

#[test]
fn output_files_are_never_overwritten_and_no_key_is_used_before() {
    let s = with_volume();
    let taken = s.path("taken");
    std::fs::write(&taken, "word").unwrap();
    let (taken, lost) = (taken.to_str().unwrap().to_owned(), s.path("no/such/folder").to_str().unwrap().to_owned());
    let events = |s: &Scratch| s.json(&["audit", "list", "--limit", "500"])["events"].as_array().unwrap().len();
    let before = events(&s);
    for (out, code, words) in [(&taken, 1, "never overwritten"), (&lost, 4, "create its directory first")] {
        s.fails(code, &["key", "encrypt", "alias/k", "--input", &taken, "--out", out], &[words]);
        s.fails(code, &["volume", "export-key", "web", "--out", out], &[words]);
        s.fails(code, &["volume", "export", "web", out, "--sealed"], &[words]);
    }
    assert_eq!(events(&s), before, "nothing was audited, so nothing was used");
    std::fs::write(s.path("large"), vec![b'x'; 4097]).unwrap();
    let large = s.path("large");
    let args = ["key", "encrypt", "alias/k", "--input", large.to_str().unwrap()];
    s.fails(2, &args, &["longer than 4096 bytes", "generate-data-key"]);
}

#[test]
fn addresses_that_cannot_be_listened_on_say_why() {
    let s = with_volume();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = |place: &str| {
        vec!["serve", "--insecure-loopback", "--run", "true", "--listen"]
            .into_iter()
            .map(str::to_owned)
            .chain([place.to_owned()])
            .collect::<Vec<_>>()
    };
    let fails = |code: i32, place: &str, words: &[&str]| {
        let args = listen(place);
        s.fails(code, &args.iter().map(String::as_str).collect::<Vec<_>>(), words);
    };
    fails(5, &format!("tcp:{}", held.local_addr().unwrap()), &["in use", "choose another address"]);
    fails(4, &format!("unix:{}", s.path("no/such.sock").display()), &["create the directory first"]);
    fails(2, &format!("unix:{}", s.path(&"x".repeat(120)).display()), &["choose a shorter path"]);
}

#[test]
fn arguments_that_cannot_be_are_refused_with_what_can() {
    let s = with_volume();
    let create = |args: &[&'static str]| [&["volume", "create", "--name", "x"], args].concat();
    s.fails(2, &create(&["--size", "1.5GiB"]), &["is not a size", "1536MiB"]);
    s.fails(2, &create(&["--size", "-5GiB"]), &["\"-5GiB\" is not a size"]);
    s.fails(2, &create(&["--size", "1GiB", "--iops", "abc"]), &["not a number of requests per second"]);
    s.fails(2, &["snapshot", "show", "snap-nope"], &["is not an id", "coffer snapshot list"]);
    s.fails(2, &["audit", "list", "--limit", "0"], &["--limit"]);
    s.fails(2, &["access", "allow", "foo:bar", "--volume", "web"], &["NAME \"foo:bar\"", "cn:"]);
    s.fails(2, &["access", "allow", "alice"], &["--volume", "--all-volumes"]);
    s.fails(2, &["--passphrase-fd", "9", "volume", "list"], &["file descriptor 9 is not open"]);
}

#[test]
fn a_bare_command_lists_no_hidden_verb_and_requires_no_flag_that_the_environment_gives() {
    let s = with_volume();
    let bare = |args: &[&str]| {
        let mut command = std::process::Command::new(COFFER);
        output(command.args(args).env("COFFER_DATA", &s.data).stdin(Stdio::null()))
    };
    let out = bare(&[]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("volume") && !out.stderr.contains("attach-helper"), "{}", out.stderr);
    let out = bare(&["volume", "show"]);
    assert!(out.code == 2 && !out.stderr.contains("--data"), "{}", out.stderr);
    assert_eq!(bare(&["volume", "list", "-q"]).code, 0, "the variable names the directory");
}

#[test]
fn ciphertext_is_not_written_to_a_terminal() {
    if !requires("script") {
        return;
    }
    let s = with_volume();
    std::fs::write(s.path("word"), "word").unwrap();
    let inner =
        format!("{COFFER} --data {} key encrypt alias/k --input {}", s.data.display(), s.path("word").display());
    let out = output(std::process::Command::new("script").args(["-qec", &inner, "/dev/null"]).stdin(Stdio::null()));
    assert_eq!(out.code, 2, "{out:?}");
    assert!(out.stdout.contains("terminal") && out.stdout.contains("--out FILE"), "{out:?}");
}

#[test]
fn the_log_has_times_and_says_when_the_server_stops() {
    let s = with_volume();
    let server = s.serve();
    send(server.pid(), Signal::HUP);
    wait_until("the signal is logged", || s.log().contains("SIGHUP"));
    assert_eq!(server.stop(), 0);
    let log = s.log();
    let line = log.lines().find(|l| l.contains("SIGHUP")).unwrap();
    assert!(line.starts_with("20") && line.as_bytes()[19] == b'Z', "{line}");
    assert!(log.lines().last().unwrap().starts_with("coffer: stopped serving"), "{log}");
}
