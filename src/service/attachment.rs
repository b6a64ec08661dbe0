//! Attachments, and how a connection gets its volume: identity, lease, key.
//!
//! A client is identified by the token in its export name (`web?t=att-…`, shown once by [`Service::begin_attachment`] and kept as
//! a hash in the catalog), else by the name in its certificate, else by its process on a Unix socket, else by its address on TCP.
//! The lease of an attachment lasts until `coffer detach`, also across restarts of the server. That of a TLS client lasts for a
//! grace period beyond a connection that ended uncleanly. Any other lease ends with its last connection (see [`super::lease`]).

use super::api::AttachmentInfo;
use super::attachments::not_attached;
use super::kept::KeptLeases;
use super::lease::{LeaseRequest, Leases, Left, busy};
use super::opening::{InUse, Need};
use super::records::{AttachmentRecord, VolumeRecord};
use super::repositories::Repositories;
use super::token::ExportName;
use super::{Holder, Service, Settings};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::units::{SnapshotId, VolumeId};
use crate::volume::Volume;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The age after which a request of `coffer attach` is no longer applied: half the request timeout that it sets in the kernel.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// A volume or snapshot as the NBD front end sees it before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedExport {
    /// The export name to connect with.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A connection that asks for a volume, as the front end knows it.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Its identity without a token.
    pub peer: Holder,
    /// The server's number for the connection.
    pub connection: u64,
}

/// One connection's use of a volume. Dropping it releases the connection's part of the lease.
pub struct Attached {
    leases: Arc<Leases>,
    kept: Arc<KeptLeases>,
    repositories: Arc<Repositories>,
    used: Option<InUse>,
    id: VolumeId,
    connection: u64,
    read_only: bool,
    /// Whether it named its slot, as `coffer attach` does. Such a client soon resends what is dropped, and redials a closed
    /// connection.
    redials: bool,
    farewell: AtomicBool,
}

impl Attached {
    /// Returns the repositories of snapshots that the volume can be compared with.
    pub(super) const fn repositories(&self) -> &Arc<Repositories> {
        &self.repositories
    }

    /// Returns the volume.
    ///
    /// # Panics
    /// Never: it is set until drop.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.used.as_ref().expect("held until drop").volume
    }

    /// Returns the settings, which may change while the volume is attached.
    ///
    /// # Panics
    /// As [`Attached::volume`].
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.used.as_ref().expect("held until drop").settings
    }

    /// Returns whether this connection asked for read-only access.
    #[must_use]
    pub const fn reads_only(&self) -> bool {
        self.read_only
    }

    /// Returns the age after which a request is no longer applied, if the client's request timeout is known.
    #[must_use]
    pub fn stale_after(&self) -> Option<Duration> {
        self.redials.then_some(STALE_AFTER)
    }

    /// Notes that the client disconnected cleanly, so that its lease need not be kept for it.
    pub fn farewell(&self) {
        self.farewell.store(true, Ordering::Release);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.used = None;
        let farewell = self.farewell.load(Ordering::Acquire);
        if let Left::Ended(Holder::Remote(name)) = self.leases.leave(self.id, self.connection, farewell) {
            self.kept.forget(self.id, &name);
        }
    }
}

/// Returns the volume or snapshot in an export name, without the parameters after the `?`.
///
/// # Errors
/// [`Kind::Usage`] for unknown or malformed parameters.
pub fn named(export: &str) -> Result<&str> {
    ExportName::parse(export).map(|name| name.volume)
}

/// One connection's use of a snapshot, which can be revoked by force. Drop it only after everything of the snapshot is closed.
pub struct Reading {
    leases: Arc<Leases>,
    snapshot: SnapshotId,
    connection: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.leases.leave_readers(self.snapshot, self.connection);
    }
}

impl Service {
    /// Registers a reader of a snapshot.
    ///
    /// # Errors
    /// [`Kind::Busy`] while its readers are being disconnected.
    pub fn reading(&self, snapshot: SnapshotId, asking: ConnectRequest) -> Result<Reading> {
        self.leases.join_readers(snapshot, asking.connection, asking.peer)?;
        Ok(Reading { leases: self.leases.clone(), snapshot, connection: asking.connection })
    }

