//! Figures of snapshots, by the program as its users run it: a server, commands, and a client over NBD.
//!
//! `cargo bench --bench figures [-- MiB]`: the size of the volume that is copied, 2048 by default. Prints a table of
//! times and rates, each beside its floor in the same run. COFFER_FIGURES_S3 (an endpoint with a bucket `figures`, and
//! credentials in AWS's variables) adds a bucket.

#![allow(clippy::unwrap_used, reason = "it shares the tests' client")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Nbd, Scratch, noise};
use std::io::Write;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let from = Instant::now();
    let made = act();
    (made, from.elapsed())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn row(what: &str, value: String) {
    println!("{what:<58} {value}");
}

fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / MIB as f64 / time.as_secs_f64()
}

fn stored(s: &Scratch, snapshot: &str) -> u64 {
    s.json(&["snapshot", "show", snapshot])["stored"].as_u64().unwrap_or_default()
}

/// How long a create takes by the size of the volume, beside a command that does nothing.
fn creating(s: &Scratch) {
    let idle = median((0..15).map(|_| ms(timed(|| s.ok(&["status"])).1)).collect());
    row("`coffer status`, median of 15", format!("{idle:.1} ms"));
    for (name, size) in [("1GiB", "1GiB"), ("64GiB", "64GiB"), ("1TiB", "1TiB"), ("8TiB", "8TiB")] {
        s.ok(&["volume", "create", "--size", size, "--name", name]);
        let times: Vec<f64> = (0..15)
            .map(|_| {
                let (snapshot, time) = timed(|| s.id(&["snapshot", "create", name]));
                s.ok(&["snapshot", "wait", &snapshot]);
                ms(time)
            })
            .collect();
        let most = times.iter().copied().fold(0.0, f64::max);
        row(&format!("create, {name} sparse, median of 15 (max)"), format!("{:.1} ms ({most:.1})", median(times)));
    }
    let (_, whole) = timed(|| s.id(&["snapshot", "create", "1TiB", "--wait"]));
    row("create --wait of an unchanged 1 TiB volume", format!("{:.0} ms", ms(whole)));
}

/// Latencies of random 4 KiB writes by one client, in microseconds, until `until` says so.
fn writes(client: &mut Nbd, size: u64, seed: &mut u64, mut until: impl FnMut() -> bool) -> Vec<f64> {
    let data = noise(*seed, BLOCK as usize);
    let mut all = Vec::new();
    while !until() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (*seed >> 20) % (size / BLOCK) * BLOCK;
        let from = Instant::now();
        client.write(at, &data);
        all.push(from.elapsed().as_secs_f64() * 1e6);
    }
    all.sort_by(f64::total_cmp);
    all
}

fn histogram(name: &str, all: &[f64]) {
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    let bounds = [50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, f64::INFINITY];
    let mut from = 0;
    let counts: Vec<String> = bounds
        .iter()
        .map(|bound| {
            let to = all.partition_point(|v| v < bound);
            let count = to - std::mem::replace(&mut from, to);
            if bound.is_finite() { format!("<{bound}:{count}") } else { format!("more:{count}") }
        })
        .collect();
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    row(&format!("{name}: p50 / p99 / max"), format!("{p50:.0} / {p99:.0} / {max:.0} us"));
    row("    histogram, us", counts.join(" "));
}

