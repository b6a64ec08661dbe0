//! Leases: who holds a volume now, with which connections, and for how long after they are gone.
//!
//! A lease belongs to one holder that may write, or to any number that only read. What the catalog keeps beside it makes it
//! durable: an attachment's record (`attachments.rs`), or a client's over TLS (`kept.rs`), so that after a restart
//! of the server nobody gets in before the client that had the volume.

use super::records::VolumeRecord;
use crate::error::{Error, Kind, Result};
use crate::units::{SnapshotId, VolumeId};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long the next client waits until the server has noticed that the one before is gone.
const LAST_GOODBYES: Duration = Duration::from_secs(5);
/// How long a connection waits until what the one before it in its slot was applying has ended.
const SLOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a client over TLS that went without a farewell keeps its volume, if nothing else was said.
pub const GRACE: Duration = Duration::from_secs(30);

/// Who a lease belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// What `coffer attach` registered, by its public id.
    Attachment(String),
    /// A process on a Unix socket.
    Process {
        /// Its id.
        pid: i32,
        /// When it was started, in ticks since boot: process ids are used again.
        start: u64,
    },
    /// One connection of a process that cannot be told from others: it is in a PID namespace that this server does not see.
    Connection(u64),
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
            Self::Connection(number) => write!(f, "connection {number} from another PID namespace"),
            Self::Remote(name) => write!(f, "the TLS client {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
        }
    }
}

impl Holder {
    /// Whether it is a process that is gone: its connections end as soon as the server gets to them.
    fn has_ended(&self) -> bool {
        let Self::Process { pid, .. } = self else { return false };
        crate::sys::ProcessStat::of(*pid).is_none_or(|stat| stat.has_ended())
    }

    /// Whether it can be told apart from everybody else for sure, so that it may have slots and outlive its connections.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::Attachment(_) | Self::Remote(_))
    }
}

/// A connection that asks for its part of a lease.
#[derive(Debug, Clone)]
pub(super) struct LeaseRequest {
    pub(super) holder: Holder,
    /// The server's number of the connection.
    pub(super) connection: u64,
    /// Its slot, of a holder that [`Holder::is_known`].
    pub(super) slot: Option<u32>,
    /// It will not write.
    pub(super) reading: bool,
}

/// A held volume.
struct Lease {
    /// Of the first; of all, unless they are reading.
    holder: Holder,
    reading: bool,
    members: Vec<LeaseRequest>,
    /// Those of its holders who were asked by what right, and had one: they are not asked again.
    authorize: Vec<Holder>,
    /// Its last connection went without a farewell: the lease is kept until then.
    kept_until: Option<Instant>,
    /// Somebody breaks it: no more connections.
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
        let gone = if self.members.is_empty() { ", which went without a farewell" } else { "" };
        format!("{}{how}{gone}", holders.join(", "))
    }
}

/// What became of a lease when a connection left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// Others go on, or it is kept for its holder.
    Goes,
    /// It has ended.
    Ended(Holder),
}

/// Ends a connection of the server, by its number; does not wait.
pub type Disconnect = Box<dyn Fn(u64) + Send + Sync>;

/// All leases of a service.
pub(super) struct Leases {
    held: Mutex<HashMap<VolumeId, Lease>>,
    /// Told when a connection leaves a lease.
    changed: Condvar,
    readers: Mutex<HashMap<SnapshotId, Readers>>,
    /// Told when a reader of a snapshot leaves.
    read: Condvar,
    disconnect: RwLock<Option<Disconnect>>,
    grace: Duration,
}

impl Leases {
    /// None yet. Clients over TLS that go without a farewell keep theirs for `grace`.
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

    /// Has connections of the server ended by `disconnect`.
    pub(super) fn set_disconnect(&self, disconnect: Disconnect) {
        *self.disconnect.write() = Some(disconnect);
    }

    fn hang_up(&self, connections: &[u64]) {
        if let Some(disconnect) = &*self.disconnect.read() {
            connections.iter().for_each(|c| disconnect(*c));
        }
    }

