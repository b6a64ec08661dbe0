//! Leases: who holds a volume, with which connections, and for how long after the last one has ended.
//!
//! A lease belongs to one holder that may write, or to any number of holders that only read. A record in the catalog makes it
//! durable: that of an attachment (see `attachments.rs`), or the record of a lease (`kept.rs`) for a TLS client. After a restart of the server, the
//! client that had the volume is then admitted before any other.

use super::records::VolumeRecord;
use crate::error::{Error, Kind, Result};
use crate::units::{SnapshotId, VolumeId};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long the next client waits for the server to notice that the previous one has ended.
const LAST_GOODBYES: Duration = Duration::from_secs(5);
/// How long a connection waits for the requests of its predecessor in the same slot to finish.
const SLOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a TLS client that disconnected uncleanly keeps its volume, by default.
pub const GRACE: Duration = Duration::from_secs(30);

/// The holder of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An attachment registered by `coffer attach`, by its public id.
    Attachment(String),
    /// A process on a Unix socket.
    Process {
        /// Process id.
        pid: i32,
        /// Start time in ticks since boot, because process ids are reused.
        start: u64,
    },
    /// One connection of a process that cannot be told from others, because it is in a PID namespace that this server does not
    /// see.
    Connection(u64),
    /// A TLS client, by the name of its access record (see `coffer access allow`).
    Remote(String),
    /// All connections from one address over plain TCP.
    Address(IpAddr),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(id) => write!(f, "attachment {id}"),
            Self::Process { pid, .. } => write!(f, "process {pid}"),
            Self::Connection(number) => write!(f, "connection {number} from another PID namespace"),
            Self::Remote(name) => write!(f, "the TLS client {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
        }
    }
}

impl Holder {
    /// Returns whether it is a process that has ended: its connections end as soon as the server handles that.
    fn has_ended(&self) -> bool {
        let Self::Process { pid, .. } = self else { return false };
        crate::sys::ProcessStat::of(*pid).is_none_or(|stat| stat.has_ended())
    }

    /// Returns whether it can be reliably told apart from all others, so that it may have slots and outlive its connections.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::Attachment(_) | Self::Remote(_))
    }
}

/// A connection's request to take or join a lease.
#[derive(Debug, Clone)]
pub(super) struct LeaseRequest {
    pub(super) holder: Holder,
    /// The server's number for the connection.
    pub(super) connection: u64,
    /// Its slot, if the holder [`Holder::is_known`].
    pub(super) slot: Option<u32>,
    /// Whether it will not write.
    pub(super) reading: bool,
}

/// The lease of one volume.
struct Lease {
    /// The first holder, and the only one unless the lease is for reading.
    holder: Holder,
    reading: bool,
    members: Vec<LeaseRequest>,
    /// The holders that passed the policy check. They are not checked again.
    authorize: Vec<Holder>,
    /// Until when the lease is kept, after its last connection ended uncleanly.
    kept_until: Option<Instant>,
    /// Set while the lease is being broken: it admits no more connections.
    broken: bool,
}

impl Lease {
    fn has_lapsed(&self) -> bool {
        self.members.is_empty() && self.kept_until.is_none_or(|t| t <= Instant::now())
    }

    fn admits(&self, one: &LeaseRequest) -> bool {
        !self.broken && ((self.reading && one.reading) || (self.holder == one.holder && self.reading == one.reading))
    }

    fn shown(&self) -> String {
        let mut holders: Vec<String> = self.members.iter().map(|m| m.holder.to_string()).collect();
        holders.sort();
        holders.dedup();
        if holders.is_empty() {
            holders.push(self.holder.to_string());
        }
        let how = if self.reading { " (reading)" } else { "" };
        let gone = if self.members.is_empty() { ", which disconnected uncleanly" } else { "" };
        format!("{}{how}{gone}", holders.join(", "))
    }
}

/// The effect on a lease of a connection that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// The lease continues: others use it, or it is kept for its holder.
    Goes,
    /// The lease has ended.
    Ended(Holder),
}

/// Ends a connection of the server, by its number, without waiting.
pub type Disconnect = Box<dyn Fn(u64) + Send + Sync>;

/// All leases of a service.
pub(super) struct Leases {
    held: Mutex<HashMap<VolumeId, Lease>>,
    /// Notified when a connection leaves a lease.
    changed: Condvar,
    readers: Mutex<HashMap<SnapshotId, Readers>>,
    /// Notified when a reader of a snapshot leaves.
    read: Condvar,
    disconnect: RwLock<Option<Disconnect>>,
    grace: Duration,
}

