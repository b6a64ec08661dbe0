//! `coffer bench --against …`: coffer and its peers on the same disk, with the same clients, in alternating rounds; medians.
//!
//! What distorts such numbers, and the remedy: other load on the machine (it is reported; servers alternate within each case,
//! and each round begins with a different one); a cold first round (run, but not counted); a volume of holes (each is
//! written first); a client that costs more than the server (a lean one, two foreign ones for comparison, and the
//! server's own CPU time).

use super::cases::{CASES, COLD, Case, Copy, TRIM_ROOM, Work};
use super::load::{Op, Pattern, Until, load};
use super::peers::{Peer, Server, Servers, finish};
use super::{cannot, interrupted, local};
use crate::env::{Rng, SystemRng};
use crate::error::{Error, IoContext, Kind, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What to measure.
pub(super) struct Plan<'a> {
    pub(super) peers: &'a [Peer],
    pub(super) rounds: usize,
    pub(super) time: Duration,
    /// Bytes of each volume.
    pub(super) size: u64,
    /// Substrings of case names; empty: all cases.
    pub(super) only: &'a [String],
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) case: String,
    pub(super) server: String,
    pub(super) round: usize,
    /// Requests per second (nbdcopy: of its usual 256 KiB; `connect`: connections).
    pub(super) requests: f64,
    /// Bytes per second.
    pub(super) bytes: f64,
    /// Microseconds.
    pub(super) p50: Option<f64>,
    /// Microseconds.
    pub(super) p99: Option<f64>,
    /// CPU seconds of the server per million requests.
    pub(super) cpu_per_million: f64,
    /// CPU seconds of the server per GiB.
    pub(super) cpu_per_gib: Option<f64>,
    /// Peak of the server's resident memory, bytes.
    pub(super) resident: u64,
}

/// A whole comparison.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) machine: String,
    pub(super) kernel: String,
    pub(super) vaes: bool,
    pub(super) load_before: String,
    pub(super) load_after: String,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) size: u64,
    /// coffer first.
    pub(super) servers: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

pub(super) fn run(scratch: &Path, plan: &Plan<'_>) -> Result<Comparison> {
    let cases: Vec<&Case> = CASES.iter().filter(|c| wanted(c, plan.only)).collect();
    if cases.is_empty() {
        return Err(Error::new(Kind::Usage, "--only: no case matches")
            .hint(format!("choose from: {}", CASES.map(|c| c.name).join(", "))));
    }
    let source = scratch.join("source");
    fill_with_noise(&source, plan.size - TRIM_ROOM)?;
    let load_before = local::load_average();
    let servers = Servers::start(scratch, plan.peers, plan.size)?;
    for server in &servers.all {
        fill(server, 0, plan.size)?;
    }
    let mut samples = Vec::new();
    // Round 0 warms up and is not counted.
    for round in 0..=plan.rounds {
        let time = if round == 0 { plan.time.min(Duration::from_millis(100)) } else { plan.time };
        for (n, case) in cases.iter().enumerate() {
            for turn in 0..servers.all.len() {
                let server = &servers.all[(turn + round + n) % servers.all.len()];
                if case.ours_alone && server.name != "coffer" {
                    continue;
                }
                let sample = measure(case, server, plan.size, time, &source).map_err(|e| name(e, case, server))?;
                samples.extend(sample.filter(|_| round > 0).map(|s| Sample { round, ..s }));
                if round > 0 && case.name == COLD && server.name == "coffer" {
                    samples.push(Sample { round, ..disk(server, plan.size)? });
                }
                if interrupted() {
                    return Err(Error::new(Kind::Interrupted, "stopped"));
                }
            }
        }
        let counted = if round == 0 { " (not counted)" } else { "" };
        let _ = writeln!(std::io::stderr(), "round {round} of {}{counted}", plan.rounds);
    }
    Ok(Comparison {
        machine: local::machine(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        vaes: local::machine().split(' ').any(|w| w == "vaes"),
        load_before,
        load_after: local::load_average(),
        rounds: plan.rounds,
        seconds: plan.time.as_secs_f64(),
        size: plan.size,
        servers: servers.all.iter().map(|s| s.name.to_owned()).collect(),
        samples,
    })
}

fn wanted(case: &Case, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|part| case.name.contains(part.as_str()))
}