    /// Takes or joins a volume's lease. A connection in the same slot is closed first, and what it was applying waited for.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds it.
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
            let what = format!("volume {}: connection {held_up}, in the same slot, has not ended", record.shown());
            return Err(Error::new(Kind::Busy, what).hint("connect again"));
        }
        Ok(())
    }

    /// Closes connections and waits until they have left; else the one that has not.
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

    /// A connection has let go of its volume. `farewell`: the client said goodbye.
    pub(super) fn leave(&self, id: VolumeId, connection: u64, farewell: bool) -> Left {
        let mut held = self.held.lock();
        let Some(lease) = held.get_mut(&id) else { return Left::Goes };
        lease.members.retain(|m| m.connection != connection);
        self.changed.notify_all();
        if !lease.members.is_empty() {
            let Lease { members, authorize, .. } = lease;
            authorize.retain(|h| members.iter().any(|m| m.holder == *h));
            return Left::Goes;
        }
        if matches!(lease.holder, Holder::Remote(_)) && !lease.reading && !farewell && !lease.broken {
            lease.kept_until = Some(Instant::now() + self.grace);
            return Left::Goes;
        }
        held.remove(&id).map_or(Left::Goes, |lease| Left::Ended(lease.holder))
    }

    /// Keeps a volume for a holder that had it when an earlier server ended.
    pub(super) fn keep(&self, id: VolumeId, holder: Holder) {
        let kept_until = Some(Instant::now() + self.grace);
        let authorize = vec![holder.clone()];
        let lease = Lease { holder, reading: false, members: Vec::new(), authorize, kept_until, broken: false };
        self.held.lock().insert(id, lease);
    }

    /// A connection of this holder was asked by what right, and got its volume: the next ones are not asked. Whether it is the
    /// first.
    pub(super) fn authorize(&self, id: VolumeId, holder: &Holder) -> bool {
        let mut held = self.held.lock();
        let Some(lease) = held.get_mut(&id).filter(|l| !l.authorize.contains(holder)) else { return false };
        lease.authorize.push(holder.clone());
        true
    }

    /// Whether a connection of this holder was let in before. One that has only joined was not: it may yet be refused.
    pub(super) fn is_let_in(&self, id: VolumeId, holder: &Holder) -> bool {
        self.held.lock().get(&id).is_some_and(|l| l.authorize.contains(holder))
    }

    /// Who holds a volume, in words.
    pub(super) fn shown(&self, id: VolumeId) -> Option<String> {
        self.held.lock().get(&id).filter(|l| !l.has_lapsed()).map(Lease::shown)
    }

    /// Whether this very holder has it.
    pub(super) fn is_held_by(&self, id: VolumeId, holder: &Holder) -> bool {
        self.held.lock().get(&id).is_some_and(|l| !l.has_lapsed() && l.holder == *holder)
    }

    /// Takes a volume from whoever holds it: their connections are closed, and what they were applying is waited for. Who it
    /// was; `None`: nobody.
    ///
    /// # Errors
    /// [`Kind::Busy`] if a connection does not end.
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
            Error::new(Kind::Busy, format!("volume {}: its connection {c} has not ended", record.shown()))
                .hint("what it is applying takes long; try again")
        })?;
        Ok(Some(shown))
    }
}

/// Who reads a snapshot: nobody has a lease on it, but they can be sent away.
#[derive(Default)]
struct Readers {
    /// Numbers of their connections, and who they are.
    all: Vec<(u64, Holder)>,
    /// Somebody sends them away: no more come.
    broken: bool,
}

impl Leases {
    /// A connection begins to read a snapshot.
    ///
    /// # Errors
    /// [`Kind::Busy`] while its readers are sent away.
    pub(super) fn join_readers(&self, snapshot: SnapshotId, connection: u64, holder: Holder) -> Result<()> {
        let mut readers = self.readers.lock();
        let readers = readers.entry(snapshot).or_default();
        if readers.broken {
            return Err(Error::new(Kind::Busy, format!("snapshot {snapshot} is being taken from its readers"))
                .hint("open it again"));
        }
        readers.all.push((connection, holder));
        Ok(())
    }

    /// It has let go of the snapshot.
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

    /// Who reads a snapshot, in words.
    pub(super) fn readers_shown(&self, snapshot: SnapshotId) -> Option<String> {
        let readers = self.readers.lock();
        let mut shown: Vec<String> = readers.get(&snapshot)?.all.iter().map(|(_, holder)| holder.to_string()).collect();
        shown.sort();
        shown.dedup();
        (!shown.is_empty()).then(|| shown.join(", "))
    }

    /// Closes the connections of all who read a snapshot, and waits until they have let go of it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if one does not end.
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
                let what = format!("snapshot {snapshot}: its connection {connection} has not ended");
                Err(Error::new(Kind::Busy, what).hint("what it is reading takes long; try again"))
            }
        }
    }
}

/// The error for a volume that somebody else holds.
pub(super) fn busy(record: &VolumeRecord, holder: &str) -> Error {
    Error::new(Kind::Busy, format!("volume {} is held by {holder}", record.shown()))
        .hint("`coffer detach` it; a client that was not attached must end, or `coffer detach --force` takes it away")
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
