//! Ownership of a data directory, its contents, and what doctor reports of one that does not open.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user that is not root.
const USER: u32 = 12_345;

/// A scratch directory that another user may enter, with an empty data directory of that user. `None` if we are not
/// root.
fn users_place() -> Option<Scratch> {
    if !rustix::process::geteuid().is_root() {
        skip("root");
        return None;
    }
    let s = Scratch::empty();
    std::fs::set_permissions(s.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(&s.data).unwrap();
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&s.data, Some(USER), Some(USER)).unwrap();
    Some(s)
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            found.extend(all_files(&entry));
        }
        found.push(entry);
    }
    found
}

#[test]
fn what_root_makes_in_a_users_directory_is_the_users() {
    let Some(s) = users_place() else { return };
    s.init();
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    s.ok(&["snapshot", "create", "v", "--wait"]);
    drop(s.serve());
    let files = all_files(&s.data);
    assert!(files.len() > 10, "{files:?}");
    for path in files.iter().chain([&s.key]) {
        assert_eq!(path.symlink_metadata().unwrap().uid(), USER, "{}", path.display());
    }
    // The user's own commands work with it.
    let mine = output(s.command(&["volume", "list"]).uid(USER).gid(USER));
    assert!(mine.code == 0 && mine.stdout.contains("vol-"), "{mine:?}");
    // Root is still the caller, and files elsewhere are opened as root.
    let (folder, image) = (s.path("roots"), s.path("roots/image"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    s.ok(&["volume", "export", "v", "--sealed", image.to_str().unwrap()]);
    assert_eq!(image.metadata().unwrap().uid(), 0);
    let key = s.path("roots/root.key");
    std::fs::rename(&s.key, &key).unwrap();
    s.ok(&["--root-key-file", key.to_str().unwrap(), "volume", "list"]);
    let events = s.ok(&["--root-key-file", key.to_str().unwrap(), "--json", "audit", "list"]).stdout;
    assert!(events.contains(":root\""), "{events}");
}

#[test]
fn root_follows_no_link_in_a_users_directory() {
    let Some(s) = users_place() else { return };
    s.init();
    let target = s.path("of-root");
    std::fs::write(&target, "precious").unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
    let links =
        ["lock", "audit/reserve", "audit/0000000000000000.log", "catalog.db", "catalog.db-wal", "root.json.new"];
    for name in links {
        let path = s.data.join(name);
        let whole = std::fs::read(&path).ok();
        let _ = std::fs::remove_file(&path);
        symlink(&target, &path).unwrap();
        for args in [&["volume", "list"][..], &["key", "create"], &["doctor"]] {
            s.coffer(args);
        }
        assert_eq!(std::fs::read(&target).unwrap(), b"precious", "{name}");
        assert_eq!(target.metadata().unwrap().uid(), 0, "{name}");
        if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            std::fs::remove_file(&path).unwrap();
            if let Some(whole) = whole {
                std::fs::write(&path, whole).unwrap();
                chown(&path, Some(USER), Some(USER)).unwrap();
            }
        }
    }
    s.ok(&["volume", "list"]);
}

/// Someone who may write `root.json`, or place a link, cannot lead root to anything that is not theirs.
#[test]
fn root_is_led_to_no_key_file_and_no_directory_by_a_user() {
    let Some(s) = users_place() else { return };
    s.init();
    // The key file's path in root.json: opened as the owner. One given on the command line: as root.
    chown(&s.key, Some(0), Some(0)).unwrap();
    let key = s.key.to_str().unwrap();
    s.fails(6, &["volume", "list"], &["key file", "cannot read the key file", "--root-key-file"]);
    s.ok(&["volume", "list", "--root-key-file", key]);
    s.fails(6, &["key", "list"], &["cannot read the key file"]);
    // A link of the user's to an installation of root's.
    let mine = Scratch::new();
    let link = s.path("link");
    symlink(&mine.data, &link).unwrap();
    lchown(&link, Some(USER), Some(USER)).unwrap();
    let list = |place: &Path| output(Command::new(COFFER).arg("--data").arg(place).args(["volume", "list"]));
    let refused = list(&link);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains("symbolic link") && refused.stderr.contains("12345"), "{refused:?}");
    // And one in the middle of a path, after a link of root's own.
    let (way, mine_too) = (s.path("way"), s.path("way/data"));
    symlink(s.path(""), s.path("theirs")).unwrap();
    lchown(s.path("theirs"), Some(USER), Some(USER)).unwrap();
    symlink(s.path("theirs"), &way).unwrap();
    assert_eq!(list(&mine_too).code, 6);
    lchown(&link, Some(0), Some(0)).unwrap();
    assert_eq!(list(&link).code, 0, "root's own links are followed");
}

