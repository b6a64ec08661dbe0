//! The command line, with and without a server: every verb, every exit code.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

const MIB: u64 = 1 << 20;

#[test]
fn the_main_job_without_a_server() {
    let s = Scratch::new();
    let key = s.json(&["key", "create", "--alias", "alias/web", "--description", "for the web"]);
    assert_eq!(
        (&key["state"], &key["aliases"], &key["materials"]),
        (&json!("Enabled"), &json!(["alias/web"]), &json!(1))
    );
    let vol = s.json(&["volume", "create", "--size", "8MiB", "--name", "web", "--key", "alias/web"]);
    assert_eq!((&vol["name"], &vol["size"], &vol["key"]), (&json!("web"), &json!(8 * MIB), &key["arn"]));
    let id = vol["id"].as_str().unwrap();
    let snap = s.id(&["snapshot", "create", "web", "--description", "first"]);
    let shown = s.json(&["snapshot", "show", &snap]);
    assert_eq!(
        (&shown["state"], &shown["volume"], &shown["description"]),
        (&json!("completed"), &vol["id"], &json!("first"))
    );
    let copy = s.id(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let shown = s.json(&["volume", "show", "copy"]);
    assert_eq!((&shown["id"], &shown["size"], &shown["snapshot"]), (&json!(copy), &json!(8 * MIB), &json!(snap)));
    assert_eq!(shown["header"]["context"], json!({ "aws:ebs:id": id }), "a copy keeps its ancestor's context");

    assert_eq!(s.ids(&["volume", "list"]), [id, &copy]);
    assert_eq!(s.ids(&["snapshot", "list"]), [&*snap]);
    assert!(s.ids(&["key", "list"]).contains(&key["id"].as_str().unwrap().to_owned()));
    assert_eq!(s.id(&["key", "show", "alias/web"]), s.id(&["key", "show", key["arn"].as_str().unwrap()]));
    for (verb, name) in [("volume", "web"), ("volume", id), ("snapshot", &snap)] {
        assert!(s.ok(&[verb, "show", name]).stdout.contains(name), "{verb} {name}");
        assert!(s.ok(&[verb, "list"]).stdout.contains(name), "{verb} {name}");
    }
    let status = s.json(&["status"]);
    assert_eq!((&status["daemon"], status["account"].as_str().unwrap().len()), (&Value::Null, 12));
    assert_eq!(s.id(&["status"]), status["installation"].as_str().unwrap());

    let verified = s.ok(&["snapshot", "verify", &snap, "--trust", status["signing_key"].as_str().unwrap()]);
    assert!(verified.stdout.contains("attested by the trusted key"), "{}", verified.stdout);
    s.ok(&["volume", "delete", "web"]);
    s.ok(&["volume", "delete", &copy]);
    s.ok(&["snapshot", "delete", &snap]);
    assert!(s.ids(&["volume", "list"]).is_empty() && s.ids(&["snapshot", "list"]).is_empty());
    assert!(files(&s.data.join("volumes")).is_empty());
    for args in [&["volume", "show", "web"][..], &["volume", "delete", id], &["snapshot", "show", &snap]] {
        s.fails(4, args, &["there is no"]);
    }
    s.fails(4, &["key", "show", "alias/none"], &["alias/none"]);
    let events = s.json(&["audit", "list", "--limit", "1000"]);
    for act in ["CreateVolume", "DeleteVolume", "CreateSnapshot", "DeleteSnapshot", "CreateKey"] {
        assert!(events.to_string().contains(act), "the audit has no {act}");
    }
    assert_eq!(s.json(&["audit", "list", "--limit", "3"])["events"].as_array().unwrap().len(), 3);
}

/// Replaces ids and times by names in order of appearance: the rest must be the same in any two installations.
fn plain(seen: &mut HashMap<String, String>, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (token, tail) = rest.split_at(end);
        let digits = token.bytes().all(|b| b.is_ascii_digit());
        if token.len() == 13 && digits {
            out.push_str("TIME");
        } else if token.len() >= 12 && token.bytes().any(|b| b.is_ascii_digit()) {
            let n = seen.len();
            out.push_str(seen.entry(token.to_owned()).or_insert_with(|| format!("ID{n}")));
        } else {
            out.push_str(token);
        }
        let skip = tail.chars().next().map_or(0, char::len_utf8);
        out.push_str(&tail[..skip]);
        rest = &tail[skip..];
    }
    out
}

