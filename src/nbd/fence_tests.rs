//! Requests left behind by a client that hung up, in a socket or half done, and what newer requests are answered
//! meanwhile: over a live server, whose thread for the old connection a test stops where it likes.

use super::*;

/// A READ here stops the thread that serves it until the test says so.
const HALT: u64 = 8 << 20;
/// A write that begins with this byte goes to a worker, and stops there.
const SLOWLY: u8 = 0xaa;
const OLD: u8 = 1;
const NEW: u8 = 2;

#[derive(Default)]
struct Seen {
    halted: usize,
    go_on: bool,
    writing: usize,
    write: bool,
    flushes: usize,
    dropped: usize,
}

#[derive(Clone)]
struct Stage {
    memory: Arc<Memory>,
    seen: Arc<Watched<Seen>>,
}

/// One connection's handle.
struct Handle(Stage);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.seen.update(|s| s.dropped += 1);
    }
}

impl Export for Handle {}

impl Device for Handle {
    fn volume(&self) -> Option<VolumeId> {
        self.0.memory.volume()
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        self.0.memory.scheduled(scheduler);
    }
    fn size(&self) -> u64 {
        self.0.memory.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        if offset == HALT {
            self.0.seen.update(|s| s.halted += 1);
            self.0.seen.wait_for(|s| s.go_on);
        }
        self.0.memory.read(offset, out, blocking)
    }
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        if data[0] == SLOWLY && blocking == Blocking::Never {
            return Ok(Attempt::WouldBlock);
        }
        if data[0] == SLOWLY {
            self.0.seen.update(|s| s.writing += 1);
            self.0.seen.wait_for(|s| s.write);
        }
        self.0.memory.write(offset, data, fua, blocking)
    }
    fn flush(&self) -> Result<()> {
        self.0.seen.update(|s| s.flushes += 1);
        Ok(())
    }
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.0.memory.trim(offset, len, fua)
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.0.memory.write_zeroes(offset, len, how)
    }
    fn cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Exports for Stage {
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

struct StageRig {
    _dir: TempDir,
    path: PathBuf,
    server: Server,
    stage: Stage,
}

fn stage(config: ServerConfig) -> StageRig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let stage = Stage { memory: Arc::new(Memory::new(16 << 20)), seen: Arc::default() };
    let server = Server::start(vec![Listener::unix(&path).unwrap()], Arc::new(stage.clone()), config).unwrap();
    StageRig { _dir: dir, path, server, stage }
}

impl StageRig {
    fn open(&self) -> Raw {
        Raw::open(&self.path, "stage")
    }

    fn bytes(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        assert_eq!(self.stage.memory.read(0, &mut out, Blocking::Allowed).unwrap(), Attempt::Done);
        out
    }
}

fn write(len: u32, byte: u8) -> Vec<u8> {
    [request(WRITE, 0, 1, 0, len), vec![byte; len as usize]].concat()
}

const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const LEN: u32 = 48 << 10;

/// Changes that a client may leave behind: small and large, with and without a payload.
fn changes() -> Vec<Vec<u8>> {
    vec![write(512, OLD), write(LEN, OLD), request(WRITE_ZEROES, 0, 1, 0, LEN), request(TRIM, 0, 1, 0, LEN)]
}

/// Does what a newer connection may be answered meanwhile.
fn be_answered(newer: &mut Raw, how: usize) {
    match how {
        0 => assert_eq!(newer.ask(WRITE, 0, 0, LEN, &vec![NEW; LEN as usize]), 0),
        1 => assert_eq!(newer.ask(FLUSH, 0, 0, 0, &[]), 0),
        _ => assert_eq!(newer.read(0, 512), [3; 512]),
    }
}

/// The old client requests a READ that stops the server's thread, and then a change, `together` or after the server has
/// read the first; then it hangs up.
fn leave_behind(change: &[u8], together: bool, how: usize) {
    let r = stage(ServerConfig::default());
    let mut newer = r.open();
    assert_eq!(newer.ask(WRITE, 0, 0, LEN, &vec![3; LEN as usize]), 0);
    let mut old = r.open();
    assert_eq!(old.ask(WRITE, 0, 1 << 20, 1, &[OLD]), 0);
    let halt = request(READ, 0, 9, HALT, 1);
    if together {
        old.put(&[&halt[..], change].concat());
        r.stage.seen.wait_for(|s| s.halted == 1);
    } else {
        old.put(&halt);
        r.stage.seen.wait_for(|s| s.halted == 1);
        old.put(change);
    }
    drop(old);
    be_answered(&mut newer, how);
    let there = r.bytes(LEN as usize);
    r.stage.seen.update(|s| s.go_on = true);
    r.stage.seen.wait_for(|s| s.dropped == 1);
    assert!(r.bytes(LEN as usize) == there, "landed behind {how}, together {together}: {:?}", &change[..28]);
    drop(newer);
    assert_nothing_held(r.server);
}

