//! What must hold after a kill, and the shape of an installation without its ids.

use crate::acts::{Act, Case};
use crate::world::{Copy, OTHER, Open, SIZE};
use coffer::error::Kind;
use coffer::service::Role;
use coffer::volume::Blocking;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Returns all files below a directory.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => out.extend(files(&entry.path())),
            _ => out.push(entry.path()),
        }
    }
    out
}

fn is_initialised(copy: &Copy) -> bool {
    copy.open(Role::Command).is_ok()
}

/// Checks that the installation opens, that every volume, key and snapshot that the act did not concern is usable, and
/// that nothing is left over.
pub fn is_sound(case: &Case, copy: &Copy) -> Result<(), String> {
    let open = match copy.open(Role::Command) {
        // An interrupted init is not an installation yet, and says so.
        Err(err) if case.name == "init" && matches!(err.kind(), Kind::NotFound | Kind::InvalidState) => return Ok(()),
        open => open.map_err(|e| format!("it does not open: {}", e.line()))?,
    };
    match open.ask(crate::world::request(json!({"action": "audit-verify"}))) {
        Err(_) if case.name == "audit-accept" => return Ok(()),
        Err(err) => return Err(format!("the audit does not fit the catalog: {}", err.line())),
        Ok(_) => {}
    }
    if !is_another_world(&open) {
        other_volume_reads(&open)?;
        snapshots_verify(&open)?;
        nobody_is_half_deleted(&open)?;
    }
    doctor_is_content(&open)
}

/// Whether an installation is empty: init's.
fn is_another_world(open: &Open) -> bool {
    open.json(json!({"action": "volume-list"}))["volumes"].as_array().unwrap().is_empty()
}

fn has_trouble(open: &Open) -> bool {
    open.ask(crate::world::request(json!({"action": "audit-verify"}))).is_err()
}

fn other_volume_reads(open: &Open) -> Result<(), String> {
    // Disabling its key is one of the acts.
    if open.json(json!({"action": "key-show", "key": "alias/k"}))["state"] != "Enabled" {
        return Ok(());
    }
    let read = open.with_volume("other", |volume| {
        (0..SIZE.div_ceil(512 * 1024)).all(|chunk| {
            let mut got = [0; 4096];
            let _done = volume.read(chunk * 512 * 1024, &mut got, Blocking::Allowed).unwrap();
            got == [OTHER; 4096]
        })
    });
    match read {
        Ok(true) => Ok(()),
        Ok(false) => Err("another volume has other bytes".into()),
        Err(err) => Err(format!("another volume does not open: {}", err.line())),
    }
}

/// Where a deleted user was named, its id is named.
fn nobody_is_half_deleted(open: &Open) -> Result<(), String> {
    match open.names_of_bob() {
        [true, true, true, true] | [false, false, false, false] => Ok(()),
        [policy, grant, trust, there] => Err(format!("policy {policy}, grant {grant}, trust {trust}, user {there}")),
    }
}

fn snapshots_verify(open: &Open) -> Result<(), String> {
    let all = open.json(json!({"action": "snapshot-list"}));
    for snapshot in all["snapshots"].as_array().unwrap() {
        match snapshot["state"].as_str().unwrap() {
            "completed" => {
                is_good(open, &snapshot["id"])?;
            }
            "error" => {}
            _ => {
                // It is continued, and whole; or it had not begun, and is in error.
                let asked = |action| json!({"action": action, "snapshot": snapshot["id"]});
                match open.ask(crate::world::request(asked("snapshot-wait"))) {
                    Err(_) if open.json(asked("snapshot-show"))["state"] == "error" => {}
                    Err(err) => return Err(format!("a pending snapshot is not continued: {}", err.line())),
                    Ok(done) => is_good(open, &serde_json::to_value(done).unwrap()["id"])?,
                }
            }
        }
    }
    groups_are_whole(open)
}

/// Of a group, all snapshots are completed, or none is.
fn groups_are_whole(open: &Open) -> Result<(), String> {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in open.json(json!({"action": "snapshot-list"}))["snapshots"].as_array().unwrap() {
        if let Some(group) = one["group"].as_str() {
            groups.entry(group.to_owned()).or_default().insert(one["state"].to_string());
        }
    }
    match groups.into_iter().find(|(_, states)| states.len() > 1) {
        Some((group, states)) => Err(format!("{group} is not whole: {states:?}")),
        None => Ok(()),
    }
}

fn is_good(open: &Open, snapshot: &Value) -> Result<(), String> {
    let found = open.json(json!({"action": "snapshot-verify", "snapshots": [snapshot]}));
    let found = &found["snapshots"][0];
    if found["bad_chunks"] != 0 || !found["error"].is_null() {
        return Err(format!("a completed snapshot is bad: {found}"));
    }
    Ok(())
}

fn doctor_is_content(open: &Open) -> Result<(), String> {
    let found = open.json(json!({"action": "doctor"}));
    let about_the_machine = ["memory", "swap", "kernel", "file system", "root key"];
    let bad = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["grade"] != "ok" && !about_the_machine.contains(&f["check"].as_str().unwrap()) && !is_told(f));
    bad.map_or(Ok(()), |f| Err(format!("doctor: {}", f["message"])))
}

/// Whether doctor reports this because of the fixture or the acts themselves: keys pending deletion, volumes that were
/// suspended or whose key was disabled, a snapshot whose command was killed.
fn is_told(finding: &Value) -> bool {
    let message = finding["message"].as_str().unwrap();
    let of_acts =
        ["is suspended", "cannot be attached: its CMK", "ended before it was begun", "ended before all of its group"];
    ["key", "space"].contains(&finding["check"].as_str().unwrap()) || of_acts.iter().any(|m| message.contains(m))
}