#[test]
fn every_verb_answers_the_same_with_and_without_a_server() {
    let session = |s: &Scratch| {
        let mut seen = HashMap::from([(s.data.display().to_string(), "DATA".to_owned())]);
        let mut all = Vec::new();
        let mut run = |args: &[&str]| {
            let out = s.coffer(&[&["--json"], args].concat());
            let said: String = out.stderr.lines().filter(|l| !l.starts_with("{\"progress\"")).collect();
            let text = format!("{args:?} {} {}{said}", out.code, out.stdout);
            all.push(plain(&mut seen, &text.replace(s.path("").to_str().unwrap(), "/tmp/")));
            out
        };
        run(&["key", "create", "--alias", "alias/a"]);
        run(&["key", "create", "--alias", "alias/a"]);
        run(&["key", "alias", "create", "alias/b", "alias/a"]);
        run(&["key", "alias", "list"]);
        run(&["volume", "create", "--size", "4MiB", "--name", "v", "--key", "alias/b"]);
        run(&["volume", "create", "--size", "4MiB", "--name", "v"]);
        run(&["volume", "create", "--size", "3"]);
        run(&["volume", "grow", "v", "--size", "5MiB"]);
        run(&["volume", "grow", "v", "--size", "1MiB"]);
        let snap = run(&["snapshot", "create", "v", "--wait"]).json()["id"].as_str().unwrap().to_owned();
        run(&["snapshot", "show", &snap]);
        run(&["snapshot", "verify", &snap]);
        run(&["volume", "show", "v"]);
        run(&["volume", "list"]);
        run(&["volume", "export-key", "v", "--out", s.path("k").to_str().unwrap()]);
        run(&["volume", "show", "none"]);
        run(&["volume", "delete", "v"]);
        run(&["snapshot", "delete", &snap]);
        run(&["key", "disable", "alias/a"]);
        run(&["key", "schedule-deletion", "alias/a", "--days", "7"]);
        run(&["key", "cancel-deletion", "alias/a"]);
        run(&["key", "alias", "delete", "alias/b"]);
        run(&["key", "list"]);
        run(&["attachments"]);
        run(&["snapshot", "list"]);
        all
    };
    let (alone, served) = (Scratch::new(), Scratch::new());
    let server = served.serve();
    let (a, b) = (session(&alone), session(&served));
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a, b);
    }
    assert_eq!(a.len(), b.len());
    drop(server);
}

#[test]
fn one_directory_looks_the_same_to_both_modes() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/a"]);
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let snap = s.id(&["snapshot", "create", "v"]);
    let looks = [
        &["key", "list"][..],
        &["key", "show", "alias/a"],
        &["key", "alias", "list"],
        &["volume", "list"],
        &["volume", "show", "v"],
        &["snapshot", "list"],
        &["snapshot", "show", &snap],
        &["attachments"],
        &["audit", "list"],
        &["doctor"],
        &["snapshot", "verify", &snap],
        &["status"],
    ];
    let look = || looks.map(|args| s.json(args));
    let mut alone = look();
    let server = s.serve();
    let mut served = look();
    assert_eq!(served[11]["daemon"], json!(server.pid()));
    assert_eq!(served[11]["nbd"], json!([format!("unix:{}", s.socket().display())]));
    for status in [&mut alone[11], &mut served[11]] {
        status["daemon"].take();
        status["nbd"].take();
    }
    for (i, args) in looks.iter().enumerate() {
        assert_eq!(alone[i], served[i], "{args:?}");
    }
}

#[test]
fn serve_run_gives_a_uri_and_takes_the_commands_exit_code() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let out = s.coffer(&["serve", "v", "--run", "echo \"$uri|$COFFER_DATA\"; exit 37"]);
    assert_eq!(out.code, 37, "{out:?}");
    assert_eq!(out.stdout.trim(), format!("{}|{}", s.uri("v"), s.data.display()));
    assert_eq!(s.coffer(&["serve", "--run", "kill -9 $$"]).code, 137);
    if requires("nbdinfo") {
        let out = s.ok(&["serve", "v", "--run", "nbdinfo --size \"$uri\""]);
        assert_eq!(out.stdout.trim(), MIB.to_string());
    }
    let listen = format!("unix:{}", s.path("other.sock").display());
    let out = s.ok(&["serve", "v", "--listen", &listen, "--run", "echo \"$unixsocket\""]);
    assert_eq!(out.stdout.trim(), s.path("other.sock").to_str().unwrap());
}

