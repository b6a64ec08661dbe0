//! A service's volumes as exports: maps names and callers to the service, reads and writes to the volume. No logic.

use super::Controller;
use super::export::{Client, Export, ExportEntry, ExportInfo, Exports, Peer};
use crate::engine::{Attempt, Blocking, Device, Extent, VolumeControl, Zeroing};
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::service::{
    Attached, Compared, ConnectRequest, Holder, OnKeyLoss, Reading, Remote, ServedExport, Service, SnapshotView,
    Status, named,
};
use crate::units::{CHUNK, SnapshotId, VolumeId};
use crate::volume::Volume;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The exports of a service: all of its volumes, or only those named.
pub struct VolumeExports {
    service: Arc<Service>,
    only: Option<BTreeSet<String>>,
}

impl VolumeExports {
    /// Exports `only` these volumes (by name or id), or all if it is empty.
    #[must_use]
    pub fn new(service: Arc<Service>, only: Vec<String>) -> Self {
        Self { service, only: (!only.is_empty()).then(|| only.into_iter().collect()) }
    }

    fn serves(&self, name: &str) -> Result<()> {
        let plain = named(name)?;
        match &self.only {
            Some(only) if !plain.is_empty() && !only.contains(plain) => {
                Err(Error::new(Kind::NotFound, format!("{plain} is not served here")))
            }
            _ => Ok(()),
        }
    }

    /// If only some volumes are served, snapshots are not: a snapshot may be another volume's.
    fn serves_snapshots(&self) -> Result<()> {
        match &self.only {
            Some(_) => Err(Error::new(Kind::NotFound, "snapshots are not served here")
                .hint("serve all volumes with `coffer serve` without names")),
            None => Ok(()),
        }
    }

    fn caller(&self, client: &Client) -> Result<Caller> {
        let connection = client.connection;
        match client.peer {
            Peer::Unix { pid, uid, .. } => {
                self.service.caller_of(uid, &format!("NBD connection {connection}, {}", process(pid)))
            }
            // Plain TCP exists only with --insecure-loopback: whoever connects acts for the installation's owner.
            Peer::Tcp { addr } => self.service.caller_of(0, &format!("NBD connection {connection}, {addr}")),
        }
    }
}

fn asking(client: &Client) -> ConnectRequest {
    let peer = match client.peer {
        // Nothing distinguishes it from other processes that are not visible to this server.
        Peer::Unix { pid: 0, .. } => Holder::Connection(client.connection),
        Peer::Unix { pid, start_time, .. } => Holder::Process { pid, start: start_time },
        Peer::Tcp { addr } => Holder::Address(addr.ip()),
    };
    ConnectRequest { peer, connection: client.connection }
}

/// Describes a process of this machine, for the audit.
fn process(pid: i32) -> String {
    if pid == 0 { "a process of another PID namespace".to_owned() } else { format!("pid {pid}") }
}

/// Distinguishes an export whose file is missing from one that does not exist.
fn known(err: Error) -> Error {
    let cause = std::error::Error::source(&err).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if err.kind() == Kind::NotFound && cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound) {
        return Error::new(Kind::Integrity, "a file of this export is missing").because(err);
    }
    err
}

fn info(served: ServedExport) -> ExportInfo {
    ExportInfo { name: served.name, description: served.description, size: served.size, read_only: served.read_only }
}

/// Returns the snapshot that an export's name refers to.
fn snapshot(name: &str) -> Result<Option<SnapshotId>> {
    named(name).map(|plain| plain.parse().ok())
}

impl VolumeExports {
    /// Returns a client that is limited to what it was allowed, as the service identifies it. `None`: it acts for the
    /// installation's owner.
    fn remote(&self, client: &Client) -> Option<Remote> {
        let connection = client.connection;
        let (peer, process) = match client.peer {
            Peer::Tcp { addr } => (addr.to_string(), None),
            Peer::Unix { pid, uid, .. } => {
                let stranger = !self.service.is_administered_by(uid);
                (process(pid), stranger.then(|| (format!("uid:{uid}"), asking(client).peer)))
            }
        };
        let shown = format!("NBD connection {connection}, {peer}");
        if let Some(tls) = &client.tls {
            let names = tls.certificate.as_ref().map(|c| c.names.iter().chain([&c.fingerprint]).cloned().collect());
            return Some(Remote { names: names.unwrap_or_default(), process: None, client: shown, connection });
        }
        let (uid, process) = process?;
        Some(Remote { names: vec![uid], process: Some(process), client: shown, connection })
    }

