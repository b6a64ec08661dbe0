//! Snapshots from the command line: what needs no key, and what outlives its caller.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

#[test]
fn verify_without_a_server_needs_no_root_key() {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", "16MiB", "--name", "v"]);
    let snapshot = scratch.id(&["snapshot", "create", "v"]);
    std::fs::rename(&scratch.key, scratch.path("away")).unwrap();
    assert!(scratch.ok(&["snapshot", "verify", &snapshot]).stdout.contains("pin --trust"));
    scratch.fails(4, &["snapshot", "verify", "snap-00000000000000000"], &["there is no snapshot"]);
}

#[test]
fn a_server_for_one_command_finishes_the_snapshots_that_it_began() {
    let scratch = Scratch::new();
    scratch.ok(&["volume", "create", "--size", "64MiB", "--name", "v"]);
    let command = format!("'{}' snapshot create -q v; '{0}' snapshot create -q v", COFFER);
    let out = scratch.ok(&["serve", "v", "--run", &command]);
    assert_eq!(out.stdout.lines().count(), 2);
    for id in out.stdout.lines() {
        assert_eq!(scratch.json(&["snapshot", "show", id])["state"], "completed", "{out:?}");
        scratch.ok(&["snapshot", "verify", id]);
    }
}

#[test]
fn a_snapshot_is_exported_to_a_file_and_to_standard_output() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v"]);
    let mut wanted = vec![0; 8 << 20];
    wanted[1 << 20..2 << 20].copy_from_slice(&noise(1, 1 << 20));
    let server = s.serve();
    server.connect("v").write(1 << 20, &wanted[1 << 20..2 << 20]);
    let (snapshot, image) = (s.id(&["snapshot", "create", "v", "--wait"]), s.path("image"));
    let path = image.to_str().unwrap();
    let told = s.json(&["snapshot", "export", &snapshot, path]);
    let data = 1 << 20;
    let told_so = serde_json::json!({"kind": "snapshot-export", "snapshot": snapshot, "size": 8 << 20, "data": data});
    assert_eq!(told, told_so);
    assert!(std::fs::read(&image).unwrap() == wanted);
    std::fs::write(&image, "mine").unwrap();
    s.fails(1, &["snapshot", "export", &snapshot, path], &["--force"]);
    assert_eq!(std::fs::read(&image).unwrap(), b"mine");
    s.fails(2, &["--json", "snapshot", "export", &snapshot, "-"], &["cannot be both"]);
    for server in [Some(server), None] {
        let by = server.as_ref().map_or("this process", |_| "the server");
        std::fs::write(&image, "mine").unwrap();
        assert!(s.ok(&["snapshot", "export", "--force", &snapshot, path]).stdout.contains("1 MiB of data"), "{by}");
        assert!(std::fs::read(&image).unwrap() == wanted, "{by}");
        let streamed = s.command(&["snapshot", "export", &snapshot, "-"]).output().unwrap();
        assert!(streamed.status.success() && streamed.stdout == wanted, "{by}: {streamed:?}");
    }
}

#[test]
fn a_volume_is_imported_from_a_file_and_from_standard_input() {
    let s = Scratch::new();
    let mut wanted = vec![0; 3 << 20];
    wanted[1 << 20..2 << 20].copy_from_slice(&noise(1, 1 << 20));
    let (image, back) = (s.path("image"), s.path("back"));
    std::fs::write(&image, &wanted).unwrap();
    let (path, size) = (image.to_str().unwrap(), wanted.len().to_string());
    for server in [Some(s.serve()), None] {
        let by = server.as_ref().map_or("this process", |_| "the server");
        let made = s.json(&["volume", "import", path, "--name", "file"]);
        assert_eq!((&made["name"], &made["size"]), (&"file".into(), &wanted.len().into()), "{by}");
        let mut import = s.command(&["volume", "import", "-", "--name", "stream", "--size", &size]);
        assert!(import.stdin(File::open(&image).unwrap()).output().unwrap().status.success(), "{by}");
        for volume in ["file", "stream"] {
            let snapshot = s.id(&["snapshot", "create", volume, "--wait"]);
            s.ok(&["snapshot", "export", "--force", &snapshot, back.to_str().unwrap()]);
            assert!(std::fs::read(&back).unwrap() == wanted, "{volume}, by {by}");
        }
        s.fails(1, &["volume", "import", path, "--name", "file"], &["already exists"]);
        s.fails(2, &["volume", "import", path, "--name", "small", "--size", "1MiB"], &["does not fit"]);
        ["file", "stream"].iter().for_each(|volume| drop(s.ok(&["volume", "delete", volume])));
    }
}

