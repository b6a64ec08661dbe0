//! Attachments, and how a connection gets its volume: who it is, its lease, its key.
//!
//! A client is known by the token in its export's name (`web?t=att-…`, told once by [`Service::begin_attachment`] and kept
//! hashed in the catalog), else by its certificate's name, else by its process on a Unix socket, else by its address on TCP.
//! An attachment's lease lasts until `coffer detach`, also across restarts of the server; that of a client over TLS a grace
//! beyond a connection that ended without a farewell; any other ends with its last connection (see [`super::lease`]).

use super::api::AttachmentInfo;
use super::lease::{LeaseRequest, Left, busy};
use super::opening::{InUse, Need};
use super::records::{AttachmentRecord, LeaseRecord, VolumeRecord};
use super::token::{self, ExportName};
use super::{Holder, Role, Service, Settings};
use crate::error::{Error, Kind, Result};
use crate::kms::{Caller, Grant};
use crate::ledger::Act;
use crate::units::{SnapshotId, VolumeId};
use crate::volume::Volume;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How old a request of `coffer attach` may get before it is not applied any more: half the request timeout that it gives to
/// the kernel.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// What an attachment's id and its token begin with.
const PREFIX: &str = "att-";

/// A volume as the NBD edge sees it before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedExport {
    /// The name to ask for.
    pub name: String,
    /// For people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Whether writes will be refused.
    pub read_only: bool,
}

/// A connection that wants a volume, as the edge knows it.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Who it is without a token.
    pub peer: Holder,
    /// The server's number of the connection.
    pub connection: u64,
}

/// One connection's use of a volume. Dropping it gives the connection's part of the lease back.
pub struct Attached {
    service: Arc<Service>,
    used: Option<InUse>,
    id: VolumeId,
    connection: u64,
    read_only: bool,
    /// It named its slot, as `coffer attach` does: what is dropped is sent again soon, and a closed connection dialled anew.
    redials: bool,
    farewell: AtomicBool,
}

impl Attached {
    pub(super) const fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The volume.
    ///
    /// # Panics
    /// Never: it is there until drop.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.used.as_ref().expect("held until drop").volume
    }

    /// What of it may change while it is attached.
    ///
    /// # Panics
    /// As [`Attached::volume`].
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.used.as_ref().expect("held until drop").settings
    }

    /// Whether this connection asked for reading alone.
    #[must_use]
    pub const fn reads_only(&self) -> bool {
        self.read_only
    }

    /// How old a request may get, if its client's request timeout is known.
    #[must_use]
    pub fn stale_after(&self) -> Option<Duration> {
        self.redials.then_some(STALE_AFTER)
    }

    /// The client has said goodbye: its lease need not be kept for it.
    pub fn farewell(&self) {
        self.farewell.store(true, Ordering::Release);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.used = None;
        let farewell = self.farewell.load(Ordering::Acquire);
        if let Left::Ended(Holder::Remote(name)) = self.service.leases.leave(self.id, self.connection, farewell) {
            self.service.forget_lease(self.id, &name);
        }
    }
}

/// The volume or snapshot that an export's name asks for, without the parameters behind it.
///
/// # Errors
/// [`Kind::Usage`] for parameters that are not understood.
pub fn named(export: &str) -> Result<&str> {
    ExportName::parse(export).map(|name| name.volume)
}

/// One connection's use of a snapshot, which can be taken from it by force. To be dropped when nothing of the snapshot is open.
pub struct Reading {
    service: Arc<Service>,
    snapshot: SnapshotId,
    connection: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.service.leases.leave_readers(self.snapshot, self.connection);
    }
}

impl Service {
    /// Notes who reads a snapshot.
    ///
    /// # Errors
    /// [`Kind::Busy`] while its readers are sent away.
    pub fn reading(self: &Arc<Self>, snapshot: SnapshotId, asking: ConnectRequest) -> Result<Reading> {
        self.leases.join_readers(snapshot, asking.connection, asking.peer)?;
        Ok(Reading { service: self.clone(), snapshot, connection: asking.connection })
    }