    fn snapshot_info(&self, id: SnapshotId, name: &str, client: &Client) -> Result<ExportInfo> {
        let served = match self.remote(client) {
            Some(remote) => self.service.remote_snapshot(name, &remote)?.0,
            None => {
                self.caller(client)?;
                self.service.snapshot_export(id)?
            }
        };
        Ok(info(served))
    }

    fn open_snapshot(&self, id: SnapshotId, name: &str, client: &Client) -> Result<Arc<dyn Export>> {
        let caller = match self.remote(client) {
            Some(remote) => self.service.remote_snapshot(name, &remote)?.1,
            None => self.caller(client)?,
        };
        let reading = self.service.reading(id, asking(client))?;
        let view = self.service.open_view(id, &caller)?;
        let (service, compared) = (self.service.clone(), Compared::default());
        Ok(Arc::new(SnapshotExport { service, view, compared, _reading: reading }))
    }
}

impl VolumeExports {
    /// Runs a request, and makes sure that a refusal of it is in the audit.
    fn recording<R>(&self, name: &str, client: &Client, asked: impl FnOnce() -> Result<R>) -> Result<R> {
        self.service.opening(name, &self.asker(client)?, asked)
    }

    /// Returns the caller, as far as it is known before the request is examined.
    fn asker(&self, client: &Client) -> Result<Caller> {
        match self.remote(client) {
            Some(remote) => Ok(self.service.remote_identity(&remote)),
            None => self.caller(client),
        }
    }

    fn look_at(&self, name: &str, client: &Client) -> Result<ExportInfo> {
        if let Some(id) = snapshot(name)? {
            self.serves_snapshots()?;
            return self.snapshot_info(id, name, client);
        }
        if let Some(remote) = self.remote(client) {
            let served = self.service.remote_export(name, &remote)?;
            self.serves(name)?;
            return Ok(info(served));
        }
        self.serves(name)?;
        self.service.export(name).map(info)
    }

    fn open_named(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>> {
        if let Some(id) = snapshot(name)? {
            self.serves_snapshots()?;
            return self.open_snapshot(id, name, client);
        }
        let attached = if let Some(remote) = self.remote(client) {
            self.serves(name)?;
            self.service.remote_attach(name, &remote)?
        } else {
            let caller = self.caller(client)?;
            self.serves(name)?;
            self.service.attach(name, asking(client), &caller)?
        };
        Ok(Arc::new(VolumeExport { attached, compared: Compared::default() }))
    }
}

impl Exports for VolumeExports {
    fn served_by(&self, server: Controller) {
        self.service.on_disconnect(move |connection| {
            server.disconnect(connection);
        });
    }

    fn list(&self, client: &Client) -> Vec<ExportEntry> {
        let all = match self.remote(client) {
            Some(remote) => self.service.remote_exports(&remote),
            None => self.caller(client).and_then(|_| self.service.exports()),
        };
        let all = all.unwrap_or_default();
        let shown = all.into_iter().filter(|e| self.serves(&e.name).is_ok());
        shown.map(|e| ExportEntry { name: e.name, description: e.description }).collect()
    }

    fn info(&self, name: &str, client: &Client) -> Result<ExportInfo> {
        self.recording(name, client, || self.look_at(name, client))
    }

    fn refuse(&self, client: &Client, why: &Error) {
        match self.asker(client) {
            Ok(caller) => self.service.refuse_unnamed(&caller, why),
            Err(err) => tracing::warn!(error = %err.line(), "cannot record a refusal in the audit log"),
        }
    }

    fn contexts(&self, name: &str, client: &Client) -> Result<Vec<String>> {
        self.info(name, client)?;
        self.service.contexts(named(name)?)
    }