#[test]
fn an_import_that_is_killed_leaves_no_volume() {
    let s = Scratch::new();
    let volumes = || files(&s.data.join("volumes")).into_iter().filter(|f| f.extension().is_some()).count();
    for server in [Some(s.serve()), None] {
        let mut import = s.command(&["volume", "import", "-", "--name", "v", "--size", "64MiB"]);
        let mut import = import.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut rest = import.stdin.take().unwrap();
        std::io::Write::write_all(&mut rest, &noise(1, 1 << 20)).unwrap();
        wait_until("the import to begin", || volumes() > 0);
        import.kill().unwrap();
        import.wait().unwrap();
        assert_eq!(s.ok(&["volume", "list", "-q"]).stdout, "");
        // Its input is still open: a server notices by itself that nobody waits for the volume.
        wait_until("the volume to be gone", || volumes() == 0);
        drop((rest, server));
    }
}

/// A thread that is stopped until this is dropped.
struct Held(Pid);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

fn threads(process: Pid) -> BTreeSet<Pid> {
    let all = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    all.map(|task| Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())).collect()
}

/// Stops the thread with this name in a process, once `begin` made the process start it; all others run on. `None`:
/// this user may not trace the process.
fn hold(process: u32, name: &str, begin: impl FnOnce()) -> Option<Held> {
    let process = Pid::from_raw(process as i32);
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    for thread in threads(process) {
        if ptrace::seize(thread, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD).is_err() {
            skip("the right to trace a process that hides its memory");
            return None;
        }
    }
    begin();
    let held = loop {
        match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_STOP) | WaitStatus::PtraceSyscall(thread) => {
                let shown = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/comm")).unwrap_or_default();
                if shown.trim_end() == name {
                    break thread;
                }
                let _ = ptrace::syscall(thread, None);
            }
            WaitStatus::PtraceEvent(thread, ..) => drop(ptrace::cont(thread, None)),
            WaitStatus::Stopped(thread, signal) => drop(ptrace::cont(thread, signal)),
            ended => assert!(ended.pid() != Some(process), "it ended: {ended:?}"),
        }
    };
    let mut let_go = BTreeSet::from([held]);
    while let Some(thread) = threads(process).difference(&let_go).next().copied() {
        // A thread started by one that is no longer traced is not one of ours.
        if ptrace::interrupt(thread).is_ok() && waitpid(thread, Some(flags)).is_ok() {
            let _ = ptrace::detach(thread, None);
        }
        let_go.insert(thread);
    }
    Some(Held(held))
}

fn interrupt(child: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT).unwrap();
}

#[test]
fn ctrl_c_without_a_server_takes_the_snapshot_back() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 1 << 20));
    drop(server);
    // It waits for the lock until it is traced.
    let lock = File::options().read(true).write(true).open(s.data.join("lock")).unwrap();
    assert!(coffer::sys::ofd_lock(&lock, coffer::sys::LockKind::Exclusive, 0, 1).unwrap());
    let mut create = s.command(&["--json", "snapshot", "create", "v"]);
    let mut create = create.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let Some(held) = hold(create.id(), "snapshot", || drop(lock)) else {
        create.kill().unwrap();
        create.wait().unwrap();
        return;
    };
    let mut said = BufReader::new(create.stderr.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("progress"), "{line}");
    };
    line();
    interrupt(&create);
    // One line may be as old as the signal, one is from a thread that has seen it, and one comes after it has acted on
    // it.
    (0..3).for_each(|_| line());
    drop(held);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(create.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("was stopped"), "{rest}");
    assert!(s.ids(&["snapshot", "list"]).is_empty());
    assert!(!s.ok(&["doctor"]).stdout.contains("snap-"));
    // Another one is not affected by the one that was begun.
    let next = s.id(&["snapshot", "create", "v"]);
    s.ok(&["snapshot", "verify", &next]);
}

#[test]
fn ctrl_c_with_a_server_ends_the_waiting_and_not_the_snapshot() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 1 << 20));
    let mut create = None;
    let held = hold(server.pid(), "snapshot", || {
        let mut command = s.command(&["snapshot", "create", "--wait", "v"]);
        create = Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    });
    let Some(held) = held else { return };
    let create = create.unwrap();
    interrupt(&create);
    let out = create.wait_with_output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("no longer waiting"), "{said}");
    let id = s.id(&["snapshot", "list"]);
    let state = || s.json(&["snapshot", "show", &id])["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "pending");
    drop(held);
    wait_until("the snapshot is completed", || state() == "completed");
    s.ok(&["snapshot", "verify", &id]);
}

