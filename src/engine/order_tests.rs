use super::*;
use crate::volume::testing::Seeded;
use std::collections::BTreeMap;

#[test]
fn what_overlaps_waits_and_what_does_not_goes() {
    let order = Order::<&str>::default();
    let a = order.enter(1, 0, 10);
    let (b, c, d) = (order.enter(2, 5, 10), order.enter(1, 10, 5), order.enter(3, 20, 5));
    assert_eq!([a, b, c, d].map(|p| p.free), [true, false, false, true]);
    assert_eq!(order.wait(b.number, "b"), None);
    assert_eq!(order.wait(c.number, "c"), None);
    assert_eq!(order.wait(d.number, "d"), Some("d"));
    assert_eq!(order.leave(a.number), ["b"]);
    assert_eq!(order.leave(b.number), ["c"]);
    assert_eq!(order.leave(b.number), [""; 0], "it has left already");
    assert!(order.leave(c.number).is_empty() && order.leave(d.number).is_empty());
    assert_eq!(order.len(), 0);
}

#[test]
fn a_turn_that_came_before_the_waiting_is_given_back() {
    let order = Order::<()>::default();
    let (a, b) = (order.enter(1, 0, 1), order.enter(1, 0, 1));
    assert!(order.leave(a.number).is_empty(), "b does not wait yet");
    assert_eq!(order.wait(b.number, ()), Some(()));
}

#[test]
fn what_is_dropped_makes_way() {
    let order = Order::<u32>::default();
    let (a, b, c) = (order.enter(1, 0, 4), order.enter(2, 0, 4), order.enter(3, 0, 4));
    assert!(order.wait(b.number, 2).is_none() && order.wait(c.number, 3).is_none());
    assert_eq!(order.cancel(2), [2]);
    assert!(order.leave(b.number).is_empty(), "c waits for a, too");
    assert_eq!(order.leave(a.number), [3]);
}

#[test]
fn a_barrier_waits_for_some_connections_and_nobody_waits_for_it() {
    let order = Order::<&str>::default();
    let (a, b) = (order.enter(1, 0, 4), order.enter(2, 4, 4));
    assert_eq!(order.others(3), [1, 2]);
    assert_eq!(order.others(1), [2]);
    let barrier = order.enter_behind(3, vec![1]);
    assert!(!barrier.free && order.wait(barrier.number, "barrier").is_none());
    let later = order.enter(1, 8, 4);
    assert!(later.free, "it writes nothing");
    assert!(order.leave(b.number).is_empty());
    assert!(order.leave(later.number).is_empty(), "it came later");
    assert_eq!(order.leave(a.number), ["barrier"]);
    assert!(order.enter_behind(3, vec![2]).free);
}

/// A client's connection in the model of hang-ups.
#[derive(Default)]
struct Line {
    /// Sent and not yet read, with the time of sending.
    socket: Vec<(u64, usize, usize)>,
    closed: Option<u64>,
    dead: bool,
    watch: Watch,
}

