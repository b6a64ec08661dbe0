//! Data queued for sending, without a copy of what was read.

use super::reply::Head;
use crate::engine::Buf;
use std::ops::Range;

/// An entry of the send queue.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Handshake bytes, or a reply without a READ's data.
    Bytes(Vec<u8>),
    /// A reply of one chunk, with a READ's data.
    Reply { head: Head, body: Option<Buf> },
    /// A reply of one chunk, with a READ's data in several buffers.
    Pieces { head: Head, bodies: Vec<Buf> },
    /// A READ's data in several chunks: each has a header, and a range of the buffer, which may be empty.
    Chunks { chunks: Vec<(Head, Range<usize>)>, body: Buf },
}

impl Outgoing {
    /// Returns its slices, in order; `None` after the last.
    fn part(&self, i: usize) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => (i == 0).then_some(bytes),
            Self::Reply { head, .. } if i == 0 => Some(head),
            Self::Reply { body, .. } => body.as_deref().filter(|_| i == 1),
            Self::Pieces { head, .. } if i == 0 => Some(head),
            Self::Pieces { bodies, .. } => bodies.get(i - 1).map(|b| &**b),
            Self::Chunks { chunks, body } => {
                let (head, range) = chunks.get(i / 2)?;
                Some(if i.is_multiple_of(2) { head } else { &body[range.clone()] })
            }
        }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|i| self.part(i))
    }

    /// Returns its length on the wire, in bytes.
    pub(super) fn len(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }
}
