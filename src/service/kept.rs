//! The catalog's records of leases of TLS clients. They reserve a volume for the client that had it when the server restarts.

use super::lease::{Holder, Leases};
use super::records::{AttachmentRecord, LeaseRecord, Records, VolumeRecord, with_grants};
use super::volume_keys::VolumeKeys;
use crate::env::Env;
use crate::error::Result;
use crate::kms::{Caller, Grant};
use crate::ledger::Act;
use crate::units::VolumeId;
use crate::volume::Volume;
use parking_lot::Mutex;
use std::sync::Arc;

/// The catalog's records of leases.
pub(super) struct KeptLeases {
    env: Env,
    records: Arc<Records>,
    keys: Arc<VolumeKeys>,
    leases: Arc<Leases>,
    /// Held while a record is changed.
    turn: Mutex<()>,
}

impl KeptLeases {
    /// Creates the records of these leases.
    pub(super) fn new(env: &Env, records: &Arc<Records>, keys: &Arc<VolumeKeys>, leases: &Arc<Leases>) -> Self {
        Self {
            env: env.clone(),
            records: records.clone(),
            keys: keys.clone(),
            leases: leases.clone(),
            turn: Mutex::new(()),
        }
    }

    /// Records the start of a lease. A TLS client keeps the volume from now on, also across a restart of the server; the record
    /// of an earlier client that disconnected uncleanly is replaced or removed.
    pub(super) fn note(
        &self,
        record: &VolumeRecord,
        holder: &Holder,
        reading: bool,
        volume: &Volume,
        caller: &Caller,
    ) -> Result<()> {
        let _turn = self.turn.lock();
        let id = record.id.to_string();
        match holder {
            Holder::Remote(client) if !reading => {
                let given = self.keys.lease_grants(volume, caller)?;
                let grants = given.iter().map(|g| g.id.clone()).collect();
                let lease = LeaseRecord { volume: record.id, holder: client.clone(), since: self.env.now(), grants };
                let act = Act::new("ec2:AttachVolume").detail("volume", record.id).detail("client", client);
                self.records.ledger().audited(caller, with_grants(act, &lease.grants), |tx| {
                    given.iter().try_for_each(|grant| grant.put(tx))?;
                    match tx.get::<LeaseRecord>(&id)? {
                        Some(found) => {
                            found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                            tx.update(&lease, found.version).map(drop)
                        }
                        None => tx.insert(&lease).map(drop),
                    }
                })
            }
            _ => match self.records.ledger().catalog().get::<LeaseRecord>(&id)? {
                Some(old) => self.drop_record(record.id, &old.record.holder),
                None => Ok(()),
            },
        }
    }

    fn drop_record(&self, id: VolumeId, client: &str) -> Result<()> {
        let act = Act::new("ec2:DetachVolume").detail("volume", id).detail("client", client).restrictive();
        self.records.ledger().audited(&self.records.own_caller("detach"), act, |tx| {
            match tx.get::<LeaseRecord>(&id.to_string())? {
                Some(found) if found.record.holder == client => {
                    found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                    tx.delete::<LeaseRecord>(&id.to_string(), found.version)
                }
                _ => Ok(()),
            }
        })
    }

    /// Removes the record of a lease that ended because its client disconnected cleanly or because it was broken.
    pub(super) fn forget(&self, id: VolumeId, client: &str) {
        let _turn = self.turn.lock();
        if self.leases.is_held_by(id, &Holder::Remote(client.to_owned())) {
            return; // it is back already
        }
        if matches!(self.records.ledger().catalog().get::<LeaseRecord>(&id.to_string()), Ok(None)) {
            return; // it only read
        }
        let forgotten = self.drop_record(id, client);
        if let Err(err) = forgotten {
            tracing::warn!(
                "{id} will be kept for {client} at the next start, although its lease has ended: {}",
                err.line()
            );
        }
    }

    /// Restores the leases after a restart: a TLS client that had a volume gets it before anyone else.
    pub(super) fn keep_all(&self) {
        match self.records.ledger().catalog().list::<LeaseRecord>() {
            Ok(all) => {
                for lease in all.records.into_iter().map(|r| r.record) {
                    self.leases.keep(lease.volume, Holder::Remote(lease.holder));
                }
            }
            Err(err) => tracing::error!("list leases: {}", err.line()),
        }
    }

    /// Removes the records of a volume's attachment and lease when it is taken from its holder.
    pub(super) fn remove(
        &self,
        caller: &Caller,
        act: Act,
        id: VolumeId,
        attachment: Option<&AttachmentRecord>,
    ) -> Result<()> {
        self.records.ledger().audited(caller, act, |tx| {
            if let Some(att) = attachment
                && let Some(found) = tx.get::<AttachmentRecord>(&att.id)?
            {
                found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                tx.delete::<AttachmentRecord>(&att.id, found.version)?;
            }
            match tx.get::<LeaseRecord>(&id.to_string())? {
                Some(found) => {
                    found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                    tx.delete::<LeaseRecord>(&id.to_string(), found.version)
                }
                None => Ok(()),
            }
        })
    }
}
