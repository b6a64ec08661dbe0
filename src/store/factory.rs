//! The factory of stores: it finds them by volume id, so that no layer above knows where or in what they are kept.

use super::{BlockStore, ScratchSpace};
use crate::env::Timestamp;
use crate::error::Result;
use crate::units::VolumeId;
use std::ffi::OsString;
use std::sync::Arc;

/// What a store is opened for.
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
    /// Bytes that it occupies, where that is known.
    pub taken: Option<u64>,
}

/// A store, or something among the stores that could be mistaken for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the factory knows it by.
    pub key: OsString,
    /// Its name, for messages.
    pub name: String,
    /// Its full location, for a person who has to find it.
    pub place: String,
    /// The volume that its name refers to.
    pub named: Option<VolumeId>,
    /// Whether [`Stores::open`] opens this one for that volume.
    pub published: bool,
}

/// Makes, opens, lists and removes stores.
pub trait Stores: ScratchSpace {
    /// Makes a store of `size` bytes that reads as zeros, lets `fill` write into it, makes it durable and publishes it. Until
    /// then it cannot be opened. A failure leaves at most remains, which [`Stores::remove`] removes.
    ///
    /// # Errors
    /// [`Kind::Exists`](crate::error::Kind::Exists) if the volume has a store, which stays as it is;
    /// [`Kind::NoSpace`](crate::error::Kind::NoSpace) if there is no room for one of that size; what `fill` returns.
    fn create(&self, id: VolumeId, size: u64, fill: &mut dyn FnMut(&dyn BlockStore) -> Result<()>) -> Result<()>;

    /// Opens a volume's store and locks it against other processes and handles: one writer, or any number of readers.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound); [`Kind::Busy`](crate::error::Kind::Busy) while others hold it;
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) where a lock does not keep other hosts out.
    fn open(&self, id: VolumeId, access: Access) -> Result<Arc<dyn BlockStore>>;

    /// Removes a volume's store, durably, and the remains of an interrupted create. A missing store is not an error.
    ///
    /// # Errors
    /// What the operating system reports.
    fn remove(&self, id: VolumeId) -> Result<()>;

    /// Whether the volume has a store, or remains of one.
    fn has_any(&self, id: VolumeId) -> bool;

    /// How large a volume's store is. Opens nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound).
    fn room(&self, id: VolumeId) -> Result<Room>;

    /// The location of a volume's store, whether or not there is one, for a person.
    fn place(&self, id: VolumeId) -> String;

    /// Everything among the stores: published ones, remains, strangers.
    ///
    /// # Errors
    /// What the operating system reports.
    fn list(&self) -> Result<Vec<Found>>;

    /// When something was last added, renamed or removed. `None`: unknown.
    fn changed(&self) -> Option<Timestamp>;

    /// Reads from something that [`Stores::list`] returned. Takes no lock, and waits for the disk only.
    ///
    /// # Errors
    /// [`Kind::Integrity`](crate::error::Kind::Integrity) if it cannot be a store, such as a FIFO.
    fn peek(&self, found: &Found, out: &mut [u8], offset: u64) -> Result<()>;
}
