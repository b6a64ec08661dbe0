//! Reading a snapshot from a bucket whose every request takes 30 ms longer: SeaweedFS behind the proxy of `tests/s3.rs`, the
//! program itself, and its commands. Prints seconds, MB/s, and the requests for each.
//!
//! `COFFER_FAR_MIB`: size of the snapshot (1024). `COFFER_FAR_MS`: the delay (30). `COFFER_UNDER_TEST`: another program than
//! the one that was built, such as an older one; then the read cache is left out.

#![allow(clippy::unwrap_used, reason = "it uses the helpers of the tests")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/s3.rs"]
mod s3;

use common::{Scratch, Served, noise};
use s3::{ADMIN, Proxy, S3, environment};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Bytes per request of the client, which makes one at a time.
const REQUEST: usize = 256 << 10;

fn set(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

struct Bench {
    s: Scratch,
    proxy: Proxy,
    _server: S3,
    size: usize,
    snapshot: String,
}

impl Bench {
    fn new(mib: usize) -> Option<Self> {
        let server = S3::start()?;
        let (proxy, mut s) = (Proxy::before(&server), Scratch::new());
        s.env = environment(ADMIN);
        s.ok(&["repository", "add", "cloud", "s3://far/a", "--endpoint", &proxy.endpoint(), "--path-style"]);
        s.ok(&["volume", "create", "--size", &format!("{mib}MiB"), "--name", "web", "--repository", "cloud"]);
        let served = s.serve();
        let mut nbd = served.connect("web");
        (0..mib).for_each(|n| nbd.write((n * MIB) as u64, &noise(n as u64, MIB)));
        nbd.flush();
        nbd.close();
        let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
        assert_eq!(served.stop(), 0, "the server ended well");
        Some(Self { s, proxy, _server: server, size: mib * MIB, snapshot })
    }

    /// Runs `act` and prints how long that took, and what it asked the bucket for.
    fn time(&self, what: &str, bytes: usize, act: impl FnOnce()) {
        self.proxy.seen();
        let began = Instant::now();
        act();
        let seconds = began.elapsed().as_secs_f64();
        let seen = self.proxy.seen();
        let (gets, packs) = (count(&seen, "GET", ""), count(&seen, "GET", "/packs/"));
        let puts = count(&seen, "PUT", "");
        let rate = bytes as f64 / seconds / 1e6;
        println!("{what:<44} {seconds:>8.3} s {rate:>8.1} MB/s {gets:>6} GET ({packs} of packs) {puts:>3} PUT");
    }

    fn read_in_order(&self, served: &Served<'_>, name: &str) {
        let mut nbd = served.connect(name);
        for at in (0..self.size).step_by(REQUEST) {
            let got = nbd.read(at as u64, REQUEST as u32);
            assert!(at % MIB > 0 || got == noise((at / MIB) as u64, MIB)[..REQUEST], "other bytes at {at}");
        }
        nbd.close();
    }

    fn first_byte(&self, served: &Served<'_>, name: &str) {
        let mut nbd = served.connect(name);
        assert_eq!(nbd.read(0, 4096), noise(0, MIB)[..4096], "the first bytes");
        nbd.close();
    }

    fn restore(&self, name: &str, rate: &str) {
        let create = ["volume", "create", "--snapshot", &self.snapshot, "--name", name, "--hydrate-rate", rate];
        self.s.ok(&create);
    }

    fn fill(&self, name: &str) {
        self.s.ok(&["volume", "modify", name, "--hydrate-rate", "unlimited"]);
        while self.s.json(&["volume", "show", name])["hydrated"] != true {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn count(seen: &[(String, String)], method: &str, part: &str) -> usize {
    seen.iter().filter(|(m, path)| m == method && path.contains(part)).count()
}

fn main() {
    let (mib, ms) = (set("COFFER_FAR_MIB", 1024) as usize, set("COFFER_FAR_MS", 30));
    let Some(bench) = Bench::new(mib) else { return };
    println!("{mib} MiB in a bucket, {ms} ms more for each request");
    bench.proxy.delay(Duration::from_millis(ms));
    let (s, size, snapshot) = (&bench.s, bench.size, bench.snapshot.as_str());
    let served = s.serve();
    bench.time("served snapshot, first byte", 4096, || bench.first_byte(&served, snapshot));
    bench.time("served snapshot, read in order", size, || bench.read_in_order(&served, snapshot));
    bench.restore("touched", "paused");
    bench.time("new volume, first byte", 4096, || bench.first_byte(&served, "touched"));
    bench.time("new volume, read in order, filling paused", size, || bench.read_in_order(&served, "touched"));
    bench.restore("filled", "paused");
    bench.first_byte(&served, "filled");
    bench.time("new volume, filled", size, || bench.fill("filled"));
    bench.time("verified", size, || drop(s.ok(&["snapshot", "verify", snapshot])));
    let image = s.path("image");
    let export = ["snapshot", "export", snapshot, image.to_str().expect("a path")];
    bench.time("exported", size, || drop(s.ok(&export)));
    if std::env::var_os("COFFER_UNDER_TEST").is_none() {
        s.ok(&["repository", "cache", "cloud", "--size", "64GiB"]);
        for (name, what) in [("one", "new volume, filled, and kept in the cache"), ("two", "and from the cache")] {
            bench.restore(name, "paused");
            bench.time(what, size, || bench.fill(name));
        }
    }
    assert_eq!(served.stop(), 0, "the server ended well");
}
