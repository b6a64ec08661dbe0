//! Whether a read or write may block, and its result: types shared by the volume and the servers above it.

/// Whether an operation may block its caller's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// Return [`Attempt::WouldBlock`] rather than wait for a disk, a fetch or another writer.
    Never,
    /// Wait as long as it takes.
    Allowed,
}

/// The result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Attempt {
    /// Completed.
    Done,
    /// It would have had to wait; nothing was changed.
    WouldBlock,
    /// Its data key is unavailable; nothing was changed. Retry when the key is back.
    KeyAway,
}

/// Size limit of a piece, in bytes. A write inside one aligned piece is all or nothing if the key becomes unavailable.
pub const PIECE: u64 = 256 * 1024;
