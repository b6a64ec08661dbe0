//! What became of a request.

use super::budget::Buf;
use super::request::{Op, Request};
use crate::error::Kind;

/// Why a request failed, as its client hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Done {
    /// The request as it was put; of one in parts, the whole.
    pub request: Request,
    /// What came of it.
    pub outcome: Result<(), Failure>,
    /// What was read.
    pub data: Data,
}

/// The bytes of a READ.
#[derive(Debug)]
pub enum Data {
    /// There are none.
    None,
    /// All of them.
    Whole(Buf),
    /// All of them, in order.
    Parts(Vec<Buf>),
}

impl Done {
    /// The end of a request whose buffer, if it has one, is `buf`.
    pub(super) fn new(request: &Request, outcome: Result<(), Failure>, buf: Option<Buf>) -> Self {
        let read = buf.filter(|_| request.op == Op::Read && outcome.is_ok());
        Self { request: *request, outcome, data: read.map_or(Data::None, Data::Whole) }
    }
}
