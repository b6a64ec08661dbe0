//! The factory of stores: finds them by volume id, so that no layer above knows where or how they are kept.

use super::{BlockStore, SpillSpace};
use crate::env::Timestamp;
use crate::error::Result;
use crate::units::VolumeId;
use std::ffi::OsString;
use std::sync::Arc;

/// The purpose of opening a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading, shared with other readers.
    Read,
    /// Reading and writing, exclusively.
    Write,
}

/// The size of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can be read.
    pub size: u64,
    /// Bytes allocated, if known.
    pub taken: Option<u64>,
}

/// A store, or an object among the stores that could be mistaken for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The factory's handle for it.
    pub key: OsString,
    /// Its name, for messages.
    pub name: String,
    /// Its full location, for people who have to find it.
    pub place: String,
    /// The volume that its name refers to.
    pub named: Option<VolumeId>,
    /// Whether [`Stores::open`] opens it for that volume.
    pub published: bool,
}

/// Creates, opens, lists and removes stores.
pub trait Stores: SpillSpace {
    /// Creates a store of `size` bytes that reads as zeros, lets `fill` write into it, makes it durable and publishes
    /// it. It cannot be opened before that. A failure leaves at most remnants, which [`Stores::remove`] removes.
    ///
    /// # Errors
    /// [`Kind::Exists`](crate::error::Kind::Exists) if the volume has a store, which stays as it is;
    /// [`Kind::NoSpace`](crate::error::Kind::NoSpace) if there is no room for one of that size; what `fill` returns.
    fn create(&self, id: VolumeId, size: u64, fill: &mut dyn FnMut(&dyn BlockStore) -> Result<()>) -> Result<()>;

    /// Opens a volume's store and locks it against other processes and handles: one writer, or any number of readers.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound) if it has none; [`Kind::Busy`](crate::error::Kind::Busy) while
    /// others hold it; [`Kind::Unsupported`](crate::error::Kind::Unsupported) where a lock does not exclude other
    /// hosts.
    fn open(&self, id: VolumeId, access: Access) -> Result<Arc<dyn BlockStore>>;

    /// Removes a volume's store, durably, with its spill and remnants of an interrupted create. A missing store is not an
    /// error.
    ///
    /// # Errors
    /// What the operating system reports.
    fn remove(&self, id: VolumeId) -> Result<()>;

    /// Whether the volume has a store, or remnants of one.
    fn has_any(&self, id: VolumeId) -> bool;

    /// Returns the size of a volume's store. Opens nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound) if it has none.
    fn room(&self, id: VolumeId) -> Result<Room>;

    /// Returns the location of a volume's store, whether or not it exists, for people.
    fn place(&self, id: VolumeId) -> String;

    /// Lists everything among the stores except spills: published ones, remnants, foreign objects.
    ///
    /// # Errors
    /// What the operating system reports.
    fn list(&self) -> Result<Vec<Found>>;

    /// Returns when an entry was last added, renamed or removed. `None`: unknown.
    fn changed(&self) -> Option<Timestamp>;

    /// Reads from an entry that [`Stores::list`] returned. Takes no lock, and waits only for the disk.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::error::Kind::Integrity) if it cannot be a store, such as a FIFO.
    fn peek(&self, found: &Found, out: &mut [u8], offset: u64) -> Result<()>;
}
