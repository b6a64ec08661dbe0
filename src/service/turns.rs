//! Turns: each volume is opened, closed, removed or resumed by one thread at a time. Waiting for the disk or key of one volume
//! does not delay the users of another. Bases of volumes and lineages have turns of their own.

use crate::units::VolumeId;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::hash::Hash;

/// The volumes, or other things, whose turn is taken.
pub(super) struct Turns<K: Copy + Eq + Hash = VolumeId> {
    taken: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K: Copy + Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self { taken: Mutex::default(), freed: Condvar::new() }
    }
}

/// The exclusive right to open, close, remove or resume a volume, held until it is dropped.
pub(super) struct Turn<'a, K: Copy + Eq + Hash = VolumeId> {
    turns: &'a Turns<K>,
    id: K,
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// Takes the turn of a volume, waiting for it.
    pub(super) fn take(&self, id: K) -> Turn<'_, K> {
        let mut taken = self.taken.lock();
        while !taken.insert(id) {
            self.freed.wait(&mut taken);
        }
        Turn { turns: self, id }
    }

    /// Takes the turn of a volume without waiting. `None`: another thread has it.
    pub(super) fn try_take(&self, id: K) -> Option<Turn<'_, K>> {
        let is_free = self.taken.lock().insert(id);
        is_free.then(|| Turn { turns: self, id })
    }
}

impl<K: Copy + Eq + Hash> Turn<'_, K> {
    /// Returns the volume.
    pub(super) const fn id(&self) -> K {
        self.id
    }
}

impl<K: Copy + Eq + Hash> Drop for Turn<'_, K> {
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
