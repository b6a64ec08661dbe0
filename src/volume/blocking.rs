//! How far a read or write may go, and how far it got: words that the volume and the servers above it share.

/// How far an operation may go on its caller's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// Answer [`Attempt::WouldBlock`] rather than wait for a disk, a fetch or another writer.
    Never,
    /// Wait for whatever it takes.
    Allowed,
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Attempt {
    /// It is done.
    Done,
    /// It would have had to wait; nothing was changed.
    WouldBlock,
    /// Its data key is away; nothing was changed, and it is to be tried again when the key is back.
    KeyAway,
}

/// Bytes of the largest piece. A write inside one aligned piece is all or nothing when the key is not at hand.
pub const PIECE: u64 = 256 * 1024;