#[test]
fn serve_listens_only_where_it_should() {
    let s = Scratch::new();
    let run = |place: &str| s.coffer(&["serve", "--listen", place, "--run", "exit 9"]);
    for (place, word) in [
        ("tcp:0.0.0.0:10809", "only served on 127.0.0.1 and ::1"),
        ("tcp:127.0.0.1:0", "--insecure-loopback"),
        ("tcp:nonsense", "not an address"),
        ("/tmp/x", "not an address"),
    ] {
        let out = run(place);
        assert_eq!(out.code, 2, "{place}: {out:?}");
        assert!(out.stderr.contains(word), "{place}: {}", out.stderr);
    }
    let long = format!("unix:{}", s.path(&"x".repeat(120)).display());
    let out = run(&long);
    assert!(out.code == 2 && out.stderr.contains("107"), "{out:?}");
    s.fails(4, &["serve", "nope", "--run", "true"], &["there is no volume nope"]);
    let precious = s.path("precious");
    std::fs::write(&precious, "keep").unwrap();
    let out = run(&format!("unix:{}", precious.display()));
    assert!(![0, 9].contains(&out.code), "{out:?}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "keep", "a file in the way is not removed");
}

#[test]
fn init_refuses_what_would_lose_or_expose_keys() {
    let s = Scratch::new();
    let key = std::fs::read(&s.key).unwrap();
    let root = std::fs::read(s.data.join("root.json")).unwrap();
    s.fails(1, &["init", "--key-file", s.path("other.key").to_str().unwrap()], &["is already initialised"]);
    assert!(!s.path("other.key").exists());
    assert_eq!((std::fs::read(&s.key).unwrap(), std::fs::read(s.data.join("root.json")).unwrap()), (key, root));
    for file in [&s.key, &s.data.join("root.json"), &s.data.join("catalog.db")] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", file.display());
    }
    assert_eq!(s.data.metadata().unwrap().permissions().mode() & 0o777, 0o700);

    let inside = Scratch::empty();
    let place = inside.data.join("root.key");
    inside.fails(2, &["init", "--key-file", place.to_str().unwrap()], &["would be in the data directory"]);
    let taken = Scratch::empty();
    std::fs::write(&taken.key, "mine").unwrap();
    let out = taken.coffer(&["init", "--key-file", taken.key.to_str().unwrap()]);
    assert_ne!(out.code, 0);
    assert_eq!(std::fs::read_to_string(&taken.key).unwrap(), "mine", "a file in the way is not overwritten");
    taken.fails(4, &["volume", "list"], &["not a coffer data directory", "coffer init"]);
    std::fs::remove_file(&taken.key).unwrap();
    taken.init();
    taken.ok(&["volume", "list"]);
}

#[test]
fn a_passphrase_opens_and_a_wrong_one_does_not() {
    let s = Scratch::empty();
    let short = with_passphrase(&s, "short\n", &["init"]);
    assert_eq!(short.code, 2, "{short:?}");
    let made = with_passphrase(&s, "correct horse battery\nsecond line", &["init"]);
    assert_eq!(made.code, 0, "{made:?}");
    let create = &["volume", "create", "--size", "1MiB", "--name", "v"];
    assert_eq!(with_passphrase(&s, "correct horse battery\n", create).code, 0);
    let wrong = with_passphrase(&s, "correct horse batter\n", &["volume", "list"]);
    assert_eq!((wrong.code, &*wrong.stdout), (6, ""), "{wrong:?}");
    assert!(!wrong.stderr.contains("correct horse"), "{}", wrong.stderr);
    let none = s.coffer(&["volume", "list"]);
    assert_eq!(none.code, 6, "{none:?}");
    assert!(none.stderr.contains("passphrase"), "{}", none.stderr);
    let closed = s.coffer(&["--passphrase-fd", "77", "volume", "list"]);
    assert!(closed.code != 0 && closed.stderr.contains("77"), "{closed:?}");
}

