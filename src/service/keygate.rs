//! The gate between unwrapping a data key and using it, which closes when a CMK becomes unusable.
//!
//! Before unwrapping keys, take a [`Ticket`]; show it when putting the ciphers in place, under the lock that wiping them also
//! takes. To take a key away, close the gate first, then wipe the ciphers that are in place. A key that was unwrapped before its
//! CMK was disabled, and would be put in place after everything was wiped, is thereby refused.

use crate::cipher::xts::XtsCipher;
use crate::error::{Error, Kind, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Weak;

/// A moment before keys were unwrapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

/// When each key was last closed, and the holders of ciphers besides the open volumes.
#[derive(Default)]
pub(super) struct KeyGate {
    closed: Mutex<Closed>,
    holders: Mutex<Vec<Weak<dyn KeyHolder>>>,
}

#[derive(Default)]
struct Closed {
    moment: u64,
    /// The moment of the last close, by the ARN of a CMK or the id of a volume.
    last: HashMap<String, u64>,
}

impl KeyGate {
    /// Takes a ticket for keys that are unwrapped after this moment.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.closed.lock().moment)
    }

    /// Bars keys that were unwrapped before this moment under `name` (the ARN of a CMK, or the id of a volume) from being put in
    /// place.
    pub(super) fn close(&self, name: &str) {
        let mut closed = self.closed.lock();
        closed.moment += 1;
        let moment = closed.moment;
        closed.last.insert(name.to_owned(), moment);
    }

    /// Checks that keys which were unwrapped after the ticket was taken may be put in place.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if one of `names` was closed since.
    pub(super) fn admit<'a>(&self, ticket: Ticket, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let closed = self.closed.lock();
        match names.into_iter().find(|n| closed.last.get(*n).is_some_and(|at| *at > ticket.0)) {
            None => Ok(()),
            Some(name) => Err(Error::new(Kind::KeyUnavailable, format!("{name} was disabled or suspended meanwhile"))
                .hint("enable the CMK, or resume the volume, then try again")),
        }
    }

    /// Registers `holder` to be wiped when one of its CMKs becomes unusable.
    pub(super) fn register(&self, holder: Weak<dyn KeyHolder>) {
        let mut holders = self.holders.lock();
        holders.retain(|h| h.strong_count() > 0);
        holders.push(holder);
    }

    /// Wipes the ciphers of all holders under a CMK. Returns when none of those ciphers is in use.
    pub(super) fn wipe(&self, arn: &str) {
        let all: Vec<_> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().filter(|h| h.cmks().iter().any(|c| c == arn)).for_each(|h| h.wipe());
    }
}

/// A holder of ciphers that must be wiped when a CMK becomes unusable.
pub(super) trait KeyHolder: Send + Sync {
    /// Returns the ARNs of the CMKs that wrap its data keys, as the blobs name them.
    fn cmks(&self) -> &[String];
    /// Wipes the ciphers; waits for their users.
    fn wipe(&self);
}

/// Ciphers by the name `I` of their data key, and the CMKs that wrap those keys.
pub(super) struct HeldCiphers<I> {
    cmks: Vec<String>,
    ciphers: RwLock<Option<Vec<(I, XtsCipher)>>>,
}

impl<I: PartialEq> HeldCiphers<I> {
    /// Creates a holder without ciphers.
    pub(super) const fn new(cmks: Vec<String>) -> Self {
        Self { cmks, ciphers: RwLock::new(None) }
    }

    /// Puts ciphers in place if there are none.
    ///
    /// # Errors
    /// The errors of [`KeyGate::admit`].
    pub(super) fn put(&self, gate: &KeyGate, ticket: Ticket, make: impl FnOnce() -> Vec<(I, XtsCipher)>) -> Result<()> {
        let mut ciphers = self.ciphers.write();
        gate.admit(ticket, self.cmks.iter().map(String::as_str))?;
        if ciphers.is_none() {
            *ciphers = Some(make());
        }
        Ok(())
    }

    /// Refuses an operation that requires the key without using it: even the zeros of a hole are not read without the key.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] once the ciphers are wiped.
    pub(super) fn must_be_there(&self) -> Result<()> {
        if self.ciphers.read().is_some() { Ok(()) } else { Err(wiped()) }
    }

    /// Runs `act` with the cipher of a data key; wiping waits for it. `act` gets `None` if no cipher has that name.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] once the ciphers are wiped.
    pub(super) fn with<T>(&self, name: &I, act: impl FnOnce(Option<&XtsCipher>) -> T) -> Result<T> {
        let ciphers = self.ciphers.read();
        let all = ciphers.as_ref().ok_or_else(wiped)?;
        Ok(act(all.iter().find(|(n, _)| n == name).map(|(_, c)| c)))
    }
}

fn wiped() -> Error {
    Error::new(Kind::KeyUnavailable, "the data key was wiped: its CMK is unusable")
        .hint("enable the CMK, then open the export again")
}

impl<I: Send + Sync> KeyHolder for HeldCiphers<I> {
    fn cmks(&self) -> &[String] {
        &self.cmks
    }
    fn wipe(&self) {
        *self.ciphers.write() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn holder() -> Arc<HeldCiphers<u8>> {
        Arc::new(HeldCiphers::new(vec!["cmk".to_owned()]))
    }

    #[test]
    fn what_was_unwrapped_before_the_gate_closed_is_not_put_in_place_after_it() {
        let (gate, holder) = (KeyGate::default(), holder());
        let before = gate.ticket();
        gate.close("cmk");
        gate.wipe("cmk");
        assert_eq!(holder.put(&gate, before, Vec::new).unwrap_err().kind(), Kind::KeyUnavailable);
        assert!(holder.with(&1, |_| ()).is_err());
        holder.put(&gate, gate.ticket(), Vec::new).unwrap();
        assert!(holder.with(&1, |c| c.is_none()).unwrap());
    }

    #[test]
    fn only_holders_under_that_key_are_wiped() {
        let (gate, holder) = (KeyGate::default(), holder());
        let as_holder: Arc<dyn KeyHolder> = holder.clone();
        gate.register(Arc::downgrade(&as_holder));
        holder.put(&gate, gate.ticket(), Vec::new).unwrap();
        gate.close("another");
        gate.wipe("another");
        assert!(holder.with(&1, |_| ()).is_ok());
        gate.close("cmk");
        gate.wipe("cmk");
        assert_eq!(holder.with(&1, |_| ()).unwrap_err().kind(), Kind::KeyUnavailable);
    }
}