#[test]
fn what_a_closed_connection_left_behind_never_lands_on_what_was_answered_since() {
    for how in 0..3 {
        for together in [false, true] {
            changes().iter().for_each(|change| leave_behind(change, together, how));
        }
    }
}

/// The rule is about clients that hung up: an open connection's change is applied, however late.
#[test]
fn a_change_of_an_open_connection_is_applied_though_others_were_answered_first() {
    let r = stage(ServerConfig::default());
    let (mut a, mut b) = (r.open(), r.open());
    a.put(&[request(READ, 0, 9, HALT, 1), write(512, OLD)].concat());
    r.stage.seen.wait_for(|s| s.halted == 1);
    assert_eq!(b.ask(WRITE, 0, 0, 512, &[NEW; 512]), 0);
    r.stage.seen.update(|s| s.go_on = true);
    assert_eq!(a.reply(), (0, 9));
    a.get(1);
    assert_eq!(a.reply(), (0, 1));
    assert_eq!(r.bytes(512), [OLD; 512]);
}

#[test]
fn what_waits_at_the_volumes_limit_is_dropped_with_a_client_that_hung_up() {
    let clock = Arc::<traffic::Millis>::default();
    let r = stage(ServerConfig { ticks: Arc::clone(&clock) as Arc<dyn Ticks>, ..ServerConfig::default() });
    let (mut newer, mut old) = (r.open(), r.open());
    r.stage.memory.control().unwrap().set_limits(100, 0);
    let reads: Vec<u8> = (0..11).flat_map(|i| request(READ, 0, i, 0, 1)).collect();
    old.put(&[reads, write(512, OLD)].concat());
    traffic::wait_until(|| r.server.stats().delays == 1);
    drop(old);
    be_answered(&mut newer, 1);
    clock.0.store(1000, Ordering::SeqCst);
    r.stage.seen.wait_for(|s| s.dropped == 1);
    assert_eq!(r.bytes(512), [0; 512]);
}

#[test]
fn a_flush_waits_for_what_is_being_applied_of_a_client_that_hung_up_and_for_no_other() {
    let r = stage(ServerConfig::default());
    let (mut newer, mut old) = (r.open(), r.open());
    old.put(&write(512, SLOWLY));
    r.stage.seen.wait_for(|s| s.writing == 1);
    assert_eq!(newer.ask(FLUSH, 0, 0, 0, &[]), 0, "its client is there still");
    drop(old);
    newer.put(&request(FLUSH, 0, 5, 0, 0));
    assert_eq!(newer.read(4096, 1), [0]);
    assert_eq!(newer.read(4096, 1), [0], "the flush is not answered");
    assert_eq!(r.stage.seen.state.lock().flushes, 1);
    r.stage.seen.update(|s| s.write = true);
    assert_eq!(newer.reply(), (0, 5));
    assert_eq!(r.bytes(512), [SLOWLY; 512], "it landed before the flush was answered");
    assert_eq!(r.stage.seen.state.lock().flushes, 2);
    drop(newer);
    assert_nothing_held(r.server);
}

/// A clock that records how many writes have their place in the order when a connection's thread reads the time.
#[derive(Default)]
struct Noting {
    scheduler: std::sync::OnceLock<Arc<VolumeScheduler>>,
    most: AtomicU64,
}

impl Ticks for Noting {
    fn now(&self) -> Duration {
        if std::thread::current().name() == Some("nbd-conn")
            && let Some(scheduler) = self.scheduler.get()
        {
            self.most.fetch_max(scheduler.in_order() as u64, Ordering::SeqCst);
        }
        Duration::ZERO
    }
}

#[test]
fn the_age_of_a_write_is_looked_at_when_it_has_its_place_in_the_order() {
    let clock = Arc::<Noting>::default();
    let r = stage(ServerConfig { ticks: Arc::clone(&clock) as Arc<dyn Ticks>, ..ServerConfig::default() });
    let mut client = r.open();
    let _ = clock.scheduler.set(r.server.shared.engine.scheduler(r.stage.memory.volume().unwrap()).unwrap());
    assert_eq!(client.ask(WRITE, 0, 0, 512, &[NEW; 512]), 0);
    assert_eq!(clock.most.load(Ordering::SeqCst), 1);
}
