//! The payload memory of a server: one budget, and the pool of buffers it is spent on.
//!
//! Every payload, in or out, is in a [`Buf`] from here until its reply is sent. When the budget is spent, connections
//! stop reading their sockets. It is fair: one client, with all its connections to a volume, gets at most three
//! quarters, and waiting connections are served in the order they came.
//!
//! It cannot deadlock: a connection that holds nothing may exceed the budget, so that each can finish a request
//! whatever slow readers hold. It always gets a `SMALL` buffer; a larger one only while that fits into a reserve of
//! twice the budget or twice `LARGEST`, and while its client exceeds its share by at most one `LARGEST`. So all
//! connections together hold at most budget, reserve and one small buffer each. A connection that holds buffers and
//! waits can release them as soon as its client reads and sends; one on which neither happens while others wait for the
//! reserve is ended (see [`super::Queue`]).

use crate::sys::{Pages, PagesPart};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Alignment of buffers, and size of the smallest one, in bytes.
pub const ALIGN: usize = 4096;
/// Size classes: 4 KiB, 8 KiB, … 32 MiB.
const CLASSES: usize = 14;
/// Size of the largest buffer, in bytes.
const LARGEST: usize = ALIGN << (CLASSES - 1);
/// Buffer size that a connection holding nothing always gets, in bytes.
const SMALL: usize = 64 * 1024;

/// The budget of one server.
pub struct Budget {
    total: usize,
    state: Mutex<BudgetState>,
}

struct BudgetState {
    used: usize,
    /// Connections that hold something and want more.
    waiting: VecDeque<Arc<BudgetShare>>,
    /// Connections that hold nothing and want more than the reserve has.
    starving: VecDeque<Arc<BudgetShare>>,
    free: [Vec<Pages>; CLASSES],
    /// Bytes in `free`.
    idle: usize,
}

impl BudgetState {
    /// Frees idle buffers, from the class with the most bytes first, until idle and used ones are within the budget:
    /// memory follows the sizes in demand.
    fn make_room(&mut self, total: usize) -> Vec<Pages> {
        let mut surplus = Vec::new();
        while self.used + self.idle > total {
            let most = (0..CLASSES).max_by_key(|c| self.free[*c].len() << c);
            let Some((class, memory)) = most.and_then(|c| Some((c, self.free[c].pop()?))) else { break };
            self.idle -= ALIGN << class;
            surplus.push(memory);
        }
        surplus
    }

    /// Moves a holder to the queue `to`, keeping its place if it is there, or out of both. Returns whether it left one.
    fn line_up(&mut self, holder: &Arc<BudgetShare>, to: Option<Queue>) -> bool {
        let before = self.waiting.len() + self.starving.len();
        let mut came = 0;
        for (queue, name) in [(&mut self.waiting, Queue::Waiting), (&mut self.starving, Queue::Starving)] {
            if to != Some(name) {
                queue.retain(|other| !Arc::ptr_eq(other, holder));
            } else if !queue.iter().any(|other| Arc::ptr_eq(other, holder)) {
                queue.push_back(Arc::clone(holder));
                came = 1;
            }
        }
        self.waiting.len() + self.starving.len() < before + came
    }

    /// Returns the heads of both queues.
    fn first(&self) -> [Option<Arc<BudgetShare>>; 2] {
        [self.waiting.front().cloned(), self.starving.front().cloned()]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Waiting,
    Starving,
}

fn wake(holders: [Option<Arc<BudgetShare>>; 2]) {
    holders.into_iter().flatten().for_each(|holder| (holder.wake)());
}

/// A connection's account with the budget.
pub struct BudgetShare {
    budget: Arc<Budget>,
    held: AtomicUsize,
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Its client's account, once that is known.
    share: OnceLock<Arc<Share>>,
}

/// What all connections of one client hold together. Changed only under the budget's lock.
#[derive(Default)]
pub struct Share {
    held: AtomicUsize,
    /// Connections that wait for others of the same client.
    waiting: Mutex<Vec<Arc<BudgetShare>>>,
}

impl Budget {
    /// Makes a budget of `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        let (waiting, starving) = (VecDeque::new(), VecDeque::new());
        let state = BudgetState { used: 0, waiting, starving, free: Default::default(), idle: 0 };
        Arc::new(Self { total, state: Mutex::new(state) })
    }

