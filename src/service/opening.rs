//! Volumes that are open in this process: who uses them, their keys, their background filling.
//!
//! A volume is opened by its first user and closed after its last: by a daemon [`LINGER`] later, for a client that comes back at
//! once (or another of the same principal) costs nothing then. A daemon also keeps those open that still have to be filled
//! from a snapshot.

use super::datadir::Role;
use super::failed_syncs::FailedSyncs;
use super::filler::{self, Filler};
use super::housekeeping::Housekeeper;
use super::keygate::{KeyGate, Ticket};
use super::lineage::Lineages;
use super::records::{Records, VolumeRecord};
use super::settings::Settings;
use super::stored::{Standing, StoredVolumes};
use super::strangers::Strangers;
use super::turns::{Turn, Turns};
use super::volume_keys::VolumeKeys;
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller};
use crate::units::VolumeId;
use crate::volume::Volume;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a daemon keeps a volume open, with its key, after its last user.
const LINGER: Duration = Duration::from_secs(1);
/// How soon a volume is looked at again that could not be closed when it was due.
const CLOSE_AGAIN: Duration = Duration::from_millis(20);

/// An open volume and its users.
pub(super) struct Open {
    pub(super) volume: Arc<Volume>,
    pub(super) settings: Arc<Settings>,
    /// It is used by somebody who needs its key, and the key is away.
    pub(super) suspended: bool,
    /// ARNs of the CMKs that wrap its data keys, from the blobs: a lost CMK is looked for without a look at the header, whose
    /// lock may be held over a sync.
    pub(super) cmks: Vec<String>,
    users: usize,
    /// Whom the key was unwrapped for while it has users, the last one at the end; of those before, that one alone.
    principals: Vec<String>,
    /// When the last user left.
    idle_since: Option<Instant>,
    filler: Option<Filler>,
}

impl Open {
    /// It is unlocked: what was held for it goes on.
    fn resume(&mut self) {
        self.suspended = false;
        self.settings.tell();
    }

    /// Whether somebody waits for its key, should that be away.
    pub(super) const fn is_used(&self) -> bool {
        self.users > 0
    }

    fn is_unused(&self) -> bool {
        self.users == 0 && self.filler.is_none()
    }

    /// Whether a caller has to be asked and audited though the key is here: a principal that it was not unwrapped for, or a
    /// lease that begins beside others. Who has a lease already comes under its grants, or as settled. It is counted as a user.
    fn is_new_to(&self, caller: &Caller) -> bool {
        let has_lease = matches!(caller.authority, Authority::Settled | Authority::Grants(_));
        !self.principals.contains(&caller.principal) || (self.users > 1 && !has_lease)
    }

    /// When it is to be closed, if nobody comes.
    fn ends(&self) -> Option<Instant> {
        self.idle_since.map(|t| t + LINGER)
    }

    fn is_over(&self) -> bool {
        self.is_unused() && self.ends().is_some_and(|t| t <= Instant::now())
    }
}

/// A use of an open volume; the last one that is dropped closes it.
pub struct InUse {
    opens: Arc<OpenVolumes>,
    id: VolumeId,
    /// The volume.
    pub volume: Arc<Volume>,
    /// What of it may change meanwhile.
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
    /// No: a snapshot, a look at the header.
    Sealed,
    /// Yes, for this caller.
    Key(&'a Caller),
    /// Yes, but who asks had the volume before: it waits for the key where that is away.
    Later,
}

/// What the open volumes stand on.
pub(super) struct On {
    /// Whether they linger, and are filled.
    pub(super) role: Role,
    /// What the catalog says of them.
    pub(super) records: Arc<Records>,
    /// Where their keys come from.
    pub(super) keys: Arc<VolumeKeys>,
    /// What keys must pass that are put in place.
    pub(super) keygate: Arc<KeyGate>,
    /// One at a time for each volume.
    pub(super) turns: Arc<Turns>,
    /// What they are filled from.
    pub(super) lineages: Arc<Lineages>,
    /// What they are opened from.
    pub(super) stored: Arc<StoredVolumes>,
    /// What may be a copy of one.
    pub(super) strangers: Arc<Strangers>,
    /// Told when a sync of one fails.
    pub(super) failed_syncs: Arc<FailedSyncs>,
    /// Told when one becomes idle.
    pub(super) housekeeper: Arc<Housekeeper>,
}

/// The volumes that are open.
pub(super) struct OpenVolumes {
    on: On,
    /// Never held over the disk, the audit, or a wait for another volume.
    table: Mutex<HashMap<VolumeId, Open>>,
}

impl OpenVolumes {
    /// None yet.
    pub(super) fn new(on: On) -> Self {
        Self { on, table: Mutex::default() }
    }

