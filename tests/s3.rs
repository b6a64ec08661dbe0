//! Snapshots in a bucket of a real S3 server, through a proxy that fails: nothing wrong is ever returned, and the same command
//! finishes.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;
#[path = "common/s3.rs"]
mod s3;

use common::*;
use s3::{ADMIN, Fault, Proxy, S3, environment};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// An installation with a volume and the repository `cloud`, in a bucket behind a proxy.
struct Place {
    s: Scratch,
    proxy: Proxy,
    server: S3,
}

impl Place {
    /// `None`: there is no server.
    fn new() -> Option<Self> {
        let server = S3::start()?;
        let (proxy, mut s) = (Proxy::before(&server), Scratch::new());
        s.env = environment(ADMIN);
        let place = Self { s, proxy, server };
        place.s.ok(&[
            "repository",
            "add",
            "cloud",
            "s3://snaps/a",
            "--endpoint",
            &place.proxy.endpoint(),
            "--path-style",
            "--time-limit",
            "8",
        ]);
        place.s.ok(&["volume", "create", "--size", "8MiB", "--name", "web", "--repository", "cloud"]);
        Some(place)
    }

    fn write(&self, at: usize, data: &[u8]) {
        let served = self.s.serve();
        let mut nbd = served.connect("web");
        nbd.write(at as u64, data);
        nbd.flush();
        nbd.close();
        assert_eq!(served.stop(), 0);
    }

    fn snapshot(&self) -> Value {
        self.s.json(&["snapshot", "create", "web", "--wait"])
    }

    fn snapshots(&self) -> Vec<(String, String)> {
        let all = self.s.json(&["snapshot", "list"]);
        let one = |s: &Value| (text(&s["id"]), text(&s["state"]));
        all["snapshots"].as_array().unwrap().iter().map(one).collect()
    }

    /// Restores a snapshot into a new volume, fills it, and returns its first bytes.
    fn restore(&self, snapshot: &str, name: &str, len: usize) -> Vec<u8> {
        let served = self.s.serve();
        self.s.ok(&["volume", "create", "--snapshot", snapshot, "--name", name]);
        let mut nbd = served.connect(name);
        let got = nbd.read(0, len as u32);
        nbd.close();
        wait_until("it is filled", || self.s.json(&["volume", "show", name])["hydrated"] == true);
        assert_eq!(served.stop(), 0);
        got
    }

    fn verify(&self, snapshot: &str) {
        self.s.ok(&["snapshot", "verify", snapshot]);
    }

    /// Objects of the bucket that were put and not deleted, as the proxy saw it.
    fn left(&self) -> Vec<String> {
        let mut all = std::collections::BTreeSet::new();
        for (method, path) in self.proxy.seen() {
            match method.as_str() {
                "PUT" => drop(all.insert(path)),
                "DELETE" => drop(all.remove(&path)),
                _ => {}
            }
        }
        all.into_iter().collect()
    }
}

