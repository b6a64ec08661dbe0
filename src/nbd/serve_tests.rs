//! Live servers over Unix sockets, with the `nbd` crate and a hand-written client.

use super::super::export::{Export, ExportEntry, ExportInfo};
use super::super::memory::{Fixed, Memory};
use super::*;
use crate::engine::{Attempt, Blocking, Device, VolumeControl, VolumeScheduler, Zeroing};
use crate::units::VolumeId;
use parking_lot::{Condvar, Mutex};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Instant;
use tempfile::TempDir;

#[path = "test_client.rs"]
mod client;
use client::{DISC, FLUSH, READ, Raw, WRITE, option, query, request};

/// From here on, the gated export does nothing inline and waits for its gate.
const SLOW: u64 = 1 << 20;

#[derive(Default)]
struct GateState {
    entered: usize,
    open: bool,
    opens: usize,
    dropped: usize,
}

/// State that a test changes or waits for, as does the code that it controls.
#[derive(Default)]
struct Watched<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    fn wait_for(&self, what: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        while !what(&state) {
            assert!(!self.changed.wait_for(&mut state, Duration::from_secs(30)).timed_out(), "waited too long");
        }
    }

    fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

/// A gate with events: requests inside, handles dropped.
type Gate = Watched<GateState>;

impl Gate {
    fn pass(&self) {
        self.update(|s| s.entered += 1);
        self.wait_for(|s| s.open);
    }
}

/// Memory behind a gate; a panic at byte 13, a full disk at byte 28.
struct Gated(Arc<Memory>, Arc<Gate>);

impl Gated {
    fn slow(&self, offset: u64, blocking: Blocking) -> Result<Attempt> {
        match (offset, blocking) {
            (13, _) => panic!("a bug below"),
            (28, _) => Err(Error::new(Kind::NoSpace, "disk full")),
            (SLOW.., Blocking::Never) => Ok(Attempt::WouldBlock),
            (SLOW.., Blocking::Allowed) => {
                self.1.pass();
                Ok(Attempt::Done)
            }
            _ => Ok(Attempt::Done),
        }
    }
}

impl Export for Gated {}

impl Device for Gated {
    fn volume(&self) -> Option<VolumeId> {
        self.0.volume()
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        self.0.scheduled(scheduler);
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        match self.slow(offset, blocking)? {
            Attempt::Done => self.0.read(offset, out, blocking),
            blocked => Ok(blocked),
        }
    }
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        match self.slow(offset, blocking)? {
            Attempt::Done => self.0.write(offset, data, fua, blocking),
            blocked => Ok(blocked),
        }
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        let _done = self.slow(offset, Blocking::Allowed)?;
        self.0.trim(offset, len, fua)
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.0.write_zeroes(offset, len, how)
    }
    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.0.cache(offset, len)
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.1.update(|s| s.dropped += 1);
    }
}

struct GatedExports(Arc<Memory>, Arc<Gate>);

impl Exports for GatedExports {
    fn list(&self, _: &Client) -> Vec<ExportEntry> {
        vec![ExportEntry { name: "gated".into(), description: String::new() }]
    }
    fn info(&self, name: &str, _: &Client) -> Result<ExportInfo> {
        Ok(ExportInfo { name: name.into(), description: String::new(), size: self.0.size(), read_only: false })
    }
    fn open(&self, _: &str, _: &Client) -> Result<Arc<dyn Export>> {
        self.1.update(|s| s.opens += 1);
        Ok(Arc::new(Gated(Arc::clone(&self.0), Arc::clone(&self.1))))
    }
}

#[derive(Default)]
struct HandClock(AtomicU64);

impl Ticks for HandClock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

struct Rig {
    _dir: TempDir,
    path: PathBuf,
    server: Server,
    gate: Arc<Gate>,
    memory: Arc<Memory>,
}

fn rig(config: ServerConfig) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let (memory, gate) = (Arc::new(Memory::new(80 << 20)), Arc::<Gate>::default());
    let exports = Arc::new(GatedExports(Arc::clone(&memory), Arc::clone(&gate)));
    let server = Server::start(vec![Listener::unix(&path).unwrap()], exports, config).unwrap();
    Rig { _dir: dir, path, server, gate, memory }
}

