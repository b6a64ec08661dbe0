//! Open volumes whose key goes away and comes back: by what happens to their CMK or their lease's grant, or by hand.

use super::keygate::KeyGate;
use super::opening::{Open, OpenVolumes};
use super::records::{Records, VolumeRecord};
use super::settings::OnKeyLoss;
use super::turns::Turns;
use super::volume_keys::VolumeKeys;
use crate::error::Result;
use crate::kms::{Caller, Grant, Kms};
use crate::ledger::Act;
use crate::units::VolumeId;
use crate::volume::Volume;
use std::sync::Arc;

/// Takes keys away from volumes that are open, and gives them back.
pub(super) struct Suspensions {
    kms: Arc<Kms>,
    records: Arc<Records>,
    keys: Arc<VolumeKeys>,
    keygate: Arc<KeyGate>,
    turns: Arc<Turns>,
    opens: Arc<OpenVolumes>,
}

impl Suspensions {
    /// Of these open volumes.
    pub(super) const fn new(
        kms: Arc<Kms>,
        records: Arc<Records>,
        keys: Arc<VolumeKeys>,
        keygate: Arc<KeyGate>,
        turns: Arc<Turns>,
        opens: Arc<OpenVolumes>,
    ) -> Self {
        Self { kms, records, keys, keygate, turns, opens }
    }

    /// Wipes a volume's data key until it is resumed by hand.
    pub(super) fn suspend_by_hand(&self, record: &VolumeRecord, caller: &Caller) -> Result<VolumeRecord> {
        let act =
            Act::new("coffer:SuspendVolume").key(record.key_arn.clone()).detail("volume", record.id).restrictive();
        let next = self.records.change_volume(caller, act, record.id, |r| r.suspended = true)?;
        self.keygate.close(&record.id.to_string());
        self.wipe_those(|id, _| (id == record.id).then(|| "by hand".to_owned()));
        Ok(next)
    }

    /// The end of that. The header's MAC is checked before anything goes on.
    ///
    /// # Errors
    /// If its CMK cannot be used: it stays suspended then.
    pub(super) fn resume_by_hand(&self, record: &VolumeRecord, caller: &Caller) -> Result<VolumeRecord> {
        let act = Act::new("coffer:ResumeVolume").key(record.key_arn.clone()).detail("volume", record.id);
        let resumed = |act| self.records.change_volume(caller, act, record.id, |r| r.suspended = false);
        let _turn = self.turns.take(record.id);
        let Some(volume) = self.waiting(record.id) else {
            // Nobody waits for it; whoever opens it next would only then learn that its CMK cannot be used.
            self.kms.keys().must_be_usable(&record.key_arn, "ResumeVolume")?;
            return resumed(act);
        };
        let lease = self.keys.as_resuming(record.id, caller)?;
        self.opens.unlock(self.keygate.ticket(), &volume, &lease)?;
        let next = resumed(act).inspect_err(|_| {
            volume.suspend();
        })?;
        if let Some(open) = self.opens.lock().get_mut(&record.id) {
            open.resume();
        }
        Ok(next)
    }

    /// An open volume that somebody uses, and that waits for its key.
    fn waiting(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.opens.lock().get(&id).filter(|o| o.suspended).map(|o| o.volume.clone())
    }

    /// A CMK cannot be used any more: wipes the data keys of the open volumes under it, unless they are to go on, and the
    /// ciphers of snapshot exports and of exports to files. Waits for pieces that are being sealed or opened, for nothing else.
    pub(super) fn suspend_under(&self, arn: &str) {
        self.keygate.close(arn);
        self.keygate.wipe(arn);
        self.wipe_those(|_, open| {
            let under = open.cmks.iter().any(|c| c == arn) && open.settings.on_key_loss() != OnKeyLoss::Continue;
            under.then(|| format!("its CMK {arn} cannot be used"))
        });
    }

    /// A grant is gone: the volume whose lease lived by it is suspended, unless it was set to go on.
    pub(super) fn suspend_lease_of(&self, grant: &Grant) {
        match self.records.leased_under(&grant.id) {
            Ok(volumes) => {
                let why = format!("grant {} of its lease is gone", grant.id);
                volumes.into_iter().for_each(|id| self.suspend_one(id, &why));
            }
            Err(err) => {
                // Whose it was is not known: better all of the key's volumes than the wrong one.
                tracing::error!("look for the lease of grant {}: {}", grant.id, err.line());
                self.suspend_under(&self.kms.key_arn(grant.key));
            }
        }
    }

    /// A volume may not be used any more by those who have it: wipes its data keys, unless it is to go on.
    fn suspend_one(&self, id: VolumeId, why: &str) {
        self.keygate.close(&id.to_string());
        self.wipe_those(|this, open| {
            (this == id && open.settings.on_key_loss() != OnKeyLoss::Continue).then(|| why.to_owned())
        });
    }

    /// Wipes the data keys of those open volumes for which `why` has a reason. What is not unlocked yet is kept from it by
    /// the gate, which is closed before.
    fn wipe_those(&self, why: impl Fn(VolumeId, &Open) -> Option<String>) {
        let mut those = Vec::new();
        for (id, open) in self.opens.lock().iter_mut() {
            if let Some(why) = why(*id, open) {
                those.push((*id, open.volume.clone(), why));
            }
        }
        // Without `opens`: a piece that waits for its disk keeps nobody from opening or closing another volume.
        for (id, volume, why) in those {
            if volume.suspend() {
                tracing::warn!("{id} is suspended: {why}");
                let away = !volume.is_unlocked();
                if let Some(open) = self.opens.lock().get_mut(&id).filter(|o| Arc::ptr_eq(&o.volume, &volume)) {
                    open.suspended = open.is_used() && away;
                }
            }
        }
    }

    /// A CMK can be used again: the suspended volumes under it go on, but for those suspended by hand.
    pub(super) fn resume_under(&self, arn: &str) {
        self.resume_those(|open| open.cmks.iter().any(|c| c == arn));
    }

    /// All keys can be used again.
    pub(super) fn resume_all(&self) {
        self.resume_those(|_| true);
    }

    fn resume_those(&self, which: impl Fn(&Open) -> bool) {
        let caller = self.records.own_caller("resume");
        let those: Vec<VolumeId> =
            self.opens.lock().iter().filter(|(_, o)| o.suspended && which(o)).map(|(id, _)| *id).collect();
        for id in those {
            let _turn = self.turns.take(id);
            let Some(volume) = self.waiting(id) else { continue };
            let ticket = self.keygate.ticket();
            let unlocked = self.records.volume(id).and_then(|found| {
                let by_hand = found.is_some_and(|r| r.suspended);
                if !by_hand {
                    let lease = self.keys.as_resuming(id, &caller)?;
                    self.opens.unlock(ticket, &volume, &lease)?;
                }
                Ok(!by_hand)
            });
            match unlocked {
                Ok(true) => drop(self.opens.lock().get_mut(&id).map(Open::resume)),
                Ok(false) => {}
                Err(err) => tracing::error!("resume {id}: {}", err.line()),
            }
        }
    }
}
