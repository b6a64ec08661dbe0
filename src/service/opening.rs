//! The volumes that are open in this process: their users, their keys, their background filling.
//!
//! A volume is opened by its first user and closed after its last. A daemon closes it [`LINGER`] later, so that a client which
//! returns at once (or another of the same principal) is cheap to serve. A daemon also keeps a volume open while it is being
//! filled from a snapshot.

use super::apart::apart;
use super::datadir::Role;
use super::failed_syncs::FailedSyncs;
use super::filler::{self, Filler};
use super::housekeeping::Housekeeper;
use super::keygate::{KeyGate, Ticket};
use super::lineage::Lineages;
use super::records::{Records, VolumeRecord};
use super::settings::{OnKeyLoss, Settings};
use super::stored::{Standing, StoredVolumes};
use super::strangers::Strangers;
use super::turns::{Turn, Turns};
use super::volume_keys::VolumeKeys;
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller};
use crate::units::VolumeId;
use crate::volume::Volume;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a daemon keeps a volume open, with its key, after its last user.
const LINGER: Duration = Duration::from_secs(1);
/// How soon to retry closing a volume that could not be closed when it was due.
const CLOSE_AGAIN: Duration = Duration::from_millis(20);

/// An open volume and its users.
pub(super) struct Open {
    pub(super) volume: Arc<Volume>,
    pub(super) settings: Arc<Settings>,
    /// Whether it has a user who needs its key while the key is wiped.
    pub(super) suspended: bool,
    /// ARNs of the CMKs that wrap its data keys, as the blobs name them. Finding the volumes under a lost CMK must not read the
    /// header, whose lock may be held during a sync.
    pub(super) cmks: Vec<String>,
    users: usize,
    /// The principals that the key was unwrapped for since the volume has users, the latest at the end; only the latest stays
    /// once it has none.
    principals: Vec<String>,
    /// When the last user left.
    idle_since: Option<Instant>,
    filler: Option<Filler>,
}

impl Open {
    /// Marks the volume as unlocked, and continues the requests that were held for it.
    fn resume(&mut self) {
        self.suspended = false;
        self.settings.tell();
    }

    /// Returns whether it has users, who would wait for its key if it were wiped.
    pub(super) const fn is_used(&self) -> bool {
        self.users > 0
    }

    fn is_unused(&self) -> bool {
        self.users == 0 && self.filler.is_none()
    }

    /// Returns whether a caller has to be checked and audited although the key is in place: a new principal, or a lease that
    /// begins beside others. A caller with a lease comes under its grants, or as settled. The caller is already counted as a
    /// user.
    fn is_new_to(&self, caller: &Caller) -> bool {
        let has_lease = matches!(caller.authority, Authority::Settled | Authority::Grants(_));
        !self.principals.contains(&caller.principal) || (self.users > 1 && !has_lease)
    }

    /// Returns when it is to be closed unless someone uses it.
    fn ends(&self) -> Option<Instant> {
        self.idle_since.map(|t| t + LINGER)
    }

    fn is_over(&self) -> bool {
        self.is_unused() && self.ends().is_some_and(|t| t <= Instant::now())
    }
}

/// One use of an open volume. Dropping the last one closes the volume, at once in a command and after a second in a daemon.
pub struct InUse {
    opens: Arc<OpenVolumes>,
    id: VolumeId,
    /// The volume.
    pub volume: Arc<Volume>,
    /// Its settings, which may change meanwhile.
    pub settings: Arc<Settings>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.opens.release(self.id);
    }
}

/// Whether a use needs the data key.
#[derive(Clone, Copy)]
pub(super) enum Need<'a> {
    /// No: a snapshot, or a look at the header.
    Sealed,
    /// Yes, for this caller.
    Key(&'a Caller),
    /// Yes, but the caller had the volume before, so it waits for the key if that is unavailable.
    Later,
}

