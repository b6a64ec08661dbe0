//! Measures coffer and its peers on one disk, with the same clients, in alternating rounds.
//!
//! Such measurements are easily distorted. Countermeasures: against other load on the machine, it is reported, servers alternate
//! within each case, and each round starts with a different server. Against a cold first round, that round is run but not
//! counted. Against volumes of holes, each volume is written first. Against a client that costs more than the server, there are a
//! lean client, two foreign ones, and the server's own processor time.

use crate::cases::{CASES, COLD, Case, Copy, TRIM_ROOM, Work};
use crate::peers::{Peer, Server, Servers, finish};
use coffer::env::{Rng, SystemRng};
use coffer::error::{Error, IoContext, Kind, Result};
use coffer::interrupt;
use coffer::measure::load::{Op, Pattern, Until, load};
use coffer::measure::{cannot, machine};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The parameters of a comparison.
pub struct Plan<'a> {
    /// Path of the coffer binary.
    pub coffer: &'a Path,
    pub peers: &'a [Peer],
    pub rounds: usize,
    pub time: Duration,
    /// Size of each volume, in bytes.
    pub size: u64,
    /// Substrings of case names to select; empty: all cases.
    pub only: &'a [String],
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub case: String,
    pub server: String,
    pub round: usize,
    /// Requests per second (for nbdcopy: of its default 256 KiB; for `connect`: connections).
    pub requests: f64,
    /// Bytes per second.
    pub bytes: f64,
    /// Median latency, in microseconds.
    pub p50: Option<f64>,
    /// 99th percentile of the latency, in microseconds.
    pub p99: Option<f64>,
    /// Processor seconds of the server per million requests.
    pub cpu_per_million: f64,
    /// Processor seconds of the server per GiB.
    pub cpu_per_gib: Option<f64>,
    /// Peak resident memory of the server, in bytes.
    pub resident: u64,
}

/// A complete comparison.
#[derive(Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub machine: String,
    pub kernel: String,
    pub vaes: bool,
    pub load_before: String,
    pub load_after: String,
    pub rounds: usize,
    pub seconds: f64,
    pub size: u64,
    /// Names of the servers, coffer first.
    pub servers: Vec<String>,
    pub samples: Vec<Sample>,
}

pub fn run(scratch: &Path, plan: &Plan<'_>) -> Result<Comparison> {
    let cases: Vec<&Case> = CASES.iter().filter(|c| wanted(c, plan.only)).collect();
    if cases.is_empty() {
        return Err(Error::new(Kind::Usage, "no case has such a name")
            .hint(format!("the cases are: {}", CASES.map(|c| c.name).join(", "))));
    }
    let source = scratch.join("source");
    fill_with_noise(&source, plan.size - TRIM_ROOM)?;
    let load_before = machine::load_average();
    let servers = Servers::start(plan.coffer, scratch, plan.peers, plan.size)?;
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
                if interrupt::is_asked_for() {
                    return Err(Error::new(Kind::Interrupted, "stopped"));
                }
            }
        }
        let counted = if round == 0 { " (not counted)" } else { "" };
        let _ = writeln!(std::io::stderr(), "round {round} of {}{counted}", plan.rounds);
    }
    Ok(Comparison {
        machine: machine::machine(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        vaes: machine::machine().split(' ').any(|w| w == "vaes"),
        load_before,
        load_after: machine::load_average(),
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

/// Adds the case and the server to an error.
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

/// Writes a range, so that it has no holes, and flushes it.
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

/// Measures one case on one server. `None`: the server does not support it.
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

/// Measures the disk itself: fio reads the file under a server with direct I/O.
fn disk(server: &Server, size: u64) -> Result<Sample> {
    // The data of a volume is at the end of its file.
    let length = std::fs::metadata(&server.file).on(|| format!("look at {}", server.file.display()))?.len();
    let out = finish(
        Command::new("fio")
            .args(["--name=b", "--ioengine=libaio", "--direct=1", "--rw=read", "--bs=1M", "--iodepth=4", "--readonly"])
            // By default fio drops the file from the page cache, so that the server's next case would be cold.
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

/// The parts of fio's output that are used.
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
    /// In milliseconds.
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
    let from = out.find('{').ok_or_else(|| cannot("fio printed no JSON"))?;
    let read: Fio = serde_json::from_str(&out[from..]).map_err(|e| cannot(format!("fio's answer: {e}")))?;
    let job = read.jobs.into_iter().next().ok_or_else(|| cannot("fio ran no job"))?;
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
pub fn save(comparison: &Comparison, path: &Path) -> Result<()> {
    let text = serde_json::to_string(comparison).map_err(|e| cannot(format!("write the samples: {e}")))?;
    std::fs::write(path, text).on(|| format!("write {}", path.display()))
}

/// Reads a file that [`save`] wrote.
pub fn read(path: &PathBuf) -> Result<Comparison> {
    let text = std::fs::read_to_string(path).on(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| cannot(format!("{} is no comparison: {e}", path.display())))
}