/// Where threads are scarce, a snapshot must not fail for lack of runtime threads that local files do not need.
#[test]
fn a_local_repository_takes_no_threads_of_its_own() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 1 << 20));
    let id = s.id(&["snapshot", "create", "--wait", "v"]);
    s.ok(&["snapshot", "verify", &id]);
    s.ok(&["snapshot", "delete", &id]);
    let comm =
        |thread| std::fs::read_to_string(format!("/proc/{}/task/{thread}/comm", server.pid())).unwrap_or_default();
    let names: Vec<String> = threads(Pid::from_raw(server.pid() as i32)).into_iter().map(comm).collect();
    assert!(names.iter().any(|n| n.starts_with("sqlx-sqlite")), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("coffer-objects")), "{names:?}");
}

#[test]
fn a_diff_lists_what_changed_and_needs_no_key() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "64MiB", "--name", "v", "--key", "alias/k"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "other"]);
    let chunk = 512 << 10;
    let take = |s: &Scratch, volume: &str| s.id(&["snapshot", "create", "--wait", volume]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 3 * chunk));
    let one = take(&s, "v");
    server.connect("v").write(2 * chunk as u64, &noise(2, 2 * chunk));
    server.connect("v").write(0, &vec![0; 4096]);
    let (two, other) = (take(&s, "v"), take(&s, "other"));
    let wanted = serde_json::json!({
        "kind": "snapshot-diff", "from": one, "to": two, "from_size": 64 << 20, "size": 64 << 20,
        "ranges": [{"offset": 0, "length": chunk, "zero": false}, {"offset": 2 * chunk, "length": 2 * chunk, "zero": false}],
    });
    let session = || {
        assert_eq!(s.json(&["snapshot", "diff", &one, &two]), wanted);
        let whole = s.json(&["snapshot", "diff", &one]);
        assert_eq!((&whole["from"], &whole["ranges"][0]["length"]), (&serde_json::Value::Null, &(3 * chunk).into()));
        assert_eq!(s.json(&["snapshot", "diff", &two, &two])["ranges"], serde_json::json!([]));
        let out = s.ok(&["snapshot", "diff", &one, &two]);
        let rows: Vec<Vec<&str>> = out.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows, [["OFFSET", "LENGTH", "NOW"], ["0", "524288", "data"], ["1048576", "1048576", "data"]]);
        assert!(out.stderr.contains("1.5 MiB of 64 MiB in 2 ranges"), "{}", out.stderr);
        s.fails(2, &["snapshot", "diff", &one, &other], &["not of one lineage"]);
        s.fails(4, &["snapshot", "diff", &one, "snap-00000000000000000"], &["there is no snapshot"]);
    };
    session();
    s.ok(&["key", "disable", "alias/k"]);
    session();
    drop(server);
    std::fs::rename(&s.key, s.path("away")).unwrap();
    session();
}

#[test]
fn a_copy_is_made_by_a_server_or_a_command_and_keys_are_rewrapped_after_a_rotation() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "64MiB", "--name", "v"]);
    s.ok(&["repository", "add", "far", s.path("far").to_str().unwrap()]);
    let server = s.serve();
    server.connect("v").write(0, &noise(1, 3 << 20));
    s.ok(&["snapshot", "create", "--wait", "v", "--name", "one"]);
    let args = ["snapshot", "copy", "one", "--key", "alias/k", "--repository", "far"];
    let begun = s.id(&[&args[..], &["--name", "copy"]].concat());
    s.ok(&["snapshot", "wait", &begun]);
    let shown = s.json(&["snapshot", "show", "copy"]);
    let one = s.json(&["snapshot", "show", "one"]);
    assert_eq!(
        (&shown["source"], &shown["created"], &shown["state"]),
        (&one["id"], &one["created"], &"completed".into())
    );
    assert!(s.ok(&["snapshot", "show", "copy"]).stdout.contains("copy of"));
    let image = |of: &str| {
        let file = s.path(of);
        s.ok(&["snapshot", "export", of, file.to_str().unwrap()]);
        std::fs::read(file).unwrap()
    };
    assert!(image("copy") == image("one"));
    drop(server);
    // A command waits for its end.
    let again = s.id(&args);
    assert_eq!(s.json(&["snapshot", "show", &again])["base"], begun.as_str());
    s.fails(4, &["snapshot", "copy", "one", "--key", "alias/none"], &["alias/none"]);
    s.fails(4, &["snapshot", "copy", "one", "--repository", "none"], &["repository list"]);
    s.ok(&["key", "rotate", "alias/k"]);
    let rewrap = |args: &[&str]| s.ok(&[&["key", "rewrap"], args].concat()).stdout;
    let said = rewrap(&["alias/k", "--dry-run"]);
    assert!(said.contains("in repository far") && said.contains("2 wrapped data keys would be rewrapped"), "{said}");
    assert!(rewrap(&[]).contains("2 wrapped data keys rewrapped"));
    assert!(rewrap(&[]).contains("0 wrapped data keys rewrapped"));
}

