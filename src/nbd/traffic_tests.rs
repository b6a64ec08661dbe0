//! Resent requests, and requests whose key is unavailable: over a live server, on an export that a test controls step
//! by step.

use super::*;

#[derive(Default)]
struct Steps {
    /// First bytes of the writes that a worker has begun, in order.
    begun: Vec<u8>,
    /// How many of them may continue.
    allowed: usize,
    /// First bytes of the writes that were applied, in order.
    applied: Vec<u8>,
    /// The key is unavailable.
    key_away: bool,
    /// Whether requests then fail, rather than wait.
    fails: bool,
    /// The age at which its clients resend.
    stale_after: Option<Duration>,
    dropped: usize,
}

/// Memory whose writes go to the workers and wait there for the test.
#[derive(Clone)]
struct Led {
    memory: Arc<Memory>,
    steps: Arc<Watched<Steps>>,
}

impl Led {
    fn key(&self) -> Result<()> {
        let away = self.steps.state.lock().key_away;
        if away { Err(Error::new(Kind::KeyUnavailable, "the key is away")) } else { Ok(()) }
    }

    /// Brings back the key first, then releases what waits for it, as the service does.
    fn bring_key_back(&self) {
        self.steps.update(|s| s.key_away = false);
        self.memory.control().unwrap().release();
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        assert_eq!(self.memory.read(at, &mut byte, Blocking::Allowed).unwrap(), Attempt::Done);
        byte[0]
    }
}

/// One connection's handle.
struct Handle(Led);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.steps.update(|s| s.dropped += 1);
    }
}

impl Export for Handle {}

impl Device for Handle {
    fn size(&self) -> u64 {
        self.0.memory.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn volume(&self) -> Option<VolumeId> {
        self.0.memory.volume()
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        self.0.memory.scheduled(scheduler);
    }
    fn waits_for_key(&self) -> bool {
        !self.0.steps.state.lock().fails
    }
    fn stale_after(&self) -> Option<Duration> {
        self.0.steps.state.lock().stale_after
    }
    fn has_key(&self) -> bool {
        self.0.key().is_ok()
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.0.key()?;
        self.0.memory.read(offset, out, blocking)
    }
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        self.0.key()?;
        if blocking == Blocking::Never {
            return Ok(Attempt::WouldBlock);
        }
        let first = data[0];
        let mut turn = 0;
        self.0.steps.update(|s| {
            s.begun.push(first);
            turn = s.begun.len();
        });
        self.0.steps.wait_for(|s| s.allowed >= turn);
        let done = self.0.memory.write(offset, data, fua, blocking)?;
        self.0.steps.update(|s| s.applied.push(first));
        Ok(done)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        if self.0.key().is_ok() { self.0.memory.trim(offset, len, fua) } else { Ok(()) }
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.0.key()?;
        self.0.memory.write_zeroes(offset, len, how)
    }
    fn cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Exports for Led {
    fn list(&self, _: &Client) -> Vec<ExportEntry> {
        Vec::new()
    }
    fn info(&self, name: &str, _: &Client) -> Result<ExportInfo> {
        Ok(ExportInfo { name: name.into(), description: String::new(), size: self.memory.size(), read_only: false })
    }
    fn open(&self, _: &str, _: &Client) -> Result<Arc<dyn Export>> {
        Ok(Arc::new(Handle(self.clone())))
    }
}

struct LedRig {
    _dir: TempDir,
    path: PathBuf,
    server: Server,
    led: Led,
}

fn led(config: ServerConfig) -> LedRig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let led = Led { memory: Arc::new(Memory::new(64 << 20)), steps: Arc::default() };
    let server = Server::start(vec![Listener::unix(&path).unwrap()], Arc::new(led.clone()), config).unwrap();
    LedRig { _dir: dir, path, server, led }
}

impl LedRig {
    fn open(&self) -> Raw {
        Raw::open(&self.path, "led")
    }

    /// Waits until so many requests are held.
    #[track_caller]
    fn held(&self, count: usize) {
        let volume = self.led.memory.volume().unwrap();
        let scheduler = self.server.shared.engine.scheduler(volume).unwrap();
        wait_until(|| scheduler.held() == count);
    }
}

