//! The acts that are killed: every verb of the service, and what the service does on its own.

use crate::world::{Copy, DOCUMENT, Open, TRUST, request};
use coffer::error::{Error, Kind, Result};
use coffer::service::operations::Request;
use coffer::service::{Remote, Role};
use coffer::sys::draft::Draft;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An act, as passed to the process that is killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// A new installation.
    Init,
    /// A verb in a process of its own.
    Verb(Request),
    /// A verb that writes to a file, which its caller opens before and names after it.
    Export { request: Request, out: PathBuf },
    /// A verb that reads a file, which its caller opens.
    Import { request: Request, from: PathBuf },
    /// An operation of AWS's table, likewise.
    Aws { operation: String, input: Value },
    /// A server that starts, hydrates the volume that still needs it, and ends.
    Fill,
    /// A server that does its chores on a machine that has been up for so many days more, and ends.
    Chores { days: i64 },
    /// A server that takes a client over TLS, which disconnects cleanly or not.
    Client { farewell: bool },
}

impl Act {
    pub fn run(&self, copy: &Copy) -> Result<()> {
        match self {
            Self::Init => copy.init(),
            Self::Verb(request) => copy.open(Role::Command)?.ask(request.clone()).map(drop),
            Self::Export { request, out } => {
                let draft = Draft::new(out)?;
                copy.open(Role::Command)?.ask_with(request.clone(), draft.file())?;
                draft.publish()
            }
            Self::Import { request, from } => {
                let file = std::fs::File::open(from).unwrap();
                copy.open(Role::Command)?.ask_with(request.clone(), &file).map(drop)
            }
            Self::Aws { operation, input } => crate::aws::run(copy, operation, input.clone()),
            Self::Fill => fill(&copy.open(Role::Daemon)?),
            Self::Chores { days } => {
                let open = copy.open_later(Role::Daemon, *days)?;
                open.0.do_chores();
                // A server that ends would stop them.
                open.0.wait_for_snapshots(&mut |_| true).map(drop)
            }
            Self::Client { farewell } => client(&copy.open(Role::Daemon)?, *farewell),
        }
    }
}