/// Shuts the server down and checks that all payload memory was returned.
fn assert_nothing_held(server: Server) {
    let budget = Arc::clone(server.shared.engine.budget());
    assert!(server.shutdown(Duration::from_secs(30)));
    assert_eq!(budget.used(), 0);
}

fn plain() -> Rig {
    rig(ServerConfig::default())
}

#[test]
fn the_nbd_crate_reads_what_it_wrote() {
    let r = plain();
    let mut socket = UnixStream::connect(&r.path).unwrap();
    let export = nbd::client::handshake(&mut socket, b"any").unwrap();
    let mut disk = nbd::client::NbdClient::new(&mut socket, &export);
    let data: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    disk.seek(SeekFrom::Start(5001)).unwrap();
    disk.write_all(&data).unwrap();
    let mut back = vec![0; data.len()];
    disk.seek(SeekFrom::Start(5001)).unwrap();
    disk.read_exact(&mut back).unwrap();
    assert!(back == data);
}

#[test]
fn a_slow_request_lets_the_others_pass() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    c.put(&[request(READ, 0, 1, SLOW, 4096), request(READ, 0, 2, 0, 1)].concat());
    assert_eq!(c.reply(), (0, 2));
    c.get(1);
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
    r.gate.wait_for(|s| s.entered == 1);
    r.gate.update(|s| s.open = true);
    assert_eq!(c.reply(), (0, 1));
    c.get(4096);
    let stats = r.server.stats();
    assert_eq!((stats.requests, stats.inline, stats.queued), (3, 1, 2));
}

#[test]
fn many_requests_in_one_write_are_all_answered() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    let mut bytes = Vec::new();
    for i in 0..300u64 {
        bytes.extend(request(WRITE, u16::from(i % 7 == 0), i, i * 100 + 100, 100));
        bytes.extend([i as u8; 100]);
    }
    c.put(&bytes);
    let mut cookies: Vec<u64> =
        (0..300).map(|_| c.reply()).map(|(e, cookie)| (e == 0).then_some(cookie).unwrap()).collect();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..300));
    for i in 0..300u64 {
        assert_eq!(c.read(i * 100 + 100, 100), [i as u8; 100]);
    }
}

#[test]
fn any_offset_and_length_is_right() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    let mut model = vec![0u8; 300_000];
    let mut seed = 7u64;
    for step in 0..400u32 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = 100 + (seed >> 33) % 150_000;
        let len = (1 + (seed >> 20) % if step % 10 == 0 { 140_000 } else { 9000 }) as u32;
        let range = offset as usize..offset as usize + len as usize;
        match step % 4 {
            0 | 1 => {
                let data: Vec<u8> = (0..len).map(|i| (i + step) as u8).collect();
                assert_eq!(c.ask(WRITE, (step % 2) as u16, offset, len, &data), 0);
                model[range].copy_from_slice(&data);
            }
            2 => {
                assert_eq!(c.ask(6, 2, offset, len, &[]), 0);
                model[range].fill(0);
            }
            _ => assert!(c.read(offset, len) == model[range], "step {step}"),
        }
    }
    assert!(c.read(0, 300_000) == model);
}

#[test]
fn a_flush_on_one_connection_covers_writes_of_another() {
    let r = plain();
    let (mut a, mut b) = (Raw::open(&r.path, "gated"), Raw::open(&r.path, "gated"));
    assert_eq!(a.ask(WRITE, 0, 512, 3, b"abc"), 0);
    assert_eq!(b.ask(FLUSH, 0, 0, 0, &[]), 0);
    assert_eq!(b.read(512, 3), b"abc");
    assert_eq!(b.ask(WRITE, 1, 512, 3, b"xyz"), 0);
    assert_eq!(a.read(512, 3), b"xyz");
}

#[test]
fn errors_below_become_replies_and_the_connection_lives() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    assert_eq!(c.ask(WRITE, 0, 28, 1, b"x"), 28);
    assert_eq!(c.ask(READ, 0, 28, 1, &[]), 28);
    assert_eq!(c.ask(READ, 0, 13, 1, &[]), 5);
    assert_eq!(c.ask(4, 0, 13, 1, &[]), 5, "a panic in a worker");
    assert_eq!(c.ask(READ, 0, 0, (32 << 20) + 1, &[]), 22);
    assert_eq!(c.ask(WRITE, 0, 0, (32 << 20) + 1, &vec![1; (32 << 20) + 1]), 22);
    assert_eq!(c.read(0, 4), [0; 4]);
    r.memory.grow((80 << 20) + 1);
    r.gate.update(|s| s.open = true);
    assert_eq!(c.read(80 << 20, 1), [0]);
}