/// What [`OpenVolumes`] depends on.
pub(super) struct On {
    /// Decides whether volumes linger and are filled.
    pub(super) role: Role,
    /// The catalog's records.
    pub(super) records: Arc<Records>,
    /// The source of the keys.
    pub(super) keys: Arc<VolumeKeys>,
    /// The gate that keys must pass to be put in place.
    pub(super) keygate: Arc<KeyGate>,
    /// One opening or closing at a time per volume.
    pub(super) turns: Arc<Turns>,
    /// The snapshots that volumes are filled from.
    pub(super) lineages: Arc<Lineages>,
    /// The volumes at rest.
    pub(super) stored: Arc<StoredVolumes>,
    /// Stores that may be copies of a volume.
    pub(super) strangers: Arc<Strangers>,
    /// Records failed syncs.
    pub(super) failed_syncs: Arc<FailedSyncs>,
    /// Woken when a volume becomes idle.
    pub(super) housekeeper: Arc<Housekeeper>,
}

/// The volumes that are open.
pub(super) struct OpenVolumes {
    on: On,
    /// Never held across disk access, the audit, or a wait for another volume.
    table: Mutex<HashMap<VolumeId, Open>>,
}

impl OpenVolumes {
    /// Creates an empty table.
    pub(super) fn new(on: On) -> Self {
        Self { on, table: Mutex::default() }
    }

    /// Returns the unlocked volumes that are in use under a CMK, in order of their ids, and whether each continues without it.
    pub(super) fn in_use_under(&self, arn: &str) -> Vec<(VolumeId, bool)> {
        let continues = |o: &Open| o.settings.on_key_loss() == OnKeyLoss::Continue;
        let mut here: Vec<(VolumeId, bool, Arc<Volume>)> = {
            let table = self.table.lock();
            let under = table.iter().filter(|(_, o)| o.is_used() && o.cmks.iter().any(|c| c == arn));
            under.map(|(id, o)| (*id, continues(o), o.volume.clone())).collect()
        };
        // Without the table: this may wait for a piece that is being sealed.
        here.retain(|(_, _, volume)| volume.is_unlocked());
        here.sort_by_key(|(id, ..)| *id);
        here.into_iter().map(|(id, continues, _)| (id, continues)).collect()
    }

    /// Opens a volume, or joins its users.
    pub(super) fn acquire(self: &Arc<Self>, record: &VolumeRecord, need: Need<'_>) -> Result<InUse> {
        let turn = self.on.turns.take(record.id);
        // Before the record is read: a suspension that is not yet in the record closes the gate later.
        let ticket = self.on.keygate.ticket();
        // Read under the turn: since the caller read it, the volume may have been grown, suspended, marked read-only, or deleted.
        let record = &self.on.records.find_volume(&record.id.to_string())?;
        let volume = self.join(record)?;
        // From here on it is open and has this user. `opens` is not held across the disk or the audit.
        let ready = self.check_and_unlock(record, &volume, need, ticket);
        // Without holding `opens`: this may wait for a piece that is being sealed.
        let waits = matches!(need, Need::Later) && !volume.is_unlocked();
        let mut opens = self.table.lock();
        match (ready, opens.get_mut(&record.id)) {
            (Ok(()), Some(open)) => {
                if let Need::Key(caller) = need {
                    open.principals.retain(|p| *p != caller.principal);
                    open.principals.push(caller.principal.clone());
                }
                open.suspended |= waits;
                if self.on.role == Role::Daemon && open.filler.is_none() && !volume.is_hydrated() {
                    open.filler = self.start_filler(&volume, &open.settings);
                }
                let settings = open.settings.clone();
                Ok(InUse { opens: self.clone(), id: record.id, volume, settings })
            }
            (Ok(()), None) => Err(Error::new(Kind::Busy, format!("volume {} was closed meanwhile", record.shown()))),
            (Err(err), _) => {
                drop(opens);
                self.leave(&turn);
                Err(err)
            }
        }
    }