/// Whether a person who checks finds an act done.
pub fn is_done(case: &Case, copy: &Copy) -> bool {
    (case.is_done)(&copy.open(Role::Command).unwrap())
}

/// Repeats an act as someone who was interrupted would; the next server does its chores in any case.
pub fn do_again(case: &Case, act: &Act, copy: &Copy) -> Result<(), String> {
    if matches!(act, Act::Init) {
        return if is_initialised(copy) { Ok(()) } else { act.run(copy).map_err(|e| e.line()) };
    }
    let open = copy.open(Role::Command).map_err(|e| e.line())?;
    drop_failed_snapshots(&open);
    let done = (case.is_done)(&open) || (case.name == "audit-accept" && !has_trouble(&open));
    drop(open);
    if done && !matches!(act, Act::Chores { .. }) {
        return Ok(());
    }
    match act.run(copy) {
        // The first attempt had done it.
        Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Exists | Kind::Busy) => Ok(()),
        other => other.map_err(|e| e.line()),
    }
}

fn drop_failed_snapshots(open: &Open) {
    if has_trouble(open) {
        return;
    }
    let all = open.json(json!({"action": "snapshot-list"}));
    for failed in all["snapshots"].as_array().unwrap().iter().filter(|s| s["state"] == "error") {
        open.json(json!({"action": "snapshot-delete", "snapshot": failed["id"]}));
    }
}

/// Describes an installation without ids and times: what its lists show, and how many files of which kind it has.
pub fn shape(copy: &Copy) -> Vec<String> {
    let open = copy.open(Role::Command).unwrap();
    let mut out = Vec::new();
    let mut add = |what: &str, verb: &str, list: &str, fields: &[&str]| {
        let all = open.json(json!({"action": verb}));
        let mut lines: Vec<String> = all[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let shown: Vec<String> = fields
                    .iter()
                    .map(|f| format!("{f}={}", one.pointer(&format!("/{f}")).unwrap_or(&Value::Null)))
                    .collect();
                format!("{what}: {}", shown.join(" "))
            })
            .collect();
        lines.sort();
        out.extend(lines);
    };
    add("key", "key-list", "keys", &["aliases", "state", "materials", "description"]);
    add("volume", "volume-list", "volumes", &["name", "size", "state", "hydrated", "iops", "on_key_loss"]);
    add(
        "snapshot",
        "snapshot-list",
        "snapshots",
        &["state", "size", "changed", "stored", "description", "name", "tags", "held", "lock/state"],
    );
    add("repository", "repository-list", "repositories", &["name", "default", "snapshots", "stored"]);
    add("schedule", "schedule-list", "schedules", &["name", "cadence", "keep", "paused", "error"]);
    add("attachment", "attachment-list", "attachments", &["name", "device"]);
    add("access", "access-list", "clients", &["name", "by", "volumes"]);
    add("account", "account-list", "accounts", &["name"]);
    add("principal", "principal-list", "principals", &["sort", "name", "policies", "trust"]);
    let bin = open.json(json!({"action": "snapshot-list", "recycled": true}))["snapshots"].as_array().unwrap().len();
    out.push(format!("recycled: {bin}, for {}", open.json(json!({"action": "recycle-bin-show"}))["days"]));
    out.extend(grants(&open));
    out.extend(access_keys(&open));
    out.extend(crate::aws::shape(&open));
    drop(open);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files(copy.root()) {
        let inside = file.strip_prefix(copy.root()).unwrap();
        let sort = inside.parent().unwrap().file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let extension = inside.extension().map_or_else(String::new, |e| e.to_string_lossy().into_owned());
        if sort == "audit" && extension == "log" {
            *counts.entry("segments of the audit".to_owned()).or_default() += 1;
        }
        // The log grows with every attempt, and what is set aside stays.
        if sort != "log" && sort != "audit" && sort != "data" {
            *counts.entry(format!("files in {sort} {extension}")).or_default() += 1;
        }
    }
    for file in files(&copy.root().join("out")) {
        let hash = blake3::hash(&std::fs::read(&file).unwrap());
        out.push(format!("{}: {hash}", file.file_name().unwrap().display()));
    }
    out.extend(counts.iter().map(|(sort, n)| format!("{sort}: {n}")));
    out
}

fn grants(open: &Open) -> Vec<String> {
    if is_another_world(open) {
        return Vec::new();
    }
    let all = open.json(json!({"action": "grant-list", "key": "alias/k"}));
    let mut names: Vec<String> =
        all["grants"].as_array().unwrap().iter().map(|g| format!("grant: {}", g["name"])).collect();
    names.sort();
    names
}

fn access_keys(open: &Open) -> Vec<String> {
    let users = open.json(json!({"action": "principal-list"}));
    let users = users["principals"].as_array().unwrap().iter().filter(|p| p["sort"] == "user");
    let of = |user: &Value| {
        let all = open.json(json!({"action": "access-key-list", "principal": user["arn"]}));
        let one = |key: &Value| format!("access key: {} active={}", user["name"], key["active"]);
        all["keys"].as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    users.flat_map(of).collect()
}

/// Returns the lines that only one of the two has.
pub fn differs(wanted: &[String], found: &[String]) -> String {
    let gone = wanted.iter().filter(|l| !found.contains(l)).map(|l| format!("- {l}"));
    let new = found.iter().filter(|l| !wanted.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}
