//! `coffer bench`: rates, latencies and CPU time, each compared with its floor, as a table and as JSON.
//!
//! The server runs as a
//! separate process over a scratch directory, so that its CPU time can be measured; the load comes from this process over
//! Unix sockets, with pipelined requests. By default, coffer is compared with floors: memcpy for the cipher, plain
//! `pread`/`pwrite` of a file on the same disk for the server. With `--against` it is compared with other servers
//! (`compare`). Only figures of the same run are comparable; the output names the machine.

mod local;
mod scale;

use super::args::Common;
use super::render;
use crate::error::{Error, IoContext, Kind, Result};
use crate::interrupt;
use crate::measure::load::{self, Connection, Op, Pattern, Until};
use crate::measure::machine;
use crate::measure::session::Session;
use crate::units::ByteLen;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Directory on the disk to measure; scratch files are removed afterwards
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Size of the volume to use [default: 512MiB]
    #[arg(long, allow_hyphen_values = true, value_parser = super::args::size)]
    size: Option<ByteLen>,
    /// Seconds for each measurement [default: 3]
    #[arg(long)]
    seconds: Option<f64>,
    /// Number of idle volumes to create and open, at most 1000; 0: none
    #[arg(long, default_value_t = 1000)]
    volumes: usize,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Row {
    what: String,
    /// Bytes per second.
    rate: f64,
    /// Requests per second, if the case has requests.
    iops: Option<f64>,
    /// Microseconds.
    p50: Option<f64>,
    /// Microseconds.
    p99: Option<f64>,
    /// CPU seconds of the server (for local rows: of this process) per GiB.
    cpu_per_gib: Option<f64>,
    /// The floor it is compared with, and the ratio.
    floor: Option<(String, f64)>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    machine: String,
    load_before: String,
    rows: Vec<Row>,
    /// Resident memory of the server at the end, bytes.
    resident: u64,
    /// From the start of `coffer serve` to its first answered request, seconds.
    start_up: f64,
    under_load: scale::UnderLoad,
    idle: Option<scale::Idle>,
}

pub(super) fn run(common: &Common, args: &BenchArgs) -> Result<u8> {
    interrupt::stop_on_signals()?;
    let scratch = args.dir.join(format!("coffer-bench-{}", std::process::id()));
    std::fs::create_dir(&scratch).on(|| format!("create {}", scratch.display()))?;
    let done = alone(common, &scratch, args);
    let _ = std::fs::remove_dir_all(&scratch);
    match done {
        // An interrupted measurement fails in many ways.
        Err(_) if interrupt::is_asked_for() => Err(Error::new(Kind::Interrupted, "bench: interrupted")),
        done => done.map(|()| 0),
    }
}

/// How long one measurement takes.
fn seconds(args: &BenchArgs) -> Result<Duration> {
    let asked = args.seconds.unwrap_or(3.0);
    let time = Duration::try_from_secs_f64(asked).ok().filter(|t| *t >= Duration::from_millis(50));
    time.ok_or_else(|| Error::new(Kind::Usage, format!("--seconds {asked}: must be at least 0.05")))
}

fn alone(common: &Common, scratch: &Path, args: &BenchArgs) -> Result<()> {
    let outcome = measure(scratch, args.size.map_or(512 << 20, |s| s.0), seconds(args)?, args.volumes)?;
    if common.json {
        render::line(serde_json::to_string_pretty(&outcome).unwrap_or_default());
    } else {
        show(&outcome);
    }
    Ok(())
}

fn measure(scratch: &Path, size: u64, time: Duration, volumes: usize) -> Result<Outcome> {
    let load_before = machine::load_average();
    let mut rows = local::cipher(time)?;
    let floors = local::file(scratch, size, time)?;
    rows.extend(floors.iter().cloned());
    let mut coffer = Session::new(scratch)?;
    coffer.init()?;
    coffer.run(&["volume", "create", "-q", "--size", &size.to_string(), "--name", "bench"])?;
    let started = Instant::now();
    coffer.serve()?;
    let socket = coffer.nbd_socket();
    let mut connection = Connection::open(&socket, "bench")?;
    connection.read_once(0, 4096)?;
    let start_up = started.elapsed().as_secs_f64();
    rows.extend(served(&mut connection, &coffer, size, time, &floors)?);
    rows.push(snapshot(&coffer, size)?);
    let resident = coffer.server_memory();
    let under_load = scale::snapshot_under_load(&mut connection, &coffer, size, time)?;
    drop(connection);
    let idle = (volumes > 0).then(|| scale::idle_volumes(&mut coffer, volumes)).transpose()?;
    coffer.stop()?;
    Ok(Outcome { machine: machine::machine(), load_before, rows, resident, start_up, under_load, idle })
}