#[test]
fn init_refuses_a_directory_that_others_may_write_to() {
    let s = Scratch::empty();
    std::fs::create_dir(&s.data).unwrap();
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o777)).unwrap();
    let key = s.key.to_str().unwrap().to_owned();
    s.fails(6, &["init", "--key-file", &key], &["writable by other users", "chmod 700"]);
    assert_eq!(std::fs::read_dir(&s.data).unwrap().count(), 0);
    assert!(!s.key.exists());
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o700)).unwrap();
    s.init();
}

#[test]
fn init_refuses_a_directory_with_other_files_and_closes_an_empty_one() {
    let s = Scratch::empty();
    let key = s.key.to_str().unwrap();
    std::fs::create_dir(&s.data).unwrap();
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(s.data.join("lost+found")).unwrap();
    std::fs::write(s.data.join("photos"), "").unwrap();
    s.fails(1, &["init", "--key-file", key], &["photos", "empty or a new directory"]);
    assert!(!s.key.exists() && !s.data.join("lock").exists());
    std::fs::remove_file(s.data.join("photos")).unwrap();
    s.ok(&["init", "--key-file", key]);
    assert_eq!(std::fs::metadata(&s.data).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o750)).unwrap();
    let said = s.coffer(&["doctor"]);
    assert!(said.code == 1 && said.stdout.contains("chmod 700"), "{said:?}");
}

#[test]
fn init_refuses_another_users_directory() {
    let Some(s) = users_place() else { return };
    let key = s.key.to_str().unwrap().to_owned();
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o755)).unwrap();
    let out = output(s.command(&["init", "--key-file", &key]).uid(USER + 1).gid(USER + 1));
    assert!(out.code == 6 && out.stderr.contains("another user"), "{out:?}");
    assert_eq!(std::fs::read_dir(&s.data).unwrap().count(), 0);
}

#[test]
fn init_shares_a_key_file_only_if_that_is_said() {
    let (s, other) = (Scratch::new(), Scratch::empty());
    let key = s.key.to_str().unwrap();
    other.fails(1, &["init", "--key-file", key], &["--reuse-key-file"]);
    other.ok(&["init", "--key-file", key, "--reuse-key-file"]);
    other.ok(&["volume", "list"]);
}

#[test]
fn an_init_killed_before_its_last_steps_is_finished_by_another() {
    let key_of = |s: &Scratch| s.key.to_str().unwrap().to_owned();
    let undone: [fn(&Scratch); 4] = [
        |_| {},
        |s| std::fs::remove_dir_all(s.data.join("repository")).unwrap(),
        |s| std::fs::remove_file(s.data.join("root.json")).unwrap(),
        |s| std::fs::remove_file(&s.key).unwrap(),
    ];
    for undo in undone {
        let s = Scratch::new();
        std::fs::write(s.data.join("init-unfinished"), key_of(&s)).unwrap();
        undo(&s);
        s.fails(1, &["volume", "list"], &["coffer init"]);
        s.init();
        s.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
        s.ok(&["snapshot", "create", "v", "--wait"]);
        s.ok(&["doctor"]);
    }
    // A repository that no killed init left is not taken over.
    let s = Scratch::empty();
    std::fs::create_dir_all(s.data.join("repository")).unwrap();
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(s.data.join("repository/coffer-repository.json"), "{}").unwrap();
    s.fails(1, &["init", "--key-file", &key_of(&s)], &["repository"]);
    assert!(!s.key.exists());
}