fn fill(open: &Open) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_filled(open) {
        if Instant::now() > until {
            return Err(Error::new(Kind::Failed, "the volume is not filled after a minute"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the catalog knows that hydration has ended.
fn is_filled(open: &Open) -> bool {
    let all = open.json(json!({"action": "volume-list"}));
    all["volumes"].as_array().unwrap().iter().all(|v| v["hydrated"] == true)
}

fn client(open: &Open, farewell: bool) -> Result<()> {
    // A server hydrates meanwhile: its progress would be random.
    fill(open)?;
    let (names, client) = (vec!["cn:client".to_owned()], "192.0.2.1:7".to_owned());
    let remote = Remote { names, process: None, client, connection: 1 };
    let attached = open.0.remote_attach("v", &remote)?;
    if farewell {
        attached.farewell();
    }
    Ok(())
}

/// An act, its setup, and how a person who saw it interrupted proceeds.
pub struct Case {
    pub name: &'static str,
    pub prepare: fn(&Copy),
    pub act: fn(&Copy) -> Act,
    /// Whether a person who checks finds it done, and does not repeat it.
    pub is_done: fn(&Open) -> bool,
}

impl Case {
    /// Whether this is the case of that act.
    pub fn is_of(&self, act: &Act) -> bool {
        match act {
            Act::Verb(request) | Act::Export { request, .. } | Act::Import { request, .. } => {
                self.name.split('/').next() == Some(covered_by(request))
            }
            _ => true,
        }
    }
}

/// Returns the case that covers a verb.
fn covered_by(request: &Request) -> &'static str {
    match request {
        Request::CreateVolume(new) if new.snapshot.is_some() => "volume-create-from-snapshot",
        other => other.name(),
    }
}

/// Returns the names of all verbs, as [`Request`] itself lists them in its error for an unknown one.
pub fn covered() -> Vec<String> {
    let unknown = serde_json::from_value::<Request>(json!({"action": "no such verb"})).unwrap_err().to_string();
    let listed = unknown.split("expected one of ").nth(1).unwrap();
    let verbs: Vec<String> = listed.split(", ").map(|v| v.trim_matches('`').to_owned()).collect();
    assert!(verbs.len() > 40, "{unknown}");
    verbs
}

const fn nothing(_: &Copy) {}

const fn never(_: &Open) -> bool {
    false
}

fn opened<T>(copy: &Copy, look: impl FnOnce(&Open) -> T) -> T {
    look(&copy.open(Role::Command).unwrap())
}

/// Returns the snapshots of `v`, oldest first.
fn snapshots_of_v(open: &Open) -> Vec<String> {
    let volume = open.json(json!({"action": "volume-show", "volume": "v"}))["id"].clone();
    let all = open.json(json!({"action": "snapshot-list"}));
    let own = all["snapshots"].as_array().unwrap().iter().filter(|s| s["volume"] == volume);
    own.map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

fn grant(open: &Open) -> String {
    let all = open.json(json!({"action": "grant-list", "key": "alias/k"}));
    let named = all["grants"].as_array().unwrap().iter().find(|g| g["name"] == "g").unwrap();
    named["id"].as_str().unwrap().to_owned()
}

fn blob(open: &Open) -> String {
    let made = open.json(json!({"action": "key-encrypt", "key": "alias/k", "plaintext": "00ff", "context": {}}));
    made["blob"].as_str().unwrap().to_owned()
}

fn default_policy(open: &Open) -> String {
    open.json(json!({"action": "key-policy-show", "key": "alias/k"}))["document"].as_str().unwrap().to_owned()
}

/// Makes an act from a verb's JSON.
fn verb(json: Value) -> Act {
    Act::Verb(request(json))
}

macro_rules! case {
    ($name:literal, $act:expr) => {
        case!($name, nothing, $act, never)
    };
    ($name:literal, $prepare:expr, $act:expr, $done:expr) => {
        Case { name: $name, prepare: $prepare, act: $act, is_done: $done }
    };
}

/// A verb whose JSON is all given here.
macro_rules! plain {
    ($name:literal $(, $($field:tt)*)?) => {
        case!($name, |_| verb(json!({"action": $name $(, $($field)*)?})))
    };
}

/// Returns all acts.
pub fn cases() -> Vec<Case> {
    let mut all = keys();
    all.extend(volumes());
    all.extend(snapshots_and_audit());
    all.extend(access());
    all.extend(principals());
    all.extend(crate::aws::cases());
    all.extend(by_itself());
    all.extend(crate::chores::cases());
    all
}

/// Returns the default policy of a key, plus one statement.
fn another_policy(open: &Open) -> String {
    let mut policy: Value = serde_json::from_str(&default_policy(open)).unwrap();
    policy["Statement"][0]["Sid"] = "another".into();
    policy.to_string()
}

fn key(open: &Open, alias: &str) -> Value {
    open.json(json!({"action": "key-show", "key": alias}))
}

fn keys() -> Vec<Case> {
    vec![
        plain!("status"),
        case!("aws", |copy| {
            let id = opened(copy, |open| key(open, "alias/k")["id"].clone());
            let input = json!({"KeyId": id, "Tags": [{"TagKey": "team", "TagValue": "web"}]});
            verb(json!({"action": "aws", "operation": "kms:TagResource", "input": input}))
        }),
        plain!("key-list"),
        plain!("alias-list"),
        plain!("key-create", "alias": "alias/new", "description": "new"),
        plain!("key-show", "key": "alias/k"),
        plain!("key-enable", "key": "alias/off"),
        plain!("key-disable", "key": "alias/k"),
        case!("key-rotate", nothing, |_| verb(json!({"action": "key-rotate", "key": "alias/k"})), |open| {
            key(open, "alias/k")["materials"] == 2
        }),
        case!(
            "key-rewrap",
            |copy| verb(json!({"action": "key-rotate", "key": "alias/k"})).run(copy).unwrap(),
            |_| verb(json!({"action": "key-rewrap", "key": "alias/k"})),
            |open| {
                let left = open.json(json!({"action": "key-rewrap", "dry_run": true}));
                left["keys"].as_array().unwrap().is_empty()
            }
        ),
        plain!("key-encrypt", "key": "alias/k", "plaintext": "00ff", "context": {"a": "b"}),
        case!("key-decrypt", |copy| {
            verb(json!({"action": "key-decrypt", "key": null, "blob": opened(copy, blob), "context": {}}))
        }),
        case!("key-re-encrypt", |copy| {
            let blob = opened(copy, blob);
            verb(
                json!({"action": "key-re-encrypt", "key": "alias/second", "blob": blob, "context": {}, "new_context": {}}),
            )
        }),
        plain!("key-generate-data-key", "key": "alias/k", "bytes": 32, "plaintext": true, "context": {}),
        case!(
            "key-schedule-deletion",
            nothing,
            |_| { verb(json!({"action": "key-schedule-deletion", "key": "alias/second", "days": 7})) },
            |open| key(open, "alias/second")["state"] == "PendingDeletion"
        ),
        case!(
            "key-cancel-deletion",
            nothing,
            |_| { verb(json!({"action": "key-cancel-deletion", "key": "alias/dying"})) },
            |open| key(open, "alias/dying")["state"] == "Disabled"
        ),
        case!("alias-create", |copy| {
            let id = opened(copy, |open| key(open, "alias/second")["id"].clone());
            verb(json!({"action": "alias-create", "alias": "alias/more", "key": id}))
        }),
        case!("alias-update", |copy| {
            let id = opened(copy, |open| key(open, "alias/k")["id"].clone());
            verb(json!({"action": "alias-update", "alias": "alias/second", "key": id}))
        }),
        plain!("alias-delete", "alias": "alias/second"),
        plain!("key-policy-show", "key": "alias/k"),
        case!("key-policy-set", |copy| {
            let policy = opened(copy, another_policy);
            verb(json!({"action": "key-policy-set", "key": "alias/k", "policy": policy, "bypass_lockout_check": false}))
        }),
        plain!("key-policy-reset", "key": "alias/k"),
        plain!("grant-create", "key": "alias/k", "grantee": "arn:aws:iam::111122223333:user/b", "operations": ["Encrypt"],
            "name": "h"),
        plain!("grant-list", "key": "alias/k"),
        plain!("grant-list-retirable", "retiring": "arn:aws:iam::111122223333:user/b"),
        case!("grant-revoke", |copy| {
            verb(json!({"action": "grant-revoke", "key": "alias/k", "grant": opened(copy, grant)}))
        }),
        case!("grant-retire", |copy| {
            verb(json!({"action": "grant-retire", "key": "alias/k", "grant": opened(copy, grant)}))
        }),
    ]
}

fn volumes() -> Vec<Case> {
    let suspended =
        |copy: &Copy| opened(copy, |open| drop(open.json(json!({"action": "volume-suspend", "volume": "v"}))));
    vec![
        plain!("volume-create", "name": "new", "size": 1 << 20, "key": "alias/k", "iops": 200),
        case!("volume-create-from-snapshot", |copy| {
            let snapshot = opened(copy, snapshots_of_v)[0].clone();
            verb(json!({"action": "volume-create", "name": "new", "snapshot": snapshot}))
        }),
        plain!("volume-modify", "volume": "v", "iops": 300, "on_key_loss": "fail"),
        plain!("volume-suspend", "volume": "v"),
        case!("volume-resume", suspended, |_| verb(json!({"action": "volume-resume", "volume": "v"})), never),
        plain!("volume-list"),
        plain!("volume-show", "volume": "v"),
        plain!("volume-delete", "volume": "idle"),
        plain!("volume-grow", "volume": "v", "size": crate::world::SIZE * 2),
        case!("volume-export", |copy| {
            verb(json!({"action": "volume-export", "volume": "v", "out": copy.out("image"), "fill_holes": true}))
        }),
        case!("volume-export-key", |copy| {
            verb(json!({"action": "volume-export-key", "volume": "v", "out": copy.out("key")}))
        }),
        case!(
            "volume-import",
            write_an_image,
            |copy| {
                let from = copy.out("source");
                let asked = json!({"action": "volume-import", "name": "new", "key": "alias/k", "from": from});
                Act::Import { request: request(asked), from }
            },
            never
        ),
        case!(
            "volume-rollback",
            nothing,
            |copy| {
                let first = opened(copy, snapshots_of_v)[0].clone();
                verb(json!({"action": "volume-rollback", "volume": "v", "snapshot": first}))
            },
            never
        ),
        plain!("volume-accept-rollback", "volume": "v"),
        plain!("volume-accept-lost-writes", "volume": "v"),
        // One that is being hydrated from a snapshot, and one that leaves snapshots behind.
        case!("volume-delete/filling", |_| verb(json!({"action": "volume-delete", "volume": "filling"}))),
        case!("volume-delete/with-snapshots", |_| verb(json!({"action": "volume-delete", "volume": "v"}))),
    ]
}

/// An image with data in the first and the last of its four chunks.
fn write_an_image(copy: &Copy) {
    let mut image = vec![0; 4 * 512 * 1024];
    image[4096..8192].fill(1);
    image[3 * 512 * 1024..].fill(2);
    std::fs::write(copy.out("source"), image).unwrap();
}

fn snapshots_and_audit() -> Vec<Case> {
    vec![
        case!(
            "snapshot-create",
            nothing,
            |_| {
                let tags = json!({"team": "web"});
                verb(
                    json!({"action": "snapshot-create", "volume": "v", "description": "new", "wait": true, "name": "new",
                    "tags": tags}),
                )
            },
            a_third_snapshot
        ),
        case!(
            "snapshot-create/first",
            nothing,
            |_| {
                verb(json!({"action": "snapshot-create", "volume": "idle", "description": "the first", "wait": true}))
            },
            |open| has_snapshot(open, "the first")
        ),
        case!(
            "snapshot-create-group",
            nothing,
            |_| {
                verb(json!({"action": "snapshot-create-group", "volumes": ["v", "idle"], "description": "both",
                    "wait": true}))
            },
            |open| has_snapshot(open, "both")
        ),
        case!(
            "snapshot-wait",
            kill_a_create,
            |copy| { verb(json!({"action": "snapshot-wait", "snapshot": opened(copy, pending_snapshot)})) },
            never
        ),
        case!(
            "snapshot-create/elsewhere",
            add_more,
            |_| {
                verb(json!({"action": "snapshot-create", "volume": "v", "description": "new", "wait": true,
                    "repository": "more"}))
            },
            a_third_snapshot
        ),
        case!(
            "snapshot-delete/elsewhere",
            snapshot_into_more,
            |copy| { verb(json!({"action": "snapshot-delete", "snapshot": opened(copy, snapshots_of_v)[2]})) },
            never
        ),
        case!("snapshot-copy", nothing, |copy| copying(copy, json!({"key": "alias/second"})), has_a_copy),
        // Without a key, into another repository.
        case!("snapshot-copy/elsewhere", add_more, |copy| copying(copy, json!({"repository": "more"})), has_a_copy),
        // It joins an earlier copy, and its source is deleted before it is continued.
        case!(
            "snapshot-wait/copy",
            kill_a_copy,
            |copy| verb(json!({"action": "snapshot-wait", "snapshot": opened(copy, pending_snapshot)})),
            has_a_copy
        ),
        plain!("snapshot-list"),
        case!("snapshot-show", |copy| {
            verb(json!({"action": "snapshot-show", "snapshot": opened(copy, snapshots_of_v)[0]}))
        }),
        case!("snapshot-verify", |copy| {
            verb(json!({"action": "snapshot-verify", "snapshots": opened(copy, snapshots_of_v)}))
        }),
        case!("snapshot-diff", |copy| {
            let [from, to, ..] = &opened(copy, snapshots_of_v)[..] else { panic!("v has two snapshots") };
            verb(json!({"action": "snapshot-diff", "from": from, "to": to}))
        }),
        case!("snapshot-drill", |copy| {
            verb(json!({"action": "snapshot-drill", "snapshot": opened(copy, snapshots_of_v)[1]}))
        }),
        case!("snapshot-export", |copy| {
            let (snapshot, out) = (opened(copy, snapshots_of_v)[0].clone(), copy.out("plain"));
            Act::Export {
                request: request(json!({"action": "snapshot-export", "snapshot": snapshot, "out": out})),
                out,
            }
        }),
        plain!("recycle-bin-set", "days": 9),
        case!("recycle-bin-set/off", recycle, |_| verb(json!({"action": "recycle-bin-set", "days": null})), never),
        plain!("recycle-bin-show"),
        case!(
            "snapshot-delete/into-the-bin",
            recycle,
            |copy| on_newest(copy, json!({"action": "snapshot-delete"})),
            never
        ),
        case!(
            "snapshot-delete/from-the-bin",
            into_the_bin,
            |copy| {
                let id = opened(copy, |open| recycled(open).pop());
                verb(json!({"action": "snapshot-delete", "snapshot": id, "now": true}))
            },
            |open| recycled(open).is_empty()
        ),
        case!(
            "snapshot-recover",
            into_the_bin,
            |copy| {
                let id = opened(copy, |open| recycled(open).pop());
                verb(json!({"action": "snapshot-recover", "snapshot": id}))
            },
            |open| recycled(open).is_empty()
        ),
        // Of the two snapshots of `v`, one goes.
        plain!("snapshot-prune", "keep": {"last": 1}),
        case!("schedule-add", nothing, |_| verb(scheduling()), |open| schedule(open).is_some()),
        plain!("schedule-list"),
        case!(
            "schedule-remove",
            scheduled,
            |copy| { verb(json!({"action": "schedule-remove", "schedule": opened(copy, schedule)})) },
            |open| schedule(open).is_none()
        ),
        case!(
            "schedule-pause",
            scheduled,
            |copy| { verb(json!({"action": "schedule-pause", "schedule": opened(copy, schedule), "paused": true})) },
            never
        ),
        case!("snapshot-hold", |copy| on_newest(copy, json!({"action": "snapshot-hold"}))),
        case!(
            "snapshot-release",
            |copy| on_newest(copy, json!({"action": "snapshot-hold"})).run(copy).unwrap(),
            |copy| on_newest(copy, json!({"action": "snapshot-release"})),
            never
        ),
        case!("snapshot-lock", |copy| on_newest(copy, locking())),
        case!(
            "snapshot-unlock",
            |copy| on_newest(copy, locking()).run(copy).unwrap(),
            |copy| on_newest(copy, json!({"action": "snapshot-unlock"})),
            never
        ),
        case!("snapshot-tag", |copy| {
            let newest = opened(copy, snapshots_of_v).pop();
            verb(json!({"action": "snapshot-tag", "snapshot": newest, "tags": {"team": "web"}, "remove": ["other"]}))
        }),
        case!("snapshot-delete", |copy| {
            verb(json!({"action": "snapshot-delete", "snapshot": opened(copy, snapshots_of_v)[0]}))
        }),
        case!("snapshot-delete/newest", |copy| {
            verb(json!({"action": "snapshot-delete", "snapshot": opened(copy, snapshots_of_v)[1]}))
        }),
        // Nothing else needs it: its objects, and the volume's base, are deleted with it.
        case!(
            "snapshot-delete/last",
            leave_one_snapshot,
            |copy| { verb(json!({"action": "snapshot-delete", "snapshot": opened(copy, snapshots_of_v)[0]})) },
            never
        ),
        case!("repository-add", |copy| {
            let url = format!("file://{}", copy.root().join("more").display());
            verb(json!({"action": "repository-add", "name": "more", "location": {"url": url}}))
        }),
        plain!("repository-list"),
        plain!("repository-show", "repository": "local"),
        case!(
            "repository-default",
            add_more,
            |_| { verb(json!({"action": "repository-default", "repository": "more"})) },
            never
        ),
        // What it has read is deleted.
        case!(
            "repository-cache",
            read_from_more,
            |_| { verb(json!({"action": "repository-cache", "repository": "more", "size": 0})) },
            never
        ),
        case!(
            "repository-move",
            snapshot_into_more,
            |copy| {
                let url = format!("file://{}", copy.root().join("moved").display());
                verb(json!({"action": "repository-move", "repository": "more", "location": {"url": url}}))
            },
            never
        ),
        case!(
            "repository-remove",
            add_more,
            |_| { verb(json!({"action": "repository-remove", "repository": "more"})) },
            never
        ),
        case!("repository-gc", leave_garbage, |_| verb(json!({"action": "repository-gc"})), never),
        plain!("repository-stats"),
        plain!("repository-check", "read_data": true),
        case!(
            "repository-unref",
            nothing,
            |copy| {
                let name = opened(copy, base_ref).expect("a base");
                verb(json!({"action": "repository-unref", "name": name, "force": true}))
            },
            |open| base_ref(open).is_none()
        ),
        plain!("doctor"),
        plain!("audit-verify"),
        case!("audit-accept", damage_the_audit, |_| verb(json!({"action": "audit-accept"})), never),
        plain!("audit-list", "limit": 5),
    ]
}

/// Adds a repository beside the data directory.
fn add_more(copy: &Copy) {
    let location = json!({"url": format!("file://{}", copy.root().join("more").display())});
    let add = json!({"action": "repository-add", "name": "more", "location": location});
    opened(copy, |open| drop(open.json(add)));
}

fn snapshot_into_more(copy: &Copy) {
    add_more(copy);
    let create =
        json!({"action": "snapshot-create", "volume": "v", "description": "", "wait": true, "repository": "more"});
    opened(copy, |open| drop(open.json(create)));
}

/// Reads pages of a snapshot through a cache.
fn read_from_more(copy: &Copy) {
    snapshot_into_more(copy);
    opened(copy, |open| drop(open.json(json!({"action": "repository-cache", "repository": "more", "size": 1 << 20}))));
    opened(copy, |open| {
        let all = open.json(json!({"action": "snapshot-list"}));
        let all = all["snapshots"].as_array().unwrap();
        let there = all.iter().find(|s| s["repository"] == "more").unwrap()["id"].clone();
        open.json(json!({"action": "snapshot-diff", "to": there}));
        let shown = open.json(json!({"action": "repository-show", "repository": "more"}));
        assert!(shown["cached"].as_u64().unwrap() > 0, "{shown}");
    });
}

fn recycle(copy: &Copy) {
    verb(json!({"action": "recycle-bin-set", "days": 9})).run(copy).unwrap();
}

pub fn into_the_bin(copy: &Copy) {
    recycle(copy);
    on_newest(copy, json!({"action": "snapshot-delete"})).run(copy).unwrap();
}

/// The ids of what is in the recycle bin.
pub fn recycled(open: &Open) -> Vec<String> {
    let all = open.json(json!({"action": "snapshot-list", "recycled": true}));
    all["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

fn scheduling() -> Value {
    json!({"action": "schedule-add", "volume": "v", "cadence": {"daily": {"at": "02:30"}}, "keep": {"daily": 7}})
}

pub fn scheduled(copy: &Copy) {
    verb(scheduling()).run(copy).unwrap();
}

/// The id of the only schedule.
fn schedule(open: &Open) -> Option<String> {
    let all = open.json(json!({"action": "schedule-list"}));
    all["schedules"].as_array().unwrap().first().map(|s| s["id"].as_str().unwrap().to_owned())
}

/// A verb on the newest snapshot of `v`.
fn on_newest(copy: &Copy, mut named: Value) -> Act {
    named["snapshot"] = opened(copy, snapshots_of_v).pop().into();
    verb(named)
}

fn locking() -> Value {
    json!({"action": "snapshot-lock", "mode": "compliance", "days": 5, "cool_off": 3})
}

fn has_snapshot(open: &Open, description: &str) -> bool {
    let all = open.json(json!({"action": "snapshot-list"}));
    let all = all["snapshots"].as_array().unwrap();
    all.iter().any(|s| s["description"] == description && s["state"] == "completed")
}

fn a_third_snapshot(open: &Open) -> bool {
    has_snapshot(open, "new")
}

/// The step of `snapshot-create` before which it has copied a part of the volume.
const COPYING: usize = 35;

/// Leaves a snapshot pending: the process that took it is killed once its point in time is fixed.
fn kill_a_create(copy: &Copy) {
    let act = verb(json!({"action": "snapshot-create", "volume": "v", "description": "new", "wait": true}));
    let begun = crate::run(&act, copy, Some(COPYING));
    assert_eq!(begun.end, crate::steps::End::Killed);
    assert_eq!(begun.steps.iter().filter(|step| *step == "write staged pack").count(), 2, "{:?}", begun.steps);
}

fn pending_snapshot(open: &Open) -> String {
    let all = open.json(json!({"action": "snapshot-list"}));
    let pending = all["snapshots"].as_array().unwrap().iter().find(|s| s["state"] == "pending");
    pending.expect("no snapshot is pending")["id"].as_str().unwrap().to_owned()
}

/// Copies the newest snapshot of `v`.
fn copying(copy: &Copy, mut asked: Value) -> Act {
    asked["action"] = "snapshot-copy".into();
    asked["description"] = "copy".into();
    on_newest(copy, asked)
}

fn has_a_copy(open: &Open) -> bool {
    has_snapshot(open, "copy")
}

/// The step of a copy before which it has copied a part of the snapshot.
const COPYING_A_SNAPSHOT: usize = 50;

/// Leaves a copy pending whose source is deleted: the process that made it is killed meanwhile.
fn kill_a_copy(copy: &Copy) {
    let (first, second) = opened(copy, |open| (snapshots_of_v(open)[0].clone(), snapshots_of_v(open)[1].clone()));
    let asked = |of: &str, description: &str| {
        verb(json!({"action": "snapshot-copy", "snapshot": of, "key": "alias/second", "description": description}))
    };
    asked(&first, "first").run(copy).unwrap();
    let begun = crate::run(&asked(&second, "copy"), copy, Some(COPYING_A_SNAPSHOT));
    assert_eq!(begun.end, crate::steps::End::Killed);
    assert!(begun.steps.iter().any(|step| step == "write staged pack"), "{:?}", begun.steps);
    opened(copy, |open| drop(open.json(json!({"action": "snapshot-delete", "snapshot": second}))));
}

fn leave_one_snapshot(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    open.json(json!({"action": "volume-delete", "volume": "filling"}));
    open.json(json!({"action": "snapshot-delete", "snapshot": snapshots_of_v(&open)[0]}));
}

/// Leaves a pack of which some bodies are needed, and others are not.
fn leave_garbage(copy: &Copy) {
    leave_one_snapshot(copy);
    let would = opened(copy, |open| open.json(json!({"action": "repository-gc", "dry_run": true})));
    assert_eq!(would["repositories"][0]["compacted"], 1, "{would}");
}

/// The name of the ref on the base of the next snapshot of `v`.
fn base_ref(open: &Open) -> Option<String> {
    let volume = open.json(json!({"action": "volume-show", "volume": "v"}))["id"].as_str().unwrap().to_owned();
    let stats = open.json(json!({"action": "repository-stats"}));
    let refs = stats["repositories"][0]["refs"].as_array().unwrap().iter();
    let mut names = refs.map(|r| r["name"].as_str().unwrap().to_owned());
    names.find(|name| name.ends_with(&format!("{volume}-base")))
}

fn delete_what_it_is_filled_from(copy: &Copy) {
    let open = copy.open(Role::Command).unwrap();
    for snapshot in snapshots_of_v(&open) {
        open.json(json!({"action": "snapshot-delete", "snapshot": snapshot}));
    }
    open.json(json!({"action": "volume-delete", "volume": "v"}));
}

/// Damages the first record of the audit.
fn damage_the_audit(copy: &Copy) {
    use std::os::unix::fs::FileExt;
    let log = crate::check::files(&copy.data().join("audit")).into_iter().find(|f| f.extension().is_some()).unwrap();
    let open = std::fs::File::options().write(true).open(&log).unwrap();
    open.write_all_at(b"?", 100).unwrap();
}

fn access() -> Vec<Case> {
    vec![
        plain!("attach-begin", "volume": "idle", "device": "/dev/nbd3"),
        plain!("attach-renew", "what": "held"),
        plain!("attach-end", "what": "held"),
        plain!("attachment-list"),
        plain!("lease-break", "what": "held"),
        plain!("access-allow", "name": "more", "volumes": ["v", "other"], "all": false),
        plain!("access-token", "name": "token", "volumes": [], "all": true),
        plain!("access-deny", "name": "client"),
        plain!("access-list"),
    ]
}

/// Returns the id of the only access key of a user.
fn access_key(open: &Open, user: &str) -> Option<String> {
    let all = open.json(json!({"action": "access-key-list", "principal": user}));
    all["keys"].as_array().unwrap().first().map(|key| key["id"].as_str().unwrap().to_owned())
}

fn key_of_alice(copy: &Copy) -> String {
    opened(copy, |open| access_key(open, "user/alice")).unwrap()
}

fn principals() -> Vec<Case> {
    vec![
        plain!("account-create", "name": "new", "account": "777788889999"),
        plain!("account-list"),
        plain!("account-show", "account": "444455556666"),
        plain!("user-create", "name": "carol", "tags": {"team": "web"}),
        plain!("role-create", "name": "audit", "trust": TRUST),
        plain!("principal-list"),
        plain!("principal-show", "principal": "user/alice"),
        plain!("principal-delete", "principal": "user/bob"),
        plain!("principal-policy-put", "principal": "role/deploy", "policy": "p", "document": DOCUMENT),
        plain!("principal-policy-show", "principal": "user/alice", "policy": "p"),
        plain!("principal-policy-list", "principal": "user/alice"),
        plain!("principal-policy-delete", "principal": "user/alice", "policy": "p"),
        plain!("principal-update-trust", "principal": "role/deploy", "document": TRUST),
        plain!("principal-revoke-sessions", "principal": "user/alice"),
        case!(
            "access-key-create",
            nothing,
            |_| { verb(json!({"action": "access-key-create", "principal": "user/bob"})) },
            |open| access_key(open, "user/bob").is_some()
        ),
        plain!("access-key-list", "principal": "user/alice"),
        case!("access-key-update", |copy| {
            verb(json!({"action": "access-key-update", "access_key": key_of_alice(copy), "active": false}))
        }),
        case!("access-key-delete", |copy| {
            verb(json!({"action": "access-key-delete", "access_key": key_of_alice(copy)}))
        }),
    ]
}

/// What is done without a request.
fn by_itself() -> Vec<Case> {
    vec![
        case!(
            "init",
            |copy| {
                for folder in ["data", "root.key"] {
                    let path = copy.root().join(folder);
                    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
                }
            },
            |_| Act::Init,
            never
        ),
        case!("fill", nothing, |_| Act::Fill, is_filled),
        // Its parent snapshot is deleted: the end of hydration frees it.
        case!("fill/of-deleted", delete_what_it_is_filled_from, |_| Act::Fill, is_filled),
        case!("client-leaves", |_| Act::Client { farewell: true }),
        case!("client-is-cut-off", |_| Act::Client { farewell: false }),
    ]
}
