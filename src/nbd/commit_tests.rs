//! FLUSH and FUA in groups: over a live server, on an export whose flushes a test controls.

use super::*;

/// What an export did, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    Wrote(u64),
    BeganFlush(usize),
    EndedFlush(usize),
}

#[derive(Default)]
struct Log {
    did: Vec<Did>,
    flushes: usize,
    /// How many flushes may end.
    allowed: usize,
    /// Flushes fail.
    fails: bool,
    /// Writes wait from this one on.
    held_from: Option<usize>,
    /// Number of writes that have begun.
    begun: usize,
}

#[derive(Clone)]
struct Disk {
    memory: Arc<Memory>,
    log: Arc<Watched<Log>>,
}

impl Export for Disk {}

impl Device for Disk {
    fn volume(&self) -> Option<VolumeId> {
        self.memory.volume()
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        self.memory.scheduled(scheduler);
    }
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.memory.read(offset, out, blocking)
    }
    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        assert!(!fua, "a flush follows by itself");
        let mut number = 0;
        self.log.update(|l| {
            l.begun += 1;
            number = l.begun;
        });
        self.log.wait_for(|l| l.held_from.is_none_or(|from| number < from));
        let done = self.memory.write(offset, data, false, blocking)?;
        self.log.update(|l| l.did.push(Did::Wrote(offset)));
        Ok(done)
    }
    fn flush(&self) -> Result<()> {
        let mut number = 0;
        self.log.update(|l| {
            l.flushes += 1;
            number = l.flushes;
            l.did.push(Did::BeganFlush(number));
        });
        self.log.wait_for(|l| l.allowed >= number);
        self.log.update(|l| l.did.push(Did::EndedFlush(number)));
        if self.log.state.lock().fails { Err(Error::new(Kind::Io, "the disk is gone")) } else { Ok(()) }
    }
    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.memory.trim(offset, len, fua)
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.memory.write_zeroes(offset, len, how)
    }
    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.cache(offset, len)
    }
}

impl Exports for Disk {
    fn list(&self, _: &Client) -> Vec<ExportEntry> {
        Vec::new()
    }
    fn info(&self, name: &str, _: &Client) -> Result<ExportInfo> {
        Ok(ExportInfo { name: name.into(), description: String::new(), size: self.size(), read_only: false })
    }
    fn open(&self, _: &str, _: &Client) -> Result<Arc<dyn Export>> {
        Ok(Arc::new(self.clone()))
    }
}

fn disk() -> (TempDir, PathBuf, Server, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let disk = Disk { memory: Arc::new(Memory::new(4 << 20)), log: Arc::default() };
    let listeners = vec![Listener::unix(&path).unwrap()];
    let server = Server::start(listeners, Arc::new(disk.clone()), ServerConfig::default()).unwrap();
    (dir, path, server, disk)
}

fn fua(cookie: u64) -> Vec<u8> {
    [request(WRITE, 1, cookie, cookie * 4096, 4), vec![cookie as u8; 4]].concat()
}

/// Sends `count` FUA writes, and returns when the server has all of them before the running flush has ended.
fn pile_up(server: &Server, to: &mut Raw, from: u64, count: u64) {
    let before = server.stats().requests;
    to.put(&(from..from + count).flat_map(fua).collect::<Vec<_>>());
    traffic::wait_until(|| server.stats().requests == before + count);
}

fn answers(from: &mut Raw, count: usize) -> Vec<(u32, u64)> {
    let mut all: Vec<_> = (0..count).map(|_| from.reply()).collect();
    all.sort_unstable();
    all
}

