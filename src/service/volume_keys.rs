//! The data keys of volumes, as the service unwraps them through the KMS, and the grants that leases depend on.
//!
//! Starting a lease is checked once, against the policy of the volume's CMK, for CreateGrant and Decrypt. A lease that outlives
//! its connections (of an attachment, or of a TLS client) gets a grant for the volume service, in the transaction that writes the
//! lease. After a restart or a resume, the volume is opened under that grant only. The grant ends with the lease. If it is
//! revoked before, the volume is suspended until it is detached and attached again.

use super::lease::Holder;
use super::records::{EC2, Records, VolumeRecord};
use crate::cipher::wrap::EncryptionContext;
use crate::cipher::{DataKey, Unwrapped};
use crate::error::{Error, Kind, Result};
use crate::kms::{Authority, Caller, Grant, KeyName, KeyRef, Kms};
use crate::units::{DataKeyId, KeyEpoch, SnapshotId, VolumeId};
use crate::volume::Volume;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Wrapped data keys and their encryption context.
type Wrapped<'a> = (&'a [(DataKeyId, Vec<u8>)], &'a BTreeMap<String, String>);

/// Unwraps the keys of volumes and snapshots through the KMS.
pub(super) struct VolumeKeys {
    kms: Arc<Kms>,
    records: Arc<Records>,
}

impl VolumeKeys {
    /// Creates the unwrapping with this KMS, under the grants in the records.
    pub(super) fn new(kms: &Arc<Kms>, records: &Arc<Records>) -> Self {
        Self { kms: kms.clone(), records: records.clone() }
    }

    /// Returns the ARNs of the CMKs that wrap a volume's data keys, by the key id in each blob, never by the ARN shown beside it.
    pub(super) fn cmks_of(&self, volume: &Volume) -> Vec<String> {
        let blobs: Vec<_> = volume.with_header(|h| h.keys().iter().flat_map(|k| k.keys.clone()).collect());
        let mut arns: Vec<String> =
            blobs.iter().filter_map(|k| self.kms.crypto().blob_info(&k.blob).ok()).map(|i| i.key_arn).collect();
        arns.sort();
        arns.dedup();
        arns
    }

    /// Unwraps all data keys of a volume. After an interrupted rewrap the header has two blobs for a key; the newer one is tried
    /// first.
    ///
    /// # Errors
    /// The KMS's errors for the keys; [`Kind::Integrity`] if a key has no blob.
    pub(super) fn unwrap(&self, volume: &Volume, caller: &Caller) -> Result<Vec<(KeyEpoch, Unwrapped<DataKey>)>> {
        let (slots, keys, context) = volume.with_header(|h| {
            let keys: Vec<_> = h.keys().into_iter().cloned().collect();
            (h.identity().key_epochs.clone(), keys, h.identity().context.clone())
        });
        let context = context_of(&context)?;
        let client = format!("{}, volume {}", caller.client, volume.id());
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        let mut out = Vec::new();
        for slot in slots {
            let mut last =
                Error::new(Kind::Integrity, format!("{}: no wrapped key of epoch {}", volume.id(), slot.epoch));
            let blobs = keys.iter().flat_map(|k| &k.keys).filter(|k| k.epoch == slot.epoch);
            let mut found = None;
            for wrapped in blobs {
                match self.kms.crypto().unwrap_volume_key(&wrapped.blob, &context, slot.data_key_id, &caller) {
                    Ok(key) => {
                        found = Some(key);
                        break;
                    }
                    Err(err) => last = err,
                }
            }
            out.push((slot.epoch, found.ok_or_else(|| last.context(format!("open volume {}", volume.id())))?));
        }
        Ok(out)
    }

    /// Returns the ARNs of the CMKs that wrap a snapshot's data keys.
    pub(super) fn cmks_of_blobs(&self, blobs: &[(DataKeyId, Vec<u8>)]) -> Result<Vec<String>> {
        blobs.iter().map(|(_, blob)| Ok(self.kms.crypto().blob_info(blob)?.key_arn)).collect()
    }

    /// Unwraps a snapshot's data keys for a caller, who is checked and audited.
    ///
    /// # Errors
    /// The KMS's errors for the keys.
    pub(super) fn unwrap_blobs(
        &self,
        (snapshot, context): (SnapshotId, &BTreeMap<String, String>),
        blobs: Vec<(DataKeyId, Vec<u8>)>,
        caller: &Caller,
    ) -> Result<Vec<(DataKeyId, Unwrapped<DataKey>)>> {
        let (context, caller) = (context_of(context)?, for_snapshot(snapshot, caller));
        let unwrap = |(id, blob): (DataKeyId, Vec<u8>)| {
            Ok((id, self.kms.crypto().unwrap_volume_key(&blob, &context, id, &caller)?))
        };
        blobs.into_iter().map(unwrap).collect()
    }

    /// Makes the data key of a copy under a CMK. Returns it wrapped, and in clear.
    ///
    /// # Errors
    /// The KMS's errors for the CMK.
    pub(super) fn new_key(
        &self,
        key: &KeyRef,
        (snapshot, context): (SnapshotId, &BTreeMap<String, String>),
        caller: &Caller,
    ) -> Result<(Vec<u8>, Unwrapped<DataKey>)> {
        self.kms.crypto().new_volume_key(key, &context_of(context)?, &for_snapshot(snapshot, caller))
    }

