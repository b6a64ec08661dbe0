//! How long keys pending deletion have really waited.
//!
//! A wall clock can be set to any date, and a deleted key cannot be
//! restored. So a key is deleted when its date has passed *and* its waiting period has passed on a clock that cannot be
//! set: milliseconds since boot. They are added up in one record of the catalog, `kms-clock`, which is written when a key
//! begins to wait and at least once per hour of waiting.
//!
//! | since the record was written | counts as waited |
//! |---|---|
//! | the same boot | the time since then by the boot-time clock, whether coffer ran or not |
//! | another boot | the time since this boot, plus what the wall clock shows beyond it, at most a day |
//! | boot unknown | nothing |
//!
//! The record is not part of the audit chain: restoring an older one, or removing it, makes keys wait longer.

use super::caller::Caller;
use super::grantstore::Grant;
use super::keystore::{AliasRecord, KeyRecord, KeyState, KeyStore};
use super::scope::{KeyName, Scope};
use crate::env::{Env, Timestamp};
use crate::error::{Kind, Result};
use crate::ledger::{Act, Ledger, Record, Tx, Versioned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;

/// When a key may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Due {
    /// Its date, by the wall clock: a different one means that its deletion was cancelled and scheduled again.
    deletion: Timestamp,
    /// The count of waited milliseconds at which it is due.
    waited: i64,
}

/// What a key waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Deletion,
    Rotation,
}

impl For {
    /// What the names of entries for rotations begin with. Those for deletions are ids of rows.
    const ROTATION: &'static str = "rotation:";

    fn id(self, key: &KeyName) -> String {
        match self {
            Self::Deletion => key.row(),
            Self::Rotation => format!("{}{}", Self::ROTATION, key.row()),
        }
    }

    /// Whether an entry is one of these.
    fn has(self, id: &str) -> bool {
        id.starts_with(Self::ROTATION) == (self == Self::Rotation)
    }

    /// The shortest and the longest wait, milliseconds (KMS API Reference, ScheduleKeyDeletion, EnableKeyRotation).
    const fn bounds(self) -> (i64, i64) {
        match self {
            Self::Deletion => (7 * DAY, 30 * DAY),
            Self::Rotation => (90 * DAY, 2560 * DAY),
        }
    }
}

/// The count, and the clocks when it was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    /// Milliseconds that passed while keys waited.
    waited: i64,
    boot: String,
    since_boot: i64,
    wall: i64,
    due: BTreeMap<String, Due>,
}

impl Record for Count {
    const KIND: &'static str = "kms-clock";
    fn id(&self) -> String {
        "clock".into()
    }
}

impl Count {
    /// The count now, and how far the wall clock ran ahead of it meanwhile.
    fn now(&self, env: &Env) -> (Self, i64) {
        let (since_boot, wall) = (env.clock.since_boot(), env.now().0);
        let by_wall = wall.saturating_sub(self.wall);
        let passed = if self.boot.is_empty() || env.boot_id.is_empty() {
            0
        } else if *self.boot == *env.boot_id {
            since_boot.saturating_sub(self.since_boot).max(0)
        } else {
            since_boot.max(0).saturating_add(by_wall.saturating_sub(since_boot).clamp(0, DAY))
        };
        let waited = self.waited.saturating_add(passed);
        let now = Self { waited, boot: env.boot_id.to_string(), since_boot, wall, due: self.due.clone() };
        (now, if self.boot.is_empty() { 0 } else { by_wall.saturating_sub(passed) })
    }

    /// Starts to count for keys that wait for this, and stops for those that no longer do.
    fn take(&mut self, what: For, waiting: &[(KeyName, Timestamp)]) {
        let wanted: BTreeMap<String, Timestamp> = waiting.iter().map(|(key, at)| (what.id(key), *at)).collect();
        self.due.retain(|id, due| !what.has(id) || wanted.get(id) == Some(&due.deletion));
        self.begin(what, wanted);
    }

    /// Starts to count for these, by their names.
    fn begin(&mut self, what: For, waiting: BTreeMap<String, Timestamp>) {
        for (id, at) in waiting {
            // A date that is near or past proves nothing: the clock may have been set before the first check.
            let (least, most) = what.bounds();
            let wait = at.0.saturating_sub(self.wall).clamp(least, most);
            let new = Due { deletion: at, waited: self.waited.saturating_add(wait) };
            let due = self.due.entry(id).or_insert_with(|| new.clone());
            if due.deletion != at {
                *due = new;
            }
        }
    }

