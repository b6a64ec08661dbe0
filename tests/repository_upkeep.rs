//! `repository gc`, `stats`, `check` and `unref`, with a server and without.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::service::Role;
use common::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;

/// A volume whose snapshots were deleted here and there, and what the others contain.
struct Worn {
    s: Scratch,
    left: BTreeMap<String, Vec<u8>>,
}

impl Worn {
    fn new() -> Self {
        let s = Scratch::new();
        s.ok(&["volume", "create", "--size", &SIZE.to_string(), "--name", "v"]);
        let (mut model, mut left) = (vec![0; SIZE], BTreeMap::new());
        let server = s.serve();
        let mut nbd = server.connect("v");
        for round in 0..8u64 {
            for part in 0..6u64 {
                let at = ((round * 5 + part * 7) % 24) as usize * MIB;
                let data = noise(round * 10 + part + 1, MIB);
                nbd.write(at as u64, &data);
                model[at..at + MIB].copy_from_slice(&data);
            }
            nbd.flush();
            left.insert(s.id(&["snapshot", "create", "v", "--wait"]), model.clone());
        }
        nbd.close();
        let mut by_time = s.ids(&["snapshot", "list"]);
        by_time.retain(|id| left.contains_key(id));
        for at in [0, 1, 2, 4, 5] {
            s.ok(&["snapshot", "delete", &by_time[at]]);
            left.remove(&by_time[at]);
        }
        assert_eq!(server.stop(), 0);
        Self { s, left }
    }

    fn packs(&self) -> u64 {
        let all = files(&self.s.data.join("repository"));
        let packs = all.iter().filter(|f| f.parent().is_some_and(|p| p.ends_with("packs")));
        packs.map(|f| f.metadata().unwrap().len()).sum()
    }

    fn holds(&self) {
        let image = self.s.path("image");
        for (snapshot, content) in &self.left {
            self.s.ok(&["snapshot", "export", "--force", snapshot, image.to_str().unwrap()]);
            assert!(std::fs::read(&image).unwrap() == *content, "{snapshot}");
        }
        self.s.ok(&["snapshot", "verify", "--all"]);
    }

    fn of_stats(&self, what: &str) -> u64 {
        self.s.json(&["repository", "stats", "local"])["repositories"][0][what].as_u64().unwrap()
    }

    fn a_pack(&self) -> PathBuf {
        let mut all = files(&self.s.data.join("repository"));
        all.retain(|f| f.parent().is_some_and(|p| p.ends_with("packs")));
        all.pop().unwrap()
    }
}

#[test]
fn garbage_is_collected_and_all_snapshots_stay() {
    for by_server in [false, true] {
        let worn = Worn::new();
        let s = &worn.s;
        let server = by_server.then(|| s.serve());
        let before = worn.packs();
        assert!(before * 4 > worn.of_stats("live") * 5, "there is nothing to do");
        let would = s.json(&["repository", "gc", "--dry-run"]);
        assert_eq!((worn.packs(), &would["dry_run"]), (before, &true.into()));
        let done = s.json(&["repository", "gc", "local", "--rate", "2GiB"]);
        let done = &done["repositories"][0];
        assert_eq!(done["compacted"], would["repositories"][0]["compacted"]);
        let (packs, live) = (worn.packs(), worn.of_stats("live"));
        assert!(packs * 4 <= live * 5, "{packs} bytes for {live} live ones");
        assert!(before - packs <= done["freed"].as_u64().unwrap());
        worn.holds();
        s.ok(&["repository", "check", "--read-data"]);
        let again = s.json(&["repository", "gc"]);
        assert_eq!(
            (&again["repositories"][0]["compacted"], &again["repositories"][0]["freed"]),
            (&0.into(), &0.into())
        );
        let audit = s.json(&["audit", "list", "--act", "CollectGarbage"]);
        assert_eq!(audit["events"].as_array().unwrap().len(), 2, "a dry run changes nothing: {audit}");
        // The next snapshot is based on one whose packs were compacted.
        let next = s.id(&["snapshot", "create", "v", "--wait"]);
        s.ok(&["snapshot", "verify", &next]);
        drop(server);
        worn.holds();
    }
}