    /// Checks whether a caller may make a copy: `from`, the source's wrapped data keys and their context, and `to`, those of the copy.
    /// Returns grants for the service to continue it: one on each CMK.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] by the policy of a CMK.
    pub(super) fn grants_for_copy(
        &self,
        snapshot: SnapshotId,
        (from, source): Wrapped<'_>,
        (to, copy): (&[u8], &BTreeMap<String, String>),
        caller: &Caller,
    ) -> Result<Vec<Grant>> {
        let (source, copy, caller) = (context_of(source)?, context_of(copy)?, for_snapshot(snapshot, caller));
        let mut keys: Vec<KeyName> = Vec::new();
        for (_, blob) in from {
            let key = self.kms.crypto().blob_info(blob)?.key;
            if !keys.contains(&key) {
                self.kms.authorizer().ask_for_volume(&KeyRef::named(&key), &source, &caller)?;
                keys.push(key);
            }
        }
        let to = self.kms.crypto().blob_info(to)?.key;
        self.kms.authorizer().ask_for_copy(&KeyRef::named(&to), &copy, &caller)?;
        let mut grants: Vec<_> = keys.iter().map(|key| self.kms.grants().for_lease(key, &source, &caller)).collect();
        grants.push(self.kms.grants().for_lease(&to, &copy, &caller));
        Ok(grants)
    }

    /// Returns the ARN of a CMK that is named by id, ARN or alias. `None`: the service's own, which does not exist yet.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(super) fn arn_of(&self, key: &KeyRef) -> Result<Option<String>> {
        match self.kms.keys().describe(key) {
            Ok(found) => Ok(Some(found.arn)),
            Err(err) if err.kind() == Kind::NotFound && *key == KeyRef::ebs_default() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Checks whether a caller may have a volume: before the start of its lease, also while the volume is open for others.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] by the policy of its CMK.
    pub(super) fn ask_for_lease(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        let client = format!("{}, volume {}", caller.client, record.id);
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        self.kms.authorizer().ask_for_volume(&record.key_arn.parse()?, &context_of(&record.context)?, &caller)
    }

    /// Checks whether a caller may have an open volume's data key in clear, against each CMK that wraps it.
    pub(super) fn ask_for_export(&self, volume: &Volume, caller: &Caller) -> Result<()> {
        let (keys, context) = self.wrapped_under(volume)?;
        let client = format!("{}, volume {}", caller.client, volume.id());
        let caller = Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() };
        keys.into_iter()
            .try_for_each(|key| self.kms.authorizer().ask_for_export(&KeyRef::named(&key), &context, &caller))
    }

    /// Returns the CMKs that wrap an open volume's data keys, and the encryption context.
    fn wrapped_under(&self, volume: &Volume) -> Result<(Vec<KeyName>, EncryptionContext)> {
        let (blobs, context) = volume.with_header(|h| {
            let blobs: Vec<_> = h.keys().iter().flat_map(|k| k.keys.clone()).collect();
            (blobs, h.identity().context.clone())
        });
        let mut keys: Vec<KeyName> = Vec::new();
        for wrapped in blobs {
            let key = self.kms.crypto().blob_info(&wrapped.blob)?.key;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok((keys, context_of(&context)?))
    }

    /// Returns grants for a durable lease of an open volume: one on each CMK that wraps its keys.
    pub(super) fn lease_grants(&self, volume: &Volume, caller: &Caller) -> Result<Vec<Grant>> {
        let (keys, context) = self.wrapped_under(volume)?;
        Ok(keys.into_iter().map(|key| self.kms.grants().for_lease(&key, &context, caller)).collect())
    }

    /// Returns the caller for a volume that it may already have: under the grants of its lease, or as settled for the lease of a
    /// process, connection or address. A lease from before grants has none, so its caller is checked again.
    pub(super) fn as_holder(&self, id: VolumeId, holder: &Holder, had_it: bool, caller: &Caller) -> Result<Caller> {
        let authority = match holder {
            _ if !had_it => caller.authority.clone(),
            Holder::Attachment(_) | Holder::Remote(_) => match self.records.grants_of_lease(id)? {
                Some(grants) if !grants.is_empty() => Authority::Grants(grants),
                Some(_) => caller.authority.clone(),
                None => Authority::Settled, // it only reads
            },
            Holder::Process { .. } | Holder::Connection(_) | Holder::Address(_) => Authority::Settled,
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// Returns the caller that unwraps a suspended volume's keys again: under the grants of its durable lease, else as given.
    pub(super) fn as_resuming(&self, id: VolumeId, caller: &Caller) -> Result<Caller> {
        let authority = match self.records.grants_of_lease(id)? {
            Some(grants) if !grants.is_empty() => Authority::Grants(grants),
            _ => caller.authority.clone(),
        };
        Ok(Caller { authority, ..caller.clone() })
    }

    /// Refuses a suspended volume whose lease lost its grant, until that lease ends.
    pub(super) fn refuse_if_revoked(&self, record: &VolumeRecord, caller: &Caller) -> Result<()> {
        match self.as_resuming(record.id, caller)? {
            lease if matches!(lease.authority, Authority::Grants(_)) => self.ask_for_lease(record, &lease),
            _ => Ok(()),
        }
    }
}

/// Returns a caller for whom the service uses the keys of a snapshot.
fn for_snapshot(snapshot: SnapshotId, caller: &Caller) -> Caller {
    let client = format!("{}, snapshot {snapshot}", caller.client);
    Caller { via_service: Some(EC2.to_owned()), client, ..caller.clone() }
}

/// Converts the encryption context of a header or a snapshot for the KMS.
pub(super) fn context_of(pairs: &BTreeMap<String, String>) -> Result<EncryptionContext> {
    let mut context = EncryptionContext::new();
    for (key, value) in pairs {
        context.insert(key, value)?;
    }
    Ok(context)
}
