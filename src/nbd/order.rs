//! Writes that overlap are applied in the order in which they were read, whatever connections they came by.
//!
//! A client that gets no answer sends its request again, by another connection or by a new one. The first copy may lie here
//! still: queued, held, or in the middle of a `pwrite`. Were it applied after the second copy was answered, it could undo a
//! newer write. So every write is entered here before anything of it is applied, and leaves when it is applied or dropped;
//! one that overlaps an earlier one waits for that to leave. All connections of a volume share one [`Order`].
//!
//! Entering and leaving cost two uncontended locks; what waits does so without a thread.

use parking_lot::Mutex;

/// The writes of a volume that are not applied yet, and what waits for them.
pub(super) struct Order<T>(Mutex<State<T>>);

struct State<T> {
    next: u64,
    /// In the order they were read. Few: what one connection applies, and what the workers have.
    entries: Vec<Entry<T>>,
}

struct Entry<T> {
    number: u64,
    link: u64,
    start: u64,
    end: u64,
    /// Earlier entries that overlap it.
    before: usize,
    waiting: Option<T>,
}

impl<T> Entry<T> {
    const fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self(Mutex::new(State { next: 0, entries: Vec::new() }))
    }
}

/// What [`Order::enter`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The name to leave by.
    pub(super) number: u64,
    /// Nothing has to be waited for.
    pub(super) free: bool,
}

impl<T> Order<T> {
    /// Enters a write of connection `link`, behind all that are here.
    pub(super) fn enter(&self, link: u64, offset: u64, len: u64) -> Place {
        let mut state = self.0.lock();
        let (start, end) = (offset, offset.saturating_add(len));
        let before = state.entries.iter().filter(|e| e.overlaps(start, end)).count();
        let number = state.next;
        state.next += 1;
        state.entries.push(Entry { number, link, start, end, before, waiting: None });
        Place { number, free: before == 0 }
    }

    /// Lets `what` wait for its turn; given back: its turn is now.
    pub(super) fn wait(&self, number: u64, what: T) -> Option<T> {
        let mut state = self.0.lock();
        match state.entries.iter_mut().find(|e| e.number == number) {
            Some(entry) if entry.before > 0 => {
                entry.waiting = Some(what);
                None
            }
            _ => Some(what),
        }
    }

    /// A write is applied or dropped; those whose turn is now.
    pub(super) fn leave(&self, number: u64) -> Vec<T> {
        let mut state = self.0.lock();
        let Some(at) = state.entries.iter().position(|e| e.number == number) else { return Vec::new() };
        let gone = state.entries.remove(at);
        let mut ready = Vec::new();
        for entry in &mut state.entries[at..] {
            if entry.overlaps(gone.start, gone.end) {
                entry.before -= 1;
                if entry.before == 0 {
                    ready.extend(entry.waiting.take());
                }
            }
        }
        ready
    }

    /// Takes out what waits of a connection. Each has its entry still, and is to leave.
    pub(super) fn cancel(&self, link: u64) -> Vec<T> {
        let mut state = self.0.lock();
        state.entries.iter_mut().filter(|e| e.link == link).filter_map(|e| e.waiting.take()).collect()
    }

    /// Writes that are here.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