impl Leases {
    /// Creates an empty set. A TLS client that disconnects uncleanly keeps its lease for `grace`.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            held: Mutex::default(),
            changed: Condvar::new(),
            readers: Mutex::default(),
            read: Condvar::new(),
            disconnect: RwLock::default(),
            grace,
        }
    }

    /// Sets the function that ends a connection of the server.
    pub(super) fn set_disconnect(&self, disconnect: Disconnect) {
        *self.disconnect.write() = Some(disconnect);
    }

    fn hang_up(&self, connections: &[u64]) {
        if let Some(disconnect) = &*self.disconnect.read() {
            connections.iter().for_each(|c| disconnect(*c));
        }
    }

    /// Takes or joins the lease of a volume. First closes an older connection in the same slot and waits for its requests.
    ///
    /// # Errors
    /// [`Kind::Busy`] with the name of the holder.
    pub(super) fn join(&self, record: &VolumeRecord, one: LeaseRequest) -> Result<()> {
        let mut held = self.held.lock();
        let until = Instant::now() + LAST_GOODBYES;
        loop {
            match held.get(&record.id) {
                Some(lease) if lease.has_lapsed() => drop(held.remove(&record.id)),
                Some(lease) if lease.admits(&one) => break,
                Some(lease) => {
                    let gone = !lease.members.is_empty() && lease.members.iter().all(|m| m.holder.has_ended());
                    let leaving = gone || lease.broken;
                    if !leaving || self.changed.wait_until(&mut held, until).timed_out() {
                        let shown = held.get(&record.id).map_or_else(String::new, Lease::shown);
                        return Err(busy(record, &shown));
                    }
                }
                None => break,
            }
        }
        let lease = held.entry(record.id).or_insert_with(|| Lease {
            holder: one.holder.clone(),
            reading: one.reading,
            members: Vec::new(),
            authorize: Vec::new(),
            kept_until: None,
            broken: false,
        });
        let same_slot = |m: &&LeaseRequest| one.slot.is_some() && m.slot == one.slot && m.holder == one.holder;
        let before: Vec<u64> = lease.members.iter().filter(same_slot).map(|m| m.connection).collect();
        let connection = one.connection;
        lease.members.push(one);
        if let Err(held_up) = self.wait_out(held, record.id, &before) {
            self.leave(record.id, connection, false);
            let what = format!("volume {}: connection {held_up}, in the same slot, has not closed", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("connect again"));
        }
        Ok(())
    }

    /// Closes connections and waits until they have left. `Err`: the number of one that has not.
    fn wait_out(
        &self,
        mut held: MutexGuard<'_, HashMap<VolumeId, Lease>>,
        id: VolumeId,
        connections: &[u64],
    ) -> Result<(), u64> {
        if connections.is_empty() {
            return Ok(());
        }
        MutexGuard::unlocked(&mut held, || self.hang_up(connections));
        let until = Instant::now() + SLOT_PATIENCE;
        let there = |held: &HashMap<VolumeId, Lease>| {
            let members = held.get(&id).map(|l| &l.members[..]).unwrap_or_default();
            members.iter().map(|m| m.connection).find(|c| connections.contains(c))
        };
        while let Some(one) = there(&held) {
            if self.changed.wait_until(&mut held, until).timed_out() {
                return Err(one);
            }
        }
        Ok(())
    }

    /// Removes a connection from the lease of its volume. `clean`: it disconnected cleanly.
    pub(super) fn leave(&self, id: VolumeId, connection: u64, clean: bool) -> Left {
        let mut held = self.held.lock();
        let Some(lease) = held.get_mut(&id) else { return Left::Goes };
        lease.members.retain(|m| m.connection != connection);
        self.changed.notify_all();
        if !lease.members.is_empty() {
            let Lease { members, authorize, .. } = lease;
            authorize.retain(|h| members.iter().any(|m| m.holder == *h));
            return Left::Goes;
        }
        if matches!(lease.holder, Holder::Remote(_)) && !lease.reading && !clean && !lease.broken {
            lease.kept_until = Some(Instant::now() + self.grace);
            return Left::Goes;
        }
        held.remove(&id).map_or(Left::Goes, |lease| Left::Ended(lease.holder))
    }

    /// Keeps a volume for the holder that had it when an earlier server ended.
    pub(super) fn keep(&self, id: VolumeId, holder: Holder) {
        let kept_until = Some(Instant::now() + self.grace);
        let authorize = vec![holder.clone()];
        let lease = Lease { holder, reading: false, members: Vec::new(), authorize, kept_until, broken: false };
        self.held.lock().insert(id, lease);
    }

    /// Records that a connection of this holder passed the policy check and got its volume, so that later ones are not checked.
    /// Returns whether it was the first.
    pub(super) fn authorize(&self, id: VolumeId, holder: &Holder) -> bool {
        let mut held = self.held.lock();
        let Some(lease) = held.get_mut(&id).filter(|l| !l.authorize.contains(holder)) else { return false };
        lease.authorize.push(holder.clone());
        true
    }

    /// Returns whether a connection of this holder was admitted before. One that has only joined was not: it may still be
    /// refused.
    pub(super) fn is_let_in(&self, id: VolumeId, holder: &Holder) -> bool {
        self.held.lock().get(&id).is_some_and(|l| l.authorize.contains(holder))
    }

    /// Returns the holder of a volume, in words.
    pub(super) fn shown(&self, id: VolumeId) -> Option<String> {
        self.held.lock().get(&id).filter(|l| !l.has_lapsed()).map(Lease::shown)
    }

    /// Returns whether exactly this holder has the volume.
    pub(super) fn is_held_by(&self, id: VolumeId, holder: &Holder) -> bool {
        self.held.lock().get(&id).is_some_and(|l| !l.has_lapsed() && l.holder == *holder)
    }

    /// Revokes the lease of a volume: closes its connections, and waits for the requests that they are applying. Returns the
    /// former holder; `None`: there was no lease.
    ///
    /// # Errors
    /// [`Kind::Busy`] if a connection does not close.
    pub(super) fn break_lease(&self, record: &VolumeRecord) -> Result<Option<String>> {
        let mut held = self.held.lock();
        let Some(lease) = held.get_mut(&record.id) else { return Ok(None) };
        if lease.has_lapsed() {
            held.remove(&record.id);
            return Ok(None);
        }
        let shown = lease.shown();
        lease.broken = true;
        let connections: Vec<u64> = lease.members.iter().map(|m| m.connection).collect();
        if connections.is_empty() {
            held.remove(&record.id);
            return Ok(Some(shown));
        }
        self.wait_out(held, record.id, &connections).map_err(|c| {
            Error::new(Kind::Busy, format!("volume {}: its connection {c} has not closed", record.shown()))
                .hint("try again once it has applied its requests")
        })?;
        Ok(Some(shown))
    }
}