/// The same error, naming what was measured.
fn name(e: Error, case: &Case, server: &Server) -> Error {
    Error::new(e.kind(), format!("{} on {}: {}", case.name, server.name, e.line()))
}

fn fill_with_noise(path: &Path, size: u64) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut file = std::fs::File::create(path).on(what)?;
    let mut buf = vec![0u8; 1 << 20];
    for _ in 0..size >> 20 {
        SystemRng.fill(&mut buf);
        file.write_all(&buf).on(what)?;
    }
    Ok(())
}

/// Writes a range, so that it has no holes, and makes it durable.
fn fill(server: &Server, start: u64, size: u64) -> Result<()> {
    let block = 1 << 20;
    let until = Until::Count(size / block as u64);
    let pattern = Pattern { op: Op::Write, random: false, block, depth: 4, start, size, until };
    let mut connections = [server.connect()?];
    load(&mut connections, &pattern)?;
    connections[0].flush()
}

/// What a client measured.
struct Seen {
    requests: f64,
    bytes: f64,
    elapsed: f64,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// One case on one server. `None`: the server does not offer it.
fn measure(case: &Case, server: &Server, size: u64, time: Duration, source: &Path) -> Result<Option<Sample>> {
    if matches!(case.work, Work::Load { op: Op::Trim, .. }) {
        fill(server, size - TRIM_ROOM, TRIM_ROOM)?;
    }
    if matches!(case.work, Work::Cold) {
        server.forget_pages()?;
    }
    server.forget_peak();
    let before = server.cpu();
    let seen = match case.work {
        Work::Load { .. } | Work::Cold => ours(case.work, server, size, time)?,
        Work::Fio { rw, block, depth } => Some(fio(server, rw, block, depth, size - TRIM_ROOM, time)?),
        Work::Nbdcopy(way) => Some(nbdcopy(server, way, source, size)?),
        Work::Connect => Some(connect(server, time)?),
    };
    let Some(seen) = seen else { return Ok(None) };
    let cpu = server.cpu() - before;
    let gib = seen.bytes / (1u64 << 30) as f64;
    Ok(Some(Sample {
        case: case.name.to_owned(),
        server: server.name.to_owned(),
        round: 0,
        requests: seen.requests / seen.elapsed,
        bytes: seen.bytes / seen.elapsed,
        p50: seen.p50,
        p99: seen.p99,
        cpu_per_million: cpu / (seen.requests / 1e6),
        cpu_per_gib: (gib > 0.0).then(|| cpu / gib),
        resident: server.peak(),
    }))
}

/// The server's file, read by fio with O_DIRECT: what its disk can do.
fn disk(server: &Server, size: u64) -> Result<Sample> {
    // A volume's data is the end of its file.
    let length = std::fs::metadata(&server.file).on(|| format!("look at {}", server.file.display()))?.len();
    let out = finish(
        Command::new("fio")
            .args(["--name=b", "--ioengine=libaio", "--direct=1", "--rw=read", "--bs=1M", "--iodepth=4", "--readonly"])
            // By default fio drops the file from the page cache: the server's next case would be cold.
            .args(["--invalidate=0", "--output-format=json", &format!("--size={}", size - TRIM_ROOM)])
            .arg(format!("--offset={}", length.saturating_sub(size)))
            .arg(format!("--filename={}", server.file.display())),
    )?;
    let seen = fio_said(&out, false)?;
    Ok(Sample {
        case: COLD.to_owned(),
        server: "disk".to_owned(),
        round: 0,
        requests: seen.requests / seen.elapsed,
        bytes: seen.bytes / seen.elapsed,
        p50: seen.p50,
        p99: seen.p99,
        cpu_per_million: 0.0,
        cpu_per_gib: None,
        resident: 0,
    })
}

fn ours(work: Work, server: &Server, size: u64, time: Duration) -> Result<Option<Seen>> {
    let Some((pattern, connections)) = work.pattern(size, time) else { return Ok(None) };
    let mut connections = (0..connections).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    if !connections.iter().all(|c| c.can(pattern.op)) {
        return Ok(None);
    }
    let seen = load(&mut connections, &pattern)?;
    Ok(Some(Seen {
        requests: seen.latencies.len() as f64,
        bytes: seen.bytes as f64,
        elapsed: seen.elapsed.as_secs_f64(),
        p50: Some(seen.percentile(50.0)),
        p99: Some(seen.percentile(99.0)),
    }))
}

fn connect(server: &Server, time: Duration) -> Result<Seen> {
    let started = Instant::now();
    let mut took = Vec::new();
    while started.elapsed() < time {
        let one = Instant::now();
        server.connect()?.read_once(0, 4096)?;
        took.push(one.elapsed().as_secs_f64() * 1e6);
    }
    let elapsed = started.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let at = |p: usize| took.get(took.len() * p / 100).copied();
    Ok(Seen { requests: took.len() as f64, bytes: 0.0, elapsed, p50: at(50), p99: at(99) })
}

fn nbdcopy(server: &Server, way: Copy, source: &Path, size: u64) -> Result<Seen> {
    let uri = server.uri();
    let source = source.display().to_string();
    let (from, to, bytes) = match way {
        Copy::In => (source.as_str(), uri.as_str(), size - TRIM_ROOM),
        Copy::Out => (uri.as_str(), "null:", size),
    };
    let started = Instant::now();
    finish(Command::new("nbdcopy").args(["--flush", from, to]))?;
    let elapsed = started.elapsed().as_secs_f64();
    Ok(Seen { requests: bytes as f64 / f64::from(256 << 10), bytes: bytes as f64, elapsed, p50: None, p99: None })
}

/// The part of fio's output that is used.
#[derive(Deserialize)]
struct Fio {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Side,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    io_bytes: u64,
    total_ios: u64,
    /// Milliseconds.
    runtime: f64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

fn fio(server: &Server, rw: &str, block: usize, depth: usize, size: u64, time: Duration) -> Result<Seen> {
    let out = finish(
        Command::new("fio")
            .args(["--name=b", "--ioengine=nbd", "--time_based", "--output-format=json"])
            .arg(format!("--uri={}", server.uri()))
            .arg(format!("--rw={rw}"))
            .arg(format!("--bs={block}"))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--size={size}"))
            .arg(format!("--runtime={}ms", time.as_millis())),
    )?;
    fio_said(&out, rw.contains("write"))
}

fn fio_said(out: &str, write: bool) -> Result<Seen> {
    let from = out.find('{').ok_or_else(|| cannot("fio: no JSON in its output"))?;
    let read: Fio =
        serde_json::from_str(&out[from..]).map_err(|e| cannot(format!("fio: cannot parse its output: {e}")))?;
    let job = read.jobs.into_iter().next().ok_or_else(|| cannot("fio: no job in its output"))?;
    let side = if write { job.write } else { job.read };
    let percentile = |p: &str| side.clat_ns.percentile.get(p).map(|ns| ns / 1e3);
    Ok(Seen {
        requests: side.total_ios as f64,
        bytes: side.io_bytes as f64,
        elapsed: side.runtime / 1e3,
        p50: percentile("50.000000"),
        p99: percentile("99.000000"),
    })
}

/// Writes all samples to a file.
pub(super) fn save(comparison: &Comparison, path: &Path) -> Result<()> {
    let text = serde_json::to_string(comparison).map_err(|e| cannot(format!("write the samples: {e}")))?;
    std::fs::write(path, text).on(|| format!("write {}", path.display()))
}

/// Reads what [`save`] wrote.
pub(super) fn read(path: &PathBuf) -> Result<Comparison> {
    let text = std::fs::read_to_string(path).on(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| cannot(format!("{} is not a file of samples: {e}", path.display())))
}
