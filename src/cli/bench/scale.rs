//! What a server does besides transfer data: a snapshot of a volume under load, and idle volumes.

use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::measure::cannot;
use crate::measure::load::{Connection, Op, Pattern, Seen, Until, load};
use crate::measure::session::Session;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections, of a server's 1024, that are not used for idle volumes.
const SPARE: usize = 24;

/// Random 4 KiB writes at depth 8, without and during a snapshot of the volume.
#[derive(Debug, Serialize)]
pub(super) struct UnderLoad {
    /// Microseconds.
    pub(super) p99_alone: f64,
    /// Microseconds.
    pub(super) p99: f64,
    /// Writes per second without a snapshot.
    pub(super) rate_alone: f64,
    /// Writes per second during the snapshot.
    pub(super) rate: f64,
    /// How long the snapshot took, seconds.
    pub(super) snapshot: f64,
}

/// Measures writes for `time`, then during a snapshot.
pub(super) fn snapshot_under_load(
    connection: &mut Connection,
    coffer: &Session,
    size: u64,
    time: Duration,
) -> Result<UnderLoad> {
    static DONE: AtomicBool = AtomicBool::new(false);
    let until = Until::Time(time);
    let pattern = Pattern { op: Op::Write, random: true, block: 4096, depth: 8, start: 0, size, until };
    let alone = load(std::slice::from_mut(connection), &pattern)?;
    DONE.store(false, Ordering::Relaxed);
    let (seen, snapshot) = std::thread::scope(|scope| {
        let pattern = Pattern { until: Until::Set(&DONE), ..pattern };
        let writing = scope.spawn(move || load(std::slice::from_mut(connection), &pattern));
        let started = Instant::now();
        let made = coffer.run(&["snapshot", "create", "-q", "bench", "--wait"]);
        let took = started.elapsed().as_secs_f64();
        DONE.store(true, Ordering::Relaxed);
        let seen = writing.join().unwrap_or_else(|_| Err(cannot("the load thread panicked")));
        made.and(seen).map(|seen| (seen, took))
    })?;
    let rate = |seen: &Seen| seen.latencies.len() as f64 / seen.elapsed.as_secs_f64();
    let (p99_alone, p99) = (alone.percentile(99.0), seen.percentile(99.0));
    Ok(UnderLoad { p99_alone, p99, rate_alone: rate(&alone), rate: rate(&seen), snapshot })
}

/// Volumes that are open and idle.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) volumes: usize,
    /// From the start of `coffer serve`, with all of them in the catalog, to its first reply, seconds.
    pub(super) start_up: f64,
    /// Opening one: connecting to it and reading its first bytes, seconds.
    pub(super) open_each: f64,
    /// Resident memory per volume, bytes.
    pub(super) memory_each: f64,
    /// CPU seconds of the server in one idle second, with all of them open.
    pub(super) cpu_idle: f64,
}

/// Creates `volumes`, restarts the server, opens each on a connection of its own, and leaves them idle for a second.
pub(super) fn idle_volumes(coffer: &mut Session, volumes: usize) -> Result<Idle> {
    let volumes = volumes.min(1024 - SPARE);
    let names: Vec<String> = (0..volumes).map(|n| format!("idle{n}")).collect();
    for name in &names {
        if interrupt::is_asked_for() {
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        coffer.run(&["volume", "create", "-q", "--size", "1GiB", "--name", name])?;
    }
    coffer.stop()?;
    let started = Instant::now();
    coffer.serve()?;
    let socket = coffer.nbd_socket();
    Connection::open(&socket, "bench")?.read_once(0, 4096)?;
    let start_up = started.elapsed().as_secs_f64();
    let (before, started) = (coffer.server_memory(), Instant::now());
    let mut open = Vec::with_capacity(volumes);
    for name in &names {
        let mut connection = Connection::open(&socket, name)?;
        connection.read_once(0, 4096)?;
        open.push(connection);
    }
    let opening = started.elapsed().as_secs_f64();
    let memory = coffer.server_memory().saturating_sub(before) as f64;
    let cpu = coffer.server_cpu();
    std::thread::sleep(Duration::from_secs(1));
    let cpu_idle = coffer.server_cpu() - cpu;
    let each = |total: f64| total / volumes.max(1) as f64;
    Ok(Idle { volumes, start_up, open_each: each(opening), memory_each: each(memory), cpu_idle })
}
