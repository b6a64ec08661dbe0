//! The engine under a front end in memory: order, resends, fairness, waiting for a key, group commit, parts.

use super::testing::{Client, FREE, Led, Local, Rig};
use super::*;

fn plain() -> Rig {
    Rig::new(8, 16 << 20, None)
}

/// The counter of requests in flight is decremented right after a request was answered.
#[track_caller]
fn settled(clients: &[Client]) {
    let until = Instant::now() + Duration::from_secs(30);
    while clients.iter().any(|c| c.io.queue().in_flight() > 0) {
        assert!(Instant::now() < until, "waited too long");
        std::thread::yield_now();
    }
}

#[test]
fn a_copy_on_another_connection_waits_for_what_is_being_applied() {
    let r = plain();
    let (mut a, mut b) = (r.open(), r.open());
    a.write(1, 100, 1);
    r.led.steps.wait_for(|s| s.begun == [1]);
    b.write(2, 100, 2);
    // Zeroing and trimming are writes too.
    b.put(3, Request::new(Op::WriteZeroes, 99, 2), 0).unwrap();
    b.write(4, 4096, 4);
    r.led.steps.wait_for(|s| s.begun == [1, 4]);
    r.led.steps.update(|s| s.allowed = FREE);
    assert_eq!(a.front.ended(1), [1]);
    assert_eq!(b.front.ended(3), [2, 3, 4]);
    assert_eq!(r.led.byte(100), 0, "the newest is what counts");
    let applied = r.led.steps.state.lock().applied.clone();
    assert!(applied.iter().filter(|byte| **byte < 4).eq(&[1, 2]), "{applied:?}");
    let clients = vec![a, b];
    settled(&clients);
    r.end(clients);
}

#[test]
fn what_a_cut_connection_has_not_begun_is_dropped_and_its_copy_applied() {
    let r = Rig::new(1, 16 << 20, None);
    let (mut busy, mut old, mut new) = (r.open(), r.open(), r.open());
    busy.write(8, 4096, 8);
    r.led.steps.wait_for(|s| s.begun == [8]);
    old.write(1, 100, 1);
    old.write(2, 100, 2);
    new.write(3, 100, 3);
    old.cut();
    r.led.steps.update(|s| s.allowed = FREE);
    assert_eq!((busy.front.ended(1), new.front.ended(1)), (vec![8], vec![3]));
    assert_eq!(r.led.steps.state.lock().applied, [8, 3]);
    let clients = vec![busy, new];
    settled(&clients);
    r.end(clients);
}

/// Its requests are read after it hung up, like those that were still in a socket.
#[test]
fn what_a_client_left_behind_never_lands_on_what_was_answered_since() {
    let r = plain();
    r.led.steps.update(|s| s.allowed = FREE);
    let (mut old, mut new) = (r.open(), r.open());
    old.write(1, 100, 1);
    old.front.ended(1);
    old.front.gone.store(true, Ordering::SeqCst);
    new.write(2, 100, 2);
    new.front.ended(1);
    assert_eq!(old.put(3, Request::new(Op::Write, 100, 1), 3), Err(Severed::Lost));
    assert_eq!(old.put(4, Request::new(Op::Trim, 0, 4096), 0), Err(Severed::Lost));
    assert_eq!(r.led.byte(100), 2);
    assert_eq!(old.front.told.state.lock().severed, Some(Severed::Lost));
    old.cut();
    let clients = vec![new];
    settled(&clients);
    r.end(clients);
}

#[test]
fn a_flush_waits_for_the_writes_of_clients_that_are_gone() {
    let r = plain();
    let (mut old, mut new) = (r.open(), r.open());
    old.write(1, 100, 1);
    r.led.steps.wait_for(|s| s.begun == [1]);
    new.put(2, Request::new(Op::Flush, 0, 0), 0).unwrap();
    assert_eq!(new.front.ended(1), [2], "its client is there still");
    old.front.gone.store(true, Ordering::SeqCst);
    new.put(3, Request::new(Op::Flush, 0, 0), 0).unwrap();
    new.put(4, Request::new(Op::Read, 4096, 1), 0).unwrap();
    assert_eq!(new.front.ended(2), [2, 4], "the flush is not answered");
    r.led.steps.update(|s| s.allowed = FREE);
    assert_eq!(new.front.ended(3), [2, 3, 4]);
    assert_eq!(r.led.byte(100), 1, "it landed before that");
    old.cut();
    let clients = vec![new];
    settled(&clients);
    r.end(clients);
}

