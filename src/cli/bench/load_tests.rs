use super::*;
use crate::engine::{Attempt, Blocking, Device};
use crate::nbd::memory::{Fixed, Memory};
use crate::nbd::{Listener, Server, ServerConfig};
use std::sync::Arc;

const SIZE: u64 = 4 << 20;

/// A server of zeros, and its store.
struct Rig {
    dir: tempfile::TempDir,
    memory: Arc<Memory>,
    server: Option<Server>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = Arc::new(Memory::new(SIZE as usize));
        let exports = Arc::new(Fixed::default().with("disk", memory.clone()));
        let listener = Listener::unix(&dir.path().join("s")).unwrap();
        let server = Server::start(vec![listener], exports, ServerConfig::default()).unwrap();
        Self { dir, memory, server: Some(server) }
    }

    fn connect(&self, count: usize) -> Vec<Connection> {
        (0..count).map(|_| Connection::open(&self.dir.path().join("s"), "disk").unwrap()).collect()
    }

    /// Blocks of the export that are not zeros.
    fn written(&self, block: usize) -> usize {
        let mut all = vec![0; SIZE as usize];
        assert_eq!(self.memory.read(0, &mut all, Blocking::Allowed).unwrap(), Attempt::Done);
        all.chunks(block).filter(|b| b.iter().any(|byte| *byte != 0)).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown(Duration::from_secs(5));
        }
    }
}

fn pattern(op: Op, block: usize, depth: usize, count: u64) -> Pattern {
    Pattern { op, random: false, block, depth, start: 0, size: SIZE, until: Until::Count(count) }
}

#[test]
fn every_kind_of_request_is_answered_as_often_as_asked() {
    let rig = Rig::new();
    for op in [Op::Read, Op::Write, Op::Mixed, Op::WriteFlush, Op::Fua, Op::Trim] {
        for (block, depth) in [(4096, 1), (4096, 32), (64 << 10, 5), (1 << 20, 4)] {
            for random in [false, true] {
                let mut connections = rig.connect(2);
                assert!(connections.iter().all(|c| c.can(op)));
                let seen = load(&mut connections, &Pattern { random, ..pattern(op, block, depth, 40) }).unwrap();
                assert_eq!(seen.latencies.len(), 80, "{op:?} {block} {depth}");
                assert_eq!(seen.bytes, 80 * block as u64);
                assert!(seen.latencies.is_sorted() && seen.latencies[0] > 0 && seen.percentile(50.0) > 0.0);
            }
        }
    }
}

#[test]
fn sequential_connections_share_a_range_and_leave_the_rest_alone() {
    let rig = Rig::new();
    let half = Pattern { start: SIZE / 2, size: SIZE / 2, ..pattern(Op::Write, 64 << 10, 3, 8) };
    load(&mut rig.connect(4), &half).unwrap();
    assert_eq!(rig.written(SIZE as usize / 2), 1);
    assert_eq!(rig.written(64 << 10), 32);
    load(&mut rig.connect(1), &Pattern { op: Op::Trim, until: Until::Count(32), ..half }).unwrap();
    assert_eq!(rig.written(64 << 10), 0);
}

#[test]
fn a_time_ends_a_run_and_no_request_is_left_over() {
    let rig = Rig::new();
    let mut connections = rig.connect(1);
    let short = Pattern { until: Until::Time(Duration::from_millis(20)), ..pattern(Op::Mixed, 4096, 16, 0) };
    let seen = load(&mut connections, &short).unwrap();
    assert!(seen.latencies.len() >= 16 && seen.elapsed >= Duration::from_millis(20));
    // A leftover reply would be taken for the reply to this request.
    connections[0].read_once(0, 4096).unwrap();
    connections[0].flush().unwrap();
}

#[test]
fn a_connection_is_used_again_after_reads_larger_than_one_recv() {
    let rig = Rig::new();
    let mut connections = rig.connect(1);
    for op in [Op::Read, Op::Write, Op::Read, Op::Mixed, Op::Read] {
        load(&mut connections, &pattern(op, 1 << 20, 4, 10)).unwrap();
        connections[0].read_once(0, 4096).unwrap();
    }
}

#[test]
fn a_refusal_is_an_error_not_a_rate() {
    let rig = Rig::new();
    let outside = Pattern { start: SIZE, ..pattern(Op::Read, 4096, 4, 10) };
    let refused = load(&mut rig.connect(1), &outside).err().unwrap();
    assert!(refused.to_string().contains("error 22"), "{refused}");
}
