//! Attachments: what `coffer attach` registered, each with a token that is shown once and kept as a hash. The lease of an
//! attachment lasts until `coffer detach`, also while no server runs.

use super::datadir::Role;
use super::lease::{Holder, Leases, busy};
use super::records::{AttachmentRecord, Records, VolumeRecord, with_grants};
use super::token;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Grant};
use crate::ledger::Act;
use crate::units::VolumeId;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Prefix of an attachment's id and of its token.
const PREFIX: &str = "att-";

/// The attachments of all volumes.
pub(super) struct Attachments {
    env: Env,
    role: Role,
    records: Arc<Records>,
    leases: Arc<Leases>,
}

impl Attachments {
    /// Creates the view of the attachments in these records; `leases` knows all other holders.
    pub(super) fn new(env: &Env, role: Role, records: &Arc<Records>, leases: &Arc<Leases>) -> Self {
        Self { env: env.clone(), role, records: records.clone(), leases: leases.clone() }
    }

    /// Refuses a volume with an attachment unless this is the server: the attachment's kernel device waits to reconnect.
    pub(super) fn refuse_if_elsewhere(&self, record: &VolumeRecord) -> Result<()> {
        match self.records.attachment_of(record.id)? {
            Some(att) if self.role == Role::Command => Err(busy(record, &format!("an attachment as {}", att.device))),
            _ => Ok(()),
        }
    }

    /// Returns the holder of a volume, in words.
    pub(super) fn holder_of(&self, id: VolumeId) -> Result<Option<String>> {
        if let Some(att) = self.records.attachment_of(id)? {
            return Ok(Some(format!("attachment {} as {}", att.id, att.device)));
        }
        Ok(self.leases.shown(id))
    }

    /// Returns the holder for a connection: the attachment that its token belongs to, or its peer if the volume has no
    /// attachment.
    ///
    /// # Errors
    /// [`Kind::Busy`] if the volume has an attachment and the token is not its own; [`Kind::NotFound`] for a token without an
    /// attachment.
    pub(super) fn holder_for(&self, record: &VolumeRecord, token: Option<&str>, peer: Holder) -> Result<Holder> {
        let registered = self.records.attachment_of(record.id)?;
        match (registered, token) {
            (Some(att), Some(token)) if att.is_opened_by(token) => Ok(Holder::Attachment(att.id)),
            (Some(att), _) => Err(busy(record, &format!("attachment {} as {}", att.id, att.device))),
            (None, Some(_)) => Err(Error::new(
                Kind::NotFound,
                format!("volume {}: no attachment has this token; it was detached", record.shown()),
            )
            .hint("attach the volume again")),
            (None, None) => Ok(peer),
        }
    }

    /// Returns the attachment with that id or device, or of that volume.
    pub(super) fn find(&self, what: &str) -> Result<AttachmentRecord> {
        let all = self.records.ledger().catalog().list::<AttachmentRecord>()?.records;
        let by_volume = self.records.find_volume(what).ok().map(|r| r.id);
        all.into_iter()
            .map(|r| r.record)
            .find(|a| a.device == what || a.id == what || Some(a.volume) == by_volume)
            .ok_or_else(|| not_attached(what))
    }

    /// Returns all attachments.
    pub(super) fn all(&self) -> Result<Vec<AttachmentRecord>> {
        let all = self.records.ledger().catalog().list::<AttachmentRecord>()?.records;
        Ok(all.into_iter().map(|r| r.record).collect())
    }

    /// Registers an attachment with these grants, and creates its token.
    pub(super) fn add(
        &self,
        record: &VolumeRecord,
        device: &str,
        given: &[Grant],
        caller: &Caller,
    ) -> Result<(AttachmentRecord, Zeroizing<String>)> {
        let mut raw = [0u8; 16];
        self.env.rng.fill(&mut raw);
        let id = format!("{PREFIX}{}", &hex::encode(raw)[..17]);
        let secret = token::draw(PREFIX);
        let (device, token) = (device.to_owned(), Some(token::hash(&secret)));
        let grants = given.iter().map(|g| g.id.clone()).collect();
        let att = AttachmentRecord { id, volume: record.id, device, created: self.env.now(), token, grants };
        let act = Act::new("ec2:AttachVolume")
            .detail("volume", record.id)
            .detail("device", &att.device)
            .detail("attachment", &att.id);
        self.records.ledger().audited(caller, with_grants(act, &att.grants), |tx| {
            given.iter().try_for_each(|grant| grant.put(tx))?;
            tx.insert(&att)
        })?;
        Ok((att, secret))
    }

    /// Replaces the token of an attachment. A client with the old token cannot connect any longer.
    pub(super) fn renew(
        &self,
        att: &AttachmentRecord,
        what: &str,
        caller: &Caller,
    ) -> Result<(AttachmentRecord, Zeroizing<String>)> {
        let secret = token::draw(PREFIX);
        let act = Act::new("coffer:RenewAttachment").detail("volume", att.volume).detail("attachment", &att.id);
        let renewed = self.records.ledger().audited(caller, act, |tx| {
            let found = tx.get::<AttachmentRecord>(&att.id)?.ok_or_else(|| not_attached(what))?;
            tx.update(&AttachmentRecord { token: Some(token::hash(&secret)), ..found.record }, found.version)
        })?;
        Ok((renewed.record, secret))
    }

    /// Removes an attachment and its grants.
    pub(super) fn remove(&self, att: &AttachmentRecord, caller: &Caller) -> Result<()> {
        let act = Act::new("ec2:DetachVolume").detail("volume", att.volume).detail("attachment", &att.id).restrictive();
        self.records.ledger().audited(caller, act, |tx| match tx.get::<AttachmentRecord>(&att.id)? {
            Some(found) => {
                found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                tx.delete::<AttachmentRecord>(&att.id, found.version)
            }
            None => Ok(()),
        })
    }
}

/// Returns the error for a volume without a holder.
pub(super) fn not_attached(what: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} is not attached")).hint("see `coffer attachments`")
}