/// Sends a write of one byte, without waiting for its reply.
fn send(c: &mut Raw, cookie: u64, offset: u64, byte: u8) {
    c.put(&[request(WRITE, 0, cookie, offset, 1), vec![byte]].concat());
}

/// Returns when the server has read everything sent before on this connection: a flush need not wait for its turn.
fn taken(c: &mut Raw) {
    assert_eq!(c.ask(FLUSH, 0, 0, 0, &[]), 0);
}

const FREE: usize = usize::MAX;

#[test]
fn a_copy_on_a_new_connection_waits_for_the_one_that_is_being_applied() {
    let r = led(ServerConfig::default());
    let mut old = r.open();
    send(&mut old, 1, 100, 1);
    r.led.steps.wait_for(|s| s.begun == [1]);
    assert!(r.server.controller().disconnect(1));
    old.expect_hangup();
    // The client resends the same request, over another connection. (It is 2 here, so that the two can be told apart.)
    let mut new = r.open();
    send(&mut new, 2, 100, 2);
    send(&mut new, 9, 4096, 9);
    r.led.steps.wait_for(|s| s.begun == [1, 9]);
    r.led.steps.update(|s| s.allowed = 1);
    r.led.steps.wait_for(|s| s.begun == [1, 9, 2]);
    r.led.steps.update(|s| s.allowed = FREE);
    let answered = [new.reply(), new.reply()];
    assert!(answered.contains(&(0, 2)) && answered.contains(&(0, 9)));
    assert_eq!(new.ask(WRITE, 0, 100, 1, &[3]), 0);
    r.led.steps.wait_for(|s| s.dropped == 1);
    assert_eq!(r.led.byte(100), 3);
    let applied = r.led.steps.state.lock().applied.clone();
    assert!(applied.iter().filter(|b| **b < 9).eq(&[1, 2, 3]), "{applied:?}");
}

#[test]
fn a_copy_on_a_connection_alive_already_waits_too() {
    let r = led(ServerConfig::default());
    let (mut a, mut b) = (r.open(), r.open());
    send(&mut a, 1, 100, 1);
    r.led.steps.wait_for(|s| s.begun == [1]);
    send(&mut b, 2, 100, 2);
    // Zeroing and trimming are writes too.
    b.put(&request(6, 0, 3, 99, 2));
    taken(&mut b);
    assert_eq!(r.led.steps.state.lock().begun, [1], "the copy has its turn after the first");
    r.led.steps.update(|s| s.allowed = 1);
    assert_eq!(a.reply(), (0, 1));
    r.led.steps.wait_for(|s| s.begun == [1, 2]);
    r.led.steps.update(|s| s.allowed = FREE);
    // Applied in order; the replies may cross.
    let answered = [b.reply(), b.reply()];
    assert!(answered.contains(&(0, 2)) && answered.contains(&(0, 3)), "{answered:?}");
    assert_eq!(r.led.byte(100), 0, "the newest is what counts");
    assert_eq!(a.ask(WRITE, 0, 100, 1, &[4]), 0);
    assert_eq!(r.led.byte(100), 4);
}

#[test]
fn a_request_that_has_not_begun_is_dropped_with_its_connection() {
    let r = led(ServerConfig { workers: 1, ..ServerConfig::default() });
    let (mut busy, mut old) = (r.open(), r.open());
    send(&mut busy, 8, 4096, 8);
    r.led.steps.wait_for(|s| s.begun == [8]);
    // Read from the socket before the connection ends, as its answered neighbour shows; queued for the one worker.
    send(&mut old, 1, 100, 1);
    send(&mut old, 2, 100, 2);
    assert_eq!(old.read(0, 1), [0]);
    let mut new = r.open();
    send(&mut new, 3, 100, 3);
    assert_eq!(new.read(0, 1), [0]);
    assert!(r.server.controller().disconnect(2));
    r.led.steps.wait_for(|s| s.dropped == 1);
    r.led.steps.update(|s| s.allowed = FREE);
    assert_eq!(new.reply(), (0, 3));
    assert_eq!(busy.reply(), (0, 8));
    assert_eq!(r.led.steps.state.lock().applied, [8, 3]);
    drop((busy, new));
    assert_nothing_held(r.server);
}

