//! One at a time for each volume: opening, closing, removing and resuming it. Waiting for one volume's disk or key delays
//! nobody who uses another.

use crate::units::VolumeId;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;

/// The volumes that somebody opens, closes or removes now.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<VolumeId>>,
    freed: Condvar,
}

/// The right to open, close or remove a volume, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    id: VolumeId,
}

impl Turns {
    /// Waits for a volume's turn.
    pub(super) fn take(&self, id: VolumeId) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while !taken.insert(id) {
            self.freed.wait(&mut taken);
        }
        Turn { turns: self, id }
    }

    /// The same without waiting; `None`: somebody else has it.
    pub(super) fn try_take(&self, id: VolumeId) -> Option<Turn<'_>> {
        let is_free = self.taken.lock().insert(id);
        is_free.then(|| Turn { turns: self, id })
    }
}

impl Turn<'_> {
    /// The volume.
    pub(super) const fn id(&self) -> VolumeId {
        self.id
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.id);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;

    #[test]
    fn a_volume_has_one_turn_at_a_time_and_others_have_their_own() {
        let turns = Turns::default();
        let (a, b) = (VolumeId::draw(&SystemRng), VolumeId::draw(&SystemRng));
        let first = turns.take(a);
        assert!(turns.try_take(a).is_none());
        assert_eq!(turns.take(b).id(), b);
        std::thread::scope(|all| {
            let second = all.spawn(|| turns.take(a).id());
            drop(first);
            assert_eq!(second.join().unwrap(), a);
        });
        assert!(turns.try_take(a).is_some());
    }
}