    /// Opens an account for a connection; `wake` is called when a refused [`BudgetShare::take`] may succeed.
    pub fn join(self: &Arc<Self>, wake: impl Fn() + Send + Sync + 'static) -> Arc<BudgetShare> {
        Arc::new(BudgetShare {
            budget: Arc::clone(self),
            held: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            wake: Box::new(wake),
            share: OnceLock::new(),
        })
    }

    /// Returns the bytes now held by requests and replies.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    /// Whether a connection that holds nothing is waiting.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.state.lock().starving.is_empty()
    }

    /// Returns how far connections that hold nothing may exceed the budget with buffers that are not small.
    fn reserve(&self) -> usize {
        2 * self.total.max(LARGEST)
    }

    /// Returns the limit of one client, for connections that hold something already.
    const fn share(&self) -> usize {
        self.total - self.total / 4
    }
}

/// Returns the class of a buffer of `len` bytes, and the class's size. Callers never ask for more than the last class.
const fn class(len: usize) -> (usize, usize) {
    let mut class = 0;
    while class + 1 < CLASSES && (ALIGN << class) < len {
        class += 1;
    }
    (class, ALIGN << class)
}

impl BudgetShare {
    /// Counts what it holds as its client's from now on. Call it while it holds nothing.
    pub fn join(&self, share: &Arc<Share>) {
        let _ = self.share.set(Arc::clone(share));
    }

    /// Returns the bytes held by its client.
    fn held_by_client(&self) -> usize {
        self.share.get().map_or(&self.held, |s| &s.held).load(Ordering::Relaxed)
    }

    /// Takes a buffer of `len` bytes (at most 32 MiB). `None`: stop reading until woken. Its contents are undefined.
    pub fn take(self: &Arc<Self>, len: usize) -> Option<Buf> {
        let (class, bytes) = class(len);
        let len = len.min(bytes);
        let budget = &self.budget;
        let mut state = budget.state.lock();
        let held = self.held.load(Ordering::Relaxed);
        let (share, all, queue) = match held {
            0 => (budget.share() + LARGEST, budget.total + budget.reserve(), Queue::Starving),
            _ => (budget.share(), budget.total, Queue::Waiting),
        };
        let within_share = self.held_by_client() + bytes <= share;
        let [first_waiting, first_starving] = [state.waiting.front(), state.starving.front()];
        let first = if queue == Queue::Waiting { first_waiting } else { first_starving };
        let my_turn = first.is_none_or(|first| Arc::ptr_eq(first, self));
        let fits = state.used + bytes <= all && within_share && my_turn;
        if !(fits || (held == 0 && bytes <= SMALL)) {
            self.waiting.store(true, Ordering::Relaxed);
            // A client that has used up its share waits for itself, and must not block others.
            let moved = state.line_up(self, within_share.then_some(queue));
            if let Some(share) = self.share.get().filter(|_| !within_share) {
                let mut waiting = share.waiting.lock();
                if !waiting.iter().any(|other| Arc::ptr_eq(other, self)) {
                    waiting.push(Arc::clone(self));
                }
            }
            // Leaving a queue may have put another holder at its head.
            let next = moved.then(|| state.first().map(|first| first.filter(|first| !Arc::ptr_eq(first, self))));
            drop(state);
            wake(next.unwrap_or_default());
            return None;
        }
        let waited = self.waiting.swap(false, Ordering::Relaxed);
        if waited {
            state.line_up(self, None);
        }
        state.used += bytes;
        self.held.store(held + bytes, Ordering::Relaxed);
        if let Some(share) = self.share.get() {
            share.held.fetch_add(bytes, Ordering::Relaxed);
        }
        let memory = state.free[class].pop();
        let mut surplus = Vec::new();
        if memory.is_some() {
            state.idle -= bytes;
        } else {
            surplus = state.make_room(budget.total);
        }
        // The next in line may fit too; otherwise it would wait for another release.
        let next = waited.then(|| state.first());
        drop(state);
        drop(surplus);
        wake(next.unwrap_or_default());
        let memory = memory.unwrap_or_else(|| Pages::zeroed(bytes));
        Some(Buf { memory: Memory::Whole(memory), len, class, holder: Arc::clone(self) })
    }