#[test]
fn any_bytes_from_many_connections_are_in_order() {
    // Every connection overwrites one place repeatedly; in the end it holds the last answered write, whole.
    let r = led(ServerConfig::default());
    r.led.steps.update(|s| s.allowed = FREE);
    let mut all: Vec<Raw> = (0..4).map(|_| r.open()).collect();
    for round in 0..50u8 {
        for (i, c) in all.iter_mut().enumerate() {
            c.put(&[request(WRITE, 0, 7, 1000, 4096), vec![round * 4 + i as u8; 4096]].concat());
        }
        all.iter_mut().for_each(|c| assert_eq!(c.reply(), (0, 7)));
        let mut there = vec![0; 4096];
        assert_eq!(r.led.memory.read(1000, &mut there, Blocking::Allowed).unwrap(), Attempt::Done);
        assert!(there.iter().all(|b| *b == there[0]), "round {round}");
    }
    drop(all);
    assert_nothing_held(r.server);
}

#[test]
fn what_needs_the_key_is_held_and_done_when_it_is_back_and_the_rest_goes_on() {
    let r = led(ServerConfig::default());
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let mut c = r.open();
    send(&mut c, 1, 100, 1);
    c.put(&request(6, 0, 2, 100, 1));
    send(&mut c, 3, 100, 3);
    c.put(&request(READ, 0, 4, 5000, 1));
    taken(&mut c);
    assert_eq!(c.ask(4, 0, 8192, 512, &[]), 0, "TRIM");
    // Requests read after the key is back wait for those before them.
    let mut other = r.open();
    send(&mut other, 5, 100, 5);
    taken(&mut other);
    // The first write and the read; three writes wait for the first.
    r.held(2);
    assert!(r.led.steps.state.lock().begun.is_empty());
    r.led.bring_key_back();
    let mut answered: Vec<_> = (0..4)
        .map(|_| {
            let reply = c.reply();
            if reply.1 == 4 {
                c.get(1);
            }
            reply
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, [(0, 1), (0, 2), (0, 3), (0, 4)]);
    assert_eq!(other.reply(), (0, 5));
    assert_eq!(r.led.steps.state.lock().applied, [1, 3, 5]);
    assert_eq!(c.read(100, 1), [5]);
    drop((c, other));
    assert_nothing_held(r.server);
}

#[test]
fn a_suspended_volume_holds_an_eighth_of_the_buffers_and_reads_no_further() {
    let r = led(ServerConfig { budget: 8 << 20, ..ServerConfig::default() });
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let (mut a, mut b) = (r.open(), r.open());
    let big = |cookie: u64| [request(WRITE, 0, cookie, cookie << 18, 256 << 10), vec![7; 256 << 10]].concat();
    a.put(&big(0));
    r.held(1);
    // More than the socket's own buffers hold, so that a thread has to wait with it.
    let mut rest = Raw(a.0.try_clone().unwrap());
    let writing = std::thread::spawn(move || (1..20).for_each(|i| rest.put(&big(i))));
    wait_until(|| r.server.stats().stalls > 0);
    assert_eq!(r.server.stats().budget_used, 1 << 20, "four of 256 KiB");
    b.put(&request(READ, 0, 1, 0, 4096));
    wait_until(|| r.server.stats().requests == 6);
    assert!(r.server.stats().budget_used <= 1 << 20, "another connection of the volume takes no more");
    r.led.bring_key_back();
    writing.join().unwrap();
    let mut cookies: Vec<u64> = (0..20).map(|_| a.reply()).map(|(e, c)| (e == 0).then_some(c).unwrap()).collect();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..20));
    assert_eq!(b.reply(), (0, 1));
    b.get(4096);
    drop((a, b));
    assert_nothing_held(r.server);
}