/// In any schedule of connections that send, hang up, are read and applied: nothing that a client sent before it hung
/// up is applied once a request was answered that it sent afterwards.
#[test]
fn what_a_client_left_behind_is_never_applied_after_a_newer_answer() {
    const BYTES: u64 = 12;
    const LINES: u64 = 4;
    let (mut dropped, mut waited) = (0, 0);
    for seed in 1..=3000 {
        let mut rng = Seeded(seed);
        let order = Order::<u64>::default();
        let mut lines: Vec<Line> = (0..LINES).map(|_| Line::default()).collect();
        // Entered: connection, when it was sent, bytes. Then the times at which the newest answered write of each byte
        // was sent.
        let mut entered = BTreeMap::<u64, (usize, u64, usize, usize)>::new();
        let (mut ready, mut answered) = (Vec::<u64>::new(), vec![0u64; BYTES as usize]);
        for now in 1..400u64 {
            let n = rng.below(LINES) as usize;
            match rng.below(8) {
                0 | 1 if lines[n].closed.is_none() => {
                    let (start, len) = (rng.below(BYTES - 1), 1 + rng.below(4));
                    lines[n].socket.push((now, start as usize, (start + len).min(BYTES) as usize));
                }
                2 if rng.below(6) == 0 => lines[n].closed = lines[n].closed.or(Some(now)),
                // The server reads a request: place first, then the check.
                3 | 4 if !lines[n].dead && !lines[n].socket.is_empty() => {
                    let (sent, start, end) = lines[n].socket.remove(0);
                    let place = order.enter(n as u64, start as u64, (end - start) as u64);
                    if lines[n].watch.has_company(place.arrival) && lines[n].closed.is_some() {
                        lines[n].dead = true;
                        dropped += 1;
                        ready.extend(order.leave(place.number));
                        continue;
                    }
                    entered.insert(place.number, (n, sent, start, end));
                    if place.free {
                        ready.push(place.number);
                    } else {
                        waited += 1;
                        ready.extend(order.wait(place.number, place.number));
                    }
                }
                _ if !ready.is_empty() => {
                    let number = ready.swap_remove(rng.below(ready.len() as u64) as usize);
                    let (line, sent, start, end) = entered[&number];
                    for newest in &mut answered[start..end] {
                        let closed = lines[line].closed.unwrap_or(u64::MAX);
                        assert!(*newest < closed, "seed {seed}: sent at {sent}, closed at {closed}, after {newest}");
                        *newest = (*newest).max(sent);
                    }
                    ready.extend(order.leave(number));
                }
                _ => {}
            }
        }
    }
    assert!(dropped > 1000 && waited > 1000, "{dropped} {waited}: the schedules do not come to the point");
}

/// A write of the model: what it is, and whether it is applied.
#[derive(Clone, Copy)]
struct Write {
    queue: u64,
    start: usize,
    end: usize,
}

/// In any schedule of arrivals, applications and lost connections: each byte is written by the applied writes in the
/// order in which they arrived, and no write is left over.
#[test]
fn overlapping_writes_are_applied_in_order_in_any_schedule() {
    const BYTES: u64 = 24;
    for seed in 1..=2000 {
        let mut rng = Seeded(seed);
        let order = Order::<u64>::default();
        let mut all = BTreeMap::<u64, Write>::new();
        // What may be applied now, by workers in any order; the numbers last applied to each byte.
        let (mut ready, mut last) = (Vec::<u64>::new(), vec![None; BYTES as usize]);
        let (mut arrived, mut gone) = (0, 0);
        while gone < 60 {
            let step = rng.below(10);
            if step < 5 && arrived < 60 {
                let (start, len) = (rng.below(BYTES - 1), 1 + rng.below(6));
                let end = (start + len).min(BYTES);
                let queue = rng.below(3);
                let place = order.enter(queue, start, end - start);
                all.insert(place.number, Write { queue, start: start as usize, end: end as usize });
                arrived += 1;
                if place.free {
                    ready.push(place.number);
                } else {
                    ready.extend(order.wait(place.number, place.number));
                }
            } else if step == 5 {
                // A connection is lost: its requests that have not begun are dropped.
                let queue = rng.below(3);
                let queued: Vec<u64> = ready.iter().copied().filter(|n| all[n].queue == queue).collect();
                ready.retain(|n| all[n].queue != queue);
                for number in queued.into_iter().chain(order.cancel(queue)) {
                    ready.extend(order.leave(number));
                    gone += 1;
                }
            } else if !ready.is_empty() {
                let number = ready.swap_remove(rng.below(ready.len() as u64) as usize);
                let write = all[&number];
                for byte in &mut last[write.start..write.end] {
                    assert!(*byte < Some(number), "seed {seed}: {number} is applied after {byte:?}");
                    *byte = Some(number);
                }
                ready.extend(order.leave(number));
                gone += 1;
            }
        }
        assert_eq!(order.len(), 0, "seed {seed}");
    }
}