#[test]
fn verify_names_every_bad_chunk_and_goes_on_to_the_other_snapshots() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "a"]);
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "b"]);
    let server = s.serve();
    let take = |volume: &str, seed: u64| {
        server.connect(volume).write(0, &noise(seed, 4 << 20));
        s.id(&["snapshot", "create", "--wait", volume])
    };
    let (a, b) = (take("a", 1), take("b", 2));
    let packs = || files(&s.data.join("repository")).into_iter().filter(|f| f.to_str().unwrap().contains("/packs/"));
    let lineage = s.json(&["volume", "show", "a"])["header"]["lineage"].as_str().unwrap().to_owned();
    let pack = packs().find(|f| f.to_str().unwrap().contains(&lineage)).unwrap();
    // Bodies of whole chunks are 64 bytes of head and 512 KiB each, after a header of 64.
    for chunk in [2, 5] {
        flip(&pack, 64 + chunk * (64 + (512 << 10)) + 1000);
    }
    let session = |none: &str| {
        let out = s.coffer(&["snapshot", "verify", &a, none, &b]);
        assert_eq!(out.code, 7, "{out:?}");
        assert!(out.stdout.contains(&format!("snapshot {b}: 8 chunks, 4194304 bytes")), "{out:?}");
        assert!(!out.stdout.contains(&a), "{out:?}");
        for words in ["chunk 2 (at byte 1048576)", "chunk 5 (at byte 2621440)", "2 chunks are bad; 6 of 8", none] {
            assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
        }
        let out = s.coffer(&["--json", "snapshot", "verify", "--all"]);
        assert_eq!(out.code, 7, "{out:?}");
        let all = out.json()["snapshots"].as_array().unwrap().clone();
        let bad = |id: &str| all.iter().find(|one| one["snapshot"] == id).unwrap()["bad_chunks"].clone();
        assert_eq!((all.len(), bad(&a), bad(&b)), (2, 2.into(), 0.into()));
        assert_eq!(s.id(&["snapshot", "verify", &b]), b);
        assert_eq!(s.coffer(&["snapshot", "verify", none]).code, 4);
        assert!(s.ok(&["snapshot", "verify", &b, "--sample", "100%"]).stdout.contains("8 of 8 chunks at random"));
    };
    session("snap-00000000000000000");
    for args in [&["snapshot", "verify"][..], &["snapshot", "verify", "--all", &a]] {
        assert_eq!(s.coffer(args).code, 2);
    }
    s.fails(2, &["snapshot", "verify", &b, "--sample", "0%"], &["not a share"]);
    drop(server);
    std::fs::rename(&s.key, s.path("away")).unwrap();
    session("snap-00000000000000000");
}