/// For conditions without an event of their own: polls the server's counters.
#[track_caller]
pub(super) fn wait_until(so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < until, "waited too long");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_held_too_long_ends_its_connection_and_the_copy_takes_its_place() {
    let clock = Arc::<HandClock>::default();
    let r = led(ServerConfig { ticks: Arc::clone(&clock) as Arc<dyn Ticks>, ..ServerConfig::default() });
    r.led.steps.update(|s| (s.key_away, s.allowed, s.stale_after) = (true, FREE, Some(Duration::from_secs(15))));
    let (mut old, mut young) = (r.open(), r.open());
    send(&mut old, 1, 100, 1);
    r.held(1);
    // The server's own tick sees the clock jump too: the jump must be shorter than what severs every connection.
    clock.0.store(8, Ordering::SeqCst);
    send(&mut young, 2, 100, 2);
    taken(&mut young);
    r.server.shared.engine.tick(Duration::from_secs(15), Duration::ZERO);
    taken(&mut old);
    r.server.shared.engine.tick(Duration::from_secs(16), Duration::ZERO);
    old.expect_hangup();
    r.led.steps.wait_for(|s| s.dropped == 1);
    taken(&mut young);
    r.led.bring_key_back();
    assert_eq!(young.reply(), (0, 2));
    assert_eq!(r.led.steps.state.lock().applied, [2]);
}

/// A clock whose jump the server's own tick does not see.
#[derive(Default)]
struct Leaping {
    now: AtomicU64,
    /// Connection threads that have seen it jump.
    seen: Mutex<std::collections::HashSet<std::thread::ThreadId>>,
}

impl Ticks for Leaping {
    fn now(&self) -> Duration {
        let (thread, now) = (std::thread::current(), self.now.load(Ordering::SeqCst));
        if thread.name() == Some("nbd-conn") && now > 0 {
            self.seen.lock().insert(thread.id());
        }
        Duration::from_secs(if thread.name() == Some("io-tick") { 0 } else { now })
    }
}

const HOUR: u64 = 3600;

#[test]
fn a_client_that_sends_nothing_again_waits_for_its_key_as_long_as_it_takes() {
    let clock = Arc::<Leaping>::default();
    let ticks = Arc::clone(&clock) as Arc<dyn Ticks>;
    let r = led(ServerConfig { ticks, budget: 8 << 20, max_in_flight: 4, ..ServerConfig::default() });
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let (mut a, mut b) = (r.open(), r.open());
    // Held; waiting for the held one in the order of writes; read and waiting for room; unread.
    for cookie in 0..8 {
        send(&mut a, cookie, 100, cookie as u8 + 1);
    }
    wait_until(|| r.server.stats().queued == 4);
    // From then on what is read is charged to the volume's limit.
    r.held(1);
    let big = |cookie: u64| [request(WRITE, 0, cookie, 1 << 20, 900 << 10), vec![7; 900 << 10]].concat();
    let mut writer = Raw(b.0.try_clone().unwrap());
    let writing = std::thread::spawn(move || (0..3).for_each(|i| writer.put(&big(i))));
    wait_until(|| r.server.stats().queued == 5 && r.server.stats().stalls > 0);
    r.held(2);
    clock.now.store(HOUR, Ordering::SeqCst);
    wait_until(|| {
        r.server.shared.engine.queues().iter().for_each(|queue| queue.wake());
        clock.seen.lock().len() == 2
    });
    r.server.shared.engine.tick(Duration::from_secs(HOUR), Duration::ZERO);
    assert_eq!(r.server.connections(), 2);
    r.led.bring_key_back();
    let mut answered: Vec<_> = (0..8).map(|_| a.reply()).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq((0..8).map(|cookie| (0, cookie))));
    writing.join().unwrap();
    assert_eq!((0..3).map(|_| b.reply().0).max(), Some(0));
    assert_eq!(r.led.byte(100), 8, "in the order in which they were sent");
    drop((a, b));
    assert_nothing_held(r.server);
}

#[test]
fn who_hangs_up_while_it_waits_for_a_key_is_gone_though_its_socket_is_not_read() {
    let r = led(ServerConfig { max_in_flight: 2, ..ServerConfig::default() });
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let mut c = r.open();
    for cookie in 0..6 {
        send(&mut c, cookie, 100, 1);
    }
    r.held(1);
    wait_until(|| r.server.stats().queued == 2);
    drop(c);
    r.led.steps.wait_for(|s| s.dropped == 1);
    r.led.bring_key_back();
    assert_eq!(r.led.byte(100), 0);
    assert_nothing_held(r.server);
}

