//! Suspending and resuming open volumes: because of their CMK, because of their lease's grant, or by hand.

use super::keygate::KeyGate;
use super::opening::{Open, OpenVolumes};
use super::records::{Records, VolumeRecord};
use super::settings::OnKeyLoss;
use super::turns::{Turn, Turns};
use super::volume_keys::VolumeKeys;
use crate::error::Result;
use crate::kms::{Caller, Grant, Kms};
use crate::ledger::Act;
use crate::units::VolumeId;
use std::sync::Arc;

/// Wipes the keys of open volumes, and puts them back in place.
pub(super) struct Suspensions {
    kms: Arc<Kms>,
    records: Arc<Records>,
    keys: Arc<VolumeKeys>,
    keygate: Arc<KeyGate>,
    turns: Arc<Turns>,
    opens: Arc<OpenVolumes>,
}

impl Suspensions {
    /// Creates the suspensions of these open volumes.
    pub(super) fn new(
        kms: &Arc<Kms>,
        records: &Arc<Records>,
        keys: &Arc<VolumeKeys>,
        keygate: &Arc<KeyGate>,
        turns: &Arc<Turns>,
        opens: &Arc<OpenVolumes>,
    ) -> Self {
        Self {
            kms: kms.clone(),
            records: records.clone(),
            keys: keys.clone(),
            keygate: keygate.clone(),
            turns: turns.clone(),
            opens: opens.clone(),
        }
    }

    /// Wipes a volume's data key until the volume is resumed by hand.
    pub(super) fn suspend_by_hand(&self, record: &VolumeRecord, caller: &Caller) -> Result<VolumeRecord> {
        let act =
            Act::new("coffer:SuspendVolume").key(record.key_arn.clone()).detail("volume", record.id).restrictive();
        let next = self.records.change_volume(caller, act, record.id, |r| r.suspended = true)?;
        self.keygate.close(&record.id.to_string());
        self.opens.wipe(|id, _| (id == record.id).then(|| "by hand".to_owned()));
        Ok(next)
    }

    /// Ends a suspension by hand. The header's MAC is checked before any request continues.
    ///
    /// # Errors
    /// If the CMK is unusable: the volume then stays suspended.
    pub(super) fn resume_by_hand(&self, record: &VolumeRecord, caller: &Caller) -> Result<VolumeRecord> {
        let act = Act::new("coffer:ResumeVolume").key(record.key_arn.clone()).detail("volume", record.id);
        let resumed = |act| self.records.change_volume(caller, act, record.id, |r| r.suspended = false);
        let _turn = self.turns.take(record.id);
        let Some(volume) = self.opens.waiting(record.id) else {
            // Nothing waits for it. Without this check, only the next open would find out that the CMK is unusable.
            self.kms.keys().must_be_usable(&record.key_arn, "ResumeVolume")?;
            return resumed(act);
        };
        let lease = self.keys.as_resuming(record.id, caller)?;
        self.opens.unlock(self.keygate.ticket(), &volume, &lease)?;
        let next = resumed(act).inspect_err(|_| {
            volume.suspend();
        })?;
        self.opens.resume(record.id);
        Ok(next)
    }

    /// Handles a CMK that has become unusable: wipes the data keys of the open volumes under it, unless they are set to continue,
    /// and the ciphers of snapshot exports and of exports to files. Waits only for pieces that are being sealed or opened.
    pub(super) fn suspend_under(&self, arn: &str) {
        self.keygate.close(arn);
        self.keygate.wipe(arn);
        self.opens.wipe(|_, open| {
            let under = open.cmks.iter().any(|c| c == arn) && open.settings.on_key_loss() != OnKeyLoss::Continue;
            under.then(|| format!("its CMK {arn} cannot be used"))
        });
    }

    /// Suspends the volume whose lease depended on a grant that is gone, unless it is set to continue.
    pub(super) fn suspend_lease_of(&self, grant: &Grant) {
        match self.records.leased_under(&grant.id) {
            Ok(volumes) => {
                let why = format!("grant {} of its lease is gone", grant.id);
                volumes.into_iter().for_each(|id| self.suspend_one(id, &why));
            }
            Err(err) => {
                // The volume is unknown: suspending all volumes under the key is safer than suspending the wrong one.
                tracing::error!("find the lease of grant {}: {}", grant.id, err.line());
                self.suspend_under(&self.kms.key_arn(&grant.on()));
            }
        }
    }

    /// Wipes the data keys of a volume that its holder may no longer use, unless it is set to continue.
    fn suspend_one(&self, id: VolumeId, why: &str) {
        self.keygate.close(&id.to_string());
        self.opens.wipe(|this, open| {
            (this == id && open.settings.on_key_loss() != OnKeyLoss::Continue).then(|| why.to_owned())
        });
    }

    /// Resumes the suspended volumes under a CMK that is usable again, except those suspended by hand.
    pub(super) fn resume_under(&self, arn: &str) {
        self.resume_those(|open| open.cmks.iter().any(|c| c == arn));
    }

    /// Resumes all suspended volumes, except those suspended by hand.
    pub(super) fn resume_all(&self) {
        self.resume_those(|_| true);
    }

    fn resume_those(&self, which: impl Fn(&Open) -> bool) {
        let caller = self.records.own_caller("resume");
        let mut later = Vec::new();
        for id in self.opens.all_waiting(which) {
            match self.turns.try_take(id) {
                Some(turn) => self.resume_one(&turn, &caller),
                // Whoever has its turn may be waiting for a repository: the others come first.
                None => later.push(id),
            }
        }
        later.into_iter().for_each(|id| self.resume_one(&self.turns.take(id), &caller));
    }

    fn resume_one(&self, turn: &Turn<'_>, caller: &Caller) {
        let id = turn.id();
        let Some(volume) = self.opens.waiting(id) else { return };
        let ticket = self.keygate.ticket();
        let unlocked = self.records.volume(id).and_then(|found| {
            let by_hand = found.is_some_and(|r| r.suspended);
            if !by_hand {
                let lease = self.keys.as_resuming(id, caller)?;
                self.opens.unlock(ticket, &volume, &lease)?;
            }
            Ok(!by_hand)
        });
        match unlocked {
            Ok(true) => self.opens.resume(id),
            Ok(false) => {}
            Err(err) => tracing::error!("resume {id}: {}", err.line()),
        }
    }
}
