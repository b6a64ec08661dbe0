//! Requests, independent of the front end.

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Makes durable what was acknowledged.
    Flush,
    /// Discards a range.
    Trim,
    /// Prefetches a range.
    Cache,
    /// Writes zeroes.
    WriteZeroes,
    /// Asks something about the device that only the front end understands ([`super::Front::query`]).
    Query,
}

/// A request inside the device's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// The operation.
    pub op: Op,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes; may be 0. At most 32 MiB if it has a payload.
    pub len: u64,
    /// Durable before it completes.
    pub fua: bool,
    /// Keep the space allocated ([`Op::WriteZeroes`] only).
    pub no_hole: bool,
    /// Only if it is faster than writing ([`Op::WriteZeroes`] only).
    pub fast: bool,
    /// The front end's own data.
    pub tag: Tag,
}

/// Opaque data that a front end gets back with the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tag {
    /// Such as the client's id of the request.
    pub id: u64,
    /// Such as a set.
    pub set: u64,
    /// Such as the format of the reply.
    pub flags: u32,
}

impl Request {
    /// Makes a request without flags.
    #[must_use]
    pub const fn new(op: Op, offset: u64, len: u64) -> Self {
        let tag = Tag { id: 0, set: 0, flags: 0 };
        Self { op, offset, len, fua: false, no_hole: false, fast: false, tag }
    }

    /// Whether it has a payload buffer.
    #[must_use]
    pub const fn carries(&self) -> bool {
        self.len > 0 && matches!(self.op, Op::Read | Op::Write)
    }

    /// Whether it changes the volume's contents.
    #[must_use]
    pub const fn changes(&self) -> bool {
        self.len > 0 && matches!(self.op, Op::Write | Op::WriteZeroes | Op::Trim)
    }
}