#[test]
fn the_largest_requests_go_through() {
    let r = plain();
    r.gate.update(|s| s.open = true);
    let mut c = Raw::open(&r.path, "gated");
    let big: Vec<u8> = (0..32u32 << 20).map(|i| (i >> 9) as u8).collect();
    assert_eq!(c.ask(WRITE, 0, 1, 32 << 20, &big), 0);
    assert!(c.read(1, 32 << 20) == big);
    drop(c);
    assert_nothing_held(r.server);
}

#[test]
fn a_spent_budget_pauses_one_and_stalls_nobody() {
    let r = rig(ServerConfig { budget: 1 << 20, ..ServerConfig::default() });
    let (mut slow, mut other) = (Raw::open(&r.path, "gated"), Raw::open(&r.path, "gated"));
    for i in 0..40 {
        slow.put(&request(READ, 0, i, SLOW + i, 256 << 10));
    }
    r.gate.wait_for(|s| s.entered == 3);
    for _ in 0..20 {
        assert_eq!(other.ask(WRITE, 0, 0, 512 << 10, &vec![3; 512 << 10]), 0);
        assert_eq!(other.read(0, 8), [3; 8]);
    }
    assert!(r.server.stats().budget_used <= 1 << 20);
    r.gate.update(|s| s.open = true);
    let mut seen: Vec<u64> = (0..40)
        .map(|_| {
            let (error, cookie) = slow.reply();
            slow.get(256 << 10);
            assert_eq!(error, 0);
            cookie
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..40));
    assert!(r.server.stats().stalls > 0);
}

/// Separate exports, so that each has a share of its own.
fn three(config: ServerConfig) -> (TempDir, PathBuf, Server) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let export = || Arc::new(Memory::new(32 << 20)) as Arc<dyn Export>;
    let exports = Fixed::default().with("a", export()).with("b", export()).with("c", export());
    let server = Server::start(vec![Listener::unix(&path).unwrap()], Arc::new(exports), config).unwrap();
    (dir, path, server)
}

#[test]
fn clients_that_let_buffers_lie_are_ended_when_others_need_them() {
    let clock = Arc::<HandClock>::default();
    let ticks = Arc::clone(&clock) as Arc<dyn Ticks>;
    let (_dir, path, server) = three(ServerConfig { budget: 1 << 20, ticks, ..ServerConfig::default() });
    let (mut a, mut b, mut c) = (Raw::open(&path, "a"), Raw::open(&path, "b"), Raw::open(&path, "c"));
    // One does not read its reply, one does not send its payload.
    a.put(&request(READ, 0, 1, 0, 32 << 20));
    b.put(&request(WRITE, 0, 1, 0, 32 << 20));
    let idle = |server: &Server| server.shared.engine.queues().iter().all(|queue| queue.in_flight() == 0);
    traffic::wait_until(|| server.stats().requests == 2 && server.stats().budget_used >= 64 << 20 && idle(&server));
    server.shared.engine.tick(Duration::ZERO, Duration::ZERO);
    server.shared.engine.tick(Duration::from_secs(31), Duration::ZERO);
    assert_eq!(server.connections(), 3, "nobody needs what they hold");
    c.put(&request(READ, 0, 1, 0, 32 << 20));
    traffic::wait_until(|| server.shared.engine.budget().is_short());
    server.shared.engine.tick(Duration::from_secs(31), Duration::ZERO);
    assert_eq!(c.reply(), (0, 1));
    assert_eq!(c.get(32 << 20).len(), 32 << 20);
    a.expect_hangup();
    b.expect_hangup();
    drop(c);
    assert_nothing_held(server);
}

