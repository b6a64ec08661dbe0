use super::super::dial::Facts;
use super::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// A kernel and a server, both scripted: nothing happens in them unless a test says so.
#[derive(Default)]
struct World {
    // The kernel.
    connected: bool,
    backend: String,
    /// Its sockets, and whether it has noticed their end.
    sockets: Vec<(OwnedFd, bool)>,
    kernel_size: u64,
    refuses_size: bool,
    offers: usize,
    trouble: Option<Kind>,
    // The server.
    up: bool,
    refuses: Option<Kind>,
    size: u64,
    ends_at_once: bool,
    /// A new connection in a slot ends the old one.
    displaces: bool,
    slots: BTreeMap<u32, Vec<UnixStream>>,
    dials: usize,
}

impl World {
    /// Makes the kernel check its sockets.
    fn notice(&mut self) -> News {
        let mut news = News::default();
        for (socket, dead) in &mut self.sockets {
            if !*dead && has_ended(socket.as_fd()) {
                (*dead, news.link_dead) = (true, true);
            }
        }
        news
    }

    /// A request timeout: the kernel shuts the socket down itself.
    fn time_out(&mut self, i: usize) -> News {
        rustix::net::shutdown(&self.sockets[i].0, rustix::net::Shutdown::Both).unwrap();
        self.notice()
    }

    fn kill_server(&mut self) {
        self.up = false;
        self.slots.clear();
    }

    fn alive(&self) -> usize {
        self.sockets.iter().filter(|(s, dead)| !dead && !has_ended(s.as_fd())).count()
    }
}

#[derive(Clone)]
struct Handle(Rc<RefCell<World>>);

fn failed<T>(kind: Kind) -> Result<T> {
    Err(Error::new(kind, "scripted"))
}

impl Driver for Handle {
    fn connect(&mut self, _: Device, disk: &NewDisk, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        let mut w = self.0.borrow_mut();
        w.sockets = sockets.iter().map(|s| (s.try_clone_to_owned().unwrap(), false)).collect();
        (w.connected, w.backend, w.kernel_size) = (true, disk.backend.clone(), disk.size);
        Ok(())
    }

    fn replace(&mut self, _: Device, backend: &str, socket: BorrowedFd<'_>) -> Result<bool> {
        let mut w = self.0.borrow_mut();
        w.offers += 1;
        if let Some(kind) = w.trouble {
            return failed(kind);
        }
        if !w.connected || w.backend != backend {
            return failed(Kind::InvalidState);
        }
        let Some(dead) = w.sockets.iter_mut().find(|(_, dead)| *dead) else { return Ok(false) };
        *dead = (socket.try_clone_to_owned().unwrap(), false);
        Ok(true)
    }

    fn resize(&mut self, _: Device, _: &str, size: u64) -> Result<()> {
        let mut w = self.0.borrow_mut();
        if w.refuses_size {
            return failed(Kind::InvalidState);
        }
        w.kernel_size = size;
        Ok(())
    }

    fn disconnect(&mut self, _: Device) -> Result<()> {
        self.0.borrow_mut().connected = false;
        Ok(())
    }

    fn is_connected(&mut self, _: Device, backend: &str) -> Result<bool> {
        let w = self.0.borrow();
        Ok(w.connected && w.backend == backend)
    }
}

impl Dial for Handle {
    fn dial(&mut self, slot: u32) -> Result<Dialed> {
        let mut w = self.0.borrow_mut();
        w.dials += 1;
        if !w.up {
            return failed(Kind::Unreachable);
        }
        if let Some(kind) = w.refuses {
            return failed(kind);
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let displaces = w.displaces;
        let slot = w.slots.entry(slot).or_default();
        if displaces {
            slot.clear();
        }
        slot.push(theirs);
        if w.ends_at_once {
            w.slots.clear();
        }
        Ok(Dialed { socket: ours.into(), facts: Facts { size: w.size, flags: 1 } })
    }

    fn look(&mut self) -> Result<Facts> {
        let w = self.0.borrow();
        if w.up { Ok(Facts { size: w.size, flags: 1 }) } else { failed(Kind::Unreachable) }
    }
}

struct Scene {
    world: Rc<RefCell<World>>,
    keeper: Keeper<Handle, Handle>,
    now: Instant,
}

impl Scene {
    fn new(connections: u32) -> Self {
        let world = Rc::new(RefCell::new(World { up: true, size: 1 << 30, ..World::default() }));
        let (driver, server, now) = (Handle(world.clone()), Handle(world.clone()), Instant::now());
        let keeper = Keeper::connect(driver, server, Device(0), "us".to_owned(), connections, now).unwrap();
        Self { world, keeper, now }
    }

    /// Kills the helper; a new one takes the device over.
    fn adopt(self) -> Self {
        let Self { world, now, keeper } = self;
        let connections = keeper.slots.len() as u32;
        drop(keeper);
        let (driver, server) = (Handle(world.clone()), Handle(world.clone()));
        let keeper = Keeper::adopt(driver, server, Device(0), "us".to_owned(), connections, 1 << 30, now);
        Self { world, keeper, now }
    }

