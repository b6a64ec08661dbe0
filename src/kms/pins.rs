//! The keys that a request names, each looked up once.

use super::Kms;
use super::name::KeyRef;
use crate::error::Kind;
use std::cell::RefCell;

/// The keys of one request. What it asks about, what it acts on and what is recorded of it is one key, even if an alias is
/// moved to another one meanwhile.
pub struct Pins<'a> {
    kms: &'a Kms,
    known: RefCell<Vec<(KeyRef, KeyRef)>>,
}

impl<'a> Pins<'a> {
    /// Those of a new request.
    #[must_use]
    pub const fn new(kms: &'a Kms) -> Self {
        Self { kms, known: RefCell::new(Vec::new()) }
    }

    /// The same reference, of the key that its alias referred to when this request first named it; of no key, if there was no
    /// such alias.
    pub fn pin(&self, key: KeyRef) -> KeyRef {
        if !key.is_alias() {
            return key;
        }
        let mut known = self.known.borrow_mut();
        if let Some((_, pinned)) = known.iter().find(|(named, _)| *named == key) {
            return pinned.clone();
        }
        let pinned = match self.kms.here.store.resolve(&key) {
            Ok(name) => Some(Some(name.id)),
            Err(e) if e.kind() == Kind::NotFound => Some(None),
            // A damaged alias stays what it is.
            Err(_) => None,
        };
        let pinned = KeyRef { pinned, ..key.clone() };
        known.push((key, pinned.clone()));
        pinned
    }
}