    /// Adds a user to an open volume, or opens it for its first one. The caller has the volume's turn.
    fn join(self: &Arc<Self>, record: &VolumeRecord) -> Result<Arc<Volume>> {
        if let Some(open) = self.table.lock().get_mut(&record.id) {
            open.users += 1;
            open.idle_since = None;
            return Ok(open.volume.clone());
        }
        self.on.strangers.refuse_copies(record)?;
        let volume = Arc::new(self.on.stored.open(record)?);
        self.on.failed_syncs.watch(&volume);
        let settings = Arc::new(Settings::default());
        settings.set(record.on_key_loss, record.iops, record.throughput);
        if self.on.role == Role::Daemon {
            // A command does what it was asked for, and keeps the data directory meanwhile.
            settings.set_rates(record.hydrate_rate, record.snapshot_rate);
        }
        let open = Open {
            volume: volume.clone(),
            settings,
            suspended: false,
            cmks: self.on.keys.cmks_of(&volume),
            users: 1,
            principals: Vec::new(),
            idle_since: None,
            filler: None,
        };
        self.table.lock().insert(record.id, open);
        Ok(volume)
    }

    /// Checks an open volume's header against the catalog, and unwraps its key for a caller who needs it.
    fn check_and_unlock(&self, record: &VolumeRecord, volume: &Volume, need: Need<'_>, ticket: Ticket) -> Result<()> {
        let standing = self.on.stored.compare(record, volume)?;
        let gave_up = standing == Standing::Known && record.next.as_ref().is_some_and(|next| next.parent.is_some());
        if standing == Standing::Announced || gave_up {
            self.on.stored.catch_up(record, volume)?;
        }
        let locked = !volume.is_unlocked();
        let Need::Key(caller) = need else {
            if standing == Standing::Ahead && locked {
                let what = format!("{}: its header is newer than the catalog's record", record.id);
                return Err(Error::new(Kind::Integrity, what)
                    .hint("attach it once, so that the header's MAC can be checked with its key"));
            }
            return Ok(());
        };
        let (suspended, is_new) =
            self.table.lock().get(&record.id).map_or((false, true), |o| (o.suspended, o.is_new_to(caller)));
        if locked {
            if record.suspended {
                let what = format!("volume {} is suspended by hand", record.shown());
                return Err(Error::new(Kind::KeyUnavailable, what).hint("use `coffer volume resume`"));
            }
            if suspended {
                self.on.keys.refuse_if_revoked(record, caller)?;
            }
            self.unlock(ticket, volume, caller)?;
            if standing == Standing::Ahead {
                // The header is ahead and its MAC is good: a change was interrupted before it reached the catalog.
                self.on.stored.catch_up(record, volume)?;
            }
            self.resume(record.id);
        } else if is_new {
            // It is unlocked, but not for this caller: check and audit as if it were locked.
            self.on.keys.unwrap(volume, caller)?;
        }
        Ok(())
    }

    /// Unwraps an open volume's keys and puts them in place, unless they are revoked meanwhile. The caller has the volume's turn,
    /// and took the ticket before it checked whether the volume is suspended.
    pub(super) fn unlock(&self, ticket: Ticket, volume: &Volume, caller: &Caller) -> Result<()> {
        self.unlock_then(ticket, volume, caller, || ())
    }

    /// Like [`OpenVolumes::unlock`], but runs `unwrapped` after the unwrap and before the ciphers are put in place, when a CMK
    /// may be lost.
    pub(super) fn unlock_then(
        &self,
        ticket: Ticket,
        volume: &Volume,
        caller: &Caller,
        unwrapped: impl FnOnce(),
    ) -> Result<()> {
        let id = volume.id().to_string();
        let keys = self.on.keys.unwrap(volume, caller)?;
        unwrapped();
        let cmks = self.table.lock().get(&volume.id()).map(|o| o.cmks.clone()).unwrap_or_default();
        volume.unlock_if(&keys, || self.on.keygate.admit(ticket, cmks.iter().map(String::as_str).chain([id.as_str()])))
    }

