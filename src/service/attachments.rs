//! Attachments: what `coffer attach` registered, each with a token that is told once and kept hashed. The lease of one lasts
//! until `coffer detach`, also while no server runs.

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

/// What an attachment's id and its token begin with.
const PREFIX: &str = "att-";

/// The attachments of all volumes.
pub(super) struct Attachments {
    env: Env,
    role: Role,
    records: Arc<Records>,
    leases: Arc<Leases>,
}

impl Attachments {
    /// Those of these records; who else holds a volume, the leases know.
    pub(super) fn new(env: &Env, role: Role, records: &Arc<Records>, leases: &Arc<Leases>) -> Self {
        Self { env: env.clone(), role, records: records.clone(), leases: leases.clone() }
    }

    /// Without a server, a volume whose attachment lives is left alone: its kernel waits to connect again.
    pub(super) fn refuse_if_elsewhere(&self, record: &VolumeRecord) -> Result<()> {
        match self.records.attachment_of(record.id)? {
            Some(att) if self.role == Role::Command => Err(busy(record, &format!("an attachment as {}", att.device))),
            _ => Ok(()),
        }
    }

    /// Who holds a volume, in words.
    pub(super) fn holder_of(&self, id: VolumeId) -> Result<Option<String>> {
        if let Some(att) = self.records.attachment_of(id)? {
            return Ok(Some(format!("attachment {} as {}", att.id, att.device)));
        }
        Ok(self.leases.shown(id))
    }

    /// Who a connection is: the attachment whose token it has, else its peer where there is no attachment.
    ///
    /// # Errors
    /// [`Kind::Busy`] without the attachment's token; [`Kind::NotFound`] for the token of one that is gone.
    pub(super) fn holder_for(&self, record: &VolumeRecord, token: Option<&str>, peer: Holder) -> Result<Holder> {
        let registered = self.records.attachment_of(record.id)?;
        match (registered, token) {
            (Some(att), Some(token)) if att.is_opened_by(token) => Ok(Holder::Attachment(att.id)),
            (Some(att), _) => Err(busy(record, &format!("attachment {} as {}", att.id, att.device))),
            (None, Some(_)) => {
                Err(Error::new(Kind::NotFound, format!("volume {}: no attachment has this token", record.shown()))
                    .hint("it was detached; attach again"))
            }
            (None, None) => Ok(peer),
        }
    }

    /// The attachment of that id, device or volume.
    pub(super) fn find(&self, what: &str) -> Result<AttachmentRecord> {
        let all = self.records.ledger().catalog().list::<AttachmentRecord>()?.records;
        let by_volume = self.records.find_volume(what).ok().map(|r| r.id);
        all.into_iter()
            .map(|r| r.record)
            .find(|a| a.device == what || a.id == what || Some(a.volume) == by_volume)
            .ok_or_else(|| not_attached(what))
    }

    /// All of them.
    pub(super) fn all(&self) -> Result<Vec<AttachmentRecord>> {
        let all = self.records.ledger().catalog().list::<AttachmentRecord>()?.records;
        Ok(all.into_iter().map(|r| r.record).collect())
    }

    /// Registers one that lives by these grants, and makes its token.
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

    /// A new token for an attachment that lives on: whoever had the old one cannot connect with it any more.
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

    /// It is detached.
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

/// The error for what nobody holds.
pub(super) fn not_attached(what: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} is not attached")).hint("see `coffer attachments`")
}