    /// Returns the bytes that this connection holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Leaves the queues, when the connection ends.
    pub fn leave(self: &Arc<Self>) {
        let mut state = self.budget.state.lock();
        state.line_up(self, None);
        self.waiting.store(false, Ordering::Relaxed);
        if let Some(share) = self.share.get() {
            share.waiting.lock().retain(|other| !Arc::ptr_eq(other, self));
        }
        let next = state.first();
        drop(state);
        wake(next);
    }
}

/// A buffer aligned to [`ALIGN`], or a part of one. Dropping it, or its last part, returns it to the pool and its bytes
/// to the budget.
pub struct Buf {
    memory: Memory,
    len: usize,
    class: usize,
    holder: Arc<BudgetShare>,
}

enum Memory {
    Whole(Pages),
    Part(PagesPart),
    /// It was split or dropped.
    Gone,
}

impl Buf {
    /// Splits it into parts of these lengths, in order, for several threads.
    #[must_use]
    pub fn split(mut self, lens: impl Iterator<Item = usize>) -> Vec<Self> {
        let Memory::Whole(pages) = std::mem::replace(&mut self.memory, Memory::Gone) else { return Vec::new() };
        let (class, holder) = (self.class, Arc::clone(&self.holder));
        let of =
            |part: PagesPart| Self { len: part.len(), memory: Memory::Part(part), class, holder: Arc::clone(&holder) };
        pages.split(lens).into_iter().map(of).collect()
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Whole(pages) => &pages[..self.len],
            Memory::Part(part) => part,
            Memory::Gone => &[],
        }
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Whole(pages) => &mut pages[..self.len],
            Memory::Part(part) => part,
            Memory::Gone => &mut [],
        }
    }
}