#[test]
fn a_volume_may_fail_without_its_key_instead() {
    let r = led(ServerConfig::default());
    r.led.steps.update(|s| (s.key_away, s.allowed, s.fails) = (true, FREE, true));
    let mut c = r.open();
    assert_eq!(c.ask(WRITE, 0, 0, 1, &[1]), 5);
    assert_eq!(c.ask(READ, 0, 0, 1, &[]), 5);
    r.led.bring_key_back();
    assert_eq!(c.ask(WRITE, 0, 0, 1, &[1]), 0);
    // Held requests fail when the volume's policy changes.
    r.led.steps.update(|s| (s.key_away, s.fails) = (true, false));
    send(&mut c, 2, 0, 2);
    r.held(1);
    r.led.steps.update(|s| s.fails = true);
    r.led.memory.control().unwrap().release();
    assert_eq!(c.reply(), (5, 2));
}

#[test]
fn farewell_and_shutdown_do_not_wait_for_a_key() {
    let r = led(ServerConfig::default());
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let (mut a, mut b, mut c) = (r.open(), r.open(), r.open());
    for (i, client) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
        send(client, 1, 0, i as u8);
        taken(client);
    }
    r.held(1);
    a.put(&request(DISC, 0, 0, 0, 0));
    a.expect_hangup();
    r.led.steps.wait_for(|s| s.dropped == 1);
    drop(b);
    let budget = Arc::clone(r.server.shared.engine.budget());
    assert!(r.server.shutdown(Duration::from_secs(30)));
    c.expect_hangup();
    assert_eq!((budget.used(), r.led.steps.state.lock().dropped), (0, 3));
    assert!(r.led.steps.state.lock().applied.is_empty(), "what was not begun is left to be sent again");
}

/// A clock in milliseconds.
#[derive(Default)]
pub(super) struct Millis(pub(super) AtomicU64);

impl Ticks for Millis {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn a_volume_at_its_limits_is_read_later_and_others_are_not_stalled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let (slow, fast) = (Arc::new(Memory::new(1 << 20)), Arc::new(Memory::new(1 << 20)));
    let exports = Fixed::default().with("slow", slow.clone()).with("fast", fast);
    let clock = Arc::<Millis>::default();
    let config = ServerConfig { workers: 1, ticks: Arc::clone(&clock) as Arc<dyn Ticks>, ..ServerConfig::default() };
    let server = Server::start(vec![Listener::unix(&path).unwrap()], Arc::new(exports), config).unwrap();
    let (mut a, mut b, mut other) = (Raw::open(&path, "slow"), Raw::open(&path, "slow"), Raw::open(&path, "fast"));
    slow.control().unwrap().set_limits(100, 0);
    let ask = |c: &mut Raw| c.put(&(0..30).flat_map(|i| request(READ, 0, i, 0, 1)).collect::<Vec<u8>>());
    let answered = |c: &mut Raw, n: u64| {
        for _ in 0..n {
            assert_eq!(c.reply().0, 0);
            c.get(1);
        }
    };
    ask(&mut a);
    answered(&mut a, 11);
    wait_until(|| server.stats().delays == 1);
    // The volume's other connection waits after it; those of other volumes, and a flush, wait for nothing.
    assert_eq!(b.ask(FLUSH, 0, 0, 0, &[]), 0);
    ask(&mut b);
    wait_until(|| server.stats().delays == 2);
    for _ in 0..200 {
        assert_eq!(other.ask(WRITE, 0, 0, 1, b"x"), 0);
    }
    assert_eq!(server.stats().delays, 2);
    clock.0.store(20, Ordering::SeqCst);
    answered(&mut a, 1);
    answered(&mut b, 1);
    // Changed while requests wait: the new limits apply to them.
    slow.control().unwrap().set_limits(0, 0);
    answered(&mut a, 18);
    answered(&mut b, 29);
    drop((a, b, other));
    assert_nothing_held(server);
}
