//! The results of requests.

use super::budget::Buf;
use super::request::{Op, Request};
use crate::error::Kind;

/// The failure of a request, as told to its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of the error.
    pub kind: Kind,
    /// The message.
    pub text: String,
}

/// A completed request.
#[derive(Debug)]
pub struct Done {
    /// The request as submitted; for one in parts, the whole.
    pub request: Request,
    /// Its result.
    pub outcome: Result<(), Failure>,
    /// The bytes read.
    pub data: Data,
}

/// The bytes of a READ.
#[derive(Debug)]
pub enum Data {
    /// No data.
    None,
    /// All of it.
    Whole(Buf),
    /// All of it, in order.
    Parts(Vec<Buf>),
}

impl Done {
    /// Makes the result of a request whose buffer, if it has one, is `buf`.
    pub(super) fn new(request: &Request, outcome: Result<(), Failure>, buf: Option<Buf>) -> Self {
        let read = buf.filter(|_| request.op == Op::Read && outcome.is_ok());
        Self { request: *request, outcome, data: read.map_or(Data::None, Data::Whole) }
    }
}