    /// Disconnects all readers of a snapshot.
    fn break_reading(&self, caller: &Caller, snapshot: SnapshotId) -> Result<String> {
        let shown = snapshot.to_string();
        let holder = self.leases.readers_shown(snapshot).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("snapshot {shown}: no client is reading it"))
                .hint("see `coffer snapshot list`")
        })?;
        let act = Act::new("coffer:BreakLease").detail("snapshot", snapshot).detail("holder", &holder).restrictive();
        self.ledger().audited(caller, act, |_| Ok(()))?;
        self.leases.break_readers(snapshot)?;
        Ok(format!("snapshot {shown} was taken from {holder}"))
    }

    /// Returns all volumes, as exports.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn exports(&self) -> Result<Vec<ServedExport>> {
        self.records.volumes()?.iter().map(|r| self.served(r)).collect()
    }

    /// Describes one export. An empty name stands for the only volume.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such volume; [`Kind::Usage`] for a malformed name.
    pub fn export(&self, name: &str) -> Result<ServedExport> {
        let read_only = ExportName::parse(name)?.read_only;
        Ok(ServedExport { read_only, ..self.served(&self.records.exported(name)?)? })
    }

    /// Describes a volume as an export.
    pub(super) fn served(&self, record: &VolumeRecord) -> Result<ServedExport> {
        Ok(ServedExport {
            name: record.name.clone().unwrap_or_else(|| record.id.to_string()),
            description: format!("coffer volume {}", record.id),
            size: record.size,
            read_only: false,
        })
    }

    /// Attaches one connection: takes or joins the lease, checks the policy of the CMK for the caller, and unwraps the data key.
    /// A holder that already has the volume is not checked again (`service/volume_keys.rs`). If its key is unavailable at the
    /// moment, it gets the volume without the key, and its requests are held until the key is available.
    ///
    /// # Errors
    /// [`Kind::Busy`] with the name of the holder; [`Kind::AccessDenied`] by the policy of the CMK; the KMS's errors for the key;
    /// the errors of opening the volume.
    pub fn attach(&self, name: &str, asking: ConnectRequest, caller: &Caller) -> Result<Attached> {
        let record = self.records.exported(name)?;
        let asked = ExportName::parse(name)?;
        let holder = self.attachments.holder_for(&record, asked.token, asking.peer)?;
        let connection = asking.connection;
        let slot = asked.slot.filter(|_| holder.is_known());
        let redials = slot.is_some() && matches!(holder, Holder::Attachment(_));
        let newcomer = LeaseRequest { holder: holder.clone(), connection, slot, reading: asked.read_only };
        self.leases.join(&record, newcomer)?;
        let (id, read_only, farewell) = (record.id, asked.read_only, AtomicBool::new(false));
        let (leases, kept, repositories) = (self.leases.clone(), self.kept.clone(), self.repositories.clone());
        let mut attached =
            Attached { leases, kept, repositories, used: None, id, connection, read_only, redials, farewell };
        // Whoever has only joined may be beside a connection that is just being refused.
        let had_it = match holder {
            Holder::Attachment(_) => true,
            Holder::Remote(_) => self.leases.is_let_in(id, &holder),
            // A process may have changed its user since.
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
                // A client that was never admitted has no lease to return to.
                if !self.leases.is_let_in(id, &holder) {
                    attached.farewell();
                }
                return Err(err.context(format!("attach {}", asked.volume)));
            }
        }
        if self.leases.authorize(id, &holder)
            && let Err(err) = self.kept.note(&record, &holder, read_only, attached.volume(), caller)
        {
            attached.farewell();
            return Err(err);
        }
        Ok(attached)
    }

    /// Sets the function that ends a connection of the server, for when a newer one takes its slot or its lease is broken.
    pub fn on_disconnect(&self, disconnect: impl Fn(u64) + Send + Sync + 'static) {
        self.leases.set_disconnect(Box::new(disconnect));
    }

    /// Registers an attachment: checks the policy of the CMK, and creates the grants and the token.
    pub(super) fn begin_attachment(&self, caller: &Caller, what: &str, device: &str) -> Result<AttachmentInfo> {
        let record = self.records.find_volume(what)?;
        if let Some(holder) = self.attachments.holder_of(record.id)? {
            return Err(busy(&record, &holder));
        }
        // The key is unwrapped now, so that a disabled CMK fails this call and not a later mount.
        self.keys.ask_for_lease(&record, caller)?;
        let given = self.keys.lease_grants(&self.opens.acquire(&record, Need::Key(caller))?.volume, caller)?;
        let (att, secret) = self.attachments.add(&record, device, &given, caller)?;
        Ok(self.attachment_info(&att, Some(&record), Some(&secret)))
    }

    /// Replaces the token of an attachment. A client with the old token cannot connect any longer.
    pub(super) fn renew_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.attachments.find(what)?;
        let (renewed, secret) = self.attachments.renew(&att, what, caller)?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&renewed, record.as_ref(), Some(&secret)))
    }

    /// Revokes the lease of a volume, whether an attachment's or another's, or disconnects the readers of a snapshot. Closes the
    /// connections after the requests that they are applying.
    pub(super) fn break_lease(&self, caller: &Caller, what: &str) -> Result<String> {
        if let Ok(snapshot) = what.parse() {
            return self.break_reading(caller, snapshot);
        }
        let att = self.attachments.find(what).ok();
        let record = match &att {
            Some(att) => self.records.find_volume(&att.volume.to_string())?,
            None => self.records.find_volume(what)?,
        };
        let holder = self.attachments.holder_of(record.id)?.ok_or_else(|| not_attached(what))?;
        let act = Act::new("coffer:BreakLease").detail("volume", record.id).detail("holder", &holder).restrictive();
        self.kept.remove(caller, act, record.id, att.as_ref())?;
        self.leases.break_lease(&record)?;
        Ok(format!("volume {} was taken from {holder}", record.shown()))
    }

    /// Removes an attachment.
    pub(super) fn end_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.attachments.find(what)?;
        self.attachments.remove(&att, caller)?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&att, record.as_ref(), None))
    }

    /// Returns all attachments.
    pub(super) fn list_attachments(&self) -> Result<Vec<AttachmentInfo>> {
        let all = self.attachments.all()?;
        all.iter().map(|att| Ok(self.attachment_info(att, self.records.volume(att.volume)?.as_ref(), None))).collect()
    }

    /// `token`: that of a new or renewed attachment.
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
