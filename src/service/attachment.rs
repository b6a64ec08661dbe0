//! Who holds a volume: leases, and attachments that survive a restart.
//!
//! A lease is exclusive. A client is known by the attachment in its export name (`web?t=att-…`, made by `coffer attach`
//! and kept in the catalog), else by its process on a Unix socket, else by its address on TCP. An attachment's lease lasts
//! until `coffer detach`, also across restarts of the server; any other ends with its last connection. On a Unix socket
//! the attachment's id opens nothing by itself: the socket admits its owner and root alone.

use super::api::AttachmentInfo;
use super::opening::{InUse, Need};
use super::volume::VolumeRecord;
use super::{Role, Service};
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::kms::catalog::Record;
use crate::kms::{Act, Caller};
use crate::units::VolumeId;
use crate::volume::Volume;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who a lease belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// What `coffer attach` registered.
    Attachment(String),
    /// A process on a Unix socket.
    Process {
        /// Its id.
        pid: i32,
        /// When it was started, in ticks since boot: process ids are used again.
        start: u64,
    },
    /// A client over TLS, by the name that it was allowed under (see `coffer tls allow`).
    Remote(String),
    /// All of one address, on plain TCP.
    Address(IpAddr),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(id) => write!(f, "attachment {id}"),
            Self::Process { pid, .. } => write!(f, "process {pid}"),
            Self::Remote(name) => write!(f, "the TLS client {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
        }
    }
}

impl Holder {
    /// Whether it is a process that is gone: its connections end as soon as the server gets to them.
    fn has_ended(&self) -> bool {
        let Self::Process { pid, .. } = self else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name, which stands in brackets and may hold any character.
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    }
}

/// How long the next client waits until the server has noticed that the one before is gone.
const LAST_GOODBYES: Duration = Duration::from_secs(5);

/// A held volume.
pub(super) struct Lease {
    holder: Holder,
    connections: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttachmentRecord {
    id: String,
    volume: VolumeId,
    device: String,
    created: Timestamp,
}

impl Record for AttachmentRecord {
    const KIND: &'static str = "attachment";
    fn id(&self) -> String {
        self.id.clone()
    }
    fn name(&self) -> Option<String> {
        Some(self.volume.to_string()) // one a volume
    }
}

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

/// One connection's use of a volume. Dropping it gives the connection's part of the lease back.
pub struct Attached {
    service: Arc<Service>,
    used: Option<InUse>,
    id: VolumeId,
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
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.used = None;
        let mut leases = self.service.leases.lock();
        if let Some(lease) = leases.get_mut(&self.id) {
            lease.connections -= 1;
            if lease.connections == 0 {
                leases.remove(&self.id);
                self.service.lease_ended.notify_all();
            }
        }
    }
}

/// An export name taken apart: the volume, and the attachment after `?t=`.
pub(super) fn split_export(name: &str) -> (&str, Option<&str>) {
    let Some((volume, query)) = name.split_once('?') else { return (name, None) };
    (volume, query.split('&').find_map(|pair| pair.strip_prefix("t=")))
}