#[test]
fn a_volume_with_many_slow_requests_leaves_workers_to_the_other_volumes() {
    let r = Rig::new(8, 16 << 20, None);
    let other = Led::new(None);
    let (mut one, mut two, mut apart) = (r.open(), r.open(), r.open_on(&other));
    for id in 0..20 {
        one.write(id, id * 4096, 1);
        two.write(id, (100 + id) * 4096, 2);
    }
    r.led.steps.wait_for(|s| s.begun.len() == 7);
    other.steps.update(|s| s.allowed = FREE);
    for id in 0..20 {
        apart.write(id, id * 4096, 9);
    }
    assert_eq!(apart.front.ended(20).len(), 20);
    assert_eq!(r.led.steps.state.lock().begun.len(), 7, "seven eighths of the workers at most are one volume's");
    // What a connection drops meanwhile leaves the others their turns.
    one.io.cancel();
    r.led.steps.update(|s| s.allowed = FREE);
    assert_eq!(two.front.ended(20).len(), 20);
    let clients = vec![one, two, apart];
    settled(&clients);
    r.end(clients);
}

#[test]
fn a_connection_with_many_slow_requests_leaves_workers_to_the_others() {
    let r = Rig::new(4, 16 << 20, None);
    let (mut greedy, mut other) = (r.open(), r.open());
    for id in 0..20 {
        greedy.write(id, id * 4096, 1);
    }
    r.led.steps.wait_for(|s| s.begun.len() == 3);
    other.write(50, 1 << 20, 9);
    r.led.steps.wait_for(|s| s.begun.len() == 4);
    assert_eq!(r.led.steps.state.lock().begun[3], 9, "three quarters of the workers at most are one connection's");
    r.led.steps.update(|s| s.allowed = FREE);
    assert!(greedy.front.ended(20).into_iter().eq(0..20));
    assert_eq!(other.front.ended(1), [50]);
    let clients = vec![greedy, other];
    settled(&clients);
    r.end(clients);
}

#[test]
fn what_needs_the_key_is_held_and_done_in_order_when_it_is_back() {
    let r = plain();
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let (mut a, mut b) = (r.open(), r.open());
    a.write(1, 100, 1);
    a.write(2, 100, 2);
    a.put(3, Request::new(Op::Read, 5000, 1), 0).unwrap();
    b.write(4, 100, 4);
    let scheduler = r.scheduler();
    let until = Instant::now() + Duration::from_secs(30);
    // The first write and the read; two writes wait for the first.
    while scheduler.held() != 2 {
        assert!(Instant::now() < until, "waited too long");
        std::thread::yield_now();
    }
    // It waits as long as it takes: its client does not resend.
    r.clock.0.store(3_600_000, Ordering::SeqCst);
    r.engine.tick(Duration::from_secs(3600), Duration::ZERO);
    a.put(5, Request::new(Op::Flush, 0, 0), 0).unwrap();
    assert_eq!(a.front.ended(1), [5], "what needs no key goes on");
    r.led.bring_key_back();
    assert_eq!(a.front.ended(4), [1, 2, 3, 5]);
    assert_eq!(b.front.ended(1), [4]);
    assert_eq!(r.led.steps.state.lock().applied, [1, 2, 4]);
    let clients = vec![a, b];
    settled(&clients);
    drop(scheduler);
    r.end(clients);
}

#[test]
fn of_a_client_that_sends_again_a_held_request_grows_too_old() {
    let r = Rig::new(8, 16 << 20, Some(Duration::from_secs(15)));
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let (mut old, mut new) = (r.open(), r.open());
    old.write(1, 100, 1);
    let scheduler = r.scheduler();
    while scheduler.held() != 1 {
        std::thread::yield_now();
    }
    r.clock.0.store(8000, Ordering::SeqCst);
    new.write(2, 100, 2);
    r.engine.tick(Duration::from_secs(15), Duration::ZERO);
    assert_eq!(old.io.queue().severed(), None);
    r.engine.tick(Duration::from_secs(16), Duration::ZERO);
    assert_eq!((old.io.queue().severed(), new.io.queue().severed()), (Some(Severed::Stale), None));
    old.cut();
    r.led.bring_key_back();
    assert_eq!(new.front.ended(1), [2]);
    assert_eq!(r.led.steps.state.lock().applied, [2]);
    let clients = vec![new];
    settled(&clients);
    drop(scheduler);
    r.end(clients);
}

#[test]
fn a_suspended_volume_holds_an_eighth_of_the_buffers() {
    let r = Rig::new(8, 8 << 20, None);
    r.led.steps.update(|s| (s.key_away, s.allowed) = (true, FREE));
    let mut a = r.open();
    a.put(0, Request::new(Op::Write, 0, 256 << 10), 7).unwrap();
    let scheduler = r.scheduler();
    while scheduler.held() != 1 {
        std::thread::yield_now();
    }
    for id in 1..4 {
        a.put(id, Request::new(Op::Write, id << 20, 256 << 10), 7).unwrap();
    }
    assert!(a.io.buffer(4096).is_none(), "four of 256 KiB are an eighth");
    assert_eq!(r.engine.stats().stalls, 1);
    let wakes = a.front.told.state.lock().wakes;
    r.led.bring_key_back();
    a.front.told.wait_for(|t| t.wakes > wakes);
    assert!(a.io.buffer(4096).is_some());
    assert_eq!(a.front.ended(4), [0, 1, 2, 3]);
    let clients = vec![a];
    settled(&clients);
    drop(scheduler);
    r.end(clients);
}