#[test]
fn a_name_is_as_good_as_an_id_and_tags_select() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "w"]);
    let create = |args: &[&str]| s.id(&[&["snapshot", "create", "--wait"], args].concat());
    let one = create(&["v", "--name", "one", "--tag", "team=web", "--tag", "stage="]);
    let two = create(&["v", "--tag", "team=db"]);
    let other = create(&["w", "--name", "v", "--tag", "team=web"]);
    let session = || {
        assert_eq!(s.json(&["snapshot", "show", "one"])["id"], one.as_str());
        assert!(s.ok(&["snapshot", "verify", "one", &two]).stdout.contains("snapshot one: "));
        assert_eq!(s.json(&["snapshot", "diff", "one", &two])["from"], one.as_str());
        let list = |args: &[&str]| s.ids(&[&["snapshot", "list"], args].concat());
        assert_eq!(list(&[]), [&*one, &two, &other]);
        assert_eq!(list(&["--volume", "v"]), [&*one, &two]);
        assert_eq!(list(&["--tag", "team=web"]), [&*one, &other]);
        assert_eq!(list(&["--tag", "team=web", "--tag", "stage"]), [&*one]);
        assert_eq!(list(&["--tag", "stage=x"]), [""; 0]);
        s.fails(1, &["snapshot", "create", "v", "--name", "one"], &["one already exists", "another --name"]);
        s.fails(4, &["snapshot", "show", "none"], &["there is no snapshot none"]);
        s.fails(4, &["snapshot", "list", "--volume", "none"], &["no volume none"]);
        for (name, words) in [("snap-1", "look like an id"), ("a b", "may contain only"), ("", "1 to 128")] {
            s.fails(2, &["snapshot", "create", "v", "--name", name], &["snapshot name", words]);
        }
        for (tag, words) in [("aws:x=1", "reserved"), ("=1", "1 to 128"), ("a=b!", "only letters"), ("a", "name=value")]
        {
            s.fails(2, &["snapshot", "create", "v", "--tag", tag], &[words]);
            s.fails(2, &["snapshot", "tag", "one", tag], &[words]);
        }
    };
    session();
    let server = s.serve();
    session();
    s.ok(&["volume", "create", "--snapshot", "one", "--name", "again"]);
    assert_eq!(s.json(&["volume", "show", "again"])["snapshot"], one.as_str());
    assert_eq!(
        s.json(&["snapshot", "tag", "one", "x=1", "team=db", "--remove", "stage", "--remove", "none"])["tags"],
        serde_json::json!({"team": "db", "x": "1"})
    );
    let many: Vec<String> = (0..49).map(|n| format!("t{n}=v")).collect();
    let args = ["snapshot", "tag", "one"].into_iter().chain(many.iter().map(String::as_str)).collect::<Vec<_>>();
    s.fails(2, &args, &["at most 50 tags, not 51"]);
    s.ok(&args[..args.len() - 1]);
    assert_eq!(s.coffer(&["snapshot", "tag", "one"]).code, 2);
    s.ok(&["snapshot", "delete", "one"]);
    s.fails(4, &["snapshot", "delete", "one"], &["there is no snapshot one"]);
    drop(server);
    let id = s.id(&["snapshot", "create", "v", "--name", "one"]);
    assert_eq!(s.ids(&["snapshot", "show", "one"]), [id]);
}

#[test]
fn held_and_locked_snapshots_are_shown_and_kept() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    s.ok(&["snapshot", "create", "v", "--name", "one"]);
    let shown = |words: &str| {
        let (list, show) = (s.ok(&["snapshot", "list"]).stdout, s.ok(&["snapshot", "show", "one"]).stdout);
        assert!(list.contains(words) && show.contains(words), "{words}: {list}{show}");
    };
    s.ok(&["snapshot", "hold", "one"]);
    shown("held");
    s.fails(1, &["snapshot", "delete", "one"], &["it is held", "coffer snapshot release"]);
    s.ok(&["snapshot", "release", "one"]);
    let server = s.serve();
    s.ok(&["snapshot", "lock", "one", "--mode", "compliance", "--days", "9", "--cool-off", "5"]);
    shown("compliance-cooloff");
    s.ok(&["snapshot", "lock", "one", "--mode", "governance", "--until", "2100-01-01T00:00:00Z"]);
    shown("governance");
    s.fails(1, &["snapshot", "delete", "one"], &["2100-01-01", "coffer snapshot unlock"]);
    drop(server);
    s.ok(&["snapshot", "unlock", "one"]);
    s.ok(&["snapshot", "lock", "one", "--mode", "compliance", "--days", "9"]);
    s.fails(1, &["snapshot", "unlock", "one"], &["nobody can take this lock back"]);
    s.fails(1, &["snapshot", "lock", "one", "--mode", "compliance", "--days", "8"], &["cannot expire earlier"]);
    s.fails(1, &["snapshot", "delete", "one"], &["compliance mode"]);
    s.ok(&["snapshot", "create", "v", "--name", "two"]);
    for args in [
        &["--mode", "governance"][..],
        &["--mode", "legal", "--days", "1"],
        &["--mode", "governance", "--days", "1", "--until", "2100-01-01T00:00:00Z"],
        &["--mode", "governance", "--days", "1", "--cool-off", "1"],
        &["--mode", "compliance", "--days", "0"],
    ] {
        assert_eq!(s.coffer(&[&["snapshot", "lock", "two"], args].concat()).code, 2, "{args:?}");
    }
}

