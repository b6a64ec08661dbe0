//! Attachments, and how a connection gets its volume: who it is, its lease, its key.
//!
//! A client is known by the token in its export's name (`web?t=att-…`, told once by [`Service::begin_attachment`] and kept
//! hashed in the catalog), else by its certificate's name, else by its process on a Unix socket, else by its address on TCP.
//! An attachment's lease lasts until `coffer detach`, also across restarts of the server; that of a client over TLS a grace
//! beyond a connection that ended without a farewell; any other ends with its last connection (see [`super::lease`]).

use super::api::AttachmentInfo;
use super::attachments::not_attached;
use super::kept::KeptLeases;
use super::lease::{LeaseRequest, Leases, Left, busy};
use super::opening::{InUse, Need};
use super::records::{AttachmentRecord, VolumeRecord};
use super::token::ExportName;
use super::{Holder, Service, Settings};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::repository::Repository;
use crate::units::{SnapshotId, VolumeId};
use crate::volume::Volume;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How old a request of `coffer attach` may get before it is not applied any more: half the request timeout that it gives to
/// the kernel.
const STALE_AFTER: Duration = Duration::from_secs(5);

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
    leases: Arc<Leases>,
    kept: Arc<KeptLeases>,
    repository: Arc<Repository>,
    used: Option<InUse>,
    id: VolumeId,
    connection: u64,
    read_only: bool,
    /// It named its slot, as `coffer attach` does: what is dropped is sent again soon, and a closed connection dialled anew.
    redials: bool,
    farewell: AtomicBool,
}

impl Attached {
    /// Where snapshots of the volume are.
    pub(super) const fn repository(&self) -> &Arc<Repository> {
        &self.repository
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
        if let Left::Ended(Holder::Remote(name)) = self.leases.leave(self.id, self.connection, farewell) {
            self.kept.forget(self.id, &name);
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
    /// Notes who reads a snapshot.
    ///
    /// # Errors
    /// [`Kind::Busy`] while its readers are sent away.
    pub fn reading(&self, snapshot: SnapshotId, asking: ConnectRequest) -> Result<Reading> {
        self.leases.join_readers(snapshot, asking.connection, asking.peer)?;
        Ok(Reading { leases: self.leases.clone(), snapshot, connection: asking.connection })
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

    /// A volume as an export.
    pub(super) fn served(&self, record: &VolumeRecord) -> Result<ServedExport> {
        Ok(ServedExport {
            name: record.name.clone().unwrap_or_else(|| record.id.to_string()),
            description: format!("coffer volume {}", record.id),
            size: record.size,
            read_only: false,
        })
    }

    /// Attaches one connection: takes or joins the lease, asks the policy of the CMK whether the caller may have the volume,
    /// unwraps the data key. A holder that had the volume already is not asked again (`service/volume_keys.rs`), and gets it
    /// without its key too, if that cannot be had now: requests are held then until it can.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds the volume; [`Kind::AccessDenied`] by the CMK's policy; what the KMS says of its key; what opening reports.
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
        let (leases, kept, repository) = (self.leases.clone(), self.kept.clone(), self.repository.clone());
        let mut attached =
            Attached { leases, kept, repository, used: None, id, connection, read_only, redials, farewell };
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
            && let Err(err) = self.kept.note(&record, &holder, read_only, attached.volume(), caller)
        {
            attached.farewell();
            return Err(err);
        }
        Ok(attached)
    }

    /// Has connections of the server ended by `disconnect`, when a newer one takes their slot or their lease is broken.
    pub fn on_disconnect(&self, disconnect: impl Fn(u64) + Send + Sync + 'static) {
        self.leases.set_disconnect(Box::new(disconnect));
    }

    /// Registers an attachment: the CMK is asked, and its grants and token are made.
    pub(super) fn begin_attachment(&self, caller: &Caller, what: &str, device: &str) -> Result<AttachmentInfo> {
        let record = self.records.find_volume(what)?;
        if let Some(holder) = self.attachments.holder_of(record.id)? {
            return Err(busy(&record, &holder));
        }
        // The key is asked for now, so that a disabled CMK is the caller's error and not a failed mount.
        self.keys.ask_for_lease(&record, caller)?;
        let given = self.keys.lease_grants(&self.opens.acquire(&record, Need::Key(caller))?.volume, caller)?;
        let (att, secret) = self.attachments.add(&record, device, &given, caller)?;
        Ok(self.attachment_info(&att, Some(&record), Some(&secret)))
    }

    /// A new token for an attachment that lives on: whoever had the old one cannot connect with it any more.
    pub(super) fn renew_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.attachments.find(what)?;
        let (renewed, secret) = self.attachments.renew(&att, what, caller)?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&renewed, record.as_ref(), Some(&secret)))
    }

    /// Takes a volume from whoever holds it, attachment or not, or a snapshot from who reads it. Its connections are closed; what they were applying ends first.
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
        Ok(format!("volume {} is taken from {holder}", record.shown()))
    }

    /// Removes an attachment.
    pub(super) fn end_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let att = self.attachments.find(what)?;
        self.attachments.remove(&att, caller)?;
        let record = self.records.volume(att.volume)?;
        Ok(self.attachment_info(&att, record.as_ref(), None))
    }

    /// All attachments.
    pub(super) fn list_attachments(&self) -> Result<Vec<AttachmentInfo>> {
        let all = self.attachments.all()?;
        all.iter().map(|att| Ok(self.attachment_info(att, self.records.volume(att.volume)?.as_ref(), None))).collect()
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