#[test]
fn a_connection_without_a_thread_is_refused_and_the_next_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let spawner = move |name: &str, run: Box<dyn FnOnce() + Send>| match fails.load(Ordering::SeqCst) {
        true => Err(std::io::Error::from_raw_os_error(libc::EAGAIN)),
        false => spawn(name, run),
    };
    let exports = Arc::new(Fixed::default().with("m", Arc::new(Memory::new(4096))));
    let listeners = vec![Listener::unix(&path).unwrap()];
    let server = Server::start_with(listeners, exports, ServerConfig::default(), Box::new(spawner)).unwrap();
    let mut before = Raw::open(&path, "m");
    failing.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        Raw(UnixStream::connect(&path).unwrap()).expect_hangup();
    }
    assert_eq!((before.read(0, 1), server.connections()), (vec![0], 1), "nothing of them is left");
    failing.store(false, Ordering::SeqCst);
    assert_eq!(Raw::open(&path, "m").read(0, 1), [0]);
}

#[test]
fn without_descriptors_a_client_is_turned_away_and_the_listener_lives() {
    let r = plain();
    let path = r.path.with_file_name("other.sock");
    let (listener, stop) = (Listener::unix(&path).unwrap(), Waker::new().unwrap());
    listener.set_nonblocking().unwrap();
    let mut acceptor = Acceptor::new(&r.server.shared, &listener, &stop);
    for errno in [libc::EMFILE, libc::ENFILE] {
        let mut client = Raw(UnixStream::connect(&path).unwrap());
        acceptor.failed(&std::io::Error::from_raw_os_error(errno));
        client.expect_hangup();
        assert!(acceptor.reserve.is_some(), "for the next one");
    }
    // Other failures, and those without a reserve: it pauses, or until it is told to stop, and opens a reserve again.
    stop.wake();
    acceptor.reserve = None;
    let _waiting = UnixStream::connect(&path).unwrap();
    acceptor.failed(&std::io::Error::from_raw_os_error(libc::EMFILE));
    assert!(acceptor.reserve.is_some());
    acceptor.failed(&std::io::Error::from_raw_os_error(libc::ECONNABORTED));
    assert!(listener.accept().is_ok(), "the client that could not be turned away waits still");
}

#[test]
fn a_server_that_gets_no_threads_says_so_and_leaves_none_behind() {
    for after in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let left = AtomicU64::new(after);
        let spawner = move |name: &str, run: Box<dyn FnOnce() + Send>| {
            if left.load(Ordering::SeqCst) == 0 {
                return Err(std::io::Error::from_raw_os_error(libc::EAGAIN));
            }
            left.fetch_sub(1, Ordering::SeqCst);
            spawn(name, run)
        };
        let listeners = vec![Listener::unix(&dir.path().join("s")).unwrap()];
        let config = ServerConfig { workers: 3, ..ServerConfig::default() };
        let started = Server::start_with(listeners, Arc::new(Fixed::default()), config, Box::new(spawner));
        assert!(started.err().is_some_and(|e| e.line().contains("start the NBD server")), "{after}");
    }
}

#[test]
fn a_farewell_waits_for_what_is_in_flight() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    c.put(&[request(WRITE, 0, 1, SLOW, 3), b"abc".to_vec(), request(DISC, 0, 0, 0, 0)].concat());
    r.gate.wait_for(|s| s.entered == 1);
    assert_eq!(r.gate.state.lock().dropped, 0);
    r.gate.update(|s| s.open = true);
    assert_eq!(c.reply(), (0, 1));
    c.expect_hangup();
    r.gate.wait_for(|s| s.dropped == 1);
    assert_eq!(r.server.stats().hangups, 0);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let r = plain();
    let mut other = Raw::open(&r.path, "gated");
    let mut c = Raw::open(&r.path, "gated");
    for i in 0..200 {
        c.put(&request(READ, 0, i, SLOW, 1 << 20));
    }
    r.gate.wait_for(|s| s.entered > 0);
    drop(c);
    assert_eq!(other.read(0, 9), [0; 9]);
    r.gate.update(|s| s.open = true);
    r.gate.wait_for(|s| s.dropped == 1);
    drop(other);
    r.gate.wait_for(|s| s.dropped == 2);
    assert_nothing_held(r.server);
}