    /// Sends all away who read a snapshot.
    fn break_reading(&self, caller: &Caller, snapshot: SnapshotId) -> Result<String> {
        let shown = snapshot.to_string();
        let holder = self.leases.readers_shown(snapshot).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{shown} is read by nobody")).hint("see `coffer snapshot list`")
        })?;
        let act = Act::new("coffer:BreakLease").detail("snapshot", snapshot).detail("holder", &holder).restrictive();
        self.ledger().audited(caller, act, |_| Ok(()))?;
        self.leases.break_readers(snapshot)?;
        Ok(format!("snapshot {shown} is taken from {holder}"))
    }

    /// What can be attached.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn exports(&self) -> Result<Vec<ServedExport>> {
        self.records.volumes()?.iter().map(|r| self.served(r)).collect()
    }

    /// What one export would be. An empty name stands for the only volume there is.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn export(&self, name: &str) -> Result<ServedExport> {
        let read_only = ExportName::parse(name)?.read_only;
        Ok(ServedExport { read_only, ..self.served(&self.records.exported(name)?)? })
    }

    pub(super) fn served(&self, record: &VolumeRecord) -> Result<ServedExport> {
        Ok(ServedExport {
            name: record.name.clone().unwrap_or_else(|| record.id.to_string()),
            description: format!("coffer volume {}", record.id),
            size: record.size,
            read_only: false,
        })
    }

    /// Attaches one connection: takes or joins the lease, asks the policy of the CMK whether the caller may have the volume,
    /// unwraps the data key. A holder that had the volume already is not asked again (`service/grant.rs`), and gets it
    /// without its key too, if that cannot be had now: requests are held then until it can.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds the volume; [`Kind::AccessDenied`] by the CMK's policy; what the KMS says of its key; what opening reports.
    pub fn attach(self: &Arc<Self>, name: &str, asking: ConnectRequest, caller: &Caller) -> Result<Attached> {
        let record = self.records.exported(name)?;
        let asked = ExportName::parse(name)?;
        let holder = self.holder_for(&record, asked.token, asking.peer)?;
        let connection = asking.connection;
        let slot = asked.slot.filter(|_| holder.is_known());
        let redials = slot.is_some() && matches!(holder, Holder::Attachment(_));
        let newcomer = LeaseRequest { holder: holder.clone(), connection, slot, reading: asked.read_only };
        self.leases.join(&record, newcomer)?;
        let (id, read_only, farewell) = (record.id, asked.read_only, AtomicBool::new(false));
        let mut attached = Attached { service: self.clone(), used: None, id, connection, read_only, redials, farewell };
        // Who has only joined may be beside a connection that is being refused just now.
        let had_it = match holder {
            Holder::Attachment(_) => true,
            Holder::Remote(_) => self.leases.is_let_in(id, &holder),
            // A process may have become another user since.
            Holder::Process { .. } | Holder::Address(_) | Holder::Connection(_) => {
                self.leases.is_let_in(id, &holder) && self.opens.is_open_for(id, &caller.principal)
            }
        };
        let opened = self.keys.as_holder(id, &holder, had_it, caller).and_then(|now| {
            self.keys.ask_for_lease(&record, &now)?;
            self.opens.acquire(&record, Need::Key(&now))
        });
        let used = match opened {
            Err(err) if err.kind() == Kind::KeyUnavailable && had_it => {
                tracing::warn!("{name_shown} is attached suspended: {}", err.line(), name_shown = record.shown());
                self.opens.acquire(&record, Need::Later)
            }
            other => other,
        };
        match used {
            Ok(used) => attached.used = Some(used),
            Err(err) => {
                // Who does not get in has nothing to come back to.
                if !self.leases.is_let_in(id, &holder) {
                    attached.farewell();
                }
                return Err(err.context(format!("attach {}", asked.volume)));
            }
        }
        if self.leases.authorize(id, &holder)
            && let Err(err) = self.note_lease(&record, &holder, read_only, attached.volume(), caller)
        {
            attached.farewell();
            return Err(err);
        }
        Ok(attached)
    }

    fn holder_for(&self, record: &VolumeRecord, token: Option<&str>, peer: Holder) -> Result<Holder> {
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

    /// A lease has begun: a client over TLS has the volume from now on, also when the server is started again; what an earlier
    /// one left without a farewell counts no more.
    fn note_lease(
        &self,
        record: &VolumeRecord,
        holder: &Holder,
        reading: bool,
        volume: &Volume,
        caller: &Caller,
    ) -> Result<()> {
        let _turn = self.leases.records.lock();
        let id = record.id.to_string();
        match holder {
            Holder::Remote(client) if !reading => {
                let given = self.keys.lease_grants(volume, caller)?;
                let grants = given.iter().map(|g| g.id.clone()).collect();
                let lease = LeaseRecord { volume: record.id, holder: client.clone(), since: self.env.now(), grants };
                let act = Act::new("ec2:AttachVolume").detail("volume", record.id).detail("client", client);
                self.ledger().audited(caller, with_grants(act, &lease.grants), |tx| {
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
            _ => match self.ledger().catalog().get::<LeaseRecord>(&id)? {
                Some(old) => self.drop_lease_record(record.id, &old.record.holder),
                None => Ok(()),
            },
        }
    }

    fn drop_lease_record(&self, id: VolumeId, client: &str) -> Result<()> {
        let act = Act::new("ec2:DetachVolume").detail("volume", id).detail("client", client).restrictive();
        self.ledger().audited(&self.records.own_caller("detach"), act, |tx| {
            match tx.get::<LeaseRecord>(&id.to_string())? {
                Some(found) if found.record.holder == client => {
                    found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                    tx.delete::<LeaseRecord>(&id.to_string(), found.version)
                }
                _ => Ok(()),
            }
        })
    }

    /// Its lease has ended, by a farewell or by force.
    fn forget_lease(&self, id: VolumeId, client: &str) {
        let _turn = self.leases.records.lock();
        if self.leases.is_held_by(id, &Holder::Remote(client.to_owned())) {
            return; // it is back already
        }
        if matches!(self.ledger().catalog().get::<LeaseRecord>(&id.to_string()), Ok(None)) {
            return; // it only read
        }
        let forgotten = self.drop_lease_record(id, client);
        if let Err(err) = forgotten {
            tracing::warn!("{id} is kept for {client} at the next start, though it said goodbye: {}", err.line());
        }
    }

    /// After a restart: who had a volume over TLS gets it back before anybody else.
    pub(super) fn keep_leases(&self) {
        match self.ledger().catalog().list::<LeaseRecord>() {
            Ok(all) => {
                for lease in all.records.into_iter().map(|r| r.record) {
                    self.leases.keep(lease.volume, Holder::Remote(lease.holder));
                }
            }
            Err(err) => tracing::error!("look for leases: {}", err.line()),
        }
    }

    /// Has connections of the server ended by `disconnect`, when a newer one takes their slot or their lease is broken.
    pub fn on_disconnect(&self, disconnect: impl Fn(u64) + Send + Sync + 'static) {
        self.leases.set_disconnect(Box::new(disconnect));
    }

    /// Without a server, a volume whose attachment lives is left alone: its kernel waits to connect again.
    pub(super) fn refuse_if_attached_elsewhere(&self, record: &VolumeRecord) -> Result<()> {
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

    pub(super) fn begin_attachment(
        self: &Arc<Self>,
        caller: &Caller,
        what: &str,
        device: &str,
    ) -> Result<AttachmentInfo> {
        let record = self.records.find_volume(what)?;
        if let Some(holder) = self.holder_of(record.id)? {
            return Err(busy(&record, &holder));
        }
        // The key is asked for now, so that a disabled CMK is the caller's error and not a failed mount.
        self.keys.ask_for_lease(&record, caller)?;
        let given = self.keys.lease_grants(&self.opens.acquire(&record, Need::Key(caller))?.volume, caller)?;
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
        self.ledger().audited(caller, with_grants(act, &att.grants), |tx| {
            given.iter().try_for_each(|grant| grant.put(tx))?;
            tx.insert(&att)
        })?;
        Ok(self.attachment_info(&att, Some(&record), Some(&secret)))
    }

    /// A new token for an attachment that lives on: whoever had the old one cannot connect with it any more.
    pub(super) fn renew_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.find_attachment(what)?;
        let secret = token::draw(PREFIX);
        let act = Act::new("coffer:RenewAttachment").detail("volume", att.volume).detail("attachment", &att.id);
        let renewed = self.ledger().audited(caller, act, |tx| {
            let found = tx.get::<AttachmentRecord>(&att.id)?.ok_or_else(|| not_attached(what))?;
            tx.update(&AttachmentRecord { token: Some(token::hash(&secret)), ..found.record }, found.version)
        })?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&renewed.record, record.as_ref(), Some(&secret)))
    }

    fn find_attachment(&self, what: &str) -> Result<AttachmentRecord> {
        let all = self.ledger().catalog().list::<AttachmentRecord>()?.records;
        let by_volume = self.records.find_volume(what).ok().map(|r| r.id);
        all.into_iter()
            .map(|r| r.record)
            .find(|a| a.device == what || a.id == what || Some(a.volume) == by_volume)
            .ok_or_else(|| not_attached(what))
    }

    /// Takes a volume from whoever holds it, attachment or not, or a snapshot from who reads it. Its connections are closed; what they were applying ends first.
    pub(super) fn break_lease(&self, caller: &Caller, what: &str) -> Result<String> {
        if let Ok(snapshot) = what.parse() {
            return self.break_reading(caller, snapshot);
        }
        let att = self.find_attachment(what).ok();
        let record = match &att {
            Some(att) => self.records.find_volume(&att.volume.to_string())?,
            None => self.records.find_volume(what)?,
        };
        let holder = self.holder_of(record.id)?.ok_or_else(|| not_attached(what))?;
        let act = Act::new("coffer:BreakLease").detail("volume", record.id).detail("holder", &holder).restrictive();
        self.ledger().audited(caller, act, |tx| {
            if let Some(att) = &att
                && let Some(found) = tx.get::<AttachmentRecord>(&att.id)?
            {
                found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                tx.delete::<AttachmentRecord>(&att.id, found.version)?;
            }
            match tx.get::<LeaseRecord>(&record.id.to_string())? {
                Some(found) => {
                    found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                    tx.delete::<LeaseRecord>(&record.id.to_string(), found.version)
                }
                None => Ok(()),
            }
        })?;
        self.leases.break_lease(&record)?;
        Ok(format!("volume {} is taken from {holder}", record.shown()))
    }

    pub(super) fn end_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.find_attachment(what)?;
        let act = Act::new("ec2:DetachVolume").detail("volume", att.volume).detail("attachment", &att.id).restrictive();
        self.ledger().audited(caller, act, |tx| match tx.get::<AttachmentRecord>(&att.id)? {
            Some(found) => {
                found.record.grants.iter().try_for_each(|grant| Grant::remove(tx, grant))?;
                tx.delete::<AttachmentRecord>(&att.id, found.version)
            }
            None => Ok(()),
        })?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&att, record.as_ref(), None))
    }

    pub(super) fn list_attachments(&self) -> Result<Vec<AttachmentInfo>> {
        let all = self.ledger().catalog().list::<AttachmentRecord>()?.records;
        all.iter()
            .map(|a| {
                let record = self.records.volume(a.record.volume)?;
                Ok(self.attachment_info(&a.record, record.as_ref(), None))
            })
            .collect()
    }

    /// `token`: of one just made.
    fn attachment_info(
        &self,
        att: &AttachmentRecord,
        record: Option<&VolumeRecord>,
        token: Option<&str>,
    ) -> AttachmentInfo {
        let name = record.and_then(|r| r.name.clone());
        let shown = name.clone().unwrap_or_else(|| att.volume.to_string());
        let endpoints = self.endpoints.lock();
        let socket = endpoints.iter().find_map(|e| e.strip_prefix("unix:").map(Into::into));
        AttachmentInfo {
            id: att.id.clone(),
            volume: att.volume,
            name,
            device: att.device.clone(),
            export: token.map_or_else(|| shown.clone(), |t| format!("{shown}?t={t}")),
            socket: socket.unwrap_or_else(|| self.data.nbd_socket()),
            created: att.created,
        }
    }
}

fn with_grants(act: Act, grants: &[String]) -> Act {
    act.detail("grant", grants.join(" "))
}

fn not_attached(what: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} is not attached")).hint("see `coffer attachments`")
}