#[test]
fn a_deleted_snapshot_comes_back_from_the_recycle_bin() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    assert!(s.ok(&["snapshot", "recycle-bin", "show"]).stdout.contains("is off"));
    assert!(s.ok(&["snapshot", "recycle-bin", "set", "--days", "1"]).stdout.contains("for 1 day"));
    let id = s.id(&["snapshot", "create", "v", "--name", "one"]);
    let _server = s.serve();
    assert!(s.ok(&["snapshot", "delete", "one"]).stdout.contains(&format!("coffer snapshot recover {id}")));
    assert!(s.ids(&["snapshot", "list"]).is_empty());
    let list = s.ok(&["snapshot", "list", "--recycled"]).stdout;
    assert!(list.contains(&id) && list.contains("RECYCLED UNTIL"), "{list}");
    s.fails(4, &["snapshot", "show", &id], &["is in the recycle bin", "snapshot recover"]);
    s.ok(&["snapshot", "recover", &id]);
    s.ok(&["snapshot", "verify", "one"]);
    s.ok(&["snapshot", "delete", "one", "--now"]);
    s.ok(&["snapshot", "recycle-bin", "off"]);
    s.fails(4, &["snapshot", "recover", &id], &["there is no snapshot", "list --recycled"]);
}

#[test]
fn pruning_says_what_it_keeps_and_why() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let [one, two, three] = ["one", "two", "three"].map(|name| s.id(&["snapshot", "create", "v", "--name", name]));
    s.ok(&["snapshot", "tag", "one", "keep="]);
    s.fails(2, &["snapshot", "prune"], &["no rule says what to keep", "--keep-last"]);
    let dry = ["snapshot", "prune", "--volume", "v", "--keep-last", "1", "--keep-tag", "keep", "--dry-run"];
    let out = s.ok(&dry).stdout;
    let row = |id: &str| out.lines().find(|l| l.contains(id)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(row(&one).ends_with("kept tag keep") && row(&three).ends_with("kept last 1"), "{out}");
    assert!(row(&two).ends_with("would be deleted -"), "{out}");
    let _server = s.serve();
    assert_eq!(s.ids(&dry[..dry.len() - 1]), [two]);
    assert_eq!(s.ids(&["snapshot", "list"]), [&*one, &three]);
    let json = s.json(&["snapshot", "prune", "--keep-yearly", "1"]);
    assert_eq!((&json["dry_run"], &json["snapshots"][0]["kept"]), (&false.into(), &false.into()));
    assert_eq!(json["snapshots"][1]["reasons"], serde_json::json!(["yearly"]));
}

#[test]
fn schedules_are_added_shown_paused_and_removed() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let add = |args: &[&str]| s.id(&[&["snapshot", "schedule", "add", "v"], args].concat());
    let one = add(&["--every", "4h", "--keep-last", "3", "--keep-tag", "keep"]);
    let _server = s.serve();
    let two = add(&["--weekly", "Sun", "03:00"]);
    let list = s.ok(&["snapshot", "schedule", "list"]).stdout;
    let row =
        |id: &str| list.lines().find(|l| l.contains(id)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(row(&one).starts_with(&format!("{one} v every 4h last 3, tag keep 20")), "{list}");
    assert!(row(&two).starts_with(&format!("{two} v weekly sun 03:00 all 20")), "{list}");
    assert!(s.ok(&["snapshot", "schedule", "pause", &one]).stdout.contains("paused"));
    assert_eq!(s.json(&["snapshot", "schedule", "resume", &one])["paused"], false);
    for (args, words) in [
        (&["--every", "4m"][..], "5 minutes"),
        (&["--every", "1w"], "not a period"),
        (&["--daily", "3:00"], "HH:MM"),
        (&["--weekly", "someday", "03:00"], "mon, tue"),
        (&[], "--every"),
        (&["--every", "4h", "--daily", "03:00"], "cannot be used with"),
    ] {
        s.fails(2, &[&["snapshot", "schedule", "add", "v"], args].concat(), &[words]);
    }
    s.fails(4, &["snapshot", "schedule", "add", "none", "--every", "1h"], &["no volume none"]);
    s.ok(&["snapshot", "schedule", "remove", &one]);
    s.fails(4, &["snapshot", "schedule", "pause", &one], &["there is no schedule"]);
    assert_eq!(s.ids(&["snapshot", "schedule", "list"]), [two]);
}

