//! `coffer bench`: rates, latencies and processor time, each beside its floor, as a table and as JSON.
//!
//! The server runs as a process of its own over a scratch directory, so that its processor time is its own; the load
//! comes from this process over a Unix socket, one connection, requests pipelined. Floors: memcpy for the cipher, a plain
//! `pread`/`pwrite` of a file on the same disk for the server. Figures of one run belong together; the machine is named.

mod load;
mod local;

use super::demo::session::Session;
use super::{Common, render};
use crate::error::{Error, IoContext, Kind, Result};
use crate::units::ByteLen;
use clap::Args;
use load::{Connection, Pattern};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Directory on the disk to be measured; scratch files in it are removed afterwards
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Bytes of the volume that are used
    #[arg(long, default_value = "512MiB")]
    size: ByteLen,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Row {
    what: String,
    /// Bytes a second.
    rate: f64,
    /// Requests a second, where there are requests.
    iops: Option<f64>,
    /// Microseconds.
    p50: Option<f64>,
    /// Microseconds.
    p99: Option<f64>,
    /// Processor seconds of the server (for local rows: of this process) for each GiB.
    cpu_per_gib: Option<f64>,
    /// The floor it is measured against, and the ratio to that.
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
}

pub(super) fn run(common: &Common, args: &BenchArgs) -> Result<u8> {
    let scratch = args.dir.join(format!("coffer-bench-{}", std::process::id()));
    std::fs::create_dir(&scratch).on(|| format!("create {}", scratch.display()))?;
    let outcome = measure(&scratch, args);
    let _ = std::fs::remove_dir_all(&scratch);
    let outcome = outcome?;
    if common.json {
        render::line(serde_json::to_string_pretty(&outcome).unwrap_or_default());
    } else {
        show(&outcome);
    }
    Ok(0)
}

fn measure(scratch: &std::path::Path, args: &BenchArgs) -> Result<Outcome> {
    let time = Duration::from_secs(args.seconds.max(1));
    let load_before = std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned();
    let mut rows = local::cipher(time)?;
    let floors = local::file(scratch, args.size.0, time)?;
    rows.extend(floors.iter().cloned());
    let mut coffer = Session::new(scratch)?;
    coffer.init()?;
    let size = args.size.0.to_string();
    coffer.run(&["volume", "create", "-q", "--size", &size, "--name", "bench"])?;
    let started = Instant::now();
    coffer.serve()?;
    let socket = coffer.nbd_socket();
    let mut connection = Connection::open(&socket, "bench")?;
    connection.read_once(0, 4096)?;
    let start_up = started.elapsed().as_secs_f64();
    rows.extend(served(&mut connection, &coffer, args.size.0, time, &floors)?);
    rows.push(snapshot(&coffer, args.size.0)?);
    let resident = coffer.server_memory();
    drop(connection);
    coffer.stop()?;
    Ok(Outcome { machine: local::machine(), load_before, rows, resident, start_up })
}

fn served(
    connection: &mut Connection,
    coffer: &Session,
    size: u64,
    time: Duration,
    floors: &[Row],
) -> Result<Vec<Row>> {
    let cases = [
        (
            "write 1 MiB depth 4",
            Pattern { write: true, random: false, block: 1 << 20, depth: 4, size, time },
            "file write 128 KiB",
        ),
        (
            "read 1 MiB depth 4",
            Pattern { write: false, random: false, block: 1 << 20, depth: 4, size, time },
            "file read 128 KiB",
        ),
        (
            "write 128 KiB depth 16",
            Pattern { write: true, random: false, block: 128 << 10, depth: 16, size, time },
            "file write 128 KiB",
        ),
        (
            "read 128 KiB depth 16",
            Pattern { write: false, random: false, block: 128 << 10, depth: 16, size, time },
            "file read 128 KiB",
        ),
        (
            "random write 4 KiB depth 32",
            Pattern { write: true, random: true, block: 4096, depth: 32, size, time },
            "file random write 4 KiB",
        ),
        (
            "random read 4 KiB depth 32",
            Pattern { write: false, random: true, block: 4096, depth: 32, size, time },
            "file random read 4 KiB",
        ),
        (
            "random read 4 KiB depth 1",
            Pattern { write: false, random: true, block: 4096, depth: 1, size, time },
            "file random read 4 KiB",
        ),
    ];
    let mut rows = Vec::new();
    for (what, pattern, floor) in cases {
        let before = coffer.server_cpu();
        let seen = connection.load(&pattern)?;
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
        "", "GB/s", "IOPS", "p50 us", "p99 us", "CPU-s/GiB", "of its floor"
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
        "server: {} MiB resident, {:.0} ms from start to first answer",
        outcome.resident >> 20,
        outcome.start_up * 1e3
    ));
}

/// An error of a measurement that cannot be made.
fn cannot(what: impl Into<String>) -> Error {
    Error::new(Kind::Failed, what)
}