/// Writes of a client without and with a snapshot that is being copied, and the rate of the copy.
fn copying(s: &Scratch, size: u64) -> String {
    let image = s.path("image");
    let mut file = std::fs::File::create(&image).expect("an image");
    (0..size / MIB).for_each(|n| file.write_all(&noise(n, MIB as usize)).expect("written"));
    file.sync_all().expect("synced");
    let floor = s.path("floor");
    let copy = |_| {
        let (_, time) = timed(|| {
            std::fs::copy(&image, &floor).expect("copied");
            std::fs::File::open(&floor).and_then(|f| f.sync_all()).expect("synced");
        });
        std::fs::remove_file(&floor).expect("removed");
        rate(size, time)
    };
    let disk = median((0..3).map(copy).collect());
    row("floor: copy and sync a file of that size, median of 3", format!("{disk:.0} MiB/s"));
    let path = image.to_str().expect("a path");
    let (_, import) = timed(|| s.ok(&["volume", "import", path, "--name", "full"]));
    row("volume import", format!("{:.0} MiB/s, {:.2} of the floor", rate(size, import), rate(size, import) / disk));
    let (snapshot, whole) = timed(|| s.id(&["snapshot", "create", "full", "--wait"]));
    row("full snapshot, idle", format!("{:.0} MiB/s, {:.2} of the floor", rate(size, whole), rate(size, whole) / disk));
    let mut client = Nbd::open(&s.socket(), "full").expect("a client");
    let mut seed = 1;
    let since = Instant::now();
    let before = writes(&mut client, size, &mut seed, || since.elapsed() > Duration::from_secs(5));
    histogram("4 KiB random writes, depth 1, without a snapshot", &before);
    // Everything has changed since: the next one copies all.
    (0..size / MIB).for_each(|n| client.write(n * MIB, &noise(n + 1_000_000, MIB as usize)));
    client.flush();
    let (second, _) = timed(|| s.id(&["snapshot", "create", "full"]));
    let (mut looked, mut done) = (Instant::now(), false);
    let from = Instant::now();
    let during = writes(&mut client, size, &mut seed, || {
        if looked.elapsed() > Duration::from_millis(200) {
            looked = Instant::now();
            done = s.json(&["snapshot", "show", &second])["state"] != "pending";
        }
        done
    });
    let time = from.elapsed();
    histogram("the same while a snapshot of all chunks is copied", &during);
    let p99 = |all: &[f64]| all[(all.len() - 1) * 99 / 100];
    row("    p99 with / without", format!("{:.1}", p99(&during) / p99(&before)));
    row("    that copy", format!("{:.0} MiB/s, {:.2} of the floor", rate(size, time), rate(size, time) / disk));
    client.close();
    let (_, verify) = timed(|| s.ok(&["snapshot", "verify", &snapshot]));
    row("verify", format!("{:.0} MiB/s", rate(size, verify)));
    let (_, drill) = timed(|| s.ok(&["snapshot", "drill", &snapshot]));
    row("drill", format!("{:.0} MiB/s", rate(size, drill)));
    snapshot
}

/// A restore: to the first byte, and until the volume is filled.
fn restoring(s: &Scratch, snapshot: &str, size: u64, name: &str) {
    let from = Instant::now();
    s.ok(&["volume", "create", "--snapshot", snapshot, "--name", name]);
    let mut client = Nbd::open(&s.socket(), name).expect("a client");
    client.read(size / 2, BLOCK as u32);
    row(&format!("{name}: create and read the first 4 KiB"), format!("{:.1} ms", ms(from.elapsed())));
    while s.json(&["volume", "show", name])["hydrated"] != true {
        std::thread::sleep(Duration::from_millis(20));
    }
    row(&format!("{name}: filled"), format!("{:.0} MiB/s", rate(size, from.elapsed())));
    client.close();
}

/// What a day of hourly snapshots stores, for 64 MiB of random 4 KiB writes an hour; then what deleting most gives back.
fn day(s: &Scratch, size: u64) {
    s.ok(&["volume", "create", "--size", &size.to_string(), "--name", "day"]);
    let mut client = Nbd::open(&s.socket(), "day").expect("a client");
    let (mut seed, mut all, mut bytes) = (7, Vec::new(), 0);
    for _ in 0..24 {
        let mut left = 64 * MIB / BLOCK;
        let _ = writes(&mut client, size / 16, &mut seed, || {
            left = left.saturating_sub(1);
            left == 0
        });
        client.flush();
        let snapshot = s.id(&["snapshot", "create", "day", "--wait"]);
        bytes += stored(s, &snapshot);
        all.push(snapshot);
    }
    let written = 24 * 64 * MIB;
    let amplification = bytes as f64 / written as f64;
    row(
        "24 hourly snapshots, 64 MiB of random 4 KiB writes each",
        format!("{} MiB stored, {amplification:.1} of what was written", bytes / MIB),
    );
    client.close();
    for (n, snapshot) in all.iter().enumerate() {
        if n % 6 != 5 {
            s.ok(&["snapshot", "delete", snapshot]);
        }
    }
    let (said, time) = timed(|| s.ok(&["repository", "gc"]));
    row("repository gc after 20 of them are deleted", format!("{:.1} s: {}", time.as_secs_f64(), said.stdout.trim()));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let size = args.first().map_or(2048, |n| n.parse().expect("a number of MiB")) * MIB;
    let s = Scratch::new_in("/var/tmp");
    let server = s.serve();
    creating(&s);
    let snapshot = copying(&s, size);
    restoring(&s, &snapshot, size, "local");
    day(&s, size);
    if let Ok(endpoint) = std::env::var("COFFER_FIGURES_S3") {
        s.ok(&["repository", "add", "bucket", "s3://figures", "--endpoint", &endpoint, "--path-style"]);
        let (far, time) = timed(|| s.id(&["snapshot", "create", "full", "--repository", "bucket", "--wait"]));
        row("full snapshot into the bucket", format!("{:.0} MiB/s", rate(size, time)));
        restoring(&s, &far, size, "bucket");
    }
    server.stop();
}