#[test]
fn a_filling_that_is_paused_fetches_what_clients_ask_for_and_no_more() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "32MiB", "--name", "v"]);
    let data = noise(7, 32 << 20);
    let server = s.serve();
    let mut c = server.connect("v");
    data.chunks(1 << 20).enumerate().for_each(|(n, mib)| c.write((n as u64) << 20, mib));
    c.close();
    let snap = s.id(&["snapshot", "create", "v", "--wait"]);
    s.fails(2, &["volume", "create", "--snapshot", &snap, "--hydrate-rate", "12KiB"], &["at least 1 MiB"]);
    let copy = s.id(&["volume", "create", "--snapshot", &snap, "--hydrate-rate", "paused"]);
    let shown = || s.json(&["volume", "show", &copy]);
    let before = shown()["stored"].clone();
    let mut c = server.connect(&copy);
    assert!((0..32).all(|n| c.read(n << 20, 1 << 20) == data[(n as usize) << 20..][..1 << 20]));
    assert_eq!((shown()["hydrated"].as_bool(), shown()["hydrate_rate"].as_str()), (Some(false), Some("paused")));
    assert_eq!(shown()["stored"], before, "nothing was stored");
    s.ok(&["volume", "modify", &copy, "--hydrate-rate", "16MiB"]);
    assert_eq!(shown()["hydrate_rate"], "16777216");
    wait_until("it is filled", || shown()["hydrated"] == true);
    assert!((0..32).all(|n| c.read(n << 20, 1 << 20) == data[(n as usize) << 20..][..1 << 20]));
    c.close();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_group_is_taken_at_one_instant_between_freeze_and_thaw_and_as_a_whole() {
    let s = Scratch::new();
    let volumes: Vec<String> =
        ["data", "log"].iter().map(|name| s.id(&["volume", "create", "--size", "8MiB", "--name", name])).collect();
    s.fails(2, &["snapshot", "create", "data", "log"], &["--group"]);
    s.fails(2, &["snapshot", "create", "data", "data", "--group"], &["named twice"]);
    s.fails(2, &["snapshot", "create", "data", "--freeze", "true"], &["needs a server"]);
    s.fails(4, &["snapshot", "create", "data", "none", "--group"], &["no volume none"]);
    assert!(s.ids(&["snapshot", "list"]).is_empty(), "all or none");
    let server = s.serve();
    let noted = s.path("noted");
    let list = format!("'{COFFER}' -q --data '{}' snapshot list", s.data.display());
    let note = |word: &str| format!("(echo {word}; {list}) >> '{}'; echo said", noted.display());
    let (freeze, thaw) = (note("freeze"), note("thaw"));
    let around = ["--freeze", &freeze, "--thaw", &thaw];
    let taken = s.json(&[&["snapshot", "create", "data", "log", "--group", "--wait"][..], &around].concat());
    let rows = taken["snapshots"].as_array().unwrap();
    let of: BTreeSet<&str> = rows.iter().map(|one| one["volume"].as_str().unwrap()).collect();
    assert_eq!(of, volumes.iter().map(String::as_str).collect());
    assert!(rows.iter().all(|one| one["state"] == "completed"), "{taken}");
    let group = rows[0]["group"].as_str().unwrap();
    let mut ids = s.ids(&["snapshot", "list", "--group", group]);
    ids.sort();
    let told = std::fs::read_to_string(&noted).unwrap();
    let mut lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.drain(..2).collect::<Vec<_>>(), ["freeze", "thaw"], "nothing before, and all right after it");
    lines.sort_unstable();
    assert_eq!(lines, ids);
    // A command that fails may have frozen something: it is undone, and nothing is taken.
    std::fs::remove_file(&noted).unwrap();
    s.fails(1, &["snapshot", "create", "data", "--freeze", "exit 3", "--thaw", &thaw], &["freeze command failed", "3"]);
    assert!(std::fs::read_to_string(&noted).unwrap().starts_with("thaw"));
    assert_eq!(s.ids(&["snapshot", "list"]).len(), 2);
    // So is what a signal interrupts.
    std::fs::remove_file(&noted).unwrap();
    let signal = ["--freeze", "kill -TERM $PPID", "--thaw", &thaw];
    s.fails(130, &[&["snapshot", "create", "data"][..], &signal].concat(), &["no snapshot was taken"]);
    assert!(std::fs::read_to_string(&noted).unwrap().starts_with("thaw"));
    assert_eq!(s.ids(&["snapshot", "list"]).len(), 2);
    s.fails(1, &["snapshot", "create", "data", "--freeze", "true", "--thaw", "exit 4"], &["taken, but", "by hand"]);
    assert_eq!(s.ids(&["snapshot", "list"]).len(), 3);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_copy_that_is_paused_waits_and_holds_its_point_in_time() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "v", "--snapshot-rate", "paused"]);
    let server = s.serve();
    let mut c = server.connect("v");
    let before = noise(1, 16 << 20);
    before.chunks(1 << 20).enumerate().for_each(|(n, mib)| c.write((n as u64) << 20, mib));
    let snap = s.id(&["snapshot", "create", "v"]);
    (0..16).for_each(|n| c.write(n << 20, &noise(2, 1 << 20)));
    let shown = || s.json(&["snapshot", "show", &snap]);
    wait_until("it has begun", || shown()["copy"]["copied"].as_u64().is_some_and(|n| n > 0));
    assert_eq!((shown()["state"].as_str(), shown()["copy"]["copied"].as_u64()), (Some("pending"), Some(512 << 10)));
    s.fails(2, &["volume", "modify", "v", "--snapshot-rate", "12KiB"], &["at least 1 MiB"]);
    let began = std::time::Instant::now();
    s.ok(&["volume", "modify", "v", "--snapshot-rate", "32MiB"]);
    s.ok(&["snapshot", "wait", &snap]);
    assert!(began.elapsed() > std::time::Duration::from_millis(250), "at least 8 MiB were left, at 32 MiB a second");
    let image = s.path("image");
    s.ok(&["snapshot", "export", &snap, image.to_str().unwrap()]);
    assert!(std::fs::read(&image).unwrap() == before);
    assert_eq!(s.json(&["volume", "show", "v"])["snapshot_rate"], "33554432");
    c.close();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_drill_is_shown_and_what_fails_does_not_keep_it_from_the_others() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let first = s.id(&["snapshot", "create", "v"]);
    let second = s.id(&["snapshot", "create", "v", "--name", "n"]);
    assert!(!s.ok(&["snapshot", "list"]).stdout.contains("PROVED"));
    assert_eq!(s.ok(&["snapshot", "drill", "n"]).stdout, format!("snapshot {second} is proved restorable\n"));
    assert!(s.ok(&["snapshot", "list"]).stdout.contains("PROVED"));
    assert!(s.json(&["snapshot", "show", "n"])["proved"].is_number());
    assert_eq!(
        s.ids(&["snapshot", "drill", "--all", "--older-than", "1"]),
        std::slice::from_ref(&first),
        "the other one was now"
    );
    s.fails(2, &["snapshot", "drill"], &["required"]);
    let out = s.coffer(&["snapshot", "drill", "snap-00000000000000000", &first]);
    assert_eq!((out.code, out.stdout.contains(&first)), (4, true), "{out:?}");
    // Without a server nothing can be attached: the drill fails, and its volume does not stay.
    let out = s.coffer(&["snapshot", "drill", &first, "--run", "true"]);
    assert!(out.code != 0 && out.stderr.contains("attach"), "{out:?}");
    assert_eq!(s.ids(&["volume", "list"]).len(), 1);
}

#[test]
fn what_would_wait_for_a_paused_copy_is_refused_or_done_by_the_command_itself() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "v", "--snapshot-rate", "paused"]);
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &noise(1, 4 << 20));
    c.close();
    assert_eq!(server.stop(), 0);
    // A command does not leave the copy to anyone: it makes it.
    let first = s.id(&["snapshot", "create", "v"]);
    assert_eq!(s.json(&["snapshot", "show", &first])["state"], "completed");
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &noise(2, 4 << 20));
    c.close();
    s.fails(5, &["volume", "rollback", "v", "--to", &first], &["paused", "--discard"]);
    assert_eq!(s.ids(&["snapshot", "list"]).len(), 1);
    // As many as can be pending; the next one leaves nothing behind, its name neither.
    (0..8).for_each(|_| drop(s.id(&["snapshot", "create", "v"])));
    s.fails(5, &["snapshot", "create", "v", "--name", "n"], &["8 pending"]);
    let all = s.json(&["snapshot", "list"]);
    assert!(all["snapshots"].as_array().unwrap().iter().all(|one| one["state"] != "error"), "{all}");
    s.ok(&["volume", "modify", "v", "--snapshot-rate", "unlimited"]);
    assert_eq!(server.stop(), 0);
}