#[test]
fn doctor_says_what_others_may_do() {
    let s = Scratch::new();
    let out = s.ok(&["doctor"]).stdout;
    assert!(!out.contains("files"), "{out}");
    std::fs::set_permissions(&s.data, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(s.data.join("catalog.db"), PermissionsExt::from_mode(0o666)).unwrap();
    let out = s.coffer(&["doctor"]);
    assert!(out.code == 1 && out.stdout.contains("ERROR    files"), "{out:?}");
    assert!(out.stdout.contains("chmod 700") && out.stdout.contains("catalog.db"), "{out:?}");
}

#[test]
fn doctor_looks_at_each_part_of_what_does_not_open() {
    let says = |s: &Scratch, code: i32, words: &[&str]| {
        let out = s.coffer(&["doctor"]);
        assert_eq!(out.code, code, "{out:?}");
        for word in words {
            assert!(out.stdout.contains(word), "no {word:?}: {out:?}");
        }
    };
    let s = Scratch::new();
    s.ok(&["key", "create"]);
    let catalog = std::fs::read(s.data.join("catalog.db")).unwrap();
    std::fs::write(s.data.join("catalog.db"), vec![b'x'; catalog.len()]).unwrap();
    says(
        &s,
        7,
        &["ERROR    installation", "ERROR    catalog", "ok       root key", "ok       key file", "ok       audit"],
    );
    std::fs::write(s.data.join("catalog.db"), &catalog).unwrap();

    let elsewhere = s.path("elsewhere");
    std::fs::rename(&s.key, &elsewhere).unwrap();
    says(&s, 1, &["ERROR    key file", "ERROR    root key", "ok       catalog", "ok       audit"]);
    std::fs::rename(&elsewhere, &s.key).unwrap();

    let root = std::fs::read(s.data.join("root.json")).unwrap();
    for name in ["root.json", "root.b.json"] {
        std::fs::write(s.data.join(name), "{}").unwrap();
    }
    says(&s, 1, &["ERROR    root file", "ERROR    root key", "ok       catalog"]);
    std::fs::write(s.data.join("root.json"), root).unwrap();
    s.ok(&["doctor"]);
}

#[test]
fn a_command_that_gets_no_thread_says_so() {
    let Some(s) = users_place() else { return };
    if !requires("prlimit") {
        return;
    }
    s.init();
    let mut command = Command::new("prlimit");
    command.args(["--nproc=1:1", COFFER, "--data"]).arg(&s.data).args(["volume", "list"]).uid(USER).gid(USER);
    let out = output(command.env_remove("COFFER_DATA"));
    assert!(out.code == 5 && out.stderr.contains("raise the limit of tasks"), "{out:?}");
    s.ok(&["volume", "list"]);
}

#[test]
fn what_root_asks_for_reaches_no_other_server_by_a_users_link() {
    let Some(s) = users_place() else { return };
    s.init();
    let own = Scratch::new();
    own.ok(&["volume", "create", "--size", "1MiB", "--name", "v"]);
    let server = own.serve();
    symlink(own.data.join("control.sock"), s.data.join("control.sock")).unwrap();
    s.fails(6, &["volume", "delete", "v"], &["the server runs as uid 0", "link to another server"]);
    own.ok(&["volume", "show", "v"]);
    drop(server);
    // No one listens on it any more: root may use the directory, as its owner.
    s.ok(&["volume", "list"]);
}

#[test]
fn a_server_that_acts_as_the_owner_hands_on_to_one_that_starts_as_root() {
    let Some(s) = users_place() else { return };
    s.init();
    let tls = s.path("roots");
    s.ok(&["tls", "init", "--dir", tls.to_str().unwrap(), "--name", "localhost"]);
    std::fs::set_permissions(&tls, PermissionsExt::from_mode(0o700)).unwrap();
    let server = s.serve_with(&["--tls", tls.to_str().unwrap(), "--listen", "tcp:127.0.0.1:0"]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let served = || std::fs::read_to_string(s.path("serve.log")).unwrap().matches("coffer: serving").count();
    wait_until("it serves", || served() == 1);
    rustix::process::kill_process(pid, rustix::process::Signal::USR2).unwrap();
    wait_until("its successor serves", || served() == 2);
    s.ok(&["status"]);
}
