//! The volumes of a service as exports: names and callers come in, reads and writes go down. No logic.

use super::Controller;
use super::export::{Client, Effort, Export, ExportEntry, ExportInfo, Exports, Peer, Progress};
use super::traffic::Traffic;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::service::{Asking, Attached, Holder, OnKeyLoss, Remote, ServedExport, Service};
use crate::units::{CHUNK, VolumeId};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

/// The exports of one service; only some of its volumes, if some were named.
pub struct VolumeExports {
    service: Arc<Service>,
    only: Option<BTreeSet<String>>,
    /// What the connections of each volume share, for as long as there are any.
    traffic: Mutex<HashMap<VolumeId, Weak<Traffic>>>,
}

impl VolumeExports {
    /// Exports `only` these volumes (by name or id), or all.
    #[must_use]
    pub fn new(service: Arc<Service>, only: Vec<String>) -> Self {
        Self { service, only: (!only.is_empty()).then(|| only.into_iter().collect()), traffic: Mutex::default() }
    }

    fn serves(&self, name: &str) -> Result<()> {
        let plain = name.split('?').next().unwrap_or_default();
        match &self.only {
            Some(only) if !plain.is_empty() && !only.contains(plain) => {
                Err(Error::new(Kind::NotFound, format!("{plain} is not served here")))
            }
            _ => Ok(()),
        }
    }

    fn exporting(&self, attached: Attached) -> Arc<dyn Export> {
        let mut all = self.traffic.lock();
        all.retain(|_, t| t.strong_count() > 0);
        let id = attached.volume().id();
        let traffic = all.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let traffic = Arc::<Traffic>::default();
            traffic.set_limits(attached.settings().iops(), attached.settings().throughput());
            let weak = Arc::downgrade(&traffic);
            attached.settings().watch(move |settings| {
                let Some(traffic) = weak.upgrade() else { return false };
                traffic.set_limits(settings.iops(), settings.throughput());
                traffic.release();
                true
            });
            traffic
        });
        all.insert(id, Arc::downgrade(&traffic));
        Arc::new(VolumeExport(attached, traffic))
    }

    fn caller(&self, client: &Client) -> Result<Caller> {
        let connection = client.connection;
        match client.peer {
            Peer::Unix { pid, uid, .. } => {
                self.service.caller_of(uid, &format!("NBD connection {connection}, pid {pid}"))
            }
            // Plain TCP is served by --insecure-loopback alone: whoever reaches it acts for the installation's owner.
            Peer::Tcp { addr } => self.service.caller_of(0, &format!("NBD connection {connection}, {addr}")),
        }
    }
}

/// A client over TLS, as the service knows it. Without TLS: none.
fn remote(client: &Client) -> Option<Remote> {
    let peer = client.tls.as_ref()?;
    let names = peer.certificate.as_ref().map(|c| c.names.iter().chain([&c.fingerprint]).cloned().collect());
    let from = match client.peer {
        Peer::Tcp { addr } => addr.to_string(),
        Peer::Unix { pid, .. } => format!("pid {pid}"),
    };
    let connection = client.connection;
    let shown = format!("NBD connection {connection}, {from}");
    Some(Remote { names: names.unwrap_or_default(), client: shown, connection })
}

fn asking(client: &Client) -> Asking {
    let peer = match client.peer {
        Peer::Unix { pid, start_time, .. } => Holder::Process { pid, start: start_time },
        Peer::Tcp { addr } => Holder::Address(addr.ip()),
    };
    Asking { peer, connection: client.connection }
}

fn info(served: ServedExport) -> ExportInfo {
    ExportInfo { name: served.name, description: served.description, size: served.size, read_only: served.read_only }
}

impl Exports for VolumeExports {
    fn served_by(&self, server: Controller) {
        self.service.on_disconnect(move |connection| {
            server.disconnect(connection);
        });
    }

    fn list(&self, client: &Client) -> Vec<ExportEntry> {
        let all = match remote(client) {
            Some(remote) => self.service.remote_exports(&remote),
            None => self.caller(client).and_then(|_| self.service.exports()),
        };
        let all = all.unwrap_or_default();
        let shown = all.into_iter().filter(|e| self.serves(&e.name).is_ok());
        shown.map(|e| ExportEntry { name: e.name, description: e.description }).collect()
    }

    fn info(&self, name: &str, client: &Client) -> Result<ExportInfo> {
        if let Some(remote) = remote(client) {
            let served = self.service.remote_export(name, &remote)?;
            self.serves(name)?;
            return Ok(info(served));
        }
        self.caller(client)?;
        self.serves(name)?;
        self.service.export(name).map(info)
    }

    fn open(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>> {
        if let Some(remote) = remote(client) {
            self.serves(name)?;
            return Ok(self.exporting(self.service.remote_attach(name, &remote)?));
        }
        let caller = self.caller(client)?;
        self.serves(name)?;
        let attached = self.service.attach(name, asking(client), &caller)?;
        Ok(self.exporting(attached))
    }
}

/// One connection's volume.
struct VolumeExport(Attached, Arc<Traffic>);

impl Export for VolumeExport {
    fn size(&self) -> u64 {
        self.0.volume().size()
    }

    fn read_only(&self) -> bool {
        self.0.reads_only() || !self.0.volume().is_writable()
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.1)
    }

    fn holds(&self) -> bool {
        self.0.settings().on_key_loss() != OnKeyLoss::Fail
    }

    fn has_key(&self) -> bool {
        self.0.volume().is_unlocked()
    }

    fn farewell(&self) {
        self.0.farewell();
    }

    fn read(&self, offset: u64, out: &mut [u8], effort: Effort) -> Result<Progress> {
        self.0.volume().read(offset, out, effort)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool, effort: Effort) -> Result<Progress> {
        if fua && effort == Effort::Inline {
            return Ok(Progress::WouldBlock);
        }
        let done = self.0.volume().write(offset, data, effort)?;
        if fua && done == Progress::Done {
            self.0.volume().flush()?;
        }
        Ok(done)
    }

    fn flush(&self) -> Result<()> {
        self.0.volume().flush()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.0.volume().trim(offset, len)?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, no_hole: bool, fua: bool) -> Result<()> {
        self.0.volume().write_zeroes(offset, len, no_hole)?;
        if fua { self.flush() } else { Ok(()) }
    }

    /// Reads ahead: the bytes come into the page cache, absent chunks into the volume's hands.
    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        if !self.has_key() {
            return Ok(());
        }
        let mut room = vec![0u8; CHUNK.min(len as usize)];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let n = ((end - at) as usize).min(room.len());
            let _done = self.0.volume().read(at, &mut room[..n], Effort::Full)?;
            at += n as u64;
        }
        Ok(())
    }
}