/// The readers of a snapshot. They have no lease on it, but they can be disconnected.
#[derive(Default)]
struct Readers {
    /// The numbers of the connections, and who they belong to.
    all: Vec<(u64, Holder)>,
    /// Set while the readers are being disconnected: no more are admitted.
    broken: bool,
}

impl Leases {
    /// Registers a connection as a reader of a snapshot.
    ///
    /// # Errors
    /// [`Kind::Busy`] while the readers are being disconnected.
    pub(super) fn join_readers(&self, snapshot: SnapshotId, connection: u64, holder: Holder) -> Result<()> {
        let mut readers = self.readers.lock();
        let readers = readers.entry(snapshot).or_default();
        if readers.broken {
            return Err(Error::new(Kind::Busy, format!("the readers of snapshot {snapshot} are being disconnected"))
                .hint("try again"));
        }
        readers.all.push((connection, holder));
        Ok(())
    }

    /// Removes a connection from the readers of a snapshot.
    pub(super) fn leave_readers(&self, snapshot: SnapshotId, connection: u64) {
        let mut all = self.readers.lock();
        if let Some(readers) = all.get_mut(&snapshot) {
            readers.all.retain(|(c, _)| *c != connection);
            if readers.all.is_empty() && !readers.broken {
                all.remove(&snapshot);
            }
        }
        self.read.notify_all();
    }

    /// Returns the readers of a snapshot, in words.
    pub(super) fn readers_shown(&self, snapshot: SnapshotId) -> Option<String> {
        let readers = self.readers.lock();
        let mut shown: Vec<String> = readers.get(&snapshot)?.all.iter().map(|(_, holder)| holder.to_string()).collect();
        shown.sort();
        shown.dedup();
        (!shown.is_empty()).then(|| shown.join(", "))
    }

    /// Closes the connections of all readers of a snapshot, and waits until they have left.
    ///
    /// # Errors
    /// [`Kind::Busy`] if one does not close.
    pub(super) fn break_readers(&self, snapshot: SnapshotId) -> Result<()> {
        let mut readers = self.readers.lock();
        let Some(found) = readers.get_mut(&snapshot) else { return Ok(()) };
        found.broken = true;
        let connections: Vec<u64> = found.all.iter().map(|(connection, _)| *connection).collect();
        MutexGuard::unlocked(&mut readers, || self.hang_up(&connections));
        let until = Instant::now() + SLOT_PATIENCE;
        let left =
            |all: &HashMap<SnapshotId, Readers>| all.get(&snapshot)?.all.first().map(|(connection, _)| *connection);
        let mut stuck = left(&readers);
        while stuck.is_some() {
            let late = self.read.wait_until(&mut readers, until).timed_out();
            stuck = left(&readers);
            if late {
                break;
            }
        }
        match stuck {
            None => {
                readers.remove(&snapshot);
                Ok(())
            }
            Some(connection) => {
                if let Some(found) = readers.get_mut(&snapshot) {
                    found.broken = false;
                }
                let what = format!("snapshot {snapshot}: its connection {connection} has not closed");
                Err(Error::new(Kind::Busy, what).hint("try again once its reads are done"))
            }
        }
    }
}

/// Returns the error for a volume with another holder.
pub(super) fn busy(record: &VolumeRecord, holder: &str) -> Error {
    Error::new(Kind::Busy, format!("volume {} is held by {holder}", record.shown()))
        .hint("use `coffer detach`; if it was not attached, disconnect the client or use `coffer detach --force`")
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