fn served(
    connection: &mut Connection,
    coffer: &Session,
    size: u64,
    time: Duration,
    floors: &[Row],
) -> Result<Vec<Row>> {
    let cases = [
        ("write 1 MiB depth 4", Op::Write, false, 1 << 20, 4, "file write 128 KiB"),
        ("read 1 MiB depth 4", Op::Read, false, 1 << 20, 4, "file read 128 KiB"),
        ("write 128 KiB depth 16", Op::Write, false, 128 << 10, 16, "file write 128 KiB"),
        ("read 128 KiB depth 16", Op::Read, false, 128 << 10, 16, "file read 128 KiB"),
        ("random write 4 KiB depth 32", Op::Write, true, 4096, 32, "file random write 4 KiB"),
        ("random read 4 KiB depth 32", Op::Read, true, 4096, 32, "file random read 4 KiB"),
        ("random read 4 KiB depth 1", Op::Read, true, 4096, 1, "file random read 4 KiB"),
    ];
    let mut rows = Vec::new();
    for (what, op, random, block, depth, floor) in cases {
        let pattern = Pattern { op, random, block, depth, start: 0, size, until: Until::Time(time) };
        let before = coffer.server_cpu();
        let seen = load::load(std::slice::from_mut(connection), &pattern)?;
        let cpu = coffer.server_cpu() - before;
        let rate = seen.bytes as f64 / seen.elapsed.as_secs_f64();
        let gib = seen.bytes as f64 / (1u64 << 30) as f64;
        let under = floors.iter().find(|f| f.what == floor).map(|f| (floor.to_owned(), rate / f.rate));
        rows.push(Row {
            what: format!("nbd {what}"),
            rate,
            iops: Some(seen.latencies.len() as f64 / seen.elapsed.as_secs_f64()),
            p50: Some(seen.percentile(50.0)),
            p99: Some(seen.percentile(99.0)),
            cpu_per_gib: (gib > 0.0).then(|| cpu / gib),
            floor: under,
        });
    }
    Ok(rows)
}

fn snapshot(coffer: &Session, size: u64) -> Result<Row> {
    let before = coffer.server_cpu();
    let started = Instant::now();
    coffer.run(&["snapshot", "create", "-q", "bench", "--wait"])?;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = coffer.server_cpu() - before;
    Ok(Row {
        what: "snapshot, full".to_owned(),
        rate: size as f64 / elapsed,
        iops: None,
        p50: None,
        p99: None,
        cpu_per_gib: Some(cpu / (size as f64 / (1u64 << 30) as f64)),
        floor: None,
    })
}

fn show(outcome: &Outcome) {
    render::line(format!("{}; load before: {}", outcome.machine, outcome.load_before));
    render::line(format!(
        "{:<34} {:>8} {:>10} {:>9} {:>9} {:>10}  {}",
        "", "GB/s", "IOPS", "p50 us", "p99 us", "CPU-s/GiB", "of the floor"
    ));
    let number = |n: Option<f64>, digits: usize| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"));
    for row in &outcome.rows {
        let floor = row.floor.as_ref().map_or_else(String::new, |(name, ratio)| format!("{ratio:.2} of {name}"));
        render::line(format!(
            "{:<34} {:>8.2} {:>10} {:>9} {:>9} {:>10}  {floor}",
            row.what,
            row.rate / 1e9,
            number(row.iops, 0),
            number(row.p50, 1),
            number(row.p99, 1),
            number(row.cpu_per_gib, 2),
        ));
    }
    render::line(format!(
        "server: {} MiB resident, {:.0} ms from start to first reply",
        outcome.resident >> 20,
        outcome.start_up * 1e3
    ));
    let load = &outcome.under_load;
    render::line(format!(
        "random write 4 KiB depth 8: p99 {:.0} us; during a snapshot of {2:.2} s: {1:.2} times that, at {3:.2} of the rate",
        load.p99_alone,
        load.p99 / load.p99_alone,
        load.snapshot,
        load.rate / load.rate_alone,
    ));
    if let Some(idle) = &outcome.idle {
        render::line(format!(
            "{} idle volumes: {:.0} KiB and {:.1} ms to open each, {:.2} CPU-s per second; {:.0} ms from start to first reply",
            idle.volumes,
            idle.memory_each / 1024.0,
            idle.open_each * 1e3,
            idle.cpu_idle,
            idle.start_up * 1e3,
        ));
    }
}