impl std::fmt::Debug for Buf {
    /// Shows only its length: the bytes are a client's plaintext.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buf").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let memory = match std::mem::replace(&mut self.memory, Memory::Gone) {
            Memory::Whole(pages) => Some(pages),
            Memory::Part(part) => part.give_up(),
            Memory::Gone => None,
        };
        let Some(memory) = memory else { return };
        let bytes = ALIGN << self.class;
        let budget = &self.holder.budget;
        let mut state = budget.state.lock();
        state.used -= bytes;
        let held = self.holder.held.load(Ordering::Relaxed) - bytes;
        self.holder.held.store(held, Ordering::Relaxed);
        let mut siblings = Vec::new();
        if let Some(share) = self.holder.share.get() {
            share.held.fetch_sub(bytes, Ordering::Relaxed);
            siblings = std::mem::take(&mut *share.waiting.lock());
        }
        state.idle += bytes;
        state.free[self.class].push(memory);
        let surplus = state.make_room(budget.total);
        let first = state.first();
        drop(state);
        drop(surplus);
        // The heads of the queues may now fit, and so may this connection, if it held its share or holds nothing now.
        wake(first);
        siblings.iter().for_each(|sibling| (sibling.wake)());
        if self.holder.waiting.load(Ordering::Relaxed) {
            (self.holder.wake)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::testing::Seeded;

    fn counted(budget: &Arc<Budget>) -> (Arc<BudgetShare>, Arc<AtomicUsize>) {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        (budget.join(wake), woken)
    }

    #[test]
    fn buffers_are_aligned_reused_and_given_back() {
        let budget = Budget::new(1 << 20);
        let (a, _) = counted(&budget);
        let mut buf = a.take(5000).unwrap();
        assert_eq!((buf.len(), buf.as_ptr() as usize % ALIGN, budget.used()), (5000, 0, 8192));
        buf[4999] = 7;
        let address = buf.as_ptr();
        drop(buf);
        assert_eq!((budget.used(), a.held()), (0, 0));
        assert_eq!(a.take(8192).unwrap().as_ptr(), address);
    }

    #[test]
    fn idle_buffers_make_room_for_the_sizes_that_are_asked_for() {
        let budget = Budget::new(64 * 1024);
        let (a, _) = counted(&budget);
        let small: Vec<Buf> = (0..12).map(|_| a.take(4096).unwrap()).collect();
        drop(small);
        assert_eq!(budget.state.lock().idle, 48 * 1024);
        let large = a.take(32 * 1024).unwrap();
        assert_eq!(budget.state.lock().idle, 32 * 1024, "no more than the budget is there");
        let address = large.as_ptr();
        drop(large);
        assert_eq!(a.take(32 * 1024).unwrap().as_ptr(), address);
        drop(a.take(64 * 1024).unwrap());
        let state = budget.state.lock();
        assert_eq!((state.idle, state.free[4].len()), (64 * 1024, 1), "all of it is of the last size");
    }

    #[test]
    fn parts_count_until_the_last_of_them_is_dropped() {
        let budget = Budget::new(1 << 20);
        let (a, _) = counted(&budget);
        let buf = a.take(10_000).unwrap();
        let address = buf.as_ptr();
        let mut parts = buf.split([4096, 5904].into_iter());
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [4096, 5904]);
        assert_eq!((parts[0].as_ptr(), parts[1].as_ptr() as usize), (address, address as usize + 4096));
        parts.iter_mut().for_each(|p| p.fill(7));
        drop(parts.remove(0));
        assert_eq!((budget.used(), a.held()), (16384, 16384));
        drop(parts);
        assert_eq!((budget.used(), a.held()), (0, 0));
        assert_eq!(a.take(16384).unwrap().as_ptr(), address, "the whole is used again");
    }

    #[test]
    fn who_holds_nothing_is_always_served_and_who_holds_waits() {
        let budget = Budget::new(64 * 1024);
        let (a, woken) = counted(&budget);
        let (b, _) = counted(&budget);
        let first = a.take(40 * 1024).unwrap();
        assert_eq!(budget.used(), 64 * 1024);
        assert!(a.take(4096).is_none(), "it holds its share");
        let other = b.take(64 * 1024).unwrap();
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        drop(first);
        assert!(woken.load(Ordering::SeqCst) > 0);
        drop(other);
        assert!(a.take(4096).is_some());
    }

    #[test]
    fn those_who_wait_are_served_in_order() {
        let budget = Budget::new(64 * 1024);
        let (a, woken_a) = counted(&budget);
        let (b, _) = counted(&budget);
        let (hog, _) = counted(&budget);
        let (_a, _b) = (a.take(4096).unwrap(), b.take(4096).unwrap());
        let big = hog.take(56 * 1024).unwrap();
        assert!(a.take(32 * 1024).is_none());
        assert!(b.take(4096).is_none(), "a came first");
        drop(big);
        assert!(woken_a.load(Ordering::SeqCst) > 0);
        assert!(b.take(4096).is_none(), "a has not had its turn");
        assert!(a.take(32 * 1024).is_some());
        assert!(b.take(4096).is_some());
    }

    #[test]
    fn one_client_gets_three_quarters_with_all_its_connections() {
        let budget = Budget::new(64 * 1024);
        let client = Arc::<Share>::default();
        let ((a, _), (b, woken), (other, _)) = (counted(&budget), counted(&budget), counted(&budget));
        a.join(&client);
        b.join(&client);
        let first = a.take(32 * 1024).unwrap();
        let _small = b.take(4096).unwrap();
        assert!(b.take(16 * 1024).is_none(), "48 KiB are the client's share");
        let _others = (other.take(4096).unwrap(), other.take(16 * 1024).unwrap());
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        drop(first);
        assert!(woken.load(Ordering::SeqCst) > 0, "the other connection made room");
        assert!(b.take(16 * 1024).is_some());
    }

    #[test]
    fn a_thousand_connections_that_hold_nothing_stay_within_the_reserve() {
        let budget = Budget::new(48 << 20);
        let bound = (48 << 20) + budget.reserve() + 1024 * SMALL;
        let all: Vec<_> = (0..1024).map(|_| counted(&budget)).collect();
        let large: Vec<Buf> = all.iter().filter_map(|(holder, _)| holder.take(LARGEST)).collect();
        assert_eq!(large.len(), ((48 << 20) + budget.reserve()) / LARGEST);
        assert!(budget.is_short());
        let small: Vec<Buf> = all.iter().skip(large.len()).map(|(holder, _)| holder.take(SMALL).unwrap()).collect();
        assert!(budget.used() <= bound, "{}", budget.used());
        drop((large, small));
    }

    #[test]
    fn one_client_leaves_others_room_in_the_reserve() {
        let budget = Budget::new(48 << 20);
        let greedy = Arc::<Share>::default();
        let many: Vec<_> = (0..16).map(|_| counted(&budget)).collect();
        many.iter().for_each(|(holder, _)| holder.join(&greedy));
        let mut taken: Vec<Buf> = many.iter().filter_map(|(holder, _)| holder.take(LARGEST)).collect();
        assert_eq!(taken.len(), 2);
        assert!(!budget.is_short(), "it waits for itself");
        let (other, _) = counted(&budget);
        assert!(other.take(LARGEST).is_some());
        taken.pop();
        let woken = many.iter().filter(|(_, woken)| woken.load(Ordering::SeqCst) > 0).count();
        assert_eq!(woken, 14, "all that wait for their siblings");
        assert!(many[9].0.take(LARGEST).is_some());
    }

    /// A connection of the model: what it holds, and what it waits for until it is woken.
    struct Model {
        holder: Arc<BudgetShare>,
        woken: Arc<AtomicUsize>,
        held: Vec<Buf>,
        wants: Option<usize>,
        asked_at: usize,
    }

    impl Model {
        fn ask(&mut self, bytes: usize) {
            self.asked_at = self.woken.load(Ordering::SeqCst);
            match self.holder.take(bytes) {
                Some(buf) => {
                    self.wants = None;
                    self.held.push(buf);
                }
                None => self.wants = Some(bytes),
            }
        }

        fn was_woken(&self) -> bool {
            self.wants.is_some() && self.woken.load(Ordering::SeqCst) > self.asked_at
        }
    }

    /// In any schedule of requests and replies memory stays bounded, and once replies are sent everyone who waits is
    /// woken and gets its buffer: there is no circular wait.
    #[test]
    fn memory_is_bounded_and_everybody_gets_its_turn_in_any_schedule() {
        const TOTAL: usize = 8 << 20;
        for seed in 1..=40 {
            let mut rng = Seeded(seed);
            let budget = Budget::new(TOTAL);
            let shares: Vec<Arc<Share>> = (0..4).map(|_| Arc::default()).collect();
            let mut all: Vec<Model> = (0..24)
                .map(|_| {
                    let (holder, woken) = counted(&budget);
                    holder.join(&shares[rng.below(4) as usize]);
                    Model { holder, woken, held: Vec::new(), wants: None, asked_at: 0 }
                })
                .collect();
            let bound = TOTAL + budget.reserve() + all.len() * SMALL;
            for step in 0..600 {
                let n = rng.below(24) as usize;
                let one = &mut all[n];
                match rng.below(4) {
                    _ if one.was_woken() => one.ask(one.wants.unwrap_or(1)),
                    0 if !one.held.is_empty() => drop(one.held.swap_remove(0)),
                    _ if one.wants.is_none() => one.ask(1 << rng.below(26)),
                    _ => {}
                }
                assert!(budget.used() <= bound, "seed {seed} step {step}: {}", budget.used());
            }
            // From now on replies are sent and no one takes more.
            for _ in 0..20_000 {
                let Some(one) = all.iter_mut().find(|one| one.was_woken() || !one.held.is_empty()) else { break };
                match one.wants.filter(|_| one.was_woken()) {
                    Some(bytes) => one.ask(bytes),
                    None => one.held.clear(),
                }
            }
            assert!(all.iter().all(|one| one.wants.is_none()), "seed {seed}: somebody waits for ever");
            assert_eq!(budget.used(), 0, "seed {seed}");
        }
    }

    #[test]
    fn who_leaves_the_queue_blocks_nobody() {
        let budget = Budget::new(64 * 1024);
        let (a, _) = counted(&budget);
        let (b, woken) = counted(&budget);
        let (_a, _b) = (a.take(4096).unwrap(), b.take(4096).unwrap());
        let (hog, _) = counted(&budget);
        let _big = hog.take(32 * 1024).unwrap();
        assert!(a.take(32 * 1024).is_none());
        assert!(b.take(4096).is_none(), "a came first");
        a.leave();
        assert!(woken.load(Ordering::SeqCst) > 0);
        assert!(b.take(4096).is_some());
    }
}