#[test]
fn a_request_that_waited_too_long_is_not_applied() {
    let clock = Arc::<HandClock>::default();
    let r = rig(ServerConfig { workers: 1, ticks: Arc::clone(&clock) as Arc<dyn Ticks>, ..ServerConfig::default() });
    let mut c = Raw::open(&r.path, "gated");
    c.put(&[request(READ, 0, 1, SLOW, 1), request(WRITE, 0, 2, SLOW + 100, 1), b"x".to_vec()].concat());
    r.gate.wait_for(|s| s.entered == 1);
    // An inline read after them shows that the WRITE was read and queued before the clock moves.
    assert_eq!(c.read(0, 1), [0]);
    clock.0.store(16, Ordering::SeqCst);
    r.gate.update(|s| s.open = true);
    c.expect_hangup();
    r.gate.wait_for(|s| s.dropped == 1);
    // Sent without the server: its tick may have seen the clock's jump, and severs earlier connections.
    let mut byte = [9];
    let _done = r.memory.read(SLOW + 100, &mut byte, Blocking::Allowed).unwrap();
    assert_eq!(byte, [0]);
}

#[test]
fn a_gap_in_the_tick_condemns_all_connections() {
    let r = plain();
    let (mut a, mut b) = (Raw::open(&r.path, "gated"), Raw::open(&r.path, "gated"));
    r.server.shared.engine.tick(Duration::ZERO, Duration::from_secs(15));
    assert_eq!(a.read(0, 1), [0]);
    r.server.shared.engine.tick(Duration::ZERO, Duration::from_secs(16));
    a.expect_hangup();
    b.expect_hangup();
    r.gate.wait_for(|s| s.dropped == 2);
}

#[test]
fn a_negotiation_has_a_time_limit() {
    let r = rig(ServerConfig { handshake: Duration::from_millis(30), ..ServerConfig::default() });
    Raw(UnixStream::connect(&r.path).unwrap()).expect_hangup();
    let mut half = Raw(UnixStream::connect(&r.path).unwrap());
    // On a loaded machine the limit may come first.
    let _ = half.0.write_all(&[&[0, 0, 0, 3][..], &option(7, &query("gated", &[]))[..20]].concat());
    half.expect_hangup();
    assert_eq!(r.gate.state.lock().opens, 0);
}

#[test]
fn shutdown_lets_requests_finish() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    let mut talking = Raw::connect(&r.path);
    c.put(&[request(WRITE, 0, 1, SLOW, 3), b"abc".to_vec()].concat());
    r.gate.wait_for(|s| s.entered == 1);
    let Rig { server, gate, .. } = r;
    let down = std::thread::spawn(move || server.shutdown(Duration::from_secs(30)));
    talking.expect_hangup();
    gate.update(|s| s.open = true);
    assert_eq!(c.reply(), (0, 1));
    c.expect_hangup();
    assert!(down.join().unwrap());
    assert_eq!(gate.state.lock().dropped, 1);
}

#[test]
fn shutdown_cuts_what_does_not_end() {
    let r = plain();
    let mut c = Raw::open(&r.path, "gated");
    // Replies that are never read keep the connection from draining.
    for i in 0..64 {
        c.put(&request(READ, 0, i, 0, 1 << 20));
    }
    r.gate.wait_for(|s| s.opens == 1);
    assert!(r.server.shutdown(Duration::from_millis(20)));
    assert_eq!(r.gate.state.lock().dropped, 1);
}

#[test]
fn a_socket_file_is_private_and_replaced_when_dead() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), Kind::Busy);
    drop(listener);
    Listener::unix(&path).unwrap();
}