    /// The table itself, by volume: for a look at what is in memory alone.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Open>> {
        self.table.lock()
    }

    /// Opens a volume, or joins those who have it open.
    pub(super) fn acquire(self: &Arc<Self>, record: &VolumeRecord, need: Need<'_>) -> Result<InUse> {
        let turn = self.on.turns.take(record.id);
        // Before the record is read: a suspension that it does not show yet closes the gate later.
        let ticket = self.on.keygate.ticket();
        // Read in its turn: since the caller did, it may have been grown, suspended, marked as read-only, or deleted.
        let record = &self.on.records.find_volume(&record.id.to_string())?;
        let volume = self.join(record)?;
        // From here on it is open and has this user; the table is not locked over the disk or the audit.
        let ready = self.check_and_unlock(record, &volume, need, ticket);
        // Looked at without the table: it may have to wait for a piece that is being sealed.
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
                    open.filler = self.start_filler(&volume);
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

    /// Counts a user of an open volume, which is opened for the first one. The caller has the volume's turn.
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

    /// Has the catalog know an open volume's header, and its key unwrapped for who needs it.
    fn check_and_unlock(&self, record: &VolumeRecord, volume: &Volume, need: Need<'_>, ticket: Ticket) -> Result<()> {
        let standing = self.on.stored.compare(record, volume)?;
        if standing == Standing::Announced {
            self.on.stored.catch_up(record, volume)?;
        }
        let locked = !volume.is_unlocked();
        let Need::Key(caller) = need else {
            if standing == Standing::Ahead && locked {
                let what = format!("{}: its header is ahead of the catalog", record.id);
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
                return Err(Error::new(Kind::KeyUnavailable, what).hint("`coffer volume resume` it"));
            }
            if suspended {
                self.on.keys.refuse_if_revoked(record, caller)?;
            }
            self.unlock(ticket, volume, caller)?;
            if standing == Standing::Ahead {
                // The header is ahead and its MAC is good: a change was cut off before the catalog had it.
                self.on.stored.catch_up(record, volume)?;
            }
            self.resume(record.id);
        } else if is_new {
            // It is open, but not for this one: asked and audited as if it were not.
            self.on.keys.unwrap(volume, caller)?;
        }
        Ok(())
    }

    /// Unwraps an open volume's keys and puts them in place, unless they are taken away meanwhile. The caller has its turn, and
    /// took the ticket before it looked whether the volume is suspended.
    pub(super) fn unlock(&self, ticket: Ticket, volume: &Volume, caller: &Caller) -> Result<()> {
        self.unlock_then(ticket, volume, caller, || ())
    }

    /// The same; `unwrapped` runs between the unwrap and the ciphers' being put in place, where a CMK may be lost.
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

    /// Whether a volume is open.
    pub(super) fn is_open(&self, id: VolumeId) -> bool {
        self.table.lock().contains_key(&id)
    }

    /// Whether somebody uses an open volume, and waits for its key.
    pub(super) fn is_waiting(&self, id: VolumeId) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.suspended)
    }

    /// Whether a volume is open, and filled.
    pub(super) fn is_hydrated(&self, id: VolumeId) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.volume.is_hydrated())
    }

    /// What may change of an open volume.
    pub(super) fn settings_of(&self, id: VolumeId) -> Option<Arc<Settings>> {
        self.table.lock().get(&id).map(|o| o.settings.clone())
    }

    /// Whether a volume is open, and its key was unwrapped for this principal since it has users.
    pub(super) fn is_open_for(&self, id: VolumeId, principal: &str) -> bool {
        self.table.lock().get(&id).is_some_and(|o| o.principals.iter().any(|p| p == principal))
    }

    /// A user has gone. The last one of a command's volume closes it.
    fn release(&self, id: VolumeId) {
        if self.on.role == Role::Daemon {
            return self.count_out(id);
        }
        let turn = self.on.turns.take(id);
        self.leave(&turn);
    }

    /// The same for who has the volume's turn.
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
        open.suspended &= open.users > 0; // nobody waits for its key any more
        if open.is_unused() {
            open.idle_since = Some(Instant::now());
            drop(opens);
            self.on.housekeeper.wake();
        }
    }

    /// Closes an open volume if it is as the caller wants it; whether it is closed, or was never open.
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

    /// Wipes the data keys of those open volumes for which `why` has a reason. What is not unlocked yet is kept from it by
    /// the key gate, which the caller closes before.
    pub(super) fn wipe(&self, why: impl Fn(VolumeId, &Open) -> Option<String>) {
        let mut those = Vec::new();
        for (id, open) in self.table.lock().iter_mut() {
            if let Some(why) = why(*id, open) {
                those.push((*id, open.volume.clone(), why));
            }
        }
        // Without the table: a piece that waits for its disk keeps nobody from opening or closing another volume.
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

    /// An open volume that somebody uses, and that waits for its key.
    pub(super) fn waiting(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.table.lock().get(&id).filter(|o| o.suspended).map(|o| o.volume.clone())
    }

    /// All such volumes that `which` wants.
    pub(super) fn all_waiting(&self, which: impl Fn(&Open) -> bool) -> Vec<VolumeId> {
        self.table.lock().iter().filter(|(_, o)| o.suspended && which(o)).map(|(id, _)| *id).collect()
    }

    /// A volume is unlocked: what was held for it goes on.
    pub(super) fn resume(&self, id: VolumeId) {
        if let Some(open) = self.table.lock().get_mut(&id) {
            open.resume();
        }
    }

    /// Closes the volumes that nobody has used for [`LINGER`]; when it has to look again, if there are others.
    pub(super) fn close_idle(&self) -> Option<Instant> {
        let due: Vec<(VolumeId, Arc<Volume>)> =
            self.table.lock().iter().filter(|(_, o)| o.is_over()).map(|(id, o)| (*id, o.volume.clone())).collect();
        for (id, volume) in due {
            // The long part of closing, while others may open theirs. What fails here fails again below, and is told there.
            let _ = volume.flush();
            // Who has its turn now uses it.
            if let Some(turn) = self.on.turns.try_take(id) {
                self.close_if(&turn, Open::is_over);
            }
        }
        let next = self.table.lock().values().filter(|o| o.is_unused()).filter_map(Open::ends).min();
        next.map(|at| at.max(Instant::now() + CLOSE_AGAIN))
    }

    /// Closes a volume that nobody uses, whether it lingers or is being filled, and keeps others from opening it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody uses it.
    pub(super) fn close_unused(&self, record: &VolumeRecord) -> Result<Turn<'_>> {
        let turn = self.on.turns.take(record.id);
        if self.close_if(&turn, |o| o.users == 0) {
            return Ok(turn);
        }
        Err(Error::new(Kind::Busy, format!("volume {} is in use", record.shown())).hint("detach it first"))
    }

    /// Starts filling what an earlier process left half filled.
    pub(super) fn start_hydration(self: &Arc<Self>) {
        let records = match self.on.records.volumes() {
            Ok(records) => records,
            Err(err) => return tracing::error!("look for volumes to fill: {}", err.line()),
        };
        for record in records.iter().filter(|r| r.parent.is_some() && !r.hydrated) {
            match self.acquire(record, Need::Sealed) {
                Ok(used) if used.volume.is_hydrated() => self.on.lineages.note_hydrated(record.id),
                Ok(_) => {}
                Err(err) => tracing::error!("fill {}: {}", record.shown(), err.line()),
            }
        }
    }

    fn start_filler(self: &Arc<Self>, volume: &Arc<Volume>) -> Option<Filler> {
        let (this, id) = (Arc::downgrade(self), volume.id());
        filler::start(volume.clone(), move || {
            if let Some(this) = this.upgrade() {
                this.filled(id);
            }
        })
    }

    /// A volume's filling has ended: its snapshot is not needed for that any more, and it is closed if nobody uses it.
    fn filled(&self, id: VolumeId) {
        self.on.lineages.note_hydrated(id);
        let mut opens = self.table.lock();
        if let Some(open) = opens.get_mut(&id) {
            open.filler = None; // this very thread: it ends by itself
            if open.is_unused() {
                // Closing it is the housekeeper's: who closes it now waits for this thread.
                open.idle_since = Some(Instant::now());
                drop(opens);
                self.on.housekeeper.wake();
            }
        }
    }

    /// Closes all of them.
    pub(super) fn close_all(&self) {
        let all: Vec<VolumeId> = self.table.lock().keys().copied().collect();
        for id in all {
            self.close_if(&self.on.turns.take(id), |_| true);
        }
    }
}

/// Ends its filling and closes it. Not while the table is locked: the filling asks for it at its end.
fn close(id: VolumeId, mut open: Open) {
    if let Some(filler) = open.filler.take() {
        filler.end();
    }
    if let Err(err) = open.volume.close() {
        tracing::error!("close {id}: {}; the next open will find it unclean", err.line());
    }
}