impl Service {
    /// What can be attached.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn exports(&self) -> Result<Vec<ServedExport>> {
        self.volume_records()?.iter().map(|r| self.served(r)).collect()
    }

    /// What one export would be. An empty name stands for the only volume there is.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn export(&self, name: &str) -> Result<ServedExport> {
        self.served(&self.exported(name)?)
    }

    pub(super) fn exported(&self, name: &str) -> Result<VolumeRecord> {
        match split_export(name).0 {
            "" => match <[VolumeRecord; 1]>::try_from(self.volume_records()?) {
                Ok([only]) => Ok(only),
                Err(all) => Err(Error::new(Kind::NotFound, format!("no export is named, and there are {}", all.len()))
                    .hint("name a volume")),
            },
            name => self.find_volume(name),
        }
    }

    pub(super) fn served(&self, record: &VolumeRecord) -> Result<ServedExport> {
        Ok(ServedExport {
            name: record.name.clone().unwrap_or_else(|| record.id.to_string()),
            description: format!("coffer volume {}", record.id),
            size: record.size,
            read_only: false,
        })
    }

    /// Attaches one connection: takes or joins the lease, unwraps the data key.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds the volume; what the KMS says of its key; what opening reports.
    pub fn attach(self: &Arc<Self>, name: &str, peer: Holder, caller: &Caller) -> Result<Attached> {
        let record = self.exported(name)?;
        let holder = self.holder_for(&record, split_export(name).1, peer)?;
        {
            let mut leases = self.leases.lock();
            let until = Instant::now() + LAST_GOODBYES;
            while leases.get(&record.id).is_some_and(|l| l.holder != holder && l.holder.has_ended()) {
                if self.lease_ended.wait_until(&mut leases, until).timed_out() {
                    break;
                }
            }
            let lease = leases.entry(record.id).or_insert_with(|| Lease { holder: holder.clone(), connections: 0 });
            if lease.holder != holder {
                return Err(busy(&record, &lease.holder.to_string()));
            }
            lease.connections += 1;
        }
        let mut attached = Attached { service: self.clone(), used: None, id: record.id };
        attached.used =
            Some(self.acquire(&record, Need::Key(caller)).map_err(|e| e.context(format!("attach {name}")))?);
        Ok(attached)
    }

    fn holder_for(&self, record: &VolumeRecord, token: Option<&str>, peer: Holder) -> Result<Holder> {
        let registered = self.attachment_of(record.id)?;
        match (registered, token) {
            (Some(att), Some(token)) if att.id == token => Ok(Holder::Attachment(att.id)),
            // Without the attachment's id: on plain TCP it would let whoever reads it join the lease.
            (Some(att), _) => Err(busy(record, &format!("an attachment as {}", att.device))),
            (None, Some(token)) => {
                Err(Error::new(Kind::NotFound, format!("volume {}: no attachment {token}", record.shown()))
                    .hint("it was detached; attach again"))
            }
            (None, None) => Ok(peer),
        }
    }

    fn attachment_of(&self, id: VolumeId) -> Result<Option<AttachmentRecord>> {
        Ok(self.kms.catalog().find::<AttachmentRecord>(&id.to_string())?.map(|f| f.record))
    }

    /// Without a server, a volume whose attachment lives is left alone: its kernel waits to connect again.
    pub(super) fn refuse_if_attached_elsewhere(&self, record: &VolumeRecord) -> Result<()> {
        match self.attachment_of(record.id)? {
            Some(att) if self.role == Role::Command => Err(busy(record, &format!("an attachment as {}", att.device))),
            _ => Ok(()),
        }
    }

    /// Who holds a volume, in words.
    pub(super) fn holder_of(&self, id: VolumeId) -> Result<Option<String>> {
        if let Some(att) = self.attachment_of(id)? {
            return Ok(Some(format!("attachment {} as {}", att.id, att.device)));
        }
        Ok(self.leases.lock().get(&id).map(|l| l.holder.to_string()))
    }

    pub(super) fn begin_attachment(
        self: &Arc<Self>,
        caller: &Caller,
        what: &str,
        device: &str,
    ) -> Result<AttachmentInfo> {
        let record = self.find_volume(what)?;
        if let Some(holder) = self.holder_of(record.id)? {
            return Err(busy(&record, &holder));
        }
        // The key is asked for now, so that a disabled CMK is the caller's error and not a failed mount.
        drop(self.acquire(&record, Need::Key(caller))?);
        let mut raw = [0u8; 16];
        self.env.rng.fill(&mut raw);
        let id = format!("att-{}", &hex::encode(raw)[..17]);
        let att = AttachmentRecord { id, volume: record.id, device: device.to_owned(), created: self.env.now() };
        let act = Act::new("ec2:AttachVolume")
            .detail("volume", record.id)
            .detail("device", device)
            .detail("attachment", &att.id);
        self.kms.audited(caller, act, |tx| tx.insert(&att))?;
        Ok(self.attachment_info(&att, Some(&record)))
    }

    pub(super) fn end_attachment(&self, caller: &Caller, what: &str) -> Result<AttachmentInfo> {
        let all = self.kms.catalog().list::<AttachmentRecord>()?.records;
        let by_volume = self.find_volume(what).ok().map(|r| r.id);
        let found =
            all.into_iter().map(|r| r.record).find(|a| a.device == what || a.id == what || Some(a.volume) == by_volume);
        let att = found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{what} is not attached")).hint("see `coffer attachments`")
        })?;
        let act = Act::new("ec2:DetachVolume").detail("volume", att.volume).detail("attachment", &att.id).restrictive();
        self.kms.audited(caller, act, |tx| match tx.get::<AttachmentRecord>(&att.id)? {
            Some(found) => tx.delete::<AttachmentRecord>(&att.id, found.version),
            None => Ok(()),
        })?;
        let record = self.kms.catalog().get::<VolumeRecord>(&att.volume.to_string())?.map(|f| f.record);
        Ok(self.attachment_info(&att, record.as_ref()))
    }

    pub(super) fn list_attachments(&self) -> Result<Vec<AttachmentInfo>> {
        let all = self.kms.catalog().list::<AttachmentRecord>()?.records;
        all.iter()
            .map(|a| {
                let record = self.kms.catalog().get::<VolumeRecord>(&a.record.volume.to_string())?.map(|f| f.record);
                Ok(self.attachment_info(&a.record, record.as_ref()))
            })
            .collect()
    }

    fn attachment_info(&self, att: &AttachmentRecord, record: Option<&VolumeRecord>) -> AttachmentInfo {
        let name = record.and_then(|r| r.name.clone());
        let shown = name.clone().unwrap_or_else(|| att.volume.to_string());
        let endpoints = self.endpoints.lock();
        let socket = endpoints.iter().find_map(|e| e.strip_prefix("unix:").map(Into::into));
        AttachmentInfo {
            id: att.id.clone(),
            volume: att.volume,
            name,
            device: att.device.clone(),
            export: format!("{shown}?t={}", att.id),
            socket: socket.unwrap_or_else(|| self.data.nbd_socket()),
            created: att.created,
        }
    }
}

fn busy(record: &VolumeRecord, holder: &str) -> Error {
    Error::new(Kind::Busy, format!("volume {} is held by {holder}", record.shown()))
        .hint("detach it there first (`coffer detach`)")
}

#[cfg(test)]
mod tests {
    use super::split_export;

    #[test]
    fn export_names_are_taken_apart() {
        assert_eq!(split_export("web"), ("web", None));
        assert_eq!(split_export("web?t=att-1&c=2"), ("web", Some("att-1")));
        assert_eq!(split_export("web?c=2&t=x"), ("web", Some("x")));
        assert_eq!(split_export("web?"), ("web", None));
        assert_eq!(split_export("?t=a"), ("", Some("a")));
    }
}
