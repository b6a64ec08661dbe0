//! A request as every front end puts it.

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Data out.
    Read,
    /// Data in.
    Write,
    /// Make durable what was acknowledged.
    Flush,
    /// Discard.
    Trim,
    /// Prefetch.
    Cache,
    /// Zero.
    WriteZeroes,
    /// A question about the device that only the front end understands ([`super::Front::query`]).
    Query,
}

/// A request inside the device's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// What it asks for.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Bytes; may be 0. At most 32 MiB where they are carried.
    pub len: u64,
    /// Durable before it completes.
    pub fua: bool,
    /// Keep the space allocated ([`Op::WriteZeroes`] only).
    pub no_hole: bool,
    /// Only if it is faster than writing ([`Op::WriteZeroes`] only).
    pub fast: bool,
    /// The front end's own.
    pub tag: Tag,
}

/// What a front end gets back with the outcome. The engine does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tag {
    /// As the client's name for the request.
    pub id: u64,
    /// As a set.
    pub set: u64,
    /// As how the reply is to look.
    pub flags: u32,
}

impl Request {
    /// A request of that kind, without any flag.
    #[must_use]
    pub const fn new(op: Op, offset: u64, len: u64) -> Self {
        let tag = Tag { id: 0, set: 0, flags: 0 };
        Self { op, offset, len, fua: false, no_hole: false, fast: false, tag }
    }

    /// Whether it comes with a buffer.
    #[must_use]
    pub const fn carries(&self) -> bool {
        self.len > 0 && matches!(self.op, Op::Read | Op::Write)
    }

    /// Whether it changes what the volume holds.
    #[must_use]
    pub const fn changes(&self) -> bool {
        self.len > 0 && matches!(self.op, Op::Write | Op::WriteZeroes | Op::Trim)
    }
}