    fn open(&self, name: &str, client: &Client) -> Result<Arc<dyn Export>> {
        self.recording(name, client, || self.open_named(name, client)).map_err(known)
    }
}

fn extents(found: Vec<Status>) -> Vec<Extent> {
    found.into_iter().map(|s| Extent { len: s.len, flags: s.flags }).collect()
}

/// A snapshot, as one connection holds it.
struct SnapshotExport {
    service: Arc<Service>,
    view: Arc<SnapshotView>,
    compared: Compared,
    /// Last, so that it is dropped after the view.
    _reading: Reading,
}

impl SnapshotExport {
    fn refuse<T>(&self, verb: &str) -> Result<T> {
        Err(Error::new(Kind::ReadOnly, format!("{verb} snapshot {}: snapshots are read-only", self.view.id())))
    }
}

/// Readers of a snapshot do not affect each other: no scheduler is shared.
impl Export for SnapshotExport {}

impl Device for SnapshotExport {
    fn size(&self) -> u64 {
        self.view.size()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.view.read(offset, out, blocking)
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool, _: Blocking) -> Result<Attempt> {
        self.refuse("write to")
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn trim(&self, _: u64, _: u64, _: bool) -> Result<()> {
        self.refuse("trim")
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Zeroing) -> Result<()> {
        self.refuse("zero")
    }

    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.view.prefetch(offset, len)
    }

    fn extents(&self, context: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        self.service.view_status(&self.view, &self.compared, context, (offset, len), most).map(extents)
    }
}

/// A volume, as one connection holds it.
struct VolumeExport {
    attached: Attached,
    compared: Compared,
}

impl VolumeExport {
    fn opened(&self) -> &Volume {
        self.attached.volume()
    }
}

impl Export for VolumeExport {
    fn farewell(&self) {
        self.attached.farewell();
    }
}

impl Device for VolumeExport {
    fn volume(&self) -> Option<VolumeId> {
        Some(self.opened().id())
    }

    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        let (settings, weak) = (self.attached.settings(), Arc::downgrade(scheduler));
        settings.watch(move |settings| {
            let Some(scheduler) = weak.upgrade() else { return false };
            scheduler.set_limits(settings.iops(), settings.throughput());
            scheduler.release();
            true
        });
        // After the watch: a change in between takes effect either way.
        scheduler.set_limits(settings.iops(), settings.throughput());
    }

    fn size(&self) -> u64 {
        self.opened().size()
    }

    fn read_only(&self) -> bool {
        self.attached.reads_only() || !self.opened().is_writable()
    }

    fn stale_after(&self) -> Option<Duration> {
        self.attached.stale_after()
    }

    fn waits_for_key(&self) -> bool {
        self.attached.settings().on_key_loss() != OnKeyLoss::Fail
    }

    fn has_key(&self) -> bool {
        self.opened().is_unlocked()
    }

    fn read(&self, offset: u64, out: &mut [u8], blocking: Blocking) -> Result<Attempt> {
        self.opened().read(offset, out, blocking)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool, blocking: Blocking) -> Result<Attempt> {
        if fua && blocking == Blocking::Never {
            return Ok(Attempt::WouldBlock);
        }
        let done = self.opened().write(offset, data, blocking)?;
        if fua && done == Attempt::Done {
            self.opened().flush()?;
        }
        Ok(done)
    }

    fn flush(&self) -> Result<()> {
        self.opened().flush()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.opened().trim(offset, len)?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        let volume = self.opened();
        if how.fast && !volume.zeroes_fast(offset, len)? {
            return Err(Error::new(Kind::Unsupported, "zeroing this range takes as long as writing it"));
        }
        volume.write_zeroes(offset, len, how.no_hole)?;
        if how.fua { self.flush() } else { Ok(()) }
    }

    /// Reads ahead: pages come into the page cache, absent chunks into the volume's chunk cache.
    fn cache(&self, offset: u64, len: u64) -> Result<()> {
        if !self.has_key() {
            return Ok(());
        }
        let mut room = vec![0u8; CHUNK.min(len as usize)];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let n = ((end - at) as usize).min(room.len());
            let _done = self.opened().read(at, &mut room[..n], Blocking::Allowed)?;
            at += n as u64;
        }
        Ok(())
    }

    fn extents(&self, context: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        self.attached.status(&self.compared, context, (offset, len), most).map(extents)
    }
}