#[test]
fn stats_say_what_deleting_a_snapshot_gives_back() {
    let worn = Worn::new();
    let s = &worn.s;
    let stats = s.json(&["repository", "stats", "local"]);
    let stats = &stats["repositories"][0];
    let first = &stats["snapshots"][0];
    let unique = first["unique"].as_u64().unwrap();
    assert!(unique as usize > MIB && stats["snapshots"].as_array().unwrap().len() == worn.left.len(), "{stats}");
    assert_eq!(stats["refs"].as_array().unwrap().len(), 1, "the base of the next snapshot: {stats}");
    let live = worn.of_stats("live");
    s.ok(&["snapshot", "delete", first["snapshot"].as_str().unwrap()]);
    let given = live - worn.of_stats("live");
    // Beside bodies, its pages and its manifest.
    assert!(given <= unique && unique - given < 200_000, "{given} of {unique}");
    let text = s.ok(&["repository", "stats"]).stdout;
    assert!(text.contains("UNIQUE") && text.contains("garbage"), "{text}");
}

#[test]
fn check_names_damage_and_lists_what_nothing_needs() {
    let worn = Worn::new();
    let s = &worn.s;
    assert!(s.ok(&["repository", "check"]).stdout.contains("are good"));
    let pack = worn.a_pack();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    flip(&pack, 64 + 64 + 5000);
    s.ok(&["repository", "check"]);
    s.fails(7, &["repository", "check", "--read-data"], &[&name, "hash"]);
    flip(&pack, 64 + 64 + 5000);
    let orphan = pack.with_file_name("0123456789abcdef0123456789abcdef");
    std::fs::copy(&pack, &orphan).unwrap();
    s.fails(7, &["repository", "check"], &["0123456789abcdef"]);
    s.ok(&["repository", "gc"]);
    assert!(!orphan.exists(), "nothing needs it");
    s.ok(&["repository", "check", "--read-data"]);
    let away = s.path("away");
    let pack = worn.a_pack();
    std::fs::rename(&pack, &away).unwrap();
    s.fails(7, &["repository", "check"], &[pack.file_name().unwrap().to_str().unwrap()]);
    std::fs::rename(&away, &pack).unwrap();
    worn.holds();
}

#[test]
fn a_ref_is_removed_by_hand_only_with_force() {
    let worn = Worn::new();
    let s = &worn.s;
    let stats = s.json(&["repository", "stats"]);
    let name = stats["repositories"][0]["refs"][0]["name"].as_str().unwrap().to_owned();
    s.fails(1, &["repository", "unref", &name], &["the next snapshot of volume", "--force"]);
    s.ok(&["repository", "unref", &name, "--force"]);
    s.fails(4, &["repository", "unref", &name, "--force"], &["there is no ref"]);
    let audit = s.json(&["audit", "list", "--act", "RemoveRef"]);
    assert!(audit.to_string().contains(&name), "{audit}");
    let next = s.id(&["snapshot", "create", "v", "--wait"]);
    s.ok(&["snapshot", "verify", &next]);
    worn.holds();
}

/// After deletions, a server compacts by itself once there are 64 MiB of garbage.
#[test]
fn a_server_collects_garbage_by_itself() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "144MiB", "--name", "v"]);
    let overwrite = |seed, step| {
        let (server, data) = (s.serve(), noise(seed, 2 * MIB));
        let mut nbd = server.connect("v");
        (0..72).step_by(step).for_each(|part| nbd.write((part * 2 * MIB) as u64, &data));
        nbd.flush();
        nbd.close();
        let snapshot = s.id(&["snapshot", "create", "v", "--wait"]);
        assert_eq!(server.stop(), 0);
        snapshot
    };
    let (first, second) = (overwrite(1, 1), overwrite(2, 2));
    let packs = || {
        let all = files(&s.data.join("repository"));
        all.iter().filter(|f| f.parent().unwrap().ends_with("packs")).map(|f| f.metadata().unwrap().len()).sum::<u64>()
    };
    let service = s.opened(Role::Daemon);
    service.do_chores();
    let before = packs();
    assert!(before > 210 << 20, "nothing is garbage yet: {before}");
    let caller = service.caller_of(0, "test").unwrap();
    let delete = serde_json::from_value(serde_json::json!({"action": "snapshot-delete", "snapshot": first})).unwrap();
    service.handle(&caller, delete, &mut |_| true).unwrap();
    service.do_chores();
    assert!(packs() * 4 <= (144 << 20) * 5, "{} bytes are left", packs());
    service.shut_down();
    drop(service);
    s.ok(&["snapshot", "verify", &second]);
    let audit = s.json(&["audit", "list", "--act", "CollectGarbage"]);
    assert!(audit.to_string().contains("ec2.coffer"), "{audit}");
}