#[test]
fn progress_and_errors_are_json_lines() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "128MiB", "--name", "v"]);
    let out = s.ok(&["--json", "volume", "export", "v", s.path("out").to_str().unwrap(), "--sealed"]);
    let lines: Vec<Value> = out.stderr.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let done: Vec<u64> = lines.iter().map(|l| l["progress"]["done"].as_u64().unwrap()).collect();
    assert!(done.len() >= 2 && done.is_sorted(), "{done:?}");
    assert!(
        lines.iter().all(|l| l["progress"]["total"] == json!(128 * MIB) && l["progress"]["unit"] == json!("bytes"))
    );
    assert_eq!(out.json()["kind"], json!("done"));

    let out = s.coffer(&["--json", "volume", "show", "none"]);
    let err: Value = serde_json::from_str(&out.stderr).unwrap();
    assert_eq!(
        (out.code, &err["error"]["kind"], &err["error"]["code"]),
        (4, &json!("NotFound"), &json!("NotFoundException"))
    );
    assert!(err["error"]["message"].as_str().unwrap().contains("none") && err["error"]["hint"].is_string(), "{err}");
}

#[test]
fn aliases_are_made_moved_and_removed() {
    let s = Scratch::new();
    let (one, two) = (s.id(&["key", "create"]), s.id(&["key", "create"]));
    s.ok(&["key", "alias", "create", "alias/a", &one]);
    assert_eq!(s.id(&["key", "show", "alias/a"]), one);
    s.fails(1, &["key", "alias", "create", "alias/a", &two], &["alias/a"]);
    s.ok(&["key", "alias", "update", "alias/a", &two]);
    assert_eq!(s.id(&["key", "show", "alias/a"]), two);
    s.ok(&["key", "alias", "delete", "alias/a"]);
    s.fails(4, &["key", "show", "alias/a"], &["alias/a"]);
    s.fails(4, &["key", "alias", "delete", "alias/a"], &["alias/a"]);
    s.fails(4, &["key", "alias", "update", "alias/a", &two], &["alias/a"]);
    s.fails(2, &["key", "alias", "create", "no-prefix", &one], &["alias/"]);
    let reserved = s.coffer(&["key", "alias", "create", "alias/aws/mine", &one]);
    assert!(reserved.code != 0 && reserved.stderr.contains("alias/aws/"), "{reserved:?}");
    s.fails(4, &["key", "alias", "create", "alias/b", "11111111-2222-4333-8444-555555555555"], &["11111111"]);
    assert_eq!(s.id(&["key", "show", &two]), two, "the key stays");
}

#[test]
fn an_old_volume_opens_after_its_key_was_rotated() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/r"]);
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "old", "--key", "alias/r"]);
    let data = noise(1, 8192);
    let server = s.serve();
    let mut c = server.connect("old");
    c.write(4096, &data);
    c.close();
    assert_eq!(s.json(&["key", "rotate", "alias/r"])["materials"], json!(2));
    drop(server);
    assert_eq!(s.json(&["key", "rotate", "alias/r"])["materials"], json!(3));
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "new", "--key", "alias/r"]);
    let server = s.serve();
    assert_eq!(server.connect("old").read(4096, 8192), data);
    assert_eq!(server.connect("new").read(0, 4096), [0; 4096]);
}

#[test]
fn a_disabled_key_refuses_and_suspends_until_it_is_enabled() {
    let s = Scratch::new();
    let key = s.id(&["key", "create", "--alias", "alias/d"]);
    let create = |name| {
        let args = ["volume", "create", "--size", "1MiB", "--name", name, "--key", "alias/d", "--on-key-loss", "fail"];
        s.coffer(&args)
    };
    assert_eq!(create("v").code, 0);
    let data = noise(2, 4096);
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &data);
    assert_eq!(s.json(&["key", "disable", "alias/d"])["state"], json!("Disabled"));
    assert!(c.try_read(0, 4096).unwrap().is_err(), "a suspended volume is not read");
    assert!(c.try_write(0, &[0; 4096], false).unwrap().is_err(), "a suspended volume is not written");
    let refused = create("w");
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains(&key) && refused.stderr.to_lowercase().contains("disabled"), "{}", refused.stderr);
    s.fails(6, &["volume", "export-key", "v", "--out", s.path("k").to_str().unwrap()], &["isabled"]);
    if is_root() {
        s.fails(5, &["attach", "v"], &["held by process"]);
    }
    assert!(!s.path("k").exists());
    assert_eq!(s.json(&["key", "enable", "alias/d"])["state"], json!("Enabled"));
    assert_eq!(c.read(0, 4096), data, "the same connection goes on");
    c.write(8192, &data);
    c.close();
    s.ok(&["key", "disable", "alias/d"]);
    let refused = Nbd::open(&s.socket(), "v").err().unwrap().to_string();
    assert!(refused.to_lowercase().contains("disabled"), "{refused}");
    if is_root() {
        s.fails(6, &["attach", "v"], &["isabled"]);
    }
    // Showing a volume and taking a snapshot need no key.
    assert_eq!(s.json(&["volume", "show", "v"])["name"], json!("v"));
    s.ok(&["snapshot", "create", "v", "--wait"]);
    s.ok(&["key", "enable", "alias/d"]);
    assert_eq!(server.connect("v").read(8192, 4096), data);
    s.ok(&["key", "schedule-deletion", "alias/d", "--days", "7"]);
    assert_eq!(create("x").code, 6);
    s.fails(2, &["key", "schedule-deletion", "alias/aws/ebs", "--days", "6"], &["7"]);
    assert_eq!(s.json(&["key", "cancel-deletion", "alias/d"])["state"], json!("Disabled"));
}

