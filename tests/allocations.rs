//! In steady state the server allocates nothing per request: buffers are reused. Counted over a real volume, with the
//! server in this process and a client that does not allocate.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use coffer::nbd::volumes::VolumeExports;
use coffer::nbd::{Listener, Server, ServerConfig};
use coffer::service::{Role, Service};
use common::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZE: u64 = 16 << 20;
/// Requests in flight at once.
const DEPTH: u64 = 16;

/// A client with all its memory preallocated.
struct Client {
    socket: UnixStream,
    out: Vec<u8>,
    back: Vec<u8>,
    seed: u64,
}

impl Client {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    /// Sends this many requests of one length at random offsets, [`DEPTH`] at a time, and reads their replies.
    fn load(&mut self, command: u16, fua: u16, len: usize, count: u64) {
        for _ in 0..count / DEPTH {
            self.out.clear();
            for cookie in 0..DEPTH {
                let offset = self.random(SIZE / len as u64) * len as u64;
                self.out.extend_from_slice(&0x2560_9513u32.to_be_bytes());
                self.out.extend_from_slice(&fua.to_be_bytes());
                self.out.extend_from_slice(&command.to_be_bytes());
                self.out.extend_from_slice(&cookie.to_be_bytes());
                self.out.extend_from_slice(&offset.to_be_bytes());
                self.out.extend_from_slice(&(len as u32).to_be_bytes());
                if command == raw::WRITE {
                    let end = self.out.len() + len;
                    self.out.resize(end, 0x5a);
                }
            }
            self.socket.write_all(&self.out).unwrap();
            let each = 16 + if command == raw::READ { len } else { 0 };
            for _ in 0..DEPTH {
                self.socket.read_exact(&mut self.back[..each]).unwrap();
                assert_eq!(self.back[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
            }
        }
    }
}

/// Serves the volumes of a scratch directory in this process.
fn serve(s: &Scratch) -> (Arc<Service>, Server) {
    let service = s.opened(Role::Daemon);
    let exports = Arc::new(VolumeExports::new(service.clone(), Vec::new()));
    let server = Server::start(vec![Listener::unix(&s.socket()).unwrap()], exports, ServerConfig::default()).unwrap();
    (service, server)
}

#[test]
fn requests_allocate_nothing_in_steady_state() {
    let s = Scratch::new();
    s.ok(&["volume", "create", "--size", "16MiB", "--name", "web"]);
    let (service, server) = serve(&s);
    let socket = raw::Raw::open(&s.socket(), "web").0;
    let (out, back) = (Vec::with_capacity(4 << 20), vec![0; 1 << 20]);
    let mut client = Client { socket, out, back, seed: 0x9e37_79b9_7f4a_7c15 };
    let cases = [(raw::READ, 0, 4096), (raw::WRITE, 0, 4096), (raw::READ, 0, 128 << 10), (raw::WRITE, 0, 128 << 10)];
    let made_durable = (raw::WRITE, 1, 4096);
    for (command, fua, len) in cases.into_iter().chain([made_durable]) {
        // Warm up: every buffer that will be needed has been allocated once, every chunk of the volume is written.
        client.load(command, fua, len, 4096);
        let region = Region::new(ALLOCATOR);
        client.load(command, fua, len, 4096);
        let seen = region.change();
        // Other threads (a tick, the chores of each minute, the test's own) may allocate now and then; one allocation a
        // request would be 4096.
        assert!(seen.allocations < 1024, "command {command}, {len} bytes: {seen:?}");
    }
    drop(client);
    assert!(server.shutdown(Duration::from_secs(30)));
    service.shut_down();
}
