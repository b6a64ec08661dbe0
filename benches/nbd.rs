//! Sequential requests through the NBD server over a Unix socket, to memory (the cost of the protocol itself), compared
//! with a bare echo of the same bytes over such a socket.

#[path = "support/settings.rs"]
mod settings;

use coffer::nbd::memory::{Fixed, Memory};
use coffer::nbd::{Listener, Server, ServerConfig};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

const READ: [u8; 8] = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0];

fn connect(path: &std::path::Path) -> UnixStream {
    let mut s = UnixStream::connect(path).expect("a connection");
    let mut hello = [0u8; 18];
    s.read_exact(&mut hello).expect("a greeting");
    let name = b"disk";
    let ask = [&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &(name.len() as u32).to_be_bytes(), name];
    s.write_all(&ask.concat()).expect("an option");
    let mut info = [0u8; 10];
    s.read_exact(&mut info).expect("the export");
    s
}

fn nbd(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("s");
    let exports = Arc::new(Fixed::default().with("disk", Arc::new(Memory::new(64 << 20))));
    let listener = Listener::unix(&path).expect("a listener");
    let server = Server::start(vec![listener], exports, ServerConfig::default()).expect("a server");
    let mut client = connect(&path);
    let (mut near, mut far) = UnixStream::pair().expect("a pair");
    let echo = std::thread::spawn(move || {
        let mut ask = [0u8; 32];
        let body = vec![0u8; 16 + (128 << 10)];
        while far.read_exact(&mut ask).is_ok() {
            let len = u32::from_be_bytes([ask[24], ask[25], ask[26], ask[27]]) as usize;
            if far.write_all(&body[..16 + len]).is_err() {
                return;
            }
        }
    });
    let mut group = c.benchmark_group("nbd");
    for size in [4usize << 10, 128 << 10] {
        let mut body = vec![0u8; 16 + size];
        let ask = [&READ[..], &[0; 8], &0u64.to_be_bytes(), &(size as u32).to_be_bytes()].concat();
        let padded = [&ask[..], &[0; 4]].concat();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor: bare socket", size), |b| {
            b.iter(|| {
                near.write_all(&padded).expect("sent");
                near.read_exact(&mut body).expect("answered");
            });
        });
        group.bench_function(BenchmarkId::new("read", size), |b| {
            b.iter(|| {
                client.write_all(&ask).expect("sent");
                client.read_exact(&mut body).expect("answered");
            });
        });
    }
    group.finish();
    drop(near);
    let _ = echo.join();
    drop(client);
    server.shutdown(Duration::from_secs(5));
}

criterion_group! { name = benches; config = settings::short(); targets = nbd }
criterion_main!(benches);
