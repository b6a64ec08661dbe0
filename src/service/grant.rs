//! The grants that volumes' leases live by.
//!
//! Who begins a lease is asked once: the policy of the volume's CMK, for CreateGrant and Decrypt. A lease that outlives its
//! connections (an attachment, a client over TLS) is given a grant of the volume service, in the transaction that writes the
//! lease; a restart or a resume opens the volume under that grant alone. It goes with the lease. If it is taken back before, the
//! volume is suspended, and stays so until it is detached and attached again.

use super::attachment::AttachmentRecord;
use super::lease::LeaseRecord;
use super::volume::VolumeRecord;
use super::{EC2, Holder, Service, context_of};
use crate::cipher::wrap::{EncryptionContext, KeyId};
use crate::error::Result;
use crate::kms::{Authority, Caller, Grant, KeyRef};
use crate::units::VolumeId;
use crate::volume::Volume;

impl Service {
    /// Asks whether a caller may have a volume: before its lease, and also while the volume is open for others.
    pub(super) fn ask_for_lease(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        let client = format!("{}, volume {}", caller.client, record.id);
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        self.kms.ask_for_volume(&record.key_arn.parse()?, &context_of(&record.context)?, &caller)
    }

    /// Asks whether a caller may have an open volume's data key in clear: of each CMK that wraps it.
    pub(super) fn ask_for_export(&self, volume: &Volume, caller: &Caller) -> Result<()> {
        let (keys, context) = self.wrapped_under(volume)?;
        let client = format!("{}, volume {}", caller.client, volume.id());
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        keys.into_iter().try_for_each(|key| self.kms.ask_for_export(&KeyRef::id(key), &context, &caller))
    }

    /// The CMKs that wrap an open volume's data keys, and under which encryption context.
    fn wrapped_under(&self, volume: &Volume) -> Result<(Vec<KeyId>, EncryptionContext)> {
        let (blobs, context) = volume.with_header(|h| {
            let blobs: Vec<_> = h.keys().iter().flat_map(|k| k.keys.clone()).collect();
            (blobs, h.identity().context.clone())
        });
        let mut keys: Vec<KeyId> = Vec::new();
        for wrapped in blobs {
            let id = self.kms.blob_info(&wrapped.blob)?.key_id;
            if !keys.contains(&id) {
                keys.push(id);
            }
        }
        Ok((keys, context_of(&context)?))
    }

    /// Grants for a durable lease of an open volume: one on each CMK that wraps a key of it.
    pub(super) fn lease_grants(&self, volume: &Volume, caller: &Caller) -> Result<Vec<Grant>> {
        let (keys, context) = self.wrapped_under(volume)?;
        Ok(keys.into_iter().map(|key| self.kms.lease_grant(key, &context, caller)).collect())
    }

    /// The caller as it asks for a volume that it has already: under its lease's grants, or, in a process's or an address's
    /// lease, as one that was let in. Leases from before there were grants have none: their callers are asked anew.
    pub(super) fn as_holder(&self, id: VolumeId, holder: &Holder, had_it: bool, caller: &Caller) -> Result<Caller> {
        let authority = match holder {
            _ if !had_it => caller.authority.clone(),
            Holder::Attachment(_) | Holder::Remote(_) => match self.grants_of_lease(id)? {
                Some(grants) if !grants.is_empty() => Authority::Grants(grants),
                Some(_) => caller.authority.clone(),
                None => Authority::Settled, // it only reads
            },
            Holder::Process { .. } | Holder::Connection(_) | Holder::Address(_) => Authority::Settled,
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// The grants that a volume's durable lease lives by. None: it has no such lease.
    fn grants_of_lease(&self, id: VolumeId) -> Result<Option<Vec<String>>> {
        if let Some(found) = self.ledger().catalog().find::<AttachmentRecord>(&id.to_string())? {
            return Ok(Some(found.record.grants));
        }
        Ok(self.ledger().catalog().get::<LeaseRecord>(&id.to_string())?.map(|f| f.record.grants))
    }

    /// Who unwraps a suspended volume's keys again: its durable lease's grants, else this caller.
    pub(super) fn as_resuming(&self, id: VolumeId, caller: &Caller) -> Result<Caller> {
        let authority = match self.grants_of_lease(id)? {
            Some(grants) if !grants.is_empty() => Authority::Grants(grants),
            _ => caller.authority.clone(),
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// A suspended volume whose lease lost its grant is opened for nobody until that lease is over.
    pub(super) fn refuse_if_revoked(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        match self.as_resuming(record.id, caller)? {
            lease if matches!(lease.authority, Authority::Grants(_)) => self.ask_for_lease(record, &lease),
            _ => Ok(()),
        }
    }

    /// A grant is gone: the volume whose lease lived by it is suspended, unless it was set to go on.
    pub(super) fn suspend_lease_of(&self, grant: &Grant) {
        let lived = |grants: &Vec<String>| grants.contains(&grant.id);
        let catalog = self.ledger().catalog();
        let attached = catalog.list::<AttachmentRecord>().map(|all| {
            all.records.into_iter().filter(|a| lived(&a.record.grants)).map(|a| a.record.volume).collect::<Vec<_>>()
        });
        let leased = catalog.list::<LeaseRecord>().map(|all| {
            all.records.into_iter().filter(|l| lived(&l.record.grants)).map(|l| l.record.volume).collect::<Vec<_>>()
        });
        match (attached, leased) {
            (Ok(attached), Ok(leased)) => {
                let why = format!("grant {} of its lease is gone", grant.id);
                attached.into_iter().chain(leased).for_each(|id| self.suspend_one(id, &why));
            }
            (Err(err), _) | (_, Err(err)) => {
                // Whose it was is not known: better all of the key's volumes than the wrong one.
                tracing::error!("look for the lease of grant {}: {}", grant.id, err.line());
                self.suspend_volumes(&self.kms.key_arn(grant.key));
            }
        }
    }
}