/// Copies the bucket into a folder, with the AWS CLI, and reads that with this program and with tools/oracle.
fn copy_reads(place: &Place, options: &[&str], snapshots: &[&str]) {
    let Some(aws) = aws_client("venv/bin/aws") else { return };
    let folder = place.s.path("copy");
    let folder = folder.to_str().unwrap();
    let sync = output(
        std::process::Command::new(aws)
            .args(["--endpoint-url", options[1], "s3", "sync", "--quiet", "s3://snaps/a", folder])
            .envs(place.s.env.iter().map(|(name, value)| (name, value)))
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN"),
    );
    assert_eq!(sync.code, 0, "{sync:?}");
    let verified = place.s.ok(&["repository", "open", folder, "--verify", snapshots[1]]).stdout;
    assert!(verified.contains(snapshots[1]) && verified.contains("unattested"), "{verified}");
    let lineage =
        files(std::path::Path::new(folder)).into_iter().find(|f| f.ends_with("log/0000000000000000")).unwrap();
    flip(&lineage, 100);
    let damaged = place.s.coffer(&["repository", "open", folder, "--verify"]);
    assert_eq!(damaged.code, 7, "{damaged:?}");
    flip(&lineage, 100);
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/oracle/coffer_reader.py");
    let mut oracle = std::process::Command::new("python3");
    oracle.arg(reader).args(["repo", "verify", folder]).env("PYTHONDONTWRITEBYTECODE", "1");
    let said = output(&mut oracle);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains(&format!("{} snapshots", snapshots.len())), "{said:?}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn snapshots_live_and_end_in_a_bucket() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    let (one, two) = (noise(1, 3 * MIB), noise(2, MIB));
    place.write(0, &one);
    let first = place.snapshot();
    assert_eq!(
        (&first["repository"], &first["base"], first["changed"].as_u64()),
        (&"cloud".into(), &Value::Null, Some(3 << 20))
    );
    place.write(MIB, &two);
    let second = place.snapshot();
    assert_eq!((&second["base"], second["changed"].as_u64()), (&first["id"], Some(1 << 20)));
    let (first, second) = (text(&first["id"]), text(&second["id"]));
    place.verify(&first);
    let now = [&one[..MIB], &two, &one[2 * MIB..]].concat();
    assert!(place.restore(&second, "w", 3 * MIB) == now);
    // Without the installation.
    let options = ["--endpoint", &place.server.endpoint(), "--path-style"];
    let key = text(&s.json(&["status"])["signing_key"]);
    let mut elsewhere = Scratch::empty();
    elsewhere.env.clone_from(&s.env);
    let open =
        |more: &[&str]| elsewhere.ok(&[&["repository", "open", "s3://snaps/a"], &options[..], more].concat()).stdout;
    assert!(open(&[]).contains(&first) && open(&["-q"]) == format!("{first}\n{second}\n"));
    let verified = open(&["--verify", "--trust", &key]);
    assert_eq!(verified.matches("attested by the trusted key").count(), 2, "{verified}");
    assert!(!elsewhere.data.exists());
    copy_reads(&place, &options, &[&first, &second]);
    // The end.
    s.ok(&["volume", "delete", "w"]);
    s.ok(&["snapshot", "delete", &first]);
    place.verify(&second);
    s.fails(5, &["repository", "remove", "cloud"], &["1 snapshots"]);
    s.ok(&["snapshot", "delete", &second]);
    s.fails(5, &["repository", "remove", "cloud"], &["web", "go there"]);
    s.ok(&["volume", "delete", "web"]);
    s.ok(&["repository", "remove", "cloud"]);
    let left = place.left();
    assert!(left.iter().all(|p| p.contains("/log/") || p.ends_with("coffer-repository.json")), "{left:?}");
    let secret = ADMIN.1;
    for file in files(&s.data) {
        assert!(!contents(&file).windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", file.display());
    }
    assert!(!s.log().contains(secret));
    s.ok(&["audit", "verify"]);
}

#[test]
fn a_snapshot_whose_bucket_fails_at_any_point_is_whole_or_in_error_and_is_taken_again() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    let calls = [
        ("PUT", "/packs/"),
        ("PUT", "/pages/"),
        ("PUT", "/manifests/"),
        ("PUT", "/log/"),
        ("PUT", "/refs/"),
        ("GET", "/manifests/"),
        ("GET", "/log/"),
        ("GET", "list-type=2"),
    ];
    let faults = [
        (Fault::Answer(403, "AccessDenied"), 1000),
        (Fault::AnswerInBody(503, "SlowDown"), 1),
        (Fault::CutInBody, 1),
        (Fault::LoseAnswer, 1),
        (Fault::Answer(500, "InternalError"), 2),
    ];
    let served = s.serve();
    let mut nbd = served.connect("web");
    let mut met = 0;
    for (n, (method, part)) in calls.into_iter().enumerate() {
        for (m, (fault, times)) in faults.into_iter().enumerate() {
            let data = noise((n * 10 + m) as u64, 4096);
            nbd.write(0, &data);
            place.proxy.fail(method, part, fault, 0, times);
            let out = s.coffer(&["snapshot", "create", "web", "--wait", "-q"]);
            let hits = place.proxy.mend();
            met += hits;
            let what = format!("{method} {part} {fault:?}: {out:?}");
            if times < 10 {
                assert_eq!(out.code, 0, "{what}");
            } else if hits > 0 && part != "/refs/" {
                assert_ne!(out.code, 0, "{what}");
                assert!(out.stderr.contains("AccessDenied"), "{what}");
            }
            let again = text(&place.snapshot()["id"]);
            place.verify(&again);
            for (id, state) in place.snapshots() {
                match state.as_str() {
                    "completed" if id != again => drop(s.ok(&["snapshot", "delete", &id])),
                    "error" => drop(s.ok(&["snapshot", "delete", &id])),
                    state => assert_eq!((state, &id), ("completed", &again), "{what}"),
                }
            }
            if m == 0 {
                s.ok(&["volume", "create", "--snapshot", &again, "--name", "restored"]);
                let mut restored = served.connect("restored");
                assert!(restored.read(0, 4096) == data, "{what}");
                restored.close();
                s.ok(&["volume", "delete", "restored"]);
            }
        }
    }
    assert!(met > 30, "{met} faults were met");
    nbd.close();
    assert_eq!(served.stop(), 0);
    let found = s.json(&["doctor"]);
    let bad: Vec<_> = found["findings"].as_array().unwrap().iter().filter(|f| f["check"] == "repository").collect();
    assert!(bad.iter().all(|f| f["grade"] == "ok"), "{bad:?}");
}