#[test]
fn what_comes_during_a_flush_shares_the_next_one() {
    let (_dir, path, server, disk) = disk();
    let (mut a, mut b, mut c) = (Raw::open(&path, ""), Raw::open(&path, ""), Raw::open(&path, ""));
    a.put(&fua(1));
    disk.log.wait_for(|l| l.flushes == 1);
    pile_up(&server, &mut b, 10, 16);
    pile_up(&server, &mut c, 30, 3);
    c.put(&request(FLUSH, 0, 40, 0, 0));
    traffic::wait_until(|| server.stats().requests == 21);
    disk.log.update(|l| l.allowed = 1);
    assert_eq!(a.reply(), (0, 1));
    disk.log.wait_for(|l| l.flushes == 2);
    disk.log.update(|l| l.allowed = 2);
    assert_eq!(answers(&mut b, 16), (10..26).map(|n| (0, n)).collect::<Vec<_>>());
    assert_eq!(answers(&mut c, 4), [(0, 30), (0, 31), (0, 32), (0, 40)]);
    assert_eq!(disk.log.state.lock().flushes, 2);
    drop((a, b, c));
    assert_nothing_held(server);
}

#[test]
fn a_connection_that_sends_behind_its_flush_is_not_kept_waiting_by_the_next() {
    let (_dir, path, server, disk) = disk();
    let mut a = Raw::open(&path, "");
    a.put(&fua(1));
    disk.log.wait_for(|l| l.flushes == 1);
    a.put(&request(READ, 0, 2, 4096, 4));
    disk.log.update(|l| l.allowed = 1);
    assert_eq!(a.reply(), (0, 1));
    assert_eq!(a.reply(), (0, 2));
    assert_eq!(a.get(4), [1; 4]);
    // From now on a worker flushes, and later requests are answered meanwhile.
    a.put(&fua(3));
    disk.log.wait_for(|l| l.flushes == 2);
    a.put(&request(READ, 0, 4, 3 * 4096, 4));
    assert_eq!(a.reply(), (0, 4));
    assert_eq!(a.get(4), [3; 4]);
    disk.log.update(|l| l.allowed = 2);
    assert_eq!(a.reply(), (0, 3));
    drop(a);
    assert_nothing_held(server);
}

#[test]
fn a_failed_flush_fails_all_that_it_was_for() {
    let (_dir, path, server, disk) = disk();
    let (mut a, mut b) = (Raw::open(&path, ""), Raw::open(&path, ""));
    a.put(&request(FLUSH, 0, 1, 0, 0));
    disk.log.wait_for(|l| l.flushes == 1);
    pile_up(&server, &mut b, 2, 3);
    disk.log.update(|l| (l.fails, l.allowed) = (true, 2));
    assert_eq!(a.reply(), (5, 1), "EIO");
    assert_eq!(answers(&mut b, 3), [(5, 2), (5, 3), (5, 4)]);
    drop((a, b));
    assert_nothing_held(server);
}

#[test]
fn a_client_that_is_gone_holds_up_nobody() {
    let (_dir, path, server, disk) = disk();
    let (mut a, mut b) = (Raw::open(&path, ""), Raw::open(&path, ""));
    a.put(&fua(1));
    disk.log.wait_for(|l| l.flushes == 1);
    pile_up(&server, &mut b, 2, 40);
    drop((a, b));
    let mut c = Raw::open(&path, "");
    c.put(&fua(50));
    traffic::wait_until(|| server.stats().requests == 42);
    disk.log.update(|l| l.allowed = usize::MAX);
    assert_eq!(c.reply(), (0, 50));
    drop(c);
    assert_nothing_held(server);
}

/// Four clients for a while: between each write and its answer a flush was begun and ended.
#[test]
fn every_answer_follows_a_flush_that_began_after_its_write() {
    let (_dir, path, server, disk) = disk();
    disk.log.update(|l| l.allowed = usize::MAX);
    std::thread::scope(|scope| {
        for client in 0..4u64 {
            let (path, disk) = (&path, &disk);
            scope.spawn(move || {
                let mut raw = Raw::open(path, "");
                for round in 0..40u64 {
                    let cookies: Vec<u64> = (0..=round % 5).map(|n| client * 200 + round * 5 + n).collect();
                    raw.put(&cookies.iter().copied().flat_map(fua).collect::<Vec<_>>());
                    for _ in &cookies {
                        let (error, cookie) = raw.reply();
                        assert_eq!(error, 0);
                        let log = disk.log.state.lock();
                        let wrote = log.did.iter().position(|d| *d == Did::Wrote(cookie * 4096)).unwrap();
                        let later = &log.did[wrote..];
                        let covered = later.iter().any(|d| match d {
                            Did::BeganFlush(n) => later.contains(&Did::EndedFlush(*n)),
                            _ => false,
                        });
                        assert!(covered, "write {cookie} was answered without a flush");
                    }
                }
            });
        }
    });
    assert_nothing_held(server);
}