    fn turn(&mut self, news: News) -> Turn {
        self.keeper.turn(self.now, news)
    }

    /// Takes turns for this long, with time advancing as the keeper asks and the kernel noticing what it can.
    fn run(&mut self, span: Duration) -> usize {
        let end = self.now + span;
        let mut turns = 0;
        loop {
            let news = self.world.borrow_mut().notice();
            turns += 1;
            match self.turn(news) {
                Turn::Wait(next) if next >= end => {
                    self.now = end;
                    return turns;
                }
                Turn::Wait(next) => self.now = self.now.max(next),
                Turn::Ended(why) => panic!("{why}"),
            }
            assert!(turns < 100_000, "this is a busy loop");
        }
    }

    #[track_caller]
    fn is_whole(&self, connections: usize) {
        assert_eq!((self.keeper.alive() as usize, self.world.borrow().alive()), (connections, connections));
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_healthy_device_is_left_alone() {
    let mut s = Scene::new(4);
    s.is_whole(4);
    s.run(SECOND * 100);
    assert_eq!((s.world.borrow().dials, s.world.borrow().offers), (4, 0));
}

#[test]
fn after_a_killed_server_every_connection_comes_back_and_no_more() {
    let mut s = Scene::new(4);
    for round in 1..=20 {
        s.world.borrow_mut().kill_server();
        s.run(SECOND * 3);
        assert_eq!(s.keeper.alive(), 0);
        s.world.borrow_mut().up = true;
        s.run(SECOND * 2);
        s.is_whole(4);
        let w = s.world.borrow();
        assert_eq!(w.slots.values().map(Vec::len).collect::<Vec<_>>(), [1; 4], "one connection a slot");
        assert_eq!(w.offers, 4 * round, "each was offered once");
    }
}

#[test]
fn a_server_that_stays_away_is_dialed_for_ever_at_a_growing_capped_pause() {
    let mut s = Scene::new(2);
    s.world.borrow_mut().kill_server();
    let before = s.world.borrow().dials;
    let turns = s.run(SECOND * 3600);
    let dials = s.world.borrow().dials - before;
    assert!((3500..3700).contains(&dials), "{dials} dials in an hour");
    assert!(turns < 2 * dials, "{turns} turns");
    s.world.borrow_mut().up = true;
    s.run(SECOND * 2);
    s.is_whole(2);
}

#[test]
fn a_server_that_refuses_is_asked_more_seldom() {
    for (kind, expected) in [(Kind::KeyUnavailable, 190..230), (Kind::Busy, 190..230), (Kind::AccessDenied, 30..50)] {
        let mut s = Scene::new(2);
        let news = s.world.borrow_mut().time_out(0);
        s.world.borrow_mut().refuses = Some(kind);
        s.turn(news);
        let before = s.world.borrow().dials;
        s.run(SECOND * 1000);
        let dials = s.world.borrow().dials - before;
        assert!(expected.contains(&dials), "{dials} dials in 1000 s, {kind:?}");
        s.world.borrow_mut().refuses = None;
        s.run(SECOND * 31);
        s.is_whole(2);
    }
}

#[test]
fn a_server_that_ends_connections_at_once_does_not_keep_us_busy() {
    let mut s = Scene::new(4);
    s.world.borrow_mut().ends_at_once = true;
    s.world.borrow_mut().slots.clear();
    let turns = s.run(SECOND * 100);
    assert!(turns < 1000, "{turns} turns in 100 s");
    s.world.borrow_mut().ends_at_once = false;
    s.run(SECOND * 5);
    s.is_whole(4);
}

#[test]
fn one_connection_that_the_kernel_gave_up_is_replaced_alone() {
    let mut s = Scene::new(4);
    let news = s.world.borrow_mut().time_out(2);
    assert!(news.link_dead);
    s.turn(news);
    s.run(SECOND);
    s.is_whole(4);
    let w = s.world.borrow();
    assert_eq!((w.dials, w.offers), (5, 1));
}

/// A live device drops a new socket silently, so it is offered until the kernel takes it.
#[test]
fn a_socket_that_comes_before_the_kernel_has_noticed_is_offered_again() {
    let mut s = Scene::new(1);
    s.world.borrow_mut().slots.clear();
    s.turn(News::default());
    s.now += Duration::from_millis(50);
    s.turn(News::default());
    assert_eq!((s.keeper.alive(), s.world.borrow().offers), (0, 1), "dialed and offered, not taken");
    assert_eq!(s.world.borrow().dials, 2);
    // The kernel's own report comes before the pause is over.
    let news = s.world.borrow_mut().notice();
    s.turn(news);
    s.is_whole(1);
    assert_eq!(s.world.borrow().dials, 2, "the same socket");
}

#[test]
fn without_any_word_of_the_kernel_it_is_offered_again_all_the_same() {
    let mut s = Scene::new(1);
    s.world.borrow_mut().slots.clear();
    s.turn(News::default());
    s.now += Duration::from_millis(50);
    s.turn(News::default());
    s.world.borrow_mut().notice();
    while s.keeper.alive() < 1 {
        let Turn::Wait(next) = s.turn(News::default()) else { panic!("it ended") };
        assert!(next - s.now <= NOT_WANTED || s.keeper.alive() == 1);
        s.now = next;
    }
    s.is_whole(1);
}

#[test]
fn a_device_that_is_disconnected_or_anothers_ends_the_keeper() {
    let mut s = Scene::new(2);
    s.world.borrow_mut().connected = false;
    s.world.borrow_mut().slots.clear();
    assert!(matches!(s.turn(News::default()), Turn::Ended(_)));
    let mut s = Scene::new(2);
    s.world.borrow_mut().backend = "another".to_owned();
    s.world.borrow_mut().slots.clear();
    assert!(matches!(s.turn(News::default()), Turn::Ended(_)));
    // Between the status query and the offer.
    let mut s = Scene::new(2);
    s.world.borrow_mut().slots.clear();
    s.world.borrow_mut().trouble = Some(Kind::InvalidState);
    s.turn(News::default());
    s.now += SECOND;
    assert!(matches!(s.turn(News::default()), Turn::Ended(_)));
}

#[test]
fn trouble_in_the_kernel_is_met_with_pauses() {
    let mut s = Scene::new(2);
    s.world.borrow_mut().slots.clear();
    s.world.borrow_mut().trouble = Some(Kind::Io);
    let turns = s.run(SECOND * 100);
    assert!(turns < 1000, "{turns}");
    s.world.borrow_mut().trouble = None;
    s.run(SECOND * 5);
    s.is_whole(2);
}

#[test]
fn a_volume_that_grows_is_followed_at_once_on_a_word_and_soon_without_one() {
    let mut s = Scene::new(1);
    s.world.borrow_mut().size = 2 << 30;
    s.turn(News { size: true, ..News::default() });
    assert_eq!((s.world.borrow().kernel_size, s.keeper.size()), (2 << 30, 2 << 30));
    s.world.borrow_mut().size = 3 << 30;
    s.run(LOOK + SECOND);
    assert_eq!(s.world.borrow().kernel_size, 3 << 30);
    s.world.borrow_mut().size = 1 << 30;
    s.run(LOOK * 3);
    assert_eq!(s.world.borrow().kernel_size, 3 << 30, "never smaller");
    // It grew while the server was down.
    s.world.borrow_mut().kill_server();
    s.run(SECOND);
    (s.world.borrow_mut().size, s.world.borrow_mut().up) = (4 << 30, true);
    s.run(SECOND * 2);
    assert_eq!(s.world.borrow().kernel_size, 4 << 30);
}

#[test]
fn a_size_that_the_kernel_refuses_ends_nothing_and_is_offered_again() {
    let mut s = Scene::new(2);
    (s.world.borrow_mut().size, s.world.borrow_mut().refuses_size) = (2 << 30, true);
    s.run(LOOK * 2);
    assert_eq!(s.world.borrow().kernel_size, 1 << 30);
    s.world.borrow_mut().refuses_size = false;
    s.run(LOOK + SECOND);
    assert_eq!(s.world.borrow().kernel_size, 2 << 30);
    s.is_whole(2);
}

#[test]
fn a_device_without_its_helper_is_taken_over() {
    // Its connections live, and the server ends the old one of each slot.
    let s = Scene::new(4);
    s.world.borrow_mut().displaces = true;
    let mut s = s.adopt();
    s.run(SECOND * 30);
    s.is_whole(4);
    assert_eq!(s.world.borrow().slots.values().map(Vec::len).collect::<Vec<_>>(), [1; 4]);
    // They had died before.
    let s = Scene::new(4);
    s.world.borrow_mut().kill_server();
    s.world.borrow_mut().notice();
    s.world.borrow_mut().up = true;
    let mut s = s.adopt();
    s.run(SECOND);
    s.is_whole(4);
}

#[test]
fn where_old_connections_live_on_the_new_ones_stand_by() {
    let mut s = Scene::new(2).adopt();
    let turns = s.run(SECOND * 60);
    assert_eq!(s.keeper.alive(), 0, "the kernel has taken none");
    assert!(turns < 100, "{turns}");
    assert_eq!(s.world.borrow().alive(), 2);
    s.world.borrow_mut().kill_server();
    s.run(SECOND);
    s.world.borrow_mut().up = true;
    s.run(SECOND * 2);
    s.is_whole(2);
}

#[test]
fn a_first_connection_that_fails_is_an_error_and_no_device() {
    let world = Rc::new(RefCell::new(World { up: true, refuses: Some(Kind::NotFound), ..World::default() }));
    let made =
        Keeper::connect(Handle(world.clone()), Handle(world.clone()), Device(0), "us".to_owned(), 2, Instant::now());
    assert_eq!(made.err().unwrap().kind(), Kind::NotFound);
    assert!(!world.borrow().connected);
}
