//! A front end in memory and a device that a test controls step by step, for the engine's own tests. No sockets, and no
//! threads but the test's and the engine's.

use super::*;
use crate::error::{Error, Kind, Result};
use crate::units::VolumeId;
use std::sync::OnceLock;

/// State that a test changes or waits for.
#[derive(Default)]
pub(super) struct Watched<T> {
    pub(super) state: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    #[track_caller]
    pub(super) fn wait_for(&self, what: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        while !what(&state) {
            assert!(!self.changed.wait_for(&mut state, Duration::from_secs(30)).timed_out(), "waited too long");
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

/// A clock that a test sets, in milliseconds.
#[derive(Default)]
pub(super) struct Hand(pub(super) AtomicU64);

impl Ticks for Hand {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// How a test controls a device, and what it observes.
#[derive(Default)]
pub(super) struct Steps {
    /// First bytes of the writes that a worker has begun, in order.
    pub(super) begun: Vec<u8>,
    /// How many of them may finish.
    pub(super) allowed: usize,
    /// First bytes of the writes that were applied, in order.
    pub(super) applied: Vec<u8>,
    pub(super) key_away: bool,
    pub(super) flushes: usize,
    /// How many of them may finish.
    pub(super) flushes_allowed: usize,
    /// READs that a worker has begun.
    pub(super) reads: usize,
    /// READs wait.
    pub(super) reads_wait: bool,
}

/// Any number.
pub(super) const FREE: usize = usize::MAX;

/// Memory whose writes go to the workers and wait there for the test.
pub(super) struct Led {
    id: VolumeId,
    pub(super) bytes: Mutex<Vec<u8>>,
    pub(super) steps: Watched<Steps>,
    pub(super) control: OnceLock<Arc<dyn VolumeControl>>,
    pub(super) stale_after: Option<Duration>,
}

impl Led {
    pub(super) fn new(stale_after: Option<Duration>) -> Arc<Self> {
        let steps = Watched::<Steps>::default();
        steps.update(|s| s.flushes_allowed = FREE);
        let (id, bytes) = (VolumeId::draw(&crate::env::SystemRng), Mutex::new(vec![0; 16 << 20]));
        Arc::new(Self { id, bytes, steps, control: OnceLock::new(), stale_after })
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.bytes.lock()[at]
    }

    fn key(&self) -> Result<()> {
        let away = self.steps.state.lock().key_away;
        if away { Err(Error::new(Kind::KeyUnavailable, "the key is away")) } else { Ok(()) }
    }

    /// Brings back the key first, then releases what waits for it.
    pub(super) fn bring_key_back(&self) {
        self.steps.update(|s| s.key_away = false);
        self.control.get().unwrap().release();
    }

    fn fill(&self, offset: u64, len: u64, byte: u8) {
        self.bytes.lock()[offset as usize..][..len as usize].fill(byte);
    }
}

impl Device for Led {
    fn volume(&self) -> Option<VolumeId> {
        Some(self.id)
    }
    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        let _ = self.control.set(Arc::clone(scheduler));
    }
    fn size(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn stale_after(&self) -> Option<Duration> {
        self.stale_after
    }
    fn waits_for_key(&self) -> bool {
        true
    }
    fn has_key(&self) -> bool {
        self.key().is_ok()
    }
    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.key()?;
        let waits = self.steps.state.lock().reads_wait;
        if waits && blocking == Blocking::Never {
            return Ok(Attempt::WouldBlock);
        }
        if blocking == Blocking::Allowed {
            self.steps.update(|s| s.reads += 1);
            self.steps.wait_for(|s| !s.reads_wait);
        }
        out.copy_from_slice(&self.bytes.lock()[offset as usize..][..out.len()]);
        Ok(Attempt::Done)
    }
    fn write(&self, offset: u64, data: &mut [u8], _: bool, blocking: Blocking) -> Result<Attempt> {
        self.key()?;
        if blocking == Blocking::Never {
            return Ok(Attempt::WouldBlock);
        }
        let (first, mut turn) = (data[0], 0);
        self.steps.update(|s| {
            s.begun.push(first);
            turn = s.begun.len();
        });
        self.steps.wait_for(|s| s.allowed >= turn);
        self.bytes.lock()[offset as usize..][..data.len()].copy_from_slice(data);
        self.steps.update(|s| s.applied.push(first));
        Ok(Attempt::Done)
    }
    fn flush(&self) -> Result<()> {
        let mut number = 0;
        self.steps.update(|s| {
            s.flushes += 1;
            number = s.flushes;
        });
        self.steps.wait_for(|s| s.flushes_allowed >= number);
        Ok(())
    }
    fn trim(&self, offset: u64, len: u64, _: bool) -> Result<()> {
        self.fill(offset, len, 0);
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: Zeroing) -> Result<()> {
        self.fill(offset, len, 0);
        Ok(())
    }
    fn cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// What a client was sent.
#[derive(Default)]
pub(super) struct Told {
    /// Completed requests, by their tag's id, and what they read.
    pub(super) ended: Vec<(u64, std::result::Result<Vec<u8>, Kind>)>,
    /// Offsets of the parts of a READ.
    pub(super) parts: Vec<u64>,
    pub(super) questions: Vec<u64>,
    pub(super) severed: Option<Severed>,
    pub(super) wakes: usize,
}

/// One connection's front end.
#[derive(Default)]
pub(super) struct Local {
    pub(super) told: Watched<Told>,
    pub(super) gone: AtomicBool,
    pub(super) streams: AtomicBool,
}

impl Local {
    pub(super) fn hear(&self, done: Done) {
        let read = match done.data {
            Data::None => Vec::new(),
            Data::Whole(buf) => buf.to_vec(),
            Data::Parts(bufs) => bufs.iter().flat_map(|buf| buf.to_vec()).collect(),
        };
        let outcome = done.outcome.map(|()| read).map_err(|failure| failure.kind);
        self.told.update(|t| t.ended.push((done.request.tag.id, outcome)));
    }

    /// Returns the ids of the successful requests, sorted.
    #[track_caller]
    pub(super) fn ended(&self, count: usize) -> Vec<u64> {
        self.told.wait_for(|t| t.ended.len() >= count);
        let mut ids: Vec<u64> = self.told.state.lock().ended.iter().map(|(id, done)| (done.is_ok(), *id).1).collect();
        ids.sort_unstable();
        ids
    }
}

impl Front for Local {
    fn complete(&self, done: &mut dyn Iterator<Item = Done>) {
        done.for_each(|one| self.hear(one));
    }
    fn streams(&self, _: &Request) -> bool {
        self.streams.load(Ordering::SeqCst)
    }
    fn part(&self, _: &Request, offset: u64, _: Buf) {
        self.told.update(|t| t.parts.push(offset));
    }
    fn query(&self, request: &Request, device: &dyn Device) {
        assert!(device.size() > 0);
        self.told.update(|t| t.questions.push(request.tag.id));
    }
    fn has_hung_up(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
    fn severed(&self, why: Severed) {
        self.told.update(|t| t.severed = t.severed.or(Some(why)));
    }
    fn moved(&self) -> u64 {
        0
    }
    fn wake(&self) {
        self.told.update(|t| t.wakes += 1);
    }
}

/// One connection, driven by the test's thread.
pub(super) struct Client {
    pub(super) io: Submitter,
    pub(super) front: Arc<Local>,
}

impl Client {
    /// Submits a request; a WRITE writes this byte.
    pub(super) fn put(&mut self, id: u64, request: Request, byte: u8) -> std::result::Result<(), Severed> {
        let read_at = self.io.now();
        let request = Request { tag: Tag { id, ..Tag::default() }, ..request };
        let mut payload = Payload::default();
        if request.carries() {
            let (mut buf, load) = self.io.buffer(request.len as usize).expect("room");
            buf.fill(byte);
            payload = Payload { buf: Some(buf), load, part: None };
        }
        let done = self.io.submit(Ready { request, payload, read_at }, false)?;
        done.into_iter().for_each(|one| self.front.hear(one));
        self.io.commit(true, || false);
        Ok(())
    }

    #[track_caller]
    pub(super) fn write(&mut self, id: u64, offset: u64, byte: u8) {
        self.put(id, Request::new(Op::Write, offset, 1), byte).unwrap();
    }

    /// Ends it like a front end whose client is gone.
    pub(super) fn cut(mut self) {
        self.io.queue().sever(Severed::Lost);
        self.io.cancel();
        self.io.queue().set_eager(true);
        while self.io.queue().in_flight() > 0 {
            let wakes = self.front.told.state.lock().wakes;
            if self.io.queue().in_flight() > 0 {
                self.front.told.wait_for(|t| t.wakes > wakes || self.io.queue().in_flight() == 0);
            }
        }
        self.io.close();
    }
}

/// An engine, and a device on it.
pub(super) struct Rig {
    pub(super) engine: Arc<Engine>,
    pub(super) led: Arc<Led>,
    pub(super) clock: Arc<Hand>,
}

impl Rig {
    pub(super) fn new(workers: usize, budget: usize, stale_after: Option<Duration>) -> Self {
        let clock = Arc::<Hand>::default();
        let ticks = Arc::clone(&clock) as Arc<dyn Ticks>;
        let config = EngineConfig { budget, workers, stale_after: Duration::from_secs(15), ticks };
        let spawn: Spawn = Box::new(spawn);
        Self { engine: Engine::start(config, &spawn).unwrap(), led: Led::new(stale_after), clock }
    }

    pub(super) fn open(&self) -> Client {
        self.open_on(&self.led)
    }

    /// Opens a connection to another device.
    pub(super) fn open_on(&self, led: &Arc<Led>) -> Client {
        let front = Arc::<Local>::default();
        let id = self.engine.draw_id();
        let mut io = self.engine.connect(id, Arc::clone(&front) as Arc<dyn Front>, 100).unwrap();
        io.open(Arc::clone(led) as Arc<dyn Device>);
        Client { io, front }
    }

    /// Returns the scheduler of the device.
    pub(super) fn scheduler(&self) -> Arc<VolumeScheduler> {
        self.engine.scheduler(self.led.id).unwrap()
    }

    /// Checks that everything is done and released.
    #[track_caller]
    pub(super) fn end(self, clients: Vec<Client>) {
        for mut client in clients {
            client.io.leave();
            assert_eq!(client.io.queue().in_flight(), 0);
            client.io.close();
        }
        assert!(self.engine.wait_for_connections(Duration::from_secs(30)));
        self.engine.stop(true);
        assert_eq!(self.engine.budget().used(), 0);
    }
}