#[test]
fn a_volume_grows_and_does_not_shrink() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let data = noise(3, 4096);
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(MIB - 4096, &data);
    assert_eq!(s.json(&["volume", "grow", "v", "--size", "3MiB"])["size"], json!(3 * MIB));
    assert_eq!(c.size(), MIB);
    c.close();
    let mut c = server.connect("v");
    assert_eq!(c.size(), 3 * MIB);
    assert_eq!((c.read(MIB - 4096, 4096), c.read(MIB, 4096)), (data.clone(), vec![0; 4096]));
    c.write(3 * MIB - 4096, &data);
    c.close();
    s.fails(2, &["volume", "grow", "v", "--size", "2MiB"], &["cannot shrink"]);
    s.fails(2, &["volume", "grow", "v", "--size", "3145729"], &["512"]);
    assert_eq!(server.stop(), 0);
    assert_eq!(s.json(&["volume", "grow", "v", "--size", "4MiB"])["size"], json!(4 * MIB));
    s.fails(2, &["volume", "grow", "v", "--size", "2MiB"], &["cannot shrink"]);
    let server = s.serve();
    let mut c = server.connect("v");
    assert_eq!((c.size(), c.read(3 * MIB - 4096, 4096)), (4 * MIB, data));
}

#[test]
fn names_have_rules() {
    let s = Scratch::new();
    let create = |name: &str| s.coffer(&["volume", "create", "--size", "1MiB", &format!("--name={name}")]);
    for good in ["a", "web.1_x-2", "9", &"n".repeat(128)] {
        assert_eq!(create(good).code, 0, "{good}");
    }
    for bad in ["", ".hidden", "-x", "a b", "a/b", "ü", "vol-1", "snap-x", "a?t=1", &"n".repeat(129)] {
        let out = create(bad);
        assert_eq!(out.code, 2, "{bad:?}: {out:?}");
    }
    let twice = create("a");
    assert!(twice.code == 1 && twice.stderr.contains("volume a already exists"), "{twice:?}");
    assert_eq!(s.ids(&["volume", "list"]).len(), 4);
    assert_eq!(files(&s.data.join("volumes")).len(), 4, "a refused create leaves no file");
}