    /// Returns whether a volume is open.
    pub(super) fn is_open(&self, id: VolumeId) -> bool {
        self.table.lock().contains_key(&id)
    }

    /// Returns whether an open volume has a user who waits for its key.
    pub(super) fn is_waiting(&self, id: VolumeId) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.suspended)
    }

    /// Returns whether a volume is open and completely filled.
    pub(super) fn is_hydrated(&self, id: VolumeId) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.volume.is_hydrated())
    }

    /// Returns the settings of an open volume.
    pub(super) fn settings_of(&self, id: VolumeId) -> Option<Arc<Settings>> {
        self.table.lock().get(&id).map(|o| o.settings.clone())
    }

    /// Returns whether a volume is open and its key was unwrapped for this principal since it has users.
    pub(super) fn is_open_for(&self, id: VolumeId, principal: &str) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.principals.iter().any(|p| p == principal))
    }

    /// Removes a user. In a command, the last one closes the volume.
    fn release(&self, id: VolumeId) {
        if self.on.role == Role::Daemon {
            return self.count_out(id);
        }
        let turn = self.on.turns.take(id);
        self.leave(&turn);
    }

    /// Like [`OpenVolumes::release`], for a caller with the volume's turn.
    fn leave(&self, turn: &Turn<'_>) {
        self.count_out(turn.id());
        if self.on.role == Role::Command {
            self.close_if(turn, Open::is_unused);
        }
    }

    fn count_out(&self, id: VolumeId) {
        let mut opens = self.table.lock();
        let Some(open) = opens.get_mut(&id) else { return };
        open.users -= 1;
        if open.users == 0 {
            let before = open.principals.len().saturating_sub(1);
            open.principals.drain(..before);
        }
        open.suspended &= open.users > 0; // nobody is left to wait for its key
        if open.is_unused() {
            open.idle_since = Some(Instant::now());
            drop(opens);
            self.on.housekeeper.wake();
        }
    }

    /// Closes an open volume if it is `wanted`. Returns whether it is closed or was never open.
    fn close_if(&self, turn: &Turn<'_>, wanted: impl FnOnce(&Open) -> bool) -> bool {
        let open = {
            let mut opens = self.table.lock();
            match opens.get(&turn.id()) {
                Some(open) if wanted(open) => opens.remove(&turn.id()),
                Some(_) => return false,
                None => None,
            }
        };
        if let Some(open) = open {
            close(turn.id(), open);
        }
        true
    }

    /// Wipes the data keys of the open volumes for which `why` returns a reason. The caller closes the key gate first, which
    /// covers volumes that are just being unlocked.
    pub(super) fn wipe(&self, why: impl Fn(VolumeId, &Open) -> Option<String>) {
        let mut those = Vec::new();
        for (id, open) in self.table.lock().iter_mut() {
            if let Some(why) = why(*id, open) {
                those.push((*id, open.volume.clone(), why));
            }
        }
        // Without the table: a piece that waits for its disk must not delay opening or closing another volume.
        for (id, volume, why) in those {
            if volume.suspend() {
                tracing::warn!("{id} is suspended: {why}");
                let away = !volume.is_unlocked();
                if let Some(open) = self.table.lock().get_mut(&id).filter(|o| Arc::ptr_eq(&o.volume, &volume)) {
                    open.suspended = open.is_used() && away;
                }
            }
        }
    }

    /// Returns an open volume that has a user who waits for its key.
    pub(super) fn waiting(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.table.lock().get(&id).filter(|o| o.suspended).map(|o| o.volume.clone())
    }

    /// Returns all such volumes that `which` accepts.
    pub(super) fn all_waiting(&self, which: impl Fn(&Open) -> bool) -> Vec<VolumeId> {
        self.table.lock().iter().filter(|(_, o)| o.suspended && which(o)).map(|(id, _)| *id).collect()
    }

    /// Continues the requests that were held for a volume, which is unlocked again.
    pub(super) fn resume(&self, id: VolumeId) {
        if let Some(open) = self.table.lock().get_mut(&id) {
            open.resume();
        }
    }

    /// Closes the volumes that have been idle for [`LINGER`]. Returns when to look again, if others are idle.
    pub(super) fn close_idle(&self) -> Option<Instant> {
        let due: Vec<(VolumeId, Arc<Volume>)> =
            self.table.lock().iter().filter(|(_, o)| o.is_over()).map(|(id, o)| (*id, o.volume.clone())).collect();
        for (id, volume) in due {
            // The slow part of closing, while others may open their volumes. An error here recurs below and is reported there.
            let _ = volume.flush();
            // Whoever has its turn now is using it.
            if let Some(turn) = self.on.turns.try_take(id) {
                self.close_if(&turn, Open::is_over);
            }
        }
        let next = self.table.lock().values().filter(|o| o.is_unused()).filter_map(Open::ends).min();
        next.map(|at| at.max(Instant::now() + CLOSE_AGAIN))
    }

    /// Closes a volume without users, even if it lingers or is being filled, and keeps others from opening it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it has users.
    pub(super) fn close_unused(&self, record: &VolumeRecord) -> Result<Turn<'_>> {
        let turn = self.on.turns.take(record.id);
        if self.close_if(&turn, |o| o.users == 0) {
            return Ok(turn);
        }
        Err(Error::new(Kind::Busy, format!("volume {} is in use", record.shown())).hint("detach it first"))
    }

    /// Resumes filling the volumes that an earlier process left incomplete.
    pub(super) fn start_hydration(self: &Arc<Self>) {
        let records = match self.on.records.volumes() {
            Ok(records) => records,
            Err(err) => return tracing::error!("list the volumes to fill: {}", err.line()),
        };
        let start = |record: VolumeRecord| match self.acquire(&record, Need::Sealed) {
            Ok(used) if used.volume.is_hydrated() => self.on.lineages.note_hydrated(record.id),
            Ok(_) => {}
            Err(err) => tracing::error!("fill {}: {}", record.shown(), err.line()),
        };
        let filling = records.into_iter().filter(|r| r.parent.is_some() && !r.hydrated).collect();
        apart(filling, |r| r.parent.as_ref().map(|p| p.repository), start);
    }

    fn start_filler(self: &Arc<Self>, volume: &Arc<Volume>, settings: &Arc<Settings>) -> Option<Filler> {
        let (this, id) = (Arc::downgrade(self), volume.id());
        filler::start(volume.clone(), settings.clone(), move || {
            if let Some(this) = this.upgrade() {
                this.filled(id);
            }
        })
    }

    /// Handles the end of a fill: releases the volume's snapshot, and closes the volume if it has no users.
    fn filled(&self, id: VolumeId) {
        self.on.lineages.note_hydrated(id);
        let mut opens = self.table.lock();
        if let Some(open) = opens.get_mut(&id) {
            open.filler = None; // this is its thread, which ends by itself
            if open.is_unused() {
                // The housekeeper closes it: closing it here would wait for this thread.
                open.idle_since = Some(Instant::now());
                drop(opens);
                self.on.housekeeper.wake();
            }
        }
    }

    /// Closes all volumes.
    pub(super) fn close_all(&self) {
        let all: Vec<VolumeId> = self.table.lock().keys().copied().collect();
        for id in all {
            self.close_if(&self.on.turns.take(id), |_| true);
        }
    }
}

/// Stops the fill of a volume and closes it. Must not be called while `opens` is held: the fill takes it at its end.
fn close(id: VolumeId, mut open: Open) {
    if let Some(filler) = open.filler.take() {
        filler.end();
    }
    if let Err(err) = open.volume.close() {
        tracing::error!("close {id}: {}; the next open will find it not cleanly closed", err.line());
    }
}