#[test]
fn a_snapshot_into_a_bucket_whose_server_is_killed_is_continued_and_whole() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    let kills = [
        ("PUT", "/packs/", Fault::Silence),
        ("PUT", "/manifests/", Fault::Withhold),
        ("PUT", "/log/", Fault::Silence),
        ("PUT", "/log/", Fault::Withhold),
        ("PUT", "/refs/", Fault::Withhold),
    ];
    for (n, (method, part, fault)) in kills.into_iter().enumerate() {
        let data = noise(n as u64, MIB);
        place.write(0, &data);
        let served = s.serve();
        place.proxy.fail(method, part, fault, 0, 100);
        let id = s.id(&["snapshot", "create", "web"]);
        wait_until("the request is there", || place.proxy.met() > 0);
        served.kill9();
        place.proxy.mend();
        let served = s.serve();
        assert_eq!(s.json(&["snapshot", "wait", &id])["state"], "completed", "{part} {fault:?}");
        drop(served);
        place.verify(&id);
        assert!(place.restore(&id, &format!("r{n}"), MIB) == data, "{part} {fault:?}");
    }
    place.write(MIB, &noise(9, MIB));
    let next = place.snapshot();
    assert_eq!(next["changed"].as_u64(), Some(1 << 20), "an increment to the one that was completed last");
    place.verify(&text(&next["id"]));
}

#[test]
fn lists_that_lie_cost_nothing() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    place.write(0, &noise(1, MIB));
    let first = text(&place.snapshot()["id"]);
    // Seen now, and returned later.
    place.verify(&first);
    place.write(MIB, &noise(2, MIB));
    let second = text(&place.snapshot()["id"]);
    for fault in [Fault::Stale, Fault::Twice] {
        place.proxy.fail("GET", "list-type=2", fault, 0, 1000);
        place.verify(&second);
        assert_eq!(place.snapshots().iter().filter(|(_, state)| state == "completed").count(), 2);
        place.write(2 * MIB, &noise(3, MIB));
        let third = place.snapshot();
        assert_eq!(third["state"], "completed", "{fault:?}");
        s.ok(&["snapshot", "delete", &text(&third["id"])]);
        place.verify(&first);
        assert!(place.proxy.mend() > 0);
    }
    place.verify(&second);
    let third = text(&place.snapshot()["id"]);
    place.verify(&third);
    // An object that is listed, and whose get finds nothing.
    for part in ["/packs/", "/pages/", "/manifests/"] {
        place.proxy.fail("GET", part, Fault::Answer(404, "NoSuchKey"), 0, 1000);
        let said = s.fails(7, &["snapshot", "verify", &third], &[]);
        assert!(said.contains(&part[1..part.len() - 2]) || said.contains("unreadable"), "{part}: {said}");
        assert!(place.proxy.mend() > 0, "{part}");
        place.verify(&third);
    }
}

#[test]
fn a_repository_is_moved_between_buckets_and_folders() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    place.write(0, &noise(1, 3 * MIB));
    let first = text(&place.snapshot()["id"]);
    let options = ["--endpoint", &place.server.endpoint(), "--path-style"];
    // The proxy is at the old place: the copy ends in the middle.
    place.proxy.fail("GET", "/packs/", Fault::Answer(403, "AccessDenied"), 0, 1000);
    let other = &[&["repository", "move", "cloud", "s3://other/place"][..], &options].concat();
    s.fails(6, other, &["move repository cloud (s3://snaps/a) to s3://other/place", "AccessDenied"]);
    assert!(place.proxy.mend() > 0);
    assert_eq!(s.json(&["repository", "show", "cloud"])["location"]["url"], "s3://snaps/a");
    s.ok(other);
    place.proxy.seen();
    place.verify(&first);
    place.write(0, &noise(2, MIB));
    let second = place.snapshot();
    assert_eq!((&second["base"], second["changed"].as_u64()), (&Value::String(first.clone()), Some(1 << 20)));
    assert_eq!(place.proxy.seen(), [], "the old place is not used");
    let folder = s.path("disk");
    s.ok(&["repository", "move", "cloud", folder.to_str().unwrap()]);
    drop(place.server);
    s.ok(&["snapshot", "verify", &first]);
    s.ok(&["repository", "open", folder.to_str().unwrap(), "--verify"]);
}

#[test]
fn a_bucket_out_of_reach_fails_what_needs_it_in_time() {
    let Some(place) = Place::new() else { return };
    let s = &place.s;
    place.write(0, &noise(1, MIB));
    let there = text(&place.snapshot()["id"]);
    let here = text(&s.json(&["snapshot", "create", "web", "--wait", "--repository", "local"])["id"]);
    drop(place.server);
    let began = std::time::Instant::now();
    s.fails(
        1,
        &["snapshot", "verify", &there, "--trust", &"0".repeat(64)],
        &["cloud (s3://snaps/a)", "check the network"],
    );
    assert!(began.elapsed().as_secs() < 25, "{:?}", began.elapsed());
    s.ok(&["snapshot", "verify", &here]);
    assert_eq!(s.json(&["snapshot", "list"])["snapshots"].as_array().unwrap().len(), 2);
    let served = s.serve();
    let mut nbd = served.connect("web");
    assert!(nbd.read(0, MIB as u32) == noise(1, MIB));
    nbd.close();
    s.ok(&["snapshot", "create", "web", "--wait", "--repository", "local"]);
    let shown = s.json(&["repository", "show", "cloud"]);
    assert!(text(&shown["error"]).contains("cloud (s3://snaps/a)"), "{shown}");
}
