//! Between an unwrapped data key and its use lies a gate, which losing a CMK closes.
//!
//! Whoever unwraps keys takes a [`Ticket`] first and shows it when the ciphers are put in place, under the lock that wiping
//! them takes too. Whoever takes a key away closes the gate first and wipes what is in place afterwards. So a key that was
//! unwrapped before its CMK was disabled, and would be put in place after everything was wiped, is refused.

use crate::cipher::xts::XtsCipher;
use crate::error::{Error, Kind, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Weak;

/// A moment before keys were unwrapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

/// What was closed, and when; and who holds ciphers beside the open volumes.
#[derive(Default)]
pub(super) struct KeyGate {
    closed: Mutex<Closed>,
    holders: Mutex<Vec<Weak<dyn KeyHolder>>>,
}

#[derive(Default)]
struct Closed {
    moment: u64,
    /// By a CMK's ARN, or a volume's id.
    last: HashMap<String, u64>,
}

impl KeyGate {
    /// This moment, for whoever unwraps keys after it.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.closed.lock().moment)
    }

    /// Nothing that was unwrapped before this moment under `name`, a CMK's ARN or a volume's id, is put in place any more.
    pub(super) fn close(&self, name: &str) {
        let mut closed = self.closed.lock();
        closed.moment += 1;
        let moment = closed.moment;
        closed.last.insert(name.to_owned(), moment);
    }

    /// Whether what was unwrapped after the ticket was taken may be put in place.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] if one of these was closed since.
    pub(super) fn admit<'a>(&self, ticket: Ticket, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let closed = self.closed.lock();
        match names.into_iter().find(|n| closed.last.get(*n).is_some_and(|at| *at > ticket.0)) {
            None => Ok(()),
            Some(name) => Err(Error::new(Kind::KeyUnavailable, format!("{name} was taken away meanwhile"))
                .hint("enable the CMK, or resume the volume, then try again")),
        }
    }

    /// Has `holder` wiped when one of its CMKs is lost.
    pub(super) fn register(&self, holder: Weak<dyn KeyHolder>) {
        let mut holders = self.holders.lock();
        holders.retain(|h| h.strong_count() > 0);
        holders.push(holder);
    }

    /// Wipes the ciphers of all holders under a CMK; returns when none of them is used any more.
    pub(super) fn wipe(&self, arn: &str) {
        let all: Vec<_> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().filter(|h| h.cmks().iter().any(|c| c == arn)).for_each(|h| h.wipe());
    }
}

/// Somebody with ciphers that a lost CMK takes away.
pub(super) trait KeyHolder: Send + Sync {
    /// ARNs of the CMKs that wrap its data keys, from the blobs.
    fn cmks(&self) -> &[String];
    /// Wipes the ciphers, after whoever uses them.
    fn wipe(&self);
}

/// Ciphers by the name `I` of their data key, and the CMKs that wrap those.
pub(super) struct HeldCiphers<I> {
    cmks: Vec<String>,
    ciphers: RwLock<Option<Vec<(I, XtsCipher)>>>,
}

impl<I: PartialEq> HeldCiphers<I> {
    /// None yet.
    pub(super) const fn new(cmks: Vec<String>) -> Self {
        Self { cmks, ciphers: RwLock::new(None) }
    }

    /// Puts ciphers in place where there are none.
    ///
    /// # Errors
    /// As [`KeyGate::admit`].
    pub(super) fn put(&self, gate: &KeyGate, ticket: Ticket, make: impl FnOnce() -> Vec<(I, XtsCipher)>) -> Result<()> {
        let mut ciphers = self.ciphers.write();
        gate.admit(ticket, self.cmks.iter().map(String::as_str))?;
        if ciphers.is_none() {
            *ciphers = Some(make());
        }
        Ok(())
    }

    /// Refuses what needs the key, where nothing of it is used: zeros of a hole are not read without it either.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] after the ciphers were wiped.
    pub(super) fn must_be_there(&self) -> Result<()> {
        if self.ciphers.read().is_some() { Ok(()) } else { Err(wiped()) }
    }

    /// Uses the cipher of a data key; wiping waits for it. `None` within: there is none of that name.
    ///
    /// # Errors
    /// [`Kind::KeyUnavailable`] after they were wiped.
    pub(super) fn with<T>(&self, name: &I, act: impl FnOnce(Option<&XtsCipher>) -> T) -> Result<T> {
        let ciphers = self.ciphers.read();
        let all = ciphers.as_ref().ok_or_else(wiped)?;
        Ok(act(all.iter().find(|(n, _)| n == name).map(|(_, c)| c)))
    }
}

fn wiped() -> Error {
    Error::new(Kind::KeyUnavailable, "the data key was wiped: its CMK cannot be used")
        .hint("enable the CMK, then open it again")
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