    /// Milliseconds that a key must still wait by this count.
    fn left(&self, what: For, key: &KeyName) -> i64 {
        let due = self.due.get(&what.id(key));
        due.map_or(what.bounds().1, |due| due.waited.saturating_sub(self.waited).max(0))
    }
}

/// A key pending deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingDeletion {
    /// Which one.
    pub key: KeyName,
    /// Its date, by the wall clock.
    pub at: Timestamp,
    /// Milliseconds of its waiting period that have not passed yet.
    pub left: i64,
}

impl PendingDeletion {
    /// Whether the wall clock is past its date, but the waiting period has not passed: the clock was set, or the machine was
    /// off.
    #[must_use]
    pub const fn is_held(&self, now: Timestamp) -> bool {
        self.at.0 <= now.0 && self.left > 0
    }

    /// Days that it must still wait, at least 1 if it must wait at all.
    #[must_use]
    pub const fn days_left(&self) -> i64 {
        (self.left + DAY - 1) / DAY
    }
}

fn pending(keys: &[Versioned<KeyRecord>]) -> Vec<(KeyName, Timestamp)> {
    let waits = |k: &Versioned<KeyRecord>| match (k.record.state, k.record.deletion) {
        (KeyState::PendingDeletion, Some(at)) => Some((k.record.key(), at)),
        _ => None,
    };
    keys.iter().filter_map(waits).collect()
}

/// The keys that wait for their deletion, and the end of them.
pub struct Deletions {
    env: Env,
    scope: Arc<Scope>,
    ledger: Arc<Ledger>,
    store: Arc<KeyStore>,
}

/// The count itself, for what others than keys wait for.
pub struct Waited {
    env: Env,
    ledger: Arc<Ledger>,
}

impl Waited {
    pub(super) const fn new(env: Env, ledger: Arc<Ledger>) -> Self {
        Self { env, ledger }
    }

    /// Returns the milliseconds that were counted so far. Stores them if that was not done for an hour, or in another boot:
    /// whoever waits has to call this when it begins to wait, and at least once per hour.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn count(&self) -> Result<i64> {
        let kept = kept_count(&self.ledger)?;
        let count = kept.clone().unwrap_or_default().now(&self.env).0;
        let is_due = |kept: Count| kept.boot != count.boot || count.waited - kept.waited >= HOUR;
        if kept.is_none_or(is_due) {
            self.ledger.catalog().transaction(|tx| tx.put_head(&count))?;
        }
        Ok(count.waited)
    }
}

fn kept_count(ledger: &Ledger) -> Result<Option<Count>> {
    match ledger.catalog().get::<Count>("clock") {
        Ok(found) => Ok(found.map(|f| f.record)),
        // A damaged record: the waiting period starts again.
        Err(e) if e.kind() == Kind::Integrity => Ok(None),
        Err(e) => Err(e),
    }
}

impl Deletions {
    /// Those of these keys.
    pub(super) const fn new(env: Env, scope: Arc<Scope>, ledger: Arc<Ledger>, store: Arc<KeyStore>) -> Self {
        Self { env, scope, ledger, store }
    }

    fn kept_count(&self) -> Result<Option<Count>> {
        kept_count(&self.ledger)
    }

    /// Counts how long keys pending deletion have waited, stores the count, and returns the keys that are due.
    pub(super) fn count(&self, keys: &[Versioned<KeyRecord>]) -> Result<Vec<KeyName>> {
        self.count_for(For::Deletion, pending(keys))
    }

    /// The same for keys that rotate by themselves, with the dates of their next rotations.
    pub(super) fn count_rotations(&self, keys: &[(KeyName, Timestamp)]) -> Result<Vec<KeyName>> {
        self.count_for(For::Rotation, keys.to_vec())
    }

    /// Begins to count for a key that now rotates by itself, at this date next.
    pub(super) fn begin_rotation(&self, key: &KeyName, next: Timestamp) -> Result<()> {
        self.ledger.catalog().transaction(|tx| {
            let mut count = self.kept_count()?.unwrap_or_default().now(&self.env).0;
            count.begin(For::Rotation, [(For::Rotation.id(key), next)].into());
            tx.put_head(&count)
        })
    }