#[test]
fn what_comes_during_a_flush_shares_the_next_one() {
    let r = plain();
    r.led.steps.update(|s| (s.allowed, s.flushes_allowed) = (FREE, 0));
    let (mut a, mut b) = (r.open(), r.open());
    let flush = Request::new(Op::Flush, 0, 0);
    a.put(1, flush, 0).unwrap();
    r.led.steps.wait_for(|s| s.flushes == 1);
    for id in 2..18 {
        b.put(id, flush, 0).unwrap();
    }
    r.led.steps.update(|s| s.flushes_allowed = 1);
    assert_eq!(a.front.ended(1), [1]);
    r.led.steps.wait_for(|s| s.flushes == 2);
    assert!(b.front.told.state.lock().ended.is_empty());
    r.led.steps.update(|s| s.flushes_allowed = FREE);
    assert!(b.front.ended(16).into_iter().eq(2..18));
    assert_eq!(r.led.steps.state.lock().flushes, 2);
    let clients = vec![a, b];
    settled(&clients);
    r.end(clients);
}

#[test]
fn a_large_read_goes_in_parts_that_a_front_may_take_as_they_come() {
    let r = plain();
    r.led.bytes.lock().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i >> 12) as u8);
    let mut c = r.open();
    for streams in [false, true] {
        c.front.streams.store(streams, Ordering::SeqCst);
        let whole =
            Request { tag: Tag { id: u64::from(streams), ..Tag::default() }, ..Request::new(Op::Read, 4096, 3 << 20) };
        let (buf, _) = c.io.buffer(3 << 20).unwrap();
        for (request, buf, part) in divide(whole, buf) {
            let payload = Payload { buf: Some(buf), load: None, part: Some(part) };
            let ready = Ready { request, payload, read_at: Duration::ZERO };
            assert!(c.io.submit(ready, false).unwrap().is_none(), "parts are the workers'");
        }
        c.front.ended(1 + usize::from(streams));
    }
    let told = c.front.told.state.lock();
    let read = |i: usize| told.ended[i].1.clone().unwrap();
    assert!(read(0) == r.led.bytes.lock()[4096..4096 + (3 << 20)]);
    assert!(read(1).is_empty(), "the parts had it");
    let mut parts = told.parts.clone();
    parts.sort_unstable();
    assert_eq!(parts, [4096, 1 << 20, 2 << 20, 3 << 20]);
    drop(told);
    let clients = vec![c];
    settled(&clients);
    r.end(clients);
}

#[test]
fn a_question_is_answered_by_the_front_on_a_worker() {
    let r = plain();
    let mut c = r.open();
    c.put(7, Request::new(Op::Query, 0, 4096), 0).unwrap();
    c.front.told.wait_for(|t| t.questions == [7]);
    let clients = vec![c];
    settled(&clients);
    r.end(clients);
}

#[test]
fn limits_are_the_volumes_and_changing_them_lets_who_waits_ask_again() {
    let r = plain();
    let (a, b) = (r.open(), r.open());
    let read = Request::new(Op::Read, 0, 1);
    assert_eq!(a.io.delay(&read), None);
    let scheduler = r.scheduler();
    scheduler.set_limits(100, 0);
    let begun = (0..30).take_while(|_| a.io.delay(&read).is_none()).count();
    assert_eq!(begun, 11);
    let delay = b.io.delay(&read).expect("the other connection has used it up");
    assert!(!b.io.has_changed(&delay));
    scheduler.set_limits(0, 0);
    assert!(b.io.has_changed(&delay) && b.io.delay(&read).is_none());
    drop(scheduler);
    r.end(vec![a, b]);
}

/// Two devices of one volume share a scheduler, which is dropped with the last connection.
#[test]
fn connections_of_one_volume_share_a_scheduler_whatever_front_they_came_by() {
    let r = plain();
    let (a, b) = (r.open(), r.open());
    assert_eq!(r.engine.schedulers.lock().len(), 1);
    let other = Rig { led: Led::new(None), engine: Arc::clone(&r.engine), clock: Arc::clone(&r.clock) };
    let c = other.open();
    assert_eq!(r.engine.schedulers.lock().len(), 2);
    assert_eq!(r.engine.connections(), 3);
    other.end(vec![a, b, c]);
    assert!(r.engine.connect(99, Arc::<Local>::default(), 0).is_none(), "no more than may be");
}
