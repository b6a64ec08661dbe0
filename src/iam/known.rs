//! What the last requests needed of records, ready for use: secrets opened, policies shared. Each change of a record of
//! IAM empties it.

use super::base::PADDED;
use super::name::{Sort, Tags};
use crate::env::Timestamp;
use crate::secret::Secret;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Most entries of a kind; when it is reached, all of them are dropped. Opened secrets take locked memory.
const MAX: usize = 256;

/// Who holds access keys or sessions: root, a user or a role.
pub(super) struct Holder {
    pub(super) sort: Sort,
    pub(super) account: String,
    pub(super) arn: String,
    /// Empty for root.
    pub(super) name: String,
    pub(super) tags: Tags,
    pub(super) policies: Vec<Arc<str>>,
    pub(super) revoked_before: Option<Timestamp>,
}

/// An active access key.
pub(super) struct Opened {
    /// Its secret, padded.
    pub(super) secret: Secret<PADDED>,
    /// Unique id of its holder.
    pub(super) holder: String,
}

#[derive(Default)]
struct Table {
    /// The catalog's counts of changes that the entries are valid for.
    at: u64,
    holders: HashMap<String, Arc<Holder>>,
    keys: HashMap<String, Arc<Opened>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Known(Mutex<Table>);

impl Known {
    /// The holder of that unique id, if it was kept at this count of changes.
    pub(super) fn holder(&self, id: &str, at: u64) -> Option<Arc<Holder>> {
        let table = self.0.lock();
        table.holders.get(id).filter(|_| table.at == at).cloned()
    }

    pub(super) fn key(&self, id: &str, at: u64) -> Option<Arc<Opened>> {
        let table = self.0.lock();
        table.keys.get(id).filter(|_| table.at == at).cloned()
    }

    /// Keeps a holder that was read after the count was `at`.
    pub(super) fn keep_holder(&self, id: &str, holder: &Arc<Holder>, at: u64) {
        let mut table = self.0.lock();
        table.turn_to(at);
        table.holders.insert(id.to_owned(), holder.clone());
    }

    pub(super) fn keep_key(&self, id: &str, key: &Arc<Opened>, at: u64) {
        let mut table = self.0.lock();
        table.turn_to(at);
        table.keys.insert(id.to_owned(), key.clone());
    }
}

impl Table {
    fn turn_to(&mut self, at: u64) {
        if self.at != at || self.holders.len() >= MAX || self.keys.len() >= MAX {
            *self = Self { at, ..Self::default() };
        }
    }
}