    fn count_for(&self, what: For, pending: Vec<(KeyName, Timestamp)>) -> Result<Vec<KeyName>> {
        let kept = self.kept_count()?;
        if pending.is_empty() && kept.as_ref().is_none_or(|k| !k.due.keys().any(|id| what.has(id))) {
            return Ok(Vec::new());
        }
        let (mut count, ahead) = kept.clone().unwrap_or_default().now(&self.env);
        count.take(what, &pending);
        if ahead > DAY && !pending.is_empty() {
            tracing::warn!(
                "the clock ran ahead by {} days: keys pending deletion are kept until their waiting period has really passed",
                ahead / DAY
            );
        }
        let keep = |kept: Count| {
            kept.due != count.due || kept.boot != count.boot || count.waited - kept.waited >= HOUR || ahead > DAY
        };
        if kept.is_none_or(keep)
            && let Err(e) = self.ledger.catalog().transaction(|tx| tx.put_head(&count))
        {
            // What is not stored is not counted: the keys wait longer.
            tracing::warn!("store how long keys pending deletion have waited: {}", e.line());
        }
        let now = self.env.now();
        Ok(pending.into_iter().filter(|(id, at)| *at <= now && count.left(what, id) == 0).map(|(id, _)| id).collect())
    }

    /// The keys pending deletion, and how long they must still wait.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn pending(&self) -> Result<Vec<PendingDeletion>> {
        let keys = pending(&self.store.pending_deletion()?);
        keys.into_iter().map(|(key, at)| self.pending_of(&key, at)).collect()
    }

    /// One of them, by its date.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn pending_of(&self, key: &KeyName, at: Timestamp) -> Result<PendingDeletion> {
        let mut count = self.kept_count()?.unwrap_or_default().now(&self.env).0;
        count.take(For::Deletion, &[(key.clone(), at)]);
        Ok(PendingDeletion { key: key.clone(), at, left: count.left(For::Deletion, key) })
    }

    /// Deletes the keys whose date and waiting period have passed (`waiting.rs`), with their aliases and grants. Their sealed
    /// material is overwritten in the catalog's file; backups, and old blocks that the file system or the disk keeps, are
    /// not reached. Called at open and periodically by the service.
    ///
    /// # Errors
    /// What the catalog or the audit reports.
    pub fn purge_due(&self) -> Result<Vec<KeyName>> {
        let keys = self.store.pending_deletion()?;
        let due = self.count(&keys)?;
        let mut gone = Vec::new();
        for key in keys.into_iter().filter(|k| due.contains(&k.record.key())) {
            let name = key.record.key();
            let act = Act::new("kms:DeleteKey").key(self.scope.arn_of(&name)).restrictive();
            self.ledger.audited(&self.myself(), act, |tx| {
                let id = name.id.to_string();
                let aliases = tx.list_of::<AliasRecord>(&[("target", &id)])?.records;
                let of_key = |a: &Versioned<AliasRecord>| a.record.target == name.id && a.record.place == name.place;
                for alias in aliases.into_iter().filter(of_key) {
                    tx.delete::<AliasRecord>(&alias.record.id(), alias.version)?;
                }
                let grants = tx.list_of::<Grant>(&[("key", &id)])?.records;
                for grant in grants.into_iter().filter(|g| g.record.on() == name) {
                    tx.delete::<Grant>(&grant.record.id, grant.version)?;
                }
                tx.delete::<KeyRecord>(&name.row(), key.version)?;
                self.last_replica(tx, &name)
            })?;
            gone.push(name);
        }
        if !gone.is_empty() {
            self.ledger.catalog().erase_removed()?;
        }
        Ok(gone)
    }

    /// Starts the waiting period of a primary key that waited for the deletion of its last replica.
    fn last_replica(&self, tx: &mut Tx<'_>, gone: &KeyName) -> Result<()> {
        if !gone.id.is_multi_region() {
            return Ok(());
        }
        let left = tx.list_of::<KeyRecord>(&[("id", &gone.id.to_string())])?.records;
        let mut left = left.into_iter().filter(|k| k.record.id == gone.id);
        if let (Some(mut primary), None) = (left.next(), left.next())
            && primary.record.state == KeyState::PendingReplicaDeletion
        {
            let days = i64::from(primary.record.wait_days.unwrap_or(30));
            primary.record.state = KeyState::PendingDeletion;
            primary.record.deletion = Some(Timestamp(self.env.now().0.saturating_add(days * DAY)));
            tx.update(&primary.record, primary.version)?;
        }
        Ok(())
    }

    /// coffer itself, as the caller of periodic work.
    fn myself(&self) -> Caller {
        Caller::service(self.scope.root_principal(), "coffer", "coffer itself")
    }
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