#[test]
fn a_large_fua_write_is_flushed_once_behind_all_of_its_parts() {
    let (_dir, path, server, disk) = disk();
    disk.log.update(|l| l.allowed = 1);
    let mut c = Raw::open(&path, "disk");
    let data: Vec<u8> = (0..3u32 << 20).map(|i| (i >> 11) as u8).collect();
    assert_eq!(c.ask(WRITE, 1, 4096, 3 << 20, &data), 0);
    {
        let log = disk.log.state.lock();
        assert_eq!(log.did[log.did.len() - 2..], [Did::BeganFlush(1), Did::EndedFlush(1)]);
        assert_eq!(log.flushes, 1);
    }
    assert!(c.read(4096, 3 << 20) == data);
    drop(c);
    assert_nothing_held(server);
}

fn write(cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    [request(WRITE, 0, cookie, offset, len), vec![cookie as u8; len as usize]].concat()
}

/// 32 KiB are large enough to be deferred, and too small for a worker.
#[test]
fn a_large_write_lets_reads_pass_and_nothing_that_it_matters_to() {
    let (_dir, path, server, disk) = disk();
    disk.log.update(|l| (l.held_from, l.allowed) = (Some(1), usize::MAX));
    let mut a = Raw::open(&path, "");
    let (read, flush, end) = (request(READ, 0, 2, 1 << 20, 16), request(FLUSH, 0, 4, 0, 0), request(DISC, 0, 0, 0, 0));
    a.put(&[write(1, 0, 32 << 10), read, write(3, 4096, 512), flush, write(5, 0, 1024), end].concat());
    assert_eq!(a.reply(), (0, 2));
    assert_eq!(a.get(16), [0; 16]);
    disk.log.wait_for(|l| l.begun == 1);
    assert_eq!(server.stats().queued, 0, "the flush is behind the writes");
    disk.log.update(|l| l.held_from = None);
    assert_eq!(answers(&mut a, 4), [(0, 1), (0, 3), (0, 4), (0, 5)]);
    a.expect_hangup();
    let mut seen = [0; 5120];
    assert_eq!(disk.memory.read(0, &mut seen, Blocking::Allowed).unwrap(), Attempt::Done);
    assert_eq!([0, 1023, 1024, 4095, 4096, 4607, 4608].map(|at| seen[at]), [5, 5, 1, 1, 3, 3, 1]);
    assert_nothing_held(server);
}

#[test]
fn the_socket_is_emptied_before_each_large_write() {
    let (_dir, path, server, disk) = disk();
    disk.log.update(|l| l.held_from = Some(1));
    let mut a = Raw::open(&path, "");
    rustix::net::sockopt::set_socket_send_buffer_size(&a.0, 1 << 20).unwrap();
    a.put(&write(1, 0, 512));
    disk.log.wait_for(|l| l.begun == 1);
    // More than one `recv` takes.
    let writes = (2..6).flat_map(|n| write(n, n * 65_536, 56 << 10)).collect::<Vec<_>>();
    a.put(&[writes, request(READ, 0, 8, 1 << 20, 16)].concat());
    disk.log.update(|l| l.held_from = Some(2));
    assert_eq!((a.reply(), a.reply()), ((0, 1), (0, 8)));
    assert_eq!(a.get(16), [0; 16]);
    disk.log.wait_for(|l| l.begun == 2);
    a.put(&request(READ, 0, 9, 1 << 20, 16));
    disk.log.update(|l| l.held_from = None);
    assert_eq!((a.reply(), a.reply()), ((0, 2), (0, 9)));
    assert_eq!(a.get(16), [0; 16]);
    assert_eq!(answers(&mut a, 3), [(0, 3), (0, 4), (0, 5)]);
    drop(a);
    assert_nothing_held(server);
}
