//! Orders overlapping writes: they are applied as they were read, whatever connections they came by.
//!
//! A client that gets no reply resends its request, over another connection or a new one. The first copy may still be
//! here: queued, held, or in the middle of a `pwrite`. If it were applied after the second copy was answered, it could
//! undo a newer write. So every write is entered here before any of it is applied, and leaves when it is applied or
//! dropped; one that overlaps an earlier one waits until that leaves. All connections of a volume share one [`Order`].
//!
//! Unread requests in the socket of a client that hung up have no place yet, and must not get one after a request that
//! was answered meanwhile. So whoever has entered a write then checks for a hang-up, and drops the write if there was
//! one. Entering first makes this exact: a request that the client sent after the hang-up arrived either after the
//! write, and waits for it, or before it, and then the hang-up precedes the check. [`Watch`] saves the check while no
//! one else sent anything.
//!
//! Entering and leaving cost two uncontended locks; waiting takes no thread.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The writes of a volume that are not applied yet, and what waits for them.
pub(super) struct Order<T> {
    state: Mutex<OrderState<T>>,
    /// Number of requests that arrived, of any kind and connection.
    arrivals: AtomicU64,
}

struct OrderState<T> {
    next: u64,
    /// In the order they were read. Few: what one connection applies, and what the workers have.
    entries: Vec<Entry<T>>,
}

struct Entry<T> {
    number: u64,
    queue: u64,
    start: u64,
    end: u64,
    /// For a barrier: the connections whose writes it waits for.
    behind: Vec<u64>,
    /// Number of earlier entries that it waits for.
    before: usize,
    waiting: Option<T>,
}

impl<T> Entry<T> {
    const fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }

    /// Whether it must wait for an earlier one.
    fn follows(&self, earlier: &Self) -> bool {
        self.overlaps(earlier.start, earlier.end) || self.behind.contains(&earlier.queue)
    }
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { state: Mutex::new(OrderState { next: 0, entries: Vec::new() }), arrivals: AtomicU64::new(0) }
    }
}

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrderTicket {
    /// The number to leave by.
    pub(super) number: u64,
    /// There is nothing to wait for.
    pub(super) free: bool,
    /// Its arrival number, for [`Watch::has_company`].
    pub(super) arrival: u64,
}

/// Whether other connections of the volume have sent anything since this one checked for its client's hang-up.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The next arrival number, if no one else sends anything.
    next: Option<u64>,
}

impl Watch {
    /// Notes an arrival that changes nothing.
    pub(super) fn passed(&mut self, arrival: u64) {
        if self.next == Some(arrival) {
            self.next = Some(arrival + 1);
        }
    }

    /// Notes the arrival of a change. Returns true if others came in between: the caller must then check for a hang-up.
    pub(super) fn has_company(&mut self, arrival: u64) -> bool {
        self.next.replace(arrival + 1) != Some(arrival)
    }
}

impl<T> Order<T> {
    /// Enters a write of connection `queue`, after all that are here.
    pub(super) fn enter(&self, queue: u64, offset: u64, len: u64) -> OrderTicket {
        self.put(queue, (offset, offset.saturating_add(len)), Vec::new())
    }

    /// Enters a barrier: it writes nothing, and waits for all writes here of the connections `behind`.
    pub(super) fn enter_behind(&self, queue: u64, behind: Vec<u64>) -> OrderTicket {
        self.put(queue, (0, 0), behind)
    }

    fn put(&self, queue: u64, (start, end): (u64, u64), behind: Vec<u64>) -> OrderTicket {
        let mut state = self.state.lock();
        let number = state.next;
        let mut entry = Entry { number, queue, start, end, behind, before: 0, waiting: None };
        entry.before = state.entries.iter().filter(|e| entry.follows(e)).count();
        let free = entry.before == 0;
        state.next += 1;
        state.entries.push(entry);
        OrderTicket { number, free, arrival: self.arrive() }
    }

    /// Counts a request that needs no place; returns its arrival number.
    pub(super) fn arrive(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::SeqCst)
    }

    /// Returns the other connections that have entries here.
    pub(super) fn others(&self, queue: u64) -> Vec<u64> {
        let state = self.state.lock();
        let mut all: Vec<u64> = state.entries.iter().filter(|e| e.queue != queue).map(|e| e.queue).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Parks `what` until its turn. Returns it if its turn is now.
    pub(super) fn wait(&self, number: u64, what: T) -> Option<T> {
        let mut state = self.state.lock();
        match state.entries.iter_mut().find(|e| e.number == number) {
            Some(entry) if entry.before > 0 => {
                entry.waiting = Some(what);
                None
            }
            _ => Some(what),
        }
    }

    /// Removes a write that was applied or dropped; returns those whose turn it is now.
    pub(super) fn leave(&self, number: u64) -> Vec<T> {
        let mut state = self.state.lock();
        let Some(at) = state.entries.iter().position(|e| e.number == number) else { return Vec::new() };
        let gone = state.entries.remove(at);
        let mut ready = Vec::new();
        for entry in &mut state.entries[at..] {
            if entry.follows(&gone) {
                entry.before -= 1;
                if entry.before == 0 {
                    ready.extend(entry.waiting.take());
                }
            }
        }
        ready
    }

    /// Takes out what a connection has parked. Each still has its entry, and must leave.
    pub(super) fn cancel(&self, queue: u64) -> Vec<T> {
        let mut state = self.state.lock();
        state.entries.iter_mut().filter(|e| e.queue == queue).filter_map(|e| e.waiting.take()).collect()
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().entries.len()
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