#[test]
fn exports_are_private_and_never_overwrite() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let (key, out) = (s.path("key.bin"), s.path("v.bin"));
    let export_key = ["volume", "export-key", "v", "--out", key.to_str().unwrap()];
    let export = ["volume", "export", "v", out.to_str().unwrap(), "--sealed"];
    s.ok(&export_key);
    s.ok(&export);
    for file in [&key, &out] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert_eq!((key.metadata().unwrap().len(), out.metadata().unwrap().len()), (64, MIB));
    for (file, args) in [(&key, &export_key[..]), (&out, &export)] {
        std::fs::write(file, "mine").unwrap();
        s.fails(1, args, &[file.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
    }
    s.fails(2, &["volume", "export", "v", s.path("x").to_str().unwrap()], &["--sealed"]);
    let server = s.serve();
    let c = server.connect("v");
    s.fails(5, &["volume", "export", "v", s.path("x").to_str().unwrap(), "--sealed"], &["in use"]);
    s.fails(5, &["volume", "delete", "v"], &["held by process"]);
    c.close();
    assert!(!s.path("x").exists());
    let events = s.json(&["audit", "list"]).to_string();
    assert!(events.contains("ExportKey") && events.contains("ExportVolume"), "{events}");
}

/// Only root may attach; refusals before that check apply to everyone.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn attach_needs_a_server_and_detach_an_attachment() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    s.fails(8, &["attach", "v", "/dev/nbd0"], &["no server", "coffer serve"]);
    s.fails(4, &["detach", "v"], &["not attached"]);
    let _server = s.serve();
    s.fails(2, &["attach", "v", "/dev/no-such-device"], &["/dev/no-such-device", "/dev/nbd0"]);
    s.fails(2, &["attach", "v", "--connections", "0"], &["--connections"]);
    s.fails(4, &["detach", "v"], &["not attached"]);
    s.fails(2, &["attach-helper", "v"], &["`coffer attach`"]);
    if !is_root() {
        s.fails(6, &["attach", "v"], &["run as root"]);
    } else if !std::path::Path::new("/sys/module/nbd").exists() {
        // If the kernel cannot attach it, the registration is undone.
        s.fails(4, &["attach", "v"], &["modprobe nbd"]);
    }
    assert!(s.ids(&["attachments"]).is_empty());
    s.ok(&["volume", "delete", "v"]);
}

#[test]
fn a_snapshot_of_a_volume_made_from_one_holds_what_changed() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v"]);
    let data = noise(4, 8 << 20);
    let server = s.serve();
    let mut c = server.connect("v");
    for (i, part) in data.chunks(1 << 20).enumerate() {
        c.write(i as u64 * MIB, part);
    }
    let first = s.id(&["snapshot", "create", "v", "--wait"]);
    c.close();
    assert!(s.json(&["snapshot", "show", &first])["stored"].as_u64().unwrap() >= 8 * MIB);
    s.ok(&["volume", "create", "--snapshot", &first, "--name", "copy", "--size", "9MiB"]);
    let mut c = server.connect("copy");
    let fresh = noise(5, 4096);
    c.write(2 * MIB, &fresh);
    let second = s.json(&["snapshot", "create", "copy", "--wait"]);
    c.close();
    assert_eq!((&second["base"], &second["size"]), (&json!(first), &json!(9 * MIB)));
    assert_eq!(second["changed"], json!(MIB / 2), "one chunk changed");
    assert!(second["stored"].as_u64().unwrap() < MIB, "{second}");
    // The second does not need the first to be listed, and is complete by itself.
    s.ok(&["snapshot", "delete", &first]);
    let id = second["id"].as_str().unwrap();
    s.ok(&["snapshot", "verify", id]);
    s.ok(&["volume", "create", "--snapshot", id, "--name", "again"]);
    let mut c = server.connect("again");
    let mut want = data;
    want[2 << 20..(2 << 20) + 4096].copy_from_slice(&fresh);
    for (i, part) in want.chunks(1 << 20).enumerate() {
        assert!(c.read(i as u64 * MIB, 1 << 20) == part, "MiB {i} differs");
    }
    assert_eq!(c.read(8 * MIB, 4096), [0; 4096]);
    s.fails(2, &["volume", "create", "--snapshot", id, "--size", "1MiB"], &["does not fit into 1 MiB"]);
}

#[test]
fn deleting_a_snapshot_frees_what_nobody_needs() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "4MiB", "--name", "v"]);
    let data = noise(6, 4 << 20);
    let server = s.serve();
    let mut c = server.connect("v");
    c.write(0, &data);
    c.close();
    assert_eq!(server.stop(), 0);
    let repository = s.data.join("repository");
    let snap = s.id(&["snapshot", "create", "v"]);
    let full = bytes_in(&repository);
    assert!(full > 4 * MIB, "{full}");
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    s.ok(&["volume", "delete", "v"]);
    // The copy is still empty: it must find its bytes all the same.
    s.ok(&["snapshot", "delete", &snap]);
    s.fails(4, &["snapshot", "show", &snap], &[&snap]);
    assert!(bytes_in(&repository) > 4 * MIB, "the copy still needs them");
    let server = s.serve();
    assert!(server.connect("copy").read(0, 4 << 20) == data);
    wait_until("the copy is filled", || s.json(&["volume", "show", "copy"])["hydrated"] == json!(true));
    assert!(server.connect("copy").read(0, 4 << 20) == data);
    assert_eq!(server.stop(), 0);
    s.ok(&["volume", "delete", "copy"]);
    let left = bytes_in(&repository);
    assert!(left < MIB, "{left} bytes are left in the repository: {:?}", files(&repository));
}