#[test]
fn tcp_works_and_tells_who_it_is() {
    struct Who(Mutex<Option<Peer>>, Fixed);
    impl Exports for Who {
        fn list(&self, client: &Client) -> Vec<ExportEntry> {
            self.1.list(client)
        }
        fn info(&self, name: &str, client: &Client) -> Result<ExportInfo> {
            *self.0.lock() = Some(client.peer);
            self.1.info(name, client)
        }
        fn open(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>> {
            self.1.open(name, client)
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let who = Arc::new(Who(Mutex::new(None), Fixed::default().with("m", Arc::new(Memory::new(4096).as_read_only()))));
    let exports = Arc::clone(&who) as Arc<dyn Exports>;
    let _server = Server::start(vec![Listener::Tcp(listener)], exports, ServerConfig::default()).unwrap();
    let mut socket = TcpStream::connect(addr).unwrap();
    let export = nbd::client::handshake(&mut socket, b"m").unwrap();
    assert_eq!(export.size, 4096);
    assert_eq!(*who.0.lock(), Some(Peer::Tcp { addr: socket.local_addr().unwrap() }));
}

#[test]
fn tcp_clients_that_vanish_are_noticed_after_half_a_minute() {
    use rustix::net::sockopt;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = Listener::Tcp(listener).accept().unwrap().ready().unwrap();
    assert!(sockopt::socket_keepalive(&socket).unwrap());
    let [idle, interval] = [sockopt::tcp_keepidle(&socket).unwrap(), sockopt::tcp_keepintvl(&socket).unwrap()];
    let silence = idle + interval * sockopt::tcp_keepcnt(&socket).unwrap();
    assert_eq!(silence, Duration::from_secs(30));
    assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 120_000);
}

#[test]
fn one_connection_can_be_ended() {
    let r = plain();
    let (mut a, mut b) = (Raw::open(&r.path, "gated"), Raw::open(&r.path, "gated"));
    let controller = r.server.controller();
    a.put(&[request(WRITE, 0, 1, SLOW, 3), b"abc".to_vec()].concat());
    r.gate.wait_for(|s| s.entered == 1);
    assert!(controller.disconnect(1));
    a.expect_hangup();
    assert_eq!(r.gate.state.lock().dropped, 0, "its export is held while a request runs");
    r.gate.update(|s| s.open = true);
    r.gate.wait_for(|s| s.dropped == 1);
    assert_eq!(b.read(SLOW, 3), b"abc");
    assert!(!controller.disconnect(99));
    drop(r.server);
    assert!(!controller.disconnect(2));
}

#[test]
fn too_many_connections_are_turned_away() {
    let r = rig(ServerConfig { max_connections: 1, ..ServerConfig::default() });
    let mut first = Raw::open(&r.path, "gated");
    let mut second = Raw(UnixStream::connect(&r.path).unwrap());
    second.expect_hangup();
    assert_eq!(first.read(0, 1), [0]);
    assert_eq!(r.server.connections(), 1);
}

/// Runs another client; `None`, with a message, if it is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let out = match std::process::Command::new(program).args(args).output() {
        Ok(out) => out,
        Err(err) => {
            eprintln!("SKIP {program}: {err}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}");
    Some(text)
}

#[test]
fn foreign_clients_are_served() {
    let r = plain();
    r.gate.update(|s| s.open = true);
    let uri = format!("nbd+unix:///gated?socket={}", r.path.display());
    if let Some(text) = run("nbdinfo", &[&uri]) {
        assert!(text.contains("export-size: 83886080") && text.contains("can_multi_conn: true"), "{text}");
    }
    if let Some(text) = run("nbdinfo", &["--list", &uri]) {
        assert!(text.contains("gated"), "{text}");
    }
    let steps = ["write -P 7 1000 3000", "write -f -P 8 2M 4M", "write -z 3M 1M", "discard 5M 4k", "flush"];
    let reads = ["read -P 7 1000 3000", "read -P 8 2M 1M", "read -P 0 3M 1M", "read -P 8 4M 1M"];
    let mut args = vec!["-f", "raw"];
    steps.iter().chain(&reads).for_each(|step| args.extend(["-c", step]));
    args.push(&uri);
    if let Some(text) = run("qemu-io", &args) {
        assert!(!text.contains("failed"), "{text}");
    }
    let copy = r.path.with_file_name("copy");
    if run("nbdcopy", &[&uri, copy.to_str().unwrap()]).is_some() {
        let bytes = std::fs::read(&copy).unwrap();
        assert_eq!((bytes.len(), &bytes[1000..1003]), (80 << 20, &[7, 7, 7][..]));
        let back = format!("nbd+unix:///gated?socket={}", r.path.display());
        run("nbdcopy", &[copy.to_str().unwrap(), &back]);
        assert!(Raw::open(&r.path, "gated").read(3000, 1 << 20) == bytes[3000..3000 + (1 << 20)]);
    }
}

#[path = "commit_tests.rs"]
mod commits;
#[path = "fence_tests.rs"]
mod fence;
#[path = "parts_tests.rs"]
mod parts;
#[path = "traffic_tests.rs"]
mod traffic;
