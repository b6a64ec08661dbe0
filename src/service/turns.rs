//! Turns: each volume is opened, closed, removed or resumed by one thread at a time. Waiting for the disk or key of one volume
//! does not delay the users of another.

use crate::units::VolumeId;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;

/// The volumes whose turn is taken.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<VolumeId>>,
    freed: Condvar,
}

/// The exclusive right to open, close, remove or resume a volume, held until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    id: VolumeId,
}

impl Turns {
    /// Takes the turn of a volume, waiting for it.
    pub(super) fn take(&self, id: VolumeId) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while !taken.insert(id) {
            self.freed.wait(&mut taken);
        }
        Turn { turns: self, id }
    }

    /// Takes the turn of a volume without waiting. `None`: another thread has it.
    pub(super) fn try_take(&self, id: VolumeId) -> Option<Turn<'_>> {
        let is_free = self.taken.lock().insert(id);
        is_free.then(|| Turn { turns: self, id })
    }
}

impl Turn<'_> {
    /// Returns the volume.
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