#[test]
fn a_volume_that_is_being_filled_can_be_deleted() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "32MiB", "--name", "v"]);
    let server = s.serve();
    let mut c = server.connect("v");
    for i in 0..8 {
        c.write(i * 4 * MIB, &noise(i, 4 << 20));
    }
    c.close();
    let snap = s.id(&["snapshot", "create", "v", "--wait"]);
    for i in 0..4 {
        let name = format!("copy{i}");
        s.ok(&["volume", "create", "--snapshot", &snap, "--name", &name]);
        let mut c = server.connect(&name);
        assert_eq!(c.read(0, 512), noise(0, 512), "{i}");
        c.close();
        s.ok(&["volume", "delete", &name]);
    }
    s.ok(&["snapshot", "delete", &snap]);
    assert_eq!(server.stop(), 0);
    assert_eq!(s.log().matches("ERROR").count(), 0, "{}", s.log());
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_not_wrong() {
    let s = Scratch::empty();
    for args in [
        &["--no-such-flag"][..],
        &["no-such-verb"],
        &[],
        &["volume"],
        &["volume", "create", "--size", "12 parsecs"],
        &["volume", "create", "--siz", "1MiB"],
        &["volume", "grow", "v"],
        &["snapshot", "create"],
        &["key", "schedule-deletion", "k", "--days", "many"],
        &["init", "--passphrase", "--key-file", "x"],
    ] {
        assert_eq!(s.coffer(args).code, 2, "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["volume", "create", "--help"]] {
        let out = s.ok(args);
        assert!(out.stderr.is_empty() && !out.stdout.is_empty(), "{args:?}: {out:?}");
    }
    assert!(!s.data.exists(), "wrong usage makes nothing");
    let s = Scratch::new();
    s.fails(2, &["volume", "create", "--name", "v"], &["--size", "--snapshot"]);
    s.fails(2, &["snapshot", "delete", "vol-nonsense!"], &["nonsense"]);
}

#[test]
fn another_user_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        skip("root, to become another user");
        return;
    }
    if !requires("setpriv") {
        return;
    }
    let s = Scratch::new();
    let open = s.data.parent().unwrap();
    std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let coffer = open.join("coffer");
    std::fs::copy(COFFER, &coffer).unwrap();
    let look = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        output(command.arg(&coffer).arg("--data").arg(&s.data).args(["volume", "list"]))
    };
    for server in [None, Some(s.serve())] {
        let out = look();
        assert_eq!((out.code, &*out.stdout), (6, ""), "{out:?}");
        assert!(out.stderr.contains("run as the owner"), "{}", out.stderr);
        drop(server);
    }
    // The directory opened by mistake: the socket by itself still admits no one else.
    for dir in [&s.data, &s.data.join("volumes")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _server = s.serve();
    assert_ne!(look().code, 0);
    for file in [s.data.join("control.sock"), s.socket()] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn doctor_names_what_is_wrong() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let find = |check: &str, words: &str| {
        let out = s.coffer(&["--json", "doctor"]);
        let all = out.json()["findings"].as_array().unwrap().clone();
        let found = all.iter().find(|f| f["check"] == json!(check) && f["message"].as_str().unwrap().contains(words));
        let grade = found.unwrap_or_else(|| panic!("nothing of {check} says {words:?}: {out:?}"))["grade"].clone();
        (out.code, grade.as_str().unwrap().to_owned())
    };
    let is = |grade: &str, code| (code, grade.to_owned());
    assert_eq!(find("root key", s.key.to_str().unwrap()), is("warning", 0));
    // Keys of coffer's own are listed here and nowhere else.
    for name in ["catalog", "audit", "local seal", "principals", "grant tokens", "signing key"] {
        assert_eq!(find("own keys", &format!("{name} (")), is("ok", 0));
    }
    let listed = s.json(&["kms", "list-keys"])["output"]["Keys"].as_array().unwrap().len();
    assert_eq!(listed, 1, "the key behind alias/aws/ebs");
    assert_eq!(find("audit", "chained"), is("ok", 0));
    assert_eq!(find("volume", "v (vol-"), is("ok", 0));
    std::fs::write(s.data.join("volumes/vol-stray.coffer"), "x").unwrap();
    assert_eq!(find("volume", "vol-stray.coffer is not a volume"), is("warning", 0));
    std::fs::remove_file(s.file("v")).unwrap();
    assert_eq!(find("volume", "volume v (vol-"), is("error", 1));
    assert_eq!(s.json(&["volume", "list"])["volumes"][0]["state"], json!("error"));
}

#[test]
fn a_long_job_gives_way_to_a_server_and_is_done_by_it() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "2GiB", "--name", "v"]);
    let out = s.path("image");
    let mut export = s
        .command(&["--json", "volume", "export", "v", "--sealed", out.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its progress fills the pipe, which blocks it until we read on: so it is at work while the server comes.
    let pipe = export.stderr.take().unwrap();
    rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
    let mut progress = BufReader::with_capacity(128, pipe);
    let mut line = String::new();
    progress.read_line(&mut line).unwrap();
    assert!(line.contains("export"), "{line}");
    let mut server = s.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
    let lock = std::fs::File::open(s.data.join("lock")).unwrap();
    wait_until("the server asks for the directory", || coffer::sys::ofd_is_locked(&lock, 1, 1).unwrap());
    let reading = std::thread::spawn(move || std::io::copy(&mut progress, &mut std::io::sink()).unwrap());
    let done = export.wait_with_output().unwrap();
    reading.join().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 2 << 30);
    let events = s.json(&["audit", "list"]).to_string();
    assert_eq!(events.matches("coffer:ExportVolume").count(), 2, "begun here, and done there: {events}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}

/// What `aws kms` users do with Encrypt, Decrypt, ReEncrypt and GenerateDataKey, with and without a server.
#[test]
fn keys_encrypt_decrypt_and_hand_out_data_keys() {
    let s = Scratch::new();
    let old = s.json(&["key", "create", "--alias", "alias/old"])["arn"].as_str().unwrap().to_owned();
    s.ok(&["key", "create", "--alias", "alias/new"]);
    let at = |name: &str| s.path(name).to_str().unwrap().to_owned();
    std::fs::write(at("plain"), b"attack at dawn").unwrap();
    let context = ["--context", "app=web"];
    let server = s.serve();
    s.ok(&[&["key", "encrypt", "alias/old", "--input", &at("plain"), "--out", &at("blob")][..], &context].concat());
    drop(server);
    let opened = s.ok(&[&["key", "decrypt", "--input", &at("blob")][..], &context].concat());
    assert_eq!(opened.stdout, "attack at dawn");
    s.fails(7, &["key", "decrypt", "--input", &at("blob")], &["ciphertext is not valid"]);

    s.ok(&["key", "rotate", "alias/old"]);
    s.ok(&[&["key", "re-encrypt", "alias/new", "--input", &at("blob"), "--out", &at("moved")][..], &context].concat());
    s.ok(&["key", "disable", "alias/old"]);
    s.fails(6, &[&["key", "decrypt", "--input", &at("blob")][..], &context].concat(), &[&old]);
    let opened = s.ok(&[&["key", "decrypt", "--key", "alias/new", "--input", &at("moved")][..], &context].concat());
    assert_eq!(opened.stdout, "attack at dawn");
    s.fails(7, &[&["key", "decrypt", "--key", "alias/old", "--input", &at("moved")][..], &context].concat(), &[]);

    let made = ["key", "generate-data-key", "alias/new", "--out", &at("dk"), "--plaintext-out", &at("dk.clear")];
    s.ok(&made);
    let clear = std::fs::read(at("dk.clear")).unwrap();
    assert_eq!((clear.len(), std::fs::metadata(at("dk.clear")).unwrap().permissions().mode() & 0o777), (32, 0o600));
    s.ok(&["key", "decrypt", "--input", &at("dk"), "--out", &at("dk.again")]);
    assert_eq!(std::fs::read(at("dk.again")).unwrap(), clear);
    s.fails(1, &made, &["create", "exists"]);
    let shown = s.ok(&["--json", "audit", "list", "--limit", "1000"]).stdout;
    for act in ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey"] {
        assert!(shown.contains(act), "{act}");
    }
    assert!(!shown.contains("attack") && !shown.contains(&hex::encode(&clear)));
}
